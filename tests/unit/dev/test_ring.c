/* Split rings: a property test against a naive model, and rings that break the rules. */
#include "base/num.h"
#include "dev/virtio/ring.h"
#include "lib/t.h"
#include "lib/vring.h"

#include <errno.h>
#include <string.h>

enum {
	RAM = 4 << 20,
	RING_GPA = 1 << 20,
	MAX_BUFS = 16,
};

struct fix {
	struct gmem m;
	struct vring drv;
	struct virtio_dev v;
	struct virtio_transport t;
	struct virtq q;
	struct virtq_seg seg[64];
	struct virtq_chain c;
	unsigned irqs;
};

static void fix_irq(struct virtio_transport *t, unsigned queue)
{
	container_of(t, struct fix, t)->irqs++;
	assert_int_equal(queue, 3);
}

static void fix_init(struct fix *f, unsigned size, uint64_t features)
{
	struct err e = { 0 };

	memset(f, 0, sizeof(*f));
	gmem_init(&f->m);
	assert_int_equal(gmem_add(&f->m, "ram", 0, RAM, -1, 0, false, &e), 0);
	vring_init(&f->drv, &f->m, size, RING_GPA);
	f->drv.event_idx = features & VIRTIO_F_EVENT_IDX;
	f->t.queue_irq = fix_irq;
	f->v.transport = &f->t;
	f->q = (struct virtq){
		.desc_gpa = f->drv.desc,
		.avail_gpa = f->drv.avail,
		.used_gpa = f->drv.used,
		.size = (uint16_t)size,
		.max = (uint16_t)size,
		.index = 3,
		.v = &f->v,
		.gmem = &f->m,
	};
	f->c = (struct virtq_chain){ .seg = f->seg, .cap = COUNT_OF(f->seg) };
	assert_int_equal(virtq_start(&f->q, features), 0);
}

static void fix_fini(struct fix *f)
{
	gmem_fini(&f->m);
}

/* What the model remembers of a chain that was offered. */
struct offered {
	unsigned n;
	struct vbuf b[MAX_BUFS];
	bool popped;
};

struct model {
	struct offered by_head[VRING_MAX];
	uint16_t order[65536];
	unsigned offered, popped;
	/* Popped, not given back. */
	uint16_t out[VRING_MAX];
	unsigned nout;
	/* Given back, in order, with the length. */
	uint16_t used_head[65536];
	uint32_t used_len[65536];
	unsigned pushed, got;
	uint16_t used_event;
};

static void model_offer(struct fix *f, struct model *m, uint64_t *seed)
{
	struct offered o = { .n = 1 + t_rnd(seed) % MAX_BUFS };
	unsigned nin = (unsigned)(t_rnd(seed) % (o.n + 1));

	for (unsigned i = 0; i < o.n; i++)
		o.b[i] = (struct vbuf){ t_rnd(seed) % (RING_GPA - 4096),
					1 + (uint32_t)(t_rnd(seed) % 4096), i >= o.n - nin };
	int head = vring_add(&f->drv, o.b, o.n, t_rnd(seed) & 1);
	if (head < 0)
		return;
	m->by_head[head] = o;
	m->order[m->offered++ & 0xffff] = (uint16_t)head;
}

static void model_check_chain(const struct fix *f, const struct offered *o)
{
	uint64_t in = 0, out = 0;

	assert_int_equal(f->c.nin + f->c.nout, o->n);
	for (unsigned i = 0; i < o->n; i++) {
		assert_int_equal(f->seg[i].gpa, o->b[i].gpa);
		assert_int_equal(f->seg[i].len, o->b[i].len);
		assert_ptr_equal(f->seg[i].host, f->m.r[0].host + o->b[i].gpa);
		assert_int_equal(i >= f->c.nout, o->b[i].in);
		*(o->b[i].in ? &in : &out) += o->b[i].len;
	}
	assert_int_equal(f->c.in_bytes, in);
	assert_int_equal(f->c.out_bytes, out);
}

