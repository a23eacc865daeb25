/*
 * The PCI host bridge: the root bus, and the two ways to configuration space.
 *
 * Ports 0xcf8 and 0xcfc (PCI 3.0, 3.2.2.3.2) reach 256 bytes of each function; the ECAM window (PCI
 * Express 3.0, 7.2.2) reaches 4096.  Only 32-bit accesses touch the address register; a byte
 * written to port 0xcf9, in its middle, is the reset control register that chipsets have there.
 */
#include "dev/pci/pci_int.h"

#include "base/alloc.h"
#include "base/bug.h"
#include "base/bytes.h"
#include "base/num.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	PORT_BASE = 0xcf8,
	PORT_LEN = 8,
	PORT_RESET = 1,
	PORT_DATA = 4,
	ADDRESS_ENABLE = 1u << 31,
	/* Bit 2 going to 1 resets the CPUs; bit 1: and the rest of the board. */
	RESET_CPU = 4,
};

struct pci_host {
	struct dev dev;
	struct board *board;
	struct pci_host_opts o;
	/* All configuration accesses, slot[] and where BARs are. */
	struct lock lock;
	struct bus_range ports, ecam;
	uint32_t address;
	uint8_t reset_control;
	struct pci_func *slot[PCI_SLOTS];
	/* 00:00.0, the bridge itself. */
	struct pci_func self;
};

struct board *pci_host_board(struct pci_host *h)
{
	return h->board;
}

struct dev *pci_host_dev(struct pci_host *h)
{
	return &h->dev;
}

/* Configuration accesses. */

static struct pci_func *host_func(struct pci_host *h, unsigned bus, unsigned devfn)
{
	return bus == 0 && devfn % 8 == 0 ? h->slot[devfn / 8 % PCI_SLOTS] : NULL;
}

/* BARs follow their registers; twice, as one that moved away may have been in another's way. */
static void host_remap_locked(struct pci_host *h)
{
	bool changed = true;

	for (unsigned round = 0; changed && round < 2; round++) {
		changed = false;
		for (unsigned s = 0; s < PCI_SLOTS; s++)
			if (h->slot[s])
				changed |= pci_func_remap(h->slot[s]);
	}
}

static uint32_t host_cfg_read(struct pci_host *h, unsigned bus, unsigned devfn, unsigned off,
			      unsigned n)
{
	SCOPED_LOCK(&h->lock);
	struct pci_func *f = host_func(h, bus, devfn);

	if (!f)
		return 0xffffffff;
	lock(&f->dev->lock);
	uint32_t v = pci_func_read(f, off, n);
	unlock(&f->dev->lock);
	return v;
}

static void host_cfg_write(struct pci_host *h, unsigned bus, unsigned devfn, unsigned off,
			   unsigned n, uint32_t v)
{
	SCOPED_LOCK(&h->lock);
	struct pci_func *f = host_func(h, bus, devfn);

	if (!f)
		return;
	lock(&f->dev->lock);
	pci_func_write(f, off, n, v);
	unlock(&f->dev->lock);
	if (range_overlap(off, n, PCI_COMMAND, 2) || range_overlap(off, n, PCI_BAR0, 4 * PCI_BARS))
		host_remap_locked(h);
}

/* An access of any alignment in parts that configuration space knows. */
static uint64_t host_read(struct pci_host *h, unsigned bus, unsigned devfn, unsigned off,
			  unsigned size)
{
	if (off % size == 0)
		return host_cfg_read(h, bus, devfn, off, size);
	uint64_t v = 0;
	for (unsigned i = 0; i < size; i++)
		v |= (uint64_t)(host_cfg_read(h, bus, devfn, off + i, 1) & 0xff) << (8 * i);
	return v;
}

static void host_write(struct pci_host *h, unsigned bus, unsigned devfn, unsigned off,
		       unsigned size, uint64_t v)
{
	if (off % size == 0) {
		host_cfg_write(h, bus, devfn, off, size, (uint32_t)v);
		return;
	}
	for (unsigned i = 0; i < size; i++)
		host_cfg_write(h, bus, devfn, off + i, 1, (uint32_t)(v >> (8 * i)) & 0xff);
}

static uint64_t ecam_read(struct bus_range *r, uint64_t off, unsigned size)
{
	struct pci_host *h = container_of(r, struct pci_host, ecam);

	return host_read(h, (unsigned)(off >> 20), (unsigned)(off >> 12) & 0xff, off & 0xfff, size);
}

static void ecam_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	struct pci_host *h = container_of(r, struct pci_host, ecam);

	host_write(h, (unsigned)(off >> 20), (unsigned)(off >> 12) & 0xff, off & 0xfff, size, v);
}

static const struct bus_ops ecam_ops = {
	.read = ecam_read,
	.write = ecam_write,
	.max_size = 4,
};

static uint32_t host_address(struct pci_host *h)
{
	return __atomic_load_n(&h->address, __ATOMIC_RELAXED);
}

