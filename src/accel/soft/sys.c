/*
 * Handlers of the system instructions (class SYS of insn.tab): the table of them all, and here
 * segment registers, far transfers, flags as a whole, halting, ports.  The rest: sys_cr.c control
 * and debug registers, sys_desc.c descriptor tables, sys_call.c SYSCALL and its kin, sys_id.c time,
 * CPUID, MSRs; far.c and xsave.c.  SDM 2 has a page for each; checks are made in the order of those
 * pages.
 *
 * A handler checks, then does, then either goes on with SOFT_NEXT (it changed nothing that the rest
 * of the block depends on) or sets c->rip and returns (sys_end).
 */
#include "accel/soft/sys_op.h"

#include "base/num.h"

#include <sched.h>

/* ---- segment registers ---- */

/* MOV Sreg, r/m16 */
static void sys_mov_sreg(struct scpu *c, const struct insn *i)
{
	if (i->reg > X86_GS || i->reg == X86_CS)
		soft_ud(c, i);
	seg_load(c, i, i->reg, (uint16_t)rm_get(c, i, 2));
	soft_mode_changed(c);
	sys_end(c, i);
	if (i->reg == X86_SS) {
		c->ev.shadow = X86_SHADOW_MOV_SS;
		c->run->shadow_rip = c->rip;
	}
}

static void sys_pop_sreg(struct scpu *c, const struct insn *i)
{
	struct sstack st = stack_now(c);
	/* Only the selector's word is looked at, but the whole operand is read. */
	uint16_t sel = (uint16_t)stack_pop(c, i, &st, i->opsize);

	seg_load(c, i, i->reg, sel);
	stack_commit(c, &st);
	soft_mode_changed(c);
	sys_end(c, i);
	if (i->reg == X86_SS) {
		c->ev.shadow = X86_SHADOW_MOV_SS;
		c->run->shadow_rip = c->rip;
	}
}

/* Offset and selector of a far pointer in memory. */
static uint16_t far_pointer(struct scpu *c, const struct insn *i, uint64_t *ret_off)
{
	uint64_t ea = soft_ea(c, i);

	*ret_off = soft_ld(c, i, i->seg, ea, i->opsize);
	return (uint16_t)soft_ld(c, i, i->seg, (ea + i->opsize) & i->ea_mask, 2);
}

static void load_far(struct scpu *c, const struct insn *i, unsigned seg)
{
	uint64_t off;
	uint16_t sel = far_pointer(c, i, &off);

	seg_load(c, i, seg, sel);
	gpr_set(c, i->reg, i->opsize, off);
	soft_mode_changed(c);
	sys_end(c, i);
}

static void sys_les(struct scpu *c, const struct insn *i)
{
	load_far(c, i, X86_ES);
}

static void sys_lds(struct scpu *c, const struct insn *i)
{
	load_far(c, i, X86_DS);
}

static void sys_lss(struct scpu *c, const struct insn *i)
{
	load_far(c, i, X86_SS);
}

static void sys_lfs(struct scpu *c, const struct insn *i)
{
	load_far(c, i, X86_FS);
}

static void sys_lgs(struct scpu *c, const struct insn *i)
{
	load_far(c, i, X86_GS);
}

/* ---- far transfers ---- */

static void sys_jmp_far(struct scpu *c, const struct insn *i)
{
	uint64_t off = i->imm & mask_of(i->opsize);
	uint16_t sel = i->imm2;

	if (i->flags & INSN_MEM)
		sel = far_pointer(c, i, &off);
	seg_jmp_far(c, i, sel, off);
}

static void sys_call_far(struct scpu *c, const struct insn *i)
{
	uint64_t off = i->imm & mask_of(i->opsize);
	uint16_t sel = i->imm2;

	if (i->flags & INSN_MEM)
		sel = far_pointer(c, i, &off);
	seg_call_far(c, i, sel, off);
}

static void sys_ret_far(struct scpu *c, const struct insn *i)
{
	seg_ret_far(c, i, i->opcode == 0xca ? i->imm & 0xffff : 0);
}

static void sys_iret(struct scpu *c, const struct insn *i)
{
	seg_iret(c, i);
}

/* ---- software interrupts ---- */

