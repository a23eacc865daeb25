/* Configuration space of a few functions: ports, ECAM, BARs that move into each other, MSI-X. */
#include "base/log.h"
#include "lib/dev_rig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void pci_check(struct rig *r)
{
	/* Ranges of the bus stay sorted and apart. */
	for (unsigned i = 1; i < r->mmio.n; i++) {
		const struct bus_range *a = r->mmio.range[i - 1], *b = r->mmio.range[i];

		if (a->base + (a->len - 1) >= b->base)
			rig_die("pci", "BARs overlap");
	}
}

static void pci_access(struct rig *r, const uint8_t *p)
{
	unsigned slot = p[1] % 6, off = p[2], n = 1u << (p[0] >> 4) % 3;
	uint64_t v = ld_le64(p + 3);

	switch (p[0] % 5) {
	case 0:
		rig_cfg_set(r, slot, off, n, v);
		break;
	case 1:
		bus_write(&r->pio, 0xcf8, 4, 0x80000000 | slot << 11 | (off & 0xfc));
		bus_write(&r->pio, 0xcfc + (off & 3), n, v);
		break;
	case 2:
		(void)bus_read(&r->mmio, RIG_ECAM + (v & 0xfffff), 1u << (p[0] >> 4) % 4);
		break;
	case 3:
		bus_write(&r->mmio, RIG_MMIO + (v & 0x3fffff), 1u << (p[0] >> 4) % 4, v >> 22);
		break;
	case 4:
		/* A BAR to a place near the others. */
		rig_cfg_set(r, slot, PCI_BAR0 + 4 * (off % 6), 4, RIG_MMIO + (v % 32) * 0x1000);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rig *r = rig_new();
	struct err e = { 0 };
	const struct virtio_rng_opts o = { .name = "rng", .loop = r->loop };

	log_level = LOG_ERROR;
	for (int i = 0; i < 4; i++) {
		struct virtio_dev *v;

		if (virtio_rng_new(&v, &r->board, &o, &e) < 0)
			rig_die("rng", e.msg);
		rig_plug(r, v);
	}
	for (unsigned i = 0; size >= 11 && i < 500; i++, data += 11, size -= 11) {
		pci_access(r, data);
		pci_check(r);
	}
	rig_free(r);
	return 0;
}
