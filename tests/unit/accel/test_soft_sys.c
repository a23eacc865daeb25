/*
 * The system half of the software CPU: segment loads against a model, modes, exceptions and how
 * they combine, task switch, single steps, extended state, the clock, state in and out.
 */
#include "accel/soft/mem.h"
#include "accel/soft/sys_int.h"
#include "lib/soft_tables.h"

#include <errno.h>

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

/* ---- segment loads against the rules of SDM 3A 5.6, 5.7, written as a table ---- */

struct outcome {
	int vector;
	uint32_t err;
};

static struct outcome want_load(unsigned seg, uint16_t sel, uint64_t d, unsigned cpl, bool inside)
{
	const struct outcome fine = { -1, 0 };
	unsigned type = d >> 40 & 0x1f, dpl = d >> 45 & 3, rpl = sel & 3;
	bool s = type & 0x10, code = s && type & 8, conforming = code && type & 4;
	bool readable = s && (!code || type & 2), writable = s && !code && type & 2;
	struct outcome gp = { X86_EXC_GP, sel & 0xfffc };

	if (!(sel & 0xfffc))
		return seg == X86_SS ? (struct outcome){ X86_EXC_GP, 0 } : fine;
	if (!inside)
		return gp;
	if (seg == X86_SS) {
		if (rpl != cpl || dpl != cpl || !writable)
			return gp;
		if (!(d >> 47 & 1))
			return (struct outcome){ X86_EXC_SS, sel & 0xfffc };
		return fine;
	}
	if (!readable || (!conforming && (rpl > dpl || cpl > dpl)))
		return gp;
	if (!(d >> 47 & 1))
		return (struct outcome){ X86_EXC_NP, sel & 0xfffc };
	return fine;
}

static struct outcome do_load(unsigned seg, uint16_t sel)
{
	c->run->trap_set = true;
	c->ev.exc_pending = 0;
	if (!setjmp(c->trap)) {
		seg_load(c, NULL, seg, sel);
		return (struct outcome){ -1, 0 };
	}
	c->ev.exc_pending = 0;
	return (struct outcome){ c->ev.exc_vector, c->ev.exc_err };
}

static void test_segment_loads(void **state)
{
	static const uint8_t segs[] = { X86_ES, X86_SS, X86_DS, X86_FS, X86_GS };
	uint64_t s = t_seed(3), good = 0, bad = 0;

	prot_with_tables(0x1000);
	for (unsigned n = 0; n < 200000; n++) {
		unsigned slot = 8 + (unsigned)t_below(&s, 10), seg = segs[t_below(&s, 5)];
		uint16_t sel =
			(uint16_t)(t_below(&s, 20) ? slot * 8 | t_below(&s, 4) : t_below(&s, 4));
		unsigned access = (unsigned)t_rnd(&s) & 0xff;
		uint32_t base = (uint32_t)t_rnd(&s), limit = (uint32_t)t_rnd(&s) & 0xfffff;
		unsigned flags = (unsigned)t_below(&s, 16), cpl = (unsigned)t_below(&s, 4);

		if (t_below(&s, 4))
			access |= 0x90;
		if (slot < 16)
			set_gdt(slot, desc(base, limit, access, flags));
		c->cpl = (uint8_t)cpl;
		uint64_t d = desc(base, limit, access, flags);
		struct outcome want = want_load(seg, sel, d, cpl, slot < 16);
		struct outcome got = do_load(seg, sel);
		if (got.vector != want.vector || got.err != want.err)
			fail_msg("seg %u sel %#x desc %#lx cpl %u: %d(%#x), want %d(%#x)", seg, sel,
				 d, cpl, got.vector, got.err, want.vector, want.err);
		good += got.vector < 0;
		bad += got.vector >= 0;
		if (got.vector >= 0 || !(sel & 0xfffc))
			continue;
		const struct cpu_seg *g = &c->seg[seg];
		assert_int_equal(g->base, base);
		assert_int_equal(g->limit, flags & 8 ? limit << 12 | 0xfff : limit);
		assert_int_equal(g->sel, sel);
		/* Accessed now, in memory too. */
		assert_true(ld_le64(rig.ram + GDT + 8 * slot) >> 40 & 1);
	}
	assert_true(good > 10000 && bad > 10000);
}

