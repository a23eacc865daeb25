/*
 * Instruction forms: what is known of each way to encode each instruction that the software CPU
 * has.
 *
 * insn.tab is the source: one text line a form (its head explains the notation).  tools/gen-insn
 * makes of it gen_insn.h (enum insn_sop, enum insn_form_id) and gen_insn.c (insn_forms[], and the
 * decoder's tables).  The decoder, bind.c, the translator and the test generators all read these
 * and nothing else, so a form is added in one place (docs/howto/add-instruction.md).
 *
 * A mnemonic (SOP_ADD) says what is done, the operands say to what: one mnemonic has many forms.
 * JCC, SETCC and CMOVCC are one mnemonic each; the condition is insn.opcode & 15.
 */
#pragma once

#include "base/compiler.h"

/* Made by tools/gen-insn: SOP_*, IFEAT_*, FORM_*, INSN_FORMS. */
#include "accel/soft/gen_insn.h"

enum insn_class {
	/* Refused: insn_forms[0], and UD0, UD1, UD2.  soft_decode() never returns one. */
	INSC_UD,
	/* Integer: a handler of our own in C. */
	INSC_INT,
	/* Vector, x87, BMI ...: run as a copied instruction on the host. */
	INSC_HOST,
	/* Near jumps, calls, returns. */
	INSC_FLOW,
	/* MOVS, CMPS, STOS, LODS, SCAS, INS, OUTS. */
	INSC_STR,
	/* System: segments, control registers, far transfers, ports, XSAVE ... */
	INSC_SYS,
};

/*
 * Where an operand is.  The field of struct insn that holds it:
 */
enum insn_opnd_kind {
	OPND_NONE,
	/* General register insn.reg: ModRM.reg, or the low bits of the opcode (PUSH r, MOV r, imm).
	 * One byte wide: INSN_REG_HIGH says AH..BH. */
	OPND_REG,
	/* Memory with INSN_MEM, otherwise general register insn.rm (INSN_RM_HIGH). */
	OPND_RM,
	/* Memory only (INSN_MEM is always set). */
	OPND_MEM,
	/* Memory at insn.disp alone (A0-A3).  INSN_MEM is set and soft_ea() works. */
	OPND_MOFFS,
	/* insn.imm, extended as the form says: see insn.tab. */
	OPND_IMM,
	/* insn.imm2 (ENTER's level). */
	OPND_IMM2,
	/* Branch displacement insn.imm from the end of the instruction, sign-extended. */
	OPND_REL,
	/* Far pointer: offset insn.imm, selector insn.imm2. */
	OPND_FAR,
	/* AL, AX, EAX, RAX by the operand's size. */
	OPND_ACC,
	OPND_CL,
	OPND_DX,
	OPND_ONE,
	/* Segment register insn.reg (X86_ES ...), also of the PUSH/POP that name one in the opcode.
	 */
	OPND_SREG,
	/* Control, debug register insn.reg; the other operand is OPND_RM, never memory. */
	OPND_CR,
	OPND_DR,
	/* General register insn.vvvv. */
	OPND_GPR_VVVV,
	/* insn.seg:rSI, ES:rDI, insn.seg:rBX+AL, insn.seg:rDI; width of the register is adsize. */
	OPND_STR_SRC,
	OPND_STR_DST,
	OPND_XLAT,
	OPND_MASKMOV,
	/* Vector registers insn.reg, insn.rm (or memory: INSN_MEM), insn.vvvv, insn.is4, number 0.
	 */
	OPND_XMM_REG,
	OPND_XMM_RM,
	OPND_XMM_VVVV,
	OPND_XMM_IS4,
	OPND_XMM0,
	/* Memory at base + disp + each element of vector register insn.index << scale; soft_ea()
	 * must not be used. */
	OPND_VSIB,
	/* MMX registers insn.reg, insn.rm (or memory). */
	OPND_MM_REG,
	OPND_MM_RM,
	/* x87 stack top, and ST(insn.rm). */
	OPND_ST0,
	OPND_STI,
};

enum insn_access {
	INSA_NONE = 0,
	INSA_R = 1,
	INSA_W = 2,
	INSA_RW = 3,
};

/* Width of an operand: bytes as they are, 0 for insn.opsize, or one of these. */
enum insn_size {
	INSZ_OP = 0,
	/* insn.opsize divided by 2, 4, 8. */
	INSZ_HALF = 0xe0,
	INSZ_QUARTER,
	INSZ_EIGHTH,
	/* Twice insn.opsize (BOUND). */
	INSZ_PAIR,
	/* Offset of opsize, then a selector. */
	INSZ_FAR,
	/* Pseudo-descriptor of LGDT ...: 2 + 4 bytes, 2 + 8 in 64-bit code. */
	INSZ_TABLE,
	/* x87 environment (14 or 28 bytes), state (94 or 108) by opsize 2 or not. */
	INSZ_FPENV,
	INSZ_FPSTATE,
	/* FXSAVE: 512. */
	INSZ_FX,
	/* XSAVE area: as large as the components asked for. */
	INSZ_XSAVE,
	/* The address alone counts (LEA, INVLPG, prefetches, NOP). */
	INSZ_NONE = 0xff,
};

