/*
 * Random streams: instructions from the oracle's generator (tests/oracle/gen.c) between branches,
 * loops, calls, system calls, stores to the code that follows and jumps to nowhere, on pages that
 * are writable, read-only or absent, with timer interrupts and kicks at any place.  Each is run by
 * the interpreter, by the translator, and in lockstep; all three must leave the same.
 *
 * A stream is chunks of 512 bytes.  Each begins by writing down where the next one is; the handler
 * of every exception goes there.
 *
 * LOCKSTEP_STREAMS: how many of each mode; LOCKSTEP_ONE: only from this one on; SAMPAN_SEED:
 * others.
 */
#include "accel/soft/code_int.h"
#include "accel/soft/jit/jit_int.h"
#include "accel/soft/jit/lockstep.h"
#include "base/num.h"
#include "lib/soft_tables.h"
#include "oracle/oracle.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	/* Physical and linear. */
	CODE_AT = 0x400000,
	CHUNK = 512,
	CHUNKS = 24,
	/* A page for what streams and handlers write down. */
	CELLS = 0x500000,
	CELL_NEXT = CELLS,
	CELL_FAULTS = CELLS + 8,
	CELL_TICKS = CELLS + 16,
	CELL_LOOP = CELLS + 24,
	CELL_MXCSR = CELLS + 32,
	STACK_TOP = 0x600800,
	/* Where interrupts and exceptions come to; their stack. */
	TRAP_STACK = 0x700800,
	DATA_PA = 0x800000,
	TABLES = 0x900000,
	NX_AT = 0x20008000,
	VECTOR = 0x40,
	SYSCALL_AT = 0x2800,
};

/* ---- writing a stream ---- */

enum mode {
	USER64,
	KERNEL64,
	USER32,
	MODES,
};

struct stream {
	enum mode mode;
	bool is64;
	uint64_t rnd;
	struct orc_gen *g;
	uint8_t *p;
	/* Physical address of p's beginning. */
	uint8_t *chunk;
	struct orc_case c;
};

static unsigned below(struct stream *s, unsigned n)
{
	return (unsigned)(orc_rnd(&s->rnd) % n);
}

static bool chance(struct stream *s, unsigned percent)
{
	return below(s, 100) < percent;
}

static void put1(struct stream *s, unsigned v)
{
	*s->p++ = (uint8_t)v;
}

static void put4(struct stream *s, uint32_t v)
{
	st_le32(s->p, v);
	s->p += 4;
}

static void puts_(struct stream *s, const char *bytes, unsigned n)
{
	memcpy(s->p, bytes, n);
	s->p += n;
}
#define PUTS(s, bytes) puts_((s), (bytes), sizeof(bytes) - 1)

static uint32_t here(const struct stream *s)
{
	return (uint32_t)(s->p - rig.ram);
}

/* An opcode and ModRM.reg with an absolute address. */
static void put_abs(struct stream *s, unsigned op, unsigned reg, uint32_t at)
{
	if (op > 0xff)
		put1(s, op >> 8);
	put1(s, op & 255);
	put1(s, reg << 3 | (s->is64 ? 4 : 5));
	if (s->is64)
		put1(s, 0x25);
	put4(s, at);
}

static void put_mov(struct stream *s, unsigned r, uint64_t v)
{
	if (s->is64)
		put1(s, 0x48 | (r >= 8));
	put1(s, 0xb8 | (r & 7));
	put4(s, (uint32_t)v);
	if (s->is64)
		put4(s, (uint32_t)(v >> 32));
}

/* Room for one more piece, its jump included? */
static bool room(const struct stream *s)
{
	return s->p < s->chunk + CHUNK - 120;
}

/* ---- pieces ---- */

static bool by_register(const struct insn_form *f)
{
	for (unsigned n = 0; n < INSN_OPNDS; n++)
		if (f->opnd[n].kind == OPND_VSIB)
			return false;
	return f->class != INSC_FLOW && f->sop != SOP_ENTER;
}

