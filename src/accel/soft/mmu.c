/*
 * The memory management unit: page walks, access rights, the second-level translation cache, and
 * the slow half of guest loads and stores.
 *
 * Three levels answer "where is linear address L?".
 *	L1	struct stlb_set, looked at inline in mem.h; a hit proves the right to do this.
 *	L2	SL2_SETS x SL2_WAYS pages and SL2_LARGE large pages, tagged with the address space's
 *		number, so that a CR3 switch with PCID keeps them.
 *	walk	the tables in guest memory (SDM 3A chapter 4): 32-bit with PSE-36, PAE, 4-level.
 * An address space is a number (asid): a PCID has one, and each flush of the space takes a new
 * number, which forgets all old entries at no cost.  Global pages are under a number of their own.
 *
 * What is not RAM never enters L1: the local APIC's page, MMIO, stores to ROM.  A store to a page
 * that holds decoded code does not either (code.c).
 *
 * A fault found by a cached translation is walked for again first, as the guest may have widened
 * the rights without a flush (SDM 3A 4.10.4.3); so the fault's error code is always that of the
 * tables.
 *
 * Left out on purpose: 5-level paging, protection keys, MTRR and PAT memory types, A20.
 */
#include "accel/soft/insn.h"
#include "accel/soft/mem.h"
#include "accel/soft/sys_int.h"

#include "base/alloc.h"
#include "base/num.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_MASK_ 0xfffull
#define ADDR_MASK 0x000ffffffffff000ull
#define MMU_FAULT 0x80000000u

/* An L1 tag that no address whose page has this slot can match. */
static uint64_t stlb_empty(unsigned slot)
{
	return (uint64_t)(slot ^ 1) << 12;
}

/* ---- life ---- */

int mmu_alloc(struct scpu *c, struct err *e)
{
	c->mmu = NEW(struct soft_mmu);
	if (!c->mmu)
		return err_set(e, ENOMEM, "no memory for a translation cache");
	return 0;
}

void mmu_free(struct scpu *c)
{
	if (!c->mmu)
		return;
	free(c->mmu->wmap);
	free(c->mmu);
	c->mmu = NULL;
}

static void stlb_clear(struct stlb *t)
{
	for (unsigned i = 0; i < STLB_SIZE; i++)
		t[i] = (struct stlb){ .tag = stlb_empty(i) };
}

void mmu_init(struct scpu *c)
{
	struct soft_mmu *m = c->mmu;

	for (unsigned k = 0; k < SMMUS; k++) {
		m->side[2 * k].t = c->tlbs[k].r;
		m->side[2 * k + 1].t = c->tlbs[k].w;
	}
	for (unsigned s = 0; s < COUNT_OF(m->side); s++) {
		stlb_clear(m->side[s].t);
		m->side[s].n[0] = m->side[s].n[1] = 0;
		memset(m->side[s].fl, 0, sizeof(m->side[s].fl));
	}
	stlb_clear(m->none.r);
	stlb_clear(m->none.w);
	memset(m->l2, 0, sizeof(m->l2));
	memset(m->large, 0, sizeof(m->large));
	for (unsigned k = 0; k < 2; k++)
		for (unsigned s = 0; s < SOFT_XT; s++)
			m->xt[k][s].tag = 1;
	memset(m->asid_pcid, 0, sizeof(m->asid_pcid));
	m->asid_global = 1;
	m->asid = 2;
	m->asid_last = 2;
	m->xt_now = m->xt[0];
	c->tlb = &c->tlbs[SMMU_KERNEL];
}

void mmu_select(struct scpu *c)
{
	struct soft_mmu *m = c->mmu;

	if (c->cpl == 3) {
		c->mmu_index = SMMU_USER;
		m->acc = SACC_USER;
		m->xt_now = m->xt[1];
	} else {
		bool ac = c->rflags & X86_FL_AC && c->cr4 & X86_CR4_SMAP;

		c->mmu_index = ac ? SMMU_KERNEL_AC : SMMU_KERNEL;
		m->acc = ac ? SACC_AC : 0;
		m->xt_now = m->xt[0];
	}
	m->check_align = c->cpl == 3 && c->cr0 & X86_CR0_AM && c->rflags & X86_FL_AC;
	m->careful = m->check_align || m->watch || c->run->assist;
	c->tlb = m->careful ? &m->none : &c->tlbs[c->mmu_index];
}

