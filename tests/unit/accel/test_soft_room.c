/*
 * What code costs in memory: decoded instructions that are overwritten and decoded again.
 */
#include "accel/soft/sys_int.h"
#include "lib/soft_rig.h"

static void machine(const char *opts)
{
	rig_engine_opts = opts;
	soft_rig_init(1);
	rig_engine_opts = NULL;
}

static unsigned long counter(const char *name)
{
	static char stats[1024];

	accel_stats(rig.vm, stats, sizeof(stats));
	const char *p = strstr(stats, name);
	assert_non_null(p);
	return strtoul(p + strlen(name), NULL, 10);
}

/* ---- instructions ---- */

enum {
	TURNS = 4,
	/* Twice what is kept. */
	INCS = 2 << 15,
};
CODE(turns_head, "64", "xor %eax, %eax\n mov $4, %ecx\n");
CODE(turns_inc, "64", "inc %eax\n");
CODE(turns_tail, "64", "dec %ecx\n jz 1f\n jmp . - 2 * 65536 - 4\n 1: mov %eax, 0x6000\n" RIG_END);

/* More than is kept is decoded anew each time, and is right each time. */
static void test_ring(void **state)
{
	uint64_t at = 0x200000;

	machine("hot=250");
	rig_put(at, turns_head, CODE_LEN(turns_head));
	at += CODE_LEN(turns_head);
	assert_int_equal(CODE_LEN(turns_inc), 2);
	for (unsigned k = 0; k < INCS; k++, at += 2)
		rig_put(at, turns_inc, 2);
	rig_put(at, turns_tail, CODE_LEN(turns_tail));
	soft_rig_long(0x200000);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(ld_le32(rig.ram + 0x6000), TURNS * INCS);
	unsigned long made = counter("insns-decoded="), blocks = counter("blocks-decoded=");
	assert_true(made >= (unsigned long)TURNS * INCS);
	/* Blocks are found again. */
	assert_true(blocks < INCS / 32 && blocks >= INCS / SOFT_BLOCK_MAX);
	soft_rig_fini();
}

/* As many as fit are decoded once. */
static void test_ring_keeps(void **state)
{
	machine("hot=250");
	rig_put(0x200000, turns_head, CODE_LEN(turns_head));
	uint64_t at = 0x200000 + CODE_LEN(turns_head);
	const uint8_t *tail = turns_tail;
	/* dec %ecx; jz; jmp 25000 instructions back. */
	for (unsigned k = 0; k < 25000; k++, at += 2)
		rig_put(at, turns_inc, 2);
	rig_put(at, tail, CODE_LEN(turns_tail));
	st_le32(rig.ram + at + 5, (uint32_t)(-25000 * 2 - 9));
	soft_rig_long(0x200000);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	assert_int_equal(ld_le32(rig.ram + 0x6000), TURNS * 25000);
	unsigned long made = counter("insns-decoded=");
	assert_true(made >= 25000 && made < 30000);
	soft_rig_fini();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ring),
		cmocka_unit_test(test_ring_keeps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
