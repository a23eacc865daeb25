/*
 * ELF kernels.  One with a XEN_ELFNOTE_PHYS32_ENTRY note is entered as PVH says (Xen's
 * docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h): 32-bit protected mode, EBX at a start
 * info.  Others are entered at e_entry: 64-bit ones in long mode with RSI at a Linux zero page (a
 * vmlinux without the note wants that), 32-bit ones in protected mode with ESI there.
 */
#include "machine/boot_int.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/num.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum {
	XEN_ELFNOTE_PHYS32_ENTRY = 18,
	ELF_PHDRS = 64,
	ELF_NOTES_MAX = 65536,
	/* struct hvm_start_info version 1, a module, a memory map entry. */
	PVH_INFO_SIZE = 56,
	PVH_MODULE_SIZE = 32,
	PVH_MAP_SIZE = 24,
	PVH_MODULE = BOOT_START_INFO + 64,
	PVH_MAP = BOOT_START_INFO + 128,
};

#define PVH_MAGIC 0x336ec578u

/* A program header of either class. */
struct elf_phdr {
	uint32_t type;
	uint64_t off, vaddr, paddr, filesz, memsz;
};

static bool elf_is64(const struct boot *b)
{
	return b->head[EI_CLASS] == ELFCLASS64;
}

static bool elf_magic(const struct boot *b)
{
	const uint8_t *h = b->head;

	if (b->head_len < sizeof(Elf64_Ehdr) || memcmp(h, ELFMAG, SELFMAG) ||
	    h[EI_DATA] != ELFDATA2LSB)
		return false;
	uint16_t machine = ld_le16(h + offsetof(Elf64_Ehdr, e_machine));
	return elf_is64(b)
		       ? machine == EM_X86_64
		       : h[EI_CLASS] == ELFCLASS32 && (machine == EM_386 || machine == EM_X86_64);
}

#define ELF_EHDR(b, field, ld64, ld32)                               \
	(elf_is64(b) ? ld64((b)->head + offsetof(Elf64_Ehdr, field)) \
		     : ld32((b)->head + offsetof(Elf32_Ehdr, field)))

static uint64_t elf_phdr_off(const struct boot *b, unsigned i)
{
	uint64_t phoff = ELF_EHDR(b, e_phoff, ld_le64, ld_le32);

	/* phoff may be anything; a sum that wraps is just another place, which the caller checks.
	 */
	return phoff + (uint64_t)i * ELF_EHDR(b, e_phentsize, ld_le16, ld_le16);
}

static unsigned elf_phnum(const struct boot *b)
{
	return ELF_EHDR(b, e_phnum, ld_le16, ld_le16);
}

