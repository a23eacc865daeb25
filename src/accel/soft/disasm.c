#include "accel/soft/disasm.h"

#include "accel/soft/insn.h"
#include "accel/soft/soft_int.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct text {
	char *p;
	size_t left;
};

static PRINTF(2, 3) void put(struct text *t, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(t->p, t->left, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= t->left)
		n = (int)t->left - 1;
	t->p += n;
	t->left -= (size_t)n;
}

/* ---- names ---- */

static const char *const seg_names[8] = { "es", "cs", "ss", "ds", "fs", "gs", "?", "?" };
static const char *const cc_names[16] = { "o", "no", "b", "ae", "e", "ne", "be", "a",
					  "s", "ns", "p", "np", "l", "ge", "le", "g" };

static void put_gpr(struct text *t, unsigned n, unsigned size, bool high)
{
	static const char *const word[8] = { "ax", "cx", "dx", "bx", "sp", "bp", "si", "di" };
	static const char *const byte[8] = { "al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil" };

	if (high)
		put(t, "%ch", word[n & 3][0]);
	else if (n >= 8)
		put(t, "r%u%s", n, size == 1 ? "b" : size == 2 ? "w" : size == 4 ? "d" : "");
	else if (size == 1)
		put(t, "%s", byte[n]);
	else
		put(t, "%s%s", size == 4 ? "e" : size == 8 ? "r" : "", word[n]);
}

/* Of mnemonics that stand for sixteen. */
static void put_name(struct text *t, const struct insn *i)
{
	const struct insn_form *f = &insn_forms[i->form];
	const char *cc = cc_names[i->opcode & 15];

	if (i->flags & INSN_LOCK)
		put(t, "lock ");
	if (f->class == INSC_STR && i->flags & INSN_REP)
		put(t, "rep ");
	if (f->class == INSC_STR && i->flags & INSN_REPNE)
		put(t, "repne ");
	if (f->sop == SOP_JCC)
		put(t, "j%s", cc);
	else if (f->sop == SOP_SETCC)
		put(t, "set%s", cc);
	else if (f->sop == SOP_CMOVCC)
		put(t, "cmov%s", cc);
	else
		for (const char *p = f->name; *p; p++)
			put(t, "%c", *p >= 'A' && *p <= 'Z' ? *p | 0x20 : *p);
}

/* ---- operands ---- */

static void put_mem(struct text *t, const struct insn *i, unsigned size, uint64_t at)
{
	static const char *const width[] = { "byte ",  "word ",    "dword ",
					     "qword ", "xmmword ", "ymmword " };
	const char *plus = "";

	if (size && !(size & (size - 1)) && size <= 32)
		put(t, "%s", width[__builtin_ctz(size)]);
	else if (size)
		put(t, "%u bytes ", size);
	put(t, "[");
	if (i->flags & INSN_SEG || i->seg == X86_FS || i->seg == X86_GS)
		put(t, "%s:", seg_names[i->seg & 7]);
	if (i->base == SREG_RIP) {
		put(t, "%#lx]", (unsigned long)((at + (uint64_t)i->disp) & i->ea_mask));
		return;
	}
	if (i->base < 16) {
		put_gpr(t, i->base, i->adsize, false);
		plus = "+";
	}
	if (i->index < 16) {
		put(t, "%s", plus);
		if (insn_forms[i->form].opnd[1].kind == OPND_VSIB)
			put(t, "%cmm%u", i->flags & INSN_VEXL ? 'y' : 'x', i->index);
		else
			put_gpr(t, i->index, i->adsize, false);
		put(t, "*%u", 1u << i->scale);
		plus = "+";
	}
	if (!*plus)
		put(t, "%#lx", (unsigned long)((uint64_t)i->disp & i->ea_mask));
	else if (i->disp < 0)
		put(t, "-%#lx", -(unsigned long)i->disp);
	else if (i->disp)
		put(t, "+%#lx", (unsigned long)i->disp);
	put(t, "]");
}

static void put_vec(struct text *t, unsigned n, unsigned size)
{
	put(t, "%cmm%u", size > 16 ? 'y' : 'x', n);
}

static void put_imm(struct text *t, uint64_t v, unsigned size)
{
	int64_t s = (int64_t)v;

	if (size < 8 && s >= 0)
		v &= (1ull << 8 * size) - 1;
	if (s < 0 && s > -0x1000)
		put(t, "-%#lx", -(unsigned long)s);
	else
		put(t, "%#lx", (unsigned long)v);
}

