/*
 * A hostile driver for device fuzzing: the input is a program of register writes, ring memory,
 * kicks, pauses, saves and loads, run against one device on a board of its own.
 */
#pragma once

#include "base/log.h"
#include "lib/dev_rig.h"

enum {
	FUZZ_OPS = 600,
	FUZZ_MEM = 0x300000,
};

struct fuzz {
	struct rig *r;
	struct virtio_dev *v;
	struct vdrv d;
	const uint8_t *p, *end;
	/* The backend's part of the program.  [NULL] */
	void (*backend)(struct fuzz *f, uint64_t arg);
	/* What is held up must end: the VM is about to be paused.  [NULL] */
	void (*pausing)(struct fuzz *f);
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The next n bytes of the program as a number; zeroes after its end. */
static inline uint64_t fuzz_num(struct fuzz *f, unsigned n)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < n && f->p < f->end; i++)
		v |= (uint64_t)*f->p++ << (8 * i);
	return v;
}

static inline unsigned fuzz_size(struct fuzz *f)
{
	return 1u << fuzz_num(f, 1) % 4;
}

static inline void fuzz_loop(struct fuzz *f)
{
	loop_run_once(f->r->loop, 0);
	loop_run_once(f->r->loop, 0);
}

/* A running driver with the features that the program wants, of those offered. */
static inline void fuzz_start(struct fuzz *f)
{
	uint64_t drop = fuzz_num(f, 8);
	struct err e = { 0 };

	/* The program may have moved the BARs away, or reset the machine. */
	if (pci_host_assign(f->r->host, &e) < 0)
		rig_die("assign", e.msg);
	vd_find(&f->d, f->r, f->d.slot);
	vd_msix(&f->d);
	vd_set(&f->d, VC_STATUS, 1, 0);
	for (int i = 0; i < 4 && vd_get(&f->d, VC_STATUS, 1); i++)
		fuzz_loop(f);
	if (!vd_negotiate(&f->d, (vd_offered(&f->d) & ~drop) | VIRTIO_F_VERSION_1))
		return;
	unsigned nq = (unsigned)vd_get(&f->d, VC_NUM_QUEUES, 2);
	for (unsigned i = 0; i < nq && i < VIRTIO_QUEUES; i++) {
		vd_set(&f->d, VC_QUEUE_SELECT, 2, i);
		if (vd_get(&f->d, VC_QUEUE_SIZE, 2) > VRING_MAX)
			return;
		vd_queue(&f->d, i);
	}
	vd_ok(&f->d);
	fuzz_loop(f);
}

/* A chain that keeps the rules of rings, if not those of the device. */
static inline void fuzz_chain(struct fuzz *f)
{
	unsigned i_q = (unsigned)fuzz_num(f, 1) % f->v->nq;
	struct vring *q = &f->d.q[i_q];
	struct vbuf b[8];
	unsigned how = (unsigned)fuzz_num(f, 1), n = how % 8 + 1, nin = how >> 3 & 7;
	uint64_t head_bytes = fuzz_num(f, 2);
	uint16_t head;
	uint32_t len;

	if (!q->size)
		return;
	while (vring_get(q, &head, &len))
		;
	for (unsigned i = 0; i < n; i++) {
		b[i] = (struct vbuf){ FUZZ_MEM + fuzz_num(f, 1) * 64, 1 + (uint32_t)fuzz_num(f, 2),
				      i + nin >= n };
		/* Usually small, as headers are. */
		if (how & 0x80)
			b[i].len = b[i].len % 32 + 1;
	}
	/* What a device decides on: the first bytes of the first buffer. */
	st_le64(rig_ram(f->r, b[0].gpa), head_bytes & 0x0f0f);
	st_le64(rig_ram(f->r, b[0].gpa + 8), head_bytes >> 12);
	(void)vring_add(q, b, n, how & 0x40);
	vd_kick(&f->d, i_q);
	if (!(head_bytes & 0x8000))
		fuzz_loop(f);
}

