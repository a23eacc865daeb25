#include "base/opt.h"

#include "base/alloc.h"
#include "base/near.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *opt_name_nth(const void *arg, unsigned i)
{
	return ((const struct opt *)arg)[i].name;
}

static const struct opt *opt_find(const struct opt *table, const char *name, size_t len)
{
	for (; table->name; table++)
		if (strlen(table->name) == len && !memcmp(table->name, name, len))
			return table;
	return NULL;
}

static int opt_unknown(const struct opt *table, const char *name, size_t len, struct err *e)
{
	char word[48];

	snprintf(word, sizeof(word), "%.*s", (int)len, name);
	const char *near = near_find(word, opt_name_nth, table);
	if (near)
		return err_set(e, EINVAL, "there is no option --%s; did you mean --%s?", word,
			       near);
	return err_set(e, EINVAL, "there is no option --%s", word);
}

/* One option at argv[*i]; *i moves past its value. */
static int opt_one(const struct opt *table, int argc, char *const *argv, int *i, void *ctx,
		   struct err *e)
{
	const char *name = argv[*i] + 2, *value = strchr(name, '=');
	size_t len = value ? (size_t)(value - name) : strlen(name);
	const struct opt *o = opt_find(table, name, len);

	if (!o)
		return opt_unknown(table, name, len, e);
	if (value)
		value++;
	bool optional = o->arg && *o->arg == '[';
	if (!o->arg && value)
		return err_set(e, EINVAL, "option --%s takes no value", o->name);
	if (o->arg && !optional && !value) {
		if (*i + 1 >= argc)
			return err_set(e, EINVAL, "option --%s needs a value: --%s %s", o->name,
				       o->name, o->arg);
		value = argv[++*i];
	}
	if (o->fn(ctx, value, e) < 0)
		return err_in(e, "--%s", o->name);
	return 0;
}

int opt_parse(const struct opt *table, int argc, char *const *argv, void *ctx,
	      int (*positional)(void *ctx, const char *arg, struct err *e), struct err *e)
{
	bool only_args = false;
	int rc = 0;

	for (int i = 0; i < argc && rc >= 0; i++) {
		const char *s = argv[i];

		if (!only_args && !strcmp(s, "--"))
			only_args = true;
		else if (!only_args && s[0] == '-' && s[1] == '-')
			rc = opt_one(table, argc, argv, &i, ctx, e);
		else if (!only_args && s[0] == '-' && s[1])
			rc = err_set(e, EINVAL, "'%s': options begin with two dashes (see --help)",
				     s);
		else if (!positional)
			rc = err_set(e, EINVAL, "unexpected argument '%s'", s);
		else
			rc = positional(ctx, s, e);
	}
	return rc;
}

void opt_help(const struct opt *table, FILE *f)
{
	for (; table->name; table++) {
		const char *arg = table->arg ? table->arg : "";

		/* --name VALUE, --name[=VALUE] */
		if (*arg == '[')
			fprintf(f, "  --%s[=%s\n      ", table->name, arg + 1);
		else
			fprintf(f, "  --%s%s%s\n      ", table->name, *arg ? " " : "", arg);
		for (const char *s = table->help; *s; s++) {
			fputc(*s, f);
			if (*s == '\n')
				fputs("      ", f);
		}
		fputc('\n', f);
	}
}

/* Ends the piece at s (undoubling its commas) and returns where the next begins, or NULL. */
static char *subopts_cut(char *s)
{
	char *to = s;

	for (; *s; s++) {
		if (*s == ',' && s[1] != ',') {
			*to = 0;
			return s + 1;
		}
		if (*s == ',')
			s++;
		*to++ = *s;
	}
	*to = 0;
	return NULL;
}

int subopts_parse(struct subopts *ret, const char *text, bool first_value, struct err *e)
{
	*ret = (struct subopts){ .text = xstrdup(text) };
	if (!ret->text)
		return err_set(e, ENOMEM, "no memory");
	for (char *s = ret->text, *next; s; s = next) {
		struct subopt *o = &ret->o[ret->n];

		if (ret->n == SUBOPT_MAX) {
			subopts_fini(ret);
			return err_set(e, EINVAL, "more than %d pieces", SUBOPT_MAX);
		}
		next = subopts_cut(s);
		char *eq = first_value && !ret->n ? NULL : strchr(s, '=');
		if (!ret->n && !eq) {
			o->value = s;
		} else {
			o->key = s;
			o->value = eq ? eq + 1 : NULL;
			if (eq)
				*eq = 0;
		}
		ret->n++;
	}
	return 0;
}

void subopts_fini(struct subopts *s)
{
	free(s->text);
	*s = (struct subopts){ 0 };
}
