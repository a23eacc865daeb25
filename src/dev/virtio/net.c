/*
 * virtio-net (virtio 1.2, 5.1): one pair of queues and a control queue in front of a net backend.
 *
 * Sending: the guest's buffers go to the backend as they are, behind a header of 12 bytes that was
 * copied, checked against the negotiated offloads, and is passed from the copy.  A backend that is
 * full (-EAGAIN) gets the same chain again when it says writable.
 *
 * Receiving: a frame is read into `frame`, filtered, and copied into as many buffers as it needs
 * (MRG_RXBUF), which the guest sees at once.  Without buffers the frame waits there and the backend
 * is asked to be silent: the pressure goes back to who sends.  A frame that waits is lost in a
 * save, as frames may be.
 *
 * Filters (rx mode, MAC table, VLANs) are the loop's, set through the control queue and applied to
 * what comes in; after reset the card is promiscuous.
 *
 * cfg_lock guards mac, link_up, carrier and announce: config space is read by vCPUs.
 *
 * Left out: several queue pairs, RSS, notification coalescing.
 */
#include "net/net.h"
#include "dev/virtio/virtio_int.h"

#include "base/alloc.h"
#include "base/bits.h"
#include "base/bug.h"
#include "base/bytes.h"
#include "base/num.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* 5.1.3 */
#define NF_CSUM (1ull << 0)
#define NF_GUEST_CSUM (1ull << 1)
#define NF_CTRL_GUEST_OFFLOADS (1ull << 2)
#define NF_MTU (1ull << 3)
#define NF_MAC (1ull << 5)
#define NF_GUEST_TSO4 (1ull << 7)
#define NF_GUEST_TSO6 (1ull << 8)
#define NF_GUEST_ECN (1ull << 9)
#define NF_HOST_TSO4 (1ull << 11)
#define NF_HOST_TSO6 (1ull << 12)
#define NF_HOST_ECN (1ull << 13)
#define NF_MRG_RXBUF (1ull << 15)
#define NF_STATUS (1ull << 16)
#define NF_CTRL_VQ (1ull << 17)
#define NF_CTRL_RX (1ull << 18)
#define NF_CTRL_VLAN (1ull << 19)
#define NF_CTRL_RX_EXTRA (1ull << 20)
#define NF_GUEST_ANNOUNCE (1ull << 21)
#define NF_CTRL_MAC_ADDR (1ull << 23)
#define NF_GUEST_USO4 (1ull << 54)
#define NF_GUEST_USO6 (1ull << 55)
#define NF_HOST_USO (1ull << 56)

#define NF_GUEST_OFFLOADS                                                               \
	(NF_GUEST_CSUM | NF_GUEST_TSO4 | NF_GUEST_TSO6 | NF_GUEST_ECN | NF_GUEST_USO4 | \
	 NF_GUEST_USO6)

/* struct virtio_net_hdr (5.1.6) */
enum {
	HDR_FLAGS = 0,
	HDR_GSO_TYPE = 1,
	HDR_NUM_BUFFERS = 10,
	HDR_F_NEEDS_CSUM = 1,
	GSO_NONE = 0,
	GSO_TCPV4 = 1,
	GSO_TCPV6 = 4,
	GSO_UDP_L4 = 5,
	GSO_ECN = 0x80,
};

/* struct virtio_net_config (5.1.4) */
enum {
	CFG_MAC = 0,
	CFG_STATUS = 6,
	CFG_PAIRS = 8,
	CFG_MTU = 10,
	CFG_LEN = 12,
	STATUS_LINK_UP = 1,
	STATUS_ANNOUNCE = 2,
};

/* The control queue (5.1.6.5). */
enum {
	CTRL_RX = 0,
	CTRL_MAC = 1,
	CTRL_MAC_TABLE = 0,
	CTRL_MAC_ADDR = 1,
	CTRL_VLAN = 2,
	CTRL_VLAN_ADD = 0,
	CTRL_VLAN_DEL = 1,
	CTRL_ANNOUNCE = 3,
	CTRL_OFFLOADS = 5,
	CTRL_OK = 0,
	CTRL_ERR = 1,
};

