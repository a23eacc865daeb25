/*
 * Exceptions of ring 0 and ring 3 in long mode: vector, error code, pushed RIP and flags, CR2 (SDM
 * 3A 6.15 has what each gives).
 */
#include "exc.h"
#include "sel.h"

/* A function of one instruction, whose address is that of the instruction. */
#define ONE(name, text)                                  \
	static void __attribute__((naked)) name(ulong a) \
	{                                                \
		asm volatile(text "; ret");              \
	}

ONE(do_ud2, "ud2")
ONE(do_int3, "int3")
ONE(do_int41, "int $0x41")
ONE(do_hlt, "hlt")
ONE(do_cli, "cli")
ONE(do_in, "inb $0x80, %al")
ONE(do_rdmsr, "movl $0xdeadbeef, %ecx; rdmsr")
ONE(do_rdcr, "movq %cr0, %rax")
ONE(do_lgdt, "lgdt (%rdi)")
ONE(do_store, "movl $1, (%rdi)")
ONE(do_load, "movl (%rdi), %eax")
ONE(do_ss_load, "movq %rdi, %rbp; movl (%rbp), %eax")
ONE(do_call, "jmp *%rdi")
ONE(do_ds, "movw %di, %ds")
ONE(do_ss, "movw %di, %ss")
ONE(do_ltr, "ltr %di")
ONE(do_lock_reg, ".byte 0xf0, 0x90")
ONE(do_long, ".fill 15, 1, 0x66; nop")
ONE(do_push_bad, "movq %rsp, %rax; movabsq $0x900000000000, %rsp; push %rax")
ONE(do_div0, "xorl %edx, %edx; movl $1, %eax; xorl %ecx, %ecx; divl %ecx")
ONE(do_cr4_bad, "movq %cr4, %rax; orq %rdi, %rax; movq %rax, %cr4")
ONE(do_clts_user, "clts")
ONE(do_iret_bad, "pushq $0; pushq $0; pushq $2; pushq $0x400; pushq $0; iretq")

static void __attribute__((naked)) do_into32(ulong a)
{
	/* Not in 64-bit mode (SDM 2A INT n). */
	asm volatile(".byte 0xce; ret");
}

static void __attribute__((naked)) do_fp(ulong a)
{
	asm volatile("fninit; ret");
}

static void do_nothing(ulong a)
{
}

static void ts_on(void)
{
	wr_cr0(rd_cr0() | 8);
}

static void ts_off(void)
{
	asm volatile("clts");
}

static void test_faults(void)
{
	struct exc x;

	check("no fault", catch (do_nothing, 0, &x), -1);
	check("ud2", catch (do_ud2, 0, &x), 6);
	check("ud2 rip", x.rip, (ulong)do_ud2);
	check("ud2 cs", x.cs, SEL_KCODE);
	check("div", catch (do_div0, 0, &x), 0);
	check("lock nop", catch (do_lock_reg, 0, &x), 6);
	check("16 bytes", catch (do_long, 0, &x), 13);
	check("16 bytes error", x.err, 0);
	check("into", catch (do_into32, 0, &x), 6);
	check("rdmsr unknown", catch (do_rdmsr, 0, &x), 13);
	check("cr4 reserved", catch (do_cr4_bad, 1ul << 31, &x), 13);
	check("non-canonical load", catch (do_load, 1ul << 63, &x), 13);
	check("non-canonical load error", x.err, 0);
	check("non-canonical by rbp", catch (do_ss_load, 1ul << 63, &x), 12);
	check("non-canonical by rbp error", x.err, 0);
	/* On that stack the exception could not be delivered either. */
	gate_ist(12, 1);
	check("non-canonical push", catch (do_push_bad, 0, &x), 12);
	check("non-canonical push rsp", x.rsp, 9ul << 44);
	gate_ist(12, 0);
}

