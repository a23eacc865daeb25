/*
 * Interpreter and translator on the same block from the same state: lockstep.h tells how.
 *
 *	state	registers put aside, brought back, compared
 *	trial	the interpreter's run, and guest memory as it sees it
 *	facts	what is known of a translated block
 *	match	where the translated code stopped, the interpreter brought to the same place
 *	report	what a difference looks like
 */
#include "accel/soft/jit/lockstep.h"

#include "accel/soft/code_int.h"
#include "accel/soft/jit/jit_int.h"
#include "accel/soft/mmu_int.h"
#include "base/alloc.h"
#include "base/bug.h"
#include "base/clock.h"
#include "base/num.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
	/* Lines of 64 bytes that one block may store to. */
	JL_LINES = 1024,
	JL_HASH = 4096,
	/* Each so many blocks the translation caches are emptied between the two runs. */
	JL_FLUSH = 509,
	/* FXSAVE's image up to the SSE registers, which are in scpu.ymm. */
	JL_FX = 160,
	/* How long a device may take to tell of what it wrote. */
	JL_TELL_MS = 100,
};

/* ---- what is compared ---- */

struct jl_state {
	uint64_t gpr[16];
	uint64_t rip, rflags, kernel_gs_base, cr2, shadow_rip;
	uint64_t sbase[6];
	struct cpu_seg seg[6];
	struct cpu_events ev;
	uint32_t mxcsr;
	uint16_t fl;
	uint8_t cpl, mmu_index;
	/* Of blocks that use these units. */
	uint8_t ymm[16][32];
	uint8_t fx[JL_FX];
};

/* Of one translation: status flags that may be looked at, and that are undefined, before each
 * instruction and after the last. */
struct jl_fact {
	uint16_t live[SOFT_BLOCK_MAX + 1], undef[SOFT_BLOCK_MAX + 1];
	/* The first instruction that is left to the interpreter, or the number of all. */
	uint8_t stop;
	bool vec, x87;
	/* It reads a flag that an instruction before left undefined. */
	bool unsure;
};

struct jl_line {
	uint64_t pa;
	uint8_t cur[64], old[64];
};

enum jl_end {
	/* Before instruction k: told to stop there, or it raises, or it touches a device. */
	JL_STOPPED,
	JL_RAISED,
	JL_DEVICE,
	/* It went elsewhere after instruction k - 1. */
	JL_LEFT,
	/* Not to be compared. */
	JL_ABORT,
};

struct lockstep {
	struct scpu *c;
	struct jl_fact *fact;
	/* The block that runs. */
	uint32_t block;
	const struct insn *insn;
	struct jl_state before, want, got;
	enum jl_end end;
	unsigned k;
	jmp_buf trap;
	unsigned nline;
	struct jl_line line[JL_LINES];
	/* Number of a line + 1. */
	uint16_t hash[JL_HASH];
	uint64_t count, dma;
	struct lockstep_stats stats;
	struct insn one[2] __attribute__((aligned(64)));
};

static const struct sblock *jl_block(const struct lockstep *l)
{
	return l->c->jit->block[l->block].sb;
}

static const struct jl_fact *jl_fact(const struct lockstep *l)
{
	return &l->fact[l->block];
}

/* ---- state ---- */

static void jl_save(const struct lockstep *l, struct jl_state *s)
{
	const struct scpu *c = l->c;

	memcpy(s->gpr, c->gpr, sizeof(s->gpr));
	s->rip = c->rip;
	s->rflags = c->rflags;
	s->kernel_gs_base = c->kernel_gs_base;
	s->cr2 = c->cr2;
	s->shadow_rip = c->run->shadow_rip;
	memcpy(s->sbase, c->sbase, sizeof(s->sbase));
	memcpy(s->seg, c->seg, sizeof(s->seg));
	s->ev = c->ev;
	s->mxcsr = c->mxcsr;
	s->fl = c->fl;
	s->cpl = c->cpl;
	s->mmu_index = c->mmu_index;
	if (jl_fact(l)->vec)
		memcpy(s->ymm, c->ymm, sizeof(s->ymm));
	if (jl_fact(l)->x87)
		memcpy(s->fx, c->fx, sizeof(s->fx));
}

