/* qmp/server.c: several clients, one that does not read, what is left at the end, the socket file.
 */
#include "base/clock.h"
#include "base/str.h"
#include "lib/t.h"
#include "loop/sock.h"
#include "qmp/qmp.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int cmd_big(struct qmp_call *c, struct err *e)
{
	char text[4001];

	memset(text, 'x', 4000);
	text[4000] = 0;
	json_out_str(&c->ret, NULL, text);
	++*(unsigned *)c->ctx;
	return 0;
}

static const struct qmp_cmd cmds[] = { { "big", NULL, cmd_big }, { NULL } };
static const struct qmp_cmd *const tables[] = { qmp_own_cmds, cmds, NULL };

struct fix {
	struct loop *l;
	struct qmp_server *s;
	char dir[32], path[48];
	unsigned calls;
};

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	struct err e;

	snprintf(f->dir, sizeof(f->dir), "/tmp/qmp-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/s", f->dir);
	assert_int_equal(loop_new(&f->l, LOOP_AUTO, &e), 0);
	assert_int_equal(qmp_server_new(&f->s, f->l, f->path, tables, &f->calls, &e), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	qmp_server_free(f->s);
	loop_free(f->l);
	assert_int_equal(access(f->path, F_OK), -1);
	rmdir(f->dir);
	free(f);
	return 0;
}

