/*
 * The user-space interrupt chips together: two 8259s, an I/O APIC, local APICs, and the routing of
 * lines and messages between them.  For soft all of them; for kvm's split irqchip the 8259s and the
 * I/O APIC, with messages handed to the kernel's local APICs.
 *
 * Threads: new, free, add, reset, and the state functions with the VM stopped; the rest from any
 * thread.  Callbacks of irq_chips_opts run with the chips' lock held: they may not call back in
 * here (but for irq_chips_pin() in `routed`), and may not block.
 */
#pragma once

#include "irq/irq.h"
#include "irq/lapic.h"
#include "mem/bus.h"

enum {
	IRQ_LAPICS = 256,
	IRQ_IOAPIC_PINS = 24,
};

struct irq_chips;

struct irq_chips_opts {
	struct bus *mmio, *pio;
	/* kvm split: where messages go instead of to local APICs here; NULL for soft. */
	void (*msi)(void *arg, uint64_t addr, uint32_t data);
	/* kvm split: the 8259's INTR output changed.  [NULL] */
	void (*intr)(void *arg, bool level);
	/* kvm split: what I/O APIC pin `pin` sends changed, see irq_chips_pin(): the kernel must
	 * know which vectors are level-triggered to report their EOI.  [NULL] */
	void (*routed)(void *arg, unsigned pin);
	void *arg;
};

/* Puts ports 0x20, 0xa0, 0x4d0 and the I/O APIC page 0xfec00000 on the buses. */
NODISCARD int irq_chips_new(struct irq_chips **ret, const struct irq_chips_opts *o, struct err *e);
void irq_chips_free(struct irq_chips *c);
struct irqs *irq_chips_irqs(struct irq_chips *c);
/* A vCPU's local APIC takes part in routing from now on. */
void irq_chips_add(struct irq_chips *c, struct lapic *l);
/* The 8259 pair's INTR reaches this vCPU (LINT0 or I/O APIC pin 0 in ExtINT mode, or no APIC). */
bool irq_chips_intr(struct irq_chips *c, struct lapic *l);
/* INTA cycle: the vector (spurious 7 when nothing is there any more). */
uint8_t irq_chips_inta(struct irq_chips *c);
/* A level-triggered vector was EOI'd by a local APIC. */
void irq_chips_eoi(struct irq_chips *c, uint8_t vector);
/* The NMI button: LINT1 of every local APIC here. */
void irq_chips_nmi(struct irq_chips *c);
/* The message that I/O APIC pin `pin` sends; false: it is masked.  From `routed` or with the VM
 * stopped. */
bool irq_chips_pin(struct irq_chips *c, unsigned pin, uint64_t *ret_addr, uint32_t *ret_data);
void irq_chips_reset(struct irq_chips *c);
extern const struct state_desc irq_chips_state;
void *irq_chips_state_obj(struct irq_chips *c, size_t *ret_size);
/*
 * After a load: outputs and level-triggered pins.  Inputs are part of the state, so it does not
 * matter whether the devices that drive them are loaded before or after.
 */
void irq_chips_post_load(struct irq_chips *c);
