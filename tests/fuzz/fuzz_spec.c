/* The spec: any text is refused with a reason, or is a spec that means the same when written out
 * and read again. */
#include "spec/vm.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vm_spec a, b;
	struct err e = { 0 };

	if (vm_spec_parse(&a, (const char *)data, size, &e) < 0) {
		if (!e.msg[0])
			__builtin_trap();
		return 0;
	}
	char *one = vm_spec_text(&a, false);
	if (!one || vm_spec_parse(&b, one, strlen(one), &e) < 0)
		__builtin_trap();
	char *two = vm_spec_text(&b, false);
	if (!two || strcmp(one, two) != 0)
		__builtin_trap();
	free(one);
	free(two);
	vm_spec_fini(&a);
	vm_spec_fini(&b);
	return 0;
}
