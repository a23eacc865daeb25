#include "accel/soft/options.h"

#include "base/str.h"

#include <errno.h>
#include <string.h>

static int opt_bool(bool *to, const struct subopt *o, struct err *e)
{
	if (o->value && str_bool(o->value, to) == 0)
		return 0;
	return err_set(e, EINVAL, "%s=on|off is wanted, not '%s=%.40s'", o->key, o->key,
		       o->value ? o->value : "");
}

static int opt_jit(struct soft_opts *so, const struct subopt *o, struct err *e)
{
	return opt_bool(&so->jit, o, e);
}

static int opt_lockstep(struct soft_opts *so, const struct subopt *o, struct err *e)
{
	return opt_bool(&so->lockstep, o, e);
}

static int opt_hot(struct soft_opts *so, const struct subopt *o, struct err *e)
{
	uint64_t n;

	if (!o->value || str_u64(o->value, &n) || n > SOFT_HOT_MAX)
		return err_set(e, EINVAL, "hot=0..%d is wanted, not 'hot=%.40s'", SOFT_HOT_MAX,
			       o->value ? o->value : "");
	so->hot = (uint8_t)n;
	return 0;
}

static int opt_perfmap(struct soft_opts *so, const struct subopt *o, struct err *e)
{
	return opt_bool(&so->prof.perfmap, o, e);
}

static int opt_file(const char **to, const struct subopt *o, struct err *e)
{
	if (!o->value || !*o->value)
		return err_set(e, EINVAL, "%s=FILE is wanted", o->key);
	*to = o->value;
	return 0;
}

static int opt_profile(struct soft_opts *so, const struct subopt *o, struct err *e)
{
	return opt_file(&so->prof.file, o, e);
}

static int opt_symbols(struct soft_opts *so, const struct subopt *o, struct err *e)
{
	return opt_file(&so->prof.symbols, o, e);
}

static bool dump_range(struct prof_opts *p, const char *value)
{
	char from[40];
	const char *dash = value ? strchr(value, '-') : NULL;

	if (!value)
		return false;
	if (!str_copy(from, sizeof(from), value))
		return false;
	if (dash)
		from[dash - value] = 0;
	if (str_u64(from, &p->dump_from) || str_u64(dash ? dash + 1 : from, &p->dump_to))
		return false;
	return p->dump_from <= p->dump_to;
}

static int opt_dump(struct soft_opts *so, const struct subopt *o, struct err *e)
{
	so->prof.dump = true;
	if (dump_range(&so->prof, o->value))
		return 0;
	return err_set(e, EINVAL, "dump=ADDR or dump=FIRST-LAST is wanted, not 'dump=%.40s'",
		       o->value ? o->value : "");
}

static const struct {
	const char *name, *values;
	int (*fn)(struct soft_opts *so, const struct subopt *o, struct err *e);
} options[] = {
	{ "jit", "on|off", opt_jit },        { "lockstep", "on|off", opt_lockstep },
	{ "hot", "TIMES", opt_hot },         { "profile", "FILE", opt_profile },
	{ "symbols", "FILE", opt_symbols },  { "perfmap", "on|off", opt_perfmap },
	{ "dump", "ADDR[-ADDR]", opt_dump },
};

static int opt_unknown(const char *name, struct err *e)
{
	char there[200];
	size_t n = 0, room = sizeof(there);

	for (unsigned k = 0; k < COUNT_OF(options) && n < room; k++)
		n += (size_t)snprintf(there + n, room - n, "%s%s=%s", k ? ", " : "",
				      options[k].name, options[k].values);
	return err_set(e, EINVAL, "no option '%.40s' (there are: %s)", name, there);
}

static int opt_one(struct soft_opts *so, const struct subopt *o, struct err *e)
{
	for (unsigned k = 0; k < COUNT_OF(options); k++)
		if (o->key && !strcmp(o->key, options[k].name))
			return options[k].fn(so, o, e);
	return opt_unknown(o->key ? o->key : o->value, e);
}

/* Those that do not go together. */
static int opts_check(const struct soft_opts *so, const struct accel_opts *o, struct err *e)
{
	if (so->lockstep && !so->jit)
		return err_set(e, EINVAL, "lockstep=on compares translated code: jit=off has none");
	if (so->lockstep && o->ncpus > 1)
		return err_set(e, EINVAL, "lockstep=on is for one CPU, not %u", o->ncpus);
	if ((so->prof.perfmap || so->prof.dump) && !so->jit)
		return err_set(e, EINVAL, "%s is about translated code: jit=off has none",
			       so->prof.perfmap ? "perfmap=on" : "dump=");
	if (so->prof.symbols && !prof_wanted(&so->prof))
		return err_set(e, EINVAL, "symbols= names what profile=, perfmap=on or dump= show");
	return 0;
}

int soft_opts_parse(struct soft_opts *ret, const struct accel_opts *o, struct err *e)
{
	int rc = 0;

	*ret = (struct soft_opts){ .jit = true, .hot = SOFT_HOT };
	if (o->engine_opts && *o->engine_opts)
		rc = subopts_parse(&ret->words, o->engine_opts, false, e);

	for (unsigned k = 0; k < ret->words.n && rc >= 0; k++)
		rc = opt_one(ret, &ret->words.o[k], e);
	return rc < 0 ? rc : opts_check(ret, o, e);
}

void soft_opts_fini(struct soft_opts *so)
{
	subopts_fini(&so->words);
}
