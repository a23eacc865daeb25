#include "smp.h"

extern char ap_start[], ap_start_end[];
static volatile unsigned ap_here;

void ap_main(unsigned number);

void __attribute__((weak)) ap_work(unsigned number)
{
}

void ap_main(unsigned number)
{
	__atomic_fetch_add(&ap_here, 1, __ATOMIC_SEQ_CST);
	ap_work(number);
}

void smp_start(unsigned n)
{
	memcpy((void *)0x8000, ap_start, (size_t)(ap_start_end - ap_start));
	apic_wr(APIC_SVR, APIC_SVR_ON | 0xff);
	apic_wr(APIC_ICR_HI, 0);
	/* INIT to all but self, then the start-up twice as the SDM says (3A 8.4.4.1). */
	apic_wr(APIC_ICR_LO, 0xc4500);
	apic_wr(APIC_ICR_LO, 0xc4608);
	apic_wr(APIC_ICR_LO, 0xc4608);
	while (ap_here < n)
		asm volatile("pause" : : : "memory");
}
