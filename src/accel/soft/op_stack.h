/*
 * The stack, for handlers: pushes and pops through SS with the stack pointer's width (SDM 1 6.2).
 * Nothing changes rSP before the access has succeeded.
 */
#pragma once

#include "accel/soft/ops.h"

/* rSP as it would be after adding n. */
static ALWAYS_INLINE uint64_t op_sp(const struct scpu *c, uint64_t n)
{
	return (c->gpr[X86_RSP] + n) & c->sp_mask;
}

static ALWAYS_INLINE void op_sp_set(struct scpu *c, uint64_t sp)
{
	c->gpr[X86_RSP] = (c->gpr[X86_RSP] & ~c->sp_mask) | (sp & c->sp_mask);
}

static ALWAYS_INLINE void op_push(struct scpu *c, const struct insn *i, unsigned size, uint64_t v)
{
	uint64_t sp = op_sp(c, -(uint64_t)size);

	soft_st(c, i, X86_SS, sp, size, v);
	op_sp_set(c, sp);
}

/* What the next pop of `size` would give; the caller moves rSP once nothing can fail. */
static ALWAYS_INLINE uint64_t op_peek(struct scpu *c, const struct insn *i, unsigned size)
{
	return soft_ld(c, i, X86_SS, op_sp(c, 0), size);
}