static void piece_insn(struct stream *s)
{
	struct insn i;

	/* Another form, not the next in turn. */
	orc_gen_seed(s->g, orc_rnd(&s->rnd));
	orc_gen_case(s->g, &s->c, false);
	const struct insn_form *f = &insn_forms[s->c.form];
	if (!by_register(f) || soft_decode(s->c.code, 15, s->is64 ? 64 : 32, &i) < 0)
		return;
	const uint64_t *r = s->c.in.gpr;
	if (i.flags & INSN_MEM) {
		if (i.base < 16)
			put_mov(s, i.base, r[i.base]);
		if (i.index < 16)
			put_mov(s, i.index, r[i.index]);
	}
	if (f->class == INSC_STR || f->sop == SOP_MASKMOVDQU || f->sop == SOP_MASKMOVQ) {
		put_mov(s, X86_RSI, r[X86_RSI]);
		put_mov(s, X86_RDI, r[X86_RDI]);
		put_mov(s, X86_RCX, r[X86_RCX]);
	}
	if ((f->sop == SOP_DIV || f->sop == SOP_IDIV) && chance(s, 60))
		put_mov(s, X86_RDX, below(s, 3));
	puts_(s, (const char *)s->c.code, s->c.len);
	/* Flags that are undefined now may be others in each engine: cmp %al, %al defines all. */
	if (f->fl_u)
		PUTS(s, "\x38\xc0");
}

static void piece_stack(struct stream *s)
{
	put_mov(s, X86_RSP, below(s, 8) ? STACK_TOP - 8 * below(s, 60) : ORC_P1 + 4 * below(s, 3));
	for (unsigned n = below(s, 6); n--;) {
		unsigned r = below(s, 8);

		put1(s, (chance(s, 50) ? 0x50 : 0x58) | r);
	}
}

static void piece_call(struct stream *s)
{
	put_mov(s, X86_RSP, STACK_TOP);
	if (chance(s, 50)) {
		/* call next; push its address + what follows; ret */
		PUTS(s, "\xe8\0\0\0\0");
		put1(s, 0x68);
		put4(s, here(s) + 5);
		put1(s, 0xc3);
	} else {
		/* mov $next, %eax; jmp or call *%rax */
		put1(s, 0xb8);
		put4(s, here(s) + 6);
		put1(s, 0xff);
		put1(s, chance(s, 50) ? 0xe0 : 0xd0);
	}
}

static void piece_flags(struct stream *s)
{
	static const uint8_t one[] = { 0xf8, 0xf9, 0xf5, 0xfa, 0xfb, 0xfc, 0xfd, 0x9e, 0x9f };

	put1(s, one[below(s, sizeof(one))]);
	if (chance(s, 15)) {
		put_mov(s, X86_RSP, STACK_TOP);
		/* pushf; pop; and POPF of what it was */
		PUTS(s, "\x9c\x9c\x9d\x58");
	}
}

/* A store to the immediate of the next instruction, or of one in the next chunk, or near code. */
static void piece_smc(struct stream *s)
{
	unsigned kind = below(s, 3);
	uint32_t at;

	/* movb $v, target */
	if (kind == 0)
		at = here(s) + (s->is64 ? 8 : 7) + 1;
	else if (kind == 1)
		at = (uint32_t)(s->chunk - rig.ram) + CHUNK + 1;
	else
		at = (uint32_t)(s->chunk - rig.ram) + CHUNK - 1 - below(s, 8);
	put_abs(s, 0xc6, 0, at);
	/* NOPs stay NOPs. */
	put1(s, kind == 2 ? 0x90 : below(s, 256));
	put1(s, 0xb8 | below(s, 4));
	put4(s, below(s, 1000));
}

