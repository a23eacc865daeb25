/* Port 0x92, the debug exit and the debug console. */
#include "lib/t.h"

#include "lib/pc_rig.h"

#include <errno.h>

static char seen[16];
static unsigned nseen;

static void take(void *arg, uint8_t b)
{
	assert_ptr_equal(arg, seen);
	seen[nseen++] = (char)b;
}

static int setup(void **state)
{
	rig_board();
	return 0;
}

static int teardown(void **state)
{
	rig_board_fini(false);
	return 0;
}

static void test_sysctl(void **state)
{
	struct err e;
	struct dev *d;

	assert_int_equal(sysctl_new(&rig.board, &d, &e), 0);
	/* A20 is on; bit 0 resets when it rises. */
	assert_int_equal(rig_in(0x92), 2);
	rig_out(0x92, 0);
	assert_int_equal(rig_in(0x92), 0);
	rig_out(0x92, 3);
	assert_int_equal(rig.requests[BOARD_RESET], 1);
	rig_out(0x92, 3);
	assert_int_equal(rig.requests[BOARD_RESET], 1);
	board_reset(&rig.board);
	assert_int_equal(rig_in(0x92), 2);
	assert_int_equal(sysctl_new(&rig.board, &d, &e), -EBUSY);
}

static void test_debugexit(void **state)
{
	struct err e;
	struct dev *d;

	assert_int_equal(debugexit_new(&rig.board, 0, &d, &e), 0);
	assert_int_equal(debugexit_new(&rig.board, 0x501, &d, &e), 0);
	bus_write(&rig.pio, 0xf4, 4, 0x1234);
	assert_int_equal(rig.requests[BOARD_EXIT], 1);
	assert_int_equal(rig.request_value, 0x1234);
	rig_out(0x501, 7);
	assert_int_equal(rig.request_value, 7);
	assert_int_equal(rig_in(0x501), 0);
	assert_int_equal(debugexit_new(&rig.board, 0x502, &d, &e), -EBUSY);
}

static void test_debugcon(void **state)
{
	struct err e;
	struct dev *d;

	assert_int_equal(debugcon_new(&rig.board, 0, take, seen, &d, &e), 0);
	assert_int_equal(rig_in(0xe9), 0xe9);
	rig_out(0xe9, 'o');
	bus_write(&rig.pio, 0xe9, 1, 'k');
	assert_int_equal(nseen, 2);
	assert_memory_equal(seen, "ok", 2);
	assert_int_equal(debugcon_new(&rig.board, 0, take, seen, &d, &e), -EBUSY);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_sysctl),
		T(test_debugexit),
		T(test_debugcon),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