/* A data breakpoint is enabled for each bit set (SDM 3B 17.2.4). */
void mmu_debug_changed(struct scpu *c)
{
	c->mmu->watch = 0;
	for (unsigned n = 0; n < 4; n++)
		if (c->dr7 >> (2 * n) & 3 && c->dr7 >> (16 + 4 * n) & 1)
			c->mmu->watch |= (uint8_t)(1 << n);
	mmu_select(c);
}

/* ---- L1 ---- */

static void side_fill(struct soft_mmu *m, struct sside *s, uint64_t lin, uint64_t addend,
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
	s->t[slot] = (struct stlb){ .tag = lin & ~PAGE_MASK_, .addend = addend };
	if (fl & SX_LARGE)
		m->large_seen[lin >> 27 & 63] |= BIT64(lin >> 21 & 63);
	if (fl & SX_HUGE)
		m->huge_seen |= BIT64(lin >> 30 & 63);
}

static void side_flush(struct sside *s, unsigned g)
{
	for (unsigned k = 0; k < s->n[g]; k++) {
		unsigned slot = s->list[g][k];

		s->fl[slot] &= (uint8_t) ~(SSLOT_IN0 << g);
		if (!(s->fl[slot] & SX_G) == !g)
			s->t[slot].tag = stlb_empty(slot);
	}
	s->n[g] = 0;
}

/* Drop what lies in the same piece of 2^shift bytes as lin and came from a page with flag fl. */
static void side_flush_piece(struct sside *s, uint64_t lin, unsigned shift, unsigned fl)
{
	for (unsigned g = 0; g < 2; g++) {
		for (unsigned k = 0; k < s->n[g]; k++) {
			unsigned slot = s->list[g][k];

			if (s->fl[slot] & fl && (s->t[slot].tag ^ lin) >> shift == 0)
				s->t[slot].tag = stlb_empty(slot);
		}
	}
}

static void xt_flush(struct soft_mmu *m, bool global)
{
	for (unsigned k = 0; k < 2; k++)
		for (unsigned s = 0; s < SOFT_XT; s++)
			if (global || !(m->xt[k][s].fl & SX_G))
				m->xt[k][s].tag = 1;
}

void mmu_drop_l1(struct scpu *c)
{
	struct soft_mmu *m = c->mmu;

	for (unsigned s = 0; s < COUNT_OF(m->side); s++) {
		side_flush(&m->side[s], 0);
		side_flush(&m->side[s], 1);
	}
	xt_flush(m, true);
	memset(m->large_seen, 0, sizeof(m->large_seen));
	m->huge_seen = 0;
	code_break_chain(c);
}

void mmu_drop_w(struct scpu *c)
{
	struct soft_mmu *m = c->mmu;

	for (unsigned k = 0; k < SMMUS; k++) {
		side_flush(&m->side[2 * k + 1], 0);
		side_flush(&m->side[2 * k + 1], 1);
	}
}

void mmu_drop_w_page(struct scpu *c, uint64_t index)
{
	struct soft_mmu *m = c->mmu;
	const struct soft_shared *sh = soft_sh(c);
	const struct smap *map = NULL;

	for (unsigned k = 0; k < sh->nmap && !map; k++)
		if (index - sh->map[k].first < sh->map[k].len >> 12)
			map = &sh->map[k];
	if (!map)
		return;
	uint64_t host = (uint64_t)(uintptr_t)map->host + ((index - map->first) << 12);
	for (unsigned k = 0; k < SMMUS; k++) {
		struct sside *s = &m->side[2 * k + 1];

		for (unsigned g = 0; g < 2; g++) {
			for (unsigned j = 0; j < s->n[g]; j++) {
				struct stlb *t = &s->t[s->list[g][j]];

				if (t->tag + t->addend == host)
					*t = (struct stlb){ .tag = stlb_empty(s->list[g][j]) };
			}
		}
	}
}

/* ---- L2 and address spaces ---- */

static uint64_t l2_tag(uint64_t lin, unsigned shift, uint32_t asid)
{
	return (lin & 0xffffffffffffull) >> shift | (uint64_t)asid << 36;
}

static uint32_t asid_new(struct scpu *c)
{
	struct soft_mmu *m = c->mmu;

	if (m->asid_last >= (1u << 28) - 2) {
		memset(m->l2, 0, sizeof(m->l2));
		memset(m->large, 0, sizeof(m->large));
		memset(m->asid_pcid, 0, sizeof(m->asid_pcid));
		m->asid_last = 1;
		m->asid_global = 1;
	}
	return ++m->asid_last;
}

/* Set of a page: bits 12-20, with some of the higher ones mixed in. */
static unsigned l2_set(uint64_t lin)
{
	return (unsigned)(lin >> 12 ^ lin >> 21 ^ lin >> 39) & (SL2_SETS - 1);
}

