/*
 * The raw driver: the guest's block n is the file's bytes n * block_size and on; a file or a block
 * device.
 *
 * The life of a request: raw_submit() starts the first I/O; each completion either starts the next
 * one (short transfer, next bounce buffer, next way to write zeros, the flush of a FUA write) or
 * ends the request.  There is one I/O of a request in flight at a time.
 *
 * How data moves is chosen once for each request (enum raw_step): straight from and to the guest's
 * memory; through a bounce buffer, where O_DIRECT does not take the guest's addresses; or, where
 * O_DIRECT does not take the offset, through the page cache (raw_open.c says why that is safe).
 *
 * A failed fdatasync is remembered: the kernel reports lost pages once and then counts them as
 * clean, so a flush that is tried again would succeed over data that is gone.  Not so with
 * O_DIRECT, where nothing waits in the page cache.
 */
#include "block/raw_int.h"

#include "base/bug.h"
#include "base/num.h"
#include "base/os.h"

#include <errno.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>

enum raw_step {
	RAW_PLAIN,
	RAW_BOUNCED,
	RAW_FINE,
};

enum {
	/* EINTR and EAGAIN in a row; then it is an error. */
	RAW_TRIES = 1000,
	RAW_ZEROES_LEN = 64 << 10,
	RAW_ZEROES_IOV = 16,
};

/* Never written. */
static uint8_t raw_zeroes[RAW_ZEROES_LEN] __attribute__((aligned(4096)));
static const struct iovec raw_zero_iov[RAW_ZEROES_IOV] = {
	[0 ... RAW_ZEROES_IOV - 1] = { raw_zeroes, sizeof(raw_zeroes) },
};

static void raw_move(struct raw *x, struct blk_req *r);
static void raw_zero(struct raw *x, struct blk_req *r);

static struct raw *raw_of_io(struct loop_io *io, struct blk_req **ret_r)
{
	*ret_r = container_of(io, struct blk_req, io);
	return raw_of((*ret_r)->blk);
}

/* The kernel wants to be asked again. */
static bool raw_again(struct blk_req *r, int64_t res)
{
	if (res != -EINTR && res != -EAGAIN) {
		r->tries = 0;
		return false;
	}
	return r->tries++ < RAW_TRIES;
}

/* Bounce buffers. */

static bool raw_take_bounce(struct raw *x, struct blk_req *r)
{
	for (unsigned i = 0; i < RAW_BOUNCES; i++) {
		if (x->bounce_used & 1u << i)
			continue;
		x->bounce_used |= 1u << i;
		r->bounce = x->bounce + (size_t)i * RAW_BOUNCE_LEN;
		return true;
	}
	return false;
}

static void raw_give_bounce(struct raw *x, struct blk_req *r)
{
	if (!r->bounce)
		return;
	x->bounce_used &= ~(1u << ((size_t)((uint8_t *)r->bounce - x->bounce) / RAW_BOUNCE_LEN));
	r->bounce = NULL;
	if (list_empty(&x->bounce_wait))
		return;
	struct blk_req *next = list_first(&x->bounce_wait, struct blk_req, node);
	list_del(&next->node);
	BUG_ON(!raw_take_bounce(x, next));
	raw_move(x, next);
}

/* Copies len bytes from byte `skip` of the pieces on, to or from buf. */
static void raw_copy(const struct blk_req *r, uint64_t skip, uint8_t *buf, size_t len, bool to_iov)
{
	for (unsigned i = 0; i < r->niov && len; i++) {
		const struct iovec *v = &r->iov[i];

		if (skip >= v->iov_len) {
			skip -= v->iov_len;
			continue;
		}
		size_t n = MIN(len, v->iov_len - (size_t)skip);
		uint8_t *at = (uint8_t *)v->iov_base + skip;
		memcpy(to_iov ? at : buf, to_iov ? buf : at, n);
		buf += n;
		len -= n;
		skip = 0;
	}
}

/* The end of the file, inside a block: the rest is zeros. */
static void raw_zero_rest(struct blk_req *r, uint64_t skip)
{
	for (unsigned i = r->step == RAW_BOUNCED ? 0 : r->iov_at; i < r->niov; i++) {
		struct iovec *v = &r->iov[i];

		if (skip >= v->iov_len) {
			skip -= v->iov_len;
			continue;
		}
		memset((uint8_t *)v->iov_base + skip, 0, v->iov_len - (size_t)skip);
		skip = 0;
	}
}

/* Ends. */

static void raw_end(struct raw *x, struct blk_req *r, int rc)
{
	raw_give_bounce(x, r);
	blk_done(r, rc);
}

static void raw_flushed(struct loop_io *io, int64_t res);

static void raw_flush(struct raw *x, struct blk_req *r)
{
	if (x->flush_failed) {
		blk_done_later(r, -EIO);
		return;
	}
	r->io = (struct loop_io){ .op = LOOP_IO_FLUSH, .fd = x->fd, .done = raw_flushed };
	loop_io_submit(x->b.loop, &r->io);
}

