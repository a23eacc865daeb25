/*
 * What a spec is made of: tables of fields.  One table reads a struct from JSON, writes it, frees
 * it, gives its defaults, suggests names, and is checked against docs/format/vm-spec.md.
 *
 * A struct begins zeroed; spec_defaults() fills in what the table says.  Strings are owned by the
 * struct (NULL: not given), lists are an array and a count.
 */
#pragma once

#include "base/json.h"

struct spec_struct;

enum spec_kind {
	/* bool */
	SPEC_BOOL,
	/* A uint64_t between min and max. */
	SPEC_U64,
	/* A uint64_t in bytes; in JSON also a string such as "512M". */
	SPEC_SIZE,
	/* An unsigned: index into words. */
	SPEC_ENUM,
	/* char *, of at most max bytes. */
	SPEC_STR,
	/* A struct embedded at offset. */
	SPEC_OBJ,
	/* An array of structs at offset (a pointer), its length at count_offset (an unsigned). */
	SPEC_LIST,
};

struct spec_field {
	const char *name;
	enum spec_kind kind;
	size_t offset;
	/* U64, SIZE: limits.  STR, LIST: max length. */
	uint64_t min, max;
	/* Default of BOOL, U64, SIZE and ENUM. */
	uint64_t def;
	bool required;
	/* ENUM: ends with NULL. */
	const char *const *words;
	/* OBJ, LIST. */
	const struct spec_struct *of;
	size_t count_offset;
	/* More than kind and limits say: 0, or -EINVAL with the reason alone.  [NULL] */
	int (*check)(const void *value, struct err *e);
};

struct spec_struct {
	size_t size;
	/* Ends with a NULL name. */
	const struct spec_field *field;
	/* Do the fields agree with each other?  The message begins with a field's name. [NULL] */
	int (*check)(const void *obj, struct err *e);
};

/* Where a field is, for messages: the same chain as json_at, without JSON. */
struct spec_at {
	const struct spec_at *up;
	const char *name;
	/* Of a list's element; -1: none. */
	int index;
};

void spec_defaults(const struct spec_struct *s, void *obj);
/* obj keeps what it got so far on failure; spec_fini() it then too. */
NODISCARD int spec_read(const struct spec_struct *s, void *obj, const struct json_at *at,
			struct err *e);
/* Every field that differs from "not given". */
void spec_write(const struct spec_struct *s, const void *obj, struct json_out *o);
/* All limits and checks, also for a struct that did not come from JSON; -EINVAL with path. */
NODISCARD int spec_check(const struct spec_struct *s, const void *obj, const struct spec_at *at,
			 struct err *e);
void spec_fini(const struct spec_struct *s, void *obj);
/* Append a zeroed element with defaults to list field f of obj; NULL: no memory or f->max. */
void *spec_append(const struct spec_field *f, void *obj);
const struct spec_field *spec_find(const struct spec_struct *s, const char *name);
/* Sets one scalar field from text, as options do; the message has no path. */
NODISCARD int spec_set_text(const struct spec_field *f, void *obj, const char *text, struct err *e);
