/*
 * Networking without privileges: libslirp, a TCP/IP stack in this process that turns the guest's
 * packets into the host's sockets.  The guest is 10.0.2.15 (by DHCP), we are its router 10.0.2.2,
 * its DNS 10.0.2.3, and fec0::/64 is the IPv6 side; the router's address reaches the host itself.
 *
 * libslirp has no thread and no poll of its own.  Before each sleep it wants to be asked which
 * sockets it waits for, and after it to be told which of them are ready.  So whatever happens here
 * (a frame from the guest, a socket, a timer) posts `work`, which runs once behind all of that in
 * the round: it hands over what is ready, asks again, and brings the loop's descriptors in line.
 *
 * Frames for the guest wait in a bounded ring; what does not fit is dropped and TCP sends it again.
 * libslirp has no offloads: offload.c finishes what the guest leaves unfinished.  Frames from
 * libslirp never saw a wire, so their checksums need no look (DATA_VALID).
 */
#include "net/net_int.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"
#include "base/os.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libslirp.h>
#include <stdlib.h>
#include <string.h>

enum {
	USER_MTU = 1500,
	USER_FRAME_MAX = NET_ETH_LEN + USER_MTU,
	/* Frames for the guest. */
	USER_RING = 512,
	USER_TIMERS = 8,
};

struct user_timer {
	struct loop_timer t;
	SlirpTimerCb fn;
	void *arg;
	struct user *u;
};

/* A socket of libslirp's that we watch. */
struct user_fd {
	struct loop_fd f;
	struct user *u;
	struct list node;
	/* SLIRP_POLL_*: wanted, and what came since libslirp was told. */
	int want, got;
	/* libslirp asked for it in the last fill. */
	bool live;
};

struct user_frame {
	uint16_t len;
	uint8_t data[USER_FRAME_MAX];
};

struct user {
	struct net n;
	Slirp *slirp;
	struct loop_post work;
	struct loop_timer sleep;
	struct user_timer timer[USER_TIMERS];
	struct net_offload_out out;
	bool rx_on;
	unsigned features;
	/* Sockets, and the ones of the last fill by libslirp's index. */
	struct list fds;
	struct user_fd **index;
	unsigned nindex, cap;
	/* The same by their number. */
	struct user_fd **by_fd;
	unsigned nby_fd;
	/* libslirp has to be told: a socket is ready, or its time came. */
	bool due;
	struct log_limit limit;
	unsigned head, len;
	struct user_frame ring[USER_RING];
	/* A frame of the guest in one piece. */
	uint8_t tx[NET_FRAME_MAX];
};

static struct user *user_of(struct net *n)
{
	return container_of(n, struct user, n);
}

static void user_kick(struct user *u)
{
	loop_post(u->n.loop, &u->work);
}

/* What libslirp calls. */

static ssize_t user_to_guest(const void *buf, size_t len, void *opaque)
{
	struct user *u = opaque;

	if (u->len == USER_RING || len > USER_FRAME_MAX) {
		u->n.stats.dropped++;
		return (ssize_t)len;
	}
	struct user_frame *f = &u->ring[(u->head + u->len++) % USER_RING];
	f->len = (uint16_t)len;
	memcpy(f->data, buf, len);
	user_kick(u);
	return (ssize_t)len;
}

static void user_guest_error(const char *msg, void *opaque)
{
	log_guest(&((struct user *)opaque)->limit, "user net", "%s", msg);
}

static int64_t user_clock(void *opaque UNUSED)
{
	return (int64_t)clock_ns();
}

static void user_timer_fired(struct loop_timer *lt)
{
	struct user_timer *t = container_of(lt, struct user_timer, t);

	t->fn(t->arg);
	user_kick(t->u);
}

static void *user_timer_new(SlirpTimerCb fn, void *arg, void *opaque)
{
	struct user *u = opaque;

	for (unsigned i = 0; i < USER_TIMERS; i++) {
		struct user_timer *t = &u->timer[i];

		if (t->fn)
			continue;
		*t = (struct user_timer){ .t.fn = user_timer_fired, .fn = fn, .arg = arg, .u = u };
		return t;
	}
	return NULL;
}

