/*
 * Handlers that read what the processor is and knows: time, random numbers, CPUID, MSRs and XCR0.
 */
#include "accel/soft/sys_op.h"

#include <immintrin.h>

/* ---- time, random numbers, identification ---- */

uint64_t soft_tsc(const struct scpu *c)
{
	return __rdtsc() + c->tsc_offset;
}

static void set_edx_eax(struct scpu *c, uint64_t v)
{
	c->gpr[X86_RAX] = (uint32_t)v;
	c->gpr[X86_RDX] = v >> 32;
}

static void tsc_check(struct scpu *c, const struct insn *i)
{
	if (c->cr4 & X86_CR4_TSD && c->cpl)
		soft_gp(c, i, 0);
}

void sys_rdtsc(struct scpu *c, const struct insn *i)
{
	tsc_check(c, i);
	set_edx_eax(c, soft_tsc(c));
	SOFT_NEXT(c, i);
}

void sys_rdtscp(struct scpu *c, const struct insn *i)
{
	tsc_check(c, i);
	set_edx_eax(c, soft_tsc(c));
	c->gpr[X86_RCX] = (uint32_t)c->tsc_aux;
	SOFT_NEXT(c, i);
}

void sys_rdpid(struct scpu *c, const struct insn *i)
{
	gpr_set(c, i->rm, soft_64(c) ? 8 : 4, (uint32_t)c->tsc_aux);
	SOFT_NEXT(c, i);
}

/* No counters: every index is wrong. */
void sys_rdpmc(struct scpu *c, const struct insn *i)
{
	soft_gp(c, i, 0);
}

/* The host's own generator; CF says whether it gave a number. */
__attribute__((target("rdrnd"))) void sys_rdrand(struct scpu *c, const struct insn *i)
{
	unsigned long long v = 0;
	int ok = _rdrand64_step(&v);

	gpr_set(c, i->rm, i->opsize, ok ? v : 0);
	c->fl = (uint16_t)(0x200 | (ok ? 0x100 : 0));
	SOFT_NEXT(c, i);
}

__attribute__((target("rdseed"))) void sys_rdseed(struct scpu *c, const struct insn *i)
{
	unsigned long long v = 0;
	int ok = _rdseed64_step(&v);

	gpr_set(c, i->rm, i->opsize, ok ? v : 0);
	c->fl = (uint16_t)(0x200 | (ok ? 0x100 : 0));
	SOFT_NEXT(c, i);
}

/* Bytes of a standard-format XSAVE area with these components. */
static uint32_t xsave_size(uint64_t xcr0)
{
	return xcr0 & X86_XCR0_AVX ? 832 : 576;
}

void sys_cpuid(struct scpu *c, const struct insn *i)
{
	uint32_t leaf = (uint32_t)c->gpr[X86_RAX], sub = (uint32_t)c->gpr[X86_RCX];
	struct cpuid_entry e;

	cpuid_get(&c->v.cpuid, leaf, sub, &e);
	if (leaf == 1) {
		e.ecx = (e.ecx & ~BIT(27)) | (c->cr4 & X86_CR4_OSXSAVE ? BIT(27) : 0);
	} else if (leaf == 0xd && sub == 0 && e.eax) {
		e.ebx = xsave_size(c->xcr0);
	} else if (leaf == 0xd && sub == 1 && e.eax & 0xa) {
		e.ebx = xsave_size(c->xcr0);
	}
	c->gpr[X86_RAX] = e.eax;
	c->gpr[X86_RBX] = e.ebx;
	c->gpr[X86_RCX] = e.ecx;
	c->gpr[X86_RDX] = e.edx;
	/* CPUID serializes: end the block, so that code stored by others is seen. */
	sys_end(c, i);
}

/* ---- MSRs and XCR0 ---- */

void sys_rdmsr(struct scpu *c, const struct insn *i)
{
	uint64_t v;

	need_cpl0(c, i);
	if (!msr_read(c, (uint32_t)c->gpr[X86_RCX], &v))
		soft_gp(c, i, 0);
	set_edx_eax(c, v);
	SOFT_NEXT(c, i);
}

void sys_wrmsr(struct scpu *c, const struct insn *i)
{
	need_cpl0(c, i);
	uint64_t v = (uint32_t)c->gpr[X86_RAX] | c->gpr[X86_RDX] << 32;

	if (!msr_write(c, (uint32_t)c->gpr[X86_RCX], v))
		soft_gp(c, i, 0);
	sys_end(c, i);
}

void sys_xgetbv(struct scpu *c, const struct insn *i)
{
	uint32_t n = (uint32_t)c->gpr[X86_RCX];

	if (!(c->cr4 & X86_CR4_OSXSAVE))
		soft_ud(c, i);
	if (n > 1)
		soft_gp(c, i, 0);
	/* XINUSE (n 1): nothing is ever said to be in its initial state but upper halves. */
	set_edx_eax(c, n ? xsave_inuse(c) & c->xcr0 : c->xcr0);
	SOFT_NEXT(c, i);
}

void sys_xsetbv(struct scpu *c, const struct insn *i)
{
	if (!(c->cr4 & X86_CR4_OSXSAVE))
		soft_ud(c, i);
	need_cpl0(c, i);
	uint64_t v = (uint32_t)c->gpr[X86_RAX] | c->gpr[X86_RDX] << 32;

	if ((uint32_t)c->gpr[X86_RCX] || !(v & X86_XCR0_X87) || v & ~c->run->xcr0_ok ||
	    (v & X86_XCR0_AVX && !(v & X86_XCR0_SSE)))
		soft_gp(c, i, 0);
	c->xcr0 = v;
	sys_end(c, i);
}
