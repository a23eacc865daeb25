/*
 * A PCI function: type 0 configuration space with a write mask for each bit, BARs that follow what
 * the guest writes, capabilities, and the interrupt pin.
 *
 * Configuration space is bytes: cfg[] is what the guest reads, cfg0[] what reset restores, wmask[]
 * which bits a write changes.  After a write, what hangs on the registers is brought up to date:
 * BARs move (a BAR's size is its read-only low bits, so sizing needs no code), the pin is blocked
 * or not, MSI-X looks at its control word.
 *
 * A BAR that overlaps another device's range is not decoded; it is tried again at each later change
 * on the bus, because a guest that moves two BARs may do it in either order.
 */
#include "dev/pci/pci_int.h"

#include "base/bug.h"
#include "base/bytes.h"
#include "base/num.h"

#include <errno.h>
#include <string.h>

void pci_func_init(struct pci_func *f, struct dev *dev, const struct pci_func_ops *ops,
		   const struct pci_ids *ids)
{
	f->dev = dev;
	f->ops = ops;
	lock_init(&f->irq_lock);
	f->cap_next = PCI_CAPS_START;
	f->cap_link = PCI_CAP_PTR;
	pci_func_set(f, PCI_VENDOR, 2, ids->vendor, 0);
	pci_func_set(f, PCI_DEVICE, 2, ids->device, 0);
	pci_func_set(f, PCI_COMMAND, 2, 0, PCI_CMD_MASTER | PCI_CMD_INTX_OFF);
	pci_func_set(f, PCI_REVISION, 1, ids->revision, 0);
	pci_func_set(f, PCI_CLASS, 1, ids->class_code & 0xff, 0);
	pci_func_set(f, PCI_CLASS + 1, 2, ids->class_code >> 8, 0);
	pci_func_set(f, PCI_SUBVENDOR, 2, ids->subvendor, 0);
	pci_func_set(f, PCI_SUBDEVICE, 2, ids->subdevice, 0);
	/* Cache line size and interrupt line are scratch registers for software. */
	pci_func_set(f, 0x0c, 1, 0, 0xff);
	pci_func_set(f, PCI_INT_LINE, 1, 0, 0xff);
}

void pci_func_fini(struct pci_func *f)
{
	if (f->host)
		pci_host_del(f->host, f);
	lock_fini(&f->irq_lock);
}

void pci_func_set(struct pci_func *f, unsigned off, unsigned size, uint64_t v, uint64_t writable)
{
	BUG_ON(!range_in(off, size, PCI_CFG_SIZE) || size > 8);
	st_le(f->cfg + off, size, v);
	st_le(f->cfg0 + off, size, v);
	st_le(f->wmask + off, size, writable);
}

unsigned pci_func_cap(struct pci_func *f, uint8_t id, unsigned len)
{
	unsigned at = f->cap_next;

	BUG_ON(!range_in(at, len, PCI_CFG_SIZE) || len < 2);
	pci_func_set(f, f->cap_link, 1, at, 0);
	pci_func_set(f, at, 1, id, 0);
	pci_func_set(f, at + 1, 1, 0, 0);
	pci_func_set(f, PCI_STATUS, 2, PCI_STATUS_CAPS, 0);
	f->cap_link = (uint8_t)(at + 1);
	f->cap_next = (uint8_t)align_up(at + len, 4);
	return at;
}

/* PCI Express 3.0, 7.8: version 2, type 9 (endpoint of the root complex), no link. */
void pci_func_express(struct pci_func *f)
{
	unsigned at = pci_func_cap(f, PCI_CAP_EXPRESS, 0x3c);

	pci_func_set(f, at + 2, 2, 2 | 9 << 4, 0);
	/* Device capabilities: role-based error reporting; extended tags. */
	pci_func_set(f, at + 4, 4, 1 << 15 | 1 << 5, 0);
	/* Device control: all scratch but function-level reset, which we do not have. */
	pci_func_set(f, at + 8, 2, 0x2810, 0x7fff);
}

void pci_func_pin(struct pci_func *f)
{
	pci_func_set(f, PCI_INT_PIN, 1, 1, 0);
}

