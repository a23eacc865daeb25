/*
 * Interrupts, as devices see them: lines (GSIs) and messages (MSI).
 *
 * GSI 0-15 are the ISA lines (8259 pins and, with the usual override of 0 to pin 2, the I/O APIC);
 * 16-23 are I/O APIC pins 16-23, for PCI INTx.  Who answers is a small table: the user-space chips
 * of this folder (soft, and the line half of kvm's split irqchip), or chips inside the kernel.
 *
 * Threads: everything here from any thread; nothing blocks.
 *
 * Timers whose interrupts guests count (PIT, RTC, HPET) must not have two of them become one where
 * the host was late; so they may ask what an edge would do now, and keep it until the guest
 * accepted another interrupt.
 */
#pragma once

#include "base/err.h"

struct irqs;

enum {
	IRQ_GSIS = 24,
	IRQ_GSI_PIT = 0,
	IRQ_GSI_KBD = 1,
	IRQ_GSI_COM1 = 4,
	IRQ_GSI_RTC = 8,
	IRQ_GSI_SCI = 9,
};

/* What becomes of a rising edge. */
enum irq_edge {
	/* An interrupt; or the chips cannot tell. */
	IRQ_EDGE_TAKEN,
	/* One with the last edge, whose interrupt was not accepted yet. */
	IRQ_EDGE_MERGED,
	/* The input is masked everywhere. */
	IRQ_EDGE_UNHEARD,
};

struct irq_ops {
	const char *name;
	/* Level of an input line.  Edge-triggered inputs see a rising edge. */
	void (*line)(struct irqs *q, unsigned gsi, bool level);
	/* A message write: address 0xfee..... and data (SDM 3A 11.11). */
	void (*msi)(struct irqs *q, uint64_t addr, uint32_t data);
	/* [NULL: all are taken] */
	enum irq_edge (*edge)(struct irqs *q, unsigned gsi);
	enum irq_edge (*msi_edge)(struct irqs *q, uint64_t addr, uint32_t data);
};

/* Somebody who waits for the guest to accept an interrupt. */
struct irq_waiter {
	/* Called on a vCPU's thread, with nothing locked, while `on`: it accepted one. */
	void (*fn)(struct irq_waiter *w);
	/* Atomic. */
	bool on;
	struct irq_waiter *next;
};

struct irqs {
	const struct irq_ops *ops;
	/* Inputs now high, one bit each: what a level-triggered line saw last.  Atomic. */
	uint32_t level;
	/* Lines shared by several devices: how many hold each high.  Atomic. */
	uint16_t holders[IRQ_GSIS];
	/* Changes while no vCPU runs. */
	struct irq_waiter *waiters;
};

/* One input of the board, as a device holds it.  Shared lines are or-ed. */
struct irq_line {
	struct irqs *irqs;
	unsigned gsi;
	/* What this device drives.  Changed under the device's lock. */
	bool high;
};

void irq_line_set(struct irq_line *l, bool level);

static inline void irq_line_pulse(struct irq_line *l)
{
	irq_line_set(l, true);
	irq_line_set(l, false);
}

void irq_msi(struct irqs *q, uint64_t addr, uint32_t data);

/* What an edge of this line, or this message, would become now.  Good for as long as nobody else
 * raises the same. */
enum irq_edge irq_line_edge(const struct irq_line *l);
enum irq_edge irq_msi_edge(struct irqs *q, uint64_t addr, uint32_t data);

/* While no vCPU runs. */
void irq_waiter_add(struct irqs *q, struct irq_waiter *w);
void irq_waiter_del(struct irqs *q, struct irq_waiter *w);

static inline void irq_waiter_set(struct irq_waiter *w, bool on)
{
	__atomic_store_n(&w->on, on, __ATOMIC_SEQ_CST);
}

/* From a vCPU: the guest accepted an interrupt.  Chips in the kernel do not tell. */
static inline void irq_accepted(struct irqs *q)
{
	for (struct irq_waiter *w = q->waiters; w; w = w->next)
		if (__atomic_load_n(&w->on, __ATOMIC_SEQ_CST))
			w->fn(w);
}
