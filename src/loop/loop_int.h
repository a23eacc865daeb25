/*
 * What the parts of loop/ share: loop.c (rounds, posts, descriptors), timer.c, work.c and the two
 * backends uring.c and epoll.c.
 */
#pragma once

#include "loop/loop.h"

enum {
	/* Events handled before timers and posts get their turn again. */
	LOOP_BATCH = 256,
};

/*
 * A registered descriptor has a slot; events name it by tag = slot number and sequence number, so
 * that an event that comes after loop_fd_del() finds nobody.
 */
struct loop_slot {
	/* NULL: free. */
	struct loop_fd *f;
	uint32_t seq;
	/* Next free slot. */
	uint32_t next_free;
};

struct loop_backend {
	enum loop_kind kind;
	int (*open)(struct loop *l, struct err *e);
	/* Also for a half-open one. */
	void (*close)(struct loop *l);
	/* f->want changed (0: silent) or f is new.  Cannot fail after fd_add succeeded. */
	int (*fd_add)(struct loop *l, struct loop_fd *f);
	void (*fd_set)(struct loop *l, struct loop_fd *f);
	void (*fd_del)(struct loop *l, struct loop_fd *f);
	void (*io_submit)(struct loop *l, struct loop_io *io);
	/* Waits for an event for at most wait_ns (LOOP_NEVER: no limit) and handles what came. */
	void (*wait)(struct loop *l, uint64_t wait_ns);
};

extern const struct loop_backend loop_uring, loop_epoll;

struct loop_work;

struct loop {
	const struct loop_backend *be;
	/* The backend's own. */
	void *be_data;
	pthread_t owner;

	struct loop_slot *slot;
	uint32_t nslot, free_slot;
	unsigned nfd;

	/* Root of the heap. */
	struct loop_timer *timers;
	unsigned ntimers;

	/* Posts, newest first; any thread pushes, the loop takes all. */
	struct loop_post *posted;
	/* Taken from there, in order. */
	struct loop_post *todo, **todo_end;
	/* Atomic.  The loop sleeps or is about to: a poster has to write to wake_fd. */
	int sleeping;
	/* Atomic. */
	int stop;
	int wake_fd;
	struct loop_fd wake;

	struct loop_work *work;
	unsigned inflight;
	/* I/O that is done but whose done() was not called yet. */
	struct list io_done;
};

enum {
	LOOP_NO_SLOT = UINT32_MAX,
};

/* The descriptor that a tag names, or NULL when it is gone. */
struct loop_fd *loop_fd_of(struct loop *l, uint64_t tag);
/* A new tag for f's slot: events of the old one are ignored from here on. */
void loop_fd_retag(struct loop *l, struct loop_fd *f);
/* Ends an I/O. */
void loop_io_end(struct loop_io *io, int64_t res);

/* timer.c */
void loop_timers_run(struct loop *l);
/* Deadline of the first timer, or LOOP_NEVER. */
uint64_t loop_timers_next(const struct loop *l);

/* work.c: the worker pool.  The threads start when they are needed. */
int loop_work_new(struct loop *l, struct loop_work **ret, struct err *e);
void loop_work_free(struct loop_work *w);
void loop_work_submit(struct loop_work *w, struct loop_io *io);
