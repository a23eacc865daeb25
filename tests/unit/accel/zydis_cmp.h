/*
 * The decoder against Zydis: does it take the same bytes for the same instruction?
 *
 * zcmp() decodes one byte string with both and returns NULL when they agree, otherwise what
 * differs. The lists of known differences are here, each with its reason.
 */
#pragma once

#include "accel/soft/insn.h"
#include "accel/soft/soft_int.h"

#include <Zydis/Zydis.h>
#include <errno.h>
#include <string.h>

struct zcmp {
	ZydisDecoder dec[3];
	/* What the last zcmp() saw. */
	ZydisDecodedInstruction z;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	/* Zydis knows it, and so should we / and we are right not to. */
	bool z_ok, z_refused;
	struct insn i;
	int len;
	uint64_t valid, invalid, known;
};

static inline void zcmp_init(struct zcmp *c)
{
	static const ZydisMachineMode mode[3] = { ZYDIS_MACHINE_MODE_LONG_COMPAT_16,
						  ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
						  ZYDIS_MACHINE_MODE_LONG_64 };
	static const ZydisStackWidth width[3] = { ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32,
						  ZYDIS_STACK_WIDTH_64 };

	memset(c, 0, sizeof(*c));
	for (int m = 0; m < 3; m++) {
		ZydisDecoderInit(&c->dec[m], mode[m], width[m]);
		ZydisDecoderEnableMode(&c->dec[m], ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
		ZydisDecoderEnableMode(&c->dec[m], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
		ZydisDecoderEnableMode(&c->dec[m], ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
		ZydisDecoderEnableMode(&c->dec[m], ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
		ZydisDecoderEnableMode(&c->dec[m], ZYDIS_DECODER_MODE_KNC, ZYAN_FALSE);
	}
}

/* Mnemonics that have one name here and several in Zydis, which tells operand sizes by name. */
static const char *const zcmp_alias[][9] = {
	{ "CALLF", "CALL" },
	{ "JMPF", "JMP" },
	{ "RETF", "RET" },
	{ "CBW", "CWDE", "CDQE" },
	{ "CWD", "CDQ", "CQO" },
	{ "CMPS", "CMPSB", "CMPSW", "CMPSD", "CMPSQ" },
	{ "MOVS", "MOVSB", "MOVSW", "MOVSD", "MOVSQ" },
	{ "STOS", "STOSB", "STOSW", "STOSD", "STOSQ" },
	{ "LODS", "LODSB", "LODSW", "LODSD", "LODSQ" },
	{ "SCAS", "SCASB", "SCASW", "SCASD", "SCASQ" },
	{ "INS", "INSB", "INSW", "INSD" },
	{ "OUTS", "OUTSB", "OUTSW", "OUTSD" },
	{ "PUSHA", "PUSHAD" },
	{ "POPA", "POPAD" },
	{ "PUSHF", "PUSHFD", "PUSHFQ" },
	{ "POPF", "POPFD", "POPFQ" },
	{ "IRET", "IRETD", "IRETQ" },
	{ "JCXZ", "JECXZ", "JRCXZ" },
	{ "MOVD", "MOVQ" },
	{ "VMOVD", "VMOVQ" },
	{ "PEXTRD", "PEXTRQ" },
	{ "VPEXTRD", "VPEXTRQ" },
	{ "PINSRD", "PINSRQ" },
	{ "VPINSRD", "VPINSRQ" },
	{ "FXSAVE", "FXSAVE64" },
	{ "FXRSTOR", "FXRSTOR64" },
	{ "XSAVE", "XSAVE64" },
	{ "XRSTOR", "XRSTOR64" },
	{ "XSAVEC", "XSAVEC64" },
	{ "XSAVEOPT", "XSAVEOPT64" },
	{ "XSAVES", "XSAVES64" },
	{ "XRSTORS", "XRSTORS64" },
	{ "FNSETPM", "FENI8087_NOP", "FDISI8087_NOP", "FSETPM287_NOP" },
	/* Hints. */
	{ "PREFETCH", "PREFETCHNTA", "PREFETCHT0", "PREFETCHT1", "PREFETCHT2", "NOP" },
	{ "PREFETCHW", "PREFETCH", "PREFETCHWT1", "NOP" },
	{ "NOP", "ENDBR32", "ENDBR64" },
	/* Zydis tells these apart; without the feature they are WBINVD. */
	{ "WBINVD", "WBNOINVD" },
};

static const char *const zcmp_cc[16] = { "O", "NO", "B", "NB", "Z", "NZ", "BE", "NBE",
					 "S", "NS", "P", "NP", "L", "NL", "LE", "NLE" };

/* The lower-case name of Zydis against prefix and upper-case name. */
static inline bool zcmp_is(const char *zname, const char *prefix, const char *name)
{
	size_t n = strlen(prefix);

	return strncasecmp(zname, prefix, n) == 0 && strcasecmp(zname + n, name) == 0;
}

static inline bool zcmp_name(const struct insn *i, const char *zname)
{
	const struct insn_form *f = &insn_forms[i->form];

	if (f->sop == SOP_JCC)
		return zcmp_is(zname, "J", zcmp_cc[i->opcode & 15]);
	if (f->sop == SOP_SETCC)
		return zcmp_is(zname, "SET", zcmp_cc[i->opcode & 15]);
	if (f->sop == SOP_CMOVCC)
		return zcmp_is(zname, "CMOV", zcmp_cc[i->opcode & 15]);
	if (strcasecmp(zname, f->name) == 0)
		return true;
	for (unsigned k = 0; k < COUNT_OF(zcmp_alias); k++) {
		if (strcmp(zcmp_alias[k][0], f->name))
			continue;
		for (unsigned n = 1; n < COUNT_OF(zcmp_alias[k]) && zcmp_alias[k][n]; n++)
			if (strcasecmp(zname, zcmp_alias[k][n]) == 0)
				return true;
	}
	return false;
}

/* Sets of instructions that Zydis knows and no guest is offered: we refuse them. */
static const uint8_t zcmp_unsupported_sets[] = {
	ZYDIS_ISA_SET_AMD3DNOW,    ZYDIS_ISA_SET_AMD_INVLPGB, ZYDIS_ISA_SET_AMX_BF16,
	ZYDIS_ISA_SET_AMX_INT8,    ZYDIS_ISA_SET_AMX_TILE,    ZYDIS_ISA_SET_AVX_GFNI,
	ZYDIS_ISA_SET_AVX_VNNI,    ZYDIS_ISA_SET_CET,         ZYDIS_ISA_SET_CLZERO,
	ZYDIS_ISA_SET_ENQCMD,      ZYDIS_ISA_SET_FMA4,        ZYDIS_ISA_SET_GFNI,
	ZYDIS_ISA_SET_HRESET,      ZYDIS_ISA_SET_KEYLOCKER,   ZYDIS_ISA_SET_KEYLOCKER_WIDE,
	ZYDIS_ISA_SET_KNCE,        ZYDIS_ISA_SET_KNCJKBR,     ZYDIS_ISA_SET_KNCSTREAM,
	ZYDIS_ISA_SET_KNCV,        ZYDIS_ISA_SET_KNC_MISC,    ZYDIS_ISA_SET_KNC_PF_HINT,
	ZYDIS_ISA_SET_LWP,         ZYDIS_ISA_SET_MCOMMIT,     ZYDIS_ISA_SET_MONITORX,
	ZYDIS_ISA_SET_MOVDIR,      ZYDIS_ISA_SET_MPX,         ZYDIS_ISA_SET_PADLOCK_ACE,
	ZYDIS_ISA_SET_PADLOCK_PHE, ZYDIS_ISA_SET_PADLOCK_PMM, ZYDIS_ISA_SET_PADLOCK_RNG,
	ZYDIS_ISA_SET_PCONFIG,     ZYDIS_ISA_SET_PKU,         ZYDIS_ISA_SET_PT,
	ZYDIS_ISA_SET_RDPRU,       ZYDIS_ISA_SET_RTM,         ZYDIS_ISA_SET_SERIALIZE,
	ZYDIS_ISA_SET_SGX,         ZYDIS_ISA_SET_SGX_ENCLV,   ZYDIS_ISA_SET_SMX,
	ZYDIS_ISA_SET_SNP,         ZYDIS_ISA_SET_SSE4A,       ZYDIS_ISA_SET_TBM,
	ZYDIS_ISA_SET_TDX,         ZYDIS_ISA_SET_TSX_LDTRK,   ZYDIS_ISA_SET_UINTR,
	ZYDIS_ISA_SET_VMFUNC,      ZYDIS_ISA_SET_WAITPKG,     ZYDIS_ISA_SET_XOP,
};

static inline bool zcmp_unsupported(const ZydisDecodedInstruction *z)
{
	if (z->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    z->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		return true;
	if (z->meta.isa_set >= ZYDIS_ISA_SET_AVX512BW_128 &&
	    z->meta.isa_set <= ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_512)
		return true;
	if (memchr(zcmp_unsupported_sets, z->meta.isa_set, sizeof(zcmp_unsupported_sets)))
		return true;
	switch (z->mnemonic) {
	/* Defined to be undefined, or outside system management mode. */
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2:
	case ZYDIS_MNEMONIC_RSM:
		return true;
	/* Of VMX and SVM we have these two, which hypervisors use as calls. */
	case ZYDIS_MNEMONIC_VMCALL:
	case ZYDIS_MNEMONIC_VMMCALL:
		return false;
	default:
		return z->meta.isa_set == ZYDIS_ISA_SET_SVM || z->meta.isa_set == ZYDIS_ISA_SET_VTX;
	}
}

/* Number of a Zydis general or segment register as in struct insn; SREG_NONE, SREG_RIP. */
static inline int zcmp_reg(ZydisRegister r)
{
	if (r == ZYDIS_REGISTER_NONE)
		return SREG_NONE;
	if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
		return SREG_RIP;
	return ZydisRegisterGetId(r);
}

static inline const char *zcmp_mem(const struct zcmp *c, const ZydisDecodedOperand *m)
{
	const struct insn *i = &c->i;
	int64_t disp = m->mem.disp.value + (i->base == SREG_RIP ? c->len : 0);
	int scale = i->index == SREG_NONE ? 0 : 1 << i->scale;

	if (!(i->flags & INSN_MEM))
		return "memory operand";
	if (i->base != zcmp_reg(m->mem.base) || i->index != zcmp_reg(m->mem.index))
		return "base or index";
	if (m->mem.index != ZYDIS_REGISTER_NONE && scale != m->mem.scale)
		return "scale";
	if ((disp ^ i->disp) & (int64_t)i->ea_mask)
		return "displacement";
	if (m->mem.segment != ZYDIS_REGISTER_NONE && zcmp_reg(m->mem.segment) != i->seg)
		return "segment";
	return NULL;
}

/* Registers: all explicit ones of Zydis must be where the kinds of our operands say. */
static inline const char *zcmp_one_reg(const struct zcmp *c, const ZydisDecodedOperand *r)
{
	const struct insn *i = &c->i;
	const struct insn_form *f = &insn_forms[i->form];
	int id = ZydisRegisterGetId(r->reg.value), want = -1;
	ZydisRegisterClass k = ZydisRegisterGetClass(r->reg.value);
	unsigned high = 0;

	switch (r->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG:
	case ZYDIS_OPERAND_ENCODING_OPCODE:
		want = i->reg;
		high = INSN_REG_HIGH;
		if (f->opnd[0].kind == OPND_STI || f->opnd[1].kind == OPND_STI)
			return NULL;
		break;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM:
		want = i->rm;
		high = INSN_RM_HIGH;
		break;
	case ZYDIS_OPERAND_ENCODING_NDSNDD:
		want = i->vvvv;
		break;
	case ZYDIS_OPERAND_ENCODING_IS4:
		want = i->is4;
		break;
	default:
		return NULL;
	}
	if (k == ZYDIS_REGCLASS_GPR8) {
		/* Zydis numbers AL CL DL BL, AH CH DH BH, SPL BPL SIL DIL, R8B ... */
		bool is_high =
			r->reg.value >= ZYDIS_REGISTER_AH && r->reg.value <= ZYDIS_REGISTER_BH;

		if (is_high)
			id = r->reg.value - ZYDIS_REGISTER_AH;
		else if (r->reg.value >= ZYDIS_REGISTER_SPL)
			id = r->reg.value - ZYDIS_REGISTER_SPL + 4;
		else
			id = r->reg.value - ZYDIS_REGISTER_AL;
		if (is_high != !!(i->flags & high))
			return "high byte register";
	}
	return id == want ? NULL : "register number";
}

static inline const char *zcmp_imms(const struct zcmp *c)
{
	const struct insn *i = &c->i;
	const struct insn_form *f = &insn_forms[i->form];
	unsigned n = 0;

	for (unsigned k = 0; k < c->z.operand_count; k++) {
		const ZydisDecodedOperand *o = &c->op[k];
		uint64_t mask = ~0ull;

		if (o->type == ZYDIS_OPERAND_TYPE_POINTER)
			return o->ptr.offset == i->imm && o->ptr.segment == i->imm2 ? NULL : "far";
		if (o->type != ZYDIS_OPERAND_TYPE_IMMEDIATE ||
		    o->encoding == ZYDIS_OPERAND_ENCODING_IS4)
			continue;
		if (o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN ||
		    o->visibility == ZYDIS_OPERAND_VISIBILITY_IMPLICIT)
			continue;
		if (n++ == 1) {
			if (i->imm2 != (uint16_t)o->imm.value.u)
				return "second immediate";
			continue;
		}
		/* Zydis extends to the operand size only. */
		if (f->opnd[0].kind != OPND_REL && i->opsize < 8)
			mask = (1ull << 8 * i->opsize) - 1;
		if (((uint64_t)o->imm.value.u ^ i->imm) & mask)
			return "immediate";
	}
	return NULL;
}

static inline bool zcmp_implicit_mem(const ZydisDecodedOperand *o)
{
	return o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM &&
	       o->encoding != ZYDIS_OPERAND_ENCODING_DISP16_32_64;
}

static inline const char *zcmp_operands(const struct zcmp *c)
{
	const struct insn *i = &c->i;
	const struct insn_form *f = &insn_forms[i->form];
	const char *why = zcmp_imms(c);

	if (why)
		return why;
	if (i->adsize * 8 != c->z.address_width)
		return "address size";
	if ((f->osz == INSO_V || f->osz == INSO_Z || f->osz == INSO_D64 || f->osz == INSO_BR) &&
	    f->class != INSC_HOST && i->opsize * 8 != c->z.operand_width)
		return "operand size";
	for (unsigned k = 0; k < c->z.operand_count && !why; k++) {
		const ZydisDecodedOperand *o = &c->op[k];

		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER)
			why = zcmp_one_reg(c, o);
		else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && !zcmp_implicit_mem(o))
			why = zcmp_mem(c, o);
		else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY &&
			 o->encoding == ZYDIS_OPERAND_ENCODING_NONE && f->class == INSC_STR &&
			 zcmp_reg(o->mem.base) == X86_RSI && zcmp_reg(o->mem.segment) != i->seg)
			why = "string segment";
	}
	return why;
}

/* Memory access: width and direction. */
static inline const char *zcmp_access(const struct zcmp *c)
{
	const struct insn_form *f = &insn_forms[c->i.form];
	unsigned bytes = insn_size_bytes(f->mem_size, c->i.opsize,
					 c->z.machine_mode == ZYDIS_MACHINE_MODE_LONG_64 ? 64 : 32);

	for (unsigned k = 0; k < c->z.operand_count; k++) {
		const ZydisDecodedOperand *o = &c->op[k];
		unsigned a = (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ ? INSA_R : 0) |
			     (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? INSA_W : 0);

		if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || zcmp_implicit_mem(o) ||
		    f->mem_size == INSZ_NONE || f->mem_size == INSZ_XSAVE)
			continue;
		if (f->mem_access != a)
			return "memory direction";
		if (bytes != o->size / 8)
			return "memory size";
	}
	return NULL;
}

/*
 * RFLAGS.  Ours are of the mnemonic, Zydis' often of the very instruction, so ours must contain
 * them; and what ours leave out nobody may touch.
 */
static inline const char *zcmp_flags(const struct zcmp *c)
{
	const uint32_t look = 0xfd5 | ZYDIS_CPUFLAG_AC;
	const struct insn_form *f = &insn_forms[c->i.form];
	const ZydisAccessedFlags *z = c->z.cpu_flags;
	uint32_t w, u;

	if (!z)
		return (f->fl_r | f->fl_w | f->fl_u) & look ? "flags at all" : NULL;
	w = (z->modified | z->set_0 | z->set_1) & look;
	u = z->undefined & look;
	if (z->tested & look & ~f->fl_r)
		return "flags read";
	if ((w | u) != ((f->fl_w | f->fl_u) & look))
		return "flags written";
	/* The OF of a shift by exactly 1 is defined, and Zydis counts it as undefined for all. */
	if (u & ~f->fl_u & (f->opnd[1].kind == OPND_ONE ? ~(uint32_t)ZYDIS_CPUFLAG_OF : ~0u))
		return "flags undefined";
	return NULL;
}

/* Memory operand of SIB form without a base register: mod 0, base 5. */
static inline bool zcmp_sib_no_base(const ZydisDecodedInstruction *z)
{
	return z->raw.modrm.mod == 0 && z->raw.modrm.rm == 4 && z->raw.sib.base == 5;
}

/*
 * Where Zydis is known to differ, and why it is Zydis that we do not follow.  test_decode_host
 * asks the CPU about the same encodings.
 */
static inline bool zcmp_known(const struct zcmp *c, const char *why, unsigned mode)
{
	const struct insn *i = &c->i;
	unsigned sop = c->len > 0 ? insn_forms[i->form].sop : SOP_NONE;
	unsigned osz = insn_forms[i->form].osz;

	/* AMD: 0F 0D (PREFETCHW) with a register is #UD; Zydis follows Intel, where it is a NOP. */
	if (c->len == -EILSEQ && c->z.opcode_map == ZYDIS_OPCODE_MAP_0F && c->z.opcode == 0x0d &&
	    c->z.raw.modrm.mod == 3)
		return true;
	if (c->len < 0)
		return false;
	/* Zydis gives address-only operands no segment. */
	if (strcmp(why, "segment") == 0)
		return sop == SOP_LEA;
	/* With 67 in 64-bit code Zydis takes mod 0, base 5, REX.B for a base register R13 without
	 * displacement, though it counts the displacement's bytes. */
	if (strcmp(why, "base or index") == 0)
		return mode == 2 && i->adsize == 4 && zcmp_sib_no_base(&c->z);
	/* AMD: 66 makes near branches 16 bits wide; Zydis has that for the length only.  Ports have
	 * no 64-bit width, and the width of a NOP is nobody's. */
	if (strcmp(why, "operand size") == 0)
		return (mode == 2 && osz == INSO_BR && i->flags & INSN_66) || sop == SOP_NOP ||
		       ((sop == SOP_INS || sop == SOP_OUTS) && i->flags & INSN_REXW);
	/* F3 REX.B 90 is XCHG with R8, not PAUSE (seen on Zen). */
	if (strcmp(why, "mnemonic") == 0)
		return sop == SOP_XCHG && c->z.mnemonic == ZYDIS_MNEMONIC_PAUSE;
	/* The same two of AMD: widths of far pointers and near branches.  CLFLUSH and its kin check
	 * one byte; Zydis counts the line. */
	if (strcmp(why, "memory size") == 0)
		return (mode == 2 && (osz == INSO_FAR || osz == INSO_BR)) || sop == SOP_CLFLUSH ||
		       sop == SOP_CLFLUSHOPT || sop == SOP_CLWB;
	if (strcmp(why, "flags written") == 0) {
		switch (sop) {
		/* Zydis leaves some out that SDM 2 says are cleared or undefined. */
		case SOP_VPTEST:
		case SOP_VTESTPS:
		case SOP_VTESTPD:
		case SOP_BEXTR:
		case SOP_INT1:
		case SOP_VMCALL:
			return true;
		default:
			return false;
		}
	}
	if (strcmp(why, "flags undefined") == 0)
		/* SBB's AF is defined (SDM 2 SBB); BEXTR's CF and OF are 0. */
		return sop == SOP_SBB || sop == SOP_BEXTR;
	/* REP of CMPS and SCAS tests ZF, which it has just written. */
	if (strcmp(why, "flags read") == 0)
		return sop == SOP_CMPS || sop == SOP_SCAS;
	return false;
}

static inline const char *zcmp_raw(struct zcmp *c, const uint8_t *p, unsigned avail, unsigned mode)
{
	ZyanStatus st = ZydisDecoderDecodeFull(&c->dec[mode], p, avail, &c->z, c->op);
	const char *why;

	c->z_refused = ZYAN_SUCCESS(st) && zcmp_unsupported(&c->z);
	c->z_ok = ZYAN_SUCCESS(st) && !c->z_refused;
	c->len = soft_decode(p, avail, 16u << mode, &c->i);
	if (st == ZYDIS_STATUS_NO_MORE_DATA || c->len == -ENODATA)
		return c->len == -ENODATA && !c->z_ok ? NULL : "bytes run out";
	/* Undefined opcodes have a length, too, which may be too much; not to Zydis. */
	if (st == ZYDIS_STATUS_INSTRUCTION_TOO_LONG || c->len == -E2BIG)
		return c->len == -E2BIG && ZYAN_FAILED(st) ? NULL : "too long";
	if (!c->z_ok) {
		c->invalid++;
		return c->len == -EILSEQ ? NULL : "Zydis refuses";
	}
	c->valid++;
	if (c->len < 0)
		return "only Zydis accepts";
	if (c->len != c->z.length)
		return "length";
	if (!zcmp_name(&c->i, ZydisMnemonicGetString(c->z.mnemonic)))
		return "mnemonic";
	why = zcmp_operands(c);
	if (!why)
		why = zcmp_access(c);
	return why ? why : zcmp_flags(c);
}

/* As described at the head: mode 0, 1, 2 for 16, 32, 64-bit code. */
static inline const char *zcmp(struct zcmp *c, const uint8_t *p, unsigned avail, unsigned mode)
{
	const char *why = zcmp_raw(c, p, avail, mode);

	if (why && zcmp_known(c, why, mode)) {
		c->known++;
		return NULL;
	}
	return why;
}
