/* base/json: limits, 64-bit numbers, paths, the writer against the reader, framing. */
#include "base/cleanup.h"
#include "base/json.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct json_object *parse(const char *text)
{
	struct json_object *v = NULL;
	struct err e = { 0 };

	if (json_parse(text, strlen(text), &v, &e) < 0)
		fail_msg("%s: %s", text, e.msg);
	return v;
}

static int parse_fails(const char *text, size_t len)
{
	struct json_object *v = NULL;
	struct err e = { 0 };
	int rc = json_parse(text, len, &v, &e);

	if (rc == 0)
		json_unref(v);
	else
		assert_true(e.msg[0]);
	return rc;
}

static void test_refused(void **state)
{
	static const char *const bad[] = {
		"",
		"{",
		"{\"a\"}",
		"[1,]",
		"{'a':1}",
		"nul",
		"{} {}",
		"\"\\q\"",
		"\"\xff\"",
		"01x",
		"{\"a\":1,}",
		"[1 2]",
		"\"\xc0\x80\"",
		"/* */ 1",
		"tru",
		"1 x",
		"[\"",
		"]",
		"NaN",
		"['a']",
		"[\"a\\",
		"[+1]",
		"-",
	};

	for (size_t i = 0; i < COUNT_OF(bad); i++)
		if (parse_fails(bad[i], strlen(bad[i])) != -EBADMSG)
			fail_msg("accepted: %s", bad[i]);
	assert_int_equal(parse_fails("1\0", 2), -EBADMSG);
}

static void test_depth(void **state)
{
	char text[256] = { 0 };

	memset(text, '[', JSON_DEPTH);
	memset(text + JSON_DEPTH, ']', JSON_DEPTH);
	json_unref(parse(text));
	memset(text, '[', JSON_DEPTH + 1);
	memset(text + JSON_DEPTH + 1, ']', JSON_DEPTH + 1);
	assert_int_equal(parse_fails(text, strlen(text)), -E2BIG);
}

static void test_numbers(void **state)
{
	struct json_object *v = parse("[0, 18446744073709551615, 9223372036854775808, -1, 1.5]");
	struct json_at root = json_root(v), at;
	struct err e;
	uint64_t n;

	at = json_element(&root, 0);
	assert_int_equal(json_get_u64(&at, 0, UINT64_MAX, &n, &e), 0);
	assert_int_equal(n, 0);
	at = json_element(&root, 1);
	assert_int_equal(json_get_u64(&at, 0, UINT64_MAX, &n, &e), 0);
	assert_true(n == UINT64_MAX);
	at = json_element(&root, 2);
	assert_int_equal(json_get_u64(&at, 0, UINT64_MAX, &n, &e), 0);
	assert_true(n == 1ull << 63);
	assert_int_equal(json_get_u64(&at, 0, 10, &n, &e), -EINVAL);
	assert_string_equal(e.msg, "[2]: 9223372036854775808 is outside 0 to 10");
	at = json_element(&root, 3);
	assert_int_equal(json_get_u64(&at, 0, UINT64_MAX, &n, &e), -EINVAL);
	assert_string_equal(e.msg, "[3]: -1 is negative");
	at = json_element(&root, 4);
	assert_int_equal(json_get_u64(&at, 0, UINT64_MAX, &n, &e), -EINVAL);
	json_unref(v);
	/* One more than fits is not silently the largest that does. */
	assert_int_equal(parse_fails("[18446744073709551616]", 22), -EBADMSG);
	assert_int_equal(parse_fails("[-9223372036854775809]", 22), -EBADMSG);
	assert_int_equal(parse_fails("1000000000000000000000000000", 28), -EBADMSG);
	json_unref(parse("[18446744073709551615, -9223372036854775808, 1e30]"));
}

static void test_paths(void **state)
{
	struct json_object *v = parse("{\"disks\": [{}, {\"cache\": 7, \"s\": \"a\\u0000b\"}]}");
	struct json_at root = json_root(v), disks, one, at;
	struct err e;
	const char *s;
	bool b;

	assert_true(json_member(&root, "disks", &disks));
	assert_false(json_member(&root, "nets", &at));
	one = json_element(&disks, 1);
	assert_true(json_member(&one, "cache", &at));
	assert_int_equal(json_get_str(&at, 10, &s, &e), -EINVAL);
	assert_string_equal(e.msg, "disks[1].cache: a string is wanted, not a number");
	assert_int_equal(json_get_bool(&at, &b, &e), -EINVAL);
	assert_true(json_member(&one, "s", &at));
	assert_int_equal(json_get_str(&at, 10, &s, &e), -EINVAL);
	assert_string_equal(e.msg, "disks[1].s: has a zero character inside");
	assert_int_equal(json_want(&root, JSON_LIST, &e), -EINVAL);
	assert_string_equal(e.msg, "a list is wanted, not an object");
	json_unref(v);
}

