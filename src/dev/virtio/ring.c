#include "dev/virtio/ring.h"

#include "base/bug.h"
#include "base/bytes.h"
#include "base/num.h"

#include <errno.h>
#include <string.h>

enum {
	/* struct virtq_desc (2.7.5) */
	DESC_SIZE = 16,
	DESC_NEXT = 1,
	DESC_WRITE = 2,
	DESC_INDIRECT = 4,
	/* struct virtq_avail (2.7.6): le16 flags, idx, ring[size], used_event */
	AVAIL_FLAGS = 0,
	AVAIL_IDX = 2,
	AVAIL_RING = 4,
	AVAIL_NO_INTERRUPT = 1,
	/* struct virtq_used (2.7.8): le16 flags, idx, { le32 id, len } ring[size], le16 avail_event
	 */
	USED_FLAGS = 0,
	USED_IDX = 2,
	USED_RING = 4,
	USED_ELEM = 8,
	USED_NO_NOTIFY = 1,
};

static int virtq_bad(struct virtq *q, const char *why)
{
	q->bad = why;
	return -EPROTO;
}

void virtq_fail(struct virtq *q, const char *why)
{
	q->bad = why;
}

int virtq_start(struct virtq *q, uint64_t features)
{
	uint64_t n = q->size;

	q->bad = NULL;
	q->taken = 0;
	q->unsent = false;
	q->event_idx = features & VIRTIO_F_EVENT_IDX;
	q->indirect = features & VIRTIO_F_INDIRECT;
	if (!is_pow2(n) || n > q->max)
		q->bad = "ring size is not a power of two or too large";
	else if (q->desc_gpa % 16 || q->avail_gpa % 2 || q->used_gpa % 4)
		q->bad = "ring is not aligned";
	if (q->bad)
		return -EINVAL;
	q->desc = gmem_at(q->gmem, q->desc_gpa, n * DESC_SIZE);
	q->avail = gmem_at(q->gmem, q->avail_gpa, AVAIL_RING + n * 2 + 2);
	q->used = gmem_at_w(q->gmem, q->used_gpa, USED_RING + n * USED_ELEM + 2);
	if (q->desc && q->avail && q->used)
		return 0;
	virtq_stop(q);
	q->bad = "ring is outside of memory";
	return -EINVAL;
}

void virtq_stop(struct virtq *q)
{
	q->desc = q->avail = q->used = NULL;
}

/* The driver's index; what it published before is visible after this. */
static uint16_t virtq_avail_idx(const struct virtq *q)
{
	return __atomic_load_n((const uint16_t *)(q->avail + AVAIL_IDX), __ATOMIC_ACQUIRE);
}

unsigned virtq_waiting(struct virtq *q)
{
	if (!virtq_running(q))
		return 0;
	uint16_t n = (uint16_t)(virtq_avail_idx(q) - q->avail_at);

	return MIN(n, q->size);
}

struct desc {
	uint64_t gpa;
	uint32_t len;
	uint16_t flags, next;
};

/* One copy of a descriptor that the guest may be changing. */
static struct desc desc_load(const uint8_t *table, unsigned i)
{
	const uint8_t *p = table + (size_t)i * DESC_SIZE;
	uint64_t hi;
	struct desc d;

	/* An indirect table has no alignment of its own. */
	memcpy(&d.gpa, p, 8);
	memcpy(&hi, p + 8, 8);
	/* The compiler must not look again: what was checked would not be what is used. */
	__asm__ volatile("" : "+r"(d.gpa), "+r"(hi));
	d.len = (uint32_t)hi;
	d.flags = (uint16_t)(hi >> 32);
	d.next = (uint16_t)(hi >> 48);
	return d;
}

/* Append one buffer to the chain. */
static int virtq_add(struct virtq *q, struct virtq_chain *c, const struct desc *d)
{
	unsigned at = c->nout + c->nin;
	bool in = d->flags & DESC_WRITE;

	if (!in && c->nin)
		return virtq_bad(q, "readable buffer behind a writable one");
	if (at >= c->cap || at >= q->size)
		return virtq_bad(q, "chain is too long");
	if (!d->len)
		return virtq_bad(q, "buffer of no bytes");
	void *p = in ? gmem_at_w(q->gmem, d->gpa, d->len) : gmem_at(q->gmem, d->gpa, d->len);
	if (!p)
		return virtq_bad(q, "buffer is outside of memory");
	c->seg[at] = (struct virtq_seg){ p, d->gpa, d->len };
	if (in) {
		c->nin++;
		c->in_bytes += d->len;
	} else {
		c->nout++;
		c->out_bytes += d->len;
	}
	/* 2.7.5.2: a chain is at most 2^32 bytes; used.len could not say more. */
	if (c->in_bytes + c->out_bytes > UINT32_MAX)
		return virtq_bad(q, "chain has too many bytes");
	return 0;
}

