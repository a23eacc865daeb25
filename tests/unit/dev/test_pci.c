/* PCI: configuration space, BARs that the guest sizes and moves, the pin, MSI-X, saved state. */
#include "base/bytes.h"
#include "lib/dev_rig.h"
#include "lib/t.h"

#include <errno.h>
#include <string.h>

enum {
	PORT_ADDRESS = 0xcf8,
	PORT_DATA = 0xcfc,
	MEM_SIZE = 0x4000,
	IO_SIZE = 0x40,
};

/* A function with a BAR of each kind; a read gives the BAR's number and the offset. */
struct toy {
	struct dev dev;
	struct pci_func f;
	struct msix msix;
	unsigned writes;
	uint64_t last;
	/* bar_mapped() calls: on, off. */
	unsigned on, off;
};

static uint64_t toy_read(struct bus_range *r, uint64_t off, unsigned size)
{
	const struct pci_bar *b = container_of(r, struct pci_bar, range);

	return (uint64_t)(b - b->func->bar) << 16 | off;
}

static void toy_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	const struct pci_bar *b = container_of(r, struct pci_bar, range);
	struct toy *t = container_of(b->func, struct toy, f);

	t->writes++;
	t->last = v;
}

static const struct bus_ops toy_bar_ops = { .read = toy_read, .write = toy_write };

static void toy_mapped(struct pci_func *f, unsigned i, bool on)
{
	struct toy *t = container_of(f, struct toy, f);

	if (on)
		t->on++;
	else
		t->off++;
}

static const struct pci_func_ops toy_func_ops = { .bar_mapped = toy_mapped };

static void toy_free(struct dev *d)
{
	struct toy *t = container_of(d, struct toy, dev);

	pci_func_fini(&t->f);
	free(t);
}

static void toy_reset(struct dev *d)
{
	pci_func_reset(&container_of(d, struct toy, dev)->f);
}

static void *toy_obj(struct dev *d)
{
	return container_of(d, struct toy, dev);
}

static int toy_check(const void *obj, struct err *e)
{
	return pci_func_check(&((const struct toy *)obj)->f, e);
}

static int toy_post_load(struct dev *d, struct err *e)
{
	pci_func_post_load(&container_of(d, struct toy, dev)->f);
	return 0;
}

static const struct state_field toy_fields[] = {
	STATE_STRUCT_FIELD(struct toy, f, &pci_func_state, 1),
	STATE_STRUCT_FIELD(struct toy, msix, &msix_state, 1),
};

static const struct state_desc toy_state = {
	.name = "toy",
	.version = 1,
	.oldest = 1,
	.field = toy_fields,
	.nfield = COUNT_OF(toy_fields),
	.check = toy_check,
};

static const struct dev_ops toy_ops = {
	.type = "toy",
	.free = toy_free,
	.reset = toy_reset,
	.state = &toy_state,
	.state_obj = toy_obj,
	.state_size = sizeof(struct toy),
	.post_load = toy_post_load,
};

static struct toy *toy_new(struct rig *r, int slot)
{
	static const struct pci_ids ids = {
		.vendor = 0x1234,
		.device = 0x5678,
		.class_code = 0x0a0b0c,
		.revision = 9,
	};
	struct toy *t = calloc(1, sizeof(*t));
	struct err e = { 0 };

	dev_init(&t->dev, &toy_ops, &r->board, "toy");
	pci_func_init(&t->f, &t->dev, &toy_func_ops, &ids);
	pci_func_pin(&t->f);
	pci_func_bar(&t->f, 0, PCI_BAR_MEM32, MEM_SIZE, &toy_bar_ops, "toy-mem");
	msix_init(&t->msix, &t->f, 1, 5);
	pci_func_bar(&t->f, 2, PCI_BAR_IO, IO_SIZE, &toy_bar_ops, "toy-io");
	pci_func_bar(&t->f, 4, PCI_BAR_MEM64, MEM_SIZE, &toy_bar_ops, "toy-mem64");
	pci_func_express(&t->f);
	assert_int_equal(pci_host_add(r->host, &t->f, slot, &e), 0);
	return t;
}

