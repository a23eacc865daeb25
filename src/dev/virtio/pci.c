/*
 * The PCI transport of virtio 1.2 (4.1), modern devices only.
 *
 * BAR 1 holds the MSI-X table.  BAR 4, 16 KiB, holds the four structures that the vendor
 * capabilities point at, a page each: common configuration, ISR, device configuration,
 * notifications (4 bytes a queue).  A fifth capability is a window to BAR 4 through configuration
 * space (4.1.4.9), for firmware that has no mapping.
 *
 * A notification is an eventfd: while BAR 4 is mapped, a 16-bit write to a queue's address rings it
 * on the bus, or in the kernel, and the device's loop wakes; no register code runs.
 *
 * Registers are read from an image of the whole structure, so a read of any width works as on
 * memory; writes must have the width of the field, or of half of a 64-bit one (4.1.3.1).
 *
 * Without bus mastering (PCI 3.0, 6.2.2) the device leaves the rings and the guest's buffers alone.
 * A kernel that hands over to another clears it, and must find nothing written behind its back.
 *
 * Locks: register accesses come with v->dev.lock (BAR ranges and config hooks); vectors, isr and
 * the pin are guarded by f.irq_lock, as interrupts come from the device's loop.
 */
#include "dev/pci/pci.h"
#include "dev/virtio/virtio_int.h"

#include "base/alloc.h"
#include "base/bug.h"
#include "base/bytes.h"
#include "base/num.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	BAR_MSIX = 1,
	BAR_REGS = 4,
	REGS_SIZE = 0x4000,
	/* Pages of BAR 4. */
	REGS_COMMON = 0x0000,
	REGS_ISR = 0x1000,
	REGS_DEVICE = 0x2000,
	REGS_NOTIFY = 0x3000,
	REGS_PAGE = 0x1000,
	NOTIFY_STRIDE = 4,
};

/* struct virtio_pci_common_cfg (4.1.4.3) */
enum {
	COMMON_DEVICE_FEATURE_SELECT = 0x00,
	COMMON_DEVICE_FEATURE = 0x04,
	COMMON_DRIVER_FEATURE_SELECT = 0x08,
	COMMON_DRIVER_FEATURE = 0x0c,
	COMMON_CONFIG_VECTOR = 0x10,
	COMMON_NUM_QUEUES = 0x12,
	COMMON_STATUS = 0x14,
	COMMON_GENERATION = 0x15,
	COMMON_QUEUE_SELECT = 0x16,
	COMMON_QUEUE_SIZE = 0x18,
	COMMON_QUEUE_VECTOR = 0x1a,
	COMMON_QUEUE_ENABLE = 0x1c,
	COMMON_QUEUE_NOTIFY_OFF = 0x1e,
	COMMON_QUEUE_DESC = 0x20,
	COMMON_QUEUE_DRIVER = 0x28,
	COMMON_QUEUE_DEVICE = 0x30,
	COMMON_LEN = 0x40,
};

/* struct virtio_pci_cap (4.1.4) */
enum {
	CAP_COMMON = 1,
	CAP_NOTIFY = 2,
	CAP_ISR = 3,
	CAP_DEVICE = 4,
	CAP_PCI = 5,
	CAP_LEN = 16,
	CAP_LEN_EXTRA = 20,
};

enum {
	ISR_QUEUE = 1,
	ISR_CONFIG = 2,
};

struct virtio_pci {
	/* Owns the state section; registers are guarded by v->dev.lock. */
	struct dev dev;
	struct virtio_transport t;
	struct virtio_dev *v;
	struct pci_func f;
	struct msix msix;
	uint32_t device_feature_select, driver_feature_select;
	uint16_t queue_select;
	/* Guarded by f.irq_lock. */
	uint16_t config_vector, queue_vector[VIRTIO_QUEUES];
	uint8_t isr;
	/* Offset of the window's capability. */
	uint8_t window;
	struct bus_notify notify[VIRTIO_QUEUES];
	/* On the bus; guarded by host->lock. */
	bool notify_on[VIRTIO_QUEUES];
};

static struct virtio_pci *vpci_of_range(struct bus_range *r)
{
	struct pci_func *f = container_of(r, struct pci_bar, range)->func;

	return container_of(f, struct virtio_pci, f);
}

/* Interrupts; any thread. */

