/*
 * The board `pc`: what every PC has, at its usual address, and the ACPI tables that say so.
 */
#include "machine/build_int.h"

#include "base/log.h"
#include "chr/chr.h"
#include "dev/pc/pc.h"
#include "machine/memmap.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	PC_HPET_TIMERS = 3,
	PC_HPET_HZ = 100000000,
	/* Also vCPU 0's: since the Pentium 4 the two kinds share no space of IDs. */
	PC_IOAPIC_ID = 0,
};

static const struct {
	uint16_t port;
	uint8_t gsi;
} pc_com[VM_SPEC_SERIALS] = { { 0x3f8, 4 }, { 0x2f8, 3 }, { 0x3e8, 4 }, { 0x2e8, 3 } };

const char *const machine_chr_names[] = {
	[VM_CHR_STDIO] = "stdio", [VM_CHR_PTY] = "pty",   [VM_CHR_UNIX] = "unix",
	[VM_CHR_FILE] = "file",   [VM_CHR_NONE] = "none",
};

static int pc_add_timers(struct machine *m, struct err *e)
{
	const struct rtc_opts ro = {
		.ram_low = memmap_low(m->o.spec->memory),
		.ram_high = memmap_high(m->o.spec->memory),
		.ncpus = (unsigned)m->o.spec->cpus,
	};
	struct hpet_opts ho = {
		.base = MEMMAP_HPET,
		.timers = PC_HPET_TIMERS,
		.hz = PC_HPET_HZ,
	};
	struct dev *hpet;
	int rc = 0;

	if (!m->vm->has_pit)
		rc = pit_new(&m->board, &ho.pit, e);
	if (rc >= 0)
		rc = rtc_new(&m->board, &ro, &ho.rtc, e);
	return rc < 0 ? rc : hpet_new(&m->board, &ho, &hpet, e);
}

static int pc_add_serial(struct machine *m, unsigned i, struct err *e)
{
	const struct vm_chr *s = &m->o.spec->serial[i];
	struct machine_line *l = &m->serial[i];
	const struct uart_opts uo = { .name = l->name,
				      .port = pc_com[i].port,
				      .gsi = pc_com[i].gsi };

	snprintf(l->name, sizeof(l->name), "serial%u", i);
	int rc = uart_new(&m->board, &uo, &l->uart, e);
	if (rc < 0 || s->type == VM_CHR_NONE)
		return rc;
	const struct chr_opts co = {
		.type = machine_chr_names[s->type],
		.path = s->path,
		.loop = m->o.loop,
		.client = uart_client(l->uart),
		.quit = m->o.quit,
		.quit_arg = m->o.arg,
	};
	if (chr_open(&l->chr, &co, e) < 0)
		return err_in(e, "%s", l->name);
	if (s->type == VM_CHR_PTY)
		log_note("%s: %s", l->name, l->chr->where);
	uart_attach(l->uart, l->chr);
	return 0;
}

static int pc_add_ports(struct machine *m, struct err *e)
{
	const struct vm_spec *s = m->o.spec;
	struct dev *d;
	int rc = i8042_new(&m->board, &d, e);

	if (rc >= 0)
		rc = sysctl_new(&m->board, &d, e);
	if (rc >= 0 && s->debug_exit)
		rc = debugexit_new(&m->board, (uint16_t)s->debug_exit, &d, e);
	for (unsigned i = 0; i < s->nserial && rc >= 0; i++)
		rc = pc_add_serial(m, i, e);
	return rc;
}

static struct pci_host_opts pc_pci_opts(struct machine *m)
{
	return (struct pci_host_opts){
		.board = &m->board,
		.ecam_base = MEMMAP_ECAM,
		.ecam_buses = MEMMAP_ECAM_BUSES,
		.io = { MEMMAP_PCI_IO, MEMMAP_PCI_IO_LEN },
		.mmio32 = { MEMMAP_MMIO32, MEMMAP_MMIO32_LEN },
		.mmio64 = { memmap_mmio64(m->o.spec->memory), MEMMAP_MMIO64_LEN },
	};
}

int machine_add_pc(struct machine *m, struct err *e)
{
	const struct pci_host_opts po = pc_pci_opts(m);
	int rc = pc_add_timers(m, e);

	if (rc >= 0)
		rc = acpi_pm_new(&m->pm, &m->board, MEMMAP_PM_PORTS, e);
	if (rc >= 0)
		rc = pci_host_new(&m->pci, &po, e);
	return rc < 0 ? rc : pc_add_ports(m, e);
}

int machine_add_tables(struct machine *m, struct err *e)
{
	const struct pci_host_opts po = pc_pci_opts(m);
	const struct acpi_config c = {
		.ncpus = (unsigned)m->o.spec->cpus,
		.apic_ids = m->apic_id,
		.lapic_base = MEMMAP_LAPIC,
		.ioapic_base = MEMMAP_IOAPIC,
		.ioapic_id = PC_IOAPIC_ID,
		.pm_base = MEMMAP_PM_PORTS,
		.ecam_base = po.ecam_base,
		.ecam_buses = po.ecam_buses,
		.mmio32 = { po.mmio32.base, po.mmio32.len },
		.mmio64 = { po.mmio64.base, po.mmio64.len },
		.hpet_base = MEMMAP_HPET,
		.com_mask = BIT(m->o.spec->nserial) - 1,
		.has_rtc = true,
		.has_kbd = true,
		.has_mouse = true,
		.rtc_century = RTC_CENTURY,
	};
	struct acpi_tables t;
	int rc = acpi_build(&t, &c, MEMMAP_ACPI, MEMMAP_ACPI_LEN, e);

	if (rc < 0)
		return rc;
	m->tables = t.data;
	m->tables_len = t.len;
	return 0;
}

void machine_free_lines(struct machine *m)
{
	for (unsigned i = 0; i < VM_SPEC_SERIALS; i++)
		chr_close(m->serial[i].chr);
}

bool machine_power_button(struct machine *m)
{
	return acpi_power_button(m->pm);
}
