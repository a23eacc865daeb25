/*
 * Interrupts of a kvm VM, and bells.
 *
 * By default all chips are in the kernel: two 8259s, the I/O APIC, local APICs and the PIT.  With
 * split_irqchip only the local APICs are; the 8259s and the I/O APIC are irq/chips.h's, which sends
 * messages through KVM_SIGNAL_MSI, and an 8259 interrupt is handed to vCPU 0 as KVM_INTERRUPT when
 * KVM says that it can take one (api.rst, KVM_CAP_SPLIT_IRQCHIP).
 *
 * A message of a device is one ioctl on the device's thread; an irqfd would be one write, so there
 * is none.
 *
 * Bells are ioeventfds: a guest store signals an eventfd without leaving the kernel.
 */
#include "accel/kvm/kvm_int.h"

#include "base/trace.h"

#include <errno.h>
#include <string.h>

static struct kvm_vm *irq_vm(struct irqs *q)
{
	return container_of(q, struct kvm_vm, irqs);
}

static void kvm_irq_line(struct irqs *q, unsigned gsi, bool level)
{
	struct kvm_irq_level l = { .irq = gsi, .level = level };

	/* Fails for no valid line. */
	(void)kvm_ioctl(irq_vm(q)->fd, KVM_IRQ_LINE, &l);
}

static void irq_signal(struct kvm_vm *k, uint64_t addr, uint32_t data)
{
	TRACE(kvm_msi, "addr=%#lx data=%#x", (unsigned long)addr, data);
	struct kvm_msi m = {
		.address_lo = (uint32_t)addr,
		.address_hi = (uint32_t)(addr >> 32),
		.data = data,
	};

	/* 0 says that the guest had it blocked: as on a real board, the message is lost. */
	(void)kvm_ioctl(k->fd, KVM_SIGNAL_MSI, &m);
}

static void kvm_irq_msi(struct irqs *q, uint64_t addr, uint32_t data)
{
	irq_signal(irq_vm(q), addr, data);
}

static int routes_apply_locked(struct kvm_vm *k)
{
	static const size_t head = sizeof(struct kvm_irq_routing);
	union {
		struct kvm_irq_routing t;
		uint8_t room[sizeof(struct kvm_irq_routing) +
			     KVM_ROUTE_ENTRIES * sizeof(struct kvm_irq_routing_entry)];
	} u;

	memset(&u.t, 0, head);
	u.t.nr = kvm_routes_build(&k->routes, u.t.entries);
	return kvm_ioctl(k->fd, KVM_SET_GSI_ROUTING, &u.t);
}

static const struct irq_ops kvm_irq_ops = {
	.name = "kvm",
	.line = kvm_irq_line,
	.msi = kvm_irq_msi,
};

/* Split: a message of the I/O APIC. */
static void split_msi(void *arg, uint64_t addr, uint32_t data)
{
	irq_signal(arg, addr, data);
}

static void split_routed(void *arg, unsigned pin)
{
	struct kvm_vm *k = arg;
	uint64_t addr = 0;
	uint32_t data = 0;
	bool on = irq_chips_pin(k->chips, pin, &addr, &data);

	SCOPED_LOCK(&k->route_lock);
	if (kvm_routes_pin(&k->routes, pin, on, addr, data))
		(void)routes_apply_locked(k);
}

static void split_intr(void *arg, bool level)
{
	struct kvm_vm *k = arg;

	__atomic_store_n(&k->intr, level, __ATOMIC_RELEASE);
	if (level && k->vm.vcpu[0])
		kvm_nudge(kvm_vcpu(k->vm.vcpu[0]));
}

/* A line goes on to the user-space chips, which look at the levels too. */
static void split_line(struct irqs *q, unsigned gsi, bool level)
{
	struct irqs *chips = irq_chips_irqs(irq_vm(q)->chips);

	if (level)
		__atomic_fetch_or(&chips->level, 1u << gsi, __ATOMIC_ACQ_REL);
	else
		__atomic_fetch_and(&chips->level, ~(1u << gsi), __ATOMIC_ACQ_REL);
	chips->ops->line(chips, gsi, level);
}

static enum irq_edge split_edge(struct irqs *q, unsigned gsi)
{
	struct irqs *chips = irq_chips_irqs(irq_vm(q)->chips);

	return chips->ops->edge(chips, gsi);
}

static const struct irq_ops kvm_split_ops = {
	.name = "kvm-split",
	.line = split_line,
	.msi = kvm_irq_msi,
	.edge = split_edge,
};

static int irq_init_split(struct kvm_vm *k, struct err *e)
{
	int rc = kvm_cap_enable(k->fd, KVM_CAP_SPLIT_IRQCHIP, KVM_IOAPIC_PINS_USED, 0);

	if (rc < 0)
		return err_set(e, -rc, "this host's KVM lacks KVM_CAP_SPLIT_IRQCHIP: %s",
			       strerror(-rc));
	const struct irq_chips_opts o = {
		.mmio = k->vm.o.mmio,
		.pio = k->vm.o.pio,
		.msi = split_msi,
		.intr = split_intr,
		.routed = split_routed,
		.arg = k,
	};
	k->irqs.ops = &kvm_split_ops;
	return irq_chips_new(&k->chips, &o, e);
}