/* The vector that an access raises, or -1. */
static int do_access(uint64_t ea, unsigned size)
{
	c->ev.exc_pending = 0;
	if (!setjmp(c->trap)) {
		(void)soft_lin(c, NULL, X86_DS, ea, size, false);
		return -1;
	}
	return c->ev.exc_vector;
}

/* Limits: every size at the edges of an expand-up and an expand-down segment. */
static void test_limits(void **state)
{
	prot_with_tables(0x1000);
	for (unsigned down = 0; down < 2; down++) {
		for (unsigned big = 0; big < 2; big++) {
			set_gdt(8, desc(0, 0x4fff, down ? 0x97 : 0x93, big ? 4 : 0));
			assert_int_equal(do_load(X86_DS, 0x40).vector, -1);
			soft_mode_changed(c);
			for (uint64_t ea = 0x4ff0; ea < 0x5010; ea++) {
				for (unsigned size = 1; size <= 8; size *= 2) {
					bool ok = down ? ea > 0x4fff : ea + size - 1 <= 0x4fff;

					if (down && !big)
						ok = ok && ea + size - 1 <= 0xffff;
					assert_int_equal(do_access(ea, size), ok ? -1 : X86_EXC_GP);
				}
			}
		}
	}
}

/* ---- from reset to 64-bit code ---- */

CODE(bring_up, "16",
     "cli\n xor %ax, %ax\n mov %ax, %ds\n"
     "lgdtl 0x3100\n"
     "mov %cr0, %eax\n or $1, %eax\n mov %eax, %cr0\n"
     "ljmpl $8, $(0x1000 + bu32 - bring_up)\n"
     ".code32\nbu32: mov $16, %eax\n mov %eax, %ds\n mov %eax, %ss\n mov $0x7000, %esp\n"
     "mov %cr4, %eax\n or $0x20, %eax\n mov %eax, %cr4\n"
     "mov $0x100000, %eax\n mov %eax, %cr3\n"
     "mov $0xc0000080, %ecx\n rdmsr\n or $0x100, %eax\n wrmsr\n"
     "mov %cr0, %eax\n or $0x80000000, %eax\n mov %eax, %cr0\n"
     "rdmsr\n mov %eax, 0x6000\n"
     "ljmp $24, $(0x1000 + bu64 - bring_up)\n"
     ".code64\nbu64: mov $0x1122334455667788, %rax\n mov %rax, 0x6008\n"
     "lea 0(%rip), %rbx\n mov %rbx, 0x6010\n" RIG_END);

static void test_bring_up(void **state)
{
	static const uint8_t gdtr[6] = { 0x1f, 0, 0x00, 0x30, 0, 0 };

	RIG_CODE(0x1000, bring_up);
	standard_gdt(0xc);
	set_gdt(3, desc(0, 0xfffff, 0x9b, 0xa));
	rig_put(0x3100, gdtr, sizeof(gdtr));
	rig_long_tables();
	soft_rig_real(0x1000);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(rig.exit_value, 0x55);
	/* LMA follows PG. */
	assert_int_equal(ld_le32(rig.ram + 0x6000), 0x500);
	assert_int_equal(ld_le64(rig.ram + 0x6008), 0x1122334455667788);
	assert_true(ld_le64(rig.ram + 0x6010) - 0x1000 < CODE_LEN(bring_up));
}

/* ---- exceptions ---- */

CODE(div32, "32", "xor %ecx, %ecx\n mov $1, %eax\n cltd\n div %ecx\n");
CODE(pf64, "64", "movabs $0x7000000000, %rbx\n movl $1, 4(%rbx)\n");
CODE(gp64, "64", "movabs $0x8000000000000000, %rbx\n mov (%rbx), %rax\n");
CODE(ss64, "64", "movabs $0x8000000000000000, %rsp\n push %rax\n");
CODE(ud64, "64", "ud2\n");

