/* CPUID tables: how a leaf is read, the host's own, and what models and topology make of it. */
#include "lib/t.h"

#include "base/bits.h"
#include "cpu/model.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>

static const struct cpuid_topology topo1 = { .ncpus = 1 };

static struct cpuid_table host;

static int setup(void **state)
{
	cpuid_host(&host);
	return 0;
}

static bool has(const struct cpuid_table *t, const char *name)
{
	const struct cpu_feature *f = cpu_feature_find(name, strlen(name));

	assert_non_null(f);
	return cpu_feature_has(t, f);
}

/* A table that looks like an Intel or AMD CPU with everything. */
static void make_engine(struct cpuid_table *t, bool amd)
{
	const char *v = amd ? "AuthenticAMD" : "GenuineIntel";
	struct cpuid_entry e = { .leaf = 0, .eax = 0x1f };

	t->n = 0;
	memcpy(&e.ebx, v, 4);
	memcpy(&e.edx, v + 4, 4);
	memcpy(&e.ecx, v + 8, 4);
	assert_true(cpuid_set(t, &e));
	e = (struct cpuid_entry){ .leaf = 0x80000000, .eax = amd ? 0x8000001e : 0x80000008 };
	assert_true(cpuid_set(t, &e));
	e = (struct cpuid_entry){ .leaf = 0x80000008, .eax = 0x3030 };
	assert_true(cpuid_set(t, &e));
	for (unsigned i = 0; i < cpu_nfeatures; i++)
		assert_true(cpu_feature_set(t, &cpu_features[i], true));
	/* x87 to AVX-512, PKU; offsets and sizes as in the SDM. */
	e = (struct cpuid_entry){ 0xd, 0, true, 0x2e7, 0, 2696, 0 };
	assert_true(cpuid_set(t, &e));
	static const uint32_t comp[][3] = { { 2, 256, 576 },
					    { 5, 64, 1088 },
					    { 6, 512, 1152 },
					    { 7, 1024, 1664 },
					    { 9, 8, 2688 } };
	for (unsigned i = 0; i < 5; i++) {
		e = (struct cpuid_entry){ 0xd, comp[i][0], true, comp[i][1], comp[i][2], 0, 0 };
		assert_true(cpuid_set(t, &e));
	}
	e = (struct cpuid_entry){ .leaf = 0x40000001, .eax = 0x01000008 };
	assert_true(cpuid_set(t, &e));
}

static void test_set_and_find(void **state)
{
	struct cpuid_table t = { 0 };
	struct cpuid_entry e = { .leaf = 4, .sub = 0, .has_sub = true, .eax = 1 };

	assert_true(cpuid_set(&t, &e));
	e.sub = 1;
	e.eax = 2;
	assert_true(cpuid_set(&t, &e));
	assert_int_equal(t.n, 2);
	e.eax = 3;
	assert_true(cpuid_set(&t, &e));
	assert_int_equal(t.n, 2);
	assert_int_equal(cpuid_find(&t, 4, 1)->eax, 3);
	assert_null(cpuid_find(&t, 4, 2));
	/* Without sub-leaves any ECX finds it. */
	e = (struct cpuid_entry){ .leaf = 1, .eax = 7 };
	assert_true(cpuid_set(&t, &e));
	assert_int_equal(cpuid_find(&t, 1, 99)->eax, 7);
	for (unsigned i = t.n; i < CPUID_ENTRIES; i++) {
		e = (struct cpuid_entry){ .leaf = 100 + i };
		assert_true(cpuid_set(&t, &e));
	}
	e = (struct cpuid_entry){ .leaf = 5000 };
	assert_false(cpuid_set(&t, &e));
}

