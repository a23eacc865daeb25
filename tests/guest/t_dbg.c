/* Single steps, INT1, debug registers (SDM 3B 17). */
#include "exc.h"

static volatile unsigned hits;
static volatile ulong dr6, rip[16];

static inline ulong rd_dr6(void)
{
	ulong v;

	asm volatile("movq %%dr6, %0" : "=r"(v));
	return v;
}

static inline void wr_dr6(ulong v)
{
	asm volatile("movq %0, %%dr6" : : "r"(v));
}

static void on_db(struct frame *f)
{
	if (hits < 16)
		rip[hits] = f->rip;
	hits++;
	dr6 = rd_dr6();
	wr_dr6(0xffff0ff0);
	if (hits > 12)
		f->flags &= ~0x100ul;
}

static void __attribute__((naked)) steps(ulong a)
{
	asm volatile("pushfq; orl $0x100, (%rsp); popfq; nop; nop; movl $1, %eax;"
		     "pushfq; andl $~0x100, (%rsp); popfq; nop; ret");
}

static void __attribute__((naked)) icebp(ulong a)
{
	asm volatile(".byte 0xf1; ret");
}

static void test_step(bool user)
{
	hits = 0;
	check(user ? "step user" : "step",
	      user ? catch_user(steps, 0, NULL) : catch (steps, 0, NULL), -1);
	/* After nop, nop, mov, pushfq, and, popfq. */
	check("steps", hits, 6);
	check("dr6.bs", dr6 >> 14 & 1, 1);
	check("first step", rip[0], (ulong)steps + 10);
}

static void do_dr4(ulong a)
{
	asm volatile("movq %%dr4, %%rax" : : : "rax");
}

int main(void)
{
	struct exc x;

	isr[1] = on_db;
	wr_dr6(0xffff0ff0);
	check("dr6", rd_dr6(), 0xffff0ff0);
	test_step(true);
	test_step(false);
	hits = 0;
	check("int1", catch (icebp, 0, NULL), -1);
	check("int1 hit", hits, 1);
	check("int1 is a trap", rip[0], (ulong)icebp + 1);
	wr_cr4(rd_cr4() | 8);
	check("dr4 with cr4.de", catch (do_dr4, 0, &x), 6);
	wr_cr4(rd_cr4() & ~8ul);
	check("dr4 is dr6", catch (do_dr4, 0, &x), -1);
	return 0;
}
