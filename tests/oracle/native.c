/*
 * A case on the host's own CPU.  Runs in a forked process whose memory at ORC_AREA and ORC_DATA is
 * as the cases expect; a wild store can hurt nobody but the child, whose death the parent reports.
 *
 * orc_enter() (native_stub.S) loads the whole register state, RSP too, from a struct at a fixed
 * address (absolute 32-bit addressing needs no register), and jumps to the code.  The code ends in
 * a jump to the other half, which stores the state.  16-bit code has a code segment with base 0, so
 * that it lies where the other code does, and a data and stack segment of 64 KiB around the data
 * pages; both are in the process's LDT.  Exceptions come as signals; their handler
 * takes the state out of the signal frame.  A branch ends in the INT3s around the code: no
 * exception, RIP is what counts.
 */
#include "oracle.h"

#include <asm/ldt.h>
#include <asm/prctl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/* At ORC_NATIVE; native_stub.S has the offsets too. */
struct native {
	uint64_t gpr[16];    /* 0x000 */
	uint64_t out[16];    /* 0x080 */
	uint64_t rflags;     /* 0x100 */
	uint64_t out_rflags; /* 0x108 */
	uint64_t entry;      /* 0x110 */
	uint64_t exit;       /* 0x118 */
	uint64_t host_rsp;   /* 0x120 */
	/* Far pointer to the 32-bit half of the way in; addresses of the ways out. */
	uint32_t far_off, far_sel;                    /* 0x128 */
	uint64_t exit32;                              /* 0x130 */
	uint64_t exit64;                              /* 0x138 */
	uint8_t ymm[16][32];                          /* 0x140 */
	uint8_t out_ymm[16][32];                      /* 0x340 */
	uint8_t fx[512] __attribute__((aligned(64))); /* 0x540 */
	uint8_t out_fx[512];                          /* 0x740 */
	/* Far pointer to 64-bit code: the way out of 16-bit code, whose segments reach nothing. */
	uint32_t far16_off, far16_sel; /* 0x940 */
};
static_assert(offsetof(struct native, out_fx) == 0x740, "native_stub.S");

void orc_enter(void);
void orc_enter32(void);
extern char orc_exit[], orc_exit_fault[], orc_in32[], orc_out32[], orc_end32[], orc_out64[];
extern char orc_in16[];

static struct native *const nat = (struct native *)ORC_NATIVE;
static struct orc_state *nat_out;

static unsigned nat_bits;

/* Of a 16-bit or 32-bit case, as the signal frame has it or as it was stored. */
static void native_halves(struct orc_state *s)
{
	/* The kernel may lose the rest where the stack segment has 16 bits. */
	if (nat_bits == 16)
		s->gpr[X86_RSP] = (uint16_t)s->gpr[X86_RSP];
	for (unsigned k = 0; k < 8; k++)
		s->gpr[k] = (uint32_t)s->gpr[k];
	for (unsigned k = 8; k < 16; k++)
		s->gpr[k] = 0;
	s->rflags = (uint32_t)s->rflags;
}

static void native_signal(int sig, siginfo_t *info, void *ctx)
{
	static const int reg[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
				     REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
				     REG_R12, REG_R13, REG_R14, REG_R15 };
	mcontext_t *m = &((ucontext_t *)ctx)->uc_mcontext;
	const uint8_t *fp = (const uint8_t *)m->fpregs;
	struct orc_state *s = nat_out;
	uint64_t bv;

	(void)info;
	if (!s) {
		signal(sig, SIG_DFL);
		return;
	}
	for (unsigned k = 0; k < 16; k++)
		s->gpr[k] = (uint64_t)m->gregs[reg[k]];
	s->rip = (uint64_t)m->gregs[REG_RIP];
	s->rflags = (uint64_t)m->gregs[REG_EFL];
	s->vector = (int32_t)m->gregs[REG_TRAPNO];
	s->err = (uint32_t)m->gregs[REG_ERR];
	s->cr2 = s->vector == X86_EXC_PF ? (uint64_t)m->gregs[REG_CR2] : 0;
	memcpy(s->fx, fp, sizeof(s->fx));
	memcpy(&s->mxcsr, fp + 24, 4);
	memcpy(&bv, fp + 512, 8);
	for (unsigned k = 0; k < 16; k++) {
		memcpy(s->ymm[k], fp + 160 + 16 * k, 16);
		if (bv & X86_XCR0_AVX)
			memcpy(s->ymm[k] + 16, fp + 576 + 16 * k, 16);
		else
			memset(s->ymm[k] + 16, 0, 16);
	}
	if (nat_bits != 64)
		native_halves(s);
	if (sig == SIGTRAP) {
		s->vector = -1;
		s->err = 0;
		s->rip--;
	}
	/* The code went where nothing is mapped: the jump itself was all right. */
	if (s->vector == X86_EXC_PF && s->rip == s->cr2) {
		s->vector = -1;
		s->err = 0;
		s->cr2 = 0;
	}
	m->gregs[REG_RIP] = (greg_t)(uintptr_t)orc_exit_fault;
	m->gregs[REG_RSP] = (greg_t)nat->host_rsp;
	/* CS of 64-bit code, SS of any. */
	m->gregs[REG_CSGSFS] = (m->gregs[REG_CSGSFS] & 0xffffffff0000) | 0x33 | 0x2bll << 48;
	m->gregs[REG_EFL] = 0x202;
}

