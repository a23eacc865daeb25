/* Listening on Unix sockets. */
#pragma once

#include "base/err.h"
#include "loop/loop.h"

#include <sys/stat.h>
#include <sys/un.h>

/*
 * A listener bears a process that runs out of descriptors, which a guest with many connections can
 * bring about: one is kept in reserve for a connection that comes then, and when that is used too
 * it looks again every second instead of being woken for ever.
 *
 * Threads: the loop's, after it was opened.
 */
struct sock_listener {
	struct loop *loop;
	/* The callee owns fd, which is non-blocking. */
	void (*accepted)(struct sock_listener *l, int fd);
	/* The rest belongs to sock.c. */
	int fd, reserve_fd;
	bool wanted;
	struct loop_fd f;
	struct loop_timer retry;
	struct sockaddr_un addr;
	struct stat st;
};

/*
 * A listening stream socket at path, for its owner only (mode 0600).  A socket file that nobody
 * listens on any more is replaced; -EADDRINUSE when somebody does, -EEXIST when path is something
 * else.  On failure nothing is left to close.
 */
NODISCARD int sock_listener_open(struct sock_listener *l, struct loop *loop, const char *path,
				 int backlog, void (*accepted)(struct sock_listener *l, int fd),
				 struct err *e);
/* Take connections, or leave them in the backlog; on after open. */
void sock_listener_set(struct sock_listener *l, bool on);
/* The file goes too, unless it is another one by now.  Does nothing for a zeroed one. */
void sock_listener_close(struct sock_listener *l);
