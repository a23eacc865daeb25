/* virtio-rng and, below it, the virtio core and its PCI transport. */
#include "fuzz/dev.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz f = { .r = rig_new() };
	const struct virtio_rng_opts o = { .name = "rng0", .loop = f.r->loop };
	struct err e = { 0 };

	if (virtio_rng_new(&f.v, &f.r->board, &o, &e) < 0)
		rig_die("rng", e.msg);
	fuzz_run(&f, data, size);
	rig_free(f.r);
	return 0;
}