/* SDM 2A: beyond the last basic leaf Intel gives that leaf's values, AMD zeros. */
static void test_get_beyond(void **state)
{
	for (unsigned amd = 0; amd < 2; amd++) {
		struct cpuid_table t;
		struct cpuid_entry e;

		make_engine(&t, amd);
		e = (struct cpuid_entry){ .leaf = 0x1f, .eax = 0xabc, .ebx = 1 };
		assert_true(cpuid_set(&t, &e));
		cpuid_get(&t, 0x20, 0, &e);
		assert_int_equal(e.eax, amd ? 0 : 0xabc);
		cpuid_get(&t, 0x80000100, 0, &e);
		assert_int_equal(e.eax, amd ? 0 : 0xabc);
		/* Inside the range but absent: zeros. */
		cpuid_get(&t, 3, 0, &e);
		assert_int_equal(e.eax | e.ebx | e.ecx | e.edx, 0);
		/* A sub-leaf that is not there: zeros. */
		cpuid_get(&t, 0xd, 40, &e);
		assert_int_equal(e.eax | e.ebx | e.ecx | e.edx, 0);
	}
}

static void test_host_is_the_cpu(void **state)
{
	uint32_t a, b, c, d;

	assert_true(host.n > 5);
	for (unsigned i = 0; i < host.n; i++) {
		const struct cpuid_entry *e = &host.e[i];

		/* Those that depend on the CPU we run on, or on its clock. */
		if (e->leaf == 1 || e->leaf == 0xb || e->leaf == 0x1f || e->leaf == 0x8000001e ||
		    e->leaf == 0x80000026 || e->leaf == 6 || e->leaf == 0x1a)
			continue;
		__cpuid_count(e->leaf, e->sub, a, b, c, d);
		assert_int_equal(e->eax, a);
		assert_int_equal(e->ebx, b);
		assert_int_equal(e->ecx, c);
		assert_int_equal(e->edx, d);
		assert_true(e->leaf >> 28 != 4);
	}
}

static void test_feature_names(void **state)
{
	const struct cpu_feature *f = cpu_feature_find("avx2", 4);

	assert_non_null(f);
	assert_int_equal(f->leaf, 7);
	assert_int_equal(f->reg, CPUID_EBX);
	assert_int_equal(f->bit, 5);
	/* Aliases name the same bit. */
	const struct cpu_feature *g = cpu_feature_find("pclmulqdq", 9);
	f = cpu_feature_find("pclmuldq", 8);
	assert_true(f->leaf == g->leaf && f->reg == g->reg && f->bit == g->bit);
	assert_null(cpu_feature_find("avx", 2));
	assert_null(cpu_feature_find("frobnicate", 10));
	/* No name twice; what the compiler's header says of the host agrees. */
	for (unsigned i = 0; i < cpu_nfeatures; i++)
		for (unsigned j = 0; j < i; j++)
			assert_string_not_equal(cpu_features[i].name, cpu_features[j].name);
	assert_int_equal(has(&host, "sse4.2"), !!__builtin_cpu_supports("sse4.2"));
	assert_true(has(&host, "lm") && has(&host, "sse2") && has(&host, "cx8"));
}

/* Every word in every model's list is a feature. */
static void test_models_resolve(void **state)
{
	for (unsigned i = 0; i < cpu_nmodels; i++) {
		const struct cpu_model *m = &cpu_models[i];
		const char *p = m->features;

		assert_ptr_equal(cpu_model_find(m->name), m);
		/* A base is in the table before it, so chains end. */
		if (m->base)
			assert_true(cpu_model_find(m->base) < m && cpu_model_find(m->base));
		assert_true(!m->vendor || strlen(m->vendor) == 12);
		assert_true(strlen(m->title) < 48);
		while (*p) {
			size_t len = strcspn(p, " ");

			if (!cpu_feature_find(p, len))
				fail_msg("%s: no feature '%.*s'", m->name, (int)len, p);
			p += len + (p[len] == ' ');
		}
	}
}

static void test_levels(void **state)
{
	struct cpuid_table t;

	cpu_model_features(cpu_model_find("x86-64-v2"), &t);
	assert_true(has(&t, "sse4.2") && has(&t, "lm") && !has(&t, "avx"));
	cpu_model_features(cpu_model_find("x86-64-v3"), &t);
	assert_true(has(&t, "avx2") && has(&t, "bmi2") && has(&t, "cx16") && !has(&t, "avx512f"));
	cpu_model_features(cpu_model_find("x86-64-v4"), &t);
	assert_true(has(&t, "avx512vl") && has(&t, "sse2"));
}

