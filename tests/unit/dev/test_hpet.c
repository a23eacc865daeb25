/* The HPET: counter, comparators, and the three ways of its interrupts. */
#include "lib/t.h"

#include "base/bits.h"
#include "lib/pc_rig.h"

#include <errno.h>

#define BASE 0xfed00000ull

/* 10 ns a tick. */
static const struct hpet_opts opts = { .base = BASE, .timers = 3, .hz = 100000000 };

static struct dev *pit, *rtc;

static void make(void)
{
	struct err e;
	struct rtc_opts ro = { .ncpus = 1 };
	struct hpet_opts o = opts;

	BUG_ON(pit_new(&rig.board, &pit, &e) < 0 || rtc_new(&rig.board, &ro, &rtc, &e) < 0);
	o.pit = pit;
	o.rtc = rtc;
	BUG_ON(hpet_new(&rig.board, &o, &rig.dev, &e) < 0);
}

static int setup(void **state)
{
	rig_board();
	make();
	board_start(&rig.board);
	return 0;
}

static int teardown(void **state)
{
	rig_board_fini(false);
	return 0;
}

static uint64_t rd(unsigned off)
{
	return bus_read(&rig.mmio, BASE + off, 8);
}

static void wr(unsigned off, uint64_t v)
{
	bus_write(&rig.mmio, BASE + off, 8, v);
}

static void test_capabilities(void **state)
{
	struct hpet_opts bad = opts;
	struct err e;

	assert_int_equal(rd(0), 10000000ull << 32 | 0x8086a201 | 1 << 15 | 1 << 13 | 2 << 8 | 1);
	assert_int_equal(bus_read(&rig.mmio, BASE + 4, 4), 10000000);
	assert_int_equal(rd(0x100), 0x00ff000000008030);
	assert_int_equal(rd(0x160), 0);
	wr(0, 0);
	assert_int_equal(rd(0) & 0xff, 1);
	bad.timers = 2;
	assert_int_equal(hpet_new(&rig.board, &bad, &rig.dev, &e), -EINVAL);
	bad = opts;
	bad.hz = 100000001;
	assert_int_equal(hpet_new(&rig.board, &bad, &rig.dev, &e), -EINVAL);
	bad = opts;
	assert_int_equal(hpet_new(&rig.board, &bad, &rig.dev, &e), -EBUSY);
}

static void test_counter(void **state)
{
	rig_run(1000, 1000);
	assert_int_equal(rd(0xf0), 0);
	wr(0xf0, 0xfffffffffull);
	wr(0x10, 1);
	rig_run(1000, 1000);
	assert_int_equal(rd(0xf0), 0xfffffffffull + 100);
	/* Not writable while it runs. */
	wr(0xf0, 5);
	assert_int_equal(rd(0xf0), 0xfffffffffull + 100);
	wr(0x10, 0);
	rig_run(1000, 1000);
	assert_int_equal(rd(0xf0), 0xfffffffffull + 100);
	/* By halves. */
	bus_write(&rig.mmio, BASE + 0xf4, 4, 1);
	bus_write(&rig.mmio, BASE + 0xf0, 4, 2);
	assert_int_equal(rd(0xf0), 0x100000002);
	wr(0x10, 1);
	rig_run(50, 50);
	assert_int_equal(bus_read(&rig.mmio, BASE + 0xf0, 4), 7);
}

static void test_one_shot_edge(void **state)
{
	/* Pin 20, 64 bits. */
	wr(0x120, 20 << 9 | 4);
	wr(0x10, 1);
	wr(0x128, 100000);
	rig_run(999 * NS_PER_US, 1000);
	assert_int_equal(rig.q.rises[20], 0);
	rig_run(2 * NS_PER_US, 1000);
	assert_int_equal(rig.q.rises[20], 1);
	assert_false(rig.q.level[20]);
	rig_run(100 * NS_PER_MS, NS_PER_MS);
	assert_int_equal(rig.q.rises[20], 1);
	assert_int_equal(rd(0x20), 0);
	/* Just passed: at once. */
	wr(0x128, rd(0xf0) - 5);
	rig_run(100, 100);
	assert_int_equal(rig.q.rises[20], 2);
	/* A pin that is none of its: nothing. */
	wr(0x120, 3 << 9 | 4);
	wr(0x128, rd(0xf0) + 5);
	rig_run(1000, 100);
	assert_int_equal(rig.q.rises[3], 0);
	wr(0x120, 31 << 9 | 4);
	wr(0x128, rd(0xf0) + 5);
	rig_run(1000, 100);
}

