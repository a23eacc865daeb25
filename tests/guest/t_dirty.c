/*
 * The dirty log: exactly the pages that were written since it was last taken: by the guest in rings
 * 0 and 3, by page-table walks (A and D bits), by devices.
 */
#include "map.h"

enum {
	PAGES = 64,
};
static uint8_t area[PAGES][4096] __attribute__((aligned(4096)));

/* Bit i: page i of the area is in the log. */
static uint64_t take(void)
{
	uint64_t got = 0;
	uint32_t first = (uint32_t)((ulong)area >> 12);

	board(CMD_DIRTY_TAKE, 0, 0);
	for (;;) {
		uint32_t page = board(CMD_DIRTY_NEXT, 0, 0);

		if (page == ~0u)
			return got;
		if (page - first < PAGES)
			got |= 1ull << (page - first);
	}
}

static void user_store(ulong a)
{
	*(volatile uint8_t *)a = 1;
}

static void test_guest(void)
{
	check("nothing", take(), 0);
	area[3][100] = 1;
	area[5][0] = 1;
	area[5][4095] = 1;
	check("3 and 5", take(), 1 << 3 | 1 << 5);
	check("taken", take(), 0);
	area[3][100] = 2;
	check("again", take(), 1 << 3);
	*(volatile uint64_t *)&area[8][4092] = ~0ull;
	check("crossing", take(), 3 << 8);
	memset(area[16], 0x11, 3 * 4096);
	check("run", take(), 7 << 16);
	(void)*(volatile uint8_t *)area[20];
	check("a load is none", take(), 0);
	asm volatile("lock cmpxchgl %1, %0" : "+m"(*(uint32_t *)area[21]) : "r"(1), "a"(1));
	uint64_t cas = take();
	/* A compare that fails writes the old value back (SDM 2A CMPXCHG); an emulator may not. */
	check("failed cmpxchg", cas == 1 << 21 || cas == 0, 1);
}

static void test_user(void)
{
	struct exc x;

	check("user store", catch_user(user_store, (ulong)area[30], &x), -1);
	check("user store logged", take() >> 30 & 1, 1);
	area[31][0] = 1;
	check("user store again", catch_user(user_store, (ulong)area[32], &x), -1);
	check("both logged", take() >> 31 & 3, 3);
}

static void test_dma(void)
{
	board(CMD_DMA, (uint32_t)(ulong)area[40], 0x1234);
	check("device", take(), 1ull << 40);
	check("device wrote", *(volatile uint32_t *)area[40], 0x1234);
}

static void test_tables(void)
{
	volatile uint64_t *table = (uint64_t *)area[50];
	const ulong va = 3ul << 39;

	/* A page table in the area: the processor's own writes to it count. */
	*map_entry(va, 2) = (ulong)table | 7;
	table[0] = (ulong)area[51] | 7;
	take();
	(void)*(volatile uint32_t *)va;
	check("accessed bit", take(), 1ull << 50);
	*(volatile uint32_t *)va = 1;
	check("dirty bit and page", take(), 3ull << 50);
	*(volatile uint32_t *)va = 2;
	check("page only", take(), 1ull << 51);
}

static void test_stop(void)
{
	area[1][0] = 1;
	board(CMD_DIRTY_STOP, 0, 0);
	check("started again", board(CMD_DIRTY_START, 0, 0), 0);
	check("empty again", take(), 0);
	area[2][0] = 1;
	check("works again", take(), 1 << 2);
	board(CMD_DIRTY_STOP, 0, 0);
}

int main(void)
{
	for (unsigned i = 0; i < PAGES; i++)
		area[i][0] = 0;
	check("start", board(CMD_DIRTY_START, 0, 0), 0);
	test_guest();
	test_user();
	test_dma();
	test_tables();
	test_stop();
	return 0;
}
