/*
 * The door to every disk: requests are checked here, counted and traced, and only then given to the
 * driver.  Whatever a guest asks for, a driver sees whole blocks inside the disk.
 */
#include "block/blk_int.h"

#include "base/alloc.h"
#include "base/bug.h"
#include "base/num.h"
#include "base/str.h"
#include "base/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void blk_late(struct loop_post *p)
{
	struct blk *b = container_of(p, struct blk, late_post);
	struct list now;

	/* Those that come meanwhile have their own turn: done() may submit again. */
	list_init(&now);
	while (!list_empty(&b->late)) {
		struct list *n = b->late.next;

		list_del(n);
		list_add_tail(&now, n);
	}
	while (!list_empty(&now)) {
		struct blk_req *r = list_first(&now, struct blk_req, node);

		list_del(&r->node);
		blk_done(r, r->rc);
	}
}

static const struct blk_driver *blk_find(const char *format, struct err *e)
{
	char names[128] = "";

	for (const struct blk_driver *const *d = blk_drivers; *d; d++) {
		size_t len = strlen(names);

		if (!strcmp((*d)->name, format))
			return *d;
		snprintf(names + len, sizeof(names) - len, "%s%s", len ? ", " : "", (*d)->name);
	}
	err_set(e, EINVAL, "no disk format '%s' (there is: %s)", format, names);
	return NULL;
}

int blk_open(struct blk **ret, const struct blk_opts *o, struct err *e)
{
	const struct blk_driver *drv = blk_find(o->format, e);

	if (!drv)
		return -e->code;
	struct blk *b = xzalloc(drv->size);
	if (!b)
		return err_set(e, ENOMEM, "no memory for disk '%s'", o->path);
	b->drv = drv;
	b->loop = o->loop;
	b->late_post.fn = blk_late;
	list_init(&b->late);
	str_copy(b->path, sizeof(b->path), o->path);
	int rc = drv->open(b, o, e);
	if (rc < 0) {
		drv->close(b);
		free(b);
		return err_in(e, "disk '%s'", o->path);
	}
	BUG_ON(!is_pow2(b->info.block_size) || b->info.size_bytes % b->info.block_size);
	*ret = b;
	return 0;
}

void blk_close(struct blk *b)
{
	if (!b)
		return;
	BUG_ON(b->inflight);
	loop_post_cancel(b->loop, &b->late_post);
	b->drv->close(b);
	free(b);
}

/* The pieces must sum to the length. */
static bool blk_iov_ok(const struct blk_req *r)
{
	uint64_t sum = 0;

	if (r->niov > BLK_IOV_MAX)
		return false;
	for (unsigned i = 0; i < r->niov; i++)
		if (!add_ok(sum, r->iov[i].iov_len, &sum))
			return false;
	return sum == r->len_bytes;
}

/* 0: give it to the driver; 1: nothing to do. */
static int blk_check(const struct blk *b, const struct blk_req *r)
{
	uint64_t mask = b->info.block_size - 1;

	if (r->op == BLK_FLUSH)
		return 0;
	if (r->op > BLK_WRITE_ZEROES || ((r->off_bytes | r->len_bytes) & mask) ||
	    !range_in(r->off_bytes, r->len_bytes, b->info.size_bytes))
		return -EINVAL;
	if (r->op != BLK_READ && b->info.readonly)
		return -EROFS;
	if ((r->op == BLK_READ || r->op == BLK_WRITE) && !blk_iov_ok(r))
		return -EINVAL;
	if ((r->op == BLK_DISCARD && !b->info.can_discard) ||
	    (r->op == BLK_WRITE_ZEROES && !b->info.can_write_zeroes))
		return -EOPNOTSUPP;
	return r->len_bytes ? 0 : 1;
}

void blk_submit(struct blk *b, struct blk_req *r)
{
	BUG_ON(r->blk || !r->done);
	r->blk = b;
	r->seq = ++b->seq;
	b->inflight++;
	TRACE(blk_submit, "%s #%" PRIu64 " op=%d off=%" PRIu64 " len=%" PRIu64, b->path, r->seq,
	      r->op, r->off_bytes, r->len_bytes);
	int rc = blk_check(b, r);
	if (rc)
		blk_done_later(r, rc < 0 ? rc : 0);
	else
		b->drv->submit(b, r);
}

static void blk_count(struct blk *b, const struct blk_req *r, int rc)
{
	b->stats.errors += rc < 0;
	switch (r->op) {
	case BLK_READ:
		b->stats.reads++;
		b->stats.read_bytes += rc < 0 ? 0 : r->len_bytes;
		break;
	case BLK_WRITE:
		b->stats.writes++;
		b->stats.write_bytes += rc < 0 ? 0 : r->len_bytes;
		break;
	case BLK_FLUSH:
		b->stats.flushes++;
		break;
	case BLK_DISCARD:
	case BLK_WRITE_ZEROES:
		b->stats.discards++;
		break;
	}
}

void blk_done(struct blk_req *r, int rc)
{
	struct blk *b = r->blk;

	BUG_ON(!b || !b->inflight);
	TRACE(blk_done, "%s #%" PRIu64 " rc=%d", b->path, r->seq, rc);
	blk_count(b, r, rc);
	b->inflight--;
	r->blk = NULL;
	r->done(r, rc);
}

void blk_done_later(struct blk_req *r, int rc)
{
	struct blk *b = r->blk;

	r->rc = rc;
	list_add_tail(&b->late, &r->node);
	loop_post(b->loop, &b->late_post);
}

void blk_drain(struct blk *b)
{
	while (b->inflight)
		loop_run_once(b->loop, -1);
}

int blk_refresh(struct blk *b, struct err *e)
{
	BUG_ON(b->inflight);
	if (!b->drv->refresh)
		return 0;
	int rc = b->drv->refresh(b, e);
	return rc < 0 ? err_in(e, "disk '%s'", b->path) : 0;
}
