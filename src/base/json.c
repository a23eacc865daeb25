#include "base/json.h"

#include "base/alloc.h"
#include "base/bug.h"
#include "base/cleanup.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int json_parse_err(struct json_tokener *tok, size_t at, struct err *e)
{
	enum json_tokener_error rc = json_tokener_get_error(tok);

	if (rc == json_tokener_error_depth)
		return err_set(e, E2BIG, "JSON nested deeper than %d levels", JSON_DEPTH);
	if (rc == json_tokener_continue || rc == json_tokener_success)
		return err_set(e, EBADMSG, "JSON ends in the middle");
	return err_set(e, EBADMSG, "not JSON: %s at byte %zu", json_tokener_error_desc(rc), at);
}

/* Length of the UTF-8 character at p, 0 when it is none (RFC 3629, table of section 4); left >= 1.
 */
static size_t json_utf8_len(const char *s, size_t left)
{
	static const struct {
		uint8_t first_lo, first_hi, second_lo, second_hi, len;
	} rows[] = {
		{ 0xc2, 0xdf, 0x80, 0xbf, 2 }, { 0xe0, 0xe0, 0xa0, 0xbf, 3 },
		{ 0xe1, 0xec, 0x80, 0xbf, 3 }, { 0xed, 0xed, 0x80, 0x9f, 3 },
		{ 0xee, 0xef, 0x80, 0xbf, 3 }, { 0xf0, 0xf0, 0x90, 0xbf, 4 },
		{ 0xf1, 0xf3, 0x80, 0xbf, 4 }, { 0xf4, 0xf4, 0x80, 0x8f, 4 },
	};

	const uint8_t *p = (const uint8_t *)s;

	if (*p < 0x80)
		return 1;
	for (size_t i = 0; i < COUNT_OF(rows); i++) {
		if (*p < rows[i].first_lo || *p > rows[i].first_hi)
			continue;
		if (rows[i].len > left || p[1] < rows[i].second_lo || p[1] > rows[i].second_hi)
			return 0;
		for (size_t k = 2; k < rows[i].len; k++)
			if ((p[k] & 0xc0) != 0x80)
				return 0;
		return rows[i].len;
	}
	return 0;
}

static bool json_utf8_all(const char *s, size_t len)
{
	for (size_t i = 0, n; i < len; i += n) {
		n = json_utf8_len(s + i, len - i);
		if (!n)
			return false;
	}
	return true;
}

bool json_utf8_ok(const char *s)
{
	return json_utf8_all(s, strlen(s));
}

/* Where the number at p ends; NULL when it is an integer of more than 64 bits. */
static const char *json_number(const char *p, const char *end)
{
	char digits[24];
	size_t n = 0;
	bool whole = true;

	for (; p < end && *p && strchr("+-.eE0123456789", *p); p++) {
		whole &= !strchr(".eE", *p);
		if (n < sizeof(digits))
			digits[n++] = *p;
	}
	if (!whole)
		return p;
	if (n == sizeof(digits))
		return NULL;
	digits[n] = 0;
	errno = 0;
	if (digits[0] == '-')
		(void)strtoll(digits, NULL, 10);
	else
		(void)strtoull(digits, NULL, 10);
	return errno ? NULL : p;
}

/*
 * What json-c would let pass even when it is strict: quotes of the other kind, comments, NaN,
 * integers that it cuts to 64 bits, and a NUL, which it takes for the end.
 */
static int json_lex(const char *text, size_t len, struct err *e)
{
	const char *end = text + len;

	for (const char *p = text; p < end;) {
		const char *at = p;

		if (*p == '"') {
			for (p++; p < end && *p && *p != '"'; p++)
				p += *p == '\\' && p + 1 < end && p[1];
			if (p < end && *p)
				p++;
		} else if (*p == '-' || (*p >= '0' && *p <= '9')) {
			p = json_number(p, end);
			if (!p)
				return err_set(e, EBADMSG,
					       "the number at byte %zu has more than 64 bits",
					       (size_t)(at - text));
		} else if (*p && strchr("{}[],: \t\r\nabcdefghijklmnopqrstuvwxyz", *p)) {
			p++;
		}
		if (p == at || (p < end && !*p))
			return err_set(e, EBADMSG, "not JSON: unexpected character at byte %zu",
				       (size_t)(p - text));
	}
	return 0;
}

