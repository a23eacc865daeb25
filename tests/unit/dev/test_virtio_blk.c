/* virtio-blk in front of a disk in memory that can be slow, full or broken. */
#include "base/bytes.h"
#include "block/blk.h"
#include "dev/virtio/virtio.h"
#include "lib/dev_rig.h"
#include "lib/t.h"

#include <errno.h>
#include <string.h>

enum {
	SECTORS = 2048,
	HELD = 4096,
	HDR = 0x10000,
	DATA = 0x20000,
	STATUS = 0x11000,
	T_IN = 0,
	T_OUT = 1,
	T_FLUSH = 4,
	T_GET_ID = 8,
	T_DISCARD = 11,
	T_WRITE_ZEROES = 13,
	S_OK = 0,
	S_IOERR = 1,
	S_UNSUPP = 2,
};

#define F_RO (1ull << 5)
#define F_FLUSH (1ull << 9)
#define F_MQ (1ull << 12)
#define F_DISCARD (1ull << 13)
#define F_WRITE_ZEROES (1ull << 14)

/* A disk in memory; requests end in the loop's next round, or when let go. */
struct mem_disk {
	struct blk b;
	uint8_t data[SECTORS * 512];
	/* Answer of the next operations; hold: keep them until mem_go(). */
	int rc, fail_op;
	bool hold;
	struct blk_req *held[HELD];
	unsigned nheld, ops[5], fua, unmap;
	struct loop_post post;
};

static void mem_do(struct mem_disk *d, struct blk_req *r)
{
	uint8_t *p = d->data + r->off_bytes;

	for (unsigned i = 0; i < r->niov; i++) {
		if (r->op == BLK_READ)
			memcpy(r->iov[i].iov_base, p, r->iov[i].iov_len);
		else
			memcpy(p, r->iov[i].iov_base, r->iov[i].iov_len);
		p += r->iov[i].iov_len;
		/* Drivers may do this. */
		r->iov[i].iov_len = 0;
	}
	if (r->op == BLK_WRITE_ZEROES || r->op == BLK_DISCARD)
		memset(p, 0, r->len_bytes);
}

static void mem_go(struct mem_disk *d)
{
	unsigned n = d->nheld;
	struct blk_req *r[HELD];

	memcpy(r, d->held, sizeof(r));
	d->nheld = 0;
	for (unsigned i = 0; i < n; i++) {
		bool fails = d->rc && (d->fail_op < 0 || d->fail_op == (int)r[i]->op);

		if (!fails)
			mem_do(d, r[i]);
		d->ops[r[i]->op]++;
		d->fua += r[i]->flags & BLK_REQ_FUA ? 1 : 0;
		d->unmap += r[i]->flags & BLK_REQ_UNMAP ? 1 : 0;
		blk_done(r[i], fails ? d->rc : 0);
	}
}

static void mem_post(struct loop_post *p)
{
	struct mem_disk *d = container_of(p, struct mem_disk, post);

	if (!d->hold)
		mem_go(d);
}

static void mem_submit(struct blk *b, struct blk_req *r)
{
	struct mem_disk *d = container_of(b, struct mem_disk, b);

	d->held[d->nheld++] = r;
	loop_post(b->loop, &d->post);
}

static const struct blk_driver mem_driver = { .name = "mem", .submit = mem_submit };

struct fix {
	struct rig *r;
	struct mem_disk disk;
	struct virtio_dev *v;
	struct vdrv d;
};

static struct fix *fix_new(const struct virtio_blk_opts *more)
{
	struct fix *f = calloc(1, sizeof(*f));
	struct err e = { 0 };

	f->r = rig_new();
	f->disk.b = (struct blk){
		.drv = &mem_driver,
		.loop = f->r->loop,
		.info = { .size_bytes = SECTORS * 512,
			  .block_size = 512,
			  .can_discard = true,
			  .can_write_zeroes = true },
	};
	f->disk.post.fn = mem_post;
	f->disk.fail_op = -1;
	struct virtio_blk_opts o = more ? *more : (struct virtio_blk_opts){ 0 };
	o.name = "disk0";
	o.blk = &f->disk.b;
	assert_int_equal(virtio_blk_new(&f->v, &f->r->board, &o, &e), 0);
	return f;
}

