/*
 * The loop itself: rounds, posts, the table of descriptors.  See loop.h for the contract.
 *
 * A round is: wait in the backend (which handles descriptors and finished I/O), then the timers
 * that are due, then posts.  Each part handles a bounded number of events, so none starves another.
 *
 * Posts come through a lock-free stack that any thread pushes on and that the loop takes as a whole
 * and turns round.  A poster wakes the loop with an eventfd, but only when the loop sleeps: the
 * loop sets `sleeping` and then looks at the stack, the poster pushes and then looks at `sleeping`,
 * both sequentially consistent, so at least one of them sees the other.
 */
#include "loop/loop_int.h"

#include "base/alloc.h"
#include "base/bug.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

bool (*loop_io_fault)(const struct loop_io *io, int64_t *ret_res);

static void loop_wake(struct loop *l)
{
	const uint64_t one = 1;
	ssize_t n = write(l->wake_fd, &one, sizeof(one));

	/* A full counter is a loop that was woken already. */
	BUG_ON(n < 0 && errno != EAGAIN && errno != EINTR);
}

static void loop_woken(struct loop_fd *f, unsigned events UNUSED)
{
	uint64_t count;
	ssize_t n = read(f->fd, &count, sizeof(count));

	/* EAGAIN: read already, the event was an old one. */
	BUG_ON(n < 0 && errno != EAGAIN && errno != EINTR);
}

static int loop_open_backend(struct loop *l, enum loop_kind kind, struct err *e)
{
	l->be = kind == LOOP_EPOLL ? &loop_epoll : &loop_uring;
	int rc = l->be->open(l, e);

	if (rc < 0 && kind == LOOP_AUTO) {
		l->be->close(l);
		l->be = &loop_epoll;
		rc = l->be->open(l, e);
	}
	return rc;
}

DEFINE_AUTO(loop)

int loop_new(struct loop **ret, enum loop_kind kind, struct err *e)
{
	AUTO(loop)
	*l = NEW(struct loop);

	if (!l)
		return err_set(e, ENOMEM, "no memory for an event loop");
	l->free_slot = LOOP_NO_SLOT;
	l->todo_end = &l->todo;
	list_init(&l->io_done);
	l->owner = pthread_self();
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->wake_fd < 0)
		return err_set(e, errno, "cannot make an eventfd: %s", strerror(errno));
	int rc = loop_open_backend(l, kind, e);
	if (rc < 0)
		return rc;
	rc = loop_work_new(l, &l->work, e);
	if (rc < 0)
		return rc;
	l->wake.fn = loop_woken;
	rc = loop_fd_add(l, &l->wake, l->wake_fd, LOOP_IN);
	if (rc < 0)
		return err_set(e, -rc, "cannot watch the loop's eventfd: %s", strerror(-rc));
	*ret = TAKE(l);
	return 0;
}

void loop_free(struct loop *l)
{
	if (!l)
		return;
	loop_fd_del(&l->wake);
	BUG_ON(l->nfd);
	BUG_ON(l->timers);
	BUG_ON(l->inflight);
	loop_work_free(l->work);
	if (l->be)
		l->be->close(l);
	close_fd(&l->wake_fd);
	free(l->slot);
	free(l);
}

enum loop_kind loop_kind(const struct loop *l)
{
	return l->be->kind;
}

void loop_own(struct loop *l)
{
	__atomic_store_n(&l->owner, pthread_self(), __ATOMIC_RELEASE);
}

bool loop_is_mine(const struct loop *l)
{
	return pthread_equal(__atomic_load_n(&l->owner, __ATOMIC_ACQUIRE), pthread_self());
}

/* Posts. */

void loop_post(struct loop *l, struct loop_post *p)
{
	if (__atomic_exchange_n(&p->queued, true, __ATOMIC_ACQ_REL))
		return;
	p->next = __atomic_load_n(&l->posted, __ATOMIC_RELAXED);
	while (!__atomic_compare_exchange_n(&l->posted, &p->next, p, true, __ATOMIC_SEQ_CST,
					    __ATOMIC_RELAXED))
		;
	if (__atomic_load_n(&l->sleeping, __ATOMIC_SEQ_CST) &&
	    __atomic_exchange_n(&l->sleeping, 0, __ATOMIC_SEQ_CST))
		loop_wake(l);
}

/* Moves what was posted behind l->todo. */
static void loop_take_posts(struct loop *l)
{
	struct loop_post *p = __atomic_exchange_n(&l->posted, NULL, __ATOMIC_ACQUIRE);
	struct loop_post *first = NULL, *last = p;

	while (p) {
		struct loop_post *next = p->next;

		p->next = first;
		first = p;
		p = next;
	}
	if (first) {
		*l->todo_end = first;
		l->todo_end = &last->next;
	}
}

