/* The ELF and PVH loaders: any file is refused or boots inside RAM. */
#include "fuzz/boot.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t k[1 << 16];

	if (size < 64 || size > sizeof(k))
		return 0;
	memcpy(k, data, size);
	memcpy(k, "\177ELF", 4);
	k[5] = 1;
	k[18] = k[4] == 1 && (k[18] & 1) ? 3 : 62;
	k[19] = 0;
	fuzz_boot(k, size);
	return 0;
}
