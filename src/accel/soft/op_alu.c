/*
 * Integer arithmetic and logic: ADD ... XOR, CMP, TEST, INC, DEC, NEG, NOT, shifts and rotates,
 * MUL, DIV, XADD, CMPXCHG, XCHG, and the decimal adjustments of 16- and 32-bit code.
 *
 * Every operation is the host's own instruction, with the guest's flags around it (ops.h), so there
 * is nothing here that could differ from the CPU except operand placement.  DIV is tried in C
 * first: a quotient that does not fit raises #DE in the guest and must not raise it here.  Handlers
 * come from a template, one for each size and place of operands; a handler has no switch on a size.
 */
#include "accel/soft/ops.h"

#define SZ 1
#include "accel/soft/op_alu.inc"
#undef SZ
#define SZ 2
#include "accel/soft/op_alu.inc"
#undef SZ
#define SZ 4
#include "accel/soft/op_alu.inc"
#undef SZ
#define SZ 8
#include "accel/soft/op_alu.inc"
#undef SZ

#define SIZES(name)                                    \
	{                                              \
		name##_1, name##_2, name##_4, name##_8 \
	}
#define SIZES_FROM_2(name)                         \
	{                                          \
		NULL, name##_2, name##_4, name##_8 \
	}

#define ALL_SHAPES(op)                                                              \
	{                                                                           \
		[SHAPE_RR] = SIZES(op##_rr), [SHAPE_RI] = SIZES(op##_ri),           \
		[SHAPE_RM] = SIZES(op##_rm), [SHAPE_MR] = SIZES(op##_mr),           \
		[SHAPE_MI] = SIZES(op##_mi), [SHAPE_LOCK_MR] = SIZES(op##_lock_mr), \
		[SHAPE_LOCK_MI] = SIZES(op##_lock_mi),                              \
	}
#define FLAG_SHAPES(op)                                                   \
	{                                                                 \
		[SHAPE_RR] = SIZES(op##_rr), [SHAPE_RI] = SIZES(op##_ri), \
		[SHAPE_RM] = SIZES(op##_rm), [SHAPE_MR] = SIZES(op##_mr), \
		[SHAPE_MI] = SIZES(op##_mi),                              \
	}
#define ONE_SHAPES(op)                                                    \
	{                                                                 \
		[SHAPE_RI] = SIZES(op##_ri), [SHAPE_MI] = SIZES(op##_mi), \
		[SHAPE_LOCK_MI] = SIZES(op##_lock_mi),                    \
	}
#define SHIFT_SHAPES(op)                                                  \
	{                                                                 \
		[SHAPE_RR] = SIZES(op##_rr), [SHAPE_RI] = SIZES(op##_ri), \
		[SHAPE_MR] = SIZES(op##_mr), [SHAPE_MI] = SIZES(op##_mi), \
	}
#define SHIFT2_SHAPES(op)                                                               \
	{                                                                               \
		[SHAPE_RR] = SIZES_FROM_2(op##_rr), [SHAPE_RI] = SIZES_FROM_2(op##_ri), \
		[SHAPE_MR] = SIZES_FROM_2(op##_rr), [SHAPE_MI] = SIZES_FROM_2(op##_ri), \
	}
/* Register or memory alike: the handler looks. */
#define E_SHAPES(name)                                              \
	{                                                           \
		[SHAPE_RI] = SIZES(name), [SHAPE_MI] = SIZES(name), \
	}

struct alu_op {
	uint16_t mnem;
	insn_fn *fn[SHAPES][4];
};

static const struct alu_op alu_ops[] = {
	{ SOP_ADD, ALL_SHAPES(add) },
	{ SOP_OR, ALL_SHAPES(or) },
	{ SOP_ADC, ALL_SHAPES(adc) },
	{ SOP_SBB, ALL_SHAPES(sbb) },
	{ SOP_AND, ALL_SHAPES(and) },
	{ SOP_SUB, ALL_SHAPES(sub) },
	{ SOP_XOR, ALL_SHAPES(xor) },
	{ SOP_CMP, FLAG_SHAPES(cmp) },
	{ SOP_TEST, FLAG_SHAPES(test) },
	{ SOP_INC, ONE_SHAPES(inc) },
	{ SOP_DEC, ONE_SHAPES(dec) },
	{ SOP_NEG, ONE_SHAPES(neg) },
	{ SOP_NOT, ONE_SHAPES(not ) },
	{ SOP_ROL, SHIFT_SHAPES(rol) },
	{ SOP_ROR, SHIFT_SHAPES(ror) },
	{ SOP_RCL, SHIFT_SHAPES(rcl) },
	{ SOP_RCR, SHIFT_SHAPES(rcr) },
	{ SOP_SHL, SHIFT_SHAPES(shl) },
	{ SOP_SHR, SHIFT_SHAPES(shr) },
	{ SOP_SAR, SHIFT_SHAPES(sar) },
	{ SOP_SHLD, SHIFT2_SHAPES(shld) },
	{ SOP_SHRD, SHIFT2_SHAPES(shrd) },
	{ SOP_MUL, E_SHAPES(mul_1op) },
	{ SOP_DIV, E_SHAPES(div_1op) },
	{ SOP_IDIV, E_SHAPES(idiv_1op) },
	{ SOP_IMUL,
	  {
		  [SHAPE_RI] = SIZES(imul_1op),
		  [SHAPE_MI] = SIZES(imul_1op),
		  [SHAPE_RR] = SIZES_FROM_2(imul2),
		  [SHAPE_RM] = SIZES_FROM_2(imul2),
	  } },
	{ SOP_XADD,
	  {
		  [SHAPE_RR] = SIZES(xadd_rr),
		  [SHAPE_MR] = SIZES(xadd_mr),
		  [SHAPE_LOCK_MR] = SIZES(xadd_lock_mr),
	  } },
	{ SOP_CMPXCHG,
	  {
		  [SHAPE_RR] = SIZES(cmpxchg_rr),
		  [SHAPE_MR] = SIZES(cmpxchg_mr),
		  [SHAPE_LOCK_MR] = SIZES(cmpxchg_lock_mr),
	  } },
	{ SOP_XCHG,
	  {
		  [SHAPE_RR] = SIZES(xchg_rr),
		  [SHAPE_MR] = SIZES(xchg_mr),
		  [SHAPE_LOCK_MR] = SIZES(xchg_mr),
	  } },
};

static insn_fn *const alu_imul3[4] = SIZES_FROM_2(imul3);

/*
 * Decimal adjustments (SDM 2A AAA ...): the host runs 64-bit code, which does not have them.  Flags
 * that the SDM leaves undefined are set from the result.
 */
static void bcd_finish(struct scpu *c, bool cf, bool af)
{
	uint16_t fl = c->fl;

	do_test_1((uint8_t)c->gpr[X86_RAX], (uint8_t)c->gpr[X86_RAX], &fl);
	fl &= (uint16_t) ~(FL_CF | FL_AF);
	c->fl = (uint16_t)(fl | (cf ? FL_CF : 0) | (af ? FL_AF : 0));
}

static void bcd_daa_das(struct scpu *c, bool sub)
{
	uint8_t al = (uint8_t)c->gpr[X86_RAX], was = al;
	bool cf_in = c->fl & FL_CF, cf = false, af = false;

	if ((al & 15) > 9 || c->fl & FL_AF) {
		cf = cf_in || (sub ? al < 6 : al > 0xff - 6);
		al = (uint8_t)(sub ? al - 6 : al + 6);
		af = true;
	}
	if (was > 0x99 || cf_in) {
		al = (uint8_t)(sub ? al - 0x60 : al + 0x60);
		cf = true;
	} else if (!sub) {
		cf = false;
	}
	op_set(c, X86_RAX, 0, 1, al);
	bcd_finish(c, cf, af);
}

static void bcd_daa(struct scpu *c, const struct insn *i)
{
	bcd_daa_das(c, false);
	SOFT_NEXT(c, i);
}

static void bcd_das(struct scpu *c, const struct insn *i)
{
	bcd_daa_das(c, true);
	SOFT_NEXT(c, i);
}

static void bcd_aaa_aas(struct scpu *c, bool sub)
{
	uint16_t ax = (uint16_t)c->gpr[X86_RAX];
	bool adjust = (ax & 15) > 9 || c->fl & FL_AF;

	if (adjust)
		ax = (uint16_t)(sub ? ax - 0x106 : ax + 0x106);
	op_set(c, X86_RAX, 0, 2, ax & 0xff0f);
	bcd_finish(c, adjust, adjust);
}

static void bcd_aaa(struct scpu *c, const struct insn *i)
{
	bcd_aaa_aas(c, false);
	SOFT_NEXT(c, i);
}

static void bcd_aas(struct scpu *c, const struct insn *i)
{
	bcd_aaa_aas(c, true);
	SOFT_NEXT(c, i);
}

static void bcd_aam(struct scpu *c, const struct insn *i)
{
	uint8_t al = (uint8_t)c->gpr[X86_RAX], base = (uint8_t)i->imm;

	if (!base)
		soft_raise(c, i, X86_EXC_DE, 0);
	op_set(c, X86_RAX, 0, 2, (unsigned)(al / base) << 8 | al % base);
	bcd_finish(c, false, false);
	SOFT_NEXT(c, i);
}

static void bcd_aad(struct scpu *c, const struct insn *i)
{
	uint16_t ax = (uint16_t)c->gpr[X86_RAX];

	op_set(c, X86_RAX, 0, 2, (uint8_t)((ax & 0xff) + (ax >> 8) * (uint8_t)i->imm));
	bcd_finish(c, false, false);
	SOFT_NEXT(c, i);
}

static insn_fn *alu_bcd(unsigned mnem)
{
	switch (mnem) {
	case SOP_DAA:
		return bcd_daa;
	case SOP_DAS:
		return bcd_das;
	case SOP_AAA:
		return bcd_aaa;
	case SOP_AAS:
		return bcd_aas;
	case SOP_AAM:
		return bcd_aam;
	case SOP_AAD:
		return bcd_aad;
	default:
		return NULL;
	}
}

insn_fn *op_alu_bind(UNUSED struct scpu *c, struct insn *i, unsigned mnem, enum shape sh)
{
	const struct insn_form *f = &insn_forms[i->form];

	if (mnem == SOP_IMUL && f->opnd[2].kind == OPND_IMM)
		return alu_imul3[size_index(i->opsize)];
	for (unsigned n = 0; n < COUNT_OF(alu_ops); n++)
		if (alu_ops[n].mnem == mnem)
			return alu_ops[n].fn[sh][size_index(i->opsize)];
	return alu_bcd(mnem);
}
