#include "base/alloc.h"

#include "base/num.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int alloc_fail_after = -1;

static bool alloc_fails(void)
{
	if (likely(alloc_fail_after < 0))
		return false;
	if (alloc_fail_after == 0)
		return true;
	alloc_fail_after--;
	return false;
}

void *xzalloc(size_t size)
{
	return alloc_fails() ? NULL : calloc(1, size);
}

void *xcalloc(size_t n, size_t size)
{
	return alloc_fails() ? NULL : calloc(n, size);
}

void *xgrow(void *p, size_t old_n, size_t n, size_t size)
{
	size_t bytes;

	if (alloc_fails() || !mul_ok(n, size, &bytes))
		return NULL;
	char *q = realloc(p, bytes);
	if (q && n > old_n)
		memset(q + old_n * size, 0, (n - old_n) * size);
	return q;
}

char *xstrdup(const char *s)
{
	return alloc_fails() ? NULL : strdup(s);
}

char *xasprintf(const char *fmt, ...)
{
	va_list ap;
	char *s;

	if (alloc_fails())
		return NULL;
	va_start(ap, fmt);
	int n = vasprintf(&s, fmt, ap);
	va_end(ap);
	return n < 0 ? NULL : s;
}
