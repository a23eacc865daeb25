/*
 * HLT and what ends it; the shadow of STI and MOV SS; interrupts that come from outside at any
 * time.
 */
#include "apic.h"

static volatile unsigned count[256];
static volatile ulong rip;

static void on_irq(struct frame *f)
{
	count[f->vector]++;
	rip = f->rip;
	apic_eoi();
}

static void test_wake(void)
{
	for (unsigned i = 1; i <= 5; i++) {
		board(CMD_MSI_SET, APIC_BASE, 0x60);
		board(CMD_MSI_LATER, i, 0);
		while (count[0x60] < i)
			irq_wait();
	}
	check("woken by messages", count[0x60], 5);
	board(CMD_MSI_LATER, 5, 0);
	while (count[0x60] < 6)
		asm volatile("sti; pause; cli" : : : "memory");
	check("while it runs", count[0x60], 6);
}

static void test_rip(void)
{
	ulong after;

	board(CMD_MSI, APIC_BASE, 0x61);
	/* The interrupt is taken after HLT, not between STI and HLT. */
	asm volatile("leaq 1f(%%rip), %0; sti; hlt; 1: cli" : "=r"(after) : : "memory");
	check("taken after hlt", rip, after);
	check("once", count[0x61], 1);
}

static void test_masked(void)
{
	irq_off();
	board(CMD_MSI, APIC_BASE, 0x62);
	for (unsigned i = 0; i < 1000; i++)
		asm volatile("pause");
	check("cli holds", count[0x62], 0);
	irq_window();
	check("sti lets", count[0x62], 1);
}

static void on_nmi(struct frame *f)
{
	count[2]++;
	/* Another one waits for IRET. */
	if (count[2] == 1) {
		apic_wr(APIC_ICR_LO, 0x4400);
		for (unsigned i = 0; i < 1000; i++)
			asm volatile("pause");
		check("nmi blocks nmi", count[2], 1);
	}
}

static void test_nmi(void)
{
	isr[2] = on_nmi;
	apic_wr(APIC_ICR_LO, 0x4400);
	while (count[2] < 2)
		asm volatile("pause" : : : "memory");
	check("nmi with if clear", count[2], 2);
}

int main(void)
{
	apic_wr(APIC_SVR, APIC_SVR_ON | 0xff);
	for (unsigned v = 0x60; v < 0x68; v++)
		isr[v] = on_irq;
	test_wake();
	test_rip();
	test_masked();
	test_nmi();
	return 0;
}
