/* Byte streams: the queue, file, unix sockets and pseudo terminals.  stdio is in test_stdio.c. */
#include "chr/chr.h"

#include "base/clock.h"
#include "base/num.h"
#include "lib/refuse.h"
#include "lib/t.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* The device. */
struct device {
	struct chr_client client;
	uint8_t got[8192];
	/* Bytes taken, and how many it will take. */
	size_t ngot, room;
	unsigned writable;
};

static size_t device_input(struct chr_client *c, const uint8_t *p, size_t len)
{
	struct device *d = container_of(c, struct device, client);
	size_t n = MIN(len, d->room - d->ngot);

	memcpy(d->got + d->ngot, p, n);
	d->ngot += n;
	return n;
}

static void device_writable(struct chr_client *c)
{
	container_of(c, struct device, client)->writable++;
}

static struct device dev;

static struct chr *open_chr(struct loop **ret_l, const char *type, const char *path)
{
	struct err e;
	struct chr *c;

	dev = (struct device){ { device_input, device_writable }, .room = sizeof(dev.got) };
	if (loop_new(ret_l, LOOP_AUTO, &e) < 0)
		fail_msg("%s", e.msg);
	struct chr_opts o = { .type = type, .path = path, .loop = *ret_l, .client = &dev.client };
	if (chr_open(&c, &o, &e) < 0)
		fail_msg("%s", e.msg);
	return c;
}

static size_t put(struct chr *c, const char *s)
{
	return chr_write(c, (const uint8_t *)s, strlen(s));
}

static void settle(struct loop *l)
{
	for (int i = 0; i < 20; i++)
		loop_run_once(l, 2);
}

static char dir[] = "chr-test-XXXXXX";
static char sock_path[64], file_path[64];

/* File, none, the queue. */

static size_t read_file(uint8_t *buf, size_t size)
{
	int fd = open(file_path, O_RDONLY);
	size_t len = 0;
	ssize_t n;

	assert_true(fd >= 0);
	while ((n = read(fd, buf + len, size - len)) > 0)
		len += (size_t)n;
	close(fd);
	return len;
}

static void test_file(void **state UNUSED)
{
	enum {
		N = 300000
	};
	static uint8_t want[N], have[N + 100];
	struct loop *l;
	struct chr *c = open_chr(&l, "file", file_path);
	uint64_t s = t_seed(5);
	size_t at = 0;
	unsigned stalls = 0;

	assert_non_null(strstr(c->where, "file:"));
	for (size_t i = 0; i < N; i++)
		want[i] = (uint8_t)t_rnd(&s);
	while (at < N) {
		size_t len = MIN(1 + t_below(&s, 60000), N - at);
		size_t n = chr_write(c, want + at, len);

		at += n;
		if (n == len)
			continue;
		stalls++;
		dev.writable = 0;
		while (!dev.writable)
			loop_run_once(l, 1000);
	}
	assert_true(stalls > 1);
	while (c->len)
		loop_run_once(l, 1000);
	chr_close(c);
	loop_free(l);
	/* Appended the second time. */
	c = open_chr(&l, "file", file_path);
	assert_int_equal(put(c, "end"), 3);
	chr_close(c);
	loop_free(l);
	assert_int_equal(read_file(have, sizeof(have)), N + 3);
	assert_memory_equal(have, want, N);
	assert_memory_equal(have + N, "end", 3);
	unlink(file_path);
}

static bool disk_full(const struct loop_io *io UNUSED, int64_t *ret_res)
{
	*ret_res = -ENOSPC;
	return true;
}

/* A full disk loses output, not the VM. */
static void test_file_full(void **state UNUSED)
{
	struct loop *l;
	struct chr *c = open_chr(&l, "file", file_path);
	uint8_t have[16];

	loop_io_fault = disk_full;
	assert_int_equal(put(c, "lost"), 4);
	settle(l);
	assert_int_equal(c->len, 0);
	loop_io_fault = NULL;
	put(c, "kept");
	settle(l);
	chr_close(c);
	loop_free(l);
	assert_int_equal(read_file(have, sizeof(have)), 4);
	assert_memory_equal(have, "kept", 4);
	unlink(file_path);
}

static void test_none(void **state UNUSED)
{
	struct loop *l;
	struct chr *c = open_chr(&l, "none", NULL);

	for (int i = 0; i < 1000; i++) {
		assert_int_equal(chr_write(c, (const uint8_t[1000]){ 0 }, 1000), 1000);
		loop_run_once(l, 0);
	}
	chr_poll(c);
	chr_close(c);
	loop_free(l);
}

