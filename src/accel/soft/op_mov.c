/*
 * Moves: MOV, MOVZX, MOVSX, LEA, CMOVcc, SETcc, sign extension in rAX, BSWAP, MOVBE, XLAT; moves of
 * flags and segment selectors to general registers; CMPXCHG8B and 16B; and what does nothing.
 */
#include "accel/soft/ops.h"

static inline uint16_t mov_swap_2(uint16_t v)
{
	return __builtin_bswap16(v);
}

static inline uint32_t mov_swap_4(uint32_t v)
{
	return __builtin_bswap32(v);
}

static inline uint64_t mov_swap_8(uint64_t v)
{
	return __builtin_bswap64(v);
}

#define SZ 1
#include "accel/soft/op_mov.inc"
#undef SZ
#define SZ 2
#include "accel/soft/op_mov.inc"
#undef SZ
#define SZ 4
#include "accel/soft/op_mov.inc"
#undef SZ
#define SZ 8
#include "accel/soft/op_mov.inc"
#undef SZ

#define MOV_SETCC(cc)                                               \
	static void set_r##cc(struct scpu *c, const struct insn *i) \
	{                                                           \
		op_rm_set(c, i, 1, op_cond(c->fl, cc));             \
		SOFT_NEXT(c, i);                                    \
	}                                                           \
	static void set_m##cc(struct scpu *c, const struct insn *i) \
	{                                                           \
		op_st(c, i, 1, op_cond(c->fl, cc));                 \
		SOFT_NEXT(c, i);                                    \
	}
OP_ALL_CC(MOV_SETCC)

/* Selectors: memory gets 16 bits, a register is zero-extended to the operand size. */
static void mov_from_sreg(struct scpu *c, const struct insn *i)
{
	uint16_t v = c->seg[i->reg].sel;

	if (i->flags & INSN_MEM)
		op_st(c, i, 2, v);
	else
		op_set(c, i->rm, 0, i->opsize, v);
	SOFT_NEXT(c, i);
}

static void mov_xlat(struct scpu *c, const struct insn *i)
{
	uint64_t ea = (c->gpr[X86_RBX] + (uint8_t)c->gpr[X86_RAX]) & i->ea_mask;

	op_set(c, X86_RAX, 0, 1, soft_ld(c, i, i->seg, ea, 1));
	SOFT_NEXT(c, i);
}

static void mov_lahf(struct scpu *c, const struct insn *i)
{
	op_set(c, X86_RAX, 8, 1, c->fl >> 8 | 2);
	SOFT_NEXT(c, i);
}

enum {
	FL_AH = FL_SF | FL_ZF | FL_AF | FL_PF | FL_CF,
};

static void mov_sahf(struct scpu *c, const struct insn *i)
{
	c->fl = (uint16_t)((c->fl & ~FL_AH) | (c->gpr[X86_RAX] & FL_AH));
	SOFT_NEXT(c, i);
}

/* AL = carry ? 0xff : 0 (APM 3 appendix: SALC; no flags). */
static void mov_salc(struct scpu *c, const struct insn *i)
{
	op_set(c, X86_RAX, 0, 1, c->fl & FL_CF ? 0xff : 0);
	SOFT_NEXT(c, i);
}

static void mov_clc(struct scpu *c, const struct insn *i)
{
	c->fl &= (uint16_t)~FL_CF;
	SOFT_NEXT(c, i);
}

static void mov_stc(struct scpu *c, const struct insn *i)
{
	c->fl |= FL_CF;
	SOFT_NEXT(c, i);
}

static void mov_cmc(struct scpu *c, const struct insn *i)
{
	c->fl ^= FL_CF;
	SOFT_NEXT(c, i);
}

static void mov_cld(struct scpu *c, const struct insn *i)
{
	c->rflags &= ~X86_FL_DF;
	SOFT_NEXT(c, i);
}

static void mov_std(struct scpu *c, const struct insn *i)
{
	c->rflags |= X86_FL_DF;
	SOFT_NEXT(c, i);
}

static void mov_nop(struct scpu *c, const struct insn *i)
{
	SOFT_NEXT(c, i);
}

/* Guest stores are plain host stores in the same order, so a fence is a fence. */
static void mov_mfence(struct scpu *c, const struct insn *i)
{
	fence_full();
	SOFT_NEXT(c, i);
}