static int dial(struct fix *f)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	str_copy(a.sun_path, sizeof(a.sun_path), f->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static void turn(struct fix *f)
{
	for (int i = 0; i < 50; i++)
		loop_run_once(f->l, 0);
}

static void say(int fd, const char *text)
{
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

/* What is there to read; NULL at the end of the stream with nothing before. */
static const char *hear(struct fix *f, int fd)
{
	static char text[8192];
	size_t len = 0;

	for (int i = 0; i < 50; i++) {
		loop_run_once(f->l, 0);
		ssize_t n = read(fd, text + len, sizeof(text) - 1 - len);
		if (n == 0)
			return len ? text : NULL;
		if (n > 0)
			len += (size_t)n;
	}
	text[len] = 0;
	return text;
}

#define HELLO "{\"execute\": \"qmp_capabilities\"}\n"

static int dial_ready(struct fix *f)
{
	int fd = dial(f);

	say(fd, HELLO);
	const char *t = hear(f, fd);
	assert_true(str_starts(t, "{\"QMP\""));
	assert_non_null(strstr(t, "\r\n{\"return\": {}}\r\n"));
	return fd;
}

static void test_clients(void **state)
{
	struct fix *f = *state;
	int fd[QMP_CLIENTS + 1];
	struct stat st;

	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	for (int i = 0; i < QMP_CLIENTS; i++)
		fd[i] = dial_ready(f);
	/* One more waits until another leaves. */
	fd[QMP_CLIENTS] = dial(f);
	assert_string_equal(hear(f, fd[QMP_CLIENTS]), "");
	close(fd[0]);
	assert_true(str_starts(hear(f, fd[QMP_CLIENTS]), "{\"QMP\""));
	/* Events go to those that have negotiated. */
	qmp_server_event(f->s, "STOP", NULL, NULL);
	for (int i = 1; i < QMP_CLIENTS; i++)
		assert_non_null(strstr(hear(f, fd[i]), "\"event\": \"STOP\"}\r\n"));
	assert_string_equal(hear(f, fd[QMP_CLIENTS]), "");
	for (int i = 1; i <= QMP_CLIENTS; i++)
		close(fd[i]);
	turn(f);
}

/* A client that asks much and reads nothing waits; nobody else does; then it gets everything. */
static void test_slow(void **state)
{
	struct fix *f = *state;
	int slow = dial_ready(f), other = dial_ready(f);
	size_t got = 0;

	char big[50 * 19 + 1] = "";
	unsigned asked = 0;
	for (int i = 0; i < 50; i++)
		memcpy(big + i * 19, "{\"execute\": \"big\"}\n", 19);
	while (asked < 1000 && write(slow, big, sizeof(big) - 1) == sizeof(big) - 1)
		asked += 50;
	assert_true(asked > 400);
	turn(f);
	assert_in_range(f->calls, 10, 300);
	unsigned before = f->calls;
	turn(f);
	assert_int_equal(f->calls, before);
	say(other, "{\"execute\": \"query-version\"}");
	assert_true(str_starts(hear(f, other), "{\"return\": {\"qemu\""));
	for (int i = 0; i < 100000 && f->calls < asked; i++) {
		char buf[65536];
		ssize_t n = read(slow, buf, sizeof(buf));

		loop_run_once(f->l, 0);
		got += n > 0 ? (size_t)n : 0;
	}
	assert_int_equal(f->calls, asked);
	for (ssize_t n = 1; n > 0; got += n > 0 ? (size_t)n : 0) {
		char buf[65536];

		turn(f);
		n = read(slow, buf, sizeof(buf));
	}
	assert_int_equal(got, asked * (4000 + 2 + 14));
	close(slow);
	close(other);
}

/* Events to a client that never reads are kept to a limit; then it is dropped. */
static void test_deaf(void **state)
{
	struct fix *f = *state;
	int deaf = dial_ready(f);
	unsigned i;

	for (i = 0; i < 100000; i++)
		qmp_server_event(f->s, "RESET", NULL, NULL);
	turn(f);
	size_t got = 0;
	bool ended = false;
	for (i = 0; i < 1000 && !ended; i++) {
		char buf[65536];
		ssize_t n = read(deaf, buf, sizeof(buf));

		loop_run_once(f->l, 0);
		got += n > 0 ? (size_t)n : 0;
		ended = n == 0;
	}
	assert_true(ended);
	assert_in_range(got, 1, 2 * QMP_OUT_MAX);
	close(deaf);
}

static void test_half_close(void **state)
{
	struct fix *f = *state;
	int fd = dial_ready(f);

	say(fd, "{\"execute\": \"query-version\"}");
	shutdown(fd, SHUT_WR);
	assert_true(str_starts(hear(f, fd), "{\"return\": {\"qemu\""));
	assert_null(hear(f, fd));
	close(fd);
}

static void test_too_long(void **state)
{
	struct fix *f = *state;
	int fd = dial_ready(f);
	char junk[4096];

	memset(junk, '[', sizeof(junk));
	for (unsigned i = 0; i <= QMP_MSG_MAX / sizeof(junk); i++) {
		if (write(fd, junk, sizeof(junk)) < 0)
			break;
		turn(f);
	}
	const char *t = hear(f, fd);
	assert_non_null(strstr(t, "message too long"));
	assert_null(hear(f, fd));
	close(fd);
}

/* What was said last arrives though the server goes at once. */
static void test_last_words(void **state)
{
	struct fix *f = *state;
	int fd = dial_ready(f);
	char buf[300] = { 0 };

	qmp_server_event(f->s, "SHUTDOWN", NULL, NULL);
	qmp_server_free(f->s);
	f->s = NULL;
	assert_true(read(fd, buf, sizeof(buf) - 1) > 0);
	assert_non_null(strstr(buf, "SHUTDOWN"));
	assert_int_equal(read(fd, buf, 1), 0);
	close(fd);
}

static void nobody_comes(struct sock_listener *l UNUSED, int fd)
{
	close(fd);
}

static void test_socket_file(void **state)
{
	struct fix *f = *state;
	struct sock_listener l;
	char other[64];
	struct stat st;
	struct err e;

	assert_int_equal(sock_listener_open(&l, f->l, f->path, 1, nobody_comes, &e), -EADDRINUSE);
	assert_non_null(strstr(e.msg, "in use"));
	snprintf(other, sizeof(other), "%s/stale", f->dir);
	/* Left behind by one that was killed. */
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	str_copy(a.sun_path, sizeof(a.sun_path), other);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	close(fd);
	assert_int_equal(sock_listener_open(&l, f->l, other, 1, nobody_comes, &e), 0);
	assert_int_equal(stat(other, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* It goes with the listener, but not when it is somebody else's by now. */
	sock_listener_close(&l);
	assert_int_equal(access(other, F_OK), -1);
	assert_int_equal(sock_listener_open(&l, f->l, other, 1, nobody_comes, &e), 0);
	unlink(other);
	close(open(other, O_CREAT | O_WRONLY, 0600));
	sock_listener_close(&l);
	assert_int_equal(access(other, F_OK), 0);
	assert_int_equal(sock_listener_open(&l, f->l, other, 1, nobody_comes, &e), -EEXIST);
	unlink(other);
}

static uint64_t later(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ((uint64_t)ts.tv_sec + 2) * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* The guest has all descriptors (say, by connections): one client still gets in, and the next waits
 * without keeping the loop busy. */
static void test_no_descriptors(void **state)
{
	struct fix *f = *state;
	int a = dial(f), b = dial(f), next = dup(a);
	struct rlimit was, now;

	close(next);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
	now = was;
	now.rlim_cur = (rlim_t)next;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &now), 0);
	assert_int_equal(dup(a), -1);
	assert_true(str_starts(hear(f, a), "{\"QMP\""));
	assert_string_equal(hear(f, b), "");
	/* Nothing happens in a loop that may sleep. */
	uint64_t start = clock_ns();
	loop_run_once(f->l, 30);
	assert_true(clock_ns() - start >= 25 * NS_PER_MS);

	assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
	clock_hook = later;
	turn(f);
	clock_hook = NULL;
	assert_true(str_starts(hear(f, b), "{\"QMP\""));
	close(a);
	close(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_clients, setup, teardown),
		cmocka_unit_test_setup_teardown(test_slow, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deaf, setup, teardown),
		cmocka_unit_test_setup_teardown(test_half_close, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_long, setup, teardown),
		cmocka_unit_test_setup_teardown(test_last_words, setup, teardown),
		cmocka_unit_test_setup_teardown(test_socket_file, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_descriptors, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
