/*
 * Hardware task switch (SDM 3A chapter 7): JMP, CALL, interrupts and IRET to a TSS, 16 and 32 bits.
 *
 * In the order of SDM 3A 7.3.  Until task_commit() a fault belongs to the old task and nothing has
 * changed; after it, to the new one: such faults are raised with RIP already the new task's.
 */
#include "accel/soft/mem.h"
#include "accel/soft/sys_int.h"

#include <string.h>

enum {
	TSS16 = 1,
	TSS32 = 9,
	TSS_BUSY = 2,
	TSS16_LEN = 0x2c,
	TSS32_LEN = 0x68,
};

/* A TSS in registers' order. */
struct tss {
	uint64_t cr3;
	uint32_t eip, eflags, gpr[8];
	/* ES CS SS DS FS GS */
	uint16_t seg[6], ldt;
	bool trap;
};

/* Offsets of figure 7-2 (32 bits) and 7-10 (16 bits). */
static void tss_read(struct scpu *c, const struct insn *i, uint64_t base, bool wide, struct tss *t)
{
	*t = (struct tss){ 0 };
	if (wide) {
		t->cr3 = soft_sys_ld(c, i, base + 0x1c, 4);
		t->eip = (uint32_t)soft_sys_ld(c, i, base + 0x20, 4);
		t->eflags = (uint32_t)soft_sys_ld(c, i, base + 0x24, 4);
		for (unsigned n = 0; n < 8; n++)
			t->gpr[n] = (uint32_t)soft_sys_ld(c, i, base + 0x28 + 4 * n, 4);
		for (unsigned n = 0; n < 6; n++)
			t->seg[n] = (uint16_t)soft_sys_ld(c, i, base + 0x48 + 4 * n, 2);
		t->ldt = (uint16_t)soft_sys_ld(c, i, base + 0x60, 2);
		t->trap = soft_sys_ld(c, i, base + 0x64, 2) & 1;
		return;
	}
	t->eip = (uint32_t)soft_sys_ld(c, i, base + 0xe, 2);
	t->eflags = (uint32_t)soft_sys_ld(c, i, base + 0x10, 2);
	for (unsigned n = 0; n < 8; n++)
		t->gpr[n] = (uint32_t)(soft_sys_ld(c, i, base + 0x12 + 2 * n, 2) | 0xffff0000);
	for (unsigned n = 0; n < 4; n++)
		t->seg[n] = (uint16_t)soft_sys_ld(c, i, base + 0x22 + 2 * n, 2);
	t->ldt = (uint16_t)soft_sys_ld(c, i, base + 0x2a, 2);
}

/* Raises when a part that task_save() writes cannot be written. */
static void tss_probe(struct scpu *c, const struct insn *i, uint64_t base, bool wide)
{
	unsigned first = wide ? 0x20 : 0xe, last = wide ? 0x5f : 0x29;

	mmu_probe_as(c, i, base + first, 1, SACC_W);
	mmu_probe_as(c, i, base + last, 1, SACC_W);
}

static void task_save(struct scpu *c, const struct insn *i, uint64_t base, bool wide, uint64_t rip,
		      uint64_t fl)
{
	unsigned size = wide ? 4 : 2, at = wide ? 0x20 : 0xe;

	soft_sys_st(c, i, base + at, size, rip);
	soft_sys_st(c, i, base + at + size, size, fl);
	for (unsigned n = 0; n < 8; n++)
		soft_sys_st(c, i, base + at + size * (2 + n), size, c->gpr[n]);
	at += size * 10;
	for (unsigned n = 0; n < (wide ? 6u : 4u); n++)
		soft_sys_st(c, i, base + at + size * n, 2, c->seg[n].sel);
}

static uint64_t tss_desc_lin(const struct scpu *c, uint16_t sel)
{
	return (c->gdt.base + (sel & 0xfff8)) & (soft_long(c) ? ~0ull : 0xffffffff);
}

