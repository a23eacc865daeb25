#include "loop/sock.h"

#include "base/cleanup.h"
#include "base/str.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

/* Does somebody answer at this address? */
static bool sock_alive(const struct sockaddr_un *a)
{
	AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	/* EAGAIN: the listener is there and its backlog is full. */
	return fd >= 0 && (connect(fd, (const struct sockaddr *)a, sizeof(*a)) == 0 ||
			   errno == EAGAIN || errno == EINPROGRESS);
}

/* Make room for a socket at path. */
static int sock_clear(const char *path, const struct sockaddr_un *a, struct err *e)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return err_set(e, EEXIST, "'%s' exists and is not a socket", path);
	if (sock_alive(a))
		return err_set(e, EADDRINUSE, "'%s' is in use by another process", path);
	if (unlink(path) < 0)
		return err_set(e, errno, "cannot replace '%s': %s", path, strerror(errno));
	return 0;
}

int sock_listen_unix(const char *path, int backlog, int *ret_fd, struct err *e)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	if (!str_copy(a.sun_path, sizeof(a.sun_path), path))
		return err_set(e, ENAMETOOLONG, "'%s': a socket's name has at most %zu bytes", path,
			       sizeof(a.sun_path) - 1);
	int rc = sock_clear(path, &a, e);
	if (rc < 0)
		return rc;
	AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set(e, errno, "cannot make a socket: %s", strerror(errno));
	/* On Linux the mode of the socket's file is that of the descriptor at bind, less the umask:
	 * it is never open to others, not even for a moment. */
	if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ||
	    listen(fd, backlog) < 0)
		return err_set(e, errno, "cannot listen on '%s': %s", path, strerror(errno));
	*ret_fd = take_fd(&fd);
	return 0;
}
