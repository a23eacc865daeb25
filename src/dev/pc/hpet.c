/*
 * High precision event timers (IA-PC HPET specification 1.0a): a 64-bit counter and comparators.
 *
 * The counter follows from guest time; a comparator has `target`, the 64-bit value of the counter
 * at its next match, and the earliest of them is the alarm's.  A comparator that is written with
 * a value just passed (within half its range) matches at once: between the guest's reading the
 * counter and its write more time may pass here than in hardware, and the spec's answer, a match
 * after the counter wrapped, would be minutes or centuries away.
 *
 * Interrupts: by I/O APIC pin, edge or level (then the status bit holds the line), by message, and
 * with legacy replacement timer 0 and 1 on GSI 0 and 8 in the place of PIT and RTC.
 *
 * A periodic timer's interrupts are counted, see pc_tick() in pc_int.h.
 *
 * Lock order: the HPET's lock, then that of the PIT or RTC.
 */
#include "dev/pc/pc_int.h"

#include "base/alloc.h"
#include "base/bits.h"

#include <stdlib.h>

enum {
	HPET_LEN = 0x400,
	HPET_TIMERS = 32,
	/* Registers, by 8 bytes. */
	REG_CAP = 0x000,
	REG_CONFIG = 0x010,
	REG_STATUS = 0x020,
	REG_COUNTER = 0x0f0,
	REG_TIMERS = 0x100,
	REG_T_SIZE = 0x20,
	REG_T_CONFIG = 0x00,
	REG_T_COMPARE = 0x08,
	REG_T_MESSAGE = 0x10,
};

#define CAP_REVISION 1ull
#define CAP_COUNT_64 BIT64(13)
#define CAP_LEGACY BIT64(15)
#define CAP_VENDOR (0x8086ull << 16)
#define CONFIG_ON BIT64(0)
#define CONFIG_LEGACY BIT64(1)
#define T_LEVEL BIT64(1)
#define T_ENABLE BIT64(2)
#define T_PERIODIC BIT64(3)
#define T_CAP_PERIODIC BIT64(4)
#define T_CAP_64 BIT64(5)
#define T_SET_VALUE BIT64(6)
#define T_32 BIT64(8)
#define T_MESSAGE BIT64(14)
#define T_CAP_MESSAGE BIT64(15)
#define T_ROUTE_SHIFT 9
#define T_WRITABLE (T_LEVEL | T_ENABLE | T_PERIODIC | T_SET_VALUE | T_32 | 0x1full << 9 | T_MESSAGE)
/* Pins 16-23, those of PCI. */
#define T_ROUTES (0x00ff0000ull << 32)
#define T_CAPS (T_CAP_PERIODIC | T_CAP_64 | T_CAP_MESSAGE | T_ROUTES)

struct hpet_timer {
	uint64_t config, compare, period, message;
	/* Counter at the next match; meaningful while pending. */
	uint64_t target;
	/* Interrupts of periods before that which the guest could not be told of yet, and the guest
	 * time at which to try again. */
	uint64_t owed, retry_ns;
	uint8_t pending;
	struct irq_line line;
};

struct hpet {
	struct dev dev;
	struct board *board;
	struct bus_range at;
	struct dev *pit, *rtc;
	struct loop_alarm alarm;
	/* Rate and number of timers are the guest's: they travel with it. */
	uint32_t hz;
	struct pc_clock clock;
	uint8_t ntimers;
	uint64_t config, status;
	/* Off: the counter.  On: what to add to the ticks of guest time. */
	uint64_t counter;
	struct hpet_timer t[HPET_TIMERS];
	struct irq_waiter waiter;
};

static struct hpet *hpet_of(struct dev *d)
{
	return container_of(d, struct hpet, dev);
}

static bool hpet_on(const struct hpet *h)
{
	return h->config & CONFIG_ON;
}

static uint64_t hpet_ticks(const struct hpet *h)
{
	return pc_muldiv(pc_clock_now(&h->clock), h->hz, NS_PER_SEC);
}