/* Commands of CTRL_RX are indices of rx_mode[]. */
enum rx_mode {
	RX_PROMISC,
	RX_ALLMULTI,
	RX_ALLUNI,
	RX_NOMULTI,
	RX_NOUNI,
	RX_NOBCAST,
	RX_MODES,
};

enum {
	Q_RX = 0,
	Q_TX = 1,
	Q_CTRL = 2,
	RING = 256,
	CTRL_RING = 64,
	MAC_LEN = 6,
	ETH_LEN = 14,
	ETH_TYPE_VLAN = 0x8100,
	VLANS = 4096,
	/* Entries of the MAC table; more, and everything of that kind passes. */
	MACS = 64,
	/* Frames received before other devices of the loop have their turn. */
	RX_BUDGET = 64,
	SEGS = VIRTIO_RING_MAX,
};

struct mac_table {
	/* Saved. */
	uint8_t n, overflow;
	uint8_t mac[MACS * MAC_LEN];
};

struct vnet {
	struct virtio_dev v;
	struct net *net;
	/* NET_F_* of it. */
	unsigned net_features;
	struct net_client client;
	uint8_t own_mac[MAC_LEN];
	uint16_t mtu;
	/* Guards mac, link_up, carrier, announce; a leaf. */
	struct lock cfg_lock;
	/* As the management side and the backend have it. */
	bool link_up, carrier;
	/* Saved from here; announce: the guest is to tell its neighbours. */
	uint8_t announce;
	uint8_t mac[MAC_LEN];
	/* Offloads that the guest takes now, of those it negotiated. */
	uint64_t offloads;
	uint8_t rx_mode[RX_MODES];
	struct mac_table uni, multi;
	uint64_t vlan[BITMAP_WORDS(VLANS)];
	/* To here. */
	bool rx_blocked, tx_blocked;
	/* A received frame that waits for buffers; 0: none. */
	size_t frame_len;
	uint8_t *frame;
	struct virtq_seg seg[SEGS], first_seg[SEGS];
	struct iovec iov[SEGS + 1];
};

static struct vnet *vnet_of(struct virtio_dev *v)
{
	return container_of(v, struct vnet, v);
}

/* Offloads: a virtio feature and what the backend calls it. */
static const struct {
	uint64_t feature;
	unsigned net;
} offload_map[] = {
	{ NF_CSUM, NET_F_TX_CSUM },       { NF_HOST_TSO4, NET_F_TX_TSO4 },
	{ NF_HOST_TSO6, NET_F_TX_TSO6 },  { NF_HOST_ECN, NET_F_TX_ECN },
	{ NF_HOST_USO, NET_F_TX_USO },    { NF_GUEST_CSUM, NET_F_RX_CSUM },
	{ NF_GUEST_TSO4, NET_F_RX_TSO4 }, { NF_GUEST_TSO6, NET_F_RX_TSO6 },
	{ NF_GUEST_ECN, NET_F_RX_ECN },   { NF_GUEST_USO4, NET_F_RX_USO },
	{ NF_GUEST_USO6, NET_F_RX_USO },
};

/* A feature that needs one of others (5.1.3.1). */
static const struct {
	uint64_t feature, needs_one_of;
} feature_needs[] = {
	{ NF_GUEST_TSO4, NF_GUEST_CSUM },
	{ NF_GUEST_TSO6, NF_GUEST_CSUM },
	{ NF_GUEST_ECN, NF_GUEST_TSO4 | NF_GUEST_TSO6 },
	{ NF_GUEST_USO4, NF_GUEST_CSUM },
	{ NF_GUEST_USO6, NF_GUEST_CSUM },
	{ NF_HOST_TSO4, NF_CSUM },
	{ NF_HOST_TSO6, NF_CSUM },
	{ NF_HOST_ECN, NF_HOST_TSO4 | NF_HOST_TSO6 },
	{ NF_HOST_USO, NF_CSUM },
	{ NF_CTRL_RX, NF_CTRL_VQ },
	{ NF_CTRL_VLAN, NF_CTRL_VQ },
	{ NF_CTRL_RX_EXTRA, NF_CTRL_VQ },
	{ NF_GUEST_ANNOUNCE, NF_CTRL_VQ },
	{ NF_CTRL_MAC_ADDR, NF_CTRL_VQ },
	{ NF_CTRL_GUEST_OFFLOADS, NF_CTRL_VQ },
};

