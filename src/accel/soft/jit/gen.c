/*
 * One guest instruction to host code.
 *
 * Most are copied: same opcode, same registers but for those that live elsewhere (jit_int.h), the
 * memory operand replaced by [r10], which the look-up in the translation cache made a host address.
 * Flow, the stack and a few more are written by functions of their own.  What is left, jit_can()
 * refuses; the interpreter does it.
 *
 * Each instruction is all or nothing: until its last access has succeeded nothing of the guest's
 * changes, so leaving at any look-up lets the interpreter begin it anew.
 */
#include "accel/soft/jit/jit_int.h"

#include "accel/soft/host_int.h"
#include "base/bug.h"

#include <string.h>

/* ---- operands ---- */

/* Is guest register g in memory? */
static bool in_memory(unsigned g)
{
	return g == X86_R9 || g == X86_R10 || g == X86_R11;
}

static unsigned home(unsigned g)
{
	return g == X86_RSP ? (unsigned)HR_SP : g;
}

static bool has_mem(const struct insn *i)
{
	return i->flags & INSN_MEM;
}

/* A general register operand of a form, and what is done with it. */
struct opreg {
	bool used, byte, high;
	/* All of it is written and nothing read. */
	bool set;
	uint8_t g, access;
};

struct opregs {
	struct opreg reg, rm, vvvv;
	/* ModRM.reg, rm and VEX.vvvv where they are no general registers. */
	uint8_t raw_reg, raw_rm, raw_vvvv;
};

static void opreg_add(struct opreg *o, unsigned g, const struct insn *i, const struct insn_opnd *k,
		      bool high)
{
	o->used = true;
	o->g = (uint8_t)g;
	o->access |= k->access;
	o->byte = k->size == 1 || (k->size == INSZ_OP && i->opsize == 1);
	o->set = o->access == INSA_W && (k->size == INSZ_OP ? i->opsize : k->size) >= 4;
	o->high = high;
}

static struct opregs opregs(const struct insn *i)
{
	const struct insn_form *f = &insn_forms[i->form];
	struct opregs r = { .raw_reg = i->modrm >> 3 & 7, .raw_rm = i->modrm & 7 };

	for (unsigned n = 0; n < INSN_OPNDS; n++) {
		const struct insn_opnd *o = &f->opnd[n];

		switch (o->kind) {
		case OPND_REG:
			opreg_add(&r.reg, i->reg, i, o, i->flags & INSN_REG_HIGH);
			/* Of its operand size, which is the source's, the destination is not. */
			if (f->sop == SOP_CRC32)
				r.reg.byte = false;
			break;
		case OPND_RM:
			if (!has_mem(i))
				opreg_add(&r.rm, i->rm, i, o, i->flags & INSN_RM_HIGH);
			break;
		case OPND_GPR_VVVV:
			opreg_add(&r.vvvv, i->vvvv, i, o, false);
			break;
		case OPND_XMM_REG:
		case OPND_MM_REG:
			r.raw_reg = i->reg;
			break;
		case OPND_XMM_RM:
		case OPND_MM_RM:
			r.raw_rm = i->rm;
			break;
		case OPND_XMM_VVVV:
			r.raw_vvvv = i->vvvv;
			break;
		default:
			break;
		}
	}
	return r;
}

bool jit_uses_vec(const struct insn *i)
{
	return insn_forms[i->form].flags & (INSF_SSE | INSF_AVX);
}

bool jit_uses_x87(const struct insn *i)
{
	return insn_forms[i->form].flags & (INSF_X87 | INSF_MMX);
}

/* ---- what can be translated ---- */

static bool can_operands(const struct insn_form *f)
{
	for (unsigned n = 0; n < INSN_OPNDS; n++) {
		switch (f->opnd[n].kind) {
		case OPND_FAR:
		case OPND_SREG:
		case OPND_CR:
		case OPND_DR:
		case OPND_STR_SRC:
		case OPND_STR_DST:
		case OPND_XLAT:
		case OPND_MASKMOV:
		case OPND_VSIB:
			return false;
		default:
			break;
		}
	}
	return true;
}

/* Is the unit switched on for this mode, and the instruction nothing special? */
static bool can_unit(const struct jt *t, const struct insn *i)
{
	const struct insn_form *f = &insn_forms[i->form];

	if (f->flags & INSF_AVX && !(t->mode & JM_AVX && host_facts.avx))
		return false;
	if (f->flags & INSF_SSE && !(f->flags & INSF_AVX) && !(t->mode & JM_SSE))
		return false;
	if (f->flags & (INSF_X87 | INSF_MMX) && !(t->mode & JM_X87))
		return false;
	return f->mem_size != INSZ_FPENV && f->mem_size != INSZ_FPSTATE && f->mem_size != INSZ_FX &&
	       f->mem_size != INSZ_XSAVE && f->mem_size != INSZ_TABLE && f->mem_size != INSZ_FAR;
}

static bool can_mem(const struct jt *t, const struct insn *i)
{
	const struct insn_form *f = &insn_forms[i->form];
	int64_t d = i->disp;

	if (!has_mem(i))
		return true;
	if (i->adsize == 2 || (d != (int32_t)d && i->base != SREG_NONE))
		return false;
	if (f->flags & INSF_BITSTR && f->opnd[1].kind == OPND_REG && i->opsize == 2)
		return false;
	if (f->mem_access & INSA_W && !(t->mode >> (JM_WR_SHIFT + i->seg) & 1))
		return false;
	return t->mode >> (JM_RD_SHIFT + i->seg) & 1;
}

/* The stack as wide as it usually is. */
static bool can_stack(const struct jt *t, const struct insn *i)
{
	return i->opsize == (t->is64 ? 8 : 4) && t->mode >> (JM_WR_SHIFT + X86_SS) & 1 &&
	       t->mode >> (JM_BASE0_SHIFT + X86_SS) & 1;
}

static bool can_flow(const struct jt *t, const struct insn *i, unsigned sop)
{
	if (i->opsize != (t->is64 ? 8 : 4) || !can_mem(t, i))
		return false;
	if (sop == SOP_CALL || sop == SOP_RET)
		return can_stack(t, i);
	/* The counter of 16 bits. */
	return i->adsize != 2;
}

static bool can_special(const struct jt *t, const struct insn *i, unsigned sop)
{
	const struct insn_form *f = &insn_forms[i->form];

	switch (sop) {
	case SOP_PUSH:
	case SOP_POP:
		return can_stack(t, i) && (sop == SOP_PUSH || !has_mem(i)) &&
		       f->opnd[0].kind != OPND_SREG && can_mem(t, i);
	case SOP_LEAVE:
		return can_stack(t, i);
	default:
		return false;
	}
}

/* MOV from a segment register to a general one. */
static bool is_get_sreg(const struct insn *i)
{
	const struct insn_form *f = &insn_forms[i->form];

	return f->sop == SOP_MOV && f->opnd[1].kind == OPND_SREG && !has_mem(i);
}

