/* virtio-blk: requests that end now, later, with errors, or when the VM goes on. */
#include "block/blk.h"
#include "fuzz/dev.h"

#include <errno.h>

enum {
	DISK = 1 << 20,
	HELD = 1024,
};

struct disk {
	struct blk b;
	struct fuzz f;
	struct blk_req *held[HELD];
	unsigned nheld;
	bool hold;
	int rc;
	struct loop_post post;
	/* Answers of a driver that was asked twice would be a mistake of ours. */
	unsigned submitted, ended;
};

static void disk_go(struct disk *d)
{
	static uint8_t data[DISK];
	struct blk_req *r[HELD];
	unsigned n = d->nheld;

	memcpy(r, d->held, sizeof(r));
	d->nheld = 0;
	for (unsigned i = 0; i < n; i++) {
		uint8_t *p = data + r[i]->off_bytes;
		uint64_t sum = 0;

		for (unsigned k = 0; k < r[i]->niov; k++) {
			sum += r[i]->iov[k].iov_len;
			if (r[i]->op == BLK_READ)
				memcpy(r[i]->iov[k].iov_base, p, r[i]->iov[k].iov_len);
			else
				memcpy(p, r[i]->iov[k].iov_base, r[i]->iov[k].iov_len);
			p += r[i]->iov[k].iov_len;
		}
		if (r[i]->op <= BLK_WRITE && sum != r[i]->len_bytes)
			rig_die("blk", "iov and length differ");
		d->ended++;
		blk_done(r[i], d->rc);
	}
}

static void disk_post(struct loop_post *p)
{
	struct disk *d = container_of(p, struct disk, post);

	if (!d->hold)
		disk_go(d);
}

static void disk_submit(struct blk *b, struct blk_req *r)
{
	struct disk *d = container_of(b, struct disk, b);

	if (d->nheld == HELD)
		rig_die("blk", "more requests than there are");
	d->submitted++;
	d->held[d->nheld++] = r;
	loop_post(b->loop, &d->post);
}

static const struct blk_driver disk_driver = { .name = "fuzz", .submit = disk_submit };

static void disk_backend(struct fuzz *f, uint64_t arg)
{
	static const int rcs[] = { 0, -EIO, -ENOSPC, -EOPNOTSUPP };
	struct disk *d = container_of(f, struct disk, f);

	d->rc = rcs[arg % 4];
	d->hold = arg & 4;
	if (!d->hold)
		disk_go(d);
}

/* Held requests end while the device waits for them. */
static void disk_unhold(struct fuzz *f)
{
	struct disk *d = container_of(f, struct disk, f);

	d->hold = false;
	loop_post(d->b.loop, &d->post);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct disk d = {
		.f = { .r = rig_new(), .backend = disk_backend, .pausing = disk_unhold }
	};
	const struct virtio_blk_opts o = {
		.name = "disk0",
		.blk = &d.b,
		.serial = "fuzz",
		.queues = 2,
		.queue_size = 32,
		.on_read_error = VIRTIO_BLK_STOP,
		.on_write_error = VIRTIO_BLK_STOP,
	};
	struct err e = { 0 };

	d.b = (struct blk){
		.drv = &disk_driver,
		.loop = d.f.r->loop,
		.info = { .size_bytes = DISK,
			  .block_size = 512,
			  .can_discard = true,
			  .can_write_zeroes = true },
	};
	d.post.fn = disk_post;
	if (virtio_blk_new(&d.f.v, &d.f.r->board, &o, &e) < 0)
		rig_die("blk", e.msg);
	fuzz_run(&d.f, data, size);
	disk_unhold(&d.f);
	rig_free(d.f.r);
	if (d.submitted != d.ended)
		rig_die("blk", "a request without an end");
	return 0;
}
