/*
 * A board for device tests: memory, two buses, a PCI bridge, interrupt lines and messages that are
 * counted, one loop on the test's thread; and a driver that finds a virtio device on the PCI bus
 * the way an operating system does.
 */
#pragma once

#include "base/num.h"
#include "dev/pci/pci.h"
#include "dev/virtio/virtio.h"
#include "lib/vring.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RIG_MMIO 0xc0000000ull
#define RIG_ECAM 0xe0000000ull

enum {
	RIG_RAM = 8 << 20,
	RIG_VECTORS = 64,
	/* Vector i of a device sends this data plus i. */
	RIG_MSI_DATA = 0x40,
};

struct rig {
	struct gmem gmem;
	struct bus mmio, pio;
	struct irqs irqs;
	struct loop *loop;
	struct board board;
	struct pci_host *host;
	/* What devices sent and asked for. */
	unsigned msi[256], line_changes;
	bool line[IRQ_GSIS];
	uint64_t msi_addr;
	unsigned requests[8];
	unsigned last_request_value;
};

static inline void rig_die(const char *what, const char *why)
{
	fprintf(stderr, "rig: %s: %s\n", what, why);
	abort();
}

static inline void rig_line(struct irqs *q, unsigned gsi, bool level)
{
	struct rig *r = container_of(q, struct rig, irqs);

	r->line[gsi] = level;
	r->line_changes++;
}

static inline void rig_msi(struct irqs *q, uint64_t addr, uint32_t data)
{
	struct rig *r = container_of(q, struct rig, irqs);

	r->msi[data & 0xff]++;
	r->msi_addr = addr;
}

static inline void rig_request(struct board *b, enum board_request what, unsigned value)
{
	struct rig *r = container_of(b, struct rig, board);

	r->requests[what]++;
	r->last_request_value = value;
}

static const struct irq_ops rig_irq_ops = { .name = "rig", .line = rig_line, .msi = rig_msi };

/* Without a bridge: for devices that are not on PCI, and for tests that make their own. */
static inline struct rig *rig_new_bare(void)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct err e = { 0 };

	if (!r)
		rig_die("new", "no memory");
	gmem_init(&r->gmem);
	if (gmem_add(&r->gmem, "ram", 0, RIG_RAM, -1, 0, false, &e) < 0)
		rig_die("memory", e.msg);
	bus_init(&r->mmio, BUS_MMIO);
	bus_init(&r->pio, BUS_PIO);
	r->irqs.ops = &rig_irq_ops;
	if (loop_new(&r->loop, LOOP_EPOLL, &e) < 0)
		rig_die("loop", e.msg);
	r->board = (struct board){
		.gmem = &r->gmem,
		.mmio = &r->mmio,
		.pio = &r->pio,
		.irqs = &r->irqs,
		.loop = r->loop,
		.request = rig_request,
	};
	list_init(&r->board.devs);
	return r;
}

static inline struct rig *rig_new(void)
{
	struct rig *r = rig_new_bare();
	struct err e = { 0 };
	const struct pci_host_opts o = {
		.board = &r->board,
		.ecam_base = RIG_ECAM,
		.ecam_buses = 1,
		.io = { 0xc000, 0x1000 },
		.mmio32 = { RIG_MMIO, 0x10000000 },
		.mmio64 = { 0x4000000000, 0x1000000000 },
	};

	if (pci_host_new(&r->host, &o, &e) < 0)
		rig_die("bridge", e.msg);
	return r;
}

/* Frees the board's devices, last created first, and the rest. */
static inline void rig_free(struct rig *r)
{
	board_stop(&r->board);
	while (!list_empty(&r->board.devs))
		dev_free(list_entry(r->board.devs.prev, struct dev, node));
	loop_free(r->loop);
	bus_fini(&r->mmio);
	bus_fini(&r->pio);
	gmem_fini(&r->gmem);
	free(r);
}

/* Lets the loop handle all that is there now. */
static inline void rig_run(struct rig *r)
{
	for (int i = 0; i < 8; i++)
		loop_run_once(r->loop, 0);
}

static inline uint8_t *rig_ram(struct rig *r, uint64_t gpa)
{
	uint8_t *p = gmem_at(&r->gmem, gpa, 1);

	if (!p)
		rig_die("ram", "address");
	return p;
}

/* Configuration space through the ECAM window. */

static inline uint64_t rig_cfg(struct rig *r, unsigned slot, unsigned off, unsigned n)
{
	return bus_read(&r->mmio, RIG_ECAM + (slot << 15) + off, n);
}

