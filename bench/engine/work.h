/*
 * The workloads of bench/engine: one static program that runs natively and inside a guest.
 *
 * A workload is a *round*: a fixed piece of work that takes between about 20 us and 20 ms on a good
 * machine, gives the same checksum each time, and is run over and over for a set time.  The clock
 * is read once for many rounds, so a guest whose clock is slow loses nothing by it.  A round whose
 * checksum differs from the one that is written in the table is an error: a fast wrong answer does
 * not count.
 *
 * Checksums are integers.  Floating-point rounds are written so that IEEE 754 leaves no choice (no
 * reassociation, explicit FMA), hence sum the bits; where libm may choose between two variants the
 * round rounds first.
 *
 * Rounds of the group "sys" ask the kernel for something and return 0 when all of it worked.
 */
#ifndef WORK_H
#define WORK_H

#include <stdint.h>

struct work {
	const char *name;
	const char *unit;
	/* How many units a round does. */
	double per_round;
	uint64_t (*round)(void);
	/* What round() must return. */
	uint64_t sum;
	/* Before the first round: memory, files, children.  0 or -errno; may be NULL. */
	int (*init)(void);
	/* After the last one: a last check, then free.  0 or -errno; may be NULL. */
	int (*fini)(void);
	/* A CPU feature without which the workload is skipped ("avx2"), or NULL. */
	const char *needs;
};

/* Each ends with an entry without a name. */
extern const struct work work_int[];
extern const struct work work_mem[];
extern const struct work work_fp[];
extern const struct work work_sys[];

/* The next of a sequence of pseudo-random numbers (xorshift64*); *s must not be 0. */
static inline uint64_t work_next(uint64_t *s)
{
	*s ^= *s >> 12;
	*s ^= *s << 25;
	*s ^= *s >> 27;
	return *s * 0x2545f4914f6cdd1dULL;
}

/* Fold v into the checksum h (FNV-1a, a word at a time). */
static inline uint64_t work_mix(uint64_t h, uint64_t v)
{
	return (h ^ v) * 0x100000001b3ULL;
}

#define WORK_SUM0 0xcbf29ce484222325ULL

/* The compiler must not know what p points to, nor drop or merge what was done before. */
static inline void work_hide(void *p)
{
	__asm__ volatile("" : : "r"(p) : "memory");
}

#endif
