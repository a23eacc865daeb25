/*
 * The 8042 keyboard controller with a PS/2 keyboard and a wheel mouse (IBM PS/2 technical
 * reference, "Keyboard and auxiliary device controller"; the mouse's wheel by Microsoft's
 * IntelliMouse knock).
 *
 * Bytes for the guest come from three places, in this order: the controller's own answers, the
 * keyboard's queue, the mouse's queue.  One at a time stands in the output buffer (port 0x60, OBF),
 * with AUXOBF set for the mouse's; reading it lets the next one in.  GSI 1 and 12 follow the
 * buffer.
 *
 * The keyboard has scan code set 2, and the controller turns that into set 1 while bit 6 of its
 * command byte is set, which is how PCs run.  Keys are given as set 1 codes.  Sets 1 and 2 can be
 * chosen; set 3, which nothing uses, is refused with a resend.
 *
 * Keys and movement fill a queue up to 16 bytes, as in the devices; what does not fit is dropped
 * whole.  Answers to commands may go beyond that, so that none is lost to a key.  Gate A20 is kept
 * as a bit and gates nothing.
 */
#include "dev/pc/pc_int.h"

#include "base/alloc.h"
#include "base/bits.h"

#include <stdlib.h>
#include <string.h>

enum {
	DATA_PORT = 0x60,
	COMMAND_PORT = 0x64,
	GSI_MOUSE = 12,
	/* Status. */
	ST_OBF = 1 << 0,
	ST_SYSTEM = 1 << 2,
	ST_COMMAND = 1 << 3,
	ST_UNLOCKED = 1 << 4,
	ST_AUX = 1 << 5,
	/* Command byte. */
	CB_KBD_INT = 1 << 0,
	CB_AUX_INT = 1 << 1,
	CB_SYSTEM = 1 << 2,
	CB_KBD_OFF = 1 << 4,
	CB_AUX_OFF = 1 << 5,
	CB_TRANSLATE = 1 << 6,
	/* Output port. */
	OUT_NO_RESET = 1 << 0,
	OUT_A20 = 1 << 1,
	OUT_OBF = 1 << 4,
	OUT_AUX_OBF = 1 << 5,
	OUT_IDLE = 0xcf,
	/* Both devices' answers. */
	PS2_ACK = 0xfa,
	PS2_RESEND = 0xfe,
	PS2_SELF_TEST = 0xaa,
	RAM = 32,
	QUEUE = 64,
	QUEUE_EVENTS = 16,
};

struct queue {
	uint8_t data[QUEUE];
	uint8_t head, len;
};

struct keyboard {
	struct queue q;
	/* Command whose argument comes next; 0: none. */
	uint8_t pending;
	uint8_t scanning, set, leds, typematic;
	/* The last byte sent, for "resend". */
	uint8_t last;
};

struct mouse {
	struct queue q;
	uint8_t pending;
	uint8_t reporting, remote, wrap, scale2;
	uint8_t resolution, rate;
	/* 0 plain, 3 wheel, 4 wheel and five buttons. */
	uint8_t id;
	/* The last three sample rates: the knock. */
	uint8_t knock[3];
	uint8_t buttons, last;
	/* Movement not reported yet. */
	int32_t dx, dy, dz;
};

struct i8042 {
	struct dev dev;
	struct board *board;
	struct bus_range at_data, at_command;
	struct irq_line irq_kbd, irq_aux;
	/* Output buffer, and whether ST_OBF, ST_AUX stand. */
	uint8_t out, full, aux;
	/* What waits: controller's answer. */
	uint8_t answer, has_answer, answer_aux;
	/* Port 0x64's command whose argument comes by port 0x60; 0: none. */
	uint8_t pending;
	/* The last write was to port 0x64. */
	uint8_t was_command;
	uint8_t outport;
	/* [0] is the command byte. */
	uint8_t ram[RAM];
	struct keyboard kbd;
	struct mouse mouse;
};

