/*
 * The driver's side of a split virtqueue (virtio 1.2, 2.7), for tests of the device's side.
 *
 * A ring and its indirect tables lie at one guest address; buffers are the test's.  It keeps the
 * rules; hostile tests write the ring's memory themselves.
 */
#pragma once

#include "base/bytes.h"
#include "mem/gmem.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
	VRING_MAX = 1024,
	/* Longest chain of one indirect table. */
	VRING_TABLE = 64,
	VDESC_NEXT = 1,
	VDESC_WRITE = 2,
	VDESC_INDIRECT = 4,
};

struct vbuf {
	uint64_t gpa;
	uint32_t len;
	/* The device writes it. */
	bool in;
};

struct vring {
	struct gmem *m;
	uint16_t size;
	uint64_t desc, avail, used, tables;
	uint16_t avail_idx, used_idx;
	/* Descriptors not in use. */
	uint16_t free[VRING_MAX];
	unsigned nfree;
	bool event_idx;
};

static inline uint8_t *vring_p(const struct vring *r, uint64_t gpa)
{
	uint8_t *p = gmem_at(r->m, gpa, 1);

	if (!p)
		abort();
	return p;
}

/* Bytes of memory that a ring takes. */
static inline uint64_t vring_bytes(unsigned size)
{
	return 16ull * size + 8192 + 8192 + 16ull * VRING_TABLE * size;
}

static inline void vring_init(struct vring *r, struct gmem *m, unsigned size, uint64_t gpa)
{
	*r = (struct vring){ .m = m, .size = (uint16_t)size };
	r->desc = gpa;
	r->avail = gpa + 16ull * size;
	r->used = r->avail + 8192;
	r->tables = r->used + 8192;
	memset(vring_p(r, gpa), 0, vring_bytes(size));
	for (unsigned i = size; i > 0; i--)
		r->free[r->nfree++] = (uint16_t)(i - 1);
}

static inline void vring_put_desc(const struct vring *r, uint64_t table, unsigned i, uint64_t gpa,
				  uint32_t len, unsigned flags, unsigned next)
{
	uint8_t *p = vring_p(r, table + 16ull * i);

	st_le64(p, gpa);
	st_le32(p + 8, len);
	st_le16(p + 12, (uint16_t)flags);
	st_le16(p + 14, (uint16_t)next);
}

static inline void vring_offer(struct vring *r, uint16_t head)
{
	st_le16(vring_p(r, r->avail + 4 + 2ull * (r->avail_idx % r->size)), head);
	r->avail_idx++;
	__atomic_store_n((uint16_t *)vring_p(r, r->avail + 2), r->avail_idx, __ATOMIC_RELEASE);
}

/* Offers a chain of n buffers; its head, or -1 when there are too few descriptors. */
static inline int vring_add(struct vring *r, const struct vbuf *b, unsigned n, bool indirect)
{
	unsigned need = indirect ? 1 : n;

	if (!n || need > r->nfree || (indirect && n > VRING_TABLE))
		return -1;
	uint16_t head = r->free[r->nfree - 1];
	uint64_t table = indirect ? r->tables + 16ull * VRING_TABLE * head : r->desc;
	for (unsigned i = 0; i < n; i++) {
		unsigned at = indirect ? i : r->free[r->nfree - 1 - i];
		unsigned next = i + 1 == n ? 0 : indirect ? i + 1 : r->free[r->nfree - 2 - i];

		vring_put_desc(r, table, at, b[i].gpa, b[i].len,
			       (b[i].in ? VDESC_WRITE : 0) | (i + 1 < n ? VDESC_NEXT : 0), next);
	}
	if (indirect)
		vring_put_desc(r, r->desc, head, table, 16 * n, VDESC_INDIRECT, 0);
	r->nfree -= need;
	vring_offer(r, head);
	return head;
}

/* Descriptors of a finished chain are free again.  A hostile test may have written over links. */
static inline void vring_free_chain(struct vring *r, uint16_t head)
{
	for (unsigned i = head; i < r->size && r->nfree < r->size;) {
		const uint8_t *p = vring_p(r, r->desc + 16ull * i);

		r->free[r->nfree++] = (uint16_t)i;
		if (!(ld_le16(p + 12) & VDESC_NEXT))
			break;
		i = ld_le16(p + 14);
	}
}

/* The next chain that the device gave back. */
static inline bool vring_get(struct vring *r, uint16_t *ret_head, uint32_t *ret_len)
{
	uint16_t idx = __atomic_load_n((uint16_t *)vring_p(r, r->used + 2), __ATOMIC_ACQUIRE);

	if (idx == r->used_idx)
		return false;
	const uint8_t *e = vring_p(r, r->used + 4 + 8ull * (r->used_idx % r->size));
	r->used_idx++;
	*ret_head = (uint16_t)ld_le32(e);
	*ret_len = ld_le32(e + 4);
	vring_free_chain(r, *ret_head);
	return true;
}

/* Event index: interrupt when used passes this. */
static inline void vring_set_used_event(struct vring *r, uint16_t event)
{
	st_le16(vring_p(r, r->avail + 4 + 2ull * r->size), event);
}

static inline uint16_t vring_avail_event(const struct vring *r)
{
	return ld_le16(vring_p(r, r->used + 4 + 8ull * r->size));
}