static uint64_t hpet_counter(const struct hpet *h)
{
	return hpet_on(h) ? h->counter + hpet_ticks(h) : h->counter;
}

/* Matches. */

/*
 * The comparator, the counter or the mode changed: when is the next match?  written: the guest just
 * wrote the comparator, and a value that has just passed counts as reached.
 */
static void t_restart(struct hpet *h, struct hpet_timer *t, bool written)
{
	uint64_t now = hpet_counter(h), diff = t->compare - now, half = INT64_MAX;

	if (t->config & T_32) {
		diff &= UINT32_MAX;
		half = INT32_MAX;
	}
	if (written && diff > half)
		diff = 0;
	t->owed = 0;
	/* More than half of 64 bits away is never. */
	t->pending = hpet_on(h) && diff <= INT64_MAX;
	t->target = now + diff;
}

/* Counts in a period; 0: it has none. */
static uint64_t t_period(const struct hpet_timer *t)
{
	uint64_t period = t->config & T_32 ? t->period & UINT32_MAX : t->period;

	return t->config & T_PERIODIC && !(period >> 62) ? period : 0;
}

/* Matches from `target` to now. */
static uint64_t t_matches(const struct hpet_timer *t, uint64_t now)
{
	uint64_t period = t_period(t);

	if (!t->pending || (int64_t)(now - t->target) < 0)
		return 0;
	return period ? 1 + (now - t->target) / period : 1;
}

/* The match was at `target`; on to the next. */
static void t_advance(struct hpet_timer *t, uint64_t now)
{
	uint64_t period = t_period(t);

	if (period) {
		t->target += ((now - t->target) / period + 1) * period;
		t->compare = t->config & T_32 ? (uint32_t)t->target : t->target;
	} else if (t->config & T_32) {
		/* The counter's low half comes by again. */
		t->target += (((now - t->target) >> 32) + 1) << 32;
	} else {
		t->pending = 0;
	}
}

static bool t_legacy(const struct hpet *h, unsigned n)
{
	return n < 2 && h->config & CONFIG_LEGACY;
}

static unsigned t_gsi(const struct hpet *h, unsigned n)
{
	if (t_legacy(h, n))
		return n ? IRQ_GSI_RTC : IRQ_GSI_PIT;
	return h->t[n].config >> T_ROUTE_SHIFT & 0x1f;
}

/* Moves the line to another input when the routing changed; returns whether it can reach it. */
static bool t_route(struct hpet *h, unsigned n)
{
	struct irq_line *l = &h->t[n].line;
	unsigned gsi = t_gsi(h, n);

	if (l->gsi != gsi) {
		irq_line_set(l, false);
		l->gsi = gsi;
	}
	return t_legacy(h, n) || T_ROUTES >> 32 >> gsi & 1;
}

static void t_drive(struct hpet *h, unsigned n, bool level)
{
	bool reached = t_route(h, n);

	irq_line_set(&h->t[n].line, level && reached);
}

/* Level-triggered: the line is the status bit. */
static void t_update(struct hpet *h, unsigned n)
{
	uint64_t c = h->t[n].config;

	t_drive(h, n, c & T_LEVEL && c & T_ENABLE && !(c & T_MESSAGE) && h->status & BIT64(n));
}

static void t_fire(struct hpet *h, unsigned n)
{
	struct hpet_timer *t = &h->t[n];

	if (t->config & T_LEVEL && !(t->config & T_MESSAGE))
		h->status |= BIT64(n);
	if (!(t->config & T_ENABLE))
		return;
	if (t->config & T_MESSAGE) {
		irq_msi(h->board->irqs, t->message >> 32, (uint32_t)t->message);
	} else if (t->config & T_LEVEL) {
		t_update(h, n);
	} else {
		t_drive(h, n, true);
		t_drive(h, n, false);
	}
}

/* What an interrupt of the timer would become now. */
static enum irq_edge t_edge(struct hpet *h, unsigned n)
{
	const struct hpet_timer *t = &h->t[n];

