#include "base/file.h"

#include "base/cleanup.h"
#include "base/num.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

ssize_t file_pread_full(int fd, void *buf, size_t len, uint64_t off_bytes)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(fd, (char *)buf + done, len - done, (off_t)(off_bytes + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

int file_pwrite_full(int fd, const void *buf, size_t len, uint64_t off_bytes)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n =
			pwrite(fd, (const char *)buf + done, len - done, (off_t)(off_bytes + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		done += (size_t)n;
	}
	return 0;
}

int file_write_full(int fd, const void *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = write(fd, (const char *)buf + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		done += (size_t)n;
	}
	return 0;
}

int file_read_fd(int fd, const char *name, size_t max, void **ret_data, size_t *ret_len,
		 struct err *e)
{
	size_t cap = 65536, len = 0;
	AUTO_FREE char *data = malloc(cap);

	while (data) {
		ssize_t n = read(fd, data + len, cap - 1 - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_set(e, errno, "cannot read '%s': %s", name, strerror(errno));
		if (n == 0)
			break;
		len += (size_t)n;
		if (len > max)
			return err_set(e, EFBIG, "'%s' is larger than %zu bytes", name, max);
		if (len < cap - 1)
			continue;
		cap *= 2;
		char *more = realloc(data, cap);
		if (!more)
			return err_set(e, ENOMEM, "no memory to read '%s'", name);
		data = more;
	}
	if (!data)
		return err_set(e, ENOMEM, "no memory to read '%s'", name);
	data[len] = 0;
	*ret_len = len;
	*ret_data = TAKE(data);
	return 0;
}

int file_read_all(const char *path, size_t max, void **ret_data, size_t *ret_len, struct err *e)
{
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return err_set(e, errno, "cannot open '%s': %s", path, strerror(errno));
	return file_read_fd(fd, path, max, ret_data, ret_len, e);
}
