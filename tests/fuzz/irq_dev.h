/*
 * The interrupt chips under random accesses from every side.  State is saved, loaded and compared
 * in between, and loaded with bytes changed.
 */
#pragma once

#include "base/bug.h"
#include "fuzz/input.h"
#include "lib/irq_rig.h"

static inline void fuzz_line(struct input *in)
{
	unsigned gsi = in8(in) % IRQ_GSIS;
	struct irqs *q = irq_chips_irqs(rig.c);

	q->ops->line(q, gsi, in8(in) & 1);
}

static inline void fuzz_reload(struct input *in, const struct state_desc *d, void *obj, size_t size,
			       bool spoil)
{
	struct state_buf a = { 0 }, b = { 0 };
	struct err e;

	BUG_ON(state_save(d, 0, obj, &a, &e) < 0);
	for (unsigned n = spoil ? in8(in) % 16 : 0; n; n--) {
		size_t at = in_le(in, 2) % a.len;

		a.data[at] = in8(in);
	}
	ssize_t n = state_load(d, 0, obj, size, a.data, a.len, &e);
	BUG_ON(!spoil && n != (ssize_t)a.len);
	if (n == (ssize_t)a.len) {
		BUG_ON(state_save(d, 0, obj, &b, &e) < 0);
		BUG_ON(b.len != a.len || memcmp(a.data, b.data, a.len) != 0);
	}
	state_buf_fini(&a);
	state_buf_fini(&b);
}

static inline void fuzz_reload_chips(struct input *in, bool spoil)
{
	size_t size;
	void *obj = irq_chips_state_obj(rig.c, &size);

	fuzz_reload(in, &irq_chips_state, obj, size, spoil);
	irq_chips_post_load(rig.c);
}

static inline void fuzz_reload_lapic(struct input *in, unsigned cpu, bool spoil)
{
	struct lapic *l = &rig.l[cpu];

	lapic_pre_save(l);
	fuzz_reload(in, &lapic_state, l, sizeof(*l), spoil);
	lapic_post_load(l);
}

/* What a vCPU does between instructions. */
static inline void fuzz_cpu(unsigned cpu)
{
	struct lapic *l = &rig.l[cpu];
	uint32_t ev = lapic_take_events(l);

	if (ev & LAPIC_EV_INIT)
		lapic_reset(l, true);
	if (irq_chips_intr(rig.c, l))
		irq_chips_inta(rig.c);
	else
		rig_take(cpu);
}
