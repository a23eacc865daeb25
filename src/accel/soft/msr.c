/*
 * Model-specific registers (SDM 4; APM 2 appendix A), and KVM's paravirtual clock
 * (Documentation/virt/kvm/x86/msr.rst of Linux).
 *
 * What is not here raises #GP, as on a CPU that does not have it: guests probe for that.
 *
 * The clock: a guest page says how to get nanoseconds from the TSC.  Ours runs on the guest's TSC
 * from 0 at the machine's start, the same for all vCPUs, so the "stable" flag is set and the page
 * need not be written again.
 */
#include "cpu/msr.h"

#include "accel/soft/mem.h"
#include "accel/soft/sys_int.h"

#include "base/clock.h"

#include <string.h>

enum {
	/* 8 variable ranges, fixed ranges, write-combining. */
	MTRRCAP_VALUE = 8 | 1 << 8 | 1 << 10,
	MTRR_VARIABLE = 8,
	/* AMD's: the TSC counts at the P0 frequency (Linux complains when it is clear). */
};

/* AMD's and Intel's that read as 0 and take any write: firmware and Linux touch them. */
static bool msr_quiet(uint32_t index)
{
	switch (index) {
	case X86_MSR_PLATFORM_ID:
	case X86_MSR_BIOS_SIGN_ID:
	case 0x79: /* BIOS_UPDT_TRIG */
	case 0x2a: /* EBL_CR_POWERON */
	case 0xce: /* PLATFORM_INFO */
	case X86_MSR_DEBUGCTL:
	case 0x1d7: /* last branch from, to (Linux's early fault code) */
	case 0x1d8:
	case 0x1db:
	case 0x1dc:
	case 0x1dd:
	case 0x1de:
	case 0xc0010010: /* SYSCFG */
	case 0xc001001f: /* NB_CFG */
	case 0xc0010055: /* INT_PENDING_MSG */
	case 0xc0010058: /* FAM10H_MMIO_CONF_BASE */
	case 0xc0010064: /* PSTATE_DEF_BASE */
	case 0xc0010112:
	case 0xc0010113:
	case 0xc0010117: /* VM_HSAVE_PA */
	case 0xc0011020: /* LS_CFG */
	case 0xc0011022: /* DC_CFG */
	case 0xc0011023:
	case 0xc0011029: /* DE_CFG */
	case 0xc001102a: /* BU_CFG2 */
	case 0xc001102c:
		return true;
	default:
		return false;
	}
}

/* The array element that is this MTRR, or NULL. */
static uint64_t *msr_mtrr(struct scpu *c, uint32_t index)
{
	if (index - X86_MSR_MTRR_PHYSBASE0 < 2 * MTRR_VARIABLE)
		return &c->mtrr_phys[index - X86_MSR_MTRR_PHYSBASE0];
	if (index == X86_MSR_MTRR_FIX64K)
		return &c->mtrr_fix[0];
	if (index == X86_MSR_MTRR_FIX16K_80000 || index == X86_MSR_MTRR_FIX16K_A0000)
		return &c->mtrr_fix[1 + index - X86_MSR_MTRR_FIX16K_80000];
	if (index - X86_MSR_MTRR_FIX4K_C0000 < 8)
		return &c->mtrr_fix[3 + index - X86_MSR_MTRR_FIX4K_C0000];
	if (index == X86_MSR_MTRR_DEF_TYPE)
		return &c->mtrr_def;
	return NULL;
}

/* Registers that are a plain 64-bit value. */
static uint64_t *msr_plain(struct scpu *c, uint32_t index)
{
	switch (index) {
	case X86_MSR_SYSENTER_CS:
		return &c->sysenter_cs;
	case X86_MSR_SYSENTER_ESP:
		return &c->sysenter_esp;
	case X86_MSR_SYSENTER_EIP:
		return &c->sysenter_eip;
	case X86_MSR_STAR:
		return &c->star;
	case X86_MSR_LSTAR:
		return &c->lstar;
	case X86_MSR_CSTAR:
		return &c->cstar;
	case X86_MSR_FMASK:
		return &c->fmask;
	case X86_MSR_KERNEL_GS_BASE:
		return &c->kernel_gs_base;
	case X86_MSR_TSC_AUX:
		return &c->tsc_aux;
	case X86_MSR_PAT:
		return &c->pat;
	case X86_MSR_MISC_ENABLE:
		return &c->misc_enable;
	case X86_MSR_SPEC_CTRL:
		return &c->spec_ctrl;
	default:
		return msr_mtrr(c, index);
	}
}

