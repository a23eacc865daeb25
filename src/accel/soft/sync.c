/*
 * Who runs: vCPU threads that come and go, sections in which one runs alone, and the handshake that
 * takes a page's write translations away from everybody (sys_int.h explains).
 *
 * All states change under soft_shared.lock, and every change that somebody may wait for is
 * broadcast on soft_shared.cond.  A vCPU that waits here is not `running`, so two that wait for
 * each other cannot be.
 */
#include "accel/soft/mem.h"
#include "accel/soft/sys_int.h"

#include <string.h>

/* The vCPU whose thread this is, while it runs. */
static _Thread_local struct scpu *sync_self;

void sync_set_req(struct scpu *c)
{
	__atomic_store_n(&c->exit_req, 1, __ATOMIC_SEQ_CST);
	__atomic_store_n(&c->jit_id, 0, __ATOMIC_SEQ_CST);
}

/* Answer what was asked about the translation cache; safe in the middle of an instruction. */
static void sync_answer_locked(struct scpu *c)
{
	struct soft_run *r = c->run;

	if (r->ask_flush) {
		mmu_flush_all(c);
		c->mmu->last_map = NULL;
	}
	if (r->ask_all_w || r->ask_flush) {
		mmu_drop_w(c);
	} else {
		for (unsigned k = 0; k < r->nask; k++)
			mmu_drop_w_page(c, r->ask[k]);
	}
	for (unsigned k = 0; k < r->nask; k++)
		bitmap_clear_atomic(c->mmu->wmap, r->ask[k]);
	r->nask = 0;
	r->ask_all_w = r->ask_flush = false;
}

static bool sync_must_wait(const struct soft_shared *sh, const struct scpu *c)
{
	return sh->excl_ext || (sh->excl && sh->excl != c);
}

static void sync_run_locked(struct scpu *c)
{
	struct soft_shared *sh = c->run->sh;

	while (sync_must_wait(sh, c))
		cond_wait(&sh->cond, &sh->lock);
	sync_answer_locked(c);
	c->run->running = true;
}

static void sync_rest_locked(struct scpu *c)
{
	c->run->running = false;
	cond_wake_all(&c->run->sh->cond);
}

void sync_enter(struct scpu *c)
{
	lock(&c->run->sh->lock);
	sync_run_locked(c);
	code_take_posts_locked(c);
	unlock(&c->run->sh->lock);
	sync_self = c;
}

void sync_leave(struct scpu *c)
{
	sync_self = NULL;
	lock(&c->run->sh->lock);
	sync_rest_locked(c);
	unlock(&c->run->sh->lock);
}

void sync_pause(struct scpu *c)
{
	struct soft_shared *sh = c->run->sh;

	lock(&sh->lock);
	if (sync_must_wait(sh, c)) {
		sync_rest_locked(c);
		sync_run_locked(c);
	} else if (c->run->nask || c->run->ask_all_w || c->run->ask_flush) {
		sync_answer_locked(c);
		cond_wake_all(&sh->cond);
	}
	code_take_posts_locked(c);
	unlock(&sh->lock);
}

void sync_halt(struct scpu *c)
{
	struct soft_run *r = c->run;
	struct soft_shared *sh = r->sh;
	bool awake = true;

	lock(&sh->lock);
	sync_rest_locked(c);
	__atomic_store_n(&r->halted, true, __ATOMIC_SEQ_CST);
	while (awake && !__atomic_load_n(&c->exit_req, __ATOMIC_SEQ_CST)) {
		if (r->timer_ns == UINT64_MAX)
			cond_wait(&r->wake, &sh->lock);
		else
			awake = cond_wait_until(&r->wake, &sh->lock, r->timer_ns);
	}
	__atomic_store_n(&r->halted, false, __ATOMIC_SEQ_CST);
	sync_run_locked(c);
	unlock(&sh->lock);
}

void sync_kick(struct scpu *c)
{
	sync_set_req(c);
	if (!__atomic_load_n(&c->run->halted, __ATOMIC_SEQ_CST))
		return;
	lock(&c->run->sh->lock);
	cond_wake_all(&c->run->wake);
	unlock(&c->run->sh->lock);
}

