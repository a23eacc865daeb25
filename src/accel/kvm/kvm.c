/*
 * /dev/kvm: what it must be able to do, and one VM in it.
 *
 * Order of a VM's making, as the interface wants it (Documentation/virt/kvm/api.rst): capabilities
 * of the VM, places for Intel's hidden TSS and identity map, interrupt chips, memory, then vCPUs.
 */
#include "accel/kvm/kvm_int.h"

#include "base/alloc.h"
#include "base/cleanup.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>

/* Four pages below the local APIC's hole that no board uses: one of page tables, three of TSS. */
#define KVM_IDENTITY_GPA 0xfeffc000ul
#define KVM_TSS_GPA (KVM_IDENTITY_GPA + GMEM_PAGE_SIZE)

enum {
	KVM_RING_MAX = 65536,
};

static const struct {
	int cap;
	const char *name;
} kvm_required[] = {
	/* clang-format off */
	{ KVM_CAP_IRQCHIP, "IRQCHIP" },
	{ KVM_CAP_USER_MEMORY, "USER_MEMORY" },
	{ KVM_CAP_SET_TSS_ADDR, "SET_TSS_ADDR" },
	{ KVM_CAP_EXT_CPUID, "EXT_CPUID" },
	{ KVM_CAP_MP_STATE, "MP_STATE" },
	{ KVM_CAP_IRQ_ROUTING, "IRQ_ROUTING" },
	{ KVM_CAP_IOEVENTFD, "IOEVENTFD" },
	{ KVM_CAP_SIGNAL_MSI, "SIGNAL_MSI" },
	{ KVM_CAP_READONLY_MEM, "READONLY_MEM" },
	{ KVM_CAP_VCPU_EVENTS, "VCPU_EVENTS" },
	{ KVM_CAP_DEBUGREGS, "DEBUGREGS" },
	{ KVM_CAP_XSAVE, "XSAVE" },
	{ KVM_CAP_XCRS, "XCRS" },
	{ KVM_CAP_GET_TSC_KHZ, "GET_TSC_KHZ" },
	{ KVM_CAP_IMMEDIATE_EXIT, "IMMEDIATE_EXIT" },
	/* clang-format on */
};

int kvm_ioctl(int fd, unsigned long req, void *arg)
{
	int rc;

	do
		rc = ioctl(fd, req, arg);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : rc;
}

int kvm_call(int fd, unsigned long req, void *arg, const char *what, struct err *e)
{
	int rc = kvm_ioctl(fd, req, arg);

	return rc < 0 ? err_set(e, -rc, "/dev/kvm: cannot %s: %s", what, strerror(-rc)) : rc;
}

int kvm_cap(int fd, int cap)
{
	int rc = ioctl(fd, KVM_CHECK_EXTENSION, (unsigned long)cap);

	return rc < 0 ? 0 : rc;
}

int kvm_cap_enable(int fd, unsigned cap, uint64_t arg0, uint64_t arg1)
{
	struct kvm_enable_cap c = { .cap = cap, .args = { arg0, arg1 } };

	return kvm_ioctl(fd, KVM_ENABLE_CAP, &c);
}

static const char *kvm_open_hint(int err)
{
	switch (err) {
	case ENOENT:
		return " (is the kvm module loaded and virtualization on in the firmware?)";
	case EACCES:
	case EPERM:
		return " (is the user in the group that owns it, often 'kvm'?)";
	default:
		return "";
	}
}

int kvm_open(struct err *e)
{
	AUTO_CLOSE int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return err_set(e, errno, "cannot open /dev/kvm: %s%s", strerror(errno),
			       kvm_open_hint(errno));
	int version = ioctl(fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION)
		return err_set(e, EIO, "/dev/kvm has version %d of its interface, not %d", version,
			       KVM_API_VERSION);
	return take_fd(&fd);
}

static int kvm_check_caps(int sys, struct err *e)
{
	for (unsigned i = 0; i < COUNT_OF(kvm_required); i++)
		if (!kvm_cap(sys, kvm_required[i].cap))
			return err_set(e, EOPNOTSUPP,
				       "this host's KVM lacks KVM_CAP_%s; a newer kernel has it",
				       kvm_required[i].name);
	return 0;
}

static int kvm_probe(struct err *e)
{
	AUTO_CLOSE int sys = kvm_open(e);

	return sys < 0 ? sys : kvm_check_caps(sys, e);
}

static int kvm_opt_ring(struct kvm_vm *k, const char *value, struct err *e)
{
	uint64_t n;

	if (str_u64(value, &n) < 0 || n < 512 || n > KVM_RING_MAX || (n & (n - 1)))
		return err_set(e, EINVAL,
			       "option 'dirty-ring=%.20s': a power of two from 512 to %d is wanted",
			       value, KVM_RING_MAX);
	k->ring_entries = (unsigned)n;
	return 0;
}

static int kvm_opt(struct kvm_vm *k, const char *opt, struct err *e)
{
	if (str_starts(opt, "dirty-ring="))
		return kvm_opt_ring(k, opt + strlen("dirty-ring="), e);
	if (str_starts(opt, "assist=") && str_bool(opt + strlen("assist="), &k->assist) == 0)
		return 0;
	return err_set(e, EINVAL, "no option '%.40s' (there are: dirty-ring=N, assist=on|off)",
		       opt);
}

static int kvm_opts(struct kvm_vm *k, struct err *e)
{
	k->assist = true;
	AUTO_FREE char *opts = xstrdup(k->vm.o.engine_opts ? k->vm.o.engine_opts : "");
	if (!opts)
		return err_set(e, ENOMEM, "no memory");
	char *save = NULL;
	for (char *o = strtok_r(opts, ",", &save); o; o = strtok_r(NULL, ",", &save)) {
		int rc = kvm_opt(k, o, e);

		if (rc < 0)
			return rc;
	}
	return 0;
}

