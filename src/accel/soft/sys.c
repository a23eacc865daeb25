/*
 * Handlers of the system instructions (class SYS of insn.tab): control and debug registers, tables,
 * far transfers, flags as a whole, ports, SYSCALL and its kin, CPUID, TLB management.  SDM 2 has a
 * page for each; checks are made in the order of those pages.
 *
 * A handler checks, then does, then either goes on with SOFT_NEXT (it changed nothing that the rest
 * of the block depends on) or sets c->rip and returns (sys_end).
 */
#include "accel/soft/insn.h"
#include "accel/soft/mem.h"
#include "accel/soft/sys_int.h"

#include "base/num.h"

#include <cpuid.h>
#include <immintrin.h>
#include <sched.h>
#include <string.h>

/* ---- helpers ---- */

static void sys_end(struct scpu *c, const struct insn *i)
{
	c->rip = soft_next_rip(c, i);
}

static uint64_t mask_of(unsigned size)
{
	return ~0ull >> (64 - 8 * size);
}

/* Operand ModRM.rm, register or memory. */
static uint64_t rm_get(struct scpu *c, const struct insn *i, unsigned size)
{
	if (i->flags & INSN_MEM)
		return soft_ld(c, i, i->seg, soft_ea(c, i), size);
	return c->gpr[i->rm] & mask_of(size);
}

static void gpr_set(struct scpu *c, unsigned r, unsigned size, uint64_t v)
{
	if (size == 2)
		c->gpr[r] = (c->gpr[r] & ~0xffffull) | (v & 0xffff);
	else
		c->gpr[r] = v & mask_of(size);
}

static void rm_set(struct scpu *c, const struct insn *i, unsigned size, uint64_t v)
{
	if (i->flags & INSN_MEM)
		soft_st(c, i, i->seg, soft_ea(c, i), size, v);
	else
		gpr_set(c, i->rm, size, v);
}

static void need_cpl0(struct scpu *c, const struct insn *i)
{
	if (c->cpl)
		soft_gp(c, i, 0);
}

static void need_prot(struct scpu *c, const struct insn *i)
{
	if (!soft_prot_seg(c))
		soft_ud(c, i);
}

static void set_zf(struct scpu *c, bool zf)
{
	c->fl = (uint16_t)((c->fl & ~(1u << 14)) | (unsigned)zf << 14);
}

/* UMIP: these are for ring 0 alone then. */
static void need_umip(struct scpu *c, const struct insn *i)
{
	if (c->cpl && c->cr4 & X86_CR4_UMIP)
		soft_gp(c, i, 0);
}

/* ---- segment registers ---- */

/* MOV Sreg, r/m16 */
static void sys_mov_sreg(struct scpu *c, const struct insn *i)
{
	if (i->reg > X86_GS || i->reg == X86_CS)
		soft_ud(c, i);
	seg_load(c, i, i->reg, (uint16_t)rm_get(c, i, 2));
	soft_mode_changed(c);
	sys_end(c, i);
	if (i->reg == X86_SS) {
		c->ev.shadow = X86_SHADOW_MOV_SS;
		c->run->shadow_rip = c->rip;
	}
}

static void sys_pop_sreg(struct scpu *c, const struct insn *i)
{
	struct sstack st = stack_now(c);
	/* Only the selector's word is looked at, but the whole operand is read. */
	uint16_t sel = (uint16_t)stack_pop(c, i, &st, i->opsize);

	seg_load(c, i, i->reg, sel);
	stack_commit(c, &st);
	soft_mode_changed(c);
	sys_end(c, i);
	if (i->reg == X86_SS) {
		c->ev.shadow = X86_SHADOW_MOV_SS;
		c->run->shadow_rip = c->rip;
	}
}

/* Offset and selector of a far pointer in memory. */
static uint16_t far_pointer(struct scpu *c, const struct insn *i, uint64_t *ret_off)
{
	uint64_t ea = soft_ea(c, i);

	*ret_off = soft_ld(c, i, i->seg, ea, i->opsize);
	return (uint16_t)soft_ld(c, i, i->seg, (ea + i->opsize) & i->ea_mask, 2);
}

static void load_far(struct scpu *c, const struct insn *i, unsigned seg)
{
	uint64_t off;
	uint16_t sel = far_pointer(c, i, &off);

	seg_load(c, i, seg, sel);
	gpr_set(c, i->reg, i->opsize, off);
	soft_mode_changed(c);
	sys_end(c, i);
}

static void sys_les(struct scpu *c, const struct insn *i)
{
	load_far(c, i, X86_ES);
}

static void sys_lds(struct scpu *c, const struct insn *i)
{
	load_far(c, i, X86_DS);
}

static void sys_lss(struct scpu *c, const struct insn *i)
{
	load_far(c, i, X86_SS);
}

static void sys_lfs(struct scpu *c, const struct insn *i)
{
	load_far(c, i, X86_FS);
}

static void sys_lgs(struct scpu *c, const struct insn *i)
{
	load_far(c, i, X86_GS);
}

/* ---- far transfers ---- */

static void sys_jmp_far(struct scpu *c, const struct insn *i)
{
	uint64_t off = i->imm & mask_of(i->opsize);
	uint16_t sel = i->imm2;

	if (i->flags & INSN_MEM)
		sel = far_pointer(c, i, &off);
	seg_jmp_far(c, i, sel, off);
}

static void sys_call_far(struct scpu *c, const struct insn *i)
{
	uint64_t off = i->imm & mask_of(i->opsize);
	uint16_t sel = i->imm2;

	if (i->flags & INSN_MEM)
		sel = far_pointer(c, i, &off);
	seg_call_far(c, i, sel, off);
}

