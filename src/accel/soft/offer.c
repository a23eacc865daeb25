/*
 * What the software CPU offers through CPUID: the host's features that it implements.  Vector and
 * x87 instructions run on the host's own units, so the host must have what the guest is shown.
 *
 * Left out, with the reason:
 *	AVX-512, AMX	not in the instruction table yet
 *	LA57		a fifth level in every page walk
 *	MONITOR		a guest waits with HLT, which frees the host CPU
 *	VMX, SVM	no nesting
 *	TSX, MPX, PKU, CET, PMU, WAITPKG, UINTR, SSE4A, 3DNow!, XOP, FMA4, TBM, LWP
 *			not implemented
 *
 * Page-table isolation, retpolines, return thunks and the like cost a software CPU much and protect
 * nothing in it (it does not run guest code speculatively past its own checks), so the bits that
 * say "not affected" are set: in every model, as kernels choose by family and model besides
 * (soft_advise()).  docs/engine.md goes through them.
 */
#include "accel/soft/sys_int.h"

#include "base/clock.h"
#include "base/num.h"

#include <cpuid.h>
#include <string.h>
#include <x86intrin.h>

enum {
	R_EAX,
	R_EBX,
	R_ECX,
	R_EDX,
};

/* Bits that may be offered where the host has them. */
static const struct offer {
	uint32_t leaf, sub;
	uint8_t reg;
	/* Offered when the host has it; offered always (done in software). */
	uint32_t host, always;
} offers[] = {
	/* SSE3 PCLMUL SSSE3 FMA CX16 PCID SSE4.1 SSE4.2 x2APIC MOVBE POPCNT deadline AES XSAVE AVX
	 * F16C RDRAND; bit 31: a hypervisor. */
	{ 1, 0, R_ECX,
	  BIT(0) | BIT(1) | BIT(9) | BIT(12) | BIT(13) | BIT(19) | BIT(20) | BIT(22) | BIT(23) |
		  BIT(25) | BIT(26) | BIT(28) | BIT(29) | BIT(30),
	  BIT(17) | BIT(21) | BIT(24) | BIT(31) },
	/* FPU DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE
	 * SSE2 SS */
	{ 1, 0, R_EDX, BIT(0) | BIT(8) | BIT(15) | BIT(19) | BIT(23) | BIT(24) | BIT(25) | BIT(26),
	  BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(9) | BIT(11) | BIT(12) |
		  BIT(13) | BIT(14) | BIT(16) | BIT(17) | BIT(27) },
	/* ARAT: the timer runs in halt. */
	{ 6, 0, R_EAX, 0, BIT(2) },
	/* FSGSBASE TSC_ADJUST BMI1 AVX2 FDP-only SMEP BMI2 ERMS INVPCID FCS-deprecated RDSEED ADX
	 * SMAP CLFLUSHOPT CLWB SHA */
	{ 7, 0, R_EBX, BIT(3) | BIT(5) | BIT(8) | BIT(18) | BIT(19) | BIT(29),
	  BIT(0) | BIT(1) | BIT(7) | BIT(9) | BIT(10) | BIT(13) | BIT(20) | BIT(23) | BIT(24) },
	/* UMIP RDPID */
	{ 7, 0, R_ECX, 0, BIT(2) | BIT(22) },
	/* FSRM, ARCH_CAPABILITIES */
	{ 7, 0, R_EDX, 0, BIT(4) | BIT(29) },
	/* XSAVEOPT XSAVEC XGETBV(1) XSAVES */
	{ 0xd, 1, R_EAX, 0, BIT(0) | BIT(1) | BIT(2) | BIT(3) },
	/* LAHF ABM PREFETCHW CR8_LEGACY */
	{ 0x80000001, 0, R_ECX, BIT(5), BIT(0) | BIT(4) | BIT(8) },
	/* As leaf 1 on AMD, SYSCALL NX MMXEXT(host) PDPE1GB RDTSCP LM */
	{ 0x80000001, 0, R_EDX, BIT(22), BIT(11) | BIT(20) | BIT(26) | BIT(27) | BIT(29) },
	/* Invariant TSC */
	{ 0x80000007, 0, R_EDX, 0, BIT(8) },
	/* KVM's: no delays after port I/O, the clock (old and new MSRs) and that it is stable. */
	{ 0x40000001, 0, R_EAX, 0, BIT(0) | BIT(1) | BIT(3) | BIT(24) },
};

static uint32_t *offer_reg(struct cpuid_entry *e, unsigned reg)
{
	uint32_t *const r[] = { &e->eax, &e->ebx, &e->ecx, &e->edx };

	return r[reg];
}

