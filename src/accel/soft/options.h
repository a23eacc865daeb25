/* The engine's own options: --accel soft,NAME=VALUE,... */
#pragma once

#include "accel/accel.h"
#include "accel/soft/jit/prof.h"
#include "base/opt.h"

enum {
	/* Times that a block is interpreted before it is translated: most code of a boot, and of
	 * short programs, never comes that far. */
	SOFT_HOT = 16,
	SOFT_HOT_MAX = 250,
};

struct soft_opts {
	bool jit, lockstep;
	uint8_t hot;
	struct prof_opts prof;
	/* What the strings above point into. */
	struct subopts words;
};

/* Refuses what cannot be, also together.  Free what *ret holds with soft_opts_fini(), always. */
NODISCARD int soft_opts_parse(struct soft_opts *ret, const struct accel_opts *o, struct err *e);
void soft_opts_fini(struct soft_opts *so);
