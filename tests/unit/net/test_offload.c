/* Checksums and segments in software, against the same done the slow way. */
#include "net/net_int.h"

#include "base/num.h"
#include "frames.h"

#include <errno.h>

static const uint8_t mac_a[6] = { 2, 0, 0, 0, 0, 1 }, mac_b[6] = { 2, 0, 0, 0, 0, 2 };

/* What came out. */
static struct {
	struct net_offload_out o;
	unsigned n;
	size_t len[2000];
	uint8_t frame[2000][1600];
} out;

static void out_frame(struct net_offload_out *o, const uint8_t *frame, size_t len)
{
	assert_ptr_equal(o, &out.o);
	assert_true(out.n < COUNT_OF(out.frame) && len <= sizeof(out.frame[0]));
	out.len[out.n] = len;
	memcpy(out.frame[out.n++], frame, len);
}

static int offload(const uint8_t *hdr, uint8_t *frame, size_t len)
{
	out.o.frame = out_frame;
	out.n = 0;
	return net_offload(hdr, frame, len, 1514, &out.o);
}

static void test_plain(void **state UNUSED)
{
	uint8_t hdr[NET_HDR_LEN] = { 0 }, f[1600];

	put_eth(f, mac_a, mac_b, 0x0800);
	size_t len = put_udp(f, 1, 2, 3, 4, "hello", 5);
	assert_int_equal(offload(hdr, f, len), 0);
	assert_int_equal(out.n, 1);
	assert_memory_equal(out.frame[0], f, len);
	assert_int_equal(offload(hdr, f, 1515), -EINVAL);
	assert_int_equal(out.n, 0);
}

static void test_checksum(void **state UNUSED)
{
	uint8_t hdr[NET_HDR_LEN] = { NET_HDR_NEEDS_CSUM }, f[1600], data[1400];
	uint64_t s = t_seed(1);

	for (int i = 0; i < 3000; i++) {
		size_t n = t_below(&s, sizeof(data));

		for (size_t j = 0; j < n; j++)
			data[j] = (uint8_t)t_rnd(&s);
		put_eth(f, mac_a, mac_b, 0x0800);
		size_t len = put_udp(f, (uint32_t)t_rnd(&s), 53, (uint32_t)t_rnd(&s), 99, data, n);
		/* As a driver leaves it: the sum of the pseudo header, not complemented. */
		st_be16(f + ETH + IP4 + 6, pseudo_sum(f + ETH + 12, 8, 17, UDP + n));
		st_le16(hdr + NET_HDR_CSUM_START, ETH + IP4);
		st_le16(hdr + NET_HDR_CSUM_OFFSET, 6);
		assert_int_equal(offload(hdr, f, len), 0);
		assert_int_equal(out.n, 1);
		assert_true(l4_sum_ok(out.frame[0], UDP + n));
		assert_true(ld_be16(out.frame[0] + ETH + IP4 + 6) != 0);
	}
}

/* The one sum that has two forms: UDP takes 0 for "none". */
static void test_checksum_zero(void **state UNUSED)
{
	uint8_t hdr[NET_HDR_LEN] = { NET_HDR_NEEDS_CSUM }, f[100], data[6] = { 0, 0, 3, 4, 5, 6 };

	put_eth(f, mac_a, mac_b, 0x0800);
	size_t len = put_udp(f, 0x01020304, 53, 0x05060708, 99, data, sizeof(data));
	/* The checksum as a word of the data: then the new one is 0. */
	memcpy(f + ETH + IP4 + UDP, f + ETH + IP4 + 6, 2);
	st_be16(f + ETH + IP4 + 6, pseudo_sum(f + ETH + 12, 8, 17, UDP + sizeof(data)));
	st_le16(hdr + NET_HDR_CSUM_START, ETH + IP4);
	st_le16(hdr + NET_HDR_CSUM_OFFSET, 6);
	assert_int_equal(offload(hdr, f, len), 0);
	assert_int_equal(ld_be16(out.frame[0] + ETH + IP4 + 6), 0xffff);
}