static unsigned l2_large_slot(uint64_t lin)
{
	return (unsigned)(lin >> 21 ^ lin >> 31 ^ lin >> 39) & (SL2_LARGE - 1);
}

static bool l2_find(const struct soft_mmu *m, uint64_t lin, struct sxlate *ret)
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

static void l2_fill(struct soft_mmu *m, uint64_t lin, const struct sxlate *x)
{
	uint32_t asid = x->fl & SX_G ? m->asid_global : m->asid;

	if (x->fl & (SX_LARGE | SX_HUGE)) {
		m->large[l2_large_slot(lin)] =
			(struct sl2){ l2_tag(lin, 21, asid), (x->pa & ~0x1fffffull) | x->fl };
		return;
	}
	unsigned at = l2_set(lin), way = SL2_WAYS;
	uint64_t tag = l2_tag(lin, 12, asid);
	for (unsigned w = 0; w < SL2_WAYS; w++)
		if (m->l2[at][w].tag == tag)
			way = w;
	if (way == SL2_WAYS)
		way = m->l2_next[at]++ % SL2_WAYS;
	m->l2[at][way] = (struct sl2){ tag, x->pa | x->fl };
}

static void l2_drop(struct soft_mmu *m, uint64_t lin)
{
	struct sl2 *set = m->l2[l2_set(lin)];
	uint64_t tag = l2_tag(lin, 12, m->asid), gtag = l2_tag(lin, 12, m->asid_global);

	for (unsigned w = 0; w < SL2_WAYS; w++)
		if (set[w].tag == tag || set[w].tag == gtag)
			set[w].tag = 0;
	struct sl2 *l = &m->large[l2_large_slot(lin)];
	if (l->tag == l2_tag(lin, 21, m->asid) || l->tag == l2_tag(lin, 21, m->asid_global))
		l->tag = 0;
}

void mmu_flush_page(struct scpu *c, uint64_t lin)
{
	struct soft_mmu *m = c->mmu;
	unsigned slot = lin >> 12 & (STLB_SIZE - 1);
	uint64_t page = lin & ~PAGE_MASK_;

	m->flush_pages++;
	for (unsigned s = 0; s < COUNT_OF(m->side); s++)
		if (m->side[s].t[slot].tag == page)
			m->side[s].t[slot].tag = stlb_empty(slot);
	for (unsigned k = 0; k < 2; k++)
		if (m->xt[k][lin >> 12 & (SOFT_XT - 1)].tag == page)
			m->xt[k][lin >> 12 & (SOFT_XT - 1)].tag = 1;
	l2_drop(m, lin);
	if (m->large_seen[lin >> 27 & 63] & BIT64(lin >> 21 & 63)) {
		for (unsigned s = 0; s < COUNT_OF(m->side); s++)
			side_flush_piece(&m->side[s], lin, 22, SX_LARGE);
		xt_flush(m, true);
		/* A 4 MiB page is two entries. */
		l2_drop(m, lin ^ 0x200000);
	}
	if (m->huge_seen & BIT64(lin >> 30 & 63)) {
		for (unsigned s = 0; s < COUNT_OF(m->side); s++)
			side_flush_piece(&m->side[s], lin, 30, SX_HUGE);
		xt_flush(m, true);
		for (unsigned k = 0; k < SL2_LARGE; k++)
			if (m->large[k].pa & SX_HUGE)
				m->large[k].tag = 0;
	}
	code_break_chain(c);
}

static void mmu_drop_l1_space(struct scpu *c)
{
	struct soft_mmu *m = c->mmu;

	for (unsigned s = 0; s < COUNT_OF(m->side); s++)
		side_flush(&m->side[s], 0);
	xt_flush(m, false);
	code_break_chain(c);
}

static unsigned mmu_pcid(const struct scpu *c)
{
	return c->cr4 & X86_CR4_PCIDE ? c->cr3 & 0xfff : 0;
}

/* A new number for the current address space: all of it is forgotten, in L2 too. */
void mmu_flush_space(struct scpu *c)
{
	c->mmu->flushes++;
	c->mmu->asid = c->mmu->asid_pcid[mmu_pcid(c)] = asid_new(c);
	mmu_drop_l1_space(c);
}

void mmu_flush_all(struct scpu *c)
{
	struct soft_mmu *m = c->mmu;

	m->flushes++;
	memset(m->asid_pcid, 0, sizeof(m->asid_pcid));
	m->asid_global = asid_new(c);
	m->asid = m->asid_pcid[mmu_pcid(c)] = asid_new(c);
	mmu_drop_l1(c);
}

