/*
 * A local APIC in user space, xAPIC and x2APIC (SDM 3A chapter 11), for the soft engine.
 *
 * Threads: lapic_post*() from any thread (IRR is set with atomic operations, then owner->kick);
 * registers, pending, ack and timer_fired on the vCPU's own thread or with the vCPU stopped.
 */
#pragma once

#include "base/thread.h"
#include "irq/irq.h"
#include "state/state.h"

struct lapic;
struct irq_chips;

struct lapic_owner {
	/* Any thread: something may be pending now; leave the run loop and look. */
	void (*kick)(struct lapic *l);
	/* vCPU's thread: call lapic_timer_fired() at deadline_ns of clock_ns(); UINT64_MAX: never.
	 */
	void (*timer)(struct lapic *l, uint64_t deadline_ns);
	/* The guest's TSC now, and the clock_ns() time at which it will reach `tsc`. */
	uint64_t (*tsc)(struct lapic *l);
	uint64_t (*tsc_deadline_ns)(struct lapic *l, uint64_t tsc);
};

enum {
	LAPIC_EV_NMI = 1,
	LAPIC_EV_INIT = 2,
	LAPIC_EV_SIPI = 4,
	/* The 8259 raises INTR and LINT0 (or the virtual wire) lets it through. */
	LAPIC_EV_EXTINT = 8,
	LAPIC_EV_SMI = 16,
};

struct lapic {
	const struct lapic_owner *owner;
	struct irq_chips *chips;
	unsigned index;
	/* Bits LAPIC_EV_*, atomic; the vCPU takes them with lapic_take_events(). */
	uint32_t events;
	uint8_t sipi_vector;
	/* The rest is lapic.c's; saved fields first. */
	uint32_t apic_id;
	uint64_t base;
	/* Bit vectors as in the register page.  irr: atomic. */
	uint32_t irr[8], isr[8], tmr[8];
	uint32_t tpr, ldr, dfr, svr, esr, esr_pending, icr_lo, icr_hi;
	uint32_t lvt[7];
	uint32_t timer_init, timer_div;
	uint64_t timer_start_ns, tsc_deadline;
};

extern const struct state_desc lapic_state;

void lapic_init(struct lapic *l, unsigned index, uint32_t apic_id, const struct lapic_owner *owner,
		struct irq_chips *chips);
/* Power-on; init: keep the APIC ID and base, as INIT does. */
void lapic_reset(struct lapic *l, bool init);

/* The MMIO page; off is a multiple of 16 or the access reads 0.  32-bit registers. */
uint32_t lapic_read(struct lapic *l, unsigned off);
void lapic_write(struct lapic *l, unsigned off, uint32_t v);
/* MSRs 0x800-0x8ff in x2APIC mode, 0x6e0, 0x1b.  -EPERM: the guest gets #GP. */
NODISCARD int lapic_msr_read(struct lapic *l, uint32_t msr, uint64_t *ret);
NODISCARD int lapic_msr_write(struct lapic *l, uint32_t msr, uint64_t v);
/* CR8. */
uint8_t lapic_tpr_get(const struct lapic *l);
void lapic_tpr_set(struct lapic *l, uint8_t cr8);

/* Highest vector in IRR whose class is above the processor priority, or -1. */
int lapic_pending(const struct lapic *l);
/* Take `vector` from IRR to ISR: it is delivered now. */
void lapic_ack(struct lapic *l, unsigned vector);
/* Returns and clears LAPIC_EV_* (not EXTINT, which is a level: see irq_chips_intr()). */
uint32_t lapic_take_events(struct lapic *l);
void lapic_timer_fired(struct lapic *l);
/* Any thread: a fixed interrupt. */
void lapic_post(struct lapic *l, unsigned vector, bool level);
void lapic_post_event(struct lapic *l, uint32_t ev);

/* KVM's and cpu_state's register page (1024 bytes, 16 bytes a register). */
void lapic_get_page(const struct lapic *l, uint8_t page[1024]);
void lapic_set_page(struct lapic *l, const uint8_t page[1024], uint64_t apic_base);
