/* Bells: stores that only signal a descriptor, by address, width and value, on ports and memory. */
#include "guest.h"

static unsigned bell(uint32_t addr, unsigned width, bool match, unsigned value)
{
	return board(CMD_BELL_ADD, addr, width | (unsigned)match << 8 | value << 16);
}

int main(void)
{
	volatile uint32_t *m = (uint32_t *)(BOARD_MMIO + 0x1000);
	unsigned a = bell(0x600, 2, false, 0);
	unsigned b = bell(BOARD_MMIO + 0x1000, 4, false, 0);
	unsigned c = bell(BOARD_MMIO + 0x1004, 4, true, 7);
	unsigned d = bell(BOARD_MMIO + 0x1008, 0, false, 0);

	check("added", a == 0 && b == 1 && c == 2 && d == 3, 1);
	outw(0x600, 1);
	outw(0x600, 2);
	check("port", board(CMD_BELL_COUNT, a, 0), 2);
	outb(0x600, 1);
	check("port, other width", board(CMD_BELL_COUNT, a, 0), 0);
	m[0] = 1;
	m[0] = 1;
	m[0] = 2;
	check("memory", board(CMD_BELL_COUNT, b, 0), 3);
	m[1] = 6;
	check("other value", board(CMD_BELL_COUNT, c, 0), 0);
	m[1] = 7;
	check("value", board(CMD_BELL_COUNT, c, 0), 1);
	*(volatile uint16_t *)&m[2] = 1;
	*(volatile uint64_t *)&m[2] = 1;
	check("any width", board(CMD_BELL_COUNT, d, 0), 2);
	check("a load rings none", m[0], 0xffffffff);
	check("none rang", board(CMD_BELL_COUNT, b, 0), 0);
	return 0;
}
