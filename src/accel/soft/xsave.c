/*
 * FXSAVE, FXRSTOR and the XSAVE family (SDM 1 chapters 10.5 and 13).
 *
 * Components are x87 (0), SSE (1) and AVX (2).  With these three the compacted and the standard
 * format place everything alike: x87 and SSE in the legacy region, the header at 512, AVX at 576.
 * An image is built in a buffer and stored at once, or loaded and checked as a whole before
 * anything changes.
 *
 * An engine that is assisted may have more (AVX-512, PKRU): they stay in its own image, which
 * soft_run.more names, and are copied between there and guest memory.
 *
 * Initial states are found by looking (XINUSE of AVX: an upper half that is not 0); x87 and SSE are
 * always said to be in use, which is allowed (13.6).  The modified optimization is not made.
 * The last-instruction and data pointers are as host.c leaves them.
 */
#include "accel/soft/host_int.h"
#include "accel/soft/insn.h"
#include "accel/soft/mem.h"
#include "accel/soft/sys_int.h"
#include "base/num.h"

#include <string.h>

enum {
	FX_FCW = 0,
	FX_FSW = 2,
	FX_FTW = 4,
	FX_FCS = 12,
	FX_FDS = 20,
	FX_MXCSR = 24,
	FX_MXCSR_MASK = 28,
	FX_ST = 32,
	FX_XMM = 160,
	FX_LEN = 512,
	XS_BV = 512,
	XS_COMP = 520,
	XS_HEADER_END = 576,
	XS_AVX = 576,
	XS_LEN = 832,
	XS_AREA = 4096,
	/* Of FSW: exceptions; ES and B. */
	FSW_FLAGS = 0x3f,
	FSW_SUMMARIES = 0x8080,
};
#define XCOMP_COMPACT BIT64(63)
/* MXCSR bits that may be set (SDM 1 11.6.6): those of the unit that the guest's code runs on. */
#define MXCSR_MASK (host_facts.mxcsr_mask)

uint64_t xsave_inuse(const struct scpu *c)
{
	uint64_t upper = 0;

	for (unsigned n = 0; n < 16; n++)
		upper |= ld_le64(c->ymm[n] + 16) | ld_le64(c->ymm[n] + 24);
	return X86_XCR0_X87 | X86_XCR0_SSE | (upper ? X86_XCR0_AVX : 0);
}

/* ---- parts of an image ---- */

static unsigned xmm_count(const struct scpu *c)
{
	return soft_64(c) ? 16 : 8;
}

static void put_x87(const struct scpu *c, uint8_t *img, bool wide)
{
	memcpy(img, c->fx, FX_MXCSR);
	memcpy(img + FX_ST, c->fx + FX_ST, FX_XMM - FX_ST);
	/* Selectors are not kept (SDM 1 8.1.8 allows it). */
	if (!wide) {
		st_le32(img + FX_FCS, 0);
		st_le32(img + FX_FDS, 0);
	}
}

static void put_mxcsr(const struct scpu *c, uint8_t *img)
{
	st_le32(img + FX_MXCSR, c->mxcsr);
	st_le32(img + FX_MXCSR_MASK, MXCSR_MASK);
}

static void put_xmm(const struct scpu *c, uint8_t *img, unsigned count)
{
	for (unsigned n = 0; n < count; n++)
		memcpy(img + FX_XMM + 16 * n, c->ymm[n], 16);
}

static void put_avx(const struct scpu *c, uint8_t *img, unsigned count)
{
	for (unsigned n = 0; n < count; n++)
		memcpy(img + XS_AVX + 16 * n, c->ymm[n] + 16, 16);
}

static void get_x87(struct scpu *c, const uint8_t *img, bool wide)
{
	uint16_t errors = ld_le16(img + FX_FSW) & ~ld_le16(img + FX_FCW) & FSW_FLAGS;

	memcpy(c->fx, img, FX_MXCSR);
	/* The summaries follow from the flags, whatever the image says (seen on the CPU). */
	st_le16(c->fx + FX_FSW, (uint16_t)((ld_le16(img + FX_FSW) & ~FSW_SUMMARIES) |
					   (errors ? FSW_SUMMARIES : 0)));
	ferr_clear(c);
	memcpy(c->fx + FX_ST, img + FX_ST, FX_XMM - FX_ST);
	if (!wide) {
		st_le32(c->fx + FX_FCS, 0);
		st_le32(c->fx + FX_FDS, 0);
	}
}

static void get_xmm(struct scpu *c, const uint8_t *img, unsigned count)
{
	for (unsigned n = 0; n < count; n++)
		memcpy(c->ymm[n], img + FX_XMM + 16 * n, 16);
}

