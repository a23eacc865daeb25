/*
 * Allocation.  Memory comes zeroed; sizes are checked for overflow; NULL means ENOMEM.  Never call
 * these with a size that a guest, an image or a peer gave without checking a limit first.
 * alloc_fail_after lets a test fail the n-th call.
 */
#pragma once

#include "base/compiler.h"

/* Calls that still succeed; negative: all do. */
extern int alloc_fail_after;

NODISCARD void *xzalloc(size_t size);
NODISCARD void *xcalloc(size_t n, size_t size);
/* As realloc; the part beyond old_n elements is zeroed. */
NODISCARD void *xgrow(void *p, size_t old_n, size_t n, size_t size);
NODISCARD char *xstrdup(const char *s);
NODISCARD char *xasprintf(const char *fmt, ...) PRINTF(1, 2);

#define NEW(type) ((type *)xzalloc(sizeof(type)))
