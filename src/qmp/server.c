/*
 * Sessions on a Unix socket.  A client's struct lives in the server's array from accept to close;
 * output waits in its buffer until the socket takes it.
 */
#include "qmp/qmp.h"

#include "base/alloc.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"
#include "loop/sock.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
	QMP_READ = 4096,
	QMP_FLUSH_MS = 1000,
};

struct qmp_client {
	struct qmp_server *server;
	struct qmp_session session;
	struct loop_fd f;
	/* -1: free. */
	int fd;
	/* Ends when its output is written. */
	bool closing;
	/* No more comes from it; answered is what came. */
	bool eof;
	/* Read, but not executed yet. */
	char in[QMP_READ];
	size_t in_at, in_len;
	char *out;
	size_t out_at, out_len, out_cap;
};

struct qmp_server {
	struct loop *loop;
	const struct qmp_cmd *const *tables;
	void *ctx;
	struct sock_listener listen;
	struct qmp_client client[QMP_CLIENTS];
};

static void qmp_accept_more(struct qmp_server *s)
{
	bool room = false;

	for (unsigned i = 0; i < QMP_CLIENTS; i++)
		room |= s->client[i].fd < 0;
	if (s->listen.loop)
		sock_listener_set(&s->listen, room);
}

static void qmp_client_close(struct qmp_client *c)
{
	if (c->fd < 0)
		return;
	loop_fd_del(&c->f);
	close_fd(&c->fd);
	qmp_session_fini(&c->session);
	free(c->out);
	c->out = NULL;
	c->out_at = c->out_len = c->out_cap = 0;
	c->in_at = c->in_len = 0;
	c->closing = c->eof = false;
	qmp_accept_more(c->server);
}

static size_t qmp_client_unread(const struct qmp_client *c)
{
	return c->out_len - c->out_at;
}

/* What the loop should watch: output while there is some, input while the client reads. */
static void qmp_client_watch(struct qmp_client *c)
{
	size_t n = qmp_client_unread(c);
	unsigned events = 0;

	if (n)
		events |= LOOP_OUT;
	if (n < QMP_OUT_WAIT && !c->closing && !c->eof)
		events |= LOOP_IN;
	loop_fd_set(&c->f, events);
}