static void test_checksum_refused(void **state UNUSED)
{
	uint8_t hdr[NET_HDR_LEN] = { NET_HDR_NEEDS_CSUM }, f[100] = { 0 };
	static const struct {
		unsigned start, off;
		int rc;
	} cases[] = {
		{ 34, 6, 0 },
		{ 98, 0, 0 },
		{ 100, 0, -EINVAL },
		{ 99, 0, -EINVAL },
		{ 0, 98, 0 },
		{ 0, 99, -EINVAL },
		{ 65535, 0, -EINVAL },
		{ 65535, 65535, -EINVAL },
		{ 101, 65535, -EINVAL },
	};

	for (size_t i = 0; i < COUNT_OF(cases); i++) {
		st_le16(hdr + NET_HDR_CSUM_START, (uint16_t)cases[i].start);
		st_le16(hdr + NET_HDR_CSUM_OFFSET, (uint16_t)cases[i].off);
		assert_int_equal(offload(hdr, f, sizeof(f)), cases[i].rc);
	}
}

/* A large TCP frame with options; returns its length. */
static size_t big_tcp(uint8_t *f, bool v6, unsigned opts, unsigned flags, uint32_t seq,
		      const uint8_t *data, size_t n)
{
	uint8_t tcp[60] = { 0 };

	put_eth(f, mac_a, mac_b, v6 ? 0x86dd : 0x0800);
	uint8_t *ip = f + ETH;
	size_t ip_len = v6 ? IP6 : IP4;
	if (v6) {
		memset(ip, 0, IP6);
		ip[0] = 0x60;
		ip[6] = 6;
		for (int i = 8; i < 40; i++)
			ip[i] = (uint8_t)(i * 7);
	} else {
		put_ip4(f, 0x0a00020f, 0x0a000202, 6, 0);
	}
	st_be16(tcp, 1000);
	st_be16(tcp + 2, 80);
	st_be32(tcp + 4, seq);
	tcp[12] = (uint8_t)((5 + opts) << 4);
	tcp[13] = (uint8_t)flags;
	memset(tcp + 20, 1, opts * 4);
	memcpy(ip + ip_len, tcp, TCP + opts * 4);
	memcpy(ip + ip_len + TCP + opts * 4, data, n);
	return ETH + ip_len + TCP + opts * 4 + n;
}

static void check_segment(const uint8_t *f, size_t len, bool v6, unsigned nr)
{
	const uint8_t *ip = f + ETH;
	size_t ip_len = v6 ? IP6 : IP4, l4 = len - ETH - ip_len;
	const uint8_t *addrs = ip + (v6 ? 8 : 12);

	assert_int_equal(dumb_sum(pseudo_sum(addrs, v6 ? 32 : 8, 6, l4), ip + ip_len, l4), 0xffff);
	if (v6) {
		assert_int_equal(ld_be16(ip + 4), l4);
		return;
	}
	assert_int_equal(ld_be16(ip + 2), len - ETH);
	assert_int_equal(ld_be16(ip + 4), (0x1234 + nr) & 0xffff);
	assert_int_equal(dumb_sum(0, ip, IP4), 0xffff);
}

static void test_segments(void **state UNUSED)
{
	static uint8_t f[70000], data[65000], back[65000];
	uint64_t s = t_seed(2);

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)t_rnd(&s);
	for (int i = 0; i < 400; i++) {
		bool v6 = t_below(&s, 2);
		unsigned opts = (unsigned)t_below(&s, 11), seq = (unsigned)t_rnd(&s);
		size_t n = 1 + t_below(&s, i % 4 ? 8000 : 65000), hl = ETH + (v6 ? IP6 : IP4) + TCP;
		size_t gso = 48 + t_below(&s, 1514 - hl - opts * 4 - 48 + 1), got = 0;
		uint8_t hdr[NET_HDR_LEN] = { NET_HDR_NEEDS_CSUM };

		hdr[1] = (uint8_t)((v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4) |
				   (t_below(&s, 2) ? NET_GSO_ECN : 0));
		st_le16(hdr + NET_HDR_GSO_SIZE, (uint16_t)gso);
		/* Nobody believes this one. */
		st_le16(hdr + NET_HDR_HDR_LEN, (uint16_t)t_rnd(&s));
		size_t len = big_tcp(f, v6, opts, F_ACK | F_PSH | F_FIN | F_CWR, seq, data, n);
		assert_int_equal(offload(hdr, f, len), 0);
		assert_int_equal(out.n, (n + gso - 1) / gso);
		hl += opts * 4;
		for (unsigned k = 0; k < out.n; k++) {
			const uint8_t *tcp = out.frame[k] + ETH + (v6 ? IP6 : IP4);
			bool last = k == out.n - 1;

			check_segment(out.frame[k], out.len[k], v6, k);
			assert_memory_equal(out.frame[k], f, ETH);
			assert_int_equal(ld_be32(tcp + 4), (uint32_t)(seq + got));
			assert_int_equal(tcp[13],
					 F_ACK | (last ? F_PSH | F_FIN : 0) | (k == 0 ? F_CWR : 0));
			assert_int_equal(out.len[k] - hl, last ? n - got : gso);
			memcpy(back + got, out.frame[k] + hl, out.len[k] - hl);
			got += out.len[k] - hl;
		}
		assert_int_equal(got, n);
		assert_memory_equal(back, data, n);
	}
}

