/*
 * Cases from the instruction table.
 *
 * At the start every opcode, prefix and ModRM byte is decoded once and for each form some encodings
 * (seeds) are kept; a case takes the next form in turn, one of its seeds, and fills in registers,
 * immediates, and a memory operand whose address comes out near the border of two pages (writable,
 * read-only, absent).  What an instruction does with implied registers (strings, stack, divisor,
 * branch targets) is set up so that most cases do something and some fault.
 *
 * Sequences use absolute addresses, so that they go on whatever the registers hold.
 */
#include "oracle.h"

#include <stdlib.h>
#include <string.h>

enum {
	SEEDS = 48,
};

struct seed {
	/* 0 one byte, 1 0F, 2 0F38, 3 0F3A; VEX: 5, 6, 7. */
	uint8_t map;
	/* None, 66, F3, F2. */
	uint8_t pp;
	uint8_t w, l, opcode, modrm;
	bool has_modrm;
};

struct orc_gen {
	uint64_t rnd;
	/* 64, 32 or 16: code size. */
	unsigned bits;
	unsigned next;
	unsigned nform;
	uint16_t form[INSN_FORMS];
	unsigned count[INSN_FORMS];
	struct seed seed[INSN_FORMS][SEEDS];
};

static uint64_t rnd(struct orc_gen *g)
{
	return orc_rnd(&g->rnd);
}

static unsigned below(struct orc_gen *g, unsigned n)
{
	return (unsigned)((rnd(g) >> 32) * n >> 32);
}

static bool chance(struct orc_gen *g, unsigned percent)
{
	return below(g, 100) < percent;
}

static uint64_t edge(struct orc_gen *g)
{
	static const uint64_t v[] = {
		0,
		1,
		2,
		3,
		7,
		8,
		15,
		16,
		31,
		32,
		63,
		64,
		0x7f,
		0x80,
		0xff,
		0x100,
		0x7fff,
		0x8000,
		0xffff,
		0x10000,
		0x7fffffff,
		0x80000000,
		0xffffffff,
		0x100000000,
		0x7fffffffffffffff,
		0x8000000000000000,
		0xffffffffffffffff,
		0xfffffffffffffffe,
		0xffffffffffffff80,
		0xffffffffffff8000,
		0xffffffff80000000,
		0x5555555555555555,
		0xaaaaaaaaaaaaaaaa,
		0x0123456789abcdef,
		0x99999999,
	};

	return v[below(g, COUNT_OF(v))];
}

static uint64_t value(struct orc_gen *g)
{
	switch (below(g, 6)) {
	case 0:
		return edge(g) + below(g, 3) - 1;
	case 1:
		return edge(g);
	case 2:
		return below(g, 100);
	case 3:
		return rnd(g) & 0xffffffff;
	default:
		return rnd(g);
	}
}

/* ---- encoding ---- */

struct out {
	uint8_t *p;
	unsigned n;
};

static void put(struct out *o, unsigned b)
{
	o->p[o->n++] = (uint8_t)b;
}

/* What of the operands' registers the caller chose. */
struct regs {
	unsigned reg, rm, vvvv;
	/* SIB index. */
	unsigned x;
	/* Prefixes: 67, segment (0: none). */
	bool a32;
	uint8_t seg;
	bool lock;
};

static void put_opcode(struct out *o, const struct seed *s, const struct regs *r)
{
	static const uint8_t pp[] = { 0, 0x66, 0xf3, 0xf2 };
	unsigned rex = s->w << 3 | (r->reg >> 3) << 2 | (r->x >> 3) << 1 | r->rm >> 3;

	if (r->seg)
		put(o, r->seg);
	if (r->a32)
		put(o, 0x67);
	if (s->map >= 5) {
		put(o, 0xc4);
		put(o, (rex & 4 ? 0 : 0x80) | (rex & 2 ? 0 : 0x40) | (rex & 1 ? 0 : 0x20) |
			       (s->map - 4u));
		put(o, s->w << 7 | (~r->vvvv & 15) << 3 | s->l << 2 | s->pp);
		put(o, s->opcode);
		return;
	}
	if (r->lock)
		put(o, 0xf0);
	if (s->pp)
		put(o, pp[s->pp]);
	if (rex)
		put(o, 0x40 | rex);
	if (s->map)
		put(o, 0x0f);
	if (s->map > 1)
		put(o, s->map == 2 ? 0x38 : 0x3a);
	put(o, s->opcode);
}

