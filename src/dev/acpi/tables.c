/*
 * The ACPI tables of a machine (ACPI 6.4, chapter 5): RSDP, XSDT, FADT, FACS, MADT, MCFG, HPET,
 * DSDT.
 *
 * They are built in one piece of memory for one guest address, in the order RSDP, FACS, the others:
 * pointers between them are that address plus an offset.  All of it is data that the guest trusts
 * about itself; nothing here reads what a guest wrote.
 *
 * The DSDT has one PCI root with its windows and interrupt routing (pci_gsi(): fixed I/O APIC pins,
 * no link devices, as there is no mode without an I/O APIC that uses PCI interrupts), the legacy
 * devices that the machine has, and S5.  The power button is fixed hardware and needs no object.
 */
#include "dev/acpi/acpi.h"
#include "dev/acpi/aml.h"
#include "dev/pci/pci.h"

#include "base/alloc.h"
#include "base/bits.h"
#include "base/bug.h"
#include "base/bytes.h"
#include "base/num.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	RSDP_LEN = 36,
	HEAD_LEN = 36,
	HEAD_SUM = 9,
	FACS_LEN = 64,
	FADT_LEN = 276,
	/* Generic address structures (5.2.3.2). */
	GAS_IO = 1,
	GAS_MEM = 0,
	PORT_RESET = 0xcf9,
	RESET_VALUE = 6,
	/* SLP_TYP of S5; pm.c turns the machine off for it. */
	SLP_TYP_S5 = 5,
};

/* Tables in the making: bytes that will lie at gpa. */
struct build {
	struct aml a;
	uint64_t gpa;
	const struct acpi_config *c;
	/* Where the open table begins. */
	size_t table;
	/* Finished tables, for the XSDT. */
	uint64_t list[8];
	unsigned nlist;
};

static uint8_t sum(const uint8_t *p, size_t n)
{
	uint8_t s = 0;

	while (n--)
		s = (uint8_t)(s + *p++);
	return s;
}

static void build_align(struct build *b, size_t to)
{
	while (b->a.len % to && !b->a.failed)
		aml_byte(&b->a, 0);
}

static void build_zeroes(struct build *b, size_t n)
{
	while (n--)
		aml_byte(&b->a, 0);
}

static void table_begin(struct build *b, const char *sig, uint8_t revision)
{
	build_align(b, 16);
	b->table = b->a.len;
	aml_bytes(&b->a, sig, 4);
	aml_raw(&b->a, 4, 0);
	aml_byte(&b->a, revision);
	aml_byte(&b->a, 0);
	aml_bytes(&b->a, "SAMPAN", 6);
	aml_bytes(&b->a, "SAMPANPC", 8);
	aml_raw(&b->a, 4, 1);
	aml_bytes(&b->a, "SMPN", 4);
	aml_raw(&b->a, 4, 1);
}

/* Length and checksum; returns the table's address. */
static uint64_t table_end(struct build *b)
{
	if (!b->a.failed) {
		uint8_t *p = b->a.data + b->table;
		size_t len = b->a.len - b->table;

		st_le32(p + 4, (uint32_t)len);
		p[HEAD_SUM] = (uint8_t)-sum(p, len);
	}
	return b->gpa + b->table;
}

static void table_list(struct build *b)
{
	BUG_ON(b->nlist == COUNT_OF(b->list));
	b->list[b->nlist++] = table_end(b);
}

/* DSDT. */

static void dsdt_windows(struct build *b)
{
	const struct acpi_config *c = b->c;
	struct aml *a = &b->a;

	aml_name(a, "_CRS");
	aml_res(a);
	aml_res_bus(a, 0, (uint16_t)(MAX(c->ecam_buses, 1u) - 1));
	/* The bridge's own ports lie between the two windows. */
	aml_res_io(a, 0xcf8, 8);
	aml_res_io_window(a, 0, 0xcf7);
	aml_res_io_window(a, 0xd00, 0xffff);
	if (c->has_vga)
		aml_res_mem_window(a, 0xa0000, 0x20000);
	if (c->mmio32.len)
		aml_res_mem_window(a, c->mmio32.base, c->mmio32.len);
	if (c->mmio64.len)
		aml_res_mem_window(a, c->mmio64.base, c->mmio64.len);
	aml_res_end(a);
}

