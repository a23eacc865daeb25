/*
 * Guest RAM, and the only door to it.
 *
 * RAM is one memfd, mapped once and split around the hole below 4 GiB (machine/memmap.h), or
 * several regions after hotplug.  gmem_at() checks the whole range; raw guest pointers exist only
 * in mem/, in the engines and in the virtqueue code.  The guest changes RAM at any moment: copy a
 * header once with gmem_read() and decide on the copy.
 *
 * Whoever writes guest RAM from outside the guest (DMA of a device, a loader) calls gmem_wrote()
 * afterwards, or uses gmem_write(): that feeds the dirty log and tells the engine, which may hold
 * decoded instructions from that page.  Guest stores are logged by the engine.
 *
 * Threads: regions change only while the VM is paused; everything else from any thread.
 */
#pragma once

#include "base/err.h"

#define GMEM_PAGE_SHIFT 12
#define GMEM_PAGE_SIZE 4096u

enum {
	GMEM_REGIONS = 64,
};

struct gmem_region {
	uint64_t gpa, len;
	uint8_t *host;
	/* memfd and offset in it, for sharing with other processes (vhost-user); -1: none. */
	int fd;
	uint64_t fd_off;
	/* The guest reads it and its writes go to the bus (ROM, flash). */
	bool readonly;
	/* One bit for each page written since gmem_dirty_take(); only while logging.  Atomic. */
	uint64_t *dirty;
	/* For people: "ram", "bios". */
	const char *name;
};

/* An engine that wants to hear of writes that did not come from a guest instruction. */
struct gmem_watch {
	/* Any thread; must not block. */
	void (*wrote)(struct gmem_watch *w, uint64_t gpa, uint64_t len);
};

struct gmem {
	unsigned n;
	/* Sorted by gpa, never overlapping. */
	struct gmem_region r[GMEM_REGIONS];
	/* Dirty logging is on. */
	bool logging;
	struct gmem_watch *watch;
};

void gmem_init(struct gmem *m);
/* Unmaps and closes all of it. */
void gmem_fini(struct gmem *m);

/*
 * Add len bytes of fresh zeroed RAM at gpa (both multiples of the page size); `fd` >= 0 shares a
 * piece of an existing memfd at fd_off instead (dup'ed).  Returns the region's index; -EEXIST on
 * overlap, -ENOMEM, -ENOSPC when all slots are taken.
 */
NODISCARD int gmem_add(struct gmem *m, const char *name, uint64_t gpa, uint64_t len, int fd,
		       uint64_t fd_off, bool readonly, struct err *e);
/* Sum of all regions, bytes. */
uint64_t gmem_size(const struct gmem *m);

/* The region that holds gpa, or NULL. */
const struct gmem_region *gmem_find(const struct gmem *m, uint64_t gpa);
/* Host address of guest bytes [gpa, gpa+len), or NULL unless all lies in one region. */
NODISCARD void *gmem_at(const struct gmem *m, uint64_t gpa, uint64_t len);
/* As gmem_at(), NULL too for a read-only region: for what a device will write. */
NODISCARD void *gmem_at_w(const struct gmem *m, uint64_t gpa, uint64_t len);
/* Copies across region borders; -EFAULT and nothing copied unless all of it is RAM. */
NODISCARD int gmem_read(const struct gmem *m, uint64_t gpa, void *dst, uint64_t len);
NODISCARD int gmem_write(const struct gmem *m, uint64_t gpa, const void *src, uint64_t len);
/* Tell the log and the engine that [gpa, gpa+len) was written; outside RAM it does nothing. */
void gmem_wrote(const struct gmem *m, uint64_t gpa, uint64_t len);

/* Dirty log.  Starting clears it; the engines' logs are merged in by accel_dirty_sync(). */
NODISCARD int gmem_log_start(struct gmem *m, struct err *e);
void gmem_log_stop(struct gmem *m);
/* Moves region i's bits to ret_bits (BITMAP_WORDS(len / page) words), clearing; returns how many.
 */
uint64_t gmem_dirty_take(struct gmem *m, unsigned i, uint64_t *ret_bits);
