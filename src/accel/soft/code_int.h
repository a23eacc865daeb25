/* A decoded block: code.c makes them, jit/ translates them. */
#pragma once

#include "accel/soft/sys_int.h"

struct sblock {
	/* In its bucket. */
	struct sblock *next;
	struct {
		uint64_t rip;
		struct sblock *b;
	} succ[2];
	/* Of the page in soft_shared.page. */
	uint64_t index;
	/* First of its translations; 0: none. */
	uint32_t jit;
	/* In the page. */
	uint16_t off, len;
	uint16_t n;
	/* Times it was interpreted, up to when it is translated. */
	uint16_t runs;
	uint8_t code_size, pad[3];
	struct insn insn[];
};
static_assert(sizeof(struct sblock) == 64, "instructions follow on a cache line");

/* The block that an instruction is being executed of, for code_stored(). */
void code_running(struct scpu *c, struct sblock *b);