static void sys_ret_far(struct scpu *c, const struct insn *i)
{
	seg_ret_far(c, i, i->opcode == 0xca ? i->imm & 0xffff : 0);
}

static void sys_iret(struct scpu *c, const struct insn *i)
{
	seg_iret(c, i);
}

/* ---- software interrupts ---- */

static void soft_int(struct scpu *c, const struct insn *i, unsigned vector, enum soft_int kind)
{
	uint64_t next = soft_next_rip(c, i);

	/* A fault on the way is one of this instruction. */
	c->rip = soft_rip(c, i);
	soft_interrupt(c, vector, kind, false, 0, next);
}

static void sys_int(struct scpu *c, const struct insn *i)
{
	if (soft_vm86(c) && soft_iopl(c) < 3)
		soft_gp(c, i, 0);
	soft_int(c, i, i->imm & 0xff, SOFT_INT_SOFT);
}

static void sys_int3(struct scpu *c, const struct insn *i)
{
	soft_int(c, i, X86_EXC_BP, SOFT_INT_PRIV);
}

static void sys_into(struct scpu *c, const struct insn *i)
{
	if (c->fl & 1)
		soft_int(c, i, X86_EXC_OF, SOFT_INT_PRIV);
	else
		sys_end(c, i);
}

/* INT1 is a trap #DB without DPL checks (SDM 2A INT n, INT1). */
static void sys_int1(struct scpu *c, const struct insn *i)
{
	uint64_t next = soft_next_rip(c, i);

	c->rip = soft_rip(c, i);
	soft_interrupt(c, X86_EXC_DB, SOFT_INT_HARD, false, 0, next);
}

/* ---- flags ---- */

static void sys_pushf(struct scpu *c, const struct insn *i)
{
	struct sstack st = stack_now(c);

	if (soft_vm86(c) && soft_iopl(c) < 3)
		soft_gp(c, i, 0);
	stack_push(c, i, &st, i->opsize, soft_rflags_get(c) & ~(X86_FL_RF | X86_FL_VM));
	stack_commit(c, &st);
	sys_end(c, i);
}

static void sys_popf(struct scpu *c, const struct insn *i)
{
	struct sstack st = stack_now(c);

	if (soft_vm86(c) && soft_iopl(c) < 3)
		soft_gp(c, i, 0);
	uint64_t v = stack_pop(c, i, &st, i->opsize), mask = exc_flags_mask(c, i->opsize);
	/* VIF and VIP are cleared, IOPL stays in virtual-8086 mode (exc_flags_mask says so). */
	if (mask & X86_FL_VIF)
		v &= ~(X86_FL_VIF | X86_FL_VIP);
	stack_commit(c, &st);
	sys_end(c, i);
	soft_rflags_merge(c, v, mask);
	c->rflags &= ~X86_FL_RF;
}

static void sys_cli(struct scpu *c, const struct insn *i)
{
	if (c->cpl > soft_iopl(c))
		soft_gp(c, i, 0);
	c->rflags &= ~X86_FL_IF;
	SOFT_NEXT(c, i);
}

static void sys_sti(struct scpu *c, const struct insn *i)
{
	if (c->cpl > soft_iopl(c))
		soft_gp(c, i, 0);
	sys_end(c, i);
	if (c->rflags & X86_FL_IF)
		return;
	c->rflags |= X86_FL_IF;
	c->ev.shadow = X86_SHADOW_STI;
	c->run->shadow_rip = c->rip;
	soft_irq_window(c);
}

static void sys_clac(struct scpu *c, const struct insn *i)
{
	if (c->cpl)
		soft_ud(c, i);
	c->rflags &= ~X86_FL_AC;
	mmu_select(c);
	SOFT_NEXT(c, i);
}

static void sys_stac(struct scpu *c, const struct insn *i)
{
	if (c->cpl)
		soft_ud(c, i);
	c->rflags |= X86_FL_AC;
	mmu_select(c);
	SOFT_NEXT(c, i);
}

/* ---- halting and waiting ---- */

static void sys_hlt(struct scpu *c, const struct insn *i)
{
	need_cpl0(c, i);
	sys_end(c, i);
	c->mp = CPU_MP_HALT;
	sync_set_req(c);
}

/* A guest that spins waits for another vCPU, which may want this host CPU. */
static void sys_pause(struct scpu *c, const struct insn *i)
{
	enum {
		SPINS = 64,
	};

	sys_end(c, i);
	if (++c->run->spins % SPINS == 0 && !c->run->assist && c->run->sh->ncpu > 1)
		sched_yield();
}

/* ---- ports (SDM 1 19.5) ---- */

void soft_io_check(struct scpu *c, const struct insn *i, uint16_t port, unsigned size)
{
	if (!soft_prot(c) || (c->cpl <= soft_iopl(c) && !soft_vm86(c)))
		return;
	/* The bitmap of a 32-bit or 64-bit TSS: every bit of the ports must be 0. */
	if ((c->tr.attr & SEG_TYPE) < 9 || c->tr.limit < 0x67)
		soft_gp(c, i, 0);
	uint32_t at = (uint32_t)soft_sys_ld(c, i, c->tr.base + 0x66, 2) + port / 8;
	if (at + 1 > c->tr.limit)
		soft_gp(c, i, 0);
	uint64_t bits = soft_sys_ld(c, i, c->tr.base + at, 2) >> (port & 7);
	if (bits & (BIT(size) - 1))
		soft_gp(c, i, 0);
}

uint32_t soft_io_read(struct scpu *c, const struct insn *i, uint16_t port, unsigned size)
{
	soft_io_check(c, i, port, size);
	return (uint32_t)bus_read(c->v.vm->o.pio, port, size);
}

void soft_io_write(struct scpu *c, const struct insn *i, uint16_t port, unsigned size, uint32_t v)
{
	soft_io_check(c, i, port, size);
	bus_write(c->v.vm->o.pio, port, size, v & mask_of(size));
}

