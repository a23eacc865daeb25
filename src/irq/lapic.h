/*
 * A local APIC in user space, xAPIC and x2APIC (SDM 3A chapter 11), for the soft engine.
 *
 * Threads: lapic_post*() from any thread (IRR and TMR are changed with atomic operations, then
 * owner->kick); registers, pending, ack and timer_fired on the vCPU's own thread or with the vCPU
 * stopped.  What others look at while they route a message (ID, LDR, DFR, SVR, base, LINT0, and
 * ISR and TPR for the lowest priority) is read with single loads: they may see the value before or
 * after a change under way, as on a real bus.
 *
 * The owner looks at lapic_pending(), lapic_take_events() and irq_chips_intr() whenever kick() was
 * called and whenever the guest may begin to take interrupts (IF set, shadow over, NMI unmasked).
 * Register writes that let something through call kick() too, on the vCPU's own thread.
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
	/* Taken together with SIPI, INIT comes first. */
	LAPIC_EV_INIT = 2,
	LAPIC_EV_SIPI = 4,
	LAPIC_EV_SMI = 16,
};

/* Index into lapic.lvt. */
enum {
	LAPIC_LVT_TIMER,
	LAPIC_LVT_THERMAL,
	LAPIC_LVT_PERF,
	LAPIC_LVT_LINT0,
	LAPIC_LVT_LINT1,
	LAPIC_LVT_ERROR,
	LAPIC_LVTS,
};

enum {
	/* The clock that the timer's divider divides: 1 GHz, as KVM's (CPUID 0x40000010, 0x15). */
	LAPIC_BUS_HZ = 1000000000,
};

struct lapic {
	const struct lapic_owner *owner;
	struct irq_chips *chips;
	unsigned index;
	/* Bits LAPIC_EV_*, atomic; the vCPU takes them with lapic_take_events(). */
	uint32_t events;
	/* Of the last SIPI; atomic. */
	uint8_t sipi_vector;
	/* The rest is lapic.c's. */
	uint32_t apic_id;
	/* IA32_APIC_BASE. */
	uint64_t base;
	/* Bit vectors as in the register page.  irr, tmr: atomic. */
	uint32_t irr[8], isr[8], tmr[8];
	/* esr: as software reads it; esr_pending: gathered since, atomic. */
	uint32_t tpr, ldr, dfr, svr, esr, esr_pending, icr_lo, icr_hi;
	uint32_t lvt[LAPIC_LVTS];
	uint32_t timer_init, timer_div;
	/* Start of the period that runs now, in clock_ns() time; meaningful when timer_on. */
	uint64_t timer_start_ns, tsc_deadline;
	uint8_t timer_on;
	/* Periods whose interrupts wait for those before to be accepted. */
	uint64_t timer_owed;
	/* Only in a saved state: the current count. */
	uint32_t timer_cur;
};

extern const struct state_desc lapic_state;
/* Before a save, and after a load: the timer travels as its current count. */
void lapic_pre_save(struct lapic *l);
void lapic_post_load(struct lapic *l);

void lapic_init(struct lapic *l, unsigned index, uint32_t apic_id, const struct lapic_owner *owner,
		struct irq_chips *chips);
/* Power-on; init: keep the APIC ID and base, as INIT does.  The BSP's LINT0 passes ExtINT then, as
 * firmware leaves it (SDM 3A 11.5.1, MP spec 3.6.2.2: virtual wire). */
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
/* IA32_APIC_BASE: enabled, and in x2APIC mode.  Any thread. */
bool lapic_enabled(const struct lapic *l);
bool lapic_x2(const struct lapic *l);
/* Processor priority (SDM 3A 11.8.3.1). */
uint8_t lapic_ppr(const struct lapic *l);

/* Highest vector in IRR whose class is above the processor priority, or -1. */
int lapic_pending(const struct lapic *l);
/* Take `vector` from IRR to ISR: it is delivered now. */
void lapic_ack(struct lapic *l, unsigned vector);
/* Returns and clears LAPIC_EV_*.  (ExtINT is a level: see irq_chips_intr().) */
uint32_t lapic_take_events(struct lapic *l);
void lapic_timer_fired(struct lapic *l);
/* Any thread: a fixed interrupt.  False when this APIC does not take it (disabled). */
bool lapic_post(struct lapic *l, unsigned vector, bool level);
/* Any thread: the last one with this vector is not accepted yet. */
bool lapic_requested(const struct lapic *l, unsigned vector);
void lapic_post_event(struct lapic *l, uint32_t ev);
/* Any thread: the start-up IPI, code at vector << 12. */
void lapic_post_sipi(struct lapic *l, uint8_t vector);
/* Any thread: a local source (LAPIC_LVT_*) raises its interrupt as its LVT entry says. */
void lapic_local(struct lapic *l, unsigned lvt);

/* KVM's and cpu_state's register page (1024 bytes, 16 bytes a register).  The ID register holds
 * the whole ID in x2APIC mode, and bits 31-24 of it else.  Setting a page disarms the TSC
 * deadline, which is no register of it: write MSR 0x6e0 afterwards. */
void lapic_get_page(struct lapic *l, uint8_t page[1024]);
void lapic_set_page(struct lapic *l, const uint8_t page[1024], uint64_t apic_base);
