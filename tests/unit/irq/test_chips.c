/* The chips together: the I/O APIC's entries, MSIs, lines, virtual wire, the split irqchip. */
#include "lib/t.h"

#include "base/bug.h"
#include "lib/irq_rig.h"

#include <errno.h>
#include <stdlib.h>

enum {
	MASKED = 1 << 16,
	LEVEL = 1 << 15,
	REMOTE_IRR = 1 << 14,
	LOGICAL = 1 << 11,
};

static struct irq_line line_a, line_b;

static int setup(void **state)
{
	rig_init(NULL);
	for (unsigned i = 0; i < RIG_CPUS; i++)
		rig_enable(i);
	line_a = (struct irq_line){ .irqs = irq_chips_irqs(rig.c), .gsi = 20 };
	line_b = line_a;
	return 0;
}

static int teardown(void **state)
{
	rig_fini();
	return 0;
}

static uint64_t dest(unsigned d)
{
	return (uint64_t)d << 56;
}

static void test_ioapic_registers(void **state)
{
	bus_write(&rig.mmio, 0xfec00000, 4, 1);
	assert_int_equal(bus_read(&rig.mmio, 0xfec00010, 4), 0x170020);
	bus_write(&rig.mmio, 0xfec00000, 4, 0);
	bus_write(&rig.mmio, 0xfec00010, 4, 0xffffffff);
	assert_int_equal(bus_read(&rig.mmio, 0xfec00010, 4), 0x0f000000);
	assert_int_equal(rig_ioapic_get(23), MASKED);
	/* Read-only and reserved bits stay 0. */
	rig_ioapic(3, ~0ull);
	assert_int_equal(rig_ioapic_get(3), 0xff0000000001afff);
	bus_write(&rig.mmio, 0xfec00000, 4, 0x40);
	bus_write(&rig.mmio, 0xfec00010, 4, 1);
	assert_int_equal(bus_read(&rig.mmio, 0xfec00010, 4), 0);
	assert_int_equal(bus_read(&rig.mmio, 0xfec00000, 1), 0x40);
}

static void test_ioapic_edge(void **state)
{
	rig_ioapic(20, dest(1) | 0x55);
	irq_line_set(&line_a, true);
	assert_int_equal(rig_take(1), 0x55);
	rig_eoi(1);
	/* Once for each rise. */
	assert_int_equal(rig_take(1), -1);
	line_a.irqs->ops->line(line_a.irqs, 20, true);
	assert_int_equal(rig_take(1), -1);
	irq_line_set(&line_a, false);
	irq_line_pulse(&line_a);
	assert_int_equal(rig_take(1), 0x55);
	rig_eoi(1);
	/* Masked: lost. */
	rig_ioapic(20, dest(1) | MASKED | 0x55);
	irq_line_pulse(&line_a);
	rig_ioapic(20, dest(1) | 0x55);
	assert_int_equal(rig_take(1), -1);
}

static void test_ioapic_level(void **state)
{
	rig_ioapic(20, dest(4) | LOGICAL | LEVEL | 0x55);
	irq_line_set(&line_a, true);
	assert_int_equal(rig_ioapic_get(20) & REMOTE_IRR, REMOTE_IRR);
	assert_int_equal(rig_take(2), 0x55);
	/* Up and in service: nothing more until EOI, then again. */
	assert_int_equal(rig_take(2), -1);
	rig_eoi(2);
	assert_int_equal(rig_take(2), 0x55);
	irq_line_set(&line_a, false);
	assert_int_equal(rig_ioapic_get(20) & REMOTE_IRR, REMOTE_IRR);
	rig_eoi(2);
	assert_int_equal(rig_ioapic_get(20) & REMOTE_IRR, 0);
	assert_int_equal(rig_take(2), -1);
	/* Masked: waits. */
	rig_ioapic(20, dest(4) | LOGICAL | LEVEL | MASKED | 0x55);
	irq_line_set(&line_a, true);
	assert_int_equal(rig_take(2), -1);
	rig_ioapic(20, dest(4) | LOGICAL | LEVEL | 0x55);
	assert_int_equal(rig_take(2), 0x55);
}