static void loop_run_posts(struct loop *l)
{
	loop_take_posts(l);
	for (int left = LOOP_BATCH; l->todo && left; left--) {
		struct loop_post *p = l->todo;

		l->todo = p->next;
		if (!l->todo)
			l->todo_end = &l->todo;
		__atomic_store_n(&p->queued, false, __ATOMIC_RELEASE);
		p->fn(p);
	}
}

void loop_post_cancel(struct loop *l, struct loop_post *p)
{
	loop_take_posts(l);
	for (struct loop_post **at = &l->todo; *at; at = &(*at)->next) {
		if (*at != p)
			continue;
		*at = p->next;
		if (!*at)
			l->todo_end = at;
		__atomic_store_n(&p->queued, false, __ATOMIC_RELEASE);
		return;
	}
}

struct loop_called {
	struct loop_post post;
	void (*fn)(void *arg);
	void *arg;
	/* Guards done. */
	struct lock lock;
	struct cond cond;
	bool done;
};

static void loop_called(struct loop_post *p)
{
	struct loop_called *c = container_of(p, struct loop_called, post);

	c->fn(c->arg);
	/* The caller's stack goes away as soon as the lock is free. */
	lock(&c->lock);
	c->done = true;
	cond_wake_all(&c->cond);
	unlock(&c->lock);
}

void loop_call(struct loop *l, void (*fn)(void *arg), void *arg)
{
	struct loop_called c = { .post.fn = loop_called, .fn = fn, .arg = arg };

	if (loop_is_mine(l)) {
		fn(arg);
		return;
	}
	lock_init(&c.lock);
	cond_init(&c.cond);
	loop_post(l, &c.post);
	lock(&c.lock);
	while (!c.done)
		cond_wait(&c.cond, &c.lock);
	unlock(&c.lock);
	cond_fini(&c.cond);
	lock_fini(&c.lock);
}

/* Rounds. */

static uint64_t loop_wait_ns(const struct loop *l, int wait_ms)
{
	uint64_t wait_ns = wait_ms < 0 ? LOOP_NEVER : (uint64_t)wait_ms * NS_PER_MS;
	uint64_t next = loop_timers_next(l);

	if (l->todo || __atomic_load_n(&l->posted, __ATOMIC_SEQ_CST) || !list_empty(&l->io_done) ||
	    __atomic_load_n(&l->stop, __ATOMIC_SEQ_CST))
		return 0;
	if (next != LOOP_NEVER && wait_ns) {
		uint64_t now = clock_ns();

		wait_ns = next <= now ? 0 : MIN(wait_ns, next - now);
	}
	return wait_ns;
}

static void loop_end_ios(struct loop *l)
{
	for (int left = LOOP_BATCH; !list_empty(&l->io_done) && left; left--) {
		struct loop_io *io = list_first(&l->io_done, struct loop_io, node);

		list_del(&io->node);
		loop_io_end(io, io->res);
	}
}

void loop_run_once(struct loop *l, int wait_ms)
{
	__atomic_store_n(&l->sleeping, 1, __ATOMIC_SEQ_CST);
	uint64_t wait_ns = loop_wait_ns(l, wait_ms);
	if (!wait_ns)
		__atomic_store_n(&l->sleeping, 0, __ATOMIC_RELAXED);
	l->be->wait(l, wait_ns);
	loop_timers_run(l);
	loop_run_posts(l);
	loop_end_ios(l);
}

void loop_run(struct loop *l)
{
	loop_own(l);
	/* The default lets a wait end 50 us late, which a guest's timer would see. */
	(void)prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
	do
		loop_run_once(l, -1);
	while (!__atomic_exchange_n(&l->stop, 0, __ATOMIC_SEQ_CST));
}

void loop_stop(struct loop *l)
{
	__atomic_store_n(&l->stop, 1, __ATOMIC_SEQ_CST);
	if (__atomic_exchange_n(&l->sleeping, 0, __ATOMIC_SEQ_CST))
		loop_wake(l);
}

/* Descriptors. */

static uint64_t loop_tag(uint32_t slot, uint32_t seq)
{
	/* Bit 0 tells it from a pointer. */
	return (uint64_t)seq << 32 | (uint64_t)slot << 1 | 1;
}

static uint32_t loop_slot_of(uint64_t tag)
{
	return (uint32_t)tag >> 1;
}

struct loop_fd *loop_fd_of(struct loop *l, uint64_t tag)
{
	uint32_t i = loop_slot_of(tag);

	if (i >= l->nslot || l->slot[i].seq != (uint32_t)(tag >> 32))
		return NULL;
	return l->slot[i].f;
}

