#include "accel/kvm/route.h"

#include "base/bug.h"

enum {
	/* The pin of the first 8259 where the second hangs, and of the I/O APIC where the PIT is.
	 */
	ROUTE_CASCADE = 2,
	ROUTE_IOAPIC_PIT = 2,
};

void kvm_routes_init(struct kvm_routes *r, bool split)
{
	*r = (struct kvm_routes){ .split = split };
}

bool kvm_routes_pin(struct kvm_routes *r, unsigned pin, bool on, uint64_t addr, uint32_t data)
{
	BUG_ON(pin >= IRQ_GSIS || !r->split);
	struct kvm_route_pin *p = &r->pin[pin];
	const struct kvm_route_pin was = *p;

	*p = (struct kvm_route_pin){ .addr = addr, .data = data, .on = on };
	return on != was.on || (on && (p->addr != was.addr || p->data != was.data));
}

static struct kvm_irq_routing_entry route_pin(unsigned gsi, unsigned chip, unsigned pin)
{
	return (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = { .irqchip = chip, .pin = pin },
	};
}

static struct kvm_irq_routing_entry route_msi(unsigned gsi, const struct kvm_route_pin *m)
{
	return (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_MSI,
		.u.msi = {
			.address_lo = (uint32_t)m->addr,
			.address_hi = (uint32_t)(m->addr >> 32),
			.data = m->data,
		},
	};
}

static unsigned route_lines(struct kvm_irq_routing_entry *ret)
{
	unsigned n = 0;

	for (unsigned gsi = 0; gsi < 16; gsi++)
		if (gsi != ROUTE_CASCADE)
			ret[n++] = route_pin(
				gsi, gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
				gsi % 8);
	for (unsigned gsi = 0; gsi < IRQ_GSIS; gsi++)
		if (gsi != ROUTE_IOAPIC_PIT)
			ret[n++] = route_pin(gsi, KVM_IRQCHIP_IOAPIC,
					     gsi == IRQ_GSI_PIT ? ROUTE_IOAPIC_PIT : gsi);
	return n;
}

unsigned kvm_routes_build(const struct kvm_routes *r, struct kvm_irq_routing_entry *ret)
{
	unsigned n = r->split ? 0 : route_lines(ret);

	for (unsigned i = 0; i < IRQ_GSIS; i++)
		if (r->pin[i].on)
			ret[n++] = route_msi(i, &r->pin[i]);
	return n;
}
