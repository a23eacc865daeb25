/* virtio-console in front of streams whose other end is the test. */
#include "base/bytes.h"
#include "chr/chr.h"
#include "dev/virtio/virtio.h"
#include "lib/dev_rig.h"
#include "lib/t.h"

#include <string.h>

#define F_SIZE (1ull << 0)
#define F_MULTIPORT (1ull << 1)
#define F_EMERG (1ull << 2)

enum {
	RXBUF = 0x200000,
	TXBUF = 0x300000,
	EV_READY = 0,
	EV_ADD = 1,
	EV_PORT_READY = 3,
	EV_CONSOLE = 4,
	EV_RESIZE = 5,
	EV_OPEN = 6,
	EV_NAME = 7,
};

/* A stream: what the guest wrote is in out[]; polls counts chr_poll(). */
struct fake_chr {
	struct chr c;
	bool stuck;
	unsigned polls;
	size_t nout;
	uint8_t out[1 << 20];
};

static void fake_flush(struct loop_post *p)
{
	struct chr *c = container_of(p, struct chr, flush);
	struct fake_chr *f = container_of(c, struct fake_chr, c);

	if (f->stuck)
		return;
	for (; f->c.len; f->c.len--, f->c.head = (f->c.head + 1) % CHR_QUEUE)
		f->out[f->nout++] = f->c.queue[f->c.head];
	if (f->c.stalled) {
		f->c.stalled = false;
		f->c.client->writable(f->c.client);
	}
}

static void fake_rx_enable(struct chr *c, bool on)
{
	container_of(c, struct fake_chr, c)->polls += on;
}

static const struct chr_driver fake_driver = { .name = "fake", .rx_enable = fake_rx_enable };

struct fix {
	struct rig *r;
	struct fake_chr chr[3];
	struct virtio_dev *v;
	struct vdrv d;
};

static struct fix *fix_new(unsigned ports)
{
	struct fix *f = calloc(1, sizeof(*f));
	struct virtio_console_opts o = { .name = "con0",
					 .ports = ports,
					 .port_name = { NULL, "org.agent.0" } };
	struct err e = { 0 };

	f->r = rig_new();
	o.loop = f->r->loop;
	assert_int_equal(virtio_console_new(&f->v, &f->r->board, &o, &e), 0);
	for (unsigned i = 0; i < ports; i++) {
		struct chr *c = &f->chr[i].c;

		c->drv = &fake_driver;
		c->loop = f->r->loop;
		c->client = virtio_console_client(f->v, i);
		c->flush.fn = fake_flush;
		lock_init(&c->lock);
		virtio_console_attach(f->v, i, c);
	}
	return f;
}

static void fix_start(struct fix *f, uint64_t features)
{
	vd_start(&f->d, f->r, rig_plug(f->r, f->v), features, f->v->nq);
}

static void fix_free(struct fix *f)
{
	rig_free(f->r);
	free(f);
}

static size_t type(struct fix *f, unsigned port, const char *s)
{
	size_t n =
		f->chr[port].c.client->input(f->chr[port].c.client, (const uint8_t *)s, strlen(s));

	rig_run(f->r);
	return n;
}

static void offer(struct fix *f, unsigned q, unsigned n, uint32_t len)
{
	struct vring *r = &f->d.q[q];

	for (unsigned i = 0; i < n; i++) {
		const struct vbuf b = { RXBUF + 0x10000 * q + 256ull * r->free[r->nfree - 1], len,
					true };

		assert_true(vring_add(r, &b, 1, false) >= 0);
	}
	vd_kick(&f->d, q);
	rig_run(f->r);
}

/* The next filled buffer of queue q, as a string of *ret_len bytes; NULL: none. */
static const uint8_t *get(struct fix *f, unsigned q, uint32_t *ret_len)
{
	uint16_t head;

	if (!vring_get(&f->d.q[q], &head, ret_len))
		return NULL;
	return rig_ram(f->r, RXBUF + 0x10000 * q + 256ull * head);
}

static void expect(struct fix *f, unsigned q, const char *want)
{
	uint32_t len;
	const uint8_t *p = get(f, q, &len);

	assert_non_null(p);
	assert_int_equal(len, strlen(want));
	assert_memory_equal(p, want, len);
}

static void print(struct fix *f, unsigned q, const void *s, uint32_t len)
{
	const struct vbuf b = { TXBUF, len, false };

	memcpy(rig_ram(f->r, TXBUF), s, len);
	assert_true(vring_add(&f->d.q[q], &b, 1, false) >= 0);
	vd_kick(&f->d, q);
	rig_run(f->r);
}

