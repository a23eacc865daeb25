/*
 * Events of the software CPU that are easy to get wrong: virtual-8086 tasks, shadows, halting under
 * TF, traps of task switches, data and port breakpoints, error codes on the way into a handler, x87
 * errors as an interrupt.
 */
#include "accel/soft/mem.h"
#include "accel/soft/sys_int.h"
#include "lib/soft_tables.h"

static struct scpu *c;

static int setup(void **state)
{
	soft_rig_init(1);
	c = (struct scpu *)(void *)rig.cpu[0];
	return 0;
}

static int teardown(void **state)
{
	soft_rig_fini();
	return 0;
}

/* Runs the code at 0x1000 to its RIG_END. */
static void run_to_end(void)
{
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(rig.exit_value, 0x55);
}

/* A guest that does not end by itself must hear a kick. */
static void run_until_kick(void)
{
	struct err e = { 0 };
	struct thread t = { 0 };

	assert_int_equal(thread_start(&t, "kick", rig_kick_soon, NULL, &e), 0);
	assert_int_equal(accel_run(rig.cpu[0], &e), ACCEL_EXIT_KICK);
	thread_join(&t);
}

/* ---- virtual-8086 mode ---- */

CODE(to_vm86, "32",
     "push $0x111\n push $0x222\n push $0x600\n push $0x444\n"
     "push $0x500\n push $0x800\n push $0x23002\n push $0x180\n push $0x10\n iret\n");
CODE(vm86, "16", "mov %cs, %ax\n mov %ax, 0\n pushf\n pop %ax\n mov %ax, 2\n ud2\n");

static void test_vm86(void **state)
{
	const uint8_t *st = rig.ram + STACK0;

	RIG_CODE(0x1000, to_vm86);
	RIG_CODE(0x1810, vm86);
	prot_with_tables(0x1000);
	handlers(false);
	st_le32(rig.ram + TSS + 4, STACK0);
	st_le32(rig.ram + TSS + 8, 16);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(rig.exit_value, 0x80 | X86_EXC_UD);
	/* DS was 0x600; PUSHF shows IOPL 3 and not VM. */
	assert_int_equal(ld_le16(rig.ram + 0x6000), 0x180);
	assert_int_equal(ld_le16(rig.ram + 0x6002) & 0x3000, 0x3000);
	/* GS FS DS ES SS ESP EFLAGS CS EIP on the stack of ring 0; segments null, VM clear. */
	assert_int_equal(ld_le32(st - 4), 0x111);
	assert_int_equal(ld_le32(st - 8), 0x222);
	assert_int_equal(ld_le32(st - 12), 0x600);
	assert_int_equal(ld_le32(st - 16), 0x444);
	assert_int_equal(ld_le32(st - 20), 0x500);
	assert_int_equal(ld_le32(st - 24), 0x800);
	assert_int_equal(ld_le32(st - 28) & (X86_FL_VM | X86_FL_RF), X86_FL_VM | X86_FL_RF);
	assert_int_equal(ld_le32(st - 32), 0x180);
	assert_int_equal(ld_le32(st - 36), 0x10 + CODE_LEN(vm86) - 2);
	assert_true(c->seg[X86_DS].attr & SEG_UNUSABLE);
	assert_int_equal(c->cpl, 0);
	assert_false(c->rflags & X86_FL_VM);
}

/* ---- halting and shadows ---- */

/* The local APIC's timer as vector 0x40 once after about a millisecond. */
#define TIMER_ONCE                                      \
	"mov $0xfee000f0, %eax\n movl $0x1ff, (%rax)\n" \
	"mov $0xfee003e0, %eax\n movl $0xb, (%rax)\n"   \
	"mov $0xfee00320, %eax\n movl $0x40, (%rax)\n"  \
	"mov $0xfee00380, %eax\n movl $1000000, (%rax)\n"

CODE(sti_spin, "64", TIMER_ONCE "sti\n 1: jmp 1b\n");
CODE(end64, "64", RIG_END);

