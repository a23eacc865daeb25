/*
 * Which memory accesses of a block share one look-up.
 *
 * Two accesses whose addresses differ by a constant (a run of pushes, fields of a struct, a frame's
 * locals) are mostly in one page.  The first of such a group looks all of its bytes up at once and
 * keeps the host address in scpu.jit_host[]; the others use that.  What was looked up holds until
 * the block is left, as translations only change in C.
 *
 * Where the group's bytes lie in two pages, or one of them cannot be had, the block is left at the
 * first access for a translation of the rest that has no groups (JM_SINGLE).
 *
 * Addresses are compared by what they are made of: each general register holds a value `root` that
 * is not looked into, plus a constant.
 */
#include "accel/soft/jit/jit_int.h"

#include "accel/soft/code_int.h"
#include "base/num.h"

#include <string.h>

enum {
	/* Bytes of a group: it crosses a page that often per 4096. */
	PLAN_SPAN = 256,
	ROOT_RIP = 16,
	ROOT_NONE,
	ROOT_FIRST,
};

/* A value: what root stands for, plus off. */
struct value {
	uint32_t root;
	int64_t off;
};

struct access {
	uint32_t base, index;
	/* Changes where address translation or a segment base does. */
	uint16_t epoch;
	uint8_t scale, seg;
	uint8_t insn, which;
	bool write, taken;
	unsigned size;
	int64_t off;
};

struct plan {
	struct jt *t;
	struct value reg[16];
	uint32_t next_root;
	uint16_t epoch;
	unsigned n;
	struct access a[2 * SOFT_BLOCK_MAX];
};

static int word(const struct plan *p)
{
	return p->t->is64 ? 8 : 4;
}

static struct value plus(const struct plan *p, struct value v, int64_t n)
{
	v.off = p->t->is64 ? (int64_t)((uint64_t)v.off + (uint64_t)n)
			   : (int32_t)((uint32_t)v.off + (uint32_t)n);
	return v;
}

static void set_unknown(struct plan *p, unsigned g)
{
	p->reg[g] = (struct value){ p->next_root++, 0 };
}

static struct value value_of(const struct plan *p, unsigned g)
{
	if (g < 16)
		return p->reg[g];
	return (struct value){ g == SREG_RIP ? ROOT_RIP : ROOT_NONE, 0 };
}

/* ---- accesses ---- */

static void add_access(struct plan *p, unsigned k, unsigned which, struct access a)
{
	a.insn = (uint8_t)k;
	a.which = (uint8_t)which;
	a.epoch = p->epoch;
	p->a[p->n++] = a;
}

static void add_stack(struct plan *p, unsigned k, unsigned g, int disp, bool write)
{
	struct value v = plus(p, p->reg[g], disp);

	add_access(p, k, JACC_STACK,
		   (struct access){
			   .base = v.root,
			   .index = ROOT_NONE,
			   /* The stack segment's base is 0 (can_stack()). */
			   .seg = 0xff,
			   .write = write,
			   .size = (unsigned)word(p),
			   .off = v.off,
		   });
}

static void add_mem(struct plan *p, unsigned k)
{
	const struct jt *t = p->t;
	const struct insn *i = &t->insn[k];
	const struct insn_form *f = &insn_forms[i->form];
	unsigned size = insn_size_bytes(f->mem_size, i->opsize, t->c->code_size);
	struct value base = value_of(p, i->base), index = value_of(p, i->index), v;

	if (!(i->flags & INSN_MEM) || f->mem_access == INSA_NONE || !size)
		return;
	/* Those that look at the address themselves. */
	if (i->flags & INSN_LOCK || f->sop == SOP_XCHG || i->adsize != (unsigned)word(p) ||
	    (f->flags & INSF_BITSTR && f->opnd[1].kind == OPND_REG))
		return;
	if (i->disp > INT32_MAX - PLAN_SPAN || i->disp < INT32_MIN + PLAN_SPAN)
		return;
	v = plus(p, base, i->disp);
	v = plus(p, v, (int64_t)((uint64_t)index.off << i->scale));
	add_access(p, k, JACC_MEM,
		   (struct access){
			   .base = v.root,
			   .index = index.root,
			   .scale = index.root == ROOT_NONE ? 0 : i->scale,
			   .seg = t->mode >> (JM_BASE0_SHIFT + i->seg) & 1 ? 0xff : i->seg,
			   .write = f->mem_access & INSA_W,
			   .size = size,
			   .off = v.off,
		   });
}

/* ---- registers ---- */

