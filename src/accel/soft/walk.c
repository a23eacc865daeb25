/*
 * Page walks: the tables in guest memory (SDM 3A chapter 4; 32-bit with PSE-36, PAE, 4-level),
 * accessed and dirty bits, access rights and the error code of a page fault.
 *
 * Left out on purpose: 5-level paging, protection keys.
 */
#include "accel/soft/jit/lockstep.h"
#include "accel/soft/mmu_int.h"

#include "base/bytes.h"

#include <string.h>

/* ---- page walk ---- */

/* An entry of a paging structure; all ones where there is no memory (then reserved bits fault). */
static uint64_t walk_load(struct scpu *c, uint64_t pa, bool wide, void **ret_host,
			  struct smap **ret_map)
{
	struct smap *m = mmu_map(c, pa);

	*ret_map = m;
	*ret_host = NULL;
	if (!m)
		return wide ? ~0ull : 0xffffffffull;
	if (unlikely(c->run->trial))
		lockstep_walks(c, pa);
	void *p = m->host + (pa - m->gpa);
	if (!m->readonly)
		*ret_host = p;
	return wide ? ld64_once(p) : ld32_once(p);
}

struct walk_step {
	uint64_t pa, val;
	void *host;
	struct smap *map;
};

struct walk {
	struct walk_step step[4];
	unsigned n;
	uint64_t pa;
	unsigned fl;
};