static void fix_start(struct fix *f, uint64_t features)
{
	vd_start(&f->d, f->r, rig_plug(f->r, f->v), features, f->v->nq);
}

static void fix_free(struct fix *f)
{
	rig_free(f->r);
	assert_int_equal(f->disk.b.inflight, 0);
	free(f);
}

/* Offers a request; n: bytes of data at DATA + at. */
static int ask(struct fix *f, unsigned queue, uint32_t type, uint64_t sector, uint32_t n,
	       uint32_t at)
{
	uint8_t *h = rig_ram(f->r, HDR + 16 * (at >> 9));
	bool in = type == T_IN || type == T_GET_ID;
	const struct vbuf b[] = { { HDR + 16 * (at >> 9), 16, false },
				  { DATA + at, n, in },
				  { STATUS + (at >> 9), 1, true } };

	st_le32(h, type);
	st_le32(h + 4, 0);
	st_le64(h + 8, sector);
	*rig_ram(f->r, STATUS + (at >> 9)) = 0xee;
	struct vring *q = &f->d.q[queue];
	vring_set_used_event(q, q->used_idx);
	const struct vbuf none[] = { b[0], b[2] };
	int head = n ? vring_add(q, b, 3, false) : vring_add(q, none, 2, false);
	assert_true(head >= 0);
	return head;
}

/* One request from begin to end; its status, and used.len. */
static int req_len(struct fix *f, uint32_t type, uint64_t sector, uint32_t n, uint32_t *ret_len)
{
	uint16_t got;
	int head = ask(f, 0, type, sector, n, 0);

	vd_kick(&f->d, 0);
	rig_run(f->r);
	assert_true(vring_get(&f->d.q[0], &got, ret_len));
	assert_int_equal(got, head);
	return *rig_ram(f->r, STATUS);
}

static int req(struct fix *f, uint32_t type, uint64_t sector, uint32_t n)
{
	uint32_t len;

	return req_len(f, type, sector, n, &len);
}

static void test_read_write(void **state)
{
	struct fix *f = fix_new(NULL);
	uint32_t len;

	fix_start(f, F_FLUSH);
	memset(rig_ram(f->r, DATA), 0xa5, 1024);
	assert_int_equal(req_len(f, T_OUT, 7, 1024, &len), S_OK);
	assert_int_equal(len, 1);
	for (unsigned i = 0; i < SECTORS * 512; i++)
		assert_int_equal(f->disk.data[i], i / 512 == 7 || i / 512 == 8 ? 0xa5 : 0);
	memset(rig_ram(f->r, DATA), 0, 1024);
	assert_int_equal(req_len(f, T_IN, 8, 1024, &len), S_OK);
	assert_int_equal(len, 1025);
	assert_int_equal(*rig_ram(f->r, DATA + 511), 0xa5);
	assert_int_equal(*rig_ram(f->r, DATA + 512), 0);
	assert_int_equal(req(f, T_FLUSH, 0, 0), S_OK);
	assert_int_equal(f->disk.ops[BLK_FLUSH], 1);
	assert_int_equal(f->disk.fua, 0);
	assert_true(vd_irqs(&f->d, 0) >= 3);

	/* Beyond the end, in part and in whole, with a sum that wraps; a broken sector. */
	assert_int_equal(req(f, T_IN, SECTORS - 1, 1024), S_IOERR);
	assert_int_equal(req(f, T_OUT, SECTORS, 512), S_IOERR);
	assert_int_equal(req(f, T_OUT, UINT64_MAX, 512), S_IOERR);
	assert_int_equal(req(f, T_OUT, UINT64_MAX / 512, 512), S_IOERR);
	assert_int_equal(req(f, T_IN, 0, 100), S_IOERR);
	assert_int_equal(req(f, 99, 0, 512), S_UNSUPP);
	assert_int_equal(f->disk.ops[BLK_READ], 1);
	assert_int_equal(f->disk.ops[BLK_WRITE], 1);
	fix_free(f);
}