static void test_build_named(void **state)
{
	struct cpuid_table engine, t;
	struct err e;

	make_engine(&engine, true);
	assert_int_equal(cpuid_build(&t, &engine, "Haswell", &topo1, &e), 0);
	/* The model's identity, whatever the engine's. */
	assert_memory_equal(&cpuid_find(&t, 0, 0)->ebx, "Genu", 4);
	assert_int_equal(cpuid_find(&t, 1, 0)->eax, 0x306c1);
	assert_memory_equal(&cpuid_find(&t, 0x80000002, 0)->eax, "Intel Core Proce", 16);
	assert_true(has(&t, "avx2") && has(&t, "erms") && has(&t, "hypervisor"));
	assert_false(has(&t, "avx512f") || has(&t, "sse4a") || has(&t, "svm"));
	/* Intel has no AMD leaves, and leaf 4 describes caches. */
	assert_null(cpuid_find(&t, 0x8000001d, 0));
	assert_int_equal(cpuid_find(&t, 4, 0)->eax & 0xff, 1 | 1 << 5);

	/* AMD repeats leaf 1's bits; a family above 15 is split. */
	assert_int_equal(cpuid_build(&t, &engine, "EPYC-Rome", &topo1, &e), 0);
	assert_int_equal(cpuid_find(&t, 1, 0)->eax, 0x830f10);
	assert_int_equal(cpuid_find(&t, 0x80000001, 0)->edx & 0x0183f3ff,
			 cpuid_find(&t, 1, 0)->edx & 0x0183f3ff);
	assert_true(has(&t, "clzero") && has(&t, "nx"));
	assert_null(cpuid_find(&t, 4, 0));
}

static void test_build_only_what_engine_has(void **state)
{
	struct cpuid_table engine, t;
	const struct cpu_model *m = cpu_model_find("Haswell");
	const struct cpu_feature *missing[4];
	struct err e;

	make_engine(&engine, false);
	assert_int_equal(cpu_model_missing(m, &engine, missing, 4), 0);
	cpu_feature_set(&engine, cpu_feature_find("avx2", 4), false);
	cpu_feature_set(&engine, cpu_feature_find("pclmuldq", 8), false);
	assert_int_equal(cpu_model_missing(m, &engine, missing, 4), 2);
	assert_string_equal(missing[0]->name, "pclmuldq");
	assert_string_equal(missing[1]->name, "avx2");
	assert_int_equal(cpuid_build(&t, &engine, "Haswell", &topo1, &e), 0);
	assert_false(has(&t, "avx2"));
	assert_true(has(&t, "bmi2"));
	/* Property: no model gives a bit that the engine does not give (but for topology's). */
	for (unsigned i = 0; i < cpu_nmodels; i++) {
		assert_int_equal(cpuid_build(&t, &host, cpu_models[i].name, &topo1, &e), 0);
		for (unsigned f = 0; f < cpu_nfeatures; f++)
			if (cpu_feature_has(&t, &cpu_features[f]) &&
			    strcmp(cpu_features[f].name, "hypervisor") != 0 &&
			    strcmp(cpu_features[f].name, "topoext") != 0)
				assert_true(cpu_feature_has(&host, &cpu_features[f]) ||
					    cpu_features[f].leaf == 0x80000001);
	}
}

static void test_build_host(void **state)
{
	struct cpuid_table t;
	struct err e;

	assert_int_equal(cpuid_build(&t, &host, "host", &topo1, &e), 0);
	for (unsigned i = 0; i < cpu_nfeatures; i++) {
		const struct cpu_feature *f = &cpu_features[i];

		if (!strcmp(f->name, "ht") || !strncmp(f->name, "cmp", 3) ||
		    !strcmp(f->name, "hypervisor") || !strcmp(f->name, "topoext"))
			continue;
		if (f->leaf == 0xd || f->leaf == 0x14)
			continue;
		assert_int_equal(cpu_feature_has(&t, f), cpu_feature_has(&host, f));
	}
	assert_true(has(&t, "hypervisor"));
	assert_null(cpuid_find(&t, 0x80000026, 0));
}

