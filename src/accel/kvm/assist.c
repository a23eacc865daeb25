/*
 * Instructions that KVM's emulator refuses, finished by the software CPU.
 *
 * On most hosts that is rare (an odd instruction on a device register).  On a host where KVM
 * emulates ring 0 altogether a kernel meets one every few hundred instructions: INT3, CMPXCHG16B,
 * XRSTOR, anything with vectors.  So the state goes over cheaply:
 *	- after an assist the next SYNC_RUNS runs leave registers, special registers and events in
 *the run page (KVM_CAP_SYNC_REGS), and changes go back the same way: no system call at all;
 *	- other parts are read and written only when the instruction needs them;
 *	- special registers are written only when they changed, because KVM drops all its
 *translations for that.
 *
 * The exit comes with RIP at the instruction and nothing done (without
 * KVM_CAP_EXIT_ON_EMULATION_FAILURE also with a #UD queued, which is taken back).
 *
 * Left out: stores to the local APIC page by such an instruction.  KVM has no door for them (an EOI
 * or an IPI is more than a new register value), so the vCPU stops with a message.
 */
#include "accel/kvm/kvm_int.h"

#include "accel/soft/assist.h"
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"
#include "base/trace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	SYNC_RUNS = 64,
	SYNC_ALL = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS,
	/* Instructions of one go. */
	ASSIST_MAX = 256,
	CODE_MAX = 15,
};

static int assist_apic_read(void *arg, unsigned off, uint32_t *ret)
{
	struct kvm_vcpu *c = arg;
	struct kvm_lapic_state l;
	int rc = kvm_ioctl(c->fd, KVM_GET_LAPIC, &l);

	if (rc < 0)
		return rc;
	*ret = off <= sizeof(l) - 4 ? ld_le32((const uint8_t *)l.regs + off) : 0;
	return 0;
}

static int assist_apic_write(void *arg, unsigned off, uint32_t v)
{
	return -EOPNOTSUPP;
}

static uint64_t assist_tsc(void *arg)
{
	return kvm_msr(arg, X86_MSR_TSC);
}

static const struct soft_assist_ops assist_ops = {
	.apic_read = assist_apic_read,
	.apic_write = assist_apic_write,
	.tsc = assist_tsc,
};

static int assist_init(struct kvm_vcpu *c, struct err *e)
{
	if (c->assist)
		return 0;
	if (!c->scratch)
		c->scratch = NEW(struct cpu_state);
	if (!c->scratch)
		return err_set(e, ENOMEM, "no memory");
	c->xcr0_more = kvm_cpuid_more_xcr0(c);
	return soft_assist_new(&c->v.vm->o, &c->v.cpuid, &assist_ops, c, &c->assist, e);
}

void kvm_assist_free(struct kvm_vcpu *c)
{
	soft_assist_free(c->assist);
	free(c->scratch);
}

void kvm_assist_before_run(struct kvm_vcpu *c)
{
	c->run->kvm_valid_regs = c->sync_left ? SYNC_ALL : 0;
	if (c->sync_left)
		c->sync_left--;
}

/* Registers, special registers and events into the run page, where they are not there already. */
static int assist_fetch(struct kvm_vcpu *c, struct err *e)
{
	struct kvm_sync_regs *r = &c->run->s.regs;

	if (c->run->kvm_valid_regs == SYNC_ALL)
		return 0;
	int rc = kvm_call(c->fd, KVM_GET_REGS, &r->regs, "read registers", e);
	if (rc == 0)
		rc = kvm_call(c->fd, KVM_GET_SREGS, &r->sregs, "read special registers", e);
	if (rc == 0)
		rc = kvm_call(c->fd, KVM_GET_VCPU_EVENTS, &r->events, "read pending events", e);
	return rc;
}

/* PAE's pointers are not among the special registers in the run page. */
static int assist_get_pdptr(struct kvm_vcpu *c, struct cpu_state *s, struct err *e)
{
	struct kvm_sregs2 r2;

	memset(s->pdptr, 0, sizeof(s->pdptr));
	if (!kvm_uses_pdptr(s))
		return 0;
	if (!kvm_of(c)->has_sregs2)
		return gmem_read(c->v.vm->o.gmem, s->cr3 & 0xffffffe0, s->pdptr, sizeof(s->pdptr));
	int rc = kvm_call(c->fd, KVM_GET_SREGS2, &r2, "read special registers", e);
	if (rc == 0)
		memcpy(s->pdptr, r2.pdptrs, sizeof(s->pdptr));
	return rc;
}