/* BARs. */

void pci_func_bar(struct pci_func *f, unsigned i, enum pci_bar_kind kind, uint64_t size,
		  const struct bus_ops *ops, const char *name)
{
	struct pci_bar *b = &f->bar[i];
	unsigned at = PCI_BAR0 + 4 * i;

	BUG_ON(i >= PCI_BARS || b->kind || !is_pow2(size) ||
	       size < (kind == PCI_BAR_IO ? 4 : 4096) || size > GIB(64));
	*b = (struct pci_bar){ .kind = kind, .size = size, .func = f };
	b->range.ops = ops;
	b->range.name = name;
	b->range.lock = &f->dev->lock;
	uint64_t cmd = ld_le16(f->wmask + PCI_COMMAND);
	if (kind == PCI_BAR_IO) {
		pci_func_set(f, at, 4, 1, 0xffffffff & ~(size - 1));
		cmd |= PCI_CMD_IO;
	} else if (kind == PCI_BAR_MEM32) {
		pci_func_set(f, at, 4, 0, 0xffffffff & ~(size - 1));
		cmd |= PCI_CMD_MEM;
	} else {
		BUG_ON(i + 1 >= PCI_BARS || f->bar[i + 1].kind);
		/* 64-bit, prefetchable. */
		pci_func_set(f, at, 8, 4 | 8, ~(size - 1));
		cmd |= PCI_CMD_MEM;
	}
	pci_func_set(f, PCI_COMMAND, 2, 0, cmd);
}

/* Where the registers say BAR b is; false when it is not decoded. */
static bool bar_wanted(const struct pci_bar *b, uint64_t *ret_base)
{
	const struct pci_func *f = b->func;
	const uint8_t *reg = f->cfg + PCI_BAR0 + 4 * (b - f->bar);
	uint16_t cmd = ld_le16(f->cfg + PCI_COMMAND);
	uint64_t end;

	*ret_base = b->kind == PCI_BAR_MEM64 ? ld_le64(reg) : ld_le32(reg);
	*ret_base &= ~(b->size - 1);
	if (!(cmd & (b->kind == PCI_BAR_IO ? PCI_CMD_IO : PCI_CMD_MEM)))
		return false;
	/* Address 0 and one that is being sized (all ones) decode nothing. */
	if (!*ret_base || !add_ok(*ret_base, b->size, &end))
		return false;
	if (b->kind == PCI_BAR_IO)
		return end <= 0x10000;
	return b->kind == PCI_BAR_MEM64 || end < GIB(4);
}

static struct bus *bar_bus(const struct pci_bar *b)
{
	struct board *board = pci_host_board(b->func->host);

	return b->kind == PCI_BAR_IO ? board->pio : board->mmio;
}

static void bar_hook(struct pci_bar *b, bool on)
{
	struct pci_func *f = b->func;

	if (f->ops && f->ops->bar_mapped)
		f->ops->bar_mapped(f, (unsigned)(b - f->bar), on);
}

static void bar_unmap(struct pci_bar *b)
{
	if (!b->mapped)
		return;
	bar_hook(b, false);
	bus_del(bar_bus(b), &b->range);
	b->mapped = false;
}

/* True when something changed on the bus. */
static bool bar_update(struct pci_bar *b)
{
	uint64_t base;
	bool want = bar_wanted(b, &base);

	if (b->mapped && want && b->range.base == base)
		return false;
	bool was = b->mapped;
	bar_unmap(b);
	if (want && bus_add(bar_bus(b), &b->range, base, b->size) == 0) {
		b->mapped = true;
		bar_hook(b, true);
	}
	return was || b->mapped;
}

bool pci_func_remap(struct pci_func *f)
{
	bool changed = false;

	if (!f->host)
		return false;
	for (unsigned i = 0; i < PCI_BARS; i++)
		if (f->bar[i].kind)
			changed |= bar_update(&f->bar[i]);
	return changed;
}

