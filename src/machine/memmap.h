/*
 * Where things are in the guest-physical address space and on the ports of the board `pc`.
 *
 *	0			RAM; the first MiB as firmware leaves it (boot.h)
 *	[low end, 3 GiB)	nothing, when there is less RAM
 *	3 GiB .. 0xe0000000	32-bit BARs
 *	0xe0000000		ECAM, 256 MiB: config space of 256 buses (one is there)
 *	0xfec00000		I/O APIC
 *	0xfed00000		HPET
 *	0xfee00000		local APICs and messages
 *	0xfffbc000		where KVM may keep its own pages on Intel hosts (below the BIOS)
 *	4 GiB			the rest of RAM
 *	MMIO64_BASE		64-bit BARs
 */
#pragma once

#include "base/num.h"

#define MEMMAP_LOW_END 0xc0000000ull
#define MEMMAP_HIGH 0x100000000ull
#define MEMMAP_MMIO32 0xc0000000ull
#define MEMMAP_MMIO32_LEN 0x20000000ull
#define MEMMAP_ECAM 0xe0000000ull
#define MEMMAP_ECAM_BUSES 256u
#define MEMMAP_IOAPIC 0xfec00000ull
#define MEMMAP_HPET 0xfed00000ull
#define MEMMAP_LAPIC 0xfee00000ull
/* Everything from here to 4 GiB is the board's: chips, and once the firmware. */
#define MEMMAP_CHIPS 0xfec00000ull
/* Guests with a physical address width of 36 bits and more see all of it. */
#define MEMMAP_MMIO64_LEN 0x400000000ull

/* Below 1 MiB. */
#define MEMMAP_EBDA 0x9fc00ull
#define MEMMAP_VGA 0xa0000ull
#define MEMMAP_ACPI 0xe0000ull
#define MEMMAP_ACPI_LEN 0x20000ull
#define MEMMAP_1M 0x100000ull

/* Ports: what the devices claim for themselves is in their files. */
enum {
	MEMMAP_PM_PORTS = 0x600,
	MEMMAP_PCI_IO = 0x1000,
	MEMMAP_PCI_IO_LEN = 0xf000,
};

/* RAM below the hole, and the rest above 4 GiB. */
static inline uint64_t memmap_low(uint64_t ram)
{
	return MIN(ram, (uint64_t)MEMMAP_LOW_END);
}

static inline uint64_t memmap_high(uint64_t ram)
{
	return ram - memmap_low(ram);
}

/* Start of the window of 64-bit BARs: above RAM, aligned to its size. */
static inline uint64_t memmap_mmio64(uint64_t ram)
{
	return align_up(MEMMAP_HIGH + memmap_high(ram), MEMMAP_MMIO64_LEN);
}
