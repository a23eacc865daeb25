/* The 8254's six modes, commands and latches, on a clock that stands. */
#include "lib/t.h"

#include "lib/pc_rig.h"

#define HZ 1193182ull

/* The first nanosecond of a tick after the start. */
static uint64_t t0;

static void make(void)
{
	struct err e;

	BUG_ON(pit_new(&rig.board, &rig.dev, &e) < 0);
}

static int setup(void **state)
{
	rig_board();
	make();
	board_start(&rig.board);
	t0 = rig_now;
	return 0;
}

static int teardown(void **state)
{
	rig_board_fini(false);
	return 0;
}

/* To tick n since the start; the loop sees every tick if there are few. */
static void to_tick(uint64_t n)
{
	uint64_t at = t0 + (n * NS_PER_SEC + HZ - 1) / HZ;

	rig_run(at - rig_now, NS_PER_SEC / HZ / 2);
}

static void control(unsigned ch, unsigned rw, unsigned mode, unsigned bcd)
{
	rig_out(0x43, (uint8_t)(ch << 6 | rw << 4 | mode << 1 | bcd));
}

static void load(unsigned ch, unsigned v)
{
	rig_out(0x40 + ch, v & 0xff);
	rig_out(0x40 + ch, (uint8_t)(v >> 8));
}

static unsigned count(unsigned ch)
{
	rig_out(0x43, (uint8_t)(ch << 6));
	unsigned v = rig_in(0x40 + ch);

	return v | (unsigned)rig_in(0x40 + ch) << 8;
}

static unsigned status(unsigned ch)
{
	rig_out(0x43, (uint8_t)(0xe0 | 2 << ch));
	return rig_in(0x40 + ch);
}

static bool out2(void)
{
	return rig_in(0x61) & 0x20;
}

static void test_mode0(void **state)
{
	rig_out(0x61, 1);
	control(2, 3, 0, 0);
	assert_false(out2());
	assert_int_equal(status(2), 0x40 | 3 << 4);
	load(2, 100);
	assert_int_equal(status(2), 3 << 4);
	to_tick(40);
	assert_int_equal(count(2), 60);
	/* A closed gate stops it. */
	rig_out(0x61, 0);
	to_tick(60);
	assert_int_equal(count(2), 60);
	rig_out(0x61, 1);
	to_tick(119);
	assert_false(out2());
	to_tick(120);
	assert_true(out2());
	/* It goes on counting from 0xffff. */
	to_tick(121);
	assert_int_equal(count(2), 0xffff);
	assert_true(out2());
	/* The first byte of a new count stops it and lowers the output. */
	rig_out(0x42, 10);
	assert_false(out2());
	to_tick(200);
	assert_false(out2());
	rig_out(0x42, 0);
	to_tick(210);
	assert_true(out2());
}

static void test_mode1(void **state)
{
	control(2, 3, 1, 0);
	load(2, 50);
	assert_true(out2());
	to_tick(100);
	assert_true(out2());
	rig_out(0x61, 1);
	assert_false(out2());
	to_tick(149);
	assert_false(out2());
	to_tick(150);
	assert_true(out2());
	/* Retriggered in the middle; a new count is taken at the trigger. */
	rig_out(0x61, 0);
	rig_out(0x61, 1);
	to_tick(170);
	load(2, 10);
	rig_out(0x61, 0);
	assert_false(out2());
	assert_int_equal(count(2), 30);
	rig_out(0x61, 1);
	to_tick(179);
	assert_false(out2());
	to_tick(180);
	assert_true(out2());
}

static void test_mode2(void **state)
{
	rig_out(0x61, 1);
	control(2, 3, 2, 0);
	load(2, 10);
	for (unsigned n = 0; n < 30; n++) {
		to_tick(n);
		assert_int_equal(count(2), 10 - n % 10);
		assert_int_equal(out2(), n % 10 != 9);
	}
	/* A new count waits for the end of the period. */
	to_tick(33);
	load(2, 5);
	assert_int_equal(status(2) & 0x40, 0x40);
	assert_int_equal(count(2), 7);
	to_tick(39);
	assert_int_equal(count(2), 1);
	to_tick(40);
	assert_int_equal(count(2), 5);
	assert_int_equal(status(2) & 0x40, 0);
	to_tick(45);
	assert_int_equal(count(2), 5);
	/* The gate: low keeps the output high, a rise starts over. */
	to_tick(49);
	assert_false(out2());
	rig_out(0x61, 0);
	assert_true(out2());
	to_tick(52);
	rig_out(0x61, 1);
	assert_int_equal(count(2), 5);
	to_tick(56);
	assert_false(out2());
}