/* Header, data and status cut at every place: the device must not care. */
static void test_framing(void **state)
{
	struct fix *f = fix_new(NULL);
	uint64_t seed = 3;

	fix_start(f, VIRTIO_F_INDIRECT);
	for (int round = 0; round < 3000; round++) {
		struct vbuf b[40];
		unsigned n = 0;
		bool write = t_rnd(&seed) & 1;
		uint32_t out = write ? 16 + 512 : 16, in = write ? 1 : 513;
		uint8_t *p = rig_ram(f->r, HDR);

		st_le32(p, write ? T_OUT : T_IN);
		st_le32(p + 4, 0);
		st_le64(p + 8, 5);
		for (unsigned i = 0; i < 512; i++)
			p[16 + i] = (uint8_t)t_rnd(&seed);
		for (uint32_t at = 0; at < out; at += b[n++].len)
			b[n] = (struct vbuf){ HDR + at, 1 + (uint32_t)(t_rnd(&seed) % 200), false };
		b[n - 1].len = (uint32_t)(HDR + out - b[n - 1].gpa);
		unsigned first_in = n;
		for (uint32_t at = 0; at < in; at += b[n++].len)
			b[n] = (struct vbuf){ DATA + at, 1 + (uint32_t)(t_rnd(&seed) % 200), true };
		b[n - 1].len = (uint32_t)(DATA + in - b[n - 1].gpa);
		assert_true(first_in < n);
		assert_true(vring_add(&f->d.q[0], b, n, true) >= 0);
		vd_kick(&f->d, 0);
		rig_run(f->r);
		uint16_t head;
		uint32_t len;
		assert_true(vring_get(&f->d.q[0], &head, &len));
		assert_int_equal(*rig_ram(f->r, DATA + in - 1), S_OK);
		assert_memory_equal(f->disk.data + 5 * 512, write ? p + 16 : rig_ram(f->r, DATA),
				    512);
	}
	fix_free(f);
}

static void test_write_through(void **state)
{
	struct fix *f = fix_new(NULL);

	/* A driver without FLUSH has no cache to flush. */
	fix_start(f, 0);
	assert_int_equal(req(f, T_OUT, 0, 512), S_OK);
	assert_int_equal(f->disk.fua, 1);
	fix_free(f);
}

static void test_config(void **state)
{
	const struct virtio_blk_opts o = { .serial = "S3R1AL", .queues = 4, .queue_size = 16 };
	struct fix *f = fix_new(&o);

	f->disk.b.info.block_size = 4096;
	fix_start(f, F_MQ);
	assert_int_equal(vd_get(&f->d, VC_NUM_QUEUES, 2), 4);
	assert_int_equal(vd_cfg(&f->d, 0, 8), SECTORS);
	assert_int_equal(vd_cfg(&f->d, 12, 4), 14);
	assert_int_equal(vd_cfg(&f->d, 20, 4), 4096);
	assert_int_equal(vd_cfg(&f->d, 24, 1), 0);
	assert_int_equal(vd_cfg(&f->d, 34, 2), 4);
	/* Reads across the end of config space. */
	assert_int_equal(vd_cfg(&f->d, 60, 4), 0);
	assert_int_equal(vd_cfg(&f->d, 0xff8, 8), 0);
	assert_true(vd_offered(&f->d) & F_DISCARD);
	assert_int_equal(req(f, T_GET_ID, 0, 20), S_OK);
	assert_string_equal((char *)rig_ram(f->r, DATA), "S3R1AL");
	/* Requests of the disk's block size only. */
	assert_int_equal(req(f, T_IN, 0, 512), S_IOERR);
	assert_int_equal(req(f, T_IN, 8, 4096), S_OK);
	fix_free(f);
}

static void test_refused_opts(void **state)
{
	struct rig *r = rig_new();
	struct blk b = { .loop = r->loop };
	struct virtio_dev *v;
	struct err e = { 0 };
	struct virtio_blk_opts o = { .name = "d", .blk = &b, .queues = 33 };

	assert_int_equal(virtio_blk_new(&v, &r->board, &o, &e), -EINVAL);
	o.queues = 1;
	o.queue_size = 100;
	assert_int_equal(virtio_blk_new(&v, &r->board, &o, &e), -EINVAL);
	o.queue_size = 0;
	o.serial = "more than twenty chars";
	assert_int_equal(virtio_blk_new(&v, &r->board, &o, &e), -EINVAL);
	assert_true(list_entry(r->board.devs.prev, struct dev, node) == pci_host_dev(r->host));
	rig_free(r);
}

