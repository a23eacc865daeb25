/*
 * MC146818A real-time clock (Motorola data sheet) with 256 bytes of CMOS memory: 128 behind ports
 * 0x70/0x71, 128 more behind 0x72/0x73.  The first 14 are the clock's.
 *
 * The calendar is the host's clock plus an offset, which changes when the guest sets the time.
 * While updates are inhibited (SET, or the divider held in reset) the calendar stands in the
 * registers.  Flags of register C are found when somebody looks or when an alarm of ours comes,
 * from what happened since the last look: the end of a period, of a second, an alarm's time.
 *
 * The periodic interrupt counts guest time, which stands still while the VM is stopped; the
 * calendar does not.  Guests count it: a period that ends while the flag of another is up, or with
 * others, sets it again later (pc_int.h, pc_tick()).
 *
 * Memory sizes are where firmware (SeaBIOS, EDK II) and old systems look for them.  Daylight saving
 * (register B bit 0) is not done, as in every later chip; there is no square-wave pin.
 */
#include "dev/pc/pc_int.h"

#include "base/alloc.h"
#include "base/bits.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	RTC_PORT = 0x70,
	CMOS_SIZE = 256,
	CMOS_BANK = 128,
	REG_SEC = 0,
	REG_SEC_ALARM = 1,
	REG_MIN = 2,
	REG_MIN_ALARM = 3,
	REG_HOUR = 4,
	REG_HOUR_ALARM = 5,
	REG_WEEKDAY = 6,
	REG_DAY = 7,
	REG_MONTH = 8,
	REG_YEAR = 9,
	REG_A = 10,
	REG_B = 11,
	REG_C = 12,
	REG_D = 13,
	A_UIP = 1 << 7,
	A_DIVIDER = 7 << 4,
	/* 32 kHz; 11x: the divider is held in reset. */
	A_DIVIDER_ON = 2 << 4,
	A_DIVIDER_RESET = 6 << 4,
	A_RATE = 0xf,
	B_SET = 1 << 7,
	B_PIE = 1 << 6,
	B_AIE = 1 << 5,
	B_UIE = 1 << 4,
	B_BINARY = 1 << 2,
	B_24H = 1 << 1,
	C_IRQ = 1 << 7,
	C_PF = 1 << 6,
	C_AF = 1 << 5,
	C_UF = 1 << 4,
	D_VALID = 1 << 7,
	HOUR_PM = 0x80,
	ALARM_ANY = 0xc0,
	/* Time base of the periodic interrupt. */
	CRYSTAL_HZ = 32768,
	/* UIP is set this long before an update. */
	UIP_NS = 244000,
	NMI_MASK = 1 << 7,
	DAY_SECONDS = 86400,
};

struct rtc {
	struct dev dev;
	struct board *board;
	struct bus_range at;
	struct irq_line irq;
	struct loop_alarm alarm;
	struct rtc_opts opts;
	/* GSI 8 is the HPET's. */
	uint8_t unrouted;
	/* Index registers; index bit 7 is the NMI mask. */
	uint8_t index, index2;
	uint8_t cmos[CMOS_SIZE];
	/* Calendar time minus host time. */
	uint64_t offset_ns;
	/* Weekday as the guest set it, minus that of the date: 0-6. */
	uint8_t weekday_skew;
	/* Calendar and crystal up to which register C is right. */
	uint64_t seen_s, seen_ticks;
	/* Periods whose flag waits for the one that is up to be read. */
	uint64_t owed;
	struct pc_clock clock;
};

static struct rtc *rtc_of(struct dev *d)
{
	return container_of(d, struct rtc, dev);
}

/* Time. */

static uint64_t rtc_now_ns(const struct rtc *r)
{
	return clock_wall_ns() + r->offset_ns;
}

static uint64_t rtc_ticks(const struct rtc *r)
{
	return pc_muldiv(pc_clock_now(&r->clock), CRYSTAL_HZ, NS_PER_SEC);
}

static bool rtc_frozen(const struct rtc *r)
{
	return r->cmos[REG_B] & B_SET || (r->cmos[REG_A] & A_DIVIDER) >= A_DIVIDER_RESET;
}

