/*
 * The board of the tiny guests: RAM, a console, and a few devices made for asking questions.
 *
 * Ports (all but the console 32 bits wide; lib/ports.h is the guest's side):
 *	0xe9	console: a byte of output
 *	0xf4	exit: the value is the guest's result, 0 for success
 *	0x500	scratch: 64 bytes that read back as written, at any width
 *	0x540	command: see enum tiny_cmd; the result is read at the same port
 *	0x544	argument 0
 *	0x548	argument 1
 *	0x54c	what the last access to scratch was: width | offset << 8 | write << 16 | count << 20
 * Memory:
 *	0xd0000000	scratch: 4 KiB, as the port one
 *	0xd0001000	page of bells
 */
#pragma once

#include "accel/accel.h"
#include "base/thread.h"

enum {
	TINY_CPUS = 8,
	TINY_BELLS = 4,
	TINY_OUT = 1 << 18,
	TINY_SCRATCH = 4096,
	TINY_ROM_GPA = 0xc0000,
	TINY_ROM_LEN = 0x40000,
};
/* The result of a command that is not done yet. */
#define TINY_PENDING 0xfffffffeu
#define TINY_MMIO 0xd0000000ull

enum tiny_cmd {
	/* Dirty log: start; take: result is the number of pages; next: result is a page number, ~0.
	 */
	TINY_DIRTY_START = 1,
	TINY_DIRTY_TAKE,
	TINY_DIRTY_NEXT,
	TINY_DIRTY_STOP,
	/* Line arg0 to level arg1. */
	TINY_LINE,
	/* The message arg0 (address), arg1 (data). */
	TINY_MSI,
	/* arg0 ms from now: line arg1 up and down; the message of the last TINY_MSI_LATER_SET. */
	TINY_LINE_LATER,
	TINY_MSI_SET,
	TINY_MSI_LATER,
	/* Bell arg0 (an address in the bells' page, arg1 width | has-match << 8, value in scratch).
	 */
	TINY_BELL_ADD,
	/* How often bell arg0 rang since it was last asked. */
	TINY_BELL_COUNT,
	/* All state of this vCPU out of the engine and back in, while it is out of the run loop. */
	TINY_STATE_TRIP,
	/* A host thread writes arg1 to physical address arg0 and tells the engine. */
	TINY_DMA,
	/* Milliseconds since the board was made. */
	TINY_TIME,
	/* 1 on a KVM that emulates ring 0, whose few ways of its own a test may have to know. */
	TINY_EMULATED,
};

struct tiny_io {
	struct bus_range r;
	struct tiny *b;
	uint8_t bytes[TINY_SCRATCH];
	uint32_t last, count;
};

struct tiny_bell {
	struct bus_notify n;
	int fd;
	bool used;
};

/* Something that the board's helper thread does later. */
struct tiny_later {
	uint64_t at_ns;
	int gsi;
	bool msi;
};

struct tiny {
	struct gmem gmem;
	struct bus mmio, pio;
	struct accel_vm *vm;
	struct accel_vcpu *vcpu[TINY_CPUS];
	unsigned ncpus;

	/* Guards the rest but for out_len. */
	struct lock lock;
	struct cond cond;
	bool done, failed;
	uint32_t result;
	char why[512];

	struct bus_range console, leave, cmd;
	struct tiny_io port, mem;
	uint32_t arg[2], answer;
	struct irq_line line[IRQ_GSIS];
	uint64_t msi_addr;
	uint32_t msi_data;
	struct tiny_bell bell[TINY_BELLS];
	struct tiny_later later;
	bool later_set, later_stop;
	/* For the helper thread; 0: nothing. */
	uint32_t dirty_cmd;
	struct thread later_thread;
	uint64_t start_ns;
	/* vCPU whose state makes a round trip when it comes out. */
	bool trip[TINY_CPUS];
	bool emulated;

	uint64_t *dirty;
	uint64_t dirty_at;

	struct tiny_timers *timers;

	char *out;
	size_t out_len;
};

/* ram: bytes from address 0, with a ROM at TINY_ROM_GPA.  cpus <= TINY_CPUS. */
int tiny_init(struct tiny *b, uint64_t ram, unsigned cpus, struct err *e);
/* The engine was made: from now on interrupts and dirty logs work. */
int tiny_start(struct tiny *b, struct err *e);
/* The vCPUs are out of the engine for good. */
void tiny_stop(struct tiny *b);
void tiny_fini(struct tiny *b);
/* Ends the run: all vCPUs come out. */
void tiny_end(struct tiny *b, bool failed, uint32_t result, const char *why);