/* The shadow of STI covers one execution, not one address. */
static void test_sti_spin(void **state)
{
	uint64_t *pd3 = (uint64_t *)(void *)(rig.ram + RIG_PML4 + 0x3000);

	RIG_CODE(0x1000, sti_spin);
	RIG_CODE(0x1400, end64);
	long_with_tables(0x1000);
	pd3[503] = 0xfee00087;
	set_gate64(0x40, 0x1400, 8, 0x8e, 0);
	run_to_end();
}

CODE(hlt_step, "64", "pushfq\n orl $0x100, (%rsp)\n popfq\n hlt\n");

/* The trap of a single-stepped HLT ends the halt. */
static void test_hlt_step(void **state)
{
	RIG_CODE(0x1000, hlt_step);
	RIG_CODE(0x1400, end64);
	long_with_tables(0x1000);
	set_gate64(X86_EXC_DB, 0x1400, 8, 0x8e, 0);
	run_to_end();
	assert_int_equal(ld_le64(rig.ram + 0x7000 - 40), 0x1000 + CODE_LEN(hlt_step));
}

/* ---- traps of task switches ---- */

static void tss32(uint32_t at, uint32_t eip, unsigned trap)
{
	uint8_t *t = rig.ram + at;

	st_le32(t + 0x20, eip);
	st_le32(t + 0x24, 2);
	st_le32(t + 0x38, 0x6e00);
	for (unsigned n = 0; n < 6; n++)
		st_le16(t + 0x48 + 4 * n, n == 1 ? 8 : 16);
	st_le16(t + 0x64, (uint16_t)trap);
}

static void gate_task(unsigned vector, uint16_t sel)
{
	st_le64(rig.ram + IDT + 8 * vector, (uint64_t)sel << 16 | 0x85ull << 40);
}

CODE(ljmp30, "32", "ljmp $0x30, $0\n");
CODE(end32, "32", RIG_END);

/* T of the new TSS: #DB before its first instruction, and nothing was being delivered. */
static void test_task_trap(void **state)
{
	RIG_CODE(0x1000, ljmp30);
	RIG_CODE(0x1400, end32);
	prot_with_tables(0x1000);
	tss32(TSS2, 0x1500, 1);
	set_gate32(X86_EXC_DB, 0x1400, 8, 0x8e);
	run_to_end();
	assert_int_equal(ld_le32(rig.ram + 0x6e00 - 12), 0x1500);
	assert_int_equal(c->dr6 & X86_DR6_BT, X86_DR6_BT);
}

/*
 * Two tasks with T set that deliver #DB and #GP for each other.  Their TSSs lie so that saving EDI
 * makes their own descriptors not busy again: an endless chain of deliveries without an instruction
 * between, out of which a kick must find.
 */
static void test_task_trap_chain(void **state)
{
	RIG_CODE(0x1000, ljmp30);
	prot_with_tables(0x1000);
	for (unsigned n = 0; n < 2; n++) {
		uint32_t base = GDT + 0x200 + 0x100 * n;
		unsigned slot = (base + 0x40 - GDT) / 8;
		uint64_t d = desc(base, 0x67, 0x89, 0);

		tss32(base, 0x1500, 1);
		/* Room for the error codes of all rounds. */
		st_le32(rig.ram + base + 0x38, RIG_RAM);
		set_gdt(slot, d);
		gate_task(n ? X86_EXC_GP : X86_EXC_DB, (uint16_t)(slot * 8));
		if (!n)
			set_gdt(6, d);
	}
	struct cpu_state *s = soft_rig_get(0);
	s->gdt.limit = 0x7ff;
	soft_rig_set(0, s);
	run_until_kick();
	/* It did get around. */
	assert_true(c->run->excs > 100);
}

/* ---- breakpoints on data and ports ---- */

/* Keeps RIP, RCX, RDI and DR6, then leaves. */
CODE(db_handler, "64",
     "mov (%rsp), %rax\n mov %rax, 0x6800\n mov %rcx, 0x6808\n mov %rdi, 0x6810\n"
     "mov %dr6, %rax\n mov %rax, 0x6818\n" RIG_END);

