/* The small tools: ranges, bits, bytes, lists, errors, allocation, files, threads. */
#include "base/alloc.h"
#include "base/bits.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/list.h"
#include "base/log.h"
#include "base/num.h"
#include "base/thread.h"

#include "lib/t.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

typedef unsigned __int128 u128;

/* Values bunched at the edges of 64 bits. */
static uint64_t edge(uint64_t *s)
{
	switch (t_below(s, 4)) {
	case 0:
		return t_below(s, 20);
	case 1:
		return UINT64_MAX - t_below(s, 20);
	case 2:
		return (1ull << t_below(s, 64)) + t_below(s, 3) - 1;
	default:
		return t_rnd(s);
	}
}

static void test_ranges(void **state UNUSED)
{
	uint64_t s = t_seed(1);
	unsigned in = 0, over = 0;

	for (int i = 0; i < 500000; i++) {
		uint64_t a = edge(&s), al = edge(&s), b = edge(&s), bl = edge(&s);
		bool want_in = (u128)a + al <= bl;
		/* The first and the last byte that both could have. */
		u128 lo = a > b ? a : b, ahi = (u128)a + al, bhi = (u128)b + bl;
		bool want_over = lo < (ahi < bhi ? ahi : bhi);

		assert_int_equal(range_in(a, al, bl), want_in);
		assert_int_equal(range_overlap(a, al, b, bl), want_over);
		in += want_in;
		over += want_over;
	}
	assert_true(in > 10000 && over > 10000);
}

static void test_numbers(void **state UNUSED)
{
	uint64_t s = t_seed(2), v;

	for (int i = 0; i < 100000; i++) {
		uint64_t a = edge(&s), b = edge(&s), p = 1ull << t_below(&s, 63);

		assert_int_equal(add_ok(a, b, &v), (u128)a + b <= UINT64_MAX);
		assert_int_equal(mul_ok(a, b, &v), (u128)a * b <= UINT64_MAX);
		assert_int_equal(sub_ok(a, b, &v), a >= b);
		assert_true(align_down(a, p) == a / p * p);
		if (a <= UINT64_MAX - p)
			assert_true(align_up(a, p) == (a + p - 1) / p * p);
		assert_int_equal(is_pow2(a), __builtin_popcountll(a) == 1);
	}
	assert_int_equal(MIN(3, 2), 2);
	assert_int_equal(MAX(-3, 2), 2);
	assert_int_equal(GIB(3), 3ull << 30);
}

static void test_bits(void **state UNUSED)
{
	uint64_t s = t_seed(3), map[BITMAP_WORDS(200)] = { 0 };
	bool model[200] = { false };

	for (int i = 0; i < 20000; i++) {
		uint64_t n = t_below(&s, 200), x = t_rnd(&s);
		unsigned lo = (unsigned)t_below(&s, 64), hi = lo + (unsigned)t_below(&s, 64 - lo);
		uint64_t want = 0;

		for (unsigned b = lo; b <= hi; b++)
			want |= (x >> b & 1) << (b - lo);
		assert_true(bits_get(x, hi, lo) == want);
		assert_int_equal(bitmap_test(map, n), model[n]);
		assert_int_equal(bitmap_test_atomic(map, n), model[n]);
		switch (t_below(&s, 4)) {
		case 0:
			bitmap_set(map, n);
			break;
		case 1:
			assert_int_equal(bitmap_set_atomic(map, n), model[n]);
			break;
		case 2:
			bitmap_clear(map, n);
			model[n] = false;
			continue;
		case 3:
			assert_int_equal(bitmap_clear_atomic(map, n), model[n]);
			model[n] = false;
			continue;
		}
		model[n] = true;
	}
	assert_int_equal(BITMAP_WORDS(0), 0);
	assert_int_equal(BITMAP_WORDS(64), 1);
	assert_int_equal(BITMAP_WORDS(65), 2);
}