static void test_streams(void **state)
{
	struct fix *f = fix_new(1);
	uint16_t head;
	uint32_t len;

	/* Before there is a driver, nothing is taken, and nothing lost. */
	assert_int_equal(type(f, 0, "early"), 0);
	fix_start(f, 0);
	print(f, 1, "hello\n", 6);
	assert_true(vring_get(&f->d.q[1], &head, &len));
	assert_int_equal(f->chr[0].nout, 6);
	assert_memory_equal(f->chr[0].out, "hello\n", 6);
	/* No buffers; then some: the stream is asked to offer again. */
	assert_int_equal(type(f, 0, "abcdef"), 0);
	unsigned polls = f->chr[0].polls;
	offer(f, 0, 2, 4);
	assert_int_equal(f->chr[0].polls, polls + 1);
	assert_int_equal(type(f, 0, "abcdefghij"), 8);
	/* What it did not take makes it ask for a kick. */
	assert_int_equal(ld_le16(vring_p(&f->d.q[0], f->d.q[0].used)), 0);
	expect(f, 0, "abcd");
	expect(f, 0, "efgh");
	polls = f->chr[0].polls;
	offer(f, 0, 1, 4);
	assert_int_equal(f->chr[0].polls, polls + 1);
	assert_int_equal(type(f, 0, "ij"), 2);
	expect(f, 0, "ij");
	assert_true(vd_irqs(&f->d, 0) && vd_irqs(&f->d, 1));
	fix_free(f);
}

/* A reader that stops: the guest's bytes wait in its ring, each arrives once, across a save too. */
static void test_flow(void **state)
{
	struct fix *f = fix_new(1), *g = fix_new(1);
	struct state_buf buf = { 0 };
	struct err e = { 0 };
	uint16_t head;
	uint32_t len;
	const uint32_t total = 3 * 50000;

	fix_start(f, VIRTIO_F_EVENT_IDX);
	f->chr[0].stuck = true;
	for (uint32_t i = 0; i < total; i++)
		*rig_ram(f->r, TXBUF + i) = (uint8_t)(i * 7 + i / 251);
	for (unsigned i = 0; i < 3; i++) {
		const struct vbuf b[] = { { TXBUF + 50000 * i, 20000, false },
					  { TXBUF + 50000 * i + 20000, 30000, false } };

		vring_add(&f->d.q[1], b, 2, false);
	}
	vd_kick(&f->d, 1);
	rig_run(f->r);
	assert_true(vring_get(&f->d.q[1], &head, &len));
	assert_false(vring_get(&f->d.q[1], &head, &len));
	assert_int_equal(f->chr[0].c.len, CHR_QUEUE);
	board_stop(&f->r->board);
	assert_int_equal(board_save(&f->r->board, &buf, &e), 0);
	/* The first process's stream still has what it took. */
	f->chr[0].stuck = false;
	fake_flush(&f->chr[0].c.flush);
	memcpy(g->chr[0].out, f->chr[0].out, f->chr[0].nout);
	g->chr[0].nout = f->chr[0].nout;

	rig_plug(g->r, g->v);
	board_stop(&g->r->board);
	memcpy(g->r->gmem.r[0].host, f->r->gmem.r[0].host, RIG_RAM);
	assert_int_equal(board_load(&g->r->board, buf.data, buf.len, &e), 0);
	board_start(&g->r->board);
	for (unsigned i = 0; i < 10; i++)
		rig_run(g->r);
	assert_int_equal(g->chr[0].nout, total);
	assert_memory_equal(g->chr[0].out, rig_ram(f->r, TXBUF), total);
	state_buf_fini(&buf);
	fix_free(f);
	fix_free(g);
}

static void test_size_and_emergency(void **state)
{
	struct fix *f = fix_new(1);

	/* A character from a system that has no driver yet. */
	vd_find(&f->d, f->r, rig_plug(f->r, f->v));
	bus_write(&f->r->mmio, f->d.device + 8, 4, '!');
	rig_run(f->r);
	assert_int_equal(f->chr[0].nout, 1);
	assert_int_equal(f->chr[0].out[0], '!');
	vd_start(&f->d, f->r, f->d.slot, F_SIZE, 2);
	assert_true((vd_offered(&f->d) & 7) == (F_SIZE | F_EMERG));
	unsigned before = f->r->msi[RIG_MSI_DATA + 2];
	virtio_console_resize(f->v, 132, 50);
	assert_int_equal(f->r->msi[RIG_MSI_DATA + 2], before + 1);
	assert_int_equal(vd_cfg(&f->d, 0, 2), 132);
	assert_int_equal(vd_cfg(&f->d, 2, 2), 50);
	assert_int_equal(vd_cfg(&f->d, 4, 4), 1);
	fix_free(f);
}

