/* The 8259 pair, register by register (8259A data sheet), through its ports. */
#include "lib/t.h"

#include "base/bug.h"
#include "lib/irq_rig.h"

static void out(unsigned port, uint8_t v)
{
	bus_write(&rig.pio, port, 1, v);
}

static uint8_t in(unsigned port)
{
	return (uint8_t)bus_read(&rig.pio, port, 1);
}

static void line(unsigned n, bool level)
{
	irq_chips_irqs(rig.c)->ops->line(irq_chips_irqs(rig.c), n, level);
}

static void pulse(unsigned n)
{
	line(n, true);
	line(n, false);
}

static bool intr(void)
{
	return irq_chips_intr(rig.c, &rig.l[0]);
}

static int setup(void **state)
{
	rig_init(NULL);
	rig_pic_setup(1);
	return 0;
}

static int teardown(void **state)
{
	rig_fini();
	return 0;
}

static void test_vectors(void **state)
{
	for (unsigned n = 0; n < 16; n++) {
		if (n == 2)
			continue;
		pulse(n);
		assert_true(intr());
		assert_int_equal(irq_chips_inta(rig.c), 0x20 + n);
		assert_false(intr());
		if (n >= 8)
			out(0xa0, 0x20);
		out(0x20, 0x20);
	}
	/* Input 2 is the cascade: nothing else can drive it. */
	pulse(2);
	assert_false(intr());
}

static void test_mask_and_registers(void **state)
{
	out(0x21, 0x10);
	assert_int_equal(in(0x21), 0x10);
	pulse(4);
	assert_false(intr());
	/* IRR, then ISR. */
	out(0x20, 0x0a);
	assert_int_equal(in(0x20), 0x10);
	out(0x21, 0);
	assert_true(intr());
	irq_chips_inta(rig.c);
	assert_int_equal(in(0x20), 0);
	out(0x20, 0x0b);
	assert_int_equal(in(0x20), 0x10);
	out(0x20, 0x64);
	assert_int_equal(in(0x20), 0);
}

static void test_priority_and_nesting(void **state)
{
	pulse(5);
	assert_int_equal(irq_chips_inta(rig.c), 0x25);
	/* Lower and equal wait, higher interrupts. */
	pulse(6);
	pulse(5);
	assert_false(intr());
	pulse(3);
	assert_true(intr());
	assert_int_equal(irq_chips_inta(rig.c), 0x23);
	out(0x20, 0x20);
	assert_false(intr());
	out(0x20, 0x20);
	assert_int_equal(irq_chips_inta(rig.c), 0x25);
	out(0x20, 0x20);
	assert_int_equal(irq_chips_inta(rig.c), 0x26);
}

static void test_rotation(void **state)
{
	/* Rotate on specific EOI: 3 becomes the lowest, 4 the highest. */
	pulse(3);
	irq_chips_inta(rig.c);
	out(0x20, 0xe3);
	line(3, true);
	line(4, true);
	assert_int_equal(irq_chips_inta(rig.c), 0x24);
	/* Rotate on non-specific EOI: 4 was highest in service. */
	out(0x20, 0xa0);
	assert_int_equal(irq_chips_inta(rig.c), 0x23);
	out(0x20, 0x20);
	/* Set priority: 7 lowest, the power-on order. */
	out(0x20, 0xc7);
	pulse(7);
	pulse(0);
	assert_int_equal(irq_chips_inta(rig.c), 0x20);
}

static void test_edge_and_level(void **state)
{
	line(5, true);
	irq_chips_inta(rig.c);
	out(0x20, 0x20);
	/* The input is still up: no new edge. */
	assert_false(intr());
	line(5, false);
	line(5, true);
	assert_true(intr());
	irq_chips_inta(rig.c);
	out(0x20, 0x20);
	line(5, false);

	/* Level: asks as long as it is up. */
	out(0x4d0, 0x20);
	assert_int_equal(in(0x4d0), 0x20);
	line(5, true);
	assert_int_equal(irq_chips_inta(rig.c), 0x25);
	out(0x20, 0x20);
	assert_true(intr());
	assert_int_equal(irq_chips_inta(rig.c), 0x25);
	line(5, false);
	out(0x20, 0x20);
	assert_false(intr());
	/* Timer, keyboard, cascade and RTC, FPU cannot be level-triggered. */
	out(0x4d0, 0xff);
	out(0x4d1, 0xff);
	assert_int_equal(in(0x4d0), 0xf8);
	assert_int_equal(in(0x4d1), 0xde);
}

static void test_spurious(void **state)
{
	out(0x4d0, 0x20);
	line(5, true);
	line(5, false);
	assert_int_equal(irq_chips_inta(rig.c), 0x27);
	out(0x20, 0x0b);
	assert_int_equal(in(0x20), 0);
	/* On the slave: the master's cascade bit is in service, the slave has none. */
	pulse(12);
	out(0xa1, 0x10);
	assert_int_equal(irq_chips_inta(rig.c), 0x27);
	out(0xa1, 0);
	assert_int_equal(irq_chips_inta(rig.c), 0x2c);
	out(0x20, 0x0b);
	assert_int_equal(in(0x20), 4);
}

