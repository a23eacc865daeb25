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
