/* The profile inside: prof.c (samples and counts), prof_out.c (the report), explain.c (a block). */
#pragma once

#include "accel/soft/jit/jit_int.h"
#include "accel/soft/jit/prof.h"
#include "base/thread.h"

#include <stdio.h>
#include <time.h>

enum {
	/* Not a multiple of what guests' timers run at. */
	PROF_PERIOD_NS = 1003000,
	/* CPU time that a thread must have used since the last look. */
	PROF_USED_NS = 300000,
	/* Samples are counted by byte of code; where the page was by 16 of them. */
	PROF_GRAIN = 16,
	PROF_MARKS = 1 << 23,
	PROF_EXPLAINED = 16,
};

/* What the engine was doing outside of translated code. */
enum prof_kind {
	PROF_INTERP,
	PROF_ACCESS,
	PROF_WALK,
	PROF_REFILL,
	PROF_STRING,
	PROF_SYSCALL,
	PROF_TRANSLATE,
	PROF_DECODE,
	PROF_LOOKUP,
	PROF_LINK,
	PROF_FLUSH,
	PROF_STORED,
	PROF_EVENT,
	PROF_DEVICE,
	PROF_WAIT,
	PROF_THUNK,
	PROF_OTHER,
	PROF_KINDS,
};

/* Why an instruction was interpreted. */
enum prof_why {
	/* The translator has no code for it in its mode. */
	PWHY_NEVER,
	/* Its translated code gave up: a walk, a device, code, a fault ... */
	PWHY_GAVE_UP,
	/* Code that is not hot, or in a mode that is not translated. */
	PWHY_COLD,
	/* Alone, each time: across two pages, or debugged. */
	PWHY_STEP,
	PWHYS,
};

struct prof_mark {
	uint16_t off;
	uint8_t part, k;
};

/* One translation; number n of soft_jit.block has number n here. */
struct prof_block {
	uint64_t gpa, lin;
	/* Instructions that were translated. */
	uint64_t can;
	uint32_t mode, host_off, host_len;
	uint32_t mark, nmark;
	uint16_t len;
	uint8_t n, code_size;
};

struct prof_vcpu {
	struct prof *p;
	struct scpu *c;
	/* 0: not in accel_run().  Atomic. */
	int tid;
	clockid_t clock;
	uint64_t seen_ns, entered_ns, cpu_ns;
	/* By byte of code, and the page that ran there (| 1) by PROF_GRAIN bytes. */
	uint32_t *at;
	uint64_t *page;
	struct prof_block *block;
	struct prof_mark *mark;
	uint32_t nmark;
	/* Before the block that is being translated. */
	uint32_t mark_from;
	/* What is interpreted: an instruction of this form, or this block; 0, NULL: nothing. */
	uint16_t form;
	const struct sblock *sb;
	uint64_t kind[PROF_KINDS];
	uint64_t form_hits[INSN_FORMS];
	uint64_t why[JWHYS];
	uint64_t interp[SOPS][PWHYS];
	uint64_t thunk[JIT_THUNKS];
};

/* All samples in translations of one block at one address. */
struct prof_place {
	uint64_t gpa, lin;
	uint32_t mode, hits, host_len;
	uint16_t len;
	uint8_t n;
	bool used;
};

struct prof_sym {
	uint64_t at;
	const char *name;
};

struct prof {
	struct prof_opts o;
	FILE *out, *map;
	/* Guards all below, and map. */
	struct lock lock;
	struct cond cond;
	struct thread sampler;
	bool stop;
	struct prof_vcpu *vcpu[SOFT_CPUS];
	unsigned ncpu;
	/* Of vCPUs that are no more, by places: a hash table; its size is a power of two. */
	struct prof_vcpu sum;
	struct prof_place *place;
	size_t nplace, places;
	/* Explanations of the hottest blocks. */
	char *text;
	size_t text_len;
	FILE *texts;
	/* Sorted. */
	char *sym_text;
	struct prof_sym *sym;
	size_t nsym;
	/* Where the kernel is, beside where its symbols say. */
	uint64_t slide;
};

/* symbols.c */
NODISCARD int prof_symbols(struct prof *p, const char *path, struct err *e);
/* "name" or NULL; ret_off: from its beginning. */
const char *prof_symbol(const struct prof *p, uint64_t lin, uint64_t *ret_off);
/* "name+0x12", or nothing. */
void prof_symbol_text(const struct prof *p, uint64_t lin, char *ret, size_t size);
/* The kernel was moved at its start (KASLR): LSTAR says where its entry is. */
void prof_slide(struct prof *p, uint64_t lstar);

/* explain.c: "kernel 64" ... */
void prof_mode_text(uint32_t mode, char ret[16]);
/* The block's instructions and what they became. */
void prof_explain(FILE *f, const struct prof_vcpu *v, uint32_t block, uint64_t lin);

/* prof_out.c */
void prof_report(struct prof *p);
