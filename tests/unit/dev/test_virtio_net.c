/* virtio-net in front of a backend that keeps what it gets and gives what it is told to. */
#include "lib/t.h"
#include "base/bytes.h"
#include "dev/virtio/virtio.h"
#include "lib/dev_rig.h"
#include "net/net.h"

#include <errno.h>
#include <string.h>

#define F_CSUM (1ull << 0)
#define F_GUEST_CSUM (1ull << 1)
#define F_OFFLOADS (1ull << 2)
#define F_MTU (1ull << 3)
#define F_MAC (1ull << 5)
#define F_GUEST_TSO4 (1ull << 7)
#define F_HOST_TSO4 (1ull << 11)
#define F_MRG (1ull << 15)
#define F_STATUS (1ull << 16)
#define F_CTRL (1ull << 17)
#define F_CTRL_RX (1ull << 18)
#define F_VLAN (1ull << 19)
#define F_RX_EXTRA (1ull << 20)
#define F_ANNOUNCE (1ull << 21)
#define F_CTRL_MAC (1ull << 23)

enum {
	RX = 0,
	TX = 1,
	CTRL = 2,
	RXBUF = 0x200000,
	TXBUF = 0x300000,
	CMD = 0x400000,
	FRAMES = 128,
};

static const uint8_t my_mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };

struct fake_net {
	struct net n;
	unsigned features, used_features;
	bool full, rx_on;
	/* Sent by the guest. */
	unsigned nsent;
	size_t sent_len;
	uint8_t sent[NET_FRAME_MAX + 100];
	/* For the guest. */
	unsigned head, tail;
	size_t len[FRAMES];
	uint8_t *frame[FRAMES];
};

static struct fake_net *fake_of(struct net *n)
{
	return container_of(n, struct fake_net, n);
}

static ssize_t fake_send(struct net *n, const struct iovec *iov, unsigned niov)
{
	struct fake_net *f = fake_of(n);

	if (f->full)
		return -EAGAIN;
	f->sent_len = 0;
	for (unsigned i = 0; i < niov; i++) {
		assert_true(f->sent_len + iov[i].iov_len <= sizeof(f->sent));
		memcpy(f->sent + f->sent_len, iov[i].iov_base, iov[i].iov_len);
		f->sent_len += iov[i].iov_len;
	}
	f->nsent++;
	return (ssize_t)f->sent_len;
}

static ssize_t fake_recv(struct net *n, const struct iovec *iov, unsigned niov)
{
	struct fake_net *f = fake_of(n);

	assert_int_equal(niov, 1);
	if (f->head == f->tail)
		return -EAGAIN;
	unsigned i = f->tail++ % FRAMES;
	assert_true(f->len[i] <= iov[0].iov_len);
	memcpy(iov[0].iov_base, f->frame[i], f->len[i]);
	free(f->frame[i]);
	return (ssize_t)f->len[i];
}

static void fake_rx_enable(struct net *n, bool on)
{
	fake_of(n)->rx_on = on;
}

static unsigned fake_features(struct net *n)
{
	return fake_of(n)->features;
}

static int fake_set_features(struct net *n, unsigned f)
{
	fake_of(n)->used_features = f;
	return 0;
}

static const struct net_driver fake_driver = {
	.name = "fake",
	.send = fake_send,
	.recv = fake_recv,
	.rx_enable = fake_rx_enable,
	.features = fake_features,
	.set_features = fake_set_features,
};

struct fix {
	struct rig *r;
	struct fake_net net;
	struct virtio_dev *v;
	struct vdrv d;
};

static struct fix *fix_new(unsigned features, uint16_t mtu)
{
	struct fix *f = calloc(1, sizeof(*f));
	struct virtio_net_opts o = { .name = "net0", .mtu = mtu, .queue_size = 16 };
	struct err e = { 0 };

	f->r = rig_new();
	o.loop = f->r->loop;
	memcpy(o.mac, my_mac, 6);
	assert_int_equal(virtio_net_new(&f->v, &f->r->board, &o, &e), 0);
	f->net.features = features;
	f->net.n = (struct net){
		.drv = &fake_driver,
		.loop = f->r->loop,
		.client = virtio_net_client(f->v),
	};
	virtio_net_attach(f->v, &f->net.n);
	return f;
}

