/* The raw driver and the door before it, on real files; with and without O_DIRECT, on both loops.
 */
#include "block/blk.h"

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/loop.h>
#include <linux/stat.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/t.h"

/* In the build tree, for /tmp may be a tmpfs without O_DIRECT. */
static char path[64];

static void make_file(uint64_t size)
{
	snprintf(path, sizeof(path), "raw-test-XXXXXX");
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
}

static struct loop *make_loop(enum loop_kind kind)
{
	struct loop *l;
	struct err e;

	if (loop_new(&l, kind, &e) < 0)
		T_SKIP("%s", e.msg);
	return l;
}

static struct blk *open_disk(struct loop *l, enum blk_cache cache, bool readonly)
{
	struct blk_opts o = {
		.format = "raw", .path = path, .readonly = readonly, .cache = cache, .loop = l
	};
	struct blk *b;
	struct err e;

	if (blk_open(&b, &o, &e) < 0) {
		if (cache == BLK_CACHE_NONE && strstr(e.msg, "O_DIRECT"))
			T_SKIP("%s", e.msg);
		fail_msg("%s", e.msg);
	}
	return b;
}

static int fails_to_open(struct loop *l, bool readonly, struct err *e)
{
	struct blk_opts o = { .format = "raw",
			      .path = path,
			      .readonly = readonly,
			      .cache = BLK_CACHE_WRITEBACK,
			      .loop = l };
	struct blk *b;
	int rc = blk_open(&b, &o, e);

	if (rc == 0)
		blk_close(b);
	return rc;
}

/* One request. */

struct req {
	struct blk_req r;
	struct iovec iov[BLK_IOV_MAX + 1];
	bool done;
	int rc;
};

static void req_done(struct blk_req *r, int rc)
{
	struct req *q = container_of(r, struct req, r);

	assert_false(q->done);
	q->done = true;
	q->rc = rc;
}

static void req_submit(struct blk *b, struct req *q, enum blk_op op, uint64_t off, uint64_t len,
		       unsigned flags)
{
	unsigned niov = q->r.niov;

	q->done = false;
	q->r = (struct blk_req){
		.op = op,
		.flags = flags,
		.off_bytes = off,
		.len_bytes = len,
		.iov = q->iov,
		.niov = niov,
		.done = req_done,
	};
	blk_submit(b, &q->r);
	/* Never inside. */
	assert_false(q->done);
}

static int req_run(struct blk *b, enum blk_op op, void *buf, uint64_t off, uint64_t len,
		   unsigned flags)
{
	static struct req q;

	q.iov[0] = (struct iovec){ buf, len };
	q.r.niov = 1;
	req_submit(b, &q, op, off, len, flags);
	blk_drain(b);
	assert_true(q.done);
	return q.rc;
}

/* What an I/O of the loop meets instead of the kernel. */

static uint64_t fault_seed;
static int fault_left, fault_code;
static unsigned fault_mode;
static unsigned fault_fired;
static bool fault_direct;

enum {
	FAULT_SHORT = 1,
	FAULT_NO_FALLOCATE = 2,
	FAULT_NTH = 4,
};

/* A transfer of a part, as the kernel may do it: whole sectors with O_DIRECT. */
static int64_t short_transfer(const struct loop_io *io)
{
	struct iovec v[BLK_IOV_MAX];
	size_t total = 0, want;
	unsigned n = 0;

	for (unsigned i = 0; i < io->niov; i++)
		total += io->iov[i].iov_len;
	want = 1 + t_below(&fault_seed, total);
	if (fault_direct)
		want = align_up(want, 512);
	for (size_t left = want; left; n++) {
		v[n] = io->iov[n];
		v[n].iov_len = MIN(v[n].iov_len, left);
		left -= v[n].iov_len;
	}
	ssize_t rc = io->op == LOOP_IO_READV ? preadv(io->fd, v, (int)n, (off_t)io->off_bytes)
					     : pwritev(io->fd, v, (int)n, (off_t)io->off_bytes);
	return rc < 0 ? -errno : rc;
}

static bool fault(const struct loop_io *io, int64_t *ret_res)
{
	if (fault_mode & FAULT_NTH && fault_left-- == 0) {
		fault_fired++;
		*ret_res = fault_code;
		return true;
	}
	if (io->op == LOOP_IO_FALLOCATE) {
		*ret_res = -EOPNOTSUPP;
		return fault_mode & FAULT_NO_FALLOCATE;
	}
	if (!(fault_mode & FAULT_SHORT) || io->op == LOOP_IO_FLUSH)
		return false;
	switch (t_below(&fault_seed, 4)) {
	case 0:
		*ret_res = t_below(&fault_seed, 2) ? -EINTR : -EAGAIN;
		return true;
	case 1:
		*ret_res = short_transfer(io);
		fault_fired++;
		return true;
	default:
		return false;
	}
}

