/*
 * PCI: functions, their configuration space, BARs, interrupts, and the host bridge above them.
 *
 * One root bus (bus 0) of PCIe root complex integrated endpoints; no bridges.  A device embeds a
 * struct pci_func, fills it in (pci_func_init, pci_func_bar, pci_func_cap, msix_init) and puts it
 * on the bus (pci_host_add).  From then on the function is the guest's to configure.
 *
 * INTx pin p (0 = INTA) of slot s is GSI 16 + (s + p) % 8: pci_gsi().  ACPI's _PRT says the same.
 *
 * Threads and locks, in order:
 *	host->lock	all configuration accesses; where BARs are mapped (pci_bar.mapped)
 *	dev->lock	the device; cfg[] changes under both
 *	func->irq_lock	intx, the MSI-X table; taken by vCPUs and by the device's loop; a leaf
 * Specifications: PCI Local Bus 3.0, PCI Express Base 3.0.
 */
#pragma once

#include "dev/dev.h"

enum {
	PCI_SLOTS = 32,
	PCI_BARS = 6,
	PCI_CFG_SIZE = 256,
	/* At most this many MSI-X vectors in a function. */
	MSIX_VECTORS = 64,
};

/* Offsets in the type 0 header (PCI 3.0, 6.1). */
enum {
	PCI_VENDOR = 0x00,
	PCI_DEVICE = 0x02,
	PCI_COMMAND = 0x04,
	PCI_STATUS = 0x06,
	PCI_REVISION = 0x08,
	PCI_CLASS = 0x09,
	PCI_HEADER_TYPE = 0x0e,
	PCI_BAR0 = 0x10,
	PCI_SUBVENDOR = 0x2c,
	PCI_SUBDEVICE = 0x2e,
	PCI_CAP_PTR = 0x34,
	PCI_INT_LINE = 0x3c,
	PCI_INT_PIN = 0x3d,
	PCI_CAPS_START = 0x40,
};

enum {
	PCI_CMD_IO = 1 << 0,
	PCI_CMD_MEM = 1 << 1,
	PCI_CMD_MASTER = 1 << 2,
	PCI_CMD_INTX_OFF = 1 << 10,
};

enum {
	PCI_STATUS_INTX = 1 << 3,
	PCI_STATUS_CAPS = 1 << 4,
};

enum {
	PCI_CAP_VENDOR = 0x09,
	PCI_CAP_EXPRESS = 0x10,
	PCI_CAP_MSIX = 0x11,
};

enum pci_bar_kind {
	PCI_BAR_NONE,
	PCI_BAR_IO,
	PCI_BAR_MEM32,
	/* Takes two BAR registers; prefetchable. */
	PCI_BAR_MEM64,
};

struct pci_func;
struct pci_host;
struct msix;

struct pci_bar {
	/* ops, name and lock set by the owner; base and len are where the guest put it. */
	struct bus_range range;
	enum pci_bar_kind kind;
	/* A power of two; at least 4096 for memory, 4 for I/O. */
	uint64_t size;
	struct pci_func *func;
	/* On its bus.  Guarded by host->lock. */
	bool mapped;
};

struct pci_func_ops {
	/* All optional; host->lock is held, and for the first two dev->lock. */
	/* Before [off, off+n) is read: bring cfg[] up to date. */
	void (*cfg_read)(struct pci_func *f, unsigned off, unsigned n);
	/* After [off, off+n) was written. */
	void (*cfg_written)(struct pci_func *f, unsigned off, unsigned n);
	/* BAR i is about to leave the bus (on: was just put on it at range.base). */
	void (*bar_mapped)(struct pci_func *f, unsigned i, bool on);
};

struct pci_ids {
	uint16_t vendor, device, subvendor, subdevice;
	/* Base class, subclass, interface: 0x010000 is SCSI storage. */
	uint32_t class_code;
	uint8_t revision;
};

struct pci_func {
	struct pci_host *host;
	struct dev *dev;
	const struct pci_func_ops *ops;
	uint8_t slot;
	uint8_t cfg[PCI_CFG_SIZE];
	/* Values after reset; bits the guest may write. */
	uint8_t cfg0[PCI_CFG_SIZE], wmask[PCI_CFG_SIZE];
	/* Next capability goes here; where the last one's link byte is. */
	uint8_t cap_next, cap_link;
	struct pci_bar bar[PCI_BARS];
	/* NULL: none. */
	struct msix *msix;
	/* Guards intx, line and *msix; the command register changes under it too. */
	struct lock irq_lock;
	/* The device wants its INTx pin asserted. */
	uint8_t intx;
	struct irq_line line;
};

