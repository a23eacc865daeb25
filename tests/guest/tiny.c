#include "guest/tiny.h"

#include "guest/timers.h"

#include "base/alloc.h"
#include "base/bits.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

enum {
	PORT_CONSOLE = 0xe9,
	PORT_EXIT = 0xf4,
	PORT_SCRATCH = 0x500,
	PORT_SCRATCH_LEN = 64,
	PORT_CMD = 0x540,
};

void tiny_end(struct tiny *b, bool failed, uint32_t result, const char *why)
{
	lock(&b->lock);
	if (!b->done) {
		b->done = true;
		b->failed = failed;
		b->result = result;
		snprintf(b->why, sizeof(b->why), "%s", why);
	}
	cond_wake_all(&b->cond);
	unlock(&b->lock);
	for (unsigned i = 0; i < b->ncpus; i++)
		if (b->vcpu[i])
			accel_kick(b->vcpu[i]);
}

static uint64_t none_read(struct bus_range *r, uint64_t off, unsigned size)
{
	return PORT_CONSOLE;
}

static void console_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	struct tiny *b = container_of(r, struct tiny, console);

	SCOPED_LOCK(&b->lock);
	if (b->out_len < TINY_OUT - 1)
		b->out[b->out_len++] = (char)v;
}

static void leave_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	tiny_end(container_of(r, struct tiny, leave), false, (uint32_t)v, "");
}

/* Scratch: bytes, and what the last access looked like. */

static void scratch_note(struct tiny_io *s, uint64_t off, unsigned size, bool write)
{
	s->count++;
	s->last = size | (uint32_t)off << 8 | (uint32_t)write << 20 | s->count << 21;
}

static uint64_t scratch_read(struct bus_range *r, uint64_t off, unsigned size)
{
	struct tiny_io *s = container_of(r, struct tiny_io, r);
	uint64_t v = 0;

	SCOPED_LOCK(&s->b->lock);
	scratch_note(s, off, size, false);
	memcpy(&v, s->bytes + off, size);
	return v;
}

static void scratch_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	struct tiny_io *s = container_of(r, struct tiny_io, r);

	SCOPED_LOCK(&s->b->lock);
	scratch_note(s, off, size, true);
	memcpy(s->bytes + off, &v, size);
}

/* Dirty log. */

static uint32_t dirty_take(struct tiny *b)
{
	struct err e = { 0 };
	uint64_t n = 0, words = 0;

	if (accel_dirty_sync(b->vm, &e) < 0)
		return ~0u;
	/* Only RAM from 0: the ROM region follows it and is not written. */
	for (unsigned i = 0; i < b->gmem.n; i++) {
		uint64_t w = BITMAP_WORDS(b->gmem.r[i].len >> GMEM_PAGE_SHIFT);

		words = b->gmem.r[i].gpa >> GMEM_PAGE_SHIFT >> 6;
		memset(b->dirty + words, 0, w * 8);
		n += gmem_dirty_take(&b->gmem, i, b->dirty + words);
	}
	b->dirty_at = 0;
	return (uint32_t)n;
}

static uint32_t dirty_next(struct tiny *b)
{
	const struct gmem_region *last = &b->gmem.r[b->gmem.n - 1];
	uint64_t pages = (last->gpa + last->len) >> GMEM_PAGE_SHIFT;

	for (; b->dirty_at < pages; b->dirty_at++)
		if (bitmap_test(b->dirty, b->dirty_at))
			return (uint32_t)b->dirty_at++;
	return ~0u;
}

static uint32_t dirty_do(struct tiny *b, uint32_t cmd)
{
	struct err e = { 0 };

	switch (cmd) {
	case TINY_DIRTY_START:
		return accel_dirty_start(b->vm, &e) < 0;
	case TINY_DIRTY_TAKE:
		return dirty_take(b);
	default:
		accel_dirty_stop(b->vm);
		return 0;
	}
}

/* Things that happen later, on a thread of their own. */

static void later_do(struct tiny *b, const struct tiny_later *l)
{
	if (l->gsi >= 0) {
		struct irq_line line = { b->vm->irqs, (unsigned)l->gsi, false };

		irq_line_pulse(&line);
	}
	if (l->msi)
		irq_msi(b->vm->irqs, b->msi_addr, b->msi_data);
}

static void later_main(void *arg)
{
	struct tiny *b = arg;

	lock(&b->lock);
	while (!b->later_stop) {
		if (b->dirty_cmd) {
			uint32_t cmd = b->dirty_cmd;

			b->dirty_cmd = 0;
			unlock(&b->lock);
			uint32_t answer = dirty_do(b, cmd);
			lock(&b->lock);
			b->answer = answer;
			continue;
		}
		if (!b->later_set) {
			cond_wait(&b->cond, &b->lock);
			continue;
		}
		if (clock_ns() < b->later.at_ns) {
			(void)cond_wait_until(&b->cond, &b->lock, b->later.at_ns);
			continue;
		}
		struct tiny_later l = b->later;
		b->later_set = false;
		unlock(&b->lock);
		later_do(b, &l);
		lock(&b->lock);
	}
	unlock(&b->lock);
}

