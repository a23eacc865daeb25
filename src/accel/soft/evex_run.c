/*
 * AVX-512 for the assist: running one instruction that evex.c decoded, on the other engine's state.
 * What is done and why is said there.
 */
#include "accel/soft/evex_int.h"

#include "accel/soft/host_int.h"
#include "accel/soft/mem.h"
#include "accel/soft/sys_int.h"

#include "base/bug.h"
#include "base/bytes.h"
#include "base/num.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	IMG_MXCSR = 24,
	IMG_XMM = 160,
	IMG_BV = 512,
	IMG_AVX = 576,
	/* SSE, AVX and the components of AVX-512. */
	XCR0_EVEX = 0xe6,
};

/* ---- the state ---- */

/* Upper halves of YMM and the components beyond, into the image. */
static void evex_load(struct scpu *c, struct soft_evex *x)
{
	uint64_t has = ld_le64(c->run->more + IMG_BV);

	for (unsigned n = 0; n < 16; n++) {
		memcpy(x->img + IMG_XMM + 16 * n, c->ymm[n], 16);
		memcpy(x->img + IMG_AVX + 16 * n, c->ymm[n] + 16, 16);
	}
	st_le32(x->img + IMG_MXCSR, c->mxcsr);
	for (unsigned n = XC_OPMASK; n <= XC_LAST; n++) {
		if (has >> n & 1)
			memcpy(x->img + x->part[n].at, c->run->more + x->part[n].at,
			       x->part[n].len);
		else
			memset(x->img + x->part[n].at, 0, x->part[n].len);
	}
	st_le64(x->img + IMG_BV, XCR0_EVEX);
}

static void evex_store(struct scpu *c, struct soft_evex *x)
{
	uint64_t has = ld_le64(x->img + IMG_BV);

	for (unsigned n = 0; n < 16; n++) {
		memset(c->ymm[n], 0, 32);
		if (has & X86_XCR0_SSE)
			memcpy(c->ymm[n], x->img + IMG_XMM + 16 * n, 16);
		if (has & X86_XCR0_AVX)
			memcpy(c->ymm[n] + 16, x->img + IMG_AVX + 16 * n, 16);
	}
	for (unsigned n = XC_OPMASK; n <= XC_LAST; n++)
		if (has >> n & 1)
			memcpy(c->run->more + x->part[n].at, x->img + x->part[n].at,
			       x->part[n].len);
	uint64_t bv = ld_le64(c->run->more + IMG_BV) & ~(uint64_t)XCR0_EVEX;
	st_le64(c->run->more + IMG_BV, bv | (has & XCR0_EVEX));
}

/* ---- running ---- */

struct evex_emit {
	uint8_t p[HOST_STUB_MAX];
	unsigned n;
};

static void evex_put(struct evex_emit *e, const void *p, unsigned len)
{
	BUG_ON(e->n + len > sizeof(e->p));
	memcpy(e->p + e->n, p, len);
	e->n += len;
}
#define PUT(e, s) evex_put((e), (s), sizeof(s) - 1)

static void evex_put_off(struct evex_emit *e, size_t off)
{
	uint8_t b[4];

	st_le32(b, (uint32_t)off);
	evex_put(e, b, 4);
}

/* rdi: the memory operand, rsi: struct scpu, of which rcx, struct soft_evex, is found. */
static void evex_emit(struct evex_emit *e, const struct evex_op *o)
{
	/* mov rcx, [rsi + run]; mov rcx, [rcx + evex] */
	PUT(e, "\x48\x8b\x8e");
	evex_put_off(e, offsetof(struct scpu, run));
	PUT(e, "\x48\x8b\x89");
	evex_put_off(e, offsetof(struct soft_run, evex));
	/* mov r8, [rcx + reg]; mov r9, [rcx + rm] */
	PUT(e, "\x4c\x8b\x81");
	evex_put_off(e, offsetof(struct soft_evex, reg));
	PUT(e, "\x4c\x8b\x89");
	evex_put_off(e, offsetof(struct soft_evex, rm));
	/* mov eax, XCR0_EVEX; xor edx, edx; xrstor64 [rcx + img] */
	PUT(e, "\xb8\xe6\0\0\0\x31\xd2\x48\x0f\xae\xa9");
	evex_put_off(e, offsetof(struct soft_evex, img));
	evex_put(e, o->copy, o->ncopy);
	if (o->flags_out) {
		/* lahf; seto al; mov [rsi + fl], ax */
		PUT(e, "\x9f\x0f\x90\xc0\x66\x89\x86");
		evex_put_off(e, offsetof(struct scpu, fl));
	}
	PUT(e, "\x4c\x89\x81");
	evex_put_off(e, offsetof(struct soft_evex, reg));
	PUT(e, "\x4c\x89\x89");
	evex_put_off(e, offsetof(struct soft_evex, rm));
	/* mov eax, XCR0_EVEX; xor edx, edx; xsave64 [rcx + img] */
	PUT(e, "\xb8\xe6\0\0\0\x31\xd2\x48\x0f\xae\xa1");
	evex_put_off(e, offsetof(struct soft_evex, img));
	/* mov dword [rsp - 8], 0x1f80; ldmxcsr [rsp - 8]; vzeroupper; xor eax, eax; ret */
	PUT(e, "\xc7\x44\x24\xf8\x80\x1f\0\0\x0f\xae\x54\x24\xf8\xc5\xf8\x77\x31\xc0\xc3");
}