static void test_iter(void **state)
{
	struct json_object *v = parse("{\"a\": 1, \"b\": null, \"c\": true}");
	struct json_at root = json_root(v);
	char keys[8] = "";

	for (struct json_iter it = json_iter(&root); json_next(&it);)
		strcat(keys, it.at.key);
	assert_string_equal(keys, "abc");
	assert_int_equal(json_count(&root), 3);
	json_unref(v);
}

static void write_sample(struct json_out *o)
{
	json_out_obj(o, NULL);
	json_out_str(o, "s", "a\"\\\n\x01\xc3\xa9");
	json_out_list(o, "l");
	json_out_u64(o, NULL, UINT64_MAX);
	json_out_i64(o, NULL, -5);
	json_out_bool(o, NULL, true);
	json_out_str(o, NULL, NULL);
	json_out_end(o);
	json_out_obj(o, "empty");
	json_out_end(o);
	json_out_raw(o, "raw", "[1]");
	json_out_end(o);
}

static void test_writer(void **state)
{
	struct json_out o = { 0 }, pretty = { .pretty = true };

	write_sample(&o);
	write_sample(&pretty);
	AUTO_FREE char *text = json_out_take(&o);
	AUTO_FREE char *text2 = json_out_take(&pretty);
	assert_string_equal(text, "{\"s\": \"a\\\"\\\\\\n\\u0001\xc3\xa9\", \"l\": "
				  "[18446744073709551615, -5, true, null], \"empty\": {}, "
				  "\"raw\": [1]}");
	struct json_object *a = parse(text), *b = parse(text2);
	json_out_value(&o, NULL, b);
	AUTO_FREE char *again = json_out_take(&o);
	struct json_object *c = parse(again);
	struct json_at at = json_root(c), s;
	struct err e;
	const char *str;
	assert_true(json_member(&at, "s", &s));
	assert_int_equal(json_get_str(&s, 100, &str, &e), 0);
	assert_string_equal(str, "a\"\\\n\x01\xc3\xa9");
	json_unref(a);
	json_unref(b);
	json_unref(c);
}

static void test_utf8(void **state)
{
	static const char *const bad[] = {
		"\x80", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
		"\xc3", "\xe2\x82", "a\xff"
	};
	static const char *const good[] = {
		"", "a", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf"
	};

	for (size_t i = 0; i < COUNT_OF(good); i++)
		assert_true(json_utf8_ok(good[i]));
	for (size_t i = 0; i < COUNT_OF(bad); i++) {
		struct json_out o = { 0 };

		assert_false(json_utf8_ok(bad[i]));
		json_out_str(&o, NULL, bad[i]);
		AUTO_FREE char *text = json_out_take(&o);
		json_unref(parse(text));
	}
}

/* All splits of a stream give the same frames. */
static void test_frame(void **state)
{
	static const char stream[] = " {\"a\": \"}\\\"{\"}\n[1, [2]] junk } \n{}";
	static const size_t want[] = { 14, 23, 32, 34 };

	for (size_t step = 1; step <= sizeof(stream); step++) {
		struct json_frame f = { 0 };
		size_t at = 0, n = 0;

		while (at < sizeof(stream) - 1) {
			size_t len = sizeof(stream) - 1 - at;
			bool whole;

			at += json_frame(&f, stream + at, len < step ? len : step, &whole);
			if (whole)
				assert_int_equal(at, want[n++]);
		}
		assert_int_equal(n, COUNT_OF(want));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refused), cmocka_unit_test(test_depth),
		cmocka_unit_test(test_numbers), cmocka_unit_test(test_paths),
		cmocka_unit_test(test_iter),    cmocka_unit_test(test_writer),
		cmocka_unit_test(test_utf8),    cmocka_unit_test(test_frame),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
