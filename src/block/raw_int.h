/* What raw_open.c finds out and raw.c works with. */
#pragma once

#include "block/blk_int.h"

enum {
	/* Where O_DIRECT wants other memory than the guest's, data goes through one of these. */
	RAW_BOUNCES = 4,
	RAW_BOUNCE_LEN = 256 << 10,
};

struct raw {
	struct blk b;
	int fd;
	/* Without O_DIRECT, for requests finer than it takes (off_align > 512); else -1. */
	int fine_fd;
	bool direct, is_device;
	/* What O_DIRECT wants of addresses, and of offsets and lengths.  Powers of two; 1 without.
	 */
	uint32_t mem_align, off_align;
	/* What the file said that it cannot do. */
	bool no_discard, no_punch, no_zero_range;
	/* An fdatasync failed: what was written before may be lost although the next one succeeds.
	 */
	bool flush_failed;
	/* The buffers, one mapping; bits of those in use; requests that wait for one. */
	uint8_t *bounce;
	unsigned bounce_used;
	struct list bounce_wait;
};

static inline struct raw *raw_of(struct blk *b)
{
	return container_of(b, struct raw, b);
}

int raw_open(struct blk *b, const struct blk_opts *o, struct err *e);
void raw_close(struct blk *b);
int raw_refresh(struct blk *b, struct err *e);
