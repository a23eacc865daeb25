/*
 * Protected mode, 32 bits: segment limits and types, gates, privilege, 16-bit code, hardware task
 * switch (SDM 3A 5, 6, 7).
 */
#include "exc.h"
#include "sel.h"

#define SEL(n) (SEL_FREE + 8 * (n))

/* base, limit (in units of g), type byte (P DPL S type), flags nibble (G D/B L AVL). */
static void desc(unsigned n, uint32_t base, uint32_t limit, unsigned type, unsigned flags)
{
	gdt[SEL_FREE / 8 + n] = (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 |
				(uint64_t)type << 40 | (uint64_t)(limit >> 16 & 15) << 48 |
				(uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}

static void gate(unsigned n, unsigned sel, void (*to)(void), unsigned type)
{
	uint32_t off = (uint32_t)to;

	gdt[SEL_FREE / 8 + n] = (off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)type << 40 |
				(uint64_t)(off >> 16) << 48;
}

static uint8_t buf[8192] __attribute__((aligned(4096)));

/* Loads and stores through ES; arg: selector << 16 | offset. */
static void es_load(ulong a)
{
	asm volatile("movl %0, %%es; movb %%es:(%1), %%al; movl %2, %%es"
		     :
		     : "r"(a >> 16), "r"(a & 0xffff), "r"(SEL_KDATA)
		     : "eax", "memory");
}
static void es_store(ulong a)
{
	asm volatile("movl %0, %%es; movb $0x77, %%es:(%1); movl %2, %%es"
		     :
		     : "r"(a >> 16), "r"(a & 0xffff), "r"(SEL_KDATA)
		     : "memory");
}
static void es_load4(ulong a)
{
	asm volatile("movl %0, %%es; movl %%es:(%1), %%eax; movl %2, %%es"
		     :
		     : "r"(a >> 16), "r"(a & 0xffff), "r"(SEL_KDATA)
		     : "eax", "memory");
}
static void cs_store(ulong a)
{
	asm volatile("movb $1, %%cs:(%0)" : : "r"(a) : "memory");
}

static void fix_es(void)
{
	asm volatile("movl %0, %%es" : : "r"(SEL_KDATA));
}

static void test_limits(void)
{
	struct exc x;
	uint32_t b = (uint32_t)buf;

	desc(0, b, 99, 0x93, 4);
	buf[0] = buf[99] = 0;
	check("last byte", catch (es_store, SEL(0) << 16 | 99, &x), -1);
	check("stored with base", buf[99], 0x77);
	check("beyond the limit", catch (es_store, SEL(0) << 16 | 100, &x), 13);
	check("beyond the limit error", x.err, 0);
	check("4 bytes at the end", catch (es_load4, SEL(0) << 16 | 96, &x), -1);
	check("4 bytes over the end", catch (es_load4, SEL(0) << 16 | 97, &x), 13);
	desc(0, b, 1, 0x93, 0xc);
	check("in pages", catch (es_load, SEL(0) << 16 | 0x1fff, &x), -1);
	check("in pages, over", catch (es_load, SEL(0) << 16 | 0x2000, &x), 13);
	desc(0, b, 0xfff, 0x97, 4);
	check("expand-down, in", catch (es_load, SEL(0) << 16 | 0x1000, &x), -1);
	check("expand-down, out", catch (es_load, SEL(0) << 16 | 0xfff, &x), 13);
	desc(0, b, 0xfff, 0x91, 4);
	check("read-only load", catch (es_load, SEL(0) << 16, &x), -1);
	check("read-only store", catch (es_store, SEL(0) << 16, &x), 13);
	desc(0, b, 0xfff, 0x99, 4);
	check("execute-only as data", catch (es_load, SEL(0) << 16, &x), 13);
	check("execute-only as data error", x.err, SEL(0));
	check("store by cs", catch (cs_store, b, &x), 13);
	check("null selector loads", catch (es_load, 0, &x), 13);
	check("null selector error", x.err, 0);
	fix_es();
}

static void test_accessed(void)
{
	desc(0, 0, 0xfff, 0x92, 4);
	asm volatile("movl %0, %%es; movl %1, %%es" : : "r"(SEL(0)), "r"(SEL_KDATA) : "memory");
	check("accessed bit", gdt[SEL_FREE / 8] >> 40 & 1, 1);
	ulong limit = 0, type = 0;
	bool zf;
	asm volatile("lsl %2, %0; setz %1" : "+r"(limit), "=q"(zf) : "r"(SEL(0)));
	check("lsl", zf ? limit : ~0ul, 0xfff);
	asm volatile("lar %2, %0; setz %1" : "+r"(type), "=q"(zf) : "r"(SEL(0)));
	check("lar", zf ? type & 0xf0ff00 : 0, 0x409300);
	asm volatile("verw %w1; setz %0" : "=q"(zf) : "r"(SEL(0)));
	check("verw", zf, 1);
	asm volatile("verw %w1; setz %0" : "=q"(zf) : "r"(SEL_KCODE));
	check("verw code", zf, 0);
}

volatile unsigned called, called_param;

static void __attribute__((naked)) gate_target(void)
{
	asm volatile("pushl %ds; pushl %eax; movl $0x10, %eax; movl %eax, %ds;"
		     "movl $1, called; movl 16(%esp), %eax;"
		     "movl %eax, called_param; popl %eax; popl %ds; lretl $4");
}

static void call_gate(ulong sel)
{
	/* Not on the stack, which moves. */
	static struct __attribute__((packed)) {
		uint32_t off;
		uint16_t sel;
	} to;

	to.sel = (uint16_t)sel;
	asm volatile("pushl $0x1234; lcall *%0" : : "m"(to) : "memory");
}

static void test_gates(void)
{
	struct exc x;

	gate(1, SEL_KCODE, gate_target, 0xec);
	gdt[SEL_FREE / 8 + 1] |= 1ull << 32;
	check("call gate from ring 0", catch (call_gate, SEL(1), &x), -1);
	check("called", called, 1);
	check("parameter on the same stack", called_param, 0x1234);
}

extern char code16[];
static volatile uint32_t result16;

static void call16(ulong sel)
{
	/* Not on the stack, which moves. */
	static struct __attribute__((packed)) {
		uint32_t off;
		uint16_t sel;
	} to;

	to.sel = (uint16_t)sel;
	asm volatile("movl $0x11111111, %%eax; lcall *%1; movl %%eax, %0"
		     : "=m"(result16)
		     : "m"(to)
		     : "eax", "ebx", "memory");
}

asm(".pushsection .text; .code16; code16: incw %ax; movl $0x22222222, %ebx; addw %bx, %ax;"
    "pushw $0x33; popw %bx; lretl; .code32; .popsection");

static void test_code16(void)
{
	struct exc x;

	desc(2, (uint32_t)code16, 0xffff, 0x9b, 0);
	check("16-bit code", catch (call16, SEL(2), &x), -1);
	check("16-bit add", result16, 0x11113334);
}

static struct tss other;
static uint8_t other_stack[4096] __attribute__((aligned(16)));
static volatile unsigned in_task, task_flags;

static void task_main(void)
{
	for (;;) {
		ulong f = flags_get();

		in_task++;
		task_flags = (unsigned)f;
		asm volatile("iret");
	}
}

static void call_task(ulong sel)
{
	/* Not on the stack, which moves. */
	static struct __attribute__((packed)) {
		uint32_t off;
		uint16_t sel;
	} to;

	to.sel = (uint16_t)sel;
	asm volatile("lcall *%0" : : "m"(to) : "memory");
}

static void test_task(void)
{
	struct exc x;

	other = (struct tss){
		.eip = (uint32_t)task_main,
		.eflags = 2,
		.esp = (uint32_t)(other_stack + sizeof(other_stack)),
		.es = SEL_KDATA,
		.cs = SEL_KCODE,
		.ss = SEL_KDATA,
		.ds = SEL_KDATA,
		.iomap = sizeof(other),
	};
	desc(3, (uint32_t)&other, sizeof(other) - 1, 0x89, 0);
	check("task", catch (call_task, SEL(3), &x), -1);
	check("task ran", in_task, 1);
	check("nested flag", task_flags >> 14 & 1, 1);
	check("back link", other.link & 0xffff, SEL_TSS);
	check("not busy any more", gdt[SEL_FREE / 8 + 3] >> 41 & 1, 0);
	check("we are busy", gdt[SEL_TSS / 8] >> 41 & 1, 1);
	check("task again", catch (call_task, SEL(3), &x), -1);
	check("task ran again", in_task, 2);
	check("cr0.ts set by a switch", rd_cr0() >> 3 & 1, 1);
	asm volatile("clts");
}

int main(void)
{
	test_limits();
	test_accessed();
	test_gates();
	test_code16();
	test_task();
	return 0;
}
