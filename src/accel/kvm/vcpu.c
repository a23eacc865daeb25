/*
 * A vCPU of the kvm engine: its life, the run loop, and kicks.
 *
 * A kick must not be lost between the moment when the loop last looked and the moment when the
 * kernel enters the guest.  So it sets immediate_exit in the shared run page, which KVM_RUN looks
 * at on entry, and sends SIGUSR1 (empty handler, no SA_RESTART), which ends a KVM_RUN that is past
 * that point.  The loop clears immediate_exit before it looks at `kicked`: in whatever order the
 * two threads meet, either this look sees it or the next KVM_RUN comes back at once.
 *
 * KVM finishes an I/O instruction only when it is entered again (api.rst, KVM_RUN: EINTR with
 * immediate_exit).  So the loop returns for a kick only right after a KVM_RUN that gave EINTR: then
 * all registers are as the guest has them between two instructions.
 */
#include "accel/kvm/kvm_int.h"

#include "base/alloc.h"
#include "base/bug.h"
#include "base/cleanup.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

static void vcpu_signal(int sig)
{
}

static void vcpu_handler_install(void)
{
	struct sigaction sa = { .sa_handler = vcpu_signal };

	sigaction(SIGUSR1, &sa, NULL);
}

static int vcpu_map_ring(struct kvm_vcpu *c, struct err *e)
{
	unsigned n = kvm_of(c)->ring_entries;

	if (!n)
		return 0;
	void *ring = mmap(NULL, n * sizeof(struct kvm_dirty_gfn), PROT_READ | PROT_WRITE,
			  MAP_SHARED, c->fd, KVM_DIRTY_LOG_PAGE_OFFSET * GMEM_PAGE_SIZE);
	if (ring == MAP_FAILED)
		return err_set(e, errno, "/dev/kvm: cannot map a dirty ring: %s", strerror(errno));
	c->ring = ring;
	return 0;
}

static int vcpu_map(struct kvm_vcpu *c, struct err *e)
{
	void *run = mmap(NULL, kvm_of(c)->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);

	if (run == MAP_FAILED)
		return err_set(e, errno, "/dev/kvm: cannot map a vCPU: %s", strerror(errno));
	c->run = run;
	return vcpu_map_ring(c, e);
}

static int vcpu_tsc(struct kvm_vcpu *c, struct err *e)
{
	int khz = kvm_call(c->fd, KVM_GET_TSC_KHZ, NULL, "read the TSC frequency", e);

	if (khz < 0)
		return khz;
	c->v.vm->tsc_hz = (uint64_t)khz * 1000;
	return 0;
}

static int vcpu_create(struct kvm_vcpu *c, struct err *e)
{
	struct kvm_vm *k = kvm_of(c);

	if (k->xsave_size > CPU_XSAVE_MAX)
		return err_set(e, EOPNOTSUPP, "extended state of %u bytes, more than %d",
			       k->xsave_size, CPU_XSAVE_MAX);
	int fd = ioctl(k->fd, KVM_CREATE_VCPU, (unsigned long)c->v.index);
	if (fd < 0)
		return err_set(e, errno, "/dev/kvm: cannot create: %s", strerror(errno));
	c->fd = fd;
	int rc = vcpu_map(c, e);
	if (rc == 0)
		rc = vcpu_tsc(c, e);
	if (rc == 0)
		rc = kvm_vcpu_cpuid(c, e);
	if (rc == 0)
		kvm_init_msrs(c);
	return rc;
}

static void vcpu_unmap(struct kvm_vcpu *c)
{
	if (c->ring)
		munmap(c->ring, kvm_of(c)->ring_entries * sizeof(struct kvm_dirty_gfn));
	if (c->run)
		munmap(c->run, kvm_of(c)->run_size);
	close_fd(&c->fd);
}

int kvm_vcpu_new(struct accel_vm *vm, unsigned index, struct accel_vcpu **ret, struct err *e)
{
	struct kvm_vcpu *c = NEW(struct kvm_vcpu);

	if (!c)
		return err_set(e, ENOMEM, "no memory");
	c->v = (struct accel_vcpu){ .vm = vm, .index = index, .apic_id = index };
	c->fd = -1;
	lock_init(&c->kick_lock);
	vcpu_handler_install();
	int rc = vcpu_create(c, e);
	if (rc < 0) {
		kvm_vcpu_free(&c->v);
		return rc;
	}
	vm->vcpu[index] = &c->v;
	vm->nvcpu++;
	*ret = &c->v;
	return 0;
}

void kvm_vcpu_free(struct accel_vcpu *v)
{
	struct kvm_vcpu *c = kvm_vcpu(v);

	if (v->vm->vcpu[v->index] == v) {
		v->vm->vcpu[v->index] = NULL;
		v->vm->nvcpu--;
	}
	kvm_assist_free(c);
	vcpu_unmap(c);
	lock_fini(&c->kick_lock);
	free(c);
}

void kvm_nudge(struct kvm_vcpu *c)
{
	__atomic_store_n(&c->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	SCOPED_LOCK(&c->kick_lock);
	if (c->in_run)
		pthread_kill(c->tid, SIGUSR1);
}

void kvm_kick(struct accel_vcpu *v)
{
	struct kvm_vcpu *c = kvm_vcpu(v);

	__atomic_store_n(&c->kicked, true, __ATOMIC_SEQ_CST);
	kvm_nudge(c);
}

static void vcpu_enter(struct kvm_vcpu *c)
{
	SCOPED_LOCK(&c->kick_lock);
	c->tid = pthread_self();
	c->in_run = true;
}

static void vcpu_leave(struct kvm_vcpu *c)
{
	SCOPED_LOCK(&c->kick_lock);
	c->in_run = false;
}

/* KVM_RUN gave EINTR: was it a kick? */
static bool vcpu_kicked(struct kvm_vcpu *c)
{
	__atomic_store_n(&c->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	return __atomic_exchange_n(&c->kicked, false, __ATOMIC_SEQ_CST);
}

static enum accel_exit vcpu_error(struct kvm_vcpu *c, int err, struct err *e)
{
	if (c->run->exit_reason == KVM_EXIT_MEMORY_FAULT && (err == EFAULT || err == EHWPOISON))
		return kvm_fail(c, e, "guest memory cannot be reached (%s)", strerror(err));
	return kvm_fail(c, e, "KVM_RUN: %s", strerror(err));
}

static enum accel_exit vcpu_loop(struct kvm_vcpu *c, struct err *e)
{
	enum accel_exit why = ACCEL_EXIT_FAIL;

	for (;;) {
		kvm_irq_before_run(c);
		kvm_assist_before_run(c);
		int err = ioctl(c->fd, KVM_RUN, 0) < 0 ? errno : 0;

		if (err == EINTR && vcpu_kicked(c))
			return ACCEL_EXIT_KICK;
		/* EAGAIN: an application processor heard its INIT or SIPI. */
		if (err == EINTR || err == EAGAIN)
			continue;
		if (err)
			return vcpu_error(c, err, e);
		if (kvm_exit(c, &why, e))
			return why;
	}
}

enum accel_exit kvm_run(struct accel_vcpu *v, struct err *e)
{
	struct kvm_vcpu *c = kvm_vcpu(v);

	vcpu_enter(c);
	enum accel_exit why = vcpu_loop(c, e);
	vcpu_leave(c);
	return why;
}
