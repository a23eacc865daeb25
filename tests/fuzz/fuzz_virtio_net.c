/* virtio-net: frames both ways, a backend that is full at times, the control queue. */
#include "fuzz/dev.h"
#include "net/net.h"

#include <errno.h>

struct nic {
	struct net n;
	struct fuzz f;
	bool full;
	/* Frames that wait to be received, and their length. */
	unsigned waiting;
	size_t len;
};

static ssize_t nic_send(struct net *n, const struct iovec *iov, unsigned niov)
{
	struct nic *c = container_of(n, struct nic, n);
	size_t sum = 0;
	uint8_t x = 0;

	if (c->full)
		return -EAGAIN;
	for (unsigned i = 0; i < niov; i++) {
		const volatile uint8_t *p = iov[i].iov_base;

		for (size_t k = 0; k < iov[i].iov_len; k += 61)
			x ^= p[k];
		sum += iov[i].iov_len;
	}
	if (sum < NET_HDR_LEN || sum > NET_FRAME_MAX)
		rig_die("net", "frame of a wrong size");
	return (ssize_t)(sum + (x & 0));
}

static ssize_t nic_recv(struct net *n, const struct iovec *iov, unsigned niov)
{
	struct nic *c = container_of(n, struct nic, n);

	if (!c->waiting)
		return -EAGAIN;
	c->waiting--;
	size_t len = MIN(c->len, iov[0].iov_len);
	memset(iov[0].iov_base, 0xff, len);
	return (ssize_t)len;
}

static void nic_rx_enable(struct net *n, bool on)
{
}

static unsigned nic_features(struct net *n)
{
	return 0x3ff;
}

static const struct net_driver nic_driver = {
	.name = "fuzz",
	.send = nic_send,
	.recv = nic_recv,
	.rx_enable = nic_rx_enable,
	.features = nic_features,
};

static void nic_backend(struct fuzz *f, uint64_t arg)
{
	struct nic *c = container_of(f, struct nic, f);

	if (arg & 1) {
		c->full = arg & 2;
		if (!c->full)
			c->n.client->writable(c->n.client);
	} else if (arg & 4) {
		c->n.client->link(c->n.client, arg & 8);
	} else {
		c->waiting = (unsigned)(arg >> 4);
		c->len = fuzz_num(f, 2) * 2 % NET_FRAME_MAX;
		c->n.client->readable(c->n.client);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct nic c = { .f = { .r = rig_new(), .backend = nic_backend } };
	const struct virtio_net_opts o = {
		.name = "net0", .loop = c.f.r->loop, .mtu = 1500, .queue_size = 16
	};
	struct err e = { 0 };

	if (virtio_net_new(&c.f.v, &c.f.r->board, &o, &e) < 0)
		rig_die("net", e.msg);
	c.n = (struct net){ .drv = &nic_driver,
			    .loop = c.f.r->loop,
			    .client = virtio_net_client(c.f.v) };
	virtio_net_attach(c.f.v, &c.n);
	fuzz_run(&c.f, data, size);
	rig_free(c.f.r);
	return 0;
}