/*
 * CMPXCHG8B and CMPXCHG16B: memory is written in any case.  With LOCK and without it is one host
 * CMPXCHG8B (16B), since nothing forbids more atomicity.
 */
static uint16_t mov_zf(const struct scpu *c, bool z)
{
	return (uint16_t)((c->fl & ~FL_ZF) | (z ? FL_ZF : 0));
}

/* The rare places: both halves are loaded and stored while no other vCPU runs. */
static bool mov_cmpxchg_slow(struct scpu *c, const struct insn *i, uint64_t lin, void *old,
			     const void *want, const void *put, unsigned len)
{
	bool same;

	soft_excl_begin(c);
	soft_probe_w(c, i, lin, len);
	soft_ld_buf_lin(c, i, lin, old, len);
	same = !memcmp(old, want, len);
	soft_st_buf_lin(c, i, lin, same ? put : old, len);
	soft_excl_end(c);
	return same;
}

static void mov_cmpxchg8b(struct scpu *c, const struct insn *i)
{
	uint64_t want = c->gpr[X86_RDX] << 32 | (uint32_t)c->gpr[X86_RAX], old = want;
	uint64_t put = c->gpr[X86_RCX] << 32 | (uint32_t)c->gpr[X86_RBX];
	uint64_t lin = soft_lin(c, i, i->seg, soft_ea(c, i), 8, true);
	soft_u64 *p = soft_w_ptr(c, i, lin, 8);
	bool same;

	if (likely(p && op_one_line(p, 8)))
		asm volatile("lock cmpxchg %3, %1"
			     : "=@ccz"(same), "+m"(*p), "+a"(old)
			     : "r"(put)
			     : "memory");
	else
		same = mov_cmpxchg_slow(c, i, lin, &old, &want, &put, 8);
	if (!same) {
		c->gpr[X86_RAX] = (uint32_t)old;
		c->gpr[X86_RDX] = old >> 32;
	}
	c->fl = mov_zf(c, same);
	SOFT_NEXT(c, i);
}

static void mov_cmpxchg16b(struct scpu *c, const struct insn *i)
{
	uint64_t want[2] = { c->gpr[X86_RAX], c->gpr[X86_RDX] }, old[2] = { want[0], want[1] };
	uint64_t put[2] = { c->gpr[X86_RBX], c->gpr[X86_RCX] };
	uint64_t lin = soft_lin(c, i, i->seg, soft_ea(c, i), 16, true);
	bool same;

	if (lin & 15)
		soft_raise(c, i, X86_EXC_GP, 0);
	void *p = soft_w_ptr(c, i, lin, 16);
	if (likely(p))
		asm volatile("lock cmpxchg16b %1"
			     : "=@ccz"(same), "+m"(*(unsigned __int128 *)p), "+a"(old[0]),
			       "+d"(old[1])
			     : "b"(put[0]), "c"(put[1])
			     : "memory");
	else
		same = mov_cmpxchg_slow(c, i, lin, old, want, put, 16);
	if (!same) {
		c->gpr[X86_RAX] = old[0];
		c->gpr[X86_RDX] = old[1];
	}
	c->fl = mov_zf(c, same);
	SOFT_NEXT(c, i);
}

#define SIZES(name)                                    \
	{                                              \
		name##_1, name##_2, name##_4, name##_8 \
	}
#define SIZES_FROM_2(name)                         \
	{                                          \
		NULL, name##_2, name##_4, name##_8 \
	}