static bool can_class(const struct jt *t, const struct insn *i)
{
	const struct insn_form *f = &insn_forms[i->form];

	if (is_get_sreg(i))
		return i->opsize != 2;
	switch (f->sop) {
	case SOP_PUSHA:
	case SOP_POPA:
	case SOP_ENTER:
	case SOP_XLAT:
	case SOP_BOUND:
	case SOP_DAA:
	case SOP_DAS:
	case SOP_AAA:
	case SOP_AAS:
	case SOP_AAM:
	case SOP_AAD:
	case SOP_SALC:
		return false;
	case SOP_VZEROUPPER:
	case SOP_VZEROALL:
		/* Of 32-bit code: eight registers only. */
		return t->is64 && can_unit(t, i);
	case SOP_VPEXTRD:
	case SOP_VPINSRD:
		/* VEX.W in 32-bit code: vendors differ. */
		if (!t->is64 && i->flags & INSN_REXW)
			return false;
		break;
	default:
		break;
	}
	if (f->flags & INSF_MASKED || !can_operands(f) || !can_unit(t, i) || !can_mem(t, i))
		return false;
	return !(f->flags & INSF_STACK) || can_special(t, i, f->sop);
}

/* AH and the like cannot be named together with what needs a REX prefix. */
static bool can_high(const struct insn *i)
{
	struct opregs r;

	if (!(i->flags & (INSN_REG_HIGH | INSN_RM_HIGH)))
		return true;
	/* AH is named as AL for a moment, which CMPXCHG and an address may have a use for. */
	if (has_mem(i))
		return (insn_forms[i->form].sop != SOP_CMPXCHG || i->reg != X86_RAX) &&
		       i->base != i->reg;
	r = opregs(i);
	return (!r.reg.used || (!in_memory(r.reg.g) && home(r.reg.g) < 8)) &&
	       (!r.rm.used || (!in_memory(r.rm.g) && home(r.rm.g) < 8));
}

/* Scratch registers are two, and one of them is the address. */
static bool can_scratch(const struct insn *i)
{
	struct opregs r = opregs(i);
	unsigned n = has_mem(i) ? 1 : 0;

	n += r.reg.used && in_memory(r.reg.g);
	n += r.rm.used && in_memory(r.rm.g);
	n += r.vvvv.used && in_memory(r.vvvv.g);
	return n <= 2;
}

static bool can_string(const struct jt *t, const struct insn *i, unsigned sop)
{
	return (sop == SOP_MOVS || sop == SOP_STOS) && t->is64 && i->adsize == 8 &&
	       t->mode >> (JM_BASE0_SHIFT + i->seg) & 1;
}

static bool can_system(const struct jt *t, const struct insn *i, unsigned sop)
{
	switch (sop) {
	case SOP_PUSHF:
		return can_stack(t, i);
	case SOP_CLI:
	case SOP_STI:
		return !(t->mode & JM_USER);
	case SOP_RDTSC:
	case SOP_RDTSCP:
		return t->mode & JM_TSC;
	case SOP_PAUSE:
		return true;
	case SOP_SWAPGS:
		return t->is64 && !(t->mode & JM_USER);
	case SOP_STAC:
	case SOP_CLAC:
		return !(t->mode & JM_USER);
	case SOP_SYSCALL:
		return t->is64;
	case SOP_SYSRET:
		return t->is64 && !(t->mode & JM_USER) && i->opsize == 8;
	default:
		return false;
	}
}

bool jit_can(const struct jt *t, const struct insn *i)
{
	const struct insn_form *f = &insn_forms[i->form];

	if (!t->j->feat[f->feat])
		return false;
	switch (f->class) {
	case INSC_FLOW:
		return can_flow(t, i, f->sop);
	case INSC_STR:
		return can_string(t, i, f->sop);
	case INSC_SYS:
		return can_system(t, i, f->sop);
	case INSC_INT:
	case INSC_HOST:
		return can_class(t, i) && can_high(i) && can_scratch(i);
	default:
		return false;
	}
}

/* ---- memory ---- */

/* The address of the memory operand into `to`; r10 and r11 may change, the flags do not. */
static void gen_address(struct jt *t, const struct insn *i, unsigned w, unsigned to)
{
	struct jbuf *b = &t->b;
	int base = -1, index = -1;
	int64_t disp = i->disp;

	t->hold_reg = 0;
	if (i->base == SREG_RIP) {
		e_env(b, 1, 0x8b, HR_T0, JOFF(jit_page));
		base = HR_T0;
	} else if (i->base != SREG_NONE && in_memory(i->base)) {
		e_env(b, 1, 0x8b, HR_T0, joff_gpr(i->base));
		base = HR_T0;
	} else if (i->base != SREG_NONE) {
		base = (int)home(i->base);
	}
	if (i->index != SREG_NONE && in_memory(i->index)) {
		e_env(b, 1, 0x8b, HR_T1, joff_gpr(i->index));
		index = HR_T1;
	} else if (i->index != SREG_NONE) {
		index = (int)home(i->index);
	}
	if (base < 0 && index < 0)
		e_mov_imm(b, to, (uint64_t)disp & i->ea_mask & (w ? UINT64_MAX : UINT32_MAX));
	else if (index < 0 && !disp)
		e_rr(b, w, 0x8b, to, (unsigned)base);
	else
		e_rm(b, w, 0x8d, to, base, index, i->scale, (int32_t)disp);
}

/* The linear address of the memory operand into r10, but for a segment base. */
static void gen_lin(struct jt *t, const struct insn *i)
{
	gen_address(t, i, i->adsize == 8, HR_T0);
}

static void gen_seg(struct jt *t, unsigned seg)
{
	if (!(t->mode >> (JM_BASE0_SHIFT + seg) & 1))
		e_env(&t->b, t->is64, 0x03, HR_T0, JOFF(sbase) + 8ul * seg);
}

/*
 * A memory operand that can be accessed: [base + index + disp] on the host.  Two forms:
 *	simple	the guest's base register and displacement, and in r11 what leads from there to the
 *		host; the access does not wait for the check, and r10 is free
 *	else	r10 is the host address, and r11 is free
 */
struct jmem {
	int base, index;
	int32_t disp;
	unsigned scratch;
};

static void e_mem(struct jbuf *b, unsigned w, unsigned op, unsigned reg, const struct jmem *m)
{
	e_rm(b, w, op, reg, m->base, m->index, 0, m->disp);
}

/*
 * r10: a linear address.  Look `size` bytes there up; the flags are lost, so the caller has seen to
 * those that are still wanted.  A miss is filled and goes on after the look-up, or at `again`.
 */
