/*
 * virtio-blk (virtio 1.2, 5.2): a disk with one or more request queues.
 *
 * A request is a chain of a 16-byte header, data, and one status byte at the very end; where the
 * descriptors cut it is the driver's choice.  All queues are served on the loop of the disk.  The
 * request structs are one pool, as large as all rings together but not larger than REQS; a page of
 * it is touched only when so many requests are in flight at once.
 *
 * Errors.  By policy an error goes to the guest, or pauses the VM: the request is remembered by its
 * queue and head (struct stalled, saved with the device), no further requests are taken, and all of
 * them are tried again when the VM goes on, so a guest whose host's disk was full for a while never
 * notices.  A failed flush is never tried again: after a failed fdatasync() the kernel may have
 * dropped the dirty pages, and a second call that succeeds would acknowledge writes that are lost.
 * It pauses the VM, if that is the policy, and then goes to the guest as an error; so do the
 * write-through writes of a driver without VIRTIO_BLK_F_FLUSH.
 *
 * Left out: VIRTIO_BLK_F_CONFIG_WCE, secure erase, zoned devices, lifetime.
 */
#include "block/blk.h"
#include "dev/virtio/virtio_int.h"

#include "base/alloc.h"
#include "base/bug.h"
#include "base/bytes.h"
#include "base/num.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* 5.2.3 */
#define BLK_F_SEG_MAX (1ull << 2)
#define BLK_F_RO (1ull << 5)
#define BLK_F_BLK_SIZE (1ull << 6)
#define BLK_F_FLUSH (1ull << 9)
#define BLK_F_TOPOLOGY (1ull << 10)
#define BLK_F_MQ (1ull << 12)
#define BLK_F_DISCARD (1ull << 13)
#define BLK_F_WRITE_ZEROES (1ull << 14)

/* 5.2.6 */
enum {
	T_IN = 0,
	T_OUT = 1,
	T_FLUSH = 4,
	T_GET_ID = 8,
	T_DISCARD = 11,
	T_WRITE_ZEROES = 13,
	S_OK = 0,
	S_IOERR = 1,
	S_UNSUPP = 2,
	HDR_LEN = 16,
	ID_LEN = 20,
	/* struct virtio_blk_discard_write_zeroes */
	RANGE_LEN = 16,
	RANGE_UNMAP = 1,
};

/* struct virtio_blk_config (5.2.4) */
enum {
	CFG_CAPACITY = 0,
	CFG_SEG_MAX = 12,
	CFG_BLK_SIZE = 20,
	CFG_PHYS_EXP = 24,
	CFG_MIN_IO = 26,
	CFG_WRITEBACK = 32,
	CFG_QUEUES = 34,
	CFG_DISCARD_SECTORS = 36,
	CFG_DISCARD_SEG = 40,
	CFG_DISCARD_ALIGN = 44,
	CFG_WZ_SECTORS = 48,
	CFG_WZ_SEG = 52,
	CFG_WZ_UNMAP = 56,
	CFG_LEN = 60,
};

enum {
	SECTOR = 512,
	/* Buffers of one request, header and status included. */
	SEGS = 128,
	/* Requests in flight, at most. */
	REQS = 1024,
	RING = 256,
	/* Longest discard or write-zeroes: 1 GiB. */
	RANGE_SECTORS = 1 << 21,
};

struct vblk;

struct vblk_req {
	struct blk_req r;
	struct vblk *d;
	struct virtq *q;
	struct virtq_chain c;
	struct vblk_req *next;
	struct virtq_seg seg[SEGS];
	struct iovec iov[SEGS];
};

/* A request that waits for the VM to go on. */
struct stalled {
	uint16_t queue, head;
	/* The error is for the guest: not to be tried again. */
	uint8_t report;
};

struct vblk {
	struct virtio_dev v;
	struct blk *blk;
	char serial[ID_LEN];
	enum virtio_blk_on_error on_read_error, on_write_error;
	/* The pool: req[0..fresh) were used before and are in flight or on the list. */
	struct vblk_req *req, *free;
	unsigned nreq, fresh;
	/* A queue found the pool empty. */
	bool starved;
	/* Saved. */
	uint16_t nstalled;
	struct stalled stalled[REQS];
};

