/*
 * ACPI's fixed hardware (ACPI 6.4, 4.8): PM1 event and control registers, the power management
 *timer of 3.579545 MHz, a block of general purpose events, and the SCI that they raise.
 *
 *	+0x00	PM1_STS	16 bits, a written 1 clears	+0x20	GPE0_STS 16 bits
 *	+0x02	PM1_EN	16 bits				+0x22	GPE0_EN	 16 bits
 *	+0x04	PM1_CNT	16 bits
 *	+0x08	PM_TMR	32 bits, counts up
 *
 * The machine is always in ACPI mode (there is no SMI), so SCI_EN reads 1.  The timer stands still
 * while the VM is stopped: `ticks` is its value then, base_ns the host time at which it was 0 else.
 * TMR_STS is set each time its top bit changes, every 600 s; an alarm is set only when the guest
 * wants that as an interrupt.
 *
 * Locks: dev.lock guards all; the alarm comes on the main loop.
 */
#include "dev/acpi/acpi.h"

#include "base/alloc.h"
#include "base/bits.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/num.h"

#include <errno.h>
#include <stdlib.h>

enum {
	REG_STS = 0x00,
	REG_EN = 0x02,
	REG_CNT = 0x04,
	REG_TMR = 0x08,
	REG_GPE_STS = 0x20,
	REG_GPE_EN = 0x22,
	/* PM1_STS and PM1_EN */
	PM1_TMR = 1 << 0,
	PM1_GBL = 1 << 5,
	PM1_PWRBTN = 1 << 8,
	PM1_RTC = 1 << 10,
	PM1_WAK = 1 << 15,
	PM1_EN_BITS = PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_RTC,
	/* PM1_CNT */
	CNT_SCI_EN = 1 << 0,
	CNT_BM_RLD = 1 << 1,
	CNT_SLP_TYP_SHIFT = 10,
	CNT_SLP_EN = 1 << 13,
	CNT_KEEP = CNT_BM_RLD | 7 << CNT_SLP_TYP_SHIFT,
	SLP_TYP_S5 = 5,
	TMR_HZ = 3579545,
	TMR_TOP_BIT = 31,
};

struct acpi_pm {
	struct dev dev;
	struct board *board;
	struct bus_range ports;
	struct irq_line sci;
	struct loop_alarm alarm;
	bool running;
	uint64_t base_ns;
	/* Saved. */
	uint16_t sts, en, cnt, gpe_sts, gpe_en;
	uint64_t ticks;
	/* Top part of the timer that TMR_STS knows of. */
	uint64_t seen;
};

static struct acpi_pm *pm_of(struct dev *d)
{
	return container_of(d, struct acpi_pm, dev);
}

/* The timer; dev.lock held. */

static uint64_t pm_ticks(const struct acpi_pm *p)
{
	if (!p->running)
		return p->ticks;
	return (uint64_t)((unsigned __int128)(clock_ns() - p->base_ns) * TMR_HZ / NS_PER_SEC);
}

static uint64_t pm_ns(uint64_t ticks)
{
	return (uint64_t)(((unsigned __int128)ticks * NS_PER_SEC + TMR_HZ - 1) / TMR_HZ);
}

/* Brings TMR_STS, the SCI and the alarm up to date. */
static void pm_update(struct acpi_pm *p)
{
	uint64_t now = pm_ticks(p) >> TMR_TOP_BIT;

	if (now != p->seen)
		p->sts |= PM1_TMR;
	p->seen = now;
	irq_line_set(&p->sci, (p->sts & p->en & PM1_EN_BITS) || (p->gpe_sts & p->gpe_en));
	bool timed = p->running && (p->en & PM1_TMR) && !(p->sts & PM1_TMR);
	loop_alarm_set(&p->alarm,
		       timed ? p->base_ns + pm_ns((now + 1) << TMR_TOP_BIT) : LOOP_NEVER);
}

static void pm_alarm(struct loop_alarm *a)
{
	struct acpi_pm *p = container_of(a, struct acpi_pm, alarm);

	SCOPED_LOCK(&p->dev.lock);
	pm_update(p);
}

/* Registers. */

static uint64_t pm_read(struct bus_range *r, uint64_t off, unsigned size)
{
	struct acpi_pm *p = container_of(r, struct acpi_pm, ports);
	uint8_t b[ACPI_PM_PORTS + 8] = { 0 };

	pm_update(p);
	st_le16(b + REG_STS, p->sts);
	st_le16(b + REG_EN, p->en);
	st_le16(b + REG_CNT, p->cnt | CNT_SCI_EN);
	st_le32(b + REG_TMR, (uint32_t)pm_ticks(p));
	st_le16(b + REG_GPE_STS, p->gpe_sts);
	st_le16(b + REG_GPE_EN, p->gpe_en);
	return ld_le(b + off, size);
}

static void pm_control(struct acpi_pm *p, uint16_t v)
{
	p->cnt = v & CNT_KEEP;
	if ((v & CNT_SLP_EN) && (v >> CNT_SLP_TYP_SHIFT & 7) == SLP_TYP_S5)
		p->board->request(p->board, BOARD_POWEROFF, 0);
}

