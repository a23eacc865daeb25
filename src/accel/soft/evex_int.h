/* Between evex.c, which decodes, and evex_run.c. */
#pragma once

#include "accel/soft/evex.h"

enum {
	EVEX_COPY_MAX = 8,
	EVEX_IMG_LEN = 4096,
	/* Components of the state: opmask, upper halves of ZMM0-15, ZMM16-31. */
	XC_OPMASK = 5,
	XC_LAST = 7,
};

enum evex_how {
	/* Written when it is memory. */
	EV_ST = 1 << 0,
	EV_ALIGN = 1 << 1,
	/* The mask does not say which bytes are read: all are. */
	EV_WHOLE = 1 << 2,
	/* It is repeated in all lanes: an element is read when a mask bit of one of them is set. */
	EV_ANY = 1 << 3,
	/* As many elements as mask bits, one after the other. */
	EV_PACK = 1 << 4,
	/* There is no form with memory. */
	EV_NOMEM = 1 << 5,
	/* ModRM.rm when it is no memory, ModRM.reg: a general register. */
	EV_RM_GPR = 1 << 6,
	EV_REG_GPR = 1 << 7,
	/* Width and element grow with W. */
	EV_LEN_W = 1 << 8,
	EV_ELEM_W = 1 << 9,
};

struct evex_op {
	/* The instruction as it is run. */
	uint8_t copy[EVEX_COPY_MAX], ncopy;
	/* Of the memory operand: whole, an element, what disp8 counts in. */
	uint8_t len, elem, scale;
	/* Bytes of the vector, for masks of packed elements. */
	uint8_t vl;
	/* Mask register, 0: none. */
	uint8_t k;
	/* EV_* */
	uint16_t how;
	bool flags_out;
};

struct soft_evex {
	/* State of the vector units while an instruction runs: an XSAVE image in standard form. */
	uint8_t img[EVEX_IMG_LEN] __attribute__((aligned(64)));
	/* The memory operand. */
	uint8_t mem[64] __attribute__((aligned(64)));
	/* r8 and r9. */
	uint64_t reg, rm;
	/* Where the host's image has components XC_OPMASK to XC_LAST. */
	struct {
		unsigned at, len;
	} part[XC_LAST + 1];
	struct evex_op op;
};
