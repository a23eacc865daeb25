/*
 * Decoded code follows memory: stores to code by the running block, by another page's code, by
 * another vCPU and by devices; pages given back; the dirty log; LOCK across a page border.
 */
#include "accel/soft/mem.h"
#include "accel/soft/sys_int.h"
#include "lib/soft_rig.h"

#include <sched.h>

static int setup(void **state)
{
	soft_rig_init(1);
	return 0;
}

static int setup2(void **state)
{
	soft_rig_init(2);
	return 0;
}

static int teardown(void **state)
{
	soft_rig_fini();
	return 0;
}

/* ---- one vCPU ---- */

/* Each round writes the immediate of the very next instruction. */
CODE(next_insn, "64",
     "xor %ebx, %ebx\n mov $1000, %ecx\n"
     "1: mov %ecx, 2f+1(%rip)\n 2: mov $0, %eax\n add %rax, %rbx\n dec %ecx\n jnz 1b\n"
     "mov %rbx, 0x6000\n" RIG_END);

static void test_next_instruction(void **state)
{
	RIG_CODE(0x1000, next_insn);
	soft_rig_long(0x1000);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(ld_le64(rig.ram + 0x6000), 1000 * 1001 / 2);
}

/* The same by REP MOVSB over the code that follows, and with the store in real mode. */
CODE(rep_over, "64",
     "lea 3f(%rip), %rsi\n lea 2f(%rip), %rdi\n mov $5, %ecx\n mov $0x11, %eax\n rep movsb\n"
     "2: mov $0x22, %eax\n mov %eax, 0x6000\n" RIG_END "3: mov $0x33, %eax\n");
CODE(next16, "16", "movb $0x44, %cs:0x1007\n mov $0x22, %al\n mov %al, 0x6000\n" RIG_END);

static void test_other_stores(void **state)
{
	RIG_CODE(0x1000, rep_over);
	soft_rig_long(0x1000);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(ld_le32(rig.ram + 0x6000), 0x33);

	RIG_CODE(0x1000, next16);
	soft_rig_real(0x1000);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(rig.ram[0x6000], 0x44);
}

/* A function at the end of a page, its last instruction over the border; both parts change. */
CODE(calls, "64",
     "xor %ebx, %ebx\n mov $200, %ecx\n"
     "1: mov %cl, 0xb001\n mov %cl, 0xaffc\n call *%rdx\n add %rax, %rbx\n dec %ecx\n jnz 1b\n"
     "mov %rbx, 0x6000\n" RIG_END);

static void test_page_border(void **state)
{
	/* add: mov $X, %eax at 0xaffb; lea Y(%rax), %rax ... at 0xaffe..0xb004 */
	static const uint8_t fn[] = { 0xb0, 0x00, 0x90, 0x48, 0x05, 0x00, 0x00, 0x00, 0x00, 0xc3 };

	RIG_CODE(0x1000, calls);
	rig_put(0xaffb, fn, sizeof(fn));
	soft_rig_long(0x1000);
	struct cpu_state *s = soft_rig_get(0);
	s->gpr[X86_RDX] = 0xaffb;
	s->gpr[X86_RAX] = 0;
	soft_rig_set(0, s);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	/* AL = n, then + (n << 8): the upper part of RAX grows by 0 each time but for the byte. */
	uint64_t rax = 0, sum = 0;
	for (uint64_t n = 200; n; n--) {
		rax = (rax & ~0xffull) | n;
		rax += n << 8;
		sum += rax;
	}
	assert_int_equal(ld_le64(rig.ram + 0x6000), sum);
}

/* Code and data in one page: stores go the slow way until the page is given back. */
CODE(mixed, "64",
     "xor %ebx, %ebx\n mov $100000, %ecx\n"
     "1: mov %ecx, 4f(%rip)\n add 4f(%rip), %rbx\n dec %ecx\n jnz 1b\n"
     "mov %rbx, 0x6000\n" RIG_END ".balign 512\n 4: .long 0, 0\n");

