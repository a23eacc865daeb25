/*
 * String operations: MOVS, STOS, LODS, CMPS, SCAS, INS, OUTS, alone and repeated (SDM 1 7.3.9).
 *
 * A repeated one goes page by page: where source and destination are plain RAM in the translation
 * cache and the direction is up, the host's own string instruction does all elements up to the end
 * of the nearer page; all else (MMIO, pages with code, element across a page, segment limits,
 * direction down, single-step) goes by single elements through the ordinary loads and stores. After
 * a number of steps the handler leaves with RIP still at the instruction, so that interrupts get
 * in.
 */
#include "accel/soft/ops.h"

#include "base/num.h"

enum {
	/* Steps (runs or single elements) before the run loop has a look. */
	STR_BUDGET = 128,
};

/* An address register or the counter, as wide as the address size. */
static ALWAYS_INLINE uint64_t str_ptr(const struct scpu *c, const struct insn *i, unsigned r)
{
	return c->gpr[r] & i->ea_mask;
}

static ALWAYS_INLINE void str_set(struct scpu *c, const struct insn *i, unsigned r, uint64_t v)
{
	if (i->adsize == 2)
		c->gpr[r] = (c->gpr[r] & ~0xffffull) | (uint16_t)v;
	else
		c->gpr[r] = v & i->ea_mask;
}

/* Host address of a byte that can be read (written) without a check; NULL: do it the long way. */
static ALWAYS_INLINE const void *str_src(const struct scpu *c, unsigned seg, uint64_t ea)
{
	uint64_t lin = (ea + c->sbase[seg]) & c->lin_mask;
	const struct stlb *t = &c->tlb->r[lin >> 12 & (STLB_SIZE - 1)];

	if (!(c->seg_rd >> seg & 1) || (lin ^ t->tag) > 4095)
		return NULL;
	return stlb_at(t, lin);
}

static ALWAYS_INLINE void *str_dst(const struct scpu *c, uint64_t ea)
{
	uint64_t lin = (ea + c->sbase[X86_ES]) & c->lin_mask;
	const struct stlb *t = &c->tlb->w[lin >> 12 & (STLB_SIZE - 1)];

	if (!(c->seg_wr >> X86_ES & 1) || (lin ^ t->tag) > 4095)
		return NULL;
	return stlb_at(t, lin);
}

/* Leave for a while?  TF traps after each element (SDM 3B 17.3.1.4). */
static ALWAYS_INLINE bool str_pause(const struct scpu *c, unsigned *budget)
{
	return !--*budget || c->rflags & X86_FL_TF ||
	       __atomic_load_n(&c->exit_req, __ATOMIC_RELAXED);
}

#define SZ 1
#include "accel/soft/op_str.inc"
#undef SZ
#define SZ 2
#include "accel/soft/op_str.inc"
#undef SZ
#define SZ 4
#include "accel/soft/op_str.inc"
#undef SZ
#define SZ 8
#include "accel/soft/op_str.inc"
#undef SZ

#define SIZES(name)                                    \
	{                                              \
		name##_1, name##_2, name##_4, name##_8 \
	}
#define SIZES_IO(name)                             \
	{                                          \
		name##_1, name##_2, name##_4, NULL \
	}

/* Alone, with F3, with F2. */
static const struct {
	uint16_t mnem;
	insn_fn *fn[3][4];
} str_ops[] = {
	{ SOP_MOVS, { SIZES(movs), SIZES(rep_movs), SIZES(rep_movs) } },
	{ SOP_STOS, { SIZES(stos), SIZES(rep_stos), SIZES(rep_stos) } },
	{ SOP_LODS, { SIZES(lods), SIZES(rep_lods), SIZES(rep_lods) } },
	{ SOP_CMPS, { SIZES(cmps), SIZES(repe_cmps), SIZES(repne_cmps) } },
	{ SOP_SCAS, { SIZES(scas), SIZES(repe_scas), SIZES(repne_scas) } },
	{ SOP_INS, { SIZES_IO(ins), SIZES_IO(rep_ins), SIZES_IO(rep_ins) } },
	{ SOP_OUTS, { SIZES_IO(outs), SIZES_IO(rep_outs), SIZES_IO(rep_outs) } },
};

insn_fn *op_str_bind(UNUSED struct scpu *c, struct insn *i, unsigned mnem)
{
	unsigned rep = i->flags & INSN_REPNE ? 2 : i->flags & INSN_REP ? 1 : 0;

	for (unsigned n = 0; n < COUNT_OF(str_ops); n++)
		if (str_ops[n].mnem == mnem)
			return str_ops[n].fn[rep][size_index(i->opsize)];
	return NULL;
}
