/*
 * Errors that a person will read.
 *
 * Every function that can fail returns a negative errno; where someone will want to know why, its
 * last parameter is a `struct err *`, a value on the caller's stack and never NULL.  Lower layers
 * never log a failure that they return.
 */
#pragma once

#include "base/compiler.h"

struct err {
	/* Positive errno; 0 while nothing failed. */
	int code;
	/* No trailing newline. */
	char msg[240];
};

/* Record a failure (code is a positive errno) and return -code. */
int err_set(struct err *e, int code, const char *fmt, ...) PRINTF(3, 4);
/* Put "context: " in front of what a callee recorded; returns -code. */
int err_in(struct err *e, const char *fmt, ...) PRINTF(2, 3);
