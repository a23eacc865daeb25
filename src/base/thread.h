/*
 * Threads and locks.  Locks are few, small and named in docs/threads.md with their order; the
 * comment on a lock lists the fields it guards.  Stopping a thread is a request and a join: there
 * is no cancelling and nothing is detached.
 */
#pragma once

#include "base/err.h"

#include <pthread.h>

struct lock {
	pthread_mutex_t m;
};

struct cond {
	pthread_cond_t c;
};

#define LOCK_INIT                         \
	{                                 \
		PTHREAD_MUTEX_INITIALIZER \
	}

void lock_init(struct lock *l);
void lock_fini(struct lock *l);
/* Condition variables here wait on CLOCK_MONOTONIC. */
void cond_init(struct cond *c);
void cond_fini(struct cond *c);

static inline void lock(struct lock *l)
{
	pthread_mutex_lock(&l->m);
}

static inline void unlock(struct lock *l)
{
	pthread_mutex_unlock(&l->m);
}

static inline void cond_wait(struct cond *c, struct lock *l)
{
	pthread_cond_wait(&c->c, &l->m);
}

/* False when deadline_ns (clock_ns() time) passed. */
bool cond_wait_until(struct cond *c, struct lock *l, uint64_t deadline_ns);

static inline void cond_wake_one(struct cond *c)
{
	pthread_cond_signal(&c->c);
}

static inline void cond_wake_all(struct cond *c)
{
	pthread_cond_broadcast(&c->c);
}

static inline void unlock_(struct lock **l)
{
	unlock(*l);
}

/* Hold l until the end of the scope. */
#define SCOPED_LOCK(l)                        \
	CLEANUP(unlock_)                      \
	UNUSED struct lock *scoped_lock_ = ({ \
		lock(l);                      \
		(l);                          \
	})

struct thread {
	pthread_t id;
	void (*fn)(void *arg);
	void *arg;
	bool started;
	char name[16];
};

/* All signals but SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP and the vCPU kick are blocked in it. */
NODISCARD int thread_start(struct thread *t, const char *name, void (*fn)(void *), void *arg,
			   struct err *e);
/* Waits for its end; does nothing for a thread that was never started. */
void thread_join(struct thread *t);