static void vpci_irq(struct virtio_pci *p, const uint16_t *vector, uint8_t isr)
{
	lock(&p->f.irq_lock);
	bool msix = msix_enabled_locked(&p->msix);
	unsigned v = *vector;
	if (!msix) {
		p->isr |= isr;
		pci_intx_set_locked(&p->f, true);
	}
	unlock(&p->f.irq_lock);
	/* No vector is number 0xffff, which no table has. */
	if (msix)
		msix_notify(&p->msix, v);
}

static void vpci_queue_irq(struct virtio_transport *t, unsigned queue)
{
	struct virtio_pci *p = container_of(t, struct virtio_pci, t);

	vpci_irq(p, &p->queue_vector[queue], ISR_QUEUE);
}

static void vpci_config_irq(struct virtio_transport *t)
{
	struct virtio_pci *p = container_of(t, struct virtio_pci, t);

	vpci_irq(p, &p->config_vector, ISR_CONFIG);
}

static void vpci_reset(struct virtio_transport *t)
{
	struct virtio_pci *p = container_of(t, struct virtio_pci, t);

	p->device_feature_select = p->driver_feature_select = 0;
	p->queue_select = 0;
	SCOPED_LOCK(&p->f.irq_lock);
	p->config_vector = VIRTIO_NO_VECTOR;
	for (unsigned i = 0; i < VIRTIO_QUEUES; i++)
		p->queue_vector[i] = VIRTIO_NO_VECTOR;
	p->isr = 0;
	pci_intx_set_locked(&p->f, false);
}

/* Reading it acknowledges (4.1.4.5). */
static uint8_t vpci_isr_read(struct virtio_pci *p)
{
	SCOPED_LOCK(&p->f.irq_lock);
	uint8_t isr = p->isr;

	p->isr = 0;
	pci_intx_set_locked(&p->f, false);
	return isr;
}

/* Common configuration. */

static void vpci_common_image(struct virtio_pci *p, uint8_t *b)
{
	struct virtio_dev *v = p->v;
	uint64_t offered = virtio_offered(v);

	memset(b, 0, COMMON_LEN);
	st_le32(b + COMMON_DEVICE_FEATURE_SELECT, p->device_feature_select);
	if (p->device_feature_select < 2)
		st_le32(b + COMMON_DEVICE_FEATURE,
			(uint32_t)(offered >> (32 * p->device_feature_select)));
	st_le32(b + COMMON_DRIVER_FEATURE_SELECT, p->driver_feature_select);
	if (p->driver_feature_select < 2)
		st_le32(b + COMMON_DRIVER_FEATURE,
			(uint32_t)(v->driver_features >> (32 * p->driver_feature_select)));
	st_le16(b + COMMON_NUM_QUEUES, (uint16_t)v->nq);
	b[COMMON_STATUS] = virtio_status(v);
	b[COMMON_GENERATION] = __atomic_load_n(&v->generation, __ATOMIC_ACQUIRE);
	st_le16(b + COMMON_QUEUE_SELECT, p->queue_select);
	lock(&p->f.irq_lock);
	st_le16(b + COMMON_CONFIG_VECTOR, p->config_vector);
	st_le16(b + COMMON_QUEUE_VECTOR,
		p->queue_select < v->nq ? p->queue_vector[p->queue_select] : VIRTIO_NO_VECTOR);
	unlock(&p->f.irq_lock);
	if (p->queue_select >= v->nq)
		return;
	const struct virtq *q = &v->vq[p->queue_select];
	st_le16(b + COMMON_QUEUE_SIZE, q->size);
	st_le16(b + COMMON_QUEUE_ENABLE, q->enabled);
	st_le16(b + COMMON_QUEUE_NOTIFY_OFF, p->queue_select);
	st_le64(b + COMMON_QUEUE_DESC, q->desc_gpa);
	st_le64(b + COMMON_QUEUE_DRIVER, q->avail_gpa);
	st_le64(b + COMMON_QUEUE_DEVICE, q->used_gpa);
}

static void vpci_set_vector(struct virtio_pci *p, uint16_t *vector, uint64_t v)
{
	SCOPED_LOCK(&p->f.irq_lock);
	/* 4.1.5.1.3: what cannot be used reads back as none. */
	*vector = v < p->msix.n ? (uint16_t)v : VIRTIO_NO_VECTOR;
}

static void vpci_set_driver_feature(struct virtio_pci *p, uint32_t bits)
{
	unsigned shift = 32 * p->driver_feature_select;
	uint64_t f = p->v->driver_features;

	if (p->driver_feature_select < 2)
		virtio_set_driver_features(p->v, (f & ~(0xffffffffull << shift)) |
							 (uint64_t)bits << shift);
}