static void piece_nowhere(struct stream *s)
{
	static const uint64_t where[] = { 0,          1,
					  NX_AT,      ORC_DATA + 0x3000,
					  1ull << 47, 0x8000000000001000ull };

	/* At 0 there is code in ring 0. */
	unsigned n = s->mode == KERNEL64 ? 2 + below(s, 4) : below(s, 6);

	put_mov(s, X86_RSP, STACK_TOP);
	put_mov(s, X86_RAX, where[n]);
	/* A translated CALL to where no code can be leaves its push below the stack pointer. */
	switch (n < 4 ? below(s, 3) : 2 * below(s, 2)) {
	case 0:
		PUTS(s, "\xff\xe0");
		break;
	case 1:
		PUTS(s, "\xff\xd0");
		break;
	default:
		PUTS(s, "\x50\xc3");
		break;
	}
}

static void piece_mode(struct stream *s)
{
	if (s->mode == USER64)
		PUTS(s, "\x0f\x05");
	else if (s->mode == KERNEL64 && chance(s, 80))
		PUTS(s, "\x0f\x01\xcb");
	else if (s->mode == KERNEL64)
		PUTS(s, "\x0f\x01\xca");
	PUTS(s, "\xf3\x90");
}

static void pieces(struct stream *s, unsigned n);

/* jcc over some pieces, or a loop of them. */
static void piece_branch(struct stream *s)
{
	bool loop = chance(s, 40);
	uint8_t *from;

	if (loop) {
		put_abs(s, 0xc7, 0, CELL_LOOP);
		put4(s, 2 + below(s, 6));
		from = s->p;
		pieces(s, 1 + below(s, 3));
		/* subl $1, cell; jg from */
		put_abs(s, 0x83, 5, CELL_LOOP);
		PUTS(s, "\x01\x0f\x8f");
		put4(s, 0);
		st_le32(s->p - 4, (uint32_t)(from - s->p));
		return;
	}
	put1(s, 0x0f);
	put1(s, 0x80 | below(s, 16));
	put4(s, 0);
	from = s->p;
	pieces(s, 1 + below(s, 3));
	st_le32(from - 4, (uint32_t)(s->p - from));
}

static void piece(struct stream *s)
{
	unsigned k = below(s, 100);

	if (k < 66)
		piece_insn(s);
	else if (k < 72)
		piece_stack(s);
	else if (k < 77)
		piece_call(s);
	else if (k < 81)
		piece_flags(s);
	else if (k < 86)
		piece_smc(s);
	else if (k < 88)
		piece_nowhere(s);
	else if (k < 92)
		piece_mode(s);
	else
		piece_branch(s);
}

static void pieces(struct stream *s, unsigned n)
{
	while (n-- && room(s))
		piece(s);
}

static void chunk(struct stream *s, unsigned n)
{
	s->chunk = s->p = rig.ram + CODE_AT + n * CHUNK;
	memset(s->p, 0x90, CHUNK);
	/* What other chunks write to: mov $1, %eax. */
	PUTS(s, "\xb8\1\0\0\0");
	put_abs(s, 0xc7, 0, CELL_NEXT);
	put4(s, CODE_AT + (n + 1) * CHUNK);
	if (chance(s, 80)) {
		/* fninit; ldmxcsr */
		PUTS(s, "\xdb\xe3");
		put_abs(s, 0x0fae, 2, CELL_MXCSR);
	}
	if (s->mode == KERNEL64 && chance(s, 80))
		PUTS(s, "\x0f\x01\xcb");
	while (room(s) && chance(s, 97))
		piece(s);
}

/* The last chunk leaves, again and again. */
static void last_chunk(struct stream *s)
{
	s->p = rig.ram + CODE_AT + CHUNKS * CHUNK;
	PUTS(s, "\xb8\1\0\0\0\xb0\x55\xe6\xf4\xeb\xfa");
}

/* ---- the machine ---- */

/*
 * CELL_NEXT is where it goes on: into the frame, with a good stack.  The status flags are cleared:
 * those that nothing reads before they are written again the translator does not keep.
 */
CODE(trap64_err, "64",
     "add $8, %rsp\n push %rax\n incl 0x500008\n mov 0x500000, %eax\n mov %rax, 8(%rsp)\n"
     "andl $~0x109d5, 24(%rsp)\n movq $0x600800, 32(%rsp)\n pop %rax\n iretq\n");