/* Leaves that are shown at all. */
static bool offer_leaf(uint32_t leaf, uint32_t sub)
{
	switch (leaf) {
	case 0:
	case 1:
	case 2:
	case 4:
	case 6:
	case 0xb:
	case 0x15:
	case 0x16:
	case 0x80000000 ... 0x80000008:
	case 0x8000001d:
	case 0x80000021:
		return true;
	case 7:
		return sub == 0;
	case 0xd:
		return sub <= 2;
	default:
		return false;
	}
}

/* What a leaf keeps that is no feature bit: 0 means nothing. */
static void offer_keep(struct cpuid_entry *e)
{
	const struct cpuid_entry h = *e;

	switch (e->leaf) {
	case 1:
		e->ecx = e->edx = 0;
		break;
	case 6:
		e->eax = e->ebx = e->ecx = e->edx = 0;
		break;
	case 7:
		*e = (struct cpuid_entry){ .leaf = 7, .sub = h.sub, .has_sub = true };
		break;
	case 0x80000001:
		*e = (struct cpuid_entry){ .leaf = h.leaf, .eax = h.eax };
		break;
	case 0x80000007:
		*e = (struct cpuid_entry){ .leaf = h.leaf };
		break;
	case 0x80000008:
		/* At most 48 linear bits; core counts are the topology's. */
		*e = (struct cpuid_entry){ .leaf = h.leaf, .eax = (h.eax & 0xff) | 48 << 8 };
		break;
	case 0x80000021:
		*e = (struct cpuid_entry){ .leaf = h.leaf };
		break;
	default:
		break;
	}
}

/* x87, SSE and AVX (SDM 1 13.2). */
static void offer_xsave(struct cpuid_table *t)
{
	const struct cpuid_entry e[] = {
		{ .leaf = 0xd, .sub = 0, .has_sub = true, .eax = 7, .ebx = 832, .ecx = 832 },
		{ .leaf = 0xd, .sub = 1, .has_sub = true, .eax = 0xf, .ebx = 832 },
		{ .leaf = 0xd, .sub = 2, .has_sub = true, .eax = 256, .ebx = 576 },
	};

	for (unsigned n = 0; n < COUNT_OF(e); n++)
		(void)cpuid_set(t, &e[n]);
}

static void offer_features(struct cpuid_table *t, struct cpuid_table *host)
{
	for (unsigned n = 0; n < COUNT_OF(offers); n++) {
		const struct offer *o = &offers[n];
		struct cpuid_entry *e = cpuid_find(t, o->leaf, o->sub);
		struct cpuid_entry *h = cpuid_find(host, o->leaf, o->sub);

		if (!e || (o->leaf == 0xd && o->sub == 1))
			continue;
		*offer_reg(e, o->reg) |= o->always | (h ? *offer_reg(h, o->reg) & o->host : 0);
	}
}

/* Vector features need AVX state; without it (a host that hides AVX) they go. */
static void offer_consistent(struct cpuid_table *t)
{
	struct cpuid_entry *e1 = cpuid_find(t, 1, 0), *e7 = cpuid_find(t, 7, 0);

	if (e1 && !(e1->ecx & BIT(26))) {
		e1->ecx &= ~(BIT(12) | BIT(28) | BIT(29));
		if (e7)
			e7->ebx &= ~BIT(5);
	}
}

/* Bits of every model of a vendor, whatever the host has. */
static const struct advice {
	bool intel;
	uint32_t leaf, sub;
	uint8_t reg;
	uint32_t bits;
} advices[] = {
	/* SPEC_CTRL, with IBRS_ALL in ARCH_CAPABILITIES: no retpolines. */
	{ true, 7, 0, R_EDX, BIT(26) | BIT(29) },
	{ false, 7, 0, R_EDX, BIT(29) },
	/* BHI_CTRL: Linux sets a bit once in place of a loop at each system call; not every
	 * version looks for BHI_NO. */
	{ true, 7, 2, R_EDX, BIT(4) },
	/* XSAVEERPTR (the pointers are always 0, so none is another's), SSB_NO, BTC_NO; the last
	 * for Intel's too: Linux asks there first whether returns are safe. */
	{ true, 0x80000008, 0, R_EBX, BIT(29) },
	{ false, 0x80000008, 0, R_EBX, BIT(2) | BIT(26) | BIT(29) },
	/* LFENCE serializes, null selector clears base, automatic IBRS (no retpolines), SRSO_NO */
	{ false, 0x80000021, 0, R_EAX, BIT(2) | BIT(6) | BIT(8) | BIT(29) },
	/* TSA_SQ_NO, TSA_L1_NO */
	{ false, 0x80000021, 0, R_ECX, BIT(1) | BIT(2) },
};