static void test_mixed_page(void **state)
{
	char stats[1024];

	RIG_CODE(0x1000, mixed);
	soft_rig_long(0x1000);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(ld_le64(rig.ram + 0x6000), 100000ull * 100001 / 2);
	accel_stats(rig.vm, stats, sizeof(stats));
	/* It was, and not at every store. */
	unsigned long back = strtoul(strstr(stats, "given-back=") + 11, NULL, 10);
	assert_true(back > 3 && back < 100);
}

/* At linear and physical address 0, where an empty entry of a look-up might be taken for one. */
CODE(zero, "64", "xor %eax, %eax\n mov $0x77, %ebx\n jmp *%rax\n");
CODE(at_zero, "64", "mov %ebx, 0x6000\n" RIG_END);

static void test_code_at_zero(void **state)
{
	RIG_CODE(0, at_zero);
	RIG_CODE(0x800, zero);
	soft_rig_long(0x800);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(ld_le32(rig.ram + 0x6000), 0x77);
}

/*
 * A block that is little more than its way out (two bytes, then a jump to f, later to g) dies, and
 * then the block that it was linked to; it is still known as what is called.
 */
CODE(short_block, "64",
     "xor %ebx, %ebx\n mov $0x2000, %edx\n mov $20, %ecx\n"
     "1: call *%rdx\n cmp $15, %ecx\n jne 2f\n movb $0x7d, 0x2003\n movb $0xc4, 0x2043\n"
     "2: dec %ecx\n jnz 1b\n mov %ebx, 0x6000\n" RIG_END);
CODE(short_fn, "64", "mov %eax, %eax\n .byte 0xeb, 0x3d\n");
CODE(short_f, "64", "add $1, %ebx\n nop\n ret\n");
CODE(short_g, "64", "add $100, %ebx\n ret\n");

static void test_short_block(void **state)
{
	/* With the two bytes, and without. */
	for (unsigned at = 0; at < 2; at++) {
		soft_rig_fini();
		soft_rig_init(1);
		RIG_CODE(0x1000, short_block);
		RIG_CODE(0x2000, short_fn);
		RIG_CODE(0x2041, short_f);
		RIG_CODE(0x2081, short_g);
		/* mov $0x2000 + 2 * at, %edx */
		rig.ram[0x1003] = (uint8_t)(2 * at);
		soft_rig_long(0x1000);
		assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
		assert_int_equal(ld_le32(rig.ram + 0x6000), 6 + 14 * 100);
	}
}

/* ---- calls and returns ---- */

/* 20000 calls deep, three times over: more than any stack of return addresses holds. */
CODE(deep, "64",
     "mov $0x1f0000, %esp\n xor %ebx, %ebx\n xor %esi, %esi\n mov $3, %edi\n mov $0x2000, %edx\n"
     "1: mov $20000, %ecx\n call *%rdx\n inc %esi\n dec %edi\n jnz 1b\n"
     "mov %rbx, 0x6000\n mov %rsi, 0x6008\n mov %rsp, 0x6010\n" RIG_END);
CODE(deep_fn, "64", "0: inc %rbx\n dec %ecx\n jz 2f\n call 0b\n inc %rbx\n 2: ret\n");

static void test_deep_calls(void **state)
{
	RIG_CODE(0x1000, deep);
	RIG_CODE(0x2000, deep_fn);
	soft_rig_long(0x1000);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(ld_le64(rig.ram + 0x6000), 3 * (2 * 20000 - 1));
	assert_int_equal(ld_le64(rig.ram + 0x6008), 3);
	assert_int_equal(ld_le64(rig.ram + 0x6010), 0x1f0000);
}

/*
 * 200 times: a return to where nobody called from, one that drops its caller's frame, one with a
 * longer way back, two stacks that are switched in a function, a far away caller.
 */
