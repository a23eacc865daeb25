#include "base/trace.h"

#include "base/clock.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

bool trace_on;

static bool trace_to_stderr;
static atomic_uint trace_next;
static char trace_ring[TRACE_LINES][160];

void trace_init(void)
{
	const char *s = getenv("SAMPAN_TRACE");

	trace_on = s && *s;
	trace_to_stderr = s && !strcmp(s, "stderr");
}

void trace_line(const char *point, const char *fmt, ...)
{
	char *line = trace_ring[atomic_fetch_add(&trace_next, 1) % TRACE_LINES];
	va_list ap;

	int n = snprintf(line, sizeof(trace_ring[0]), "%" PRIu64 " %s ", clock_ns() / 1000, point);
	va_start(ap, fmt);
	vsnprintf(line + n, sizeof(trace_ring[0]) - (size_t)n, fmt, ap);
	va_end(ap);
	if (trace_to_stderr)
		fprintf(stderr, "%s\n", line);
}

void trace_dump(FILE *f)
{
	unsigned end = atomic_load(&trace_next);
	unsigned n = end < TRACE_LINES ? end : TRACE_LINES;

	for (unsigned i = end - n; i != end; i++)
		fprintf(f, "trace: %s\n", trace_ring[i % TRACE_LINES]);
}
