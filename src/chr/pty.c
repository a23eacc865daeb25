/*
 * A pseudo terminal of our own: `where` says which (/dev/pts/N), and people use screen, minicom or
 * cat on it.  They come and go: while nobody has it open the master is hung up, reads fail, and
 * what the guest writes is dropped.
 *
 * The kernel does not tell the master when somebody opens the other side.  inotify on the device
 * file does; where it is refused (its limits are for all of a user's processes), a timer looks.
 */
#include "chr/chr_int.h"

#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <termios.h>
#include <unistd.h>

enum {
	PTY_LOOK_MS = 500,
};

struct chr_ptm {
	struct chr c;
	int fd, notify_fd;
	struct chr_stream stream;
	struct loop_fd notify;
	struct loop_timer look;
	char name[64];
};

static struct chr_ptm *pty_of(struct chr *c)
{
	return container_of(c, struct chr_ptm, c);
}

static bool pty_is_open(const struct chr_ptm *p)
{
	struct pollfd pf = { .fd = p->fd };

	return poll(&pf, 1, 0) >= 0 && !(pf.revents & POLLHUP);
}

static void pty_wait(struct chr_ptm *p)
{
	if (p->notify_fd < 0)
		loop_timer_set(p->c.loop, &p->look, clock_ns() + PTY_LOOK_MS * NS_PER_MS);
}

/* Somebody may have opened it. */
static void pty_check(struct chr_ptm *p)
{
	if (p->stream.on)
		return;
	if (pty_is_open(p) && stream_start(&p->stream, &p->c, p->fd, p->fd) == 0)
		chr_can_write(&p->c);
	else
		pty_wait(p);
}

static void pty_gone(struct chr_stream *s)
{
	struct chr_ptm *p = container_of(s, struct chr_ptm, stream);

	/* What nobody read is not for the next one; only the other side can drop it. */
	AUTO_CLOSE int fd = open(p->name, O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0)
		(void)tcflush(fd, TCIFLUSH);
	pty_wait(p);
}

static void pty_looked(struct loop_timer *t)
{
	pty_check(container_of(t, struct chr_ptm, look));
}

static void pty_notified(struct loop_fd *f, unsigned events)
{
	struct chr_ptm *p = container_of(f, struct chr_ptm, notify);
	char buf[1024] __attribute__((aligned(8)));

	(void)events;
	while (read(f->fd, buf, sizeof(buf)) > 0)
		;
	pty_check(p);
}

/* Without this the driver of a new terminal would echo and edit lines. */
static int pty_make_raw(const char *name)
{
	struct termios t;
	AUTO_CLOSE int fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (fd < 0 || tcgetattr(fd, &t) < 0)
		return -errno;
	cfmakeraw(&t);
	return tcsetattr(fd, TCSANOW, &t) < 0 ? -errno : 0;
}

static void pty_watch(struct chr_ptm *p, const char *name)
{
	p->notify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	p->notify.fn = pty_notified;
	if (p->notify_fd >= 0 && inotify_add_watch(p->notify_fd, name, IN_OPEN) >= 0 &&
	    loop_fd_add(p->c.loop, &p->notify, p->notify_fd, LOOP_IN) == 0)
		return;
	close_fd(&p->notify_fd);
}

static int pty_open(struct chr *c, const struct chr_opts *o, struct err *e)
{
	struct chr_ptm *p = pty_of(c);
	char *name = p->name;

	(void)o;
	p->notify_fd = -1;
	p->stream.gone = pty_gone;
	p->look.fn = pty_looked;
	p->fd = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (p->fd < 0 || grantpt(p->fd) < 0 || unlockpt(p->fd) < 0 ||
	    ptsname_r(p->fd, name, sizeof(p->name)) != 0)
		return err_set(e, errno, "cannot make a pseudo terminal: %s", strerror(errno));
	int rc = pty_make_raw(name);
	if (rc < 0)
		return err_set(e, -rc, "cannot set up '%s': %s", name, strerror(-rc));
	snprintf(c->where, sizeof(c->where), "pty:%s", name);
	pty_watch(p, name);
	pty_check(p);
	return 0;
}

static void pty_close(struct chr *c)
{
	struct chr_ptm *p = pty_of(c);

	stream_stop(&p->stream);
	loop_timer_cancel(&p->look);
	loop_fd_del(&p->notify);
	close_fd(&p->notify_fd);
	close_fd(&p->fd);
}

static ssize_t pty_write(struct chr *c, const uint8_t *buf, size_t len)
{
	return stream_write(&pty_of(c)->stream, buf, len);
}

static void pty_rx_enable(struct chr *c, bool on)
{
	stream_rx(&pty_of(c)->stream, on);
}

const struct chr_driver chr_pty = {
	.name = "pty",
	.size = sizeof(struct chr_ptm),
	.open = pty_open,
	.close = pty_close,
	.write = pty_write,
	.rx_enable = pty_rx_enable,
};
