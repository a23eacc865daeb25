#include "map.h"

extern uint64_t pml4[512];
static uint8_t pages[48][4096] __attribute__((aligned(4096)));
static unsigned used;

void *map_page(void)
{
	if (used == sizeof(pages) / sizeof(pages[0])) {
		print("no page left\n");
		leave(98);
	}
	memset(pages[used], 0, 4096);
	return pages[used++];
}

volatile uint64_t *map_entry(ulong va, unsigned level)
{
	volatile uint64_t *t = pml4;

	for (unsigned l = 4;; l--) {
		volatile uint64_t *e = &t[va >> (12 + 9 * (l - 1)) & 511];

		if (l == level)
			return e;
		if (!(*e & PTE_P))
			*e = (uint64_t)map_page() | PTE_P | PTE_W | PTE_U;
		t = (volatile uint64_t *)(*e & 0xffffffffff000);
	}
}

volatile uint64_t *map(ulong va, uint64_t entry)
{
	volatile uint64_t *e = map_entry(va, 1);

	*e = entry;
	return e;
}