static void run_watched(uint64_t dr0, uint64_t dr7)
{
	RIG_CODE(0x1400, db_handler);
	long_with_tables(0x1000);
	set_gate64(X86_EXC_DB, 0x1400, 8, 0x8e, 1);
	st_le64(rig.ram + TSS + 0x24, 0x6700);
	struct cpu_state *s = soft_rig_get(0);
	s->dr[0] = dr0;
	s->dr7 = dr7;
	s->cr4 |= X86_CR4_DE;
	soft_rig_set(0, s);
	run_to_end();
	assert_int_equal(ld_le64(rig.ram + 0x6818) & 0xf, 1);
}

CODE(call_watched, "64",
     "xor %ecx, %ecx\n call 1f\n .fill 100, 1, 0x90\n 1: inc %ecx\n inc %ecx\n 2: inc %ecx\n "
     "jmp 2b\n");

/* A block's last instruction traps before the next block. */
static void test_watch_block_end(void **state)
{
	RIG_CODE(0x1000, call_watched);
	run_watched(0x6ff8, 0x90001);
	assert_int_equal(ld_le64(rig.ram + 0x6808), 0);
	assert_int_equal(ld_le64(rig.ram + 0x6800), 0x1000 + 7 + 100);
}

CODE(rep_watched, "64", "mov $0x6000, %edi\n mov $100, %ecx\n rep stosb\n 1: jmp 1b\n");

/* A repeated store traps after the element that hits. */
static void test_watch_rep(void **state)
{
	RIG_CODE(0x1000, rep_watched);
	run_watched(0x6003, 0x10001);
	assert_int_equal(ld_le64(rig.ram + 0x6800), 0x100a);
	assert_int_equal(ld_le64(rig.ram + 0x6808), 96);
	assert_int_equal(ld_le64(rig.ram + 0x6810), 0x6004);
}

CODE(port_watched, "64", "mov $1, %ecx\n out %al, $0xe8\n out %al, $0xe9\n inc %ecx\n 1: jmp 1b\n");

static void test_watch_port(void **state)
{
	RIG_CODE(0x1000, port_watched);
	run_watched(0xe9, 0x20001);
	assert_int_equal(ld_le64(rig.ram + 0x6808), 1);
	assert_int_equal(ld_le64(rig.ram + 0x6800), 0x1009);
}

/* ---- events that wait while the vCPU is out ---- */

/* What other CPUs sent is part of the state: INIT, start-up and NMI are not lost in a save. */
static void test_events_saved(void **state)
{
	struct cpu_state *s = soft_rig_get(0);

	cpu_state_reset(s, false, 0);
	soft_rig_set(0, s);
	assert_int_equal(soft_rig_get(0)->mp, CPU_MP_WAIT_SIPI);
	lapic_post_sipi(&c->lapic, 0x12);
	s = soft_rig_get(0);
	assert_int_equal(s->mp, CPU_MP_RUN);
	assert_int_equal(s->seg[X86_CS].base, 0x12000);
	assert_int_equal(s->rip, 0);
	lapic_post_event(&c->lapic, LAPIC_EV_NMI);
	assert_int_equal(soft_rig_get(0)->ev.nmi_pending, 1);
	lapic_post_event(&c->lapic, LAPIC_EV_INIT);
	s = soft_rig_get(0);
	assert_int_equal(s->mp, CPU_MP_WAIT_SIPI);
	/* A state that is loaded replaces what waits too. */
	lapic_post_sipi(&c->lapic, 0x12);
	soft_rig_set(0, s);
	assert_int_equal(soft_rig_get(0)->mp, CPU_MP_WAIT_SIPI);
}

/* ---- faults on the way into a handler ---- */

static struct outcome {
	int vector;
	uint32_t err;
} deliver(unsigned vector, enum soft_int kind)
{
	c->run->trap_set = true;
	c->ev.exc_pending = 0;
	if (!setjmp(c->trap)) {
		soft_interrupt(c, vector, kind, false, 0, 0x1234);
		return (struct outcome){ -1, 0 };
	}
	c->ev.exc_pending = 0;
	return (struct outcome){ c->ev.exc_vector, c->ev.exc_err };
}

