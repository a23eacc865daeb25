#include "dev/virtio/virtio_int.h"

#include "base/bits.h"
#include "base/bug.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
	/* The driver sets these; it cannot clear them but by a reset. */
	STATUS_DRIVER_BITS = VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_DRIVER_OK |
			     VIRTIO_FEATURES_OK | VIRTIO_FAILED,
	RESET_WAIT_MS = 50,
};

static struct virtio_dev *virtio_of(struct dev *d)
{
	return container_of(d, struct virtio_dev, dev);
}

/* Life. */

static void virtio_kicked(struct loop_fd *f, unsigned events UNUSED)
{
	struct virtq *q = container_of(f, struct virtq, kick);
	struct virtio_dev *v = q->v;
	uint64_t count;

	if (read(q->kick_fd, &count, sizeof(count)) != sizeof(count))
		return;
	if (virtio_live(v) && q->enabled)
		v->type->kick(v, q);
	virtio_look(q);
}

void virtio_look(struct virtq *q)
{
	if (q->bad && q->v->live)
		virtio_broken(q->v, q->bad);
}

/* Sends the interrupts that were put off. */
static void virtio_interrupt_now(struct virtio_dev *v)
{
	for (; v->irq; v->irq &= v->irq - 1)
		virtq_interrupt(&v->vq[__builtin_ctz(v->irq)]);
}

static void virtio_irq_post(struct loop_post *p)
{
	virtio_interrupt_now(container_of(p, struct virtio_dev, irq_post));
}

void virtio_interrupt_soon(struct virtq *q)
{
	q->v->irq |= BIT(q->index);
	/* While it stops the rings may be gone before the post comes. */
	if (q->v->live)
		loop_post(q->v->loop, &q->v->irq_post);
	else
		virtio_interrupt_now(q->v);
}

static void virtio_sync_post(struct loop_post *p);

int virtio_init(struct virtio_dev *v, const struct virtio_type *type, const struct dev_ops *ops,
		struct board *b, struct loop *loop, const char *name, struct err *e)
{
	v->type = type;
	v->board = b;
	v->loop = loop;
	v->quiet = true;
	/* Until board_start(). */
	v->paused = true;
	v->reset_wait_ms = RESET_WAIT_MS;
	v->sync.fn = virtio_sync_post;
	v->irq_post.fn = virtio_irq_post;
	cond_init(&v->quiet_cond);
	for (unsigned i = 0; i < VIRTIO_QUEUES; i++) {
		v->vq[i].v = v;
		v->vq[i].index = (uint16_t)i;
		v->vq[i].gmem = b->gmem;
		v->vq[i].kick_fd = -1;
		v->vq[i].kick.fn = virtio_kicked;
	}
	dev_init(&v->dev, ops, b, name);
	return loop ? 0 : err_set(e, EINVAL, "%s: no event loop", name);
}

struct virtio_watch {
	struct virtq *q;
	int rc;
};

static void virtio_watch(void *arg)
{
	struct virtio_watch *w = arg;

	w->rc = loop_fd_add(w->q->v->loop, &w->q->kick, w->q->kick_fd, LOOP_IN);
}

int virtio_add_queue(struct virtio_dev *v, unsigned i, unsigned max, struct err *e)
{
	struct virtio_watch w = { .q = &v->vq[i] };

	BUG_ON(i >= VIRTIO_QUEUES || !is_pow2(max) || max > VIRTIO_RING_MAX);
	w.q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w.q->kick_fd < 0)
		return err_set(e, errno, "%s: cannot make an eventfd: %s", v->dev.name,
			       strerror(errno));
	loop_call(v->loop, virtio_watch, &w);
	if (w.rc < 0)
		return err_set(e, -w.rc, "%s: cannot watch a queue: %s", v->dev.name,
			       strerror(-w.rc));
	w.q->max = w.q->size = (uint16_t)max;
	v->nq = MAX(v->nq, i + 1);
	return 0;
}

static void virtio_unwatch(void *arg)
{
	struct virtio_dev *v = arg;

	for (unsigned i = 0; i < VIRTIO_QUEUES; i++)
		loop_fd_del(&v->vq[i].kick);
	loop_post_cancel(v->loop, &v->sync);
	loop_post_cancel(v->loop, &v->irq_post);
}