static int kvm_enable_ring(struct kvm_vm *k, struct err *e)
{
	uint64_t bytes = k->ring_entries * sizeof(struct kvm_dirty_gfn);

	/* The one with acquire and release is the same on x86, under a newer name. */
	if (kvm_cap_enable(k->fd, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, bytes, 0) < 0 &&
	    kvm_cap_enable(k->fd, KVM_CAP_DIRTY_LOG_RING, bytes, 0) < 0)
		return err_set(e, EOPNOTSUPP, "this host's KVM has no dirty ring of %u entries",
			       k->ring_entries);
	return 0;
}

/* What is used when it is there. */
static int kvm_optional_caps(struct kvm_vm *k, struct err *e)
{
	k->has_sregs2 = kvm_cap(k->fd, KVM_CAP_SREGS2);
	k->sync_regs = (unsigned)kvm_cap(k->fd, KVM_CAP_SYNC_REGS);
	int xsave = kvm_cap(k->fd, KVM_CAP_XSAVE2);
	k->has_xsave2 = xsave > 0;
	k->xsave_size = xsave > 4096 ? (unsigned)xsave : 4096;
	k->has_triple_fault = !kvm_cap_enable(k->fd, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1, 0);
	/* Also for ring 3, where it would be #UD. */
	k->has_exit_on_failure = !kvm_cap_enable(k->fd, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1, 0);
	/* APIC IDs over 255, in messages and in the register page; without it 255 vCPUs do. */
	k->has_wide_ids = !kvm_cap_enable(
		k->fd, KVM_CAP_X2APIC_API,
		KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK, 0);
	if (k->ring_entries)
		return kvm_enable_ring(k, e);
	k->manual_clear = !kvm_cap_enable(k->fd, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
					  KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, 0);
	return 0;
}

static int kvm_create(struct kvm_vm *k, struct err *e)
{
	k->sys = kvm_open(e);
	if (k->sys < 0)
		return k->sys;
	int rc = kvm_check_caps(k->sys, e);
	if (rc < 0)
		return rc;
	int size = kvm_call(k->sys, KVM_GET_VCPU_MMAP_SIZE, NULL, "size a vCPU", e);
	if (size < 0)
		return size;
	if ((size_t)size < sizeof(struct kvm_run))
		return err_set(e, EIO, "/dev/kvm: a vCPU area of %d bytes is too small", size);
	k->run_size = (size_t)size;
	k->fd = kvm_call(k->sys, KVM_CREATE_VM, NULL, "create a VM", e);
	if (k->fd < 0)
		return k->fd;
	return kvm_optional_caps(k, e);
}

static int kvm_places(struct kvm_vm *k, struct err *e)
{
	uint64_t identity = KVM_IDENTITY_GPA;
	int rc = kvm_call(k->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity, "place the identity map", e);

	if (rc < 0)
		return rc;
	if (ioctl(k->fd, KVM_SET_TSS_ADDR, KVM_TSS_GPA) < 0)
		return err_set(e, errno, "/dev/kvm: cannot place the TSS: %s", strerror(errno));
	return 0;
}

static void kvm_vm_free(struct accel_vm *vm)
{
	struct kvm_vm *k = kvm_vm(vm);

	kvm_irq_fini(k);
	close_fd(&k->fd);
	close_fd(&k->sys);
	free(k->log_bits);
	free(k->vm.vcpu);
	lock_fini(&k->slot_lock);
	lock_fini(&k->route_lock);
	free(k);
}

static int kvm_vm_setup(struct kvm_vm *k, struct err *e)
{
	int rc = kvm_opts(k, e);

	if (rc == 0)
		rc = kvm_create(k, e);
	if (rc == 0)
		rc = kvm_places(k, e);
	if (rc == 0)
		rc = kvm_irq_init(k, e);
	if (rc == 0)
		rc = kvm_slots_update(k, e);
	return rc;
}

static int kvm_vm_new(const struct accel_opts *o, struct accel_vm **ret, struct err *e)
{
	struct kvm_vm *k = NEW(struct kvm_vm);

	if (!k)
		return err_set(e, ENOMEM, "no memory");
	k->vm = (struct accel_vm){ .drv = &accel_kvm, .o = *o };
	k->sys = k->fd = -1;
	lock_init(&k->slot_lock);
	lock_init(&k->route_lock);
	k->vm.vcpu = xcalloc(o->ncpus, sizeof(k->vm.vcpu[0]));
	int rc = k->vm.vcpu ? kvm_vm_setup(k, e) : err_set(e, ENOMEM, "no memory");
	if (rc < 0)
		kvm_vm_free(&k->vm);
	else
		*ret = &k->vm;
	return rc;
}

static int kvm_reset(struct accel_vm *vm, struct err *e)
{
	return kvm_irq_reset((struct kvm_vm *)(void *)vm, e);
}

const struct accel accel_kvm = {
	.name = "kvm",
	.probe = kvm_probe,
	.vm_new = kvm_vm_new,
	.vm_free = kvm_vm_free,
	.vcpu_new = kvm_vcpu_new,
	.vcpu_free = kvm_vcpu_free,
	.run = kvm_run,
	.kick = kvm_kick,
	.get = kvm_get,
	.set = kvm_set,
	.cpuid = kvm_cpuid,
	.dirty_sync = kvm_dirty_sync,
	.dirty_start = kvm_dirty_start,
	.dirty_stop = kvm_dirty_stop,
	.regions_changed = kvm_regions_changed,
	.stats = kvm_stats,
	.reset = kvm_reset,
};
