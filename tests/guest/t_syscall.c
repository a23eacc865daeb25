/* SYSCALL and SYSRET, SYSENTER (SDM 2B, 3A 5.8). */
#include "exc.h"
#include "map.h"
#include "sel.h"

enum {
	EFER = 0xc0000080,
	STAR = 0xc0000081,
	LSTAR = 0xc0000082,
	FMASK = 0xc0000084,
};
/* The kernel's half, where ring 3 may not go: on_syscall() again. */
#define ENTRY 0xffffffff80100000

struct seen {
	ulong rcx, r11, cs, ss, flags, count;
} seen;
ulong saved_rsp;
uint8_t call_stack[4096] __attribute__((aligned(16)));

/* Notes what SYSCALL left and goes back.  Runs at ENTRY: nothing in it is relative to RIP. */
void __attribute__((naked, aligned(4096))) on_syscall(void);
void on_syscall(void)
{
	asm volatile("movq %rsp, saved_rsp; movq $call_stack + 4096, %rsp;"
		     "movq %rcx, seen; movq %r11, seen + 8; movq %cs, %rax; movq %rax, seen + 16;"
		     "movq %ss, %rax; movq %rax, seen + 24; pushfq; popq seen + 32;"
		     "incq seen + 40; movq saved_rsp, %rsp; sysretq");
}

static void __attribute__((naked)) user_calls(ulong n)
{
	asm volatile("stc; 1: movl $0x77, %eax; syscall; decq %rdi; jnz 1b; ret");
}

static void __attribute__((naked)) user_after(ulong out)
{
	asm volatile("movl $0x77, %eax; syscall; movq %cs, %rax; movq %rax, (%rdi);"
		     "movq %ss, %rax; movq %rax, 8(%rdi); ret");
}

/* Not by SYSCALL: before this address there is none. */
static void __attribute__((naked)) user_jumps(ulong a)
{
	asm volatile("nop; nop; 1: leaq 1b(%rip), %rcx; movq $0x202, %r11; jmp *%rdi");
}

/* Behind one, but to another address. */
static void __attribute__((naked)) user_misses(ulong a)
{
	asm volatile("jmp 1f; syscall; 1: leaq 1b(%rip), %rcx; movq $0x202, %r11; jmp *%rdi");
}

/*
 * As kernels' handlers begin.  Where KVM emulates ring 0 it does not know CLAC, and its host sees a
 * SYSCALL that came to ENTRY with the rights of ring 3.
 */
extern char exc_stubs[];
void __attribute__((naked)) on_page_fault(void);
void on_page_fault(void)
{
	asm volatile("clac; jmp exc_stubs + 14 * 16");
}

/* SMAP */
static bool has_clac(void)
{
	uint32_t r[4];

	cpuid(7, 0, r);
	return r[1] >> 20 & 1;
}

static void set_up(void)
{
	if (has_clac())
		gate_set(14, (ulong)on_page_fault);
	map(ENTRY, (ulong)on_syscall | PTE_P);
	/* SYSRET's CS is this + 16, SS this + 8. */
	wrmsr(STAR, (uint64_t)(SEL_UCODE - 19) << 48 | (uint64_t)SEL_KCODE << 32);
	wrmsr(LSTAR, ENTRY);
	wrmsr(FMASK, 0x40701);
}

static void do_syscall(ulong a)
{
	asm volatile("syscall" : : : "rcx", "r11", "memory");
}