static void gen_check(struct jt *t, unsigned k, unsigned size, bool write, uint8_t *again)
{
	struct jbuf *b = &t->b;
	unsigned mmu = t->mode >> JM_MMU_SHIFT & 3, log = 0;
	size_t set = JOFF(tlbs) + mmu * sizeof(struct stlb_set) +
		     (write ? offsetof(struct stlb_set, w) : 0);

	while (1u << log < size)
		log++;
	jt_mark(t, PPART_LOOKUP, k);
	if (t->j->bmi2) {
		/* rorx r11, r10, 8 */
		E_STR(b, "\xc4\x43\xfb\xf0\xda\x08");
	} else {
		/* mov r11, r10; shr r11, 8 */
		E_STR(b, "\x4d\x89\xd3\x49\xc1\xeb\x08");
	}
	/* and r11d, (STLB_SIZE - 1) * 16 */
	E_STR(b, "\x41\x81\xe3");
	e4(b, (STLB_SIZE - 1) * (uint32_t)sizeof(struct stlb));
	/* xor r10, [r11 + tag]; cmp r10, 4096 - size; ja */
	e_env_r11(b, 1, 0x33, HR_T0, set + offsetof(struct stlb, tag));
	E_STR(b, "\x49\x81\xfa");
	e4(b, 4096 - size);
	uint8_t *miss = e_jcc(b, E_CC_A, NULL);
	struct jcold *c =
		jt_cold(t, write ? JCOLD_FILL_W : JCOLD_FILL_R, miss, jit_desc(t->block, k, log));
	c->tags = (uint32_t)(set + offsetof(struct stlb, tag));
	if (again) {
		/* mov r11, [r11 + addend] */
		e_env_r11(b, 1, 0x8b, HR_T1, set + offsetof(struct stlb, addend));
		c->back = again;
	} else {
		/* add r10, [r11 + tag]; add r10, [r11 + addend] */
		e_env_r11(b, 1, 0x03, HR_T0, set + offsetof(struct stlb, tag));
		e_env_r11(b, 1, 0x03, HR_T0, set + offsetof(struct stlb, addend));
		c->back = b->p;
	}
	jt_mark(t, PPART_BODY, k);
	t->fl_host = false;
	t->hold_reg = 0;
}

/* r10: a linear address; becomes the host address. */
static struct jmem gen_lookup(struct jt *t, unsigned k, unsigned size, bool write)
{
	gen_check(t, k, size, write, NULL);
	return (struct jmem){ .base = HR_T0, .index = -1, .scratch = HR_T1 };
}

/* By a host register that is the guest's, and a displacement; in 64-bit code. */
static struct jmem gen_lookup_base(struct jt *t, unsigned k, unsigned base, int32_t disp,
				   unsigned size, bool write)
{
	uint8_t *again = t->b.p;

	if (disp)
		e_rm(&t->b, 1, 0x8d, HR_T0, (int)base, -1, 0, disp);
	else
		e_rr(&t->b, 1, 0x8b, HR_T0, base);
	gen_check(t, k, size, write, again);
	return (struct jmem){ (int)base, HR_T1, disp, HR_T0 };
}

static bool is_simple(const struct jt *t, const struct insn *i)
{
	return t->is64 && i->adsize == 8 && i->base < 16 && !in_memory(i->base) &&
	       i->index == SREG_NONE && t->mode >> (JM_BASE0_SHIFT + i->seg) & 1;
}

/* A LOCK across cache lines stops the host; the interpreter stops the guest instead. */
static void gen_check_aligned(struct jt *t, unsigned k, unsigned size)
{
	if (size == 1)
		return;
	/* test r10b, size - 1; jnz */
	E_STR(&t->b, "\x41\xf6\xc2");
	e1(&t->b, size - 1);
	jt_cold(t, JCOLD_INTERP, e_jcc(&t->b, E_CC_NZ, NULL), jit_desc(t->block, k, 0));
}

/*
 * The first access of a group: its bytes are looked up; base and disp, or (base < 0) the linear
 *address in r10, are those of its first byte.
 */
static struct jmem gen_group(struct jt *t, unsigned k, const struct jaccess *a, int base,
			     int32_t disp)
{
	const struct jgroup *g = &t->group[a->group];
	struct jbuf *b = &t->b;
	uint8_t *again = base < 0 ? NULL : b->p;
	unsigned r = HR_T0;

	if (base >= 0)
		e_rm(b, 1, 0x8d, HR_T0, base, -1, 0, disp);
	gen_check(t, k, 1u << g->log, g->write, again);
	struct jcold *c = &t->cold[t->ncold - 1];
	c->kind = g->write ? JCOLD_GROUP_W : JCOLD_GROUP_R;
	c->exit = jt_exit_single(t, k);
	if (base >= 0) {
		/* lea r11, [base + r11 + disp] */
		r = HR_T1;
		e_rm(b, 1, 0x8d, r, base, HR_T1, 0, disp);
	}
	e_env(b, 1, 0x89, r, JOFF(jit_host) + 8ul * a->group);
	t->hold_reg = r;
	t->hold = a->group;
	return (struct jmem){ (int)r, -1, a->off, r ^ HR_T0 ^ HR_T1 };
}

/* Another one of a group; the flags stay as they are. */
static struct jmem gen_shared(struct jt *t, const struct jaccess *a)
{
	if (!t->hold_reg || t->hold != a->group) {
		e_env(&t->b, 1, 0x8b, HR_T1, JOFF(jit_host) + 8ul * a->group);
		t->hold_reg = HR_T1;
		t->hold = a->group;
	}
	return (struct jmem){ (int)t->hold_reg, -1, a->off, t->hold_reg ^ HR_T0 ^ HR_T1 };
}

static struct jmem gen_mem(struct jt *t, unsigned k)
{
	const struct insn *i = &t->insn[k];
	const struct insn_form *f = &insn_forms[i->form];
	unsigned size = insn_size_bytes(f->mem_size, i->opsize, t->c->code_size);
	bool write = f->mem_access & INSA_W;
	const struct jaccess *a = &t->acc[k][JACC_MEM];
	struct jmem m;

	if (a->kind == JACC_NEXT)
		return gen_shared(t, a);
	jt_flags_keep(t);
	if (a->kind == JACC_FIRST) {
		struct insn first = *i;

		first.disp -= a->off;
		if (is_simple(t, i))
			return gen_group(t, k, a, (int)home(i->base), (int32_t)first.disp);
		gen_lin(t, &first);
		gen_seg(t, i->seg);
		return gen_group(t, k, a, -1, 0);
	}
	if (is_simple(t, i)) {
		m = gen_lookup_base(t, k, home(i->base), (int32_t)i->disp, size, write);
	} else {
		gen_lin(t, i);
		gen_seg(t, i->seg);
		m = gen_lookup(t, k, size, write);
	}
	/* Either way the lower bits of r10 are the address'. */
	if (i->flags & INSN_LOCK || f->sop == SOP_XCHG)
		gen_check_aligned(t, k, size);
	return m;
}

/* ---- copies ---- */

static bool is_plus_r(const struct insn *i)
{
	return !(i->enc & INSN_ENC_MODRM) && insn_forms[i->form].opnd[0].kind == OPND_REG;
}

static void gen_legacy_head(struct jt *t, const struct insn *i, unsigned rex)
{
	struct jbuf *b = &t->b;
	unsigned map = i->enc & INSN_ENC_MAP;

	if (i->flags & INSN_LOCK)
		e1(b, 0xf0);
	if (i->flags & INSN_66)
		e1(b, 0x66);
	if (i->flags & INSN_REP)
		e1(b, 0xf3);
	if (i->flags & INSN_REPNE)
		e1(b, 0xf2);
	if (rex)
		e1(b, rex | 0x40);
	if (map)
		e1(b, 0x0f);
	if (map > 1)
		e1(b, map == 2 ? 0x38 : 0x3a);
}

