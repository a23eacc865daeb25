/*
 * Real mode: segments, the interrupt table, exceptions, far calls, strings, an interrupt through
 * the 8259 (SDM 3A 20.1).
 */
#include "guest.h"

/* Segment arithmetic: the same byte by two segments, and what lies above 1 MiB. */
static uint8_t far_ld(uint16_t seg, uint16_t off)
{
	uint8_t v;

	asm volatile("pushw %%es; movw %1, %%es; movb %%es:(%%bx), %0; popw %%es"
		     : "=q"(v)
		     : "r"(seg), "b"(off)
		     : "memory");
	return v;
}

static void far_st(uint16_t seg, uint16_t off, uint8_t v)
{
	asm volatile("pushw %%es; movw %1, %%es; movb %0, %%es:(%%bx); popw %%es"
		     :
		     : "q"(v), "r"(seg), "b"(off)
		     : "memory");
}

static void test_segments(void)
{
	far_st(0x9000, 0x1234, 0x5a);
	check("segment * 16", far_ld(0x9123, 0x0004), 0x5a);
	check("other alias", far_ld(0x8fff, 0x1244), 0x5a);
	far_st(0xffff, 0x0010, 0x66);
	check("above 1 MiB", far_ld(0xffff, 0x0010), 0x66);
	check("no wrap to 0", far_ld(0, 0) == 0x66 && far_ld(0, 1) == 0x66, 0);
}

struct ivt {
	uint16_t off, seg;
};
volatile unsigned vector, ip;
volatile unsigned resume;

extern char stub_0[], stub_6[], stub_13[], stub_irq[];
asm(".pushsection .text; .code16;"
    /* Notes where it was, and goes on at `resume`. */
    "stub_0: movl $0, vector; jmp fault_common;"
    "stub_6: movl $6, vector; jmp fault_common;"
    "stub_13: movl $13, vector;"
    "fault_common: pushw %bp; movw %sp, %bp; pushl %eax; movzwl 2(%bp), %eax; movl %eax, ip;"
    "movw resume, %ax; movw %ax, 2(%bp); popl %eax; popw %bp; iretw;"
    "stub_irq: pushw %ax; incl vector; movb $0x20, %al; outb %al, $0x20; popw %ax; iretw;"
    ".code16gcc; .popsection");

static void ivt_set(unsigned v, const char *to)
{
	asm volatile("movw %w0, (%1); movw $0, 2(%1)" : : "r"(to), "r"(v * 4) : "memory");
}

static void test_exceptions(void)
{
	unsigned want;

	ivt_set(0, stub_0);
	ivt_set(6, stub_6);
	ivt_set(13, stub_13);
	asm volatile("movl $1f, resume; movl $2f, %0; xorw %%dx, %%dx; movw $1, %%ax;"
		     "xorw %%cx, %%cx; 2: divw %%cx; 1:"
		     : "=m"(want)
		     :
		     : "eax", "ecx", "edx", "memory");
	check("divide", vector, 0);
	check("divide ip is the instruction", ip, want & 0xffff);
	asm volatile("movl $1f, resume; movl $2f, %0; 2: ud2; 1:" : "=m"(want) : : "memory");
	check("ud2", vector, 6);
	check("ud2 ip", ip, want & 0xffff);
	/* A word at the last byte of a segment (SDM 3A 20.1.4: #GP). */
	vector = 0;
	asm volatile("movl $1f, resume; movw $0xffff, %%bx; movw (%%bx), %%ax; 1:"
		     :
		     :
		     : "eax", "ebx", "memory");
	check("over the segment's end", vector, 13);
}

static void test_far(void)
{
	unsigned got = 0;

	asm volatile("pushw %%cs; pushw $1f; movl $0x1234, %%eax; ljmp $0x0010, $(2f - 0x100);"
		     "2: movw %%cs, %%ax; lretw; 1: movzwl %%ax, %0"
		     : "=r"(got)
		     :
		     : "eax", "memory");
	check("far jump changes cs", got, 0x10);
}

static void test_strings(void)
{
	static const char text[] = "sixteen bits....";
	static char copy[20];
	uint16_t si = (uint16_t)(uintptr_t)text, di = (uint16_t)(uintptr_t)copy, cx = sizeof(text);

	asm volatile("cld; rep movsb" : "+S"(si), "+D"(di), "+c"(cx) : : "memory");
	check("movsb", memcmp(copy, text, sizeof(text)), 0);
	check("movsb cx", cx, 0);
	check("movsb di", di, (uint16_t)(uintptr_t)copy + sizeof(text));
	cx = 100;
	di = (uint16_t)(uintptr_t)copy;
	asm volatile("repne scasb" : "+D"(di), "+c"(cx) : "a"('b') : "memory", "cc");
	check("scasb", di, (uint16_t)(uintptr_t)copy + 9);
}

static void test_flags(void)
{
	uint16_t f;

	asm volatile("pushw $0xfcd5; popfw; pushfw; popw %0; pushw $2; popfw; cld" : "=r"(f));
	/* Bit 15 is zero; TF would trap, so it is not set; the others stay (SDM 1 3.4.3). */
	check("popf", f & 0xf000, 0x7000);
	check("popf status", f & 0xff, 0xd7);
}

static void test_irq(void)
{
	vector = 0;
	ivt_set(0x25, stub_irq);
	outb(0x20, 0x11);
	outb(0x21, 0x20);
	outb(0x21, 4);
	outb(0x21, 1);
	outb(0x21, 0xff & ~(1 << 5));
	board(CMD_LINE_LATER, 3, 5);
	while (vector == 0)
		asm volatile("sti; hlt; cli" : : : "memory");
	check("interrupt wakes", vector, 1);
}

int main(void)
{
	test_segments();
	test_exceptions();
	test_far();
	test_strings();
	test_flags();
	test_irq();
	return 0;
}