void loop_fd_retag(struct loop *l, struct loop_fd *f)
{
	uint32_t i = loop_slot_of(f->tag);

	f->tag = loop_tag(i, ++l->slot[i].seq);
}

static int loop_grow_slots(struct loop *l)
{
	uint32_t n = l->nslot ? l->nslot * 2 : 16;
	struct loop_slot *more = xgrow(l->slot, l->nslot, n, sizeof(*more));

	if (!more)
		return -ENOMEM;
	l->slot = more;
	while (l->nslot < n) {
		l->slot[l->nslot].next_free = l->free_slot;
		l->free_slot = l->nslot++;
	}
	return 0;
}

/* Both backends see one descriptor once. */
static bool loop_has_fd(const struct loop *l, int fd)
{
	for (uint32_t i = 0; i < l->nslot; i++)
		if (l->slot[i].f && l->slot[i].f->fd == fd)
			return true;
	return false;
}

static void loop_fd_release(struct loop *l, struct loop_fd *f)
{
	uint32_t i = loop_slot_of(f->tag);

	l->slot[i].f = NULL;
	l->slot[i].seq++;
	l->slot[i].next_free = l->free_slot;
	l->free_slot = i;
	l->nfd--;
	f->loop = NULL;
}

int loop_fd_add(struct loop *l, struct loop_fd *f, int fd, unsigned events)
{
	BUG_ON(f->loop || !f->fn || fd < 0);
	if (loop_has_fd(l, fd))
		return -EEXIST;
	if (l->free_slot == LOOP_NO_SLOT && loop_grow_slots(l) < 0)
		return -ENOMEM;
	uint32_t i = l->free_slot;
	l->free_slot = l->slot[i].next_free;
	l->slot[i].f = f;
	f->loop = l;
	f->fd = fd;
	f->want = events & (LOOP_IN | LOOP_OUT | LOOP_ERR);
	f->armed = f->fails = 0;
	list_init(&f->node);
	f->tag = loop_tag(i, ++l->slot[i].seq);
	l->nfd++;
	int rc = l->be->fd_add(l, f);
	if (rc < 0)
		loop_fd_release(l, f);
	return rc;
}

void loop_fd_set(struct loop_fd *f, unsigned events)
{
	events &= LOOP_IN | LOOP_OUT | LOOP_ERR;
	if (f->want == events)
		return;
	f->want = events;
	f->loop->be->fd_set(f->loop, f);
}

void loop_fd_del(struct loop_fd *f)
{
	struct loop *l = f->loop;

	if (!l)
		return;
	l->be->fd_del(l, f);
	list_del(&f->node);
	loop_fd_release(l, f);
}

/* I/O. */

void loop_io_end(struct loop_io *io, int64_t res)
{
	struct loop *l = io->loop;

	BUG_ON(!l || !l->inflight);
	l->inflight--;
	io->loop = NULL;
	io->done(io, res);
}

void loop_io_submit(struct loop *l, struct loop_io *io)
{
	BUG_ON(io->loop || !io->done);
	io->loop = l;
	l->inflight++;
	if (io->op == LOOP_IO_WORK) {
		loop_work_submit(l->work, io);
		return;
	}
	if (unlikely(loop_io_fault != NULL) && loop_io_fault(io, &io->res)) {
		list_add_tail(&l->io_done, &io->node);
		return;
	}
	l->be->io_submit(l, io);
}

unsigned loop_io_inflight(const struct loop *l)
{
	return l->inflight;
}

/* Threads. */

static void loop_thread_main(void *arg)
{
	struct loop_thread *t = arg;

	loop_run(t->loop);
}

static void loop_nothing(void *arg UNUSED)
{
}

int loop_thread_start(struct loop_thread *t, const char *name, enum loop_kind kind, struct err *e)
{
	*t = (struct loop_thread){ 0 };
	int rc = loop_new(&t->loop, kind, e);

	if (rc < 0)
		return rc;
	/* Nobody's until the thread takes it, so that loop_call() waits for it. */
	__atomic_store_n(&t->loop->owner, (pthread_t)0, __ATOMIC_RELEASE);
	rc = thread_start(&t->thread, name, loop_thread_main, t, e);
	if (rc < 0) {
		loop_thread_fini(t);
		return rc;
	}
	loop_call(t->loop, loop_nothing, NULL);
	return 0;
}

void loop_thread_stop(struct loop_thread *t)
{
	if (!t->loop || !t->thread.started)
		return;
	loop_stop(t->loop);
	thread_join(&t->thread);
	loop_own(t->loop);
}

void loop_thread_fini(struct loop_thread *t)
{
	loop_thread_stop(t);
	loop_free(t->loop);
	t->loop = NULL;
}
