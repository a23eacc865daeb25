/*
 * A small machine with the soft engine: RAM at 0, a port that ends a run, one that collects bytes,
 * and a vCPU to set up by hand.  One machine at a time.
 */
#pragma once

#include "accel/accel.h"
#include "accel/soft/soft.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/thread.h"
#include "lib/t.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum {
	RIG_RAM = 16 << 20,
	/* OUT to it ends soft_rig_run(). */
	RIG_EXIT_PORT = 0xf4,
	/* OUT to it appends a byte to soft_rig.text. */
	RIG_TEXT_PORT = 0xe9,
	/* 4 KiB of device memory that remembers the last write; reads give its value + 1. */
	RIG_MMIO = 0xd0000000u,
};

static struct soft_rig {
	struct gmem mem;
	struct bus mmio, pio;
	struct accel_vm *vm;
	struct accel_vcpu *cpu[4];
	struct bus_range exit_port, text_port, dev;
	uint64_t dev_value;
	unsigned dev_writes;
	char text[256];
	unsigned ntext;
	uint32_t exit_value;
	bool exited;
	uint8_t *ram;
} rig;

/* Options of the engine for the next soft_rig_init(); NULL: what RIG_ENGINE in the environment
 * says, or that loops of tests are translated soon. */
static const char *rig_engine_opts;

static inline const char *rig_engine(unsigned ncpus)
{
	const char *env = getenv("RIG_ENGINE");

	if (rig_engine_opts)
		return rig_engine_opts;
	/* Lockstep is for one CPU. */
	return env && !(ncpus > 1 && strstr(env, "lockstep")) ? env : "hot=2";
}

/* cmocka puts its own handlers before each test, also of signals that the engine wants. */
static const int rig_signals[] = { SIGFPE, SIGILL, SIGSEGV };
static struct sigaction rig_actions[3];

static inline void rig_signals_keep(void)
{
	for (unsigned n = 0; n < 3; n++)
		(void)sigaction(rig_signals[n], NULL, &rig_actions[n]);
}

static inline void rig_signals_again(void)
{
	for (unsigned n = 0; n < 3; n++)
		(void)sigaction(rig_signals[n], &rig_actions[n], NULL);
}

static inline uint64_t rig_read_none(struct bus_range *r, uint64_t off, unsigned size)
{
	return ~0ull;
}

static inline void rig_exit(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	rig.exit_value = (uint32_t)v;
	rig.exited = true;
	for (unsigned n = 0; n < 4; n++)
		if (rig.cpu[n])
			accel_kick(rig.cpu[n]);
}

static inline void rig_text(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	if (rig.ntext < sizeof(rig.text) - 1)
		rig.text[rig.ntext++] = (char)v;
}

static inline uint64_t rig_dev_read(struct bus_range *r, uint64_t off, unsigned size)
{
	return rig.dev_value + 1;
}

static inline void rig_dev_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	rig.dev_value = v;
	rig.dev_writes++;
}

static const struct bus_ops rig_exit_ops = { rig_read_none, rig_exit, 4 };
static const struct bus_ops rig_text_ops = { rig_read_none, rig_text, 4 };
static const struct bus_ops rig_dev_ops = { rig_dev_read, rig_dev_write, 8 };

static inline void soft_rig_init(unsigned ncpus)
{
	struct err e = { 0 };

	memset(&rig, 0, sizeof(rig));
	gmem_init(&rig.mem);
	bus_init(&rig.mmio, BUS_MMIO);
	bus_init(&rig.pio, BUS_PIO);
	assert_true(gmem_add(&rig.mem, "ram", 0, RIG_RAM, -1, 0, false, &e) >= 0);
	rig.ram = gmem_at(&rig.mem, 0, RIG_RAM);
	rig.exit_port = (struct bus_range){ .ops = &rig_exit_ops, .name = "exit" };
	rig.text_port = (struct bus_range){ .ops = &rig_text_ops, .name = "text" };
	rig.dev = (struct bus_range){ .ops = &rig_dev_ops, .name = "dev" };
	assert_int_equal(bus_add(&rig.pio, &rig.exit_port, RIG_EXIT_PORT, 4), 0);
	assert_int_equal(bus_add(&rig.pio, &rig.text_port, RIG_TEXT_PORT, 1), 0);
	assert_int_equal(bus_add(&rig.mmio, &rig.dev, RIG_MMIO, 4096), 0);

	const struct accel_opts o = {
		.ncpus = ncpus,
		.gmem = &rig.mem,
		.mmio = &rig.mmio,
		.pio = &rig.pio,
		.engine_opts = rig_engine(ncpus),
	};
	if (accel_vm_new(&accel_soft, &o, &rig.vm, &e) < 0)
		fail_msg("%s", e.msg);
	for (unsigned n = 0; n < ncpus; n++)
		if (accel_vcpu_new(rig.vm, n, &rig.cpu[n], &e) < 0)
			fail_msg("%s", e.msg);
	rig_signals_keep();
}

static inline void soft_rig_fini(void)
{
	for (unsigned n = 0; n < 4; n++)
		accel_vcpu_free(rig.cpu[n]);
	accel_vm_free(rig.vm);
	bus_fini(&rig.mmio);
	bus_fini(&rig.pio);
	gmem_fini(&rig.mem);
}

/* A run that takes more than some seconds is a hang: its vCPU is kicked out. */
struct rig_watchdog {
	struct thread t;
	struct lock lock;
	struct cond cond;
	bool done, fired;
};

static inline void rig_watchdog_fn(void *arg)
{
	struct rig_watchdog *w = arg;
	uint64_t end = clock_ns() + 20 * NS_PER_SEC;

	lock(&w->lock);
	while (!w->done && cond_wait_until(&w->cond, &w->lock, end))
		;
	if (!w->done) {
		w->fired = true;
		for (unsigned n = 0; n < 4; n++)
			if (rig.cpu[n])
				accel_kick(rig.cpu[n]);
	}
	unlock(&w->lock);
}