static bool wanted(const struct insn_form *f)
{
	switch (f->sop) {
	case SOP_RDRAND:
	case SOP_RDSEED:
		return false;
	}
	return f->class == INSC_INT || f->class == INSC_HOST || f->class == INSC_FLOW ||
	       f->class == INSC_STR;
}

/* In the one-byte map: what is no opcode by itself. */
static bool is_prefix(unsigned b, unsigned bits)
{
	switch (b) {
	case 0x0f:
	case 0x26:
	case 0x2e:
	case 0x36:
	case 0x3e:
	case 0x64 ... 0x67:
	case 0xc4:
	case 0xc5:
	case 0xf0:
	case 0xf2:
	case 0xf3:
		return true;
	default:
		return bits == 64 && (b & 0xf0) == 0x40;
	}
}

static void seed_try(struct orc_gen *g, const struct seed *s)
{
	uint8_t b[32] = { 0 };
	struct out o = { b, 0 };
	struct regs r = { .vvvv = 0 };
	struct insn i;

	if (s->map == 0 && is_prefix(s->opcode, g->bits))
		return;
	put_opcode(&o, s, &r);
	put(&o, s->modrm);
	/* A SIB byte with index 1: gathers want three different registers. */
	b[o.n] = 0x08;
	if (soft_decode(b, sizeof(b), g->bits, &i) < 0 || !wanted(&insn_forms[i.form]))
		return;
	unsigned n = g->count[i.form]++, at = n;
	if (n >= SEEDS)
		at = below(g, n + 1);
	if (at >= SEEDS)
		return;
	g->seed[i.form][at] = *s;
	g->seed[i.form][at].has_modrm = i.modrm == s->modrm;
}

struct orc_gen *orc_gen_new(uint64_t seed, unsigned bits)
{
	static const uint8_t maps[] = { 0, 1, 2, 3, 5, 6, 7 };
	struct orc_gen *g = calloc(1, sizeof(*g));

	if (!g)
		abort();
	g->rnd = seed;
	g->bits = bits;
	for (unsigned m = 0; m < sizeof(maps); m++)
		for (unsigned op = 0; op < 256; op++)
			for (unsigned k = 0; k < 16; k++)
				for (unsigned modrm = 1; modrm < 256; modrm++) {
					struct seed s = { .map = maps[m],
							  .pp = k & 3,
							  .w = k >> 2 & 1,
							  .l = k >> 3,
							  .opcode = (uint8_t)op,
							  .modrm = (uint8_t)modrm };

					if ((s.l || (s.w && bits != 64)) && s.map < 5)
						continue;
					seed_try(g, &s);
				}
	for (unsigned f = 0; f < INSN_FORMS; f++)
		if (g->count[f])
			g->form[g->nform++] = (uint16_t)f;
	return g;
}

void orc_gen_seed(struct orc_gen *g, uint64_t seed)
{
	g->rnd = seed;
	g->next = (unsigned)(seed % g->nform);
}

void orc_gen_free(struct orc_gen *g)
{
	free(g);
}

unsigned orc_gen_forms(const struct orc_gen *g)
{
	return g->nform;
}

void orc_gen_only(struct orc_gen *g, const char *mnemonic)
{
	unsigned n = 0;

	for (unsigned k = 0; k < g->nform; k++)
		if (!strcmp(insn_forms[g->form[k]].name, mnemonic))
			g->form[n++] = g->form[k];
	if (n)
		g->nform = n;
}

/* An address as the case's data segments have it. */
static uint64_t data_ea(const struct orc_gen *g, uint64_t lin)
{
	return g->bits == 16 ? lin - ORC_BASE16 : lin;
}

/* ---- the machine's state ---- */

