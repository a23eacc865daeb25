#include "base/bug.h"

#include "base/trace.h"

#include <stdio.h>
#include <stdlib.h>

void bug(const char *file, int line, const char *what)
{
	fprintf(stderr, "sampan: BUG at %s:%d: %s\n", file, line, what);
	trace_dump(stderr);
	abort();
}
