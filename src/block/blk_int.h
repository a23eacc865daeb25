/* What the files of block/ share. */
#pragma once

#include "block/blk.h"

extern const struct blk_driver blk_raw;

/*
 * Takes the image lock on fd (lock.c): several may read, or one may write.  -EBUSY names who has
 * it. A filesystem without locks is no failure.
 */
NODISCARD int blk_lock(int fd, const char *path, bool readonly, struct err *e);
