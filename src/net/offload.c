/*
 * Checksums and TCP segmentation in software, for backends that want frames as they go on a wire
 * (user).  The guest still gains: it does the work once for 64 KiB and not for each 1500 bytes, and
 * here it runs at the host's speed whatever the engine.
 *
 * virtio 1.2, 5.1.6.2.  Checksum: the field holds the sum of the pseudo header; sum from csum_start
 * to the end and store the complement.  Segments: the header's hdr_len is a hint that a guest may
 * get wrong, so the frame's own headers are read.  IP options and TCP options are copied to each
 * segment; VLAN tags, fragments and IPv6 extension headers are refused.
 *
 * Internet checksum: RFC 1071.  TCP: RFC 9293 3.1; IPv4: RFC 791 3.1; IPv6: RFC 8200 3, 8.1.
 */
#include "net/net_int.h"

#include "base/bytes.h"
#include "base/num.h"

#include <errno.h>
#include <string.h>

enum {
	ETH_TYPE = 12,
	ETH_IPV4 = 0x0800,
	ETH_IPV6 = 0x86dd,

	IP4_TOTAL_LEN = 2,
	IP4_ID = 4,
	IP4_FRAGMENT = 6,
	IP4_PROTO = 9,
	IP4_CSUM = 10,
	IP4_ADDRS = 12,
	IP4_MIN = 20,

	IP6_PAYLOAD_LEN = 4,
	IP6_NEXT = 6,
	IP6_ADDRS = 8,
	IP6_LEN = 40,

	PROTO_TCP = 6,
	TCP_SEQ = 4,
	TCP_DATA_OFF = 12,
	TCP_FLAGS = 13,
	TCP_CSUM = 16,
	TCP_MIN = 20,
	TCP_FIN = 0x01,
	TCP_PSH = 0x08,
	TCP_CWR = 0x80,

	/* Less than any host takes (RFC 879 has 536): only a guest that wants to keep us busy. */
	GSO_MIN = 48,
	/* Ethernet, and IP and TCP with all the options that they can have. */
	HEADERS_MAX = NET_ETH_LEN + 60 + 60,
	SEGMENT_MAX = 2048,
};

/* Sum of 16-bit words in the host's order: the checksum does not mind (RFC 1071, 2(B)). */
static uint64_t csum_add(uint64_t sum, const uint8_t *p, size_t len)
{
	for (; len >= 4; p += 4, len -= 4)
		sum += ld_le32(p);
	if (len & 2) {
		sum += ld_le16(p);
		p += 2;
	}
	if (len & 1)
		sum += *p;
	return sum;
}

