/* The decoder's tables, made by tools/gen-insn (which explains them); for decode.c alone. */
#pragma once

#include "accel/soft/insn.h"

/* What of the instruction is immediate. */
enum insn_dec_imm {
	DIMM_NONE,
	DIMM_U8,
	DIMM_S8,
	DIMM_U16,
	/* 2 or 4 bytes, sign-extended. */
	DIMM_Z,
	/* 2, 4 or 8 bytes. */
	DIMM_V,
	/* 2 bytes, then 1. */
	DIMM_ENTER,
	/* Offset of 2 or 4 bytes, then a selector. */
	DIMM_FAR,
	/* A displacement as wide as addresses. */
	DIMM_MOFFS,
	/* A byte whose high half is a register. */
	DIMM_IS4,
};

enum insn_dec_flag {
	DEC_LOCK = 1 << 0,
	DEC_END = 1 << 1,
	/* Always #UD. */
	DEC_UD = 1 << 2,
	/* ModRM.mod is ignored. */
	DEC_MODR = 1 << 3,
	/* insn.reg is in the opcode: bits 2-0; bits 5-3. */
	DEC_OPREG = 1 << 4,
	DEC_OPSREG = 1 << 5,
	DEC_CR = 1 << 6,
	DEC_DR = 1 << 7,
	/* ModRM.reg, ModRM.rm take no REX bit: eight registers. */
	DEC_REG3 = 1 << 8,
	DEC_RM3 = 1 << 9,
	/* They are byte registers, where 4-7 may be AH..BH. */
	DEC_REG8 = 1 << 10,
	DEC_RM8 = 1 << 11,
	DEC_VSIB = 1 << 12,
	DEC_VVVV = 1 << 13,
	DEC_GATHER = 1 << 14,
};

struct insn_dec {
	uint8_t imm, osz;
	uint16_t flags;
};

enum insn_map {
	MAP_1BYTE,
	MAP_0F,
	MAP_0F38,
	MAP_0F3A,
	/* VEX.mmmmm 1, 2, 3. */
	MAP_VEX,
	INSN_MAPS = 7,
};

/* Of an opcode: a form, or with bit 15 a node; 0 is #UD. */
struct insn_root {
	uint16_t next;
	/* 0: no ModRM; 1: ModRM; 2: ModRM that never names memory. */
	uint16_t modrm;
};

struct insn_node {
	/* First of its slots, which hold forms and nodes like insn_root.next. */
	uint16_t base;
	/* Which bits of the key index them. */
	uint8_t shift, mask;
};

extern const struct insn_dec insn_dec[INSN_FORMS];
extern const struct insn_root insn_roots[2][INSN_MAPS][256];
extern const struct insn_node insn_nodes[];
extern const uint16_t insn_slots[];
