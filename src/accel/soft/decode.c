/*
 * Bytes to struct insn (SDM 2 chapter 2 and appendix A; APM 3 chapter 1).
 *
 * One pass: prefixes; opcode with its map (0F, 0F 38, 0F 3A, VEX); ModRM, SIB and displacement; the
 * form, found in tables that tools/gen-insn makes of insn.tab; immediates.  Then what the tables do
 * not say: LOCK, VEX.vvvv, register numbers that do not exist.
 *
 * Bytes.  The code below reads ahead without looking whether a byte is there, at most READ_AHEAD
 * bytes; when the caller has fewer, it reads a copy with zeros behind.  Whatever it then concludes
 * counts only if it depends on bytes that are there: verdict() says so.  An instruction is refused
 * (#UD) only after all of its bytes were seen, so a page fault on its tail comes first, and so does
 * the 15-byte limit; of an undefined opcode that is as far as its map tells.
 *
 * Where CPUs differ: branches.  In 64-bit code a 66 prefix makes near branches 16 bits wide on AMD
 * and is ignored on Intel; REX.W widens far pointers in memory to 16:64 on Intel and is ignored on
 * AMD.  soft_decode_vendor() chooses.
 *
 * Kept outside: whether the guest has the feature (bind.c), privilege and modes (the handlers).
 * EVEX (evex.c has some of it, for the assist), XOP, 3DNow! and the other things that insn.tab does
 * not have are #UD.
 */
#include "accel/soft/decode_tab.h"
#include "accel/soft/soft_int.h"

#include <errno.h>
#include <string.h>

enum {
	INSN_MAX = 15,
	/* Prefixes fill 15 bytes at most, then: opcode 3, ModRM, SIB, displacement 4, immediate 8.
	 */
	READ_AHEAD = 32,
};

/* What a byte is before the opcode is found. */
enum pfx {
	PFX_NONE,
	PFX_SEG,
	PFX_66,
	PFX_67,
	PFX_LOCK,
	PFX_REP,
	PFX_REX,
	/* 0F, C4, C5: the opcode follows. */
	PFX_0F,
	PFX_VEX3,
	PFX_VEX2,
};

/* In, not in 64-bit code. */
static const uint8_t pfx_kind[2][256] = {
#define PFX_COMMON                                                                                \
	[0x26] = PFX_SEG, [0x2e] = PFX_SEG, [0x36] = PFX_SEG, [0x3e] = PFX_SEG, [0x64] = PFX_SEG, \
	[0x65] = PFX_SEG, [0x66] = PFX_66, [0x67] = PFX_67, [0xf0] = PFX_LOCK, [0xf2] = PFX_REP,  \
	[0xf3] = PFX_REP, [0x0f] = PFX_0F, [0xc4] = PFX_VEX3, [0xc5] = PFX_VEX2
	[0] = { PFX_COMMON },
	[1] = { PFX_COMMON, [0x40 ... 0x4f] = PFX_REX },
};

static bool dec_intel;

