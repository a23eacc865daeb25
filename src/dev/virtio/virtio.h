/*
 * virtio devices (virtio 1.2): what every device has (features, status, queues, config space), the
 * contract of a device type, and the constructors.
 *
 * Only modern (VERSION_1) devices.  A device belongs to one loop (`loop`): its queues are processed
 * there, kicks arrive there through an eventfd for each queue, and its backend lives there.
 * Registers are accessed on vCPU threads with dev.lock held.  What is whose:
 *
 *	dev.lock	status, features, the queues' registers, paused, no_dma, quiet
 *	loop's thread	live, busy, the queues' positions, everything of the type
 *	type's lock	config fields that the loop changes (each type says)
 *
 * DRIVER_OK, needs-reset, bus mastering, pause and resume all end in one function on the loop,
 * virtio_sync(), that compares what is wanted with what is and calls the type's start or stop.  A
 * reset while requests are in flight ends when the last one does; until then status does not read 0
 * (virtio 1.2, 4.1.4.3.1).  No thread ever waits for a loop with dev.lock held.
 *
 * A guest that breaks the rules (bad ring, bad descriptor) gets DEVICE_NEEDS_RESET and a
 * configuration interrupt; its device stands still until it is reset.
 */
#pragma once

#include "base/log.h"
#include "dev/dev.h"

#include <sys/uio.h>

enum {
	/* Queues a device can have; bits of virtio_dev.irq. */
	VIRTIO_QUEUES = 32,
	VIRTIO_NO_VECTOR = 0xffff,
	/* Largest ring of any device, and so the longest chain. */
	VIRTIO_RING_MAX = 1024,
};

/* Status bits (2.1). */
enum {
	VIRTIO_ACKNOWLEDGE = 1,
	VIRTIO_DRIVER = 2,
	VIRTIO_DRIVER_OK = 4,
	VIRTIO_FEATURES_OK = 8,
	VIRTIO_NEEDS_RESET = 64,
	VIRTIO_FAILED = 128,
};

/* Device-independent features (6). */
#define VIRTIO_F_INDIRECT (1ull << 28)
#define VIRTIO_F_EVENT_IDX (1ull << 29)
#define VIRTIO_F_VERSION_1 (1ull << 32)

/* Device ids (5). */
enum {
	VIRTIO_ID_NET = 1,
	VIRTIO_ID_BLK = 2,
	VIRTIO_ID_CONSOLE = 3,
	VIRTIO_ID_RNG = 4,
};

struct virtio_dev;
struct virtio_type;

/* One split virtqueue (2.7): the guest's registers, our position, and the mapped ring. */
struct virtq {
	/* Registers; saved. */
	uint64_t desc_gpa, avail_gpa, used_gpa;
	uint16_t size;
	uint8_t enabled;
	/* Position: next avail entry to take, next used entry to fill; saved. */
	uint16_t avail_at, used_at;
	/* used_at when the driver was last interrupted, valid once there was one; saved. */
	uint16_t signalled;
	uint8_t signalled_valid;

	/* Largest size that the device offers. */
	uint16_t max;
	uint16_t index;
	struct virtio_dev *v;
	const struct gmem *gmem;
	/* The ring in our address space; NULL while the queue does not run. */
	uint8_t *desc, *avail, *used;
	bool event_idx, indirect;
	/* Popped and not filled. */
	uint16_t taken;
	/* Something was pushed since virtq_interrupt(). */
	bool unsent;
	/* Why it is broken; NULL: it is not. */
	const char *bad;
	int kick_fd;
	struct loop_fd kick;
};

/* What carries interrupts to the guest; set by the transport.  Any thread, no lock held or needed.
 */
struct virtio_transport {
	void (*queue_irq)(struct virtio_transport *t, unsigned queue);
	void (*config_irq)(struct virtio_transport *t);
	/* The device was reset by the guest: interrupt state back to power-on; dev.lock is held. */
	void (*reset)(struct virtio_transport *t);
};

/* A device type.  All functions on the loop's thread unless it says otherwise. */
struct virtio_type {
	/* "virtio-blk" */
	const char *name;
	uint16_t id;
	uint32_t pci_class;
	size_t config_len;
	/* Offered, without the device-independent ones.  Any thread. */
	uint64_t (*features)(struct virtio_dev *v);
	/* Would these work together?  vCPU thread, dev.lock held.  [NULL: any] */
	bool (*features_ok)(struct virtio_dev *v, uint64_t f);
	/* [off, off+n) of config space, inside config_len.  vCPU thread, dev.lock held.  [NULL:
	 * zeroes] */
	void (*config_get)(struct virtio_dev *v, size_t off, void *p, size_t n);
	/* [NULL: writes are ignored] */
	void (*config_set)(struct virtio_dev *v, size_t off, const void *p, size_t n);
	/* The driver is ready (v->features is what it took), or the VM goes on.  [NULL] */
	void (*start)(struct virtio_dev *v);
	/* No new work; what is in flight may still end.  [NULL] */
	void (*stop)(struct virtio_dev *v);
	/* The driver rang, or the device started. */
	void (*kick)(struct virtio_dev *v, struct virtq *q);
	/* To power-on values; nothing is in flight.  Any thread, dev.lock held.  [NULL] */
	void (*reset)(struct virtio_dev *v);
	/* After a load, VM stopped.  [NULL] */
	int (*post_load)(struct virtio_dev *v, struct err *e);
	/* The type's part.  Main thread, device stopped. */
	void (*free)(struct virtio_dev *v);
};