static uint16_t io_port(const struct scpu *c, const struct insn *i)
{
	/* E4-E7 name the port, EC-EF take DX. */
	return i->opcode & 8 ? (uint16_t)c->gpr[X86_RDX] : (uint8_t)i->imm;
}

static unsigned io_size(const struct insn *i)
{
	return i->opcode & 1 ? i->opsize : 1;
}

static void sys_in(struct scpu *c, const struct insn *i)
{
	unsigned size = io_size(i);
	uint32_t v = soft_io_read(c, i, io_port(c, i), size);

	if (size == 1)
		c->gpr[X86_RAX] = (c->gpr[X86_RAX] & ~0xffull) | (v & 0xff);
	else
		gpr_set(c, X86_RAX, size, v);
	sys_end(c, i);
}

static void sys_out(struct scpu *c, const struct insn *i)
{
	soft_io_write(c, i, io_port(c, i), io_size(i), (uint32_t)c->gpr[X86_RAX]);
	sys_end(c, i);
}

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

static void sys_sgdt(struct scpu *c, const struct insn *i)
{
	table_store(c, i, &c->gdt);
}

static void sys_sidt(struct scpu *c, const struct insn *i)
{
	table_store(c, i, &c->idt);
}

static void sys_lgdt(struct scpu *c, const struct insn *i)
{
	need_cpl0(c, i);
	c->gdt = table_load(c, i);
	SOFT_NEXT(c, i);
}

static void sys_lidt(struct scpu *c, const struct insn *i)
{
	need_cpl0(c, i);
	c->idt = table_load(c, i);
	SOFT_NEXT(c, i);
}

static void sys_sldt(struct scpu *c, const struct insn *i)
{
	need_prot(c, i);
	need_umip(c, i);
	rm_set(c, i, i->flags & INSN_MEM ? 2 : i->opsize, c->ldt.sel);
	SOFT_NEXT(c, i);
}

static void sys_str(struct scpu *c, const struct insn *i)
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

static void sys_lldt(struct scpu *c, const struct insn *i)
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

static void sys_ltr(struct scpu *c, const struct insn *i)
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

static void sys_lar(struct scpu *c, const struct insn *i)
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

static void sys_lsl(struct scpu *c, const struct insn *i)
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

static void sys_verr(struct scpu *c, const struct insn *i)
{
	struct seg_desc d;

	need_prot(c, i);
	bool ok = desc_visible(c, i, (uint16_t)rm_get(c, i, 2), 0, &d);
	/* Code must be readable. */
	set_zf(c, ok && (d.lo >> 40 & 0xa) != 8);
	SOFT_NEXT(c, i);
}

static void sys_verw(struct scpu *c, const struct insn *i)
{
	struct seg_desc d;

	need_prot(c, i);
	bool ok = desc_visible(c, i, (uint16_t)rm_get(c, i, 2), 0, &d);
	set_zf(c, ok && (d.lo >> 40 & 0xa) == 2);
	SOFT_NEXT(c, i);
}

static void sys_arpl(struct scpu *c, const struct insn *i)
{
	need_prot(c, i);
	uint16_t dst = (uint16_t)rm_get(c, i, 2), src = (uint16_t)c->gpr[i->reg];
	bool up = (dst & 3) < (src & 3);

	if (up)
		rm_set(c, i, 2, (dst & 0xfffc) | (src & 3));
	set_zf(c, up);
	SOFT_NEXT(c, i);
}

/* ---- control registers ---- */

/* What follows from a new CR0; false: #GP. */
bool sys_set_cr0(struct scpu *c, uint64_t v)
{
	uint64_t old = c->cr0, known = X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS |
				       X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM |
				       X86_CR0_NW | X86_CR0_CD | X86_CR0_PG;

	if (v >> 32 || (v & X86_CR0_PG && !(v & X86_CR0_PE)) ||
	    (v & X86_CR0_NW && !(v & X86_CR0_CD)))
		return false;
	v = (v & known) | X86_CR0_ET;
	if (v & ~old & X86_CR0_PG) {
		if (c->efer & X86_EFER_LME) {
			if (!(c->cr4 & X86_CR4_PAE) || c->seg[X86_CS].attr & SEG_L)
				return false;
		} else if (c->cr4 & X86_CR4_PAE && !mmu_load_pdptrs(c, c->cr3)) {
			return false;
		}
	}
	if (old & ~v & X86_CR0_PG && (c->cr4 & X86_CR4_PCIDE || soft_64(c)))
		return false;
	c->cr0 = v;
	if ((old ^ v) & X86_CR0_PG) {
		if (v & X86_CR0_PG && c->efer & X86_EFER_LME)
			c->efer |= X86_EFER_LMA;
		else
			c->efer &= ~X86_EFER_LMA;
		mmu_flush_all(c);
	} else if ((old ^ v) & (X86_CR0_WP | X86_CR0_PE)) {
		mmu_drop_l1(c);
	}
	soft_mode_changed(c);
	return true;
}

bool sys_set_cr3(struct scpu *c, uint64_t v)
{
	bool keep = c->cr4 & X86_CR4_PCIDE && v >> 63;

	if (c->cr4 & X86_CR4_PCIDE)
		v &= ~BIT64(63);
	if (soft_long(c)) {
		if (v & (c->mmu->rsvd_phys | ~0ull << 52))
			return false;
	} else {
		v = (uint32_t)v;
		if (c->cr4 & X86_CR4_PAE && c->cr0 & X86_CR0_PG && !mmu_load_pdptrs(c, v))
			return false;
	}
	c->cr3 = v;
	mmu_switch(c, keep);
	return true;
}

