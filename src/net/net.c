/*
 * The door to every net backend: lengths are checked here, frames counted and traced.
 */
#include "net/net_int.h"

#include "base/alloc.h"
#include "base/num.h"
#include "base/trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct net_driver *net_find(const char *type, struct err *e)
{
	char names[128] = "";

	for (const struct net_driver *const *d = net_drivers; *d; d++) {
		size_t len = strlen(names);

		if (!strcmp((*d)->name, type))
			return *d;
		snprintf(names + len, sizeof(names) - len, "%s%s", len ? ", " : "", (*d)->name);
	}
	err_set(e, EINVAL, "no network backend '%s' (there is: %s)", type, names);
	return NULL;
}

int net_open(struct net **ret, const struct net_opts *o, struct err *e)
{
	const struct net_driver *drv = net_find(o->type, e);

	if (!drv)
		return -e->code;
	struct net *n = xzalloc(drv->size);
	if (!n)
		return err_set(e, ENOMEM, "no memory for network '%s'", o->type);
	n->drv = drv;
	n->loop = o->loop;
	n->client = o->client;
	int rc = drv->open(n, o, e);
	if (rc < 0) {
		drv->close(n);
		free(n);
		return err_in(e, "network '%s'", o->type);
	}
	*ret = n;
	return 0;
}

void net_close(struct net *n)
{
	if (!n)
		return;
	n->drv->close(n);
	free(n);
}

/* Sum of the pieces; 0 when it is more than any frame. */
static size_t net_iov_len(const struct iovec *iov, unsigned niov)
{
	size_t sum = 0;

	for (unsigned i = 0; i < niov; i++)
		if (!add_ok(sum, iov[i].iov_len, &sum) || sum > NET_FRAME_MAX)
			return 0;
	return sum;
}

ssize_t net_send(struct net *n, const struct iovec *iov, unsigned niov)
{
	size_t len = net_iov_len(iov, niov);
	ssize_t rc = -EINVAL;

	if (len >= NET_HDR_LEN + NET_ETH_LEN)
		rc = n->drv->send(n, iov, niov);
	TRACE(net_send, "%s len=%zu rc=%zd", n->drv->name, len, rc);
	if (rc >= 0) {
		n->stats.tx_frames++;
		n->stats.tx_bytes += len - NET_HDR_LEN;
	} else if (rc != -EAGAIN) {
		n->stats.dropped++;
	}
	return rc;
}

ssize_t net_recv(struct net *n, const struct iovec *iov, unsigned niov)
{
	ssize_t rc = n->drv->recv(n, iov, niov);

	TRACE(net_recv, "%s rc=%zd", n->drv->name, rc);
	if (rc >= NET_HDR_LEN) {
		n->stats.rx_frames++;
		n->stats.rx_bytes += (size_t)rc - NET_HDR_LEN;
	}
	return rc;
}

void net_rx_enable(struct net *n, bool on)
{
	n->drv->rx_enable(n, on);
}

unsigned net_features(struct net *n)
{
	return n->drv->features ? n->drv->features(n) : 0;
}

int net_set_features(struct net *n, unsigned f)
{
	if (f & ~net_features(n))
		return -EINVAL;
	return n->drv->set_features ? n->drv->set_features(n, f) : 0;
}
