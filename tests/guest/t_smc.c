/* Code that changes: by its own stores, in rings 0 and 3, by a device, through an alias. */
#include "map.h"

static uint8_t code[2][4096] __attribute__((aligned(4096)));

/* mov $imm32, %eax; ret */
static void put(volatile uint8_t *p, uint32_t imm)
{
	p[0] = 0xb8;
	*(volatile uint32_t *)(p + 1) = imm;
	p[5] = 0xc3;
}

static uint32_t call(const volatile void *p)
{
	return ((uint32_t(*)(void))(ulong)p)();
}

static void test_changes(void)
{
	unsigned bad = 0;

	put(code[0], 1);
	check("first", call(code[0]), 1);
	for (uint32_t i = 2; i < 300; i++) {
		*(volatile uint32_t *)(code[0] + 1) = i;
		bad += call(code[0]) != i;
	}
	check("changed many times", bad, 0);
	code[0][0] = 0x31;
	code[0][1] = 0xc0;
	code[0][2] = 0xc3;
	check("another instruction", call(code[0]), 0);
}

/* An instruction that changes the one right behind it. */
static uint32_t __attribute__((naked, aligned(64))) next_one(ulong p)
{
	asm volatile("movl $0x22222222, 1f + 1(%rip); 1: movl $0x11111111, %eax; ret");
}

static void test_next(void)
{
	/* Seen at once (SDM 3A 8.1.3: same linear address). */
	check("the next instruction", next_one(0), 0x22222222);
}

static void test_crossing(void)
{
	uint8_t *p = code[0] + 4096 - 3;

	put(p, 0x01020304);
	check("over two pages", call(p), 0x01020304);
	code[1][1] = 0x55;
	check("changed in the second", call(p), 0x55020304);
}

static void test_alias(void)
{
	const ulong va = 5ul << 39;

	map(va, (ulong)code[0] | 7);
	put(code[0], 10);
	check("by alias", call((void *)va), 10);
	put(code[0], 11);
	check("by alias, changed", call((void *)va), 11);
	put((uint8_t *)va, 12);
	check("changed by alias", call(code[0]), 12);
	map(va, (ulong)code[1] | 7);
	put(code[1], 13);
	invlpg((void *)va);
	check("alias moved", call((void *)va), 13);
	check("the other stayed", call(code[0]), 12);
}

static void test_dma(void)
{
	put(code[0], 20);
	check("before", call(code[0]), 20);
	/* mov $0x..33b8.. : the device writes the first four bytes. */
	board(CMD_DMA, (uint32_t)(ulong)code[0], 0x000033b8);
	check("a device changed it", call(code[0]), 0x33);
}

static uint32_t user_got;

static void user_changes(ulong p)
{
	uint32_t sum = 0;

	for (uint32_t i = 1; i <= 50; i++) {
		put((uint8_t *)p, i);
		asm volatile("" : : : "memory");
		sum += call((void *)p);
	}
	user_got = sum;
}

static void test_user(void)
{
	struct exc x;

	check("ring 3", catch_user(user_changes, (ulong)code[0], &x), -1);
	check("ring 3 sum", user_got, 50 * 51 / 2);
	check("ring 0 after it", call(code[0]), 50);
}

int main(void)
{
	test_changes();
	test_next();
	test_crossing();
	test_alias();
	test_dma();
	test_user();
	return 0;
}
