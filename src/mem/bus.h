/*
 * Address decode: which device answers an MMIO or port access.
 *
 * There are two buses in a machine, memory (everything that is not RAM) and ports (64 Ki).  Ranges
 * never overlap; reads of nobody give all ones, writes to nobody are dropped, as on a real board.
 * An access is split where it crosses the end of a range or exceeds the device's widest access.
 *
 * Threads: bus_read/bus_write from any vCPU; bus_add/bus_del from any thread (a guest moves BARs
 * while others run).  A look-up holds the read lock only until it has found the range, so an access
 * may reach a device whose range was deleted or moved a moment ago, as a write on its way does on a
 * real bus.  bus_add() and bus_del() take no device lock; a device is freed only while no vCPU
 * runs.
 */
#pragma once

#include "base/err.h"
#include "base/list.h"
#include "base/thread.h"

struct bus_range;

struct bus_ops {
	/* size: 1, 2, 4 or 8; off + size <= range length; off need not be aligned. */
	uint64_t (*read)(struct bus_range *r, uint64_t off, unsigned size);
	void (*write)(struct bus_range *r, uint64_t off, unsigned size, uint64_t v);
	/* Widest access that the device takes; wider ones arrive as several.  [0: 8] */
	unsigned max_size;
};

/* Embedded in the device. */
struct bus_range {
	const struct bus_ops *ops;
	/* For people, e.g. "uart". */
	const char *name;
	/* Held around ops; NULL: the ops lock for themselves. */
	struct lock *lock;
	uint64_t base, len;
	/* On a bus now. */
	bool on;
};

/* Writes that only ring a bell: an eventfd is signalled and the device is not called. */
struct bus_notify {
	uint64_t addr;
	/* 0: any width. */
	unsigned size;
	/* When has_match, only this value rings. */
	bool has_match;
	uint64_t match;
	int fd;
	/* The engine rings it, too. */
	bool in_engine;
	struct list node;
};

struct bus;

/* An engine that can ring bells without leaving the kernel (ioeventfd).  -ENOSYS: not this one,
 * then only the bus does it.  The bus knows all of them: a store may come to bus_write() in spite
 * of the engine, from an instruction that it could not do itself. */
struct bus_engine {
	int (*notify_add)(struct bus_engine *e, struct bus *b, const struct bus_notify *n);
	void (*notify_del)(struct bus_engine *e, struct bus *b, const struct bus_notify *n);
};

enum bus_kind {
	BUS_MMIO,
	BUS_PIO,
};

enum {
	BUS_RANGES = 512,
};

struct bus {
	enum bus_kind kind;
	pthread_rwlock_t map_lock;
	/* Sorted by base; guarded by map_lock. */
	struct bus_range *range[BUS_RANGES];
	unsigned n;
	/* Guarded by map_lock. */
	struct list notify;
	unsigned nnotify;
	struct bus_engine *engine;
	/* Accesses that nobody answered. */
	uint64_t unclaimed;
};

void bus_init(struct bus *b, enum bus_kind kind);
void bus_fini(struct bus *b);

/* r->ops, name and lock are set; -EEXIST on overlap, -ENOSPC when the bus is full. */
NODISCARD int bus_add(struct bus *b, struct bus_range *r, uint64_t base, uint64_t len);
/* Does nothing when r is not on the bus. */
void bus_del(struct bus *b, struct bus_range *r);

NODISCARD int bus_notify_add(struct bus *b, struct bus_notify *n);
void bus_notify_del(struct bus *b, struct bus_notify *n);

/* size: 1, 2, 4 or 8. */
uint64_t bus_read(struct bus *b, uint64_t addr, unsigned size);
void bus_write(struct bus *b, uint64_t addr, unsigned size, uint64_t v);
