/*
 * The worker pool: what blocks runs here.  Each loop has its own; a thread starts when there is
 * work and none is idle, up to WORK_THREADS, and stays until the loop is freed.  An idle one costs
 * nothing but its stack's address space.
 */
#include "loop/loop_int.h"

#include "base/alloc.h"
#include "base/bug.h"
#include "base/cleanup.h"
#include "base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	WORK_THREADS = 16,
};

struct loop_work {
	struct loop *loop;
	/* Guards all that follows. */
	struct lock lock;
	struct cond wake;
	/* Of loop_io. */
	struct list queue, done;
	/* Length of queue, threads that wait, threads started. */
	unsigned nqueue, nidle, nthread;
	bool stop;
	struct loop_post post;
	struct thread thread[WORK_THREADS];
};

static int64_t work_result(ssize_t n)
{
	return n < 0 ? -errno : n;
}

static int64_t work_do(struct loop_io *io)
{
	switch (io->op) {
	case LOOP_IO_READV:
		return work_result(preadv(io->fd, io->iov, (int)io->niov, (off_t)io->off_bytes));
	case LOOP_IO_WRITEV:
		return work_result(pwritev(io->fd, io->iov, (int)io->niov, (off_t)io->off_bytes));
	case LOOP_IO_FLUSH:
		return work_result(fdatasync(io->fd));
	case LOOP_IO_FALLOCATE:
		return work_result(
			fallocate(io->fd, io->mode, (off_t)io->off_bytes, (off_t)io->len_bytes));
	case LOOP_IO_WORK:
		return io->work(io);
	}
	BUG("unknown I/O");
}

static void work_main(void *arg)
{
	struct loop_work *w = arg;

	lock(&w->lock);
	for (;;) {
		while (list_empty(&w->queue) && !w->stop) {
			w->nidle++;
			cond_wait(&w->wake, &w->lock);
			w->nidle--;
		}
		if (w->stop)
			break;
		struct loop_io *io = list_first(&w->queue, struct loop_io, node);

		list_del(&io->node);
		w->nqueue--;
		unlock(&w->lock);
		io->res = work_do(io);
		lock(&w->lock);
		list_add_tail(&w->done, &io->node);
		loop_post(w->loop, &w->post);
	}
	unlock(&w->lock);
}

/* On the loop's thread. */
static void work_posted(struct loop_post *p)
{
	struct loop_work *w = container_of(p, struct loop_work, post);

	lock(&w->lock);
	while (!list_empty(&w->done)) {
		struct loop_io *io = list_first(&w->done, struct loop_io, node);

		list_del(&io->node);
		list_add_tail(&w->loop->io_done, &io->node);
	}
	unlock(&w->lock);
}

int loop_work_new(struct loop *l, struct loop_work **ret, struct err *e)
{
	struct loop_work *w = NEW(struct loop_work);

	if (!w)
		return err_set(e, ENOMEM, "no memory for an event loop");
	w->loop = l;
	w->post.fn = work_posted;
	lock_init(&w->lock);
	cond_init(&w->wake);
	list_init(&w->queue);
	list_init(&w->done);
	*ret = w;
	return 0;
}

void loop_work_free(struct loop_work *w)
{
	if (!w)
		return;
	lock(&w->lock);
	w->stop = true;
	cond_wake_all(&w->wake);
	unlock(&w->lock);
	for (unsigned i = 0; i < w->nthread; i++)
		thread_join(&w->thread[i]);
	cond_fini(&w->wake);
	lock_fini(&w->lock);
	free(w);
}

/* Enough threads for what is queued?  False when there is none at all and none can be had. */
static bool work_threads_locked(struct loop_work *w)
{
	struct err e;
	char name[16];

	if (w->nqueue <= w->nidle || w->nthread == WORK_THREADS)
		return true;
	snprintf(name, sizeof(name), "worker%u", w->nthread);
	if (thread_start(&w->thread[w->nthread], name, work_main, w, &e) < 0)
		return w->nthread > 0;
	w->nthread++;
	return true;
}

void loop_work_submit(struct loop_work *w, struct loop_io *io)
{
	lock(&w->lock);
	list_add_tail(&w->queue, &io->node);
	w->nqueue++;
	bool ok = work_threads_locked(w);
	if (!ok) {
		list_del(&io->node);
		w->nqueue--;
	}
	cond_wake_one(&w->wake);
	unlock(&w->lock);
	if (ok)
		return;
	/* No thread to be had: slow beats failing. */
	io->res = work_do(io);
	list_add_tail(&w->loop->io_done, &io->node);
}