static struct i8042 *i8042_of(struct dev *d)
{
	return container_of(d, struct i8042, dev);
}

/* Queues. */

static void q_put(struct queue *q, uint8_t b)
{
	if (q->len == QUEUE)
		return;
	q->data[(q->head + q->len) % QUEUE] = b;
	q->len++;
}

static uint8_t q_get(struct queue *q)
{
	uint8_t b = q->data[q->head];

	q->head = (q->head + 1) % QUEUE;
	q->len--;
	return b;
}

static void kbd_put(struct i8042 *c, uint8_t b)
{
	q_put(&c->kbd.q, b);
}

static void mouse_put(struct i8042 *c, uint8_t b)
{
	q_put(&c->mouse.q, b);
}

/* Scan codes. */

/* Set 2 code of the key with set 1 code i; 0: there is none.  The extended keys have the same. */
/* clang-format off */
static const uint8_t set1_to_set2[128] = {
	0x00, 0x76, 0x16, 0x1e, 0x26, 0x25, 0x2e, 0x36, 0x3d, 0x3e, 0x46, 0x45, 0x4e, 0x55, 0x66, 0x0d,
	0x15, 0x1d, 0x24, 0x2d, 0x2c, 0x35, 0x3c, 0x43, 0x44, 0x4d, 0x54, 0x5b, 0x5a, 0x14, 0x1c, 0x1b,
	0x23, 0x2b, 0x34, 0x33, 0x3b, 0x42, 0x4b, 0x4c, 0x52, 0x0e, 0x12, 0x5d, 0x1a, 0x22, 0x21, 0x2a,
	0x32, 0x31, 0x3a, 0x41, 0x49, 0x4a, 0x59, 0x7c, 0x11, 0x29, 0x58, 0x05, 0x06, 0x04, 0x0c, 0x03,
	0x0b, 0x83, 0x0a, 0x01, 0x09, 0x77, 0x7e, 0x6c, 0x75, 0x7d, 0x7b, 0x6b, 0x73, 0x74, 0x79, 0x69,
	0x72, 0x7a, 0x70, 0x71, 0x7f, 0x60, 0x61, 0x78, 0x07, 0x0f, 0x17, 0x1f, 0x27, 0x2f, 0x37, 0x3f,
	0x47, 0x4f, 0x56, 0x5e, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38, 0x40, 0x48, 0x50, 0x57, 0x6f,
	0x13, 0x19, 0x39, 0x51, 0x53, 0x5c, 0x5f, 0x62, 0x63, 0x64, 0x65, 0x67, 0x68, 0x6a, 0x6d, 0x6e,
};
/* clang-format on */

/* What the controller makes of a set 2 byte; the inverse of the table. */
static uint8_t translate(uint8_t code)
{
	if (code == 0x83)
		return 0x41;
	for (unsigned i = 1; i < COUNT_OF(set1_to_set2); i++)
		if (set1_to_set2[i] == code)
			return (uint8_t)i;
	/* Answers and prefixes pass. */
	return code;
}

/* The byte that the guest sees for the keyboard's next one; -1: it took part of a sequence. */
static int kbd_next(struct i8042 *c)
{
	bool up = false;
	uint8_t b = q_get(&c->kbd.q);

	if (!(c->ram[0] & CB_TRANSLATE))
		return b;
	/* Set 2 says 0xf0 before a key that goes up, set 1 sets bit 7. */
	if (b == 0xf0) {
		if (!c->kbd.q.len)
			return -1;
		up = true;
		b = q_get(&c->kbd.q);
	}
	return translate(b) | (up ? 0x80 : 0);
}

/* The output buffer. */

static void i8042_lines(struct i8042 *c)
{
	irq_line_set(&c->irq_kbd, c->full && !c->aux && c->ram[0] & CB_KBD_INT);
	irq_line_set(&c->irq_aux, c->full && c->aux && c->ram[0] & CB_AUX_INT);
}