static void raw_flushed(struct loop_io *io, int64_t res)
{
	struct blk_req *r;
	struct raw *x = raw_of_io(io, &r);

	if (raw_again(r, res)) {
		raw_flush(x, r);
		return;
	}
	if (res < 0 && (!x->direct || x->fine_fd >= 0))
		x->flush_failed = true;
	raw_end(x, r, res < 0 ? (int)res : 0);
}

static void raw_moved_all(struct raw *x, struct blk_req *r)
{
	raw_give_bounce(x, r);
	if (r->op == BLK_WRITE && r->flags & BLK_REQ_FUA)
		raw_flush(x, r);
	else
		raw_end(x, r, 0);
}

/* Reading and writing. */

/* Skip n bytes of the pieces. */
static void raw_advance(struct blk_req *r, uint64_t n)
{
	while (n) {
		struct iovec *v = &r->iov[r->iov_at];
		size_t part = (size_t)MIN(n, (uint64_t)v->iov_len);

		v->iov_base = (uint8_t *)v->iov_base + part;
		v->iov_len -= part;
		n -= part;
		if (!v->iov_len)
			r->iov_at++;
	}
}

/* Would O_DIRECT take what is left of the offset, and of the pieces? */
static bool raw_off_fits(const struct raw *x, const struct blk_req *r)
{
	uint64_t off = r->off_bytes + r->moved_bytes, len = r->len_bytes - r->moved_bytes;

	return !((off | len) & (x->off_align - 1));
}

static bool raw_mem_fits(const struct raw *x, const struct blk_req *r)
{
	for (unsigned i = r->iov_at; i < r->niov; i++)
		if ((uintptr_t)r->iov[i].iov_base & (x->mem_align - 1) ||
		    r->iov[i].iov_len & (x->off_align - 1))
			return false;
	return true;
}

/* A direct transfer stopped short in the middle of what O_DIRECT can continue from. */
static void raw_stopped_short(struct raw *x, struct blk_req *r)
{
	if (x->fine_fd >= 0) {
		if (r->step == RAW_BOUNCED)
			raw_advance(r, r->moved_bytes);
		raw_give_bounce(x, r);
		r->step = RAW_FINE;
		raw_move(x, r);
	} else if (r->op == BLK_READ) {
		/* Only the end of the file is inside a sector. */
		raw_zero_rest(r, r->step == RAW_BOUNCED ? r->moved_bytes : 0);
		raw_end(x, r, 0);
	} else {
		raw_end(x, r, -EIO);
	}
}

static void raw_moved(struct loop_io *io, int64_t res)
{
	struct blk_req *r;
	struct raw *x = raw_of_io(io, &r);

	if (raw_again(r, res)) {
		raw_move(x, r);
		return;
	}
	if (res < 0) {
		raw_end(x, r, (int)res);
		return;
	}
	if (res == 0 && r->op == BLK_WRITE) {
		raw_end(x, r, -ENOSPC);
		return;
	}
	if (res == 0) {
		raw_zero_rest(r, r->step == RAW_BOUNCED ? r->moved_bytes : 0);
		raw_end(x, r, 0);
		return;
	}
	if (r->step == RAW_BOUNCED && r->op == BLK_READ)
		raw_copy(r, r->moved_bytes, r->bounce, (size_t)res, true);
	else if (r->step != RAW_BOUNCED)
		raw_advance(r, (uint64_t)res);
	r->moved_bytes += (uint64_t)res;
	if (r->moved_bytes == r->len_bytes)
		raw_moved_all(x, r);
	else if (r->step == RAW_BOUNCED ? !raw_off_fits(x, r)
					: r->step == RAW_PLAIN && x->direct &&
						  !(raw_off_fits(x, r) && raw_mem_fits(x, r)))
		raw_stopped_short(x, r);
	else
		raw_move(x, r);
}

static void raw_move(struct raw *x, struct blk_req *r)
{
	uint64_t left = r->len_bytes - r->moved_bytes;

	r->io = (struct loop_io){
		.op = r->op == BLK_READ ? LOOP_IO_READV : LOOP_IO_WRITEV,
		.fd = r->step == RAW_FINE ? x->fine_fd : x->fd,
		.iov = r->iov + r->iov_at,
		.niov = r->niov - r->iov_at,
		.off_bytes = r->off_bytes + r->moved_bytes,
		.done = raw_moved,
	};
	if (r->step == RAW_BOUNCED) {
		size_t n = (size_t)MIN(left, (uint64_t)RAW_BOUNCE_LEN);

		if (r->op == BLK_WRITE)
			raw_copy(r, r->moved_bytes, r->bounce, n, false);
		r->bounce_iov = (struct iovec){ r->bounce, n };
		r->io.iov = &r->bounce_iov;
		r->io.niov = 1;
	}
	loop_io_submit(x->b.loop, &r->io);
}

static void raw_start_move(struct raw *x, struct blk_req *r)
{
	if (!x->direct)
		r->step = RAW_PLAIN;
	else if (!raw_off_fits(x, r))
		r->step = RAW_FINE;
	else
		r->step = raw_mem_fits(x, r) ? RAW_PLAIN : RAW_BOUNCED;
	if (r->step == RAW_BOUNCED && !raw_take_bounce(x, r))
		list_add_tail(&x->bounce_wait, &r->node);
	else
		raw_move(x, r);
}

