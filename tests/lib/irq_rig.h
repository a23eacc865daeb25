/* A board's interrupt chips with local APICs and a clock that stands until it is moved. */
#pragma once

#include "base/clock.h"
#include "irq/irq_int.h"

#include <string.h>

enum {
	RIG_CPUS = 4,
	/* The guest's TSC runs at 2 GHz. */
	RIG_TSC_PER_NS = 2,
};

struct rig {
	struct bus mmio, pio;
	struct irq_chips *c;
	struct lapic l[RIG_CPUS];
	unsigned kicks[RIG_CPUS];
	uint64_t deadline[RIG_CPUS];
};

static struct rig rig;
static uint64_t rig_now;

static inline uint64_t rig_clock(void)
{
	return rig_now;
}

static inline void rig_kick(struct lapic *l)
{
	rig.kicks[l->index]++;
}

static inline void rig_timer(struct lapic *l, uint64_t deadline_ns)
{
	rig.deadline[l->index] = deadline_ns;
}

static inline uint64_t rig_tsc(struct lapic *l)
{
	return rig_now * RIG_TSC_PER_NS;
}

static inline uint64_t rig_tsc_deadline(struct lapic *l, uint64_t tsc)
{
	return tsc / RIG_TSC_PER_NS;
}

static const struct lapic_owner rig_owner = {
	.kick = rig_kick,
	.timer = rig_timer,
	.tsc = rig_tsc,
	.tsc_deadline_ns = rig_tsc_deadline,
};

static inline void rig_init(const struct irq_chips_opts *extra)
{
	struct irq_chips_opts o = extra ? *extra : (struct irq_chips_opts){ 0 };
	struct err e;

	memset(&rig, 0, sizeof(rig));
	rig_now = 1000 * NS_PER_SEC;
	clock_hook = rig_clock;
	bus_init(&rig.mmio, BUS_MMIO);
	bus_init(&rig.pio, BUS_PIO);
	o.mmio = &rig.mmio;
	o.pio = &rig.pio;
	BUG_ON(irq_chips_new(&rig.c, &o, &e) < 0);
	for (unsigned i = 0; i < RIG_CPUS; i++) {
		rig.deadline[i] = UINT64_MAX;
		lapic_init(&rig.l[i], i, i, &rig_owner, rig.c);
		irq_chips_add(rig.c, &rig.l[i]);
	}
}

static inline void rig_fini(void)
{
	irq_chips_free(rig.c);
	bus_fini(&rig.mmio);
	bus_fini(&rig.pio);
	clock_hook = NULL;
}

/* Enable it with spurious vector 0xff, flat logical ID 1 << index. */
static inline void rig_enable(unsigned cpu)
{
	lapic_write(&rig.l[cpu], 0xf0, 0x1ff);
	lapic_write(&rig.l[cpu], 0xd0, 1u << (24 + cpu));
}

/* To x2APIC mode. */
static inline void rig_x2(unsigned cpu)
{
	int rc = lapic_msr_write(&rig.l[cpu], 0x1b, rig.l[cpu].base | 0xc00);

	BUG_ON(rc < 0);
}

/* The vCPU takes what is pending, as after every instruction with IF set. */
static inline int rig_take(unsigned cpu)
{
	int v = lapic_pending(&rig.l[cpu]);

	if (v >= 0)
		lapic_ack(&rig.l[cpu], (unsigned)v);
	return v;
}

static inline void rig_eoi(unsigned cpu)
{
	lapic_write(&rig.l[cpu], 0xb0, 0);
}

/* Let the clock run up to `ns` and call what is due. */
static inline void rig_until(uint64_t ns)
{
	for (;;) {
		unsigned next = RIG_CPUS;

		for (unsigned i = 0; i < RIG_CPUS; i++)
			if (rig.deadline[i] <= ns &&
			    (next == RIG_CPUS || rig.deadline[i] < rig.deadline[next]))
				next = i;
		if (next == RIG_CPUS)
			break;
		if (rig.deadline[next] > rig_now)
			rig_now = rig.deadline[next];
		rig.deadline[next] = UINT64_MAX;
		lapic_timer_fired(&rig.l[next]);
	}
	rig_now = ns;
}

static inline void rig_ioapic(unsigned pin, uint64_t entry)
{
	/* The destination first: the low half may unmask it. */
	bus_write(&rig.mmio, 0xfec00000, 4, 0x11 + pin * 2);
	bus_write(&rig.mmio, 0xfec00010, 4, entry >> 32);
	bus_write(&rig.mmio, 0xfec00000, 4, 0x10 + pin * 2);
	bus_write(&rig.mmio, 0xfec00010, 4, (uint32_t)entry);
}

static inline uint64_t rig_ioapic_get(unsigned pin)
{
	bus_write(&rig.mmio, 0xfec00000, 4, 0x11 + pin * 2);
	uint64_t high = bus_read(&rig.mmio, 0xfec00010, 4);

	bus_write(&rig.mmio, 0xfec00000, 4, 0x10 + pin * 2);
	return high << 32 | bus_read(&rig.mmio, 0xfec00010, 4);
}

/* What an operating system does first: vectors 0x20 and 0x28, 8086 mode, all unmasked. */
static inline void rig_pic_setup(uint8_t icw4)
{
	static const uint8_t base[2] = { 0x20, 0x28 };

	for (unsigned i = 0; i < 2; i++) {
		unsigned port = i ? 0xa0 : 0x20;

		bus_write(&rig.pio, port, 1, 0x11);
		bus_write(&rig.pio, port + 1, 1, base[i]);
		bus_write(&rig.pio, port + 1, 1, i ? 2 : 4);
		bus_write(&rig.pio, port + 1, 1, icw4);
		bus_write(&rig.pio, port + 1, 1, 0);
	}
}