static void i8042_fill(struct i8042 *c, uint8_t b, bool aux)
{
	c->out = b;
	c->full = 1;
	c->aux = aux;
}

/* Brings the next byte into the buffer when that is free. */
static void i8042_update(struct i8042 *c)
{
	if (!c->full && c->has_answer) {
		c->has_answer = 0;
		i8042_fill(c, c->answer, c->answer_aux);
	}
	while (!c->full && c->kbd.q.len && !(c->ram[0] & CB_KBD_OFF)) {
		int b = kbd_next(c);

		if (b >= 0)
			i8042_fill(c, (uint8_t)b, false);
	}
	if (!c->full && c->mouse.q.len && !(c->ram[0] & CB_AUX_OFF))
		i8042_fill(c, q_get(&c->mouse.q), true);
	i8042_lines(c);
}

static void i8042_answer(struct i8042 *c, uint8_t b, bool aux)
{
	c->answer = b;
	c->answer_aux = aux;
	c->has_answer = 1;
}

/* Keyboard. */

static void kbd_defaults(struct keyboard *k)
{
	k->scanning = 1;
	k->set = 2;
	k->leds = 0;
	k->typematic = 0x2b;
	k->pending = 0;
}

static void kbd_argument(struct i8042 *c, uint8_t v)
{
	struct keyboard *k = &c->kbd;
	uint8_t cmd = k->pending;

	k->pending = 0;
	switch (cmd) {
	case 0xed:
		k->leds = v & 7;
		kbd_put(c, PS2_ACK);
		break;
	case 0xf3:
		k->typematic = v & 0x7f;
		kbd_put(c, PS2_ACK);
		break;
	default:
		/* 0xf0: choose a set, or ask (0). */
		kbd_put(c, v <= 2 ? PS2_ACK : PS2_RESEND);
		if (!v)
			kbd_put(c, k->set);
		else if (v <= 2)
			k->set = v;
	}
}

static void kbd_command(struct i8042 *c, uint8_t v)
{
	struct keyboard *k = &c->kbd;

	switch (v) {
	case 0xed:
	case 0xf0:
	case 0xf3:
		k->pending = v;
		kbd_put(c, PS2_ACK);
		break;
	case 0xee:
		kbd_put(c, 0xee);
		break;
	case 0xf2:
		/* An MF2 keyboard. */
		kbd_put(c, PS2_ACK);
		kbd_put(c, 0xab);
		kbd_put(c, 0x83);
		break;
	case 0xf4:
		k->q.len = 0;
		k->scanning = 1;
		kbd_put(c, PS2_ACK);
		break;
	case 0xf5:
	case 0xf6:
		k->q.len = 0;
		kbd_defaults(k);
		k->scanning = v == 0xf6;
		kbd_put(c, PS2_ACK);
		break;
	case 0xf7 ... 0xfd:
		/* Which keys repeat: for set 3. */
		kbd_put(c, PS2_ACK);
		break;
	case 0xfe:
		kbd_put(c, k->last);
		break;
	case 0xff:
		k->q.len = 0;
		kbd_defaults(k);
		kbd_put(c, PS2_ACK);
		kbd_put(c, PS2_SELF_TEST);
		break;
	default:
		kbd_put(c, PS2_RESEND);
	}
}

static void kbd_write(struct i8042 *c, uint8_t v)
{
	/* A byte to the keyboard turns its clock on. */
	c->ram[0] &= (uint8_t)~CB_KBD_OFF;
	/* A command where an argument is due begins anew. */
	if (c->kbd.pending && v < 0xed)
		kbd_argument(c, v);
	else {
		c->kbd.pending = 0;
		kbd_command(c, v);
	}
}

/* Mouse. */

static void mouse_defaults(struct mouse *m)
{
	m->reporting = m->remote = m->wrap = m->scale2 = 0;
	m->resolution = 2;
	m->rate = 100;
	m->dx = m->dy = m->dz = 0;
	m->pending = 0;
}

