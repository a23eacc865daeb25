#include "dev/acpi/aml.h"

#include "base/alloc.h"
#include "base/bug.h"
#include "base/bytes.h"
#include "base/num.h"

#include <stdlib.h>
#include <string.h>

enum {
	OP_ZERO = 0x00,
	OP_ONE = 0x01,
	OP_NAME = 0x08,
	OP_BYTE = 0x0a,
	OP_WORD = 0x0b,
	OP_DWORD = 0x0c,
	OP_QWORD = 0x0e,
	OP_SCOPE = 0x10,
	OP_BUFFER = 0x11,
	OP_PACKAGE = 0x12,
	OP_METHOD = 0x14,
	OP_DUAL_NAME = 0x2e,
	OP_MULTI_NAME = 0x2f,
	OP_EXT = 0x5b,
	OP_EXT_DEVICE = 0x82,
	OP_IF = 0xa0,
	OP_ELSE = 0xa1,
	/* A table larger than this is a mistake. */
	AML_MAX = 1 << 20,
};

void aml_fini(struct aml *a)
{
	free(a->data);
	*a = (struct aml){ 0 };
}

void aml_bytes(struct aml *a, const void *p, size_t n)
{
	if (a->failed)
		return;
	if (a->cap - a->len < n) {
		size_t cap = MAX(a->cap * 2, a->len + n + 1024);
		uint8_t *more = cap <= AML_MAX ? xgrow(a->data, a->cap, cap, 1) : NULL;

		if (!more) {
			a->failed = true;
			return;
		}
		a->data = more;
		a->cap = cap;
	}
	memcpy(a->data + a->len, p, n);
	a->len += n;
}

void aml_byte(struct aml *a, uint8_t v)
{
	aml_bytes(a, &v, 1);
}

void aml_raw(struct aml *a, unsigned n, uint64_t v)
{
	uint8_t b[8];

	st_le64(b, v);
	aml_bytes(a, b, n);
}

/* Bodies.  20.2.4: a length of 1 to 4 bytes that counts itself, put in front when the body is done.
 */

static void aml_open(struct aml *a)
{
	BUG_ON(a->depth == AML_DEPTH);
	a->open[a->depth++] = a->len;
}

static unsigned aml_pkg_length(size_t body, uint8_t *b)
{
	size_t len = body + 1;

	if (len < 64) {
		b[0] = (uint8_t)len;
		return 1;
	}
	unsigned n = ++len < 1 << 12 ? 2 : ++len < 1 << 20 ? 3 : 4;
	len = body + n;
	b[0] = (uint8_t)((n - 1) << 6 | (len & 0xf));
	for (unsigned i = 1; i < n; i++)
		b[i] = (uint8_t)(len >> (8 * i - 4));
	return n;
}

void aml_end(struct aml *a)
{
	uint8_t b[4];

	BUG_ON(!a->depth);
	size_t at = a->open[--a->depth];
	if (a->failed)
		return;
	size_t body = a->len - at;
	unsigned n = aml_pkg_length(body, b);
	/* Room at the end, then the body moves. */
	aml_bytes(a, b, n);
	if (a->failed)
		return;
	memmove(a->data + at + n, a->data + at, body);
	memcpy(a->data + at, b, n);
}

/* Data. */

void aml_int(struct aml *a, uint64_t v)
{
	unsigned n = v <= 0xff ? 1 : v <= 0xffff ? 2 : v <= 0xffffffff ? 4 : 8;

	if (v <= 1) {
		aml_byte(a, v ? OP_ONE : OP_ZERO);
		return;
	}
	aml_byte(a, n == 1 ? OP_BYTE : n == 2 ? OP_WORD : n == 4 ? OP_DWORD : OP_QWORD);
	aml_raw(a, n, v);
}

static unsigned hex_digit(char c)
{
	return c <= '9' ? (unsigned)(c - '0') : (unsigned)((c | 0x20) - 'a') + 10;
}

void aml_eisaid(struct aml *a, const char *id)
{
	/* 19.6.37: three letters of 5 bits, four hex digits, most significant byte first. */
	uint32_t v = (uint32_t)(id[0] & 0x1f) << 26 | (uint32_t)(id[1] & 0x1f) << 21 |
		     (uint32_t)(id[2] & 0x1f) << 16 | hex_digit(id[3]) << 12 |
		     hex_digit(id[4]) << 8 | hex_digit(id[5]) << 4 | hex_digit(id[6]);

	BUG_ON(strlen(id) != 7);
	aml_byte(a, OP_DWORD);
	aml_raw(a, 4, __builtin_bswap32(v));
}

void aml_buffer(struct aml *a, const void *p, size_t n)
{
	aml_byte(a, OP_BUFFER);
	aml_open(a);
	aml_int(a, n);
	aml_bytes(a, p, n);
	aml_end(a);
}

