/*
 * All registers of a vCPU, in and out of struct cpu_state.
 *
 * Order when setting, each step because the next needs it: XCR0 and CR4 decide what XSAVE takes;
 * the APIC base (in the special registers) says in which form the APIC page comes; the APIC page
 * says whether the timer is in deadline mode, without which KVM drops the deadline MSR; the TSC
 * comes before the deadline in cpu/msr.h's order; events and the run state are last, so that
 * nothing set later wakes or changes what is about to be delivered.
 */
#include "accel/kvm/kvm_int.h"

#include "base/num.h"

#include <errno.h>
#include <string.h>

void kvm_regs_to(struct cpu_state *s, const struct kvm_regs *r)
{
	const uint64_t gpr[16] = { r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
				   r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15 };

	memcpy(s->gpr, gpr, sizeof(gpr));
	s->rip = r->rip;
	s->rflags = r->rflags;
}

void kvm_regs_from(struct kvm_regs *r, const struct cpu_state *s)
{
	const uint64_t *g = s->gpr;

	*r = (struct kvm_regs){
		.rax = g[X86_RAX],
		.rcx = g[X86_RCX],
		.rdx = g[X86_RDX],
		.rbx = g[X86_RBX],
		.rsp = g[X86_RSP],
		.rbp = g[X86_RBP],
		.rsi = g[X86_RSI],
		.rdi = g[X86_RDI],
		.r8 = g[X86_R8],
		.r9 = g[X86_R9],
		.r10 = g[X86_R10],
		.r11 = g[X86_R11],
		.r12 = g[X86_R12],
		.r13 = g[X86_R13],
		.r14 = g[X86_R14],
		.r15 = g[X86_R15],
		.rip = s->rip,
		.rflags = s->rflags,
	};
}

static void state_seg_to(struct cpu_seg *d, const struct kvm_segment *s)
{
	*d = (struct cpu_seg){
		.base = s->base,
		.limit = s->limit,
		.sel = s->selector,
		.attr = (uint32_t)(s->type & SEG_TYPE) | (s->s ? SEG_S : 0u) |
			(uint32_t)(s->dpl & 3) << SEG_DPL_SHIFT | (s->present ? SEG_P : 0u) |
			(s->avl ? SEG_AVL : 0u) | (s->l ? SEG_L : 0u) | (s->db ? SEG_DB : 0u) |
			(s->g ? SEG_G : 0u) | (s->unusable ? SEG_UNUSABLE : 0u),
	};
}

static void state_seg_from(struct kvm_segment *d, const struct cpu_seg *s)
{
	*d = (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->sel,
		.type = s->attr & SEG_TYPE,
		.s = !!(s->attr & SEG_S),
		.dpl = s->attr >> SEG_DPL_SHIFT & 3,
		.present = !!(s->attr & SEG_P),
		.avl = !!(s->attr & SEG_AVL),
		.l = !!(s->attr & SEG_L),
		.db = !!(s->attr & SEG_DB),
		.g = !!(s->attr & SEG_G),
		.unusable = !!(s->attr & SEG_UNUSABLE) || !(s->attr & SEG_P),
	};
}

void kvm_sregs_to(struct cpu_state *s, const struct kvm_sregs *r)
{
	const struct kvm_segment *const seg[6] = { &r->es, &r->cs, &r->ss, &r->ds, &r->fs, &r->gs };

	for (unsigned i = 0; i < COUNT_OF(seg); i++)
		state_seg_to(&s->seg[i], seg[i]);
	state_seg_to(&s->ldt, &r->ldt);
	state_seg_to(&s->tr, &r->tr);
	s->gdt = (struct cpu_table){ r->gdt.base, r->gdt.limit };
	s->idt = (struct cpu_table){ r->idt.base, r->idt.limit };
	s->cr0 = r->cr0;
	s->cr2 = r->cr2;
	s->cr3 = r->cr3;
	s->cr4 = r->cr4;
	s->cr8 = r->cr8;
	s->efer = r->efer;
	s->apic_base = r->apic_base;
}

void kvm_sregs_from(struct kvm_sregs *r, const struct cpu_state *s)
{
	struct kvm_segment *const seg[6] = { &r->es, &r->cs, &r->ss, &r->ds, &r->fs, &r->gs };

	/* The bitmap of an injected interrupt stays empty: it goes with the events. */
	*r = (struct kvm_sregs){
		.gdt = { .base = s->gdt.base, .limit = s->gdt.limit },
		.idt = { .base = s->idt.base, .limit = s->idt.limit },
		.cr0 = s->cr0,
		.cr2 = s->cr2,
		.cr3 = s->cr3,
		.cr4 = s->cr4,
		.cr8 = s->cr8,
		.efer = s->efer,
		.apic_base = s->apic_base,
	};
	for (unsigned i = 0; i < COUNT_OF(seg); i++)
		state_seg_from(seg[i], &s->seg[i]);
	state_seg_from(&r->ldt, &s->ldt);
	state_seg_from(&r->tr, &s->tr);
}