static void test_mode3(void **state)
{
	rig_out(0x61, 1);
	control(2, 3, 3, 0);
	load(2, 6);
	static const unsigned even[] = { 6, 4, 2, 6, 4, 2 };
	for (unsigned n = 0; n < 12; n++) {
		to_tick(n);
		assert_int_equal(count(2), even[n % 6]);
		assert_int_equal(out2(), n % 6 < 3);
	}
	/* Odd: high a tick longer.  Written in the high half, it begins with the low one. */
	to_tick(13);
	load(2, 5);
	to_tick(15);
	assert_false(out2());
	to_tick(17);
	assert_true(out2());
	static const unsigned odd[] = { 4, 2, 0, 4, 2 };
	for (unsigned n = 17; n < 27; n++) {
		to_tick(n);
		assert_int_equal(count(2), odd[(n - 17) % 5]);
		assert_int_equal(out2(), (n - 17) % 5 < 3);
	}
	/* Written in the low half: with the next period.  Mode 7 is mode 3. */
	control(2, 3, 7, 0);
	load(2, 8);
	to_tick(32);
	load(2, 4);
	assert_false(out2());
	to_tick(35);
	assert_true(out2());
	to_tick(37);
	assert_false(out2());
	to_tick(39);
	assert_true(out2());
	assert_int_equal(status(2) >> 1 & 7, 3);
}

static void test_mode4(void **state)
{
	rig_out(0x61, 1);
	control(2, 3, 4, 0);
	load(2, 20);
	to_tick(19);
	assert_true(out2());
	to_tick(20);
	assert_false(out2());
	to_tick(21);
	assert_true(out2());
	to_tick(50);
	assert_true(out2());
}

static void test_mode5(void **state)
{
	control(2, 3, 5, 0);
	load(2, 20);
	to_tick(30);
	assert_true(out2());
	rig_out(0x61, 1);
	to_tick(50);
	assert_false(out2());
	to_tick(51);
	assert_true(out2());
}

static void test_bcd(void **state)
{
	rig_out(0x61, 1);
	control(2, 3, 2, 1);
	load(2, 0x1000);
	to_tick(1);
	assert_int_equal(count(2), 0x0999);
	to_tick(999);
	assert_int_equal(count(2), 0x0001);
	control(2, 3, 0, 1);
	/* 0 is 10000. */
	load(2, 0);
	to_tick(1000);
	assert_int_equal(count(2), 0x9999);
	assert_int_equal(status(2) & 1, 1);
}

static void test_access_modes(void **state)
{
	rig_out(0x61, 1);
	/* Low byte only: the high one is 0. */
	control(2, 1, 2, 0);
	rig_out(0x42, 200);
	to_tick(50);
	assert_int_equal(rig_in(0x42), 150);
	/* High byte only. */
	control(2, 2, 2, 0);
	rig_out(0x42, 2);
	to_tick(51);
	assert_int_equal(rig_in(0x42), 1);
	/* A latch holds while time goes on, and a second one is not taken. */
	control(2, 3, 2, 0);
	load(2, 0x1234);
	to_tick(51 + 4);
	rig_out(0x43, 0x80);
	to_tick(51 + 100);
	rig_out(0x43, 0x80);
	assert_int_equal(rig_in(0x42), 0x30);
	assert_int_equal(rig_in(0x42), 0x12);
	/* Unlatched again. */
	assert_int_equal(rig_in(0x42), (0x1234 - 100) & 0xff);
	assert_int_equal(rig_in(0x42), (0x1234 - 100) >> 8);
	/* Read-back of two channels' status and count: status comes first. */
	control(0, 3, 2, 0);
	load(0, 1000);
	rig_out(0x43, 0xc0 | 2 | 8);
	assert_int_equal(rig_in(0x42), 0x80 | 3 << 4 | 2 << 1);
	assert_int_equal(rig_in(0x42), (0x1234 - 100) & 0xff);
	assert_int_equal(rig_in(0x42), (0x1234 - 100) >> 8);
	assert_int_equal(rig_in(0x40), 0x80 | 3 << 4 | 2 << 1);
	assert_int_equal(rig_in(0x40), 1000 & 0xff);
	assert_int_equal(rig_in(0x40), 1000 >> 8);
	/* The control word cannot be read. */
	assert_int_equal(rig_in(0x43), 0xff);
}