bool sys_set_cr4(struct scpu *c, uint64_t v)
{
	const uint64_t all = X86_CR4_PGE | X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PCIDE |
			     X86_CR4_SMEP | X86_CR4_SMAP;
	uint64_t old = c->cr4;

	if (v & ~c->run->cr4_ok)
		return false;
	if (soft_long(c) && !(v & X86_CR4_PAE))
		return false;
	if (v & ~old & X86_CR4_PCIDE && (!soft_long(c) || c->cr3 & 0xfff))
		return false;
	if (!soft_long(c) && c->cr0 & X86_CR0_PG && v & X86_CR4_PAE &&
	    (old ^ v) & (X86_CR4_PAE | X86_CR4_PSE | X86_CR4_PGE | X86_CR4_SMEP)) {
		if (!mmu_load_pdptrs(c, c->cr3))
			return false;
	}
	c->cr4 = v;
	if ((old ^ v) & all)
		mmu_flush_all(c);
	soft_mode_changed(c);
	return true;
}

static void sys_mov_from_cr(struct scpu *c, const struct insn *i)
{
	uint64_t v;

	need_cpl0(c, i);
	switch (i->reg) {
	case 0:
		v = c->cr0;
		break;
	case 2:
		v = c->cr2;
		break;
	case 3:
		v = c->cr3;
		break;
	case 4:
		v = c->cr4;
		break;
	case 8:
		v = lapic_tpr_get(&c->lapic);
		break;
	default:
		soft_ud(c, i);
	}
	gpr_set(c, i->rm, soft_64(c) ? 8 : 4, v);
	SOFT_NEXT(c, i);
}

static void sys_mov_to_cr(struct scpu *c, const struct insn *i)
{
	uint64_t v = c->gpr[i->rm] & mask_of(soft_64(c) ? 8 : 4);
	bool ok = true;

	need_cpl0(c, i);
	switch (i->reg) {
	case 0:
		ok = sys_set_cr0(c, v);
		break;
	case 2:
		c->cr2 = v;
		break;
	case 3:
		ok = sys_set_cr3(c, v);
		break;
	case 4:
		ok = sys_set_cr4(c, v);
		break;
	case 8:
		ok = v <= 15;
		if (ok) {
			lapic_tpr_set(&c->lapic, (uint8_t)v);
			soft_irq_window(c);
		}
		break;
	default:
		soft_ud(c, i);
	}
	if (!ok)
		soft_gp(c, i, 0);
	sys_end(c, i);
}

static void sys_clts(struct scpu *c, const struct insn *i)
{
	need_cpl0(c, i);
	c->cr0 &= ~X86_CR0_TS;
	sys_end(c, i);
}

static void sys_smsw(struct scpu *c, const struct insn *i)
{
	need_umip(c, i);
	rm_set(c, i, i->flags & INSN_MEM ? 2 : i->opsize, c->cr0);
	SOFT_NEXT(c, i);
}

/* PE can be set and not cleared. */
static void sys_lmsw(struct scpu *c, const struct insn *i)
{
	need_cpl0(c, i);
	uint64_t v = rm_get(c, i, 2) & 0xf;

	if (!sys_set_cr0(c, (c->cr0 & ~0xeull) | v))
		soft_gp(c, i, 0);
	sys_end(c, i);
}

static void sys_invlpg(struct scpu *c, const struct insn *i)
{
	need_cpl0(c, i);
	uint64_t lin = (soft_ea(c, i) + c->sbase[i->seg]) & c->lin_mask;

	/* A non-canonical address is no fault, and nothing is mapped there. */
	if (!soft_64(c) || soft_canonical(lin))
		mmu_flush_page(c, lin);
	sys_end(c, i);
}

static void sys_invpcid(struct scpu *c, const struct insn *i)
{
	if (!c->run->has_invpcid || !soft_prot(c))
		soft_ud(c, i);
	if (soft_vm86(c) || c->cpl)
		soft_gp(c, i, 0);
	uint64_t ea = soft_ea(c, i);
	uint64_t type = c->gpr[i->reg] & mask_of(soft_64(c) ? 8 : 4);
	uint64_t pcid = soft_ld(c, i, i->seg, ea, 8);
	uint64_t lin = soft_ld(c, i, i->seg, (ea + 8) & i->ea_mask, 8);
	if (type > 3 || (type < 2 && pcid >> 12))
		soft_gp(c, i, 0);
	if (type < 2 && !(c->cr4 & X86_CR4_PCIDE) && pcid)
		soft_gp(c, i, 0);
	if (!type && !soft_canonical(lin))
		soft_gp(c, i, 0);
	mmu_invpcid(c, (unsigned)type, pcid & 0xfff, lin);
	sys_end(c, i);
}

/* ---- debug registers (SDM 3B 17.2) ---- */

static unsigned dr_check(struct scpu *c, const struct insn *i)
{
	unsigned n = i->reg;

	if (n > 7 || ((n == 4 || n == 5) && c->cr4 & X86_CR4_DE))
		soft_ud(c, i);
	need_cpl0(c, i);
	if (c->dr7 & X86_DR7_GD) {
		c->rip = soft_rip(c, i);
		exc_debug_trap(c, X86_DR6_BD);
	}
	/* DR4 and DR5 are DR6 and DR7. */
	return n == 4 || n == 5 ? n + 2 : n;
}

static void sys_mov_from_dr(struct scpu *c, const struct insn *i)
{
	unsigned n = dr_check(c, i);
	uint64_t v = n < 4 ? c->dr[n] : n == 6 ? c->dr6 : c->dr7;

	gpr_set(c, i->rm, soft_64(c) ? 8 : 4, v);
	SOFT_NEXT(c, i);
}

