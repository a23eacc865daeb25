/* The loop, each test on io_uring and on epoll. */
#include "loop/loop.h"

#include "base/alloc.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "lib/refuse.h"
#include "lib/t.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static struct loop *new_loop(void **state)
{
	struct loop *l;
	struct err e;
	enum loop_kind kind = *(const enum loop_kind *)*state;

	if (loop_new(&l, kind, &e) < 0) {
		if (kind == LOOP_URING)
			T_SKIP("%s", e.msg);
		fail_msg("%s", e.msg);
	}
	assert_int_equal(loop_kind(l), kind);
	return l;
}

/* Runs until *what is true or two seconds are over. */
static bool run_until(struct loop *l, const bool *what)
{
	uint64_t end = clock_ns() + 2 * NS_PER_SEC;

	while (!*what && clock_ns() < end)
		loop_run_once(l, 100);
	return *what;
}

/* Descriptors. */

struct watch {
	struct loop_fd f;
	unsigned calls, events;
	/* Read a byte in the callback. */
	bool consume;
	/* Deleted in the callback. */
	struct watch *kill;
};

static void watch_fn(struct loop_fd *f, unsigned events)
{
	struct watch *w = container_of(f, struct watch, f);
	char c;

	w->calls++;
	w->events = events;
	if (w->consume)
		assert_int_equal(read(f->fd, &c, 1), 1);
	if (w->kill)
		loop_fd_del(&w->kill->f);
}

static void watch_add(struct loop *l, struct watch *w, int fd, unsigned events)
{
	*w = (struct watch){ .f.fn = watch_fn };
	assert_int_equal(loop_fd_add(l, &w->f, fd, events), 0);
}

static void test_fd_level(void **state)
{
	struct loop *l = new_loop(state);
	struct watch w;
	int p[2];

	assert_int_equal(pipe(p), 0);
	watch_add(l, &w, p[0], LOOP_IN);
	loop_run_once(l, 0);
	assert_int_equal(w.calls, 0);
	assert_int_equal(write(p[1], "ab", 2), 2);
	loop_run_once(l, 1000);
	loop_run_once(l, 1000);
	assert_int_equal(w.calls, 2);
	assert_int_equal(w.events, LOOP_IN);
	w.consume = true;
	loop_run_once(l, 1000);
	loop_run_once(l, 1000);
	assert_int_equal(w.calls, 4);
	loop_run_once(l, 20);
	assert_int_equal(w.calls, 4);

	/* Hang-up: reported even when only output is wanted, but not to the silent. */
	w.consume = false;
	close(p[1]);
	loop_fd_set(&w.f, LOOP_OUT);
	loop_run_once(l, 1000);
	assert_true(w.events & LOOP_ERR);
	unsigned calls = w.calls;
	loop_fd_set(&w.f, 0);
	loop_run_once(l, 5);
	/* The silent do not keep the loop busy either. */
	uint64_t start = clock_ns();
	for (int i = 0; i < 5; i++)
		loop_run_once(l, 5);
	assert_true(clock_ns() - start >= 25 * NS_PER_MS);
	assert_int_equal(w.calls, calls);
	loop_fd_set(&w.f, LOOP_IN);
	loop_run_once(l, 1000);
	assert_int_equal(w.calls, calls + 1);
	loop_fd_del(&w.f);
	loop_fd_del(&w.f);
	loop_run_once(l, 5);
	assert_int_equal(w.calls, calls + 1);
	close(p[0]);
	loop_free(l);
}

