/*
 * Two 8259A interrupt controllers as a PC has them (Intel 8259A data sheet, order 231468): the
 * slave's output is the master's input 2, and ELCR (ports 0x4d0, 0x4d1) makes inputs
 * level-triggered, as in the PIIX and ICH south bridges.
 *
 * Commands.  A byte to the even port with bit 4 set is ICW1 and starts the initialisation: ICW2
 * (vector base), ICW3 (cascade, fixed on a PC and only stepped over) and ICW4 follow at the odd
 * port.  Otherwise bit 3 tells OCW3 from OCW2 on the even port, and the odd port is the mask, OCW1.
 *
 * An edge is remembered until it is acknowledged, even when the input falls again before; the data
 * sheet wants the input to stay up, but devices that pulse their line would lose interrupts.
 * ICW1's LTIM bit is not looked at, as in every chipset with ELCR.
 */
#include "irq/irq_int.h"

#include "base/bits.h"

#include <errno.h>

enum {
	ICW1 = 1 << 4,
	ICW1_SINGLE = 1 << 1,
	ICW1_ICW4 = 1 << 0,
	ICW4_AUTO_EOI = 1 << 1,
	ICW4_NESTED = 1 << 4,
	OCW3 = 1 << 3,
	OCW3_SMM_SET = 1 << 6,
	OCW3_SMM = 1 << 5,
	OCW3_POLL = 1 << 2,
	OCW3_READ_SET = 1 << 1,
	OCW3_READ_ISR = 1 << 0,
	/* Inputs that cannot be level-triggered: 0, 1, 2 and 8, 13. */
	ELCR_MASTER = 0xf8,
	ELCR_SLAVE = 0xde,
};

/* Power-on; the inputs keep their level and ELCR its value only in ICW1. */
void pic_reset(struct pic_pair *p)
{
	for (unsigned i = 0; i < 2; i++) {
		uint8_t last = p->chip[i].last;

		p->chip[i] = (struct pic){ .last = last };
	}
}

/* Priority of the highest bit in mask: 0 for input `top`, up to 7; 8: none. */
static unsigned pic_priority(const struct pic *c, uint8_t mask)
{
	for (unsigned i = 0; i < 8; i++)
		if (mask >> ((c->top + i) & 7) & 1)
			return i;
	return 8;
}

/* The input that would be acknowledged now, or -1. */
static int pic_pending(const struct pic *c, bool master)
{
	uint8_t in_service = c->isr;
	unsigned want = pic_priority(c, c->irr & (uint8_t)~c->imr);

	/* Special mask mode: masked inputs in service hold back nothing. */
	if (c->special_mask)
		in_service &= (uint8_t)~c->imr;
	/* Special fully nested mode: the slave may interrupt itself through the master. */
	if (c->nested && master)
		in_service &= (uint8_t)~BIT(PIC_CASCADE);
	if (want == 8 || want >= pic_priority(c, in_service))
		return -1;
	return (int)((c->top + want) & 7);
}

static void pic_input(struct pic *c, unsigned n, bool level)
{
	uint8_t bit = (uint8_t)BIT(n);

	if (c->elcr & bit) {
		c->irr = level ? c->irr | bit : c->irr & (uint8_t)~bit;
	} else if (level && !(c->last & bit)) {
		c->irr |= bit;
	}
	c->last = level ? c->last | bit : c->last & (uint8_t)~bit;
}

/*
 * The slave's output reaches the master.  As a level: an INTA cycle drops and raises the output of
 * a slave that has more to say, and the master must not miss that edge.
 */
static void pic_cascade(struct pic_pair *p)
{
	uint8_t bit = BIT(PIC_CASCADE);
	struct pic *m = &p->chip[0];

	if (pic_pending(&p->chip[1], false) >= 0)
		m->irr |= bit;
	else
		m->irr &= (uint8_t)~bit;
}