static void test_bytes(void **state UNUSED)
{
	uint8_t b[9] = { 0xff, 1, 2, 3, 4, 5, 6, 7, 8 };

	assert_int_equal(ld_le16(b + 1), 0x0201);
	assert_int_equal(ld_be16(b + 1), 0x0102);
	assert_int_equal(ld_le32(b + 1), 0x04030201);
	assert_int_equal(ld_be32(b + 1), 0x01020304);
	assert_true(ld_le64(b + 1) == 0x0807060504030201);
	assert_true(ld_be64(b + 1) == 0x0102030405060708);
	assert_int_equal(ld_le(b + 1, 1), 1);
	assert_true(ld_le(b + 1, 8) == 0x0807060504030201);
	st_be32(b + 1, 0xa0b0c0d0);
	assert_memory_equal(b, ((const uint8_t[]){ 0xff, 0xa0, 0xb0, 0xc0, 0xd0, 5 }), 6);
	st_le16(b + 3, 0x1122);
	assert_memory_equal(b, ((const uint8_t[]){ 0xff, 0xa0, 0xb0, 0x22, 0x11, 5 }), 6);
	st_le(b, 4, 0x99887766);
	assert_int_equal(b[0], 0x66);
	assert_int_equal(b[3], 0x99);
	assert_int_equal(b[4], 0x11);
}

struct item {
	int v;
	struct list node;
};

static void test_list(void **state UNUSED)
{
	struct list head = LIST_INIT(head);
	struct item it[4] = { { .v = 1 }, { .v = 2 }, { .v = 3 }, { .v = 4 } };
	int order = 0;

	assert_true(list_empty(&head));
	list_add_tail(&head, &it[1].node);
	list_add_tail(&head, &it[2].node);
	list_add_head(&head, &it[0].node);
	list_add_tail(&head, &it[3].node);
	list_for_each (p, &head)
		order = order * 10 + list_entry(p, struct item, node)->v;
	assert_int_equal(order, 1234);
	assert_ptr_equal(list_first(&head, struct item, node), &it[0]);
	order = 0;
	list_for_each_safe (p, &head) {
		struct item *x = list_entry(p, struct item, node);

		order = order * 10 + x->v;
		if (x->v % 2 == 0)
			list_del(p);
	}
	assert_int_equal(order, 1234);
	order = 0;
	list_for_each (p, &head)
		order = order * 10 + list_entry(p, struct item, node)->v;
	assert_int_equal(order, 13);
	/* Once more does nothing. */
	list_del(&it[1].node);
	list_del(&it[0].node);
	list_del(&it[2].node);
	assert_true(list_empty(&head));
}

static void test_err(void **state UNUSED)
{
	struct err e = { 0 };
	char name[300];

	assert_int_equal(err_set(&e, ENOENT, "no '%s'", "x"), -ENOENT);
	assert_int_equal(e.code, ENOENT);
	assert_string_equal(e.msg, "no 'x'");
	assert_int_equal(err_in(&e, "disk %d", 3), -ENOENT);
	assert_string_equal(e.msg, "disk 3: no 'x'");
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = 0;
	err_in(&e, "%s", name);
	assert_int_equal(strlen(e.msg), sizeof(e.msg) - 1);
	err_set(&e, EIO, "%s", name);
	assert_int_equal(strlen(e.msg), sizeof(e.msg) - 1);
	/* Of a long message the object's begin and the cause are left. */
	err_set(&e, EIO, "cannot open '/%s': No such file", name);
	assert_int_equal(strlen(e.msg), sizeof(e.msg) - 1);
	assert_memory_equal(e.msg, "cannot open '/nnn", 17);
	assert_string_equal(e.msg + sizeof(e.msg) - 1 - 17, "nn': No such file");
	err_in(&e, "kernel");
	assert_memory_equal(e.msg, "kernel: cannot open '/nnn", 25);
	assert_non_null(strstr(e.msg, "...nn"));
	assert_non_null(strstr(e.msg, "nn': No such file"));
}

static void test_alloc(void **state UNUSED)
{
	uint32_t *p = xcalloc(3, sizeof(*p));

	assert_int_equal(p[0] | p[1] | p[2], 0);
	p[0] = p[1] = p[2] = 7;
	p = xgrow(p, 3, 1000, sizeof(*p));
	for (int i = 0; i < 1000; i++)
		assert_int_equal(p[i], i < 3 ? 7 : 0);
	assert_null(xgrow(p, 1000, SIZE_MAX / 2, sizeof(*p)));
	free(p);
	alloc_fail_after = 1;
	void *a = xzalloc(1), *b = xzalloc(1), *c = xzalloc(1);
	alloc_fail_after = -1;
	assert_non_null(a);
	assert_null(b);
	assert_null(c);
	free(a);
	AUTO_FREE char *s = xasprintf("%s-%d", "a", 5);
	AUTO_FREE char *t = xstrdup(s);
	assert_string_equal(t, "a-5");
}

