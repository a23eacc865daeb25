/* Writing x86-64 machine code. */
#pragma once

#include "accel/soft/soft_int.h"

/* A place in the code cache: p is where it is written.  env: address of the vCPU, below 2 GiB, so
 * that its fields are at absolute addresses. */
struct jbuf {
	uint8_t *p;
	uint32_t env;
};

static inline void e1(struct jbuf *b, unsigned v)
{
	*b->p++ = (uint8_t)v;
}

static inline void e4(struct jbuf *b, uint32_t v)
{
	__builtin_memcpy(b->p, &v, 4);
	b->p += 4;
}

static inline void e8(struct jbuf *b, uint64_t v)
{
	__builtin_memcpy(b->p, &v, 8);
	b->p += 8;
}

static inline void e_bytes(struct jbuf *b, const void *s, unsigned n)
{
	__builtin_memcpy(b->p, s, n);
	b->p += n;
}
#define E_STR(b, s) e_bytes((b), (s), sizeof(s) - 1)

/* An opcode: 0x8b, or 0x0fb6 for 0F B6. */
static inline void e_opcode(struct jbuf *b, unsigned op)
{
	if (op > 0xff)
		e1(b, op >> 8);
	e1(b, op & 0xff);
}

static inline void e_rex(struct jbuf *b, unsigned w, unsigned r, unsigned x, unsigned base)
{
	unsigned rex = 0x40 | w << 3 | (r >> 3 & 1) << 2 | (x >> 3 & 1) << 1 | (base >> 3 & 1);

	if (rex != 0x40)
		e1(b, rex);
}

/* op reg, rm; w: 64 bits wide. */
static inline void e_rr(struct jbuf *b, unsigned w, unsigned op, unsigned reg, unsigned rm)
{
	e_rex(b, w, reg, 0, rm);
	e_opcode(b, op);
	e1(b, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

/* ModRM, SIB and displacement of [base + index << scale + disp]; base and index < 0: none. */
static inline void e_modrm(struct jbuf *b, unsigned reg, int base, int index, unsigned scale,
			   int32_t disp)
{
	unsigned r = (reg & 7) << 3, mod;
	unsigned sib = scale << 6 | (index < 0 ? 4u : (unsigned)index & 7) << 3;

	if (base < 0) {
		e1(b, r | 4);
		e1(b, sib | 5);
		e4(b, (uint32_t)disp);
		return;
	}
	mod = !disp && (base & 7) != 5 ? 0 : disp == (int8_t)disp ? 1 : 2;
	if (index >= 0 || (base & 7) == 4) {
		e1(b, mod << 6 | r | 4);
		e1(b, sib | ((unsigned)base & 7));
	} else {
		e1(b, mod << 6 | r | ((unsigned)base & 7));
	}
	if (mod == 1)
		e1(b, (uint8_t)disp);
	else if (mod == 2)
		e4(b, (uint32_t)disp);
}

/* op reg, [base + index << scale + disp] */
static inline void e_rm(struct jbuf *b, unsigned w, unsigned op, unsigned reg, int base, int index,
			unsigned scale, int32_t disp)
{
	e_rex(b, w, reg, index < 0 ? 0 : (unsigned)index, base < 0 ? 0 : (unsigned)base);
	e_opcode(b, op);
	e_modrm(b, reg, base, index, scale, disp);
}

/* op reg, [off of struct scpu] */
static inline void e_env(struct jbuf *b, unsigned w, unsigned op, unsigned reg, size_t off)
{
	e_rm(b, w, op, reg, -1, -1, 0, (int32_t)(b->env + off));
}

/* op reg, [r11 + off of struct scpu] */
static inline void e_env_r11(struct jbuf *b, unsigned w, unsigned op, unsigned reg, size_t off)
{
	e_rm(b, w, op, reg, X86_R11, -1, 0, (int32_t)(b->env + off));
}

/* mov r, imm: the shortest that sets all 64 bits. */
static inline void e_mov_imm(struct jbuf *b, unsigned r, uint64_t v)
{
	if (v == (uint32_t)v) {
		e_rex(b, 0, 0, 0, r);
		e1(b, 0xb8 | (r & 7));
		e4(b, (uint32_t)v);
	} else if (v == (uint64_t)(int32_t)v) {
		e_rex(b, 1, 0, 0, r);
		e1(b, 0xc7);
		e1(b, 0xc0 | (r & 7));
		e4(b, (uint32_t)v);
	} else {
		e_rex(b, 1, 0, 0, r);
		e1(b, 0xb8 | (r & 7));
		e8(b, v);
	}
}

/* The address that a rel32 at `at`, just written, refers to: set it. */
static inline void e_patch(uint8_t *at, const uint8_t *target)
{
	int32_t rel = (int32_t)(target - (at + 4));

	__builtin_memcpy(at, &rel, 4);
}

/* jmp; jcc: to target, or (NULL) to be patched: returns where the rel32 is. */
static inline uint8_t *e_jmp(struct jbuf *b, const uint8_t *target)
{
	e1(b, 0xe9);
	b->p += 4;
	if (target)
		e_patch(b->p - 4, target);
	return b->p - 4;
}

static inline uint8_t *e_jcc(struct jbuf *b, unsigned cc, const uint8_t *target)
{
	e1(b, 0x0f);
	e1(b, 0x80 | cc);
	b->p += 4;
	if (target)
		e_patch(b->p - 4, target);
	return b->p - 4;
}

static inline void e_call(struct jbuf *b, const uint8_t *target)
{
	e1(b, 0xe8);
	b->p += 4;
	e_patch(b->p - 4, target);
}

enum {
	E_CC_O = 0,
	E_CC_B = 2,
	E_CC_Z = 4,
	E_CC_NZ = 5,
	E_CC_A = 7,
	E_CC_S = 8,
};