static void random_ymm(struct orc_gen *g, uint8_t *p)
{
	static const uint32_t f32[] = { 0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000,
					0xff800000, 0x7fc00000, 0x7f800001, 0xffc00001, 1,
					0x807fffff, 0x00800000, 0x7f7fffff, 0x4f000000, 0xcf000000,
					0x5f000000, 0x40490fdb, 0x3effffff };
	static const uint64_t f64[] = { 0,
					0x8000000000000000,
					0x3ff0000000000000,
					0xbff0000000000000,
					0x7ff0000000000000,
					0xfff0000000000000,
					0x7ff8000000000000,
					0x7ff0000000000001,
					1,
					0x800fffffffffffff,
					0x0010000000000000,
					0x7fefffffffffffff,
					0x41e0000000000000,
					0xc1e0000000000000,
					0x43e0000000000000,
					0x400921fb54442d18,
					0x3810000000000000,
					0x47f0000000000000 };
	unsigned mode = below(g, 5);

	for (unsigned k = 0; k < 8; k++) {
		uint32_t v = (uint32_t)rnd(g);
		uint64_t d = f64[below(g, COUNT_OF(f64))];

		if (mode == 0 || (mode == 4 && k & 1))
			v = f32[below(g, COUNT_OF(f32))];
		else if (mode == 1)
			v = k & 1 ? (uint32_t)(d >> 32) : (uint32_t)d;
		else if (mode == 2)
			v = 0x3f000000 + (v >> 7) + (v & 0x80000000);
		memcpy(p + 4 * k, &v, 4);
	}
	if (mode == 1)
		for (unsigned k = 0; k < 4; k++)
			memcpy(p + 8 * k, &f64[below(g, COUNT_OF(f64))], 8);
}

static void random_x87(struct orc_gen *g, uint8_t *fx)
{
	static const uint16_t fcws[] = { 0x37f, 0x27f, 0x07f, 0x77f, 0xb7f, 0xf7f };
	static const uint16_t exps[] = { 0,      1,      0x3ffe, 0x3fff, 0x4000, 0x7ffe,
					 0x7fff, 0x403e, 0x3fc0, 0xc000, 0xbfff, 0xffff };
	uint16_t fcw = fcws[below(g, COUNT_OF(fcws))];
	uint16_t fsw = (uint16_t)(below(g, 8) << 11 | (rnd(g) & 0x4700));

	memset(fx, 0, 512);
	if (chance(g, 10))
		fcw &= (uint16_t) ~(rnd(g) & 0x3f);
	if (chance(g, 30))
		fsw |= rnd(g) & 0x7f;
	/* ES and B follow from flags and masks. */
	if (fsw & ~fcw & 0x3f)
		fsw |= 0x8080;
	memcpy(fx, &fcw, 2);
	memcpy(fx + 2, &fsw, 2);
	fx[4] = (uint8_t)(chance(g, 60) ? 0xff : rnd(g));
	for (unsigned k = 0; k < 8; k++) {
		uint64_t m = rnd(g);
		uint16_t e = exps[below(g, COUNT_OF(exps))];

		if (chance(g, 40))
			e = (uint16_t)(0x3fff - 40 + below(g, 80));
		if (chance(g, 30))
			m &= ~0ull << 40;
		if (chance(g, 20))
			m = 0;
		if (e & 0x7fff && chance(g, 90))
			m |= 1ull << 63;
		if (chance(g, 5))
			m = 0x8000000000000000;
		memcpy(fx + 32 + 16 * k, &m, 8);
		memcpy(fx + 40 + 16 * k, &e, 2);
	}
}

static void random_state(struct orc_gen *g, struct orc_case *c)
{
	struct orc_state *s = &c->in;
	uint64_t fl = rnd(g);

	for (unsigned k = 0; k < 16; k++)
		s->gpr[k] = value(g);
	s->rflags = fl & X86_FL_STATUS;
	if (chance(g, 20))
		s->rflags |= X86_FL_DF;
	for (unsigned k = 0; k < 16; k++)
		random_ymm(g, s->ymm[k]);
	random_x87(g, s->fx);
	s->mxcsr = 0x1f80 | (rnd(g) & 0x6000);
	if (chance(g, 25))
		s->mxcsr |= rnd(g) & 0x803f;
	if (chance(g, 25))
		s->mxcsr |= rnd(g) & 0x40;
	if (chance(g, 8))
		s->mxcsr &= ~(rnd(g) & 0x1f80);
	s->vector = -1;
	s->err = 0;
	s->cr2 = 0;
	for (unsigned k = 0; k < ORC_MEM; k += 32)
		random_ymm(g, c->mem + k);
	c->bits = g->bits;
	c->rip = ORC_CODE + 0x800 + below(g, 16);
	s->rip = c->rip;
	/* A stack that works, a little crooked now and then. */
	s->gpr[X86_RSP] = data_ea(g, ORC_P1 + 8 * (int64_t)(below(g, 60)) - 240 +
					     (chance(g, 10) ? below(g, 8) : 0));
}

