/*
 * The software CPU's inside: one vCPU's hot struct, decoded instructions, and how its parts call
 * each other.
 *
 *	decode.c	bytes to struct insn, from the table insn.tab (tools/gen-insn)
 *	bind.c		struct insn to its handler
 *	op_*.c		handlers: integer, flow, strings, system
 *	host.c		forms that run as a copied instruction on the host (SIMD, x87, BMI ...)
 *	mem.h, mmu.c	guest loads and stores
 *	tlb.c		the translation cache
 *	walk.c		page walks, access rights
 *	seg.c, far.c	segment loads, far transfers
 *	task.c		task switch
 *	exc.c		exceptions and interrupts into the guest
 *	sys*.c, msr.c	control registers, MSRs, CPUID; xsave.c
 *	code.c		decoded blocks, look-up, self-modifying code
 *	run.c		the loop
 *	soft.c		life cycle, timers, kicks, cpu_state in and out
 *
 * Handlers and faults.  A handler may raise at any access through soft_raise(), which does not
 * return (it longjmps to the run loop), so: all accesses that can fault come before the first
 * change of architectural state, and a handler holds no resource across an access.
 */
#pragma once

#include "accel/accel.h"
#include "base/bits.h"
#include "cpu/x86.h"
#include "irq/chips.h"

#include <setjmp.h>

struct scpu;
struct insn;
struct sblock;

typedef void insn_fn(struct scpu *c, const struct insn *i);

/* Pseudo register numbers for addresses: always zero, and the linear... RIP of the block's start.
 */
enum {
	SREG_NONE = 16,
	SREG_RIP = 17,
	SREGS,
};

enum insn_flag {
	INSN_LOCK = 1 << 0,
	INSN_REP = 1 << 1,
	INSN_REPNE = 1 << 2,
	INSN_66 = 1 << 3,
	/* ModRM names memory. */
	INSN_MEM = 1 << 4,
	INSN_REX = 1 << 5,
	INSN_REXW = 1 << 6,
	INSN_VEX = 1 << 7,
	INSN_VEXL = 1 << 8,
	/* Ends a block: flow, system. */
	INSN_END = 1 << 9,
	/* reg (rm) is AH, CH, DH or BH: its number is that of AX.. and the byte is bits 15-8. */
	INSN_REG_HIGH = 1 << 10,
	INSN_RM_HIGH = 1 << 11,
	/* An explicit segment prefix. */
	INSN_SEG = 1 << 12,
};

/* insn.enc: opcode map (0 one byte, 1 0F, 2 0F 38, 3 0F 3A), mandatory prefix as VEX.pp has it, and
 * is there a ModRM byte? */
enum {
	INSN_ENC_MAP = 3,
	INSN_ENC_PP_SHIFT = 2,
	INSN_ENC_PP = 3 << INSN_ENC_PP_SHIFT,
	INSN_ENC_MODRM = 1 << 4,
};

/* One decoded instruction: a cache line. */
struct insn {
	insn_fn *fn;
	/* Immediate, sign-extended to 64 bits as the form says; branch displacement; far offset. */
	uint64_t imm;
	/* Displacement; for SREG_RIP counted from the block's start. */
	int64_t disp;
	/* 0xffff, 0xffffffff or all ones. */
	uint64_t ea_mask;
	/* What bind.c wants to keep, e.g. the host stub. */
	void *aux;
	/* Index into insn_forms[]. */
	uint16_t form;
	/* From the block's first byte. */
	uint16_t off;
	/* INSN_* */
	uint16_t flags;
	/* Second immediate: ENTER's level, far selector, EXTRQ ... */
	uint16_t imm2;
	uint8_t len;
	/* Operand size in bytes: 1, 2, 4, 8 (integer); 8, 16, 32 (vector). */
	uint8_t opsize;
	/* 2, 4, 8 */
	uint8_t adsize;
	uint8_t opcode, modrm;
	/* ModRM.reg and, unless INSN_MEM, ModRM.rm with REX/VEX bits. */
	uint8_t reg, rm;
	/* Memory operand: registers or SREG_NONE/SREG_RIP; scale is a shift count. */
	uint8_t base, index, scale;
	/* X86_ES... effective segment of the memory operand. */
	uint8_t seg;
	uint8_t vvvv;
	/* /is4 register of VEX forms. */
	uint8_t is4;
	/* How it was encoded: INSN_ENC_*. */
	uint8_t enc;
	/* Immediate bytes, the last ones of the instruction. */
	uint8_t tail;
	uint8_t pad;
};
static_assert(sizeof(struct insn) == 64, "one cache line");