static void test_protected_exception(void **state)
{
	RIG_CODE(0x1000, div32);
	prot_with_tables(0x1000);
	handlers(false);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(rig.exit_value, 0x80 | X86_EXC_DE);
	/* EIP of the DIV, CS, EFLAGS with RF. */
	assert_int_equal(ld_le32(rig.ram + 0x7000 - 12), 0x1000 + CODE_LEN(div32) - 2);
	assert_int_equal(ld_le32(rig.ram + 0x7000 - 8), 8);
	assert_true(ld_le32(rig.ram + 0x7000 - 4) & X86_FL_RF);
}

static void test_long_exceptions(void **state)
{
	RIG_CODE(0x1000, pf64);
	long_with_tables(0x1000);
	handlers(true);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(rig.exit_value, 0x80 | X86_EXC_PF);
	assert_int_equal(soft_rig_get(0)->cr2, 0x7000000004);
	/* Error code, RIP, CS, RFLAGS, RSP, SS. */
	assert_int_equal(ld_le64(rig.ram + 0x7000 - 48), X86_PF_W);
	assert_int_equal(ld_le64(rig.ram + 0x7000 - 40), 0x1000 + 10);
	assert_int_equal(ld_le64(rig.ram + 0x7000 - 16), 0x7000);
	assert_int_equal(ld_le64(rig.ram + 0x7000 - 8), 16);

	RIG_CODE(0x1000, gp64);
	long_with_tables(0x1000);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(rig.exit_value, 0x80 | X86_EXC_GP);

	RIG_CODE(0x1000, ud64);
	long_with_tables(0x1000);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(rig.exit_value, 0x80 | X86_EXC_UD);

	/* The stack is bad too: #SS needs one of its own. */
	RIG_CODE(0x1000, ss64);
	long_with_tables(0x1000);
	st_le64(rig.ram + TSS + 0x24, 0x6c00);
	set_gate64(X86_EXC_SS, 0x2000 + 16 * X86_EXC_SS, 8, 0x8e, 1);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(rig.exit_value, 0x80 | X86_EXC_SS);
	assert_int_equal(ld_le64(rig.ram + 0x6c00 - 16), 0x8000000000000000);
}

/* A gate that is not present: #NP; #NP's gate not present: #DF; that one neither: shutdown. */
static void test_double_and_triple(void **state)
{
	RIG_CODE(0x1000, ud64);
	long_with_tables(0x1000);
	handlers(true);
	set_gate64(X86_EXC_UD, 0x2000, 8, 0x0e, 0);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(rig.exit_value, 0x80 | X86_EXC_NP);
	/* Vector 6's gate, IDT, EXT. */
	assert_int_equal(ld_le64(rig.ram + 0x7000 - 48), X86_EXC_UD * 8 + 3);

	long_with_tables(0x1000);
	set_gate64(X86_EXC_NP, 0x2000, 8, 0x0e, 0);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(rig.exit_value, 0x80 | X86_EXC_DF);
	assert_int_equal(ld_le64(rig.ram + 0x7000 - 48), 0);

	long_with_tables(0x1000);
	set_gate64(X86_EXC_DF, 0x2000, 8, 0x0e, 0);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_SHUTDOWN);
}

static void test_no_idt(void **state)
{
	RIG_CODE(0x1000, ud64);
	long_with_tables(0x1000);
	struct cpu_state *s = soft_rig_get(0);
	s->idt.limit = 0;
	soft_rig_set(0, s);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_SHUTDOWN);
}

/* ---- ring 3 and back: SYSCALL, SYSRET, an exception through the TSS ---- */

CODE(kernel64, "64",
     /* STAR, LSTAR, FMASK; then SYSRET to 0x1800. */
     "mov $0xc0000081, %ecx\n mov $0x00100008, %edx\n xor %eax, %eax\n wrmsr\n"
     "mov $0xc0000082, %ecx\n mov $0x1400, %eax\n xor %edx, %edx\n wrmsr\n"
     "mov $0xc0000084, %ecx\n mov $0x100, %eax\n xor %edx, %edx\n wrmsr\n"
     "mov $0x1800, %ecx\n mov $0x202, %r11d\n sysretq\n");
CODE(entry64, "64",
     "inc %rdi\n cmp $3, %rdi\n jne 1f\n mov %rsp, 0x6000\n mov %rcx, 0x6008\n mov %r11, 0x6010\n"
     "mov %cs, 0x6018\n mov %ss, 0x6020\n 1: sysretq\n");