/* Nobody but `me` (or NULL) runs after this. */
static void sync_stop_others_locked(struct soft_shared *sh, const struct scpu *me)
{
	for (unsigned k = 0; k < sh->ncpu; k++) {
		struct scpu *o = sh->cpu[k];

		if (!o || o == me)
			continue;
		while (o->run->running) {
			sync_set_req(o);
			cond_wait(&sh->cond, &sh->lock);
		}
	}
}

void soft_excl_begin(struct scpu *c)
{
	struct soft_shared *sh = c->run->sh;

	if (c->run->excl || c->run->assist || c->run->trial)
		return;
	lock(&sh->lock);
	if (sync_must_wait(sh, c)) {
		sync_rest_locked(c);
		sync_run_locked(c);
	}
	sh->excl = c;
	c->run->excl = true;
	sync_stop_others_locked(sh, c);
	unlock(&sh->lock);
}

void soft_excl_end(struct scpu *c)
{
	struct soft_shared *sh = c->run->sh;

	if (!c->run->excl)
		return;
	lock(&sh->lock);
	c->run->excl = false;
	sh->excl = NULL;
	cond_wake_all(&sh->cond);
	unlock(&sh->lock);
}

/* Also from a vCPU's thread, out of a device's register function; that vCPU is stopped enough. */
void sync_stop(struct soft_shared *sh)
{
	struct scpu *me = sync_self && sync_self->run->sh == sh ? sync_self : NULL;

	lock(&sh->lock);
	if (me)
		sync_rest_locked(me);
	while (sh->excl || sh->excl_ext)
		cond_wait(&sh->cond, &sh->lock);
	sh->excl_ext = true;
	sync_stop_others_locked(sh, NULL);
	unlock(&sh->lock);
}

void sync_go(struct soft_shared *sh)
{
	lock(&sh->lock);
	struct scpu *me = sync_self && sync_self->run->sh == sh ? sync_self : NULL;

	sh->excl_ext = false;
	cond_wake_all(&sh->cond);
	if (me)
		sync_run_locked(me);
	unlock(&sh->lock);
}

/* Ask one vCPU, or do it for one that rests. */
static void sync_ask_locked(struct scpu *o, uint64_t index)
{
	struct soft_run *r = o->run;

	if (!r->running) {
		mmu_drop_w_page(o, index);
		bitmap_clear_atomic(o->mmu->wmap, index);
		return;
	}
	for (unsigned k = 0; k < r->nask; k++)
		if (r->ask[k] == index)
			return;
	if (r->nask < SOFT_ASKS)
		r->ask[r->nask++] = index;
	else
		r->ask_all_w = true;
	sync_set_req(o);
}

void sync_unwrite(struct scpu *c, uint64_t index)
{
	struct soft_shared *sh = c->run->sh;
	bool others = false;

	if (bitmap_test_atomic(c->mmu->wmap, index)) {
		mmu_drop_w_page(c, index);
		bitmap_clear_atomic(c->mmu->wmap, index);
	}
	if (c->run->assist)
		return;
	fence_full();
	for (unsigned k = 0; k < __atomic_load_n(&sh->ncpu, __ATOMIC_ACQUIRE); k++) {
		const struct scpu *o = sh->cpu[k];

		others |= o && o != c && bitmap_test_atomic(o->mmu->wmap, index);
	}
	if (likely(!others))
		return;
	lock(&sh->lock);
	sync_rest_locked(c);
	for (unsigned k = 0; k < sh->ncpu; k++) {
		struct scpu *o = sh->cpu[k];

		if (!o || o == c)
			continue;
		/* Marks that are gone again: the page was given back, and our block is posted away.
		 */
		while (bitmap_test_atomic(o->mmu->wmap, index) &&
		       __atomic_load_n(&sh->page[index].lines, __ATOMIC_SEQ_CST)) {
			sync_ask_locked(o, index);
			if (bitmap_test_atomic(o->mmu->wmap, index))
				cond_wait(&sh->cond, &sh->lock);
		}
	}
	sync_run_locked(c);
	unlock(&sh->lock);
}
