/*
 * The user backend: a guest of hand-made frames, and a host that is this process in a network
 * namespace with nothing but lo.
 */
#include "net/net_int.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/num.h"
#include "frames.h"
#include "netns.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>

#define GUEST_IP 0x0a00020f
#define ROUTER_IP 0x0a000202
#define DNS_IP 0x0a000203

static const uint8_t guest_mac[6] = { 0x52, 0x54, 0, 0, 0, 1 };
static uint8_t router_mac[6];

static struct loop *l;

/* The NIC: keeps the last frames. */
static struct {
	struct net_client client;
	struct net *net;
	uint8_t frame[64][2048];
	size_t len[64];
	unsigned n;
	/* Takes one frame for each call. */
	bool lazy;
	unsigned readable;
} nic;

static void nic_readable(struct net_client *c UNUSED)
{
	nic.readable++;
	do {
		const struct iovec iov[] = {
			{ nic.frame[nic.n % 64], 5 },
			{ nic.frame[nic.n % 64] + 5, sizeof(nic.frame[0]) - 5 },
		};
		ssize_t n = net_recv(nic.net, iov, 2);

		if (n < 0)
			return;
		nic.len[nic.n++ % 64] = (size_t)n;
	} while (!nic.lazy);
}

static void start(const struct net_fwd *fwd, unsigned nfwd)
{
	struct err e;

	memset(&nic, 0, sizeof(nic));
	nic.client.readable = nic_readable;
	NETNS_CHECK(loop_new(&l, LOOP_AUTO, &e) == 0);
	struct net_opts o = { .type = "user",
			      .fwd = fwd,
			      .nfwd = nfwd,
			      .hostname = "testvm",
			      .loop = l,
			      .client = &nic.client };
	if (net_open(&nic.net, &o, &e) < 0) {
		printf("%s\n", e.msg);
		fflush(stdout);
		_exit(1);
	}
	net_rx_enable(nic.net, true);
}

static void stop(void)
{
	net_close(nic.net);
	loop_free(l);
}

static void settle(unsigned ms)
{
	uint64_t end = clock_ns() + ms * NS_PER_MS;

	while (clock_ns() < end)
		loop_run_once(l, 2);
}

static ssize_t guest_send_hdr(const uint8_t *hdr, uint8_t *f, size_t len)
{
	const struct iovec iov[] = { { (void *)(uintptr_t)hdr, NET_HDR_LEN }, { f, len } };

	return net_send(nic.net, iov, 2);
}

static void guest_send(uint8_t *f, size_t len)
{
	static const uint8_t hdr[NET_HDR_LEN];

	NETNS_CHECK(guest_send_hdr(hdr, f, len) == (ssize_t)(NET_HDR_LEN + len));
}

/* The next frame to the guest that ok() likes, from number *at on; NULL after two seconds. */
static const uint8_t *guest_get(unsigned *at, bool (*ok)(const uint8_t *f, size_t len),
				size_t *ret_len)
{
	uint64_t end = clock_ns() + 2 * NS_PER_SEC;

	do {
		for (; *at < nic.n; ++*at) {
			const uint8_t *f = nic.frame[*at % 64] + NET_HDR_LEN;
			size_t len = nic.len[*at % 64] - NET_HDR_LEN;

			if (!ok(f, len))
				continue;
			++*at;
			*ret_len = len;
			return f;
		}
		loop_run_once(l, 10);
	} while (clock_ns() < end);
	return NULL;
}

static bool is_arp(const uint8_t *f, size_t len)
{
	return len >= 42 && ld_be16(f + 12) == 0x0806;
}

static bool is_udp(const uint8_t *f, size_t len)
{
	return len >= ETH + IP4 + UDP && ld_be16(f + 12) == 0x0800 && f[ETH + 9] == 17;
}

static bool is_tcp(const uint8_t *f, size_t len)
{
	return len >= ETH + IP4 + TCP && ld_be16(f + 12) == 0x0800 && f[ETH + 9] == 6;
}

static void put_arp(uint8_t *f, unsigned op, uint32_t from, uint32_t to)
{
	memset(f, 0, 60);
	memset(f, 0xff, 6);
	memcpy(f + 6, guest_mac, 6);
	st_be16(f + 12, 0x0806);
	memcpy(f + 14, (const uint8_t[]){ 0, 1, 8, 0, 6, 4, 0, (uint8_t)op }, 8);
	memcpy(f + 22, guest_mac, 6);
	st_be32(f + 28, from);
	st_be32(f + 38, to);
}