static void fix_start(struct fix *f, uint64_t features)
{
	vd_start(&f->d, f->r, rig_plug(f->r, f->v), features, 3);
}

static void fix_free(struct fix *f)
{
	rig_free(f->r);
	while (f->net.tail != f->net.head)
		free(f->net.frame[f->net.tail++ % FRAMES]);
	free(f);
}

/* A frame of len bytes (header included) to dst comes in. */
static void arrive(struct fix *f, const uint8_t *dst, size_t len, uint8_t fill)
{
	struct fake_net *n = &f->net;
	unsigned i = n->head % FRAMES;
	uint8_t *p = malloc(len);

	memset(p, fill, len);
	memset(p, 0, NET_HDR_LEN);
	if (len >= NET_HDR_LEN + 6)
		memcpy(p + NET_HDR_LEN, dst, 6);
	n->frame[i] = p;
	n->len[i] = len;
	n->head++;
}

static void readable(struct fix *f)
{
	if (f->net.rx_on)
		f->net.n.client->readable(f->net.n.client);
	rig_run(f->r);
}

static void offer_rx(struct fix *f, unsigned n, uint32_t len)
{
	struct vring *q = &f->d.q[RX];

	for (unsigned i = 0; i < n; i++) {
		struct vbuf b = { RXBUF + 0x1000ull * q->free[q->nfree - 1], len, true };

		assert_true(vring_add(q, &b, 1, false) >= 0);
	}
}

static bool get_rx(struct fix *f, uint64_t *ret_gpa, uint32_t *ret_len)
{
	uint16_t head;

	if (!vring_get(&f->d.q[RX], &head, ret_len))
		return false;
	*ret_gpa = ld_le64(vring_p(&f->d.q[RX], f->d.q[RX].desc + 16ull * head));
	return true;
}

/* Does a frame for dst pass the filters? */
static bool passes(struct fix *f, const uint8_t *dst, size_t len)
{
	uint64_t gpa;
	uint32_t got;

	offer_rx(f, 1, 2048);
	vd_kick(&f->d, RX);
	rig_run(f->r);
	arrive(f, dst, len, 0);
	readable(f);
	if (get_rx(f, &gpa, &got)) {
		assert_int_equal(got, len);
		return true;
	}
	/* The buffer is used by one that does. */
	return false;
}

/* A control command; its answer. */
static int ctrl(struct fix *f, unsigned class, unsigned cmd, const void *p, uint32_t len)
{
	uint8_t *c = rig_ram(f->r, CMD);
	const struct vbuf b[] = { { CMD, 2, false },
				  { CMD + 2, len, false },
				  { CMD + 0x8000, 1, true } };
	const struct vbuf none[] = { b[0], b[2] };
	uint16_t head;
	uint32_t used;

	c[0] = (uint8_t) class;
	c[1] = (uint8_t)cmd;
	if (len)
		memcpy(c + 2, p, len);
	c[0x8000] = 0xee;
	assert_true((len ? vring_add(&f->d.q[CTRL], b, 3, false)
			 : vring_add(&f->d.q[CTRL], none, 2, false)) >= 0);
	vd_kick(&f->d, CTRL);
	rig_run(f->r);
	assert_true(vring_get(&f->d.q[CTRL], &head, &used));
	assert_int_equal(used, 1);
	return c[0x8000];
}

static int ctrl8(struct fix *f, unsigned class, unsigned cmd, uint8_t v)
{
	return ctrl(f, class, cmd, &v, 1);
}

/* Sends a frame of len bytes behind a header with these flags; was it taken by the backend? */
static bool send(struct fix *f, uint8_t flags, uint8_t gso, uint32_t len)
{
	uint8_t *h = rig_ram(f->r, TXBUF);
	const struct vbuf b[] = { { TXBUF, 12, false }, { TXBUF + 0x1000, len, false } };
	unsigned before = f->net.nsent;
	uint16_t head;
	uint32_t used;

	memset(h, 0, 12);
	h[0] = flags;
	h[1] = gso;
	st_le16(h + 10, 77);
	memset(rig_ram(f->r, TXBUF + 0x1000), 0x5a, len);
	assert_true(vring_add(&f->d.q[TX], b, 2, false) >= 0);
	vd_kick(&f->d, TX);
	rig_run(f->r);
	assert_true(vring_get(&f->d.q[TX], &head, &used));
	assert_int_equal(used, 0);
	return f->net.nsent != before;
}

