/* One instruction on another engine's state: what may be done, what comes back, what is refused. */
#include "accel/soft/assist.h"
#include "lib/soft_rig.h"

#include <errno.h>

static struct soft_assist *as;
static struct cpuid_table cpuid;
static uint32_t apic[64];
static bool apic_refuses;

static int apic_read(void *arg, unsigned off, uint32_t *ret)
{
	if (apic_refuses)
		return -EOPNOTSUPP;
	*ret = apic[off >> 4];
	return 0;
}

static int apic_write(void *arg, unsigned off, uint32_t v)
{
	if (apic_refuses)
		return -EOPNOTSUPP;
	apic[off >> 4] = v;
	return 0;
}

static uint64_t tsc(void *arg)
{
	return 1ull << 60;
}

static const struct soft_assist_ops ops = { apic_read, apic_write, tsc };

static int setup(void **state)
{
	struct err e = { 0 };

	soft_rig_init(1);
	cpuid = rig.cpu[0]->cpuid;
	const struct accel_opts o = {
		.ncpus = 1, .gmem = &rig.mem, .mmio = &rig.mmio, .pio = &rig.pio
	};
	/* The other engine of these tests is the rig's, at rest. */
	rig.mem.watch = NULL;
	apic_refuses = false;
	return soft_assist_new(&o, &cpuid, &ops, NULL, &as, &e);
}

static int teardown(void **state)
{
	soft_assist_free(as);
	soft_rig_fini();
	return 0;
}

/* 64-bit state at 0x1000 with this code there. */
static struct cpu_state *state_at(const uint8_t *code, size_t len)
{
	rig_put(0x1000, code, len);
	soft_rig_long(0x1000);
	return soft_rig_get(0);
}
#define STATE_AT(name) state_at((name), CODE_LEN(name))

enum {
	ALL = SOFT_ASSIST_REGS | SOFT_ASSIST_FPU | SOFT_ASSIST_MSR | SOFT_ASSIST_DEBUG |
	      SOFT_ASSIST_PDPTR,
};

static struct soft_assist_result run(struct cpu_state *s, unsigned have, unsigned max)
{
	struct soft_assist_result r;
	struct err e = { 0 };

	if (soft_assist_run(as, s, have, max, &r, &e) < 0)
		fail_msg("%s", e.msg);
	return r;
}

static int need(const uint8_t *p, size_t len)
{
	return soft_assist_need(as, p, (unsigned)len, 64);
}
#define NEED(name) need((name), CODE_LEN(name))

CODE(n_add, "64", "add %rax, %rbx\n");
CODE(n_paddd, "64", "paddd %xmm1, %xmm2\n");
CODE(n_fxsave, "64", "fxsave (%rax)\n");
CODE(n_syscall, "64", "syscall\n");
CODE(n_swapgs, "64", "swapgs\n");
CODE(n_dr, "64", "mov %rax, %dr7\n");
CODE(n_wrmsr, "64", "wrmsr\n");
CODE(n_out, "64", "out %al, %dx\n");
CODE(n_hlt, "64", "hlt\n");
CODE(n_invlpg, "64", "invlpg (%rax)\n");
CODE(n_ud, "64", ".byte 0x0f, 0xff\n");

static void test_need(void **state)
{
	assert_int_equal(NEED(n_add), SOFT_ASSIST_REGS);
	assert_int_equal(NEED(n_paddd), SOFT_ASSIST_REGS | SOFT_ASSIST_FPU);
	assert_int_equal(NEED(n_fxsave), SOFT_ASSIST_REGS | SOFT_ASSIST_FPU);
	assert_int_equal(NEED(n_syscall), SOFT_ASSIST_REGS | SOFT_ASSIST_MSR);
	assert_int_equal(NEED(n_swapgs), SOFT_ASSIST_REGS | SOFT_ASSIST_MSR);
	assert_int_equal(NEED(n_dr), SOFT_ASSIST_REGS | SOFT_ASSIST_DEBUG);
	assert_int_equal(NEED(n_wrmsr), -EOPNOTSUPP);
	assert_int_equal(NEED(n_out), -EOPNOTSUPP);
	assert_int_equal(NEED(n_hlt), -EOPNOTSUPP);
	assert_int_equal(NEED(n_invlpg), -EOPNOTSUPP);
	assert_int_equal(NEED(n_ud), SOFT_ASSIST_REGS);
}

CODE(one, "64", "add $5, %rax\n mov %rax, 0x6000\n");

static void test_one(void **state)
{
	struct cpu_state *s = STATE_AT(one);

	s->gpr[X86_RAX] = 37;
	struct soft_assist_result r = run(s, SOFT_ASSIST_REGS, 1);
	assert_int_equal(r.insns, 1);
	assert_int_equal(r.changed, SOFT_ASSIST_REGS);
	assert_string_equal(r.mnemonic, "ADD");
	assert_int_equal(s->gpr[X86_RAX], 42);
	assert_int_equal(s->rip, 0x1004);
	/* The store is one that KVM must see: not after the first. */
	s->rip = 0x1000;
	r = run(s, SOFT_ASSIST_REGS, 10);
	assert_int_equal(r.insns, 1);
	/* As the first it is done. */
	r = run(s, SOFT_ASSIST_REGS, 10);
	assert_string_equal(r.mnemonic, "MOV");
	assert_int_equal(ld_le64(rig.ram + 0x6000), 47);
}

CODE(vec, "64",
     "movdqu 0x6000, %xmm0\n paddd %xmm0, %xmm0\n movdqu %xmm0, 0x6010\n dec %ecx\n"
     "jnz vec\n rdmsr\n");