static bool state_seg_same(const struct kvm_segment *a, const struct kvm_segment *b)
{
	return a->base == b->base && a->limit == b->limit && a->selector == b->selector &&
	       a->type == b->type && a->present == b->present && a->dpl == b->dpl &&
	       a->db == b->db && a->s == b->s && a->l == b->l && a->g == b->g && a->avl == b->avl &&
	       a->unusable == b->unusable;
}

/* Field by field: KVM does not clear the padding. */
bool kvm_sregs_same(const struct kvm_sregs *a, const struct kvm_sregs *b)
{
	return state_seg_same(&a->cs, &b->cs) && state_seg_same(&a->ds, &b->ds) &&
	       state_seg_same(&a->es, &b->es) && state_seg_same(&a->fs, &b->fs) &&
	       state_seg_same(&a->gs, &b->gs) && state_seg_same(&a->ss, &b->ss) &&
	       state_seg_same(&a->tr, &b->tr) && state_seg_same(&a->ldt, &b->ldt) &&
	       a->gdt.base == b->gdt.base && a->gdt.limit == b->gdt.limit &&
	       a->idt.base == b->idt.base && a->idt.limit == b->idt.limit && a->cr0 == b->cr0 &&
	       a->cr2 == b->cr2 && a->cr3 == b->cr3 && a->cr4 == b->cr4 && a->cr8 == b->cr8 &&
	       a->efer == b->efer && a->apic_base == b->apic_base;
}

/* sregs2 is sregs with the PAE pointers in place of the interrupt bitmap; up to apic_base they are
 * laid out alike. */
static_assert(offsetof(struct kvm_sregs2, apic_base) == offsetof(struct kvm_sregs, apic_base),
	      "same head");
enum {
	SREGS_HEAD = offsetof(struct kvm_sregs, apic_base) + sizeof(uint64_t),
};

static int state_get_sregs(struct kvm_vcpu *c, struct cpu_state *s, struct err *e)
{
	struct kvm_sregs r = { 0 };
	struct kvm_sregs2 r2;

	if (!kvm_of(c)->has_sregs2) {
		int rc = kvm_call(c->fd, KVM_GET_SREGS, &r, "read special registers", e);

		if (rc == 0)
			kvm_sregs_to(s, &r);
		return rc;
	}
	int rc = kvm_call(c->fd, KVM_GET_SREGS2, &r2, "read special registers", e);
	if (rc < 0)
		return rc;
	memcpy(&r, &r2, SREGS_HEAD);
	kvm_sregs_to(s, &r);
	memset(s->pdptr, 0, sizeof(s->pdptr));
	if (r2.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID)
		memcpy(s->pdptr, r2.pdptrs, sizeof(s->pdptr));
	return 0;
}

bool kvm_uses_pdptr(const struct cpu_state *s)
{
	return (s->cr0 & X86_CR0_PG) && (s->cr4 & X86_CR4_PAE) && !(s->efer & X86_EFER_LMA);
}

static int state_set_sregs(struct kvm_vcpu *c, const struct cpu_state *s, struct err *e)
{
	struct kvm_sregs r;
	struct kvm_sregs2 r2 = { 0 };

	kvm_sregs_from(&r, s);
	/* Without sregs2 KVM reads the pointers from memory at CR3. */
	if (!kvm_of(c)->has_sregs2)
		return kvm_call(c->fd, KVM_SET_SREGS, &r, "set special registers", e);
	memcpy(&r2, &r, SREGS_HEAD);
	if (kvm_uses_pdptr(s)) {
		r2.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
		memcpy(r2.pdptrs, s->pdptr, sizeof(s->pdptr));
	}
	return kvm_call(c->fd, KVM_SET_SREGS2, &r2, "set special registers", e);
}

void kvm_events_to(struct cpu_state *s, const struct kvm_vcpu_events *ev)
{
	s->ev = (struct cpu_events){
		.exc_pending = ev->exception.injected || ev->exception.pending,
		.exc_vector = ev->exception.nr,
		.exc_has_err = ev->exception.has_error_code,
		.exc_err = ev->exception.error_code,
		.int_pending = ev->interrupt.injected,
		.int_vector = ev->interrupt.nr,
		.int_soft = ev->interrupt.soft,
		.shadow =
			(ev->interrupt.shadow & KVM_X86_SHADOW_INT_STI ? X86_SHADOW_STI : 0) |
			(ev->interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS ? X86_SHADOW_MOV_SS : 0),
		.nmi_pending = ev->nmi.pending || ev->nmi.injected,
		.nmi_masked = ev->nmi.masked,
		.triple_fault = ev->triple_fault.pending,
	};
}