CODE(trap64, "64",
     "push %rax\n incl 0x500008\n mov 0x500000, %eax\n mov %rax, 8(%rsp)\n"
     "andl $~0x109d5, 24(%rsp)\n movq $0x600800, 32(%rsp)\n pop %rax\n iretq\n");
CODE(tick64, "64",
     "push %rax\n push %rcx\n push %rdx\n incl 0x500010\n mov $0x80b, %ecx\n xor %eax, %eax\n"
     "xor %edx, %edx\n wrmsr\n pop %rdx\n pop %rcx\n pop %rax\n iretq\n");
CODE(trap32_err, "32",
     "add $4, %esp\n push %eax\n incl 0x500008\n mov 0x500000, %eax\n mov %eax, 4(%esp)\n"
     "andl $~0x109d5, 12(%esp)\n movl $0x600800, 16(%esp)\n pop %eax\n iret\n");
CODE(trap32, "32",
     "push %eax\n incl 0x500008\n mov 0x500000, %eax\n mov %eax, 4(%esp)\n"
     "andl $~0x109d5, 12(%esp)\n movl $0x600800, 16(%esp)\n pop %eax\n iret\n");
CODE(tick32, "32",
     "push %eax\n push %ecx\n push %edx\n incl 0x500010\n mov $0x80b, %ecx\n xor %eax, %eax\n"
     "xor %edx, %edx\n wrmsr\n pop %edx\n pop %ecx\n pop %eax\n iret\n");
CODE(syscall64, "64", "swapgs\n incl 0x500028\n swapgs\n sysretq\n");

static void tables_idt(bool is64)
{
	const uint32_t with = BIT(8) | BIT(10) | BIT(11) | BIT(12) | BIT(13) | BIT(14) | BIT(17);

	if (is64) {
		RIG_CODE(0x2000, trap64_err);
		RIG_CODE(0x2200, trap64);
		RIG_CODE(0x2400, tick64);
		RIG_CODE(SYSCALL_AT, syscall64);
	} else {
		RIG_CODE(0x2000, trap32_err);
		RIG_CODE(0x2200, trap32);
		RIG_CODE(0x2400, tick32);
	}
	for (unsigned v = 0; v < 65; v++) {
		uint32_t at = v == VECTOR ? 0x2400 : v < 32 && with >> v & 1 ? 0x2000 : 0x2200;

		if (is64)
			set_gate64(v, at, 8, 0x8e, 1);
		else
			set_gate32(v, at, 8, 0xee);
	}
	/* Ring 0's stack, and IST 1. */
	if (is64) {
		st_le64(rig.ram + TSS + 4, TRAP_STACK);
		st_le64(rig.ram + TSS + 36, TRAP_STACK);
	} else {
		st_le32(rig.ram + TSS + 4, TRAP_STACK);
		st_le32(rig.ram + TSS + 8, 0x10);
	}
}

/*
 * Data pages at ORC_DATA: writable, writable, read-only, none; one without execute at NX_AT.  Users
 * have 4 to 8 MiB.  In ring 0 the second data page is a user's, and SMAP is on.
 */
static void tables_paging(enum mode mode)
{
	uint64_t *t = (uint64_t *)(void *)(rig.ram + TABLES);
	unsigned user = mode == KERNEL64 ? 0 : 4;

	memset(t, 0, 0x6000);
	if (mode == USER32) {
		uint32_t *pd = (uint32_t *)t, *pt = pd + 1024;

		for (unsigned n = 0; n < 4; n++)
			pd[n] = n << 22 | (n == 1 ? 0x87 : 0x83);
		pd[ORC_DATA >> 22] = (TABLES + 0x1000) | 7;
		for (unsigned n = 0; n < 3; n++)
			pt[n] = (DATA_PA + 0x1000 * n) | (n == 2 ? 5 : 7);
		return;
	}
	t[0] = (TABLES + 0x1000) | 3 | user;
	t[512] = (TABLES + 0x2000) | 3 | user;
	for (unsigned n = 0; n < 8; n++)
		t[1024 + n] = (uint64_t)n << 21 | 0x83 | (n >= 2 && n < 4 ? user : 0);
	t[1024 + (ORC_DATA >> 21)] = (TABLES + 0x3000) | 7;
	t[0] |= 4;
	t[512] |= 4;
	for (unsigned n = 0; n < 3; n++)
		t[1536 + n] = (uint64_t)(DATA_PA + 0x1000 * n) | 1 | (n == 2 ? 0 : 2) |
			      (mode == KERNEL64 && n != 1 ? 0 : 4);
	t[1536 + ((NX_AT >> 12) & 511)] = (uint64_t)DATA_PA | 5 | 1ull << 63;
}