static void test_header(void **state)
{
	struct rig *r = rig_new();
	toy_new(r, 3);

	assert_int_equal(rig_cfg(r, 3, 0, 4), 0x56781234);
	assert_int_equal(rig_cfg(r, 3, 8, 4), 0x0a0b0c09);
	assert_int_equal(rig_cfg(r, 3, PCI_HEADER_TYPE, 1), 0);
	assert_int_equal(rig_cfg(r, 3, PCI_STATUS, 2), PCI_STATUS_CAPS);
	assert_int_equal(rig_cfg(r, 3, PCI_INT_PIN, 1), 1);
	/* Read-only stays, scratch does not. */
	rig_cfg_set(r, 3, 0, 4, 0);
	rig_cfg_set(r, 3, PCI_INT_LINE, 1, 0x5a);
	assert_int_equal(rig_cfg(r, 3, 0, 4), 0x56781234);
	assert_int_equal(rig_cfg(r, 3, PCI_INT_LINE, 2), 0x015a);
	/* Nobody there; extended space; other functions; the bridge. */
	assert_int_equal(rig_cfg(r, 4, 0, 4), 0xffffffff);
	assert_int_equal(rig_cfg(r, 3, 0x100, 4), 0);
	assert_int_equal(bus_read(&r->mmio, RIG_ECAM + (3 << 15) + (1 << 12), 4), 0xffffffff);
	assert_int_equal(rig_cfg(r, 0, 8, 4) >> 8, 0x060000);
	assert_true(rig_cap(r, 3, 0, PCI_CAP_EXPRESS) && rig_cap(r, 3, 0, PCI_CAP_MSIX));
	/* Unaligned reads see the same bytes. */
	assert_int_equal(rig_cfg(r, 3, 1, 2), 0x7812);
	rig_free(r);
}

static void test_ports(void **state)
{
	struct rig *r = rig_new();
	toy_new(r, 3);

	/* Off until the enable bit is set. */
	bus_write(&r->pio, PORT_ADDRESS, 4, 3 << 11);
	assert_int_equal(bus_read(&r->pio, PORT_DATA, 4), 0xffffffff);
	bus_write(&r->pio, PORT_ADDRESS, 4, 0x80000000 | 3 << 11 | 3);
	assert_int_equal(bus_read(&r->pio, PORT_ADDRESS, 4), 0x80000000 | 3 << 11);
	assert_int_equal(bus_read(&r->pio, PORT_DATA, 4), 0x56781234);
	assert_int_equal(bus_read(&r->pio, PORT_DATA + 2, 2), 0x5678);
	assert_int_equal(bus_read(&r->pio, PORT_DATA + 3, 1), 0x56);
	bus_write(&r->pio, PORT_ADDRESS, 4, 0x80000000 | 3 << 11 | PCI_INT_LINE);
	bus_write(&r->pio, PORT_DATA, 1, 0x77);
	assert_int_equal(rig_cfg(r, 3, PCI_INT_LINE, 1), 0x77);
	/* A bus that is not there. */
	bus_write(&r->pio, PORT_ADDRESS, 4, 0x80010000 | 3 << 11);
	assert_int_equal(bus_read(&r->pio, PORT_DATA, 4), 0xffffffff);
	/* Only 32-bit accesses reach the address; the byte inside is the reset control. */
	bus_write(&r->pio, PORT_ADDRESS, 2, 0);
	assert_int_equal(bus_read(&r->pio, PORT_ADDRESS, 4), 0x80010000 | 3 << 11);
	bus_write(&r->pio, 0xcf9, 1, 2);
	assert_int_equal(r->requests[BOARD_RESET], 0);
	bus_write(&r->pio, 0xcf9, 1, 6);
	assert_int_equal(r->requests[BOARD_RESET], 1);
	bus_write(&r->pio, 0xcf9, 1, 6);
	assert_int_equal(r->requests[BOARD_RESET], 1);
	rig_free(r);
}