static void model_pop(struct fix *f, struct model *m, uint64_t *seed)
{
	int rc = virtq_pop(&f->q, &f->c);

	assert_int_equal(rc, m->popped != m->offered);
	if (!rc)
		return;
	assert_int_equal(f->c.head, m->order[m->popped & 0xffff]);
	model_check_chain(f, &m->by_head[f->c.head]);
	/* Now and then it is put back, and must come again. */
	if (t_rnd(seed) % 8 == 0) {
		virtq_unpop(&f->q, 1);
		return;
	}
	m->popped++;
	m->out[m->nout++] = f->c.head;
}

static void model_push(struct fix *f, struct model *m, uint64_t *seed)
{
	uint16_t old = (uint16_t)m->pushed;
	unsigned n = (unsigned)(t_rnd(seed) % 4);

	for (unsigned i = 0; i < n && m->nout; i++) {
		unsigned k = (unsigned)(t_rnd(seed) % m->nout);
		uint16_t head = m->out[k];
		uint32_t len = (uint32_t)t_rnd(seed);

		m->out[k] = m->out[--m->nout];
		virtq_push(&f->q, head, len);
		m->used_head[m->pushed & 0xffff] = head;
		m->used_len[m->pushed++ & 0xffff] = len;
	}
	/* The naive answer: did some step cross the event? */
	bool want = old != (uint16_t)m->pushed && !f->drv.event_idx;
	for (uint16_t i = old; i != (uint16_t)m->pushed; i++)
		want |= f->drv.event_idx && i == m->used_event;
	unsigned before = f->irqs;
	bool first = !f->q.signalled_valid && old != (uint16_t)m->pushed;
	virtq_interrupt(&f->q);
	if (old != (uint16_t)m->pushed)
		assert_int_equal(f->irqs - before, want || (first && f->drv.event_idx));
}

static void model_get(struct fix *f, struct model *m, uint64_t *seed)
{
	uint16_t head;
	uint32_t len;

	while (vring_get(&f->drv, &head, &len)) {
		assert_int_equal(head, m->used_head[m->got & 0xffff]);
		assert_int_equal(len, m->used_len[m->got++ & 0xffff]);
	}
	assert_int_equal(m->got, m->pushed);
	m->used_event = (uint16_t)(m->got + t_rnd(seed) % 3);
	vring_set_used_event(&f->drv, m->used_event);
}

static void ring_agrees(uint64_t features, unsigned size, uint64_t seed)
{
	static struct fix f;
	static struct model m;

	memset(&m, 0, sizeof(m));
	fix_init(&f, size, features);
	for (int i = 0; i < 800000; i++) {
		switch (t_rnd(&seed) % 4) {
		case 0:
			model_offer(&f, &m, &seed);
			break;
		case 1:
			model_pop(&f, &m, &seed);
			break;
		case 2:
			model_push(&f, &m, &seed);
			break;
		case 3:
			model_get(&f, &m, &seed);
		}
		assert_null(f.q.bad);
		assert_int_equal(f.q.taken, m.nout);
	}
	/* The indices wrapped. */
	assert_true(m.pushed > 65536);
	fix_fini(&f);
}

static void test_agrees(void **state)
{
	const uint64_t seed = 42;

	printf("seed %lu\n", (unsigned long)seed);
	ring_agrees(VIRTIO_F_INDIRECT, 64, seed);
	ring_agrees(VIRTIO_F_INDIRECT | VIRTIO_F_EVENT_IDX, 64, seed + 1);
	ring_agrees(VIRTIO_F_INDIRECT | VIRTIO_F_EVENT_IDX, 256, seed + 2);
}

/* Each breaks one rule; the ring must be bad after it, and say the right thing. */

static void bad_head(struct fix *f)
{
	vring_offer(&f->drv, f->drv.size);
}

static void bad_index(struct fix *f)
{
	st_le16(vring_p(&f->drv, f->drv.avail + 2), f->drv.size + 1);
}

static void bad_next(struct fix *f)
{
	vring_put_desc(&f->drv, f->drv.desc, 0, 0, 16, VDESC_NEXT, f->drv.size);
	vring_offer(&f->drv, 0);
}

static void bad_loop(struct fix *f)
{
	vring_put_desc(&f->drv, f->drv.desc, 0, 0, 16, VDESC_NEXT, 1);
	vring_put_desc(&f->drv, f->drv.desc, 1, 0, 16, VDESC_NEXT, 0);
	vring_offer(&f->drv, 0);
}

