/*
 * What the user asked for: one virtual machine, as plain data.  docs/format/vm-spec.md describes
 * the JSON; every field has one row in the tables of vm.c, and everything that can be refused
 * without opening a file is refused by vm_spec_check().
 */
#pragma once

#include "base/err.h"
#include "base/json.h"
#include "spec/field.h"

enum {
	VM_SPEC_CPUS = 64,
	VM_SPEC_DISKS = 16,
	VM_SPEC_NETS = 8,
	VM_SPEC_SERIALS = 4,
	VM_SPEC_FWDS = 64,
	/* A spec's text is never longer. */
	VM_SPEC_TEXT = 1 << 20,
	/* Where --debug-exit without a port puts it. */
	VM_SPEC_DEBUG_EXIT = 0xf4,
};

enum vm_accel {
	VM_ACCEL_AUTO,
	VM_ACCEL_KVM,
	VM_ACCEL_SOFT,
};

enum vm_cache {
	VM_CACHE_WRITEBACK,
	VM_CACHE_NONE,
};

enum vm_on_error {
	VM_ON_ERROR_ENOSPC,
	VM_ON_ERROR_REPORT,
	VM_ON_ERROR_STOP,
};

struct vm_disk {
	char *path;
	/* Index of "raw". */
	unsigned format;
	bool readonly;
	/* enum vm_cache */
	unsigned cache;
	char *serial;
	/* enum vm_on_error */
	unsigned on_error;
	/* 0: one for each vCPU. */
	uint64_t queues;
};

enum vm_net_type {
	VM_NET_USER,
	VM_NET_TAP,
};

enum vm_proto {
	VM_TCP,
	VM_UDP,
};

struct vm_fwd {
	/* enum vm_proto */
	unsigned proto;
	/* Dotted quads; NULL: 0.0.0.0 and the guest's DHCP address. */
	char *host_addr, *guest_addr;
	uint64_t host_port, guest_port;
};

struct vm_net {
	/* enum vm_net_type */
	unsigned type;
	char *ifname;
	/* "52:54:00:12:34:56"; NULL: made from the VM's name and the position in the list. */
	char *mac;
	struct vm_fwd *fwd;
	unsigned nfwd;
};

enum vm_chr_type {
	VM_CHR_STDIO,
	VM_CHR_PTY,
	VM_CHR_UNIX,
	VM_CHR_FILE,
	VM_CHR_NONE,
};

struct vm_chr {
	/* enum vm_chr_type */
	unsigned type;
	/* unix, file. */
	char *path;
};

struct vm_boot {
	char *kernel, *initrd, *append;
};

struct vm_spec {
	char *name, *uuid;
	uint64_t cpus, memory;
	/* Index of "pc". */
	unsigned machine;
	char *cpu;
	/* enum vm_accel */
	unsigned accel;
	char *accel_options;
	bool split_irqchip;
	struct vm_boot boot;
	struct vm_disk *disk;
	unsigned ndisk;
	struct vm_net *net;
	unsigned nnet;
	struct vm_chr *serial;
	unsigned nserial;
	/* A virtio console. */
	struct vm_chr *console;
	unsigned nconsole;
	bool rng;
	/* Unix socket of the QMP server; NULL: none. */
	char *control;
	/* Wait for `cont` before the first instruction. */
	bool paused;
	bool no_reboot;
	/* Port of isa-debug-exit; 0: none. */
	uint64_t debug_exit;
};

/* Tables, for what else works from them (options, documentation). */
extern const struct spec_struct vm_spec_struct;
extern const struct spec_struct vm_disk_struct, vm_net_struct, vm_chr_struct, vm_fwd_struct;

/* Defaults; strings and lists empty. */
void vm_spec_init(struct vm_spec *s);
void vm_spec_fini(struct vm_spec *s);
/* -EINVAL: "disks[1].cache: 'foo' is not one of ...". */
NODISCARD int vm_spec_check(const struct vm_spec *s, struct err *e);
/* Reads and checks; on failure *ret needs no fini. */
NODISCARD int vm_spec_parse(struct vm_spec *ret, const char *text, size_t len, struct err *e);
/* JSON that vm_spec_parse() turns into the same spec; free with free(); NULL: no memory. */
NODISCARD char *vm_spec_text(const struct vm_spec *s, bool pretty);
/* New elements with defaults; NULL when the list is full or memory is short. */
struct vm_disk *vm_spec_add_disk(struct vm_spec *s);
struct vm_net *vm_spec_add_net(struct vm_spec *s);
struct vm_chr *vm_spec_add_serial(struct vm_spec *s);
struct vm_chr *vm_spec_add_console(struct vm_spec *s);
struct vm_fwd *vm_net_add_fwd(struct vm_net *n);
/* Six bytes of "52:54:00:12:34:56"; -EINVAL. */
NODISCARD int vm_mac_parse(const char *text, uint8_t mac[6]);
