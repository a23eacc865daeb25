/*
 * Samples and counts; prof.h tells the whole.
 */
#include "accel/soft/jit/prof.h"

#include "accel/soft/code_int.h"
#include "accel/soft/jit/prof_int.h"
#include "accel/soft/mem.h"
#include "base/alloc.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>
#include <unwind.h>

/* ---- a sample ---- */

/* Of the thread, while it is in accel_run(). */
static _Thread_local struct prof_vcpu *prof_me;

#define FN(f) ((void *)(uintptr_t)(f))

/* The innermost of these on the stack says what the engine did. */
static const struct {
	void *fn;
	enum prof_kind kind;
} prof_fns[] = {
	{ FN(bus_read), PROF_DEVICE },        { FN(bus_write), PROF_DEVICE },
	{ FN(lapic_read), PROF_DEVICE },      { FN(lapic_write), PROF_DEVICE },
	{ FN(mmu_translate), PROF_WALK },     { FN(mmu_code), PROF_WALK },
	{ FN(jit_fill_r), PROF_REFILL },      { FN(jit_fill_w), PROF_REFILL },
	{ FN(jit_str), PROF_STRING },         { FN(jit_syscall), PROF_SYSCALL },
	{ FN(jit_sysret), PROF_SYSCALL },     { FN(jit_translate), PROF_TRANSLATE },
	{ FN(code_insns), PROF_DECODE },      { FN(soft_decode), PROF_DECODE },
	{ FN(soft_bind), PROF_DECODE },       { FN(jit_link), PROF_LINK },
	{ FN(jit_kill), PROF_LINK },          { FN(jit_jump_fill), PROF_LINK },
	{ FN(code_stored), PROF_STORED },     { FN(code_take_posts_locked), PROF_STORED },
	{ FN(sync_unwrite), PROF_STORED },    { FN(mmu_flush_all), PROF_FLUSH },
	{ FN(mmu_flush_space), PROF_FLUSH },  { FN(mmu_flush_page), PROF_FLUSH },
	{ FN(mmu_switch), PROF_FLUSH },       { FN(mmu_invpcid), PROF_FLUSH },
	{ FN(mmu_drop_l1), PROF_FLUSH },      { FN(mmu_drop_w), PROF_FLUSH },
	{ FN(mmu_drop_w_page), PROF_FLUSH },  { FN(soft_ld_slow), PROF_ACCESS },
	{ FN(soft_st_slow), PROF_ACCESS },    { FN(soft_w_slow), PROF_ACCESS },
	{ FN(soft_ld_buf_lin), PROF_ACCESS }, { FN(soft_st_buf_lin), PROF_ACCESS },
	{ FN(soft_interrupt), PROF_EVENT },   { FN(exc_deliver), PROF_EVENT },
	{ FN(run_lapic_events), PROF_EVENT }, { FN(sync_halt), PROF_WAIT },
	{ FN(sync_pause), PROF_WAIT },
};

struct prof_stack {
	struct prof_vcpu *v;
	/* PROF_KINDS, 0: not known yet. */
	unsigned kind, form;
	unsigned depth;
	bool code_run;
};

/* The form of the running block's instruction that has this handler. */
static unsigned block_form(const struct scpu *c, const struct sblock *sb, const void *fn)
{
	const struct insn *i = sb ? code_insns_kept(c, sb) : NULL;

	for (unsigned k = 0; i && k < sb->n; k++)
		if (FN(i[k].fn) == fn)
			return i[k].form;
	return 0;
}

static _Unwind_Reason_Code stack_frame(struct _Unwind_Context *ctx, void *arg)
{
	enum {
		DEEP = 48,
	};
	struct prof_stack *s = arg;
	void *fn = (void *)_Unwind_GetRegionStart(ctx);

	for (unsigned k = 0; s->kind == PROF_KINDS && k < COUNT_OF(prof_fns); k++)
		if (prof_fns[k].fn == fn)
			s->kind = prof_fns[k].kind;
	if (!s->form)
		s->form = block_form(s->v->c, s->v->sb, fn);
	s->code_run |= fn == FN(code_run);
	return fn == FN(soft_run) || ++s->depth > DEEP ? _URC_END_OF_STACK : _URC_NO_REASON;
}

