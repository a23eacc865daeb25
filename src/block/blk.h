/*
 * Disks: the contract between what uses one (virtio-blk) and what it is (a driver).
 *
 * Only blk.c calls the driver table; everyone else uses blk_*(), which check ranges, count what is
 * in flight and trace.  A disk belongs to one loop: all requests are made and completed on its
 * thread.  Every request ends in exactly one call of its done(), never inside blk_submit().
 */
#pragma once

#include "base/err.h"
#include "loop/loop.h"

struct blk;
struct blk_req;

enum blk_op {
	BLK_READ,
	BLK_WRITE,
	BLK_FLUSH,
	/* The bytes may become anything or zero; saves space. */
	BLK_DISCARD,
	BLK_WRITE_ZEROES,
};

enum {
	/* BLK_WRITE_ZEROES: space may be given back. */
	BLK_REQ_UNMAP = 1,
	/* BLK_WRITE: on stable storage before it completes. */
	BLK_REQ_FUA = 2,
};

enum {
	/* More pieces than this in one request: -EINVAL. */
	BLK_IOV_MAX = 1024,
};

/* Made by the user, from an array as large as its queue. */
struct blk_req {
	enum blk_op op;
	unsigned flags;
	/* Multiples of blk_info.block_size. */
	uint64_t off_bytes, len_bytes;
	/* READ, WRITE: pieces that sum to len_bytes; must stay until done.  The driver may change
	 * the entries (short transfers). */
	struct iovec *iov;
	unsigned niov;
	/* rc: 0 or -errno. */
	void (*done)(struct blk_req *r, int rc);
	/* The rest belongs to block/. */
	struct blk *blk;
	uint64_t seq;
	int rc;
	struct list node;
	/* The driver's. */
	struct loop_io io;
	uint64_t moved_bytes;
	unsigned iov_at, step, tries;
	/* Where O_DIRECT wants another alignment. */
	void *bounce;
	struct iovec bounce_iov;
};

enum blk_cache {
	/* O_DIRECT: past the host's page cache; the guest's flushes are fdatasync. */
	BLK_CACHE_NONE,
	/* The host's page cache; the guest's flushes are fdatasync. */
	BLK_CACHE_WRITEBACK,
};

struct blk_opts {
	/* Driver name: "raw". */
	const char *format;
	const char *path;
	bool readonly;
	enum blk_cache cache;
	/* Where requests are made. */
	struct loop *loop;
};

struct blk_info {
	uint64_t size_bytes;
	/* Smallest unit of a request, 512 or 4096. */
	uint32_t block_size;
	bool readonly;
	bool can_discard, can_write_zeroes;
};

struct blk_driver {
	const char *name;
	/* Of the driver's struct, which begins with struct blk. */
	size_t size;
	/* Required.  open may block (it runs before the loop does); close also gets a half-open b.
	 */
	int (*open)(struct blk *b, const struct blk_opts *o, struct err *e);
	void (*close)(struct blk *b);
	/* On the loop's thread; ranges are checked; ends in one blk_done(). */
	void (*submit)(struct blk *b, struct blk_req *r);
	/* Size changed outside?  [NULL: never] */
	int (*refresh)(struct blk *b, struct err *e);
};

struct blk {
	const struct blk_driver *drv;
	struct loop *loop;
	struct blk_info info;
	unsigned inflight;
	uint64_t seq;
	/* Requests that end without the driver, from a post. */
	struct list late;
	struct loop_post late_post;
	/* Completed requests; bytes only of those that succeeded. */
	struct {
		uint64_t reads, writes, flushes, discards, read_bytes, write_bytes, errors;
	} stats;
	/* For messages; cut when longer. */
	char path[256];
};

/* Every driver there is; NULL ends it. */
extern const struct blk_driver *const blk_drivers[];

/* Any thread, before the disk's loop sees it. */
NODISCARD int blk_open(struct blk **ret, const struct blk_opts *o, struct err *e);
/* Nothing may be in flight.  NULL is fine. */
void blk_close(struct blk *b);
/* A request that is out of range, misaligned, too long or not allowed ends with -EINVAL, -EROFS or
 * -EOPNOTSUPP. */
void blk_submit(struct blk *b, struct blk_req *r);
/* Runs the loop until nothing is in flight.  The caller submits nothing more meanwhile. */
void blk_drain(struct blk *b);
/* Look at the size again; b->info says what it is.  Nothing may be in flight. */
NODISCARD int blk_refresh(struct blk *b, struct err *e);

/* For drivers: the end of a request; blk_done_later() is for use inside .submit. */
void blk_done(struct blk_req *r, int rc);
void blk_done_later(struct blk_req *r, int rc);
