/*
 * What does the CPU under us make of these bytes?
 *
 * The bytes are put at the end of a page that nothing follows, and run with the trap flag set.  A
 * page fault at the page's end says that the CPU wants more bytes; SIGILL that it refuses them;
 * anything else (a trap after it, a fault in it) that it took them for an instruction.  All
 * registers are 0, so that hardly any memory operand hits something.
 *
 * A probe is two signals: the first, raised on purpose, starts it in its handler by changing the
 * context to return to; the second is the answer.  32-bit code is a matter of CS.
 *
 * In a forked child only: what runs may damage the process.
 */
#pragma once

#include "base/compiler.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

enum probe {
	/* The CPU wants bytes beyond the page's end. */
	PROBE_MORE,
	/* #UD */
	PROBE_UD,
	/* It was executed, or raised something else. */
	PROBE_TAKEN,
};

enum {
	PROBE_AT = 0x10000000,
	PROBE_BYTES = 4096,
	/* Linux' selectors of 32- and 64-bit user code. */
	PROBE_CS32 = 0x23,
	PROBE_CS64 = 0x33,
};

static struct {
	bool running;
	uint64_t at;
	uint16_t cs;
	gregset_t saved;
	int sig;
	uint64_t addr, rip;
} probe_now;
static uint8_t probe_stack[65536] __attribute__((aligned(16)));

static void probe_signal(int sig, siginfo_t *si, void *ctx)
{
	greg_t *g = ((ucontext_t *)ctx)->uc_mcontext.gregs;
	greg_t sel = g[REG_CSGSFS];

	if (!probe_now.running) {
		memcpy(probe_now.saved, g, sizeof(gregset_t));
		for (int k = REG_R8; k <= REG_RSP; k++)
			g[k] = 0;
		g[REG_RIP] = (greg_t)probe_now.at;
		g[REG_EFL] = 0x302;
		g[REG_CSGSFS] = (sel & ~(greg_t)0xffff) | probe_now.cs;
		probe_now.running = true;
		return;
	}
	probe_now.sig = sig;
	probe_now.addr = (uint64_t)(uintptr_t)si->si_addr;
	probe_now.rip = (uint64_t)g[REG_RIP];
	memcpy(g, probe_now.saved, sizeof(gregset_t));
	probe_now.running = false;
}

static inline void probe_init(void)
{
	static const int sigs[] = { SIGILL, SIGSEGV, SIGBUS, SIGTRAP, SIGFPE, SIGSYS };
	stack_t st = { .ss_sp = probe_stack, .ss_size = sizeof(probe_stack) };
	struct sigaction sa = { .sa_sigaction = probe_signal,
				.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };

	sigaltstack(&st, NULL);
	for (unsigned k = 0; k < COUNT_OF(sigs); k++)
		sigaction(sigs[k], &sa, NULL);
	mmap((void *)(uintptr_t)PROBE_AT, PROBE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static inline enum probe probe(const uint8_t *bytes, unsigned n, uint16_t cs)
{
	static const uint32_t mxcsr = 0x1f80;

	probe_now.at = PROBE_AT + PROBE_BYTES - n;
	probe_now.cs = cs;
	memcpy((void *)(uintptr_t)probe_now.at, bytes, n);
	asm volatile("int3\n\tfninit\n\tldmxcsr %0\n\tcld" : : "m"(mxcsr) : "memory", "cc");
	if (probe_now.sig == SIGILL)
		return PROBE_UD;
	if (probe_now.sig == SIGSEGV && probe_now.addr == PROBE_AT + PROBE_BYTES &&
	    probe_now.rip == probe_now.at)
		return PROBE_MORE;
	return PROBE_TAKEN;
}
