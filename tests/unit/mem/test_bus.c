/* Address decode against a flat array of bytes. */
#include "mem/bus.h"

#include "base/num.h"
#include "lib/t.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
	SPACE = 300,
	DEVS = 12,
};

/* A device whose registers are bytes. */
struct ram_dev {
	struct bus_range r;
	struct bus_ops ops;
	struct lock lock;
	uint8_t byte[64];
	unsigned calls;
	bool wrong;
};

static void ram_check(struct bus_range *r, uint64_t off, unsigned size)
{
	struct ram_dev *d = container_of(r, struct ram_dev, r);
	unsigned max = d->ops.max_size ? d->ops.max_size : 8;

	d->calls++;
	if ((size != 1 && size != 2 && size != 4 && size != 8) || size > max ||
	    !range_in(off, size, r->len))
		d->wrong = true;
	/* Its lock is held. */
	if (r->lock && pthread_mutex_trylock(&d->lock.m) == 0)
		d->wrong = true;
}

static uint64_t ram_read(struct bus_range *r, uint64_t off, unsigned size)
{
	struct ram_dev *d = container_of(r, struct ram_dev, r);
	uint64_t v = 0;

	ram_check(r, off, size);
	memcpy(&v, d->byte + off, size);
	/* What is above the size does not count. */
	return size < 8 ? v | 0xab00000000000000 : v;
}

static void ram_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	struct ram_dev *d = container_of(r, struct ram_dev, r);

	ram_check(r, off, size);
	memcpy(d->byte + off, &v, size);
}

static void ram_init(struct ram_dev *d, unsigned max_size, bool locked)
{
	*d = (struct ram_dev){ .ops = { ram_read, ram_write, max_size } };
	d->r.ops = &d->ops;
	d->r.name = "ram";
	lock_init(&d->lock);
	d->r.lock = locked ? &d->lock : NULL;
}

/* Whose byte it is, from the list of devices. */
static uint8_t *owner(struct ram_dev *d, uint64_t addr)
{
	for (unsigned i = 0; i < DEVS; i++)
		if (d[i].r.on && addr >= d[i].r.base && addr - d[i].r.base < d[i].r.len)
			return &d[i].byte[addr - d[i].r.base];
	return NULL;
}

static void test_decode(void **state UNUSED)
{
	static struct ram_dev d[DEVS];
	static const unsigned max[] = { 0, 1, 2, 4, 8 };
	struct bus b;
	uint64_t s = t_seed(8);
	unsigned exist = 0, added = 0;

	bus_init(&b, BUS_MMIO);
	for (unsigned i = 0; i < DEVS; i++)
		ram_init(&d[i], max[i % 5], i % 2);
	for (int step = 0; step < 60000; step++) {
		struct ram_dev *x = &d[t_below(&s, DEVS)];
		/* Half of it at the very top of the address space. */
		uint64_t low = t_below(&s, 2) ? 0 : UINT64_MAX - SPACE;
		uint64_t addr = low + t_below(&s, SPACE - 8), v = t_rnd(&s), got = 0, want = 0;
		unsigned size = 1u << t_below(&s, 4);

		switch (t_below(&s, 6)) {
		case 0: {
			uint64_t len = 1 + t_below(&s, 60);
			bool clash = false;

			if (x->r.on)
				break;
			for (uint64_t a = 0; a < len && addr + a >= addr; a++)
				clash |= owner(d, addr + a) != NULL;
			len = MIN(len, UINT64_MAX - addr + (addr != 0));
			assert_int_equal(bus_add(&b, &x->r, addr, len), clash ? -EEXIST : 0);
			assert_int_equal(x->r.on, !clash);
			exist += clash;
			added += !clash;
			break;
		}
		case 1:
			bus_del(&b, &x->r);
			assert_false(x->r.on);
			break;
		case 2:
		case 3:
			got = bus_read(&b, addr, size);
			for (unsigned i = 0; i < size; i++) {
				const uint8_t *p = owner(d, addr + i);

				want |= (uint64_t)(p ? *p : 0xff) << (8 * i);
			}
			assert_true(got == want);
			break;
		default:
			bus_write(&b, addr, size, v);
			for (unsigned i = 0; i < size; i++) {
				const uint8_t *p = owner(d, addr + i);

				assert_true(!p || *p == (uint8_t)(v >> (8 * i)));
			}
		}
	}
	assert_true(added > 500 && exist > 100);
	for (unsigned i = 0; i < DEVS; i++) {
		assert_false(d[i].wrong);
		assert_true(d[i].calls > 100);
		bus_del(&b, &d[i].r);
	}
	bus_fini(&b);
}

