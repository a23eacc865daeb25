/*
 * A device: a name, a lock, a life cycle and a table of saved state.
 *
 * Life cycle: created while the VM is stopped (its create function says with which resources),
 * reset, then start/stop around every pause, and free.  Register accesses come from vCPU threads
 * with dev.lock held (the bus takes it: bus_range.lock = &dev.lock); what a device does on a loop
 * takes dev.lock itself where it touches shared fields.
 */
#pragma once

#include "base/list.h"
#include "base/thread.h"
#include "irq/irq.h"
#include "loop/loop.h"
#include "mem/bus.h"
#include "mem/gmem.h"
#include "state/state.h"

struct dev;

struct dev_ops {
	/* "uart", "virtio-blk". */
	const char *type;
	/* Required. */
	void (*free)(struct dev *d);
	/* To power-on values.  VM paused.  [NULL: nothing to reset] */
	void (*reset)(struct dev *d);
	/* Saved state: a table over *state_obj(d).  Every device has one; a device with no state
	 * has a table with no fields. */
	const struct state_desc *state;
	void *(*state_obj)(struct dev *d);
	size_t state_size;
	/* Before a save: bring fields up to date.  [NULL] */
	void (*pre_save)(struct dev *d);
	/* After a load: derive the rest (lines, timers, BAR mappings).  [NULL] */
	int (*post_load)(struct dev *d, struct err *e);
	/* Pause: return only when nothing of it is in flight and nothing writes guest memory.
	 * [NULL] */
	void (*stop)(struct dev *d);
	void (*start)(struct dev *d);
};

struct dev {
	const struct dev_ops *ops;
	/* Unique in the machine: "uart0", "disk0". */
	char name[32];
	/* Among devices of the same type; the state section's instance. */
	unsigned instance;
	struct lock lock;
	struct list node;
	/* board_load() has seen its section. */
	bool loaded;
};

/* What a guest can ask of its board. */
enum board_request {
	/* Reset button, port 0xcf9, keyboard controller, ACPI reset register. */
	BOARD_RESET,
	/* ACPI S5. */
	BOARD_POWEROFF,
	/* isa-debug-exit: the process ends with status (value << 1) | 1. */
	BOARD_EXIT,
	/* A disk error that pauses the VM until `cont`; the value: enum board_io_error. */
	BOARD_IO_ERROR,
	/* pvpanic. */
	BOARD_PANIC,
};

enum board_io_error {
	/* dev.instance of the virtio-blk device. */
	BOARD_IO_DISK = 0xff,
	BOARD_IO_WRITE = 0x100,
	BOARD_IO_NOSPACE = 0x200,
};

/* What a machine gives its devices. */
struct board {
	struct gmem *gmem;
	struct bus *mmio, *pio;
	struct irqs *irqs;
	/* Main thread: timers, control. */
	struct loop *loop;
	/* All devices, in creation order. */
	struct list devs;
	/* The guest asks for these; any thread.  They post to the main thread. */
	void (*request)(struct board *b, enum board_request r, unsigned value);
};

/* Fills in d (embedded in the device) and appends it to the board's list. */
void dev_init(struct dev *d, const struct dev_ops *ops, struct board *b, const char *name);
/* Takes it off the list and frees it through its ops; NULL is fine. */
void dev_free(struct dev *d);
/* All devices of the board. */
void board_reset(struct board *b);
void board_stop(struct board *b);
void board_start(struct board *b);
NODISCARD int board_save(struct board *b, struct state_buf *buf, struct err *e);
/* Sections in any order, one for each device; -EPROTO when one is missing or unknown. */
NODISCARD int board_load(struct board *b, const uint8_t *data, size_t len, struct err *e);
