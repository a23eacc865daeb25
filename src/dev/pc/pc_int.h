/* What the devices of dev/pc share. */
#pragma once

#include "base/clock.h"
#include "base/num.h"
#include "dev/pc/pc.h"

#include <errno.h>

/*
 * The guest's time: nanoseconds since board_start(), without those in which the VM was stopped.
 * Guarded by the device's lock.
 */
struct pc_clock {
	/* Running: clock_ns() minus guest time.  Wraps. */
	uint64_t shift_ns;
	/* Saved.  Stopped: guest time. */
	uint64_t stopped_ns;
	bool running;
};

static inline uint64_t pc_clock_now(const struct pc_clock *c)
{
	return c->running ? clock_ns() - c->shift_ns : c->stopped_ns;
}

static inline void pc_clock_start(struct pc_clock *c)
{
	if (!c->running)
		c->shift_ns = clock_ns() - c->stopped_ns;
	c->running = true;
}

static inline void pc_clock_stop(struct pc_clock *c)
{
	c->stopped_ns = pc_clock_now(c);
	c->running = false;
}

/* For pre_save: stopped_ns is what travels. */
static inline void pc_clock_save(struct pc_clock *c)
{
	c->stopped_ns = pc_clock_now(c);
}

/* After a load of stopped_ns. */
static inline void pc_clock_loaded(struct pc_clock *c)
{
	if (c->running)
		c->shift_ns = clock_ns() - c->stopped_ns;
}

/* A stream may not say that centuries passed: sums of times here do not wrap. */
static inline int pc_clock_check(uint64_t stopped_ns, struct err *e)
{
	return stopped_ns >> 61 ? err_set(e, EPROTO, "guest time is out of range") : 0;
}

/* clock_ns() time at which guest time `at_ns` comes; never while stopped. */
static inline uint64_t pc_clock_host(const struct pc_clock *c, uint64_t at_ns)
{
	if (!c->running || at_ns == UINT64_MAX)
		return LOOP_NEVER;
	return at_ns + c->shift_ns;
}

enum {
	/* A guest's timer wakes the host's main loop no more often than this. */
	PC_TIMER_MIN_NS = 50000,
};

/*
 * Guests count the ticks of periodic timers.  A host that was late makes several periods be over at
 * once, or one while the interrupt of another still waits for the guest; these ticks are owed, and
 * follow as fast as the guest accepts them, whose word for it is irq_accepted().  Where the chips
 * do not tell, four follow in a period.  None is owed while the guest does not listen (it masked
 * the input), for periods shorter than PC_TIMER_MIN_NS, and after the guest set the timer anew;
 * ticks of more than PC_OWED_NS are given up.
 */
#define PC_OWED_NS (10 * NS_PER_SEC)

/*
 * due: periods that ended since the last call; how: what an interrupt would become now.  Returns
 * whether to raise one.  To be called again while any are owed: when the guest accepted one, and
 * after pc_owed_wait().
 */
static inline bool pc_tick(uint64_t *owed, uint64_t due, uint64_t period_ns, enum irq_edge how)
{
	uint64_t n = *owed + due;

	if (how == IRQ_EDGE_UNHEARD || period_ns < PC_TIMER_MIN_NS) {
		*owed = 0;
		return due;
	}
	bool raise = n && how == IRQ_EDGE_TAKEN;
	*owed = MIN(n - raise, PC_OWED_NS / period_ns);
	return raise;
}

static inline uint64_t pc_owed_wait(uint64_t period_ns)
{
	return MAX(period_ns / 4, (uint64_t)PC_TIMER_MIN_NS);
}

/* For a state's check: no more than the shortest period's. */
static inline int pc_owed_check(uint64_t owed, struct err *e)
{
	return owed > PC_OWED_NS / PC_TIMER_MIN_NS ? err_set(e, EPROTO, "too many ticks are owed")
						   : 0;
}

/* x * mul / div without overflow in between; the result fits for times of 500 years. */
static inline uint64_t pc_muldiv(uint64_t x, uint64_t mul, uint64_t div)
{
	return (uint64_t)((unsigned __int128)x * mul / div);
}

/* Rounded up: the first nanosecond of a tick. */
static inline uint64_t pc_muldiv_up(uint64_t x, uint64_t mul, uint64_t div)
{
	return (uint64_t)(((unsigned __int128)x * mul + div - 1) / div);
}
