/*
 * Names of guest code: a file as System.map, /proc/kallsyms or `nm` have it, lines of address, type
 * and name.  Only code counts.
 */
#include "accel/soft/jit/prof_int.h"

#include "base/alloc.h"
#include "base/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	SYM_FILE = 64 << 20,
	/* No function is longer; behind the last one there are modules. */
	SYM_LONGEST = 64 << 10,
	/* The kernel is moved by a multiple of this at its start. */
	SYM_ALIGN = 2 << 20,
};

static int sym_cmp(const void *a, const void *b)
{
	const struct prof_sym *x = a, *y = b;

	return (x->at > y->at) - (x->at < y->at);
}

/* One line; false: it is none of code. */
static bool sym_line(char *line, struct prof_sym *ret)
{
	char *save, *at = strtok_r(line, " \t", &save);
	const char *type = strtok_r(NULL, " \t", &save), *name = strtok_r(NULL, " \t\r", &save);
	char *end;

	if (!name || !strchr("tTwW", *type) || type[1])
		return false;
	ret->at = strtoull(at, &end, 16);
	ret->name = name;
	return end != at && !*end && ret->at;
}

int prof_symbols(struct prof *p, const char *path, struct err *e)
{
	size_t len, lines = 1;
	void *text;
	int rc = file_read_all(path, SYM_FILE, &text, &len, e);

	if (rc < 0)
		return rc;
	p->sym_text = text;
	for (const char *s = p->sym_text; (s = strchr(s, '\n')); s++)
		lines++;
	p->sym = xcalloc(lines, sizeof(p->sym[0]));
	if (!p->sym)
		return err_set(e, ENOMEM, "no memory for %lu symbols", (unsigned long)lines);
	char *save = NULL;
	for (char *s = strtok_r(p->sym_text, "\n", &save); s; s = strtok_r(NULL, "\n", &save))
		p->nsym += sym_line(s, &p->sym[p->nsym]);
	if (!p->nsym)
		return err_set(
			e, EINVAL,
			"'%s' has no symbols of code (lines 'ADDRESS T NAME' are wanted, as in "
			"System.map)",
			path);
	qsort(p->sym, p->nsym, sizeof(p->sym[0]), sym_cmp);
	return 0;
}

const char *prof_symbol(const struct prof *p, uint64_t lin, uint64_t *ret_off)
{
	size_t lo = 0, hi = p->nsym;
	uint64_t at = lin - __atomic_load_n(&p->slide, __ATOMIC_RELAXED);

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (p->sym[mid].at <= at)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo || at - p->sym[lo - 1].at >= SYM_LONGEST)
		return NULL;
	*ret_off = at - p->sym[lo - 1].at;
	return p->sym[lo - 1].name;
}

void prof_symbol_text(const struct prof *p, uint64_t lin, char *ret, size_t size)
{
	uint64_t off;
	const char *name = prof_symbol(p, lin, &off);

	if (!name)
		*ret = 0;
	else if (off)
		snprintf(ret, size, "%s+%#lx", name, (unsigned long)off);
	else
		snprintf(ret, size, "%s", name);
}

void prof_slide(struct prof *p, uint64_t lstar)
{
	for (size_t k = 0; lstar && !p->slide && k < p->nsym; k++) {
		uint64_t by = lstar - p->sym[k].at;

		if (strcmp(p->sym[k].name, "entry_SYSCALL_64"))
			continue;
		if (!(by & (SYM_ALIGN - 1)))
			__atomic_store_n(&p->slide, by, __ATOMIC_RELAXED);
		return;
	}
}