static void test_build_xsave(void **state)
{
	struct cpuid_table engine, t;
	struct err e;

	make_engine(&engine, false);
	assert_int_equal(cpuid_build(&t, &engine, "host", &topo1, &e), 0);
	assert_int_equal(cpuid_find(&t, 0xd, 0)->eax, 0x2e7);
	assert_int_equal(cpuid_find(&t, 0xd, 0)->ecx, 2696);
	assert_int_equal(cpuid_build(&t, &engine, "x86-64-v3", &topo1, &e), 0);
	assert_int_equal(cpuid_find(&t, 0xd, 0)->eax, 7);
	assert_int_equal(cpuid_find(&t, 0xd, 0)->ecx, 832);
	assert_non_null(cpuid_find(&t, 0xd, 2));
	assert_null(cpuid_find(&t, 0xd, 5));
	assert_int_equal(cpuid_find(&t, 0xd, 1)->eax, 1);
	assert_int_equal(cpuid_build(&t, &engine, "x86-64-v2", &topo1, &e), 0);
	assert_null(cpuid_find(&t, 0xd, 0));
	/* A component without its feature is not offered. */
	cpu_feature_set(&engine, cpu_feature_find("avx", 3), false);
	assert_int_equal(cpuid_build(&t, &engine, "x86-64-v3", &topo1, &e), 0);
	assert_int_equal(cpuid_find(&t, 0xd, 0)->eax, 3);
	assert_int_equal(cpuid_find(&t, 0xd, 0)->ecx, 576);
	assert_null(cpuid_find(&t, 0xd, 2));
}

static void test_topology(void **state)
{
	static const unsigned counts[] = { 1, 2, 3, 4, 16, 100, 255 };
	struct cpuid_table engine, t;
	struct err e;

	for (unsigned i = 0; i < COUNT_OF(counts) * 2; i++) {
		bool amd = i & 1;
		struct cpuid_topology tp = { .ncpus = counts[i / 2], .apic_id = counts[i / 2] - 1 };
		unsigned n = tp.ncpus, bits = 0;

		while (1u << bits < n)
			bits++;
		make_engine(&engine, amd);
		assert_int_equal(cpuid_build(&t, &engine, amd ? "EPYC" : "Skylake-Server", &tp, &e),
				 0);
		assert_int_equal(cpuid_find(&t, 1, 0)->ebx >> 24, tp.apic_id);
		assert_int_equal(cpuid_find(&t, 1, 0)->ebx >> 16 & 0xff,
				 (1u << bits) > 255 ? 255 : 1u << bits);
		assert_int_equal(has(&t, "ht"), n > 1);
		assert_int_equal(cpuid_find(&t, 0xb, 0)->ebx, 1);
		assert_int_equal(cpuid_find(&t, 0xb, 0)->ecx, 0x100);
		assert_int_equal(cpuid_find(&t, 0xb, 1)->eax, bits);
		assert_int_equal(cpuid_find(&t, 0xb, 1)->ebx, n);
		assert_int_equal(cpuid_find(&t, 0xb, 1)->ecx, 0x201);
		assert_int_equal(cpuid_find(&t, 0xb, 1)->edx, tp.apic_id);
		struct cpuid_entry end;
		cpuid_get(&t, 0xb, 7, &end);
		assert_int_equal(end.ecx, 7);
		assert_int_equal(end.edx, tp.apic_id);
		uint32_t cache = amd ? 0x8000001d : 4;
		/* L1 private, L3 shared by all. */
		assert_int_equal(cpuid_find(&t, cache, 0)->eax >> 14 & 0xfff, 0);
		assert_int_equal(cpuid_find(&t, cache, 3)->eax >> 14 & 0xfff, (1u << bits) - 1);
		if (!amd) {
			assert_int_equal(cpuid_find(&t, 4, 0)->eax >> 26,
					 bits > 6 ? 63 : (1u << bits) - 1);
			continue;
		}
		assert_int_equal(cpuid_find(&t, 0x80000008, 0)->ecx, (n - 1) | bits << 12);
		assert_int_equal(cpuid_find(&t, 0x8000001e, 0)->eax, tp.apic_id);
		assert_int_equal(has(&t, "cmp_legacy"), n > 1);
	}
}

