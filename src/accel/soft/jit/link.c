/*
 * From block to block: direct exits that are linked to their target once it is translated, the jump
 * cache for everything else, and what happens when a block dies.
 *
 * An exit inside its page holds as long as both blocks live: the same translation of the page leads
 * to both.  One to another page holds for one (mode, address space) number: it compares scpu.jit_id
 * with the number that it was linked for, and takes the jump cache when they differ; now and then
 * it is linked anew then, so that those which run often are good for who runs now.  An entry of the
 * jump cache is good for one number too.  Numbers are never used again, so what makes an old
 * link wrong (another page at that address, other rights) only has to see to it that a new number
 * is taken.
 *
 * jit_id is 0 while somebody wants the vCPU's attention (sync_set_req()), so links to other pages
 * and the jump cache lead to C then; exits backwards inside a page look at exit_req themselves.
 * Every cycle has one of the three.
 */
#include "accel/soft/jit/jit_int.h"

#include "accel/soft/code_int.h"
#include "base/bug.h"

#include <string.h>

enum {
	/* Bytes of what jit_exit_write() writes at most: the flags saved; a question to C; a jump;
	 * a look at exit_req before; a way to another page. */
	SLOT_SAVE = 18,
	SLOT_SAVE_CALL = 5,
	SLOT_ASK = 11,
	SLOT_JMP = 5,
	SLOT_BACK = 15,
	SLOT_FAR = 45,
	/* A landing: 8 bytes dropped, the flags, the page. */
	SLOT_LANDING = 23,
};

static bool exit_near(const struct jexit *x)
{
	return x->target >= 0 && x->target < 4096;
}

unsigned jit_slot_size(const struct jexit *x)
{
	unsigned save = x->save ? SLOT_SAVE_CALL : x->unsaved ? SLOT_SAVE : 0;

	if (x->landing)
		return SLOT_LANDING + SLOT_ASK;
	if (!exit_near(x))
		return save + SLOT_FAR;
	return save + SLOT_ASK + (x->back ? SLOT_BACK + SLOT_JMP : 0);
}

static void slot_save(const struct soft_jit *j, struct jbuf *b, const struct jexit *x)
{
	if (x->save)
		e_call(b, j->rw + x->save);
	else
		jit_emit_save_flags(b);
}

/* To C, to be linked. */
static void slot_ask(const struct soft_jit *j, struct jbuf *b, uint32_t exit)
{
	e_mov_imm(b, HR_T1, exit);
	e_jmp(b, j->rw + j->exit_link);
}

/* Where the exit enters it. */
static const uint8_t *slot_entry(const struct jexit *x, const struct jblock *to)
{
	return to->units & ~x->units ? to->rw : to->rw_units;
}

static void slot_near(const struct soft_jit *j, struct jbuf *b, uint32_t exit,
		      const struct jblock *to)
{
	const struct jexit *x = &j->exit[exit];
	uint8_t *ask = NULL;

	if (x->unsaved && to->needs_flags)
		slot_save(j, b, x);
	if (x->back) {
		/* cmp dword [exit_req], 0; jne ask */
		e_env(b, 0, 0x83, 7, JOFF(exit_req));
		e1(b, 0);
		ask = e_jcc(b, E_CC_NZ, NULL);
	}
	e_jmp(b, slot_entry(x, to));
	if (ask) {
		e_patch(ask, b->p);
		slot_ask(j, b, exit);
	}
}

/* r10 is the address; to: NULL when it is not linked. */
static void slot_landing(const struct soft_jit *j, struct jbuf *b, uint32_t exit,
			 const struct jblock *to)
{
	const struct jexit *x = &j->exit[exit];

	/* lea rsp, [rsp + 8] */
	e_rm(b, 1, 0x8d, X86_RSP, X86_RSP, -1, 0, 8);
	if (!to || to->needs_flags)
		/* call r11 */
		E_STR(b, "\x41\xff\xd3");
	/* lea r11, [r10 - offset]; mov [jit_page], r11 */
	e_rm(b, 1, 0x8d, HR_T1, HR_T0, -1, 0, (int32_t)-x->target);
	e_env(b, 1, 0x89, HR_T1, JOFF(jit_page));
	if (to)
		e_jmp(b, slot_entry(x, to));
	else
		slot_ask(j, b, exit);
}

