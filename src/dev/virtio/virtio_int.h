/* What the files of this folder share: the life of a virtio device. */
#pragma once

#include "dev/virtio/ring.h"
#include "dev/virtio/virtio.h"

/*
 * Embedded in the type's struct.  ops is the type's table; its functions are the virtio_dev_*()
 * below.  Opens the kick descriptors and adds them to the loop.
 */
NODISCARD int virtio_init(struct virtio_dev *v, const struct virtio_type *type,
			  const struct dev_ops *ops, struct board *b, struct loop *loop,
			  const char *name, struct err *e);
/* Queue i exists and offers rings of up to max entries (a power of two); its bell is on the loop.
 */
NODISCARD int virtio_add_queue(struct virtio_dev *v, unsigned i, unsigned max, struct err *e);

/* For dev_ops of every type. */
void virtio_dev_free(struct dev *d);
void virtio_dev_reset(struct dev *d);
void virtio_dev_stop(struct dev *d);
void virtio_dev_start(struct dev *d);
int virtio_dev_post_load(struct dev *d, struct err *e);
void *virtio_dev_state_obj(struct dev *d);
/* Nested in the type's table; virtio_check() from its check. */
extern const struct state_desc virtio_state;
NODISCARD int virtio_check(const struct virtio_dev *v, struct err *e);

/* For types; the loop's thread. */

/* May it use its rings?  For what comes from elsewhere than a kick: a backend's upcall. */
static inline bool virtio_live(const struct virtio_dev *v)
{
	/* The loop may hear of no_dma only in a while. */
	return v->live && !__atomic_load_n(&v->no_dma, __ATOMIC_RELAXED);
}

/* A request that ends later, in another round of the loop. */
void virtio_busy(struct virtio_dev *v);
void virtio_idle(struct virtio_dev *v);
/* The guest broke the rules: needs-reset. */
void virtio_broken(struct virtio_dev *v, const char *why);
/* As virtq_interrupt(), at the end of the loop's round: completions that come together interrupt
 * the guest once. */
void virtio_interrupt_soon(struct virtq *q);
/* After using a queue outside of a kick: is the ring still good? */
void virtio_look(struct virtq *q);
/* The kick of q comes again in the next round: a handler did its share. */
void virtio_rekick(struct virtq *q);
/* Config space changed: tell the driver.  Any thread, dev.lock not held. */
void virtio_config_changed(struct virtio_dev *v);

/* For transports; vCPU thread, dev.lock held. */

uint64_t virtio_offered(struct virtio_dev *v);
uint8_t virtio_status(struct virtio_dev *v);
void virtio_set_status(struct virtio_dev *v, uint8_t status);
void virtio_set_driver_features(struct virtio_dev *v, uint64_t f);
void virtio_enable_queue(struct virtio_dev *v, unsigned i);
/* May the device touch memory from now on?  While not it stands still, as in a pause: requests that
 * are in flight end, and the queues go on where they were. */
void virtio_set_dma(struct virtio_dev *v, bool on);
/* May registers of this queue change? */
bool virtio_queue_open(const struct virtio_dev *v, unsigned i);
void virtio_config_read(struct virtio_dev *v, size_t off, void *p, size_t n);
void virtio_config_write(struct virtio_dev *v, size_t off, const void *p, size_t n);
/* Any thread, no lock needed. */
void virtio_kick(struct virtio_dev *v, unsigned i);
