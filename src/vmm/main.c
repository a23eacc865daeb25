/*
 * sampan-vmm: one VM, from a spec (docs/format/vm-spec.md) to its end.
 *
 * Exit status: 0 when the guest powered off or somebody asked the VM to end, the value of
 * isa-debug-exit, 1 when something failed; what failed is on stderr.
 */
#include "base/alloc.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/num.h"
#include "base/opt.h"
#include "base/os.h"
#include "base/str.h"
#include "base/trace.h"
#include "vmm/vmm.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

struct main_args {
	const char *spec;
	int spec_fd;
	/* --help or --version was given: there is nothing more to do. */
	bool done;
};

static const struct opt main_opts[];

static int main_spec_fd(void *ctx, const char *value, struct err *e)
{
	struct main_args *a = ctx;
	uint64_t fd;

	if (str_u64(value, &fd) < 0 || fd > INT32_MAX)
		return err_set(e, EINVAL, "'%s' is not a descriptor", value);
	a->spec_fd = (int)fd;
	return 0;
}

static int main_log(void *ctx, const char *value, struct err *e)
{
	return log_level_set(value, e);
}

static int main_help(void *ctx, const char *value, struct err *e)
{
	printf("Usage: sampan-vmm [OPTION...] SPEC\n"
	       "Run the virtual machine that SPEC, a JSON file (- for standard input), describes.\n"
	       "\n");
	opt_help(main_opts, stdout);
	((struct main_args *)ctx)->done = true;
	return 0;
}

static int main_version(void *ctx, const char *value, struct err *e)
{
	printf("sampan-vmm %s\n", SAMPAN_VERSION);
	((struct main_args *)ctx)->done = true;
	return 0;
}

static const struct opt main_opts[] = {
	{ "spec-fd", "N", "Read the spec from descriptor N instead of a file.", main_spec_fd },
	{ "log", "LEVEL", "error, warning, note (the default), info or debug.", main_log },
	{ "help", NULL, "Show this text.", main_help },
	{ "version", NULL, "Show the version.", main_version },
	{ NULL },
};

static int main_positional(void *ctx, const char *arg, struct err *e)
{
	struct main_args *a = ctx;

	if (a->spec)
		return err_set(e, EINVAL, "unexpected argument '%s': there is one spec", arg);
	a->spec = arg;
	return 0;
}

static int main_read_spec(struct vmm *v, const struct main_args *a, struct err *e)
{
	bool from_fd = a->spec_fd >= 0 || (a->spec && !strcmp(a->spec, "-"));
	const char *name = !from_fd ? a->spec : a->spec_fd > 0 ? "spec" : "standard input";
	AUTO_FREE void *text = NULL;
	size_t len;
	int rc;

	if (a->spec && a->spec_fd >= 0)
		return err_set(e, EINVAL, "give a spec or --spec-fd, not both");
	if (!a->spec && a->spec_fd < 0)
		return err_set(e, EINVAL,
			       "no spec given (see sampan-vmm --help, or use sampan run)");
	if (from_fd)
		rc = file_read_fd(MAX(a->spec_fd, 0), name, VM_SPEC_TEXT, &text, &len, e);
	else
		rc = file_read_all(name, VM_SPEC_TEXT, &text, &len, e);
	if (a->spec_fd > 2)
		close(a->spec_fd);
	if (rc < 0)
		return rc;
	return vm_spec_parse(&v->spec, text, len, e) < 0 ? err_in(e, "%s", name) : 0;
}

static void vmm_signal(struct loop_fd *f, unsigned events)
{
	struct vmm *v = container_of(f, struct vmm, signals);
	struct signalfd_siginfo info;

	if (read(v->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		vmm_end(v, false, "host-signal", 0);
}

/*
 * Signals that end the VM become events; one that was ignored when we were started (nohup) stays
 * so.  Last: until here they end the process, also while it waits for a kernel from a pipe.  All
 * other threads block them (thread_start()).
 */
static int vmm_signals_init(struct vmm *v, struct err *e)
{
	static const int ends[] = { SIGTERM, SIGINT, SIGHUP };
	struct sigaction now;
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < COUNT_OF(ends); i++)
		if (sigaction(ends[i], NULL, &now) < 0 || now.sa_handler != SIG_IGN)
			sigaddset(&set, ends[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	v->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (v->signal_fd < 0)
		return err_set(e, errno, "cannot make a signalfd: %s", strerror(errno));
	v->signals.fn = vmm_signal;
	int rc = loop_fd_add(v->loop, &v->signals, v->signal_fd, LOOP_IN);
	return rc < 0 ? err_set(e, -rc, "cannot watch signals: %s", strerror(-rc)) : 0;
}

static void vmm_quit_key(void *arg)
{
	vmm_leave(arg, "host-ui");
}

static int vmm_add_control(struct vmm *v, struct err *e)
{
	int rc = qmp_server_new(&v->control, v->loop, v->spec.control, vmm_cmds, v, e);

	return rc < 0 ? err_in(e, "control") : 0;
}

int vmm_init(struct vmm *v, struct err *e)
{
	const struct machine_opts mo = {
		.spec = &v->spec,
		.loop = v->loop,
		.request = vmm_request,
		.quit = vmm_quit_key,
		.arg = v,
	};
	int rc = machine_new(&v->machine, &mo, e);

	if (rc < 0)
		return rc;
	rc = machine_reset(v->machine, e);
	if (rc >= 0 && v->spec.control)
		rc = vmm_add_control(v, e);
	if (rc >= 0)
		rc = vcpus_start(v, e);
	return rc;
}

void vmm_run(struct vmm *v)
{
	if (!v->spec.paused)
		vmm_set_state(v, VMM_RUNNING);
	loop_run(v->loop);
}

void vmm_fini(struct vmm *v)
{
	char stats[2048] = "";

	vcpus_stop(&v->vcpus);
	if (v->machine && v->machine->vm)
		accel_stats(v->machine->vm, stats, sizeof(stats));
	if (*stats)
		log_info("engine %s: %s", v->machine->accel->name, stats);
	qmp_server_free(v->control);
	machine_free(v->machine);
	if (v->loop) {
		loop_fd_del(&v->signals);
		loop_post_cancel(v->loop, &v->post);
		loop_timer_cancel(&v->retry);
	}
	close_fd(&v->signal_fd);
	loop_free(v->loop);
	vm_spec_fini(&v->spec);
}

static int main_run(struct vmm *v, const struct main_args *a, struct err *e)
{
	int rc = main_read_spec(v, a, e);

	if (rc >= 0)
		rc = loop_new(&v->loop, LOOP_AUTO, e);
	if (rc >= 0)
		rc = vmm_init(v, e);
	if (rc >= 0)
		rc = vmm_signals_init(v, e);
	if (rc >= 0)
		vmm_run(v);
	return rc;
}

int main(int argc, char **argv)
{
	struct main_args a = { .spec_fd = -1 };
	struct vmm *v = NEW(struct vmm);
	struct err e = { 0 };

	log_program = "sampan-vmm";
	os_std_fds();
	/* A write beyond the limit on file sizes is an error, not the end. */
	signal(SIGXFSZ, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	trace_init();
	if (!v)
		return 1;
	v->signal_fd = -1;
	vmm_life_init(v);
	int rc = opt_parse(main_opts, argc - 1, argv + 1, &a, main_positional, &e);
	if (rc >= 0 && !a.done)
		rc = main_run(v, &a, &e);
	if (rc < 0)
		log_error("%s", e.msg);
	int status = rc < 0 ? 1 : v->status;
	vmm_fini(v);
	free(v);
	return status;
}
