/* What the kernel loaders' targets share: one kernel file, booted twice into 32 MiB. */
#pragma once

#include "machine/boot.h"
#include "machine/memmap.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	FUZZ_RAM = 32 << 20,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void fuzz_boot(const uint8_t *data, size_t size)
{
	static struct gmem ram;
	static struct cpu_state s;
	const struct boot_board board = {
		.e820 = { { 0, MEMMAP_EBDA, BOOT_E820_RAM },
			  { MEMMAP_ACPI, MEMMAP_ACPI_LEN, BOOT_E820_RESERVED },
			  { MEMMAP_1M, FUZZ_RAM - MEMMAP_1M, BOOT_E820_RAM } },
		.ne820 = 3,
		.low_end = FUZZ_RAM,
	};
	char path[32];
	struct boot *b;
	struct err e;

	if (!ram.n) {
		gmem_init(&ram);
		if (gmem_add(&ram, "ram", 0, FUZZ_RAM, -1, 0, false, &e) < 0)
			__builtin_trap();
	}
	int fd = memfd_create("kernel", 0);
	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		__builtin_trap();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	/* The kernel's own bytes serve as an initrd too. */
	const struct boot_opts o = {
		.kernel = path,
		.initrd = size & 1 ? path : NULL,
		.append = "console=ttyS0",
		.board = &board,
		.gmem = &ram,
	};
	if (boot_open(&b, &o, &e) >= 0) {
		for (int i = 0; i < 2; i++) {
			cpu_state_reset(&s, true, 0);
			if (boot_place(b, &ram, &s, &e) < 0 || s.rip >= MEMMAP_HIGH)
				__builtin_trap();
		}
		boot_close(b);
	}
	close(fd);
}
