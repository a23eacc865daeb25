/*
 * What all byte streams have in common: the output queue.
 *
 * Any thread appends at the end of the ring under the lock and posts the flush; only the loop's
 * thread takes from its head, so it may write the bytes between head and head + len without holding
 * the lock.
 */
#include "chr/chr_int.h"

#include "base/alloc.h"
#include "base/num.h"
#include "base/str.h"
#include "base/trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Gives the driver what is queued now, and tells a device that waits when there is room.  What
 * comes meanwhile has its own turn: a guest that never stops writing does not keep the loop here.
 */
static void chr_flush(struct chr *c)
{
	lock(&c->lock);
	for (unsigned left = c->len; left;) {
		/* Only this thread takes, so what was there still is. */
		unsigned head = c->head, n = MIN(left, CHR_QUEUE - c->head);

		unlock(&c->lock);
		ssize_t done = c->drv->write(c, c->queue + head, n);
		lock(&c->lock);
		if (done == -EAGAIN || done == 0)
			break;
		/* Nobody there: what is queued is lost, as on an open line. */
		unsigned gone = done < 0 ? left : (unsigned)done;
		c->head = (c->head + gone) % CHR_QUEUE;
		c->len -= gone;
		left -= gone;
	}
	bool wake = c->stalled && c->len < CHR_QUEUE;
	if (wake)
		c->stalled = false;
	unlock(&c->lock);
	if (wake && c->client && c->client->writable)
		c->client->writable(c->client);
}

static void chr_flush_posted(struct loop_post *p)
{
	chr_flush(container_of(p, struct chr, flush));
}

void chr_can_write(struct chr *c)
{
	chr_flush(c);
}

size_t chr_input(struct chr *c, const uint8_t *p, size_t len)
{
	if (!c->client || !c->client->input)
		return len;
	size_t n = c->client->input(c->client, p, len);
	TRACE(chr_input, "%s %zu of %zu", c->where, n, len);
	return MIN(n, len);
}

static const struct chr_driver *chr_find(const char *type, struct err *e)
{
	char names[128] = "";

	for (const struct chr_driver *const *d = chr_drivers; *d; d++) {
		size_t len = strlen(names);

		if (!strcmp((*d)->name, type))
			return *d;
		snprintf(names + len, sizeof(names) - len, "%s%s", len ? ", " : "", (*d)->name);
	}
	err_set(e, EINVAL, "no character device '%s' (there is: %s)", type, names);
	return NULL;
}

int chr_open(struct chr **ret, const struct chr_opts *o, struct err *e)
{
	const struct chr_driver *drv = chr_find(o->type, e);

	if (!drv)
		return -e->code;
	struct chr *c = xzalloc(drv->size);
	if (!c)
		return err_set(e, ENOMEM, "no memory for '%s'", o->type);
	c->drv = drv;
	c->loop = o->loop;
	c->client = o->client;
	c->flush.fn = chr_flush_posted;
	lock_init(&c->lock);
	str_copy(c->where, sizeof(c->where), o->type);
	int rc = drv->open(c, o, e);
	if (rc < 0) {
		drv->close(c);
		lock_fini(&c->lock);
		free(c);
		return err_in(e, "%s", o->type);
	}
	*ret = c;
	return 0;
}

void chr_close(struct chr *c)
{
	if (!c)
		return;
	c->client = NULL;
	chr_flush(c);
	loop_post_cancel(c->loop, &c->flush);
	c->drv->close(c);
	lock_fini(&c->lock);
	free(c);
}

size_t chr_write(struct chr *c, const uint8_t *p, size_t len)
{
	lock(&c->lock);
	unsigned n = (unsigned)MIN(len, (size_t)(CHR_QUEUE - c->len));
	unsigned at = (c->head + c->len) % CHR_QUEUE;
	unsigned first = MIN(n, CHR_QUEUE - at);
	memcpy(c->queue + at, p, first);
	memcpy(c->queue, p + first, n - first);
	c->len += n;
	if (n < len)
		c->stalled = true;
	unlock(&c->lock);
	loop_post(c->loop, &c->flush);
	return n;
}

void chr_poll(struct chr *c)
{
	if (c->drv->rx_enable)
		c->drv->rx_enable(c, true);
}