/* Also out of, or into, a trial: the translation caches are chosen anew. */
static void jl_load(struct lockstep *l, const struct jl_state *s)
{
	struct scpu *c = l->c;

	memcpy(c->gpr, s->gpr, sizeof(s->gpr));
	c->rip = s->rip;
	c->rflags = s->rflags;
	c->kernel_gs_base = s->kernel_gs_base;
	c->cr2 = s->cr2;
	c->run->shadow_rip = s->shadow_rip;
	memcpy(c->seg, s->seg, sizeof(s->seg));
	c->ev = s->ev;
	c->mxcsr = s->mxcsr;
	c->fl = s->fl;
	if (jl_fact(l)->vec)
		memcpy(c->ymm, s->ymm, sizeof(s->ymm));
	if (jl_fact(l)->x87)
		memcpy(c->fx, s->fx, sizeof(s->fx));
	if (c->cpl != s->cpl)
		soft_mode_changed(c);
	memcpy(c->sbase, s->sbase, sizeof(s->sbase));
	mmu_select(c);
}

/* ---- trial: memory ---- */

static unsigned line_hash(uint64_t pa)
{
	return (unsigned)((pa >> 6) * 0x9e3779b97f4a7c15ull >> 52) & (JL_HASH - 1);
}

static struct jl_line *line_find(struct lockstep *l, uint64_t pa)
{
	if (!l->nline)
		return NULL;
	for (unsigned h = line_hash(pa); l->hash[h]; h = (h + 1) & (JL_HASH - 1))
		if (l->line[l->hash[h] - 1].pa == pa)
			return &l->line[l->hash[h] - 1];
	return NULL;
}

static void lines_forget(struct lockstep *l)
{
	for (; l->nline; l->nline--)
		for (unsigned h = line_hash(l->line[l->nline - 1].pa); l->hash[h];
		     h = (h + 1) & (JL_HASH - 1))
			l->hash[h] = 0;
}

/* As they were before the block. */
static void lines_rewind(struct lockstep *l)
{
	for (unsigned n = 0; n < l->nline; n++)
		memcpy(l->line[n].cur, l->line[n].old, sizeof(l->line[n].cur));
}

static NORETURN void trial_end(struct lockstep *l, enum jl_end how)
{
	l->end = how;
	longjmp(l->c->trap, 1);
}

static struct jl_line *line_make(struct lockstep *l, uint64_t pa, const uint8_t *host)
{
	struct jl_line *x = line_find(l, pa);
	unsigned h = line_hash(pa);

	if (x)
		return x;
	if (l->nline == JL_LINES)
		trial_end(l, JL_ABORT);
	x = &l->line[l->nline++];
	while (l->hash[h])
		h = (h + 1) & (JL_HASH - 1);
	l->hash[h] = (uint16_t)l->nline;
	x->pa = pa;
	memcpy(x->old, host, sizeof(x->old));
	memcpy(x->cur, x->old, sizeof(x->cur));
	return x;
}

void lockstep_device(struct scpu *c)
{
	trial_end(c->run->trial, JL_DEVICE);
}

void lockstep_walks(struct scpu *c, uint64_t pa)
{
	struct lockstep *l = c->run->trial;

	if (line_find(l, pa & ~63ull))
		trial_end(l, JL_ABORT);
}

void lockstep_ld(struct scpu *c, uint64_t pa, void *dst, unsigned len)
{
	struct lockstep *l = c->run->trial;
	const struct smap *m = mmu_map(c, pa);

	if (!m || mmu_is_apic(c, pa))
		lockstep_device(c);
	memcpy(dst, m->host + (pa - m->gpa), len);
	for (uint8_t *p = dst; len && l->nline;) {
		unsigned off = pa & 63, n = MIN(64 - off, len);
		const struct jl_line *x = line_find(l, pa - off);

		if (x)
			memcpy(p, x->cur + off, n);
		p += n;
		pa += n;
		len -= n;
	}
}

