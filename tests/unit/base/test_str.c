/* What people type: numbers, sizes, switches. */
#include "base/str.h"

#include "lib/t.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static void test_u64(void **state UNUSED)
{
	static const struct {
		const char *s;
		int rc;
		uint64_t v;
	} cases[] = {
		{ "0", 0, 0 },
		{ "42", 0, 42 },
		{ "007", 0, 7 },
		{ "0x10", 0, 16 },
		{ "0XfF", 0, 255 },
		{ "18446744073709551615", 0, UINT64_MAX },
		{ "0xffffffffffffffff", 0, UINT64_MAX },
		{ "18446744073709551616", -ERANGE, 0 },
		{ "0x10000000000000000", -ERANGE, 0 },
		{ "", -EINVAL, 0 },
		{ " 1", -EINVAL, 0 },
		{ "1 ", -EINVAL, 0 },
		{ "-1", -EINVAL, 0 },
		{ "+1", -EINVAL, 0 },
		{ "0x", -EINVAL, 0 },
		{ "0xg", -EINVAL, 0 },
		{ "12a", -EINVAL, 0 },
		{ "1.5", -EINVAL, 0 },
		{ "x", -EINVAL, 0 },
	};

	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		uint64_t v = 99;

		assert_int_equal(str_u64(cases[i].s, &v), cases[i].rc);
		/* Outputs are written on success only. */
		assert_int_equal(v, cases[i].rc ? 99 : cases[i].v);
	}
}

static void test_size(void **state UNUSED)
{
	static const struct {
		const char *s;
		int rc;
		uint64_t v;
	} cases[] = {
		{ "512", 0, 512 },
		{ "1k", 0, 1024 },
		{ "1K", 0, 1024 },
		{ "1KiB", 0, 1024 },
		{ "1kb", 0, 1024 },
		{ "3M", 0, 3 << 20 },
		{ "2GiB", 0, 2ull << 30 },
		{ "1T", 0, 1ull << 40 },
		{ "1p", 0, 1ull << 50 },
		{ "10b", 0, 10 },
		{ "0x10k", 0, 16384 },
		{ "16383p", 0, 16383ull << 50 },
		{ "16384p", -ERANGE, 0 },
		{ "18446744073709551615k", -ERANGE, 0 },
		{ "99999999999999999999", -ERANGE, 0 },
		{ "1x", -EINVAL, 0 },
		{ "k", -EINVAL, 0 },
		{ "1ki", -EINVAL, 0 },
		{ "1kk", -EINVAL, 0 },
		{ "1 k", -EINVAL, 0 },
		{ "1k ", -EINVAL, 0 },
		{ "-1k", -EINVAL, 0 },
		{ "", -EINVAL, 0 },
	};

	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		uint64_t v = 99;

		assert_int_equal(str_size(cases[i].s, &v), cases[i].rc);
		assert_int_equal(v, cases[i].rc ? 99 : cases[i].v);
	}
}

/* What was printed is read back. */
static void test_u64_round_trip(void **state UNUSED)
{
	uint64_t s = t_seed(4), v;
	char buf[32];

	for (int i = 0; i < 20000; i++) {
		uint64_t want = t_rnd(&s) >> t_below(&s, 64);

		snprintf(buf, sizeof(buf), i & 1 ? "%" PRIu64 : "0x%" PRIx64, want);
		assert_int_equal(str_u64(buf, &v), 0);
		assert_true(v == want);
		assert_int_equal(str_size(buf, &v), 0);
		assert_true(v == want);
	}
}

static void test_bool(void **state UNUSED)
{
	static const char *const yes[] = { "on", "yes", "true", "1", "ON", "True" };
	static const char *const no[] = { "off", "no", "false", "0", "OFF", "False" };
	static const char *const bad[] = { "", "2", "onn", "y", " on" };
	bool b;

	for (size_t i = 0; i < COUNT_OF(yes); i++) {
		b = false;
		assert_int_equal(str_bool(yes[i], &b), 0);
		assert_true(b);
		assert_int_equal(str_bool(no[i], &b), 0);
		assert_false(b);
	}
	for (size_t i = 0; i < COUNT_OF(bad); i++)
		assert_int_equal(str_bool(bad[i], &b), -EINVAL);
}

static void test_copy(void **state UNUSED)
{
	char buf[4] = "zzz";

	assert_true(str_copy(buf, sizeof(buf), "abc"));
	assert_string_equal(buf, "abc");
	assert_false(str_copy(buf, sizeof(buf), "abcd"));
	assert_string_equal(buf, "abc");
	assert_false(str_copy(buf, 1, "x"));
	assert_string_equal(buf, "");
	assert_true(str_copy(buf, 1, ""));
	assert_true(str_starts("tcp:1", "tcp:"));
	assert_true(str_starts("tcp:", "tcp:"));
	assert_true(str_starts("x", ""));
	assert_false(str_starts("tcp", "tcp:"));
	assert_false(str_starts("utcp:", "tcp:"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_u64),
		cmocka_unit_test(test_size),
		cmocka_unit_test(test_u64_round_trip),
		cmocka_unit_test(test_bool),
		cmocka_unit_test(test_copy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