static bool vnet_features_ok(struct virtio_dev *v UNUSED, uint64_t f)
{
	for (unsigned i = 0; i < COUNT_OF(feature_needs); i++)
		if ((f & feature_needs[i].feature) && !(f & feature_needs[i].needs_one_of))
			return false;
	return true;
}

static uint64_t vnet_features(struct virtio_dev *v)
{
	struct vnet *n = vnet_of(v);
	uint64_t f = NF_MAC | NF_MRG_RXBUF | NF_STATUS | NF_CTRL_VQ | NF_CTRL_RX | NF_CTRL_VLAN |
		     NF_CTRL_RX_EXTRA | NF_GUEST_ANNOUNCE | NF_CTRL_MAC_ADDR |
		     NF_CTRL_GUEST_OFFLOADS;

	if (n->mtu)
		f |= NF_MTU;
	for (unsigned i = 0; i < COUNT_OF(offload_map); i++)
		if (n->net_features & offload_map[i].net)
			f |= offload_map[i].feature;
	/* A backend may have TSO and no checksums, which virtio cannot say. */
	for (unsigned i = 0; i < COUNT_OF(feature_needs); i++)
		if (!(f & feature_needs[i].needs_one_of))
			f &= ~feature_needs[i].feature;
	return f;
}

/* Tells the backend which offloads are in use. */
static void vnet_set_offloads(struct vnet *n)
{
	uint64_t f = n->v.features & (~NF_GUEST_OFFLOADS | n->offloads);
	unsigned use = 0;

	for (unsigned i = 0; i < COUNT_OF(offload_map); i++)
		if (f & offload_map[i].feature)
			use |= offload_map[i].net;
	if (!n->net)
		return;
	/* Frames with offloads that the guest did not take are useless to it. */
	if (net_set_features(n->net, use) < 0)
		log_guest(&n->v.limit, n->v.dev.name, "the host refuses offloads %#x", use);
}

static bool vnet_link(struct vnet *n)
{
	SCOPED_LOCK(&n->cfg_lock);
	return n->link_up && n->carrier;
}

/* Receiving. */

static bool mac_table_has(const struct mac_table *t, const uint8_t *mac)
{
	for (unsigned i = 0; i < t->n; i++)
		if (!memcmp(t->mac + i * MAC_LEN, mac, MAC_LEN))
			return true;
	return false;
}

static bool vnet_wants_mac(struct vnet *n, const uint8_t *mac)
{
	static const uint8_t bcast[MAC_LEN] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

	if (n->rx_mode[RX_PROMISC])
		return true;
	if (!memcmp(mac, bcast, MAC_LEN))
		return !n->rx_mode[RX_NOBCAST];
	if (mac[0] & 1)
		return !n->rx_mode[RX_NOMULTI] && (n->rx_mode[RX_ALLMULTI] || n->multi.overflow ||
						   mac_table_has(&n->multi, mac));
	if (n->rx_mode[RX_NOUNI])
		return false;
	/* mac changes on this thread only. */
	return n->rx_mode[RX_ALLUNI] || n->uni.overflow || !memcmp(mac, n->mac, MAC_LEN) ||
	       mac_table_has(&n->uni, mac);
}

static bool vnet_wants(struct vnet *n, const uint8_t *eth, size_t len)
{
	if (len < ETH_LEN)
		return false;
	if (virtio_has(&n->v, NF_CTRL_VLAN) && ld_be16(eth + 12) == ETH_TYPE_VLAN &&
	    len >= ETH_LEN + 4u && !bitmap_test(n->vlan, ld_be16(eth + ETH_LEN) & (VLANS - 1)))
		return false;
	return vnet_wants_mac(n, eth);
}

/* The waiting frame into buffers: true, it is gone (or was dropped); false, *ret_seen are too few.
 */
