/*
 * machine/boot.c, linux.c, elf.c: where a kernel lands, what it is told, and what is refused: every
 * truncation and thousands of random corruptions of good kernels end in an error or in a boot that
 * stays inside RAM.
 */
#include "lib/t.h"
#include "base/bytes.h"
#include "base/file.h"
#include "base/num.h"
#include "machine/boot.h"
#include "machine/memmap.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	RAM = 64 << 20,
	SETUP = 3 * 512,
	BODY = 5000,
	KERNEL = SETUP + BODY,
	ENTRY = 0x1000000,
};

static struct gmem ram;
static struct boot_board board;

static int setup(void **state)
{
	struct err e;

	gmem_init(&ram);
	assert_true(gmem_add(&ram, "ram", 0, RAM, -1, 0, false, &e) >= 0);
	board = (struct boot_board){
		.e820 = { { 0, MEMMAP_EBDA, BOOT_E820_RAM },
			  { MEMMAP_ACPI, MEMMAP_ACPI_LEN, BOOT_E820_RESERVED },
			  { MEMMAP_1M, RAM - MEMMAP_1M, BOOT_E820_RAM } },
		.ne820 = 3,
		.rsdp_gpa = MEMMAP_ACPI,
		.low_end = RAM,
	};
	return 0;
}

static int teardown(void **state)
{
	gmem_fini(&ram);
	return 0;
}

/* A file in memory; *ret_path is good while it is open. */
static int file_of(const void *p, size_t len, char path[32])
{
	int fd = memfd_create("test", 0);

	assert_int_equal(file_write_full(fd, p, len), 0);
	snprintf(path, 32, "/proc/self/fd/%d", fd);
	return fd;
}

static int try_boot(const void *kernel, size_t len, size_t initrd_len, const char *append,
		    struct cpu_state *s, struct err *e)
{
	char kpath[32], ipath[32];
	int kfd = file_of(kernel, len, kpath), ifd = -1;
	static uint8_t initrd[1 << 20];
	struct boot *b;

	memset(initrd, 0x1d, sizeof(initrd));
	if (initrd_len)
		ifd = file_of(initrd, initrd_len, ipath);
	const struct boot_opts o = {
		.kernel = kpath,
		.initrd = initrd_len ? ipath : NULL,
		.append = append,
		.board = &board,
		.gmem = &ram,
	};
	int rc = boot_open(&b, &o, e);
	if (rc >= 0) {
		cpu_state_reset(s, true, 0);
		rc = boot_place(b, &ram, s, e);
		boot_close(b);
	}
	close(kfd);
	if (ifd >= 0)
		close(ifd);
	return rc;
}

/* Protocol 2.15, relocatable, 64-bit entry. */
static void make_linux(uint8_t k[KERNEL])
{
	memset(k, 0, KERNEL);
	k[0x1f1] = SETUP / 512 - 1;
	st_le16(k + 0x1fe, 0xaa55);
	k[0x201] = 0x6a;
	memcpy(k + 0x202, "HdrS", 4);
	st_le16(k + 0x206, 0x20f);
	k[0x211] = 1;
	st_le32(k + 0x22c, 0x7fffffff);
	st_le32(k + 0x230, 0x200000);
	k[0x234] = 1;
	st_le16(k + 0x236, 1);
	st_le32(k + 0x238, 2047);
	st_le64(k + 0x258, ENTRY);
	st_le32(k + 0x260, 0x800000);
	for (unsigned i = 0; i < BODY; i++)
		k[SETUP + i] = (uint8_t)(i * 7);
}