static void sample_engine(struct prof_vcpu *v)
{
	struct prof_stack s = { .v = v, .kind = PROF_KINDS, .form = v->form };

	(void)_Unwind_Backtrace(stack_frame, &s);
	if (s.kind == PROF_KINDS && (v->form || v->sb))
		s.kind = PROF_INTERP;
	else if (s.kind == PROF_KINDS)
		s.kind = s.code_run ? PROF_LOOKUP : PROF_OTHER;
	v->kind[s.kind]++;
	if (v->form || v->sb)
		v->form_hits[s.form]++;
}

static void sample_code(struct prof_vcpu *v, uint64_t off)
{
	v->at[off]++;
	v->page[off / PROF_GRAIN] = v->c->jit_page | 1;
}

static void prof_signal(UNUSED int sig, UNUSED siginfo_t *info, void *ctx)
{
	const greg_t *g = ((const ucontext_t *)ctx)->uc_mcontext.gregs;
	struct prof_vcpu *v = prof_me;
	int saved = errno;

	if (!v)
		return;
	const struct soft_jit *j = v->c->jit;
	uint64_t off = j ? (uint64_t)g[REG_RIP] - (uintptr_t)j->rx : ~0ull;
	if (j && off < j->used)
		sample_code(v, off);
	else
		sample_engine(v);
	errno = saved;
}

static int prof_signals(struct err *e)
{
	struct sigaction sa = { .sa_sigaction = prof_signal,
				.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };

	sigemptyset(&sa.sa_mask);
	/* For good: one may be on its way when the last profile ends. */
	if (sigaction(SIGPROF, &sa, NULL))
		return err_set(e, errno, "cannot handle SIGPROF: %s", strerror(errno));
	return 0;
}

/* ---- the thread that asks for them ---- */

