/* A local APIC: registers, priorities, IPIs, events and the timer (SDM 3A chapter 11). */
#include "lib/t.h"

#include "base/bits.h"
#include "base/bug.h"
#include "base/bytes.h"
#include "cpu/cpu_state.h"
#include "lib/irq_rig.h"

#include <errno.h>
#include <stdlib.h>

static int setup(void **state)
{
	rig_init(NULL);
	return 0;
}

static int setup_on(void **state)
{
	rig_init(NULL);
	for (unsigned i = 0; i < RIG_CPUS; i++)
		rig_enable(i);
	memset(rig.kicks, 0, sizeof(rig.kicks));
	return 0;
}

static int teardown(void **state)
{
	rig_fini();
	return 0;
}

static uint32_t rd(unsigned off)
{
	return lapic_read(&rig.l[0], off);
}

static void wr(unsigned off, uint32_t v)
{
	lapic_write(&rig.l[0], off, v);
}

static void test_power_on(void **state)
{
	uint8_t page[1024];
	static struct cpu_state s;

	assert_int_equal(rd(0x20), 0);
	assert_int_equal(lapic_read(&rig.l[3], 0x20), 3u << 24);
	assert_int_equal(rd(0x30), 0x01050014);
	assert_int_equal(rd(0xe0), 0xffffffff);
	assert_int_equal(rd(0xf0), 0xff);
	assert_int_equal(rd(0x320), 0x10000);
	/* Virtual wire on the boot CPU alone. */
	assert_int_equal(rd(0x350), 0x700);
	assert_int_equal(lapic_read(&rig.l[1], 0x350), 0x10000);
	assert_int_equal(rig.l[0].base, 0xfee00900);
	assert_int_equal(rig.l[1].base, 0xfee00800);
	/* cpu_state's page of a fresh CPU is the same. */
	for (unsigned i = 0; i < 2; i++) {
		lapic_get_page(&rig.l[i], page);
		cpu_state_reset(&s, i == 0, i);
		assert_memory_equal(page, s.lapic, 1024);
	}
}

static void test_software_disabled(void **state)
{
	/* Interrupts are not accepted, LVT masks cannot be cleared. */
	assert_false(lapic_post(&rig.l[0], 0x40, false));
	assert_int_equal(lapic_pending(&rig.l[0]), -1);
	wr(0x320, 0x40);
	assert_int_equal(rd(0x320), 0x10040);
	wr(0xf0, 0x1ff);
	wr(0x320, 0x40);
	assert_int_equal(rd(0x320), 0x40);
	assert_true(lapic_post(&rig.l[0], 0x50, false));
	/* Disabling masks all, and keeps what is pending. */
	wr(0xf0, 0xff);
	assert_int_equal(rd(0x320), 0x10040);
	assert_int_equal(rd(0x350) & 0x10000, 0x10000);
	assert_int_equal(lapic_pending(&rig.l[0]), 0x50);
	/* INIT, NMI and SIPI are taken all the same. */
	lapic_post_event(&rig.l[0], LAPIC_EV_NMI);
	assert_int_equal(lapic_take_events(&rig.l[0]), LAPIC_EV_NMI);
	assert_int_equal(lapic_take_events(&rig.l[0]), 0);
}

static void test_irr_isr_eoi(void **state)
{
	lapic_post(&rig.l[0], 0x51, false);
	assert_int_equal(rig.kicks[0], 1);
	assert_int_equal(rd(0x200 + 0x10 * (0x51 / 32)), BIT(0x51 % 32));
	assert_int_equal(rig_take(0), 0x51);
	assert_int_equal(rd(0x200 + 0x10 * (0x51 / 32)), 0);
	assert_int_equal(rd(0x100 + 0x10 * (0x51 / 32)), BIT(0x51 % 32));
	assert_int_equal(rd(0xa0), 0x50);
	/* Same class waits, a higher one nests. */
	lapic_post(&rig.l[0], 0x5f, false);
	assert_int_equal(lapic_pending(&rig.l[0]), -1);
	lapic_post(&rig.l[0], 0x60, false);
	assert_int_equal(rig_take(0), 0x60);
	rig_eoi(0);
	assert_int_equal(lapic_pending(&rig.l[0]), -1);
	unsigned kicks = rig.kicks[0];
	rig_eoi(0);
	/* The end of one lets the next through. */
	assert_int_equal(rig.kicks[0], kicks + 1);
	assert_int_equal(rig_take(0), 0x5f);
	rig_eoi(0);
	rig_eoi(0);
	assert_int_equal(rd(0xa0), 0);
}