static void sys_mov_to_dr(struct scpu *c, const struct insn *i)
{
	unsigned n = dr_check(c, i);
	uint64_t v = c->gpr[i->rm] & mask_of(soft_64(c) ? 8 : 4);

	if (n >= 6 && v >> 32)
		soft_gp(c, i, 0);
	if (n < 4) {
		c->dr[n] = v;
	} else if (n == 6) {
		c->dr6 = (v & 0xe00f) | X86_DR6_FIXED;
	} else {
		c->dr7 = (v & 0xffff2bff) | X86_DR7_FIXED;
		/* The loop steps while instruction breakpoints are on. */
		sync_set_req(c);
	}
	mmu_debug_changed(c);
	sys_end(c, i);
}

/* ---- SYSCALL, SYSENTER ---- */

static struct cpu_seg flat_code(uint16_t sel, unsigned dpl, bool is64)
{
	return (struct cpu_seg){
		.sel = sel,
		.limit = 0xffffffff,
		.attr = 0xb | SEG_S | dpl << SEG_DPL_SHIFT | SEG_P | SEG_G |
			(is64 ? (uint32_t)SEG_L : (uint32_t)SEG_DB),
	};
}

static struct cpu_seg flat_data(uint16_t sel, unsigned dpl)
{
	return (struct cpu_seg){
		.sel = sel,
		.limit = 0xffffffff,
		.attr = 3 | SEG_S | dpl << SEG_DPL_SHIFT | SEG_P | SEG_G | SEG_DB,
	};
}

static void syscall_long(struct scpu *c, const struct insn *i)
{
	uint16_t sel = c->star >> 32 & 0xfffc;
	uint64_t fl = soft_rflags_get(c);
	bool from64 = soft_64(c);

	c->gpr[X86_RCX] = soft_next_rip(c, i);
	c->gpr[X86_R11] = fl & ~X86_FL_RF;
	c->rip = from64 ? c->lstar : c->cstar;
	c->seg[X86_CS] = flat_code(sel, 0, true);
	c->seg[X86_SS] = flat_data((uint16_t)(sel + 8), 0);
	soft_rflags_set(c, (fl & ~c->fmask & ~X86_FL_RF) | X86_FL_FIXED);
	soft_mode_changed(c);
}

static void syscall_legacy(struct scpu *c, const struct insn *i)
{
	uint16_t sel = c->star >> 32 & 0xfffc;

	c->gpr[X86_RCX] = soft_next_rip(c, i);
	c->rip = (uint32_t)c->star;
	c->seg[X86_CS] = flat_code(sel, 0, false);
	c->seg[X86_SS] = flat_data((uint16_t)(sel + 8), 0);
	soft_rflags_merge(c, 0, X86_FL_IF | X86_FL_VM | X86_FL_RF);
	soft_mode_changed(c);
}

/* AMD has it in every protected mode, Intel in 64-bit mode alone. */
static void sys_syscall(struct scpu *c, const struct insn *i)
{
	if (!(c->efer & X86_EFER_SCE) || !soft_prot(c) || (c->run->intel && !soft_64(c)))
		soft_ud(c, i);
	if (soft_long(c))
		syscall_long(c, i);
	else
		syscall_legacy(c, i);
}

static void sysret_long(struct scpu *c, const struct insn *i)
{
	uint16_t sel = c->star >> 48;
	bool to64 = i->opsize == 8;
	uint64_t rip = to64 ? c->gpr[X86_RCX] : (uint32_t)c->gpr[X86_RCX];

	/* Intel faults here, AMD after the change of ring; both tell the guest. */
	if (to64 && !soft_canonical(rip))
		soft_gp(c, i, 0);
	c->seg[X86_CS] = flat_code((uint16_t)((sel + (to64 ? 16 : 0)) | 3), 3, to64);
	c->seg[X86_SS] = flat_data((uint16_t)((sel + 8) | 3), 3);
	c->rip = rip;
	/* RF and VM are cleared, reserved bits too. */
	soft_rflags_set(c, (c->gpr[X86_R11] & 0x3c7fd5) | X86_FL_FIXED);
	soft_mode_changed(c);
}

static void sys_sysret(struct scpu *c, const struct insn *i)
{
	if (!(c->efer & X86_EFER_SCE) || !soft_prot(c) || (c->run->intel && !soft_64(c)))
		soft_ud(c, i);
	need_cpl0(c, i);
	if (soft_long(c)) {
		sysret_long(c, i);
		return;
	}
	uint16_t sel = c->star >> 48;

	c->seg[X86_CS] = flat_code(sel | 3, 3, false);
	c->seg[X86_SS] = flat_data((uint16_t)((sel + 8) | 3), 3);
	c->rip = (uint32_t)c->gpr[X86_RCX];
	soft_rflags_merge(c, X86_FL_IF, X86_FL_IF);
	soft_mode_changed(c);
}

/* AMD has SYSENTER outside long mode only. */
static void sys_sysenter(struct scpu *c, const struct insn *i)
{
	if (!c->run->intel && soft_long(c))
		soft_ud(c, i);
	if (!soft_prot(c) || !(c->sysenter_cs & 0xfffc))
		soft_gp(c, i, 0);
	uint16_t sel = c->sysenter_cs & 0xfffc;
	bool wide = soft_long(c);

	soft_rflags_merge(c, 0, X86_FL_VM | X86_FL_IF | X86_FL_RF);
	c->seg[X86_CS] = flat_code(sel, 0, wide);
	c->seg[X86_SS] = flat_data((uint16_t)(sel + 8), 0);
	c->gpr[X86_RSP] = wide ? c->sysenter_esp : (uint32_t)c->sysenter_esp;
	c->rip = wide ? c->sysenter_eip : (uint32_t)c->sysenter_eip;
	soft_mode_changed(c);
}

