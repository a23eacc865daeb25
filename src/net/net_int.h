/* What the files of net/ share. */
#pragma once

#include "net/net.h"

extern const struct net_driver net_user, net_tap, net_none;

/* virtio_net_hdr_v1 (virtio 1.2, 5.1.6): offsets and values. */
enum {
	NET_HDR_FLAGS = 0,
	NET_HDR_GSO_TYPE = 1,
	NET_HDR_HDR_LEN = 2,
	NET_HDR_GSO_SIZE = 4,
	NET_HDR_CSUM_START = 6,
	NET_HDR_CSUM_OFFSET = 8,
	NET_HDR_NUM_BUFFERS = 10,

	NET_HDR_NEEDS_CSUM = 1,
	NET_HDR_DATA_VALID = 2,

	NET_GSO_NONE = 0,
	NET_GSO_TCPV4 = 1,
	NET_GSO_TCPV6 = 4,
	NET_GSO_ECN = 0x80,

	NET_ETH_LEN = 14,
};

struct net_offload_out {
	/* One frame as it goes on a wire. */
	void (*frame)(struct net_offload_out *o, const uint8_t *frame, size_t len);
};

/*
 * offload.c: does in software what the header asks for: completes the checksum, or cuts the frame
 * into segments of at most max_len bytes.  Frame and header are the guest's: -EINVAL and no frame
 * when they make no sense.  The frame is changed.
 */
NODISCARD int net_offload(const uint8_t hdr[NET_HDR_LEN], uint8_t *frame, size_t len,
			  size_t max_len, struct net_offload_out *o);
