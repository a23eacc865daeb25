/*
 * Lockstep: each translated block is also run by the interpreter, from the same state, and what the
 * two leave is compared (`--accel soft,lockstep=on`).  A tool for tests: slow, for one vCPU, and a
 * difference ends the process with SIGABRT after a report on stderr, whatever the guest is.
 *
 * The interpreter comes first, on trial: its stores go to a copy (lines of 64 bytes), its loads see
 * that copy over guest memory.  Then its state is put aside, the translated code runs for real from
 * the state before, and registers, flags, units and all lines stored to are compared.
 *
 * Where translated code stops in the middle of a block (a translation that has to be walked for, a
 * fault, a device), the trial is repeated up to that instruction, in a REP up to that element, and
 * compared there; the interpreter then does the instruction for real, as always.
 *
 * Not on trial are instructions that the translator leaves to the interpreter, and RDTSC, which it
 * leaves to it in this mode.  A trial that comes to a device, to ROM or to a page with code ends
 * there, and the translated code has to stop at that instruction or before.
 *
 * Not compared (counted as aborted) are blocks that store to a page table and then walk it, REPs
 * too long for the copy, and blocks that read a flag which an instruction left undefined; nor are
 * status flags that are dead where the translated code stopped in the middle, or undefined.
 *
 * Blocks are not linked and have no jump cache entries, so each comes back after itself.  They are
 * translated the first time they run.  Every now and then the translation caches are emptied
 * between the two runs, so that their refill is compared too.
 *
 * Devices write to guest memory meanwhile, and may come between the two runs.  They all tell of it
 * (gmem_wrote()); a difference is excused when one did since the trial began, or does shortly
 * after.  A second vCPU tells nobody, which is why there can be only one.
 */
#pragma once

#include "accel/soft/soft_int.h"

struct jt;
struct lockstep;
struct smap;

NODISCARD int lockstep_new(struct scpu *c, struct err *e);
void lockstep_free(struct lockstep *l);

/* Translated blocks as they are made, before their code is written. */
void lockstep_note(struct lockstep *l, const struct jt *t);
/* Instead of jit_go(). */
void lockstep_go(struct scpu *c, uint32_t block);

struct lockstep_stats {
	/* Blocks; those of them that were compared in their middle; not compared; differences that
	 * a device's write excuses. */
	uint64_t compared, partial, aborted, excused;
};
/* NULL: not in lockstep. */
const struct lockstep_stats *lockstep_stats(const struct scpu *c);

/* ---- for mmu.c and walk.c, while soft_run.trial is set ---- */

/* [pa, pa + len) inside a page; these may not return. */
void lockstep_ld(struct scpu *c, uint64_t pa, void *dst, unsigned len);
void lockstep_st(struct scpu *c, uint64_t pa, const void *src, unsigned len);
/* An access to a device. */
NORETURN void lockstep_device(struct scpu *c);
/* A walk reads a paging structure here. */
void lockstep_walks(struct scpu *c, uint64_t pa);
