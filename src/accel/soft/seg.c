/*
 * Segmentation: descriptors, segment loads, limit checks, stacks.  SDM 3A chapters 3 and 5; the
 * instruction page of MOV in SDM 2.
 *
 * Rule of this file and of far.c: check first, then do.  Everything that may raise comes before the
 * first change of a register, so that a fault leaves the machine as it was before the instruction.
 * What is written to memory before a later fault is only what the CPU writes early too: accessed
 * bits, and pushes below the stack pointer.
 *
 * A segment register's hidden part is struct cpu_seg.  What handlers use of it in the fast path
 * (bases, masks, which segments need no check) is derived by soft_mode_changed().
 */
#include "accel/soft/mem.h"
#include "accel/soft/seg_int.h"

#include <string.h>

void soft_gp(struct scpu *c, const struct insn *i, uint32_t err)
{
	soft_raise(c, i, X86_EXC_GP, err);
}

void soft_ud(struct scpu *c, const struct insn *i)
{
	soft_raise(c, i, X86_EXC_UD, 0);
}

/* ---- descriptors ---- */

bool seg_fetch(struct scpu *c, const struct insn *i, uint16_t sel, struct seg_desc *ret)
{
	uint64_t base = c->gdt.base;
	uint32_t limit = c->gdt.limit, at = sel & 0xfff8;

	if (sel & 4) {
		if (c->ldt.attr & SEG_UNUSABLE || sel_null(c->ldt.sel))
			return false;
		base = c->ldt.base;
		limit = c->ldt.limit;
	}
	if (at + 7 > limit)
		return false;
	ret->lin = soft_long(c) ? base + at : (base + at) & 0xffffffff;
	ret->lo = soft_sys_ld(c, i, ret->lin, 8);
	ret->hi = 0;
	return true;
}

struct cpu_seg seg_make(uint16_t sel, uint64_t lo)
{
	struct cpu_seg s = {
		.sel = sel,
		.base = (lo >> 16 & 0xffffff) | (lo >> 56) << 24,
		.limit = (uint32_t)((lo & 0xffff) | (lo >> 32 & 0xf0000)),
		.attr = lo >> 40 & 0xf0ff,
	};

	if (s.attr & SEG_G)
		s.limit = s.limit << 12 | 0xfff;
	return s;
}

/* Only when it is clear.  A CPU locks the two accesses; here another one's change of the same byte
 * between them is lost. */
void seg_set_accessed(struct scpu *c, const struct insn *i, struct seg_desc *d)
{
	if (d->lo >> 40 & T_ACCESSED)
		return;
	uint64_t v = soft_sys_ld(c, i, d->lin + 5, 1) | T_ACCESSED;

	soft_sys_st(c, i, d->lin + 5, 1, v);
	d->lo |= (uint64_t)T_ACCESSED << 40;
}

/* ---- derived state ---- */

/* Readable resp. writable up to 4 GiB, with nothing to check. */
static void seg_derive(struct scpu *c, unsigned s)
{
	const struct cpu_seg *g = &c->seg[s];
	bool prot = soft_prot_seg(c);
	unsigned type = g->attr & SEG_TYPE;

	c->sbase[s] = g->base;
	if (g->limit != 0xffffffff || g->attr & SEG_UNUSABLE)
		return;
	if (prot && !(type & T_CODE) && type & T_DOWN)
		return;
	if (!prot || !(type & T_CODE) || type & T_READ)
		c->seg_rd |= (uint8_t)(1 << s);
	if (!prot || (!(type & T_CODE) && type & T_WRITE))
		c->seg_wr |= (uint8_t)(1 << s);
}

static void mode_code_size(struct scpu *c)
{
	uint32_t cs = c->seg[X86_CS].attr;

	if (soft_long(c) && cs & SEG_L)
		c->code_size = 64;
	else
		c->code_size = cs & SEG_DB && !soft_vm86(c) ? 32 : 16;
}

void soft_mode_changed(struct scpu *c)
{
	mode_code_size(c);
	c->cpl = soft_vm86(c) ? 3 : !soft_prot(c) ? 0 : c->seg[X86_SS].attr >> SEG_DPL_SHIFT & 3;
	if (c->code_size == 64) {
		memset(c->sbase, 0, sizeof(c->sbase));
		c->sbase[X86_FS] = c->seg[X86_FS].base;
		c->sbase[X86_GS] = c->seg[X86_GS].base;
		c->lin_mask = c->sp_mask = ~0ull;
		c->seg_rd = c->seg_wr = 0x3f;
	} else {
		c->lin_mask = 0xffffffff;
		c->sp_mask = c->seg[X86_SS].attr & SEG_DB ? 0xffffffff : 0xffff;
		c->seg_rd = c->seg_wr = 0;
		for (unsigned s = 0; s < 6; s++)
			seg_derive(c, s);
	}
	mmu_select(c);
	code_mode_changed(c);
}

