/*
 * Several processors: INIT and SIPI, locked operations, IPIs between them, a TLB shootdown, HLT and
 * wake-up, NMI, INIT of a running processor.
 */
#include "map.h"
#include "smp.h"

enum {
	APS = 3,
	ROUNDS = 2000,
};

static volatile uint64_t sum;
static volatile unsigned again, again_id;
static volatile unsigned stage, here[APS + 1], ipis, nmis, flush_done;
static volatile unsigned mine[8];
static volatile uint32_t lock_word;
static unsigned guarded;
static volatile uint32_t *const shared = (uint32_t *)(4ul << 39);
static volatile uint32_t seen[APS + 1];

static void on_ipi(struct frame *f)
{
	__atomic_fetch_add(&ipis, 1, __ATOMIC_SEQ_CST);
	mine[apic_rd(APIC_ID) >> 24]++;
	apic_eoi();
}

static void on_flush(struct frame *f)
{
	invlpg((void *)shared);
	apic_eoi();
	__atomic_fetch_add(&flush_done, 1, __ATOMIC_SEQ_CST);
}

static void on_nmi(struct frame *f)
{
	__atomic_fetch_add(&nmis, 1, __ATOMIC_SEQ_CST);
}

static void reach(unsigned n, unsigned s)
{
	here[n] = s;
	while (stage < s + 1)
		asm volatile("pause" : : : "memory");
}

static void add_much(void)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		asm volatile("lock incq %0" : "+m"(sum));
		while (__atomic_exchange_n(&lock_word, 1, __ATOMIC_ACQUIRE))
			asm volatile("pause");
		guarded++;
		__atomic_store_n(&lock_word, 0, __ATOMIC_RELEASE);
	}
}

void ap_work(unsigned number)
{
	apic_wr(APIC_SVR, APIC_SVR_ON | 0xff);
	if (number > APS) {
		again_id = apic_rd(APIC_ID) >> 24;
		again = number;
		return;
	}
	here[number] = 1;
	while (stage < 1)
		asm volatile("pause" : : : "memory");
	add_much();
	reach(number, 1);
	/* Halted until an IPI comes. */
	while (!mine[apic_rd(APIC_ID) >> 24])
		irq_wait();
	here[number] = 2;
	while (stage < 3)
		irq_window();
	seen[number] = *shared;
	here[number] = 3;
	while (stage < 4)
		irq_window();
	seen[number] = *shared;
	here[number] = 4;
	for (;;)
		asm volatile("cli; hlt");
}

static void all(unsigned s)
{
	for (unsigned i = 1; i <= APS; i++)
		while (here[i] != s)
			asm volatile("pause" : : : "memory");
}

static void others(unsigned lo)
{
	apic_wr(APIC_ICR_LO, 0xc4000 | lo);
	while (apic_rd(APIC_ICR_LO) & 1 << 12)
		asm volatile("pause");
}

static void test_flush(void)
{
	uint32_t *a = map_page(), *b = map_page();

	*a = 0xaaaa;
	*b = 0xbbbb;
	volatile uint64_t *e = map((ulong)shared, (ulong)a | 7);
	stage = 3;
	all(3);
	check("all see page a", seen[1] == 0xaaaa && seen[2] == 0xaaaa && seen[3] == 0xaaaa, 1);
	*e = (ulong)b | 7;
	invlpg((void *)shared);
	others(0x71);
	while (flush_done < APS)
		irq_window();
	stage = 4;
	all(4);
	check("all see page b", seen[1] == 0xbbbb && seen[2] == 0xbbbb && seen[3] == 0xbbbb, 1);
}

static void test_init(void)
{
	/* INIT takes a processor out of its halt, and a SIPI starts it anew, as number 4. */
	apic_wr(APIC_ICR_HI, 1 << 24);
	apic_wr(APIC_ICR_LO, 0x4500);
	apic_wr(APIC_ICR_LO, 0x4608);
	while (!again)
		asm volatile("pause" : : : "memory");
	check("started again", again, APS + 1);
	check("its apic id", again_id, 1);
}

int main(void)
{
	isr[0x70] = on_ipi;
	isr[0x71] = on_flush;
	isr[2] = on_nmi;
	smp_start(APS);
	all(1);
	check("started", 1, 1);
	stage = 1;
	add_much();
	all(1);
	stage = 2;
	while (sum < (APS + 1) * ROUNDS)
		asm volatile("pause");
	check("locked sum", sum, (APS + 1) * ROUNDS);
	others(0x70);
	all(2);
	check("ipis", ipis, APS);
	while (__atomic_exchange_n(&lock_word, 1, __ATOMIC_ACQUIRE))
		;
	check("guarded sum", guarded, (APS + 1) * ROUNDS);
	test_flush();
	others(0x400);
	while (nmis < APS)
		asm volatile("pause");
	check("nmis wake the halted", nmis, APS);
	test_init();
	return 0;
}