/* A guest that writes whenever a byte was taken, as fast as the host takes them. */
static unsigned flood;

static ssize_t flood_write(struct chr *c, const uint8_t *p UNUSED, size_t len)
{
	if (++flood > 1000)
		fail_msg("the loop does nothing but this stream");
	assert_int_equal(chr_write(c, (const uint8_t *)"x", 1), 1);
	return (ssize_t)len;
}

static void test_flood(void **state UNUSED)
{
	const struct chr_driver *none;
	struct chr_driver drv;
	struct loop *l;
	struct chr *c = open_chr(&l, "none", NULL);

	none = c->drv;
	drv = *none;
	drv.write = flood_write;
	c->drv = &drv;
	flood = 0;
	put(c, "xx");
	loop_run_once(l, 0);
	/* Others of this loop have their turn, then it goes on. */
	unsigned before = flood;
	assert_true(before > 0);
	loop_run_once(l, 0);
	assert_true(flood > before);
	c->drv = none;
	chr_close(c);
	loop_free(l);
}

static void test_unknown(void **state UNUSED)
{
	struct chr_opts o = { .type = "telex" };
	struct chr *c;
	struct err e;

	assert_int_equal(chr_open(&c, &o, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "stdio, pty, unix, file, none"));
}

enum {
	WRITERS = 3,
	EACH = 100000,
};

static struct chr *shared_chr;

static void writer_main(void *arg)
{
	uint8_t buf[64];

	for (unsigned i = 0; i < EACH;) {
		unsigned n = MIN(EACH - i, (unsigned)sizeof(buf));

		memset(buf, (int)(uintptr_t)arg, n);
		size_t took = chr_write(shared_chr, buf, n);
		i += (unsigned)took;
		if (!took)
			usleep(50);
	}
}

/* Many threads write: nothing is lost and nothing is doubled. */
static void test_threads(void **state UNUSED)
{
	static uint8_t have[WRITERS * EACH + 1];
	struct thread t[WRITERS] = { 0 };
	unsigned count[WRITERS] = { 0 };
	struct loop *l;
	struct err e;

	shared_chr = open_chr(&l, "file", file_path);
	for (unsigned i = 0; i < WRITERS; i++)
		assert_int_equal(thread_start(&t[i], "writer", writer_main,
					      (void *)(uintptr_t)('a' + i), &e),
				 0);
	struct stat st = { 0 };
	uint64_t end = clock_ns() + 20 * NS_PER_SEC;
	while (st.st_size < WRITERS * EACH && clock_ns() < end) {
		loop_run_once(l, 10);
		assert_int_equal(stat(file_path, &st), 0);
	}
	for (unsigned i = 0; i < WRITERS; i++)
		thread_join(&t[i]);
	chr_close(shared_chr);
	loop_free(l);
	assert_int_equal(read_file(have, sizeof(have)), WRITERS * EACH);
	for (size_t i = 0; i < WRITERS * EACH; i++)
		count[have[i] - 'a']++;
	for (unsigned i = 0; i < WRITERS; i++)
		assert_int_equal(count[i], EACH);
	unlink(file_path);
}

/* Unix sockets. */

