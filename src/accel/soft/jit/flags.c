/*
 * Where the guest's status flags are.
 *
 * Inside a block they are in the host's RFLAGS, in scpu.fl, or (lazy) nowhere: then the instruction
 * that wrote them can be done once more, as what it worked on is still in the guest's registers.
 * Looks into the translation cache destroy RFLAGS; flags that may be read behind one would have to
 * be saved before, and mostly nobody reads them: the look-up's miss, a RET that is not where it was
 * expected, an exit to code that wants them do the instruction again.  So do a branch or an ADC.
 *
 * How (struct jrecipe) is found by looking back from where the flags are wanted; it is the same
 * until a register that it takes is written.  Code that is not run usually calls a stub, one for
 * each recipe of a block, that puts the flags into scpu.fl.
 */
#include "accel/soft/jit/jit_int.h"

#include "accel/soft/host_int.h"
#include "base/bug.h"

/* ---- recipes ---- */

unsigned jit_written(const struct insn *i)
{
	const struct insn_form *f = &insn_forms[i->form];
	unsigned w = f->gpr_w;

	for (unsigned n = 0; n < INSN_OPNDS; n++) {
		if (!(f->opnd[n].access & INSA_W))
			continue;
		switch (f->opnd[n].kind) {
		case OPND_REG:
			w |= 1u << i->reg;
			break;
		case OPND_RM:
			if (!(i->flags & INSN_MEM))
				w |= 1u << i->rm;
			break;
		case OPND_GPR_VVVV:
			w |= 1u << i->vvvv;
			break;
		case OPND_ACC:
			w |= 1u << X86_RAX;
			break;
		case OPND_DX:
			w |= 1u << X86_RDX;
			break;
		case OPND_CL:
			w |= 1u << X86_RCX;
			break;
		default:
			break;
		}
	}
	return w;
}

static unsigned writes_flags(const struct insn_form *f)
{
	return (f->fl_w | f->fl_u) & X86_FL_STATUS;
}

static bool in_host(unsigned g)
{
	return g < 16 && (g < X86_R9 || g > X86_R11);
}

/* Two register operands, or one and an immediate, of 32 or 64 bits. */
struct operands {
	bool ok, imm;
	unsigned d, s;
};

static struct operands operands_of(const struct insn *i)
{
	const struct insn_form *f = &insn_forms[i->form];
	struct operands o = { .imm = f->opnd[1].kind == OPND_IMM };

	if (i->flags & (INSN_MEM | INSN_REG_HIGH | INSN_RM_HIGH))
		return o;
	switch (f->opnd[0].kind) {
	case OPND_ACC:
		o.d = X86_RAX;
		break;
	case OPND_RM:
		o.d = i->rm;
		o.s = i->reg;
		break;
	case OPND_REG:
		o.d = i->reg;
		o.s = i->rm;
		break;
	default:
		return o;
	}
	if (!o.imm && f->opnd[1].kind != OPND_REG && f->opnd[1].kind != OPND_RM)
		return o;
	o.ok = in_host(o.d) && (o.imm || in_host(o.s));
	return o;
}

/* ADD or SUB of registers that hold the result. */
static bool recipe_add(const struct insn *i, struct jrecipe *r)
{
	struct operands o = operands_of(i);
	bool sub = insn_forms[i->form].sop == SOP_SUB;
	int64_t imm = (int64_t)i->imm;

	if (!o.ok || i->opsize < 4)
		return false;
	r->d = (uint8_t)o.d;
	r->s = (uint8_t)o.s;
	r->takes = (uint16_t)(1u << o.d);
	if (o.imm) {
		if (imm <= INT32_MIN || imm > INT32_MAX)
			return false;
		r->kind = sub ? JRE_SUB_IMM : JRE_ADD_IMM;
		r->imm = (int32_t)imm;
		return true;
	}
	if (o.d == X86_RSP || o.s == X86_RSP)
		return false;
	if (o.d == o.s) {
		r->kind = JRE_ZERO;
		r->takes = 0;
		return sub;
	}
	r->kind = sub ? JRE_SUB : JRE_ADD;
	r->takes |= (uint16_t)(1u << o.s);
	return true;
}