static void tell(struct fix *f, uint32_t port, unsigned event, unsigned value)
{
	uint8_t b[8];

	st_le32(b, port);
	st_le16(b + 4, (uint16_t)event);
	st_le16(b + 6, (uint16_t)value);
	print(f, 3, b, 8);
}

static void hear(struct fix *f, uint32_t port, unsigned event, uint32_t want_len)
{
	uint32_t len;
	const uint8_t *p = get(f, 2, &len);

	assert_non_null(p);
	assert_int_equal(ld_le32(p), port);
	assert_int_equal(ld_le16(p + 4), event);
	assert_int_equal(ld_le16(p + 6), 1);
	assert_int_equal(len, want_len);
	if (event == EV_NAME)
		assert_memory_equal(p + 8, "org.agent.0", 11);
	if (event == EV_RESIZE)
		assert_int_equal(ld_le32(p + 8), 80 | 25 << 16);
}

static void test_ports(void **state)
{
	struct fix *f = fix_new(3);
	uint32_t len;

	virtio_console_resize(f->v, 80, 25);
	fix_start(f, F_MULTIPORT);
	assert_int_equal(f->v->nq, 8);
	assert_int_equal(vd_cfg(&f->d, 4, 4), 3);
	/* The driver has few buffers; what we have to say waits. */
	tell(f, 0, EV_READY, 1);
	offer(f, 2, 2, 64);
	hear(f, 0, EV_ADD, 8);
	hear(f, 1, EV_ADD, 8);
	assert_null(get(f, 2, &len));
	offer(f, 2, 20, 64);
	hear(f, 2, EV_ADD, 8);
	tell(f, 0, EV_PORT_READY, 1);
	hear(f, 0, EV_CONSOLE, 8);
	hear(f, 0, EV_RESIZE, 12);
	hear(f, 0, EV_OPEN, 8);
	tell(f, 1, EV_PORT_READY, 1);
	hear(f, 1, EV_NAME, 8 + 11);
	hear(f, 1, EV_OPEN, 8);
	assert_null(get(f, 2, &len));
	/* A port takes input when the guest has it open. */
	offer(f, 4, 2, 16);
	assert_int_equal(type(f, 1, "ping"), 0);
	unsigned polls = f->chr[1].polls;
	tell(f, 1, EV_OPEN, 1);
	assert_int_equal(f->chr[1].polls, polls + 1);
	assert_int_equal(type(f, 1, "ping"), 4);
	expect(f, 4, "ping");
	print(f, 5, "pong", 4);
	assert_memory_equal(f->chr[1].out, "pong", 4);
	assert_int_equal(f->chr[0].nout + f->chr[2].nout, 0);
	tell(f, 1, EV_OPEN, 0);
	assert_int_equal(type(f, 1, "ping"), 0);
	/* A new size is told. */
	virtio_console_resize(f->v, 80, 25);
	rig_run(f->r);
	hear(f, 0, EV_RESIZE, 12);
	/* Nonsense is not answered. */
	tell(f, 99, EV_PORT_READY, 1);
	tell(f, 0, 77, 1);
	print(f, 3, "abc", 3);
	assert_null(get(f, 2, &len));
	assert_int_equal(vd_get(&f->d, VC_STATUS, 1) & VIRTIO_NEEDS_RESET, 0);
	/* After a reset the ports are closed, and all is told again. */
	vd_start(&f->d, f->r, f->d.slot, F_MULTIPORT, 8);
	offer(f, 2, 3, 64);
	assert_null(get(f, 2, &len));
	tell(f, 0, EV_READY, 1);
	hear(f, 0, EV_ADD, 8);
	fix_free(f);
}

static void test_bad(void **state)
{
	struct fix *f = fix_new(1);
	const struct vbuf readable = { RXBUF, 8, false };

	fix_start(f, 0);
	vring_add(&f->d.q[0], &readable, 1, false);
	assert_int_equal(type(f, 0, "x"), 0);
	assert_true(vd_get(&f->d, VC_STATUS, 1) & VIRTIO_NEEDS_RESET);
	/* And then there is nobody. */
	assert_int_equal(type(f, 0, "x"), 0);
	fix_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_streams),
		cmocka_unit_test(test_flow),
		cmocka_unit_test(test_size_and_emergency),
		cmocka_unit_test(test_ports),
		cmocka_unit_test(test_bad),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
