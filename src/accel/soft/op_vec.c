/*
 * Vector forms that touch memory element by element, and those whose operand is a control register:
 * VMASKMOV, VPMASKMOV, MASKMOVDQU, MASKMOVQ, gathers, VZEROUPPER, VZEROALL, LDMXCSR, STMXCSR.
 *
 * A copy of these could touch bytes that a mask excludes, so each element goes through the ordinary
 * loads and stores.  The address size cuts the operand's address, not those of its elements.
 * Masked stores are checked as a whole first.  A gather that faults has done the
 * elements before: they are in the destination and gone from the mask (SDM 2C VGATHERDPS).
 */
#include "accel/soft/host_int.h"

#include "base/bytes.h"
#include "base/num.h"

static void vec_gate(struct scpu *c, const struct insn *i)
{
	struct host_gate g;

	host_gate_make(&g, i);
	host_gate(c, i, &g);
}

static bool vec_msb(const uint8_t *p, unsigned size, unsigned n)
{
	return p[size * n + size - 1] & 0x80;
}

/* 4 or 8: by opcode and VEX.W (2C-2F: PS, PD; 8C, 8E: D, Q). */
static unsigned vec_mask_size(const struct insn *i)
{
	if (i->opcode >= 0x8c)
		return i->flags & INSN_REXW ? 8 : 4;
	return i->opcode & 1 ? 8 : 4;
}

static void vec_mask_load(struct scpu *c, const struct insn *i)
{
	unsigned size = vec_mask_size(i), n = i->opsize / size;
	const uint8_t *mask = c->ymm[i->vvvv];
	uint64_t ea = soft_ea(c, i);
	uint8_t v[32] = { 0 };

	vec_gate(c, i);
	for (unsigned k = 0; k < n; k++)
		if (vec_msb(mask, size, k))
			st_le(v + size * k, size, soft_ld(c, i, i->seg, ea + size * k, size));
	memcpy(c->ymm[i->reg], v, sizeof(v));
	SOFT_NEXT(c, i);
}

/* Elements whose mask bit is set go to memory at seg:ea, all or none of them. */
static void vec_mask_put(struct scpu *c, const struct insn *i, uint64_t ea, const uint8_t *mask,
			 const uint8_t *v, unsigned size, unsigned n)
{
	for (unsigned k = 0; k < n; k++)
		if (vec_msb(mask, size, k))
			soft_probe_w(c, i, soft_lin(c, i, i->seg, ea + size * k, size, true), size);
	for (unsigned k = 0; k < n; k++)
		if (vec_msb(mask, size, k))
			soft_st(c, i, i->seg, ea + size * k, size, ld_le(v + size * k, size));
}

static void vec_mask_store(struct scpu *c, const struct insn *i)
{
	unsigned size = vec_mask_size(i);

	vec_gate(c, i);
	vec_mask_put(c, i, soft_ea(c, i), c->ymm[i->vvvv], c->ymm[i->reg], size, i->opsize / size);
	SOFT_NEXT(c, i);
}

static void vec_maskmovdqu(struct scpu *c, const struct insn *i)
{
	vec_gate(c, i);
	vec_mask_put(c, i, c->gpr[X86_RDI] & i->ea_mask, c->ymm[i->rm], c->ymm[i->reg], 1, 16);
	SOFT_NEXT(c, i);
}

/* MMX register n in the FXSAVE image: the stack is always at top 0 for MMX (SDM 1 9.2.1). */
static uint8_t *vec_mm(struct scpu *c, unsigned n)
{
	unsigned top = c->fx[3] >> 3 & 7;

	return c->fx + 32 + 16 * ((n - top) & 7);
}