/* Ring memory as the program likes it. */
static inline void fuzz_poke_ring(struct fuzz *f)
{
	const struct vring *q = &f->d.q[fuzz_num(f, 1) % f->v->nq];
	unsigned what = (unsigned)fuzz_num(f, 1), n = 1u << (what >> 4) % 4;
	uint64_t at = fuzz_num(f, 2);
	const uint64_t base[] = { q->desc, q->avail, q->used, q->tables };

	if (q->size)
		st_le(rig_ram(f->r, base[what % 4] + at % 4096), n, fuzz_num(f, n));
}

static inline void fuzz_poke_mem(struct fuzz *f)
{
	uint64_t at = FUZZ_MEM + fuzz_num(f, 1) * 64;

	for (unsigned n = (unsigned)fuzz_num(f, 1) % 40; n; n--)
		*rig_ram(f->r, at++) = (uint8_t)fuzz_num(f, 1);
}

static inline void fuzz_stop(struct fuzz *f)
{
	if (f->pausing)
		f->pausing(f);
	board_stop(&f->r->board);
}

/* Saved, bent at one place, loaded into the same device. */
static inline void fuzz_state(struct fuzz *f)
{
	struct state_buf b = { 0 };
	struct err e = { 0 };

	fuzz_stop(f);
	if (board_save(&f->r->board, &b, &e) < 0)
		rig_die("save", e.msg);
	b.data[fuzz_num(f, 2) % b.len] ^= (uint8_t)fuzz_num(f, 1);
	if (board_load(&f->r->board, b.data, b.len, &e) < 0)
		e.code = 0;
	state_buf_fini(&b);
	board_start(&f->r->board);
}

static inline void fuzz_op(struct fuzz *f)
{
	struct rig *r = f->r;
	unsigned n;
	uint64_t off;

	switch (fuzz_num(f, 1) % 16) {
	case 0:
		fuzz_start(f);
		break;
	case 1:
		n = fuzz_size(f);
		off = fuzz_num(f, 1) % 0x40;
		vd_set(&f->d, (unsigned)off, n, fuzz_num(f, n));
		break;
	case 2:
		n = fuzz_size(f);
		off = fuzz_num(f, 2) % 0x4008;
		bus_write(&r->mmio, f->d.common + off, n, fuzz_num(f, n));
		break;
	case 3:
		n = fuzz_size(f);
		(void)bus_read(&r->mmio, f->d.common + fuzz_num(f, 2) % 0x4008, n);
		break;
	case 4:
		n = fuzz_size(f) % 8 ?: 4;
		off = fuzz_num(f, 1);
		rig_cfg_set(r, f->d.slot, (unsigned)off, n, fuzz_num(f, n));
		(void)rig_cfg(r, f->d.slot, (unsigned)off, n);
		break;
	case 5:
		n = fuzz_size(f);
		off = rig_bar(r, f->d.slot, 1) + fuzz_num(f, 2) % 4096;
		bus_write(&r->mmio, off, n, fuzz_num(f, n));
		break;
	case 6:
	case 7:
	case 13:
	case 14:
	case 15:
		fuzz_chain(f);
		break;
	case 8:
		fuzz_poke_ring(f);
		break;
	case 9:
		fuzz_poke_mem(f);
		break;
	case 10:
		vd_kick(&f->d, (unsigned)fuzz_num(f, 1) % f->v->nq);
		fuzz_loop(f);
		break;
	case 11:
		off = fuzz_num(f, 1);
		if (f->backend)
			f->backend(f, off);
		fuzz_loop(f);
		break;
	case 12:
		off = fuzz_num(f, 1);
		if (off & 1) {
			fuzz_state(f);
		} else if (off & 2) {
			fuzz_stop(f);
			if (off & 4)
				board_reset(&r->board);
			board_start(&r->board);
		} else {
			rig_master(r, f->d.slot, off & 4);
		}
		break;
	}
}

/* Runs the program against v, which is not yet on the bus. */
static inline void fuzz_run(struct fuzz *f, const uint8_t *data, size_t size)
{
	log_level = LOG_ERROR;
	f->p = data;
	f->end = data + size;
	f->d.slot = rig_plug(f->r, f->v);
	fuzz_start(f);
	for (unsigned i = 0; i < FUZZ_OPS && f->p < f->end; i++)
		fuzz_op(f);
}
