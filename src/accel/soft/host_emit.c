/*
 * Writes stubs: machine code that runs one guest instruction on the host.
 *
 * The instruction is encoded anew with the same opcode, vector registers and immediate, and with
 *	- its memory operand replaced by [rdi];
 *	- general registers replaced: reg by r8, rm by r9, VEX.vvvv by r10.  Implied ones (RAX, RCX,
 *	  RDX) stay;
 *	- prefixes that do not change what it does left out.
 * Around it the stub loads what it reads from struct scpu (rsi) and stores what it writes: the
 * registers, the status flags, MXCSR around floating point, the whole x87 state around x87 and MMX.
 *
 * Legacy SSE keeps the upper half of a vector register: only the lower half is loaded and stored.
 * VEX clears it: 32 bytes are stored whatever the length.
 *
 * No stub touches a callee-saved register or the stack; a signal handler may leave it at any
 * instruction for the landing code.
 */
#include "accel/soft/host_int.h"

#include "base/bug.h"
#include "base/bytes.h"

enum {
	/* Host registers that stand for operands. */
	HR_REG = X86_R8,
	HR_RM = X86_R9,
	HR_VVVV = X86_R10,
	MXCSR_DEFAULT = 0x1f80,
};

struct emit {
	uint8_t *p;
	unsigned n;
};

static void emit_byte(struct emit *e, unsigned b)
{
	BUG_ON(e->n >= HOST_STUB_MAX);
	e->p[e->n++] = (uint8_t)b;
}

static void emit_bytes(struct emit *e, const char *b, unsigned len)
{
	for (unsigned k = 0; k < len; k++)
		emit_byte(e, (uint8_t)b[k]);
}
#define EMIT(e, s) emit_bytes((e), (s), sizeof(s) - 1)

static void emit_u32(struct emit *e, uint32_t v)
{
	for (unsigned k = 0; k < 4; k++)
		emit_byte(e, v >> 8 * k & 255);
}

/* ModRM and displacement of [rsi + off] with register field r. */
static void emit_rsi(struct emit *e, unsigned r, size_t off)
{
	emit_byte(e, 0x80 | (r & 7) << 3 | X86_RSI);
	emit_u32(e, (uint32_t)off);
}

#define OFF(field) offsetof(struct scpu, field)

/* mov r64, [rsi + off]; the other way. */
static void emit_gpr(struct emit *e, bool store, unsigned r, size_t off)
{
	emit_byte(e, 0x48 | (r >> 3) << 2);
	emit_byte(e, store ? 0x89 : 0x8b);
	emit_rsi(e, r, off);
}

static size_t gpr_off(unsigned g)
{
	return OFF(gpr) + 8ul * g;
}

/* Vector register `n`, 32 bytes or the lower 16. */
static void emit_vec(struct emit *e, bool store, unsigned n, bool wide)
{
	if (host_facts.avx) {
		/* vmovdqu */
		emit_byte(e, 0xc4);
		emit_byte(e, (n < 8 ? 0x80 : 0) | 0x61);
		emit_byte(e, 0x7a | (wide ? 4 : 0));
		emit_byte(e, store ? 0x7f : 0x6f);
	} else {
		/* movups */
		if (n >= 8)
			emit_byte(e, 0x44);
		emit_byte(e, 0x0f);
		emit_byte(e, store ? 0x11 : 0x10);
	}
	emit_rsi(e, n, OFF(ymm) + 32ul * n);
}

static void emit_default_mxcsr(struct emit *e)
{
	/* mov dword [rsp - 8], imm32; ldmxcsr [rsp - 8] */
	EMIT(e, "\xc7\x44\x24\xf8");
	emit_u32(e, MXCSR_DEFAULT);
	EMIT(e, "\x0f\xae\x54\x24\xf8");
}

static void emit_mxcsr(struct emit *e, bool store)
{
	EMIT(e, "\x0f\xae");
	emit_rsi(e, store ? 3 : 2, OFF(mxcsr));
}

static void emit_x87_load(struct emit *e)
{
	/* The image's own MXCSR field must be valid: mov dword [..], imm32; fxrstor64 */
	EMIT(e, "\xc7");
	emit_rsi(e, 0, OFF(fx) + 24);
	emit_u32(e, MXCSR_DEFAULT);
	EMIT(e, "\x48\x0f\xae");
	emit_rsi(e, 1, OFF(fx));
}

/* FXSAVE, then FOP, FIP and FDP, which are addresses of ours, become 0. */
static void emit_x87_store(struct emit *e)
{
	EMIT(e, "\x48\x0f\xae");
	emit_rsi(e, 0, OFF(fx));
	EMIT(e, "\x66\xc7");
	emit_rsi(e, 0, OFF(fx) + 6);
	EMIT(e, "\0\0");
	for (unsigned k = 8; k <= 16; k += 8) {
		EMIT(e, "\x48\xc7");
		emit_rsi(e, 0, OFF(fx) + k);
		emit_u32(e, 0);
	}
	EMIT(e, "\xdb\xe3");
}

