/* Bit fields and bitmaps of 64-bit words. */
#pragma once

#include "base/compiler.h"

#define BIT(n) (1u << (n))
#define BIT64(n) (1ull << (n))

/* Bits hi..lo of x. */
static inline uint64_t bits_get(uint64_t x, unsigned hi, unsigned lo)
{
	return (x >> lo) & (~0ull >> (63 - (hi - lo)));
}

#define BITMAP_WORDS(n) (((n) + 63) / 64)

static inline bool bitmap_test(const uint64_t *map, uint64_t n)
{
	return map[n / 64] >> (n % 64) & 1;
}

static inline void bitmap_set(uint64_t *map, uint64_t n)
{
	map[n / 64] |= BIT64(n % 64);
}

static inline void bitmap_clear(uint64_t *map, uint64_t n)
{
	map[n / 64] &= ~BIT64(n % 64);
}

static inline bool bitmap_test_atomic(const uint64_t *map, uint64_t n)
{
	return __atomic_load_n(&map[n / 64], __ATOMIC_ACQUIRE) >> (n % 64) & 1;
}

/* Sets bit n, any thread; returns what it was. */
static inline bool bitmap_set_atomic(uint64_t *map, uint64_t n)
{
	return __atomic_fetch_or(&map[n / 64], BIT64(n % 64), __ATOMIC_ACQ_REL) >> (n % 64) & 1;
}

static inline bool bitmap_clear_atomic(uint64_t *map, uint64_t n)
{
	return __atomic_fetch_and(&map[n / 64], ~BIT64(n % 64), __ATOMIC_ACQ_REL) >> (n % 64) & 1;
}