/* SDM 2A INT n: a new stack without room is #SS with its selector; the old one's #SS has none. */
static void test_stack_error(void **state)
{
	prot_with_tables(0x1000);
	handlers(false);
	set_gate32(X86_EXC_UD, 0x2000, 8, 0xee);
	set_gdt(7, desc(0, 0x10, 0x93, 4));
	st_le32(rig.ram + TSS + 4, 8);
	st_le32(rig.ram + TSS + 8, 7 * 8);
	struct cpu_state *s = soft_rig_get(0);
	s->seg[X86_CS] = rig_seg(0x1b, 0xc0fb);
	s->seg[X86_SS] = rig_seg(0x23, 0xc0f3);
	soft_rig_set(0, s);
	assert_int_equal(c->cpl, 3);
	struct outcome o = deliver(X86_EXC_UD, SOFT_INT_EXC);
	assert_int_equal(o.vector, X86_EXC_SS);
	assert_int_equal(o.err, 7 * 8 | 1);
	o = deliver(X86_EXC_UD, SOFT_INT_SOFT);
	assert_int_equal(o.err, 7 * 8);

	s->seg[X86_CS] = rig_seg(8, 0xc09b);
	s->seg[X86_SS] = (struct cpu_seg){ .sel = 16, .limit = 0x10, .attr = 0x4093 };
	s->gpr[X86_RSP] = 4;
	soft_rig_set(0, s);
	o = deliver(X86_EXC_UD, SOFT_INT_EXC);
	assert_int_equal(o.vector, X86_EXC_SS);
	assert_int_equal(o.err, 1);
}

/* ---- x87 errors ---- */

/* Zero divide pending after the division. */
#define X87_ZERO_DIVIDE "fninit\n movw $0x37b, 0x6000\n fldcw 0x6000\n fld1\n fldz\n fdivrp\n"

CODE(mf_native, "32", X87_ZERO_DIVIDE "fwait\n");

static void test_mf(void **state)
{
	RIG_CODE(0x1000, mf_native);
	prot_with_tables(0x1000);
	handlers(false);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(rig.exit_value, 0x80 | X86_EXC_MF);
	assert_int_equal(ld_le32(rig.ram + 0x7000 - 12), 0x1000 + CODE_LEN(mf_native) - 1);
}

/* The 8259s at 0x20 and 0x28 with only inputs 2 and 13 open. */
#define PICS                                                                                   \
	"mov $0x11, %al\n out %al, $0x20\n out %al, $0xa0\n mov $0x20, %al\n out %al, $0x21\n" \
	"mov $0x28, %al\n out %al, $0xa1\n mov $4, %al\n out %al, $0x21\n mov $2, %al\n"       \
	"out %al, $0xa1\n mov $1, %al\n out %al, $0x21\n out %al, $0xa1\n"                     \
	"mov $0xfb, %al\n out %al, $0x21\n mov $0xdf, %al\n out %al, $0xa1\n"

CODE(ferr, "32",
     PICS X87_ZERO_DIVIDE "sti\n xor %ecx, %ecx\n fwait\n 1: inc %ecx\n"
			  /* Again, now by an instruction that has work to do. */
			  "fld1\n fldz\n fdivrp\n fld1\n"
			  "fstpl 0x6010\n cli\n" RIG_END);
/*
 * As old systems have it: counts, keeps EIP, lets IGNNE# in and uses the unit with the error still
 * pending, then clears it.
 */
CODE(ferr_handler, "32",
     "push %eax\n incl 0x6004\n mov 4(%esp), %eax\n mov %eax, 0x6008\n"
     "out %al, $0xf0\n fldpi\n fstpl 0x6018\n fnstsw %ax\n mov %ax, 0x600c\n fnclex\n"
     "mov $0x20, %al\n out %al, $0xa0\n out %al, $0x20\n pop %eax\n iret\n");

