/*
 * What programs ask of a kernel: system calls, signals, processes, page faults, files.
 *
 * Files live in the folder of the environment variable WORK_DIR (default /dev/shm), which should be
 * a tmpfs.  Each round returns how many things went wrong.
 */
#include "work.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* --- getppid, clock --- */

enum {
	CALL_N = 512
};

static uint64_t call_round(void)
{
	uint64_t bad = 0;
	long first = syscall(SYS_getppid);
	for (int i = 1; i < CALL_N; i++)
		bad += syscall(SYS_getppid) != first;
	return bad;
}

/* Through the vDSO when the clock source is a good one, by a system call when it is not. */
static uint64_t clock_round(void)
{
	uint64_t bad = 0;
	struct timespec was = { 0 }, now;
	for (int i = 0; i < CALL_N; i++) {
		bad += clock_gettime(CLOCK_MONOTONIC, &now) != 0;
		bad += now.tv_sec < was.tv_sec ||
		       (now.tv_sec == was.tv_sec && now.tv_nsec < was.tv_nsec);
		was = now;
	}
	return bad;
}

/* --- rw: 4 KiB from /dev/zero and to /dev/null; both are counted --- */

enum {
	RW_N = 128
};

static int rw_zero = -1, rw_null = -1;

static int rw_init(void)
{
	rw_zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	rw_null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	return rw_zero < 0 || rw_null < 0 ? -errno : 0;
}

static int rw_fini(void)
{
	close(rw_zero);
	close(rw_null);
	return 0;
}

static uint64_t rw_round(void)
{
	static char buf[4096];
	uint64_t bad = 0;
	for (int i = 0; i < RW_N; i++) {
		buf[i] = 1;
		bad += read(rw_zero, buf, sizeof(buf)) != sizeof(buf);
		bad += buf[i] != 0;
		bad += write(rw_null, buf, sizeof(buf)) != sizeof(buf);
	}
	return bad;
}

/* --- signal: one to ourselves, handler and sigreturn --- */

enum {
	SIG_N = 64
};

static volatile sig_atomic_t sig_seen;

static void sig_handler(int sig)
{
	sig_seen += sig == SIGUSR1;
}

static int sig_init(void)
{
	struct sigaction sa = { .sa_handler = sig_handler };
	return sigaction(SIGUSR1, &sa, NULL) < 0 ? -errno : 0;
}

static uint64_t sig_round(void)
{
	sig_seen = 0;
	for (int i = 0; i < SIG_N; i++)
		kill(getpid(), SIGUSR1);
	return (uint64_t)(SIG_N - sig_seen);
}

/* --- pipe: a byte to a child and back, so two switches each --- */

enum {
	PIPE_N = 32
};

static int pipe_to[2], pipe_from[2];
static pid_t pipe_child;

static void pipe_echo(void)
{
	char c;
	close(pipe_to[1]);
	while (read(pipe_to[0], &c, 1) == 1 && write(pipe_from[1], &c, 1) == 1)
		;
	_exit(0);
}

static int pipe_init(void)
{
	if (pipe2(pipe_to, O_CLOEXEC) < 0 || pipe2(pipe_from, O_CLOEXEC) < 0)
		return -errno;
	pipe_child = fork();
	if (pipe_child < 0)
		return -errno;
	if (!pipe_child)
		pipe_echo();
	close(pipe_to[0]);
	close(pipe_from[1]);
	return 0;
}

static int pipe_fini(void)
{
	close(pipe_to[1]);
	close(pipe_from[0]);
	return waitpid(pipe_child, NULL, 0) == pipe_child ? 0 : -ECHILD;
}

static uint64_t pipe_round(void)
{
	uint64_t bad = 0;
	for (int i = 0; i < PIPE_N; i++) {
		char c = (char)i, back = 0;
		bad += write(pipe_to[1], &c, 1) != 1 || read(pipe_from[0], &back, 1) != 1 ||
		       back != c;
	}
	return bad;
}

/* --- fork, exec --- */

static uint64_t reap(pid_t pid, int want)
{
	int status;
	return pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) ||
	       WEXITSTATUS(status) != want;
}

static uint64_t fork_round(void)
{
	pid_t pid = fork();
	if (!pid)
		_exit(7);
	return reap(pid, 7);
}

/* This program again; `work -e` ends with status 9. */
static uint64_t exec_round(void)
{
	pid_t pid = fork();
	if (!pid) {
		execl("/proc/self/exe", "work", "-e", (char *)NULL);
		_exit(1);
	}
	return reap(pid, 9);
}