	if (!(t->config & T_ENABLE))
		return IRQ_EDGE_UNHEARD;
	if (t->config & T_MESSAGE)
		return irq_msi_edge(h->board->irqs, t->message >> 32, (uint32_t)t->message);
	if (!t_route(h, n))
		return IRQ_EDGE_UNHEARD;
	if (t->config & T_LEVEL)
		return h->status & BIT64(n) ? IRQ_EDGE_MERGED : IRQ_EDGE_TAKEN;
	return irq_line_edge(&t->line);
}

/* All that matched up to now.  accepted: the guest may have room for what is owed. */
static void hpet_look(struct hpet *h, bool accepted)
{
	uint64_t now = hpet_counter(h), now_ns = pc_clock_now(&h->clock);
	bool owed = false;

	for (unsigned n = 0; n < h->ntimers && hpet_on(h); n++) {
		struct hpet_timer *t = &h->t[n];
		uint64_t due = t_matches(t, now), ns = pc_muldiv(t_period(t), NS_PER_SEC, h->hz);

		if (due || (t->owed && (accepted || now_ns >= t->retry_ns))) {
			if (pc_tick(&t->owed, due, ns, t_edge(h, n)))
				t_fire(h, n);
			t->retry_ns = now_ns + pc_owed_wait(ns);
		}
		if (due)
			t_advance(t, now);
		owed |= t->owed != 0;
	}
	irq_waiter_set(&h->waiter, owed);
}

static void hpet_run(struct hpet *h)
{
	hpet_look(h, false);
}

/* Guest time at which to try to tell of owed interrupts.  Of level ones the guest's acknowledgement
 * is awaited. */
static uint64_t hpet_retry_ns(const struct hpet *h)
{
	uint64_t at = UINT64_MAX;

	for (unsigned n = 0; n < h->ntimers && hpet_on(h); n++) {
		const struct hpet_timer *t = &h->t[n];

		if (t->owed && t->config & T_ENABLE &&
		    !(t->config & T_LEVEL && !(t->config & T_MESSAGE) && h->status & BIT64(n)))
			at = MIN(at, t->retry_ns);
	}
	return at;
}

/* Only timers whose interrupt is on need a wake-up; of the others hpet_run() hears in time. */
static void hpet_arm(struct hpet *h, uint64_t earliest_ns)
{
	uint64_t now = hpet_counter(h), best = UINT64_MAX, at = hpet_retry_ns(h);

	for (unsigned n = 0; n < h->ntimers && hpet_on(h); n++) {
		const struct hpet_timer *t = &h->t[n];
		uint64_t left = t->target - now;

		if (!t->pending || !(t->config & T_ENABLE))
			continue;
		best = MIN(best, left > INT64_MAX ? 0 : left);
	}
	/* Beyond centuries: never. */
	if (best <= (uint64_t)h->hz << 32)
		at = MIN(at, pc_muldiv_up(hpet_ticks(h) + best, NS_PER_SEC, h->hz));
	loop_alarm_set(&h->alarm, pc_clock_host(&h->clock, MAX(at, earliest_ns)));
}

static void hpet_alarm(struct loop_alarm *a)
{
	struct hpet *h = container_of(a, struct hpet, alarm);

	SCOPED_LOCK(&h->dev.lock);
	if (!h->clock.running)
		return;
	hpet_run(h);
	hpet_arm(h, pc_clock_now(&h->clock) + PC_TIMER_MIN_NS);
}

static void hpet_accepted(struct irq_waiter *w)
{
	struct hpet *h = container_of(w, struct hpet, waiter);

	SCOPED_LOCK(&h->dev.lock);
	if (!h->clock.running)
		return;
	hpet_look(h, true);
	hpet_arm(h, 0);
}

/* Registers. */

