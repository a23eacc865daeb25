/* The soft engine runs small guests: modes, interrupts, exceptions, self-modifying code. */
#include "base/clock.h"
#include "lib/soft_rig.h"

static int setup(void **state)
{
	soft_rig_init(1);
	return 0;
}

static int teardown(void **state)
{
	soft_rig_fini();
	return 0;
}

CODE(hello16, "16",
     "mov $'h', %al\n out %al, $0xe9\n"
     "mov $5, %cx\n xor %bx, %bx\n"
     "1: add %cx, %bx\n loop 1b\n"
     "mov %bx, 0x6000\n"
     "mov $'i', %al\n out %al, $0xe9\n" RIG_END);

static void test_real(void **state)
{
	RIG_CODE(0x1000, hello16);
	soft_rig_real(0x1000);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(rig.exit_value, 0x55);
	assert_string_equal(rig.text, "hi");
	assert_int_equal(ld_le16(rig.ram + 0x6000), 15);
}

CODE(loop64, "64",
     "xor %eax, %eax\n mov $1000000, %ecx\n"
     "1: add %rcx, %rax\n mov %rax, 0x6000\n xor 0x6000, %rdx\n dec %ecx\n jnz 1b\n" RIG_END);

static void test_long(void **state)
{
	uint64_t t = clock_ns();

	RIG_CODE(0x1000, loop64);
	soft_rig_long(0x1000);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	printf("# %.0f MIPS\n", 5e6 * 1e3 / (double)(clock_ns() - t));
	assert_int_equal(ld_le64(rig.ram + 0x6000), 1000000ull * 1000001 / 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_real, setup, teardown),
		cmocka_unit_test_setup_teardown(test_long, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
