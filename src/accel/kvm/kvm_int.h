/*
 * Inside of the kvm engine.
 *
 *	probe.c		how fast is it
 *	kvm.c		/dev/kvm, capabilities, the VM, the engine's table
 *	slot.c		guest memory to memory slots; the dirty log
 *	route.c		the GSI routing table (pure)
 *	syscall.c	SYSCALL on hosts where it stays in ring 3
 *	irq.c		chips in the kernel or split; lines, messages, ioeventfd
 *	cpuid.c		what KVM offers, and what the guest is given
 *	state.c		registers to and from struct cpu_state
 *	msr.c		those of them that are MSRs
 *	vcpu.c		life of a vCPU, kicks
 *	exit.c		what a vCPU came out for
 *	assist.c	instructions that KVM refuses, done by the software CPU
 *	stats.c		counters
 *
 * Threads: a vCPU's members are its thread's, but for kick; routes and slots have locks.
 */
#pragma once

#include "accel/kvm/kvm.h"

#include "accel/kvm/route.h"
#include "base/thread.h"
#include "irq/chips.h"

#include <linux/kvm.h>
#include <pthread.h>

/* Newer than the oldest kernel headers that we build with. */
#ifndef KVM_CAP_DIRTY_LOG_RING_ACQ_REL
#define KVM_CAP_DIRTY_LOG_RING_ACQ_REL 223
#endif
#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39
#endif

enum {
	/* As asked for by KVM_CAP_SPLIT_IRQCHIP: GSIs that are I/O APIC pins. */
	KVM_IOAPIC_PINS_USED = IRQ_GSIS,
	KVM_EXITS = 48,
	KVM_MNEMONICS = 96,
};

struct soft_assist;

struct kvm_slot {
	/* len 0: free. */
	uint64_t gpa, len;
	uint8_t *host;
	bool readonly;
};

struct kvm_vm {
	struct accel_vm vm;
	int sys, fd;
	size_t run_size;
	/* Bytes of KVM_GET_XSAVE2; 4096 without it. */
	unsigned xsave_size;
	/* KVM_CAP_*: present. */
	bool has_sregs2, has_xsave2, has_triple_fault, has_exit_on_failure, has_wide_ids;
	unsigned sync_regs;

	/* Options of the engine. */
	unsigned ring_entries;
	bool assist;

	/* Guards slot, logging and the harvest of rings. */
	struct lock slot_lock;
	struct kvm_slot slot[GMEM_REGIONS];
	bool logging;
	bool manual_clear;
	uint64_t *log_bits;
	uint64_t log_words;

	struct irqs irqs;
	/* Guards routes. */
	struct lock route_lock;
	struct kvm_routes routes;
	struct bus_engine bells;
	/* Chips in the kernel as they were made: 8259s, I/O APIC, PIT. */
	struct kvm_irqchip chip0[3];
	struct kvm_pit_state2 pit0;
	/* Split only. */
	struct irq_chips *chips;
	/* Split: the 8259's output. */
	bool intr;

	/* MSRs of cpu/msr.h that this KVM has; filled by the first vCPU. */
	uint32_t msr[CPU_MSRS];
	unsigned nmsr;
};

/* An assisted mnemonic and how often. */
struct kvm_mnemonic {
	const char *name;
	uint64_t count;
};

struct kvm_vcpu {
	struct accel_vcpu v;
	int fd;
	struct kvm_run *run;
	struct kvm_dirty_gfn *ring;
	unsigned ring_next;
	/* Exits in a row for a full ring in which nothing was found. */
	unsigned ring_empty;

	/* Guards in_run and tid. */
	struct lock kick_lock;
	bool in_run;
	pthread_t tid;
	/* accel_kick() was called; atomic. */
	bool kicked;

	struct soft_assist *assist;
	/* The assist's registers; big, so not on the stack. */
	struct cpu_state *scratch;
	/* Bits of XCR0 that ring 3 has whatever the guest's says; see kvm_cpuid_more_xcr0(). */
	uint64_t xcr0_more;
	/* Runs left with registers in the run page; see assist.c. */
	unsigned sync_left;

	/* Written by the vCPU's thread, read by kvm_stats(). */
	uint64_t exits[KVM_EXITS];
	uint64_t exits_other;
	uint64_t assists, assisted_insns;
	struct kvm_mnemonic mnemonic[KVM_MNEMONICS];
	unsigned nmnemonic;
};

static inline struct kvm_vm *kvm_vm(struct accel_vm *vm)
{
	return container_of(vm, struct kvm_vm, vm);
}

static inline struct kvm_vcpu *kvm_vcpu(struct accel_vcpu *v)
{
	return container_of(v, struct kvm_vcpu, v);
}

static inline struct kvm_vm *kvm_of(const struct kvm_vcpu *c)
{
	return container_of(c->v.vm, struct kvm_vm, vm);
}

/* ioctl with EINTR tried again; negative errno. */
int kvm_ioctl(int fd, unsigned long req, void *arg);
/* As kvm_ioctl(), with a message "what: why". */
NODISCARD int kvm_call(int fd, unsigned long req, void *arg, const char *what, struct err *e);
/* Opens /dev/kvm and checks its version; a descriptor. */
NODISCARD int kvm_open(struct err *e);
/* Value of a capability, 0 when it is absent. */
int kvm_cap(int fd, int cap);
NODISCARD int kvm_cap_enable(int fd, unsigned cap, uint64_t arg0, uint64_t arg1);

