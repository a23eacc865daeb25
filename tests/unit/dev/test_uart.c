/* The 16550A: registers, FIFOs, interrupts by priority, loopback, and a stream that is slow. */
#include "lib/t.h"

#include "lib/pc_rig.h"

#include <errno.h>

static void make(void)
{
	const struct uart_opts o = { .name = "uart0", .port = 0x3f8, .gsi = 4 };
	struct err e;

	BUG_ON(uart_new(&rig.board, &o, &rig.dev, &e) < 0);
	uart_attach(rig.dev, &rig_chr.chr);
}

static int setup(void **state)
{
	rig_board();
	memset(&rig_chr, 0, sizeof(rig_chr));
	rig_chr.room = 1000;
	make();
	board_start(&rig.board);
	/* OUT2, DTR, RTS. */
	rig_out(0x3fc, 0x0b);
	return 0;
}

static int teardown(void **state)
{
	rig_board_fini(false);
	return 0;
}

static uint8_t in(unsigned reg)
{
	return rig_in(0x3f8 + reg);
}

static void out(unsigned reg, uint8_t v)
{
	rig_out(0x3f8 + reg, v);
}

static size_t input(const char *s)
{
	struct chr_client *c = uart_client(rig.dev);

	return c->input(c, (const uint8_t *)s, strlen(s));
}

static bool irq(void)
{
	return rig.q.level[4];
}

static void test_registers(void **state)
{
	assert_int_equal(in(5), 0x60);
	assert_int_equal(in(6), 0xb0);
	assert_int_equal(in(2), 1);
	out(7, 0x5a);
	assert_int_equal(in(7), 0x5a);
	/* The divisor behind DLAB. */
	out(3, 0x83);
	out(0, 0x34);
	out(1, 0x12);
	assert_int_equal(in(0), 0x34);
	assert_int_equal(in(1), 0x12);
	out(3, 3);
	assert_int_equal(in(1), 0);
	out(1, 0xff);
	assert_int_equal(in(1), 0x0f);
	assert_int_equal(rig_chr.len, 0);
	/* LSR and MSR cannot be written. */
	out(5, 0);
	out(6, 0);
	assert_int_equal(in(5), 0x60);
	/* The high bits of MCR are none. */
	out(4, 0xff);
	assert_int_equal(in(4), 0x1f);
}

static void test_transmit(void **state)
{
	out(0, 'h');
	out(0, 'i');
	assert_int_equal(rig_chr.len, 2);
	assert_memory_equal(rig_chr.out, "hi", 2);
	assert_int_equal(in(5), 0x60);
	/* Enabling the interrupt while it is empty raises it; reading IIR ends it. */
	assert_false(irq());
	out(1, 2);
	assert_true(irq());
	assert_int_equal(in(2), 2);
	assert_false(irq());
	assert_int_equal(in(2), 1);
	/* Every byte that went raises it again. */
	out(0, '!');
	assert_true(irq());
	out(1, 0);
	assert_false(irq());
	/* Writing bit 1 again, already empty. */
	out(1, 2);
	assert_true(irq());
	/* OUT2 holds the line. */
	out(4, 3);
	assert_false(irq());
}

static void test_slow_stream(void **state)
{
	struct chr_client *c = uart_client(rig.dev);

	out(2, 1);
	rig_chr.room = 3;
	for (unsigned i = 0; i < 10; i++)
		out(0, (uint8_t)('a' + i));
	assert_int_equal(rig_chr.len, 3);
	/* Full: the guest waits for THRE. */
	assert_int_equal(in(5), 0);
	out(1, 2);
	assert_false(irq());
	rig_chr.room = 2;
	c->writable(c);
	assert_int_equal(rig_chr.len, 5);
	assert_int_equal(in(5), 0);
	rig_chr.room = 100;
	c->writable(c);
	assert_int_equal(in(5), 0x60);
	assert_true(irq());
	assert_memory_equal(rig_chr.out, "abcdefghij", 10);
	/* A guest that does not wait loses what is beyond 16. */
	rig_chr.room = 0;
	for (unsigned i = 0; i < 20; i++)
		out(0, (uint8_t)('A' + i));
	rig_chr.room = 100;
	c->writable(c);
	assert_int_equal(rig_chr.len, 26);
	assert_memory_equal(rig_chr.out + 10, "ABCDEFGHIJKLMNOP", 16);
	/* Clearing the FIFO. */
	rig_chr.room = 0;
	out(0, 'x');
	out(2, 5);
	assert_int_equal(in(5), 0x60);
	rig_chr.room = 100;
	c->writable(c);
	assert_int_equal(rig_chr.len, 26);
	/* No stream: output goes nowhere, and never stops the guest. */
	uart_attach(rig.dev, NULL);
	out(0, 'x');
	assert_int_equal(in(5), 0x60);
}

static void test_receive(void **state)
{
	out(1, 1);
	/* Without FIFO one byte at a time; the stream keeps the rest and is asked for it. */
	assert_int_equal(input("xyz"), 1);
	assert_true(irq());
	assert_int_equal(in(2), 4);
	assert_int_equal(in(5), 0x61);
	assert_int_equal(input("yz"), 0);
	assert_int_equal(in(0), 'x');
	assert_false(irq());
	assert_int_equal(in(5), 0x60);
	assert_int_equal(rig_chr.polls, 0);
	loop_run_once(rig.board.loop, 0);
	assert_int_equal(rig_chr.polls, 1);
	assert_int_equal(input("yz"), 1);
	assert_int_equal(in(0), 'y');
	/* Empty: 0. */
	assert_int_equal(in(0), 0);
}

