/*
 * Byte streams: where a serial port or console ends (stdio, pty, unix, file, none).
 *
 * A stream belongs to one loop.  chr_write() may also be called from a vCPU thread: it appends to a
 * bounded queue that the loop empties, so a slow reader never blocks the guest.  When the queue is
 * full, chr_write() takes less than it got; the device holds the rest back, as a serial line with
 * flow control does, until .writable comes.  Where nobody listens, output is dropped.
 */
#pragma once

#include "base/err.h"
#include "base/thread.h"
#include "loop/loop.h"

struct chr;

/* Upcalls to the device, on the loop's thread. */
struct chr_client {
	/* Bytes came in; returns how many were taken.  The rest is offered again after chr_poll().
	 */
	size_t (*input)(struct chr_client *c, const uint8_t *p, size_t len);
	/* Room in the output queue again after chr_write() took less than it got. */
	void (*writable)(struct chr_client *c);
};

struct chr_opts {
	/* Driver name: "stdio", "pty", "unix", "file", "none". */
	const char *type;
	/* unix: socket to listen on; file: to append to. */
	const char *path;
	struct loop *loop;
	struct chr_client *client;
	/* stdio: what Ctrl-a x does, on the loop's thread; it does not close the stream.  [NULL:
	 * nothing] */
	void (*quit)(void *arg);
	void *quit_arg;
};

struct chr_driver {
	const char *name;
	/* Of the driver's struct, which begins with struct chr. */
	size_t size;
	int (*open)(struct chr *c, const struct chr_opts *o, struct err *e);
	void (*close)(struct chr *c);
	/* On the loop's thread: as many bytes as go now; -EAGAIN: none.  -EPIPE: nobody there,
	 * drop. */
	ssize_t (*write)(struct chr *c, const uint8_t *p, size_t len);
	/* Ask for input (again), or stop it: the device's FIFO has room or not. */
	void (*rx_enable)(struct chr *c, bool on);
};

enum {
	CHR_QUEUE = 65536,
};

struct chr {
	const struct chr_driver *drv;
	struct loop *loop;
	struct chr_client *client;
	/* For people and query-chardev: "pty:/dev/pts/3". */
	char where[128];
	/* Guards the queue. */
	struct lock lock;
	uint8_t queue[CHR_QUEUE];
	unsigned head, len;
	struct loop_post flush;
	/* The device was told "no room" and waits for writable. */
	bool stalled;
};

/* Every driver there is; NULL ends it. */
extern const struct chr_driver *const chr_drivers[];

/* Before the loop runs, or on its thread.  client NULL: input is dropped. */
NODISCARD int chr_open(struct chr **ret, const struct chr_opts *o, struct err *e);
/* Writes out what is queued as far as it goes without waiting.  NULL is fine. */
void chr_close(struct chr *c);
/* Any thread; returns how many bytes were taken. */
size_t chr_write(struct chr *c, const uint8_t *p, size_t len);
/* Loop's thread: the device can take input again. */
void chr_poll(struct chr *c);

/*
 * Gives the terminal back as stdio found it; does nothing when it did not change it.  Safe in a
 * signal handler.  stdio calls it at exit and in handlers of the signals that end the process,
 * where those were at their default; a program with handlers of its own calls it from there.
 */
void chr_stdio_restore(void);
