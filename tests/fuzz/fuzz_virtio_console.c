/* virtio-console with several ports: streams that stop and go, and the control queues. */
#include "chr/chr.h"
#include "fuzz/dev.h"

enum {
	PORTS = 3,
};

struct con {
	struct fuzz f;
	struct chr *chr[PORTS];
	bool stuck;
};

/* As chr.c's flush, but it can be stuck. */
static struct con *con_now;

static void con_flush(struct loop_post *p)
{
	struct chr *c = container_of(p, struct chr, flush);

	if (con_now->stuck && !con_now->f.v->paused)
		return;
	c->len = 0;
	if (c->stalled) {
		c->stalled = false;
		c->client->writable(c->client);
	}
}

static void con_rx_enable(struct chr *c, bool on)
{
}

static const struct chr_driver con_driver = { .name = "fuzz", .rx_enable = con_rx_enable };

static void con_backend(struct fuzz *f, uint64_t arg)
{
	struct con *c = container_of(f, struct con, f);
	struct chr *chr = c->chr[arg % PORTS];
	uint8_t text[300];

	memset(text, 'x', sizeof(text));
	if (arg & 0x80) {
		c->stuck = arg & 0x40;
		con_flush(&chr->flush);
	} else if (arg & 0x40) {
		virtio_console_resize(f->v, (uint16_t)arg, 25);
	} else if (chr->client->input(chr->client, text, sizeof(text)) > sizeof(text)) {
		rig_die("console", "took more than there was");
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct con c = { .f = { .r = rig_new(), .backend = con_backend } };
	const struct virtio_console_opts o = { .name = "con0",
					       .loop = c.f.r->loop,
					       .ports = PORTS,
					       .port_name = { NULL, "a", "org.b.0" } };
	struct err e = { 0 };

	con_now = &c;
	if (virtio_console_new(&c.f.v, &c.f.r->board, &o, &e) < 0)
		rig_die("console", e.msg);
	for (unsigned i = 0; i < PORTS; i++) {
		c.chr[i] = calloc(1, sizeof(struct chr));
		c.chr[i]->drv = &con_driver;
		c.chr[i]->loop = c.f.r->loop;
		c.chr[i]->client = virtio_console_client(c.f.v, i);
		c.chr[i]->flush.fn = con_flush;
		lock_init(&c.chr[i]->lock);
		virtio_console_attach(c.f.v, i, c.chr[i]);
	}
	fuzz_run(&c.f, data, size);
	board_stop(&c.f.r->board);
	for (unsigned i = 0; i < PORTS; i++)
		loop_post_cancel(c.f.r->loop, &c.chr[i]->flush);
	rig_free(c.f.r);
	for (unsigned i = 0; i < PORTS; i++)
		free(c.chr[i]);
	return 0;
}