static void test_fd_set(void **state)
{
	struct loop *l = new_loop(state);
	struct watch w;
	int s[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	watch_add(l, &w, s[0], LOOP_IN);
	loop_run_once(l, 5);
	assert_int_equal(w.calls, 0);
	/* More than the armed poll waits for, */
	loop_fd_set(&w.f, LOOP_IN | LOOP_OUT);
	loop_run_once(l, 1000);
	assert_int_equal(w.events, LOOP_OUT);
	/* less, */
	loop_run_once(l, 1000);
	loop_fd_set(&w.f, LOOP_IN);
	w.calls = 0;
	for (int i = 0; i < 5; i++)
		loop_run_once(l, 2);
	assert_int_equal(w.calls, 0);
	/* and other. */
	loop_fd_set(&w.f, LOOP_OUT);
	assert_int_equal(write(s[1], "x", 1), 1);
	loop_run_once(l, 1000);
	assert_int_equal(w.events, LOOP_OUT);
	loop_fd_set(&w.f, LOOP_IN);
	loop_run_once(l, 1000);
	loop_run_once(l, 1000);
	assert_int_equal(w.events, LOOP_IN);
	loop_fd_del(&w.f);
	close(s[0]);
	close(s[1]);
	loop_free(l);
}

/* What is not wanted any more is not reported, although the kernel was asked for it. */
static void test_fd_less(void **state)
{
	struct loop *l = new_loop(state);
	struct watch w;
	char buf[4096] = "";
	int s[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s), 0);
	while (write(s[0], buf, sizeof(buf)) > 0)
		;
	watch_add(l, &w, s[0], LOOP_IN | LOOP_OUT);
	loop_run_once(l, 5);
	assert_int_equal(w.calls, 0);
	loop_fd_set(&w.f, LOOP_IN);
	while (read(s[1], buf, sizeof(buf)) > 0)
		;
	for (int i = 0; i < 3; i++)
		loop_run_once(l, 5);
	assert_int_equal(w.calls, 0);
	assert_int_equal(write(s[1], "x", 1), 1);
	loop_run_once(l, 1000);
	assert_int_equal(w.events, LOOP_IN);
	loop_fd_del(&w.f);
	close(s[0]);
	close(s[1]);
	loop_free(l);
}

static void test_fd_refused(void **state)
{
	struct loop *l = new_loop(state);
	struct watch a, b = { .f.fn = watch_fn };
	int p[2];

	assert_int_equal(pipe(p), 0);
	watch_add(l, &a, p[0], LOOP_IN);
	assert_int_equal(loop_fd_add(l, &b.f, p[0], LOOP_IN), -EEXIST);
	loop_fd_del(&b.f);
	loop_fd_del(&a.f);
	assert_int_equal(loop_fd_add(l, &b.f, p[0], LOOP_IN), 0);
	loop_fd_del(&b.f);
	close(p[0]);
	close(p[1]);
	loop_free(l);
}

static void test_fd_regular(void **state)
{
	struct loop *l = new_loop(state);
	struct watch w, v;
	FILE *f = tmpfile(), *g = tmpfile();

	watch_add(l, &w, fileno(f), LOOP_IN);
	watch_add(l, &v, fileno(g), 0);
	loop_run_once(l, 1000);
	loop_run_once(l, 1000);
	assert_int_equal(w.calls, 2);
	assert_int_equal(w.events, LOOP_IN);
	assert_int_equal(v.calls, 0);
	w.kill = &v;
	loop_fd_set(&v.f, LOOP_IN);
	for (int i = 0; i < 3; i++)
		loop_run_once(l, 1000);
	assert_true(v.calls <= 1);
	loop_fd_del(&w.f);
	fclose(f);
	fclose(g);
	loop_free(l);
}

/* Both are ready; whichever comes first deletes the other, and nothing more comes of that one. */
static void test_fd_del_other(void **state)
{
	struct loop *l = new_loop(state);
	struct watch a, b;
	int p[2], q[2];

	assert_int_equal(pipe(p), 0);
	assert_int_equal(pipe(q), 0);
	watch_add(l, &a, p[0], LOOP_IN);
	watch_add(l, &b, q[0], LOOP_IN);
	a.kill = &b;
	b.kill = &a;
	assert_int_equal(write(p[1], "x", 1), 1);
	assert_int_equal(write(q[1], "x", 1), 1);
	for (int i = 0; i < 5; i++)
		loop_run_once(l, 20);
	struct watch *alive = a.calls ? &a : &b;
	assert_int_equal(alive == &a ? b.calls : a.calls, 0);
	assert_true(alive->calls >= 1);
	alive->kill = alive;
	unsigned calls = alive->calls;
	for (int i = 0; i < 3; i++)
		loop_run_once(l, 5);
	assert_int_equal(alive->calls, calls + 1);
	close(p[0]);
	close(p[1]);
	close(q[0]);
	close(q[1]);
	loop_free(l);
}