static inline void rig_cfg_set(struct rig *r, unsigned slot, unsigned off, unsigned n, uint64_t v)
{
	bus_write(&r->mmio, RIG_ECAM + (slot << 15) + off, n, v);
}

/* Address of BAR i as the registers have it. */
static inline uint64_t rig_bar(struct rig *r, unsigned slot, unsigned i)
{
	uint64_t v = rig_cfg(r, slot, PCI_BAR0 + 4 * i, 4);

	if ((v & 7) == 4)
		v |= rig_cfg(r, slot, PCI_BAR0 + 4 * i + 4, 4) << 32;
	return v & ~0xfull;
}

/* The next capability with this id, from `from` on (0: the first); 0: none. */
static inline unsigned rig_cap(struct rig *r, unsigned slot, unsigned from, uint8_t id)
{
	unsigned at = (unsigned)rig_cfg(r, slot, from ? from + 1 : PCI_CAP_PTR, 1);

	for (unsigned n = 0; at && n < 48; n++) {
		if (rig_cfg(r, slot, at, 1) == id)
			return at;
		at = (unsigned)rig_cfg(r, slot, at + 1, 1);
	}
	return 0;
}

/* A driver of a virtio device. */

struct vdrv {
	struct rig *r;
	unsigned slot;
	uint64_t common, isr, device, notify;
	uint32_t notify_step;
	struct vring q[VIRTIO_QUEUES];
	/* Where the next ring goes. */
	uint64_t ring_gpa;
};

/* struct virtio_pci_common_cfg */
enum {
	VC_DEVICE_SELECT = 0,
	VC_DEVICE_FEATURE = 4,
	VC_DRIVER_SELECT = 8,
	VC_DRIVER_FEATURE = 0xc,
	VC_CONFIG_VECTOR = 0x10,
	VC_NUM_QUEUES = 0x12,
	VC_STATUS = 0x14,
	VC_GENERATION = 0x15,
	VC_QUEUE_SELECT = 0x16,
	VC_QUEUE_SIZE = 0x18,
	VC_QUEUE_VECTOR = 0x1a,
	VC_QUEUE_ENABLE = 0x1c,
	VC_QUEUE_NOTIFY_OFF = 0x1e,
	VC_QUEUE_DESC = 0x20,
	VC_QUEUE_DRIVER = 0x28,
	VC_QUEUE_DEVICE = 0x30,
};

static inline uint64_t vd_get(struct vdrv *d, unsigned off, unsigned n)
{
	return bus_read(&d->r->mmio, d->common + off, n);
}

static inline void vd_set(struct vdrv *d, unsigned off, unsigned n, uint64_t v)
{
	bus_write(&d->r->mmio, d->common + off, n, v);
}

static inline uint64_t vd_cfg(struct vdrv *d, unsigned off, unsigned n)
{
	return bus_read(&d->r->mmio, d->device + off, n);
}

static inline void rig_master(struct rig *r, unsigned slot, bool on)
{
	unsigned cmd = (unsigned)rig_cfg(r, slot, PCI_COMMAND, 2);

	rig_cfg_set(r, slot, PCI_COMMAND, 2, on ? cmd | PCI_CMD_MASTER : cmd & ~PCI_CMD_MASTER);
}

/* Finds the structures of the device in slot; the bridge has assigned addresses. */
static inline void vd_find(struct vdrv *d, struct rig *r, unsigned slot)
{
	*d = (struct vdrv){ .r = r, .slot = slot, .ring_gpa = 1 << 20 };
	rig_master(r, slot, true);
	for (unsigned at = 0; (at = rig_cap(r, slot, at, PCI_CAP_VENDOR));) {
		unsigned type = (unsigned)rig_cfg(r, slot, at + 3, 1);
		uint64_t where = rig_bar(r, slot, (unsigned)rig_cfg(r, slot, at + 4, 1)) +
				 rig_cfg(r, slot, at + 8, 4);

		if (type == 1)
			d->common = where;
		else if (type == 2)
			d->notify = where, d->notify_step = (uint32_t)rig_cfg(r, slot, at + 16, 4);
		else if (type == 3)
			d->isr = where;
		else if (type == 4)
			d->device = where;
	}
}

