/* Suggestions for names that people mistyped. */
#pragma once

#include "base/compiler.h"

/*
 * The name that was probably meant, or NULL when none is close (at most a third of the letters
 * wrong, a swap of neighbours counting once).  name(arg, i) is NULL after the last one.
 */
const char *near_find(const char *word, const char *(*name)(const void *arg, unsigned i),
		      const void *arg);
/* The same over a NULL-terminated array. */
const char *near_word(const char *word, const char *const *names);
