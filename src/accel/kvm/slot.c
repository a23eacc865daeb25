/*
 * Guest memory as KVM's memory slots, and the dirty log.
 *
 * Each region of gmem is one slot.  The log comes in two forms: a bitmap for each slot, copied by
 * KVM_GET_DIRTY_LOG and re-armed by KVM_CLEAR_DIRTY_LOG (so that the write protection is not redone
 * for all of memory in one go), or a ring for each vCPU (option dirty-ring), which costs by pages
 * written and not by memory size.  Either ends in the bitmaps of gmem, which devices feed too.
 *
 * A page is re-armed before anybody looks at its content, so a write that comes later is in the
 * next round.  With rings the log of a running vCPU may lag by what the processor has not handed
 * over yet; it is exact once the vCPU is outside accel_run().
 */
#include "accel/kvm/kvm_int.h"

#include "base/alloc.h"
#include "base/bits.h"
#include "base/num.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int slot_set(struct kvm_vm *k, unsigned i, const struct kvm_slot *s, struct err *e)
{
	struct kvm_userspace_memory_region r = {
		.slot = i,
		.guest_phys_addr = s->gpa,
		.memory_size = s->len,
		.userspace_addr = (uintptr_t)s->host,
		.flags = (s->readonly ? KVM_MEM_READONLY : 0u) |
			 (k->logging && s->len ? KVM_MEM_LOG_DIRTY_PAGES : 0u),
	};

	return kvm_call(k->fd, KVM_SET_USER_MEMORY_REGION, &r, "set a memory slot", e);
}

static bool slot_is(const struct kvm_slot *s, const struct gmem_region *r)
{
	return s->len == r->len && s->gpa == r->gpa && s->host == r->host &&
	       s->readonly == r->readonly;
}

static bool slot_wanted(const struct kvm_vm *k, const struct kvm_slot *s)
{
	const struct gmem *m = k->vm.o.gmem;

	for (unsigned i = 0; i < m->n; i++)
		if (slot_is(s, &m->r[i]))
			return true;
	return false;
}

