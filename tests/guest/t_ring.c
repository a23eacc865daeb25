/*
 * A short piece of dirty logging, for rings as well: few stores in ring 0, because where KVM
 * emulates ring 0 each of them is an entry of its own; most in ring 3.
 */
#include "exc.h"

enum {
	PAGES = 64,
};
uint8_t area[PAGES][4096] __attribute__((aligned(4096)));

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

static void __attribute__((naked)) user_pages(ulong step)
{
	asm volatile("leaq area(%rip), %rax; shlq $12, %rdi; leaq area + 64 * 4096(%rip), %rcx;"
		     "1: incb (%rax); incb 8(%rax); addq %rdi, %rax; cmpq %rcx, %rax; jb 1b; ret");
}

int main(void)
{
	struct exc x;

	check("user", catch_user(user_pages, 8, &x), -1);
	check("start", board(CMD_DIRTY_START, 0, 0), 0);
	check("none", take(), 0);
	area[1][5] = 1;
	check("kernel page", take(), 2);
	catch_user(user_pages, 8, &x);
	check("every eighth", take(), 0x0101010101010101);
	check("taken", take(), 0);
	catch_user(user_pages, 16, &x);
	area[63][0] = 1;
	check("every sixteenth", take(), 0x8001000100010001);
	board(CMD_DIRTY_STOP, 0, 0);
	check("counted", area[0][8], 3);
	return 0;
}
