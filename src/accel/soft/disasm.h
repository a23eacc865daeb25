/*
 * Instructions as text, from the decoder's own table: what dumps of the translator show of guest
 * and host code.  Intel's order of operands; addresses in hexadecimal; where the size of a memory
 * operand is not that of a register beside it the text says it too ("qword [rax]").
 */
#pragma once

#include "base/compiler.h"

enum {
	DISASM_TEXT = 96,
};

/*
 * The instruction at p, of which `avail` bytes can be read, that lies at address `at` of code of
 * 16, 32 or 64 bits.  Returns its length, and 1 with "(bad)" where there is none.
 */
unsigned soft_disasm(const uint8_t *p, unsigned avail, unsigned code_size, uint64_t at,
		     char ret[DISASM_TEXT]);
