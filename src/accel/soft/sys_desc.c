/*
 * Handlers of the instructions about descriptor tables: LGDT and its kin, LLDT, LTR, and those that
 * ask what a selector would give (LAR, LSL, VERR, VERW, ARPL).  SDM 2 has a page for each, SDM 3A
 * 3.5 the tables.
 */
#include "accel/soft/sys_op.h"

/* ---- descriptor tables ---- */

/* Pseudo-descriptor: limit, then base of 3, 4 or 8 bytes. */
static struct cpu_table table_load(struct scpu *c, const struct insn *i)
{
	uint64_t ea = soft_ea(c, i);
	unsigned size = soft_64(c) ? 8 : 4;
	struct cpu_table t;

	t.limit = (uint16_t)soft_ld(c, i, i->seg, ea, 2);
	t.base = soft_ld(c, i, i->seg, (ea + 2) & i->ea_mask, size);
	if (!soft_64(c) && i->opsize == 2)
		t.base &= 0xffffff;
	if (soft_64(c) && !soft_canonical(t.base))
		soft_gp(c, i, 0);
	return t;
}

static void table_store(struct scpu *c, const struct insn *i, const struct cpu_table *t)
{
	uint64_t ea = soft_ea(c, i);
	unsigned size = soft_64(c) ? 8 : 4;

	need_umip(c, i);
	soft_probe_w(c, i, soft_lin(c, i, i->seg, ea, 2 + size, true), 2 + size);
	soft_st(c, i, i->seg, ea, 2, t->limit);
	soft_st(c, i, i->seg, (ea + 2) & i->ea_mask, size, t->base);
	SOFT_NEXT(c, i);
}

void sys_sgdt(struct scpu *c, const struct insn *i)
{
	table_store(c, i, &c->gdt);
}

void sys_sidt(struct scpu *c, const struct insn *i)
{
	table_store(c, i, &c->idt);
}

void sys_lgdt(struct scpu *c, const struct insn *i)
{
	need_cpl0(c, i);
	c->gdt = table_load(c, i);
	SOFT_NEXT(c, i);
}

void sys_lidt(struct scpu *c, const struct insn *i)
{
	need_cpl0(c, i);
	c->idt = table_load(c, i);
	SOFT_NEXT(c, i);
}

void sys_sldt(struct scpu *c, const struct insn *i)
{
	need_prot(c, i);
	need_umip(c, i);
	rm_set(c, i, i->flags & INSN_MEM ? 2 : i->opsize, c->ldt.sel);
	SOFT_NEXT(c, i);
}

void sys_str(struct scpu *c, const struct insn *i)
{
	need_prot(c, i);
	need_umip(c, i);
	rm_set(c, i, i->flags & INSN_MEM ? 2 : i->opsize, c->tr.sel);
	SOFT_NEXT(c, i);
}

/* A system descriptor of the GDT for LLDT and LTR, 16 bytes in long mode. */
static struct cpu_seg system_desc(struct scpu *c, const struct insn *i, uint16_t sel,
				  uint32_t types, struct seg_desc *d)
{
	uint32_t err = sel & 0xfffc;

	if (sel & 4 || !seg_fetch(c, i, sel, d))
		soft_gp(c, i, err);
	unsigned type = d->lo >> 40 & 0x1f;
	if (type > 15 || !(types >> type & 1))
		soft_gp(c, i, err);
	if (soft_long(c)) {
		if ((sel & 0xfff8u) + 15 > c->gdt.limit)
			soft_gp(c, i, err);
		d->hi = soft_sys_ld(c, i, d->lin + 8, 8);
		if (d->hi >> 40 & 0x1f)
			soft_gp(c, i, err);
	}
	if (!(d->lo >> 47 & 1))
		soft_raise(c, i, X86_EXC_NP, err);
	struct cpu_seg s = seg_make(sel, d->lo);
	if (soft_long(c)) {
		s.base |= d->hi << 32;
		if (!soft_canonical(s.base))
			soft_gp(c, i, err);
	}
	return s;
}

