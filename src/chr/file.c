/*
 * A log file: output is appended, there is no input.  Writes go through the loop's I/O, one buffer
 * at a time, so a slow disk holds up nobody.
 */
#include "chr/chr_int.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/num.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct chr_file {
	struct chr c;
	int fd;
	struct loop_io io;
	struct iovec iov;
	bool busy;
	/* Said once. */
	bool complained;
	uint8_t buf[4096];
};

static void file_done(struct loop_io *io, int64_t res);

static struct chr_file *file_of(struct chr *c)
{
	return container_of(c, struct chr_file, c);
}

static void file_start(struct chr_file *f)
{
	f->io = (struct loop_io){
		.op = LOOP_IO_WRITEV,
		.fd = f->fd,
		.iov = &f->iov,
		.niov = 1,
		/* With O_APPEND the offset does not count. */
		.off_bytes = 0,
		.done = file_done,
	};
	f->busy = true;
	loop_io_submit(f->c.loop, &f->io);
}

static void file_done(struct loop_io *io, int64_t res)
{
	struct chr_file *f = container_of(io, struct chr_file, io);

	f->busy = false;
	if (res == -EINTR || res == -EAGAIN) {
		file_start(f);
		return;
	}
	if (res > 0 && (size_t)res < f->iov.iov_len) {
		f->iov.iov_base = (uint8_t *)f->iov.iov_base + res;
		f->iov.iov_len -= (size_t)res;
		file_start(f);
		return;
	}
	if (res <= 0 && !f->complained) {
		f->complained = true;
		log_warn("%s: output is lost: %s", f->c.where, strerror(res ? (int)-res : ENOSPC));
	}
	if (res > 0)
		f->complained = false;
	chr_can_write(&f->c);
}

static int file_open(struct chr *c, const struct chr_opts *o, struct err *e)
{
	struct chr_file *f = file_of(c);
	struct stat st;

	f->fd = open(o->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK,
		     0600);
	if (f->fd < 0)
		return err_set(e, errno, "cannot open '%s': %s", o->path, strerror(errno));
	if (fstat(f->fd, &st) < 0 || (!S_ISREG(st.st_mode) && !S_ISCHR(st.st_mode)))
		return err_set(e, EINVAL, "'%s' is not a regular file (try: unix or pty)", o->path);
	snprintf(c->where, sizeof(c->where), "file:%s", o->path);
	return 0;
}

static void file_close(struct chr *c)
{
	struct chr_file *f = file_of(c);

	while (f->busy)
		loop_run_once(c->loop, -1);
	close_fd(&f->fd);
}

static ssize_t file_write(struct chr *c, const uint8_t *p, size_t len)
{
	struct chr_file *f = file_of(c);

	if (f->busy)
		return -EAGAIN;
	len = MIN(len, sizeof(f->buf));
	memcpy(f->buf, p, len);
	f->iov = (struct iovec){ f->buf, len };
	file_start(f);
	return (ssize_t)len;
}

const struct chr_driver chr_file = {
	.name = "file",
	.size = sizeof(struct chr_file),
	.open = file_open,
	.close = file_close,
	.write = file_write,
};
