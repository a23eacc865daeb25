/*
 * virtio-console (virtio 1.2, 5.3): byte streams between the guest and chr/ backends.
 *
 * Port 0 is a console (hvc0).  With more ports the device has MULTIPORT: a pair of control queues
 * on which we tell the driver of ports, their names and sizes, and it tells us which it has open;
 * an agent's channel is such a port.
 *
 * What we want to say on the control queue is not a list of messages but a set of bits for each
 * port, sent in the order of the bits as the driver gives buffers: it cannot grow, and it is saved.
 *
 * Towards the guest nothing is buffered here: input() takes as much as the guest has buffers for
 * and the backend keeps the rest.  From the guest, a chain that the backend takes only in part
 * stays in the ring, and tx_done says how far it is.
 *
 * cfg_lock guards cols and rows.
 */
#include "chr/chr.h"
#include "dev/virtio/virtio_int.h"

#include "base/alloc.h"
#include "base/bits.h"
#include "base/bytes.h"
#include "base/num.h"
#include "base/str.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* 5.3.3 */
#define CON_F_SIZE (1ull << 0)
#define CON_F_MULTIPORT (1ull << 1)
#define CON_F_EMERG_WRITE (1ull << 2)

/* struct virtio_console_config (5.3.4) */
enum {
	CFG_COLS = 0,
	CFG_ROWS = 2,
	CFG_PORTS = 4,
	CFG_EMERG = 8,
	CFG_LEN = 12,
};

/* struct virtio_console_control (5.3.6.2): le32 id, le16 event, le16 value */
enum {
	EV_DEVICE_READY = 0,
	EV_PORT_ADD = 1,
	EV_PORT_READY = 3,
	EV_CONSOLE_PORT = 4,
	EV_RESIZE = 5,
	EV_PORT_OPEN = 6,
	EV_PORT_NAME = 7,
	EV_LEN = 8,
	EV_MAX_LEN = 64,
};

/* What the driver is still to hear of a port, in this order. */
enum {
	SAY_ADD = 1 << 0,
	SAY_CONSOLE = 1 << 1,
	SAY_NAME = 1 << 2,
	SAY_RESIZE = 1 << 3,
	SAY_OPEN = 1 << 4,
	SAY_ALL = (1 << 5) - 1,
};

enum {
	Q_CTRL_RX = 2,
	Q_CTRL_TX = 3,
	RING = 128,
	CTRL_RING = 32,
};

struct vport {
	struct vcon *d;
	unsigned id;
	struct chr *chr;
	struct chr_client client;
	char name[EV_MAX_LEN - EV_LEN];
	/* The backend waits for writable. */
	bool tx_blocked;
	/* Saved: the driver knows it, has it open (MULTIPORT); what to tell; bytes of the first
	 * chain that are sent. */
	uint8_t ready, open, say;
	uint64_t tx_done;
};

struct vcon {
	struct virtio_dev v;
	unsigned nports;
	struct lock cfg_lock;
	uint16_t cols, rows;
	/* The size changed since the loop looked; atomic. */
	uint8_t resized;
	struct vport port[VIRTIO_CONSOLE_PORTS];
	struct virtq_seg seg[RING];
};

static struct vcon *vcon_of(struct virtio_dev *v)
{
	return container_of(v, struct vcon, v);
}

/* 5.3.2: the control queues come after those of port 0. */
static struct virtq *vport_rx(struct vport *p)
{
	return &p->d->v.vq[p->id ? 2 * p->id + 2 : 0];
}

static struct virtq *vport_tx(struct vport *p)
{
	return &p->d->v.vq[p->id ? 2 * p->id + 3 : 1];
}

static bool vcon_multiport(const struct vcon *d)
{
	return virtio_has(&d->v, CON_F_MULTIPORT);
}

/* Bytes for the guest. */

static size_t vport_fill(struct vport *p, const uint8_t *data, size_t len)
{
	struct virtq *q = vport_rx(p);
	struct virtq_chain c = { .seg = p->d->seg, .cap = RING };
	size_t done = 0;

	while (done < len && virtq_pop(q, &c) > 0) {
		size_t n = virtq_copy_in(q, &c, 0, data + done, len - done);

		if (!n) {
			virtq_fail(q, "receive buffer that cannot be written");
			break;
		}
		virtq_push(q, c.head, (uint32_t)n);
		done += n;
	}
	if (done)
		virtio_interrupt_soon(q);
	return done;
}

