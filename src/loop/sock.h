/* Listening on Unix sockets. */
#pragma once

#include "base/err.h"

/*
 * A listening stream socket at path, non-blocking, for its owner only (mode 0600).  A socket file
 * that nobody listens on any more is replaced; -EADDRINUSE when somebody does, -EEXIST when path is
 * something else.
 */
NODISCARD int sock_listen_unix(const char *path, int backlog, int *ret_fd, struct err *e);