static void test_auto_eoi(void **state)
{
	rig_pic_setup(3);
	pulse(6);
	assert_int_equal(irq_chips_inta(rig.c), 0x26);
	out(0x20, 0x0b);
	assert_int_equal(in(0x20), 0);
	/* Rotating: 6 becomes the lowest. */
	out(0x20, 0x80);
	pulse(6);
	irq_chips_inta(rig.c);
	pulse(6);
	pulse(7);
	assert_int_equal(irq_chips_inta(rig.c), 0x27);
	assert_int_equal(irq_chips_inta(rig.c), 0x26);
	/* Two on a slave in automatic EOI: the cascade does not lose the second. */
	pulse(12);
	pulse(13);
	assert_int_equal(irq_chips_inta(rig.c), 0x2c);
	assert_int_equal(irq_chips_inta(rig.c), 0x2d);
	assert_false(intr());
}

static void test_special_mask(void **state)
{
	pulse(3);
	irq_chips_inta(rig.c);
	pulse(6);
	assert_false(intr());
	out(0x21, 1 << 3);
	assert_false(intr());
	out(0x20, 0x68);
	assert_true(intr());
	assert_int_equal(irq_chips_inta(rig.c), 0x26);
	/* Non-specific EOI passes over the masked one. */
	out(0x20, 0x20);
	out(0x20, 0x0b);
	assert_int_equal(in(0x20), 1 << 3);
	out(0x20, 0x48);
	pulse(6);
	assert_false(intr());
}

static void test_special_fully_nested(void **state)
{
	/* Not nested: a second slave input waits for the master's EOI. */
	pulse(13);
	irq_chips_inta(rig.c);
	pulse(9);
	assert_false(intr());
	out(0xa0, 0x20);
	out(0x20, 0x20);
	assert_int_equal(irq_chips_inta(rig.c), 0x29);
	rig_pic_setup(0x11);
	pulse(13);
	irq_chips_inta(rig.c);
	pulse(9);
	assert_true(intr());
	assert_int_equal(irq_chips_inta(rig.c), 0x29);
}

static void test_poll(void **state)
{
	out(0x20, 0x0c);
	assert_int_equal(in(0x20), 0);
	pulse(1);
	out(0x20, 0x0c);
	assert_int_equal(in(0x20), 0x81);
	assert_false(intr());
	out(0x20, 0x0b);
	assert_int_equal(in(0x20), 2);
}

static void test_icw_sequence(void **state)
{
	pulse(3);
	/* ICW1 without ICW4: two more bytes, then the mask. */
	out(0x20, 0x10);
	assert_false(intr());
	out(0x21, 0x47);
	out(0x21, 4);
	out(0x21, 0x55);
	assert_int_equal(in(0x21), 0x55);
	/* The low three bits of ICW2 are the input's. */
	pulse(1);
	assert_int_equal(irq_chips_inta(rig.c), 0x41);
	/* Single: no ICW3. */
	out(0x20, 0x13);
	out(0x21, 0x60);
	out(0x21, 1);
	out(0x21, 0xaa);
	assert_int_equal(in(0x21), 0xaa);
}

/*
 * Against a naive model of one 8259 in fully nested mode: sets of requests and of interrupts in
 * service, and a search by hand.
 */
static void test_model(void **state)
{
	uint64_t seed = 0x8259;
	unsigned irr = 0, isr = 0, imr = 0, up = 0;

	printf("# seed %#lx\n", (unsigned long)seed);
	out(0xa1, 0xff);
	for (unsigned step = 0; step < 200000; step++) {
		unsigned n = t_rnd(&seed) % 8, want = 8;

		for (unsigned i = 0; i < 8 && want == 8; i++) {
			if (isr >> i & 1)
				break;
			if ((irr & ~imr) >> i & 1)
				want = i;
		}
		assert_int_equal(intr(), want < 8);
		switch (t_rnd(&seed) % 5) {
		case 0:
			if (n == 2)
				break;
			irr |= up >> n & 1 ? 0 : 1u << n;
			up |= 1u << n;
			line(n, true);
			break;
		case 1:
			if (n == 2)
				break;
			up &= ~(1u << n);
			line(n, false);
			break;
		case 2:
			imr = t_rnd(&seed) & 0xff;
			out(0x21, (uint8_t)imr);
			break;
		case 3:
			assert_int_equal(irq_chips_inta(rig.c), 0x20 + (want < 8 ? want : 7));
			if (want < 8) {
				irr &= ~(1u << want);
				isr |= 1u << want;
			}
			break;
		default:
			out(0x20, 0x20);
			isr &= isr - 1;
		}
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_vectors),  T(test_mask_and_registers), T(test_priority_and_nesting),
		T(test_rotation), T(test_edge_and_level),     T(test_spurious),
		T(test_auto_eoi), T(test_special_mask),       T(test_special_fully_nested),
		T(test_poll),     T(test_icw_sequence),       T(test_model),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
