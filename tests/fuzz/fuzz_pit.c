/* The 8254; see pc_dev.h. */
#include "fuzz/pc_dev.h"

static void make(void)
{
	struct err e;

	BUG_ON(pit_new(&rig.board, &rig.dev, &e) < 0);
}

static void event(struct input *in)
{
	pit_route(rig.dev, in8(in) & 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint16_t port[] = { 0x40, 0x41, 0x42, 0x43, 0x61 };
	static const struct fuzz_dev f = {
		.make = make,
		.event = event,
		.port = port,
		.nport = COUNT_OF(port),
	};

	return fuzz_dev_run(&f, data, size);
}