/* The few MSRs that instructions use other than RDMSR and WRMSR, which KVM does itself. */
static int assist_get_msrs(struct kvm_vcpu *c, struct cpu_state *s)
{
	static const uint32_t used[] = {
		X86_MSR_TSC_AUX,     X86_MSR_STAR,         X86_MSR_LSTAR,
		X86_MSR_CSTAR,       X86_MSR_FMASK,        X86_MSR_KERNEL_GS_BASE,
		X86_MSR_SYSENTER_CS, X86_MSR_SYSENTER_ESP, X86_MSR_SYSENTER_EIP,
	};

	s->nmsr = 0;
	for (unsigned i = 0; i < COUNT_OF(used); i++)
		cpu_state_set_msr(s, used[i], kvm_msr(c, used[i]));
	return 0;
}

static int assist_load(struct kvm_vcpu *c, unsigned need, struct err *e)
{
	struct cpu_state *s = c->scratch;
	const struct kvm_sync_regs *r = &c->run->s.regs;

	kvm_regs_to(s, &r->regs);
	kvm_sregs_to(s, &r->sregs);
	kvm_events_to(s, &r->events);
	/* The #UD of a failed emulation; an interrupt taken already stays with KVM. */
	s->ev.exc_pending = 0;
	s->ev.int_pending = 0;
	s->mp = CPU_MP_RUN;
	int rc = assist_get_pdptr(c, s, e);
	if (rc >= 0 && need & SOFT_ASSIST_FPU)
		rc = kvm_get_fpu(c, s, e);
	if (rc >= 0 && need & SOFT_ASSIST_FPU && s->xcr0 & X86_XCR0_AVX)
		s->xcr0 |= c->xcr0_more;
	if (rc >= 0 && need & SOFT_ASSIST_MSR)
		rc = assist_get_msrs(c, s);
	if (rc >= 0 && need & SOFT_ASSIST_DEBUG)
		rc = kvm_get_debug(c, s, e);
	return rc;
}

/* Registers and events: through the run page, or by calls where KVM cannot. */
static int assist_put(struct kvm_vcpu *c, bool sregs, struct err *e)
{
	struct kvm_sync_regs *r = &c->run->s.regs;

	if ((kvm_of(c)->sync_regs & SYNC_ALL) == SYNC_ALL) {
		c->run->kvm_dirty_regs |= (uint64_t)KVM_SYNC_X86_REGS | KVM_SYNC_X86_EVENTS |
					  (sregs ? KVM_SYNC_X86_SREGS : 0);
		c->sync_left = SYNC_RUNS;
		return 0;
	}
	int rc = sregs ? kvm_call(c->fd, KVM_SET_SREGS, &r->sregs, "set special registers", e) : 0;
	if (rc >= 0)
		rc = kvm_call(c->fd, KVM_SET_REGS, &r->regs, "set registers", e);
	if (rc >= 0)
		rc = kvm_call(c->fd, KVM_SET_VCPU_EVENTS, &r->events, "set pending events", e);
	return rc;
}

static int assist_store(struct kvm_vcpu *c, unsigned changed, struct err *e)
{
	const struct cpu_state *s = c->scratch;
	struct kvm_sync_regs *r = &c->run->s.regs;
	const struct kvm_vcpu_events before = r->events;
	struct kvm_sregs sregs;

	kvm_regs_from(&r->regs, s);
	kvm_sregs_from(&sregs, s);
	/* As KVM gave it: this part does not go through the software CPU. */
	memcpy(sregs.interrupt_bitmap, r->sregs.interrupt_bitmap, sizeof(sregs.interrupt_bitmap));
	bool sregs_changed = !kvm_sregs_same(&sregs, &r->sregs);
	r->sregs = sregs;
	kvm_events_from(&r->events, s);
	r->events.interrupt.injected = before.interrupt.injected;
	r->events.interrupt.nr = before.interrupt.nr;
	r->events.interrupt.soft = before.interrupt.soft;
	int rc = assist_put(c, sregs_changed, e);
	if (rc >= 0 && changed & SOFT_ASSIST_FPU)
		rc = kvm_set_xsave(c, s, e);
	if (rc >= 0 && changed & SOFT_ASSIST_MSR)
		rc = kvm_set_msrs(c, s, e);
	if (rc >= 0 && changed & SOFT_ASSIST_DEBUG)
		rc = kvm_set_debug(c, s, e);
	return rc;
}