static void test_level(void **state)
{
	wr(0x100, 21 << 9 | 4 | 2);
	wr(0x10, 1);
	wr(0x108, 100);
	rig_run(2000, 100);
	assert_true(rig.q.level[21]);
	assert_int_equal(rd(0x20), 1);
	wr(0x20, 2);
	assert_true(rig.q.level[21]);
	wr(0x20, 1);
	assert_false(rig.q.level[21]);
	/* Disabled timers keep their status and let the line go. */
	wr(0x108, rd(0xf0) + 10);
	rig_run(2000, 100);
	assert_true(rig.q.level[21]);
	wr(0x100, 21 << 9 | 2);
	assert_false(rig.q.level[21]);
	assert_int_equal(rd(0x20), 1);
	wr(0x100, 21 << 9 | 4 | 2);
	assert_true(rig.q.level[21]);
	/* Another pin: the old one falls. */
	wr(0x100, 22 << 9 | 4 | 2);
	assert_false(rig.q.level[21]);
	assert_true(rig.q.level[22]);
	board_reset(&rig.board);
	assert_false(rig.q.level[22]);
}

static void test_periodic(void **state)
{
	wr(0x10, 1);
	rig_run(5000, 5000);
	/* Enable, periodic, set value; first at +100000, then every 200000. */
	wr(0x100, 20 << 9 | 4 | 8 | 0x40);
	wr(0x108, rd(0xf0) + 100000);
	assert_int_equal(rd(0x100) & 0x40, 0);
	wr(0x108, 200000);
	rig_run(999 * NS_PER_US, 1000);
	assert_int_equal(rig.q.rises[20], 0);
	rig_run(2 * NS_PER_US, 1000);
	assert_int_equal(rig.q.rises[20], 1);
	rig_run(2 * NS_PER_MS, 10000);
	assert_int_equal(rig.q.rises[20], 2);
	rig_run(20 * NS_PER_MS, 10000);
	assert_int_equal(rig.q.rises[20], 12);
	/* Late ones follow, the phase stays: the comparator is the next match. */
	rig_run(11 * NS_PER_MS, NS_PER_SEC);
	assert_int_equal(rig.q.rises[20], 13);
	rig_run(10 * NS_PER_MS, 10000);
	assert_int_equal(rig.q.rises[20], 22);
	/* The guest does not accept them. */
	rig.q.edge = IRQ_EDGE_MERGED;
	rig_run(10 * NS_PER_MS, 10000);
	assert_int_equal(rig.q.rises[20], 22);
	rig.q.edge = IRQ_EDGE_TAKEN;
	rig_run(10 * NS_PER_MS, 10000);
	assert_int_equal(rig.q.rises[20], 32);
	assert_int_equal((rd(0x108) - 500 - 100000) % 200000, 0);
	assert_true(rd(0x108) > rd(0xf0));
	/* A period of a tick does not keep the loop busy. */
	wr(0x100, 20 << 9 | 4 | 8 | 0x40);
	wr(0x108, 1);
	unsigned before = rig.q.rises[20];
	rig_run(10 * NS_PER_MS, 1000);
	assert_in_range(rig.q.rises[20] - before, 100, 202);
}

/* Level-triggered, the status bit is what waits. */
static void test_periodic_level(void **state)
{
	unsigned n = 0;

	wr(0x10, 1);
	wr(0x100, 20 << 9 | 2 | 4 | 8 | 0x40);
	wr(0x108, rd(0xf0) + 100000);
	wr(0x108, 100000);
	/* 1 ms each: ten are late by the host, ten by the guest, ten on time. */
	rig_run(10500 * NS_PER_US, NS_PER_SEC);
	rig_run(10 * NS_PER_MS, 10000);
	for (unsigned i = 0; i < 1000; i++) {
		rig_run(10 * NS_PER_US, 10000);
		/* What waits follows at once. */
		while (rig.q.level[20]) {
			assert_int_equal(rd(0x20), 1);
			wr(0x20, 1);
			n++;
		}
	}
	assert_int_equal(n, 30);
}