static uint32_t later_set(struct tiny *b, struct tiny_later l)
{
	l.at_ns = clock_ns() + b->arg[0] * NS_PER_MS;
	lock(&b->lock);
	b->later = l;
	b->later_set = true;
	cond_wake_all(&b->cond);
	unlock(&b->lock);
	return 0;
}

/* Bells. */

static uint32_t bell_add(struct tiny *b)
{
	for (unsigned i = 0; i < TINY_BELLS; i++) {
		struct tiny_bell *bell = &b->bell[i];
		bool pio = b->arg[0] < 0x10000;

		if (bell->used)
			continue;
		bell->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		bell->n = (struct bus_notify){
			.addr = b->arg[0],
			.size = b->arg[1] & 0xff,
			.has_match = b->arg[1] >> 8 & 1,
			.match = b->arg[1] >> 16,
			.fd = bell->fd,
		};
		bell->used = bus_notify_add(pio ? &b->pio : &b->mmio, &bell->n) == 0;
		return bell->used ? i : ~0u;
	}
	return ~0u;
}

static uint32_t bell_count(struct tiny *b)
{
	uint64_t n = 0;

	if (b->arg[0] >= TINY_BELLS || !b->bell[b->arg[0]].used)
		return ~0u;
	if (read(b->bell[b->arg[0]].fd, &n, sizeof(n)) != sizeof(n))
		return 0;
	return (uint32_t)n;
}

static uint32_t cmd_line(struct tiny *b)
{
	struct irq_line *l = &b->line[b->arg[0] % IRQ_GSIS];

	l->irqs = b->vm->irqs;
	l->gsi = b->arg[0] % IRQ_GSIS;
	irq_line_set(l, b->arg[1]);
	return 0;
}

static uint32_t cmd_dma(struct tiny *b)
{
	return gmem_write(&b->gmem, b->arg[0], &b->arg[1], sizeof(b->arg[1])) == 0;
}

static uint32_t cmd_trip(struct tiny *b)
{
	for (unsigned i = 0; i < b->ncpus; i++) {
		__atomic_store_n(&b->trip[i], i == b->arg[0], __ATOMIC_RELEASE);
		if (i == b->arg[0])
			accel_kick(b->vcpu[i]);
	}
	return 0;
}

/* On the helper thread: an engine may wait for its vCPUs, and this one is in our callback. */
static uint32_t cmd_dirty(struct tiny *b, uint32_t cmd)
{
	if (cmd == TINY_DIRTY_NEXT)
		return dirty_next(b);
	lock(&b->lock);
	b->dirty_cmd = cmd;
	cond_wake_all(&b->cond);
	unlock(&b->lock);
	return TINY_PENDING;
}

static uint32_t cmd_irq(struct tiny *b, uint32_t cmd)
{
	switch (cmd) {
	case TINY_LINE:
		return cmd_line(b);
	case TINY_MSI:
		irq_msi(b->vm->irqs, b->arg[0], b->arg[1]);
		return 0;
	case TINY_LINE_LATER:
		return later_set(b, (struct tiny_later){ .gsi = (int)b->arg[1] });
	case TINY_MSI_SET:
		b->msi_addr = b->arg[0];
		b->msi_data = b->arg[1];
		return 0;
	default:
		return later_set(b, (struct tiny_later){ .gsi = -1, .msi = true });
	}
}

static uint32_t tiny_command(struct tiny *b, uint32_t cmd)
{
	switch (cmd) {
	case TINY_DIRTY_START ... TINY_DIRTY_STOP:
		return cmd_dirty(b, cmd);
	case TINY_LINE ... TINY_MSI_LATER:
		return cmd_irq(b, cmd);
	case TINY_BELL_ADD:
		return bell_add(b);
	case TINY_BELL_COUNT:
		return bell_count(b);
	case TINY_STATE_TRIP:
		return cmd_trip(b);
	case TINY_DMA:
		return cmd_dma(b);
	case TINY_TIME:
		return (uint32_t)((clock_ns() - b->start_ns) / NS_PER_MS);
	case TINY_EMULATED:
		return b->emulated;
	default:
		return ~0u;
	}
}

static uint64_t cmd_read(struct bus_range *r, uint64_t off, unsigned size)
{
	struct tiny *b = container_of(r, struct tiny, cmd);

	SCOPED_LOCK(&b->lock);
	switch (off) {
	case 0:
		return b->answer;
	case 4:
	case 8:
		return b->arg[off / 4 - 1];
	case 12:
		return b->port.last;
	case 16:
		return b->mem.last;
	default:
		return ~0ull;
	}
}