static void test_linux(void **state)
{
	uint8_t k[KERNEL], got[BODY], *z;
	struct cpu_state s;
	struct err e;

	make_linux(k);
	assert_int_equal(try_boot(k, KERNEL, 300000, "console=ttyS0", &s, &e), 0);
	assert_int_equal(gmem_read(&ram, ENTRY, got, BODY), 0);
	assert_memory_equal(got, k + SETUP, BODY);
	z = gmem_at(&ram, BOOT_ZERO_PAGE, 4096);
	assert_memory_equal(z + 0x202, k + 0x202, 4);
	assert_int_equal(z[0x210], 0xff);
	assert_string_equal(gmem_at(&ram, ld_le32(z + 0x228), 100), "console=ttyS0");
	uint32_t initrd = ld_le32(z + 0x218);
	assert_int_equal(ld_le32(z + 0x21c), 300000);
	assert_int_equal(initrd % 4096, 0);
	/* As high as it goes: not a page of room above. */
	assert_in_range(initrd + 300000, RAM - 4095, RAM);
	assert_int_equal(*(uint8_t *)gmem_at(&ram, initrd + 299999, 1), 0x1d);
	assert_int_equal(ld_le64(z + 0x70), MEMMAP_ACPI);
	assert_int_equal(z[0x1e8], 3);
	assert_int_equal(ld_le64(z + 0x2d0 + 40), MEMMAP_1M);
	assert_int_equal(ld_le64(z + 0x2d0 + 48), RAM - MEMMAP_1M);
	assert_int_equal(ld_le32(z + 0x2d0 + 20 + 16), BOOT_E820_RESERVED);
	/* The 64-bit entry (boot.rst): long mode, identity mapped, RSI at the zero page. */
	assert_int_equal(s.rip, ENTRY + 0x200);
	assert_int_equal(s.gpr[X86_RSI], BOOT_ZERO_PAGE);
	assert_true(s.efer & X86_EFER_LMA);
	assert_int_equal(s.seg[X86_CS].sel, 0x10);
	assert_true(s.seg[X86_CS].attr & SEG_L);
	assert_false(s.rflags & X86_FL_IF);
	const uint64_t *pml4 = gmem_at(&ram, s.cr3, 4096);
	const uint64_t *pdpt = gmem_at(&ram, pml4[0] & ~0xfffull, 4096);
	for (uint64_t a = 0; a < GIB(4); a += MIB(2)) {
		const uint64_t *pd = gmem_at(&ram, pdpt[a >> 30] & ~0xfffull, 4096);

		assert_int_equal(pd[a >> 21 & 511], a | X86_PTE_P | X86_PTE_W | X86_PTE_PS);
	}
}

static void test_linux_32(void **state)
{
	uint8_t k[KERNEL];
	struct cpu_state s;
	struct err e;

	make_linux(k);
	st_le16(k + 0x236, 0);
	assert_int_equal(try_boot(k, KERNEL, 0, NULL, &s, &e), 0);
	assert_int_equal(s.rip, ENTRY);
	assert_int_equal(s.cr0, X86_CR0_PE | X86_CR0_ET);
	assert_true(s.seg[X86_CS].attr & SEG_DB);
	assert_int_equal(s.seg[X86_DS].sel, 0x18);
	/* Without an initrd the kernel is told so. */
	assert_int_equal(ld_le32((uint8_t *)gmem_at(&ram, BOOT_ZERO_PAGE, 4096) + 0x21c), 0);
	/* Protocol 2.09, not relocatable: at 1 MiB. */
	st_le16(k + 0x206, 0x209);
	k[0x234] = 0;
	assert_int_equal(try_boot(k, KERNEL, 0, NULL, &s, &e), 0);
	assert_int_equal(s.rip, MEMMAP_1M);
}

static void refuse(const uint8_t *k, size_t len, size_t initrd, const char *append,
		   const char *text)
{
	struct cpu_state s;
	struct err e = { 0 };

	assert_true(try_boot(k, len, initrd, append, &s, &e) < 0);
	if (!strstr(e.msg, text))
		fail_msg("said '%s', not '%s'", e.msg, text);
}