/* clang-format off */
/* Operand sizes by 66 prefix, W (+2), VEX.L (+4). */
enum {
	ON_1, ON_2, ON_4, ON_8, ON_16, ON_CODE16, ON_CODE32, ON_CODE64, ON_PORT64,
	ON_STACK64, ON_W, ON_L,
};
static const uint8_t osz_bytes[][8] = {
	[ON_1] = { 1, 1, 1, 1, 1, 1, 1, 1 },
	[ON_2] = { 2, 2, 2, 2, 2, 2, 2, 2 },
	[ON_4] = { 4, 4, 4, 4, 4, 4, 4, 4 },
	[ON_8] = { 8, 8, 8, 8, 8, 8, 8, 8 },
	[ON_16] = { 16, 16, 16, 16, 16, 16, 16, 16 },
	[ON_CODE16] = { 2, 4, 2, 4, 2, 4, 2, 4 },
	[ON_CODE32] = { 4, 2, 4, 2, 4, 2, 4, 2 },
	[ON_CODE64] = { 4, 2, 8, 8, 4, 2, 8, 8 },
	[ON_PORT64] = { 4, 2, 4, 4, 4, 2, 4, 4 },
	[ON_STACK64] = { 8, 2, 8, 8, 8, 2, 8, 8 },
	[ON_W] = { 4, 4, 8, 8, 4, 4, 8, 8 },
	[ON_L] = { 16, 16, 16, 16, 32, 32, 32, 32 },
};
/* Which of these, for code of 16, 32, 64 bits; on AMD, Intel. */
#define OSZ_COMMON                                                                              \
	[INSO_B] = { ON_1, ON_1, ON_1 }, [INSO_W] = { ON_2, ON_2, ON_2 },                       \
	[INSO_D] = { ON_4, ON_4, ON_4 }, [INSO_Q] = { ON_8, ON_8, ON_8 },                       \
	[INSO_X] = { ON_16, ON_16, ON_16 }, [INSO_V] = { ON_CODE16, ON_CODE32, ON_CODE64 },     \
	[INSO_Z] = { ON_CODE16, ON_CODE32, ON_PORT64 }, [INSO_Y] = { ON_4, ON_4, ON_W },        \
	[INSO_D64] = { ON_CODE16, ON_CODE32, ON_STACK64 }, [INSO_N] = { ON_4, ON_4, ON_8 },     \
	[INSO_VL] = { ON_L, ON_L, ON_L }
static const uint8_t osz_rule[2][INSOS][3] = {
	[0] = { OSZ_COMMON, [INSO_BR] = { ON_CODE16, ON_CODE32, ON_STACK64 },
		[INSO_FAR] = { ON_CODE16, ON_CODE32, ON_PORT64 } },
	[1] = { OSZ_COMMON, [INSO_BR] = { ON_CODE16, ON_CODE32, ON_8 },
		[INSO_FAR] = { ON_CODE16, ON_CODE32, ON_CODE64 } },
};
/* clang-format on */

/* The state of one decode: where, and what the prefixes say. */
struct dec {
	const uint8_t *p;
	unsigned pos;
	/* 0, 1, 2 for 16, 32, 64; and whether it is 64. */
	unsigned size_ix, mode64;
	unsigned map;
	/* W, R, X, B of REX or VEX, as in REX (8, 4, 2, 1); in 32-bit code only VEX.W. */
	unsigned rex;
	/* 0 none, 1 66, 2 F3, 3 F2; from VEX.pp there. */
	unsigned pp;
	unsigned vexl;
	/* VEX.vvvv, inverted back. */
	unsigned vvvv;
	/* INSN_* */
	unsigned flags;
	/* Segment prefix or -1. */
	int seg;
	uint8_t adsize;
};

void soft_decode_vendor(bool intel)
{
	/* It may be said again, the same, while others decode. */
	if (dec_intel != intel)
		dec_intel = intel;
}

static ALWAYS_INLINE int64_t get_s(const uint8_t *p, unsigned bytes)
{
	int16_t v16;
	int32_t v32;
	int64_t v64;

	switch (bytes) {
	case 1:
		return (int8_t)p[0];
	case 2:
		memcpy(&v16, p, 2);
		return v16;
	case 4:
		memcpy(&v32, p, 4);
		return v32;
	default:
		memcpy(&v64, p, 8);
		return v64;
	}
}

static ALWAYS_INLINE uint16_t get_u16(const uint8_t *p)
{
	return (uint16_t)get_s(p, 2);
}

/* One prefix that is neither REX nor an escape. */
static ALWAYS_INLINE void dec_prefix(struct dec *d, unsigned kind, uint8_t b)
{
	switch (kind) {
	case PFX_SEG:
		/* 26, 2E, 36, 3E; 64, 65.  In 64-bit code the first four are nothing at all. */
		if (b >= 0x64)
			d->seg = b - 0x64 + X86_FS;
		else if (!d->mode64)
			d->seg = b >> 3 & 3;
		break;
	case PFX_66:
		d->flags |= INSN_66;
		break;
	case PFX_67:
		d->adsize = d->size_ix == 1 ? 2 : 4;
		break;
	case PFX_LOCK:
		d->flags |= INSN_LOCK;
		break;
	default:
		d->flags &= ~(unsigned)(INSN_REP | INSN_REPNE);
		d->flags |= b == 0xf3 ? INSN_REP : INSN_REPNE;
		break;
	}
}

