/*
 * From a spec to a machine: RAM, the engine and its vCPUs, I/O threads, what is to be booted.  The
 * board's devices are in pc.c; the virtio devices and their backends in virtio.c.
 */
#include "machine/build_int.h"

#include "base/alloc.h"
#include "base/bug.h"
#include "base/log.h"
#include "base/str.h"
#include "cpu/x86.h"
#include "machine/memmap.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

enum {
	/* Above this the APIC ID does not fit an xAPIC's (SDM 3A 11.4.6). */
	MACHINE_APIC_IDS = 255,
};
static_assert((int)VM_SPEC_CPUS < (int)MACHINE_APIC_IDS, "APIC IDs are the vCPUs' numbers");

static void machine_request(struct board *b, enum board_request r, unsigned value)
{
	struct machine *m = container_of(b, struct machine, board);

	m->o.request(m->o.arg, r, value);
}

/* RAM that the host can never give: it would be found out in the middle of the guest's work. */
static int machine_check_ram(uint64_t ram, struct err *e)
{
	struct sysinfo si;

	if (sysinfo(&si) < 0)
		return 0;
	uint64_t host = ((uint64_t)si.totalram + si.totalswap) * si.mem_unit;
	if (ram <= host)
		return 0;
	return err_set(e, ENOMEM,
		       "memory: %" PRIu64 " MiB is more than this host's RAM and swap, %" PRIu64
		       " MiB",
		       ram >> 20, host >> 20);
}

static int machine_add_ram(struct machine *m, struct err *e)
{
	uint64_t ram = m->o.spec->memory;
	int rc = machine_check_ram(ram, e);

	if (rc < 0)
		return rc;
	rc = gmem_add(&m->gmem, "ram", 0, memmap_low(ram), -1, 0, false, e);
	if (rc >= 0 && memmap_high(ram))
		rc = gmem_add(&m->gmem, "ram-high", MEMMAP_HIGH, memmap_high(ram), -1, 0, false, e);
	return rc < 0 ? err_in(e, "memory") : 0;
}

static int machine_add_engine(struct machine *m, struct err *e)
{
	static const char *const names[] = {
		[VM_ACCEL_AUTO] = "auto",
		[VM_ACCEL_KVM] = "kvm",
		[VM_ACCEL_SOFT] = "soft",
	};
	const struct vm_spec *s = m->o.spec;
	const struct accel_opts o = {
		.ncpus = (unsigned)s->cpus,
		.gmem = &m->gmem,
		.mmio = &m->mmio,
		.pio = &m->pio,
		.cpu_model = s->cpu ? s->cpu : "host",
		.split_irqchip = s->split_irqchip,
		.engine_opts = s->accel_options,
	};
	int rc = accel_choose(names[s->accel], &m->accel, m->why, e);

	if (rc >= 0)
		log_line(s->accel == VM_ACCEL_AUTO ? LOG_NOTE : LOG_INFO, "engine %s", m->why);
	if (rc >= 0)
		rc = accel_vm_new(m->accel, &o, &m->vm, e);
	if (rc >= 0)
		m->board.irqs = m->vm->irqs;
	return rc;
}

static int machine_add_vcpus(struct machine *m, struct err *e)
{
	for (unsigned i = 0; i < m->o.spec->cpus; i++) {
		int rc = accel_vcpu_new(m->vm, i, &m->vcpu[i], e);

		if (rc < 0)
			return rc;
		m->apic_id[i] = m->vcpu[i]->apic_id;
	}
	return 0;
}