/* Slots whose region is gone; first, because the new ones may lie where they lay. */
static int slots_drop(struct kvm_vm *k, struct err *e)
{
	for (unsigned i = 0; i < GMEM_REGIONS; i++) {
		if (!k->slot[i].len || slot_wanted(k, &k->slot[i]))
			continue;
		k->slot[i] = (struct kvm_slot){ 0 };
		int rc = slot_set(k, i, &k->slot[i], e);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int slot_add(struct kvm_vm *k, const struct gmem_region *r, struct err *e)
{
	unsigned free_slot = GMEM_REGIONS;

	for (unsigned i = 0; i < GMEM_REGIONS; i++) {
		if (slot_is(&k->slot[i], r))
			return 0;
		if (!k->slot[i].len && free_slot == GMEM_REGIONS)
			free_slot = i;
	}
	if (free_slot == GMEM_REGIONS)
		return err_set(e, ENOSPC, "no memory slot left");
	struct kvm_slot s = { r->gpa, r->len, r->host, r->readonly };
	int rc = slot_set(k, free_slot, &s, e);
	if (rc == 0)
		k->slot[free_slot] = s;
	return rc;
}

int kvm_slots_update(struct kvm_vm *k, struct err *e)
{
	const struct gmem *m = k->vm.o.gmem;

	SCOPED_LOCK(&k->slot_lock);
	int rc = slots_drop(k, e);
	for (unsigned i = 0; rc == 0 && i < m->n; i++)
		rc = slot_add(k, &m->r[i], e);
	return rc;
}

int kvm_regions_changed(struct accel_vm *vm, struct err *e)
{
	return kvm_slots_update(kvm_vm(vm), e);
}

static int slots_logging(struct kvm_vm *k, bool on, struct err *e)
{
	k->logging = on;
	for (unsigned i = 0; i < GMEM_REGIONS; i++) {
		if (!k->slot[i].len || k->slot[i].readonly)
			continue;
		int rc = slot_set(k, i, &k->slot[i], e);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static const struct gmem_region *slot_region(const struct kvm_vm *k, const struct kvm_slot *s)
{
	const struct gmem *m = k->vm.o.gmem;

	for (unsigned i = 0; i < m->n; i++)
		if (slot_is(s, &m->r[i]))
			return &m->r[i];
	return NULL;
}

static int log_bits_fit(struct kvm_vm *k, uint64_t words, struct err *e)
{
	if (words <= k->log_words)
		return 0;
	uint64_t *bits = xcalloc(words, sizeof(uint64_t));
	if (!bits)
		return err_set(e, ENOMEM, "no memory for a dirty bitmap");
	free(k->log_bits);
	k->log_bits = bits;
	k->log_words = words;
	return 0;
}

/* The bits just copied, re-armed.  The last page number of a clear must be the slot's end or a
 * multiple of 64 (api.rst, KVM_CLEAR_DIRTY_LOG); we clear the slot whole. */
static int slot_clear(struct kvm_vm *k, unsigned i, uint64_t pages, struct err *e)
{
	struct kvm_clear_dirty_log clear = {
		.slot = i,
		.num_pages = (uint32_t)pages,
		.dirty_bitmap = k->log_bits,
	};

	return kvm_call(k->fd, KVM_CLEAR_DIRTY_LOG, &clear, "re-arm the dirty log", e);
}

static int slot_sync(struct kvm_vm *k, unsigned i, struct err *e)
{
	const struct gmem_region *r = slot_region(k, &k->slot[i]);
	uint64_t pages = k->slot[i].len >> GMEM_PAGE_SHIFT, words = BITMAP_WORDS(pages), any = 0;

	if (!r || k->slot[i].readonly)
		return 0;
	int rc = log_bits_fit(k, words, e);
	if (rc < 0)
		return rc;
	struct kvm_dirty_log log = { .slot = i, .dirty_bitmap = k->log_bits };
	rc = kvm_call(k->fd, KVM_GET_DIRTY_LOG, &log, "read the dirty log", e);
	if (rc < 0)
		return rc;
	for (uint64_t w = 0; w < words; w++) {
		any |= k->log_bits[w];
		if (k->log_bits[w])
			__atomic_fetch_or(&r->dirty[w], k->log_bits[w], __ATOMIC_ACQ_REL);
	}
	return any && k->manual_clear ? slot_clear(k, i, pages, e) : 0;
}

static void ring_mark(struct kvm_vm *k, const struct kvm_dirty_gfn *g)
{
	uint32_t i = g->slot & 0xffff;

	if (i >= GMEM_REGIONS || !k->slot[i].len)
		return;
	const struct gmem_region *r = slot_region(k, &k->slot[i]);
	if (r && g->offset < r->len >> GMEM_PAGE_SHIFT)
		bitmap_set_atomic(r->dirty, g->offset);
}

/* Takes the entries of one vCPU; returns how many. */
static unsigned ring_take(struct kvm_vm *k, struct kvm_vcpu *c)
{
	unsigned n = 0;

	for (; n < k->ring_entries; n++) {
		struct kvm_dirty_gfn *g = &c->ring[c->ring_next % k->ring_entries];

		if (__atomic_load_n(&g->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
			break;
		ring_mark(k, g);
		__atomic_store_n(&g->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
		c->ring_next++;
	}
	return n;
}

/* Returns how many entries the kernel got back. */
static int rings_harvest_locked(struct kvm_vm *k, struct err *e)
{
	unsigned n = 0;

	for (unsigned i = 0; i < k->vm.o.ncpus; i++)
		if (k->vm.vcpu[i] && kvm_vcpu(k->vm.vcpu[i])->ring)
			n += ring_take(k, kvm_vcpu(k->vm.vcpu[i]));
	return n ? kvm_call(k->fd, KVM_RESET_DIRTY_RINGS, NULL, "reset the dirty rings", e) : 0;
}

int kvm_ring_harvest(struct kvm_vm *k, struct err *e)
{
	SCOPED_LOCK(&k->slot_lock);
	return rings_harvest_locked(k, e);
}

int kvm_dirty_sync(struct accel_vm *vm, struct err *e)
{
	struct kvm_vm *k = kvm_vm(vm);
	int rc = 0;

	SCOPED_LOCK(&k->slot_lock);
	if (!k->logging)
		return 0;
	if (k->ring_entries)
		rc = rings_harvest_locked(k, e);
	else
		for (unsigned i = 0; rc >= 0 && i < GMEM_REGIONS; i++)
			if (k->slot[i].len)
				rc = slot_sync(k, i, e);
	return rc < 0 ? rc : 0;
}

int kvm_dirty_start(struct accel_vm *vm, struct err *e)
{
	struct kvm_vm *k = kvm_vm(vm);

	SCOPED_LOCK(&k->slot_lock);
	int rc = slots_logging(k, true, e);
	if (rc < 0) {
		struct err ignored;

		(void)slots_logging(k, false, &ignored);
	}
	return rc;
}

void kvm_dirty_stop(struct accel_vm *vm)
{
	struct kvm_vm *k = kvm_vm(vm);
	struct err e = { 0 };

	SCOPED_LOCK(&k->slot_lock);
	/* Taking the flag away cannot fail for want of anything; if it did, the log only costs. */
	(void)slots_logging(k, false, &e);
}
