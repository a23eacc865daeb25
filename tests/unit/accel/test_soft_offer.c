/*
 * What the software CPU says of itself: bits that lead guests away from what is dear, in every
 * model, and the frequency of its TSC on a host that gives it the CPU only now and then.
 */
#include "accel/soft/sys_int.h"
#include "cpu/cpuid.h"
#include "cpu/model.h"
#include "lib/t.h"

#include "base/clock.h"

#include <cpuid.h>
#include <x86intrin.h>

/* ---- features ---- */

static struct cpuid_table offered, guest;

static const struct cpuid_entry *leaf(uint32_t n, uint32_t sub)
{
	static struct cpuid_entry e;

	cpuid_get(&guest, n, sub, &e);
	return &e;
}

static void build(const char *model)
{
	const struct cpuid_topology topo = { .ncpus = 2, .tsc_hz = 2000000000 };
	struct err e = { 0 };

	assert_int_equal(soft_cpuid(&offered, &e), 0);
	assert_int_equal(cpuid_build(&guest, &offered, model, &topo, &e), 0);
	soft_advise(&guest);
}

static void check_advice(const char *model)
{
	build(model);
	uint32_t vendor = leaf(0, 0)->ebx, max = leaf(0, 0)->eax,
		 max_ext = leaf(0x80000000, 0)->eax;

	assert_true(max >= 7);
	/* ARCH_CAPABILITIES: what Linux looks at, whatever the vendor. */
	assert_true(leaf(7, 0)->edx >> 29 & 1);
	/* BTC_NO */
	assert_true(max_ext >= 0x80000008);
	assert_true(leaf(0x80000008, 0)->ebx >> 29 & 1);
	/* No fifth level of page tables, no MONITOR, no retpolines. */
	assert_false(leaf(7, 0)->ecx >> 16 & 1);
	assert_false(leaf(1, 0)->ecx >> 3 & 1);
	if (vendor == signature_INTEL_ebx) {
		assert_true(leaf(7, 0)->edx >> 26 & 1);
		assert_true(leaf(7, 0)->eax >= 2);
		assert_true(leaf(7, 2)->edx >> 4 & 1);
	} else {
		assert_true(max_ext >= 0x80000021);
		assert_int_equal(leaf(0x80000021, 0)->eax & 0x20000144, 0x20000144);
		assert_int_equal(leaf(0x80000021, 0)->ecx & 6, 6);
		assert_int_equal(leaf(0x80000008, 0)->ebx & 0x24001004, 0x24000004);
	}
}

static void test_advice(void **state)
{
	check_advice("host");
	for (unsigned n = 0; n < cpu_nmodels; n++)
		check_advice(cpu_models[n].name);
}

/* ---- frequency ---- */

static unsigned calls;

static uint64_t real_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_SEC + (uint64_t)t.tv_nsec;
}

/* Another process has the CPU for 2 ms after the clock was read, two times of three. */
static uint64_t interrupted_ns(void)
{
	uint64_t ns = real_ns();

	if (++calls % 3)
		while (real_ns() - ns < 2 * NS_PER_MS)
			;
	return ns;
}

/* To a few ppm, over a time in which the error of one reading is nothing. */
static double reference(void)
{
	uint64_t c[2] = { 0 }, ns[2] = { 0 };

	for (unsigned k = 0; k < 2; k++) {
		uint64_t best = UINT64_MAX;
		uint64_t until = real_ns() + 300 * NS_PER_MS;

		while (k && real_ns() < until)
			;
		for (unsigned n = 0; n < 1000; n++) {
			uint64_t before = __rdtsc(), t = real_ns(), took = __rdtsc() - before;

			if (took < best) {
				best = took;
				c[k] = before;
				ns[k] = t;
			}
		}
	}
	return (double)(c[1] - c[0]) * 1e9 / (double)(ns[1] - ns[0]);
}

static void test_tsc_frequency(void **state)
{
	double want = reference();

	clock_hook = interrupted_ns;
	for (unsigned n = 0; n < 5; n++) {
		double got = (double)soft_host_tsc_hz();

		print_message("%.3f MHz, %+.1f ppm\n", got / 1e6, (got / want - 1) * 1e6);
		assert_true(got > want * (1 - 50e-6) && got < want * (1 + 50e-6));
	}
	clock_hook = NULL;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_advice),
		cmocka_unit_test(test_tsc_frequency),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
