/*
 * The soft engine's table: life of VMs and vCPUs, timers, kicks, dirty logging, counters.
 *
 * Threads: one host thread for each vCPU comes through accel_run(); one thread of ours per VM
 * sleeps until the next local APIC timer is due and kicks its vCPU.  A halted vCPU waits for its
 * own deadline itself.
 */
#include "accel/soft/soft.h"

#include "accel/soft/jit/jit.h"
#include "accel/soft/jit/lockstep.h"
#include "accel/soft/options.h"
#include "accel/soft/sys_int.h"
#include "base/alloc.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/leak.h"
#include "base/num.h"
#include "base/str.h"

#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <x86intrin.h>

/* ---- guest memory ---- */

static struct soft_shared *shared_of(struct accel_vm *vm)
{
	return ((struct soft_vm *)(void *)vm)->shared;
}

int soft_map(struct soft_shared *sh, const struct gmem *m, struct err *e)
{
	uint64_t pages = 0;

	for (unsigned n = 0; n < m->n; n++)
		pages += m->r[n].len >> GMEM_PAGE_SHIFT;
	struct spage *page = xcalloc(pages ? pages : 1, sizeof(*page));
	if (!page)
		return err_set(e, ENOMEM, "no memory for %lu page records", (unsigned long)pages);
	for (unsigned n = 0; n < sh->nmap; n++)
		free(sh->map[n].dirty);
	free(sh->page);
	sh->page = page;
	sh->npages = pages;
	sh->nmap = m->n;
	pages = 0;
	for (unsigned n = 0; n < m->n; n++) {
		const struct gmem_region *r = &m->r[n];

		sh->map[n] = (struct smap){ r->gpa, r->len, r->host, r->readonly, pages, NULL };
		pages += r->len >> GMEM_PAGE_SHIFT;
	}
	return 0;
}

static void soft_wrote(struct gmem_watch *w, uint64_t gpa, uint64_t len)
{
	struct soft_vm *vm = container_of(w, struct soft_vm, watch);

	__atomic_fetch_add(&vm->shared->dma_told, 1, __ATOMIC_SEQ_CST);
	code_dma_wrote(vm->shared, gpa, len);
}

int soft_vcpu_resize(struct scpu *c, struct err *e)
{
	uint64_t *wmap = xcalloc(BITMAP_WORDS(c->run->sh->npages) + 1, sizeof(uint64_t));

	if (!wmap)
		return err_set(e, ENOMEM, "no memory for a page bitmap");
	free(c->mmu->wmap);
	c->mmu->wmap = wmap;
	c->mmu->last_map = NULL;
	mmu_flush_all(c);
	return code_resize(c, e);
}

static int soft_regions_changed(struct accel_vm *vm, struct err *e)
{
	struct soft_shared *sh = shared_of(vm);

	sync_stop(sh);
	int rc = soft_map(sh, vm->o.gmem, e);
	for (unsigned n = 0; rc >= 0 && n < sh->ncpu; n++)
		if (sh->cpu[n])
			rc = soft_vcpu_resize(sh->cpu[n], e);
	sync_go(sh);
	return rc;
}

/* ---- dirty log ---- */

static void dirty_free(struct soft_shared *sh)
{
	for (unsigned n = 0; n < sh->nmap; n++) {
		free(sh->map[n].dirty);
		sh->map[n].dirty = NULL;
	}
}

/* Each page is logged again when it is stored to for the first time from now on. */
static void dirty_arm(struct soft_shared *sh)
{
	for (unsigned n = 0; n < sh->ncpu; n++)
		if (sh->cpu[n])
			mmu_drop_w(sh->cpu[n]);
}

static int soft_dirty_start(struct accel_vm *vm, struct err *e)
{
	struct soft_shared *sh = shared_of(vm);
	int rc = 0;

	sync_stop(sh);
	for (unsigned n = 0; n < sh->nmap && !rc; n++) {
		struct smap *m = &sh->map[n];

		m->dirty = xcalloc(BITMAP_WORDS(m->len >> GMEM_PAGE_SHIFT), sizeof(uint64_t));
		if (!m->dirty)
			rc = err_set(e, ENOMEM, "no memory for a dirty bitmap");
	}
	if (rc)
		dirty_free(sh);
	else
		sh->logging = true;
	dirty_arm(sh);
	sync_go(sh);
	return rc;
}

/*
 * Our bitmaps move to gmem's while nobody runs, and write translations go: what is stored later is
 * marked in ours and found by the next sync, whatever becomes of gmem's bits in between.
 */