/* One byte, so that accesses of any width work; hi: the upper half of a 16-bit register. */
static void pm_write_byte(struct acpi_pm *p, uint64_t off, uint8_t v)
{
	unsigned shift = 8 * (off & 1);
	uint16_t bits = (uint16_t)(v << shift), keep = (uint16_t) ~(0xff << shift);

	switch (off & ~1ull) {
	case REG_STS:
		p->sts &= (uint16_t)~bits;
		break;
	case REG_EN:
		p->en = ((p->en & keep) | bits) & PM1_EN_BITS;
		break;
	case REG_CNT:
		pm_control(p, (p->cnt & keep) | bits);
		break;
	case REG_GPE_STS:
		p->gpe_sts &= (uint16_t)~bits;
		break;
	case REG_GPE_EN:
		p->gpe_en = (p->gpe_en & keep) | bits;
		break;
	}
}

static void pm_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	struct acpi_pm *p = container_of(r, struct acpi_pm, ports);

	/* What was missed is in the status before it is cleared. */
	pm_update(p);
	for (unsigned i = 0; i < size; i++)
		pm_write_byte(p, off + i, (uint8_t)(v >> (8 * i)));
	pm_update(p);
}

static const struct bus_ops pm_bus_ops = {
	.read = pm_read,
	.write = pm_write,
	.max_size = 4,
};

bool acpi_power_button(struct acpi_pm *p)
{
	SCOPED_LOCK(&p->dev.lock);
	p->sts |= PM1_PWRBTN;
	pm_update(p);
	return p->en & PM1_PWRBTN;
}

void acpi_gpe(struct acpi_pm *p, unsigned n)
{
	SCOPED_LOCK(&p->dev.lock);
	p->gpe_sts |= (uint16_t)BIT(n & 15);
	pm_update(p);
}

/* Life. */

static void pm_stop(struct dev *d)
{
	struct acpi_pm *p = pm_of(d);

	SCOPED_LOCK(&d->lock);
	p->ticks = pm_ticks(p);
	p->running = false;
	pm_update(p);
}

static void pm_start(struct dev *d)
{
	struct acpi_pm *p = pm_of(d);

	SCOPED_LOCK(&d->lock);
	p->base_ns = clock_ns() - pm_ns(p->ticks);
	p->running = true;
	pm_update(p);
}

static void pm_reset(struct dev *d)
{
	struct acpi_pm *p = pm_of(d);

	SCOPED_LOCK(&d->lock);
	p->sts = p->en = p->cnt = p->gpe_sts = p->gpe_en = 0;
	pm_update(p);
}

static int pm_post_load(struct dev *d, struct err *e UNUSED)
{
	struct acpi_pm *p = pm_of(d);

	SCOPED_LOCK(&d->lock);
	pm_update(p);
	return 0;
}

/* The main thread owns its alarms. */
static void pm_unwatch(void *arg)
{
	loop_alarm_fini(arg);
}

static void pm_free(struct dev *d)
{
	struct acpi_pm *p = pm_of(d);

	bus_del(p->board->pio, &p->ports);
	irq_line_set(&p->sci, false);
	loop_call(p->board->loop, pm_unwatch, &p->alarm);
	free(p);
}

static void *pm_state_obj(struct dev *d)
{
	return pm_of(d);
}

static int pm_check(const void *obj, struct err *e)
{
	const struct acpi_pm *p = obj;

	/* 2^56 ticks are 600 years. */
	if (p->ticks >> 56 || (p->en & ~PM1_EN_BITS) || (p->cnt & ~CNT_KEEP))
		return err_set(e, EPROTO, "timer %#lx, enables %#x, control %#x",
			       (unsigned long)p->ticks, p->en, p->cnt);
	return 0;
}

static const struct state_field pm_fields[] = {
	STATE_FIELD(struct acpi_pm, sts, 1),    STATE_FIELD(struct acpi_pm, en, 1),
	STATE_FIELD(struct acpi_pm, cnt, 1),    STATE_FIELD(struct acpi_pm, gpe_sts, 1),
	STATE_FIELD(struct acpi_pm, gpe_en, 1), STATE_FIELD(struct acpi_pm, ticks, 1),
	STATE_FIELD(struct acpi_pm, seen, 1),
};

static const struct state_desc pm_state = {
	.name = "acpi-pm",
	.version = 1,
	.oldest = 1,
	.field = pm_fields,
	.nfield = COUNT_OF(pm_fields),
	.check = pm_check,
};

static const struct dev_ops pm_ops = {
	.type = "acpi-pm",
	.free = pm_free,
	.reset = pm_reset,
	.state = &pm_state,
	.state_obj = pm_state_obj,
	.state_size = sizeof(struct acpi_pm),
	.post_load = pm_post_load,
	.stop = pm_stop,
	.start = pm_start,
};

int acpi_pm_new(struct acpi_pm **ret, struct board *b, uint16_t pm_base, struct err *e)
{
	struct acpi_pm *p = NEW(struct acpi_pm);

	if (!p)
		return err_set(e, ENOMEM, "no memory for ACPI");
	p->board = b;
	p->ports.ops = &pm_bus_ops;
	p->ports.name = "acpi-pm";
	p->ports.lock = &p->dev.lock;
	p->sci = (struct irq_line){ .irqs = b->irqs, .gsi = IRQ_GSI_SCI };
	loop_alarm_init(b->loop, &p->alarm, pm_alarm);
	dev_init(&p->dev, &pm_ops, b, "acpi");
	if (bus_add(b->pio, &p->ports, pm_base, ACPI_PM_PORTS) < 0) {
		dev_free(&p->dev);
		return err_set(e, EEXIST, "ports %#x and up belong to another device", pm_base);
	}
	*ret = p;
	return 0;
}