static struct vblk *vblk_of(struct virtio_dev *v)
{
	return container_of(v, struct vblk, v);
}

/* The pool. */

static struct vblk_req *vblk_get(struct vblk *d, struct virtq *q)
{
	struct vblk_req *r = d->free;

	if (r)
		d->free = r->next;
	else if (d->fresh < d->nreq)
		r = &d->req[d->fresh++];
	else
		return NULL;
	r->d = d;
	r->q = q;
	r->c = (struct virtq_chain){ .seg = r->seg, .cap = COUNT_OF(r->seg) };
	return r;
}

static void vblk_put(struct vblk_req *r)
{
	struct vblk *d = r->d;

	r->next = d->free;
	d->free = r;
	if (!d->starved)
		return;
	d->starved = false;
	for (unsigned i = 0; i < d->v.nq; i++)
		virtio_rekick(&d->v.vq[i]);
}

/* The end of a request. */

/* len: bytes of data that were written for the guest. */
static void vblk_complete(struct vblk_req *r, uint8_t status, uint32_t len)
{
	struct virtq *q = r->q;

	virtq_wrote(q, &r->c, 0, len);
	virtq_copy_in(q, &r->c, r->c.in_bytes - 1, &status, 1);
	/* used.len counts what we surely wrote: the status alone is not at the front (2.7.8.2). */
	virtq_push(q, r->c.head, r->c.in_bytes == len + 1ull ? len + 1 : len);
	virtio_interrupt_soon(q);
	vblk_put(r);
}

/* Will waiting help, and is it wanted? */
static bool vblk_pauses(const struct vblk_req *r, int rc)
{
	const struct vblk *d = r->d;
	enum virtio_blk_on_error policy =
		r->r.op == BLK_READ ? d->on_read_error : d->on_write_error;

	if (rc == -EINVAL || rc == -EOPNOTSUPP)
		return false;
	return policy == VIRTIO_BLK_STOP || (policy == VIRTIO_BLK_ENOSPC && rc == -ENOSPC);
}

static void vblk_stall(struct vblk_req *r, int rc)
{
	unsigned what =
		(r->r.op == BLK_READ ? 0 : BOARD_IO_WRITE) | (rc == -ENOSPC ? BOARD_IO_NOSPACE : 0);
	struct vblk *d = r->d;

	BUG_ON(d->nstalled >= REQS);
	d->stalled[d->nstalled++] = (struct stalled){
		.queue = r->q->index,
		.head = r->c.head,
		.report = r->r.op == BLK_FLUSH || (r->r.flags & BLK_REQ_FUA),
	};
	vblk_put(r);
	d->v.board->request(d->v.board, BOARD_IO_ERROR, (d->v.dev.instance & BOARD_IO_DISK) | what);
}

static void vblk_done(struct blk_req *br, int rc)
{
	struct vblk_req *r = container_of(br, struct vblk_req, r);
	struct virtio_dev *v = &r->d->v;
	bool read = br->op == BLK_READ;

	if (rc < 0 && vblk_pauses(r, rc)) {
		log_guest(&v->limit, v->dev.name, "%s at %#lx: %s; the VM is paused",
			  read ? "read" : "write", (unsigned long)br->off_bytes, strerror(-rc));
		vblk_stall(r, rc);
	} else {
		uint8_t status = rc == 0 ? S_OK : rc == -EOPNOTSUPP ? S_UNSUPP : S_IOERR;

		vblk_complete(r, status, read && rc == 0 ? (uint32_t)br->len_bytes : 0);
	}
	virtio_idle(v);
}

/* The begin of a request. */

