/*
 * The translation caches: the two levels before a page walk, address spaces, and what drops them.
 *
 *	L1	struct stlb_set, looked at inline in mem.h; a hit proves the right to do this.
 *	L2	SL2_SETS x SL2_WAYS pages and SL2_LARGE large pages, tagged with the address space's
 *		number, so that a CR3 switch with PCID keeps them.
 * An address space is a number (asid): a PCID has one, and each flush of the space takes a new
 * number, which forgets all old entries at no cost.  Global pages are under a number of their own.
 */
#include "accel/soft/jit/jit.h"
#include "accel/soft/mmu_int.h"

#include "base/alloc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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
	m->careful = m->check_align || m->watch || c->run->assist || c->run->trial;
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
	jit_space_changed(c);
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

void l2_fill(struct soft_mmu *m, uint64_t lin, const struct sxlate *x)
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
	jit_page_changed(c, lin);
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
		jit_space_changed(c);
	}
	if (m->huge_seen & BIT64(lin >> 30 & 63)) {
		for (unsigned s = 0; s < COUNT_OF(m->side); s++)
			side_flush_piece(&m->side[s], lin, 30, SX_HUGE);
		jit_space_changed(c);
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
	jit_space_left(c);
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

			jit_space_changed(c);
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
