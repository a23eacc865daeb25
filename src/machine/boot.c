#include "machine/boot.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/num.h"
#include "machine/boot_int.h"
#include "machine/memmap.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum {
	/* A kernel or initrd that is no regular file is copied, up to this. */
	BOOT_COPY_MAX = 256 << 20,
};

const struct boot_loader *const boot_loaders[] = {
	&boot_linux,
	&boot_pvh,
	&boot_elf,
	NULL,
};

/* A pipe has no length and is read once: keep its bytes. */
static int boot_file_copy(int fd, const char *name, int *ret_fd, struct err *e)
{
	void *data;
	size_t len;
	int rc = file_read_fd(fd, name, BOOT_COPY_MAX, &data, &len, e);

	if (rc < 0)
		return rc;
	int copy = memfd_create("sampan-boot", MFD_CLOEXEC);
	rc = copy < 0 ? -errno : file_write_full(copy, data, len);
	free(data);
	if (rc < 0) {
		close_fd(&copy);
		return err_set(e, -rc, "cannot keep a copy of '%s': %s", name, strerror(-rc));
	}
	*ret_fd = copy;
	return 0;
}

static int boot_file_open(struct boot_file *f, const char *name, struct err *e)
{
	AUTO_CLOSE int fd = open(name, O_RDONLY | O_CLOEXEC);
	struct stat st;
	int copy = -1;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set(e, errno, "cannot open '%s': %s", name, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return err_set(e, EISDIR, "'%s' is a directory", name);
	if (!S_ISREG(st.st_mode)) {
		int rc = boot_file_copy(fd, name, &copy, e);

		if (rc < 0)
			return rc;
		close(fd);
		fd = copy;
		if (fstat(fd, &st) < 0)
			return err_set(e, errno, "'%s': %s", name, strerror(errno));
	}
	if (!st.st_size)
		return err_set(e, ENOEXEC, "'%s' is empty", name);
	f->fd = take_fd(&fd);
	f->len = (uint64_t)st.st_size;
	f->name = name;
	return 0;
}

static int boot_read_head(struct boot *b, struct err *e)
{
	b->head_len = (size_t)MIN(b->kernel.len, (uint64_t)BOOT_HEAD);
	b->head = xzalloc(BOOT_HEAD);
	if (!b->head)
		return err_set(e, ENOMEM, "no memory");
	ssize_t n = file_pread_full(b->kernel.fd, b->head, b->head_len, 0);
	if (n < 0)
		return err_set(e, (int)-n, "cannot read '%s': %s", b->kernel.name,
			       strerror((int)-n));
	b->head_len = (size_t)n;
	return 0;
}

/* Is [gpa, gpa+len) RAM that is the kernel's to use? */
static bool boot_ram_ok(const struct boot *b, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < b->board.ne820; i++) {
		const struct boot_range *r = &b->board.e820[i];

		if (r->type == BOOT_E820_RAM && gpa >= r->base &&
		    range_in(gpa - r->base, len, r->len))
			return true;
	}
	return false;
}

int boot_add_segment(struct boot *b, const struct boot_segment *seg, struct err *e)
{
	if (b->nseg == BOOT_SEGMENTS)
		return err_set(e, ENOEXEC, "more than %d segments", BOOT_SEGMENTS);
	if (seg->file_len > seg->mem_len)
		return err_set(e, ENOEXEC, "a segment has more bytes than it needs memory");
	if (!range_in(seg->off, seg->file_len, b->kernel.len))
		return err_set(e, ENOEXEC, "truncated: needs bytes up to %" PRIu64 ", has %" PRIu64,
			       seg->off + seg->file_len, b->kernel.len);
	if (!boot_ram_ok(b, seg->gpa, seg->mem_len))
		return err_set(e, ENOEXEC,
			       "does not fit in memory at 0x%" PRIx64 " (%" PRIu64
			       " KiB): try more --memory",
			       seg->gpa, (seg->mem_len + 1023) / 1024);
	/* The loaders' own structures lie between these two. */
	if (range_overlap(seg->gpa, seg->mem_len, BOOT_GDT, BOOT_LOW_END - BOOT_GDT))
		return err_set(e, ENOEXEC, "wants to lie at 0x%" PRIx64 ", below 0x%x", seg->gpa,
			       BOOT_LOW_END);
	b->seg[b->nseg++] = *seg;
	if (b->nseg == 1 || seg->gpa < b->kernel_gpa)
		b->kernel_gpa = seg->gpa;
	b->kernel_end = MAX(b->kernel_end, seg->gpa + seg->mem_len);
	return 0;
}