static void test_segments(void)
{
	struct exc x;

	check("ds beyond gdt", catch (do_ds, 0x1000, &x), 13);
	check("ds beyond gdt error", x.err, 0x1000);
	gdt[SEL_FREE / 8] = 0x00cf13000000ffff;
	check("ds not present", catch (do_ds, SEL_FREE, &x), 11);
	check("ds not present error", x.err, SEL_FREE);
	check("ss not present", catch (do_ss, SEL_FREE, &x), 12);
	check("ss not present error", x.err, SEL_FREE);
	check("ss null", catch (do_ss, 3, &x), 13);
	check("ss wrong rpl", catch (do_ss, SEL_KDATA | 3, &x), 13);
	check("ss wrong rpl error", x.err, SEL_KDATA);
	check("ltr code", catch (do_ltr, SEL_KCODE, &x), 13);
	check("ltr code error", x.err, SEL_KCODE);
	check("ltr busy", catch (do_ltr, SEL_TSS, &x), 13);
	check("ltr busy error", x.err, SEL_TSS);
	check("iret to bad cs", catch (do_iret_bad, 0, &x), 13);
	check("iret to bad cs error", x.err, 0x400);
}

static void test_traps(void)
{
	struct exc x;

	check("int3", catch (do_int3, 0, &x), 3);
	check("int3 rip", x.rip, (ulong)do_int3 + 1);
	check("int n", catch (do_int41, 0, &x), 0x41);
	check("int n rip", x.rip, (ulong)do_int41 + 2);
	idt[0x41].attr &= 0x7f;
	check("int n not present", catch (do_int41, 0, &x), 11);
	check("int n not present error", x.err, 0x41 << 3 | 2);
	idt[0x41].attr |= 0x80;
}

static void test_fpu(void)
{
	struct exc x;

	ts_on();
	check("nm", catch (do_fp, 0, &x), 7);
	ts_off();
	check("no nm", catch (do_fp, 0, &x), -1);
	wr_cr0(rd_cr0() | 4);
	check("nm by em", catch (do_fp, 0, &x), 7);
	wr_cr0(rd_cr0() & ~4ul);
}

static void test_page_faults(void)
{
	struct exc x;
	/* Behind the 4 GiB that are mapped. */
	ulong none = 5ul << 30;

	check("pf read", catch (do_load, none + 0x123, &x), 14);
	check("pf read error", x.err, 0);
	check("pf read cr2", x.cr2, none + 0x123);
	check("pf write", catch (do_store, none + 8, &x), 14);
	check("pf write error", x.err, 2);
	check("pf fetch", catch (do_call, none, &x), 14);
	check("pf fetch rip", x.rip, none);
	check("pf user read", catch_user(do_load, none, &x), 14);
	check("pf user read error", x.err, 4);
	check("pf user write", catch_user(do_store, none, &x), 14);
	check("pf user write error", x.err, 6);
	/* The first byte is there, the page behind is not. */
	check("pf crossing", catch (do_load, (4ul << 30) - 2, &x), 14);
	check("pf crossing cr2", x.cr2, 4ul << 30);
}

static void test_user(void)
{
	struct exc x;

	check("user ud2", catch_user(do_ud2, 0, &x), 6);
	check("user cs", x.cs, SEL_UCODE);
	check("user rip", x.rip, (ulong)do_ud2);
	check("user hlt", catch_user(do_hlt, 0, &x), 13);
	check("user hlt error", x.err, 0);
	check("user cli", catch_user(do_cli, 0, &x), 13);
	check("user in", catch_user(do_in, 0, &x), 13);
	check("user rdmsr", catch_user(do_rdmsr, 0, &x), 13);
	check("user cr0", catch_user(do_rdcr, 0, &x), 13);
	check("user lgdt", catch_user(do_lgdt, (ulong)gdt, &x), 13);
	check("user clts", catch_user(do_clts_user, 0, &x), 13);
	check("user div", catch_user(do_div0, 0, &x), 0);
}

int main(void)
{
	test_faults();
	test_segments();
	test_traps();
	test_fpu();
	test_page_faults();
	test_user();
	return 0;
}