/* The number and the struct are used again at once: an event of the old one is not the new one's.
 */
static void test_fd_reuse(void **state)
{
	struct loop *l = new_loop(state);
	struct watch w;
	int p[2], q[2];

	assert_int_equal(pipe(p), 0);
	watch_add(l, &w, p[0], LOOP_IN);
	loop_run_once(l, 5);
	assert_int_equal(write(p[1], "x", 1), 1);
	loop_fd_del(&w.f);
	assert_int_equal(pipe(q), 0);
	assert_int_equal(dup2(q[0], p[0]), p[0]);
	watch_add(l, &w, p[0], LOOP_IN);
	for (int i = 0; i < 3; i++)
		loop_run_once(l, 5);
	assert_int_equal(w.calls, 0);
	assert_int_equal(write(q[1], "x", 1), 1);
	loop_run_once(l, 1000);
	assert_int_equal(w.calls, 1);
	loop_fd_del(&w.f);
	for (int i = 0; i < 2; i++) {
		close(p[i]);
		close(q[i]);
	}
	loop_free(l);
}

/* After del and close the other end sees the end, without another round of the loop. */
static void test_fd_close(void **state)
{
	struct loop *l = new_loop(state);
	struct watch w;
	int s[2];
	char c;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	watch_add(l, &w, s[0], LOOP_IN);
	loop_run_once(l, 5);
	loop_fd_del(&w.f);
	close(s[0]);
	struct pollfd pf = { .fd = s[1], .events = POLLIN };
	assert_int_equal(poll(&pf, 1, 2000), 1);
	assert_int_equal(read(s[1], &c, 1), 0);
	close(s[1]);
	loop_free(l);
}

static void test_fd_many(void **state)
{
	enum {
		N = 700
	};
	static struct watch w[N];
	static int p[N][2];
	struct loop *l = new_loop(state);
	unsigned n = 0;

	for (; n < N && pipe(p[n]) == 0; n++) {
		watch_add(l, &w[n], p[n][0], LOOP_IN);
		w[n].consume = true;
		assert_int_equal(write(p[n][1], "x", 1), 1);
	}
	assert_true(n > 100);
	for (int i = 0; i < 100; i++)
		loop_run_once(l, 1);
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(w[i].calls, 1);
		loop_fd_del(&w[i].f);
		close(p[i][0]);
		close(p[i][1]);
	}
	loop_free(l);
}

/* Timers. */

static uint64_t fake_now;

static uint64_t fake_clock(void)
{
	return fake_now;
}

struct tick {
	struct loop_timer t;
	/* The model: when it is to fire, 0: not armed. */
	uint64_t due;
	unsigned fired;
	uint64_t fired_at;
};

static uint64_t last_fired;
static unsigned total_fired;

static void tick_fn(struct loop_timer *t)
{
	struct tick *k = container_of(t, struct tick, t);

	assert_true(k->due != 0);
	assert_true(k->due <= fake_now);
	assert_true(k->due >= last_fired);
	assert_false(t->armed);
	last_fired = k->due;
	k->due = 0;
	total_fired++;
}