static void evex_gate(struct scpu *c, const struct insn *i)
{
	if (!(c->cr4 & X86_CR4_OSXSAVE) || (c->xcr0 & XCR0_EVEX) != XCR0_EVEX || !c->run->more)
		soft_raise(c, i, X86_EXC_UD, 0);
	if (c->cr0 & X86_CR0_TS)
		soft_raise(c, i, X86_EXC_NM, 0);
}

/* One bit for each element that the mask lets through. */
static uint64_t evex_mask(const struct soft_evex *x, const struct evex_op *o)
{
	unsigned span = o->how & (EV_PACK | EV_ANY) ? o->vl : o->len;
	unsigned n = o->elem ? span / o->elem : 0;
	uint64_t all = n >= 64 ? ~0ull : BIT64(n) - 1;

	if (!o->k)
		return all;
	return ld_le64(x->img + x->part[XC_OPMASK].at + 8 * o->k) & all;
}

static uint64_t evex_lin(struct scpu *c, const struct insn *i, unsigned off, unsigned len,
			 bool write)
{
	return soft_lin(c, i, i->seg, (soft_ea(c, i) + off) & i->ea_mask, len, write);
}

enum evex_do {
	EVEX_LD,
	EVEX_PROBE,
	EVEX_ST,
};

static void evex_bytes(struct scpu *c, const struct insn *i, enum evex_do what, unsigned off,
		       unsigned len)
{
	struct soft_evex *x = c->run->evex;
	uint64_t lin = evex_lin(c, i, off, len, what != EVEX_LD);

	if (what == EVEX_LD)
		soft_ld_buf_lin(c, i, lin, x->mem + off, len);
	else if (what == EVEX_PROBE)
		soft_probe_w(c, i, lin, len);
	else
		soft_st_buf_lin(c, i, lin, x->mem + off, len);
}

/* The bytes of the memory operand that the instruction touches. */
static void evex_access(struct scpu *c, const struct insn *i, const struct evex_op *o,
			enum evex_do what)
{
	uint64_t mask = o->how & EV_WHOLE ? ~0ull : evex_mask(c->run->evex, o);
	unsigned n = o->elem ? o->len / o->elem : 0;

	if (o->how & EV_PACK) {
		if (mask)
			evex_bytes(c, i, what, 0, (unsigned)__builtin_popcountll(mask) * o->elem);
		return;
	}
	if (!o->k || o->how & EV_WHOLE) {
		evex_bytes(c, i, what, 0, o->len);
		return;
	}
	/* Each element of memory is that of every n-th lane. */
	for (unsigned k = 32; o->how & EV_ANY && k >= n; k /= 2)
		mask |= mask >> k;
	for (unsigned k = 0; k < n; k++)
		if (mask >> k & 1)
			evex_bytes(c, i, what, k * o->elem, o->elem);
}

static void evex_mem_before(struct scpu *c, const struct insn *i, const struct evex_op *o)
{
	struct soft_evex *x = c->run->evex;

	if (o->how & EV_ALIGN && evex_lin(c, i, 0, o->len, o->how & EV_ST) & (o->len - 1))
		soft_raise(c, i, X86_EXC_GP, 0);
	memset(x->mem, 0, sizeof(x->mem));
	evex_access(c, i, o, o->how & EV_ST ? EVEX_PROBE : EVEX_LD);
}

/* Run by i->fn: no block holds one of these, they are decoded for one step each. */
void evex_insn(struct scpu *c, const struct insn *i)
{
	struct soft_evex *x = c->run->evex;
	const struct evex_op *o = &x->op;
	struct evex_emit e = { .n = 0 };

	evex_gate(c, i);
	evex_load(c, x);
	if (i->flags & INSN_MEM)
		evex_mem_before(c, i, o);
	if (o->how & EV_RM_GPR && !(i->flags & INSN_MEM))
		x->rm = c->gpr[i->rm];
	evex_emit(&e, o);
	unsigned vector = host_run_code(c, e.p, e.n, x->mem);
	if (vector)
		soft_raise(c, i, X86_EXC_UD, 0);
	if (i->flags & INSN_MEM && o->how & EV_ST)
		evex_access(c, i, o, EVEX_ST);
	evex_store(c, x);
	if (o->how & EV_RM_GPR && !(i->flags & INSN_MEM))
		c->gpr[i->rm] = x->rm;
	if (o->how & EV_REG_GPR)
		c->gpr[i->reg] = x->reg;
	SOFT_NEXT(c, i);
}

/* ---- life ---- */

static bool evex_host(struct soft_evex *x)
{
	unsigned a, b, c, d;
	uint32_t lo, hi;

	if (!host_facts.avx || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX512F))
		return false;
	asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	if ((lo & XCR0_EVEX) != XCR0_EVEX)
		return false;
	for (unsigned n = XC_OPMASK; n <= XC_LAST; n++) {
		__cpuid_count(0xd, n, a, b, c, d);
		x->part[n].at = b;
		x->part[n].len = a;
		if (!a || a > EVEX_IMG_LEN || b < IMG_AVX || b > EVEX_IMG_LEN - a)
			return false;
	}
	return x->part[XC_OPMASK].len >= 64;
}

void evex_free(struct soft_evex *x)
{
	free(x);
}

int evex_new(struct soft_evex **ret, struct err *e)
{
	struct soft_evex *x = aligned_alloc(64, align_up(sizeof(*x), 64));

	if (!x)
		return err_set(e, ENOMEM, "no memory");
	memset(x, 0, sizeof(*x));
	if (!evex_host(x)) {
		free(x);
		x = NULL;
	}
	*ret = x;
	return 0;
}
