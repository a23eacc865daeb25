/*
 * The guest's CPUID: what the engine can run, cut down to a model, with a topology and a
 * hypervisor's leaves of its own.
 *
 *	host		the engine's table, leaf by leaf
 *	a named model	a new table: vendor, signature and caches from the model, and of each word
 *			of features those that model and engine have both
 *
 * Both then get the same last touch, so that what one leaf says of another holds: XSAVE components
 * follow from the features, topology leaves (1, 4, 0xb, 0x1f, 0x80000008, 0x8000001d, 0x8000001e)
 * from the number of CPUs, which are the cores of one socket without threads.
 */
#include "cpu/cpuid.h"

#include "base/bits.h"
#include "base/bytes.h"
#include "base/num.h"
#include "base/str.h"
#include "cpu/model.h"
#include "cpu/x86.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
	LEAF_TOPOLOGY = 0xb,
	LEAF_XSAVE = 0xd,
	LEAF_CRYSTAL = 0x15,
	LEAF_FREQ = 0x16,
	LEAF_TOPOLOGY_2 = 0x1f,
	LEAF_HV = 0x40000000,
	LEAF_HV_FEATURES = 0x40000001,
	LEAF_HV_TIMING = 0x40000010,
	/* Of local APICs here and in KVM: 1 GHz. */
	APIC_BUS_HZ = 1000000000,
	/* AMD repeats these bits of leaf 1 EDX in 0x80000001 EDX. */
	AMD_SHARED_EDX = 0x0183f3ff,
	XSAVE_HEADER_END = 576,
};

/* Given to every model when the engine has them: they cost a guest nothing and help. */
static const struct cpu_model model_extras = {
	.features = "x2apic tsc-deadline tsc_adjust arat invtsc arch-capabilities"
};

struct build {
	struct cpuid_table *t;
	const struct cpuid_table *engine;
	const struct cpuid_topology *topo;
	bool full;
	bool amd;
};

static void put(struct build *b, uint32_t leaf, uint32_t eax, uint32_t ebx, uint32_t ecx,
		uint32_t edx)
{
	const struct cpuid_entry e = {
		.leaf = leaf, .eax = eax, .ebx = ebx, .ecx = ecx, .edx = edx
	};

	b->full |= !cpuid_set(b->t, &e);
}

static void put_sub(struct build *b, const struct cpuid_entry *e)
{
	b->full |= !cpuid_set(b->t, e);
}

/* Removes all entries for which drop() says so. */
static void table_drop(struct cpuid_table *t, bool (*drop)(const struct cpuid_entry *e))
{
	unsigned n = 0;

	for (unsigned i = 0; i < t->n; i++)
		if (!drop(&t->e[i]))
			t->e[n++] = t->e[i];
	t->n = n;
}

static bool has(const struct cpuid_table *t, const char *feature)
{
	const struct cpu_feature *f = cpu_feature_find(feature, strlen(feature));

	return f && cpu_feature_has(t, f);
}

static struct cpuid_entry engine_leaf(const struct build *b, uint32_t leaf, uint32_t sub)
{
	const struct cpuid_entry *e = cpuid_peek(b->engine, leaf, sub);

	return e ? *e : (struct cpuid_entry){ .leaf = leaf, .sub = sub };
}

/* Named models. */

/* The words of features of the model, cut down to the engine's. */
static void put_features(struct build *b, const struct cpu_model *m)
{
	struct cpuid_table want, extra;

	cpu_model_features(m, &want);
	cpu_model_features(&model_extras, &extra);
	for (unsigned i = 0; i < cpu_nfeatures; i++) {
		const struct cpu_feature *f = &cpu_features[i];

		if (cpu_feature_has(b->engine, f) &&
		    (cpu_feature_has(&want, f) || cpu_feature_has(&extra, f)))
			b->full |= !cpu_feature_set(b->t, f, true);
	}
}

static uint32_t signature(unsigned family, unsigned model, unsigned stepping)
{
	uint32_t v = (model & 0xf) << 4 | (model >> 4) << 16 | stepping;

	return family > 0xf ? v | 0xf << 8 | (family - 0xf) << 20 : v | family << 8;
}

static void put_vendor(struct build *b, const struct cpu_model *m)
{
	struct cpuid_entry e = engine_leaf(b, 0, 0);

	if (m->vendor) {
		e.ebx = ld_le32(m->vendor);
		e.edx = ld_le32(m->vendor + 4);
		e.ecx = ld_le32(m->vendor + 8);
	}
	put(b, 0, m->level, e.ebx, e.ecx, e.edx);
	b->amd = e.ecx == 0x444d4163 || e.ecx == 0x656e6975;
}

