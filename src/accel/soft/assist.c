/*
 * One instruction on another engine's state; assist.h says what may be done and why.
 *
 * A struct scpu without a run loop: its page mapping is made anew for each call, every access goes
 * the slow way (soft_mmu.careful), every instruction is decoded alone (code_step).  Stores are told
 * to gmem after the instruction, for the dirty log.  LOCK works on guest memory itself, so it is
 * atomic against the other engine's vCPUs; where it crosses a page or goes to a device it is not.
 *
 * The result is written to the caller's state only when all went well.
 */
#include "accel/soft/assist.h"

#include "accel/soft/evex.h"
#include "accel/soft/insn.h"
#include "accel/soft/mem.h"
#include "accel/soft/sys_int.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/num.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <x86intrin.h>

enum {
	/* Second argument of longjmp(): the instruction cannot be done here. */
	ASSIST_ABORT = 2,
	/* Pieces of memory that one instruction stores to; more are told at once. */
	ASSIST_STORES = 16,
	/* XSTATE_BV in an XSAVE image, and the length with AVX and no more (SDM 1 13.4). */
	ASSIST_XS_BV = 512,
	ASSIST_XS_LEN = 832,
};

struct soft_assist {
	struct scpu *c;
	struct soft_vm vm;
	const struct cpuid_table *cpuid;
	const struct soft_assist_ops *ops;
	void *arg;
	struct {
		uint64_t pa;
		unsigned len;
	} store[ASSIST_STORES];
	unsigned nstore;
};

enum assist_end {
	ASSIST_DONE,
	ASSIST_TRIPLE,
	ASSIST_REFUSED,
};

/* ---- callbacks of mmu.c ---- */

uint32_t assist_apic_ld(struct scpu *c, unsigned off)
{
	struct soft_assist *a = c->run->assist;
	uint32_t v = 0;

	if (!a->ops->apic_read || a->ops->apic_read(a->arg, off, &v) < 0)
		longjmp(c->trap, ASSIST_ABORT);
	return v;
}

void assist_apic_st(struct scpu *c, unsigned off, uint32_t v)
{
	struct soft_assist *a = c->run->assist;

	if (!a->ops->apic_write || a->ops->apic_write(a->arg, off, v) < 0)
		longjmp(c->trap, ASSIST_ABORT);
}

static void assist_tell_stores(struct soft_assist *a)
{
	for (unsigned n = 0; n < a->nstore; n++)
		gmem_wrote(a->vm.vm.o.gmem, a->store[n].pa, a->store[n].len);
	a->nstore = 0;
}

void assist_stores(struct scpu *c, uint64_t pa, unsigned len)
{
	struct soft_assist *a = c->run->assist;

	if (a->nstore == ASSIST_STORES)
		assist_tell_stores(a);
	a->store[a->nstore].pa = pa;
	a->store[a->nstore++].len = len;
}

/* ---- life ---- */

static void assist_cpu_free(struct scpu *c)
{
	if (c->run)
		evex_free(c->run->evex);
	soft_vcpu_parts_free(c);
	free(c);
}

void soft_assist_free(struct soft_assist *a)
{
	if (!a)
		return;
	if (a->c)
		assist_cpu_free(a->c);
	if (a->vm.shared) {
		free(a->vm.shared->page);
		cond_fini(&a->vm.shared->cond);
		lock_fini(&a->vm.shared->lock);
	}
	free(a->vm.shared);
	free(a);
}

static int assist_parts(struct soft_assist *a, struct err *e)
{
	struct soft_shared *sh = a->vm.shared = NEW(struct soft_shared);

	if (!sh)
		return err_set(e, ENOMEM, "no memory");
	lock_init(&sh->lock);
	cond_init(&sh->cond);
	int rc = soft_map(sh, a->vm.vm.o.gmem, e);
	if (rc < 0)
		return rc;
	a->c = aligned_alloc(64, align_up(sizeof(*a->c), 64));
	if (!a->c)
		return err_set(e, ENOMEM, "no memory");
	memset(a->c, 0, sizeof(*a->c));
	a->c->v.vm = &a->vm.vm;
	a->c->v.cpuid = *a->cpuid;
	rc = soft_vcpu_parts(a->c, sh, e);
	if (rc < 0)
		return rc;
	a->c->run->assist = a;
	rc = evex_new(&a->c->run->evex, e);
	if (rc < 0)
		return rc;
	sys_facts(a->c);
	/* Components that we only carry; see soft_run.more. */
	struct cpuid_entry d;
	cpuid_get(a->cpuid, 0xd, 0, &d);
	a->c->run->xcr0_ok |= d.eax;
	return 0;
}