static bool vnet_deliver(struct vnet *n, struct virtq *q, unsigned *ret_seen)
{
	struct virtq_chain first = { .seg = n->first_seg, .cap = SEGS };
	struct virtq_chain more = { .seg = n->seg, .cap = SEGS };
	size_t done = 0;
	unsigned used = 0;

	while (done < n->frame_len) {
		struct virtq_chain *c = used ? &more : &first;

		if (used && !virtio_has(&n->v, NF_MRG_RXBUF)) {
			/* 5.1.6.3.1 makes buffers large enough for everything that was negotiated.
			 */
			virtq_unpop(q, used);
			n->net->stats.dropped++;
			return true;
		}
		*ret_seen = used;
		if (virtq_pop(q, c) <= 0) {
			virtq_unpop(q, used);
			/* Larger than all the buffers that there can be: waiting would not end. */
			if (used < q->size)
				return false;
			n->net->stats.dropped++;
			return true;
		}
		if (!used && c->in_bytes < NET_HDR_LEN) {
			virtq_fail(q, "receive buffer smaller than a header");
			return false;
		}
		size_t part = virtq_copy_in(q, c, 0, n->frame + done, n->frame_len - done);
		virtq_fill(q, used++, c->head, (uint32_t)part);
		done += part;
		/* A chain that only we can read holds nothing and would never end this. */
		if (!part) {
			virtq_fail(q, "receive buffer that cannot be written");
			return false;
		}
	}
	uint8_t num[2];
	st_le16(num, (uint16_t)used);
	virtq_copy_in(q, &first, HDR_NUM_BUFFERS, num, sizeof(num));
	virtq_flush(q, used);
	virtio_interrupt_soon(q);
	return true;
}

/* The next frame that the guest wants to see; false: none now. */
static bool vnet_next(struct vnet *n)
{
	const struct iovec iov = { n->frame, NET_FRAME_MAX };
	ssize_t len = net_recv(n->net, &iov, 1);

	if (len < 0)
		return false;
	bool good = len > NET_HDR_LEN && vnet_link(n) &&
		    vnet_wants(n, n->frame + NET_HDR_LEN, (size_t)len - NET_HDR_LEN);
	n->frame_len = good ? (size_t)len : 0;
	return true;
}

static void vnet_rx_block(struct vnet *n, bool block)
{
	if (n->rx_blocked == block)
		return;
	n->rx_blocked = block;
	net_rx_enable(n->net, !block);
}

static void vnet_rx(struct vnet *n)
{
	struct virtq *q = &n->v.vq[Q_RX];
	unsigned seen = 0;

	for (unsigned i = 0; i < RX_BUDGET; i++) {
		if (!n->frame_len && !vnet_next(n))
			return;
		if (!n->frame_len)
			continue;
		if (vnet_deliver(n, q, &seen)) {
			n->frame_len = 0;
			continue;
		}
		/* Too few buffers: wait for a kick, unless one came while we said so. */
		if (!virtq_notify_on(q, seen)) {
			vnet_rx_block(n, true);
			return;
		}
	}
	virtio_rekick(q);
}

static void vnet_rx_kick(struct vnet *n)
{
	virtq_notify_off(&n->v.vq[Q_RX]);
	vnet_rx_block(n, false);
	vnet_rx(n);
}

/* Sending. */

/* 5.1.6.2: only what was negotiated. */
static bool vnet_tx_hdr_ok(const struct vnet *n, const uint8_t *hdr)
{
	const struct virtio_dev *v = &n->v;

	if ((hdr[HDR_FLAGS] & HDR_F_NEEDS_CSUM) && !virtio_has(v, NF_CSUM))
		return false;
	if ((hdr[HDR_GSO_TYPE] & GSO_ECN) && !virtio_has(v, NF_HOST_ECN))
		return false;
	switch (hdr[HDR_GSO_TYPE] & ~GSO_ECN) {
	case GSO_NONE:
		return true;
	case GSO_TCPV4:
		return virtio_has(v, NF_HOST_TSO4);
	case GSO_TCPV6:
		return virtio_has(v, NF_HOST_TSO6);
	case GSO_UDP_L4:
		return virtio_has(v, NF_HOST_USO);
	}
	return false;
}