static bool msr_feature_sub(const struct scpu *c, uint32_t leaf, uint32_t sub, unsigned reg,
			    unsigned bit)
{
	struct cpuid_entry e;

	cpuid_get(&c->v.cpuid, leaf, sub, &e);
	const uint32_t v[] = { e.eax, e.ebx, e.ecx, e.edx };
	return v[reg] >> bit & 1;
}

static bool msr_feature(const struct scpu *c, uint32_t leaf, unsigned reg, unsigned bit)
{
	return msr_feature_sub(c, leaf, 0, reg, bit);
}

/* Intel's IBRS, STIBP or SSBD, or AMD's. */
static bool msr_has_spec_ctrl(const struct scpu *c)
{
	return msr_feature(c, 7, 3, 26) || msr_feature(c, 7, 3, 27) || msr_feature(c, 7, 3, 31) ||
	       msr_feature(c, 0x80000008, 1, 14) || msr_feature(c, 0x80000008, 1, 15) ||
	       msr_feature(c, 0x80000008, 1, 24);
}

/* IBRS, STIBP, SSBD, PSFD; with BHI_CTRL BHI_DIS_S.  Without effect here. */
static bool msr_spec_ctrl_ok(const struct scpu *c, uint64_t v)
{
	uint64_t ok = 0x87 | (msr_feature_sub(c, 7, 2, 3, 4) ? BIT64(10) : 0);

	return msr_has_spec_ctrl(c) && !(v & ~ok);
}

/* IBPB: a command without effect here. */
static bool msr_has_pred_cmd(const struct scpu *c)
{
	return msr_feature(c, 7, 3, 26) || msr_feature(c, 0x80000008, 1, 12);
}

/*
 * Not vulnerable (SDM 4, IA32_ARCH_CAPABILITIES): no address of the guest is speculated with by us
 * before its rights were checked.  With Intel's SPEC_CTRL also enhanced IBRS (bit 1), so that
 *guests use no retpolines.
 *
 *	0 RDCL_NO (Meltdown)	3 SKIP_L1DFL		4 SSB_NO		5 MDS_NO
 *	6 PSCHANGE_MC_NO	8 TAA_NO		13 SBDR_SSDP_NO		14 FBSDP_NO
 *	15 PSDP_NO		17 FB_CLEAR		20 BHI_NO		24 PBRSB_NO
 *	26 GDS_NO		27 RFDS_NO		62 ITS_NO
 */
#define ARCH_CAPABILITIES_VALUE 0x400000000d12e179ull
#define ARCH_CAPABILITIES_IBRS_ALL BIT64(1)

static bool msr_read_clock(const struct scpu *c, uint32_t index, uint64_t *ret)
{
	switch (index) {
	case X86_MSR_TSC:
		*ret = soft_tsc(c);
		return true;
	case X86_MSR_TSC_ADJUST:
		*ret = c->tsc_adjust;
		return true;
	case X86_MSR_MPERF:
	case X86_MSR_APERF:
		*ret = soft_tsc(c);
		return msr_feature(c, 6, 2, 0);
	case X86_MSR_KVM_WALL_CLOCK:
	case 0x11:
		*ret = c->kvmclock_wall_msr;
		return true;
	case X86_MSR_KVM_SYSTEM_TIME:
	case 0x12:
		*ret = c->kvmclock_msr;
		return true;
	default:
		return false;
	}
}