/* In 32-bit code VEX.W does not make a general register wider (SDM 2A 2.2.1, table 2-7). */
static bool vex_w(const struct jt *t, const struct insn *i)
{
	const struct insn_form *f = &insn_forms[i->form];

	if (!t->is64 && (f->sop == SOP_VPCMPESTRI || f->sop == SOP_VPCMPESTRM))
		return false;
	for (unsigned n = 0; n < INSN_OPNDS && !t->is64; n++)
		if (f->opnd[n].kind == OPND_REG || f->opnd[n].kind == OPND_RM ||
		    f->opnd[n].kind == OPND_GPR_VVVV)
			return false;
	return i->flags & INSN_REXW;
}

static void gen_vex_head(struct jt *t, const struct insn *i, unsigned reg, unsigned x, unsigned rm,
			 unsigned vvvv)
{
	struct jbuf *b = &t->b;

	e1(b, 0xc4);
	e1(b, (reg & 8 ? 0 : 0x80) | (x & 8 ? 0 : 0x40) | (rm & 8 ? 0 : 0x20) |
		      (i->enc & INSN_ENC_MAP));
	e1(b, (vex_w(t, i) ? 0x80u : 0) | (~vvvv & 15) << 3 | (i->flags & INSN_VEXL ? 4u : 0) |
		      (i->enc & INSN_ENC_PP) >> INSN_ENC_PP_SHIFT);
}

/* The immediate bytes as they are; of a register in them 32-bit code ignores the upper bit. */
static void gen_tail(struct jt *t, const struct insn *i)
{
	const struct insn_form *f = &insn_forms[i->form];

	if (f->opnd[3].kind == OPND_XMM_IS4) {
		e1(&t->b, (unsigned)i->is4 << 4 | (i->imm & 15));
		return;
	}
	e_bytes(&t->b, t->bytes + i->off + i->len - i->tail, i->tail);
}

/* Byte registers SPL to DIL have a REX prefix. */
static bool wants_rex(const struct opreg *o)
{
	return o->used && o->byte && !o->high && o->g >= 4 && o->g < 8;
}

/* Its number in the copy. */
static unsigned opreg_number(const struct opreg *o, unsigned scratch)
{
	if (o->high)
		return o->g + 4u;
	return in_memory(o->g) ? scratch : home(o->g);
}

/* The instruction itself, with these registers; m: its memory operand, or NULL. */
static void gen_encode(struct jt *t, const struct insn *i, const struct opregs *r, unsigned reg,
		       unsigned rm, unsigned vvvv, const struct jmem *m)
{
	struct jbuf *b = &t->b;
	unsigned x = m && m->index >= 0 ? (unsigned)m->index : 0, rex = 0;

	if (m)
		rm = (unsigned)m->base;
	if (i->flags & INSN_VEX) {
		gen_vex_head(t, i, reg, x, rm, vvvv);
	} else {
		rex = (i->flags & INSN_REXW ? 8u : 0) | (reg & 8) >> 1 | (x & 8) >> 2 |
		      (rm & 8) >> 3;
		if (wants_rex(&r->reg) || wants_rex(&r->rm))
			rex |= 0x40;
		gen_legacy_head(t, i, rex);
	}
	/* 82 is 80, which 64-bit code still has. */
	e1(b, i->opcode == 0x82 && !(i->enc & INSN_ENC_MAP) ? 0x80 : i->opcode);
	if (m)
		e_modrm(b, reg, m->base, m->index, 0, m->disp);
	else if (i->enc & INSN_ENC_MODRM)
		e1(b, 0xc0 | (reg & 7) << 3 | (rm & 7));
	gen_tail(t, i);
}

/* xchg low, high: AH as AL for a moment, where [r10] keeps it from being named. */
static void gen_swap_high(struct jt *t, const struct opreg *o)
{
	if (o->used && o->high)
		e_rr(&t->b, 0, 0x86, o->g, o->g + 4u);
}

static void opreg_load(struct jt *t, const struct opreg *o, unsigned scratch)
{
	if (!o->used || !in_memory(o->g))
		return;
	if (!o->set)
		e_env(&t->b, 1, 0x8b, scratch, joff_gpr(o->g));
	jt_clobber(t, scratch);
}

static void opreg_store(struct jt *t, const struct opreg *o, unsigned scratch)
{
	if (o->used && in_memory(o->g) && o->access & INSA_W)
		e_env(&t->b, 1, 0x89, scratch, joff_gpr(o->g));
}

/* May it fault on the host where it does not on the look-up? */
static bool may_fault(const struct insn *i)
{
	const struct insn_form *f = &insn_forms[i->form];

	return f->sop == SOP_DIV || f->sop == SOP_IDIV || f->flags & INSF_ALIGN ||
	       f->flags & (INSF_X87 | INSF_MMX | INSF_SSE | INSF_AVX);
}

/* Scratch registers of the three operands. */
struct scratches {
	unsigned reg, rm, vvvv;
};

/* free: those that can be had, in order, `n` of them. */
static struct scratches gen_scratches(const struct opregs *r, const unsigned *free, unsigned n)
{
	struct scratches s = { 0 };
	unsigned used = 0;

	if (r->reg.used && in_memory(r->reg.g))
		s.reg = free[used++];
	if (r->rm.used && in_memory(r->rm.g))
		s.rm = s.reg && r->rm.g == r->reg.g ? s.reg : free[used++];
	if (r->vvvv.used && in_memory(r->vvvv.g)) {
		if (s.reg && r->vvvv.g == r->reg.g)
			s.vvvv = s.reg;
		else if (s.rm && r->vvvv.g == r->rm.g)
			s.vvvv = s.rm;
		else
			s.vvvv = free[used++];
	}
	BUG_ON(used > n);
	return s;
}

static void gen_copy(struct jt *t, unsigned k)
{
	const struct insn *i = &t->insn[k];
	const struct insn_form *f = &insn_forms[i->form];
	unsigned writes = (f->fl_w | f->fl_u) & X86_FL_STATUS, reads = f->fl_r & X86_FL_STATUS;
	unsigned kill = f->flags & INSF_FL_COND ? 0 : writes;
	struct opregs r = opregs(i);
	bool mem = has_mem(i);
	struct jmem m = { .scratch = HR_T1 };

	if (mem)
		m = gen_mem(t, k);
	const unsigned free[] = { m.scratch, HR_T0 };
	struct scratches s = gen_scratches(&r, free, mem ? 1 : 2);
	/* It reads flags, or leaves some alone that are still wanted. */
	if (reads || (writes && t->live[k] & ~kill) || (may_fault(i) && t->live_in && !t->fl_mem))
		jt_flags_host_by(t, m.scratch);
	/* One scratch register for both. */
	if (s.rm && s.rm == s.reg)
		r.reg.set = r.reg.set && r.rm.set;
	if (s.vvvv && s.vvvv == s.reg)
		r.reg.set = r.reg.set && r.vvvv.set;
	opreg_load(t, &r.reg, s.reg);
	if (s.rm != s.reg || !s.rm)
		opreg_load(t, &r.rm, s.rm);
	opreg_load(t, &r.vvvv, s.vvvv);
	unsigned reg = r.raw_reg, rm = r.raw_rm, vvvv = r.raw_vvvv;
	if (mem) {
		gen_swap_high(t, &r.reg);
		r.reg.high = false;
	}
	if (r.reg.used)
		reg = opreg_number(&r.reg, s.reg);
	if (r.rm.used)
		rm = opreg_number(&r.rm, s.rm);
	if (r.vvvv.used)
		vvvv = opreg_number(&r.vvvv, s.vvvv);
	if (may_fault(i))
		jt_fault(t, k);
	gen_encode(t, i, &r, reg, rm, vvvv, mem ? &m : NULL);
	if (mem && i->flags & INSN_REG_HIGH)
		e_rr(&t->b, 0, 0x86, r.reg.g, r.reg.g + 4u);
	/* reg after vvvv: MULX to one register twice leaves the high half there. */
	opreg_store(t, &r.rm, s.rm);
	opreg_store(t, &r.vvvv, s.vvvv);
	opreg_store(t, &r.reg, s.reg);
	if (writes)
		jt_flags_written(t);
}