static void test_unclaimed(void **state UNUSED)
{
	struct bus b;

	bus_init(&b, BUS_PIO);
	assert_int_equal(bus_read(&b, 0x80, 1), 0xff);
	assert_int_equal(bus_read(&b, 0x80, 4), 0xffffffff);
	assert_true(bus_read(&b, 0x80, 8) == UINT64_MAX);
	bus_write(&b, 0x80, 2, 1);
	assert_int_equal(b.unclaimed, 4);
	bus_fini(&b);
}

static void test_full(void **state UNUSED)
{
	static struct ram_dev d[BUS_RANGES + 1];
	struct bus b;

	bus_init(&b, BUS_MMIO);
	for (unsigned i = 0; i < BUS_RANGES; i++) {
		ram_init(&d[i], 0, false);
		assert_int_equal(bus_add(&b, &d[i].r, (uint64_t)((i * 37) % BUS_RANGES) * 4, 4), 0);
	}
	ram_init(&d[BUS_RANGES], 0, false);
	assert_int_equal(bus_add(&b, &d[BUS_RANGES].r, 1 << 20, 4), -ENOSPC);
	for (unsigned i = 0; i < BUS_RANGES; i++) {
		d[i].byte[3] = (uint8_t)i;
		assert_int_equal(bus_read(&b, d[i].r.base + 3, 1), (uint8_t)i);
	}
	for (unsigned i = 0; i < BUS_RANGES; i++)
		bus_del(&b, &d[i].r);
	assert_int_equal(b.n, 0);
	bus_fini(&b);
}

