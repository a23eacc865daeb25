#include "mem/gmem.h"

#include "base/alloc.h"
#include "base/bits.h"
#include "base/cleanup.h"
#include "base/num.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

void gmem_init(struct gmem *m)
{
	*m = (struct gmem){ 0 };
}

static void gmem_region_fini(struct gmem_region *r)
{
	munmap(r->host, r->len);
	close_fd(&r->fd);
	free(r->dirty);
}

void gmem_fini(struct gmem *m)
{
	for (unsigned i = 0; i < m->n; i++)
		gmem_region_fini(&m->r[i]);
	gmem_init(m);
}

static int gmem_check_new(const struct gmem *m, uint64_t gpa, uint64_t len, struct err *e)
{
	uint64_t end;

	if (!len || (gpa | len) % GMEM_PAGE_SIZE || !add_ok(gpa, len, &end))
		return err_set(e, EINVAL, "memory at %#lx, length %#lx: not whole pages",
			       (unsigned long)gpa, (unsigned long)len);
	if (m->n == GMEM_REGIONS)
		return err_set(e, ENOSPC, "more than %d memory regions", GMEM_REGIONS);
	for (unsigned i = 0; i < m->n; i++)
		if (range_overlap(gpa, len, m->r[i].gpa, m->r[i].len))
			return err_set(e, EEXIST, "memory at %#lx overlaps '%s'",
				       (unsigned long)gpa, m->r[i].name);
	return 0;
}

static int gmem_new_memfd(const char *name, uint64_t len, struct err *e)
{
	AUTO_CLOSE int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return err_set(e, errno, "cannot create guest memory: %s", strerror(errno));
	if (ftruncate(fd, (off_t)len) < 0)
		return err_set(e, errno, "cannot size guest memory to %lu MiB: %s",
			       (unsigned long)(len >> 20), strerror(errno));
	/* Nobody who gets the descriptor can take pages away from under us. */
	(void)fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	return take_fd(&fd);
}

int gmem_add(struct gmem *m, const char *name, uint64_t gpa, uint64_t len, int fd, uint64_t fd_off,
	     bool readonly, struct err *e)
{
	int rc = gmem_check_new(m, gpa, len, e);

	if (rc < 0)
		return rc;
	AUTO_CLOSE int own = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : gmem_new_memfd(name, len, e);
	if (own < 0)
		return fd >= 0 ? err_set(e, errno, "cannot share memory: %s", strerror(errno))
			       : own;

	void *host = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, own,
			  (off_t)(fd >= 0 ? fd_off : 0));
	if (host == MAP_FAILED)
		return err_set(e, errno, "cannot map %lu MiB of guest memory: %s",
			       (unsigned long)(len >> 20), strerror(errno));
	/* Only now: a size that cannot be mapped is refused for what it is. */
	uint64_t *dirty = xcalloc(BITMAP_WORDS(len >> GMEM_PAGE_SHIFT), sizeof(uint64_t));
	if (!dirty) {
		munmap(host, len);
		return err_set(e, ENOMEM, "no memory for a dirty bitmap");
	}
	/* Best effort: a host without transparent huge pages for shmem refuses. */
	(void)madvise(host, len, MADV_HUGEPAGE);
	(void)madvise(host, len, MADV_DONTDUMP);

	unsigned at = m->n;
	while (at > 0 && m->r[at - 1].gpa > gpa) {
		m->r[at] = m->r[at - 1];
		at--;
	}
	m->r[at] = (struct gmem_region){
		.gpa = gpa,
		.len = len,
		.host = host,
		.fd = take_fd(&own),
		.fd_off = fd >= 0 ? fd_off : 0,
		.readonly = readonly,
		.dirty = dirty,
		.name = name,
	};
	m->n++;
	return (int)at;
}

uint64_t gmem_size(const struct gmem *m)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < m->n; i++)
		sum += m->r[i].len;
	return sum;
}

const struct gmem_region *gmem_find(const struct gmem *m, uint64_t gpa)
{
	for (unsigned i = 0; i < m->n; i++)
		if (gpa >= m->r[i].gpa && gpa - m->r[i].gpa < m->r[i].len)
			return &m->r[i];
	return NULL;
}