/* ---- forms that are not encoded as they were ---- */

/* reg (which may be in memory) = r10 or r11, or the other way. */
static void gen_put(struct jt *t, unsigned g, unsigned w, unsigned from)
{
	if (!in_memory(g)) {
		e_rr(&t->b, w, 0x89, from, home(g));
		return;
	}
	if (!w)
		e_rr(&t->b, 0, 0x89, from, from);
	e_env(&t->b, 1, 0x89, from, joff_gpr(g));
}

/* Guest register g as a host register: its own, or `scratch`, loaded. */
static unsigned gen_get(struct jt *t, unsigned g, unsigned scratch)
{
	if (!in_memory(g))
		return home(g);
	e_env(&t->b, 1, 0x8b, scratch, joff_gpr(g));
	jt_clobber(t, scratch);
	return scratch;
}

static void gen_lea(struct jt *t, const struct insn *i)
{
	unsigned w = i->opsize == 8 && i->adsize == 8;

	if (i->opsize != 2 && !in_memory(i->reg)) {
		gen_address(t, i, w, home(i->reg));
		return;
	}
	gen_lin(t, i);
	if (i->opsize != 2) {
		gen_put(t, i->reg, w, HR_T0);
		return;
	}
	/* mov r16, r10w */
	unsigned r = gen_get(t, i->reg, HR_T1);
	e1(&t->b, 0x66);
	e_rr(&t->b, 0, 0x89, HR_T0, r);
	if (in_memory(i->reg))
		e_env(&t->b, 1, 0x89, HR_T1, joff_gpr(i->reg));
}

static void gen_get_sreg(struct jt *t, const struct insn *i)
{
	t->hold_reg = 0;
	/* movzx r10d, word [sel] */
	e_env(&t->b, 0, 0x0fb7, HR_T0, JOFF(seg[0].sel) + i->reg * sizeof(struct cpu_seg));
	gen_put(t, i->rm, 0, HR_T0);
}

/* MOV r, imm; BSWAP; XCHG rAX, r; INC and DEC of one byte: a register in the opcode. */
static void gen_plus_r(struct jt *t, unsigned k)
{
	const struct insn *i = &t->insn[k];
	const struct insn_form *f = &insn_forms[i->form];
	struct jbuf *b = &t->b;
	bool byte = i->opsize == 1, high = i->flags & INSN_REG_HIGH;
	unsigned g = i->reg, w = i->opsize == 8;

	if (f->sop == SOP_INC || f->sop == SOP_DEC) {
		if (t->live[k] & X86_FL_CF)
			jt_flags_host(t);
	}
	unsigned r = high ? g + 4 : gen_get(t, g, HR_T1);
	if (i->flags & INSN_66)
		e1(b, 0x66);
	switch (f->sop) {
	case SOP_INC:
	case SOP_DEC:
		e_rr(b, w, 0xff, f->sop == SOP_DEC, r);
		jt_flags_written(t);
		break;
	case SOP_XCHG:
		e_rr(b, w, 0x87, X86_RAX, r);
		break;
	default: {
		unsigned rex = (w ? 8u : 0) | (r & 8) >> 3;

		if (byte && !high && g >= 4 && g < 8)
			rex |= 0x40;
		if (rex)
			e1(b, rex | 0x40);
		if (i->enc & INSN_ENC_MAP)
			e1(b, 0x0f);
		e1(b, (i->opcode & 0xf8) | (r & 7));
		gen_tail(t, i);
	}
	}
	if (in_memory(g))
		e_env(b, 1, 0x89, HR_T1, joff_gpr(g));
}

/* MOV between the accumulator and an address in the instruction. */
static void gen_moffs(struct jt *t, unsigned k)
{
	const struct insn *i = &t->insn[k];
	bool load = insn_forms[i->form].opnd[1].kind == OPND_MOFFS;
	struct jmem m = gen_mem(t, k);

	if (i->opsize == 2)
		e1(&t->b, 0x66);
	e_mem(&t->b, i->opsize == 8, (load ? 0x8a : 0x88) | (i->opsize > 1), X86_RAX, &m);
}

/* CLD, STD: DF is in scpu.rflags. */
static void gen_df(struct jt *t, bool set)
{
	if (t->live_in)
		jt_flags_mem(t);
	/* and, or byte [rflags + 1], imm8 */
	e_env(&t->b, 0, 0x80, set ? 1 : 4, JOFF(rflags) + 1);
	e1(&t->b, set ? 4 : 0xfb);
	t->fl_host = false;
}

/*
 * BT and the like on memory with a bit number from a register: the word that holds the bit is
 * addressed, and the number cut to the word.
 */
static void gen_bit_string(struct jt *t, unsigned k)
{
	const struct insn *i = &t->insn[k];
	const struct insn_form *f = &insn_forms[i->form];
	struct jbuf *b = &t->b;
	unsigned w = i->opsize == 8, bits = w ? 6 : 5;

	if (t->live_in)
		jt_flags_mem(t);
	gen_lin(t, i);
	gen_seg(t, i->seg);
	/* mov or movsxd r11, reg; sar r11, bits; lea r10, [r10 + r11 * size] */
	unsigned r = gen_get(t, i->reg, HR_T1);
	e_rr(b, 1, w ? 0x8b : 0x63, HR_T1, r);
	e_rr(b, 1, 0xc1, 7, HR_T1);
	e1(b, bits);
	e_rm(b, i->adsize == 8, 0x8d, HR_T0, HR_T0, HR_T1, w ? 3 : 2, 0);
	(void)gen_lookup(t, k, i->opsize, f->mem_access & INSA_W);
	if (i->flags & INSN_LOCK)
		gen_check_aligned(t, k, i->opsize);
	/* mov r11d, reg; and r11d, size * 8 - 1 */
	if (in_memory(i->reg))
		e_env(b, 1, 0x8b, HR_T1, joff_gpr(i->reg));
	else
		e_rr(b, 0, 0x8b, HR_T1, r);
	e_rr(b, 0, 0x83, 4, HR_T1);
	e1(b, i->opsize * 8u - 1);
	/* ZF is left alone. */
	if (t->live[k] & ~(f->fl_w | f->fl_u)) {
		e_env(b, 1, 0x89, HR_T1, JOFF(jit_tmp[1]));
		jt_flags_host(t);
		e_env(b, 1, 0x8b, HR_T1, JOFF(jit_tmp[1]));
	}
	if (i->flags & INSN_LOCK)
		e1(b, 0xf0);
	e_rm(b, w, 0x0f00 | i->opcode, HR_T1, HR_T0, -1, 0, 0);
	jt_flags_written(t);
}

