/*
 * The local APIC's timer (SDM 3A 11.5.4): one-shot and periodic, counting down from the initial
 * count at LAPIC_BUS_HZ through a divider, and TSC-deadline.
 *
 * Nothing counts: the current count follows from the time at which the running period began.  The
 * owner is asked for a wake-up only when an interrupt would come of it, so a masked timer is free.
 *
 * Guests count a periodic timer's interrupts.  Where the host was late several periods are over at
 * once, or one is over while the interrupt of another waits; these are owed, and follow as fast as
 * the guest accepts them.  What is older than TIMER_OWED_NS is given up:
 * a VM that was paused would get an hour's.
 *
 * A guest can ask for periods of a nanosecond; wake-ups are TIMER_MIN_NS apart at least, and
 * shorter periods than that are merged.
 */
#include "irq/irq_int.h"

#include "base/bits.h"
#include "base/clock.h"
#include "base/num.h"

enum {
	TIMER_MIN_NS = 50000,
	TIMER_OWED_NS = 1000000000,
	/* LVT bits 18-17. */
	MODE_ONE_SHOT = 0,
	MODE_PERIODIC = 1,
	MODE_DEADLINE = 2,
};

static unsigned timer_mode(uint32_t lvt)
{
	return lvt >> 17 & 3;
}

/* Nanoseconds for one count: the divide configuration 0 is 2, 1 is 4 ... 6 is 128, 7 is 1. */
static uint64_t timer_tick_ns(const struct lapic *l)
{
	unsigned code = (l->timer_div & 3) | (l->timer_div >> 1 & 4);

	return (uint64_t)BIT((code + 1) & 7) * (NS_PER_SEC / LAPIC_BUS_HZ);
}

static uint64_t timer_period_ns(const struct lapic *l)
{
	return l->timer_init * timer_tick_ns(l);
}

/* Counts left of the running period. */
static uint32_t timer_left(const struct lapic *l, uint64_t now_ns)
{
	if (!l->timer_on || !l->timer_init)
		return 0;
	uint64_t ticks = (now_ns - l->timer_start_ns) / timer_tick_ns(l);
	if (timer_mode(l->lvt[LAPIC_LVT_TIMER]) == MODE_PERIODIC)
		ticks %= l->timer_init;
	return ticks >= l->timer_init ? 0 : l->timer_init - (uint32_t)ticks;
}

uint32_t lapic_timer_count(const struct lapic *l)
{
	return timer_left(l, clock_ns());
}

/* Ask the owner for the wake-up that the registers call for. */
static void timer_arm(struct lapic *l, uint64_t earliest_ns)
{
	uint32_t lvt = l->lvt[LAPIC_LVT_TIMER];
	uint64_t at = UINT64_MAX;

	if (lvt & LAPIC_LVT_MASKED) {
		at = UINT64_MAX;
	} else if (timer_mode(lvt) == MODE_DEADLINE) {
		if (l->tsc_deadline)
			at = MAX(l->owner->tsc_deadline_ns(l, l->tsc_deadline), earliest_ns);
	} else if (timer_mode(lvt) <= MODE_PERIODIC && l->timer_on) {
		at = l->timer_start_ns + timer_period_ns(l);
		if (l->timer_owed)
			at = MIN(at, clock_ns() + timer_period_ns(l) / 4);
		at = MAX(at, earliest_ns);
	}
	l->owner->timer(l, at);
}

/* Let periods that ended before now_ns be over; returns how many did. */
static uint64_t timer_expire(struct lapic *l, uint64_t now_ns)
{
	uint64_t period = timer_period_ns(l), passed = now_ns - l->timer_start_ns;

	if (!l->timer_on || !period || passed < period)
		return 0;
	if (timer_mode(l->lvt[LAPIC_LVT_TIMER]) != MODE_PERIODIC) {
		l->timer_on = 0;
		return 1;
	}
	l->timer_start_ns += passed / period * period;
	return passed / period;
}

/* One of the interrupts that are due, and of those that are owed; returns whether to raise it now.
 */
static bool timer_due(struct lapic *l, uint64_t n)
{
	uint32_t lvt = l->lvt[LAPIC_LVT_TIMER];
	uint64_t period = timer_period_ns(l), owed = l->timer_owed + n;

	if (timer_mode(lvt) != MODE_PERIODIC || period < TIMER_MIN_NS) {
		l->timer_owed = 0;
		return n;
	}
	bool raise = owed && !lapic_requested(l, lvt & 0xff);
	l->timer_owed = MIN(owed - raise, TIMER_OWED_NS / period);
	return raise;
}

