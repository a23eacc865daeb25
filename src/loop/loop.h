/*
 * One thread's events: descriptors, timers, posts from other threads, and disk I/O, all behind one
 * wait.  The backend is io_uring, or epoll with a pool of worker threads where io_uring is refused
 * (old kernel, seccomp, limits); callers see no difference.
 *
 * Life cycle: loop_new, add things, loop_run (returns after loop_stop), remove things, loop_free.
 * Threads: all functions belong to the thread that runs the loop (before loop_run: any one thread),
 * except loop_post(), loop_stop() and loop_alarm_set(), which any thread may call and which never
 * block, and loop_call(), which waits.
 * Callbacks may add and remove anything, themselves included, and may wait for their own I/O with
 * loop_run_once().
 */
#pragma once

#include "base/err.h"
#include "base/list.h"
#include "base/thread.h"

#include <sys/uio.h>

struct loop;

enum loop_kind {
	/* io_uring when the kernel lets us, else epoll. */
	LOOP_AUTO,
	LOOP_URING,
	LOOP_EPOLL,
};

/* LOOP_URING fails with a reason where io_uring is refused; the other two do not need it. */
NODISCARD int loop_new(struct loop **ret, enum loop_kind kind, struct err *e);
/* NULL is fine.  BUG when descriptors, armed timers or I/O are left. */
void loop_free(struct loop *l);
/* What it became: LOOP_URING or LOOP_EPOLL. */
enum loop_kind loop_kind(const struct loop *l);
void loop_run(struct loop *l);
/* Handle what is there, waiting at most wait_ms (-1: no limit) for the first event. */
void loop_run_once(struct loop *l, int wait_ms);
/* loop_run() returns after the callbacks of the current round; before loop_run(): after one round
 * that does not wait. */
void loop_stop(struct loop *l);

/*
 * The thread a loop belongs to: the one that made it, then the one that runs it.  loop_own() hands
 * a loop that nobody runs to the calling thread.
 */
void loop_own(struct loop *l);
bool loop_is_mine(const struct loop *l);

/* A loop with a thread of its own (an I/O thread). */
struct loop_thread {
	struct loop *loop;
	struct thread thread;
};

/* Returns when the thread owns its loop. */
NODISCARD int loop_thread_start(struct loop_thread *t, const char *name, enum loop_kind kind,
				struct err *e);
/* Stops and joins the thread; the loop then belongs to the caller, who empties it. */
void loop_thread_stop(struct loop_thread *t);
/* After loop_thread_stop(): frees the loop.  NULL loop is fine. */
void loop_thread_fini(struct loop_thread *t);

/* Descriptors, level-triggered. */

enum {
	LOOP_IN = 1,
	LOOP_OUT = 2,
	/* Hang-up or error; always reported. */
	LOOP_ERR = 4,
};

struct loop_fd {
	/* events: LOOP_IN | ... that hold now. */
	void (*fn)(struct loop_fd *f, unsigned events);
	/* The rest belongs to the loop. */
	struct loop *loop;
	int fd;
	unsigned want;
	unsigned armed, fails;
	struct list node;
	uint64_t tag;
};

/*
 * f->fn is set by the caller, the rest of a new f is zero; f must stay until loop_fd_del().  The
 * descriptor stays the caller's, who closes it after loop_fd_del().  A descriptor that cannot be
 * polled (a regular file) is always ready.  -EEXIST when fd is in the loop already, -ENOMEM.
 */
NODISCARD int loop_fd_add(struct loop *l, struct loop_fd *f, int fd, unsigned events);
/* events 0: keep it registered but silent, hang-ups included. */
void loop_fd_set(struct loop_fd *f, unsigned events);
/* Does nothing when not added.  After it returns, fn is not called again. */
void loop_fd_del(struct loop_fd *f);

/* Posts: run fn on the loop's thread, in the order posted. */

