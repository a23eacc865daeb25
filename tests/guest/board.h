/*
 * The board of the tiny guests: RAM, a console, and a few devices made for asking questions.
 *
 * Ports (all but the console 32 bits wide; tests/guest/lib/board.h is the guest's side):
 *	0xe9	console: a byte of output
 *	0xf4	exit: the value is the guest's result, 0 for success
 *	0x500	scratch: 64 bytes that read back as written, at any width
 *	0x540	command: see enum board_cmd; the result is read at the same port
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
	BOARD_CPUS = 8,
	BOARD_BELLS = 4,
	BOARD_OUT = 1 << 18,
	BOARD_SCRATCH = 4096,
	BOARD_ROM_GPA = 0xc0000,
	BOARD_ROM_LEN = 0x40000,
};
#define BOARD_MMIO 0xd0000000ull

enum board_cmd {
	/* Dirty log: start; take: result is the number of pages; next: result is a page number, ~0.
	 */
	BOARD_DIRTY_START = 1,
	BOARD_DIRTY_TAKE,
	BOARD_DIRTY_NEXT,
	BOARD_DIRTY_STOP,
	/* Line arg0 to level arg1. */
	BOARD_LINE,
	/* The message arg0 (address), arg1 (data). */
	BOARD_MSI,
	/* Attach an eventfd to that message; then ring it arg0 ms from now. */
	BOARD_FD_ATTACH,
	BOARD_FD_RING,
	BOARD_FD_DETACH,
	/* arg0 ms from now: line arg1 up and down; the message of the last BOARD_MSI_LATER_SET. */
	BOARD_LINE_LATER,
	BOARD_MSI_SET,
	BOARD_MSI_LATER,
	/* Bell arg0 (an address in the bells' page, arg1 width | has-match << 8, value in scratch).
	 */
	BOARD_BELL_ADD,
	/* How often bell arg0 rang since it was last asked. */
	BOARD_BELL_COUNT,
	/* All state of this vCPU out of the engine and back in, while it is out of the run loop. */
	BOARD_STATE_TRIP,
	/* A host thread writes arg1 to physical address arg0 and tells the engine. */
	BOARD_DMA,
	/* Milliseconds since the board was made. */
	BOARD_TIME,
	/* 1 on a KVM that emulates ring 0, whose few ways of its own a test may have to know. */
	BOARD_EMULATED,
};

struct board_io {
	struct bus_range r;
	struct board *b;
	uint8_t bytes[BOARD_SCRATCH];
	uint32_t last, count;
};

struct board_bell {
	struct bus_notify n;
	int fd;
	bool used;
};

/* Something that the board's helper thread does later. */
struct board_later {
	uint64_t at_ns;
	int fd;
	int gsi;
	bool msi;
};

struct board {
	struct gmem gmem;
	struct bus mmio, pio;
	struct accel_vm *vm;
	struct accel_vcpu *vcpu[BOARD_CPUS];
	unsigned ncpus;

	/* Guards the rest but for out_len. */
	struct lock lock;
	struct cond cond;
	bool done, failed;
	uint32_t result;
	char why[512];

	struct bus_range console, leave, cmd;
	struct board_io port, mem;
	uint32_t arg[2], answer;
	struct irq_line line[IRQ_GSIS];
	uint64_t msi_addr;
	uint32_t msi_data;
	struct board_bell bell[BOARD_BELLS];
	int irq_fd;
	struct board_later later;
	bool later_set, later_stop;
	struct thread later_thread;
	uint64_t start_ns;
	/* vCPU whose state makes a round trip when it comes out. */
	bool trip[BOARD_CPUS];
	bool emulated;

	uint64_t *dirty;
	uint64_t dirty_at;

	char *out;
	size_t out_len;
};

/* ram: bytes from address 0, with a ROM at BOARD_ROM_GPA.  cpus <= BOARD_CPUS. */
int board_init(struct board *b, uint64_t ram, unsigned cpus, struct err *e);
/* The engine was made: from now on interrupts and dirty logs work. */
int board_start(struct board *b, struct err *e);
/* The vCPUs are out of the engine for good. */
void board_stop(struct board *b);
void board_fini(struct board *b);
/* Ends the run: all vCPUs come out. */
void board_end(struct board *b, bool failed, uint32_t result, const char *why);