/* Random sets, moves and cancels against a plain array. */
static void test_timers_model(void **state)
{
	enum {
		N = 100
	};
	static struct tick k[N];
	struct loop *l = new_loop(state);
	uint64_t s = t_seed(7);

	memset(k, 0, sizeof(k));
	total_fired = 0;
	fake_now = 1000;
	clock_hook = fake_clock;
	for (int step = 0; step < 20000; step++) {
		struct tick *x = &k[t_below(&s, N)];

		if (t_below(&s, 4)) {
			x->due = fake_now + t_below(&s, 50);
			x->t.fn = tick_fn;
			loop_timer_set(l, &x->t, x->due);
		} else {
			x->due = 0;
			loop_timer_cancel(&x->t);
		}
		if (t_below(&s, 3))
			continue;
		fake_now += t_below(&s, 10);
		last_fired = 0;
		loop_run_once(l, 0);
		for (int i = 0; i < N; i++) {
			assert_true(!k[i].due || k[i].due > fake_now);
			assert_int_equal(k[i].t.armed, k[i].due != 0);
		}
	}
	assert_true(total_fired > 1000);
	for (int i = 0; i < N; i++)
		loop_timer_cancel(&k[i].t);
	clock_hook = NULL;
	loop_free(l);
}

static void tick_real(struct loop_timer *t)
{
	struct tick *k = container_of(t, struct tick, t);

	k->fired++;
	k->fired_at = clock_ns();
}

static void test_timer_real(void **state)
{
	struct loop *l = new_loop(state);
	struct tick k = { .t.fn = tick_real };
	uint64_t start = clock_ns();

	loop_timer_set(l, &k.t, start + 30 * NS_PER_MS);
	loop_run_once(l, 5);
	assert_int_equal(k.fired, 0);
	while (!k.fired)
		loop_run_once(l, -1);
	assert_true(k.fired_at >= start + 30 * NS_PER_MS);
	/* In the past: at once. */
	loop_timer_set(l, &k.t, 1);
	loop_run_once(l, -1);
	assert_int_equal(k.fired, 2);
	loop_free(l);
}

static void tick_again(struct loop_timer *t)
{
	struct tick *k = container_of(t, struct tick, t);

	k->fired++;
	loop_timer_set(t->loop, t, 1);
}

/* A timer that is always due starves nobody. */
static void test_timer_greedy(void **state)
{
	struct loop *l = new_loop(state);
	struct tick k = { .t.fn = tick_again };
	struct watch w;
	int p[2];

	assert_int_equal(pipe(p), 0);
	watch_add(l, &w, p[0], LOOP_IN);
	w.consume = true;
	loop_timer_set(l, &k.t, 1);
	assert_int_equal(write(p[1], "abc", 3), 3);
	for (int i = 0; i < 10; i++)
		loop_run_once(l, -1);
	assert_int_equal(w.calls, 3);
	assert_int_equal(k.fired, 10);
	loop_timer_cancel(&k.t);
	loop_fd_del(&w.f);
	close(p[0]);
	close(p[1]);
	loop_free(l);
}

/* Posts. */

enum {
	POSTERS = 4,
	POSTS = 5000,
};

struct mail {
	struct loop_post p;
	unsigned from, nr;
};

static struct {
	struct loop *l;
	struct mail mail[POSTERS][POSTS];
	unsigned next[POSTERS], total;
	bool wrong;
} office;

static void mail_fn(struct loop_post *p)
{
	struct mail *m = container_of(p, struct mail, p);

	if (office.next[m->from]++ != m->nr)
		office.wrong = true;
	if (++office.total == POSTERS * POSTS)
		loop_stop(office.l);
}

static void poster_main(void *arg)
{
	unsigned from = (unsigned)(uintptr_t)arg;

	for (unsigned i = 0; i < POSTS; i++) {
		office.mail[from][i] = (struct mail){ { .fn = mail_fn }, from, i };
		loop_post(office.l, &office.mail[from][i].p);
		if (i % 64 == 0)
			usleep(10);
	}
}