static size_t vport_input(struct chr_client *cl, const uint8_t *data, size_t len)
{
	struct vport *p = container_of(cl, struct vport, client);
	struct virtq *q = vport_rx(p);
	size_t done = 0;

	if (!virtio_live(&p->d->v) || (vcon_multiport(p->d) && !p->open))
		return 0;
	/* Twice: buffers may come between the last look and asking for a bell. */
	for (int round = 0; round < 2 && done < len; round++) {
		done += vport_fill(p, data + done, len - done);
		if (done < len && !virtq_notify_on(q, 0))
			break;
	}
	virtio_look(q);
	/* There were buffers both times: ask the backend again from the loop. */
	if (done < len && virtq_waiting(q))
		virtio_rekick(q);
	return done;
}

/* Bytes from the guest. */

/* Sends a chain from p->tx_done on; false: the backend is full. */
static bool vport_send(struct vport *p, const struct virtq_chain *c)
{
	struct iovec iov[RING];
	uint64_t done = MIN(p->tx_done, c->out_bytes);
	unsigned n = virtq_iov(c, false, done, UINT64_MAX, iov, RING);

	for (unsigned i = 0; i < n && p->chr; i++) {
		size_t took = chr_write(p->chr, iov[i].iov_base, iov[i].iov_len);

		p->tx_done += took;
		if (took < iov[i].iov_len)
			return false;
	}
	p->tx_done = 0;
	return true;
}

static void vport_drain(struct vport *p)
{
	struct virtq *q = vport_tx(p);
	struct virtq_chain c = { .seg = p->d->seg, .cap = RING };
	unsigned sent = 0;

	virtq_notify_off(q);
	for (; sent < q->size && virtq_pop(q, &c) > 0; sent++) {
		if (!vport_send(p, &c)) {
			virtq_unpop(q, 1);
			p->tx_blocked = true;
			break;
		}
		virtq_push(q, c.head, 0);
	}
	if (sent)
		virtio_interrupt_soon(q);
	if (!p->tx_blocked && virtq_notify_on(q, 0))
		virtio_rekick(q);
}

static void vport_writable(struct chr_client *cl)
{
	struct vport *p = container_of(cl, struct vport, client);

	if (!virtio_live(&p->d->v) || !p->tx_blocked)
		return;
	p->tx_blocked = false;
	vport_drain(p);
	virtio_look(vport_tx(p));
}

/* The control queues. */

/* The message for one bit of p->say; returns its length. */
static size_t vport_message(struct vport *p, unsigned bit, uint8_t *b)
{
	static const uint16_t event[] = { EV_PORT_ADD, EV_CONSOLE_PORT, EV_PORT_NAME, EV_RESIZE,
					  EV_PORT_OPEN };
	size_t len = EV_LEN;

	st_le32(b, p->id);
	st_le16(b + 4, event[bit]);
	st_le16(b + 6, 1);
	if (event[bit] == EV_PORT_NAME) {
		memcpy(b + EV_LEN, p->name, strlen(p->name));
		len += strlen(p->name);
	} else if (event[bit] == EV_RESIZE) {
		SCOPED_LOCK(&p->d->cfg_lock);
		st_le16(b + EV_LEN, p->d->cols);
		st_le16(b + EV_LEN + 2, p->d->rows);
		len += 4;
	}
	return len;
}

static void vcon_talk(struct vcon *d)
{
	struct virtq *q = &d->v.vq[Q_CTRL_RX];
	struct virtq_chain c = { .seg = d->seg, .cap = RING };
	uint8_t b[EV_MAX_LEN];

	for (unsigned i = 0; i < d->nports; i++) {
		struct vport *p = &d->port[i];

		while (p->say) {
			unsigned bit = (unsigned)__builtin_ctz(p->say);

			if (virtq_pop(q, &c) <= 0 &&
			    (!virtq_notify_on(q, 0) || virtq_pop(q, &c) <= 0))
				return;
			size_t len = vport_message(p, bit, b);
			/* A message is cut by a buffer that is too small; drivers use a page. */
			len = virtq_copy_in(q, &c, 0, b, len);
			virtq_push(q, c.head, (uint32_t)len);
			virtio_interrupt_soon(q);
			p->say &= (uint8_t)~BIT(bit);
		}
	}
}