static void test_ioapic_directed_eoi(void **state)
{
	/* EOI broadcasts suppressed: the EOI register does it. */
	lapic_write(&rig.l[0], 0xf0, 0x11ff);
	rig_ioapic(20, dest(0) | LEVEL | 0x55);
	irq_line_set(&line_a, true);
	assert_int_equal(rig_take(0), 0x55);
	irq_line_set(&line_a, false);
	rig_eoi(0);
	assert_int_equal(rig_ioapic_get(20) & REMOTE_IRR, REMOTE_IRR);
	bus_write(&rig.mmio, 0xfec00040, 4, 0x56);
	assert_int_equal(rig_ioapic_get(20) & REMOTE_IRR, REMOTE_IRR);
	bus_write(&rig.mmio, 0xfec00040, 4, 0x55);
	assert_int_equal(rig_ioapic_get(20) & REMOTE_IRR, 0);
	/* Changing to edge clears it too. */
	irq_line_set(&line_a, true);
	rig_ioapic(20, dest(0) | 0x55);
	assert_int_equal(rig_ioapic_get(20) & REMOTE_IRR, 0);
}

/* Nobody there: no EOI would ever come, so none is awaited. */
static void test_ioapic_no_destination(void **state)
{
	rig_ioapic(20, dest(9) | LEVEL | 0x55);
	irq_line_set(&line_a, true);
	assert_int_equal(rig_ioapic_get(20) & REMOTE_IRR, 0);
	rig_ioapic(20, dest(1) | LEVEL | 0x55);
	assert_int_equal(rig_take(1), 0x55);
}

static void test_ioapic_modes(void **state)
{
	rig_ioapic(20, dest(3) | 0x400);
	irq_line_pulse(&line_a);
	assert_int_equal(lapic_take_events(&rig.l[3]), LAPIC_EV_NMI);
	rig_ioapic(20, dest(3) | 0x500);
	irq_line_pulse(&line_a);
	assert_int_equal(lapic_take_events(&rig.l[3]), LAPIC_EV_INIT);
	/* Lowest priority among 0-2. */
	lapic_write(&rig.l[0], 0x80, 0x50);
	lapic_write(&rig.l[2], 0x80, 0x50);
	rig_ioapic(20, dest(7) | LOGICAL | 0x155);
	irq_line_pulse(&line_a);
	assert_int_equal(rig_take(1), 0x55);
	assert_int_equal(rig_take(0) & rig_take(2), -1);
}

static void test_shared_line(void **state)
{
	rig_ioapic(20, dest(0) | LEVEL | 0x55);
	irq_line_set(&line_a, true);
	irq_line_set(&line_b, true);
	assert_int_equal(rig_take(0), 0x55);
	irq_line_set(&line_a, false);
	rig_eoi(0);
	assert_int_equal(rig_take(0), 0x55);
	irq_line_set(&line_b, false);
	rig_eoi(0);
	assert_int_equal(rig_take(0), -1);
}

/* Lines alone. */

static unsigned told, told_level;

static void tell(struct irqs *q, unsigned gsi, bool level)
{
	__atomic_fetch_add(&told, 1, __ATOMIC_RELAXED);
	__atomic_store_n(&told_level, level, __ATOMIC_RELAXED);
}

static const struct irq_ops tell_ops = { .name = "tell", .line = tell };

