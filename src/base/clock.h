/* Host time.  Tests may set the hooks to clocks of their own. */
#pragma once

#include "base/compiler.h"

#include <time.h>

#define NS_PER_SEC 1000000000ull
#define NS_PER_MS 1000000ull
#define NS_PER_US 1000ull

/* When set, clock_ns() returns what it returns. */
extern uint64_t (*clock_hook)(void);
/* The same for clock_wall_ns(). */
extern uint64_t (*clock_wall_hook)(void);

/* CLOCK_MONOTONIC in nanoseconds. */
static inline uint64_t clock_ns(void)
{
	struct timespec ts;

	if (unlikely(clock_hook != NULL))
		return clock_hook();
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* CLOCK_REALTIME in nanoseconds since 1970. */
uint64_t clock_wall_ns(void);
