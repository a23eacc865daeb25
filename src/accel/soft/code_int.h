/* A decoded block: code.c makes them, jit/ translates them. */
#pragma once

#include "accel/soft/sys_int.h"

enum {
	SBLOCK_NEVER = 255,
};

struct sblock {
	/* Where its instructions were written, counted since the beginning, and 1; 0: nowhere. */
	uint64_t insns_at;
	/* In its bucket: code.c. */
	uint32_t next;
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
static_assert(sizeof(struct sblock) == 32, "half a cache line");

/*
 * The block's instructions and a terminator, decoded again where they were overwritten; good until
 * another block's are asked for.  NULL: its bytes are no more what they were, and the block is
 * dead.
 */
struct insn *code_insns(struct scpu *c, struct sblock *b);
/* NULL: they would have to be decoded again. */
struct insn *code_insns_kept(const struct scpu *c, const struct sblock *b);
/* Room for the instructions of a block, SOFT_BLOCK_MAX and a terminator. */
struct insn *code_insns_new(struct scpu *c, struct sblock *b);
/* They are there, b->n of them, but for the terminator. */
void code_insns_end(struct scpu *c, struct sblock *b);

/* The block that an instruction is being executed of, for code_stored(). */
void code_running(struct scpu *c, struct sblock *b);