/* 6.2.13: slot, pin, no link device, the interrupt itself. */
static void dsdt_routing(struct build *b)
{
	struct aml *a = &b->a;

	aml_name(a, "_PRT");
	aml_package(a, (PCI_SLOTS - 1) * 4);
	for (unsigned slot = 1; slot < PCI_SLOTS; slot++) {
		for (unsigned pin = 0; pin < 4; pin++) {
			aml_package(a, 4);
			aml_int(a, slot << 16 | 0xffff);
			aml_int(a, pin);
			aml_int(a, 0);
			aml_int(a, pci_gsi(slot, pin));
			aml_end(a);
		}
	}
	aml_end(a);
}

static void aml_op_ref_int(struct aml *a, uint8_t op, const char *name, uint64_t v)
{
	aml_byte(a, op);
	aml_ref(a, name);
	aml_int(a, v);
}

/* Or(CDW1, bit, CDW1): something in the answer is not as asked. */
static void osc_complain(struct aml *a, unsigned bit)
{
	aml_op_ref_int(a, AML_OR, "CDW1", bit);
	aml_ref(a, "CDW1");
}

static void osc_field(struct aml *a, unsigned off, const char *name)
{
	aml_byte(a, AML_CREATE_DWORD_FIELD);
	aml_byte(a, AML_ARG0 + 3);
	aml_int(a, off);
	aml_ref(a, name);
}

/* _OSC (6.2.11, PCI Firmware 3.2 4.5.1): the system may have the PCIe capability structures. */
static void dsdt_osc(struct build *b)
{
	struct aml *a = &b->a;
	enum {
		PCIE_CAPABILITY = 0x10,
		UNKNOWN_UUID = 4,
		UNKNOWN_REVISION = 8,
		MASKED = 0x10
	};

	aml_method(a, "_OSC", 4);
	osc_field(a, 0, "CDW1");
	aml_if(a);
	aml_byte(a, AML_LEQUAL);
	aml_byte(a, AML_ARG0);
	aml_uuid(a, "33DB4D5B-1FF7-401C-9657-7441C03DD766");
	osc_field(a, 8, "CDW3");
	/* Local0 = CDW3 & what we give */
	aml_op_ref_int(a, AML_AND, "CDW3", PCIE_CAPABILITY);
	aml_byte(a, AML_LOCAL0);
	aml_if(a);
	aml_byte(a, AML_LNOT);
	aml_byte(a, AML_LEQUAL);
	aml_byte(a, AML_ARG0 + 1);
	aml_int(a, 1);
	osc_complain(a, UNKNOWN_REVISION);
	aml_end(a);
	aml_if(a);
	aml_byte(a, AML_LNOT);
	aml_byte(a, AML_LEQUAL);
	aml_ref(a, "CDW3");
	aml_byte(a, AML_LOCAL0);
	osc_complain(a, MASKED);
	aml_end(a);
	aml_byte(a, AML_STORE);
	aml_byte(a, AML_LOCAL0);
	aml_ref(a, "CDW3");
	aml_end(a);
	aml_else(a);
	osc_complain(a, UNKNOWN_UUID);
	aml_end(a);
	aml_byte(a, AML_RETURN);
	aml_byte(a, AML_ARG0 + 3);
	aml_end(a);
}

static void dsdt_device(struct aml *a, const char *name, const char *hid, unsigned uid)
{
	aml_device(a, name);
	aml_name(a, "_HID");
	aml_eisaid(a, hid);
	aml_name_int(a, "_UID", uid);
}

/* A legacy device with one range of ports and one interrupt. */
static void dsdt_isa(struct aml *a, const char *name, const char *hid, unsigned uid, uint16_t port,
		     uint8_t len, unsigned irq)
{
	dsdt_device(a, name, hid, uid);
	aml_name(a, "_CRS");
	aml_res(a);
	aml_res_io(a, port, len);
	aml_res_irq(a, irq);
	aml_res_end(a);
	aml_end(a);
}

static void dsdt_com(struct build *b)
{
	static const uint16_t port[ACPI_COM_PORTS] = { 0x3f8, 0x2f8, 0x3e8, 0x2e8 };
	static const uint8_t irq[ACPI_COM_PORTS] = { 4, 3, 4, 3 };

	for (unsigned i = 0; i < ACPI_COM_PORTS; i++) {
		char name[5] = { 'C', 'O', 'M', (char)('1' + i), 0 };

		if (b->c->com_mask & BIT(i))
			dsdt_isa(&b->a, name, "PNP0501", i + 1, port[i], 8, irq[i]);
	}
}

