/*
 * engine ENGINE...: the contract of accel/accel.h itself, with a guest that only counts: kicks
 * before, during and after a run, halted and not; state in and out; what a failing vCPU says.
 */
#include "guest/tiny.h"

#include "base/clock.h"
#include "base/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	SPIN_COUNT = 0x9000,
	SPIN_HOW = 0x9004,
	SPIN_LOOP = 0,
	SPIN_HALT = 1,
	SPIN_VECTOR = 2,
	KICKS = 3000,
};

struct run {
	struct tiny b;
	struct thread t, kicker;
	enum accel_exit why;
	struct err e;
	unsigned returns;
	bool stop;
};

static unsigned failures;

static void expect(bool ok, const char *engine, const char *what)
{
	printf("%s %s: %s\n", ok ? "ok" : "FAIL", engine, what);
	failures += !ok;
}

static void how(struct run *r, uint32_t v)
{
	if (gmem_write(&r->b.gmem, SPIN_HOW, &v, sizeof(v)) < 0)
		abort();
}

static uint32_t counted(struct run *r)
{
	uint32_t v = 0;

	if (gmem_read(&r->b.gmem, SPIN_COUNT, &v, sizeof(v)) < 0)
		abort();
	return v;
}

/* Flat 32-bit code at 0x8000. */
static const uint8_t spin[] = {
	0xfa,                                  /* cli */
	0xff, 0x05, 0x00, 0x90, 0x00, 0x00,    /* 1: incl 0x9000 */
	0x83, 0x3d, 0x04, 0x90, 0x00, 0x00, 1, /* cmpl $1, 0x9004 */
	0x74, 0x0b,                            /* je 2f */
	0x83, 0x3d, 0x04, 0x90, 0x00, 0x00, 2, /* cmpl $2, 0x9004 */
	0x74, 0x05,                            /* je 3f */
	0xeb, 0xe6,                            /* jmp 1b */
	0xf4,                                  /* 2: hlt */
	0xeb, 0xfd,                            /* jmp 2b */
	0x66, 0x0f, 0xef, 0xc0,                /* 3: pxor %xmm0, %xmm0 */
	0xeb, 0xfa,                            /* jmp 3b */
};

static int start(struct run *r, const struct accel *a, const char *opts, struct err *e)
{
	struct accel_opts o = { .ncpus = 1, .cpu_model = "host", .engine_opts = opts };
	struct cpu_state *s = calloc(1, sizeof(*s));
	int rc = s ? tiny_init(&r->b, 16 << 20, 1, e) : -1;

	o.gmem = &r->b.gmem;
	o.mmio = &r->b.mmio;
	o.pio = &r->b.pio;
	if (rc == 0)
		rc = accel_vm_new(a, &o, &r->b.vm, e);
	if (rc == 0)
		rc = accel_vcpu_new(r->b.vm, 0, &r->b.vcpu[0], e);
	if (rc == 0)
		rc = gmem_write(&r->b.gmem, 0x8000, spin, sizeof(spin));
	if (rc == 0) {
		cpu_state_reset(s, true, 0);
		for (unsigned i = 0; i < 6; i++)
			s->seg[i] = (struct cpu_seg){ .limit = 0xffffffff,
						      .sel = 0x10,
						      .attr = SEG_G | SEG_DB | SEG_P | SEG_S | 3 };
		s->seg[X86_CS].attr |= 0xb;
		s->seg[X86_CS].sel = 8;
		s->cr0 |= X86_CR0_PE;
		s->cr4 |= X86_CR4_OSFXSR;
		s->cr0 &= ~(X86_CR0_EM | X86_CR0_TS);
		s->rip = 0x8000;
		rc = accel_set(r->b.vcpu[0], s, e);
	}
	free(s);
	return rc;
}

static void finish(struct run *r)
{
	accel_vcpu_free(r->b.vcpu[0]);
	accel_vm_free(r->b.vm);
	tiny_fini(&r->b);
}

static void run_main(void *arg)
{
	struct run *r = arg;

	while (!__atomic_load_n(&r->stop, __ATOMIC_ACQUIRE)) {
		r->why = accel_run(r->b.vcpu[0], &r->e);
		__atomic_fetch_add(&r->returns, 1, __ATOMIC_ACQ_REL);
		if (r->why != ACCEL_EXIT_KICK)
			return;
	}
}

