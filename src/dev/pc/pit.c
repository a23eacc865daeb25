/*
 * Intel 8254 timer (data sheet order 231164) as a PC has it, and system control port 0x61.
 *
 * Channel 0 drives GSI 0, channel 1 once refreshed memory and does nothing, channel 2 is the
 * speaker's; its gate is bit 0 of port 0x61 and its output bit 5, by which systems measure their
 * TSC.  Gates 0 and 1 are tied high.
 *
 * Nothing counts.  A counting channel has the tick at which its counting began (in guest time, at
 * 1.193182 MHz); counter and output follow from that.  Ticks are whole numbers, so periods do not
 * drift.  A count written while modes 2 and 3 run waits in `next` until the period (mode 3: the
 * half) is over.
 *
 * The line sees rising edges of channel 0's output; in the periodic modes it is lowered and raised
 * at the start of each period.  Edges that come faster than PC_TIMER_MIN_NS are merged; those of
 * slower periodic modes are not, however late the host is (pc_int.h, pc_tick()).
 */
#include "dev/pc/pc_int.h"

#include "base/alloc.h"
#include "base/bits.h"

#include <errno.h>
#include <stdlib.h>

enum {
	PIT_HZ = 1193182,
	PIT_PORT = 0x40,
	SYSTEM_PORT = 0x61,
	/* Control word. */
	RW_LATCH = 0,
	RW_LOW = 1,
	RW_HIGH = 2,
	RW_BOTH = 3,
	CHANNEL_READ_BACK = 3,
	READ_BACK_NO_COUNT = 1 << 5,
	READ_BACK_NO_STATUS = 1 << 4,
	/* Status byte. */
	STATUS_OUT = 1 << 7,
	STATUS_NULL = 1 << 6,
	/* Port 0x61. */
	SYS_GATE = 1 << 0,
	SYS_WRITABLE = 0xf,
	SYS_REFRESH = 1 << 4,
	SYS_OUT = 1 << 5,
	/* Bit 4 toggles with every refresh cycle, 15 us. */
	REFRESH_NS = 15085,
};

struct pit_channel {
	/* Of the last control word. */
	uint8_t mode, rw, bcd;
	uint8_t gate;
	/* A count is there; it counts (gate open, triggered). */
	uint8_t armed, counting;
	/* The count register holds what the counting element has not taken. */
	uint8_t null_count;
	/* Bytes of the two-byte sequences that came by. */
	uint8_t wrote_low, read_low;
	uint8_t low;
	/* Latches: bytes of the count still to be read, status. */
	uint8_t latched, status_latched, status;
	uint16_t latch;
	/* Counts in ticks, 1 to 65536; next 0: none. */
	uint32_t count, next;
	/* Tick at which counting began; or, while it does not count, ticks that it had counted. */
	uint64_t start, held;
};

struct pit {
	struct dev dev;
	struct board *board;
	struct bus_range at, at_sys;
	struct irq_line irq;
	struct loop_alarm alarm;
	/* GSI 0 is the HPET's. */
	uint8_t unrouted;
	/* Bits 0-3 of port 0x61. */
	uint8_t sys;
	struct pc_clock clock;
	struct pit_channel ch[3];
	/* Of channel 0: tick of the next edge that the line must see; UINT64_MAX: none. */
	uint64_t edge;
	/* Edges before that one that the guest could not be told of yet. */
	uint64_t owed;
	struct irq_waiter waiter;
};

static struct pit *pit_of(struct dev *d)
{
	return container_of(d, struct pit, dev);
}

static uint64_t pit_now(const struct pit *p)
{
	return pc_muldiv(pc_clock_now(&p->clock), PIT_HZ, NS_PER_SEC);
}

/* Counting. */

static bool mode_periodic(unsigned mode)
{
	return mode == 2 || mode == 3;
}

/* Modes 1 and 5 begin at a rising gate. */
static bool mode_triggered(unsigned mode)
{
	return mode == 1 || mode == 5;
}

static uint64_t ch_elapsed(const struct pit_channel *c, uint64_t now)
{
	return c->counting ? now - c->start : c->held;
}

/* Ticks that the output of mode 3 is high in a period. */
static uint32_t ch_high(const struct pit_channel *c)
{
	return (c->count + 1) / 2;
}

