/*
 * The vCPU's state in and out of struct cpu_state, and INIT.
 *
 * A state that is set comes from a file or a peer: each field is cut to what this CPU can have, so
 * that nothing here can break the engine's own invariants; what makes no sense to the guest is
 * the guest's trouble.
 */
#include "accel/soft/sys_int.h"

#include <string.h>

static void get_segments(const struct scpu *c, struct cpu_state *s)
{
	memcpy(s->seg, c->seg, sizeof(s->seg));
	s->ldt = c->ldt;
	s->tr = c->tr;
	s->gdt = c->gdt;
	s->idt = c->idt;
}

void soft_get_regs(struct scpu *c, struct cpu_state *s)
{
	memcpy(s->gpr, c->gpr, sizeof(s->gpr));
	s->rip = c->rip;
	s->rflags = soft_rflags_get(c);
	get_segments(c, s);
	s->cr0 = c->cr0;
	s->cr2 = c->cr2;
	s->cr3 = c->cr3;
	s->cr4 = c->cr4;
	s->efer = c->efer;
	s->xcr0 = c->xcr0;
	memcpy(s->pdptr, c->pdptr, sizeof(s->pdptr));
	memcpy(s->dr, c->dr, sizeof(s->dr));
	s->dr6 = c->dr6;
	s->dr7 = c->dr7;
	s->xsave_len = 832;
	xsave_to_image(c, s->xsave);
	s->ev = c->ev;
	if (c->rip != c->run->shadow_rip)
		s->ev.shadow = 0;
	s->mp = c->mp;
}

static void set_control(struct scpu *c, const struct cpu_state *s)
{
	const struct soft_run *r = c->run;

	c->cr0 = (s->cr0 & 0xe005003f) | X86_CR0_ET;
	c->cr2 = s->cr2;
	c->cr3 = s->cr3 & 0x000fffffffffffffull;
	c->cr4 = s->cr4 & r->cr4_ok;
	c->efer = s->efer & r->efer_ok;
	c->xcr0 = (s->xcr0 & r->xcr0_ok) | X86_XCR0_X87;
	memcpy(c->pdptr, s->pdptr, sizeof(c->pdptr));
	memcpy(c->dr, s->dr, sizeof(c->dr));
	c->dr6 = (s->dr6 & 0xe00f) | X86_DR6_FIXED;
	c->dr7 = (s->dr7 & 0xffff2bff) | X86_DR7_FIXED;
	/* Long mode is paging with LME; it cannot be without PAE. */
	if (!(c->cr0 & X86_CR0_PE))
		c->cr0 &= ~X86_CR0_PG;
	if (!(c->cr0 & X86_CR0_PG) || !(c->cr4 & X86_CR4_PAE) || !(c->efer & X86_EFER_LME))
		c->efer &= ~X86_EFER_LMA;
	if (!(c->efer & X86_EFER_LMA))
		c->cr4 &= ~X86_CR4_PCIDE;
}

static void set_events(struct scpu *c, const struct cpu_state *s)
{
	c->ev = s->ev;
	c->ev.exc_vector &= 31;
	c->ev.shadow &= X86_SHADOW_STI | X86_SHADOW_MOV_SS;
	c->ev.triple_fault = 0;
	c->run->shadow_rip = s->rip;
	c->irq_waits = false;
	c->run->dr6_hits = 0;
	c->run->delivering = -1;
	c->mp = s->mp <= CPU_MP_HALT ? s->mp : (uint8_t)CPU_MP_RUN;
}

void soft_set_regs(struct scpu *c, const struct cpu_state *s)
{
	uint64_t fl = s->rflags & 0x3f7fd5;

	memcpy(c->gpr, s->gpr, sizeof(s->gpr));
	c->gpr[SREG_NONE] = 0;
	c->rip = s->rip;
	memcpy(c->seg, s->seg, sizeof(c->seg));
	c->ldt = s->ldt;
	c->tr = s->tr;
	c->gdt = s->gdt;
	c->idt = s->idt;
	set_control(c, s);
	if (!(c->cr0 & X86_CR0_PE) || c->efer & X86_EFER_LMA)
		fl &= ~X86_FL_VM;
	c->rflags = X86_FL_FIXED;
	soft_rflags_set(c, fl);
	if (s->xsave_len >= 576 && s->xsave_len <= CPU_XSAVE_MAX)
		xsave_from_image(c, s->xsave);
	set_events(c, s);
	mmu_flush_all(c);
	mmu_debug_changed(c);
	soft_mode_changed(c);
	sync_set_req(c);
}

int soft_get(struct accel_vcpu *v, struct cpu_state *s, struct err *e)
{
	struct scpu *c = (struct scpu *)(void *)v;

	memset(s, 0, sizeof(*s));
	/* What waits is part of the state, as registers. */
	run_lapic_events(c);
	soft_get_regs(c, s);
	s->apic_base = c->lapic.base;
	s->cr8 = lapic_tpr_get(&c->lapic);
	lapic_get_page(&c->lapic, s->lapic);
	msr_save(c, s);
	return 0;
}

/*
 * The vCPUs' TSCs are loaded one after the other and shall agree afterwards: a value that is close
 * to what the first one counts now is taken to be the same clock.
 */
static void set_tsc(struct scpu *c)
{
	struct soft_shared *sh = c->run->sh;
	uint64_t mine = c->tsc_offset - c->tsc_adjust;

	if (!c->v.index) {
		__atomic_store_n(&sh->tsc_offset, mine, __ATOMIC_RELEASE);
		return;
	}
	uint64_t base = __atomic_load_n(&sh->tsc_offset, __ATOMIC_ACQUIRE);
	int64_t apart = (int64_t)(mine - base);
	if (apart < (int64_t)sh->tsc_hz && -apart < (int64_t)sh->tsc_hz)
		c->tsc_offset = base + c->tsc_adjust;
}

int soft_set(struct accel_vcpu *v, const struct cpu_state *s, struct err *e)
{
	struct scpu *c = (struct scpu *)(void *)v;

	(void)lapic_take_events(&c->lapic);
	soft_set_regs(c, s);
	lapic_set_page(&c->lapic, s->lapic, s->apic_base);
	msr_load(c, s);
	set_tsc(c);
	msr_kvmclock_update(c);
	return 0;
}

/* INIT leaves caches, FPU, MTRRs, the TSC and most MSRs alone. */
void soft_reset_init(struct scpu *c)
{
	struct cpu_state s;
	uint64_t keep = c->cr0 & (X86_CR0_CD | X86_CR0_NW);
	bool bsp = c->lapic.base & X86_APIC_BASE_BSP;

	cpu_state_reset(&s, bsp, c->v.apic_id);
	s.cr0 = (s.cr0 & ~(X86_CR0_CD | X86_CR0_NW)) | keep;
	s.xcr0 = c->xcr0;
	xsave_to_image(c, s.xsave);
	s.xsave_len = 832;
	soft_set_regs(c, &s);
	lapic_reset(&c->lapic, true);
}