void lockstep_st(struct scpu *c, uint64_t pa, const void *src, unsigned len)
{
	struct lockstep *l = c->run->trial;
	const struct smap *m = mmu_map(c, pa);

	if (!m || m->readonly || mmu_is_apic(c, pa) ||
	    soft_sh(c)->page[m->first + ((pa - m->gpa) >> 12)].lines)
		lockstep_device(c);
	for (const uint8_t *p = src; len;) {
		unsigned off = pa & 63, n = MIN(64 - off, len);

		memcpy(line_make(l, pa - off, m->host + (pa - off - m->gpa))->cur + off, p, n);
		p += n;
		pa += n;
		len -= n;
	}
}

/* ---- trial: instructions ---- */

static bool is_rep(const struct insn *i)
{
	return insn_forms[i->form].class == INSC_STR && i->flags & (INSN_REP | INSN_REPNE);
}

static void trial_step(struct lockstep *l, const struct insn *i)
{
	struct scpu *c = l->c;

	l->one[0] = *i;
	l->one[1].fn = soft_block_end;
	l->one[1].off = (uint16_t)(i->off + i->len);
	/* A REP stops now and then to let interrupts in. */
	do
		l->one[0].fn(c, l->one);
	while (unlikely(is_rep(i) && c->rip == soft_rip(c, i)));
}

/* Up to instruction `upto`; then, of a REP there, so many elements. */
static void trial_steps(struct lockstep *l, unsigned upto, uint64_t elements)
{
	struct scpu *c = l->c;

	c->gpr[SREG_RIP] = c->rip;
	for (l->k = 0; l->k < upto; l->k++) {
		const struct insn *i = &l->insn[l->k];
		uint64_t next = soft_next_rip(c, i);

		trial_step(l, i);
		if (c->rip != next) {
			l->k++;
			l->end = JL_LEFT;
			return;
		}
	}
	if (elements) {
		uint64_t left = c->gpr[X86_RCX] - elements;

		c->gpr[X86_RCX] = elements;
		trial_step(l, &l->insn[upto]);
		c->gpr[X86_RCX] = left;
	}
	l->end = JL_STOPPED;
}

static NOINLINE void trial_guarded(struct lockstep *l, unsigned upto, uint64_t elements)
{
	l->end = JL_RAISED;
	if (!setjmp(l->c->trap))
		trial_steps(l, upto, elements);
}

/* From the state before the block; leaves the interpreter's in l->want, the vCPU as it was. */
static void trial_run(struct lockstep *l, unsigned upto, uint64_t elements)
{
	struct scpu *c = l->c;

	memcpy(&l->trap, &c->trap, sizeof(l->trap));
	c->run->trial = l;
	jl_load(l, &l->before);
	trial_guarded(l, upto, elements);
	memcpy(&c->trap, &l->trap, sizeof(l->trap));
	jl_save(l, &l->want);
	c->run->trial = NULL;
	jl_load(l, &l->before);
}

/* ---- facts ---- */

/* Of a condition those that it looks at, not those of all conditions. */
static unsigned flags_read(const struct insn *i)
{
	static const uint16_t by_cc[8] = {
		X86_FL_OF,
		X86_FL_CF,
		X86_FL_ZF,
		X86_FL_CF | X86_FL_ZF,
		X86_FL_SF,
		X86_FL_PF,
		X86_FL_SF | X86_FL_OF,
		X86_FL_ZF | X86_FL_SF | X86_FL_OF,
	};
	const struct insn_form *f = &insn_forms[i->form];

	if (f->sop == SOP_JCC || f->sop == SOP_SETCC || f->sop == SOP_CMOVCC)
		return by_cc[i->opcode >> 1 & 7];
	return f->fl_r & X86_FL_STATUS;
}