/* Ticks from `start` to the end of the period (mode 3: half) in which the next count was written.
 */
static uint64_t ch_switch(const struct pit_channel *c)
{
	return c->mode == 3 && c->held < ch_high(c) ? ch_high(c) : c->count;
}

/* Takes a waiting count when its time has come. */
static void ch_reload(struct pit_channel *c, uint64_t now)
{
	if (!c->next || !c->counting || !mode_periodic(c->mode))
		return;
	uint64_t at = ch_switch(c);

	if (now - c->start < at)
		return;
	/* After a high half comes a low one, of the new count. */
	bool low = at < c->count;
	c->start += at;
	c->count = c->next;
	if (low)
		c->start -= ch_high(c);
	c->next = 0;
	c->null_count = 0;
}

/* Moves `start` to the period that runs now, so that a new count waits for its end. */
static void ch_normalize(struct pit_channel *c, uint64_t now)
{
	ch_reload(c, now);
	if (c->counting && mode_periodic(c->mode))
		c->start = now - (now - c->start) % c->count;
}

/*
 * For a save: ticks that a channel has counted, without those that make no difference any more
 * (whole turns of a counter that passed its end), so that a stream has a bound for them.
 */
static uint64_t ch_shrink(const struct pit_channel *c, uint64_t ticks)
{
	uint64_t wrap = c->bcd ? 10000 : 65536, enough = wrap << 17;

	return ticks > enough ? enough + ticks % wrap : ticks;
}

static void ch_begin(struct pit_channel *c, uint64_t now)
{
	if (c->next)
		c->count = c->next;
	c->next = 0;
	c->null_count = 0;
	c->counting = 1;
	c->start = now;
	c->held = 0;
}

static bool ch_out(const struct pit_channel *c, uint64_t now)
{
	uint64_t t = ch_elapsed(c, now);

	/* Before the first count: low in mode 0, high in the others. */
	if (!c->armed || !c->count)
		return c->mode != 0;
	switch (c->mode) {
	case 0:
		return t >= c->count;
	case 1:
		return !c->counting || t >= c->count;
	case 2:
		return !c->counting || t % c->count != c->count - 1;
	case 3:
		return !c->counting || t % c->count < ch_high(c);
	default:
		/* Low for one tick. */
		return !c->counting || t != c->count;
	}
}

/* The counting element, in binary. */
static uint32_t ch_value(const struct pit_channel *c, uint64_t now)
{
	uint64_t t = ch_elapsed(c, now);
	uint32_t wrap = c->bcd ? 10000 : 65536, half;

	if (!c->count)
		return 0;
	switch (c->mode) {
	case 2:
		return (c->count - (uint32_t)(t % c->count)) % wrap;
	case 3:
		/* Counts down by two in each half, from an even number. */
		t %= c->count;
		half = ch_high(c);
		if (t >= half)
			t -= half;
		return ((c->count & ~1u) - 2 * (uint32_t)t) % wrap;
	default:
		return (uint32_t)((c->count + wrap - t % wrap) % wrap);
	}
}

static uint16_t to_bcd(uint32_t v)
{
	return (uint16_t)(v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 % 10 << 12);
}

/* Digits above 9 carry, as the counter's decades would. */
static uint32_t from_bcd(uint16_t v)
{
	return ((v & 0xfu) + (v >> 4 & 0xfu) * 10 + (v >> 8 & 0xfu) * 100 + (v >> 12) * 1000u) %
	       10000;
}

static uint16_t ch_read_count(struct pit_channel *c, uint64_t now)
{
	ch_reload(c, now);
	uint32_t v = ch_value(c, now);

	return c->bcd ? to_bcd(v) : (uint16_t)v;
}

/* Channel 0's line. */

/* The first tick after `now` at which the output rises; UINT64_MAX: none. */
static uint64_t ch_next_edge(const struct pit_channel *c, uint64_t now)
{
	if (!c->armed || !c->counting || !c->count)
		return UINT64_MAX;
	uint64_t t = now - c->start;
	switch (c->mode) {
	case 0:
	case 1:
		return t < c->count ? c->start + c->count : UINT64_MAX;
	case 3:
		/* The low half that comes is the next count's. */
		if (c->next && ch_switch(c) < c->count)
			return c->start + ch_switch(c) + c->next / 2;
		return c->start + (t / c->count + 1) * c->count;
	case 2:
		return c->start + (t / c->count + 1) * c->count;
	default:
		return t <= c->count ? c->start + c->count + 1 : UINT64_MAX;
	}
}