static void test_linux_refused(void **state)
{
	uint8_t k[KERNEL];
	char longline[3000];

	make_linux(k);
	memset(longline, 'a', sizeof(longline));
	longline[2999] = 0;
	refuse(k, KERNEL, 0, longline, "takes 2047");
	refuse(k, SETUP, 0, NULL, "truncated");
	refuse(k, 0x200, 0, NULL, "neither a Linux bzImage nor an x86 ELF");
	refuse((const uint8_t *)"#!/bin/sh\n", 10, 0, NULL, "neither");
	st_le32(k + 0x260, 0x4000000);
	refuse(k, KERNEL, 0, NULL, "needs 80 MiB of memory: try more --memory");
	st_le32(k + 0x260, 0xffffffff);
	refuse(k, KERNEL, 0, NULL, "try more --memory");
	/* 0x2ff8000 leaves 32 KiB for an initrd. */
	st_le32(k + 0x260, RAM - ENTRY - 0x8000);
	refuse(k, KERNEL, 0x9000, NULL, "does not fit in memory beside the kernel");
	make_linux(k);
	st_le32(k + 0x22c, ENTRY);
	refuse(k, KERNEL, 4096, NULL, "does not fit in memory beside the kernel");
	make_linux(k);
	k[0x211] = 0;
	refuse(k, KERNEL, 0, NULL, "zImage");
	make_linux(k);
	st_le16(k + 0x206, 0x205);
	refuse(k, KERNEL, 0, NULL, "2.05 is older");
	make_linux(k);
	st_le32(k + 0x230, 0x200001);
	refuse(k, KERNEL, 0, NULL, "alignment");
	make_linux(k);
	k[0x234] = 0;
	st_le64(k + 0x258, 0x7000);
	refuse(k, KERNEL, 0, NULL, "wants to lie at 0x7000");
	st_le64(k + 0x258, UINT64_MAX - 100);
	refuse(k, KERNEL, 0, NULL, "does not fit in memory at");
}

static void test_no_file(void **state)
{
	const struct boot_opts o = { .kernel = "/nonexistent/vmlinuz", .board = &board };
	const struct boot_opts d = { .kernel = "/tmp", .board = &board };
	struct boot *b;
	struct err e;

	assert_int_equal(boot_open(&b, &o, &e), -ENOENT);
	assert_string_equal(e.msg, "kernel: cannot open '/nonexistent/vmlinuz': No such file or "
				   "directory");
	assert_int_equal(boot_open(&b, &d, &e), -EISDIR);
}

/* A kernel that comes through a pipe is kept. */
static void test_pipe(void **state)
{
	uint8_t k[KERNEL];
	char path[32];
	int p[2];
	struct boot *b;
	struct cpu_state s;
	struct err e;

	make_linux(k);
	assert_int_equal(pipe(p), 0);
	assert_int_equal(file_write_full(p[1], k, KERNEL), 0);
	close(p[1]);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", p[0]);
	const struct boot_opts o = { .kernel = path, .board = &board };
	assert_int_equal(boot_open(&b, &o, &e), 0);
	for (int i = 0; i < 2; i++) {
		uint8_t got[BODY];

		memset(gmem_at_w(&ram, ENTRY, BODY), 0, BODY);
		assert_int_equal(boot_place(b, &ram, &s, &e), 0);
		assert_int_equal(gmem_read(&ram, ENTRY, got, BODY), 0);
		assert_memory_equal(got, k + SETUP, BODY);
	}
	boot_close(b);
	close(p[0]);
}

static void test_shrunk(void **state)
{
	uint8_t k[KERNEL];
	char path[32];
	struct cpu_state s;
	struct boot *b;
	struct err e;

	make_linux(k);
	int fd = file_of(k, KERNEL, path);
	const struct boot_opts o = { .kernel = path, .board = &board };
	assert_int_equal(boot_open(&b, &o, &e), 0);
	assert_int_equal(ftruncate(fd, KERNEL - 1), 0);
	assert_int_equal(boot_place(b, &ram, &s, &e), -EIO);
	boot_close(b);
	close(fd);
}

enum {
	ELF_LEN = 4096,
};

