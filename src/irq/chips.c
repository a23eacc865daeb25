/*
 * The interrupt chips on their buses, and the lines and messages of devices into them.
 *
 * Wiring (MP spec 1.4, 3.6.2; ACPI's usual overrides):
 *	GSI 0 (PIT)	8259 input 0, I/O APIC pin 2
 *	GSI 1, 3-15	8259 input n, I/O APIC pin n
 *	GSI 16-23	I/O APIC pin n
 *	8259 INTR	LINT0 of every local APIC, and I/O APIC pin 0 (both: virtual wire mode)
 *
 * The 8259s ask for one CPU's attention with a level, INTR.  It reaches a CPU whose local APIC is
 * disabled, or whose LINT0 is in ExtINT mode, or to which I/O APIC pin 0 sends ExtINT; that CPU
 * fetches the vector with irq_chips_inta().  A LINT0 in another mode sees the rising edge of INTR.
 *
 * The chips' lock is taken inside device locks, and lapic_owner.kick and the callbacks of
 * irq_chips_opts run inside it.
 */
#include "irq/irq_int.h"

#include "base/alloc.h"
#include "base/bug.h"
#include "cpu/x86.h"

#include <errno.h>
#include <stdlib.h>

/* INTR. */

static bool chips_lint0_extint(const struct lapic *l)
{
	uint32_t lvt = lapic_peek(&l->lvt[LAPIC_LVT_LINT0]);

	return !lapic_enabled(l) || (!(lvt & LAPIC_LVT_MASKED) && (lvt >> 8 & 7) == IRQ_DM_EXTINT);
}

/* I/O APIC pin 0 passes INTR to this CPU. */
static bool chips_pin0_extint(const struct irq_chips *c, const struct lapic *l)
{
	struct irq_msg m;
	uint64_t addr;
	uint32_t data;

	if (!ioapic_msg(&c->ioapic, 0, &addr, &data) || (data >> 8 & 7) != IRQ_DM_EXTINT)
		return false;
	route_from_msi(&m, addr, data);
	return route_match(l, &m);
}

/* After anything that may have changed the 8259s. */
static void chips_update_locked(struct irq_chips *c)
{
	bool intr = pic_intr(&c->pic), was = c->intr;

	if (intr == was)
		return;
	__atomic_store_n(&c->intr, intr, __ATOMIC_SEQ_CST);
	if (c->o.intr)
		c->o.intr(c->o.arg, intr);
	ioapic_line(c, 0, intr);
	for (unsigned i = 0; intr && i < c->nlapic; i++) {
		struct lapic *l = c->lapic[i];

		if (chips_lint0_extint(l) || chips_pin0_extint(c, l))
			l->owner->kick(l);
		else
			lapic_local(l, LAPIC_LVT_LINT0);
	}
}

bool irq_chips_intr(struct irq_chips *c, struct lapic *l)
{
	if (!__atomic_load_n(&c->intr, __ATOMIC_SEQ_CST))
		return false;
	if (chips_lint0_extint(l))
		return true;
	SCOPED_LOCK(&c->lock);
	return c->intr && chips_pin0_extint(c, l);
}

uint8_t irq_chips_inta(struct irq_chips *c)
{
	SCOPED_LOCK(&c->lock);
	uint8_t v = pic_inta(&c->pic);

	chips_update_locked(c);
	return v;
}

void irq_chips_eoi(struct irq_chips *c, uint8_t vector)
{
	SCOPED_LOCK(&c->lock);
	ioapic_eoi(c, vector);
}

void irq_chips_nmi(struct irq_chips *c)
{
	unsigned n = __atomic_load_n(&c->nlapic, __ATOMIC_ACQUIRE);

	for (unsigned i = 0; i < n; i++)
		lapic_local(c->lapic[i], LAPIC_LVT_LINT1);
}

bool irq_chips_pin(struct irq_chips *c, unsigned pin, uint64_t *ret_addr, uint32_t *ret_data)
{
	return ioapic_msg(&c->ioapic, pin, ret_addr, ret_data);
}

/* Devices' side. */