static void vblk_submit(struct vblk_req *r, enum blk_op op, uint64_t sector, uint64_t len,
			unsigned flags)
{
	struct vblk *d = r->d;
	const struct blk_info *info = &d->blk->info;
	uint64_t off;

	r->r.op = op;
	if (!mul_ok(sector, (uint64_t)SECTOR, &off) || !range_in(off, len, info->size_bytes) ||
	    (off | len) % info->block_size || (op != BLK_READ && info->readonly)) {
		vblk_complete(r, S_IOERR, 0);
		return;
	}
	if (!len && op != BLK_FLUSH) {
		vblk_complete(r, S_OK, 0);
		return;
	}
	bool data = op == BLK_READ || op == BLK_WRITE, in = op == BLK_READ;
	r->r.flags = flags;
	r->r.off_bytes = off;
	r->r.len_bytes = len;
	r->r.iov = r->iov;
	r->r.niov = data ? virtq_iov(&r->c, in, in ? 0 : HDR_LEN, len, r->iov, SEGS) : 0;
	r->r.done = vblk_done;
	virtio_busy(&d->v);
	blk_submit(d->blk, &r->r);
}

static void vblk_read(struct vblk_req *r, uint64_t sector)
{
	vblk_submit(r, BLK_READ, sector, r->c.in_bytes - 1, 0);
}

static void vblk_write(struct vblk_req *r, uint64_t sector)
{
	/* 5.2.5.2: without FLUSH a completed write is on stable storage. */
	bool fua = !virtio_has(&r->d->v, BLK_F_FLUSH);

	vblk_submit(r, BLK_WRITE, sector, r->c.out_bytes - HDR_LEN, fua ? BLK_REQ_FUA : 0);
}

static void vblk_flush(struct vblk_req *r)
{
	/* A disk that nobody writes is always flushed. */
	if (r->d->blk->info.readonly)
		vblk_complete(r, S_OK, 0);
	else
		vblk_submit(r, BLK_FLUSH, 0, 0, 0);
}

/* Discard and write-zeroes: one range of sectors as data. */
static void vblk_range(struct vblk_req *r, enum blk_op op)
{
	const struct blk_info *info = &r->d->blk->info;
	uint8_t b[RANGE_LEN];

	if (op == BLK_DISCARD ? !info->can_discard : !info->can_write_zeroes) {
		vblk_complete(r, S_UNSUPP, 0);
		return;
	}
	if (r->c.out_bytes != HDR_LEN + RANGE_LEN) {
		vblk_complete(r, S_IOERR, 0);
		return;
	}
	virtq_copy_out(&r->c, HDR_LEN, b, sizeof(b));
	uint32_t sectors = ld_le32(b + 8), flags = ld_le32(b + 12);
	/* 5.2.6.2: unknown flags, and unmap in a discard. */
	if (flags & ~(uint32_t)(op == BLK_DISCARD ? 0 : RANGE_UNMAP))
		vblk_complete(r, S_UNSUPP, 0);
	else if (sectors > RANGE_SECTORS)
		vblk_complete(r, S_IOERR, 0);
	else
		vblk_submit(r, op, ld_le64(b), (uint64_t)sectors * SECTOR,
			    flags & RANGE_UNMAP ? BLK_REQ_UNMAP : 0);
}

static void vblk_get_id(struct vblk_req *r)
{
	size_t n = MIN(r->c.in_bytes - 1, (uint64_t)ID_LEN);

	virtq_copy_in(r->q, &r->c, 0, r->d->serial, n);
	vblk_complete(r, S_OK, (uint32_t)n);
}

static void vblk_handle(struct vblk_req *r)
{
	uint8_t hdr[HDR_LEN];

	if (r->c.out_bytes < HDR_LEN || !r->c.in_bytes) {
		virtq_fail(r->q, "request without a header or a status byte");
		vblk_put(r);
		return;
	}
	virtq_copy_out(&r->c, 0, hdr, sizeof(hdr));
	uint64_t sector = ld_le64(hdr + 8);
	switch (ld_le32(hdr)) {
	case T_IN:
		vblk_read(r, sector);
		break;
	case T_OUT:
		vblk_write(r, sector);
		break;
	case T_FLUSH:
		vblk_flush(r);
		break;
	case T_GET_ID:
		vblk_get_id(r);
		break;
	case T_DISCARD:
		vblk_range(r, BLK_DISCARD);
		break;
	case T_WRITE_ZEROES:
		vblk_range(r, BLK_WRITE_ZEROES);
		break;
	default:
		vblk_complete(r, S_UNSUPP, 0);
	}
}