static uint16_t csum_fold(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static int offload_csum(const uint8_t *hdr, uint8_t *frame, size_t len)
{
	size_t start = ld_le16(hdr + NET_HDR_CSUM_START);
	size_t field = start + ld_le16(hdr + NET_HDR_CSUM_OFFSET);

	/* Then start lies inside too. */
	if (!range_in(field, 2, len))
		return -EINVAL;
	uint16_t sum = csum_fold(csum_add(0, frame + start, len - start));
	/* 0 means "none" to UDP (RFC 768), and for TCP both are zero. */
	st_le16(frame + field, sum ? sum : 0xffff);
	return 0;
}

/* Where the headers are. */
struct layout {
	bool v6;
	size_t tcp, headers;
};

static int parse_ip(const uint8_t *frame, size_t len, bool v6, struct layout *ret)
{
	const uint8_t *ip = frame + NET_ETH_LEN;

	if (len < NET_ETH_LEN + (v6 ? IP6_LEN : IP4_MIN) ||
	    ld_be16(frame + ETH_TYPE) != (v6 ? ETH_IPV6 : ETH_IPV4) || ip[0] >> 4 != (v6 ? 6 : 4))
		return -EINVAL;
	size_t ip_len = v6 ? (size_t)IP6_LEN : (size_t)(ip[0] & 15) * 4;
	if (ip_len < IP4_MIN || ip[v6 ? IP6_NEXT : IP4_PROTO] != PROTO_TCP)
		return -EINVAL;
	/* Neither "more fragments" nor an offset. */
	if (!v6 && ld_be16(ip + IP4_FRAGMENT) & 0x3fff)
		return -EINVAL;
	ret->v6 = v6;
	ret->tcp = NET_ETH_LEN + ip_len;
	return 0;
}

static int parse(const uint8_t *frame, size_t len, bool v6, struct layout *ret)
{
	int rc = parse_ip(frame, len, v6, ret);

	if (rc < 0 || len < ret->tcp + TCP_MIN)
		return -EINVAL;
	size_t tcp_len = (size_t)(frame[ret->tcp + TCP_DATA_OFF] >> 4) * 4;
	ret->headers = ret->tcp + tcp_len;
	return tcp_len < TCP_MIN || ret->headers >= len ? -EINVAL : 0;
}

/* Lengths, addresses' sums and checksums of one segment; seg holds headers and data. */
static void segment_finish(const struct layout *l, uint8_t *seg, size_t len, unsigned nr)
{
	uint8_t *ip = seg + NET_ETH_LEN, *tcp = seg + l->tcp;
	size_t tcp_len = len - l->tcp;
	uint8_t pseudo[4] = { 0, PROTO_TCP, (uint8_t)(tcp_len >> 8), (uint8_t)tcp_len };
	uint64_t sum = csum_add(0, pseudo, sizeof(pseudo));

	if (l->v6) {
		st_be16(ip + IP6_PAYLOAD_LEN, (uint16_t)tcp_len);
		sum = csum_add(sum, ip + IP6_ADDRS, 32);
	} else {
		st_be16(ip + IP4_TOTAL_LEN, (uint16_t)(len - NET_ETH_LEN));
		st_be16(ip + IP4_ID, (uint16_t)(ld_be16(ip + IP4_ID) + nr));
		st_be16(ip + IP4_CSUM, 0);
		st_le16(ip + IP4_CSUM, csum_fold(csum_add(0, ip, l->tcp - NET_ETH_LEN)));
		sum = csum_add(sum, ip + IP4_ADDRS, 8);
	}
	st_be16(tcp + TCP_CSUM, 0);
	st_le16(tcp + TCP_CSUM, csum_fold(csum_add(sum, tcp, tcp_len)));
}

static int offload_segments(const uint8_t *hdr, const uint8_t *frame, size_t len, size_t max_len,
			    struct net_offload_out *o)
{
	unsigned type = hdr[NET_HDR_GSO_TYPE] & ~NET_GSO_ECN;
	size_t size = ld_le16(hdr + NET_HDR_GSO_SIZE);
	uint8_t seg[SEGMENT_MAX];
	struct layout l;

	if ((type != NET_GSO_TCPV4 && type != NET_GSO_TCPV6) || size < GSO_MIN ||
	    parse(frame, len, type == NET_GSO_TCPV6, &l) < 0 || l.headers > HEADERS_MAX ||
	    l.headers + size > MIN(max_len, sizeof(seg)))
		return -EINVAL;
	unsigned nr = 0;
	for (size_t at = l.headers; at < len; nr++) {
		size_t part = MIN(size, len - at);
		bool last = at + part == len;

		memcpy(seg, frame, l.headers);
		memcpy(seg + l.headers, frame + at, part);
		uint8_t *tcp = seg + l.tcp;
		st_be32(tcp + TCP_SEQ, ld_be32(tcp + TCP_SEQ) + (uint32_t)(at - l.headers));
		/* FIN and PSH belong to the last byte, CWR to the first segment (RFC 3168, 6.1.2).
		 */
		if (!last)
			tcp[TCP_FLAGS] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
		if (nr)
			tcp[TCP_FLAGS] &= (uint8_t)~TCP_CWR;
		segment_finish(&l, seg, l.headers + part, nr);
		o->frame(o, seg, l.headers + part);
		at += part;
	}
	return 0;
}

int net_offload(const uint8_t hdr[NET_HDR_LEN], uint8_t *frame, size_t len, size_t max_len,
		struct net_offload_out *o)
{
	if (hdr[NET_HDR_GSO_TYPE] != NET_GSO_NONE)
		return offload_segments(hdr, frame, len, max_len, o);
	if (len > max_len)
		return -EINVAL;
	if (hdr[NET_HDR_FLAGS] & NET_HDR_NEEDS_CSUM && offload_csum(hdr, frame, len) < 0)
		return -EINVAL;
	o->frame(o, frame, len);
	return 0;
}