static void sys_sysexit(struct scpu *c, const struct insn *i)
{
	if (!c->run->intel && soft_long(c))
		soft_ud(c, i);
	if (!soft_prot(c) || c->cpl || !(c->sysenter_cs & 0xfffc))
		soft_gp(c, i, 0);
	bool to64 = i->opsize == 8;
	uint16_t sel = (c->sysenter_cs & 0xfffc) + (to64 ? 32 : 16);

	if (to64 && (!soft_canonical(c->gpr[X86_RCX]) || !soft_canonical(c->gpr[X86_RDX])))
		soft_gp(c, i, 0);
	c->rip = to64 ? c->gpr[X86_RDX] : (uint32_t)c->gpr[X86_RDX];
	c->gpr[X86_RSP] = to64 ? c->gpr[X86_RCX] : (uint32_t)c->gpr[X86_RCX];
	c->seg[X86_CS] = flat_code(sel | 3, 3, to64);
	c->seg[X86_SS] = flat_data((uint16_t)((sel + 8) | 3), 3);
	soft_mode_changed(c);
}

/* ---- FS and GS base ---- */

static void sys_swapgs(struct scpu *c, const struct insn *i)
{
	if (!soft_64(c))
		soft_ud(c, i);
	need_cpl0(c, i);
	uint64_t gs = c->seg[X86_GS].base;

	c->seg[X86_GS].base = c->sbase[X86_GS] = c->kernel_gs_base;
	c->kernel_gs_base = gs;
	SOFT_NEXT(c, i);
}

static void fsgs_check(struct scpu *c, const struct insn *i)
{
	if (!soft_64(c) || !(c->cr4 & X86_CR4_FSGSBASE))
		soft_ud(c, i);
}

static void base_write(struct scpu *c, const struct insn *i, unsigned seg)
{
	uint64_t v = c->gpr[i->rm] & mask_of(i->opsize);

	fsgs_check(c, i);
	if (!soft_canonical(v))
		soft_gp(c, i, 0);
	c->seg[seg].base = c->sbase[seg] = v;
}

static void sys_rdfsbase(struct scpu *c, const struct insn *i)
{
	fsgs_check(c, i);
	gpr_set(c, i->rm, i->opsize, c->seg[X86_FS].base);
	SOFT_NEXT(c, i);
}

static void sys_rdgsbase(struct scpu *c, const struct insn *i)
{
	fsgs_check(c, i);
	gpr_set(c, i->rm, i->opsize, c->seg[X86_GS].base);
	SOFT_NEXT(c, i);
}

static void sys_wrfsbase(struct scpu *c, const struct insn *i)
{
	base_write(c, i, X86_FS);
	SOFT_NEXT(c, i);
}

static void sys_wrgsbase(struct scpu *c, const struct insn *i)
{
	base_write(c, i, X86_GS);
	SOFT_NEXT(c, i);
}

/* ---- time, random numbers, identification ---- */

uint64_t soft_tsc(const struct scpu *c)
{
	return __rdtsc() + c->tsc_offset;
}

static void set_edx_eax(struct scpu *c, uint64_t v)
{
	c->gpr[X86_RAX] = (uint32_t)v;
	c->gpr[X86_RDX] = v >> 32;
}

static void tsc_check(struct scpu *c, const struct insn *i)
{
	if (c->cr4 & X86_CR4_TSD && c->cpl)
		soft_gp(c, i, 0);
}

static void sys_rdtsc(struct scpu *c, const struct insn *i)
{
	tsc_check(c, i);
	set_edx_eax(c, soft_tsc(c));
	SOFT_NEXT(c, i);
}

static void sys_rdtscp(struct scpu *c, const struct insn *i)
{
	tsc_check(c, i);
	set_edx_eax(c, soft_tsc(c));
	c->gpr[X86_RCX] = (uint32_t)c->tsc_aux;
	SOFT_NEXT(c, i);
}

static void sys_rdpid(struct scpu *c, const struct insn *i)
{
	gpr_set(c, i->rm, soft_64(c) ? 8 : 4, (uint32_t)c->tsc_aux);
	SOFT_NEXT(c, i);
}

/* No counters: every index is wrong. */
static void sys_rdpmc(struct scpu *c, const struct insn *i)
{
	soft_gp(c, i, 0);
}

/* The host's own generator; CF says whether it gave a number. */
__attribute__((target("rdrnd"))) static void sys_rdrand(struct scpu *c, const struct insn *i)
{
	unsigned long long v = 0;
	int ok = _rdrand64_step(&v);

	gpr_set(c, i->rm, i->opsize, ok ? v : 0);
	c->fl = (uint16_t)(0x200 | (ok ? 0x100 : 0));
	SOFT_NEXT(c, i);
}

__attribute__((target("rdseed"))) static void sys_rdseed(struct scpu *c, const struct insn *i)
{
	unsigned long long v = 0;
	int ok = _rdseed64_step(&v);

	gpr_set(c, i->rm, i->opsize, ok ? v : 0);
	c->fl = (uint16_t)(0x200 | (ok ? 0x100 : 0));
	SOFT_NEXT(c, i);
}

/* Bytes of a standard-format XSAVE area with these components. */
static uint32_t xsave_size(uint64_t xcr0)
{
	return xcr0 & X86_XCR0_AVX ? 832 : 576;
}

