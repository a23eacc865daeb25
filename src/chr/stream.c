/*
 * Input and output over descriptors: what the device does not take at once waits in a buffer, and
 * reading stops until it is gone; what the descriptor does not take stays in the queue.  With a
 * filter, which must see keys that are meant for us while the guest hangs, reading goes on until
 * the buffer is full.
 */
#include "chr/chr_int.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static bool stream_wants(const struct chr_stream *s)
{
	return s->filter ? s->rx_len - s->rx_at < sizeof(s->rx) : s->rx_on && s->rx_at == s->rx_len;
}

static void stream_update(struct chr_stream *s)
{
	bool in = stream_wants(s);
	/* A connection that ends while the device takes nothing makes room for the next; a pipe's
	 * end comes only after its data. */
	unsigned idle = s->out_fd == s->in_fd ? LOOP_ERR : 0;

	if (s->in_fd >= 0)
		loop_fd_set(&s->in, (in ? LOOP_IN : idle) |
					    (s->tx_full && s->out_fd == s->in_fd ? LOOP_OUT : 0u));
	if (s->out_fd >= 0 && s->out_fd != s->in_fd)
		loop_fd_set(&s->out, s->tx_full ? LOOP_OUT : 0);
}

static void stream_gone(struct chr_stream *s)
{
	stream_stop(s);
	if (s->gone)
		s->gone(s);
}

/* False: the device does not take all of it. */
static bool stream_offer(struct chr_stream *s)
{
	if (s->rx_at < s->rx_len)
		s->rx_at += chr_input(s->c, s->rx + s->rx_at, s->rx_len - s->rx_at);
	if (s->rx_at < s->rx_len)
		return false;
	s->rx_at = s->rx_len = 0;
	return true;
}

static void stream_read(struct chr_stream *s)
{
	if (!stream_wants(s))
		return;
	s->rx_len -= s->rx_at;
	memmove(s->rx, s->rx + s->rx_at, s->rx_len);
	s->rx_at = 0;
	uint8_t *to = s->rx + s->rx_len;
	ssize_t n = read(s->in_fd, to, sizeof(s->rx) - s->rx_len);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		stream_gone(s);
		return;
	}
	s->rx_len += s->filter ? s->filter(s, to, (size_t)n) : (size_t)n;
	stream_offer(s);
	stream_update(s);
}

static void stream_in_event(struct loop_fd *f, unsigned events)
{
	struct chr_stream *s = container_of(f, struct chr_stream, in);

	if (events & LOOP_OUT) {
		s->tx_full = false;
		stream_update(s);
		chr_can_write(s->c);
	}
	if (s->on && events & LOOP_IN)
		stream_read(s);
	else if (s->on && events & LOOP_ERR)
		stream_gone(s);
}

static void stream_out_event(struct loop_fd *f, unsigned events)
{
	struct chr_stream *s = container_of(f, struct chr_stream, out);

	(void)events;
	s->tx_full = false;
	stream_update(s);
	chr_can_write(s->c);
}

int stream_start(struct chr_stream *s, struct chr *c, int in_fd, int out_fd)
{
	int rc = 0;

	s->c = c;
	s->in_fd = in_fd;
	s->out_fd = out_fd;
	s->rx_on = true;
	s->tx_full = false;
	s->rx_at = s->rx_len = 0;
	s->in.fn = stream_in_event;
	s->out.fn = stream_out_event;
	s->on = true;
	if (in_fd >= 0)
		rc = loop_fd_add(c->loop, &s->in, in_fd, LOOP_IN);
	if (rc == 0 && out_fd >= 0 && out_fd != in_fd)
		rc = loop_fd_add(c->loop, &s->out, out_fd, 0);
	if (rc < 0)
		stream_stop(s);
	return rc;
}

void stream_stop(struct chr_stream *s)
{
	loop_fd_del(&s->in);
	loop_fd_del(&s->out);
	s->on = false;
}

static ssize_t stream_put(int fd, const uint8_t *p, size_t len)
{
	ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

	return n < 0 && errno == ENOTSOCK ? write(fd, p, len) : n;
}

ssize_t stream_write(struct chr_stream *s, const uint8_t *p, size_t len)
{
	if (!s->on || s->out_fd < 0)
		return -EPIPE;
	if (s->tx_full)
		return -EAGAIN;
	ssize_t n = stream_put(s->out_fd, p, len);
	if (n >= 0)
		return n;
	if (errno != EAGAIN && errno != EINTR)
		return -EPIPE;
	s->tx_full = true;
	stream_update(s);
	return -EAGAIN;
}

void stream_rx(struct chr_stream *s, bool on)
{
	s->rx_on = on;
	if (!s->on)
		return;
	if (on)
		stream_offer(s);
	stream_update(s);
}