/* Byte 5 of a TSS descriptor: type and busy bit. */
static void tss_set_busy(struct scpu *c, const struct insn *i, uint16_t sel, bool busy)
{
	uint64_t lin = tss_desc_lin(c, sel) + 5, v = soft_sys_ld(c, i, lin, 1);

	soft_sys_st(c, i, lin, 1, busy ? v | TSS_BUSY : v & ~(uint64_t)TSS_BUSY);
}

/* The checks on the new TSS's descriptor; returns its hidden part. */
static struct cpu_seg task_check(struct scpu *c, const struct insn *i, uint16_t sel,
				 enum task_why why)
{
	struct seg_desc d;
	uint32_t ext = why == TASK_INT && c->run->ext, err = (sel & 0xfffc) | ext;
	unsigned wrong = why == TASK_IRET ? X86_EXC_TS : X86_EXC_GP;

	if (!(sel & 0xfffc) || sel & 4 || !seg_fetch(c, i, sel, &d))
		soft_raise(c, i, wrong, err);
	unsigned type = d.lo >> 40 & 0x1f, busy = why == TASK_IRET ? TSS_BUSY : 0;
	if (type != (TSS16 | busy) && type != (TSS32 | busy))
		soft_raise(c, i, wrong, err);
	if (!(d.lo >> 47 & 1))
		soft_raise(c, i, X86_EXC_NP, err);
	struct cpu_seg tr = seg_make(sel, d.lo);
	if (tr.limit < (type & 8 ? TSS32_LEN : TSS16_LEN) - 1)
		soft_raise(c, i, X86_EXC_TS, err);
	return tr;
}

/* From here on we are the new task. */
static void task_commit(struct scpu *c, const struct cpu_seg *tr, const struct tss *t, bool wide)
{
	c->tr = *tr;
	c->tr.attr |= TSS_BUSY;
	c->cr0 |= X86_CR0_TS;
	if (wide && c->cr0 & X86_CR0_PG && t->cr3 != c->cr3) {
		c->cr3 = t->cr3;
		if (c->cr4 & X86_CR4_PAE)
			(void)mmu_load_pdptrs(c, c->cr3);
		mmu_switch(c, false);
	}
	c->rip = t->eip;
	for (unsigned n = 0; n < 8; n++)
		c->gpr[n] = t->gpr[n];
	c->dr7 &= ~0x155ull;
	mmu_debug_changed(c);
	/* Selectors first: a fault below leaves them visible and unusable. */
	for (unsigned n = 0; n < 6; n++)
		c->seg[n] = (struct cpu_seg){ .sel = t->seg[n], .attr = SEG_UNUSABLE };
	c->ldt = (struct cpu_seg){ .sel = t->ldt, .attr = SEG_UNUSABLE };
}

static void task_load_ldt(struct scpu *c, uint16_t sel, uint32_t ext)
{
	struct seg_desc d;

	if (!(sel & 0xfffc))
		return;
	if (sel & 4 || !seg_fetch(c, NULL, sel, &d) || (d.lo >> 40 & 0x1f) != 2 ||
	    !(d.lo >> 47 & 1))
		soft_raise(c, NULL, X86_EXC_TS, (sel & 0xfffc) | ext);
	c->ldt = seg_make(sel, d.lo);
}

static void task_load_cs(struct scpu *c, uint16_t sel, uint32_t ext)
{
	struct seg_desc d;
	unsigned rpl = sel & 3;

	if (!(sel & 0xfffc) || !seg_fetch(c, NULL, sel, &d) || (d.lo >> 40 & 0x18) != 0x18)
		soft_raise(c, NULL, X86_EXC_TS, (sel & 0xfffc) | ext);
	unsigned dpl = d.lo >> 45 & 3;
	bool conforming = d.lo >> 42 & 1;
	if (conforming ? dpl > rpl : dpl != rpl)
		soft_raise(c, NULL, X86_EXC_TS, (sel & 0xfffc) | ext);
	if (!(d.lo >> 47 & 1))
		soft_raise(c, NULL, X86_EXC_NP, (sel & 0xfffc) | ext);
	seg_set_accessed(c, NULL, &d);
	c->seg[X86_CS] = seg_make(sel, d.lo);
}

