/* The tap backend, in a network namespace of its own. */
#include "net/net_int.h"

#include "base/num.h"
#include "base/os.h"
#include "frames.h"
#include "netns.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define HOST_IP 0x0a090001
#define GUEST_IP 0x0a090002

static const uint8_t guest_mac[6] = { 2, 0, 0, 0, 0, 9 };
static uint8_t host_mac[6];

static struct {
	struct net_client client;
	unsigned readable;
	struct net *net;
	uint8_t frame[NET_FRAME_MAX];
	size_t len;
	/* Which frames are kept: ethertype and, if not 0, protocol. */
	unsigned type, proto;
	bool got;
} nic;

static void nic_readable(struct net_client *c UNUSED)
{
	const struct iovec iov = { nic.frame, sizeof(nic.frame) };

	nic.readable++;
	while (!nic.got) {
		ssize_t n = net_recv(nic.net, &iov, 1);

		if (n < 0)
			return;
		const uint8_t *f = nic.frame + NET_HDR_LEN;
		nic.len = (size_t)n;
		nic.got = n > NET_HDR_LEN + ETH && ld_be16(f + 12) == nic.type &&
			  (!nic.proto || f[ETH + 9] == nic.proto);
	}
}

static struct loop *tap_loop;

static int tap_open_as(const char *ifname, int fd, struct err *e)
{
	nic.client.readable = nic_readable;
	struct net_opts o = {
		.type = "tap", .ifname = ifname, .fd = fd, .loop = tap_loop, .client = &nic.client
	};

	return net_open(&nic.net, &o, e);
}

static void tap_start(void)
{
	struct err e;

	NETNS_CHECK(loop_new(&tap_loop, LOOP_AUTO, &e) == 0);
	if (access("/dev/net/tun", R_OK | W_OK) < 0)
		_exit(NETNS_REFUSED);
	if (tap_open_as("t0", -1, &e) < 0) {
		printf("%s\n", e.msg);
		fflush(stdout);
		_exit(1);
	}
	NETNS_CHECK(netns_up("t0", htonl(HOST_IP)) == 0);
	struct ifreq ifr = { .ifr_name = "t0" };
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	NETNS_CHECK(ioctl(s, SIOCGIFHWADDR, &ifr) == 0);
	memcpy(host_mac, ifr.ifr_hwaddr.sa_data, 6);
	close(s);
	net_rx_enable(nic.net, true);
}

static void tap_stop(void)
{
	net_close(nic.net);
	loop_free(tap_loop);
}

static void send_frame(const uint8_t *hdr, const uint8_t *f, size_t len)
{
	/* In pieces, as a guest's buffers are. */
	const struct iovec iov[] = {
		{ (void *)(uintptr_t)hdr, NET_HDR_LEN },
		{ (void *)(uintptr_t)f, 20 },
		{ (void *)(uintptr_t)(f + 20), len - 20 },
	};

	NETNS_CHECK(net_send(nic.net, iov, 3) == (ssize_t)(NET_HDR_LEN + len));
}

static bool wait_frame(unsigned type, unsigned proto)
{
	nic.type = type;
	nic.proto = proto;
	nic.got = false;
	for (int i = 0; i < 200 && !nic.got; i++)
		loop_run_once(tap_loop, 10);
	return nic.got;
}

static void teach_arp(void)
{
	uint8_t hdr[NET_HDR_LEN] = { 0 }, f[64] = { 0 };

	memset(f, 0xff, 6);
	memcpy(f + 6, guest_mac, 6);
	st_be16(f + 12, 0x0806);
	memcpy(f + 14, (const uint8_t[]){ 0, 1, 8, 0, 6, 4, 0, 1 }, 8);
	memcpy(f + 22, guest_mac, 6);
	st_be32(f + 28, GUEST_IP);
	st_be32(f + 38, HOST_IP);
	send_frame(hdr, f, 42);
}

static void arp_body(void)
{
	tap_start();
	teach_arp();
	NETNS_CHECK(wait_frame(0x0806, 0));
	const uint8_t *f = nic.frame + NET_HDR_LEN;
	NETNS_CHECK(ld_be16(f + 20) == 2);
	NETNS_CHECK(memcmp(f + 22, host_mac, 6) == 0);
	NETNS_CHECK(ld_be32(f + 28) == HOST_IP);
	NETNS_CHECK(nic.net->stats.tx_frames == 1);
	NETNS_CHECK(nic.net->stats.rx_frames >= 1);
	tap_stop();
}

static void test_arp(void **state UNUSED)
{
	netns_run(arp_body);
}

