#include "spec/vm.h"

#include "base/num.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	/* PATH_MAX less its NUL; and of a socket's name (unix(7)). */
	VM_PATH = 4095,
	VM_SOCKET = 107,
	VM_NAME = 64,
	VM_APPEND = 65535,
	/* virtio-blk's GET_ID (virtio 1.2, 5.2.6). */
	VM_SERIAL = 20,
	/* IFNAMSIZ less its NUL. */
	VM_IFNAME = 15,
};

static int vm_check_name(const void *value, struct err *e)
{
	const char *s = value;

	for (const char *p = s; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f || *p == '/')
			return err_set(e, EINVAL, "has a '/' or a control character");
	return 0;
}

static int vm_check_uuid(const void *value, struct err *e)
{
	const char *s = value;
	bool ok = strlen(s) == 36;

	for (unsigned i = 0; ok && i < 36; i++)
		ok = i == 8 || i == 13 || i == 18 || i == 23 ? s[i] == '-'
							     : isxdigit((unsigned char)s[i]) != 0;
	return ok ? 0 : err_set(e, EINVAL, "'%.40s' is not a UUID", s);
}

static int vm_check_memory(const void *value, struct err *e)
{
	if (*(const uint64_t *)value % MIB(1))
		return err_set(e, EINVAL, "is not a whole number of MiB");
	return 0;
}

static int vm_check_serial(const void *value, struct err *e)
{
	for (const char *s = value; *s; s++)
		if (*s < 0x21 || *s > 0x7e)
			return err_set(e, EINVAL, "may have printable ASCII characters only");
	return 0;
}

static int vm_check_socket(const void *value, struct err *e)
{
	if (strlen(value) > VM_SOCKET)
		return err_set(e, EINVAL, "is longer than a socket's name can be (%d bytes)",
			       VM_SOCKET);
	return 0;
}

static int vm_check_addr(const void *value, struct err *e)
{
	struct in_addr a;

	if (inet_pton(AF_INET, value, &a) != 1)
		return err_set(e, EINVAL, "'%.40s' is not an IPv4 address", (const char *)value);
	return 0;
}

int vm_mac_parse(const char *text, uint8_t mac[6])
{
	if (strlen(text) != 17)
		return -EINVAL;
	for (unsigned i = 0; i < 6; i++, text += 3) {
		if (!isxdigit((unsigned char)text[0]) || !isxdigit((unsigned char)text[1]) ||
		    text[2] != (i < 5 ? ':' : 0))
			return -EINVAL;
		mac[i] = (uint8_t)strtoul(text, NULL, 16);
	}
	return 0;
}

static int vm_check_mac(const void *value, struct err *e)
{
	uint8_t mac[6];

	if (vm_mac_parse(value, mac) < 0)
		return err_set(e, EINVAL, "'%.40s' is not a MAC address such as 52:54:00:12:34:56",
			       (const char *)value);
	if (mac[0] & 1)
		return err_set(e, EINVAL, "'%s' is a multicast address", (const char *)value);
	return 0;
}

/* clang-format off */
static const char *const vm_format_words[] = { "raw", NULL };
static const char *const vm_cache_words[] = { "writeback", "none", NULL };
static const char *const vm_on_error_words[] = { "enospc", "report", "stop", NULL };
static const char *const vm_net_words[] = { "user", "tap", NULL };
static const char *const vm_proto_words[] = { "tcp", "udp", NULL };
static const char *const vm_chr_words[] = { "stdio", "pty", "unix", "file", "none", NULL };
static const char *const vm_machine_words[] = { "pc", NULL };
static const char *const vm_accel_words[] = { "auto", "kvm", "soft", NULL };

#define F(type, m, kind_) .kind = (kind_), .offset = offsetof(struct type, m)

static const struct spec_field vm_disk_fields[] = {
	{ "path", F(vm_disk, path, SPEC_STR), .max = VM_PATH, .required = true },
	{ "format", F(vm_disk, format, SPEC_ENUM), .words = vm_format_words },
	{ "readonly", F(vm_disk, readonly, SPEC_BOOL) },
	{ "cache", F(vm_disk, cache, SPEC_ENUM), .words = vm_cache_words },
	{ "serial", F(vm_disk, serial, SPEC_STR), .max = VM_SERIAL, .check = vm_check_serial },
	{ "on_error", F(vm_disk, on_error, SPEC_ENUM), .words = vm_on_error_words },
	{ "queues", F(vm_disk, queues, SPEC_U64), .max = 32 },
	{ NULL },
};
const struct spec_struct vm_disk_struct = { sizeof(struct vm_disk), vm_disk_fields, NULL };

