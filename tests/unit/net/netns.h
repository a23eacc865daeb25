/* A network namespace for one test: the test runs in a child that has the namespace to itself. */
#pragma once

#include "lib/t.h"

#include <errno.h>
#include <linux/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	NETNS_REFUSED = 77,
};

/* Up, with an IPv4 address when addr (network order) is not 0. */
static inline int netns_up(const char *ifname, uint32_t addr)
{
	struct ifreq ifr = { 0 };
	struct sockaddr_in *sin = (struct sockaddr_in *)&ifr.ifr_addr;
	int fd = socket(AF_INET, SOCK_DGRAM, 0), rc = 0;

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", ifname);
	sin->sin_family = AF_INET;
	sin->sin_addr.s_addr = addr;
	if (addr)
		rc = ioctl(fd, SIOCSIFADDR, &ifr);
	sin->sin_addr.s_addr = htonl(0xffffff00);
	if (addr && rc == 0)
		rc = ioctl(fd, SIOCSIFNETMASK, &ifr);
	memset(&ifr.ifr_ifru, 0, sizeof(ifr.ifr_ifru));
	if (rc == 0)
		rc = ioctl(fd, SIOCGIFFLAGS, &ifr);
	ifr.ifr_flags |= IFF_UP | IFF_RUNNING;
	if (rc == 0)
		rc = ioctl(fd, SIOCSIFFLAGS, &ifr);
	close(fd);
	return rc;
}

/* Runs body in a namespace of its own with lo up; skips where there can be none. */
static inline void netns_run(void (*body)(void))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		if (unshare(CLONE_NEWNET) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
			_exit(NETNS_REFUSED);
		if (netns_up("lo", 0) < 0)
			_exit(NETNS_REFUSED);
		body();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == NETNS_REFUSED)
		T_SKIP("no network namespaces here");
	if (status)
		fail_msg("in the namespace: status %#x", status);
}

/* In the child a failed assertion has to end the process, not the test. */
#define NETNS_CHECK(cond)                                                         \
	do {                                                                      \
		if (!(cond)) {                                                    \
			printf("%s:%d: %s: failed\n", __FILE__, __LINE__, #cond); \
			fflush(stdout);                                           \
			_exit(1);                                                 \
		}                                                                 \
	} while (0)