/*
 * decode.c.  Code size 16, 32 or 64; `avail` bytes can be read at p (more than 15 have no
 * influence).  Returns the length and fills *ret except fn, aux and off; or, *ret then being
 * undefined:
 *	-EILSEQ	#UD	(also: LOCK where it is not allowed)
 *	-E2BIG	longer than 15 bytes: #GP(0)
 *	-ENODATA	more bytes are needed
 *
 * RIP-relative operands: base is SREG_RIP and disp counts from the first byte of this instruction
 * (the length is added in already).  As gpr[SREG_RIP] holds the RIP of the block, who builds a
 *block adds insn.off to disp of these.
 *
 * flags: REP, REPNE, 66 say that the prefix is there, also where it is part of the opcode; of REP
 * and REPNE only the last one.  REX: one counts.  REXW: REX.W or VEX.W.  MEM is also set for the
 * memory offsets of A0-A3 (base and index are SREG_NONE), but not for string instructions, whose
 * source segment is `seg`.  Unused fields are 0, base and index SREG_NONE, seg X86_DS or the
 *prefix.
 */
NODISCARD int soft_decode(const uint8_t *p, unsigned avail, unsigned code_size, struct insn *ret);
/* Whose CPUs to follow where they differ, AMD at first; before any vCPU runs.  See decode.c. */
void soft_decode_vendor(bool intel);

/* bind.c: sets i->fn and i->aux from the form; bytes are the instruction's own. */
void soft_bind(struct scpu *c, struct insn *i, const uint8_t *bytes, unsigned code_size);
/*
 * sys.c: the handler of a form of class SYS, and of those of the other classes that load segment
 * registers or are far (far JMP, CALL, RET, IRET, INT n, INT3, INTO, MOV and POP sreg, LxS ...);
 * NULL for one it does not know.  May set i->aux.
 */
insn_fn *soft_sys_bind(struct scpu *c, struct insn *i, unsigned code_size);

/*
 * host.c: stubs, machine code that runs one guest instruction on the host.  They live in a buffer
 * of each vCPU; decoded instructions point into it, so before code.c decodes a block it asks
 * soft_host_full() and, if so, drops every decoded block of this vCPU and calls soft_host_reset().
 */
struct soft_host;
NODISCARD int soft_host_new(struct soft_host **ret, struct err *e);
void soft_host_free(struct soft_host *h);
bool soft_host_full(const struct soft_host *h);
void soft_host_reset(struct soft_host *h);
/* Once in the process, before any vCPU runs: the handler of SIGFPE. */
NODISCARD int soft_host_init(struct err *e);

enum {
	STLB_BITS = 12,
	STLB_SIZE = 1 << STLB_BITS,
	/* mmu indices: supervisor; user; supervisor with SMAP's override (EFLAGS.AC). */
	SMMU_KERNEL = 0,
	SMMU_USER = 1,
	SMMU_KERNEL_AC = 2,
	SMMUS = 3,
};

/* A linear page, and what leads from a linear address in it to the host address.  An empty entry's
 * tag can match no address. */
struct stlb {
	uint64_t tag;
	uint64_t addend;
};

/* Host address of lin, which hits t. */
static inline void *stlb_at(const struct stlb *t, uint64_t lin)
{
	return (void *)(uintptr_t)(lin + t->addend);
}

struct stlb_set {
	struct stlb r[STLB_SIZE];
	/* Only pages that are writable, dirty, logged, and hold no decoded code. */
	struct stlb w[STLB_SIZE];
};

/* The translator's jump cache: where branches to `va` go in the mode and address space `id`. */
struct sjump {
	uint64_t va;
	uint64_t page;
	uint64_t code;
	uint32_t id, pad;
};

enum {
	SJUMPS = 4096,
	SJUMP_PAIR = 2 * sizeof(struct sjump),
	SJUMP_SHIFT = 14,
};
#define SJUMP_MUL 0x9e3779b1u

enum {
	JIT_GROUPS = 16,
};