/* Configuration interrupts so far: the vector after those of the queues. */
static unsigned config_irqs(struct fix *f)
{
	return f->r->msi[RIG_MSI_DATA + 3];
}

static void test_config(void **state)
{
	struct fix *f = fix_new(NET_F_TX_CSUM | NET_F_TX_TSO4 | NET_F_RX_TSO4, 9000);

	fix_start(f, F_MAC | F_MTU | F_STATUS);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(vd_cfg(&f->d, i, 1), my_mac[i]);
	assert_int_equal(vd_cfg(&f->d, 6, 2), 1);
	assert_int_equal(vd_cfg(&f->d, 10, 2), 9000);
	uint64_t o = vd_offered(&f->d);
	assert_true(o & F_CSUM && o & F_HOST_TSO4 && o & F_MTU && o & F_MRG);
	/* Receive TSO needs receive checksums, which this backend has not. */
	assert_false(o & (F_GUEST_TSO4 | F_GUEST_CSUM));
	/* And the driver is held to it. */
	assert_false(vd_negotiate(&f->d, VIRTIO_F_VERSION_1 | F_HOST_TSO4));
	assert_false(vd_negotiate(&f->d, VIRTIO_F_VERSION_1 | F_CTRL_RX));
	assert_true(vd_negotiate(&f->d, VIRTIO_F_VERSION_1 | F_HOST_TSO4 | F_CSUM));
	fix_free(f);
}

static void test_link(void **state)
{
	struct fix *f = fix_new(0, 0);

	fix_start(f, F_STATUS);
	unsigned irqs = config_irqs(f);
	uint64_t gen = vd_get(&f->d, VC_GENERATION, 1);
	virtio_net_set_link(f->v, false);
	assert_int_equal(vd_cfg(&f->d, 6, 2), 0);
	assert_int_equal(config_irqs(f), irqs + 1);
	assert_int_not_equal(vd_get(&f->d, VC_GENERATION, 1), gen);
	/* A dead link carries nothing, and the guest is not told so in its rings. */
	assert_false(send(f, 0, 0, 100));
	assert_false(passes(f, my_mac, 100));
	/* Carrier and wish together. */
	f->net.n.client->link(f->net.n.client, false);
	virtio_net_set_link(f->v, true);
	assert_int_equal(vd_cfg(&f->d, 6, 2), 0);
	f->net.n.client->link(f->net.n.client, true);
	assert_int_equal(vd_cfg(&f->d, 6, 2), 1);
	virtio_net_set_link(f->v, true);
	assert_true(send(f, 0, 0, 100));
	fix_free(f);
}

static void test_send(void **state)
{
	struct fix *f = fix_new(NET_F_TX_CSUM | NET_F_TX_TSO4, 0);

	fix_start(f, F_CSUM | F_HOST_TSO4);
	assert_int_equal(f->net.used_features, NET_F_TX_CSUM | NET_F_TX_TSO4);
	assert_true(send(f, 0, 0, 100));
	assert_int_equal(f->net.sent_len, 112);
	/* num_buffers is not the guest's here; the frame is what it wrote. */
	assert_int_equal(ld_le16(f->net.sent + 10), 0);
	assert_int_equal(f->net.sent[12], 0x5a);
	assert_int_equal(f->net.sent[111], 0x5a);
	assert_true(send(f, 1, 1, 4000));
	assert_int_equal(f->net.sent[0], 1);
	/* Flags of the other direction do not pass; offloads that nobody took, and junk, are
	 * dropped. */
	assert_true(send(f, 1 | 2, 0, 100));
	assert_int_equal(f->net.sent[0], 1);
	assert_false(send(f, 1, 4, 4000));
	assert_false(send(f, 1, 5, 4000));
	assert_false(send(f, 1, 0x81, 4000));
	assert_false(send(f, 0, 99, 4000));
	assert_true(send(f, 0, 0, NET_FRAME_MAX - 12));
	assert_false(send(f, 0, 0, NET_FRAME_MAX - 11));
	/* A header and nothing, less than a header. */
	const struct vbuf b = { TXBUF, 12, false }, c = { TXBUF, 5, false };
	unsigned before = f->net.nsent;
	vring_add(&f->d.q[TX], &b, 1, false);
	vring_add(&f->d.q[TX], &c, 1, false);
	vd_kick(&f->d, TX);
	rig_run(f->r);
	assert_int_equal(f->net.nsent, before);
	assert_int_equal(vd_get(&f->d, VC_STATUS, 1) & VIRTIO_NEEDS_RESET, 0);
	fix_free(f);
}