void mmu_switch(struct scpu *c, bool keep)
{
	struct soft_mmu *m = c->mmu;
	uint32_t *asid = &m->asid_pcid[mmu_pcid(c)];

	if (!keep || !*asid)
		*asid = asid_new(c);
	m->asid = *asid;
	mmu_drop_l1_space(c);
}

void mmu_invpcid(struct scpu *c, unsigned type, unsigned pcid, uint64_t lin)
{
	struct soft_mmu *m = c->mmu;

	switch (type) {
	case 0:
		/* One address: of another space its L2 entries are found under that number. */
		if (pcid == mmu_pcid(c)) {
			mmu_flush_page(c, lin);
		} else if (m->asid_pcid[pcid]) {
			uint32_t now = m->asid;

			m->asid = m->asid_pcid[pcid];
			l2_drop(m, lin);
			l2_drop(m, lin ^ 0x200000);
			for (unsigned k = 0; k < SL2_LARGE; k++)
				if (m->large[k].pa & SX_HUGE)
					m->large[k].tag = 0;
			m->asid = now;
		}
		break;
	case 1:
		if (pcid == mmu_pcid(c))
			mmu_flush_space(c);
		else
			m->asid_pcid[pcid] = 0;
		break;
	case 2:
		mmu_flush_all(c);
		break;
	default:
		memset(m->asid_pcid, 0, sizeof(m->asid_pcid));
		mmu_flush_space(c);
		break;
	}
}

/* ---- physical memory ---- */

struct smap *mmu_map(struct scpu *c, uint64_t pa)
{
	struct soft_mmu *m = c->mmu;
	struct soft_shared *sh = soft_sh(c);

	if (m->last_map && pa - m->last_map->gpa < m->last_map->len)
		return m->last_map;
	for (unsigned k = 0; k < sh->nmap; k++)
		if (pa - sh->map[k].gpa < sh->map[k].len)
			return m->last_map = &sh->map[k];
	return NULL;
}

static bool mmu_is_apic(const struct scpu *c, uint64_t pa)
{
	return (pa & ~PAGE_MASK_) == (c->lapic.base & ADDR_MASK) &&
	       c->lapic.base & X86_APIC_BASE_EN && !(c->lapic.base & X86_APIC_BASE_X2);
}

static uint64_t mmio_ld(struct scpu *c, uint64_t pa, unsigned size)
{
	if (!mmu_is_apic(c, pa))
		return bus_read(c->v.vm->o.mmio, pa, size);
	/* Registers are 32 bits wide at multiples of 16; what lies between reads 0. */
	unsigned off = pa & 0xff0, part = pa & 0xf;
	if (part + size > 4 && (part || size != 8))
		return 0;
	uint64_t v = unlikely(c->run->assist) ? assist_apic_ld(c, off) : lapic_read(&c->lapic, off);
	return v >> (8 * part);
}

static void mmio_st(struct scpu *c, uint64_t pa, unsigned size, uint64_t v)
{
	if (!mmu_is_apic(c, pa)) {
		bus_write(c->v.vm->o.mmio, pa, size, v);
		return;
	}
	if (pa & 0xf || size < 4)
		return;
	if (unlikely(c->run->assist))
		assist_apic_st(c, pa & 0xff0, (uint32_t)v);
	else
		lapic_write(&c->lapic, pa & 0xff0, (uint32_t)v);
}

bool mmu_phys_read(struct scpu *c, uint64_t pa, void *dst, unsigned len)
{
	const struct smap *m = mmu_map(c, pa);

	if (!m || !range_in(pa - m->gpa, len, m->len))
		return false;
	memcpy(dst, m->host + (pa - m->gpa), len);
	return true;
}

/* The dirty log, before a store. */
static void map_mark(struct scpu *c, const struct smap *m, uint64_t pa, unsigned len)
{
	if (unlikely(c->run->assist))
		assist_stores(c, pa, len);
	if (likely(!soft_sh(c)->logging) || !m->dirty)
		return;
	uint64_t last = (pa - m->gpa + len - 1) >> 12;
	for (uint64_t p = (pa - m->gpa) >> 12; p <= last; p++)
		if (!bitmap_test_atomic(m->dirty, p))
			bitmap_set_atomic(m->dirty, p);
}

bool mmu_phys_write(struct scpu *c, uint64_t pa, const void *src, unsigned len)
{
	struct smap *m = mmu_map(c, pa);

	if (!m || m->readonly || !range_in(pa - m->gpa, len, m->len))
		return false;
	memcpy(m->host + (pa - m->gpa), src, len);
	map_mark(c, m, pa, len);
	code_stored(c, NULL, m, pa, len);
	return true;
}

