/*
 * ACPI: the tables that describe the machine to the guest, and the fixed hardware behind them
 * (power management timer, power button, sleep control).
 *
 * ACPI 6.4; tables are of revisions that guests of the last fifteen years read.
 */
#pragma once

#include "dev/dev.h"

struct acpi_window {
	uint64_t base, len;
};

enum {
	ACPI_COM_PORTS = 4,
	/* PM1 event, PM1 control, timer: 16 bytes of ports; GPE block 0 at +0x20: 4 bytes. */
	ACPI_PM_PORTS = 0x40,
};

/* What the machine has; filled in by the board. */
struct acpi_config {
	unsigned ncpus;
	/* APIC ids of the ncpus processors. */
	const uint32_t *apic_ids;
	uint64_t lapic_base, ioapic_base;
	uint8_t ioapic_id;
	/* First of ACPI_PM_PORTS ports, as given to acpi_pm_new(). */
	uint16_t pm_base;
	/* PCI: ECAM window, BAR windows (len 0: none). */
	uint64_t ecam_base;
	unsigned ecam_buses;
	struct acpi_window mmio32, mmio64;
	/* 0: no HPET. */
	uint64_t hpet_base;
	/* Bit i: COM(i+1) is there. */
	unsigned com_mask;
	bool has_rtc, has_kbd, has_mouse, has_vga;
	/* RTC register that holds the century; 0: none. */
	uint8_t rtc_century;
};

/* A piece of memory to place at the gpa it was built for (16-byte aligned, ordinary RAM). */
struct acpi_tables {
	uint8_t *data;
	size_t len;
	uint64_t rsdp_gpa;
};

/* Tables that lie at gpa; they start with the RSDP.  -E2BIG when more than max_len bytes. */
NODISCARD int acpi_build(struct acpi_tables *ret, const struct acpi_config *c, uint64_t gpa,
			 size_t max_len, struct err *e);
void acpi_tables_fini(struct acpi_tables *t);

/* The fixed hardware.  Frozen while the VM is stopped. */
struct acpi_pm;

/* Claims ACPI_PM_PORTS ports at pm_base; SCI is IRQ_GSI_SCI, level-triggered. */
NODISCARD int acpi_pm_new(struct acpi_pm **ret, struct board *b, uint16_t pm_base, struct err *e);
/* The guest is asked to shut down; any thread.  False: its system does not listen (yet). */
bool acpi_power_button(struct acpi_pm *p);
/* Raise general purpose event n (0-15); any thread. */
void acpi_gpe(struct acpi_pm *p, unsigned n);