/* Random requests against a flat copy of the disk. */

enum {
	SLICES = 6,
	SLICE = 37 * 512,
	/* The last block is 100 bytes of the file. */
	FILE_SIZE = SLICES * SLICE - 412,
	DISK_SIZE = SLICES * SLICE,
	ARENA = 3 * SLICE + 8192,
};

struct actor {
	struct req q;
	uint8_t *arena;
	uint64_t off, len;
};

static uint8_t model[DISK_SIZE];

/* Cut [0, len) of the arena into random pieces, at random addresses but in order. */
static void scatter(struct actor *a, uint64_t *s)
{
	/* As guests do it; at any address; aligned addresses with odd lengths. */
	unsigned how = (unsigned)t_below(s, 3);
	bool neat = how == 0;
	size_t at = how == 1 ? t_below(s, 64) : 0;
	uint64_t left = a->len;
	unsigned n = 0;

	while (left) {
		size_t part = left;

		if (n < 40 && t_below(s, 3))
			part = 1 + t_below(s, left);
		if (neat)
			part = MIN(align_up(part, 512), left);
		a->q.iov[n++] = (struct iovec){ a->arena + at, part };
		at += part + (how == 1 ? t_below(s, 16) : 0);
		if (how == 2)
			at = align_up(at, 512);
		left -= part;
	}
	a->q.r.niov = n;
}

static void fill(struct actor *a, uint64_t *s)
{
	uint64_t at = a->off;

	for (unsigned i = 0; i < a->q.r.niov; i++)
		for (size_t j = 0; j < a->q.iov[i].iov_len; j++)
			model[at++] = ((uint8_t *)a->q.iov[i].iov_base)[j] = (uint8_t)t_rnd(s);
}

/* The pieces as they were: the driver may have changed the request's. */
static void compare(const struct iovec *iov, unsigned n, uint64_t at)
{
	for (unsigned i = 0; i < n; i++) {
		assert_memory_equal(iov[i].iov_base, &model[at], iov[i].iov_len);
		at += iov[i].iov_len;
	}
}

static void property_round(struct blk *b, struct actor *a, uint64_t *s)
{
	static struct iovec saved[SLICES][64];
	unsigned niov[SLICES];
	enum blk_op op[SLICES];

	for (unsigned i = 0; i < SLICES; i++) {
		uint64_t first = t_below(s, 37), n = 1 + t_below(s, 37 - first);

		if (t_below(s, 2))
			first = first / 8 * 8;
		n = MIN(n, 37 - first);
		a[i].off = i * (uint64_t)SLICE + first * 512;
		a[i].len = n * 512;
		scatter(&a[i], s);
		niov[i] = a[i].q.r.niov;
		memcpy(saved[i], a[i].q.iov, niov[i] * sizeof(saved[i][0]));
		op[i] = (enum blk_op)(t_below(s, 3) ? t_below(s, 2) : t_below(s, 5));
		if (op[i] == BLK_WRITE)
			fill(&a[i], s);
		if (op[i] == BLK_WRITE_ZEROES)
			memset(&model[a[i].off], 0, a[i].len);
		if (op[i] == BLK_READ)
			memset(a[i].arena, 0xee, ARENA);
		req_submit(b, &a[i].q, op[i], a[i].off, a[i].len, (unsigned)t_below(s, 4));
	}
	blk_drain(b);
	for (unsigned i = 0; i < SLICES; i++) {
		assert_true(a[i].q.done);
		assert_int_equal(a[i].q.rc, 0);
		if (op[i] == BLK_READ)
			compare(saved[i], niov[i], a[i].off);
		if (op[i] != BLK_DISCARD)
			continue;
		/* Old or zero: look. */
		assert_int_equal(req_run(b, BLK_READ, a[i].arena, a[i].off, a[i].len, 0), 0);
		for (uint64_t j = 0; j < a[i].len; j++) {
			assert_true(!a[i].arena[j] || a[i].arena[j] == model[a[i].off + j]);
			model[a[i].off + j] = a[i].arena[j];
		}
	}
}