/* A full backend gets the same frame again, in order, and none twice. */
static void test_send_full(void **state)
{
	struct fix *f = fix_new(0, 0);
	uint16_t head;
	uint32_t len;

	fix_start(f, VIRTIO_F_EVENT_IDX);
	f->net.full = true;
	for (unsigned i = 0; i < 5; i++) {
		const struct vbuf b = { TXBUF, 50 + i, false };

		vring_add(&f->d.q[TX], &b, 1, false);
	}
	vd_kick(&f->d, TX);
	rig_run(f->r);
	vd_kick(&f->d, TX);
	rig_run(f->r);
	assert_false(vring_get(&f->d.q[TX], &head, &len));
	/* Paused and resumed meanwhile. */
	board_stop(&f->r->board);
	board_start(&f->r->board);
	rig_run(f->r);
	assert_false(vring_get(&f->d.q[TX], &head, &len));
	f->net.full = false;
	f->net.n.client->writable(f->net.n.client);
	rig_run(f->r);
	assert_int_equal(f->net.nsent, 5);
	assert_int_equal(f->net.sent_len, 54);
	for (unsigned i = 0; i < 5; i++)
		assert_true(vring_get(&f->d.q[TX], &head, &len));
	fix_free(f);
}

static void test_receive(void **state)
{
	struct fix *f = fix_new(0, 0);
	uint64_t gpa;
	uint32_t len;

	fix_start(f, 0);
	assert_true(f->net.rx_on);
	offer_rx(f, 3, 1600);
	vd_kick(&f->d, RX);
	rig_run(f->r);
	arrive(f, my_mac, 1526, 0x42);
	arrive(f, my_mac, 100, 0x43);
	readable(f);
	assert_true(get_rx(f, &gpa, &len));
	assert_int_equal(len, 1526);
	const uint8_t *p = rig_ram(f->r, gpa);
	assert_int_equal(ld_le16(p + 10), 1);
	assert_memory_equal(p + 12, my_mac, 6);
	assert_int_equal(p[18], 0x42);
	assert_int_equal(p[1525], 0x42);
	assert_true(get_rx(f, &gpa, &len));
	assert_int_equal(rig_ram(f->r, gpa)[99], 0x43);
	/* Larger than a buffer, without merging: dropped, the next one comes. */
	arrive(f, my_mac, 2000, 0x44);
	arrive(f, my_mac, 90, 0x45);
	readable(f);
	assert_true(get_rx(f, &gpa, &len));
	assert_int_equal(len, 90);
	assert_int_equal(f->net.n.stats.dropped, 1);
	assert_true(vd_irqs(&f->d, RX) > 0);
	fix_free(f);
}