static void bad_order(struct fix *f)
{
	vring_put_desc(&f->drv, f->drv.desc, 0, 0, 16, VDESC_NEXT | VDESC_WRITE, 1);
	vring_put_desc(&f->drv, f->drv.desc, 1, 0, 16, 0, 0);
	vring_offer(&f->drv, 0);
}

static void bad_memory(struct fix *f)
{
	vring_put_desc(&f->drv, f->drv.desc, 0, RAM - 15, 16, 0, 0);
	vring_offer(&f->drv, 0);
}

static void bad_wrap(struct fix *f)
{
	vring_put_desc(&f->drv, f->drv.desc, 0, UINT64_MAX - 7, 16, 0, 0);
	vring_offer(&f->drv, 0);
}

static void bad_empty(struct fix *f)
{
	vring_put_desc(&f->drv, f->drv.desc, 0, 0, 0, 0, 0);
	vring_offer(&f->drv, 0);
}

static void bad_nested(struct fix *f)
{
	vring_put_desc(&f->drv, f->drv.tables, 0, f->drv.tables, 16, VDESC_INDIRECT, 0);
	vring_put_desc(&f->drv, f->drv.desc, 0, f->drv.tables, 16, VDESC_INDIRECT, 0);
	vring_offer(&f->drv, 0);
}

static void bad_indirect_next(struct fix *f)
{
	vring_put_desc(&f->drv, f->drv.desc, 0, f->drv.tables, 16, VDESC_INDIRECT | VDESC_NEXT, 1);
	vring_offer(&f->drv, 0);
}

static void bad_indirect_size(struct fix *f)
{
	vring_put_desc(&f->drv, f->drv.desc, 0, f->drv.tables, 17, VDESC_INDIRECT, 0);
	vring_offer(&f->drv, 0);
}

static void bad_indirect_empty(struct fix *f)
{
	vring_put_desc(&f->drv, f->drv.desc, 0, f->drv.tables, 0, VDESC_INDIRECT, 0);
	vring_offer(&f->drv, 0);
}

static void bad_indirect_memory(struct fix *f)
{
	vring_put_desc(&f->drv, f->drv.desc, 0, RAM - 8, 16, VDESC_INDIRECT, 0);
	vring_offer(&f->drv, 0);
}

static void bad_long(struct fix *f)
{
	/* An indirect table longer than the ring. */
	for (unsigned i = 0; i <= f->drv.size; i++)
		vring_put_desc(&f->drv, f->drv.tables, i, 0, 16, VDESC_NEXT, i + 1);
	vring_put_desc(&f->drv, f->drv.desc, 0, f->drv.tables, 16u * (f->drv.size + 2u),
		       VDESC_INDIRECT, 0);
	vring_offer(&f->drv, 0);
}

static const struct {
	void (*make)(struct fix *f);
	const char *says;
} hostile[] = {
	{ bad_head, "head is outside of the table" },
	{ bad_index, "available index is impossible" },
	{ bad_next, "next descriptor is outside of the table" },
	{ bad_loop, "descriptors form a loop" },
	{ bad_order, "readable buffer behind a writable one" },
	{ bad_memory, "buffer is outside of memory" },
	{ bad_wrap, "buffer is outside of memory" },
	{ bad_empty, "buffer of no bytes" },
	{ bad_nested, "indirect descriptor where none may be" },
	{ bad_indirect_next, "indirect descriptor where none may be" },
	{ bad_indirect_size, "indirect table of a wrong size" },
	{ bad_indirect_empty, "indirect table of a wrong size" },
	{ bad_indirect_memory, "indirect table is outside of memory" },
	{ bad_long, "chain is too long" },
};

static void test_hostile(void **state)
{
	static struct fix f;

	for (unsigned i = 0; i < COUNT_OF(hostile); i++) {
		fix_init(&f, 8, VIRTIO_F_INDIRECT);
		hostile[i].make(&f);
		assert_int_equal(virtq_pop(&f.q, &f.c), -EPROTO);
		assert_non_null(f.q.bad);
		assert_string_equal(f.q.bad, hostile[i].says);
		/* It stays bad, and the device's other calls are harmless. */
		assert_int_equal(virtq_pop(&f.q, &f.c), -EPROTO);
		assert_int_equal(virtq_waiting(&f.q), 0);
		assert_false(virtq_notify_on(&f.q, 0));
		fix_fini(&f);
	}
}

