/* What ring 3 may do by its gates and its IOPL: INT n, INT3, port I/O, CLI (SDM 3A 6.12.1.1,
 * 1 19.5). */
#include "exc.h"

#define ONE(name, text)                                  \
	static void __attribute__((naked)) name(ulong a) \
	{                                                \
		asm volatile(text "; ret");              \
	}

ONE(do_int41, "int $0x41")
ONE(do_int3, "int3")
ONE(do_cli, "cli")
ONE(do_in, "inb $0x80, %al")

int main(void)
{
	struct exc x;

	if (emulated() && catch_user(do_int41, 0, &x) == 6)
		skip("this host's KVM has no INT n and no IOPL in ring 3");
	check("user int n", catch_user(do_int41, 0, &x), 13);
	check("user int n error", x.err, 0x41 << 3 | 2);
	gate_dpl(0x41, 3);
	check("user int n allowed", catch_user(do_int41, 0, &x), 0x41);
	check("user int n rip", x.rip, (ulong)do_int41 + 2);
	gate_dpl(0x41, 0);
	check("user int3", catch_user(do_int3, 0, &x), 13);
	check("user int3 error", x.err, 3 << 3 | 2);
	gate_dpl(3, 3);
	check("user int3 allowed", catch_user(do_int3, 0, &x), 3);
	gate_dpl(3, 0);
	user_flags = 2 | 3 << 12;
	check("user in with iopl", catch_user(do_in, 0, &x), -1);
	check("user cli with iopl", catch_user(do_cli, 0, &x), -1);
	user_flags = 2;
	return 0;
}