static int32_t clamp(int32_t v, int32_t lo, int32_t hi)
{
	return v < lo ? lo : v > hi ? hi : v;
}

/* One packet from the movement gathered; what does not fit stays. */
static void mouse_packet(struct i8042 *c)
{
	struct mouse *m = &c->mouse;
	int32_t dx = clamp(m->dx, -255, 255), dy = clamp(m->dy, -255, 255);
	int32_t dz = clamp(m->dz, -8, 7);

	m->dx -= dx;
	m->dy -= dy;
	m->dz -= dz;
	/* The mouse's y grows upwards. */
	mouse_put(c,
		  (uint8_t)(8 | (m->buttons & 7) | (dx < 0 ? 1 << 4 : 0) | (-dy < 0 ? 1 << 5 : 0)));
	mouse_put(c, (uint8_t)dx);
	mouse_put(c, (uint8_t)-dy);
	if (m->id == 3)
		mouse_put(c, (uint8_t)dz);
	else if (m->id == 4)
		mouse_put(c, (uint8_t)((dz & 0xf) | (m->buttons & 0x18) << 1));
}

static void mouse_report(struct i8042 *c)
{
	struct mouse *m = &c->mouse;

	for (unsigned n = 0; n < 4; n++) {
		if (m->q.len + 4 > QUEUE_EVENTS)
			break;
		mouse_packet(c);
		if (!m->dx && !m->dy && !m->dz)
			return;
	}
	/* The guest does not keep up. */
	m->dx = m->dy = m->dz = 0;
}

/* Rates 200, 100, 80 make it a wheel mouse, 200, 200, 80 one with five buttons. */
static void mouse_knock(struct mouse *m, uint8_t rate)
{
	m->knock[0] = m->knock[1];
	m->knock[1] = m->knock[2];
	m->knock[2] = rate;
	if (m->knock[0] != 200 || rate != 80)
		return;
	if (m->knock[1] == 100)
		m->id = 3;
	else if (m->knock[1] == 200 && m->id == 3)
		m->id = 4;
}

static void mouse_argument(struct i8042 *c, uint8_t v)
{
	struct mouse *m = &c->mouse;

	if (m->pending == 0xe8) {
		m->resolution = v & 3;
	} else {
		m->rate = v;
		mouse_knock(m, v);
	}
	m->pending = 0;
	mouse_put(c, PS2_ACK);
}

static void mouse_status(struct i8042 *c)
{
	const struct mouse *m = &c->mouse;

	mouse_put(c, PS2_ACK);
	mouse_put(c, (uint8_t)((m->buttons & 1 ? 4 : 0) | (m->buttons & 2 ? 1 : 0) |
			       (m->buttons & 4 ? 2 : 0) | (m->scale2 ? 1 << 4 : 0) |
			       (m->reporting ? 1 << 5 : 0) | (m->remote ? 1 << 6 : 0)));
	mouse_put(c, m->resolution);
	mouse_put(c, m->rate);
}

static void mouse_command(struct i8042 *c, uint8_t v)
{
	struct mouse *m = &c->mouse;

	m->q.len = 0;
	switch (v) {
	case 0xe6:
	case 0xe7:
		m->scale2 = v == 0xe7;
		mouse_put(c, PS2_ACK);
		break;
	case 0xe8:
	case 0xf3:
		m->pending = v;
		mouse_put(c, PS2_ACK);
		break;
	case 0xe9:
		mouse_status(c);
		break;
	case 0xea:
	case 0xf0:
		m->remote = v == 0xf0;
		mouse_put(c, PS2_ACK);
		break;
	case 0xeb:
		mouse_put(c, PS2_ACK);
		mouse_packet(c);
		break;
	case 0xec:
	case 0xee:
		m->wrap = v == 0xee;
		mouse_put(c, PS2_ACK);
		break;
	case 0xf2:
		mouse_put(c, PS2_ACK);
		mouse_put(c, m->id);
		break;
	case 0xf4:
	case 0xf5:
		m->reporting = v == 0xf4;
		mouse_put(c, PS2_ACK);
		break;
	case 0xf6:
		mouse_defaults(m);
		mouse_put(c, PS2_ACK);
		break;
	case 0xfe:
		mouse_put(c, m->last);
		break;
	case 0xff:
		mouse_defaults(m);
		m->id = 0;
		mouse_put(c, PS2_ACK);
		mouse_put(c, PS2_SELF_TEST);
		mouse_put(c, 0);
		break;
	default:
		mouse_put(c, PS2_RESEND);
	}
}

