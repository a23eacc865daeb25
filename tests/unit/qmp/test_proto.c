/* qmp/proto.c: shapes as QEMU's, errors, limits, pipelining. */
#include "base/cleanup.h"
#include "base/str.h"
#include "lib/t.h"
#include "qmp/qmp.h"

#include <errno.h>
#include <string.h>

static int cmd_add(struct qmp_call *c, struct err *e)
{
	struct json_at a;
	uint64_t v = 0;

	if (json_member(&c->args, "n", &a) && json_get_u64(&a, 0, 10, &v, e) < 0)
		return -e->code;
	*(uint64_t *)c->ctx += v;
	json_out_u64(&c->ret, NULL, *(uint64_t *)c->ctx);
	return 0;
}

static int cmd_nop(struct qmp_call *c, struct err *e)
{
	return 0;
}

static int cmd_fail(struct qmp_call *c, struct err *e)
{
	json_out_obj(&c->ret, NULL);
	return err_set(e, ENODEV, "no \"such\" thing");
}

static const struct qmp_arg add_args[] = { { "n", JSON_INT }, { "s", JSON_STR, true }, { NULL } };
static const struct qmp_cmd cmds[] = {
	{ "add", add_args, cmd_add },
	{ "nop", NULL, cmd_nop },
	{ "fail", NULL, cmd_fail },
	{ NULL },
};
static const struct qmp_cmd *const tables[] = { qmp_own_cmds, cmds, NULL };

#define HELLO "{\"execute\": \"qmp_capabilities\"}"
#define ERR(class, text) "{\"error\": {\"class\": \"" class "\", \"desc\": \"" text "\"}}\r\n"
#define GEN(text) ERR("GenericError", text)

/* All answers to `text`, fed `step` bytes at a time. */
static char *run(const char *text, size_t step)
{
	static char all[20000];
	uint64_t sum = 0;
	struct qmp_session s = { .tables = tables, .ctx = &sum };
	size_t len = strlen(text);

	all[0] = 0;
	while (len) {
		char *out;
		size_t n = qmp_feed(&s, text, len < step ? len : step, &out);

		if (out)
			strcat(all, out);
		free(out);
		text += n;
		len -= n;
	}
	qmp_session_fini(&s);
	return all;
}

/* clang-format off */
static const struct {
	const char *in, *out;
} cases[] = {
	{ HELLO, "{\"return\": {}}\r\n" },
	{ "{\"execute\": \"nop\"}", ERR("CommandNotFound",
	  "Expecting capabilities negotiation with 'qmp_capabilities'") },
	{ HELLO HELLO, "{\"return\": {}}\r\n" ERR("CommandNotFound",
	  "Capabilities negotiation is already complete, command ignored") },
	{ "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}",
	  GEN("Capability is not available: none is offered") },
	{ HELLO "{\"execute\": \"add\", \"arguments\": {\"n\": 3}, \"id\": {\"a\": [1, null]}}"
	  "\n\n {\"id\": \"x\", \"arguments\": {\"n\": 4}, \"execute\": \"add\"}",
	  "{\"return\": {}}\r\n{\"return\": 3, \"id\": {\"a\":[1,null]}}\r\n"
	  "{\"return\": 7, \"id\": \"x\"}\r\n" },
	{ HELLO "{\"execute\": \"add\"}", "{\"return\": {}}\r\n" GEN("Parameter 'n' is missing") },
	{ HELLO "{\"execute\": \"add\", \"arguments\": {\"n\": \"1\"}}",
	  "{\"return\": {}}\r\n" GEN("Invalid parameter type for 'n', expected: integer") },
	{ HELLO "{\"execute\": \"add\", \"arguments\": {\"n\": 1, \"q\": 1}}",
	  "{\"return\": {}}\r\n" GEN("Parameter 'q' is unexpected") },
	{ HELLO "{\"execute\": \"add\", \"arguments\": {\"n\": 11}}",
	  "{\"return\": {}}\r\n" GEN("arguments.n: 11 is outside 0 to 10") },
	{ HELLO "{\"execute\": \"nop\", \"arguments\": {\"n\": 1}}",
	  "{\"return\": {}}\r\n" GEN("Parameter 'n' is unexpected") },
	{ HELLO "{\"execute\": \"fail\", \"id\": 1}", "{\"return\": {}}\r\n"
	  "{\"error\": {\"class\": \"DeviceNotFound\", \"desc\": \"no \\\"such\\\" thing\"}, "
	  "\"id\": 1}\r\n" },
	{ HELLO "{\"execute\": \"npo\"}", "{\"return\": {}}\r\n" ERR("CommandNotFound",
	  "The command npo has not been found; did you mean nop?") },
	{ HELLO "{\"execute\": \"zzzzzz\"}", "{\"return\": {}}\r\n" ERR("CommandNotFound",
	  "The command zzzzzz has not been found") },
	{ "[]", GEN("QMP input must be a JSON object") },
	{ "{}", GEN("QMP input lacks member 'execute'") },
	{ "{\"execute\": 1}", GEN("QMP input member 'execute' must be a string") },
	{ "{\"execute\": \"nop\", \"arguments\": []}",
	  GEN("QMP input member 'arguments' must be an object") },
	{ "{\"execute\": \"nop\", \"extra\": []}", GEN("QMP input member 'extra' is unexpected") },
	{ "{\"execute\" \"nop\"}", GEN("not JSON: object property name separator ':' expected "
	  "at byte 11") },
	{ "rubbish\n" HELLO, GEN("not JSON: unexpected character at byte 0") "{\"return\": {}}\r\n" },
	{ "  \n\n  ", "" },
};
/* clang-format on */