/* Two segments (the second with bss), linked high, and a PVH note when entry32 is not 0. */
static void make_elf64(uint8_t k[ELF_LEN], uint32_t entry32)
{
	const Elf64_Ehdr eh = {
		.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, 1 },
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_entry = 0xffffffff80200010ull,
		.e_phoff = 64,
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 3,
	};
	const Elf64_Phdr ph[] = {
		{ PT_LOAD, 5, 0x400, 0xffffffff80200000ull, 0x200000, 0x100, 0x100, 4096 },
		{ PT_LOAD, 6, 0x500, 0xffffffff80201000ull, 0x201000, 0x80, 0x2000, 4096 },
		{ PT_NOTE, 4, 0x300, 0, 0, 40, 40, 4 },
	};
	const uint32_t notes[10] = {
		4, 4, 1, 0x6e6558, 7, 4, 4, entry32 ? 18 : 3, 0x6e6558, entry32
	};

	for (unsigned i = 0; i < ELF_LEN; i++)
		k[i] = (uint8_t)(i * 3);
	memcpy(k, &eh, sizeof(eh));
	memcpy(k + 64, ph, sizeof(ph));
	memcpy(k + 0x300, notes, sizeof(notes));
}

static void test_elf(void **state)
{
	uint8_t k[ELF_LEN], got[0x2000];
	struct cpu_state s;
	struct err e;

	make_elf64(k, 0);
	memset(gmem_at_w(&ram, 0x201000, 0x2000), 0xee, 0x2000);
	assert_int_equal(try_boot(k, ELF_LEN, 1000, "x", &s, &e), 0);
	assert_int_equal(gmem_read(&ram, 0x200000, got, 0x100), 0);
	assert_memory_equal(got, k + 0x400, 0x100);
	assert_int_equal(gmem_read(&ram, 0x201000, got, 0x2000), 0);
	assert_memory_equal(got, k + 0x500, 0x80);
	for (unsigned i = 0x80; i < 0x2000; i++)
		assert_int_equal(got[i], 0);
	assert_int_equal(s.rip, 0x200010);
	assert_true(s.efer & X86_EFER_LMA);
	assert_int_equal(s.gpr[X86_RSI], BOOT_ZERO_PAGE);
}

static void test_pvh(void **state)
{
	uint8_t k[ELF_LEN];
	struct cpu_state s;
	struct err e;

	make_elf64(k, 0x200040);
	assert_int_equal(try_boot(k, ELF_LEN, 5000, "pvh line", &s, &e), 0);
	assert_int_equal(s.rip, 0x200040);
	assert_int_equal(s.cr0, X86_CR0_PE | X86_CR0_ET);
	const uint8_t *p = gmem_at(&ram, s.gpr[X86_RBX], 56);
	assert_int_equal(ld_le32(p), 0x336ec578);
	assert_int_equal(ld_le32(p + 4), 1);
	assert_int_equal(ld_le32(p + 12), 1);
	const uint8_t *mod = gmem_at(&ram, ld_le64(p + 16), 32);
	assert_int_equal(ld_le64(mod + 8), 5000);
	assert_int_equal(*(uint8_t *)gmem_at(&ram, ld_le64(mod) + 4999, 1), 0x1d);
	assert_string_equal(gmem_at(&ram, ld_le64(p + 24), 20), "pvh line");
	assert_int_equal(ld_le64(p + 32), MEMMAP_ACPI);
	assert_int_equal(ld_le32(p + 48), 3);
	const uint8_t *map = gmem_at(&ram, ld_le64(p + 40), 72);
	assert_int_equal(ld_le64(map + 48), MEMMAP_1M);
	assert_int_equal(ld_le32(map + 24 + 16), BOOT_E820_RESERVED);
}

/* A note that reaches past the end of the notes is none. */
static void test_pvh_bad_note(void **state)
{
	static const struct {
		unsigned at;
		uint32_t v;
	} bad[] = { { 24, 8 }, { 24, UINT32_MAX }, { 20, UINT32_MAX - 2 }, { 0, UINT32_MAX } };
	uint8_t k[ELF_LEN];
	struct cpu_state s;
	struct err e;

	for (size_t i = 0; i < COUNT_OF(bad); i++) {
		make_elf64(k, 0x200040);
		st_le32(k + 0x300 + bad[i].at, bad[i].v);
		assert_int_equal(try_boot(k, ELF_LEN, 0, NULL, &s, &e), 0);
		assert_int_equal(s.rip, 0x200010);
	}
}