static void vblk_kick(struct virtio_dev *v, struct virtq *q)
{
	struct vblk *d = vblk_of(v);

	virtq_notify_off(q);
	/* A ring's worth, then the other devices of this loop have their turn. */
	for (unsigned n = 0; n < q->size; n++) {
		/* What is stalled comes first when the VM goes on. */
		if (d->nstalled)
			return;
		struct vblk_req *r = vblk_get(d, q);
		if (!r) {
			d->starved = true;
			return;
		}
		if (virtq_pop(q, &r->c) <= 0) {
			vblk_put(r);
			break;
		}
		vblk_handle(r);
	}
	if (virtq_notify_on(q, 0))
		virtio_rekick(q);
}

/* Life. */

/* What was stalled, again; the queues are kicked after this. */
static void vblk_start(struct virtio_dev *v)
{
	struct vblk *d = vblk_of(v);
	unsigned n = d->nstalled;

	/* Nothing completes before this returns, so nothing is added to the list. */
	for (unsigned i = 0; i < n; i++) {
		const struct stalled *s = &d->stalled[i];
		struct virtq *q = &v->vq[s->queue];
		struct vblk_req *r = vblk_get(d, q);

		BUG_ON(!r);
		if (virtq_retake(q, s->head, &r->c) < 0) {
			vblk_put(r);
			virtio_look(q);
		} else if (s->report && r->c.in_bytes) {
			vblk_complete(r, S_IOERR, 0);
		} else {
			vblk_handle(r);
			virtio_look(q);
		}
	}
	d->nstalled = 0;
}

static void vblk_reset(struct virtio_dev *v)
{
	struct vblk *d = vblk_of(v);

	d->nstalled = 0;
	d->starved = false;
}

static uint64_t vblk_features(struct virtio_dev *v)
{
	const struct vblk *d = vblk_of(v);
	const struct blk_info *info = &d->blk->info;
	uint64_t f = BLK_F_SEG_MAX | BLK_F_BLK_SIZE | BLK_F_FLUSH | BLK_F_TOPOLOGY;

	if (v->nq > 1)
		f |= BLK_F_MQ;
	if (info->readonly)
		return f | BLK_F_RO;
	if (info->can_discard)
		f |= BLK_F_DISCARD;
	if (info->can_write_zeroes)
		f |= BLK_F_WRITE_ZEROES;
	return f;
}

static void vblk_config_get(struct virtio_dev *v, size_t off, void *p, size_t n)
{
	const struct vblk *d = vblk_of(v);
	const struct blk_info *info = &d->blk->info;
	uint32_t bs = info->block_size;
	uint8_t c[CFG_LEN] = { 0 };

	st_le64(c + CFG_CAPACITY, info->size_bytes / SECTOR);
	st_le32(c + CFG_SEG_MAX, MIN((uint32_t)SEGS, (uint32_t)v->vq[0].max) - 2);
	st_le32(c + CFG_BLK_SIZE, bs);
	/* Most hosts work in pages of 4 KiB: aligned requests cost least. */
	c[CFG_PHYS_EXP] = bs >= 4096 ? 0 : (uint8_t)__builtin_ctz(4096 / bs);
	st_le16(c + CFG_MIN_IO, (uint16_t)(MAX(4096u, bs) / bs));
	c[CFG_WRITEBACK] = 1;
	st_le16(c + CFG_QUEUES, (uint16_t)v->nq);
	st_le32(c + CFG_DISCARD_SECTORS, RANGE_SECTORS);
	st_le32(c + CFG_DISCARD_SEG, 1);
	st_le32(c + CFG_DISCARD_ALIGN, bs / SECTOR);
	st_le32(c + CFG_WZ_SECTORS, RANGE_SECTORS);
	st_le32(c + CFG_WZ_SEG, 1);
	c[CFG_WZ_UNMAP] = 1;
	memcpy(p, c + off, n);
}

static void vblk_free(struct virtio_dev *v)
{
	struct vblk *d = vblk_of(v);

	free(d->req);
	free(d);
}

