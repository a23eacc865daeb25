/*
 * The commands of the control socket, with QEMU's names, arguments and results
 * (docs/format/qmp.md).
 */
#include "block/blk.h"
#include "chr/chr.h"
#include "vmm/vmm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static struct vmm *cmd_vmm(struct qmp_call *c)
{
	return c->ctx;
}

static int cmd_query_status(struct qmp_call *c, struct err *e)
{
	const struct vmm *v = cmd_vmm(c);

	json_out_obj(&c->ret, NULL);
	json_out_str(&c->ret, "status", vmm_state_name(v->state));
	json_out_bool(&c->ret, "singlestep", false);
	json_out_bool(&c->ret, "running", v->state == VMM_RUNNING);
	json_out_end(&c->ret);
	return 0;
}

static int cmd_query_cpus_fast(struct qmp_call *c, struct err *e)
{
	struct vmm *v = cmd_vmm(c);

	json_out_list(&c->ret, NULL);
	for (unsigned i = 0; i < v->vcpus.n; i++) {
		struct vcpu *cpu = &v->vcpus.cpu[i];
		char path[40];

		snprintf(path, sizeof(path), "/machine/cpu/%u", i);
		json_out_obj(&c->ret, NULL);
		json_out_u64(&c->ret, "cpu-index", i);
		json_out_str(&c->ret, "qom-path", path);
		json_out_i64(&c->ret, "thread-id", __atomic_load_n(&cpu->tid, __ATOMIC_ACQUIRE));
		json_out_str(&c->ret, "target", "x86_64");
		json_out_obj(&c->ret, "props");
		json_out_u64(&c->ret, "socket-id", 0);
		json_out_u64(&c->ret, "core-id", i);
		json_out_u64(&c->ret, "thread-id", 0);
		json_out_end(&c->ret);
		json_out_end(&c->ret);
	}
	json_out_end(&c->ret);
	return 0;
}

static void cmd_put_image(struct json_out *o, const struct vm_disk *d, const struct blk *b)
{
	json_out_obj(o, "image");
	json_out_str(o, "filename", d->path);
	json_out_str(o, "format", b->drv->name);
	json_out_u64(o, "virtual-size", b->info.size_bytes);
	json_out_end(o);
}

static void cmd_put_inserted(struct json_out *o, const struct vm_disk *d, const struct blk *b,
			     const char *name)
{
	static const char *const zero[] = {
		"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"
	};

	json_out_obj(o, "inserted");
	json_out_str(o, "file", d->path);
	json_out_str(o, "node-name", name);
	json_out_bool(o, "ro", b->info.readonly);
	json_out_str(o, "drv", b->drv->name);
	json_out_u64(o, "backing_file_depth", 0);
	json_out_bool(o, "encrypted", false);
	json_out_str(o, "detect_zeroes", "off");
	json_out_u64(o, "write_threshold", 0);
	for (unsigned i = 0; i < COUNT_OF(zero); i++)
		json_out_u64(o, zero[i], 0);
	json_out_obj(o, "cache");
	json_out_bool(o, "writeback", true);
	json_out_bool(o, "direct", d->cache == VM_CACHE_NONE);
	json_out_bool(o, "no-flush", false);
	json_out_end(o);
	cmd_put_image(o, d, b);
	json_out_end(o);
}

static int cmd_query_block(struct qmp_call *c, struct err *e)
{
	struct vmm *v = cmd_vmm(c);

	json_out_list(&c->ret, NULL);
	for (unsigned i = 0; i < v->spec.ndisk; i++) {
		const struct machine_disk *d = &v->machine->disk[i];

		json_out_obj(&c->ret, NULL);
		json_out_str(&c->ret, "device", d->name);
		json_out_str(&c->ret, "qdev", d->name);
		json_out_str(&c->ret, "type", "unknown");
		json_out_bool(&c->ret, "removable", false);
		json_out_bool(&c->ret, "locked", false);
		json_out_str(&c->ret, "io-status",
			     !d->failed   ? "ok"
			     : d->nospace ? "nospace"
					  : "failed");
		cmd_put_inserted(&c->ret, &v->spec.disk[i], d->blk, d->name);
		json_out_end(&c->ret);
	}
	json_out_end(&c->ret);
	return 0;
}

