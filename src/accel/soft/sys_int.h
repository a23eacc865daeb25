/*
 * What the system half of the software CPU shares inside itself (mmu, seg, exc, sys, msr, code,
 * run, soft): the VM's shared tables, the parts of a vCPU that handlers do not touch, and who calls
 * whom.
 *
 * Stopping the world.  A vCPU is `running` while it may touch guest memory through its translation
 * cache.  It is not while it waits (halted, for another's exclusive section, for an answer) or is
 * outside accel_run().  running changes under soft_shared.lock only, so whoever holds that lock may
 * change the translation cache of a vCPU that does not run; of one that runs it may only ask
 * (`ask`, then exit_req), and wait on soft_shared.cond until the vCPU answered between two blocks.
 */
#pragma once

#include "accel/soft/soft_int.h"
#include "base/thread.h"

enum {
	SOFT_CPUS = 256,
	SOFT_XT = 256,
	SL2_SETS = 512,
	SL2_WAYS = 4,
	SL2_LARGE = 1024,
	/* Pages that a vCPU is asked to drop write translations of; more: all. */
	SOFT_ASKS = 32,
	/* Invalidations of decoded code that wait for a vCPU; more: all of its code. */
	SOFT_POSTS = 64,
};

/* Rights and attributes of a translation; in the low bits of sl2.pa. */
enum {
	SX_W = 1 << 0,
	SX_U = 1 << 1,
	SX_X = 1 << 2,
	SX_D = 1 << 3,
	SX_G = 1 << 4,
	/* From a 2 or 4 MiB page, or a 1 GiB page. */
	SX_LARGE = 1 << 5,
	SX_HUGE = 1 << 6,
};

/* Kind of access. */
enum {
	SACC_W = 1 << 0,
	SACC_X = 1 << 1,
	/* From CPL 3, and not to a system structure. */
	SACC_USER = 1 << 2,
	/* Supervisor with SMAP's override. */
	SACC_AC = 1 << 3,
};

/* A translation: the 4 KiB page's physical address and SX_*. */
struct sxlate {
	uint64_t pa;
	unsigned fl;
};

/* One 4 KiB page of RAM or ROM, shared by all vCPUs.  Atomic. */
struct spage {
	/* 64-byte lines that some vCPU decoded code from. */
	uint64_t lines;
	/* Stores that went the slow way since the page was marked. */
	uint32_t stores;
	/* How often the page was given back; makes the next time later. */
	uint32_t given;
};

struct smap {
	uint64_t gpa, len;
	uint8_t *host;
	bool readonly;
	/* Index of its first page in soft_shared.page. */
	uint64_t first;
	/* Pages stored to since the last sync; NULL while there is no logging. */
	uint64_t *dirty;
};

struct soft_shared {
	/* Guards running, excl and the asks and posts of every vCPU. */
	struct lock lock;
	struct cond cond;
	struct scpu *cpu[SOFT_CPUS];
	unsigned ncpu;
	/* Who runs alone; excl_ext: a thread that is no vCPU. */
	struct scpu *excl;
	bool excl_ext;
	/* Copy of gmem's regions; changes while no vCPU runs. */
	struct smap map[GMEM_REGIONS];
	unsigned nmap;
	uint64_t npages;
	struct spage *page;
	bool logging;
	/* Hot code is translated; and compared with the interpreter's doings. */
	bool jit, lockstep;
	/* After how many turns. */
	uint8_t hot;
	/* Of jit/prof.h, or NULL. */
	struct prof *prof;
	/* Times that a device told of a write.  Atomic. */
	uint64_t dma_told;
	/* Guest TSC = host TSC + this where no guest moved it; frequency.  Atomic. */
	uint64_t tsc_offset, tsc_hz;
	/* Timer thread: sleeps until the earliest deadline of a vCPU. */
	struct lock timer_lock;
	struct cond timer_cond;
	struct thread timer;
	uint64_t timer_wake_ns;
	bool timer_stop;
	/* ferr.c */
	struct bus_range ferr_port;
};

/* One side of a struct stlb_set: which slots are filled, so that a flush costs what it drops. */
struct sside {
	struct stlb *t;
	/* [0]: slots that held a non-global translation since the last flush, [1]: global ones. */
	uint16_t n[2];
	uint16_t list[2][STLB_SIZE];
	/* Per slot: SX_G, SX_LARGE, SX_HUGE of what it holds; SSLOT_* of the lists it is in. */
	uint8_t fl[STLB_SIZE];
};

enum {
	SSLOT_IN0 = 1 << 0,
	SSLOT_IN1 = 1 << 1,
};