static int soft_dirty_sync(struct accel_vm *vm, struct err *e)
{
	struct soft_shared *sh = shared_of(vm);
	struct gmem *g = vm->o.gmem;

	sync_stop(sh);
	for (unsigned n = 0; n < sh->nmap; n++) {
		struct smap *m = &sh->map[n];
		uint64_t words = BITMAP_WORDS(m->len >> GMEM_PAGE_SHIFT);

		for (uint64_t w = 0; m->dirty && w < words; w++) {
			if (!m->dirty[w])
				continue;
			__atomic_fetch_or(&g->r[n].dirty[w], m->dirty[w], __ATOMIC_ACQ_REL);
			m->dirty[w] = 0;
		}
	}
	dirty_arm(sh);
	sync_go(sh);
	return 0;
}

static void soft_dirty_stop(struct accel_vm *vm)
{
	struct soft_shared *sh = shared_of(vm);

	sync_stop(sh);
	sh->logging = false;
	dirty_free(sh);
	sync_go(sh);
}

/* ---- timers ---- */

static void timer_thread(void *arg)
{
	struct soft_shared *sh = arg;

	lock(&sh->timer_lock);
	while (!sh->timer_stop) {
		uint64_t now = clock_ns(), next = UINT64_MAX;

		for (unsigned n = 0; n < sh->ncpu; n++) {
			struct soft_run *r = sh->cpu[n] ? sh->cpu[n]->run : NULL;

			if (!r || r->timer_ns == UINT64_MAX || r->timer_told)
				continue;
			if (r->timer_ns <= now) {
				/* Once: the vCPU arms it again. */
				r->timer_told = true;
				sync_kick(sh->cpu[n]);
			} else {
				next = MIN(next, r->timer_ns);
			}
		}
		sh->timer_wake_ns = next;
		if (next == UINT64_MAX)
			cond_wait(&sh->timer_cond, &sh->timer_lock);
		else
			(void)cond_wait_until(&sh->timer_cond, &sh->timer_lock, next);
	}
	unlock(&sh->timer_lock);
}

static struct scpu *scpu_of(struct lapic *l)
{
	return container_of(l, struct scpu, lapic);
}

static void owner_kick(struct lapic *l)
{
	sync_kick(scpu_of(l));
}

static void owner_timer(struct lapic *l, uint64_t deadline_ns)
{
	struct soft_run *r = scpu_of(l)->run;
	struct soft_shared *sh = r->sh;

	lock(&sh->timer_lock);
	r->timer_ns = deadline_ns;
	r->timer_told = false;
	if (deadline_ns < sh->timer_wake_ns) {
		sh->timer_wake_ns = deadline_ns;
		cond_wake_all(&sh->timer_cond);
	}
	unlock(&sh->timer_lock);
}

static uint64_t owner_tsc(struct lapic *l)
{
	return soft_tsc(scpu_of(l));
}

static uint64_t owner_tsc_deadline(struct lapic *l, uint64_t tsc)
{
	struct scpu *c = scpu_of(l);
	uint64_t now = soft_tsc(c), now_ns = clock_ns();

	if ((int64_t)(tsc - now) <= 0)
		return now_ns;
	unsigned __int128 ns = (unsigned __int128)(tsc - now) * NS_PER_SEC / c->run->sh->tsc_hz;
	/* A century is never. */
	return ns > 100ull * 365 * 86400 * NS_PER_SEC ? UINT64_MAX : now_ns + (uint64_t)ns;
}

static const struct lapic_owner soft_lapic_owner = {
	.kick = owner_kick,
	.timer = owner_timer,
	.tsc = owner_tsc,
	.tsc_deadline_ns = owner_tsc_deadline,
};

/* ---- the VM ---- */

static void shared_free(struct soft_shared *sh)
{
	if (!sh)
		return;
	lock(&sh->timer_lock);
	sh->timer_stop = true;
	cond_wake_all(&sh->timer_cond);
	unlock(&sh->timer_lock);
	thread_join(&sh->timer);
	prof_free(sh->prof);
	dirty_free(sh);
	free(sh->page);
	cond_fini(&sh->timer_cond);
	lock_fini(&sh->timer_lock);
	cond_fini(&sh->cond);
	lock_fini(&sh->lock);
	free(sh);
}