static void sys_cpuid(struct scpu *c, const struct insn *i)
{
	uint32_t leaf = (uint32_t)c->gpr[X86_RAX], sub = (uint32_t)c->gpr[X86_RCX];
	struct cpuid_entry e;

	cpuid_get(&c->v.cpuid, leaf, sub, &e);
	if (leaf == 1) {
		e.ecx = (e.ecx & ~BIT(27)) | (c->cr4 & X86_CR4_OSXSAVE ? BIT(27) : 0);
	} else if (leaf == 0xd && sub == 0 && e.eax) {
		e.ebx = xsave_size(c->xcr0);
	} else if (leaf == 0xd && sub == 1 && e.eax & 0xa) {
		e.ebx = xsave_size(c->xcr0);
	}
	c->gpr[X86_RAX] = e.eax;
	c->gpr[X86_RBX] = e.ebx;
	c->gpr[X86_RCX] = e.ecx;
	c->gpr[X86_RDX] = e.edx;
	/* CPUID serializes: end the block, so that code stored by others is seen. */
	sys_end(c, i);
}

/* ---- MSRs and XCR0 ---- */

static void sys_rdmsr(struct scpu *c, const struct insn *i)
{
	uint64_t v;

	need_cpl0(c, i);
	if (!msr_read(c, (uint32_t)c->gpr[X86_RCX], &v))
		soft_gp(c, i, 0);
	set_edx_eax(c, v);
	SOFT_NEXT(c, i);
}

static void sys_wrmsr(struct scpu *c, const struct insn *i)
{
	need_cpl0(c, i);
	uint64_t v = (uint32_t)c->gpr[X86_RAX] | c->gpr[X86_RDX] << 32;

	if (!msr_write(c, (uint32_t)c->gpr[X86_RCX], v))
		soft_gp(c, i, 0);
	sys_end(c, i);
}

static void sys_xgetbv(struct scpu *c, const struct insn *i)
{
	uint32_t n = (uint32_t)c->gpr[X86_RCX];

	if (!(c->cr4 & X86_CR4_OSXSAVE))
		soft_ud(c, i);
	if (n > 1)
		soft_gp(c, i, 0);
	/* XINUSE (n 1): nothing is ever said to be in its initial state but upper halves. */
	set_edx_eax(c, n ? xsave_inuse(c) & c->xcr0 : c->xcr0);
	SOFT_NEXT(c, i);
}

static void sys_xsetbv(struct scpu *c, const struct insn *i)
{
	if (!(c->cr4 & X86_CR4_OSXSAVE))
		soft_ud(c, i);
	need_cpl0(c, i);
	uint64_t v = (uint32_t)c->gpr[X86_RAX] | c->gpr[X86_RDX] << 32;

	if ((uint32_t)c->gpr[X86_RCX] || !(v & X86_XCR0_X87) || v & ~c->run->xcr0_ok ||
	    (v & X86_XCR0_AVX && !(v & X86_XCR0_SSE)))
		soft_gp(c, i, 0);
	c->xcr0 = v;
	sys_end(c, i);
}

/* ---- caches, hypercalls, what is not there ---- */

/* Cache lines need no flushing here; the address is checked as a load. */
static void sys_clflush(struct scpu *c, const struct insn *i)
{
	(void)soft_ld(c, i, i->seg, soft_ea(c, i), 1);
	SOFT_NEXT(c, i);
}

static void sys_wbinvd(struct scpu *c, const struct insn *i)
{
	need_cpl0(c, i);
	sys_end(c, i);
}

/* KVM's hypercalls, by its signature in CPUID: none is offered, so none succeeds. */
static void sys_vmcall(struct scpu *c, const struct insn *i)
{
	struct cpuid_entry e;
	enum {
		KVM_SIGNATURE_EBX = 0x4b4d564b,
		KVM_ENOSYS = 1000,
		KVM_EPERM = 1,
	};

	cpuid_get(&c->v.cpuid, 0x40000000, 0, &e);
	if (e.ebx != KVM_SIGNATURE_EBX)
		soft_ud(c, i);
	gpr_set(c, X86_RAX, soft_64(c) ? 8 : 4, -(uint64_t)(c->cpl ? KVM_EPERM : KVM_ENOSYS));
	sys_end(c, i);
}

static void sys_ud(struct scpu *c, const struct insn *i)
{
	soft_ud(c, i);
}

/* Automatic IBRS (APM 2 3.2.9). */
#define EFER_AIBRSE BIT64(21)

/* ---- facts of CPUID that are asked for often ---- */

static uint64_t fact_cr4(uint32_t ecx1, uint32_t edx1, uint32_t ebx7, uint32_t ecx7)
{
	uint64_t ok = X86_CR4_TSD | X86_CR4_MCE | X86_CR4_PCE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;

	/* The flag that offers each (SDM 3A 2.5). */
	ok |= edx1 & BIT(2) ? X86_CR4_DE : 0;
	ok |= edx1 & BIT(3) ? X86_CR4_PSE : 0;
	ok |= edx1 & BIT(6) ? X86_CR4_PAE : 0;
	ok |= edx1 & BIT(13) ? X86_CR4_PGE : 0;
	ok |= ecx1 & BIT(17) ? X86_CR4_PCIDE : 0;
	ok |= ecx1 & BIT(26) ? X86_CR4_OSXSAVE : 0;
	ok |= ebx7 & BIT(0) ? X86_CR4_FSGSBASE : 0;
	ok |= ebx7 & BIT(7) ? X86_CR4_SMEP : 0;
	ok |= ebx7 & BIT(20) ? X86_CR4_SMAP : 0;
	ok |= ecx7 & BIT(2) ? X86_CR4_UMIP : 0;
	return ok;
}

