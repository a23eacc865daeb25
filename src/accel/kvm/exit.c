/*
 * What a vCPU came out of KVM_RUN for (api.rst, section 5).
 *
 * Port and memory accesses go to the buses; an assisted instruction goes to assist.c; what cannot
 * be handled is told with registers and code bytes, because nobody will be able to ask afterwards.
 */
#include "accel/kvm/kvm_int.h"

#include "base/bytes.h"
#include "base/num.h"
#include "base/trace.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
	RING_EMPTY_MAX = 64,
};

static void exit_io(struct kvm_vcpu *c)
{
	struct kvm_run *r = c->run;
	struct bus *b = c->v.vm->o.pio;
	uint8_t *p = (uint8_t *)r + r->io.data_offset;
	unsigned size = r->io.size;

	/* count > 1: INS or OUTS, as many as KVM could take in one go. */
	for (uint32_t i = 0; i < r->io.count; i++, p += size) {
		if (r->io.direction == KVM_EXIT_IO_OUT)
			bus_write(b, r->io.port, size, ld_le(p, size));
		else
			st_le(p, size, bus_read(b, r->io.port, size));
	}
}

/* Largest power of two that is at most n (1..8). */
static unsigned exit_part(unsigned n)
{
	return n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
}

static void exit_mmio(struct kvm_vcpu *c)
{
	struct kvm_run *r = c->run;
	struct bus *b = c->v.vm->o.mmio;
	unsigned len = MIN(r->mmio.len, (uint32_t)sizeof(r->mmio.data));

	/* An access that crosses a page comes in two parts of any length. */
	for (unsigned at = 0; at < len;) {
		unsigned n = exit_part(len - at);
		uint8_t *p = r->mmio.data + at;

		if (r->mmio.is_write)
			bus_write(b, r->mmio.phys_addr + at, n, ld_le(p, n));
		else
			st_le(p, n, bus_read(b, r->mmio.phys_addr + at, n));
		at += n;
	}
}