/* For LOCK on another engine's vCPU: it must be atomic against those that run meanwhile. */
static void *assist_w_ptr(struct scpu *c, uint64_t pa, unsigned size)
{
	struct smap *m = mmu_map(c, pa);

	if (!m || m->readonly || mmu_is_apic(c, pa))
		return NULL;
	assist_stores(c, pa, size);
	return m->host + (pa - m->gpa);
}

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

/* SDM 3A 4.6.1: may this access use a translation with these rights? */
static bool mmu_allowed(const struct scpu *c, unsigned fl, unsigned acc)
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

/* ---- the slow half of loads and stores ---- */

/* Did this access go through SS?  PUSH and the like may have a memory operand besides. */
static bool mmu_by_stack(const struct scpu *c, const struct insn *i, uint64_t lin)
{
	if (!i)
		return false;
	if (!(insn_forms[i->form].flags & INSF_STACK))
		return i->flags & INSN_MEM && i->seg == X86_SS;
	if (i->flags & INSN_MEM) {
		uint64_t ea = (soft_ea(c, i) + c->sbase[i->seg]) & c->lin_mask;

		if (lin - ea < 64)
			return i->seg == X86_SS;
	}
	return true;
}

/* In 64-bit mode the last byte too must be canonical; elsewhere addresses wrap at 4 GiB. */
static void mmu_check_canonical(struct scpu *c, const struct insn *i, uint64_t lin, unsigned len)
{
	if (likely(soft_canonical(lin) && soft_canonical(lin + len - 1)))
		return;
	soft_raise(c, i, mmu_by_stack(c, i, lin) ? X86_EXC_SS : X86_EXC_GP, 0);
}

/* SDM 3B 17.2.4: breakpoints on data.  acc has SACC_W for a store. */
static void mmu_watch(struct scpu *c, const struct insn *i, uint64_t lin, unsigned len, bool write)
{
	for (unsigned n = 0; n < 4; n++) {
		if (!(c->mmu->watch >> n & 1))
			continue;
		unsigned rw = c->dr7 >> (16 + 4 * n) & 3, l = c->dr7 >> (18 + 4 * n) & 3;
		unsigned size = l == 2 ? 8 : l + 1;
		uint64_t at = c->dr[n] & ~(uint64_t)(size - 1);

		/* rw: 1 stores, 3 stores and loads (2: ports). */
		if (rw == 2 || (rw == 1 && !write) || !range_overlap(at, size, lin, len))
			continue;
		c->run->dr6_hits |= 1u << n;
	}
	if (c->run->dr6_hits)
		code_stop_after(c, i);
}

static void mmu_careful(struct scpu *c, const struct insn *i, uint64_t lin, unsigned size,
			bool write)
{
	if (c->mmu->check_align && is_pow2(size) && size <= 8 && lin & (size - 1))
		soft_raise(c, i, X86_EXC_AC, 0);
	if (c->mmu->watch)
		mmu_watch(c, i, lin, size, write);
}

/* Translate or raise. */
static struct sxlate mmu_get(struct scpu *c, const struct insn *i, uint64_t lin, unsigned acc)
{
	struct sxlate x;
	uint32_t err = mmu_translate(c, lin, acc, &x);

	if (unlikely(err))
		soft_raise_pf(c, i, lin, err & ~MMU_FAULT);
	return x;
}

/* A one-byte-to-eight-byte piece inside a page of RAM: one host access when it is aligned. */
static uint64_t ram_ld(const void *p, unsigned size)
{
	switch (size) {
	case 1:
		return *(const volatile uint8_t *)p;
	case 2:
		return *(const volatile soft_u16 *)p;
	case 4:
		return *(const volatile soft_u32 *)p;
	case 8:
		return *(const volatile soft_u64 *)p;
	default:
		return ld_le(p, size);
	}
}

static void ram_st(void *p, unsigned size, uint64_t v)
{
	switch (size) {
	case 1:
		*(volatile uint8_t *)p = (uint8_t)v;
		break;
	case 2:
		*(volatile soft_u16 *)p = (uint16_t)v;
		break;
	case 4:
		*(volatile soft_u32 *)p = (uint32_t)v;
		break;
	case 8:
		*(volatile soft_u64 *)p = v;
		break;
	default:
		st_le(p, size, v);
		break;
	}
}

