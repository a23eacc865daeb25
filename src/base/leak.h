/*
 * For LeakSanitizer, which looks for pointers in memory of malloc() and in globals only: memory of
 * mmap() that holds pointers to allocations is a root too.  Nothing in other builds.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#define LEAK_CHECKED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LEAK_CHECKED 1
#endif
#endif

#ifdef LEAK_CHECKED
#include <sanitizer/lsan_interface.h>

static inline void leak_root(void *p, size_t size, bool on)
{
	if (on)
		__lsan_register_root_region(p, size);
	else
		__lsan_unregister_root_region(p, size);
}
#else
static inline void leak_root(void *p, size_t size, bool on)
{
	(void)p;
	(void)size;
	(void)on;
}
#endif
