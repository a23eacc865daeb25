#include "base/near.h"

#include "base/num.h"

#include <string.h>

enum {
	NEAR_MAX = 40,
};

/*
 * Optimal string alignment distance: letters added, dropped, changed or swapped with a neighbour.
 * Longer words than NEAR_MAX are infinitely far.
 */
static unsigned near_distance(const char *a, const char *b)
{
	unsigned d[3][NEAR_MAX + 1];
	size_t n = strlen(a), m = strlen(b);

	if (n > NEAR_MAX || m > NEAR_MAX)
		return ~0u;
	for (unsigned j = 0; j <= m; j++)
		d[0][j] = j;
	for (unsigned i = 1; i <= n; i++) {
		unsigned *row = d[i % 3], *prev = d[(i - 1) % 3], *prev2 = d[(i + 1) % 3];

		row[0] = i;
		for (unsigned j = 1; j <= m; j++) {
			unsigned best = MIN(prev[j], row[j - 1]) + 1;

			best = MIN(best, prev[j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				best = MIN(best, prev2[j - 2] + 1);
			row[j] = best;
		}
	}
	return d[n % 3][m];
}

const char *near_find(const char *word, const char *(*name)(const void *arg, unsigned i),
		      const void *arg)
{
	const char *best = NULL, *s;
	unsigned best_d = ~0u;

	for (unsigned i = 0; (s = name(arg, i)) != NULL; i++) {
		unsigned d = near_distance(word, s);

		if (d < best_d && d <= (strlen(s) + 2) / 3) {
			best_d = d;
			best = s;
		}
	}
	return best;
}

static const char *near_nth(const void *arg, unsigned i)
{
	return ((const char *const *)arg)[i];
}

const char *near_word(const char *word, const char *const *names)
{
	return near_find(word, near_nth, names);
}
