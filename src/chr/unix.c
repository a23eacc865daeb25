/*
 * A listening unix socket.  One client at a time: while one is there, the next waits in the
 * backlog.  A client may leave and come back; what the guest writes meanwhile is dropped.
 *
 * The socket is the owner's alone (loop/sock.h): who connects to a console has the machine.
 */
#include "chr/chr_int.h"

#include "base/cleanup.h"
#include "loop/sock.h"

#include <errno.h>
#include <stdio.h>

struct chr_sock {
	struct chr c;
	int fd;
	struct sock_listener listen;
	struct chr_stream stream;
};

static struct chr_sock *sock_of(struct chr *c)
{
	return container_of(c, struct chr_sock, c);
}

static void sock_gone(struct chr_stream *s)
{
	struct chr_sock *k = container_of(s, struct chr_sock, stream);

	close_fd(&k->fd);
	sock_listener_set(&k->listen, true);
}

static void sock_accepted(struct sock_listener *l, int fd)
{
	struct chr_sock *k = container_of(l, struct chr_sock, listen);

	k->fd = fd;
	if (stream_start(&k->stream, &k->c, k->fd, k->fd) < 0) {
		close_fd(&k->fd);
		return;
	}
	sock_listener_set(l, false);
	chr_can_write(&k->c);
}

static int sock_open(struct chr *c, const struct chr_opts *o, struct err *e)
{
	struct chr_sock *k = sock_of(c);

	k->fd = -1;
	if (!o->path || !*o->path)
		return err_set(e, EINVAL, "needs a path");
	k->stream.gone = sock_gone;
	int rc = sock_listener_open(&k->listen, c->loop, o->path, 1, sock_accepted, e);
	if (rc < 0)
		return rc;
	snprintf(c->where, sizeof(c->where), "unix:%s", o->path);
	return 0;
}

static void sock_close(struct chr *c)
{
	struct chr_sock *k = sock_of(c);

	stream_stop(&k->stream);
	sock_listener_close(&k->listen);
	close_fd(&k->fd);
}

static ssize_t sock_write(struct chr *c, const uint8_t *p, size_t len)
{
	return stream_write(&sock_of(c)->stream, p, len);
}

static void sock_rx_enable(struct chr *c, bool on)
{
	stream_rx(&sock_of(c)->stream, on);
}

const struct chr_driver chr_unix = {
	.name = "unix",
	.size = sizeof(struct chr_sock),
	.open = sock_open,
	.close = sock_close,
	.write = sock_write,
	.rx_enable = sock_rx_enable,
};
