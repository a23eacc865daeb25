/*
 * The protocol without a socket.  A client is greeted, must send qmp_capabilities first, and then
 * sends commands, each answered in order by a "return" or an "error" that echoes its "id".
 * Messages may follow each other without waiting and need no line ends between them.
 */
#include "qmp/qmp.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/near.h"
#include "base/num.h"
#include "base/str.h"
#include "base/trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QMP_CLASS_GENERIC "GenericError"
#define QMP_CLASS_NOT_FOUND "CommandNotFound"
#define QMP_CLASS_NO_DEVICE "DeviceNotFound"

static void qmp_version(struct json_out *o, const char *key)
{
	static const char *const part[] = { "major", "minor", "micro" };
	const char *p = SAMPAN_VERSION;

	json_out_obj(o, key);
	json_out_obj(o, "qemu");
	for (unsigned i = 0; i < COUNT_OF(part); i++) {
		char *end;

		json_out_u64(o, part[i], strtoul(p, &end, 10));
		p = *end ? end + 1 : end;
	}
	json_out_end(o);
	json_out_str(o, "package", "sampan-" SAMPAN_VERSION);
	json_out_end(o);
}

/* Ends a message as QEMU does. */
static char *qmp_line(struct json_out *o)
{
	char *text = json_out_take(o);
	char *line = text ? xasprintf("%s\r\n", text) : NULL;

	free(text);
	return line;
}

char *qmp_greeting(void)
{
	struct json_out o = { 0 };

	json_out_obj(&o, NULL);
	json_out_obj(&o, "QMP");
	qmp_version(&o, "version");
	json_out_list(&o, "capabilities");
	json_out_end(&o);
	json_out_end(&o);
	json_out_end(&o);
	return qmp_line(&o);
}

char *qmp_event_text(const char *name, void (*data)(struct json_out *o, const void *arg),
		     const void *arg)
{
	struct json_out o = { 0 };
	uint64_t us = clock_wall_ns() / NS_PER_US;

	json_out_obj(&o, NULL);
	json_out_obj(&o, "timestamp");
	json_out_u64(&o, "seconds", us / 1000000);
	json_out_u64(&o, "microseconds", us % 1000000);
	json_out_end(&o);
	json_out_str(&o, "event", name);
	if (data) {
		json_out_obj(&o, "data");
		data(&o, arg);
		json_out_end(&o);
	}
	json_out_end(&o);
	return qmp_line(&o);
}

static int qmp_query_version(struct qmp_call *c, struct err *e)
{
	qmp_version(&c->ret, NULL);
	return 0;
}

static int qmp_query_commands(struct qmp_call *c, struct err *e)
{
	json_out_list(&c->ret, NULL);
	for (unsigned t = 0; c->tables[t]; t++) {
		for (const struct qmp_cmd *cmd = c->tables[t]; cmd->name; cmd++) {
			json_out_obj(&c->ret, NULL);
			json_out_str(&c->ret, "name", cmd->name);
			json_out_end(&c->ret);
		}
	}
	json_out_end(&c->ret);
	return 0;
}

const struct qmp_cmd qmp_own_cmds[] = {
	{ "query-version", NULL, qmp_query_version },
	{ "query-commands", NULL, qmp_query_commands },
	{ NULL },
};

static const struct qmp_cmd *qmp_find(const struct qmp_session *s, const char *name)
{
	for (unsigned t = 0; s->tables[t]; t++)
		for (const struct qmp_cmd *cmd = s->tables[t]; cmd->name; cmd++)
			if (!strcmp(cmd->name, name))
				return cmd;
	return NULL;
}

static const char *qmp_cmd_nth(const void *arg, unsigned i)
{
	const struct qmp_cmd *const *tables = arg;

	for (; *tables; tables++)
		for (const struct qmp_cmd *cmd = *tables; cmd->name; cmd++)
			if (!i--)
				return cmd->name;
	return NULL;
}