static uint64_t ports_read(struct bus_range *r, uint64_t off, unsigned size)
{
	struct pci_host *h = container_of(r, struct pci_host, ports);
	uint32_t a = host_address(h);

	if (off == PORT_RESET && size == 1)
		return __atomic_load_n(&h->reset_control, __ATOMIC_RELAXED);
	if (off < PORT_DATA)
		return off == 0 && size == 4 ? a : ~0ull;
	if (!(a & ADDRESS_ENABLE))
		return ~0ull;
	return host_read(h, a >> 16 & 0xff, a >> 8 & 0xff, (a & 0xfc) + (off - PORT_DATA), size);
}

static void host_reset_control(struct pci_host *h, uint8_t v)
{
	uint8_t old = __atomic_exchange_n(&h->reset_control, v & 0xe, __ATOMIC_RELAXED);

	if (v & ~old & RESET_CPU)
		h->board->request(h->board, BOARD_RESET, 0);
}

static void ports_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	struct pci_host *h = container_of(r, struct pci_host, ports);
	uint32_t a = host_address(h);

	if (off == PORT_RESET && size == 1)
		host_reset_control(h, (uint8_t)v);
	else if (off == 0 && size == 4)
		/* Bits 30-24 and 1-0 are reserved and read 0. */
		__atomic_store_n(&h->address, (uint32_t)v & 0x80fffffc, __ATOMIC_RELAXED);
	else if (off >= PORT_DATA && (a & ADDRESS_ENABLE))
		host_write(h, a >> 16 & 0xff, a >> 8 & 0xff, (a & 0xfc) + (off - PORT_DATA), size,
			   v);
}

static const struct bus_ops ports_ops = {
	.read = ports_read,
	.write = ports_write,
	.max_size = 4,
};

/* Functions on the bus. */

static int host_find_slot(struct pci_host *h, int slot, struct err *e)
{
	if (slot >= PCI_SLOTS)
		return err_set(e, EINVAL, "PCI slot %d: there are %d", slot, PCI_SLOTS);
	if (slot >= 0)
		return h->slot[slot] ? err_set(e, EBUSY, "PCI slot %d is taken", slot) : slot;
	for (slot = 0; slot < PCI_SLOTS; slot++)
		if (!h->slot[slot])
			return slot;
	return err_set(e, ENOSPC, "all %d PCI slots are taken", PCI_SLOTS);
}

int pci_host_add(struct pci_host *h, struct pci_func *f, int slot, struct err *e)
{
	SCOPED_LOCK(&h->lock);
	slot = host_find_slot(h, slot, e);
	if (slot < 0)
		return slot;
	f->host = h;
	f->slot = (uint8_t)slot;
	if (f->cfg[PCI_INT_PIN])
		f->line = (struct irq_line){
			.irqs = h->board->irqs,
			.gsi = pci_gsi((unsigned)slot, f->cfg[PCI_INT_PIN] - 1u),
		};
	h->slot[slot] = f;
	return 0;
}

void pci_host_del(struct pci_host *h, struct pci_func *f)
{
	pci_intx_set(f, false);
	SCOPED_LOCK(&h->lock);
	pci_func_unmap(f);
	h->slot[f->slot] = NULL;
	f->host = NULL;
}

void pci_host_remap(struct pci_host *h)
{
	SCOPED_LOCK(&h->lock);
	host_remap_locked(h);
}

void pci_host_unmap(struct pci_host *h, struct pci_func *f)
{
	SCOPED_LOCK(&h->lock);
	pci_func_unmap(f);
}

/* What firmware does. */

/* Takes size bytes, aligned to their size, from a window whose first free byte is *at. */
static bool window_take(const struct pci_window *w, uint64_t *at, uint64_t size, uint64_t *ret)
{
	uint64_t base = align_up(MAX(*at, w->base), size);

	if (base < w->base || !range_in(base - w->base, size, w->len))
		return false;
	*at = base + size;
	*ret = base;
	return true;
}

struct assign {
	uint64_t io, mmio32, mmio64;
};

static int host_assign_bar(struct pci_host *h, struct pci_bar *b, struct assign *a, struct err *e)
{
	uint8_t *reg = b->func->cfg + PCI_BAR0 + 4 * (b - b->func->bar);
	uint64_t base = 0;
	/* Small ones below 4 GiB, where every system can reach them. */
	bool high = b->kind == PCI_BAR_MEM64 && b->size > MIB(1);
	bool ok;

	if (b->kind == PCI_BAR_IO)
		ok = window_take(&h->o.io, &a->io, b->size, &base);
	else
		ok = (high && window_take(&h->o.mmio64, &a->mmio64, b->size, &base)) ||
		     window_take(&h->o.mmio32, &a->mmio32, b->size, &base) ||
		     (b->kind == PCI_BAR_MEM64 &&
		      window_take(&h->o.mmio64, &a->mmio64, b->size, &base));
	if (!ok)
		return err_set(e, ENOSPC, "no address space for %#lx bytes of %s",
			       (unsigned long)b->size, b->func->dev->name);
	if (b->kind == PCI_BAR_MEM64)
		st_le64(reg, base | (ld_le64(reg) & 0xf));
	else
		st_le32(reg, (uint32_t)base | (ld_le32(reg) & 0xf));
	return 0;
}