/* One frame in many buffers appears at once; with too few it waits and the backend is silent. */
static void test_merge(void **state)
{
	struct fix *f = fix_new(0, 0);
	uint64_t gpa;
	uint32_t len;

	fix_start(f, F_MRG);
	offer_rx(f, 3, 1000);
	vd_kick(&f->d, RX);
	rig_run(f->r);
	arrive(f, my_mac, 4500, 0x42);
	readable(f);
	assert_false(get_rx(f, &gpa, &len));
	assert_false(f->net.rx_on);
	assert_int_equal(ld_le16(vring_p(&f->d.q[RX], f->d.q[RX].used + 2)), 0);
	offer_rx(f, 4, 1000);
	vd_kick(&f->d, RX);
	rig_run(f->r);
	assert_true(f->net.rx_on);
	for (unsigned i = 0; i < 5; i++) {
		assert_true(get_rx(f, &gpa, &len));
		assert_int_equal(len, i < 4 ? 1000 : 500);
		if (!i)
			assert_int_equal(ld_le16(rig_ram(f->r, gpa + 10)), 5);
		assert_int_equal(*rig_ram(f->r, gpa + len - 1), 0x42);
	}
	assert_false(get_rx(f, &gpa, &len));
	/* Larger than all buffers that there can be: dropped rather than waited for. */
	offer_rx(f, 14, 100);
	arrive(f, my_mac, 6000, 0x43);
	arrive(f, my_mac, 60, 0x44);
	readable(f);
	assert_true(get_rx(f, &gpa, &len));
	assert_int_equal(len, 60);
	fix_free(f);
}

static void test_backpressure(void **state)
{
	struct fix *f = fix_new(0, 0);
	uint64_t gpa;
	uint32_t len;

	fix_start(f, VIRTIO_F_EVENT_IDX);
	for (uint8_t i = 0; i < 100; i++)
		arrive(f, my_mac, 64, i);
	readable(f);
	assert_false(f->net.rx_on);
	for (unsigned i = 0; i < 100;) {
		offer_rx(f, 7, 100);
		vd_kick(&f->d, RX);
		rig_run(f->r);
		for (; get_rx(f, &gpa, &len); i++)
			assert_int_equal(*rig_ram(f->r, gpa + 20), i);
	}
	/* A pause silences the backend, a resume wakes it. */
	board_stop(&f->r->board);
	assert_false(f->net.rx_on);
	board_start(&f->r->board);
	rig_run(f->r);
	assert_true(f->net.rx_on);
	fix_free(f);
}

static void test_bad_rx(void **state)
{
	struct fix *f = fix_new(0, 0);
	const struct vbuf small = { RXBUF, 11, true }, readonly = { RXBUF, 2000, false };

	fix_start(f, 0);
	vring_add(&f->d.q[RX], &small, 1, false);
	arrive(f, my_mac, 64, 1);
	readable(f);
	assert_true(vd_get(&f->d, VC_STATUS, 1) & VIRTIO_NEEDS_RESET);
	vd_start(&f->d, f->r, f->d.slot, F_MRG, 3);
	vring_add(&f->d.q[RX], &readonly, 1, false);
	arrive(f, my_mac, 64, 1);
	readable(f);
	assert_true(vd_get(&f->d, VC_STATUS, 1) & VIRTIO_NEEDS_RESET);
	assert_false(f->net.rx_on);
	fix_free(f);
}

