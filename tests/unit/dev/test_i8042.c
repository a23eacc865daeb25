/* The keyboard controller, its keyboard and its mouse. */
#include "lib/t.h"

#include "lib/pc_rig.h"

static void make(void)
{
	struct err e;

	BUG_ON(i8042_new(&rig.board, &rig.dev, &e) < 0);
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

static unsigned status(void)
{
	return rig_in(0x64);
}

/* Reads what is there, which must be these bytes. */
static void expect(unsigned n, ...)
{
	va_list ap;

	va_start(ap, n);
	for (unsigned i = 0; i < n; i++) {
		assert_true(status() & 1);
		assert_int_equal(rig_in(0x60), va_arg(ap, int));
	}
	va_end(ap);
	assert_false(status() & 1);
}

static void command(unsigned c)
{
	rig_out(0x64, (uint8_t)c);
}

static void kbd(unsigned v)
{
	rig_out(0x60, (uint8_t)v);
}

static void mouse(unsigned v)
{
	command(0xd4);
	rig_out(0x60, (uint8_t)v);
}

static void test_controller(void **state)
{
	assert_int_equal(status(), 0x14);
	command(0xaa);
	assert_int_equal(status() & 0x09, 0x09);
	expect(1, 0x55);
	command(0xab);
	expect(1, 0);
	command(0xa9);
	expect(1, 0);
	command(0x20);
	expect(1, 0x47);
	command(0x60);
	rig_out(0x60, 0x65);
	assert_int_equal(status() & 8, 0);
	command(0x20);
	expect(1, 0x65);
	/* Other RAM bytes. */
	command(0x75);
	rig_out(0x60, 0xab);
	command(0x35);
	expect(1, 0xab);
	/* Disable and enable by command. */
	command(0xad);
	command(0xa7);
	command(0x20);
	expect(1, 0x75);
	command(0xae);
	command(0xa8);
	command(0x20);
	expect(1, 0x45);
	command(0xa4);
	expect(1, 0xf1);
	command(0xc0);
	expect(1, 0xa0);
	command(0xe0);
	expect(1, 3);
	/* Bytes as if from the devices. */
	command(0xd2);
	rig_out(0x60, 0x12);
	assert_int_equal(status() & 0x20, 0);
	expect(1, 0x12);
	command(0xd3);
	rig_out(0x60, 0x34);
	assert_int_equal(status() & 0x20, 0x20);
	expect(1, 0x34);
}

static void test_output_port(void **state)
{
	command(0xd0);
	expect(1, 0xcf);
	command(0xdd);
	command(0xd0);
	expect(1, 0xcd);
	command(0xdf);
	command(0xd1);
	rig_out(0x60, 0xdf);
	assert_int_equal(rig.requests[BOARD_RESET], 0);
	/* Output 0 low is the reset, as a level or as a pulse. */
	command(0xd1);
	rig_out(0x60, 0xfe);
	assert_int_equal(rig.requests[BOARD_RESET], 1);
	command(0xff);
	assert_int_equal(rig.requests[BOARD_RESET], 1);
	command(0xfe);
	assert_int_equal(rig.requests[BOARD_RESET], 2);
}

static void test_keyboard_commands(void **state)
{
	/* Untranslated, to see its own bytes. */
	command(0x60);
	rig_out(0x60, 0x05);
	kbd(0xff);
	expect(2, 0xfa, 0xaa);
	kbd(0xf2);
	expect(3, 0xfa, 0xab, 0x83);
	kbd(0xee);
	expect(1, 0xee);
	kbd(0xed);
	expect(1, 0xfa);
	kbd(0x06);
	expect(1, 0xfa);
	assert_int_equal(i8042_leds(rig.dev), 6);
	kbd(0xf3);
	kbd(0x00);
	expect(2, 0xfa, 0xfa);
	kbd(0xf0);
	kbd(0);
	expect(3, 0xfa, 0xfa, 2);
	kbd(0xf0);
	kbd(1);
	kbd(0xf0);
	kbd(0);
	expect(5, 0xfa, 0xfa, 0xfa, 0xfa, 1);
	kbd(0xf0);
	kbd(3);
	expect(2, 0xfa, 0xfe);
	kbd(0x00);
	expect(1, 0xfe);
	/* A command in the place of an argument. */
	kbd(0xed);
	kbd(0xf4);
	expect(2, 0xfa, 0xfa);
	/* Resend. */
	kbd(0xf2);
	expect(3, 0xfa, 0xab, 0x83);
	kbd(0xfe);
	expect(1, 0x83);
	/* Off: keys are not heard. */
	kbd(0xf5);
	expect(1, 0xfa);
	i8042_key(rig.dev, 0x1e, true);
	expect(0);
	kbd(0xf4);
	expect(1, 0xfa);
}

static void test_keys(void **state)
{
	/* Translated to set 1: the code as given. */
	i8042_key(rig.dev, 0x1e, true);
	assert_true(rig.q.level[1]);
	expect(1, 0x1e);
	assert_false(rig.q.level[1]);
	i8042_key(rig.dev, 0x1e, false);
	expect(1, 0x9e);
	i8042_key(rig.dev, I8042_EXT | 0x48, true);
	i8042_key(rig.dev, I8042_EXT | 0x48, false);
	expect(4, 0xe0, 0x48, 0xe0, 0xc8);
	i8042_key(rig.dev, I8042_PAUSE, true);
	i8042_key(rig.dev, I8042_PAUSE, false);
	expect(6, 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5);
	/* Every key comes through the two tables as it was. */
	for (int k = 1; k < 0x80; k++) {
		i8042_key(rig.dev, (unsigned)k, true);
		i8042_key(rig.dev, (unsigned)k, false);
		expect(2, k, k | 0x80);
	}
	/* Set 2: F7 and right Ctrl. */
	command(0x60);
	rig_out(0x60, 0x05);
	i8042_key(rig.dev, 0x41, true);
	i8042_key(rig.dev, 0x41, false);
	expect(3, 0x83, 0xf0, 0x83);
	i8042_key(rig.dev, I8042_EXT | 0x1d, false);
	expect(3, 0xe0, 0xf0, 0x14);
	i8042_key(rig.dev, I8042_PAUSE, true);
	expect(8, 0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77);
	/* Set 1 from the keyboard itself. */
	kbd(0xf0);
	kbd(1);
	expect(2, 0xfa, 0xfa);
	i8042_key(rig.dev, I8042_EXT | 0x1d, false);
	expect(2, 0xe0, 0x9d);
	/* No such keys. */
	i8042_key(rig.dev, 0, true);
	i8042_key(rig.dev, 0x100, true);
	expect(0);
}

static void test_key_overflow(void **state)
{
	/* One in the buffer and 16 in the queue; what does not fit is dropped whole. */
	for (unsigned i = 0; i < 30; i++)
		i8042_key(rig.dev, 0x1e, true);
	/* A command is answered all the same. */
	kbd(0xf2);
	unsigned n = 0;
	while (status() & 1 && rig_in(0x60) == 0x1e)
		n++;
	assert_int_equal(n, 17);
	expect(2, 0xab, 0x41);
}

static void test_disabled_keyboard(void **state)
{
	command(0xad);
	i8042_key(rig.dev, 0x1e, true);
	assert_false(status() & 1);
	command(0xae);
	expect(1, 0x1e);
	/* Interrupts off in the command byte. */
	command(0x60);
	rig_out(0x60, 0x44);
	i8042_key(rig.dev, 0x1e, true);
	assert_false(rig.q.level[1]);
	expect(1, 0x1e);
}

static void test_mouse_commands(void **state)
{
	mouse(0xff);
	assert_true(rig.q.level[12]);
	assert_false(rig.q.level[1]);
	assert_int_equal(status() & 0x21, 0x21);
	expect(3, 0xfa, 0xaa, 0);
	assert_false(rig.q.level[12]);
	mouse(0xf2);
	expect(2, 0xfa, 0);
	mouse(0xe9);
	expect(4, 0xfa, 0, 2, 100);
	mouse(0xe8);
	mouse(3);
	expect(2, 0xfa, 0xfa);
	mouse(0xe7);
	expect(1, 0xfa);
	mouse(0xf4);
	expect(1, 0xfa);
	mouse(0xf3);
	expect(1, 0xfa);
	mouse(40);
	expect(1, 0xfa);
	i8042_mouse(rig.dev, 0, 0, 0, I8042_LEFT);
	expect(3, 0x09, 0, 0);
	mouse(0xe9);
	expect(4, 0xfa, 0x34, 3, 40);
	/* Wrap mode echoes all but its end and reset. */
	mouse(0xee);
	mouse(0x12);
	mouse(0xf4);
	expect(3, 0xfa, 0x12, 0xf4);
	mouse(0xec);
	expect(1, 0xfa);
	mouse(0x01);
	expect(1, 0xfe);
}

static void test_mouse_movement(void **state)
{
	i8042_mouse(rig.dev, 5, 5, 0, 0);
	assert_false(status() & 1);
	mouse(0xf6);
	mouse(0xf4);
	expect(2, 0xfa, 0xfa);
	/* Right and up. */
	i8042_mouse(rig.dev, 5, -3, 0, 0);
	expect(3, 0x08, 5, 3);
	i8042_mouse(rig.dev, -5, 3, 0, I8042_RIGHT);
	expect(3, 0x3a, 0xfb, 0xfd);
	/* Far: several packets. */
	i8042_mouse(rig.dev, 600, 0, 0, 0);
	expect(9, 0x08, 255, 0, 0x08, 255, 0, 0x08, 90, 0);
	/* Polled. */
	mouse(0xf0);
	expect(1, 0xfa);
	i8042_mouse(rig.dev, 7, 0, 0, 0);
	assert_false(status() & 1);
	mouse(0xeb);
	expect(4, 0xfa, 0x08, 7, 0);
	mouse(0xea);
	expect(1, 0xfa);
	/* The guest does not read: bounded, and whole packets. */
	for (unsigned i = 0; i < 100; i++)
		i8042_mouse(rig.dev, 1, 0, 0, 0);
	unsigned n = 0;
	while (status() & 1) {
		rig_in(0x60);
		n++;
	}
	assert_int_equal(n % 3, 0);
	assert_in_range(n, 12, 18);
	i8042_mouse(rig.dev, 1, 0, 0, 0);
	expect(3, 0x08, 1, 0);
	i8042_mouse(rig.dev, INT32_MIN, INT32_MAX, INT32_MIN, ~0u);
}

static void knock(unsigned a, unsigned b, unsigned c)
{
	const unsigned rate[] = { a, b, c };

	for (unsigned i = 0; i < 3; i++) {
		mouse(0xf3);
		mouse(rate[i]);
		expect(2, 0xfa, 0xfa);
	}
}

static void test_wheel(void **state)
{
	knock(200, 200, 80);
	mouse(0xf2);
	expect(2, 0xfa, 0);
	knock(200, 100, 80);
	mouse(0xf2);
	expect(2, 0xfa, 3);
	mouse(0xf4);
	expect(1, 0xfa);
	i8042_mouse(rig.dev, 1, 0, -1, 0);
	expect(4, 0x08, 1, 0, 0xff);
	knock(200, 200, 80);
	mouse(0xf2);
	expect(2, 0xfa, 4);
	i8042_mouse(rig.dev, 1, 0, 1, 0x10);
	expect(4, 0x08, 1, 0, 0x21);
	mouse(0xff);
	expect(3, 0xfa, 0xaa, 0);
	mouse(0xf2);
	expect(2, 0xfa, 0);
}

static void test_order(void **state)
{
	/* The controller's answer, then keys, then the mouse. */
	mouse(0xf4);
	expect(1, 0xfa);
	i8042_key(rig.dev, 0x10, true);
	i8042_mouse(rig.dev, 1, 0, 0, 0);
	i8042_key(rig.dev, 0x11, true);
	command(0x20);
	expect(6, 0x10, 0x47, 0x11, 0x08, 1, 0);
}

static void test_reload(void **state)
{
	mouse(0xf4);
	rig_in(0x60);
	i8042_key(rig.dev, 0x10, true);
	i8042_key(rig.dev, 0x11, true);
	i8042_mouse(rig.dev, 1, 0, 0, 0);
	kbd(0xed);
	rig_reload(make);
	assert_true(rig.q.level[1]);
	kbd(2);
	expect(7, 0x10, 0x11, 0xfa, 0xfa, 0x08, 1, 0);
	assert_int_equal(i8042_leds(rig.dev), 2);
	i8042_mouse(rig.dev, 1, 0, 0, 0);
	board_reset(&rig.board);
	assert_false(rig.q.level[12]);
	expect(0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_controller),     T(test_output_port),    T(test_keyboard_commands),
		T(test_keys),           T(test_key_overflow),   T(test_disabled_keyboard),
		T(test_mouse_commands), T(test_mouse_movement), T(test_wheel),
		T(test_order),          T(test_reload),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
