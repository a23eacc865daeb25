/*
 * Trace points.  TRACE(blk_read, "off=%" PRIu64, off) costs one test of a flag while tracing is
 * off; on, it writes a line into a ring of the last TRACE_LINES lines, which BUG_ON dumps, and to
 * stderr when the environment variable SAMPAN_TRACE is "stderr".  Any thread.
 */
#pragma once

#include "base/compiler.h"

#include <stdio.h>

enum {
	TRACE_LINES = 1024,
};

extern bool trace_on;

/* Reads SAMPAN_TRACE ("ring" or "stderr"); called once from main(). */
void trace_init(void);
void trace_line(const char *point, const char *fmt, ...) PRINTF(2, 3);
void trace_dump(FILE *f);

#define TRACE(point, fmt, ...)                                              \
	do {                                                                \
		if (unlikely(trace_on))                                     \
			trace_line(#point, fmt __VA_OPT__(, ) __VA_ARGS__); \
	} while (0)