/* Discarding. */

static bool raw_cannot(int64_t res)
{
	return res == -EOPNOTSUPP || res == -ENOSYS || res == -ENODEV || res == -ENOTTY;
}

static int64_t raw_discard_work(struct loop_io *io)
{
	uint64_t range[2] = { io->off_bytes, io->len_bytes };

	return os.ioctl(io->fd, BLKDISCARD, range) < 0 ? -errno : 0;
}

static void raw_discarded(struct loop_io *io, int64_t res);

static void raw_discard(struct raw *x, struct blk_req *r)
{
	/* A hint that cannot be followed is no error. */
	if (x->no_discard) {
		blk_done_later(r, 0);
		return;
	}
	r->io = (struct loop_io){
		.op = x->is_device ? LOOP_IO_WORK : LOOP_IO_FALLOCATE,
		.fd = x->fd,
		.off_bytes = r->off_bytes,
		.len_bytes = r->len_bytes,
		.mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		.work = raw_discard_work,
		.done = raw_discarded,
	};
	loop_io_submit(x->b.loop, &r->io);
}

static void raw_discarded(struct loop_io *io, int64_t res)
{
	struct blk_req *r;
	struct raw *x = raw_of_io(io, &r);

	if (raw_again(r, res)) {
		raw_discard(x, r);
		return;
	}
	if (raw_cannot(res))
		x->no_discard = true;
	raw_end(x, r, res < 0 && !raw_cannot(res) ? (int)res : 0);
}

/* Writing zeros: a hole, a range marked as zero, or zeros. */

static void raw_zero_written(struct loop_io *io, int64_t res)
{
	struct blk_req *r;
	struct raw *x = raw_of_io(io, &r);

	if (raw_again(r, res)) {
		raw_zero(x, r);
		return;
	}
	if (res <= 0) {
		raw_end(x, r, res < 0 ? (int)res : -ENOSPC);
		return;
	}
	r->moved_bytes += (uint64_t)res;
	if (r->moved_bytes == r->len_bytes)
		raw_end(x, r, 0);
	else
		raw_zero(x, r);
}

static void raw_zero_by_writing(struct raw *x, struct blk_req *r)
{
	uint64_t left = r->len_bytes - r->moved_bytes;
	bool fine = x->direct && !raw_off_fits(x, r);

	r->bounce_iov = (struct iovec){ raw_zeroes, (size_t)MIN(left, sizeof(raw_zeroes)) };
	r->io = (struct loop_io){
		.op = LOOP_IO_WRITEV,
		.fd = fine && x->fine_fd >= 0 ? x->fine_fd : x->fd,
		.iov = &r->bounce_iov,
		.niov = 1,
		.off_bytes = r->off_bytes + r->moved_bytes,
		.done = raw_zero_written,
	};
	if (left >= sizeof(raw_zeroes) * RAW_ZEROES_IOV) {
		r->io.iov = raw_zero_iov;
		r->io.niov = RAW_ZEROES_IOV;
	}
	loop_io_submit(x->b.loop, &r->io);
}

static void raw_zero_ranged(struct loop_io *io, int64_t res)
{
	struct blk_req *r;
	struct raw *x = raw_of_io(io, &r);

	if (raw_again(r, res)) {
		raw_zero(x, r);
	} else if (raw_cannot(res)) {
		if (io->mode & FALLOC_FL_PUNCH_HOLE)
			x->no_punch = true;
		else
			x->no_zero_range = true;
		raw_zero(x, r);
	} else {
		raw_end(x, r, res < 0 ? (int)res : 0);
	}
}

static void raw_zero(struct raw *x, struct blk_req *r)
{
	int mode = 0;

	if (r->flags & BLK_REQ_UNMAP && !x->no_punch)
		mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	else if (!x->no_zero_range)
		mode = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
	if (!mode) {
		raw_zero_by_writing(x, r);
		return;
	}
	r->io = (struct loop_io){
		.op = LOOP_IO_FALLOCATE,
		.fd = x->fd,
		.off_bytes = r->off_bytes,
		.len_bytes = r->len_bytes,
		.mode = mode,
		.done = raw_zero_ranged,
	};
	loop_io_submit(x->b.loop, &r->io);
}

static void raw_submit(struct blk *b, struct blk_req *r)
{
	struct raw *x = raw_of(b);

	r->moved_bytes = 0;
	r->iov_at = r->tries = 0;
	r->bounce = NULL;
	switch (r->op) {
	case BLK_READ:
	case BLK_WRITE:
		raw_start_move(x, r);
		break;
	case BLK_FLUSH:
		raw_flush(x, r);
		break;
	case BLK_DISCARD:
		raw_discard(x, r);
		break;
	case BLK_WRITE_ZEROES:
		raw_zero(x, r);
		break;
	}
}

const struct blk_driver blk_raw = {
	.name = "raw",
	.size = sizeof(struct raw),
	.open = raw_open,
	.close = raw_close,
	.submit = raw_submit,
	.refresh = raw_refresh,
};
