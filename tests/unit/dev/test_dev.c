/* The board's list of devices: instances, and state that names each of them once. */
#include "lib/dev_rig.h"
#include "lib/t.h"

#include <errno.h>
#include <string.h>

/* A device whose state is one byte. */
struct toy {
	struct dev dev;
	uint8_t value;
};

static void toy_free(struct dev *d)
{
	free(container_of(d, struct toy, dev));
}

static void *toy_state_obj(struct dev *d)
{
	return container_of(d, struct toy, dev);
}

static const struct state_field toy_fields[] = {
	STATE_FIELD(struct toy, value, 1),
};

static const struct state_desc toy_state = {
	.name = "toy",
	.version = 1,
	.oldest = 1,
	.field = toy_fields,
	.nfield = COUNT_OF(toy_fields),
};

static const struct dev_ops toy_ops = {
	.type = "toy",
	.free = toy_free,
	.state = &toy_state,
	.state_obj = toy_state_obj,
	.state_size = sizeof(struct toy),
};

static struct toy *toy_new(struct rig *r, const char *name, uint8_t value)
{
	struct toy *t = calloc(1, sizeof(*t));

	assert_non_null(t);
	dev_init(&t->dev, &toy_ops, &r->board, name);
	t->value = value;
	return t;
}

/* Sections may come in any order, but each once and all of them. */
static void test_load(void **state)
{
	struct rig *r = rig_new_bare();
	struct toy *a = toy_new(r, "a", 1), *b = toy_new(r, "b", 2);
	struct state_buf buf = { 0 };
	uint8_t bent[512];
	struct err e = { 0 };

	assert_int_equal(a->dev.instance, 0);
	assert_int_equal(b->dev.instance, 1);
	assert_int_equal(board_save(&r->board, &buf, &e), 0);
	size_t half = buf.len / 2;
	assert_true(buf.len <= sizeof(bent));

	memcpy(bent, buf.data + half, half);
	memcpy(bent + half, buf.data, half);
	a->value = b->value = 0;
	assert_int_equal(board_load(&r->board, bent, buf.len, &e), 0);
	assert_int_equal(a->value, 1);
	assert_int_equal(b->value, 2);

	/* One of them twice, in the place of the other. */
	memcpy(bent + half, bent, half);
	assert_int_equal(board_load(&r->board, bent, buf.len, &e), -EPROTO);
	assert_non_null(strstr(e.msg, "twice"));
	/* One missing. */
	assert_int_equal(board_load(&r->board, buf.data, half, &e), -EPROTO);
	assert_non_null(strstr(e.msg, "no state of 'toy' 1"));
	/* A refusal is not remembered. */
	assert_int_equal(board_load(&r->board, buf.data, buf.len, &e), 0);
	state_buf_fini(&buf);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