void lockstep_note(struct lockstep *l, const struct jt *t)
{
	struct jl_fact *f = &l->fact[t->block];
	unsigned undef = 0;

	memset(f, 0, sizeof(*f));
	f->live[0] = (uint16_t)t->live_in;
	for (unsigned k = 0; k < t->n && t->can[k]; k++) {
		const struct insn_form *g = &insn_forms[t->insn[k].form];

		f->unsure |= (undef & flags_read(&t->insn[k])) != 0;
		if (!(g->flags & INSF_FL_COND))
			undef &= ~g->fl_w;
		undef |= g->fl_u & ~g->fl_w;
		f->live[k + 1] = t->live[k];
		f->undef[k + 1] = (uint16_t)(undef & X86_FL_STATUS);
		f->vec |= jit_uses_vec(&t->insn[k]);
		f->x87 |= jit_uses_x87(&t->insn[k]);
		f->stop = (uint8_t)(k + 1);
	}
}

/* ---- report ---- */

static void report_hex(const char *what, const uint8_t *p, size_t n)
{
	fprintf(stderr, "lockstep: %s:", what);
	for (size_t k = 0; k < n; k++)
		fprintf(stderr, " %02x", p[k]);
	fputc('\n', stderr);
}

static void report_code(struct lockstep *l)
{
	struct scpu *c = l->c;
	const struct sblock *sb = jl_block(l);
	const struct jblock *b = &c->jit->block[l->block];
	const uint8_t *page = NULL;

	for (unsigned n = 0; n < soft_sh(c)->nmap; n++) {
		const struct smap *m = &soft_sh(c)->map[n];

		if (sb->index - m->first < m->len >> 12)
			page = m->host + ((sb->index - m->first) << 12);
	}
	fprintf(stderr, "lockstep: block of %u instructions at %#lx, %u bits, mode %#x\n", sb->n,
		(unsigned long)l->before.rip, sb->code_size, b->mode);
	for (unsigned k = 0; k < sb->n && page; k++) {
		char name[64];

		snprintf(name, sizeof(name), "%2u %-12s", k, insn_forms[l->insn[k].form].name);
		report_hex(name, page + sb->off + l->insn[k].off, l->insn[k].len);
	}
	report_hex("translated", b->rw, (size_t)(c->jit->rw + b->dead_off - b->rw));
}

static void report_u64(const char *name, uint64_t before, uint64_t want, uint64_t got)
{
	if (want != got)
		fprintf(stderr,
			"lockstep: %s: before %016lx interpreted %016lx translated %016lx\n", name,
			(unsigned long)before, (unsigned long)want, (unsigned long)got);
}

static void report_bytes(const char *name, const void *before, const void *want, const void *got,
			 size_t n)
{
	char what[64];

	if (!memcmp(want, got, n))
		return;
	snprintf(what, sizeof(what), "%s before     ", name);
	report_hex(what, before, n);
	snprintf(what, sizeof(what), "%s interpreted", name);
	report_hex(what, want, n);
	snprintf(what, sizeof(what), "%s translated ", name);
	report_hex(what, got, n);
}

static const char *const gpr_names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					   "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

