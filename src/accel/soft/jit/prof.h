/*
 * What the engine does with its time, and what guest code became: `--accel soft,profile=FILE`,
 * `perfmap=on`, `dump=ADDR[-ADDR]`.  docs/engine.md shows how the reports look and how to read
 * them.
 *
 * Samples: a thread of ours looks about a thousand times a second which vCPU threads have used CPU
 * time, and sends those SIGPROF.  The handler notes where it interrupted: in translated code the
 * offset, elsewhere what the engine was doing, from the functions on the stack.  So a halted vCPU
 * costs nothing and is not counted.  Beside the samples, what leaves translated code and what is
 * interpreted is counted exactly.
 *
 * Of all this nothing is there while it is off: soft_run.prof is NULL, and the few places that look
 * at it are on ways out of translated code.
 *
 * The report is written when the VM is freed; the file is opened when it is made.  perf's map,
 * /tmp/perf-PID.map, is written as blocks are translated; perf reads it afterwards.
 */
#pragma once

#include "accel/soft/soft_int.h"

struct jt;
struct prof;
struct prof_vcpu;
struct sblock;

struct prof_opts {
	/* NULL: no profile; no names. */
	const char *file, *symbols;
	bool perfmap, dump;
	/* Linear addresses, both included: blocks that have a byte there are explained on stderr as
	 * they are translated. */
	uint64_t dump_from, dump_to;
};

/* Is there anything to do? */
static inline bool prof_wanted(const struct prof_opts *o)
{
	return o->file || o->perfmap || o->dump;
}

NODISCARD int prof_new(struct prof **ret, const struct prof_opts *o, struct err *e);
/* Writes the report; after the vCPUs. */
void prof_free(struct prof *p);
NODISCARD int prof_vcpu_new(struct scpu *c, struct prof *p, struct err *e);
void prof_vcpu_free(struct scpu *c);

/* ---- for run.c, code.c and the translator, when soft_run.prof is set ---- */

/* The thread that runs the vCPU begins, ends accel_run(). */
void prof_enter(struct scpu *c);
void prof_leave(struct scpu *c);
/* Between two blocks. */
void prof_between(struct scpu *c);
/* It interprets this block, or the one instruction that i is. */
void prof_interprets(struct scpu *c, const struct sblock *b);
void prof_steps(struct scpu *c, const struct insn *i);
/* Translated code was left. */
void prof_left(struct scpu *c);
/* t is complete, and its code ends at `end`. */
void prof_translated(const struct jt *t, const uint8_t *end);
/* All translations are about to be forgotten. */
void prof_dropped(struct scpu *c);

/* Parts of a block's code, for prof_mark(). */
enum prof_part {
	/* The registers of units are in them? */
	PPART_ENTRY,
	/* Instruction k itself begins; goes on after another part. */
	PPART_INSN,
	PPART_BODY,
	PPART_LOOKUP,
	PPART_SAVE_FLAGS,
	PPART_LOAD_FLAGS,
	PPART_EXIT,
	/* Cold: a refill and back; to the interpreter; loads of units. */
	PPART_FILL,
	PPART_INTERP,
	PPART_UNITS,
	PPART_DEAD,
	PPARTS,
};
/* A part begins where the code is now; of instruction k. */
void prof_mark(struct jt *t, enum prof_part part, unsigned k);
