/*
 * The translator inside: its tables, register use, and what its files share.
 *
 * Host registers while translated code runs:
 *	rax rcx rdx rbx rbp rsi rdi r8 r12-r15	the guest's of the same number
 *	r9	the guest's rsp
 *	r10 r11	scratch; the guest's r9, r10, r11 are in scpu.gpr
 *	rsp	the stack of return addresses (below); scpu.jit_sp is the C stack
 * struct scpu lies below 2 GiB, and its fields are used by their addresses.
 * Between two blocks the guest's status flags are in scpu.fl, unless the second one does not need
 * them.  Inside a block they are in the host's RFLAGS or in scpu.fl or in both: struct jt knows.
 * The vector registers and MXCSR hold the guest's while scpu.jit_vec is set, the x87 unit while
 * scpu.jit_x87 is; otherwise they are in scpu and free for use.
 *
 * A guest's CALL is a host's CALL, so that the host predicts the guest's RET.  It pushes the
 * address that the guest is to come back to, and by the host's CALL where the code is that goes on
 * there, the landing.  RET takes the address from the guest's stack into r10 and does the host's
 * RET; the landing compares.  Whatever does not agree (a stack that was switched, an address that
 * was changed, frames that are missing) takes the jump cache as other branches do, and the stack is
 * emptied.  What lies on it holds for one number (link.c); it is empty as the number changes.  Its
 * end is a page that cannot be written: the signal's handler empties it.  Between STAC and CLAC
 * neither is done.
 */
#pragma once

#include "accel/soft/insn.h"
#include "accel/soft/jit/emit.h"
#include "accel/soft/jit/jit.h"
#include "accel/soft/jit/prof.h"
#include "accel/soft/sys_int.h"

enum {
	HR_SP = X86_R9,
	HR_T0 = X86_R10,
	HR_T1 = X86_R11,
	/* Blocks and exits of one vCPU. */
	JIT_BLOCKS = 1 << 19,
	JIT_EXITS = 1 << 20,
	JIT_FAULTS = 1 << 19,
	/* No block is longer, cold parts included. */
	JIT_BLOCK_BYTES = 32 << 10,
	JIT_THUNK_BYTES = 8 << 10,
	JIT_IDS = 256,
	/* Exits to other pages with an old number until one is linked anew. */
	JIT_STALE = 16,
	/* At the entry of a block that died. */
	JIT_KILL_BYTES = 5,
	/* Bits of soft_jit.seen. */
	JIT_SEEN = 1 << 16,
	/* The stack of return addresses: bytes, of which a frame has 16; the page below it. */
	JIT_RAS = 64 << 10,
	JIT_RAS_GUARD = 4096,
	/* For signals' handlers. */
	JIT_SIGSTACK = 64 << 10,
};

/* The mode word. */
enum {
	JM_ON = 1 << 0,
	JM_64 = 1 << 1,
	JM_MMU_SHIFT = 2,
	JM_MMU = 3 << JM_MMU_SHIFT,
	JM_USER = 1 << 4,
	JM_X87 = 1 << 5,
	JM_SSE = 1 << 6,
	JM_AVX = 1 << 7,
	/* CR4.TSD has no effect. */
	JM_TSC = 1 << 26,
	/* Supervisor, and CR4.SMAP: EFLAGS.AC chooses the MMU index. */
	JM_SMAP = 1 << 27,
	/* Each access is looked up for itself (plan.c). */
	JM_SINGLE = 1 << 28,
	/* Six bits each: what seg_rd and seg_wr say, and is the base 0? */
	JM_RD_SHIFT = 8,
	JM_WR_SHIFT = 14,
	JM_BASE0_SHIFT = 20,
};

/* Why translated code was left: scpu.jit_why; scpu.jit_arg. */
enum {
	/* arg: an exit's number. */
	JWHY_LINK,
	/* arg: an access (jit_desc()): the instruction is done by the interpreter. */
	JWHY_INTERP,
	/* rip is set already. */
	JWHY_JUMP,
	/* An indirect branch whose target is in rip; arg: jit_desc(). */
	JWHY_BRANCH,
	/* arg: jit_desc(): the block died. */
	JWHY_DEAD,
	JWHYS,
};

/* With EFLAGS.AC set under SMAP? */
static inline bool jit_is_ac(uint32_t mode)
{
	return (mode >> JM_MMU_SHIFT & 3) == SMMU_KERNEL_AC;
}

/* As what the jump cache knows va: code between STAC and CLAC has entries of its own. */
static inline uint64_t jit_jump_va(uint32_t mode, uint64_t va)
{
	return jit_is_ac(mode) ? va ^ 1ull << 63 : va;
}