static void test_posts(void **state)
{
	struct thread t[POSTERS] = { 0 };
	struct err e;

	memset(&office, 0, sizeof(office));
	office.l = new_loop(state);
	for (unsigned i = 0; i < POSTERS; i++)
		assert_int_equal(
			thread_start(&t[i], "poster", poster_main, (void *)(uintptr_t)i, &e), 0);
	loop_run(office.l);
	for (unsigned i = 0; i < POSTERS; i++)
		thread_join(&t[i]);
	assert_false(office.wrong);
	assert_int_equal(office.total, POSTERS * POSTS);
	loop_free(office.l);
}

static void count_post(struct loop_post *p)
{
	struct mail *m = container_of(p, struct mail, p);

	m->nr++;
}

static void test_post_twice_and_cancel(void **state)
{
	struct loop *l = new_loop(state);
	struct mail m[3] = { { { .fn = count_post } },
			     { { .fn = count_post } },
			     { { .fn = count_post } } };

	loop_post(l, &m[0].p);
	loop_post(l, &m[0].p);
	loop_post(l, &m[1].p);
	loop_post(l, &m[2].p);
	loop_post_cancel(l, &m[2].p);
	loop_run_once(l, -1);
	assert_int_equal(m[0].nr, 1);
	assert_int_equal(m[1].nr, 1);
	assert_int_equal(m[2].nr, 0);
	/* The last of the queue is taken out, and one comes behind it; and one that is not there.
	 */
	loop_post_cancel(l, &m[0].p);
	loop_post(l, &m[0].p);
	loop_post(l, &m[2].p);
	loop_post_cancel(l, &m[2].p);
	loop_post(l, &m[1].p);
	loop_run_once(l, -1);
	assert_int_equal(m[0].nr, 2);
	assert_int_equal(m[1].nr, 2);
	assert_int_equal(m[2].nr, 0);
	loop_free(l);
}

static void add_one(void *arg)
{
	(*(int *)arg)++;
}

static struct loop *call_loop;

static void caller_main(void *arg)
{
	for (int i = 0; i < 1000; i++) {
		int before = *(int *)arg;

		loop_call(call_loop, add_one, arg);
		if (*(int *)arg != before + 1)
			*(int *)arg = -100000;
	}
	loop_stop(call_loop);
}

static void test_call(void **state)
{
	struct thread t = { 0 };
	struct err e;
	int n = 0;

	call_loop = new_loop(state);
	loop_call(call_loop, add_one, &n);
	assert_int_equal(n, 1);
	assert_int_equal(thread_start(&t, "caller", caller_main, &n, &e), 0);
	loop_run(call_loop);
	thread_join(&t);
	assert_int_equal(n, 1001);
	loop_free(call_loop);
}

static void is_mine(void *arg)
{
	*(bool *)arg = loop_is_mine(call_loop);
}

static void test_thread_and_stop(void **state)
{
	enum loop_kind kind = *(const enum loop_kind *)*state;
	struct loop_thread t;
	struct err e;
	bool mine = false;

	loop_free(new_loop(state));
	assert_int_equal(loop_thread_start(&t, "io", kind, &e), 0);
	call_loop = t.loop;
	assert_false(loop_is_mine(t.loop));
	loop_call(t.loop, is_mine, &mine);
	assert_true(mine);
	loop_thread_stop(&t);
	assert_true(loop_is_mine(t.loop));
	loop_thread_fini(&t);

	/* Stopped before it runs: one round. */
	struct loop *l = new_loop(state);
	loop_stop(l);
	loop_run(l);
	loop_free(l);
}

/* Alarms. */

struct bell {
	struct loop_alarm a;
	unsigned rung;
	uint64_t rung_at;
};

static void bell_fn(struct loop_alarm *a)
{
	struct bell *b = container_of(a, struct bell, a);

	__atomic_fetch_add(&b->rung, 1, __ATOMIC_RELAXED);
	b->rung_at = clock_ns();
}