/* ---- limit checks ---- */

static bool seg_in_limit(const struct cpu_seg *g, uint64_t ea, unsigned size, bool down)
{
	uint64_t last = ea + size - 1;

	if (!down)
		return last <= g->limit;
	/* Expand-down: valid are the offsets above the limit (SDM 3A 5.3). */
	return ea > g->limit && last <= (g->attr & SEG_DB ? 0xffffffff : 0xffff);
}

static bool seg_access_ok(const struct scpu *c, const struct cpu_seg *g, uint64_t ea, unsigned size,
			  bool write)
{
	unsigned type = g->attr & SEG_TYPE;
	bool down = false;

	if (soft_prot_seg(c)) {
		if (g->attr & SEG_UNUSABLE)
			return false;
		if (type & T_CODE) {
			if (write || !(type & T_READ))
				return false;
		} else {
			if (write && !(type & T_WRITE))
				return false;
			down = type & T_DOWN;
		}
	}
	return seg_in_limit(g, ea, size, down);
}

uint64_t soft_seg_lin(struct scpu *c, const struct insn *i, unsigned seg, uint64_t ea,
		      unsigned size, bool write)
{
	if (unlikely(!seg_access_ok(c, &c->seg[seg], ea, size, write)))
		soft_raise(c, i, seg == X86_SS ? X86_EXC_SS : X86_EXC_GP, 0);
	return (ea + c->sbase[seg]) & c->lin_mask;
}

/* ---- stacks ---- */

struct sstack stack_of(const struct scpu *c, const struct cpu_seg *ss, uint64_t sp, unsigned cpl)
{
	struct sstack s = {
		.ss = *ss,
		.sp = sp,
		/* AC overrides SMAP for what ring 0-2 code does itself, not for the pushes of a
		 * change of ring (SDM 3A 4.6: implicit accesses). */
		.acc = cpl == 3                              ? SACC_USER
		       : c->cpl < 3 && c->rflags & X86_FL_AC ? SACC_AC
							     : 0,
		.mask = soft_64(c)          ? ~0ull
			: ss->attr & SEG_DB ? 0xffffffff
					    : 0xffff,
		.flat = soft_64(c),
	};

	return s;
}

struct sstack stack_now(const struct scpu *c)
{
	struct sstack s = stack_of(c, &c->seg[X86_SS], c->gpr[X86_RSP] & c->sp_mask, c->cpl);

	s.mask = c->sp_mask;
	return s;
}

static uint64_t stack_lin(struct scpu *c, const struct insn *i, const struct sstack *s,
			  uint64_t off, unsigned size, bool write)
{
	if (s->flat) {
		if (!soft_canonical(off) || !soft_canonical(off + size - 1))
			soft_raise(c, i, X86_EXC_SS, s->err);
		return off;
	}
	if (!seg_access_ok(c, &s->ss, off, size, write))
		soft_raise(c, i, X86_EXC_SS, s->err);
	return (s->ss.base + off) & 0xffffffff;
}

void stack_probe(struct scpu *c, const struct insn *i, struct sstack *s, unsigned bytes)
{
	/* By words: a 16-bit stack may wrap between two pushes. */
	for (unsigned n = 2; n <= bytes; n += 2) {
		uint64_t off = (s->sp - n) & s->mask;
		uint64_t lin = stack_lin(c, i, s, off, 2, true);

		if (n == 2 || n == bytes || (lin & 0xfff) >= 0xffe || !(lin & 0xfff))
			mmu_probe_as(c, i, lin, 2, s->acc | SACC_W);
	}
}

void stack_push(struct scpu *c, const struct insn *i, struct sstack *s, unsigned size, uint64_t v)
{
	uint64_t off = (s->sp - size) & s->mask;

	mmu_st_as(c, i, stack_lin(c, i, s, off, size, true), size, v, s->acc);
	s->sp = off;
}