/* ---- strings ---- */

static void gen_string(struct jt *t, unsigned k)
{
	const struct insn *i = &t->insn[k];
	unsigned what = (unsigned)__builtin_ctz(i->opsize);

	if (t->live_in)
		jt_flags_mem(t);
	if (insn_forms[i->form].sop == SOP_MOVS)
		what |= JSTR_MOVS;
	if (i->flags & (INSN_REP | INSN_REPNE))
		what |= JSTR_REP;
	e_mov_imm(&t->b, HR_T0, what);
	e_mov_imm(&t->b, HR_T1, jit_desc(t->block, k, 0));
	e_call(&t->b, t->j->rw + t->j->str);
	t->fl_host = false;
}

/* ---- the stack ---- */

/* The word at base + disp of the stack. */
static struct jmem gen_stack(struct jt *t, unsigned k, unsigned base, int disp, bool write)
{
	const struct jaccess *a = &t->acc[k][JACC_STACK];

	if (a->kind == JACC_NEXT)
		return gen_shared(t, a);
	jt_flags_keep(t);
	if (a->kind == JACC_FIRST) {
		if (t->is64)
			return gen_group(t, k, a, (int)base, disp - a->off);
		e_rm(&t->b, 0, 0x8d, HR_T0, (int)base, -1, 0, disp - a->off);
		return gen_group(t, k, a, -1, 0);
	}
	if (t->is64)
		return gen_lookup_base(t, k, base, disp, 8, write);
	e_rm(&t->b, 0, 0x8d, HR_T0, (int)base, -1, 0, disp);
	return gen_lookup(t, k, 4, write);
}

/* The stack pointer moves; in a run of pushes or pops once for all. */
static void gen_sp_add(struct jt *t, int n)
{
	t->sp_add += n;
}

void jt_sp(struct jt *t)
{
	if (t->sp_add)
		e_rm(&t->b, t->is64, 0x8d, HR_SP, HR_SP, -1, 0, t->sp_add);
	t->sp_add = 0;
}

/* Can it neither leave the block nor tell that the stack pointer has yet to move? */
static bool spares_sp(const struct jt *t, unsigned k)
{
	const struct insn *i = &t->insn[k];
	const struct insn_form *f = &insn_forms[i->form];
	struct opregs r;

	if (!t->can[k] || has_mem(i) || may_fault(i))
		return false;
	if (f->sop == SOP_RET)
		return t->acc[k][JACC_STACK].kind == JACC_NEXT;
	if (f->class != INSC_INT ||
	    (f->flags & INSF_STACK && t->acc[k][JACC_STACK].kind != JACC_NEXT))
		return false;
	r = opregs(i);
	return !((r.reg.used && r.reg.g == X86_RSP) || (r.rm.used && r.rm.g == X86_RSP) ||
		 (r.vvvv.used && r.vvvv.g == X86_RSP));
}

static int word(const struct jt *t)
{
	return t->is64 ? 8 : 4;
}

static void gen_push(struct jt *t, unsigned k)
{
	const struct insn *i = &t->insn[k];
	const struct insn_form *f = &insn_forms[i->form];
	struct jbuf *b = &t->b;
	unsigned kind = f->opnd[0].kind, r;
	struct jmem m;

	if (has_mem(i)) {
		m = gen_mem(t, k);
		e_mem(b, t->is64, 0x8b, HR_T0, &m);
		e_env(b, 1, 0x89, HR_T0, JOFF(jit_tmp[1]));
		jt_clobber(t, HR_T0);
	}
	m = gen_stack(t, k, HR_SP, -word(t), true);
	if (kind == OPND_IMM) {
		e_mem(b, t->is64, 0xc7, 0, &m);
		e4(b, (uint32_t)i->imm);
	} else {
		if (has_mem(i)) {
			r = m.scratch;
			e_env(b, 1, 0x8b, r, JOFF(jit_tmp[1]));
			jt_clobber(t, r);
		} else {
			r = gen_get(t, kind == OPND_REG ? i->reg : i->rm, m.scratch);
		}
		e_mem(b, t->is64, 0x89, r, &m);
	}
	gen_sp_add(t, -word(t));
}

static void gen_pop(struct jt *t, unsigned k)
{
	const struct insn *i = &t->insn[k];
	unsigned g = insn_forms[i->form].opnd[0].kind == OPND_REG ? i->reg : i->rm;
	struct jmem m = gen_stack(t, k, HR_SP, 0, false);

	if (g == X86_RSP) {
		e_mem(&t->b, t->is64, 0x8b, HR_SP, &m);
		return;
	}
	e_mem(&t->b, t->is64, 0x8b, in_memory(g) ? m.scratch : home(g), &m);
	if (in_memory(g)) {
		e_env(&t->b, 1, 0x89, m.scratch, joff_gpr(g));
		jt_clobber(t, m.scratch);
	}
	gen_sp_add(t, word(t));
}

static void gen_leave(struct jt *t, unsigned k)
{
	struct jmem m = gen_stack(t, k, X86_RBP, 0, false);

	/* The new frame last: the address is by the old one. */
	t->sp_add = 0;
	e_rm(&t->b, t->is64, 0x8d, HR_SP, X86_RBP, -1, 0, word(t));
	e_mem(&t->b, t->is64, 0x8b, X86_RBP, &m);
}

/* ---- system ---- */

/* and (4), or (1) dword [rflags], imm32 */
static void gen_rflags(struct jt *t, unsigned op, uint32_t v)
{
	e_env(&t->b, 0, 0x81, op, JOFF(rflags));
	e4(&t->b, v);
}

/* r10: RFLAGS as PUSHF shows them; needs the status flags in scpu.fl. */
static void gen_read_rflags(struct jt *t)
{
	struct jbuf *b = &t->b;

	/* movzx r10d, word [fl]; mov r11d, r10d; shr r10d, 8; and r10d, 0xd5 */
	e_env(b, 0, 0x0fb7, HR_T0, JOFF(fl));
	E_STR(b, "\x45\x89\xd3\x41\xc1\xea\x08\x41\x81\xe2\xd5\0\0\0");
	/* and r11d, 1; shl r11d, 11; or r10d, r11d; or r10, [rflags]; and r10d, ~(RF | VM) */
	E_STR(b, "\x41\x83\xe3\x01\x41\xc1\xe3\x0b\x45\x09\xda");
	e_env(b, 1, 0x0b, HR_T0, JOFF(rflags));
	E_STR(b, "\x41\x81\xe2");
	e4(b, ~(uint32_t)(X86_FL_RF | X86_FL_VM));
}

static void gen_pushf(struct jt *t, unsigned k)
{
	struct jbuf *b = &t->b;

	jt_flags_mem(t);
	gen_read_rflags(t);
	e_env(b, 1, 0x89, HR_T0, JOFF(jit_tmp[1]));
	struct jmem m = gen_stack(t, k, HR_SP, -word(t), true);
	e_env(b, 1, 0x8b, m.scratch, JOFF(jit_tmp[1]));
	e_mem(b, t->is64, 0x89, m.scratch, &m);
	gen_sp_add(t, -word(t));
}