/* Where a memory operand of `size` bytes goes. */
static uint64_t target(struct orc_gen *g, unsigned size, bool aligned)
{
	unsigned kind = below(g, 100);
	uint64_t t;

	if (!size)
		size = 1;
	if (kind < 70)
		t = ORC_P1 + below(g, 384) - 192;
	else if (kind < 86)
		t = ORC_P1 - below(g, size + 2);
	else if (kind < 92)
		t = ORC_P2 - below(g, size + 2);
	else if (kind < 96)
		t = ORC_P2 + 0x1000 - below(g, size + 2);
	else if (kind < 98)
		t = ORC_P2 + 64;
	else if (g->bits == 64)
		t = 0x800000000000ull + rnd(g) % 64;
	else if (g->bits == 32)
		t = 0xfffff000 + rnd(g) % 64;
	else
		t = ORC_BASE16 + 0x10000 - below(g, size + 2);
	if (aligned && chance(g, 85))
		t &= ~(uint64_t)(size - 1);
	return data_ea(g, t);
}

/* ---- operands ---- */

struct opnds {
	bool reg, rm, vvvv, mem, vsib;
	bool str_src, str_dst, xlat, maskmov, rel;
};

static struct opnds opnds_of(const struct insn_form *f)
{
	struct opnds o = { 0 };

	for (unsigned k = 0; k < INSN_OPNDS; k++) {
		switch (f->opnd[k].kind) {
		case OPND_REG:
		case OPND_XMM_REG:
		case OPND_MM_REG:
			o.reg = true;
			break;
		case OPND_RM:
		case OPND_XMM_RM:
		case OPND_MM_RM:
		case OPND_STI:
			o.rm = true;
			break;
		case OPND_GPR_VVVV:
		case OPND_XMM_VVVV:
			o.vvvv = true;
			break;
		case OPND_VSIB:
			o.vsib = true;
			break;
		case OPND_STR_SRC:
			o.str_src = true;
			break;
		case OPND_STR_DST:
			o.str_dst = true;
			break;
		case OPND_XLAT:
			o.xlat = true;
			break;
		case OPND_MASKMOV:
			o.maskmov = true;
			break;
		case OPND_REL:
			o.rel = true;
			break;
		}
	}
	return o;
}

/* The same with 16-bit addressing: pairs of registers or one, disp8 or disp16. */
static void put_mem16(struct orc_gen *g, struct out *o, struct orc_state *s, unsigned reg,
		      uint64_t t, bool absolute)
{
	static const uint8_t base[8] = { X86_RBX, X86_RBX, X86_RBP, X86_RBP,
					 X86_RSI, X86_RDI, X86_RBP, X86_RBX };
	static const uint8_t index[4] = { X86_RSI, X86_RDI, X86_RSI, X86_RDI };
	unsigned rm = absolute ? 6 : below(g, 8), mod = absolute ? 0 : 1 + below(g, 2);
	int16_t disp = mod == 1 ? (int8_t)rnd(g) : mod == 2 ? (int16_t)rnd(g) : (int16_t)t;

	put(o, mod << 6 | (reg & 7) << 3 | rm);
	put(o, (uint16_t)disp & 255);
	if (mod != 1)
		put(o, (uint16_t)disp >> 8);
	if (absolute)
		return;
	t -= (uint64_t)disp + (rm < 4 ? s->gpr[index[rm]] : 0);
	s->gpr[base[rm]] = (uint16_t)t | (rnd(g) & 0xffff0000);
}