static int irq_init_full(struct kvm_vm *k, struct err *e)
{
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	int rc = kvm_call(k->fd, KVM_CREATE_IRQCHIP, NULL, "create interrupt chips", e);

	if (rc < 0)
		return rc;
	rc = kvm_call(k->fd, KVM_CREATE_PIT2, &pit, "create a PIT", e);
	if (rc < 0)
		return rc;
	/*
	 * Ticks that the guest was too slow for are delivered later, KVM's own default: guests
	 * count them.  (KVM_REINJECT_CONTROL, to change it, waits for a grace period, 15 ms.)
	 */
	k->vm.has_pit = true;
	for (unsigned i = 0; i < COUNT_OF(k->chip0) && rc >= 0; i++) {
		k->chip0[i].chip_id = i;
		rc = kvm_call(k->fd, KVM_GET_IRQCHIP, &k->chip0[i], "read interrupt chips", e);
	}
	return rc < 0 ? rc : kvm_call(k->fd, KVM_GET_PIT2, &k->pit0, "read the PIT", e);
}

/* The kernel has no reset for its chips: they get the state that they were born with. */
int kvm_irq_reset(struct kvm_vm *k, struct err *e)
{
	int rc = 0;

	if (k->chips) {
		irq_chips_reset(k->chips);
		return 0;
	}
	for (unsigned i = 0; i < COUNT_OF(k->chip0) && rc >= 0; i++) {
		struct kvm_irqchip chip = k->chip0[i];

		rc = kvm_call(k->fd, KVM_SET_IRQCHIP, &chip, "reset interrupt chips", e);
	}
	struct kvm_pit_state2 pit = k->pit0;
	return rc < 0 ? rc : kvm_call(k->fd, KVM_SET_PIT2, &pit, "reset the PIT", e);
}

static int kvm_bell(struct kvm_vm *k, struct bus *b, const struct bus_notify *n, uint32_t flags)
{
	struct kvm_ioeventfd f = {
		.addr = n->addr,
		.len = n->size,
		.fd = n->fd,
		.datamatch = n->has_match ? n->match : 0,
		.flags = flags | (b->kind == BUS_PIO ? KVM_IOEVENTFD_FLAG_PIO : 0u) |
			 (n->has_match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0u),
	};

	return kvm_ioctl(k->fd, KVM_IOEVENTFD, &f);
}

static int kvm_bell_add(struct bus_engine *be, struct bus *b, const struct bus_notify *n)
{
	int rc = kvm_bell(container_of(be, struct kvm_vm, bells), b, n, 0);

	/* What this KVM cannot do (any width on ports, too many) the bus does. */
	return rc == -EINVAL || rc == -ENOSPC ? -ENOSYS : rc;
}

static void kvm_bell_del(struct bus_engine *be, struct bus *b, const struct bus_notify *n)
{
	(void)kvm_bell(container_of(be, struct kvm_vm, bells), b, n, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

int kvm_irq_init(struct kvm_vm *k, struct err *e)
{
	kvm_routes_init(&k->routes, k->vm.o.split_irqchip);
	k->irqs.ops = &kvm_irq_ops;
	k->vm.irqs = &k->irqs;
	int rc = k->vm.o.split_irqchip ? irq_init_split(k, e) : irq_init_full(k, e);
	if (rc < 0)
		return rc;
	rc = routes_apply_locked(k);
	if (rc < 0)
		return err_set(e, -rc, "/dev/kvm: cannot route interrupts: %s", strerror(-rc));
	k->bells = (struct bus_engine){ .notify_add = kvm_bell_add, .notify_del = kvm_bell_del };
	k->vm.o.mmio->engine = k->vm.o.pio->engine = &k->bells;
	return 0;
}

void kvm_irq_fini(struct kvm_vm *k)
{
	if (k->vm.o.mmio->engine == &k->bells)
		k->vm.o.mmio->engine = k->vm.o.pio->engine = NULL;
	irq_chips_free(k->chips);
}

void kvm_irq_before_run(struct kvm_vcpu *c)
{
	struct kvm_vm *k = kvm_of(c);

	if (!k->chips || c->v.index)
		return;
	c->run->request_interrupt_window = 0;
	if (!__atomic_load_n(&k->intr, __ATOMIC_ACQUIRE))
		return;
	if (!c->run->ready_for_interrupt_injection) {
		c->run->request_interrupt_window = 1;
		return;
	}
	struct kvm_interrupt irq = { .irq = irq_chips_inta(k->chips) };
	irq_accepted(&k->irqs);
	(void)kvm_ioctl(c->fd, KVM_INTERRUPT, &irq);
	/* A second one waits until this one is in. */
	c->run->ready_for_interrupt_injection = 0;
	c->run->request_interrupt_window = __atomic_load_n(&k->intr, __ATOMIC_ACQUIRE);
}