static void test_tpr(void **state)
{
	lapic_post(&rig.l[0], 0x45, false);
	wr(0x80, 0x40);
	assert_int_equal(lapic_pending(&rig.l[0]), -1);
	assert_int_equal(lapic_tpr_get(&rig.l[0]), 4);
	lapic_tpr_set(&rig.l[0], 3);
	assert_int_equal(rd(0x80), 0x30);
	assert_int_equal(lapic_pending(&rig.l[0]), 0x45);
	wr(0x80, 0x3f);
	assert_int_equal(rd(0xa0), 0x3f);
	assert_int_equal(lapic_pending(&rig.l[0]), 0x45);
}

/* Against sets and sorted search: random posts, acknowledges, EOIs and TPR writes. */
static void test_priority_model(void **state)
{
	uint64_t seed = 0x1a91c;
	bool irr[256] = { 0 }, isr[256] = { 0 };
	unsigned tpr = 0;

	printf("# seed %#lx\n", (unsigned long)seed);
	for (unsigned step = 0; step < 300000; step++) {
		int top = -1, serving = -1;

		for (int v = 0; v < 256; v++) {
			top = irr[v] ? v : top;
			serving = isr[v] ? v : serving;
		}
		unsigned ppr = tpr;
		if (serving >= 0 && (unsigned)serving / 16 > tpr / 16)
			ppr = (unsigned)serving / 16 * 16;
		int want = top >= 0 && (unsigned)top / 16 > ppr / 16 ? top : -1;
		assert_int_equal(rd(0xa0), ppr);
		assert_int_equal(lapic_pending(&rig.l[0]), want);
		unsigned v = 16 + t_rnd(&seed) % 240;
		switch (t_rnd(&seed) % 4) {
		case 0:
			irr[v] = true;
			lapic_post(&rig.l[0], v, t_rnd(&seed) & 1);
			break;
		case 1:
			assert_int_equal(rig_take(0), want);
			if (want >= 0) {
				irr[want] = false;
				isr[want] = true;
			}
			break;
		case 2:
			rig_eoi(0);
			if (serving >= 0)
				isr[serving] = false;
			break;
		default:
			tpr = t_rnd(&seed) & 0xff;
			wr(0x80, tpr);
		}
	}
}

static void test_errors(void **state)
{
	/* Masked: only recorded. */
	wr(0x370, 0x100fe);
	lapic_post(&rig.l[0], 5, false);
	assert_int_equal(lapic_pending(&rig.l[0]), -1);
	wr(0x280, 0);
	assert_int_equal(rd(0x280), 1 << 6);
	wr(0x280, 0);
	wr(0x370, 0xfe);
	lapic_post(&rig.l[0], 5, false);
	assert_int_equal(rig_take(0), 0xfe);
	rig_eoi(0);
	/* Read after a write shows it, the next write clears it. */
	assert_int_equal(rd(0x280), 0);
	wr(0x280, 0);
	assert_int_equal(rd(0x280), 1 << 6);
	wr(0x280, 0);
	assert_int_equal(rd(0x280), 0);
	/* Sending an illegal vector. */
	wr(0x310, 1u << 24);
	wr(0x300, 0x4005);
	wr(0x280, 0);
	assert_int_equal(rd(0x280), 1 << 5);
	/* A register that does not exist. */
	assert_int_equal(rd(0x40), 0);
	wr(0x280, 0);
	assert_int_equal(rd(0x280), 1 << 7);
	/* An error entry with an illegal vector raises nothing and does not recurse. */
	wr(0x370, 0x05);
	lapic_post(&rig.l[0], 1, false);
	rig_take(0);
	assert_int_equal(lapic_pending(&rig.l[0]), -1);
	/* Between registers: nothing. */
	assert_int_equal(rd(0x24), 0);
	assert_int_equal(rd(0x400), 0);
}

static void expect(unsigned v, unsigned mask)
{
	for (unsigned i = 0; i < RIG_CPUS; i++) {
		assert_int_equal(rig_take(i), mask >> i & 1 ? (int)v : -1);
		lapic_write(&rig.l[i], 0xb0, 0);
	}
}

