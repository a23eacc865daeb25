/* Guest RAM: the door against a naive one, copies over borders, the dirty log. */
#include "mem/gmem.h"

#include "base/alloc.h"
#include "base/bits.h"
#include "base/num.h"
#include "lib/t.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The slow, obvious answer. */
static const struct gmem_region *naive_find(const struct gmem *m, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < m->n; i++) {
		unsigned __int128 lo = m->r[i].gpa, hi = lo + m->r[i].len;

		if ((unsigned __int128)gpa >= lo && (unsigned __int128)gpa + len <= hi)
			return &m->r[i];
	}
	return NULL;
}

static void test_at(void **state UNUSED)
{
	static uint8_t ram[3][64];
	struct gmem m = { .n = 3,
			  .r = {
				  { .gpa = 0, .len = 64, .host = ram[0] },
				  { .gpa = 64, .len = 10, .host = ram[1], .readonly = true },
				  { .gpa = UINT64_MAX - 63, .len = 63, .host = ram[2] },
			  } };
	uint64_t s = t_seed(42), hits = 0;

	for (int i = 0; i < 1000000; i++) {
		uint64_t gpa = (t_rnd(&s) & 1 ? 0 : UINT64_MAX - 70) + t_below(&s, 90);
		/* An empty range is decided by where it begins, see below. */
		uint64_t len =
			1 + (t_rnd(&s) & 3 ? t_below(&s, 80) : UINT64_MAX - 1 - t_below(&s, 80));
		const struct gmem_region *r = naive_find(&m, gpa, len);
		uint8_t *want = r ? r->host + (gpa - r->gpa) : NULL;

		assert_ptr_equal(gmem_at(&m, gpa, len), want);
		assert_ptr_equal(gmem_at_w(&m, gpa, len), r && r->readonly ? NULL : want);
		assert_ptr_equal(gmem_find(&m, gpa), naive_find(&m, gpa, 1));
		hits += r != NULL;
	}
	assert_true(hits > 1000);
	assert_non_null(gmem_at(&m, 5, 0));
	assert_null(gmem_at(&m, 1000, 0));
	assert_int_equal(gmem_size(&m), 64 + 10 + 63);
}

enum {
	P = GMEM_PAGE_SIZE,
};

static void add(struct gmem *m, const char *name, uint64_t gpa, uint64_t len, bool ro)
{
	struct err e;

	if (gmem_add(m, name, gpa, len, -1, 0, ro, &e) < 0)
		fail_msg("%s", e.msg);
}

/* Against a flat array in which every byte has a "there" and a "writable". */
static void test_copies(void **state UNUSED)
{
	enum {
		SPACE = 8 * P
	};
	static uint8_t model[SPACE], buf[SPACE], want[SPACE];
	static const char kind[8] = { 'w', 'w', '-', 'r', 'w', 'w', 'w', '-' };
	struct gmem m;
	uint64_t s = t_seed(7);
	unsigned ok = 0;

	gmem_init(&m);
	/* Out of order: they are sorted. */
	add(&m, "c", 4 * P, 3 * P, false);
	add(&m, "a", 0, 2 * P, false);
	add(&m, "b", 3 * P, P, true);
	assert_int_equal(m.n, 3);
	assert_true(m.r[0].gpa < m.r[1].gpa && m.r[1].gpa < m.r[2].gpa);
	for (int i = 0; i < 30000; i++) {
		uint64_t gpa = t_below(&s, SPACE), len = t_below(&s, t_below(&s, 2) ? 40 : 3 * P);
		bool write = t_below(&s, 2), fits = gpa + len <= SPACE;

		if (t_below(&s, 2))
			gpa = align_down(gpa, P) - t_below(&s, 20);
		fits = gpa + len <= SPACE && gpa < SPACE;
		for (uint64_t b = gpa; fits && b < gpa + len; b++)
			fits = kind[b / P] == 'w' || (!write && kind[b / P] == 'r');
		/* Nothing to copy is fine anywhere. */
		fits |= len == 0;
		for (uint64_t b = 0; b < len; b++)
			buf[b] = (uint8_t)t_rnd(&s);
		memcpy(want, buf, len);
		int rc = write ? gmem_write(&m, gpa, buf, len) : gmem_read(&m, gpa, buf, len);
		assert_int_equal(rc, fits ? 0 : -EFAULT);
		if (fits && write && len)
			memcpy(model + gpa, buf, len);
		/* All or nothing. */
		assert_memory_equal(buf, fits && !write && len ? model + gpa : want, len);
		ok += fits && len;
	}
	assert_true(ok > 3000);
	gmem_fini(&m);
}