struct loop_post {
	void (*fn)(struct loop_post *p);
	struct loop_post *next;
	/* Set while queued; posting it again meanwhile does nothing. */
	bool queued;
};

/* Any thread, never blocks.  p must stay until fn ran.  What the poster wrote before, fn sees. */
void loop_post(struct loop *l, struct loop_post *p);
/* The loop's thread, when nobody posts p any more: fn will not be called. */
void loop_post_cancel(struct loop *l, struct loop_post *p);
/*
 * Runs fn on the loop's thread and waits for it; from the loop's own thread it just calls fn.  The
 * loop must be running or about to run, else this waits for ever.
 */
void loop_call(struct loop *l, void (*fn)(void *arg), void *arg);

/* Timers: fire once, at or after deadline_ns of clock_ns(). */

struct loop_timer {
	void (*fn)(struct loop_timer *t);
	struct loop *loop;
	uint64_t deadline_ns;
	/* A pairing heap: first child, next sibling, previous sibling or parent. */
	struct loop_timer *child, *next, *prev;
	bool armed;
};

/* Arms or moves it; t->fn is set by the caller, the rest of a new t is zero. */
void loop_timer_set(struct loop *l, struct loop_timer *t, uint64_t deadline_ns);
/* Does nothing when not armed. */
void loop_timer_cancel(struct loop_timer *t);

/*
 * Alarms: timers that any thread sets (a guest's timer, set from its vCPU).  Setting one to a later
 * time costs no wake-up of the loop, so a timer that is pushed on and on is cheap.
 *
 * fn runs on the loop's thread and no lock is held.  When another thread sets the alarm meanwhile,
 * fn may run for the old deadline: fn takes its device's lock and looks at the device's own
 * deadline.
 */
struct loop_alarm {
	void (*fn)(struct loop_alarm *a);
	struct loop *loop;
	/* Atomic.  What was asked for, and what the loop's timer is armed for. */
	uint64_t want_ns, armed_ns;
	struct loop_timer timer;
	struct loop_post post;
};

#define LOOP_NEVER UINT64_MAX

void loop_alarm_init(struct loop *l, struct loop_alarm *a, void (*fn)(struct loop_alarm *a));
/* The loop's thread, when no other thread sets it any more: after it fn is not called. */
void loop_alarm_fini(struct loop_alarm *a);
/* Any thread, never blocks.  LOOP_NEVER: off. */
void loop_alarm_set(struct loop_alarm *a, uint64_t deadline_ns);

/* I/O on files: one completion for each submit, always from loop_run(), never inside the submit. */

enum loop_io_op {
	LOOP_IO_READV,
	LOOP_IO_WRITEV,
	/* fdatasync */
	LOOP_IO_FLUSH,
	/* fallocate(mode, off_bytes, len_bytes) */
	LOOP_IO_FALLOCATE,
	/* Calls work() on a worker thread, which may block; res is what it returns. */
	LOOP_IO_WORK,
};

struct loop_io {
	enum loop_io_op op;
	int fd;
	/* READV, WRITEV: must stay until done. */
	const struct iovec *iov;
	unsigned niov;
	uint64_t off_bytes, len_bytes;
	int mode;
	int64_t (*work)(struct loop_io *io);
	/* res: bytes moved (may be short), 0, or -errno. */
	void (*done)(struct loop_io *io, int64_t res);
	/* The rest belongs to the loop. */
	struct loop *loop;
	int64_t res;
	struct list node;
};

/* Order among several in flight is not promised. */
void loop_io_submit(struct loop *l, struct loop_io *io);
/* Number submitted and not done. */
unsigned loop_io_inflight(const struct loop *l);

/*
 * For tests: when set, asked on the loop's thread about each I/O but LOOP_IO_WORK.  True: nothing
 * is done and the I/O completes with *ret_res.
 */
extern bool (*loop_io_fault)(const struct loop_io *io, int64_t *ret_res);
