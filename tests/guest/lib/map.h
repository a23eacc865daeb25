/* 4 KiB pages by hand (64-bit guests): for tests that look at page-table entries. */
#pragma once

#include "exc.h"

enum {
	PTE_P = 1,
	PTE_W = 2,
	PTE_U = 4,
	PTE_A = 32,
	PTE_D = 64,
	PTE_G = 256,
};
#define PTE_NX (1ull << 63)

/* The entry of level 1 (4 KiB), 2, 3 or 4 for va, with tables made down to it (all rights). */
volatile uint64_t *map_entry(ulong va, unsigned level);
/* Sets the 4 KiB entry of va; returns it. */
volatile uint64_t *map(ulong va, uint64_t entry);
/* Zeroed page of RAM. */
void *map_page(void);