/* Waits until `returns` passed n; false after ten seconds. */
static bool returned(struct run *r, unsigned n)
{
	uint64_t end = clock_ns() + 10 * NS_PER_SEC;

	while (__atomic_load_n(&r->returns, __ATOMIC_ACQUIRE) <= n)
		if (clock_ns() > end)
			return false;
	return true;
}

/* Each kick ends a run, wherever the vCPU is just then. */
static void test_kicks(struct run *r, const char *name, uint32_t what, const char *text)
{
	struct err e = { 0 };
	bool ok = true;

	how(r, what);
	r->returns = 0;
	r->stop = false;
	if (thread_start(&r->t, "vcpu", run_main, r, &e) < 0)
		abort();
	for (unsigned i = 0; ok && i < KICKS; i++) {
		accel_kick(r->b.vcpu[0]);
		ok = returned(r, i);
	}
	expect(ok, name, text);
	__atomic_store_n(&r->stop, true, __ATOMIC_RELEASE);
	accel_kick(r->b.vcpu[0]);
	thread_join(&r->t);
	/* The last kick may have found the thread on its way out: it waits for the next run. */
}

static void test_before(struct run *r, const char *name)
{
	struct err e = { 0 };

	how(r, SPIN_LOOP);
	accel_kick(r->b.vcpu[0]);
	expect(accel_run(r->b.vcpu[0], &e) == ACCEL_EXIT_KICK, name, "a kick before the run");
	accel_kick(r->b.vcpu[0]);
	accel_kick(r->b.vcpu[0]);
	expect(accel_run(r->b.vcpu[0], &e) == ACCEL_EXIT_KICK, name, "two kicks are one");
}

static void test_counts(struct run *r, const char *name)
{
	struct err e = { 0 };
	uint32_t before = counted(r);

	how(r, SPIN_LOOP);
	r->returns = 0;
	r->stop = false;
	if (thread_start(&r->t, "vcpu", run_main, r, &e) < 0)
		abort();
	uint64_t end = clock_ns() + 10 * NS_PER_SEC;
	while (counted(r) == before && clock_ns() < end)
		;
	expect(counted(r) != before, name, "the guest runs");
	__atomic_store_n(&r->stop, true, __ATOMIC_RELEASE);
	accel_kick(r->b.vcpu[0]);
	thread_join(&r->t);
	uint32_t at_stop = counted(r);
	expect(counted(r) == at_stop, name, "and stands still outside accel_run()");
}

/* What differs between two states, but for time that goes on. */
static bool same(const struct cpu_state *a, const struct cpu_state *b)
{
	return !memcmp(a->gpr, b->gpr, sizeof(a->gpr)) && a->rip == b->rip &&
	       a->rflags == b->rflags && !memcmp(a->seg, b->seg, sizeof(a->seg)) &&
	       !memcmp(&a->tr, &b->tr, sizeof(a->tr)) && a->cr0 == b->cr0 && a->cr4 == b->cr4 &&
	       a->efer == b->efer && a->xcr0 == b->xcr0 && a->xsave_len == b->xsave_len &&
	       !memcmp(a->xsave, b->xsave, a->xsave_len) && a->nmsr == b->nmsr &&
	       !memcmp(a->lapic, b->lapic, sizeof(a->lapic)) && a->mp == b->mp &&
	       !memcmp(&a->ev, &b->ev, sizeof(a->ev)) && a->dr7 == b->dr7 &&
	       !memcmp(a->dr, b->dr, sizeof(a->dr));
}