static void test_syscall(void)
{
	struct exc x;
	static ulong after[2];

	set_up();
	if (catch_user(do_syscall, 0, &x) == 14 && emulated() && !has_clac())
		skip("this host's KVM does not enter ring 0 on SYSCALL, and has no CLAC");
	check("syscall without sce", catch_user(do_syscall, 0, &x), 6);
	wrmsr(EFER, rdmsr(EFER) | 1);
	check("one", catch_user(user_calls, 1, &x), -1);
	check("count", seen.count, 1);
	check("cs", seen.cs, SEL_KCODE);
	check("ss", seen.ss, SEL_KDATA);
	check("r11 has the flags", seen.r11 & 1, 1);
	check("masked flags", seen.flags & 0x701, 0);
	check("rcx is the return", seen.rcx > (ulong)user_calls, 1);
	check("many", catch_user(user_calls, 200, &x), -1);
	check("count of many", seen.count, 201);
	check("after", catch_user(user_after, (ulong)after, &x), -1);
	check("user cs", after[0], SEL_UCODE);
	check("user ss", after[1], SEL_UDATA);
	check("a jump there", catch_user(user_jumps, ENTRY, &x), 14);
	check("is a fetch of ring 3", x.err, 0x15);
	check("at the entry", x.rip, ENTRY);
	check("and no call", seen.count, 202);
	check("a jump near it", catch_user(user_misses, ENTRY + 16, &x), 14);
	check("is one", x.rip, ENTRY + 16);
	check("and no call either", seen.count, 202);
}

/*
 * With SMAP, and only what ring 3 needs in user pages: as kernels have it.  From the page of
 * smap_user() at SMAP_CODE to that of smap_entry() at ENTRY, which goes back to smap_call().
 */
#define SMAP_CODE 0x8000000000ul
#define SMAP_STACK 0x8000001000ul
ulong smap_sp;

void __attribute__((naked, aligned(4096))) smap_user(void);
void smap_user(void)
{
	asm volatile("syscall; ud2");
}

void __attribute__((naked, aligned(4096))) smap_entry(void);
void smap_entry(void)
{
	asm volatile("movq smap_sp, %rsp; incq seen + 40; movl $0x10, %eax; movl %eax, %ss;"
		     "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbp; popq %rbx; ret");
}

static void __attribute__((naked)) smap_call(ulong code, ulong stack)
{
	asm volatile("pushq %rbx; pushq %rbp; pushq %r12; pushq %r13; pushq %r14; pushq %r15;"
		     "movq %rsp, smap_sp; pushq $0x2b; pushq %rsi; pushq $2; pushq $0x33;"
		     "pushq %rdi; iretq");
}

/* User or supervisor: the memory that the guest itself is in. */
static void user_pages(bool on)
{
	for (ulong va = 0; va < 16ul << 20; va += 2ul << 20) {
		volatile uint64_t *e = map_entry(va, 2);

		*e = on ? *e | PTE_U : *e & ~(uint64_t)PTE_U;
	}
	wr_cr3(rd_cr3());
}

static void test_smap(void)
{
	if (!has_clac())
		return;
	map(SMAP_CODE, (ulong)smap_user | PTE_P | PTE_U);
	map(SMAP_STACK, (ulong)map_page() | PTE_P | PTE_W | PTE_U);
	map(ENTRY, (ulong)smap_entry | PTE_P);
	user_pages(false);
	wr_cr4(rd_cr4() | 1ul << 21);
	seen.count = 0;
	smap_call(SMAP_CODE, SMAP_STACK + 4096);
	wr_cr4(rd_cr4() & ~(1ul << 21));
	user_pages(true);
	check("with smap", seen.count, 1);
}

static void __attribute__((naked)) on_sysenter(void)
{
	asm volatile("incq seen + 40; sysexitq");
}

static void __attribute__((naked)) user_enters(ulong a)
{
	asm volatile("leaq 1f(%rip), %rdx; movq %rsp, %rcx; sysenter; 1: ret");
}

static void test_sysenter(void)
{
	struct exc x;
	uint32_t r[4];

	cpuid(0, 0, r);
	/* AMD's processors have it only outside long mode (APM 3 SYSENTER). */
	bool intel = r[1] == 0x756e6547;

	seen.count = 0;
	wrmsr(0x174, 0);
	check("sysenter without cs", catch_user(user_enters, 0, &x), intel ? 13 : 6);
	wrmsr(0x174, SEL_KCODE);
	wrmsr(0x175, (ulong)(call_stack + sizeof(call_stack)));
	wrmsr(0x176, (ulong)on_sysenter);
	check("sysenter msrs", rdmsr(0x174), SEL_KCODE);
}

int main(void)
{
	test_syscall();
	test_smap();
	test_sysenter();
	return 0;
}