/* Of channel 0's interrupts; 0: not periodic. */
static uint64_t pit_period_ns(const struct pit *p)
{
	const struct pit_channel *c = &p->ch[0];

	return mode_periodic(c->mode) ? pc_muldiv(c->count, NS_PER_SEC, PIT_HZ) : 0;
}

/*
 * After any change of channel 0 and when its edge came.  now: the tick up to which edges were told;
 * more may have passed since, and are due at once.
 */
static void pit_arm(struct pit *p, uint64_t now, uint64_t earliest_ns)
{
	uint64_t ns = UINT64_MAX;

	ch_reload(&p->ch[0], now);
	p->edge = ch_next_edge(&p->ch[0], now);
	if (p->edge != UINT64_MAX)
		ns = pc_muldiv_up(p->edge, NS_PER_SEC, PIT_HZ);
	if (p->owed)
		ns = MIN(ns, pc_clock_now(&p->clock) + pc_owed_wait(pit_period_ns(p)));
	irq_waiter_set(&p->waiter, p->owed);
	loop_alarm_set(&p->alarm, pc_clock_host(&p->clock, MAX(ns, earliest_ns)));
}

static void pit_line(struct pit *p, bool level)
{
	irq_line_set(&p->irq, level && !p->unrouted);
}

/* Edges up to now that the line did not see. */
static uint64_t pit_due(const struct pit *p, uint64_t now)
{
	const struct pit_channel *c = &p->ch[0];

	if (p->edge > now)
		return 0;
	return mode_periodic(c->mode) ? 1 + (now - p->edge) / (c->next ? c->next : c->count) : 1;
}

static void pit_tick(struct pit *p, uint64_t due)
{
	enum irq_edge how = p->unrouted ? IRQ_EDGE_UNHEARD : irq_line_edge(&p->irq);

	if (pc_tick(&p->owed, due, pit_period_ns(p), how)) {
		pit_line(p, false);
		pit_line(p, true);
	}
}

static void pit_alarm(struct loop_alarm *a)
{
	struct pit *p = container_of(a, struct pit, alarm);

	SCOPED_LOCK(&p->dev.lock);
	uint64_t now_ns = pc_clock_now(&p->clock), now = pit_now(p);
	if (!p->clock.running)
		return;
	if (p->edge > now && !p->owed) {
		pit_arm(p, pit_now(p), 0);
		return;
	}
	pit_tick(p, pit_due(p, now));
	pit_arm(p, now, now_ns + PC_TIMER_MIN_NS);
}

static void pit_accepted(struct irq_waiter *w)
{
	struct pit *p = container_of(w, struct pit, waiter);

	SCOPED_LOCK(&p->dev.lock);
	if (!p->clock.running || !p->owed)
		return;
	pit_tick(p, 0);
	irq_waiter_set(&p->waiter, p->owed);
}

/* Channel 0 changed by a write. */
static void pit_changed(struct pit *p, unsigned n)
{
	if (n)
		return;
	p->owed = 0;
	pit_line(p, ch_out(&p->ch[0], pit_now(p)));
	pit_arm(p, pit_now(p), 0);
}

/* Registers. */

static void ch_load(struct pit_channel *c, uint16_t v, uint64_t now)
{
	uint32_t count = c->bcd ? from_bcd(v) : v;

	if (!count)
		count = c->bcd ? 10000 : 65536;
	c->null_count = 1;
	if (mode_triggered(c->mode)) {
		/* Taken at the next trigger. */
		c->next = count;
		c->armed = 1;
		if (!c->count)
			c->count = count;
		return;
	}
	if (mode_periodic(c->mode) && c->armed && c->counting) {
		ch_normalize(c, now);
		c->next = count;
		/* Where in the period it was written, for mode 3's halves. */
		c->held = now - c->start;
		return;
	}
	c->next = count;
	c->armed = 1;
	if (c->gate) {
		ch_begin(c, now);
	} else {
		c->count = count;
		c->next = 0;
		c->held = 0;
		c->null_count = 0;
	}
}

