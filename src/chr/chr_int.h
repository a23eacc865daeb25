/* What the files of chr/ share. */
#pragma once

#include "chr/chr.h"

extern const struct chr_driver chr_stdio, chr_pty, chr_unix, chr_file, chr_none;

/* A driver that said -EAGAIN can write again. */
void chr_can_write(struct chr *c);
/* Offers input to the device; returns how many bytes it took. */
size_t chr_input(struct chr *c, const uint8_t *p, size_t len);

/*
 * stream.c: input and output over non-blocking descriptors, which may be the same one or -1 for
 * none.  They stay the driver's.  Zeroed at first; filter and gone are set before stream_start().
 */
enum {
	STREAM_RX = 16384,
};

struct chr_stream {
	/*
	 * Changes what was read in place; returns how much is left.  It sees input as it comes, up
	 * to STREAM_RX bytes before the device takes it.  [NULL: nothing is changed, and nothing
	 * is read before the device has taken all]
	 */
	size_t (*filter)(struct chr_stream *s, uint8_t *p, size_t len);
	/* Input ended, or the other side hung up; the stream is stopped. */
	void (*gone)(struct chr_stream *s);
	struct chr *c;
	struct loop_fd in, out;
	int in_fd, out_fd;
	/* The device takes input; the descriptor was full. */
	bool rx_on, tx_full;
	bool on;
	/* Read and not yet taken by the device. */
	uint8_t rx[STREAM_RX];
	size_t rx_at, rx_len;
};

NODISCARD int stream_start(struct chr_stream *s, struct chr *c, int in_fd, int out_fd);
/* Does nothing when it is not on. */
void stream_stop(struct chr_stream *s);
/* As chr_driver.write and .rx_enable. */
ssize_t stream_write(struct chr_stream *s, const uint8_t *p, size_t len);
void stream_rx(struct chr_stream *s, bool on);