static void get_avx(struct scpu *c, const uint8_t *img, unsigned count)
{
	for (unsigned n = 0; n < count; n++)
		memcpy(c->ymm[n] + 16, img + XS_AVX + 16 * n, 16);
}

static void init_x87(struct scpu *c)
{
	memset(c->fx, 0, sizeof(c->fx));
	st_le16(c->fx + FX_FCW, 0x37f);
	ferr_clear(c);
}

/* ---- cpu_state ---- */

void xsave_to_image(const struct scpu *c, uint8_t *img)
{
	memset(img, 0, XS_LEN);
	put_x87(c, img, true);
	put_mxcsr(c, img);
	put_xmm(c, img, 16);
	put_avx(c, img, 16);
	st_le64(img + XS_BV, X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX);
}

void xsave_from_image(struct scpu *c, const uint8_t *img)
{
	uint64_t bv = ld_le64(img + XS_BV);

	if (bv & X86_XCR0_X87)
		get_x87(c, img, true);
	else
		init_x87(c);
	memset(c->ymm, 0, sizeof(c->ymm));
	if (bv & X86_XCR0_SSE)
		get_xmm(c, img, 16);
	if (bv & X86_XCR0_AVX)
		get_avx(c, img, 16);
	c->mxcsr =
		bv & (X86_XCR0_SSE | X86_XCR0_AVX) ? ld_le32(img + FX_MXCSR) & MXCSR_MASK : 0x1f80;
}

/* ---- FXSAVE, FXRSTOR ---- */

static uint64_t area(struct scpu *c, const struct insn *i, unsigned len, unsigned align, bool write)
{
	uint64_t lin = soft_lin(c, i, i->seg, soft_ea(c, i), len, write);

	if (lin & (align - 1))
		soft_gp(c, i, 0);
	return lin;
}

static void fx_check(struct scpu *c, const struct insn *i)
{
	if (c->cr0 & X86_CR0_EM)
		soft_ud(c, i);
	if (c->cr0 & X86_CR0_TS)
		soft_raise(c, i, X86_EXC_NM, 0);
}

static void sys_fxsave(struct scpu *c, const struct insn *i)
{
	uint8_t img[FX_LEN];
	bool sse = c->cr4 & X86_CR4_OSFXSR;
	unsigned count = xmm_count(c);

	fx_check(c, i);
	uint64_t lin = area(c, i, FX_LEN, 16, true);
	/* Bytes behind the last register stay as they are in memory. */
	put_x87(c, img, i->opsize == 8);
	put_mxcsr(c, img);
	if (sse)
		put_xmm(c, img, count);
	soft_st_buf_lin(c, i, lin, img, sse ? FX_XMM + 16 * count : FX_XMM);
	SOFT_NEXT(c, i);
}

static void sys_fxrstor(struct scpu *c, const struct insn *i)
{
	uint8_t img[FX_LEN];

	fx_check(c, i);
	soft_ld_buf_lin(c, i, area(c, i, FX_LEN, 16, false), img, FX_LEN);
	if (ld_le32(img + FX_MXCSR) & ~MXCSR_MASK)
		soft_gp(c, i, 0);
	get_x87(c, img, i->opsize == 8);
	if (c->cr4 & X86_CR4_OSFXSR) {
		c->mxcsr = ld_le32(img + FX_MXCSR);
		get_xmm(c, img, xmm_count(c));
	}
	SOFT_NEXT(c, i);
}

/* ---- components of another engine ---- */

enum {
	/* The first after AVX, and the last that a 4096-byte area can have. */
	MORE_FIRST = 3,
	MORE_LAST = 31,
};

struct more_part {
	/* In soft_run.more, in the area at hand, and how many bytes. */
	unsigned std, at, len;
};

/* Components beyond AVX that are in use. */
static uint64_t more_inuse(const struct scpu *c)
{
	const uint8_t *more = c->run->more;

	return more ? ld_le64(more + XS_BV) & c->xcr0 & ~(BIT64(MORE_FIRST) - 1) : 0;
}

/*
 * Places of the components of `has` beyond AVX: as CPUID 0xd says, or one after the other when the
 * area is compacted (SDM 1 13.4.3).  Returns the area's length.  part[] has MORE_LAST + 1 entries.
 */
static unsigned more_places(const struct scpu *c, uint64_t has, bool compact,
			    struct more_part *part)
{
	unsigned end = has & X86_XCR0_AVX ? XS_LEN : XS_HEADER_END;

	for (unsigned n = MORE_FIRST; n <= MORE_LAST; n++) {
		struct cpuid_entry e;

		part[n].len = 0;
		if (!c->run->more || !(has >> n & 1))
			continue;
		cpuid_get(&c->v.cpuid, 0xd, n, &e);
		if (e.eax > XS_AREA || e.ebx > XS_AREA - e.eax)
			continue;
		unsigned at = compact ? (unsigned)align_up(end, e.ecx & 2 ? 64 : 1) : e.ebx;
		if (at + e.eax > XS_AREA)
			continue;
		part[n] = (struct more_part){ .std = e.ebx, .at = at, .len = e.eax };
		end = compact ? at + e.eax : MAX(end, at + e.eax);
	}
	return end;
}

