/* The virtio core and its PCI transport, with the smallest device (rng) on it. */
#include "dev/virtio/virtio.h"
#include "lib/dev_rig.h"
#include "lib/t.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
	BUF = 0x10000,
	ALL_OK = VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK,
};

static struct virtio_dev *rng_new(struct rig *r)
{
	const struct virtio_rng_opts o = { .name = "rng0", .loop = r->loop };
	struct virtio_dev *v;
	struct err e = { 0 };

	assert_int_equal(virtio_rng_new(&v, &r->board, &o, &e), 0);
	return v;
}

/* Asks for n random bytes and waits; returns how many came. */
static uint32_t rng_ask(struct vdrv *d, uint32_t n)
{
	const struct vbuf b = { BUF, n, true };
	uint16_t head;
	uint32_t len = 0;

	/* With event index: an interrupt for the next one. */
	vring_set_used_event(&d->q[0], d->q[0].used_idx);
	assert_true(vring_add(&d->q[0], &b, 1, false) >= 0);
	vd_kick(d, 0);
	rig_run(d->r);
	if (!vring_get(&d->q[0], &head, &len))
		return 0;
	return len;
}

static bool all_zero(const uint8_t *p, size_t n)
{
	while (n--)
		if (*p++)
			return false;
	return true;
}

static void test_rng(void **state)
{
	struct rig *r = rig_new();
	struct vdrv d;

	vd_start(&d, r, rig_plug(r, rng_new(r)), VIRTIO_F_EVENT_IDX, 1);
	assert_int_equal(rig_cfg(r, d.slot, 0, 4), 0x10441af4);
	assert_int_equal(vd_get(&d, VC_STATUS, 1), ALL_OK);
	assert_int_equal(rng_ask(&d, 64), 64);
	assert_false(all_zero(rig_ram(r, BUF), 64));
	assert_true(all_zero(rig_ram(r, BUF + 64), 64));
	assert_int_equal(vd_irqs(&d, 0), 1);
	/* A greedy guest gets less than it asked for. */
	assert_int_equal(rng_ask(&d, 1 << 20), 4096);
	rig_free(r);
}