static void test_bar_size(void **state)
{
	struct rig *r = rig_new();
	toy_new(r, 3);

	for (unsigned i = 0; i < 6; i++)
		rig_cfg_set(r, 3, PCI_BAR0 + 4 * i, 4, 0xffffffff);
	assert_int_equal(rig_cfg(r, 3, PCI_BAR0, 4), 0xffffffff & ~(MEM_SIZE - 1));
	assert_int_equal(rig_cfg(r, 3, PCI_BAR0 + 4, 4), 0xfffff000);
	assert_int_equal(rig_cfg(r, 3, PCI_BAR0 + 8, 4), (0xffffffff & ~(IO_SIZE - 1)) | 1);
	assert_int_equal(rig_cfg(r, 3, PCI_BAR0 + 12, 4), 0);
	assert_int_equal(rig_cfg(r, 3, PCI_BAR0 + 16, 4), (0xffffffff & ~(MEM_SIZE - 1)) | 0xc);
	assert_int_equal(rig_cfg(r, 3, PCI_BAR0 + 20, 4), 0xffffffff);
	rig_free(r);
}

static void test_bar_decode(void **state)
{
	struct rig *r = rig_new();
	struct toy *t = toy_new(r, 3);
	const uint64_t high = 0x4000000000;

	/* Address 0 is none. */
	rig_cfg_set(r, 3, PCI_COMMAND, 2, PCI_CMD_MEM | PCI_CMD_IO);
	assert_int_equal(t->on, 0);
	rig_cfg_set(r, 3, PCI_COMMAND, 2, 0);
	rig_cfg_set(r, 3, PCI_BAR0, 4, RIG_MMIO + 0x10000);
	rig_cfg_set(r, 3, PCI_BAR0 + 8, 4, 0xc100);
	rig_cfg_set(r, 3, PCI_BAR0 + 16, 4, 0);
	rig_cfg_set(r, 3, PCI_BAR0 + 20, 4, high >> 32);
	/* Not before the command register says so, memory and ports apart. */
	assert_int_equal(bus_read(&r->mmio, RIG_MMIO + 0x10010, 4), 0xffffffff);
	rig_cfg_set(r, 3, PCI_COMMAND, 2, PCI_CMD_MEM);
	assert_int_equal(bus_read(&r->mmio, RIG_MMIO + 0x10010, 4), 0x10);
	assert_int_equal(bus_read(&r->mmio, high + 0x24, 4), 0x40024);
	assert_int_equal(bus_read(&r->pio, 0xc104, 4), 0xffffffff);
	rig_cfg_set(r, 3, PCI_COMMAND, 2, PCI_CMD_MEM | PCI_CMD_IO);
	assert_int_equal(bus_read(&r->pio, 0xc104, 4), 0x20004);
	bus_write(&r->pio, 0xc13c, 4, 0xabcd);
	assert_int_equal(t->last, 0xabcd);

	/* Moved while decoding is on: half by half for the 64-bit one. */
	rig_cfg_set(r, 3, PCI_BAR0, 4, RIG_MMIO + 0x20000);
	assert_int_equal(bus_read(&r->mmio, RIG_MMIO + 0x10010, 4), 0xffffffff);
	assert_int_equal(bus_read(&r->mmio, RIG_MMIO + 0x20010, 4), 0x10);
	rig_cfg_set(r, 3, PCI_BAR0 + 20, 4, (high >> 32) + 1);
	assert_int_equal(bus_read(&r->mmio, high + 0x24, 4), 0xffffffff);
	assert_int_equal(bus_read(&r->mmio, high + 0x100000024, 4), 0x40024);

	/* Off again, and every "on" had its "off". */
	rig_cfg_set(r, 3, PCI_COMMAND, 2, 0);
	assert_int_equal(bus_read(&r->mmio, RIG_MMIO + 0x20010, 4), 0xffffffff);
	assert_int_equal(t->on, t->off);
	assert_true(t->on >= 5);

	/* Sizing with decoding on decodes nothing at the top of the address space. */
	rig_cfg_set(r, 3, PCI_COMMAND, 2, PCI_CMD_MEM | PCI_CMD_IO);
	rig_cfg_set(r, 3, PCI_BAR0, 4, 0xffffffff);
	rig_cfg_set(r, 3, PCI_BAR0 + 8, 4, 0xffffffff);
	assert_int_equal(bus_read(&r->mmio, 0xffffc010, 4), 0xffffffff);
	rig_free(r);
}