static void ch_write(struct pit_channel *c, uint8_t v, uint64_t now)
{
	switch (c->rw) {
	case RW_LOW:
		ch_load(c, v, now);
		return;
	case RW_HIGH:
		ch_load(c, (uint16_t)(v << 8), now);
		return;
	default:
		break;
	}
	if (!c->wrote_low) {
		c->low = v;
		c->wrote_low = 1;
		/* Mode 0: the first byte stops counting and lowers the output. */
		if (c->mode == 0) {
			c->held = 0;
			c->counting = 0;
			c->armed = 0;
		}
		return;
	}
	c->wrote_low = 0;
	ch_load(c, (uint16_t)(v << 8 | c->low), now);
}

static uint8_t ch_read(struct pit_channel *c, uint64_t now)
{
	uint16_t v;

	if (c->status_latched) {
		c->status_latched = 0;
		return c->status;
	}
	v = c->latched ? c->latch : ch_read_count(c, now);
	if (c->latched)
		c->latched--;
	if (c->rw == RW_HIGH)
		return (uint8_t)(v >> 8);
	if (c->rw == RW_LOW)
		return (uint8_t)v;
	c->read_low = !c->read_low;
	return (uint8_t)(c->read_low ? v : v >> 8);
}

static void ch_latch(struct pit_channel *c, uint64_t now)
{
	if (c->latched)
		return;
	c->latch = ch_read_count(c, now);
	c->latched = c->rw == RW_BOTH ? 2 : 1;
}

static void ch_latch_status(struct pit_channel *c, uint64_t now)
{
	if (c->status_latched)
		return;
	ch_reload(c, now);
	c->status =
		(uint8_t)((ch_out(c, now) ? STATUS_OUT : 0) | (c->null_count ? STATUS_NULL : 0) |
			  c->rw << 4 | c->mode << 1 | c->bcd);
	c->status_latched = 1;
}

static void pit_control(struct pit *p, uint8_t v)
{
	unsigned n = v >> 6, rw = v >> 4 & 3;
	uint64_t now = pit_now(p);

	if (n == CHANNEL_READ_BACK) {
		for (unsigned i = 0; i < 3; i++) {
			if (!(v & BIT(i + 1)))
				continue;
			if (!(v & READ_BACK_NO_COUNT))
				ch_latch(&p->ch[i], now);
			if (!(v & READ_BACK_NO_STATUS))
				ch_latch_status(&p->ch[i], now);
		}
		return;
	}
	struct pit_channel *c = &p->ch[n];
	if (rw == RW_LATCH) {
		ch_latch(c, now);
		return;
	}
	*c = (struct pit_channel){
		/* 6 and 7 are 2 and 3. */
		.mode = (v >> 1 & 7) > 5 ? v >> 1 & 3 : v >> 1 & 7,
		.rw = (uint8_t)rw,
		.bcd = v & 1,
		.gate = c->gate,
		.null_count = 1,
	};
	pit_changed(p, n);
}

static void ch_set_gate(struct pit_channel *c, bool gate, uint64_t now)
{
	bool rose = gate && !c->gate;

	if (gate == !!c->gate)
		return;
	ch_normalize(c, now);
	c->gate = gate;
	if (!c->armed)
		return;
	if (mode_triggered(c->mode)) {
		if (rose)
			ch_begin(c, now);
		return;
	}
	if (mode_periodic(c->mode)) {
		/* Low stops it with the output high, a rise starts a new period. */
		if (rose)
			ch_begin(c, now);
		else
			c->counting = 0;
		c->held = 0;
		return;
	}
	/* Modes 0 and 4: counting stands. */
	if (rose) {
		c->start = now - c->held;
		c->counting = 1;
	} else {
		c->held = now - c->start;
		c->counting = 0;
	}
}

static uint64_t pit_read(struct bus_range *r, uint64_t off, unsigned size)
{
	struct pit *p = container_of(r, struct pit, at);

	/* The control word cannot be read. */
	return off == 3 ? 0xff : ch_read(&p->ch[off], pit_now(p));
}

