/* The HPET, with a PIT and an RTC that its legacy replacement silences; see pc_dev.h. */
#include "fuzz/pc_dev.h"

static void make(void)
{
	struct hpet_opts o = { .base = 0xfed00000, .timers = 4, .hz = 100000000 };
	const struct rtc_opts ro = { .ncpus = 1 };
	struct err e;

	BUG_ON(pit_new(&rig.board, &o.pit, &e) < 0 || rtc_new(&rig.board, &ro, &o.rtc, &e) < 0);
	BUG_ON(hpet_new(&rig.board, &o, &rig.dev, &e) < 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* The registers of four timers are in the first 0x180 bytes. */
	static const struct fuzz_dev f = { .make = make, .mmio = 0xfed00000, .mmio_len = 0x188 };

	return fuzz_dev_run(&f, data, size);
}