static void test_alarm(void **state)
{
	struct loop *l = new_loop(state);
	struct bell b = { 0 };
	uint64_t t0 = clock_ns();

	loop_alarm_init(l, &b.a, bell_fn);
	loop_alarm_set(&b.a, t0 + 500 * NS_PER_MS);
	loop_run_once(l, 0);
	assert_true(b.a.timer.armed);
	/* Later: the loop hears nothing of it.  Earlier: it does. */
	loop_alarm_set(&b.a, t0 + 900 * NS_PER_MS);
	assert_false(b.a.post.queued);
	loop_alarm_set(&b.a, t0 + 10 * NS_PER_MS);
	assert_true(b.a.post.queued);
	while (!b.rung)
		loop_run_once(l, -1);
	assert_true(b.rung_at >= t0 + 10 * NS_PER_MS);
	assert_true(b.rung_at < t0 + 500 * NS_PER_MS);
	/* Off. */
	loop_alarm_set(&b.a, clock_ns() + 5 * NS_PER_MS);
	loop_run_once(l, 0);
	loop_alarm_set(&b.a, LOOP_NEVER);
	for (int i = 0; i < 4; i++)
		loop_run_once(l, 5);
	assert_int_equal(b.rung, 1);
	loop_alarm_set(&b.a, 1);
	loop_alarm_fini(&b.a);
	loop_run_once(l, 5);
	assert_int_equal(b.rung, 1);
	loop_free(l);
}

/* One thread sets, moves and stops the alarm as fast as it can; what it set last always comes. */
static void test_alarm_race(void **state)
{
	enum loop_kind kind = *(const enum loop_kind *)*state;
	struct loop_thread t;
	struct bell b = { 0 };
	struct err e;
	uint64_t s = t_seed(3);
	int nothing = 0;

	loop_free(new_loop(state));
	assert_int_equal(loop_thread_start(&t, "io", kind, &e), 0);
	loop_alarm_init(t.loop, &b.a, bell_fn);
	for (int i = 0; i < 300; i++) {
		for (int j = 0; j < 30; j++)
			loop_alarm_set(&b.a, t_below(&s, 4) ? clock_ns() + t_below(&s, 40000)
							    : LOOP_NEVER);
		loop_alarm_set(&b.a, LOOP_NEVER);
		/* Whatever was being called is over. */
		loop_call(t.loop, add_one, &nothing);
		unsigned before = __atomic_load_n(&b.rung, __ATOMIC_RELAXED);
		loop_alarm_set(&b.a, clock_ns() + t_below(&s, 40000));
		uint64_t end = clock_ns() + 5 * NS_PER_SEC;
		while (__atomic_load_n(&b.rung, __ATOMIC_RELAXED) == before)
			assert_true(clock_ns() < end);
	}
	/* Set again while the loop finds out that it was put off: not lost between the two. */
	for (int i = 0; i < 3000; i++) {
		uint64_t due = clock_ns() + 30000;

		loop_alarm_set(&b.a, due);
		loop_alarm_set(&b.a, LOOP_NEVER);
		while (clock_ns() < due + i * 10)
			;
		unsigned before = __atomic_load_n(&b.rung, __ATOMIC_RELAXED);
		loop_alarm_set(&b.a, clock_ns() + 1000);
		uint64_t end = clock_ns() + 5 * NS_PER_SEC;
		while (__atomic_load_n(&b.rung, __ATOMIC_RELAXED) == before)
			assert_true(clock_ns() < end);
	}
	loop_thread_stop(&t);
	loop_alarm_fini(&b.a);
	loop_thread_fini(&t);
}

/* I/O. */

struct job {
	struct loop_io io;
	struct iovec iov;
	char buf[512];
	bool done;
	int64_t res;
};

static unsigned jobs_done;

static void job_done(struct loop_io *io, int64_t res)
{
	struct job *j = container_of(io, struct job, io);

	assert_false(j->done);
	j->done = true;
	j->res = res;
	jobs_done++;
}