static void property(enum loop_kind kind, enum blk_cache cache, unsigned faults)
{
	static struct actor a[SLICES];
	struct loop *l = make_loop(kind);
	uint64_t s = t_seed(11 + faults);

	make_file(FILE_SIZE);
	struct blk *b = open_disk(l, cache, false);
	assert_int_equal(b->info.size_bytes, DISK_SIZE);
	assert_int_equal(b->info.block_size, 512);
	memset(model, 0, sizeof(model));
	for (unsigned i = 0; i < SLICES; i++)
		assert_int_equal(posix_memalign((void **)&a[i].arena, 4096, ARENA), 0);
	fault_seed = s;
	fault_mode = faults;
	fault_fired = 0;
	fault_direct = cache == BLK_CACHE_NONE;
	loop_io_fault = faults ? fault : NULL;
	for (int i = 0; i < 150; i++)
		property_round(b, a, &s);
	loop_io_fault = NULL;
	assert_true(!(faults & FAULT_SHORT) || fault_fired > 50);
	assert_int_equal(req_run(b, BLK_FLUSH, NULL, 0, 0, 0), 0);
	blk_close(b);
	loop_free(l);

	/* And what is in the file. */
	static uint8_t disk[DISK_SIZE];
	memset(disk, 0, sizeof(disk));
	int fd = open(path, O_RDONLY);
	assert_true(read(fd, disk, sizeof(disk)) >= FILE_SIZE);
	assert_memory_equal(disk, model, sizeof(disk));
	close(fd);
	for (unsigned i = 0; i < SLICES; i++)
		free(a[i].arena);
	unlink(path);
}

struct combo {
	enum loop_kind kind;
	enum blk_cache cache;
	unsigned faults;
	/* O_DIRECT as if on a disk with this sector size. */
	unsigned dio_align;
};

static unsigned fake_dio_align;

static int statx_coarse(int dirfd, const char *p, int flags, unsigned mask, struct statx *stx)
{
	int rc = statx(dirfd, p, flags, mask, stx);

	stx->stx_mask |= STATX_DIOALIGN;
	stx->stx_dio_mem_align = 512;
	stx->stx_dio_offset_align = fake_dio_align;
	return rc;
}

static void test_property(void **state)
{
	const struct combo *c = *state;
	struct os_calls real = os;

	fake_dio_align = c->dio_align;
	if (c->dio_align)
		os.statx = statx_coarse;
	property(c->kind, c->cache, c->faults);
	os = real;
}

/* Errors of the disk. */

static void test_nth_io_fails(void **state)
{
	const struct combo *c = *state;
	struct loop *l = make_loop(c->kind);
	static uint8_t buf[8192] __attribute__((aligned(4096)));
	static const int codes[] = { -ENOSPC, -EIO };

	make_file(65536);
	struct blk *b = open_disk(l, c->cache, false);
	fault_direct = c->cache == BLK_CACHE_NONE;
	for (size_t k = 0; k < COUNT_OF(codes); k++) {
		int n = 0, rc;

		fault_code = codes[k];
		loop_io_fault = fault;
		do {
			fault_mode = FAULT_NTH;
			fault_fired = 0;
			fault_left = n++;
			rc = req_run(b, BLK_WRITE, buf + 1, 4096, 4096, 0);
			if (rc == 0)
				rc = req_run(b, BLK_READ, buf, 4096, 4096, 0);
			if (rc == 0)
				rc = req_run(b, BLK_WRITE_ZEROES, NULL, 8192, 4096, 0);
			if (rc == 0)
				rc = req_run(b, BLK_DISCARD, NULL, 8192, 4096, 0);
			assert_int_equal(rc, fault_fired ? codes[k] : 0);
		} while (fault_fired);
		assert_int_equal(n, 5);
	}
	loop_io_fault = NULL;
	assert_int_equal(b->stats.errors, 8);
	blk_close(b);
	loop_free(l);
	unlink(path);
}

/* After a failed fdatasync over the page cache no flush succeeds; with O_DIRECT the next may. */
static void test_flush_fails(void **state)
{
	const struct combo *c = *state;
	struct loop *l = make_loop(c->kind);
	static uint8_t buf[512] __attribute__((aligned(4096)));

	make_file(65536);
	struct blk *b = open_disk(l, c->cache, false);
	fault_mode = FAULT_NTH;
	fault_code = -EIO;
	fault_left = 0;
	loop_io_fault = fault;
	assert_int_equal(req_run(b, BLK_FLUSH, NULL, 0, 0, 0), -EIO);
	int want = c->cache == BLK_CACHE_NONE ? 0 : -EIO;
	assert_int_equal(req_run(b, BLK_FLUSH, NULL, 0, 0, 0), want);
	assert_int_equal(req_run(b, BLK_WRITE, buf, 0, 512, BLK_REQ_FUA), want);
	assert_int_equal(req_run(b, BLK_WRITE, buf, 0, 512, 0), 0);
	loop_io_fault = NULL;
	blk_close(b);
	loop_free(l);
	unlink(path);
}