void aml_uuid(struct aml *a, const char *text)
{
	/* Where each byte of the text goes (19.6.142). */
	static const uint8_t order[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
	uint8_t b[16];
	unsigned i = 0;

	for (const char *p = text; *p && i < 16; p += *p == '-' ? 1 : 2)
		if (*p != '-')
			b[order[i++]] = (uint8_t)(hex_digit(p[0]) << 4 | hex_digit(p[1]));
	BUG_ON(i != 16);
	aml_buffer(a, b, sizeof(b));
}

void aml_package(struct aml *a, uint8_t n)
{
	aml_byte(a, OP_PACKAGE);
	aml_open(a);
	aml_byte(a, n);
}

/* Names. */

void aml_ref(struct aml *a, const char *name)
{
	unsigned segs = 1;

	for (; *name == '\\' || *name == '^'; name++)
		aml_byte(a, (uint8_t)*name);
	for (const char *p = name; *p; p++)
		segs += *p == '.';
	if (segs == 2) {
		aml_byte(a, OP_DUAL_NAME);
	} else if (segs > 2) {
		aml_byte(a, OP_MULTI_NAME);
		aml_byte(a, (uint8_t)segs);
	}
	for (unsigned i = 0; i < segs; i++) {
		char seg[4] = { '_', '_', '_', '_' };

		for (unsigned n = 0; *name && *name != '.'; n++) {
			BUG_ON(n == 4);
			seg[n] = *name++;
		}
		name += *name == '.';
		aml_bytes(a, seg, 4);
	}
}

void aml_name(struct aml *a, const char *name)
{
	aml_byte(a, OP_NAME);
	aml_ref(a, name);
}

void aml_name_int(struct aml *a, const char *name, uint64_t v)
{
	aml_name(a, name);
	aml_int(a, v);
}

void aml_scope(struct aml *a, const char *name)
{
	aml_byte(a, OP_SCOPE);
	aml_open(a);
	aml_ref(a, name);
}

void aml_device(struct aml *a, const char *name)
{
	aml_byte(a, OP_EXT);
	aml_byte(a, OP_EXT_DEVICE);
	aml_open(a);
	aml_ref(a, name);
}

void aml_method(struct aml *a, const char *name, unsigned nargs)
{
	aml_byte(a, OP_METHOD);
	aml_open(a);
	aml_ref(a, name);
	/* Serialized, as it makes names. */
	aml_byte(a, (uint8_t)(nargs | 8));
}

void aml_if(struct aml *a)
{
	aml_byte(a, OP_IF);
	aml_open(a);
}

void aml_else(struct aml *a)
{
	aml_byte(a, OP_ELSE);
	aml_open(a);
}

/* Resources (6.4). */

enum {
	RES_IRQ = 0x22,
	RES_IO = 0x47,
	RES_END = 0x79,
	RES_MEM32 = 0x86,
	RES_DWORD = 0x87,
	RES_WORD = 0x88,
	RES_QWORD = 0x8a,
	/* Resource types of address spaces, 6.4.3.5. */
	SPACE_MEM = 0,
	SPACE_IO = 1,
	SPACE_BUS = 2,
	/* General flags: both ends are fixed; the device uses it itself. */
	RES_FIXED = 0xc,
	RES_CONSUMER = 1,
	/* All of the I/O space, not only ISA's part. */
	RES_IO_ENTIRE = 3,
	RES_MEM_RW = 1,
};

void aml_res(struct aml *a)
{
	aml_byte(a, OP_BUFFER);
	aml_open(a);
	/* The size is known at the end: two bytes for it. */
	aml_byte(a, OP_WORD);
	a->res = a->len;
	aml_raw(a, 2, 0);
}

void aml_res_end(struct aml *a)
{
	aml_byte(a, RES_END);
	/* Checksum 0: not checked. */
	aml_byte(a, 0);
	if (!a->failed)
		st_le16(a->data + a->res, (uint16_t)(a->len - a->res - 2));
	aml_end(a);
}

void aml_res_io(struct aml *a, uint16_t base, uint8_t len)
{
	aml_byte(a, RES_IO);
	/* All 16 address lines are decoded. */
	aml_byte(a, 1);
	aml_raw(a, 2, base);
	aml_raw(a, 2, base);
	aml_byte(a, 1);
	aml_byte(a, len);
}

void aml_res_irq(struct aml *a, unsigned irq)
{
	aml_byte(a, RES_IRQ);
	aml_raw(a, 2, 1u << irq);
}

void aml_res_mem32(struct aml *a, uint32_t base, uint32_t len)
{
	aml_byte(a, RES_MEM32);
	aml_raw(a, 2, 9);
	aml_byte(a, RES_MEM_RW);
	aml_raw(a, 4, base);
	aml_raw(a, 4, len);
}

/* An address space descriptor with numbers of `width` bytes. */
static void aml_space(struct aml *a, uint8_t tag, unsigned width, uint8_t space, uint8_t general,
		      uint8_t flags, uint64_t first, uint64_t last)
{
	aml_byte(a, tag);
	aml_raw(a, 2, 3 + 5 * width);
	aml_byte(a, space);
	aml_byte(a, general);
	aml_byte(a, flags);
	aml_raw(a, width, 0);
	aml_raw(a, width, first);
	aml_raw(a, width, last);
	aml_raw(a, width, 0);
	aml_raw(a, width, last - first + 1);
}

void aml_res_bus(struct aml *a, uint16_t first, uint16_t last)
{
	aml_space(a, RES_WORD, 2, SPACE_BUS, RES_FIXED, 0, first, last);
}

void aml_res_io_window(struct aml *a, uint16_t first, uint16_t last)
{
	aml_space(a, RES_WORD, 2, SPACE_IO, RES_FIXED, RES_IO_ENTIRE, first, last);
}

void aml_res_mem_window(struct aml *a, uint64_t base, uint64_t len)
{
	bool wide = base + (len - 1) > UINT32_MAX;

	aml_space(a, wide ? RES_QWORD : RES_DWORD, wide ? 8 : 4, SPACE_MEM, RES_FIXED, RES_MEM_RW,
		  base, base + (len - 1));
}

void aml_res_mem64(struct aml *a, uint64_t base, uint64_t len)
{
	aml_space(a, RES_QWORD, 8, SPACE_MEM, RES_FIXED | RES_CONSUMER, RES_MEM_RW, base,
		  base + (len - 1));
}
