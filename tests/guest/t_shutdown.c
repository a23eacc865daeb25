/* A triple fault: an exception that no table can take. */
#include "exc.h"

int main(void)
{
	struct __attribute__((packed)) {
		uint16_t limit;
		ulong base;
	} none = { 0, 0 };

	print("ok before\n");
	asm volatile("lidt %0; ud2" : : "m"(none));
	return 1;
}
