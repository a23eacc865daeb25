/* Nowhere: output is dropped and input never comes. */
#include "chr/chr_int.h"

static int none_open(struct chr *c UNUSED, const struct chr_opts *o UNUSED, struct err *e UNUSED)
{
	return 0;
}

static void none_close(struct chr *c UNUSED)
{
}

static ssize_t none_write(struct chr *c UNUSED, const uint8_t *p UNUSED, size_t len)
{
	return (ssize_t)len;
}

const struct chr_driver chr_none = {
	.name = "none",
	.size = sizeof(struct chr),
	.open = none_open,
	.close = none_close,
	.write = none_write,
};