static void chips_line(struct irqs *q, unsigned gsi, bool level)
{
	struct irq_chips *c = container_of(q, struct irq_chips, irqs);

	SCOPED_LOCK(&c->lock);
	if (gsi < 16)
		pic_line(&c->pic, gsi, level);
	/* Pin 0 is INTR's, pin 2 the PIT's. */
	if (gsi != 2)
		ioapic_line(c, gsi ? gsi : 2, level);
	chips_update_locked(c);
}

static void chips_msi(struct irqs *q, uint64_t addr, uint32_t data)
{
	struct irq_chips *c = container_of(q, struct irq_chips, irqs);
	struct irq_msg m;

	if (c->o.msi) {
		c->o.msi(c->o.arg, addr, data);
		return;
	}
	route_from_msi(&m, addr, data);
	route_send(c, &m);
}

/* Somebody takes INTR; kvm split: vCPU 0. */
static bool chips_intr_heard(const struct irq_chips *c)
{
	for (unsigned i = 0; i < c->nlapic; i++)
		if (chips_lint0_extint(c->lapic[i]) || chips_pin0_extint(c, c->lapic[i]))
			return true;
	return c->o.intr;
}

static enum irq_edge chips_edge(struct irqs *q, unsigned gsi)
{
	struct irq_chips *c = container_of(q, struct irq_chips, irqs);
	enum irq_edge pic = IRQ_EDGE_UNHEARD, io = IRQ_EDGE_UNHEARD;

	SCOPED_LOCK(&c->lock);
	if (gsi < 16 && chips_intr_heard(c))
		pic = pic_edge(&c->pic, gsi);
	if (gsi != 2)
		io = ioapic_edge(c, gsi ? gsi : 2);
	if (pic == IRQ_EDGE_TAKEN || io == IRQ_EDGE_TAKEN)
		return IRQ_EDGE_TAKEN;
	return pic == IRQ_EDGE_MERGED || io == IRQ_EDGE_MERGED ? IRQ_EDGE_MERGED : IRQ_EDGE_UNHEARD;
}

static enum irq_edge chips_msi_edge(struct irqs *q, uint64_t addr, uint32_t data)
{
	struct irq_chips *c = container_of(q, struct irq_chips, irqs);
	struct irq_msg m;

	if (c->o.msi)
		return IRQ_EDGE_TAKEN;
	route_from_msi(&m, addr, data);
	return route_edge(c, &m);
}

static const struct irq_ops chips_ops = {
	.name = "chips",
	.line = chips_line,
	.msi = chips_msi,
	.edge = chips_edge,
	.msi_edge = chips_msi_edge,
};

/* The buses' side; the bus holds c->lock. */

static uint64_t chips_pic_read(struct bus_range *r, uint64_t off, unsigned size)
{
	unsigned which = r->base == 0xa0;
	struct irq_chips *c = which ? container_of(r, struct irq_chips, at_pic[1])
				    : container_of(r, struct irq_chips, at_pic[0]);
	uint8_t v = pic_read(&c->pic, which, off & 1);

	chips_update_locked(c);
	return v;
}

static void chips_pic_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	unsigned which = r->base == 0xa0;
	struct irq_chips *c = which ? container_of(r, struct irq_chips, at_pic[1])
				    : container_of(r, struct irq_chips, at_pic[0]);

	pic_write(&c->pic, which, off & 1, (uint8_t)v);
	chips_update_locked(c);
}

static uint64_t chips_elcr_read(struct bus_range *r, uint64_t off, unsigned size)
{
	return pic_elcr_read(&container_of(r, struct irq_chips, at_elcr)->pic, off & 1);
}

static void chips_elcr_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	struct irq_chips *c = container_of(r, struct irq_chips, at_elcr);

	pic_elcr_write(&c->pic, off & 1, (uint8_t)v);
	chips_update_locked(c);
}

static uint64_t chips_ioapic_read(struct bus_range *r, uint64_t off, unsigned size)
{
	struct irq_chips *c = container_of(r, struct irq_chips, at_ioapic);

	/* Registers are 32 bits wide at multiples of 16; bytes of them can be read. */
	return ioapic_read(&c->ioapic, (unsigned)off & ~3u) >> (off & 3) * 8;
}

static void chips_ioapic_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	struct irq_chips *c = container_of(r, struct irq_chips, at_ioapic);

	if (!(off & 3))
		ioapic_write(c, (unsigned)off, (uint32_t)v);
}

