/* Counters for people: exits by kind, assisted instructions by mnemonic, over all vCPUs. */
#include "accel/kvm/kvm_int.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const exit_names[KVM_EXITS] = {
	[KVM_EXIT_UNKNOWN] = "unknown",
	[KVM_EXIT_IO] = "io",
	[KVM_EXIT_DEBUG] = "debug",
	[KVM_EXIT_HLT] = "hlt",
	[KVM_EXIT_MMIO] = "mmio",
	[KVM_EXIT_IRQ_WINDOW_OPEN] = "irq-window",
	[KVM_EXIT_SHUTDOWN] = "shutdown",
	[KVM_EXIT_FAIL_ENTRY] = "fail-entry",
	[KVM_EXIT_INTR] = "intr",
	[KVM_EXIT_SET_TPR] = "set-tpr",
	[KVM_EXIT_INTERNAL_ERROR] = "internal-error",
	[KVM_EXIT_SYSTEM_EVENT] = "system-event",
	[KVM_EXIT_IOAPIC_EOI] = "ioapic-eoi",
	[KVM_EXIT_DIRTY_RING_FULL] = "dirty-ring-full",
	[KVM_EXIT_MEMORY_FAULT] = "memory-fault",
};

struct stats_out {
	char *p;
	size_t left;
};

static void PRINTF(2, 3) stats_add(struct stats_out *o, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(o->p, o->left, fmt, ap);
	va_end(ap);
	size_t len = n < 0 ? 0 : (size_t)n;
	if (len >= o->left) {
		/* No half words. */
		if (o->left)
			o->p[0] = 0;
		o->left = 0;
		return;
	}
	o->p += len;
	o->left -= len;
}

static uint64_t stats_load(const uint64_t *n)
{
	return __atomic_load_n(n, __ATOMIC_RELAXED);
}

static void stats_exits(struct accel_vm *vm, struct stats_out *o)
{
	for (unsigned k = 0; k < KVM_EXITS; k++) {
		uint64_t sum = 0;

		for (unsigned i = 0; i < vm->o.ncpus; i++)
			if (vm->vcpu[i])
				sum += stats_load(&kvm_vcpu(vm->vcpu[i])->exits[k]);
		if (sum && exit_names[k])
			stats_add(o, "exit-%s=%lu ", exit_names[k], (unsigned long)sum);
		else if (sum)
			stats_add(o, "exit-%u=%lu ", k, (unsigned long)sum);
	}
}

static void stats_assists(const struct kvm_vcpu *c, uint64_t *assists, uint64_t *insns)
{
	*assists += stats_load(&c->assists);
	*insns += stats_load(&c->assisted_insns);
}

/* Count of one mnemonic over the vCPUs from index `from` on. */
static uint64_t stats_mnemonic(struct accel_vm *vm, unsigned from, const char *name)
{
	uint64_t sum = 0;

	for (unsigned i = from; i < vm->o.ncpus; i++) {
		const struct kvm_vcpu *c = vm->vcpu[i] ? kvm_vcpu(vm->vcpu[i]) : NULL;
		unsigned n = c ? __atomic_load_n(&c->nmnemonic, __ATOMIC_ACQUIRE) : 0;

		for (unsigned m = 0; m < n; m++)
			if (!strcmp(c->mnemonic[m].name, name))
				sum += stats_load(&c->mnemonic[m].count);
	}
	return sum;
}

/* Did a vCPU before this one name it already? */
static bool stats_named(struct accel_vm *vm, unsigned before, const char *name)
{
	for (unsigned i = 0; i < before; i++) {
		const struct kvm_vcpu *c = vm->vcpu[i] ? kvm_vcpu(vm->vcpu[i]) : NULL;
		unsigned n = c ? __atomic_load_n(&c->nmnemonic, __ATOMIC_ACQUIRE) : 0;

		for (unsigned m = 0; m < n; m++)
			if (!strcmp(c->mnemonic[m].name, name))
				return true;
	}
	return false;
}

static void stats_mnemonics(struct accel_vm *vm, struct stats_out *o)
{
	for (unsigned i = 0; i < vm->o.ncpus; i++) {
		const struct kvm_vcpu *c = vm->vcpu[i] ? kvm_vcpu(vm->vcpu[i]) : NULL;
		unsigned n = c ? __atomic_load_n(&c->nmnemonic, __ATOMIC_ACQUIRE) : 0;

		for (unsigned m = 0; m < n; m++)
			if (!stats_named(vm, i, c->mnemonic[m].name))
				stats_add(
					o, "assist-%s=%lu ", c->mnemonic[m].name,
					(unsigned long)stats_mnemonic(vm, i, c->mnemonic[m].name));
	}
}

void kvm_stats(struct accel_vm *vm, char *ret, size_t size)
{
	struct stats_out o = { ret, size };
	uint64_t assists = 0, insns = 0;

	stats_exits(vm, &o);
	for (unsigned i = 0; i < vm->o.ncpus; i++)
		if (vm->vcpu[i])
			stats_assists(kvm_vcpu(vm->vcpu[i]), &assists, &insns);
	stats_add(&o, "assists=%lu assisted-insns=%lu ", (unsigned long)assists,
		  (unsigned long)insns);
	stats_mnemonics(vm, &o);
}
