/*
 * The stubs of host.c inside: their store, and what host_emit.c (which writes one) and op_vec.c
 * (vector forms that are done in C) share with it.
 */
#pragma once

#include "accel/soft/ops.h"

enum {
	/* No stub is longer. */
	HOST_STUB_MAX = 320,
	HOST_CODE_BYTES = 1 << 20,
	HOST_STUBS = 8192,
	HOST_HASH = 2 * HOST_STUBS,
	/* The largest memory operand: FNSAVE's 108 bytes. */
	HOST_MEM_MAX = 128,
};

/*
 * rdi: the memory operand, rsi: the vCPU.  Returns 0, or the vector of the exception that the
 * copied instruction raised (X86_EXC_MF, X86_EXC_XM): then nothing of it was stored but MXCSR.
 */
typedef unsigned host_code(void *mem, struct scpu *c);

/* What must hold in the control registers, tested before each execution: see host_gate(). */
struct host_gate {
	uint64_t cr0_no, cr4_need, xcr0_need;
	/* Not in real and virtual-8086 mode. */
	bool prot;
	/* #UD with CR0.EM (MMX, SSE); otherwise EM is #NM (x87). */
	bool em_ud;
	/* A pending x87 exception comes first. */
	bool wait;
};

/* One kind of copied instruction; struct insn.aux of those that use it. */
struct host_stub {
	host_code *code;
	struct host_gate gate;
	uint16_t form;
	uint16_t code_len;
	uint8_t mem_len;
	/* Address bits that must be 0. */
	uint8_t align_mask;
	/* x87 environment or state with the host's instruction pointers to be blanked: at this
	 * offset, so many bytes. */
	uint8_t blank_off, blank_len;
	/* Next stub with the same hash, as index + 1. */
	uint16_t next;
};

/* What of `i` the emitter needs and struct insn does not have: found in its bytes. */
struct host_enc {
	/* Opcode map: 0 one byte, 1 0F, 2 0F 38, 3 0F 3A. */
	uint8_t map;
	/* VEX.pp. */
	uint8_t pp;
};

struct host_facts {
	bool avx, sha_unaligned;
	uint32_t mxcsr_mask;
};
extern struct host_facts host_facts;

/* Writes the stub for i to p, at most HOST_STUB_MAX bytes; returns its length, 0: it cannot be. */
unsigned host_emit(uint8_t *p, const struct insn *i, const struct host_enc *enc,
		   unsigned code_size);
/* What every stub goes to when its instruction raises: RAX has the vector. */
unsigned host_emit_landing(uint8_t *p);
void host_gate_make(struct host_gate *ret, const struct insn *i);
/* Size of the explicit memory operand in bytes. */
unsigned host_mem_len(const struct insn *i);

/* Has the x87 environment the 16-bit layout?  REX.W overrides 66 (seen on the CPU). */
static inline bool host_fp16(const struct insn *i)
{
	return i->opsize == 2 && !(i->flags & INSN_REXW);
}

/* Runs code of evex.c: rdi is mem, rsi the vCPU; returns as host_code does, X86_EXC_UD too. */
unsigned host_run_code(struct scpu *c, const uint8_t *code, unsigned len, void *mem);

/* Raises what the gate says; returns when that is an x87 error that IGNNE# lets pass. */
void host_gate_fail(struct scpu *c, const struct insn *i, const struct host_gate *g);

static ALWAYS_INLINE bool host_no_prot(const struct scpu *c)
{
	return !(c->cr0 & X86_CR0_PE) || c->rflags & X86_FL_VM;
}

/* Raises #UD, #NM or #MF as the control registers say (SDM 3A 2.5, 13.1; 2A tables 2-21 to 2-28);
 * see ferr.c for what #MF may be instead. */
static ALWAYS_INLINE void host_gate(struct scpu *c, const struct insn *i, const struct host_gate *g)
{
	uint64_t bad = (c->cr0 & g->cr0_no) | (~c->cr4 & g->cr4_need) | (~c->xcr0 & g->xcr0_need);

	/* Bit 7 of FSW, ES: an exception is pending. */
	if (unlikely(bad || (g->prot && host_no_prot(c)) || (g->wait && c->fx[2] & 0x80)))
		host_gate_fail(c, i, g);
}