/* Header i, which may lie anywhere in the file; false when it is not all there. */
static bool elf_phdr(const struct boot *b, unsigned i, struct elf_phdr *ret)
{
	uint8_t raw[sizeof(Elf64_Phdr)];
	size_t size = elf_is64(b) ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
	uint64_t off = elf_phdr_off(b, i);

	if (ELF_EHDR(b, e_phentsize, ld_le16, ld_le16) < size ||
	    !range_in(off, size, b->kernel.len))
		return false;
	if (file_pread_full(b->kernel.fd, raw, size, off) != (ssize_t)size)
		return false;
#define PHDR(f)                                                   \
	(elf_is64(b) ? ld_le64(raw + offsetof(Elf64_Phdr, p_##f)) \
		     : ld_le32(raw + offsetof(Elf32_Phdr, p_##f)))
	*ret = (struct elf_phdr){
		.type = ld_le32(raw + offsetof(Elf64_Phdr, p_type)),
		.off = PHDR(offset),
		.vaddr = PHDR(vaddr),
		.paddr = PHDR(paddr),
		.filesz = PHDR(filesz),
		.memsz = PHDR(memsz),
	};
#undef PHDR
	return true;
}

/* The PVH entry in one PT_NOTE segment, or 0. */
static uint64_t elf_note_entry(const struct boot *b, const struct elf_phdr *p)
{
	AUTO_FREE uint8_t *notes = NULL;
	size_t len = (size_t)p->filesz;

	if (p->filesz > ELF_NOTES_MAX || !range_in(p->off, p->filesz, b->kernel.len))
		return 0;
	notes = malloc(len + 1);
	if (!notes || file_pread_full(b->kernel.fd, notes, len, p->off) != (ssize_t)len)
		return 0;
	for (size_t at = 0; range_in(at, sizeof(Elf64_Nhdr), len);) {
		uint64_t name_len = ld_le32(notes + at), desc_len = ld_le32(notes + at + 4);
		uint32_t type = ld_le32(notes + at + 8);
		uint64_t name = at + sizeof(Elf64_Nhdr), desc = name + align_up(name_len, 4);

		if (!range_in(desc, desc_len, len))
			return 0;
		if (type == XEN_ELFNOTE_PHYS32_ENTRY && name_len == 4 &&
		    !memcmp(notes + name, "Xen", 4) && desc_len >= 4)
			return ld_le32(notes + desc);
		at = desc + align_up(desc_len, 4);
	}
	return 0;
}

static uint64_t elf_pvh_entry(const struct boot *b)
{
	struct elf_phdr p;

	for (unsigned i = 0; i < MIN(elf_phnum(b), (unsigned)ELF_PHDRS); i++) {
		uint64_t entry;

		if (!elf_phdr(b, i, &p) || p.type != PT_NOTE)
			continue;
		entry = elf_note_entry(b, &p);
		if (entry)
			return entry;
	}
	return 0;
}

static int elf_load_segments(struct boot *b, struct err *e)
{
	unsigned n = elf_phnum(b);
	struct elf_phdr p;

	if (n > ELF_PHDRS)
		return err_set(e, ENOEXEC, "has %u program headers, more than %d", n, ELF_PHDRS);
	for (unsigned i = 0; i < n; i++) {
		if (!elf_phdr(b, i, &p))
			return err_set(e, ENOEXEC, "truncated: program header %u is missing", i);
		if (p.type != PT_LOAD || !p.memsz)
			continue;
		const struct boot_segment seg = {
			.gpa = p.paddr,
			.off = p.off,
			.file_len = p.filesz,
			.mem_len = p.memsz,
		};
		if (boot_add_segment(b, &seg, e) < 0)
			return err_in(e, "program header %u", i);
	}
	if (!b->nseg)
		return err_set(e, ENOEXEC, "has nothing to load");
	return 0;
}

static bool elf_loaded(const struct boot *b, uint64_t gpa)
{
	for (unsigned i = 0; i < b->nseg; i++)
		if (gpa >= b->seg[i].gpa && gpa - b->seg[i].gpa < b->seg[i].mem_len)
			return true;
	return false;
}

/* e_entry is virtual; a kernel linked high means the physical address of the same byte. */
static uint64_t elf_entry(const struct boot *b)
{
	uint64_t entry = ELF_EHDR(b, e_entry, ld_le64, ld_le32);
	struct elf_phdr p;

	for (unsigned i = 0; !elf_loaded(b, entry) && i < elf_phnum(b); i++)
		if (elf_phdr(b, i, &p) && p.type == PT_LOAD && entry >= p.vaddr &&
		    entry - p.vaddr < p.memsz)
			return entry - p.vaddr + p.paddr;
	return entry;
}

static int elf_plan_at(struct boot *b, uint64_t entry, struct err *e)
{
	if (!elf_loaded(b, entry))
		return err_set(e, ENOEXEC, "its entry 0x%" PRIx64 " is not in what it loads",
			       entry);
	if (entry > UINT32_MAX)
		return err_set(e, ENOEXEC, "its entry 0x%" PRIx64 " is above 4 GiB", entry);
	b->entry = entry;
	return 0;
}

static bool pvh_probe(const struct boot *b)
{
	return elf_magic(b) && elf_pvh_entry(b);
}

static int pvh_plan(struct boot *b, struct err *e)
{
	int rc = elf_load_segments(b, e);

	return rc < 0 ? rc : elf_plan_at(b, elf_pvh_entry(b), e);
}

static int pvh_write_info(const struct boot *b, const struct gmem *m)
{
	uint8_t *p = gmem_at_w(m, BOOT_START_INFO, GMEM_PAGE_SIZE);

	if (!p)
		return -EFAULT;
	memset(p, 0, GMEM_PAGE_SIZE);
	st_le32(p, PVH_MAGIC);
	st_le32(p + 4, 1);
	st_le32(p + 12, b->initrd.fd >= 0);
	st_le64(p + 16, b->initrd.fd >= 0 ? PVH_MODULE : 0);
	st_le64(p + 24, BOOT_CMDLINE);
	st_le64(p + 32, b->board.rsdp_gpa);
	st_le64(p + 40, PVH_MAP);
	st_le32(p + 48, b->board.ne820);
	st_le64(p + PVH_MODULE - BOOT_START_INFO, b->initrd_gpa);
	st_le64(p + PVH_MODULE - BOOT_START_INFO + 8, b->initrd.fd >= 0 ? b->initrd.len : 0);
	for (unsigned i = 0; i < b->board.ne820; i++) {
		uint8_t *r = p + PVH_MAP - BOOT_START_INFO + i * PVH_MAP_SIZE;

		st_le64(r, b->board.e820[i].base);
		st_le64(r + 8, b->board.e820[i].len);
		st_le32(r + 16, b->board.e820[i].type);
	}
	gmem_wrote(m, BOOT_START_INFO, GMEM_PAGE_SIZE);
	return 0;
}

static int pvh_enter(struct boot *b, const struct gmem *m, struct cpu_state *s, struct err *e)
{
	int rc = pvh_write_info(b, m);

	if (rc >= 0)
		rc = boot_enter32(b, m, s);
	s->gpr[X86_RBX] = BOOT_START_INFO;
	return rc < 0 ? err_set(e, -rc, "no RAM for the start info") : 0;
}

const struct boot_loader boot_pvh = {
	.name = "PVH",
	.probe = pvh_probe,
	.plan = pvh_plan,
	.enter = pvh_enter,
};

static int elf_plan(struct boot *b, struct err *e)
{
	int rc = elf_load_segments(b, e);

	b->entry64 = elf_is64(b);
	return rc < 0 ? rc : elf_plan_at(b, elf_entry(b), e);
}

static int elf_enter(struct boot *b, const struct gmem *m, struct cpu_state *s, struct err *e)
{
	int rc = boot_zero_page(b, m, NULL, 0);

	if (rc >= 0)
		rc = b->entry64 ? boot_enter64(b, m, s) : boot_enter32(b, m, s);
	s->gpr[X86_RSI] = BOOT_ZERO_PAGE;
	return rc < 0 ? err_set(e, -rc, "no RAM for the zero page") : 0;
}

const struct boot_loader boot_elf = {
	.name = "ELF",
	.probe = elf_magic,
	.plan = elf_plan,
	.enter = elf_enter,
};