int json_parse(const char *text, size_t len, struct json_object **ret, struct err *e)
{
	if (len >= INT_MAX)
		return err_set(e, E2BIG, "JSON of %zu bytes", len);
	if (!json_utf8_all(text, len))
		return err_set(e, EBADMSG, "not JSON: not UTF-8");
	int rc = json_lex(text, len, e);
	if (rc < 0)
		return rc;
	struct json_tokener *tok = json_tokener_new_ex(JSON_DEPTH);
	if (!tok)
		return err_set(e, ENOMEM, "no memory for JSON");
	json_tokener_set_flags(tok, JSON_TOKENER_STRICT);

	struct json_object *v = json_tokener_parse_ex(tok, text, (int)len);
	/* A number ends only with what follows it. */
	if (!v && json_tokener_get_error(tok) == json_tokener_continue)
		v = json_tokener_parse_ex(tok, "\n", 1);
	if (json_tokener_get_error(tok) != json_tokener_success)
		rc = json_parse_err(tok, json_tokener_get_parse_end(tok), e);
	json_tokener_free(tok);
	if (rc < 0) {
		json_object_put(v);
		return rc;
	}
	*ret = v;
	return 0;
}

void json_unref(struct json_object *v)
{
	json_object_put(v);
}

void json_path(const struct json_at *at, char *ret, size_t size)
{
	if (!at->up) {
		*ret = 0;
		return;
	}
	json_path(at->up, ret, size);
	size_t n = strlen(ret);
	if (at->key)
		snprintf(ret + n, size - n, "%s%s", n ? "." : "", at->key);
	else
		snprintf(ret + n, size - n, "[%u]", at->index);
}