/* --- fault: first touch of fresh anonymous pages --- */

enum {
	FAULT_PAGES = 256
};

static uint64_t fault_round(void)
{
	size_t len = (size_t)FAULT_PAGES * 4096;
	uint8_t *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return 1;
	uint64_t bad = 0;
	madvise(p, len, MADV_NOHUGEPAGE);
	for (int i = 0; i < FAULT_PAGES; i++) {
		bad += p[i * 4096] != 0;
		p[i * 4096] = 1;
	}
	munmap(p, len);
	return bad;
}

/* --- files: create, write, stat, rename, read, unlink --- */

enum {
	FILE_N = 8,
	FILE_OPS = 8
};

static char file_dir[200];

static int file_init(void)
{
	const char *dir = getenv("WORK_DIR");
	snprintf(file_dir, sizeof(file_dir), "%s/work.%d", dir ? dir : "/dev/shm", (int)getpid());
	return mkdir(file_dir, 0700) < 0 ? -errno : 0;
}

static int file_fini(void)
{
	return rmdir(file_dir) < 0 ? -errno : 0;
}

/* How many of FILE_OPS calls failed. */
static uint64_t file_one(int n)
{
	static char buf[4096];
	char name[240], to[240];
	struct stat st;
	uint64_t bad = 0;
	snprintf(name, sizeof(name), "%s/a%d", file_dir, n);
	snprintf(to, sizeof(to), "%s/b%d", file_dir, n);
	int fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	bad += fd < 0;
	buf[n] = (char)n;
	bad += write(fd, buf, sizeof(buf)) != sizeof(buf);
	bad += fstat(fd, &st) < 0 || st.st_size != sizeof(buf);
	bad += rename(name, to) < 0;
	bad += stat(name, &st) == 0;
	bad += pread(fd, buf, sizeof(buf), 0) != sizeof(buf) || buf[n] != (char)n;
	bad += close(fd) < 0;
	bad += unlink(to) < 0;
	return bad;
}

static uint64_t file_round(void)
{
	uint64_t bad = 0;
	for (int i = 0; i < FILE_N; i++)
		bad += file_one(i);
	return bad;
}

/* --- smc: a program that writes code and runs it, as a just-in-time compiler does --- */

enum {
	SMC_N = 64,
	SMC_BYTES = 32
};

static uint8_t *smc_code;

static int smc_init(void)
{
	smc_code = mmap(NULL, 65536, PROT_READ | PROT_WRITE | PROT_EXEC,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return smc_code == MAP_FAILED ? -errno : 0;
}

static int smc_fini(void)
{
	return munmap(smc_code, 65536) < 0 ? -errno : 0;
}

static uint64_t smc_round(void)
{
	static uint32_t turn;
	uint64_t bad = 0;
	for (int i = 0; i < SMC_N; i++) {
		uint8_t *p = smc_code + i * SMC_BYTES;
		uint32_t value = ++turn;
		/* mov eax, imm32; ret */
		p[0] = 0xb8;
		memcpy(p + 1, &value, 4);
		p[5] = 0xc3;
		uint32_t (*fn)(void);
		memcpy(&fn, &p, sizeof(fn));
		work_hide(p);
		bad += fn() != value;
	}
	return bad;
}

/* clang-format off */
const struct work work_sys[] = {
	{ "getppid", "Kcall/s", CALL_N / 1e3, call_round, 0 },
	{ "clock", "Kcall/s", CALL_N / 1e3, clock_round, 0 },
	{ "rw", "Kcall/s", 2 * RW_N / 1e3, rw_round, 0, rw_init, rw_fini },
	{ "signal", "K/s", SIG_N / 1e3, sig_round, 0, sig_init },
	{ "pipe", "Ktrip/s", PIPE_N / 1e3, pipe_round, 0, pipe_init, pipe_fini },
	{ "fork", "/s", 1, fork_round, 0 },
	{ "exec", "/s", 1, exec_round, 0 },
	{ "fault", "Kpage/s", FAULT_PAGES / 1e3, fault_round, 0 },
	{ "files", "Kop/s", FILE_N * FILE_OPS / 1e3, file_round, 0, file_init, file_fini },
	{ "smc", "K/s", SMC_N / 1e3, smc_round, 0, smc_init, smc_fini },
	{ 0 },
};
/* clang-format on */
