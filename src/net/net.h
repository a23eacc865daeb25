/*
 * Where a NIC's frames go: the contract between virtio-net and a backend (tap, user, none).
 *
 * Frames are whole Ethernet frames in front of which stands a 12-byte virtio_net_hdr_v1 (virtio
 * 1.2, 5.1.6), so that checksum and segmentation work can be left to the far side.  A net belongs
 * to one loop; all calls and upcalls are on its thread.
 */
#pragma once

#include "base/err.h"
#include "loop/loop.h"

#define NET_HDR_LEN 12
/* Largest frame with its header: 64 KiB of TSO payload and Ethernet with VLAN. */
#define NET_FRAME_MAX (65536 + 22 + NET_HDR_LEN)

/* Offloads, by direction: what the backend accepts from us (TX) and may hand to us (RX). */
enum {
	NET_F_TX_CSUM = 1 << 0,
	NET_F_TX_TSO4 = 1 << 1,
	NET_F_TX_TSO6 = 1 << 2,
	NET_F_TX_ECN = 1 << 3,
	NET_F_RX_CSUM = 1 << 4,
	NET_F_RX_TSO4 = 1 << 5,
	NET_F_RX_TSO6 = 1 << 6,
	NET_F_RX_ECN = 1 << 7,
	NET_F_TX_USO = 1 << 8,
	NET_F_RX_USO = 1 << 9,
};

struct net;

/* Upcalls to the NIC. */
struct net_client {
	/* A frame may be waiting: call net_recv(), until -EAGAIN if you like; while frames wait and
	 * rx is enabled, this comes again. */
	void (*readable)(struct net_client *c);
	/* After net_send() said -EAGAIN: try again. */
	void (*writable)(struct net_client *c);
	/* Carrier. */
	void (*link)(struct net_client *c, bool up);
};

/* tcp:HOSTADDR:PORT-GUESTADDR:PORT of --net user,hostfwd=... */
struct net_fwd {
	bool udp;
	/* Network byte order (struct in_addr); guest_addr 0: the guest's DHCP address. */
	uint32_t host_addr, guest_addr;
	/* Host byte order. */
	uint16_t host_port, guest_port;
};

struct net_opts {
	/* Driver name: "tap", "user", "none". */
	const char *type;
	/* tap.  With CAP_NET_ADMIN a missing one is made, and goes when it is closed. */
	const char *ifname;
	/* tap: an open tap descriptor, used when ifname is NULL; taken over when net_open() works.
	 */
	int fd;
	/* user. */
	const struct net_fwd *fwd;
	unsigned nfwd;
	const char *hostname;
	struct loop *loop;
	struct net_client *client;
	uint8_t mac[6];
};

struct net_driver {
	const char *name;
	/* Of the driver's struct, which begins with struct net. */
	size_t size;
	/* Required.  close also gets a half-open n. */
	int (*open)(struct net *n, const struct net_opts *o, struct err *e);
	void (*close)(struct net *n);
	/* One frame with its header.  Bytes, or -EAGAIN (then .writable comes), or -errno: dropped.
	 */
	ssize_t (*send)(struct net *n, const struct iovec *iov, unsigned niov);
	/* One frame into iov, cut when it does not fit.  Bytes or -EAGAIN. */
	ssize_t (*recv)(struct net *n, const struct iovec *iov, unsigned niov);
	/* After rx_enable(false) returns there is no readable upcall. */
	void (*rx_enable)(struct net *n, bool on);
	/* NET_F_* that the backend can do.  [NULL: 0] */
	unsigned (*features)(struct net *n);
	/* Those that the guest took.  [NULL: ignored] */
	int (*set_features)(struct net *n, unsigned f);
};

struct net {
	const struct net_driver *drv;
	struct loop *loop;
	struct net_client *client;
	struct {
		uint64_t tx_frames, tx_bytes, rx_frames, rx_bytes, dropped;
	} stats;
};

/* Every driver there is; NULL ends it. */
extern const struct net_driver *const net_drivers[];

/* Before the loop runs, or on its thread. */
NODISCARD int net_open(struct net **ret, const struct net_opts *o, struct err *e);
/* NULL is fine. */
void net_close(struct net *n);
/* -EINVAL when shorter than the two headers or longer than NET_FRAME_MAX. */
ssize_t net_send(struct net *n, const struct iovec *iov, unsigned niov);
ssize_t net_recv(struct net *n, const struct iovec *iov, unsigned niov);
/* Off at first. */
void net_rx_enable(struct net *n, bool on);
unsigned net_features(struct net *n);
/* f: some of net_features().  Until this is called none is in use. */
NODISCARD int net_set_features(struct net *n, unsigned f);