struct sl2 {
	/* Linear page number (36 bits), then the address space's number (28 bits). */
	uint64_t tag;
	/* Page's physical address, SX_*. */
	uint64_t pa;
};

/* Where code of a linear page is. */
struct sxt {
	/* Linear page address; empty: 1. */
	uint64_t tag;
	/* Physical page address. */
	uint64_t pa;
	/* Of the page's blocks (code.c). */
	struct spage *page;
	/* Host address of the page's bytes. */
	const uint8_t *host;
	/* Of spage in soft_shared.page. */
	uint64_t index;
	uint8_t fl;
};

struct soft_mmu {
	struct sside side[2 * SMMUS];
	struct sl2 l2[SL2_SETS][SL2_WAYS];
	struct sl2 large[SL2_LARGE];
	uint8_t l2_next[SL2_SETS];
	/* Supervisor, user. */
	struct sxt xt[2][SOFT_XT];
	struct sxt *xt_now;
	/* Address spaces: the number of the current one, of global pages, and of each PCID (0:
	 * none). */
	uint32_t asid, asid_global, asid_last;
	uint32_t asid_pcid[4096];
	/* Which 2 MiB (hashed) and 1 GiB pieces have 4 KiB entries in L1 from a larger page. */
	uint64_t large_seen[64];
	uint64_t huge_seen;
	/* Data accesses of the guest: SACC_USER or SACC_AC. */
	unsigned acc;
	/* Bits that must be 0 in an entry because of MAXPHYADDR. */
	uint64_t rsvd_phys;
	bool has_1g, has_nx, has_pse36;
	/* Accesses go the slow way one by one: alignment checks or data breakpoints are on. */
	bool careful, check_align;
	uint8_t watch;
	/* Page that is asked most often. */
	struct smap *last_map;
	/* One bit per page: this vCPU may hold a write translation of it.  Atomic. */
	uint64_t *wmap;
	struct stlb_set none;
	/* Counters. */
	uint64_t misses, walks, flushes, flush_pages;
};

struct soft_post {
	uint64_t page;
	/* 0: the whole page. */
	uint64_t lines;
};

struct soft_run {
	/* The interpreter runs on trial: loads and stores go there (jit/lockstep.h). */
	struct lockstep *trial;
	/* Of jit/prof.h; NULL: nobody wants to know. */
	struct prof_vcpu *prof;
	struct soft_shared *sh;
	/* Assisting: the other engine's XSAVE image (4096 bytes, standard form), where components
	 * beyond AVX live.  NULL: there are none. */
	uint8_t *more;
	/* Assisting on a host with AVX-512: see evex.h. */
	struct soft_evex *evex;
	/* Another thread wants accel_run() to return; atomic. */
	uint32_t kick;
	/* The rest of any-thread fields: guarded by sh->lock. */
	bool running;
	/* In sync_halt(): woken by its own cond.  Atomic. */
	bool halted;
	struct cond wake;
	uint64_t ask[SOFT_ASKS];
	unsigned nask;
	bool ask_all_w, ask_flush;
	struct soft_post post[SOFT_POSTS];
	unsigned npost;
	bool post_all;
	/* clock_ns() deadline of the local APIC's timer; guarded by timer_lock. */
	uint64_t timer_ns;
	/* The timer thread kicked for it. */
	bool timer_told;

	/* The vCPU's own. */
	/* Why accel_run() returns. */
	enum accel_exit exit;
	/* Vector of the event that is being delivered, or -1; and is it external (EXT bit)? */
	int delivering;
	bool ext;
	/* The RIP at which ev.shadow holds. */
	uint64_t shadow_rip;
	/* The x87 unit asserts FERR#; the board asserts IGNNE#.  Atomic. */
	bool ferr, ignne;
	/* In an exclusive section. */
	bool excl;
	/* soft_raise() has somewhere to go. */
	bool trap_set;
	/* Data breakpoints hit by the running instruction (DR6 bits). */
	uint32_t dr6_hits;
	/* Of assist.c: not a vCPU of its own. */
	struct soft_assist *assist;
	/* CPUID facts used often. */
	bool intel, has_invpcid;
	uint64_t cr4_ok, xcr0_ok, efer_ok;
	uint32_t spins;
	/* Counters. */
	uint64_t insns, blocks, irqs, excs, halts;
};

static inline struct soft_shared *soft_sh(const struct scpu *c)
{
	return soft_vm(c)->shared;
}

static inline bool soft_long(const struct scpu *c)
{
	return c->efer & X86_EFER_LMA;
}

static inline bool soft_64(const struct scpu *c)
{
	return c->code_size == 64;
}

