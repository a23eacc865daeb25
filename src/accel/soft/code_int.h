/* A decoded block: code.c makes them, jit/ translates them. */
#pragma once

#include "accel/soft/sys_int.h"

enum {
	SBLOCK_NEVER = 255,
};

struct sblock {
	/* In its bucket. */
	struct sblock *next;
	struct {
		uint64_t rip;
		struct sblock *b;
	} succ[2];
	/* Its instructions and a terminator; NULL: decoded again when they are wanted
	 * (code_insns()). */
	struct insn *insn;
	/* Of the page in soft_shared.page. */
	uint32_t index;
	/* First of its translations; 0: none. */
	uint32_t jit;
	/* In the page. */
	uint16_t off, len;
	uint8_t n;
	/* Times it was interpreted, up to when it is translated; SBLOCK_NEVER: it cannot be. */
	uint8_t runs;
	uint8_t code_size;
	/* A store hit it; it is compared with, never run. */
	bool dead;
};
static_assert(sizeof(struct sblock) == 64, "one cache line");

/* The block's instructions; NULL: its bytes are no more what they were, and the block is dead. */
struct insn *code_insns(struct scpu *c, struct sblock *b);

/* The block that an instruction is being executed of, for code_stored(). */
void code_running(struct scpu *c, struct sblock *b);
