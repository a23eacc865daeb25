/* A QMP session fed anything, in pieces: every answer is one line of JSON, memory stays bounded. */
#include "qmp/qmp.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int cmd_echo(struct qmp_call *c, struct err *e)
{
	struct json_at at;

	if (json_member(&c->args, "value", &at))
		json_out_value(&c->ret, NULL, at.v);
	return 0;
}

static const struct qmp_arg args[] = {
	{ "value", JSON_OBJ, true },
	{ "name", JSON_STR, true },
	{ NULL },
};
static const struct qmp_cmd cmds[] = { { "echo", args, cmd_echo }, { NULL } };
static const struct qmp_cmd *const tables[] = { qmp_own_cmds, cmds, NULL };

static void check_answer(const char *text)
{
	struct json_object *v;
	struct err e;
	size_t len = strlen(text);

	if (len < 2 || memchr(text, '\n', len - 1) || json_parse(text, len, &v, &e) < 0)
		__builtin_trap();
	json_unref(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qmp_session s = { .tables = tables };
	size_t step = size ? data[0] % 64 + 1 : 1;

	for (size_t at = 0; at < size;) {
		char *text;
		size_t n = size - at < step ? size - at : step;

		at += qmp_feed(&s, (const char *)data + at, n, &text);
		if (text)
			check_answer(text);
		free(text);
		if (s.in_cap > QMP_MSG_MAX)
			__builtin_trap();
	}
	qmp_session_fini(&s);
	return 0;
}