bool msr_read(struct scpu *c, uint32_t index, uint64_t *ret)
{
	uint64_t *p = msr_plain(c, index);

	if (index == X86_MSR_SPEC_CTRL && !msr_has_spec_ctrl(c))
		return false;
	if (p) {
		*ret = *p;
		return true;
	}
	switch (index) {
	case X86_MSR_EFER:
		*ret = c->efer;
		return true;
	case X86_MSR_FS_BASE:
		*ret = c->seg[X86_FS].base;
		return true;
	case X86_MSR_GS_BASE:
		*ret = c->seg[X86_GS].base;
		return true;
	case X86_MSR_MTRRCAP:
		*ret = MTRRCAP_VALUE;
		return true;
	case X86_MSR_ARCH_CAPABILITIES:
		*ret = ARCH_CAPABILITIES_VALUE;
		if (msr_feature(c, 7, 3, 26))
			*ret |= ARCH_CAPABILITIES_IBRS_ALL;
		return msr_feature(c, 7, 3, 29);
	case X86_MSR_MCG_CAP:
	case X86_MSR_MCG_STATUS:
		/* No banks. */
		*ret = 0;
		return true;
	case X86_MSR_FEATURE_CONTROL:
		/* Locked, nothing enabled. */
		*ret = 1;
		return c->run->intel;
	case X86_MSR_XSS:
		*ret = 0;
		return true;
	case X86_MSR_HWCR:
		*ret = X86_HWCR_TSC_FREQ_SEL;
		return true;
	case X86_MSR_APIC_BASE:
	case X86_MSR_TSC_DEADLINE:
	case X86_MSR_X2APIC_FIRST ... X86_MSR_X2APIC_LAST:
		return lapic_msr_read(&c->lapic, index, ret) == 0;
	default:
		*ret = 0;
		return msr_read_clock(c, index, ret) || msr_quiet(index);
	}
}

/* ---- writes ---- */

static bool msr_write_efer(struct scpu *c, uint64_t v)
{
	uint64_t old = c->efer;

	if (v & ~(c->run->efer_ok | X86_EFER_LMA))
		return false;
	if ((old ^ v) & X86_EFER_LME && c->cr0 & X86_CR0_PG)
		return false;
	c->efer = (v & ~X86_EFER_LMA) | (old & X86_EFER_LMA);
	if ((old ^ v) & X86_EFER_NXE)
		mmu_flush_all(c);
	return true;
}

/* 8 memory types of one byte each; 2 and 3 and those above 7 are none. */
static bool msr_pat_ok(uint64_t v)
{
	for (unsigned n = 0; n < 8; n++) {
		unsigned t = v >> (8 * n) & 0xff;

		if (t > 7 || t == 2 || t == 3)
			return false;
	}
	return true;
}

static bool msr_mtrr_type_ok(unsigned t)
{
	return t == 0 || t == 1 || t == 4 || t == 5 || t == 6;
}

static bool msr_mtrr_ok(const struct scpu *c, uint32_t index, uint64_t v)
{
	if (index == X86_MSR_MTRR_DEF_TYPE)
		return !(v & ~0xcffull) && msr_mtrr_type_ok(v & 0xff);
	if (index >= X86_MSR_MTRR_FIX64K) {
		for (unsigned n = 0; n < 8; n++)
			if (!msr_mtrr_type_ok(v >> (8 * n) & 0xff))
				return false;
		return true;
	}
	uint64_t high = c->mmu->rsvd_phys | ~0ull << 52;
	if (index & 1)
		return !(v & (high | 0x7ff));
	return !(v & (high | 0xf00)) && msr_mtrr_type_ok(v & 0xff);
}

static bool msr_write_plain(struct scpu *c, uint32_t index, uint64_t v)
{
	switch (index) {
	case X86_MSR_LSTAR:
	case X86_MSR_CSTAR:
	case X86_MSR_KERNEL_GS_BASE:
	case X86_MSR_SYSENTER_ESP:
	case X86_MSR_SYSENTER_EIP:
		return soft_canonical(v);
	case X86_MSR_FMASK:
		return !(v >> 32);
	case X86_MSR_TSC_AUX:
		return !(v >> 32);
	case X86_MSR_PAT:
		return msr_pat_ok(v);
	case X86_MSR_SPEC_CTRL:
		return msr_spec_ctrl_ok(c, v);
	case X86_MSR_MISC_ENABLE:
	case X86_MSR_SYSENTER_CS:
	case X86_MSR_STAR:
		return true;
	default:
		return msr_mtrr_ok(c, index, v);
	}
}