static void test_interrupts(void **state)
{
	/* 100 Hz for a second. */
	control(0, 3, 2, 0);
	load(0, 11932);
	unsigned before = rig.q.rises[0];
	rig_run(NS_PER_SEC, NS_PER_MS);
	/* 99.998 of them. */
	assert_int_equal(rig.q.rises[0] - before, 99);
	rig_run(NS_PER_MS, NS_PER_MS);
	assert_int_equal(rig.q.rises[0] - before, 100);
	/* One shot. */
	control(0, 3, 0, 0);
	assert_false(rig.q.level[0]);
	load(0, 1194);
	before = rig.q.rises[0];
	rig_run(1000 * NS_PER_US, 100 * NS_PER_US);
	assert_int_equal(rig.q.rises[0] - before, 0);
	rig_run(10 * NS_PER_MS, 100 * NS_PER_US);
	assert_int_equal(rig.q.rises[0] - before, 1);
	assert_true(rig.q.level[0]);
	/* A period of 2 us does not keep the loop busy. */
	control(0, 3, 2, 0);
	load(0, 2);
	before = rig.q.rises[0];
	rig_run(10 * NS_PER_MS, 1000);
	assert_in_range(rig.q.rises[0] - before, 150, 201);
	/* The HPET takes the line. */
	pit_route(rig.dev, false);
	assert_false(rig.q.level[0]);
	before = rig.q.rises[0];
	rig_run(NS_PER_MS, 10000);
	assert_int_equal(rig.q.rises[0], before);
}

static void test_late_edges_follow(void **state)
{
	control(0, 3, 2, 0);
	load(0, 11932);
	unsigned before = rig.q.rises[0];
	/* The loop sleeps for 50 periods of 10 ms; they follow, at most four to a period. */
	rig_run(505 * NS_PER_MS, NS_PER_SEC);
	assert_int_equal(rig.q.rises[0] - before, 1);
	rig_run(10 * NS_PER_MS, NS_PER_MS / 10);
	assert_in_range(rig.q.rises[0] - before, 4, 6);
	rig_run(200 * NS_PER_MS, NS_PER_MS / 10);
	assert_int_equal(rig.q.rises[0] - before, 71);
	/* On time again. */
	rig_run(100 * NS_PER_MS, NS_PER_MS / 10);
	assert_int_equal(rig.q.rises[0] - before, 81);
	/* Ten seconds' at most. */
	rig_run(100 * NS_PER_SEC, 1000 * NS_PER_SEC);
	rig_run(20 * NS_PER_SEC, NS_PER_MS);
	assert_in_range(rig.q.rises[0] - before, 81 + 2998, 81 + 3002);
}

