/*
 * Near flow and the stack: JMP, CALL, RET, Jcc, LOOP, JCXZ, PUSH, POP, PUSHA, POPA, ENTER, LEAVE,
 * BOUND.  Far transfers are in far.c.
 *
 * A target is checked before anything is pushed or popped, so that #GP finds the state as it was.
 */
#include "accel/soft/op_stack.h"

#define SZ 2
#include "accel/soft/op_flow.inc"
#undef SZ
#define SZ 4
#include "accel/soft/op_flow.inc"
#undef SZ
#define SZ 8
#include "accel/soft/op_flow.inc"
#undef SZ

#define SIZES(name)                                \
	{                                          \
		NULL, name##_2, name##_4, name##_8 \
	}
/* [size][condition] */
#define CC_FN_2(cc) [cc] = jcc##cc##_2,
#define CC_FN_4(cc) [cc] = jcc##cc##_4,
#define CC_FN_8(cc) [cc] = jcc##cc##_8,

static insn_fn *const flow_jcc[4][16] = {
	{ NULL },
	{ OP_ALL_CC(CC_FN_2) },
	{ OP_ALL_CC(CC_FN_4) },
	{ OP_ALL_CC(CC_FN_8) },
};

/* What the operand of PUSH, JMP, CALL is. */
enum flow_place {
	FLOW_REG,
	FLOW_MEM,
	FLOW_IMM,
	FLOW_PLACES,
};

static const struct flow_op {
	uint16_t mnem;
	insn_fn *fn[FLOW_PLACES][4];
} flow_ops[] = {
	{ SOP_PUSH, { SIZES(push_r), SIZES(push_m), SIZES(push_i) } },
	{ SOP_POP, { SIZES(pop_r), SIZES(pop_m) } },
	{ SOP_JMP, { SIZES(jmp_r), SIZES(jmp_m), SIZES(jmp_rel) } },
	{ SOP_CALL, { SIZES(call_r), SIZES(call_m), SIZES(call_rel) } },
	{ SOP_RET, { SIZES(ret), { NULL }, SIZES(ret_i) } },
	{ SOP_PUSHA, { SIZES(pusha) } },
	{ SOP_POPA, { SIZES(popa) } },
	{ SOP_ENTER, { SIZES(enter), { NULL }, SIZES(enter) } },
	{ SOP_LEAVE, { SIZES(leave) } },
	{ SOP_LOOP, { { NULL }, { NULL }, SIZES(loop) } },
	{ SOP_LOOPE, { { NULL }, { NULL }, SIZES(loop) } },
	{ SOP_LOOPNE, { { NULL }, { NULL }, SIZES(loop) } },
	{ SOP_JCXZ, { { NULL }, { NULL }, SIZES(jcxz) } },
	{ SOP_BOUND, { { NULL }, { NULL, bound_2, bound_4, NULL } } },
};

static enum flow_place flow_place(const struct insn *i)
{
	unsigned kind = insn_forms[i->form].opnd[0].kind;

	if (i->flags & INSN_MEM)
		return FLOW_MEM;
	return kind == OPND_IMM || kind == OPND_REL ? FLOW_IMM : FLOW_REG;
}

insn_fn *op_flow_bind(UNUSED struct scpu *c, struct insn *i, unsigned mnem)
{
	static insn_fn *const push_sreg[4] = SIZES(push_sreg);
	const struct insn_form *f = &insn_forms[i->form];
	unsigned sz = size_index(i->opsize);

	if (mnem == SOP_JCC)
		return flow_jcc[sz][i->opcode & 15];
	if (mnem == SOP_PUSH && f->opnd[0].kind == OPND_SREG)
		return push_sreg[sz];
	for (unsigned n = 0; n < COUNT_OF(flow_ops); n++) {
		if (flow_ops[n].mnem != mnem)
			continue;
		/* A register in the opcode is in reg; the handlers of PUSH and POP look in rm. */
		if (f->opnd[0].kind == OPND_REG && mnem != SOP_BOUND)
			i->rm = i->reg;
		return flow_ops[n].fn[flow_place(i)][sz];
	}
	return NULL;
}