static void test_vector_run(void **state)
{
	struct cpu_state *s = STATE_AT(vec);
	static const uint32_t in[4] = { 1, 2, 3, 4 };

	rig_put(0x6000, in, sizeof(in));
	s->gpr[X86_RCX] = 3;
	struct soft_assist_result r = run(s, SOFT_ASSIST_REGS | SOFT_ASSIST_FPU, 100);
	/* Three rounds, and not the RDMSR. */
	assert_int_equal(r.insns, 15);
	assert_int_equal(s->rip, 0x1000 + CODE_LEN(vec) - 2);
	assert_int_equal(r.changed, SOFT_ASSIST_REGS | SOFT_ASSIST_FPU);
	for (unsigned n = 0; n < 4; n++)
		assert_int_equal(ld_le32(rig.ram + 0x6010 + 4 * n), 2 * in[n]);
	s->rip = 0x1000;
	s->gpr[X86_RCX] = 1000;
	r = run(s, SOFT_ASSIST_REGS | SOFT_ASSIST_FPU, 64);
	assert_int_equal(r.insns, 64);
}

static void test_refused(void **state)
{
	struct cpu_state *s = STATE_AT(n_wrmsr), before = *s;
	struct soft_assist_result r;
	struct err e = { 0 };

	assert_int_equal(soft_assist_run(as, s, ALL, 10, &r, &e), -EOPNOTSUPP);
	assert_memory_equal(s, &before, sizeof(before));
	/* It needs a part that is not there. */
	s = STATE_AT(n_paddd);
	before = *s;
	assert_int_equal(soft_assist_run(as, s, SOFT_ASSIST_REGS, 10, &r, &e), -EOPNOTSUPP);
	assert_memory_equal(s, &before, sizeof(before));
}

CODE(fault, "64", "movabs $0x7000000000, %rbx\n movdqu %xmm0, (%rbx)\n");

static void test_exception(void **state)
{
	struct cpu_state *s = STATE_AT(fault);

	st_le64(rig.ram + 0x3008, 0x00af9b000000ffff);
	s->gdt = (struct cpu_table){ 0x3000, 0x1f };
	s->idt = (struct cpu_table){ 0x4000, 0xfff };
	st_le64(rig.ram + 0x4000 + 16 * X86_EXC_PF, 0x8e0000082000ull);
	struct soft_assist_result r = run(s, SOFT_ASSIST_REGS | SOFT_ASSIST_FPU, 10);
	assert_int_equal(r.insns, 2);
	assert_false(r.triple_fault);
	assert_int_equal(s->rip, 0x2000);
	assert_int_equal(s->cr2, 0x7000000000);
	assert_int_equal(s->ev.exc_pending, 0);
	assert_int_equal(ld_le64(rig.ram + 0x7000 - 48), X86_PF_W);

	s = STATE_AT(fault);
	s->idt.limit = 0;
	r = run(s, SOFT_ASSIST_REGS | SOFT_ASSIST_FPU, 10);
	assert_true(r.triple_fault);
}

CODE(apic_rw, "64", "mov 0x80(%rsi), %eax\n");
CODE(apic_w, "64", "movl $7, 0x80(%rsi)\n");

static void test_apic(void **state)
{
	struct cpu_state *s = STATE_AT(apic_rw);
	uint64_t *pd3 = (uint64_t *)(void *)(rig.ram + RIG_PML4 + 0x3000);
	struct soft_assist_result r;
	struct err e = { 0 };

	pd3[503] = 0xfee00087;
	apic[8] = 0x33;
	s->gpr[X86_RSI] = 0xfee00000;
	run(s, SOFT_ASSIST_REGS, 1);
	assert_int_equal(s->gpr[X86_RAX], 0x33);

	s = STATE_AT(apic_w);
	s->gpr[X86_RSI] = 0xfee00000;
	run(s, SOFT_ASSIST_REGS, 1);
	assert_int_equal(apic[8], 7);

	apic_refuses = true;
	s->rip = 0x1000;
	struct cpu_state before = *s;
	assert_int_equal(soft_assist_run(as, s, SOFT_ASSIST_REGS, 1, &r, &e), -EOPNOTSUPP);
	assert_memory_equal(s, &before, sizeof(before));
}

CODE(locked, "64", "lock incl 0x400000\n");
CODE(mmio, "64", "movl $5, (%rsi)\n");
CODE(ticks, "64", "rdtsc\n");

static void test_memory(void **state)
{
	static uint64_t bits[RIG_RAM / 4096 / 64];
	struct err e = { 0 };
	struct cpu_state *s = STATE_AT(locked);

	assert_int_equal(gmem_log_start(&rig.mem, &e), 0);
	run(s, SOFT_ASSIST_REGS, 1);
	assert_int_equal(ld_le32(rig.ram + 0x400000), 1);
	/* The page of the word, and the page tables' accessed and dirty bits. */
	(void)gmem_dirty_take(&rig.mem, 0, bits);
	assert_true(bits[0x400000 >> 18] & 1);
	gmem_log_stop(&rig.mem);

	s = STATE_AT(mmio);
	s->gpr[X86_RSI] = RIG_MMIO;
	run(s, SOFT_ASSIST_REGS, 1);
	assert_int_equal(rig.dev_value, 5);

	s = STATE_AT(ticks);
	run(s, SOFT_ASSIST_REGS, 1);
	assert_int_equal(s->gpr[X86_RDX] >> 28, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_need, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one, setup, teardown),
		cmocka_unit_test_setup_teardown(test_vector_run, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_exception, setup, teardown),
		cmocka_unit_test_setup_teardown(test_apic, setup, teardown),
		cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