void virtio_dev_free(struct dev *d)
{
	struct virtio_dev *v = virtio_of(d);

	if (v->loop)
		loop_call(v->loop, virtio_unwatch, v);
	for (unsigned i = 0; i < VIRTIO_QUEUES; i++)
		close_fd(&v->vq[i].kick_fd);
	cond_fini(&v->quiet_cond);
	v->type->free(v);
}

/* What the guest set up, to power-on values; dev.lock held or VM stopped, nothing in flight. */
static void virtio_clear(struct virtio_dev *v)
{
	v->driver_features = 0;
	v->features = 0;
	__atomic_store_n(&v->status, 0, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < v->nq; i++) {
		struct virtq *q = &v->vq[i];

		q->desc_gpa = q->avail_gpa = q->used_gpa = 0;
		q->size = q->max;
		q->enabled = 0;
		q->avail_at = q->used_at = q->signalled = 0;
		q->signalled_valid = 0;
		q->taken = 0;
		q->bad = NULL;
	}
	if (v->type->reset)
		v->type->reset(v);
	if (v->transport)
		v->transport->reset(v->transport);
}

/* Start and stop; the loop's thread. */

static bool virtio_wants_live(const struct virtio_dev *v)
{
	return !v->paused && !v->resetting && !v->no_dma && (v->status & VIRTIO_DRIVER_OK) &&
	       !(v->status & VIRTIO_NEEDS_RESET);
}

static void virtio_go(struct virtio_dev *v)
{
	const char *bad = NULL;

	for (unsigned i = 0; i < v->nq && !bad; i++) {
		struct virtq *q = &v->vq[i];

		if (q->enabled && virtq_start(q, v->features) < 0)
			bad = q->bad;
	}
	v->live = true;
	if (v->type->start)
		v->type->start(v);
	if (bad) {
		virtio_broken(v, bad);
		return;
	}
	/* Whatever was rung before, or while the VM was paused. */
	for (unsigned i = 0; i < v->nq; i++)
		if (v->vq[i].enabled)
			virtio_rekick(&v->vq[i]);
}

static void virtio_halt(struct virtio_dev *v)
{
	v->live = false;
	virtio_interrupt_now(v);
	if (v->type->stop)
		v->type->stop(v);
}

/* Nothing in flight any more. */
static void virtio_settle(struct virtio_dev *v)
{
	for (unsigned i = 0; i < v->nq; i++)
		virtq_stop(&v->vq[i]);
	lock(&v->dev.lock);
	if (v->resetting) {
		v->resetting = false;
		virtio_clear(v);
	}
	v->quiet = true;
	cond_wake_all(&v->quiet_cond);
	unlock(&v->dev.lock);
}

/* Brings the loop's side in line with what is wanted. */
static void virtio_sync(struct virtio_dev *v)
{
	lock(&v->dev.lock);
	bool want = virtio_wants_live(v);
	bool quiet = v->quiet, cut = v->dma_cut;
	v->dma_cut = false;
	unlock(&v->dev.lock);

	/* Cut off and on again: what came meanwhile was not heard, so it begins anew. */
	if (v->live && (!want || cut))
		virtio_halt(v);
	if (want && !v->live && !v->busy)
		virtio_go(v);
	if (!want && !quiet && !v->busy)
		virtio_settle(v);
}

static void virtio_sync_post(struct loop_post *p)
{
	virtio_sync(container_of(p, struct virtio_dev, sync));
}

void virtio_busy(struct virtio_dev *v)
{
	v->busy++;
}

void virtio_idle(struct virtio_dev *v)
{
	BUG_ON(!v->busy);
	if (--v->busy == 0 && !v->live)
		loop_post(v->loop, &v->sync);
}

void virtio_broken(struct virtio_dev *v, const char *why)
{
	log_guest(&v->limit, v->dev.name, "the guest's driver broke the rules: %s", why);
	lock(&v->dev.lock);
	bool news = !(v->status & VIRTIO_NEEDS_RESET) && !v->resetting;
	if (news)
		__atomic_fetch_or(&v->status, VIRTIO_NEEDS_RESET, __ATOMIC_RELEASE);
	unlock(&v->dev.lock);
	if (news)
		virtio_config_changed(v);
	loop_post(v->loop, &v->sync);
}