/*
 * VEX (SDM 2 2.3.5): false when the bytes are LES or LDS.  With a prefix that VEX does not go with,
 * or in an unknown map, d->map is INSN_MAPS.
 */
static ALWAYS_INLINE bool dec_vex(struct dec *d, bool three)
{
	unsigned b1 = d->p[d->pos], b2;
	bool bad = d->flags & (INSN_66 | INSN_REP | INSN_REPNE | INSN_LOCK | INSN_REX);

	if (!d->mode64 && b1 < 0xc0)
		return false;
	d->pos++;
	if (three) {
		b2 = d->p[d->pos++];
		d->map = MAP_VEX - 1 + (b1 & 31);
		bad |= d->map < MAP_VEX || d->map >= INSN_MAPS;
		/* Inverted R, X, B are bits 7-5; as in REX they are 2-0.  32-bit code: R and X are
		 * 1 by now, B is ignored. */
		d->rex = d->mode64 ? ~b1 >> 5 & 7 : 0;
		d->rex |= b2 >> 4 & 8;
	} else {
		b2 = b1;
		d->map = MAP_VEX;
		d->rex = d->mode64 ? ~b1 >> 5 & 4 : 0;
	}
	d->vvvv = ~b2 >> 3 & 15;
	d->vexl = b2 >> 2 & 1;
	/* VEX.pp counts 66, F3, F2, as we do. */
	d->pp = b2 & 3;
	d->flags |= INSN_VEX | (d->vexl ? INSN_VEXL : 0);
	if (bad)
		d->map = INSN_MAPS;
	return true;
}

/* Everything up to the opcode, which is returned; d->map is INSN_MAPS when it is undefined. */
static ALWAYS_INLINE uint8_t dec_opcode(struct dec *d)
{
	uint8_t b = d->p[d->pos++];
	unsigned kind = pfx_kind[d->mode64][b];

	d->map = MAP_1BYTE;
	while (kind != PFX_NONE && kind < PFX_0F && d->pos <= INSN_MAX) {
		/* REX counts only where the opcode follows it. */
		d->flags &= ~(unsigned)INSN_REX;
		d->rex = 0;
		if (kind == PFX_REX) {
			d->flags |= INSN_REX;
			d->rex = b & 15;
		} else {
			dec_prefix(d, kind, b);
		}
		b = d->p[d->pos++];
		kind = pfx_kind[d->mode64][b];
	}
	if (kind == PFX_0F) {
		d->map = MAP_0F;
		b = d->p[d->pos++];
		if (b == 0x38 || b == 0x3a) {
			d->map = b == 0x38 ? MAP_0F38 : MAP_0F3A;
			b = d->p[d->pos++];
		}
	} else if (kind >= PFX_VEX3) {
		if (dec_vex(d, kind == PFX_VEX3))
			return d->p[d->pos++];
	}
	if (d->flags & (INSN_66 | INSN_REP | INSN_REPNE))
		d->pp = d->flags & INSN_REP ? 2 : d->flags & INSN_REPNE ? 3 : 1;
	return b;
}

/* Memory operand with 16-bit addresses (SDM 2 table 2-1). */
static ALWAYS_INLINE void dec_mem16(struct dec *d, struct insn *i)
{
	static const uint8_t base[8] = { X86_RBX, X86_RBX, X86_RBP, X86_RBP,
					 X86_RSI, X86_RDI, X86_RBP, X86_RBX };
	static const uint8_t index[8] = { X86_RSI,   X86_RDI,   X86_RSI,   X86_RDI,
					  SREG_NONE, SREG_NONE, SREG_NONE, SREG_NONE };
	unsigned mod = i->modrm >> 6, rm = i->modrm & 7;
	unsigned disp_bytes = mod == 3 ? 0 : mod;

	i->base = base[rm];
	i->index = index[rm];
	if (mod == 0 && rm == 6) {
		i->base = SREG_NONE;
		disp_bytes = 2;
	}
	if (disp_bytes)
		i->disp = get_s(d->p + d->pos, disp_bytes);
	d->pos += disp_bytes;
	i->seg = i->base == X86_RBP ? X86_SS : X86_DS;
}