static uint64_t phys_ld(struct scpu *c, uint64_t pa, unsigned size)
{
	const struct smap *m = mmu_map(c, pa);

	if (likely(m != NULL))
		return ram_ld(m->host + (pa - m->gpa), size);
	uint64_t v = 0;
	for (unsigned done = 0; done < size;) {
		unsigned n = 1u << (31 - __builtin_clz(size - done));

		v |= mmio_ld(c, pa + done, n) << (8 * done);
		done += n;
	}
	return v;
}

static void phys_st(struct scpu *c, const struct insn *i, uint64_t pa, unsigned size, uint64_t v)
{
	struct smap *m = mmu_map(c, pa);

	if (likely(m && !m->readonly)) {
		map_mark(c, m, pa, size);
		ram_st(m->host + (pa - m->gpa), size, v);
		code_stored(c, i, m, pa, size);
		return;
	}
	for (unsigned done = 0; done < size;) {
		unsigned n = 1u << (31 - __builtin_clz(size - done));

		mmio_st(c, pa + done, n, v >> (8 * done));
		done += n;
	}
}

/* An L1 set for accesses of this kind. */
static unsigned mmu_side(unsigned acc)
{
	return acc & SACC_USER ? SMMU_USER : acc & SACC_AC ? SMMU_KERNEL_AC : SMMU_KERNEL;
}

static void mmu_fill_r(struct scpu *c, uint64_t lin, unsigned acc, const struct sxlate *x)
{
	struct soft_mmu *m = c->mmu;
	const struct smap *map = mmu_map(c, x->pa);

	m->misses++;
	if (!map || mmu_is_apic(c, x->pa))
		return;
	uint64_t host = (uint64_t)(uintptr_t)map->host + (x->pa - map->gpa);
	side_fill(m, &m->side[2 * mmu_side(acc)], lin, host - (lin & ~PAGE_MASK_), x->fl);
}

/* True: plain RAM, and there is a write translation now. */
static bool mmu_fill_w(struct scpu *c, uint64_t lin, unsigned acc, const struct sxlate *x)
{
	struct soft_mmu *m = c->mmu;
	const struct soft_shared *sh = soft_sh(c);
	struct smap *map = mmu_map(c, x->pa);

	m->misses++;
	if (!map || map->readonly || mmu_is_apic(c, x->pa))
		return false;
	uint64_t index = map->first + ((x->pa - map->gpa) >> 12);
	/* This store and the next load against those of sync_unwrite(): one sees the other. */
	if (!bitmap_test_atomic(m->wmap, index))
		bitmap_set_atomic(m->wmap, index);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(&sh->page[index].lines, __ATOMIC_SEQ_CST))
		return false;
	map_mark(c, map, x->pa, 1);
	uint64_t host = (uint64_t)(uintptr_t)map->host + (x->pa - map->gpa);
	side_fill(m, &m->side[2 * mmu_side(acc) + 1], lin, host - (lin & ~PAGE_MASK_), x->fl);
	return true;
}

static bool mmu_crosses(uint64_t lin, unsigned size)
{
	return (lin & PAGE_MASK_) + size > 4096;
}

/* Linear address of the second page of an access that crosses. */
static uint64_t mmu_next_page(const struct scpu *c, uint64_t lin)
{
	uint64_t next = (lin | PAGE_MASK_) + 1;

	return soft_64(c) ? next : next & 0xffffffff;
}

static uint64_t mmu_ld(struct scpu *c, const struct insn *i, uint64_t lin, unsigned size,
		       unsigned acc)
{
	if (unlikely(mmu_crosses(lin, size))) {
		unsigned first = 4096 - (lin & PAGE_MASK_);
		uint64_t next = mmu_next_page(c, lin);
		struct sxlate a = mmu_get(c, i, lin, acc), b = mmu_get(c, i, next, acc);
		uint64_t lo = phys_ld(c, a.pa + (lin & PAGE_MASK_), first);

		return lo | phys_ld(c, b.pa, size - first) << (8 * first);
	}
	struct sxlate x = mmu_get(c, i, lin, acc);
	if (!c->mmu->careful)
		mmu_fill_r(c, lin, acc, &x);
	if (unlikely(mmu_is_apic(c, x.pa)))
		return mmio_ld(c, x.pa + (lin & PAGE_MASK_), size);
	return phys_ld(c, x.pa + (lin & PAGE_MASK_), size);
}