bool orc_native_ldt(void)
{
	const struct user_desc code = {
		.entry_number = 0,
		.limit = 0xfffff,
		.contents = MODIFY_LDT_CONTENTS_CODE,
		.limit_in_pages = 1,
		.useable = 1,
	};
	const struct user_desc stack = {
		.entry_number = 1,
		.base_addr = ORC_BASE16,
		.limit = 0xffff,
		.contents = MODIFY_LDT_CONTENTS_DATA,
		.useable = 1,
	};

	return !syscall(SYS_modify_ldt, 1, &code, sizeof(code)) &&
	       !syscall(SYS_modify_ldt, 1, &stack, sizeof(stack));
}

static void *map_fixed(uint64_t at, size_t len, int prot)
{
	void *p = mmap((void *)(uintptr_t)at, len, prot,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (p != (void *)(uintptr_t)at) {
		perror("oracle: mmap");
		_exit(99);
	}
	return p;
}

void orc_native_init(void)
{
	/* jmp *exit64, jmp *exit */
	static const uint8_t jump16[] = { 0xff, 0x24, 0x25, 0x18, 0x41, 0x57, 0x13 };
	static const uint8_t jump64[] = { 0xff, 0x24, 0x25, 0x38, 0x41, 0x57, 0x13 };
	static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };
	struct sigaction sa = { .sa_sigaction = native_signal,
				.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	stack_t st = { .ss_size = 1 << 20 };
	uint8_t *code = map_fixed(ORC_AREA, 0x6000, PROT_READ | PROT_WRITE | PROT_EXEC);

	memset(code, 0xcc, 0x1000 * (1 + ORC_CODE_PAGES));
	map_fixed(ORC_DATA, 0x1000 * ORC_DATA_PAGES, PROT_READ | PROT_WRITE);
	for (unsigned k = 0; k < 0x1000; k++)
		((uint8_t *)ORC_P2)[k] = (uint8_t)(k * 7);
	if (mprotect((void *)ORC_P2, 0x1000, PROT_READ))
		_exit(98);
	nat->exit = (uintptr_t)orc_exit;
	nat->exit64 = (uintptr_t)orc_out64;
	nat->exit32 = ORC_STUB32 + (uint64_t)(orc_out32 - orc_in32);
	nat->far_sel = 0x23;
	nat->far16_off = ORC_BACK64 + 16;
	nat->far16_sel = 0x33;
	memcpy((void *)(uintptr_t)ORC_STUB32, orc_in32, (size_t)(orc_end32 - orc_in32));
	memcpy((void *)(uintptr_t)ORC_BACK64, jump64, sizeof(jump64));
	memcpy((void *)(uintptr_t)(ORC_BACK64 + 16), jump16, sizeof(jump16));
	st.ss_sp = malloc(st.ss_size);
	sigaltstack(&st, NULL);
	for (unsigned k = 0; k < COUNT_OF(signals); k++)
		sigaction(signals[k], &sa, NULL);
	syscall(SYS_arch_prctl, ARCH_SET_GS, ORC_GS);
}

static void native_mem(uint8_t *mem, const uint8_t *from)
{
	if (from) {
		memcpy((void *)(ORC_P1 - 512ull), from, 1024);
		memcpy((void *)(ORC_P2 - 512ull), from + 1024, 512);
	} else {
		memcpy(mem, (void *)(ORC_P1 - 512ull), 1024);
		memcpy(mem + 1024, (void *)(ORC_P2 - 512ull), 512);
	}
}

void orc_native_run(const struct orc_case *c, struct orc_result *ret)
{
	/* jmp *exit, jmp *exit32, ljmpl *%cs:far16 */
	static const uint8_t back[3][9] = {
		{ 0xff, 0x24, 0x25, 0x18, 0x41, 0x57, 0x13, 0xcc, 0xcc },
		{ 0xff, 0x25, 0x30, 0x41, 0x57, 0x13, 0xcc, 0xcc, 0xcc },
		{ 0x2e, 0x66, 0x67, 0xff, 0x2d, 0x40, 0x49, 0x57, 0x13 },
	};
	uint8_t *code = (uint8_t *)(uintptr_t)c->rip;
	struct orc_state *s = &ret->s;

	memcpy(nat->gpr, c->in.gpr, sizeof(nat->gpr));
	memcpy(nat->ymm, c->in.ymm, sizeof(nat->ymm));
	memcpy(nat->fx, c->in.fx, sizeof(nat->fx));
	memcpy(nat->fx + 24, &c->in.mxcsr, 4);
	nat->rflags = c->in.rflags | 0x202;
	nat->entry = c->rip | (c->bits == 16 ? (uint64_t)ORC_CS16 << 32 : 0);
	nat->far_off = ORC_STUB32 + (c->bits == 16 ? (uint32_t)(orc_in16 - orc_in32) : 0);
	memcpy(code, c->code, c->len);
	memcpy(code + c->len, back[c->bits == 64 ? 0 : c->bits == 32 ? 1 : 2], sizeof(back[0]));
	native_mem(NULL, c->mem);
	s->vector = -2;
	nat_out = s;
	nat_bits = c->bits;
	if (c->bits == 64)
		orc_enter();
	else
		orc_enter32();
	nat_out = NULL;
	if (s->vector == -2) {
		memcpy(s->gpr, nat->out, sizeof(s->gpr));
		if (c->bits != 64)
			native_halves(s);
		memcpy(s->ymm, nat->out_ymm, sizeof(s->ymm));
		memcpy(s->fx, nat->out_fx, sizeof(s->fx));
		memcpy(&s->mxcsr, nat->out_fx + 24, 4);
		s->rflags = nat->out_rflags;
		s->rip = c->rip + c->len;
		s->vector = -1;
		s->err = 0;
		s->cr2 = 0;
	}
	native_mem(ret->mem, NULL);
	memset(code, 0xcc, c->len + sizeof(back[0]));
}
