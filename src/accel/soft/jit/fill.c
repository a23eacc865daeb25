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
		return (uint64_t)(uintptr_t)stlb_at(t, lin);
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

/* ---- modes ---- */

static uint32_t mode_units(const struct scpu *c)
{
	uint32_t m = 0;

	if (c->cr0 & X86_CR0_TS)
		return 0;
	if (!(c->cr0 & X86_CR0_EM)) {
		if (c->cr0 & X86_CR0_NE && c->jit->xsave)
			m |= JM_X87;
		if (c->cr4 & X86_CR4_OSFXSR)
			m |= JM_SSE;
	}
	if (c->cr4 & X86_CR4_OSXSAVE &&
	    (c->xcr0 & (X86_XCR0_SSE | X86_XCR0_AVX)) == (X86_XCR0_SSE | X86_XCR0_AVX))
		m |= JM_AVX;
	return m;
}

uint32_t jit_mode(const struct scpu *c)
{
	uint32_t m = JM_ON | (uint32_t)c->mmu_index << JM_MMU_SHIFT | mode_units(c);

	if (!c->jit || c->mmu->careful || !soft_prot(c) || soft_vm86(c))
		return 0;
	if (c->cpl == 3)
		m |= JM_USER;
	else if (c->cr4 & X86_CR4_SMAP)
		m |= JM_SMAP;
	/* Two looks at the time differ. */
	if ((!c->cpl || !(c->cr4 & X86_CR4_TSD)) && !c->jit->lockstep)
		m |= JM_TSC;
	if (soft_64(c)) {
		/* Of FS and GS the base is always added. */
		return m | JM_64 | 0x3f << JM_RD_SHIFT | 0x3f << JM_WR_SHIFT |
		       0x0f << JM_BASE0_SHIFT;
	}
	if (c->code_size != 32 || c->sbase[X86_CS] || c->seg[X86_CS].limit != 0xffffffff ||
	    c->sp_mask != 0xffffffff)
		return 0;
	m |= (uint32_t)c->seg_rd << JM_RD_SHIFT | (uint32_t)c->seg_wr << JM_WR_SHIFT;
	for (unsigned s = 0; s < 6; s++)
		if (!c->sbase[s])
			m |= BIT(JM_BASE0_SHIFT + s);
	return m;
}

uint32_t jit_id(struct scpu *c, uint32_t mode)
{
	struct soft_jit *j = c->jit;
	uint32_t space = mode & JM_USER ? c->mmu->asid : c->mmu->asid_global;
	/* Both halves of a STAC ... CLAC are one. */
	mode &= ~(uint32_t)(SMMU_KERNEL_AC << JM_MMU_SHIFT | JM_SINGLE);
	uint64_t key = (uint64_t)space << 32 | mode;
	struct jid *d = &j->id[(mode >> 4 ^ mode ^ space * 5) & (JIT_IDS - 1)];

	if (unlikely(d->key != key)) {
		d->key = key;
		d->id = ++j->last;
	}
	return j->last_id = d->id;
}

void jit_ras_empty(struct scpu *c, uint32_t id)
{
	c->jit_ras = c->jit_ras_base;
	c->jit_ras_id = id;
}

/* ---- SYSCALL and SYSRET ---- */

static struct cpu_seg flat_seg(uint16_t sel, uint32_t type, unsigned dpl)
{
	return (struct cpu_seg){
		.sel = sel,
		.limit = 0xffffffff,
		.attr = type | SEG_S | dpl << SEG_DPL_SHIFT | SEG_P | SEG_G,
	};
}

static void set_flags(struct scpu *c, uint64_t v)
{
	c->rflags = (v & ~(uint64_t)X86_FL_STATUS) | X86_FL_FIXED;
	c->fl = (uint16_t)((v & 0xd5) << 8 | 0x200 | (v >> 11 & 1));
}

/* The privilege changed: what mmu_select() would do, and the number of the mode. */
static void ring_changed(struct scpu *c, unsigned cpl)
{
	struct soft_mmu *m = c->mmu;
	uint32_t id;
	bool ac = !cpl && c->rflags & X86_FL_AC && c->cr4 & X86_CR4_SMAP;

	c->cpl = (uint8_t)cpl;
	c->mmu_index = cpl ? SMMU_USER : ac ? SMMU_KERNEL_AC : SMMU_KERNEL;
	m->acc = cpl ? SACC_USER : ac ? SACC_AC : 0;
	m->xt_now = m->xt[cpl ? 1 : 0];
	c->tlb = &c->tlbs[c->mmu_index];
	id = jit_id(c, jit_mode(c));
	jit_ras_empty(c, id);
	/* Against sync_set_req(): one of the two sees the other. */
	__atomic_exchange_n(&c->jit_id, id, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&c->exit_req, __ATOMIC_SEQ_CST))
		__atomic_store_n(&c->jit_id, 0, __ATOMIC_SEQ_CST);
}

uint64_t jit_syscall(struct scpu *c, uint64_t next, UNUSED uint32_t desc)
{
	uint16_t sel = c->star >> 32 & 0xfffc;
	uint64_t fl = c->rflags | (c->fl >> 8 & 0xd5) | (uint64_t)(c->fl & 1) << 11;

	if (!(c->efer & X86_EFER_SCE) || !c->lstar || fl & (X86_FL_TF | X86_FL_RF) ||
	    (fl & ~c->fmask & X86_FL_AC))
		return 0;
	c->gpr[X86_RCX] = c->jit_page + next;
	c->gpr[X86_R11] = fl;
	c->seg[X86_CS] = flat_seg(sel, 0xb | SEG_L, 0);
	c->seg[X86_SS] = flat_seg((uint16_t)(sel + 8), 3 | SEG_DB, 0);
	set_flags(c, fl & ~c->fmask);
	ring_changed(c, 0);
	return c->lstar;
}

uint64_t jit_sysret(struct scpu *c, UNUSED uint64_t zero, UNUSED uint32_t desc)
{
	uint16_t sel = c->star >> 48;
	uint64_t rip = c->gpr[X86_RCX], fl = c->gpr[X86_R11] & 0x3c7fd5;

	if (!(c->efer & X86_EFER_SCE) || !soft_canonical(rip) || !rip ||
	    fl & (X86_FL_TF | X86_FL_AC) || (fl & X86_FL_IF && c->irq_waits))
		return 0;
	c->seg[X86_CS] = flat_seg((uint16_t)((sel + 16) | 3), 0xb | SEG_L, 3);
	c->seg[X86_SS] = flat_seg((uint16_t)((sel + 8) | 3), 3 | SEG_DB, 3);
	set_flags(c, fl);
	ring_changed(c, 3);
	return rip;
}
