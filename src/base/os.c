#include "base/os.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int os_open(const char *path, int flags, mode_t mode)
{
	return open(path, flags, mode);
}

static int os_ioctl(int fd, unsigned long request, void *arg)
{
	return ioctl(fd, request, arg);
}

static int os_fcntl(int fd, int cmd, void *arg)
{
	return fcntl(fd, cmd, arg);
}

struct os_calls os = {
	.open = os_open,
	.fstat = fstat,
	.statx = statx,
	.ioctl = os_ioctl,
	.fcntl = os_fcntl,
	.pread = pread,
};

void os_ignore_sigpipe(void)
{
	struct sigaction now, ignore = { .sa_handler = SIG_IGN };

	if (sigaction(SIGPIPE, NULL, &now) == 0 && now.sa_handler == SIG_DFL)
		(void)sigaction(SIGPIPE, &ignore, NULL);
}

void os_std_fds(void)
{
	int fd;

	/* open() gives the lowest number that is free. */
	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd < 3);
	if (fd >= 0)
		close(fd);
}
