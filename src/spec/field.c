#include "spec/field.h"

#include "base/alloc.h"
#include "base/cleanup.h"
#include "base/near.h"
#include "base/str.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	SPEC_PATH = 120,
};

static void *spec_ptr(const struct spec_field *f, const void *obj)
{
	return (char *)(uintptr_t)obj + f->offset;
}

static unsigned *spec_count(const struct spec_field *f, const void *obj)
{
	return (unsigned *)(void *)((char *)(uintptr_t)obj + f->count_offset);
}

/* Element i of list f. */
static void *spec_nth(const struct spec_field *f, const void *obj, unsigned i)
{
	return *(char **)spec_ptr(f, obj) + i * f->of->size;
}

static const char *spec_name_nth(const void *arg, unsigned i)
{
	return ((const struct spec_struct *)arg)->field[i].name;
}

const struct spec_field *spec_find(const struct spec_struct *s, const char *name)
{
	for (const struct spec_field *f = s->field; f->name; f++)
		if (!strcmp(f->name, name))
			return f;
	return NULL;
}

void spec_defaults(const struct spec_struct *s, void *obj)
{
	for (const struct spec_field *f = s->field; f->name; f++) {
		void *p = spec_ptr(f, obj);

		switch (f->kind) {
		case SPEC_BOOL:
			*(bool *)p = f->def;
			break;
		case SPEC_U64:
		case SPEC_SIZE:
			*(uint64_t *)p = f->def;
			break;
		case SPEC_ENUM:
			*(unsigned *)p = (unsigned)f->def;
			break;
		case SPEC_OBJ:
			spec_defaults(f->of, p);
			break;
		case SPEC_STR:
		case SPEC_LIST:
			break;
		}
	}
}

void *spec_append(const struct spec_field *f, void *obj)
{
	unsigned *count = spec_count(f, obj);
	void **array = spec_ptr(f, obj);

	if (*count >= f->max)
		return NULL;
	void *more = xgrow(*array, *count, *count + 1, f->of->size);
	if (!more)
		return NULL;
	*array = more;
	++*count;
	void *elem = spec_nth(f, obj, *count - 1);
	spec_defaults(f->of, elem);
	return elem;
}

void spec_fini(const struct spec_struct *s, void *obj)
{
	for (const struct spec_field *f = s->field; f->name; f++) {
		void *p = spec_ptr(f, obj);

		if (f->kind == SPEC_OBJ)
			spec_fini(f->of, p);
		if (f->kind == SPEC_LIST)
			for (unsigned i = 0; i < *spec_count(f, obj); i++)
				spec_fini(f->of, spec_nth(f, obj, i));
		if (f->kind == SPEC_LIST)
			*spec_count(f, obj) = 0;
		if (f->kind == SPEC_STR || f->kind == SPEC_LIST) {
			free(*(void **)p);
			*(void **)p = NULL;
		}
	}
}

/* "'foo' is not one of none, writeback" */
static int spec_not_one_of(const char *word, const char *const *words, struct err *e)
{
	char list[160] = "";

	for (unsigned i = 0; words[i]; i++) {
		size_t n = strlen(list);

		snprintf(list + n, sizeof(list) - n, "%s%s", i ? ", " : "", words[i]);
	}
	return err_set(e, EINVAL, "'%.40s' is not one of %s", word, list);
}

static int spec_word(const struct spec_field *f, const char *word, unsigned *ret, struct err *e)
{
	for (unsigned i = 0; f->words[i]; i++) {
		if (!strcmp(f->words[i], word)) {
			*ret = i;
			return 0;
		}
	}
	return spec_not_one_of(word, f->words, e);
}

static int spec_put_str(void *p, const char *text, struct err *e)
{
	char *copy = xstrdup(text);

	if (!copy)
		return err_set(e, ENOMEM, "no memory");
	free(*(char **)p);
	*(char **)p = copy;
	return 0;
}