static void mouse_write(struct i8042 *c, uint8_t v)
{
	c->ram[0] &= (uint8_t)~CB_AUX_OFF;
	if (c->mouse.pending && v < 0xe6)
		mouse_argument(c, v);
	else if (c->mouse.wrap && v != 0xec && v != 0xff)
		mouse_put(c, v);
	else {
		c->mouse.pending = 0;
		mouse_command(c, v);
	}
}

/* Controller. */

static void i8042_set_outport(struct i8042 *c, uint8_t v)
{
	c->outport = v;
	if (!(v & OUT_NO_RESET))
		c->board->request(c->board, BOARD_RESET, 0);
}

static uint8_t i8042_outport(const struct i8042 *c)
{
	uint8_t v = c->outport & (uint8_t) ~(OUT_OBF | OUT_AUX_OBF);

	if (c->full)
		v |= c->aux ? OUT_AUX_OBF : OUT_OBF;
	return v;
}

static void i8042_command(struct i8042 *c, uint8_t v)
{
	c->pending = 0;
	switch (v) {
	case 0x20 ... 0x3f:
		i8042_answer(c, c->ram[v & 0x1f], false);
		break;
	case 0x60 ... 0x7f:
	case 0xd1 ... 0xd4:
		c->pending = v;
		break;
	case 0xa4:
		/* No password. */
		i8042_answer(c, 0xf1, false);
		break;
	case 0xa7:
		c->ram[0] |= CB_AUX_OFF;
		break;
	case 0xa8:
		c->ram[0] &= (uint8_t)~CB_AUX_OFF;
		break;
	case 0xa9:
	case 0xab:
		/* The lines to mouse and keyboard are good. */
		i8042_answer(c, 0, false);
		break;
	case 0xaa:
		c->ram[0] |= CB_SYSTEM;
		i8042_answer(c, 0x55, false);
		break;
	case 0xad:
		c->ram[0] |= CB_KBD_OFF;
		break;
	case 0xae:
		c->ram[0] &= (uint8_t)~CB_KBD_OFF;
		break;
	case 0xc0:
		/* Keyboard not locked, no manufacturing jumper. */
		i8042_answer(c, 0xa0, false);
		break;
	case 0xd0:
		i8042_answer(c, i8042_outport(c), false);
		break;
	case 0xdd:
		c->outport &= (uint8_t)~OUT_A20;
		break;
	case 0xdf:
		c->outport |= OUT_A20;
		break;
	case 0xe0:
		/* Both clock lines are high. */
		i8042_answer(c, 3, false);
		break;
	case 0xf0 ... 0xff:
		/* Pulses the outputs whose bits are 0; output 0 is the CPU's reset. */
		if (!(v & 1))
			c->board->request(c->board, BOARD_RESET, 0);
		break;
	default:
		break;
	}
}

static void i8042_data(struct i8042 *c, uint8_t v)
{
	uint8_t cmd = c->pending;

	c->pending = 0;
	switch (cmd) {
	case 0x60 ... 0x7f:
		c->ram[cmd & 0x1f] = v;
		break;
	case 0xd1:
		i8042_set_outport(c, v);
		break;
	case 0xd2:
		i8042_answer(c, v, false);
		break;
	case 0xd3:
		i8042_answer(c, v, true);
		break;
	case 0xd4:
		mouse_write(c, v);
		break;
	default:
		kbd_write(c, v);
	}
}