/* False: the backend is full, and the chain must come again. */
static bool vnet_send(struct vnet *n, const struct virtq_chain *c)
{
	uint8_t hdr[NET_HDR_LEN];

	if (c->out_bytes > NET_HDR_LEN && c->out_bytes <= NET_FRAME_MAX && n->net && vnet_link(n)) {
		virtq_copy_out(c, 0, hdr, sizeof(hdr));
		st_le16(hdr + HDR_NUM_BUFFERS, 0);
		/* DATA_VALID and others speak of received frames. */
		hdr[HDR_FLAGS] &= HDR_F_NEEDS_CSUM;
		if (vnet_tx_hdr_ok(n, hdr)) {
			n->iov[0] = (struct iovec){ hdr, sizeof(hdr) };
			unsigned niov =
				1 + virtq_iov(c, false, NET_HDR_LEN, UINT64_MAX, n->iov + 1, SEGS);

			return net_send(n->net, n->iov, niov) != -EAGAIN;
		}
	}
	if (n->net)
		n->net->stats.dropped++;
	return true;
}

static void vnet_tx(struct vnet *n)
{
	struct virtq *q = &n->v.vq[Q_TX];
	struct virtq_chain c = { .seg = n->seg, .cap = SEGS };
	unsigned sent = 0;

	virtq_notify_off(q);
	for (; sent < q->size && virtq_pop(q, &c) > 0; sent++) {
		if (!vnet_send(n, &c)) {
			virtq_unpop(q, 1);
			n->tx_blocked = true;
			break;
		}
		virtq_push(q, c.head, 0);
	}
	if (sent)
		virtio_interrupt_soon(q);
	if (!n->tx_blocked && virtq_notify_on(q, 0))
		virtio_rekick(q);
}

/* The control queue. */

static uint8_t ctrl_rx(struct vnet *n, unsigned cmd, const uint8_t *p, size_t len)
{
	uint64_t need = cmd <= RX_ALLMULTI ? NF_CTRL_RX : NF_CTRL_RX_EXTRA;

	if (cmd >= RX_MODES || len != 1 || !virtio_has(&n->v, need))
		return CTRL_ERR;
	n->rx_mode[cmd] = p[0] != 0;
	return CTRL_OK;
}

/* One list of addresses: le32 count, then so many.  Returns its length, 0 when it is cut. */
static size_t ctrl_mac_list(struct mac_table *t, const uint8_t *p, size_t len)
{
	size_t count = len < 4 ? SIZE_MAX : ld_le32(p);

	if (len < 4 || count > (len - 4) / MAC_LEN)
		return 0;
	t->overflow = count > MACS;
	t->n = t->overflow ? 0 : (uint8_t)count;
	memcpy(t->mac, p + 4, (size_t)t->n * MAC_LEN);
	return 4 + count * MAC_LEN;
}

static uint8_t ctrl_mac(struct vnet *n, unsigned cmd, const uint8_t *p, size_t len)
{
	if (cmd == CTRL_MAC_ADDR) {
		if (len != MAC_LEN || !virtio_has(&n->v, NF_CTRL_MAC_ADDR))
			return CTRL_ERR;
		SCOPED_LOCK(&n->cfg_lock);
		memcpy(n->mac, p, MAC_LEN);
		return CTRL_OK;
	}
	struct mac_table uni = { 0 }, multi = { 0 };
	if (cmd != CTRL_MAC_TABLE || !virtio_has(&n->v, NF_CTRL_RX))
		return CTRL_ERR;
	size_t used = ctrl_mac_list(&uni, p, len);
	if (!used || ctrl_mac_list(&multi, p + used, len - used) != len - used)
		return CTRL_ERR;
	n->uni = uni;
	n->multi = multi;
	return CTRL_OK;
}

