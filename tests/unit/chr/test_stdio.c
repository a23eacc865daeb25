/*
 * stdio on a terminal (a child whose terminal is a pseudo terminal of ours) and in pipes.
 *
 * The child is a device that sends back what comes in, in brackets.
 */
#include "chr/chr.h"

#include "base/clock.h"
#include "lib/t.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* The child. */

static struct chr *child_chr;
static struct loop *child_loop;

static size_t child_input(struct chr_client *c UNUSED, const uint8_t *p, size_t len)
{
	chr_write(child_chr, (const uint8_t *)"[", 1);
	chr_write(child_chr, p, len);
	chr_write(child_chr, (const uint8_t *)"]", 1);
	return len;
}

/* A device that hangs: it takes nothing. */
static size_t child_hangs(struct chr_client *c UNUSED, const uint8_t *p UNUSED, size_t len UNUSED)
{
	return 0;
}

/* A slow device: some bytes at a time; on a 'Z' it says how many there were, in order or not. */
static unsigned child_count, child_lost;

static size_t child_slow(struct chr_client *c UNUSED, const uint8_t *p, size_t len)
{
	size_t n = len < 700 ? len : 700;
	char text[64];

	for (size_t i = 0; i < n; i++) {
		if (p[i] == 'Z') {
			snprintf(text, sizeof(text), "got %u, wrong %u.", child_count, child_lost);
			chr_write(child_chr, (const uint8_t *)text, strlen(text));
			continue;
		}
		child_lost += p[i] != 'a' + child_count % 25;
		child_count++;
	}
	return n;
}

static void child_poll(struct loop_timer *t)
{
	chr_poll(child_chr);
	loop_timer_set(child_loop, t, clock_ns() + 2 * NS_PER_MS);
}

static void child_quit(void *arg)
{
	loop_stop(arg);
}

static void child_tick(struct loop_timer *t)
{
	chr_write(child_chr, (const uint8_t *)"tick", 4);
	loop_timer_set(child_loop, t, clock_ns() + 50 * NS_PER_MS);
}

typedef size_t child_input_fn(struct chr_client *c, const uint8_t *p, size_t len);

