/*
 * Single-port devices: system control port A (0x92), isa-debug-exit, and Bochs' debug port.
 */
#include "dev/pc/pc_int.h"

#include "base/alloc.h"

#include <stdlib.h>

enum {
	SYSCTL_PORT = 0x92,
	/* PS/2 system control port A. */
	SYSCTL_RESET = 1 << 0,
	SYSCTL_A20 = 1 << 1,
	DEBUGEXIT_PORT = 0xf4,
	DEBUGEXIT_LEN = 4,
	DEBUGCON_PORT = 0xe9,
};

static const struct state_field no_fields[] = {};

/* Port 0x92. */

struct sysctl {
	struct dev dev;
	struct board *board;
	struct bus_range at;
	uint8_t value;
};

static uint64_t sysctl_read(struct bus_range *r, uint64_t off, unsigned size)
{
	return container_of(r, struct sysctl, at)->value;
}

/* Bit 0 resets when it rises. */
static void sysctl_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	struct sysctl *s = container_of(r, struct sysctl, at);
	bool reset = v & ~s->value & SYSCTL_RESET;

	s->value = (uint8_t)v;
	if (reset)
		s->board->request(s->board, BOARD_RESET, 0);
}

static const struct bus_ops sysctl_bus = {
	.read = sysctl_read,
	.write = sysctl_write,
	.max_size = 1,
};

static void sysctl_free(struct dev *d)
{
	struct sysctl *s = container_of(d, struct sysctl, dev);

	bus_del(s->board->pio, &s->at);
	free(s);
}

/* Memory above 1 MiB is always reachable here, and says so. */
static void sysctl_reset(struct dev *d)
{
	SCOPED_LOCK(&d->lock);
	container_of(d, struct sysctl, dev)->value = SYSCTL_A20;
}

static void *sysctl_state_obj(struct dev *d)
{
	return container_of(d, struct sysctl, dev);
}

static const struct state_field sysctl_fields[] = {
	STATE_FIELD(struct sysctl, value, 1),
};

static const struct state_desc sysctl_state = {
	.name = "sysctl",
	.version = 1,
	.oldest = 1,
	.field = sysctl_fields,
	.nfield = COUNT_OF(sysctl_fields),
};

static const struct dev_ops sysctl_ops = {
	.type = "sysctl",
	.free = sysctl_free,
	.reset = sysctl_reset,
	.state = &sysctl_state,
	.state_obj = sysctl_state_obj,
	.state_size = sizeof(struct sysctl),
};

int sysctl_new(struct board *b, struct dev **ret, struct err *e)
{
	struct sysctl *s = NEW(struct sysctl);

	if (!s)
		return err_set(e, ENOMEM, "no memory for port 0x92");
	dev_init(&s->dev, &sysctl_ops, b, "sysctl");
	s->board = b;
	s->at = (struct bus_range){ &sysctl_bus, "sysctl", &s->dev.lock };
	sysctl_reset(&s->dev);
	if (bus_add(b->pio, &s->at, SYSCTL_PORT, 1) < 0) {
		dev_free(&s->dev);
		return err_set(e, EBUSY, "port 0x92 is taken");
	}
	*ret = &s->dev;
	return 0;
}

/* isa-debug-exit, QEMU's, of four ports. */

struct debugexit {
	struct dev dev;
	struct board *board;
	struct bus_range at;
};

static uint64_t debugexit_read(struct bus_range *r, uint64_t off, unsigned size)
{
	return 0;
}

static void debugexit_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	struct debugexit *x = container_of(r, struct debugexit, at);

	x->board->request(x->board, BOARD_EXIT, (unsigned)v);
}

static const struct bus_ops debugexit_bus = {
	.read = debugexit_read,
	.write = debugexit_write,
	.max_size = 4,
};

static void debugexit_free(struct dev *d)
{
	struct debugexit *x = container_of(d, struct debugexit, dev);

	bus_del(x->board->pio, &x->at);
	free(x);
}

static void *debugexit_state_obj(struct dev *d)
{
	return container_of(d, struct debugexit, dev);
}

static const struct state_desc debugexit_state = {
	.name = "debugexit",
	.version = 1,
	.oldest = 1,
	.field = no_fields,
};

static const struct dev_ops debugexit_ops = {
	.type = "debugexit",
	.free = debugexit_free,
	.state = &debugexit_state,
	.state_obj = debugexit_state_obj,
	.state_size = sizeof(struct debugexit),
};

int debugexit_new(struct board *b, uint16_t port, struct dev **ret, struct err *e)
{
	struct debugexit *x = NEW(struct debugexit);

	if (!x)
		return err_set(e, ENOMEM, "no memory for a debug port");
	dev_init(&x->dev, &debugexit_ops, b, "debugexit");
	x->board = b;
	x->at = (struct bus_range){ &debugexit_bus, "debugexit", &x->dev.lock };
	port = port ? port : DEBUGEXIT_PORT;
	if (bus_add(b->pio, &x->at, port, DEBUGEXIT_LEN) < 0) {
		dev_free(&x->dev);
		return err_set(e, EBUSY, "debug exit: port %#x is taken", port);
	}
	*ret = &x->dev;
	return 0;
}

/* Bochs' debug port. */

struct debugcon {
	struct dev dev;
	struct board *board;
	struct bus_range at;
	void (*fn)(void *arg, uint8_t byte);
	void *arg;
};

static uint64_t debugcon_read(struct bus_range *r, uint64_t off, unsigned size)
{
	return DEBUGCON_PORT;
}

static void debugcon_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	struct debugcon *c = container_of(r, struct debugcon, at);

	c->fn(c->arg, (uint8_t)v);
}

static const struct bus_ops debugcon_bus = {
	.read = debugcon_read,
	.write = debugcon_write,
	.max_size = 1,
};

static void debugcon_free(struct dev *d)
{
	struct debugcon *c = container_of(d, struct debugcon, dev);

	bus_del(c->board->pio, &c->at);
	free(c);
}

static void *debugcon_state_obj(struct dev *d)
{
	return container_of(d, struct debugcon, dev);
}

static const struct state_desc debugcon_state = {
	.name = "debugcon",
	.version = 1,
	.oldest = 1,
	.field = no_fields,
};

static const struct dev_ops debugcon_ops = {
	.type = "debugcon",
	.free = debugcon_free,
	.state = &debugcon_state,
	.state_obj = debugcon_state_obj,
	.state_size = sizeof(struct debugcon),
};

int debugcon_new(struct board *b, uint16_t port, void (*fn)(void *arg, uint8_t byte), void *arg,
		 struct dev **ret, struct err *e)
{
	struct debugcon *c = NEW(struct debugcon);

	if (!c)
		return err_set(e, ENOMEM, "no memory for a debug port");
	dev_init(&c->dev, &debugcon_ops, b, "debugcon");
	c->board = b;
	c->fn = fn;
	c->arg = arg;
	c->at = (struct bus_range){ &debugcon_bus, "debugcon", &c->dev.lock };
	port = port ? port : DEBUGCON_PORT;
	if (bus_add(b->pio, &c->at, port, 1) < 0) {
		dev_free(&c->dev);
		return err_set(e, EBUSY, "debug console: port %#x is taken", port);
	}
	*ret = &c->dev;
	return 0;
}