/* Ticks in a period of the periodic interrupt; 0: off (table 5 of the data sheet). */
static uint64_t rtc_period(const struct rtc *r)
{
	unsigned rate = r->cmos[REG_A] & A_RATE;

	if (!rate || (r->cmos[REG_A] & A_DIVIDER) != A_DIVIDER_ON)
		return 0;
	/* 1 and 2 give 256 and 128 Hz. */
	return BIT64((rate <= 2 ? rate + 7 : rate) - 1);
}

/* Registers' formats. */

static uint8_t rtc_encode(const struct rtc *r, unsigned v)
{
	return (uint8_t)(r->cmos[REG_B] & B_BINARY ? v : v / 10 << 4 | v % 10);
}

static unsigned rtc_decode(const struct rtc *r, uint8_t v)
{
	return r->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 0xf);
}

static uint8_t rtc_encode_hour(const struct rtc *r, unsigned hour)
{
	if (r->cmos[REG_B] & B_24H)
		return rtc_encode(r, hour);
	return rtc_encode(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static unsigned rtc_decode_hour(const struct rtc *r, uint8_t v)
{
	if (r->cmos[REG_B] & B_24H)
		return rtc_decode(r, v);
	return rtc_decode(r, v & 0x7f) % 12 + (v & HOUR_PM ? 12 : 0);
}

/* The calendar into the registers. */
static void rtc_to_regs(struct rtc *r, uint64_t now_s)
{
	time_t t = (time_t)now_s;
	struct tm tm;

	if (!gmtime_r(&t, &tm))
		return;
	r->cmos[REG_SEC] = rtc_encode(r, (unsigned)tm.tm_sec);
	r->cmos[REG_MIN] = rtc_encode(r, (unsigned)tm.tm_min);
	r->cmos[REG_HOUR] = rtc_encode_hour(r, (unsigned)tm.tm_hour);
	r->cmos[REG_WEEKDAY] = rtc_encode(r, ((unsigned)tm.tm_wday + r->weekday_skew) % 7 + 1);
	r->cmos[REG_DAY] = rtc_encode(r, (unsigned)tm.tm_mday);
	r->cmos[REG_MONTH] = rtc_encode(r, (unsigned)tm.tm_mon + 1);
	unsigned year = ((unsigned)tm.tm_year + 1900) % 10000;
	r->cmos[REG_YEAR] = rtc_encode(r, year % 100);
	r->cmos[RTC_CENTURY] = rtc_encode(r, year / 100);
}

/* The registers' calendar; values out of range carry over, and before 1970 is 1970. */
static uint64_t rtc_from_regs(const struct rtc *r, unsigned *ret_weekday)
{
	struct tm tm = {
		.tm_sec = (int)rtc_decode(r, r->cmos[REG_SEC]),
		.tm_min = (int)rtc_decode(r, r->cmos[REG_MIN]),
		.tm_hour = (int)rtc_decode_hour(r, r->cmos[REG_HOUR]),
		.tm_mday = (int)rtc_decode(r, r->cmos[REG_DAY]),
		.tm_mon = (int)rtc_decode(r, r->cmos[REG_MONTH]) - 1,
		.tm_year = (int)(rtc_decode(r, r->cmos[REG_YEAR]) +
				 rtc_decode(r, r->cmos[RTC_CENTURY]) * 100) -
			   1900,
	};
	time_t t = timegm(&tm);
	/* In nanoseconds the calendar ends in 2554. */
	const time_t last = (time_t)(UINT64_MAX / NS_PER_SEC) - DAY_SECONDS;

	*ret_weekday = (unsigned)tm.tm_wday % 7;
	return t < 0 ? 0 : (uint64_t)MIN(t, last);
}

/* The guest wrote the calendar: the clock goes on from there, `frac_ns` into the second. */
static void rtc_adopt(struct rtc *r, uint64_t frac_ns)
{
	unsigned weekday;
	uint64_t s = rtc_from_regs(r, &weekday);

	r->offset_ns = s * NS_PER_SEC + frac_ns - clock_wall_ns();
	r->weekday_skew =
		(uint8_t)((rtc_decode(r, r->cmos[REG_WEEKDAY]) % 7 + 6 + 7 - weekday) % 7);
	r->seen_s = s;
}

/* Flags. */

/* Seconds from `from` to the first second that the alarm matches; DAY_SECONDS: none. */
static unsigned rtc_alarm_in(const struct rtc *r, uint64_t from)
{
	const uint8_t *m = r->cmos;
	bool any_h = m[REG_HOUR_ALARM] >= ALARM_ANY, any_m = m[REG_MIN_ALARM] >= ALARM_ANY;
	bool any_s = m[REG_SEC_ALARM] >= ALARM_ANY;
	unsigned hour = rtc_decode_hour(r, m[REG_HOUR_ALARM]);
	unsigned min = rtc_decode(r, m[REG_MIN_ALARM]), sec = rtc_decode(r, m[REG_SEC_ALARM]);
	unsigned start = (unsigned)(from % DAY_SECONDS), in = 0;

	if ((!any_h && hour > 23) || (!any_m && min > 59) || (!any_s && sec > 59))
		return DAY_SECONDS;
	/* Hours, minutes and seconds that do not match are passed over whole. */
	while (in < DAY_SECONDS) {
		unsigned at = (start + in) % DAY_SECONDS;

		if (!any_h && at / 3600 != hour)
			in += 3600 - at % 3600;
		else if (!any_m && at / 60 % 60 != min)
			in += 60 - at % 60;
		else if (!any_s && at % 60 != sec)
			in += (sec + 60 - at % 60) % 60;
		else
			return in;
	}
	return DAY_SECONDS;
}

static void rtc_line(struct rtc *r)
{
	uint8_t *c = &r->cmos[REG_C];

	if (*c & r->cmos[REG_B] & (C_PF | C_AF | C_UF))
		*c |= C_IRQ;
	else
		*c &= (uint8_t)~C_IRQ;
	irq_line_set(&r->irq, *c & C_IRQ && !r->unrouted);
}

static uint64_t rtc_period_ns(const struct rtc *r)
{
	return pc_muldiv(rtc_period(r), NS_PER_SEC, CRYSTAL_HZ);
}

/* The periodic flag. */
static void rtc_look_periods(struct rtc *r)
{
	uint64_t ticks = rtc_ticks(r), period = rtc_period(r);
	uint64_t due = period ? ticks / period - r->seen_ticks / period : 0;
	enum irq_edge how = IRQ_EDGE_TAKEN;

	r->seen_ticks = ticks;
	if (!due && !(r->owed && !(r->cmos[REG_C] & C_PF)))
		return;
	/* Polled, there is nothing to catch up with. */
	if (!(r->cmos[REG_B] & B_PIE) || r->unrouted || irq_line_edge(&r->irq) == IRQ_EDGE_UNHEARD)
		how = IRQ_EDGE_UNHEARD;
	else if (r->cmos[REG_C] & C_PF)
		how = IRQ_EDGE_MERGED;
	if (pc_tick(&r->owed, due, rtc_period_ns(r), how))
		r->cmos[REG_C] |= C_PF;
}

/* What happened since the last look. */
static void rtc_look(struct rtc *r)
{
	uint64_t now_s = rtc_now_ns(r) / NS_PER_SEC;
	uint8_t *c = &r->cmos[REG_C];

	rtc_look_periods(r);
	if (!rtc_frozen(r) && now_s > r->seen_s) {
		unsigned in = rtc_alarm_in(r, r->seen_s + 1);

		*c |= C_UF;
		if (in < DAY_SECONDS && in < now_s - r->seen_s)
			*c |= C_AF;
	}
	r->seen_s = now_s;
	rtc_line(r);
}

/* The next moment at which an enabled flag that is down comes up. */
static void rtc_arm(struct rtc *r)
{
	uint8_t want = r->cmos[REG_B] & (uint8_t)~r->cmos[REG_C];
	uint64_t at = LOOP_NEVER, period = rtc_period(r), now_ns = rtc_now_ns(r);
	uint64_t next_s = now_ns / NS_PER_SEC + 1, to_next = next_s * NS_PER_SEC - now_ns;

	if (!r->clock.running) {
		loop_alarm_set(&r->alarm, LOOP_NEVER);
		return;
	}
	if (want & B_PIE && period) {
		uint64_t tick = (rtc_ticks(r) / period + 1) * period;

		at = pc_clock_host(&r->clock, pc_muldiv_up(tick, NS_PER_SEC, CRYSTAL_HZ));
	}
	if (want & B_UIE && !rtc_frozen(r))
		at = MIN(at, clock_ns() + to_next);
	if (want & B_AIE && !rtc_frozen(r)) {
		unsigned in = rtc_alarm_in(r, next_s);

		if (in < DAY_SECONDS)
			at = MIN(at, clock_ns() + to_next + in * NS_PER_SEC);
	}
	loop_alarm_set(&r->alarm, at);
}

static void rtc_alarm(struct loop_alarm *a)
{
	struct rtc *r = container_of(a, struct rtc, alarm);

	SCOPED_LOCK(&r->dev.lock);
	if (!r->clock.running)
		return;
	rtc_look(r);
	rtc_arm(r);
}

/* Registers. */

/* Registers A and B decide whether the calendar runs: take it out of or into the registers. */
static void rtc_set_ab(struct rtc *r, unsigned reg, uint8_t v)
{
	bool was_frozen = rtc_frozen(r);
	bool was_reset = (r->cmos[REG_A] & A_DIVIDER) >= A_DIVIDER_RESET;
	uint64_t now_ns = rtc_now_ns(r);

	if (!was_frozen)
		rtc_to_regs(r, now_ns / NS_PER_SEC);
	if (reg == REG_A ? (v ^ r->cmos[REG_A]) & (A_DIVIDER | A_RATE)
			 : (v ^ r->cmos[REG_B]) & B_PIE)
		r->owed = 0;
	/* A format change re-reads nothing: the registers keep their bytes until the next update.
	 */
	r->cmos[reg] = reg == REG_A ? v & (uint8_t)~A_UIP : v;
	if (r->cmos[REG_B] & B_SET)
		r->cmos[REG_B] &= (uint8_t)~B_UIE;
	if (was_frozen && !rtc_frozen(r))
		/* The first update comes half a second after the divider is let go. */
		rtc_adopt(r, was_reset ? NS_PER_SEC / 2 : now_ns % NS_PER_SEC);
}

static bool rtc_is_calendar(unsigned reg)
{
	return reg == REG_SEC || reg == REG_MIN || reg == REG_HOUR ||
	       (reg >= REG_WEEKDAY && reg <= REG_YEAR) || reg == RTC_CENTURY;
}

static void rtc_write_cmos(struct rtc *r, unsigned reg, uint8_t v)
{
	uint64_t now_ns;

	rtc_look(r);
	if (reg == REG_A || reg == REG_B) {
		rtc_set_ab(r, reg, v);
	} else if (rtc_is_calendar(reg) && !rtc_frozen(r)) {
		now_ns = rtc_now_ns(r);
		rtc_to_regs(r, now_ns / NS_PER_SEC);
		r->cmos[reg] = v;
		rtc_adopt(r, now_ns % NS_PER_SEC);
	} else if (reg != REG_C && reg != REG_D) {
		r->cmos[reg] = v;
	}
	rtc_line(r);
	rtc_arm(r);
}

static uint8_t rtc_read_cmos(struct rtc *r, unsigned reg)
{
	uint64_t now_ns = rtc_now_ns(r);
	uint8_t v;

	if (rtc_is_calendar(reg) && !rtc_frozen(r))
		rtc_to_regs(r, now_ns / NS_PER_SEC);
	switch (reg) {
	case REG_A:
		v = r->cmos[REG_A];
		if (!rtc_frozen(r) && now_ns % NS_PER_SEC >= NS_PER_SEC - UIP_NS)
			v |= A_UIP;
		return v;
	case REG_C:
		rtc_look(r);
		v = r->cmos[REG_C];
		/* Reading it is the acknowledgement. */
		r->cmos[REG_C] = 0;
		rtc_line(r);
		/* Another period's flag may have waited for this. */
		rtc_look(r);
		rtc_arm(r);
		return v;
	case REG_D:
		return D_VALID;
	default:
		return r->cmos[reg];
	}
}

static uint64_t rtc_read(struct bus_range *b, uint64_t off, unsigned size)
{
	struct rtc *r = container_of(b, struct rtc, at);

	switch (off) {
	case 1:
		return rtc_read_cmos(r, r->index & 0x7f);
	case 2:
		return r->index2;
	case 3:
		return r->cmos[CMOS_BANK + r->index2];
	default:
		return 0xff;
	}
}

static void rtc_write(struct bus_range *b, uint64_t off, unsigned size, uint64_t v)
{
	struct rtc *r = container_of(b, struct rtc, at);

	switch (off) {
	case 0:
		r->index = (uint8_t)v;
		break;
	case 1:
		rtc_write_cmos(r, r->index & 0x7f, (uint8_t)v);
		break;
	case 2:
		r->index2 = v & 0x7f;
		break;
	default:
		r->cmos[CMOS_BANK + r->index2] = (uint8_t)v;
		break;
	}
}

static const struct bus_ops rtc_bus = {
	.read = rtc_read,
	.write = rtc_write,
	.max_size = 1,
};

void rtc_route(struct dev *d, bool on)
{
	struct rtc *r = rtc_of(d);

	SCOPED_LOCK(&d->lock);
	r->unrouted = !on;
	rtc_line(r);
}

bool rtc_nmi_masked(struct dev *d)
{
	SCOPED_LOCK(&d->lock);
	return rtc_of(d)->index & NMI_MASK;
}

/* What firmware finds: memory sizes and the number of CPUs. */
static void rtc_fill(struct rtc *r)
{
	uint8_t *m = r->cmos;
	uint64_t ext = r->opts.ram_low > MIB(1) ? r->opts.ram_low - MIB(1) : 0;
	uint64_t above16 = r->opts.ram_low > MIB(16) ? r->opts.ram_low - MIB(16) : 0;
	uint16_t ext_k = (uint16_t)MIN(ext / KIB(1), 0xffffull);
	uint16_t blocks = (uint16_t)MIN(above16 / KIB(64), 0xffffull);
	uint32_t high = (uint32_t)MIN(r->opts.ram_high / KIB(64), 0xffffffull);

	memset(m, 0, CMOS_SIZE);
	/* Base memory, in KiB. */
	m[0x15] = 640 & 0xff;
	m[0x16] = 640 >> 8;
	m[0x17] = m[0x30] = (uint8_t)ext_k;
	m[0x18] = m[0x31] = (uint8_t)(ext_k >> 8);
	m[0x34] = (uint8_t)blocks;
	m[0x35] = (uint8_t)(blocks >> 8);
	m[0x5b] = (uint8_t)high;
	m[0x5c] = (uint8_t)(high >> 8);
	m[0x5d] = (uint8_t)(high >> 16);
	m[0x5f] = (uint8_t)MIN(r->opts.ncpus - 1, 255u);
	/* A maths coprocessor and a PS/2 mouse. */
	m[0x14] = 0x06;
	/* 1024 Hz, not enabled; 24 hours, BCD. */
	m[REG_A] = A_DIVIDER_ON | 6;
	m[REG_B] = B_24H;
}

/* Saved state. */

static const struct state_field rtc_fields[] = {
	STATE_FIELD(struct rtc, unrouted, 1),         STATE_FIELD(struct rtc, index, 1),
	STATE_FIELD(struct rtc, index2, 1),           STATE_ARRAY(struct rtc, cmos, 1),
	STATE_FIELD(struct rtc, offset_ns, 1),        STATE_FIELD(struct rtc, weekday_skew, 1),
	STATE_FIELD(struct rtc, seen_s, 1),           STATE_FIELD(struct rtc, seen_ticks, 1),
	STATE_FIELD(struct rtc, clock.stopped_ns, 1), STATE_FIELD(struct rtc, owed, 2),
};

static int rtc_check(const void *obj, struct err *e)
{
	const struct rtc *r = obj;

	if (pc_clock_check(r->clock.stopped_ns, e) < 0 || pc_owed_check(r->owed, e) < 0)
		return -e->code;
	if (r->index2 >= CMOS_BANK || r->weekday_skew > 6)
		return err_set(e, EPROTO, "index or weekday out of range");
	return 0;
}

static const struct state_desc rtc_state = {
	.name = "rtc",
	.version = 2,
	.oldest = 1,
	.field = rtc_fields,
	.nfield = COUNT_OF(rtc_fields),
	.check = rtc_check,
};

/* Life cycle. */

static void *rtc_state_obj(struct dev *d)
{
	return rtc_of(d);
}

static void rtc_pre_save(struct dev *d)
{
	struct rtc *r = rtc_of(d);

	SCOPED_LOCK(&d->lock);
	rtc_look(r);
	pc_clock_save(&r->clock);
}

static int rtc_post_load(struct dev *d, struct err *e)
{
	struct rtc *r = rtc_of(d);

	SCOPED_LOCK(&d->lock);
	pc_clock_loaded(&r->clock);
	rtc_line(r);
	rtc_arm(r);
	return 0;
}

/* The battery: memory and calendar stay over a reset (data sheet, RESET pin). */
static void rtc_reset(struct dev *d)
{
	struct rtc *r = rtc_of(d);

	SCOPED_LOCK(&d->lock);
	r->cmos[REG_B] &= (uint8_t) ~(B_PIE | B_AIE | B_UIE);
	r->cmos[REG_C] = 0;
	r->index = r->index2 = 0;
	r->unrouted = 0;
	r->owed = 0;
	rtc_line(r);
	rtc_arm(r);
}

static void rtc_stop(struct dev *d)
{
	struct rtc *r = rtc_of(d);

	SCOPED_LOCK(&d->lock);
	pc_clock_stop(&r->clock);
	rtc_arm(r);
}

static void rtc_start(struct dev *d)
{
	struct rtc *r = rtc_of(d);

	SCOPED_LOCK(&d->lock);
	pc_clock_start(&r->clock);
	rtc_look(r);
	rtc_arm(r);
}

static void rtc_free(struct dev *d)
{
	struct rtc *r = rtc_of(d);

	bus_del(r->board->pio, &r->at);
	loop_alarm_fini(&r->alarm);
	irq_line_set(&r->irq, false);
	free(r);
}

static const struct dev_ops rtc_ops = {
	.type = "rtc",
	.free = rtc_free,
	.reset = rtc_reset,
	.state = &rtc_state,
	.state_obj = rtc_state_obj,
	.state_size = sizeof(struct rtc),
	.pre_save = rtc_pre_save,
	.post_load = rtc_post_load,
	.stop = rtc_stop,
	.start = rtc_start,
};

static uint64_t rtc_local_offset_ns(void)
{
	time_t t = (time_t)(clock_wall_ns() / NS_PER_SEC);
	struct tm tm;

	return localtime_r(&t, &tm) ? (uint64_t)tm.tm_gmtoff * NS_PER_SEC : 0;
}

int rtc_new(struct board *b, const struct rtc_opts *o, struct dev **ret, struct err *e)
{
	struct rtc *r = NEW(struct rtc);

	if (!r)
		return err_set(e, ENOMEM, "no memory for a clock");
	dev_init(&r->dev, &rtc_ops, b, "rtc");
	r->board = b;
	r->opts = *o;
	r->irq = (struct irq_line){ .irqs = b->irqs, .gsi = IRQ_GSI_RTC };
	loop_alarm_init(b->loop, &r->alarm, rtc_alarm);
	rtc_fill(r);
	r->offset_ns = o->local ? rtc_local_offset_ns() : 0;
	r->seen_s = rtc_now_ns(r) / NS_PER_SEC;
	rtc_reset(&r->dev);
	r->at = (struct bus_range){ &rtc_bus, "rtc", &r->dev.lock };
	if (bus_add(b->pio, &r->at, RTC_PORT, 4) < 0) {
		dev_free(&r->dev);
		return err_set(e, EBUSY, "ports of the clock are taken");
	}
	*ret = &r->dev;
	return 0;
}
