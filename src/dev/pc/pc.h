/*
 * The small devices of a PC: timers, clock, serial ports, keyboard controller, and the ports by
 * which a guest resets or ends its machine.
 *
 * Each is a struct dev on the board's list: created while the VM is stopped, freed with dev_free().
 * Registers are reached through the board's buses with dev.lock held; functions here that take a
 * struct dev may be called from any thread unless they say otherwise.  Timers run on the board's
 * loop (its main thread) by alarms, which vCPU threads may set.
 *
 * Time.  PIT, HPET and the RTC's periodic interrupt live in a time of the guest's, which begins
 * with board_start() and stands still while the VM is stopped.  The RTC's calendar follows the
 * host's.
 *
 * Port 0xcf9, the chipset's reset control register, belongs to dev/pci (it lies inside PCI's
 * configuration ports).
 */
#pragma once

#include "dev/dev.h"

struct chr;
struct chr_client;

/* 8254 timer, ports 0x40-0x43, and the system control port 0x61.  Not created where the engine has
 * one in the kernel (accel_vm.has_pit). */
NODISCARD int pit_new(struct board *b, struct dev **ret, struct err *e);
/* HPET's legacy replacement takes GSI 0 (on: the PIT has it). */
void pit_route(struct dev *pit, bool on);

/* MC146818 clock and 256 bytes of CMOS memory, ports 0x70-0x73. */
struct rtc_opts {
	/* RAM below and above 4 GiB, for the firmware's bytes of CMOS. */
	uint64_t ram_low, ram_high;
	unsigned ncpus;
	/* The clock shows the host's local time; else UTC. */
	bool local;
};

enum {
	/* CMOS byte that holds the century, for ACPI's FADT. */
	RTC_CENTURY = 0x32,
};

NODISCARD int rtc_new(struct board *b, const struct rtc_opts *o, struct dev **ret, struct err *e);
/* HPET's legacy replacement takes GSI 8 (on: the RTC has it). */
void rtc_route(struct dev *rtc, bool on);
/* The guest masks NMIs (bit 7 of port 0x70). */
bool rtc_nmi_masked(struct dev *rtc);

/* IA-PC HPET 1.0a. */
struct hpet_opts {
	/* Usually 0xfed00000; 1 KiB. */
	uint64_t base;
	/* 3 to 32. */
	unsigned timers;
	/* Of the main counter, 1 MHz to 100 MHz. */
	uint32_t hz;
	/* What legacy replacement silences.  pit NULL: the engine's own goes on. */
	struct dev *pit, *rtc;
};

NODISCARD int hpet_new(struct board *b, const struct hpet_opts *o, struct dev **ret, struct err *e);

/* 16550A. */
struct uart_opts {
	/* "uart0" */
	const char *name;
	/* COM1 is 0x3f8 with GSI 4, COM2 0x2f8 with 3, COM3 0x3e8 with 4, COM4 0x2e8 with 3. */
	uint16_t port;
	unsigned gsi;
};

NODISCARD int uart_new(struct board *b, const struct uart_opts *o, struct dev **ret, struct err *e);
/* For chr_open(), then attach what that gave.  Without a stream, output is dropped.  Attach on the
 * loop's thread or before it runs; NULL detaches. */
struct chr_client *uart_client(struct dev *uart);
void uart_attach(struct dev *uart, struct chr *c);

/* 8042 keyboard controller with a PS/2 keyboard and a mouse with wheel, ports 0x60 and 0x64. */
NODISCARD int i8042_new(struct board *b, struct dev **ret, struct err *e);
/*
 * A key goes down or up.  key: its scan code of set 1 (XT), with I8042_EXT for those that follow
 * an 0xe0.  Dropped when the guest does not read.
 */
enum {
	I8042_EXT = 0x80,
	I8042_PAUSE = 0xc6,
};
void i8042_key(struct dev *kbd, unsigned key, bool down);
enum {
	I8042_LEFT = 1,
	I8042_RIGHT = 2,
	I8042_MIDDLE = 4,
};
/* Movement to the right, down and of the wheel towards the user; buttons held. */
void i8042_mouse(struct dev *kbd, int dx, int dy, int dz, unsigned buttons);
/* LEDs that the guest set: bit 0 scroll, 1 num, 2 caps. */
unsigned i8042_leds(struct dev *kbd);

/* Port 0x92, system control port A: A20 gate (which gates nothing here) and fast reset. */
NODISCARD int sysctl_new(struct board *b, struct dev **ret, struct err *e);

/* isa-debug-exit: a write of v ends the machine with BOARD_EXIT and v.  port 0: 0xf4. */
NODISCARD int debugexit_new(struct board *b, uint16_t port, struct dev **ret, struct err *e);

/* Port 0xe9 as Bochs has it: reads give 0xe9, a written byte goes to fn on the vCPU's thread with
 * the device's lock held.  port 0: 0xe9. */
NODISCARD int debugcon_new(struct board *b, uint16_t port, void (*fn)(void *arg, uint8_t byte),
			   void *arg, struct dev **ret, struct err *e);