static void report_state(struct lockstep *l)
{
	const struct jl_state *b = &l->before, *w = &l->want, *g = &l->got;
	char name[16];

	for (unsigned k = 0; k < 16; k++)
		report_u64(gpr_names[k], b->gpr[k], w->gpr[k], g->gpr[k]);
	report_u64("rip", b->rip, w->rip, g->rip);
	report_u64("fl", b->fl, w->fl, g->fl);
	report_u64("rflags", b->rflags, w->rflags, g->rflags);
	report_u64("cpl", b->cpl, w->cpl, g->cpl);
	report_u64("mmu", b->mmu_index, w->mmu_index, g->mmu_index);
	report_u64("kernel_gs_base", b->kernel_gs_base, w->kernel_gs_base, g->kernel_gs_base);
	for (unsigned k = 0; k < 6; k++) {
		snprintf(name, sizeof(name), "seg %u", k);
		report_u64(name, b->sbase[k], w->sbase[k], g->sbase[k]);
		report_u64(name, b->seg[k].base, w->seg[k].base, g->seg[k].base);
		report_u64(name, b->seg[k].sel, w->seg[k].sel, g->seg[k].sel);
		report_u64(name, b->seg[k].attr, w->seg[k].attr, g->seg[k].attr);
	}
	report_u64("mxcsr", b->mxcsr, w->mxcsr, g->mxcsr);
	for (unsigned k = 0; k < 16 && jl_fact(l)->vec; k++) {
		snprintf(name, sizeof(name), "ymm%u", k);
		report_bytes(name, b->ymm[k], w->ymm[k], g->ymm[k], 32);
	}
	if (jl_fact(l)->x87)
		report_bytes("fx", b->fx, w->fx, g->fx, JL_FX);
}

static NORETURN void report(struct lockstep *l, const char *what)
{
	const struct scpu *c = l->c;

	fprintf(stderr, "lockstep: %s; the interpreter ended before instruction %u (%s), ", what,
		l->k,
		(const char *const[]){ "stopped", "raised", "device", "left", "abort" }[l->end]);
	if (c->jit_why == JWHY_INTERP)
		fprintf(stderr, "translated code stopped at %u\n", c->jit_arg >> 4 & 63);
	else
		fprintf(stderr, "translated code left (%u)\n", c->jit_why);
	report_code(l);
	report_state(l);
	for (unsigned n = 0; n < l->nline; n++) {
		const struct jl_line *x = &l->line[n];
		const struct smap *m = mmu_map(l->c, x->pa);
		char name[32];

		snprintf(name, sizeof(name), "memory %lx", (unsigned long)x->pa);
		report_bytes(name, x->old, x->cur, m->host + (x->pa - m->gpa), 64);
	}
	BUG("lockstep");
}

/* ---- match ---- */

static uint64_t dma_told(struct lockstep *l)
{
	return __atomic_load_n(&soft_sh(l->c)->dma_told, __ATOMIC_SEQ_CST);
}

/* Not the same: a device's doing, or ours.  Returns when it was a device's. */
static COLD void differs(struct lockstep *l, const char *what)
{
	uint64_t end = clock_ns() + JL_TELL_MS * NS_PER_MS;

	while (dma_told(l) == l->dma && clock_ns() < end)
		;
	if (dma_told(l) == l->dma)
		report(l, what);
	l->stats.excused++;
}

static bool segs_same(const struct jl_state *w, const struct jl_state *g)
{
	for (unsigned s = 0; s < 6; s++)
		if (w->sbase[s] != g->sbase[s] || w->seg[s].base != g->seg[s].base ||
		    w->seg[s].limit != g->seg[s].limit || w->seg[s].attr != g->seg[s].attr ||
		    w->seg[s].sel != g->seg[s].sel)
			return false;
	return w->kernel_gs_base == g->kernel_gs_base && w->cpl == g->cpl &&
	       w->mmu_index == g->mmu_index;
}

/* RFLAGS bits as scpu.fl has them. */
static uint16_t fl_mask(unsigned flags)
{
	return (uint16_t)((flags & 0xd5) << 8 | (flags & X86_FL_OF ? 1u : 0));
}

/* x87 registers are 10 of 16 bytes wide. */
static bool x87_same(const struct jl_state *w, const struct jl_state *g)
{
	if (memcmp(w->fx, g->fx, 24))
		return false;
	for (unsigned n = 0; n < 8; n++)
		if (memcmp(w->fx + 32 + 16 * n, g->fx + 32 + 16 * n, 10))
			return false;
	return true;
}