static bool msr_write_base(struct scpu *c, unsigned seg, uint64_t v)
{
	if (!soft_canonical(v))
		return false;
	c->seg[seg].base = v;
	c->sbase[seg] = v;
	return true;
}

/* ---- the TSC and the paravirtual clock ---- */

/* struct pvclock_vcpu_time_info */
enum {
	PV_VERSION = 0,
	PV_TSC = 8,
	PV_SYSTEM = 16,
	PV_MUL = 24,
	PV_SHIFT = 28,
	PV_FLAGS = 29,
	PV_LEN = 32,
	PV_STABLE = 1,
};

/* ns = (tsc << shift) * mul / 2^32, or >> for a negative shift. */
static void kvmclock_scale(uint64_t hz, uint32_t *ret_mul, int8_t *ret_shift)
{
	uint64_t num = NS_PER_SEC;
	int8_t shift = 0;

	/* mul = 2^32 * num / hz must lie in [2^31, 2^32). */
	while (num < hz / 2 + 1) {
		num <<= 1;
		shift--;
	}
	while (num >= hz) {
		hz <<= 1;
		shift++;
	}
	*ret_mul = (uint32_t)(((unsigned __int128)num << 32) / hz);
	*ret_shift = shift;
}

void msr_kvmclock_update(struct scpu *c)
{
	uint8_t p[PV_LEN] = { 0 };
	uint64_t pa = c->kvmclock_msr & ~1ull;
	uint32_t mul, version = 0;
	int8_t shift;

	if (!(c->kvmclock_msr & 1))
		return;
	(void)mmu_phys_read(c, pa, &version, sizeof(version));
	kvmclock_scale(c->run->sh->tsc_hz, &mul, &shift);
	/* Odd while it changes; readers are the guest's vCPUs. */
	version = (version | 1) + 2;
	(void)mmu_phys_write(c, pa, &version, sizeof(version));
	st_le32(p + PV_VERSION, version);
	/* The guest may have moved its TSC; time goes on from where it was. */
	st_le64(p + PV_TSC, c->tsc_offset - c->run->sh->tsc_offset);
	st_le64(p + PV_SYSTEM, 0);
	st_le32(p + PV_MUL, mul);
	p[PV_SHIFT] = (uint8_t)shift;
	p[PV_FLAGS] = PV_STABLE;
	(void)mmu_phys_write(c, pa + 4, p + 4, PV_LEN - 4);
	version++;
	(void)mmu_phys_write(c, pa, &version, sizeof(version));
}

/* struct pvclock_wall_clock: version, seconds, nanoseconds at the clock's zero. */
static void kvmclock_wall(struct scpu *c, uint64_t pa)
{
	uint8_t p[12];
	uint64_t now = soft_tsc(c) - (c->tsc_offset - c->run->sh->tsc_offset);
	uint64_t ns = (uint64_t)((unsigned __int128)now * NS_PER_SEC / c->run->sh->tsc_hz);
	uint64_t zero = clock_wall_ns() - ns;

	st_le32(p, 2);
	st_le32(p + 4, (uint32_t)(zero / NS_PER_SEC));
	st_le32(p + 8, (uint32_t)(zero % NS_PER_SEC));
	(void)mmu_phys_write(c, pa, p, sizeof(p));
}

static void msr_move_tsc(struct scpu *c, uint64_t delta)
{
	uint64_t deadline = 0;

	c->tsc_offset += delta;
	msr_kvmclock_update(c);
	/* A deadline is in guest time: arm it anew. */
	if (!lapic_msr_read(&c->lapic, X86_MSR_TSC_DEADLINE, &deadline) && deadline)
		(void)!lapic_msr_write(&c->lapic, X86_MSR_TSC_DEADLINE, deadline);
}