static void put_brand(struct build *b, const struct cpu_model *m)
{
	char text[48] = "";

	str_copy(text, sizeof(text), m->title);
	for (unsigned i = 0; i < 3; i++) {
		const char *p = text + 16 * i;

		put(b, 0x80000002 + i, ld_le32(p), ld_le32(p + 4), ld_le32(p + 8), ld_le32(p + 12));
	}
}

/* A named model's caches; sharing is set with the topology. */
static const struct model_cache {
	/* 1 data, 2 instruction, 3 unified. */
	unsigned type, level, ways, sets;
} model_caches[] = {
	{ 1, 1, 8, 64 },
	{ 2, 1, 8, 64 },
	{ 3, 2, 8, 1024 },
	{ 3, 3, 16, 16384 },
};

enum {
	CACHE_LINE = 64,
	CACHE_SELF_INIT = 1 << 8,
};

static void put_caches(struct build *b)
{
	for (unsigned i = 0; i < COUNT_OF(model_caches); i++) {
		const struct model_cache *c = &model_caches[i];
		const struct cpuid_entry e = {
			.leaf = b->amd ? 0x8000001d : 4,
			.sub = i,
			.has_sub = true,
			.eax = c->type | c->level << 5 | CACHE_SELF_INIT,
			.ebx = (CACHE_LINE - 1) | (c->ways - 1) << 22,
			.ecx = c->sets - 1,
		};

		put_sub(b, &e);
	}
	if (b->amd) {
		/* 32 KiB L1, 512 KiB L2, 16 MiB L3 (APM 3 E.4.4, E.4.5). */
		put(b, 0x80000005, 0, 0, 32u << 24 | 8 << 16 | 1 << 8 | CACHE_LINE,
		    32u << 24 | 8 << 16 | 1 << 8 | CACHE_LINE);
		put(b, 0x80000006, 0, 0, 512u << 16 | 6 << 12 | 1 << 8 | CACHE_LINE,
		    32u << 18 | 8 << 12 | 1 << 8 | CACHE_LINE);
	} else {
		/* "See leaf 4"; L2 of 512 KiB. */
		put(b, 2, 0x00feff01, 0, 0, 0);
		put(b, 0x80000006, 0, 0, 512u << 16 | 6 << 12 | CACHE_LINE, 0);
	}
}

static void build_named(struct build *b, const struct cpu_model *m)
{
	struct cpuid_entry *e;
	unsigned family = m->family, model = m->model;

	put_vendor(b, m);
	/* The levels keep the vendor; as QEMU's generic models. */
	if (!family && b->amd) {
		family = 15;
		model = 107;
	} else if (!family) {
		family = 15;
		model = 6;
	}
	put(b, 1, 0, 0, 0, 0);
	put(b, 0x80000000, b->amd ? 0x8000001e : 0x80000008, 0, 0, 0);
	put(b, 0x80000001, 0, 0, 0, 0);
	put_brand(b, m);
	put_features(b, m);
	put_caches(b);
	e = cpuid_find(b->t, 1, 0);
	e->eax = signature(family, model, m->stepping);
	/* Size of a CLFLUSH line in units of 8. */
	e->ebx |= CACHE_LINE / 8 << 8;
	if (b->amd) {
		struct cpuid_entry *ext = cpuid_find(b->t, 0x80000001, 0);

		ext->eax = e->eax;
		ext->edx |= e->edx & AMD_SHARED_EDX;
	}
	if ((e = cpuid_find(b->t, 7, 0)))
		e->eax = cpuid_find(b->t, 7, 1) != NULL;
	/* Widths of addresses are the machine's under us. */
	uint32_t ebx = (e = cpuid_find(b->t, 0x80000008, 0)) ? e->ebx : 0;
	put(b, 0x80000008, engine_leaf(b, 0x80000008, 0).eax, ebx, 0, 0);
	if ((e = cpuid_find(b->t, 0x8000000a, 0))) {
		e->eax = engine_leaf(b, 0x8000000a, 0).eax;
		e->ebx = engine_leaf(b, 0x8000000a, 0).ebx;
	}
}

/* The host's model. */

static bool drop_rewritten(const struct cpuid_entry *e)
{
	return e->leaf == LEAF_TOPOLOGY || e->leaf == LEAF_TOPOLOGY_2 || e->leaf == LEAF_CRYSTAL ||
	       e->leaf == LEAF_FREQ || e->leaf == 0x80000026 || e->leaf >> 28 == 4;
}

static void build_host(struct build *b)
{
	const struct cpuid_entry v = engine_leaf(b, 0, 0);

	*b->t = *b->engine;
	b->amd = v.ecx == 0x444d4163 || v.ecx == 0x656e6975;
	table_drop(b->t, drop_rewritten);
}

/* XSAVE. */