CODE(user64, "64",
     "mov %cs, %eax\n mov %eax, 0x6028\n xor %edi, %edi\n syscall\n syscall\n stc\n syscall\n "
     "ud2\n");

static void test_syscall(void **state)
{
	RIG_CODE(0x1000, kernel64);
	RIG_CODE(0x1400, entry64);
	RIG_CODE(0x1800, user64);
	long_with_tables(0x1000);
	/* SYSRET takes CS from 0x10 + 16, SS from 0x10 + 8. */
	set_gdt(3, desc(0, 0xfffff, 0xf3, 0xc));
	set_gdt(4, desc(0, 0xfffff, 0xfb, 0xa));
	handlers(true);
	st_le64(rig.ram + TSS + 4, STACK0);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(rig.exit_value, 0x80 | X86_EXC_UD);
	/* RSP is the user's still. */
	assert_int_equal(ld_le64(rig.ram + 0x6000), 0x7000);
	assert_int_equal(ld_le64(rig.ram + 0x6008), 0x1800 + CODE_LEN(user64) - 2);
	assert_int_equal(ld_le64(rig.ram + 0x6010), 0x247);
	assert_int_equal(ld_le16(rig.ram + 0x6018), 8);
	assert_int_equal(ld_le16(rig.ram + 0x6020), 16);
	assert_int_equal(ld_le32(rig.ram + 0x6028), 0x23);
	/* The #UD came from ring 3 onto the TSS's stack. */
	assert_int_equal(ld_le64(rig.ram + STACK0 - 8), 0x1b);
	assert_int_equal(ld_le64(rig.ram + STACK0 - 32), 0x23);
	assert_int_equal(ld_le64(rig.ram + STACK0 - 40), 0x1800 + CODE_LEN(user64) - 2);
}

/* ---- hardware task switch ---- */

CODE(task_a, "32", "mov $0x1234, %ebx\n lcall $0x30, $0\n mov %ebx, 0x6000\n" RIG_END);
CODE(task_b, "32", "mov %eax, 0x6004\n pushf\n pop 0x6008\n iret\n");

static void test_task_switch(void **state)
{
	uint8_t *t = rig.ram + TSS2;

	RIG_CODE(0x1000, task_a);
	RIG_CODE(0x1400, task_b);
	prot_with_tables(0x1000);
	handlers(false);
	st_le32(t + 0x20, 0x1400);
	st_le32(t + 0x24, 2);
	st_le32(t + 0x28, 0xabcd);
	st_le32(t + 0x38, 0x6e00);
	for (unsigned n = 0; n < 6; n++)
		st_le16(t + 0x48 + 4 * n, n == 1 ? 8 : 16);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(rig.exit_value, 0x55);
	/* Our register came back out of our TSS; the other task had its own and NT. */
	assert_int_equal(ld_le32(rig.ram + 0x6000), 0x1234);
	assert_int_equal(ld_le32(rig.ram + 0x6004), 0xabcd);
	assert_true(ld_le32(rig.ram + 0x6008) & X86_FL_NT);
	assert_int_equal(ld_le16(t), 0x28);
	/* Saved: EIP behind the IRET, NT cleared. */
	assert_int_equal(ld_le32(t + 0x20), 0x1400 + CODE_LEN(task_b));
	assert_false(ld_le32(t + 0x24) & X86_FL_NT);
	/* Busy: the first again, not the second. */
	assert_int_equal(ld_le64(rig.ram + GDT + 5 * 8) >> 40 & 0xf, 0xb);
	assert_int_equal(ld_le64(rig.ram + GDT + 6 * 8) >> 40 & 0xf, 0x9);
	assert_true(soft_rig_get(0)->cr0 & X86_CR0_TS);
}

/* ---- single steps ---- */

CODE(stepped, "64",
     "pushfq\n orl $0x100, (%rsp)\n popfq\n nop\n nop\n mov $2, %ecx\n 1: loop 1b\n"
     "pushfq\n andl $~0x100, (%rsp)\n popfq\n nop\n" RIG_END);