static void test_ipi_destinations(void **state)
{
	/* Physical. */
	wr(0x310, 2u << 24);
	wr(0x300, 0x4041);
	expect(0x41, 1 << 2);
	wr(0x310, 0xffu << 24);
	wr(0x300, 0x4042);
	expect(0x42, 0xf);
	wr(0x310, 9u << 24);
	wr(0x300, 0x4043);
	expect(0x43, 0);
	/* Logical, flat. */
	wr(0x310, 0xau << 24);
	wr(0x300, 0x4844);
	expect(0x44, 0xa);
	/* Shorthands: self, all, all but self. */
	wr(0x300, 0x44045);
	expect(0x45, 1);
	wr(0x300, 0x84046);
	expect(0x46, 0xf);
	wr(0x300, 0xc4047);
	expect(0x47, 0xe);
	/* Cluster model: 0 and 1 in cluster 1, 2 and 3 in cluster 2. */
	for (unsigned i = 0; i < RIG_CPUS; i++) {
		lapic_write(&rig.l[i], 0xe0, 0);
		lapic_write(&rig.l[i], 0xd0, (i / 2 + 1) << 28 | 1u << (24 + i % 2));
	}
	wr(0x310, 0x13u << 24);
	wr(0x300, 0x4848);
	expect(0x48, 3);
	wr(0x310, 0x22u << 24);
	wr(0x300, 0x4849);
	expect(0x49, 8);
	wr(0x310, 0xf1u << 24);
	wr(0x300, 0x484a);
	expect(0x4a, 5);
	assert_int_equal(lapic_read(&rig.l[0], 0x310), 0xf1000000);
	assert_int_equal(lapic_read(&rig.l[0], 0x300), 0x484a);
}

static void test_lowest_priority(void **state)
{
	unsigned got[RIG_CPUS] = { 0 };

	/* The one with the lowest priority. */
	for (unsigned i = 0; i < RIG_CPUS; i++)
		lapic_write(&rig.l[i], 0x80, i == 2 ? 0x20 : 0x30);
	wr(0x310, 0xffu << 24);
	wr(0x300, 0x4941);
	expect(0x41, 1 << 2);
	/* Equals take turns; a disabled one takes none. */
	for (unsigned i = 0; i < RIG_CPUS; i++)
		lapic_write(&rig.l[i], 0x80, 0);
	lapic_write(&rig.l[3], 0xf0, 0xff);
	for (unsigned n = 0; n < 40; n++) {
		wr(0x310, 0xfu << 24);
		wr(0x300, 0x4942);
		for (unsigned i = 0; i < RIG_CPUS; i++)
			if (rig_take(i) == 0x42) {
				got[i]++;
				rig_eoi(i);
			}
	}
	assert_int_equal(got[0] + got[1] + got[2], 40);
	assert_true(got[0] >= 10 && got[1] >= 10 && got[2] >= 10);
}

static void test_init_sipi_nmi(void **state)
{
	wr(0x310, 1u << 24);
	wr(0x300, 0x4500);
	assert_int_equal(lapic_take_events(&rig.l[1]), LAPIC_EV_INIT);
	/* De-assert does nothing. */
	wr(0x300, 0x8500);
	assert_int_equal(lapic_take_events(&rig.l[1]), 0);
	wr(0x300, 0x4608 + 0x91);
	assert_int_equal(lapic_take_events(&rig.l[1]), LAPIC_EV_SIPI);
	assert_int_equal(rig.l[1].sipi_vector, 0x99);
	wr(0x300, 0x4400);
	assert_int_equal(lapic_take_events(&rig.l[1]), LAPIC_EV_NMI);
	wr(0x300, 0x4200);
	assert_int_equal(lapic_take_events(&rig.l[1]), LAPIC_EV_SMI);
	/* INIT after SIPI cancels it; SIPI after INIT stays. */
	wr(0x300, 0x4600);
	wr(0x300, 0x4500);
	assert_int_equal(lapic_take_events(&rig.l[1]), LAPIC_EV_INIT);
	wr(0x300, 0x4500);
	wr(0x300, 0x4600);
	assert_int_equal(lapic_take_events(&rig.l[1]), LAPIC_EV_INIT | LAPIC_EV_SIPI);
	/* An NMI to oneself by shorthand is not a thing. */
	wr(0x300, 0x44400);
	assert_int_equal(lapic_take_events(&rig.l[0]), 0);
	/* INIT keeps the ID and the mode, and clears the rest. */
	rig_x2(1);
	lapic_post(&rig.l[1], 0x60, false);
	lapic_reset(&rig.l[1], true);
	assert_true(lapic_x2(&rig.l[1]));
	assert_int_equal(lapic_pending(&rig.l[1]), -1);
	assert_int_equal(rig.l[1].svr, 0xff);
}

