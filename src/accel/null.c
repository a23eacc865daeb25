/*
 * The engine that runs nothing: accel_run() waits until it is kicked.  It keeps the state that it
 * is given and drops interrupts.  For unit tests of machine and vmm, which need no guest.
 */
#include "accel/accel.h"

#include "base/alloc.h"
#include "base/thread.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

extern const struct accel accel_null;

struct null_vm {
	struct accel_vm vm;
	struct irqs irqs;
};

struct null_vcpu {
	struct accel_vcpu v;
	/* Guards kicked. */
	struct lock lock;
	struct cond cond;
	bool kicked;
	struct cpu_state state;
};

static void null_line(struct irqs *q, unsigned gsi, bool level)
{
}

static void null_msi(struct irqs *q, uint64_t addr, uint32_t data)
{
}

static const struct irq_ops null_irq_ops = {
	.name = "null",
	.line = null_line,
	.msi = null_msi,
};

static int null_vm_new(const struct accel_opts *o, struct accel_vm **ret, struct err *e)
{
	struct null_vm *n = NEW(struct null_vm);

	if (!n)
		return err_set(e, ENOMEM, "no memory");
	n->irqs.ops = &null_irq_ops;
	n->vm = (struct accel_vm){ .o = *o, .irqs = &n->irqs };
	n->vm.vcpu = xcalloc(o->ncpus, sizeof(n->vm.vcpu[0]));
	n->vm.drv = &accel_null;
	if (!n->vm.vcpu) {
		free(n);
		return err_set(e, ENOMEM, "no memory");
	}
	*ret = &n->vm;
	return 0;
}

static void null_vm_free(struct accel_vm *vm)
{
	free(vm->vcpu);
	free(container_of(vm, struct null_vm, vm));
}

static struct null_vcpu *null_vcpu(struct accel_vcpu *c)
{
	return container_of(c, struct null_vcpu, v);
}

static int null_vcpu_new(struct accel_vm *vm, unsigned index, struct accel_vcpu **ret,
			 struct err *e)
{
	struct null_vcpu *c = NEW(struct null_vcpu);

	if (!c)
		return err_set(e, ENOMEM, "no memory");
	c->v = (struct accel_vcpu){ .vm = vm, .index = index, .apic_id = index };
	lock_init(&c->lock);
	cond_init(&c->cond);
	vm->vcpu[index] = &c->v;
	vm->nvcpu++;
	*ret = &c->v;
	return 0;
}

static void null_vcpu_free(struct accel_vcpu *v)
{
	struct null_vcpu *c = null_vcpu(v);

	v->vm->vcpu[v->index] = NULL;
	v->vm->nvcpu--;
	cond_fini(&c->cond);
	lock_fini(&c->lock);
	free(c);
}

static enum accel_exit null_run(struct accel_vcpu *v, struct err *e)
{
	struct null_vcpu *c = null_vcpu(v);

	SCOPED_LOCK(&c->lock);
	while (!c->kicked)
		cond_wait(&c->cond, &c->lock);
	c->kicked = false;
	return ACCEL_EXIT_KICK;
}

static void null_kick(struct accel_vcpu *v)
{
	struct null_vcpu *c = null_vcpu(v);

	SCOPED_LOCK(&c->lock);
	c->kicked = true;
	cond_wake_all(&c->cond);
}

static int null_get(struct accel_vcpu *v, struct cpu_state *ret, struct err *e)
{
	*ret = null_vcpu(v)->state;
	return 0;
}

static int null_set(struct accel_vcpu *v, const struct cpu_state *s, struct err *e)
{
	null_vcpu(v)->state = *s;
	return 0;
}

static int null_cpuid(struct cpuid_table *ret, struct err *e)
{
	*ret = (struct cpuid_table){ 0 };
	return 0;
}

const struct accel accel_null = {
	.name = "null",
	.vm_new = null_vm_new,
	.vm_free = null_vm_free,
	.vcpu_new = null_vcpu_new,
	.vcpu_free = null_vcpu_free,
	.run = null_run,
	.kick = null_kick,
	.get = null_get,
	.set = null_set,
	.cpuid = null_cpuid,
};
