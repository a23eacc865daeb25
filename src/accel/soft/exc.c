/*
 * Exceptions and interrupts into the guest (SDM 3A chapter 6), flags as a whole, debug traps.
 *
 * soft_raise() is called where the fault is found.  It records the event and jumps to the run
 * loop's setjmp, and the loop calls exc_deliver().  A fault during delivery takes the same way; the
 * loop then finds soft_run.delivering set and combines the two (table 6-5): the second alone, a
 * double fault, or, after that, shutdown.
 *
 * The EXT bit of error codes says that the event being delivered came from outside the program: an
 * interrupt or an earlier exception, not INT n (SDM 3A 6.13).
 */
#include "accel/soft/mem.h"
#include "accel/soft/sys_int.h"

#include "base/bug.h"

#include <string.h>

/* ---- raising ---- */

/* Vectors that push an error code. */
static bool exc_has_err(unsigned vector)
{
	const uint32_t with = BIT(X86_EXC_DF) | BIT(X86_EXC_TS) | BIT(X86_EXC_NP) |
			      BIT(X86_EXC_SS) | BIT(X86_EXC_GP) | BIT(X86_EXC_PF) | BIT(X86_EXC_AC);

	return vector < 32 && with >> vector & 1;
}

void soft_raise(struct scpu *c, const struct insn *i, unsigned vector, uint32_t err)
{
	BUG_ON(!c->run->trap_set);
	if (i)
		c->rip = soft_rip(c, i);
	c->ev.exc_pending = 1;
	c->ev.exc_vector = (uint8_t)vector;
	c->ev.exc_has_err = exc_has_err(vector);
	c->ev.exc_err = err;
	longjmp(c->trap, 1);
}

void soft_again(struct scpu *c, const struct insn *i)
{
	BUG_ON(!c->run->trap_set);
	c->rip = soft_rip(c, i);
	longjmp(c->trap, 1);
}

void soft_raise_pf(struct scpu *c, const struct insn *i, uint64_t lin, uint32_t err)
{
	c->cr2 = lin;
	soft_raise(c, i, X86_EXC_PF, err);
}

/* ---- flags ---- */

uint64_t soft_rflags_get(const struct scpu *c)
{
	return c->rflags | (c->fl >> 8 & 0xd5) | (uint64_t)(c->fl & 1) << 11;
}

void soft_irq_window(struct scpu *c)
{
	if (c->irq_waits)
		sync_set_req(c);
}

void soft_rflags_set(struct scpu *c, uint64_t v)
{
	uint64_t old = c->rflags;

	c->rflags = (v & ~(uint64_t)X86_FL_STATUS) | X86_FL_FIXED;
	c->fl = (uint16_t)((v & 0xd5) << 8 | 0x200 | (v >> 11 & 1));
	if ((old ^ v) & (X86_FL_AC | X86_FL_VM))
		mmu_select(c);
	/* The loop steps while TF is set.  RF matters to instruction breakpoints alone. */
	if (!(c->dr7 & 0xff))
		c->rflags &= ~X86_FL_RF;
	if (c->rflags & (X86_FL_TF | X86_FL_RF))
		sync_set_req(c);
	if (v & ~old & X86_FL_IF)
		soft_irq_window(c);
}

void soft_rflags_merge(struct scpu *c, uint64_t v, uint64_t mask)
{
	soft_rflags_set(c, (soft_rflags_get(c) & ~mask) | (v & mask));
}

/* SDM 2B POPF, 2A IRET: IOPL changes at CPL 0 only, IF where CPL <= IOPL. */
uint64_t exc_flags_mask(const struct scpu *c, unsigned size)
{
	uint64_t m = X86_FL_STATUS | X86_FL_TF | X86_FL_DF | X86_FL_NT | X86_FL_AC | X86_FL_ID;

	if (c->cpl <= soft_iopl(c))
		m |= X86_FL_IF;
	if (!c->cpl)
		m |= X86_FL_IOPL | X86_FL_VIF | X86_FL_VIP;
	return size == 2 ? m & 0xffff : m;
}

/* ---- delivery: real mode ---- */

static void int_real(struct scpu *c, unsigned vector, uint64_t return_rip)
{
	struct sstack st = stack_now(c);

	if (vector * 4 + 3 > c->idt.limit)
		soft_gp(c, NULL, 0);
	uint64_t off = soft_sys_ld(c, NULL, c->idt.base + 4 * vector, 2);
	uint16_t sel = (uint16_t)soft_sys_ld(c, NULL, c->idt.base + 4 * vector + 2, 2);
	stack_probe(c, NULL, &st, 6);
	stack_push(c, NULL, &st, 2, soft_rflags_get(c));
	stack_push(c, NULL, &st, 2, c->seg[X86_CS].sel);
	stack_push(c, NULL, &st, 2, return_rip);
	stack_commit(c, &st);
	soft_rflags_merge(c, 0, X86_FL_IF | X86_FL_TF | X86_FL_AC | X86_FL_RF);
	seg_set_real(c, X86_CS, sel);
	c->rip = off;
	soft_mode_changed(c);
}