int spec_set_text(const struct spec_field *f, void *obj, const char *text, struct err *e)
{
	void *p = spec_ptr(f, obj);

	switch (f->kind) {
	case SPEC_BOOL:
		if (str_bool(text, p) < 0)
			return err_set(e, EINVAL, "'%.40s' is neither on nor off", text);
		return 0;
	case SPEC_U64:
		if (str_u64(text, p) < 0)
			return err_set(e, EINVAL, "'%.40s' is not a number", text);
		return 0;
	case SPEC_SIZE:
		if (str_size(text, p) < 0)
			return err_set(e, EINVAL, "'%.40s' is not a size such as 512M or 4G", text);
		return 0;
	case SPEC_ENUM:
		return spec_word(f, text, p, e);
	case SPEC_STR:
		return spec_put_str(p, text, e);
	case SPEC_OBJ:
	case SPEC_LIST:
		break;
	}
	return err_set(e, EINVAL, "cannot be set from text");
}

static int spec_read_list(const struct spec_field *f, void *obj, const struct json_at *at,
			  struct err *e)
{
	int rc = json_want(at, JSON_LIST, e);

	for (unsigned i = 0; rc >= 0 && i < json_count(at); i++) {
		struct json_at elem = json_element(at, i);

		if (i >= f->max)
			return json_refuse(at, e, "has more than %" PRIu64 " entries", f->max);
		void *to = spec_append(f, obj);
		if (!to)
			return err_set(e, ENOMEM, "no memory for the spec");
		rc = spec_read(f->of, to, &elem, e);
	}
	return rc;
}

/* A string in JSON for a field that takes text. */
static int spec_read_text(const struct spec_field *f, void *obj, const struct json_at *at,
			  struct err *e)
{
	struct err why;
	const char *text;
	int rc = json_get_str(at, f->kind == SPEC_STR ? f->max : 4096, &text, e);

	if (rc < 0)
		return rc;
	rc = spec_set_text(f, obj, text, &why);
	if (rc == -ENOMEM)
		return err_set(e, ENOMEM, "%s", why.msg);
	return rc < 0 ? json_refuse(at, e, "%s", why.msg) : 0;
}

static int spec_read_field(const struct spec_field *f, void *obj, const struct json_at *at,
			   struct err *e)
{
	void *p = spec_ptr(f, obj);

	switch (f->kind) {
	case SPEC_BOOL:
		return json_get_bool(at, p, e);
	case SPEC_SIZE:
		if (json_kind(at) == JSON_STR)
			return spec_read_text(f, obj, at, e);
		return json_get_u64(at, 0, UINT64_MAX, p, e);
	case SPEC_U64:
		return json_get_u64(at, 0, UINT64_MAX, p, e);
	case SPEC_ENUM:
	case SPEC_STR:
		return spec_read_text(f, obj, at, e);
	case SPEC_OBJ:
		return spec_read(f->of, p, at, e);
	case SPEC_LIST:
		return spec_read_list(f, obj, at, e);
	}
	return -EINVAL;
}

int spec_read(const struct spec_struct *s, void *obj, const struct json_at *at, struct err *e)
{
	int rc = json_want(at, JSON_OBJ, e);

	for (struct json_iter it = json_iter(at); rc >= 0 && json_next(&it);) {
		const struct spec_field *f = spec_find(s, it.at.key);
		const char *near = f ? NULL : near_find(it.at.key, spec_name_nth, s);

		if (f)
			rc = spec_read_field(f, obj, &it.at, e);
		else if (near)
			rc = json_refuse(&it.at, e, "there is no such field; did you mean '%s'?",
					 near);
		else
			rc = json_refuse(&it.at, e, "there is no such field");
	}
	return rc;
}

static void spec_write_field(const struct spec_field *f, const void *obj, struct json_out *o)
{
	const void *p = spec_ptr(f, obj);

	switch (f->kind) {
	case SPEC_BOOL:
		json_out_bool(o, f->name, *(const bool *)p);
		break;
	case SPEC_U64:
	case SPEC_SIZE:
		json_out_u64(o, f->name, *(const uint64_t *)p);
		break;
	case SPEC_ENUM:
		json_out_str(o, f->name, f->words[*(const unsigned *)p]);
		break;
	case SPEC_STR:
		if (*(char *const *)p)
			json_out_str(o, f->name, *(char *const *)p);
		break;
	case SPEC_OBJ:
		json_out_obj(o, f->name);
		spec_write(f->of, p, o);
		json_out_end(o);
		break;
	case SPEC_LIST:
		json_out_list(o, f->name);
		for (unsigned i = 0; i < *spec_count(f, obj); i++) {
			json_out_obj(o, NULL);
			spec_write(f->of, spec_nth(f, obj, i), o);
			json_out_end(o);
		}
		json_out_end(o);
		break;
	}
}