/* Only changes of the wire reach the chips. */
static void test_line_calls(void **state)
{
	struct irqs q = { .ops = &tell_ops };
	struct irq_line a = { .irqs = &q, .gsi = 9 }, b = a;

	told = 0;
	irq_line_set(&a, false);
	assert_int_equal(told, 0);
	irq_line_set(&a, true);
	irq_line_set(&a, true);
	irq_line_set(&b, true);
	assert_int_equal(told, 1);
	assert_int_equal(q.level, 1 << 9);
	irq_line_set(&a, false);
	assert_int_equal(told, 1);
	irq_line_set(&b, false);
	assert_int_equal(told, 2);
	assert_int_equal(q.level, 0);
}

static void toggle(void *arg)
{
	struct irq_line *l = arg;

	for (unsigned n = 0; n < 20001; n++)
		irq_line_set(l, !(n & 1));
}

/* Devices that share a line race: what the chips hear last is what the wire is. */
static void test_line_race(void **state)
{
	struct irqs q = { .ops = &tell_ops };
	struct irq_line l[3];
	struct thread t[3] = { 0 };
	struct err e;

	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < COUNT_OF(l); i++) {
			l[i] = (struct irq_line){ .irqs = &q, .gsi = 9 };
			assert_int_equal(thread_start(&t[i], "toggle", toggle, &l[i], &e), 0);
		}
		for (unsigned i = 0; i < COUNT_OF(l); i++)
			thread_join(&t[i]);
		assert_int_equal(told_level, 1);
		assert_int_equal(q.holders[9], 3);
		for (unsigned i = 0; i < COUNT_OF(l); i++)
			irq_line_set(&l[i], false);
		assert_int_equal(told_level, 0);
	}
}

static void test_isa_lines(void **state)
{
	struct irq_line pit = { .irqs = irq_chips_irqs(rig.c), .gsi = IRQ_GSI_PIT };
	struct irq_line kbd = { .irqs = irq_chips_irqs(rig.c), .gsi = IRQ_GSI_KBD };

	rig_pic_setup(1);
	rig_ioapic(2, dest(1) | 0x62);
	rig_ioapic(1, dest(1) | 0x61);
	/* The PIT is pin 2 there and input 0 here. */
	irq_line_pulse(&pit);
	assert_int_equal(rig_take(1), 0x62);
	rig_eoi(1);
	assert_int_equal(irq_chips_inta(rig.c), 0x20);
	bus_write(&rig.pio, 0x20, 1, 0x20);
	irq_line_pulse(&kbd);
	assert_int_equal(rig_take(1), 0x61);
	assert_int_equal(irq_chips_inta(rig.c), 0x21);
}

static void msi(uint64_t addr, uint32_t data)
{
	irq_msi(irq_chips_irqs(rig.c), addr, data);
}

static void test_msi(void **state)
{
	msi(0xfee02000, 0x71);
	assert_int_equal(rig_take(2), 0x71);
	rig_eoi(2);
	/* Logical, to all of them; with the redirection hint to one. */
	msi(0xfee0a004, 0x72);
	assert_int_equal(rig_take(1), 0x72);
	assert_int_equal(rig_take(3), 0x72);
	rig_eoi(1);
	rig_eoi(3);
	for (unsigned n = 0; n < 10; n++) {
		msi(0xfee0a00c, 0x73);
		int a = rig_take(1), b = rig_take(3);

		assert_true((a == 0x73) != (b == 0x73));
		rig_eoi(1);
		rig_eoi(3);
	}
	/* Delivery modes; a start-up cannot come this way. */
	msi(0xfee01000, 0x400);
	assert_int_equal(lapic_take_events(&rig.l[1]), LAPIC_EV_NMI);
	msi(0xfee01000, 0x610);
	assert_int_equal(lapic_take_events(&rig.l[1]), 0);
	/* A level that is de-asserted. */
	msi(0xfee01000, 0x8074);
	assert_int_equal(rig_take(1), -1);
	msi(0xfee01000, 0xc074);
	assert_int_equal(rig_take(1), 0x74);
	/* Broadcast reaches an x2APIC also. */
	rig_eoi(1);
	rig_x2(1);
	msi(0xfeeff000, 0x75);
	assert_int_equal(rig_take(1), 0x75);
	assert_int_equal(rig_take(0), 0x75);
}

