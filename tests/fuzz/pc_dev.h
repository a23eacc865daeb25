/*
 * A device of dev/pc under random register accesses, time, pauses and resets.  In between its
 * state is saved and loaded into a new device, which must save the same bytes again; and loaded
 * with bytes changed, which may be refused but must do no harm.
 */
#pragma once

#include "fuzz/input.h"
#include "lib/pc_rig.h"

struct fuzz_dev {
	void (*make)(void);
	/* Input from outside the guest.  [NULL] */
	void (*event)(struct input *in);
	/* Ports (count 0: MMIO). */
	const uint16_t *port;
	unsigned nport;
	uint64_t mmio, mmio_len;
};

static inline void fuzz_access(const struct fuzz_dev *f, struct input *in, bool write)
{
	unsigned size = 1u << in8(in) % 4;
	struct bus *b = f->nport ? &rig.pio : &rig.mmio;
	uint64_t at = f->nport ? f->port[in8(in) % f->nport] : f->mmio + in_le(in, 2) % f->mmio_len;

	if (f->nport)
		size = 1;
	if (write)
		bus_write(b, at, size, in_le(in, size));
	else
		bus_read(b, at, size);
}

static inline void fuzz_time(struct input *in)
{
	static const uint64_t unit[] = { 1, 1000, 100000, 10000000, NS_PER_SEC, 3600 * NS_PER_SEC };

	rig_run((in8(in) + 1) * unit[in8(in) % COUNT_OF(unit)], UINT64_MAX);
}

static inline void fuzz_same(const struct state_buf *a)
{
	struct state_buf b = { 0 };
	struct err e;

	BUG_ON(board_save(&rig.board, &b, &e) < 0);
	BUG_ON(a->len != b.len || memcmp(a->data, b.data, a->len) != 0);
	state_buf_fini(&b);
}

static inline void fuzz_reload(const struct fuzz_dev *f, struct input *in, bool spoil)
{
	struct state_buf buf = { 0 };
	uint64_t now = rig_now, wall = rig_wall;
	struct loop *loop = rig.board.loop;
	struct err e;

	board_stop(&rig.board);
	BUG_ON(board_save(&rig.board, &buf, &e) < 0);
	rig_board_fini(true);
	rig.board.loop = loop;
	rig_board();
	rig_now = now;
	rig_wall = wall;
	f->make();
	if (!spoil) {
		if (board_load(&rig.board, buf.data, buf.len, &e) < 0)
			BUG(e.msg);
		fuzz_same(&buf);
	}
	for (unsigned n = spoil ? in8(in) % 16 : 0; n; n--) {
		size_t at = in_le(in, 2) % buf.len;

		buf.data[at] = in8(in);
	}
	if (spoil && board_load(&rig.board, buf.data, buf.len, &e) < 0)
		BUG_ON(!e.code);
	board_start(&rig.board);
	state_buf_fini(&buf);
}

static inline int fuzz_dev_run(const struct fuzz_dev *f, const uint8_t *data, size_t size)
{
	struct input in = { data, size };

	rig_board();
	memset(&rig_chr, 0, sizeof(rig_chr));
	f->make();
	board_start(&rig.board);
	for (unsigned ops = 0; in.left && ops < 1000; ops++) {
		uint8_t op = in8(&in);

		if (op < 100)
			fuzz_access(f, &in, true);
		else if (op < 170)
			fuzz_access(f, &in, false);
		else if (op < 200)
			fuzz_time(&in);
		else if (op < 230 && f->event)
			f->event(&in);
		else if (op < 240)
			fuzz_reload(f, &in, false);
		else if (op < 250)
			fuzz_reload(f, &in, true);
		else if (op < 253)
			board_reset(&rig.board);
		else if (op < 255)
			board_stop(&rig.board);
		else
			board_start(&rig.board);
	}
	board_stop(&rig.board);
	rig_board_fini(true);
	return 0;
}