static uint8_t ctrl_vlan(struct vnet *n, unsigned cmd, const uint8_t *p, size_t len)
{
	if (len != 2 || ld_le16(p) >= VLANS || !virtio_has(&n->v, NF_CTRL_VLAN))
		return CTRL_ERR;
	if (cmd == CTRL_VLAN_ADD)
		bitmap_set(n->vlan, ld_le16(p));
	else if (cmd == CTRL_VLAN_DEL)
		bitmap_clear(n->vlan, ld_le16(p));
	else
		return CTRL_ERR;
	return CTRL_OK;
}

static uint8_t ctrl_announce(struct vnet *n, unsigned cmd, size_t len)
{
	if (cmd != 0 || len || !virtio_has(&n->v, NF_GUEST_ANNOUNCE))
		return CTRL_ERR;
	SCOPED_LOCK(&n->cfg_lock);
	n->announce = 0;
	return CTRL_OK;
}

static uint8_t ctrl_offloads(struct vnet *n, unsigned cmd, const uint8_t *p, size_t len)
{
	if (cmd != 0 || len != 8 || !virtio_has(&n->v, NF_CTRL_GUEST_OFFLOADS) ||
	    (ld_le64(p) & ~(n->v.features & NF_GUEST_OFFLOADS)))
		return CTRL_ERR;
	n->offloads = ld_le64(p);
	vnet_set_offloads(n);
	return CTRL_OK;
}

static uint8_t vnet_ctrl_one(struct vnet *n, const struct virtq_chain *c)
{
	/* Two lists of addresses are the longest command. */
	uint8_t b[2 + 2 * (4 + 1024)];
	size_t len = virtq_copy_out(c, 0, b, sizeof(b));

	if (len < 2 || c->out_bytes > sizeof(b))
		return CTRL_ERR;
	const uint8_t *p = b + 2;
	switch (b[0]) {
	case CTRL_RX:
		return ctrl_rx(n, b[1], p, len - 2);
	case CTRL_MAC:
		return ctrl_mac(n, b[1], p, len - 2);
	case CTRL_VLAN:
		return ctrl_vlan(n, b[1], p, len - 2);
	case CTRL_ANNOUNCE:
		return ctrl_announce(n, b[1], len - 2);
	case CTRL_OFFLOADS:
		return ctrl_offloads(n, b[1], p, len - 2);
	}
	return CTRL_ERR;
}

static void vnet_ctrl(struct vnet *n, struct virtq *q)
{
	struct virtq_chain c = { .seg = n->seg, .cap = SEGS };

	for (unsigned i = 0; i < q->size && virtq_pop(q, &c) > 0; i++) {
		uint8_t ack = vnet_ctrl_one(n, &c);

		virtq_push(q, c.head, (uint32_t)virtq_copy_in(q, &c, 0, &ack, 1));
		virtio_interrupt_soon(q);
	}
	if (virtq_notify_on(q, 0))
		virtio_rekick(q);
}

static void vnet_kick(struct virtio_dev *v, struct virtq *q)
{
	struct vnet *n = vnet_of(v);

	if (q->index == Q_CTRL)
		vnet_ctrl(n, q);
	else if (!n->net)
		return;
	else if (q->index == Q_RX)
		vnet_rx_kick(n);
	else if (!n->tx_blocked)
		vnet_tx(n);
}

/* Upcalls of the backend, on the loop. */

static struct vnet *vnet_of_client(struct net_client *c)
{
	return container_of(c, struct vnet, client);
}

static void vnet_readable(struct net_client *c)
{
	struct vnet *n = vnet_of_client(c);

	if (!virtio_live(&n->v) || n->rx_blocked)
		return;
	vnet_rx(n);
	virtio_look(&n->v.vq[Q_RX]);
}

static void vnet_writable(struct net_client *c)
{
	struct vnet *n = vnet_of_client(c);

	if (!virtio_live(&n->v) || !n->tx_blocked)
		return;
	n->tx_blocked = false;
	vnet_tx(n);
	virtio_look(&n->v.vq[Q_TX]);
}

/* Any thread. */
static void vnet_set(struct vnet *n, bool *what, bool to)
{
	lock(&n->cfg_lock);
	bool news = *what != to;
	*what = to;
	unlock(&n->cfg_lock);
	if (news)
		virtio_config_changed(&n->v);
}