/* ---- delivery: protected mode ---- */

struct delivery {
	unsigned vector;
	enum soft_int kind;
	bool has_err;
	uint32_t err;
	uint64_t return_rip;
	/* EXT bit for faults on the way. */
	uint32_t ext;
	/* The gate. */
	uint64_t lo, hi;
	unsigned type;
	uint16_t sel;
	uint64_t off;
	struct seg_desc cs;
	/* Privilege of the handler. */
	unsigned cpl;
};

enum {
	GATE_TASK = 5,
	GATE_INT16 = 6,
	GATE_TRAP16 = 7,
	GATE_INT32 = 14,
	GATE_TRAP32 = 15,
};

static void gate_check_type(struct scpu *c, const struct delivery *d, uint32_t err)
{
	bool ok = d->type == GATE_INT32 || d->type == GATE_TRAP32;

	if (!soft_long(c))
		ok |= d->type == GATE_TASK || d->type == GATE_INT16 || d->type == GATE_TRAP16;
	if (!ok || (soft_long(c) && d->hi >> 40 & 0x1f))
		soft_gp(c, NULL, err);
}

static void gate_fetch(struct scpu *c, struct delivery *d)
{
	unsigned size = soft_long(c) ? 16 : 8;
	uint32_t err = d->vector * 8 + 2 + d->ext;

	if (d->vector * size + size - 1 > c->idt.limit)
		soft_gp(c, NULL, err);
	uint64_t lin = c->idt.base + d->vector * size;
	d->lo = soft_sys_ld(c, NULL, lin, 8);
	d->hi = size == 16 ? soft_sys_ld(c, NULL, lin + 8, 8) : 0;
	d->type = d->lo >> 40 & 0x1f;
	d->sel = d->lo >> 16 & 0xffff;
	d->off = (d->lo & 0xffff) | (d->type & 8 ? d->lo >> 32 & 0xffff0000 : 0) |
		 (d->hi & 0xffffffff) << 32;
	gate_check_type(c, d, err);
	if ((d->kind == SOFT_INT_SOFT || d->kind == SOFT_INT_PRIV) && (d->lo >> 45 & 3) < c->cpl)
		soft_gp(c, NULL, err);
	if (!(d->lo >> 47 & 1))
		soft_raise(c, NULL, X86_EXC_NP, err);
}

/* The handler's code segment; sets d->cpl. */
static void gate_code(struct scpu *c, struct delivery *d)
{
	uint32_t err = (d->sel & 0xfffc) | d->ext;

	if (!(d->sel & 0xfffc))
		soft_gp(c, NULL, d->ext);
	if (!seg_fetch(c, NULL, d->sel, &d->cs) || (d->cs.lo >> 40 & 0x18) != 0x18)
		soft_gp(c, NULL, err);
	unsigned dpl = d->cs.lo >> 45 & 3;
	bool conforming = d->cs.lo >> 42 & 1;
	if (dpl > c->cpl)
		soft_gp(c, NULL, err);
	if (soft_long(c) && (!(d->cs.lo >> 53 & 1) || d->cs.lo >> 54 & 1))
		soft_gp(c, NULL, err);
	if (!(d->cs.lo >> 47 & 1))
		soft_raise(c, NULL, X86_EXC_NP, err);
	d->cpl = conforming ? c->cpl : dpl;
	/* From virtual-8086 mode the handler must be of ring 0 (SDM 3A 20.3.1). */
	if (soft_vm86(c) && d->cpl)
		soft_gp(c, NULL, err);
}

/* Flags image on the stack: RF is set for faults, so that the instruction can be restarted past its
 * breakpoint (SDM 3B 17.3.1.1); #DB and software interrupts keep or clear it. */
static uint64_t delivery_flags(const struct scpu *c, const struct delivery *d)
{
	uint64_t fl = soft_rflags_get(c);

	if (d->kind == SOFT_INT_EXC && d->vector != X86_EXC_DB && d->vector != X86_EXC_DF)
		fl |= X86_FL_RF;
	if (d->kind == SOFT_INT_SOFT || d->kind == SOFT_INT_PRIV)
		fl &= ~X86_FL_RF;
	return fl;
}