CODE(odd_returns, "64",
     "mov $0x1f0000, %esp\n xor %ebx, %ebx\n xor %ebp, %ebp\n mov $200, %ecx\n mov $0x2000, %edx\n"
     "mov $0x1e0000, %esi\n lea 1f(%rip), %r8\n"
     /* A stack on which a return to `back` waits. */
     "1: lea 9f(%rip), %rax\n mov %rax, (%rsi)\n"
     "lea 2f(%rip), %rax\n push %rax\n ret\n int3\n"
     "2: add $1, %rbx\n call *%rdx\n inc %ebp\n"
     "add $0x1000, %rbx\n lea 0x100(%rdx), %rax\n call *%rax\n add $0x100000, %rbx\n"
     "lea 0x200(%rdx), %rax\n call *%rax\n int3\n"
     "9: add $0x1000000, %rbx\n mov %rdi, %rsp\n ret\n int3\n" RIG_END);
/* Skips the two bytes after its caller, every other time. */
CODE(odd_skip, "64", "test $1, %cl\n jz 1f\n addq $2, (%rsp)\n 1: add $0x10, %rbx\n ret\n");
/* Calls one that returns to its caller's caller, every other time. */
CODE(odd_drop, "64",
     "call 1f\n ret\n"
     "1: add $0x10000, %rbx\n test $1, %cl\n jz 2f\n lea 8(%rsp), %rsp\n 2: ret\n");
/* To the other stack, whence 9: above comes back to here. */
CODE(odd_switch, "64",
     "lea 1f(%rip), %rax\n push %rax\n mov %rsp, %rdi\n mov %rsi, %rsp\n ret\n int3\n"
     "1: add $0x10000000, %rbx\n add $8, %rsp\n"
     "dec %ecx\n jz 2f\n jmp *%r8\n"
     "2: mov %rbx, 0x6000\n mov %rbp, 0x6008\n mov %rsp, 0x6010\n" RIG_END);

static void test_odd_returns(void **state)
{
	RIG_CODE(0x1000, odd_returns);
	RIG_CODE(0x2000, odd_skip);
	RIG_CODE(0x2100, odd_drop);
	RIG_CODE(0x2200, odd_switch);
	soft_rig_long(0x1000);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(ld_le64(rig.ram + 0x6000), 200 * 0x11111011ul);
	assert_int_equal(ld_le64(rig.ram + 0x6008), 100);
	assert_int_equal(ld_le64(rig.ram + 0x6010), 0x1f0000);
}

/* Flags go with a return: to who was predicted, and to who was not. */
CODE(flags_return, "64",
     "mov $0x1f0000, %esp\n xor %ebx, %ebx\n mov $300, %ecx\n mov $0x2000, %edx\n"
     "1: mov %ecx, %eax\n call *%rdx\n adc $0, %rbx\n"
     "call *%rdx\n jnc 2f\n add $0x10000, %rbx\n"
     "2: lea 3f(%rip), %rsi\n push %rsi\n jmp *%rdx\n"
     "3: jnc 4f\n mov $0x100000000, %rdi\n add %rdi, %rbx\n"
     "4: dec %ecx\n jnz 1b\n mov %rbx, 0x6000\n" RIG_END);
/* CF: bit 0. */
CODE(flags_fn, "64", "bt $0, %eax\n ret\n");

static void test_flags_return(void **state)
{
	RIG_CODE(0x1000, flags_return);
	RIG_CODE(0x2000, flags_fn);
	soft_rig_long(0x1000);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(ld_le64(rig.ram + 0x6000), 150 * 0x100010001ul);
}

/* A function changes what its caller does after it: the frame that waits is a dead block's. */
CODE(change_caller, "64",
     "mov $0x1f0000, %esp\n xor %ebx, %ebx\n mov $100, %ecx\n mov $0x2000, %edx\n"
     "lea 2f+2(%rip), %rsi\n"
     "1: call *%rdx\n 2: add $1, %ebx\n dec %ecx\n jnz 1b\n mov %rbx, 0x6000\n" RIG_END);
/* Its immediate: the count. */
CODE(change_fn, "64", "mov %cl, (%rsi)\n ret\n");