void sys_facts(struct scpu *c)
{
	struct soft_run *r = c->run;
	struct cpuid_entry e, e1, e7, x1, x8, x21, d;

	cpuid_get(&c->v.cpuid, 0, 0, &e);
	cpuid_get(&c->v.cpuid, 1, 0, &e1);
	cpuid_get(&c->v.cpuid, 7, 0, &e7);
	cpuid_get(&c->v.cpuid, 0xd, 0, &d);
	cpuid_get(&c->v.cpuid, 0x80000001, 0, &x1);
	cpuid_get(&c->v.cpuid, 0x80000008, 0, &x8);
	cpuid_get(&c->v.cpuid, 0x80000021, 0, &x21);
	r->intel = e.ebx == signature_INTEL_ebx;
	r->has_invpcid = e7.ebx & BIT(10);
	r->cr4_ok = fact_cr4(e1.ecx, e1.edx, e7.ebx, e7.ecx);
	r->xcr0_ok = (X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX) & d.eax;
	r->efer_ok = (x1.edx & BIT(11) ? X86_EFER_SCE : 0) | (x1.edx & BIT(20) ? X86_EFER_NXE : 0) |
		     (x1.edx & BIT(29) ? X86_EFER_LME | X86_EFER_LMA : 0) |
		     (!r->intel && x21.eax & BIT(8) ? EFER_AIBRSE : 0);

	unsigned bits = x8.eax & 0xff;
	if (bits < 32 || bits > 52)
		bits = 36;
	c->mmu->rsvd_phys = ~0ull << bits & 0x000fffffffffffffull;
	c->mmu->has_1g = x1.edx & BIT(26);
	c->mmu->has_nx = x1.edx & BIT(20);
	c->mmu->has_pse36 = e1.edx & BIT(17);
}

/* ---- the table ---- */

/* MOV has three kinds here: by the opcode. */
static insn_fn *sys_mov(const struct insn *i)
{
	switch (i->opcode) {
	case 0x8e:
		return sys_mov_sreg;
	case 0x20:
		return sys_mov_from_cr;
	case 0x21:
		return sys_mov_from_dr;
	case 0x22:
		return sys_mov_to_cr;
	case 0x23:
		return sys_mov_to_dr;
	default:
		return NULL;
	}
}

static insn_fn *const sys_handlers[] = {
	[SOP_PAUSE] = sys_pause,       [SOP_POP] = sys_pop_sreg,
	[SOP_PUSHF] = sys_pushf,       [SOP_POPF] = sys_popf,
	[SOP_CALLF] = sys_call_far,    [SOP_JMPF] = sys_jmp_far,
	[SOP_RETF] = sys_ret_far,      [SOP_INT3] = sys_int3,
	[SOP_INT] = sys_int,           [SOP_INTO] = sys_into,
	[SOP_INT1] = sys_int1,         [SOP_IRET] = sys_iret,
	[SOP_CLFLUSH] = sys_clflush,   [SOP_CLFLUSHOPT] = sys_clflush,
	[SOP_CLWB] = sys_clflush,      [SOP_INVD] = sys_wbinvd,
	[SOP_WBINVD] = sys_wbinvd,     [SOP_IN] = sys_in,
	[SOP_OUT] = sys_out,           [SOP_ARPL] = sys_arpl,
	[SOP_LES] = sys_les,           [SOP_LDS] = sys_lds,
	[SOP_LSS] = sys_lss,           [SOP_LFS] = sys_lfs,
	[SOP_LGS] = sys_lgs,           [SOP_SLDT] = sys_sldt,
	[SOP_STR] = sys_str,           [SOP_LLDT] = sys_lldt,
	[SOP_LTR] = sys_ltr,           [SOP_VERR] = sys_verr,
	[SOP_VERW] = sys_verw,         [SOP_SGDT] = sys_sgdt,
	[SOP_SIDT] = sys_sidt,         [SOP_LGDT] = sys_lgdt,
	[SOP_LIDT] = sys_lidt,         [SOP_SMSW] = sys_smsw,
	[SOP_LMSW] = sys_lmsw,         [SOP_LAR] = sys_lar,
	[SOP_LSL] = sys_lsl,           [SOP_INVLPG] = sys_invlpg,
	[SOP_SWAPGS] = sys_swapgs,     [SOP_RDTSCP] = sys_rdtscp,
	[SOP_VMCALL] = sys_vmcall,     [SOP_VMMCALL] = sys_vmcall,
	[SOP_MONITOR] = sys_ud,        [SOP_MWAIT] = sys_ud,
	[SOP_CLAC] = sys_clac,         [SOP_STAC] = sys_stac,
	[SOP_XGETBV] = sys_xgetbv,     [SOP_XSETBV] = sys_xsetbv,
	[SOP_SYSCALL] = sys_syscall,   [SOP_CLTS] = sys_clts,
	[SOP_SYSRET] = sys_sysret,     [SOP_WRMSR] = sys_wrmsr,
	[SOP_RDTSC] = sys_rdtsc,       [SOP_RDMSR] = sys_rdmsr,
	[SOP_RDPMC] = sys_rdpmc,       [SOP_SYSENTER] = sys_sysenter,
	[SOP_SYSEXIT] = sys_sysexit,   [SOP_CPUID] = sys_cpuid,
	[SOP_INVPCID] = sys_invpcid,   [SOP_HLT] = sys_hlt,
	[SOP_CLI] = sys_cli,           [SOP_STI] = sys_sti,
	[SOP_RDFSBASE] = sys_rdfsbase, [SOP_RDGSBASE] = sys_rdgsbase,
	[SOP_WRFSBASE] = sys_wrfsbase, [SOP_WRGSBASE] = sys_wrgsbase,
	[SOP_RDRAND] = sys_rdrand,     [SOP_RDSEED] = sys_rdseed,
	[SOP_RDPID] = sys_rdpid,
};

insn_fn *soft_sys_bind(struct scpu *c, struct insn *i, unsigned code_size)
{
	unsigned sop = insn_forms[i->form].sop;

	if (sop == SOP_MOV)
		return sys_mov(i);
	if (sop < COUNT_OF(sys_handlers) && sys_handlers[sop])
		return sys_handlers[sop];
	return xsave_bind(c, i);
}