static const char *qmp_kind_name(enum json_kind k)
{
	switch (k) {
	case JSON_BOOL:
		return "boolean";
	case JSON_INT:
		return "integer";
	case JSON_STR:
		return "string";
	case JSON_LIST:
		return "array";
	default:
		return "object";
	}
}

static const struct qmp_arg *qmp_arg_find(const struct qmp_arg *list, const char *name)
{
	for (; list && list->name; list++)
		if (!strcmp(list->name, name))
			return list;
	return NULL;
}

static int qmp_check_args(const struct qmp_cmd *cmd, const struct json_at *args, struct err *e)
{
	for (struct json_iter it = json_iter(args); json_next(&it);) {
		const struct qmp_arg *a = qmp_arg_find(cmd->args, it.at.key);

		if (!a)
			return err_set(e, EINVAL, "Parameter '%.60s' is unexpected", it.at.key);
		if (json_kind(&it.at) != a->kind)
			return err_set(e, EINVAL, "Invalid parameter type for '%s', expected: %s",
				       a->name, qmp_kind_name(a->kind));
	}
	for (const struct qmp_arg *a = cmd->args; a && a->name; a++) {
		struct json_at at;

		if (!a->optional && !json_member(args, a->name, &at))
			return err_set(e, EINVAL, "Parameter '%s' is missing", a->name);
	}
	return 0;
}

/* What is wrong with the shape of a request? */
static int qmp_check_shape(const struct json_at *msg, struct err *e)
{
	struct json_at at;

	if (json_kind(msg) != JSON_OBJ)
		return err_set(e, EINVAL, "QMP input must be a JSON object");
	for (struct json_iter it = json_iter(msg); json_next(&it);) {
		if (!strcmp(it.at.key, "id"))
			continue;
		if (!strcmp(it.at.key, "execute")) {
			if (json_kind(&it.at) != JSON_STR)
				return err_set(e, EINVAL,
					       "QMP input member 'execute' must be a string");
		} else if (!strcmp(it.at.key, "arguments")) {
			if (json_kind(&it.at) != JSON_OBJ)
				return err_set(e, EINVAL,
					       "QMP input member 'arguments' must be an object");
		} else {
			return err_set(e, EINVAL, "QMP input member '%.60s' is unexpected",
				       it.at.key);
		}
	}
	if (!json_member(msg, "execute", &at))
		return err_set(e, EINVAL, "QMP input lacks member 'execute'");
	return 0;
}

/* Which command is it, if it may come now?  NULL with the class and text of the error. */
static const struct qmp_cmd *qmp_which(struct qmp_session *s, const char *name,
				       const char **ret_class, struct err *e)
{
	const struct qmp_cmd *cmd = qmp_find(s, name);
	const char *near = cmd ? NULL : near_find(name, qmp_cmd_nth, s->tables);

	*ret_class = QMP_CLASS_NOT_FOUND;
	if (!s->negotiated)
		err_set(e, ENOENT, "Expecting capabilities negotiation with 'qmp_capabilities'");
	else if (cmd)
		return cmd;
	else if (near)
		err_set(e, ENOENT, "The command %.60s has not been found; did you mean %s?", name,
			near);
	else
		err_set(e, ENOENT, "The command %.60s has not been found", name);
	return NULL;
}

/* qmp_capabilities is the one command that changes the session. */
static int qmp_negotiate(struct qmp_session *s, const struct json_at *args, struct err *e)
{
	struct json_at enable;

	if (s->negotiated)
		return err_set(e, ENOENT,
			       "Capabilities negotiation is already complete, command ignored");
	if (json_member(args, "enable", &enable) && json_count(&enable))
		return err_set(e, EINVAL, "Capability is not available: none is offered");
	s->negotiated = true;
	return 0;
}