int json_refuse(const struct json_at *at, struct err *e, const char *fmt, ...)
{
	char path[JSON_PATH], text[sizeof(e->msg)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	json_path(at, path, sizeof(path));
	return err_set(e, EINVAL, "%s%s%s", path, *path ? ": " : "", text);
}

enum json_kind json_kind(const struct json_at *at)
{
	static const enum json_kind kind[] = {
		[json_type_null] = JSON_NULL,     [json_type_boolean] = JSON_BOOL,
		[json_type_double] = JSON_DOUBLE, [json_type_int] = JSON_INT,
		[json_type_object] = JSON_OBJ,    [json_type_array] = JSON_LIST,
		[json_type_string] = JSON_STR,
	};

	return kind[json_object_get_type(at->v)];
}

const char *json_kind_name(enum json_kind k)
{
	static const char *const names[] = {
		[JSON_NULL] = "null",     [JSON_BOOL] = "true or false",
		[JSON_INT] = "a number",  [JSON_DOUBLE] = "a number with a fraction",
		[JSON_STR] = "a string",  [JSON_LIST] = "a list",
		[JSON_OBJ] = "an object",
	};

	return names[k];
}

int json_want(const struct json_at *at, enum json_kind k, struct err *e)
{
	enum json_kind is = json_kind(at);

	if (is == k)
		return 0;
	return json_refuse(at, e, "%s is wanted, not %s", json_kind_name(k), json_kind_name(is));
}

bool json_member(const struct json_at *at, const char *key, struct json_at *ret)
{
	struct json_object *v;

	if (json_kind(at) != JSON_OBJ || !json_object_object_get_ex(at->v, key, &v))
		return false;
	*ret = (struct json_at){ .v = v, .up = at, .key = key };
	return true;
}

unsigned json_count(const struct json_at *at)
{
	switch (json_kind(at)) {
	case JSON_LIST:
		return (unsigned)json_object_array_length(at->v);
	case JSON_OBJ:
		return (unsigned)json_object_object_length(at->v);
	default:
		return 0;
	}
}

struct json_at json_element(const struct json_at *at, unsigned i)
{
	return (struct json_at){
		.v = json_object_array_get_idx(at->v, i),
		.up = at,
		.index = i,
	};
}

struct json_iter json_iter(const struct json_at *at)
{
	struct json_iter it = { .at = { .up = at } };

	if (json_kind(at) == JSON_OBJ)
		it.next = json_object_get_object(at->v)->head;
	return it;
}

bool json_next(struct json_iter *it)
{
	struct lh_entry *entry = it->next;

	if (!entry)
		return false;
	it->at.key = lh_entry_k(entry);
	it->at.v = (struct json_object *)(uintptr_t)lh_entry_v(entry);
	it->next = entry->next;
	return true;
}

int json_get_bool(const struct json_at *at, bool *ret, struct err *e)
{
	int rc = json_want(at, JSON_BOOL, e);

	if (rc < 0)
		return rc;
	*ret = json_object_get_boolean(at->v);
	return 0;
}

int json_get_u64(const struct json_at *at, uint64_t min, uint64_t max, uint64_t *ret, struct err *e)
{
	int rc = json_want(at, JSON_INT, e);

	if (rc < 0)
		return rc;
	/* json-c gives 0 for negative numbers read as unsigned. */
	bool negative = json_object_get_int64(at->v) < 0;
	uint64_t v = json_object_get_uint64(at->v);
	if (!negative && v >= min && v <= max) {
		*ret = v;
		return 0;
	}
	if (negative)
		return json_refuse(at, e, "%" PRId64 " is negative", json_object_get_int64(at->v));
	return json_refuse(at, e, "%" PRIu64 " is outside %" PRIu64 " to %" PRIu64, v, min, max);
}

int json_get_str(const struct json_at *at, size_t max_len, const char **ret, struct err *e)
{
	int rc = json_want(at, JSON_STR, e);

	if (rc < 0)
		return rc;
	size_t len = (size_t)json_object_get_string_len(at->v);
	const char *s = json_object_get_string(at->v);
	if (strlen(s) != len)
		return json_refuse(at, e, "has a zero character inside");
	if (len > max_len)
		return json_refuse(at, e, "is longer than %zu bytes", max_len);
	*ret = s;
	return 0;
}

static void json_out_put(struct json_out *o, const char *p, size_t len)
{
	if (o->failed)
		return;
	if (o->cap - o->len <= len) {
		size_t cap = (o->cap + len + 64) * 2;
		char *text = xgrow(o->text, o->cap, cap, 1);

		if (!text) {
			o->failed = true;
			return;
		}
		o->text = text;
		o->cap = cap;
	}
	memcpy(o->text + o->len, p, len);
	o->len += len;
	o->text[o->len] = 0;
}

static void json_out_puts(struct json_out *o, const char *s)
{
	json_out_put(o, s, strlen(s));
}

static void json_out_newline(struct json_out *o)
{
	if (!o->pretty)
		return;
	json_out_puts(o, "\n");
	for (unsigned i = 0; i < o->depth; i++)
		json_out_puts(o, "\t");
}

static void json_out_char(struct json_out *o, const char *p, size_t len)
{
	char esc[8];

	if (!len)
		json_out_puts(o, "\\ufffd");
	else if (*p == '"' || *p == '\\')
		json_out_put(o, (char[]){ '\\', *p }, 2);
	else if (*p == '\n')
		json_out_puts(o, "\\n");
	else if ((uint8_t)*p < 0x20 || *p == 0x7f)
		json_out_put(o, esc, (size_t)snprintf(esc, sizeof(esc), "\\u%04x", (uint8_t)*p));
	else
		json_out_put(o, p, len);
}

static void json_out_quoted(struct json_out *o, const char *s)
{
	json_out_puts(o, "\"");
	while (*s) {
		size_t n = json_utf8_len(s, strnlen(s, 4));

		json_out_char(o, s, n);
		s += n ? n : 1;
	}
	json_out_puts(o, "\"");
}

/* What stands before a value. */
static void json_out_lead(struct json_out *o, const char *key)
{
	uint64_t bit = 1ull << o->depth;

	if (o->depth) {
		BUG_ON(!key != !!(o->list & bit));
		if (o->some & bit)
			json_out_puts(o, o->pretty ? "," : ", ");
		o->some |= bit;
		json_out_newline(o);
	}
	if (key) {
		json_out_quoted(o, key);
		json_out_puts(o, ": ");
	}
}

static void json_out_open(struct json_out *o, const char *key, bool list)
{
	json_out_lead(o, key);
	json_out_puts(o, list ? "[" : "{");
	o->depth++;
	BUG_ON(o->depth >= 64);
	o->some &= ~(1ull << o->depth);
	o->list = (o->list & ~(1ull << o->depth)) | (uint64_t)list << o->depth;
}

void json_out_obj(struct json_out *o, const char *key)
{
	json_out_open(o, key, false);
}

void json_out_list(struct json_out *o, const char *key)
{
	json_out_open(o, key, true);
}

void json_out_end(struct json_out *o)
{
	uint64_t bit = 1ull << o->depth;

	BUG_ON(!o->depth);
	o->depth--;
	if (o->some & bit)
		json_out_newline(o);
	json_out_puts(o, o->list & bit ? "]" : "}");
}

void json_out_raw(struct json_out *o, const char *key, const char *text)
{
	json_out_lead(o, key);
	json_out_puts(o, text);
}

void json_out_str(struct json_out *o, const char *key, const char *s)
{
	json_out_lead(o, key);
	if (s)
		json_out_quoted(o, s);
	else
		json_out_puts(o, "null");
}

void json_out_u64(struct json_out *o, const char *key, uint64_t v)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, v);
	json_out_raw(o, key, text);
}

