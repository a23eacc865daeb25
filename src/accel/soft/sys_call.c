/*
 * Fast calls into ring 0 and back (SDM 3A 5.8.7, 5.8.8), and the bases of FS and GS that go with
 * them.
 */
#include "accel/soft/sys_op.h"

/* ---- SYSCALL, SYSENTER ---- */

static struct cpu_seg flat_code(uint16_t sel, unsigned dpl, bool is64)
{
	return (struct cpu_seg){
		.sel = sel,
		.limit = 0xffffffff,
		.attr = 0xb | SEG_S | dpl << SEG_DPL_SHIFT | SEG_P | SEG_G |
			(is64 ? (uint32_t)SEG_L : (uint32_t)SEG_DB),
	};
}

static struct cpu_seg flat_data(uint16_t sel, unsigned dpl)
{
	return (struct cpu_seg){
		.sel = sel,
		.limit = 0xffffffff,
		.attr = 3 | SEG_S | dpl << SEG_DPL_SHIFT | SEG_P | SEG_G | SEG_DB,
	};
}

static void syscall_long(struct scpu *c, const struct insn *i)
{
	uint16_t sel = c->star >> 32 & 0xfffc;
	uint64_t fl = soft_rflags_get(c);
	bool from64 = soft_64(c);

	c->gpr[X86_RCX] = soft_next_rip(c, i);
	c->gpr[X86_R11] = fl & ~X86_FL_RF;
	c->rip = from64 ? c->lstar : c->cstar;
	c->seg[X86_CS] = flat_code(sel, 0, true);
	c->seg[X86_SS] = flat_data((uint16_t)(sel + 8), 0);
	soft_rflags_set(c, (fl & ~c->fmask & ~X86_FL_RF) | X86_FL_FIXED);
	soft_mode_changed(c);
}

static void syscall_legacy(struct scpu *c, const struct insn *i)
{
	uint16_t sel = c->star >> 32 & 0xfffc;

	c->gpr[X86_RCX] = soft_next_rip(c, i);
	c->rip = (uint32_t)c->star;
	c->seg[X86_CS] = flat_code(sel, 0, false);
	c->seg[X86_SS] = flat_data((uint16_t)(sel + 8), 0);
	soft_rflags_merge(c, 0, X86_FL_IF | X86_FL_VM | X86_FL_RF);
	soft_mode_changed(c);
}

/* AMD has it in every protected mode, Intel in 64-bit mode alone. */
void sys_syscall(struct scpu *c, const struct insn *i)
{
	if (!(c->efer & X86_EFER_SCE) || !soft_prot(c) || (c->run->intel && !soft_64(c)))
		soft_ud(c, i);
	if (soft_long(c))
		syscall_long(c, i);
	else
		syscall_legacy(c, i);
}

static void sysret_long(struct scpu *c, const struct insn *i)
{
	uint16_t sel = c->star >> 48;
	bool to64 = i->opsize == 8;
	uint64_t rip = to64 ? c->gpr[X86_RCX] : (uint32_t)c->gpr[X86_RCX];

	/* Intel faults here, AMD after the change of ring; both tell the guest. */
	if (to64 && !soft_canonical(rip))
		soft_gp(c, i, 0);
	c->seg[X86_CS] = flat_code((uint16_t)((sel + (to64 ? 16 : 0)) | 3), 3, to64);
	c->seg[X86_SS] = flat_data((uint16_t)((sel + 8) | 3), 3);
	c->rip = rip;
	/* RF and VM are cleared, reserved bits too. */
	soft_rflags_set(c, (c->gpr[X86_R11] & 0x3c7fd5) | X86_FL_FIXED);
	soft_mode_changed(c);
}

void sys_sysret(struct scpu *c, const struct insn *i)
{
	if (!(c->efer & X86_EFER_SCE) || !soft_prot(c) || (c->run->intel && !soft_64(c)))
		soft_ud(c, i);
	need_cpl0(c, i);
	if (soft_long(c)) {
		sysret_long(c, i);
		return;
	}
	uint16_t sel = c->star >> 48;

	c->seg[X86_CS] = flat_code(sel | 3, 3, false);
	c->seg[X86_SS] = flat_data((uint16_t)((sel + 8) | 3), 3);
	c->rip = (uint32_t)c->gpr[X86_RCX];
	soft_rflags_merge(c, X86_FL_IF, X86_FL_IF);
	soft_mode_changed(c);
}

