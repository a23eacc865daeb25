/*
 * A machine: RAM, buses, an engine with its vCPUs, and the devices of a board, built from a spec.
 *
 * Life cycle: machine_new, machine_reset (before the first run and for every reset after), then
 * the caller runs the vCPUs; machine_stop and machine_start around every pause; machine_free.
 * Threads: all of it on the main thread, with the vCPUs outside accel_run() for reset, stop, start
 * and free.
 */
#pragma once

#include "accel/accel.h"
#include "dev/dev.h"
#include "loop/loop.h"
#include "spec/vm.h"

enum {
	/* Disks and nets share this many I/O threads at most. */
	MACHINE_IO = 4,
};

struct acpi_pm;
struct blk;
struct boot;
struct chr;
struct net;
struct pci_host;
struct virtio_dev;
struct virtio_pci;

struct machine_opts {
	/* Borrowed; checked by vm_spec_check(). */
	const struct vm_spec *spec;
	/* The main thread's. */
	struct loop *loop;
	/* The guest asks for something, on any thread; the vCPU that asks goes on meanwhile. */
	void (*request)(void *arg, enum board_request r, unsigned value);
	/* Ctrl-a x was typed; any thread. */
	void (*quit)(void *arg);
	void *arg;
};

/* A virtio device on the bus. */
struct machine_virtio {
	struct virtio_dev *v;
	struct virtio_pci *pci;
};

struct machine_disk {
	char name[16];
	struct blk *blk;
	struct machine_virtio dev;
	/* What `cont` retries; for query-block. */
	bool failed, nospace;
};

struct machine_net {
	char name[16];
	struct net *net;
	struct machine_virtio dev;
};

/* A serial line or the console; chr is NULL for type none. */
struct machine_line {
	char name[20];
	struct chr *chr;
	struct dev *uart;
	/* The console. */
	struct machine_virtio dev;
};

struct machine {
	struct machine_opts o;
	struct gmem gmem;
	struct bus mmio, pio;
	struct board board;

	const struct accel *accel;
	/* What was chosen and why. */
	char why[256];
	struct accel_vm *vm;
	struct accel_vcpu *vcpu[VM_SPEC_CPUS];
	uint32_t apic_id[VM_SPEC_CPUS];

	struct loop_thread io[MACHINE_IO];
	unsigned nio;

	/* NULL: there is nothing to boot. */
	struct boot *boot;
	uint8_t *tables;
	size_t tables_len;
	struct pci_host *pci;
	struct acpi_pm *pm;
	struct machine_disk disk[VM_SPEC_DISKS];
	struct machine_net net[VM_SPEC_NETS];
	struct machine_line serial[VM_SPEC_SERIALS], console;
	struct machine_virtio rng;
};

NODISCARD int machine_new(struct machine **ret, const struct machine_opts *o, struct err *e);
/* NULL is fine, and a half-built one. */
void machine_free(struct machine *m);
/* To power-on, kernel in place.  Devices are stopped. */
NODISCARD int machine_reset(struct machine *m, struct err *e);
/* Returns when nothing of the devices is in flight. */
void machine_stop(struct machine *m);
void machine_start(struct machine *m);
/* Asks the guest to shut down; false: it does not listen. */
bool machine_power_button(struct machine *m);