static void vcon_hear(struct vcon *d, const uint8_t *b)
{
	uint32_t id = ld_le32(b);
	uint16_t event = ld_le16(b + 4), value = ld_le16(b + 6);

	if (event == EV_DEVICE_READY) {
		for (unsigned i = 0; value && i < d->nports; i++)
			d->port[i].say |= SAY_ADD;
		return;
	}
	if (id >= d->nports)
		return;
	struct vport *p = &d->port[id];
	if (event == EV_PORT_READY && value) {
		p->ready = 1;
		p->say |= SAY_OPEN;
		if (!id)
			p->say |= SAY_CONSOLE | SAY_RESIZE;
		if (p->name[0])
			p->say |= SAY_NAME;
	} else if (event == EV_PORT_OPEN) {
		p->open = value != 0;
		if (p->open && p->chr)
			chr_poll(p->chr);
	}
}

static void vcon_listen(struct vcon *d, struct virtq *q)
{
	struct virtq_chain c = { .seg = d->seg, .cap = RING };
	uint8_t b[EV_LEN];
	unsigned n = 0;

	for (; n < q->size && virtq_pop(q, &c) > 0; n++) {
		bool whole = virtq_copy_out(&c, 0, b, sizeof(b)) == sizeof(b);

		virtq_push(q, c.head, 0);
		if (whole)
			vcon_hear(d, b);
	}
	if (n)
		virtio_interrupt_soon(q);
	vcon_talk(d);
	virtio_look(&d->v.vq[Q_CTRL_RX]);
	if (virtq_notify_on(q, 0))
		virtio_rekick(q);
}

static void vcon_kick(struct virtio_dev *v, struct virtq *q)
{
	struct vcon *d = vcon_of(v);

	if (vcon_multiport(d) && q->index == Q_CTRL_TX) {
		vcon_listen(d, q);
		return;
	}
	if (vcon_multiport(d) && q->index == Q_CTRL_RX) {
		if (__atomic_exchange_n(&d->resized, 0, __ATOMIC_ACQ_REL) && d->port[0].ready)
			d->port[0].say |= SAY_RESIZE;
		vcon_talk(d);
		return;
	}
	unsigned id = q->index < 2 ? 0 : q->index / 2 - 1u;
	if (id >= d->nports)
		return;
	struct vport *p = &d->port[id];
	if (q == vport_rx(p)) {
		virtq_notify_off(q);
		if (p->chr)
			chr_poll(p->chr);
	} else if (!p->tx_blocked) {
		vport_drain(p);
	}
}

/* Config space, life. */

static uint64_t vcon_features(struct virtio_dev *v)
{
	return CON_F_SIZE | CON_F_EMERG_WRITE | (vcon_of(v)->nports > 1 ? CON_F_MULTIPORT : 0);
}

static void vcon_config_get(struct virtio_dev *v, size_t off, void *p, size_t n)
{
	struct vcon *d = vcon_of(v);
	uint8_t c[CFG_LEN] = { 0 };

	SCOPED_LOCK(&d->cfg_lock);
	st_le16(c + CFG_COLS, d->cols);
	st_le16(c + CFG_ROWS, d->rows);
	st_le32(c + CFG_PORTS, d->nports);
	memcpy(p, c + off, n);
}

/* 5.3.4: a character without any driver; it is dropped when the backend is full. */
static void vcon_config_set(struct virtio_dev *v, size_t off, const void *p, size_t n UNUSED)
{
	struct vcon *d = vcon_of(v);

	if (off == CFG_EMERG && d->port[0].chr)
		(void)chr_write(d->port[0].chr, p, 1);
}

void virtio_console_resize(struct virtio_dev *v, uint16_t cols, uint16_t rows)
{
	struct vcon *d = vcon_of(v);

	lock(&d->cfg_lock);
	d->cols = cols;
	d->rows = rows;
	unlock(&d->cfg_lock);
	virtio_config_changed(v);
	if (d->nports > 1) {
		__atomic_store_n(&d->resized, 1, __ATOMIC_RELEASE);
		virtio_kick(v, Q_CTRL_RX);
	}
}

static void vcon_start(struct virtio_dev *v)
{
	struct vcon *d = vcon_of(v);

	for (unsigned i = 0; i < d->nports; i++)
		d->port[i].tx_blocked = false;
}

static void vcon_reset(struct virtio_dev *v)
{
	struct vcon *d = vcon_of(v);

	for (unsigned i = 0; i < d->nports; i++) {
		struct vport *p = &d->port[i];

		p->ready = p->open = p->say = 0;
		p->tx_done = 0;
		p->tx_blocked = false;
	}
}

static void vcon_free(struct virtio_dev *v)
{
	struct vcon *d = vcon_of(v);

	lock_fini(&d->cfg_lock);
	free(d);
}

