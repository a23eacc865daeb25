/* Local APIC, I/O APIC and 8259, by registers (SDM 3A 11, Intel 82093AA, 8259A). */
#pragma once

#include "exc.h"

#define APIC_BASE 0xfee00000ul
#define IOAPIC_BASE 0xfec00000ul

enum {
	APIC_ID = 0x20,
	APIC_VERSION = 0x30,
	APIC_TPR = 0x80,
	APIC_PPR = 0xa0,
	APIC_EOI = 0xb0,
	APIC_LDR = 0xd0,
	APIC_DFR = 0xe0,
	APIC_SVR = 0xf0,
	APIC_ISR = 0x100,
	APIC_TMR = 0x180,
	APIC_IRR = 0x200,
	APIC_ESR = 0x280,
	APIC_ICR_LO = 0x300,
	APIC_ICR_HI = 0x310,
	APIC_LVT_TIMER = 0x320,
	APIC_LVT_LINT0 = 0x350,
	APIC_LVT_LINT1 = 0x360,
	APIC_LVT_ERROR = 0x370,
	APIC_TIMER_INIT = 0x380,
	APIC_TIMER_CUR = 0x390,
	APIC_TIMER_DIV = 0x3e0,

	APIC_MASKED = 1 << 16,
	APIC_PERIODIC = 1 << 17,
	APIC_DEADLINE = 2 << 17,
	APIC_SVR_ON = 1 << 8,

	MSR_APIC_BASE = 0x1b,
	MSR_DEADLINE = 0x6e0,
	MSR_X2APIC = 0x800,
};

static inline uint32_t apic_rd(unsigned reg)
{
	return *(volatile uint32_t *)(APIC_BASE + reg);
}

static inline void apic_wr(unsigned reg, uint32_t v)
{
	*(volatile uint32_t *)(APIC_BASE + reg) = v;
}

static inline void apic_eoi(void)
{
	apic_wr(APIC_EOI, 0);
}

static inline uint32_t ioapic_rd(unsigned reg)
{
	*(volatile uint32_t *)IOAPIC_BASE = reg;
	return *(volatile uint32_t *)(IOAPIC_BASE + 0x10);
}

static inline void ioapic_wr(unsigned reg, uint32_t v)
{
	*(volatile uint32_t *)IOAPIC_BASE = reg;
	*(volatile uint32_t *)(IOAPIC_BASE + 0x10) = v;
}

/* Redirection entry of a pin: low half (vector, mode, level, mask), destination APIC ID. */
static inline void ioapic_pin(unsigned pin, uint32_t lo, unsigned dest)
{
	ioapic_wr(0x10 + 2 * pin, APIC_MASKED);
	ioapic_wr(0x11 + 2 * pin, dest << 24);
	ioapic_wr(0x10 + 2 * pin, lo);
}

/* 8259s at these vector bases, all inputs masked but those of `open` (bits 0-15). */
static inline void pic_init(unsigned base0, unsigned base1, unsigned open)
{
	outb(0x20, 0x11);
	outb(0xa0, 0x11);
	outb(0x21, (uint8_t)base0);
	outb(0xa1, (uint8_t)base1);
	outb(0x21, 4);
	outb(0xa1, 2);
	outb(0x21, 1);
	outb(0xa1, 1);
	outb(0x21, (uint8_t)~open);
	outb(0xa1, (uint8_t)(~open >> 8));
}
