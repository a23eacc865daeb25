/*
 * 16550A serial port (National PC16550D data sheet) over a chr/ stream.
 *
 * Bytes go at the stream's speed: the divisor is kept and not looked at.  A byte that the guest
 * writes goes to the stream's queue at once; while that is full, up to 16 wait in the FIFO here and
 * THRE stays low, so the guest waits as on a slow line, and no vCPU thread ever blocks.  Input is
 * taken only as far as the FIFO has room; the stream holds the rest, so nothing is overrun but in
 * loopback.
 *
 * There are no character times here, so a FIFO that holds less than its trigger level reports the
 * character time-out at once: whoever waits for a trigger of 14 bytes hears of one.
 *
 * The interrupt reaches its line through OUT2, as on a PC's card; not in loopback mode, in which
 * that output is held inactive.
 *
 * Threads: registers from vCPUs and stream callbacks from the loop, both under dev.lock.  The
 * stream is told of new room by a post, as chr_poll() belongs to the loop.
 */
#include "dev/pc/pc_int.h"

#include "base/alloc.h"
#include "base/bits.h"
#include "chr/chr.h"

#include <stdlib.h>
#include <string.h>

enum {
	UART_PORTS = 8,
	UART_FIFO = 16,
	/* Registers; DLAB puts the divisor at 0 and 1. */
	REG_DATA = 0,
	REG_IER = 1,
	REG_IIR_FCR = 2,
	REG_LCR = 3,
	REG_MCR = 4,
	REG_LSR = 5,
	REG_MSR = 6,
	REG_SCR = 7,
	IER_RX = 1 << 0,
	IER_TX = 1 << 1,
	IER_LINE = 1 << 2,
	IER_MODEM = 1 << 3,
	/* Interrupt identification, by falling priority. */
	IIR_LINE = 6,
	IIR_RX = 4,
	IIR_TIMEOUT = 12,
	IIR_TX = 2,
	IIR_MODEM = 0,
	IIR_NONE = 1,
	IIR_FIFO = 3 << 6,
	FCR_ENABLE = 1 << 0,
	FCR_CLEAR_RX = 1 << 1,
	FCR_CLEAR_TX = 1 << 2,
	FCR_KEPT = 0xc9,
	LCR_DLAB = 1 << 7,
	LCR_BREAK = 1 << 6,
	MCR_DTR = 1 << 0,
	MCR_RTS = 1 << 1,
	MCR_OUT1 = 1 << 2,
	MCR_OUT2 = 1 << 3,
	MCR_LOOP = 1 << 4,
	LSR_READY = 1 << 0,
	LSR_OVERRUN = 1 << 1,
	LSR_BREAK = 1 << 4,
	LSR_THRE = 1 << 5,
	LSR_TEMT = 1 << 6,
	/* Errors that a read of LSR clears. */
	LSR_ERRORS = 0x1e,
	MSR_CTS = 1 << 4,
	MSR_DSR = 1 << 5,
	MSR_RI = 1 << 6,
	MSR_DCD = 1 << 7,
	MSR_DELTA_RI = 1 << 2,
	MSR_DELTAS = 0xf,
};

struct uart_fifo {
	uint8_t data[UART_FIFO];
	uint8_t head, len;
};

struct uart {
	struct dev dev;
	struct board *board;
	struct bus_range at;
	struct irq_line irq;
	struct chr *chr;
	struct chr_client client;
	struct loop_post poll;
	/* The stream offered more than was taken: poll it when there is room. */
	bool refused;
	bool running;
	struct uart_fifo rx, tx;
	uint8_t ier, fcr, lcr, mcr, scr;
	/* Error bits of LSR; deltas and state of MSR. */
	uint8_t errors, msr;
	uint16_t divisor;
	/* The transmitter became empty and IIR was not read since. */
	uint8_t tx_pending;
};

static struct uart *uart_of(struct dev *d)
{
	return container_of(d, struct uart, dev);
}

/* FIFOs. */

static unsigned uart_room(const struct uart *u)
{
	return (u->fcr & FCR_ENABLE ? UART_FIFO : 1u) - u->rx.len;
}

static void fifo_put(struct uart_fifo *f, uint8_t b)
{
	f->data[(f->head + f->len) % UART_FIFO] = b;
	f->len++;
}

static uint8_t fifo_get(struct uart_fifo *f)
{
	uint8_t b = f->data[f->head];

	f->head = (f->head + 1) % UART_FIFO;
	f->len--;
	return b;
}

