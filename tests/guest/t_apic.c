/*
 * The local APIC: registers, self-IPIs, priorities, EOI, timers (one-shot, periodic, TSC deadline),
 * x2APIC mode (SDM 3A 11).
 */
#include "apic.h"

static volatile unsigned count[256];
static volatile unsigned order[8], norder;

static volatile unsigned in_service;

static unsigned bit(unsigned reg, unsigned vector)
{
	return apic_rd(reg + vector / 32 * 16) >> vector % 32 & 1;
}

static void on_irq(struct frame *f)
{
	in_service = bit(APIC_ISR, (unsigned)f->vector);
	count[f->vector]++;
	if (norder < 8)
		order[norder++] = (unsigned)f->vector;
	apic_eoi();
}

static void on_x2(struct frame *f)
{
	count[f->vector]++;
	wrmsr(MSR_X2APIC + (APIC_EOI >> 4), 0);
}

static void test_registers(void)
{
	check("apic base", rdmsr(MSR_APIC_BASE), APIC_BASE | 1 << 11 | 1 << 8);
	check("id", apic_rd(APIC_ID) >> 24, 0);
	check("version", apic_rd(APIC_VERSION) & 0xff, 0x14);
	check("lvts", (apic_rd(APIC_VERSION) >> 16 & 0xff) >= 5, 1);
	apic_wr(APIC_SVR, APIC_SVR_ON | 0xff);
	check("svr", apic_rd(APIC_SVR) & 0x1ff, 0x1ff);
	apic_wr(APIC_TPR, 0x50);
	check("tpr", apic_rd(APIC_TPR), 0x50);
	check("ppr", apic_rd(APIC_PPR), 0x50);
	ulong cr8;
	asm volatile("movq %%cr8, %0" : "=r"(cr8));
	check("cr8", cr8, 5);
	asm volatile("movq %0, %%cr8" : : "r"(0ul));
	check("tpr by cr8", apic_rd(APIC_TPR), 0);
}

static void self_ipi(unsigned vector)
{
	apic_wr(APIC_ICR_LO, 0x44000 | vector);
}

static void test_ipi(void)
{
	irq_off();
	self_ipi(0x51);
	check("waits in irr", bit(APIC_IRR, 0x51), 1);
	check("not yet", count[0x51], 0);
	irq_wait();
	check("taken", count[0x51], 1);
	/* An emulating KVM ends an interrupt as it delivers it. */
	check("in service meanwhile", in_service, !emulated());
	check("irr empty", bit(APIC_IRR, 0x51), 0);
	check("isr empty", bit(APIC_ISR, 0x51), 0);
	/* Two are one; higher classes first. */
	norder = 0;
	self_ipi(0x52);
	self_ipi(0x52);
	self_ipi(0x73);
	self_ipi(0x61);
	irq_window();
	check("once", count[0x52], 1);
	check("order 1", order[0], 0x73);
	check("order 2", order[1], 0x61);
	check("order 3", order[2], 0x52);
	apic_wr(APIC_TPR, 0x60);
	self_ipi(0x62);
	self_ipi(0x71);
	irq_window();
	check("above tpr", count[0x71], 1);
	check("below tpr", count[0x62], 0);
	apic_wr(APIC_TPR, 0);
	irq_window();
	check("after tpr", count[0x62], 1);
}

static void test_disabled(void)
{
	self_ipi(0x53);
	apic_wr(APIC_LVT_TIMER, 0x54);
	apic_wr(APIC_SVR, 0xff);
	check("svr off masks lvt", apic_rd(APIC_LVT_TIMER) & APIC_MASKED, APIC_MASKED);
	apic_wr(APIC_SVR, APIC_SVR_ON | 0xff);
	irq_window();
}

