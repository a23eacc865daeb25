/*
 * A tap interface of the host: by name, or a descriptor that somebody opened for us.
 *
 * The kernel speaks the same header as virtio (IFF_VNET_HDR), so checksums and segmentation go
 * through to whoever can do them.  TUNSETOFFLOAD says what the guest takes unfinished.
 */
#include "net/net_int.h"

#include "base/cleanup.h"
#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

/* Linux 6.2 */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

struct tap {
	struct net n;
	int fd;
	struct loop_fd f;
	unsigned features;
	bool rx_on, tx_full;
};

static struct tap *tap_of(struct net *n)
{
	return container_of(n, struct tap, n);
}

static void tap_update(struct tap *t)
{
	loop_fd_set(&t->f, (t->rx_on ? LOOP_IN : 0u) | (t->tx_full ? LOOP_OUT : 0u));
}

static void tap_event(struct loop_fd *f, unsigned events)
{
	struct tap *t = container_of(f, struct tap, f);
	struct net_client *c = t->n.client;

	if (events & LOOP_OUT && t->tx_full) {
		t->tx_full = false;
		tap_update(t);
		c->writable(c);
	}
	if (events & LOOP_IN && t->rx_on)
		c->readable(c);
	/* The interface is gone: nothing comes any more, and this would come for ever. */
	if (events == LOOP_ERR)
		loop_fd_del(f);
}

static int tap_open_name(struct tap *t, const char *name, struct err *e)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };

	if (!*name || strlen(name) >= sizeof(ifr.ifr_name))
		return err_set(e, EINVAL, "'%s' is no name for an interface", name);
	t->fd = os.open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK, 0);
	if (t->fd < 0)
		return err_set(e, errno, "cannot open /dev/net/tun: %s", strerror(errno));
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	int rc = os.ioctl(t->fd, TUNSETIFF, &ifr);
	if (rc < 0 && errno == EINVAL) {
		/* One that was made with multi_queue wants to be asked so. */
		ifr.ifr_flags |= IFF_MULTI_QUEUE;
		rc = os.ioctl(t->fd, TUNSETIFF, &ifr);
	}
	if (rc == 0)
		return 0;
	if (errno == EPERM)
		return err_set(
			e, EPERM,
			"not allowed to use tap '%s' (try, as root: ip tuntap add dev %s mode "
			"tap user $USER vnet_hdr)",
			name, name);
	if (errno == EBUSY)
		return err_set(e, EBUSY, "tap '%s' is used by another VM", name);
	if (errno == EINVAL)
		return err_set(e, EINVAL, "'%s' is not a tap interface", name);
	return err_set(e, errno, "cannot use tap '%s': %s", name, strerror(errno));
}

