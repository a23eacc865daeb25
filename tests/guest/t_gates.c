/* Call gates from ring 3, in protected mode (SDM 3A 5.8). */
#include "exc.h"
#include "sel.h"

#define SEL(n) (SEL_FREE + 8 * (n))

static void gate(unsigned n, unsigned sel, void (*to)(void), unsigned type)
{
	uint32_t off = (uint32_t)to;

	gdt[SEL_FREE / 8 + n] = (off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)type << 40 |
				(uint64_t)(off >> 16) << 48;
}

volatile unsigned called, called_cs, called_param;

static void __attribute__((naked)) gate_target(void)
{
	asm volatile("pushl %ds; pushl %eax; movl $0x10, %eax; movl %eax, %ds;"
		     "movl $1, called; movl %cs, %eax; movl %eax, called_cs; movl 16(%esp), %eax;"
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

int main(void)
{
	struct exc x;

	gate(1, SEL_KCODE, gate_target, 0xec);
	gdt[SEL_FREE / 8 + 1] |= 1ull << 32;
	if (catch_user(call_gate, SEL(1) | 3, &x) == 6 && emulated())
		skip("this host's KVM has no call gates in ring 3");
	called = called_param = 0;
	check("call gate from ring 3", catch_user(call_gate, SEL(1) | 3, &x), -1);
	check("called in ring 0", called_cs & 3, 0);
	check("parameter copied", called_param, 0x1234);
	gate(1, SEL_KCODE, gate_target, 0x8c);
	check("gate of ring 0", catch_user(call_gate, SEL(1) | 3, &x), 13);
	check("gate of ring 0 error", x.err, SEL(1));
	gate(1, SEL_KCODE, gate_target, 0x6c);
	check("gate not present", catch_user(call_gate, SEL(1) | 3, &x), 11);
	check("gate not present error", x.err, SEL(1));
	check("far call to ring 0 code", catch_user(call_gate, SEL_KCODE, &x), 13);
	check("far call to ring 0 code error", x.err, SEL_KCODE);
	return 0;
}