static void test_cases(void **state)
{
	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		assert_string_equal(run(cases[i].in, 100000), cases[i].out);
		assert_string_equal(run(cases[i].in, 1), cases[i].out);
		assert_string_equal(run(cases[i].in, 7), cases[i].out);
	}
}

static void test_commands(void **state)
{
	char *out =
		run(HELLO "{\"execute\": \"query-commands\"}{\"execute\": \"query-version\"}", 9);

	assert_non_null(strstr(out,
			       "[{\"name\": \"query-version\"}, {\"name\": \"query-commands\"}, "
			       "{\"name\": \"add\"}, {\"name\": \"nop\"}, "
			       "{\"name\": \"fail\"}]"));
	assert_non_null(strstr(out, "{\"return\": {\"qemu\": {\"major\": 0, \"minor\": "));
	AUTO_FREE char *hello = qmp_greeting();
	assert_true(str_starts(hello, "{\"QMP\": {\"version\": {\"qemu\": {\"major\": "));
	assert_non_null(strstr(hello, "\"capabilities\": []}}\r\n"));
}

static void event_data(struct json_out *o, const void *arg)
{
	json_out_bool(o, "guest", *(const bool *)arg);
}

static void test_event(void **state)
{
	bool guest = true;
	AUTO_FREE char *a = qmp_event_text("RESET", event_data, &guest);
	AUTO_FREE char *b = qmp_event_text("STOP", NULL, NULL);

	assert_true(str_starts(a, "{\"timestamp\": {\"seconds\": "));
	assert_non_null(strstr(a, "\"event\": \"RESET\", \"data\": {\"guest\": true}}\r\n"));
	assert_non_null(strstr(b, "\"event\": \"STOP\"}\r\n"));
}

/* A message of QMP_MSG_MAX bytes is read, one more ends the session; memory is bounded. */
static void test_long(void **state)
{
	static char text[QMP_MSG_MAX + 2];
	struct qmp_session s = { .tables = tables };
	char *out;

	memset(text, 'a', sizeof(text));
	memcpy(text, "{\"execute\": \"", 13);
	memcpy(text + QMP_MSG_MAX - 2, "\"}", 3);
	assert_int_equal(qmp_feed(&s, text, QMP_MSG_MAX, &out), QMP_MSG_MAX);
	assert_non_null(strstr(out, "longer than 200 bytes"));
	assert_false(s.broken);
	free(out);
	text[QMP_MSG_MAX - 2] = text[QMP_MSG_MAX - 1] = 'a';
	for (size_t i = 0; i < 4; i++) {
		qmp_feed(&s, text, QMP_MSG_MAX / 2 + 1, &out);
		text[0] = 'a';
		assert_true(s.in_cap <= QMP_MSG_MAX);
		if (i == 1)
			assert_string_equal(out, GEN("message too long"));
		else
			assert_null(out);
		assert_int_equal(s.broken, i >= 1);
		free(out);
	}
	qmp_session_fini(&s);
	/* White space for ever costs nothing. */
	s = (struct qmp_session){ .tables = tables };
	memset(text, ' ', sizeof(text));
	for (size_t i = 0; i < 8; i++) {
		assert_int_equal(qmp_feed(&s, text, sizeof(text), &out), sizeof(text));
		assert_null(out);
		assert_null(s.in);
	}
	assert_false(s.broken);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cases),
		cmocka_unit_test(test_commands),
		cmocka_unit_test(test_event),
		cmocka_unit_test(test_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
