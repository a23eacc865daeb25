/*
 * Memory workloads, on 64 KiB so that a real machine's cache is the limit.
 *
 * copy8 is a loop of 8-byte loads and stores.  copy8_alias is the same with source and destination
 * 16 MiB apart: a TLB that is direct mapped and shared by loads and stores throws out one entry for
 * the other at each access.  movs* and stos* are the string instructions, the same bytes as memcpy.
 *
 * Before a copy a sample of words in the destination (one in each SAMPLE_STEP) is cleared and after
 * it read, so a copy that did nothing is seen; the whole is compared at the end.
 */
#include "work.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	MEM_BYTES = 65536,
	MEM_WORDS = MEM_BYTES / 8,
	MEM_TURNS = 16,
	MEM_FAR = 16 << 20
};
/* A prime, so samples fall on every place in a cache line. */
enum {
	SAMPLE_STEP = 263
};

static uint8_t *mem_area;
static uint64_t *mem_src, *mem_dst;

static int mem_place(size_t apart_bytes)
{
	mem_area = aligned_alloc(MEM_FAR, 2 * (size_t)MEM_FAR);
	if (!mem_area)
		return -ENOMEM;
	mem_src = (uint64_t *)(void *)mem_area;
	mem_dst = (uint64_t *)(void *)(mem_area + apart_bytes);
	uint64_t s = 11;
	for (int i = 0; i < MEM_WORDS; i++)
		mem_src[i] = work_next(&s);
	memset(mem_dst, 0, MEM_BYTES);
	return 0;
}

static int mem_init(void)
{
	return mem_place(MEM_BYTES + 5 * 4096 + 64);
}

static int mem_init_alias(void)
{
	return mem_place(MEM_FAR);
}

static void mem_free(void)
{
	free(mem_area);
	mem_area = NULL;
}

static int mem_fini_copy(void)
{
	int rc = 0;
	for (int i = 0; i < MEM_WORDS; i++)
		rc = mem_src[i] == mem_dst[i] ? rc : -EILSEQ;
	mem_free();
	return rc;
}

static uint64_t mem_turns(void (*copy)(void))
{
	uint64_t sum = WORK_SUM0;
	for (int turn = 0; turn < MEM_TURNS; turn++) {
		for (int i = turn; i < MEM_WORDS; i += SAMPLE_STEP)
			mem_dst[i] = 0;
		work_hide(mem_dst);
		copy();
		work_hide(mem_dst);
		for (int i = turn; i < MEM_WORDS; i += SAMPLE_STEP)
			sum += mem_dst[i];
	}
	return sum;
}

/* volatile keeps the compiler from calling memcpy. */
static void mem_copy8(void)
{
	const volatile uint64_t *src = mem_src;
	volatile uint64_t *dst = mem_dst;
	for (int i = 0; i < MEM_WORDS; i++)
		dst[i] = src[i];
}

static void mem_memcpy(void)
{
	memcpy(mem_dst, mem_src, MEM_BYTES);
}

static void mem_movsb(void)
{
	void *d = mem_dst, *s = mem_src;
	size_t n = MEM_BYTES;
	__asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
}

static void mem_movsq(void)
{
	void *d = mem_dst, *s = mem_src;
	size_t n = MEM_WORDS;
	__asm__ volatile("rep movsq" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
}

static void mem_stosb(void)
{
	void *d = mem_dst;
	size_t n = MEM_BYTES;
	__asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(0x5a) : "memory");
}

static void mem_stosq(void)
{
	void *d = mem_dst;
	size_t n = MEM_WORDS;
	__asm__ volatile("rep stosq" : "+D"(d), "+c"(n) : "a"(0x5a5a5a5a5a5a5a5aULL) : "memory");
}

#define MEM_ROUND(name)                    \
	static uint64_t name##_round(void) \
	{                                  \
		return mem_turns(name);    \
	}
MEM_ROUND(mem_copy8)
MEM_ROUND(mem_memcpy)
MEM_ROUND(mem_movsb)
MEM_ROUND(mem_movsq)
MEM_ROUND(mem_stosb)
MEM_ROUND(mem_stosq)

static int mem_fini_set(void)
{
	int rc = 0;
	for (int i = 0; i < MEM_WORDS; i++)
		rc = mem_dst[i] == 0x5a5a5a5a5a5a5a5aULL ? rc : -EILSEQ;
	mem_free();
	return rc;
}

/* --- triad: a[i] = b[i] + 3 * c[i], as STREAM counts it (24 bytes an element) --- */

enum {
	TRIAD_N = 4096,
	TRIAD_TURNS = 16
};

static double triad_a[TRIAD_N], triad_b[TRIAD_N], triad_c[TRIAD_N];

static int triad_init(void)
{
	for (int i = 0; i < TRIAD_N; i++) {
		triad_b[i] = i;
		triad_c[i] = i % 7;
	}
	return 0;
}

__attribute__((noinline, optimize("O3"))) static void
triad(double *restrict a, const double *restrict b, const double *restrict c)
{
	for (int i = 0; i < TRIAD_N; i++)
		a[i] = b[i] + 3 * c[i];
}

static uint64_t triad_round(void)
{
	uint64_t sum = WORK_SUM0;
	for (int turn = 0; turn < TRIAD_TURNS; turn++) {
		for (int i = turn; i < TRIAD_N; i += SAMPLE_STEP)
			triad_a[i] = 0;
		work_hide(triad_a);
		triad(triad_a, triad_b, triad_c);
		for (int i = turn; i < TRIAD_N; i += SAMPLE_STEP)
			sum += (uint64_t)triad_a[i];
	}
	return sum;
}

#define MEM_GIB (MEM_BYTES * (double)MEM_TURNS / (1 << 30))

/* clang-format off */
const struct work work_mem[] = {
	{ "copy8", "GiB/s", MEM_GIB, mem_copy8_round, 0x747d23b4a6e035b2ULL, mem_init, mem_fini_copy },
	{ "copy8_alias", "GiB/s", MEM_GIB, mem_copy8_round, 0x747d23b4a6e035b2ULL, mem_init_alias, mem_fini_copy },
	{ "memcpy", "GiB/s", MEM_GIB, mem_memcpy_round, 0x747d23b4a6e035b2ULL, mem_init, mem_fini_copy },
	{ "movsb", "GiB/s", MEM_GIB, mem_movsb_round, 0x747d23b4a6e035b2ULL, mem_init, mem_fini_copy },
	{ "movsq", "GiB/s", MEM_GIB, mem_movsq_round, 0x747d23b4a6e035b2ULL, mem_init, mem_fini_copy },
	{ "stosb", "GiB/s", MEM_GIB, mem_stosb_round, 0x80a7519938d6d725ULL, mem_init, mem_fini_set },
	{ "stosq", "GiB/s", MEM_GIB, mem_stosq_round, 0x80a7519938d6d725ULL, mem_init, mem_fini_set },
	{ "triad", "GB/s", TRIAD_N * 24.0 * TRIAD_TURNS / 1e9, triad_round, 0xcbf29ce48429e81fULL, triad_init },
	{ 0 },
};
/* clang-format on */