static void test_state(struct run *r, const char *name)
{
	struct cpu_state *a = calloc(1, sizeof(*a)), *b = calloc(1, sizeof(*b));
	struct err e = { 0 };

	if (!a || !b)
		abort();
	int rc = accel_get(r->b.vcpu[0], a, &e);
	for (unsigned i = 0; rc == 0 && i < 16; i++)
		a->gpr[i] ^= 0x1111111111111111ull * i;
	a->seg[X86_ES].base = 0x12345000;
	a->seg[X86_ES].limit = 0xfff;
	a->seg[X86_ES].attr &= ~(uint32_t)SEG_G;
	cpu_state_set_msr(a, X86_MSR_STAR, 0x0023001000000000);
	a->ev.shadow = X86_SHADOW_STI;
	a->dr[1] = 0x1234;
	/* Logical destination register; XMM0 and its bit of XSTATE_BV. */
	a->lapic[0xd3] = 2;
	memset(a->xsave + 160, 0x5c, 16);
	a->xsave[512] |= 3;
	if (rc == 0)
		rc = accel_set(r->b.vcpu[0], a, &e);
	if (rc == 0)
		rc = accel_get(r->b.vcpu[0], b, &e);
	uint64_t star = 0;
	expect(rc == 0 && same(a, b), name, rc < 0 ? e.msg : "state comes out as it went in");
	expect(cpu_state_msr(b, X86_MSR_STAR, &star) && star == 0x0023001000000000, name, "an MSR");
	free(a);
	free(b);
}

static void test_engine(const char *name)
{
	const struct accel *a;
	struct err e = { 0 };
	struct run r = { 0 };
	char why[256], stats[1024];

	if (accel_choose(name, &a, why, &e) < 0) {
		printf("# skip: engine %s: %s\n", name, e.msg);
		return;
	}
	if (start(&r, a, NULL, &e) < 0) {
		expect(false, name, e.msg);
		return;
	}
	test_before(&r, name);
	test_counts(&r, name);
	test_kicks(&r, name, SPIN_LOOP, "kicks while it runs");
	test_state(&r, name);
	test_kicks(&r, name, SPIN_HALT, "kicks while it is halted");
	accel_stats(r.b.vm, stats, sizeof(stats));
	expect(strchr(stats, '=') != NULL, name, "counters");
	accel_stats(r.b.vm, stats, 1);
	expect(stats[0] == 0, name, "counters in no room");
	finish(&r);
}

/* kvm without its assist: on a host that emulates ring 0 the vector instruction ends the vCPU. */
static void test_failure(void)
{
	const struct accel *a;
	struct err e = { 0 };
	struct run r = { 0 };
	char why[256];

	if (accel_choose("kvm", &a, why, &e) < 0 || start(&r, a, "assist=off", &e) < 0) {
		printf("# skip: kvm without assist: %s\n", e.msg);
		return;
	}
	how(&r, SPIN_VECTOR);
	if (thread_start(&r.t, "vcpu", run_main, &r, &e) < 0)
		abort();
	uint64_t end = clock_ns() + NS_PER_SEC / 2;
	while (!__atomic_load_n(&r.returns, __ATOMIC_ACQUIRE) && clock_ns() < end)
		;
	__atomic_store_n(&r.stop, true, __ATOMIC_RELEASE);
	accel_kick(r.b.vcpu[0]);
	thread_join(&r.t);
	if (r.why == ACCEL_EXIT_KICK) {
		printf("# skip: kvm without assist: this host's KVM does the instruction\n");
	} else {
		expect(r.why == ACCEL_EXIT_FAIL, "kvm", "a refused instruction ends the vCPU");
		expect(strstr(r.e.msg, "66 0f ef c0") && strstr(r.e.msg, "0x801e"), "kvm",
		       "with registers and code bytes");
	}
	finish(&r);
}

static void test_bad_options(void)
{
	static const char *const bad[] = { "dirty-ring=0", "dirty-ring=1000", "dirty-ring=x",
					   "no=1", "assist=maybe" };
	const struct accel *a;
	struct err e = { 0 };
	char why[256];

	if (accel_choose("kvm", &a, why, &e) < 0)
		return;
	for (unsigned i = 0; i < COUNT_OF(bad); i++) {
		struct run r = { 0 };

		expect(start(&r, a, bad[i], &e) < 0 && strstr(e.msg, "option"), "kvm", bad[i]);
		finish(&r);
	}
	expect(accel_choose("nonesuch", &a, why, &e) == -ENOENT && strstr(e.msg, "auto"), "accel",
	       "an unknown engine");
	expect(accel_choose("auto", &a, why, &e) == 0 && strstr(why, a->name), "accel",
	       "auto says what and why");
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 1; i < argc; i++)
		test_engine(argv[i]);
	test_failure();
	test_bad_options();
	return failures != 0;
}
