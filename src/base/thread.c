#include "base/thread.h"

#include "base/bug.h"
#include "base/clock.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

void lock_init(struct lock *l)
{
	pthread_mutex_init(&l->m, NULL);
}

void lock_fini(struct lock *l)
{
	pthread_mutex_destroy(&l->m);
}

void cond_init(struct cond *c)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->c, &attr);
	pthread_condattr_destroy(&attr);
}

void cond_fini(struct cond *c)
{
	pthread_cond_destroy(&c->c);
}

bool cond_wait_until(struct cond *c, struct lock *l, uint64_t deadline_ns)
{
	struct timespec ts = {
		.tv_sec = (time_t)(deadline_ns / NS_PER_SEC),
		.tv_nsec = (long)(deadline_ns % NS_PER_SEC),
	};

	return pthread_cond_timedwait(&c->c, &l->m, &ts) != ETIMEDOUT;
}

static void *thread_main(void *arg)
{
	struct thread *t = arg;

	pthread_setname_np(pthread_self(), t->name);
	t->fn(t->arg);
	return NULL;
}

int thread_start(struct thread *t, const char *name, void (*fn)(void *), void *arg, struct err *e)
{
	static const int open_signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGUSR1 };
	sigset_t block, old;

	BUG_ON(t->started);
	t->fn = fn;
	t->arg = arg;
	snprintf(t->name, sizeof(t->name), "%s", name);
	sigfillset(&block);
	for (size_t i = 0; i < COUNT_OF(open_signals); i++)
		sigdelset(&block, open_signals[i]);
	pthread_sigmask(SIG_SETMASK, &block, &old);
	int rc = pthread_create(&t->id, NULL, thread_main, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc)
		return err_set(e, rc, "cannot start thread '%s': %s", name, strerror(rc));
	t->started = true;
	return 0;
}

void thread_join(struct thread *t)
{
	if (!t->started)
		return;
	pthread_join(t->id, NULL);
	t->started = false;
}