/* Ask for the router; libslirp learns our address from it too. */
static void arp(void)
{
	uint8_t f[64];
	unsigned at = nic.n;
	size_t len;

	put_arp(f, 1, GUEST_IP, ROUTER_IP);
	guest_send(f, 60);
	const uint8_t *r = guest_get(&at, is_arp, &len);
	NETNS_CHECK(r && ld_be16(r + 20) == 2 && ld_be32(r + 28) == ROUTER_IP);
	memcpy(router_mac, r + 22, 6);
}

/* DHCP (RFC 2131): discover gives an offer of 10.0.2.15 with router and DNS. */
static bool dhcp_option(const uint8_t *opt, const uint8_t *end, unsigned code, uint32_t want)
{
	while (opt + 2 <= end && *opt != 255 && opt + 2 + opt[1] <= end) {
		if (*opt == code && opt[1] == 4 && ld_be32(opt + 2) == want)
			return true;
		opt += 2 + opt[1];
	}
	return false;
}

static void dhcp_body(void)
{
	uint8_t f[400] = { 0 }, bootp[300] = { 1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef };
	static const uint8_t any[6] = { 255, 255, 255, 255, 255, 255 };
	unsigned at = 0;
	size_t len;

	start(NULL, 0);
	memcpy(bootp + 28, guest_mac, 6);
	memcpy(bootp + 236, (const uint8_t[]){ 99, 130, 83, 99, 53, 1, 1, 255 }, 8);
	put_eth(f, any, guest_mac, 0x0800);
	guest_send(f, put_udp(f, 0, 68, 0xffffffff, 67, bootp, sizeof(bootp)));
	const uint8_t *r = guest_get(&at, is_udp, &len);
	NETNS_CHECK(r && ld_be16(r + ETH + IP4 + 2) == 68);
	const uint8_t *b = r + ETH + IP4 + UDP;
	NETNS_CHECK(ld_be32(b + 4) == 0xdeadbeef && ld_be32(b + 16) == GUEST_IP);
	NETNS_CHECK(dhcp_option(b + 240, r + len, 3, ROUTER_IP));
	NETNS_CHECK(dhcp_option(b + 240, r + len, 6, DNS_IP));
	NETNS_CHECK(memmem(b + 240, len - 282, "testvm", 6) != NULL);
	stop();
}

static void test_dhcp(void **state UNUSED)
{
	netns_run(dhcp_body);
}

/* TCP, as little of it as goes. */

struct conn {
	uint32_t peer_ip;
	uint16_t port, peer_port;
	/* Next to send, next expected. */
	uint32_t seq, ack;
	unsigned at;
};

static void tcp_send(struct conn *c, unsigned flags, const void *data, size_t len)
{
	uint8_t f[1600];

	put_eth(f, router_mac, guest_mac, 0x0800);
	guest_send(f, put_tcp(f, GUEST_IP, c->port, c->peer_ip, c->peer_port, c->seq, c->ack, flags,
			      data, len));
	c->seq += (uint32_t)len + (flags & (F_SYN | F_FIN) ? 1 : 0);
}

/* The next segment of this connection that has one of the flags, or data; acknowledged. */
static const uint8_t *tcp_get(struct conn *c, unsigned flags, size_t *ret_len)
{
	size_t len;
	const uint8_t *f;

	while ((f = guest_get(&c->at, is_tcp, &len)) != NULL) {
		const uint8_t *t = f + ETH + IP4;
		size_t data = ld_be16(f + ETH + 2) - IP4 - (size_t)(t[12] >> 4) * 4;

		if (ld_be16(t + 2) != c->port || (c->peer_port && ld_be16(t) != c->peer_port))
			continue;
		NETNS_CHECK(l4_sum_ok(f, ld_be16(f + ETH + 2) - IP4));
		if (!(t[13] & flags) && !data)
			continue;
		c->peer_port = ld_be16(t);
		c->peer_ip = ld_be32(f + ETH + 12);
		c->ack = ld_be32(t + 4) + (uint32_t)data + (t[13] & (F_SYN | F_FIN) ? 1 : 0);
		*ret_len = data;
		return t;
	}
	return NULL;
}