/* An instruction of a block, and log2 of an access's size. */
static inline uint32_t jit_desc(uint32_t block, unsigned insn, unsigned size_log)
{
	return block << 10 | insn << 4 | size_log;
}

struct jblock {
	struct sblock *sb;
	/* Where it is entered; from a block that has seen to the same units. */
	uint8_t *rw, *rw_units;
	/* Where the entry is led when the block dies. */
	uint32_t dead_off;
	uint32_t mode;
	/* Next translation of the same decoded block. */
	uint32_t next;
	/* First of the exits that are linked to this block. */
	uint32_t in;
	/* Of its instructions, offsets in the page. */
	const uint16_t *at;
	/* Offset in its page. */
	uint16_t off;
	/* JT_VEC, JT_X87: what it uses. */
	uint8_t units;
	/* Wants the guest's flags in scpu.fl. */
	bool needs_flags;
	bool dead;
};

/* A direct way out of a block. */
struct jexit {
	/* Target from the beginning of the block's page. */
	int64_t target;
	/* The code that is written anew as the exit is linked and unlinked; what puts the flags
	 * into scpu.fl, 0: they are in RFLAGS. */
	uint32_t slot, save;
	uint32_t from, to;
	/* In which it goes on. */
	uint32_t mode;
	/* The branch. */
	uint32_t desc;
	/* Exits linked to the same block. */
	uint32_t next_in;
	/* Units that hold the guest's registers here. */
	uint8_t units;
	/* The flags are not in scpu.fl. */
	bool unsaved;
	/* The target lies behind, or a call's anywhere: the loop that this may close looks at
	 * exit_req here. */
	bool back;
	/* After a call; r10: the address, r11: a function that sees to the flags. */
	bool landing;
};
static_assert(sizeof(struct jexit) == 40 && !offsetof(struct jexit, target), "emit_stale()");

/* A host instruction that may fault on purpose. */
struct jfault {
	uint32_t code_off;
	uint32_t desc;
	/* scpu.fl is not up to date: the flags are in RFLAGS. */
	bool fl_host;
};

/* Numbers of (mode, address space) pairs: who may use a link or a jump cache entry. */
struct jid {
	uint64_t key;
	uint32_t id;
};

struct soft_jit {
	/* The same bytes, writable and executable. */
	uint8_t *rw, *rx;
	size_t size, used;
	struct jblock *block;
	struct jexit *exit;
	struct jfault *fault;
	uint32_t nblock, nexit, nfault;
	/* Exit that was taken and could be linked, and where it led; 0: none. */
	uint32_t pending;
	uint64_t pending_rip;
	struct jid id[JIT_IDS];
	/* The number in use, and the last one given. */
	uint32_t last_id, last;
	bool local_code;
	/* Hashed linear pages that the jump cache or a link may lead to. */
	uint64_t seen[JIT_SEEN / 64];
	/* Thunks, offsets in the code. */
	uint32_t enter, fill_r, fill_w, fill_group_r, fill_group_w, exit_link, exit_interp,
		exit_branch, exit_branch_ac, exit_dead, jump, jump_ac, str, syscall, sysret,
		load_vec, load_x87, ras_miss;
	/* By: 64-bit code, between STAC and CLAC. */
	uint32_t stale[2][2];
	/* What the host has. */
	bool bmi2, xsave;
	/* lockstep.h; NULL: not in lockstep. */
	struct lockstep *lockstep;
	/* Where blocks begin. */
	size_t first;
	/* CPUID features of the guest, by enum insn_feat; made when first wanted. */
	bool feats_made, feat[IFEATS];
	struct insn one[2] __attribute__((aligned(64)));
	/* The guard page and the stack of return addresses; for signals. */
	uint8_t *ras, *sigstack;
	struct jit_stats stats;
};

/* Its fixed pieces by name, for dumps: explain.c. */
enum {
	JIT_THUNKS = 16,
};
struct jit_thunk {
	const char *name;
	/* Of its field in soft_jit. */
	size_t at;
};
extern const struct jit_thunk jit_thunk_name[JIT_THUNKS];
uint32_t jit_thunk_at(const struct soft_jit *j, unsigned n);
/* The one that this byte of the code is in. */
unsigned jit_thunk_of(const struct soft_jit *j, uint32_t off);

#define JOFF(field) offsetof(struct scpu, field)

static inline uint32_t jit_env(const struct scpu *c)
{
	return (uint32_t)(uintptr_t)c;
}

static inline size_t joff_gpr(unsigned g)
{
	return JOFF(gpr) + 8ul * g;
}