static void test_readonly(void **state)
{
	struct fix *f = fix_new(NULL);

	f->disk.b.info.readonly = true;
	fix_start(f, F_RO);
	assert_false(vd_offered(&f->d) & (F_DISCARD | F_WRITE_ZEROES));
	assert_int_equal(req(f, T_OUT, 0, 512), S_IOERR);
	assert_int_equal(req(f, T_IN, 0, 512), S_OK);
	assert_int_equal(req(f, T_FLUSH, 0, 0), S_OK);
	assert_int_equal(f->disk.ops[BLK_FLUSH] + f->disk.ops[BLK_WRITE], 0);
	fix_free(f);
}

static int range(struct fix *f, uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags,
		 uint32_t len)
{
	uint8_t *p = rig_ram(f->r, DATA);

	st_le64(p, sector);
	st_le32(p + 8, sectors);
	st_le32(p + 12, flags);
	return req(f, type, 0, len);
}

static void test_ranges(void **state)
{
	struct fix *f = fix_new(NULL);

	fix_start(f, F_DISCARD | F_WRITE_ZEROES);
	memset(f->disk.data, 0xff, sizeof(f->disk.data));
	assert_int_equal(range(f, T_WRITE_ZEROES, 2, 3, 1, 16), S_OK);
	assert_int_equal(f->disk.unmap, 1);
	assert_int_equal(range(f, T_DISCARD, 10, 1, 0, 16), S_OK);
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(f->disk.data[i * 512], (i >= 2 && i < 5) || i == 10 ? 0 : 0xff);
	assert_int_equal(range(f, T_DISCARD, 10, 1, 1, 16), S_UNSUPP);
	assert_int_equal(range(f, T_WRITE_ZEROES, 10, 1, 2, 16), S_UNSUPP);
	assert_int_equal(range(f, T_DISCARD, SECTORS, 1, 0, 16), S_IOERR);
	assert_int_equal(range(f, T_DISCARD, UINT64_MAX, 1, 0, 16), S_IOERR);
	assert_int_equal(range(f, T_DISCARD, 0, 0xffffffff, 0, 16), S_IOERR);
	assert_int_equal(range(f, T_DISCARD, 0, 1, 0, 32), S_IOERR);
	assert_int_equal(range(f, T_DISCARD, 0, 1, 0, 8), S_IOERR);
	assert_int_equal(f->disk.ops[BLK_DISCARD], 1);
	f->disk.b.info.can_discard = false;
	assert_int_equal(range(f, T_DISCARD, 0, 1, 0, 16), S_UNSUPP);
	fix_free(f);
}

/* Chains that cannot even be answered break the device. */
static void test_no_status(void **state)
{
	const struct vbuf short_hdr[] = { { HDR, 15, false }, { STATUS, 1, true } };
	const struct vbuf no_status[] = { { HDR, 16, false } };
	struct fix *f = fix_new(NULL);

	fix_start(f, 0);
	vring_add(&f->d.q[0], short_hdr, 2, false);
	vd_kick(&f->d, 0);
	rig_run(f->r);
	assert_true(vd_get(&f->d, VC_STATUS, 1) & VIRTIO_NEEDS_RESET);
	vd_start(&f->d, f->r, f->d.slot, 0, 1);
	vring_add(&f->d.q[0], no_status, 1, false);
	vd_kick(&f->d, 0);
	rig_run(f->r);
	assert_true(vd_get(&f->d, VC_STATUS, 1) & VIRTIO_NEEDS_RESET);
	vd_start(&f->d, f->r, f->d.slot, 0, 1);
	assert_int_equal(req(f, T_IN, 0, 512), S_OK);
	fix_free(f);
}

/* Many at once on several queues; the pool is as large as it must be. */
static void test_deep(void **state)
{
	const struct virtio_blk_opts o = { .queues = 2, .queue_size = 64 };
	struct fix *f = fix_new(&o);
	uint16_t head;
	uint32_t len;

	fix_start(f, F_MQ);
	f->disk.hold = true;
	for (unsigned q = 0; q < 2; q++) {
		for (unsigned i = 0; i < 21; i++)
			ask(f, q, T_OUT, i, 512, 512 * (i + 21 * q));
		vd_kick(&f->d, q);
	}
	rig_run(f->r);
	assert_int_equal(f->disk.nheld, 42);
	unsigned before = vd_irqs(&f->d, 0);
	mem_go(&f->disk);
	rig_run(f->r);
	for (unsigned q = 0; q < 2; q++)
		for (unsigned i = 0; i < 21; i++)
			assert_true(vring_get(&f->d.q[q], &head, &len));
	/* Completions that came together interrupt once. */
	assert_int_equal(vd_irqs(&f->d, 0), before + 1);
	fix_free(f);
}