static bool msr_write_clock(struct scpu *c, uint32_t index, uint64_t v)
{
	switch (index) {
	case X86_MSR_TSC: {
		uint64_t delta = v - soft_tsc(c);

		/* SDM 3B 17.17.3: a write to the TSC shows in TSC_ADJUST. */
		c->tsc_adjust += delta;
		msr_move_tsc(c, delta);
		return true;
	}
	case X86_MSR_TSC_ADJUST:
		msr_move_tsc(c, v - c->tsc_adjust);
		c->tsc_adjust = v;
		return true;
	case X86_MSR_MPERF:
	case X86_MSR_APERF:
		return msr_feature(c, 6, 2, 0);
	case X86_MSR_KVM_WALL_CLOCK:
	case 0x11:
		c->kvmclock_wall_msr = v;
		kvmclock_wall(c, v & ~3ull);
		return true;
	case X86_MSR_KVM_SYSTEM_TIME:
	case 0x12:
		c->kvmclock_msr = v;
		msr_kvmclock_update(c);
		return true;
	default:
		return false;
	}
}

bool msr_write(struct scpu *c, uint32_t index, uint64_t v)
{
	uint64_t *p = msr_plain(c, index);

	if (p) {
		if (!msr_write_plain(c, index, v))
			return false;
		*p = v;
		return true;
	}
	switch (index) {
	case X86_MSR_EFER:
		return msr_write_efer(c, v);
	case X86_MSR_FS_BASE:
		return msr_write_base(c, X86_FS, v);
	case X86_MSR_GS_BASE:
		return msr_write_base(c, X86_GS, v);
	case X86_MSR_PRED_CMD:
		return msr_has_pred_cmd(c) && !(v & ~1ull);
	case X86_MSR_MCG_STATUS:
	case X86_MSR_XSS:
		return !v;
	case X86_MSR_HWCR:
		return true;
	case X86_MSR_APIC_BASE:
		if (lapic_msr_write(&c->lapic, index, v) < 0)
			return false;
		/* The page may have moved from under cached translations. */
		mmu_drop_l1(c);
		return true;
	case X86_MSR_TSC_DEADLINE:
	case X86_MSR_X2APIC_FIRST ... X86_MSR_X2APIC_LAST:
		return lapic_msr_write(&c->lapic, index, v) == 0;
	default:
		return msr_write_clock(c, index, v) || msr_quiet(index);
	}
}

/* ---- the state as a whole ---- */

void msr_save(struct scpu *c, struct cpu_state *s)
{
	uint64_t v;

	s->nmsr = 0;
	for (unsigned n = 0; n < msr_nsaved; n++)
		if (msr_saved[n].flags & MSR_SOFT && msr_read(c, msr_saved[n].index, &v))
			cpu_state_set_msr(s, msr_saved[n].index, v);
}

/* One value of a loaded state: stored as it is where a guest's write would do more. */
static void msr_load_one(struct scpu *c, uint32_t index, uint64_t v)
{
	uint64_t *p = msr_plain(c, index);

	if (unlikely(c->run->assist) && !p)
		return;
	switch (index) {
	case X86_MSR_TSC:
		c->tsc_offset += v - soft_tsc(c);
		break;
	case X86_MSR_TSC_ADJUST:
		c->tsc_adjust = v;
		break;
	case X86_MSR_KVM_WALL_CLOCK:
		c->kvmclock_wall_msr = v;
		break;
	case X86_MSR_KVM_SYSTEM_TIME:
		c->kvmclock_msr = v;
		break;
	case X86_MSR_TSC_DEADLINE:
		/* Refused outside TSC-deadline mode, where there is none. */
		(void)!lapic_msr_write(&c->lapic, index, v);
		break;
	default:
		if (p && msr_write_plain(c, index, v))
			*p = v;
		break;
	}
}

void msr_load(struct scpu *c, const struct cpu_state *s)
{
	for (unsigned n = 0; n < s->nmsr && n < CPU_MSRS; n++)
		msr_load_one(c, s->msr[n].index, s->msr[n].value);
}
