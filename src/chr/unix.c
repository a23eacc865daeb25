/*
 * A listening unix socket.  One client at a time: while one is there, the next waits in the
 * backlog.  A client may leave and come back; what the guest writes meanwhile is dropped.
 *
 * A socket file that is left of a dead process (nobody accepts on it) is removed; one that somebody
 * listens on, or anything that is not a socket, is not.  The socket is the owner's alone (0600):
 * who connects to a console has the machine.
 */
#include "chr/chr_int.h"

#include "base/cleanup.h"
#include "base/str.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

struct chr_sock {
	struct chr c;
	int listen_fd, fd;
	struct loop_fd listen;
	struct chr_stream stream;
	/* What we bound; to remove it, and nothing else, at the end. */
	bool bound;
	struct stat st;
	struct sockaddr_un addr;
};

static struct chr_sock *sock_of(struct chr *c)
{
	return container_of(c, struct chr_sock, c);
}

static void sock_gone(struct chr_stream *s)
{
	struct chr_sock *k = container_of(s, struct chr_sock, stream);

	close_fd(&k->fd);
	loop_fd_set(&k->listen, LOOP_IN);
}

static void sock_accept(struct loop_fd *f, unsigned events)
{
	struct chr_sock *k = container_of(f, struct chr_sock, listen);

	(void)events;
	k->fd = accept4(k->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (k->fd < 0)
		return;
	if (stream_start(&k->stream, &k->c, k->fd, k->fd) < 0) {
		close_fd(&k->fd);
		return;
	}
	loop_fd_set(&k->listen, 0);
	chr_can_write(&k->c);
}

/* Is the path a socket that nobody listens on any more? */
static bool sock_is_stale(const struct sockaddr_un *addr)
{
	struct stat st;
	AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 || lstat(addr->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	return connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 &&
	       errno == ECONNREFUSED;
}

static int sock_bind(struct chr_sock *k, struct err *e)
{
	const struct sockaddr *sa = (const struct sockaddr *)&k->addr;
	const char *path = k->addr.sun_path;

	k->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (k->listen_fd < 0)
		return err_set(e, errno, "cannot make a socket: %s", strerror(errno));
	/* bind() gives the file the mode that the socket has. */
	(void)fchmod(k->listen_fd, 0600);
	int rc = bind(k->listen_fd, sa, sizeof(k->addr));
	if (rc < 0 && errno == EADDRINUSE && sock_is_stale(&k->addr)) {
		unlink(path);
		rc = bind(k->listen_fd, sa, sizeof(k->addr));
	}
	if (rc < 0 && errno == EADDRINUSE)
		return err_set(e, EADDRINUSE, "'%s' exists (used by another VM?)", path);
	if (rc < 0)
		return err_set(e, errno, "cannot listen on '%s': %s", path, strerror(errno));
	k->bound = lstat(path, &k->st) == 0;
	if (listen(k->listen_fd, 1) < 0)
		return err_set(e, errno, "cannot listen on '%s': %s", path, strerror(errno));
	return 0;
}

static int sock_open(struct chr *c, const struct chr_opts *o, struct err *e)
{
	struct chr_sock *k = sock_of(c);

	k->listen_fd = k->fd = -1;
	k->addr.sun_family = AF_UNIX;
	if (!o->path || !*o->path)
		return err_set(e, EINVAL, "needs a path");
	if (!str_copy(k->addr.sun_path, sizeof(k->addr.sun_path), o->path))
		return err_set(e, ENAMETOOLONG,
			       "'%s' is longer than the %zu bytes of a socket's path", o->path,
			       sizeof(k->addr.sun_path) - 1);
	int rc = sock_bind(k, e);
	if (rc < 0)
		return rc;
	k->stream.gone = sock_gone;
	k->listen.fn = sock_accept;
	rc = loop_fd_add(c->loop, &k->listen, k->listen_fd, LOOP_IN);
	if (rc < 0)
		return err_set(e, -rc, "cannot watch the socket: %s", strerror(-rc));
	snprintf(c->where, sizeof(c->where), "unix:%s", o->path);
	return 0;
}

static void sock_close(struct chr *c)
{
	struct chr_sock *k = sock_of(c);
	struct stat st;

	stream_stop(&k->stream);
	loop_fd_del(&k->listen);
	if (k->bound && lstat(k->addr.sun_path, &st) == 0 && st.st_ino == k->st.st_ino &&
	    st.st_dev == k->st.st_dev)
		unlink(k->addr.sun_path);
	close_fd(&k->fd);
	close_fd(&k->listen_fd);
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