/* Runs a request; on success c->ret holds what it returns. */
static int qmp_execute(struct qmp_session *s, const struct json_at *msg, struct qmp_call *c,
		       const char **ret_class, struct err *e)
{
	struct json_at exec;
	const char *name;

	*ret_class = QMP_CLASS_GENERIC;
	if (qmp_check_shape(msg, e) < 0 || !json_member(msg, "execute", &exec) ||
	    json_get_str(&exec, 200, &name, e) < 0)
		return -e->code;
	c->args = json_root(NULL);
	json_member(msg, "arguments", &c->args);
	if (!strcmp(name, "qmp_capabilities")) {
		if (s->negotiated)
			*ret_class = QMP_CLASS_NOT_FOUND;
		return qmp_negotiate(s, &c->args, e);
	}
	const struct qmp_cmd *cmd = qmp_which(s, name, ret_class, e);
	if (!cmd)
		return -e->code;
	TRACE(qmp_execute, "%s", name);
	*ret_class = QMP_CLASS_GENERIC;
	int rc = qmp_check_args(cmd, &c->args, e);
	if (rc >= 0)
		rc = cmd->fn(c, e);
	if (rc == -ENODEV)
		*ret_class = QMP_CLASS_NO_DEVICE;
	return rc;
}

static void qmp_put_error(struct json_out *o, const char *class, const char *text)
{
	json_out_obj(o, "error");
	json_out_str(o, "class", class);
	json_out_str(o, "desc", text);
	json_out_end(o);
}

static char *qmp_answer(struct qmp_session *s, const struct json_at *msg)
{
	struct qmp_call c = { .ctx = s->ctx, .tables = s->tables };
	struct json_out o = { 0 };
	const char *class;
	struct json_at id;
	struct err e;

	int rc = qmp_execute(s, msg, &c, &class, &e);
	bool some = c.ret.len || c.ret.failed;
	char *value = json_out_take(&c.ret);
	json_out_obj(&o, NULL);
	if (rc < 0)
		qmp_put_error(&o, class, e.msg);
	else if (some && !value)
		qmp_put_error(&o, QMP_CLASS_GENERIC, "no memory");
	else
		json_out_raw(&o, "return", value ? value : "{}");
	if (json_member(msg, "id", &id))
		json_out_value(&o, "id", id.v);
	json_out_end(&o);
	free(value);
	return qmp_line(&o);
}

static char *qmp_answer_error(const char *text)
{
	struct json_out o = { 0 };

	json_out_obj(&o, NULL);
	qmp_put_error(&o, QMP_CLASS_GENERIC, text);
	json_out_end(&o);
	return qmp_line(&o);
}

/* Keeps what came of a message that is not whole yet. */
static bool qmp_keep(struct qmp_session *s, const char *p, size_t len)
{
	if (s->in_cap - s->in_len < len) {
		size_t cap = MIN(MAX(s->in_cap * 2, s->in_len + len), (size_t)QMP_MSG_MAX);
		char *in = xgrow(s->in, s->in_cap, cap, 1);

		if (!in)
			return false;
		s->in = in;
		s->in_cap = cap;
	}
	memcpy(s->in + s->in_len, p, len);
	s->in_len += len;
	return true;
}

static char *qmp_message(struct qmp_session *s)
{
	struct json_object *v;
	struct err e;

	int rc = json_parse(s->in, s->in_len, &v, &e);
	s->in_len = 0;
	if (rc < 0)
		return qmp_answer_error(e.msg);
	struct json_at msg = json_root(v);
	char *text = qmp_answer(s, &msg);
	json_unref(v);
	return text;
}

size_t qmp_feed(struct qmp_session *s, const char *p, size_t len, char **ret_text)
{
	bool whole;
	size_t n = json_frame(&s->frame, p, len, &whole);

	*ret_text = NULL;
	if (s->broken)
		return len;
	/* White space between messages is not kept: a client may send it for ever. */
	if (!whole && !s->frame.started && !s->in_len)
		return n;
	if (n > QMP_MSG_MAX - s->in_len) {
		s->broken = true;
		*ret_text = qmp_answer_error("message too long");
		return len;
	}
	if (!qmp_keep(s, p, n)) {
		s->broken = true;
		return len;
	}
	if (whole)
		*ret_text = qmp_message(s);
	return n;
}

void qmp_session_fini(struct qmp_session *s)
{
	free(s->in);
	*s = (struct qmp_session){ 0 };
}
