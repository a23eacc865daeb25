/*
 * CPUID: what KVM can give a guest on this host, as the engine's offer to cpu/cpuid.h; and the
 * table that came back from the model, given to a vCPU.
 */
#include "accel/kvm/kvm_int.h"

#include "base/cleanup.h"

#include <errno.h>
#include <string.h>

struct kvm_cpuid_buf {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 e[CPUID_ENTRIES];
};

/* KVM can do these and does not always say so in KVM_GET_SUPPORTED_CPUID (api.rst). */
enum {
	CPUID_1_ECX_X2APIC = 1 << 21,
	CPUID_1_ECX_TSC_DEADLINE = 1 << 24,
	CPUID_1_ECX_HYPERVISOR = 1u << 31,
};

enum {
	CPUID_1_ECX_XSAVE = 1 << 26,
	/* What such a KVM adds of the host's (found by reading CPUID in ring 0 after setting
	 * zeros): SSE3 to RDRAND; BMI, AVX2, AVX-512, SHA, SMEP, SMAP ...; VAES, GFNI ...; FSRM. */
	CPUID_1_ECX_ADDED = 0x76d81203,
	CPUID_7_ECX_ADDED = 0x00005f42,
	CPUID_7_EDX_ADDED = 0x00000110,
	/* XSAVEOPT, XSAVEC, XGETBV with ECX 1; not XSAVES. */
	CPUID_D1_EAX_ADDED = 0x7,
};
#define CPUID_7_EBX_ADDED 0xf1bf03a9u

static void cpuid_entry_from(struct cpuid_entry *d, const struct kvm_cpuid_entry2 *s)
{
	*d = (struct cpuid_entry){
		.leaf = s->function,
		.sub = s->index,
		.has_sub = s->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		.eax = s->eax,
		.ebx = s->ebx,
		.ecx = s->ecx,
		.edx = s->edx,
	};
}

static int cpuid_supported(int sys, struct kvm_cpuid_buf *b, struct err *e)
{
	memset(b, 0, sizeof(*b));
	b->head.nent = CPUID_ENTRIES;
	return kvm_call(sys, KVM_GET_SUPPORTED_CPUID, b, "read the supported CPUID", e);
}

/* Leaf 0xd as the host has it, all sub-leaves. */
static void cpuid_unhide_xsave(struct cpuid_table *ret, const struct cpuid_table *host)
{
	for (unsigned i = 0; i < host->n; i++) {
		struct cpuid_entry e = host->e[i];

		if (e.leaf != 0xd)
			continue;
		if (e.sub == 1)
			e.eax &= CPUID_D1_EAX_ADDED;
		(void)cpuid_set(ret, &e);
	}
}

/* Does KVM not offer what the processor has, although it manages XCR0? */
static bool cpuid_hides(const struct cpuid_entry *kvm_one, const struct cpuid_table *host)
{
	struct cpuid_entry h1;

	cpuid_get(host, 1, 0, &h1);
	return !(kvm_one->ecx & CPUID_1_ECX_XSAVE) && h1.ecx & CPUID_1_ECX_XSAVE;
}

static void cpuid_unhide(struct cpuid_table *ret, struct cpuid_entry *one)
{
	struct cpuid_table host;
	struct cpuid_entry h1, h7, *seven = cpuid_find(ret, 7, 0);

	cpuid_host(&host);
	cpuid_get(&host, 1, 0, &h1);
	cpuid_get(&host, 7, 0, &h7);
	if (!cpuid_hides(one, &host))
		return;
	one->ecx |= h1.ecx & CPUID_1_ECX_ADDED;
	if (seven) {
		seven->ebx |= h7.ebx & CPUID_7_EBX_ADDED;
		seven->ecx |= h7.ecx & CPUID_7_ECX_ADDED;
		seven->edx |= h7.edx & CPUID_7_EDX_ADDED;
	}
	cpuid_unhide_xsave(ret, &host);
}

int kvm_cpuid(struct cpuid_table *ret, struct err *e)
{
	struct kvm_cpuid_buf b;
	AUTO_CLOSE int sys = kvm_open(e);

	if (sys < 0)
		return sys;
	int rc = cpuid_supported(sys, &b, e);
	if (rc < 0)
		return rc;
	ret->n = b.head.nent;
	for (unsigned i = 0; i < ret->n; i++)
		cpuid_entry_from(&ret->e[i], &b.e[i]);
	struct cpuid_entry *one = cpuid_find(ret, 1, 0);
	if (!one)
		return err_set(e, EIO, "/dev/kvm: no CPUID leaf 1");
	cpuid_unhide(ret, one);
	one->ecx |= CPUID_1_ECX_X2APIC | (uint32_t)CPUID_1_ECX_HYPERVISOR;
	if (kvm_cap(sys, KVM_CAP_TSC_DEADLINE_TIMER))
		one->ecx |= CPUID_1_ECX_TSC_DEADLINE;
	return 0;
}

uint64_t kvm_cpuid_more_xcr0(struct kvm_vcpu *c)
{
	static const uint64_t avx512 = 0xe0;
	struct kvm_cpuid_buf b;
	struct cpuid_table host;
	struct cpuid_entry one = { 0 }, d;
	struct err e = { 0 };

	if (cpuid_supported(kvm_of(c)->sys, &b, &e) < 0)
		return 0;
	for (unsigned i = 0; i < b.head.nent; i++)
		if (b.e[i].function == 1)
			cpuid_entry_from(&one, &b.e[i]);
	cpuid_host(&host);
	cpuid_get(&host, 0xd, 0, &d);
	return cpuid_hides(&one, &host) && (d.eax & avx512) == avx512 ? avx512 : 0;
}

static void cpuid_entry_to(struct kvm_cpuid_entry2 *d, const struct cpuid_entry *s)
{
	*d = (struct kvm_cpuid_entry2){
		.function = s->leaf,
		.index = s->sub,
		.flags = s->has_sub ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0u,
		.eax = s->eax,
		.ebx = s->ebx,
		.ecx = s->ecx,
		.edx = s->edx,
	};
}

int kvm_vcpu_cpuid(struct kvm_vcpu *c, struct err *e)
{
	struct cpuid_table offer;
	struct kvm_cpuid_buf b = { 0 };
	const struct cpuid_topology t = {
		.ncpus = c->v.vm->o.ncpus,
		.apic_id = c->v.apic_id,
		.tsc_hz = c->v.vm->tsc_hz,
	};
	int rc = kvm_cpuid(&offer, e);

	if (rc < 0)
		return rc;
	rc = cpuid_build(&c->v.cpuid, &offer, c->v.vm->o.cpu_model ? c->v.vm->o.cpu_model : "host",
			 &t, e);
	if (rc < 0)
		return rc;
	b.head.nent = c->v.cpuid.n;
	for (unsigned i = 0; i < c->v.cpuid.n; i++)
		cpuid_entry_to(&b.e[i], &c->v.cpuid.e[i]);
	return kvm_call(c->fd, KVM_SET_CPUID2, &b, "set the guest's CPUID", e);
}