/* Memory operand with 32- or 64-bit addresses (SDM 2 tables 2-2, 2-3; 2.2.1.6). */
static ALWAYS_INLINE void dec_mem(struct dec *d, struct insn *i)
{
	unsigned mod = i->modrm >> 6, rm = i->modrm & 7;
	unsigned base = rm, sib;

	i->index = SREG_NONE;
	if (rm == 4) {
		sib = d->p[d->pos++];
		base = sib & 7;
		i->scale = sib >> 6;
		i->index = (sib >> 3 & 7) | (d->rex & 2) << 2;
		if (i->index == X86_RSP)
			i->index = SREG_NONE;
	}
	i->seg = X86_DS;
	i->base = base | (d->rex & 1) << 3;
	if (mod == 0 && base == 5) {
		i->base = rm == 5 && d->mode64 ? SREG_RIP : SREG_NONE;
		i->disp = get_s(d->p + d->pos, 4);
		d->pos += 4;
		return;
	}
	if (i->base == X86_RSP || i->base == X86_RBP)
		i->seg = X86_SS;
	if (mod) {
		unsigned unused_bits = mod == 1 ? 24 : 0;

		i->disp = (int32_t)((uint32_t)get_s(d->p + d->pos, 4) << unused_bits) >>
			  unused_bits;
		d->pos += mod == 1 ? 1 : 4;
	}
}

static ALWAYS_INLINE void dec_modrm(struct dec *d, struct insn *i, bool never_mem)
{
	i->modrm = d->p[d->pos++];
	i->reg = (i->modrm >> 3 & 7) | (d->rex & 4) << 1;
	if (i->modrm >= 0xc0 || never_mem) {
		i->rm = (i->modrm & 7) | (d->rex & 1) << 3;
		return;
	}
	d->flags |= INSN_MEM;
	if (d->adsize == 2)
		dec_mem16(d, i);
	else
		dec_mem(d, i);
}

static ALWAYS_INLINE unsigned dec_form(const struct dec *d, const struct insn *i,
				       const struct insn_root *root)
{
	unsigned next = root->next, key;

	if (next < 0x8000)
		return next;
	key = (i->modrm & 63) | (d->flags & INSN_MEM ? 0 : 1 << 6) | d->pp << 7 |
	      (d->rex & 8) << 6 | d->vexl << 10 | (d->rex & 1) << 11;
	do {
		const struct insn_node *n = &insn_nodes[next & 0x7fff];

		next = insn_slots[n->base + (key >> n->shift & n->mask)];
	} while (next >= 0x8000);
	return next;
}

static ALWAYS_INLINE void dec_imm_rare(struct dec *d, struct insn *i, unsigned kind)
{
	const uint8_t *p = d->p + d->pos;
	unsigned bytes = i->opsize == 2 ? 2 : 4;

	switch (kind) {
	case DIMM_ENTER:
		i->imm = get_u16(p);
		i->imm2 = p[2];
		d->pos += 3;
		break;
	case DIMM_FAR:
		i->imm = bytes == 2 ? get_u16(p) : (uint32_t)get_s(p, 4);
		i->imm2 = get_u16(p + bytes);
		d->pos += bytes + 2;
		break;
	case DIMM_MOFFS:
		i->disp = get_s(p, d->adsize);
		d->flags |= INSN_MEM;
		d->pos += d->adsize;
		break;
	default:
		i->imm = p[0];
		i->is4 = p[0] >> 4 & (d->mode64 ? 15 : 7);
		d->pos++;
		break;
	}
}