/* AMD has SYSENTER outside long mode only. */
void sys_sysenter(struct scpu *c, const struct insn *i)
{
	if (!c->run->intel && soft_long(c))
		soft_ud(c, i);
	if (!soft_prot(c) || !(c->sysenter_cs & 0xfffc))
		soft_gp(c, i, 0);
	uint16_t sel = c->sysenter_cs & 0xfffc;
	bool wide = soft_long(c);

	soft_rflags_merge(c, 0, X86_FL_VM | X86_FL_IF | X86_FL_RF);
	c->seg[X86_CS] = flat_code(sel, 0, wide);
	c->seg[X86_SS] = flat_data((uint16_t)(sel + 8), 0);
	c->gpr[X86_RSP] = wide ? c->sysenter_esp : (uint32_t)c->sysenter_esp;
	c->rip = wide ? c->sysenter_eip : (uint32_t)c->sysenter_eip;
	soft_mode_changed(c);
}

void sys_sysexit(struct scpu *c, const struct insn *i)
{
	if (!c->run->intel && soft_long(c))
		soft_ud(c, i);
	if (!soft_prot(c) || c->cpl || !(c->sysenter_cs & 0xfffc))
		soft_gp(c, i, 0);
	bool to64 = i->opsize == 8;
	uint16_t sel = (c->sysenter_cs & 0xfffc) + (to64 ? 32 : 16);

	if (to64 && (!soft_canonical(c->gpr[X86_RCX]) || !soft_canonical(c->gpr[X86_RDX])))
		soft_gp(c, i, 0);
	c->rip = to64 ? c->gpr[X86_RDX] : (uint32_t)c->gpr[X86_RDX];
	c->gpr[X86_RSP] = to64 ? c->gpr[X86_RCX] : (uint32_t)c->gpr[X86_RCX];
	c->seg[X86_CS] = flat_code(sel | 3, 3, to64);
	c->seg[X86_SS] = flat_data((uint16_t)((sel + 8) | 3), 3);
	soft_mode_changed(c);
}

/* ---- FS and GS base ---- */

void sys_swapgs(struct scpu *c, const struct insn *i)
{
	if (!soft_64(c))
		soft_ud(c, i);
	need_cpl0(c, i);
	uint64_t gs = c->seg[X86_GS].base;

	c->seg[X86_GS].base = c->sbase[X86_GS] = c->kernel_gs_base;
	c->kernel_gs_base = gs;
	SOFT_NEXT(c, i);
}

static void fsgs_check(struct scpu *c, const struct insn *i)
{
	if (!soft_64(c) || !(c->cr4 & X86_CR4_FSGSBASE))
		soft_ud(c, i);
}

static void base_write(struct scpu *c, const struct insn *i, unsigned seg)
{
	uint64_t v = c->gpr[i->rm] & mask_of(i->opsize);

	fsgs_check(c, i);
	if (!soft_canonical(v))
		soft_gp(c, i, 0);
	c->seg[seg].base = c->sbase[seg] = v;
}

void sys_rdfsbase(struct scpu *c, const struct insn *i)
{
	fsgs_check(c, i);
	gpr_set(c, i->rm, i->opsize, c->seg[X86_FS].base);
	SOFT_NEXT(c, i);
}

void sys_rdgsbase(struct scpu *c, const struct insn *i)
{
	fsgs_check(c, i);
	gpr_set(c, i->rm, i->opsize, c->seg[X86_GS].base);
	SOFT_NEXT(c, i);
}

void sys_wrfsbase(struct scpu *c, const struct insn *i)
{
	base_write(c, i, X86_FS);
	SOFT_NEXT(c, i);
}

void sys_wrgsbase(struct scpu *c, const struct insn *i)
{
	base_write(c, i, X86_GS);
	SOFT_NEXT(c, i);
}