/* Interrupts. */

static unsigned uart_trigger(const struct uart *u)
{
	static const uint8_t level[4] = { 1, 4, 8, 14 };

	return u->fcr & FCR_ENABLE ? level[u->fcr >> 6] : 1;
}

static uint8_t uart_iir(const struct uart *u)
{
	if (u->ier & IER_LINE && u->errors)
		return IIR_LINE;
	if (u->ier & IER_RX && u->rx.len)
		return u->rx.len >= uart_trigger(u) ? IIR_RX : IIR_TIMEOUT;
	if (u->ier & IER_TX && u->tx_pending)
		return IIR_TX;
	if (u->ier & IER_MODEM && u->msr & MSR_DELTAS)
		return IIR_MODEM;
	return IIR_NONE;
}

static void uart_update(struct uart *u)
{
	bool wired = u->mcr & MCR_OUT2 && !(u->mcr & MCR_LOOP);

	irq_line_set(&u->irq, wired && uart_iir(u) != IIR_NONE);
}

/* Transmitter. */

/* Gives the stream what waits; dev.lock is held. */
static void uart_flush(struct uart *u)
{
	if (!u->tx.len)
		return;
	while (u->tx.len) {
		uint8_t b = u->tx.data[u->tx.head];

		if (u->chr && chr_write(u->chr, &b, 1) != 1)
			return;
		fifo_get(&u->tx);
	}
	u->tx_pending = 1;
}

static void uart_loopback(struct uart *u, uint8_t b)
{
	if (uart_room(u))
		fifo_put(&u->rx, b);
	else
		u->errors |= LSR_OVERRUN;
	u->tx_pending = 1;
}

static void uart_send(struct uart *u, uint8_t b)
{
	u->tx_pending = 0;
	if (u->mcr & MCR_LOOP) {
		uart_loopback(u, b);
		return;
	}
	/* The guest did not wait for THRE: the byte is lost, as in the chip. */
	if (u->tx.len < UART_FIFO)
		fifo_put(&u->tx, b);
	uart_flush(u);
}

static void uart_writable(struct chr_client *cl)
{
	struct uart *u = container_of(cl, struct uart, client);

	SCOPED_LOCK(&u->dev.lock);
	if (!u->running)
		return;
	uart_flush(u);
	uart_update(u);
}

/* Receiver. */

static size_t uart_input(struct chr_client *cl, const uint8_t *p, size_t len)
{
	struct uart *u = container_of(cl, struct uart, client);
	size_t n = 0;

	SCOPED_LOCK(&u->dev.lock);
	if (u->running && !(u->mcr & MCR_LOOP))
		while (n < len && uart_room(u))
			fifo_put(&u->rx, p[n++]);
	u->refused = n < len;
	uart_update(u);
	return n;
}

static void uart_poll(struct loop_post *p)
{
	struct uart *u = container_of(p, struct uart, poll);
	struct chr *c = u->chr;

	if (c)
		chr_poll(c);
}

/* There may be room again. */
static void uart_want_input(struct uart *u)
{
	if (!u->refused || !u->running || !uart_room(u) || u->mcr & MCR_LOOP)
		return;
	u->refused = false;
	loop_post(u->board->loop, &u->poll);
}

static uint8_t uart_receive(struct uart *u)
{
	uint8_t b = 0;

	if (u->rx.len)
		b = fifo_get(&u->rx);
	uart_want_input(u);
	return b;
}

/* Modem lines: a terminal that is always there, or in loopback our own outputs. */
static void uart_modem(struct uart *u)
{
	uint8_t now = MSR_CTS | MSR_DSR | MSR_DCD, was = u->msr & 0xf0, delta;

	if (u->mcr & MCR_LOOP)
		now = (u->mcr & MCR_RTS ? MSR_CTS : 0) | (u->mcr & MCR_DTR ? MSR_DSR : 0) |
		      (u->mcr & MCR_OUT1 ? MSR_RI : 0) | (u->mcr & MCR_OUT2 ? MSR_DCD : 0);
	/* CTS, DSR, DCD: any change; RI: its end. */
	delta = (uint8_t)((now ^ was) >> 4 & (MSR_DELTAS & ~MSR_DELTA_RI));
	if (was & MSR_RI && !(now & MSR_RI))
		delta |= MSR_DELTA_RI;
	u->msr = (uint8_t)(now | (u->msr & MSR_DELTAS) | delta);
}

