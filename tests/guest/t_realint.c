/* INT n in real mode (SDM 3A 20.1.4). */
#include "guest.h"

volatile unsigned vector, ip, flags;

extern char stub_80[];
asm(".pushsection .text; .code16;"
    "stub_80: pushw %bp; movw %sp, %bp; pushl %eax; movl $0x80, vector; movzwl 2(%bp), %eax;"
    "movl %eax, ip; movzwl 6(%bp), %eax; movl %eax, flags; popl %eax; popw %bp; iretw;"
    ".code16gcc; .popsection");

int main(void)
{
	unsigned want;
	uint16_t after;

	if (emulated())
		skip("this host's KVM runs INT n in real mode for ever");
	asm volatile("movw %w0, (%1); movw $0, 2(%1)" : : "r"(stub_80), "r"(0x80 * 4) : "memory");
	asm volatile("movl $1f, %0; stc; sti; int $0x80; 1: pushfw; popw %1; cli"
		     : "=m"(want), "=r"(after)
		     :
		     : "memory", "cc");
	check("vector", vector, 0x80);
	check("ip is the next", ip, want & 0xffff);
	check("cf and if were pushed", flags & 0x201, 0x201);
	check("and came back", after & 0x201, 0x201);
	return 0;
}
