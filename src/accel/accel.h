/*
 * What runs guest instructions: the contract of the engines kvm, soft and null.
 *
 * An engine gets guest memory and the two buses, and calls the buses itself for MMIO and port
 * accesses; accel_run() comes back only for what the VMM must decide.  Interrupts reach the engine
 * through `irqs`, which it fills in: chips in the kernel or the user-space chips of irq/.
 *
 * Life cycle: accel_choose, accel_vm_new (after RAM was added), accel_vcpu_new for each vCPU, run,
 * accel_vcpu_free, accel_vm_free.  Threads: accel_run, get and set on the vCPU's own thread (get
 * and set also from another thread while the vCPU thread is known to be outside accel_run);
 * accel_kick from any thread.
 */
#pragma once

#include "base/err.h"
#include "cpu/cpu_state.h"
#include "cpu/cpuid.h"
#include "irq/irq.h"
#include "mem/bus.h"
#include "mem/gmem.h"

struct accel;
struct accel_vcpu;

struct accel_opts {
	unsigned ncpus;
	struct gmem *gmem;
	struct bus *mmio, *pio;
	/* Of the machine: which leaves and bits the guest is to see; see cpuid_build(). */
	const char *cpu_model;
	/* kvm: user-space PIC, IOAPIC and PIT with the LAPIC in the kernel.  soft ignores it. */
	bool split_irqchip;
	/* "name=value,..." of the engine's own options, from --accel soft,profile=FILE; may be
	 * NULL. */
	const char *engine_opts;
};

enum accel_exit {
	/* accel_kick() was called, or a signal came. */
	ACCEL_EXIT_KICK,
	/* Triple fault: the machine resets (or stops with --no-reboot). */
	ACCEL_EXIT_SHUTDOWN,
	/* The engine cannot go on; the text is in the struct err of accel_run(). */
	ACCEL_EXIT_FAIL,
};

/* One VM in an engine; an engine's own struct begins with it. */
struct accel_vm {
	const struct accel *drv;
	struct accel_opts o;
	/* Where devices send interrupts. */
	struct irqs *irqs;
	struct accel_vcpu **vcpu;
	unsigned nvcpu;
	/* The engine emulates the 8254, its speaker port and their interrupt in the kernel. */
	bool has_pit;
	/* TSC as the guest sees it. */
	uint64_t tsc_hz;
};

struct accel_vcpu {
	struct accel_vm *vm;
	unsigned index;
	uint32_t apic_id;
	struct cpuid_table cpuid;
};

/* The members that are required come first; all may be called only through accel_*(). */
struct accel {
	const char *name;
	/* Usable on this host?  e says why not.  [NULL: always] */
	int (*probe)(struct err *e);
	int (*vm_new)(const struct accel_opts *o, struct accel_vm **ret, struct err *e);
	void (*vm_free)(struct accel_vm *vm);
	int (*vcpu_new)(struct accel_vm *vm, unsigned index, struct accel_vcpu **ret,
			struct err *e);
	void (*vcpu_free)(struct accel_vcpu *c);
	/* Runs until there is a reason to return.  A halted vCPU waits inside. */
	enum accel_exit (*run)(struct accel_vcpu *c, struct err *e);
	/* Any thread, never blocks: a run that is under way or comes next returns EXIT_KICK. */
	void (*kick)(struct accel_vcpu *c);
	int (*get)(struct accel_vcpu *c, struct cpu_state *ret, struct err *e);
	int (*set)(struct accel_vcpu *c, const struct cpu_state *s, struct err *e);
	/* What this engine can offer on this host, before models and options. */
	int (*cpuid)(struct cpuid_table *ret, struct err *e);
	/* Merge the engine's dirty log into gmem's bitmaps.  [NULL: it marks them directly] */
	int (*dirty_sync)(struct accel_vm *vm, struct err *e);
	int (*dirty_start)(struct accel_vm *vm, struct err *e);
	void (*dirty_stop)(struct accel_vm *vm);
	/* Regions of gmem changed (VM paused).  [NULL: it looks each time] */
	int (*regions_changed)(struct accel_vm *vm, struct err *e);
	/* Counters for people, "name=value" words.  [NULL: none] */
	void (*stats)(struct accel_vm *vm, char *ret, size_t size);
	/* Interrupt chips and PIT to power-on; vCPUs are outside run and set afterwards.  [NULL: it
	 * has none] */
	int (*reset)(struct accel_vm *vm, struct err *e);
};

/* Every engine there is; NULL ends it. */
extern const struct accel *const accel_drivers[];

/*
 * Engine by name, or by "auto": kvm where a timed probe shows that it runs ring-0 code at hardware
 * speed, else soft.  ret_why (256 bytes) says what was chosen and why.
 */
NODISCARD int accel_choose(const char *name, const struct accel **ret, char *ret_why,
			   struct err *e);

NODISCARD int accel_vm_new(const struct accel *a, const struct accel_opts *o, struct accel_vm **ret,
			   struct err *e);
void accel_vm_free(struct accel_vm *vm);
NODISCARD int accel_vcpu_new(struct accel_vm *vm, unsigned index, struct accel_vcpu **ret,
			     struct err *e);
void accel_vcpu_free(struct accel_vcpu *c);
enum accel_exit accel_run(struct accel_vcpu *c, struct err *e);
void accel_kick(struct accel_vcpu *c);
NODISCARD int accel_get(struct accel_vcpu *c, struct cpu_state *ret, struct err *e);
NODISCARD int accel_set(struct accel_vcpu *c, const struct cpu_state *s, struct err *e);
NODISCARD int accel_dirty_start(struct accel_vm *vm, struct err *e);
NODISCARD int accel_dirty_sync(struct accel_vm *vm, struct err *e);
void accel_dirty_stop(struct accel_vm *vm);
NODISCARD int accel_regions_changed(struct accel_vm *vm, struct err *e);
void accel_stats(struct accel_vm *vm, char *ret, size_t size);
NODISCARD int accel_reset(struct accel_vm *vm, struct err *e);
