/* accel/kvm/route.c: who gets which GSI, and what the kernel is told. */
#include "accel/kvm/route.h"

#include "lib/t.h"

#include <errno.h>

static struct kvm_routes routes;
static struct kvm_irq_routing_entry e[KVM_ROUTE_ENTRIES];

/* The entry of a GSI on a chip, or NULL. */
static const struct kvm_irq_routing_entry *find(unsigned n, unsigned gsi, unsigned chip)
{
	for (unsigned i = 0; i < n; i++)
		if (e[i].gsi == gsi && e[i].type == KVM_IRQ_ROUTING_IRQCHIP &&
		    e[i].u.irqchip.irqchip == chip)
			return &e[i];
	return NULL;
}

static const struct kvm_irq_routing_entry *find_msi(unsigned n, unsigned gsi)
{
	for (unsigned i = 0; i < n; i++)
		if (e[i].gsi == gsi && e[i].type == KVM_IRQ_ROUTING_MSI)
			return &e[i];
	return NULL;
}

static void test_lines(void **state)
{
	kvm_routes_init(&routes, false);
	unsigned n = kvm_routes_build(&routes, e);

	/* 15 inputs of the 8259s and 23 of the I/O APIC: pin 2 of each is taken. */
	assert_int_equal(n, 15 + 23);
	assert_int_equal(find(n, 0, KVM_IRQCHIP_PIC_MASTER)->u.irqchip.pin, 0);
	assert_int_equal(find(n, 0, KVM_IRQCHIP_IOAPIC)->u.irqchip.pin, 2);
	assert_null(find(n, 2, KVM_IRQCHIP_PIC_MASTER));
	assert_null(find(n, 2, KVM_IRQCHIP_IOAPIC));
	assert_int_equal(find(n, 9, KVM_IRQCHIP_PIC_SLAVE)->u.irqchip.pin, 1);
	assert_null(find(n, 9, KVM_IRQCHIP_PIC_MASTER));
	assert_int_equal(find(n, 23, KVM_IRQCHIP_IOAPIC)->u.irqchip.pin, 23);
	assert_null(find(n, 16, KVM_IRQCHIP_PIC_SLAVE));
}

static void test_msi(void **state)
{
	kvm_routes_init(&routes, false);
	assert_int_equal(kvm_routes_attach(&routes, 7, 0x1fee00000ull, 0x41), IRQ_GSIS);
	assert_int_equal(kvm_routes_attach(&routes, 8, 0xfee01000, 0x42), IRQ_GSIS + 1);
	/* The same descriptor again: another message, the same GSI. */
	assert_int_equal(kvm_routes_attach(&routes, 7, 0x1fee02000ull, 0x43), IRQ_GSIS);

	unsigned n = kvm_routes_build(&routes, e);
	const struct kvm_irq_routing_entry *m = find_msi(n, IRQ_GSIS);
	assert_int_equal(m->u.msi.address_hi, 1);
	assert_int_equal(m->u.msi.address_lo, 0xfee02000);
	assert_int_equal(m->u.msi.data, 0x43);

	/* A freed GSI is given again, and is not routed in between. */
	kvm_routes_detach(&routes, IRQ_GSIS);
	assert_int_equal(kvm_routes_find(&routes, 7), -ENOENT);
	assert_null(find_msi(kvm_routes_build(&routes, e), IRQ_GSIS));
	assert_int_equal(kvm_routes_attach(&routes, 9, 0xfee00000, 1), IRQ_GSIS);
}

static void test_full(void **state)
{
	kvm_routes_init(&routes, true);
	for (int i = 0; i < KVM_ROUTE_MSIS; i++)
		assert_int_equal(kvm_routes_attach(&routes, 100 + i, 0xfee00000, (uint32_t)i),
				 IRQ_GSIS + i);
	assert_int_equal(kvm_routes_attach(&routes, 5, 0xfee00000, 0), -ENOSPC);
	assert_int_equal(kvm_routes_build(&routes, e), KVM_ROUTE_MSIS);
	for (int i = 0; i < KVM_ROUTE_MSIS; i++)
		kvm_routes_detach(&routes, (unsigned)(IRQ_GSIS + i));
	assert_int_equal(kvm_routes_build(&routes, e), 0);
	assert_int_equal(routes.nmsi, 0);
}

static void test_split(void **state)
{
	kvm_routes_init(&routes, true);
	assert_int_equal(kvm_routes_build(&routes, e), 0);
	assert_true(kvm_routes_pin(&routes, 9, true, 0xfee00000, 0x8031));
	assert_false(kvm_routes_pin(&routes, 9, true, 0xfee00000, 0x8031));
	assert_true(kvm_routes_pin(&routes, 9, true, 0xfee00000, 0x8032));
	unsigned n = kvm_routes_build(&routes, e);
	assert_int_equal(n, 1);
	assert_int_equal(find_msi(n, 9)->u.msi.data, 0x8032);
	assert_true(kvm_routes_pin(&routes, 9, false, 0, 0));
	assert_false(kvm_routes_pin(&routes, 9, false, 0, 0));
	assert_int_equal(kvm_routes_build(&routes, e), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines),
		cmocka_unit_test(test_msi),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_split),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
