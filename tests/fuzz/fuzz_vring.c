/* A ring whose memory is the input: whatever pops lies in RAM, and it ends. */
#include "dev/virtio/ring.h"
#include "lib/vring.h"

#include "base/num.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	RAM = 1 << 16,
	SIZE = 16,
	MEM = 0x4000,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void die(const char *what)
{
	fprintf(stderr, "vring: %s\n", what);
	abort();
}

static void check(const struct gmem *m, const struct virtq_chain *c)
{
	uint64_t in = 0, out = 0;

	if (c->nin + c->nout > SIZE)
		die("chain longer than the ring");
	for (unsigned i = 0; i < c->nin + c->nout; i++) {
		const struct virtq_seg *s = &c->seg[i];

		if (!s->len || !range_in(s->gpa, s->len, RAM) || s->host != m->r[0].host + s->gpa)
			die("buffer outside of memory");
		*(i < c->nout ? &out : &in) += s->len;
	}
	if (in != c->in_bytes || out != c->out_bytes)
		die("wrong sums");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct gmem m;
	struct virtio_dev v = { 0 };
	struct virtq_seg seg[SIZE];
	struct virtq_chain c = { .seg = seg, .cap = SIZE };
	struct virtq q = { .gmem = &m,
			   .v = &v,
			   .max = SIZE,
			   .size = SIZE,
			   .desc_gpa = MEM,
			   .avail_gpa = MEM + 0x100,
			   .used_gpa = MEM + 0x200 };
	struct err e = { 0 };
	uint8_t buf[64] = { 0 };

	if (size < 4)
		return 0;
	if (!m.n && gmem_add(&m, "ram", 0, RAM, -1, 0, false, &e) < 0)
		die(e.msg);
	memset(m.r[0].host, 0, RAM);
	memcpy(m.r[0].host + MEM, data + 4, MIN(size - 4, (size_t)0x2000));
	q.avail_at = data[1];
	q.used_at = data[2];
	if (virtq_start(&q, (uint64_t)data[0] << 28) < 0)
		die("a good ring is refused");
	for (unsigned i = 0; i < 100; i++) {
		int rc = virtq_pop(&q, &c);

		if (rc <= 0) {
			if (rc < 0 && !q.bad)
				die("bad and does not say why");
			break;
		}
		check(&m, &c);
		size_t n = virtq_copy_out(&c, data[3], buf, sizeof(buf));
		virtq_copy_in(&q, &c, data[3], buf, n);
		virtq_push(&q, c.head, (uint32_t)n);
		virtq_interrupt(&q);
		if (virtq_notify_on(&q, 0) && virtq_waiting(&q) > SIZE)
			die("more waits than the ring has");
	}
	return 0;
}