static uint64_t msr_get(unsigned cpu, uint32_t msr)
{
	uint64_t v = 0;

	assert_int_equal(lapic_msr_read(&rig.l[cpu], msr, &v), 0);
	return v;
}

static int msr_set(unsigned cpu, uint32_t msr, uint64_t v)
{
	return lapic_msr_write(&rig.l[cpu], msr, v);
}

static void test_base_transitions(void **state)
{
	uint64_t v;

	/* No x2APIC registers before. */
	assert_int_equal(lapic_msr_read(&rig.l[0], 0x802, &v), -EPERM);
	assert_int_equal(msr_set(0, 0x808, 0), -EPERM);
	/* x2 without enable, reserved bits. */
	assert_int_equal(msr_set(0, 0x1b, 0xfee00400), -EPERM);
	assert_int_equal(msr_set(0, 0x1b, 0xfee00901), -EPERM);
	assert_int_equal(msr_set(0, 0x1b, 1ull << 60 | 0xfee00900), -EPERM);
	assert_int_equal(msr_set(0, 0x1b, 0xfee00d00), 0);
	assert_true(lapic_x2(&rig.l[0]));
	/* Back to xAPIC only by way of disabled. */
	assert_int_equal(msr_set(0, 0x1b, 0xfee00900), -EPERM);
	assert_int_equal(msr_set(0, 0x1b, 0xfee00100), 0);
	assert_false(lapic_enabled(&rig.l[0]));
	assert_int_equal(msr_set(0, 0x1b, 0xfee00d00), -EPERM);
	assert_int_equal(msr_set(0, 0x1b, 0xfee00900), 0);
	assert_int_equal(msr_get(0, 0x1b), 0xfee00900);
	/* Disabling was a reset; the BSP bit cannot be lost. */
	assert_int_equal(rd(0xf0), 0xff);
	assert_int_equal(msr_set(0, 0x1b, 0xfee00800), 0);
	assert_int_equal(msr_get(0, 0x1b), 0xfee00900);
}

static void test_x2apic(void **state)
{
	uint64_t v;

	for (unsigned i = 0; i < RIG_CPUS; i++)
		rig_x2(i);
	assert_int_equal(msr_get(3, 0x802), 3);
	assert_int_equal(msr_get(3, 0x80d), 8);
	rig.l[3].apic_id = 0x2f;
	assert_int_equal(msr_get(3, 0x80d), 0x28000);
	rig.l[3].apic_id = 3;
	/* No DFR, no ICR high half, write-only and read-only registers, reserved bits. */
	assert_int_equal(lapic_msr_read(&rig.l[0], 0x80e, &v), -EPERM);
	assert_int_equal(lapic_msr_read(&rig.l[0], 0x831, &v), -EPERM);
	assert_int_equal(lapic_msr_read(&rig.l[0], 0x80b, &v), -EPERM);
	assert_int_equal(lapic_msr_read(&rig.l[0], 0x83f, &v), -EPERM);
	assert_int_equal(lapic_msr_read(&rig.l[0], 0x8ff, &v), -EPERM);
	assert_int_equal(msr_set(0, 0x802, 0), -EPERM);
	assert_int_equal(msr_set(0, 0x80b, 1), -EPERM);
	assert_int_equal(msr_set(0, 0x80b, 0), 0);
	assert_int_equal(msr_set(0, 0x828, 1), -EPERM);
	assert_int_equal(msr_set(0, 0x808, 0x100), -EPERM);
	assert_int_equal(msr_set(0, 0x832, 1ull << 32), -EPERM);
	assert_int_equal(msr_set(0, 0x832, 1 << 19), -EPERM);
	assert_int_equal(msr_set(0, 0x830, 1 << 20), -EPERM);
	assert_int_equal(msr_set(0, 0x83f, 0x77), 0);
	expect(0x77, 1);
	/* Physical, broadcast, cluster 0's bits. */
	assert_int_equal(msr_set(0, 0x830, 2ull << 32 | 0x4041), 0);
	expect(0x41, 4);
	assert_int_equal(msr_get(0, 0x830), 2ull << 32 | 0x4041);
	assert_int_equal(msr_set(0, 0x830, 0xffffffffull << 32 | 0x4042), 0);
	expect(0x42, 0xf);
	assert_int_equal(msr_set(0, 0x830, 0xffull << 32 | 0x4043), 0);
	expect(0x43, 0);
	assert_int_equal(msr_set(0, 0x830, 9ull << 32 | 0x4844), 0);
	expect(0x44, 9);
	assert_int_equal(msr_set(0, 0x830, 1ull << 48 | 9ull << 32 | 0x4845), 0);
	expect(0x45, 0);
}

