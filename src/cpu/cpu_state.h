/*
 * One vCPU's whole architectural state, the same for every engine: what is saved, migrated,
 * compared in tests and set up by the boot loaders.
 */
#pragma once

#include "base/err.h"
#include "cpu/x86.h"
#include "state/state.h"

/* Bits of cpu_seg.attr: descriptor bits 40-47 in 0-7 and 52-55 in 12-15, as VMX has them. */
enum {
	SEG_TYPE = 0xf,
	SEG_S = 1 << 4,
	SEG_DPL_SHIFT = 5,
	SEG_P = 1 << 7,
	SEG_AVL = 1 << 12,
	SEG_L = 1 << 13,
	SEG_DB = 1 << 14,
	SEG_G = 1 << 15,
	SEG_UNUSABLE = 1 << 16,
};

struct cpu_seg {
	uint64_t base;
	/* In bytes, granularity applied: the offset of the last byte. */
	uint32_t limit;
	uint32_t attr;
	uint16_t sel;
};

struct cpu_table {
	uint64_t base;
	uint16_t limit;
};

enum cpu_mp {
	CPU_MP_RUN,
	/* After INIT or before the first SIPI. */
	CPU_MP_WAIT_SIPI,
	CPU_MP_HALT,
};

/* What is on its way into the CPU (SDM 3A 6.9); one of each at most. */
struct cpu_events {
	/* An exception that was raised and not yet delivered. */
	uint8_t exc_pending, exc_vector, exc_has_err;
	uint32_t exc_err;
	/* An interrupt taken from the controller and not yet delivered. */
	uint8_t int_pending, int_vector, int_soft;
	/* STI or MOV SS shadow: X86_SHADOW_*. */
	uint8_t shadow;
	uint8_t nmi_pending, nmi_masked;
	uint8_t triple_fault;
};

enum {
	CPU_XSAVE_MAX = 4096,
	CPU_MSRS = 96,
	CPU_LAPIC_SIZE = 1024,
};

struct cpu_msr {
	uint32_t index;
	uint64_t value;
};

struct cpu_state {
	uint64_t gpr[16];
	uint64_t rip, rflags;
	/* In the encoding's order: ES CS SS DS FS GS. */
	struct cpu_seg seg[6];
	struct cpu_seg ldt, tr;
	struct cpu_table gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base, xcr0;
	/* PAE's page-directory pointers as loaded with CR3. */
	uint64_t pdptr[4];
	uint64_t dr[4], dr6, dr7;
	/* Standard (not compacted) XSAVE format; xsave_len bytes are meaningful. */
	uint32_t xsave_len;
	uint8_t xsave[CPU_XSAVE_MAX];
	/*
	 * What msr.h lists as saved, in its order.  The TSC is here.  An engine that gives its
	 * state lists those that it has; one that takes it passes over those that it has not.
	 */
	uint32_t nmsr;
	struct cpu_msr msr[CPU_MSRS];
	/* Register page of the local APIC, 16 bytes a register as in SDM 3A table 11-1. */
	uint8_t lapic[CPU_LAPIC_SIZE];
	struct cpu_events ev;
	/* enum cpu_mp */
	uint8_t mp;
};

extern const struct state_desc cpu_state_desc;

/* As after power-on (SDM 3A table 10-1), with all saved MSRs and the register page of the local
 * APIC; bsp: the boot CPU, others wait for SIPI.  RDX is the caller's to set to CPUID.1:EAX. */
void cpu_state_reset(struct cpu_state *s, bool bsp, uint32_t apic_id);
/* Set MSR `index` in s->msr, adding it when it is not there. */
void cpu_state_set_msr(struct cpu_state *s, uint32_t index, uint64_t value);
bool cpu_state_msr(const struct cpu_state *s, uint32_t index, uint64_t *ret);
/* Registers, segments and control registers for a person, several lines. */
void cpu_state_print(const struct cpu_state *s, char *ret, size_t size);
