/*
 * The translator: guest code that ran a few times becomes host code.
 *
 * Guest and host have the same instruction set, so most instructions are copied with their operands
 * put elsewhere (docs/engine.md explains the whole).
 *
 *	jit.c	life, the way in and out, signals
 *	block.c	one block: flags' liveness, exits
 *	gen.c	one instruction
 *	link.c	exits to blocks, the jump cache, death of a block
 *	thunk.c	the fixed pieces of host code
 *	fill.c	the translation cache's refill; touches no vector register
 *	lockstep.c	for tests: each block compared with the interpreter
 *
 * A translated block belongs to a decoded one (struct sblock, code.c) and dies with it.  It was
 *made for one mode (jit_mode()), and is position-independent: where the page that it lies in is in
 *guest memory is in scpu.jit_page while it runs.
 */
#pragma once

#include "accel/soft/soft_int.h"

struct sblock;

/* cache: bytes of host code that may be kept. */
NODISCARD int jit_new(struct scpu *c, size_t cache, struct err *e);
void jit_free(struct scpu *c);
/* Every translation is forgotten. */
void jit_drop_all(struct scpu *c);
/* Translations of the block that begins with chain element `first` (sblock.jit) die. */
void jit_kill(struct scpu *c, uint32_t first);
/*
 * May the current mode be translated?  Then its word, never 0: what code depends on beside its own
 * bytes.
 */
uint32_t jit_mode(const struct scpu *c);
/* The block's translation for this mode; 0: it has none. */
uint32_t jit_find(const struct scpu *c, uint32_t first, uint32_t mode);
/*
 * Translate; bytes: the page's.  Returns its number and puts it into the chain, 0: it cannot be
 * (and is not asked for again), or there is no room, which jit_full() tells before.
 */
uint32_t jit_translate(struct scpu *c, struct sblock *b, const uint8_t *page, uint32_t mode);
bool jit_full(const struct scpu *c);
/* Zeroed memory for a vCPU that is translated; NULL: there is none. */
void *jit_alloc_low(size_t size);
/* A signal's handler: was it translated code?  Then the context was changed and it can return. */
bool jit_signal(void *ucontext);
/* Run from block j on, which begins at RIP; comes back when something has to be done in C. */
void jit_go(struct scpu *c, uint32_t j, uint32_t mode);
/* Are translated blocks compared with interpreted ones (lockstep.h)? */
bool jit_lockstep(const struct scpu *c);
/* An exit wants to know where it led to; before the next jit_go(). */
void jit_forget_exit(struct scpu *c);

/* Code translations of the page, or of all pages, changed. */
void jit_page_changed(struct scpu *c, uint64_t lin);
void jit_space_changed(struct scpu *c);
/* The non-global translations of the address space are gone; a switch by number needs no word. */
void jit_space_left(struct scpu *c);
/* Code of a page that is not global runs with supervisor rights. */
void jit_local_code(struct scpu *c);

struct jit_stats {
	uint64_t blocks, insns, bytes, entries, interps, links, jumps, polls;
};
const struct jit_stats *jit_stats(const struct scpu *c);
