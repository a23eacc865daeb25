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

static void pass_ms(unsigned ms)
{
	uint32_t t = board(CMD_TIME, 0, 0);

	while (board(CMD_TIME, 0, 0) - t < ms)
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
	/* One-shot. */
	outb(0x43, 0x30);
	irq_window();
	ticks = 0;
	outb(0x40, 0x53);
	outb(0x40, 0x09);
	pass_ms(30);
	unsigned first = ticks;
	check("one-shot", first >= 1, 1);
	pass_ms(30);
	check("one-shot only once", ticks, first);
	ioapic_pin(2, APIC_MASKED, 0);
}

static void test_channel2(void)
{
	/* Gate on, speaker off; mode 0 raises the output at the end of the count. */
	outb(0x61, (inb(0x61) & 0xfc) | 1);
	outb(0x43, 0xb0);
	outb(0x42, 0xa9);
	outb(0x42, 0x04);
	check("output low", inb(0x61) >> 5 & 1, 0);
	uint32_t t = board(CMD_TIME, 0, 0);
	while (!(inb(0x61) & 0x20) && board(CMD_TIME, 0, 0) - t < 1000)
		;
	check("output high", inb(0x61) >> 5 & 1, 1);
}

int main(void)
{
	test_count();
	test_pic();
	test_ioapic();
	test_channel2();
	return 0;
}
