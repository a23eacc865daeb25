/* A fuzz input, taken byte by byte; past its end everything is 0. */
#pragma once

#include "base/compiler.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *p;
	size_t left;
};

static inline uint8_t in8(struct input *i)
{
	if (!i->left)
		return 0;
	i->left--;
	return *i->p++;
}

static inline uint64_t in_le(struct input *i, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned n = 0; n < bytes; n++)
		v |= (uint64_t)in8(i) << (8 * n);
	return v;
}
