/*
 * All registers out of the engine and back in, several times, at a moment of the VMM's choosing:
 * nothing that the guest can see may change.
 */
#include "apic.h"

static volatile unsigned ticks;
static uint64_t vectors[4] = { 0x1111222233334444, 0x5555666677778888, 0x99aaaabbbbccccdd,
			       0xeeffffff00000001 };

static void on_tick(struct frame *f)
{
	ticks++;
	apic_eoi();
}

static void trip(void)
{
	board(CMD_STATE_TRIP, 0, 0);
	/* Time enough for the kick to come. */
	for (unsigned i = 0; i < 20; i++)
		inb(PORT_SCRATCH);
}

static void test_general(void)
{
	uint64_t out[6];

	asm volatile("movq $0x1234567890abcdef, %%r8; movq $-2, %%r9; movq $0x0f0f0f0f, %%r12;"
		     "stc; movl $0, %%eax; movw $0x544, %%dx; outl %%eax, %%dx;"
		     "movl $15, %%eax; movw $0x540, %%dx; stc; outl %%eax, %%dx; inl %%dx, %%eax;"
		     "pushfq; popq %0; movq %%r8, %1; movq %%r9, %2; movq %%r12, %3"
		     : "=m"(out[0]), "=m"(out[1]), "=m"(out[2]), "=m"(out[3])
		     :
		     : "rax", "rdx", "r8", "r9", "r12", "memory", "cc");
	check("carry", out[0] & 1, 1);
	check("r8", out[1], 0x1234567890abcdef);
	check("r9", out[2], (uint64_t)-2);
	check("r12", out[3], 0x0f0f0f0f);
}

static void test_msrs(void)
{
	static const uint32_t msr[] = { 0x174,      0x175,      0x176,      0xc0000081, 0xc0000082,
					0xc0000083, 0xc0000084, 0xc0000102, 0x277,      0x1a0 };
	uint64_t want[10];
	unsigned bad = 0;

	wrmsr(0x174, 8);
	wrmsr(0x175, 0xffff800000001000);
	wrmsr(0x176, 0xffff800000002000);
	wrmsr(0xc0000081, 0x0023001000000000);
	wrmsr(0xc0000082, 0xffff800000003000);
	wrmsr(0xc0000083, 0xffff800000004000);
	wrmsr(0xc0000084, 0x47700);
	wrmsr(0xc0000102, 0xffff800000005000);
	wrmsr(0x277, 0x0606060606060606);
	for (unsigned i = 0; i < 10; i++)
		want[i] = rdmsr(msr[i]);
	trip();
	for (unsigned i = 0; i < 10; i++)
		bad += rdmsr(msr[i]) != want[i];
	check("msrs", bad, 0);
}

static void test_control(void)
{
	ulong cr0 = rd_cr0(), cr4 = rd_cr4();
	uint64_t efer = rdmsr(0xc0000080), base = rdmsr(MSR_APIC_BASE);

	asm volatile("movq %0, %%dr0; movq %1, %%dr1" : : "r"(0x1000ul), "r"(0x2000ul));
	asm volatile("movq %0, %%cr8" : : "r"(3ul));
	trip();
	ulong d0, d1, cr8;
	asm volatile("movq %%dr0, %0; movq %%dr1, %1; movq %%cr8, %2"
		     : "=r"(d0), "=r"(d1), "=r"(cr8));
	check("cr0", rd_cr0(), cr0);
	check("cr4", rd_cr4(), cr4);
	check("cr8", cr8, 3);
	check("efer", rdmsr(0xc0000080), efer);
	check("apic base", rdmsr(MSR_APIC_BASE), base);
	check("dr0", d0, 0x1000);
	check("dr1", d1, 0x2000);
	asm volatile("movq %0, %%cr8" : : "r"(0ul));
}

static void test_apic(void)
{
	isr[0x60] = on_tick;
	apic_wr(APIC_SVR, APIC_SVR_ON | 0xff);
	apic_wr(APIC_LVT_ERROR, 0x61);
	apic_wr(APIC_LDR, 0x02000000);
	/* One waits in IRR, one timer runs. */
	apic_wr(APIC_ICR_LO, 0x44060);
	trip();
	check("svr", apic_rd(APIC_SVR) & 0x1ff, 0x1ff);
	check("lvt", apic_rd(APIC_LVT_ERROR) & 0xff, 0x61);
	check("ldr", apic_rd(APIC_LDR), 0x02000000);
	check("irr", apic_rd(APIC_IRR + 0x30) & 1, 1);
	irq_window();
	check("taken once", ticks, 1);
	/* Minutes at 1/128: still running however long the trip takes on a loaded host. */
	apic_wr(APIC_TIMER_DIV, 0xa);
	apic_wr(APIC_LVT_TIMER, 0x60);
	apic_wr(APIC_TIMER_INIT, 0xffffffff);
	uint32_t cur = apic_rd(APIC_TIMER_CUR);
	trip();
	check("timer still runs", apic_rd(APIC_TIMER_CUR) != 0, 1);
	check("timer not set back", apic_rd(APIC_TIMER_CUR) <= cur, 1);
	apic_wr(APIC_TIMER_DIV, 0xb);
	apic_wr(APIC_TIMER_INIT, 20000000);
	trip();
	while (ticks < 2)
		irq_wait();
	check("timer fired", ticks, 2);
	apic_wr(APIC_LVT_TIMER, APIC_DEADLINE | 0x60);
	wrmsr(MSR_DEADLINE, rdtsc() + 30000000);
	trip();
	while (ticks < 3)
		irq_wait();
	check("deadline fired", ticks, 3);
}

static void test_vectors(void)
{
	uint64_t out[4] = { 0 };

	asm volatile("movups %2, %%xmm3; movups %3, %%xmm11;"
		     "movl $0, %%eax; movw $0x544, %%dx; outl %%eax, %%dx;"
		     "movl $15, %%eax; movw $0x540, %%dx; outl %%eax, %%dx; inl %%dx, %%eax;"
		     "inl %%dx, %%eax; movups %%xmm3, %0; movups %%xmm11, %1"
		     : "=m"(*(uint64_t(*)[2])out), "=m"(*(uint64_t(*)[2])(out + 2))
		     : "m"(*(uint64_t(*)[2])vectors), "m"(*(uint64_t(*)[2])(vectors + 2))
		     : "rax", "rdx", "memory");
	check("xmm", memcmp(out, vectors, sizeof(out)), 0);
}

static void test_tsc(void)
{
	uint64_t before = rdtsc();

	trip();
	uint64_t after = rdtsc();
	/* Not back, and not far ahead (10 s at 5 GHz). */
	check("tsc forward", after > before, 1);
	check("tsc near", after - before < 50000000000, 1);
}

int main(void)
{
	test_general();
	test_msrs();
	test_control();
	test_apic();
	test_vectors();
	test_tsc();
	return 0;
}
