#include "mem/bus.h"

#include "base/bug.h"
#include "base/num.h"
#include "base/trace.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

void bus_init(struct bus *b, enum bus_kind kind)
{
	*b = (struct bus){ .kind = kind };
	pthread_rwlock_init(&b->map_lock, NULL);
	list_init(&b->notify);
}

void bus_fini(struct bus *b)
{
	pthread_rwlock_destroy(&b->map_lock);
}

/* First range that ends after addr; map_lock is held. */
static unsigned bus_search_locked(const struct bus *b, uint64_t addr)
{
	unsigned lo = 0, hi = b->n;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		const struct bus_range *r = b->range[mid];

		if (r->base + (r->len - 1) < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

int bus_add(struct bus *b, struct bus_range *r, uint64_t base, uint64_t len)
{
	int rc = 0;

	BUG_ON(r->on || !len || base + (len - 1) < base);
	pthread_rwlock_wrlock(&b->map_lock);
	unsigned at = bus_search_locked(b, base);
	if (at < b->n && range_overlap(base, len, b->range[at]->base, b->range[at]->len)) {
		rc = -EEXIST;
	} else if (b->n == BUS_RANGES) {
		rc = -ENOSPC;
	} else {
		memmove(&b->range[at + 1], &b->range[at], (b->n - at) * sizeof(b->range[0]));
		r->base = base;
		r->len = len;
		r->on = true;
		b->range[at] = r;
		b->n++;
	}
	pthread_rwlock_unlock(&b->map_lock);
	return rc;
}

void bus_del(struct bus *b, struct bus_range *r)
{
	if (!r->on)
		return;
	pthread_rwlock_wrlock(&b->map_lock);
	unsigned at = bus_search_locked(b, r->base);
	BUG_ON(at == b->n || b->range[at] != r);
	memmove(&b->range[at], &b->range[at + 1], (b->n - at - 1) * sizeof(b->range[0]));
	b->n--;
	r->on = false;
	pthread_rwlock_unlock(&b->map_lock);
}

int bus_notify_add(struct bus *b, struct bus_notify *n)
{
	int rc = b->engine ? b->engine->notify_add(b->engine, b, n) : -ENOSYS;

	if (rc < 0 && rc != -ENOSYS)
		return rc;
	n->in_engine = rc == 0;
	pthread_rwlock_wrlock(&b->map_lock);
	list_add_tail(&b->notify, &n->node);
	__atomic_store_n(&b->nnotify, b->nnotify + 1, __ATOMIC_RELAXED);
	pthread_rwlock_unlock(&b->map_lock);
	return 0;
}

void bus_notify_del(struct bus *b, struct bus_notify *n)
{
	if (n->in_engine && b->engine)
		b->engine->notify_del(b->engine, b, n);
	pthread_rwlock_wrlock(&b->map_lock);
	list_del(&n->node);
	__atomic_store_n(&b->nnotify, b->nnotify - 1, __ATOMIC_RELAXED);
	pthread_rwlock_unlock(&b->map_lock);
}

/* Rings the bell that this write is for, if there is one. */
static bool bus_ring(struct bus *b, uint64_t addr, unsigned size, uint64_t v)
{
	bool rung = false;

	if (!__atomic_load_n(&b->nnotify, __ATOMIC_RELAXED))
		return false;
	pthread_rwlock_rdlock(&b->map_lock);
	list_for_each (p, &b->notify) {
		const struct bus_notify *n = list_entry(p, struct bus_notify, node);

		if (n->addr != addr || (n->size && n->size != size) ||
		    (n->has_match && n->match != v))
			continue;
		const uint64_t one = 1;
		/* A full counter (EAGAIN) is a bell that rings already. */
		rung = write(n->fd, &one, sizeof(one)) == sizeof(one) || errno == EAGAIN;
		break;
	}
	pthread_rwlock_unlock(&b->map_lock);
	return rung;
}

/*
 * One part of an access: what fits in one range, or up to the next one.  Returns its length; *ret_r
 * is NULL where nobody answers.
 */
static unsigned bus_part(struct bus *b, uint64_t addr, unsigned size, struct bus_range **ret_r,
			 uint64_t *ret_off)
{
	unsigned len = size;

	*ret_r = NULL;
	pthread_rwlock_rdlock(&b->map_lock);
	unsigned at = bus_search_locked(b, addr);
	if (at < b->n) {
		struct bus_range *r = b->range[at];

		if (r->base <= addr) {
			*ret_r = r;
			*ret_off = addr - r->base;
			len = (unsigned)MIN((uint64_t)size, r->len - *ret_off);
			if (r->ops->max_size)
				len = MIN(len, r->ops->max_size);
		} else if (r->base - addr < size) {
			len = (unsigned)(r->base - addr);
		}
	}
	pthread_rwlock_unlock(&b->map_lock);
	/* Devices see 1, 2, 4 or 8 bytes. */
	return 1u << (31 - __builtin_clz(len));
}

static uint64_t bus_mask(unsigned size)
{
	return ~0ull >> (64 - 8 * size);
}

uint64_t bus_read(struct bus *b, uint64_t addr, unsigned size)
{
	uint64_t v = 0;

	for (unsigned done = 0; done < size;) {
		struct bus_range *r;
		uint64_t off = 0, part = ~0ull;
		unsigned n = bus_part(b, addr + done, size - done, &r, &off);

		if (r) {
			if (r->lock)
				lock(r->lock);
			part = r->ops->read(r, off, n);
			if (r->lock)
				unlock(r->lock);
			TRACE(bus_read, "%s+%#lx size=%u v=%#lx", r->name, (unsigned long)off, n,
			      (unsigned long)part);
		} else {
			__atomic_fetch_add(&b->unclaimed, 1, __ATOMIC_RELAXED);
			TRACE(bus_read_nobody, "%d:%#lx size=%u", b->kind,
			      (unsigned long)(addr + done), n);
		}
		v |= (part & bus_mask(n)) << (8 * done);
		done += n;
	}
	return v;
}

void bus_write(struct bus *b, uint64_t addr, unsigned size, uint64_t v)
{
	if (bus_ring(b, addr, size, v))
		return;
	for (unsigned done = 0; done < size;) {
		struct bus_range *r;
		uint64_t off = 0;
		unsigned n = bus_part(b, addr + done, size - done, &r, &off);
		uint64_t part = (v >> (8 * done)) & bus_mask(n);

		if (r) {
			TRACE(bus_write, "%s+%#lx size=%u v=%#lx", r->name, (unsigned long)off, n,
			      (unsigned long)part);
			if (r->lock)
				lock(r->lock);
			r->ops->write(r, off, n, part);
			if (r->lock)
				unlock(r->lock);
		} else {
			__atomic_fetch_add(&b->unclaimed, 1, __ATOMIC_RELAXED);
			TRACE(bus_write_nobody, "%d:%#lx size=%u v=%#lx", b->kind,
			      (unsigned long)(addr + done), n, (unsigned long)part);
		}
		done += n;
	}
}
