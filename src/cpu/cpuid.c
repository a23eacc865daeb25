/* Tables of CPUID leaves, how the instruction reads one, and the host's own. */
#include "cpu/cpuid.h"

#include <cpuid.h>
#include <string.h>

struct cpuid_entry *cpuid_find(struct cpuid_table *t, uint32_t leaf, uint32_t sub)
{
	for (unsigned i = 0; i < t->n; i++)
		if (t->e[i].leaf == leaf && (!t->e[i].has_sub || t->e[i].sub == sub))
			return &t->e[i];
	return NULL;
}

bool cpuid_set(struct cpuid_table *t, const struct cpuid_entry *e)
{
	struct cpuid_entry *old = cpuid_find(t, e->leaf, e->sub);

	if (!old && t->n == CPUID_ENTRIES)
		return false;
	if (!old)
		old = &t->e[t->n++];
	*old = *e;
	return true;
}

const struct cpuid_entry *cpuid_peek(const struct cpuid_table *t, uint32_t leaf, uint32_t sub)
{
	for (unsigned i = 0; i < t->n; i++)
		if (t->e[i].leaf == leaf && (!t->e[i].has_sub || t->e[i].sub == sub))
			return &t->e[i];
	return NULL;
}

static bool table_is_amd(const struct cpuid_table *t)
{
	const struct cpuid_entry *e = cpuid_peek(t, 0, 0);

	/* AuthenticAMD, HygonGenuine. */
	return e && ((e->ebx == 0x68747541 && e->edx == 0x69746e65 && e->ecx == 0x444d4163) ||
		     (e->ebx == 0x6f677948 && e->edx == 0x6e65476e && e->ecx == 0x656e6975));
}

/* The table has a leaf of this number (any sub-leaf). */
static bool has_leaf(const struct cpuid_table *t, uint32_t leaf)
{
	for (unsigned i = 0; i < t->n; i++)
		if (t->e[i].leaf == leaf)
			return true;
	return false;
}

/* Largest leaf of the class of `leaf`: basic, hypervisor's, extended. */
static uint32_t class_max(const struct cpuid_table *t, uint32_t leaf)
{
	const struct cpuid_entry *e = cpuid_peek(t, leaf & 0xf0000000, 0);

	return e ? e->eax : 0;
}

void cpuid_get(const struct cpuid_table *t, uint32_t leaf, uint32_t sub, struct cpuid_entry *ret)
{
	const struct cpuid_entry *e = cpuid_peek(t, leaf, sub);

	if (!e && !has_leaf(t, leaf) && leaf > class_max(t, leaf) && !table_is_amd(t))
		e = cpuid_peek(t, class_max(t, 0), sub);
	*ret = (struct cpuid_entry){ .leaf = leaf, .sub = sub };
	if (e) {
		ret->has_sub = e->has_sub;
		ret->eax = e->eax;
		ret->ebx = e->ebx;
		ret->ecx = e->ecx;
		ret->edx = e->edx;
	} else if (leaf == 0xb || leaf == 0x1f) {
		/* Beyond the last level: the sub-leaf number and the x2APIC ID stay. */
		e = cpuid_peek(t, leaf, 0);
		ret->ecx = sub & 0xff;
		ret->edx = e ? e->edx : 0;
	}
}

/* The host's. */

static struct cpuid_entry host_leaf(uint32_t leaf, uint32_t sub, bool has_sub)
{
	struct cpuid_entry e = { .leaf = leaf, .sub = sub, .has_sub = has_sub };

	__cpuid_count(leaf, sub, e.eax, e.ebx, e.ecx, e.edx);
	return e;
}

enum sub_rule {
	/* No sub-leaves. */
	SUB_NONE,
	/* While EAX[4:0], the cache type, is not 0. */
	SUB_CACHE,
	/* Until and with the one whose ECX[15:8], the level type, is 0. */
	SUB_LEVEL,
	/* EAX of sub-leaf 0 is the largest. */
	SUB_MAX,
	/* 0, 1, and those that are not all zeros up to 63. */
	SUB_XSAVE,
	/* 0 to 3. */
	SUB_FOUR,
};

static enum sub_rule sub_rule(uint32_t leaf)
{
	switch (leaf) {
	case 4:
	case 0x8000001d:
		return SUB_CACHE;
	case 0xb:
	case 0x1f:
	case 0x80000026:
		return SUB_LEVEL;
	case 7:
	case 0x14:
	case 0x17:
	case 0x18:
	case 0x1d:
	case 0x20:
	case 0x24:
		return SUB_MAX;
	case 0xd:
		return SUB_XSAVE;
	case 0xf:
	case 0x10:
	case 0x12:
	case 0x1b:
	case 0x1e:
	case 0x23:
	case 0x80000020:
		return SUB_FOUR;
	default:
		return SUB_NONE;
	}
}

static void host_add(struct cpuid_table *t, uint32_t leaf)
{
	enum {
		SUBS = 64,
	};
	enum sub_rule rule = sub_rule(leaf);
	unsigned last = rule == SUB_NONE ? 0 : rule == SUB_FOUR ? 3 : SUBS - 1;

	for (unsigned sub = 0; sub <= last; sub++) {
		const struct cpuid_entry e = host_leaf(leaf, sub, rule != SUB_NONE);

		if (rule == SUB_CACHE && !(e.eax & 0x1f))
			break;
		if (rule == SUB_MAX && !sub)
			last = e.eax < SUBS ? e.eax : SUBS - 1;
		if ((rule == SUB_XSAVE || rule == SUB_FOUR) && sub > 1 &&
		    !(e.eax | e.ebx | e.ecx | e.edx))
			continue;
		if (!cpuid_set(t, &e) || (rule == SUB_LEVEL && !(e.ecx >> 8 & 0xff)))
			break;
	}
}

/* Leaves of a hypervisor under us are not the CPU's and are left out. */
void cpuid_host(struct cpuid_table *ret)
{
	static const uint32_t classes[] = { 0, 0x80000000 };

	ret->n = 0;
	for (unsigned i = 0; i < COUNT_OF(classes); i++) {
		uint32_t max = host_leaf(classes[i], 0, false).eax;

		for (uint32_t leaf = classes[i]; leaf <= max && leaf - classes[i] < 0x100; leaf++)
			host_add(ret, leaf);
	}
}