struct insn_opnd {
	/* enum insn_opnd_kind, enum insn_size, enum insn_access */
	uint8_t kind, size, access;
};

/* How insn.opsize is found. */
enum insn_osz {
	/* Always 1, 2, 4, 8, 16. */
	INSO_B,
	INSO_W,
	INSO_D,
	INSO_Q,
	INSO_X,
	/* 2, 4 or 8: code size, 66, REX.W. */
	INSO_V,
	/* 2 or 4: as V without REX.W. */
	INSO_Z,
	/* 4, or 8 with REX.W or VEX.W in 64-bit code; 66 has no meaning. */
	INSO_Y,
	/* As V, but in 64-bit code 8, or 2 with 66 (PUSH, POP ...). */
	INSO_D64,
	/* Near branches: as D64 on AMD; on Intel in 64-bit code always 8. */
	INSO_BR,
	/* Far pointers in memory: V on Intel, Z on AMD. */
	INSO_FAR,
	/* 4, in 64-bit code 8 (MOV CR ...). */
	INSO_N,
	/* 16, or 32 with VEX.L. */
	INSO_VL,
	INSOS,
};

enum insn_form_flag {
	/* LOCK is allowed when the destination is memory. */
	INSF_LOCK = 1 << 0,
	/* Nothing of the block is executed after it. */
	INSF_END = 1 << 1,
	/* #GP(0) unless CPL is 0 (for HLT, MOV CR ...; not the IOPL rules). */
	INSF_CPL0 = 1 << 2,
	/* #UD in real and virtual-8086 mode. */
	INSF_PROT = 1 << 3,
	/* VEX encoded. */
	INSF_VEX = 1 << 4,
	/* The memory operand must be aligned to its size, else #GP(0). */
	INSF_ALIGN = 1 << 5,
	/* Some of fl_w may keep its value (shift by 0, REP with 0): fl_w does not kill it. */
	INSF_FL_COND = 1 << 6,
	/* Registers of which units it touches; with them come the #NM, #UD and #MF rules. */
	INSF_X87 = 1 << 7,
	INSF_MMX = 1 << 8,
	INSF_SSE = 1 << 9,
	INSF_AVX = 1 << 10,
	/* A memory operand with a register bit offset, reaching beyond its opsize bytes (BT ...).
	 */
	INSF_BITSTR = 1 << 11,
	/* x87: waits, that is, raises a pending #MF first. */
	INSF_WAIT = 1 << 12,
	/* Valid in 64-bit code only / not there. */
	INSF_ONLY64 = 1 << 13,
	INSF_NOT64 = 1 << 14,
	/* Pushes or pops: touches memory at SS:rSP. */
	INSF_STACK = 1 << 15,
	/* Elements of the memory operand are accessed under a mask (VMASKMOV ...). */
	INSF_MASKED = 1 << 16,
};

enum {
	INSN_OPNDS = 4,
};

struct insn_form {
	/* "ADD" */
	const char *name;
	/* enum insn_sop */
	uint16_t sop;
	/* enum insn_class, enum insn_feat: the CPUID feature without which it is #UD. */
	uint8_t class, feat;
	struct insn_opnd opnd[INSN_OPNDS];
	/* The explicit memory operand's size (enum insn_size) and direction when it is memory;
	 * INSA_NONE where there can be none. */
	uint8_t mem_size, mem_access;
	/* enum insn_osz */
	uint8_t osz;
	/* RFLAGS bits: read; written to a defined value; left undefined.  A flag that is defined
	 * for some operands only (OF after a shift by 1) is in both of the latter. */
	uint32_t fl_r, fl_w, fl_u;
	/* INSF_* */
	uint32_t flags;
	/* General registers used beside the operands (MUL: RAX, RDX): bit X86_RAX ... */
	uint16_t gpr_r, gpr_w;
};

extern const struct insn_form insn_forms[INSN_FORMS];
/* Names of mnemonics by enum insn_sop. */
extern const char *const insn_sop_names[SOPS];

/*
 * Bytes of an operand of width `size` (enum insn_size) of an instruction with this opsize; 0 for
 * addresses alone, and for XSAVE areas, whose size is for XCR0 and the masks to say.
 */
static inline unsigned insn_size_bytes(unsigned size, unsigned opsize, unsigned code_size)
{
	switch (size) {
	case INSZ_OP:
		return opsize;
	case INSZ_HALF:
		return opsize / 2;
	case INSZ_QUARTER:
		return opsize / 4;
	case INSZ_EIGHTH:
		return opsize / 8;
	case INSZ_PAIR:
		return opsize * 2;
	case INSZ_FAR:
		return opsize + 2;
	case INSZ_TABLE:
		return code_size == 64 ? 10 : 6;
	case INSZ_FPENV:
		return opsize == 2 ? 14 : 28;
	case INSZ_FPSTATE:
		return opsize == 2 ? 94 : 108;
	case INSZ_FX:
		return 512;
	case INSZ_XSAVE:
	case INSZ_NONE:
		return 0;
	default:
		return size;
	}
}
