/* Whole reads and writes; all return bytes or 0, or -errno. */
#pragma once

#include "base/err.h"

#include <sys/types.h>

/* Reads until len bytes or end of file; returns the number read. */
NODISCARD ssize_t file_pread_full(int fd, void *buf, size_t len, uint64_t off_bytes);
/* Writes all of it or fails. */
NODISCARD int file_pwrite_full(int fd, const void *buf, size_t len, uint64_t off_bytes);
NODISCARD int file_write_full(int fd, const void *buf, size_t len);
/*
 * A whole regular file into memory of its own (free with free(); one zero byte follows the data).
 * Refuses more than max bytes with -EFBIG.
 */
NODISCARD int file_read_all(const char *path, size_t max, void **ret_data, size_t *ret_len,
			    struct err *e);
/* As file_read_all, from a descriptor that may be a pipe; name is for messages. */
NODISCARD int file_read_fd(int fd, const char *name, size_t max, void **ret_data, size_t *ret_len,
			   struct err *e);