static const struct bus_ops chips_pic_bus = {
	.read = chips_pic_read,
	.write = chips_pic_write,
	.max_size = 1,
};
static const struct bus_ops chips_elcr_bus = {
	.read = chips_elcr_read,
	.write = chips_elcr_write,
	.max_size = 1,
};
static const struct bus_ops chips_ioapic_bus = {
	.read = chips_ioapic_read,
	.write = chips_ioapic_write,
	.max_size = 4,
};

/* Life cycle. */

static int chips_map(struct irq_chips *c, struct err *e)
{
	struct bus *pio = c->o.pio;

	c->at_pic[0] = (struct bus_range){ &chips_pic_bus, "pic", &c->lock };
	c->at_pic[1] = (struct bus_range){ &chips_pic_bus, "pic2", &c->lock };
	c->at_elcr = (struct bus_range){ &chips_elcr_bus, "elcr", &c->lock };
	c->at_ioapic = (struct bus_range){ &chips_ioapic_bus, "ioapic", &c->lock };
	if (bus_add(pio, &c->at_pic[0], 0x20, 2) < 0 || bus_add(pio, &c->at_pic[1], 0xa0, 2) < 0 ||
	    bus_add(pio, &c->at_elcr, 0x4d0, 2) < 0 ||
	    bus_add(c->o.mmio, &c->at_ioapic, IOAPIC_BASE, IOAPIC_LEN) < 0)
		return err_set(e, EBUSY, "addresses of the interrupt controllers are taken");
	return 0;
}

int irq_chips_new(struct irq_chips **ret, const struct irq_chips_opts *o, struct err *e)
{
	struct irq_chips *c = NEW(struct irq_chips);

	if (!c)
		return err_set(e, ENOMEM, "no memory for interrupt controllers");
	c->o = *o;
	c->irqs.ops = &chips_ops;
	lock_init(&c->lock);
	irq_chips_reset(c);
	int rc = chips_map(c, e);
	if (rc < 0) {
		irq_chips_free(c);
		return rc;
	}
	*ret = c;
	return 0;
}

void irq_chips_free(struct irq_chips *c)
{
	if (!c)
		return;
	bus_del(c->o.pio, &c->at_pic[0]);
	bus_del(c->o.pio, &c->at_pic[1]);
	bus_del(c->o.pio, &c->at_elcr);
	bus_del(c->o.mmio, &c->at_ioapic);
	lock_fini(&c->lock);
	free(c);
}

struct irqs *irq_chips_irqs(struct irq_chips *c)
{
	return &c->irqs;
}

void irq_chips_add(struct irq_chips *c, struct lapic *l)
{
	unsigned n = c->nlapic;

	BUG_ON(n == IRQ_LAPICS);
	c->lapic[n] = l;
	__atomic_store_n(&c->nlapic, n + 1, __ATOMIC_RELEASE);
}

void irq_chips_reset(struct irq_chips *c)
{
	SCOPED_LOCK(&c->lock);
	pic_reset(&c->pic);
	ioapic_reset(&c->ioapic);
	chips_update_locked(c);
}

static const struct state_field chips_fields[] = {
	STATE_STRUCT_FIELD(struct irq_chips, pic, &pic_pair_state, 1),
	STATE_STRUCT_FIELD(struct irq_chips, ioapic, &ioapic_state, 1),
};

/* Nested tables' checks are the owner's to run. */
static int chips_check(const void *obj, struct err *e)
{
	const struct irq_chips *c = obj;
	int rc = pic_pair_state.check(&c->pic, e);

	return rc < 0 ? rc : ioapic_state.check(&c->ioapic, e);
}

const struct state_desc irq_chips_state = {
	.name = "irq-chips",
	.version = 1,
	.oldest = 1,
	.field = chips_fields,
	.nfield = COUNT_OF(chips_fields),
	.check = chips_check,
};

void *irq_chips_state_obj(struct irq_chips *c, size_t *ret_size)
{
	*ret_size = sizeof(*c);
	return c;
}

void irq_chips_post_load(struct irq_chips *c)
{
	SCOPED_LOCK(&c->lock);
	c->intr = false;
	chips_update_locked(c);
	ioapic_service(c);
	for (unsigned pin = 0; c->o.routed && pin < IOAPIC_PINS; pin++)
		c->o.routed(c->o.arg, pin);
}
