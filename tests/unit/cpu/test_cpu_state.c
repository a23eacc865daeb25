/* Power-on values of a vCPU, its saved form, and the list of MSRs. */
#include "lib/t.h"

#include "base/bytes.h"
#include "cpu/cpu_state.h"
#include "cpu/msr.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct cpu_state a, b;

/* SDM 3A table 10-1. */
static void test_reset(void **state)
{
	uint64_t v;

	cpu_state_reset(&a, true, 0);
	assert_int_equal(a.seg[X86_CS].base + a.rip, 0xfffffff0);
	assert_int_equal(a.seg[X86_CS].sel, 0xf000);
	assert_int_equal(a.seg[X86_DS].limit, 0xffff);
	assert_int_equal(a.seg[X86_DS].attr, 0x93);
	assert_int_equal(a.seg[X86_CS].attr, 0x9b);
	assert_int_equal(a.ldt.attr, 0x82);
	assert_int_equal(a.tr.attr, 0x8b);
	assert_int_equal(a.rflags, 2);
	assert_int_equal(a.cr0, 0x60000010);
	assert_int_equal(a.dr6, 0xffff0ff0);
	assert_int_equal(a.dr7, 0x400);
	assert_int_equal(a.apic_base, 0xfee00900);
	assert_int_equal(a.mp, CPU_MP_RUN);
	assert_int_equal(ld_le16(a.xsave), 0x40);
	assert_int_equal(ld_le32(a.xsave + 24), 0x1f80);
	assert_true(cpu_state_msr(&a, X86_MSR_PAT, &v));
	assert_int_equal(v, 0x0007040600070406);
	assert_int_equal(ld_le32(a.lapic + 0x350), 0x700);

	cpu_state_reset(&a, false, 3);
	assert_int_equal(a.apic_base, 0xfee00800);
	assert_int_equal(a.mp, CPU_MP_WAIT_SIPI);
	assert_int_equal(ld_le32(a.lapic + 0x20), 3u << 24);
	assert_int_equal(ld_le32(a.lapic + 0xf0), 0xff);
	assert_int_equal(ld_le32(a.lapic + 0x350), 0x10000);
	assert_int_equal(a.nmsr, msr_nsaved);
}

static void test_msr_list(void **state)
{
	uint64_t v;

	for (unsigned i = 0; i < msr_nsaved; i++) {
		assert_ptr_equal(msr_find(msr_saved[i].index), &msr_saved[i]);
		assert_ptr_equal(msr_name(msr_saved[i].index), msr_saved[i].name);
	}
	assert_null(msr_name(0x12345));
	/* The deadline is compared with the TSC. */
	assert_int_equal(msr_saved[0].index, X86_MSR_TSC);
	assert_int_equal(msr_saved[msr_nsaved - 1].index, X86_MSR_TSC_DEADLINE);
	memset(&a, 0, sizeof(a));
	assert_false(cpu_state_msr(&a, 7, &v));
	for (unsigned i = 0; i < CPU_MSRS + 5; i++)
		cpu_state_set_msr(&a, 1000 + i, i);
	assert_int_equal(a.nmsr, CPU_MSRS);
	cpu_state_set_msr(&a, 1003, 99);
	assert_int_equal(a.nmsr, CPU_MSRS);
	assert_true(cpu_state_msr(&a, 1003, &v));
	assert_int_equal(v, 99);
}

static void fill(struct cpu_state *s, uint64_t seed)
{
	uint8_t *p = (uint8_t *)s;

	for (size_t i = 0; i < sizeof(*s); i++)
		p[i] = (uint8_t)t_rnd(&seed);
	s->xsave_len = 832;
	s->nmsr = 5;
	s->mp = CPU_MP_HALT;
	s->ev.exc_vector = 14;
}

static void test_save_load(void **state)
{
	struct state_buf buf = { 0 };
	struct err e;

	fill(&a, 1);
	memset(&b, 0, sizeof(b));
	assert_int_equal(state_save(&cpu_state_desc, 2, &a, &buf, &e), 0);
	assert_int_equal(state_load(&cpu_state_desc, 2, &b, sizeof(b), buf.data, buf.len, &e),
			 buf.len);
	char *ta = state_dump(&cpu_state_desc, &a), *tb = state_dump(&cpu_state_desc, &b);
	assert_string_equal(ta, tb);
	/* Every field of the struct is in the table: what is saved is what it holds but padding. */
	assert_int_equal(b.ev.triple_fault, a.ev.triple_fault);
	assert_memory_equal(b.lapic, a.lapic, sizeof(a.lapic));
	assert_memory_equal(b.xsave, a.xsave, sizeof(a.xsave));
	assert_memory_equal(b.pdptr, a.pdptr, sizeof(a.pdptr));
	assert_int_equal(b.idt.limit, a.idt.limit);
	free(ta);
	free(tb);
	state_buf_fini(&buf);
}

static void refuse(void (*spoil)(struct cpu_state *))
{
	struct state_buf buf = { 0 };
	struct err e;

	fill(&a, 2);
	spoil(&a);
	cpu_state_reset(&b, true, 0);
	assert_int_equal(state_save(&cpu_state_desc, 0, &a, &buf, &e), 0);
	assert_int_equal(state_load(&cpu_state_desc, 0, &b, sizeof(b), buf.data, buf.len, &e),
			 -EPROTO);
	assert_int_equal(b.rip, 0xfff0);
	state_buf_fini(&buf);
}

static void spoil_xsave(struct cpu_state *s)
{
	s->xsave_len = CPU_XSAVE_MAX + 1;
}

static void spoil_msrs(struct cpu_state *s)
{
	s->nmsr = CPU_MSRS + 1;
}

static void spoil_mp(struct cpu_state *s)
{
	s->mp = CPU_MP_HALT + 1;
}

static void spoil_vector(struct cpu_state *s)
{
	s->ev.exc_pending = 1;
	s->ev.exc_vector = 32;
}

static void test_load_refuses(void **state)
{
	refuse(spoil_xsave);
	refuse(spoil_msrs);
	refuse(spoil_mp);
	refuse(spoil_vector);
}

static void test_print(void **state)
{
	char text[2048], small[40];

	cpu_state_reset(&a, true, 0);
	a.gpr[X86_R9] = 0x1122334455667788;
	cpu_state_print(&a, text, sizeof(text));
	assert_non_null(strstr(text, "r9  1122334455667788"));
	assert_non_null(strstr(text, "cs  f000 base=00000000ffff0000"));
	cpu_state_print(&a, small, sizeof(small));
	assert_int_equal(strlen(small), sizeof(small) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reset),     cmocka_unit_test(test_msr_list),
		cmocka_unit_test(test_save_load), cmocka_unit_test(test_load_refuses),
		cmocka_unit_test(test_print),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
