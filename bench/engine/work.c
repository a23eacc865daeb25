/*
 * work: run workloads (work.h) and print `NAME VALUE UNIT` for each, higher is better.
 *
 *	work [-s SECONDS] [-j N] [NAME|GROUP...]   groups: int mem fp sys; all of them without names
 *	work -l                                    list: group, name, unit
 *	work -c NAME...                            print what a round returns, for the tables
 *	work -t NAME COMMAND...                    run a command: `NAME SECONDS s HASH` of what it
 *printed work -g text|bytes MIB                     write test data, the same each time
 *
 * -j runs N processes at the same time and prints the sum of their rates.  A workload that the CPU
 * cannot run prints `NAME skip REASON`; one whose check fails prints `NAME error TEXT`, and the
 *exit status is 1.
 */
#include "work.h"

#include <cpuid.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const struct {
	const char *name;
	const struct work *works;
} groups[] = {
	{ "int", work_int },
	{ "mem", work_mem },
	{ "fp", work_fp },
	{ "sys", work_sys },
};

enum {
	GROUPS = sizeof(groups) / sizeof(*groups),
	JOBS_MAX = 64
};

static double seconds_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool cpu_has(const char *feature)
{
	__builtin_cpu_init();
	if (!feature)
		return true;
	return !strcmp(feature, "avx2") && __builtin_cpu_supports("avx2") &&
	       __builtin_cpu_supports("fma");
}

/* Do n rounds; false when one returned something else than it must. */
static bool rounds(const struct work *w, uint64_t n)
{
	bool good = true;
	for (uint64_t i = 0; i < n; i++)
		good &= w->round() == w->sum;
	return good;
}

/*
 * How many rounds take about an eighth of the time; -EILSEQ when a check failed.  This also warms
 * caches, translations and page tables up, as nothing of it is counted.
 */
static int64_t calibrate(const struct work *w, double seconds)
{
	for (uint64_t n = 1;; n *= 2) {
		double start = seconds_now();
		if (!rounds(w, n))
			return -EILSEQ;
		if (seconds_now() - start >= seconds / 16)
			return (int64_t)n;
	}
}

/* Units a second in *ret_rate, or -errno. */
static int measure(const struct work *w, double seconds, double *ret_rate)
{
	int64_t batch = calibrate(w, seconds);
	if (batch < 0)
		return (int)batch;
	uint64_t done = 0;
	double start = seconds_now(), spent;
	do {
		if (!rounds(w, (uint64_t)batch))
			return -EILSEQ;
		done += (uint64_t)batch;
		spent = seconds_now() - start;
	} while (spent < seconds);
	*ret_rate = (double)done * w->per_round / spent;
	return 0;
}

struct result {
	int rc;
	double rate;
};

static struct result run_here(const struct work *w, double seconds, int ready_fd)
{
	struct result r = { .rc = w->init ? w->init() : 0 };
	char c;
	/* The end of the pipe says that all are ready. */
	if (ready_fd >= 0 && read(ready_fd, &c, 1) != 0)
		r.rc = -EIO;
	if (r.rc == 0) {
		r.rc = measure(w, seconds, &r.rate);
		int rc = w->fini ? w->fini() : 0;
		r.rc = r.rc ? r.rc : rc;
	}
	return r;
}

static void child_main(const struct work *w, double seconds, const int go[2], int out)
{
	close(go[1]);
	struct result r = run_here(w, seconds, go[0]);
	_exit(write(out, &r, sizeof(r)) == sizeof(r) ? 0 : 1);
}

/* The sum of the rates of `jobs` processes. */
static struct result run_jobs(const struct work *w, double seconds, int jobs)
{
	struct result total = { 0 }, r;
	int go[2], out[2], started = 0;
	if (pipe(go) < 0 || pipe(out) < 0)
		return (struct result){ .rc = -errno };
	for (int i = 0; i < jobs; i++) {
		pid_t pid = fork();
		if (!pid)
			child_main(w, seconds, go, out[1]);
		started += pid > 0;
	}
	close(go[0]);
	close(go[1]);
	close(out[1]);
	for (int i = 0; i < started; i++) {
		if (read(out[0], &r, sizeof(r)) != sizeof(r))
			r = (struct result){ .rc = -EPIPE };
		total.rc = total.rc ? total.rc : r.rc;
		total.rate += r.rate;
	}
	close(out[0]);
	while (wait(NULL) > 0)
		;
	if (started < jobs)
		total.rc = -EAGAIN;
	return total;
}

static int run_one(const struct work *w, double seconds, int jobs)
{
	if (!cpu_has(w->needs)) {
		printf("%s skip no %s\n", w->name, w->needs);
		return 0;
	}
	fflush(stdout);
	struct result r = jobs > 1 ? run_jobs(w, seconds, jobs) : run_here(w, seconds, -1);
	if (r.rc)
		printf("%s error %s\n", w->name,
		       r.rc == -EILSEQ ? "wrong result" : strerror(-r.rc));
	else
		printf("%s %.6g %s\n", w->name, r.rate, w->unit);
	fflush(stdout);
	return r.rc;
}

static void print_sum(const struct work *w)
{
	int rc = w->init ? w->init() : 0;
	printf("%s %#llx rc %d\n", w->name, (unsigned long long)w->round(), rc);
	if (w->fini)
		w->fini();
}