/* Life of a function; all of it while the VM is paused. */

/* dev is the device it belongs to (its lock is held around config accesses). */
void pci_func_init(struct pci_func *f, struct dev *dev, const struct pci_func_ops *ops,
		   const struct pci_ids *ids);
void pci_func_fini(struct pci_func *f);
/* BAR i is answered by ops under dev->lock; for MEM64 i+1 must be free. */
void pci_func_bar(struct pci_func *f, unsigned i, enum pci_bar_kind kind, uint64_t size,
		  const struct bus_ops *ops, const char *name);
/* A capability of len bytes (id and link included), read-only; returns its offset. */
unsigned pci_func_cap(struct pci_func *f, uint8_t id, unsigned len);
/* Initial bytes of config space and which of their bits the guest may change. */
void pci_func_set(struct pci_func *f, unsigned off, unsigned size, uint64_t v, uint64_t writable);
/* PCI Express capability of a root complex integrated endpoint. */
void pci_func_express(struct pci_func *f);
/* Interrupt pin INTA. */
void pci_func_pin(struct pci_func *f);

/* Registers to power-on values, BARs off the bus. */
void pci_func_reset(struct pci_func *f);

/* Saved state: nested in the device's table; check from its check, post_load from its post_load. */
extern const struct state_desc pci_func_state;
NODISCARD int pci_func_check(const struct pci_func *f, struct err *e);
void pci_func_post_load(struct pci_func *f);

/* May the function read and write memory (bus master enable)?  dev->lock is held. */
bool pci_func_master(const struct pci_func *f);
/* The device asserts or releases its interrupt pin; any thread. */
void pci_intx_set(struct pci_func *f, bool level);
/* f->irq_lock is held. */
void pci_intx_set_locked(struct pci_func *f, bool level);

/* MSI-X (PCI 3.0, 6.8.2): the table and the pending bits, in a memory BAR of their own. */

struct msix_entry {
	uint64_t addr;
	uint32_t data;
	/* Bit 0: masked. */
	uint32_t ctrl;
};

struct msix {
	struct pci_func *f;
	unsigned n;
	/* Offset of the capability. */
	uint8_t cap;
	uint8_t bar;
	/* Guarded by f->irq_lock. */
	struct msix_entry entry[MSIX_VECTORS];
	uint64_t pending;
};

/* n vectors behind BAR i (32-bit, 4096 bytes, MSI-X alone). */
void msix_init(struct msix *m, struct pci_func *f, unsigned bar, unsigned n);
void msix_reset(struct msix *m);
/* The guest uses MSI-X instead of the pin; f->irq_lock is held. */
bool msix_enabled_locked(const struct msix *m);
/* Send vector v, or remember it while masked or while the function may not master the bus; any
 * thread.  Out of range: nothing. */
void msix_notify(struct msix *m, unsigned v);
extern const struct state_desc msix_state;

/* The host bridge. */

struct pci_window {
	uint64_t base, len;
};

struct pci_host_opts {
	struct board *board;
	/* Memory-mapped config space, 1 MiB a bus; ecam_buses 0: ports only. */
	uint64_t ecam_base;
	unsigned ecam_buses;
	/* Where pci_host_assign() puts BARs; len 0: none of that kind. */
	struct pci_window io, mmio32, mmio64;
};

/*
 * Claims ports 0xcf8-0xcff and the ECAM window.  Port 0xcf9, the reset control register, lies
 * inside and is part of it (0x06, 0x0e: BOARD_RESET).
 */
NODISCARD int pci_host_new(struct pci_host **ret, const struct pci_host_opts *o, struct err *e);
struct dev *pci_host_dev(struct pci_host *h);
/* slot -1: the first free.  -EBUSY, -ENOSPC. */
NODISCARD int pci_host_add(struct pci_host *h, struct pci_func *f, int slot, struct err *e);
void pci_host_del(struct pci_host *h, struct pci_func *f);
/* What firmware does before an operating system: gives every BAR an address in the windows, turns
 * decoding on, writes interrupt lines.  For direct boot, after reset, VM paused. */
NODISCARD int pci_host_assign(struct pci_host *h, struct err *e);

static inline unsigned pci_gsi(unsigned slot, unsigned pin)
{
	return 16 + (slot + pin) % 8;
}