/* Ports. */

static uint64_t i8042_read_data(struct bus_range *r, uint64_t off, unsigned size)
{
	struct i8042 *c = container_of(r, struct i8042, at_data);
	uint8_t v = c->out;

	if (c->full) {
		if (c->aux)
			c->mouse.last = v;
		else
			c->kbd.last = v;
		c->full = 0;
		/* The line falls before the next byte raises it. */
		i8042_lines(c);
	}
	i8042_update(c);
	return v;
}

static void i8042_write_data(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	struct i8042 *c = container_of(r, struct i8042, at_data);

	c->was_command = 0;
	i8042_data(c, (uint8_t)v);
	i8042_update(c);
}

static uint64_t i8042_read_status(struct bus_range *r, uint64_t off, unsigned size)
{
	const struct i8042 *c = container_of(r, struct i8042, at_command);

	return (c->full ? ST_OBF | (c->aux ? ST_AUX : 0) : 0) |
	       (c->ram[0] & CB_SYSTEM ? ST_SYSTEM : 0) | (c->was_command ? ST_COMMAND : 0) |
	       ST_UNLOCKED;
}

static void i8042_write_command(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	struct i8042 *c = container_of(r, struct i8042, at_command);

	c->was_command = 1;
	i8042_command(c, (uint8_t)v);
	i8042_update(c);
}

static const struct bus_ops i8042_data_bus = {
	.read = i8042_read_data,
	.write = i8042_write_data,
	.max_size = 1,
};
static const struct bus_ops i8042_command_bus = {
	.read = i8042_read_status,
	.write = i8042_write_command,
	.max_size = 1,
};

/* Input. */

/* Bytes of a key in set 1 or 2; returns how many. */
static unsigned key_bytes(unsigned set, unsigned key, bool down, uint8_t ret[4])
{
	unsigned n = 0, code = key & 0x7f;

	if (key & I8042_EXT)
		ret[n++] = 0xe0;
	if (set == 1) {
		ret[n++] = (uint8_t)(code | (down ? 0 : 0x80));
		return n;
	}
	if (!down)
		ret[n++] = 0xf0;
	ret[n++] = set1_to_set2[code];
	return n;
}

/* Pause goes down and up at once, in a sequence of its own. */
static void key_pause(struct i8042 *c)
{
	static const uint8_t set1[] = { 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5 };
	static const uint8_t set2[] = { 0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77 };
	const uint8_t *p = c->kbd.set == 1 ? set1 : set2;
	unsigned n = c->kbd.set == 1 ? sizeof(set1) : sizeof(set2);

	if (c->kbd.q.len + n > QUEUE_EVENTS)
		return;
	for (unsigned i = 0; i < n; i++)
		kbd_put(c, p[i]);
}

void i8042_key(struct dev *d, unsigned key, bool down)
{
	struct i8042 *c = i8042_of(d);
	uint8_t bytes[4];

	SCOPED_LOCK(&d->lock);
	if (!c->kbd.scanning || key > 0xff || !(key & 0x7f))
		return;
	if (key == I8042_PAUSE) {
		if (down)
			key_pause(c);
	} else {
		unsigned n = key_bytes(c->kbd.set, key, down, bytes);

		if (c->kbd.q.len + n > QUEUE_EVENTS)
			n = 0;
		for (unsigned i = 0; i < n; i++)
			kbd_put(c, bytes[i]);
	}
	i8042_update(c);
}

