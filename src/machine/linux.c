/*
 * Linux bzImage: the boot protocol of Documentation/arch/x86/boot.rst, versions 2.06 to 2.15.
 *
 * The file begins with real-mode setup code, whose header (at 0x1f1) says the rest; we skip that
 * code, put the protected-mode part where the header wants it, hand over the header inside a zero
 * page, and enter at the 64-bit entry where there is one, else at the 32-bit one.
 */
#include "machine/boot_int.h"

#include "base/bytes.h"
#include "base/num.h"
#include "machine/memmap.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* Offsets in the setup header, which is at the same place in the file and in the zero page. */
enum {
	LX_HEADER = 0x1f1,
	LX_SETUP_SECTS = 0x1f1,
	LX_BOOT_FLAG = 0x1fe,
	LX_JUMP_LEN = 0x201,
	LX_MAGIC = 0x202,
	LX_VERSION = 0x206,
	LX_TYPE_OF_LOADER = 0x210,
	LX_LOADFLAGS = 0x211,
	LX_CODE32_START = 0x214,
	LX_RAMDISK_IMAGE = 0x218,
	LX_RAMDISK_SIZE = 0x21c,
	LX_CMD_LINE_PTR = 0x228,
	LX_INITRD_ADDR_MAX = 0x22c,
	LX_KERNEL_ALIGNMENT = 0x230,
	LX_RELOCATABLE = 0x234,
	LX_XLOADFLAGS = 0x236,
	LX_CMDLINE_SIZE = 0x238,
	LX_SETUP_DATA = 0x250,
	LX_PREF_ADDRESS = 0x258,
	LX_INIT_SIZE = 0x260,
	LX_HEADER_END = 0x290,
	/* Zero page only (Documentation/arch/x86/zero-page.rst). */
	LX_ACPI_RSDP = 0x70,
	LX_E820_ENTRIES = 0x1e8,
	LX_E820_TABLE = 0x2d0,
	LX_E820_SIZE = 20,
};

enum {
	LX_LOADED_HIGH = 1 << 0,
	LX_XLF_KERNEL_64 = 1 << 0,
	LX_SECTOR = 512,
	LX_LOADER_UNKNOWN = 0xff,
	/* 64-bit entry, from the start of the protected-mode part. */
	LX_ENTRY64 = 0x200,
};

#define LX_MAGIC_HDRS 0x53726448u

static bool linux_probe(const struct boot *b)
{
	return b->head_len >= LX_HEADER_END && ld_le16(b->head + LX_BOOT_FLAG) == 0xaa55 &&
	       ld_le32(b->head + LX_MAGIC) == LX_MAGIC_HDRS;
}

/* Bytes of the header that this kernel has, from 0x1f1. */
static size_t linux_header_len(const struct boot *b)
{
	return MIN((size_t)LX_MAGIC + b->head[LX_JUMP_LEN], (size_t)LX_HEADER_END) - LX_HEADER;
}

/* Where it wants to be, when that can be chosen. */
static uint64_t linux_address(const struct boot *b)
{
	uint16_t version = ld_le16(b->head + LX_VERSION);
	uint64_t align = ld_le32(b->head + LX_KERNEL_ALIGNMENT);
	uint64_t want = version >= 0x20a ? ld_le64(b->head + LX_PREF_ADDRESS) : MEMMAP_1M;

	if (!b->head[LX_RELOCATABLE])
		return version >= 0x20a ? want : MEMMAP_1M;
	return want < UINT32_MAX ? align_up(MAX(want, (uint64_t)MEMMAP_1M), align) : want;
}

static int linux_check_header(const struct boot *b, struct err *e)
{
	uint16_t version = ld_le16(b->head + LX_VERSION);
	uint32_t align = ld_le32(b->head + LX_KERNEL_ALIGNMENT);

	if (version < 0x206)
		return err_set(e, ENOEXEC,
			       "boot protocol %u.%02u is older than 2.06 (Linux 2.6.22)",
			       version >> 8, version & 0xff);
	if (!(b->head[LX_LOADFLAGS] & LX_LOADED_HIGH))
		return err_set(e, ENOEXEC, "is a zImage, not a bzImage");
	if (b->head[LX_RELOCATABLE] && (!is_pow2(align) || align > MIB(64)))
		return err_set(e, ENOEXEC, "its alignment 0x%" PRIx32 " makes no sense", align);
	return 0;
}

