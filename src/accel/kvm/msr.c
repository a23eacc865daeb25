/*
 * MSRs of a vCPU: those that cpu/msr.h lists as saved and this KVM has.
 *
 * Which it has is asked once: KVM_GET_MSR_INDEX_LIST names most; some (MTRRs) it never named and
 * handles nevertheless, so what is not in the list is tried by reading it.
 */
#include "accel/kvm/kvm_int.h"

#include "base/alloc.h"
#include "base/cleanup.h"
#include "cpu/msr.h"

#include <errno.h>
#include <string.h>

struct kvm_msrs_buf {
	struct kvm_msrs head;
	struct kvm_msr_entry e[CPU_MSRS];
};

enum {
	/* Far more than any kernel has. */
	KVM_MSR_LIST_MAX = 4096,
};

static bool msr_listed(const struct kvm_msr_list *l, uint32_t index)
{
	for (unsigned i = 0; i < l->nmsrs; i++)
		if (l->indices[i] == index)
			return true;
	return false;
}

static bool msr_readable(struct kvm_vcpu *c, uint32_t index)
{
	struct kvm_msrs_buf b = { .head.nmsrs = 1, .e[0].index = index };

	return kvm_ioctl(c->fd, KVM_GET_MSRS, &b) == 1;
}

static int msr_list(struct kvm_vm *k, struct kvm_msr_list **ret, struct err *e)
{
	struct kvm_msr_list *l = xzalloc(sizeof(*l) + KVM_MSR_LIST_MAX * sizeof(l->indices[0]));

	if (!l)
		return err_set(e, ENOMEM, "no memory");
	l->nmsrs = KVM_MSR_LIST_MAX;
	int rc = kvm_call(k->sys, KVM_GET_MSR_INDEX_LIST, l, "list the MSRs", e);
	if (rc < 0)
		free(l);
	else
		*ret = l;
	return rc;
}

/* Fills k->msr, once. */
static int msr_find_all(struct kvm_vcpu *c, struct err *e)
{
	struct kvm_vm *k = kvm_of(c);
	AUTO_FREE struct kvm_msr_list *l = NULL;

	SCOPED_LOCK(&k->slot_lock);
	if (k->nmsr)
		return 0;
	int rc = msr_list(k, &l, e);
	if (rc < 0)
		return rc;
	unsigned n = 0;
	for (unsigned i = 0; i < msr_nsaved && n < CPU_MSRS; i++)
		if (msr_listed(l, msr_saved[i].index) || msr_readable(c, msr_saved[i].index))
			k->msr[n++] = msr_saved[i].index;
	k->nmsr = n;
	return 0;
}

void kvm_init_msrs(struct kvm_vcpu *c)
{
	struct kvm_msrs_buf b = {
		.head.nmsrs = 1,
		.e[0] = { .index = X86_MSR_HWCR, .data = X86_HWCR_TSC_FREQ_SEL },
	};

	/* Refused before Linux 6.8: then a guest of an AMD model complains of its firmware. */
	(void)kvm_ioctl(c->fd, KVM_SET_MSRS, &b);
}

uint64_t kvm_msr(struct kvm_vcpu *c, uint32_t index)
{
	struct kvm_msrs_buf b = { .head.nmsrs = 1, .e[0].index = index };

	return kvm_ioctl(c->fd, KVM_GET_MSRS, &b) == 1 ? b.e[0].data : 0;
}

int kvm_get_msrs(struct kvm_vcpu *c, struct cpu_state *s, struct err *e)
{
	const struct kvm_vm *k = kvm_of(c);
	struct kvm_msrs_buf b = { 0 };
	unsigned n = 0;
	int rc = msr_find_all(c, e);

	if (rc < 0)
		return rc;
	/* One that the guest's CPUID hides ends the call early; go on behind it. */
	for (unsigned at = 0; at < k->nmsr; at += (unsigned)rc + 1) {
		b.head.nmsrs = k->nmsr - at;
		for (unsigned i = at; i < k->nmsr; i++)
			b.e[i - at] = (struct kvm_msr_entry){ .index = k->msr[i] };
		rc = kvm_call(c->fd, KVM_GET_MSRS, &b, "read MSRs", e);
		if (rc < 0)
			return rc;
		for (int i = 0; i < rc; i++)
			s->msr[n++] = (struct cpu_msr){ b.e[i].index, b.e[i].data };
	}
	s->nmsr = n;
	return 0;
}

int kvm_set_msrs(struct kvm_vcpu *c, const struct cpu_state *s, struct err *e)
{
	struct kvm_msrs_buf b = { 0 };
	int rc;

	if (s->nmsr > CPU_MSRS)
		return err_set(e, EPROTO, "%u MSRs", s->nmsr);
	for (unsigned at = 0; at < s->nmsr; at += (unsigned)rc + 1) {
		b.head.nmsrs = s->nmsr - at;
		for (unsigned i = at; i < s->nmsr; i++)
			b.e[i - at] = (struct kvm_msr_entry){ .index = s->msr[i].index,
							      .data = s->msr[i].value };
		rc = kvm_call(c->fd, KVM_SET_MSRS, &b, "set MSRs", e);
		if (rc < 0)
			return rc;
		/* What this host does not have and the guest never set is no loss. */
		if (at + (unsigned)rc < s->nmsr && s->msr[at + (unsigned)rc].value)
			return err_set(e, EINVAL, "this host's KVM refuses MSR %#x = %#lx",
				       s->msr[at + (unsigned)rc].index,
				       (unsigned long)s->msr[at + (unsigned)rc].value);
	}
	return 0;
}