static void hpet_set_config(struct hpet *h, uint64_t v)
{
	uint64_t old = h->config;

	v &= CONFIG_ON | CONFIG_LEGACY;
	if ((old ^ v) & CONFIG_ON) {
		uint64_t now = hpet_counter(h);

		h->config ^= CONFIG_ON;
		h->counter = hpet_on(h) ? now - hpet_ticks(h) : now;
		for (unsigned n = 0; n < h->ntimers; n++)
			t_restart(h, &h->t[n], false);
	}
	h->config = v;
	if (!((old ^ v) & CONFIG_LEGACY))
		return;
	if (h->pit)
		pit_route(h->pit, !(v & CONFIG_LEGACY));
	if (h->rtc)
		rtc_route(h->rtc, !(v & CONFIG_LEGACY));
	for (unsigned n = 0; n < h->ntimers; n++)
		t_update(h, n);
}

static void hpet_set_counter(struct hpet *h, uint64_t v)
{
	/* Only while it is halted (2.3.7). */
	if (!hpet_on(h))
		h->counter = v;
}

static void t_set_config(struct hpet *h, unsigned n, uint64_t v)
{
	struct hpet_timer *t = &h->t[n];
	uint64_t old = t->config;

	t->config = (v & T_WRITABLE) | T_CAPS;
	if (t->config & T_32) {
		t->compare &= UINT32_MAX;
		t->period &= UINT32_MAX;
	}
	if ((old ^ t->config) & (T_32 | T_PERIODIC))
		t_restart(h, t, false);
	if ((old ^ t->config) & ~T_SET_VALUE)
		t->owed = 0;
	t_update(h, n);
}

/*
 * Periodic: with the set-value bit the write is the comparator's and also the period's, as drivers
 * expect that write only once; without it, it is the period's (2.3.9.2.2).  mask: bytes written.
 */
static void t_set_compare(struct hpet *h, unsigned n, uint64_t v, uint64_t mask)
{
	struct hpet_timer *t = &h->t[n];
	bool periodic = t->config & T_PERIODIC, set = t->config & T_SET_VALUE;

	if (t->config & T_32)
		v &= UINT32_MAX;
	if (!periodic || set)
		t->compare = (t->compare & ~mask) | (v & mask);
	if (periodic)
		t->period = (t->period & ~mask) | (v & mask);
	t->owed = 0;
	/* The high half ends a 64-bit write in two parts. */
	if (t->config & T_32 || mask >> 32)
		t->config &= ~T_SET_VALUE;
	if (!periodic || set)
		t_restart(h, t, true);
}

static uint64_t hpet_get(const struct hpet *h, unsigned reg)
{
	unsigned n = (reg - REG_TIMERS) / REG_T_SIZE;

	switch (reg) {
	case REG_CAP:
		return CAP_REVISION | (uint64_t)(h->ntimers - 1) << 8 | CAP_COUNT_64 | CAP_LEGACY |
		       CAP_VENDOR | 1000000000000000ull / h->hz << 32;
	case REG_CONFIG:
		return h->config;
	case REG_STATUS:
		return h->status;
	case REG_COUNTER:
		return hpet_counter(h);
	default:
		break;
	}
	if (reg < REG_TIMERS || n >= h->ntimers)
		return 0;
	switch ((reg - REG_TIMERS) % REG_T_SIZE) {
	case REG_T_CONFIG:
		return h->t[n].config;
	case REG_T_COMPARE:
		return h->t[n].compare;
	case REG_T_MESSAGE:
		return h->t[n].message;
	default:
		return 0;
	}
}