static void user_timer_free(void *timer, void *opaque UNUSED)
{
	struct user_timer *t = timer;

	if (!t)
		return;
	loop_timer_cancel(&t->t);
	t->fn = NULL;
}

static void user_timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
	struct user_timer *t = timer;

	if (t)
		loop_timer_set(((struct user *)opaque)->n.loop, &t->t,
			       (uint64_t)MAX(expire_ms, (int64_t)0) * NS_PER_MS);
}

static struct user_fd *user_find_fd(const struct user *u, int fd)
{
	return fd >= 0 && (unsigned)fd < u->nby_fd ? u->by_fd[fd] : NULL;
}

static void user_drop_fd(struct user *u, struct user_fd *x)
{
	for (unsigned i = 0; i < u->nindex; i++)
		if (u->index[i] == x)
			u->index[i] = NULL;
	u->by_fd[x->f.fd] = NULL;
	loop_fd_del(&x->f);
	list_del(&x->node);
	free(x);
}

/* The socket is new, or about to be closed: what we knew of the number is over. */
static void user_forget_fd(int fd, void *opaque)
{
	struct user_fd *x = user_find_fd(opaque, fd);

	if (x)
		user_drop_fd(opaque, x);
}

static void user_notify(void *opaque)
{
	user_kick(opaque);
}

static const SlirpCb user_callbacks = {
	.send_packet = user_to_guest,
	.guest_error = user_guest_error,
	.clock_get_ns = user_clock,
	.timer_new = user_timer_new,
	.timer_free = user_timer_free,
	.timer_mod = user_timer_mod,
	.register_poll_fd = user_forget_fd,
	.unregister_poll_fd = user_forget_fd,
	.notify = user_notify,
};

/* Sockets. */

static void user_fd_ready(struct loop_fd *f, unsigned events)
{
	struct user_fd *x = container_of(f, struct user_fd, f);

	x->got |= (events & LOOP_IN ? SLIRP_POLL_IN : 0) |
		  (events & LOOP_OUT ? SLIRP_POLL_OUT : 0) |
		  (events & LOOP_ERR ? SLIRP_POLL_ERR | SLIRP_POLL_HUP : 0);
	x->u->due = true;
	user_kick(x->u);
}

static int user_get_revents(int idx, void *opaque)
{
	struct user *u = opaque;

	if (idx < 0 || (unsigned)idx >= u->nindex || !u->index[idx])
		return 0;
	struct user_fd *x = u->index[idx];
	return x->got & (x->want | SLIRP_POLL_ERR | SLIRP_POLL_HUP);
}

static bool user_grow_by_fd(struct user *u, int fd)
{
	unsigned n = ((unsigned)fd | 63) + 1;

	if ((unsigned)fd < u->nby_fd)
		return true;
	struct user_fd **more = xgrow(u->by_fd, u->nby_fd, n, sizeof(struct user_fd *));
	if (!more)
		return false;
	u->by_fd = more;
	u->nby_fd = n;
	return true;
}

static struct user_fd *user_new_fd(struct user *u, int fd)
{
	if (fd < 0 || !user_grow_by_fd(u, fd))
		return NULL;
	struct user_fd *x = NEW(struct user_fd);
	if (!x)
		return NULL;
	x->u = u;
	x->f.fn = user_fd_ready;
	if (loop_fd_add(u->n.loop, &x->f, fd, 0) < 0) {
		free(x);
		return NULL;
	}
	u->by_fd[fd] = x;
	list_add_tail(&u->fds, &x->node);
	return x;
}