/* Every destination against the definition, written as loops. */
static void test_route_model(void **state)
{
	uint64_t seed = 77;

	for (unsigned n = 0; n < 200000; n++) {
		struct lapic *l = &rig.l[t_rnd(&seed) % RIG_CPUS];
		struct irq_msg m = { .logical = t_rnd(&seed) & 1, .wide = t_rnd(&seed) & 1 };
		uint64_t r = t_rnd(&seed);
		bool x2 = r & 1, cluster = r & 2, want;

		l->apic_id = (uint32_t)(r >> 8 & (r & 4 ? 0x3ff : 7));
		l->base = 0xfee00800 | (x2 ? 0x400 : 0);
		l->ldr = (uint32_t)(r >> 32 & 0xff) << 24;
		l->dfr = cluster ? 0x0fffffff : 0xffffffff;
		m.dest = (uint32_t)(t_rnd(&seed) & (m.wide && r & 8 ? 0x7ffff : 0xff));
		if (!(t_rnd(&seed) % 8))
			m.dest = m.wide ? 0xffffffff : 0xff;
		if (m.dest == (m.wide ? 0xffffffff : 0xff)) {
			want = true;
		} else if (!m.logical) {
			want = m.dest == l->apic_id;
		} else if (x2) {
			want = m.dest / 65536 == l->apic_id / 16 &&
			       (m.dest >> (l->apic_id % 16) & 1);
		} else if (m.dest > 0xff) {
			want = false;
		} else {
			unsigned id = l->ldr >> 24, common = 0;

			for (unsigned b = 0; b < (cluster ? 4 : 8); b++)
				common += (m.dest >> b & 1) && (id >> b & 1);
			want = common;
			if (cluster && m.dest / 16 != 15 && m.dest / 16 != id / 16)
				want = false;
		}
		assert_int_equal(route_match(l, &m), want);
	}
}

/* Timer. */

static void test_timer_one_shot(void **state)
{
	uint64_t t0 = rig_now;

	wr(0x3e0, 3);
	wr(0x320, 0x40);
	wr(0x380, 1000);
	/* Divided by 16. */
	assert_int_equal(rig.deadline[0], t0 + 16000);
	rig_until(t0 + 1600);
	assert_int_equal(rd(0x390), 900);
	rig_until(t0 + 15999);
	assert_int_equal(rig_take(0), -1);
	rig_until(t0 + 16000);
	assert_int_equal(rig_take(0), 0x40);
	assert_int_equal(rd(0x390), 0);
	rig_eoi(0);
	rig_until(t0 + 100000000);
	assert_int_equal(rig_take(0), -1);
	/* 0 stops. */
	wr(0x380, 1000);
	wr(0x380, 0);
	assert_int_equal(rig.deadline[0], UINT64_MAX);
}

static void test_timer_divider(void **state)
{
	static const struct {
		uint32_t reg;
		unsigned div;
	} rows[] = { { 0, 2 },  { 1, 4 },  { 2, 8 },    { 3, 16 },
		     { 8, 32 }, { 9, 64 }, { 10, 128 }, { 11, 1 } };

	wr(0x320, 0x40);
	for (unsigned i = 0; i < COUNT_OF(rows); i++) {
		wr(0x3e0, rows[i].reg);
		wr(0x380, 1000000);
		assert_int_equal(rig.deadline[0], rig_now + 1000000ull * rows[i].div);
	}
	/* A change while it counts: on from the same count. */
	wr(0x3e0, 11);
	wr(0x380, 1000);
	rig_until(rig_now + 400);
	wr(0x3e0, 0);
	assert_int_equal(rd(0x390), 600);
	assert_int_equal(rig.deadline[0], rig_now + 1200);
}