/* v: the whole register with the new bytes, which mask says. */
static void hpet_set(struct hpet *h, unsigned reg, uint64_t v, uint64_t mask)
{
	unsigned n = (reg - REG_TIMERS) / REG_T_SIZE;

	switch (reg) {
	case REG_CONFIG:
		hpet_set_config(h, v);
		return;
	case REG_STATUS:
		/* Written ones clear. */
		h->status &= ~(v & mask);
		for (unsigned i = 0; i < h->ntimers; i++)
			t_update(h, i);
		/* What waited for it follows. */
		hpet_look(h, true);
		return;
	case REG_COUNTER:
		hpet_set_counter(h, v);
		return;
	default:
		break;
	}
	if (reg < REG_TIMERS || n >= h->ntimers)
		return;
	switch ((reg - REG_TIMERS) % REG_T_SIZE) {
	case REG_T_CONFIG:
		t_set_config(h, n, v);
		break;
	case REG_T_COMPARE:
		t_set_compare(h, n, v, mask);
		break;
	case REG_T_MESSAGE:
		h->t[n].message = v;
		break;
	default:
		break;
	}
}

static uint64_t hpet_read(struct bus_range *r, uint64_t off, unsigned size)
{
	struct hpet *h = container_of(r, struct hpet, at);

	hpet_run(h);
	return hpet_get(h, (unsigned)off & ~7u) >> (off & 7) * 8;
}

static void hpet_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	struct hpet *h = container_of(r, struct hpet, at);
	unsigned reg = (unsigned)off & ~7u, shift = (off & 7) * 8;
	uint64_t mask = (size == 8 ? ~0ull : BIT64(8 * size) - 1) << shift;

	/* 32- and 64-bit accesses, aligned (2.2.1). */
	if (size < 4 || off & (size - 1))
		return;
	hpet_run(h);
	hpet_set(h, reg, (hpet_get(h, reg) & ~mask) | (v << shift & mask), mask);
	hpet_arm(h, 0);
}

static const struct bus_ops hpet_bus = {
	.read = hpet_read,
	.write = hpet_write,
};

/* Saved state. */

static const struct state_field timer_fields[] = {
	STATE_FIELD(struct hpet_timer, config, 1), STATE_FIELD(struct hpet_timer, compare, 1),
	STATE_FIELD(struct hpet_timer, period, 1), STATE_FIELD(struct hpet_timer, message, 1),
	STATE_FIELD(struct hpet_timer, target, 1), STATE_FIELD(struct hpet_timer, pending, 1),
	STATE_FIELD(struct hpet_timer, owed, 2),
};

static const struct state_desc timer_state = {
	.name = "hpet-timer",
	.version = 2,
	.oldest = 1,
	.field = timer_fields,
	.nfield = COUNT_OF(timer_fields),
};

static const struct state_field hpet_fields[] = {
	STATE_FIELD(struct hpet, clock.stopped_ns, 1),
	STATE_FIELD(struct hpet, hz, 1),
	STATE_FIELD(struct hpet, ntimers, 1),
	STATE_FIELD(struct hpet, config, 1),
	STATE_FIELD(struct hpet, status, 1),
	STATE_FIELD(struct hpet, counter, 1),
	STATE_STRUCT_ARRAY(struct hpet, t, &timer_state, 1),
};

static int hpet_check(const void *obj, struct err *e)
{
	const struct hpet *h = obj;

	if (pc_clock_check(h->clock.stopped_ns, e) < 0)
		return -e->code;
	if (h->ntimers < 3 || h->ntimers > HPET_TIMERS || h->hz < 1000000 || h->hz > 100000000)
		return err_set(e, EPROTO, "%u timers at %u Hz", h->ntimers, h->hz);
	if (h->config & ~(CONFIG_ON | CONFIG_LEGACY))
		return err_set(e, EPROTO, "reserved bits in the configuration");
	for (unsigned n = 0; n < h->ntimers; n++) {
		if ((h->t[n].config & ~T_WRITABLE) != T_CAPS)
			return err_set(e, EPROTO, "capabilities of timer %u", n);
		if (pc_owed_check(h->t[n].owed, e) < 0)
			return -e->code;
	}
	return 0;
}

static const struct state_desc hpet_state = {
	.name = "hpet",
	.version = 2,
	.oldest = 1,
	.field = hpet_fields,
	.nfield = COUNT_OF(hpet_fields),
	.check = hpet_check,
};

/* Life cycle. */