static bool is_vec(unsigned kind)
{
	return kind >= OPND_XMM_REG && kind <= OPND_XMM0;
}

static unsigned vec_number(const struct insn *i, unsigned kind)
{
	switch (kind) {
	case OPND_XMM_REG:
		return i->reg;
	case OPND_XMM_RM:
		return i->rm;
	case OPND_XMM_VVVV:
		return i->vvvv;
	case OPND_XMM_IS4:
		return i->is4;
	default:
		return 0;
	}
}

static bool opnd_is_mem(const struct insn *i, unsigned kind)
{
	return i->flags & INSN_MEM &&
	       (kind == OPND_RM || kind == OPND_MEM || kind == OPND_XMM_RM || kind == OPND_MM_RM);
}

/*
 * Does it use MXCSR?  Conversions, arithmetic, comparisons, rounding; not the moves and integer
 * operations, which are most.
 */
static bool uses_mxcsr(const struct insn *i, const struct host_enc *enc)
{
	unsigned op = i->opcode;

	switch (enc->map) {
	case 1:
		return (op >= 0x2a && op <= 0x2f && op != 0x2b) || (op >= 0x51 && op <= 0x53) ||
		       (op >= 0x58 && op <= 0x5f) || op == 0x7c || op == 0x7d || op == 0xc2 ||
		       op == 0xd0 || op == 0xe6;
	case 2:
		return i->flags & INSN_VEX && (op == 0x13 || (op >= 0x96 && op <= 0xbf));
	case 3:
		return (op >= 0x08 && op <= 0x0b) || op == 0x1d || op == 0x40 || op == 0x41;
	default:
		return false;
	}
}

/* What one stub does around its instruction. */
struct plan {
	const struct insn *i;
	const struct insn_form *f;
	bool flags, mxcsr, x87, vex;
	/* Vector registers, general operands: bit i of r for register number i, w alike. */
	uint32_t vec_r, vec_w;
	/* Implied general registers. */
	uint16_t gpr_r, gpr_w;
	bool reg_gpr, rm_gpr, vvvv_gpr;
	uint8_t reg_access, rm_access, vvvv_access;
};

static void plan_opnd(struct plan *pl, const struct insn_opnd *o)
{
	const struct insn *i = pl->i;

	if (opnd_is_mem(i, o->kind))
		return;
	if (is_vec(o->kind)) {
		uint32_t bit = BIT(vec_number(i, o->kind));

		if (o->access & INSA_R)
			pl->vec_r |= bit;
		if (o->access & INSA_W)
			pl->vec_w |= bit;
	}
	switch (o->kind) {
	case OPND_REG:
		pl->reg_gpr = true;
		pl->reg_access |= o->access;
		break;
	case OPND_RM:
		pl->rm_gpr = true;
		pl->rm_access |= o->access;
		break;
	case OPND_GPR_VVVV:
		pl->vvvv_gpr = true;
		pl->vvvv_access |= o->access;
		break;
	case OPND_ACC:
		pl->gpr_w |= BIT(X86_RAX);
		break;
	}
}

static void plan_make(struct plan *pl, const struct insn *i, const struct host_enc *enc)
{
	const struct insn_form *f = &insn_forms[i->form];

	*pl = (struct plan){ .i = i, .f = f, .vex = i->flags & INSN_VEX };
	pl->gpr_r = f->gpr_r;
	pl->gpr_w = f->gpr_w;
	pl->flags = (f->fl_r | f->fl_w | f->fl_u) & X86_FL_STATUS;
	pl->x87 = f->flags & (INSF_X87 | INSF_MMX);
	pl->mxcsr = f->flags & (INSF_SSE | INSF_AVX | INSF_MMX) && uses_mxcsr(i, enc);
	for (unsigned k = 0; k < INSN_OPNDS; k++)
		plan_opnd(pl, &f->opnd[k]);
	/* A legacy form may change a part of its destination only. */
	if (!pl->vex)
		pl->vec_r |= pl->vec_w;
}

