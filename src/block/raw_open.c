/*
 * Opening a raw image: what it is, how large, what O_DIRECT wants, and the lock.
 *
 * The guest's block is 512 bytes, or the device's own sector: a disk that was partitioned with one
 * size is not readable with the other.  Where O_DIRECT on a file wants more than 512 (a filesystem
 * on a 4 KiB disk), finer requests go through a second descriptor and the page cache.  That is safe
 * because then every direct request covers whole pages: the two never share a page unless the
 * guest's own requests overlap.
 */
#include "block/raw_int.h"

#include "base/bug.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/stat.h>
#include <string.h>
#include <sys/mman.h>

enum {
	RAW_SECTOR = 512,
	RAW_PAGE = 4096,
};

static const char *raw_hint(int code, const struct blk_opts *o)
{
	if (code == EINVAL && o->cache == BLK_CACHE_NONE)
		return " (this filesystem has no O_DIRECT; try: cache=writeback)";
	if ((code == EACCES || code == EROFS || code == EPERM) && !o->readonly)
		return " (try: readonly=on, or ask for write permission)";
	if (code == EBUSY)
		return " (is it mounted, or part of a RAID or volume group?)";
	return "";
}

static int raw_open_fd(const struct blk_opts *o, int flags, struct err *e)
{
	int fd = os.open(o->path, (o->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | flags,
			 0);

	if (fd < 0)
		return err_set(e, errno, "cannot open: %s%s", strerror(errno), raw_hint(errno, o));
	return fd;
}

/* A FIFO would block in open, and a device that is mounted must not be written. */
static int raw_open_main(struct raw *x, const struct blk_opts *o, struct err *e)
{
	int flags = o->cache == BLK_CACHE_NONE ? O_DIRECT : 0;
	struct stat st;

	x->fd = raw_open_fd(o, O_NONBLOCK | O_PATH, e);
	if (x->fd < 0)
		return x->fd;
	if (os.fstat(x->fd, &st) < 0)
		return err_set(e, errno, "cannot stat: %s", strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(e, EINVAL, "neither a file nor a block device");
	x->is_device = S_ISBLK(st.st_mode);
	if (x->is_device && !o->readonly)
		flags |= O_EXCL;
	close_fd(&x->fd);
	x->fd = raw_open_fd(o, flags, e);
	return x->fd < 0 ? x->fd : 0;
}

/* Size and sector of what fd is now. */
static int raw_measure(struct raw *x, uint64_t *ret_size, struct err *e)
{
	struct stat st;
	uint64_t size = 0;

	if (x->is_device) {
		if (os.ioctl(x->fd, BLKGETSIZE64, &size) < 0)
			return err_set(e, errno, "cannot read the device's size: %s",
				       strerror(errno));
	} else {
		if (os.fstat(x->fd, &st) < 0)
			return err_set(e, errno, "cannot stat: %s", strerror(errno));
		size = (uint64_t)st.st_size;
	}
	/* The rest of a file's last block reads as zeros; a write there makes the file longer. */
	if (x->is_device)
		size = align_down(size, x->b.info.block_size);
	else
		size = align_up(size, x->b.info.block_size);
	*ret_size = size;
	return 0;
}

static int raw_sector(struct raw *x, struct err *e)
{
	int sector = RAW_SECTOR;

	if (x->is_device && os.ioctl(x->fd, BLKSSZGET, &sector) < 0)
		return err_set(e, errno, "cannot read the device's sector size: %s",
			       strerror(errno));
	if (sector != 512 && sector != 4096)
		return err_set(e, ENOTSUP, "sectors of %d bytes are not supported", sector);
	x->b.info.block_size = (uint32_t)sector;
	return 0;
}

/* Does a direct read of len bytes into bounce + skew work? */
static bool raw_try_read(struct raw *x, size_t skew, size_t len)
{
	return os.pread(x->fd, x->bounce + skew, len, 0) >= 0 || errno != EINVAL;
}

/* By trial, for kernels before 6.1 and filesystems that do not tell. */
static void raw_align_by_trial(struct raw *x)
{
	x->off_align = raw_try_read(x, 0, RAW_SECTOR) ? RAW_SECTOR : RAW_PAGE;
	x->mem_align = raw_try_read(x, RAW_SECTOR, x->off_align) ? RAW_SECTOR : RAW_PAGE;
}

static int raw_align(struct raw *x, struct err *e)
{
	struct statx stx = { 0 };

	x->mem_align = x->off_align = 1;
	if (!x->direct)
		return 0;
	if (os.statx(x->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) < 0 ||
	    !(stx.stx_mask & STATX_DIOALIGN)) {
		raw_align_by_trial(x);
	} else {
		x->mem_align = stx.stx_dio_mem_align;
		x->off_align = stx.stx_dio_offset_align;
	}
	if (!x->off_align || !is_pow2(x->mem_align) || !is_pow2(x->off_align) ||
	    x->off_align > RAW_PAGE || x->mem_align > RAW_PAGE)
		return err_set(e, EINVAL, "cannot be used with O_DIRECT (try: cache=writeback)");
	/* Whole sectors are all that comes; whole pages where sectors are too fine (see above). */
	x->off_align = x->off_align > x->b.info.block_size ? RAW_PAGE : x->b.info.block_size;
	return 0;
}

int raw_open(struct blk *b, const struct blk_opts *o, struct err *e)
{
	struct raw *x = raw_of(b);

	x->fd = x->fine_fd = -1;
	x->direct = o->cache == BLK_CACHE_NONE;
	list_init(&x->bounce_wait);
	int rc = raw_open_main(x, o, e);
	if (rc < 0)
		return rc;
	rc = blk_lock(x->fd, o->path, o->readonly, e);
	if (rc < 0)
		return rc;
	/* Address space only, until it is used. */
	void *p = mmap(NULL, RAW_BOUNCES * RAW_BOUNCE_LEN, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return err_set(e, errno, "no memory for buffers");
	x->bounce = p;
	rc = raw_sector(x, e);
	if (rc == 0)
		rc = raw_align(x, e);
	if (rc == 0)
		rc = raw_measure(x, &b->info.size_bytes, e);
	if (rc < 0)
		return rc;
	if (x->direct && x->off_align > b->info.block_size)
		x->fine_fd = raw_open_fd(o, 0, e);
	if (x->direct && x->off_align > b->info.block_size && x->fine_fd < 0)
		return x->fine_fd;
	b->info.readonly = o->readonly;
	b->info.can_discard = b->info.can_write_zeroes = !o->readonly;
	return 0;
}

void raw_close(struct blk *b)
{
	struct raw *x = raw_of(b);

	BUG_ON(x->bounce_used);
	close_fd(&x->fd);
	close_fd(&x->fine_fd);
	if (x->bounce)
		munmap(x->bounce, RAW_BOUNCES * RAW_BOUNCE_LEN);
	x->bounce = NULL;
}

int raw_refresh(struct blk *b, struct err *e)
{
	return raw_measure(raw_of(b), &b->info.size_bytes, e);
}
