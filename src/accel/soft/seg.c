/*
 * Segmentation: descriptors, segment loads, limit checks, stacks, and far transfers that change CS.
 * SDM 3A chapters 3 and 5; the instruction pages of CALL, JMP, RET, IRET, MOV in SDM 2.
 *
 * Rule of this file: check first, then do.  Everything that may raise comes before the first change
 * of a register, so that a fault leaves the machine as it was before the instruction.  What is
 * written to memory before a later fault is only what the CPU writes early too: accessed bits, and
 * pushes below the stack pointer.
 *
 * A segment register's hidden part is struct cpu_seg.  What handlers use of it in the fast path
 * (bases, masks, which segments need no check) is derived by soft_mode_changed().
 */
#include "accel/soft/insn.h"
#include "accel/soft/mem.h"
#include "accel/soft/sys_int.h"

#include <string.h>

/* Types of system descriptors (SDM 3A table 3-2), of attr & (SEG_S | SEG_TYPE). */
enum {
	SYS_TSS16 = 1,
	SYS_LDT = 2,
	SYS_TSS16_BUSY = 3,
	SYS_CALL16 = 4,
	SYS_TASK = 5,
	SYS_TSS32 = 9,
	SYS_TSS32_BUSY = 11,
	SYS_CALL32 = 12,
};

enum {
	/* Of code and data segments. */
	T_ACCESSED = 1,
	T_WRITE = 2,
	T_READ = 2,
	T_DOWN = 4,
	T_CONFORM = 4,
	T_CODE = 8,
};

void soft_gp(struct scpu *c, const struct insn *i, uint32_t err)
{
	soft_raise(c, i, X86_EXC_GP, err);
}

void soft_ud(struct scpu *c, const struct insn *i)
{
	soft_raise(c, i, X86_EXC_UD, 0);
}

static uint32_t sel_err(uint16_t sel)
{
	return sel & 0xfffc;
}

