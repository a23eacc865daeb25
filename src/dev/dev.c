#include "dev/dev.h"

#include "base/str.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void dev_init(struct dev *d, const struct dev_ops *ops, struct board *b, const char *name)
{
	d->ops = ops;
	d->instance = 0;
	str_copy(d->name, sizeof(d->name), name);
	lock_init(&d->lock);
	list_for_each (p, &b->devs) {
		const struct dev *other = list_entry(p, struct dev, node);

		if (!strcmp(other->ops->state->name, ops->state->name))
			d->instance++;
	}
	list_add_tail(&b->devs, &d->node);
}

void dev_free(struct dev *d)
{
	if (!d)
		return;
	list_del(&d->node);
	lock_fini(&d->lock);
	d->ops->free(d);
}

void board_reset(struct board *b)
{
	list_for_each (p, &b->devs) {
		struct dev *d = list_entry(p, struct dev, node);

		if (d->ops->reset)
			d->ops->reset(d);
	}
}

/* Last created stops first: a disk before the bus it hangs on. */
void board_stop(struct board *b)
{
	for (struct list *p = b->devs.prev; p != &b->devs; p = p->prev) {
		struct dev *d = list_entry(p, struct dev, node);

		if (d->ops->stop)
			d->ops->stop(d);
	}
}

void board_start(struct board *b)
{
	list_for_each (p, &b->devs) {
		struct dev *d = list_entry(p, struct dev, node);

		if (d->ops->start)
			d->ops->start(d);
	}
}

int board_save(struct board *b, struct state_buf *buf, struct err *e)
{
	list_for_each (p, &b->devs) {
		struct dev *d = list_entry(p, struct dev, node);

		if (d->ops->pre_save)
			d->ops->pre_save(d);
		if (state_save(d->ops->state, d->instance, d->ops->state_obj(d), buf, e) < 0)
			return err_in(e, "%s", d->name);
	}
	return 0;
}

static struct dev *board_find(struct board *b, const struct state_head *h)
{
	list_for_each (p, &b->devs) {
		struct dev *d = list_entry(p, struct dev, node);

		if (d->instance == h->instance && !strcmp(d->ops->state->name, h->name))
			return d;
	}
	return NULL;
}

static int board_load_one(struct board *b, const uint8_t *data, size_t len, size_t *ret_used,
			  struct err *e)
{
	struct state_head h;
	int rc = state_peek(data, len, &h, e);

	if (rc < 0)
		return rc;
	struct dev *d = board_find(b, &h);
	if (!d)
		return err_set(e, EPROTO, "state of '%s' %u, which this machine does not have",
			       h.name, h.instance);
	if (d->loaded)
		return err_set(e, EPROTO, "state of '%s' %u comes twice", h.name, h.instance);
	ssize_t n = state_load(d->ops->state, d->instance, d->ops->state_obj(d), d->ops->state_size,
			       data, len, e);
	if (n < 0)
		return err_in(e, "%s", d->name);
	d->loaded = true;
	*ret_used = (size_t)n;
	return d->ops->post_load ? d->ops->post_load(d, e) : 0;
}

int board_load(struct board *b, const uint8_t *data, size_t len, struct err *e)
{
	list_for_each (p, &b->devs)
		list_entry(p, struct dev, node)->loaded = false;
	for (size_t at = 0, used = 0; at < len; at += used) {
		int rc = board_load_one(b, data + at, len - at, &used, e);

		if (rc < 0)
			return rc;
	}
	list_for_each (p, &b->devs) {
		const struct dev *d = list_entry(p, struct dev, node);

		if (!d->loaded)
			return err_set(e, EPROTO, "no state of '%s' %u", d->ops->state->name,
				       d->instance);
	}
	return 0;
}
