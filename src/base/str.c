#include "base/str.h"

#include "base/num.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static int str_number(const char *s, uint64_t *ret, const char **ret_end)
{
	char *end;

	if (!isdigit((unsigned char)*s))
		return -EINVAL;
	errno = 0;
	unsigned long long v = strtoull(s, &end, s[0] == '0' && (s[1] | 32) == 'x' ? 16 : 10);
	if (errno)
		return -ERANGE;
	*ret = v;
	*ret_end = end;
	return 0;
}

int str_u64(const char *s, uint64_t *ret)
{
	const char *end;
	uint64_t v;
	int rc = str_number(s, &v, &end);

	if (rc < 0)
		return rc;
	if (*end)
		return -EINVAL;
	*ret = v;
	return 0;
}

int str_size(const char *s, uint64_t *ret_bytes)
{
	static const char units[] = "bkmgtp";
	const char *end, *unit;
	uint64_t v;
	unsigned shift = 0;
	int rc = str_number(s, &v, &end);

	if (rc < 0)
		return rc;
	if (*end) {
		unit = strchr(units, tolower((unsigned char)*end));
		if (!unit)
			return -EINVAL;
		shift = 10 * (unsigned)(unit - units);
		end++;
		if (*end && strcasecmp(end, "b") != 0 && strcasecmp(end, "ib") != 0)
			return -EINVAL;
	}
	if (v > UINT64_MAX >> shift)
		return -ERANGE;
	*ret_bytes = v << shift;
	return 0;
}

int str_bool(const char *s, bool *ret)
{
	static const char *const yes[] = { "on", "yes", "true", "1" };
	static const char *const no[] = { "off", "no", "false", "0" };

	for (size_t i = 0; i < COUNT_OF(yes); i++) {
		if (!strcasecmp(s, yes[i])) {
			*ret = true;
			return 0;
		}
		if (!strcasecmp(s, no[i])) {
			*ret = false;
			return 0;
		}
	}
	return -EINVAL;
}

bool str_starts(const char *s, const char *prefix)
{
	return !strncmp(s, prefix, strlen(prefix));
}

bool str_copy(char *dst, size_t dst_size, const char *src)
{
	int n = snprintf(dst, dst_size, "%s", src);

	return n >= 0 && (size_t)n < dst_size;
}
