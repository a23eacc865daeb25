/* What every cmocka test includes. */
#pragma once

/* cmocka wants these before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

/* Skip this test and say why: tools/check collects the reasons. */
#define T_SKIP(...)                               \
	do {                                      \
		printf("# skip: %s: ", __func__); \
		printf(__VA_ARGS__);              \
		printf("\n");                     \
		skip();                           \
	} while (0)

/* splitmix64: a small seeded generator for property tests; print the seed. */
static inline uint64_t t_rnd(uint64_t *s)
{
	uint64_t z = *s += 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

/* 0 .. n-1 */
static inline uint64_t t_below(uint64_t *s, uint64_t n)
{
	return (t_rnd(s) >> 11) % n;
}

/* The seed of a property test, printed: SAMPAN_SEED or the given one. */
static inline uint64_t t_seed(uint64_t dflt)
{
	const char *env = getenv("SAMPAN_SEED");
	uint64_t s = env ? strtoull(env, NULL, 0) : dflt;

	printf("# SAMPAN_SEED=%llu\n", (unsigned long long)s);
	return s;
}
