/*
 * Far transfers: what changes CS.  Direct JMP and CALL, call gates, far RET and IRET (SDM 3A 5.8;
 * the instruction pages of CALL, JMP, RET, IRET in SDM 2).
 *
 * As in seg.c all that may raise comes before the first change of a register.
 */
#include "accel/soft/mem.h"
#include "accel/soft/seg_int.h"

/* ---- code segments ---- */

/* The upper half of a 16-byte descriptor in long mode; false: outside the table. */
static bool seg_fetch_high(struct scpu *c, const struct insn *i, uint16_t sel, struct seg_desc *d)
{
	uint32_t limit = sel & 4 ? c->ldt.limit : c->gdt.limit;

	if ((sel & 0xfff8u) + 15 > limit)
		return false;
	d->hi = soft_sys_ld(c, i, d->lin + 8, 8);
	return true;
}

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
	/* VIF and VIP stay as they are (SDM 2A IRET). */
	uint64_t mask = (exc_flags_mask(c, i->opsize) & ~(X86_FL_VIF | X86_FL_VIP)) | X86_FL_RF;

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
	/* All of them; ring 0 may. */
	soft_rflags_set(c, (fl & 0x3f7fd5) | X86_FL_FIXED);
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
	if (c->irq_waits && c->rflags & X86_FL_IF) {
		c->ev.shadow = X86_SHADOW_STI;
		c->run->shadow_rip = c->rip;
	}
}
