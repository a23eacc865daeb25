/*
 * Bits: BT, BTS, BTR, BTC; BSF, BSR, TZCNT, LZCNT, POPCNT.
 *
 * As in op_alu.c the host's own instruction does the work.  A guest without BMI1 (LZCNT) sees TZCNT
 * (LZCNT) as BSF (BSR), whose encoding it shares; bind.c decides that.
 */
#include "accel/soft/ops.h"

#define SZ 2
#include "accel/soft/op_bit.inc"
#undef SZ
#define SZ 4
#include "accel/soft/op_bit.inc"
#undef SZ
#define SZ 8
#include "accel/soft/op_bit.inc"
#undef SZ

#define SIZES(name)                                \
	{                                          \
		NULL, name##_2, name##_4, name##_8 \
	}
#define BIT_SHAPES(op)                                                                        \
	{                                                                                     \
		[SHAPE_RR] = SIZES(op##_rr), [SHAPE_RI] = SIZES(op##_ri),                     \
		[SHAPE_MR] = SIZES(op##_mr), [SHAPE_MI] = SIZES(op##_mi),                     \
		[SHAPE_LOCK_MR] = SIZES(op##_lock_mr), [SHAPE_LOCK_MI] = SIZES(op##_lock_mi), \
	}
#define SCAN_SHAPES(op)                                         \
	{                                                       \
		[SHAPE_RR] = SIZES(op), [SHAPE_RM] = SIZES(op), \
	}

static const struct bit_op {
	uint16_t mnem;
	insn_fn *fn[SHAPES][4];
} bit_ops[] = {
	{ SOP_BT,
	  {
		  [SHAPE_RR] = SIZES(bt_rr),
		  [SHAPE_RI] = SIZES(bt_ri),
		  [SHAPE_MR] = SIZES(bt_mr),
		  [SHAPE_MI] = SIZES(bt_mi),
	  } },
	{ SOP_BTS, BIT_SHAPES(bts) },
	{ SOP_BTR, BIT_SHAPES(btr) },
	{ SOP_BTC, BIT_SHAPES(btc) },
	{ SOP_BSF, SCAN_SHAPES(bsf) },
	{ SOP_BSR, SCAN_SHAPES(bsr) },
	{ SOP_TZCNT, SCAN_SHAPES(tzcnt) },
	{ SOP_LZCNT, SCAN_SHAPES(lzcnt) },
	{ SOP_POPCNT, SCAN_SHAPES(popcnt) },
};

insn_fn *op_bit_bind(UNUSED struct scpu *c, struct insn *i, unsigned mnem, enum shape sh)
{
	for (unsigned n = 0; n < COUNT_OF(bit_ops); n++)
		if (bit_ops[n].mnem == mnem)
			return bit_ops[n].fn[sh][size_index(i->opsize)];
	return NULL;
}
