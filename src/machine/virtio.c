/*
 * The virtio devices of a spec, each with its backend on an I/O thread.  Backends are opened on the
 * thread that they belong to from then on.
 */
#include "machine/build_int.h"

#include "base/log.h"
#include "base/num.h"
#include "base/str.h"
#include "block/blk.h"
#include "chr/chr.h"
#include "dev/virtio/virtio.h"
#include "net/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* The thread of the n-th disk or net. */
static struct loop *virtio_loop(const struct machine *m, unsigned n)
{
	return m->io[n % m->nio].loop;
}

/* Put v on the bus; m->pci owns nothing, machine_free_virtio() does. */
static int virtio_plug(struct machine *m, struct machine_virtio *d, struct err *e)
{
	const struct virtio_pci_opts o = {
		.board = &m->board,
		.host = m->pci,
		.slot = -1,
		.v = d->v,
	};

	return virtio_pci_new(&d->pci, &o, e);
}

static int machine_add_disk(struct machine *m, unsigned i, struct err *e)
{
	static const enum virtio_blk_on_error policy[] = {
		[VM_ON_ERROR_ENOSPC] = VIRTIO_BLK_ENOSPC,
		[VM_ON_ERROR_REPORT] = VIRTIO_BLK_REPORT,
		[VM_ON_ERROR_STOP] = VIRTIO_BLK_STOP,
	};
	const struct vm_disk *s = &m->o.spec->disk[i];
	struct machine_disk *d = &m->disk[i];
	const struct blk_opts bo = {
		.format = "raw",
		.path = s->path,
		.readonly = s->readonly,
		.cache = s->cache == VM_CACHE_NONE ? BLK_CACHE_NONE : BLK_CACHE_WRITEBACK,
		.loop = virtio_loop(m, i),
	};

	snprintf(d->name, sizeof(d->name), "disk%u", i);
	int rc = blk_open(&d->blk, &bo, e);
	if (rc < 0)
		return rc;
	const struct virtio_blk_opts vo = {
		.name = d->name,
		.blk = d->blk,
		.serial = s->serial,
		.queues = (unsigned)(s->queues ? s->queues
					       : MIN(m->o.spec->cpus, (uint64_t)VIRTIO_QUEUES)),
		.on_read_error = policy[s->on_error],
		.on_write_error = policy[s->on_error],
	};
	rc = virtio_blk_new(&d->dev.v, &m->board, &vo, e);
	return rc < 0 ? rc : virtio_plug(m, &d->dev, e);
}

/* A MAC of its own for each VM name and position: locally administered, as QEMU's begin. */
static void machine_mac(const struct vm_spec *s, unsigned i, uint8_t mac[6])
{
	/* FNV-1a */
	uint32_t h = 2166136261u;

	for (const char *p = s->name ? s->name : ""; *p; p++)
		h = (h ^ (uint8_t)*p) * 16777619u;
	h = (h ^ i) * 16777619u;
	mac[0] = 0x52;
	mac[1] = 0x54;
	mac[2] = 0;
	mac[3] = (uint8_t)(h >> 16);
	mac[4] = (uint8_t)(h >> 8);
	mac[5] = (uint8_t)h;
}

static uint32_t machine_addr(const char *text)
{
	struct in_addr a = { 0 };

	if (text)
		inet_pton(AF_INET, text, &a);
	return a.s_addr;
}

struct machine_net_open {
	struct machine *m;
	struct machine_net *n;
	const struct vm_net *s;
	uint8_t mac[6];
	struct err *e;
	int rc;
};

static void machine_net_open(void *arg)
{
	struct machine_net_open *a = arg;
	struct net_fwd fwd[VM_SPEC_FWDS];
	struct net_opts o = {
		.type = a->s->type == VM_NET_TAP ? "tap" : "user",
		.ifname = a->s->ifname,
		.fd = -1,
		.fwd = fwd,
		.nfwd = a->s->nfwd,
		.hostname = a->m->o.spec->name,
		.loop = a->n->dev.v->loop,
		.client = virtio_net_client(a->n->dev.v),
	};

	memcpy(o.mac, a->mac, sizeof(o.mac));
	for (unsigned i = 0; i < a->s->nfwd; i++) {
		const struct vm_fwd *f = &a->s->fwd[i];

		fwd[i] = (struct net_fwd){
			.udp = f->proto == VM_UDP,
			.host_addr = machine_addr(f->host_addr),
			.guest_addr = machine_addr(f->guest_addr),
			.host_port = (uint16_t)f->host_port,
			.guest_port = (uint16_t)f->guest_port,
		};
	}
	a->rc = net_open(&a->n->net, &o, a->e);
	if (a->rc >= 0)
		virtio_net_attach(a->n->dev.v, a->n->net);
}