void i8042_mouse(struct dev *d, int dx, int dy, int dz, unsigned buttons)
{
	enum {
		FAR = 1 << 16,
	};
	struct i8042 *c = i8042_of(d);
	struct mouse *m = &c->mouse;

	SCOPED_LOCK(&d->lock);
	m->dx = clamp(m->dx + clamp(dx, -FAR, FAR), -FAR, FAR);
	m->dy = clamp(m->dy + clamp(dy, -FAR, FAR), -FAR, FAR);
	m->dz = clamp(m->dz + clamp(dz, -FAR, FAR), -FAR, FAR);
	m->buttons = buttons & 0x1f;
	if (m->reporting && !m->remote && !m->wrap)
		mouse_report(c);
	i8042_update(c);
}

unsigned i8042_leds(struct dev *d)
{
	SCOPED_LOCK(&d->lock);
	return i8042_of(d)->kbd.leds;
}

/* Saved state. */

static const struct state_field queue_fields[] = {
	STATE_ARRAY(struct queue, data, 1),
	STATE_FIELD(struct queue, head, 1),
	STATE_FIELD(struct queue, len, 1),
};

static const struct state_desc queue_state = {
	.name = "ps2-queue",
	.version = 1,
	.oldest = 1,
	.field = queue_fields,
	.nfield = COUNT_OF(queue_fields),
};

static const struct state_field kbd_fields[] = {
	STATE_STRUCT_FIELD(struct keyboard, q, &queue_state, 1),
	STATE_FIELD(struct keyboard, pending, 1),
	STATE_FIELD(struct keyboard, scanning, 1),
	STATE_FIELD(struct keyboard, set, 1),
	STATE_FIELD(struct keyboard, leds, 1),
	STATE_FIELD(struct keyboard, typematic, 1),
	STATE_FIELD(struct keyboard, last, 1),
};

static const struct state_desc kbd_state = {
	.name = "ps2-keyboard",
	.version = 1,
	.oldest = 1,
	.field = kbd_fields,
	.nfield = COUNT_OF(kbd_fields),
};

static const struct state_field mouse_fields[] = {
	STATE_STRUCT_FIELD(struct mouse, q, &queue_state, 1),
	STATE_FIELD(struct mouse, pending, 1),
	STATE_FIELD(struct mouse, reporting, 1),
	STATE_FIELD(struct mouse, remote, 1),
	STATE_FIELD(struct mouse, wrap, 1),
	STATE_FIELD(struct mouse, scale2, 1),
	STATE_FIELD(struct mouse, resolution, 1),
	STATE_FIELD(struct mouse, rate, 1),
	STATE_FIELD(struct mouse, id, 1),
	STATE_ARRAY(struct mouse, knock, 1),
	STATE_FIELD(struct mouse, buttons, 1),
	STATE_FIELD(struct mouse, last, 1),
	STATE_FIELD(struct mouse, dx, 1),
	STATE_FIELD(struct mouse, dy, 1),
	STATE_FIELD(struct mouse, dz, 1),
};

static const struct state_desc mouse_state = {
	.name = "ps2-mouse",
	.version = 1,
	.oldest = 1,
	.field = mouse_fields,
	.nfield = COUNT_OF(mouse_fields),
};

static const struct state_field i8042_fields[] = {
	STATE_FIELD(struct i8042, out, 1),
	STATE_FIELD(struct i8042, full, 1),
	STATE_FIELD(struct i8042, aux, 1),
	STATE_FIELD(struct i8042, answer, 1),
	STATE_FIELD(struct i8042, has_answer, 1),
	STATE_FIELD(struct i8042, answer_aux, 1),
	STATE_FIELD(struct i8042, pending, 1),
	STATE_FIELD(struct i8042, was_command, 1),
	STATE_FIELD(struct i8042, outport, 1),
	STATE_ARRAY(struct i8042, ram, 1),
	STATE_STRUCT_FIELD(struct i8042, kbd, &kbd_state, 1),
	STATE_STRUCT_FIELD(struct i8042, mouse, &mouse_state, 1),
};

