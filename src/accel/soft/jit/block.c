/*
 * One block: which flags are live where, its instructions in order, its exits and cold parts.
 */
#include "accel/soft/jit/jit_int.h"

#include "accel/soft/code_int.h"
#include "accel/soft/jit/lockstep.h"
#include "accel/soft/ops.h"
#include "base/bug.h"

#include <string.h>

struct jcold *jt_cold(struct jt *t, enum jcold_kind kind, uint8_t *from, uint32_t arg)
{
	struct jcold *c = &t->cold[t->ncold++];

	BUG_ON(t->ncold > JT_COLDS);
	*c = (struct jcold){ .kind = kind, .from = from, .arg = arg };
	if (t->fl_lazy && !t->fl_mem && t->live_in && kind <= JCOLD_INTERP)
		c->recipe = jt_recipe(t, t->at);
	return c;
}

void jt_fault(struct jt *t, unsigned k)
{
	struct soft_jit *j = t->j;

	j->fault[j->nfault++] =
		(struct jfault){ (uint32_t)(t->b.p - j->rw), jit_desc(t->block, k, 0),
				 t->fl_host && !t->fl_mem };
}

void jt_interp(struct jt *t, unsigned k)
{
	if (t->live_in)
		jt_flags_mem(t);
	e_mov_imm(&t->b, HR_T1, jit_desc(t->block, k, 0));
	e_jmp(&t->b, t->j->rw + t->j->exit_interp);
	t->ended = true;
}

/* ---- exits ---- */

static void exit_here(struct jt *t, uint32_t exit)
{
	struct jexit *x = &t->j->exit[exit];
	uint8_t *entry = t->j->block[t->block].rw;

	/* Where a dead block's way out is written (jit_kill()), no slot may be. */
	while (t->b.p < entry + JIT_KILL_BYTES)
		e1(&t->b, 0x90);
	x->slot = (uint32_t)(t->b.p - t->j->rw);
	jt_mark(t, PPART_EXIT, x->desc >> 4 & 63);
	jit_exit_write(t->c, exit, 0);
	t->b.p += jit_slot_size(x);
}

void jt_exit(struct jt *t, unsigned k, int64_t target, uint8_t *from)
{
	struct soft_jit *j = t->j;
	uint32_t n = j->nexit++;
	int64_t at = (int64_t)t->insn[k].off;

	j->exit[n] = (struct jexit){
		.target = target,
		.from = t->block,
		.desc = jit_desc(t->block, k, 0),
		.mode = t->mode & ~(uint32_t)JM_SINGLE,
		.units = t->units,
		.unsaved = !t->fl_mem,
		.save = t->fl_mem ? 0 : jt_recipe(t, k + 1),
		.back = target <= at || insn_forms[t->insn[k].form].sop == SOP_CALL,
	};
	BUG_ON(!t->fl_mem && !t->fl_host && !j->exit[n].save);
	if (from)
		jt_cold(t, JCOLD_EXIT, from, n);
	else
		exit_here(t, n);
}

void jt_landing(struct jt *t, unsigned k)
{
	struct soft_jit *j = t->j;
	struct jbuf *b = &t->b;
	int64_t next = jt_next(t, k);

	jt_mark(t, PPART_EXIT, k);
	/* In another page: it takes the jump cache. */
	if (next > 4095) {
		e_jmp(b, j->rw + j->ras_miss);
		return;
	}
	/* cmp r10, [rsp]; jne */
	e_rm(b, 1, 0x3b, HR_T0, X86_RSP, -1, 0, 0);
	e_jcc(b, E_CC_NZ, j->rw + j->ras_miss);
	uint32_t n = j->nexit++;
	j->exit[n] = (struct jexit){
		.target = next,
		.from = t->block,
		.desc = jit_desc(t->block, k, 0),
		.mode = t->mode & ~(uint32_t)JM_SINGLE,
		.landing = true,
	};
	exit_here(t, n);
}

uint32_t jt_exit_single(struct jt *t, unsigned k)
{
	struct soft_jit *j = t->j;
	uint32_t n = j->nexit++;

	j->exit[n] = (struct jexit){
		.target = (int64_t)t->insn[k].off,
		.from = t->block,
		.desc = jit_desc(t->block, k, 0),
		.mode = t->mode | JM_SINGLE,
		.units = t->units,
	};
	return n;
}

/* ---- cold parts ---- */

static void cold_flags(struct jt *t, const struct jcold *k)
{
	if (k->recipe)
		e_call(&t->b, t->recipe[k->recipe - 1].code);
}