/* State components that the features want (SDM 1 13.1); supervisor ones in IA32_XSS. */
static uint64_t wanted_components(const struct cpuid_table *t, uint64_t *ret_xss)
{
	uint64_t x = X86_XCR0_X87 | X86_XCR0_SSE;

	*ret_xss = 0;
	if (has(t, "avx"))
		x |= X86_XCR0_AVX;
	if (has(t, "mpx"))
		x |= BIT64(3) | BIT64(4);
	if (has(t, "avx512f"))
		x |= BIT64(5) | BIT64(6) | BIT64(7);
	if (has(t, "pku"))
		x |= BIT64(9);
	if (has(t, "amx-tile"))
		x |= BIT64(17) | BIT64(18);
	if (!has(t, "xsaves"))
		return x;
	if (has(t, "intel-pt"))
		*ret_xss |= BIT64(8);
	if (has(t, "shstk") || has(t, "ibt"))
		*ret_xss |= BIT64(11) | BIT64(12);
	if (has(t, "arch-lbr"))
		*ret_xss |= BIT64(15);
	return x;
}

static bool drop_xsave(const struct cpuid_entry *e)
{
	return e->leaf == LEAF_XSAVE && e->sub != 1;
}

static bool drop_xsave_all(const struct cpuid_entry *e)
{
	return e->leaf == LEAF_XSAVE;
}

/* Leaf 0xd from the engine's components and the features of the table (SDM 1 13.2). */
static void fix_xsave(struct build *b)
{
	uint64_t xss, x = wanted_components(b->t, &xss);
	const struct cpuid_entry main = engine_leaf(b, LEAF_XSAVE, 0);
	const struct cpuid_entry sub1 = engine_leaf(b, LEAF_XSAVE, 1);
	uint32_t size = XSAVE_HEADER_END;

	if (!has(b->t, "xsave")) {
		table_drop(b->t, drop_xsave_all);
		return;
	}
	table_drop(b->t, drop_xsave);
	x &= main.eax | (uint64_t)main.edx << 32;
	xss &= sub1.ecx | (uint64_t)sub1.edx << 32;
	for (unsigned i = 2; i < 63; i++) {
		struct cpuid_entry e = engine_leaf(b, LEAF_XSAVE, i);

		if (!((x | xss) & BIT64(i)))
			continue;
		e.has_sub = true;
		put_sub(b, &e);
		if (x & BIT64(i))
			size = MAX(size, e.eax + e.ebx);
	}
	const struct cpuid_entry e0 = { LEAF_XSAVE,         0, true, (uint32_t)x, size, size,
					(uint32_t)(x >> 32) };
	put_sub(b, &e0);
	const struct cpuid_entry *old = cpuid_find(b->t, LEAF_XSAVE, 1);
	const struct cpuid_entry e1 = { LEAF_XSAVE,           1,    true,
					old ? old->eax : 0,   size, (uint32_t)xss,
					(uint32_t)(xss >> 32) };
	put_sub(b, &e1);
}

/* Topology. */

static unsigned log2_up(unsigned n)
{
	return n <= 1 ? 0 : 32 - (unsigned)__builtin_clz(n - 1);
}

/* Each level: SMT (1) holds one, the core level (2) all. */
static void put_levels(struct build *b, uint32_t leaf)
{
	const struct cpuid_topology *t = b->topo;
	const struct cpuid_entry level[] = {
		{ leaf, 0, true, 0, 1, 0 | 1 << 8, t->apic_id },
		{ leaf, 1, true, log2_up(t->ncpus), t->ncpus, 1 | 2 << 8, t->apic_id },
		{ leaf, 2, true, 0, 0, 2, t->apic_id },
	};

	for (unsigned i = 0; i < COUNT_OF(level); i++)
		put_sub(b, &level[i]);
}

/* Leaves 4 and 0x8000001d: the caches below level 3 are a core's own. */
static void fix_cache_sharing(struct build *b)
{
	uint32_t ids = 1u << log2_up(b->topo->ncpus);

	for (unsigned i = 0; i < b->t->n; i++) {
		struct cpuid_entry *e = &b->t->e[i];

		if ((e->leaf != 4 && e->leaf != 0x8000001d) || !(e->eax & 0x1f))
			continue;
		bool shared = (e->eax >> 5 & 7) >= 3;
		uint32_t eax = (e->eax & 0x3fff) | (shared ? MIN(ids - 1, 0xfffu) << 14 : 0);

		if (e->leaf == 4)
			eax |= MIN(ids - 1, 0x3fu) << 26;
		e->eax = eax;
	}
}

static void set_feature(struct build *b, const char *name, bool on)
{
	const struct cpu_feature *f = cpu_feature_find(name, strlen(name));

	if (f)
		b->full |= !cpu_feature_set(b->t, f, on);
}