static uint64_t clock_of(clockid_t id)
{
	struct timespec ts;

	return clock_gettime(id, &ts) ? 0 : (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

static void sample_ask(struct prof_vcpu *v)
{
	int tid = __atomic_load_n(&v->tid, __ATOMIC_ACQUIRE);

	if (!tid)
		return;
	uint64_t now = clock_of(v->clock);
	if (now - v->seen_ns < PROF_USED_NS)
		return;
	v->seen_ns = now;
	(void)syscall(SYS_tgkill, getpid(), tid, SIGPROF);
}

static void prof_sampler(void *arg)
{
	struct prof *p = arg;
	uint64_t next = clock_ns() + PROF_PERIOD_NS;

	lock(&p->lock);
	while (!p->stop) {
		(void)cond_wait_until(&p->cond, &p->lock, next);
		uint64_t now = clock_ns();
		if (now < next)
			continue;
		next = MAX(next + PROF_PERIOD_NS, now);
		for (unsigned n = 0; n < p->ncpu; n++)
			if (p->vcpu[n])
				sample_ask(p->vcpu[n]);
	}
	unlock(&p->lock);
}

/* ---- what is told to us ---- */

void prof_enter(struct scpu *c)
{
	struct prof_vcpu *v = c->run->prof;
	sigset_t set;

	if (!v->p->out)
		return;
	sigemptyset(&set);
	sigaddset(&set, SIGPROF);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	prof_me = v;
	lock(&v->p->lock);
	(void)pthread_getcpuclockid(pthread_self(), &v->clock);
	v->seen_ns = v->entered_ns = clock_of(v->clock);
	__atomic_store_n(&v->tid, (int)syscall(SYS_gettid), __ATOMIC_RELEASE);
	unlock(&v->p->lock);
}

void prof_leave(struct scpu *c)
{
	struct prof_vcpu *v = c->run->prof;

	if (!v->p->out)
		return;
	v->form = 0;
	v->sb = NULL;
	prof_me = NULL;
	lock(&v->p->lock);
	v->tid = 0;
	v->cpu_ns += clock_of(v->clock) - v->entered_ns;
	unlock(&v->p->lock);
}

void prof_between(struct scpu *c)
{
	c->run->prof->form = 0;
	c->run->prof->sb = NULL;
}

void prof_interprets(struct scpu *c, const struct sblock *b)
{
	const struct insn *i = code_insns_kept(c, b);
	struct prof_vcpu *v = c->run->prof;

	v->sb = b;
	for (unsigned k = 0; i && k < b->n; k++)
		v->interp[insn_forms[i[k].form].sop][PWHY_COLD]++;
}

void prof_steps(struct scpu *c, const struct insn *i)
{
	struct prof_vcpu *v = c->run->prof;

	v->form = i->form;
	v->interp[insn_forms[i->form].sop][PWHY_STEP]++;
}

void prof_left(struct scpu *c)
{
	struct prof_vcpu *v = c->run->prof;
	uint32_t n = c->jit_arg >> 10, k = c->jit_arg >> 4 & 63;

	v->why[c->jit_why]++;
	if (c->jit_why != JWHY_INTERP)
		return;
	const struct insn *i = code_insns(c, c->jit->block[n].sb);
	if (!i)
		return;
	v->form = i[k].form;
	v->interp[insn_forms[v->form].sop][v->block[n].can >> k & 1 ? PWHY_GAVE_UP : PWHY_NEVER]++;
}

/* ---- translations ---- */

static uint64_t block_gpa(const struct scpu *c, const struct sblock *sb)
{
	const struct soft_shared *sh = soft_sh(c);

	for (unsigned n = 0; n < sh->nmap; n++)
		if (sb->index - sh->map[n].first < sh->map[n].len >> 12)
			return sh->map[n].gpa + ((sb->index - sh->map[n].first) << 12) + sb->off;
	return 0;
}

static void map_line(const struct prof_vcpu *v, uint32_t off, uint32_t len, const char *name)
{
	FILE *f = v->p->map;

	lock(&v->p->lock);
	fprintf(f, "%lx %x %s\n", (unsigned long)(uintptr_t)(v->c->jit->rx + off), len, name);
	unlock(&v->p->lock);
}

/* perf sums up what has the same name, so one of a function is the function's. */
static void map_block(struct prof_vcpu *v, const struct prof_block *b)
{
	char mode[16], name[160];
	uint64_t off;

	prof_slide(v->p, v->c->lstar);
	const char *sym = prof_symbol(v->p, b->lin, &off);
	prof_mode_text(b->mode, mode);
	if (sym)
		snprintf(name, sizeof(name), "guest:%s", sym);
	else
		snprintf(name, sizeof(name), "guest:%s:%lx", mode, (unsigned long)b->lin);
	map_line(v, b->host_off, b->host_len, name);
}

static void map_thunks(struct prof_vcpu *v)
{
	const struct soft_jit *j = v->c->jit;
	char name[64];

	for (unsigned k = 0; k < JIT_THUNKS; k++) {
		uint32_t off = jit_thunk_at(j, k), end = (uint32_t)j->first;

		for (unsigned n = 0; n < JIT_THUNKS; n++)
			if (jit_thunk_at(j, n) > off)
				end = MIN(end, jit_thunk_at(j, n));
		snprintf(name, sizeof(name), "sampan:%s", jit_thunk_name[k].name);
		map_line(v, off, end - off, name);
	}
}

void prof_mark(struct jt *t, enum prof_part part, unsigned k)
{
	struct prof_vcpu *v = t->c->run->prof;
	uint32_t off = (uint32_t)(t->b.p - t->j->block[t->block].rw);

	if (v->nmark < PROF_MARKS && off <= UINT16_MAX)
		v->mark[v->nmark++] =
			(struct prof_mark){ (uint16_t)off, (uint8_t)part, (uint8_t)k };
}

void prof_translated(const struct jt *t, const uint8_t *end)
{
	struct scpu *c = t->c;
	struct prof_vcpu *v = c->run->prof;
	struct prof_block *b = &v->block[t->block];
	const struct prof_opts *o = &v->p->o;

	*b = (struct prof_block){
		.gpa = block_gpa(c, t->sb),
		.lin = c->rip,
		.mode = t->mode,
		.host_off = (uint32_t)(t->j->block[t->block].rw - t->j->rw),
		.host_len = (uint32_t)(end - t->j->block[t->block].rw),
		.mark = v->mark_from,
		.nmark = v->nmark - v->mark_from,
		.len = t->sb->len,
		.n = (uint8_t)t->n,
		.code_size = c->code_size,
	};
	for (unsigned k = 0; k < t->n; k++)
		b->can |= (uint64_t)t->can[k] << k;
	v->mark_from = v->nmark;
	if (v->p->map)
		map_block(v, b);
	if (o->dump && b->lin <= o->dump_to && b->lin + b->len - 1 >= o->dump_from)
		prof_explain(stderr, v, t->block, b->lin);
}

/* ---- samples of blocks that are forgotten ---- */

static size_t place_slot(const struct prof *p, const struct prof_place *x)
{
	uint64_t h = (x->gpa ^ x->lin << 20 ^ x->mode) * 0x9e3779b97f4a7c15ull;
	size_t k = (size_t)(h >> 32) & (p->places - 1);

	for (; p->place[k].used; k = (k + 1) & (p->places - 1))
		if (p->place[k].gpa == x->gpa && p->place[k].lin == x->lin &&
		    p->place[k].mode == x->mode)
			break;
	return k;
}

/* False: there is no room. */
static bool place_grow(struct prof *p)
{
	struct prof_place *was = p->place;
	size_t n = p->places;

	if (p->nplace * 2 < n)
		return true;
	p->places = n ? 2 * n : 4096;
	p->place = xcalloc(p->places, sizeof(p->place[0]));
	if (!p->place) {
		p->place = was;
		p->places = n;
		return p->nplace + 1 < n;
	}
	for (size_t k = 0; k < n; k++)
		if (was[k].used)
			p->place[place_slot(p, &was[k])] = was[k];
	free(was);
	return true;
}

static void place_add(struct prof *p, const struct prof_place *x)
{
	if (!place_grow(p))
		return;
	struct prof_place *to = &p->place[place_slot(p, x)];
	uint32_t hits = to->hits;

	p->nplace += !to->used;
	*to = *x;
	to->hits += hits;
}

/* The block whose code has this byte; 0: a thunk. */
static uint32_t block_of(const struct prof_vcpu *v, uint64_t off)
{
	uint32_t lo = 1, hi = v->c->jit->nblock;

	if (off < v->c->jit->first)
		return 0;
	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (v->block[mid].host_off <= off)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

static void fold_grain(struct prof_vcpu *v, size_t g)
{
	for (size_t off = g * PROF_GRAIN; off < (g + 1) * PROF_GRAIN; off++) {
		uint32_t hits = v->at[off], n;

		if (!hits)
			continue;
		v->at[off] = 0;
		n = block_of(v, off);
		if (!n) {
			v->kind[PROF_THUNK] += hits;
			v->thunk[jit_thunk_of(v->c->jit, (uint32_t)off)] += hits;
			continue;
		}
		const struct prof_block *b = &v->block[n];
		place_add(v->p, &(struct prof_place){
					.gpa = b->gpa,
					.lin = (v->page[g] & ~0xfffull) + (b->lin & 0xfff),
					.mode = b->mode,
					.hits = hits,
					.host_len = b->host_len,
					.len = b->len,
					.n = b->n,
					.used = true,
				});
	}
	v->page[g] = 0;
}

static void prof_fold(struct prof_vcpu *v)
{
	if (!v->at)
		return;
	lock(&v->p->lock);
	for (size_t g = 0; g < v->c->jit->size / PROF_GRAIN; g++)
		if (v->page[g])
			fold_grain(v, g);
	unlock(&v->p->lock);
}

void prof_dropped(struct scpu *c)
{
	struct prof_vcpu *v = c->run->prof;

	if (!v)
		return;
	prof_between(c);
	prof_fold(v);
	v->nmark = v->mark_from = 0;
}

/* ---- life ---- */

/* Only what is touched becomes memory. */
static void *prof_map(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void prof_unmap(void *p, size_t size)
{
	if (p)
		munmap(p, size);
}

int prof_vcpu_new(struct scpu *c, struct prof *p, struct err *e)
{
	struct prof_vcpu *v = NEW(struct prof_vcpu);

	if (!v)
		return err_set(e, ENOMEM, "no memory for a profile");
	v->p = p;
	v->c = c;
	c->run->prof = v;
	if (c->jit) {
		v->at = prof_map(c->jit->size * sizeof(v->at[0]));
		v->page = prof_map(c->jit->size / PROF_GRAIN * sizeof(v->page[0]));
		v->block = prof_map(JIT_BLOCKS * sizeof(v->block[0]));
		v->mark = prof_map(PROF_MARKS * sizeof(v->mark[0]));
		if (!v->at || !v->page || !v->block || !v->mark)
			return err_set(e, ENOMEM, "no memory for a profile");
		if (p->map)
			map_thunks(v);
	}
	lock(&p->lock);
	p->vcpu[c->v.index] = v;
	p->ncpu = MAX(p->ncpu, c->v.index + 1);
	unlock(&p->lock);
	return 0;
}

static void sum_add(uint64_t *to, const uint64_t *from, size_t n)
{
	for (size_t k = 0; k < n; k++)
		to[k] += from[k];
}

static void sum_vcpu(struct prof *p, const struct prof_vcpu *v)
{
	p->sum.cpu_ns += v->cpu_ns;
	sum_add(p->sum.kind, v->kind, PROF_KINDS);
	sum_add(p->sum.form_hits, v->form_hits, INSN_FORMS);
	sum_add(p->sum.why, v->why, JWHYS);
	sum_add(p->sum.interp[0], v->interp[0], (size_t)SOPS * PWHYS);
	sum_add(p->sum.thunk, v->thunk, JIT_THUNKS);
}

struct hot {
	uint64_t hits;
	uint32_t n;
};

static int hot_cmp(const void *a, const void *b)
{
	const struct hot *x = a, *y = b;

	return (x->hits < y->hits) - (x->hits > y->hits);
}

/* Where it ran last when a sample was taken. */
static uint64_t block_lin(const struct prof_vcpu *v, const struct prof_block *b)
{
	for (uint32_t g = b->host_off / PROF_GRAIN; g * PROF_GRAIN < b->host_off + b->host_len; g++)
		if (v->page[g])
			return (v->page[g] & ~0xfffull) + (b->lin & 0xfff);
	return b->lin;
}

/* The hottest of those that live still. */
static void explain_hottest(struct prof_vcpu *v)
{
	const struct soft_jit *j = v->c->jit;
	struct hot *h = xcalloc(j->nblock, sizeof(*h));

	if (!h || !v->p->texts) {
		free(h);
		return;
	}
	for (size_t g = j->first / PROF_GRAIN; g < j->used / PROF_GRAIN; g++) {
		for (size_t off = g * PROF_GRAIN; v->page[g] && off < (g + 1) * PROF_GRAIN; off++) {
			uint32_t n = v->at[off] ? block_of(v, off) : 0;

			h[n].n = n;
			h[n].hits += v->at[off];
		}
	}
	h[0].hits = 0;
	qsort(h, j->nblock, sizeof(*h), hot_cmp);
	for (unsigned k = 0; k < MIN(j->nblock, (uint32_t)PROF_EXPLAINED) && h[k].hits; k++) {
		if (!j->block[h[k].n].dead)
			prof_explain(v->p->texts, v, h[k].n, block_lin(v, &v->block[h[k].n]));
	}
	free(h);
}

void prof_vcpu_free(struct scpu *c)
{
	struct prof_vcpu *v = c->run ? c->run->prof : NULL;

	if (!v)
		return;
	struct prof *p = v->p;
	lock(&p->lock);
	if (p->vcpu[c->v.index] == v)
		p->vcpu[c->v.index] = NULL;
	unlock(&p->lock);
	prof_slide(p, c->lstar);
	if (v->mark && p->out)
		explain_hottest(v);
	if (v->mark)
		prof_fold(v);
	sum_vcpu(p, v);
	if (c->jit) {
		prof_unmap(v->at, c->jit->size * sizeof(v->at[0]));
		prof_unmap(v->page, c->jit->size / PROF_GRAIN * sizeof(v->page[0]));
		prof_unmap(v->block, JIT_BLOCKS * sizeof(v->block[0]));
		prof_unmap(v->mark, PROF_MARKS * sizeof(v->mark[0]));
	}
	free(v);
	c->run->prof = NULL;
}

static int prof_file(FILE **ret, const char *path, int flags, struct err *e)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY | flags, 0666);

	if (fd < 0)
		return err_set(e, errno, "cannot write '%s': %s", path, strerror(errno));
	*ret = fdopen(fd, "w");
	if (!*ret) {
		close(fd);
		return err_set(e, ENOMEM, "no memory");
	}
	return 0;
}

static int prof_start(struct prof *p, const struct prof_opts *o, struct err *e)
{
	char map[64];
	int rc = 0;

	snprintf(map, sizeof(map), "/tmp/perf-%d.map", getpid());
	if (o->symbols)
		rc = prof_symbols(p, o->symbols, e);
	/* Others may write to /tmp too. */
	if (rc >= 0 && o->perfmap)
		rc = prof_file(&p->map, map, O_NOFOLLOW, e);
	if (rc < 0 || !o->file)
		return rc;
	rc = prof_file(&p->out, o->file, 0, e);
	p->texts = open_memstream(&p->text, &p->text_len);
	if (rc >= 0)
		rc = prof_signals(e);
	if (rc >= 0)
		rc = thread_start(&p->sampler, "soft-profile", prof_sampler, p, e);
	return rc;
}

int prof_new(struct prof **ret, const struct prof_opts *o, struct err *e)
{
	struct prof *p = NEW(struct prof);

	if (!p)
		return err_set(e, ENOMEM, "no memory for a profile");
	lock_init(&p->lock);
	cond_init(&p->cond);
	p->o = *o;
	p->o.file = p->o.symbols = NULL;
	int rc = prof_start(p, o, e);
	if (rc < 0) {
		if (p->out)
			fclose(TAKE(p->out));
		prof_free(p);
		return rc;
	}
	*ret = p;
	return 0;
}

void prof_free(struct prof *p)
{
	if (!p)
		return;
	lock(&p->lock);
	p->stop = true;
	cond_wake_all(&p->cond);
	unlock(&p->lock);
	thread_join(&p->sampler);
	if (p->texts)
		fclose(p->texts);
	if (p->out)
		prof_report(p);
	if (p->map)
		fclose(p->map);
	free(p->text);
	free(p->place);
	free(p->sym);
	free(p->sym_text);
	cond_fini(&p->cond);
	lock_fini(&p->lock);
	free(p);
}