static void job_submit(struct loop *l, struct job *j, enum loop_io_op op, int fd, uint64_t off,
		       size_t len)
{
	j->done = false;
	j->iov = (struct iovec){ j->buf, len };
	j->io = (struct loop_io){
		.op = op,
		.fd = fd,
		.iov = &j->iov,
		.niov = 1,
		.off_bytes = off,
		.len_bytes = len,
		.done = job_done,
	};
	loop_io_submit(l, &j->io);
	assert_false(j->done);
}

static int64_t job_run(struct loop *l, struct job *j, enum loop_io_op op, int fd, uint64_t off,
		       size_t len)
{
	job_submit(l, j, op, fd, off, len);
	assert_true(run_until(l, &j->done));
	return j->res;
}

static int64_t answer(struct loop_io *io UNUSED)
{
	return 42;
}

static bool fault_all(const struct loop_io *io, int64_t *ret_res)
{
	*ret_res = io->op == LOOP_IO_FLUSH ? -EIO : -ENOSPC;
	return true;
}

static void test_io(void **state)
{
	struct loop *l = new_loop(state);
	static struct job j;
	FILE *f = tmpfile();
	int fd = fileno(f);

	memset(j.buf, 'a', sizeof(j.buf));
	assert_int_equal(job_run(l, &j, LOOP_IO_WRITEV, fd, 100, 512), 512);
	memset(j.buf, 0, sizeof(j.buf));
	/* Short at the end of the file, then nothing. */
	assert_int_equal(job_run(l, &j, LOOP_IO_READV, fd, 200, 512), 412);
	assert_int_equal(j.buf[411], 'a');
	assert_int_equal(j.buf[412], 0);
	assert_int_equal(job_run(l, &j, LOOP_IO_READV, fd, 5000, 512), 0);
	assert_int_equal(job_run(l, &j, LOOP_IO_FLUSH, fd, 0, 0), 0);
	assert_int_equal(job_run(l, &j, LOOP_IO_READV, 9999, 0, 512), -EBADF);
	assert_int_equal(job_run(l, &j, LOOP_IO_FALLOCATE, fd, 4096, 4096), 0);
	assert_int_equal(lseek(fd, 0, SEEK_END), 8192);

	j.done = false;
	j.io = (struct loop_io){ .op = LOOP_IO_WORK, .work = answer, .done = job_done };
	loop_io_submit(l, &j.io);
	assert_int_equal(loop_io_inflight(l), 1);
	assert_true(run_until(l, &j.done));
	assert_int_equal(j.res, 42);
	assert_int_equal(loop_io_inflight(l), 0);

	loop_io_fault = fault_all;
	assert_int_equal(job_run(l, &j, LOOP_IO_FLUSH, fd, 0, 0), -EIO);
	assert_int_equal(job_run(l, &j, LOOP_IO_WRITEV, fd, 0, 512), -ENOSPC);
	loop_io_fault = NULL;
	fclose(f);
	loop_free(l);
}

/* More at once than any queue holds. */
static void test_io_many(void **state)
{
	enum {
		N = 3000
	};
	struct loop *l = new_loop(state);
	struct job *j = calloc(N, sizeof(*j));
	FILE *f = tmpfile();

	jobs_done = 0;
	for (int i = 0; i < N; i++) {
		memset(j[i].buf, i, sizeof(j[i].buf));
		job_submit(l, &j[i], LOOP_IO_WRITEV, fileno(f), (uint64_t)i * 512, 512);
	}
	assert_int_equal(loop_io_inflight(l), N);
	while (jobs_done < N)
		loop_run_once(l, -1);
	for (int i = 0; i < N; i++) {
		assert_int_equal(j[i].res, 512);
		job_submit(l, &j[i], LOOP_IO_READV, fileno(f), (uint64_t)(N - 1 - i) * 512, 512);
	}
	while (jobs_done < 2 * N)
		loop_run_once(l, -1);
	for (int i = 0; i < N; i++)
		assert_int_equal(j[i].buf[511], (char)(N - 1 - i));
	free(j);
	fclose(f);
	loop_free(l);
}