static void test_timer_periodic(void **state)
{
	uint64_t t0 = rig_now;
	unsigned n = 0;

	wr(0x3e0, 11);
	wr(0x320, 0x20040);
	wr(0x380, 1000000);
	for (unsigned ms = 1; ms <= 10; ms++) {
		rig_until(t0 + ms * NS_PER_MS);
		if (rig_take(0) == 0x40)
			n++;
		rig_eoi(0);
	}
	assert_int_equal(n, 10);
	rig_until(t0 + 10250000);
	assert_int_equal(rd(0x390), 750000);
	/* Late: the others follow as they are accepted; the phase stays. */
	rig_now = t0 + 15500000;
	rig_until(rig_now);
	for (n = 10; rig_take(0) == 0x40; n++)
		rig_eoi(0);
	assert_int_equal(n, 15);
	/* Not accepted for two periods. */
	rig_until(t0 + 17800000);
	for (; rig_take(0) == 0x40; n++)
		rig_eoi(0);
	assert_int_equal(n, 17);
	/* The EOI went to another vector's: tried four times in a period. */
	rig_until(t0 + 20100000);
	lapic_ack(&rig.l[0], 0x40);
	rig.l[0].isr[2] = 0;
	assert_int_equal(rig.deadline[0], t0 + 20250000);
	rig_until(t0 + 20300000);
	for (n++; rig_take(0) == 0x40; n++)
		rig_eoi(0);
	assert_int_equal(n, 20);
	/* A second's at most. */
	rig_now = t0 + 5020 * NS_PER_MS;
	rig_until(rig_now);
	assert_int_equal(rig.l[0].timer_owed, 1000);
	wr(0x380, 1000000);
	assert_int_equal(rig.l[0].timer_owed, 0);
	assert_int_equal(rig_take(0), 0x40);
	rig_eoi(0);
	/* A period of a nanosecond does not keep the host busy. */
	wr(0x380, 1);
	t0 = rig_now;
	unsigned kicks = rig.kicks[0];
	rig_until(t0 + NS_PER_MS);
	assert_true(rig.kicks[0] - kicks <= 21);
}

static void test_timer_masked(void **state)
{
	wr(0x3e0, 11);
	wr(0x320, 0x10040);
	wr(0x380, 1000);
	assert_int_equal(rig.deadline[0], UINT64_MAX);
	rig_until(rig_now + 500);
	assert_int_equal(rd(0x390), 500);
	/* Unmasked before the end: fires.  After: what was missed stays missed. */
	wr(0x320, 0x40);
	rig_until(rig_now + 500);
	assert_int_equal(rig_take(0), 0x40);
	rig_eoi(0);
	wr(0x320, 0x10040);
	wr(0x380, 1000);
	rig_until(rig_now + 5000);
	wr(0x320, 0x40);
	rig_until(rig_now + 5000);
	assert_int_equal(rig_take(0), -1);
}

static void test_timer_deadline(void **state)
{
	uint64_t t0 = rig_now, tsc0 = rig_now * RIG_TSC_PER_NS;

	/* Not in deadline mode: ignored. */
	assert_int_equal(msr_set(0, 0x6e0, tsc0 + 100), 0);
	assert_int_equal(msr_get(0, 0x6e0), 0);
	wr(0x320, 0x40040);
	wr(0x380, 1000);
	assert_int_equal(rd(0x380), 0);
	assert_int_equal(msr_set(0, 0x6e0, tsc0 + 2001), 0);
	assert_int_equal(msr_get(0, 0x6e0), tsc0 + 2001);
	/* The wake-up is early by rounding: not yet. */
	rig_until(t0 + 1000);
	assert_int_equal(rig_take(0), -1);
	rig_now = t0 + 1001;
	lapic_timer_fired(&rig.l[0]);
	assert_int_equal(rig_take(0), 0x40);
	assert_int_equal(msr_get(0, 0x6e0), 0);
	rig_eoi(0);
	/* In the past: at once. */
	assert_int_equal(msr_set(0, 0x6e0, 5), 0);
	assert_true(rig.deadline[0] <= rig_now);
	assert_int_equal(msr_set(0, 0x6e0, 0), 0);
	assert_int_equal(rig.deadline[0], UINT64_MAX);
	/* Leaving the mode disarms. */
	assert_int_equal(msr_set(0, 0x6e0, tsc0 + 1000000), 0);
	wr(0x320, 0x40);
	assert_int_equal(rig.deadline[0], UINT64_MAX);
	wr(0x320, 0x40040);
	assert_int_equal(msr_get(0, 0x6e0), 0);
}

/* Local interrupts. */