uint64_t stack_pop(struct scpu *c, const struct insn *i, struct sstack *s, unsigned size)
{
	uint64_t v = mmu_ld_as(c, i, stack_lin(c, i, s, s->sp, size, false), size, s->acc);

	s->sp = (s->sp + size) & s->mask;
	return v;
}

void stack_commit(struct scpu *c, const struct sstack *s)
{
	if (s->mask == 0xffff)
		c->gpr[X86_RSP] = (c->gpr[X86_RSP] & ~0xffffull) | (s->sp & 0xffff);
	else
		c->gpr[X86_RSP] = s->sp & s->mask;
}

/* ---- data segment loads ---- */

void seg_set_real(struct scpu *c, unsigned seg, uint16_t sel)
{
	struct cpu_seg *g = &c->seg[seg];

	/* Limit and size stay: "big real" mode depends on it. */
	g->sel = sel;
	g->base = (uint64_t)sel << 4;
	g->attr &= ~(uint32_t)SEG_UNUSABLE;
	if (seg == X86_CS)
		g->attr = (g->attr & (SEG_G | SEG_DB | SEG_AVL)) | SEG_P | SEG_S | T_WRITE |
			  T_ACCESSED;
}

void seg_set_vm86(struct scpu *c, unsigned seg, uint16_t sel)
{
	c->seg[seg] = (struct cpu_seg){
		.sel = sel,
		.base = (uint64_t)sel << 4,
		.limit = 0xffff,
		.attr = SEG_P | SEG_S | 3 << SEG_DPL_SHIFT | T_WRITE | T_ACCESSED,
	};
}

struct cpu_seg seg_check_ss(struct scpu *c, const struct insn *i, uint16_t sel, unsigned cpl,
			    unsigned exc, uint32_t ext)
{
	struct seg_desc d;

	if (sel_null(sel))
		soft_raise(c, i, exc, ext);
	if (!seg_fetch(c, i, sel, &d))
		soft_raise(c, i, exc, sel_err(sel) | ext);
	unsigned type = desc_type(d.lo);
	if ((sel & 3u) != cpl || desc_dpl(d.lo) != cpl ||
	    (type & (SEG_S | T_CODE | T_WRITE)) != (SEG_S | T_WRITE))
		soft_raise(c, i, exc, sel_err(sel) | ext);
	if (!desc_present(d.lo))
		soft_raise(c, i, X86_EXC_SS, sel_err(sel) | ext);
	seg_set_accessed(c, i, &d);
	return seg_make(sel, d.lo);
}

static void seg_load_ss(struct scpu *c, const struct insn *i, uint16_t sel)
{
	/* Null is allowed in 64-bit mode below CPL 3 (SDM 3A 5.4.1.1). */
	if (sel_null(sel) && soft_64(c) && c->cpl < 3 && (sel & 3) == c->cpl) {
		c->seg[X86_SS] = seg_null(sel);
		c->seg[X86_SS].attr |= (uint32_t)c->cpl << SEG_DPL_SHIFT;
		return;
	}
	c->seg[X86_SS] = seg_check_ss(c, i, sel, c->cpl, X86_EXC_GP, 0);
}

static void seg_load_data(struct scpu *c, const struct insn *i, unsigned seg, uint16_t sel)
{
	struct seg_desc d;

	if (sel_null(sel)) {
		c->seg[seg] = seg_null(sel);
		return;
	}
	if (!seg_fetch(c, i, sel, &d))
		soft_gp(c, i, sel_err(sel));
	unsigned type = desc_type(d.lo);
	if (!(type & SEG_S) || (type & (T_CODE | T_READ)) == T_CODE)
		soft_gp(c, i, sel_err(sel));
	if (!(desc_code(d.lo) && desc_conforming(d.lo)) &&
	    (desc_dpl(d.lo) < (sel & 3u) || desc_dpl(d.lo) < c->cpl))
		soft_gp(c, i, sel_err(sel));
	if (!desc_present(d.lo))
		soft_raise(c, i, X86_EXC_NP, sel_err(sel));
	seg_set_accessed(c, i, &d);
	c->seg[seg] = seg_make(sel, d.lo);
}

void seg_load(struct scpu *c, const struct insn *i, unsigned seg, uint16_t sel)
{
	if (!soft_prot(c))
		seg_set_real(c, seg, sel);
	else if (soft_vm86(c))
		seg_set_vm86(c, seg, sel);
	else if (seg == X86_SS)
		seg_load_ss(c, i, sel);
	else
		seg_load_data(c, i, seg, sel);
}
