/*
 * The io_uring backend: one io_uring_enter() submits what came up in a round and waits for
 * descriptors, disks and the next timer at once.
 *
 * Descriptors: a one-shot IORING_OP_POLL_ADD each, armed again after its callback.  A poll looks at
 * the descriptor when it is armed, so this is level-triggered; arming costs no system call of its
 * own, for it goes out with the next wait.  A poll that waits for more than is wanted now is left
 * alone and what it reports is filtered; one that waits for less is removed and armed anew under a
 * new tag (loop_int.h).
 *
 * Needs Linux 5.11 (IORING_FEAT_EXT_ARG).  Everything is tried when the loop is made, one enter
 * included, because a seccomp filter may refuse any of it.
 */
#include "loop/loop_int.h"

#include "base/alloc.h"
#include "base/bug.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <string.h>

enum {
	URING_SQ = 256,
	URING_CQ = 2048,
	/* Polls that fail in a row before the owner hears of it. */
	URING_POLL_FAILS = 16,
};

/* Linux 5.19: completions wait for our next system call instead of interrupting us. */
#ifndef IORING_SETUP_COOP_TASKRUN
#define IORING_SETUP_COOP_TASKRUN (1U << 8)
#endif

struct uring {
	struct io_uring ring;
	bool have_ring;
	/* Descriptors whose poll goes out with the next wait. */
	struct list arm;
	/* I/O for which the submission queue had no room. */
	struct list pending;
};

static int uring_setup(struct io_uring *ring)
{
	struct io_uring_params p = {
		.flags = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE | IORING_SETUP_COOP_TASKRUN,
		.cq_entries = URING_CQ,
	};
	int rc = io_uring_queue_init_params(URING_SQ, ring, &p);

	if (rc == -EINVAL) {
		p = (struct io_uring_params){
			.flags = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE,
			.cq_entries = URING_CQ,
		};
		rc = io_uring_queue_init_params(URING_SQ, ring, &p);
	}
	return rc;
}

/* Can it do what we need? */
static int uring_probe(struct io_uring *ring)
{
	static const int ops[] = {
		IORING_OP_NOP,    IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE, IORING_OP_READV,
		IORING_OP_WRITEV, IORING_OP_FSYNC,    IORING_OP_FALLOCATE,
	};
	struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
	bool ok = probe && (ring->features & IORING_FEAT_EXT_ARG);

	for (size_t i = 0; ok && i < COUNT_OF(ops); i++)
		ok = io_uring_opcode_supported(probe, ops[i]);
	io_uring_free_probe(probe);
	return ok ? 0 : -EOPNOTSUPP;
}

/* One request there and back. */
static int uring_try(struct io_uring *ring)
{
	struct __kernel_timespec ts = { .tv_sec = 5 };
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct io_uring_cqe *cqe = NULL;

	io_uring_prep_nop(sqe);
	int rc = io_uring_submit_and_wait_timeout(ring, &cqe, 1, &ts, NULL);
	if (rc < 0)
		return rc;
	rc = cqe ? cqe->res : -ETIME;
	if (cqe)
		io_uring_cqe_seen(ring, cqe);
	return rc;
}

static int uring_open(struct loop *l, struct err *e)
{
	struct uring *u = NEW(struct uring);

	if (!u)
		return err_set(e, ENOMEM, "no memory for an event loop");
	l->be_data = u;
	list_init(&u->arm);
	list_init(&u->pending);
	int rc = uring_setup(&u->ring);
	u->have_ring = rc == 0;
	if (rc == 0)
		rc = uring_probe(&u->ring);
	if (rc == 0)
		rc = uring_try(&u->ring);
	return rc < 0 ? err_set(e, -rc, "io_uring is not usable: %s", strerror(-rc)) : 0;
}

static void uring_close(struct loop *l)
{
	struct uring *u = l->be_data;

	if (u && u->have_ring)
		io_uring_queue_exit(&u->ring);
	free(u);
	l->be_data = NULL;
}

/* NULL: the kernel takes nothing at the moment. */
static struct io_uring_sqe *uring_sqe(struct uring *u)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	if (sqe)
		return sqe;
	io_uring_submit(&u->ring);
	return io_uring_get_sqe(&u->ring);
}

/* Descriptors. */

static bool uring_arm(struct uring *u, struct loop_fd *f)
{
	struct io_uring_sqe *sqe = uring_sqe(u);

	if (!sqe)
		return false;
	io_uring_prep_poll_add(
		sqe, f->fd, (f->want & LOOP_IN ? POLLIN : 0) | (f->want & LOOP_OUT ? POLLOUT : 0));
	io_uring_sqe_set_data64(sqe, f->tag);
	f->armed = f->want | LOOP_ERR;
	list_del(&f->node);
	return true;
}

static void uring_disarm(struct loop *l, struct loop_fd *f)
{
	struct uring *u = l->be_data;

	if (!f->armed)
		return;
	struct io_uring_sqe *sqe = uring_sqe(u);
	/* Without: the poll ends when it fires, and its tag is nobody's. */
	if (sqe) {
		io_uring_prep_poll_remove(sqe, f->tag);
		io_uring_sqe_set_data64(sqe, 0);
	}
	f->armed = 0;
	loop_fd_retag(l, f);
}