void pci_func_unmap(struct pci_func *f)
{
	for (unsigned i = 0; i < PCI_BARS; i++)
		if (f->bar[i].kind)
			bar_unmap(&f->bar[i]);
}

bool pci_func_master(const struct pci_func *f)
{
	return ld_le16(f->cfg + PCI_COMMAND) & PCI_CMD_MASTER;
}

/* The interrupt pin. */

static void pci_intx_update_locked(struct pci_func *f)
{
	bool off = ld_le16(f->cfg + PCI_COMMAND) & PCI_CMD_INTX_OFF;

	if (f->msix && msix_enabled_locked(f->msix))
		off = true;
	if (f->line.irqs)
		irq_line_set(&f->line, f->intx && !off);
}

void pci_intx_set_locked(struct pci_func *f, bool level)
{
	__atomic_store_n(&f->intx, level, __ATOMIC_RELAXED);
	pci_intx_update_locked(f);
}

void pci_intx_set(struct pci_func *f, bool level)
{
	SCOPED_LOCK(&f->irq_lock);
	pci_intx_set_locked(f, level);
}

/* Configuration accesses; host->lock and dev->lock held. */

uint32_t pci_func_read(struct pci_func *f, unsigned off, unsigned n)
{
	/* The rest of extended space: no extended capability is there. */
	if (!range_in(off, n, PCI_CFG_SIZE))
		return 0;
	if (f->ops && f->ops->cfg_read)
		f->ops->cfg_read(f, off, n);
	uint8_t copy[4];
	memcpy(copy, f->cfg + off, n);
	for (unsigned i = 0; i < n; i++)
		if (off + i == PCI_STATUS && __atomic_load_n(&f->intx, __ATOMIC_RELAXED))
			copy[i] |= PCI_STATUS_INTX;
	return (uint32_t)ld_le(copy, n);
}

void pci_func_write(struct pci_func *f, unsigned off, unsigned n, uint32_t v)
{
	if (!range_in(off, n, PCI_CFG_SIZE))
		return;
	lock(&f->irq_lock);
	for (unsigned i = 0; i < n; i++, v >>= 8) {
		uint8_t mask = f->wmask[off + i];

		f->cfg[off + i] = (uint8_t)((f->cfg[off + i] & ~mask) | (v & mask));
	}
	pci_intx_update_locked(f);
	unlock(&f->irq_lock);
	if (f->msix &&
	    (range_overlap(off, n, f->msix->cap, 4) || range_overlap(off, n, PCI_COMMAND, 2)))
		pci_msix_flush(f->msix);
	if (f->ops && f->ops->cfg_written)
		f->ops->cfg_written(f, off, n);
}

void pci_func_reset(struct pci_func *f)
{
	if (f->host)
		pci_host_unmap(f->host, f);
	if (f->msix)
		msix_reset(f->msix);
	SCOPED_LOCK(&f->irq_lock);
	memcpy(f->cfg, f->cfg0, sizeof(f->cfg));
	f->intx = 0;
	pci_intx_update_locked(f);
}

/* Saved state. */

static const struct state_field pci_func_fields[] = {
	STATE_ARRAY(struct pci_func, cfg, 1),
	STATE_FIELD(struct pci_func, intx, 1),
};

const struct state_desc pci_func_state = {
	.name = "pci-func",
	.version = 1,
	.oldest = 1,
	.field = pci_func_fields,
	.nfield = COUNT_OF(pci_func_fields),
};

int pci_func_check(const struct pci_func *f, struct err *e)
{
	if (f->intx > 1)
		return err_set(e, EPROTO, "interrupt pin at %u", f->intx);
	for (unsigned i = 0; i < PCI_CFG_SIZE; i++)
		if ((f->cfg[i] ^ f->cfg0[i]) & ~f->wmask[i])
			return err_set(e, EPROTO,
				       "configuration byte %#x is %#x: another kind of device", i,
				       f->cfg[i]);
	return 0;
}

void pci_func_post_load(struct pci_func *f)
{
	if (f->host)
		pci_host_remap(f->host);
	SCOPED_LOCK(&f->irq_lock);
	pci_intx_update_locked(f);
}
