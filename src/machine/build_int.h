/* Between the files that build a machine. */
#pragma once

#include "dev/acpi/acpi.h"
#include "dev/pci/pci.h"
#include "machine/boot.h"
#include "machine/machine.h"

/* pc.c: chips and the PCI host; their tables, when all devices are there. */
NODISCARD int machine_add_pc(struct machine *m, struct err *e);
NODISCARD int machine_add_tables(struct machine *m, struct err *e);
/* The streams of serial lines, after the devices. */
void machine_free_lines(struct machine *m);

/* virtio.c: disks, nets, console, rng. */
NODISCARD int machine_add_virtio(struct machine *m, struct err *e);
/* Transports, devices and backends; their threads are stopped. */
void machine_free_virtio(struct machine *m);

/* Names of the drivers of chr/, by enum vm_chr_type. */
extern const char *const machine_chr_names[];