/* The leaf, made when it is not there; NULL when the CPU is too old to have it. */
static struct cpuid_entry *advice_leaf(struct cpuid_table *t, uint32_t leaf, uint32_t sub)
{
	struct cpuid_entry *max = cpuid_find(t, leaf & 0x80000000, 0);
	const struct cpuid_entry made = { .leaf = leaf, .sub = sub, .has_sub = leaf == 7 };

	if (!max || (leaf == 7 && max->eax < 7))
		return NULL;
	max->eax = MAX(max->eax, leaf);
	if (!cpuid_find(t, leaf, sub) && !cpuid_set(t, &made))
		return NULL;
	/* The number of sub-leaves. */
	struct cpuid_entry *first = cpuid_find(t, leaf, 0);
	if (sub && first)
		first->eax = MAX(first->eax, sub);
	return cpuid_find(t, leaf, sub);
}

void soft_advise(struct cpuid_table *t)
{
	const struct cpuid_entry *e0 = cpuid_find(t, 0, 0);
	bool intel = e0 && e0->ebx == signature_INTEL_ebx;

	for (unsigned n = 0; n < COUNT_OF(advices); n++) {
		const struct advice *a = &advices[n];
		struct cpuid_entry *e = a->intel == intel ? advice_leaf(t, a->leaf, a->sub) : NULL;

		if (e)
			*offer_reg(e, a->reg) |= a->bits;
	}
}

int soft_cpuid(struct cpuid_table *ret, struct err *e)
{
	static struct cpuid_table host;

	cpuid_host(&host);
	ret->n = 0;
	for (unsigned n = 0; n < host.n; n++) {
		struct cpuid_entry x = host.e[n];

		if (!offer_leaf(x.leaf, x.sub))
			continue;
		offer_keep(&x);
		(void)cpuid_set(ret, &x);
	}
	if (!cpuid_find(ret, 6, 0))
		(void)cpuid_set(ret, &(struct cpuid_entry){ .leaf = 6 });
	(void)cpuid_set(ret, &(struct cpuid_entry){ .leaf = 0x40000001 });
	offer_xsave(ret);
	struct cpuid_entry *e0 = cpuid_find(ret, 0, 0);
	if (e0 && e0->eax > 0x1f)
		e0->eax = 0x1f;
	offer_features(ret, &host);
	offer_consistent(ret);
	return 0;
}

/* ---- the TSC's frequency ---- */

/* Both clocks at one moment: of some tries the one in which least time passed. */
static void tsc_pair(uint64_t *ret_tsc, uint64_t *ret_ns)
{
	enum {
		TRIES = 8,
	};
	uint64_t best = UINT64_MAX;

	for (unsigned n = 0; n < TRIES; n++) {
		uint64_t before = __rdtsc(), ns = clock_ns(), took = __rdtsc() - before;

		if (took >= best)
			continue;
		best = took;
		*ret_tsc = before + took / 2;
		*ret_ns = ns;
	}
}

/* Against the monotonic clock, which is the guest's other clocks' and what NTP corrects. */
static uint64_t tsc_measure(void)
{
	uint64_t t0, t1, c0, c1;

	tsc_pair(&c0, &t0);
	do {
		tsc_pair(&c1, &t1);
	} while (t1 - t0 < 20 * NS_PER_MS);
	return (uint64_t)((unsigned __int128)(c1 - c0) * NS_PER_SEC / (t1 - t0));
}

/* What leaf 0x15 or a hypervisor's 0x40000010 says; 0: nothing. */
static uint64_t tsc_advertised(void)
{
	uint32_t a, b, c, d;

	__cpuid(0, a, b, c, d);
	if (a >= 0x15) {
		__cpuid(0x15, a, b, c, d);
		if (a && b && c)
			return (uint64_t)c * b / a;
	}
	__cpuid(1, a, b, c, d);
	if (!(c >> 31))
		return 0;
	__cpuid(0x40000000, a, b, c, d);
	if (a < 0x40000010 || a >= 0x40000100)
		return 0;
	__cpuid(0x40000010, a, b, c, d);
	return a > 100000 ? (uint64_t)a * 1000 : 0;
}

/*
 * Crystals are not what they say and NTP corrects the host's clock, so it is measured; what is
 * advertised is better only where both agree but for the measurement's error.
 */
uint64_t soft_host_tsc_hz(void)
{
	uint64_t hz = tsc_measure(), said = tsc_advertised(),
		 apart = hz > said ? hz - said : said - hz;

	if (said && apart < said / 100000)
		return said;
	/* Kilohertz are as exact as it is. */
	return (hz + 500) / 1000 * 1000;
}
