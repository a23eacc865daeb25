/*
 * smp: what several CPUs of one machine owe each other.  Runs in the guest (test_smp.py), or
 * anywhere.
 *
 *	smp SECONDS TEST...	runs each test that long; prints "ok TEST COUNTS" or "BAD TEST WHY"
 *
 *	order	litmus tests of x86-TSO (SDM 3A 9.2; Owens, Sarkar, Sewell: A better x86
 *		memory model), with plain stores, vector stores, XCHG and MFENCE, aligned and
 *		misaligned within a line
 *	lock	LOCK on words that straddle lines and pages, next to plain ones; CMPXCHG16B
 *	futex	a token that goes round by FUTEX_WAIT and FUTEX_WAKE, a mutex: no wake-up is lost
 *	barrier	membarrier() on one CPU is a fence between another's store and load
 *	protect	mprotect() on one CPU, stores and loads on others: none gets through after it
 *	unmap	the same with munmap(); the page serves somebody else at once
 *	code	one CPU rewrites what others run: at one address, through another mapping, by
 *		another page at the address
 *	filter	socket filters, which the kernel compiles, loads and frees under traffic
 */
#include <cpuid.h>
#include <emmintrin.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
	PAGE = 4096,
};

#define BARRIER() asm volatile("" : : : "memory")

static double seconds;
static volatile bool over;
static char bad[256];
static unsigned ncpus;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The first thing that was wrong. */
static void wrong(const char *f, ...)
{
	va_list ap;

	if (__atomic_test_and_set(&bad[sizeof(bad) - 1], __ATOMIC_SEQ_CST))
		return;
	va_start(ap, f);
	vsnprintf(bad, sizeof(bad) - 1, f, ap);
	va_end(ap);
	over = true;
}