static void pit_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	struct pit *p = container_of(r, struct pit, at);

	if (off == 3) {
		pit_control(p, (uint8_t)v);
		return;
	}
	ch_write(&p->ch[off], (uint8_t)v, pit_now(p));
	pit_changed(p, (unsigned)off);
}

static uint64_t pit_sys_read(struct bus_range *r, uint64_t off, unsigned size)
{
	struct pit *p = container_of(r, struct pit, at_sys);
	uint64_t now = pit_now(p);
	uint8_t v = p->sys;

	ch_reload(&p->ch[2], now);
	if (pc_clock_now(&p->clock) / REFRESH_NS & 1)
		v |= SYS_REFRESH;
	if (ch_out(&p->ch[2], now))
		v |= SYS_OUT;
	return v;
}

static void pit_sys_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	struct pit *p = container_of(r, struct pit, at_sys);

	p->sys = v & SYS_WRITABLE;
	ch_set_gate(&p->ch[2], v & SYS_GATE, pit_now(p));
}

static const struct bus_ops pit_bus = {
	.read = pit_read,
	.write = pit_write,
	.max_size = 1,
};
static const struct bus_ops pit_sys_bus = {
	.read = pit_sys_read,
	.write = pit_sys_write,
	.max_size = 1,
};

void pit_route(struct dev *d, bool on)
{
	struct pit *p = pit_of(d);

	SCOPED_LOCK(&d->lock);
	p->unrouted = !on;
	p->owed = 0;
	pit_line(p, ch_out(&p->ch[0], pit_now(p)));
}

/* Saved state. */

static const struct state_field channel_fields[] = {
	STATE_FIELD(struct pit_channel, mode, 1),
	STATE_FIELD(struct pit_channel, rw, 1),
	STATE_FIELD(struct pit_channel, bcd, 1),
	STATE_FIELD(struct pit_channel, gate, 1),
	STATE_FIELD(struct pit_channel, armed, 1),
	STATE_FIELD(struct pit_channel, counting, 1),
	STATE_FIELD(struct pit_channel, null_count, 1),
	STATE_FIELD(struct pit_channel, wrote_low, 1),
	STATE_FIELD(struct pit_channel, read_low, 1),
	STATE_FIELD(struct pit_channel, low, 1),
	STATE_FIELD(struct pit_channel, latched, 1),
	STATE_FIELD(struct pit_channel, status_latched, 1),
	STATE_FIELD(struct pit_channel, status, 1),
	STATE_FIELD(struct pit_channel, latch, 1),
	STATE_FIELD(struct pit_channel, count, 1),
	STATE_FIELD(struct pit_channel, next, 1),
	STATE_FIELD(struct pit_channel, start, 1),
	STATE_FIELD(struct pit_channel, held, 1),
};

static const struct state_desc channel_state = {
	.name = "pit-channel",
	.version = 1,
	.oldest = 1,
	.field = channel_fields,
	.nfield = COUNT_OF(channel_fields),
};

static const struct state_field pit_fields[] = {
	STATE_FIELD(struct pit, unrouted, 1),
	STATE_FIELD(struct pit, sys, 1),
	STATE_FIELD(struct pit, clock.stopped_ns, 1),
	STATE_STRUCT_ARRAY(struct pit, ch, &channel_state, 1),
	STATE_FIELD(struct pit, owed, 2),
};

static int pit_check(const void *obj, struct err *e)
{
	const struct pit *p = obj;

	if (pc_clock_check(p->clock.stopped_ns, e) < 0 || pc_owed_check(p->owed, e) < 0)
		return -e->code;
	uint64_t now = pc_muldiv(p->clock.stopped_ns, PIT_HZ, NS_PER_SEC);

	for (unsigned i = 0; i < 3; i++) {
		const struct pit_channel *c = &p->ch[i];

		if (c->mode > 5 || c->rw > RW_BOTH || c->bcd > 1 || c->latched > 2 ||
		    c->count > 65536 || c->next > 65536)
			return err_set(e, EPROTO, "channel %u: no such mode or count", i);
		if ((c->armed || c->counting) && !c->count)
			return err_set(e, EPROTO, "channel %u has no count", i);
		if (c->held >> 40 || (c->counting && (now - c->start) >> 40))
			return err_set(e, EPROTO, "channel %u counts for too long", i);
	}
	return 0;
}

