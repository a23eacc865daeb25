/* The block drivers.  To add one: docs/howto/add-block-driver.md. */
#include "block/blk_int.h"

const struct blk_driver *const blk_drivers[] = {
	&blk_raw,
	NULL,
};