static int shared_new(struct soft_shared **ret, const struct accel_opts *o, struct err *e)
{
	struct soft_shared *sh = NEW(struct soft_shared);

	if (!sh)
		return err_set(e, ENOMEM, "no memory");
	lock_init(&sh->lock);
	cond_init(&sh->cond);
	lock_init(&sh->timer_lock);
	cond_init(&sh->timer_cond);
	sh->timer_wake_ns = UINT64_MAX;
	sh->tsc_hz = soft_host_tsc_hz();
	sh->tsc_offset = -__rdtsc();
	*ret = sh;
	return soft_map(sh, o->gmem, e);
}

static void soft_vm_free(struct accel_vm *vm)
{
	struct soft_vm *s = (struct soft_vm *)(void *)vm;

	if (vm->o.gmem && vm->o.gmem->watch == &s->watch)
		vm->o.gmem->watch = NULL;
	if (s->shared)
		ferr_fini(s->shared, vm->o.pio);
	shared_free(s->shared);
	irq_chips_free(s->chips);
	free(vm->vcpu);
	free(s);
}

static int vm_chips(struct soft_vm *s, struct err *e)
{
	const struct irq_chips_opts co = { .mmio = s->vm.o.mmio, .pio = s->vm.o.pio };
	int rc = irq_chips_new(&s->chips, &co, e);

	if (rc < 0)
		return rc;
	s->vm.irqs = irq_chips_irqs(s->chips);
	return 0;
}

static bool host_is_intel(void)
{
	unsigned a, b, c, d;

	return __get_cpuid(0, &a, &b, &c, &d) && b == signature_INTEL_ebx;
}

static int vm_new(const struct accel_opts *o, const struct soft_opts *so, struct accel_vm **ret,
		  struct err *e)
{
	int rc;

	if (o->ncpus > SOFT_CPUS)
		return err_set(e, EINVAL, "%u CPUs: at most %d", o->ncpus, SOFT_CPUS);
	rc = soft_host_init(e);
	if (rc < 0)
		return rc;
	/* Guests see the host's vendor. */
	soft_decode_vendor(host_is_intel());
	struct soft_vm *s = NEW(struct soft_vm);
	if (!s)
		return err_set(e, ENOMEM, "no memory");
	s->vm.drv = &accel_soft;
	s->vm.o = *o;
	s->vm.vcpu = xcalloc(o->ncpus, sizeof(s->vm.vcpu[0]));
	rc = s->vm.vcpu ? shared_new(&s->shared, o, e) : err_set(e, ENOMEM, "no memory");
	if (rc >= 0 && prof_wanted(&so->prof))
		rc = prof_new(&s->shared->prof, &so->prof, e);
	if (rc >= 0)
		rc = vm_chips(s, e);
	if (rc >= 0)
		rc = ferr_init(s->shared, o->pio, e);
	if (rc >= 0)
		rc = thread_start(&s->shared->timer, "soft-timer", timer_thread, s->shared, e);
	if (rc < 0) {
		soft_vm_free(&s->vm);
		return rc;
	}
	s->shared->jit = so->jit;
	s->shared->hot = so->hot;
	s->shared->lockstep = so->lockstep;
	s->vm.tsc_hz = s->shared->tsc_hz;
	s->watch.wrote = soft_wrote;
	o->gmem->watch = &s->watch;
	*ret = &s->vm;
	return 0;
}

static int soft_vm_new(const struct accel_opts *o, struct accel_vm **ret, struct err *e)
{
	struct soft_opts so;
	int rc = soft_opts_parse(&so, o, e);

	if (rc >= 0)
		rc = vm_new(o, &so, ret, e);
	soft_opts_fini(&so);
	return rc;
}

/* ---- vCPUs ---- */

#define VCPU_BYTES (sizeof(struct scpu) + SJUMPS * SJUMP_PAIR)

/* All vCPUs together, as far as each has enough for a kernel's hot paths. */
static size_t jit_cache_size(unsigned ncpus)
{
	return MAX(MIB(64) / ncpus, MIB(8));
}

void soft_vcpu_parts_free(struct scpu *c)
{
	mmu_free(c);
	code_free(c);
	soft_host_free(c->host);
	if (c->run)
		cond_fini(&c->run->wake);
	free(c->run);
}

static void soft_vcpu_free(struct accel_vcpu *v)
{
	struct scpu *c = (struct scpu *)(void *)v;
	struct soft_shared *sh = shared_of(v->vm);

	lock(&sh->timer_lock);
	lock(&sh->lock);
	if (sh->cpu[v->index] == c)
		sh->cpu[v->index] = NULL;
	unlock(&sh->lock);
	unlock(&sh->timer_lock);
	if (v->vm->vcpu[v->index] == v)
		v->vm->vcpu[v->index] = NULL;
	prof_vcpu_free(c);
	jit_free(c);
	soft_vcpu_parts_free(c);
	leak_root(c, VCPU_BYTES, false);
	munmap(c, VCPU_BYTES);
}