/* The operands' registers: fixed ones for operands, the implied where they are. */
static void emit_gpr_operands(struct emit *e, const struct plan *pl, bool store)
{
	const struct insn *i = pl->i;
	unsigned want = store ? INSA_W : INSA_RW;

	/* reg after vvvv: MULX to one register twice leaves the high half there. */
	if (pl->vvvv_gpr && pl->vvvv_access & want)
		emit_gpr(e, store, HR_VVVV, gpr_off(i->vvvv));
	if (pl->reg_gpr && pl->reg_access & want)
		emit_gpr(e, store, HR_REG, gpr_off(i->reg));
	if (pl->rm_gpr && pl->rm_access & want) {
		if (i->flags & INSN_RM_HIGH) {
			/* movzx r9d, byte [..]; high bytes are only ever read. */
			EMIT(e, "\x44\x0f\xb6");
			emit_rsi(e, HR_RM, gpr_off(i->rm) + 1);
		} else {
			emit_gpr(e, store, HR_RM, gpr_off(i->rm));
		}
	}
}

static void emit_gpr_implied(struct emit *e, const struct plan *pl, bool store)
{
	unsigned mask = store ? pl->gpr_w : pl->gpr_r | pl->gpr_w;

	for (unsigned r = X86_RAX; r <= X86_RDX; r++)
		if (mask >> r & 1)
			emit_gpr(e, store, r, gpr_off(r));
}

static void emit_vecs(struct emit *e, const struct plan *pl, bool store)
{
	uint32_t mask = store ? pl->vec_w : pl->vec_r;
	bool wide = store ? pl->vex : pl->i->flags & INSN_VEXL;

	for (unsigned n = 0; n < 16; n++)
		if (mask >> n & 1)
			emit_vec(e, store, n, wide);
}

static void emit_flags_in(struct emit *e)
{
	/* movzx eax, word [..]; add al, 0x7f; sahf */
	EMIT(e, "\x0f\xb7");
	emit_rsi(e, X86_RAX, OFF(fl));
	EMIT(e, "\x04\x7f\x9e");
}

static void emit_flags_out(struct emit *e)
{
	/* lahf; seto al; mov [..], ax */
	EMIT(e, "\x9f\x0f\x90\xc0\x66\x89");
	emit_rsi(e, X86_RAX, OFF(fl));
}

/* The register numbers of the copy: ModRM.reg, ModRM.rm and VEX.vvvv. */
struct copy_regs {
	unsigned reg, rm, vvvv;
};

static struct copy_regs copy_regs(const struct plan *pl)
{
	const struct insn *i = pl->i;
	/* Not a register: bits of the opcode, which insn.modrm has unchanged. */
	struct copy_regs r = { i->modrm >> 3 & 7, i->modrm & 7, 0 };

	for (unsigned k = 0; k < INSN_OPNDS; k++) {
		unsigned kind = pl->f->opnd[k].kind;

		if (kind == OPND_XMM_REG || kind == OPND_MM_REG)
			r.reg = i->reg;
		if (kind == OPND_XMM_RM || kind == OPND_MM_RM)
			r.rm = i->rm;
		if (kind == OPND_XMM_VVVV)
			r.vvvv = i->vvvv;
	}
	if (pl->reg_gpr)
		r.reg = HR_REG;
	if (pl->rm_gpr)
		r.rm = HR_RM;
	if (pl->vvvv_gpr)
		r.vvvv = HR_VVVV;
	if (i->flags & INSN_MEM)
		r.rm = X86_RDI;
	return r;
}

static bool copy_w(const struct insn *i, const struct insn_form *f, unsigned code_size)
{
	/* In 32-bit code VEX.W does not make a general operand (PCMPESTRI: RAX, RDX) wide. */
	if ((f->osz == INSO_Y || f->gpr_r) && code_size != 64)
		return false;
	return i->flags & INSN_REXW;
}

static void emit_copy_vex(struct emit *e, const struct plan *pl, const struct host_enc *enc,
			  const struct copy_regs *r, unsigned code_size)
{
	const struct insn *i = pl->i;

	emit_byte(e, 0xc4);
	emit_byte(e, (r->reg < 8 ? 0x80 : 0) | 0x40 | (r->rm < 8 ? 0x20 : 0) | enc->map);
	emit_byte(e, (copy_w(i, pl->f, code_size) ? 0x80 : 0) | (~r->vvvv & 15) << 3 |
			     (i->flags & INSN_VEXL ? 4 : 0) | enc->pp);
}

/* 66 is part of the opcode, or chooses between 16 bits and more. */
static bool copy_66(const struct insn *i, const struct insn_form *f)
{
	if (f->mem_size == INSZ_FPENV || f->mem_size == INSZ_FPSTATE)
		return host_fp16(i);
	if (f->osz == INSO_V)
		return i->opsize == 2;
	return i->flags & INSN_66;
}

