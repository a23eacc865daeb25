/*
 * What is saved and migrated: tables of fields.
 *
 * A device declares its saved state once, as a table of fields with explicit widths; the table
 * gives save, load, dump, documentation and a fuzz target.  On the wire all integers are
 * little-endian.  Host pointers, descriptors and sizes never travel.
 *
 * A section is written as (docs/format/state.md):
 *	u32 length of what follows, u16 version, u16 name length, name, u32 instance, then the
 *fields in table order, each array element after the other; fields newer than the version are
 *absent.
 */
#pragma once

#include "base/err.h"

#include <sys/types.h>

struct state_desc;

enum state_kind {
	STATE_INT,
	/* A nested struct (or an array of them) with its own table, written inline. */
	STATE_STRUCT,
};

struct state_field {
	const char *name;
	size_t offset;
	enum state_kind kind;
	/* STATE_INT: 1, 2, 4 or 8 bytes (bool is 1).  STATE_STRUCT: size of one element. */
	uint16_t size;
	/* Version of the table in which the field came. */
	uint16_t since;
	uint32_t count;
	/* STATE_STRUCT only. */
	const struct state_desc *desc;
};

struct state_desc {
	const char *name;
	uint16_t version;
	/* Oldest version that still loads. */
	uint16_t oldest;
	const struct state_field *field;
	unsigned nfield;
	/* Is *obj, just loaded into a scratch copy, something the device can continue from?
	 * Runs before anything uses it.  [NULL: everything is] */
	int (*check)(const void *obj, struct err *e);
};

#define STATE_FIELD(type, m, since_)                                           \
	{                                                                      \
		.name = #m, .offset = offsetof(type, m), .kind = STATE_INT,    \
		.size = sizeof(((type *)0)->m), .since = (since_), .count = 1, \
	}
/* An array of integers. */
#define STATE_ARRAY(type, m, since_)                                         \
	{                                                                    \
		.name = #m, .offset = offsetof(type, m), .kind = STATE_INT,  \
		.size = sizeof(((type *)0)->m[0]), .since = (since_),        \
		.count = sizeof(((type *)0)->m) / sizeof(((type *)0)->m[0]), \
	}
#define STATE_STRUCT_FIELD(type, m, desc_, since_)                                              \
	{                                                                                       \
		.name = #m, .offset = offsetof(type, m), .kind = STATE_STRUCT,                  \
		.size = sizeof(((type *)0)->m), .since = (since_), .count = 1, .desc = (desc_), \
	}
#define STATE_STRUCT_ARRAY(type, m, desc_, since_)                                            \
	{                                                                                     \
		.name = #m, .offset = offsetof(type, m), .kind = STATE_STRUCT,                \
		.size = sizeof(((type *)0)->m[0]), .since = (since_),                         \
		.count = sizeof(((type *)0)->m) / sizeof(((type *)0)->m[0]), .desc = (desc_), \
	}

/* Growable bytes; a save appends to it. */
struct state_buf {
	uint8_t *data;
	size_t len, cap;
};

void state_buf_fini(struct state_buf *b);

/* Append one section; -ENOMEM, or -EFBIG when it is longer than a section may be (16 MiB). */
NODISCARD int state_save(const struct state_desc *d, uint32_t instance, const void *obj,
			 struct state_buf *b, struct err *e);
/*
 * Read the section at data, which must be of this table and instance.  Fields are read into a
 * scratch copy of *obj (obj_size bytes), checked, and copied back field by field: on failure *obj
 * is untouched.  Fields newer than the stream keep the value that they have.
 * Returns the bytes consumed, or -EPROTO.
 */
NODISCARD ssize_t state_load(const struct state_desc *d, uint32_t instance, void *obj,
			     size_t obj_size, const uint8_t *data, size_t len, struct err *e);
/* Name, version and instance of the section at data, and its whole length; -EPROTO. */
struct state_head {
	char name[48];
	uint16_t version;
	uint32_t instance;
	size_t total_len;
};
NODISCARD int state_peek(const uint8_t *data, size_t len, struct state_head *ret, struct err *e);
/* "name.field[3] = 0x12\n" lines for people and for comparing two states; free with free(). */
NODISCARD char *state_dump(const struct state_desc *d, const void *obj);