static void mmu_st(struct scpu *c, const struct insn *i, uint64_t lin, unsigned size, uint64_t v,
		   unsigned acc)
{
	acc |= SACC_W;
	if (unlikely(mmu_crosses(lin, size))) {
		unsigned first = 4096 - (lin & PAGE_MASK_);
		uint64_t next = mmu_next_page(c, lin);
		struct sxlate a = mmu_get(c, i, lin, acc), b = mmu_get(c, i, next, acc);

		phys_st(c, i, a.pa + (lin & PAGE_MASK_), first, v);
		phys_st(c, i, b.pa, size - first, v >> (8 * first));
		return;
	}
	struct sxlate x = mmu_get(c, i, lin, acc);
	if (unlikely(mmu_is_apic(c, x.pa))) {
		mmio_st(c, x.pa + (lin & PAGE_MASK_), size, v);
		return;
	}
	if (!c->mmu->careful)
		(void)mmu_fill_w(c, lin, acc, &x);
	phys_st(c, i, x.pa + (lin & PAGE_MASK_), size, v);
}

uint64_t soft_ld_slow(struct scpu *c, const struct insn *i, uint64_t lin, unsigned size)
{
	if (soft_64(c))
		mmu_check_canonical(c, i, lin, size);
	if (unlikely(c->mmu->careful))
		mmu_careful(c, i, lin, size, false);
	return mmu_ld(c, i, lin, size, c->mmu->acc);
}

void soft_st_slow(struct scpu *c, const struct insn *i, uint64_t lin, unsigned size, uint64_t v)
{
	if (soft_64(c))
		mmu_check_canonical(c, i, lin, size);
	if (unlikely(c->mmu->careful))
		mmu_careful(c, i, lin, size, true);
	mmu_st(c, i, lin, size, v, c->mmu->acc);
}

uint64_t mmu_ld_as(struct scpu *c, const struct insn *i, uint64_t lin, unsigned size, unsigned acc)
{
	if (soft_64(c))
		mmu_check_canonical(c, i, lin, size);
	return mmu_ld(c, i, lin, size, acc);
}

void mmu_st_as(struct scpu *c, const struct insn *i, uint64_t lin, unsigned size, uint64_t v,
	       unsigned acc)
{
	if (soft_64(c))
		mmu_check_canonical(c, i, lin, size);
	mmu_st(c, i, lin, size, v, acc);
}

void mmu_probe_as(struct scpu *c, const struct insn *i, uint64_t lin, unsigned len, unsigned acc)
{
	if (soft_64(c))
		mmu_check_canonical(c, i, lin, len);
	(void)mmu_get(c, i, lin, acc);
	if (mmu_crosses(lin, len))
		(void)mmu_get(c, i, mmu_next_page(c, lin), acc);
}

void soft_probe_w(struct scpu *c, const struct insn *i, uint64_t lin, unsigned len)
{
	mmu_probe_as(c, i, lin, len, c->mmu->acc | SACC_W);
}

uint64_t soft_sys_ld(struct scpu *c, const struct insn *i, uint64_t lin, unsigned size)
{
	const struct stlb *t = &c->tlbs[SMMU_KERNEL].r[lin >> 12 & (STLB_SIZE - 1)];

	if (likely((lin ^ t->tag) <= 4096 - size))
		return ram_ld((const void *)(uintptr_t)(lin + t->addend), size);
	return mmu_ld_as(c, i, lin, size, 0);
}

void soft_sys_st(struct scpu *c, const struct insn *i, uint64_t lin, unsigned size, uint64_t v)
{
	mmu_st_as(c, i, lin, size, v, 0);
}

void *soft_w_slow(struct scpu *c, const struct insn *i, uint64_t lin, unsigned size)
{
	unsigned acc = c->mmu->acc | SACC_W;

	if (soft_64(c))
		mmu_check_canonical(c, i, lin, size);
	if (mmu_crosses(lin, size)) {
		mmu_probe_as(c, i, lin, size, acc);
		return NULL;
	}
	struct sxlate x = mmu_get(c, i, lin, acc);
	if (unlikely(c->run->assist))
		return assist_w_ptr(c, x.pa + (lin & PAGE_MASK_), size);
	if (c->mmu->careful || !mmu_fill_w(c, lin, acc, &x))
		return NULL;
	return (void *)(uintptr_t)(lin + c->tlb->w[lin >> 12 & (STLB_SIZE - 1)].addend);
}

/* ---- longer pieces ---- */

/* One page's part of a buffer. */
static void buf_ld(struct scpu *c, uint64_t pa, uint8_t *dst, unsigned len)
{
	const struct smap *m = mmu_map(c, pa);

	if (m && !mmu_is_apic(c, pa)) {
		memcpy(dst, m->host + (pa - m->gpa), len);
		return;
	}
	for (unsigned done = 0; done < len;) {
		unsigned n = MIN(8u, 1u << (31 - __builtin_clz(len - done)));

		st_le(dst + done, n, mmio_ld(c, pa + done, n));
		done += n;
	}
}