static int host_assign_func(struct pci_host *h, struct pci_func *f, struct assign *a, struct err *e)
{
	for (unsigned i = 0; i < PCI_BARS; i++) {
		int rc = f->bar[i].kind ? host_assign_bar(h, &f->bar[i], a, e) : 0;

		if (rc < 0)
			return rc;
	}
	uint16_t decode = ld_le16(f->wmask + PCI_COMMAND) & (PCI_CMD_IO | PCI_CMD_MEM);
	st_le16(f->cfg + PCI_COMMAND, ld_le16(f->cfg + PCI_COMMAND) | decode);
	/* Interrupts above 15 exist for an I/O APIC only; the register is software's anyway. */
	if (f->cfg[PCI_INT_PIN])
		f->cfg[PCI_INT_LINE] = (uint8_t)f->line.gsi;
	return 0;
}

int pci_host_assign(struct pci_host *h, struct err *e)
{
	struct assign a = { 0 };

	SCOPED_LOCK(&h->lock);
	for (unsigned s = 0; s < PCI_SLOTS; s++) {
		struct pci_func *f = h->slot[s];

		if (!f)
			continue;
		lock(&f->dev->lock);
		int rc = host_assign_func(h, f, &a, e);
		unlock(&f->dev->lock);
		if (rc < 0)
			return rc;
		host_remap_locked(h);
	}
	return 0;
}

/* The bridge itself. */

static void host_free(struct dev *d)
{
	struct pci_host *h = container_of(d, struct pci_host, dev);

	bus_del(h->board->pio, &h->ports);
	bus_del(h->board->mmio, &h->ecam);
	pci_func_fini(&h->self);
	lock_fini(&h->lock);
	free(h);
}

static void host_reset(struct dev *d)
{
	struct pci_host *h = container_of(d, struct pci_host, dev);

	h->address = 0;
	h->reset_control = 0;
	pci_func_reset(&h->self);
}

static void *host_state_obj(struct dev *d)
{
	return container_of(d, struct pci_host, dev);
}

static int host_check(const void *obj, struct err *e)
{
	const struct pci_host *h = obj;

	return pci_func_check(&h->self, e);
}

static int host_post_load(struct dev *d, struct err *e UNUSED)
{
	struct pci_host *h = container_of(d, struct pci_host, dev);

	h->address &= 0x80fffffc;
	pci_func_post_load(&h->self);
	return 0;
}

static const struct state_field host_fields[] = {
	STATE_FIELD(struct pci_host, address, 1),
	STATE_FIELD(struct pci_host, reset_control, 1),
	STATE_STRUCT_FIELD(struct pci_host, self, &pci_func_state, 1),
};

static const struct state_desc host_state = {
	.name = "pci-host",
	.version = 1,
	.oldest = 1,
	.field = host_fields,
	.nfield = COUNT_OF(host_fields),
	.check = host_check,
};

static const struct dev_ops host_ops = {
	.type = "pci-host",
	.free = host_free,
	.reset = host_reset,
	.state = &host_state,
	.state_obj = host_state_obj,
	.state_size = sizeof(struct pci_host),
	.post_load = host_post_load,
};

static const struct pci_ids host_ids = {
	/* The generic PCIe host bridge of the Red Hat id space; guests have no quirks for it. */
	.vendor = 0x1b36,    .device = 0x0008,       .subvendor = 0x1af4,
	.subdevice = 0x1100, .class_code = 0x060000,
};

int pci_host_new(struct pci_host **ret, const struct pci_host_opts *o, struct err *e)
{
	struct pci_host *h = NEW(struct pci_host);

	if (!h)
		return err_set(e, ENOMEM, "no memory for a PCI host bridge");
	h->board = o->board;
	h->o = *o;
	lock_init(&h->lock);
	dev_init(&h->dev, &host_ops, o->board, "pci");
	pci_func_init(&h->self, &h->dev, NULL, &host_ids);
	h->ports.ops = &ports_ops;
	h->ports.name = "pci-ports";
	h->ecam.ops = &ecam_ops;
	h->ecam.name = "pci-ecam";
	int rc = pci_host_add(h, &h->self, 0, e);
	if (rc == 0 && bus_add(o->board->pio, &h->ports, PORT_BASE, PORT_LEN) < 0)
		rc = err_set(e, EEXIST, "ports 0xcf8-0xcff belong to another device");
	if (rc == 0 && o->ecam_buses &&
	    bus_add(o->board->mmio, &h->ecam, o->ecam_base, MIB(o->ecam_buses)) < 0)
		rc = err_set(e, EEXIST, "the window at %#lx belongs to another device",
			     (unsigned long)o->ecam_base);
	if (rc < 0) {
		dev_free(&h->dev);
		return rc;
	}
	*ret = h;
	return 0;
}
