/*
 * Control and debug registers (SDM 3A 2.5, 3B 17.2), TLB management, and the facts of CPUID that
 * say which of their bits this vCPU has.
 */
#include "accel/soft/sys_op.h"

#include <cpuid.h>

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

void sys_mov_from_cr(struct scpu *c, const struct insn *i)
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

void sys_mov_to_cr(struct scpu *c, const struct insn *i)
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

void sys_clts(struct scpu *c, const struct insn *i)
{
	need_cpl0(c, i);
	c->cr0 &= ~X86_CR0_TS;
	sys_end(c, i);
}

void sys_smsw(struct scpu *c, const struct insn *i)
{
	need_umip(c, i);
	rm_set(c, i, i->flags & INSN_MEM ? 2 : i->opsize, c->cr0);
	SOFT_NEXT(c, i);
}

/* PE can be set and not cleared. */
void sys_lmsw(struct scpu *c, const struct insn *i)
{
	need_cpl0(c, i);
	uint64_t v = rm_get(c, i, 2) & 0xf;

	if (!sys_set_cr0(c, (c->cr0 & ~0xeull) | v))
		soft_gp(c, i, 0);
	sys_end(c, i);
}

void sys_invlpg(struct scpu *c, const struct insn *i)
{
	need_cpl0(c, i);
	uint64_t lin = (soft_ea(c, i) + c->sbase[i->seg]) & c->lin_mask;

	/* A non-canonical address is no fault, and nothing is mapped there. */
	if (!soft_64(c) || soft_canonical(lin))
		mmu_flush_page(c, lin);
	sys_end(c, i);
}

void sys_invpcid(struct scpu *c, const struct insn *i)
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

void sys_mov_from_dr(struct scpu *c, const struct insn *i)
{
	unsigned n = dr_check(c, i);
	uint64_t v = n < 4 ? c->dr[n] : n == 6 ? c->dr6 : c->dr7;

	gpr_set(c, i->rm, soft_64(c) ? 8 : 4, v);
	SOFT_NEXT(c, i);
}

void sys_mov_to_dr(struct scpu *c, const struct insn *i)
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

/* ---- facts of CPUID that are asked for often ---- */

/* Automatic IBRS (APM 2 3.2.9). */
#define EFER_AIBRSE BIT64(21)

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