void pic_line(struct pic_pair *p, unsigned n, bool level)
{
	if (n == PIC_CASCADE)
		return;
	pic_input(&p->chip[n / 8], n % 8, level);
	pic_cascade(p);
}

enum irq_edge pic_edge(const struct pic_pair *p, unsigned n)
{
	const struct pic *c = &p->chip[n / 8];

	if (c->imr & BIT(n % 8) || (n >= 8 && p->chip[0].imr & BIT(PIC_CASCADE)))
		return IRQ_EDGE_UNHEARD;
	return c->irr & BIT(n % 8) ? IRQ_EDGE_MERGED : IRQ_EDGE_TAKEN;
}

bool pic_intr(const struct pic_pair *p)
{
	return pic_pending(&p->chip[0], true) >= 0;
}

/* An input goes into service. */
static void pic_ack(struct pic *c, unsigned n)
{
	if (!c->auto_eoi)
		c->isr |= (uint8_t)BIT(n);
	else if (c->rotate_auto)
		c->top = (n + 1) & 7;
	if (!(c->elcr & BIT(n)))
		c->irr &= (uint8_t)~BIT(n);
}

/* The second INTA pulse's vector; with nothing there, input 7's and no bit in ISR. */
static uint8_t pic_ack_chip(struct pic *c, bool master, int *ret_n)
{
	*ret_n = pic_pending(c, master);
	if (*ret_n >= 0)
		pic_ack(c, (unsigned)*ret_n);
	return (uint8_t)(c->base + (*ret_n < 0 ? 7 : *ret_n));
}

uint8_t pic_inta(struct pic_pair *p)
{
	int n;
	uint8_t v = pic_ack_chip(&p->chip[0], true, &n);

	if (n == PIC_CASCADE)
		v = pic_ack_chip(&p->chip[1], false, &n);
	pic_cascade(p);
	return v;
}

/* Registers. */

static void pic_icw1(struct pic *c, uint8_t v)
{
	*c = (struct pic){
		.last = c->last,
		.base = c->base,
		.elcr = c->elcr,
		/* Level inputs that are up still ask. */
		.irr = c->irr & c->elcr,
		.icw_next = 1,
		.icw4_wanted = v & ICW1_ICW4,
		.single = !!(v & ICW1_SINGLE),
	};
}

static void pic_ocw3(struct pic *c, uint8_t v)
{
	if (v & OCW3_SMM_SET)
		c->special_mask = !!(v & OCW3_SMM);
	if (v & OCW3_POLL)
		c->poll = 1;
	else if (v & OCW3_READ_SET)
		c->read_isr = v & OCW3_READ_ISR;
}

static void pic_ocw2(struct pic *c, uint8_t v)
{
	unsigned level = v & 7, prio = pic_priority(c, c->isr);
	unsigned highest = (c->top + prio) & 7;

	/* R, SL, EOI. */
	switch (v >> 5) {
	case 0:
		c->rotate_auto = 0;
		break;
	case 4:
		c->rotate_auto = 1;
		break;
	case 1:
	case 5:
		/* In special mask mode a masked input in service is not ended this way. */
		if (c->special_mask) {
			prio = pic_priority(c, c->isr & (uint8_t)~c->imr);
			highest = (c->top + prio) & 7;
		}
		if (prio == 8)
			break;
		c->isr &= (uint8_t)~BIT(highest);
		if (v >> 5 == 5)
			c->top = (highest + 1) & 7;
		break;
	case 3:
		c->isr &= (uint8_t)~BIT(level);
		break;
	case 6:
		c->top = (level + 1) & 7;
		break;
	case 7:
		c->isr &= (uint8_t)~BIT(level);
		c->top = (level + 1) & 7;
		break;
	default:
		break;
	}
}

