/*
 * sampan run: options to a spec, and exec of sampan-vmm, which takes this process's place.  The
 * spec travels in a sealed memfd.
 */
#include "base/alloc.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/near.h"
#include "base/num.h"
#include "base/opt.h"
#include "base/str.h"
#include "ctl/ctl.h"
#include "spec/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct run {
	struct vm_spec spec;
	/* The option was given: its default does not apply. */
	bool net, serial;
	bool print, help;
	const char *log;
};

static int run_set(struct run *r, const char *field, const char *value, struct err *e)
{
	return spec_set_text(spec_find(&vm_spec_struct, field), &r->spec, value, e);
}

/* One string of the boot object; an empty one is as none. */
static int run_boot(char **to, const char *value, struct err *e)
{
	free(*to);
	*to = *value ? xstrdup(value) : NULL;
	return *value && !*to ? err_set(e, ENOMEM, "no memory") : 0;
}

#define RUN_FIELD(fn, field)                                         \
	static int fn(void *ctx, const char *value, struct err *e)   \
	{                                                            \
		return run_set(ctx, field, value ? value : "on", e); \
	}
RUN_FIELD(run_name, "name")
RUN_FIELD(run_uuid, "uuid")
RUN_FIELD(run_cpus, "cpus")
RUN_FIELD(run_memory, "memory")
RUN_FIELD(run_cpu, "cpu")
RUN_FIELD(run_control, "control")
RUN_FIELD(run_no_reboot, "no_reboot")
RUN_FIELD(run_paused, "paused")
RUN_FIELD(run_split, "split_irqchip")
RUN_FIELD(run_rng, "rng")
#undef RUN_FIELD

static int run_kernel(void *ctx, const char *value, struct err *e)
{
	return run_boot(&((struct run *)ctx)->spec.boot.kernel, value, e);
}

static int run_initrd(void *ctx, const char *value, struct err *e)
{
	return run_boot(&((struct run *)ctx)->spec.boot.initrd, value, e);
}

static int run_append(void *ctx, const char *value, struct err *e)
{
	return run_boot(&((struct run *)ctx)->spec.boot.append, value, e);
}

static int run_debug_exit(void *ctx, const char *value, struct err *e)
{
	struct run *r = ctx;

	if (value)
		return run_set(r, "debug_exit", value, e);
	r->spec.debug_exit = VM_SPEC_DEBUG_EXIT;
	return 0;
}

/* NAME[,ENGINE-OPTION=VALUE...] */
static int run_accel(void *ctx, const char *value, struct err *e)
{
	struct run *r = ctx;
	const char *comma = strchr(value, ',');
	AUTO_FREE char *name = comma ? strndup(value, (size_t)(comma - value)) : xstrdup(value);

	if (!name)
		return err_set(e, ENOMEM, "no memory");
	int rc = run_set(r, "accel", name, e);
	if (rc >= 0 && comma)
		rc = run_set(r, "accel_options", comma + 1, e);
	return rc;
}

static const char *run_field_nth(const void *arg, unsigned i)
{
	return ((const struct spec_struct *)arg)->field[i].name;
}

/* key=value of an option into the field of that name. */
static int run_subopt(const struct spec_struct *s, void *obj, const struct subopt *o, struct err *e)
{
	const struct spec_field *f = spec_find(s, o->key);
	const char *near = f ? NULL : near_find(o->key, run_field_nth, s);

	if (near)
		return err_set(e, EINVAL, "there is no '%.40s='; did you mean '%s='?", o->key,
			       near);
	if (!*o->key)
		return err_set(e, EINVAL,
			       "nothing between two commas or after the last (a comma "
			       "in a name is written twice)");
	if (!f || f->kind == SPEC_LIST || f->kind == SPEC_OBJ)
		return err_set(e, EINVAL, "there is no '%.40s='", o->key);
	if (!o->value && f->kind != SPEC_BOOL)
		return err_set(e, EINVAL, "'%s' needs a value: %s=...", o->key, o->key);
	if (spec_set_text(f, obj, o->value ? o->value : "on", e) < 0)
		return err_in(e, "%s", o->key);
	return 0;
}