void kvm_events_from(struct kvm_vcpu_events *ev, const struct cpu_state *s)
{
	const struct cpu_events *c = &s->ev;

	*ev = (struct kvm_vcpu_events){
		.exception = { .injected = c->exc_pending,
			       .nr = c->exc_vector,
			       .has_error_code = c->exc_has_err,
			       .error_code = c->exc_err },
		.interrupt = { .injected = c->int_pending,
			       .nr = c->int_vector,
			       .soft = c->int_soft },
		.nmi = { .pending = c->nmi_pending, .masked = c->nmi_masked },
		.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
	};
	if (c->shadow & X86_SHADOW_STI)
		ev->interrupt.shadow |= KVM_X86_SHADOW_INT_STI;
	if (c->shadow & X86_SHADOW_MOV_SS)
		ev->interrupt.shadow |= KVM_X86_SHADOW_INT_MOV_SS;
}

static int state_get_events(struct kvm_vcpu *c, struct cpu_state *s, struct err *e)
{
	struct kvm_vcpu_events ev = { 0 };
	int rc = kvm_call(c->fd, KVM_GET_VCPU_EVENTS, &ev, "read pending events", e);

	if (rc == 0)
		kvm_events_to(s, &ev);
	return rc;
}

static int state_set_events(struct kvm_vcpu *c, const struct cpu_state *s, struct err *e)
{
	struct kvm_vcpu_events ev;

	kvm_events_from(&ev, s);
	if (kvm_of(c)->has_triple_fault) {
		ev.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
		ev.triple_fault.pending = s->ev.triple_fault;
	}
	return kvm_call(c->fd, KVM_SET_VCPU_EVENTS, &ev, "set pending events", e);
}

static int state_get_mp(struct kvm_vcpu *c, struct cpu_state *s, struct err *e)
{
	struct kvm_mp_state mp = { 0 };
	int rc = kvm_call(c->fd, KVM_GET_MP_STATE, &mp, "read the run state", e);

	if (rc < 0)
		return rc;
	switch (mp.mp_state) {
	case KVM_MP_STATE_RUNNABLE:
		s->mp = CPU_MP_RUN;
		return 0;
	case KVM_MP_STATE_HALTED:
		s->mp = CPU_MP_HALT;
		return 0;
	default:
		s->mp = CPU_MP_WAIT_SIPI;
		return 0;
	}
}

static int state_set_mp(struct kvm_vcpu *c, const struct cpu_state *s, struct err *e)
{
	static const uint32_t mp_of[] = {
		[CPU_MP_RUN] = KVM_MP_STATE_RUNNABLE,
		[CPU_MP_WAIT_SIPI] = KVM_MP_STATE_INIT_RECEIVED,
		[CPU_MP_HALT] = KVM_MP_STATE_HALTED,
	};

	if (s->mp >= COUNT_OF(mp_of))
		return err_set(e, EPROTO, "no run state %u", s->mp);
	struct kvm_mp_state mp = { .mp_state = mp_of[s->mp] };
	return kvm_call(c->fd, KVM_SET_MP_STATE, &mp, "set the run state", e);
}

static int state_get_xcr0(struct kvm_vcpu *c, struct cpu_state *s, struct err *e)
{
	struct kvm_xcrs x = { 0 };
	int rc = kvm_call(c->fd, KVM_GET_XCRS, &x, "read XCR0", e);

	if (rc < 0)
		return rc;
	s->xcr0 = X86_XCR0_X87;
	for (unsigned i = 0; i < MIN(x.nr_xcrs, (uint32_t)KVM_MAX_XCRS); i++)
		if (x.xcrs[i].xcr == 0)
			s->xcr0 = x.xcrs[i].value;
	return 0;
}

static int state_set_xcr0(struct kvm_vcpu *c, const struct cpu_state *s, struct err *e)
{
	struct kvm_xcrs x = { .nr_xcrs = 1, .xcrs = { { .xcr = 0, .value = s->xcr0 } } };

	/* Without XSAVE in the guest's CPUID there is no XCR0 to set. */
	int rc = kvm_ioctl(c->fd, KVM_SET_XCRS, &x);
	if (rc < 0 && s->xcr0 != X86_XCR0_X87)
		return err_set(e, -rc, "/dev/kvm: cannot set XCR0 to %#lx: %s",
			       (unsigned long)s->xcr0, strerror(-rc));
	return 0;
}

