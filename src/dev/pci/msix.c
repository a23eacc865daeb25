/*
 * MSI-X (PCI 3.0, 6.8.2): a table of messages, one for each vector, and a pending bit for each that
 * came while its vector, or the whole function, was masked, or the function was no bus master.
 *
 * Both lie in a BAR of 4096 bytes: the table at 0, the pending bits at 0x800.  A message is copied
 * under irq_lock and sent after it, so a chip's locks are never taken under ours; a guest that
 * masks a vector may see one more message that was on its way, as on a real bus.
 */
#include "dev/pci/pci_int.h"

#include "base/bits.h"
#include "base/bug.h"
#include "base/bytes.h"

#include <string.h>

enum {
	MSIX_BAR_SIZE = 4096,
	MSIX_PBA = 0x800,
	MSIX_ENTRY = 16,
	MSIX_CTRL_ENABLE = 1 << 15,
	MSIX_CTRL_MASK = 1 << 14,
	ENTRY_MASKED = 1,
};

static struct msix *msix_of(struct bus_range *r)
{
	return container_of(r, struct pci_bar, range)->func->msix;
}

static uint16_t msix_ctrl(const struct msix *m)
{
	return ld_le16(m->f->cfg + m->cap + 2);
}

bool msix_enabled_locked(const struct msix *m)
{
	return msix_ctrl(m) & MSIX_CTRL_ENABLE;
}

/* A message is a write to memory, so it needs bus mastering (PCI 3.0, 6.2.2). */
static bool msix_open_locked(const struct msix *m, unsigned v)
{
	return pci_func_master(m->f) &&
	       (msix_ctrl(m) & (MSIX_CTRL_ENABLE | MSIX_CTRL_MASK)) == MSIX_CTRL_ENABLE &&
	       !(m->entry[v].ctrl & ENTRY_MASKED);
}

static void msix_send(struct msix *m, const struct msix_entry *t)
{
	irq_msi(pci_host_board(m->f->host)->irqs, t->addr, t->data);
}

void msix_notify(struct msix *m, unsigned v)
{
	struct msix_entry t;

	if (v >= m->n || !m->f->host)
		return;
	lock(&m->f->irq_lock);
	bool go = msix_open_locked(m, v);
	if (!go && msix_enabled_locked(m))
		m->pending |= BIT64(v);
	t = m->entry[v];
	unlock(&m->f->irq_lock);
	if (go)
		msix_send(m, &t);
}

/* Sends what is pending and masked no more. */
void pci_msix_flush(struct msix *m)
{
	for (unsigned v = 0; v < m->n && m->f->host; v++) {
		struct msix_entry t;

		lock(&m->f->irq_lock);
		bool go = (m->pending & BIT64(v)) && msix_open_locked(m, v);
		if (go)
			m->pending &= ~BIT64(v);
		t = m->entry[v];
		unlock(&m->f->irq_lock);
		if (go)
			msix_send(m, &t);
	}
}

/* Table entries as the guest sees them. */
static void msix_entry_bytes(const struct msix_entry *t, uint8_t *p)
{
	st_le64(p, t->addr);
	st_le32(p + 8, t->data);
	st_le32(p + 12, t->ctrl);
}

static uint64_t msix_read(struct bus_range *r, uint64_t off, unsigned size)
{
	struct msix *m = msix_of(r);
	uint8_t b[MSIX_ENTRY] = { 0 };

	SCOPED_LOCK(&m->f->irq_lock);
	if (off < m->n * MSIX_ENTRY)
		msix_entry_bytes(&m->entry[off / MSIX_ENTRY], b);
	else if (off >= MSIX_PBA && off < MSIX_PBA + 8)
		st_le64(b, m->pending);
	if (off % MSIX_ENTRY + size > MSIX_ENTRY)
		return 0;
	return ld_le(b + off % MSIX_ENTRY, size);
}

static void msix_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	struct msix *m = msix_of(r);
	uint8_t b[MSIX_ENTRY];

	/* 6.8.2: software writes whole 4- or 8-byte words. */
	if (off >= m->n * MSIX_ENTRY || size < 4 || off % size)
		return;
	lock(&m->f->irq_lock);
	struct msix_entry *t = &m->entry[off / MSIX_ENTRY];
	msix_entry_bytes(t, b);
	st_le(b + off % MSIX_ENTRY, size, v);
	t->addr = ld_le64(b) & ~3ull;
	t->data = ld_le32(b + 8);
	t->ctrl = ld_le32(b + 12) & ENTRY_MASKED;
	unlock(&m->f->irq_lock);
	pci_msix_flush(m);
}

static const struct bus_ops msix_ops = {
	.read = msix_read,
	.write = msix_write,
};

void msix_init(struct msix *m, struct pci_func *f, unsigned bar, unsigned n)
{
	BUG_ON(!n || n > MSIX_VECTORS);
	pci_func_bar(f, bar, PCI_BAR_MEM32, MSIX_BAR_SIZE, &msix_ops, "msix");
	m->f = f;
	m->n = n;
	m->bar = (uint8_t)bar;
	m->cap = (uint8_t)pci_func_cap(f, PCI_CAP_MSIX, 12);
	f->msix = m;
	pci_func_set(f, m->cap + 2u, 2, n - 1, MSIX_CTRL_ENABLE | MSIX_CTRL_MASK);
	pci_func_set(f, m->cap + 4u, 4, bar, 0);
	pci_func_set(f, m->cap + 8u, 4, MSIX_PBA | bar, 0);
	msix_reset(m);
}

void msix_reset(struct msix *m)
{
	SCOPED_LOCK(&m->f->irq_lock);
	for (unsigned v = 0; v < MSIX_VECTORS; v++)
		m->entry[v] = (struct msix_entry){ .ctrl = ENTRY_MASKED };
	m->pending = 0;
}

static const struct state_field msix_entry_fields[] = {
	STATE_FIELD(struct msix_entry, addr, 1),
	STATE_FIELD(struct msix_entry, data, 1),
	STATE_FIELD(struct msix_entry, ctrl, 1),
};

static const struct state_desc msix_entry_state = {
	.name = "msix-entry",
	.version = 1,
	.oldest = 1,
	.field = msix_entry_fields,
	.nfield = COUNT_OF(msix_entry_fields),
};

static const struct state_field msix_fields[] = {
	STATE_STRUCT_ARRAY(struct msix, entry, &msix_entry_state, 1),
	STATE_FIELD(struct msix, pending, 1),
};

const struct state_desc msix_state = {
	.name = "msix",
	.version = 1,
	.oldest = 1,
	.field = msix_fields,
	.nfield = COUNT_OF(msix_fields),
};