/* A thread for each disk and net up to MACHINE_IO, one when only the small devices want any. */
static int machine_add_io(struct machine *m, struct err *e)
{
	const struct vm_spec *s = m->o.spec;
	unsigned want = MIN(s->ndisk + s->nnet, (unsigned)MACHINE_IO);

	if (!want && (s->rng || s->nconsole))
		want = 1;
	for (; m->nio < want; m->nio++) {
		char name[16];

		snprintf(name, sizeof(name), "io%u", m->nio);
		int rc = loop_thread_start(&m->io[m->nio], name, LOOP_AUTO, e);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static void machine_e820_add(struct boot_board *b, uint64_t base, uint64_t end, uint32_t type)
{
	BUG_ON(b->ne820 == BOOT_E820_MAX);
	if (end > base)
		b->e820[b->ne820++] = (struct boot_range){ base, end - base, type };
}

/* The memory map that firmware would give. */
static void machine_e820(const struct machine *m, struct boot_board *b)
{
	uint64_t ram = m->o.spec->memory;

	machine_e820_add(b, 0, MEMMAP_EBDA, BOOT_E820_RAM);
	machine_e820_add(b, MEMMAP_EBDA, MEMMAP_VGA, BOOT_E820_RESERVED);
	machine_e820_add(b, MEMMAP_ACPI, MEMMAP_1M, BOOT_E820_RESERVED);
	machine_e820_add(b, MEMMAP_1M, memmap_low(ram), BOOT_E820_RAM);
	machine_e820_add(b, MEMMAP_ECAM, MEMMAP_ECAM + MEMMAP_ECAM_BUSES * MIB(1),
			 BOOT_E820_RESERVED);
	machine_e820_add(b, MEMMAP_CHIPS, MEMMAP_HIGH, BOOT_E820_RESERVED);
	machine_e820_add(b, MEMMAP_HIGH, MEMMAP_HIGH + memmap_high(ram), BOOT_E820_RAM);
}

static int machine_add_boot(struct machine *m, struct err *e)
{
	const struct vm_boot *s = &m->o.spec->boot;
	struct boot_board board = {
		.rsdp_gpa = MEMMAP_ACPI,
		.low_end = memmap_low(m->o.spec->memory),
	};
	const struct boot_opts o = {
		.kernel = s->kernel,
		.initrd = s->initrd,
		.append = s->append,
		.board = &board,
		.gmem = &m->gmem,
	};

	if (!s->kernel)
		return err_set(
			e, EINVAL,
			"nothing to boot: boot.kernel is missing (booting a disk by firmware "
			"is not part of this version)");
	machine_e820(m, &board);
	return boot_open(&m->boot, &o, e);
}

/* In the order in which one part needs another. */
static int (*const machine_steps[])(struct machine *m, struct err *e) = {
	machine_add_ram, machine_add_boot, machine_add_engine, machine_add_vcpus,
	machine_add_pc,  machine_add_io,   machine_add_virtio, machine_add_tables,
};

int machine_new(struct machine **ret, const struct machine_opts *o, struct err *e)
{
	struct machine *m = NEW(struct machine);
	int rc = 0;

	if (!m)
		return err_set(e, ENOMEM, "no memory");
	m->o = *o;
	gmem_init(&m->gmem);
	bus_init(&m->mmio, BUS_MMIO);
	bus_init(&m->pio, BUS_PIO);
	m->board = (struct board){
		.gmem = &m->gmem,
		.mmio = &m->mmio,
		.pio = &m->pio,
		.loop = o->loop,
		.request = machine_request,
	};
	list_init(&m->board.devs);
	for (unsigned i = 0; i < COUNT_OF(machine_steps) && rc >= 0; i++)
		rc = machine_steps[i](m, e);
	if (rc < 0) {
		machine_free(m);
		return rc;
	}
	*ret = m;
	return 0;
}

void machine_free(struct machine *m)
{
	if (!m)
		return;
	/* Their loops are ours from here on, and devices go from them without waiting. */
	for (unsigned i = 0; i < m->nio; i++)
		loop_thread_stop(&m->io[i]);
	machine_free_virtio(m);
	/* Last made, first gone. */
	while (!list_empty(&m->board.devs))
		dev_free(list_entry(m->board.devs.prev, struct dev, node));
	machine_free_lines(m);
	for (unsigned i = 0; i < m->nio; i++)
		loop_thread_fini(&m->io[i]);
	for (unsigned i = 0; i < COUNT_OF(m->vcpu); i++)
		if (m->vcpu[i])
			accel_vcpu_free(m->vcpu[i]);
	if (m->vm)
		accel_vm_free(m->vm);
	boot_close(m->boot);
	free(m->tables);
	bus_fini(&m->mmio);
	bus_fini(&m->pio);
	gmem_fini(&m->gmem);
	free(m);
}

void machine_stop(struct machine *m)
{
	board_stop(&m->board);
}

void machine_start(struct machine *m)
{
	board_start(&m->board);
}

static int machine_reset_vcpus(struct machine *m, struct err *e)
{
	struct cpu_state *s = NEW(struct cpu_state);
	int rc = s ? 0 : err_set(e, ENOMEM, "no memory");

	for (unsigned i = 0; i < m->o.spec->cpus && rc >= 0; i++) {
		cpu_state_reset(s, i == 0, m->apic_id[i]);
		/* Firmware sets it on every processor; off, all memory would be uncached. */
		cpu_state_set_msr(s, X86_MSR_MTRR_DEF_TYPE, X86_MTRR_ON | X86_MTRR_WB);
		if (i == 0)
			rc = boot_place(m->boot, &m->gmem, s, e);
		if (rc >= 0)
			rc = accel_set(m->vcpu[i], s, e);
	}
	free(s);
	return rc;
}

int machine_reset(struct machine *m, struct err *e)
{
	int rc = accel_reset(m->vm, e);

	if (rc < 0)
		return rc;
	board_reset(&m->board);
	/* What firmware would do before a kernel runs. */
	rc = pci_host_assign(m->pci, e);
	if (rc < 0)
		return rc;
	if (gmem_write(&m->gmem, MEMMAP_ACPI, m->tables, m->tables_len) < 0)
		return err_set(e, EFAULT, "no RAM for the ACPI tables");
	return machine_reset_vcpus(m, e);
}
