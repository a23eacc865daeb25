/*
 * The image lock: one writer, or any number of readers, of an image at a time.
 *
 * Open-file-description locks (fcntl(2)), so it ends with the process however that dies.  The bytes
 * are those that QEMU and its tools lock, so `qemu-img check` of a running VM's disk is refused,
 * and so are we while QEMU has the disk.  Nobody ever takes a write lock; everybody takes shared
 * locks on the bytes for what it does (100 + n) and for what it allows nobody else to do (200 + n),
 * n being 0 to read what is consistent, 1 to write, 3 to resize, and then asks whether a write lock
 * would be in somebody's way on the opposite bytes.  Two that come at the same moment may both be
 * refused.
 */
#include "block/blk_int.h"

#include "base/cleanup.h"
#include "base/os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	IMAGE_DOES = 100,
	IMAGE_FORBIDS = 200,
	IMAGE_READ = 0,
	IMAGE_WRITE = 1,
	IMAGE_RESIZE = 3,
};

static int lock_byte(int fd, int cmd, short type, off_t at, struct flock *ret)
{
	*ret = (struct flock){ .l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };
	return os.fcntl(fd, cmd, ret) < 0 ? -errno : 0;
}

/* Does /proc/PID/fdinfo/FD tell of such a lock? */
static bool lock_fdinfo_has(const char *pid, const char *fd)
{
	char path[64], line[256];
	bool has = false;

	snprintf(path, sizeof(path), "/proc/%.16s/fdinfo/%.16s", pid, fd);
	FILE *f = fopen(path, "re");
	while (f && !has && fgets(line, sizeof(line), f))
		has = strstr(line, "OFDLCK") != NULL;
	if (f)
		fclose(f);
	return has;
}

/* Has process pid the image open, locked, through another descriptor than ours? */
static bool lock_held_by(const char *pid, const struct stat *image, const char *our_pid,
			 const char *our_fd)
{
	char path[64];
	struct stat st;
	struct dirent *d;
	bool held = false;

	snprintf(path, sizeof(path), "/proc/%.16s/fd", pid);
	DIR *dir = opendir(path);
	while (dir && !held && (d = readdir(dir)) != NULL) {
		if (!strcmp(pid, our_pid) && !strcmp(d->d_name, our_fd))
			continue;
		held = fstatat(dirfd(dir), d->d_name, &st, 0) == 0 && st.st_dev == image->st_dev &&
		       st.st_ino == image->st_ino && lock_fdinfo_has(pid, d->d_name);
	}
	if (dir)
		closedir(dir);
	return held;
}

/* "process 123 (qemu-img)", or "another process" when /proc does not show it to us. */
static void lock_holder(int fd, char *ret, size_t size)
{
	char our_pid[16], our_fd[16], path[64], comm[32] = "";
	struct stat image;
	struct dirent *d;

	snprintf(our_pid, sizeof(our_pid), "%d", getpid());
	snprintf(our_fd, sizeof(our_fd), "%d", fd);
	snprintf(ret, size, "another process");
	DIR *dir = fstat(fd, &image) == 0 ? opendir("/proc") : NULL;
	while (dir && (d = readdir(dir)) != NULL) {
		if (d->d_name[0] < '1' || d->d_name[0] > '9' ||
		    !lock_held_by(d->d_name, &image, our_pid, our_fd))
			continue;
		snprintf(path, sizeof(path), "/proc/%.16s/comm", d->d_name);
		FILE *f = fopen(path, "re");
		if (f && fgets(comm, sizeof(comm), f))
			comm[strcspn(comm, "\n")] = 0;
		if (f)
			fclose(f);
		if (!strcmp(d->d_name, our_pid))
			snprintf(ret, size, "another disk of this VM");
		else
			snprintf(ret, size, "process %.16s (%s)", d->d_name, comm);
		break;
	}
	if (dir)
		closedir(dir);
}

static bool lock_unsupported(int rc)
{
	return rc == -ENOLCK || rc == -EOPNOTSUPP || rc == -EINVAL || rc == -ENOSYS;
}

int blk_lock(int fd, const char *path, bool readonly, struct err *e)
{
	/* What we do and what we forbid; a reader forbids writing. */
	static const off_t takes[] = {
		IMAGE_DOES + IMAGE_READ,  IMAGE_FORBIDS + IMAGE_WRITE, IMAGE_FORBIDS + IMAGE_RESIZE,
		IMAGE_DOES + IMAGE_WRITE, IMAGE_DOES + IMAGE_RESIZE,
	};
	/* What must not be held by others: the opposites. */
	static const off_t minds[] = {
		IMAGE_FORBIDS + IMAGE_READ,   IMAGE_DOES + IMAGE_WRITE,
		IMAGE_DOES + IMAGE_RESIZE,    IMAGE_FORBIDS + IMAGE_WRITE,
		IMAGE_FORBIDS + IMAGE_RESIZE,
	};
	unsigned n = readonly ? 3 : 5;
	struct flock fl;
	char who[96];
	int rc = 0;

	for (unsigned i = 0; i < n && rc == 0; i++)
		rc = lock_byte(fd, F_OFD_SETLK, F_RDLCK, takes[i], &fl);
	for (unsigned i = 0; i < n && rc == 0; i++) {
		rc = lock_byte(fd, F_OFD_GETLK, F_WRLCK, minds[i], &fl);
		if (rc == 0 && fl.l_type != F_UNLCK)
			rc = -EAGAIN;
	}
	if (rc == 0 || lock_unsupported(rc))
		return 0;
	if (rc != -EAGAIN && rc != -EACCES)
		return err_set(e, -rc, "cannot lock the image: %s", strerror(-rc));
	lock_holder(fd, who, sizeof(who));
	return err_set(e, EBUSY, "the image is %s by %s", readonly ? "written" : "used", who);
}