static char log_ops[16];

static bool log_io(const struct loop_io *io, int64_t *ret_res UNUSED)
{
	size_t n = strlen(log_ops);

	if (n < sizeof(log_ops) - 1)
		log_ops[n] = io->op == LOOP_IO_FLUSH ? 'F' : io->op == LOOP_IO_WRITEV ? 'W' : '?';
	return false;
}

static void test_fua(void **state)
{
	const struct combo *c = *state;
	struct loop *l = make_loop(c->kind);
	static uint8_t buf[512] __attribute__((aligned(4096)));

	make_file(65536);
	struct blk *b = open_disk(l, c->cache, false);
	memset(log_ops, 0, sizeof(log_ops));
	loop_io_fault = log_io;
	assert_int_equal(req_run(b, BLK_WRITE, buf, 0, 512, 0), 0);
	assert_int_equal(req_run(b, BLK_WRITE, buf, 0, 512, BLK_REQ_FUA), 0);
	assert_string_equal(log_ops, "WWF");
	loop_io_fault = NULL;
	blk_close(b);
	loop_free(l);
	unlink(path);
}

/* A write of nothing is an error, not an endless loop; so is being told "again" for ever. */
static bool fault_zero(const struct loop_io *io UNUSED, int64_t *ret_res)
{
	*ret_res = 0;
	return true;
}

static bool fault_again(const struct loop_io *io UNUSED, int64_t *ret_res)
{
	*ret_res = -EAGAIN;
	return true;
}

static void test_no_progress(void **state)
{
	const struct combo *c = *state;
	struct loop *l = make_loop(c->kind);
	static uint8_t buf[512] __attribute__((aligned(4096)));

	make_file(65536);
	struct blk *b = open_disk(l, c->cache, false);
	loop_io_fault = fault_zero;
	assert_int_equal(req_run(b, BLK_WRITE, buf, 0, 512, 0), -ENOSPC);
	memset(buf, 1, sizeof(buf));
	assert_int_equal(req_run(b, BLK_READ, buf, 0, 512, 0), 0);
	assert_int_equal(buf[0] | buf[511], 0);
	loop_io_fault = fault_again;
	assert_int_equal(req_run(b, BLK_WRITE, buf, 0, 512, 0), -EAGAIN);
	assert_int_equal(req_run(b, BLK_FLUSH, NULL, 0, 0, 0), -EAGAIN);
	loop_io_fault = NULL;
	blk_close(b);
	loop_free(l);
	unlink(path);
}

/* Large enough for the whole table of zeros, with a rest; holes refused. */
static void test_write_zeroes_fallback(void **state)
{
	const struct combo *c = *state;
	struct loop *l = make_loop(c->kind);
	size_t size = 5 << 20;
	uint8_t *buf = NULL, *zero = calloc(1, size);

	make_file(size);
	struct blk *b = open_disk(l, c->cache, false);
	assert_int_equal(posix_memalign((void **)&buf, 4096, size), 0);
	memset(buf, 0x55, size);
	assert_int_equal(req_run(b, BLK_WRITE, buf, 0, size, 0), 0);
	fault_mode = FAULT_NO_FALLOCATE | FAULT_SHORT;
	fault_direct = true;
	fault_seed = 1;
	loop_io_fault = fault;
	assert_int_equal(req_run(b, BLK_WRITE_ZEROES, NULL, 512, (4 << 20) + 1024, BLK_REQ_UNMAP),
			 0);
	loop_io_fault = NULL;
	assert_int_equal(req_run(b, BLK_READ, buf, 0, size, 0), 0);
	assert_int_equal(buf[511], 0x55);
	assert_memory_equal(buf + 512, zero, (4 << 20) + 1024);
	assert_int_equal(buf[512 + (4 << 20) + 1024], 0x55);
	/* A discard that cannot be is no error, now and later. */
	loop_io_fault = fault;
	assert_int_equal(req_run(b, BLK_DISCARD, NULL, 0, 4096, 0), 0);
	assert_int_equal(req_run(b, BLK_DISCARD, NULL, 0, 4096, 0), 0);
	loop_io_fault = NULL;
	free(buf);
	free(zero);
	blk_close(b);
	loop_free(l);
	unlink(path);
}

