/*
 * Command-line options and their help from one table, and the "key=value,key=value" lists inside
 * one option's value (a comma inside a value is written twice).
 */
#pragma once

#include "base/err.h"

#include <stdio.h>

struct opt {
	/* Without the dashes. */
	const char *name;
	/* What the value is called in the help; NULL: a flag, without value; "[PORT]": a flag that
	 * may have one, as --name=value. */
	const char *arg;
	/* One line; more lines after \n are indented below it. */
	const char *help;
	/* value is NULL when there is none. */
	int (*fn)(void *ctx, const char *value, struct err *e);
};

/*
 * Options ("--name value", "--name=value") in any order with positional arguments, which go to
 * `positional` (NULL: there are none).  After "--" everything is positional.  -EINVAL for an
 * unknown option, with the nearest name.  The table ends with a NULL name.
 */
NODISCARD int opt_parse(const struct opt *table, int argc, char *const *argv, void *ctx,
			int (*positional)(void *ctx, const char *arg, struct err *e),
			struct err *e);
void opt_help(const struct opt *table, FILE *f);

enum {
	SUBOPT_MAX = 32,
};

struct subopt {
	/* NULL for a first piece that is only a value. */
	const char *key;
	/* NULL for a piece without '='. */
	const char *value;
};

struct subopts {
	unsigned n;
	struct subopt o[SUBOPT_MAX];
	char *text;
};

/* first_value: the first piece is a value as it stands, even with '=' inside. */
NODISCARD int subopts_parse(struct subopts *ret, const char *text, bool first_value, struct err *e);
void subopts_fini(struct subopts *s);