static void test_hypervisor(void **state)
{
	struct cpuid_table engine, t;
	struct cpuid_topology tp = { .ncpus = 1, .tsc_hz = 2596138000 };
	struct err e;

	make_engine(&engine, false);
	assert_int_equal(cpuid_build(&t, &engine, "host", &tp, &e), 0);
	const struct cpuid_entry *hv = cpuid_find(&t, 0x40000000, 0);
	assert_int_equal(hv->eax, 0x40000010);
	assert_memory_equal(&hv->ebx, "KVMK", 4);
	assert_memory_equal(&hv->ecx, "VMKV", 4);
	assert_memory_equal(&hv->edx, "M\0\0\0", 4);
	assert_int_equal(cpuid_find(&t, 0x40000001, 0)->eax, 0x01000008);
	assert_int_equal(cpuid_find(&t, 0x40000010, 0)->eax, 2596138);
	assert_int_equal(cpuid_find(&t, 0x40000010, 0)->ebx, 1000000);
	/* TSC = crystal * EBX / EAX, exactly. */
	const struct cpuid_entry *f = cpuid_find(&t, 0x15, 0);
	assert_int_equal((uint64_t)f->ecx * f->ebx / f->eax, 2596138000);
	assert_int_equal(cpuid_find(&t, 0x16, 0)->eax, 2596);

	/* Nothing that the engine does not declare. */
	make_engine(&engine, true);
	cpuid_find(&engine, 0x40000001, 0)->eax = 0;
	assert_int_equal(cpuid_build(&t, &engine, "host", &topo1, &e), 0);
	assert_int_equal(cpuid_find(&t, 0x40000001, 0)->eax, 0);
	assert_int_equal(cpuid_find(&t, 0x40000000, 0)->eax, 0x40000001);
	assert_null(cpuid_find(&t, 0x15, 0));
}

static void test_build_refuses(void **state)
{
	struct cpuid_table t = { .n = 77 };
	struct err e;

	assert_int_equal(cpuid_build(&t, &host, "Pentium9", &topo1, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "Pentium9"));
	assert_non_null(strstr(e.msg, "Skylake-Server"));
	assert_non_null(strstr(e.msg, "EPYC-Rome"));
	struct cpuid_topology none = { 0 };
	assert_int_equal(cpuid_build(&t, &host, "host", &none, &e), -EINVAL);
	assert_int_equal(t.n, 77);
	/* A full engine table leaves no room. */
	struct cpuid_table full;
	make_engine(&full, false);
	while (full.n < CPUID_ENTRIES) {
		const struct cpuid_entry x = { .leaf = 0x9000 + full.n };

		assert_true(cpuid_set(&full, &x));
	}
	assert_int_equal(cpuid_build(&t, &full, "host", &topo1, &e), -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_set_and_find),
		cmocka_unit_test(test_get_beyond),
		cmocka_unit_test(test_host_is_the_cpu),
		cmocka_unit_test(test_feature_names),
		cmocka_unit_test(test_models_resolve),
		cmocka_unit_test(test_levels),
		cmocka_unit_test(test_build_named),
		cmocka_unit_test(test_build_only_what_engine_has),
		cmocka_unit_test(test_build_host),
		cmocka_unit_test(test_build_xsave),
		cmocka_unit_test(test_topology),
		cmocka_unit_test(test_hypervisor),
		cmocka_unit_test(test_build_refuses),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