/* Follows a table of n descriptors from entry i; at most n of them, so a loop ends. */
static int virtq_walk(struct virtq *q, struct virtq_chain *c, const uint8_t *table, unsigned n,
		      unsigned i, struct desc *ret_indirect)
{
	for (unsigned seen = 0; seen < n; seen++) {
		struct desc d = desc_load(table, i);

		if (d.flags & DESC_INDIRECT) {
			/* 2.7.5.3.1: only once, and not together with NEXT. */
			if (!ret_indirect || !q->indirect || (d.flags & DESC_NEXT))
				return virtq_bad(q, "indirect descriptor where none may be");
			*ret_indirect = d;
			return 1;
		}
		int rc = virtq_add(q, c, &d);
		if (rc < 0)
			return rc;
		if (!(d.flags & DESC_NEXT))
			return 0;
		if (d.next >= n)
			return virtq_bad(q, "next descriptor is outside of the table");
		i = d.next;
	}
	return virtq_bad(q, "descriptors form a loop");
}

static int virtq_chain_at(struct virtq *q, uint16_t head, struct virtq_chain *c)
{
	struct desc ind;

	c->head = head;
	c->nout = c->nin = 0;
	c->out_bytes = c->in_bytes = 0;
	if (!virtq_running(q))
		return -EPROTO;
	if (head >= q->size)
		return virtq_bad(q, "head is outside of the table");
	int rc = virtq_walk(q, c, q->desc, q->size, head, &ind);
	if (rc != 1)
		return rc;
	if (ind.len % DESC_SIZE || !ind.len || ind.len / DESC_SIZE > 32768)
		return virtq_bad(q, "indirect table of a wrong size");
	const uint8_t *table = gmem_at(q->gmem, ind.gpa, ind.len);
	if (!table)
		return virtq_bad(q, "indirect table is outside of memory");
	return virtq_walk(q, c, table, ind.len / DESC_SIZE, 0, NULL);
}

int virtq_retake(struct virtq *q, uint16_t head, struct virtq_chain *c)
{
	int rc = virtq_chain_at(q, head, c);

	if (rc < 0)
		return rc;
	if (q->taken >= q->size)
		return virtq_bad(q, "more chains in flight than the ring has");
	q->taken++;
	return 0;
}

int virtq_pop(struct virtq *q, struct virtq_chain *c)
{
	if (!virtq_running(q))
		return q->bad ? -EPROTO : 0;
	uint16_t waiting = (uint16_t)(virtq_avail_idx(q) - q->avail_at);
	if (!waiting)
		return 0;
	/* Also: no more chains than the ring has entries can be on their way at once. */
	if (waiting > q->size || q->taken >= q->size)
		return virtq_bad(q, "available index is impossible");
	uint16_t head = ld16_once(q->avail + AVAIL_RING + 2 * (q->avail_at & (q->size - 1)));
	int rc = virtq_chain_at(q, head, c);
	if (rc < 0)
		return rc;
	q->avail_at++;
	q->taken++;
	return 1;
}

void virtq_unpop(struct virtq *q, unsigned n)
{
	BUG_ON(n > q->taken);
	q->avail_at = (uint16_t)(q->avail_at - n);
	q->taken = (uint16_t)(q->taken - n);
}

void virtq_fill(struct virtq *q, unsigned i, uint16_t head, uint32_t len)
{
	unsigned slot = (q->used_at + i) & (q->size - 1);

	/* A queue that went bad or was stopped has no reader. */
	if (!q->used)
		return;
	uint8_t *p = q->used + USED_RING + (size_t)slot * USED_ELEM;
	st_le32(p, head);
	st_le32(p + 4, len);
	gmem_wrote(q->gmem, q->used_gpa + USED_RING + slot * USED_ELEM, USED_ELEM);
}

void virtq_flush(struct virtq *q, unsigned n)
{
	BUG_ON(n > q->taken);
	q->taken = (uint16_t)(q->taken - n);
	if (!q->used)
		return;
	q->unsent = true;
	uint16_t old = q->used_at;
	q->used_at = (uint16_t)(old + n);
	/* When the index laps what the driver was last told of, the comparison means nothing. */
	if ((uint16_t)(q->used_at - q->signalled) < (uint16_t)(q->used_at - old))
		q->signalled_valid = 0;
	/* The elements before the index. */
	__atomic_store_n((uint16_t *)(q->used + USED_IDX), q->used_at, __ATOMIC_RELEASE);
	gmem_wrote(q->gmem, q->used_gpa + USED_IDX, 2);
}