/* A whole 64-bit address or one half of it. */
static void vpci_set_addr(uint64_t *addr, uint64_t off, unsigned size, uint64_t v)
{
	if (size >= 4)
		st_le((uint8_t *)addr + off, size, v);
}

static void vpci_queue_write(struct virtio_pci *p, uint64_t off, unsigned size, uint64_t v)
{
	struct virtq *q = &p->v->vq[p->queue_select];

	if (off == COMMON_QUEUE_VECTOR && size == 2) {
		vpci_set_vector(p, &p->queue_vector[p->queue_select], v);
		return;
	}
	if (!virtio_queue_open(p->v, p->queue_select))
		return;
	if (off == COMMON_QUEUE_SIZE && size == 2)
		q->size = (uint16_t)v;
	else if (off == COMMON_QUEUE_ENABLE && size == 2 && v == 1)
		virtio_enable_queue(p->v, p->queue_select);
	else if (off >= COMMON_QUEUE_DESC && off < COMMON_QUEUE_DRIVER)
		vpci_set_addr(&q->desc_gpa, off - COMMON_QUEUE_DESC, size, v);
	else if (off >= COMMON_QUEUE_DRIVER && off < COMMON_QUEUE_DEVICE)
		vpci_set_addr(&q->avail_gpa, off - COMMON_QUEUE_DRIVER, size, v);
	else if (off >= COMMON_QUEUE_DEVICE && off < COMMON_QUEUE_DEVICE + 8)
		vpci_set_addr(&q->used_gpa, off - COMMON_QUEUE_DEVICE, size, v);
}

static void vpci_common_write(struct virtio_pci *p, uint64_t off, unsigned size, uint64_t v)
{
	/* While a reset waits for what is in flight there is nobody to talk to. */
	if (off % size || p->v->resetting)
		return;
	if (off == COMMON_DEVICE_FEATURE_SELECT && size == 4)
		p->device_feature_select = (uint32_t)v;
	else if (off == COMMON_DRIVER_FEATURE_SELECT && size == 4)
		p->driver_feature_select = (uint32_t)v;
	else if (off == COMMON_DRIVER_FEATURE && size == 4)
		vpci_set_driver_feature(p, (uint32_t)v);
	else if (off == COMMON_CONFIG_VECTOR && size == 2)
		vpci_set_vector(p, &p->config_vector, v);
	else if (off == COMMON_STATUS && size == 1)
		virtio_set_status(p->v, (uint8_t)v);
	else if (off == COMMON_QUEUE_SELECT && size == 2)
		p->queue_select = (uint16_t)v;
	else if (off >= COMMON_QUEUE_SIZE && p->queue_select < p->v->nq)
		vpci_queue_write(p, off, size, v);
}

/* BAR 4. */

static uint64_t vpci_read(struct virtio_pci *p, uint64_t off, unsigned size)
{
	uint64_t page = off & ~(uint64_t)(REGS_PAGE - 1), at = off & (REGS_PAGE - 1);
	uint8_t image[COMMON_LEN], b[8] = { 0 };

	if (page == REGS_COMMON && range_in(at, size, COMMON_LEN)) {
		vpci_common_image(p, image);
		return ld_le(image + at, size);
	}
	if (page == REGS_ISR && at == 0)
		return vpci_isr_read(p);
	if (page == REGS_DEVICE)
		virtio_config_read(p->v, at, b, size);
	return ld_le(b, size);
}

static void vpci_write(struct virtio_pci *p, uint64_t off, unsigned size, uint64_t v)
{
	uint64_t page = off & ~(uint64_t)(REGS_PAGE - 1), at = off & (REGS_PAGE - 1);
	uint8_t b[8];

	if (page == REGS_COMMON) {
		vpci_common_write(p, at, size, v);
	} else if (page == REGS_DEVICE) {
		st_le(b, size, v);
		virtio_config_write(p->v, at, b, size);
	} else if (page == REGS_NOTIFY) {
		/* Of another width than the bell on the bus, or where the bus has no room for one.
		 */
		virtio_kick(p->v, (unsigned)(at / NOTIFY_STRIDE));
	}
}

static uint64_t vpci_bar_read(struct bus_range *r, uint64_t off, unsigned size)
{
	return vpci_read(vpci_of_range(r), off, size);
}

static void vpci_bar_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	vpci_write(vpci_of_range(r), off, size, v);
}

