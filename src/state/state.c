#include "state/state.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/num.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

enum {
	/* u32 length, u16 version, u16 name length, name, u32 instance. */
	STATE_FIXED = 4 + 2 + 2 + 4,
	/* A section larger than this is neither written nor read. */
	STATE_SECTION_MAX = 1 << 24,
};

void state_buf_fini(struct state_buf *b)
{
	free(b->data);
	*b = (struct state_buf){ 0 };
}

static int buf_put(struct state_buf *b, const void *p, size_t len)
{
	if (b->cap - b->len < len) {
		size_t cap = MAX(b->cap * 2, b->len + len + 256);
		uint8_t *more = xgrow(b->data, b->cap, cap, 1);

		if (!more)
			return -ENOMEM;
		b->data = more;
		b->cap = cap;
	}
	memcpy(b->data + b->len, p, len);
	b->len += len;
	return 0;
}

static int save_fields(const struct state_desc *d, const void *obj, struct state_buf *b)
{
	for (unsigned i = 0; i < d->nfield; i++) {
		const struct state_field *f = &d->field[i];
		const char *p = (const char *)obj + f->offset;
		int rc = 0;

		/* Hosts are little-endian: an array of integers is its own wire form. */
		if (f->kind == STATE_INT)
			rc = buf_put(b, p, (size_t)f->size * f->count);
		for (uint32_t n = 0; f->kind == STATE_STRUCT && n < f->count && rc == 0; n++)
			rc = save_fields(f->desc, p + (size_t)n * f->size, b);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int state_save(const struct state_desc *d, uint32_t instance, const void *obj, struct state_buf *b,
	       struct err *e)
{
	size_t start = b->len, name_len = strlen(d->name);
	uint8_t head[8], inst[4];

	st_le32(head, 0);
	st_le16(head + 4, d->version);
	st_le16(head + 6, (uint16_t)name_len);
	st_le32(inst, instance);
	if (buf_put(b, head, sizeof(head)) < 0 || buf_put(b, d->name, name_len) < 0 ||
	    buf_put(b, inst, sizeof(inst)) < 0 || save_fields(d, obj, b) < 0) {
		b->len = start;
		return err_set(e, ENOMEM, "no memory to save '%s'", d->name);
	}
	if (b->len - start - 4 > STATE_SECTION_MAX) {
		size_t len = b->len - start;

		b->len = start;
		return err_set(e, EFBIG, "state of '%s' is %zu bytes long, more than a section has",
			       d->name, len);
	}
	st_le32(b->data + start, (uint32_t)(b->len - start - 4));
	return 0;
}

int state_peek(const uint8_t *data, size_t len, struct state_head *ret, struct err *e)
{
	if (len < STATE_FIXED)
		return err_set(e, EPROTO, "state ends inside a section header");
	size_t body = ld_le32(data), name_len = ld_le16(data + 6);

	if (body > STATE_SECTION_MAX || body > len - 4)
		return err_set(e, EPROTO, "state section of %zu bytes where %zu are left", body,
			       len - 4);
	if (!name_len || name_len >= sizeof(ret->name) || body < 4 + name_len + 4 ||
	    memchr(data + 8, 0, name_len))
		return err_set(e, EPROTO, "state section with a name of %zu bytes", name_len);
	memcpy(ret->name, data + 8, name_len);
	ret->name[name_len] = 0;
	ret->version = ld_le16(data + 4);
	ret->instance = ld_le32(data + 8 + name_len);
	ret->total_len = body + 4;
	return 0;
}

struct reader {
	const uint8_t *p;
	size_t left;
};

static int load_fields(const struct state_desc *d, unsigned version, void *obj, struct reader *r)
{
	for (unsigned i = 0; i < d->nfield; i++) {
		const struct state_field *f = &d->field[i];
		char *p = (char *)obj + f->offset;

		if (f->since > version)
			continue;
		for (uint32_t n = 0; f->kind == STATE_STRUCT && n < f->count; n++) {
			int rc = load_fields(f->desc, version, p + (size_t)n * f->size, r);

			if (rc < 0)
				return rc;
		}
		size_t bytes = f->kind == STATE_INT ? (size_t)f->size * f->count : 0;
		if (bytes > r->left)
			return -EPROTO;
		memcpy(p, r->p, bytes);
		r->p += bytes;
		r->left -= bytes;
	}
	return 0;
}

static void copy_fields(const struct state_desc *d, void *dst, const void *src)
{
	for (unsigned i = 0; i < d->nfield; i++) {
		const struct state_field *f = &d->field[i];
		char *to = (char *)dst + f->offset;
		const char *from = (const char *)src + f->offset;

		if (f->kind == STATE_INT) {
			memcpy(to, from, (size_t)f->size * f->count);
			continue;
		}
		for (uint32_t n = 0; n < f->count; n++)
			copy_fields(f->desc, to + (size_t)n * f->size, from + (size_t)n * f->size);
	}
}

ssize_t state_load(const struct state_desc *d, uint32_t instance, void *obj, size_t obj_size,
		   const uint8_t *data, size_t len, struct err *e)
{
	struct state_head h;
	int rc = state_peek(data, len, &h, e);

	if (rc < 0)
		return rc;
	if (strcmp(h.name, d->name) != 0 || h.instance != instance)
		return err_set(e, EPROTO, "state of '%s' %u where '%s' %u is expected", h.name,
			       h.instance, d->name, instance);
	if (h.version < d->oldest || h.version > d->version)
		return err_set(e, EPROTO, "state of '%s' has version %u, this build reads %u to %u",
			       d->name, h.version, d->oldest, d->version);

	AUTO_FREE char *scratch = xzalloc(obj_size ? obj_size : 1);
	if (!scratch)
		return err_set(e, ENOMEM, "no memory to load '%s'", d->name);
	memcpy(scratch, obj, obj_size);
	size_t head = STATE_FIXED + strlen(d->name);
	struct reader r = { data + head, h.total_len - head };
	if (load_fields(d, h.version, scratch, &r) < 0 || r.left)
		return err_set(e, EPROTO, "state of '%s' has the wrong length", d->name);
	if (d->check && d->check(scratch, e) < 0)
		return err_in(e, "state of '%s'", d->name);
	copy_fields(d, obj, scratch);
	return (ssize_t)h.total_len;
}

static void dump_fields(const struct state_desc *d, const void *obj, const char *prefix, FILE *f)
{
	for (unsigned i = 0; i < d->nfield; i++) {
		const struct state_field *fl = &d->field[i];

		for (uint32_t n = 0; n < fl->count; n++) {
			const char *p = (const char *)obj + fl->offset + (size_t)n * fl->size;
			char name[160], index[16] = "";

			if (fl->count > 1)
				snprintf(index, sizeof(index), "[%u]", n);
			snprintf(name, sizeof(name), "%s.%s%s", prefix, fl->name, index);
			if (fl->kind == STATE_STRUCT)
				dump_fields(fl->desc, p, name, f);
			else
				fprintf(f, "%s = %#" PRIx64 "\n", name, ld_le(p, fl->size));
		}
	}
}

char *state_dump(const struct state_desc *d, const void *obj)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return NULL;
	dump_fields(d, obj, d->name, f);
	fclose(f);
	return text;
}