static void cmd_put_line(struct json_out *o, const struct machine_line *l)
{
	json_out_obj(o, NULL);
	json_out_str(o, "label", l->name);
	json_out_str(o, "filename", l->chr ? l->chr->where : "null");
	json_out_bool(o, "frontend-open", true);
	json_out_end(o);
}

static int cmd_query_chardev(struct qmp_call *c, struct err *e)
{
	struct vmm *v = cmd_vmm(c);

	json_out_list(&c->ret, NULL);
	for (unsigned i = 0; i < v->spec.nserial; i++)
		cmd_put_line(&c->ret, &v->machine->serial[i]);
	if (v->spec.nconsole)
		cmd_put_line(&c->ret, &v->machine->console);
	json_out_end(&c->ret);
	return 0;
}

static int cmd_query_name(struct qmp_call *c, struct err *e)
{
	json_out_obj(&c->ret, NULL);
	if (cmd_vmm(c)->spec.name)
		json_out_str(&c->ret, "name", cmd_vmm(c)->spec.name);
	json_out_end(&c->ret);
	return 0;
}

static int cmd_query_uuid(struct qmp_call *c, struct err *e)
{
	const char *uuid = cmd_vmm(c)->spec.uuid;

	json_out_obj(&c->ret, NULL);
	json_out_str(&c->ret, "UUID", uuid ? uuid : "00000000-0000-0000-0000-000000000000");
	json_out_end(&c->ret);
	return 0;
}

static int cmd_query_kvm(struct qmp_call *c, struct err *e)
{
	bool kvm = !strcmp(cmd_vmm(c)->machine->accel->name, "kvm");
	struct err no;

	json_out_obj(&c->ret, NULL);
	json_out_bool(&c->ret, "enabled", kvm);
	for (unsigned i = 0; accel_drivers[i]; i++)
		if (!strcmp(accel_drivers[i]->name, "kvm"))
			json_out_bool(&c->ret, "present",
				      kvm || !accel_drivers[i]->probe ||
					      accel_drivers[i]->probe(&no) >= 0);
	json_out_end(&c->ret);
	return 0;
}

static int cmd_stop(struct qmp_call *c, struct err *e)
{
	struct vmm *v = cmd_vmm(c);

	if (v->state == VMM_RUNNING)
		vmm_set_state(v, VMM_PAUSED);
	return 0;
}

static int cmd_cont(struct qmp_call *c, struct err *e)
{
	struct vmm *v = cmd_vmm(c);
	int rc = vmm_cont(v, e);

	for (unsigned i = 0; rc >= 0 && i < v->spec.ndisk; i++)
		v->machine->disk[i].failed = false;
	return rc;
}

static int cmd_system_reset(struct qmp_call *c, struct err *e)
{
	vmm_reset(cmd_vmm(c), false, "host-qmp-system-reset");
	return 0;
}

static int cmd_system_powerdown(struct qmp_call *c, struct err *e)
{
	struct vmm *v = cmd_vmm(c);

	machine_power_button(v->machine);
	qmp_server_event(v->control, "POWERDOWN", NULL, NULL);
	return 0;
}

/* The answer goes out first, then SHUTDOWN. */
static int cmd_quit(struct qmp_call *c, struct err *e)
{
	vmm_leave(cmd_vmm(c), "host-qmp-quit");
	return 0;
}

static const struct qmp_cmd cmds[] = {
	{ "query-status", NULL, cmd_query_status },
	{ "query-cpus-fast", NULL, cmd_query_cpus_fast },
	{ "query-block", NULL, cmd_query_block },
	{ "query-chardev", NULL, cmd_query_chardev },
	{ "query-name", NULL, cmd_query_name },
	{ "query-uuid", NULL, cmd_query_uuid },
	{ "query-kvm", NULL, cmd_query_kvm },
	{ "stop", NULL, cmd_stop },
	{ "cont", NULL, cmd_cont },
	{ "system_reset", NULL, cmd_system_reset },
	{ "system_powerdown", NULL, cmd_system_powerdown },
	{ "quit", NULL, cmd_quit },
	{ NULL },
};

const struct qmp_cmd *const vmm_cmds[] = { qmp_own_cmds, cmds, NULL };
