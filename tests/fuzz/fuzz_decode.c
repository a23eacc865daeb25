/* The decoder: any bytes, in all three code sizes, of any length that is there. */
#include "accel/soft/insn.h"
#include "accel/soft/soft_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x)                           \
	do {                              \
		if (!(x))                 \
			__builtin_trap(); \
	} while (0)

static void check(const uint8_t *p, unsigned n, unsigned code_size)
{
	struct insn i;
	int len;

	memset(&i, 0xff, sizeof(i));
	len = soft_decode(p, n, code_size, &i);
	if (len <= 0) {
		MUST(len == -EILSEQ || len == -E2BIG || len == -ENODATA);
		MUST(len != -ENODATA || n < 15);
		return;
	}
	MUST((unsigned)len <= n && len <= 15 && i.len == len);
	MUST(i.form > 0 && i.form < INSN_FORMS && insn_forms[i.form].class != INSC_UD);
	MUST(i.opsize >= 1 && i.opsize <= 32 && !(i.opsize & (i.opsize - 1)));
	MUST(i.adsize == 2 || i.adsize == 4 || i.adsize == 8);
	MUST(i.reg < 16 && i.rm < 16 && i.vvvv < 16 && i.is4 < 16);
	MUST(i.base < SREGS && i.index <= SREG_NONE && i.scale < 4 && i.seg < 6);
	MUST(code_size == 64 || (i.reg < 8 && i.rm < 8 && i.vvvv < 8 && i.is4 < 8));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* A copy of exactly the bytes: AddressSanitizer sees a look beyond. */
	unsigned n = size < 64 ? (unsigned)size : 64;
	uint8_t *p = (uint8_t *)malloc(n ? n : 1);

	if (!p)
		return 0;
	memcpy(p, data, n);
	check(p, n, 16);
	check(p, n, 32);
	check(p, n, 64);
	free(p);
	return 0;
}