/* A checksum that the guest leaves to the host: the packet arrives. */
static void csum_body(void)
{
	uint8_t hdr[NET_HDR_LEN] = { NET_HDR_NEEDS_CSUM }, f[1514];
	struct sockaddr_in sin = { .sin_family = AF_INET, .sin_port = htons(7777) };
	char buf[64];

	tap_start();
	teach_arp();
	NETNS_CHECK(wait_frame(0x0806, 0));
	NETNS_CHECK(net_set_features(nic.net, NET_F_TX_CSUM) == 0);
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	NETNS_CHECK(bind(s, (struct sockaddr *)&sin, sizeof(sin)) == 0);
	put_eth(f, host_mac, guest_mac, 0x0800);
	size_t len = put_udp(f, GUEST_IP, 5555, HOST_IP, 7777, "ping", 4);
	st_be16(f + ETH + IP4 + 6, pseudo_sum(f + ETH + 12, 8, 17, UDP + 4));
	st_le16(hdr + NET_HDR_CSUM_START, ETH + IP4);
	st_le16(hdr + NET_HDR_CSUM_OFFSET, 6);
	send_frame(hdr, f, len);
	struct pollfd pf = { .fd = s, .events = POLLIN };
	NETNS_CHECK(poll(&pf, 1, 2000) == 1);
	NETNS_CHECK(recv(s, buf, sizeof(buf), 0) == 4 && !memcmp(buf, "ping", 4));

	/* And back: whole, or unfinished once the guest takes that. */
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons(5555),
				  .sin_addr.s_addr = htonl(GUEST_IP) };
	for (int rx = 0; rx < 2; rx++) {
		NETNS_CHECK(net_set_features(nic.net, rx ? NET_F_RX_CSUM : 0) == 0);
		NETNS_CHECK(sendto(s, "pong!", 5, 0, (struct sockaddr *)&to, sizeof(to)) == 5);
		NETNS_CHECK(wait_frame(0x0800, 17));
		NETNS_CHECK(nic.len == NET_HDR_LEN + ETH + IP4 + UDP + 5);
		NETNS_CHECK(nic.frame[0] == (rx ? NET_HDR_NEEDS_CSUM : 0));
		NETNS_CHECK(l4_sum_ok(nic.frame + NET_HDR_LEN, UDP + 5) == !rx);
	}
	close(s);
	tap_stop();
}

static void test_checksum(void **state UNUSED)
{
	netns_run(csum_body);
}

/* What the kernel of the test machine has; the guest's choices reach it. */
static void features_body(void)
{
	tap_start();
	unsigned all = net_features(nic.net);
	unsigned want = NET_F_TX_CSUM | NET_F_TX_TSO4 | NET_F_TX_TSO6 | NET_F_TX_ECN |
			NET_F_RX_CSUM | NET_F_RX_TSO4 | NET_F_RX_TSO6 | NET_F_RX_ECN;
	NETNS_CHECK((all & want) == want);
	NETNS_CHECK(net_set_features(nic.net, all) == 0);
	NETNS_CHECK(net_set_features(nic.net, 0) == 0);
	/* Segments without checksums make no sense to the kernel: left out, not refused. */
	NETNS_CHECK(net_set_features(nic.net, NET_F_RX_TSO4) == 0);
	NETNS_CHECK(net_set_features(nic.net, 1 << 20) == -EINVAL);
	tap_stop();
}

static void test_features(void **state UNUSED)
{
	netns_run(features_body);
}

/* Nothing comes after rx_enable(false), and nothing is lost by it. */
static void rx_enable_body(void)
{
	tap_start();
	net_rx_enable(nic.net, false);
	teach_arp();
	nic.readable = 0;
	for (int i = 0; i < 20; i++)
		loop_run_once(tap_loop, 2);
	NETNS_CHECK(nic.readable == 0);
	net_rx_enable(nic.net, true);
	NETNS_CHECK(wait_frame(0x0806, 0));
	tap_stop();
}

static void test_rx_enable(void **state UNUSED)
{
	netns_run(rx_enable_body);
}

static void lengths_body(void)
{
	static uint8_t buf[NET_FRAME_MAX + 1];
	struct iovec iov = { buf, sizeof(buf) };

	tap_start();
	NETNS_CHECK(net_send(nic.net, &iov, 1) == -EINVAL);
	iov.iov_len = NET_HDR_LEN + ETH - 1;
	NETNS_CHECK(net_send(nic.net, &iov, 1) == -EINVAL);
	struct iovec wrap[2] = { { buf, SIZE_MAX }, { buf, 100 } };
	NETNS_CHECK(net_send(nic.net, wrap, 2) == -EINVAL);
	NETNS_CHECK(net_send(nic.net, wrap, 0) == -EINVAL);
	/* Nonsense in the header is the kernel's to refuse: dropped, not fatal. */
	memset(buf, 0xff, NET_HDR_LEN);
	iov.iov_len = 200;
	NETNS_CHECK(net_send(nic.net, &iov, 1) < 0);
	NETNS_CHECK(nic.net->stats.dropped == 5);
	tap_stop();
}

