/*
 * SYSCALL where KVM loses the change of privilege.
 *
 * Seen on a PVM host: SYSCALL in ring 3 sets RIP, RCX, R11 and RFLAGS, but CS and SS stay those of
 * ring 3.  The kernel's first instruction is then fetched with the user's rights, so the guest gets
 * a page fault at its own entry point, kills the process and, as that was init, panics.
 *
 * The page fault's handler begins with CLAC (a kernel on a processor with SMAP), which such a KVM
 * hands to us.  So here we see the fault before the kernel has looked at it: the frame on the stack
 * has an instruction fetch of ring 3 at the address in LSTAR.  We go back to before the SYSCALL,
 * which the software CPU then does.
 *
 * A program may jump to that address itself.  It gains nothing: RCX - 2 must hold a SYSCALL of its
 * own, and what goes back is what it could have had there: CS, SS and RSP of the frame, and those
 * flags that ring 3 can set.  RFLAGS are in R11, IOPL (which FMASK may have cleared) is lost; IF is
 * set, as it is in every program that cannot change it.
 */
#include "accel/kvm/kvm_int.h"

#include "base/bits.h"
#include "base/bytes.h"
#include "base/num.h"

#define PTE_ADDR 0xffffffffff000ull

enum {
	GATE_LEN = 16,
	RPL = 3,
	PTE_P = 1,
	PTE_PS = 1 << 7,
	/* Flags that ring 3 can set with POPF when IOPL is 0. */
	FL_USER = X86_FL_CF | X86_FL_PF | X86_FL_AF | X86_FL_ZF | X86_FL_SF | X86_FL_TF |
		  X86_FL_DF | X86_FL_OF | X86_FL_NT | X86_FL_AC | X86_FL_ID,
	/* Flat 64-bit code and data of ring 3, accessed (SDM 3A 5.8.8). */
	CODE_ATTR = 0xa0fb,
	DATA_ATTR = 0xc0f3,
};

/*
 * Guest-physical address of a linear one by the guest's tables (SDM 3A 4.5), whoever may use the
 * page: KVM_TRANSLATE refuses what the mode of this moment may not read, such as user pages with
 * SMAP.  False: it is not mapped.
 */
static bool syscall_walk(struct kvm_vcpu *c, uint64_t lin, uint64_t *ret)
{
	const struct kvm_sregs *s = &c->run->s.regs.sregs;
	uint64_t table = s->cr3 & PTE_ADDR;

	for (unsigned shift = s->cr4 & X86_CR4_LA57 ? 48 : 39; shift >= 12; shift -= 9) {
		uint64_t e, in_page = BIT64(shift) - 1;

		if (gmem_read(c->v.vm->o.gmem, table + (lin >> shift & 511) * 8, &e, 8) < 0 ||
		    !(e & PTE_P))
			return false;
		table = e & PTE_ADDR;
		if (shift == 12 || (shift <= 30 && e & PTE_PS)) {
			*ret = (table & ~in_page) | (lin & in_page);
			return true;
		}
	}
	return false;
}

static bool syscall_read(struct kvm_vcpu *c, uint64_t lin, void *ret, unsigned len)
{
	uint8_t *p = ret;

	while (len) {
		unsigned n = MIN(len, 4096 - (unsigned)(lin & 4095));
		uint64_t gpa;

		if (!syscall_walk(c, lin, &gpa) || gmem_read(c->v.vm->o.gmem, gpa, p, n) < 0)
			return false;
		p += n;
		lin += n;
		len -= n;
	}
	return true;
}

/* Is RIP where the page fault's gate leads (SDM 3A 6.14.1)? */
static bool syscall_at_handler(struct kvm_vcpu *c)
{
	const struct kvm_sync_regs *r = &c->run->s.regs;
	uint8_t gate[GATE_LEN];

	if (!syscall_read(c, r->sregs.idt.base + X86_EXC_PF * GATE_LEN, gate, sizeof(gate)))
		return false;
	uint64_t to = ld_le16(gate) | (uint64_t)ld_le16(gate + 6) << 16 |
		      (uint64_t)ld_le32(gate + 8) << 32;
	return r->regs.rip == to;
}

bool kvm_syscall_lost(struct kvm_vcpu *c, struct kvm_fault_frame *ret)
{
	const struct kvm_sync_regs *r = &c->run->s.regs;
	struct kvm_fault_frame f;
	uint8_t code[2];

	/* Without EFER.SCE it comes here, too; then the software CPU raises #UD. */
	if (!(r->sregs.efer & X86_EFER_LMA) || !r->sregs.cs.l || r->sregs.ss.dpl ||
	    !(r->sregs.cr2 >> 63))
		return false;
	/* The frame is an array of 64-bit words, as the struct is. */
	if (!syscall_read(c, r->regs.rsp, &f, sizeof(f)))
		return false;
	if (f.rip != r->sregs.cr2 || (f.cs & RPL) != RPL ||
	    (f.err & (X86_PF_U | X86_PF_I)) != (X86_PF_U | X86_PF_I))
		return false;
	if (f.rip != kvm_msr(c, X86_MSR_LSTAR) || !syscall_at_handler(c))
		return false;
	if (!syscall_read(c, r->regs.rcx - 2, code, sizeof(code)) || code[0] != 0x0f ||
	    code[1] != 0x05)
		return false;
	*ret = f;
	return true;
}

void kvm_syscall_rewind(struct cpu_state *s, const struct kvm_fault_frame *f)
{
	s->rip = s->gpr[X86_RCX] - 2;
	s->rflags = (s->gpr[X86_R11] & FL_USER) | X86_FL_IF | X86_FL_FIXED;
	s->gpr[X86_RSP] = f->rsp;
	s->seg[X86_CS] =
		(struct cpu_seg){ .sel = (uint16_t)f->cs, .limit = 0xffffffff, .attr = CODE_ATTR };
	s->seg[X86_SS] =
		(struct cpu_seg){ .sel = (uint16_t)f->ss, .limit = 0xffffffff, .attr = DATA_ATTR };
}
