/*
 * BUG_ON: a mistake of ours, never reachable from outside.  Prints the condition, dumps the trace
 * ring and aborts.  The condition is evaluated in every build and must have no side effects.
 */
#pragma once

#include "base/compiler.h"

NORETURN COLD void bug(const char *file, int line, const char *what);

#define BUG_ON(cond)                                    \
	do {                                            \
		if (unlikely(cond))                     \
			bug(__FILE__, __LINE__, #cond); \
	} while (0)
#define BUG(what) bug(__FILE__, __LINE__, (what))
