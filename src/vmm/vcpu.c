/*
 * vCPU threads.  Each runs its vCPU while `run` is set and waits outside the engine while it is
 * not; pausing clears `run`, kicks everyone out and waits until nobody is in.
 */
#include "base/log.h"
#include "vmm/vmm.h"

#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A reason why a vCPU came out by itself. */
static void vcpu_exit(struct vcpu *c, enum accel_exit why, const struct err *e)
{
	switch (why) {
	case ACCEL_EXIT_KICK:
		break;
	case ACCEL_EXIT_SHUTDOWN:
		log_info("vCPU %u: triple fault: reset", c->index);
		vmm_request(c->vmm, BOARD_RESET, 0);
		break;
	case ACCEL_EXIT_FAIL:
		vmm_engine_failed(c->vmm, e);
		break;
	}
}

static void vcpu_main(void *arg)
{
	struct vcpu *c = arg;
	struct vcpus *g = &c->vmm->vcpus;
	struct accel_vcpu *cpu = c->vmm->machine->vcpu[c->index];

	__atomic_store_n(&c->tid, (int)syscall(SYS_gettid), __ATOMIC_RELEASE);
	lock(&g->lock);
	while (!g->quit) {
		struct err e = { 0 };

		if (!g->run) {
			cond_wait(&g->cond, &g->lock);
			continue;
		}
		g->nin++;
		unlock(&g->lock);
		enum accel_exit why = accel_run(cpu, &e);
		vcpu_exit(c, why, &e);
		lock(&g->lock);
		g->nin--;
		if (!g->run)
			cond_wake_all(&g->cond);
	}
	unlock(&g->lock);
}

int vcpus_start(struct vmm *v, struct err *e)
{
	struct vcpus *g = &v->vcpus;

	for (g->n = 0; g->n < v->spec.cpus; g->n++) {
		struct vcpu *c = &g->cpu[g->n];
		char name[16];

		c->vmm = v;
		c->index = g->n;
		snprintf(name, sizeof(name), "vcpu%u", c->index);
		int rc = thread_start(&c->thread, name, vcpu_main, c, e);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static void vcpus_hold_locked(struct vcpus *g)
{
	g->run = false;
	for (unsigned i = 0; i < g->n; i++)
		accel_kick(g->cpu[i].vmm->machine->vcpu[i]);
}

void vcpus_hold(struct vcpus *g)
{
	SCOPED_LOCK(&g->lock);
	vcpus_hold_locked(g);
}

void vcpus_pause(struct vcpus *g)
{
	SCOPED_LOCK(&g->lock);
	vcpus_hold_locked(g);
	while (g->nin)
		cond_wait(&g->cond, &g->lock);
}

void vcpus_resume(struct vcpus *g)
{
	SCOPED_LOCK(&g->lock);
	g->run = true;
	cond_wake_all(&g->cond);
}

void vcpus_stop(struct vcpus *g)
{
	lock(&g->lock);
	g->quit = true;
	vcpus_hold_locked(g);
	cond_wake_all(&g->cond);
	unlock(&g->lock);
	for (unsigned i = 0; i < g->n; i++)
		thread_join(&g->cpu[i].thread);
}