/* Registers; flags: status flags that count. */
static const char *state_differs(struct lockstep *l, unsigned flags, bool rip)
{
	const struct jl_state *w = &l->want, *g = &l->got;

	if (memcmp(w->gpr, g->gpr, sizeof(w->gpr)))
		return "registers differ";
	if (rip && w->rip != g->rip)
		return "RIP differs";
	if ((w->fl ^ g->fl) & fl_mask(flags))
		return "status flags differ";
	if (w->rflags != g->rflags)
		return "flags differ";
	if (!segs_same(w, g))
		return "mode or segments differ";
	if (jl_fact(l)->vec && (w->mxcsr != g->mxcsr || memcmp(w->ymm, g->ymm, sizeof(w->ymm))))
		return "vector registers differ";
	if (jl_fact(l)->x87 && !x87_same(w, g))
		return "x87 registers differ";
	return NULL;
}

static const char *memory_differs(struct lockstep *l)
{
	for (unsigned n = 0; n < l->nline; n++) {
		const struct jl_line *x = &l->line[n];
		const struct smap *m = mmu_map(l->c, x->pa);

		if (memcmp(x->cur, m->host + (x->pa - m->gpa), sizeof(x->cur)))
			return "memory differs";
	}
	return NULL;
}

/* The interpreter again, up to where the translated code stopped; false: it does not come there. */
static bool trial_again(struct lockstep *l, unsigned upto)
{
	const struct insn *i = &l->insn[upto];
	bool rep = l->c->jit_why == JWHY_INTERP && is_rep(i);

	lines_rewind(l);
	trial_run(l, upto, 0);
	if (l->k != upto || (l->end != JL_STOPPED && l->end != JL_LEFT))
		return false;
	uint64_t done = l->want.gpr[X86_RCX] - l->got.gpr[X86_RCX];
	if (!rep || !done)
		return true;
	if (done > l->want.gpr[X86_RCX])
		return false;
	lines_rewind(l);
	trial_run(l, upto, done);
	return l->end == JL_STOPPED;
}

/* In the middle, before instruction k. */
static const char *match_stopped(struct lockstep *l, unsigned k)
{
	bool raised = l->end == JL_RAISED && l->k == k;
	const struct jl_fact *f = jl_fact(l);

	if (k > l->k || (k == l->k && l->end == JL_LEFT))
		return "translated code went on";
	if (l->end != JL_STOPPED || k != l->k) {
		l->stats.partial++;
		if (!trial_again(l, k))
			return l->end == JL_ABORT ? NULL : "the interpreter does not come there";
	}
	/* The host's exception came with flags that the interpreter's will set, and into MMX mode.
	 */
	if (raised)
		l->want.mxcsr |= l->got.mxcsr & 0x3f;
	if (raised && insn_forms[l->insn[k].form].flags & INSF_MMX)
		memcpy(l->want.fx, l->got.fx, sizeof(l->want.fx));
	const char *what = state_differs(l, f->live[k] & ~(unsigned)f->undef[k], false);
	return what ? what : memory_differs(l);
}

/* By an exit of instruction k. */
static const char *match_left(struct lockstep *l, unsigned k)
{
	const struct jl_fact *f = jl_fact(l);

	if (l->k != k + 1 || l->end == JL_RAISED || l->end == JL_DEVICE) {
		if (k + 1 > l->k)
			return "translated code went on";
		if (!trial_again(l, k + 1))
			return l->end == JL_ABORT ? NULL : "the interpreter does not come there";
	}
	const char *what = state_differs(l, X86_FL_STATUS & ~(unsigned)f->undef[k + 1], true);
	return what ? what : memory_differs(l);
}

/*
 * A branch to a non-canonical address: jit_left() undoes it, but for what a CALL pushed below the
 * stack pointer, and the interpreter raises.
 */
