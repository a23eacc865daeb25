/*
 * What the handlers of class SYS share (sys*.c): operands, checks, and their declarations for the
 * one table in sys.c.
 */
#pragma once

#include "accel/soft/insn.h"
#include "accel/soft/mem.h"
#include "accel/soft/sys_int.h"

static inline void sys_end(struct scpu *c, const struct insn *i)
{
	c->rip = soft_next_rip(c, i);
}

static inline uint64_t mask_of(unsigned size)
{
	return ~0ull >> (64 - 8 * size);
}

/* Operand ModRM.rm, register or memory. */
static inline uint64_t rm_get(struct scpu *c, const struct insn *i, unsigned size)
{
	if (i->flags & INSN_MEM)
		return soft_ld(c, i, i->seg, soft_ea(c, i), size);
	return c->gpr[i->rm] & mask_of(size);
}

static inline void gpr_set(struct scpu *c, unsigned r, unsigned size, uint64_t v)
{
	if (size == 2)
		c->gpr[r] = (c->gpr[r] & ~0xffffull) | (v & 0xffff);
	else
		c->gpr[r] = v & mask_of(size);
}

static inline void rm_set(struct scpu *c, const struct insn *i, unsigned size, uint64_t v)
{
	if (i->flags & INSN_MEM)
		soft_st(c, i, i->seg, soft_ea(c, i), size, v);
	else
		gpr_set(c, i->rm, size, v);
}

static inline void need_cpl0(struct scpu *c, const struct insn *i)
{
	if (c->cpl)
		soft_gp(c, i, 0);
}

static inline void need_prot(struct scpu *c, const struct insn *i)
{
	if (!soft_prot_seg(c))
		soft_ud(c, i);
}

static inline void set_zf(struct scpu *c, bool zf)
{
	c->fl = (uint16_t)((c->fl & ~(1u << 14)) | (unsigned)zf << 14);
}

/* UMIP: these are for ring 0 alone then. */
static inline void need_umip(struct scpu *c, const struct insn *i)
{
	if (c->cpl && c->cr4 & X86_CR4_UMIP)
		soft_gp(c, i, 0);
}

/* sys_desc.c */
insn_fn sys_arpl, sys_sldt, sys_str, sys_lldt, sys_ltr, sys_verr, sys_verw, sys_sgdt, sys_sidt,
	sys_lgdt, sys_lidt, sys_lar, sys_lsl;
/* sys_cr.c */
insn_fn sys_mov_from_cr, sys_mov_from_dr, sys_mov_to_cr, sys_mov_to_dr, sys_smsw, sys_lmsw,
	sys_invlpg, sys_clts, sys_invpcid;
/* sys_call.c */
insn_fn sys_swapgs, sys_syscall, sys_sysret, sys_sysenter, sys_sysexit, sys_rdfsbase, sys_rdgsbase,
	sys_wrfsbase, sys_wrgsbase;
/* sys_id.c */
insn_fn sys_rdtscp, sys_xgetbv, sys_xsetbv, sys_wrmsr, sys_rdtsc, sys_rdmsr, sys_rdpmc, sys_cpuid,
	sys_rdrand, sys_rdseed, sys_rdpid;