static uint64_t rung(int fd)
{
	uint64_t n = 0;

	return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static void test_notify(void **state UNUSED)
{
	struct ram_dev d;
	struct bus b;
	int e1 = eventfd(0, EFD_NONBLOCK), e2 = eventfd(0, EFD_NONBLOCK);
	struct bus_notify any = { .addr = 0x10, .fd = e1 };
	struct bus_notify two = {
		.addr = 0x14, .size = 2, .has_match = true, .match = 7, .fd = e2
	};

	ram_init(&d, 0, false);
	bus_init(&b, BUS_MMIO);
	assert_int_equal(bus_add(&b, &d.r, 0, 64), 0);
	assert_int_equal(bus_notify_add(&b, &any), 0);
	assert_int_equal(bus_notify_add(&b, &two), 0);
	bus_write(&b, 0x10, 4, 99);
	bus_write(&b, 0x10, 1, 1);
	assert_int_equal(rung(e1), 2);
	assert_int_equal(d.calls, 0);
	/* Beside it: the device. */
	bus_write(&b, 0x11, 1, 1);
	assert_int_equal(d.calls, 1);
	bus_write(&b, 0x14, 2, 7);
	assert_int_equal(rung(e2), 1);
	/* Other value, other width. */
	bus_write(&b, 0x14, 2, 8);
	bus_write(&b, 0x14, 4, 7);
	assert_int_equal(rung(e2), 0);
	assert_int_equal(d.calls, 3);
	/* Reads ring nothing. */
	bus_read(&b, 0x10, 4);
	assert_int_equal(rung(e1), 0);
	assert_int_equal(d.calls, 4);
	/* A bell that rings already (the counter is full). */
	uint64_t full = UINT64_MAX - 1;
	assert_int_equal(write(e1, &full, sizeof(full)), sizeof(full));
	bus_write(&b, 0x10, 4, 1);
	assert_int_equal(d.calls, 4);
	bus_notify_del(&b, &any);
	bus_write(&b, 0x10, 4, 1);
	assert_int_equal(d.calls, 5);
	bus_notify_del(&b, &two);
	assert_int_equal(b.nnotify, 0);
	bus_del(&b, &d.r);
	bus_fini(&b);
	close(e1);
	close(e2);
}

/* An engine with doorbells of its own, or without for ports. */
static int engine_added, engine_deleted;

static int engine_add(struct bus_engine *e UNUSED, struct bus *b, const struct bus_notify *n UNUSED)
{
	if (b->kind == BUS_PIO)
		return -ENOSYS;
	engine_added++;
	return n->addr == 666 ? -ENOSPC : 0;
}

static void engine_del(struct bus_engine *e UNUSED, struct bus *b UNUSED,
		       const struct bus_notify *n UNUSED)
{
	engine_deleted++;
}

static void test_notify_engine(void **state UNUSED)
{
	struct bus_engine engine = { engine_add, engine_del };
	struct bus mmio, pio;
	int fd = eventfd(0, EFD_NONBLOCK);
	struct bus_notify a = { .addr = 1, .fd = fd }, c = a, bad = { .addr = 666, .fd = fd };

	bus_init(&mmio, BUS_MMIO);
	bus_init(&pio, BUS_PIO);
	mmio.engine = pio.engine = &engine;
	assert_int_equal(bus_notify_add(&mmio, &a), 0);
	assert_int_equal(engine_added, 1);
	/* A write that the engine hands over all the same rings too. */
	bus_write(&mmio, 1, 1, 0);
	assert_int_equal(rung(fd), 1);
	assert_int_equal(bus_notify_add(&mmio, &bad), -ENOSPC);
	assert_int_equal(mmio.nnotify, 1);
	assert_int_equal(bus_notify_add(&pio, &c), 0);
	bus_write(&pio, 1, 1, 0);
	assert_int_equal(rung(fd), 1);
	bus_notify_del(&pio, &c);
	assert_int_equal(engine_deleted, 0);
	bus_notify_del(&mmio, &a);
	assert_int_equal(engine_deleted, 1);
	bus_fini(&mmio);
	bus_fini(&pio);
	close(fd);
}

/* Ranges come and go while others look: every read finds the device or nobody. */
static struct bus busy;
static bool busy_stop, busy_wrong;

static void reader_main(void *arg UNUSED)
{
	while (!__atomic_load_n(&busy_stop, __ATOMIC_ACQUIRE)) {
		uint64_t v = bus_read(&busy, 0x100, 4);

		if (v != 0x11111111 && v != 0xffffffff)
			busy_wrong = true;
	}
}

static void test_threads(void **state UNUSED)
{
	static struct ram_dev d, e;
	struct thread t = { 0 };
	struct err err;

	bus_init(&busy, BUS_MMIO);
	ram_init(&d, 0, false);
	ram_init(&e, 0, false);
	memset(d.byte, 0x11, sizeof(d.byte));
	assert_int_equal(thread_start(&t, "reader", reader_main, NULL, &err), 0);
	for (int i = 0; i < 20000; i++) {
		assert_int_equal(bus_add(&busy, &d.r, 0x100, 16), 0);
		assert_int_equal(bus_add(&busy, &e.r, 0x80, 16), 0);
		bus_del(&busy, &d.r);
		bus_del(&busy, &e.r);
	}
	__atomic_store_n(&busy_stop, true, __ATOMIC_RELEASE);
	thread_join(&t);
	assert_false(busy_wrong);
	bus_fini(&busy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_decode),        cmocka_unit_test(test_unclaimed),
		cmocka_unit_test(test_full),          cmocka_unit_test(test_notify),
		cmocka_unit_test(test_notify_engine), cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
