/*
 * What the handlers of the interpreter share: register operands, flags, conditions, and the shapes
 * by which bind.c chooses among a mnemonic's handlers.
 *
 * Flags.  c->fl is AX as `lahf; seto al` leaves it.  `add $0x7f, %al; sahf` with AX = c->fl puts
 * all six status flags back, so a handler runs the real host instruction between the two and its
 * flags, the architecturally undefined ones too, are what this CPU gives.
 */
#pragma once

#include "accel/soft/insn.h"
#include "accel/soft/mem.h"
#include "accel/soft/soft_int.h"

/* Bits of scpu.fl. */
enum {
	FL_OF = 1 << 0,
	FL_CF = 1 << 8,
	FL_PF = 1 << 10,
	FL_AF = 1 << 12,
	FL_ZF = 1 << 14,
	FL_SF = 1 << 15,
};

/* Assembler pieces: all flags from AX, all flags to AX, only CF from AX. */
#define ASM_FL_IN "add $0x7f, %%al\n\tsahf\n\t"
#define ASM_FL_OUT "\n\tlahf\n\tseto %%al"
#define ASM_CF_IN "bt $8, %%eax\n\t"

/*
 * Where a handler finds its operands; bind.c moves register numbers so that the destination of RR
 * and RI is rm and that of RM is reg.  N: none or implied.
 */
enum shape {
	SHAPE_RR,
	SHAPE_RI,
	SHAPE_RM,
	SHAPE_MR,
	SHAPE_MI,
	SHAPE_LOCK_MR,
	SHAPE_LOCK_MI,
	SHAPES,
};

/* One handler for each operand size 1, 2, 4, 8. */
typedef insn_fn *const fn_sizes[4];

static inline unsigned size_index(unsigned size)
{
	return (unsigned)__builtin_ctz(size);
}

/* Has the guest the CPUID feature (enum insn_feat)?  cpuid: its table. */
bool bind_feat(const struct cpuid_table *cpuid, unsigned feat);

/* Each returns NULL for a mnemonic that is not its own. */
insn_fn *op_alu_bind(struct scpu *c, struct insn *i, unsigned mnem, enum shape sh);
insn_fn *op_bit_bind(struct scpu *c, struct insn *i, unsigned mnem, enum shape sh);
insn_fn *op_mov_bind(struct scpu *c, struct insn *i, unsigned mnem, enum shape sh);
insn_fn *op_str_bind(struct scpu *c, struct insn *i, unsigned mnem);
insn_fn *op_flow_bind(struct scpu *c, struct insn *i, unsigned mnem);
insn_fn *op_vec_bind(struct scpu *c, struct insn *i, unsigned mnem);
/* host.c: the stub for this instruction; NULL: the form cannot run as a copy. */
insn_fn *host_bind(struct scpu *c, struct insn *i, const uint8_t *bytes, unsigned code_size);

/* Byte registers: AH..BH are bits 15-8 of AX..BX. */
static ALWAYS_INLINE unsigned op_reg_shift(const struct insn *i)
{
	return i->flags & INSN_REG_HIGH ? 8 : 0;
}

static ALWAYS_INLINE unsigned op_rm_shift(const struct insn *i)
{
	return i->flags & INSN_RM_HIGH ? 8 : 0;
}

static ALWAYS_INLINE uint64_t op_get(const struct scpu *c, unsigned r, unsigned shift,
				     unsigned size)
{
	uint64_t v = c->gpr[r];

	switch (size) {
	case 1:
		return (uint8_t)(v >> shift);
	case 2:
		return (uint16_t)v;
	case 4:
		return (uint32_t)v;
	default:
		return v;
	}
}

/* Narrow writes merge in a register: a narrow store would stall the next wide load. */
static ALWAYS_INLINE void op_set(struct scpu *c, unsigned r, unsigned shift, unsigned size,
				 uint64_t v)
{
	uint64_t *g = &c->gpr[r];

	switch (size) {
	case 1:
		*g = (*g & ~(0xffull << shift)) | (uint64_t)(uint8_t)v << shift;
		break;
	case 2:
		*g = (*g & ~0xffffull) | (uint16_t)v;
		break;
	case 4:
		*g = (uint32_t)v;
		break;
	default:
		*g = v;
		break;
	}
}

static ALWAYS_INLINE uint64_t op_reg(const struct scpu *c, const struct insn *i, unsigned size)
{
	return op_get(c, i->reg, op_reg_shift(i), size);
}

static ALWAYS_INLINE uint64_t op_rm(const struct scpu *c, const struct insn *i, unsigned size)
{
	return op_get(c, i->rm, op_rm_shift(i), size);
}

static ALWAYS_INLINE void op_reg_set(struct scpu *c, const struct insn *i, unsigned size,
				     uint64_t v)
{
	op_set(c, i->reg, op_reg_shift(i), size, v);
}

static ALWAYS_INLINE void op_rm_set(struct scpu *c, const struct insn *i, unsigned size, uint64_t v)
{
	op_set(c, i->rm, op_rm_shift(i), size, v);
}

/* The memory operand. */
static ALWAYS_INLINE uint64_t op_ld(struct scpu *c, const struct insn *i, unsigned size)
{
	return soft_ld(c, i, i->seg, soft_ea(c, i), size);
}

static ALWAYS_INLINE void op_st(struct scpu *c, const struct insn *i, unsigned size, uint64_t v)
{
	soft_st(c, i, i->seg, soft_ea(c, i), size, v);
}

/* rm or memory, chosen when the instruction runs: for what is not hot. */
static ALWAYS_INLINE uint64_t op_e(struct scpu *c, const struct insn *i, unsigned size)
{
	return i->flags & INSN_MEM ? op_ld(c, i, size) : op_rm(c, i, size);
}

static ALWAYS_INLINE void op_e_set(struct scpu *c, const struct insn *i, unsigned size, uint64_t v)
{
	if (i->flags & INSN_MEM)
		op_st(c, i, size, v);
	else
		op_rm_set(c, i, size, v);
}

/* X(0) ... X(15). */
#define OP_ALL_CC(X) \
	X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

/* Condition 0-15 as in the low bits of Jcc's opcode (SDM 1 appendix B). */
static ALWAYS_INLINE bool op_cond(unsigned fl, unsigned cc)
{
	bool v;

	switch (cc >> 1) {
	case 0:
		v = fl & FL_OF;
		break;
	case 1:
		v = fl & FL_CF;
		break;
	case 2:
		v = fl & FL_ZF;
		break;
	case 3:
		v = fl & (FL_CF | FL_ZF);
		break;
	case 4:
		v = fl & FL_SF;
		break;
	case 5:
		v = fl & FL_PF;
		break;
	case 6:
		v = (fl >> 15 ^ fl) & 1;
		break;
	default:
		v = ((fl >> 15 ^ fl) & 1) | (fl & FL_ZF);
		break;
	}
	return v ^ (cc & 1);
}

/* Is [lin, lin + size) inside one cache line?  Only then is a host LOCK cheap and always allowed.
 */
static ALWAYS_INLINE bool op_one_line(const void *p, unsigned size)
{
	return ((uintptr_t)p & 63) + size <= 64;
}

/* SDM 1 3.3.7.1, with 48 bits of linear address. */
static ALWAYS_INLINE bool op_canonical(uint64_t a)
{
	return (uint64_t)((int64_t)(a << 16) >> 16) == a;
}