void sys_lldt(struct scpu *c, const struct insn *i)
{
	struct seg_desc d;

	need_prot(c, i);
	need_cpl0(c, i);
	uint16_t sel = (uint16_t)rm_get(c, i, 2);
	if (!(sel & 0xfffc))
		c->ldt = (struct cpu_seg){ .sel = sel, .attr = SEG_UNUSABLE };
	else
		c->ldt = system_desc(c, i, sel, BIT(2), &d);
	SOFT_NEXT(c, i);
}

void sys_ltr(struct scpu *c, const struct insn *i)
{
	struct seg_desc d;

	need_prot(c, i);
	need_cpl0(c, i);
	uint16_t sel = (uint16_t)rm_get(c, i, 2);
	if (!(sel & 0xfffc))
		soft_gp(c, i, 0);
	struct cpu_seg tr = system_desc(c, i, sel, soft_long(c) ? BIT(9) : BIT(1) | BIT(9), &d);
	/* Busy, in memory too. */
	soft_sys_st(c, i, d.lin + 5, 1, (d.lo >> 40 & 0xff) | 2);
	tr.attr |= 2;
	c->tr = tr;
	SOFT_NEXT(c, i);
}

/* ---- LAR, LSL, VERR, VERW, ARPL ---- */

/* Types that LAR and LSL accept (SDM 2A tables 3-51, 3-55), outside and in long mode. */
enum {
	LAR_TYPES = 0x1a3e,
	LAR_TYPES_LONG = 0x1a04,
	LSL_TYPES = 0x0a0e,
	LSL_TYPES_LONG = 0x0a04,
};

/* The descriptor, if the selector may be looked at from here. */
static bool desc_visible(struct scpu *c, const struct insn *i, uint16_t sel, uint32_t sys_types,
			 struct seg_desc *d)
{
	if (!(sel & 0xfffc) || !seg_fetch(c, i, sel, d))
		return false;
	unsigned type = d->lo >> 40 & 0x1f, dpl = d->lo >> 45 & 3;
	if (!(type & 0x10) && !(sys_types >> type & 1))
		return false;
	/* Conforming code is visible to all. */
	return (type & 0x1c) == 0x1c || (dpl >= c->cpl && dpl >= (sel & 3u));
}

void sys_lar(struct scpu *c, const struct insn *i)
{
	struct seg_desc d;

	need_prot(c, i);
	uint16_t sel = (uint16_t)rm_get(c, i, 2);
	bool ok = desc_visible(c, i, sel, soft_long(c) ? LAR_TYPES_LONG : LAR_TYPES, &d);
	if (ok)
		gpr_set(c, i->reg, i->opsize, d.lo >> 32 & 0x00ffff00);
	set_zf(c, ok);
	SOFT_NEXT(c, i);
}

void sys_lsl(struct scpu *c, const struct insn *i)
{
	struct seg_desc d;

	need_prot(c, i);
	uint16_t sel = (uint16_t)rm_get(c, i, 2);
	bool ok = desc_visible(c, i, sel, soft_long(c) ? LSL_TYPES_LONG : LSL_TYPES, &d);
	if (ok)
		gpr_set(c, i->reg, i->opsize, seg_make(sel, d.lo).limit);
	set_zf(c, ok);
	SOFT_NEXT(c, i);
}

void sys_verr(struct scpu *c, const struct insn *i)
{
	struct seg_desc d;

	need_prot(c, i);
	bool ok = desc_visible(c, i, (uint16_t)rm_get(c, i, 2), 0, &d);
	/* Code must be readable. */
	set_zf(c, ok && (d.lo >> 40 & 0xa) != 8);
	SOFT_NEXT(c, i);
}

void sys_verw(struct scpu *c, const struct insn *i)
{
	struct seg_desc d;

	need_prot(c, i);
	bool ok = desc_visible(c, i, (uint16_t)rm_get(c, i, 2), 0, &d);
	set_zf(c, ok && (d.lo >> 40 & 0xa) == 2);
	SOFT_NEXT(c, i);
}

void sys_arpl(struct scpu *c, const struct insn *i)
{
	need_prot(c, i);
	uint16_t dst = (uint16_t)rm_get(c, i, 2), src = (uint16_t)c->gpr[i->reg];
	bool up = (dst & 3) < (src & 3);

	if (up)
		rm_set(c, i, 2, (dst & 0xfffc) | (src & 3));
	set_zf(c, up);
	SOFT_NEXT(c, i);
}