/* What an edge would become, by either way and both. */
static void test_edge_query(void **state)
{
	struct irq_line pit = { .irqs = irq_chips_irqs(rig.c), .gsi = 0 };
	struct irq_line rtc = { .irqs = irq_chips_irqs(rig.c), .gsi = 8 };

	/* All masked in the I/O APIC; the 8259s' masks are open, and LINT0 of CPU 0. */
	rig_pic_setup(1);
	assert_int_equal(irq_line_edge(&pit), IRQ_EDGE_TAKEN);
	irq_line_pulse(&pit);
	assert_int_equal(irq_line_edge(&pit), IRQ_EDGE_MERGED);
	assert_int_equal(irq_line_edge(&rtc), IRQ_EDGE_TAKEN);
	assert_int_equal(irq_chips_inta(rig.c), 0x20);
	assert_int_equal(irq_line_edge(&pit), IRQ_EDGE_TAKEN);
	/* The slave's input, and the cascade. */
	bus_write(&rig.pio, 0x21, 1, 1 << 2);
	assert_int_equal(irq_line_edge(&rtc), IRQ_EDGE_UNHEARD);
	bus_write(&rig.pio, 0x21, 1, 1);
	assert_int_equal(irq_line_edge(&rtc), IRQ_EDGE_TAKEN);
	assert_int_equal(irq_line_edge(&pit), IRQ_EDGE_UNHEARD);
	bus_write(&rig.pio, 0xa1, 1, 1);
	assert_int_equal(irq_line_edge(&rtc), IRQ_EDGE_UNHEARD);
	bus_write(&rig.pio, 0x21, 1, 0);
	/* Nobody takes INTR. */
	lapic_write(&rig.l[0], 0x350, MASKED);
	assert_int_equal(irq_line_edge(&pit), IRQ_EDGE_UNHEARD);
	/* The I/O APIC. */
	rig_ioapic(2, dest(1) | 0x55);
	assert_int_equal(irq_line_edge(&pit), IRQ_EDGE_TAKEN);
	irq_line_pulse(&pit);
	assert_int_equal(irq_line_edge(&pit), IRQ_EDGE_MERGED);
	assert_int_equal(rig_take(1), 0x55);
	assert_int_equal(irq_line_edge(&pit), IRQ_EDGE_TAKEN);
	/* One of two has it waiting. */
	irq_msi(pit.irqs, 0xfee00000 | 1 << 12, 0x56);
	assert_int_equal(irq_msi_edge(pit.irqs, 0xfee00000 | 1 << 12, 0x56), IRQ_EDGE_MERGED);
	assert_int_equal(irq_msi_edge(pit.irqs, 0xfee00000 | 3 << 12 | 4, 0x56), IRQ_EDGE_TAKEN);
	irq_msi(pit.irqs, 0xfee00000, 0x56);
	assert_int_equal(irq_msi_edge(pit.irqs, 0xfee00000 | 3 << 12 | 4, 0x56), IRQ_EDGE_MERGED);
	/* Nobody there. */
	assert_int_equal(irq_msi_edge(pit.irqs, 0xfee00000 | 9 << 12, 0x56), IRQ_EDGE_UNHEARD);
}

static unsigned accepted;

static void on_accepted(struct irq_waiter *w)
{
	accepted++;
}