static const struct spec_field vm_fwd_fields[] = {
	{ "proto", F(vm_fwd, proto, SPEC_ENUM), .words = vm_proto_words },
	{ "host_addr", F(vm_fwd, host_addr, SPEC_STR), .max = 15, .check = vm_check_addr },
	{ "host_port", F(vm_fwd, host_port, SPEC_U64), .min = 1, .max = 65535 },
	{ "guest_addr", F(vm_fwd, guest_addr, SPEC_STR), .max = 15, .check = vm_check_addr },
	{ "guest_port", F(vm_fwd, guest_port, SPEC_U64), .min = 1, .max = 65535 },
	{ NULL },
};
const struct spec_struct vm_fwd_struct = { sizeof(struct vm_fwd), vm_fwd_fields, NULL };

static const struct spec_field vm_net_fields[] = {
	{ "type", F(vm_net, type, SPEC_ENUM), .words = vm_net_words },
	{ "ifname", F(vm_net, ifname, SPEC_STR), .max = VM_IFNAME },
	{ "mac", F(vm_net, mac, SPEC_STR), .max = 17, .check = vm_check_mac },
	{ "hostfwd", F(vm_net, fwd, SPEC_LIST), .max = VM_SPEC_FWDS, .of = &vm_fwd_struct,
	  .count_offset = offsetof(struct vm_net, nfwd) },
	{ NULL },
};

static int vm_check_net(const void *obj, struct err *e)
{
	const struct vm_net *n = obj;

	if (n->type == VM_NET_TAP && !n->ifname)
		return err_set(e, EINVAL, "ifname: is missing (type tap needs it)");
	if (n->type != VM_NET_TAP && n->ifname)
		return err_set(e, EINVAL, "ifname: only type tap has one");
	if (n->type != VM_NET_USER && n->nfwd)
		return err_set(e, EINVAL, "hostfwd: only type user has forwards");
	return 0;
}

const struct spec_struct vm_net_struct = { sizeof(struct vm_net), vm_net_fields, vm_check_net };

static const struct spec_field vm_chr_fields[] = {
	{ "type", F(vm_chr, type, SPEC_ENUM), .words = vm_chr_words },
	{ "path", F(vm_chr, path, SPEC_STR), .max = VM_PATH },
	{ NULL },
};

static int vm_check_chr(const void *obj, struct err *e)
{
	const struct vm_chr *c = obj;
	bool wants = c->type == VM_CHR_UNIX || c->type == VM_CHR_FILE;
	struct err why;

	if (wants && !c->path)
		return err_set(e, EINVAL, "path: is missing (type %s needs it)", vm_chr_words[c->type]);
	if (!wants && c->path)
		return err_set(e, EINVAL, "path: type %s has none", vm_chr_words[c->type]);
	if (c->type == VM_CHR_UNIX && vm_check_socket(c->path, &why) < 0)
		return err_set(e, EINVAL, "path: %s", why.msg);
	return 0;
}

const struct spec_struct vm_chr_struct = { sizeof(struct vm_chr), vm_chr_fields, vm_check_chr };

static const struct spec_field vm_boot_fields[] = {
	{ "kernel", F(vm_boot, kernel, SPEC_STR), .max = VM_PATH },
	{ "initrd", F(vm_boot, initrd, SPEC_STR), .max = VM_PATH },
	{ "append", F(vm_boot, append, SPEC_STR), .max = VM_APPEND },
	{ NULL },
};

static int vm_check_boot(const void *obj, struct err *e)
{
	const struct vm_boot *b = obj;

	if (!b->kernel && b->initrd)
		return err_set(e, EINVAL, "initrd: needs a kernel");
	if (!b->kernel && b->append)
		return err_set(e, EINVAL, "append: needs a kernel");
	return 0;
}

static const struct spec_struct vm_boot_struct = {
	sizeof(struct vm_boot), vm_boot_fields, vm_check_boot,
};