/* ModRM, SIB and displacement of a memory operand that comes out at t. */
static void put_mem(struct orc_gen *g, struct out *o, struct orc_state *s, struct regs *r,
		    unsigned reg, uint64_t t, bool absolute, unsigned *ret_disp_at)
{
	unsigned base = r->rm, index = r->x;
	int32_t disp = chance(g, 50) ? (int8_t)rnd(g) : (int32_t)rnd(g) >> 12;
	unsigned scale = below(g, 4);
	bool sib = chance(g, 40) || (base & 7) == 4, has_index = sib && index != 4;

	*ret_disp_at = 0;
	reg &= 7;
	if (absolute) {
		/* [disp32], or RIP-relative: its displacement is filled in when the length is
		 * known. */
		if (chance(g, 50)) {
			put(o, reg << 3 | 4);
			put(o, 0x25);
			disp = (int32_t)t;
		} else {
			put(o, reg << 3 | 5);
			if (g->bits == 64)
				*ret_disp_at = o->n;
			disp = g->bits == 64 ? 0 : (int32_t)t;
		}
		for (unsigned k = 0; k < 4; k++)
			put(o, (uint32_t)disp >> 8 * k & 255);
		return;
	}
	bool small = disp == (int8_t)disp;
	put(o, (small ? 0x40 : 0x80) | reg << 3 | (sib ? 4 : base & 7));
	if (sib)
		put(o, scale << 6 | (index & 7) << 3 | (base & 7));
	for (unsigned k = 0; k < (small ? 1u : 4u); k++)
		put(o, (uint32_t)disp >> 8 * k & 255);
	t -= (uint64_t)(int64_t)disp;
	if (has_index && index == base) {
		/* base * (1 + scale): exact only when it divides. */
		s->gpr[base] = t / (1 + (1u << scale));
		return;
	}
	if (has_index)
		t -= s->gpr[index] << scale;
	s->gpr[base] = t;
	if (r->a32 && chance(g, 50))
		s->gpr[base] = (uint32_t)t | rnd(g) << 32;
}

static unsigned mem_size(const struct insn_form *f, unsigned opsize)
{
	switch (f->mem_size) {
	case INSZ_OP:
		return opsize;
	case INSZ_HALF:
		return opsize / 2;
	case INSZ_QUARTER:
		return opsize / 4;
	case INSZ_EIGHTH:
		return opsize / 8;
	case INSZ_FPENV:
		return 28;
	case INSZ_FPSTATE:
		return 108;
	default:
		return f->mem_size > 64 ? 8 : f->mem_size;
	}
}

/* Vector-indexed addresses: small indices around the target. */
static void setup_vsib(struct orc_gen *g, struct orc_state *s, const struct seed *sd,
		       const struct regs *r)
{
	unsigned isize = sd->opcode & 1 ? 8 : 4;

	for (unsigned k = 0; k < 32 / isize; k++) {
		int64_t v = (int64_t)below(g, 60) - 30;
		memcpy(s->ymm[r->x] + isize * k, &v, isize);
	}
	(void)r;
}

/* Is the memory operand's address made of rAX or rDX, which must then stay? */
static bool by_ax_dx(const struct insn *i)
{
	return i->flags & INSN_MEM && (i->base == X86_RAX || i->base == X86_RDX ||
				       i->index == X86_RAX || i->index == X86_RDX);
}

/* Registers that an instruction uses without naming them. */
static void setup_implied(struct orc_gen *g, struct orc_case *c, const struct insn_form *f,
			  const struct opnds *o, const struct insn *i)
{
	struct orc_state *s = &c->in;

	if (o->str_src || o->str_dst) {
		s->gpr[X86_RSI] = data_ea(g, ORC_P1 + below(g, 128) - 64);
		s->gpr[X86_RDI] = data_ea(g, ORC_P1 + below(g, 128) - 64);
		if (chance(g, 10))
			s->gpr[X86_RSI] = data_ea(g, ORC_P2 - below(g, 64));
		if (chance(g, 10))
			s->gpr[X86_RDI] = data_ea(g, ORC_P2 - below(g, 64));
		s->gpr[X86_RCX] = below(g, 30);
		/* Something equal for CMPS and SCAS. */
		if (chance(g, 70))
			memset(c->mem + 400, (int)(uint8_t)rnd(g), 200);
		if (chance(g, 50))
			memset(&s->gpr[X86_RAX], c->mem[450], 8);
	}
	if (o->xlat)
		s->gpr[X86_RBX] = target(g, 1, false) - (uint8_t)s->gpr[X86_RAX];
	if (o->maskmov)
		s->gpr[X86_RDI] = target(g, 16, false);
	if (f->sop == SOP_ENTER || f->sop == SOP_LEAVE)
		s->gpr[X86_RBP] = data_ea(g, ORC_P1 + 8 * below(g, 30) - 120);
	if ((f->sop == SOP_DIV || f->sop == SOP_IDIV) && !by_ax_dx(i) && chance(g, 75)) {
		s->gpr[X86_RDX] = f->sop == SOP_IDIV && chance(g, 50) ? ~0ull : below(g, 3);
		if (s->gpr[X86_RDX] == ~0ull)
			s->gpr[X86_RAX] |= 1ull << 63 | 1ull << 31 | 1ull << 15;
		if (i->opsize == 1)
			s->gpr[X86_RAX] &= ~0x7f00ull;
	}
	if (f->class == INSC_FLOW && f->opnd[0].kind == OPND_RM && !(i->flags & INSN_MEM) &&
	    i->rm != X86_RSP && chance(g, 90))
		s->gpr[i->rm] = ORC_CODE + 0x400 + below(g, 0x400);
	if (f->sop == SOP_RET || (f->class == INSC_FLOW && i->flags & INSN_MEM))
		for (unsigned k = 0; k + 8 <= ORC_MEM; k += 8) {
			uint64_t t = ORC_CODE + 0x400 + below(g, 0x400);

			if (chance(g, 90))
				memcpy(c->mem + k, &t, 8);
		}
	if (f->sop == SOP_CMPXCHG8B || f->sop == SOP_CMPXCHG16B || f->sop == SOP_CMPXCHG) {
		if (!by_ax_dx(i) && chance(g, 50)) {
			memcpy(c->mem + 256 + 8 * below(g, 64), &s->gpr[X86_RAX], 8);
			memset(c->mem + 300, 0x11, 500);
			memset(&s->gpr[X86_RAX], 0x11, 8);
			memset(&s->gpr[X86_RDX], 0x11, 8);
		}
	}
	if (f->flags & INSF_BITSTR && i->flags & INSN_MEM && i->reg != i->base &&
	    i->reg != i->index)
		s->gpr[i->reg] = (uint64_t)((int64_t)below(g, 2048) - 1024);
	if ((f->sop == SOP_PCMPESTRI || f->sop == SOP_PCMPESTRM || f->sop == SOP_VPCMPESTRI ||
	     f->sop == SOP_VPCMPESTRM) &&
	    !by_ax_dx(i)) {
		s->gpr[X86_RAX] = (uint64_t)((int64_t)below(g, 40) - 20);
		s->gpr[X86_RDX] = (uint64_t)((int64_t)below(g, 40) - 20);
	}
}