static const struct virtio_type vcon_type = {
	.name = "virtio-console",
	.id = VIRTIO_ID_CONSOLE,
	.pci_class = 0x078000,
	.config_len = CFG_LEN,
	.features = vcon_features,
	.config_get = vcon_config_get,
	.config_set = vcon_config_set,
	.start = vcon_start,
	.kick = vcon_kick,
	.reset = vcon_reset,
	.free = vcon_free,
};

/* Saved state. */

static int vcon_check(const void *obj, struct err *e)
{
	const struct vcon *d = obj;

	for (unsigned i = 0; i < VIRTIO_CONSOLE_PORTS; i++)
		if (d->port[i].ready > 1 || d->port[i].open > 1 || (d->port[i].say & ~SAY_ALL) ||
		    (i >= d->nports && (d->port[i].open || d->port[i].say)))
			return err_set(e, EPROTO, "port %u, which this device does not have", i);
	return virtio_check(&d->v, e);
}

static const struct state_field vport_fields[] = {
	STATE_FIELD(struct vport, ready, 1),
	STATE_FIELD(struct vport, open, 1),
	STATE_FIELD(struct vport, say, 1),
	STATE_FIELD(struct vport, tx_done, 1),
};

static const struct state_desc vport_state = {
	.name = "port",
	.version = 1,
	.oldest = 1,
	.field = vport_fields,
	.nfield = COUNT_OF(vport_fields),
};

static const struct state_field vcon_fields[] = {
	STATE_STRUCT_FIELD(struct vcon, v, &virtio_state, 1),
	STATE_FIELD(struct vcon, cols, 1),
	STATE_FIELD(struct vcon, rows, 1),
	STATE_STRUCT_ARRAY(struct vcon, port, &vport_state, 1),
};

static const struct state_desc vcon_state = {
	.name = "virtio-console",
	.version = 1,
	.oldest = 1,
	.field = vcon_fields,
	.nfield = COUNT_OF(vcon_fields),
	.check = vcon_check,
};

static const struct dev_ops vcon_ops = {
	.type = "virtio-console",
	.free = virtio_dev_free,
	.reset = virtio_dev_reset,
	.state = &vcon_state,
	.state_obj = virtio_dev_state_obj,
	.state_size = sizeof(struct vcon),
	.post_load = virtio_dev_post_load,
	.stop = virtio_dev_stop,
	.start = virtio_dev_start,
};

static int vcon_set_up(struct vcon *d, const struct virtio_console_opts *o, struct err *e)
{
	unsigned queues = d->nports > 1 ? 2 * d->nports + 2 : 2;

	for (unsigned i = 0; i < d->nports; i++) {
		struct vport *p = &d->port[i];

		p->d = d;
		p->id = i;
		p->client = (struct chr_client){ vport_input, vport_writable };
		if (o->port_name[i] && !str_copy(p->name, sizeof(p->name), o->port_name[i]))
			return err_set(e, EINVAL, "%s: the name of port %u is too long", o->name,
				       i);
	}
	for (unsigned i = 0; i < queues; i++) {
		bool ctrl = i == Q_CTRL_RX || i == Q_CTRL_TX;
		int rc = virtio_add_queue(&d->v, i, ctrl ? CTRL_RING : RING, e);

		if (rc < 0)
			return rc;
	}
	return 0;
}

int virtio_console_new(struct virtio_dev **ret, struct board *b,
		       const struct virtio_console_opts *o, struct err *e)
{
	if (o->ports > VIRTIO_CONSOLE_PORTS)
		return err_set(e, EINVAL, "%s: %u ports, at most %d are possible", o->name,
			       o->ports, VIRTIO_CONSOLE_PORTS);
	struct vcon *d = NEW(struct vcon);

	if (!d)
		return err_set(e, ENOMEM, "no memory for '%s'", o->name);
	lock_init(&d->cfg_lock);
	d->nports = o->ports ? o->ports : 1;
	int rc = virtio_init(&d->v, &vcon_type, &vcon_ops, b, o->loop, o->name, e);
	if (rc == 0)
		rc = vcon_set_up(d, o, e);
	if (rc < 0) {
		dev_free(&d->v.dev);
		return rc;
	}
	*ret = &d->v;
	return 0;
}

struct chr_client *virtio_console_client(struct virtio_dev *v, unsigned port)
{
	return &vcon_of(v)->port[port].client;
}

void virtio_console_attach(struct virtio_dev *v, unsigned port, struct chr *c)
{
	vcon_of(v)->port[port].chr = c;
}