/* STI: where an interrupt waits for it the interpreter sees to that and to the shadow. */
static void gen_sti(struct jt *t, unsigned k)
{
	/* cmp byte [irq_waits], 0; jne */
	e_env(&t->b, 0, 0x80, 7, JOFF(irq_waits));
	e1(&t->b, 0);
	jt_cold(t, JCOLD_INTERP, e_jcc(&t->b, E_CC_NZ, NULL), jit_desc(t->block, k, 0));
	gen_rflags(t, 1, X86_FL_IF);
}

static void gen_rdtsc(struct jt *t, bool aux)
{
	struct jbuf *b = &t->b;

	/* rdtsc; shl rdx, 32; or rax, rdx; add rax, [tsc_offset] */
	E_STR(b, "\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0");
	e_env(b, 1, 0x03, X86_RAX, JOFF(tsc_offset));
	/* mov rdx, rax; shr rdx, 32; mov eax, eax */
	E_STR(b, "\x48\x89\xc2\x48\xc1\xea\x20\x89\xc0");
	if (aux)
		e_env(b, 0, 0x8b, X86_RCX, JOFF(tsc_aux));
}

/* Now and then the interpreter sees one, and may let another thread run. */
static void gen_pause(struct jt *t, unsigned k)
{
	/* pause; sub dword [jit_pauses], 1; js */
	E_STR(&t->b, "\xf3\x90");
	e_env(&t->b, 0, 0x83, 5, JOFF(jit_pauses));
	e1(&t->b, 1);
	jt_cold(t, JCOLD_INTERP, e_jcc(&t->b, E_CC_S, NULL), jit_desc(t->block, k, 0));
}

static void gen_swapgs(struct jt *t)
{
	struct jbuf *b = &t->b;

	e_env(b, 1, 0x8b, HR_T0, JOFF(kernel_gs_base));
	e_env(b, 1, 0x8b, HR_T1, JOFF(sbase[X86_GS]));
	e_env(b, 1, 0x89, HR_T0, JOFF(sbase[X86_GS]));
	e_env(b, 1, 0x89, HR_T0, JOFF(seg[X86_GS].base));
	e_env(b, 1, 0x89, HR_T1, JOFF(kernel_gs_base));
}

/* STAC, CLAC: what follows in the block uses the other set of translations. */
static void gen_ac(struct jt *t, bool on)
{
	struct jbuf *b = &t->b;
	unsigned mmu = on ? SMMU_KERNEL_AC : SMMU_KERNEL;

	gen_rflags(t, on ? 1 : 4, on ? X86_FL_AC : ~(uint32_t)X86_FL_AC);
	if (!(t->mode & JM_SMAP))
		return;
	e_env(b, 0, 0xc6, 0, JOFF(mmu_index));
	e1(b, mmu);
	e_env(b, 1, 0x8b, HR_T0, JOFF(mmu));
	e_rm(b, 0, 0xc7, 0, HR_T0, -1, 0, offsetof(struct soft_mmu, acc));
	e4(b, on ? SACC_AC : 0);
	e_env(b, 1, 0x8b, HR_T0, JOFF(jit_self));
	e_rm(b, 1, 0x8d, HR_T0, HR_T0, -1, 0, (int32_t)JOFF(tlbs[mmu]));
	e_env(b, 1, 0x89, HR_T0, JOFF(tlb));
	t->mode = (t->mode & ~(uint32_t)JM_MMU) | mmu << JM_MMU_SHIFT;
}

/* SYSCALL, SYSRET */
static void gen_ring(struct jt *t, unsigned k, bool in)
{
	e_mov_imm(&t->b, HR_T0, in ? (uint64_t)jt_next(t, k) : 0);
	e_mov_imm(&t->b, HR_T1, jit_desc(t->block, k, 0));
	e_jmp(&t->b, t->j->rw + (in ? t->j->syscall : t->j->sysret));
	t->ended = true;
}

static void gen_system(struct jt *t, unsigned k)
{
	unsigned sop = insn_forms[t->insn[k].form].sop;

	if (sop == SOP_PUSHF) {
		gen_pushf(t, k);
		return;
	}
	if (t->live_in)
		jt_flags_mem(t);
	t->fl_host = false;
	switch (sop) {
	case SOP_CLI:
		gen_rflags(t, 4, ~(uint32_t)X86_FL_IF);
		break;
	case SOP_STI:
		gen_sti(t, k);
		break;
	case SOP_PAUSE:
		gen_pause(t, k);
		break;
	case SOP_SWAPGS:
		gen_swapgs(t);
		break;
	case SOP_STAC:
	case SOP_CLAC:
		gen_ac(t, sop == SOP_STAC);
		break;
	case SOP_SYSCALL:
	case SOP_SYSRET:
		gen_ring(t, k, sop == SOP_SYSCALL);
		break;
	default:
		gen_rdtsc(t, sop == SOP_RDTSCP);
		break;
	}
}

/* ---- flow ---- */

static int64_t branch_target(const struct jt *t, unsigned k)
{
	return jt_next(t, k) + (int64_t)t->insn[k].imm;
}

/* Leave for the address in r10. */
static void gen_indirect(struct jt *t, unsigned k)
{
	jit_emit_jump(&t->b, jit_is_ac(t->mode));
	e_mov_imm(&t->b, HR_T1, jit_desc(t->block, k, 0));
	e_jmp(&t->b, t->j->rw + (jit_is_ac(t->mode) ? t->j->exit_branch_ac : t->j->exit_branch));
	t->ended = true;
}

/* JMP and CALL: the target into r10 when it is not in the instruction. */
static void gen_target(struct jt *t, unsigned k)
{
	const struct insn *i = &t->insn[k];

	if (has_mem(i)) {
		struct jmem m = gen_mem(t, k);

		e_mem(&t->b, t->is64, 0x8b, HR_T0, &m);
		return;
	}
	unsigned r = gen_get(t, i->rm, HR_T0);
	if (r != HR_T0 || !t->is64)
		e_rr(&t->b, t->is64, 0x8b, HR_T0, r);
}

static bool is_direct(const struct insn *i)
{
	return insn_forms[i->form].opnd[0].kind == OPND_REL;
}

static void gen_jmp(struct jt *t, unsigned k)
{
	if (is_direct(&t->insn[k])) {
		jt_exit(t, k, branch_target(t, k), NULL);
		t->ended = true;
		return;
	}
	gen_target(t, k);
	jt_flags_mem(t);
	/* Saving them may have used r11 only. */
	gen_indirect(t, k);
}

/* call, to what is written behind */
static uint8_t *gen_call_cold(struct jt *t)
{
	e1(&t->b, 0xe8);
	e4(&t->b, 0);
	return t->b.p - 4;
}

