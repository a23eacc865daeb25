/*
 * The epoll backend, for hosts that refuse io_uring: descriptors by epoll, timers by its timeout,
 * disk I/O by the worker pool (work.c).
 *
 * epoll always reports hang-ups.  A silent descriptor (no events wanted) is therefore set to
 * edge-triggered with no events, which reports one at most once; that one is dropped.  A regular
 * file cannot be in an epoll set (EPERM) and is always ready.
 */
#include "loop/loop_int.h"

#include "base/alloc.h"
#include "base/bug.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
	/* In loop_fd.armed: not in the set, always ready. */
	EPOLL_ALWAYS = 0x100,
	EPOLL_EVENTS = 64,
};

struct epolls {
	int fd;
	/* Of loop_fd: those that are always ready. */
	struct list always;
	/* epoll_pwait2() is refused: timeouts are rounded up to milliseconds. */
	bool coarse;
};

static int epolls_open(struct loop *l, struct err *e)
{
	struct epolls *p = NEW(struct epolls);

	if (!p)
		return err_set(e, ENOMEM, "no memory for an event loop");
	l->be_data = p;
	list_init(&p->always);
	p->fd = epoll_create1(EPOLL_CLOEXEC);
	return p->fd < 0 ? err_set(e, errno, "cannot make an epoll set: %s", strerror(errno)) : 0;
}

static void epolls_close(struct loop *l)
{
	struct epolls *p = l->be_data;

	if (p)
		close_fd(&p->fd);
	free(p);
	l->be_data = NULL;
}

/* Descriptors. */

static int epolls_ctl(struct loop *l, struct loop_fd *f, int op)
{
	struct epolls *p = l->be_data;
	struct epoll_event ev = {
		.events = (f->want & LOOP_IN ? EPOLLIN : 0u) |
			  (f->want & LOOP_OUT ? EPOLLOUT : 0u) | (f->want ? 0u : EPOLLET),
		.data.u64 = f->tag,
	};

	return epoll_ctl(p->fd, op, f->fd, &ev) < 0 ? -errno : 0;
}

static int epolls_fd_add(struct loop *l, struct loop_fd *f)
{
	struct epolls *p = l->be_data;
	int rc = epolls_ctl(l, f, EPOLL_CTL_ADD);

	if (rc != -EPERM)
		return rc;
	f->armed = EPOLL_ALWAYS;
	list_add_tail(&p->always, &f->node);
	return 0;
}

static void epolls_fd_set(struct loop *l, struct loop_fd *f)
{
	/* Can only fail when the descriptor was closed behind our back: then it is silent. */
	if (f->armed != EPOLL_ALWAYS)
		(void)epolls_ctl(l, f, EPOLL_CTL_MOD);
}

static void epolls_fd_del(struct loop *l, struct loop_fd *f)
{
	struct epolls *p = l->be_data;

	if (f->armed != EPOLL_ALWAYS)
		(void)epoll_ctl(p->fd, EPOLL_CTL_DEL, f->fd, NULL);
}

static void epolls_fd_event(struct loop_fd *f, uint32_t ev)
{
	unsigned events = (ev & EPOLLIN ? LOOP_IN : 0u) | (ev & EPOLLOUT ? LOOP_OUT : 0u) |
			  (ev & (EPOLLERR | EPOLLHUP) ? LOOP_ERR : 0u);

	events &= f->want ? f->want | LOOP_ERR : 0;
	if (events)
		f->fn(f, events);
}

/* Rounds. */

static bool epolls_always_ready(const struct epolls *p)
{
	list_for_each (n, &p->always)
		if (list_entry(n, struct loop_fd, node)->want & (LOOP_IN | LOOP_OUT))
			return true;
	return false;
}

/* Callbacks may remove any of them, so the list is turned round once, one at a time. */
static void epolls_always(struct epolls *p)
{
	struct list todo;

	list_init(&todo);
	list_for_each_safe (n, &p->always) {
		list_del(n);
		list_add_tail(&todo, n);
	}
	while (!list_empty(&todo)) {
		struct loop_fd *f = list_first(&todo, struct loop_fd, node);

		list_del(&f->node);
		list_add_tail(&p->always, &f->node);
		epolls_fd_event(f, EPOLLIN | EPOLLOUT);
	}
}

static int epolls_sleep(struct epolls *p, struct epoll_event *ev, uint64_t wait_ns)
{
	struct timespec ts = {
		.tv_sec = (time_t)(wait_ns / NS_PER_SEC),
		.tv_nsec = (long)(wait_ns % NS_PER_SEC),
	};
	int n;

	if (!p->coarse) {
		n = epoll_pwait2(p->fd, ev, EPOLL_EVENTS, wait_ns == LOOP_NEVER ? NULL : &ts, NULL);
		if (n >= 0 || (errno != ENOSYS && errno != EPERM))
			return n;
		p->coarse = true;
	}
	uint64_t ms = MIN((wait_ns / NS_PER_MS) + (wait_ns % NS_PER_MS != 0), 3600 * 1000ull);

	return epoll_wait(p->fd, ev, EPOLL_EVENTS, wait_ns == LOOP_NEVER ? -1 : (int)ms);
}

static void epolls_wait(struct loop *l, uint64_t wait_ns)
{
	struct epolls *p = l->be_data;
	struct epoll_event ev[EPOLL_EVENTS];
	bool always = epolls_always_ready(p);
	int n = epolls_sleep(p, ev, always ? 0 : wait_ns);

	BUG_ON(n < 0 && errno != EINTR);
	__atomic_store_n(&l->sleeping, 0, __ATOMIC_RELAXED);
	for (int i = 0; i < n; i++) {
		struct loop_fd *f = loop_fd_of(l, ev[i].data.u64);

		if (f)
			epolls_fd_event(f, ev[i].events);
	}
	if (always)
		epolls_always(p);
}

static void epolls_io_submit(struct loop *l, struct loop_io *io)
{
	loop_work_submit(l->work, io);
}

const struct loop_backend loop_epoll = {
	.kind = LOOP_EPOLL,
	.open = epolls_open,
	.close = epolls_close,
	.fd_add = epolls_fd_add,
	.fd_set = epolls_fd_set,
	.fd_del = epolls_fd_del,
	.io_submit = epolls_io_submit,
	.wait = epolls_wait,
};