static void test_files(void **state UNUSED)
{
	static uint8_t data[200000], back[200000];
	char name[] = "base-test-XXXXXX";
	uint64_t s = t_seed(5);
	struct err e;
	void *all;
	size_t len;
	int fd = mkstemp(name), p[2];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)t_rnd(&s);
	assert_int_equal(file_write_full(fd, data, sizeof(data)), 0);
	assert_int_equal(file_pread_full(fd, back, 1000, sizeof(data) - 10), 10);
	assert_int_equal(file_pread_full(fd, back, sizeof(back), 0), sizeof(data));
	assert_memory_equal(back, data, sizeof(data));
	assert_int_equal(file_pwrite_full(fd, "XYZ", 3, 5), 0);
	memcpy(data + 5, "XYZ", 3);
	assert_int_equal(file_read_all(name, sizeof(data), &all, &len, &e), 0);
	assert_int_equal(len, sizeof(data));
	assert_memory_equal(all, data, len);
	assert_int_equal(((char *)all)[len], 0);
	free(all);
	assert_int_equal(file_read_all(name, sizeof(data) - 1, &all, &len, &e), -EFBIG);
	assert_int_equal(file_read_all("/nonexistent", 10, &all, &len, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "'/nonexistent'"));
	assert_int_equal(file_read_all(".", 10, &all, &len, &e), -EISDIR);
	close(fd);
	unlink(name);
	/* A pipe, with nothing in it. */
	assert_int_equal(pipe(p), 0);
	close(p[1]);
	assert_int_equal(file_read_fd(p[0], "pipe", 10, &all, &len, &e), 0);
	assert_int_equal(len, 0);
	free(all);
	close(p[0]);
	assert_int_equal(file_pread_full(-1, back, 1, 0), -EBADF);
	assert_int_equal(file_write_full(-1, back, 1), -EBADF);
	assert_int_equal(file_pwrite_full(-1, back, 1, 0), -EBADF);
}

static struct {
	struct lock lock;
	struct cond cond;
	int turn, count;
} table;

static void player(void *arg)
{
	int me = *(int *)arg;

	for (int i = 0; i < 1000; i++) {
		SCOPED_LOCK(&table.lock);
		while (table.turn != me)
			cond_wait(&table.cond, &table.lock);
		table.count++;
		table.turn = 1 - me;
		cond_wake_all(&table.cond);
	}
}

static void test_threads(void **state UNUSED)
{
	struct thread t[2] = { 0 };
	int me[2] = { 0, 1 };
	struct err e;

	lock_init(&table.lock);
	cond_init(&table.cond);
	for (int i = 0; i < 2; i++)
		assert_int_equal(thread_start(&t[i], "player", player, &me[i], &e), 0);
	for (int i = 0; i < 2; i++)
		thread_join(&t[i]);
	assert_int_equal(table.count, 2000);
	thread_join(&t[0]);

	uint64_t start = clock_ns();
	lock(&table.lock);
	while (cond_wait_until(&table.cond, &table.lock, start + 20 * NS_PER_MS))
		;
	unlock(&table.lock);
	assert_true(clock_ns() >= start + 20 * NS_PER_MS);
	cond_fini(&table.cond);
	lock_fini(&table.lock);
}

/* What a guest can cause is limited on the log and counted. */
static void test_log_limit(void **state UNUSED)
{
	struct log_limit lim = { 0 };
	char name[] = "base-test-XXXXXX", text[8192] = "";
	int fd = mkstemp(name), saved = dup(2);
	unsigned lines = 0;

	dup2(fd, 2);
	for (int i = 0; i < 100; i++)
		log_guest(&lim, "disk0", "ring %d", i);
	log_error("no '%s'", "a\nb\033[2J\177\303\244");
	fflush(stderr);
	dup2(saved, 2);
	close(saved);
	ssize_t n = file_pread_full(fd, text, sizeof(text) - 1, 0);
	for (ssize_t i = 0; i < n; i++)
		lines += text[i] == '\n';
	assert_int_equal(lim.count, 100);
	assert_int_equal(lines, 11);
	/* What was named cannot make a line, nor work the terminal. */
	text[n] = 0;
	assert_non_null(strstr(text, "sampan: error: no 'a?b?[2J?\303\244'\n"));
	assert_memory_equal(text, "sampan: warning: disk0: ring 0\n", 31);
	close(fd);
	unlink(name);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ranges),  cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_bits),    cmocka_unit_test(test_bytes),
		cmocka_unit_test(test_list),    cmocka_unit_test(test_err),
		cmocka_unit_test(test_alloc),   cmocka_unit_test(test_files),
		cmocka_unit_test(test_threads), cmocka_unit_test(test_log_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