static void test_overlap(void **state)
{
	struct rig *r = rig_new();

	toy_new(r, 3);
	toy_new(r, 4);
	const uint64_t a = RIG_MMIO + 0x10000, b = RIG_MMIO + 0x20000;
	for (unsigned s = 3; s <= 4; s++) {
		rig_cfg_set(r, s, PCI_BAR0, 4, s == 3 ? a : b);
		rig_cfg_set(r, s, PCI_COMMAND, 2, PCI_CMD_MEM);
	}
	/* 4 moves onto 3: who is there stays; when 3 leaves, 4 appears. */
	rig_cfg_set(r, 4, PCI_BAR0, 4, a);
	assert_int_equal(bus_read(&r->mmio, b, 4), 0xffffffff);
	assert_int_equal(bus_read(&r->mmio, a + 8, 4), 8);
	rig_cfg_set(r, 3, PCI_BAR0, 4, b);
	assert_int_equal(bus_read(&r->mmio, a + 8, 4), 8);
	assert_int_equal(bus_read(&r->mmio, b + 8, 4), 8);
	/* The other way round: 3 waits for the place of 4. */
	rig_cfg_set(r, 3, PCI_BAR0, 4, a);
	rig_cfg_set(r, 4, PCI_BAR0, 4, b);
	assert_int_equal(bus_read(&r->mmio, a + 8, 4), 8);
	assert_int_equal(bus_read(&r->mmio, b + 8, 4), 8);
	rig_cfg_set(r, 4, PCI_COMMAND, 2, 0);
	assert_int_equal(bus_read(&r->mmio, a + 8, 4), 8);
	assert_int_equal(bus_read(&r->mmio, b + 8, 4), 0xffffffff);
	/* Onto the ECAM window: that one is nobody's to take. */
	rig_cfg_set(r, 4, PCI_BAR0, 4, RIG_ECAM);
	assert_int_equal(rig_cfg(r, 3, 0, 4), 0x56781234);
	rig_free(r);
}

static void test_assign(void **state)
{
	struct rig *r = rig_new();
	struct err e = { 0 };

	for (int s = 0; s < 5; s++)
		toy_new(r, -1);
	assert_int_equal(pci_host_assign(r->host, &e), 0);
	for (unsigned s = 1; s <= 5; s++) {
		assert_int_equal(rig_cfg(r, s, PCI_COMMAND, 2), PCI_CMD_MEM | PCI_CMD_IO);
		assert_int_equal(rig_cfg(r, s, PCI_INT_LINE, 1), pci_gsi(s, 0));
		assert_int_equal(bus_read(&r->mmio, rig_bar(r, s, 0) + 4, 4), 4);
		assert_int_equal(bus_read(&r->mmio, rig_bar(r, s, 4) + 4, 4), 0x40004);
		assert_int_equal(bus_read(&r->pio, rig_cfg(r, s, PCI_BAR0 + 8, 4) - 1 + 4, 4),
				 0x20004);
		assert_true(rig_bar(r, s, 0) % MEM_SIZE == 0);
	}
	/* Reset takes it all back. */
	uint64_t was = rig_bar(r, 2, 0);
	board_reset(&r->board);
	assert_int_equal(rig_cfg(r, 2, PCI_COMMAND, 2), 0);
	assert_int_equal(rig_cfg(r, 2, PCI_BAR0, 4), 0);
	assert_int_equal(bus_read(&r->mmio, was + 4, 4), 0xffffffff);
	rig_free(r);
}

static void test_slots(void **state)
{
	struct rig *r = rig_new();
	struct err e = { 0 };
	struct pci_func f = { 0 };

	for (unsigned s = 1; s < PCI_SLOTS; s++)
		assert_int_equal(toy_new(r, -1)->f.slot, s);
	assert_int_equal(pci_host_add(r->host, &f, -1, &e), -ENOSPC);
	assert_int_equal(pci_host_add(r->host, &f, 7, &e), -EBUSY);
	assert_int_equal(pci_host_add(r->host, &f, 32, &e), -EINVAL);
	rig_free(r);
}