void virtq_push(struct virtq *q, uint16_t head, uint32_t len)
{
	virtq_fill(q, 0, head, len);
	virtq_flush(q, 1);
}

/* Is `event` among the indices (old, now]?  2.7.10.1 */
static bool virtq_passed(uint16_t event, uint16_t now, uint16_t old)
{
	return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

static bool virtq_wants_interrupt(struct virtq *q)
{
	/* The index before we look at what the driver wants; it does the reverse. */
	fence_full();
	if (!q->event_idx)
		return !(ld16_once(q->avail + AVAIL_FLAGS) & AVAIL_NO_INTERRUPT);
	bool valid = q->signalled_valid;
	uint16_t old = q->signalled;
	uint16_t event = ld16_once(q->avail + AVAIL_RING + 2 * q->size);

	q->signalled = q->used_at;
	q->signalled_valid = 1;
	return !valid || virtq_passed(event, q->used_at, old);
}

void virtq_interrupt(struct virtq *q)
{
	struct virtio_transport *t = q->v->transport;

	if (!q->used || !q->unsent)
		return;
	q->unsent = false;
	if (virtq_wants_interrupt(q) && t)
		t->queue_irq(t, q->index);
}

static void virtq_put_used16(struct virtq *q, unsigned off, uint16_t v)
{
	__atomic_store_n((uint16_t *)(q->used + off), v, __ATOMIC_RELAXED);
	gmem_wrote(q->gmem, q->used_gpa + off, 2);
}

void virtq_notify_off(struct virtq *q)
{
	/* With event index, not moving avail_event is enough. */
	if (virtq_running(q) && !q->event_idx)
		virtq_put_used16(q, USED_FLAGS, USED_NO_NOTIFY);
}

bool virtq_notify_on(struct virtq *q, unsigned seen)
{
	uint16_t at = (uint16_t)(q->avail_at + seen);

	if (!virtq_running(q))
		return false;
	if (q->event_idx)
		virtq_put_used16(q, USED_RING + USED_ELEM * q->size, at);
	else
		virtq_put_used16(q, USED_FLAGS, 0);
	/* Our wish before the last look at the index; the driver does the reverse. */
	fence_full();
	return virtq_avail_idx(q) != at;
}

/* Walking the bytes [off, off+len) of one side of a chain, in pieces that lie inside one segment.
 */
struct piece {
	uint8_t *host;
	uint64_t gpa, len;
};

struct pieces {
	const struct virtq_seg *seg, *end;
	uint64_t off, left;
};

static struct pieces pieces_of(const struct virtq_chain *c, bool in, uint64_t off, uint64_t len)
{
	const struct virtq_seg *seg = c->seg + (in ? c->nout : 0);

	return (struct pieces){ seg, seg + (in ? c->nin : c->nout), off, len };
}

static bool piece_next(struct pieces *w, struct piece *ret)
{
	while (w->seg < w->end && w->off >= w->seg->len)
		w->off -= w->seg++->len;
	if (w->seg == w->end || !w->left)
		return false;
	*ret = (struct piece){ w->seg->host + w->off, w->seg->gpa + w->off,
			       MIN(w->left, w->seg->len - w->off) };
	w->left -= ret->len;
	w->off += ret->len;
	return true;
}

void virtq_wrote(struct virtq *q, const struct virtq_chain *c, uint64_t off, uint64_t len)
{
	struct pieces w = pieces_of(c, true, off, len);
	struct piece p;

	while (piece_next(&w, &p))
		gmem_wrote(q->gmem, p.gpa, p.len);
}

size_t virtq_copy_out(const struct virtq_chain *c, uint64_t off, void *dst, size_t len)
{
	struct pieces w = pieces_of(c, false, off, len);
	uint8_t *to = dst;
	struct piece p;

	for (; piece_next(&w, &p); to += p.len)
		memcpy(to, p.host, p.len);
	return len - w.left;
}

size_t virtq_copy_in(struct virtq *q, const struct virtq_chain *c, uint64_t off, const void *src,
		     size_t len)
{
	struct pieces w = pieces_of(c, true, off, len);
	const uint8_t *from = src;
	struct piece p;

	for (; piece_next(&w, &p); from += p.len) {
		memcpy(p.host, from, p.len);
		gmem_wrote(q->gmem, p.gpa, p.len);
	}
	return len - w.left;
}

unsigned virtq_iov(const struct virtq_chain *c, bool in, uint64_t off, uint64_t len,
		   struct iovec *iov, unsigned cap)
{
	struct pieces w = pieces_of(c, in, off, len);
	struct piece p;
	unsigned n = 0;

	while (n < cap && piece_next(&w, &p))
		iov[n++] = (struct iovec){ p.host, p.len };
	return n;
}