static int boot_plan_initrd(struct boot *b, struct err *e)
{
	uint64_t end = MIN(align_down(b->board.low_end, GMEM_PAGE_SIZE), b->initrd_max);

	if (b->initrd.fd < 0)
		return 0;
	end = align_down(end, GMEM_PAGE_SIZE);
	if (b->initrd.len <= end) {
		b->initrd_gpa = align_down(end - b->initrd.len, GMEM_PAGE_SIZE);
		if (b->initrd_gpa >= align_up(b->kernel_end, GMEM_PAGE_SIZE) &&
		    boot_ram_ok(b, b->initrd_gpa, b->initrd.len))
			return 0;
	}
	return err_set(e, ENOEXEC,
		       "initrd '%s' (%" PRIu64 " MiB) does not fit in memory beside the kernel: "
		       "try more --memory",
		       b->initrd.name, b->initrd.len >> 20);
}

static int boot_plan(struct boot *b, struct err *e)
{
	for (unsigned i = 0; boot_loaders[i] && !b->loader; i++)
		if (boot_loaders[i]->probe(b))
			b->loader = boot_loaders[i];
	if (!b->loader)
		return err_set(e, ENOEXEC,
			       "kernel '%s' is neither a Linux bzImage nor an x86 ELF file",
			       b->kernel.name);
	b->initrd_max = UINT32_MAX;
	b->cmdline_max = BOOT_CMDLINE_MAX - 1;
	if (b->loader->plan(b, e) < 0)
		return err_in(e, "kernel '%s'", b->kernel.name);
	if (strlen(b->cmdline) > MIN(b->cmdline_max, (uint32_t)BOOT_CMDLINE_MAX - 1))
		return err_set(e, E2BIG,
			       "the command line has %zu bytes, kernel '%s' takes %" PRIu32,
			       strlen(b->cmdline), b->kernel.name, b->cmdline_max);
	return boot_plan_initrd(b, e);
}

int boot_open(struct boot **ret, const struct boot_opts *o, struct err *e)
{
	struct boot *b = NEW(struct boot);
	int rc = 0;

	if (!b)
		return err_set(e, ENOMEM, "no memory");
	b->kernel.fd = b->initrd.fd = -1;
	b->board = *o->board;
	b->cmdline = xstrdup(o->append ? o->append : "");
	if (!b->cmdline)
		rc = err_set(e, ENOMEM, "no memory");
	else if (boot_file_open(&b->kernel, o->kernel, e) < 0)
		rc = err_in(e, "kernel");
	else if (o->initrd && boot_file_open(&b->initrd, o->initrd, e) < 0)
		rc = err_in(e, "initrd");
	if (rc >= 0)
		rc = boot_read_head(b, e);
	if (rc >= 0)
		rc = boot_plan(b, e);
	if (rc < 0) {
		boot_close(b);
		return rc;
	}
	*ret = b;
	return 0;
}

void boot_close(struct boot *b)
{
	if (!b)
		return;
	close_fd(&b->kernel.fd);
	close_fd(&b->initrd.fd);
	free(b->cmdline);
	free(b->head);
	free(b);
}

/* file[off, off+len) to RAM, then zeros up to mem_len. */
static int boot_load(const struct boot_file *f, const struct gmem *m,
		     const struct boot_segment *seg, struct err *e)
{
	uint8_t *to = gmem_at_w(m, seg->gpa, seg->mem_len);

	if (!to)
		return err_set(e, EFAULT, "'%s': no RAM at 0x%" PRIx64, f->name, seg->gpa);
	ssize_t n = file_pread_full(f->fd, to, seg->file_len, seg->off);
	if (n < 0)
		return err_set(e, (int)-n, "cannot read '%s': %s", f->name, strerror((int)-n));
	if ((uint64_t)n < seg->file_len)
		return err_set(e, EIO, "'%s' became shorter while the VM ran", f->name);
	memset(to + seg->file_len, 0, seg->mem_len - seg->file_len);
	gmem_wrote(m, seg->gpa, seg->mem_len);
	return 0;
}