static void *hpet_state_obj(struct dev *d)
{
	return hpet_of(d);
}

static void hpet_pre_save(struct dev *d)
{
	struct hpet *h = hpet_of(d);

	SCOPED_LOCK(&d->lock);
	pc_clock_save(&h->clock);
}

/* PIT and RTC know from their own state whether they are routed. */
static int hpet_post_load(struct dev *d, struct err *e)
{
	struct hpet *h = hpet_of(d);

	SCOPED_LOCK(&d->lock);
	pc_clock_loaded(&h->clock);
	for (unsigned n = 0; n < h->ntimers; n++) {
		h->t[n].retry_ns = 0;
		t_update(h, n);
	}
	hpet_arm(h, 0);
	return 0;
}

static void hpet_reset(struct dev *d)
{
	struct hpet *h = hpet_of(d);

	SCOPED_LOCK(&d->lock);
	hpet_set_config(h, 0);
	h->status = h->counter = 0;
	for (unsigned n = 0; n < h->ntimers; n++) {
		struct hpet_timer *t = &h->t[n];

		t->config = T_CAPS;
		t->compare = ~0ull;
		t->period = t->message = t->target = t->owed = t->retry_ns = 0;
		t->pending = 0;
		t_update(h, n);
	}
	hpet_arm(h, 0);
}

static void hpet_stop(struct dev *d)
{
	struct hpet *h = hpet_of(d);

	SCOPED_LOCK(&d->lock);
	pc_clock_stop(&h->clock);
	hpet_arm(h, 0);
}

static void hpet_start(struct dev *d)
{
	struct hpet *h = hpet_of(d);

	SCOPED_LOCK(&d->lock);
	pc_clock_start(&h->clock);
	hpet_arm(h, 0);
}

static void hpet_free(struct dev *d)
{
	struct hpet *h = hpet_of(d);

	bus_del(h->board->mmio, &h->at);
	loop_alarm_fini(&h->alarm);
	irq_waiter_del(h->board->irqs, &h->waiter);
	for (unsigned n = 0; n < HPET_TIMERS; n++)
		irq_line_set(&h->t[n].line, false);
	free(h);
}

static const struct dev_ops hpet_ops = {
	.type = "hpet",
	.free = hpet_free,
	.reset = hpet_reset,
	.state = &hpet_state,
	.state_obj = hpet_state_obj,
	.state_size = sizeof(struct hpet),
	.pre_save = hpet_pre_save,
	.post_load = hpet_post_load,
	.stop = hpet_stop,
	.start = hpet_start,
};

int hpet_new(struct board *b, const struct hpet_opts *o, struct dev **ret, struct err *e)
{
	if (o->timers < 3 || o->timers > HPET_TIMERS || o->hz < 1000000 || o->hz > 100000000)
		return err_set(e, EINVAL, "an HPET has 3 to %d timers and 1 to 100 MHz",
			       HPET_TIMERS);
	struct hpet *h = NEW(struct hpet);
	if (!h)
		return err_set(e, ENOMEM, "no memory for an HPET");
	dev_init(&h->dev, &hpet_ops, b, "hpet");
	h->board = b;
	h->pit = o->pit;
	h->rtc = o->rtc;
	h->hz = o->hz;
	h->ntimers = (uint8_t)o->timers;
	for (unsigned n = 0; n < HPET_TIMERS; n++)
		h->t[n].line = (struct irq_line){ .irqs = b->irqs };
	loop_alarm_init(b->loop, &h->alarm, hpet_alarm);
	h->waiter.fn = hpet_accepted;
	irq_waiter_add(b->irqs, &h->waiter);
	h->at = (struct bus_range){ &hpet_bus, "hpet", &h->dev.lock };
	hpet_reset(&h->dev);
	if (bus_add(b->mmio, &h->at, o->base, HPET_LEN) < 0) {
		dev_free(&h->dev);
		return err_set(e, EBUSY, "the HPET's addresses are taken");
	}
	*ret = &h->dev;
	return 0;
}