int soft_assist_new(const struct accel_opts *o, const struct cpuid_table *cpuid,
		    const struct soft_assist_ops *ops, void *arg, struct soft_assist **ret,
		    struct err *e)
{
	int rc = soft_host_init(e);

	if (rc < 0)
		return rc;
	struct soft_assist *a = NEW(struct soft_assist);
	if (!a)
		return err_set(e, ENOMEM, "no memory");
	a->vm.vm.o = *o;
	a->cpuid = cpuid;
	a->ops = ops;
	a->arg = arg;
	rc = assist_parts(a, e);
	if (rc < 0) {
		soft_assist_free(a);
		return rc;
	}
	*ret = a;
	return 0;
}

/* ---- what may be done ---- */

static bool form_is_fpu(const struct insn_form *f)
{
	switch (f->sop) {
	case SOP_FXSAVE:
	case SOP_FXRSTOR:
	case SOP_XSAVE:
	case SOP_XSAVEOPT:
	case SOP_XSAVEC:
	case SOP_XSAVES:
	case SOP_XRSTOR:
	case SOP_XRSTORS:
	case SOP_XGETBV:
	case SOP_XSETBV:
		return true;
	default:
		return f->flags & (INSF_X87 | INSF_MMX | INSF_SSE | INSF_AVX);
	}
}

static unsigned form_needs(const struct insn_form *f)
{
	unsigned need = SOFT_ASSIST_REGS | (form_is_fpu(f) ? SOFT_ASSIST_FPU : 0);

	switch (f->sop) {
	case SOP_SYSCALL:
	case SOP_SYSRET:
	case SOP_SYSENTER:
	case SOP_SYSEXIT:
	case SOP_SWAPGS:
	case SOP_RDTSCP:
	case SOP_RDPID:
		return need | SOFT_ASSIST_MSR;
	default:
		break;
	}
	for (unsigned n = 0; n < INSN_OPNDS; n++)
		if (f->opnd[n].kind == OPND_DR)
			need |= SOFT_ASSIST_DEBUG;
	return need;
}

/* What the other engine must do itself: its own state would not follow. */
static bool form_is_theirs(const struct insn_form *f)
{
	switch (f->sop) {
	case SOP_RDMSR:
	case SOP_WRMSR:
	case SOP_CPUID:
	case SOP_IN:
	case SOP_OUT:
	case SOP_INS:
	case SOP_OUTS:
	case SOP_HLT:
	case SOP_INVLPG:
	case SOP_INVPCID:
	case SOP_RDPMC:
	case SOP_VMCALL:
	case SOP_VMMCALL:
	case SOP_MONITOR:
	case SOP_MWAIT:
		return true;
	default:
		return false;
	}
}

/* Not after the first instruction (assist.h). */
static bool form_stops(const struct insn_form *f)
{
	switch (f->sop) {
	case SOP_RDTSC:
	case SOP_RDTSCP:
	case SOP_IRET:
	case SOP_SYSRET:
	case SOP_SYSEXIT:
	case SOP_XSETBV:
	case SOP_LMSW:
	case SOP_CLTS:
	case SOP_STI:
	case SOP_POPF:
		return true;
	default:
		break;
	}
	for (unsigned n = 0; n < INSN_OPNDS; n++)
		if (f->opnd[n].kind == OPND_CR || f->opnd[n].kind == OPND_DR)
			return true;
	return false;
}