static void test_receive_fifo(void **state)
{
	out(2, 0x81);
	out(1, 1);
	assert_int_equal(in(2), 0xc1);
	/* Below the trigger of 8: the time-out. */
	assert_int_equal(input("1234567"), 7);
	assert_int_equal(in(2), 0xcc);
	assert_int_equal(input("8"), 1);
	assert_int_equal(in(2), 0xc4);
	assert_int_equal(in(0), '1');
	assert_int_equal(in(2), 0xcc);
	assert_int_equal(input("9abcdefghijkl"), 9);
	assert_int_equal(in(0), '2');
	assert_int_equal(in(5), 0x61);
	/* Clear. */
	out(2, 0x83);
	assert_int_equal(in(5), 0x60);
	assert_false(irq());
	loop_run_once(rig.board.loop, 0);
	assert_int_equal(rig_chr.polls, 1);
	/* Turning the FIFOs off clears them also. */
	input("abc");
	out(2, 0);
	assert_int_equal(in(5), 0x60);
	assert_int_equal(in(2), 1);
}

static void test_priorities(void **state)
{
	/* Loopback: overrun, data, transmitter, modem all at once. */
	out(4, 0x1b);
	out(1, 0x0f);
	in(6);
	out(0, 'a');
	out(0, 'b');
	out(4, 0x18);
	assert_int_equal(in(2), 6);
	assert_int_equal(in(5), 0x63);
	/* Errors are cleared by reading. */
	assert_int_equal(in(5), 0x61);
	assert_int_equal(in(2), 4);
	assert_int_equal(in(0), 'a');
	assert_int_equal(in(2), 2);
	assert_int_equal(in(2), 0);
	assert_int_equal(in(6) & 0x0f, 3);
	assert_int_equal(in(2), 1);
	/* The outputs are held inactive in loopback, OUT2 with them. */
	out(0, 'c');
	assert_int_equal(in(2), 4);
	assert_false(irq());
}

static void test_loopback_modem(void **state)
{
	in(6);
	out(4, 0x10);
	assert_int_equal(in(6), 0x0b);
	out(4, 0x1f);
	assert_int_equal(in(6), 0xfb);
	/* RI reports its end. */
	out(4, 0x1b);
	assert_int_equal(in(6), 0xb4);
	/* In loopback nothing goes out and nothing comes in. */
	out(0, 'q');
	assert_int_equal(rig_chr.len, 0);
	assert_int_equal(input("z"), 0);
	assert_int_equal(in(0), 'q');
	/* A break comes back. */
	out(3, 0x43);
	assert_int_equal(in(5), 0x70);
	out(4, 0x0b);
	loop_run_once(rig.board.loop, 0);
	assert_int_equal(rig_chr.polls, 1);
}

static void test_pause_and_reload(void **state)
{
	out(2, 1);
	out(1, 3);
	input("in");
	rig_chr.room = 0;
	out(0, 'o');
	out(0, 'u');
	/* Stopped: nothing moves. */
	board_stop(&rig.board);
	assert_int_equal(input("more"), 0);
	rig_chr.room = 100;
	uart_client(rig.dev)->writable(uart_client(rig.dev));
	assert_int_equal(rig_chr.len, 0);
	board_start(&rig.board);
	assert_int_equal(rig_chr.len, 2);
	loop_run_once(rig.board.loop, 0);
	assert_int_equal(rig_chr.polls, 1);
	rig_chr.room = 0;
	out(0, 't');
	rig_chr.room = 100;
	rig_reload(make);
	assert_memory_equal(rig_chr.out, "out", 3);
	assert_true(irq());
	assert_int_equal(in(0), 'i');
	assert_int_equal(in(0), 'n');
	assert_int_equal(in(4), 0x0b);
	/* Reset. */
	input("zz");
	board_reset(&rig.board);
	assert_false(irq());
	assert_int_equal(in(5), 0x60);
	assert_int_equal(in(1), 0);
}

static void test_load_refuses(void **state)
{
	struct state_buf buf = { 0 };
	struct err e;

	/* Two bytes in a receiver without FIFO: taken while it had one. */
	out(2, 1);
	input("ab");
	board_stop(&rig.board);
	assert_int_equal(board_save(&rig.board, &buf, &e), 0);
	/* After name, fields: rx.data, rx.head, rx.len ... ier, fcr. */
	size_t at = 4 + 2 + 2 + 4 + 4;
	assert_int_equal(buf.data[at + 17], 2);
	buf.data[at + 17] = 17;
	assert_int_equal(board_load(&rig.board, buf.data, buf.len, &e), -EPROTO);
	buf.data[at + 17] = 2;
	buf.data[at + 16] = 16;
	assert_int_equal(board_load(&rig.board, buf.data, buf.len, &e), -EPROTO);
	buf.data[at + 16] = 0;
	assert_int_equal(board_load(&rig.board, buf.data, buf.len, &e), 0);
	state_buf_fini(&buf);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_registers),      T(test_transmit),         T(test_slow_stream),
		T(test_receive),        T(test_receive_fifo),     T(test_priorities),
		T(test_loopback_modem), T(test_pause_and_reload), T(test_load_refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