/* Set bits of an entry that still is what it was; false: it changed, walk again. */
static bool walk_set(struct scpu *c, const struct walk_step *s, uint64_t bits, bool wide)
{
	if ((s->val & bits) == bits || !s->host)
		return true;
	bool ok;
	if (wide) {
		uint64_t old = s->val;

		ok = __atomic_compare_exchange_n((uint64_t *)s->host, &old, old | bits, false,
						 __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	} else {
		uint32_t old = (uint32_t)s->val;

		ok = __atomic_compare_exchange_n((uint32_t *)s->host, &old, old | (uint32_t)bits,
						 false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	}
	if (ok) {
		map_mark(c, s->map, s->pa, wide ? 8 : 4);
		code_stored(c, NULL, s->map, s->pa, wide ? 8 : 4);
	}
	return ok;
}

enum walk_result {
	WALK_OK,
	WALK_ABSENT,
	WALK_RSVD,
};

/* Steps of PAE and 4-level tables from `level` down (SDM 3A 4.4, 4.5). */
static enum walk_result walk_long(struct scpu *c, uint64_t lin, uint64_t table, int level,
				  struct walk *w)
{
	const struct soft_mmu *m = c->mmu;
	unsigned fl = SX_W | SX_U | SX_X;

	for (;; level--) {
		unsigned shift = 12 + 9 * (unsigned)level;
		struct walk_step *s = &w->step[w->n++];

		s->pa = table + ((lin >> shift & 511) << 3);
		uint64_t pte = s->val = walk_load(c, s->pa, true, &s->host, &s->map);
		if (!(pte & X86_PTE_P))
			return WALK_ABSENT;
		if (pte & m->rsvd_phys || (pte & X86_PTE_NX && !(c->efer & X86_EFER_NXE)))
			return WALK_RSVD;
		if (!soft_long(c) && pte >> 52 & 0x7ff)
			return WALK_RSVD;
		if (!(pte & X86_PTE_W))
			fl &= ~SX_W;
		if (!(pte & X86_PTE_U))
			fl &= ~SX_U;
		if (pte & X86_PTE_NX)
			fl &= ~SX_X;
		bool large = level && pte & X86_PTE_PS;
		if (large && (level == 3 || (level == 2 && !m->has_1g)))
			return WALK_RSVD;
		/* Bits between the page's PAT bit (12) and its address. */
		if (large && pte & (BIT64(shift) - BIT64(13)))
			return WALK_RSVD;
		if (!level || large) {
			uint64_t in = BIT64(shift) - 1;

			w->pa = ((pte & ADDR_MASK & ~in) | (lin & in)) & ~PAGE_MASK_;
			fl |= pte & X86_PTE_G && c->cr4 & X86_CR4_PGE ? SX_G : 0;
			fl |= large ? SX_LARGE : 0;
			fl |= large && level == 2 ? SX_HUGE : 0;
			w->fl = fl;
			return WALK_OK;
		}
		table = pte & ADDR_MASK;
	}
}

/* 32-bit tables (SDM 3A 4.3). */
static enum walk_result walk_short(struct scpu *c, uint64_t lin, struct walk *w)
{
	struct walk_step *s = &w->step[w->n++];

	s->pa = (c->cr3 & 0xfffff000) + ((lin >> 22 & 1023) << 2);
	uint32_t pde = (uint32_t)(s->val = walk_load(c, s->pa, false, &s->host, &s->map));
	if (!(pde & X86_PTE_P))
		return WALK_ABSENT;
	w->fl = SX_X | (pde & X86_PTE_W ? SX_W : 0) | (pde & X86_PTE_U ? SX_U : 0);
	if (pde & X86_PTE_PS && c->cr4 & X86_CR4_PSE) {
		/* PSE-36: address bits 39-32 are in 20-13; bit 21 is reserved. */
		uint64_t high = c->mmu->has_pse36 ? (uint64_t)(pde >> 13 & 0xff) << 32 : 0;

		if (pde & BIT(21) || high & c->mmu->rsvd_phys ||
		    (!c->mmu->has_pse36 && pde & 0x1fe000))
			return WALK_RSVD;
		w->pa = high | (pde & 0xffc00000) | (lin & 0x3ff000);
		w->fl |= SX_LARGE | (pde & X86_PTE_G && c->cr4 & X86_CR4_PGE ? SX_G : 0);
		return WALK_OK;
	}
	s = &w->step[w->n++];
	s->pa = (pde & 0xfffff000) + ((lin >> 12 & 1023) << 2);
	uint32_t pte = (uint32_t)(s->val = walk_load(c, s->pa, false, &s->host, &s->map));
	if (!(pte & X86_PTE_P))
		return WALK_ABSENT;
	if (!(pte & X86_PTE_W))
		w->fl &= ~SX_W;
	if (!(pte & X86_PTE_U))
		w->fl &= ~SX_U;
	w->fl |= pte & X86_PTE_G && c->cr4 & X86_CR4_PGE ? SX_G : 0;
	w->pa = pte & 0xfffff000;
	return WALK_OK;
}

static enum walk_result walk_tables(struct scpu *c, uint64_t lin, struct walk *w)
{
	w->n = 0;
	if (!(c->cr4 & X86_CR4_PAE))
		return walk_short(c, lin, w);
	if (soft_long(c))
		return walk_long(c, lin, c->cr3 & ADDR_MASK, 3, w);
	uint64_t pdpte = c->pdptr[lin >> 30 & 3];
	if (!(pdpte & X86_PTE_P))
		return WALK_ABSENT;
	return walk_long(c, lin, pdpte & ADDR_MASK, 1, w);
}

/* SDM 3A 4.7 */
static uint32_t mmu_error(const struct scpu *c, unsigned acc, uint32_t why)
{
	uint32_t err = MMU_FAULT | why;

	if (acc & SACC_USER)
		err |= X86_PF_U;
	if (acc & SACC_W)
		err |= X86_PF_W;
	if (acc & SACC_X &&
	    (c->cr4 & X86_CR4_SMEP || (c->cr4 & X86_CR4_PAE && c->efer & X86_EFER_NXE)))
		err |= X86_PF_I;
	return err;
}

static uint32_t mmu_walk(struct scpu *c, uint64_t lin, unsigned acc, struct sxlate *ret)
{
	struct walk w;
	bool wide = c->cr4 & X86_CR4_PAE;

	c->mmu->walks++;
again:
	switch (walk_tables(c, lin, &w)) {
	case WALK_ABSENT:
		return mmu_error(c, acc, 0);
	case WALK_RSVD:
		return mmu_error(c, acc, X86_PF_P | X86_PF_RSVD);
	default:
		break;
	}
	if (!mmu_allowed(c, w.fl, acc))
		return mmu_error(c, acc, X86_PF_P);
	for (unsigned k = 0; k < w.n; k++) {
		uint64_t bits = X86_PTE_A;

		if (k == w.n - 1 && acc & SACC_W)
			bits |= X86_PTE_D;
		if (!walk_set(c, &w.step[k], bits, wide))
			goto again;
	}
	if (acc & SACC_W || w.step[w.n - 1].val & X86_PTE_D)
		w.fl |= SX_D;
	*ret = (struct sxlate){ w.pa, w.fl };
	l2_fill(c->mmu, lin, ret);
	return 0;
}

uint32_t mmu_translate(struct scpu *c, uint64_t lin, unsigned acc, struct sxlate *ret)
{
	if (!(c->cr0 & X86_CR0_PG)) {
		*ret = (struct sxlate){ lin & 0xfffff000, SX_W | SX_U | SX_X | SX_D };
		return 0;
	}
	if (l2_find(c->mmu, lin, ret) && mmu_allowed(c, ret->fl, acc) &&
	    (!(acc & SACC_W) || ret->fl & SX_D))
		return 0;
	return mmu_walk(c, lin, acc, ret);
}

bool mmu_load_pdptrs(struct scpu *c, uint64_t cr3)
{
	uint64_t p[4];

	/* SDM 3A 4.4.1: bits 1, 2, 5-8 and those beyond the physical address are reserved. */
	if (!mmu_phys_read(c, cr3 & 0xffffffe0, p, sizeof(p)))
		memset(p, 0, sizeof(p));
	for (unsigned k = 0; k < 4; k++)
		if (p[k] & X86_PTE_P && p[k] & (0x1e6 | c->mmu->rsvd_phys | ~0ull << 52))
			return false;
	memcpy(c->pdptr, p, sizeof(p));
	return true;
}