static bool form_stores(const struct insn_form *f, const struct insn *i)
{
	if (f->flags & INSF_STACK)
		return true;
	if (i->flags & INSN_MEM && f->mem_access & INSA_W)
		return true;
	for (unsigned n = 0; n < INSN_OPNDS; n++)
		if (f->opnd[n].access & INSA_W &&
		    (f->opnd[n].kind == OPND_STR_DST || f->opnd[n].kind == OPND_MASKMOV))
			return true;
	return false;
}

int soft_assist_need(struct soft_assist *a, const uint8_t *bytes, unsigned len, unsigned code_size)
{
	struct insn i;
	int rc = soft_decode(bytes, MIN(len, 15u), code_size, &i);

	if (rc == -EILSEQ && code_size == 64 && a->c->run->evex) {
		rc = evex_decode(NULL, bytes, MIN(len, 15u), &i);
		if (rc > 0)
			return (int)form_needs(&evex_form);
	}
	if (rc == -ENODATA)
		return SOFT_ASSIST_REGS | SOFT_ASSIST_FPU | SOFT_ASSIST_MSR;
	if (rc < 0)
		return SOFT_ASSIST_REGS;
	const struct insn_form *f = &insn_forms[i.form];
	return form_is_theirs(f) ? -EOPNOTSUPP : (int)form_needs(f);
}

/* ---- running ---- */

/* The form of the instruction at RIP; NULL: its bytes cannot be read. */
static const struct insn_form *assist_peek(struct soft_assist *a, struct insn *i)
{
	struct scpu *c = a->c;
	uint64_t cr2 = c->cr2;
	const struct insn_form *f = NULL;

	c->run->trap_set = true;
	if (!setjmp(c->trap)) {
		f = &insn_forms[code_peek(c, i) ? i->form : 0];
		if (i->fn == evex_insn)
			f = &evex_form;
	} else {
		c->ev.exc_pending = 0;
		c->cr2 = cr2;
	}
	c->run->trap_set = false;
	return f;
}

static enum assist_end assist_after(struct soft_assist *a, enum assist_end end)
{
	code_finish(a->c);
	assist_tell_stores(a);
	a->c->run->trap_set = false;
	a->c->run->delivering = -1;
	return end;
}

static enum assist_end assist_step(struct soft_assist *a)
{
	struct scpu *c = a->c;

	c->run->trap_set = true;
	switch (setjmp(c->trap)) {
	case 0:
		run_one(c);
		break;
	case ASSIST_ABORT:
		return assist_after(a, ASSIST_REFUSED);
	default:
		c->run->ext = false;
		break;
	}
	while (c->ev.exc_pending)
		if (!exc_deliver(c))
			return assist_after(a, ASSIST_TRIPLE);
	return assist_after(a, ASSIST_DONE);
}

/* gmem's regions may have changed since the last call. */
static int assist_map(struct soft_assist *a, struct err *e)
{
	const struct gmem *g = a->vm.vm.o.gmem;
	const struct soft_shared *sh = a->vm.shared;
	bool same = g->n == sh->nmap;

	for (unsigned n = 0; same && n < g->n; n++)
		same = g->r[n].gpa == sh->map[n].gpa && g->r[n].len == sh->map[n].len &&
		       g->r[n].host == sh->map[n].host && g->r[n].readonly == sh->map[n].readonly;
	if (same)
		return 0;
	int rc = soft_map(a->vm.shared, g, e);
	return rc < 0 ? rc : soft_vcpu_resize(a->c, e);
}

static void assist_load(struct soft_assist *a, struct cpu_state *s, unsigned have)
{
	struct scpu *c = a->c;

	soft_set_regs(c, s);
	c->run->more = have & SOFT_ASSIST_FPU && s->xsave_len > ASSIST_XS_LEN ? s->xsave : NULL;
	c->ev.exc_pending = 0;
	c->ev.int_pending = 0;
	c->lapic.base = s->apic_base;
	if (!(have & SOFT_ASSIST_DEBUG)) {
		c->dr7 = X86_DR7_FIXED;
		mmu_debug_changed(c);
	}
	if (have & SOFT_ASSIST_MSR)
		msr_load(c, s);
	if (c->cr0 & X86_CR0_PG && c->cr4 & X86_CR4_PAE && !soft_long(c) &&
	    !(have & SOFT_ASSIST_PDPTR))
		(void)mmu_load_pdptrs(c, c->cr3);
	if (a->ops->tsc)
		c->tsc_offset = a->ops->tsc(a->arg) - __rdtsc();
}