static void test_errors(void)
{
	apic_wr(APIC_ESR, 0);
	apic_wr(APIC_LVT_ERROR, 0x55);
	/* Vectors below 16 cannot be sent (SDM 3A 11.5.3). */
	self_ipi(5);
	apic_wr(APIC_ESR, 0);
	apic_wr(APIC_LVT_ERROR, APIC_MASKED);
	irq_window();
	check("nothing at vector 5", count[5], 0);
}

static void test_timer(void)
{
	apic_wr(APIC_TIMER_DIV, 0xb);
	apic_wr(APIC_LVT_TIMER, 0x58);
	apic_wr(APIC_TIMER_INIT, 2000000);
	check("counts", apic_rd(APIC_TIMER_CUR) <= 2000000, 1);
	while (!count[0x58])
		irq_wait();
	check("one-shot", count[0x58], 1);
	check("at zero", apic_rd(APIC_TIMER_CUR), 0);
	apic_wr(APIC_LVT_TIMER, APIC_PERIODIC | 0x59);
	apic_wr(APIC_TIMER_INIT, 1000000);
	while (count[0x59] < 3)
		irq_wait();
	apic_wr(APIC_TIMER_INIT, 0);
	check("stopped", apic_rd(APIC_TIMER_CUR), 0);
	check("one-shot stayed", count[0x58], 1);
}

static void test_deadline(void)
{
	uint32_t r[4];

	cpuid(1, 0, r);
	if (!(r[2] >> 24 & 1)) {
		note("no deadline timer");
		return;
	}
	apic_wr(APIC_LVT_TIMER, APIC_DEADLINE | 0x5a);
	wrmsr(MSR_DEADLINE, rdtsc() + 3000000);
	while (!count[0x5a])
		irq_wait();
	check("deadline", count[0x5a], 1);
	check("deadline disarmed", rdmsr(MSR_DEADLINE), 0);
	wrmsr(MSR_DEADLINE, 1);
	irq_wait();
	check("deadline in the past", count[0x5a], 2);
	wrmsr(MSR_DEADLINE, rdtsc() + (1ull << 40));
	wrmsr(MSR_DEADLINE, 0);
	check("deadline taken back", rdmsr(MSR_DEADLINE), 0);
	apic_wr(APIC_LVT_TIMER, APIC_MASKED);
}

static void do_rd(ulong msr)
{
	(void)rdmsr((uint32_t)msr);
}

static void test_x2apic(void)
{
	struct exc x;
	uint32_t r[4];

	cpuid(1, 0, r);
	check("x2apic offered", r[2] >> 21 & 1, 1);
	check("msr before", catch (do_rd, MSR_X2APIC + 2, &x), 13);
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 1 << 10);
	check("id", rdmsr(MSR_X2APIC + 2), 0);
	check("version", rdmsr(MSR_X2APIC + 3) & 0xff, 0x14);
	check("svr kept", rdmsr(MSR_X2APIC + 0xf), APIC_SVR_ON | 0xff);
	/* Logical ID: cluster 0, bit 0 (SDM 3A 11.12.10.2). */
	check("ldr", rdmsr(MSR_X2APIC + 0xd), 1);
	check("dfr is none", catch (do_rd, MSR_X2APIC + 0xe, &x), 13);
	isr[0x66] = on_x2;
	wrmsr(MSR_X2APIC + 0x3f, 0x66);
	irq_wait();
	check("self ipi", count[0x66], 1);
	wrmsr(MSR_X2APIC + 0x30, 0x66);
	irq_wait();
	check("ipi to id 0", count[0x66], 2);
	wrmsr(MSR_X2APIC + 0x30, 1ull << 32 | 0x800 | 0x66);
	irq_wait();
	check("logical ipi", count[0x66], 3);
}

int main(void)
{
	for (unsigned v = 0x50; v < 0x80; v++)
		isr[v] = on_irq;
	test_registers();
	test_ipi();
	test_disabled();
	test_errors();
	test_timer();
	test_deadline();
	test_x2apic();
	return 0;
}