static void soft_int(struct scpu *c, const struct insn *i, unsigned vector, enum soft_int kind)
{
	uint64_t next = soft_next_rip(c, i);

	/* A fault on the way is one of this instruction. */
	c->rip = soft_rip(c, i);
	soft_interrupt(c, vector, kind, false, 0, next);
}

static void sys_int(struct scpu *c, const struct insn *i)
{
	if (soft_vm86(c) && soft_iopl(c) < 3)
		soft_gp(c, i, 0);
	soft_int(c, i, i->imm & 0xff, SOFT_INT_SOFT);
}

static void sys_int3(struct scpu *c, const struct insn *i)
{
	soft_int(c, i, X86_EXC_BP, SOFT_INT_PRIV);
}

static void sys_into(struct scpu *c, const struct insn *i)
{
	if (c->fl & 1)
		soft_int(c, i, X86_EXC_OF, SOFT_INT_PRIV);
	else
		sys_end(c, i);
}

/* INT1 is a trap #DB without DPL checks (SDM 2A INT n, INT1). */
static void sys_int1(struct scpu *c, const struct insn *i)
{
	uint64_t next = soft_next_rip(c, i);

	c->rip = soft_rip(c, i);
	soft_interrupt(c, X86_EXC_DB, SOFT_INT_HARD, false, 0, next);
}

/* ---- flags ---- */

static void sys_pushf(struct scpu *c, const struct insn *i)
{
	struct sstack st = stack_now(c);

	if (soft_vm86(c) && soft_iopl(c) < 3)
		soft_gp(c, i, 0);
	stack_push(c, i, &st, i->opsize, soft_rflags_get(c) & ~(X86_FL_RF | X86_FL_VM));
	stack_commit(c, &st);
	sys_end(c, i);
}

static void sys_popf(struct scpu *c, const struct insn *i)
{
	struct sstack st = stack_now(c);

	if (soft_vm86(c) && soft_iopl(c) < 3)
		soft_gp(c, i, 0);
	uint64_t v = stack_pop(c, i, &st, i->opsize), mask = exc_flags_mask(c, i->opsize);
	/* VIF and VIP are cleared, IOPL stays in virtual-8086 mode (exc_flags_mask says so). */
	if (mask & X86_FL_VIF)
		v &= ~(X86_FL_VIF | X86_FL_VIP);
	stack_commit(c, &st);
	sys_end(c, i);
	soft_rflags_merge(c, v, mask);
	c->rflags &= ~X86_FL_RF;
}

static void sys_cli(struct scpu *c, const struct insn *i)
{
	if (c->cpl > soft_iopl(c))
		soft_gp(c, i, 0);
	c->rflags &= ~X86_FL_IF;
	SOFT_NEXT(c, i);
}

static void sys_sti(struct scpu *c, const struct insn *i)
{
	if (c->cpl > soft_iopl(c))
		soft_gp(c, i, 0);
	sys_end(c, i);
	if (c->rflags & X86_FL_IF)
		return;
	c->rflags |= X86_FL_IF;
	c->ev.shadow = X86_SHADOW_STI;
	c->run->shadow_rip = c->rip;
	soft_irq_window(c);
}

static void sys_clac(struct scpu *c, const struct insn *i)
{
	if (c->cpl)
		soft_ud(c, i);
	c->rflags &= ~X86_FL_AC;
	mmu_select(c);
	SOFT_NEXT(c, i);
}

static void sys_stac(struct scpu *c, const struct insn *i)
{
	if (c->cpl)
		soft_ud(c, i);
	c->rflags |= X86_FL_AC;
	mmu_select(c);
	SOFT_NEXT(c, i);
}

/* ---- halting and waiting ---- */

static void sys_hlt(struct scpu *c, const struct insn *i)
{
	need_cpl0(c, i);
	sys_end(c, i);
	c->mp = CPU_MP_HALT;
	sync_set_req(c);
}

/* A guest that spins waits for another vCPU, which may want this host CPU. */
static void sys_pause(struct scpu *c, const struct insn *i)
{
	enum {
		SPINS = 64,
	};

	sys_end(c, i);
	c->jit_pauses = SPINS;
	if ((c->jit || ++c->run->spins % SPINS == 0) && !c->run->assist && c->run->sh->ncpu > 1)
		sched_yield();
}

/* ---- ports (SDM 1 19.5) ---- */