static void test_elf_refused(void **state)
{
	uint8_t k[ELF_LEN];

	make_elf64(k, 0x300000);
	refuse(k, ELF_LEN, 0, NULL, "its entry 0x300000 is not in what it loads");
	make_elf64(k, 0);
	refuse(k, 0x580 - 1, 0, NULL, "program header 1: truncated: needs bytes up to 1408");
	st_le16(k + 56, 65);
	refuse(k, ELF_LEN, 0, NULL, "has 65 program headers");
	make_elf64(k, 0);
	st_le64(k + 32, UINT64_MAX - 8);
	refuse(k, ELF_LEN, 0, NULL, "program header 0 is missing");
	make_elf64(k, 0);
	st_le64(k + 64 + 24, RAM);
	refuse(k, ELF_LEN, 0, NULL, "program header 0: does not fit in memory at 0x4000000");
	make_elf64(k, 0);
	st_le64(k + 64 + 24, MEMMAP_ACPI);
	refuse(k, ELF_LEN, 0, NULL, "does not fit in memory at 0xe0000");
	make_elf64(k, 0);
	st_le64(k + 64 + 40, 1);
	refuse(k, ELF_LEN, 0, NULL, "more bytes than it needs memory");
	make_elf64(k, 0);
	st_le16(k + 18, EM_AARCH64);
	refuse(k, ELF_LEN, 0, NULL, "neither");
}

/* Every length of a good kernel and initrd is a boot or an error. */
static void test_truncated(void **state)
{
	uint8_t k[KERNEL], elf[ELF_LEN];
	struct cpu_state s;
	struct err e;
	unsigned good = 0;

	make_linux(k);
	make_elf64(elf, 0x200040);
	for (size_t len = 1; len < ELF_LEN; len += len < 700 ? 1 : 97) {
		good += try_boot(k, len, 0, NULL, &s, &e) == 0;
		good += try_boot(elf, len, 0, NULL, &s, &e) == 0;
	}
	/* Not much of it is needed: the rest is the kernel's own business. */
	assert_in_range(good, 20, 100);
}

static void test_corrupted(void **state)
{
	uint64_t seed = t_seed(0xb007);
	unsigned good = 0, bad = 0;

	for (int i = 0; i < 6000; i++) {
		uint8_t k[KERNEL];
		struct cpu_state s;
		struct err e = { 0 };
		bool elf = i & 1;

		if (elf)
			make_elf64(k, i & 2 ? 0x200040 : 0);
		else
			make_linux(k);
		for (uint64_t n = t_below(&seed, 3) + 1; n; n--) {
			size_t at = elf ? t_below(&seed, 0x140) : 0x1f1 + t_below(&seed, 0x80);

			if (elf && t_below(&seed, 4) == 0)
				at = 0x300 + t_below(&seed, 40);
			k[at] = t_below(&seed, 3) ? (uint8_t)t_rnd(&seed) : 0xff;
		}
		int rc = try_boot(k, elf ? ELF_LEN : KERNEL, t_below(&seed, 20000), "x", &s, &e);
		good += rc == 0;
		bad += rc < 0;
		assert_true(rc == 0 || e.msg[0]);
		if (rc == 0)
			assert_true(s.rip < RAM);
	}
	assert_true(good > 500 && bad > 500);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_linux),         cmocka_unit_test(test_linux_32),
		cmocka_unit_test(test_linux_refused), cmocka_unit_test(test_no_file),
		cmocka_unit_test(test_pipe),          cmocka_unit_test(test_shrunk),
		cmocka_unit_test(test_elf),           cmocka_unit_test(test_pvh),
		cmocka_unit_test(test_pvh_bad_note),  cmocka_unit_test(test_elf_refused),
		cmocka_unit_test(test_truncated),     cmocka_unit_test(test_corrupted),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