static int machine_add_net(struct machine *m, unsigned i, struct err *e)
{
	struct machine_net_open a = {
		.m = m,
		.n = &m->net[i],
		.s = &m->o.spec->net[i],
		.e = e,
	};
	struct virtio_net_opts vo = {
		.name = a.n->name,
		.loop = virtio_loop(m, m->o.spec->ndisk + i),
	};

	snprintf(a.n->name, sizeof(a.n->name), "net%u", i);
	machine_mac(m->o.spec, i, a.mac);
	if (a.s->mac && vm_mac_parse(a.s->mac, a.mac) < 0)
		return err_set(e, EINVAL, "net%u: bad MAC address", i);
	memcpy(vo.mac, a.mac, sizeof(vo.mac));
	int rc = virtio_net_new(&a.n->dev.v, &m->board, &vo, e);
	if (rc < 0)
		return rc;
	loop_call(vo.loop, machine_net_open, &a);
	if (a.rc < 0)
		return err_in(e, "net%u", i);
	return virtio_plug(m, &a.n->dev, e);
}

struct machine_console_open {
	struct machine *m;
	struct chr_opts o;
	struct err *e;
	int rc;
};

static void machine_console_open(void *arg)
{
	struct machine_console_open *a = arg;
	struct machine_line *l = &a->m->console;

	a->rc = chr_open(&l->chr, &a->o, a->e);
	if (a->rc >= 0)
		virtio_console_attach(l->dev.v, 0, l->chr);
}

static int machine_add_console(struct machine *m, struct err *e)
{
	const struct vm_chr *s = &m->o.spec->console[0];
	struct machine_line *l = &m->console;
	const struct virtio_console_opts vo = { .name = "console0", .loop = virtio_loop(m, 0) };
	int rc = virtio_console_new(&l->dev.v, &m->board, &vo, e);

	if (rc < 0)
		return rc;
	str_copy(l->name, sizeof(l->name), vo.name);
	if (s->type != VM_CHR_NONE) {
		struct machine_console_open a = {
			.m = m,
			.o = {
				.type = machine_chr_names[s->type],
				.path = s->path,
				.loop = vo.loop,
				.client = virtio_console_client(l->dev.v, 0),
				.quit = m->o.quit,
				.quit_arg = m->o.arg,
			},
			.e = e,
		};

		loop_call(vo.loop, machine_console_open, &a);
		if (a.rc < 0)
			return err_in(e, "console");
		if (s->type == VM_CHR_PTY)
			log_note("%s: %s", l->name, l->chr->where);
	}
	return virtio_plug(m, &l->dev, e);
}

static int machine_add_rng(struct machine *m, struct err *e)
{
	const struct virtio_rng_opts o = { .name = "rng0", .loop = virtio_loop(m, 0) };
	int rc = virtio_rng_new(&m->rng.v, &m->board, &o, e);

	return rc < 0 ? rc : virtio_plug(m, &m->rng, e);
}

int machine_add_virtio(struct machine *m, struct err *e)
{
	const struct vm_spec *s = m->o.spec;
	int rc = 0;

	for (unsigned i = 0; i < s->ndisk && rc >= 0; i++)
		rc = machine_add_disk(m, i, e);
	for (unsigned i = 0; i < s->nnet && rc >= 0; i++)
		rc = machine_add_net(m, i, e);
	if (rc >= 0 && s->nconsole)
		rc = machine_add_console(m, e);
	if (rc >= 0 && s->rng)
		rc = machine_add_rng(m, e);
	return rc;
}

static void machine_free_one(struct machine_virtio *d)
{
	if (d->pci)
		dev_free(virtio_pci_dev(d->pci));
	if (d->v)
		dev_free(&d->v->dev);
	*d = (struct machine_virtio){ 0 };
}

void machine_free_virtio(struct machine *m)
{
	machine_free_one(&m->rng);
	machine_free_one(&m->console.dev);
	chr_close(m->console.chr);
	for (unsigned i = 0; i < VM_SPEC_NETS; i++) {
		machine_free_one(&m->net[i].dev);
		net_close(m->net[i].net);
	}
	for (unsigned i = 0; i < VM_SPEC_DISKS; i++) {
		machine_free_one(&m->disk[i].dev);
		blk_close(m->disk[i].blk);
	}
}