/* More requests than the pool has: the rest wait in their rings, and their turn comes. */
static void test_pool(void **state)
{
	const struct virtio_blk_opts o = { .queues = 8, .queue_size = 256 };
	const struct vbuf b[] = { { HDR, 16, false }, { STATUS, 1, true } };
	struct fix *f = fix_new(&o);
	uint16_t head;
	uint32_t len;

	fix_start(f, F_MQ | F_FLUSH | VIRTIO_F_INDIRECT);
	st_le32(rig_ram(f->r, HDR), T_FLUSH);
	f->disk.hold = true;
	for (unsigned q = 0; q < 8; q++) {
		for (unsigned i = 0; i < 256; i++)
			assert_true(vring_add(&f->d.q[q], b, 2, true) >= 0);
		vd_kick(&f->d, q);
	}
	rig_run(f->r);
	assert_int_equal(f->disk.nheld, 1024);
	f->disk.hold = false;
	loop_post(f->r->loop, &f->disk.post);
	for (unsigned i = 0; i < 20; i++)
		rig_run(f->r);
	assert_int_equal(f->disk.ops[BLK_FLUSH], 2048);
	for (unsigned q = 0; q < 8; q++)
		for (unsigned i = 0; i < 256; i++)
			assert_true(vring_get(&f->d.q[q], &head, &len));
	fix_free(f);
}

/* A pause waits for what is in flight, and its completion reaches the guest. */
static void release(struct loop_post *p);

struct later {
	struct loop_post post;
	struct fix *f;
	int rounds;
};

static void release(struct loop_post *p)
{
	struct later *l = container_of(p, struct later, post);

	if (l->rounds-- > 0)
		loop_post(l->f->r->loop, &l->post);
	else
		mem_go(&l->f->disk);
}

static void test_pause_drains(void **state)
{
	struct fix *f = fix_new(NULL);
	struct later l = { .post.fn = release, .f = f, .rounds = 5 };
	uint16_t head;
	uint32_t len;

	fix_start(f, F_FLUSH);
	f->disk.hold = true;
	ask(f, 0, T_OUT, 3, 512, 0);
	vd_kick(&f->d, 0);
	rig_run(f->r);
	loop_post(f->r->loop, &l.post);
	board_stop(&f->r->board);
	assert_int_equal(f->disk.b.inflight, 0);
	assert_true(vring_get(&f->d.q[0], &head, &len));
	assert_int_equal(vd_irqs(&f->d, 0), 1);
	/* One that ends just before the pause: its interrupt is not lost either. */
	board_start(&f->r->board);
	rig_run(f->r);
	vring_set_used_event(&f->d.q[0], f->d.q[0].used_idx);
	ask(f, 0, T_OUT, 3, 512, 0);
	vd_kick(&f->d, 0);
	rig_run(f->r);
	loop_post(f->r->loop, &l.post);
	l.rounds = 0;
	board_stop(&f->r->board);
	assert_true(vring_get(&f->d.q[0], &head, &len));
	assert_int_equal(vd_irqs(&f->d, 0), 2);
	/* While paused nothing is taken. */
	f->disk.hold = false;
	ask(f, 0, T_OUT, 3, 512, 0);
	vd_kick(&f->d, 0);
	rig_run(f->r);
	assert_false(vring_get(&f->d.q[0], &head, &len));
	board_start(&f->r->board);
	rig_run(f->r);
	assert_true(vring_get(&f->d.q[0], &head, &len));
	fix_free(f);
}

