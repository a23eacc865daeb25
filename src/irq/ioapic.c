/*
 * The I/O APIC (82093AA data sheet, order 290566; version 0x20 with the EOI register of the ICH
 * and later south bridges).
 *
 * Each of 24 pins has a redirection entry.  Edge: a rising input sends a message, unless masked,
 * and then it is lost.  Level: while the input is up and no EOI is awaited (remote IRR), a message
 * is sent and remote IRR set; the EOI of its vector clears it, and an input that is still up sends
 * again.  Messages leave as MSIs, so they reach local APICs here (soft) or in the kernel (kvm's
 * split irqchip) the same way.
 *
 * Polarity is kept and not interpreted: lines here carry "asserted", not a voltage.
 */
#include "irq/irq_int.h"

#include "base/bits.h"

#include <errno.h>

enum {
	IOREGSEL = 0x00,
	IOWIN = 0x10,
	IOEOI = 0x40,
	REG_ID = 0,
	REG_VERSION = 1,
	REG_ARB = 2,
	REG_REDIR = 0x10,
	IOAPIC_VERSION = 0x20 | (IOAPIC_PINS - 1) << 16,
};

/* A redirection entry (3.2.4). */
#define RTE_VECTOR 0xffull
#define RTE_MODE_SHIFT 8
#define RTE_LOGICAL BIT64(11)
#define RTE_PENDING BIT64(12)
#define RTE_REMOTE_IRR BIT64(14)
#define RTE_LEVEL BIT64(15)
#define RTE_MASKED BIT64(16)
#define RTE_DEST_SHIFT 56
/* Vector, mode, logical, polarity, trigger, mask, destination. */
#define RTE_WRITABLE (0xffull << RTE_DEST_SHIFT | 0x1afff)

void ioapic_reset(struct ioapic *io)
{
	/* Inputs are the devices'. */
	uint32_t level = io->level;

	*io = (struct ioapic){ .level = level };
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		io->redir[i] = RTE_MASKED;
}

static unsigned rte_mode(uint64_t e)
{
	return e >> RTE_MODE_SHIFT & 7;
}

bool ioapic_msg(const struct ioapic *io, unsigned pin, uint64_t *ret_addr, uint32_t *ret_data)
{
	uint64_t e = io->redir[pin];
	uint32_t addr = 0xfee00000u | (uint32_t)(e >> RTE_DEST_SHIFT) << 12;

	if (e & RTE_LOGICAL)
		addr |= BIT(2);
	/* Lowest priority is a choice between several. */
	if (rte_mode(e) == IRQ_DM_LOWEST)
		addr |= BIT(3);
	*ret_addr = addr;
	*ret_data = (uint32_t)(e & RTE_VECTOR) | rte_mode(e) << 8;
	if (e & RTE_LEVEL)
		*ret_data |= BIT(15) | BIT(14);
	return !(e & RTE_MASKED);
}

/* Returns whether somebody took it. */
static bool ioapic_send(struct irq_chips *c, unsigned pin)
{
	uint64_t addr;
	uint32_t data;
	struct irq_msg m;

	if (!ioapic_msg(&c->ioapic, pin, &addr, &data))
		return false;
	/* ExtINT is a level that local APICs look at, see irq_chips_intr(). */
	if (rte_mode(c->ioapic.redir[pin]) == IRQ_DM_EXTINT)
		return false;
	if (c->o.msi) {
		c->o.msi(c->o.arg, addr, data);
		return true;
	}
	route_from_msi(&m, addr, data);
	return route_send(c, &m);
}

static void ioapic_service_pin(struct irq_chips *c, unsigned pin)
{
	uint64_t *e = &c->ioapic.redir[pin];

	if (!(*e & RTE_LEVEL) || *e & (RTE_MASKED | RTE_REMOTE_IRR) ||
	    !(c->ioapic.level & BIT(pin)))
		return;
	/* Set before the message goes: its EOI may come from another thread's CPU at once. */
	if (rte_mode(*e) <= IRQ_DM_LOWEST)
		*e |= RTE_REMOTE_IRR;
	if (!ioapic_send(c, pin))
		*e &= ~RTE_REMOTE_IRR;
}

