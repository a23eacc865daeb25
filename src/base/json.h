/*
 * JSON: a reader with limits and typed getters that know the path of what they refuse, a writer
 * that makes text, and the framing of a stream of values.
 *
 * The reader stands on json-c, the only place where that library is seen.  Numbers keep all 64
 * bits, signed and unsigned.  A string with a NUL inside is refused by json_get_str(): no C string
 * could hold it.
 */
#pragma once

#include "base/err.h"

struct json_object;

enum {
	/* Objects and lists inside each other. */
	JSON_DEPTH = 32,
	JSON_PATH = 160,
};

enum json_kind {
	JSON_NULL,
	JSON_BOOL,
	JSON_INT,
	JSON_DOUBLE,
	JSON_STR,
	JSON_LIST,
	JSON_OBJ,
};

/*
 * One whole value with nothing but white space after it, as RFC 8259 says, in UTF-8.  -EBADMSG with
 * the place of the mistake; -E2BIG when it is nested deeper than JSON_DEPTH.
 */
NODISCARD int json_parse(const char *text, size_t len, struct json_object **ret, struct err *e);
/* NULL is fine. */
void json_unref(struct json_object *v);

/* A value and the way to it, for messages: a chain of structs on the callers' stacks. */
struct json_at {
	struct json_object *v;
	const struct json_at *up;
	/* Name of the member; NULL for element `index` of a list, and for the root. */
	const char *key;
	unsigned index;
};

static inline struct json_at json_root(struct json_object *v)
{
	return (struct json_at){ .v = v };
}

/* "disks[1].cache"; "" for the root. */
void json_path(const struct json_at *at, char *ret, size_t size);
/* Refuse this value: EINVAL and "path: text". */
int json_refuse(const struct json_at *at, struct err *e, const char *fmt, ...) PRINTF(3, 4);

enum json_kind json_kind(const struct json_at *at);
/* "a string", "an object" ... */
const char *json_kind_name(enum json_kind k);
/* False when there is no such member (or at is no object); *ret is then untouched. */
bool json_member(const struct json_at *at, const char *key, struct json_at *ret);
/* Elements of a list, members of an object; else 0. */
unsigned json_count(const struct json_at *at);
struct json_at json_element(const struct json_at *at, unsigned i);

/* for (struct json_iter it = json_iter(at); json_next(&it);) ... it.at: members of an object. */
struct json_iter {
	struct json_at at;
	void *next;
};
struct json_iter json_iter(const struct json_at *at);
bool json_next(struct json_iter *it);

/* Typed getters: 0, or -EINVAL with path and reason. */
NODISCARD int json_get_bool(const struct json_at *at, bool *ret, struct err *e);
NODISCARD int json_get_u64(const struct json_at *at, uint64_t min, uint64_t max, uint64_t *ret,
			   struct err *e);
/* The string belongs to the value. */
NODISCARD int json_get_str(const struct json_at *at, size_t max_len, const char **ret,
			   struct err *e);
NODISCARD int json_want(const struct json_at *at, enum json_kind k, struct err *e);

/*
 * Writer.  Zero-initialise (pretty: newlines and tabs); a failed allocation is remembered and comes
 * out of json_out_take().  key is NULL inside lists and at the top.
 */
struct json_out {
	char *text;
	size_t len, cap;
	bool pretty, failed;
	unsigned depth;
	/* One bit a level: something was written there; it is a list. */
	uint64_t some, list;
};

void json_out_obj(struct json_out *o, const char *key);
void json_out_list(struct json_out *o, const char *key);
/* Ends the innermost object or list. */
void json_out_end(struct json_out *o);
/* Bytes that are not UTF-8 become U+FFFD; NULL becomes null. */
void json_out_str(struct json_out *o, const char *key, const char *s);
void json_out_u64(struct json_out *o, const char *key, uint64_t v);
void json_out_i64(struct json_out *o, const char *key, int64_t v);
void json_out_bool(struct json_out *o, const char *key, bool v);
void json_out_value(struct json_out *o, const char *key, struct json_object *v);
/* A finished JSON text, as it is. */
void json_out_raw(struct json_out *o, const char *key, const char *text);
/* The text (free with free()), or NULL: no memory.  o is as new. */
NODISCARD char *json_out_take(struct json_out *o);

bool json_utf8_ok(const char *s);

/*
 * Framing: where the first value of a stream ends, looking at each byte once.  Zero-initialise,
 * json_frame() the bytes that came; when it found the end, it is as new for the next value.
 * White space before a value belongs to it; anything that does not begin with '{' or '[' ends with
 * its line.
 */
struct json_frame {
	unsigned depth;
	bool started, in_str, escape, junk;
};
/* Bytes taken; *ret_whole: the last one ended a value. */
size_t json_frame(struct json_frame *f, const char *p, size_t len, bool *ret_whole);