struct scpu {
	struct accel_vcpu v;

	/* General registers; [SREG_NONE] is 0, [SREG_RIP] the RIP of the running block's start. */
	uint64_t gpr[SREGS];
	/* Where execution goes on after the running block; at rest, the RIP. */
	uint64_t rip;
	/*
	 * Status flags as `lahf; seto al` leaves AX: OF in bit 0, CF 8, PF 10, AF 12, ZF 14, SF 15.
	 * The rest of RFLAGS is in rflags (whose status bits are 0 and bit 1 is set).
	 */
	uint16_t fl;
	uint8_t cpl;
	/* 16, 32, 64. */
	uint8_t code_size;
	uint64_t rflags;

	/* Fast half of segmentation: linear = (ea + sbase[seg]) & lin_mask, for segments whose bit
	 * is set in seg_rd / seg_wr (flat limit, right type); others go through soft_seg_lin(). */
	uint64_t sbase[6];
	uint64_t lin_mask;
	/* Of the stack pointer: 0xffff, 0xffffffff, all ones. */
	uint64_t sp_mask;
	uint8_t seg_rd, seg_wr;

	/* Set by any thread: look at `req` and interrupts before the next block. */
	uint32_t exit_req;

	/*
	 * Of translated code (jit/): the number of the mode and address space that run, 0 while
	 * exit_req is set; the linear address of the running block's page; do the host's vector
	 * (x87) registers hold the guest's?  Why and with what it was left; the stack of who called
	 * it; places for a moment; what it calls.
	 */
	uint32_t jit_id;
	uint8_t jit_vec, jit_x87;
	uint64_t jit_page;
	uint32_t jit_why, jit_arg, jit_arg_high, jit_mxcsr0;
	uint64_t jit_sp, jit_tmp[4];
	/* The stack of return addresses: where it stands and where it is empty; the number that
	 * what is on it holds for. */
	uint64_t jit_ras, jit_ras_base;
	uint32_t jit_ras_id;
	struct scpu *jit_self;
	/* The translator's exits; exits with an old number until one is linked anew. */
	void *jit_exits;
	uint32_t jit_stale;
	void *jit_fill[5];
	/* PAUSEs until the interpreter sees one; an interrupt waits until IF, the priority or the
	 * shadow lets it in. */
	uint32_t jit_pauses;
	uint8_t irq_waits;
	/* Host addresses that accesses of the running block share (jit/plan.c). */
	uint64_t jit_host[JIT_GROUPS];
	/* JM_SINGLE: the next block is run without such. */
	uint32_t jit_single;
	struct soft_jit *jit;

	/* The set that the current privilege uses: &tlbs[mmu_index]. */
	struct stlb_set *tlb;
	uint8_t mmu_index;

	/* Vector registers, low half first; the x87/MMX part as an FXSAVE image (SDM 1 10.5.1). */
	uint8_t ymm[16][32] __attribute__((aligned(64)));
	uint8_t fx[512] __attribute__((aligned(64)));
	/* Of the translator: XSAVE's header behind fx. */
	uint8_t fx_hdr[64];
	uint32_t mxcsr;

	struct cpu_seg seg[6], ldt, tr;
	struct cpu_table gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, efer, xcr0;
	uint64_t pdptr[4];
	uint64_t dr[4], dr6, dr7;
	struct cpu_events ev;
	uint8_t mp;

	uint64_t star, lstar, cstar, fmask, kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t tsc_aux, pat, tsc_adjust, misc_enable, spec_ctrl;
	uint64_t mtrr_def, mtrr_phys[16], mtrr_fix[11];
	/* Guest TSC = host TSC + tsc_offset. */
	uint64_t tsc_offset;
	uint64_t kvmclock_msr, kvmclock_wall_msr;

	struct lapic lapic;
	/* Where soft_raise() goes; set by run.c. */
	jmp_buf trap;
	/* The instruction being executed, for faults found where it is not at hand. */
	const struct insn *cur;

	/* Of host.c; made by soft.c with soft_host_new(). */
	struct soft_host *host;

	/* Owned by code.c, run.c and mmu.c. */
	struct soft_code *code;
	struct soft_run *run;
	struct soft_mmu *mmu;
	struct stlb_set tlbs[SMMUS];
	/* SJUMPS pairs where there is a translator: the latest, and the one before it. */
	struct sjump jump[];
};

