#include "loop/sock.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SOCK_RETRY_NS NS_PER_SEC

/* Is it sure that nobody answers at this address? */
static bool sock_is_dead(const struct sockaddr_un *a)
{
	AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	/* EAGAIN, say, is a listener whose backlog is full; EACCES another user's. */
	return fd >= 0 && connect(fd, (const struct sockaddr *)a, sizeof(*a)) < 0 &&
	       errno == ECONNREFUSED;
}

/* Make room for a socket at path. */
static int sock_clear(const char *path, const struct sockaddr_un *a, struct err *e)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return err_set(e, EEXIST, "'%s' exists and is not a socket", path);
	if (!sock_is_dead(a))
		return err_set(e, EADDRINUSE, "'%s' is in use by another process", path);
	if (unlink(path) < 0)
		return err_set(e, errno, "cannot replace '%s': %s", path, strerror(errno));
	return 0;
}

static int sock_bind(struct sock_listener *l, const char *path, int backlog, struct err *e)
{
	if (!str_copy(l->addr.sun_path, sizeof(l->addr.sun_path), path))
		return err_set(e, ENAMETOOLONG, "'%s': a socket's name has at most %zu bytes", path,
			       sizeof(l->addr.sun_path) - 1);
	int rc = sock_clear(path, &l->addr, e);
	if (rc < 0)
		return rc;
	AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set(e, errno, "cannot make a socket: %s", strerror(errno));
	/* On Linux the mode of the socket's file is that of the descriptor at bind, less the umask:
	 * it is never open to others, not even for a moment. */
	if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&l->addr, sizeof(l->addr)) < 0)
		return err_set(e, errno, "cannot listen on '%s': %s", path, strerror(errno));
	/* What it is, to remove that and nothing else. */
	if (lstat(path, &l->st) < 0 || listen(fd, backlog) < 0) {
		rc = err_set(e, errno, "cannot listen on '%s': %s", path, strerror(errno));
		unlink(path);
		return rc;
	}
	l->fd = take_fd(&fd);
	return 0;
}

static void sock_keep_reserve(struct sock_listener *l)
{
	if (l->reserve_fd < 0)
		l->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static bool sock_out_of_fds(void)
{
	return errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
}

static void sock_accept(struct loop_fd *f, unsigned events UNUSED)
{
	struct sock_listener *l = container_of(f, struct sock_listener, f);
	int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0 && sock_out_of_fds() && l->reserve_fd >= 0) {
		close_fd(&l->reserve_fd);
		fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	}
	if (fd >= 0) {
		l->accepted(l, fd);
		/* Unless it closed the listener. */
		if (l->loop)
			sock_keep_reserve(l);
	} else if (sock_out_of_fds()) {
		loop_fd_set(&l->f, 0);
		loop_timer_set(l->loop, &l->retry, clock_ns() + SOCK_RETRY_NS);
	}
}

static void sock_retry(struct loop_timer *t)
{
	struct sock_listener *l = container_of(t, struct sock_listener, retry);

	sock_keep_reserve(l);
	loop_fd_set(&l->f, l->wanted ? LOOP_IN : 0);
}

int sock_listener_open(struct sock_listener *l, struct loop *loop, const char *path, int backlog,
		       void (*accepted)(struct sock_listener *l, int fd), struct err *e)
{
	*l = (struct sock_listener){
		.loop = loop,
		.accepted = accepted,
		.fd = -1,
		.reserve_fd = -1,
		.wanted = true,
		.f.fn = sock_accept,
		.retry.fn = sock_retry,
		.addr.sun_family = AF_UNIX,
	};
	int rc = sock_bind(l, path, backlog, e);
	if (rc >= 0) {
		sock_keep_reserve(l);
		rc = loop_fd_add(loop, &l->f, l->fd, LOOP_IN);
		if (rc < 0)
			err_set(e, -rc, "cannot watch '%s': %s", path, strerror(-rc));
	}
	if (rc < 0)
		sock_listener_close(l);
	return rc;
}

void sock_listener_set(struct sock_listener *l, bool on)
{
	l->wanted = on;
	if (!l->retry.armed)
		loop_fd_set(&l->f, on ? LOOP_IN : 0);
}

void sock_listener_close(struct sock_listener *l)
{
	struct stat st;

	if (!l->loop)
		return;
	loop_fd_del(&l->f);
	loop_timer_cancel(&l->retry);
	if (l->fd >= 0 && lstat(l->addr.sun_path, &st) == 0 && st.st_ino == l->st.st_ino &&
	    st.st_dev == l->st.st_dev)
		unlink(l->addr.sun_path);
	close_fd(&l->fd);
	close_fd(&l->reserve_fd);
	l->loop = NULL;
}