static inline bool soft_prot(const struct scpu *c)
{
	return c->cr0 & X86_CR0_PE;
}

static inline bool soft_vm86(const struct scpu *c)
{
	return c->rflags & X86_FL_VM;
}

/* Protected mode and not virtual 8086. */
static inline bool soft_prot_seg(const struct scpu *c)
{
	return soft_prot(c) && !soft_vm86(c);
}

/* SDM 1 3.3.7.1, 48 bits. */
static inline bool soft_canonical(uint64_t a)
{
	return (uint64_t)((int64_t)(a << 16) >> 16) == a;
}

static inline unsigned soft_iopl(const struct scpu *c)
{
	return c->rflags >> X86_FL_IOPL_SHIFT & 3;
}

/* i may be NULL in all that follows: then RIP is c->rip. */

/* tlb.c: caches of translations; walk.c: mmu_translate(), mmu_load_pdptrs(); mmu.c: accesses. */
void mmu_init(struct scpu *c);
NODISCARD int mmu_alloc(struct scpu *c, struct err *e);
void mmu_free(struct scpu *c);
/* c->tlb, the code translations and access kind for the current privilege and flags. */
void mmu_select(struct scpu *c);
void mmu_flush_all(struct scpu *c);
/* Not the global ones, of the current address space. */
void mmu_flush_space(struct scpu *c);
void mmu_flush_page(struct scpu *c, uint64_t lin);
/* As MOV to CR3 does: c->cr3 is set already; keep: bit 63 was set. */
void mmu_switch(struct scpu *c, bool keep);
/* INVPCID, checked by the caller. */
void mmu_invpcid(struct scpu *c, unsigned type, unsigned pcid, uint64_t lin);
/* L1 only: rights changed (CR0.WP, SMEP ...). */
void mmu_drop_l1(struct scpu *c);
void mmu_drop_w(struct scpu *c);
void mmu_drop_w_page(struct scpu *c, uint64_t index);
/*
 * Translate; 0, or the page-fault error code with bit 31 set.  Uses and fills L2.
 */
uint32_t mmu_translate(struct scpu *c, uint64_t lin, unsigned acc, struct sxlate *ret);
/* The map entry that holds physical page pa, or NULL. */
struct smap *mmu_map(struct scpu *c, uint64_t pa);
/* Physical accesses of the CPU that are not through a translation (PDPTRs, kvmclock). */
bool mmu_phys_read(struct scpu *c, uint64_t pa, void *dst, unsigned len);
bool mmu_phys_write(struct scpu *c, uint64_t pa, const void *src, unsigned len);
/* Code at lin: never NULL for RAM and ROM; NULL: no memory (MMIO), *ret_pa says where.  Raises. */
const struct sxt *mmu_code(struct scpu *c, uint64_t lin, uint64_t *ret_pa);
/* With the privilege given by acc (SACC_USER or 0), for stacks of another ring. */
uint64_t mmu_ld_as(struct scpu *c, const struct insn *i, uint64_t lin, unsigned size, unsigned acc);
void mmu_st_as(struct scpu *c, const struct insn *i, uint64_t lin, unsigned size, uint64_t v,
	       unsigned acc);
void mmu_probe_as(struct scpu *c, const struct insn *i, uint64_t lin, unsigned len, unsigned acc);
/* Loads c->pdptr from CR3's table; false: reserved bits are set (#GP). */
bool mmu_load_pdptrs(struct scpu *c, uint64_t cr3);
/* DR7 or the flags changed: data breakpoints, alignment checks. */
void mmu_debug_changed(struct scpu *c);
enum mmu_watch {
	WATCH_LOAD,
	WATCH_STORE,
	WATCH_PORT,
};
/* An access while breakpoints are on: does it hit one? */
void mmu_watch(struct scpu *c, const struct insn *i, uint64_t at, unsigned len,
	       enum mmu_watch kind);

/* seg.c */
struct seg_desc {
	uint64_t lo, hi;
	/* Where it is. */
	uint64_t lin;
};
NORETURN void soft_gp(struct scpu *c, const struct insn *i, uint32_t err);
NORETURN void soft_ud(struct scpu *c, const struct insn *i);
/* False: the selector is outside its table (or of an empty LDT). */
bool seg_fetch(struct scpu *c, const struct insn *i, uint16_t sel, struct seg_desc *ret);
struct cpu_seg seg_make(uint16_t sel, uint64_t lo);
void seg_set_accessed(struct scpu *c, const struct insn *i, struct seg_desc *d);
/* MOV, POP, LxS to a segment register (not CS); all checks.  Does not tell soft_mode_changed(). */
void seg_load(struct scpu *c, const struct insn *i, unsigned seg, uint16_t sel);
void seg_set_real(struct scpu *c, unsigned seg, uint16_t sel);
void seg_set_vm86(struct scpu *c, unsigned seg, uint16_t sel);
/* Stack of ring `dpl` from the TSS. */
void seg_tss_stack(struct scpu *c, const struct insn *i, unsigned dpl, uint32_t *ret_ss,
		   uint64_t *ret_sp);