/* Without memory the socket is not watched in this round; it is asked for again in the next. */
static int user_add_poll(int fd, int events, void *opaque)
{
	struct user *u = opaque;

	if (u->nindex == u->cap) {
		unsigned cap = u->cap ? u->cap * 2 : 64;
		struct user_fd **more = xgrow(u->index, u->cap, cap, sizeof(*more));

		if (!more)
			return -1;
		u->index = more;
		u->cap = cap;
	}
	struct user_fd *x = user_find_fd(u, fd);
	if (!x)
		x = user_new_fd(u, fd);
	if (x) {
		x->want = events;
		x->got = 0;
		x->live = true;
	}
	u->index[u->nindex] = x;
	return (int)u->nindex++;
}

/* Which sockets now, and how long until libslirp wants to be called anyway. */
static void user_fill(struct user *u)
{
	uint32_t wait_ms = UINT32_MAX;

	u->nindex = 0;
	slirp_pollfds_fill(u->slirp, &wait_ms, user_add_poll, u);
	list_for_each_safe (p, &u->fds) {
		struct user_fd *x = list_entry(p, struct user_fd, node);

		if (!x->live) {
			user_drop_fd(u, x);
			continue;
		}
		x->live = false;
		loop_fd_set(&x->f, (x->want & (SLIRP_POLL_IN | SLIRP_POLL_PRI) ? LOOP_IN : 0u) |
					   (x->want & SLIRP_POLL_OUT ? LOOP_OUT : 0u));
	}
	if (wait_ms == UINT32_MAX)
		loop_timer_cancel(&u->sleep);
	else
		loop_timer_set(u->n.loop, &u->sleep, clock_ns() + wait_ms * NS_PER_MS);
}

static void user_work(struct loop_post *p)
{
	struct user *u = container_of(p, struct user, work);

	if (u->due) {
		u->due = false;
		slirp_pollfds_poll(u->slirp, 0, user_get_revents, u);
	}
	user_fill(u);
	if (u->len && u->rx_on)
		u->n.client->readable(u->n.client);
	/* Not all of them were taken: again, after everybody else had a turn. */
	if (u->len && u->rx_on)
		user_kick(u);
}

static void user_slept(struct loop_timer *t)
{
	struct user *u = container_of(t, struct user, sleep);

	u->due = true;
	user_kick(u);
}

/* Frames. */

static void user_from_guest(struct net_offload_out *o, const uint8_t *frame, size_t len)
{
	struct user *u = container_of(o, struct user, out);

	slirp_input(u->slirp, frame, (int)len);
}

static ssize_t user_send(struct net *n, const struct iovec *iov, unsigned niov)
{
	struct user *u = user_of(n);
	size_t len = 0;

	/* net_send() has seen to it that it fits. */
	for (unsigned i = 0; i < niov; i++) {
		memcpy(u->tx + len, iov[i].iov_base, iov[i].iov_len);
		len += iov[i].iov_len;
	}
	int rc =
		net_offload(u->tx, u->tx + NET_HDR_LEN, len - NET_HDR_LEN, USER_FRAME_MAX, &u->out);
	user_kick(u);
	return rc < 0 ? rc : (ssize_t)len;
}

static size_t user_scatter(const struct iovec *iov, unsigned niov, size_t skip, const uint8_t *p,
			   size_t len)
{
	size_t done = 0;

	for (unsigned i = 0; i < niov && done < len; i++) {
		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		size_t part = MIN(len - done, iov[i].iov_len - skip);
		memcpy((uint8_t *)iov[i].iov_base + skip, p + done, part);
		done += part;
		skip = 0;
	}
	return done;
}

static ssize_t user_recv(struct net *n, const struct iovec *iov, unsigned niov)
{
	struct user *u = user_of(n);
	uint8_t hdr[NET_HDR_LEN] = { 0 };

	if (!u->len)
		return -EAGAIN;
	if (u->features & NET_F_RX_CSUM)
		hdr[NET_HDR_FLAGS] = NET_HDR_DATA_VALID;
	st_le16(hdr + NET_HDR_NUM_BUFFERS, 1);
	const struct user_frame *f = &u->ring[u->head];
	size_t got = user_scatter(iov, niov, 0, hdr, sizeof(hdr));
	got += user_scatter(iov, niov, sizeof(hdr), f->data, f->len);
	u->head = (u->head + 1) % USER_RING;
	u->len--;
	return (ssize_t)got;
}