/* Counts, and keeps the last RIP and DR6. */
CODE(step_handler, "64",
     "push %rax\n incl 0x6000\n mov 8(%rsp), %rax\n mov %rax, 0x6008\n mov %dr6, %rax\n"
     "mov %rax, 0x6010\n pop %rax\n iretq\n");

static void test_single_step(void **state)
{
	RIG_CODE(0x1000, stepped);
	RIG_CODE(0x1400, step_handler);
	long_with_tables(0x1000);
	set_gate64(X86_EXC_DB, 0x1400, 8, 0x8e, 0);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(rig.exit_value, 0x55);
	/* nop nop mov loop loop pushf and popf: POPF that clears TF still traps. */
	assert_int_equal(ld_le32(rig.ram + 0x6000), 8);
	assert_int_equal(ld_le64(rig.ram + 0x6010), 0xffff4ff0);
}

/* ---- interrupt shadow ---- */

CODE(shadow, "64",
     /* Self-IPI 0x40 with IF clear; STI must let exactly one instruction pass. */
     "mov $0xfee000f0, %eax\n movl $0x1ff, (%rax)\n"
     "mov $0xfee00300, %eax\n movl $0x44040, (%rax)\n"
     "xor %ecx, %ecx\n sti\n inc %ecx\n inc %ecx\n inc %ecx\n" RIG_END);
CODE(shadow_handler, "64", "mov %ecx, 0x6000\n" RIG_END);

static void test_shadow(void **state)
{
	uint64_t *pd3 = (uint64_t *)(void *)(rig.ram + RIG_PML4 + 0x3000);

	RIG_CODE(0x1000, shadow);
	RIG_CODE(0x1400, shadow_handler);
	long_with_tables(0x1000);
	pd3[503] = 0xfee00087;
	set_gate64(0x40, 0x1400, 8, 0x8e, 0);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(ld_le32(rig.ram + 0x6000), 1);
}

/* ---- XSAVE ---- */

CODE(xsave64, "64",
     "mov %cr4, %rax\n or $0x40000, %eax\n mov %rax, %cr4\n"
     "mov $7, %eax\n xor %edx, %edx\n xor %ecx, %ecx\n xsetbv\n"
     "fninit\n fld1\n"
     "mov $0x0123456789abcdef, %rax\n movq %rax, %xmm3\n vpbroadcastq %xmm3, %ymm15\n"
     "movl $0x1fa0, 0x6000\n ldmxcsr 0x6000\n"
     "mov $-1, %eax\n mov $-1, %edx\n xsave 0x8000\n"
     "vzeroall\n fninit\n movl $0x1f80, 0x6000\n ldmxcsr 0x6000\n"
     "xrstor 0x8000\n"
     "vmovdqu %ymm15, 0x6100\n fstpl 0x6120\n stmxcsr 0x6128\n"
     /* Everything to its initial state. */
     "vzeroall\n xsavec 0x9000\n"
     "movq $0, 0x8200\n xrstor 0x8000\n vmovdqu %ymm15, 0x6140\n fnstcw 0x6160\n"
     /* A header with a reserved bit: #GP. */
     "movq $8, 0x8200\n xrstor 0x8000\n");

static void test_xsave(void **state)
{
	RIG_CODE(0x1000, xsave64);
	memset(rig.ram + 0x8000, 0, 4096);
	memset(rig.ram + 0x9000, 0xee, 4096);
	memset(rig.ram + 0x9200, 0, 64);
	long_with_tables(0x1000);
	handlers(true);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(rig.exit_value, 0x80 | X86_EXC_GP);
	for (unsigned n = 0; n < 4; n++)
		assert_int_equal(ld_le64(rig.ram + 0x6100 + 8 * n), 0x0123456789abcdef);
	assert_int_equal(ld_le64(rig.ram + 0x6120), 0x3ff0000000000000);
	assert_int_equal(ld_le32(rig.ram + 0x6128), 0x1fa0);
	for (unsigned n = 0; n < 4; n++)
		assert_int_equal(ld_le64(rig.ram + 0x6140 + 8 * n), 0);
	assert_int_equal(ld_le16(rig.ram + 0x6160), 0x37f);
	/* XSAVEC: AVX was in its initial state and was not written; XCOMP_BV says all three. */
	assert_int_equal(ld_le64(rig.ram + 0x9200), 3);
	assert_int_equal(ld_le64(rig.ram + 0x9208), 0x8000000000000007);
	assert_int_equal(ld_le64(rig.ram + 0x9240 + 15 * 16), 0xeeeeeeeeeeeeeeee);
}

