/*
 * The GSI routing table of a VM with chips in the kernel, as a value: the entries for
 * KVM_SET_GSI_ROUTING.  Pure: no descriptors, no locks.
 *
 * GSIs 0-23 are the board's lines (irq/irq.h): with all chips in the kernel each goes to its 8259
 * pin (0-15 but the cascade) and its I/O APIC pin (0 to pin 2, where ACPI's override says it is).
 * In split mode they are not lines: KVM looks at their message routes only to learn which
 * level-triggered vectors the user-space I/O APIC has, so that it tells of their EOI.
 */
#pragma once

#include "irq/irq.h"

#include <linux/kvm.h>

enum {
	KVM_ROUTE_ENTRIES = 16 + IRQ_GSIS,
};

/* What a pin of the I/O APIC sends. */
struct kvm_route_pin {
	uint64_t addr;
	uint32_t data;
	/* Not masked. */
	bool on;
};

struct kvm_routes {
	bool split;
	/* Split. */
	struct kvm_route_pin pin[IRQ_GSIS];
};

void kvm_routes_init(struct kvm_routes *r, bool split);
/* Split: what an I/O APIC pin sends now.  True when the kernel's table must be set again. */
bool kvm_routes_pin(struct kvm_routes *r, unsigned pin, bool on, uint64_t addr, uint32_t data);
/* Entries for the kernel, at most KVM_ROUTE_ENTRIES; returns how many. */
unsigned kvm_routes_build(const struct kvm_routes *r, struct kvm_irq_routing_entry *ret);