static void uring_fd_set(struct loop *l, struct loop_fd *f)
{
	struct uring *u = l->be_data;

	if (f->armed && !(f->want & ~f->armed))
		return;
	uring_disarm(l, f);
	list_del(&f->node);
	if (f->want)
		list_add_tail(&u->arm, &f->node);
}

static int uring_fd_add(struct loop *l, struct loop_fd *f)
{
	uring_fd_set(l, f);
	return 0;
}

static void uring_fd_del(struct loop *l, struct loop_fd *f)
{
	struct uring *u = l->be_data;
	bool armed = f->armed != 0;

	uring_disarm(l, f);
	/* Now, for the poll holds the file open and the caller is about to close it. */
	if (armed)
		io_uring_submit(&u->ring);
}

static void uring_fd_event(struct loop *l, struct loop_fd *f, int res)
{
	struct uring *u = l->be_data;
	unsigned events = 0;

	f->armed = 0;
	if (!f->want)
		return;
	list_add_tail(&u->arm, &f->node);
	/*
	 * A poll that failed is not an event: signals end polls, and one that was woken for nothing
	 * may end with EINVAL (seen on terminals, Linux 6.18). Not for ever, though.
	 */
	f->fails = res < 0 ? f->fails + 1 : 0;
	if (res < 0 && res != -EBADF && f->fails < URING_POLL_FAILS)
		return;
	if (res < 0 || res & (POLLERR | POLLHUP | POLLNVAL))
		events |= LOOP_ERR;
	if (res > 0 && res & POLLIN)
		events |= LOOP_IN;
	if (res > 0 && res & POLLOUT)
		events |= LOOP_OUT;
	events &= f->want | LOOP_ERR;
	if (events)
		f->fn(f, events);
}

/* I/O. */

static bool uring_io_start(struct uring *u, struct loop_io *io)
{
	struct io_uring_sqe *sqe = uring_sqe(u);

	if (!sqe)
		return false;
	switch (io->op) {
	case LOOP_IO_READV:
		io_uring_prep_readv(sqe, io->fd, io->iov, io->niov, io->off_bytes);
		break;
	case LOOP_IO_WRITEV:
		io_uring_prep_writev(sqe, io->fd, io->iov, io->niov, io->off_bytes);
		break;
	case LOOP_IO_FLUSH:
		io_uring_prep_fsync(sqe, io->fd, IORING_FSYNC_DATASYNC);
		break;
	case LOOP_IO_FALLOCATE:
		io_uring_prep_fallocate(sqe, io->fd, io->mode, (off_t)io->off_bytes,
					(off_t)io->len_bytes);
		break;
	case LOOP_IO_WORK:
		BUG("work does not go to io_uring");
	}
	io_uring_sqe_set_data(sqe, io);
	return true;
}

static void uring_io_submit(struct loop *l, struct loop_io *io)
{
	struct uring *u = l->be_data;

	if (!list_empty(&u->pending) || !uring_io_start(u, io))
		list_add_tail(&u->pending, &io->node);
}

/* Rounds. */

/* Whatever waited for the next wait. */
static void uring_prepare(struct uring *u)
{
	while (!list_empty(&u->pending)) {
		struct list *p = u->pending.next;

		list_del(p);
		if (!uring_io_start(u, list_entry(p, struct loop_io, node))) {
			list_add_head(&u->pending, p);
			break;
		}
	}
	while (!list_empty(&u->arm))
		if (!uring_arm(u, list_first(&u->arm, struct loop_fd, node)))
			break;
}

static void uring_enter(struct uring *u, uint64_t wait_ns)
{
	struct __kernel_timespec ts = {
		.tv_sec = (long long)(wait_ns / NS_PER_SEC),
		.tv_nsec = (long long)(wait_ns % NS_PER_SEC),
	};
	struct io_uring_cqe *cqe;
	int rc;

	/* Nothing went out for lack of room: what is in flight has to come back first. */
	if (!wait_ns)
		rc = io_uring_submit_and_get_events(&u->ring);
	else
		rc = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1,
						      wait_ns == LOOP_NEVER ? NULL : &ts, NULL);
	/* EAGAIN, EBUSY, ENOMEM: not everything went out; it does with the next round. */
	BUG_ON(rc < 0 && rc != -ETIME && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY &&
	       rc != -ENOMEM);
}

static void uring_wait(struct loop *l, uint64_t wait_ns)
{
	struct uring *u = l->be_data;
	struct io_uring_cqe *cqe;

	uring_prepare(u);
	uring_enter(u, wait_ns);
	__atomic_store_n(&l->sleeping, 0, __ATOMIC_RELAXED);
	for (int left = LOOP_BATCH; left && io_uring_peek_cqe(&u->ring, &cqe) == 0; left--) {
		uint64_t data = cqe->user_data;
		int res = cqe->res;

		io_uring_cqe_seen(&u->ring, cqe);
		if (data & 1) {
			struct loop_fd *f = loop_fd_of(l, data);

			if (f)
				uring_fd_event(l, f, res);
		} else if (data) {
			loop_io_end((struct loop_io *)(uintptr_t)data, res);
		}
	}
}

const struct loop_backend loop_uring = {
	.kind = LOOP_URING,
	.open = uring_open,
	.close = uring_close,
	.fd_add = uring_fd_add,
	.fd_set = uring_fd_set,
	.fd_del = uring_fd_del,
	.io_submit = uring_io_submit,
	.wait = uring_wait,
};