/* AND, OR, XOR: flags are the result's alone. */
static bool recipe_logic(const struct insn *i, struct jrecipe *r)
{
	const struct insn_form *f = &insn_forms[i->form];
	struct operands o = operands_of(i);
	unsigned d = f->opnd[0].kind == OPND_ACC  ? X86_RAX
		     : f->opnd[0].kind == OPND_RM ? i->rm
						  : i->reg;

	if (i->opsize < 4 || (f->opnd[0].kind == OPND_RM && i->flags & INSN_MEM) || !in_host(d) ||
	    d == X86_RSP)
		return false;
	r->d = (uint8_t)d;
	if (f->sop == SOP_XOR && o.ok && !o.imm && o.d == o.s) {
		r->kind = JRE_ZERO;
		return true;
	}
	r->kind = JRE_RESULT;
	r->takes = (uint16_t)(1u << d);
	return true;
}

/* CMP, TEST of registers. */
static bool recipe_compare(const struct insn *i, struct jrecipe *r)
{
	struct operands o = operands_of(i);

	if (!o.ok || o.d == X86_RSP || (!o.imm && o.s == X86_RSP))
		return false;
	r->kind = JRE_AGAIN;
	r->takes = (uint16_t)(1u << o.d | (o.imm ? 0 : 1u << o.s));
	return true;
}

static bool recipe_of(const struct insn *i, struct jrecipe *r)
{
	if (i->flags & INSN_LOCK)
		return false;
	switch (insn_forms[i->form].sop) {
	case SOP_CMP:
	case SOP_TEST:
		return recipe_compare(i, r);
	case SOP_AND:
	case SOP_OR:
	case SOP_XOR:
		return recipe_logic(i, r);
	case SOP_ADD:
	case SOP_SUB:
		return recipe_add(i, r);
	default:
		return false;
	}
}

/* By how much does it move the stack pointer; false: nobody knows. */
static bool moves_sp(const struct jt *t, const struct insn *i, int *sp)
{
	const struct insn_form *f = &insn_forms[i->form];
	int word = t->is64 ? 8 : 4;

	switch (f->sop) {
	case SOP_PUSH:
	case SOP_PUSHF:
	case SOP_CALL:
		*sp -= word;
		return true;
	case SOP_POP:
		*sp += word;
		return !(jit_written(i) >> X86_RSP & 1);
	case SOP_RET:
		*sp += word + (f->opnd[0].kind == OPND_IMM ? (int)(uint16_t)i->imm : 0);
		return true;
	case SOP_LEAVE:
		return false;
	default:
		return !(jit_written(i) >> X86_RSP & 1);
	}
}

/* For the flags as they are before instruction k; false: there is none. */
static bool recipe_find(const struct jt *t, unsigned k, struct jrecipe *r)
{
	unsigned written = 0;
	bool sp_known = true;

	*r = (struct jrecipe){ .kind = JRE_ZERO };
	while (k-- > 0) {
		const struct insn *i = &t->insn[k];
		const struct insn_form *f = &insn_forms[i->form];

		if (writes_flags(f)) {
			r->at = (uint8_t)k;
			if (f->flags & INSF_FL_COND || t->live[k] & ~writes_flags(f) ||
			    !recipe_of(i, r))
				return false;
			if (r->takes >> X86_RSP & 1)
				return sp_known && !(r->takes & ~BIT(X86_RSP) & written);
			r->sp = 0;
			return !(r->takes & written);
		}
		if (f->class == INSC_STR || f->class == INSC_SYS)
			return false;
		written |= jit_written(i);
		if (!moves_sp(t, i, &r->sp))
			sp_known = false;
	}
	return false;
}

/* The number of a recipe in the block's list; 0: it is full. */
static unsigned recipe_add_to(struct jt *t, const struct jrecipe *r)
{
	for (unsigned n = 0; n < t->nrecipe; n++)
		if (t->recipe[n].at == r->at && t->recipe[n].sp == r->sp)
			return n + 1;
	if (t->nrecipe == JT_RECIPES)
		return 0;
	t->recipe[t->nrecipe++] = *r;
	return t->nrecipe;
}