static int listen_on(uint16_t port)
{
	struct sockaddr_in sin = { .sin_family = AF_INET,
				   .sin_port = htons(port),
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	NETNS_CHECK(bind(s, (struct sockaddr *)&sin, sizeof(sin)) == 0 && listen(s, 4) == 0);
	return s;
}

static int accept_soon(int s)
{
	for (int i = 0; i < 200; i++) {
		int fd = accept4(s, NULL, NULL, SOCK_NONBLOCK);

		if (fd >= 0)
			return fd;
		loop_run_once(l, 10);
	}
	return -1;
}

static ssize_t read_soon(int fd, char *buf, size_t size)
{
	for (int i = 0; i < 200; i++) {
		ssize_t n = recv(fd, buf, size, 0);

		if (n >= 0 || errno != EAGAIN)
			return n;
		loop_run_once(l, 10);
	}
	return -1;
}

/* The guest connects to the host (10.0.2.2 is 127.0.0.1 there), talks, is answered, and closes. */
static void tcp_body(void)
{
	struct conn c = { .peer_ip = ROUTER_IP, .port = 1025, .peer_port = 4444, .seq = 1000 };
	char buf[4096];
	size_t len;
	const uint8_t *t;

	start(NULL, 0);
	arp();
	int s = listen_on(4444);
	tcp_send(&c, F_SYN, NULL, 0);
	t = tcp_get(&c, F_SYN, &len);
	NETNS_CHECK(t && (t[13] & (F_SYN | F_ACK)) == (F_SYN | F_ACK));
	tcp_send(&c, F_ACK, NULL, 0);
	int fd = accept_soon(s);
	NETNS_CHECK(fd >= 0);
	tcp_send(&c, F_ACK | F_PSH, "hello host", 10);
	NETNS_CHECK(read_soon(fd, buf, sizeof(buf)) == 10 && !memcmp(buf, "hello host", 10));
	NETNS_CHECK(send(fd, "hello guest", 11, 0) == 11);
	t = tcp_get(&c, 0, &len);
	NETNS_CHECK(t && len == 11 && !memcmp(t + TCP, "hello guest", 11));
	tcp_send(&c, F_ACK, NULL, 0);
	tcp_send(&c, F_ACK | F_FIN, NULL, 0);
	NETNS_CHECK(read_soon(fd, buf, sizeof(buf)) == 0);
	close(fd);
	NETNS_CHECK(tcp_get(&c, F_FIN, &len) != NULL);
	tcp_send(&c, F_ACK, NULL, 0);
	/* Nobody listens: refused. */
	struct conn d = { .peer_ip = ROUTER_IP, .port = 1026, .peer_port = 4445, .at = nic.n };
	tcp_send(&d, F_SYN, NULL, 0);
	NETNS_CHECK(tcp_get(&d, F_RST, &len) != NULL);
	close(s);
	stop();
}

static void test_tcp(void **state UNUSED)
{
	netns_run(tcp_body);
}

/* No memory to watch a socket with: it is watched when there is some again. */
static void no_memory_body(void)
{
	struct conn c = { .peer_ip = ROUTER_IP, .port = 1025, .peer_port = 4444, .seq = 1000 };
	size_t len;
	char buf[16];

	start(NULL, 0);
	arp();
	int s = listen_on(4444);
	alloc_fail_after = 0;
	tcp_send(&c, F_SYN, NULL, 0);
	settle(30);
	alloc_fail_after = -1;
	NETNS_CHECK(tcp_get(&c, F_SYN, &len) != NULL);
	tcp_send(&c, F_ACK | F_PSH, "late", 4);
	int fd = accept_soon(s);
	NETNS_CHECK(fd >= 0 && read_soon(fd, buf, sizeof(buf)) == 4);
	close(fd);
	close(s);
	stop();
}

static void test_no_memory(void **state UNUSED)
{
	netns_run(no_memory_body);
}

/* What the guest leaves to us: one large frame is many segments to libslirp, and all arrives. */
static void tso_body(void)
{
	static uint8_t f[40000], hdr[NET_HDR_LEN] = { NET_HDR_NEEDS_CSUM, NET_GSO_TCPV4 };
	static char data[30000], buf[30000];
	struct conn c = { .peer_ip = ROUTER_IP, .port = 1025, .peer_port = 4444, .seq = 1000 };
	size_t len, got = 0;

	start(NULL, 0);
	NETNS_CHECK(net_set_features(nic.net, net_features(nic.net)) == 0);
	arp();
	/* Frames come marked as good. */
	NETNS_CHECK(nic.frame[(nic.n - 1) % 64][0] == NET_HDR_DATA_VALID);
	int s = listen_on(4444);
	tcp_send(&c, F_SYN, NULL, 0);
	NETNS_CHECK(tcp_get(&c, F_SYN, &len) != NULL);
	tcp_send(&c, F_ACK, NULL, 0);
	int fd = accept_soon(s);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * 31 / 7);
	put_eth(f, router_mac, guest_mac, 0x0800);
	size_t n = put_tcp(f, GUEST_IP, c.port, ROUTER_IP, c.peer_port, c.seq, c.ack, F_ACK | F_PSH,
			   data, sizeof(data));
	st_be16(f + ETH + IP4 + 16, 0xbad);
	st_le16(hdr + NET_HDR_GSO_SIZE, 1460);
	NETNS_CHECK(guest_send_hdr(hdr, f, n) == (ssize_t)(NET_HDR_LEN + n));
	while (got < sizeof(data)) {
		ssize_t r = read_soon(fd, buf + got, sizeof(buf) - got);

		NETNS_CHECK(r > 0);
		got += (size_t)r;
	}
	NETNS_CHECK(!memcmp(buf, data, sizeof(data)));
	/* Nonsense is dropped and counted. */
	uint64_t dropped = nic.net->stats.dropped;
	hdr[NET_HDR_GSO_TYPE] = 99;
	NETNS_CHECK(guest_send_hdr(hdr, f, n) == -EINVAL);
	hdr[NET_HDR_GSO_TYPE] = 0;
	NETNS_CHECK(guest_send_hdr(hdr, f, n) == -EINVAL);
	NETNS_CHECK(nic.net->stats.dropped == dropped + 2);
	close(fd);
	close(s);
	stop();
}