static void test_change_caller(void **state)
{
	RIG_CODE(0x1000, change_caller);
	RIG_CODE(0x2000, change_fn);
	soft_rig_long(0x1000);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(ld_le64(rig.ram + 0x6000), 100 * 101 / 2);
}

/* ---- a device ---- */

static void dma_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	const uint8_t imm = (uint8_t)v;

	assert_int_equal(gmem_write(&rig.mem, 0x1401, &imm, 1), 0);
}

CODE(dma, "64",
     "xor %ebx, %ebx\n mov $100, %ecx\n mov $0x1400, %edx\n mov $0xd0000000, %esi\n"
     "1: mov %ecx, (%rsi)\n call *%rdx\n add %rax, %rbx\n dec %ecx\n jnz 1b\n"
     "mov %rbx, 0x6000\n" RIG_END);
CODE(dma_fn, "64", "mov $0, %eax\n ret\n");

static void test_device_writes_code(void **state)
{
	static const struct bus_ops ops = { rig_dev_read, dma_write, 8 };

	rig.dev.ops = &ops;
	RIG_CODE(0x1000, dma);
	RIG_CODE(0x1400, dma_fn);
	soft_rig_long(0x1000);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(ld_le64(rig.ram + 0x6000), 100 * 101 / 2);
}

/* ---- two vCPUs ---- */

struct second {
	struct thread t;
	enum accel_exit why;
};

static void second_main(void *arg)
{
	struct second *s = arg;

	s->why = soft_rig_run_cpu(1);
}

static void long_on(unsigned n, uint64_t ip, uint64_t sp)
{
	struct cpu_state *s = soft_rig_get(0);

	s->rip = ip;
	s->gpr[X86_RSP] = sp;
	s->mp = CPU_MP_RUN;
	soft_rig_set(n, s);
}

/*
 * The first writes code that the second runs, then says so; the second serializes, runs it, and
 * answers.  Each number must arrive.
 */
CODE(writer, "64",
     "mov $1, %ecx\n"
     "1: mov %ecx, 0xa001\n mov %ecx, 0x6100\n"
     "2: pause\n cmp %ecx, 0x6200\n jne 2b\n"
     "mov 0x6204, %eax\n cmp %ecx, %eax\n jne 3f\n"
     "inc %ecx\n cmp $3000, %ecx\n jne 1b\n movl $-1, 0x6100\n mov %ecx, 0x6000\n" RIG_END
     "3: mov %eax, 0x6300\n" RIG_END);
CODE(reader, "64",
     "mov $1, %esi\n mov $0xa000, %edx\n"
     "1: pause\n mov 0x6100, %edi\n cmp $-1, %edi\n je 9f\n cmp %esi, %edi\n jne 1b\n"
     "push %rdx\n xor %eax, %eax\n cpuid\n pop %rdx\n call *%rdx\n"
     "mov %eax, 0x6204\n mov %esi, 0x6200\n inc %esi\n jmp 1b\n"
     "9: hlt\n jmp 9b\n");
CODE(shared_fn, "64", "mov $0, %eax\n ret\n");

static void run_two(void)
{
	struct second s = { .why = ACCEL_EXIT_FAIL };
	struct err e = { 0 };

	rig.exited = false;
	assert_int_equal(thread_start(&s.t, "second", second_main, &s, &e), 0);
	enum accel_exit why = soft_rig_run();
	accel_kick(rig.cpu[1]);
	thread_join(&s.t);
	assert_int_equal(why, ACCEL_EXIT_KICK);
	assert_int_equal(s.why, ACCEL_EXIT_KICK);
}

static void test_cross_modify(void **state)
{
	RIG_CODE(0x1000, writer);
	RIG_CODE(0x1400, reader);
	RIG_CODE(0xa000, shared_fn);
	soft_rig_long(0x1000);
	long_on(1, 0x1400, 0x7800);
	run_two();
	assert_int_equal(ld_le32(rig.ram + 0x6300), 0);
	assert_int_equal(ld_le32(rig.ram + 0x6000), 3000);
}