static void machine_segs(struct cpu_state *s, enum mode mode)
{
	unsigned dpl = mode == KERNEL64 ? 0 : 3;
	uint32_t code = 0x9b | dpl << 5 | (mode == USER32 ? 0xc000u : 0xa000u);

	for (unsigned n = 0; n < 6; n++)
		s->seg[n] = rig_seg(dpl ? 0x1b : 0x10, 0xc093 | dpl << 5);
	s->seg[X86_CS] = rig_seg(dpl ? 0x23 : 8, code);
	s->seg[X86_GS].base = mode == USER32 ? 0 : ORC_GS;
}

static void machine_set(enum mode mode)
{
	const uint64_t base = X86_APIC_BASE_EN | X86_APIC_BASE_BSP | X86_APIC_BASE_X2;
	struct cpu_state *s;

	standard_gdt(mode == USER32 ? 0xc : 0xa);
	/* As SYSRET has it, data comes before code. */
	set_gdt(3, desc(0, 0xfffff, 0xf3, 0xc));
	set_gdt(4, desc(0, 0xfffff, 0xfb, mode == USER32 ? 0xc : 0xa));
	tables_idt(mode != USER32);
	tables_paging(mode);
	s = soft_rig_get(0);
	s->ev = (struct cpu_events){ .exc_pending = 0 };
	soft_rig_set(0, s);
	soft_rig_prot(CODE_AT);
	s = with_tables(soft_rig_get(0), 0xfff);
	machine_segs(s, mode);
	s->cr0 |= X86_CR0_PG | X86_CR0_WP | X86_CR0_MP;
	s->cr4 = X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE |
		 (mode == USER32 ? X86_CR4_PSE : X86_CR4_PAE) |
		 (mode == KERNEL64 ? X86_CR4_SMAP : 0);
	if (mode != USER32)
		s->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_SCE;
	s->xcr0 = X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX;
	s->cr3 = TABLES;
	s->rflags = X86_FL_FIXED | X86_FL_IOPL | X86_FL_IF;
	s->gpr[X86_RSP] = STACK_TOP;
	s->apic_base = (s->apic_base & ~0xfffull) | base;
	cpu_state_set_msr(s, X86_MSR_STAR, 0x10ull << 48 | 8ull << 32);
	cpu_state_set_msr(s, X86_MSR_LSTAR, SYSCALL_AT);
	cpu_state_set_msr(s, X86_MSR_FMASK, X86_FL_IF | X86_FL_TF | X86_FL_DF);
	soft_rig_set(0, s);
}

/* A periodic timer, every so many nanoseconds. */
static void machine_timer(uint32_t ns)
{
	struct scpu *c = (struct scpu *)(void *)rig.cpu[0];

	lapic_write(&c->lapic, 0xf0, 0x1ff);
	lapic_write(&c->lapic, 0x3e0, 0xb);
	lapic_write(&c->lapic, 0x320, 0x20000 | VECTOR);
	lapic_write(&c->lapic, 0x380, ns);
}

/* ---- runs ---- */

static struct kicker {
	struct thread t;
	bool stop;
} kicker;

static int kicker_stop(void **state)
{
	__atomic_store_n(&kicker.stop, true, __ATOMIC_RELEASE);
	thread_join(&kicker.t);
	return 0;
}