static void assist_count(struct kvm_vcpu *c, const struct soft_assist_result *r)
{
	unsigned i = 0;

	c->assists++;
	c->assisted_insns += r->insns;
	while (i < c->nmnemonic && strcmp(c->mnemonic[i].name, r->mnemonic))
		i++;
	if (i == KVM_MNEMONICS)
		return;
	if (i == c->nmnemonic)
		c->mnemonic[c->nmnemonic++].name = r->mnemonic;
	c->mnemonic[i].count++;
}

static unsigned assist_code_size(const struct kvm_sregs *s)
{
	if (s->efer & X86_EFER_LMA && s->cs.l)
		return 64;
	return s->cs.db ? 32 : 16;
}

/* The bytes that KVM fetched; 0 when it does not tell. */
static unsigned assist_bytes(const struct kvm_vcpu *c, const uint8_t **ret)
{
	const struct kvm_run *r = c->run;

	*ret = r->emulation_failure.insn_bytes;
	/* ndata counts 64-bit words: flags, then size and bytes in two. */
	if (r->emulation_failure.ndata < 3 ||
	    !(r->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES))
		return 0;
	return MIN((unsigned)r->emulation_failure.insn_size, (unsigned)CODE_MAX);
}

static int assist_need(struct kvm_vcpu *c)
{
	const uint8_t *bytes;
	unsigned len = assist_bytes(c, &bytes);

	if (!len)
		return SOFT_ASSIST_REGS | SOFT_ASSIST_FPU | SOFT_ASSIST_MSR;
	return soft_assist_need(c->assist, bytes, len, assist_code_size(&c->run->s.regs.sregs));
}

/* What KVM does by itself for ring 3 when it was not asked to come out. */
static int assist_ud(struct kvm_vcpu *c, struct err *e)
{
	struct cpu_state *s = c->scratch;

	kvm_events_to(s, &c->run->s.regs.events);
	s->ev.exc_pending = 1;
	s->ev.exc_vector = X86_EXC_UD;
	s->ev.exc_has_err = 0;
	kvm_events_from(&c->run->s.regs.events, s);
	return kvm_call(c->fd, KVM_SET_VCPU_EVENTS, &c->run->s.regs.events, "raise #UD", e);
}

static int assist_one(struct kvm_vcpu *c, struct soft_assist_result *r, struct err *e)
{
	int rc = assist_init(c, e);

	if (rc < 0)
		return rc;
	struct kvm_fault_frame frame;
	bool lost = kvm_syscall_lost(c, &frame);
	int need = lost ? SOFT_ASSIST_REGS | SOFT_ASSIST_MSR : assist_need(c);
	if (need < 0)
		return err_set(e, -need, "an instruction that nobody can do");
	rc = assist_load(c, (unsigned)need, e);
	if (rc < 0)
		return rc;
	if (lost)
		kvm_syscall_rewind(c->scratch, &frame);
	rc = soft_assist_run(c->assist, c->scratch, (unsigned)need, ASSIST_MAX, r, e);
	if (rc < 0)
		return rc;
	assist_count(c, r);
	TRACE(kvm_assist, "vcpu=%u %s insns=%u rip=%#lx", c->v.index, r->mnemonic, r->insns,
	      (unsigned long)c->scratch->rip);
	return assist_store(c, r->changed, e);
}

int kvm_assist(struct kvm_vcpu *c, enum accel_exit *ret_why, struct err *e)
{
	struct soft_assist_result r = { 0 };
	struct err why = { 0 };
	int rc = assist_fetch(c, &why);

	if (rc >= 0)
		rc = kvm_of(c)->assist ? assist_one(c, &r, &why)
				       : err_set(&why, EOPNOTSUPP, "assist is off");
	if (rc < 0)
		TRACE(kvm_assist_refused, "vcpu=%u rip=%#llx %s", c->v.index,
		      c->run->s.regs.regs.rip, why.msg);
	if (rc == -EOPNOTSUPP && c->run->s.regs.sregs.ss.dpl == 3 && c->scratch)
		rc = assist_ud(c, &why);
	if (rc < 0) {
		*ret_why = kvm_fail(c, e, "KVM cannot emulate an instruction: %s", why.msg);
		return 1;
	}
	*ret_why = ACCEL_EXIT_SHUTDOWN;
	return r.triple_fault;
}