static void gen_call(struct jt *t, unsigned k)
{
	struct jbuf *b = &t->b;
	bool direct = is_direct(&t->insn[k]), ac = jit_is_ac(t->mode);

	if (!direct) {
		gen_target(t, k);
		e_env(b, 1, 0x89, HR_T0, JOFF(jit_tmp[1]));
		t->hold_reg = 0;
	}
	struct jmem m = gen_stack(t, k, HR_SP, -word(t), true);
	/* mov scratch, [jit_page]; lea scratch, [scratch + next]; mov [..], scratch */
	e_env(b, 1, 0x8b, m.scratch, JOFF(jit_page));
	e_rm(b, t->is64, 0x8d, m.scratch, (int)m.scratch, -1, 0, (int32_t)jt_next(t, k));
	e_mem(b, t->is64, 0x89, m.scratch, &m);
	if (!ac) {
		/* push scratch */
		e1(b, 0x41);
		e1(b, 0x50 | (m.scratch & 7));
	}
	if (!direct) {
		jt_flags_mem(t);
		e_env(b, 1, 0x8b, HR_T0, JOFF(jit_tmp[1]));
	}
	gen_sp_add(t, -word(t));
	jt_sp(t);
	t->ended = true;
	if (ac && direct) {
		jt_exit(t, k, branch_target(t, k), NULL);
	} else if (ac) {
		gen_indirect(t, k);
	} else {
		if (direct)
			jt_exit(t, k, branch_target(t, k), gen_call_cold(t));
		else
			jt_cold(t, JCOLD_JUMP, gen_call_cold(t), jit_desc(t->block, k, 0));
		jt_landing(t, k);
	}
}

static void gen_ret(struct jt *t, unsigned k)
{
	const struct insn *i = &t->insn[k];
	int drop = insn_forms[i->form].opnd[0].kind == OPND_IMM ? (int)(uint16_t)i->imm : 0;

	struct jmem m = gen_stack(t, k, HR_SP, 0, false);
	e_mem(&t->b, t->is64, 0x8b, HR_T0, &m);
	unsigned recipe = jit_is_ac(t->mode) || t->fl_mem ? 0 : jt_recipe(t, k + 1);
	/* By r11 alone. */
	if (!recipe)
		jt_flags_mem(t);
	gen_sp_add(t, word(t) + drop);
	jt_sp(t);
	if (jit_is_ac(t->mode)) {
		gen_indirect(t, k);
		return;
	}
	/* lea r11, [rip + ..]; ret */
	E_STR(&t->b, "\x4c\x8d\x1d");
	e4(&t->b, 0);
	jt_cold(t, JCOLD_RET, t->b.p - 4, jit_desc(t->block, k, 0))->recipe = recipe;
	e1(&t->b, 0xc3);
	t->ended = true;
}

/* jrcxz or jecxz to be patched: returns where the rel8 is. */
static uint8_t *gen_jcxz(struct jt *t, const struct insn *i)
{
	if (i->adsize == 4)
		e1(&t->b, 0x67);
	e1(&t->b, 0xe3);
	e1(&t->b, 0);
	return t->b.p - 1;
}

static void patch8(uint8_t *at, const uint8_t *target)
{
	ptrdiff_t d = target - (at + 1);

	BUG_ON(d < -128 || d > 127);
	*at = (uint8_t)d;
}

static void gen_loop(struct jt *t, unsigned k, unsigned sop)
{
	const struct insn *i = &t->insn[k];
	struct jbuf *b = &t->b;
	unsigned w = i->adsize == 8;

	if (sop == SOP_LOOPE || sop == SOP_LOOPNE)
		jt_flags_host(t);
	if (sop == SOP_JCXZ) {
		/* jrcxz over; jmp on; over: jmp exit; on: */
		uint8_t *zero = gen_jcxz(t, i);

		e1(b, 0xeb);
		e1(b, 5);
		patch8(zero, b->p);
		jt_exit(t, k, branch_target(t, k), e_jmp(b, NULL));
		return;
	}
	/* lea rcx, [rcx - 1]; jrcxz on; (jz or jnz on;) jmp exit; on: */
	e_rm(b, w, 0x8d, X86_RCX, X86_RCX, -1, 0, -1);
	uint8_t *zero = gen_jcxz(t, i), *flag = NULL;
	if (sop != SOP_LOOP) {
		e1(b, 0x70 | (sop == SOP_LOOPE ? E_CC_NZ : E_CC_Z));
		e1(b, 0);
		flag = b->p - 1;
	}
	jt_exit(t, k, branch_target(t, k), e_jmp(b, NULL));
	patch8(zero, b->p);
	if (flag)
		patch8(flag, b->p);
}

static void gen_flow(struct jt *t, unsigned k)
{
	const struct insn *i = &t->insn[k];
	unsigned sop = insn_forms[i->form].sop;

	switch (sop) {
	case SOP_JCC:
		jt_flags_host(t);
		jt_exit(t, k, branch_target(t, k), e_jcc(&t->b, i->opcode & 15, NULL));
		break;
	case SOP_JMP:
		gen_jmp(t, k);
		break;
	case SOP_CALL:
		gen_call(t, k);
		break;
	case SOP_RET:
		gen_ret(t, k);
		break;
	default:
		gen_loop(t, k, sop);
		break;
	}
}

/* The instruction, which only reads, with the registers that it has in the guest. */
void jit_again(struct jt *t, const struct insn *i)
{
	struct opregs r = opregs(i);
	unsigned reg = r.reg.used ? opreg_number(&r.reg, 0) : r.raw_reg;
	unsigned rm = r.rm.used ? opreg_number(&r.rm, 0) : r.raw_rm;

	gen_encode(t, i, &r, reg, rm, 0, NULL);
}

static void gen(struct jt *t, unsigned k)
{
	const struct insn *i = &t->insn[k];
	const struct insn_form *f = &insn_forms[i->form];

	if (t->sp_add && !spares_sp(t, k))
		jt_sp(t);
	if (!t->can[k]) {
		jt_interp(t, k);
		return;
	}
	if (f->class == INSC_STR || f->class == INSC_SYS)
		t->hold_reg = 0;
	if (f->class == INSC_FLOW) {
		gen_flow(t, k);
		return;
	}
	if (f->class == INSC_STR) {
		gen_string(t, k);
		return;
	}
	if (f->class == INSC_SYS) {
		gen_system(t, k);
		return;
	}
	if (f->flags & INSF_BITSTR && has_mem(i) && f->opnd[1].kind == OPND_REG) {
		gen_bit_string(t, k);
		return;
	}
	switch (f->sop) {
	case SOP_LEA:
		gen_lea(t, i);
		return;
	case SOP_PUSH:
		gen_push(t, k);
		return;
	case SOP_POP:
		gen_pop(t, k);
		return;
	case SOP_LEAVE:
		gen_leave(t, k);
		return;
	case SOP_CLD:
	case SOP_STD:
		gen_df(t, f->sop == SOP_STD);
		return;
	case SOP_NOP:
	case SOP_PREFETCH:
	case SOP_PREFETCHW:
		return;
	default:
		break;
	}
	if (is_get_sreg(i))
		gen_get_sreg(t, i);
	else if (is_plus_r(i))
		gen_plus_r(t, k);
	else if (f->opnd[0].kind == OPND_MOFFS || f->opnd[1].kind == OPND_MOFFS)
		gen_moffs(t, k);
	else
		gen_copy(t, k);
}

void jit_gen(struct jt *t, unsigned k)
{
	jt_flags_before(t);
	gen(t, k);
	jt_flags_after(t);
}