static void test_negotiation(void **state)
{
	struct rig *r = rig_new();
	struct vdrv d;

	vd_find(&d, r, rig_plug(r, rng_new(r)));
	assert_true(vd_offered(&d) ==
		    (VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT));
	vd_set(&d, VC_DEVICE_SELECT, 4, 2);
	assert_int_equal(vd_get(&d, VC_DEVICE_FEATURE, 4), 0);
	assert_int_equal(vd_get(&d, VC_NUM_QUEUES, 2), 1);
	/* Without VERSION_1, with something that was not offered: not accepted. */
	assert_false(vd_negotiate(&d, VIRTIO_F_EVENT_IDX));
	assert_false(vd_negotiate(&d, VIRTIO_F_VERSION_1 | 1));
	/* Then DRIVER_OK does not stick either. */
	vd_set(&d, VC_STATUS, 1, ALL_OK);
	assert_int_equal(vd_get(&d, VC_STATUS, 1), VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
	assert_true(vd_negotiate(&d, VIRTIO_F_VERSION_1));
	/* Fixed from here on, and bits do not go away. */
	vd_set(&d, VC_DRIVER_SELECT, 4, 0);
	vd_set(&d, VC_DRIVER_FEATURE, 4, 0xffffffff);
	assert_int_equal(vd_get(&d, VC_DRIVER_FEATURE, 4), 0);
	vd_set(&d, VC_STATUS, 1, VIRTIO_FAILED);
	assert_int_equal(vd_get(&d, VC_STATUS, 1),
			 VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_FAILED);
	vd_set(&d, VC_STATUS, 1, 0);
	assert_int_equal(vd_get(&d, VC_STATUS, 1), 0);
	rig_free(r);
}

static void test_queue_registers(void **state)
{
	struct rig *r = rig_new();
	struct vdrv d;

	vd_find(&d, r, rig_plug(r, rng_new(r)));
	vd_msix(&d);
	assert_true(vd_negotiate(&d, VIRTIO_F_VERSION_1));
	assert_int_equal(vd_get(&d, VC_QUEUE_SIZE, 2), 64);
	assert_int_equal(vd_get(&d, VC_QUEUE_VECTOR, 2), VIRTIO_NO_VECTOR);
	/* Halves, whole, and widths that are none. */
	vd_set(&d, VC_QUEUE_DESC, 4, 0x11110000);
	vd_set(&d, VC_QUEUE_DESC + 4, 4, 0x2222);
	assert_true(vd_get(&d, VC_QUEUE_DESC, 8) == 0x222211110000);
	vd_set(&d, VC_QUEUE_DESC, 1, 0xff);
	vd_set(&d, VC_QUEUE_DESC, 2, 0xffff);
	assert_true(vd_get(&d, VC_QUEUE_DESC, 8) == 0x222211110000);
	vd_set(&d, VC_QUEUE_DRIVER, 8, 0x3333);
	vd_set(&d, VC_QUEUE_DEVICE, 8, 0x4444);
	assert_int_equal(vd_get(&d, VC_QUEUE_DRIVER, 8), 0x3333);
	assert_int_equal(vd_get(&d, VC_QUEUE_DEVICE, 4), 0x4444);
	/* Vectors that exist, and one that does not. */
	vd_set(&d, VC_QUEUE_VECTOR, 2, 1);
	assert_int_equal(vd_get(&d, VC_QUEUE_VECTOR, 2), 1);
	vd_set(&d, VC_QUEUE_VECTOR, 2, 2);
	assert_int_equal(vd_get(&d, VC_QUEUE_VECTOR, 2), VIRTIO_NO_VECTOR);
	vd_set(&d, VC_CONFIG_VECTOR, 2, 0);
	assert_int_equal(vd_get(&d, VC_CONFIG_VECTOR, 2), 0);
	/* A queue that does not exist. */
	vd_set(&d, VC_QUEUE_SELECT, 2, 1);
	assert_int_equal(vd_get(&d, VC_QUEUE_SIZE, 2), 0);
	vd_set(&d, VC_QUEUE_ENABLE, 2, 1);
	assert_int_equal(vd_get(&d, VC_QUEUE_ENABLE, 2), 0);
	vd_set(&d, VC_QUEUE_SELECT, 2, 0xffff);
	vd_set(&d, VC_QUEUE_DESC, 4, 1);
	vd_set(&d, VC_QUEUE_VECTOR, 2, 0);
	/* An enabled queue is fixed. */
	vd_set(&d, VC_QUEUE_SELECT, 2, 0);
	vd_set(&d, VC_QUEUE_SIZE, 2, 16);
	vd_set(&d, VC_QUEUE_ENABLE, 2, 1);
	vd_set(&d, VC_QUEUE_SIZE, 2, 32);
	vd_set(&d, VC_QUEUE_ENABLE, 2, 0);
	assert_int_equal(vd_get(&d, VC_QUEUE_SIZE, 2), 16);
	assert_int_equal(vd_get(&d, VC_QUEUE_ENABLE, 2), 1);
	rig_free(r);
}

static void test_pin(void **state)
{
	struct rig *r = rig_new();
	struct vdrv d;
	unsigned slot = rig_plug(r, rng_new(r)), gsi = pci_gsi(slot, 0);

	vd_find(&d, r, slot);
	assert_true(vd_negotiate(&d, VIRTIO_F_VERSION_1));
	vd_queue(&d, 0);
	vd_ok(&d);
	assert_int_equal(rng_ask(&d, 8), 8);
	assert_true(r->line[gsi]);
	/* Reading the status acknowledges. */
	assert_int_equal(bus_read(&r->mmio, d.isr, 1), 1);
	assert_false(r->line[gsi]);
	assert_int_equal(bus_read(&r->mmio, d.isr, 1), 0);
	/* The driver may want none. */
	st_le16(vring_p(&d.q[0], d.q[0].avail), 1);
	assert_int_equal(rng_ask(&d, 8), 8);
	assert_false(r->line[gsi]);
	rig_free(r);
}

/* A bad ring: needs-reset, a configuration interrupt, standstill; a reset heals it. */
static void test_needs_reset(void **state)
{
	struct rig *r = rig_new();
	struct vdrv d;

	vd_start(&d, r, rig_plug(r, rng_new(r)), 0, 1);
	vring_offer(&d.q[0], 64);
	vd_kick(&d, 0);
	rig_run(r);
	assert_int_equal(vd_get(&d, VC_STATUS, 1), ALL_OK | VIRTIO_NEEDS_RESET);
	assert_int_equal(r->msi[RIG_MSI_DATA + 1], 1);
	vd_kick(&d, 0);
	rig_run(r);
	assert_int_equal(r->msi[RIG_MSI_DATA + 1], 1);
	/* A pause and a resume do not wake it, nor does a ring that is good again. */
	const struct vbuf b = { BUF, 8, true };
	uint16_t head;
	uint32_t len;
	board_stop(&r->board);
	d.q[0].avail_idx = 0;
	vring_add(&d.q[0], &b, 1, false);
	board_start(&r->board);
	rig_run(r);
	assert_int_equal(vd_get(&d, VC_STATUS, 1), ALL_OK | VIRTIO_NEEDS_RESET);
	assert_false(vring_get(&d.q[0], &head, &len));
	vd_start(&d, r, d.slot, 0, 1);
	assert_int_equal(rng_ask(&d, 8), 8);

	/* Ring addresses outside of memory are found when it starts. */
	assert_true(vd_negotiate(&d, VIRTIO_F_VERSION_1));
	vd_set(&d, VC_QUEUE_SELECT, 2, 0);
	vd_set(&d, VC_QUEUE_DESC, 8, RIG_RAM);
	vd_set(&d, VC_QUEUE_ENABLE, 2, 1);
	vd_ok(&d);
	rig_run(r);
	assert_int_equal(vd_get(&d, VC_STATUS, 1), ALL_OK | VIRTIO_NEEDS_RESET);
	rig_free(r);
}

/* Kicks through the bus's bell, through the register, and before the driver is ready. */
static void test_kicks(void **state)
{
	struct rig *r = rig_new();
	struct vdrv d;
	const struct vbuf b = { BUF, 8, true };
	uint16_t head;
	uint32_t len;

	vd_find(&d, r, rig_plug(r, rng_new(r)));
	assert_int_equal(r->mmio.nnotify, 1);
	vd_kick(&d, 0);
	rig_run(r);
	assert_true(vd_negotiate(&d, VIRTIO_F_VERSION_1));
	vd_queue(&d, 0);
	assert_true(vring_add(&d.q[0], &b, 1, false) >= 0);
	vd_kick(&d, 0);
	rig_run(r);
	assert_false(vring_get(&d.q[0], &head, &len));
	/* What was offered before DRIVER_OK is served after it, kick or not. */
	vd_ok(&d);
	rig_run(r);
	assert_true(vring_get(&d.q[0], &head, &len));
	/* A 32-bit write is not the bell's. */
	assert_true(vring_add(&d.q[0], &b, 1, false) >= 0);
	bus_write(&r->mmio, d.notify, 4, 0);
	rig_run(r);
	assert_true(vring_get(&d.q[0], &head, &len));
	/* Queues that do not exist. */
	bus_write(&r->mmio, d.notify + 4, 4, 0);
	bus_write(&r->mmio, d.notify + 0xffc, 4, 0);
	/* The bell goes with the BAR. */
	rig_cfg_set(r, d.slot, PCI_COMMAND, 2, 0);
	assert_int_equal(r->mmio.nnotify, 0);
	rig_cfg_set(r, d.slot, PCI_COMMAND, 2, PCI_CMD_MEM);
	assert_int_equal(r->mmio.nnotify, 1);
	rig_free(r);
}

/* Without bus mastering nothing reaches memory, and it goes on where it was. */
static void test_master(void **state)
{
	struct rig *r = rig_new(), *s = rig_new();
	struct vdrv d;
	struct err e = { 0 };
	struct state_buf buf = { 0 };
	const struct vbuf b = { BUF, 8, true };
	uint16_t head;
	uint32_t len;

	vd_start(&d, r, rig_plug(r, rng_new(r)), 0, 1);
	assert_int_equal(rng_ask(&d, 8), 8);
	rig_master(r, d.slot, false);
	vring_add(&d.q[0], &b, 1, false);
	vd_kick(&d, 0);
	rig_run(r);
	assert_false(vring_get(&d.q[0], &head, &len));
	assert_int_equal(vd_irqs(&d, 0), 1);
	/* A pause does not change that. */
	board_stop(&r->board);
	board_start(&r->board);
	rig_run(r);
	assert_false(vring_get(&d.q[0], &head, &len));

	/* Nor does a new life somewhere else. */
	board_stop(&r->board);
	assert_int_equal(board_save(&r->board, &buf, &e), 0);
	rig_plug(s, rng_new(s));
	board_stop(&s->board);
	memcpy(s->gmem.r[0].host, r->gmem.r[0].host, RIG_RAM);
	assert_int_equal(board_load(&s->board, buf.data, buf.len, &e), 0);
	state_buf_fini(&buf);
	rig_free(r);
	d.r = s;
	d.q[0].m = &s->gmem;
	board_start(&s->board);
	rig_run(s);
	assert_false(vring_get(&d.q[0], &head, &len));
	assert_int_equal(vd_get(&d, VC_STATUS, 1), ALL_OK);

	rig_master(s, d.slot, true);
	rig_run(s);
	assert_true(vring_get(&d.q[0], &head, &len));
	assert_int_equal(vd_irqs(&d, 0), 1);
	assert_int_equal(rng_ask(&d, 8), 8);
	/* Off and on before the loop has seen the first. */
	rig_master(s, d.slot, false);
	rig_master(s, d.slot, true);
	assert_int_equal(rng_ask(&d, 8), 8);
	/* The machine's reset takes it away. */
	board_stop(&s->board);
	board_reset(&s->board);
	assert_int_equal(pci_host_assign(s->host, &e), 0);
	board_start(&s->board);
	assert_int_equal(rig_cfg(s, d.slot, PCI_COMMAND, 2) & PCI_CMD_MASTER, 0);
	rig_free(s);
}

/* A guest's other vCPU, as the loop sees it. */
struct master_on {
	struct loop_fd f;
	struct vdrv *d;
};

static void master_on(struct loop_fd *f, unsigned events UNUSED)
{
	struct master_on *m = container_of(f, struct master_on, f);

	rig_master(m->d->r, m->d->slot, true);
	loop_fd_set(f, 0);
}

/* A kick that the loop hears while it is off, before it has seen that: not lost when it is on. */
static void test_master_kick(void **state)
{
	struct rig *r = rig_new();
	struct vdrv d;
	struct master_on m = { .f.fn = master_on, .d = &d };
	const struct vbuf b = { BUF, 8, true };
	const uint64_t one = 1;
	uint16_t head;
	uint32_t len;
	int fd = eventfd(0, EFD_CLOEXEC);

	vd_start(&d, r, rig_plug(r, rng_new(r)), 0, 1);
	assert_int_equal(loop_fd_add(r->loop, &m.f, fd, LOOP_IN), 0);
	vring_add(&d.q[0], &b, 1, false);
	rig_master(r, d.slot, false);
	vd_kick(&d, 0);
	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
	rig_run(r);
	assert_true(vring_get(&d.q[0], &head, &len));
	loop_fd_del(&m.f);
	close(fd);
	rig_free(r);
}

/* Indirect chains only when negotiated. */
static void test_indirect(void **state)
{
	struct rig *r = rig_new();
	struct vdrv d;
	const struct vbuf b = { BUF, 8, true };

	vd_start(&d, r, rig_plug(r, rng_new(r)), VIRTIO_F_INDIRECT, 1);
	vring_add(&d.q[0], &b, 1, true);
	vd_kick(&d, 0);
	rig_run(r);
	assert_int_equal(vd_irqs(&d, 0), 1);
	vd_start(&d, r, d.slot, 0, 1);
	vring_add(&d.q[0], &b, 1, true);
	vd_kick(&d, 0);
	rig_run(r);
	assert_int_equal(vd_get(&d, VC_STATUS, 1), ALL_OK | VIRTIO_NEEDS_RESET);
	rig_free(r);
}

/* The window in configuration space (4.1.4.9) reaches the same registers. */
static void test_window(void **state)
{
	struct rig *r = rig_new();
	struct vdrv d;
	unsigned cap = 0, at = 0;

	vd_find(&d, r, rig_plug(r, rng_new(r)));
	while ((at = rig_cap(r, d.slot, at, PCI_CAP_VENDOR)))
		if (rig_cfg(r, d.slot, at + 3, 1) == 5)
			cap = at;
	assert_true(cap);
	rig_cfg_set(r, d.slot, cap + 4, 1, 4);
	rig_cfg_set(r, d.slot, cap + 8, 4, VC_NUM_QUEUES);
	rig_cfg_set(r, d.slot, cap + 12, 4, 2);
	assert_int_equal(rig_cfg(r, d.slot, cap + 16, 2), 1);
	rig_cfg_set(r, d.slot, cap + 8, 4, VC_STATUS);
	rig_cfg_set(r, d.slot, cap + 12, 4, 1);
	rig_cfg_set(r, d.slot, cap + 16, 1, VIRTIO_ACKNOWLEDGE);
	assert_int_equal(vd_get(&d, VC_STATUS, 1), VIRTIO_ACKNOWLEDGE);
	assert_int_equal(rig_cfg(r, d.slot, cap + 16, 1), VIRTIO_ACKNOWLEDGE);
	/* Outside of the BAR, another BAR, a length that is none: nothing happens. */
	const struct {
		uint32_t bar, off, len;
	} bad[] = { { 4, 0x4000, 1 },    { 4, 0xfffffffc, 4 }, { 1, 0, 4 },
		    { 4, VC_STATUS, 3 }, { 4, VC_STATUS, 0 },  { 4, 1, 4 } };
	for (unsigned i = 0; i < COUNT_OF(bad); i++) {
		rig_cfg_set(r, d.slot, cap + 4, 1, bad[i].bar);
		rig_cfg_set(r, d.slot, cap + 8, 4, bad[i].off);
		rig_cfg_set(r, d.slot, cap + 12, 4, bad[i].len);
		rig_cfg_set(r, d.slot, cap + 16, 4, 0xffffffff);
		(void)rig_cfg(r, d.slot, cap + 16, 4);
		assert_int_equal(vd_get(&d, VC_STATUS, 1), VIRTIO_ACKNOWLEDGE);
	}
	rig_free(r);
}

/* A reset through the window, with a request in flight: the bridge's lock is held, so the vCPU does
 * not wait; the driver asks until status reads 0. */
static void test_window_reset(void **state)
{
	struct rig *r = rig_new();
	struct vdrv d;
	struct virtio_dev *v = rng_new(r);
	unsigned cap = 0, at = 0;

	vd_start(&d, r, rig_plug(r, v), 0, 1);
	while ((at = rig_cap(r, d.slot, at, PCI_CAP_VENDOR)))
		if (rig_cfg(r, d.slot, at + 3, 1) == 5)
			cap = at;
	rig_cfg_set(r, d.slot, cap + 4, 1, 4);
	rig_cfg_set(r, d.slot, cap + 8, 4, VC_STATUS);
	rig_cfg_set(r, d.slot, cap + 12, 4, 1);
	/* This thread is the loop's: a wait would not end. */
	v->reset_wait_ms = 3600 * 1000;
	rig_cfg_set(r, d.slot, cap + 16, 1, 0);
	assert_int_equal(vd_get(&d, VC_STATUS, 1), ALL_OK);
	assert_int_equal(v->reset_wait_ms, 3600 * 1000);
	rig_run(r);
	assert_int_equal(vd_get(&d, VC_STATUS, 1), 0);
	rig_free(r);
}

/* Saved between two requests, gone on with in another process's device. */
static void test_state(void **state)
{
	struct rig *r = rig_new(), *s = rig_new();
	struct vdrv d;
	struct err e = { 0 };
	struct state_buf buf = { 0 };

	vd_start(&d, r, rig_plug(r, rng_new(r)), VIRTIO_F_EVENT_IDX, 1);
	for (int i = 0; i < 70; i++)
		assert_int_equal(rng_ask(&d, 8), 8);
	/* Offered while it stands still: served after the load. */
	board_stop(&r->board);
	const struct vbuf b = { BUF, 16, true };
	vring_set_used_event(&d.q[0], d.q[0].used_idx);
	vring_add(&d.q[0], &b, 1, false);
	vd_kick(&d, 0);
	rig_run(r);
	uint16_t head;
	uint32_t len;
	assert_false(vring_get(&d.q[0], &head, &len));
	assert_int_equal(board_save(&r->board, &buf, &e), 0);

	rig_plug(s, rng_new(s));
	board_stop(&s->board);
	memcpy(s->gmem.r[0].host, r->gmem.r[0].host, RIG_RAM);
	assert_int_equal(board_load(&s->board, buf.data, buf.len, &e), 0);
	d.r = s;
	d.q[0].m = &s->gmem;
	board_start(&s->board);
	rig_run(s);
	assert_true(vring_get(&d.q[0], &head, &len));
	assert_int_equal(len, 16);
	assert_int_equal(vd_irqs(&d, 0), 1);
	assert_int_equal(rng_ask(&d, 8), 8);
	assert_int_equal(vd_irqs(&d, 0), 2);
	assert_int_equal(vd_get(&d, VC_STATUS, 1), ALL_OK);

	/* Every byte of the stream, bent: refused or not, never a crash. */
	unsigned refused = 0;
	for (size_t i = 0; i < buf.len; i++) {
		uint8_t was = buf.data[i];

		board_stop(&s->board);
		buf.data[i] ^= 0xff;
		if (board_load(&s->board, buf.data, buf.len, &e) < 0)
			refused++;
		board_start(&s->board);
		rig_run(s);
		buf.data[i] = was;
	}
	assert_true(refused > 100);
	state_buf_fini(&buf);
	rig_free(r);
	rig_free(s);
}

static void test_vm_reset(void **state)
{
	struct rig *r = rig_new();
	struct vdrv d;
	struct err e = { 0 };

	vd_start(&d, r, rig_plug(r, rng_new(r)), 0, 1);
	assert_int_equal(rng_ask(&d, 8), 8);
	board_stop(&r->board);
	board_reset(&r->board);
	assert_int_equal(pci_host_assign(r->host, &e), 0);
	board_start(&r->board);
	assert_int_equal(vd_get(&d, VC_STATUS, 1), 0);
	assert_int_equal(vd_get(&d, VC_QUEUE_DESC, 8), 0);
	vd_start(&d, r, d.slot, 0, 1);
	assert_int_equal(rng_ask(&d, 8), 8);
	rig_free(r);
}

/* The device on a thread of its own: kicks, resets and pauses from here. */
static void test_thread(void **state)
{
	struct rig *r = rig_new();
	struct loop_thread t;
	struct err e = { 0 };
	struct vdrv d;
	struct virtio_dev *v;

	assert_int_equal(loop_thread_start(&t, "io0", LOOP_AUTO, &e), 0);
	const struct virtio_rng_opts o = { .name = "rng0", .loop = t.loop };
	assert_int_equal(virtio_rng_new(&v, &r->board, &o, &e), 0);
	unsigned slot = rig_plug(r, v);
	/* A vCPU waits here, as it does in real life. */
	v->reset_wait_ms = 1000;
	for (int i = 0; i < 200; i++) {
		const struct vbuf b = { BUF, 8, true };
		uint16_t head;
		uint32_t len;

		vd_start(&d, r, slot, 0, 1);
		for (int n = 0; n < 20; n++)
			vring_add(&d.q[0], &b, 1, false);
		vd_kick(&d, 0);
		if (i % 3 == 0)
			continue;
		if (i % 3 == 1) {
			board_stop(&r->board);
			assert_true(v->quiet);
			board_start(&r->board);
		}
		for (int n = 0; n < 20;)
			if (vring_get(&d.q[0], &head, &len))
				n++;
	}
	board_stop(&r->board);
	while (!list_empty(&r->board.devs))
		dev_free(list_entry(r->board.devs.prev, struct dev, node));
	loop_thread_fini(&t);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rng),
		cmocka_unit_test(test_negotiation),
		cmocka_unit_test(test_queue_registers),
		cmocka_unit_test(test_pin),
		cmocka_unit_test(test_needs_reset),
		cmocka_unit_test(test_kicks),
		cmocka_unit_test(test_master),
		cmocka_unit_test(test_master_kick),
		cmocka_unit_test(test_indirect),
		cmocka_unit_test(test_window),
		cmocka_unit_test(test_window_reset),
		cmocka_unit_test(test_state),
		cmocka_unit_test(test_vm_reset),
		cmocka_unit_test(test_thread),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