static void more_save(struct scpu *c, const struct insn *i, uint64_t lin, uint64_t live,
		      const struct more_part *part)
{
	for (unsigned n = MORE_FIRST; n <= MORE_LAST; n++)
		if (live >> n & 1 && part[n].len)
			soft_st_buf_lin(c, i, (lin + part[n].at) & c->lin_mask,
					c->run->more + part[n].std, part[n].len);
}

/* To a copy of the image, which becomes the image when nothing can fault any more. */
static void more_load(struct scpu *c, const struct insn *i, uint64_t lin, uint64_t load,
		      const struct more_part *part, uint8_t *copy)
{
	for (unsigned n = MORE_FIRST; n <= MORE_LAST; n++)
		if (load >> n & 1 && part[n].len)
			soft_ld_buf_lin(c, i, (lin + part[n].at) & c->lin_mask, copy + part[n].std,
					part[n].len);
}

static void more_restore(struct scpu *c, uint64_t load, uint64_t init, const struct more_part *part,
			 const uint8_t *copy)
{
	uint8_t *more = c->run->more;
	const uint64_t ours = ~(BIT64(MORE_FIRST) - 1);

	if (!more)
		return;
	for (unsigned n = MORE_FIRST; n <= MORE_LAST; n++)
		if (load >> n & 1)
			memcpy(more + part[n].std, copy + part[n].std, part[n].len);
	st_le64(more + XS_BV, (ld_le64(more + XS_BV) & ~(init & ours)) | (load & ours));
}

/* ---- XSAVE ---- */

static uint64_t requested(const struct scpu *c)
{
	return ((uint32_t)c->gpr[X86_RAX] | c->gpr[X86_RDX] << 32) & c->xcr0;
}

static void xs_check(struct scpu *c, const struct insn *i)
{
	if (!(c->cr4 & X86_CR4_OSXSAVE))
		soft_ud(c, i);
	if (c->cr0 & X86_CR0_TS)
		soft_raise(c, i, X86_EXC_NM, 0);
}

/* A part of the area at its place. */
static void xs_store(struct scpu *c, const struct insn *i, uint64_t lin, const uint8_t *img,
		     unsigned at, unsigned len)
{
	soft_st_buf_lin(c, i, (lin + at) & c->lin_mask, img + at, len);
}

/* Components `rfbm` that are written are `live`; header fields as given. */
static void xs_save(struct scpu *c, const struct insn *i, uint64_t rfbm, uint64_t live,
		    bool compact)
{
	uint8_t img[XS_LEN] = { 0 };
	struct more_part part[MORE_LAST + 1];
	unsigned count = xmm_count(c), len = more_places(c, rfbm, compact, part);
	uint64_t lin = area(c, i, len, 64, true);

	live |= rfbm & more_inuse(c);
	soft_probe_w(c, i, lin, len);
	/* XSTATE_BV: bits outside the request stay, but the compacted forms write them as 0. */
	uint64_t bv = compact ? 0 : soft_ld_lin(c, i, (lin + XS_BV) & c->lin_mask, 8) & ~rfbm;
	put_x87(c, img, i->opsize == 8);
	put_mxcsr(c, img);
	put_xmm(c, img, count);
	put_avx(c, img, count);
	if (live & X86_XCR0_X87) {
		xs_store(c, i, lin, img, 0, FX_MXCSR);
		xs_store(c, i, lin, img, FX_ST, FX_XMM - FX_ST);
	}
	if (rfbm & (X86_XCR0_SSE | X86_XCR0_AVX) && !(compact && !(live & X86_XCR0_SSE)))
		xs_store(c, i, lin, img, FX_MXCSR, 8);
	if (live & X86_XCR0_SSE)
		xs_store(c, i, lin, img, FX_XMM, 16 * count);
	if (live & X86_XCR0_AVX)
		xs_store(c, i, lin, img, XS_AVX, 16 * count);
	more_save(c, i, lin, live, part);
	soft_st_lin(c, i, (lin + XS_BV) & c->lin_mask, 8, bv | live);
	if (compact)
		soft_st_lin(c, i, (lin + XS_COMP) & c->lin_mask, 8, rfbm | XCOMP_COMPACT);
	SOFT_NEXT(c, i);
}

static void sys_xsave(struct scpu *c, const struct insn *i)
{
	xs_check(c, i);
	uint64_t rfbm = requested(c);

	xs_save(c, i, rfbm, rfbm & xsave_inuse(c), false);
}