static void test_pin(void **state)
{
	struct rig *r = rig_new();
	struct toy *t = toy_new(r, 3), *u = toy_new(r, 11);
	unsigned gsi = pci_gsi(3, 0);

	/* Slots 8 apart share a line. */
	assert_int_equal(gsi, pci_gsi(11, 0));
	pci_intx_set(&t->f, true);
	assert_true(r->line[gsi]);
	assert_int_equal(rig_cfg(r, 3, PCI_STATUS, 2) & PCI_STATUS_INTX, PCI_STATUS_INTX);
	pci_intx_set(&u->f, true);
	pci_intx_set(&t->f, false);
	assert_true(r->line[gsi]);
	pci_intx_set(&u->f, false);
	assert_false(r->line[gsi]);
	/* Disabled: the status shows it, the line does not. */
	rig_cfg_set(r, 3, PCI_COMMAND, 2, PCI_CMD_INTX_OFF);
	pci_intx_set(&t->f, true);
	assert_false(r->line[gsi]);
	assert_int_equal(rig_cfg(r, 3, PCI_STATUS, 1) & PCI_STATUS_INTX, PCI_STATUS_INTX);
	rig_cfg_set(r, 3, PCI_COMMAND, 2, 0);
	assert_true(r->line[gsi]);
	/* MSI-X takes over. */
	rig_cfg_set(r, 3, rig_cap(r, 3, 0, PCI_CAP_MSIX) + 2, 2, 1 << 15);
	assert_false(r->line[gsi]);
	rig_free(r);
}

/* MSI-X. */

static void test_msix(void **state)
{
	struct rig *r = rig_new();
	struct toy *t = toy_new(r, 3);
	struct err e = { 0 };
	struct vdrv d = { .r = r, .slot = 3 };
	unsigned cap = rig_cap(r, 3, 0, PCI_CAP_MSIX) + 2;

	assert_int_equal(pci_host_assign(r->host, &e), 0);
	uint64_t table = rig_bar(r, 3, 1), pba = table + 0x800;
	assert_int_equal(rig_cfg(r, 3, cap, 2), 4);
	assert_int_equal(rig_cfg(r, 3, cap + 2, 4), 1);
	assert_int_equal(rig_cfg(r, 3, cap + 6, 4), 0x801);
	/* After reset each vector is masked, and the whole is off. */
	assert_int_equal(bus_read(&r->mmio, table + 12, 4), 1);
	msix_notify(&t->msix, 0);
	assert_int_equal(bus_read(&r->mmio, pba, 8), 0);
	vd_msix(&d);
	/* A message is a write: without bus mastering it waits. */
	msix_notify(&t->msix, 2);
	assert_int_equal(r->msi[RIG_MSI_DATA + 2], 0);
	assert_int_equal(bus_read(&r->mmio, pba, 8), 4);
	rig_master(r, 3, true);
	assert_int_equal(r->msi[RIG_MSI_DATA + 2], 1);
	assert_int_equal(bus_read(&r->mmio, pba, 8), 0);
	msix_notify(&t->msix, 2);
	assert_int_equal(r->msi[RIG_MSI_DATA + 2], 2);
	assert_int_equal(r->msi_addr, 0xfee00000);

	/* Masked: pending, once, sent when unmasked. */
	bus_write(&r->mmio, table + 16 * 3 + 12, 4, 1);
	msix_notify(&t->msix, 3);
	msix_notify(&t->msix, 3);
	assert_int_equal(r->msi[RIG_MSI_DATA + 3], 0);
	assert_int_equal(bus_read(&r->mmio, pba, 8), 8);
	bus_write(&r->mmio, table + 16 * 3 + 12, 4, 0);
	assert_int_equal(r->msi[RIG_MSI_DATA + 3], 1);
	assert_int_equal(bus_read(&r->mmio, pba, 4), 0);

	/* The function mask. */
	rig_cfg_set(r, 3, cap, 2, 3 << 14);
	msix_notify(&t->msix, 4);
	msix_notify(&t->msix, 1);
	assert_int_equal(bus_read(&r->mmio, pba, 8), 0x12);
	rig_cfg_set(r, 3, cap, 2, 1 << 15);
	assert_int_equal(r->msi[RIG_MSI_DATA + 4], 1);
	assert_int_equal(r->msi[RIG_MSI_DATA + 1], 1);

	/* What nobody has. */
	msix_notify(&t->msix, 5);
	msix_notify(&t->msix, 0xffff);
	bus_write(&r->mmio, table + 16 * 5, 8, ~0ull);
	assert_int_equal(bus_read(&r->mmio, table + 16 * 5, 8), 0);
	bus_write(&r->mmio, pba, 8, ~0ull);
	assert_int_equal(bus_read(&r->mmio, pba, 8), 0);
	assert_int_equal(bus_read(&r->mmio, table + 0xff8, 8), 0);
	/* Reserved bits of the control word and the low bits of the address. */
	bus_write(&r->mmio, table + 8, 8, ~0ull);
	bus_write(&r->mmio, table, 8, ~0ull);
	assert_int_equal(bus_read(&r->mmio, table, 8), ~3ull);
	assert_int_equal(bus_read(&r->mmio, table + 8, 8), 0x1ffffffff);
	assert_int_equal(bus_read(&r->mmio, table + 10, 2), 0xffff);
	rig_free(r);
}