/* Turns MSI-X on, each vector with a message of its own. */
static inline void vd_msix(struct vdrv *d)
{
	unsigned cap = rig_cap(d->r, d->slot, 0, PCI_CAP_MSIX);
	unsigned n = ((unsigned)rig_cfg(d->r, d->slot, cap + 2, 2) & 0x7ff) + 1;
	uint64_t table = rig_bar(d->r, d->slot, 1);

	for (unsigned i = 0; i < n; i++) {
		bus_write(&d->r->mmio, table + 16 * i, 8, 0xfee00000);
		bus_write(&d->r->mmio, table + 16 * i + 8, 4, RIG_MSI_DATA + i);
		bus_write(&d->r->mmio, table + 16 * i + 12, 4, 0);
	}
	rig_cfg_set(d->r, d->slot, cap + 2, 2, 1 << 15);
}

static inline uint64_t vd_offered(struct vdrv *d)
{
	vd_set(d, VC_DEVICE_SELECT, 4, 0);
	uint64_t f = vd_get(d, VC_DEVICE_FEATURE, 4);

	vd_set(d, VC_DEVICE_SELECT, 4, 1);
	return f | vd_get(d, VC_DEVICE_FEATURE, 4) << 32;
}

/* Reset to FEATURES_OK; false when the device does not agree. */
static inline bool vd_negotiate(struct vdrv *d, uint64_t features)
{
	vd_set(d, VC_STATUS, 1, 0);
	for (int i = 0; i < 100 && vd_get(d, VC_STATUS, 1); i++)
		rig_run(d->r);
	vd_set(d, VC_STATUS, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
	vd_set(d, VC_DRIVER_SELECT, 4, 0);
	vd_set(d, VC_DRIVER_FEATURE, 4, features & 0xffffffff);
	vd_set(d, VC_DRIVER_SELECT, 4, 1);
	vd_set(d, VC_DRIVER_FEATURE, 4, features >> 32);
	vd_set(d, VC_STATUS, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
	return vd_get(d, VC_STATUS, 1) & VIRTIO_FEATURES_OK;
}

/* Sets up queue i with a ring of its full size, its interrupts on vector i. */
static inline struct vring *vd_queue(struct vdrv *d, unsigned i)
{
	struct vring *q = &d->q[i];

	vd_set(d, VC_QUEUE_SELECT, 2, i);
	unsigned size = (unsigned)vd_get(d, VC_QUEUE_SIZE, 2);
	vring_init(q, &d->r->gmem, size, d->ring_gpa);
	d->ring_gpa += align_up(vring_bytes(size), 4096);
	vd_set(d, VC_QUEUE_DESC, 4, q->desc & 0xffffffff);
	vd_set(d, VC_QUEUE_DESC + 4, 4, q->desc >> 32);
	vd_set(d, VC_QUEUE_DRIVER, 8, q->avail);
	vd_set(d, VC_QUEUE_DEVICE, 8, q->used);
	vd_set(d, VC_QUEUE_VECTOR, 2, i);
	vd_set(d, VC_QUEUE_ENABLE, 2, 1);
	return q;
}

static inline void vd_ok(struct vdrv *d)
{
	vd_set(d, VC_CONFIG_VECTOR, 2, vd_get(d, VC_NUM_QUEUES, 2));
	vd_set(d, VC_STATUS, 1,
	       VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
}

/* All of it: a running driver with the first nq queues. */
static inline void vd_start(struct vdrv *d, struct rig *r, unsigned slot, uint64_t features,
			    unsigned nq)
{
	vd_find(d, r, slot);
	vd_msix(d);
	if (!vd_negotiate(d, features | VIRTIO_F_VERSION_1))
		rig_die("driver", "features are refused");
	for (unsigned i = 0; i < nq; i++)
		vd_queue(d, i);
	vd_ok(d);
	rig_run(r);
}

static inline void vd_kick(struct vdrv *d, unsigned i)
{
	bus_write(&d->r->mmio, d->notify + (uint64_t)d->notify_step * i, 2, i);
}

/* Interrupts of queue i so far. */
static inline unsigned vd_irqs(struct vdrv *d, unsigned i)
{
	return d->r->msi[RIG_MSI_DATA + i];
}

/* A virtio device on the bus in the first free slot, addresses assigned, VM running. */
static inline unsigned rig_plug(struct rig *r, struct virtio_dev *v)
{
	struct err e = { 0 };
	struct virtio_pci *p;
	const struct virtio_pci_opts o = {
		.board = &r->board, .host = r->host, .slot = -1, .v = v
	};

	if (virtio_pci_new(&p, &o, &e) < 0 || pci_host_assign(r->host, &e) < 0)
		rig_die("plug", e.msg);
	/* The test's thread is vCPU and loop at once: waiting would only delay. */
	v->reset_wait_ms = 0;
	board_start(&r->board);
	return virtio_pci_func(p)->slot;
}
