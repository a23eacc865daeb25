/*
 * Boot loaders: what takes the place of firmware and bootloader when a kernel is given.
 *
 * A loader looks at the kernel's first bytes, checks the whole header and works out where all goes
 * (open), and puts it there, with the boot CPU's registers, at every reset (place).  Files stay
 * open and are read again each time, straight into guest RAM: a kernel costs no memory of ours, and
 * a guest that reboots gets what was started, even when the name points elsewhere by then.
 *
 * What a loader leaves in the first MiB:
 *
 *	0x0500	GDT			0x1000	start info (PVH)	0x7000	zero page (Linux)
 *	0x9000	page tables, 24 KiB	0x20000	command line, 64 KiB
 *	0x9fc00	EBDA (reserved)		0xe0000	ACPI tables (the board's, reserved)
 *
 * A file is untrusted input: every number from it is checked against the file and RAM before use.
 */
#pragma once

#include "base/err.h"
#include "cpu/cpu_state.h"
#include "mem/gmem.h"

enum {
	BOOT_GDT = 0x500,
	BOOT_START_INFO = 0x1000,
	BOOT_ZERO_PAGE = 0x7000,
	BOOT_PAGE_TABLES = 0x9000,
	BOOT_CMDLINE = 0x20000,
	BOOT_CMDLINE_MAX = 0x10000,
	BOOT_LOW_END = BOOT_CMDLINE + BOOT_CMDLINE_MAX,
	/* How much of a kernel a loader sees before it decides. */
	BOOT_HEAD = 4096,
	BOOT_E820_MAX = 16,
	BOOT_SEGMENTS = 64,
};

enum boot_e820 {
	BOOT_E820_RAM = 1,
	BOOT_E820_RESERVED = 2,
};

struct boot_range {
	uint64_t base, len;
	uint32_t type;
};

/* What the board tells the kernel. */
struct boot_board {
	/* Sorted, not overlapping. */
	struct boot_range e820[BOOT_E820_MAX];
	unsigned ne820;
	uint64_t rsdp_gpa;
	/* End of RAM below 4 GiB. */
	uint64_t low_end;
};

struct boot_file {
	/* -1: not given. */
	int fd;
	uint64_t len;
	/* Borrowed. */
	const char *name;
};

/* A piece of a file that goes to RAM; what is longer than the file's part is zero. */
struct boot_segment {
	uint64_t gpa, off, file_len, mem_len;
};

struct boot;

struct boot_loader {
	const char *name;
	/* Is it one of this kind?  Looks at b->head only. */
	bool (*probe)(const struct boot *b);
	/* Checks all; fills in segments, entry and where the initrd may lie. */
	int (*plan)(struct boot *b, struct err *e);
	/* Writes its structures and the registers; segments, initrd and command line are placed. */
	int (*enter)(struct boot *b, const struct gmem *m, struct cpu_state *s, struct err *e);
};

struct boot {
	const struct boot_loader *loader;
	struct boot_board board;
	struct boot_file kernel, initrd;
	char *cmdline;
	uint8_t *head;
	size_t head_len;
	/* The plan. */
	struct boot_segment seg[BOOT_SEGMENTS];
	unsigned nseg;
	uint64_t entry;
	/* The kernel needs [kernel_gpa, kernel_end), more than its segments say. */
	uint64_t kernel_gpa, kernel_end;
	/* The initrd's last byte lies at or below; it is placed as high as this lets it. */
	uint64_t initrd_max, initrd_gpa;
	uint32_t cmdline_max;
	bool entry64;
};

/* Every loader there is, in the order in which they are asked; NULL ends it. */
extern const struct boot_loader *const boot_loaders[];

struct boot_opts {
	/* initrd and append may be NULL. */
	const char *kernel, *initrd, *append;
	const struct boot_board *board;
	const struct gmem *gmem;
};

/* Opens the files and makes the plan; all that can be refused is refused here. */
NODISCARD int boot_open(struct boot **ret, const struct boot_opts *o, struct err *e);
void boot_close(struct boot *b);
/* Fill RAM and *s (a boot CPU after reset).  A file that shrank meanwhile: -EIO. */
NODISCARD int boot_place(struct boot *b, const struct gmem *m, struct cpu_state *s, struct err *e);

/* For loaders. */

/* Add a segment; -ENOEXEC when it is outside the file, outside RAM, or over what the loaders use.
 */
NODISCARD int boot_add_segment(struct boot *b, const struct boot_segment *seg, struct err *e);
/* Flat segments and long mode with the first 4 GiB mapped one to one, or protected mode. */
NODISCARD int boot_enter64(const struct boot *b, const struct gmem *m, struct cpu_state *s);
NODISCARD int boot_enter32(const struct boot *b, const struct gmem *m, struct cpu_state *s);
/* Linux's zero page for `head` (its setup header, may be NULL) at BOOT_ZERO_PAGE. */
NODISCARD int boot_zero_page(const struct boot *b, const struct gmem *m, const uint8_t *header,
			     size_t header_len);