/* ADD, SUB, INC, DEC, LEA, MOV: does it make a register a constant away from another? */
static bool step_const(struct plan *p, const struct insn *i)
{
	const struct insn_form *f = &insn_forms[i->form];
	bool imm = f->opnd[1].kind == OPND_IMM, rm = f->opnd[0].kind == OPND_RM;
	unsigned to = rm ? i->rm : i->reg;
	int64_t n = (int64_t)i->imm;

	if (i->opsize != (unsigned)word(p))
		return false;
	if (f->sop == SOP_LEA) {
		if (i->adsize != (unsigned)word(p) || i->index != SREG_NONE)
			return false;
		p->reg[i->reg] = plus(p, value_of(p, i->base), i->disp);
		return true;
	}
	if (i->flags & INSN_MEM || (!rm && f->opnd[0].kind != OPND_REG))
		return false;
	switch (f->sop) {
	case SOP_MOV:
		if (f->opnd[1].kind != OPND_REG && f->opnd[1].kind != OPND_RM)
			return false;
		p->reg[to] = p->reg[rm ? i->reg : i->rm];
		return true;
	case SOP_ADD:
	case SOP_SUB:
		if (!imm)
			return false;
		p->reg[to] = plus(p, p->reg[to], f->sop == SOP_ADD ? n : -n);
		return true;
	case SOP_INC:
	case SOP_DEC:
		p->reg[to] = plus(p, p->reg[to], f->sop == SOP_INC ? 1 : -1);
		return true;
	default:
		return false;
	}
}

static void set_written(struct plan *p, const struct insn *i)
{
	for (unsigned w = jit_written(i); w; w &= w - 1)
		set_unknown(p, (unsigned)__builtin_ctz(w));
}

static void step_stack(struct plan *p, unsigned k, unsigned sop)
{
	const struct insn *i = &p->t->insn[k];

	switch (sop) {
	case SOP_PUSH:
	case SOP_PUSHF:
	case SOP_CALL:
		add_stack(p, k, X86_RSP, -word(p), true);
		p->reg[X86_RSP] = plus(p, p->reg[X86_RSP], -word(p));
		break;
	case SOP_LEAVE:
		add_stack(p, k, X86_RBP, 0, false);
		p->reg[X86_RSP] = plus(p, p->reg[X86_RBP], word(p));
		set_unknown(p, X86_RBP);
		break;
	default:
		/* POP; RET, after which nothing follows. */
		add_stack(p, k, X86_RSP, 0, false);
		p->reg[X86_RSP] = plus(p, p->reg[X86_RSP], word(p));
		set_written(p, i);
		break;
	}
}

static void step(struct plan *p, unsigned k)
{
	const struct insn *i = &p->t->insn[k];
	const struct insn_form *f = &insn_forms[i->form];

	add_mem(p, k);
	switch (f->sop) {
	case SOP_PUSH:
	case SOP_PUSHF:
	case SOP_CALL:
	case SOP_POP:
	case SOP_RET:
	case SOP_LEAVE:
		step_stack(p, k, f->sop);
		return;
	case SOP_STAC:
	case SOP_CLAC:
	case SOP_SWAPGS:
		p->epoch++;
		return;
	default:
		break;
	}
	if (f->class == INSC_INT && step_const(p, i))
		return;
	set_written(p, i);
	/* Registers that are named by no operand. */
	if (f->class == INSC_STR || f->class == INSC_SYS)
		for (unsigned g = 0; g < 16; g++)
			if (g != X86_RSP)
				set_unknown(p, g);
}

/* ---- groups ---- */

static bool same_place(const struct access *a, const struct access *b)
{
	return a->base == b->base && a->index == b->index && a->epoch == b->epoch &&
	       a->scale == b->scale && a->seg == b->seg;
}

/* Those that follow a and are near enough; false: there are none. */
static bool group_of(struct plan *p, unsigned n)
{
	struct jt *t = p->t;
	struct access *a = &p->a[n];
	int64_t lo = a->off, hi = a->off + a->size;
	uint8_t member[2 * SOFT_BLOCK_MAX];
	unsigned members = 0;
	bool write = false;

	for (unsigned m = n; m < p->n; m++) {
		struct access *b = &p->a[m];
		int64_t l = MIN(lo, b->off), h = MAX(hi, b->off + b->size);

		if (b->taken || !same_place(a, b) || h - l > PLAN_SPAN)
			continue;
		lo = l;
		hi = h;
		write |= b->write;
		member[members++] = (uint8_t)m;
	}
	if (members < 2)
		return false;
	struct jgroup *g = &t->group[t->ngroup];
	*g = (struct jgroup){ .write = write };
	while (1 << g->log < hi - lo)
		g->log++;
	for (unsigned m = 0; m < members; m++) {
		struct access *b = &p->a[member[m]];

		b->taken = true;
		t->acc[b->insn][b->which] =
			(struct jaccess){ m ? JACC_NEXT : JACC_FIRST, (uint8_t)t->ngroup,
					  (uint16_t)(b->off - lo) };
	}
	t->ngroup++;
	return true;
}

void jit_plan(struct jt *t)
{
	struct plan p = { .t = t, .next_root = ROOT_FIRST };

	memset(t->acc, 0, sizeof(t->acc));
	t->ngroup = 0;
	if (t->mode & JM_SINGLE)
		return;
	for (unsigned g = 0; g < 16; g++)
		set_unknown(&p, g);
	for (unsigned k = 0; k < t->n && t->can[k]; k++)
		step(&p, k);
	for (unsigned n = 0; n < p.n && t->ngroup < JIT_GROUPS; n++)
		if (!p.a[n].taken)
			(void)group_of(&p, n);
}
