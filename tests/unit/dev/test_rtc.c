/* The clock: calendar in all formats, setting it, its three interrupts, and CMOS memory. */
#include "lib/t.h"

#include "lib/pc_rig.h"

#include <time.h>

static const struct rtc_opts opts = {
	.ram_low = 3ull << 30,
	.ram_high = 5ull << 30,
	.ncpus = 4,
};

static void make(void)
{
	struct err e;

	BUG_ON(rtc_new(&rig.board, &opts, &rig.dev, &e) < 0);
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

static unsigned rd(unsigned reg)
{
	rig_out(0x70, (uint8_t)reg);
	return rig_in(0x71);
}

static void wr(unsigned reg, unsigned v)
{
	rig_out(0x70, (uint8_t)reg);
	rig_out(0x71, (uint8_t)v);
}

static void expect(unsigned hour, unsigned min, unsigned sec, unsigned year, unsigned mon,
		   unsigned day, unsigned weekday)
{
	assert_int_equal(rd(0), sec);
	assert_int_equal(rd(2), min);
	assert_int_equal(rd(4), hour);
	assert_int_equal(rd(6), weekday);
	assert_int_equal(rd(7), day);
	assert_int_equal(rd(8), mon);
	assert_int_equal(rd(0x32) << 8 | rd(9), year);
}

static void test_calendar(void **state)
{
	/* BCD, 24 hours: the reset state. */
	expect(0x23, 0x59, 0x50, 0x2024, 0x02, 0x28, 4);
	rig_run(10 * NS_PER_SEC, NS_PER_SEC);
	/* A leap day. */
	expect(0x00, 0x00, 0x00, 0x2024, 0x02, 0x29, 5);
	wr(0xb, 6);
	rig_run(23 * 3600 * NS_PER_SEC, 3600 * NS_PER_SEC);
	assert_int_equal(rd(4), 23);
	assert_int_equal(rd(7), 29);
	assert_int_equal(rd(9), 24);
	/* 12 hours, binary and BCD. */
	wr(0xb, 4);
	assert_int_equal(rd(4), 0x80 | 11);
	wr(0xb, 0);
	assert_int_equal(rd(4), 0x91);
	rig_run(3600 * NS_PER_SEC, 3600 * NS_PER_SEC);
	assert_int_equal(rd(4), 0x12);
	assert_int_equal(rd(7), 1);
	assert_int_equal(rd(8), 3);
	rig_run(12 * 3600 * NS_PER_SEC, 3600 * NS_PER_SEC);
	assert_int_equal(rd(4), 0x92);
}

static void test_update_in_progress(void **state)
{
	assert_int_equal(rd(0xa), 0x26);
	rig_run(NS_PER_SEC - 245000, NS_PER_SEC);
	assert_int_equal(rd(0xa), 0x26);
	rig_run(1000, 1000);
	assert_int_equal(rd(0xa), 0xa6);
	/* It cannot be written. */
	wr(0xa, 0xa6);
	rig_run(244000, 1000);
	assert_int_equal(rd(0xa), 0x26);
	assert_int_equal(rd(0), 0x51);
	assert_int_equal(rd(0xd), 0x80);
}

static void test_set(void **state)
{
	/* As Linux does: SET, write, release. */
	wr(0xb, 0x82);
	rig_run(5 * NS_PER_SEC, NS_PER_SEC);
	assert_int_equal(rd(0), 0x50);
	wr(0, 0x30);
	wr(2, 0x15);
	wr(4, 0x08);
	wr(7, 0x31);
	wr(8, 0x12);
	wr(9, 0x99);
	wr(0x32, 0x19);
	wr(6, 6);
	assert_int_equal(rd(0), 0x30);
	wr(0xb, 2);
	rig_run(2 * NS_PER_SEC, NS_PER_SEC);
	expect(0x08, 0x15, 0x32, 0x1999, 0x12, 0x31, 6);
	rig_run(86400 * NS_PER_SEC, 3600 * NS_PER_SEC);
	expect(0x08, 0x15, 0x32, 0x2000, 0x01, 0x01, 7);
	/* A weekday that is not the date's stays that far off. */
	wr(6, 1);
	assert_int_equal(rd(6), 1);
	rig_run(86400 * NS_PER_SEC, 3600 * NS_PER_SEC);
	assert_int_equal(rd(6), 2);
	/* One field without SET. */
	wr(2, 0x45);
	expect(0x08, 0x45, 0x32, 0x2000, 0x01, 0x02, 2);
	/* Nonsense is some time, and does not break the clock. */
	wr(8, 0xff);
	wr(7, 0xff);
	rd(8);
	wr(0x32, 0xff);
	wr(9, 0xff);
	rig_run(10 * NS_PER_SEC, NS_PER_SEC);
	assert_in_range(rd(8), 1, 0x12);
}

static void test_divider_reset(void **state)
{
	/* Linux holds the divider to set the time to half a second. */
	wr(0xb, 0x82);
	wr(0xa, 0x76);
	wr(0, 0x10);
	wr(0xb, 0x02);
	rig_run(3 * NS_PER_SEC, NS_PER_SEC);
	assert_int_equal(rd(0), 0x10);
	wr(0xa, 0x26);
	rig_run(499 * NS_PER_MS, NS_PER_MS);
	assert_int_equal(rd(0), 0x10);
	rig_run(2 * NS_PER_MS, NS_PER_MS);
	assert_int_equal(rd(0), 0x11);
}

static void test_periodic(void **state)
{
	/* 1024 Hz; each has to be acknowledged. */
	wr(0xb, 0x42);
	unsigned n = 0;
	for (unsigned i = 0; i < 100000; i++) {
		rig_run(10000, 10000);
		if (rig.q.level[8]) {
			n++;
			assert_int_equal(rd(0xc) & 0xc0, 0xc0);
			assert_false(rig.q.level[8]);
		}
	}
	assert_in_range(n, 1023, 1025);
	/* 2 Hz. */
	wr(0xa, 0x2f);
	rd(0xc);
	unsigned before = rig.q.rises[8];
	for (unsigned i = 0; i < 100; i++) {
		rig_run(100 * NS_PER_MS, NS_PER_MS);
		rd(0xc);
	}
	assert_in_range(rig.q.rises[8] - before, 19, 21);
	/* Unacknowledged it stays up; the others follow, if somebody listens. */
	before = rig.q.rises[8];
	rig_run(9 * NS_PER_SEC, NS_PER_MS);
	assert_int_equal(rig.q.rises[8] - before, 1);
	for (unsigned i = 0; i < 50; i++) {
		rig_run(200 * NS_PER_MS, NS_PER_MS);
		rd(0xc);
	}
	assert_in_range(rig.q.rises[8] - before, 37, 39);
	rig.q.edge = IRQ_EDGE_UNHEARD;
	rig_run(9 * NS_PER_SEC, NS_PER_MS);
	rd(0xc);
	rig.q.edge = IRQ_EDGE_TAKEN;
	before = rig.q.rises[8];
	for (unsigned i = 0; i < 50; i++) {
		rig_run(200 * NS_PER_MS, NS_PER_MS);
		rd(0xc);
	}
	assert_in_range(rig.q.rises[8] - before, 19, 21);
	/* A late host. */
	before = rig.q.rises[8];
	rig_run(5 * NS_PER_SEC, 10 * NS_PER_SEC);
	for (unsigned i = 0; i < 50; i++) {
		rig_run(200 * NS_PER_MS, NS_PER_MS);
		rd(0xc);
	}
	assert_in_range(rig.q.rises[8] - before, 29, 31);
	/* Without the interrupt, the flag alone. */
	wr(0xb, 2);
	assert_false(rig.q.level[8]);
	rd(0xc);
	rig_run(NS_PER_SEC, NS_PER_MS);
	assert_int_equal(rd(0xc) & 0xc0, 0x40);
	assert_int_equal(rd(0xc), 0);
	/* Rates 1 and 2 are those of 8 and 9: 256 and 128 Hz; 3 is the fastest, 8192 Hz. */
	static const struct {
		unsigned rate, hz;
	} fast[] = { { 0x21, 256 }, { 0x22, 128 }, { 0x23, 8192 }, { 0x28, 256 }, { 0x29, 128 } };
	for (unsigned i = 0; i < COUNT_OF(fast); i++) {
		wr(0xa, fast[i].rate);
		n = 0;
		for (unsigned k = 0; k < 20000; k++) {
			rig_run(50000, 50000);
			n += rd(0xc) >> 6 & 1;
		}
		assert_in_range(n, fast[i].hz - 1, fast[i].hz + 1);
	}
	/* Rate 0: none. */
	wr(0xa, 0x20);
	rig_run(NS_PER_SEC, NS_PER_MS);
	assert_int_equal(rd(0xc) & 0x40, 0);
}

static void test_update_interrupt(void **state)
{
	wr(0xa, 0x20);
	wr(0xb, 0x12);
	unsigned n = 0;
	for (unsigned i = 0; i < 1000; i++) {
		rig_run(10 * NS_PER_MS, NS_PER_MS);
		if (rig.q.level[8]) {
			n++;
			assert_int_equal(rd(0xc) & 0x90, 0x90);
			/* On the second. */
			assert_true(rig_wall % NS_PER_SEC <= 10 * NS_PER_MS);
		}
	}
	assert_int_equal(n, 10);
	/* SET turns it off. */
	wr(0xb, 0x92);
	assert_int_equal(rd(0xb), 0x82);
}

static void test_alarm(void **state)
{
	wr(0xa, 0x20);
	/* At 00:00:05. */
	wr(5, 0);
	wr(3, 0);
	wr(1, 5);
	wr(0xb, 0x22);
	rig_run(14900 * NS_PER_MS, NS_PER_MS);
	assert_false(rig.q.level[8]);
	rig_run(200 * NS_PER_MS, NS_PER_MS);
	assert_true(rig.q.level[8]);
	assert_int_equal(rd(0xc), 0xb0);
	/* Once a day. */
	rig_run(86300 * NS_PER_SEC, 100 * NS_PER_SEC);
	assert_false(rig.q.level[8]);
	rig_run(110 * NS_PER_SEC, NS_PER_SEC);
	assert_true(rig.q.level[8]);
	/* Any minute, any hour, at 30 seconds. */
	rd(0xc);
	wr(5, 0xff);
	wr(3, 0xc0);
	wr(1, 0x30);
	unsigned n = 0;
	for (unsigned i = 0; i < 600; i++) {
		rig_run(NS_PER_SEC, 500 * NS_PER_MS);
		if (rd(0xc) & 0x20) {
			assert_int_equal(rd(0), 0x30);
			n++;
		}
	}
	assert_int_equal(n, 10);
	/* A second that never comes; PM in 12-hour mode. */
	wr(1, 0x75);
	rig_run(100000 * NS_PER_SEC, 1000 * NS_PER_SEC);
	assert_int_equal(rd(0xc) & 0x20, 0);
	wr(0xb, 0x20);
	wr(5, 0x81);
	wr(3, 0x00);
	wr(1, 0x00);
	rig_run(86400 * NS_PER_SEC, 60 * NS_PER_SEC);
	assert_int_equal(rd(0xc) & 0x20, 0x20);
}

/* The alarm's search against a walk through the day. */
static void test_alarm_model(void **state)
{
	uint64_t seed = 146818;

	printf("# seed %#lx\n", (unsigned long)seed);
	wr(0xa, 0x20);
	wr(0xb, 0x26);
	for (unsigned n = 0; n < 300; n++) {
		unsigned h = t_rnd(&seed) % 26, m = t_rnd(&seed) % 62, s = t_rnd(&seed) % 62;

		h = t_rnd(&seed) & 1 ? 0xff : h;
		m = t_rnd(&seed) & 1 ? 0xff : m;
		s = t_rnd(&seed) & 1 ? 0xff : s;
		/* Set it while nothing is pending, then jump. */
		wr(0xb, 0x06);
		wr(5, h);
		wr(3, m);
		wr(1, s);
		rd(0xc);
		uint64_t from = rig_wall / NS_PER_SEC, len = t_rnd(&seed) % 100000;
		bool want = false;
		for (uint64_t t = from + 1; t <= from + len && !want; t++) {
			unsigned d = (unsigned)(t % 86400);

			want = (h >= 0xc0 || d / 3600 == h) && (m >= 0xc0 || d / 60 % 60 == m) &&
			       (s >= 0xc0 || d % 60 == s);
		}
		rig_now += len * NS_PER_SEC;
		rig_wall += len * NS_PER_SEC;
		assert_int_equal(!!(rd(0xc) & 0x20), want);
	}
}

static void test_cmos(void **state)
{
	/* 3 GiB below 4 GiB, 5 above, 4 CPUs. */
	assert_int_equal(rd(0x16) << 8 | rd(0x15), 640);
	assert_int_equal(rd(0x18) << 8 | rd(0x17), 0xffff);
	assert_int_equal(rd(0x35) << 8 | rd(0x34), (3072u - 16) * 16);
	assert_int_equal(rd(0x5d) << 16 | rd(0x5c) << 8 | rd(0x5b), 5 << 14);
	assert_int_equal(rd(0x5f), 3);
	wr(0x40, 0x5a);
	assert_int_equal(rd(0x40), 0x5a);
	/* The second bank is another. */
	rig_out(0x72, 0x40);
	assert_int_equal(rig_in(0x73), 0);
	rig_out(0x73, 0xa5);
	assert_int_equal(rd(0x40), 0x5a);
	assert_int_equal(rig_in(0x73), 0xa5);
	rig_out(0x72, 0xff);
	assert_int_equal(rig_in(0x72), 0x7f);
	/* Bit 7 of the index masks NMIs. */
	assert_false(rtc_nmi_masked(rig.dev));
	rig_out(0x70, 0xc0);
	assert_true(rtc_nmi_masked(rig.dev));
	assert_int_equal(rig_in(0x71), 0x5a);
	assert_int_equal(rig_in(0x70), 0xff);
	/* A reset keeps memory and time and turns interrupts off. */
	wr(0xb, 0x42);
	board_reset(&rig.board);
	assert_int_equal(rd(0x40), 0x5a);
	assert_int_equal(rd(0xb), 0x02);
	expect(0x23, 0x59, 0x50, 0x2024, 0x02, 0x28, 4);
}

static void test_route(void **state)
{
	wr(0xb, 0x42);
	rig_run(10 * NS_PER_MS, NS_PER_MS);
	assert_true(rig.q.level[8]);
	rtc_route(rig.dev, false);
	assert_false(rig.q.level[8]);
	assert_int_equal(rd(0xc), 0xc0);
	rtc_route(rig.dev, true);
	rig_run(10 * NS_PER_MS, NS_PER_MS);
	assert_true(rig.q.level[8]);
}

static void test_reload(void **state)
{
	wr(2, 0x11);
	wr(0xb, 0x42);
	rig_run(10 * NS_PER_MS, NS_PER_MS);
	assert_true(rig.q.level[8]);
	wr(0x50, 0x77);
	rig_reload(make);
	assert_true(rig.q.level[8]);
	assert_int_equal(rd(0x50), 0x77);
	assert_int_equal(rd(2), 0x11);
	/* Each period's, one after the other. */
	for (unsigned n = 0; n < 10; n++)
		assert_int_equal(rd(0xc) & 0xc0, 0xc0);
	assert_int_equal(rd(0xc), 0);
	/* The calendar follows the host's while the VM is stopped, the ticks do not. */
	board_stop(&rig.board);
	rig_run(100 * NS_PER_SEC, NS_PER_SEC);
	assert_false(rig.q.level[8]);
	board_start(&rig.board);
	assert_false(rig.q.level[8]);
	assert_int_equal(rd(2), 0x13);
	rig_run(NS_PER_MS, 100000);
	assert_true(rig.q.level[8]);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_calendar), T(test_update_in_progress),
		T(test_set),      T(test_divider_reset),
		T(test_periodic), T(test_update_interrupt),
		T(test_alarm),    T(test_alarm_model),
		T(test_cmos),     T(test_route),
		T(test_reload),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
