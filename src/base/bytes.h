/*
 * Loads and stores of a stated width and byte order at any address.  The ones called _once are
 * single atomic accesses for memory that a guest changes meanwhile (the address is aligned).
 */
#pragma once

#include "base/compiler.h"

#include <string.h>

#define BYTES_DEFINE_(name, type, conv)               \
	static inline type ld_##name(const void *p)   \
	{                                             \
		type v;                               \
		memcpy(&v, p, sizeof(v));             \
		return conv(v);                       \
	}                                             \
	static inline void st_##name(void *p, type v) \
	{                                             \
		v = conv(v);                          \
		memcpy(p, &v, sizeof(v));             \
	}
#define BYTES_SAME_(x) (x)
BYTES_DEFINE_(le16, uint16_t, BYTES_SAME_)
BYTES_DEFINE_(le32, uint32_t, BYTES_SAME_)
BYTES_DEFINE_(le64, uint64_t, BYTES_SAME_)
BYTES_DEFINE_(be16, uint16_t, __builtin_bswap16)
BYTES_DEFINE_(be32, uint32_t, __builtin_bswap32)
BYTES_DEFINE_(be64, uint64_t, __builtin_bswap64)
#undef BYTES_DEFINE_
#undef BYTES_SAME_

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "Sampan's hosts are little-endian");

/* Little-endian value of 1, 2, 4 or 8 bytes. */
static inline uint64_t ld_le(const void *p, unsigned size)
{
	uint64_t v = 0;

	memcpy(&v, p, size);
	return v;
}

static inline void st_le(void *p, unsigned size, uint64_t v)
{
	memcpy(p, &v, size);
}

static inline uint16_t ld16_once(const void *p)
{
	return __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED);
}

static inline uint32_t ld32_once(const void *p)
{
	return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
}

static inline uint64_t ld64_once(const void *p)
{
	return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED);
}
