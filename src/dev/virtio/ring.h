/*
 * Split virtqueues, the device's side (virtio 1.2, 2.7).
 *
 * The only code that touches rings.  A device takes a chain with virtq_pop(), reads and writes the
 * bytes that its segments name, and gives it back with virtq_push() (or virtq_fill() for several
 * and one virtq_flush()), then calls virtq_interrupt() once for a batch.
 *
 * The guest changes ring memory at any moment: each descriptor is copied once and decided on from
 * the copy; every range goes through gmem; no loop is bounded by the guest's numbers.  A ring that
 * breaks a rule is marked bad and pops nothing any more; the device says virtio_broken().
 *
 * Threads: the thread of the device's loop.
 */
#pragma once

#include "dev/virtio/virtio.h"

/* A buffer of a chain, checked: len bytes at host are the guest's at gpa. */
struct virtq_seg {
	uint8_t *host;
	uint64_t gpa;
	uint32_t len;
};

/*
 * A chain of descriptors: first what the device reads (seg[0..nout)), then what it writes (the nin
 * that follow).  The array is the caller's.
 */
struct virtq_chain {
	uint16_t head;
	unsigned nout, nin;
	uint64_t out_bytes, in_bytes;
	struct virtq_seg *seg;
	unsigned cap;
};

/* Map the ring that the registers name; -EINVAL and q->bad says why. */
NODISCARD int virtq_start(struct virtq *q, uint64_t features);
void virtq_stop(struct virtq *q);
static inline bool virtq_running(const struct virtq *q)
{
	return q->desc && !q->bad;
}

/* The chain at hand breaks a rule of its device: the queue is bad from now on. */
void virtq_fail(struct virtq *q, const char *why);
/* 1: a chain; 0: none there; -EPROTO: the ring is bad now. */
NODISCARD int virtq_pop(struct virtq *q, struct virtq_chain *c);
/* Put the last n popped chains back, as if they had not been popped. */
void virtq_unpop(struct virtq *q, unsigned n);
/* Chains that wait to be popped; bounded by the ring's size. */
unsigned virtq_waiting(struct virtq *q);
/* Take again a chain that was popped before the queue stopped and never given back; 0 or -EPROTO.
 */
NODISCARD int virtq_retake(struct virtq *q, uint16_t head, struct virtq_chain *c);

/* Give chain `head` back with len bytes written; visible after virtq_flush().  i: 0, 1, ... since
 * the last flush. */
void virtq_fill(struct virtq *q, unsigned i, uint16_t head, uint32_t len);
void virtq_flush(struct virtq *q, unsigned n);
void virtq_push(struct virtq *q, uint16_t head, uint32_t len);
/* Interrupt the driver if it wants one for what was pushed since the last call; nothing pushed:
 * none. */
void virtq_interrupt(struct virtq *q);

/* Ask the driver not to ring. */
void virtq_notify_off(struct virtq *q);
/* Ask it to ring for the chain behind the next `seen` (0: for the next); true when it is there
 * already, so look again. */
NODISCARD bool virtq_notify_on(struct virtq *q, unsigned seen);

/* Bytes in the device-writable part of c were changed: [off, off+len) of it. */
void virtq_wrote(struct virtq *q, const struct virtq_chain *c, uint64_t off, uint64_t len);
/* Copies from the device-readable part, from off; returns how many of len there were. */
size_t virtq_copy_out(const struct virtq_chain *c, uint64_t off, void *dst, size_t len);
/* Copies into the device-writable part, from off, and marks it written. */
size_t virtq_copy_in(struct virtq *q, const struct virtq_chain *c, uint64_t off, const void *src,
		     size_t len);
/* The bytes [off, off+len) of one side as an iov of at most cap elements; returns how many
 * elements. */
unsigned virtq_iov(const struct virtq_chain *c, bool in, uint64_t off, uint64_t len,
		   struct iovec *iov, unsigned cap);