static void pic_icw(struct pic *c, uint8_t v)
{
	switch (c->icw_next) {
	case 1:
		c->base = v & 0xf8;
		c->icw_next = c->single ? (c->icw4_wanted ? 3 : 0) : 2;
		break;
	case 2:
		c->icw_next = c->icw4_wanted ? 3 : 0;
		break;
	default:
		c->auto_eoi = !!(v & ICW4_AUTO_EOI);
		c->nested = !!(v & ICW4_NESTED);
		c->icw_next = 0;
		break;
	}
}

void pic_write(struct pic_pair *p, unsigned which, unsigned a0, uint8_t v)
{
	struct pic *c = &p->chip[which];

	if (a0 && c->icw_next)
		pic_icw(c, v);
	else if (a0)
		c->imr = v;
	else if (v & ICW1)
		pic_icw1(c, v);
	else if (v & OCW3)
		pic_ocw3(c, v);
	else
		pic_ocw2(c, v);
	pic_cascade(p);
}

/* A poll: the read is the acknowledge cycle. */
static uint8_t pic_poll(struct pic_pair *p, unsigned which)
{
	struct pic *c = &p->chip[which];
	int n = pic_pending(c, !which);

	c->poll = 0;
	if (n < 0)
		return 0;
	pic_ack(c, (unsigned)n);
	pic_cascade(p);
	return (uint8_t)(0x80 | n);
}

uint8_t pic_read(struct pic_pair *p, unsigned which, unsigned a0)
{
	const struct pic *c = &p->chip[which];

	if (c->poll)
		return pic_poll(p, which);
	if (a0)
		return c->imr;
	return c->read_isr ? c->isr : c->irr;
}

uint8_t pic_elcr_read(const struct pic_pair *p, unsigned which)
{
	return p->chip[which].elcr;
}

void pic_elcr_write(struct pic_pair *p, unsigned which, uint8_t v)
{
	struct pic *c = &p->chip[which];

	c->elcr = v & (which ? ELCR_SLAVE : ELCR_MASTER);
	/* What is level-triggered now asks while its input is up. */
	c->irr = (c->irr & (uint8_t)~c->elcr) | (c->last & c->elcr);
	pic_cascade(p);
}

/* Saved state. */

static const struct state_field pic_fields[] = {
	STATE_FIELD(struct pic, irr, 1),          STATE_FIELD(struct pic, last, 1),
	STATE_FIELD(struct pic, imr, 1),          STATE_FIELD(struct pic, isr, 1),
	STATE_FIELD(struct pic, base, 1),         STATE_FIELD(struct pic, top, 1),
	STATE_FIELD(struct pic, elcr, 1),         STATE_FIELD(struct pic, icw_next, 1),
	STATE_FIELD(struct pic, icw4_wanted, 1),  STATE_FIELD(struct pic, single, 1),
	STATE_FIELD(struct pic, read_isr, 1),     STATE_FIELD(struct pic, poll, 1),
	STATE_FIELD(struct pic, special_mask, 1), STATE_FIELD(struct pic, auto_eoi, 1),
	STATE_FIELD(struct pic, nested, 1),       STATE_FIELD(struct pic, rotate_auto, 1),
};

static const struct state_desc pic_state = {
	.name = "pic",
	.version = 1,
	.oldest = 1,
	.field = pic_fields,
	.nfield = COUNT_OF(pic_fields),
};

static int pic_pair_check(const void *obj, struct err *e)
{
	const struct pic_pair *p = obj;

	for (unsigned i = 0; i < 2; i++)
		if (p->chip[i].top > 7 || p->chip[i].icw_next > 3)
			return err_set(e, EPROTO, "8259 %u: no such priority or ICW", i);
	return 0;
}

static const struct state_field pic_pair_fields[] = {
	STATE_STRUCT_ARRAY(struct pic_pair, chip, &pic_state, 1),
};

const struct state_desc pic_pair_state = {
	.name = "pics",
	.version = 1,
	.oldest = 1,
	.field = pic_pair_fields,
	.nfield = COUNT_OF(pic_pair_fields),
	.check = pic_pair_check,
};