static void test_filters(void **state)
{
	static const uint8_t other[6] = { 0x52, 0x54, 0, 9, 9, 9 };
	static const uint8_t bcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	static const uint8_t multi[6] = { 0x33, 0x33, 0, 0, 0, 1 };
	const uint64_t all = F_CTRL | F_CTRL_RX | F_RX_EXTRA | F_CTRL_MAC;
	uint8_t table[4 + 6 + 4 + 6];
	struct fix *f = fix_new(0, 0);

	fix_start(f, all);
	/* Promiscuous until told otherwise. */
	assert_true(passes(f, other, 64));
	assert_int_equal(ctrl8(f, 0, 0, 0), 0);
	assert_false(passes(f, other, 64));
	assert_true(passes(f, my_mac, 64));
	assert_true(passes(f, bcast, 64));
	assert_false(passes(f, multi, 64));
	assert_int_equal(ctrl8(f, 0, 1, 1), 0);
	assert_true(passes(f, multi, 64));
	assert_int_equal(ctrl8(f, 0, 3, 1), 0);
	assert_false(passes(f, multi, 64));
	assert_int_equal(ctrl8(f, 0, 5, 1), 0);
	assert_false(passes(f, bcast, 64));
	assert_int_equal(ctrl8(f, 0, 4, 1), 0);
	assert_false(passes(f, my_mac, 64));
	/* Back, with tables. */
	for (unsigned mode = 1; mode < 6; mode++)
		assert_int_equal(ctrl8(f, 0, mode, 0), 0);
	st_le32(table, 1);
	memcpy(table + 4, other, 6);
	st_le32(table + 10, 1);
	memcpy(table + 14, multi, 6);
	assert_int_equal(ctrl(f, 1, 0, table, sizeof(table)), 0);
	assert_true(passes(f, other, 64));
	assert_true(passes(f, multi, 64));
	/* Cut, too long, a count that wraps: refused, and the old tables stay. */
	assert_int_equal(ctrl(f, 1, 0, table, sizeof(table) - 1), 1);
	assert_int_equal(ctrl(f, 1, 0, table, 3), 1);
	st_le32(table, 0xffffffff);
	assert_int_equal(ctrl(f, 1, 0, table, sizeof(table)), 1);
	st_le32(table, 0x2aaaaaab);
	assert_int_equal(ctrl(f, 1, 0, table, sizeof(table)), 1);
	assert_true(passes(f, other, 64));
	/* More than the table holds: all of that kind pass. */
	uint8_t many[4 + 6 * 65 + 4] = { 0 };
	st_le32(many, 65);
	assert_int_equal(ctrl(f, 1, 0, many, sizeof(many)), 0);
	assert_true(passes(f, other, 64));
	assert_false(passes(f, multi, 64));
	/* The card's own address. */
	st_le32(many, 0);
	assert_int_equal(ctrl(f, 1, 0, many, 8), 0);
	assert_false(passes(f, other, 64));
	assert_int_equal(ctrl(f, 1, 1, other, 6), 0);
	assert_true(passes(f, other, 64));
	assert_int_equal(vd_cfg(&f->d, 5, 1), 9);
	/* What is not there, or not negotiated. */
	assert_int_equal(ctrl8(f, 0, 6, 1), 1);
	assert_int_equal(ctrl8(f, 9, 0, 1), 1);
	assert_int_equal(ctrl(f, 2, 0, "\1\0", 2), 1);
	assert_int_equal(ctrl(f, 3, 0, NULL, 0), 1);
	assert_int_equal(ctrl(f, 1, 1, other, 5), 1);
	/* A reset forgets. */
	vd_start(&f->d, f->r, f->d.slot, all, 3);
	assert_int_equal(vd_cfg(&f->d, 5, 1), 3);
	assert_true(passes(f, multi, 64));
	fix_free(f);
}

static void test_vlan(void **state)
{
	struct fix *f = fix_new(0, 0);
	/* Type and tag lie behind two addresses. */
	uint8_t *p;

	fix_start(f, F_CTRL | F_VLAN);
	for (unsigned round = 0; round < 3; round++) {
		uint64_t gpa;
		uint32_t len;

		if (round)
			assert_int_equal(ctrl(f, 2, round - 1, "\x05\x01", 2), 0);
		offer_rx(f, 1, 200);
		vd_kick(&f->d, RX);
		rig_run(f->r);
		arrive(f, my_mac, 64, 0);
		p = f->net.frame[(f->net.head - 1) % FRAMES] + NET_HDR_LEN;
		st_be16(p + 12, 0x8100);
		/* Priority bits do not matter. */
		st_be16(p + 14, 0xe105);
		readable(f);
		assert_int_equal(get_rx(f, &gpa, &len), round == 1);
	}
	/* Untagged frames always pass. */
	assert_true(passes(f, my_mac, 64));
	assert_int_equal(ctrl(f, 2, 0, "\x00\x10", 2), 1);
	assert_int_equal(ctrl(f, 2, 2, "\x00\x00", 2), 1);
	fix_free(f);
}