static void random_regs(struct orc_gen *g, struct regs *r, bool simple)
{
	unsigned n = g->bits == 64 ? 16 : 8;

	*r = (struct regs){ .reg = below(g, n), .rm = below(g, n), .x = below(g, n) };
	if (simple)
		return;
	if (g->bits != 64) {
		if (chance(g, 5))
			r->seg = (uint8_t)(0x26 + 8 * below(g, 4));
		/* 32-bit addressing, by the same prefix. */
		r->a32 = g->bits == 16 && chance(g, 25);
		return;
	}
	if (chance(g, 5))
		r->a32 = true;
	if (chance(g, 5))
		r->seg = chance(g, 40) ? 0x65 : (uint8_t)(0x26 + 8 * below(g, 4));
}

/* One instruction at o; false: this try did not come out as the form. */
static bool gen_insn(struct orc_gen *g, struct orc_case *c, struct out *o, unsigned form,
		     bool sequence, struct insn *ret)
{
	const struct insn_form *f = &insn_forms[form];
	struct seed s = g->seed[form][below(g, g->count[form] < SEEDS ? g->count[form] : SEEDS)];
	struct opnds op = opnds_of(f);
	unsigned start = o->n, disp_at = 0;
	bool mem = s.has_modrm && s.modrm < 0xc0;
	uint64_t t = 0;
	struct regs r;

	random_regs(g, &r, sequence);
	if (!op.vvvv)
		r.vvvv = 0;
	else
		r.vvvv = below(g, g->bits == 64 ? 16 : 8);
	if (s.has_modrm && !op.reg)
		r.reg = s.modrm >> 3 & 7;
	if (!s.has_modrm) {
		r.reg = r.x = 0;
		if (f->opnd[0].kind != OPND_REG)
			r.rm = 0;
	} else if (!mem && !op.rm) {
		r.rm = s.modrm & 7;
	}
	if (!mem)
		r.x = 0;
	if (mem && sequence)
		r.rm = r.x = 0;
	/* 16-bit addressing has no SIB byte. */
	if (op.vsib && g->bits == 16)
		r.a32 = true;
	if (mem && f->flags & INSF_LOCK)
		r.lock = chance(g, 25);
	/* F2 and F3 before branches are reserved (SDM 2A 2.1.1); CPUs differ with LOOPE, LOOPNE. */
	if (f->class == INSC_FLOW && s.pp >= 2)
		s.pp = 0;
	put_opcode(o, &s, &r);
	if (mem) {
		t = target(g, mem_size(f, s.w ? 8 : 4), f->flags & INSF_ALIGN || chance(g, 50));
		if (sequence) {
			t = data_ea(g, ORC_P1 + below(g, 320) - 160);
			if (f->flags & INSF_ALIGN)
				t &= ~31ull;
		}
		if (r.seg == 0x65)
			t -= ORC_GS;
		if (op.vsib) {
			put(o, 0x40 | (r.reg & 7) << 3 | 4);
			put(o, below(g, 4) << 6 | (r.x & 7) << 3 | (r.rm & 7));
			put(o, below(g, 64));
			c->in.gpr[r.rm] = t;
			setup_vsib(g, &c->in, &s, &r);
		} else if (g->bits == 16 && !r.a32) {
			put_mem16(g, o, &c->in, r.reg, t, sequence);
		} else {
			put_mem(g, o, &c->in, &r, r.reg, t, sequence, &disp_at);
		}
	} else if (s.has_modrm) {
		put(o, 0xc0 | (r.reg & 7) << 3 | (r.rm & 7));
	} else if (f->opnd[0].kind == OPND_REG || f->opnd[1].kind == OPND_REG) {
		/* A register in the opcode. */
		o->p[o->n - 1] = (uint8_t)((o->p[o->n - 1] & ~7) | (r.rm & 7));
	}
	for (unsigned k = 0; k < 8; k++)
		o->p[o->n + k] = (uint8_t)(chance(g, 50) ? edge(g) : rnd(g));
	if (f->opnd[0].kind == OPND_MOFFS || f->opnd[1].kind == OPND_MOFFS) {
		t = sequence ? data_ea(g, ORC_P1 + below(g, 320) - 160)
			     : target(g, 8, chance(g, 50));
		memcpy(o->p + o->n, &t, 8);
	}
	/* Branches go to the INT3s around the code, not into it. */
	if (op.rel) {
		int8_t d = (int8_t)(chance(g, 50) ? 16 + below(g, 112) : 200 - below(g, 72));

		o->p[o->n] = (uint8_t)d;
		memset(o->p + o->n + 1, d < 0 ? 0xff : 0, 3);
	}
	int len = soft_decode(o->p + start, 15, g->bits, ret);
	/* FS is the C library's in the child. */
	if (len < 0 || ret->form != form || ret->seg == X86_FS ||
	    (g->bits != 64 && ret->seg == X86_GS)) {
		o->n = start;
		return false;
	}
	if (disp_at) {
		int32_t d = (int32_t)(t - (c->rip + start + (unsigned)len));

		memcpy(o->p + disp_at, &d, 4);
	}
	o->n = start + (unsigned)len;
	if (!sequence)
		setup_implied(g, c, f, &op, ret);
	return true;
}

