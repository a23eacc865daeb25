/*
 * The report: what the time went to, guest code by function or neighbourhood and by block, exits,
 * what was interpreted, and the hottest blocks with their code.  For people first; each table has
 * one row a line, so that sort and awk can do more with it.
 */
#include "accel/soft/jit/prof_int.h"

#include "base/alloc.h"
#include "base/log.h"
#include "base/num.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	OUT_BLOCKS = 200,
	OUT_AREAS = 60,
	OUT_FORMS = 60,
	/* Blocks nearer than this belong to one neighbourhood. */
	OUT_NEAR = 64,
};

static const char *const kind_names[PROF_KINDS] = {
	[PROF_INTERP] = "interpreter",
	[PROF_ACCESS] =
		"accesses that miss both translation caches, or are no RAM, or store to code",
	[PROF_WALK] = "page walks, and translations of code addresses",
	[PROF_REFILL] = "refill of the first-level translation cache",
	[PROF_STRING] = "MOVS and STOS in bulk",
	[PROF_SYSCALL] = "SYSCALL and SYSRET",
	[PROF_TRANSLATE] = "translating",
	[PROF_DECODE] = "decoding",
	[PROF_LOOKUP] = "looking blocks up, in and out of translated code",
	[PROF_LINK] = "linking, jump cache entries, death of blocks",
	[PROF_FLUSH] = "translation cache flushes",
	[PROF_STORED] = "stores to code",
	[PROF_EVENT] = "exceptions and interrupts",
	[PROF_DEVICE] = "devices",
	[PROF_WAIT] = "waiting and waking",
	[PROF_THUNK] = "fixed pieces of translated code",
	[PROF_OTHER] = "other",
};

static const char *const why_names[JWHYS] = {
	[JWHY_LINK] = "an exit that is not linked (yet)",
	[JWHY_INTERP] = "an instruction for the interpreter",
	[JWHY_JUMP] = "to another page, not in the jump cache",
	[JWHY_BRANCH] = "an indirect branch, not in the jump cache",
	[JWHY_DEAD] = "a block that died",
};

struct out {
	FILE *f;
	struct prof *p;
	/* All samples; those in translated blocks. */
	uint64_t all, blocks;
	/* By samples, or by address. */
	struct prof_place **by;
	size_t n;
};

static double share(const struct out *o, uint64_t hits)
{
	return o->all ? 100.0 * (double)hits / (double)o->all : 0;
}

/* ---- sorted names ---- */

struct row {
	uint64_t hits;
	unsigned n;
};

static int row_cmp(const void *a, const void *b)
{
	const struct row *x = a, *y = b;

	if (x->hits != y->hits)
		return x->hits < y->hits ? 1 : -1;
	return (int)x->n - (int)y->n;
}

/* Indices of v that are not 0, most first; free it. */
static struct row *rows(const uint64_t *v, unsigned n, unsigned *ret_n)
{
	struct row *r = xcalloc(n + 1, sizeof(*r));

	*ret_n = 0;
	for (unsigned k = 0; r && k < n; k++)
		if (v[k])
			r[(*ret_n)++] = (struct row){ v[k], k };
	if (r)
		qsort(r, *ret_n, sizeof(*r), row_cmp);
	return r;
}

/* ---- parts ---- */

static void out_head(struct out *o)
{
	const struct prof *p = o->p;

	fprintf(o->f,
		"# Profile of the software CPU: %lu samples in %.2f s of CPU time of %u vCPUs\n",
		(unsigned long)o->all, (double)p->sum.cpu_ns / 1e9, p->ncpu);
	if (p->nsym)
		fprintf(o->f, "# %lu symbols, the kernel moved by %#lx\n", (unsigned long)p->nsym,
			(unsigned long)p->slide);
	fprintf(o->f, "\n## Where the time went\n#  share  samples\n%7.2f %8lu  %s\n",
		share(o, o->blocks), (unsigned long)o->blocks, "translated blocks");
	unsigned n;
	struct row *r = rows(p->sum.kind, PROF_KINDS, &n);
	for (unsigned k = 0; k < n; k++)
		fprintf(o->f, "%7.2f %8lu  %s\n", share(o, r[k].hits), (unsigned long)r[k].hits,
			kind_names[r[k].n]);
	free(r);
	r = rows(p->sum.thunk, JIT_THUNKS, &n);
	if (n)
		fprintf(o->f, "\n## Fixed pieces of translated code\n#  share  samples\n");
	for (unsigned k = 0; k < n; k++)
		fprintf(o->f, "%7.2f %8lu  %s\n", share(o, r[k].hits), (unsigned long)r[k].hits,
			jit_thunk_name[r[k].n].name);
	free(r);
}

