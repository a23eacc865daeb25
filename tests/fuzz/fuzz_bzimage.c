/* The bzImage loader: any file is refused or boots inside RAM.  The magic numbers are put in place,
 * so that every input reaches the header's checks. */
#include "base/bytes.h"
#include "fuzz/boot.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t k[1 << 16];

	if (size < 0x290 || size > sizeof(k))
		return 0;
	memcpy(k, data, size);
	st_le16(k + 0x1fe, 0xaa55);
	memcpy(k + 0x202, "HdrS", 4);
	fuzz_boot(k, size);
	return 0;
}