/* Runs until Ctrl-a x, or for two seconds when it ticks; returns the CPU time used in ms. */
static unsigned child_main(bool ticks, child_input_fn *input)
{
	struct chr_client client = { .input = input };
	struct loop_timer t = { .fn = ticks ? child_tick : child_poll };
	struct rusage ru;
	struct err e;

	/* cmocka's own handlers are not what a program starts with. */
	for (int sig = 1; sig < 32; sig++)
		signal(sig, SIG_DFL);
	if (loop_new(&child_loop, LOOP_AUTO, &e) < 0)
		_exit(100);
	struct chr_opts o = { .type = "stdio",
			      .loop = child_loop,
			      .client = &client,
			      .quit = child_quit,
			      .quit_arg = child_loop };
	if (chr_open(&child_chr, &o, &e) < 0) {
		fprintf(stderr, "%s\n", e.msg);
		_exit(101);
	}
	chr_write(child_chr, (const uint8_t *)"ready", 5);
	if (ticks) {
		loop_timer_set(child_loop, &t, 1);
		for (uint64_t end = clock_ns() + 1 * NS_PER_SEC; clock_ns() < end;)
			loop_run_once(child_loop, 100);
		loop_timer_cancel(&t);
	} else {
		if (input == child_slow)
			loop_timer_set(child_loop, &t, 1);
		loop_run(child_loop);
		loop_timer_cancel(&t);
	}
	chr_close(child_chr);
	loop_free(child_loop);
	getrusage(RUSAGE_SELF, &ru);
	return (unsigned)((ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * 1000 +
			  (ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1000);
}

/* The terminal. */

struct term {
	int master, slave;
	/* The session's leader, a shell so to speak, and its job. */
	pid_t leader, job;
	/* What the leader tells: the job's pid, then 's' when it stopped. */
	int tell;
	struct termios before;
	child_input_fn *input;
};

static void leader_main(struct term *t, int tell)
{
	int status;

	/* Whatever goes wrong, nobody is left behind. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setsid();
	ioctl(t->slave, TIOCSCTTY, 0);
	signal(SIGTTOU, SIG_IGN);
	pid_t job = fork();
	if (job == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setpgid(0, 0);
		tcsetpgrp(t->slave, getpid());
		signal(SIGTTOU, SIG_DFL);
		dup2(t->slave, 0);
		dup2(t->slave, 1);
		close(t->slave);
		close(t->master);
		_exit(child_main(false, t->input) > 1000 ? 3 : 0);
	}
	if (write(tell, &job, sizeof(job)) != sizeof(job))
		_exit(1);
	while (waitpid(job, &status, WUNTRACED) == job && WIFSTOPPED(status))
		if (write(tell, "s", 1) != 1)
			_exit(1);
	/* As the job ended. */
	_exit(WIFSIGNALED(status) ? 200 + WTERMSIG(status) : WEXITSTATUS(status));
}

static void term_start_with(struct term *t, child_input_fn *input)
{
	int p[2];
	char name[64];

	t->input = input;
	t->master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
	assert_true(t->master >= 0 && grantpt(t->master) == 0 && unlockpt(t->master) == 0);
	assert_int_equal(ptsname_r(t->master, name, sizeof(name)), 0);
	t->slave = open(name, O_RDWR | O_NOCTTY);
	assert_true(t->slave >= 0);
	assert_int_equal(tcgetattr(t->slave, &t->before), 0);
	assert_int_equal(pipe(p), 0);
	t->leader = fork();
	if (t->leader == 0) {
		close(p[0]);
		leader_main(t, p[1]);
	}
	close(p[1]);
	t->tell = p[0];
	assert_int_equal(read(t->tell, &t->job, sizeof(t->job)), sizeof(t->job));
}

static void term_start(struct term *t)
{
	term_start_with(t, child_input);
}

static void term_expect(struct term *t, const char *s)
{
	char buf[1024] = "";
	size_t len = 0;
	struct pollfd pf = { .fd = t->master, .events = POLLIN };

	while (!strstr(buf, s) && len < sizeof(buf) - 1 && poll(&pf, 1, 3000) == 1) {
		ssize_t n = read(t->master, buf + len, sizeof(buf) - 1 - len);

		if (n <= 0)
			break;
		len += (size_t)n;
		buf[len] = 0;
	}
	if (!strstr(buf, s))
		fail_msg("'%s' did not come, but '%s'", s, buf);
}

static void term_type(struct term *t, const char *keys, size_t len)
{
	uint64_t end = clock_ns() + 3 * NS_PER_SEC;

	while (len) {
		ssize_t n = write(t->master, keys, len);

		assert_true(n > 0 || errno == EAGAIN);
		if (n > 0) {
			keys += n;
			len -= (size_t)n;
		} else if (clock_ns() > end) {
			fail_msg("keys are not read");
		} else {
			usleep(1000);
		}
	}
}

static bool term_is_raw(struct term *t)
{
	struct termios now;

	assert_int_equal(tcgetattr(t->slave, &now), 0);
	return !(now.c_lflag & (ICANON | ECHO | ISIG));
}

static bool term_is_as_before(struct term *t)
{
	struct termios now;

	assert_int_equal(tcgetattr(t->slave, &now), 0);
	return now.c_lflag == t->before.c_lflag && now.c_iflag == t->before.c_iflag &&
	       now.c_oflag == t->before.c_oflag && now.c_cflag == t->before.c_cflag;
}

/* Exit status of the leader, which is the job's. */
static int term_end(struct term *t)
{
	int status;

	assert_int_equal(waitpid(t->leader, &status, 0), t->leader);
	assert_true(WIFEXITED(status));
	close(t->master);
	close(t->slave);
	close(t->tell);
	return WEXITSTATUS(status);
}

static void test_keys(void **state UNUSED)
{
	struct term t;

	term_start(&t);
	term_expect(&t, "ready");
	assert_true(term_is_raw(&t));
	/* The shell's descriptor is as it was. */
	assert_int_equal(fcntl(t.slave, F_GETFL) & O_NONBLOCK, 0);
	term_type(&t, "abc", 3);
	term_expect(&t, "[abc]");
	term_type(&t, "\003\032\004\r", 4);
	term_expect(&t, "[\003\032\004\r]");
	term_type(&t, "x\001ay", 4);
	term_expect(&t, "[x\001y]");
	term_type(&t, "\001\001", 2);
	term_expect(&t, "[\001]");
	/* In two reads, and a key that means nothing. */
	term_type(&t, "\001", 1);
	usleep(20000);
	term_type(&t, "q1", 2);
	term_expect(&t, "[1]");
	term_type(&t, "\001h", 2);
	term_expect(&t, "Ctrl-a x  leave");
	term_type(&t, "\001x", 2);
	assert_int_equal(term_end(&t), 0);
}

/* The way out works while the device takes nothing, whatever was typed before. */
static void test_keys_of_a_hung_guest(void **state UNUSED)
{
	struct term t;

	term_start_with(&t, child_hangs);
	term_expect(&t, "ready");
	for (int i = 0; i < 100; i++)
		term_type(&t, "help! are you there?", 20);
	term_type(&t, "\001h", 2);
	term_expect(&t, "Ctrl-a x  leave");
	term_type(&t, "\001x", 2);
	assert_int_equal(term_end(&t), 0);
}

/* More than is read ahead: nothing is lost. */
static void test_keys_of_a_slow_guest(void **state UNUSED)
{
	struct term t;

	term_start_with(&t, child_slow);
	term_expect(&t, "ready");
	for (int i = 0; i < 2000; i++)
		term_type(&t, "abcdefghijklmnopqrstuvwxy", 25);
	term_type(&t, "Z", 1);
	term_expect(&t, "got 50000, wrong 0.");
	term_type(&t, "\001x", 2);
	assert_int_equal(term_end(&t), 0);
}

static void test_restored(void **state UNUSED)
{
	struct term t;

	term_start(&t);
	term_expect(&t, "ready");
	term_type(&t, "\001x", 2);
	int status;
	assert_int_equal(waitpid(t.leader, &status, 0), t.leader);
	assert_true(term_is_as_before(&t));
	close(t.master);
	close(t.slave);
	close(t.tell);
}

/* Signals that end it: the terminal is given back, and the status tells of the signal. */
static void test_restored_by_signal(void **state UNUSED)
{
	static const int sigs[] = { SIGTERM, SIGINT, SIGHUP,  SIGABRT,
				    SIGSEGV, SIGBUS, SIGUSR1, SIGALRM };

	for (size_t i = 0; i < COUNT_OF(sigs); i++) {
		struct term t;
		int status;

		term_start(&t);
		term_expect(&t, "ready");
		assert_true(term_is_raw(&t));
		kill(t.job, sigs[i]);
		assert_int_equal(waitpid(t.leader, &status, 0), t.leader);
		assert_int_equal(WEXITSTATUS(status), 200 + sigs[i]);
		assert_true(term_is_as_before(&t));
		close(t.master);
		close(t.slave);
		close(t.tell);
	}
}

static void test_stopped(void **state UNUSED)
{
	struct term t;
	char c;

	term_start(&t);
	term_expect(&t, "ready");
	for (int i = 0; i < 2; i++) {
		kill(t.job, SIGTSTP);
		assert_int_equal(read(t.tell, &c, 1), 1);
		assert_true(term_is_as_before(&t));
		kill(t.job, SIGCONT);
		for (int j = 0; j < 100 && !term_is_raw(&t); j++)
			usleep(10000);
		assert_true(term_is_raw(&t));
		term_type(&t, "k", 1);
		term_expect(&t, "[k]");
	}
	term_type(&t, "\001x", 2);
	assert_int_equal(term_end(&t), 0);
}

/* Pipes: child_main(true) ends by itself after a second. */

static pid_t piped(int in, int out)
{
	pid_t pid = fork();

	if (pid == 0) {
		dup2(in, 0);
		dup2(out, 1);
		for (int fd = 3; fd < 64; fd++)
			close(fd);
		_exit(child_main(true, child_input) > 500 ? 3 : 0);
	}
	return pid;
}

static void expect_exit(pid_t pid, int want)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), want);
}