/* Unmapped zeros and discards give space back. */
static void test_holes(void **state)
{
	const struct combo *c = *state;
	struct loop *l = make_loop(c->kind);
	size_t size = 1 << 20;
	uint8_t *buf = NULL;
	struct stat full, less;

	make_file(size);
	struct blk *b = open_disk(l, c->cache, false);
	assert_int_equal(posix_memalign((void **)&buf, 4096, size), 0);
	memset(buf, 0x55, size);
	for (int zero = 0; zero < 2; zero++) {
		assert_int_equal(req_run(b, BLK_WRITE, buf, 0, size, BLK_REQ_FUA), 0);
		assert_int_equal(stat(path, &full), 0);
		assert_int_equal(req_run(b, zero ? BLK_WRITE_ZEROES : BLK_DISCARD, NULL, 0, size,
					 BLK_REQ_UNMAP),
				 0);
		assert_int_equal(stat(path, &less), 0);
		assert_true(less.st_blocks <= full.st_blocks / 4);
		assert_int_equal(less.st_size, (off_t)size);
	}
	free(buf);
	blk_close(b);
	loop_free(l);
	unlink(path);
}

/* The door. */

static void test_refused(void **state)
{
	const struct combo *c = *state;
	struct loop *l = make_loop(c->kind);
	static uint8_t buf[1024] __attribute__((aligned(4096)));
	static struct req q;

	make_file(65536);
	struct blk *b = open_disk(l, c->cache, false);
	/* None of these reaches the kernel. */
	memset(log_ops, 0, sizeof(log_ops));
	loop_io_fault = log_io;
	assert_int_equal(req_run(b, BLK_READ, buf, 65536, 512, 0), -EINVAL);
	assert_int_equal(req_run(b, BLK_READ, buf, 65024, 1024, 0), -EINVAL);
	assert_int_equal(req_run(b, BLK_READ, buf, 1, 512, 0), -EINVAL);
	assert_int_equal(req_run(b, BLK_READ, buf, 0, 511, 0), -EINVAL);
	assert_int_equal(req_run(b, BLK_WRITE, buf, UINT64_MAX - 511, 512, 0), -EINVAL);
	assert_int_equal(req_run(b, BLK_WRITE, buf, 512, UINT64_MAX - 511, 0), -EINVAL);
	assert_int_equal(req_run(b, BLK_DISCARD, NULL, 65536, 512, 0), -EINVAL);
	assert_int_equal(req_run(b, BLK_WRITE_ZEROES, NULL, 0, 1 << 20, 0), -EINVAL);
	assert_int_equal(req_run(b, (enum blk_op)77, buf, 0, 512, 0), -EINVAL);
	assert_int_equal(req_run(b, BLK_READ, buf, 0, 0, 0), 0);
	assert_int_equal(req_run(b, BLK_READ, buf, 65536, 0, 0), 0);
	/* Pieces that do not sum to the length, in two ways, and too many. */
	q.iov[0] = (struct iovec){ buf, 512 };
	q.r.niov = 1;
	req_submit(b, &q, BLK_WRITE, 0, 1024, 0);
	blk_drain(b);
	assert_int_equal(q.rc, -EINVAL);
	q.iov[0] = q.iov[1] = (struct iovec){ buf, SIZE_MAX / 2 + 257 };
	q.r.niov = 2;
	req_submit(b, &q, BLK_WRITE, 0, 512, 0);
	blk_drain(b);
	assert_int_equal(q.rc, -EINVAL);
	for (int i = 0; i < BLK_IOV_MAX + 1; i++)
		q.iov[i] = (struct iovec){ buf, i == 0 ? 512 : 0 };
	q.r.niov = BLK_IOV_MAX + 1;
	req_submit(b, &q, BLK_WRITE, 0, 512, 0);
	blk_drain(b);
	assert_int_equal(q.rc, -EINVAL);
	assert_string_equal(log_ops, "");
	loop_io_fault = NULL;
	q.r.niov = BLK_IOV_MAX;
	req_submit(b, &q, BLK_WRITE, 0, 512, 0);
	blk_drain(b);
	assert_int_equal(q.rc, 0);
	blk_close(b);

	b = open_disk(l, c->cache, true);
	assert_true(b->info.readonly);
	assert_int_equal(req_run(b, BLK_WRITE, buf, 0, 512, 0), -EROFS);
	assert_int_equal(req_run(b, BLK_DISCARD, NULL, 0, 512, 0), -EROFS);
	assert_int_equal(req_run(b, BLK_READ, buf, 0, 512, 0), 0);
	assert_int_equal(req_run(b, BLK_FLUSH, NULL, 0, 0, 0), 0);
	blk_close(b);
	loop_free(l);
	unlink(path);
}

