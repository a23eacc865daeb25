/* Attributes and small macros that every file may use. */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define NODISCARD __attribute__((warn_unused_result))
#define CLEANUP(fn) __attribute__((cleanup(fn)))
#define UNUSED __attribute__((unused))
#define NOINLINE __attribute__((noinline))
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define NORETURN __attribute__((noreturn))
#define COLD __attribute__((cold))

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/*
 * All loads and stores before it are done before any after it.  gcc's thread sanitizer knows no
 * fences; a locked instruction is one too.
 */
static inline void fence_full(void)
{
#ifdef __SANITIZE_THREAD__
	uint32_t any = 0;

	__atomic_fetch_add(&any, 1, __ATOMIC_SEQ_CST);
#else
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* Number of elements of an array; does not compile for a pointer. */
#define COUNT_OF(a)                   \
	(sizeof(a) / sizeof((a)[0]) + \
	 0 * sizeof(char[1 -          \
			 2 * __builtin_types_compatible_p(__typeof__(a), __typeof__(&(a)[0]))]))

/* The struct of type `type` whose member `member` is *p. */
#define container_of(p, type, member)                                                 \
	({                                                                            \
		const __typeof__(((type *)0)->member) *cof_p_ = (p);                  \
		(type *)(void *)((char *)(uintptr_t)cof_p_ - offsetof(type, member)); \
	})