static int segment(const uint8_t *tmpl, size_t len, unsigned type, unsigned gso, size_t at,
		   uint8_t v)
{
	static uint8_t f[70000];
	uint8_t hdr[NET_HDR_LEN] = { NET_HDR_NEEDS_CSUM, (uint8_t)type };

	memcpy(f, tmpl, len);
	if (at)
		f[at] = v;
	st_le16(hdr + NET_HDR_GSO_SIZE, (uint16_t)gso);
	int rc = offload(hdr, f, len);
	assert_true(rc == 0 || out.n == 0);
	return rc;
}

static void test_segments_refused(void **state UNUSED)
{
	static uint8_t f[70000], data[4000];
	size_t len = big_tcp(f, false, 0, F_ACK, 7, data, sizeof(data));

	assert_int_equal(segment(f, len, NET_GSO_TCPV4, 1460, 0, 0), 0);
	assert_int_equal(segment(f, len, NET_GSO_TCPV4, 1461, 0, 0), -EINVAL);
	assert_int_equal(segment(f, len, NET_GSO_TCPV4, 0, 0, 0), -EINVAL);
	assert_int_equal(segment(f, len, NET_GSO_TCPV4, 47, 0, 0), -EINVAL);
	assert_int_equal(segment(f, len, NET_GSO_TCPV6, 1000, 0, 0), -EINVAL);
	/* UFO, USO, nonsense. */
	assert_int_equal(segment(f, len, 3, 1000, 0, 0), -EINVAL);
	assert_int_equal(segment(f, len, 5, 1000, 0, 0), -EINVAL);
	assert_int_equal(segment(f, len, 77, 1000, 0, 0), -EINVAL);
	/* VLAN, version, header length, fragment, UDP, data offset too small and too large. */
	assert_int_equal(segment(f, len, NET_GSO_TCPV4, 1000, 12, 0x81), -EINVAL);
	assert_int_equal(segment(f, len, NET_GSO_TCPV4, 1000, ETH, 0x65), -EINVAL);
	assert_int_equal(segment(f, len, NET_GSO_TCPV4, 1000, ETH, 0x44), -EINVAL);
	assert_int_equal(segment(f, len, NET_GSO_TCPV4, 1000, ETH + 6, 0x20), -EINVAL);
	assert_int_equal(segment(f, len, NET_GSO_TCPV4, 1000, ETH + 7, 0x01), -EINVAL);
	assert_int_equal(segment(f, len, NET_GSO_TCPV4, 1000, ETH + 9, 17), -EINVAL);
	assert_int_equal(segment(f, len, NET_GSO_TCPV4, 1000, ETH + IP4 + 12, 0x40), -EINVAL);
	assert_int_equal(segment(f, len, NET_GSO_TCPV4, 1000, ETH + IP4 + 12, 0xf0), 0);
	/* "Do not fragment" is fine. */
	assert_int_equal(segment(f, len, NET_GSO_TCPV4, 1000, ETH + 6, 0x40), 0);
	/* Every length too short for headers and a byte. */
	for (size_t n = 1; n <= ETH + IP4 + TCP; n++)
		assert_int_equal(segment(f, n, NET_GSO_TCPV4, 1000, 0, 0), -EINVAL);
	assert_int_equal(segment(f, ETH + IP4 + TCP + 1, NET_GSO_TCPV4, 1000, 0, 0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain),         cmocka_unit_test(test_checksum),
		cmocka_unit_test(test_checksum_zero), cmocka_unit_test(test_checksum_refused),
		cmocka_unit_test(test_segments),      cmocka_unit_test(test_segments_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