/* Is w wanted by these names (its own, its group's, or none at all)? */
static bool wanted(int group, const struct work *w, char *const *names)
{
	if (!*names)
		return true;
	for (; *names; names++) {
		if (!strcmp(*names, w->name) || !strcmp(*names, groups[group].name))
			return true;
	}
	return false;
}

static bool known(const char *name)
{
	for (int g = 0; g < GROUPS; g++) {
		if (!strcmp(name, groups[g].name))
			return true;
		for (const struct work *w = groups[g].works; w->name; w++) {
			if (!strcmp(name, w->name))
				return true;
		}
	}
	return false;
}

/* --- -t: a command's time and what it printed --- */

static int time_command(const char *name, char **argv)
{
	int out[2];
	if (pipe(out) < 0)
		return 1;
	double start = seconds_now();
	pid_t pid = fork();
	if (!pid) {
		dup2(out[1], STDOUT_FILENO);
		close(out[0]);
		close(out[1]);
		execvp(argv[0], argv);
		_exit(127);
	}
	close(out[1]);
	uint64_t hash = WORK_SUM0;
	static uint8_t buf[65536];
	ssize_t n;
	while ((n = read(out[0], buf, sizeof(buf))) > 0) {
		for (ssize_t i = 0; i < n; i++)
			hash = work_mix(hash, buf[i]);
	}
	int status = -1;
	waitpid(pid, &status, 0);
	double spent = seconds_now() - start;
	if (pid < 0 || status != 0) {
		printf("%s error %s: status %d\n", name, argv[0], status);
		return 1;
	}
	printf("%s %.6g s %016llx\n", name, spent, (unsigned long long)hash);
	return 0;
}

/* --- -g: data --- */

/* Lines of a number and some words of a small language, so they compress and sort as text does. */
static size_t text_line(uint64_t *s, char *line, size_t size)
{
	static const char *const words[] = { "time",  "year",   "people",  "way",
					     "day",   "man",    "thing",   "woman",
					     "life",  "child",  "world",   "school",
					     "state", "family", "student", "group" };
	uint64_t r = work_next(s);
	int len = snprintf(line, size, "%u", (unsigned)(r >> 44));
	for (int n = 3 + (int)(r & 7); n > 0; n--) {
		r = r >> 4 | r << 60;
		len += snprintf(line + len, size - (size_t)len, " %s", words[r >> 20 & 15]);
	}
	line[len++] = '\n';
	return (size_t)len;
}

static int generate(bool text, double mib)
{
	uint64_t s = 2024, left = (uint64_t)(mib * (1 << 20));
	char line[256];
	while (left > 0) {
		size_t len = 8;
		if (text) {
			len = text_line(&s, line, sizeof(line));
		} else {
			uint64_t v = work_next(&s);
			memcpy(line, &v, 8);
		}
		len = len < left ? len : (size_t)left;
		if (fwrite(line, 1, len, stdout) != len)
			return 1;
		left -= len;
	}
	return fflush(stdout) ? 1 : 0;
}

/* --- the command line --- */

enum mode {
	MODE_RUN,
	MODE_LIST,
	MODE_SUMS
};

static int each(enum mode mode, char *const *names, double seconds, int jobs)
{
	int bad = 0;
	for (char *const *n = names; *n; n++) {
		if (!known(*n)) {
			fprintf(stderr, "work: there is no workload '%s' (-l lists them)\n", *n);
			return 2;
		}
	}
	for (int g = 0; g < GROUPS; g++) {
		for (const struct work *w = groups[g].works; w->name; w++) {
			if (!wanted(g, w, names))
				continue;
			if (mode == MODE_LIST)
				printf("%s %s %s\n", groups[g].name, w->name, w->unit);
			else if (mode == MODE_SUMS)
				print_sum(w);
			else
				bad |= run_one(w, seconds, jobs) != 0;
		}
	}
	return bad;
}

static int usage(void)
{
	fprintf(stderr, "usage: work [-s SECONDS] [-j N] [NAME|GROUP...] | -l | -c [NAME...]\n"
			"       work -t NAME COMMAND... | work -g text|bytes MIB\n");
	return 2;
}

int main(int argc, char **argv)
{
	double seconds = 0.4;
	int jobs = 1, c;
	enum mode mode = MODE_RUN;
	/* '+': what follows -t NAME is not ours. */
	while ((c = getopt(argc, argv, "+s:j:lcet:g:")) != -1) {
		switch (c) {
		case 's':
			seconds = strtod(optarg, NULL);
			break;
		case 'j':
			jobs = (int)strtol(optarg, NULL, 10);
			break;
		case 'l':
			mode = MODE_LIST;
			break;
		case 'c':
			mode = MODE_SUMS;
			break;
		case 'e':
			return 9;
		case 't':
			return optind < argc ? time_command(optarg, argv + optind) : usage();
		case 'g':
			return optind < argc ? generate(!strcmp(optarg, "text"),
							strtod(argv[optind], NULL))
					     : usage();
		default:
			return usage();
		}
	}
	if (!(seconds > 0 && seconds <= 3600) || jobs < 1 || jobs > JOBS_MAX)
		return usage();
	return each(mode, argv + optind, seconds, jobs);
}
