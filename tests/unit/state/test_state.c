/* Saved state: the bytes on the wire, the way back, and streams from a liar. */
#include "state/state.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "lib/t.h"

#include <errno.h>
#include <string.h>

struct part {
	uint16_t a;
	uint8_t b[3];
};

struct thing {
	/* Not saved. */
	void *host;
	uint8_t u8;
	uint16_t u16;
	uint32_t u32[3];
	uint64_t u64;
	struct part one, many[2];
	/* Came later. */
	uint32_t late;
	uint8_t at;
};

static const struct state_field part_fields[] = {
	STATE_FIELD(struct part, a, 1),
	STATE_ARRAY(struct part, b, 1),
};

static const struct state_desc part_state = {
	.name = "part",
	.version = 1,
	.oldest = 1,
	.field = part_fields,
	.nfield = COUNT_OF(part_fields),
};

static int thing_check(const void *obj, struct err *e)
{
	const struct thing *t = obj;

	if (t->at >= COUNT_OF(t->u32))
		return err_set(e, EPROTO, "position %u is out of range", t->at);
	return 0;
}

static const struct state_field thing_fields[] = {
	STATE_FIELD(struct thing, u8, 1),
	STATE_FIELD(struct thing, u16, 1),
	STATE_ARRAY(struct thing, u32, 1),
	STATE_FIELD(struct thing, u64, 1),
	STATE_STRUCT_FIELD(struct thing, one, &part_state, 1),
	STATE_STRUCT_ARRAY(struct thing, many, &part_state, 1),
	STATE_FIELD(struct thing, late, 2),
	STATE_FIELD(struct thing, at, 1),
};

static const struct state_desc thing_state = {
	.name = "thing",
	.version = 2,
	.oldest = 1,
	.field = thing_fields,
	.nfield = COUNT_OF(thing_fields),
	.check = thing_check,
};

/* The same table as it was in version 1, and one from the future. */
static const struct state_field old_fields[] = {
	STATE_FIELD(struct thing, u8, 1),
	STATE_FIELD(struct thing, u16, 1),
	STATE_ARRAY(struct thing, u32, 1),
	STATE_FIELD(struct thing, u64, 1),
	STATE_STRUCT_FIELD(struct thing, one, &part_state, 1),
	STATE_STRUCT_ARRAY(struct thing, many, &part_state, 1),
	STATE_FIELD(struct thing, at, 1),
};

static const struct state_desc old_state = {
	.name = "thing",
	.version = 1,
	.oldest = 1,
	.field = old_fields,
	.nfield = COUNT_OF(old_fields),
};

static const struct thing sample = {
	.host = (void *)&part_state,
	.u8 = 0x11,
	.u16 = 0x2233,
	.u32 = { 0x44556677, 1, 2 },
	.u64 = 0x8899aabbccddeeff,
	.one = { 0x0102, { 3, 4, 5 } },
	.many = { { 0x0607, { 8, 9, 10 } }, { 0x0b0c, { 13, 14, 15 } } },
	.late = 0xcafe,
	.at = 2,
};

/* The format is a promise: length, version, name, instance, fields in order, little-endian. */
static const uint8_t golden[] = {
	0x38, 0, 0,    0,    2,    0,    5,    0,    't',  'h',  'i',  'n',  'g', 9, 0,
	0,    0, 0x11, 0x33, 0x22, 0x77, 0x66, 0x55, 0x44, 1,    0,    0,    0,   2, 0,
	0,    0, 0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99, 0x88, 2,    1,    3,   4, 5,
	7,    6, 8,    9,    10,   0x0c, 0x0b, 13,   14,   15,   0xfe, 0xca, 0,   0, 2,
};

static size_t save(const struct state_desc *d, const struct thing *t, struct state_buf *b)
{
	struct err e;

	assert_int_equal(state_save(d, 9, t, b, &e), 0);
	return b->len;
}

static void test_golden(void **state UNUSED)
{
	struct state_buf b = { 0 };

	save(&thing_state, &sample, &b);
	assert_int_equal(b.len, sizeof(golden));
	assert_memory_equal(b.data, golden, sizeof(golden));
	state_buf_fini(&b);
	assert_null(b.data);
}