static const struct state_desc pit_state = {
	.name = "pit",
	.version = 2,
	.oldest = 1,
	.field = pit_fields,
	.nfield = COUNT_OF(pit_fields),
	.check = pit_check,
};

/* Life cycle. */

static void *pit_state_obj(struct dev *d)
{
	return pit_of(d);
}

static void pit_pre_save(struct dev *d)
{
	struct pit *p = pit_of(d);

	SCOPED_LOCK(&d->lock);
	pc_clock_save(&p->clock);
	for (unsigned i = 0; i < 3; i++) {
		struct pit_channel *c = &p->ch[i];
		uint64_t now = pit_now(p);

		ch_normalize(c, now);
		c->held = ch_shrink(c, c->held);
		if (c->counting)
			c->start = now - ch_shrink(c, now - c->start);
	}
}

static int pit_post_load(struct dev *d, struct err *e)
{
	struct pit *p = pit_of(d);

	SCOPED_LOCK(&d->lock);
	pc_clock_loaded(&p->clock);
	pit_line(p, ch_out(&p->ch[0], pit_now(p)));
	pit_arm(p, pit_now(p), 0);
	return 0;
}

static void pit_reset(struct dev *d)
{
	struct pit *p = pit_of(d);

	SCOPED_LOCK(&d->lock);
	for (unsigned i = 0; i < 3; i++)
		p->ch[i] = (struct pit_channel){ .rw = RW_BOTH, .gate = i != 2 };
	p->unrouted = 0;
	p->owed = 0;
	p->sys = 0;
	pit_line(p, false);
	pit_arm(p, pit_now(p), 0);
}

static void pit_stop(struct dev *d)
{
	struct pit *p = pit_of(d);

	SCOPED_LOCK(&d->lock);
	pc_clock_stop(&p->clock);
	pit_arm(p, pit_now(p), 0);
}

static void pit_start(struct dev *d)
{
	struct pit *p = pit_of(d);

	SCOPED_LOCK(&d->lock);
	pc_clock_start(&p->clock);
	pit_arm(p, pit_now(p), 0);
}

static void pit_free(struct dev *d)
{
	struct pit *p = pit_of(d);

	bus_del(p->board->pio, &p->at);
	bus_del(p->board->pio, &p->at_sys);
	loop_alarm_fini(&p->alarm);
	irq_waiter_del(p->board->irqs, &p->waiter);
	irq_line_set(&p->irq, false);
	free(p);
}

static const struct dev_ops pit_ops = {
	.type = "pit",
	.free = pit_free,
	.reset = pit_reset,
	.state = &pit_state,
	.state_obj = pit_state_obj,
	.state_size = sizeof(struct pit),
	.pre_save = pit_pre_save,
	.post_load = pit_post_load,
	.stop = pit_stop,
	.start = pit_start,
};

int pit_new(struct board *b, struct dev **ret, struct err *e)
{
	struct pit *p = NEW(struct pit);

	if (!p)
		return err_set(e, ENOMEM, "no memory for a timer");
	dev_init(&p->dev, &pit_ops, b, "pit");
	p->board = b;
	p->irq = (struct irq_line){ .irqs = b->irqs, .gsi = IRQ_GSI_PIT };
	loop_alarm_init(b->loop, &p->alarm, pit_alarm);
	p->waiter.fn = pit_accepted;
	irq_waiter_add(b->irqs, &p->waiter);
	p->at = (struct bus_range){ &pit_bus, "pit", &p->dev.lock };
	p->at_sys = (struct bus_range){ &pit_sys_bus, "port61", &p->dev.lock };
	pit_reset(&p->dev);
	if (bus_add(b->pio, &p->at, PIT_PORT, 4) < 0 ||
	    bus_add(b->pio, &p->at_sys, SYSTEM_PORT, 1) < 0) {
		dev_free(&p->dev);
		return err_set(e, EBUSY, "ports of the timer are taken");
	}
	*ret = &p->dev;
	return 0;
}