static void buf_st(struct scpu *c, const struct insn *i, uint64_t pa, const uint8_t *src,
		   unsigned len)
{
	struct smap *m = mmu_map(c, pa);

	if (m && !m->readonly && !mmu_is_apic(c, pa)) {
		map_mark(c, m, pa, len);
		memcpy(m->host + (pa - m->gpa), src, len);
		code_stored(c, i, m, pa, len);
		return;
	}
	for (unsigned done = 0; done < len;) {
		unsigned n = MIN(8u, 1u << (31 - __builtin_clz(len - done)));

		mmio_st(c, pa + done, n, ld_le(src + done, n));
		done += n;
	}
}

void soft_ld_buf_lin(struct scpu *c, const struct insn *i, uint64_t lin, void *dst, unsigned len)
{
	unsigned first = MIN(len, 4096 - (unsigned)(lin & PAGE_MASK_)), acc = c->mmu->acc;

	if (!len)
		return;
	if (soft_64(c))
		mmu_check_canonical(c, i, lin, len);
	if (unlikely(c->mmu->careful))
		mmu_careful(c, i, lin, len, false);
	struct sxlate a = mmu_get(c, i, lin, acc), b = a;
	if (first < len)
		b = mmu_get(c, i, mmu_next_page(c, lin), acc);
	if (!c->mmu->careful)
		mmu_fill_r(c, lin, acc, &a);
	buf_ld(c, a.pa + (lin & PAGE_MASK_), dst, first);
	if (first < len)
		buf_ld(c, b.pa, (uint8_t *)dst + first, len - first);
}

void soft_st_buf_lin(struct scpu *c, const struct insn *i, uint64_t lin, const void *src,
		     unsigned len)
{
	unsigned first = MIN(len, 4096 - (unsigned)(lin & PAGE_MASK_));
	unsigned acc = c->mmu->acc | SACC_W;

	if (!len)
		return;
	if (soft_64(c))
		mmu_check_canonical(c, i, lin, len);
	if (unlikely(c->mmu->careful))
		mmu_careful(c, i, lin, len, true);
	struct sxlate a = mmu_get(c, i, lin, acc), b = a;
	if (first < len)
		b = mmu_get(c, i, mmu_next_page(c, lin), acc);
	if (!c->mmu->careful)
		(void)mmu_fill_w(c, lin, acc, &a);
	buf_st(c, i, a.pa + (lin & PAGE_MASK_), src, first);
	if (first < len)
		buf_st(c, i, b.pa, (const uint8_t *)src + first, len - first);
}

/* ---- code ---- */

static void xt_fill(struct scpu *c, struct sxt *t, uint64_t lin, const struct sxlate *x,
		    const struct smap *map)
{
	uint64_t index = map->first + ((x->pa - map->gpa) >> 12);

	*t = (struct sxt){
		.tag = lin & ~PAGE_MASK_,
		.pa = x->pa,
		.page = &soft_sh(c)->page[index],
		.host = map->host + (x->pa - map->gpa),
		.index = index,
		.fl = (uint8_t)(x->fl & SX_G),
	};
	/* INVLPG of any address in a large page must find this one. */
	if (x->fl & SX_LARGE)
		c->mmu->large_seen[lin >> 27 & 63] |= BIT64(lin >> 21 & 63);
	if (x->fl & SX_HUGE)
		c->mmu->huge_seen |= BIT64(lin >> 30 & 63);
}

const struct sxt *mmu_code(struct scpu *c, uint64_t lin, uint64_t *ret_pa)
{
	struct soft_mmu *m = c->mmu;
	struct sxt *t = &m->xt_now[lin >> 12 & (SOFT_XT - 1)];

	if (likely((lin & ~PAGE_MASK_) == t->tag)) {
		*ret_pa = t->pa + (lin & PAGE_MASK_);
		return t;
	}
	if (soft_64(c) && !soft_canonical(lin))
		soft_raise(c, NULL, X86_EXC_GP, 0);
	struct sxlate x = mmu_get(c, NULL, lin, (c->cpl == 3 ? SACC_USER : 0) | SACC_X);
	*ret_pa = x.pa + (lin & PAGE_MASK_);
	const struct smap *map = mmu_map(c, x.pa);
	if (!map)
		return NULL;
	xt_fill(c, t, lin, &x, map);
	return t;
}