/* ---- MSRs and the clock ---- */

static void test_msrs(void **state)
{
	uint64_t v;

	soft_rig_long(0x1000);
	assert_false(msr_read(c, 0x12345678, &v));
	assert_false(msr_write(c, 0x12345678, 0));
	assert_false(msr_write(c, X86_MSR_LSTAR, 0x8000000000000000));
	assert_true(msr_write(c, X86_MSR_LSTAR, 0xffff800000000000));
	assert_true(msr_read(c, X86_MSR_LSTAR, &v));
	assert_int_equal(v, 0xffff800000000000);
	/* Memory type 2 is none. */
	assert_false(msr_write(c, X86_MSR_PAT, 0x0007040600070402));
	assert_true(msr_write(c, X86_MSR_PAT, 0x0007040600070401));
	assert_false(msr_write(c, X86_MSR_MTRR_DEF_TYPE, 0xc02));
	assert_true(msr_write(c, X86_MSR_MTRR_DEF_TYPE, 0xc06));
	/* LME cannot change while paging is on. */
	assert_false(msr_write(c, X86_MSR_EFER, X86_EFER_SCE));
	assert_true(msr_write(c, X86_MSR_EFER, X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA));
	assert_false(msr_write(c, X86_MSR_EFER, c->efer | X86_EFER_SVME));
	/* A write to the TSC shows in TSC_ADJUST, and the other way round. */
	assert_true(msr_write(c, X86_MSR_TSC_ADJUST, 1ull << 40));
	assert_true(msr_read(c, X86_MSR_TSC, &v));
	assert_true(v >> 40 && v >> 41 == 0);
	assert_true(msr_write(c, X86_MSR_TSC, 1ull << 50));
	assert_true(msr_read(c, X86_MSR_TSC_ADJUST, &v));
	assert_true(v > (1ull << 50) - (1ull << 40) && v < (1ull << 50) + (1ull << 41));
}

CODE(end64, "64", RIG_END);

/* Nanoseconds as a guest computes them from the page. */
static uint64_t pv_ns(const uint8_t *p, uint64_t tsc)
{
	uint64_t d = tsc - ld_le64(p + 8);
	int8_t shift = (int8_t)p[28];

	d = shift < 0 ? d >> -shift : d << shift;
	return ld_le64(p + 16) + (uint64_t)((unsigned __int128)d * ld_le32(p + 24) >> 32);
}

static void test_kvmclock(void **state)
{
	const uint8_t *p = rig.ram + 0x9000;

	soft_rig_long(0x1000);
	assert_true(msr_write(c, X86_MSR_KVM_SYSTEM_TIME, 0x9001));
	assert_false(ld_le32(p) & 1);
	assert_int_equal(p[29], 1);
	uint64_t t0 = clock_ns(), n0 = pv_ns(p, soft_tsc(c));
	while (clock_ns() - t0 < 20 * NS_PER_MS)
		;
	uint64_t dt = clock_ns() - t0, dn = pv_ns(p, soft_tsc(c)) - n0;
	/* The same 20 ms, to 1 %; a busy host delays one of the readings. */
	assert_true(dn > dt - dt / 100 && dn < dt + dt / 2);
	/* Time does not jump when the guest moves its TSC. */
	uint64_t before = pv_ns(p, soft_tsc(c));
	assert_true(msr_write(c, X86_MSR_TSC, 0));
	uint64_t after = pv_ns(p, soft_tsc(c));
	assert_true(after >= before && after - before < NS_PER_SEC);
	/* The record may lie across a page border; the second page's code is found too. */
	RIG_CODE(0x9000, end64);
	soft_rig_long(0x9000);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	uint64_t killed = code_stats(c)->invalidations;
	assert_true(msr_write(c, X86_MSR_KVM_SYSTEM_TIME, 0x8fe9));
	assert_int_equal(code_stats(c)->invalidations, killed + 1);
	assert_int_equal(rig.ram[0x8fe8 + 29], 1);
	/* A page outside RAM is nobody's trouble. */
	assert_true(msr_write(c, X86_MSR_KVM_SYSTEM_TIME, 0xfffffffffff1));
}