/* Parts that were not given stay as they are in *s. */
static void assist_store(struct soft_assist *a, struct cpu_state *s, unsigned have)
{
	const struct cpu_state was = *s;
	struct scpu *c = a->c;

	c->run->more = NULL;
	soft_get_regs(c, s);
	/* These belong to the other engine. */
	s->ev.int_pending = was.ev.int_pending;
	s->ev.int_vector = was.ev.int_vector;
	s->ev.int_soft = was.ev.int_soft;
	s->ev.nmi_pending = was.ev.nmi_pending;
	s->mp = was.mp;
	if (!(have & SOFT_ASSIST_FPU)) {
		memcpy(s->xsave, was.xsave, sizeof(s->xsave));
		s->xcr0 = was.xcr0;
	} else {
		/* What lies behind AVX is in place (soft_run.more); its bits of XSTATE_BV. */
		st_le64(s->xsave + ASSIST_XS_BV,
			ld_le64(s->xsave + ASSIST_XS_BV) |
				(ld_le64(was.xsave + ASSIST_XS_BV) & ~7ull));
	}
	s->xsave_len = was.xsave_len;
	if (!(have & SOFT_ASSIST_DEBUG)) {
		memcpy(s->dr, was.dr, sizeof(s->dr));
		s->dr6 = was.dr6;
		s->dr7 = was.dr7;
	}
	if (have & SOFT_ASSIST_MSR)
		for (unsigned n = 0; n < s->nmsr; n++)
			(void)msr_read(c, s->msr[n].index, &s->msr[n].value);
}

/* May the run go on with the next instruction? */
static bool assist_goes_on(struct soft_assist *a, unsigned have)
{
	struct insn i;

	if (a->c->cpl || a->c->rflags & X86_FL_TF)
		return false;
	const struct insn_form *f = assist_peek(a, &i);
	if (!f || f == &insn_forms[0] || f->class == INSC_UD)
		return false;
	if (form_needs(f) & ~have || form_is_theirs(f) || form_stops(f))
		return false;
	return !form_stores(f, &i) || form_is_fpu(f);
}

int soft_assist_run(struct soft_assist *a, struct cpu_state *s, unsigned have, unsigned max,
		    struct soft_assist_result *ret, struct err *e)
{
	struct scpu *c = a->c;
	struct insn i;
	enum assist_end end;
	unsigned changed = SOFT_ASSIST_REGS;
	int rc = assist_map(a, e);

	if (rc < 0)
		return rc;
	assist_load(a, s, have);
	*ret = (struct soft_assist_result){ .mnemonic = "(fetch)" };
	const struct insn_form *f = assist_peek(a, &i);
	if (f && f != &insn_forms[0]) {
		ret->mnemonic = f->name;
		if (form_is_theirs(f) || form_needs(f) & ~have)
			return err_set(e, EOPNOTSUPP, "%s is not done by the software CPU here",
				       f->name);
	}
	do {
		uint64_t excs = c->run->excs;

		if (f && form_is_fpu(f))
			changed |= SOFT_ASSIST_FPU;
		if (f)
			changed |= form_needs(f) & (SOFT_ASSIST_MSR | SOFT_ASSIST_DEBUG);
		end = assist_step(a);
		if (end == ASSIST_REFUSED && !ret->insns)
			return err_set(e, EOPNOTSUPP, "the local APIC is not accessible");
		if (end == ASSIST_REFUSED)
			break;
		ret->insns++;
		if (end == ASSIST_TRIPLE || c->run->excs != excs)
			break;
		f = NULL;
		if (ret->insns < max && assist_goes_on(a, have))
			f = assist_peek(a, &i);
	} while (f);
	ret->triple_fault = end == ASSIST_TRIPLE;
	ret->changed = changed & have;
	assist_store(a, s, have);
	return 0;
}