/* Where io_uring is refused. */

/* In the child: 0 when a loop on this host works and is of the kind that it must be. */
static int child_check(enum loop_kind must)
{
	struct loop *l;
	struct err e;
	static struct job j;
	struct tick k = { .t.fn = tick_real };
	FILE *f = tmpfile();
	uint64_t start = clock_ns();

	if (loop_new(&l, LOOP_AUTO, &e) < 0 || loop_kind(l) != must)
		return 1;
	memset(j.buf, 'z', sizeof(j.buf));
	if (job_run(l, &j, LOOP_IO_WRITEV, fileno(f), 0, 512) != 512)
		return 2;
	loop_timer_set(l, &k.t, start + 3 * NS_PER_MS);
	while (!k.fired)
		loop_run_once(l, -1);
	if (k.fired_at < start + 3 * NS_PER_MS)
		return 3;
	loop_free(l);
	if (must == LOOP_EPOLL && loop_new(&l, LOOP_URING, &e) == 0)
		return 4;
	return 0;
}

static void run_refused(const unsigned *nrs, unsigned n, unsigned err, enum loop_kind must)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		for (unsigned i = 0; i < n; i++)
			t_refuse(nrs[i], err);
		_exit(child_check(must));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_fallback(void **state UNUSED)
{
	static const unsigned setup[] = { SYS_io_uring_setup };
	static const unsigned enter[] = { SYS_io_uring_enter };
	static const unsigned reg[] = { SYS_io_uring_register };
	static const unsigned all[] = { SYS_io_uring_setup, SYS_epoll_pwait2 };
	static const unsigned errs[] = { EPERM, ENOSYS, ENOMEM, EACCES };

	for (size_t i = 0; i < COUNT_OF(errs); i++)
		run_refused(setup, 1, errs[i], LOOP_EPOLL);
	run_refused(enter, 1, EPERM, LOOP_EPOLL);
	run_refused(reg, 1, EPERM, LOOP_EPOLL);
	run_refused(all, 2, ENOSYS, LOOP_EPOLL);
	run_refused(all, 2, EPERM, LOOP_EPOLL);
}

/* Every allocation of loop_new() fails once. */
static void test_no_memory(void **state)
{
	enum loop_kind kind = *(const enum loop_kind *)*state;
	struct loop *l = NULL;
	struct err e;
	int n = 0, rc;

	loop_free(new_loop(state));
	do {
		alloc_fail_after = n++;
		rc = loop_new(&l, kind, &e);
		assert_true(rc == 0 || rc == -ENOMEM);
	} while (rc < 0 && n < 100);
	alloc_fail_after = -1;
	assert_int_equal(rc, 0);
	assert_true(n > 3);
	loop_free(l);
	loop_free(NULL);
}

static enum loop_kind kinds[] = { LOOP_URING, LOOP_EPOLL };

#define BOTH(fn)                                        \
	{ #fn ":uring", fn, NULL, NULL, &kinds[0] },    \
	{                                               \
#fn ":epoll", fn, NULL, NULL, &kinds[1] \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(test_fd_level),   BOTH(test_fd_set),
		BOTH(test_fd_less),    BOTH(test_fd_refused),
		BOTH(test_fd_regular), BOTH(test_fd_del_other),
		BOTH(test_fd_reuse),   BOTH(test_fd_close),
		BOTH(test_fd_many),    BOTH(test_timers_model),
		BOTH(test_timer_real), BOTH(test_timer_greedy),
		BOTH(test_posts),      BOTH(test_post_twice_and_cancel),
		BOTH(test_call),       BOTH(test_thread_and_stop),
		BOTH(test_alarm),      BOTH(test_alarm_race),
		BOTH(test_io),         BOTH(test_io_many),
		BOTH(test_no_memory),  cmocka_unit_test(test_fallback),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