/* A save in one board continues in another; a stream for another kind of device is refused. */
static void test_state(void **state)
{
	struct rig *r = rig_new(), *s = rig_new(), *other = rig_new();
	struct err e = { 0 };
	struct state_buf buf = { 0 };
	struct toy *t = toy_new(r, 3);
	struct vdrv d = { .r = r, .slot = 3 };

	toy_new(s, 3);
	pci_func_set(&toy_new(other, 3)->f, PCI_DEVICE, 2, 0x9999, 0);
	assert_int_equal(pci_host_assign(r->host, &e), 0);
	vd_msix(&d);
	rig_master(r, 3, true);
	uint64_t table = rig_bar(r, 3, 1), bar = rig_bar(r, 3, 0);
	bus_write(&r->mmio, table + 12, 4, 1);
	msix_notify(&t->msix, 0);
	assert_int_equal(board_save(&r->board, &buf, &e), 0);

	assert_int_equal(board_load(&s->board, buf.data, buf.len, &e), 0);
	assert_int_equal(bus_read(&s->mmio, bar + 4, 4), 4);
	assert_int_equal(bus_read(&s->mmio, table + 0x800, 8), 1);
	bus_write(&s->mmio, table + 12, 4, 0);
	assert_int_equal(s->msi[RIG_MSI_DATA], 1);
	assert_int_equal(board_load(&other->board, buf.data, buf.len, &e), -EPROTO);
	state_buf_fini(&buf);
	rig_free(r);
	rig_free(s);
	rig_free(other);
}

/* Random accesses: the read-only bits never change, and the bus and the registers always agree. */
static void test_random(void **state)
{
	uint64_t seed = 5;
	struct rig *r = rig_new();
	struct toy *t[3] = { toy_new(r, 1), toy_new(r, 2), toy_new(r, 3) };

	printf("seed %lu\n", (unsigned long)seed);
	for (int i = 0; i < 200000; i++) {
		unsigned slot = 1 + (unsigned)(t_rnd(&seed) % 3);
		unsigned off = (unsigned)(t_rnd(&seed) % 64), n = 1u << t_rnd(&seed) % 3;
		uint64_t v = t_rnd(&seed);

		/* Mostly addresses near each other, so that they meet. */
		if (off >= PCI_BAR0 && off < 0x28 && v & 1)
			v = RIG_MMIO + (v >> 8) % 16 * 0x2000;
		rig_cfg_set(r, slot, off, n, v);
		const struct pci_func *f = &t[slot - 1]->f;
		for (unsigned b = 0; b < PCI_CFG_SIZE; b++)
			assert_int_equal((f->cfg[b] ^ f->cfg0[b]) & ~f->wmask[b], 0);
	}
	unsigned mapped = 0;
	for (unsigned k = 0; k < 3; k++)
		for (unsigned b = 0; b < PCI_BARS; b++) {
			const struct pci_bar *bar = &t[k]->f.bar[b];

			assert_int_equal(bar->mapped, bar->range.on);
			mapped += bar->mapped;
		}
	/* The bridge's ports are on the bus of ports, ECAM on the other. */
	assert_int_equal(r->mmio.n + r->pio.n, mapped + 2);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_header),   cmocka_unit_test(test_ports),
		cmocka_unit_test(test_bar_size), cmocka_unit_test(test_bar_decode),
		cmocka_unit_test(test_overlap),  cmocka_unit_test(test_assign),
		cmocka_unit_test(test_slots),    cmocka_unit_test(test_pin),
		cmocka_unit_test(test_msix),     cmocka_unit_test(test_state),
		cmocka_unit_test(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