/*
 * The first writes and runs code in a page where the second stores data without a pause: taking the
 * second's right to write away must not take the first for ever.
 */
CODE(rewriter, "64",
     "mov $1500, %ecx\n 1: mov %cl, 0x9001\n call 2f\n dec %ecx\n jnz 1b\n jmp 3f\n"
     "2: mov $0x9000, %eax\n jmp *%rax\n 3:\n" RIG_END);
CODE(rewritten, "64", "mov $0, %al\n ret\n");
CODE(storer, "64", "1: incl 0x9800\n incl 0x9804\n jmp 1b\n");

static void test_contended_page(void **state)
{
	uint64_t t = clock_ns();

	RIG_CODE(0x1000, rewriter);
	RIG_CODE(0x1400, storer);
	RIG_CODE(0x9000, rewritten);
	soft_rig_long(0x1000);
	long_on(1, 0x1400, 0x7800);
	run_two();
	printf("# %.1f us a round\n", (double)(clock_ns() - t) / 1500e3);
}

/* A device word that takes its time: others may run between load and store of a LOCK. */
static uint64_t slow_read(struct bus_range *r, uint64_t off, unsigned size)
{
	uint64_t v = rig.dev_value, end = clock_ns() + 20 * NS_PER_US;

	while (clock_ns() < end)
		sched_yield();
	return v;
}

/* Both count with LOCK in words across a page border, across a line border, and of a device. */
#define COUNT_LOOP                                                                       \
	"lock incl 0x6410\n8: pause\n cmpl $2, 0x6410\n jne 8b\n mov $1000, %ecx\n mov " \
	"$0xd0000000, %esi\n"                                                            \
	"1: lock incq 0xbffc\n lock addl $1, 0xc03e\n lock incl (%rsi)\n dec %ecx\n"     \
	"jnz 1b\n lock incl 0x6400\n"
CODE(count_a, "64", "mov $1, %eax\n" COUNT_LOOP "2: pause\n cmpl $2, 0x6400\n jne 2b\n" RIG_END);
CODE(count_b, "64", "mov $1, %eax\n" COUNT_LOOP "9: hlt\n jmp 9b\n");

static void test_split_locks(void **state)
{
	static const struct bus_ops ops = { slow_read, rig_dev_write, 8 };

	rig.dev.ops = &ops;
	RIG_CODE(0x1000, count_a);
	RIG_CODE(0x1400, count_b);
	soft_rig_long(0x1000);
	long_on(1, 0x1400, 0x7800);
	run_two();
	assert_int_equal(ld_le64(rig.ram + 0xbffc), 2000);
	assert_int_equal(ld_le32(rig.ram + 0xc03e), 2000);
	assert_int_equal(rig.dev_value, 2000);
}

/* ---- dirty log ---- */

CODE(touch, "64",
     "1: mov 0x6000, %eax\n mov 0x6004, %ecx\n test %ecx, %ecx\n jz 2f\n"
     "3: movb $1, (%rax)\n add $0x1000, %rax\n dec %ecx\n jnz 3b\n" RIG_END
     "jmp 1b\n 2: hlt\n jmp 2b\n");

static bool dirty_bit(const uint64_t *bits, uint64_t gpa)
{
	return bits[gpa >> 18] >> (gpa >> 12 & 63) & 1;
}

static void touch_pages(uint64_t gpa, unsigned n)
{
	st_le32(rig.ram + 0x6000, (uint32_t)gpa);
	st_le32(rig.ram + 0x6004, n);
	soft_rig_long(0x1000);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
}