static void out_counts(struct out *o)
{
	uint64_t interp[SOPS];
	const struct prof_vcpu *s = &o->p->sum;
	unsigned n;

	fprintf(o->f, "\n## Exits from translated code\n#   count\n");
	for (unsigned k = 0; k < JWHYS; k++)
		fprintf(o->f, "%10lu  %s\n", (unsigned long)s->why[k], why_names[k]);
	for (unsigned k = 0; k < SOPS; k++) {
		interp[k] = 0;
		for (unsigned w = 0; w < PWHYS; w++)
			interp[k] += s->interp[k][w];
	}
	fprintf(o->f,
		"\n## Interpreted instructions\n"
		"## never: there is no translation; gave up: a walk, a device, code, a fault ...\n"
		"## cold: of blocks that are not translated (yet), whole blocks; step: one by one\n"
		"#    total      never    gave up       cold       step\n");
	struct row *r = rows(interp, SOPS, &n);
	for (unsigned k = 0; k < n; k++) {
		const uint64_t *w = s->interp[r[k].n];

		fprintf(o->f, "%10lu %10lu %10lu %10lu %10lu  %s\n", (unsigned long)r[k].hits,
			(unsigned long)w[PWHY_NEVER], (unsigned long)w[PWHY_GAVE_UP],
			(unsigned long)w[PWHY_COLD], (unsigned long)w[PWHY_STEP],
			insn_sop_names[r[k].n]);
	}
	free(r);
	r = rows(s->form_hits, INSN_FORMS, &n);
	fprintf(o->f, "\n## Samples while an instruction was interpreted, all it caused "
		      "included\n#  share  "
		      "samples  form\n");
	for (unsigned k = 0; k < MIN(n, (unsigned)OUT_FORMS); k++)
		fprintf(o->f, "%7.2f %8lu  %u %s\n", share(o, r[k].hits), (unsigned long)r[k].hits,
			r[k].n, r[k].n ? insn_forms[r[k].n].name : "(between two)");
	free(r);
}

static int by_hits(const void *a, const void *b)
{
	const struct prof_place *x = *(struct prof_place *const *)a,
				*y = *(struct prof_place *const *)b;

	if (x->hits != y->hits)
		return x->hits < y->hits ? 1 : -1;
	return (x->lin > y->lin) - (x->lin < y->lin);
}

static int by_address(const void *a, const void *b)
{
	const struct prof_place *x = *(struct prof_place *const *)a,
				*y = *(struct prof_place *const *)b;

	if (x->lin != y->lin)
		return x->lin > y->lin ? 1 : -1;
	return (x->gpa > y->gpa) - (x->gpa < y->gpa);
}

static void out_blocks(struct out *o)
{
	double sum = 0;

	fprintf(o->f, "\n## Blocks, hottest first\n"
		      "#  share     sum  samples           linear         physical mode     insns  "
		      "bytes   "
		      "host  symbol\n");
	qsort(o->by, o->n, sizeof(o->by[0]), by_hits);
	for (size_t k = 0; k < MIN(o->n, (size_t)OUT_BLOCKS); k++) {
		const struct prof_place *x = o->by[k];
		char mode[16], sym[128];

		sum += share(o, x->hits);
		prof_mode_text(x->mode, mode);
		prof_symbol_text(o->p, x->lin, sym, sizeof(sym));
		fprintf(o->f, "%7.2f %7.2f %8u %16lx %16lx %-8s %6u %6u %6u  %s\n",
			share(o, x->hits), sum, x->hits, (unsigned long)x->lin,
			(unsigned long)x->gpa, mode, x->n, x->len, x->host_len, sym);
	}
}

