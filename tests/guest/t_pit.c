/* The 8254: counting, latching, read-back, interrupts by 8259 and I/O APIC, channel 2. */
#include "apic.h"

static volatile unsigned ticks;

static void on_pic(struct frame *f)
{
	ticks++;
	outb(0x20, 0x20);
}

static void on_apic(struct frame *f)
{
	ticks++;
	apic_eoi();
}

static unsigned latched(void)
{
	outb(0x43, 0);
	unsigned lo = inb(0x40);

	return lo | (unsigned)inb(0x40) << 8;
}

static void test_count(void)
{
	/* Channel 0, both bytes, mode 2. */
	outb(0x43, 0x34);
	outb(0x40, 0x00);
	outb(0x40, 0x80);
	unsigned a = latched();
	check("counts below its start", a <= 0x8000 && a > 0, 1);
	/* Read-back of the status: mode 2, both bytes. */
	outb(0x43, 0xe2);
	check("status", inb(0x40) & 0x3f, 0x34);
}

static void test_pic(void)
{
	isr[0x20] = on_pic;
	apic_wr(APIC_SVR, APIC_SVR_ON | 0xff);
	apic_wr(APIC_LVT_LINT0, 0x700);
	pic_init(0x20, 0x28, 1);
	/* 2 ms. */
	outb(0x43, 0x34);
	outb(0x40, 0x53);
	outb(0x40, 0x09);
	while (ticks < 5)
		irq_wait();
	check("ticks by the 8259", ticks >= 5, 1);
	outb(0x21, 0xff);
	apic_wr(APIC_LVT_LINT0, APIC_MASKED);
}

/* Ticks that come while the guest does not take interrupts are not lost: guests count them. */
static void test_late(void)
{
	uint32_t before = board(CMD_TIME, 0, 0), after, now;
	bool all = false;

	outb(0x21, 0xfe);
	apic_wr(APIC_LVT_LINT0, 0x700);
	/* 50 ms. */
	outb(0x43, 0x34);
	outb(0x40, 0x0b);
	outb(0x40, 0xe9);
	ticks = 0;
	after = now = board(CMD_TIME, 0, 0);
	while (board(CMD_TIME, 0, 0) - after < 310)
		;
	/* Six are late, which those on time never make good. */
	while (!all && now - after < 20000) {
		irq_window();
		now = board(CMD_TIME, 0, 0);
		all = ticks + 1 >= (now - after) / 50;
	}
	check("late ticks come", all, 1);
	check("and no others", ticks <= (board(CMD_TIME, 0, 0) - before) / 50 + 1, 1);
	outb(0x21, 0xff);
	apic_wr(APIC_LVT_LINT0, APIC_MASKED);
}

static void pass_ms(unsigned ms)
{
	uint32_t t = board(CMD_TIME, 0, 0);

	while (board(CMD_TIME, 0, 0) - t < ms)
		irq_window();
}

/*
 * For as long as it takes, at most 20 s: the host may give this CPU time and the timer's thread
 * none.
 */
static void await_tick(void)
{
	uint32_t t = board(CMD_TIME, 0, 0);

	while (!ticks && board(CMD_TIME, 0, 0) - t < 20000)
		irq_window();
}

static void test_ioapic(void)
{
	isr[0x60] = on_apic;
	ticks = 0;
	ioapic_pin(2, 0x60, 0);
	while (ticks < 5)
		irq_wait();
	check("ticks by the I/O APIC", ticks >= 5, 1);
	/* One-shot.  Ticks on their way come too: KVM's goes on until the count is written. */
	outb(0x43, 0x30);
	irq_window();
	ticks = 0;
	outb(0x40, 0x53);
	outb(0x40, 0x09);
	await_tick();
	check("one-shot", ticks >= 1, 1);
	pass_ms(100);
	unsigned first = ticks;
	pass_ms(30);
	check("one-shot only once", ticks, first);
	ioapic_pin(2, APIC_MASKED, 0);
}

/*
 * Gate on, speaker off; mode 0 raises the output at the end of the count, of 54 ms.  ret_low_ms and
 * ret_high_ms: milliseconds from before the count was written to after the output was seen low, at
 * once, and high.
 */
static void count_channel2(bool *ret_low, uint32_t *ret_low_ms, uint32_t *ret_high_ms)
{
	uint32_t t = board(CMD_TIME, 0, 0);

	outb(0x61, (inb(0x61) & 0xfc) | 1);
	outb(0x43, 0xb0);
	outb(0x42, 0xff);
	outb(0x42, 0xff);
	*ret_low = !(inb(0x61) & 0x20);
	*ret_low_ms = board(CMD_TIME, 0, 0) - t;
	while (!(inb(0x61) & 0x20) && board(CMD_TIME, 0, 0) - t < 20000)
		;
	*ret_high_ms = board(CMD_TIME, 0, 0) - t;
}

static void test_channel2(void)
{
	uint32_t low_ms, high_ms;
	bool low;

	/* Once more if the host kept the CPU from looking in time. */
	for (unsigned n = 0; n < 50; n++) {
		count_channel2(&low, &low_ms, &high_ms);
		if (low || low_ms < 54)
			break;
	}
	check("output low", low, 1);
	check("output high", inb(0x61) >> 5 & 1, 1);
	check("not before the end", high_ms >= 54, 1);
}

int main(void)
{
	test_count();
	test_pic();
	test_late();
	test_ioapic();
	test_channel2();
	return 0;
}