void ioapic_line(struct irq_chips *c, unsigned pin, bool level)
{
	struct ioapic *io = &c->ioapic;
	uint32_t bit = BIT(pin);
	bool rose = level && !(io->level & bit);

	io->level = level ? io->level | bit : io->level & ~bit;
	if (io->redir[pin] & RTE_LEVEL)
		ioapic_service_pin(c, pin);
	else if (rose)
		ioapic_send(c, pin);
}

enum irq_edge ioapic_edge(const struct irq_chips *c, unsigned pin)
{
	struct irq_msg m;
	uint64_t addr;
	uint32_t data;

	if (!ioapic_msg(&c->ioapic, pin, &addr, &data))
		return IRQ_EDGE_UNHEARD;
	/* Those in the kernel do not tell. */
	if (c->o.msi)
		return IRQ_EDGE_TAKEN;
	route_from_msi(&m, addr, data);
	return route_edge(c, &m);
}

void ioapic_service(struct irq_chips *c)
{
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		ioapic_service_pin(c, i);
}

void ioapic_eoi(struct irq_chips *c, uint8_t vector)
{
	for (unsigned i = 0; i < IOAPIC_PINS; i++) {
		uint64_t *e = &c->ioapic.redir[i];

		if ((*e & RTE_VECTOR) != vector || !(*e & RTE_REMOTE_IRR))
			continue;
		*e &= ~RTE_REMOTE_IRR;
		ioapic_service_pin(c, i);
	}
}

/* Registers. */

static uint32_t ioapic_read_reg(const struct ioapic *io)
{
	unsigned n = io->index - REG_REDIR;

	switch (io->index) {
	case REG_ID:
	case REG_ARB:
		return (uint32_t)io->id << 24;
	case REG_VERSION:
		return IOAPIC_VERSION;
	default:
		if (n >= 2 * IOAPIC_PINS)
			return 0;
		return (uint32_t)(io->redir[n / 2] >> (n & 1 ? 32 : 0));
	}
}

static void ioapic_write_redir(struct irq_chips *c, unsigned pin, bool high, uint32_t v)
{
	uint64_t old = c->ioapic.redir[pin], mask = high ? ~0ull << 32 : UINT32_MAX;
	uint64_t e = (old & ~mask) | (((uint64_t)v << (high ? 32 : 0)) & mask);

	e = (e & RTE_WRITABLE) | (old & RTE_REMOTE_IRR);
	/* An edge awaits no EOI. */
	if (!(e & RTE_LEVEL))
		e &= ~RTE_REMOTE_IRR;
	c->ioapic.redir[pin] = e;
	if (c->o.routed && e != old)
		c->o.routed(c->o.arg, pin);
	ioapic_service_pin(c, pin);
}

uint32_t ioapic_read(struct ioapic *io, unsigned off)
{
	switch (off) {
	case IOREGSEL:
		return io->index;
	case IOWIN:
		return ioapic_read_reg(io);
	default:
		return 0;
	}
}

void ioapic_write(struct irq_chips *c, unsigned off, uint32_t v)
{
	struct ioapic *io = &c->ioapic;
	unsigned n = io->index - REG_REDIR;

	switch (off) {
	case IOREGSEL:
		io->index = (uint8_t)v;
		break;
	case IOWIN:
		if (io->index == REG_ID)
			io->id = v >> 24 & 0xf;
		else if (n < 2 * IOAPIC_PINS)
			ioapic_write_redir(c, n / 2, n & 1, v);
		break;
	case IOEOI:
		ioapic_eoi(c, (uint8_t)v);
		break;
	default:
		break;
	}
}

/* Saved state. */

static int ioapic_check(const void *obj, struct err *e)
{
	const struct ioapic *io = obj;

	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		if (io->redir[i] & ~(RTE_WRITABLE | RTE_REMOTE_IRR))
			return err_set(e, EPROTO, "reserved bits in redirection entry %u", i);
	return 0;
}

static const struct state_field ioapic_fields[] = {
	STATE_ARRAY(struct ioapic, redir, 1),
	STATE_FIELD(struct ioapic, level, 1),
	STATE_FIELD(struct ioapic, index, 1),
	STATE_FIELD(struct ioapic, id, 1),
};

const struct state_desc ioapic_state = {
	.name = "ioapic",
	.version = 1,
	.oldest = 1,
	.field = ioapic_fields,
	.nfield = COUNT_OF(ioapic_fields),
	.check = ioapic_check,
};