struct virtio_dev {
	struct dev dev;
	const struct virtio_type *type;
	struct board *board;
	struct loop *loop;
	/* NULL until a transport takes it. */
	struct virtio_transport *transport;
	unsigned nq;
	/* Saved. */
	uint64_t driver_features;
	uint8_t status;
	/* Counts changes of config space; atomic. */
	uint8_t generation;
	struct virtq vq[VIRTIO_QUEUES];

	/* driver_features, fixed at DRIVER_OK. */
	uint64_t features;
	/* Guarded by dev.lock: the VM is paused; a reset waits; nothing runs or is in flight; it
	 * may not touch memory (also read by the loop; atomic). */
	bool paused, resetting, quiet, no_dma;
	/* Guarded by dev.lock: no_dma was set since virtio_sync() looked. */
	bool dma_cut;
	struct cond quiet_cond;
	/* How long a vCPU waits for a reset to end before it lets the guest poll; 0 in tests. */
	unsigned reset_wait_ms;
	/* Loop's thread: between start and stop; requests in flight. */
	bool live;
	unsigned busy;
	struct loop_post sync;
	/* Queues with pushed chains and no interrupt yet, one bit each. */
	uint32_t irq;
	struct loop_post irq_post;
	struct log_limit limit;
};

static inline bool virtio_has(const struct virtio_dev *v, uint64_t feature)
{
	return v->features & feature;
}

/* Constructors.  The machine frees each with dev_free(&v->dev), after its transport. */

enum virtio_blk_on_error {
	/* ENOSPC pauses the VM, other errors go to the guest. */
	VIRTIO_BLK_ENOSPC,
	/* The guest sees it. */
	VIRTIO_BLK_REPORT,
	/* Every error pauses the VM; the request is tried again when it goes on. */
	VIRTIO_BLK_STOP,
};

struct blk;
struct virtio_blk_opts {
	/* "disk0"; for messages and state. */
	const char *name;
	/* Borrowed: closed by its opener after the device is gone.  Its loop is the device's. */
	struct blk *blk;
	/* At most 20 characters; NULL: none. */
	const char *serial;
	/* 0: 1; at most VIRTIO_QUEUES.  Usually one for each vCPU. */
	unsigned queues;
	/* Power of two, 4 to VIRTIO_RING_MAX; 0: 256. */
	unsigned queue_size;
	enum virtio_blk_on_error on_read_error, on_write_error;
};
NODISCARD int virtio_blk_new(struct virtio_dev **ret, struct board *b,
			     const struct virtio_blk_opts *o, struct err *e);

struct net;
struct net_client;
struct virtio_net_opts {
	const char *name;
	struct loop *loop;
	uint8_t mac[6];
	/* 0: none advertised. */
	uint16_t mtu;
	/* 0: 256. */
	unsigned queue_size;
};
/* Two steps, as the backend wants its client when it is opened: new, net_open() with
 * virtio_net_client(), then attach, before the VM starts. */
NODISCARD int virtio_net_new(struct virtio_dev **ret, struct board *b,
			     const struct virtio_net_opts *o, struct err *e);
struct net_client *virtio_net_client(struct virtio_dev *v);
/* Borrowed: closed by its opener after the device is gone. */
void virtio_net_attach(struct virtio_dev *v, struct net *n);
/* Ask the guest to tell its neighbours where it is (after migration); any thread. */
void virtio_net_announce(struct virtio_dev *v);
/* Carrier, as the management side wants it; any thread. */
void virtio_net_set_link(struct virtio_dev *v, bool up);

enum {
	VIRTIO_CONSOLE_PORTS = 8,
};

struct chr;
struct chr_client;
struct virtio_console_opts {
	const char *name;
	struct loop *loop;
	/* Port 0 is a console.  More than one port: MULTIPORT.  0: 1. */
	unsigned ports;
	/* Names of ports ("org.qemu.guest_agent.0"); NULL: it has none. */
	const char *port_name[VIRTIO_CONSOLE_PORTS];
};
NODISCARD int virtio_console_new(struct virtio_dev **ret, struct board *b,
				 const struct virtio_console_opts *o, struct err *e);
struct chr_client *virtio_console_client(struct virtio_dev *v, unsigned port);
/* Borrowed, of the device's loop; before the VM starts. */
void virtio_console_attach(struct virtio_dev *v, unsigned port, struct chr *c);
/* Size of the terminal behind port 0, in characters; any thread. */
void virtio_console_resize(struct virtio_dev *v, uint16_t cols, uint16_t rows);

struct virtio_rng_opts {
	const char *name;
	struct loop *loop;
};
NODISCARD int virtio_rng_new(struct virtio_dev **ret, struct board *b,
			     const struct virtio_rng_opts *o, struct err *e);

/* The PCI transport (4.1): a function on the host's bus that carries v. */
struct pci_host;
struct virtio_pci;
struct virtio_pci_opts {
	struct board *board;
	struct pci_host *host;
	/* -1: the first free. */
	int slot;
	/* Borrowed; must outlive the transport. */
	struct virtio_dev *v;
};
NODISCARD int virtio_pci_new(struct virtio_pci **ret, const struct virtio_pci_opts *o,
			     struct err *e);
struct dev *virtio_pci_dev(struct virtio_pci *p);
struct pci_func;
struct pci_func *virtio_pci_func(struct virtio_pci *p);