/* Checks of a stack segment that a transfer to `cpl` loads; exc: #TS or #GP for wrong ones. */
struct cpu_seg seg_check_ss(struct scpu *c, const struct insn *i, uint16_t sel, unsigned cpl,
			    unsigned exc, uint32_t ext);
/* Jumps that change CS; each commits everything or raises. */
void seg_jmp_far(struct scpu *c, const struct insn *i, uint16_t sel, uint64_t off);
void seg_call_far(struct scpu *c, const struct insn *i, uint16_t sel, uint64_t off);
void seg_ret_far(struct scpu *c, const struct insn *i, unsigned drop);
void seg_iret(struct scpu *c, const struct insn *i);

/* A stack that is being written or read: checks limits, knows the pointer's width. */
struct sstack {
	struct cpu_seg ss;
	uint64_t mask, sp;
	/* SACC_USER or 0. */
	unsigned acc;
	uint32_t err;
	bool flat;
};
struct sstack stack_now(const struct scpu *c);
struct sstack stack_of(const struct scpu *c, const struct cpu_seg *ss, uint64_t sp, unsigned cpl);
/* Raises what pushing `bytes` would raise. */
void stack_probe(struct scpu *c, const struct insn *i, struct sstack *s, unsigned bytes);
void stack_push(struct scpu *c, const struct insn *i, struct sstack *s, unsigned size, uint64_t v);
uint64_t stack_pop(struct scpu *c, const struct insn *i, struct sstack *s, unsigned size);
/* Puts s->sp into the register, as wide as the stack is. */
void stack_commit(struct scpu *c, const struct sstack *s);

/* task.c: hardware task switch (SDM 3A 7.3). */
enum task_why {
	TASK_JMP,
	TASK_CALL,
	TASK_IRET,
	/* Through a task gate of the IDT. */
	TASK_INT,
};
void task_switch(struct scpu *c, const struct insn *i, uint16_t sel, enum task_why why,
		 uint64_t next_rip, bool has_err, uint32_t err);

/* exc.c */
/* Instruction i has done nothing and begins again, after events. */
NORETURN void soft_again(struct scpu *c, const struct insn *i);
/* Delivers c->ev.exc_*; false: triple fault. */
bool exc_deliver(struct scpu *c);
/* Flags that IRET and POPF may change at this privilege. */
uint64_t exc_flags_mask(const struct scpu *c, unsigned size);
/* Set RFLAGS bits by mask. */
void soft_rflags_merge(struct scpu *c, uint64_t v, uint64_t mask);
/* IF, TPR or something else that holds interrupts back changed. */
void soft_irq_window(struct scpu *c);
/* The trap #DB with these DR6 bits, between two instructions. */
void exc_debug_trap(struct scpu *c, uint64_t dr6_bits);

/* sys.c */
void sys_facts(struct scpu *c);
/* Set a control register as the reset and the state loader do: no checks, no flush. */
bool sys_set_cr0(struct scpu *c, uint64_t v);
bool sys_set_cr4(struct scpu *c, uint64_t v);
bool sys_set_cr3(struct scpu *c, uint64_t v);
uint64_t soft_tsc(const struct scpu *c);

/* msr.c: false: #GP. */
bool msr_read(struct scpu *c, uint32_t index, uint64_t *ret);
bool msr_write(struct scpu *c, uint32_t index, uint64_t v);
/* The saved ones in and out of a cpu_state. */
void msr_save(struct scpu *c, struct cpu_state *s);
void msr_load(struct scpu *c, const struct cpu_state *s);
void msr_kvmclock_update(struct scpu *c);

/* xsave.c */
void xsave_to_image(const struct scpu *c, uint8_t *img);
void xsave_from_image(struct scpu *c, const uint8_t *img);
/* Components that are not in their initial state, as XGETBV(1) tells. */
uint64_t xsave_inuse(const struct scpu *c);
insn_fn *xsave_bind(struct scpu *c, const struct insn *i);