void spec_write(const struct spec_struct *s, const void *obj, struct json_out *o)
{
	for (const struct spec_field *f = s->field; f->name; f++)
		spec_write_field(f, obj, o);
}

static void spec_path(const struct spec_at *at, char *ret, size_t size)
{
	*ret = 0;
	if (!at)
		return;
	spec_path(at->up, ret, size);
	size_t n = strlen(ret);
	snprintf(ret + n, size - n, "%s%s", n ? "." : "", at->name);
	n = strlen(ret);
	if (at->index >= 0)
		snprintf(ret + n, size - n, "[%d]", at->index);
}

/* The message in *e gets the path in front; returns -e->code. */
static int spec_at_err(const struct spec_at *at, const char *glue, struct err *e)
{
	char path[SPEC_PATH], old[sizeof(e->msg)];

	spec_path(at, path, sizeof(path));
	str_copy(old, sizeof(old), e->msg);
	return err_set(e, e->code, "%s%s%s", path, *path ? glue : "", old);
}

/* A number of a SIZE as people write it. */
static const char *spec_size_text(uint64_t v, bool size, char *ret, size_t len)
{
	static const char units[] = "\0KMGTP";
	unsigned u = 0;

	while (size && u < 5 && v && !(v & 1023)) {
		v >>= 10;
		u++;
	}
	snprintf(ret, len, "%" PRIu64 "%.1s", v, &units[u]);
	return ret;
}

static int spec_check_number(const struct spec_field *f, uint64_t v, struct err *e)
{
	char a[32], b[32], c[32];
	bool size = f->kind == SPEC_SIZE;

	if (v >= f->min && v <= f->max)
		return 0;
	return err_set(e, EINVAL, "%s is outside %s to %s", spec_size_text(v, size, a, sizeof(a)),
		       spec_size_text(f->min, size, b, sizeof(b)),
		       spec_size_text(f->max, size, c, sizeof(c)));
}

static int spec_check_str(const struct spec_field *f, const char *s, struct err *e)
{
	if (!s)
		return f->required ? err_set(e, EINVAL, "is missing") : 0;
	if (!*s)
		return err_set(e, EINVAL, "is empty");
	if (strlen(s) > f->max)
		return err_set(e, EINVAL, "is longer than %" PRIu64 " bytes", f->max);
	if (!json_utf8_ok(s))
		return err_set(e, EINVAL, "is not UTF-8");
	return f->check ? f->check(s, e) : 0;
}

static int spec_check_scalar(const struct spec_field *f, const void *p, struct err *e)
{
	switch (f->kind) {
	case SPEC_U64:
	case SPEC_SIZE:
		if (spec_check_number(f, *(const uint64_t *)p, e) < 0)
			return -e->code;
		return f->check ? f->check(p, e) : 0;
	case SPEC_STR:
		return spec_check_str(f, *(char *const *)p, e);
	default:
		return 0;
	}
}

static int spec_check_field(const struct spec_field *f, const void *obj, const struct spec_at *up,
			    struct err *e)
{
	struct spec_at at = { .up = up, .name = f->name, .index = -1 };
	int rc = 0;

	switch (f->kind) {
	case SPEC_OBJ:
		return spec_check(f->of, spec_ptr(f, obj), &at, e);
	case SPEC_LIST:
		for (unsigned i = 0; rc >= 0 && i < *spec_count(f, obj); i++) {
			at.index = (int)i;
			rc = spec_check(f->of, spec_nth(f, obj, i), &at, e);
		}
		return rc;
	default:
		rc = spec_check_scalar(f, spec_ptr(f, obj), e);
		return rc < 0 ? spec_at_err(&at, ": ", e) : 0;
	}
}

int spec_check(const struct spec_struct *s, const void *obj, const struct spec_at *at,
	       struct err *e)
{
	int rc = 0;

	for (const struct spec_field *f = s->field; rc >= 0 && f->name; f++)
		rc = spec_check_field(f, obj, at, e);
	if (rc < 0 || !s->check)
		return rc;
	rc = s->check(obj, e);
	return rc < 0 ? spec_at_err(at, ".", e) : 0;
}