/* A file that ends inside a block. */
static void test_partial_block(void **state)
{
	const struct combo *c = *state;
	struct loop *l = make_loop(c->kind);
	static uint8_t buf[1024] __attribute__((aligned(4096)));
	struct stat st;

	make_file(0);
	int fd = open(path, O_WRONLY);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(write(fd, "x", 1), 1);
	close(fd);
	struct blk *b = open_disk(l, c->cache, false);
	assert_int_equal(b->info.size_bytes, 1024);
	memset(buf, 'y', sizeof(buf));
	assert_int_equal(req_run(b, BLK_READ, buf, 0, 1024, 0), 0);
	for (int i = 0; i < 1024; i++)
		assert_int_equal(buf[i], i < 1000 ? 'x' : 0);
	memset(buf, 'y', sizeof(buf));
	/* Through a bounce buffer too. */
	assert_int_equal(req_run(b, BLK_READ, buf + 3, 512, 512, 0), 0);
	for (int i = 0; i < 512; i++)
		assert_int_equal(buf[3 + i], i < 488 ? 'x' : 0);
	memset(buf, 'z', sizeof(buf));
	assert_int_equal(req_run(b, BLK_WRITE, buf, 512, 512, 0), 0);
	assert_int_equal(req_run(b, BLK_WRITE, buf, 1024, 512, 0), -EINVAL);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 1024);

	/* Someone makes it longer. */
	assert_int_equal(truncate(path, 4097), 0);
	struct err e;
	assert_int_equal(blk_refresh(b, &e), 0);
	assert_int_equal(b->info.size_bytes, 4608);
	assert_int_equal(req_run(b, BLK_READ, buf, 4096, 512, 0), 0);
	blk_close(b);
	loop_free(l);
	unlink(path);
}

static void test_stats(void **state)
{
	const struct combo *c = *state;
	struct loop *l = make_loop(c->kind);
	static uint8_t buf[1024] __attribute__((aligned(4096)));

	make_file(65536);
	struct blk *b = open_disk(l, c->cache, false);
	(void)req_run(b, BLK_WRITE, buf, 0, 1024, 0);
	(void)req_run(b, BLK_READ, buf, 0, 512, 0);
	(void)req_run(b, BLK_READ, buf, 1, 512, 0);
	(void)req_run(b, BLK_FLUSH, NULL, 0, 0, 0);
	assert_int_equal(b->stats.reads, 2);
	assert_int_equal(b->stats.read_bytes, 512);
	assert_int_equal(b->stats.write_bytes, 1024);
	assert_int_equal(b->stats.flushes, 1);
	assert_int_equal(b->stats.errors, 1);
	blk_close(b);
	loop_free(l);
	unlink(path);
}

/* Opening. */

static void test_open_errors(void **state UNUSED)
{
	struct loop *l = make_loop(LOOP_EPOLL);
	struct blk_opts o = { .format = "raw", .path = "/nonexistent/x", .loop = l };
	struct blk *b;
	struct err e;

	assert_int_equal(blk_open(&b, &o, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "disk '/nonexistent/x': cannot open: No such file"));
	o.path = ".";
	assert_int_equal(blk_open(&b, &o, &e), -EINVAL);
	o.path = "/dev/null";
	assert_int_equal(blk_open(&b, &o, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "neither a file nor a block device"));
	o.format = "qcow3";
	assert_int_equal(blk_open(&b, &o, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "raw"));
	/* No O_DIRECT there. */
	o = (struct blk_opts){
		.format = "raw", .path = "/proc/self/status", .loop = l, .readonly = true
	};
	assert_int_equal(blk_open(&b, &o, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "try: cache=writeback"));
	loop_free(l);
}

static int calls_left, calls_made;

static bool call_fails(void)
{
	calls_made++;
	errno = EIO;
	return calls_left-- == 0;
}

static struct os_calls real_os;

static int flaky_open(const char *p, int flags, mode_t mode)
{
	return call_fails() ? -1 : real_os.open(p, flags, mode);
}

static int flaky_fstat(int fd, struct stat *st)
{
	return call_fails() ? -1 : real_os.fstat(fd, st);
}