void lapic_timer_fired(struct lapic *l)
{
	uint64_t now = clock_ns();
	bool fire, over;

	if (timer_mode(l->lvt[LAPIC_LVT_TIMER]) == MODE_DEADLINE) {
		fire = l->tsc_deadline && l->owner->tsc(l) >= l->tsc_deadline;
		if (fire)
			l->tsc_deadline = 0;
		over = fire;
	} else {
		uint64_t n = timer_expire(l, now);

		over = n || l->timer_owed;
		fire = timer_due(l, n);
	}
	if (fire)
		lapic_local(l, LAPIC_LVT_TIMER);
	/* Early, by the owner's rounding of TSC to time: not again in the same nanosecond. */
	timer_arm(l, over ? now + TIMER_MIN_NS : now + 1);
}

void lapic_timer_accepted(struct lapic *l)
{
	if (timer_due(l, 0))
		lapic_local(l, LAPIC_LVT_TIMER);
}

void lapic_timer_set_init(struct lapic *l, uint32_t v)
{
	if (timer_mode(l->lvt[LAPIC_LVT_TIMER]) == MODE_DEADLINE)
		return;
	l->timer_init = v;
	l->timer_owed = 0;
	l->timer_on = v != 0;
	l->timer_start_ns = clock_ns();
	timer_arm(l, 0);
}

void lapic_timer_set_div(struct lapic *l, uint32_t v)
{
	uint64_t now = clock_ns();
	uint32_t left;

	/* Counting goes on from where it is, at the new speed. */
	timer_expire(l, now);
	left = timer_left(l, now);
	l->timer_owed = 0;
	l->timer_div = v;
	l->timer_start_ns = now - (l->timer_init - left) * timer_tick_ns(l);
	timer_arm(l, 0);
}

void lapic_timer_set_lvt(struct lapic *l, uint32_t v)
{
	uint32_t old = l->lvt[LAPIC_LVT_TIMER];
	bool was_deadline = timer_mode(old) == MODE_DEADLINE;

	/* What ended while the entry was masked raised nothing. */
	if (old & LAPIC_LVT_MASKED) {
		timer_expire(l, clock_ns());
		if (was_deadline && l->tsc_deadline && l->owner->tsc(l) >= l->tsc_deadline)
			l->tsc_deadline = 0;
	}
	/* A switch to or from the deadline disarms both (11.5.4.1). */
	if (was_deadline != (timer_mode(v) == MODE_DEADLINE)) {
		l->timer_on = 0;
		l->tsc_deadline = 0;
	}
	if ((old ^ v) & (LAPIC_LVT_MASKED | 3u << 17))
		l->timer_owed = 0;
	lapic_poke(&l->lvt[LAPIC_LVT_TIMER], v);
	timer_arm(l, 0);
}

void lapic_timer_set_deadline(struct lapic *l, uint64_t tsc)
{
	if (timer_mode(l->lvt[LAPIC_LVT_TIMER]) != MODE_DEADLINE)
		return;
	l->tsc_deadline = tsc;
	timer_arm(l, 0);
}

uint64_t lapic_timer_deadline(const struct lapic *l)
{
	return timer_mode(l->lvt[LAPIC_LVT_TIMER]) == MODE_DEADLINE ? l->tsc_deadline : 0;
}

void lapic_timer_off(struct lapic *l)
{
	bool armed = l->timer_on || l->tsc_deadline;

	l->timer_init = 0;
	l->timer_owed = 0;
	l->timer_on = 0;
	l->tsc_deadline = 0;
	/* Not from lapic_init(), when the owner may not be ready. */
	if (armed)
		l->owner->timer(l, UINT64_MAX);
}

void lapic_timer_restore(struct lapic *l, uint32_t count, uint64_t deadline)
{
	count = MIN(count, l->timer_init);
	l->tsc_deadline = deadline;
	l->timer_owed = 0;
	l->timer_on = count != 0;
	l->timer_start_ns = clock_ns() - (l->timer_init - count) * timer_tick_ns(l);
	timer_arm(l, 0);
}