/* SDM 1 8.7.2: with CR0.NE clear the error is FERR#, which a PC makes IRQ 13. */
static void test_ferr(void **state)
{
	struct err e = { 0 };

	/* The test framework has taken SIGFPE since the machine was made. */
	assert_int_equal(soft_host_init(&e), 0);
	RIG_CODE(0x1000, ferr);
	RIG_CODE(0x1400, ferr_handler);
	prot_with_tables(0x1000);
	handlers(false);
	set_gate32(0x2d, 0x1400, 8, 0x8e);
	struct cpu_state *s = soft_rig_get(0);
	s->cr0 &= ~X86_CR0_NE;
	soft_rig_set(0, s);
	run_to_end();
	assert_int_equal(ld_le32(rig.ram + 0x6004), 2);
	/* The instruction that waits is the one that comes again: FLD1, two bytes. */
	uint32_t fld1 = 0x1000 + CODE_LEN(ferr) - 5 - 1 - 6 - 2;
	assert_int_equal(ld_le32(rig.ram + 0x6008), fld1);
	/* Zero divide and the summary were there all the time. */
	assert_int_equal(ld_le16(rig.ram + 0x600c) & 0x84, 0x84);
	assert_int_equal(ld_le64(rig.ram + 0x6010), 0x3ff0000000000000);
	assert_int_equal(ld_le64(rig.ram + 0x6018), 0x400921fb54442d18);
	assert_int_equal((uint32_t)c->gpr[X86_RCX], 1);
}

/* Without interrupts the CPU waits, and can be kicked. */
static void test_ferr_waits(void **state)
{
	RIG_CODE(0x1000, mf_native);
	prot_with_tables(0x1000);
	struct cpu_state *s = soft_rig_get(0);
	s->cr0 &= ~X86_CR0_NE;
	soft_rig_set(0, s);
	run_until_kick();
	assert_int_equal(c->rip, 0x1000 + CODE_LEN(mf_native) - 1);
}

CODE(fxrstor_es, "32",
     "fninit\n fxsave 0x6000\n movw $0x37b, 0x6000\n movw $4, 0x6002\n fxrstor 0x6000\n"
     "fnstsw 0x6300\n fwait\n");

/* The summary bit follows from flags and masks, whatever the image says (seen on the CPU). */
static void test_fxrstor_summary(void **state)
{
	RIG_CODE(0x1000, fxrstor_es);
	prot_with_tables(0x1000);
	handlers(false);
	struct cpu_state *s = soft_rig_get(0);
	s->cr4 |= X86_CR4_OSFXSR;
	soft_rig_set(0, s);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(rig.exit_value, 0x80 | X86_EXC_MF);
	assert_int_equal(ld_le16(rig.ram + 0x6300), 0x8084);
}

/* ---- addresses ---- */

CODE(maskmov32, "64",
     "mov %cr4, %rax\n or $0x40000, %eax\n mov %rax, %cr4\n"
     "mov $7, %eax\n xor %edx, %edx\n xor %ecx, %ecx\n xsetbv\n"
     "movq $0, 0x6000\n movl $-1, 0x6004\n vmovq 0x6000, %xmm1\n mov $0xfffffffc, %esi\n"
     "vmaskmovps (%esi), %xmm1, %xmm0\n");

/* An address size of 32 cuts the address of the operand, not those of its elements. */
static void test_maskmov_wrap(void **state)
{
	RIG_CODE(0x1000, maskmov32);
	long_with_tables(0x1000);
	handlers(true);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(rig.exit_value, 0x80 | X86_EXC_PF);
	assert_int_equal(soft_rig_get(0)->cr2, 0x100000000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_vm86, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sti_spin, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hlt_step, setup, teardown),
		cmocka_unit_test_setup_teardown(test_task_trap, setup, teardown),
		cmocka_unit_test_setup_teardown(test_task_trap_chain, setup, teardown),
		cmocka_unit_test_setup_teardown(test_watch_block_end, setup, teardown),
		cmocka_unit_test_setup_teardown(test_watch_rep, setup, teardown),
		cmocka_unit_test_setup_teardown(test_watch_port, setup, teardown),
		cmocka_unit_test_setup_teardown(test_events_saved, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stack_error, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mf, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ferr, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ferr_waits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fxrstor_summary, setup, teardown),
		cmocka_unit_test_setup_teardown(test_maskmov_wrap, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