static int flaky_statx(int dirfd, const char *p, int flags, unsigned mask, struct statx *stx)
{
	return call_fails() ? -1 : real_os.statx(dirfd, p, flags, mask, stx);
}

static int flaky_fcntl(int fd, int cmd, void *arg)
{
	return call_fails() ? -1 : real_os.fcntl(fd, cmd, arg);
}

static ssize_t flaky_pread(int fd, void *buf, size_t len, off_t off)
{
	return call_fails() ? -1 : real_os.pread(fd, buf, len, off);
}

static unsigned count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* Every system call of opening fails once; nothing leaks. */
static void test_open_faults(void **state)
{
	const struct combo *c = *state;
	struct loop *l = make_loop(c->kind);
	struct blk_opts o = { .format = "raw", .path = path, .cache = c->cache, .loop = l };
	struct blk *b;
	struct err e;
	int n = 0, failed = 0;

	make_file(65536);
	blk_close(open_disk(l, c->cache, false));
	unsigned fds = count_fds();
	real_os = os;
	os.open = flaky_open;
	os.fstat = flaky_fstat;
	os.statx = flaky_statx;
	os.fcntl = flaky_fcntl;
	os.pread = flaky_pread;
	do {
		calls_left = n++;
		calls_made = 0;
		if (blk_open(&b, &o, &e) == 0) {
			assert_int_equal(b->info.size_bytes, 65536);
			blk_close(b);
		} else {
			assert_int_equal(e.code, EIO);
			failed++;
		}
		assert_int_equal(count_fds(), fds);
	} while (calls_made >= n && n < 100);
	os = real_os;
	/* Two opens, two stats, five locks and five looks at least. */
	assert_true(failed >= 14);
	assert_true(n < 100);
	loop_free(l);
	unlink(path);
}

static void test_lock(void **state UNUSED)
{
	struct loop *l = make_loop(LOOP_EPOLL);
	struct err e;

	make_file(65536);
	struct blk *b = open_disk(l, BLK_CACHE_WRITEBACK, false);
	assert_int_equal(fails_to_open(l, false, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "used by another disk of this VM"));
	assert_int_equal(fails_to_open(l, true, &e), -EBUSY);
	blk_close(b);
	/* Readers get along; a writer does not join them. */
	b = open_disk(l, BLK_CACHE_WRITEBACK, true);
	assert_int_equal(fails_to_open(l, true, &e), 0);
	assert_int_equal(fails_to_open(l, false, &e), -EBUSY);
	blk_close(b);
	assert_int_equal(fails_to_open(l, false, &e), 0);
	loop_free(l);
	unlink(path);
}

/* The message names the process that has it, and its death frees it. */
static void test_lock_other_process(void **state UNUSED)
{
	struct loop *l = make_loop(LOOP_EPOLL);
	struct err e;
	char want[64];
	int p[2];
	char ok = 0;

	make_file(65536);
	assert_int_equal(pipe(p), 0);
	pid_t pid = fork();
	if (pid == 0) {
		struct blk *b = open_disk(l, BLK_CACHE_WRITEBACK, false);

		ok = b != NULL;
		if (write(p[1], &ok, 1) == 1)
			pause();
		_exit(1);
	}
	assert_int_equal(read(p[0], &ok, 1), 1);
	assert_int_equal(fails_to_open(l, false, &e), -EBUSY);
	snprintf(want, sizeof(want), "used by process %d (", pid);
	assert_non_null(strstr(e.msg, want));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_int_equal(fails_to_open(l, false, &e), 0);
	close(p[0]);
	close(p[1]);
	loop_free(l);
	unlink(path);
}

/* Block devices, by way of a loop device. */

static bool attach(unsigned sector, char *ret_dev, size_t size, int *ret_fd)
{
	int ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int nr = ctl < 0 ? -1 : ioctl(ctl, LOOP_CTL_GET_FREE);

	if (ctl >= 0)
		close(ctl);
	snprintf(ret_dev, size, "/dev/loop%d", nr);
	*ret_fd = nr < 0 ? -1 : open(ret_dev, O_RDWR | O_CLOEXEC);
	if (*ret_fd < 0)
		return false;
	int file = open(path, O_RDWR | O_CLOEXEC);
	struct loop_config cfg = { .fd = (uint32_t)file,
				   .block_size = sector,
				   /* Gone with its last descriptor, also when a test fails. */
				   .info.lo_flags = LO_FLAGS_AUTOCLEAR };
	int rc = ioctl(*ret_fd, LOOP_CONFIGURE, &cfg);
	close(file);
	if (rc < 0)
		close(*ret_fd);
	return rc == 0;
}