static void task_load_data(struct scpu *c, unsigned seg, uint16_t sel, unsigned cpl, uint32_t ext)
{
	struct seg_desc d;

	if (!(sel & 0xfffc))
		return;
	if (!seg_fetch(c, NULL, sel, &d))
		soft_raise(c, NULL, X86_EXC_TS, (sel & 0xfffc) | ext);
	unsigned type = d.lo >> 40 & 0x1f, dpl = d.lo >> 45 & 3;
	bool conforming = (type & 0xc) == 0xc;
	if (!(type & 0x10) || (type & 0xa) == 8 || (!conforming && (dpl < cpl || dpl < (sel & 3u))))
		soft_raise(c, NULL, X86_EXC_TS, (sel & 0xfffc) | ext);
	if (!(d.lo >> 47 & 1))
		soft_raise(c, NULL, X86_EXC_NP, (sel & 0xfffc) | ext);
	seg_set_accessed(c, NULL, &d);
	c->seg[seg] = seg_make(sel, d.lo);
}

static void task_load_segments(struct scpu *c, const struct tss *t, uint32_t ext)
{
	static const uint8_t data[] = { X86_ES, X86_DS, X86_FS, X86_GS };

	if (t->eflags & X86_FL_VM) {
		for (unsigned n = 0; n < 6; n++)
			seg_set_vm86(c, n, t->seg[n]);
		soft_mode_changed(c);
		task_load_ldt(c, t->ldt, ext);
		return;
	}
	unsigned cpl = t->seg[X86_CS] & 3;
	/* CPL is that of the new CS from now on (faults below are delivered from it). */
	c->seg[X86_SS].attr |= cpl << SEG_DPL_SHIFT;
	task_load_ldt(c, t->ldt, ext);
	task_load_cs(c, t->seg[X86_CS], ext);
	soft_mode_changed(c);
	c->seg[X86_SS] = seg_check_ss(c, NULL, t->seg[X86_SS], cpl, X86_EXC_TS, ext);
	soft_mode_changed(c);
	for (unsigned n = 0; n < COUNT_OF(data); n++)
		task_load_data(c, data[n], t->seg[data[n]], cpl, ext);
	soft_mode_changed(c);
}

void task_switch(struct scpu *c, const struct insn *i, uint16_t sel, enum task_why why,
		 uint64_t next_rip, bool has_err, uint32_t err)
{
	struct cpu_seg tr = task_check(c, i, sel, why), old = c->tr;
	bool wide = tr.attr & 8, old_wide = old.attr & 8,
	     nested = why == TASK_CALL || why == TASK_INT;
	uint32_t ext = why == TASK_INT && c->run->ext;
	uint64_t fl = soft_rflags_get(c);
	struct tss t;

	tss_probe(c, i, old.base, old_wide);
	tss_read(c, i, tr.base, wide, &t);
	if (nested)
		mmu_probe_as(c, i, tr.base, 2, SACC_W);
	if (why == TASK_JMP || why == TASK_IRET)
		tss_set_busy(c, i, old.sel, false);
	if (why == TASK_IRET)
		fl &= ~X86_FL_NT;
	task_save(c, i, old.base, old_wide, next_rip, fl);
	if (nested) {
		soft_sys_st(c, i, tr.base, 2, old.sel);
		t.eflags |= X86_FL_NT;
	}
	if (why != TASK_IRET)
		tss_set_busy(c, i, sel, true);

	task_commit(c, &tr, &t, wide);
	soft_rflags_set(c, (t.eflags & 0x277fd5) | X86_FL_FIXED);
	task_load_segments(c, &t, ext);
	if (has_err) {
		struct sstack st = stack_now(c);

		stack_push(c, NULL, &st, wide ? 4 : 2, err);
		stack_commit(c, &st);
	}
	if (c->rip > c->seg[X86_CS].limit)
		soft_gp(c, NULL, ext);
	/* The switch is done, and with it what it delivered: the trap is the new task's. */
	if (t.trap) {
		c->run->delivering = -1;
		exc_debug_trap(c, X86_DR6_BT);
	}
}