void soft_io_check(struct scpu *c, const struct insn *i, uint16_t port, unsigned size)
{
	if (!soft_prot(c) || (c->cpl <= soft_iopl(c) && !soft_vm86(c)))
		return;
	/* The bitmap of a 32-bit or 64-bit TSS: every bit of the ports must be 0. */
	if ((c->tr.attr & SEG_TYPE) < 9 || c->tr.limit < 0x67)
		soft_gp(c, i, 0);
	uint32_t at = (uint32_t)soft_sys_ld(c, i, c->tr.base + 0x66, 2) + port / 8;
	if (at + 1 > c->tr.limit)
		soft_gp(c, i, 0);
	uint64_t bits = soft_sys_ld(c, i, c->tr.base + at, 2) >> (port & 7);
	if (bits & (BIT(size) - 1))
		soft_gp(c, i, 0);
}

/* Breakpoints on ports are there with CR4.DE. */
static void io_watch(struct scpu *c, const struct insn *i, uint16_t port, unsigned size)
{
	if (unlikely(c->dr7 & 0xff && c->cr4 & X86_CR4_DE))
		mmu_watch(c, i, port, size, WATCH_PORT);
}

uint32_t soft_io_read(struct scpu *c, const struct insn *i, uint16_t port, unsigned size)
{
	soft_io_check(c, i, port, size);
	io_watch(c, i, port, size);
	return (uint32_t)bus_read(c->v.vm->o.pio, port, size);
}

void soft_io_write(struct scpu *c, const struct insn *i, uint16_t port, unsigned size, uint32_t v)
{
	soft_io_check(c, i, port, size);
	io_watch(c, i, port, size);
	bus_write(c->v.vm->o.pio, port, size, v & mask_of(size));
}

static uint16_t io_port(const struct scpu *c, const struct insn *i)
{
	/* E4-E7 name the port, EC-EF take DX. */
	return i->opcode & 8 ? (uint16_t)c->gpr[X86_RDX] : (uint8_t)i->imm;
}

static unsigned io_size(const struct insn *i)
{
	return i->opcode & 1 ? i->opsize : 1;
}

static void sys_in(struct scpu *c, const struct insn *i)
{
	unsigned size = io_size(i);
	uint32_t v = soft_io_read(c, i, io_port(c, i), size);

	if (size == 1)
		c->gpr[X86_RAX] = (c->gpr[X86_RAX] & ~0xffull) | (v & 0xff);
	else
		gpr_set(c, X86_RAX, size, v);
	sys_end(c, i);
}

static void sys_out(struct scpu *c, const struct insn *i)
{
	soft_io_write(c, i, io_port(c, i), io_size(i), (uint32_t)c->gpr[X86_RAX]);
	sys_end(c, i);
}

/* ---- caches, hypercalls, what is not there ---- */

/* Cache lines need no flushing here; the address is checked as a load. */
static void sys_clflush(struct scpu *c, const struct insn *i)
{
	(void)soft_ld(c, i, i->seg, soft_ea(c, i), 1);
	SOFT_NEXT(c, i);
}

static void sys_wbinvd(struct scpu *c, const struct insn *i)
{
	need_cpl0(c, i);
	sys_end(c, i);
}

/* KVM's hypercalls, by its signature in CPUID: none is offered, so none succeeds. */
static void sys_vmcall(struct scpu *c, const struct insn *i)
{
	struct cpuid_entry e;
	enum {
		KVM_SIGNATURE_EBX = 0x4b4d564b,
		KVM_ENOSYS = 1000,
		KVM_EPERM = 1,
	};

	cpuid_get(&c->v.cpuid, 0x40000000, 0, &e);
	if (e.ebx != KVM_SIGNATURE_EBX)
		soft_ud(c, i);
	gpr_set(c, X86_RAX, soft_64(c) ? 8 : 4, -(uint64_t)(c->cpl ? KVM_EPERM : KVM_ENOSYS));
	sys_end(c, i);
}

static void sys_ud(struct scpu *c, const struct insn *i)
{
	soft_ud(c, i);
}

/* ---- the table ---- */