static void kicker_main(void *arg)
{
	struct kicker *k = arg;

	while (!__atomic_load_n(&k->stop, __ATOMIC_ACQUIRE)) {
		uint64_t end = clock_ns() + 150000;

		while (clock_ns() < end)
			;
		accel_kick(rig.cpu[0]);
	}
}

static void stream_write(struct stream *s)
{
	orc_gen_case(s->g, &s->c, true);
	memset(rig.ram + CELLS, 0, 64);
	st_le32(rig.ram + CELL_MXCSR, chance(s, 70) ? 0x1f80 : (below(s, 0x10000) & ~0x40u));
	for (unsigned n = 0; n < CHUNKS; n++)
		chunk(s, n);
	last_chunk(s);
	memset(rig.ram + DATA_PA, 0, 0x3000);
	memcpy(rig.ram + DATA_PA + 0x1000 - 512, s->c.mem, 1024);
	memcpy(rig.ram + DATA_PA + 0x2000 - 512, s->c.mem + 1024, 512);
	memset(rig.ram + STACK_TOP - 0x800, 0, 0x1000);
	/* The code was written from outside the guest. */
	gmem_wrote(&rig.mem, CODE_AT, (CHUNKS + 1) * CHUNK);
}

static uint64_t mix(uint64_t h, const void *p, size_t n)
{
	for (const uint8_t *b = p; n--; b++)
		h = (h ^ *b) * 0x100000001b3ull;
	return h;
}

static uint64_t stream_result(const struct stream *s)
{
	const struct cpu_state *st = soft_rig_get(0);
	uint64_t h = 0xcbf29ce484222325ull;

	h = mix(h, st->gpr, sizeof(st->gpr));
	h = mix(h, st->xsave, 5);
	h = mix(h, st->xsave + 160, 256);
	h = mix(h, st->xsave + 576, 256);
	h = mix(h, rig.ram + DATA_PA, 0x3000);
	h = mix(h, rig.ram + CELL_FAULTS, 4);
	return mix(h, rig.ram + STACK_TOP - 0x800, 0x800);
}

/* x87, vector registers and MXCSR. */
static void units_set(struct cpu_state *st, const struct orc_state *in)
{
	memset(st->xsave, 0, 832);
	memcpy(st->xsave, in->fx, 160);
	st_le32(st->xsave + 24, 0x1f80);
	for (unsigned k = 0; k < 16; k++) {
		memcpy(st->xsave + 160 + 16 * k, in->ymm[k], 16);
		memcpy(st->xsave + 576 + 16 * k, in->ymm[k] + 16, 16);
	}
	st_le64(st->xsave + 512, X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX);
}

static uint64_t stream_run(enum mode mode, uint64_t seed, struct orc_gen *g, bool ticks)
{
	struct stream s = { .mode = mode, .is64 = mode != USER32, .rnd = seed, .g = g };
	struct cpu_state *st;

	orc_gen_seed(g, seed);
	stream_write(&s);
	machine_set(mode);
	st = soft_rig_get(0);
	for (unsigned k = 0; k < 16; k++)
		if (k != X86_RSP)
			st->gpr[k] = s.c.in.gpr[k];
	units_set(st, &s.c.in);
	soft_rig_set(0, st);
	if (ticks)
		machine_timer(60000 + below(&s, 200000));
	enum accel_exit why = soft_rig_run();

	/* In ring 0 a stream may spoil its tables and handlers; then it does so in every engine. */
	if (mode == KERNEL64)
		return stream_result(&s);
	if (why != ACCEL_EXIT_KICK || rig.exit_value != 0x55)
		fail_msg("seed %#lx: the guest ended by %d with %#x", (unsigned long)seed, why,
			 rig.exit_value);
	return stream_result(&s);
}

enum {
	STREAMS_DEFAULT = 60,
	STREAMS_MAX = 100000,
};

