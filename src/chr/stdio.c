/*
 * This terminal, or whatever standard input and output are.
 *
 * A terminal is set to raw: every key goes to the guest, Ctrl-c too, and Ctrl-a is ours, also while
 * the guest takes no input (STREAM_RX bytes are read ahead of it):
 *
 *	Ctrl-a x  leave		Ctrl-a a or Ctrl-a Ctrl-a  send Ctrl-a		Ctrl-a h  help
 *
 * Output processing stays on, so that our own messages on stderr do not run down like stairs.  In a
 * pipe or file every byte is the guest's, and the end of input ends nothing.
 *
 * The terminal is given back when the stream is closed, at exit, before a signal ends the process,
 * and while it is stopped (SIGTSTP to SIGCONT).  Handlers are installed only where the signal had
 * its default action; see chr_stdio_restore().
 *
 * Descriptors 0 and 1 are shared with the shell, which would not like them to be non-blocking.  So
 * terminals and pipes are opened anew through /proc; where that is refused, O_NONBLOCK is set and
 * taken back with the terminal.  There is one stdio in a process.
 */
#include "chr/chr_int.h"

#include "base/cleanup.h"
#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

enum {
	STDIO_ESCAPE = 1,
};

struct chr_std {
	struct chr c;
	struct chr_stream stream;
	int in_fd, out_fd;
	bool tty;
	/* Ctrl-a was the last key. */
	bool escaped;
	void (*quit)(void *arg);
	void *quit_arg;
};

/* What to give back; read by signal handlers, so it changes only while `changed` is 0. */
static struct {
	volatile sig_atomic_t tty_changed, in_use;
	struct termios saved, raw;
	/* O_NONBLOCK was set on 0 or 1: the flags that were. */
	volatile sig_atomic_t flags_changed[2];
	int flags[2];
	bool handlers;
} std;

void chr_stdio_restore(void)
{
	int saved_errno = errno;

	if (std.tty_changed)
		(void)tcsetattr(0, TCSANOW, &std.saved);
	for (int fd = 0; fd < 2; fd++)
		if (std.flags_changed[fd])
			(void)fcntl(fd, F_SETFL, std.flags[fd]);
	errno = saved_errno;
}

/* Back from having been stopped. */
static void stdio_again(void)
{
	int saved_errno = errno;

	/* In the background, changing the terminal would stop us again. */
	if (std.tty_changed && tcgetpgrp(0) == getpgrp())
		(void)tcsetattr(0, TCSANOW, &std.raw);
	for (int fd = 0; fd < 2; fd++)
		if (std.flags_changed[fd])
			(void)fcntl(fd, F_SETFL, std.flags[fd] | O_NONBLOCK);
	errno = saved_errno;
}

static void stdio_continued(int sig UNUSED)
{
	stdio_again();
}

/* Once, with the terminal given back; the default action then ends or stops us. */
static void stdio_fatal(int sig)
{
	chr_stdio_restore();
	/* SA_RESETHAND: it has its default action now, and comes when this returns. */
	raise(sig);
}

static void stdio_handle(int sig, void (*fn)(int), int flags)
{
	struct sigaction old, sa = { .sa_handler = fn, .sa_flags = flags };

	if (sigaction(sig, NULL, &old) < 0 || old.sa_handler != SIG_DFL)
		return;
	sigfillset(&sa.sa_mask);
	(void)sigaction(sig, &sa, NULL);
}

static void stdio_stopped(int sig)
{
	struct sigaction dfl = { .sa_handler = SIG_DFL }, own;
	sigset_t only, old;

	chr_stdio_restore();
	(void)sigaction(sig, &dfl, &own);
	(void)raise(sig);
	sigemptyset(&only);
	sigaddset(&only, sig);
	/* Here we stop. */
	(void)pthread_sigmask(SIG_UNBLOCK, &only, &old);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	(void)sigaction(sig, &own, NULL);
	stdio_again();
}

static void stdio_handlers(void)
{
	static const int fatal[] = { SIGHUP,  SIGINT,  SIGQUIT, SIGTERM, SIGABRT,
				     SIGSEGV, SIGBUS,  SIGILL,  SIGFPE,  SIGTRAP,
				     SIGSYS,  SIGXCPU, SIGALRM, SIGUSR1, SIGUSR2 };

	if (std.handlers)
		return;
	std.handlers = true;
	for (size_t i = 0; i < COUNT_OF(fatal); i++)
		stdio_handle(fatal[i], stdio_fatal, SA_RESETHAND);
	stdio_handle(SIGTSTP, stdio_stopped, SA_RESTART);
	stdio_handle(SIGCONT, stdio_continued, SA_RESTART);
	(void)atexit(chr_stdio_restore);
}