static void emit_copy_legacy(struct emit *e, const struct plan *pl, const struct host_enc *enc,
			     const struct copy_regs *r, unsigned code_size)
{
	const struct insn *i = pl->i;
	unsigned rex = (copy_w(i, pl->f, code_size) ? 8 : 0) | (r->reg >> 3) << 2 | r->rm >> 3;

	if (copy_66(i, pl->f))
		emit_byte(e, 0x66);
	if (enc->map && i->flags & (INSN_REP | INSN_REPNE))
		emit_byte(e, i->flags & INSN_REP ? 0xf3 : 0xf2);
	if (rex)
		emit_byte(e, 0x40 | rex);
	if (enc->map)
		emit_byte(e, 0x0f);
	if (enc->map > 1)
		emit_byte(e, enc->map == 2 ? 0x38 : 0x3a);
}

static void emit_copy(struct emit *e, const struct plan *pl, const struct host_enc *enc,
		      unsigned code_size)
{
	const struct insn *i = pl->i;
	struct copy_regs r = copy_regs(pl);
	bool has_imm = false, has_imm2 = false, has_is4 = false, has_modrm;

	for (unsigned k = 0; k < INSN_OPNDS; k++) {
		has_imm |= pl->f->opnd[k].kind == OPND_IMM;
		has_imm2 |= pl->f->opnd[k].kind == OPND_IMM2;
		has_is4 |= pl->f->opnd[k].kind == OPND_XMM_IS4;
	}
	if (pl->vex)
		emit_copy_vex(e, pl, enc, &r, code_size);
	else
		emit_copy_legacy(e, pl, enc, &r, code_size);
	emit_byte(e, i->opcode);
	/* FWAIT and EMMS have none. */
	has_modrm = !(enc->map == 0 && i->opcode == 0x9b) && !(enc->map == 1 && i->opcode == 0x77);
	if (has_modrm)
		emit_byte(e, (i->flags & INSN_MEM ? 0 : 0xc0) | (r.reg & 7) << 3 | (r.rm & 7));
	if (has_imm)
		emit_byte(e, (uint8_t)i->imm);
	if (has_imm2)
		emit_byte(e, (uint8_t)i->imm2);
	if (has_is4)
		emit_byte(e, (unsigned)i->is4 << 4);
}

unsigned host_emit(uint8_t *p, const struct insn *i, const struct host_enc *enc, unsigned code_size)
{
	struct emit e = { .p = p };
	struct plan pl;

	plan_make(&pl, i, enc);
	if (pl.vex && !host_facts.avx && (pl.vec_r | pl.vec_w))
		return 0;
	if (pl.x87)
		emit_x87_load(&e);
	emit_vecs(&e, &pl, false);
	emit_gpr_operands(&e, &pl, false);
	if (pl.mxcsr) {
		emit_mxcsr(&e, false);
		/* For the landing: is the guest's x87 state in the unit?  mov r11d, imm32 */
		EMIT(&e, "\x41\xbb");
		emit_u32(&e, pl.x87);
	}
	if (pl.flags)
		emit_flags_in(&e);
	emit_gpr_implied(&e, &pl, false);
	emit_copy(&e, &pl, enc, code_size);
	emit_gpr_implied(&e, &pl, true);
	if (pl.flags)
		emit_flags_out(&e);
	emit_gpr_operands(&e, &pl, true);
	emit_vecs(&e, &pl, true);
	if (pl.mxcsr) {
		emit_mxcsr(&e, true);
		emit_default_mxcsr(&e);
	}
	if (pl.x87)
		emit_x87_store(&e);
	/* vzeroupper */
	if (i->flags & INSN_VEXL)
		EMIT(&e, "\xc5\xf8\x77");
	/* xor eax, eax; ret */
	EMIT(&e, "\x31\xc0\xc3");
	return e.n;
}

/*
 * The copied instruction raised the exception in EAX.  #XM: MXCSR says why, and what converts
 * between MMX and XMM has left x87 mode all the same.  #MF: nothing has changed.
 */
unsigned host_emit_landing(uint8_t *p)
{
	struct emit e = { .p = p }, x = { .p = p };

	/* The pieces' lengths are needed for the jumps over them: first round to measure. */
	emit_x87_store(&x);
	unsigned x87_len = x.n;
	BUG_ON(x87_len + 12 > 127);
	/* cmp eax, 19; jne over all */
	EMIT(&e, "\x83\xf8\x13\x75");
	emit_byte(&e, 7 + 5 + x87_len);
	emit_mxcsr(&e, true);
	/* test r11d, r11d; je over the x87 state */
	EMIT(&e, "\x45\x85\xdb\x74");
	emit_byte(&e, x87_len);
	emit_x87_store(&e);
	emit_default_mxcsr(&e);
	EMIT(&e, "\xdb\xe3");
	if (host_facts.avx)
		EMIT(&e, "\xc5\xf8\x77");
	EMIT(&e, "\xc3");
	return e.n;
}