/* A waiter hears of each EOI, while it wants to. */
static void test_waiters(void **state)
{
	struct irq_waiter a = { .fn = on_accepted }, b = { .fn = on_accepted };
	struct irqs *q = irq_chips_irqs(rig.c);

	irq_waiter_add(q, &a);
	irq_waiter_add(q, &b);
	accepted = 0;
	for (unsigned n = 0; n < 3; n++) {
		irq_waiter_set(&a, n > 0);
		irq_waiter_set(&b, n > 1);
		irq_msi(q, 0xfee00000, 0x41);
		assert_int_equal(rig_take(0), 0x41);
		assert_int_equal(accepted, n == 2 ? 1 : 0);
		rig_eoi(0);
		assert_int_equal(accepted, n == 2 ? 3 : n);
	}
	irq_waiter_del(q, &a);
	irq_accepted(q);
	assert_int_equal(accepted, 4);
	irq_waiter_del(q, &b);
	assert_null(q->waiters);
}

static void test_virtual_wire(void **state)
{
	struct irq_line kbd = { .irqs = irq_chips_irqs(rig.c), .gsi = IRQ_GSI_KBD };

	rig_pic_setup(1);
	/* rig_enable() left LINT0 as it was: ExtINT on the boot CPU. */
	memset(rig.kicks, 0, sizeof(rig.kicks));
	irq_line_pulse(&kbd);
	assert_int_equal(rig.kicks[0], 1);
	assert_true(irq_chips_intr(rig.c, &rig.l[0]));
	assert_false(irq_chips_intr(rig.c, &rig.l[1]));
	/* Masked LINT0 holds it back; unmasking makes the CPU look. */
	lapic_write(&rig.l[0], 0x350, 0x10700);
	assert_false(irq_chips_intr(rig.c, &rig.l[0]));
	rig.kicks[0] = 0;
	lapic_write(&rig.l[0], 0x350, 0x700);
	assert_true(irq_chips_intr(rig.c, &rig.l[0]));
	assert_int_equal(rig.kicks[0], 1);
	/* Through I/O APIC pin 0 to CPU 2. */
	lapic_write(&rig.l[0], 0x350, 0x10700);
	rig_ioapic(0, dest(2) | 0x700);
	assert_false(irq_chips_intr(rig.c, &rig.l[0]));
	assert_true(irq_chips_intr(rig.c, &rig.l[2]));
	assert_int_equal(irq_chips_inta(rig.c), 0x21);
	assert_false(irq_chips_intr(rig.c, &rig.l[2]));
	bus_write(&rig.pio, 0x20, 1, 0x20);
	rig_ioapic(0, MASKED);
	/* A disabled APIC is a wire. */
	assert_int_equal(lapic_msr_write(&rig.l[3], 0x1b, 0xfee00000), 0);
	irq_line_pulse(&kbd);
	assert_true(irq_chips_intr(rig.c, &rig.l[3]));
	irq_chips_inta(rig.c);
	bus_write(&rig.pio, 0x20, 1, 0x20);
	/* LINT0 in fixed mode: an edge of INTR is an interrupt. */
	lapic_write(&rig.l[0], 0x350, 0x66);
	irq_line_pulse(&kbd);
	assert_int_equal(rig_take(0), 0x66);
}

static void test_save_load(void **state)
{
	struct state_buf buf = { 0 };
	struct err e;
	size_t size;

	rig_pic_setup(1);
	rig_ioapic(20, dest(1) | LEVEL | 0x55);
	irq_line_set(&line_a, true);
	assert_int_equal(rig_take(1), 0x55);
	void *obj = irq_chips_state_obj(rig.c, &size);
	assert_int_equal(state_save(&irq_chips_state, 0, obj, &buf, &e), 0);
	char *before = state_dump(&irq_chips_state, obj);

	/* Another machine, whose device raises its line before or after the load. */
	for (unsigned late = 0; late < 2; late++) {
		rig_fini();
		setup(NULL);
		obj = irq_chips_state_obj(rig.c, &size);
		if (!late)
			irq_line_set(&line_a, true);
		assert_int_equal(state_load(&irq_chips_state, 0, obj, size, buf.data, buf.len, &e),
				 buf.len);
		irq_chips_post_load(rig.c);
		if (late)
			irq_line_set(&line_a, true);
		char *after = state_dump(&irq_chips_state, obj);
		assert_string_equal(before, after);
		free(after);
		/* Awaiting EOI; it comes and the line is still up. */
		assert_int_equal(rig_take(1), -1);
		irq_chips_eoi(rig.c, 0x55);
		assert_int_equal(rig_take(1), 0x55);
	}
	/* A stream with a priority that does not exist. */
	rig.c->pic.chip[0].top = 8;
	buf.len = 0;
	assert_int_equal(state_save(&irq_chips_state, 0, obj, &buf, &e), 0);
	assert_int_equal(state_load(&irq_chips_state, 0, obj, size, buf.data, buf.len, &e),
			 -EPROTO);
	free(before);
	state_buf_fini(&buf);
}