/* Registers. */

static void uart_set_fcr(struct uart *u, uint8_t v)
{
	bool toggled = (v ^ u->fcr) & FCR_ENABLE;

	if (toggled || v & FCR_CLEAR_RX)
		u->rx.len = 0;
	if (toggled || v & FCR_CLEAR_TX) {
		u->tx_pending |= u->tx.len != 0;
		u->tx.len = 0;
	}
	u->fcr = v & FCR_ENABLE ? v & FCR_KEPT : 0;
	uart_want_input(u);
}

static void uart_set_mcr(struct uart *u, uint8_t v)
{
	u->mcr = v & 0x1f;
	uart_modem(u);
	uart_want_input(u);
}

static void uart_set_ier(struct uart *u, uint8_t v)
{
	/* Enabling it while the transmitter is empty raises it. */
	if (v & ~u->ier & IER_TX && !u->tx.len)
		u->tx_pending = 1;
	u->ier = v & 0xf;
}

static void uart_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t value)
{
	struct uart *u = container_of(r, struct uart, at);
	uint8_t v = (uint8_t)value;
	bool dlab = u->lcr & LCR_DLAB;

	switch (off) {
	case REG_DATA:
		if (dlab)
			u->divisor = (u->divisor & 0xff00) | v;
		else
			uart_send(u, v);
		break;
	case REG_IER:
		if (dlab)
			u->divisor = (uint16_t)((u->divisor & 0xff) | v << 8);
		else
			uart_set_ier(u, v);
		break;
	case REG_IIR_FCR:
		uart_set_fcr(u, v);
		break;
	case REG_LCR:
		/* A break in loopback comes back as one. */
		if (v & ~u->lcr & LCR_BREAK && u->mcr & MCR_LOOP)
			u->errors |= LSR_BREAK;
		u->lcr = v;
		break;
	case REG_MCR:
		uart_set_mcr(u, v);
		break;
	case REG_SCR:
		u->scr = v;
		break;
	default:
		/* LSR and MSR are for reading. */
		break;
	}
	uart_update(u);
}

