/* What every cmocka test includes: cmocka in the order it needs, and random numbers with a seed. */
#pragma once

#include "base/compiler.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* A skip that says why. */
#define SKIP(...)                                \
	do {                                     \
		printf("[  REASON  ] skipped: "); \
		printf(__VA_ARGS__);             \
		printf("\n");                    \
		fflush(stdout);                  \
		skip();                          \
	} while (0)

/* xorshift64*; the state is never 0. */
static inline uint64_t rnd(uint64_t *s)
{
	*s ^= *s >> 12;
	*s ^= *s << 25;
	*s ^= *s >> 27;
	return *s * 0x2545f4914f6cdd1dull;
}

/* 0 .. n-1 */
static inline uint64_t rnd_below(uint64_t *s, uint64_t n)
{
	return (rnd(s) >> 11) % n;
}

/* The seed of a property test: SAMPAN_SEED or the given one, printed. */
static inline uint64_t rnd_seed(uint64_t dflt)
{
	const char *env = getenv("SAMPAN_SEED");
	uint64_t s = env ? strtoull(env, NULL, 0) : dflt;

	if (!s)
		s = 1;
	printf("[  SEED    ] SAMPAN_SEED=%llu\n", (unsigned long long)s);
	return s;
}