static void test_lengths(void **state UNUSED)
{
	netns_run(lengths_body);
}

/* A descriptor from somebody else: blocking, without our header size. */
static void fd_body(void)
{
	struct ifreq ifr = { .ifr_name = "t1", .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	struct ifreq bad = { .ifr_name = "t2", .ifr_flags = IFF_TAP | IFF_NO_PI };
	struct err e;

	tap_start();
	tap_stop();
	NETNS_CHECK(loop_new(&tap_loop, LOOP_AUTO, &e) == 0);
	int fd = open("/dev/net/tun", O_RDWR);
	NETNS_CHECK(ioctl(fd, TUNSETIFF, &ifr) == 0);
	NETNS_CHECK(tap_open_as(NULL, fd, &e) == 0);
	NETNS_CHECK(netns_up("t1", htonl(HOST_IP)) == 0);
	NETNS_CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
	net_rx_enable(nic.net, true);
	teach_arp();
	NETNS_CHECK(wait_frame(0x0806, 0));
	/* A second one on it by name: in use. */
	struct net *first = nic.net;
	NETNS_CHECK(tap_open_as("t1", -1, &e) == -EBUSY);
	NETNS_CHECK(strstr(e.msg, "another VM") != NULL);
	net_close(first);
	NETNS_CHECK(fcntl(fd, F_GETFL) < 0);
	/* Not a tap, and a tap without headers: the descriptor stays ours. */
	fd = open("/dev/null", O_RDWR);
	NETNS_CHECK(tap_open_as(NULL, fd, &e) < 0);
	NETNS_CHECK(close(fd) == 0);
	fd = open("/dev/net/tun", O_RDWR);
	NETNS_CHECK(ioctl(fd, TUNSETIFF, &bad) == 0);
	NETNS_CHECK(tap_open_as(NULL, fd, &e) == -EINVAL);
	NETNS_CHECK(strstr(e.msg, "vnet_hdr") != NULL);
	NETNS_CHECK(close(fd) == 0);
	loop_free(tap_loop);
}

static void test_fd(void **state UNUSED)
{
	netns_run(fd_body);
}

static int no_perm(int fd UNUSED, unsigned long request UNUSED, void *arg UNUSED)
{
	errno = EPERM;
	return -1;
}

static void test_errors(void **state UNUSED)
{
	struct os_calls real = os;
	struct err e;

	assert_int_equal(loop_new(&tap_loop, LOOP_AUTO, &e), 0);
	assert_int_equal(tap_open_as("a-name-that-is-too-long", -1, &e), -EINVAL);
	assert_int_equal(tap_open_as("", -1, &e), -EINVAL);
	if (access("/dev/net/tun", R_OK | W_OK) == 0) {
		os.ioctl = no_perm;
		assert_int_equal(tap_open_as("t9", -1, &e), -EPERM);
		os = real;
		assert_non_null(strstr(e.msg, "try, as root: ip tuntap add dev t9 mode tap"));
	}
	struct net_opts o = { .type = "pigeon" };
	struct net *n;
	assert_int_equal(net_open(&n, &o, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "user, tap, none"));
	loop_free(tap_loop);
}

static int calls_left;
static struct os_calls real_os;

static int flaky_ioctl(int fd, unsigned long request, void *arg)
{
	errno = EIO;
	return calls_left-- == 0 ? -1 : real_os.ioctl(fd, request, arg);
}

/* Each ioctl of opening fails once: an error, or a feature less. */
static void faults_body(void)
{
	struct err e;
	int n, failed = 0, fewer = 0;

	tap_start();
	unsigned all = net_features(nic.net);
	tap_stop();
	NETNS_CHECK(loop_new(&tap_loop, LOOP_AUTO, &e) == 0);
	real_os = os;
	os.ioctl = flaky_ioctl;
	for (n = 0; n < 50; n++) {
		calls_left = n;
		if (tap_open_as("t0", -1, &e) < 0) {
			NETNS_CHECK(e.code == EIO);
			failed++;
			continue;
		}
		fewer += net_features(nic.net) != all;
		net_close(nic.net);
		if (calls_left >= 0)
			break;
	}
	os = real_os;
	NETNS_CHECK(failed == 3);
	NETNS_CHECK(fewer == 4);
	loop_free(tap_loop);
}

static void test_faults(void **state UNUSED)
{
	netns_run(faults_body);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_arp),      cmocka_unit_test(test_checksum),
		cmocka_unit_test(test_features), cmocka_unit_test(test_rx_enable),
		cmocka_unit_test(test_lengths),  cmocka_unit_test(test_fd),
		cmocka_unit_test(test_errors),   cmocka_unit_test(test_faults),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
