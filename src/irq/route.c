/*
 * Who takes a message: the destination rules of SDM 3A 11.6.2 (IPIs), 11.11 (MSIs) and 11.12.10
 * (x2APIC).
 *
 * A message has 8 bits of destination, or 32 when an APIC in x2APIC mode sent it.  Physical: an
 * APIC ID, all ones for everyone.  Logical to an xAPIC: flat (a bit for each of 8) or cluster (4
 * bits in one of 15); to an x2APIC: 16 bits in the cluster of bits 31-16.
 *
 * The lowest of several priorities: the lowest processor priority now; between equals they take
 * turns.  Disabled APICs take no part in that.
 */
#include "irq/irq_int.h"

#include "base/bits.h"
#include "cpu/x86.h"

enum {
	XAPIC_ALL = 0xff,
};

static bool match_logical_xapic(const struct lapic *l, uint8_t dest)
{
	uint32_t ldr = lapic_peek(&l->ldr) >> 24;

	if (lapic_peek(&l->dfr) >> 28 == 0xf)
		return ldr & dest;
	/* Cluster model: 0xf is all clusters. */
	return (dest >> 4 == 0xf || dest >> 4 == ldr >> 4) && (ldr & dest & 0xf);
}

bool route_match(const struct lapic *l, const struct irq_msg *m)
{
	if (l == m->but || !lapic_enabled(l))
		return false;
	if (m->all || m->dest == (m->wide ? UINT32_MAX : XAPIC_ALL))
		return true;
	if (!m->logical)
		return m->dest == l->apic_id;
	if (!lapic_x2(l))
		/* A wide logical destination cannot name an xAPIC. */
		return m->dest <= XAPIC_ALL && match_logical_xapic(l, (uint8_t)m->dest);
	return m->dest >> 16 == l->apic_id >> 4 && (m->dest & BIT(l->apic_id & 0xf));
}

static bool route_accept(struct lapic *l, const struct irq_msg *m)
{
	switch (m->mode) {
	case IRQ_DM_FIXED:
	case IRQ_DM_LOWEST:
		return lapic_post(l, m->vector, m->level);
	case IRQ_DM_SMI:
		lapic_post_event(l, LAPIC_EV_SMI);
		return true;
	case IRQ_DM_NMI:
		lapic_post_event(l, LAPIC_EV_NMI);
		return true;
	case IRQ_DM_INIT:
		lapic_post_event(l, LAPIC_EV_INIT);
		return true;
	case IRQ_DM_SIPI:
		lapic_post_sipi(l, m->vector);
		return true;
	default:
		return false;
	}
}

static struct lapic *route_lowest(struct irq_chips *c, const struct irq_msg *m, unsigned n)
{
	unsigned first = __atomic_fetch_add(&c->turn, 1, __ATOMIC_RELAXED), best_ppr = 256;
	struct lapic *best = NULL;

	for (unsigned i = 0; i < n; i++) {
		struct lapic *l = c->lapic[(first + i) % n];

		if (!route_match(l, m) || !(lapic_peek(&l->svr) & LAPIC_SVR_ENABLE))
			continue;
		if (lapic_ppr(l) < best_ppr) {
			best = l;
			best_ppr = lapic_ppr(l);
		}
	}
	return best;
}

unsigned route_send(struct irq_chips *c, const struct irq_msg *m)
{
	unsigned n = __atomic_load_n(&c->nlapic, __ATOMIC_ACQUIRE), taken = 0;

	if (m->mode == IRQ_DM_LOWEST) {
		struct lapic *l = route_lowest(c, m, n);

		return l && route_accept(l, m);
	}
	for (unsigned i = 0; i < n; i++)
		if (route_match(c->lapic[i], m))
			taken += route_accept(c->lapic[i], m);
	return taken;
}

/* Taken, if one of several would take it. */
enum irq_edge route_edge(const struct irq_chips *c, const struct irq_msg *m)
{
	unsigned n = __atomic_load_n(&c->nlapic, __ATOMIC_ACQUIRE);
	enum irq_edge how = IRQ_EDGE_UNHEARD;

	if (m->mode != IRQ_DM_FIXED && m->mode != IRQ_DM_LOWEST)
		return m->mode == IRQ_DM_EXTINT ? IRQ_EDGE_UNHEARD : IRQ_EDGE_TAKEN;
	for (unsigned i = 0; i < n; i++) {
		const struct lapic *l = c->lapic[i];

		if (!route_match(l, m) || !(lapic_peek(&l->svr) & LAPIC_SVR_ENABLE))
			continue;
		if (!lapic_requested(l, m->vector))
			return IRQ_EDGE_TAKEN;
		how = IRQ_EDGE_MERGED;
	}
	return how;
}

/* SDM 3A figures 11-24 and 11-25. */
void route_from_msi(struct irq_msg *ret, uint64_t addr, uint32_t data)
{
	*ret = (struct irq_msg){
		.dest = addr >> 12 & 0xff,
		.logical = addr & BIT(2),
		.mode = data >> 8 & 7,
		.vector = data & 0xff,
		.level = data & BIT(15),
	};
	/* A level-triggered message that de-asserts says nothing to a local APIC. */
	if (ret->level && !(data & BIT(14)))
		ret->mode = 3;
	/* Redirection hint: one of the logical destinations. */
	if (ret->mode == IRQ_DM_FIXED && addr & BIT(3) && ret->logical)
		ret->mode = IRQ_DM_LOWEST;
	/* A start-up cannot be sent as an MSI. */
	if (ret->mode == IRQ_DM_SIPI)
		ret->mode = 3;
}
