/*
 * The native oracle: one case is a machine state and one or more instructions; it is run by the
 * host's CPU in a forked process (native.c) and by the software CPU (soft.c), and all state after
 * it must agree (main.c).  gen.c makes cases from the instruction table.
 *
 * Both sides see the same addresses: code at ORC_CODE, data pages from ORC_DATA on: two that can be
 * written, a read-only one, then nothing.
 */
#pragma once

#include "accel/soft/insn.h"
#include "accel/soft/soft_int.h"
#include "base/compiler.h"

enum {
	ORC_AREA = 0x13570000,
	/* Three pages of INT3; cases begin in the middle of the second. */
	ORC_CODE = ORC_AREA + 0x1000,
	ORC_CODE_PAGES = 3,
	ORC_NATIVE = ORC_AREA + 0x4000,
	ORC_STUB32 = ORC_AREA + 0x5000,
	ORC_BACK64 = ORC_AREA + 0x5f00,
	ORC_DATA = 0x20000000,
	ORC_DATA_PAGES = 3,
	ORC_P1 = ORC_DATA + 0x1000,
	ORC_P2 = ORC_DATA + 0x2000,
	/* Base of GS. */
	ORC_GS = 0x12340,
	/* 16-bit code: the base of DS, ES and SS, which are 64 KiB long; selectors (LDT, ring 3).
	 */
	ORC_BASE16 = ORC_P1 - 0x8000,
	ORC_CS16 = 7,
	ORC_DS16 = 0xf,
	/* Bytes that a case may change: the last 512 of page 0, first 512 and last 512 of page 1.
	 */
	ORC_MEM = 1536,
	ORC_CODE_MAX = 640,
	ORC_INSNS = 60,
	ORC_BATCH = 256,
};

struct orc_state {
	uint64_t gpr[16];
	uint64_t rip;
	/* Status flags and DF. */
	uint64_t rflags;
	uint8_t ymm[16][32];
	/* FXSAVE image; only the x87 part counts. */
	uint8_t fx[512] __attribute__((aligned(16)));
	uint32_t mxcsr;
	/* Exception, -1: none. */
	int32_t vector;
	uint32_t err;
	uint64_t cr2;
};

struct orc_result {
	struct orc_state s;
	uint8_t mem[ORC_MEM];
};

struct orc_case {
	struct orc_state in;
	uint8_t mem[ORC_MEM];
	uint8_t code[ORC_CODE_MAX];
	unsigned len;
	unsigned ninsn;
	uint16_t off[ORC_INSNS];
	/* 64, or 32 or 16: then in compatibility mode, and the upper halves of registers are 0. */
	unsigned bits;
	/* Form of the first (only) instruction. */
	uint16_t form;
	uint64_t rip;
};

struct orc_batch {
	unsigned n;
	/* The case the child is at: for the report when it dies. */
	volatile unsigned at;
	struct orc_case c[ORC_BATCH];
	struct orc_result native[ORC_BATCH], soft[ORC_BATCH];
};

/* Where byte n of orc_case.mem is. */
static inline uint64_t orc_mem_addr(unsigned n)
{
	return n < 1024 ? ORC_P1 - 512 + n : ORC_P2 - 1536 + n;
}

/* xoshiro-like 64-bit generator with one word of state (splitmix64). */
static inline uint64_t orc_rnd(uint64_t *s)
{
	uint64_t z = *s += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* gen.c */
struct orc_gen;
struct orc_gen *orc_gen_new(uint64_t seed, unsigned bits);
void orc_gen_free(struct orc_gen *g);
/* From here on as if newly made with this seed. */
void orc_gen_seed(struct orc_gen *g, uint64_t seed);
/* A single instruction of the next form in turn, or a sequence. */
void orc_gen_case(struct orc_gen *g, struct orc_case *c, bool sequence);
/* Only this mnemonic, or NULL: all. */
void orc_gen_only(struct orc_gen *g, const char *mnemonic);
/* Forms that cases are made of. */
unsigned orc_gen_forms(const struct orc_gen *g);

/* native.c: segments for 16-bit code; before the fork.  False: this kernel has no LDTs. */
bool orc_native_ldt(void);
/* In the child. */
void orc_native_init(void);
void orc_native_run(const struct orc_case *c, struct orc_result *ret);

/* soft.c: in the parent. */
/* By the translator, not the interpreter. */
extern bool orc_jit;
/* Instructions that the translator left to the interpreter at a block's beginning. */
unsigned long orc_not_translated(void);
void orc_soft_init(void);
void orc_soft_fini(void);
void orc_soft_run(const struct orc_case *c, struct orc_result *ret);
/* ns per instruction of small loops, printed. */
void orc_soft_bench(void);