/* What could not be loaded is not saved. */
static void test_too_long(void **state UNUSED)
{
	enum {
		LEN = 1 << 24,
	};
	struct state_field field = {
		.name = "bytes", .kind = STATE_INT, .size = 1, .since = 1, .count = LEN
	};
	const struct state_desc d = {
		.name = "large", .version = 1, .oldest = 1, .field = &field, .nfield = 1
	};
	struct state_buf b = { 0 };
	struct err e = { 0 };
	char *bytes = xzalloc(LEN);

	assert_non_null(bytes);
	assert_int_equal(state_save(&d, 0, bytes, &b, &e), -EFBIG);
	assert_non_null(strstr(e.msg, "large"));
	assert_int_equal(b.len, 0);
	/* The longest that is allowed goes both ways: version, two lengths, name, instance. */
	field.count = LEN - 2 - 2 - 5 - 4;
	bytes[field.count - 1] = 7;
	assert_int_equal(state_save(&d, 0, bytes, &b, &e), 0);
	bytes[field.count - 1] = 0;
	assert_int_equal(state_load(&d, 0, bytes, LEN, b.data, b.len, &e), b.len);
	assert_int_equal(bytes[field.count - 1], 7);
	state_buf_fini(&b);
	free(bytes);
}

static bool same(const struct thing *a, const struct thing *b)
{
	return a->u8 == b->u8 && a->u16 == b->u16 && !memcmp(a->u32, b->u32, sizeof(a->u32)) &&
	       a->u64 == b->u64 && a->one.a == b->one.a &&
	       !memcmp(a->one.b, b->one.b, sizeof(a->one.b)) && a->many[0].a == b->many[0].a &&
	       a->many[1].a == b->many[1].a && !memcmp(a->many[0].b, b->many[0].b, 3) &&
	       !memcmp(a->many[1].b, b->many[1].b, 3) && a->late == b->late && a->at == b->at;
}

static void test_round_trip(void **state UNUSED)
{
	uint64_t s = t_seed(6);
	struct err e;

	for (int i = 0; i < 3000; i++) {
		struct thing a, c = { .host = &s };
		struct state_buf b = { 0 };

		for (size_t j = 0; j < sizeof(a); j++)
			((uint8_t *)&a)[j] = (uint8_t)t_rnd(&s);
		a.at %= 3;
		/* Not at the start of the buffer. */
		assert_int_equal(state_save(&part_state, 0, &a.one, &b, &e), 0);
		size_t first = b.len;
		size_t len = save(&thing_state, &a, &b) - first;
		assert_int_equal(
			state_load(&thing_state, 9, &c, sizeof(c), b.data + first, len, &e), len);
		assert_true(same(&a, &c));
		/* What is not in the table stays. */
		assert_ptr_equal(c.host, &s);
		state_buf_fini(&b);
	}
}

static void test_versions(void **state UNUSED)
{
	struct state_buf b = { 0 };
	struct thing t = { .late = 77 };
	struct err e;

	save(&old_state, &sample, &b);
	assert_int_equal(state_load(&thing_state, 9, &t, sizeof(t), b.data, b.len, &e), b.len);
	/* Not in the stream: it keeps its value. */
	assert_int_equal(t.late, 77);
	assert_int_equal(t.at, 2);
	b.len = 0;
	save(&thing_state, &sample, &b);
	assert_int_equal(state_load(&old_state, 9, &t, sizeof(t), b.data, b.len, &e), -EPROTO);
	assert_non_null(strstr(e.msg, "version 2"));
	struct state_desc newer = thing_state;
	newer.version = 3;
	newer.oldest = 3;
	assert_int_equal(state_load(&newer, 9, &t, sizeof(t), b.data, b.len, &e), -EPROTO);
	state_buf_fini(&b);
}

/* Whatever the stream says: refused with nothing changed, or loaded and good. */
static void load_any(const uint8_t *data, size_t len, unsigned *ret_loaded)
{
	struct thing t = { .u8 = 0x5a, .u64 = 12345, .late = 1 }, before = t;
	/* Exactly as long, for the sanitizer to see one byte too many. */
	uint8_t *copy = malloc(len ? len : 1);
	struct err e;

	memcpy(copy, data, len);
	ssize_t rc = state_load(&thing_state, 9, &t, sizeof(t), copy, len, &e);
	if (rc < 0) {
		assert_int_equal(rc, -EPROTO);
		assert_true(same(&t, &before));
	} else {
		assert_true((size_t)rc <= len);
		assert_true(t.at < 3);
		++*ret_loaded;
	}
	free(copy);
}

static void test_corrupt(void **state UNUSED)
{
	uint8_t bad[sizeof(golden) + 40];
	uint64_t s = t_seed(12);
	unsigned loaded = 0;

	/* Cut anywhere. */
	for (size_t n = 0; n < sizeof(golden); n++)
		load_any(golden, n, &loaded);
	assert_int_equal(loaded, 0);
	/* Every byte, every bit. */
	for (size_t n = 0; n < sizeof(golden) * 8; n++) {
		memcpy(bad, golden, sizeof(golden));
		bad[n / 8] ^= (uint8_t)(1 << n % 8);
		load_any(bad, sizeof(golden), &loaded);
	}
	/* The fields' bits make other values; the header's none of them. */
	assert_true(loaded > 200 && loaded < (sizeof(golden) - 17) * 8);
	for (int i = 0; i < 100000; i++) {
		memset(bad, 0, sizeof(bad));
		memcpy(bad, golden, sizeof(golden));
		for (uint64_t k = 1 + t_below(&s, 4); k; k--)
			bad[t_below(&s, sizeof(bad))] = (uint8_t)t_rnd(&s);
		load_any(bad, t_below(&s, sizeof(bad) + 1), &loaded);
	}
}

