/*
 * The software CPU as a helper of another engine: it finishes instructions that KVM hands back as
 * an emulation failure (KVM_EXIT_INTERNAL_ERROR, suberror emulation: the state is intact, RIP is at
 * the instruction).
 *
 * One struct soft_assist for each vCPU, used on its thread only.  It has a struct scpu without run
 * loop, timers or local APIC, and it keeps nothing between two calls: no translations and no
 * decoded instructions, because the guest runs elsewhere in between and changes both.
 *
 * What it may execute.  The first instruction whatever it is (else -EOPNOTSUPP, nothing changed).
 * After it, up to `max` in all, so that a loop of vector instructions costs one exit and not one
 * for each, as long as the next one
 *	- needs no part of the state that `have` does not name;
 *	- stays at CPL 0, and is not one that belongs to the other engine: MSRs, CPUID, TSC, port
 *	  I/O, HLT, control and debug registers, TLB flushes, IRET and SYSRET;
 *	- and either writes no memory, or is a vector or x87 form.  The reason: with shadow paging
 *	  KVM must see each store to a page table, and stores made here it does not see.
 * AVX-512, which the soft engine does not have, is done here where the host has it (evex.c).
 * Exceptions (and INT n, INT3, INTO, INT1) are delivered here through the guest's IDT; a triple
 * fault is told in the result.  Exceptions end the run.
 */
#pragma once

#include "accel/accel.h"

/* Parts of struct cpu_state. */
enum soft_assist_part {
	/* gpr, rip, rflags, segments, tables, cr0-cr8, efer, apic_base, ev, mp: always there. */
	SOFT_ASSIST_REGS = 1 << 0,
	/* xsave, xsave_len, xcr0. */
	SOFT_ASSIST_FPU = 1 << 1,
	/* msr, with those that the instruction uses (SYSCALL, RDTSCP, SWAPGS ...). */
	SOFT_ASSIST_MSR = 1 << 2,
	/* dr, dr6, dr7.  In any case a pending TF trap is delivered. */
	SOFT_ASSIST_DEBUG = 1 << 3,
	/* pdptr. */
	SOFT_ASSIST_PDPTR = 1 << 4,
};

struct soft_assist;

/* The other engine's side. */
struct soft_assist_ops {
	/* Register of the local APIC page, off a multiple of 16; negative errno: not possible. */
	int (*apic_read)(void *arg, unsigned off, uint32_t *ret);
	int (*apic_write)(void *arg, unsigned off, uint32_t v);
	/* The guest's TSC now. */
	uint64_t (*tsc)(void *arg);
};

struct soft_assist_result {
	/* Instructions executed, the faulting one included. */
	unsigned insns;
	/* SOFT_ASSIST_*: parts of *s that changed. */
	unsigned changed;
	/* Of the first instruction, for counters; a literal. */
	const char *mnemonic;
	bool triple_fault;
};

/* o and cpuid stay valid as long as the result does. */
NODISCARD int soft_assist_new(const struct accel_opts *o, const struct cpuid_table *cpuid,
			      const struct soft_assist_ops *ops, void *arg,
			      struct soft_assist **ret, struct err *e);
void soft_assist_free(struct soft_assist *a);

/*
 * Which parts the instruction in `bytes` (at most 15; code size 16, 32 or 64) needs, SOFT_ASSIST_*;
 * -EOPNOTSUPP when this CPU cannot do it or it is one that the other engine must do.
 * Bytes that are no instruction need SOFT_ASSIST_REGS: they raise #UD.
 */
NODISCARD int soft_assist_need(struct soft_assist *a, const uint8_t *bytes, unsigned len,
			       unsigned code_size);

/*
 * Execute the instruction at s->rip, and on as above; *s is the state after it.  -EOPNOTSUPP:
 * nothing changed.
 */
NODISCARD int soft_assist_run(struct soft_assist *a, struct cpu_state *s, unsigned have,
			      unsigned max, struct soft_assist_result *ret, struct err *e);
