/*
 * Interrupts from devices: through the 8259s, through the I/O APIC (edge and level), as messages;
 * with the processor running and halted.
 */
#include "apic.h"

static volatile unsigned count[256];
static volatile unsigned lower_line, storm_end;

static void on_apic(struct frame *f)
{
	count[f->vector]++;
	if (lower_line)
		board(CMD_LINE, lower_line, 0);
	if (storm_end && count[f->vector] == storm_end)
		board(CMD_LINE, 10, 0);
	apic_eoi();
}

static void on_pic(struct frame *f)
{
	count[f->vector]++;
	if (lower_line)
		board(CMD_LINE, lower_line, 0);
	if (f->vector >= 0x28)
		outb(0xa0, 0x20);
	outb(0x20, 0x20);
}

static void pulse(unsigned gsi)
{
	board(CMD_LINE, gsi, 1);
	board(CMD_LINE, gsi, 0);
}

static void test_pic(void)
{
	for (unsigned v = 0x20; v < 0x30; v++)
		isr[v] = on_pic;
	/* The 8259s come through LINT0 as ExtINT. */
	apic_wr(APIC_SVR, APIC_SVR_ON | 0xff);
	apic_wr(APIC_LVT_LINT0, 0x700);
	pic_init(0x20, 0x28, 1 << 2 | 1 << 5 | 1 << 12 | 1 << 3);
	pulse(5);
	outb(0x20, 0x0a);
	check("irr", inb(0x20), 1 << 5);
	irq_window();
	check("pic 5", count[0x25], 1);
	pulse(12);
	irq_window();
	check("pic 12", count[0x2c], 1);
	board(CMD_LINE, 6, 1);
	irq_window();
	check("masked", count[0x26], 0);
	outb(0x21, inb(0x21) & (uint8_t) ~(1 << 6));
	irq_window();
	check("unmasked while high", count[0x26], 1);
	board(CMD_LINE, 6, 0);
	board(CMD_LINE, 3, 1);
	irq_window();
	check("pic 3 held", count[0x23], 1);
	irq_window();
	check("edge only once", count[0x23], 1);
	board(CMD_LINE, 3, 0);
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
}

static void test_pic_wakes(void)
{
	outb(0x21, (uint8_t) ~(1 << 2 | 1 << 5));
	count[0x25] = 0;
	board(CMD_LINE_LATER, 5, 5);
	while (!count[0x25])
		irq_wait();
	check("pic wakes", count[0x25], 1);
	outb(0x21, 0xff);
	apic_wr(APIC_LVT_LINT0, APIC_MASKED);
}

static void test_ioapic(void)
{
	for (unsigned v = 0x60; v < 0x80; v++)
		isr[v] = on_apic;
	check("ioapic version", ioapic_rd(1) >> 16 & 0xff, 23);
	check("ioapic masked at first", ioapic_rd(0x10 + 2 * 9) & APIC_MASKED, APIC_MASKED);
	ioapic_pin(9, 0x69, 0);
	check("ioapic entry", ioapic_rd(0x10 + 2 * 9), 0x69);
	pulse(9);
	irq_window();
	check("ioapic 9", count[0x69], 1);
	ioapic_pin(20, 0x70, 0);
	pulse(20);
	irq_window();
	check("ioapic 20", count[0x70], 1);
	/* ISA 0 is on pin 2. */
	ioapic_pin(2, 0x62, 0);
	pulse(0);
	irq_window();
	check("ioapic 0 on pin 2", count[0x62], 1);
	ioapic_pin(2, APIC_MASKED, 0);
	ioapic_pin(9, APIC_MASKED | 0x69, 0);
	pulse(9);
	irq_window();
	check("ioapic masked", count[0x69], 1);
}

static void test_level(void)
{
	/* Level, active high: comes again until the handler lowers the line. */
	ioapic_pin(10, 1 << 15 | 0x6a, 0);
	lower_line = 0;
	board(CMD_LINE, 10, 1);
	lower_line = 10;
	irq_window();
	/* An emulating KVM ends an interrupt as it delivers it, so one more comes. */
	unsigned extra = emulated();
	check("level once", count[0x6a], 1 + extra);
	check("remote irr clear", ioapic_rd(0x10 + 2 * 10) >> 14 & 1, 0);
	lower_line = 0;
	board(CMD_LINE, 10, 1);
	board(CMD_LINE, 10, 0);
	lower_line = 10;
	irq_window();
	unsigned seen = count[0x6a];
	/* It was sent when the line rose. */
	check("level pulse", seen, 2 + extra);
	/* Held over several EOIs: it comes again each time. */
	lower_line = 0;
	storm_end = count[0x6a] + 4;
	board(CMD_LINE, 10, 1);
	irq_window();
	check("level repeats", count[0x6a], storm_end + extra);
	ioapic_pin(10, APIC_MASKED, 0);
	lower_line = 0;
}

static void test_msi(void)
{
	board(CMD_MSI, APIC_BASE, 0x75);
	irq_window();
	check("msi", count[0x75], 1);
	/* Logical, flat: bit 0 is us. */
	apic_wr(APIC_DFR, 0xffffffff);
	apic_wr(APIC_LDR, 1 << 24);
	board(CMD_MSI, APIC_BASE | 1 << 12 | 4, 0x75);
	irq_window();
	check("msi logical", count[0x75], 2);
	board(CMD_MSI, APIC_BASE | 7 << 12, 0x75);
	irq_window();
	check("msi to nobody", count[0x75], 2);
	board(CMD_MSI_SET, APIC_BASE, 0x76);
	board(CMD_MSI_LATER, 5, 0);
	while (!count[0x76])
		irq_wait();
	check("msi wakes", count[0x76], 1);
}

int main(void)
{
	test_pic();
	test_pic_wakes();
	test_ioapic();
	test_level();
	test_msi();
	return 0;
}