static int tap_check_fd(struct tap *t, struct err *e)
{
	struct ifreq ifr = { 0 };

	if (os.ioctl(t->fd, TUNGETIFF, &ifr) < 0)
		return err_set(e, errno, "descriptor %d is not a tap: %s", t->fd, strerror(errno));
	if (!(ifr.ifr_flags & IFF_TAP) || !(ifr.ifr_flags & IFF_VNET_HDR))
		return err_set(e, EINVAL, "descriptor %d is not a tap with vnet_hdr", t->fd);
	int flags = fcntl(t->fd, F_GETFL);
	if (flags < 0 || fcntl(t->fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return err_set(e, errno, "cannot make descriptor %d non-blocking: %s", t->fd,
			       strerror(errno));
	return 0;
}

static int tap_offload(struct tap *t, unsigned long tun_flags)
{
	return os.ioctl(t->fd, TUNSETOFFLOAD, (void *)tun_flags);
}

/* What this kernel hands over unfinished; what it takes unfinished is no question. */
static void tap_probe(struct tap *t)
{
	t->features = NET_F_TX_CSUM | NET_F_TX_TSO4 | NET_F_TX_TSO6 | NET_F_TX_ECN;
	if (tap_offload(t, TUN_F_CSUM) == 0)
		t->features |= NET_F_RX_CSUM;
	if (tap_offload(t, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) == 0)
		t->features |= NET_F_RX_TSO4 | NET_F_RX_TSO6;
	if (tap_offload(t, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN) == 0)
		t->features |= NET_F_RX_ECN;
	if (tap_offload(t, TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6) == 0)
		t->features |= NET_F_RX_USO | NET_F_TX_USO;
}

static int tap_open(struct net *n, const struct net_opts *o, struct err *e)
{
	struct tap *t = tap_of(n);
	int hdr_len = NET_HDR_LEN;

	t->fd = -1;
	if (!o->ifname)
		t->fd = o->fd;
	int rc = o->ifname ? tap_open_name(t, o->ifname, e) : tap_check_fd(t, e);
	if (rc == 0 && os.ioctl(t->fd, TUNSETVNETHDRSZ, &hdr_len) < 0)
		rc = err_set(e, errno, "cannot set the tap's header size: %s", strerror(errno));
	if (rc == 0) {
		tap_probe(t);
		if (tap_offload(t, 0) < 0)
			rc = err_set(e, errno, "cannot set the tap's offloads: %s",
				     strerror(errno));
	}
	if (rc == 0) {
		t->f.fn = tap_event;
		rc = loop_fd_add(n->loop, &t->f, t->fd, 0);
		if (rc < 0)
			rc = err_set(e, -rc, "cannot watch the tap: %s", strerror(-rc));
	}
	/* On failure the descriptor stays the caller's. */
	if (rc < 0 && !o->ifname)
		t->fd = -1;
	return rc;
}

static void tap_close(struct net *n)
{
	struct tap *t = tap_of(n);

	loop_fd_del(&t->f);
	close_fd(&t->fd);
}

static ssize_t tap_send(struct net *n, const struct iovec *iov, unsigned niov)
{
	struct tap *t = tap_of(n);
	ssize_t rc;

	if (t->tx_full)
		return -EAGAIN;
	do
		rc = writev(t->fd, iov, (int)niov);
	while (rc < 0 && errno == EINTR);
	if (rc >= 0)
		return rc;
	if (errno != EAGAIN || !t->f.loop)
		return errno == EAGAIN ? -EIO : -errno;
	t->tx_full = true;
	tap_update(t);
	return -EAGAIN;
}

static ssize_t tap_recv(struct net *n, const struct iovec *iov, unsigned niov)
{
	ssize_t rc;

	do
		rc = readv(tap_of(n)->fd, iov, (int)niov);
	while (rc < 0 && errno == EINTR);
	/* Whatever is wrong: there is no frame now. */
	return rc < 0 ? -EAGAIN : rc;
}

static void tap_rx_enable(struct net *n, bool on)
{
	struct tap *t = tap_of(n);

	t->rx_on = on;
	if (t->f.loop)
		tap_update(t);
}

static unsigned tap_features(struct net *n)
{
	return tap_of(n)->features;
}

static int tap_set_features(struct net *n, unsigned f)
{
	unsigned long tun = 0;

	/* The kernel refuses segments without checksums. */
	if (f & NET_F_RX_CSUM)
		tun = TUN_F_CSUM | (f & NET_F_RX_TSO4 ? TUN_F_TSO4 : 0) |
		      (f & NET_F_RX_TSO6 ? TUN_F_TSO6 : 0) |
		      (f & NET_F_RX_USO ? TUN_F_USO4 | TUN_F_USO6 : 0);
	if (tun & (TUN_F_TSO4 | TUN_F_TSO6) && f & NET_F_RX_ECN)
		tun |= TUN_F_TSO_ECN;
	return tap_offload(tap_of(n), tun) < 0 ? -errno : 0;
}

const struct net_driver net_tap = {
	.name = "tap",
	.size = sizeof(struct tap),
	.open = tap_open,
	.close = tap_close,
	.send = tap_send,
	.recv = tap_recv,
	.rx_enable = tap_rx_enable,
	.features = tap_features,
	.set_features = tap_set_features,
};
