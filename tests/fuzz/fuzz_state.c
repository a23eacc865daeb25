/*
 * Loading saved state: any stream is refused with the object untouched, or loads something that the
 * table's check accepts and that is saved again as the same bytes.
 */
#include "state/state.h"

#include "base/bug.h"
#include "base/bytes.h"

#include <stdlib.h>
#include <string.h>

struct part {
	uint16_t a;
	uint8_t b[3];
};

struct thing {
	uint8_t u8;
	uint16_t u16[2];
	uint64_t u64;
	struct part many[3];
	uint32_t late;
	uint8_t at;
};

static const struct state_field part_fields[] = {
	STATE_FIELD(struct part, a, 1),
	STATE_ARRAY(struct part, b, 2),
};

static const struct state_desc part_state = {
	.name = "part",
	.version = 2,
	.oldest = 1,
	.field = part_fields,
	.nfield = COUNT_OF(part_fields),
};

static int thing_check(const void *obj, struct err *e)
{
	const struct thing *t = obj;

	return t->at > 3 ? err_set(e, 71, "at %u", t->at) : 0;
}

static const struct state_field thing_fields[] = {
	STATE_FIELD(struct thing, u8, 1),   STATE_ARRAY(struct thing, u16, 1),
	STATE_FIELD(struct thing, u64, 2),  STATE_STRUCT_ARRAY(struct thing, many, &part_state, 1),
	STATE_FIELD(struct thing, late, 3), STATE_FIELD(struct thing, at, 1),
};

static const struct state_desc thing_state = {
	.name = "thing",
	.version = 3,
	.oldest = 1,
	.field = thing_fields,
	.nfield = COUNT_OF(thing_fields),
	.check = thing_check,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct thing t, before;
	struct state_buf b = { 0 };
	struct state_head h;
	struct err e;

	memset(&t, 0x5a, sizeof(t));
	t.at = 1;
	before = t;
	ssize_t rc = state_load(&thing_state, 0, &t, sizeof(t), data, size, &e);
	if (rc < 0) {
		BUG_ON(memcmp(&t, &before, sizeof(t)) != 0);
		return 0;
	}
	BUG_ON((size_t)rc > size || thing_check(&t, &e) < 0);
	BUG_ON(state_peek(data, size, &h, &e) < 0 || h.total_len != (size_t)rc);
	BUG_ON(state_save(&thing_state, 0, &t, &b, &e) < 0);
	if (h.version == 3)
		BUG_ON(b.len != (size_t)rc || memcmp(b.data, data, b.len) != 0);
	state_buf_fini(&b);
	free(state_dump(&thing_state, &t));
	return 0;
}
