/*
 * The system calls that open and set up things, as a table, so that a test can make the n-th one
 * fail.  Product code calls os.open() and so on; nothing but tests assigns to it.  (Disk I/O itself
 * goes through the loop and has a hook of its own there, loop_io_fault.)
 */
#pragma once

#include "base/compiler.h"

#include <sys/stat.h>
#include <sys/types.h>

/* All as the system call of that name: -1 and errno. */
struct os_calls {
	int (*open)(const char *path, int flags, mode_t mode);
	int (*fstat)(int fd, struct stat *st);
	int (*statx)(int dirfd, const char *path, int flags, unsigned mask, struct statx *stx);
	int (*ioctl)(int fd, unsigned long request, void *arg);
	int (*fcntl)(int fd, int cmd, void *arg);
	ssize_t (*pread)(int fd, void *buf, size_t len, off_t off);
};

extern struct os_calls os;

/*
 * From now on a write to a pipe or socket that nobody reads is an error and does not end the
 * process.  Does nothing when SIGPIPE is handled already.
 */
void os_ignore_sigpipe(void);

/*
 * Opens /dev/null for those of descriptors 0, 1 and 2 that are closed: a file that is opened later
 * would take the number, and what is meant for the terminal would be written to it.
 */
void os_std_fds(void);