static bool queue_bad(const struct queue *q)
{
	return q->head >= QUEUE || q->len > QUEUE;
}

static bool movement_bad(int32_t v)
{
	return v < -(1 << 16) || v > 1 << 16;
}

static int i8042_check(const void *obj, struct err *e)
{
	const struct i8042 *c = obj;
	const struct mouse *m = &c->mouse;

	if (queue_bad(&c->kbd.q) || queue_bad(&m->q))
		return err_set(e, EPROTO, "a queue is longer than its device's");
	if (c->kbd.set < 1 || c->kbd.set > 2 || m->resolution > 3 || movement_bad(m->dx) ||
	    movement_bad(m->dy) || movement_bad(m->dz))
		return err_set(e, EPROTO, "keyboard or mouse setting out of range");
	return 0;
}

static const struct state_desc i8042_state = {
	.name = "i8042",
	.version = 1,
	.oldest = 1,
	.field = i8042_fields,
	.nfield = COUNT_OF(i8042_fields),
	.check = i8042_check,
};

/* Life cycle. */

static void *i8042_state_obj(struct dev *d)
{
	return i8042_of(d);
}

static int i8042_post_load(struct dev *d, struct err *e)
{
	struct i8042 *c = i8042_of(d);

	SCOPED_LOCK(&d->lock);
	i8042_lines(c);
	return 0;
}

/* As firmware leaves it, for systems that start without one: both devices on, translating. */
static void i8042_reset(struct dev *d)
{
	struct i8042 *c = i8042_of(d);

	SCOPED_LOCK(&d->lock);
	c->out = c->full = c->aux = c->has_answer = c->answer = c->answer_aux = 0;
	c->pending = c->was_command = 0;
	c->outport = OUT_IDLE;
	memset(c->ram, 0, sizeof(c->ram));
	c->ram[0] = CB_SYSTEM | CB_TRANSLATE | CB_KBD_INT | CB_AUX_INT;
	c->kbd = (struct keyboard){ 0 };
	kbd_defaults(&c->kbd);
	c->mouse = (struct mouse){ 0 };
	mouse_defaults(&c->mouse);
	i8042_lines(c);
}

static void i8042_free(struct dev *d)
{
	struct i8042 *c = i8042_of(d);

	bus_del(c->board->pio, &c->at_data);
	bus_del(c->board->pio, &c->at_command);
	irq_line_set(&c->irq_kbd, false);
	irq_line_set(&c->irq_aux, false);
	free(c);
}

static const struct dev_ops i8042_ops = {
	.type = "i8042",
	.free = i8042_free,
	.reset = i8042_reset,
	.state = &i8042_state,
	.state_obj = i8042_state_obj,
	.state_size = sizeof(struct i8042),
	.post_load = i8042_post_load,
};

int i8042_new(struct board *b, struct dev **ret, struct err *e)
{
	struct i8042 *c = NEW(struct i8042);

	if (!c)
		return err_set(e, ENOMEM, "no memory for a keyboard controller");
	dev_init(&c->dev, &i8042_ops, b, "i8042");
	c->board = b;
	c->irq_kbd = (struct irq_line){ .irqs = b->irqs, .gsi = IRQ_GSI_KBD };
	c->irq_aux = (struct irq_line){ .irqs = b->irqs, .gsi = GSI_MOUSE };
	c->at_data = (struct bus_range){ &i8042_data_bus, "i8042", &c->dev.lock };
	c->at_command = (struct bus_range){ &i8042_command_bus, "i8042", &c->dev.lock };
	i8042_reset(&c->dev);
	if (bus_add(b->pio, &c->at_data, DATA_PORT, 1) < 0 ||
	    bus_add(b->pio, &c->at_command, COMMAND_PORT, 1) < 0) {
		dev_free(&c->dev);
		return err_set(e, EBUSY, "ports of the keyboard controller are taken");
	}
	*ret = &c->dev;
	return 0;
}
