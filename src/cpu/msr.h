/*
 * The model-specific registers that are part of a vCPU's saved state, in the order in which they
 * are saved and restored, and their values after power-on (SDM 4; APM 2 appendix A; KVM's in
 * Documentation/virt/kvm/x86/msr.rst of Linux).
 *
 * Not here: what cpu_state has fields for (FS and GS base, EFER, APIC base), what is the same for
 * the life of a machine (ARCH_CAPABILITIES, MTRRCAP, PLATFORM_INFO, MCG_CAP), and commands
 * (PRED_CMD).
 */
#pragma once

#include "base/compiler.h"

enum {
	/* The soft engine has it; KVM's own list says what KVM has. */
	MSR_SOFT = 1 << 0,
};

struct msr_info {
	uint32_t index;
	uint8_t flags;
	const char *name;
	uint64_t reset;
};

extern const struct msr_info msr_saved[];
extern const unsigned msr_nsaved;

/* The entry of msr_saved, or NULL. */
const struct msr_info *msr_find(uint32_t index);
/* For people; NULL when it is not in the table. */
const char *msr_name(uint32_t index);