/* Register or memory. */
static void put_rm(struct text *t, const struct insn *i, unsigned kind, unsigned size, uint64_t at)
{
	if (i->flags & INSN_MEM)
		put_mem(t, i, size, at);
	else if (kind == OPND_RM)
		put_gpr(t, i->rm, size, i->flags & INSN_RM_HIGH);
	else if (kind == OPND_MM_RM)
		put(t, "mm%u", i->rm & 7);
	else
		put_vec(t, i->rm, size);
}

static void put_fixed(struct text *t, const struct insn *i, unsigned kind, unsigned size)
{
	switch (kind) {
	case OPND_ACC:
		put_gpr(t, X86_RAX, size, false);
		break;
	case OPND_CL:
		put(t, "cl");
		break;
	case OPND_DX:
		put(t, "dx");
		break;
	case OPND_ONE:
		put(t, "1");
		break;
	case OPND_XMM0:
		put(t, "xmm0");
		break;
	case OPND_STR_SRC:
		put(t, "%s:[si]", seg_names[i->seg & 7]);
		break;
	case OPND_STR_DST:
		put(t, "es:[di]");
		break;
	case OPND_XLAT:
		put(t, "%s:[bx+al]", seg_names[i->seg & 7]);
		break;
	case OPND_MASKMOV:
		put(t, "%s:[di]", seg_names[i->seg & 7]);
		break;
	case OPND_ST0:
		put(t, "st0");
		break;
	default:
		put(t, "?");
		break;
	}
}

static void put_opnd(struct text *t, const struct insn *i, const struct insn_opnd *o,
		     unsigned code_size, uint64_t at)
{
	unsigned size = insn_size_bytes(o->size, i->opsize, code_size);

	switch (o->kind) {
	case OPND_REG:
		put_gpr(t, i->reg, size, i->flags & INSN_REG_HIGH);
		break;
	case OPND_GPR_VVVV:
		put_gpr(t, i->vvvv, size, false);
		break;
	case OPND_RM:
	case OPND_XMM_RM:
	case OPND_MM_RM:
		put_rm(t, i, o->kind, size, at);
		break;
	case OPND_MEM:
	case OPND_MOFFS:
	case OPND_VSIB:
		put_mem(t, i, size, at);
		break;
	case OPND_IMM:
		put_imm(t, i->imm, size);
		break;
	case OPND_IMM2:
		put(t, "%#x", i->imm2);
		break;
	case OPND_REL:
		put(t, "%#lx",
		    (unsigned long)((at + i->len + i->imm) &
				    (code_size == 64 ? ~0ull : 0xffffffffull)));
		break;
	case OPND_FAR:
		put(t, "%#x:%#lx", i->imm2, (unsigned long)i->imm);
		break;
	case OPND_SREG:
		put(t, "%s", seg_names[i->reg & 7]);
		break;
	case OPND_CR:
	case OPND_DR:
		put(t, "%cr%u", o->kind == OPND_CR ? 'c' : 'd', i->reg);
		break;
	case OPND_XMM_REG:
		put_vec(t, i->reg, size);
		break;
	case OPND_XMM_VVVV:
		put_vec(t, i->vvvv, size);
		break;
	case OPND_XMM_IS4:
		put_vec(t, i->is4, size);
		break;
	case OPND_MM_REG:
		put(t, "mm%u", i->reg & 7);
		break;
	case OPND_STI:
		put(t, "st%u", i->rm & 7);
		break;
	default:
		put_fixed(t, i, o->kind, size);
		break;
	}
}

unsigned soft_disasm(const uint8_t *p, unsigned avail, unsigned code_size, uint64_t at,
		     char ret[DISASM_TEXT])
{
	struct text t = { ret, DISASM_TEXT };
	struct insn i;
	int len = soft_decode(p, avail, code_size, &i);

	if (len <= 0) {
		put(&t, "(bad)");
		return 1;
	}
	put_name(&t, &i);
	for (unsigned n = 0; n < INSN_OPNDS; n++) {
		const struct insn_opnd *o = &insn_forms[i.form].opnd[n];

		if (o->kind == OPND_NONE)
			break;
		put(&t, "%s", n ? ", " : " ");
		put_opnd(&t, &i, o, code_size, at);
	}
	return (unsigned)len;
}