static size_t read_all(int fd, char *buf, size_t size)
{
	size_t len = 0;
	ssize_t n;

	while ((n = read(fd, buf + len, size - 1 - len)) > 0)
		len += (size_t)n;
	buf[len] = 0;
	return len;
}

/* Input ends at once: output goes on, Ctrl-a is a byte like others, and nothing spins. */
static void test_pipe(void **state UNUSED)
{
	int in[2], out[2];
	char buf[4096];

	assert_int_equal(pipe(in), 0);
	assert_int_equal(pipe(out), 0);
	assert_int_equal(write(in[1], "a\001xb", 4), 4);
	close(in[1]);
	pid_t pid = piped(in[0], out[1]);
	close(out[1]);
	close(in[0]);
	read_all(out[0], buf, sizeof(buf));
	assert_non_null(strstr(buf, "[a\001xb]"));
	assert_non_null(strstr(buf, "ticktickticktick"));
	expect_exit(pid, 0);
	close(out[0]);
}

/* Nobody reads the output. */
static void test_pipe_closed(void **state UNUSED)
{
	int out[2], null = open("/dev/null", O_RDONLY);

	assert_int_equal(pipe(out), 0);
	close(out[0]);
	expect_exit(piped(null, out[1]), 0);
	close(out[1]);
	/* A full device. */
	int full = open("/dev/full", O_WRONLY);
	expect_exit(piped(null, full), 0);
	close(full);
	close(null);
}

/* A file as output is appended to where the shell's descriptor stands. */
static void test_to_file(void **state UNUSED)
{
	FILE *f = tmpfile(), *in = tmpfile();
	char buf[4096];

	assert_int_equal(write(fileno(f), "before:", 7), 7);
	assert_int_equal(write(fileno(in), "input", 5), 5);
	lseek(fileno(in), 0, SEEK_SET);
	expect_exit(piped(fileno(in), fileno(f)), 0);
	lseek(fileno(f), 0, SEEK_SET);
	read_all(fileno(f), buf, sizeof(buf));
	assert_memory_equal(buf, "before:", 7);
	assert_non_null(strstr(buf, "ready"));
	assert_non_null(strstr(buf, "[input]"));
	fclose(f);
	fclose(in);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_keys),
		cmocka_unit_test(test_keys_of_a_hung_guest),
		cmocka_unit_test(test_keys_of_a_slow_guest),
		cmocka_unit_test(test_restored),
		cmocka_unit_test(test_restored_by_signal),
		cmocka_unit_test(test_stopped),
		cmocka_unit_test(test_pipe),
		cmocka_unit_test(test_pipe_closed),
		cmocka_unit_test(test_to_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