static void test_lint(void **state)
{
	wr(0x360, 0x400);
	irq_chips_nmi(rig.c);
	assert_int_equal(lapic_take_events(&rig.l[0]), LAPIC_EV_NMI);
	/* Masked on the others. */
	assert_int_equal(lapic_take_events(&rig.l[1]), 0);
	wr(0x360, 0x55);
	irq_chips_nmi(rig.c);
	assert_int_equal(rig_take(0), 0x55);
	/* No APIC: the pin is NMI. */
	assert_int_equal(msr_set(1, 0x1b, 0xfee00000), 0);
	irq_chips_nmi(rig.c);
	assert_int_equal(lapic_take_events(&rig.l[1]), LAPIC_EV_NMI);
}

/* Saved state. */

static void reload(unsigned from, unsigned to)
{
	struct state_buf buf = { 0 };
	struct err e;

	lapic_pre_save(&rig.l[from]);
	assert_int_equal(state_save(&lapic_state, 0, &rig.l[from], &buf, &e), 0);
	assert_int_equal(
		state_load(&lapic_state, 0, &rig.l[to], sizeof(rig.l[to]), buf.data, buf.len, &e),
		buf.len);
	lapic_post_load(&rig.l[to]);
	state_buf_fini(&buf);
}

static void test_save_load(void **state)
{
	wr(0x3e0, 11);
	wr(0x320, 0x20040);
	wr(0x380, 1000000);
	lapic_post(&rig.l[0], 0x61, true);
	lapic_post(&rig.l[0], 0x33, false);
	rig_take(0);
	wr(0x80, 0x10);
	rig_until(rig_now + 300000);
	reload(0, 2);
	assert_int_equal(lapic_read(&rig.l[2], 0x390), 700000);
	assert_int_equal(rig.deadline[2], rig_now + 700000);
	assert_int_equal(lapic_ppr(&rig.l[2]), 0x60);
	lapic_write(&rig.l[2], 0xb0, 0);
	assert_int_equal(rig_take(2), 0x33);

	/* A timer that is due but was not seen yet is not lost. */
	wr(0x320, 0x50);
	wr(0x380, 1000);
	rig_now += 2000;
	reload(0, 3);
	rig_eoi(3);
	assert_int_equal(rig_take(3), 0x50);

	/* Garbage is refused. */
	struct state_buf buf = { 0 };
	struct err e;
	struct lapic bad = rig.l[0];
	bad.base = X86_APIC_BASE_X2;
	assert_int_equal(state_save(&lapic_state, 0, &bad, &buf, &e), 0);
	assert_int_equal(state_load(&lapic_state, 0, &rig.l[1], sizeof(bad), buf.data, buf.len, &e),
			 -EPROTO);
	state_buf_fini(&buf);
}

static void test_page(void **state)
{
	uint8_t page[1024], again[1024];

	wr(0x3e0, 11);
	wr(0x320, 0x20040);
	wr(0x380, 1000000);
	wr(0x350, 0x8700);
	lapic_post(&rig.l[0], 0x61, true);
	lapic_post(&rig.l[0], 0x33, false);
	rig_take(0);
	rig_until(rig_now + 250000);
	lapic_get_page(&rig.l[0], page);
	assert_int_equal(ld_le32(page + 0x390), 750000);
	assert_int_equal(ld_le32(page + 0x130), 2);
	assert_int_equal(ld_le32(page + 0xa0), 0x60);
	lapic_reset(&rig.l[0], false);
	lapic_set_page(&rig.l[0], page, 0xfee00900);
	assert_int_equal(rig.deadline[0], rig_now + 750000);
	lapic_get_page(&rig.l[0], again);
	assert_memory_equal(page, again, 1024);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define TON(f) cmocka_unit_test_setup_teardown(f, setup_on, teardown)
	const struct CMUnitTest tests[] = {
		T(test_power_on),           T(test_software_disabled),
		TON(test_irr_isr_eoi),      TON(test_tpr),
		TON(test_priority_model),   TON(test_errors),
		TON(test_ipi_destinations), TON(test_lowest_priority),
		TON(test_init_sipi_nmi),    T(test_base_transitions),
		TON(test_x2apic),           TON(test_route_model),
		TON(test_timer_one_shot),   TON(test_timer_divider),
		TON(test_timer_periodic),   TON(test_timer_masked),
		TON(test_timer_deadline),   TON(test_lint),
		TON(test_save_load),        TON(test_page),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