static void vnet_carrier(struct net_client *c, bool up)
{
	struct vnet *n = vnet_of_client(c);

	vnet_set(n, &n->carrier, up);
}

void virtio_net_set_link(struct virtio_dev *v, bool up)
{
	struct vnet *n = vnet_of(v);

	vnet_set(n, &n->link_up, up);
}

void virtio_net_announce(struct virtio_dev *v)
{
	struct vnet *n = vnet_of(v);

	lock(&v->dev.lock);
	bool can = (v->driver_features & NF_GUEST_ANNOUNCE) && (v->status & VIRTIO_DRIVER_OK);
	unlock(&v->dev.lock);
	if (!can)
		return;
	lock(&n->cfg_lock);
	n->announce = 1;
	unlock(&n->cfg_lock);
	virtio_config_changed(v);
}

/* Config space, life. */

static void vnet_config_get(struct virtio_dev *v, size_t off, void *p, size_t n)
{
	struct vnet *d = vnet_of(v);
	uint8_t c[CFG_LEN] = { 0 };

	SCOPED_LOCK(&d->cfg_lock);
	memcpy(c + CFG_MAC, d->mac, MAC_LEN);
	st_le16(c + CFG_STATUS, (uint16_t)((d->link_up && d->carrier ? STATUS_LINK_UP : 0) |
					   (d->announce ? STATUS_ANNOUNCE : 0)));
	st_le16(c + CFG_PAIRS, 1);
	st_le16(c + CFG_MTU, d->mtu);
	memcpy(p, c + off, n);
}

static void vnet_start(struct virtio_dev *v)
{
	struct vnet *n = vnet_of(v);

	n->rx_blocked = n->tx_blocked = false;
	vnet_set_offloads(n);
	if (n->net)
		net_rx_enable(n->net, true);
	lock(&n->cfg_lock);
	bool announce = n->announce;
	unlock(&n->cfg_lock);
	if (announce)
		virtio_config_changed(v);
}

static void vnet_stop(struct virtio_dev *v)
{
	struct vnet *n = vnet_of(v);

	if (n->net)
		net_rx_enable(n->net, false);
}

static void vnet_reset(struct virtio_dev *v)
{
	struct vnet *n = vnet_of(v);

	/* All that is negotiated, until the driver says otherwise. */
	n->offloads = NF_GUEST_OFFLOADS;
	n->frame_len = 0;
	memset(n->rx_mode, 0, sizeof(n->rx_mode));
	n->rx_mode[RX_PROMISC] = 1;
	memset(&n->uni, 0, sizeof(n->uni));
	memset(&n->multi, 0, sizeof(n->multi));
	memset(n->vlan, 0, sizeof(n->vlan));
	SCOPED_LOCK(&n->cfg_lock);
	n->announce = 0;
	memcpy(n->mac, n->own_mac, MAC_LEN);
}

static int vnet_post_load(struct virtio_dev *v, struct err *e UNUSED)
{
	struct vnet *n = vnet_of(v);

	/* The guest is somewhere else now, and the switches do not know. */
	n->announce = (v->status & VIRTIO_DRIVER_OK) && (v->driver_features & NF_GUEST_ANNOUNCE);
	n->frame_len = 0;
	return 0;
}

static void vnet_free(struct virtio_dev *v)
{
	struct vnet *n = vnet_of(v);

	lock_fini(&n->cfg_lock);
	free(n->frame);
	free(n);
}

static const struct virtio_type vnet_type = {
	.name = "virtio-net",
	.id = VIRTIO_ID_NET,
	.pci_class = 0x020000,
	.config_len = CFG_LEN,
	.features = vnet_features,
	.features_ok = vnet_features_ok,
	.config_get = vnet_config_get,
	.start = vnet_start,
	.stop = vnet_stop,
	.kick = vnet_kick,
	.reset = vnet_reset,
	.post_load = vnet_post_load,
	.free = vnet_free,
};

/* Saved state. */