static void dsdt_keyboard(struct build *b)
{
	struct aml *a = &b->a;

	if (b->c->has_kbd) {
		dsdt_device(a, "KBD", "PNP0303", 0);
		aml_name(a, "_CRS");
		aml_res(a);
		aml_res_io(a, 0x60, 1);
		aml_res_io(a, 0x64, 1);
		aml_res_irq(a, IRQ_GSI_KBD);
		aml_res_end(a);
		aml_end(a);
	}
	if (b->c->has_mouse) {
		dsdt_device(a, "MOU", "PNP0F13", 0);
		aml_name(a, "_CRS");
		aml_res(a);
		aml_res_irq(a, 12);
		aml_res_end(a);
		aml_end(a);
	}
}

static void dsdt_hpet(struct build *b)
{
	struct aml *a = &b->a;

	if (!b->c->hpet_base)
		return;
	dsdt_device(a, "HPET", "PNP0103", 0);
	aml_name(a, "_CRS");
	aml_res(a);
	aml_res_mem32(a, (uint32_t)b->c->hpet_base, 0x400);
	aml_res_end(a);
	aml_end(a);
}

/* What no driver may take: power management ports, the configuration window. */
static void dsdt_reserved(struct build *b)
{
	const struct acpi_config *c = b->c;
	struct aml *a = &b->a;
	uint64_t len = MIB(c->ecam_buses);

	dsdt_device(a, "RES0", "PNP0C02", 0);
	aml_name(a, "_CRS");
	aml_res(a);
	aml_res_io(a, c->pm_base, ACPI_PM_PORTS);
	if (c->ecam_buses && c->ecam_base + len <= GIB(4))
		aml_res_mem32(a, (uint32_t)c->ecam_base, (uint32_t)len);
	else if (c->ecam_buses)
		aml_res_mem64(a, c->ecam_base, len);
	aml_res_end(a);
	aml_end(a);
}

static void build_dsdt(struct build *b, uint64_t *ret)
{
	struct aml *a = &b->a;

	table_begin(b, "DSDT", 2);
	aml_scope(a, "\\_SB");
	dsdt_reserved(b);
	dsdt_hpet(b);
	dsdt_device(a, "PCI0", "PNP0A08", 0);
	aml_name(a, "_CID");
	aml_eisaid(a, "PNP0A03");
	aml_name_int(a, "_SEG", 0);
	aml_name_int(a, "_BBN", 0);
	dsdt_windows(b);
	dsdt_routing(b);
	dsdt_osc(b);
	dsdt_com(b);
	if (b->c->has_rtc)
		dsdt_isa(a, "RTC", "PNP0B00", 0, 0x70, 2, IRQ_GSI_RTC);
	dsdt_keyboard(b);
	aml_end(a);
	aml_end(a);
	/* 7.4.2: the value for PM1a_CNT, for PM1b_CNT (there is none), reserved. */
	aml_name(a, "_S5");
	aml_package(a, 4);
	aml_int(a, SLP_TYP_S5);
	for (unsigned i = 0; i < 3; i++)
		aml_int(a, 0);
	aml_end(a);
	*ret = table_end(b);
}

/* The fixed tables. */

static void gas(uint8_t *p, uint8_t space, uint8_t bits, uint8_t access, uint64_t addr)
{
	p[0] = space;
	p[1] = bits;
	p[2] = 0;
	p[3] = access;
	st_le64(p + 4, addr);
}

