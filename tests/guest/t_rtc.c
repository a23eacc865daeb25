/* The clock chip's periodic interrupt: through the slave 8259 and the I/O APIC, and late. */
#include "apic.h"

enum {
	REG_A = 10,
	REG_B = 11,
	REG_C = 12,
	PF = 1 << 6,
};

static volatile unsigned ticks;

static uint8_t rd(unsigned reg)
{
	outb(0x70, (uint8_t)reg);
	return inb(0x71);
}

static void wr(unsigned reg, uint8_t v)
{
	outb(0x70, (uint8_t)reg);
	outb(0x71, v);
}

static void on_pic(struct frame *f)
{
	ticks += !!(rd(REG_C) & PF);
	outb(0xa0, 0x20);
	outb(0x20, 0x20);
}

static void on_apic(struct frame *f)
{
	ticks += !!(rd(REG_C) & PF);
	apic_eoi();
}

static void await(unsigned n)
{
	uint32_t t = board(CMD_TIME, 0, 0);

	while (ticks < n && board(CMD_TIME, 0, 0) - t < 20000)
		irq_window();
}

static void test_pic(void)
{
	isr[0x28] = on_pic;
	apic_wr(APIC_SVR, APIC_SVR_ON | 0xff);
	apic_wr(APIC_LVT_LINT0, 0x700);
	pic_init(0x20, 0x28, 1 << 8 | 1 << 2);
	/* 16 Hz, 24 hours. */
	wr(REG_A, 0x2c);
	wr(REG_B, 0x42);
	rd(REG_C);
	await(3);
	check("ticks by the 8259s", ticks >= 3, 1);
	outb(0xa1, 0xff);
	apic_wr(APIC_LVT_LINT0, APIC_MASKED);
}

/* Ticks that come while the guest does not take interrupts are not lost: guests count them. */
static void test_late(void)
{
	uint32_t before = board(CMD_TIME, 0, 0), after, now;
	bool all = false;

	isr[0x60] = on_apic;
	wr(REG_B, 2);
	rd(REG_C);
	ioapic_pin(8, 0x60, 0);
	wr(REG_B, 0x42);
	ticks = 0;
	after = now = board(CMD_TIME, 0, 0);
	while (board(CMD_TIME, 0, 0) - after < 400)
		;
	/* Six are late, which those on time never make good.  16 in 1000 ms. */
	while (!all && now - after < 20000) {
		irq_window();
		now = board(CMD_TIME, 0, 0);
		all = ticks + 1 >= (now - after) * 16 / 1000;
	}
	check("late ticks come", all, 1);
	now = board(CMD_TIME, 0, 0);
	check("and no others", ticks <= (now - before) * 16 / 1000 + 1, 1);
	wr(REG_B, 2);
	ioapic_pin(8, APIC_MASKED, 0);
}

int main(void)
{
	test_pic();
	test_late();
	return 0;
}