static void test_copy_is_all_or_nothing(void **state UNUSED)
{
	uint8_t buf[2 * P], before[P];
	struct gmem m;

	gmem_init(&m);
	add(&m, "a", 0, P, false);
	memset(buf, 1, sizeof(buf));
	memset(before, 0, sizeof(before));
	assert_int_equal(gmem_write(&m, P / 2, buf, P), -EFAULT);
	assert_memory_equal(m.r[0].host, before, P);
	gmem_fini(&m);
}

struct watched {
	struct gmem_watch w;
	uint64_t gpa, len;
	unsigned calls;
};

static void wrote(struct gmem_watch *w, uint64_t gpa, uint64_t len)
{
	struct watched *x = container_of(w, struct watched, w);

	x->gpa = gpa;
	x->len = len;
	x->calls++;
}

static void test_dirty(void **state UNUSED)
{
	enum {
		PAGES = 200
	};
	struct gmem m;
	struct watched watch = { .w.wrote = wrote };
	bool model[PAGES] = { false };
	uint64_t bits[BITMAP_WORDS(PAGES)], s = t_seed(3);
	struct err e;

	gmem_init(&m);
	/* Two regions side by side; the second has 72 pages. */
	add(&m, "a", 0, 128 * P, false);
	add(&m, "b", 128 * P, 72 * P, false);
	m.watch = &watch.w;
	/* Not logging: nothing is marked. */
	assert_int_equal(gmem_write(&m, 5, "x", 1), 0);
	assert_int_equal(watch.calls, 1);
	assert_int_equal(gmem_dirty_take(&m, 0, bits), 0);
	assert_int_equal(gmem_log_start(&m, &e), 0);
	assert_int_equal(gmem_log_start(&m, &e), -EBUSY);
	for (int i = 0; i < 2000; i++) {
		uint64_t gpa = t_below(&s, PAGES * P), len = t_below(&s, 3 * P);

		if (t_below(&s, 2)) {
			gpa = align_down(gpa, P);
			len = align_down(len, P);
		}
		gmem_wrote(&m, gpa, len);
		for (uint64_t b = gpa; len && b < gpa + len && b < PAGES * P; b++)
			model[b / P] = true;
		if (t_below(&s, 20))
			continue;
		for (unsigned r = 0; r < 2; r++) {
			unsigned first = r ? 128 : 0, n = r ? 72 : 128, count = 0;

			uint64_t got = gmem_dirty_take(&m, r, bits);
			for (unsigned p = 0; p < n; p++) {
				assert_int_equal(bitmap_test(bits, p), model[first + p]);
				count += model[first + p];
				model[first + p] = false;
			}
			assert_int_equal(got, count);
		}
	}
	/* Outside of everything, and nothing. */
	gmem_wrote(&m, PAGES * P, P);
	gmem_wrote(&m, UINT64_MAX - P, P);
	watch.calls = 0;
	gmem_wrote(&m, 0, 0);
	assert_int_equal(watch.calls, 0);
	assert_int_equal(gmem_write(&m, 7 * P, "abc", 3), 0);
	assert_int_equal(watch.gpa, 7 * P);
	assert_int_equal(watch.len, 3);
	gmem_log_stop(&m);
	/* A new log starts clean. */
	gmem_wrote(&m, 0, 1);
	assert_int_equal(gmem_log_start(&m, &e), 0);
	assert_int_equal(gmem_dirty_take(&m, 0, bits), 0);
	gmem_fini(&m);
}

