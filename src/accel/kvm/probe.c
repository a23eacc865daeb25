/*
 * How fast is this /dev/kvm?
 *
 * A VM of one page and one vCPU runs a counted loop of ring-0 instructions in flat 32-bit protected
 * mode and ends it with an OUT.  The first round faults the page in and fills the caches and is not
 * counted.  Hardware runs thousands of millions of instructions a second; where KVM emulates ring 0
 * (a PVM host) it is about 2 million, so a few thousand of them tell the two apart.
 *
 * Flat protected mode and not real mode, because KVM emulates real mode on processors without
 * "unrestricted guest", which are fast otherwise.
 */
#include "accel/kvm/kvm_int.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

enum {
	PROBE_LOOPS = 1000,
	PROBE_INSNS = 2 * PROBE_LOOPS + 3,
	PROBE_PORT = 0xf4,
};

/*
 *	1:	mov ecx, PROBE_LOOPS
 *	2:	dec ecx
 *		jnz 2b
 *		out PROBE_PORT, al
 *		jmp 1b
 */
static const uint8_t probe_code[] = {
	0xb9, PROBE_LOOPS & 0xff, PROBE_LOOPS >> 8, 0, 0, 0x49, 0x75, 0xfd, 0xe6, PROBE_PORT, 0xeb,
	0xf4,
};

struct probe {
	int sys, vm, vcpu;
	uint8_t *page;
	struct kvm_run *run;
	size_t run_size;
};

static void probe_fini(struct probe *p)
{
	if (p->run)
		munmap(p->run, p->run_size);
	close_fd(&p->vcpu);
	close_fd(&p->vm);
	close_fd(&p->sys);
	if (p->page)
		munmap(p->page, 4096);
}

static int probe_map(struct probe *p, struct err *e)
{
	int size = ioctl(p->sys, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(struct kvm_run))
		return err_set(e, EIO, "/dev/kvm: no vCPU area");

	void *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu, 0);
	if (run == MAP_FAILED)
		return err_set(e, errno, "/dev/kvm: cannot map a vCPU: %s", strerror(errno));
	p->run = run;
	p->run_size = (size_t)size;
	return 0;
}

static int probe_vm(struct probe *p, struct err *e)
{
	p->sys = kvm_open(e);
	if (p->sys < 0)
		return p->sys;
	p->vm = ioctl(p->sys, KVM_CREATE_VM, 0);
	if (p->vm < 0)
		return err_set(e, errno, "/dev/kvm: cannot create a VM: %s", strerror(errno));

	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return err_set(e, ENOMEM, "no memory for a guest page");
	p->page = page;
	memcpy(p->page, probe_code, sizeof(probe_code));
	struct kvm_userspace_memory_region slot = {
		.memory_size = 4096,
		.userspace_addr = (uintptr_t)p->page,
	};
	/* Intel without unrestricted guest needs a place for a TSS. */
	(void)ioctl(p->vm, KVM_SET_TSS_ADDR, 0xfffbd000ul);
	if (ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		return err_set(e, errno, "/dev/kvm: cannot add memory: %s", strerror(errno));
	p->vcpu = ioctl(p->vm, KVM_CREATE_VCPU, 0);
	if (p->vcpu < 0)
		return err_set(e, errno, "/dev/kvm: cannot create a vCPU: %s", strerror(errno));
	return probe_map(p, e);
}

static void probe_flat(struct kvm_segment *s, uint16_t sel, uint8_t type)
{
	*s = (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = sel,
		.type = type,
		.present = 1,
		.db = 1,
		.s = 1,
		.g = 1,
	};
}

static int probe_regs(struct probe *p, struct err *e)
{
	struct kvm_sregs s;
	struct kvm_regs r = { .rip = 0, .rflags = 2 };

	if (ioctl(p->vcpu, KVM_GET_SREGS, &s) < 0)
		return err_set(e, errno, "/dev/kvm: cannot read registers: %s", strerror(errno));
	probe_flat(&s.cs, 8, 0xb);
	struct kvm_segment *const data[] = { &s.ds, &s.es, &s.fs, &s.gs, &s.ss };
	for (unsigned i = 0; i < COUNT_OF(data); i++)
		probe_flat(data[i], 16, 3);
	s.cr0 |= X86_CR0_PE;
	if (ioctl(p->vcpu, KVM_SET_SREGS, &s) < 0 || ioctl(p->vcpu, KVM_SET_REGS, &r) < 0)
		return err_set(e, errno, "/dev/kvm: cannot set registers: %s", strerror(errno));
	return 0;
}

static int probe_round(struct probe *p, struct err *e)
{
	while (ioctl(p->vcpu, KVM_RUN, 0) < 0)
		if (errno != EINTR)
			return err_set(e, errno, "/dev/kvm: cannot run: %s", strerror(errno));
	if (p->run->exit_reason != KVM_EXIT_IO || p->run->io.port != PROBE_PORT)
		return err_set(e, EIO, "/dev/kvm: a loop of plain instructions ended in exit %u",
			       p->run->exit_reason);
	return 0;
}

static int probe_time(struct probe *p, double *ret_mips, struct err *e)
{
	int rc = probe_round(p, e);

	if (rc < 0)
		return rc;
	uint64_t t0 = clock_ns();
	rc = probe_round(p, e);
	uint64_t ns = clock_ns() - t0;
	if (rc < 0)
		return rc;
	*ret_mips = PROBE_INSNS * 1000.0 / (double)MAX(ns, 1ull);
	return 0;
}

int kvm_speed_probe(double *ret_mips, struct err *e)
{
	struct probe p = { -1, -1, -1, NULL, NULL, 0 };
	int rc = probe_vm(&p, e);

	if (rc == 0)
		rc = probe_regs(&p, e);
	if (rc == 0)
		rc = probe_time(&p, ret_mips, e);
	probe_fini(&p);
	return rc;
}