void virtio_rekick(struct virtq *q)
{
	virtio_kick(q->v, q->index);
}

void virtio_kick(struct virtio_dev *v, unsigned i)
{
	const uint64_t one = 1;

	if (i >= v->nq)
		return;
	/* A full counter rings already. */
	ssize_t n = write(v->vq[i].kick_fd, &one, sizeof(one));
	(void)n;
}

void virtio_config_changed(struct virtio_dev *v)
{
	__atomic_fetch_add(&v->generation, 1, __ATOMIC_ACQ_REL);
	if (v->transport && (__atomic_load_n(&v->status, __ATOMIC_ACQUIRE) & VIRTIO_DRIVER_OK))
		v->transport->config_irq(v->transport);
}

/* Pause and resume; the main thread. */

void virtio_dev_stop(struct dev *d)
{
	struct virtio_dev *v = virtio_of(d);

	lock(&d->lock);
	v->paused = true;
	if (!v->quiet)
		loop_post(v->loop, &v->sync);
	while (!v->quiet) {
		if (loop_is_mine(v->loop)) {
			unlock(&d->lock);
			loop_run_once(v->loop, -1);
			lock(&d->lock);
		} else {
			cond_wait(&v->quiet_cond, &d->lock);
		}
	}
	unlock(&d->lock);
}

/* The driver is ready and may be served; dev.lock held. */
static void virtio_want_start_locked(struct virtio_dev *v)
{
	if (!virtio_wants_live(v))
		return;
	v->features = v->driver_features & virtio_offered(v);
	v->quiet = false;
	loop_post(v->loop, &v->sync);
}

void virtio_set_dma(struct virtio_dev *v, bool on)
{
	if (v->no_dma == !on)
		return;
	__atomic_store_n(&v->no_dma, !on, __ATOMIC_RELAXED);
	v->dma_cut |= !on;
	if (on)
		virtio_want_start_locked(v);
	else if (!v->quiet)
		loop_post(v->loop, &v->sync);
}

void virtio_dev_start(struct dev *d)
{
	struct virtio_dev *v = virtio_of(d);

	SCOPED_LOCK(&d->lock);
	v->paused = false;
	virtio_want_start_locked(v);
}

void virtio_dev_reset(struct dev *d)
{
	struct virtio_dev *v = virtio_of(d);

	SCOPED_LOCK(&d->lock);
	BUG_ON(!v->quiet);
	v->resetting = false;
	virtio_clear(v);
}

/* What the driver does. */

uint64_t virtio_offered(struct virtio_dev *v)
{
	return v->type->features(v) | VIRTIO_F_INDIRECT | VIRTIO_F_EVENT_IDX | VIRTIO_F_VERSION_1;
}

uint8_t virtio_status(struct virtio_dev *v)
{
	return v->status;
}

/* A reset that waits for what is in flight, but not longer than a guest would notice. */
static void virtio_guest_reset(struct virtio_dev *v)
{
	uint64_t deadline = clock_ns() + v->reset_wait_ms * NS_PER_MS;

	if (v->quiet) {
		virtio_clear(v);
		return;
	}
	v->resetting = true;
	loop_post(v->loop, &v->sync);
	while (v->resetting && v->reset_wait_ms)
		if (!cond_wait_until(&v->quiet_cond, &v->dev.lock, deadline))
			return;
}

static bool virtio_features_fit(struct virtio_dev *v)
{
	uint64_t f = v->driver_features;

	if ((f & ~virtio_offered(v)) || !(f & VIRTIO_F_VERSION_1))
		return false;
	return !v->type->features_ok || v->type->features_ok(v, f);
}

void virtio_set_status(struct virtio_dev *v, uint8_t status)
{
	if (v->resetting)
		return;
	if (!status) {
		virtio_guest_reset(v);
		return;
	}
	uint8_t now = v->status | (status & STATUS_DRIVER_BITS);
	if (!(v->status & VIRTIO_FEATURES_OK)) {
		/* 3.1.1: the driver reads it back, and gives up when it is not set. */
		if ((now & VIRTIO_FEATURES_OK) && !virtio_features_fit(v))
			now &= (uint8_t)~VIRTIO_FEATURES_OK;
		if (!(now & VIRTIO_FEATURES_OK))
			now &= (uint8_t)~VIRTIO_DRIVER_OK;
	}
	bool starts = (now & ~v->status) & VIRTIO_DRIVER_OK;
	__atomic_store_n(&v->status, now, __ATOMIC_RELEASE);
	if (starts)
		virtio_want_start_locked(v);
}

