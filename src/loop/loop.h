/*
 * One thread's events: descriptors, timers, posts from other threads, and disk I/O, all behind one
 * wait.  The backend is io_uring, or epoll with a pool of worker threads where io_uring is refused
 * (old kernel, seccomp, limits); callers see no difference.
 *
 * Life cycle: loop_new, add things, loop_run (returns after loop_stop), remove things, loop_free.
 * Threads: all functions belong to the thread that runs the loop (before loop_run: any one thread),
 * except loop_post() and loop_stop(), which any thread may call and which never block.
 * Callbacks may add and remove anything, themselves included.
 */
#pragma once

#include "base/err.h"
#include "base/list.h"

#include <sys/uio.h>

struct loop;

enum loop_kind {
	/* io_uring when the kernel lets us, else epoll. */
	LOOP_AUTO,
	LOOP_URING,
	LOOP_EPOLL,
};

NODISCARD int loop_new(struct loop **ret, enum loop_kind kind, struct err *e);
/* NULL is fine.  BUG when descriptors, armed timers or I/O are left. */
void loop_free(struct loop *l);
enum loop_kind loop_kind(const struct loop *l);
void loop_run(struct loop *l);
/* Handle what is there, waiting at most wait_ms (-1: no limit) for the first event. */
void loop_run_once(struct loop *l, int wait_ms);
/* loop_run() returns after the callbacks of the current round. */
void loop_stop(struct loop *l);

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
	unsigned armed;
	struct list node;
	uint64_t tag;
};

/* f->fn is set by the caller; f must stay until loop_fd_del().  The descriptor stays the caller's.
 */
NODISCARD int loop_fd_add(struct loop *l, struct loop_fd *f, int fd, unsigned events);
/* events 0: keep it registered but silent. */
void loop_fd_set(struct loop_fd *f, unsigned events);
/* Does nothing when not added.  After it returns, fn is not called again. */
void loop_fd_del(struct loop_fd *f);

/* Timers: fire once, at or after deadline_ns of clock_ns(). */

struct loop_timer {
	void (*fn)(struct loop_timer *t);
	struct loop *loop;
	uint64_t deadline_ns;
	/* Position in the heap + 1; 0: not armed. */
	unsigned at;
};

/* Arms or moves it; t->fn is set by the caller. */
void loop_timer_set(struct loop *l, struct loop_timer *t, uint64_t deadline_ns);
void loop_timer_cancel(struct loop_timer *t);

/* Posts: run fn on the loop's thread, in the order posted. */

struct loop_post {
	void (*fn)(struct loop_post *p);
	struct loop_post *next;
	/* Set while queued; posting it again meanwhile does nothing. */
	bool queued;
};

/* Any thread, never blocks.  p must stay until fn ran. */
void loop_post(struct loop *l, struct loop_post *p);
/* Runs fn on the loop's thread and waits for it; from the loop's own thread it just calls fn. */
void loop_call(struct loop *l, void (*fn)(void *arg), void *arg);

/* I/O on files: one completion for each submit, always from loop_run(), never inside the submit. */

enum loop_io_op {
	LOOP_IO_READV,
	LOOP_IO_WRITEV,
	/* fdatasync */
	LOOP_IO_FLUSH,
	/* fallocate(mode, off_bytes, len_bytes) */
	LOOP_IO_FALLOCATE,
	/* Calls work() on a worker thread; res is what it returns. */
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

void loop_io_submit(struct loop *l, struct loop_io *io);
/* Number submitted and not done. */
unsigned loop_io_inflight(const struct loop *l);