static const struct bus_ops vpci_bar_ops = {
	.read = vpci_bar_read,
	.write = vpci_bar_write,
};

static void vpci_bar_mapped(struct pci_func *f, unsigned i, bool on)
{
	struct virtio_pci *p = container_of(f, struct virtio_pci, f);
	struct bus *bus = p->v->board->mmio;

	for (unsigned q = 0; i == BAR_REGS && q < p->v->nq; q++) {
		struct bus_notify *n = &p->notify[q];

		if (p->notify_on[q])
			bus_notify_del(bus, n);
		*n = (struct bus_notify){
			.addr = f->bar[i].range.base + REGS_NOTIFY + NOTIFY_STRIDE * q,
			.size = 2,
			.fd = p->v->vq[q].kick_fd,
		};
		p->notify_on[q] = on && bus_notify_add(bus, n) == 0;
	}
}

/* The window in configuration space (4.1.4.9). */

/* What it points at; false when that is not an access that a driver may make. */
static bool vpci_window(const struct virtio_pci *p, uint32_t *ret_off, uint32_t *ret_len)
{
	const uint8_t *cap = p->f.cfg + p->window;
	uint32_t off = ld_le32(cap + 8), len = ld_le32(cap + 12);

	if (cap[4] != BAR_REGS || (len != 1 && len != 2 && len != 4) || off % len ||
	    !range_in(off, len, REGS_SIZE))
		return false;
	*ret_off = off;
	*ret_len = len;
	return true;
}

static void vpci_cfg_read(struct pci_func *f, unsigned off, unsigned n)
{
	struct virtio_pci *p = container_of(f, struct virtio_pci, f);
	uint32_t at, len;

	if (range_overlap(off, n, p->window + 16u, 4) && vpci_window(p, &at, &len))
		st_le(f->cfg + p->window + 16, len, vpci_read(p, at, len));
}

static void vpci_cfg_written(struct pci_func *f, unsigned off, unsigned n)
{
	struct virtio_pci *p = container_of(f, struct virtio_pci, f);
	uint32_t at, len;

	if (range_overlap(off, n, PCI_COMMAND, 2))
		virtio_set_dma(p->v, pci_func_master(f));
	if (!range_overlap(off, n, p->window + 16u, 4) || !vpci_window(p, &at, &len))
		return;
	/* A reset must not wait here, with the bridge's lock held: the driver asks until it is
	 * done. */
	unsigned wait_ms = p->v->reset_wait_ms;
	p->v->reset_wait_ms = 0;
	vpci_write(p, at, len, ld_le(f->cfg + p->window + 16, len));
	p->v->reset_wait_ms = wait_ms;
}

static const struct pci_func_ops vpci_func_ops = {
	.cfg_read = vpci_cfg_read,
	.cfg_written = vpci_cfg_written,
	.bar_mapped = vpci_bar_mapped,
};

/* Life. */

static unsigned vpci_cap(struct virtio_pci *p, uint8_t type, uint32_t off, uint32_t len)
{
	bool extra = type == CAP_NOTIFY || type == CAP_PCI;
	unsigned at = pci_func_cap(&p->f, PCI_CAP_VENDOR, extra ? CAP_LEN_EXTRA : CAP_LEN);
	bool window = type == CAP_PCI;

	pci_func_set(&p->f, at + 2, 1, extra ? CAP_LEN_EXTRA : CAP_LEN, 0);
	pci_func_set(&p->f, at + 3, 1, type, 0);
	pci_func_set(&p->f, at + 4, 1, window ? 0 : BAR_REGS, window ? 0xff : 0);
	pci_func_set(&p->f, at + 8, 4, off, window ? 0xffffffff : 0);
	pci_func_set(&p->f, at + 12, 4, len, window ? 0xffffffff : 0);
	if (extra)
		pci_func_set(&p->f, at + 16, 4, window ? 0 : NOTIFY_STRIDE,
			     window ? 0xffffffff : 0);
	return at;
}