static void cold_fill(struct jt *t, const struct jcold *k)
{
	/* xor r10, [r11 + tags]: the address again */
	e_env_r11(&t->b, 1, 0x33, HR_T0, k->tags);
	cold_flags(t, k);
	e_mov_imm(&t->b, HR_T1, k->arg);
	e_call(&t->b, t->j->rw + (k->kind == JCOLD_FILL_R ? t->j->fill_r : t->j->fill_w));
	e_jmp(&t->b, k->back);
}

/* As cold_fill(), but a miss that cannot be filled is another translation's. */
static void cold_group(struct jt *t, const struct jcold *k)
{
	const struct soft_jit *j = t->j;

	e_env_r11(&t->b, 1, 0x33, HR_T0, k->tags);
	cold_flags(t, k);
	e_mov_imm(&t->b, HR_T1, k->arg);
	e_call(&t->b, j->rw + (k->kind == JCOLD_GROUP_R ? j->fill_group_r : j->fill_group_w));
	e_jcc(&t->b, E_CC_NZ, k->back);
	exit_here(t, k->exit);
}

static void cold_emit(struct jt *t, const struct jcold *k)
{
	const struct soft_jit *j = t->j;

	e_patch(k->from, t->b.p);
	switch (k->kind) {
	case JCOLD_FILL_R:
	case JCOLD_FILL_W:
		jt_mark(t, PPART_FILL, k->arg >> 4 & 63);
		cold_fill(t, k);
		break;
	case JCOLD_GROUP_R:
	case JCOLD_GROUP_W:
		jt_mark(t, PPART_FILL, k->arg >> 4 & 63);
		cold_group(t, k);
		break;
	case JCOLD_INTERP:
		jt_mark(t, PPART_INTERP, k->arg >> 4 & 63);
		cold_flags(t, k);
		e_mov_imm(&t->b, HR_T1, k->arg);
		e_jmp(&t->b, j->rw + j->exit_interp);
		break;
	case JCOLD_EXIT:
		exit_here(t, k->arg);
		break;
	case JCOLD_JUMP:
		jt_mark(t, PPART_EXIT, k->arg >> 4 & 63);
		jit_emit_jump(&t->b, false);
		e_mov_imm(&t->b, HR_T1, k->arg);
		e_jmp(&t->b, j->rw + j->exit_branch);
		break;
	case JCOLD_RET:
		jt_mark(t, PPART_EXIT, k->arg >> 4 & 63);
		/* mov r11d, desc; ret */
		cold_flags(t, k);
		e_mov_imm(&t->b, HR_T1, k->arg);
		e1(&t->b, 0xc3);
		break;
	case JCOLD_VEC:
	case JCOLD_X87:
		jt_mark(t, PPART_UNITS, 0);
		e_call(&t->b, j->rw + (k->kind == JCOLD_VEC ? j->load_vec : j->load_x87));
		e_jmp(&t->b, k->back);
		break;
	}
}

/* ---- the block ---- */

/* The instructions anew from their bytes; false: they are not what they were. */
static bool block_decode(struct jt *t)
{
	const struct sblock *sb = t->sb;
	const struct insn *was = code_insns_kept(t->c, sb);
	unsigned at = sb->off, end = at + sb->len;

	t->n = sb->n;
	for (unsigned k = 0; k < t->n; k++, was++) {
		struct insn *i = &t->insn[k];
		int len = at < end ? soft_decode(t->bytes + at, 4096 - at, t->c->code_size, i) : 0;

		if (len <= 0) {
			/* One that raises; the interpreter knows what. */
			if (was->len || k != t->n - 1)
				return false;
			*i = (struct insn){ .off = (uint16_t)at };
			return true;
		}
		if (len != was->len)
			return false;
		i->off = (uint16_t)at;
		if (i->base == SREG_RIP)
			i->disp += at;
		at += (unsigned)len;
	}
	return true;
}

static void block_feats(struct scpu *c)
{
	struct soft_jit *j = c->jit;

	for (unsigned f = 0; f < IFEATS && !j->feats_made; f++)
		j->feat[f] = bind_feat(&c->v.cpuid, f);
	j->feats_made = true;
}

/* Backwards: after each instruction, the status flags that may be read before they are written. */
static void block_liveness(struct jt *t)
{
	unsigned live = X86_FL_STATUS;

	for (unsigned k = t->n; k-- > 0;) {
		const struct insn *i = &t->insn[k];
		const struct insn_form *f = &insn_forms[i->form];
		unsigned kill = f->flags & INSF_FL_COND ? 0 : f->fl_w | f->fl_u;

		t->live[k] = (uint16_t)live;
		live = (live & ~kill) | (f->fl_r & X86_FL_STATUS);
		/* Others may look at them: who is jumped to, the interpreter. */
		if (f->class == INSC_FLOW || f->sop == SOP_SYSCALL || !t->can[k])
			live = X86_FL_STATUS;
	}
	t->live_in = live;
}