/* MOV has three kinds here: by the opcode. */
static insn_fn *sys_mov(const struct insn *i)
{
	switch (i->opcode) {
	case 0x8e:
		return sys_mov_sreg;
	case 0x20:
		return sys_mov_from_cr;
	case 0x21:
		return sys_mov_from_dr;
	case 0x22:
		return sys_mov_to_cr;
	case 0x23:
		return sys_mov_to_dr;
	default:
		return NULL;
	}
}

static insn_fn *const sys_handlers[] = {
	[SOP_PAUSE] = sys_pause,       [SOP_POP] = sys_pop_sreg,
	[SOP_PUSHF] = sys_pushf,       [SOP_POPF] = sys_popf,
	[SOP_CALLF] = sys_call_far,    [SOP_JMPF] = sys_jmp_far,
	[SOP_RETF] = sys_ret_far,      [SOP_INT3] = sys_int3,
	[SOP_INT] = sys_int,           [SOP_INTO] = sys_into,
	[SOP_INT1] = sys_int1,         [SOP_IRET] = sys_iret,
	[SOP_CLFLUSH] = sys_clflush,   [SOP_CLFLUSHOPT] = sys_clflush,
	[SOP_CLWB] = sys_clflush,      [SOP_INVD] = sys_wbinvd,
	[SOP_WBINVD] = sys_wbinvd,     [SOP_IN] = sys_in,
	[SOP_OUT] = sys_out,           [SOP_ARPL] = sys_arpl,
	[SOP_LES] = sys_les,           [SOP_LDS] = sys_lds,
	[SOP_LSS] = sys_lss,           [SOP_LFS] = sys_lfs,
	[SOP_LGS] = sys_lgs,           [SOP_SLDT] = sys_sldt,
	[SOP_STR] = sys_str,           [SOP_LLDT] = sys_lldt,
	[SOP_LTR] = sys_ltr,           [SOP_VERR] = sys_verr,
	[SOP_VERW] = sys_verw,         [SOP_SGDT] = sys_sgdt,
	[SOP_SIDT] = sys_sidt,         [SOP_LGDT] = sys_lgdt,
	[SOP_LIDT] = sys_lidt,         [SOP_SMSW] = sys_smsw,
	[SOP_LMSW] = sys_lmsw,         [SOP_LAR] = sys_lar,
	[SOP_LSL] = sys_lsl,           [SOP_INVLPG] = sys_invlpg,
	[SOP_SWAPGS] = sys_swapgs,     [SOP_RDTSCP] = sys_rdtscp,
	[SOP_VMCALL] = sys_vmcall,     [SOP_VMMCALL] = sys_vmcall,
	[SOP_MONITOR] = sys_ud,        [SOP_MWAIT] = sys_ud,
	[SOP_CLAC] = sys_clac,         [SOP_STAC] = sys_stac,
	[SOP_XGETBV] = sys_xgetbv,     [SOP_XSETBV] = sys_xsetbv,
	[SOP_SYSCALL] = sys_syscall,   [SOP_CLTS] = sys_clts,
	[SOP_SYSRET] = sys_sysret,     [SOP_WRMSR] = sys_wrmsr,
	[SOP_RDTSC] = sys_rdtsc,       [SOP_RDMSR] = sys_rdmsr,
	[SOP_RDPMC] = sys_rdpmc,       [SOP_SYSENTER] = sys_sysenter,
	[SOP_SYSEXIT] = sys_sysexit,   [SOP_CPUID] = sys_cpuid,
	[SOP_INVPCID] = sys_invpcid,   [SOP_HLT] = sys_hlt,
	[SOP_CLI] = sys_cli,           [SOP_STI] = sys_sti,
	[SOP_RDFSBASE] = sys_rdfsbase, [SOP_RDGSBASE] = sys_rdgsbase,
	[SOP_WRFSBASE] = sys_wrfsbase, [SOP_WRGSBASE] = sys_wrgsbase,
	[SOP_RDRAND] = sys_rdrand,     [SOP_RDSEED] = sys_rdseed,
	[SOP_RDPID] = sys_rdpid,
};

insn_fn *soft_sys_bind(struct scpu *c, struct insn *i, unsigned code_size)
{
	unsigned sop = insn_forms[i->form].sop;

	if (sop == SOP_MOV)
		return sys_mov(i);
	if (sop < COUNT_OF(sys_handlers) && sys_handlers[sop])
		return sys_handlers[sop];
	return xsave_bind(c, i);
}