/* A guest's reset with requests in flight ends when they do, and not before. */
static void test_reset_waits(void **state)
{
	struct fix *f = fix_new(NULL);

	fix_start(f, 0);
	f->disk.hold = true;
	ask(f, 0, T_IN, 3, 512, 0);
	vd_kick(&f->d, 0);
	rig_run(f->r);
	vd_set(&f->d, VC_STATUS, 1, 0);
	rig_run(f->r);
	assert_int_not_equal(vd_get(&f->d, VC_STATUS, 1), 0);
	/* Nobody to talk to meanwhile. */
	vd_set(&f->d, VC_STATUS, 1, VIRTIO_ACKNOWLEDGE);
	vd_set(&f->d, VC_QUEUE_DESC, 8, 0x123000);
	mem_go(&f->disk);
	rig_run(f->r);
	assert_int_equal(vd_get(&f->d, VC_STATUS, 1), 0);
	assert_int_equal(vd_get(&f->d, VC_QUEUE_DESC, 8), 0);
	f->disk.hold = false;
	vd_start(&f->d, f->r, f->d.slot, 0, 1);
	assert_int_equal(req(f, T_IN, 0, 512), S_OK);
	fix_free(f);
}

/* Error policy. */

static void test_report(void **state)
{
	const struct virtio_blk_opts o = { .on_read_error = VIRTIO_BLK_REPORT,
					   .on_write_error = VIRTIO_BLK_REPORT };
	struct fix *f = fix_new(&o);

	fix_start(f, F_FLUSH);
	f->disk.rc = -ENOSPC;
	assert_int_equal(req(f, T_OUT, 0, 512), S_IOERR);
	f->disk.rc = -EOPNOTSUPP;
	assert_int_equal(range(f, T_DISCARD, 0, 1, 0, 16), S_UNSUPP);
	f->disk.rc = -EIO;
	assert_int_equal(req(f, T_IN, 0, 512), S_IOERR);
	assert_int_equal(req(f, T_FLUSH, 0, 0), S_IOERR);
	assert_int_equal(f->r->requests[BOARD_IO_ERROR], 0);
	fix_free(f);
}

static bool no_answer(struct fix *f)
{
	uint16_t head;
	uint32_t len;

	return !vring_get(&f->d.q[0], &head, &len);
}

/* The disk fills up, the VM pauses, someone makes room, the VM goes on: the guest saw nothing. */
static void test_enospc(void **state)
{
	struct fix *f = fix_new(NULL);
	uint16_t head;
	uint32_t len;

	fix_start(f, F_FLUSH);
	f->disk.rc = -ENOSPC;
	memset(rig_ram(f->r, DATA), 0x77, 4096);
	for (unsigned i = 0; i < 4; i++)
		ask(f, 0, T_OUT, 10 + i, 512, 512 * i);
	vd_kick(&f->d, 0);
	rig_run(f->r);
	assert_int_equal(f->r->requests[BOARD_IO_ERROR], 4);
	assert_true(no_answer(f));
	/* Nothing new is taken before the VM is paused. */
	ask(f, 0, T_OUT, 20, 512, 2048);
	vd_kick(&f->d, 0);
	rig_run(f->r);
	assert_int_equal(f->disk.ops[BLK_WRITE], 4);
	board_stop(&f->r->board);

	/* Still full: it pauses again, now with the fifth, and nothing is lost. */
	board_start(&f->r->board);
	rig_run(f->r);
	assert_int_equal(f->r->requests[BOARD_IO_ERROR], 9);
	assert_true(no_answer(f));
	board_stop(&f->r->board);

	f->disk.rc = 0;
	board_start(&f->r->board);
	rig_run(f->r);
	for (unsigned i = 0; i < 5; i++)
		assert_true(vring_get(&f->d.q[0], &head, &len));
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(*rig_ram(f->r, STATUS + i), S_OK);
		assert_int_equal(f->disk.data[(10 + i) * 512], 0x77);
	}
	/* This policy reports other errors. */
	f->disk.rc = -EIO;
	assert_int_equal(req(f, T_OUT, 0, 512), S_IOERR);
	fix_free(f);
}

