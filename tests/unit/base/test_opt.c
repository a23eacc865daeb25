/* base/opt and base/near: option table, sub-options, suggestions. */
#include "base/near.h"
#include "base/opt.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct got {
	char log[200];
};

static int got_size(void *ctx, const char *value, struct err *e)
{
	struct got *g = ctx;

	if (!strcmp(value, "bad"))
		return err_set(e, EINVAL, "'%s' is no size", value);
	strcat(strcat(strcat(g->log, "size="), value), ";");
	return 0;
}

static int got_quiet(void *ctx, const char *value, struct err *e)
{
	assert_null(value);
	strcat(((struct got *)ctx)->log, "quiet;");
	return 0;
}

static int got_port(void *ctx, const char *value, struct err *e)
{
	struct got *g = ctx;

	strcat(strcat(strcat(g->log, "port="), value ? value : "none"), ";");
	return 0;
}

static int got_arg(void *ctx, const char *arg, struct err *e)
{
	strcat(strcat(strcat(((struct got *)ctx)->log, "arg="), arg), ";");
	return 0;
}

static const struct opt table[] = {
	{ "size", "SIZE", "How big.\nSecond line.", got_size },
	{ "quiet", NULL, "Say less.", got_quiet },
	{ "port", "[N]", "Maybe at N.", got_port },
	{ NULL },
};

#define RUN(g, e, ...)                                                        \
	({                                                                    \
		char *argv_[] = { __VA_ARGS__ };                              \
		opt_parse(table, (int)COUNT_OF(argv_), argv_, g, got_arg, e); \
	})

static char s_size[] = "--size", s_eq[] = "--size=2", s_quiet[] = "--quiet", s_dd[] = "--";
static char s_one[] = "1", s_bad[] = "bad", s_typo[] = "--siez=3", s_x[] = "-x", s_dash[] = "-";
static char s_port[] = "--port", s_port2[] = "--port=2";
static char s_qv[] = "--quiet=1";

static void test_parse(void **state)
{
	struct got g = { "" };
	struct err e;

	assert_int_equal(RUN(&g, &e, s_size, s_one, s_one, s_eq, s_quiet, s_dash, s_dd, s_quiet),
			 0);
	assert_string_equal(g.log, "size=1;arg=1;size=2;quiet;arg=-;arg=--quiet;");
	g.log[0] = 0;
	assert_int_equal(RUN(&g, &e, s_port, s_one, s_port2), 0);
	assert_string_equal(g.log, "port=none;arg=1;port=2;");
}

static void test_refused(void **state)
{
	struct got g = { "" };
	struct err e;

	assert_int_equal(RUN(&g, &e, s_typo), -EINVAL);
	assert_string_equal(e.msg, "there is no option --siez; did you mean --size?");
	assert_int_equal(RUN(&g, &e, s_size), -EINVAL);
	assert_string_equal(e.msg, "option --size needs a value: --size SIZE");
	assert_int_equal(RUN(&g, &e, s_qv), -EINVAL);
	assert_string_equal(e.msg, "option --quiet takes no value");
	assert_int_equal(RUN(&g, &e, s_size, s_bad), -EINVAL);
	assert_string_equal(e.msg, "--size: 'bad' is no size");
	assert_int_equal(RUN(&g, &e, s_x), -EINVAL);
	assert_string_equal(e.msg, "'-x': options begin with two dashes (see --help)");
	assert_string_equal(g.log, "");
}

static void test_help(void **state)
{
	char text[256] = { 0 };
	FILE *f = fmemopen(text, sizeof(text), "w");

	opt_help(table, f);
	fclose(f);
	assert_string_equal(text, "  --size SIZE\n      How big.\n      Second line.\n"
				  "  --quiet\n      Say less.\n  --port[=N]\n      Maybe at N.\n");
}

static void test_subopts(void **state)
{
	struct subopts s;
	struct err e;

	assert_int_equal(subopts_parse(&s, "a=b,,c,readonly=on,x,k=v=w", true, &e), 0);
	assert_int_equal(s.n, 4);
	assert_null(s.o[0].key);
	assert_string_equal(s.o[0].value, "a=b,c");
	assert_string_equal(s.o[1].key, "readonly");
	assert_string_equal(s.o[1].value, "on");
	assert_string_equal(s.o[2].key, "x");
	assert_null(s.o[2].value);
	assert_string_equal(s.o[3].value, "v=w");
	subopts_fini(&s);
	assert_int_equal(subopts_parse(&s, "type=tap,", false, &e), 0);
	assert_int_equal(s.n, 2);
	assert_string_equal(s.o[0].key, "type");
	assert_string_equal(s.o[1].key, "");
	subopts_fini(&s);
	assert_int_equal(subopts_parse(&s, ",,,,", true, &e), 0);
	assert_int_equal(s.n, 1);
	assert_string_equal(s.o[0].value, ",,");
	subopts_fini(&s);
	char many[2 * SUBOPT_MAX + 2] = { 0 };
	for (unsigned i = 0; i <= SUBOPT_MAX; i++)
		memcpy(many + 2 * i, i == SUBOPT_MAX ? "a" : "a,", i == SUBOPT_MAX ? 1 : 2);
	assert_int_equal(subopts_parse(&s, many, false, &e), -EINVAL);
}

static void test_near(void **state)
{
	static const char *const names[] = { "readonly", "format", "cache", "serial", "raw", NULL };

	assert_string_equal(near_word("readnoly", names), "readonly");
	assert_string_equal(near_word("cahce", names), "cache");
	assert_string_equal(near_word("formt", names), "format");
	assert_string_equal(near_word("rwa", names), "raw");
	assert_null(near_word("zebra", names));
	assert_null(near_word("", names));
	assert_null(near_word("an-awfully-long-name-that-nobody-would-ever-type-by-hand", names));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse), cmocka_unit_test(test_refused),
		cmocka_unit_test(test_help),  cmocka_unit_test(test_subopts),
		cmocka_unit_test(test_near),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
