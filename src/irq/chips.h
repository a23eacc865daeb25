/*
 * The user-space interrupt chips together: two 8259s, an I/O APIC, local APICs, and the routing of
 * lines and messages between them.  For soft all of them; for kvm's split irqchip the 8259s and the
 * I/O APIC, with messages handed to the kernel's local APICs.
 */
#pragma once

#include "irq/irq.h"
#include "irq/lapic.h"
#include "mem/bus.h"

enum {
	IRQ_LAPICS = 256,
};

struct irq_chips;

struct irq_chips_opts {
	struct bus *mmio, *pio;
	/* kvm split: where messages go instead of to local APICs here; NULL for soft. */
	void (*msi)(void *arg, uint64_t addr, uint32_t data);
	/* kvm split: the 8259's INTR output changed. */
	void (*intr)(void *arg, bool level);
	void *arg;
};

/* Puts ports 0x20, 0xa0, 0x4d0 and the I/O APIC page 0xfec00000 on the buses. */
NODISCARD int irq_chips_new(struct irq_chips **ret, const struct irq_chips_opts *o, struct err *e);
void irq_chips_free(struct irq_chips *c);
struct irqs *irq_chips_irqs(struct irq_chips *c);
/* A vCPU's local APIC takes part in routing from now on. */
void irq_chips_add(struct irq_chips *c, struct lapic *l);
/* The 8259 pair's INTR: any vCPU whose lapic accepts ExtINT may acknowledge. */
bool irq_chips_intr(struct irq_chips *c, struct lapic *l);
/* INTA cycle: the vector (spurious 7 when nothing is there any more). */
uint8_t irq_chips_inta(struct irq_chips *c);
/* A level-triggered vector was EOI'd by a local APIC. */
void irq_chips_eoi(struct irq_chips *c, uint8_t vector);
void irq_chips_reset(struct irq_chips *c);
extern const struct state_desc irq_chips_state;
void *irq_chips_state_obj(struct irq_chips *c, size_t *ret_size);
/* After a load: levels from the lines, pending outputs. */
void irq_chips_post_load(struct irq_chips *c);