static void test_edges_wait_for_the_guest(void **state)
{
	control(0, 3, 2, 0);
	load(0, 11932);
	unsigned before = rig.q.rises[0];
	rig_run(15 * NS_PER_MS, NS_PER_MS / 10);
	assert_int_equal(rig.q.rises[0] - before, 1);
	/* It does not accept the first one for 10 periods, and travels. */
	rig.q.edge = IRQ_EDGE_MERGED;
	rig_run(100 * NS_PER_MS, NS_PER_MS / 10);
	assert_int_equal(rig.q.rises[0] - before, 1);
	rig_reload(make);
	rig.q.edge = IRQ_EDGE_TAKEN;
	before = rig.q.rises[0];
	rig_run(100 * NS_PER_MS, NS_PER_MS / 10);
	assert_int_equal(rig.q.rises[0] - before, 20);
	/* Each that it accepts is followed by another at once. */
	rig.q.edge = IRQ_EDGE_MERGED;
	rig_run(50 * NS_PER_MS, NS_PER_MS / 10);
	rig.q.edge = IRQ_EDGE_TAKEN;
	before = rig.q.rises[0];
	for (unsigned n = 0; n < 10; n++)
		irq_accepted(&rig.q.irqs);
	assert_int_equal(rig.q.rises[0] - before, 5);
	/* Masked, it does not listen. */
	rig.q.edge = IRQ_EDGE_UNHEARD;
	rig_run(100 * NS_PER_MS, NS_PER_MS / 10);
	rig.q.edge = IRQ_EDGE_TAKEN;
	before = rig.q.rises[0];
	rig_run(100 * NS_PER_MS, NS_PER_MS / 10);
	assert_int_equal(rig.q.rises[0] - before, 10);
	/* Nor does it want those of another count. */
	rig.q.edge = IRQ_EDGE_MERGED;
	rig_run(100 * NS_PER_MS, NS_PER_MS / 10);
	control(0, 3, 2, 0);
	load(0, 11932);
	rig.q.edge = IRQ_EDGE_TAKEN;
	before = rig.q.rises[0];
	rig_run(95 * NS_PER_MS, NS_PER_MS / 10);
	assert_int_equal(rig.q.rises[0] - before, 9);
}

static void test_port61(void **state)
{
	rig_out(0x61, 0xff);
	assert_int_equal(rig_in(0x61) & 0xcf, 0x0f);
	unsigned toggles = 0, last = rig_in(0x61) & 0x10;
	for (unsigned n = 0; n < 1000; n++) {
		rig_run(1000, 1000);
		toggles += (rig_in(0x61) & 0x10) != last;
		last = rig_in(0x61) & 0x10;
	}
	/* A millisecond of refresh cycles. */
	assert_in_range(toggles, 65, 67);
}

static void test_pause_and_reload(void **state)
{
	control(0, 3, 2, 0);
	load(0, 11932);
	rig_out(0x61, 1);
	control(2, 3, 0, 0);
	load(2, 60000);
	to_tick(10000);
	/* Time stands while the VM is stopped. */
	board_stop(&rig.board);
	unsigned before = rig.q.rises[0];
	rig_run(NS_PER_SEC, NS_PER_MS);
	assert_int_equal(rig.q.rises[0], before);
	assert_int_equal(count(2), 50000);
	board_start(&rig.board);
	assert_int_equal(count(2), 50000);
	rig_reload(make);
	assert_int_equal(count(2), 50000);
	assert_int_equal(count(0), 1932);
	before = rig.q.rises[0];
	/* 1932 ticks are 1.62 ms. */
	rig_run(1600 * NS_PER_US, 10000);
	assert_int_equal(rig.q.rises[0], before);
	rig_run(50 * NS_PER_US, 10000);
	assert_int_equal(rig.q.rises[0], before + 1);
}

/* A counter that passed its end long ago: its turns do not add up in what is saved. */
static void test_reload_after_years(void **state)
{
	rig_out(0x61, 1);
	control(2, 3, 0, 1);
	load(2, 0x100);
	control(0, 3, 2, 0);
	load(0, 1000);
	rig_now += 20 * 365 * 86400 * NS_PER_SEC;
	unsigned c0 = count(0), c2 = count(2);
	rig_reload(make);
	assert_int_equal(count(0), c0);
	assert_int_equal(count(2), c2);
	assert_true(out2());
}

static void test_reset(void **state)
{
	control(0, 3, 2, 0);
	load(0, 1000);
	rig_out(0x61, 3);
	board_reset(&rig.board);
	assert_false(rig.q.level[0]);
	assert_int_equal(rig_in(0x61) & 0xf, 0);
	unsigned before = rig.q.rises[0];
	rig_run(NS_PER_SEC, NS_PER_MS);
	assert_int_equal(rig.q.rises[0], before);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_mode0),
		T(test_mode1),
		T(test_mode2),
		T(test_mode3),
		T(test_mode4),
		T(test_mode5),
		T(test_bcd),
		T(test_access_modes),
		T(test_interrupts),
		T(test_late_edges_follow),
		T(test_edges_wait_for_the_guest),
		T(test_port61),
		T(test_pause_and_reload),
		T(test_reload_after_years),
		T(test_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