static void cmd_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	struct tiny *b = container_of(r, struct tiny, cmd);

	if (off == 4 || off == 8)
		b->arg[off / 4 - 1] = (uint32_t)v;
	if (off)
		return;
	lock(&b->lock);
	b->answer = TINY_PENDING;
	unlock(&b->lock);
	uint32_t answer = tiny_command(b, (uint32_t)v);
	if (answer == TINY_PENDING)
		return;
	lock(&b->lock);
	b->answer = answer;
	unlock(&b->lock);
}

static const struct bus_ops console_ops = { none_read, console_write, 1 };
static const struct bus_ops leave_ops = { none_read, leave_write, 4 };
static const struct bus_ops scratch_ops = { scratch_read, scratch_write, 8 };
static const struct bus_ops cmd_ops = { cmd_read, cmd_write, 4 };

static int tiny_devices(struct tiny *b, struct err *e)
{
	b->console = (struct bus_range){ .ops = &console_ops, .name = "console" };
	b->leave = (struct bus_range){ .ops = &leave_ops, .name = "exit" };
	b->cmd = (struct bus_range){ .ops = &cmd_ops, .name = "command" };
	b->port.r = (struct bus_range){ .ops = &scratch_ops, .name = "scratch-io" };
	b->mem.r = (struct bus_range){ .ops = &scratch_ops, .name = "scratch-mem" };
	b->port.b = b->mem.b = b;
	if (bus_add(&b->pio, &b->console, PORT_CONSOLE, 1) < 0 ||
	    bus_add(&b->pio, &b->leave, PORT_EXIT, 4) < 0 ||
	    bus_add(&b->pio, &b->port.r, PORT_SCRATCH, PORT_SCRATCH_LEN) < 0 ||
	    bus_add(&b->pio, &b->cmd, PORT_CMD, 32) < 0 ||
	    bus_add(&b->mmio, &b->mem.r, TINY_MMIO, TINY_SCRATCH) < 0)
		return err_set(e, EBUSY, "the board's devices overlap");
	return 0;
}

/* RAM around a small ROM below 1 MiB that holds a pattern. */
static int tiny_ram(struct tiny *b, uint64_t ram, struct err *e)
{
	uint64_t high = TINY_ROM_GPA + TINY_ROM_LEN;
	int rc = gmem_add(&b->gmem, "low", 0, TINY_ROM_GPA, -1, 0, false, e);

	if (rc >= 0)
		rc = gmem_add(&b->gmem, "ram", high, ram - high, -1, 0, false, e);
	if (rc >= 0)
		rc = gmem_add(&b->gmem, "rom", TINY_ROM_GPA, TINY_ROM_LEN, -1, 0, true, e);
	if (rc < 0)
		return rc;
	memset(gmem_at(&b->gmem, TINY_ROM_GPA, TINY_ROM_LEN), 0x5a, TINY_ROM_LEN);
	return 0;
}

int tiny_init(struct tiny *b, uint64_t ram, unsigned cpus, struct err *e)
{
	*b = (struct tiny){ .ncpus = cpus, .start_ns = clock_ns() };
	gmem_init(&b->gmem);
	bus_init(&b->mmio, BUS_MMIO);
	bus_init(&b->pio, BUS_PIO);
	lock_init(&b->lock);
	cond_init(&b->cond);
	b->out = xzalloc(TINY_OUT);
	b->dirty = xcalloc(BITMAP_WORDS(ram >> GMEM_PAGE_SHIFT) + 1, sizeof(uint64_t));
	if (!b->out || !b->dirty)
		return err_set(e, ENOMEM, "no memory");
	int rc = tiny_ram(b, ram, e);
	return rc < 0 ? rc : tiny_devices(b, e);
}

int tiny_start(struct tiny *b, struct err *e)
{
	if (tiny_timers_new(b->vm, &b->timers, e) < 0)
		return -ENODEV;
	return thread_start(&b->later_thread, "later", later_main, b, e);
}

void tiny_stop(struct tiny *b)
{
	lock(&b->lock);
	b->later_stop = true;
	cond_wake_all(&b->cond);
	unlock(&b->lock);
	thread_join(&b->later_thread);
	tiny_timers_free(b->timers);
	b->timers = NULL;
	for (unsigned i = 0; i < TINY_BELLS; i++)
		if (b->bell[i].used) {
			bus_notify_del(b->bell[i].n.addr < 0x10000 ? &b->pio : &b->mmio,
				       &b->bell[i].n);
			close(b->bell[i].fd);
		}
}

void tiny_fini(struct tiny *b)
{
	gmem_fini(&b->gmem);
	bus_fini(&b->mmio);
	bus_fini(&b->pio);
	cond_fini(&b->cond);
	lock_fini(&b->lock);
	free(b->dirty);
	free(b->out);
}
