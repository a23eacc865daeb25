/* Hand-made frames for the tests of net/, with checksums by the book. */
#pragma once

#include "base/bytes.h"
#include "lib/t.h"

#include <string.h>

enum {
	ETH = 14,
	IP4 = 20,
	IP6 = 40,
	UDP = 8,
	TCP = 20,
	F_FIN = 1,
	F_SYN = 2,
	F_RST = 4,
	F_PSH = 8,
	F_ACK = 16,
	F_CWR = 128,
};

/* RFC 1071, one 16-bit word after the other in network order. */
static inline uint16_t dumb_sum(uint32_t sum, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i += 2) {
		sum += (uint32_t)p[i] << 8 | (i + 1 < len ? p[i + 1] : 0);
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return (uint16_t)sum;
}

/* Of addresses (a_len bytes), protocol and length. */
static inline uint16_t pseudo_sum(const uint8_t *addrs, size_t a_len, unsigned proto, size_t len)
{
	uint32_t sum = dumb_sum(0, addrs, a_len) + proto + (uint32_t)len;

	return (uint16_t)((sum & 0xffff) + (sum >> 16));
}

static inline void put_eth(uint8_t *f, const uint8_t *dst, const uint8_t *src, uint16_t type)
{
	memcpy(f, dst, 6);
	memcpy(f + 6, src, 6);
	st_be16(f + 12, type);
}

static inline void put_ip4(uint8_t *f, uint32_t src, uint32_t dst, unsigned proto, size_t payload)
{
	uint8_t *ip = f + ETH;

	memset(ip, 0, IP4);
	ip[0] = 0x45;
	st_be16(ip + 2, (uint16_t)(IP4 + payload));
	st_be16(ip + 4, 0x1234);
	ip[8] = 64;
	ip[9] = (uint8_t)proto;
	st_be32(ip + 12, src);
	st_be32(ip + 16, dst);
	st_be16(ip + 10, (uint16_t)~dumb_sum(0, ip, IP4));
}

/* Checksum of what is behind the IPv4 header, at byte `field` of it. */
static inline void put_l4_sum(uint8_t *f, size_t field, size_t len)
{
	uint8_t *ip = f + ETH, *l4 = ip + IP4;

	st_be16(l4 + field, 0);
	uint16_t sum = (uint16_t)~dumb_sum(pseudo_sum(ip + 12, 8, ip[9], len), l4, len);
	st_be16(l4 + field, sum ? sum : 0xffff);
}

static inline bool l4_sum_ok(const uint8_t *f, size_t len)
{
	const uint8_t *ip = f + ETH;

	return dumb_sum(pseudo_sum(ip + 12, 8, ip[9], len), ip + IP4, len) == 0xffff;
}

/* A whole frame; returns its length. */
static inline size_t put_udp(uint8_t *f, uint32_t src, uint16_t sport, uint32_t dst, uint16_t dport,
			     const void *data, size_t len)
{
	uint8_t *u = f + ETH + IP4;

	put_ip4(f, src, dst, 17, UDP + len);
	st_be16(u, sport);
	st_be16(u + 2, dport);
	st_be16(u + 4, (uint16_t)(UDP + len));
	memcpy(u + UDP, data, len);
	put_l4_sum(f, 6, UDP + len);
	return ETH + IP4 + UDP + len;
}

static inline size_t put_tcp(uint8_t *f, uint32_t src, uint16_t sport, uint32_t dst, uint16_t dport,
			     uint32_t seq, uint32_t ack, unsigned flags, const void *data,
			     size_t len)
{
	uint8_t *t = f + ETH + IP4;

	put_ip4(f, src, dst, 6, TCP + len);
	memset(t, 0, TCP);
	st_be16(t, sport);
	st_be16(t + 2, dport);
	st_be32(t + 4, seq);
	st_be32(t + 8, ack);
	t[12] = 5 << 4;
	t[13] = (uint8_t)flags;
	st_be16(t + 14, 65535);
	if (len)
		memcpy(t + TCP, data, len);
	put_l4_sum(f, 16, TCP + len);
	return ETH + IP4 + TCP + len;
}
