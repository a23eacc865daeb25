/* The board, from the guest's side; tests/guest/board.h says what each is. */
#pragma once

enum {
	PORT_CONSOLE = 0xe9,
	PORT_EXIT = 0xf4,
	PORT_SCRATCH = 0x500,
	PORT_CMD = 0x540,
	PORT_ARG0 = 0x544,
	PORT_ARG1 = 0x548,
	/* Width | offset << 8 | write << 20 | count << 21 of the last access to a scratch. */
	PORT_LAST_IO = 0x54c,
	PORT_LAST_MEM = 0x550,
};
enum {
	/* The result by which a guest says that it could not try. */
	SKIPPED = 77,
};
#define PENDING 0xfffffffeu
#define BOARD_MMIO 0xd0000000ul
#define BOARD_ROM 0xc0000ul

enum {
	CMD_DIRTY_START = 1,
	CMD_DIRTY_TAKE,
	CMD_DIRTY_NEXT,
	CMD_DIRTY_STOP,
	CMD_LINE,
	CMD_MSI,
	CMD_LINE_LATER,
	CMD_MSI_SET,
	CMD_MSI_LATER,
	CMD_BELL_ADD,
	CMD_BELL_COUNT,
	CMD_STATE_TRIP,
	CMD_DMA,
	CMD_TIME,
	CMD_EMULATED,
};