/* fill.c: nothing is on the stack of return addresses, and what will be holds for this number. */
void jit_ras_empty(struct scpu *c, uint32_t id);

/* jit.c: into a block, whose RIP is the vCPU's, and what is to be done when it was left. */
void jit_enter(struct scpu *c, uint32_t block);
void jit_left(struct scpu *c);

/* thunk.c: writes all of them at the start of the code. */
void jit_thunks(struct scpu *c);

/* link.c: the exit's slot as it is to be now; to: 0 when it is not linked. */
void jit_exit_write(struct scpu *c, uint32_t exit, uint32_t to);
/* Bytes of a slot. */
unsigned jit_slot_size(const struct jexit *x);
void jit_link(struct scpu *c, uint32_t exit, uint32_t to);
/* The number of the mode and address space that run. */
uint32_t jit_id(struct scpu *c, uint32_t mode);
/* RIP may be reached from translated code by this block. */
void jit_jump_fill(struct scpu *c, uint32_t j);

/* Pieces that thunks and blocks share. */
void jit_emit_save_flags(struct jbuf *b);
/* Changes the scratch register. */
void jit_emit_load_flags(struct jbuf *b, unsigned scratch);
/* Look r10 up in the jump cache and go; falls through, r10 unchanged, when it is not there. */
void jit_emit_jump(struct jbuf *b, bool ac);

/* fill.c: host address of lin, whose translation is now in L1; 0: do it another way. */
uint64_t jit_fill_r(struct scpu *c, uint64_t lin, uint32_t desc);
uint64_t jit_fill_w(struct scpu *c, uint64_t lin, uint32_t desc);
/* MOVS and STOS, up, with 64-bit addresses and flat segments; 0: the interpreter does (the rest of)
 * it. */
enum {
	JSTR_LOG = 3,
	JSTR_MOVS = 1 << 2,
	JSTR_REP = 1 << 3,
};
uint64_t jit_str(struct scpu *c, uint64_t what, uint32_t desc);
/* SYSCALL, whose next instruction is at `next` of its page, and 64-bit SYSRET: where it goes on; 0:
 * the interpreter does it. */
uint64_t jit_syscall(struct scpu *c, uint64_t next, uint32_t desc);
uint64_t jit_sysret(struct scpu *c, uint64_t zero, uint32_t desc);

/* ---- block.c and gen.c: a translation in the making ---- */

/* Something that is written behind the block's hot part. */
struct jcold {
	enum jcold_kind {
		/* A translation cache miss: fill and go back. */
		JCOLD_FILL_R,
		JCOLD_FILL_W,
		/* One of a group's look-up: or take the exit `exit`. */
		JCOLD_GROUP_R,
		JCOLD_GROUP_W,
		/* The interpreter does it. */
		JCOLD_INTERP,
		/* An exit's slot. */
		JCOLD_EXIT,
		/* The jump cache for a CALL whose target is in r10. */
		JCOLD_JUMP,
		/* What a RET's landing calls when it is the wrong one, or wants the flags. */
		JCOLD_RET,
		/* The block's vector or x87 registers are not in the unit. */
		JCOLD_VEC,
		JCOLD_X87,
	} kind;
	/* The rel32 that comes here; where it goes back to. */
	uint8_t *from, *back;
	uint32_t arg, exit;
	/* Offset of the tags that were compared with. */
	uint32_t tags;
	/* How the flags come to scpu.fl (jt.recipe[], from 1), 0: they are there. */
	unsigned recipe;
};

/* How the flags that were written by an instruction can be had again: flags.c. */
struct jrecipe {
	enum {
		/* Those of 0. */
		JRE_ZERO,
		/* It is done again; its result, d, is tested. */
		JRE_AGAIN,
		JRE_RESULT,
		/* d was added to, or subtracted from: an immediate, register s. */
		JRE_ADD_IMM,
		JRE_SUB_IMM,
		JRE_ADD,
		JRE_SUB,
	} kind;
	/* The instruction. */
	uint8_t at;
	uint8_t d, s;
	/* Registers that have to be what they were. */
	uint16_t takes;
	int32_t imm;
	/* By how much the stack pointer moved since, when it takes that. */
	int sp;
	/* The stub. */
	const uint8_t *code;
};

/* What the look-up of a memory access is. */
struct jaccess {
	enum {
		/* Its own. */
		JACC_SINGLE,
		/* Its group's, which it does; which was done. */
		JACC_FIRST,
		JACC_NEXT,
	} kind : 8;
	uint8_t group;
	/* From the group's first byte. */
	uint16_t off;
};

/* Bytes that are looked up at once: log2 of how many. */
struct jgroup {
	uint8_t log;
	bool write;
};