/* 5.2.9 */
static void fadt_fill(uint8_t *p, const struct acpi_config *c, uint64_t facs, uint64_t dsdt)
{
	uint16_t pm = c->pm_base;
	/* 5.2.9.3: 8259s and other ISA devices; keyboard controller; no VGA; no CMOS RTC. */
	unsigned arch = BIT(0) | (c->has_kbd ? BIT(1) : 0) | (c->has_vga ? 0 : BIT(2)) |
			(c->has_rtc ? 0 : BIT(5));

	st_le32(p + 36, (uint32_t)facs);
	st_le32(p + 40, (uint32_t)dsdt);
	st_le16(p + 46, IRQ_GSI_SCI);
	/* SMI_CMD 0: always in ACPI mode. */
	st_le32(p + 56, pm);
	st_le32(p + 64, pm + 4u);
	st_le32(p + 76, pm + 8u);
	st_le32(p + 80, pm + 0x20u);
	p[88] = 4;
	p[89] = 2;
	p[91] = 4;
	p[92] = 4;
	/* No C2, no C3. */
	st_le16(p + 96, 0xfff);
	st_le16(p + 98, 0xfff);
	p[108] = c->rtc_century;
	st_le16(p + 109, (uint16_t)arch);
	/* WBINVD, PROC_C1, no sleep button, no fixed RTC wake, 32-bit timer, reset register. */
	st_le32(p + 112, BIT(0) | BIT(2) | BIT(5) | BIT(6) | BIT(8) | BIT(10));
	gas(p + 116, GAS_IO, 8, 1, PORT_RESET);
	p[128] = RESET_VALUE;
	/* Minor version. */
	p[131] = 4;
	st_le64(p + 140, dsdt);
	gas(p + 148, GAS_IO, 32, 2, pm);
	gas(p + 172, GAS_IO, 16, 2, pm + 4u);
	gas(p + 208, GAS_IO, 32, 3, pm + 8u);
	gas(p + 220, GAS_IO, 32, 1, pm + 0x20u);
	memcpy(p + 268, "Sampan\0", 8);
}

static void build_fadt(struct build *b, uint64_t facs, uint64_t dsdt)
{
	table_begin(b, "FACP", 6);
	build_zeroes(b, FADT_LEN - HEAD_LEN);
	if (!b->a.failed)
		fadt_fill(b->a.data + b->table, b->c, facs, dsdt);
	table_list(b);
}

static void madt_cpu(struct aml *a, unsigned uid, uint32_t apic_id)
{
	/* 5.2.12.2 and 5.2.12.12; bit 0 of the flags: there and usable. */
	if (uid < 255 && apic_id < 255) {
		aml_raw(a, 2, 0 | 8 << 8);
		aml_byte(a, (uint8_t)uid);
		aml_byte(a, (uint8_t)apic_id);
		aml_raw(a, 4, 1);
	} else {
		aml_raw(a, 2, 9 | 16 << 8);
		aml_raw(a, 2, 0);
		aml_raw(a, 4, apic_id);
		aml_raw(a, 4, 1);
		aml_raw(a, 4, uid);
	}
}

/* 5.2.12.5: ISA interrupt irq is on pin gsi. */
static void madt_override(struct aml *a, uint8_t irq, uint32_t gsi, uint16_t flags)
{
	aml_raw(a, 2, 2 | 10 << 8);
	aml_byte(a, 0);
	aml_byte(a, irq);
	aml_raw(a, 4, gsi);
	aml_raw(a, 2, flags);
}

static void build_madt(struct build *b)
{
	const struct acpi_config *c = b->c;
	struct aml *a = &b->a;
	enum {
		ACTIVE_HIGH_LEVEL = 0xd
	};

	table_begin(b, "APIC", 5);
	aml_raw(a, 4, c->lapic_base);
	/* There are 8259s too. */
	aml_raw(a, 4, 1);
	for (unsigned i = 0; i < c->ncpus; i++)
		madt_cpu(a, i, c->apic_ids[i]);
	/* 5.2.12.3: the I/O APIC, from GSI 0. */
	aml_raw(a, 2, 1 | 12 << 8);
	aml_byte(a, c->ioapic_id);
	aml_byte(a, 0);
	aml_raw(a, 4, c->ioapic_base);
	aml_raw(a, 4, 0);
	madt_override(a, IRQ_GSI_PIT, 2, 0);
	madt_override(a, IRQ_GSI_SCI, IRQ_GSI_SCI, ACTIVE_HIGH_LEVEL);
	/* 5.2.12.7, 5.2.12.13: NMI on LINT1 of every processor. */
	aml_raw(a, 2, 4 | 6 << 8);
	aml_byte(a, 0xff);
	aml_raw(a, 2, 0);
	aml_byte(a, 1);
	if (c->ncpus > 255) {
		aml_raw(a, 2, 10 | 12 << 8);
		aml_raw(a, 2, 0);
		aml_raw(a, 4, UINT32_MAX);
		aml_raw(a, 4, 1);
	}
	table_list(b);
}