#define FN_PAIR(name)                                          \
	{                                                      \
		SIZES_FROM_2(name##_r), SIZES_FROM_2(name##_m) \
	}

static insn_fn *const mov_shapes[SHAPES][4] = {
	[SHAPE_RR] = SIZES(mov_rr), [SHAPE_RI] = SIZES(mov_ri), [SHAPE_RM] = SIZES(mov_rm),
	[SHAPE_MR] = SIZES(mov_mr), [SHAPE_MI] = SIZES(mov_mi),
};

#define CC_FN_R(cc) [cc] = { cmov_r##cc##_2, cmov_r##cc##_4, cmov_r##cc##_8 },
#define CC_FN_M(cc) [cc] = { cmov_m##cc##_2, cmov_m##cc##_4, cmov_m##cc##_8 },
#define CC_SET(cc) [cc] = { set_r##cc, set_m##cc },
/* [memory][condition][size] */
static insn_fn *const mov_cmov[2][16][3] = { { OP_ALL_CC(CC_FN_R) }, { OP_ALL_CC(CC_FN_M) } };
/* [condition][memory] */
static insn_fn *const mov_setcc[16][2] = { OP_ALL_CC(CC_SET) };

/* [signed][memory][log2 of the source's size][size] */
static insn_fn *const mov_extend[2][2][3][4] = {
	{ { SIZES_FROM_2(movzx1_r), SIZES_FROM_2(movzx2_r) },
	  { SIZES_FROM_2(movzx1_m), SIZES_FROM_2(movzx2_m) } },
	{ { SIZES_FROM_2(movsx1_r), SIZES_FROM_2(movsx2_r), SIZES_FROM_2(movsx4_r) },
	  { SIZES_FROM_2(movsx1_m), SIZES_FROM_2(movsx2_m), SIZES_FROM_2(movsx4_m) } },
};

/* Those without operands, or with one place for them. */
static const struct {
	uint16_t mnem;
	insn_fn *fn;
} mov_single[] = {
	{ SOP_XLAT, mov_xlat },
	{ SOP_LAHF, mov_lahf },
	{ SOP_SAHF, mov_sahf },
	{ SOP_SALC, mov_salc },
	{ SOP_CLC, mov_clc },
	{ SOP_STC, mov_stc },
	{ SOP_CMC, mov_cmc },
	{ SOP_CLD, mov_cld },
	{ SOP_STD, mov_std },
	{ SOP_NOP, mov_nop },
	{ SOP_PREFETCH, mov_nop },
	{ SOP_PREFETCHW, mov_nop },
	{ SOP_LFENCE, mov_mfence },
	{ SOP_SFENCE, mov_mfence },
	{ SOP_MFENCE, mov_mfence },
	{ SOP_CMPXCHG8B, mov_cmpxchg8b },
	{ SOP_CMPXCHG16B, mov_cmpxchg16b },
};

static const struct {
	uint16_t mnem;
	insn_fn *fn[4];
} mov_sized[] = {
	{ SOP_LEA, SIZES_FROM_2(lea) },
	{ SOP_CBW, SIZES_FROM_2(cbw) },
	{ SOP_CWD, SIZES_FROM_2(cwd) },
	{ SOP_BSWAP, SIZES_FROM_2(bswap) },
};

static insn_fn *mov_bind_extend(const struct insn *i, unsigned mnem, bool mem)
{
	const struct insn_form *f = &insn_forms[i->form];

	return mov_extend[mnem != SOP_MOVZX][mem][size_index(f->opnd[1].size)]
			 [size_index(i->opsize)];
}

insn_fn *op_mov_bind(UNUSED struct scpu *c, struct insn *i, unsigned mnem, enum shape sh)
{
	const struct insn_form *f = &insn_forms[i->form];
	bool mem = i->flags & INSN_MEM;
	unsigned sz = size_index(i->opsize);

	switch (mnem) {
	case SOP_MOV:
		if (f->opnd[1].kind == OPND_SREG)
			return mov_from_sreg;
		return mov_shapes[sh][sz];
	case SOP_MOVNTI:
		return mov_shapes[SHAPE_MR][sz];
	case SOP_MOVZX:
	case SOP_MOVSX:
	case SOP_MOVSXD:
		return mov_bind_extend(i, mnem, mem);
	case SOP_CMOVCC:
		return mov_cmov[mem][i->opcode & 15][sz - 1];
	case SOP_SETCC:
		return mov_setcc[i->opcode & 15][mem];
	case SOP_MOVBE: {
		static insn_fn *const fn[2][4] = { SIZES_FROM_2(movbe_mr), SIZES_FROM_2(movbe_rm) };
		return fn[sh == SHAPE_RM][sz];
	}
	}
	for (unsigned n = 0; n < COUNT_OF(mov_single); n++)
		if (mov_single[n].mnem == mnem)
			return mov_single[n].fn;
	for (unsigned n = 0; n < COUNT_OF(mov_sized); n++)
		if (mov_sized[n].mnem == mnem)
			return mov_sized[n].fn[sz];
	return NULL;
}