static void test_refused(void **state UNUSED)
{
	struct gmem m;
	struct err e;

	gmem_init(&m);
	add(&m, "a", 4 * P, 4 * P, false);
	assert_int_equal(gmem_add(&m, "x", 4 * P + 1, P, -1, 0, false, &e), -EINVAL);
	assert_int_equal(gmem_add(&m, "x", 0, P + 1, -1, 0, false, &e), -EINVAL);
	assert_int_equal(gmem_add(&m, "x", 0, 0, -1, 0, false, &e), -EINVAL);
	assert_int_equal(gmem_add(&m, "x", UINT64_MAX - P + 1, 2 * P, -1, 0, false, &e), -EINVAL);
	assert_int_equal(gmem_add(&m, "x", 3 * P, 2 * P, -1, 0, false, &e), -EEXIST);
	assert_non_null(strstr(e.msg, "overlaps 'a'"));
	assert_int_equal(gmem_add(&m, "x", 7 * P, P, -1, 0, false, &e), -EEXIST);
	assert_int_equal(gmem_add(&m, "x", 0, 100 * P, -1, 0, false, &e), -EEXIST);
	assert_int_equal(m.n, 1);
	/* Touching is no overlap. */
	add(&m, "b", 3 * P, P, false);
	add(&m, "c", 8 * P, P, false);
	for (unsigned i = m.n; i < GMEM_REGIONS; i++)
		add(&m, "more", (100 + i) * P, P, false);
	assert_int_equal(gmem_add(&m, "x", 0, P, -1, 0, false, &e), -ENOSPC);
	gmem_fini(&m);
	assert_int_equal(m.n, 0);
}

/* A piece of somebody's memfd: the same bytes on both sides. */
static void test_shared(void **state UNUSED)
{
	struct gmem m;
	struct err e;
	int fd = memfd_create("share", MFD_CLOEXEC);
	char buf[4] = "";

	gmem_init(&m);
	assert_int_equal(ftruncate(fd, 4 * P), 0);
	assert_int_equal(pwrite(fd, "abc", 3, 2 * P + 5), 3);
	assert_int_equal(gmem_add(&m, "s", P, P, fd, 2 * P, false, &e), 0);
	assert_true(m.r[0].fd != fd);
	assert_int_equal(gmem_read(&m, P + 5, buf, 3), 0);
	assert_string_equal(buf, "abc");
	assert_int_equal(gmem_write(&m, P + 5, "xyz", 3), 0);
	assert_int_equal(pread(fd, buf, 3, 2 * P + 5), 3);
	assert_string_equal(buf, "xyz");
	/* Ours is a descriptor of its own. */
	close(fd);
	assert_int_equal(pread(m.r[0].fd, buf, 3, 2 * P + 5), 3);
	assert_int_equal(gmem_add(&m, "bad", 8 * P, P, fd, 0, false, &e), -EBADF);
	gmem_fini(&m);
}

/* Mappings of guest memory in this process. */
static unsigned mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];
	unsigned n = 0;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		n += strstr(line, "memfd:a") != NULL;
	fclose(f);
	return n;
}

static void test_no_memory(void **state UNUSED)
{
	struct gmem m;
	struct err e;
	int rc, n = 0;

	gmem_init(&m);
	do {
		alloc_fail_after = n++;
		rc = gmem_add(&m, "a", 0, P, -1, 0, false, &e);
		assert_true(rc == 0 || rc == -ENOMEM);
		assert_int_equal(m.n, rc == 0);
		assert_int_equal(mappings(), rc == 0);
	} while (rc < 0 && n < 10);
	alloc_fail_after = -1;
	assert_true(rc == 0 && n > 1);
	gmem_fini(&m);
	assert_int_equal(mappings(), 0);
}

/* More than there are addresses: nothing is allocated by such a number before it is refused. */
static void test_too_large(void **state UNUSED)
{
	struct gmem m;
	struct err e;

	gmem_init(&m);
	/* An allocation would fail, and say so. */
	alloc_fail_after = 0;
	assert_int_equal(gmem_add(&m, "a", 0, 1ull << 50, -1, 0, false, &e), -ENOMEM);
	alloc_fail_after = -1;
	assert_non_null(strstr(e.msg, "cannot map 1073741824 MiB of guest memory"));
	assert_int_equal(m.n, 0);
	gmem_fini(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_at),
		cmocka_unit_test(test_copies),
		cmocka_unit_test(test_copy_is_all_or_nothing),
		cmocka_unit_test(test_dirty),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_shared),
		cmocka_unit_test(test_no_memory),
		cmocka_unit_test(test_too_large),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