static void slot_far(const struct scpu *c, struct jbuf *b, uint32_t exit, const struct jblock *to)
{
	const struct soft_jit *j = c->jit;
	const struct jexit *x = &j->exit[exit];
	bool is64 = to->mode & JM_64;

	if (x->unsaved && (to->needs_flags || !x->save))
		slot_save(j, b, x);
	/* cmp dword [jit_id], id; jne other */
	e_env(b, 0, 0x81, 7, JOFF(jit_id));
	e4(b, j->last_id);
	uint8_t *stale = e_jcc(b, E_CC_NZ, NULL);
	/* add [jit_page], distance */
	e_env(b, is64, 0x81, 0, JOFF(jit_page));
	e4(b, (uint32_t)(x->target & ~0xfffll));
	e_jmp(b, slot_entry(x, to));
	e_patch(stale, b->p);
	if (x->save && !to->needs_flags)
		slot_save(j, b, x);
	e_mov_imm(b, HR_T1, exit);
	e_jmp(b, j->rw + j->stale[is64][jit_is_ac(x->mode)]);
}

void jit_exit_write(struct scpu *c, uint32_t exit, uint32_t to)
{
	struct soft_jit *j = c->jit;
	const struct jexit *x = &j->exit[exit];
	struct jbuf b = { j->rw + x->slot, jit_env(c) };

	if (x->landing) {
		slot_landing(j, &b, exit, to ? &j->block[to] : NULL);
	} else if (!to) {
		if (x->unsaved)
			slot_save(j, &b, x);
		slot_ask(j, &b, exit);
	} else if (exit_near(x)) {
		slot_near(j, &b, exit, &j->block[to]);
	} else {
		slot_far(c, &b, exit, &j->block[to]);
	}
	BUG_ON(b.p > j->rw + x->slot + jit_slot_size(x));
}

/* Take it out of its target's list. */
static void exit_unlist(struct soft_jit *j, uint32_t exit)
{
	uint32_t *p = &j->block[j->exit[exit].to].in;

	while (*p != exit)
		p = &j->exit[*p].next_in;
	*p = j->exit[exit].next_in;
}

void jit_link(struct scpu *c, uint32_t exit, uint32_t to)
{
	struct soft_jit *j = c->jit;
	struct jexit *x = &j->exit[exit];
	struct jblock *t = &j->block[to];

	if (j->block[x->from].dead || x->mode != t->mode)
		return;
	if (t->off != (x->target & 4095) ||
	    (exit_near(x) && t->sb->index != j->block[x->from].sb->index))
		return;
	if (x->to != to) {
		if (x->to)
			exit_unlist(j, exit);
		x->to = to;
		x->next_in = t->in;
		t->in = exit;
	}
	/* Of one to another page the number may be new. */
	jit_exit_write(c, exit, to);
	j->stats.links++;
}

void jit_kill(struct scpu *c, uint32_t first)
{
	struct soft_jit *j = c->jit;

	for (uint32_t n = first; n; n = j->block[n].next) {
		struct jblock *t = &j->block[n];
		struct jbuf b = { t->rw, jit_env(c) };

		t->dead = true;
		e_jmp(&b, j->rw + t->dead_off);
		BUG_ON(b.p != t->rw + JIT_KILL_BYTES);
		for (uint32_t e = t->in, next; e; e = next) {
			next = j->exit[e].next_in;
			j->exit[e].to = j->exit[e].next_in = 0;
			jit_exit_write(c, e, 0);
		}
		t->in = 0;
	}
}

/* ---- numbers ---- */

static unsigned seen_slot(uint64_t lin)
{
	return (unsigned)((lin >> 12) * 0x9e3779b97f4a7c15ull >> 48);
}

void jit_space_changed(struct scpu *c)
{
	struct soft_jit *j = c->jit;

	if (!j)
		return;
	memset(j->id, 0, sizeof(j->id));
	memset(j->seen, 0, sizeof(j->seen));
	j->local_code = false;
}

void jit_page_changed(struct scpu *c, uint64_t lin)
{
	const struct soft_jit *j = c->jit;
	unsigned s = seen_slot(lin);

	if (j && j->seen[s >> 6] >> (s & 63) & 1)
		jit_space_changed(c);
}

void jit_space_left(struct scpu *c)
{
	if (c->jit && c->jit->local_code)
		jit_space_changed(c);
}

void jit_local_code(struct scpu *c)
{
	if (c->jit)
		c->jit->local_code = true;
}

void jit_jump_fill(struct scpu *c, uint32_t n)
{
	struct soft_jit *j = c->jit;
	const struct jblock *t = &j->block[n];
	uint64_t va = jit_jump_va(t->mode, c->rip);
	uint32_t at = (uint32_t)c->rip * SJUMP_MUL >> SJUMP_SHIFT;
	struct sjump *s =
		(struct sjump *)((uint8_t *)c->jump + (at & (SJUMPS - 1) * (uint32_t)SJUMP_PAIR));
	unsigned p = seen_slot(c->rip);

	j->seen[p >> 6] |= 1ull << (p & 63);
	if (s[0].va != va)
		s[1] = s[0];
	s[0] = (struct sjump){ .va = va,
			       .page = c->rip - t->off,
			       .code = (uint64_t)(uintptr_t)(t->rw + (j->rx - j->rw)),
			       .id = j->last_id };
}