static const char *match_bad_target(struct lockstep *l, unsigned k)
{
	unsigned sop = insn_forms[l->insn[k].form].sop;

	if (l->end != JL_RAISED || l->k != k)
		return "translated code branched to a non-canonical address";
	if (!trial_again(l, k))
		return l->end == JL_ABORT ? NULL : "the interpreter does not come there";
	if (sop == SOP_CALL || sop == SOP_RET)
		l->want.gpr[X86_RSP] = l->got.gpr[X86_RSP];
	return state_differs(l, X86_FL_STATUS & ~(unsigned)jl_fact(l)->undef[k], false);
}

static const char *match(struct lockstep *l)
{
	struct scpu *c = l->c;
	unsigned k = c->jit_arg >> 4 & 63;

	switch (c->jit_why) {
	case JWHY_INTERP:
		return match_stopped(l, k);
	case JWHY_LINK: {
		const struct jexit *x = &c->jit->exit[c->jit_arg];

		/* What a RET came to is another block's. */
		k = x->landing ? l->k - 1 : x->desc >> 4 & 63;
		if (x->mode & JM_SINGLE)
			return match_stopped(l, k);
		l->got.rip = c->jit_page + (uint64_t)x->target;
		if (!soft_64(c))
			l->got.rip = (uint32_t)l->got.rip;
		break;
	}
	case JWHY_BRANCH:
		break;
	case JWHY_DEAD:
		return NULL;
	default:
		/* A change of rings: the block's last. */
		k = l->k - 1;
		break;
	}
	if (soft_64(c) && !soft_canonical(l->got.rip))
		return match_bad_target(l, k);
	return match_left(l, k);
}

/* The interpreter alone, for real. */
static void interpret(struct lockstep *l)
{
	struct scpu *c = l->c;
	struct sblock *sb = c->jit->block[l->block].sb;

	l->stats.aborted++;
	c->gpr[SREG_RIP] = c->rip;
	code_running(c, sb);
	c->run->blocks++;
	c->run->insns += sb->n;
	l->insn[0].fn(c, l->insn);
}

void lockstep_go(struct scpu *c, uint32_t block)
{
	struct lockstep *l = c->jit->lockstep;

	l->block = block;
	l->insn = code_insns(c, c->jit->block[block].sb);
	/* It is no more. */
	if (!l->insn)
		return;
	l->dma = dma_told(l);
	lines_forget(l);
	jl_save(l, &l->before);
	l->end = JL_ABORT;
	if (!jl_fact(l)->unsure)
		trial_run(l, jl_fact(l)->stop, 0);
	if (l->end == JL_ABORT) {
		interpret(l);
		return;
	}
	if (++l->count % JL_FLUSH == 0)
		mmu_flush_all(c);
	jit_enter(c, block);
	jl_save(l, &l->got);
	const char *what = match(l);
	jl_load(l, &l->got);
	if (what)
		differs(l, what);
	l->stats.compared++;
	jit_left(c);
}

/* ---- life ---- */

const struct lockstep_stats *lockstep_stats(const struct scpu *c)
{
	return c->jit && c->jit->lockstep ? &c->jit->lockstep->stats : NULL;
}

int lockstep_new(struct scpu *c, struct err *e)
{
	struct lockstep *l = aligned_alloc(64, align_up(sizeof(*l), 64));

	if (!l)
		return err_set(e, ENOMEM, "no memory");
	memset(l, 0, sizeof(*l));
	l->c = c;
	l->one[1].base = l->one[1].index = SREG_NONE;
	c->jit->lockstep = l;
	/* Only what is touched becomes memory. */
	l->fact = mmap(NULL, JIT_BLOCKS * sizeof(l->fact[0]), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (l->fact == MAP_FAILED) {
		l->fact = NULL;
		return err_set(e, ENOMEM, "no memory");
	}
	return 0;
}

void lockstep_free(struct lockstep *l)
{
	if (!l)
		return;
	if (l->fact)
		munmap(l->fact, JIT_BLOCKS * sizeof(l->fact[0]));
	free(l);
}