void *gmem_at(const struct gmem *m, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < m->n; i++) {
		const struct gmem_region *r = &m->r[i];

		/* No sum that can wrap: subtract from what is known larger. */
		if (gpa >= r->gpa && range_in(gpa - r->gpa, len, r->len))
			return r->host + (gpa - r->gpa);
	}
	return NULL;
}

void *gmem_at_w(const struct gmem *m, uint64_t gpa, uint64_t len)
{
	const struct gmem_region *r = gmem_find(m, gpa);

	if (!r || r->readonly || !range_in(gpa - r->gpa, len, r->len))
		return NULL;
	return r->host + (gpa - r->gpa);
}

/* Is all of [gpa, gpa+len) RAM, and writable if wanted? */
static bool gmem_covers(const struct gmem *m, uint64_t gpa, uint64_t len, bool write)
{
	while (len) {
		const struct gmem_region *r = gmem_find(m, gpa);

		if (!r || (write && r->readonly))
			return false;
		uint64_t n = MIN(len, r->len - (gpa - r->gpa));
		gpa += n;
		len -= n;
	}
	return true;
}

int gmem_read(const struct gmem *m, uint64_t gpa, void *dst, uint64_t len)
{
	if (!gmem_covers(m, gpa, len, false))
		return -EFAULT;
	for (char *d = dst; len;) {
		const struct gmem_region *r = gmem_find(m, gpa);
		uint64_t n = MIN(len, r->len - (gpa - r->gpa));

		memcpy(d, r->host + (gpa - r->gpa), n);
		d += n;
		gpa += n;
		len -= n;
	}
	return 0;
}

int gmem_write(const struct gmem *m, uint64_t gpa, const void *src, uint64_t len)
{
	uint64_t at = gpa, left = len;

	if (!gmem_covers(m, gpa, len, true))
		return -EFAULT;
	for (const char *s = src; left;) {
		const struct gmem_region *r = gmem_find(m, at);
		uint64_t n = MIN(left, r->len - (at - r->gpa));

		memcpy(r->host + (at - r->gpa), s, n);
		s += n;
		at += n;
		left -= n;
	}
	gmem_wrote(m, gpa, len);
	return 0;
}

static void gmem_mark(const struct gmem *m, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < m->n; i++) {
		const struct gmem_region *r = &m->r[i];

		if (!range_overlap(gpa, len, r->gpa, r->len))
			continue;
		uint64_t from = MAX(gpa, r->gpa) - r->gpa;
		uint64_t last = MIN(gpa + len - 1, r->gpa + r->len - 1) - r->gpa;
		for (uint64_t p = from >> GMEM_PAGE_SHIFT; p <= last >> GMEM_PAGE_SHIFT; p++)
			if (!bitmap_test_atomic(r->dirty, p))
				bitmap_set_atomic(r->dirty, p);
	}
}

void gmem_wrote(const struct gmem *m, uint64_t gpa, uint64_t len)
{
	if (!len)
		return;
	if (__atomic_load_n(&m->logging, __ATOMIC_ACQUIRE))
		gmem_mark(m, gpa, len);
	if (m->watch)
		m->watch->wrote(m->watch, gpa, len);
}

int gmem_log_start(struct gmem *m, struct err *e)
{
	if (m->logging)
		return err_set(e, EBUSY, "dirty logging is on already");
	for (unsigned i = 0; i < m->n; i++)
		memset(m->r[i].dirty, 0,
		       BITMAP_WORDS(m->r[i].len >> GMEM_PAGE_SHIFT) * sizeof(uint64_t));
	__atomic_store_n(&m->logging, true, __ATOMIC_RELEASE);
	return 0;
}

void gmem_log_stop(struct gmem *m)
{
	__atomic_store_n(&m->logging, false, __ATOMIC_RELEASE);
}

uint64_t gmem_dirty_take(struct gmem *m, unsigned i, uint64_t *ret_bits)
{
	uint64_t words = BITMAP_WORDS(m->r[i].len >> GMEM_PAGE_SHIFT), n = 0;

	for (uint64_t w = 0; w < words; w++) {
		ret_bits[w] = 0;
		if (__atomic_load_n(&m->r[i].dirty[w], __ATOMIC_RELAXED))
			ret_bits[w] = __atomic_exchange_n(&m->r[i].dirty[w], 0, __ATOMIC_ACQ_REL);
		n += (uint64_t)__builtin_popcountll(ret_bits[w]);
	}
	return n;
}
