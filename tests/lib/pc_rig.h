/*
 * A board for one device: buses, a loop, clocks that stand until they are moved, and lines,
 * messages and requests that are only counted.
 */
#pragma once

#include "base/bug.h"
#include "base/clock.h"
#include "chr/chr.h"
#include "dev/pc/pc.h"

#include <stdlib.h>
#include <string.h>

struct rig_irqs {
	struct irqs irqs;
	bool level[IRQ_GSIS];
	unsigned rises[IRQ_GSIS];
	unsigned msis;
	uint64_t msi_addr;
	uint32_t msi_data;
	/* What edges and messages become. */
	enum irq_edge edge;
};

static struct {
	struct board board;
	struct bus mmio, pio;
	struct rig_irqs q;
	struct dev *dev;
	unsigned requests[BOARD_PANIC + 1], request_value;
} rig;
static uint64_t rig_now, rig_wall;

static inline void rig_line(struct irqs *q, unsigned gsi, bool level)
{
	rig.q.rises[gsi] += level && !rig.q.level[gsi];
	rig.q.level[gsi] = level;
}

static inline void rig_msi(struct irqs *q, uint64_t addr, uint32_t data)
{
	rig.q.msis++;
	rig.q.msi_addr = addr;
	rig.q.msi_data = data;
}

static inline enum irq_edge rig_edge(struct irqs *q, unsigned gsi)
{
	return rig.q.edge;
}

static inline enum irq_edge rig_msi_edge(struct irqs *q, uint64_t addr, uint32_t data)
{
	return rig.q.edge;
}

static const struct irq_ops rig_irq_ops = {
	.name = "rig",
	.line = rig_line,
	.msi = rig_msi,
	.edge = rig_edge,
	.msi_edge = rig_msi_edge,
};

static inline void rig_request(struct board *b, enum board_request r, unsigned value)
{
	rig.requests[r]++;
	rig.request_value = value;
}

static inline uint64_t rig_clock(void)
{
	return rig_now;
}

static inline uint64_t rig_clock_wall(void)
{
	return rig_wall;
}

/* The board without devices, and without its loop being made anew when it has one. */
static inline void rig_board(void)
{
	struct loop *loop = rig.board.loop;
	struct err e;

	memset(&rig, 0, sizeof(rig));
	rig_now = 1000 * NS_PER_SEC;
	/* 2024-02-28 23:59:50 UTC, a Wednesday in a leap year. */
	rig_wall = 1709164790 * NS_PER_SEC;
	clock_hook = rig_clock;
	clock_wall_hook = rig_clock_wall;
	if (!loop && loop_new(&loop, LOOP_EPOLL, &e) < 0)
		BUG("a loop");
	bus_init(&rig.mmio, BUS_MMIO);
	bus_init(&rig.pio, BUS_PIO);
	rig.q.irqs.ops = &rig_irq_ops;
	rig.board = (struct board){
		.mmio = &rig.mmio,
		.pio = &rig.pio,
		.irqs = &rig.q.irqs,
		.loop = loop,
		.request = rig_request,
	};
	list_init(&rig.board.devs);
}

static inline void rig_board_fini(bool keep_loop)
{
	while (!list_empty(&rig.board.devs))
		dev_free(list_first(&rig.board.devs, struct dev, node));
	bus_fini(&rig.mmio);
	bus_fini(&rig.pio);
	if (keep_loop)
		return;
	clock_hook = NULL;
	clock_wall_hook = NULL;
	loop_free(rig.board.loop);
	rig.board.loop = NULL;
}

static inline void rig_out(unsigned port, uint8_t v)
{
	bus_write(&rig.pio, port, 1, v);
}

static inline uint8_t rig_in(unsigned port)
{
	return (uint8_t)bus_read(&rig.pio, port, 1);
}

/* Moves the clocks on, in steps at which the loop looks for timers. */
static inline void rig_run(uint64_t ns, uint64_t step_ns)
{
	uint64_t end = rig_now + ns;

	do {
		uint64_t step = end - rig_now < step_ns ? end - rig_now : step_ns;

		rig_now += step;
		rig_wall += step;
		/* Posts come first and may set timers. */
		loop_run_once(rig.board.loop, 0);
		loop_run_once(rig.board.loop, 0);
	} while (rig_now < end);
}

/* The board's state, into a new device of the same kind which make() creates. */
static inline void rig_reload(void (*make)(void))
{
	struct state_buf buf = { 0 };
	struct loop *loop = rig.board.loop;
	uint64_t now = rig_now, wall = rig_wall;
	struct err e;

	board_stop(&rig.board);
	BUG_ON(board_save(&rig.board, &buf, &e) < 0);
	rig_board_fini(true);
	rig.board.loop = loop;
	rig_board();
	/* Another host, whose clock began elsewhere. */
	rig_now = now + 12345 * NS_PER_SEC;
	rig_wall = wall;
	make();
	if (board_load(&rig.board, buf.data, buf.len, &e) < 0)
		BUG(e.msg);
	board_start(&rig.board);
	state_buf_fini(&buf);
}

/* A stream for serial ports: what chr/ does, by arrays. */
static struct {
	struct chr chr;
	uint8_t out[65536];
	unsigned len, room, polls;
} rig_chr;

size_t chr_write(struct chr *c, const uint8_t *p, size_t len)
{
	size_t n = 0;

	while (n < len && rig_chr.room && rig_chr.len < sizeof(rig_chr.out)) {
		rig_chr.out[rig_chr.len++] = p[n++];
		rig_chr.room--;
	}
	return n;
}

void chr_poll(struct chr *c)
{
	rig_chr.polls++;
}