static void emit_recipe(struct jt *t, const struct jrecipe *r, unsigned scratch, int sp_add)
{
	const struct insn *i = &t->insn[r->at];
	struct jbuf *b = &t->b;
	unsigned w = i->opsize == 8, d = r->d == X86_RSP ? (unsigned)HR_SP : r->d;
	int sp = r->d == X86_RSP ? sp_add - r->sp : 0;

	switch (r->kind) {
	case JRE_ZERO:
		e_rr(b, 0, 0x29, scratch, scratch);
		break;
	case JRE_AGAIN:
		jit_again(t, i);
		break;
	case JRE_RESULT:
		e_rr(b, w, 0x85, d, d);
		break;
	case JRE_ADD_IMM:
	case JRE_SUB_IMM: {
		bool sub = r->kind == JRE_SUB_IMM;

		/* lea scratch, [d -+ imm]; add or sub scratch, imm */
		e_rm(b, w, 0x8d, scratch, (int)d, -1, 0, sp + (sub ? r->imm : -r->imm));
		e_rr(b, w, 0x81, sub ? 5 : 0, scratch);
		e4(b, (uint32_t)r->imm);
		break;
	}
	case JRE_ADD:
		/* mov scratch, d; sub scratch, s; add scratch, s */
		e_rr(b, w, 0x89, d, scratch);
		e_rr(b, w, 0x29, r->s, scratch);
		e_rr(b, w, 0x01, r->s, scratch);
		break;
	case JRE_SUB:
		/* lea scratch, [d + s]; sub scratch, s */
		e_rm(b, w, 0x8d, scratch, (int)d, r->s, 0, 0);
		e_rr(b, w, 0x29, r->s, scratch);
		break;
	}
}

void jt_recipes(struct jt *t)
{
	for (unsigned n = 0; n < t->nrecipe; n++) {
		jt_mark(t, PPART_SAVE_FLAGS, t->recipe[n].at);
		t->recipe[n].code = t->b.p;
		emit_recipe(t, &t->recipe[n], HR_T1, 0);
		jit_emit_save_flags(&t->b);
		e1(&t->b, 0xc3);
	}
}

/* ---- where they are ---- */

void jt_flags_mem(struct jt *t)
{
	if (t->fl_mem)
		return;
	if (!t->fl_host)
		jt_flags_host(t);
	jt_mark(t, PPART_SAVE_FLAGS, t->at);
	jit_emit_save_flags(&t->b);
	jt_mark(t, PPART_BODY, t->at);
	jt_clobber(t, HR_T1);
	t->fl_mem = true;
}

void jt_flags_host_by(struct jt *t, unsigned scratch)
{
	struct jrecipe r;

	if (t->fl_host)
		return;
	BUG_ON(!t->fl_mem && !t->fl_lazy);
	jt_mark(t, PPART_LOAD_FLAGS, t->at);
	if (t->fl_lazy && recipe_find(t, t->at, &r))
		emit_recipe(t, &r, scratch, t->sp_add);
	else if (t->fl_mem)
		jit_emit_load_flags(&t->b, scratch);
	else
		BUG_ON(true);
	jt_mark(t, PPART_BODY, t->at);
	jt_clobber(t, scratch);
	t->fl_host = true;
}

void jt_flags_host(struct jt *t)
{
	jt_flags_host_by(t, HR_T1);
}

void jt_flags_written(struct jt *t)
{
	t->fl_host = true;
	t->fl_mem = t->fl_lazy = false;
}

/* Are the flags that instruction k finds of no use when it is done? */
static bool flags_end(const struct jt *t, unsigned k)
{
	const struct insn_form *f = &insn_forms[t->insn[k].form];
	unsigned kill = f->flags & INSF_FL_COND ? 0 : writes_flags(f);

	return !(t->live[k] & ~kill);
}

void jt_flags_keep(struct jt *t)
{
	unsigned k = t->at;
	struct jrecipe r;

	if (!t->live_in || t->fl_mem)
		return;
	if (recipe_find(t, k, &r) && recipe_add_to(t, &r) &&
	    (flags_end(t, k) || recipe_find(t, k + 1, &r)))
		t->fl_lazy = true;
	else
		jt_flags_mem(t);
}

void jt_flags_before(struct jt *t)
{
	unsigned k = t->at;
	struct jrecipe r;

	if (!t->fl_lazy || t->fl_host || t->fl_mem || flags_end(t, k) || recipe_find(t, k + 1, &r))
		return;
	jt_flags_mem(t);
}

void jt_flags_after(struct jt *t)
{
	struct jrecipe r;

	if (t->fl_lazy && !recipe_find(t, t->at + 1, &r))
		t->fl_lazy = false;
}

unsigned jt_recipe(struct jt *t, unsigned k)
{
	struct jrecipe r;

	return recipe_find(t, k, &r) ? recipe_add_to(t, &r) : 0;
}