static int dial(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", sock_path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static void expect(int fd, const char *s)
{
	char buf[256];
	struct pollfd pf = { .fd = fd, .events = POLLIN };

	poll(&pf, 1, 2000);
	ssize_t n = read(fd, buf, sizeof(buf));
	assert_int_equal(n, strlen(s));
	assert_memory_equal(buf, s, strlen(s));
}

static void test_unix(void **state UNUSED)
{
	struct loop *l;
	struct chr *c = open_chr(&l, "unix", sock_path);
	struct stat st;
	char buf[8];

	assert_int_equal(stat(sock_path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* Nobody there: dropped. */
	put(c, "early");
	settle(l);
	assert_int_equal(c->len, 0);
	int a = dial();
	settle(l);
	put(c, "hello");
	settle(l);
	expect(a, "hello");
	assert_int_equal(write(a, "keys", 4), 4);
	settle(l);
	assert_int_equal(dev.ngot, 4);
	assert_memory_equal(dev.got, "keys", 4);
	/* The second waits for the first to leave. */
	int b = dial();
	settle(l);
	put(c, "for a");
	settle(l);
	expect(a, "for a");
	assert_int_equal(read(b, buf, sizeof(buf)), -1);
	close(a);
	settle(l);
	put(c, "for b");
	settle(l);
	expect(b, "for b");
	chr_close(c);
	assert_int_equal(read(b, buf, sizeof(buf)), 0);
	close(b);
	assert_int_equal(stat(sock_path, &st), -1);
	loop_free(l);
}

/* A client that does not read holds the device back, and nothing is lost. */
static void test_unix_slow_reader(void **state UNUSED)
{
	struct loop *l;
	struct chr *c = open_chr(&l, "unix", sock_path);
	int a = dial();
	size_t sent = 0, got = 0;
	uint8_t buf[1000];

	settle(l);
	for (bool full = false; !full;) {
		for (size_t i = 0; i < sizeof(buf); i++)
			buf[i] = (uint8_t)((sent + i) % 251);
		size_t n = chr_write(c, buf, sizeof(buf));
		sent += n;
		if (n < sizeof(buf)) {
			settle(l);
			full = dev.writable == 0;
			dev.writable = 0;
		}
		assert_true(sent < 10 << 20);
	}
	assert_int_equal(c->len, CHR_QUEUE);
	while (got < sent) {
		ssize_t n = read(a, buf, sizeof(buf));

		if (n < 0) {
			loop_run_once(l, 1000);
			continue;
		}
		for (ssize_t i = 0; i < n; i++)
			assert_int_equal(buf[i], (got + (size_t)i) % 251);
		got += (size_t)n;
	}
	assert_true(dev.writable > 0);
	/* Any sizes, so that the ring's end falls anywhere in a write. */
	uint64_t seed = t_seed(2);
	for (int round = 0; round < 2000 || got < sent; round++) {
		size_t len = round < 2000 ? t_below(&seed, sizeof(buf)) : 0;

		for (size_t i = 0; i < len; i++)
			buf[i] = (uint8_t)((sent + i) % 251);
		sent += chr_write(c, buf, len);
		loop_run_once(l, 0);
		ssize_t n = read(a, buf, t_below(&seed, 2) ? sizeof(buf) : 1 + t_below(&seed, 500));
		for (ssize_t i = 0; i < n; i++)
			assert_int_equal(buf[i], (got + (size_t)i) % 251);
		got += n > 0 ? (size_t)n : 0;
	}
	assert_int_equal(put(c, "more"), 4);
	settle(l);
	expect(a, "more");
	close(a);
	chr_close(c);
	loop_free(l);
}

/* A device that takes nothing: input waits, and comes whole and in order. */
static void test_unix_slow_device(void **state UNUSED)
{
	struct loop *l;
	struct chr *c = open_chr(&l, "unix", sock_path);
	int a = dial();
	char text[5000];

	settle(l);
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)('a' + i % 23);
	dev.room = 10;
	assert_int_equal(write(a, text, sizeof(text)), sizeof(text));
	settle(l);
	assert_int_equal(dev.ngot, 10);
	while (dev.ngot < sizeof(text)) {
		dev.room = MIN(dev.room + 700, sizeof(text));
		chr_poll(c);
		settle(l);
		assert_int_equal(dev.ngot, dev.room);
	}
	assert_memory_equal(dev.got, text, sizeof(text));
	/* It takes nothing and its client leaves: the next one is heard. */
	assert_int_equal(write(a, "x", 1), 1);
	settle(l);
	close(a);
	settle(l);
	int b = dial();
	settle(l);
	put(c, "hello b");
	settle(l);
	expect(b, "hello b");
	close(b);
	chr_close(c);
	loop_free(l);
}

static void test_unix_path(void **state UNUSED)
{
	struct loop *l, *l2;
	struct chr *c, *d;
	struct err e;
	struct stat st;
	char long_path[200];
	int fd;

	/* Left by a dead process. */
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", sock_path);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	close(fd);
	c = open_chr(&l, "unix", sock_path);
	/* In use. */
	assert_int_equal(loop_new(&l2, LOOP_AUTO, &e), 0);
	struct chr_opts o = { .type = "unix", .path = sock_path, .loop = l2 };
	assert_int_equal(chr_open(&d, &o, &e), -EADDRINUSE);
	assert_int_equal(stat(sock_path, &st), 0);
	/* Somebody else's by now: it stays. */
	unlink(sock_path);
	fd = open(sock_path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	chr_close(c);
	assert_int_equal(stat(sock_path, &st), 0);
	/* Not a socket: it stays too. */
	assert_int_equal(chr_open(&d, &o, &e), -EEXIST);
	assert_int_equal(stat(sock_path, &st), 0);
	unlink(sock_path);
	memset(long_path, 'x', sizeof(long_path) - 1);
	long_path[sizeof(long_path) - 1] = 0;
	o.path = long_path;
	assert_int_equal(chr_open(&d, &o, &e), -ENAMETOOLONG);
	o.path = "/nonexistent/s";
	assert_int_equal(chr_open(&d, &o, &e), -ENOENT);
	loop_free(l);
	loop_free(l2);
}

/* Pseudo terminals. */

static void pty_body(unsigned notice_ms)
{
	struct loop *l;
	struct chr *c = open_chr(&l, "pty", NULL);
	struct termios t;

	assert_memory_equal(c->where, "pty:/dev/pts/", 13);
	const char *name = c->where + 4;
	/* More than any buffer, with nobody there. */
	for (int i = 0; i < 300; i++) {
		assert_int_equal(chr_write(c, (const uint8_t[1000]){ 'x' }, 1000), 1000);
		loop_run_once(l, 0);
	}
	for (int round = 0; round < 3; round++) {
		int fd = open(name, O_RDWR | O_NOCTTY | O_NONBLOCK);

		assert_true(fd >= 0);
		assert_int_equal(tcgetattr(fd, &t), 0);
		assert_int_equal(t.c_lflag & (ECHO | ICANON | ISIG), 0);
		uint64_t end = clock_ns() + notice_ms * NS_PER_MS;
		while (clock_ns() < end)
			loop_run_once(l, 10);
		put(c, "prompt\n");
		settle(l);
		expect(fd, "prompt\n");
		assert_int_equal(write(fd, "\003ls\r", 4), 4);
		settle(l);
		assert_int_equal(dev.ngot, 4);
		assert_memory_equal(dev.got, "\003ls\r", 4);
		dev.ngot = 0;
		/* What this one does not read is not for the next. */
		put(c, "stale");
		settle(l);
		close(fd);
		settle(l);
		put(c, "dropped");
		settle(l);
		assert_int_equal(c->len, 0);
	}
	chr_close(c);
	loop_free(l);
}

static void test_pty(void **state UNUSED)
{
	pty_body(30);
}

/* Where inotify is refused it looks now and then. */
static void test_pty_without_inotify(void **state UNUSED)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		t_refuse(SYS_inotify_init1, EMFILE);
		pty_body(700);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* A reader that does not read: the guest is held back, the loop is not. */
static void test_pty_slow_reader(void **state UNUSED)
{
	struct loop *l;
	struct chr *c = open_chr(&l, "pty", NULL);
	int fd = open(c->where + 4, O_RDWR | O_NOCTTY | O_NONBLOCK);
	size_t sent = 0, got = 0;
	char buf[4096];

	memset(buf, 'x', sizeof(buf));
	settle(l);
	for (int i = 0; i < 100; i++) {
		sent += chr_write(c, (const uint8_t *)buf, sizeof(buf));
		loop_run_once(l, 0);
	}
	assert_true(sent < 100 * sizeof(buf));
	assert_int_equal(c->len, CHR_QUEUE);
	for (uint64_t end = clock_ns() + 5 * NS_PER_SEC; got < sent && clock_ns() < end;) {
		ssize_t n = read(fd, buf, sizeof(buf));

		got += n > 0 ? (size_t)n : 0;
		loop_run_once(l, 1);
	}
	assert_int_equal(got, sent);
	assert_true(dev.writable > 0);
	close(fd);
	chr_close(c);
	loop_free(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_file),
		cmocka_unit_test(test_file_full),
		cmocka_unit_test(test_none),
		cmocka_unit_test(test_flood),
		cmocka_unit_test(test_unknown),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_unix),
		cmocka_unit_test(test_unix_slow_reader),
		cmocka_unit_test(test_unix_slow_device),
		cmocka_unit_test(test_unix_path),
		cmocka_unit_test(test_pty),
		cmocka_unit_test(test_pty_without_inotify),
		cmocka_unit_test(test_pty_slow_reader),
	};

	if (!mkdtemp(dir))
		return 1;
	snprintf(sock_path, sizeof(sock_path), "%s/sock", dir);
	snprintf(file_path, sizeof(file_path), "%s/file", dir);
	int rc = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(dir);
	return rc;
}
