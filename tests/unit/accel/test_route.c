/* accel/kvm/route.c: what the kernel is told of lines and messages. */
#include "accel/kvm/route.h"

#include "lib/t.h"

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

static void test_split(void **state)
{
	kvm_routes_init(&routes, true);
	assert_int_equal(kvm_routes_build(&routes, e), 0);
	assert_true(kvm_routes_pin(&routes, 9, true, 0xfee00000, 0x8031));
	assert_false(kvm_routes_pin(&routes, 9, true, 0xfee00000, 0x8031));
	assert_true(kvm_routes_pin(&routes, 9, true, 0x1fee01000ull, 0x8032));
	unsigned n = kvm_routes_build(&routes, e);
	assert_int_equal(n, 1);
	assert_int_equal(find_msi(n, 9)->u.msi.data, 0x8032);
	assert_int_equal(find_msi(n, 9)->u.msi.address_lo, 0xfee01000);
	assert_int_equal(find_msi(n, 9)->u.msi.address_hi, 1);
	assert_true(kvm_routes_pin(&routes, 9, false, 0, 0));
	assert_false(kvm_routes_pin(&routes, 9, false, 0, 0));
	assert_int_equal(kvm_routes_build(&routes, e), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines),
		cmocka_unit_test(test_split),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
