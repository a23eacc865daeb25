/* A cable that ends nowhere: frames are dropped and none come. */
#include "net/net_int.h"

#include <errno.h>

static int none_open(struct net *n UNUSED, const struct net_opts *o UNUSED, struct err *e UNUSED)
{
	return 0;
}

static void none_close(struct net *n UNUSED)
{
}

static ssize_t none_send(struct net *n UNUSED, const struct iovec *iov, unsigned niov)
{
	ssize_t len = 0;

	for (unsigned i = 0; i < niov; i++)
		len += (ssize_t)iov[i].iov_len;
	return len;
}

static ssize_t none_recv(struct net *n UNUSED, const struct iovec *iov UNUSED, unsigned niov UNUSED)
{
	return -EAGAIN;
}

static void none_rx_enable(struct net *n UNUSED, bool on UNUSED)
{
}

const struct net_driver net_none = {
	.name = "none",
	.size = sizeof(struct net),
	.open = none_open,
	.close = none_close,
	.send = none_send,
	.recv = none_recv,
	.rx_enable = none_rx_enable,
};