static uint8_t uart_read_iir(struct uart *u)
{
	uint8_t v = uart_iir(u);

	/* Reading it acknowledges the transmitter, when it is the source. */
	if (v == IIR_TX)
		u->tx_pending = 0;
	return v | (u->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static uint8_t uart_read_lsr(struct uart *u)
{
	uint8_t v = u->errors & LSR_ERRORS;

	if (u->rx.len)
		v |= LSR_READY;
	if (!u->tx.len)
		v |= LSR_THRE | LSR_TEMT;
	u->errors = 0;
	return v;
}

static uint8_t uart_read_reg(struct uart *u, unsigned off)
{
	bool dlab = u->lcr & LCR_DLAB;
	uint8_t v;

	switch (off) {
	case REG_DATA:
		return dlab ? (uint8_t)u->divisor : uart_receive(u);
	case REG_IER:
		return dlab ? (uint8_t)(u->divisor >> 8) : u->ier;
	case REG_IIR_FCR:
		return uart_read_iir(u);
	case REG_LCR:
		return u->lcr;
	case REG_MCR:
		return u->mcr;
	case REG_LSR:
		return uart_read_lsr(u);
	case REG_MSR:
		v = u->msr;
		u->msr &= 0xf0;
		return v;
	default:
		return u->scr;
	}
}

static uint64_t uart_read(struct bus_range *r, uint64_t off, unsigned size)
{
	struct uart *u = container_of(r, struct uart, at);
	uint8_t v = uart_read_reg(u, (unsigned)off);

	uart_update(u);
	return v;
}

static const struct bus_ops uart_bus = {
	.read = uart_read,
	.write = uart_write,
	.max_size = 1,
};

/* The stream. */

struct chr_client *uart_client(struct dev *d)
{
	return &uart_of(d)->client;
}

void uart_attach(struct dev *d, struct chr *c)
{
	struct uart *u = uart_of(d);

	SCOPED_LOCK(&d->lock);
	u->chr = c;
	if (u->running) {
		uart_flush(u);
		uart_update(u);
	}
}

/* Saved state. */

static const struct state_field fifo_fields[] = {
	STATE_ARRAY(struct uart_fifo, data, 1),
	STATE_FIELD(struct uart_fifo, head, 1),
	STATE_FIELD(struct uart_fifo, len, 1),
};

static const struct state_desc fifo_state = {
	.name = "uart-fifo",
	.version = 1,
	.oldest = 1,
	.field = fifo_fields,
	.nfield = COUNT_OF(fifo_fields),
};

static const struct state_field uart_fields[] = {
	STATE_STRUCT_FIELD(struct uart, rx, &fifo_state, 1),
	STATE_STRUCT_FIELD(struct uart, tx, &fifo_state, 1),
	STATE_FIELD(struct uart, ier, 1),
	STATE_FIELD(struct uart, fcr, 1),
	STATE_FIELD(struct uart, lcr, 1),
	STATE_FIELD(struct uart, mcr, 1),
	STATE_FIELD(struct uart, scr, 1),
	STATE_FIELD(struct uart, errors, 1),
	STATE_FIELD(struct uart, msr, 1),
	STATE_FIELD(struct uart, divisor, 1),
	STATE_FIELD(struct uart, tx_pending, 1),
};

static int uart_check(const void *obj, struct err *e)
{
	const struct uart *u = obj;
	unsigned size = u->fcr & FCR_ENABLE ? UART_FIFO : 1;

	if (u->rx.head >= UART_FIFO || u->rx.len > size || u->tx.head >= UART_FIFO ||
	    u->tx.len > UART_FIFO)
		return err_set(e, EPROTO, "FIFO of %u and %u bytes", u->rx.len, u->tx.len);
	return 0;
}

static const struct state_desc uart_state = {
	.name = "uart",
	.version = 1,
	.oldest = 1,
	.field = uart_fields,
	.nfield = COUNT_OF(uart_fields),
	.check = uart_check,
};

/* Life cycle. */

static void *uart_state_obj(struct dev *d)
{
	return uart_of(d);
}

static int uart_post_load(struct dev *d, struct err *e)
{
	struct uart *u = uart_of(d);

	SCOPED_LOCK(&d->lock);
	uart_update(u);
	return 0;
}

static void uart_reset(struct dev *d)
{
	struct uart *u = uart_of(d);

	SCOPED_LOCK(&d->lock);
	/* What the guest sent before its reset still goes out. */
	uart_flush(u);
	u->rx = u->tx = (struct uart_fifo){ 0 };
	u->ier = u->fcr = u->lcr = u->mcr = u->scr = u->errors = 0;
	u->divisor = 12;
	u->tx_pending = 0;
	u->msr = MSR_CTS | MSR_DSR | MSR_DCD;
	uart_want_input(u);
	uart_update(u);
}

static void uart_stop(struct dev *d)
{
	struct uart *u = uart_of(d);

	SCOPED_LOCK(&d->lock);
	u->running = false;
}

static void uart_start(struct dev *d)
{
	struct uart *u = uart_of(d);

	SCOPED_LOCK(&d->lock);
	u->running = true;
	uart_flush(u);
	uart_want_input(u);
	uart_update(u);
}

static void uart_free(struct dev *d)
{
	struct uart *u = uart_of(d);

	bus_del(u->board->pio, &u->at);
	loop_post_cancel(u->board->loop, &u->poll);
	irq_line_set(&u->irq, false);
	free(u);
}

static const struct dev_ops uart_ops = {
	.type = "uart",
	.free = uart_free,
	.reset = uart_reset,
	.state = &uart_state,
	.state_obj = uart_state_obj,
	.state_size = sizeof(struct uart),
	.post_load = uart_post_load,
	.stop = uart_stop,
	.start = uart_start,
};

int uart_new(struct board *b, const struct uart_opts *o, struct dev **ret, struct err *e)
{
	struct uart *u = NEW(struct uart);

	if (!u)
		return err_set(e, ENOMEM, "no memory for a serial port");
	dev_init(&u->dev, &uart_ops, b, o->name);
	u->board = b;
	u->irq = (struct irq_line){ .irqs = b->irqs, .gsi = o->gsi };
	u->client = (struct chr_client){ .input = uart_input, .writable = uart_writable };
	u->poll.fn = uart_poll;
	u->at = (struct bus_range){ &uart_bus, "uart", &u->dev.lock };
	uart_reset(&u->dev);
	if (bus_add(b->pio, &u->at, o->port, UART_PORTS) < 0) {
		dev_free(&u->dev);
		return err_set(e, EBUSY, "%s: ports %#x-%#x are taken", o->name, o->port,
			       o->port + UART_PORTS - 1u);
	}
	*ret = &u->dev;
	return 0;
}