void virtio_set_driver_features(struct virtio_dev *v, uint64_t f)
{
	if (!v->resetting && !(v->status & VIRTIO_FEATURES_OK))
		v->driver_features = f;
}

bool virtio_queue_open(const struct virtio_dev *v, unsigned i)
{
	return i < v->nq && !v->resetting && !v->vq[i].enabled && !(v->status & VIRTIO_DRIVER_OK);
}

void virtio_enable_queue(struct virtio_dev *v, unsigned i)
{
	/* 3.1.1: queues are set up before DRIVER_OK. */
	if (virtio_queue_open(v, i))
		v->vq[i].enabled = 1;
}

void virtio_config_read(struct virtio_dev *v, size_t off, void *p, size_t n)
{
	memset(p, 0, n);
	if (!v->type->config_get || off >= v->type->config_len)
		return;
	v->type->config_get(v, off, p, MIN(n, v->type->config_len - off));
}

void virtio_config_write(struct virtio_dev *v, size_t off, const void *p, size_t n)
{
	if (!v->resetting && v->type->config_set && range_in(off, n, v->type->config_len))
		v->type->config_set(v, off, p, n);
}

/* Saved state. */

static const struct state_field virtq_fields[] = {
	STATE_FIELD(struct virtq, desc_gpa, 1),        STATE_FIELD(struct virtq, avail_gpa, 1),
	STATE_FIELD(struct virtq, used_gpa, 1),        STATE_FIELD(struct virtq, size, 1),
	STATE_FIELD(struct virtq, enabled, 1),         STATE_FIELD(struct virtq, avail_at, 1),
	STATE_FIELD(struct virtq, used_at, 1),         STATE_FIELD(struct virtq, signalled, 1),
	STATE_FIELD(struct virtq, signalled_valid, 1),
};

static const struct state_desc virtq_state = {
	.name = "virtq",
	.version = 1,
	.oldest = 1,
	.field = virtq_fields,
	.nfield = COUNT_OF(virtq_fields),
};

static const struct state_field virtio_fields[] = {
	STATE_FIELD(struct virtio_dev, driver_features, 1),
	STATE_FIELD(struct virtio_dev, status, 1),
	STATE_FIELD(struct virtio_dev, generation, 1),
	STATE_STRUCT_ARRAY(struct virtio_dev, vq, &virtq_state, 1),
};

const struct state_desc virtio_state = {
	.name = "virtio",
	.version = 1,
	.oldest = 1,
	.field = virtio_fields,
	.nfield = COUNT_OF(virtio_fields),
};

int virtio_check(const struct virtio_dev *v, struct err *e)
{
	/* v is a copy; its table of functions is the real one, but not its lists and locks. */
	for (unsigned i = 0; i < VIRTIO_QUEUES; i++) {
		const struct virtq *q = &v->vq[i];

		if (q->enabled > (i < v->nq) || q->signalled_valid > 1)
			return err_set(e, EPROTO, "queue %u, which this device does not have", i);
	}
	if (v->status & ~(STATUS_DRIVER_BITS | VIRTIO_NEEDS_RESET))
		return err_set(e, EPROTO, "status %#x", v->status);
	if ((v->status & VIRTIO_DRIVER_OK) && !(v->status & VIRTIO_FEATURES_OK))
		return err_set(e, EPROTO, "a driver without features");
	return 0;
}

int virtio_dev_post_load(struct dev *d, struct err *e)
{
	struct virtio_dev *v = virtio_of(d);

	if ((v->status & VIRTIO_FEATURES_OK) && !virtio_features_fit(v))
		return err_set(e, EPROTO, "%s: the guest uses features %#lx, this device has %#lx",
			       d->name, (unsigned long)v->driver_features,
			       (unsigned long)virtio_offered(v));
	v->features = v->driver_features;
	return v->type->post_load ? v->type->post_load(v, e) : 0;
}

void *virtio_dev_state_obj(struct dev *d)
{
	return virtio_of(d);
}
