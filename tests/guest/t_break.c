/* Breakpoints on instructions and data (SDM 3B 17.2). */
#include "exc.h"

static volatile uint32_t watched[4];
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

static inline void wr_dr7(ulong v)
{
	asm volatile("movq %0, %%dr7" : : "r"(v));
}

static inline void wr_dr0(ulong v)
{
	asm volatile("movq %0, %%dr0" : : "r"(v));
}

static void on_db(struct frame *f)
{
	if (hits < 16)
		rip[hits] = f->rip;
	hits++;
	dr6 = rd_dr6();
	wr_dr6(0xffff0ff0);
	/* An instruction breakpoint is a fault: RF lets it go on. */
	f->flags |= 1 << 16;
}

static void __attribute__((naked)) target(ulong a)
{
	asm volatile("nop; nop; ret");
}

static void __attribute__((naked)) store(ulong a)
{
	asm volatile("movl $5, (%rdi); nop; ret");
}

static void __attribute__((naked)) load(ulong a)
{
	asm volatile("movl (%rdi), %eax; nop; ret");
}

static void test_breakpoints(bool user)
{
	hits = 0;
	wr_dr0((ulong)target + 1);
	wr_dr7(0x402);
	check(user ? "instruction user" : "instruction",
	      user ? catch_user(target, 0, NULL) : catch (target, 0, NULL), -1);
	check("hit once", hits, 1);
	check("dr6.b0", dr6 & 0xf, 1);
	check("it is a fault", rip[0], (ulong)target + 1);
	hits = 0;
	wr_dr0((ulong)&watched[1]);
	/* 4 bytes, stores. */
	wr_dr7(0x402 | 0xd << 16);
	catch (user ? target : load, (ulong)&watched[1], NULL);
	check("a load is none", hits, 0);
	if (user)
		catch_user(store, (ulong)&watched[1], NULL);
	else
		catch (store, (ulong)&watched[1], NULL);
	check("store hit", hits, 1);
	check("store is a trap", rip[0], (ulong)store + 6);
	check("stored", watched[1], 5);
	wr_dr7(0x400);
}

int main(void)
{
	isr[1] = on_db;
	wr_dr6(0xffff0ff0);
	wr_dr0((ulong)target + 1);
	wr_dr7(0x402);
	catch_user(target, 0, NULL);
	if (emulated() && !hits)
		skip("this host's KVM does not pass on the guest's breakpoints");
	test_breakpoints(true);
	test_breakpoints(false);
	return 0;
}