/* Blocks of one function, or that lie near each other. */
struct area {
	uint64_t from, to, hits;
	unsigned blocks, insns, host;
	const char *sym;
	uint32_t mode;
};

static bool area_takes(const struct area *a, const struct prof_place *x, const char *sym)
{
	if (a->mode != (x->mode & (JM_USER | JM_64)))
		return false;
	if (a->sym || sym)
		return a->sym == sym;
	return x->lin < a->to + OUT_NEAR;
}

static int area_cmp(const void *a, const void *b)
{
	const struct area *x = a, *y = b;

	if (x->hits != y->hits)
		return x->hits < y->hits ? 1 : -1;
	return (x->from > y->from) - (x->from < y->from);
}

static size_t areas_make(struct out *o, struct area *a)
{
	size_t n = 0;

	qsort(o->by, o->n, sizeof(o->by[0]), by_address);
	for (size_t k = 0; k < o->n; k++) {
		const struct prof_place *x = o->by[k];
		uint64_t off;
		const char *sym = prof_symbol(o->p, x->lin, &off);

		if (!n || !area_takes(&a[n - 1], x, sym))
			a[n++] = (struct area){ .from = x->lin,
						.to = x->lin,
						.sym = sym,
						.mode = x->mode & (JM_USER | JM_64) };
		a[n - 1].to = MAX(a[n - 1].to, x->lin + x->len);
		a[n - 1].hits += x->hits;
		a[n - 1].blocks++;
		a[n - 1].insns += x->n;
		a[n - 1].host += x->host_len;
	}
	qsort(a, n, sizeof(*a), area_cmp);
	return n;
}

static void out_areas(struct out *o)
{
	struct area *a = xcalloc(o->n + 1, sizeof(*a));
	double sum = 0;

	if (!a)
		return;
	fprintf(o->f,
		"\n## Guest code by %s\n"
		"#  share     sum  samples             from               to mode     blocks  "
		"insns   "
		"host  symbol\n",
		o->p->nsym ? "function, without symbol by neighbourhood" : "neighbourhood");
	size_t n = areas_make(o, a);
	for (size_t k = 0; k < MIN(n, (size_t)OUT_AREAS); k++) {
		char mode[16];

		sum += share(o, a[k].hits);
		prof_mode_text(a[k].mode, mode);
		fprintf(o->f, "%7.2f %7.2f %8lu %16lx %16lx %-8s %6u %6u %6u  %s\n",
			share(o, a[k].hits), sum, (unsigned long)a[k].hits,
			(unsigned long)a[k].from, (unsigned long)a[k].to, mode, a[k].blocks,
			a[k].insns, a[k].host, a[k].sym ? a[k].sym : "");
	}
	free(a);
}

static void out_all(struct out *o)
{
	const struct prof *p = o->p;

	for (unsigned k = 0; k < PROF_KINDS; k++)
		o->all += p->sum.kind[k];
	for (size_t k = 0; k < p->places; k++) {
		if (!p->place[k].used)
			continue;
		o->by[o->n++] = &p->place[k];
		o->blocks += p->place[k].hits;
	}
	o->all += o->blocks;
	out_head(o);
	out_areas(o);
	out_blocks(o);
	out_counts(o);
	if (p->text_len)
		fprintf(o->f,
			"\n## The hottest blocks that lived at the end: samples, offset, host code "
			"beneath each guest instruction\n\n%s",
			p->text);
}

void prof_report(struct prof *p)
{
	struct out o = { .f = p->out, .p = p };

	o.by = xcalloc(p->nplace + 1, sizeof(o.by[0]));
	if (o.by)
		out_all(&o);
	free(o.by);
	bool bad = ferror(p->out);
	if (fclose(p->out) || bad)
		log_warn("the profile could not be written: %s", strerror(errno));
	p->out = NULL;
}