int soft_vcpu_parts(struct scpu *c, struct soft_shared *sh, struct err *e)
{
	int rc = mmu_alloc(c, e);

	if (rc >= 0)
		rc = soft_host_new(&c->host, e);
	if (rc >= 0)
		rc = code_new(c, e);
	if (rc < 0)
		return rc;
	c->run = NEW(struct soft_run);
	if (!c->run)
		return err_set(e, ENOMEM, "no memory");
	cond_init(&c->run->wake);
	c->run->sh = sh;
	c->run->delivering = -1;
	c->run->timer_ns = UINT64_MAX;
	c->mmu->wmap = xcalloc(BITMAP_WORDS(sh->npages) + 1, sizeof(uint64_t));
	if (!c->mmu->wmap)
		return err_set(e, ENOMEM, "no memory for a page bitmap");
	mmu_init(c);
	return 0;
}

static int vcpu_cpuid(struct scpu *c, struct err *e)
{
	struct cpuid_table *t = NEW(struct cpuid_table);
	const struct accel_opts *o = &c->v.vm->o;
	const struct cpuid_topology topo = {
		.ncpus = o->ncpus,
		.apic_id = c->v.apic_id,
		.tsc_hz = c->v.vm->tsc_hz,
	};

	if (!t)
		return err_set(e, ENOMEM, "no memory");
	int rc = soft_cpuid(t, e);
	if (rc >= 0)
		rc = cpuid_build(&c->v.cpuid, t, o->cpu_model ? o->cpu_model : "host", &topo, e);
	free(t);
	if (rc < 0)
		return rc;
	soft_advise(&c->v.cpuid);
	sys_facts(c);
	return 0;
}

static int vcpu_power_on(struct scpu *c, struct err *e)
{
	struct cpu_state *s = NEW(struct cpu_state);

	if (!s)
		return err_set(e, ENOMEM, "no memory");
	c->tsc_offset = c->run->sh->tsc_offset;
	lapic_init(&c->lapic, c->v.index, c->v.apic_id, &soft_lapic_owner, soft_vm(c)->chips);
	cpu_state_reset(s, c->v.index == 0, c->v.apic_id);
	int rc = soft_set(&c->v, s, e);
	free(s);
	return rc;
}