static int stdio_raw(struct chr_std *s, struct err *e)
{
	if (tcgetattr(0, &std.saved) < 0)
		return err_set(e, errno, "cannot read the terminal's settings: %s",
			       strerror(errno));
	std.raw = std.saved;
	cfmakeraw(&std.raw);
	std.raw.c_oflag |= OPOST;
	s->tty = true;
	std.tty_changed = 1;
	stdio_handlers();
	if (tcsetattr(0, TCSANOW, &std.raw) < 0)
		return err_set(e, errno, "cannot set the terminal to raw: %s", strerror(errno));
	return 0;
}

/* A non-blocking descriptor for 0 or 1; -1 when it is closed. */
static int stdio_fd(int fd)
{
	struct stat st;
	char path[32];

	if (fstat(fd, &st) < 0)
		return -1;
	if (S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode)) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		int own =
			open(path, (fd ? O_WRONLY : O_RDONLY) | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
		if (own >= 0)
			return own;
	}
	int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (own < 0 || S_ISREG(st.st_mode))
		return own;
	std.flags[fd] = fcntl(fd, F_GETFL);
	std.flags_changed[fd] = std.flags[fd] >= 0 && !(std.flags[fd] & O_NONBLOCK);
	if (std.flags_changed[fd])
		(void)fcntl(fd, F_SETFL, std.flags[fd] | O_NONBLOCK);
	return own;
}

/* Ctrl-a and what follows it; all else goes on. */
static size_t stdio_filter(struct chr_stream *st, uint8_t *p, size_t len)
{
	static const char help[] = "\r\nCtrl-a x  leave (the VM ends)\r\n"
				   "Ctrl-a a  send Ctrl-a (also: Ctrl-a Ctrl-a)\r\n"
				   "Ctrl-a h  this help\r\n";
	struct chr_std *s = container_of(st, struct chr_std, stream);
	size_t out = 0;

	for (size_t i = 0; i < len; i++) {
		uint8_t c = p[i];

		if (!s->escaped) {
			s->escaped = c == STDIO_ESCAPE;
			if (!s->escaped)
				p[out++] = c;
			continue;
		}
		s->escaped = false;
		if (c == 'x' && s->quit)
			s->quit(s->quit_arg);
		else if (c == 'h')
			(void)stream_write(st, (const uint8_t *)help, sizeof(help) - 1);
		else if (c == STDIO_ESCAPE || c == 'a')
			p[out++] = STDIO_ESCAPE;
	}
	return out;
}

static struct chr_std *stdio_of(struct chr *c)
{
	return container_of(c, struct chr_std, c);
}

/* The end of input: output goes on. */
static void stdio_gone(struct chr_stream *st)
{
	struct chr_std *s = container_of(st, struct chr_std, stream);

	close_fd(&s->in_fd);
	/* A descriptor that could be watched once can be again; if not, output is dropped. */
	if (stream_start(st, &s->c, -1, s->out_fd) == 0)
		chr_can_write(&s->c);
}

static int stdio_open(struct chr *c, const struct chr_opts *o, struct err *e)
{
	struct chr_std *s = stdio_of(c);
	int rc = 0;

	s->in_fd = s->out_fd = -1;
	s->quit = o->quit;
	s->quit_arg = o->quit_arg;
	if (std.in_use)
		return err_set(e, EBUSY, "is used by another device");
	std.in_use = 1;
	/* From here on .close has to give it back. */
	s->stream.gone = stdio_gone;
	os_ignore_sigpipe();
	s->in_fd = stdio_fd(0);
	s->out_fd = stdio_fd(1);
	if (isatty(0))
		rc = stdio_raw(s, e);
	if (rc < 0)
		return rc;
	if (s->tty)
		s->stream.filter = stdio_filter;
	rc = stream_start(&s->stream, c, s->in_fd, s->out_fd);
	return rc < 0 ? err_set(e, -rc, "cannot watch standard input: %s", strerror(-rc)) : 0;
}

static void stdio_close(struct chr *c)
{
	struct chr_std *s = stdio_of(c);

	stream_stop(&s->stream);
	/* Not ours: another one has it. */
	if (!s->stream.gone)
		return;
	chr_stdio_restore();
	std.tty_changed = std.flags_changed[0] = std.flags_changed[1] = 0;
	std.in_use = 0;
	close_fd(&s->in_fd);
	close_fd(&s->out_fd);
}

static ssize_t stdio_write(struct chr *c, const uint8_t *p, size_t len)
{
	return stream_write(&stdio_of(c)->stream, p, len);
}

static void stdio_rx_enable(struct chr *c, bool on)
{
	stream_rx(&stdio_of(c)->stream, on);
}

const struct chr_driver chr_stdio = {
	.name = "stdio",
	.size = sizeof(struct chr_std),
	.open = stdio_open,
	.close = stdio_close,
	.write = stdio_write,
	.rx_enable = stdio_rx_enable,
};