static void delivery_enter(struct scpu *c, const struct delivery *d, const struct cpu_seg *cs,
			   const struct cpu_seg *ss, const struct sstack *st)
{
	uint64_t clear = X86_FL_TF | X86_FL_NT | X86_FL_RF | X86_FL_VM;

	if (!(d->type & 1))
		clear |= X86_FL_IF;
	c->seg[X86_CS] = *cs;
	if (ss) {
		c->seg[X86_SS] = *ss;
		c->seg[X86_SS].attr =
			(c->seg[X86_SS].attr & ~(3u << SEG_DPL_SHIFT)) | d->cpl << SEG_DPL_SHIFT;
	}
	stack_commit(c, st);
	soft_rflags_merge(c, 0, clear);
	c->rip = d->off;
	soft_mode_changed(c);
}

/* Leaving a virtual-8086 task: its data segments go on the stack and become null. */
static void delivery_push_vm86(struct scpu *c, struct sstack *st, unsigned size)
{
	static const uint8_t order[] = { X86_GS, X86_FS, X86_DS, X86_ES };

	for (unsigned n = 0; n < COUNT_OF(order); n++)
		stack_push(c, NULL, st, size, c->seg[order[n]].sel);
}

static void int_prot_gate(struct scpu *c, struct delivery *d)
{
	unsigned size = d->type & 8 ? 4 : 2, words = 3u + d->has_err;
	bool vm = soft_vm86(c);
	struct cpu_seg ss = c->seg[X86_SS], cs;
	struct sstack st = stack_now(c);
	uint64_t fl = delivery_flags(c, d);

	gate_code(c, d);
	bool inner = d->cpl < c->cpl;
	if (inner) {
		uint32_t sel;
		uint64_t sp;

		seg_tss_stack(c, NULL, d->cpl, &sel, &sp);
		ss = seg_check_ss(c, NULL, (uint16_t)sel, d->cpl, X86_EXC_TS, d->ext);
		st = stack_of(c, &ss, sp, d->cpl);
		st.err = sel & 0xfffc;
		words += vm ? 6 : 2;
	}
	st.err |= d->ext;
	seg_set_accessed(c, NULL, &d->cs);
	cs = seg_make((uint16_t)((d->sel & 0xfffc) | d->cpl), d->cs.lo);
	if (d->off > cs.limit)
		soft_gp(c, NULL, d->ext);
	stack_probe(c, NULL, &st, words * size);
	if (inner) {
		if (vm)
			delivery_push_vm86(c, &st, size);
		stack_push(c, NULL, &st, size, c->seg[X86_SS].sel);
		stack_push(c, NULL, &st, size, c->gpr[X86_RSP]);
	}
	stack_push(c, NULL, &st, size, fl);
	stack_push(c, NULL, &st, size, c->seg[X86_CS].sel);
	stack_push(c, NULL, &st, size, d->return_rip);
	if (d->has_err)
		stack_push(c, NULL, &st, size, d->err);
	if (vm) {
		static const uint8_t data[] = { X86_GS, X86_FS, X86_DS, X86_ES };

		for (unsigned n = 0; n < COUNT_OF(data); n++)
			c->seg[data[n]] = (struct cpu_seg){ .attr = SEG_UNUSABLE };
	}
	delivery_enter(c, d, &cs, inner ? &ss : NULL, &st);
}

static void int_prot(struct scpu *c, struct delivery *d)
{
	gate_fetch(c, d);
	if (d->type == GATE_TASK) {
		task_switch(c, NULL, d->sel, TASK_INT, d->return_rip, d->has_err, d->err);
		soft_mode_changed(c);
		return;
	}
	int_prot_gate(c, d);
}

/* ---- delivery: long mode (SDM 3A 6.14) ---- */

static uint64_t tss64_stack(struct scpu *c, const struct delivery *d, unsigned at)
{
	if (at + 7 > c->tr.limit)
		soft_raise(c, NULL, X86_EXC_TS, (c->tr.sel & 0xfffc) | d->ext);
	return soft_sys_ld(c, NULL, c->tr.base + at, 8);
}