static void test_dirty_log(void **state)
{
	static uint64_t bits[RIG_RAM / 4096 / 64];
	struct err e = { 0 };

	RIG_CODE(0x1000, touch);
	/* Write translations from before the log must not hide stores. */
	touch_pages(0x400000, 100);
	assert_int_equal(accel_dirty_start(rig.vm, &e), 0);
	for (unsigned round = 0; round < 5; round++) {
		touch_pages(0x400000 + round * 0x20000, 100);
		assert_int_equal(accel_dirty_sync(rig.vm, &e), 0);
		(void)gmem_dirty_take(&rig.mem, 0, bits);
		for (uint64_t p = 0x400000; p < 0x500000; p += 4096) {
			uint64_t from = 0x400000 + round * 0x20000;

			assert_int_equal(dirty_bit(bits, p), p >= from && p < from + 100 * 4096);
		}
	}
	/* Nothing ran since. */
	assert_int_equal(accel_dirty_sync(rig.vm, &e), 0);
	assert_int_equal(gmem_dirty_take(&rig.mem, 0, bits), 0);
	accel_dirty_stop(rig.vm);
}

/* A vCPU that writes all the time while another thread syncs: nothing is lost at the end. */
CODE(writes, "64",
     "xor %ecx, %ecx\n 1: mov %ecx, %eax\n and $255, %eax\n shl $12, %eax\n"
     "incl 0x400000(%rax)\n inc %ecx\n cmpl $0, 0x6000\n je 1b\n" RIG_END);

static void test_dirty_while_running(void **state)
{
	static uint64_t bits[RIG_RAM / 4096 / 64], all[RIG_RAM / 4096 / 64];
	static uint8_t copy[256 * 4096];
	struct err e = { 0 };

	RIG_CODE(0x1400, writes);
	st_le32(rig.ram + 0x6000, 0);
	memset(all, 0, sizeof(all));
	soft_rig_long(0x1000);
	long_on(1, 0x1400, 0x7800);
	memcpy(copy, rig.ram + 0x400000, sizeof(copy));
	assert_int_equal(accel_dirty_start(rig.vm, &e), 0);
	struct second s = { .why = ACCEL_EXIT_FAIL };
	rig.exited = false;
	assert_int_equal(thread_start(&s.t, "second", second_main, &s, &e), 0);
	for (unsigned round = 0; round < 200; round++) {
		if (round == 199) {
			st_le32(rig.ram + 0x6000, 1);
			thread_join(&s.t);
		}
		/* It gets somewhere in each round. */
		uint32_t was = ld32_once(rig.ram + 0x400000);
		while (round < 199 && ld32_once(rig.ram + 0x400000) == was)
			;
		assert_int_equal(accel_dirty_sync(rig.vm, &e), 0);
		(void)gmem_dirty_take(&rig.mem, 0, bits);
		for (unsigned p = 0; p < 256; p++)
			if (dirty_bit(bits, 0x400000 + p * 4096))
				memcpy(copy + p * 4096, rig.ram + 0x400000 + p * 4096, 4096);
	}
	assert_int_equal(s.why, ACCEL_EXIT_KICK);
	assert_memory_equal(copy, rig.ram + 0x400000, sizeof(copy));
	accel_dirty_stop(rig.vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_next_instruction, setup, teardown),
		cmocka_unit_test_setup_teardown(test_other_stores, setup, teardown),
		cmocka_unit_test_setup_teardown(test_page_border, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mixed_page, setup, teardown),
		cmocka_unit_test_setup_teardown(test_code_at_zero, setup, teardown),
		cmocka_unit_test_setup_teardown(test_short_block, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deep_calls, setup, teardown),
		cmocka_unit_test_setup_teardown(test_odd_returns, setup, teardown),
		cmocka_unit_test_setup_teardown(test_flags_return, setup, teardown),
		cmocka_unit_test_setup_teardown(test_change_caller, setup, teardown),
		cmocka_unit_test_setup_teardown(test_device_writes_code, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cross_modify, setup2, teardown),
		cmocka_unit_test_setup_teardown(test_contended_page, setup2, teardown),
		cmocka_unit_test_setup_teardown(test_split_locks, setup2, teardown),
		cmocka_unit_test_setup_teardown(test_dirty_log, setup, teardown),
		cmocka_unit_test_setup_teardown(test_dirty_while_running, setup2, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