static int linux_plan(struct boot *b, struct err *e)
{
	/* 0 means 4, for the oldest kernels. */
	unsigned sects = b->head[LX_SETUP_SECTS] ? b->head[LX_SETUP_SECTS] : 4;
	uint64_t off = (sects + 1) * (uint64_t)LX_SECTOR, version = ld_le16(b->head + LX_VERSION);
	int rc = linux_check_header(b, e);

	if (rc < 0)
		return rc;
	if (off >= b->kernel.len)
		return err_set(e, ENOEXEC,
			       "truncated: %" PRIu64 " bytes, the setup code has %" PRIu64,
			       b->kernel.len, off);
	struct boot_segment seg = {
		.gpa = linux_address(b),
		.off = off,
		.file_len = b->kernel.len - off,
		.mem_len = b->kernel.len - off,
	};
	rc = boot_add_segment(b, &seg, e);
	if (rc < 0)
		return rc;
	/* While it unpacks itself it uses this much, from where it is (boot.rst, init_size). */
	uint64_t need = version >= 0x20a ? ld_le32(b->head + LX_INIT_SIZE) : seg.mem_len * 4;
	if (seg.gpa + need > b->board.low_end)
		return err_set(e, ENOEXEC, "needs %" PRIu64 " MiB of memory: try more --memory",
			       (seg.gpa + need + MIB(1) - 1) >> 20);
	b->kernel_end = MAX(b->kernel_end, seg.gpa + need);
	b->entry64 = version >= 0x20c && (ld_le16(b->head + LX_XLOADFLAGS) & LX_XLF_KERNEL_64) &&
		     seg.file_len > LX_ENTRY64;
	b->entry = seg.gpa + (b->entry64 ? LX_ENTRY64 : 0);
	b->initrd_max = (uint64_t)ld_le32(b->head + LX_INITRD_ADDR_MAX) + 1;
	b->cmdline_max = ld_le32(b->head + LX_CMDLINE_SIZE);
	return 0;
}

int boot_zero_page(const struct boot *b, const struct gmem *m, const uint8_t *header,
		   size_t header_len)
{
	uint8_t *z = gmem_at_w(m, BOOT_ZERO_PAGE, GMEM_PAGE_SIZE);

	if (!z)
		return -EFAULT;
	memset(z, 0, GMEM_PAGE_SIZE);
	if (header)
		memcpy(z + LX_HEADER, header, header_len);
	z[LX_TYPE_OF_LOADER] = LX_LOADER_UNKNOWN;
	st_le32(z + LX_CODE32_START, (uint32_t)b->kernel_gpa);
	st_le32(z + LX_CMD_LINE_PTR, BOOT_CMDLINE);
	st_le32(z + LX_RAMDISK_IMAGE, (uint32_t)b->initrd_gpa);
	st_le32(z + LX_RAMDISK_SIZE, b->initrd.fd >= 0 ? (uint32_t)b->initrd.len : 0);
	st_le64(z + LX_SETUP_DATA, 0);
	st_le64(z + LX_ACPI_RSDP, b->board.rsdp_gpa);
	z[LX_E820_ENTRIES] = (uint8_t)b->board.ne820;
	for (unsigned i = 0; i < b->board.ne820; i++) {
		uint8_t *p = z + LX_E820_TABLE + i * LX_E820_SIZE;

		st_le64(p, b->board.e820[i].base);
		st_le64(p + 8, b->board.e820[i].len);
		st_le32(p + 16, b->board.e820[i].type);
	}
	gmem_wrote(m, BOOT_ZERO_PAGE, GMEM_PAGE_SIZE);
	return 0;
}

static int linux_enter(struct boot *b, const struct gmem *m, struct cpu_state *s, struct err *e)
{
	int rc = boot_zero_page(b, m, b->head + LX_HEADER, linux_header_len(b));

	if (rc >= 0)
		rc = b->entry64 ? boot_enter64(b, m, s) : boot_enter32(b, m, s);
	s->gpr[X86_RSI] = BOOT_ZERO_PAGE;
	return rc < 0 ? err_set(e, -rc, "no RAM for the zero page") : 0;
}

const struct boot_loader boot_linux = {
	.name = "bzImage",
	.probe = linux_probe,
	.plan = linux_plan,
	.enter = linux_enter,
};
