/*
 * CPUID as the guest sees it: a table of leaves, built from what the engine can run on this host,
 * a named model, and the machine's topology.
 */
#pragma once

#include "base/err.h"

enum {
	CPUID_ENTRIES = 128,
};

struct cpuid_entry {
	uint32_t leaf, sub;
	/* ECX selects a sub-leaf. */
	bool has_sub;
	uint32_t eax, ebx, ecx, edx;
};

struct cpuid_table {
	unsigned n;
	struct cpuid_entry e[CPUID_ENTRIES];
};

struct cpuid_entry *cpuid_find(struct cpuid_table *t, uint32_t leaf, uint32_t sub);
const struct cpuid_entry *cpuid_peek(const struct cpuid_table *t, uint32_t leaf, uint32_t sub);
/* Adds or replaces; false when the table is full. */
bool cpuid_set(struct cpuid_table *t, const struct cpuid_entry *e);
/*
 * What CPUID returns for (leaf, sub): the entry, or for leaves beyond the largest the highest basic
 * leaf's values (Intel) or zeros (AMD); SDM 2A CPUID.  The bits that follow registers (OSXSAVE, and
 * the size in leaf 0xd) are the engine's to patch.
 */
void cpuid_get(const struct cpuid_table *t, uint32_t leaf, uint32_t sub, struct cpuid_entry *ret);

/* The host's own CPUID, every leaf, by executing it. */
void cpuid_host(struct cpuid_table *ret);

/*
 * The table of one vCPU: engine AND model, then topology (ncpus in one socket, apic_id), hypervisor
 * bit and leaves (signature, kvmclock, TSC frequency in 0x15/0x40000010 where known).
 * model: "host" (all that the engine offers) or a name of cpu/model.c.  -ENOENT for an unknown one,
 * the message lists those there are.
 */
struct cpuid_topology {
	unsigned ncpus;
	uint32_t apic_id;
	/* 0: not known. */
	uint64_t tsc_hz;
};
NODISCARD int cpuid_build(struct cpuid_table *ret, const struct cpuid_table *engine,
			  const char *model, const struct cpuid_topology *t, struct err *e);