static int soft_vcpu_new(struct accel_vm *vm, unsigned index, struct accel_vcpu **ret,
			 struct err *e)
{
	struct soft_shared *sh = shared_of(vm);
	/* Zeroed, and what is not touched is not there: the jump cache is large. */
	struct scpu *c = sh->jit ? jit_alloc_low(VCPU_BYTES)
				 : mmap(NULL, VCPU_BYTES, PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (!c || c == MAP_FAILED)
		return err_set(e, ENOMEM, "no memory for a vCPU%s",
			       sh->jit ? " below 2 GiB (--accel soft,jit=off needs none there)"
				       : "");
	leak_root(c, VCPU_BYTES, true);
	c->v.vm = vm;
	c->v.index = index;
	c->v.apic_id = index;
	int rc = soft_vcpu_parts(c, sh, e);
	if (rc >= 0)
		rc = vcpu_cpuid(c, e);
	if (rc >= 0 && sh->jit)
		rc = jit_new(c, jit_cache_size(vm->o.ncpus), e);
	if (rc >= 0 && sh->lockstep)
		rc = lockstep_new(c, e);
	if (rc >= 0 && sh->prof)
		rc = prof_vcpu_new(c, sh->prof, e);
	if (rc >= 0)
		rc = vcpu_power_on(c, e);
	if (rc < 0) {
		soft_vcpu_free(&c->v);
		return rc;
	}
	irq_chips_add(soft_vm(c)->chips, &c->lapic);
	lock(&sh->timer_lock);
	lock(&sh->lock);
	sh->cpu[index] = c;
	__atomic_store_n(&sh->ncpu, MAX(sh->ncpu, index + 1), __ATOMIC_RELEASE);
	unlock(&sh->lock);
	unlock(&sh->timer_lock);
	vm->vcpu[index] = &c->v;
	vm->nvcpu = MAX(vm->nvcpu, index + 1);
	*ret = &c->v;
	return 0;
}

static void soft_kick(struct accel_vcpu *v)
{
	struct scpu *c = (struct scpu *)(void *)v;

	__atomic_store_n(&c->run->kick, 1, __ATOMIC_SEQ_CST);
	sync_kick(c);
}

static int soft_reset(struct accel_vm *vm, struct err *e)
{
	irq_chips_reset(((struct soft_vm *)(void *)vm)->chips);
	for (unsigned n = 0; n < vm->nvcpu; n++) {
		struct scpu *c = (struct scpu *)(void *)vm->vcpu[n];

		if (!c)
			continue;
		ferr_clear(c);
		lapic_reset(&c->lapic, false);
		(void)lapic_take_events(&c->lapic);
	}
	return 0;
}

/* ---- counters ---- */

static void soft_stats(struct accel_vm *vm, char *ret, size_t size)
{
	struct soft_shared *sh = shared_of(vm);
	struct soft_run r = { 0 };
	struct code_stats k = { 0 };
	struct jit_stats t = { 0 };
	uint64_t misses = 0, walks = 0, flushes = 0, pages = 0;

	for (unsigned n = 0; n < sh->ncpu; n++) {
		const struct scpu *c = sh->cpu[n];

		if (!c)
			continue;
		r.insns += c->run->insns;
		r.blocks += c->run->blocks;
		r.irqs += c->run->irqs;
		r.excs += c->run->excs;
		r.halts += c->run->halts;
		misses += c->mmu->misses;
		walks += c->mmu->walks;
		flushes += c->mmu->flushes;
		pages += c->mmu->flush_pages;
		const struct code_stats *s = code_stats(c);
		k.blocks_made += s->blocks_made;
		k.insns_made += s->insns_made;
		k.invalidations += s->invalidations;
		k.drops += s->drops;
		k.given_back += s->given_back;
		if (!c->jit)
			continue;
		const struct jit_stats *u = jit_stats(c);
		t.blocks += u->blocks;
		t.insns += u->insns;
		t.bytes += u->bytes;
		t.entries += u->entries;
		t.interps += u->interps;
		t.links += u->links;
		t.jumps += u->jumps;
	}
	snprintf(ret, size,
		 "insns=%lu blocks=%lu interrupts=%lu exceptions=%lu halts=%lu tlb-misses=%lu "
		 "walks=%lu flushes=%lu flushed-pages=%lu blocks-decoded=%lu insns-decoded=%lu "
		 "invalidated=%lu drops=%lu given-back=%lu translated-blocks=%lu "
		 "translated-insns=%lu code-bytes=%lu entries=%lu interpreted=%lu links=%lu "
		 "jumps=%lu",
		 (unsigned long)r.insns, (unsigned long)r.blocks, (unsigned long)r.irqs,
		 (unsigned long)r.excs, (unsigned long)r.halts, (unsigned long)misses,
		 (unsigned long)walks, (unsigned long)flushes, (unsigned long)pages,
		 (unsigned long)k.blocks_made, (unsigned long)k.insns_made,
		 (unsigned long)k.invalidations, (unsigned long)k.drops,
		 (unsigned long)k.given_back, (unsigned long)t.blocks, (unsigned long)t.insns,
		 (unsigned long)t.bytes, (unsigned long)t.entries, (unsigned long)t.interps,
		 (unsigned long)t.links, (unsigned long)t.jumps);
	const struct lockstep_stats *l =
		sh->ncpu && sh->cpu[0] && sh->lockstep ? lockstep_stats(sh->cpu[0]) : NULL;
	size_t n = strlen(ret);
	if (l)
		snprintf(ret + n, size - n,
			 " lockstep-compared=%lu lockstep-partial=%lu lockstep-aborted=%lu "
			 "lockstep-excused=%lu lockstep-differing=0",
			 (unsigned long)l->compared, (unsigned long)l->partial,
			 (unsigned long)l->aborted, (unsigned long)l->excused);
}

const struct accel accel_soft = {
	.name = "soft",
	.vm_new = soft_vm_new,
	.vm_free = soft_vm_free,
	.vcpu_new = soft_vcpu_new,
	.vcpu_free = soft_vcpu_free,
	.run = soft_run,
	.kick = soft_kick,
	.get = soft_get,
	.set = soft_set,
	.cpuid = soft_cpuid,
	.dirty_sync = soft_dirty_sync,
	.dirty_start = soft_dirty_start,
	.dirty_stop = soft_dirty_stop,
	.regions_changed = soft_regions_changed,
	.stats = soft_stats,
	.reset = soft_reset,
};
