/*
 * clocks: what a guest's clocks say, asked from outside; runs in the guest (test_time.py).
 *
 *	clocks BUSY	starts BUSY processes that keep the CPUs busy, then answers lines:
 *		t	T MONOTONIC REALTIME: nanoseconds
 *		j	J MONOTONIC JIFFIES TICKS: ticks are the local timers' interrupts
 *		r	R REALTIME SECONDS: at the moment when the clock chip's second changed
 *		p	P EXPIRED ELAPSED LATE_MAX MERGED: of a periodic timer of 1 ms, since the
 *			last p
 *		b	B N: starts another busy process; N of them are there
 *		k	K 0: ends the busy ones
 *		q	ends
 *
 * The processes that measure have real-time priority: what is measured is the machine, not the
 * guest's scheduler.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/rtc.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	PERIOD_NS = 1000000,
	BUSY_MAX = 8,
};

static void die(const char *what)
{
	printf("clocks: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now(clockid_t c)
{
	struct timespec t;

	clock_gettime(c, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Arithmetic of all kinds, system calls, page faults. */
static void run_busy(unsigned seed)
{
	static volatile double sink;
	uint32_t x = seed + 1;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		for (unsigned i = 0; i < 200000; i++) {
			x = x * 1664525 + 1013904223;
			if (x >> 24 == 7)
				sink = sink + sqrt(x);
		}
		char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			       -1, 0);
		if (p != MAP_FAILED) {
			for (unsigned i = 0; i < 1 << 20; i += 4096)
				p[i] = (char)x;
			munmap(p, 1 << 20);
		}
		for (unsigned i = 0; i < 200; i++)
			syscall(SYS_getppid);
	}
}

static pid_t busy[BUSY_MAX];
static unsigned nbusy;

static void start_busy(void)
{
	if (nbusy == BUSY_MAX)
		return;
	busy[nbusy] = fork();
	if (busy[nbusy] < 0)
		die("fork");
	if (busy[nbusy] == 0) {
		const struct sched_param p = { 0 };

		sched_setscheduler(0, SCHED_OTHER, &p);
		run_busy(nbusy);
	}
	nbusy++;
}

static void end_busy(void)
{
	while (nbusy) {
		kill(busy[--nbusy], SIGKILL);
		waitpid(busy[nbusy], NULL, 0);
	}
}

/* The periodic timer. */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t expired, started_ns, late_max, merged;

static void *periodic(void *arg)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, 0);
	uint64_t first = now(CLOCK_MONOTONIC) + PERIOD_NS, n, total = 0;
	const struct itimerspec its = {
		.it_interval = { .tv_nsec = PERIOD_NS },
		.it_value = { .tv_sec = (time_t)(first / 1000000000),
			      .tv_nsec = (long)(first % 1000000000) },
	};

	if (fd < 0 || timerfd_settime(fd, TFD_TIMER_ABSTIME, &its, NULL) < 0)
		die("timerfd");
	started_ns = first - PERIOD_NS;
	while (read(fd, &n, sizeof(n)) == sizeof(n)) {
		total += n;
		uint64_t late = now(CLOCK_MONOTONIC) - (first + (total - 1) * PERIOD_NS);
		pthread_mutex_lock(&lock);
		expired = total;
		merged += n - 1;
		if (late > late_max)
			late_max = late;
		pthread_mutex_unlock(&lock);
	}
	die("read of a timerfd");
	return arg;
}

static void tell_periodic(void)
{
	pthread_mutex_lock(&lock);
	printf("P %lu %lu %lu %lu\n", expired, now(CLOCK_MONOTONIC) - started_ns, late_max, merged);
	late_max = merged = 0;
	pthread_mutex_unlock(&lock);
}

/* The kernel's ticks. */

static char text[1 << 18];

static void read_file(const char *path)
{
	int fd = open(path, O_RDONLY);
	size_t len = 0;
	ssize_t n;

	if (fd < 0)
		die(path);
	while ((n = read(fd, text + len, sizeof(text) - 1 - len)) > 0)
		len += (size_t)n;
	text[len] = 0;
	close(fd);
}

static void tell_ticks(void)
{
	uint64_t ticks = 0;

	read_file("/proc/interrupts");
	char *p = strstr(text, "LOC:");
	if (!p)
		die("no LOC in /proc/interrupts");
	for (p += 4, p += strspn(p, " "); *p >= '0' && *p <= '9'; p += strspn(p, " "))
		ticks += strtoul(p, &p, 10);
	read_file("/proc/timer_list");
	/* Written together: the time, then the jiffies of each CPU. */
	p = strstr(text, "now at ");
	char *j = strstr(text, "jiffies: ");
	if (!p || !j)
		die("no jiffies in /proc/timer_list");
	printf("J %lu %lu %lu\n", strtoul(p + 7, NULL, 10), strtoul(j + 9, NULL, 10), ticks);
}

/* The clock chip. */

static unsigned rtc_second(int fd, time_t *ret)
{
	struct rtc_time t;

	if (ioctl(fd, RTC_RD_TIME, &t) < 0)
		die("RTC_RD_TIME");
	struct tm tm = { .tm_sec = t.tm_sec,
			 .tm_min = t.tm_min,
			 .tm_hour = t.tm_hour,
			 .tm_mday = t.tm_mday,
			 .tm_mon = t.tm_mon,
			 .tm_year = t.tm_year };
	*ret = timegm(&tm);
	return (unsigned)t.tm_sec;
}

static void tell_rtc(void)
{
	int fd = open("/dev/rtc0", O_RDONLY);
	time_t first, t;

	if (fd < 0)
		die("/dev/rtc0");
	rtc_second(fd, &first);
	do {
		usleep(1000);
		rtc_second(fd, &t);
	} while (t == first);
	printf("R %lu %ld\n", now(CLOCK_REALTIME), (long)t);
	close(fd);
}

static void answer(char what)
{
	switch (what) {
	case 't':
		printf("T %lu %lu\n", now(CLOCK_MONOTONIC), now(CLOCK_REALTIME));
		break;
	case 'j':
		tell_ticks();
		break;
	case 'r':
		tell_rtc();
		break;
	case 'p':
		tell_periodic();
		break;
	case 'b':
		start_busy();
		printf("B %u\n", nbusy);
		break;
	case 'k':
		end_busy();
		printf("K %u\n", nbusy);
		break;
	default:
		break;
	}
}

int main(int argc, char **argv)
{
	const struct sched_param p = { .sched_priority = 50 };
	char line[64];
	pthread_t thread;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int n = argc > 1 ? atoi(argv[1]) : 0; n > 0; n--)
		start_busy();
	if (sched_setscheduler(0, SCHED_FIFO, &p) < 0)
		die("sched_setscheduler");
	if (pthread_create(&thread, NULL, periodic, NULL))
		die("a thread");
	printf("clocks ready\n");
	while (fgets(line, sizeof(line), stdin) && line[0] != 'q')
		answer(line[0]);
	return 0;
}
