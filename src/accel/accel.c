/*
 * The only caller of the engines' tables: checks what every engine would have to check, traces, and
 * chooses one.
 *
 * `auto` measures rather than guesses.  A /dev/kvm can exist and be slow: on a host that has no
 * hardware virtualization of its own (a PVM host) every ioctl works, and ring-0 code is emulated in
 * the host kernel at about 2 million instructions a second.  There the soft engine is faster.
 */
#include "accel/accel.h"

#include "accel/kvm/kvm.h"
#include "base/bug.h"
#include "base/trace.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Between what emulation gives (2) and what the slowest hardware does (thousands). */
#define ACCEL_FAST_MIPS 50.0

enum {
	ACCEL_WHY = 256,
};

static const struct accel *accel_by_name(const char *name)
{
	for (unsigned i = 0; accel_drivers[i]; i++)
		if (!strcmp(accel_drivers[i]->name, name))
			return accel_drivers[i];
	return NULL;
}

static int accel_unknown(const char *name, struct err *e)
{
	char names[64] = "auto";

	for (const struct accel *const *a = accel_drivers; *a; a++) {
		size_t n = strlen(names);

		snprintf(names + n, sizeof(names) - n, ", %s", (*a)->name);
	}
	return err_set(e, ENOENT, "no engine '%s' (there are: %s)", name, names);
}

/* Is kvm there and fast?  Says in why what was found. */
static bool accel_kvm_fast(char *why)
{
	struct err e = { 0 };
	double mips = 0;

	if (kvm_speed_probe(&mips, &e) < 0) {
		snprintf(why, ACCEL_WHY, "%s", e.msg);
		return false;
	}
	bool fast = mips >= ACCEL_FAST_MIPS;
	snprintf(why, ACCEL_WHY, "/dev/kvm runs ring-0 code at %.*f million instructions/s%s",
		 mips < 100 ? 1 : 0, mips, fast ? "" : ", which is emulation, not hardware");
	return fast;
}

static int accel_auto(const struct accel **ret, char *ret_why, struct err *e)
{
	char why[ACCEL_WHY];
	bool fast = accel_kvm_fast(why);
	const struct accel *a = accel_by_name(fast ? "kvm" : "soft");

	if (!a)
		return err_set(e, ENOENT, "%.160s, and there is no other engine", why);
	snprintf(ret_why, ACCEL_WHY, "%s: %.240s", a->name, why);
	*ret = a;
	return 0;
}

int accel_choose(const char *name, const struct accel **ret, char *ret_why, struct err *e)
{
	if (!strcmp(name, "auto"))
		return accel_auto(ret, ret_why, e);

	const struct accel *a = accel_by_name(name);
	if (!a)
		return accel_unknown(name, e);
	if (a->probe && a->probe(e) < 0)
		return err_in(e, "engine '%s'", name);
	snprintf(ret_why, ACCEL_WHY, "%s: asked for", a->name);
	*ret = a;
	return 0;
}

int accel_vm_new(const struct accel *a, const struct accel_opts *o, struct accel_vm **ret,
		 struct err *e)
{
	BUG_ON(!o->ncpus || !o->gmem || !o->mmio || !o->pio);
	if (a->vm_new(o, ret, e) < 0)
		return err_in(e, "engine '%s'", a->name);
	TRACE(accel_vm_new, "%s cpus=%u", a->name, o->ncpus);
	return 0;
}

void accel_vm_free(struct accel_vm *vm)
{
	if (vm)
		vm->drv->vm_free(vm);
}

int accel_vcpu_new(struct accel_vm *vm, unsigned index, struct accel_vcpu **ret, struct err *e)
{
	BUG_ON(index >= vm->o.ncpus);
	if (vm->drv->vcpu_new(vm, index, ret, e) < 0)
		return err_in(e, "vCPU %u", index);
	return 0;
}

void accel_vcpu_free(struct accel_vcpu *c)
{
	if (c)
		c->vm->drv->vcpu_free(c);
}

enum accel_exit accel_run(struct accel_vcpu *c, struct err *e)
{
	enum accel_exit why = c->vm->drv->run(c, e);

	TRACE(accel_exit, "vcpu=%u why=%d", c->index, why);
	return why;
}

void accel_kick(struct accel_vcpu *c)
{
	c->vm->drv->kick(c);
}

int accel_get(struct accel_vcpu *c, struct cpu_state *ret, struct err *e)
{
	return c->vm->drv->get(c, ret, e);
}

int accel_set(struct accel_vcpu *c, const struct cpu_state *s, struct err *e)
{
	return c->vm->drv->set(c, s, e);
}

int accel_dirty_start(struct accel_vm *vm, struct err *e)
{
	int rc = gmem_log_start(vm->o.gmem, e);

	if (rc < 0 || !vm->drv->dirty_start)
		return rc;
	rc = vm->drv->dirty_start(vm, e);
	if (rc < 0)
		gmem_log_stop(vm->o.gmem);
	return rc;
}

int accel_dirty_sync(struct accel_vm *vm, struct err *e)
{
	return vm->drv->dirty_sync ? vm->drv->dirty_sync(vm, e) : 0;
}

void accel_dirty_stop(struct accel_vm *vm)
{
	if (vm->drv->dirty_stop)
		vm->drv->dirty_stop(vm);
	gmem_log_stop(vm->o.gmem);
}

int accel_regions_changed(struct accel_vm *vm, struct err *e)
{
	return vm->drv->regions_changed ? vm->drv->regions_changed(vm, e) : 0;
}

void accel_stats(struct accel_vm *vm, char *ret, size_t size)
{
	if (size)
		ret[0] = 0;
	if (vm->drv->stats)
		vm->drv->stats(vm, ret, size);
}

int accel_reset(struct accel_vm *vm, struct err *e)
{
	return vm->drv->reset ? vm->drv->reset(vm, e) : 0;
}