/* Bytes of the plain kinds by log2 of the operand size. */
static const uint8_t imm_bytes[DIMM_V + 1][6] = {
	[DIMM_U8] = { 1, 1, 1, 1, 1, 1 },  [DIMM_S8] = { 1, 1, 1, 1, 1, 1 },
	[DIMM_U16] = { 2, 2, 2, 2, 2, 2 }, [DIMM_Z] = { 1, 2, 4, 4, 4, 4 },
	[DIMM_V] = { 1, 2, 4, 8, 8, 8 },
};

/* Without a branch for each width: which one it is cannot be foreseen. */
static ALWAYS_INLINE void dec_imm(struct dec *d, struct insn *i, unsigned kind)
{
	unsigned bytes, unused_bits;
	uint64_t v;

	if (kind == DIMM_NONE)
		return;
	if (unlikely(kind > DIMM_V)) {
		dec_imm_rare(d, i, kind);
		return;
	}
	bytes = imm_bytes[kind][__builtin_ctz(i->opsize)];
	unused_bits = 64 - 8 * bytes;
	v = (uint64_t)get_s(d->p + d->pos, 8) << unused_bits;
	i->imm = kind == DIMM_U8 || kind == DIMM_U16 ? v >> unused_bits :
						       (uint64_t)((int64_t)v >> unused_bits);
	d->pos += bytes;
}

/* AH, CH, DH, BH: byte registers 4-7 without REX. */
static ALWAYS_INLINE void dec_high(struct dec *d, uint8_t *reg, unsigned flag)
{
	if (*reg >= 4 && *reg < 8 && !(d->flags & INSN_REX)) {
		*reg -= 4;
		d->flags |= flag;
	}
}

/* Register numbers as the form has them. */
static ALWAYS_INLINE void dec_regs(struct dec *d, struct insn *i, unsigned f)
{
	if (f & DEC_OPREG)
		i->reg = (i->opcode & 7) | (d->rex & 1) << 3;
	if (f & DEC_OPSREG)
		i->reg = i->opcode >> 3 & 7;
	if (f & DEC_REG3)
		i->reg &= 7;
	if (f & DEC_RM3)
		i->rm &= 7;
	if (f & DEC_REG8)
		dec_high(d, &i->reg, INSN_REG_HIGH);
	if (f & DEC_RM8 && !(d->flags & INSN_MEM))
		dec_high(d, &i->rm, INSN_RM_HIGH);
}

/* Vector-indexed memory: there must be a SIB byte, and index 4 is a register like any other. */
static ALWAYS_INLINE bool dec_vsib(struct dec *d, struct insn *i, unsigned f)
{
	if (d->adsize == 2 || (i->modrm & 7) != 4)
		return false;
	if (i->index == SREG_NONE)
		i->index = X86_RSP;
	if (f & DEC_GATHER)
		return i->reg != i->index && i->reg != d->vvvv && i->index != d->vvvv;
	return true;
}

/* Is the instruction legal, apart from its opcode?  Completes i for VEX. */
static ALWAYS_INLINE bool dec_legal(struct dec *d, struct insn *i, unsigned f)
{
	if (d->flags & INSN_LOCK && !(f & DEC_LOCK && d->flags & INSN_MEM))
		return false;
	if (d->flags & INSN_VEX) {
		if (!(f & DEC_VVVV) && d->vvvv)
			return false;
		if (!d->mode64)
			d->vvvv &= 7;
		i->vvvv = (uint8_t)d->vvvv;
		if (f & DEC_VSIB && !dec_vsib(d, i, f))
			return false;
	}
	/* Of CR8..CR15 there is CR8 only; DR8..DR15 do not exist. */
	if (f & (DEC_CR | DEC_DR | DEC_UD))
		return !(f & DEC_UD) && (i->reg < 8 || (f & DEC_CR && i->reg == 8));
	return true;
}

static ALWAYS_INLINE uint8_t dec_opsize(const struct dec *d, unsigned rule)
{
	/* 66 is part of VEX. */
	unsigned p66 = (d->flags & (INSN_66 | INSN_VEX)) == INSN_66;
	unsigned on = osz_rule[dec_intel][rule][d->size_ix];

	return osz_bytes[on][p66 | (d->rex & 8) >> 2 | d->vexl << 2];
}

