/*
 * The life of a VM: one state, one function that changes it.
 *
 *	prelaunch --cont--> running <--cont/stop--> paused
 *	running --disk error--> io-error --cont--> running
 *	running --engine gave up--> internal-error --system_reset--> paused
 *	any --power off, quit, signal--> shutdown
 *
 * Pausing is: vCPUs out of the engine, then device queues quiet and disks drained; resuming is the
 * reverse.  Reset is pause, every device to power-on, kernel in place again, resume.
 */
#include "base/clock.h"
#include "base/log.h"
#include "base/trace.h"
#include "vmm/vmm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
	VMM_STATUS_FAILED = 1,
};
#define VMM_RETRY_NS NS_PER_SEC

const char *vmm_state_name(enum vmm_state s)
{
	static const char *const names[] = {
		[VMM_PRELAUNCH] = "prelaunch", [VMM_RUNNING] = "running",
		[VMM_PAUSED] = "paused",       [VMM_IO_ERROR] = "io-error",
		[VMM_SHUTDOWN] = "shutdown",   [VMM_INTERNAL_ERROR] = "internal-error",
	};

	return names[s];
}

struct vmm_reason {
	bool guest;
	const char *reason;
};

static void vmm_put_reason(struct json_out *o, const void *arg)
{
	const struct vmm_reason *r = arg;

	json_out_bool(o, "guest", r->guest);
	json_out_str(o, "reason", r->reason);
}

void vmm_set_state(struct vmm *v, enum vmm_state to)
{
	enum vmm_state from = v->state;

	if (from == to || from == VMM_SHUTDOWN)
		return;
	TRACE(vmm_state, "%s to %s", vmm_state_name(from), vmm_state_name(to));
	v->state = to;
	if (from == VMM_RUNNING) {
		vcpus_pause(&v->vcpus);
		machine_stop(v->machine);
		if (to != VMM_SHUTDOWN)
			qmp_server_event(v->control, "STOP", NULL, NULL);
	}
	if (to == VMM_RUNNING) {
		qmp_server_event(v->control, "RESUME", NULL, NULL);
		machine_start(v->machine);
		vcpus_resume(&v->vcpus);
	}
}

int vmm_cont(struct vmm *v, struct err *e)
{
	if (v->state == VMM_INTERNAL_ERROR)
		return err_set(e, EINVAL, "Resetting the Virtual Machine is required");
	if (v->state == VMM_SHUTDOWN)
		return err_set(e, EINVAL, "the VM is ending");
	vmm_set_state(v, VMM_RUNNING);
	return 0;
}

void vmm_end(struct vmm *v, bool guest, const char *reason, int status)
{
	const struct vmm_reason r = { guest, reason };

	if (v->state == VMM_SHUTDOWN)
		return;
	v->status = status;
	vmm_set_state(v, VMM_SHUTDOWN);
	loop_timer_cancel(&v->retry);
	qmp_server_event(v->control, "SHUTDOWN", vmm_put_reason, &r);
	loop_stop(v->loop);
}

void vmm_reset(struct vmm *v, bool guest, const char *reason)
{
	const struct vmm_reason r = { guest, reason };
	bool ran = v->state == VMM_RUNNING;
	struct err e;

	if (v->state == VMM_SHUTDOWN)
		return;
	if (v->spec.no_reboot) {
		vmm_end(v, guest, reason, 0);
		return;
	}
	/* Quietly: a reset is one event, not three. */
	if (ran) {
		vcpus_pause(&v->vcpus);
		machine_stop(v->machine);
	}
	/* What the guest asked for more than once meanwhile is this reset. */
	__atomic_fetch_and(&v->requests, ~BIT(BOARD_RESET), __ATOMIC_ACQ_REL);
	if (machine_reset(v->machine, &e) < 0) {
		log_error("reset: %s", e.msg);
		vmm_end(v, false, "host-error", VMM_STATUS_FAILED);
		return;
	}
	qmp_server_event(v->control, "RESET", vmm_put_reason, &r);
	if (v->state == VMM_INTERNAL_ERROR)
		v->state = VMM_PAUSED;
	if (ran) {
		machine_start(v->machine);
		vcpus_resume(&v->vcpus);
	}
}

/* Which disk, for BLOCK_IO_ERROR; see enum board_io_error. */
static void vmm_put_io_error(struct json_out *o, const void *arg)
{
	uint32_t value = *(const uint32_t *)arg;
	char name[16];

	snprintf(name, sizeof(name), "disk%u", value & BOARD_IO_DISK);
	json_out_str(o, "device", name);
	json_out_str(o, "node-name", name);
	json_out_str(o, "operation", value & BOARD_IO_WRITE ? "write" : "read");
	json_out_str(o, "action", "stop");
	json_out_bool(o, "nospace", value & BOARD_IO_NOSPACE);
	json_out_str(o, "reason",
		     value & BOARD_IO_NOSPACE ? "No space left on device" : "Input/output error");
}