static void test_tso(void **state UNUSED)
{
	netns_run(tso_body);
}

/* Ports of the host that lead into the guest. */
static void hostfwd_body(void)
{
	const struct net_fwd fwd[] = {
		{ false, htonl(INADDR_LOOPBACK), 0, 2222, 22 },
		{ true, htonl(INADDR_LOOPBACK), htonl(GUEST_IP), 5353, 53 },
	};
	struct sockaddr_in sin = { .sin_family = AF_INET,
				   .sin_port = htons(2222),
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct conn c = { .port = 22, .seq = 7000 };
	uint8_t f[200];
	char buf[64];
	size_t len;

	start(fwd, 2);
	arp();
	int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	NETNS_CHECK(connect(s, (struct sockaddr *)&sin, sizeof(sin)) == 0 || errno == EINPROGRESS);
	NETNS_CHECK(tcp_get(&c, F_SYN, &len) != NULL);
	tcp_send(&c, F_SYN | F_ACK, NULL, 0);
	settle(20);
	NETNS_CHECK(send(s, "SSH-2.0-x", 9, 0) == 9);
	const uint8_t *t = tcp_get(&c, 0, &len);
	NETNS_CHECK(t && len == 9 && !memcmp(t + TCP, "SSH-2.0-x", 9));
	tcp_send(&c, F_ACK | F_PSH, "SSH-2.0-y", 9);
	NETNS_CHECK(read_soon(s, buf, sizeof(buf)) == 9 && !memcmp(buf, "SSH-2.0-y", 9));
	close(s);

	unsigned at = nic.n;
	s = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	sin.sin_port = htons(5353);
	NETNS_CHECK(sendto(s, "query", 5, 0, (struct sockaddr *)&sin, sizeof(sin)) == 5);
	const uint8_t *r = guest_get(&at, is_udp, &len);
	NETNS_CHECK(r && ld_be16(r + ETH + IP4 + 2) == 53);
	NETNS_CHECK(!memcmp(r + ETH + IP4 + UDP, "query", 5));
	put_eth(f, router_mac, guest_mac, 0x0800);
	guest_send(f, put_udp(f, GUEST_IP, 53, ld_be32(r + ETH + 12), ld_be16(r + ETH + IP4),
			      "answer", 6));
	NETNS_CHECK(read_soon(s, buf, sizeof(buf)) == 6 && !memcmp(buf, "answer", 6));
	close(s);
	stop();
}

static void test_hostfwd(void **state UNUSED)
{
	netns_run(hostfwd_body);
}

static void hostfwd_busy_body(void)
{
	const struct net_fwd fwd = { false, htonl(INADDR_LOOPBACK), 0, 2222, 22 };
	struct net_opts o = { .type = "user", .fwd = &fwd, .nfwd = 1, .client = &nic.client };
	struct net *n;
	struct err e;
	int s = listen_on(2222);

	NETNS_CHECK(loop_new(&o.loop, LOOP_AUTO, &e) == 0);
	NETNS_CHECK(net_open(&n, &o, &e) == -EADDRINUSE);
	NETNS_CHECK(strstr(e.msg, "cannot forward tcp:127.0.0.1:2222: Address already in use"));
	close(s);
	NETNS_CHECK(net_open(&n, &o, &e) == 0);
	net_close(n);
	loop_free(o.loop);
}

static void test_hostfwd_busy(void **state UNUSED)
{
	netns_run(hostfwd_busy_body);
}

/* IPv6 is there: the router advertises fec0::/64 to who asks (RFC 4861, 4.1). */
static bool is_ra(const uint8_t *f, size_t len)
{
	return len > ETH + IP6 && ld_be16(f + 12) == 0x86dd && f[ETH + 6] == 58 &&
	       f[ETH + IP6] == 134;
}

static void ipv6_body(void)
{
	static const uint8_t all_routers[6] = { 0x33, 0x33, 0, 0, 0, 2 };
	static const uint8_t prefix[8] = { 0xfe, 0xc0 };
	uint8_t f[ETH + IP6 + 8] = { 0 }, *ip = f + ETH, *icmp = ip + IP6;
	unsigned at = 0;
	size_t len;

	start(NULL, 0);
	put_eth(f, all_routers, guest_mac, 0x86dd);
	ip[0] = 0x60;
	st_be16(ip + 4, 8);
	ip[6] = 58;
	ip[7] = 255;
	memcpy(ip + 8, (const uint8_t[16]){ 0xfe, 0x80, [15] = 9 }, 16);
	memcpy(ip + 24, (const uint8_t[16]){ 0xff, 2, [15] = 2 }, 16);
	icmp[0] = 133;
	st_be16(icmp + 2, (uint16_t)~dumb_sum(pseudo_sum(ip + 8, 32, 58, 8), icmp, 8));
	guest_send(f, sizeof(f));
	const uint8_t *r = guest_get(&at, is_ra, &len);
	NETNS_CHECK(r && memmem(r + ETH + IP6, len - ETH - IP6, prefix, 8) != NULL);
	stop();
}

static void test_ipv6(void **state UNUSED)
{
	netns_run(ipv6_body);
}

/* A NIC without buffers: frames wait, up to a limit; one at a time is fine too. */
static void backlog_body(void)
{
	uint8_t f[64];

	start(NULL, 0);
	arp();
	net_rx_enable(nic.net, false);
	unsigned before = nic.n, calls = nic.readable;
	put_arp(f, 1, GUEST_IP, ROUTER_IP);
	for (int i = 0; i < 2000; i++)
		guest_send(f, 60);
	settle(20);
	NETNS_CHECK(nic.readable == calls);
	NETNS_CHECK(nic.net->stats.dropped == 2000 - 512);
	nic.lazy = true;
	net_rx_enable(nic.net, true);
	for (int i = 0; i < 2000 && nic.n < before + 512; i++)
		loop_run_once(l, 5);
	NETNS_CHECK(nic.n == before + 512);
	stop();
}

static void test_backlog(void **state UNUSED)
{
	netns_run(backlog_body);
}

/* Random frames, random offloads: whatever it answers, it stays alive and lets go of everything. */
static void garbage_body(void)
{
	static uint8_t f[NET_FRAME_MAX];
	uint64_t s = t_seed(9);

	start(NULL, 0);
	arp();
	for (int i = 0; i < 20000; i++) {
		size_t len = 14 + t_below(&s, i % 10 ? 200 : 9000);

		for (size_t j = 0; j < 64 && j < len; j++)
			f[j] = (uint8_t)t_rnd(&s);
		memcpy(f, router_mac, 6);
		memcpy(f + 6, guest_mac, 6);
		static const uint16_t types[] = { 0x0800, 0x0806, 0x86dd };
		st_be16(f + 12, types[t_below(&s, 3)]);
		if (t_below(&s, 2)) {
			f[14] = 0x45;
			/* Not a protocol that opens sockets. */
			f[23] = (uint8_t)(t_below(&s, 2) ? 1 : 200);
		}
		uint8_t hdr[NET_HDR_LEN] = { (uint8_t)t_below(&s, 2), (uint8_t)t_below(&s, 6) };
		for (int j = 2; j < NET_HDR_LEN; j++)
			hdr[j] = (uint8_t)(t_below(&s, 3) ? t_below(&s, 64) * (j % 2 == 0)
							  : t_rnd(&s));
		(void)guest_send_hdr(hdr, f, len);
		if (i % 64 == 0)
			loop_run_once(l, 0);
	}
	settle(10);
	stop();
}

static void test_garbage(void **state UNUSED)
{
	netns_run(garbage_body);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_dhcp),    cmocka_unit_test(test_tcp),
		cmocka_unit_test(test_tso),     cmocka_unit_test(test_no_memory),
		cmocka_unit_test(test_hostfwd), cmocka_unit_test(test_hostfwd_busy),
		cmocka_unit_test(test_ipv6),    cmocka_unit_test(test_backlog),
		cmocka_unit_test(test_garbage),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
