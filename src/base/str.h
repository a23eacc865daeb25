/* Bounded strings and parsing of what people type. */
#pragma once

#include "base/err.h"

/* Whole string as a decimal or 0x number; -EINVAL or -ERANGE. */
NODISCARD int str_u64(const char *s, uint64_t *ret);
/* A size: a number with an optional suffix k, m, g, t (powers of 1024, any case, "MiB" also). */
NODISCARD int str_size(const char *s, uint64_t *ret_bytes);
/* "on", "yes", "true", "1" and their opposites. */
NODISCARD int str_bool(const char *s, bool *ret);
bool str_starts(const char *s, const char *prefix);
/* Copy with truncation; always terminated.  Returns false when it did not fit. */
bool str_copy(char *dst, size_t dst_size, const char *src);
