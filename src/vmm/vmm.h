/*
 * One VM and its process.
 *
 * Threads: the main thread owns everything here and runs the loop; vCPU threads own their vCPU
 * while they run; I/O threads belong to the machine.  What the guest asks for (reset, power off,
 * ...) arrives on any thread in vmm_request(), stops the vCPUs where they are, and is carried out
 * by the main thread.
 */
#pragma once

#include "base/thread.h"
#include "machine/machine.h"
#include "qmp/qmp.h"

struct vmm;

/* Names as QMP has them: vmm_state_name(). */
enum vmm_state {
	/* Never ran. */
	VMM_PRELAUNCH,
	VMM_RUNNING,
	VMM_PAUSED,
	/* A disk error paused it. */
	VMM_IO_ERROR,
	/* The engine gave up. */
	VMM_INTERNAL_ERROR,
	/* It ends. */
	VMM_SHUTDOWN,
};

struct vcpu {
	struct vmm *vmm;
	unsigned index;
	struct thread thread;
	/* Kernel's id of the thread. */
	int tid;
};

/* The vCPU threads together. */
struct vcpus {
	/* Guards run, quit, nin; their changes wake cond. */
	struct lock lock;
	struct cond cond;
	/* vCPUs may be inside accel_run(). */
	bool run;
	bool quit;
	unsigned nin;
	unsigned n;
	struct vcpu cpu[VM_SPEC_CPUS];
};

struct vmm {
	struct vm_spec spec;
	struct loop *loop;
	struct machine *machine;
	struct vcpus vcpus;
	struct qmp_server *control;
	enum vmm_state state;
	/* Exit status of the process. */
	int status;

	/* Bits 1 << enum board_request; set by any thread, taken by the main thread.  Atomic. */
	uint32_t requests;
	/* Value of the first BOARD_EXIT and BOARD_IO_ERROR that are pending.  Atomic. */
	uint32_t exit_value, io_value;
	/* `quit`, Ctrl-a x: why to end, a string constant.  Atomic. */
	const char *leave;
	struct loop_post post;

	/* A vCPU that could not go on says why.  Guarded by fail_lock. */
	struct lock fail_lock;
	bool failed;
	struct err fail;

	/* A disk error without a control socket, and when the last one was; 0: never. */
	struct loop_timer retry;
	uint64_t io_failed_ns;

	struct loop_fd signals;
	int signal_fd;
};

/* Builds the machine and resets it; on failure *v can be finished still. */
NODISCARD int vmm_init(struct vmm *v, struct err *e);
/* Runs the VM until it ends. */
void vmm_run(struct vmm *v);
void vmm_fini(struct vmm *v);

/* life.c */

const char *vmm_state_name(enum vmm_state s);
/* The one way into and out of running.  Emits STOP and RESUME. */
void vmm_set_state(struct vmm *v, enum vmm_state to);
/* -EINVAL with a reason when it cannot run now. */
NODISCARD int vmm_cont(struct vmm *v, struct err *e);
/* The reset button: the VM goes on afterwards when it ran. */
void vmm_reset(struct vmm *v, bool guest, const char *reason);
/* The end: SHUTDOWN with this reason; vmm_run() returns soon. */
void vmm_end(struct vmm *v, bool guest, const char *reason, int status);
/* Any thread: end as soon as the main thread looks.  reason is a constant. */
void vmm_leave(struct vmm *v, const char *reason);
/* machine_opts.request, arg is a struct vmm. */
void vmm_request(void *arg, enum board_request r, unsigned value);
/* A vCPU thread: the engine gave up. */
void vmm_engine_failed(struct vmm *v, const struct err *why);
void vmm_life_init(struct vmm *v);

/* vcpu.c */

NODISCARD int vcpus_start(struct vmm *v, struct err *e);
/* Returns when no vCPU is inside the engine. */
void vcpus_pause(struct vcpus *g);
/* Any thread, does not wait: vCPUs come out and stay out until vcpus_resume(). */
void vcpus_hold(struct vcpus *g);
void vcpus_resume(struct vcpus *g);
/* Ends the threads; fine when they were never started. */
void vcpus_stop(struct vcpus *g);

/* cmd.c */

extern const struct qmp_cmd *const vmm_cmds[];