static void test_32bit(void **state)
{
	wr(0xf0, 0x1fffffff0ull);
	wr(0x100, 20 << 9 | 4 | 0x100);
	wr(0x10, 1);
	/* The low half wraps. */
	wr(0x108, 0x500000010ull);
	assert_int_equal(rd(0x108), 0x10);
	rig_run(300, 10);
	assert_int_equal(rig.q.rises[20], 0);
	rig_run(60 * NS_PER_US, 1000);
	assert_int_equal(rig.q.rises[20], 1);
	/* And comes by again after 2^32 ticks, 43 seconds. */
	rig_run(42 * NS_PER_SEC, NS_PER_SEC);
	assert_int_equal(rig.q.rises[20], 1);
	rig_run(2 * NS_PER_SEC, NS_PER_SEC);
	assert_int_equal(rig.q.rises[20], 2);
}

static void test_message(void **state)
{
	wr(0x110, 0xfee01000ull << 32 | 0x4041);
	wr(0x100, 1 << 14 | 4);
	wr(0x10, 1);
	wr(0x108, 1000);
	rig_run(100 * NS_PER_US, 1000);
	assert_int_equal(rig.q.msis, 1);
	assert_int_equal(rig.q.msi_addr, 0xfee01000);
	assert_int_equal(rig.q.msi_data, 0x4041);
}

static void test_legacy(void **state)
{
	/* The PIT at 100 Hz. */
	rig_out(0x43, 0x34);
	rig_out(0x40, 11932 & 0xff);
	rig_out(0x40, 11932 >> 8);
	rig_run(100 * NS_PER_MS, NS_PER_MS);
	assert_in_range(rig.q.rises[0], 9, 11);
	wr(0x10, 3);
	unsigned before = rig.q.rises[0];
	rig_run(100 * NS_PER_MS, NS_PER_MS);
	assert_int_equal(rig.q.rises[0], before);
	/* Timers 0 and 1 on GSI 0 and 8, whatever their routes say; 2 by its own. */
	wr(0x100, 20 << 9 | 4);
	wr(0x120, 4);
	wr(0x140, 21 << 9 | 4);
	uint64_t now = rd(0xf0);
	wr(0x108, now + 100000);
	wr(0x128, now + 100000);
	wr(0x148, now + 100000);
	rig_run(2 * NS_PER_MS, 10000);
	assert_int_equal(rig.q.rises[0], before + 1);
	assert_int_equal(rig.q.rises[8], 1);
	assert_int_equal(rig.q.rises[21], 1);
	assert_int_equal(rig.q.rises[20], 0);
	/* Back to the PIT. */
	wr(0x10, 1);
	before = rig.q.rises[0];
	rig_run(100 * NS_PER_MS, NS_PER_MS);
	assert_in_range(rig.q.rises[0] - before, 9, 11);
}

static void test_reload(void **state)
{
	wr(0x10, 1);
	wr(0x100, 20 << 9 | 4 | 8 | 0x40);
	wr(0x108, 100000);
	wr(0x120, 22 << 9 | 4 | 2);
	wr(0x128, 50);
	rig_run(1500 * NS_PER_US, 10000);
	assert_true(rig.q.level[22]);
	uint64_t counter = rd(0xf0);
	rig_reload(make);
	assert_int_equal(rd(0xf0), counter);
	assert_true(rig.q.level[22]);
	unsigned before = rig.q.rises[20];
	rig_run(490 * NS_PER_US, 10000);
	assert_int_equal(rig.q.rises[20], before);
	rig_run(20 * NS_PER_US, 1000);
	assert_int_equal(rig.q.rises[20], before + 1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_capabilities), T(test_counter),  T(test_one_shot_edge),
		T(test_level),        T(test_periodic), T(test_periodic_level),
		T(test_32bit),        T(test_message),  T(test_legacy),
		T(test_reload),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