static void vec_maskmovq(struct scpu *c, const struct insn *i)
{
	uint8_t st[8][16];

	vec_gate(c, i);
	vec_mask_put(c, i, c->gpr[X86_RDI] & i->ea_mask, vec_mm(c, i->rm), vec_mm(c, i->reg), 1, 8);
	/* Like every MMX instruction: TOP becomes 0, all registers valid (SDM 1 9.5.1). */
	for (unsigned k = 0; k < 8; k++)
		memcpy(st[k], vec_mm(c, k), 16);
	memcpy(c->fx + 32, st, sizeof(st));
	c->fx[3] &= 0xc7;
	c->fx[4] = 0xff;
	SOFT_NEXT(c, i);
}

/*
 * Gathers: opcodes 90 and 92 have 32-bit indices, 91 and 93 64-bit ones; W: 64-bit elements.
 */
static void vec_gather(struct scpu *c, const struct insn *i)
{
	unsigned isize = i->opcode & 1 ? 8 : 4, size = i->flags & INSN_REXW ? 8 : 4;
	unsigned width = i->flags & INSN_VEXL ? 32 : 16, n = width / MAX(isize, size);
	uint8_t *dst = c->ymm[i->reg], *mask = c->ymm[i->vvvv];
	const uint8_t *idx = c->ymm[i->index];

	vec_gate(c, i);
	for (unsigned k = 0; k < n; k++) {
		uint64_t x =
			isize == 8 ? ld_le64(idx + 8 * k) : (uint64_t)(int32_t)ld_le32(idx + 4 * k);
		uint64_t ea = (c->gpr[i->base] + (x << i->scale) + (uint64_t)i->disp) & i->ea_mask;

		if (!vec_msb(mask, size, k))
			continue;
		st_le(dst + size * k, size, soft_ld(c, i, i->seg, ea, size));
		st_le(mask + size * k, size, 0);
	}
	memset(mask, 0, 32);
	memset(dst + size * n, 0, 32 - size * n);
	SOFT_NEXT(c, i);
}

static void vec_zero(struct scpu *c, const struct insn *i)
{
	unsigned from = i->flags & INSN_VEXL ? 0 : 16;

	vec_gate(c, i);
	for (unsigned n = 0; n < (c->code_size == 64 ? 16u : 8u); n++)
		memset(c->ymm[n] + from, 0, 32 - from);
	SOFT_NEXT(c, i);
}

static void vec_ldmxcsr(struct scpu *c, const struct insn *i)
{
	vec_gate(c, i);
	uint32_t v = (uint32_t)op_ld(c, i, 4);
	if (v & ~host_facts.mxcsr_mask)
		soft_raise(c, i, X86_EXC_GP, 0);
	c->mxcsr = v;
	SOFT_NEXT(c, i);
}

static void vec_stmxcsr(struct scpu *c, const struct insn *i)
{
	vec_gate(c, i);
	op_st(c, i, 4, c->mxcsr);
	SOFT_NEXT(c, i);
}

insn_fn *op_vec_bind(UNUSED struct scpu *c, struct insn *i, unsigned mnem)
{
	const struct insn_form *f = &insn_forms[i->form];

	for (unsigned k = 0; k < INSN_OPNDS; k++) {
		if (f->opnd[k].kind == OPND_VSIB)
			return vec_gather;
		if (f->opnd[k].kind == OPND_MASKMOV)
			return f->flags & INSF_MMX ? vec_maskmovq : vec_maskmovdqu;
	}
	switch (mnem) {
	case SOP_VMASKMOVPS:
	case SOP_VMASKMOVPD:
	case SOP_VPMASKMOVD:
	case SOP_VPMASKMOVQ:
		return f->mem_access == INSA_R ? vec_mask_load : vec_mask_store;
	case SOP_VZEROUPPER:
	case SOP_VZEROALL:
		return vec_zero;
	case SOP_LDMXCSR:
	case SOP_VLDMXCSR:
		return vec_ldmxcsr;
	case SOP_STMXCSR:
	case SOP_VSTMXCSR:
		return vec_stmxcsr;
	}
	return NULL;
}