static void test_bad_registers(void **state)
{
	static struct fix f;

	fix_init(&f, 8, 0);
	struct virtq good = f.q;
	virtq_stop(&f.q);
#define REFUSES(field, value)                                     \
	do {                                                      \
		f.q = good;                                       \
		f.q.field = (value);                              \
		assert_int_equal(virtq_start(&f.q, 0), -EINVAL);  \
		assert_non_null(f.q.bad);                         \
		assert_int_equal(virtq_pop(&f.q, &f.c), -EPROTO); \
	} while (0)
	REFUSES(size, 0);
	REFUSES(size, 7);
	REFUSES(size, 16);
	REFUSES(desc_gpa, 8);
	REFUSES(desc_gpa, RAM - 16);
	REFUSES(avail_gpa, 1);
	REFUSES(avail_gpa, RAM - 4);
	REFUSES(used_gpa, 2);
	REFUSES(used_gpa, UINT64_MAX - 3);
	f.q = good;
	assert_int_equal(virtq_start(&f.q, 0), 0);
	fix_fini(&f);
}

/* Random bytes as rings: whatever pops lies in memory, and it ends. */
static void test_random_memory(void **state)
{
	uint64_t seed = 7, popped = 0, bad = 0;
	static struct fix f;

	for (int round = 0; round < 20000; round++) {
		fix_init(&f, 8, VIRTIO_F_INDIRECT);
		for (unsigned i = 0; i < 8; i++) {
			uint64_t a = t_rnd(&seed);

			vring_put_desc(&f.drv, f.drv.desc, i,
				       a & 1 ? f.drv.tables : t_rnd(&seed) % (RAM + 4096),
				       (uint32_t)(a >> 8) & 0xff0, (a >> 16) & 7, (a >> 20) & 7);
			vring_put_desc(&f.drv, f.drv.tables, i, t_rnd(&seed) % RAM,
				       (uint32_t)(a >> 30) & 0xff, (a >> 40) & 3, (a >> 44) & 7);
			st_le16(vring_p(&f.drv, f.drv.avail + 4 + 2ull * i), (a >> 50) & 7);
		}
		st_le16(vring_p(&f.drv, f.drv.avail + 2), 8);
		while (virtq_pop(&f.q, &f.c) > 0) {
			popped++;
			for (unsigned i = 0; i < f.c.nout + f.c.nin; i++) {
				assert_true(range_in(f.seg[i].gpa, f.seg[i].len, RAM));
				assert_ptr_equal(f.seg[i].host, f.m.r[0].host + f.seg[i].gpa);
			}
			virtq_push(&f.q, f.c.head, 0);
		}
		bad += f.q.bad != NULL;
		fix_fini(&f);
	}
	assert_true(popped > 1000 && bad > 1000);
}

/* Copies and iovs across buffers agree with one flat array. */
static void test_pieces(void **state)
{
	static struct fix f;
	uint64_t seed = 11;
	const struct vbuf b[] = { { 0x100, 3, false }, { 0x200, 1, false }, { 0x300, 9, false },
				  { 0x400, 5, true },  { 0x500, 2, true },  { 0x600, 8, true } };

	fix_init(&f, 8, 0);
	assert_int_equal(vring_add(&f.drv, b, COUNT_OF(b), false), 0);
	assert_int_equal(virtq_pop(&f.q, &f.c), 1);
	uint8_t out[13], in[15] = { 0 };
	for (unsigned i = 0, at = 0; i < 3; i++)
		for (unsigned n = 0; n < b[i].len; n++, at++)
			*vring_p(&f.drv, b[i].gpa + n) = out[at] = (uint8_t)(at + 1);
	for (int round = 0; round < 5000; round++) {
		uint64_t off = t_rnd(&seed) % 17, len = t_rnd(&seed) % 20;
		uint8_t got[32] = { 0 }, flat[32] = { 0 }, src[32];
		struct iovec iov[4];

		size_t n = virtq_copy_out(&f.c, off, got, len);
		size_t want = off < 13 ? MIN(len, 13 - off) : 0;
		assert_int_equal(n, want);
		memcpy(flat, out + MIN(off, (uint64_t)13), want);
		assert_memory_equal(got, flat, sizeof(got));

		unsigned niov = virtq_iov(&f.c, false, off, len, iov, 4);
		for (unsigned i = 0, at = 0; i < niov; at += (unsigned)iov[i++].iov_len)
			assert_memory_equal(iov[i].iov_base, out + off + at, iov[i].iov_len);

		for (unsigned i = 0; i < sizeof(src); i++)
			src[i] = (uint8_t)t_rnd(&seed);
		n = virtq_copy_in(&f.q, &f.c, off, src, len);
		assert_int_equal(n, off < 15 ? MIN(len, 15 - off) : 0);
		memcpy(in + MIN(off, (uint64_t)15), src, n);
		for (unsigned i = 3, at = 0; i < 6; at += b[i++].len)
			assert_memory_equal(vring_p(&f.drv, b[i].gpa), in + at, b[i].len);
	}
	fix_fini(&f);
}

