/*
 * A builder of AML, the bytecode of ACPI's namespace (ACPI 6.4, chapter 20).
 *
 * Calls append one term each, in the order of the text of an ASL program; what has a body is closed
 * with aml_end().  Names are given as in ASL: "\\_SB", "PCI0", "_SB.PCI0"; each segment has at most
 * 4 characters and is padded with '_'.  Running out of memory is remembered and told by
 * aml_failed().
 */
#pragma once

#include "base/compiler.h"

enum {
	AML_DEPTH = 12,
};

struct aml {
	uint8_t *data;
	size_t len, cap;
	bool failed;
	/* Where the open bodies' lengths go. */
	size_t open[AML_DEPTH];
	unsigned depth;
	/* Buffers: where the size of the open resource template goes. */
	size_t res;
};

void aml_fini(struct aml *a);
static inline bool aml_failed(const struct aml *a)
{
	return a->failed;
}

void aml_byte(struct aml *a, uint8_t v);
void aml_bytes(struct aml *a, const void *p, size_t n);
/* Little-endian integer of n bytes, without a prefix. */
void aml_raw(struct aml *a, unsigned n, uint64_t v);

/* Data. */
void aml_int(struct aml *a, uint64_t v);
/* "PNP0A08" as the compressed id it stands for. */
void aml_eisaid(struct aml *a, const char *id);
void aml_buffer(struct aml *a, const void *p, size_t n);
/* 16 bytes in the order of ToUUID(). */
void aml_uuid(struct aml *a, const char *text);
/* n elements follow, then aml_end(). */
void aml_package(struct aml *a, uint8_t n);

/* Names. */
void aml_ref(struct aml *a, const char *name);
/* The object follows. */
void aml_name(struct aml *a, const char *name);
void aml_name_int(struct aml *a, const char *name, uint64_t v);

/* Bodies, closed by aml_end(). */
void aml_scope(struct aml *a, const char *name);
void aml_device(struct aml *a, const char *name);
void aml_method(struct aml *a, const char *name, unsigned nargs);
/* The condition follows, then the body. */
void aml_if(struct aml *a);
void aml_else(struct aml *a);
void aml_end(struct aml *a);

/* Operators: operands follow. */
enum {
	AML_LOCAL0 = 0x60,
	AML_ARG0 = 0x68,
	AML_STORE = 0x70,
	AML_AND = 0x7b,
	AML_OR = 0x7d,
	AML_CREATE_DWORD_FIELD = 0x8a,
	AML_LNOT = 0x92,
	AML_LEQUAL = 0x93,
	AML_RETURN = 0xa4,
};

/* A resource template as the value of a name (6.4): entries, then aml_res_end(). */
void aml_res(struct aml *a);
void aml_res_io(struct aml *a, uint16_t base, uint8_t len);
void aml_res_irq(struct aml *a, unsigned irq);
void aml_res_mem32(struct aml *a, uint32_t base, uint32_t len);
/* Windows that a bridge passes on. */
void aml_res_bus(struct aml *a, uint16_t first, uint16_t last);
void aml_res_io_window(struct aml *a, uint16_t first, uint16_t last);
void aml_res_mem_window(struct aml *a, uint64_t base, uint64_t len);
/* Memory that the device itself takes, anywhere. */
void aml_res_mem64(struct aml *a, uint64_t base, uint64_t len);
void aml_res_end(struct aml *a);