static unsigned streams(void)
{
	const char *n = getenv("LOCKSTEP_STREAMS");

	return n ? (unsigned)MIN(strtoul(n, NULL, 0), (unsigned long)STREAMS_MAX) : STREAMS_DEFAULT;
}

static uint64_t first_seed(void)
{
	const char *n = getenv("SAMPAN_SEED");

	return n ? strtoul(n, NULL, 0) : 1;
}

/*
 * In ring 0 a stream may look at what the timer's handler left behind, so only lockstep has a timer
 * there, and what it ends with is its own.
 */
static bool ticks_matter(enum mode mode)
{
	return mode == KERNEL64;
}

static void engine_run(enum mode mode, const char *opts, struct orc_gen *g, uint64_t *ret)
{
	bool ticks = !ticks_matter(mode) || strstr(opts, "lockstep");
	struct err e = { 0 };

	rig_engine_opts = opts;
	soft_rig_init(1);
	rig_engine_opts = NULL;
	__atomic_store_n(&kicker.stop, false, __ATOMIC_RELEASE);
	assert_int_equal(thread_start(&kicker.t, "kicker", kicker_main, &kicker, &e), 0);
	const char *one = getenv("LOCKSTEP_ONE");

	for (unsigned n = one ? (unsigned)strtoul(one, NULL, 0) : 0; n < streams(); n++)
		ret[n] = stream_run(mode, first_seed() * 1000003 + n, g, ticks);
	kicker_stop(NULL);
}

/* A counter of accel_stats(). */
static unsigned long counter(const char *name)
{
	char stats[2048];

	accel_stats(rig.vm, stats, sizeof(stats));
	const char *at = strstr(stats, name);
	return at ? strtoul(at + strlen(name), NULL, 10) : 0;
}

/* Did the streams do what they are for? */
static void counters_check(unsigned n)
{
	assert_true(counter("lockstep-compared=") > 100ul * n);
	assert_true(counter("lockstep-partial=") > 20ul * n);
	assert_true(counter("interrupts=") > n / 2);
	assert_true(counter("exceptions=") > 5ul * n);
	assert_true(counter("invalidated=") > n);
}

static void modes_agree(enum mode mode)
{
	struct orc_gen *g = orc_gen_new(first_seed(), mode == USER32 ? 32 : 64);
	uint64_t *r = calloc(3ul * streams(), sizeof(*r));
	unsigned n = streams();

	assert_non_null(r);
	engine_run(mode, "lockstep=on", g, r);
	printf("compared %lu, partial %lu, aborted %lu, interrupts %lu, exceptions %lu\n",
	       counter("lockstep-compared="), counter("lockstep-partial="),
	       counter("lockstep-aborted="), counter("interrupts="), counter("exceptions="));
	if (!getenv("LOCKSTEP_ONE"))
		counters_check(n);
	soft_rig_fini();
	engine_run(mode, "jit=off", g, r + n);
	soft_rig_fini();
	engine_run(mode, "hot=2", g, r + 2ul * n);
	soft_rig_fini();
	for (unsigned k = 0; k < n; k++)
		if ((!ticks_matter(mode) && r[k] != r[n + k]) || r[n + k] != r[2ul * n + k])
			fail_msg("stream %u: lockstep %lx, interpreter %lx, translator %lx", k,
				 (unsigned long)r[k], (unsigned long)r[n + k],
				 (unsigned long)r[2ul * n + k]);
	free(r);
	orc_gen_free(g);
}

static void test_user64(void **state)
{
	modes_agree(USER64);
}

static void test_kernel64(void **state)
{
	modes_agree(KERNEL64);
}

static void test_user32(void **state)
{
	modes_agree(USER32);
}

/* ---- a difference is found ---- */

CODE(sums, "64",
     "mov $100, %ecx\n xor %eax, %eax\n 1: add %ecx, %eax\n mov %eax, 0x6000\n dec %ecx\n"
     "jnz 1b\n" RIG_END);