/* What we write is in the dirty log: data, used element, used index, notification fields. */
static void test_dirty(void **state)
{
	static struct fix f;
	struct err e = { 0 };
	static uint64_t bits[RAM / 4096 / 64];
	const struct vbuf b = { 0x5ff0, 0x20, true };

	fix_init(&f, 8, VIRTIO_F_EVENT_IDX);
	vring_add(&f.drv, &b, 1, false);
	assert_int_equal(gmem_log_start(&f.m, &e), 0);
	assert_int_equal(virtq_pop(&f.q, &f.c), 1);
	assert_int_equal(gmem_dirty_take(&f.m, 0, bits), 0);
	uint8_t z[0x20] = { 0 };
	virtq_copy_in(&f.q, &f.c, 0, z, sizeof(z));
	assert_int_equal(gmem_dirty_take(&f.m, 0, bits), 2);
	assert_true(bits[0] == (3 << 5));
	virtq_push(&f.q, f.c.head, 0x20);
	assert_int_equal(gmem_dirty_take(&f.m, 0, bits), 1);
	assert_true(bits[f.drv.used / 4096 / 64] >> (f.drv.used / 4096 % 64) & 1);
	assert_false(virtq_notify_on(&f.q, 0));
	assert_int_equal(gmem_dirty_take(&f.m, 0, bits), 1);
	fix_fini(&f);

	/* In a large ring an element and the index are on different pages. */
	fix_init(&f, 1024, 0);
	vring_add(&f.drv, &b, 1, false);
	f.q.used_at = 600;
	assert_int_equal(gmem_log_start(&f.m, &e), 0);
	assert_int_equal(virtq_pop(&f.q, &f.c), 1);
	virtq_push(&f.q, f.c.head, 0);
	assert_int_equal(gmem_dirty_take(&f.m, 0, bits), 2);
	fix_fini(&f);
}

/* A request that was popped before a save is taken again by its head, and counts. */
static void test_retake(void **state)
{
	static struct fix f;
	const struct vbuf b[] = { { 0x100, 16, false }, { 0x200, 16, true } };

	fix_init(&f, 8, 0);
	int head = vring_add(&f.drv, b, 2, false);
	assert_int_equal(virtq_pop(&f.q, &f.c), 1);
	struct virtq saved = f.q;
	virtq_stop(&f.q);
	f.q = saved;
	f.q.desc = f.q.avail = f.q.used = NULL;
	f.q.taken = 0;
	assert_int_equal(virtq_start(&f.q, 0), 0);
	assert_int_equal(virtq_pop(&f.q, &f.c), 0);
	assert_int_equal(virtq_retake(&f.q, (uint16_t)head, &f.c), 0);
	assert_int_equal(f.c.nin, 1);
	assert_int_equal(f.seg[0].gpa, 0x100);
	virtq_push(&f.q, f.c.head, 7);
	uint16_t got;
	uint32_t len;
	assert_true(vring_get(&f.drv, &got, &len));
	assert_int_equal(got, head);
	assert_int_equal(len, 7);
	assert_int_equal(virtq_retake(&f.q, 8, &f.c), -EPROTO);
	fix_fini(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_agrees),        cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_bad_registers), cmocka_unit_test(test_random_memory),
		cmocka_unit_test(test_pieces),        cmocka_unit_test(test_dirty),
		cmocka_unit_test(test_retake),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