static void die(const char *what)
{
	printf("smp: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *pages(size_t len, int prot)
{
	void *p = mmap(NULL, len, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static void on_cpu(unsigned n)
{
	cpu_set_t s;

	CPU_ZERO(&s);
	CPU_SET(n % ncpus, &s);
	sched_setaffinity(0, sizeof(s), &s);
}

static pthread_t start(void *(*fn)(void *), void *arg)
{
	pthread_t t;

	if (pthread_create(&t, NULL, fn, arg))
		die("pthread_create");
	return t;
}

static uint32_t random32(uint32_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 17;
	return *s ^= *s << 5;
}

/* ---- order ---- */

/*
 * Each test has up to four threads; a thread does two accesses to x and y, in each round on other
 * lines, and notes what it loaded.  A bad outcome is one that no order of TSO explains.
 */
enum {
	ROUNDS = 2000,
	/* x and y of a round, far apart; their neighbours in a line stay. */
	SLOT = 256,
};

/* How a thread stores. */
enum how {
	PLAIN,
	VECTOR,
	EXCHANGE,
	FENCED,
	HOWS,
};

struct litmus {
	const char *name;
	unsigned threads;
	/* Per thread, two steps: 'W' or 'R', and of what ('x', 'y'). */
	const char *step[4];
	/* Is this outcome (loads in order of threads and steps) forbidden?  fenced: after each
	 * store. */
	bool (*forbidden)(const uint32_t *r, const uint32_t *fin, bool fenced);
};

static bool sb(const uint32_t *r, const uint32_t *fin, bool fenced)
{
	return fenced && !r[0] && !r[1];
}

static bool mp(const uint32_t *r, const uint32_t *fin, bool fenced)
{
	return r[0] && !r[1];
}

static bool lb(const uint32_t *r, const uint32_t *fin, bool fenced)
{
	return r[0] && r[1];
}

static bool iriw(const uint32_t *r, const uint32_t *fin, bool fenced)
{
	return r[0] && !r[1] && r[2] && !r[3];
}

/* x=1, y=2 | y=1, x=2: not both ones win. */
static bool two_two(const uint32_t *r, const uint32_t *fin, bool fenced)
{
	return fin[0] == 1 && fin[1] == 1;
}

/* x=2 | read x, write y | read y, read x */
static bool wrc(const uint32_t *r, const uint32_t *fin, bool fenced)
{
	return r[0] && r[1] && !r[2];
}

static const struct litmus litmus[] = {
	{ "SB", 2, { "WxRy", "WyRx" }, sb },
	{ "MP", 2, { "WxWy", "RyRx" }, mp },
	{ "LB", 2, { "RxWy", "RyWx" }, lb },
	{ "2+2W", 2, { "WxVy", "WyVx" }, two_two },
	{ "WRC", 3, { "Wx", "RxWy", "RyRx" }, wrc },
	{ "IRIW", 4, { "Wx", "Wy", "RxRy", "RyRx" }, iriw },
};

static struct {
	const struct litmus *t;
	enum how how;
	unsigned offset;
	uint8_t *mem;
	uint32_t seen[4][2][ROUNDS];
	/* Turn k begins when every thread has said k. */
	volatile unsigned at[4];
	volatile unsigned turn;
} lit;

static uint32_t *cell(char which, unsigned round)
{
	return (uint32_t *)(lit.mem + (size_t)(2 * round + (which == 'y')) * SLOT + lit.offset);
}

static inline void store(volatile uint32_t *p, uint32_t v, enum how how)
{
	switch (how) {
	case PLAIN:
		*p = v;
		break;
	case FENCED:
		*p = v;
		_mm_mfence();
		break;
	case VECTOR:
		_mm_storeu_si128((__m128i *)(uintptr_t)p, _mm_set1_epi32((int)v));
		break;
	default:
		__atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);
		break;
	}
	BARRIER();
}

static void litmus_thread(unsigned k, uint32_t *rng)
{
	const char *s = lit.t->step[k];

	for (unsigned n = 0; n < ROUNDS; n++) {
		/* Meet at times, drift apart a little between. */
		if (n % 8 == 0) {
			lit.at[k] = n + 1;
			for (unsigned spins = 0, o = 0; o < lit.t->threads; o++)
				while (lit.at[o] < n + 1)
					if (++spins % 256 == 0)
						sched_yield();
			for (unsigned w = random32(rng) % 32; w; w--)
				BARRIER();
		}
		for (unsigned i = 0; s[2 * i]; i++) {
			uint32_t *p = cell(s[2 * i + 1], n);

			if (s[2 * i] == 'R')
				lit.seen[k][i][n] = *(volatile uint32_t *)p;
			else
				store(p, s[2 * i] == 'V' ? 2 : 1, lit.how);
			BARRIER();
		}
	}
}

static void *litmus_worker(void *arg)
{
	unsigned k = (unsigned)(uintptr_t)arg;
	uint32_t rng = 77 + k;

	on_cpu(k);
	for (unsigned turn = 1;; turn++) {
		while (lit.turn < turn)
			sched_yield();
		if (over)
			return NULL;
		if (k < lit.t->threads)
			litmus_thread(k, &rng);
		lit.at[k] = ROUNDS + 1;
	}
}

/* Looks through what a turn gave; counts relaxed outcomes of SB, which show that the test bites. */
static unsigned litmus_judge(void)
{
	unsigned relaxed = 0;
	bool fenced = lit.how == FENCED || lit.how == EXCHANGE;

	for (unsigned n = 0; n < ROUNDS; n++) {
		uint32_t r[8], fin[2] = { *cell('x', n), *cell('y', n) };
		unsigned nr = 0;

		for (unsigned k = 0; k < lit.t->threads; k++)
			for (unsigned i = 0; lit.t->step[k][2 * i]; i++)
				if (lit.t->step[k][2 * i] == 'R')
					r[nr++] = lit.seen[k][i][n];
		if (lit.t->forbidden(r, fin, fenced))
			wrong("%s, stores of kind %d at offset %u, round %u", lit.t->name, lit.how,
			      lit.offset, n);
		relaxed += lit.t->forbidden == sb && !r[0] && !r[1];
	}
	return relaxed;
}

static void test_order(char *ret, size_t size)
{
	pthread_t t[4];
	unsigned turns = 0, relaxed = 0;
	double end = now() + seconds;

	lit.mem = pages(2 * (ROUNDS + 1) * SLOT, PROT_READ | PROT_WRITE);
	for (unsigned k = 0; k < 4; k++)
		t[k] = start(litmus_worker, (void *)(uintptr_t)k);
	while (now() < end && !over) {
		lit.t = &litmus[turns % (sizeof(litmus) / sizeof(litmus[0]))];
		lit.how = turns / 6 % HOWS;
		/* Within a line, but not aligned; vector stores take 16 bytes. */
		lit.offset = turns / 24 % 3 * 13;
		memset(lit.mem, 0, 2 * ROUNDS * SLOT);
		memset((void *)lit.at, 0, sizeof(lit.at));
		__atomic_store_n(&lit.turn, lit.turn + 1, __ATOMIC_SEQ_CST);
		for (unsigned k = 0; k < 4; k++)
			while (lit.at[k] != ROUNDS + 1)
				sched_yield();
		relaxed += litmus_judge();
		turns++;
	}
	over = true;
	__atomic_store_n(&lit.turn, lit.turn + 1, __ATOMIC_SEQ_CST);
	for (unsigned k = 0; k < 4; k++)
		pthread_join(t[k], NULL);
	munmap(lit.mem, 2 * (ROUNDS + 1) * SLOT);
	snprintf(ret, size, "%u rounds, %u of SB's loads came early", turns * ROUNDS, relaxed);
}

/* ---- lock ---- */

static uint8_t *lock_mem;

/* Both halves by one CMPXCHG16B; what was read of them before may be of two different times. */
static void lock_pair(volatile uint64_t *p)
{
	uint64_t lo = p[0], hi = p[1];
	bool done;

	do {
		uint64_t want_lo = lo + 1, want_hi = hi + 3;

		asm volatile("lock cmpxchg16b %0"
			     : "+m"(*(volatile __uint128_t *)p), "+a"(lo), "+d"(hi), "=@ccz"(done)
			     : "b"(want_lo), "c"(want_hi));
	} while (!done);
}

static void *lock_worker(void *arg)
{
	unsigned k = (unsigned)(uintptr_t)arg;
	uint64_t n = 0;

	on_cpu(k);
	while (!over) {
		/* Aligned, across lines, across pages; beside them a word of this thread's own. */
		__atomic_fetch_add((uint64_t *)lock_mem, 1, __ATOMIC_SEQ_CST);
		asm volatile("lock incq %0" : "+m"(*(uint64_t *)(lock_mem + 60)));
		if (n % 64 == 0)
			asm volatile("lock incq %0" : "+m"(*(uint64_t *)(lock_mem + PAGE - 4)));
		uint64_t old, *p = (uint64_t *)(lock_mem + 128 + 61);
		do {
			old = *(volatile uint64_t *)p;
		} while (!__sync_bool_compare_and_swap(p, old, old + 1));
		lock_pair((uint64_t *)(lock_mem + 1024));
		((volatile uint32_t *)(lock_mem + 512))[k]++;
		n++;
	}
	return (void *)n;
}

static void test_lock(char *ret, size_t size)
{
	pthread_t t[4];
	uint64_t n, sum = 0, across = 0, v[4];
	double end = now() + seconds;

	lock_mem = pages(2 * PAGE, PROT_READ | PROT_WRITE);
	for (unsigned k = 0; k < 4; k++)
		t[k] = start(lock_worker, (void *)(uintptr_t)k);
	while (now() < end)
		usleep(10000);
	over = true;
	for (unsigned k = 0; k < 4; k++) {
		pthread_join(t[k], (void **)&n);
		sum += n;
		across += (n + 63) / 64;
		if (((uint32_t *)(lock_mem + 512))[k] != (uint32_t)n)
			wrong("a neighbour's word: %u, not %u", ((uint32_t *)(lock_mem + 512))[k],
			      (uint32_t)n);
	}
	memcpy(&v[0], lock_mem, 8);
	memcpy(&v[1], lock_mem + 60, 8);
	memcpy(&v[2], lock_mem + 128 + 61, 8);
	memcpy(&v[3], lock_mem + PAGE - 4, 8);
	if (v[0] != sum || v[1] != sum || v[2] != sum || v[3] != across)
		wrong("sums %lu %lu %lu of %lu, %lu of %lu", v[0], v[1], v[2], sum, v[3], across);
	memcpy(v, lock_mem + 1024, 16);
	if (v[0] != sum || v[1] != 3 * sum)
		wrong("pairs: %lu and %lu / 3 of %lu", v[0], v[1], sum);
	munmap(lock_mem, 2 * PAGE);
	snprintf(ret, size, "%lu rounds", sum);
}

/* ---- futex ---- */

enum {
	RING = 6,
	/* Nobody waits this long, however busy the machine is. */
	LOST_SECONDS = 60,
};

static struct {
	/* Whose turn it is: the word of a thread is 1. */
	int turn[RING];
	uint64_t handed;
	pthread_mutex_t lock;
	volatile uint64_t a, b;
} ring;

static void ring_hand(unsigned k)
{
	__atomic_store_n(&ring.turn[k], 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &ring.turn[k], FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* A token goes round; between turns everybody wants the mutex. */
static void *ring_worker(void *arg)
{
	unsigned k = (unsigned)(uintptr_t)arg;

	on_cpu(k);
	for (;;) {
		while (!__atomic_load_n(&ring.turn[k], __ATOMIC_SEQ_CST))
			syscall(SYS_futex, &ring.turn[k], FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
		__atomic_store_n(&ring.turn[k], 0, __ATOMIC_SEQ_CST);
		if (!over)
			ring.handed++;
		ring_hand((k + 1) % RING);
		if (over)
			return NULL;
		for (unsigned n = 0; n < 1000; n++) {
			pthread_mutex_lock(&ring.lock);
			ring.a++;
			if (ring.a != ring.b + 1)
				wrong("two in one mutex: %lu, %lu", ring.a, ring.b);
			ring.b++;
			pthread_mutex_unlock(&ring.lock);
		}
	}
}

static void test_futex(char *ret, size_t size)
{
	double end = now() + seconds, moved = now();
	uint64_t last = 0;
	pthread_t t[RING];

	memset(&ring, 0, sizeof(ring));
	pthread_mutex_init(&ring.lock, NULL);
	for (unsigned k = 0; k < RING; k++)
		t[k] = start(ring_worker, (void *)(uintptr_t)k);
	ring_hand(0);
	while (now() < end || (ring.handed == last && !bad[0])) {
		usleep(10000);
		if (ring.handed != last)
			moved = now();
		last = ring.handed;
		if (now() > moved + LOST_SECONDS) {
			/* The others cannot be joined. */
			printf("BAD futex the token stopped after %lu turns\n", last);
			exit(1);
		}
	}
	over = true;
	for (unsigned k = 0; k < RING; k++)
		pthread_join(t[k], NULL);
	if (ring.a != ring.b)
		wrong("%lu in the mutex, %lu out", ring.a, ring.b);
	snprintf(ret, size, "%lu times handed on, %lu in the mutex", ring.handed, ring.a);
}

/* ---- barrier ---- */

/* Store, load; the loads and stores of the two sides are in lines of their own. */
static struct {
	_Alignas(64) volatile uint32_t x;
	_Alignas(64) volatile uint32_t y;
	_Alignas(64) volatile uint32_t go;
	_Alignas(64) volatile uint32_t done;
	volatile uint32_t saw;
} mb;

static void await(volatile uint32_t *p, uint32_t v)
{
	for (unsigned spins = 1; *p != v && !over; spins++)
		if (spins % 1024 == 0)
			sched_yield();
}

/* The quick side: no fence between store and load. */
static void *barrier_worker(void *arg)
{
	uint32_t rng = 5;

	on_cpu(1);
	for (uint32_t n = 1; !over; n++) {
		await(&mb.go, n);
		for (uint32_t w = random32(&rng) % 64; w; w--)
			BARRIER();
		mb.x = n;
		BARRIER();
		mb.saw = mb.y;
		BARRIER();
		mb.done = n;
	}
	return NULL;
}

static void test_barrier(char *ret, size_t size)
{
	double end = now() + seconds;
	uint32_t rng = 9, n = 0, early = 0;

	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) < 0)
		die("membarrier");
	memset(&mb, 0, sizeof(mb));
	pthread_t t = start(barrier_worker, NULL);
	on_cpu(0);
	while (now() < end && !over) {
		n++;
		mb.go = n;
		for (uint32_t w = random32(&rng) % 64; w; w--)
			BARRIER();
		mb.y = n;
		/* Without it both may see the old value; every fourth time shows that they do. */
		if (n % 4 && syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) < 0)
			die("membarrier");
		BARRIER();
		uint32_t saw = mb.x;
		await(&mb.done, n);
		if (saw == n || mb.saw == n)
			continue;
		if (n % 4)
			wrong("in round %u neither side saw the other's store", n);
		else
			early++;
	}
	over = true;
	pthread_join(t, NULL);
	snprintf(ret, size, "%u rounds, without it %u loads of both sides came early", n, early);
}

/* ---- protect, unmap ---- */

static _Thread_local sigjmp_buf on_fault;

static void fault(int sig, siginfo_t *i, void *ctx)
{
	siglongjmp(on_fault, 1);
}

enum {
	VICTIMS = 8,
};

static struct {
	volatile uint64_t *page;
	/* Even: open, odd: closed. */
	volatile unsigned epoch;
	uint64_t faults;
} prot;

/* Stores and loads, whatever comes of them; what begins while it is closed must fault. */
static void *prot_victim(void *arg)
{
	unsigned k = (unsigned)(uintptr_t)arg;
	volatile unsigned at;

	on_cpu(k + 1);
	while (!over) {
		if (sigsetjmp(on_fault, 1)) {
			__atomic_fetch_add(&prot.faults, 1, __ATOMIC_RELAXED);
			continue;
		}
		at = prot.epoch;
		volatile uint64_t *p = prot.page + (k % VICTIMS) * 8;
		if (k & 1)
			(void)*p;
		else
			*p = *p + 1;
		if (at & 1 && prot.epoch == at)
			wrong("%s in epoch %u", k & 1 ? "a load" : "a store", at);
	}
	return NULL;
}

static void prot_close(bool unmap)
{
	uint8_t *page = (uint8_t *)(uintptr_t)prot.page;
	uint64_t before[VICTIMS];

	if (unmap) {
		munmap(page, PAGE);
		__atomic_store_n(&prot.epoch, prot.epoch + 1, __ATOMIC_SEQ_CST);
		/* Likely the page that was just freed. */
		uint64_t *fresh = mmap(page + 16 * PAGE, PAGE, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		if (fresh == MAP_FAILED)
			die("mmap");
		for (unsigned n = 0; n < PAGE / 8; n++)
			fresh[n] = ~n;
		for (unsigned turn = 0; turn < 50; turn++)
			for (unsigned n = 0; n < PAGE / 8; n++)
				if (((volatile uint64_t *)fresh)[n] != ~n)
					wrong("a store reached somebody else's page");
		/* Nothing else may come to lie there. */
		mmap(fresh, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		return;
	}
	bool none = random() & 1;
	mprotect(page, PAGE, none ? PROT_NONE : PROT_READ);
	/* Loads go on where they may. */
	if (none)
		__atomic_store_n(&prot.epoch, prot.epoch + 1, __ATOMIC_SEQ_CST);
	else
		for (unsigned k = 0; k < VICTIMS; k++)
			before[k] = prot.page[k * 8];
	for (volatile unsigned n = 0; n < 2000; n++)
		;
	for (unsigned k = 0; !none && k < VICTIMS; k++)
		if (prot.page[k * 8] != before[k])
			wrong("a store reached a page that is read-only");
}

static void prot_open(bool unmap)
{
	void *page = (void *)(uintptr_t)prot.page;

	if (prot.epoch & 1)
		__atomic_store_n(&prot.epoch, prot.epoch + 1, __ATOMIC_SEQ_CST);
	if (!unmap)
		mprotect(page, PAGE, PROT_READ | PROT_WRITE);
	else if (mmap(page, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		      -1, 0) != page)
		die("mmap");
}

static void prot_test(bool unmap, char *ret, size_t size)
{
	const struct sigaction sa = { .sa_sigaction = fault, .sa_flags = SA_SIGINFO };
	unsigned closes = 0, victims = ncpus > 1 ? ncpus + 1 : 2;
	pthread_t t[16];
	double end = now() + seconds;

	sigaction(SIGSEGV, &sa, NULL);
	void *area = pages(32 * PAGE, PROT_READ | PROT_WRITE);
	prot.page = area;
	prot.epoch = 0;
	prot.faults = 0;
	on_cpu(0);
	for (unsigned k = 0; k < victims; k++)
		t[k] = start(prot_victim, (void *)(uintptr_t)k);
	while (now() < end && !over) {
		prot_close(unmap);
		closes++;
		prot_open(unmap);
		for (volatile unsigned n = 0; n < 500; n++)
			;
	}
	over = true;
	for (unsigned k = 0; k < victims; k++)
		pthread_join(t[k], NULL);
	signal(SIGSEGV, SIG_DFL);
	munmap(area, 32 * PAGE);
	snprintf(ret, size, "%u times, %lu faults", closes, prot.faults);
}

static void test_protect(char *ret, size_t size)
{
	prot_test(false, ret, size);
}

static void test_unmap(char *ret, size_t size)
{
	prot_test(true, ret, size);
}

/* ---- code ---- */

static struct {
	/* For running, for writing. */
	uint8_t *x, *w;
	volatile uint32_t said;
	uint64_t calls;
} code;

/* mov eax, imm32; ret; the number is aligned. */
static void put_function(uint8_t *p, uint32_t v)
{
	p[3] = 0xb8;
	memcpy(p + 4, &v, 4);
	p[8] = 0xc3;
}

static void serialize(void)
{
	unsigned a, b, c, d;

	__cpuid(0, a, b, c, d);
}

/* Calls; after CPUID what was said before must be there, and nothing ever goes back. */
static void *code_runner(void *arg)
{
	unsigned k = (unsigned)(uintptr_t)arg;
	uint32_t last = 0;
	uint64_t calls = 0;

	on_cpu(k + 1);
	while (!over) {
		uint32_t said = code.said;

		if (calls % 16 == 0)
			serialize();
		uint32_t got = ((uint32_t(*)(void))(code.x + 3))();
		if (got < last || (calls % 16 == 0 && got < said))
			wrong("code is %u after %u was said and %u was seen", got, said, last);
		if (got > code.said + 1)
			wrong("code is %u, and %u the last that was written", got, code.said);
		last = got;
		calls++;
	}
	__atomic_fetch_add(&code.calls, calls, __ATOMIC_SEQ_CST);
	return NULL;
}

static void code_write(uint32_t v)
{
	*(volatile uint32_t *)(code.w + 4) = v;
}

/* Another page takes the place, in one step. */
static void code_replace(uint32_t v)
{
	uint8_t *fresh = pages(PAGE, PROT_READ | PROT_WRITE);

	put_function(fresh, v);
	mprotect(fresh, PAGE, PROT_READ | PROT_EXEC);
	if (mremap(fresh, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, code.x) == MAP_FAILED)
		die("mremap");
}

static void code_round(bool alias, void (*write_code)(uint32_t v), double until, uint32_t *turns)
{
	pthread_t t[2];

	code.said = 0;
	if (alias) {
		int fd = memfd_create("code", 0);

		if (fd < 0 || ftruncate(fd, PAGE) < 0)
			die("memfd");
		code.x = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
		code.w = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
	} else {
		code.x = code.w = pages(PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
	}
	put_function(code.w, 0);
	over = false;
	for (unsigned k = 0; k < 2; k++)
		t[k] = start(code_runner, (void *)(uintptr_t)k);
	uint32_t v = 0;
	while (now() < until && !over) {
		write_code(++v);
		__atomic_store_n(&code.said, v, __ATOMIC_SEQ_CST);
		for (volatile unsigned n = 0; n < v % 64 * 20; n++)
			;
	}
	over = true;
	for (unsigned k = 0; k < 2; k++)
		pthread_join(t[k], NULL);
	*turns += v;
	munmap(code.x, PAGE);
	if (alias)
		munmap(code.w, PAGE);
}

static void test_code(char *ret, size_t size)
{
	double at = now();
	uint32_t turns = 0, replaced = 0;

	code.calls = 0;
	code_round(false, code_write, at + seconds / 3, &turns);
	if (!bad[0])
		code_round(true, code_write, at + seconds * 2 / 3, &turns);
	if (!bad[0])
		code_round(false, code_replace, at + seconds, &replaced);
	snprintf(ret, size, "%u times written, %u replaced, %lu calls", turns, replaced,
		 code.calls);
}

/* ---- filter ---- */

static int filter_socket[2];
/* Of the filter that is in force for certain. */
static volatile uint32_t filter_number;

/* Datagrams with a number; a filter lets those of one kind through. */
static void *filter_sender(void *arg)
{
	uint32_t n[2] = { 0 };

	on_cpu(1);
	while (!over) {
		n[0]++;
		n[1] = filter_number;
		(void)!send(filter_socket[0], n, sizeof(n), MSG_DONTWAIT);
	}
	return NULL;
}

static void filter_attach(int fd, uint32_t mask, uint32_t want)
{
	/* ldb [0]; and mask; jeq want; ret all; ret 0: the number's low byte. */
	struct sock_filter f[] = {
		{ 0x30, 0, 0, 0 },      { 0x54, 0, 0, mask }, { 0x15, 0, 1, want },
		{ 0x06, 0, 0, 0xffff }, { 0x06, 0, 0, 0 },
	};
	const struct sock_fprog p = { .len = 5, .filter = f };

	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof(p)) < 0)
		die("SO_ATTACH_FILTER");
}

static void test_filter(char *ret, size_t size)
{
	double end = now() + seconds;
	unsigned filters = 0;
	uint64_t came = 0;
	uint32_t n[2];

	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, filter_socket) < 0)
		die("socketpair");
	pthread_t t = start(filter_sender, NULL);
	on_cpu(0);
	while (now() < end && !over) {
		uint32_t mask = (uint32_t)random() & 0x3f, want = (uint32_t)random() & mask;

		filter_attach(filter_socket[1], mask, want);
		filter_number = ++filters;
		for (unsigned k = 0; k < 100 && !over; k++) {
			if (recv(filter_socket[1], n, sizeof(n), MSG_DONTWAIT) < 0) {
				sched_yield();
				continue;
			}
			came++;
			/* Sent when the filter was there. */
			if (n[1] == filters && (n[0] & mask) != want)
				wrong("%u came through a filter for %u of %u", n[0], want, mask);
		}
	}
	over = true;
	pthread_join(t, NULL);
	close(filter_socket[0]);
	close(filter_socket[1]);
	snprintf(ret, size, "%u filters, %lu datagrams", filters, came);
}

static const struct test {
	const char *name;
	void (*fn)(char *ret, size_t size);
} tests[] = {
	{ "order", test_order },     { "lock", test_lock },       { "futex", test_futex },
	{ "barrier", test_barrier }, { "protect", test_protect }, { "unmap", test_unmap },
	{ "code", test_code },       { "filter", test_filter },
};

static int run(const char *name)
{
	char text[128] = "";

	for (unsigned n = 0; n < sizeof(tests) / sizeof(tests[0]); n++) {
		if (strcmp(name, tests[n].name))
			continue;
		over = false;
		memset(bad, 0, sizeof(bad));
		tests[n].fn(text, sizeof(text));
		printf(bad[0] ? "BAD %s %s\n" : "ok %s %s\n", name, bad[0] ? bad : text);
		return bad[0] != 0;
	}
	printf("smp: no test %s\n", name);
	return 2;
}

int main(int argc, char **argv)
{
	int rc = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	ncpus = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
	seconds = argc > 1 ? atof(argv[1]) : 1;
	for (int n = 2; n < argc; n++)
		rc |= run(argv[n]);
	printf("smp done %d\n", rc);
	return rc;
}
