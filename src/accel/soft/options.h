/* The engine's own options: --accel soft,NAME=VALUE,... */
#pragma once

#include "accel/accel.h"
#include "accel/soft/jit/prof.h"
#include "base/opt.h"

struct soft_opts {
	bool jit, lockstep;
	struct prof_opts prof;
	/* What the strings above point into. */
	struct subopts words;
};

/* Refuses what cannot be, also together.  Free what *ret holds with soft_opts_fini(), always. */
NODISCARD int soft_opts_parse(struct soft_opts *ret, const struct accel_opts *o, struct err *e);
void soft_opts_fini(struct soft_opts *so);