static void test_block_device(void **state)
{
	const struct combo *c = *state;
	unsigned sector = c->dio_align;
	static uint8_t buf[16384] __attribute__((aligned(4096))), back[16384 + 1];
	char dev[32];
	int fd;

	make_file((1 << 20) + 512);
	char *file = strdup(path);
	if (!attach(sector, dev, sizeof(dev), &fd)) {
		unlink(path);
		free(file);
		T_SKIP("cannot set up a loop device: %s", strerror(errno));
	}
	struct loop *l = make_loop(c->kind);
	snprintf(path, sizeof(path), "%s", dev);
	struct blk *b = open_disk(l, c->cache, false);
	assert_int_equal(b->info.block_size, sector);
	assert_int_equal(b->info.size_bytes, (1 << 20) + (sector == 512 ? 512 : 0));
	memset(buf, 0x77, sizeof(buf));
	assert_int_equal(req_run(b, BLK_WRITE, buf, 4096, sizeof(buf), BLK_REQ_FUA), 0);
	assert_int_equal(req_run(b, BLK_WRITE_ZEROES, NULL, 8192, 4096, 0), 0);
	assert_int_equal(req_run(b, BLK_READ, back + 1, 4096, sizeof(buf), 0), 0);
	memset(buf + 4096, 0, 4096);
	assert_memory_equal(back + 1, buf, sizeof(buf));
	assert_int_equal(req_run(b, BLK_DISCARD, NULL, 4096, 4096, 0), 0);
	struct err e;
	assert_int_equal(blk_refresh(b, &e), 0);
	if (sector == 4096)
		assert_int_equal(req_run(b, BLK_READ, buf, 512, 512, 0), -EINVAL);
	/* In exclusive use: nobody mounts it meanwhile, nor two of us. */
	assert_int_equal(open(dev, O_RDONLY | O_EXCL), -1);
	blk_close(b);
	loop_free(l);
	close(fd);
	unlink(file);
	free(file);
}

static struct combo combos[] = {
	{ LOOP_URING, BLK_CACHE_WRITEBACK, 0, 0 },
	{ LOOP_URING, BLK_CACHE_NONE, 0, 0 },
	{ LOOP_EPOLL, BLK_CACHE_WRITEBACK, 0, 0 },
	{ LOOP_EPOLL, BLK_CACHE_NONE, 0, 0 },
	{ LOOP_URING, BLK_CACHE_WRITEBACK, FAULT_SHORT, 0 },
	{ LOOP_URING, BLK_CACHE_NONE, FAULT_SHORT, 0 },
	{ LOOP_URING, BLK_CACHE_WRITEBACK, FAULT_SHORT | FAULT_NO_FALLOCATE, 0 },
	{ LOOP_EPOLL, BLK_CACHE_NONE, FAULT_SHORT | FAULT_NO_FALLOCATE, 0 },
	/* As on a disk with 4 KiB sectors. */
	{ LOOP_URING, BLK_CACHE_NONE, 0, 4096 },
	{ LOOP_EPOLL, BLK_CACHE_NONE, FAULT_SHORT | FAULT_NO_FALLOCATE, 4096 },
	{ LOOP_URING, BLK_CACHE_NONE, 0, 512 },
};

#define WITH(fn, i)                                    \
	{                                              \
#fn ":" #i, fn, NULL, NULL, &combos[i] \
	}
#define BOTH_CACHES(fn) WITH(fn, 0), WITH(fn, 1)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH(test_property, 0),
		WITH(test_property, 1),
		WITH(test_property, 2),
		WITH(test_property, 3),
		WITH(test_property, 4),
		WITH(test_property, 5),
		WITH(test_property, 6),
		WITH(test_property, 7),
		WITH(test_property, 8),
		WITH(test_property, 9),
		BOTH_CACHES(test_nth_io_fails),
		BOTH_CACHES(test_flush_fails),
		BOTH_CACHES(test_fua),
		BOTH_CACHES(test_no_progress),
		BOTH_CACHES(test_write_zeroes_fallback),
		BOTH_CACHES(test_holes),
		BOTH_CACHES(test_refused),
		BOTH_CACHES(test_partial_block),
		BOTH_CACHES(test_stats),
		BOTH_CACHES(test_open_faults),
		cmocka_unit_test(test_open_errors),
		cmocka_unit_test(test_lock),
		cmocka_unit_test(test_lock_other_process),
		WITH(test_block_device, 8),
		WITH(test_block_device, 10),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