static struct {
	uint64_t addr;
	uint32_t data;
	unsigned msis, routed;
	bool intr;
} seen;

static void split_msi(void *arg, uint64_t addr, uint32_t data)
{
	seen.addr = addr;
	seen.data = data;
	seen.msis++;
}

static void split_intr(void *arg, bool level)
{
	seen.intr = level;
}

static void split_routed(void *arg, unsigned pin)
{
	uint64_t addr;
	uint32_t data;

	seen.routed |= 1u << pin;
	irq_chips_pin(rig.c, pin, &addr, &data);
}

/* kvm's split irqchip: messages and INTR go to the kernel, EOIs come from it. */
static void test_split(void **state)
{
	const struct irq_chips_opts o = {
		.msi = split_msi,
		.intr = split_intr,
		.routed = split_routed,
	};
	struct irq_line kbd;
	uint64_t addr;
	uint32_t data;

	rig_fini();
	rig_init(&o);
	kbd = (struct irq_line){ .irqs = irq_chips_irqs(rig.c), .gsi = IRQ_GSI_KBD };
	line_a.irqs = kbd.irqs;
	rig_ioapic(20, dest(5) | LEVEL | LOGICAL | 0x155);
	assert_int_equal(seen.routed, 1u << 20);
	irq_line_set(&line_a, true);
	assert_int_equal(seen.addr, 0xfee0500c);
	assert_int_equal(seen.data, 0xc155);
	assert_int_equal(seen.msis, 1);
	irq_chips_eoi(rig.c, 0x55);
	assert_int_equal(seen.msis, 2);
	assert_true(irq_chips_pin(rig.c, 20, &addr, &data));
	assert_int_equal(data, 0xc155);
	assert_false(irq_chips_pin(rig.c, 21, &addr, &data));
	rig_pic_setup(1);
	irq_line_set(&kbd, true);
	assert_true(seen.intr);
	assert_int_equal(irq_chips_inta(rig.c), 0x21);
	assert_false(seen.intr);
	msi(0xfee01000, 0x33);
	assert_int_equal(seen.data, 0x33);
}

static void test_reset(void **state)
{
	rig_pic_setup(1);
	rig_ioapic(20, dest(1) | LEVEL | 0x55);
	irq_line_set(&line_a, true);
	irq_chips_reset(rig.c);
	assert_int_equal(rig_ioapic_get(20), MASKED);
	assert_int_equal(bus_read(&rig.pio, 0x21, 1), 0);
	/* The device still holds the line. */
	rig_ioapic(20, dest(2) | LEVEL | 0x44);
	assert_int_equal(rig_take(2), 0x44);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_ioapic_registers),
		T(test_ioapic_edge),
		T(test_ioapic_level),
		T(test_ioapic_directed_eoi),
		T(test_ioapic_no_destination),
		T(test_ioapic_modes),
		T(test_shared_line),
		T(test_line_calls),
		T(test_line_race),
		T(test_isa_lines),
		T(test_msi),
		T(test_edge_query),
		T(test_waiters),
		T(test_virtual_wire),
		T(test_save_load),
		T(test_split),
		T(test_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
