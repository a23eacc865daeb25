/* The clock; see pc_dev.h. */
#include "fuzz/pc_dev.h"

static void make(void)
{
	const struct rtc_opts o = { .ram_low = 1 << 30, .ncpus = 2 };
	struct err e;

	BUG_ON(rtc_new(&rig.board, &o, &rig.dev, &e) < 0);
}

/* A register chosen and written, which is what makes things happen; the host's clock is set. */
static void event(struct input *in)
{
	uint8_t what = in8(in);

	if (what < 240) {
		rig_out(0x70, what % 14);
		rig_out(0x71, in8(in));
	} else {
		rig_wall = in_le(in, 8);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint16_t port[] = { 0x70, 0x71, 0x72, 0x73 };
	static const struct fuzz_dev f = {
		.make = make,
		.event = event,
		.port = port,
		.nport = COUNT_OF(port),
	};

	return fuzz_dev_run(&f, data, size);
}