static void test_offloads(void **state)
{
	struct fix *f = fix_new(NET_F_RX_CSUM | NET_F_RX_TSO4, 0);
	uint8_t b[8];

	fix_start(f, F_CTRL | F_OFFLOADS | F_GUEST_CSUM);
	assert_int_equal(f->net.used_features, NET_F_RX_CSUM);
	st_le64(b, 0);
	assert_int_equal(ctrl(f, 5, 0, b, 8), 0);
	assert_int_equal(f->net.used_features, 0);
	/* Not negotiated. */
	st_le64(b, F_GUEST_CSUM | F_GUEST_TSO4);
	assert_int_equal(ctrl(f, 5, 0, b, 8), 1);
	st_le64(b, F_GUEST_CSUM);
	assert_int_equal(ctrl(f, 5, 0, b, 8), 0);
	assert_int_equal(f->net.used_features, NET_F_RX_CSUM);
	fix_free(f);
}

static void test_state(void **state)
{
	struct fix *f = fix_new(0, 0), *g = fix_new(0, 0);
	static const uint8_t other[6] = { 2, 0, 0, 9, 9, 9 };
	struct state_buf buf = { 0 };
	struct err e = { 0 };

	fix_start(f, F_STATUS | F_CTRL | F_CTRL_RX | F_CTRL_MAC | F_ANNOUNCE);
	assert_int_equal(ctrl8(f, 0, 0, 0), 0);
	assert_int_equal(ctrl(f, 1, 1, other, 6), 0);
	board_stop(&f->r->board);
	assert_int_equal(board_save(&f->r->board, &buf, &e), 0);
	rig_plug(g->r, g->v);
	board_stop(&g->r->board);
	memcpy(g->r->gmem.r[0].host, f->r->gmem.r[0].host, RIG_RAM);
	assert_int_equal(board_load(&g->r->board, buf.data, buf.len, &e), 0);
	g->d = f->d;
	g->d.r = g->r;
	for (unsigned i = 0; i < 3; i++)
		g->d.q[i].m = &g->r->gmem;
	unsigned irqs = config_irqs(g);
	board_start(&g->r->board);
	rig_run(g->r);
	assert_int_equal(vd_cfg(&g->d, 5, 1), 9);
	/* The guest is asked to announce itself, until it says it did. */
	assert_int_equal(vd_cfg(&g->d, 6, 2), 3);
	assert_int_equal(config_irqs(g), irqs + 1);
	assert_int_equal(ctrl(g, 3, 0, NULL, 0), 0);
	assert_int_equal(vd_cfg(&g->d, 6, 2), 1);
	assert_true(passes(g, other, 64));
	assert_false(passes(g, my_mac, 64));
	virtio_net_announce(g->v);
	assert_int_equal(vd_cfg(&g->d, 6, 2), 3);
	state_buf_fini(&buf);
	fix_free(f);
	fix_free(g);
}

/* Fills the stack below the caller. */
static __attribute__((noinline)) void stain_stack(void)
{
	volatile uint8_t b[32768];

	for (size_t i = 0; i < sizeof(b); i++)
		b[i] = 0xa5;
}

/* A stream holds the guest's state, and nothing of our stack. */
static void test_state_clean(void **state)
{
	struct fix *f = fix_new(0, 0);
	uint8_t table[4 + 6 + 4] = { 1, 0, 0, 0, 2, 0, 0, 1, 1, 1 };
	struct state_buf buf = { 0 };
	struct err e = { 0 };
	unsigned stains = 0;

	fix_start(f, F_CTRL | F_CTRL_RX);
	stain_stack();
	assert_int_equal(ctrl(f, 1, 0, table, sizeof(table)), 0);
	board_stop(&f->r->board);
	assert_int_equal(board_save(&f->r->board, &buf, &e), 0);
	for (size_t i = 0; i < buf.len; i++)
		stains += buf.data[i] == 0xa5;
	assert_true(stains < 8);
	state_buf_fini(&buf);
	fix_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_config),       cmocka_unit_test(test_link),
		cmocka_unit_test(test_send),         cmocka_unit_test(test_send_full),
		cmocka_unit_test(test_receive),      cmocka_unit_test(test_merge),
		cmocka_unit_test(test_backpressure), cmocka_unit_test(test_bad_rx),
		cmocka_unit_test(test_filters),      cmocka_unit_test(test_vlan),
		cmocka_unit_test(test_offloads),     cmocka_unit_test(test_state),
		cmocka_unit_test(test_state_clean),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