static ALWAYS_INLINE void insn_clear(struct insn *i)
{
	i->imm = 0;
	i->disp = 0;
	i->imm2 = 0;
	i->modrm = 0;
	i->reg = i->rm = 0;
	i->base = i->index = SREG_NONE;
	i->scale = 0;
	i->seg = X86_DS;
	i->vvvv = i->is4 = 0;
}

/*
 * What `err`, concluded from the first `len` bytes, means when only `avail` of them are real; 0 for
 * no error.
 */
static ALWAYS_INLINE int verdict(unsigned len, unsigned avail, int err)
{
	if (likely(len <= INSN_MAX && len <= avail))
		return err ? err : (int)len;
	return avail >= INSN_MAX ? -E2BIG : -ENODATA;
}

/* CPUs take undefined opcodes of these maps to have an immediate byte, like all others of theirs. */
static unsigned undefined_imm(unsigned map)
{
	return map == MAP_0F3A || map == MAP_VEX + 2;
}

static ALWAYS_INLINE int dec_insn(struct dec *d, unsigned avail, struct insn *i)
{
	const struct insn_root *root;
	const struct insn_dec *dec;
	unsigned tail;
	bool ok;

	insn_clear(i);
	i->opcode = dec_opcode(d);
	if (d->map >= INSN_MAPS || d->pos > INSN_MAX)
		return verdict(d->pos, avail, -EILSEQ);
	root = &insn_roots[d->mode64][d->map][i->opcode];
	if (root->modrm)
		dec_modrm(d, i, root->modrm == 2);
	i->form = (uint16_t)dec_form(d, i, root);
	if (unlikely(!i->form))
		return verdict(d->pos + undefined_imm(d->map), avail, -EILSEQ);
	dec = &insn_dec[i->form];
	i->opsize = dec_opsize(d, dec->osz);
	tail = d->pos;
	dec_imm(d, i, dec->imm);
	i->tail = (uint8_t)(d->pos - tail);
	i->enc = (uint8_t)((d->map < MAP_VEX ? d->map : d->map - MAP_VEX + 1) |
			   d->pp << INSN_ENC_PP_SHIFT | (root->modrm ? INSN_ENC_MODRM : 0));
	dec_regs(d, i, dec->flags);
	ok = dec_legal(d, i, dec->flags);
	i->len = (uint8_t)d->pos;
	i->adsize = d->adsize;
	i->ea_mask = ~0ull >> (64 - 8 * d->adsize);
	if (i->base == SREG_RIP)
		i->disp += d->pos;
	if (d->seg >= 0) {
		i->seg = (uint8_t)d->seg;
		d->flags |= INSN_SEG;
	}
	i->flags = (uint16_t)(d->flags | (d->rex & 8 ? INSN_REXW : 0) |
			      (dec->flags & DEC_END ? INSN_END : 0));
	return verdict(d->pos, avail, ok ? 0 : -EILSEQ);
}

static ALWAYS_INLINE int dec_at(const uint8_t *p, unsigned avail, unsigned code_size,
				struct insn *ret)
{
	struct dec d = {
		.p = p,
		.size_ix = code_size >> 5,
		.mode64 = code_size == 64,
		.seg = -1,
		.adsize = (uint8_t)(code_size / 8),
	};

	return dec_insn(&d, avail, ret);
}

/* Near the end of what can be read. */
static NOINLINE int dec_copy(const uint8_t *p, unsigned avail, unsigned code_size, struct insn *ret)
{
	uint8_t copy[READ_AHEAD] = { 0 };

	memcpy(copy, p, avail < INSN_MAX ? avail : INSN_MAX);
	return dec_at(copy, avail, code_size, ret);
}

int soft_decode(const uint8_t *p, unsigned avail, unsigned code_size, struct insn *ret)
{
	if (unlikely(avail < READ_AHEAD))
		return dec_copy(p, avail, code_size, ret);
	return dec_at(p, avail, code_size, ret);
}