static void vmm_put_panic(struct json_out *o, const void *arg)
{
	json_out_str(o, "action", "run");
}

static void vmm_io_error(struct vmm *v, uint32_t value)
{
	unsigned i = value & BOARD_IO_DISK;

	if (i < v->spec.ndisk) {
		v->machine->disk[i].failed = true;
		v->machine->disk[i].nospace = value & BOARD_IO_NOSPACE;
	}
	qmp_server_event(v->control, "BLOCK_IO_ERROR", vmm_put_io_error, &value);
	if (v->state == VMM_RUNNING)
		vmm_set_state(v, VMM_IO_ERROR);
	/* Without a control socket nobody can say `cont`: look again until it works. */
	if (!v->control) {
		uint64_t now = clock_ns();

		/* Once for each time that it lasts. */
		if (!v->io_failed_ns || now - v->io_failed_ns > VMM_RETRY_NS * 3)
			log_error("disk%u: %s; the VM waits and tries again every second", i,
				  value & BOARD_IO_NOSPACE ? "no space left on the host's disk"
							   : "I/O error");
		v->io_failed_ns = now;
		loop_timer_set(v->loop, &v->retry, now + VMM_RETRY_NS);
	}
}

static void vmm_retry(struct loop_timer *t)
{
	vmm_set_state(container_of(t, struct vmm, retry), VMM_RUNNING);
}

static void vmm_take_failure(struct vmm *v)
{
	struct err e;

	lock(&v->fail_lock);
	bool failed = v->failed;
	e = v->fail;
	v->failed = false;
	unlock(&v->fail_lock);
	if (!failed)
		return;
	log_error("%s", e.msg);
	if (v->control)
		vmm_set_state(v, VMM_INTERNAL_ERROR);
	else
		vmm_end(v, false, "host-error", VMM_STATUS_FAILED);
}

/* Main thread: what others asked for.  Ends come first: a guest may do both at once. */
static void vmm_handle(struct loop_post *p)
{
	struct vmm *v = container_of(p, struct vmm, post);
	uint32_t r = __atomic_exchange_n(&v->requests, 0, __ATOMIC_ACQ_REL);
	const char *leave = __atomic_load_n(&v->leave, __ATOMIC_ACQUIRE);

	if (leave)
		vmm_end(v, false, leave, 0);
	if (r & BIT(BOARD_EXIT))
		vmm_end(v, true, "guest-shutdown",
			(int)((__atomic_load_n(&v->exit_value, __ATOMIC_ACQUIRE) << 1 | 1) & 0xff));
	if (r & BIT(BOARD_POWEROFF))
		vmm_end(v, true, "guest-shutdown", 0);
	vmm_take_failure(v);
	if (r & BIT(BOARD_PANIC)) {
		log_warn("the guest says that it panicked");
		qmp_server_event(v->control, "GUEST_PANICKED", vmm_put_panic, NULL);
	}
	if (r & BIT(BOARD_RESET))
		vmm_reset(v, true, "guest-reset");
	if (r & BIT(BOARD_IO_ERROR))
		vmm_io_error(v, __atomic_load_n(&v->io_value, __ATOMIC_ACQUIRE));
}

void vmm_request(void *arg, enum board_request r, unsigned value)
{
	struct vmm *v = arg;
	uint32_t bit = BIT(r);

	/* The first value counts until it is taken; a late one loses only its number. */
	if (!(__atomic_load_n(&v->requests, __ATOMIC_ACQUIRE) & bit)) {
		if (r == BOARD_EXIT)
			__atomic_store_n(&v->exit_value, value, __ATOMIC_RELEASE);
		if (r == BOARD_IO_ERROR)
			__atomic_store_n(&v->io_value, value, __ATOMIC_RELEASE);
	}
	__atomic_fetch_or(&v->requests, bit, __ATOMIC_ACQ_REL);
	/* What the guest meant to be its last instruction is. */
	if (r == BOARD_RESET || r == BOARD_POWEROFF || r == BOARD_EXIT)
		vcpus_hold(&v->vcpus);
	loop_post(v->loop, &v->post);
}

void vmm_leave(struct vmm *v, const char *reason)
{
	__atomic_store_n(&v->leave, reason, __ATOMIC_RELEASE);
	loop_post(v->loop, &v->post);
}

void vmm_engine_failed(struct vmm *v, const struct err *why)
{
	lock(&v->fail_lock);
	if (!v->failed)
		v->fail = *why;
	v->failed = true;
	unlock(&v->fail_lock);
	vcpus_hold(&v->vcpus);
	loop_post(v->loop, &v->post);
}

void vmm_life_init(struct vmm *v)
{
	v->post.fn = vmm_handle;
	v->retry.fn = vmm_retry;
	lock_init(&v->fail_lock);
	lock_init(&v->vcpus.lock);
	cond_init(&v->vcpus.cond);
}
