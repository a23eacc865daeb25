#include "base/log.h"

#include "base/clock.h"
#include "base/compiler.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum log_level log_level = LOG_NOTE;
const char *log_program = "sampan";

static const char *const log_names[] = { "error", "warning", "note", "info", "debug" };

int log_level_set(const char *name, struct err *e)
{
	for (unsigned i = 0; i < COUNT_OF(log_names); i++) {
		if (!strcmp(name, log_names[i])) {
			log_level = (enum log_level)i;
			return 0;
		}
	}
	return err_set(e, EINVAL, "'%.40s' is not one of error, warning, note, info, debug", name);
}

PRINTF(3, 0)
static void log_vline(enum log_level level, const char *dev, const char *fmt, va_list ap)
{
	char line[512];

	if (level > log_level)
		return;
	vsnprintf(line, sizeof(line), fmt, ap);
	/* What others named must not work the terminal, nor look like another line. */
	for (char *s = line; *s; s++)
		if ((unsigned char)*s < ' ' || *s == 0x7f)
			*s = '?';
	/* One write for each line, so that lines of two threads do not mix. */
	if (dev)
		fprintf(stderr, "%s: %s: %s: %s\n", log_program, log_names[level], dev, line);
	else
		fprintf(stderr, "%s: %s: %s\n", log_program, log_names[level], line);
}

void log_line(enum log_level level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_vline(level, NULL, fmt, ap);
	va_end(ap);
}

void log_guest(struct log_limit *lim, const char *dev, const char *fmt, ...)
{
	uint64_t now = clock_ns();
	va_list ap;

	lim->count++;
	if (now - lim->since_ns > 10 * NS_PER_SEC) {
		lim->since_ns = now;
		lim->lines = 0;
	}
	if (lim->lines++ >= 10)
		return;
	va_start(ap, fmt);
	log_vline(LOG_WARN, dev, fmt, ap);
	va_end(ap);
}
