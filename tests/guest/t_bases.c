/* SWAPGS, FS and GS bases by MSR and by selector (SDM 3A 3.4.4). */
#include "exc.h"
#include "sel.h"

enum {
	FS_BASE = 0xc0000100,
	GS_BASE = 0xc0000101,
	KERNEL_GS = 0xc0000102,
};

static ulong gs_ld(void)
{
	ulong v;

	asm volatile("movq %%gs:0, %0" : "=r"(v));
	return v;
}

static ulong fs_ld(void)
{
	ulong v;

	asm volatile("movq %%fs:8, %0" : "=r"(v));
	return v;
}

static void do_base(ulong v)
{
	wrmsr(GS_BASE, v);
}

int main(void)
{
	static ulong a[2] = { 0xa0, 0xa1 }, b[2] = { 0xb0, 0xb1 };
	struct exc x;

	wrmsr(GS_BASE, (ulong)a);
	wrmsr(FS_BASE, (ulong)a);
	wrmsr(KERNEL_GS, (ulong)b);
	check("gs", gs_ld(), 0xa0);
	check("fs", fs_ld(), 0xa1);
	asm volatile("swapgs");
	check("swapped", gs_ld(), 0xb0);
	check("swapped msr", rdmsr(KERNEL_GS), (ulong)a);
	asm volatile("swapgs");
	check("swapped back", gs_ld(), 0xa0);
	check("gs base must be canonical", catch (do_base, 1ul << 63, &x), 13);
	asm volatile("movl %0, %%fs" : : "r"(0));
	asm volatile("movl %0, %%fs" : : "r"(SEL_UDATA));
	check("a selector sets the base", rdmsr(FS_BASE), 0);
	return 0;
}