/* As above, with a save and a load while requests wait. */
static void test_stalled_state(void **state)
{
	struct fix *f = fix_new(NULL), *g = fix_new(NULL);
	struct state_buf buf = { 0 };
	struct err e = { 0 };
	uint16_t head;
	uint32_t len;

	fix_start(f, F_FLUSH);
	f->disk.rc = -ENOSPC;
	memset(rig_ram(f->r, DATA), 0x33, 1024);
	ask(f, 0, T_OUT, 10, 512, 0);
	ask(f, 0, T_OUT, 11, 512, 512);
	vd_kick(&f->d, 0);
	rig_run(f->r);
	board_stop(&f->r->board);
	assert_int_equal(board_save(&f->r->board, &buf, &e), 0);

	rig_plug(g->r, g->v);
	board_stop(&g->r->board);
	memcpy(g->r->gmem.r[0].host, f->r->gmem.r[0].host, RIG_RAM);
	assert_int_equal(board_load(&g->r->board, buf.data, buf.len, &e), 0);
	g->d = f->d;
	g->d.r = g->r;
	g->d.q[0].m = &g->r->gmem;
	board_start(&g->r->board);
	rig_run(g->r);
	assert_true(vring_get(&g->d.q[0], &head, &len));
	assert_true(vring_get(&g->d.q[0], &head, &len));
	assert_int_equal(g->disk.data[10 * 512], 0x33);
	assert_int_equal(g->disk.data[11 * 512], 0x33);
	state_buf_fini(&buf);
	fix_free(f);
	fix_free(g);
}

/* A flush that failed is never tried again: its error reaches the guest after the pause. */
static void test_flush_fails(void **state)
{
	const struct virtio_blk_opts o = { .on_write_error = VIRTIO_BLK_STOP };
	struct fix *f = fix_new(&o);
	uint16_t head;
	uint32_t len;

	fix_start(f, F_FLUSH);
	f->disk.rc = -EIO;
	ask(f, 0, T_FLUSH, 0, 0, 0);
	vd_kick(&f->d, 0);
	rig_run(f->r);
	assert_int_equal(f->r->requests[BOARD_IO_ERROR], 1);
	assert_true(no_answer(f));
	board_stop(&f->r->board);
	f->disk.rc = 0;
	board_start(&f->r->board);
	rig_run(f->r);
	assert_true(vring_get(&f->d.q[0], &head, &len));
	assert_int_equal(*rig_ram(f->r, STATUS), S_IOERR);
	assert_int_equal(f->disk.ops[BLK_FLUSH], 1);
	/* The next one is a new one. */
	assert_int_equal(req(f, T_FLUSH, 0, 0), S_OK);
	fix_free(f);
}

/* The guest gives up on a disk whose requests wait. */
static void test_reset_stalled(void **state)
{
	struct fix *f = fix_new(NULL);

	fix_start(f, F_FLUSH);
	f->disk.rc = -ENOSPC;
	ask(f, 0, T_OUT, 10, 512, 0);
	vd_kick(&f->d, 0);
	rig_run(f->r);
	f->disk.rc = 0;
	vd_start(&f->d, f->r, f->d.slot, F_FLUSH, 1);
	assert_int_equal(f->disk.ops[BLK_WRITE], 1);
	assert_int_equal(req(f, T_OUT, 0, 512), S_OK);
	fix_free(f);
}

/* What the guest's memory log sees of a read: the data and the status, and nothing before. */
static void test_dirty(void **state)
{
	struct fix *f = fix_new(NULL);
	static uint64_t bits[RIG_RAM / 4096 / 64];
	struct err e = { 0 };

	fix_start(f, F_FLUSH);
	assert_int_equal(gmem_log_start(&f->r->gmem, &e), 0);
	assert_int_equal(req(f, T_IN, 0, 8192), S_OK);
	gmem_dirty_take(&f->r->gmem, 0, bits);
	assert_true((bits[0] >> (DATA >> 12) & 7) == 3);
	assert_true(bits[0] >> (STATUS >> 12) & 1);
	assert_false(bits[0] >> (HDR >> 12) & 1);
	fix_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_read_write),    cmocka_unit_test(test_framing),
		cmocka_unit_test(test_write_through), cmocka_unit_test(test_config),
		cmocka_unit_test(test_refused_opts),  cmocka_unit_test(test_readonly),
		cmocka_unit_test(test_ranges),        cmocka_unit_test(test_no_status),
		cmocka_unit_test(test_deep),          cmocka_unit_test(test_pool),
		cmocka_unit_test(test_pause_drains),  cmocka_unit_test(test_reset_waits),
		cmocka_unit_test(test_report),        cmocka_unit_test(test_enospc),
		cmocka_unit_test(test_stalled_state), cmocka_unit_test(test_flush_fails),
		cmocka_unit_test(test_reset_stalled), cmocka_unit_test(test_dirty),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