static bool sel_null(uint16_t sel)
{
	return !(sel & 0xfffc);
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

/* The upper half of a 16-byte descriptor in long mode; false: outside the table. */
static bool seg_fetch_high(struct scpu *c, const struct insn *i, uint16_t sel, struct seg_desc *d)
{
	uint32_t limit = sel & 4 ? c->ldt.limit : c->gdt.limit;

	if ((sel & 0xfff8u) + 15 > limit)
		return false;
	d->hi = soft_sys_ld(c, i, d->lin + 8, 8);
	return true;
}

static unsigned desc_type(uint64_t lo)
{
	return lo >> 40 & (SEG_S | SEG_TYPE);
}

static unsigned desc_dpl(uint64_t lo)
{
	return lo >> 45 & 3;
}

static bool desc_present(uint64_t lo)
{
	return lo >> 47 & 1;
}

static bool desc_code(uint64_t lo)
{
	return (desc_type(lo) & (SEG_S | T_CODE)) == (SEG_S | T_CODE);
}

static bool desc_conforming(uint64_t lo)
{
	return desc_type(lo) & T_CONFORM;
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

/* The CPU sets the accessed bit with a locked store, only when it is clear. */
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
		.acc = cpl == 3                ? SACC_USER
		       : c->rflags & X86_FL_AC ? SACC_AC
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

static struct cpu_seg seg_null(uint16_t sel)
{
	return (struct cpu_seg){ .sel = sel, .attr = SEG_UNUSABLE };
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

/* Returning outward: data segments that the outer ring may not use become null (SDM 3A 5.8.6). */
static void seg_drop_inner(struct scpu *c, unsigned cpl)
{
	static const uint8_t data[] = { X86_ES, X86_DS, X86_FS, X86_GS };

	for (unsigned n = 0; n < COUNT_OF(data); n++) {
		struct cpu_seg *g = &c->seg[data[n]];
		bool conforming = (g->attr & (T_CODE | T_CONFORM)) == (T_CODE | T_CONFORM);

		if (!conforming && (g->attr >> SEG_DPL_SHIFT & 3) < cpl) {
			/* A null selector's base survives: it is what WRFSBASE and the MSRs set. */
			if (sel_null(g->sel))
				continue;
			*g = seg_null(0);
		}
	}
}

/* ---- code segments ---- */

/* CS as loaded: RPL is the new CPL. */
static struct cpu_seg seg_make_cs(struct scpu *c, const struct insn *i, uint16_t sel,
				  struct seg_desc *d, unsigned cpl)
{
	seg_set_accessed(c, i, d);
	return seg_make((uint16_t)((sel & 0xfffc) | cpl), d->lo);
}

/* A CS descriptor that may not be one of both L and D in long mode. */
static bool desc_bad_long(const struct scpu *c, uint64_t lo)
{
	return soft_long(c) && lo >> 53 & 1 && lo >> 54 & 1;
}

/* Is `off` a place where code of this segment can begin? */
static void seg_check_target(struct scpu *c, const struct insn *i, const struct cpu_seg *cs,
			     uint64_t off)
{
	bool ok = soft_long(c) && cs->attr & SEG_L ? soft_canonical(off) : off <= cs->limit;

	if (!ok)
		soft_gp(c, i, 0);
}

static void seg_set_cpl(struct scpu *c, unsigned cpl)
{
	struct cpu_seg *ss = &c->seg[X86_SS];

	ss->attr = (ss->attr & ~(3u << SEG_DPL_SHIFT)) | (uint32_t)cpl << SEG_DPL_SHIFT;
}

/* The checks that JMP and CALL to a code segment share. */
static struct cpu_seg seg_direct(struct scpu *c, const struct insn *i, uint16_t sel,
				 struct seg_desc *d, uint64_t off)
{
	unsigned dpl = desc_dpl(d->lo), rpl = sel & 3;

	if (desc_bad_long(c, d->lo))
		soft_gp(c, i, sel_err(sel));
	if (desc_conforming(d->lo) ? dpl > c->cpl : rpl > c->cpl || dpl != c->cpl)
		soft_gp(c, i, sel_err(sel));
	if (!desc_present(d->lo))
		soft_raise(c, i, X86_EXC_NP, sel_err(sel));
	struct cpu_seg cs = seg_make_cs(c, i, sel, d, c->cpl);

	seg_check_target(c, i, &cs, off);
	return cs;
}

void seg_tss_stack(struct scpu *c, const struct insn *i, unsigned dpl, uint32_t *ret_ss,
		   uint64_t *ret_sp)
{
	bool wide = (c->tr.attr & SEG_TYPE) >= SYS_TSS32;
	/* Offsets in the 16- and 32-bit TSS (SDM 3A figures 7-2, 7-10). */
	unsigned at = wide ? 4 + 8 * dpl : 2 + 4 * dpl, size = wide ? 4 : 2;

	if (at + size + 1 > c->tr.limit)
		soft_raise(c, i, X86_EXC_TS, sel_err(c->tr.sel) | (c->run->ext ? 1 : 0));
	*ret_sp = soft_sys_ld(c, i, c->tr.base + at, size);
	*ret_ss = (uint32_t)soft_sys_ld(c, i, c->tr.base + at + size, 2);
}

/* RSP0-2 of the 64-bit TSS (SDM 3A figure 7-11). */
static uint64_t seg_tss_rsp(struct scpu *c, const struct insn *i, unsigned dpl)
{
	unsigned at = 4 + 8 * dpl;

	if (at + 7 > c->tr.limit)
		soft_raise(c, i, X86_EXC_TS, sel_err(c->tr.sel));
	return soft_sys_ld(c, i, c->tr.base + at, 8);
}

/* ---- call gates (SDM 3A 5.8.3) ---- */

struct gate {
	uint16_t sel;
	uint64_t off;
	unsigned params, size;
	struct seg_desc cs;
};

static void gate_read(struct scpu *c, const struct insn *i, uint16_t sel, struct seg_desc *d,
		      struct gate *g)
{
	unsigned type = desc_type(d->lo), dpl = desc_dpl(d->lo);

	if (dpl < c->cpl || dpl < (sel & 3u))
		soft_gp(c, i, sel_err(sel));
	if (!desc_present(d->lo))
		soft_raise(c, i, X86_EXC_NP, sel_err(sel));
	g->sel = d->lo >> 16 & 0xffff;
	g->off = (d->lo & 0xffff) | (type == SYS_CALL16 ? 0 : d->lo >> 32 & 0xffff0000);
	g->params = d->lo >> 32 & 31;
	g->size = type == SYS_CALL16 ? 2 : 4;
	if (soft_long(c)) {
		/* 16 bytes; the upper half's type field must be 0. */
		if (!seg_fetch_high(c, i, sel, d) || d->hi >> 40 & 0x1f)
			soft_gp(c, i, sel_err(sel));
		g->off |= (d->hi & 0xffffffff) << 32;
		g->params = 0;
		g->size = 8;
	}
	if (sel_null(g->sel))
		soft_gp(c, i, 0);
	if (!seg_fetch(c, i, g->sel, &g->cs) || !desc_code(g->cs.lo) || desc_dpl(g->cs.lo) > c->cpl)
		soft_gp(c, i, sel_err(g->sel));
	if (soft_long(c) && (!(g->cs.lo >> 53 & 1) || g->cs.lo >> 54 & 1))
		soft_gp(c, i, sel_err(g->sel));
	if (!desc_present(g->cs.lo))
		soft_raise(c, i, X86_EXC_NP, sel_err(g->sel));
}

/* CALL through a gate to an inner ring: a new stack with the old one's address on it. */
static void gate_call_inner(struct scpu *c, const struct insn *i, struct gate *g)
{
	unsigned cpl = desc_dpl(g->cs.lo);
	struct cpu_seg ss, cs;
	struct sstack st;
	uint64_t params[32];

	if (soft_long(c)) {
		ss = seg_null((uint16_t)cpl);
		ss.attr |= cpl << SEG_DPL_SHIFT;
		st = stack_of(c, &ss, seg_tss_rsp(c, i, cpl), cpl);
		st.flat = true;
		st.mask = ~0ull;
	} else {
		uint32_t sel;
		uint64_t sp;

		seg_tss_stack(c, i, cpl, &sel, &sp);
		ss = seg_check_ss(c, i, (uint16_t)sel, cpl, X86_EXC_TS, 0);
		st = stack_of(c, &ss, sp, cpl);
		st.err = sel_err((uint16_t)sel);
	}
	struct sstack old = stack_now(c);
	uint64_t old_sp = c->gpr[X86_RSP];
	for (unsigned n = 0; n < g->params; n++)
		params[n] = stack_pop(c, i, &old, g->size);
	cs = seg_make_cs(c, i, g->sel, &g->cs, cpl);
	seg_check_target(c, i, &cs, g->off);
	stack_probe(c, i, &st, g->size * (4 + g->params));
	stack_push(c, i, &st, g->size, c->seg[X86_SS].sel);
	stack_push(c, i, &st, g->size, old_sp);
	for (unsigned n = g->params; n-- > 0;)
		stack_push(c, i, &st, g->size, params[n]);
	stack_push(c, i, &st, g->size, c->seg[X86_CS].sel);
	stack_push(c, i, &st, g->size, soft_next_rip(c, i));
	c->seg[X86_CS] = cs;
	c->seg[X86_SS] = ss;
	seg_set_cpl(c, cpl);
	stack_commit(c, &st);
	c->rip = g->off;
}

static void gate_call_same(struct scpu *c, const struct insn *i, struct gate *g)
{
	struct cpu_seg cs = seg_make_cs(c, i, g->sel, &g->cs, c->cpl);
	struct sstack st = stack_now(c);

	if (soft_long(c)) {
		st.flat = true;
		st.mask = ~0ull;
	}
	seg_check_target(c, i, &cs, g->off);
	stack_probe(c, i, &st, 2 * g->size);
	stack_push(c, i, &st, g->size, c->seg[X86_CS].sel);
	stack_push(c, i, &st, g->size, soft_next_rip(c, i));
	stack_commit(c, &st);
	c->seg[X86_CS] = cs;
	c->rip = g->off;
}

static void gate_call(struct scpu *c, const struct insn *i, uint16_t sel, struct seg_desc *d)
{
	struct gate g;

	gate_read(c, i, sel, d, &g);
	if (!desc_conforming(g.cs.lo) && desc_dpl(g.cs.lo) < c->cpl)
		gate_call_inner(c, i, &g);
	else
		gate_call_same(c, i, &g);
}

static void gate_jmp(struct scpu *c, const struct insn *i, uint16_t sel, struct seg_desc *d)
{
	struct gate g;

	gate_read(c, i, sel, d, &g);
	if (!desc_conforming(g.cs.lo) && desc_dpl(g.cs.lo) != c->cpl)
		soft_gp(c, i, sel_err(g.sel));
	struct cpu_seg cs = seg_make_cs(c, i, g.sel, &g.cs, c->cpl);
	seg_check_target(c, i, &cs, g.off);
	c->seg[X86_CS] = cs;
	c->rip = g.off;
}

/* ---- far JMP, CALL, RET ---- */

static void seg_real_jump(struct scpu *c, uint16_t sel, uint64_t off)
{
	if (soft_vm86(c))
		seg_set_vm86(c, X86_CS, sel);
	else
		seg_set_real(c, X86_CS, sel);
	c->rip = off;
}

/* Task gates and TSSs: what the selector names, or not a task. */
static bool seg_task(struct scpu *c, const struct insn *i, uint16_t sel, const struct seg_desc *d,
		     enum task_why why)
{
	unsigned type = desc_type(d->lo);
	uint16_t tss = sel;

	if (soft_long(c))
		return false;
	if (type != SYS_TASK && type != SYS_TSS16 && type != SYS_TSS32)
		return false;
	if (desc_dpl(d->lo) < c->cpl || desc_dpl(d->lo) < (sel & 3u))
		soft_gp(c, i, sel_err(sel));
	if (type == SYS_TASK) {
		if (!desc_present(d->lo))
			soft_raise(c, i, X86_EXC_NP, sel_err(sel));
		tss = d->lo >> 16 & 0xffff;
	}
	task_switch(c, i, tss, why, soft_next_rip(c, i), false, 0);
	return true;
}

static bool desc_call_gate(const struct scpu *c, uint64_t lo)
{
	unsigned type = desc_type(lo);

	return type == SYS_CALL32 || (type == SYS_CALL16 && !soft_long(c));
}

void seg_jmp_far(struct scpu *c, const struct insn *i, uint16_t sel, uint64_t off)
{
	struct seg_desc d;

	if (!soft_prot_seg(c)) {
		if (off > c->seg[X86_CS].limit)
			soft_gp(c, i, 0);
		seg_real_jump(c, sel, off);
		soft_mode_changed(c);
		return;
	}
	if (sel_null(sel))
		soft_gp(c, i, 0);
	if (!seg_fetch(c, i, sel, &d))
		soft_gp(c, i, sel_err(sel));
	if (desc_code(d.lo)) {
		c->seg[X86_CS] = seg_direct(c, i, sel, &d, off);
		c->rip = off;
	} else if (desc_call_gate(c, d.lo)) {
		gate_jmp(c, i, sel, &d);
	} else if (!seg_task(c, i, sel, &d, TASK_JMP)) {
		soft_gp(c, i, sel_err(sel));
	}
	soft_mode_changed(c);
}

/* Pushes CS and the return address in opsize. */
static void seg_push_return(struct scpu *c, const struct insn *i)
{
	struct sstack st = stack_now(c);

	stack_probe(c, i, &st, 2u * i->opsize);
	stack_push(c, i, &st, i->opsize, c->seg[X86_CS].sel);
	stack_push(c, i, &st, i->opsize, soft_next_rip(c, i));
	stack_commit(c, &st);
}

void seg_call_far(struct scpu *c, const struct insn *i, uint16_t sel, uint64_t off)
{
	struct seg_desc d;

	if (!soft_prot_seg(c)) {
		if (off > c->seg[X86_CS].limit)
			soft_gp(c, i, 0);
		seg_push_return(c, i);
		seg_real_jump(c, sel, off);
		soft_mode_changed(c);
		return;
	}
	if (sel_null(sel))
		soft_gp(c, i, 0);
	if (!seg_fetch(c, i, sel, &d))
		soft_gp(c, i, sel_err(sel));
	if (desc_code(d.lo)) {
		struct cpu_seg cs = seg_direct(c, i, sel, &d, off);

		seg_push_return(c, i);
		c->seg[X86_CS] = cs;
		c->rip = off;
	} else if (desc_call_gate(c, d.lo)) {
		gate_call(c, i, sel, &d);
	} else if (!seg_task(c, i, sel, &d, TASK_CALL)) {
		soft_gp(c, i, sel_err(sel));
	}
	soft_mode_changed(c);
}

/* CS of a far return or IRET to ring `rpl`. */
static struct cpu_seg seg_return_cs(struct scpu *c, const struct insn *i, uint16_t sel,
				    uint64_t off)
{
	struct seg_desc d;
	unsigned rpl = sel & 3;

	if (sel_null(sel))
		soft_gp(c, i, 0);
	if (!seg_fetch(c, i, sel, &d) || !desc_code(d.lo) || rpl < c->cpl || desc_bad_long(c, d.lo))
		soft_gp(c, i, sel_err(sel));
	if (desc_conforming(d.lo) ? desc_dpl(d.lo) > rpl : desc_dpl(d.lo) != rpl)
		soft_gp(c, i, sel_err(sel));
	if (!desc_present(d.lo))
		soft_raise(c, i, X86_EXC_NP, sel_err(sel));
	struct cpu_seg cs = seg_make_cs(c, i, sel, &d, rpl);
	seg_check_target(c, i, &cs, off);
	return cs;
}

/* SS of a return to ring `cpl`; null is allowed when 64-bit code below ring 3 is returned to. */
static struct cpu_seg seg_return_ss(struct scpu *c, const struct insn *i, uint16_t sel,
				    unsigned cpl, const struct cpu_seg *cs)
{
	if (sel_null(sel) && soft_long(c) && cs->attr & SEG_L && cpl < 3 && (sel & 3u) == cpl) {
		struct cpu_seg ss = seg_null(sel);

		ss.attr |= cpl << SEG_DPL_SHIFT;
		return ss;
	}
	return seg_check_ss(c, i, sel, cpl, X86_EXC_GP, 0);
}

/* The stack pointer of the ring returned to, as wide as its SS says. */
static void seg_return_sp(struct scpu *c, const struct cpu_seg *cs, const struct cpu_seg *ss,
			  uint64_t sp)
{
	if (soft_long(c) && cs->attr & SEG_L)
		c->gpr[X86_RSP] = sp;
	else if (ss->attr & SEG_DB)
		c->gpr[X86_RSP] = (uint32_t)sp;
	else
		c->gpr[X86_RSP] = (c->gpr[X86_RSP] & ~0xffffull) | (sp & 0xffff);
}

static void seg_ret_prot(struct scpu *c, const struct insn *i, unsigned drop)
{
	struct sstack st = stack_now(c);
	uint64_t off = stack_pop(c, i, &st, i->opsize);
	uint16_t sel = (uint16_t)stack_pop(c, i, &st, i->opsize);
	struct cpu_seg cs = seg_return_cs(c, i, sel, off);
	unsigned cpl = sel & 3;

	st.sp = (st.sp + drop) & st.mask;
	if (cpl == c->cpl) {
		stack_commit(c, &st);
		c->seg[X86_CS] = cs;
		c->rip = off;
		return;
	}
	uint64_t sp = stack_pop(c, i, &st, i->opsize);
	uint16_t ss_sel = (uint16_t)stack_pop(c, i, &st, i->opsize);
	struct cpu_seg ss = seg_return_ss(c, i, ss_sel, cpl, &cs);

	c->seg[X86_CS] = cs;
	c->seg[X86_SS] = ss;
	seg_set_cpl(c, cpl);
	seg_return_sp(c, &cs, &ss, sp + drop);
	seg_drop_inner(c, cpl);
	c->rip = off;
}

void seg_ret_far(struct scpu *c, const struct insn *i, unsigned drop)
{
	if (soft_prot_seg(c)) {
		seg_ret_prot(c, i, drop);
	} else {
		struct sstack st = stack_now(c);
		uint64_t off = stack_pop(c, i, &st, i->opsize);
		uint16_t sel = (uint16_t)stack_pop(c, i, &st, i->opsize);

		if (off > c->seg[X86_CS].limit)
			soft_gp(c, i, 0);
		st.sp = (st.sp + drop) & st.mask;
		stack_commit(c, &st);
		seg_real_jump(c, sel, off);
	}
	soft_mode_changed(c);
}

/* ---- IRET (SDM 2A) ---- */

static void iret_real(struct scpu *c, const struct insn *i)
{
	struct sstack st = stack_now(c);
	uint64_t off = stack_pop(c, i, &st, i->opsize);
	uint16_t sel = (uint16_t)stack_pop(c, i, &st, i->opsize);
	uint64_t fl = stack_pop(c, i, &st, i->opsize);
	uint64_t mask = exc_flags_mask(c, i->opsize) | X86_FL_RF;

	if (off > c->seg[X86_CS].limit)
		soft_gp(c, i, 0);
	if (i->opsize == 2)
		mask &= 0xffff;
	stack_commit(c, &st);
	seg_real_jump(c, sel, off);
	soft_rflags_merge(c, fl, mask);
}

/* Ring 0 returns to a virtual-8086 task: six more words are on the stack. */
static void iret_to_vm86(struct scpu *c, const struct insn *i, struct sstack *st, uint64_t off,
			 uint16_t cs, uint64_t fl)
{
	static const uint8_t order[] = { X86_SS, X86_ES, X86_DS, X86_FS, X86_GS };
	uint64_t sp = stack_pop(c, i, st, 4);
	uint16_t sel[COUNT_OF(order)];

	for (unsigned n = 0; n < COUNT_OF(order); n++)
		sel[n] = (uint16_t)stack_pop(c, i, st, 4);
	if (off > 0xffff)
		soft_gp(c, i, 0);
	soft_rflags_set(c, (fl & 0x257fd5) | X86_FL_FIXED);
	seg_set_vm86(c, X86_CS, cs);
	for (unsigned n = 0; n < COUNT_OF(order); n++)
		seg_set_vm86(c, order[n], sel[n]);
	c->gpr[X86_RSP] = (uint32_t)sp;
	c->rip = off;
}

static void iret_prot(struct scpu *c, const struct insn *i)
{
	struct sstack st = stack_now(c);
	unsigned size = i->opsize;
	uint64_t off = stack_pop(c, i, &st, size);
	uint16_t sel = (uint16_t)stack_pop(c, i, &st, size);
	uint64_t fl = stack_pop(c, i, &st, size);

	if (fl & X86_FL_VM && size == 4 && !c->cpl && !soft_long(c)) {
		iret_to_vm86(c, i, &st, off, sel, fl);
		return;
	}
	/* 64-bit mode pops SS:RSP always. */
	bool outer = (sel & 3) > c->cpl || soft_64(c);
	struct cpu_seg cs = seg_return_cs(c, i, sel, off), ss = c->seg[X86_SS];
	uint64_t sp = 0, mask = exc_flags_mask(c, size) | X86_FL_RF;
	unsigned cpl = sel & 3, was = c->cpl;
	if (size == 2)
		mask &= 0xffff;
	if (outer) {
		sp = stack_pop(c, i, &st, size);
		uint16_t ss_sel = (uint16_t)stack_pop(c, i, &st, size);

		ss = seg_return_ss(c, i, ss_sel, cpl, &cs);
	}
	c->seg[X86_CS] = cs;
	c->seg[X86_SS] = ss;
	seg_set_cpl(c, cpl);
	if (outer)
		seg_return_sp(c, &cs, &ss, sp);
	else
		stack_commit(c, &st);
	if (cpl > was)
		seg_drop_inner(c, cpl);
	c->rip = off;
	soft_rflags_merge(c, fl, mask);
}

/* In a virtual-8086 task with IOPL 3: stays there, IOPL does not change. */
static void iret_vm86(struct scpu *c, const struct insn *i)
{
	if (soft_iopl(c) < 3)
		soft_gp(c, i, 0);
	iret_real(c, i);
}

void seg_iret(struct scpu *c, const struct insn *i)
{
	if (!soft_prot(c)) {
		iret_real(c, i);
	} else if (soft_vm86(c)) {
		iret_vm86(c, i);
	} else if (c->rflags & X86_FL_NT) {
		if (soft_long(c))
			soft_gp(c, i, 0);
		/* Back to the task that called: its selector is the first word of our TSS. */
		uint16_t link = (uint16_t)soft_sys_ld(c, i, c->tr.base, 2);

		task_switch(c, i, link, TASK_IRET, soft_next_rip(c, i), false, 0);
	} else {
		iret_prot(c, i);
	}
	soft_mode_changed(c);
	c->ev.nmi_masked = 0;
	/* One that came meanwhile; IF does not matter to it. */
	if (c->ev.nmi_pending)
		sync_set_req(c);
	soft_irq_window(c);
	/*
	 * An interrupt that waits already comes after the next instruction, as the time that a
	 * message takes on its way gives real programs: a level that is held must not stop them for
	 * ever.
	 */
	if (c->run->irq_waits && c->rflags & X86_FL_IF) {
		c->ev.shadow = X86_SHADOW_STI;
		c->run->shadow_rip = c->rip;
	}
}
