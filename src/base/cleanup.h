/*
 * Cleanup of locals.  A function uses these attributes or goto, never both: gcc accepts a goto over
 * a cleanup variable in silence.
 */
#pragma once

#include "base/compiler.h"

#include <stdlib.h>
#include <unistd.h>

static inline void free_ptr_(void *p)
{
	free(*(void **)p);
}

static inline void close_fd_(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

#define AUTO_FREE CLEANUP(free_ptr_)
#define AUTO_CLOSE CLEANUP(close_fd_)
/* AUTO(type) *x: type_free(x) when x leaves its scope.  Needs DEFINE_AUTO(type). */
#define AUTO(type) CLEANUP(type##_free_) struct type
#define DEFINE_AUTO(type)                                \
	static inline void type##_free_(struct type **p) \
	{                                                \
		type##_free(*p);                         \
	}

/* Move a value out of a cleaned-up local: the local keeps nothing to free. */
#define TAKE(p)                                                    \
	({                                                         \
		__typeof__(p) *take_p_ = &(p), take_v_ = *take_p_; \
		*take_p_ = NULL;                                   \
		take_v_;                                           \
	})

static inline int take_fd(int *fd)
{
	int v = *fd;

	*fd = -1;
	return v;
}

/* Close and forget. */
static inline void close_fd(int *fd)
{
	close_fd_(fd);
	*fd = -1;
}