static int exit_internal(struct kvm_vcpu *c, enum accel_exit *ret_why, struct err *e)
{
	const struct kvm_run *r = c->run;

	if (r->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
		return kvm_assist(c, ret_why, e);
	*ret_why = kvm_fail(c, e, "KVM internal error %u (%#lx %#lx %#lx)", r->internal.suberror,
			    (unsigned long)(r->internal.ndata > 0 ? r->internal.data[0] : 0),
			    (unsigned long)(r->internal.ndata > 1 ? r->internal.data[1] : 0),
			    (unsigned long)(r->internal.ndata > 2 ? r->internal.data[2] : 0));
	return 1;
}

static int exit_system(struct kvm_vcpu *c, enum accel_exit *ret_why, struct err *e)
{
	if (c->run->system_event.type == KVM_SYSTEM_EVENT_RESET ||
	    c->run->system_event.type == KVM_SYSTEM_EVENT_SHUTDOWN)
		*ret_why = ACCEL_EXIT_SHUTDOWN;
	else
		*ret_why = kvm_fail(c, e, "KVM system event %u", c->run->system_event.type);
	return 1;
}

static int exit_entry(struct kvm_vcpu *c, enum accel_exit *ret_why, struct err *e)
{
	*ret_why = kvm_fail(c, e, "the processor refused to enter the guest, hardware reason %#llx",
			    c->run->fail_entry.hardware_entry_failure_reason);
	return 1;
}

/*
 * Another vCPU may have emptied our ring meanwhile.  When it stays full and empty, entries were
 * lost: KVM pushes one for each store that it emulates, and where it emulates many in a row (ring 0
 * on a PVM host) it looks at the limit too late.
 */
static int exit_ring(struct kvm_vcpu *c, enum accel_exit *ret_why, struct err *e)
{
	int n = kvm_ring_harvest(kvm_of(c), e);

	c->ring_empty = n == 0 ? c->ring_empty + 1 : 0;
	if (n >= 0 && c->ring_empty < RING_EMPTY_MAX)
		return 0;
	*ret_why = n < 0 ? ACCEL_EXIT_FAIL
			 : kvm_fail(c, e, "the dirty ring overflowed; go without dirty-ring here");
	return 1;
}

static void exit_count(struct kvm_vcpu *c)
{
	uint32_t why = c->run->exit_reason;

	if (why < KVM_EXITS)
		c->exits[why]++;
	else
		c->exits_other++;
}

/* Those after which nothing can go on but an answer to accel_run(), or which are rare. */
static int exit_rare(struct kvm_vcpu *c, enum accel_exit *ret_why, struct err *e)
{
	switch (c->run->exit_reason) {
	case KVM_EXIT_SHUTDOWN:
		*ret_why = ACCEL_EXIT_SHUTDOWN;
		return 1;
	case KVM_EXIT_SYSTEM_EVENT:
		return exit_system(c, ret_why, e);
	case KVM_EXIT_FAIL_ENTRY:
		return exit_entry(c, ret_why, e);
	case KVM_EXIT_INTERNAL_ERROR:
		return exit_internal(c, ret_why, e);
	case KVM_EXIT_DIRTY_RING_FULL:
		return exit_ring(c, ret_why, e);
	default:
		*ret_why =
			kvm_fail(c, e, "KVM exit %u, which nobody asked for", c->run->exit_reason);
		return 1;
	}
}

int kvm_exit(struct kvm_vcpu *c, enum accel_exit *ret_why, struct err *e)
{
	exit_count(c);
	switch (c->run->exit_reason) {
	case KVM_EXIT_IO:
		exit_io(c);
		return 0;
	case KVM_EXIT_MMIO:
		exit_mmio(c);
		return 0;
	case KVM_EXIT_IOAPIC_EOI:
		TRACE(kvm_eoi, "vector=%#x", c->run->eoi.vector);
		irq_chips_eoi(kvm_of(c)->chips, c->run->eoi.vector);
		return 0;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	/* Local APIC in the kernel: a HLT that comes out anyway is entered again, and waits. */
	case KVM_EXIT_HLT:
	case KVM_EXIT_SET_TPR:
		return 0;
	default:
		return exit_rare(c, ret_why, e);
	}
}

/* The code at CS:RIP as "0f 0b ..."; ret holds 3 bytes for each of n and a zero. */
static void exit_code_bytes(struct kvm_vcpu *c, const struct kvm_regs *r, const struct kvm_sregs *s,
			    char *ret, unsigned n)
{
	bool paged = s->cr0 & X86_CR0_PG;

	ret[0] = 0;
	for (unsigned i = 0; i < n; i++) {
		uint64_t lin = r->rip + i + (s->cs.l ? 0 : s->cs.base);
		struct kvm_translation t = { .linear_address = lin };
		uint8_t byte;

		if (paged && (kvm_ioctl(c->fd, KVM_TRANSLATE, &t) < 0 || !t.valid))
			return;
		if (gmem_read(c->v.vm->o.gmem, paged ? t.physical_address : lin, &byte, 1) < 0)
			return;
		snprintf(ret + 3 * i, 4, "%02x ", byte);
	}
}

enum accel_exit kvm_fail(struct kvm_vcpu *c, struct err *e, const char *fmt, ...)
{
	char what[96], code[3 * 15 + 1];
	struct kvm_regs r = { 0 };
	struct kvm_sregs s = { 0 };
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	(void)kvm_ioctl(c->fd, KVM_GET_REGS, &r);
	(void)kvm_ioctl(c->fd, KVM_GET_SREGS, &s);
	exit_code_bytes(c, &r, &s, code, 15);
	(void)err_set(e, EIO,
		      "vCPU %u: %s; cs:rip %x:%#llx (base %#llx) rsp %#llx flags %#llx cr0 %#llx "
		      "cr3 %#llx code %s",
		      c->v.index, what, s.cs.selector, r.rip, s.cs.base, r.rsp, r.rflags, s.cr0,
		      s.cr3, code);
	return ACCEL_EXIT_FAIL;
}