static void sys_xsavec(struct scpu *c, const struct insn *i)
{
	xs_check(c, i);
	uint64_t rfbm = requested(c);

	xs_save(c, i, rfbm, rfbm & xsave_inuse(c), true);
}

static void sys_xsaves(struct scpu *c, const struct insn *i)
{
	xs_check(c, i);
	if (c->cpl)
		soft_gp(c, i, 0);
	uint64_t rfbm = requested(c);

	xs_save(c, i, rfbm, rfbm & xsave_inuse(c), true);
}

/* ---- XRSTOR ---- */

static bool all_zero(const uint8_t *p, unsigned len)
{
	uint8_t any = 0;

	for (unsigned n = 0; n < len; n++)
		any |= p[n];
	return !any;
}

/* SDM 1 13.8: what makes the header invalid. */
static bool xs_header_ok(const struct scpu *c, const uint8_t *img, bool supervisor)
{
	uint64_t bv = ld_le64(img + XS_BV), comp = ld_le64(img + XS_COMP);

	if (comp & XCOMP_COMPACT) {
		uint64_t in = comp & ~XCOMP_COMPACT;

		return !(in & ~c->xcr0) && !(bv & ~in) && all_zero(img + XS_COMP + 8, 48);
	}
	return !supervisor && !(bv & ~c->xcr0) && !comp && all_zero(img + XS_COMP + 8, 8);
}

static void xs_restore(struct scpu *c, const struct insn *i, bool supervisor)
{
	uint8_t img[XS_AREA] = { 0 };
	struct more_part part[MORE_LAST + 1];
	uint64_t rfbm = requested(c);
	unsigned count = xmm_count(c), len = more_places(c, rfbm, false, part);
	uint64_t lin = area(c, i, len, 64, false);

	soft_ld_buf_lin(c, i, lin, img, XS_HEADER_END);
	if (!xs_header_ok(c, img, supervisor))
		soft_gp(c, i, 0);
	bool compact = ld_le64(img + XS_COMP) & XCOMP_COMPACT;
	uint64_t load = rfbm & ld_le64(img + XS_BV), init = rfbm & ~ld_le64(img + XS_BV);
	/* MXCSR: with SSE or AVX in the standard form, with SSE alone in the compacted one. */
	bool mxcsr = compact ? load & X86_XCR0_SSE : rfbm & (X86_XCR0_SSE | X86_XCR0_AVX);
	if (load & X86_XCR0_AVX)
		soft_ld_buf_lin(c, i, (lin + XS_AVX) & c->lin_mask, img + XS_AVX, 16 * count);
	if (compact)
		(void)more_places(c, ld_le64(img + XS_COMP) & ~XCOMP_COMPACT, true, part);
	more_load(c, i, lin, load, part, img);
	if (mxcsr && ld_le32(img + FX_MXCSR) & ~MXCSR_MASK)
		soft_gp(c, i, 0);

	more_restore(c, load, init, part, img);
	if (load & X86_XCR0_X87)
		get_x87(c, img, i->opsize == 8);
	else if (init & X86_XCR0_X87)
		init_x87(c);
	if (mxcsr)
		c->mxcsr = ld_le32(img + FX_MXCSR);
	else if (compact && init & X86_XCR0_SSE)
		c->mxcsr = 0x1f80;
	if (rfbm & X86_XCR0_SSE) {
		if (init & X86_XCR0_SSE)
			memset(img + FX_XMM, 0, 256);
		get_xmm(c, img, count);
	}
	if (rfbm & X86_XCR0_AVX) {
		if (init & X86_XCR0_AVX)
			memset(img + XS_AVX, 0, 256);
		get_avx(c, img, count);
	}
	SOFT_NEXT(c, i);
}

static void sys_xrstor(struct scpu *c, const struct insn *i)
{
	xs_check(c, i);
	xs_restore(c, i, false);
}

static void sys_xrstors(struct scpu *c, const struct insn *i)
{
	xs_check(c, i);
	if (c->cpl)
		soft_gp(c, i, 0);
	xs_restore(c, i, true);
}

insn_fn *xsave_bind(struct scpu *c, const struct insn *i)
{
	switch (insn_forms[i->form].sop) {
	case SOP_FXSAVE:
		return sys_fxsave;
	case SOP_FXRSTOR:
		return sys_fxrstor;
	case SOP_XSAVE:
	case SOP_XSAVEOPT:
		return sys_xsave;
	case SOP_XSAVEC:
		return sys_xsavec;
	case SOP_XSAVES:
		return sys_xsaves;
	case SOP_XRSTOR:
		return sys_xrstor;
	case SOP_XRSTORS:
		return sys_xrstors;
	default:
		return NULL;
	}
}