/* The registers that the block uses are in the units. */
static void block_units(struct jt *t)
{
	for (unsigned k = 0; k < t->n && t->can[k]; k++) {
		if (jit_uses_vec(&t->insn[k]))
			t->units |= JT_VEC;
		if (jit_uses_x87(&t->insn[k]))
			t->units |= JT_X87;
	}
	for (unsigned u = JT_VEC; u <= JT_X87; u <<= 1) {
		if (!(t->units & u))
			continue;
		/* cmp byte [..], 0; je */
		e_env(&t->b, 0, 0x80, 7, u == JT_X87 ? JOFF(jit_x87) : JOFF(jit_vec));
		e1(&t->b, 0);
		struct jcold *k = jt_cold(t, u == JT_X87 ? JCOLD_X87 : JCOLD_VEC,
					  e_jcc(&t->b, E_CC_Z, NULL), 0);
		k->back = t->b.p;
	}
	t->j->block[t->block].units = t->units;
	t->j->block[t->block].rw_units = t->b.p;
}

static void block_emit(struct jt *t)
{
	uint32_t first = t->j->nexit;

	t->fl_host = false;
	t->fl_mem = t->live_in;
	jt_mark(t, PPART_ENTRY, 0);
	block_units(t);
	for (unsigned k = 0; k < t->n && !t->ended; k++) {
		t->at = k;
		jt_mark(t, PPART_INSN, k);
		jit_gen(t, k);
		t->live_in = t->live[k];
	}
	jt_sp(t);
	if (!t->ended)
		jt_exit(t, t->n - 1, jt_next(t, t->n - 1), NULL);
	jt_recipes(t);
	/* What saves their flags has a place now. */
	for (uint32_t n = first; n < t->j->nexit; n++) {
		struct jexit *x = &t->j->exit[n];

		if (x->save)
			x->save = (uint32_t)(t->recipe[x->save - 1].code - t->j->rw);
		if (x->save && x->slot)
			jit_exit_write(t->c, n, 0);
	}
	for (unsigned k = 0; k < t->ncold; k++)
		cold_emit(t, &t->cold[k]);
}

static const uint16_t *block_offsets(struct jt *t)
{
	t->b.p += (uintptr_t)t->b.p & 1;
	uint16_t *at = (uint16_t *)(void *)t->b.p;

	for (unsigned k = 0; k < t->n; k++)
		at[k] = t->insn[k].off;
	t->b.p = (uint8_t *)(at + t->n);
	return at;
}

uint32_t jit_translate(struct scpu *c, struct sblock *sb, const uint8_t *page, uint32_t mode)
{
	struct soft_jit *j = c->jit;
	struct jt t = { .c = c, .j = j, .sb = sb, .bytes = page, .mode = mode };
	struct jblock *nb = &j->block[j->nblock];

	t.is64 = mode & JM_64;
	block_feats(c);
	if (!block_decode(&t))
		return 0;
	for (unsigned k = 0; k < t.n; k++)
		t.can[k] = jit_can(&t, &t.insn[k]);
	block_liveness(&t);
	jit_plan(&t);
	/* A block of nothing that can be translated is better interpreted. */
	if (!t.can[0])
		return 0;
	t.block = j->nblock++;
	t.b = (struct jbuf){ j->rw + j->used, jit_env(c) };
	*nb = (struct jblock){
		.sb = sb,
		.rw = t.b.p,
		.mode = mode,
		.off = (uint16_t)sb->off,
		.needs_flags = t.live_in,
	};
	if (j->lockstep)
		lockstep_note(j->lockstep, &t);
	block_emit(&t);
	nb->dead_off = (uint32_t)(t.b.p - j->rw);
	jt_mark(&t, PPART_DEAD, 0);
	e_mov_imm(&t.b, HR_T1, jit_desc(t.block, 0, 0));
	e_jmp(&t.b, j->rw + j->exit_dead);
	const uint8_t *end = t.b.p;
	nb->at = block_offsets(&t);
	if (unlikely(c->run->prof))
		prof_translated(&t, end);
	BUG_ON((size_t)(t.b.p - nb->rw) > JIT_BLOCK_BYTES);
	j->used = ((size_t)(t.b.p - j->rw) + 15) & ~15ul;
	nb->next = sb->jit;
	sb->jit = t.block;
	j->stats.blocks++;
	j->stats.insns += t.n;
	j->stats.bytes = j->used;
	return t.block;
}
