/* The keyboard controller, with somebody at keyboard and mouse; see pc_dev.h. */
#include "fuzz/pc_dev.h"

static void make(void)
{
	struct err e;

	BUG_ON(i8042_new(&rig.board, &rig.dev, &e) < 0);
}

static void event(struct input *in)
{
	if (in8(in) & 1)
		i8042_key(rig.dev, (unsigned)in_le(in, 2), in8(in) & 1);
	else
		i8042_mouse(rig.dev, (int)in_le(in, 4), (int)in_le(in, 4), (int)in_le(in, 4),
			    in8(in));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint16_t port[] = { 0x60, 0x64 };
	static const struct fuzz_dev f = {
		.make = make,
		.event = event,
		.port = port,
		.nport = COUNT_OF(port),
	};

	return fuzz_dev_run(&f, data, size);
}
