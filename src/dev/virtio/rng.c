/*
 * virtio-rng (virtio 1.2, 5.4): one queue of buffers that we fill with the host's random bytes.
 *
 * The smallest device, and the one to read first: a type table, a kick that pops, works and pushes,
 * and a constructor.  A buffer is filled to at most RNG_FILL bytes (a device may return less than
 * was asked for), and one kick serves at most a ring of buffers, so a greedy guest shares the loop.
 */
#include "dev/virtio/virtio_int.h"

#include "base/alloc.h"
#include "base/num.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

enum {
	RNG_RING = 64,
	RNG_FILL = 4096,
};

struct virtio_rng {
	struct virtio_dev v;
	struct virtq_seg seg[RNG_RING];
};

static uint64_t rng_features(struct virtio_dev *v UNUSED)
{
	return 0;
}

/* getrandom() gives at least 256 bytes without a break. */
static uint32_t rng_fill(struct virtq *q, const struct virtq_chain *c)
{
	uint8_t buf[256];
	uint32_t done = 0, want = (uint32_t)MIN(c->in_bytes, (uint64_t)RNG_FILL);

	while (done < want) {
		size_t part = MIN(want - done, (uint32_t)sizeof(buf));
		ssize_t n = getrandom(buf, part, 0);

		if (n <= 0)
			break;
		done += (uint32_t)virtq_copy_in(q, c, done, buf, (size_t)n);
	}
	return done;
}

static void rng_kick(struct virtio_dev *v, struct virtq *q)
{
	struct virtio_rng *r = container_of(v, struct virtio_rng, v);
	struct virtq_chain c = { .seg = r->seg, .cap = COUNT_OF(r->seg) };

	for (unsigned n = 0; n < q->size; n++) {
		if (virtq_pop(q, &c) <= 0)
			break;
		virtq_push(q, c.head, rng_fill(q, &c));
	}
	virtq_interrupt(q);
	if (virtq_notify_on(q, 0))
		virtio_rekick(q);
}

static void rng_free(struct virtio_dev *v)
{
	free(container_of(v, struct virtio_rng, v));
}

static const struct virtio_type rng_type = {
	.name = "virtio-rng",
	.id = VIRTIO_ID_RNG,
	.pci_class = 0x00ff00,
	.features = rng_features,
	.kick = rng_kick,
	.free = rng_free,
};

static int rng_check(const void *obj, struct err *e)
{
	return virtio_check(&((const struct virtio_rng *)obj)->v, e);
}

static const struct state_field rng_fields[] = {
	STATE_STRUCT_FIELD(struct virtio_rng, v, &virtio_state, 1),
};

static const struct state_desc rng_state = {
	.name = "virtio-rng",
	.version = 1,
	.oldest = 1,
	.field = rng_fields,
	.nfield = COUNT_OF(rng_fields),
	.check = rng_check,
};

static const struct dev_ops rng_ops = {
	.type = "virtio-rng",
	.free = virtio_dev_free,
	.reset = virtio_dev_reset,
	.state = &rng_state,
	.state_obj = virtio_dev_state_obj,
	.state_size = sizeof(struct virtio_rng),
	.post_load = virtio_dev_post_load,
	.stop = virtio_dev_stop,
	.start = virtio_dev_start,
};

int virtio_rng_new(struct virtio_dev **ret, struct board *b, const struct virtio_rng_opts *o,
		   struct err *e)
{
	struct virtio_rng *r = NEW(struct virtio_rng);

	if (!r)
		return err_set(e, ENOMEM, "no memory for '%s'", o->name);
	int rc = virtio_init(&r->v, &rng_type, &rng_ops, b, o->loop, o->name, e);
	if (rc == 0)
		rc = virtio_add_queue(&r->v, 0, RNG_RING, e);
	if (rc < 0) {
		dev_free(&r->v.dev);
		return rc;
	}
	*ret = &r->v;
	return 0;
}