static int vnet_check(const void *obj, struct err *e)
{
	const struct vnet *n = obj;

	if (n->uni.n > MACS || n->multi.n > MACS)
		return err_set(e, EPROTO, "%u and %u addresses", n->uni.n, n->multi.n);
	return virtio_check(&n->v, e);
}

static const struct state_field mac_table_fields[] = {
	STATE_FIELD(struct mac_table, n, 1),
	STATE_FIELD(struct mac_table, overflow, 1),
	STATE_ARRAY(struct mac_table, mac, 1),
};

static const struct state_desc mac_table_state = {
	.name = "mac-table",
	.version = 1,
	.oldest = 1,
	.field = mac_table_fields,
	.nfield = COUNT_OF(mac_table_fields),
};

static const struct state_field vnet_fields[] = {
	STATE_STRUCT_FIELD(struct vnet, v, &virtio_state, 1),
	STATE_FIELD(struct vnet, announce, 1),
	STATE_ARRAY(struct vnet, mac, 1),
	STATE_FIELD(struct vnet, offloads, 1),
	STATE_ARRAY(struct vnet, rx_mode, 1),
	STATE_STRUCT_FIELD(struct vnet, uni, &mac_table_state, 1),
	STATE_STRUCT_FIELD(struct vnet, multi, &mac_table_state, 1),
	STATE_ARRAY(struct vnet, vlan, 1),
};

static const struct state_desc vnet_state = {
	.name = "virtio-net",
	.version = 1,
	.oldest = 1,
	.field = vnet_fields,
	.nfield = COUNT_OF(vnet_fields),
	.check = vnet_check,
};

static const struct dev_ops vnet_ops = {
	.type = "virtio-net",
	.free = virtio_dev_free,
	.reset = virtio_dev_reset,
	.state = &vnet_state,
	.state_obj = virtio_dev_state_obj,
	.state_size = sizeof(struct vnet),
	.post_load = virtio_dev_post_load,
	.stop = virtio_dev_stop,
	.start = virtio_dev_start,
};

static int vnet_set_up(struct vnet *n, const struct virtio_net_opts *o, struct err *e)
{
	unsigned size = o->queue_size ? o->queue_size : RING;

	if (!is_pow2(size) || size < 4 || size > VIRTIO_RING_MAX)
		return err_set(e, EINVAL, "%s: queues of %u buffers", o->name, size);
	n->frame = xzalloc(NET_FRAME_MAX);
	if (!n->frame)
		return err_set(e, ENOMEM, "%s: no memory for a frame", o->name);
	int rc = virtio_add_queue(&n->v, Q_RX, size, e);
	if (rc == 0)
		rc = virtio_add_queue(&n->v, Q_TX, size, e);
	if (rc == 0)
		rc = virtio_add_queue(&n->v, Q_CTRL, CTRL_RING, e);
	return rc;
}

int virtio_net_new(struct virtio_dev **ret, struct board *b, const struct virtio_net_opts *o,
		   struct err *e)
{
	struct vnet *n = NEW(struct vnet);

	if (!n)
		return err_set(e, ENOMEM, "no memory for '%s'", o->name);
	lock_init(&n->cfg_lock);
	n->client = (struct net_client){ vnet_readable, vnet_writable, vnet_carrier };
	memcpy(n->own_mac, o->mac, MAC_LEN);
	n->mtu = o->mtu;
	n->link_up = n->carrier = true;
	vnet_reset(&n->v);
	int rc = virtio_init(&n->v, &vnet_type, &vnet_ops, b, o->loop, o->name, e);
	if (rc == 0)
		rc = vnet_set_up(n, o, e);
	if (rc < 0) {
		dev_free(&n->v.dev);
		return rc;
	}
	*ret = &n->v;
	return 0;
}

struct net_client *virtio_net_client(struct virtio_dev *v)
{
	return &vnet_of(v)->client;
}

/* The backend's functions are its loop's. */
static void vnet_ask_features(void *arg)
{
	struct vnet *n = arg;

	n->net_features = net_features(n->net);
}

void virtio_net_attach(struct virtio_dev *v, struct net *net)
{
	struct vnet *n = vnet_of(v);

	n->net = net;
	loop_call(v->loop, vnet_ask_features, n);
}