static int run_disk_text(struct vm_disk *d, const struct subopts *s, struct err *e)
{
	int rc = spec_set_text(spec_find(&vm_disk_struct, "path"), d, s->o[0].value, e);

	for (unsigned i = 1; i < s->n && rc >= 0; i++)
		rc = run_subopt(&vm_disk_struct, d, &s->o[i], e);
	return rc;
}

static int run_disk(void *ctx, const char *value, struct err *e)
{
	struct run *r = ctx;
	struct subopts s;
	int rc = subopts_parse(&s, value, true, e);

	if (rc < 0)
		return rc;
	struct vm_disk *d = vm_spec_add_disk(&r->spec);
	rc = d ? run_disk_text(d, &s, e) : err_set(e, EINVAL, "more than %d disks", VM_SPEC_DISKS);
	subopts_fini(&s);
	return rc;
}

/* DISK as an argument is a file's name, whatever is in it. */
static int run_positional(void *ctx, const char *value, struct err *e)
{
	struct run *r = ctx;
	struct vm_disk *d = vm_spec_add_disk(&r->spec);

	if (!d)
		return err_set(e, EINVAL, "more than %d disks", VM_SPEC_DISKS);
	return spec_set_text(spec_find(&vm_disk_struct, "path"), d, value, e);
}

static int run_bad_fwd(struct err *e)
{
	return err_set(e, EINVAL,
		       "hostfwd: want tcp:HOSTADDR:PORT-GUESTADDR:PORT, such as "
		       "tcp:127.0.0.1:2222-:22");
}

/* "ADDR:PORT" or ":PORT" to the end of text. */
static int run_addr_port(char *text, char **ret_addr, uint64_t *ret_port, struct err *e)
{
	char *colon = strrchr(text, ':');

	if (!colon || str_u64(colon + 1, ret_port) < 0)
		return run_bad_fwd(e);
	*colon = 0;
	*ret_addr = *text ? xstrdup(text) : NULL;
	return *text && !*ret_addr ? err_set(e, ENOMEM, "no memory") : 0;
}

/* tcp:[HOSTADDR]:PORT-[GUESTADDR]:PORT */
static int run_fwd(struct vm_net *n, const char *value, struct err *e)
{
	AUTO_FREE char *text = xstrdup(value);
	struct vm_fwd *f = vm_net_add_fwd(n);

	if (!text || !f)
		return err_set(e, EINVAL, "more than %d forwards", VM_SPEC_FWDS);
	char *rest = strchr(text, ':'), *dash = strchr(text, '-');
	if (!rest || !dash || dash < rest)
		return run_bad_fwd(e);
	*rest++ = 0;
	*dash++ = 0;
	if (spec_set_text(spec_find(&vm_fwd_struct, "proto"), f, *text ? text : "tcp", e) < 0)
		return err_in(e, "hostfwd");
	int rc = run_addr_port(rest, &f->host_addr, &f->host_port, e);
	return rc < 0 ? rc : run_addr_port(dash, &f->guest_addr, &f->guest_port, e);
}

static int run_net_text(struct run *r, struct vm_net *n, const struct subopts *s, struct err *e)
{
	const char *type = s->o[0].value;
	int rc = 0;

	if (!type)
		return err_set(e, EINVAL, "say user, tap:IFNAME or none first");
	if (!strcmp(type, "none"))
		return err_set(e, EINVAL, "'none' takes no options");
	if (str_starts(type, "tap:")) {
		n->type = VM_NET_TAP;
		rc = spec_set_text(spec_find(&vm_net_struct, "ifname"), n, type + 4, e);
	} else if (strcmp(type, "user") != 0) {
		return err_set(e, EINVAL, "'%.40s' is not one of user, tap:IFNAME, none", type);
	}
	for (unsigned i = 1; i < s->n && rc >= 0; i++) {
		if (!strcmp(s->o[i].key, "hostfwd"))
			rc = run_fwd(n, s->o[i].value ? s->o[i].value : "", e);
		else
			rc = run_subopt(&vm_net_struct, n, &s->o[i], e);
	}
	return rc;
}

static int run_net(void *ctx, const char *value, struct err *e)
{
	struct run *r = ctx;
	struct subopts s;

	r->net = true;
	if (!strcmp(value, "none"))
		return 0;
	int rc = subopts_parse(&s, value, true, e);
	if (rc < 0)
		return rc;
	struct vm_net *n = vm_spec_add_net(&r->spec);
	rc = n ? run_net_text(r, n, &s, e) : err_set(e, EINVAL, "more than %d nets", VM_SPEC_NETS);
	subopts_fini(&s);
	return rc;
}