/* slot.c */
NODISCARD int kvm_slots_update(struct kvm_vm *k, struct err *e);
NODISCARD int kvm_regions_changed(struct accel_vm *vm, struct err *e);
NODISCARD int kvm_dirty_start(struct accel_vm *vm, struct err *e);
NODISCARD int kvm_dirty_sync(struct accel_vm *vm, struct err *e);
void kvm_dirty_stop(struct accel_vm *vm);
/* A vCPU's ring is full (or nearly): take the entries of all.  Returns how many. */
NODISCARD int kvm_ring_harvest(struct kvm_vm *k, struct err *e);

/* irq.c */
NODISCARD int kvm_irq_init(struct kvm_vm *k, struct err *e);
void kvm_irq_fini(struct kvm_vm *k);
NODISCARD int kvm_irq_reset(struct kvm_vm *k, struct err *e);
/* Split: give the vCPU what the 8259 wants, or ask to be told when it can take it. */
void kvm_irq_before_run(struct kvm_vcpu *c);

/* cpuid.c */
NODISCARD int kvm_cpuid(struct cpuid_table *ret, struct err *e);
NODISCARD int kvm_vcpu_cpuid(struct kvm_vcpu *c, struct err *e);
/*
 * Where ring 3 is the processor itself (cpuid.c), it has the host's AVX-512 state and KVM saves it,
 * but takes those bits away from what the guest writes to XCR0, without a fault.  For XSAVE and
 * XRSTOR in ring 0 they count as set.
 */
uint64_t kvm_cpuid_more_xcr0(struct kvm_vcpu *c);

/* state.c, msr.c */
NODISCARD int kvm_get(struct accel_vcpu *v, struct cpu_state *ret, struct err *e);
NODISCARD int kvm_set(struct accel_vcpu *v, const struct cpu_state *s, struct err *e);
void kvm_regs_to(struct cpu_state *s, const struct kvm_regs *r);
void kvm_regs_from(struct kvm_regs *r, const struct cpu_state *s);
void kvm_sregs_to(struct cpu_state *s, const struct kvm_sregs *r);
void kvm_sregs_from(struct kvm_sregs *r, const struct cpu_state *s);
void kvm_events_to(struct cpu_state *s, const struct kvm_vcpu_events *ev);
void kvm_events_from(struct kvm_vcpu_events *ev, const struct cpu_state *s);
bool kvm_sregs_same(const struct kvm_sregs *a, const struct kvm_sregs *b);
/* PAE paging, where the page-directory pointers are registers. */
bool kvm_uses_pdptr(const struct cpu_state *s);
/* XCR0 and the extended state. */
NODISCARD int kvm_get_fpu(struct kvm_vcpu *c, struct cpu_state *s, struct err *e);
NODISCARD int kvm_get_xsave(struct kvm_vcpu *c, struct cpu_state *s, struct err *e);
NODISCARD int kvm_set_xsave(struct kvm_vcpu *c, const struct cpu_state *s, struct err *e);
NODISCARD int kvm_get_debug(struct kvm_vcpu *c, struct cpu_state *s, struct err *e);
NODISCARD int kvm_set_debug(struct kvm_vcpu *c, const struct cpu_state *s, struct err *e);
/* What firmware would set and no reset changes. */
void kvm_init_msrs(struct kvm_vcpu *c);
/* One of them; 0 when there is none. */
uint64_t kvm_msr(struct kvm_vcpu *c, uint32_t index);
NODISCARD int kvm_get_msrs(struct kvm_vcpu *c, struct cpu_state *s, struct err *e);
NODISCARD int kvm_set_msrs(struct kvm_vcpu *c, const struct cpu_state *s, struct err *e);

/* vcpu.c */
NODISCARD int kvm_vcpu_new(struct accel_vm *vm, unsigned index, struct accel_vcpu **ret,
			   struct err *e);
void kvm_vcpu_free(struct accel_vcpu *v);
enum accel_exit kvm_run(struct accel_vcpu *v, struct err *e);
void kvm_kick(struct accel_vcpu *v);
/* Makes a run that is under way come round its loop; accel_run() does not return for it. */
void kvm_nudge(struct kvm_vcpu *c);

/* exit.c.  0: go on; 1: return *ret_why. */
int kvm_exit(struct kvm_vcpu *c, enum accel_exit *ret_why, struct err *e);
/* Sets e to "what" with registers and code bytes, and returns ACCEL_EXIT_FAIL. */
enum accel_exit kvm_fail(struct kvm_vcpu *c, struct err *e, const char *fmt, ...) PRINTF(3, 4);

/* assist.c.  0: done, go on; else as kvm_exit(). */
int kvm_assist(struct kvm_vcpu *c, enum accel_exit *ret_why, struct err *e);
void kvm_assist_free(struct kvm_vcpu *c);
/* Before each run: are registers wanted in the run page? */
void kvm_assist_before_run(struct kvm_vcpu *c);

/* syscall.c */
/* What a page fault pushes in 64-bit mode. */
struct kvm_fault_frame {
	uint64_t err, rip, cs, rflags, rsp, ss;
};
/*
 * Registers and special registers are in the run page: are we at the handler of a page fault that
 * is a SYSCALL which did not reach ring 0?
 */
bool kvm_syscall_lost(struct kvm_vcpu *c, struct kvm_fault_frame *ret);
/* Back to before that SYSCALL. */
void kvm_syscall_rewind(struct cpu_state *s, const struct kvm_fault_frame *f);

/* stats.c */
void kvm_stats(struct accel_vm *vm, char *ret, size_t size);