/* The translations' `add %ecx, %eax` become `sub`; or their stores one byte longer. */
static void spoil(const uint8_t *what, unsigned n, unsigned at, uint8_t v)
{
	struct soft_jit *j = ((struct scpu *)(void *)rig.cpu[0])->jit;
	unsigned found = 0;

	for (size_t k = j->first; k + n <= j->used; k++) {
		if (memcmp(j->rw + k, what, n))
			continue;
		j->rw[k + at] = v;
		found++;
	}
	if (!found)
		_exit(3);
}

static void spoiled_run(const uint8_t *what, unsigned n, unsigned at, uint8_t v, const char *expect)
{
	int p[2], status;
	char text[4096] = "";
	size_t len = 0;

	assert_int_equal(pipe(p), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		dup2(p[1], STDERR_FILENO);
		close(p[0]);
		signal(SIGABRT, SIG_DFL);
		rig_engine_opts = "lockstep=on";
		soft_rig_init(1);
		RIG_CODE(0x1000, sums);
		st_le32(rig.ram + 0x6004, 0xff);
		soft_rig_long(0x1000);
		if (soft_rig_run() != ACCEL_EXIT_KICK || ld_le32(rig.ram + 0x6000) != 5050)
			_exit(2);
		spoil(what, n, at, v);
		soft_rig_long(0x1000);
		(void)soft_rig_run();
		_exit(0);
	}
	close(p[1]);
	for (ssize_t got; (got = read(p[0], text + len, sizeof(text) - 1 - len)) > 0;)
		len += (size_t)got;
	close(p[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT || !strstr(text, expect))
		fail_msg("status %#x, report: %s", status, text);
	assert_non_null(strstr(text, "ADD"));
}

static void test_spoiled_register(void **state)
{
	static const uint8_t add[] = { 0x01, 0xc8 };

	spoiled_run(add, sizeof(add), 0, 0x29, "registers differ");
}

static void test_spoiled_store(void **state)
{
	/* mov %eax, (%r10) becomes mov %edx, (%r10), and 8 bytes long. */
	static const uint8_t store[] = { 0x41, 0x89, 0x02 };

	spoiled_run(store, sizeof(store), 2, 0x12, "memory differs");
	spoiled_run(store, sizeof(store), 0, 0x49, "memory differs");
}

/* ---- options ---- */

static void refused(const char *opts, unsigned ncpus, const char *why)
{
	struct accel_opts o = { .ncpus = ncpus, .engine_opts = opts };
	struct accel_vm *vm = NULL;
	struct err e = { 0 };

	o.gmem = &rig.mem;
	o.mmio = &rig.mmio;
	o.pio = &rig.pio;
	assert_int_equal(accel_vm_new(&accel_soft, &o, &vm, &e), -EINVAL);
	if (!strstr(e.msg, why))
		fail_msg("%s: %s", opts, e.msg);
}

static void test_options(void **state)
{
	soft_rig_init(1);
	refused("jit=maybe", 1, "jit=on|off");
	refused("hot=251", 1, "hot=0..250");
	refused("hot=two", 1, "hot=0..250");
	refused("fast", 1, "lockstep=on|off");
	refused("fast=on", 1, "'fast'");
	refused("lockstep=on,jit=off", 1, "jit=off");
	refused("jit=on,lockstep=on", 2, "one CPU");
	refused("jit=on,lockstep=yes,x", 1, "'x'");
	refused("jit=on,,lockstep=yes", 1, "jit=on|off");
	soft_rig_fini();
	rig_engine_opts = "lockstep=on,jit=on";
	soft_rig_init(1);
	rig_engine_opts = NULL;
	assert_non_null(lockstep_stats((struct scpu *)(void *)rig.cpu[0]));
	soft_rig_fini();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_options),
		cmocka_unit_test(test_spoiled_register),
		cmocka_unit_test(test_spoiled_store),
		cmocka_unit_test_teardown(test_user64, kicker_stop),
		cmocka_unit_test_teardown(test_kernel64, kicker_stop),
		cmocka_unit_test_teardown(test_user32, kicker_stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