/* TYPE or TYPE:PATH */
static int run_chr(struct vm_chr *c, const char *value, struct err *e)
{
	const char *colon = strchr(value, ':');
	AUTO_FREE char *type = colon ? strndup(value, (size_t)(colon - value)) : xstrdup(value);

	if (!type)
		return err_set(e, ENOMEM, "no memory");
	if (spec_set_text(spec_find(&vm_chr_struct, "type"), c, type, e) < 0)
		return -e->code;
	return colon ? spec_set_text(spec_find(&vm_chr_struct, "path"), c, colon + 1, e) : 0;
}

static int run_serial(void *ctx, const char *value, struct err *e)
{
	struct run *r = ctx;
	struct vm_chr *c = vm_spec_add_serial(&r->spec);

	r->serial = true;
	return c ? run_chr(c, value, e)
		 : err_set(e, EINVAL, "more than %d serial lines", VM_SPEC_SERIALS);
}

static int run_console(void *ctx, const char *value, struct err *e)
{
	struct vm_chr *c = vm_spec_add_console(&((struct run *)ctx)->spec);

	return c ? run_chr(c, value, e) : err_set(e, EINVAL, "there is only one console");
}

static int run_log(void *ctx, const char *value, struct err *e)
{
	((struct run *)ctx)->log = value;
	return log_level_set(value, e);
}

static int run_print(void *ctx, const char *value, struct err *e)
{
	((struct run *)ctx)->print = true;
	return 0;
}

static int run_help(void *ctx, const char *value, struct err *e)
{
	((struct run *)ctx)->help = true;
	return 0;
}

/* clang-format off */
static const struct opt run_opts[] = {
	{ "name", "NAME", "Name of the VM.", run_name },
	{ "uuid", "UUID", "UUID of the VM.", run_uuid },
	{ "cpus", "N", "Number of vCPUs. [1]", run_cpus },
	{ "memory", "SIZE", "RAM: 512M, 4G ... [1G]", run_memory },
	{ "accel", "auto|kvm|soft[,OPTION=VALUE...]",
	  "Engine: /dev/kvm, our own software CPU, or the faster of the two. [auto]", run_accel },
	{ "cpu", "MODEL", "CPU model; host is all that the engine offers. [host]", run_cpu },
	{ "kernel", "FILE", "Linux bzImage or ELF kernel to boot.", run_kernel },
	{ "initrd", "FILE", "Initial RAM disk for the kernel.", run_initrd },
	{ "append", "STRING", "Command line for the kernel.", run_append },
	{ "disk", "FILE[,format=raw][,readonly=on][,cache=none|writeback][,serial=S]"
	  "[,on_error=enospc|report|stop][,queues=N]",
	  "A disk, may be given more than once; a comma in a name is written twice.\n"
	  "An argument without dashes is a disk too.", run_disk },
	{ "net", "user[,hostfwd=tcp:127.0.0.1:2222-:22]|tap:IFNAME[,mac=MAC]|none",
	  "A network card: NAT without privileges, or a tap device. [user]", run_net },
	{ "serial", "stdio|pty|unix:PATH|file:PATH|none",
	  "A serial line: this terminal (Ctrl-a x leaves), a pseudo-terminal, a socket to\n"
	  "listen on, a file, nothing. May be given up to four times. [stdio]", run_serial },
	{ "console", "stdio|pty|unix:PATH|file:PATH|none", "A virtio console (hvc0).", run_console },
	{ "control", "PATH", "Socket of the control server, which speaks QMP.", run_control },
	{ "rng", "on|off", "A virtio entropy device. [on]", run_rng },
	{ "no-reboot", NULL, "A reboot of the guest ends the VM.", run_no_reboot },
	{ "paused", NULL, "Wait for cont on the control socket before the first instruction.",
	  run_paused },
	{ "debug-exit", "[PORT]", "isa-debug-exit at PORT [0xf4]: a guest's write of v there ends\n"
	  "the VM with exit status (v << 1) | 1.", run_debug_exit },
	{ "split-irqchip", NULL, "kvm: interrupt controllers in user space.", run_split },
	{ "log", "LEVEL", "error, warning, note, info or debug. [note]", run_log },
	{ "print-spec", NULL, "Print the spec that the options stand for, and do not run it.",
	  run_print },
	{ "help", NULL, "Show this text.", run_help },
	{ NULL },
};
/* clang-format on */