struct soft_vm {
	struct accel_vm vm;
	struct irq_chips *chips;
	struct gmem_watch watch;
	/* Owned by soft.c and code.c. */
	struct soft_shared *shared;
};

static inline struct soft_vm *soft_vm(const struct scpu *c)
{
	return (struct soft_vm *)(void *)c->v.vm;
}

/*
 * Blocks.  code.c decodes at most SOFT_BLOCK_MAX instructions and puts a terminator after the last
 * one: an insn whose fn is soft_block_end, with len 0 and off behind the last.  A conditional
 * branch that is not taken goes on with i + 1 by SOFT_NEXT, so that it need not end a block;
 * everything that leaves sets c->rip and returns.
 */
enum {
	SOFT_BLOCK_MAX = 64,
};

/* Leave the block for `target` (already cut to the operand size and checked). */
#define SOFT_GOTO(c, i, target)      \
	do {                         \
		(c)->rip = (target); \
		return;              \
	} while (0)

/* bind.c: the terminator: c->rip = RIP of i. */
insn_fn soft_block_end;
/* bind.c: raises #UD; what a form is bound to that this guest does not have. */
insn_fn soft_op_ud;

/* Goes on with the next instruction of the block: the last statement of a handler that does not
 * end it.  A tail call in optimised builds; a block is short enough for the stack in others. */
#define SOFT_NEXT(c, i) return (i)[1].fn((c), (i) + 1)

/* RIP of this instruction and of the next one. */
static inline uint64_t soft_rip(const struct scpu *c, const struct insn *i)
{
	return c->gpr[SREG_RIP] + i->off;
}

static inline uint64_t soft_next_rip(const struct scpu *c, const struct insn *i)
{
	uint64_t ip = c->gpr[SREG_RIP] + i->off + i->len;

	return c->code_size == 64 ? ip : (uint32_t)ip;
}

/* Effective address of the memory operand, before segmentation. */
static inline uint64_t soft_ea(const struct scpu *c, const struct insn *i)
{
	return (c->gpr[i->base] + (c->gpr[i->index] << i->scale) + (uint64_t)i->disp) & i->ea_mask;
}

/*
 * exc.c.  Raise an exception at instruction i (a fault: RIP stays at i).  has-error-code follows
 * from the vector.  Never returns: architectural state is as before i.
 */
NORETURN void soft_raise(struct scpu *c, const struct insn *i, unsigned vector, uint32_t err);
NORETURN void soft_raise_pf(struct scpu *c, const struct insn *i, uint64_t lin, uint32_t err);
/* Deliver through the IDT now.  soft: INT n, INT3, INTO (DPL is checked, RIP is the return). */
enum soft_int {
	SOFT_INT_HARD,
	SOFT_INT_SOFT,
	SOFT_INT_EXC,
	/* INT1, INT3, INTO: software for DPL checks, no IOPL check in VM86. */
	SOFT_INT_PRIV,
};
void soft_interrupt(struct scpu *c, unsigned vector, enum soft_int kind, bool has_err, uint32_t err,
		    uint64_t return_rip);

/*
 * sys.c: port I/O with the checks of IOPL and the TSS bitmap (SDM 1 19.5); size 1, 2, 4.  For
 * string forms soft_io_check() comes before the memory operand is touched.
 */
void soft_io_check(struct scpu *c, const struct insn *i, uint16_t port, unsigned size);
uint32_t soft_io_read(struct scpu *c, const struct insn *i, uint16_t port, unsigned size);
void soft_io_write(struct scpu *c, const struct insn *i, uint16_t port, unsigned size, uint32_t v);

/* RFLAGS as the guest sees it, and setting all of it (no privilege rules). */
uint64_t soft_rflags_get(const struct scpu *c);
void soft_rflags_set(struct scpu *c, uint64_t v);

/* seg.c: the slow half of segmentation: limit, type and base; raises #GP or #SS. */
uint64_t soft_seg_lin(struct scpu *c, const struct insn *i, unsigned seg, uint64_t ea,
		      unsigned size, bool write);
/* After any change of CPL, segments, CR0, CR4, EFER, EFLAGS.AC/VM: derived fields of scpu. */
void soft_mode_changed(struct scpu *c);