void json_out_i64(struct json_out *o, const char *key, int64_t v)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRId64, v);
	json_out_raw(o, key, text);
}

void json_out_bool(struct json_out *o, const char *key, bool v)
{
	json_out_raw(o, key, v ? "true" : "false");
}

void json_out_value(struct json_out *o, const char *key, struct json_object *v)
{
	const char *text = json_object_to_json_string_ext(
		v, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);

	if (text)
		json_out_raw(o, key, text);
	else
		o->failed = true;
}

char *json_out_take(struct json_out *o)
{
	char *text = o->text;

	if (o->failed) {
		free(text);
		text = NULL;
	}
	*o = (struct json_out){ .pretty = o->pretty };
	return text;
}

/* Inside a value that began with a bracket; true when c ended it. */
static bool json_frame_in(struct json_frame *f, char c)
{
	if (f->in_str) {
		if (f->escape)
			f->escape = false;
		else if (c == '\\')
			f->escape = true;
		else if (c == '"')
			f->in_str = false;
		return false;
	}
	if (c == '"')
		f->in_str = true;
	else if (c == '{' || c == '[')
		f->depth++;
	else if (c == '}' || c == ']')
		return --f->depth == 0;
	return false;
}

size_t json_frame(struct json_frame *f, const char *p, size_t len, bool *ret_whole)
{
	for (size_t i = 0; i < len; i++) {
		bool end;

		if (!f->started) {
			if (strchr(" \t\r\n", p[i]) && p[i])
				continue;
			f->started = true;
			f->junk = p[i] != '{' && p[i] != '[';
		}
		end = f->junk ? p[i] == '\n' : json_frame_in(f, p[i]);
		if (end) {
			*f = (struct json_frame){ 0 };
			*ret_whole = true;
			return i + 1;
		}
	}
	*ret_whole = false;
	return len;
}