/* May it be in a sequence?  Not what uses memory by registers. */
static bool in_sequence(const struct insn_form *f)
{
	struct opnds o = opnds_of(f);

	/* Decimal adjustments leave undefined flags behind. */
	if (f->flags & INSF_NOT64)
		return false;
	return (f->class == INSC_INT || f->class == INSC_HOST) && !o.vsib && !o.xlat &&
	       !o.maskmov && !(f->flags & (INSF_STACK | INSF_BITSTR)) && f->sop != SOP_DIV &&
	       f->sop != SOP_IDIV && f->mem_size != INSZ_FPENV && f->mem_size != INSZ_FPSTATE;
}

void orc_gen_case(struct orc_gen *g, struct orc_case *c, bool sequence)
{
	struct out o = { c->code, 0 };
	unsigned want = sequence ? 20 + below(g, 41) : 1, tries = 0;
	struct insn i;

	random_state(g, c);
	if (sequence)
		c->in.mxcsr |= 0x1f80;
	c->ninsn = 0;
	while (c->ninsn < want && ++tries < 1000) {
		unsigned form =
			sequence ? g->form[below(g, g->nform)] : g->form[g->next++ % g->nform];

		if (sequence && (!in_sequence(&insn_forms[form]) || o.n > ORC_CODE_MAX - 80))
			continue;
		c->off[c->ninsn] = (uint16_t)o.n;
		if (gen_insn(g, c, &o, form, sequence, &i))
			c->form = i.form, c->ninsn++;
	}
	c->len = o.n;
	for (unsigned k = 0; k < 16 && g->bits != 64; k++)
		c->in.gpr[k] = k < 8 ? (uint32_t)c->in.gpr[k] : 0;
}