static void user_rx_enable(struct net *n, bool on)
{
	struct user *u = user_of(n);

	u->rx_on = on;
	if (on && u->len)
		user_kick(u);
}

static unsigned user_features(struct net *n UNUSED)
{
	return NET_F_TX_CSUM | NET_F_TX_TSO4 | NET_F_TX_TSO6 | NET_F_TX_ECN | NET_F_RX_CSUM;
}

static int user_set_features(struct net *n, unsigned f)
{
	user_of(n)->features = f;
	return 0;
}

/* Opening. */

static int user_forward(struct user *u, const struct net_fwd *f, struct err *e)
{
	struct in_addr host = { f->host_addr }, guest = { f->guest_addr };
	char text[INET_ADDRSTRLEN];

	if (slirp_add_hostfwd(u->slirp, f->udp, host, f->host_port, guest, f->guest_port) == 0)
		return 0;
	int code = errno ? errno : EIO;
	inet_ntop(AF_INET, &host, text, sizeof(text));
	return err_set(e, code, "cannot forward %s:%s:%u: %s", f->udp ? "udp" : "tcp", text,
		       f->host_port, strerror(code));
}

static int user_open(struct net *n, const struct net_opts *o, struct err *e)
{
	struct user *u = user_of(n);
	SlirpConfig cfg = {
		.version = 4,
		.in_enabled = true,
		.vnetwork.s_addr = htonl(0x0a000200),
		.vnetmask.s_addr = htonl(0xffffff00),
		.vhost.s_addr = htonl(0x0a000202),
		.vdhcp_start.s_addr = htonl(0x0a00020f),
		.vnameserver.s_addr = htonl(0x0a000203),
		.in6_enabled = true,
		.vprefix_len = 64,
		.vhostname = o->hostname,
		.if_mtu = USER_MTU,
		.if_mru = USER_MTU,
	};

	if (inet_pton(AF_INET6, "fec0::", &cfg.vprefix_addr6) != 1 ||
	    inet_pton(AF_INET6, "fec0::2", &cfg.vhost6) != 1 ||
	    inet_pton(AF_INET6, "fec0::3", &cfg.vnameserver6) != 1)
		return err_set(e, EINVAL, "no IPv6 addresses");
	list_init(&u->fds);
	u->work.fn = user_work;
	u->sleep.fn = user_slept;
	u->out.frame = user_from_guest;
	os_ignore_sigpipe();
	u->slirp = slirp_new(&cfg, &user_callbacks, u);
	if (!u->slirp)
		return err_set(e, ENOMEM, "cannot start libslirp %s", slirp_version_string());
	for (unsigned i = 0; i < o->nfwd; i++) {
		errno = 0;
		int rc = user_forward(u, &o->fwd[i], e);
		if (rc < 0)
			return rc;
	}
	user_kick(u);
	return 0;
}

static void user_close(struct net *n)
{
	struct user *u = user_of(n);

	if (u->slirp)
		slirp_cleanup(u->slirp);
	loop_timer_cancel(&u->sleep);
	for (unsigned i = 0; i < USER_TIMERS; i++)
		loop_timer_cancel(&u->timer[i].t);
	while (u->fds.next && !list_empty(&u->fds))
		user_drop_fd(u, list_first(&u->fds, struct user_fd, node));
	loop_post_cancel(n->loop, &u->work);
	free(u->index);
	free(u->by_fd);
}

const struct net_driver net_user = {
	.name = "user",
	.size = sizeof(struct user),
	.open = user_open,
	.close = user_close,
	.send = user_send,
	.recv = user_recv,
	.rx_enable = user_rx_enable,
	.features = user_features,
	.set_features = user_set_features,
};