/* Writes what goes now; false: the peer is gone. */
static bool qmp_client_write(struct qmp_client *c)
{
	while (qmp_client_unread(c)) {
		ssize_t n = send(c->fd, c->out + c->out_at, qmp_client_unread(c),
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN;
		c->out_at += (size_t)n;
	}
	c->out_at = c->out_len = 0;
	return true;
}

/* Queues text (which may be NULL: no memory); false: the client must go. */
static bool qmp_client_queue(struct qmp_client *c, const char *text)
{
	size_t len = text ? strlen(text) : 0;

	if (!text || qmp_client_unread(c) + len > QMP_OUT_MAX)
		return false;
	if (c->out_at) {
		memmove(c->out, c->out + c->out_at, qmp_client_unread(c));
		c->out_len -= c->out_at;
		c->out_at = 0;
	}
	if (c->out_cap - c->out_len < len) {
		size_t cap = MAX(c->out_cap * 2, c->out_len + len);
		char *out = xgrow(c->out, c->out_cap, cap, 1);

		if (!out)
			return false;
		c->out = out;
		c->out_cap = cap;
	}
	memcpy(c->out + c->out_len, text, len);
	c->out_len += len;
	return true;
}

/* Executes what was read while the client reads the answers; false: it must go. */
static bool qmp_client_feed(struct qmp_client *c)
{
	while (c->in_at < c->in_len && !c->closing && qmp_client_unread(c) < QMP_OUT_WAIT) {
		char *text;

		c->in_at += qmp_feed(&c->session, c->in + c->in_at, c->in_len - c->in_at, &text);
		bool ok = !text || qmp_client_queue(c, text);
		free(text);
		if (!ok)
			return false;
		c->closing |= c->session.broken;
	}
	return true;
}

static bool qmp_client_read(struct qmp_client *c)
{
	if (c->in_at < c->in_len || c->closing || c->eof || qmp_client_unread(c) >= QMP_OUT_WAIT)
		return true;
	ssize_t n = recv(c->fd, c->in, sizeof(c->in), MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	c->in_at = 0;
	c->in_len = (size_t)n;
	c->eof = n == 0;
	return true;
}

/* Read, execute, write, as far as it goes without waiting; false: the client must go. */
static bool qmp_client_step(struct qmp_client *c)
{
	if (!qmp_client_read(c))
		return false;
	do {
		if (!qmp_client_feed(c) || !qmp_client_write(c))
			return false;
	} while (c->in_at < c->in_len && !c->closing && qmp_client_unread(c) < QMP_OUT_WAIT);
	return !(c->closing || c->eof) || qmp_client_unread(c) ||
	       (!c->closing && c->in_at < c->in_len);
}

static void qmp_client_event(struct loop_fd *f, unsigned events)
{
	struct qmp_client *c = container_of(f, struct qmp_client, f);
	/* Hung up with nothing that could still be read or written. */
	bool dead = (events & LOOP_ERR) && !(events & LOOP_IN) && (c->closing || c->eof);

	if (dead || !qmp_client_step(c))
		qmp_client_close(c);
	else
		qmp_client_watch(c);
}

static void qmp_client_open(struct qmp_server *s, struct qmp_client *c, int fd)
{
	AUTO_FREE char *hello = qmp_greeting();

	c->fd = fd;
	c->session = (struct qmp_session){ .tables = s->tables, .ctx = s->ctx };
	c->f.fn = qmp_client_event;
	if (loop_fd_add(s->loop, &c->f, fd, LOOP_IN) < 0) {
		close_fd(&c->fd);
		return;
	}
	if (qmp_client_queue(c, hello) && qmp_client_write(c))
		qmp_client_watch(c);
	else
		qmp_client_close(c);
}

/* Listens only while there is room. */
static void qmp_server_accepted(struct sock_listener *l, int fd)
{
	struct qmp_server *s = container_of(l, struct qmp_server, listen);
	struct qmp_client *c = s->client;

	while (c->fd >= 0)
		c++;
	qmp_client_open(s, c, fd);
	qmp_accept_more(s);
}

int qmp_server_new(struct qmp_server **ret, struct loop *l, const char *path,
		   const struct qmp_cmd *const *tables, void *ctx, struct err *e)
{
	struct qmp_server *s = NEW(struct qmp_server);

	if (!s)
		return err_set(e, ENOMEM, "no memory");
	s->loop = l;
	s->tables = tables;
	s->ctx = ctx;
	for (unsigned i = 0; i < QMP_CLIENTS; i++) {
		s->client[i].fd = -1;
		s->client[i].server = s;
	}
	int rc = sock_listener_open(&s->listen, l, path, QMP_CLIENTS, qmp_server_accepted, e);
	if (rc < 0) {
		free(s);
		return rc;
	}
	*ret = s;
	return 0;
}

/* The last words (SHUTDOWN, the answer to quit) should arrive, but not at any price. */
static void qmp_client_flush(struct qmp_client *c, uint64_t deadline_ns)
{
	while (qmp_client_write(c) && qmp_client_unread(c)) {
		struct pollfd p = { .fd = c->fd, .events = POLLOUT };
		uint64_t now = clock_ns();

		if (now >= deadline_ns)
			return;
		poll(&p, 1, (int)((deadline_ns - now) / NS_PER_MS) + 1);
	}
}

void qmp_server_free(struct qmp_server *s)
{
	if (!s)
		return;
	uint64_t deadline_ns = clock_ns() + QMP_FLUSH_MS * NS_PER_MS;
	sock_listener_close(&s->listen);
	for (unsigned i = 0; i < QMP_CLIENTS; i++) {
		struct qmp_client *c = &s->client[i];

		if (c->fd < 0)
			continue;
		qmp_client_flush(c, deadline_ns);
		qmp_client_close(c);
	}
	free(s);
}

void qmp_server_event(struct qmp_server *s, const char *name,
		      void (*data)(struct json_out *o, const void *arg), const void *arg)
{
	if (!s)
		return;
	AUTO_FREE char *text = qmp_event_text(name, data, arg);
	for (unsigned i = 0; i < QMP_CLIENTS; i++) {
		struct qmp_client *c = &s->client[i];

		if (c->fd < 0 || !c->session.negotiated)
			continue;
		if (qmp_client_queue(c, text)) {
			loop_fd_set(&c->f, c->f.want | LOOP_OUT);
		} else if (!c->closing) {
			log_warn("control: a client does not read; dropped");
			c->out_at = c->out_len = 0;
			c->closing = true;
			loop_fd_set(&c->f, LOOP_OUT);
		}
	}
}
