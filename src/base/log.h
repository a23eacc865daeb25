/*
 * Log lines to stderr: error (the operation failed), warn (odd, carried on), note (what a user will
 * want to know: the engine that was chosen, the name of a pty), info (state changes worth keeping),
 * debug.  A message that a guest can cause goes through log_guest(), which is
 * limited per device and counted.
 */
#pragma once

#include "base/compiler.h"
#include "base/err.h"

enum log_level {
	LOG_ERROR,
	LOG_WARN,
	LOG_NOTE,
	LOG_INFO,
	LOG_DEBUG,
};

/* Lines above this level are dropped.  Default LOG_NOTE; set from main(). */
extern enum log_level log_level;
/* Sets it by name; -EINVAL with the names there are. */
NODISCARD int log_level_set(const char *name, struct err *e);
/* Prepended to each line, e.g. "sampan-vmm".  Borrowed. */
extern const char *log_program;

void log_line(enum log_level level, const char *fmt, ...) PRINTF(2, 3);

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_note(...) log_line(LOG_NOTE, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...)                                    \
	do {                                              \
		if (unlikely(log_level >= LOG_DEBUG))     \
			log_line(LOG_DEBUG, __VA_ARGS__); \
	} while (0)

/* Allows 10 lines in 10 seconds; the rest is only counted. */
struct log_limit {
	uint64_t since_ns;
	unsigned lines;
	/* All messages ever, printed or not. */
	uint64_t count;
};

/* A message that the guest caused; dev names the device.  One thread at a time for one lim. */
void log_guest(struct log_limit *lim, const char *dev, const char *fmt, ...) PRINTF(3, 4);