enum {
	JT_VEC = 1,
	JT_X87 = 2,
};

enum {
	JT_COLDS = 4 * SOFT_BLOCK_MAX + 8,
	/* One for each place between two instructions. */
	JT_RECIPES = SOFT_BLOCK_MAX + 1,
	/* struct jaccess by what is accessed. */
	JACC_MEM = 0,
	JACC_STACK = 1,
};

struct jt {
	struct scpu *c;
	struct soft_jit *j;
	struct jbuf b;
	uint32_t block, mode;
	struct sblock *sb;
	const uint8_t *bytes;
	bool is64;
	/* Instructions as they are encoded, not as bind.c changed them. */
	unsigned n;
	struct insn insn[SOFT_BLOCK_MAX];
	/* Which can be translated. */
	bool can[SOFT_BLOCK_MAX];
	/* Flags that something may look at after each. */
	uint16_t live[SOFT_BLOCK_MAX];
	/* Flags live before the current one. */
	unsigned live_in;
	bool fl_host, fl_mem, fl_lazy;
	unsigned nrecipe;
	struct jrecipe recipe[JT_RECIPES];
	/* JT_VEC, JT_X87 */
	uint8_t units;
	/* The current one. */
	unsigned at;
	/* Of each instruction, its memory operand and the stack's word. */
	struct jaccess acc[SOFT_BLOCK_MAX][2];
	unsigned ngroup;
	struct jgroup group[JIT_GROUPS];
	/* The scratch register that holds a group's host address (0: none does), and which. */
	unsigned hold_reg, hold;
	/* What the stack pointer has yet to move by. */
	int sp_add;
	/* Written by block.c once an instruction ended the block. */
	bool ended;
	unsigned ncold;
	struct jcold cold[JT_COLDS];
};

/* ---- flags.c ---- */

/* General registers that it writes, but for the stack's pointer as it moves. */
unsigned jit_written(const struct insn *i);
/* The flags are in scpu.fl; in RFLAGS: before the current instruction does anything. */
void jt_flags_mem(struct jt *t);
void jt_flags_host(struct jt *t);
void jt_flags_host_by(struct jt *t, unsigned scratch);
/* RFLAGS will be destroyed by the current instruction's look-up. */
void jt_flags_keep(struct jt *t);
/* The instruction has written all that is of use. */
void jt_flags_written(struct jt *t);
/* Around each instruction. */
void jt_flags_before(struct jt *t);
void jt_flags_after(struct jt *t);
/* How those before instruction k can be had again: jt.recipe[], from 1; 0: not. */
unsigned jt_recipe(struct jt *t, unsigned k);
/* The stubs of all. */
void jt_recipes(struct jt *t);

/* plan.c: which accesses of the block share a look-up. */
void jit_plan(struct jt *t);

/* gen.c: can it be translated, or is it left to the interpreter? */
bool jit_can(const struct jt *t, const struct insn *i);
/* Does its code change the host's flags where the instruction itself does not? */
void jit_gen(struct jt *t, unsigned k);
void jit_again(struct jt *t, const struct insn *i);
bool jit_uses_vec(const struct insn *i);
bool jit_uses_x87(const struct insn *i);

/* For dumps (prof.h), when somebody wants them: what the code from here on is there for. */
static inline void jt_mark(struct jt *t, enum prof_part part, unsigned k)
{
	if (unlikely(t->c->run->prof))
		prof_mark(t, part, k);
}

/* gen.c: the stack pointer is where the guest's is. */
void jt_sp(struct jt *t);

/* block.c */
struct jcold *jt_cold(struct jt *t, enum jcold_kind kind, uint8_t *from, uint32_t arg);
/* Scratch register r was changed. */
static inline void jt_clobber(struct jt *t, unsigned r)
{
	if (t->hold_reg == r)
		t->hold_reg = 0;
}
/* A direct exit; from: the rel32 that goes to it, NULL: it is written here. */
void jt_exit(struct jt *t, unsigned k, int64_t target, uint8_t *from);
/* Behind a host's CALL: where the guest's comes back to. */
void jt_landing(struct jt *t, unsigned k);
/* For instruction k and what follows; the flags that are live are in scpu.fl. */
uint32_t jt_exit_single(struct jt *t, unsigned k);
/* The address after instruction k, from the page's beginning. */
static inline int64_t jt_next(const struct jt *t, unsigned k)
{
	const struct insn *i = &t->insn[k];

	return (int64_t)i->off + i->len;
}
/* Leave for the interpreter. */
void jt_interp(struct jt *t, unsigned k);
/* The instruction whose code begins here may fault on the host. */
void jt_fault(struct jt *t, unsigned k);