static const struct virtio_type vblk_type = {
	.name = "virtio-blk",
	.id = VIRTIO_ID_BLK,
	.pci_class = 0x010000,
	.config_len = CFG_LEN,
	.features = vblk_features,
	.config_get = vblk_config_get,
	.start = vblk_start,
	.kick = vblk_kick,
	.reset = vblk_reset,
	.free = vblk_free,
};

/* Saved state. */

static int vblk_check(const void *obj, struct err *e)
{
	const struct vblk *d = obj;

	if (d->nstalled > d->nreq)
		return err_set(e, EPROTO, "%u requests wait, at most %u can", d->nstalled, d->nreq);
	for (unsigned i = 0; i < d->nstalled; i++)
		if (d->stalled[i].queue >= d->v.nq || d->stalled[i].report > 1)
			return err_set(e, EPROTO, "a request waits in queue %u",
				       d->stalled[i].queue);
	return virtio_check(&d->v, e);
}

static const struct state_field stalled_fields[] = {
	STATE_FIELD(struct stalled, queue, 1),
	STATE_FIELD(struct stalled, head, 1),
	STATE_FIELD(struct stalled, report, 1),
};

static const struct state_desc stalled_state = {
	.name = "stalled",
	.version = 1,
	.oldest = 1,
	.field = stalled_fields,
	.nfield = COUNT_OF(stalled_fields),
};

static const struct state_field vblk_fields[] = {
	STATE_STRUCT_FIELD(struct vblk, v, &virtio_state, 1),
	STATE_FIELD(struct vblk, nstalled, 1),
	STATE_STRUCT_ARRAY(struct vblk, stalled, &stalled_state, 1),
};

static const struct state_desc vblk_state = {
	.name = "virtio-blk",
	.version = 1,
	.oldest = 1,
	.field = vblk_fields,
	.nfield = COUNT_OF(vblk_fields),
	.check = vblk_check,
};

static const struct dev_ops vblk_ops = {
	.type = "virtio-blk",
	.free = virtio_dev_free,
	.reset = virtio_dev_reset,
	.state = &vblk_state,
	.state_obj = virtio_dev_state_obj,
	.state_size = sizeof(struct vblk),
	.post_load = virtio_dev_post_load,
	.stop = virtio_dev_stop,
	.start = virtio_dev_start,
};

static int vblk_set_up(struct vblk *d, const struct virtio_blk_opts *o, unsigned queues,
		       unsigned size, struct err *e)
{
	if (queues > VIRTIO_QUEUES || !is_pow2(size) || size < 4 || size > VIRTIO_RING_MAX)
		return err_set(e, EINVAL, "%s: %u queues of %u requests", o->name, queues, size);
	if (o->serial && strlen(o->serial) > ID_LEN)
		return err_set(e, EINVAL, "%s: serial '%s' has more than %d characters", o->name,
			       o->serial, ID_LEN);
	if (o->serial)
		memcpy(d->serial, o->serial, strlen(o->serial));
	d->nreq = MIN(queues * size, (unsigned)REQS);
	d->req = xcalloc(d->nreq, sizeof(*d->req));
	if (!d->req)
		return err_set(e, ENOMEM, "%s: no memory for requests", o->name);
	for (unsigned i = 0; i < queues; i++) {
		int rc = virtio_add_queue(&d->v, i, size, e);

		if (rc < 0)
			return rc;
	}
	return 0;
}

int virtio_blk_new(struct virtio_dev **ret, struct board *b, const struct virtio_blk_opts *o,
		   struct err *e)
{
	struct vblk *d = NEW(struct vblk);

	if (!d)
		return err_set(e, ENOMEM, "no memory for '%s'", o->name);
	d->blk = o->blk;
	d->on_read_error = o->on_read_error;
	d->on_write_error = o->on_write_error;
	int rc = virtio_init(&d->v, &vblk_type, &vblk_ops, b, o->blk->loop, o->name, e);
	if (rc == 0)
		rc = vblk_set_up(d, o, o->queues ? o->queues : 1,
				 o->queue_size ? o->queue_size : RING, e);
	if (rc < 0) {
		dev_free(&d->v.dev);
		return rc;
	}
	*ret = &d->v;
	return 0;
}