static void int_long(struct scpu *c, struct delivery *d)
{
	uint64_t fl = delivery_flags(c, d);

	gate_fetch(c, d);
	gate_code(c, d);
	if (!soft_canonical(d->off))
		soft_gp(c, NULL, d->ext);
	unsigned ist = d->lo >> 32 & 7;
	bool inner = d->cpl < c->cpl;
	struct cpu_seg ss = { .sel = (uint16_t)d->cpl,
			      .attr = SEG_UNUSABLE | d->cpl << SEG_DPL_SHIFT };
	uint64_t rsp = c->gpr[X86_RSP];
	if (!soft_64(c))
		rsp &= c->sp_mask;
	if (ist)
		rsp = tss64_stack(c, d, 0x24 + 8 * (ist - 1));
	else if (inner)
		rsp = tss64_stack(c, d, 4 + 8 * d->cpl);

	struct sstack st = stack_of(c, &ss, rsp & ~0xfull, d->cpl);
	st.flat = true;
	st.mask = ~0ull;
	st.err = d->ext;
	seg_set_accessed(c, NULL, &d->cs);
	struct cpu_seg cs = seg_make((uint16_t)((d->sel & 0xfffc) | d->cpl), d->cs.lo);
	stack_probe(c, NULL, &st, 40 + 8u * d->has_err);
	stack_push(c, NULL, &st, 8, c->seg[X86_SS].sel);
	stack_push(c, NULL, &st, 8, c->gpr[X86_RSP]);
	stack_push(c, NULL, &st, 8, fl);
	stack_push(c, NULL, &st, 8, c->seg[X86_CS].sel);
	stack_push(c, NULL, &st, 8, d->return_rip);
	if (d->has_err)
		stack_push(c, NULL, &st, 8, d->err);
	delivery_enter(c, d, &cs, inner ? &ss : NULL, &st);
}

void soft_interrupt(struct scpu *c, unsigned vector, enum soft_int kind, bool has_err, uint32_t err,
		    uint64_t return_rip)
{
	struct delivery d = {
		.vector = vector,
		.kind = kind,
		.has_err = has_err,
		.err = err,
		.return_rip = return_rip,
		.ext = kind == SOFT_INT_HARD || kind == SOFT_INT_EXC,
	};

	c->run->ext = d.ext;
	if (!soft_prot(c))
		int_real(c, vector, return_rip);
	else if (soft_long(c))
		int_long(c, &d);
	else
		int_prot(c, &d);
	c->run->ext = false;
	c->ev.shadow = 0;
}

/* ---- combining exceptions (SDM 3A table 6-5) ---- */

enum exc_class {
	EXC_BENIGN,
	EXC_CONTRIBUTORY,
	EXC_PAGE_FAULT,
	EXC_DOUBLE,
};

static enum exc_class exc_class(int vector)
{
	switch (vector) {
	case X86_EXC_DE:
	case X86_EXC_TS:
	case X86_EXC_NP:
	case X86_EXC_SS:
	case X86_EXC_GP:
		return EXC_CONTRIBUTORY;
	case X86_EXC_PF:
		return EXC_PAGE_FAULT;
	case X86_EXC_DF:
		return EXC_DOUBLE;
	default:
		return EXC_BENIGN;
	}
}

/* `second` was raised while `first` was delivered: what is delivered now; -1: shutdown. */
static int exc_combine(int first, int second)
{
	enum exc_class a = exc_class(first), b = exc_class(second);

	if (b == EXC_BENIGN || a == EXC_BENIGN)
		return second;
	if (a == EXC_DOUBLE)
		return -1;
	if (a == EXC_CONTRIBUTORY && b == EXC_PAGE_FAULT)
		return second;
	return X86_EXC_DF;
}

bool exc_deliver(struct scpu *c)
{
	struct soft_run *r = c->run;
	int vector = c->ev.exc_vector;
	uint32_t err = c->ev.exc_err;

	if (r->delivering >= 0) {
		vector = exc_combine(r->delivering, vector);
		if (vector < 0)
			return false;
		if (vector == X86_EXC_DF && c->ev.exc_vector != X86_EXC_DF)
			err = 0;
	}
	r->excs++;
	r->delivering = vector;
	c->ev.exc_pending = 0;
	/* The trap of a HLT that is single-stepped. */
	if (c->mp == CPU_MP_HALT)
		c->mp = CPU_MP_RUN;
	/* Error codes are pushed in protected mode only. */
	soft_interrupt(c, (unsigned)vector, SOFT_INT_EXC, exc_has_err((unsigned)vector), err,
		       c->rip);
	r->delivering = -1;
	return true;
}

/* ---- debug traps ---- */

void exc_debug_trap(struct scpu *c, uint64_t dr6_bits)
{
	/* B0-B3 are of this exception only; BD, BS, BT stay until software clears them. */
	c->dr6 = (c->dr6 & ~0xfull) | dr6_bits;
	c->dr7 &= ~X86_DR7_GD;
	soft_raise(c, NULL, X86_EXC_DB, 0);
}
