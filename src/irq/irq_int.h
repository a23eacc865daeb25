/*
 * Inside of irq/: the chips and how messages travel between them.
 *
 *	pic.c	the 8259 pair
 *	ioapic.c	the 82093AA
 *	lapic.c, lapic_timer.c	a local APIC
 *	route.c	who takes a message
 *	chips.c	all of them on the buses, and the lines
 */
#pragma once

#include "irq/chips.h"

/* 8259A, pic.c.  Guarded by irq_chips.lock. */

struct pic {
	/* Requests; what the inputs were; mask; in service. */
	uint8_t irr, last, imr, isr;
	/* Vector base (ICW2), and the input with the highest priority. */
	uint8_t base, top;
	/* Inputs that are level-triggered (ports 0x4d0, 0x4d1). */
	uint8_t elcr;
	/* 0: ready; 1, 2, 3: ICW2, 3, 4 comes next. */
	uint8_t icw_next;
	uint8_t icw4_wanted, single;
	/* OCW3: which register is read (0 IRR, 1 ISR), poll, special mask mode. */
	uint8_t read_isr, poll, special_mask;
	/* ICW4: automatic EOI, special fully nested; OCW2: rotate at automatic EOI. */
	uint8_t auto_eoi, nested, rotate_auto;
};

/* [0] the master at 0x20, [1] the slave at 0xa0, whose output is the master's input 2. */
struct pic_pair {
	struct pic chip[2];
};

enum {
	PIC_CASCADE = 2,
};

extern const struct state_desc pic_pair_state;

void pic_reset(struct pic_pair *p);
/* Input 0-15; returns whether INTR may have changed. */
void pic_line(struct pic_pair *p, unsigned n, bool level);
/* INTR now. */
bool pic_intr(const struct pic_pair *p);
/* What an edge at input n would become, if somebody takes INTR. */
enum irq_edge pic_edge(const struct pic_pair *p, unsigned n);
/* INTA cycles: the vector. */
uint8_t pic_inta(struct pic_pair *p);
/* which: 0 master, 1 slave; a0: the port's low bit. */
uint8_t pic_read(struct pic_pair *p, unsigned which, unsigned a0);
void pic_write(struct pic_pair *p, unsigned which, unsigned a0, uint8_t v);
uint8_t pic_elcr_read(const struct pic_pair *p, unsigned which);
void pic_elcr_write(struct pic_pair *p, unsigned which, uint8_t v);

/* 82093AA, ioapic.c.  Guarded by irq_chips.lock. */

enum {
	IOAPIC_PINS = IRQ_IOAPIC_PINS,
	IOAPIC_BASE = 0xfec00000,
	IOAPIC_LEN = 0x1000,
};

struct ioapic {
	uint64_t redir[IOAPIC_PINS];
	/* Inputs that are high. */
	uint32_t level;
	uint8_t index, id;
};

extern const struct state_desc ioapic_state;

/* Where a pin's messages go; the chips of which the I/O APIC is part. */
void ioapic_reset(struct ioapic *io);
void ioapic_line(struct irq_chips *c, unsigned pin, bool level);
/* What an edge at a pin would become. */
enum irq_edge ioapic_edge(const struct irq_chips *c, unsigned pin);
uint32_t ioapic_read(struct ioapic *io, unsigned off);
void ioapic_write(struct irq_chips *c, unsigned off, uint32_t v);
/* An EOI message for `vector`. */
void ioapic_eoi(struct irq_chips *c, uint8_t vector);
/* The message that a pin sends, as an MSI; false: it is masked. */
bool ioapic_msg(const struct ioapic *io, unsigned pin, uint64_t *ret_addr, uint32_t *ret_data);
/* After a load: level-triggered pins that wait. */
void ioapic_service(struct irq_chips *c);

/* Messages, route.c. */

/* Delivery modes (SDM 3A 11.6.1). */
enum {
	IRQ_DM_FIXED,
	IRQ_DM_LOWEST,
	IRQ_DM_SMI,
	IRQ_DM_NMI = 4,
	IRQ_DM_INIT,
	IRQ_DM_SIPI,
	IRQ_DM_EXTINT,
};

struct irq_msg {
	uint32_t dest;
	/* dest is a logical destination; dest has 32 bits (an x2APIC sends), else 8. */
	bool logical, wide;
	uint8_t mode, vector;
	bool level;
	/* Not this one (shorthand "all but self"); dest is not looked at when `all`. */
	const struct lapic *but;
	bool all;
};

/* To all destinations, or the one of the lowest priority; returns how many took it.  Any thread. */
unsigned route_send(struct irq_chips *c, const struct irq_msg *m);
/* What m, edge-triggered, would become. */
enum irq_edge route_edge(const struct irq_chips *c, const struct irq_msg *m);
/* Is l addressed by m? */
bool route_match(const struct lapic *l, const struct irq_msg *m);
/* Decode of an MSI write. */
void route_from_msi(struct irq_msg *ret, uint64_t addr, uint32_t data);

/* lapic.c's timer half (lapic_timer.c); all on the vCPU's thread. */
uint32_t lapic_timer_count(const struct lapic *l);
void lapic_timer_set_init(struct lapic *l, uint32_t v);
void lapic_timer_set_div(struct lapic *l, uint32_t v);
/* The LVT entry changes to v. */
void lapic_timer_set_lvt(struct lapic *l, uint32_t v);
void lapic_timer_set_deadline(struct lapic *l, uint64_t tsc);
uint64_t lapic_timer_deadline(const struct lapic *l);
void lapic_timer_off(struct lapic *l);
/* The guest accepted an interrupt, and timer_owed is not 0. */
void lapic_timer_accepted(struct lapic *l);
/* From a current count and a TSC deadline, after a load. */
void lapic_timer_restore(struct lapic *l, uint32_t count, uint64_t deadline);

/* Registers that others look at. */
static inline uint32_t lapic_peek(const uint32_t *reg)
{
	return __atomic_load_n(reg, __ATOMIC_RELAXED);
}

static inline void lapic_poke(uint32_t *reg, uint32_t v)
{
	__atomic_store_n(reg, v, __ATOMIC_RELAXED);
}

enum {
	LAPIC_LVT_MASKED = 1 << 16,
	LAPIC_SVR_ENABLE = 1 << 8,
	LAPIC_SVR_NO_EOI_BROADCAST = 1 << 12,
};

struct irq_chips {
	struct irqs irqs;
	struct irq_chips_opts o;
	/* Guards pic and ioapic.  Taken under device locks; nothing is locked under it but what
	 * lapic_owner.kick and o.msi lock. */
	struct lock lock;
	struct pic_pair pic;
	struct ioapic ioapic;
	/* pic_intr(), for those who look without the lock.  Atomic. */
	bool intr;
	struct bus_range at_pic[2], at_elcr, at_ioapic;
	struct lapic *lapic[IRQ_LAPICS];
	/* Atomic; entries below it stay. */
	unsigned nlapic;
	/* Where the search for the lowest priority begins.  Atomic. */
	unsigned turn;
};
