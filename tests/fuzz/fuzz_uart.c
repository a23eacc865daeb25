/* The serial port, over a stream that takes and gives what the input says; see pc_dev.h. */
#include "fuzz/pc_dev.h"

static void make(void)
{
	const struct uart_opts o = { .name = "uart0", .port = 0x3f8, .gsi = 4 };
	struct err e;

	BUG_ON(uart_new(&rig.board, &o, &rig.dev, &e) < 0);
	uart_attach(rig.dev, &rig_chr.chr);
}

static void event(struct input *in)
{
	struct chr_client *c = uart_client(rig.dev);
	uint8_t bytes[64] = { 0 };

	switch (in8(in) % 4) {
	case 0:
		rig_chr.room = in8(in);
		c->writable(c);
		break;
	case 1:
		BUG_ON(c->input(c, bytes, in8(in) % sizeof(bytes)) > sizeof(bytes));
		break;
	case 2:
		uart_attach(rig.dev, in8(in) & 1 ? &rig_chr.chr : NULL);
		break;
	default:
		rig_chr.room = in8(in);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint16_t port[] = { 0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff };
	static const struct fuzz_dev f = {
		.make = make,
		.event = event,
		.port = port,
		.nport = COUNT_OF(port),
	};

	return fuzz_dev_run(&f, data, size);
}