static void test_refused(void **state UNUSED)
{
	uint8_t bad[sizeof(golden)];
	struct thing t = sample;
	struct err e;

	/* Longer or shorter than the fields. */
	memcpy(bad, golden, sizeof(bad));
	bad[0]--;
	assert_int_equal(state_load(&thing_state, 9, &t, sizeof(t), bad, sizeof(bad), &e), -EPROTO);
	assert_non_null(strstr(e.msg, "wrong length"));
	/* Another instance, another name. */
	assert_int_equal(state_load(&thing_state, 8, &t, sizeof(t), golden, sizeof(golden), &e),
			 -EPROTO);
	assert_int_equal(
		state_load(&part_state, 9, &t.one, sizeof(t.one), golden, sizeof(golden), &e),
		-EPROTO);
	assert_non_null(strstr(e.msg, "'thing' 9 where 'part' 9"));
	/* The check speaks. */
	memcpy(bad, golden, sizeof(bad));
	bad[sizeof(bad) - 1] = 3;
	assert_int_equal(state_load(&thing_state, 9, &t, sizeof(t), bad, sizeof(bad), &e), -EPROTO);
	assert_string_equal(e.msg, "state of 'thing': position 3 is out of range");
	assert_true(same(&t, &sample));
	/* A length beyond reason. */
	memcpy(bad, golden, sizeof(bad));
	st_le32(bad, UINT32_MAX);
	assert_int_equal(state_load(&thing_state, 9, &t, sizeof(t), bad, sizeof(bad), &e), -EPROTO);
}

static void test_peek(void **state UNUSED)
{
	struct state_head h;
	uint8_t bad[200] = { 0 };
	struct err e;

	assert_int_equal(state_peek(golden, sizeof(golden), &h, &e), 0);
	assert_string_equal(h.name, "thing");
	assert_int_equal(h.version, 2);
	assert_int_equal(h.instance, 9);
	assert_int_equal(h.total_len, sizeof(golden));
	/* No name; one longer than any; one that reaches past its section. */
	st_le32(bad, 100);
	assert_int_equal(state_peek(bad, sizeof(bad), &h, &e), -EPROTO);
	st_le16(bad + 6, 48);
	assert_int_equal(state_peek(bad, sizeof(bad), &h, &e), -EPROTO);
	st_le16(bad + 6, 47);
	/* With a zero inside; without. */
	assert_int_equal(state_peek(bad, sizeof(bad), &h, &e), -EPROTO);
	memset(bad + 8, 'n', 47);
	assert_int_equal(state_peek(bad, sizeof(bad), &h, &e), 0);
	st_le32(bad, 47 + 4 + 3);
	assert_int_equal(state_peek(bad, sizeof(bad), &h, &e), -EPROTO);
	st_le32(bad, 47 + 4 + 4);
	assert_int_equal(state_peek(bad, sizeof(bad), &h, &e), 0);
}

static void test_no_memory(void **state UNUSED)
{
	struct state_buf b = { 0 };
	struct thing t = { 0 };
	struct err e;
	int n = 0, rc;

	do {
		alloc_fail_after = n++;
		rc = state_save(&thing_state, 9, &sample, &b, &e);
		/* A failed save leaves what was there before. */
		assert_int_equal(b.len, rc < 0 ? 0 : sizeof(golden));
	} while (rc == -ENOMEM);
	assert_true(rc == 0 && n > 1);
	alloc_fail_after = 0;
	assert_int_equal(state_load(&thing_state, 9, &t, sizeof(t), b.data, b.len, &e), -ENOMEM);
	alloc_fail_after = -1;
	state_buf_fini(&b);
}

static void test_dump(void **state UNUSED)
{
	char *text = state_dump(&thing_state, &sample);

	assert_non_null(strstr(text, "thing.u16 = 0x2233\n"));
	assert_non_null(strstr(text, "thing.u32[1] = 0x1\n"));
	assert_non_null(strstr(text, "thing.u64 = 0x8899aabbccddeeff\n"));
	assert_non_null(strstr(text, "thing.one.b[2] = 0x5\n"));
	assert_non_null(strstr(text, "thing.many[1].a = 0xb0c\n"));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_golden),    cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_versions),  cmocka_unit_test(test_corrupt),
		cmocka_unit_test(test_refused),   cmocka_unit_test(test_peek),
		cmocka_unit_test(test_no_memory), cmocka_unit_test(test_dump),
		cmocka_unit_test(test_too_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
