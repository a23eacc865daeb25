/*
 * Refill of the first-level translation cache for translated code.
 *
 * This file is compiled without vector instructions, and calls nothing that is not: the guest's
 * vector registers may be in the host's.  What it cannot do (a walk, the dirty log, a page with
 * code, MMIO) is left to the interpreter's slow path.
 */
#include "accel/soft/jit/jit_int.h"
#include "accel/soft/mmu_int.h"

#include "base/bits.h"

static const struct smap *fill_map(struct scpu *c, uint64_t pa)
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

static bool fill_is_apic(const struct scpu *c, uint64_t pa)
{
	return (pa & ~PAGE_MASK_) == (c->lapic.base & ADDR_MASK) &&
	       c->lapic.base & X86_APIC_BASE_EN && !(c->lapic.base & X86_APIC_BASE_X2);
}

static bool fill_find(struct scpu *c, uint64_t lin, uint32_t desc, unsigned acc, struct sxlate *ret)
{
	unsigned size = 1u << (desc & 15);

	if ((lin & PAGE_MASK_) + size > 4096)
		return false;
	if (!(c->cr0 & X86_CR0_PG)) {
		*ret = (struct sxlate){ lin & 0xfffff000, SX_W | SX_U | SX_X | SX_D };
		return true;
	}
	if (soft_64(c) && !soft_canonical(lin))
		return false;
	return l2_find(c->mmu, lin, ret) && mmu_allowed(c, ret->fl, acc) &&
	       (!(acc & SACC_W) || ret->fl & SX_D);
}

uint64_t jit_fill_r(struct scpu *c, uint64_t lin, uint32_t desc)
{
	struct soft_mmu *m = c->mmu;
	struct sxlate x;

	if (!fill_find(c, lin, desc, m->acc, &x))
		return 0;
	const struct smap *map = fill_map(c, x.pa);
	if (!map || fill_is_apic(c, x.pa))
		return 0;
	uint64_t host = (uint64_t)(uintptr_t)map->host + (x.pa - map->gpa);
	m->misses++;
	side_fill(m, &m->side[2 * c->mmu_index], lin, host, x.fl);
	return host + (lin & PAGE_MASK_);
}

uint64_t jit_fill_w(struct scpu *c, uint64_t lin, uint32_t desc)
{
	struct soft_mmu *m = c->mmu;
	struct soft_shared *sh = soft_sh(c);
	struct sxlate x;

	if (sh->logging || !fill_find(c, lin, desc, m->acc | SACC_W, &x))
		return 0;
	const struct smap *map = fill_map(c, x.pa);
	if (!map || map->readonly || fill_is_apic(c, x.pa))
		return 0;
	uint64_t index = map->first + ((x.pa - map->gpa) >> 12);
	/* As mmu_fill_w(): this store and the next load against those of sync_unwrite(). */
	if (!bitmap_test_atomic(m->wmap, index))
		bitmap_set_atomic(m->wmap, index);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(&sh->page[index].lines, __ATOMIC_SEQ_CST))
		return 0;
	uint64_t host = (uint64_t)(uintptr_t)map->host + (x.pa - map->gpa);
	m->misses++;
	side_fill(m, &m->side[2 * c->mmu_index + 1], lin, host, x.fl);
	return host + (lin & PAGE_MASK_);
}

/* ---- MOVS and STOS ---- */

/* Host address of lin for a byte at least; 0: another way. */
static uint64_t str_at(struct scpu *c, uint64_t lin, bool write)
{
	unsigned slot = lin >> 12 & (STLB_SIZE - 1);
	const struct stlb *t = write ? &c->tlb->w[slot] : &c->tlb->r[slot];

	if (likely((lin ^ t->tag) < 4096))
		return t->host + (lin ^ t->tag);
	return write ? jit_fill_w(c, lin, 0) : jit_fill_r(c, lin, 0);
}

/* Elements up to the end of the page of host address p. */
static uint64_t str_room(uint64_t p, unsigned log)
{
	return (4096 - (p & 4095)) >> log;
}

static void str_movs(uint64_t d, uint64_t s, uint64_t n, unsigned log)
{
	switch (log) {
	case 0:
		asm volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
		break;
	case 1:
		asm volatile("rep movsw" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
		break;
	case 2:
		asm volatile("rep movsl" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
		break;
	default:
		asm volatile("rep movsq" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
		break;
	}
}

static void str_stos(uint64_t d, uint64_t v, uint64_t n, unsigned log)
{
	switch (log) {
	case 0:
		asm volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(v) : "memory");
		break;
	case 1:
		asm volatile("rep stosw" : "+D"(d), "+c"(n) : "a"(v) : "memory");
		break;
	case 2:
		asm volatile("rep stosl" : "+D"(d), "+c"(n) : "a"(v) : "memory");
		break;
	default:
		asm volatile("rep stosq" : "+D"(d), "+c"(n) : "a"(v) : "memory");
		break;
	}
}

/* As many elements as lie in one page each way; 0: the interpreter has to go on. */
static uint64_t str_run(struct scpu *c, uint64_t n, unsigned log, bool movs)
{
	uint64_t d = str_at(c, c->gpr[X86_RDI], true), s;

	if (!d)
		return 0;
	if (n > str_room(d, log))
		n = str_room(d, log);
	if (movs) {
		s = str_at(c, c->gpr[X86_RSI], false);
		if (!s)
			return 0;
		if (n > str_room(s, log))
			n = str_room(s, log);
		str_movs(d, s, n, log);
		c->gpr[X86_RSI] += n << log;
	} else {
		str_stos(d, c->gpr[X86_RAX], n, log);
	}
	c->gpr[X86_RDI] += n << log;
	return n;
}

uint64_t jit_str(struct scpu *c, uint64_t what, UNUSED uint32_t desc)
{
	bool rep = what & JSTR_REP;
	uint64_t n = rep ? c->gpr[X86_RCX] : 1, done;

	if (c->rflags & X86_FL_DF)
		return 0;
	while (n) {
		done = str_run(c, n, what & JSTR_LOG, what & JSTR_MOVS);
		n -= done;
		if (rep)
			c->gpr[X86_RCX] = n;
		if (!done || (n && __atomic_load_n(&c->exit_req, __ATOMIC_RELAXED)))
			return 0;
	}
	return 1;
}