static void build_mcfg(struct build *b)
{
	if (!b->c->ecam_buses)
		return;
	table_begin(b, "MCFG", 1);
	aml_raw(&b->a, 8, 0);
	aml_raw(&b->a, 8, b->c->ecam_base);
	aml_raw(&b->a, 2, 0);
	aml_byte(&b->a, 0);
	aml_byte(&b->a, (uint8_t)(b->c->ecam_buses - 1));
	aml_raw(&b->a, 4, 0);
	table_list(b);
}

/* IA-PC HPET 1.0a, 3.2.4 */
static void build_hpet(struct build *b)
{
	uint8_t addr[12];

	if (!b->c->hpet_base)
		return;
	table_begin(b, "HPET", 1);
	/* As in its capability register: legacy replacement, 64 bits, 3 comparators, revision 1. */
	aml_raw(&b->a, 4, 0x8086a201);
	gas(addr, GAS_MEM, 64, 0, b->c->hpet_base);
	aml_bytes(&b->a, addr, sizeof(addr));
	aml_byte(&b->a, 0);
	/* Shortest periodic interval without lost interrupts, in ticks. */
	aml_raw(&b->a, 2, 100);
	aml_byte(&b->a, 0);
	table_list(b);
}

static uint64_t build_facs(struct build *b)
{
	build_align(b, FACS_LEN);
	size_t at = b->a.len;

	build_zeroes(b, FACS_LEN);
	if (!b->a.failed) {
		memcpy(b->a.data + at, "FACS", 4);
		st_le32(b->a.data + at + 4, FACS_LEN);
		b->a.data[at + 32] = 2;
	}
	return b->gpa + at;
}

static uint64_t build_xsdt(struct build *b)
{
	table_begin(b, "XSDT", 1);
	for (unsigned i = 0; i < b->nlist; i++)
		aml_raw(&b->a, 8, b->list[i]);
	return table_end(b);
}

static void rsdp_fill(uint8_t *p, uint64_t xsdt)
{
	memcpy(p, "RSD PTR ", 8);
	memcpy(p + 9, "SAMPAN", 6);
	p[15] = 2;
	st_le32(p + 20, RSDP_LEN);
	st_le64(p + 24, xsdt);
	/* 5.2.5.3: one sum over the first 20 bytes, one over all. */
	p[8] = (uint8_t)-sum(p, 20);
	p[32] = (uint8_t)-sum(p, RSDP_LEN);
}

static int acpi_config_check(const struct acpi_config *c, uint64_t gpa, struct err *e)
{
	if (gpa % 64 || gpa >= GIB(4) - MIB(1))
		return err_set(e, EINVAL, "ACPI tables at %#lx", (unsigned long)gpa);
	if (!c->ncpus || c->ncpus > 4096)
		return err_set(e, EINVAL, "ACPI tables for %u processors", c->ncpus);
	if (c->ecam_buses > 256)
		return err_set(e, EINVAL, "ACPI tables for %u PCI buses", c->ecam_buses);
	if (c->pm_base % 16 || !c->pm_base)
		return err_set(e, EINVAL, "ACPI ports at %#x", c->pm_base);
	return 0;
}

int acpi_build(struct acpi_tables *ret, const struct acpi_config *c, uint64_t gpa, size_t max_len,
	       struct err *e)
{
	struct build b = { .gpa = gpa, .c = c };
	uint64_t dsdt;
	int rc = acpi_config_check(c, gpa, e);

	if (rc < 0)
		return rc;
	build_zeroes(&b, RSDP_LEN);
	uint64_t facs = build_facs(&b);
	build_dsdt(&b, &dsdt);
	build_fadt(&b, facs, dsdt);
	build_madt(&b);
	build_mcfg(&b);
	build_hpet(&b);
	uint64_t xsdt = build_xsdt(&b);
	if (aml_failed(&b.a))
		rc = err_set(e, ENOMEM, "no memory for ACPI tables");
	else if (b.a.len > max_len)
		rc = err_set(e, E2BIG, "ACPI tables of %zu bytes where %zu fit", b.a.len, max_len);
	if (rc < 0) {
		aml_fini(&b.a);
		return rc;
	}
	rsdp_fill(b.a.data, xsdt);
	*ret = (struct acpi_tables){ b.a.data, b.a.len, gpa };
	return 0;
}

void acpi_tables_fini(struct acpi_tables *t)
{
	free(t->data);
	*t = (struct acpi_tables){ 0 };
}