/* ---- control registers ---- */

static void test_control(void **state)
{
	soft_rig_long(0x1000);
	assert_false(sys_set_cr0(c, c->cr0 | 1ull << 32));
	assert_false(sys_set_cr0(c, c->cr0 & ~X86_CR0_PE));
	assert_false(sys_set_cr0(c, c->cr0 | X86_CR0_NW));
	/* Not out of 64-bit code. */
	assert_false(sys_set_cr0(c, c->cr0 & ~X86_CR0_PG));
	assert_false(sys_set_cr4(c, c->cr4 & ~X86_CR4_PAE));
	assert_false(sys_set_cr4(c, c->cr4 | X86_CR4_LA57));
	assert_false(sys_set_cr4(c, c->cr4 | X86_CR4_VMXE));
	assert_false(sys_set_cr3(c, 1ull << 60));
	c->cr3 |= 0x18;
	assert_false(sys_set_cr4(c, c->cr4 | X86_CR4_PCIDE));
	c->cr3 &= ~0xfffull;
	assert_true(sys_set_cr4(c, c->cr4 | X86_CR4_PCIDE));
	assert_true(sys_set_cr3(c, RIG_PML4 | 5 | 1ull << 63));
	assert_int_equal(c->cr3, RIG_PML4 | 5);
}

/* ---- state in and out ---- */

static void rnd_fill(uint64_t *s, void *p, size_t len)
{
	for (uint8_t *b = p; len; len--)
		*b++ = (uint8_t)t_rnd(s);
}

/* A hostile state is cut to one that can be; what comes out goes in unchanged. */
static void test_state(void **state)
{
	uint64_t s = t_seed(4);
	struct cpu_state *a = NULL, *b = NULL;

	assert_non_null(a = malloc(sizeof(*a)));
	assert_non_null(b = malloc(sizeof(*b)));
	struct cpu_state *good = malloc(sizeof(*good));
	assert_non_null(good);
	soft_rig_long(0x1000);
	*good = *soft_rig_get(0);
	for (unsigned n = 0; n < 2000; n++) {
		*a = *good;
		rnd_fill(&s, a, offsetof(struct cpu_state, msr));
		a->nmsr = good->nmsr;
		a->apic_base = good->apic_base;
		soft_rig_set(0, a);
		*a = *soft_rig_get(0);
		soft_rig_set(0, a);
		*b = *soft_rig_get(0);
		/* Time goes on, and is not compared. */
		a->nmsr = b->nmsr = 0;
		memset(a->msr, 0, sizeof(a->msr));
		memset(b->msr, 0, sizeof(b->msr));
		assert_memory_equal(a, b, sizeof(*a));
		assert_int_equal(c->gpr[SREG_NONE], 0);
		assert_true(c->cpl <= 3);
	}
	free(a);
	free(b);
	free(good);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_segment_loads, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bring_up, setup, teardown),
		cmocka_unit_test_setup_teardown(test_protected_exception, setup, teardown),
		cmocka_unit_test_setup_teardown(test_long_exceptions, setup, teardown),
		cmocka_unit_test_setup_teardown(test_double_and_triple, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_idt, setup, teardown),
		cmocka_unit_test_setup_teardown(test_syscall, setup, teardown),
		cmocka_unit_test_setup_teardown(test_task_switch, setup, teardown),
		cmocka_unit_test_setup_teardown(test_single_step, setup, teardown),
		cmocka_unit_test_setup_teardown(test_shadow, setup, teardown),
		cmocka_unit_test_setup_teardown(test_xsave, setup, teardown),
		cmocka_unit_test_setup_teardown(test_msrs, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kvmclock, setup, teardown),
		cmocka_unit_test_setup_teardown(test_control, setup, teardown),
		cmocka_unit_test_setup_teardown(test_state, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