int boot_place(struct boot *b, const struct gmem *m, struct cpu_state *s, struct err *e)
{
	const struct boot_segment initrd = {
		.gpa = b->initrd_gpa,
		.file_len = b->initrd.len,
		.mem_len = b->initrd.len,
	};
	int rc = 0;

	for (unsigned i = 0; i < b->nseg && rc >= 0; i++)
		rc = boot_load(&b->kernel, m, &b->seg[i], e);
	if (rc >= 0 && b->initrd.fd >= 0)
		rc = boot_load(&b->initrd, m, &initrd, e);
	if (rc >= 0 && gmem_write(m, BOOT_CMDLINE, b->cmdline, strlen(b->cmdline) + 1) < 0)
		rc = err_set(e, EFAULT, "no RAM for the command line");
	return rc < 0 ? rc : b->loader->enter(b, m, s, e);
}

/* Descriptor of a flat segment (SDM 3A 3.4.5): limit 4 GiB less 1; kind: bits 40-47 and 52-55. */
static uint64_t boot_desc(uint32_t attr)
{
	return 0xffffull | (uint64_t)(attr & 0xff) << 40 | 0xfull << 48 |
	       (uint64_t)(attr & 0xf000) << 40;
}

enum {
	BOOT_ATTR_CODE32 = SEG_P | SEG_S | 0xb | SEG_DB | SEG_G,
	BOOT_ATTR_CODE64 = SEG_P | SEG_S | 0xb | SEG_L | SEG_G,
	BOOT_ATTR_DATA = SEG_P | SEG_S | 0x3 | SEG_DB | SEG_G,
	BOOT_ATTR_TSS = SEG_P | 0xb,
	/* Linux's boot protocol names these selectors. */
	BOOT_SEL_CODE = 0x10,
	BOOT_SEL_DATA = 0x18,
};

static int boot_flat(const struct gmem *m, struct cpu_state *s, uint32_t code)
{
	const uint64_t gdt[] = { 0, 0, boot_desc(code), boot_desc(BOOT_ATTR_DATA) };
	const struct cpu_seg data = {
		.limit = UINT32_MAX,
		.attr = BOOT_ATTR_DATA,
		.sel = BOOT_SEL_DATA,
	};

	if (gmem_write(m, BOOT_GDT, gdt, sizeof(gdt)) < 0)
		return -EFAULT;
	s->gdt = (struct cpu_table){ .base = BOOT_GDT, .limit = sizeof(gdt) - 1 };
	s->idt = (struct cpu_table){ 0 };
	for (unsigned i = 0; i < COUNT_OF(s->seg); i++)
		s->seg[i] = data;
	s->seg[X86_CS] = (struct cpu_seg){
		.limit = UINT32_MAX,
		.attr = code,
		.sel = BOOT_SEL_CODE,
	};
	s->tr = (struct cpu_seg){ .limit = 0x67, .attr = BOOT_ATTR_TSS };
	s->rflags = X86_FL_FIXED;
	s->cr0 = X86_CR0_PE | X86_CR0_ET;
	return 0;
}

int boot_enter32(const struct boot *b, const struct gmem *m, struct cpu_state *s)
{
	int rc = boot_flat(m, s, BOOT_ATTR_CODE32);

	s->rip = b->entry;
	return rc;
}

/* PML4, PDPT and four page directories of 2 MiB pages: the first 4 GiB (SDM 3A 4.5). */
static int boot_page_tables(const struct gmem *m)
{
	const uint64_t flags = X86_PTE_P | X86_PTE_W;
	uint64_t *t = gmem_at_w(m, BOOT_PAGE_TABLES, 6 * GMEM_PAGE_SIZE);

	if (!t)
		return -EFAULT;
	memset(t, 0, 2 * GMEM_PAGE_SIZE);
	st_le64(&t[0], (BOOT_PAGE_TABLES + GMEM_PAGE_SIZE) | flags);
	for (uint64_t i = 0; i < 4; i++)
		st_le64(&t[512 + i], (BOOT_PAGE_TABLES + (2 + i) * GMEM_PAGE_SIZE) | flags);
	for (uint64_t i = 0; i < 2048; i++)
		st_le64(&t[1024 + i], i << 21 | flags | X86_PTE_PS);
	gmem_wrote(m, BOOT_PAGE_TABLES, 6 * GMEM_PAGE_SIZE);
	return 0;
}

int boot_enter64(const struct boot *b, const struct gmem *m, struct cpu_state *s)
{
	int rc = boot_flat(m, s, BOOT_ATTR_CODE64);

	if (rc >= 0)
		rc = boot_page_tables(m);
	s->rip = b->entry;
	s->cr3 = BOOT_PAGE_TABLES;
	s->cr4 = X86_CR4_PAE;
	s->cr0 |= X86_CR0_PG;
	s->efer = X86_EFER_LME | X86_EFER_LMA;
	return rc;
}