int kvm_get_xsave(struct kvm_vcpu *c, struct cpu_state *s, struct err *e)
{
	const struct kvm_vm *k = kvm_of(c);

	/* vcpu.c refused a VM with more. */
	static_assert(sizeof(s->xsave) == sizeof(struct kvm_xsave), "room for KVM_GET_XSAVE");
	s->xsave_len = k->xsave_size;
	return kvm_call(c->fd, k->has_xsave2 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, s->xsave,
			"read the extended state", e);
}

int kvm_get_fpu(struct kvm_vcpu *c, struct cpu_state *s, struct err *e)
{
	int rc = state_get_xcr0(c, s, e);

	return rc < 0 ? rc : kvm_get_xsave(c, s, e);
}

int kvm_set_xsave(struct kvm_vcpu *c, const struct cpu_state *s, struct err *e)
{
	struct kvm_xsave x = { 0 };

	if (s->xsave_len > sizeof(x))
		return err_set(e, EPROTO, "extended state of %u bytes", s->xsave_len);
	memcpy(&x, s->xsave, s->xsave_len);
	return kvm_call(c->fd, KVM_SET_XSAVE, &x, "set the extended state", e);
}

int kvm_get_debug(struct kvm_vcpu *c, struct cpu_state *s, struct err *e)
{
	struct kvm_debugregs d = { 0 };
	int rc = kvm_call(c->fd, KVM_GET_DEBUGREGS, &d, "read debug registers", e);

	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < 4; i++)
		s->dr[i] = d.db[i];
	s->dr6 = d.dr6;
	s->dr7 = d.dr7;
	return 0;
}

int kvm_set_debug(struct kvm_vcpu *c, const struct cpu_state *s, struct err *e)
{
	struct kvm_debugregs d = {
		.db = { s->dr[0], s->dr[1], s->dr[2], s->dr[3] },
		.dr6 = s->dr6,
		.dr7 = s->dr7,
	};

	return kvm_call(c->fd, KVM_SET_DEBUGREGS, &d, "set debug registers", e);
}

static int state_get_regs(struct kvm_vcpu *c, struct cpu_state *s, struct err *e)
{
	struct kvm_regs r;
	int rc = kvm_call(c->fd, KVM_GET_REGS, &r, "read registers", e);

	if (rc == 0)
		kvm_regs_to(s, &r);
	return rc;
}

static int state_set_regs(struct kvm_vcpu *c, const struct cpu_state *s, struct err *e)
{
	struct kvm_regs r;

	kvm_regs_from(&r, s);
	return kvm_call(c->fd, KVM_SET_REGS, &r, "set registers", e);
}

static int state_get_lapic(struct kvm_vcpu *c, struct cpu_state *s, struct err *e)
{
	static_assert(sizeof(s->lapic) == sizeof(struct kvm_lapic_state), "the APIC page");
	return kvm_call(c->fd, KVM_GET_LAPIC, s->lapic, "read the local APIC", e);
}

static int state_set_lapic(struct kvm_vcpu *c, const struct cpu_state *s, struct err *e)
{
	struct kvm_lapic_state l;

	memcpy(&l, s->lapic, sizeof(l));
	return kvm_call(c->fd, KVM_SET_LAPIC, &l, "set the local APIC", e);
}

typedef int state_get_fn(struct kvm_vcpu *c, struct cpu_state *s, struct err *e);
typedef int state_set_fn(struct kvm_vcpu *c, const struct cpu_state *s, struct err *e);

int kvm_get(struct accel_vcpu *v, struct cpu_state *ret, struct err *e)
{
	/* The run state first: reading it takes an INIT or SIPI that waits. */
	static state_get_fn *const step[] = {
		state_get_mp,  state_get_regs,  state_get_sregs, state_get_xcr0,   kvm_get_xsave,
		kvm_get_debug, state_get_lapic, kvm_get_msrs,    state_get_events,
	};
	int rc = 0;

	memset(ret, 0, sizeof(*ret));
	for (unsigned i = 0; rc >= 0 && i < COUNT_OF(step); i++)
		rc = step[i](kvm_vcpu(v), ret, e);
	return rc < 0 ? rc : 0;
}

int kvm_set(struct accel_vcpu *v, const struct cpu_state *s, struct err *e)
{
	static state_set_fn *const step[] = {
		state_set_sregs, state_set_xcr0, kvm_set_xsave,    state_set_regs, kvm_set_debug,
		state_set_lapic, kvm_set_msrs,   state_set_events, state_set_mp,
	};
	int rc = 0;

	for (unsigned i = 0; rc >= 0 && i < COUNT_OF(step); i++)
		rc = step[i](kvm_vcpu(v), s, e);
	return rc < 0 ? rc : 0;
}
