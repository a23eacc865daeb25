#include "accel/kvm/route.h"

#include "base/bug.h"

#include <errno.h>

enum {
	/* The pin of the first 8259 where the second hangs, and of the I/O APIC where the PIT is.
	 */
	ROUTE_CASCADE = 2,
	ROUTE_IOAPIC_PIT = 2,
};

void kvm_routes_init(struct kvm_routes *r, bool split)
{
	*r = (struct kvm_routes){ .split = split };
	for (unsigned i = 0; i < IRQ_GSIS; i++)
		r->pin[i].fd = -1;
}

int kvm_routes_find(const struct kvm_routes *r, int fd)
{
	for (unsigned i = 0; i < r->nmsi; i++)
		if (r->msi[i].fd == fd)
			return (int)(IRQ_GSIS + i);
	return -ENOENT;
}

int kvm_routes_attach(struct kvm_routes *r, int fd, uint64_t addr, uint32_t data)
{
	int gsi = kvm_routes_find(r, fd);

	if (gsi < 0)
		gsi = kvm_routes_find(r, -1);
	if (gsi < 0 && r->nmsi == KVM_ROUTE_MSIS)
		return -ENOSPC;
	if (gsi < 0)
		gsi = (int)(IRQ_GSIS + r->nmsi++);
	r->msi[gsi - IRQ_GSIS] = (struct kvm_route_msi){ .addr = addr, .data = data, .fd = fd };
	return gsi;
}

void kvm_routes_detach(struct kvm_routes *r, unsigned gsi)
{
	BUG_ON(gsi < IRQ_GSIS || gsi - IRQ_GSIS >= r->nmsi);
	r->msi[gsi - IRQ_GSIS].fd = -1;
	while (r->nmsi && r->msi[r->nmsi - 1].fd < 0)
		r->nmsi--;
}

bool kvm_routes_pin(struct kvm_routes *r, unsigned pin, bool on, uint64_t addr, uint32_t data)
{
	BUG_ON(pin >= IRQ_GSIS || !r->split);
	struct kvm_route_msi *p = &r->pin[pin];
	const struct kvm_route_msi was = *p;

	*p = (struct kvm_route_msi){ .addr = addr, .data = data, .fd = on ? 0 : -1 };
	return p->fd != was.fd || (on && (p->addr != was.addr || p->data != was.data));
}

static struct kvm_irq_routing_entry route_pin(unsigned gsi, unsigned chip, unsigned pin)
{
	return (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = { .irqchip = chip, .pin = pin },
	};
}

static struct kvm_irq_routing_entry route_msi(unsigned gsi, const struct kvm_route_msi *m)
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
		if (r->pin[i].fd >= 0)
			ret[n++] = route_msi(i, &r->pin[i]);
	for (unsigned i = 0; i < r->nmsi; i++)
		if (r->msi[i].fd >= 0)
			ret[n++] = route_msi(IRQ_GSIS + i, &r->msi[i]);
	return n;
}