static void fix_topology(struct build *b)
{
	const struct cpuid_topology *t = b->topo;
	struct cpuid_entry *e = cpuid_find(b->t, 1, 0), *basic = cpuid_find(b->t, 0, 0);
	unsigned bits = log2_up(t->ncpus);

	if (e)
		e->ebx =
			(e->ebx & 0xffff) | (t->apic_id & 0xff) << 24 | MIN(1u << bits, 255u) << 16;
	set_feature(b, "ht", t->ncpus > 1);
	fix_cache_sharing(b);
	if (basic && basic->eax >= LEAF_TOPOLOGY)
		put_levels(b, LEAF_TOPOLOGY);
	if (basic && basic->eax >= LEAF_TOPOLOGY_2 && !b->amd)
		put_levels(b, LEAF_TOPOLOGY_2);
	if (!b->amd)
		return;
	set_feature(b, "cmp_legacy", t->ncpus > 1);
	if ((e = cpuid_find(b->t, 0x80000008, 0)))
		e->ecx = (e->ecx & ~0xf0ffu) | MIN(t->ncpus - 1, 255u) | bits << 12;
	/* One thread in each core, one node. */
	if (cpuid_find(b->t, 0x8000001d, 0)) {
		set_feature(b, "topoext", true);
		put(b, 0x8000001e, t->apic_id, t->apic_id & 0xff, 0, 0);
	}
}

/* The hypervisor. */

static void put_hypervisor(struct build *b)
{
	static const char sig[12] = "KVMKVMKVM";
	const struct cpuid_topology *t = b->topo;
	const struct cpuid_entry hv = engine_leaf(b, LEAF_HV_FEATURES, 0);

	set_feature(b, "hypervisor", true);
	put(b, LEAF_HV, t->tsc_hz ? LEAF_HV_TIMING : LEAF_HV_FEATURES, ld_le32(sig),
	    ld_le32(sig + 4), ld_le32(sig + 8));
	put(b, LEAF_HV_FEATURES, hv.eax, 0, 0, hv.edx);
	if (t->tsc_hz)
		put(b, LEAF_HV_TIMING, (uint32_t)(t->tsc_hz / 1000), APIC_BUS_HZ / 1000, 0, 0);
}

static uint64_t gcd(uint64_t a, uint64_t b)
{
	while (b) {
		uint64_t r = a % b;

		a = b;
		b = r;
	}
	return a;
}

/*
 * Intel's frequency leaves.  The crystal clock is the one that the APIC timer counts too, so it is
 * the local APICs' 1 GHz: TSC = crystal * EBX / EAX.
 */
static void put_frequency(struct build *b)
{
	uint64_t hz = b->topo->tsc_hz, g = gcd(hz, APIC_BUS_HZ);
	struct cpuid_entry *basic = cpuid_find(b->t, 0, 0);

	if (!hz || b->amd || !basic || basic->eax < LEAF_XSAVE || hz / g > UINT32_MAX)
		return;
	basic->eax = MAX(basic->eax, (uint32_t)LEAF_FREQ);
	put(b, LEAF_CRYSTAL, (uint32_t)(APIC_BUS_HZ / g), (uint32_t)(hz / g), APIC_BUS_HZ, 0);
	put(b, LEAF_FREQ, (uint32_t)(hz / 1000000), (uint32_t)(hz / 1000000), 100, 0);
}

static int unknown_model(const char *name, struct err *e)
{
	char names[160] = "host";

	for (unsigned i = 0; i < cpu_nmodels; i++) {
		size_t at = strlen(names);

		snprintf(names + at, sizeof(names) - at, ", %s", cpu_models[i].name);
	}
	return err_set(e, ENOENT, "no CPU model '%s'; there are: %s", name, names);
}

int cpuid_build(struct cpuid_table *ret, const struct cpuid_table *engine, const char *model,
		const struct cpuid_topology *t, struct err *e)
{
	struct cpuid_table out = { 0 };
	struct build b = { .t = &out, .engine = engine, .topo = t };
	const struct cpu_model *m = cpu_model_find(model);

	if (!t->ncpus)
		return err_set(e, EINVAL, "a machine without CPUs");
	if (!m && strcmp(model, "host") != 0)
		return unknown_model(model, e);
	if (m)
		build_named(&b, m);
	else
		build_host(&b);
	fix_xsave(&b);
	fix_topology(&b);
	put_hypervisor(&b);
	put_frequency(&b);
	if (b.full)
		return err_set(e, ENOSPC, "CPU model '%s' has more than %u CPUID leaves", model,
			       CPUID_ENTRIES);
	*ret = out;
	return 0;
}
