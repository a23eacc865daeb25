/* AVX-512 for the assist: see evex.c. */
#pragma once

#include "accel/soft/soft_int.h"

struct soft_evex;

/* What assist.c calls it; flags say which parts of the state it needs. */
extern const struct insn_form evex_form;

/* NULL in *ret: the host has no AVX-512. */
NODISCARD int evex_new(struct soft_evex **ret, struct err *e);
void evex_free(struct soft_evex *x);
/*
 * As soft_decode(), for 64-bit code that soft_decode() refuses.  Sets i->fn; x holds what else
 * there is to know, for the next i->fn() alone.  x may be NULL: only say whether it is one of ours.
 */
NODISCARD int evex_decode(struct soft_evex *x, const uint8_t *p, unsigned avail, struct insn *i);
insn_fn evex_insn;

/* Of one instruction, for tests: bytes of its memory operand and what disp8 counts in; 0: none. */
struct evex_mem {
	unsigned len, scale;
	bool store;
};
struct evex_mem evex_mem_of(const uint8_t *p, unsigned avail, int *ret_len);
