/*
 * QMP, the control protocol of a VM (docs/format/qmp.md): JSON objects over a stream, with QEMU's
 * names and shapes.
 *
 * A session is the protocol without a socket: bytes in, text out; it is what is fuzzed.  A server
 * puts sessions on a Unix socket, sends events to all of them, and never waits for a client: what a
 * client does not read is kept up to a limit, meanwhile its commands wait, and beyond the limit it
 * is dropped.
 *
 * Threads: all of it on the loop's thread.
 */
#pragma once

#include "base/json.h"
#include "loop/loop.h"

enum {
	/* A longer message is refused and its sender dropped. */
	QMP_MSG_MAX = 256 * 1024,
	/* Unread output at which a client's commands wait, and at which it is dropped. */
	QMP_OUT_WAIT = 64 * 1024,
	QMP_OUT_MAX = 1024 * 1024,
	/* Clients at a time; more wait in the socket's backlog. */
	QMP_CLIENTS = 4,
};

struct qmp_arg {
	/* NULL ends the list. */
	const char *name;
	enum json_kind kind;
	bool optional;
};

/* A command being executed. */
struct qmp_call {
	/* An object, checked against the command's list. */
	struct json_at args;
	/* Write one value here (key NULL), or nothing for {}. */
	struct json_out ret;
	void *ctx;
	/* All commands, for query-commands. */
	const struct qmp_cmd *const *tables;
};

struct qmp_cmd {
	/* NULL ends the table. */
	const char *name;
	/* NULL: no arguments. */
	const struct qmp_arg *args;
	/* A failure becomes an error of class GenericError (-ENODEV: DeviceNotFound). */
	int (*fn)(struct qmp_call *c, struct err *e);
};

/* The commands that are the protocol's own: query-version, query-commands. */
extern const struct qmp_cmd qmp_own_cmds[];

struct qmp_session {
	/* Tables of commands; NULL ends the list. */
	const struct qmp_cmd *const *tables;
	void *ctx;
	bool negotiated;
	/* The peer sent what cannot be answered: drop it when the output is written. */
	bool broken;
	struct json_frame frame;
	char *in;
	size_t in_len, in_cap;
};

/* Text that a new client gets first; free with free(). */
NODISCARD char *qmp_greeting(void);
/*
 * Takes bytes up to the end of the first message in them, and answers it: *ret_text (free with
 * free()) is NULL when there is nothing to say yet.  Returns the number of bytes taken.
 */
size_t qmp_feed(struct qmp_session *s, const char *p, size_t len, char **ret_text);
void qmp_session_fini(struct qmp_session *s);
/* An event's text; data writes the members of "data" [NULL: an event without]. */
NODISCARD char *qmp_event_text(const char *name, void (*data)(struct json_out *o, const void *arg),
			       const void *arg);

struct qmp_server;
/* Listens at path; the file goes away with qmp_server_free(). */
NODISCARD int qmp_server_new(struct qmp_server **ret, struct loop *l, const char *path,
			     const struct qmp_cmd *const *tables, void *ctx, struct err *e);
/* Tries for up to a second to give the clients what they have not read yet. */
void qmp_server_free(struct qmp_server *s);
/* To every client that has negotiated.  NULL is fine. */
void qmp_server_event(struct qmp_server *s, const char *name,
		      void (*data)(struct json_out *o, const void *arg), const void *arg);