static const struct spec_field vm_spec_fields[] = {
	{ "name", F(vm_spec, name, SPEC_STR), .max = VM_NAME, .check = vm_check_name },
	{ "uuid", F(vm_spec, uuid, SPEC_STR), .max = 36, .check = vm_check_uuid },
	{ "cpus", F(vm_spec, cpus, SPEC_U64), .min = 1, .max = VM_SPEC_CPUS, .def = 1 },
	{ "memory", F(vm_spec, memory, SPEC_SIZE), .min = MIB(1), .max = GIB(4096),
	  .def = GIB(1), .check = vm_check_memory },
	{ "machine", F(vm_spec, machine, SPEC_ENUM), .words = vm_machine_words },
	{ "cpu", F(vm_spec, cpu, SPEC_STR), .max = VM_NAME },
	{ "accel", F(vm_spec, accel, SPEC_ENUM), .words = vm_accel_words },
	{ "accel_options", F(vm_spec, accel_options, SPEC_STR), .max = VM_PATH },
	{ "split_irqchip", F(vm_spec, split_irqchip, SPEC_BOOL) },
	{ "boot", F(vm_spec, boot, SPEC_OBJ), .of = &vm_boot_struct },
	{ "disks", F(vm_spec, disk, SPEC_LIST), .max = VM_SPEC_DISKS, .of = &vm_disk_struct,
	  .count_offset = offsetof(struct vm_spec, ndisk) },
	{ "nets", F(vm_spec, net, SPEC_LIST), .max = VM_SPEC_NETS, .of = &vm_net_struct,
	  .count_offset = offsetof(struct vm_spec, nnet) },
	{ "serial", F(vm_spec, serial, SPEC_LIST), .max = VM_SPEC_SERIALS, .of = &vm_chr_struct,
	  .count_offset = offsetof(struct vm_spec, nserial) },
	{ "console", F(vm_spec, console, SPEC_LIST), .max = 1, .of = &vm_chr_struct,
	  .count_offset = offsetof(struct vm_spec, nconsole) },
	{ "rng", F(vm_spec, rng, SPEC_BOOL), .def = true },
	{ "control", F(vm_spec, control, SPEC_STR), .max = VM_PATH, .check = vm_check_socket },
	{ "paused", F(vm_spec, paused, SPEC_BOOL) },
	{ "no_reboot", F(vm_spec, no_reboot, SPEC_BOOL) },
	{ "debug_exit", F(vm_spec, debug_exit, SPEC_U64), .max = 0xffc },
	{ NULL },
};
/* clang-format on */

/* One terminal: two lines on it would each take half of what is typed. */
static int vm_check_stdio(const struct vm_spec *s, struct err *e)
{
	unsigned n = 0;

	for (unsigned i = 0; i < s->nserial; i++)
		n += s->serial[i].type == VM_CHR_STDIO;
	if (n > 1)
		return err_set(e, EINVAL, "serial: only one line can be on stdio");
	for (unsigned i = 0; i < s->nconsole; i++)
		n += s->console[i].type == VM_CHR_STDIO;
	if (n > 1)
		return err_set(e, EINVAL, "console: stdio is taken by a serial line");
	return 0;
}

static int vm_check_macs(const struct vm_spec *s, struct err *e)
{
	for (unsigned i = 0; i < s->nnet; i++)
		for (unsigned k = 0; k < i; k++)
			if (s->net[i].mac && s->net[k].mac &&
			    !strcasecmp(s->net[i].mac, s->net[k].mac))
				return err_set(e, EINVAL, "nets[%u].mac: is that of nets[%u]", i,
					       k);
	return 0;
}

static int vm_check_whole(const void *obj, struct err *e)
{
	const struct vm_spec *s = obj;
	int rc = vm_check_stdio(s, e);

	if (s->paused && !s->control)
		return err_set(e, EINVAL,
			       "paused: needs control (--control PATH): nothing else lets it run");

	return rc < 0 ? rc : vm_check_macs(s, e);
}

const struct spec_struct vm_spec_struct = {
	sizeof(struct vm_spec),
	vm_spec_fields,
	vm_check_whole,
};

void vm_spec_init(struct vm_spec *s)
{
	*s = (struct vm_spec){ 0 };
	spec_defaults(&vm_spec_struct, s);
}

void vm_spec_fini(struct vm_spec *s)
{
	spec_fini(&vm_spec_struct, s);
}

int vm_spec_check(const struct vm_spec *s, struct err *e)
{
	return spec_check(&vm_spec_struct, s, NULL, e);
}

int vm_spec_parse(struct vm_spec *ret, const char *text, size_t len, struct err *e)
{
	struct json_object *v;
	int rc = json_parse(text, len, &v, e);

	if (rc < 0)
		return rc;
	struct json_at root = json_root(v);
	vm_spec_init(ret);
	rc = spec_read(&vm_spec_struct, ret, &root, e);
	if (rc >= 0)
		rc = vm_spec_check(ret, e);
	json_unref(v);
	if (rc < 0)
		vm_spec_fini(ret);
	return rc;
}

char *vm_spec_text(const struct vm_spec *s, bool pretty)
{
	struct json_out o = { .pretty = pretty };

	json_out_obj(&o, NULL);
	spec_write(&vm_spec_struct, s, &o);
	json_out_end(&o);
	return json_out_take(&o);
}

struct vm_disk *vm_spec_add_disk(struct vm_spec *s)
{
	return spec_append(spec_find(&vm_spec_struct, "disks"), s);
}

struct vm_net *vm_spec_add_net(struct vm_spec *s)
{
	return spec_append(spec_find(&vm_spec_struct, "nets"), s);
}

struct vm_chr *vm_spec_add_serial(struct vm_spec *s)
{
	return spec_append(spec_find(&vm_spec_struct, "serial"), s);
}

struct vm_chr *vm_spec_add_console(struct vm_spec *s)
{
	return spec_append(spec_find(&vm_spec_struct, "console"), s);
}

struct vm_fwd *vm_net_add_fwd(struct vm_net *n)
{
	return spec_append(spec_find(&vm_net_struct, "hostfwd"), n);
}
