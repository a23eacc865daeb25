/*
 * The memory management unit: physical memory, and the slow half of guest loads and stores.
 *
 * Three levels answer "where is linear address L?": the caches L1 and L2 (tlb.c) and a walk of the
 * guest's tables (walk.c).
 *
 * What is not RAM never enters L1: the local APIC's page, MMIO, stores to ROM.  A store to a page
 * that holds decoded code does not either (code.c).
 *
 * A fault found by a cached translation is walked for again first, as the guest may have widened
 * the rights without a flush (SDM 3A 4.10.4.3); so the fault's error code is always that of the
 * tables.
 *
 * Left out on purpose: MTRR and PAT memory types, A20.
 */
#include "accel/soft/insn.h"
#include "accel/soft/jit/lockstep.h"
#include "accel/soft/mem.h"
#include "accel/soft/mmu_int.h"

#include "base/num.h"

#include <string.h>

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

bool mmu_is_apic(const struct scpu *c, uint64_t pa)
{
	return (pa & ~PAGE_MASK_) == (c->lapic.base & ADDR_MASK) &&
	       c->lapic.base & X86_APIC_BASE_EN && !(c->lapic.base & X86_APIC_BASE_X2);
}

static uint64_t mmio_ld(struct scpu *c, uint64_t pa, unsigned size)
{
	if (unlikely(c->run->trial))
		lockstep_device(c);
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
	if (unlikely(c->run->trial))
		lockstep_device(c);
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
void map_mark(struct scpu *c, const struct smap *m, uint64_t pa, unsigned len)
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
	for (const uint8_t *p = src; len;) {
		unsigned n = MIN(len, 4096 - (unsigned)(pa & PAGE_MASK_));

		memcpy(m->host + (pa - m->gpa), p, n);
		map_mark(c, m, pa, n);
		code_stored(c, NULL, m, pa, n);
		p += n;
		pa += n;
		len -= n;
	}
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

/* SDM 3B 17.2.4: breakpoints on data and ports. */
void mmu_watch(struct scpu *c, const struct insn *i, uint64_t at, unsigned len, enum mmu_watch kind)
{
	/* By R/W of DR7: stores, ports, loads and stores. */
	const unsigned hit_by[] = { 0, BIT(WATCH_STORE), BIT(WATCH_PORT),
				    BIT(WATCH_STORE) | BIT(WATCH_LOAD) };

	for (unsigned n = 0; n < 4; n++) {
		if (!(c->dr7 >> (2 * n) & 3))
			continue;
		unsigned rw = c->dr7 >> (16 + 4 * n) & 3, l = c->dr7 >> (18 + 4 * n) & 3;
		unsigned size = l == 2 ? 8 : l + 1;
		uint64_t from = c->dr[n] & ~(uint64_t)(size - 1);

		if (hit_by[rw] & BIT(kind) && range_overlap(from, size, at, len))
			c->run->dr6_hits |= 1u << n;
	}
	if (c->run->dr6_hits) {
		code_stop_after(c, i);
		/* The block may end here anyway, or the instruction repeat itself. */
		sync_set_req(c);
	}
}

static void mmu_careful(struct scpu *c, const struct insn *i, uint64_t lin, unsigned size,
			bool write)
{
	if (c->mmu->check_align && is_pow2(size) && size <= 8 && lin & (size - 1))
		soft_raise(c, i, X86_EXC_AC, 0);
	if (c->mmu->watch)
		mmu_watch(c, i, lin, size, write ? WATCH_STORE : WATCH_LOAD);
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
	uint64_t v = 0;

	if (unlikely(c->run->trial)) {
		lockstep_ld(c, pa, &v, size);
		return v;
	}
	if (likely(m != NULL))
		return ram_ld(m->host + (pa - m->gpa), size);
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

	if (unlikely(c->run->trial)) {
		lockstep_st(c, pa, &v, size);
		return;
	}
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
	side_fill(m, &m->side[2 * mmu_side(acc)], lin, host, x->fl);
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
	bool had = bitmap_test_atomic(m->wmap, index);
	if (!had)
		bitmap_set_atomic(m->wmap, index);
	fence_full();
	if (__atomic_load_n(&sh->page[index].lines, __ATOMIC_SEQ_CST)) {
		/* Nobody waits for a translation that was never made. */
		if (!had)
			bitmap_clear_atomic(m->wmap, index);
		return false;
	}
	map_mark(c, map, x->pa, 1);
	uint64_t host = (uint64_t)(uintptr_t)map->host + (x->pa - map->gpa);
	side_fill(m, &m->side[2 * mmu_side(acc) + 1], lin, host, x->fl);
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

	/* System structures can lie anywhere while compatibility mode runs. */
	return soft_64(c) || lin >> 32 ? next : next & 0xffffffff;
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
	if (soft_long(c))
		mmu_check_canonical(c, i, lin, size);
	return mmu_ld(c, i, lin, size, acc);
}

void mmu_st_as(struct scpu *c, const struct insn *i, uint64_t lin, unsigned size, uint64_t v,
	       unsigned acc)
{
	if (soft_long(c))
		mmu_check_canonical(c, i, lin, size);
	mmu_st(c, i, lin, size, v, acc);
}

void mmu_probe_as(struct scpu *c, const struct insn *i, uint64_t lin, unsigned len, unsigned acc)
{
	if (soft_long(c))
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
		return ram_ld(stlb_at(t, lin), size);
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
	return stlb_at(&c->tlb->w[lin >> 12 & (STLB_SIZE - 1)], lin);
}

/* ---- longer pieces ---- */

/* One page's part of a buffer. */
static void buf_ld(struct scpu *c, uint64_t pa, uint8_t *dst, unsigned len)
{
	const struct smap *m = mmu_map(c, pa);

	if (unlikely(c->run->trial)) {
		lockstep_ld(c, pa, dst, len);
		return;
	}
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

	if (unlikely(c->run->trial)) {
		lockstep_st(c, pa, src, len);
		return;
	}
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