/* code.c */
NODISCARD int code_new(struct scpu *c, struct err *e);
void code_free(struct scpu *c);
/* Drop every decoded block of this vCPU (between blocks). */
void code_drop_all(struct scpu *c);
/* Run blocks until exit_req. */
void code_run(struct scpu *c);
/* One instruction, decoded anew; returns its SOP_*. */
unsigned code_step(struct scpu *c);
/* The instruction at RIP, not executed; false: it raises #UD or #GP.  Raises when it cannot be
 * fetched. */
bool code_peek(struct scpu *c, struct insn *i);
/* Between blocks: what ended the last one early is put right. */
void code_finish(struct scpu *c);
/* After a store of this vCPU to RAM, inside one page: does it hit code?  i: the running instruction
 * or NULL. */
void code_stored(struct scpu *c, const struct insn *i, struct smap *m, uint64_t pa, unsigned len);
/* The running block ends after i. */
void code_stop_after(struct scpu *c, const struct insn *i);
/* Translations changed: the next block is looked up. */
void code_break_chain(struct scpu *c);
/* CS, mode or privilege changed. */
void code_mode_changed(struct scpu *c);
/* After soft_shared.npages changed. */
NODISCARD int code_resize(struct scpu *c, struct err *e);
/* Posted invalidations, under sh->lock. */
void code_take_posts_locked(struct scpu *c);
void code_dma_wrote(struct soft_shared *sh, uint64_t gpa, uint64_t len);
struct code_stats {
	uint64_t blocks_made, insns_made, invalidations, drops, insn_drops, given_back;
};
const struct code_stats *code_stats(const struct scpu *c);

/* sync.c */
void sync_enter(struct scpu *c);
void sync_leave(struct scpu *c);
/* Answer asks and let an exclusive section of another pass; between blocks. */
void sync_pause(struct scpu *c);
/* From a thread that is no vCPU: nobody runs until sync_go(). */
void sync_stop(struct soft_shared *sh);
void sync_go(struct soft_shared *sh);
/* No vCPU holds a write translation of the page any more; spage.lines is set already. */
void sync_unwrite(struct scpu *c, uint64_t index);
/* Any thread: look at events before the next block. */
void sync_set_req(struct scpu *c);
/* The same, and wake it when it is halted. */
void sync_kick(struct scpu *c);
/* Wait for exit_req or the timer's deadline. */
void sync_halt(struct scpu *c);

/* assist.c: what another engine's vCPU does otherwise. */
uint32_t assist_apic_ld(struct scpu *c, unsigned off);
void assist_apic_st(struct scpu *c, unsigned off, uint32_t v);
/* [pa, pa + len) of guest memory is stored to by this instruction. */
void assist_stores(struct scpu *c, uint64_t pa, unsigned len);

/* ferr.c: x87 errors as interrupts. */
NODISCARD int ferr_init(struct soft_shared *sh, struct bus *pio, struct err *e);
void ferr_fini(struct soft_shared *sh, struct bus *pio);
/* An x87 error is pending at i: #MF, or FERR# and i begins again. */
NORETURN void ferr_raise(struct scpu *c, const struct insn *i);
/* A pending error does not stop x87 instructions now. */
bool ferr_ignored(const struct scpu *c);
/* The error was cleared, or another state loaded. */
void ferr_clear(struct scpu *c);

/* run.c */
/* INIT, start-up and NMI that other CPUs sent. */
void run_lapic_events(struct scpu *c);
/* One instruction with its debug traps and breakpoints. */
void run_one(struct scpu *c);
enum accel_exit soft_run(struct accel_vcpu *v, struct err *e);

/* state.c */
int soft_get(struct accel_vcpu *v, struct cpu_state *s, struct err *e);
int soft_set(struct accel_vcpu *v, const struct cpu_state *s, struct err *e);
/* All but the local APIC, timers and the clock. */
void soft_get_regs(struct scpu *c, struct cpu_state *s);
void soft_set_regs(struct scpu *c, const struct cpu_state *s);
/* INIT (SDM 3A table 10-1). */
void soft_reset_init(struct scpu *c);

/* soft.c: sh->map and sh->page anew, while nobody runs. */
NODISCARD int soft_map(struct soft_shared *sh, const struct gmem *m, struct err *e);
/* The tables of a vCPU that are as large as guest memory. */
NODISCARD int soft_vcpu_resize(struct scpu *c, struct err *e);
NODISCARD int soft_vcpu_parts(struct scpu *c, struct soft_shared *sh, struct err *e);
void soft_vcpu_parts_free(struct scpu *c);

/* offer.c */
int soft_cpuid(struct cpuid_table *ret, struct err *e);
/* What leads guests away from what is dear here, into a guest's table of any model. */
void soft_advise(struct cpuid_table *t);
/* Frequency of the host's TSC. */
uint64_t soft_host_tsc_hz(void);
