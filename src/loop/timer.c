/*
 * Timers: a pairing heap through the timers themselves (Fredman and others, 1986), so that setting
 * one cannot fail, and alarms on top of it, which any thread sets.
 * Timers of the same deadline fire in any order.
 */
#include "loop/loop_int.h"

#include "base/bug.h"
#include "base/clock.h"

/* Makes the later one of two roots the first child of the other; NULL is an empty heap. */
static struct loop_timer *heap_meld(struct loop_timer *a, struct loop_timer *b)
{
	if (!a || !b)
		return a ? a : b;
	if (b->deadline_ns < a->deadline_ns) {
		struct loop_timer *t = a;

		a = b;
		b = t;
	}
	b->prev = a;
	b->next = a->child;
	if (b->next)
		b->next->prev = b;
	a->child = b;
	return a;
}

/* Melds a list of siblings to one heap: in pairs from the left, then the pairs from the right. */
static struct loop_timer *heap_meld_list(struct loop_timer *first)
{
	struct loop_timer *pairs = NULL, *root = NULL;

	while (first) {
		struct loop_timer *a = first, *b = a->next;

		first = b ? b->next : NULL;
		a->next = a->prev = NULL;
		if (b)
			b->next = b->prev = NULL;
		a = heap_meld(a, b);
		a->next = pairs;
		pairs = a;
	}
	while (pairs) {
		struct loop_timer *a = pairs;

		pairs = a->next;
		a->next = NULL;
		root = heap_meld(a, root);
	}
	return root;
}

static void heap_remove(struct loop *l, struct loop_timer *t)
{
	struct loop_timer *rest = heap_meld_list(t->child);

	if (t == l->timers) {
		l->timers = rest;
	} else {
		if (t->prev->child == t)
			t->prev->child = t->next;
		else
			t->prev->next = t->next;
		if (t->next)
			t->next->prev = t->prev;
		l->timers = heap_meld(l->timers, rest);
	}
	t->child = t->next = t->prev = NULL;
}

void loop_timer_set(struct loop *l, struct loop_timer *t, uint64_t deadline_ns)
{
	loop_timer_cancel(t);
	t->loop = l;
	t->deadline_ns = deadline_ns;
	t->armed = true;
	l->timers = heap_meld(l->timers, t);
	l->ntimers++;
}

void loop_timer_cancel(struct loop_timer *t)
{
	if (!t->armed)
		return;
	heap_remove(t->loop, t);
	t->armed = false;
	t->loop->ntimers--;
}

uint64_t loop_timers_next(const struct loop *l)
{
	return l->timers ? l->timers->deadline_ns : LOOP_NEVER;
}

void loop_timers_run(struct loop *l)
{
	if (!l->timers)
		return;
	uint64_t now = clock_ns();

	/* A callback that sets its timer to the past again does not keep us here. */
	for (unsigned left = l->ntimers; left && l->timers; left--) {
		struct loop_timer *t = l->timers;

		if (t->deadline_ns > now)
			return;
		loop_timer_cancel(t);
		t->fn(t);
	}
}

/* Alarms. */

/*
 * Brings the timer in line with what is wanted.  A setter stores want and then reads armed; here
 * armed is stored and then want is read again: whichever came first, one of the two sees the other.
 */
static void alarm_arm(struct loop_alarm *a)
{
	uint64_t want = __atomic_load_n(&a->want_ns, __ATOMIC_SEQ_CST), seen;

	do {
		seen = want;
		if (want == LOOP_NEVER)
			loop_timer_cancel(&a->timer);
		else
			loop_timer_set(a->loop, &a->timer, want);
		__atomic_store_n(&a->armed_ns, want, __ATOMIC_SEQ_CST);
		want = __atomic_load_n(&a->want_ns, __ATOMIC_SEQ_CST);
	} while (want < seen);
}

static void alarm_fired(struct loop_timer *t)
{
	struct loop_alarm *a = container_of(t, struct loop_alarm, timer);
	uint64_t want = __atomic_load_n(&a->want_ns, __ATOMIC_SEQ_CST);

	/* It may have been moved to a later time, or off. */
	if (want <= clock_ns() && __atomic_compare_exchange_n(&a->want_ns, &want, LOOP_NEVER, false,
							      __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
		/* fn may set it again, or end it: then nothing of it may be touched. */
		alarm_arm(a);
		a->fn(a);
		return;
	}
	alarm_arm(a);
}

static void alarm_posted(struct loop_post *p)
{
	alarm_arm(container_of(p, struct loop_alarm, post));
}

void loop_alarm_init(struct loop *l, struct loop_alarm *a, void (*fn)(struct loop_alarm *a))
{
	*a = (struct loop_alarm){
		.fn = fn,
		.loop = l,
		.want_ns = LOOP_NEVER,
		.armed_ns = LOOP_NEVER,
		.timer.fn = alarm_fired,
		.post.fn = alarm_posted,
	};
}

void loop_alarm_fini(struct loop_alarm *a)
{
	if (!a->loop)
		return;
	loop_post_cancel(a->loop, &a->post);
	loop_timer_cancel(&a->timer);
	a->want_ns = a->armed_ns = LOOP_NEVER;
}

void loop_alarm_set(struct loop_alarm *a, uint64_t deadline_ns)
{
	__atomic_store_n(&a->want_ns, deadline_ns, __ATOMIC_SEQ_CST);
	if (deadline_ns < __atomic_load_n(&a->armed_ns, __ATOMIC_SEQ_CST))
		loop_post(a->loop, &a->post);
}