/* What is there when nothing else was asked for. */
static int run_defaults(struct run *r, struct err *e)
{
	if (!r->net && !vm_spec_add_net(&r->spec))
		return err_set(e, ENOMEM, "no memory");
	bool taken = r->spec.nconsole && r->spec.console[0].type == VM_CHR_STDIO;
	if (!r->serial && !taken && !vm_spec_add_serial(&r->spec))
		return err_set(e, ENOMEM, "no memory");
	return 0;
}

/* Where sampan-vmm may be: beside us, where it is installed relative to us, where it was built for.
 */
static int run_find_vmm(char *ret, size_t size, struct err *e)
{
	static const char *const places[] = { "/sampan-vmm", "/../libexec/sampan/sampan-vmm" };
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	self[MAX(n, (ssize_t)0)] = 0;
	slash = strrchr(self, '/');
	for (unsigned i = 0; slash && i < COUNT_OF(places); i++) {
		snprintf(ret, size, "%.*s%s", (int)(slash - self), self, places[i]);
		if (access(ret, X_OK) == 0)
			return 0;
	}
	str_copy(ret, size, SAMPAN_LIBEXEC "/sampan-vmm");
	if (access(ret, X_OK) == 0)
		return 0;
	return err_set(e, ENOENT, "cannot find sampan-vmm: neither beside this program nor in %s",
		       SAMPAN_LIBEXEC);
}

static int run_spec_fd(const char *text, struct err *e)
{
	AUTO_CLOSE int fd = memfd_create("sampan-spec", MFD_ALLOW_SEALING);
	int rc = fd < 0 ? -errno : file_write_full(fd, text, strlen(text));

	if (rc >= 0 &&
	    (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0 ||
	     lseek(fd, 0, SEEK_SET) < 0))
		rc = -errno;
	if (rc < 0)
		return err_set(e, -rc, "cannot hand over the spec: %s", strerror(-rc));
	return take_fd(&fd);
}

static int run_exec(const struct run *r, const char *text, struct err *e)
{
	char vmm[PATH_MAX + 64], name[] = "sampan-vmm", opt_fd[] = "--spec-fd", fd_text[16];
	char opt_log[] = "--log";
	AUTO_FREE char *log = xstrdup(r->log ? r->log : "note");
	char *const argv[] = { name, opt_fd, fd_text, opt_log, log, NULL };
	int rc = run_find_vmm(vmm, sizeof(vmm), e);

	if (rc < 0)
		return rc;
	int fd = run_spec_fd(text, e);
	if (fd < 0)
		return fd;
	snprintf(fd_text, sizeof(fd_text), "%d", fd);
	execv(vmm, argv);
	return err_set(e, errno, "cannot start '%.100s': %s", vmm, strerror(errno));
}

static int run_checked(struct run *r, struct err *e)
{
	int rc = run_defaults(r, e);

	if (rc >= 0)
		rc = vm_spec_check(&r->spec, e);
	if (rc < 0)
		return rc;
	AUTO_FREE char *text = vm_spec_text(&r->spec, r->print);
	if (!text)
		return err_set(e, ENOMEM, "no memory");
	if (r->print) {
		puts(text);
		return 0;
	}
	if (!r->spec.boot.kernel)
		return err_set(e, EINVAL,
			       "nothing to boot: give --kernel FILE (booting a disk by firmware is "
			       "not part of this version)");
	return run_exec(r, text, e);
}

static int run_main(int argc, char *const *argv, struct err *e)
{
	struct run r = { 0 };

	vm_spec_init(&r.spec);
	int rc = opt_parse(run_opts, argc, argv, &r, run_positional, e);
	if (rc >= 0 && r.help)
		ctl_cmd_help(&ctl_run);
	else if (rc >= 0)
		rc = run_checked(&r, e);
	vm_spec_fini(&r.spec);
	return rc;
}

const struct ctl_cmd ctl_run = {
	.name = "run",
	.help = "Run a virtual machine in the foreground; exit status 0 when it powers off.",
	.opts = run_opts,
	.usage = "[OPTION...] [DISK...]",
	.fn = run_main,
};
