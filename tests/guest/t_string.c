/* String instructions over page borders, in both directions, and faults in the middle (SDM 2B). */
#include "map.h"

#define VA (6ul << 39)

static uint8_t a[3][4096] __attribute__((aligned(4096)));

struct regs {
	ulong rsi, rdi, rcx, rax;
};
static struct regs at;

static void do_movs(ulong back)
{
	if (back)
		asm volatile("std");
	asm volatile("rep movsb" : "+S"(at.rsi), "+D"(at.rdi), "+c"(at.rcx) : : "memory");
	asm volatile("cld");
}

/* The registers at the fault, not only those that the compiler would see. */
static struct frame last;

static void on_pf(struct frame *f)
{
	last = *f;
	exc_leave(f);
}

static void test_plain(void)
{
	for (unsigned i = 0; i < sizeof(a); i++)
		((uint8_t *)a)[i] = (uint8_t)(i * 7);
	at = (struct regs){ (ulong)a[0] + 4000, (ulong)a[1] + 4000, 200, 0 };
	check("movs", catch (do_movs, 0, NULL), -1);
	check("movs data", memcmp(a[0] + 4000, a[1] + 4000, 96), 0);
	check("movs rcx", at.rcx, 0);
	check("movs rsi", at.rsi, (ulong)a[0] + 4200);
	/* Overlapping by one: a fill. */
	a[0][0] = 0x42;
	at = (struct regs){ (ulong)a[0], (ulong)a[0] + 1, 300, 0 };
	catch (do_movs, 0, NULL);
	check("overlap fills", a[0][1] == 0x42 && a[0][300] == 0x42 && a[0][301] != 0x42, 1);
	at = (struct regs){ (ulong)a[1] + 99, (ulong)a[2] + 99, 200, 0 };
	catch (do_movs, 1, NULL);
	check("down", at.rdi, (ulong)a[2] + 99 - 200);
	check("down data", memcmp(a[2], a[1], 100), 0);
}

static void test_fault(void)
{
	map(VA, (ulong)a[0] | 7);
	*map_entry(VA + 4096, 1) = 0;
	invlpg((void *)(VA + 4096));
	isr[14] = on_pf;
	at = (struct regs){ (ulong)a[1], VA + 4096 - 100, 1000, 0 };
	memset(a[0] + 3996, 0, 100);
	check("fault", catch (do_movs, 0, NULL), 14);
	check("left", last.rcx, 900);
	check("rdi", last.rdi, VA + 4096);
	check("rsi", last.rsi, (ulong)a[1] + 100);
	check("done before it", memcmp(a[0] + 3996, a[1], 100), 0);
	check("cr2", rd_cr2(), VA + 4096);
	check("resume flag", last.flags >> 16 & 1, 1);
	at = (struct regs){ (ulong)a[1], VA + 4096 - 100, 1000, 0 };
	check("fault user", catch_user(do_movs, 0, NULL), 14);
	check("left user", last.rcx, 900);
	isr[14] = NULL;
}

static void test_compare(void)
{
	const uint8_t *s = a[0], *d = a[1];
	ulong n = 4096;
	bool zf;

	memset(a[0], 1, 4096);
	memset(a[1], 1, 4096);
	a[1][1000] = 2;
	asm volatile("repe cmpsb; setz %3"
		     : "+S"(s), "+D"(d), "+c"(n), "=q"(zf)
		     :
		     : "memory", "cc");
	check("cmps stops", n, 4096 - 1001);
	check("cmps zf", zf, 0);
	d = a[1];
	n = 512;
	asm volatile("repne scasq; setz %2"
		     : "+D"(d), "+c"(n), "=q"(zf)
		     : "a"(0x0101010101010102ul)
		     : "memory", "cc");
	check("scasq found", zf, 1);
	check("scasq rdi", (ulong)d, (ulong)a[1] + 1008);
	d = a[2];
	n = 100;
	asm volatile("rep stosq" : "+D"(d), "+c"(n) : "a"(0x1122334455667788) : "memory");
	check("stosq", *(uint64_t *)(a[2] + 792), 0x1122334455667788);
	check("stosq end", (ulong)d, (ulong)a[2] + 800);
	s = a[2];
	n = 3;
	ulong v = 0;
	asm volatile("rep lodsl" : "+S"(s), "+c"(n), "+a"(v) : : "memory");
	check("lodsl", v, 0x55667788);
}

int main(void)
{
	test_plain();
	test_fault();
	test_compare();
	return 0;
}