/* Thread function: kicks vCPU 0 after a while. */
static inline void rig_kick_soon(void *arg)
{
	uint64_t end = clock_ns() + 50 * NS_PER_MS;

	while (clock_ns() < end)
		;
	accel_kick(rig.cpu[0]);
}

/* Runs vCPU n until the exit port or a triple fault. */
static inline enum accel_exit soft_rig_run_cpu(unsigned n)
{
	struct err e = { 0 };
	enum accel_exit why;

	rig_signals_again();
	do {
		why = accel_run(rig.cpu[n], &e);
	} while (why == ACCEL_EXIT_KICK && !rig.exited);
	return why;
}

static inline enum accel_exit soft_rig_run(void)
{
	struct rig_watchdog w = { .done = false };
	struct err e = { 0 };
	enum accel_exit why = ACCEL_EXIT_KICK;

	rig_signals_again();
	lock_init(&w.lock);
	cond_init(&w.cond);
	rig.exited = false;
	assert_int_equal(thread_start(&w.t, "watchdog", rig_watchdog_fn, &w, &e), 0);
	while (why == ACCEL_EXIT_KICK && !rig.exited && !w.fired)
		why = accel_run(rig.cpu[0], &e);
	lock(&w.lock);
	w.done = true;
	cond_wake_all(&w.cond);
	unlock(&w.lock);
	thread_join(&w.t);
	cond_fini(&w.cond);
	lock_fini(&w.lock);
	if (w.fired)
		fail_msg("the guest did not end");
	return why;
}

static inline struct cpu_state *soft_rig_get(unsigned n)
{
	static struct cpu_state s;
	struct err e = { 0 };

	assert_int_equal(accel_get(rig.cpu[n], &s, &e), 0);
	return &s;
}

static inline void soft_rig_set(unsigned n, const struct cpu_state *s)
{
	struct err e = { 0 };

	assert_int_equal(accel_set(rig.cpu[n], s, &e), 0);
}

/* A segment, flat unless told otherwise. */
static inline struct cpu_seg rig_seg(uint16_t sel, uint32_t attr)
{
	return (struct cpu_seg){ .sel = sel, .limit = 0xffffffff, .attr = attr };
}

/* Real mode at 0:ip. */
static inline void soft_rig_real(uint64_t ip)
{
	struct cpu_state *s = soft_rig_get(0);

	cpu_state_reset(s, true, 0);
	s->seg[X86_CS].sel = 0;
	s->seg[X86_CS].base = 0;
	s->rip = ip;
	s->gpr[X86_RSP] = 0x7000;
	soft_rig_set(0, s);
}

/* Flat 32-bit protected mode without paging. */
static inline void soft_rig_prot(uint64_t ip)
{
	struct cpu_state *s = soft_rig_get(0);

	for (unsigned n = 0; n < 6; n++)
		s->seg[n] = rig_seg(n == X86_CS ? 8 : 16, n == X86_CS ? 0xc09b : 0xc093);
	s->cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE;
	s->rip = ip;
	s->gpr[X86_RSP] = 0x7000;
	soft_rig_set(0, s);
}

enum {
	RIG_PML4 = 0x100000,
};

/* Identity map of the first GiB in 2 MiB pages, RIG_MMIO's 2 MiB too; user pages. */
static inline void rig_long_tables(void)
{
	uint64_t *pml4 = (uint64_t *)(void *)(rig.ram + RIG_PML4), *pdpt = pml4 + 512;
	uint64_t *pd = pml4 + 1024, *pd3 = pml4 + 1536;

	pml4[0] = (RIG_PML4 + 0x1000) | 7;
	pdpt[0] = (RIG_PML4 + 0x2000) | 7;
	pdpt[3] = (RIG_PML4 + 0x3000) | 7;
	for (unsigned n = 0; n < 512; n++)
		pd[n] = (uint64_t)n << 21 | 0x87;
	pd3[(RIG_MMIO >> 21) & 511] = (RIG_MMIO & ~0x1fffffull) | 0x87;
}

static inline void soft_rig_long(uint64_t ip)
{
	struct cpu_state *s = soft_rig_get(0);

	rig_long_tables();
	for (unsigned n = 0; n < 6; n++)
		s->seg[n] = rig_seg(n == X86_CS ? 8 : 16, n == X86_CS ? 0xa09b : 0xc093);
	s->cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE | X86_CR0_PG | X86_CR0_WP;
	s->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
	s->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_SCE;
	s->cr3 = RIG_PML4;
	s->rip = ip;
	s->gpr[X86_RSP] = 0x7000;
	soft_rig_set(0, s);
}

/*
 * CODE(name, "16", "instructions"): machine code assembled with the test; name_len bytes at name.
 * Jumps inside it are relative, so it can be copied anywhere; RIG_END leaves.
 */
#define CODE(name, bits, text)                                        \
	extern const uint8_t name[], name##_end[];                    \
	asm(".pushsection .rodata\n.globl " #name ", " #name "_end\n" \
	    ".code" bits "\n" #name ":\n" text "\n" #name "_end:\n"   \
	    ".code64\n.popsection\n")
#define CODE_LEN(name) ((size_t)(name##_end - (name)))
#define RIG_END "mov $0x55, %al\nout %al, $0xf4\nhlt\n"

static inline void rig_put(uint64_t gpa, const void *p, size_t len)
{
	assert_int_equal(gmem_write(&rig.mem, gpa, p, len), 0);
}
#define RIG_CODE(gpa, name) rig_put((gpa), (name), CODE_LEN(name))