static void vpci_setup(struct virtio_pci *p)
{
	const struct virtio_type *type = p->v->type;
	const struct pci_ids ids = {
		.vendor = 0x1af4,
		.device = (uint16_t)(0x1040 + type->id),
		.subvendor = 0x1af4,
		.subdevice = 0x1100,
		.class_code = type->pci_class,
		.revision = 1,
	};

	pci_func_init(&p->f, &p->v->dev, &vpci_func_ops, &ids);
	pci_func_pin(&p->f);
	pci_func_bar(&p->f, BAR_REGS, PCI_BAR_MEM64, REGS_SIZE, &vpci_bar_ops, p->v->dev.name);
	/* One vector for each queue and one for configuration changes. */
	msix_init(&p->msix, &p->f, BAR_MSIX, p->v->nq + 1);
	vpci_cap(p, CAP_COMMON, REGS_COMMON, COMMON_LEN);
	vpci_cap(p, CAP_ISR, REGS_ISR, 1);
	if (type->config_len)
		vpci_cap(p, CAP_DEVICE, REGS_DEVICE, (uint32_t)type->config_len);
	vpci_cap(p, CAP_NOTIFY, REGS_NOTIFY, NOTIFY_STRIDE * p->v->nq);
	p->window = (uint8_t)vpci_cap(p, CAP_PCI, 0, 0);
	pci_func_express(&p->f);
}

static void vpci_dev_free(struct dev *d)
{
	struct virtio_pci *p = container_of(d, struct virtio_pci, dev);

	p->v->transport = NULL;
	pci_func_fini(&p->f);
	free(p);
}

static void vpci_dev_reset(struct dev *d)
{
	struct virtio_pci *p = container_of(d, struct virtio_pci, dev);

	vpci_reset(&p->t);
	pci_func_reset(&p->f);
	SCOPED_LOCK(&p->v->dev.lock);
	virtio_set_dma(p->v, false);
}

static void *vpci_state_obj(struct dev *d)
{
	return container_of(d, struct virtio_pci, dev);
}

static int vpci_check(const void *obj, struct err *e)
{
	const struct virtio_pci *p = obj;

	return pci_func_check(&p->f, e);
}

static int vpci_post_load(struct dev *d, struct err *e UNUSED)
{
	struct virtio_pci *p = container_of(d, struct virtio_pci, dev);

	pci_func_post_load(&p->f);
	SCOPED_LOCK(&p->v->dev.lock);
	virtio_set_dma(p->v, pci_func_master(&p->f));
	return 0;
}

static const struct state_field vpci_fields[] = {
	STATE_STRUCT_FIELD(struct virtio_pci, f, &pci_func_state, 1),
	STATE_STRUCT_FIELD(struct virtio_pci, msix, &msix_state, 1),
	STATE_FIELD(struct virtio_pci, device_feature_select, 1),
	STATE_FIELD(struct virtio_pci, driver_feature_select, 1),
	STATE_FIELD(struct virtio_pci, queue_select, 1),
	STATE_FIELD(struct virtio_pci, config_vector, 1),
	STATE_ARRAY(struct virtio_pci, queue_vector, 1),
	STATE_FIELD(struct virtio_pci, isr, 1),
};

static const struct state_desc vpci_state = {
	.name = "virtio-pci",
	.version = 1,
	.oldest = 1,
	.field = vpci_fields,
	.nfield = COUNT_OF(vpci_fields),
	.check = vpci_check,
};

static const struct dev_ops vpci_ops = {
	.type = "virtio-pci",
	.free = vpci_dev_free,
	.reset = vpci_dev_reset,
	.state = &vpci_state,
	.state_obj = vpci_state_obj,
	.state_size = sizeof(struct virtio_pci),
	.post_load = vpci_post_load,
};

struct dev *virtio_pci_dev(struct virtio_pci *p)
{
	return &p->dev;
}

struct pci_func *virtio_pci_func(struct virtio_pci *p)
{
	return &p->f;
}

int virtio_pci_new(struct virtio_pci **ret, const struct virtio_pci_opts *o, struct err *e)
{
	struct virtio_pci *p = NEW(struct virtio_pci);
	char name[sizeof(o->v->dev.name) + 4];

	if (!p)
		return err_set(e, ENOMEM, "%s: no memory for its PCI function", o->v->dev.name);
	BUG_ON(o->v->transport);
	p->v = o->v;
	snprintf(name, sizeof(name), "%s-pci", o->v->dev.name);
	dev_init(&p->dev, &vpci_ops, o->board, name);
	vpci_setup(p);
	p->t = (struct virtio_transport){ vpci_queue_irq, vpci_config_irq, vpci_reset };
	vpci_reset(&p->t);
	int rc = pci_host_add(o->host, &p->f, o->slot, e);
	if (rc < 0) {
		dev_free(&p->dev);
		return err_in(e, "%s", o->v->dev.name);
	}
	p->v->transport = &p->t;
	p->v->no_dma = true;
	*ret = p;
	return 0;
}
