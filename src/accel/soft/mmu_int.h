/*
 * What the memory management unit's files share: mmu.c (accesses), tlb.c (caches), walk.c (tables).
 */
#pragma once

#include "accel/soft/sys_int.h"

#define PAGE_MASK_ 0xfffull
#define ADDR_MASK 0x000ffffffffff000ull
/* Set in what mmu_translate() returns for a fault. */
#define MMU_FAULT 0x80000000u

/* tlb.c */
void l2_fill(struct soft_mmu *m, uint64_t lin, const struct sxlate *x);

/* mmu.c */
bool mmu_is_apic(const struct scpu *c, uint64_t pa);
/* The dirty log, at a store of [pa, pa + len), which lies in m. */
void map_mark(struct scpu *c, const struct smap *m, uint64_t pa, unsigned len);

/* ---- also for the translator's refill, which must not touch a vector register ---- */

/* ---- L2 and address spaces ---- */

static inline uint64_t l2_tag(uint64_t lin, unsigned shift, uint32_t asid)
{
	return (lin & 0xffffffffffffull) >> shift | (uint64_t)asid << 36;
}

/* Set of a page: bits 12-20, with some of the higher ones mixed in. */
static inline unsigned l2_set(uint64_t lin)
{
	return (unsigned)(lin >> 12 ^ lin >> 21 ^ lin >> 39) & (SL2_SETS - 1);
}

static inline unsigned l2_large_slot(uint64_t lin)
{
	return (unsigned)(lin >> 21 ^ lin >> 31 ^ lin >> 39) & (SL2_LARGE - 1);
}

/* Of the current address space, or global. */
static inline bool l2_find(const struct soft_mmu *m, uint64_t lin, struct sxlate *ret)
{
	const struct sl2 *set = m->l2[l2_set(lin)];
	uint64_t tag = l2_tag(lin, 12, m->asid), gtag = l2_tag(lin, 12, m->asid_global);

	for (unsigned w = 0; w < SL2_WAYS; w++) {
		if (set[w].tag == tag || set[w].tag == gtag) {
			*ret = (struct sxlate){ set[w].pa & ~PAGE_MASK_, set[w].pa & PAGE_MASK_ };
			return true;
		}
	}
	const struct sl2 *l = &m->large[l2_large_slot(lin)];
	if (l->tag == l2_tag(lin, 21, m->asid) || l->tag == l2_tag(lin, 21, m->asid_global)) {
		ret->pa = (l->pa & ~PAGE_MASK_) + (lin & 0x1ff000);
		ret->fl = l->pa & PAGE_MASK_;
		return true;
	}
	return false;
}

/* ---- L1 ---- */

/* A translation into one side of L1; fl: SX_G, SX_LARGE, SX_HUGE of its page. */
static inline void side_fill(struct soft_mmu *m, struct sside *s, uint64_t lin, uint64_t host,
			     unsigned fl)
{
	unsigned slot = lin >> 12 & (STLB_SIZE - 1);
	unsigned g = fl & SX_G ? 1 : 0;
	uint8_t in = s->fl[slot] & (SSLOT_IN0 | SSLOT_IN1);

	if (!(in & SSLOT_IN0 << g)) {
		s->list[g][s->n[g]++] = (uint16_t)slot;
		in |= (uint8_t)(SSLOT_IN0 << g);
	}
	s->fl[slot] = in | (uint8_t)(fl & (SX_G | SX_LARGE | SX_HUGE));
	s->t[slot] = (struct stlb){ .tag = lin & ~PAGE_MASK_,
				.addend = host - (lin & ~PAGE_MASK_) };
	if (fl & SX_LARGE)
		m->large_seen[lin >> 27 & 63] |= BIT64(lin >> 21 & 63);
	if (fl & SX_HUGE)
		m->huge_seen |= BIT64(lin >> 30 & 63);
}

/* SDM 3A 4.6.1: may this access use a translation with these rights? */
static inline bool mmu_allowed(const struct scpu *c, unsigned fl, unsigned acc)
{
	if (acc & SACC_USER) {
		if (!(fl & SX_U))
			return false;
		if (acc & SACC_X)
			return fl & SX_X;
		return !(acc & SACC_W) || fl & SX_W;
	}
	if (acc & SACC_X)
		return fl & SX_X && !(fl & SX_U && c->cr4 & X86_CR4_SMEP);
	if (fl & SX_U && c->cr4 & X86_CR4_SMAP && !(acc & SACC_AC))
		return false;
	return !(acc & SACC_W) || fl & SX_W || !(c->cr0 & X86_CR0_WP);
}
