#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
	/* Room for a path and what is said about it. */
	ERR_LONG = 8192,
};

/* text into e->msg; of a long one the middle goes: what is wrong stands at the end. */
static void err_put(struct err *e, const char *text)
{
	const size_t half = (sizeof(e->msg) - 4) / 2;
	size_t len = strlen(text);

	if (len < sizeof(e->msg))
		memcpy(e->msg, text, len + 1);
	else
		snprintf(e->msg, sizeof(e->msg), "%.*s...%s", (int)half, text, text + len - half);
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
	char text[ERR_LONG];
	va_list ap;

	e->code = code;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	err_put(e, text);
	return -code;
}

int err_in(struct err *e, const char *fmt, ...)
{
	char text[ERR_LONG];
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (n >= 0 && (size_t)n < sizeof(text))
		snprintf(text + n, sizeof(text) - (size_t)n, ": %s", e->msg);
	err_put(e, text);
	return -e->code;
}
