/*
 * The translator's life, the way into translated code and what is done when it is left, and the
 * host's signals: DIV by zero, unmasked floating point exceptions and misaligned vector operands
 * are found by the host's own CPU.
 */
#include "accel/soft/jit/jit_int.h"

#include "accel/soft/code_int.h"
#include "accel/soft/host_int.h"
#include "accel/soft/jit/lockstep.h"
#include "base/alloc.h"
#include "base/bug.h"
#include "base/thread.h"

#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <ucontext.h>
#include <unistd.h>

/* ---- signals ---- */

enum {
	/* Code caches in the process. */
	JIT_CACHES = 1024,
};

/* The handler reads, atomically; writers hold the lock. */
static struct lock jit_lock = LOCK_INIT;
static struct scpu *jit_vcpu[JIT_CACHES];
static struct sigaction jit_old_segv;

static const struct jfault *fault_find(const struct soft_jit *j, uint32_t off)
{
	uint32_t lo = 0, hi = j->nfault;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (j->fault[mid].code_off < off)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < j->nfault && j->fault[lo].code_off == off ? &j->fault[lo] : NULL;
}

/* scpu.fl of host flags */
static uint16_t fl_of(uint64_t rflags)
{
	return (uint16_t)((rflags & 0xd5) << 8 | 0x200 | (rflags >> 11 & 1));
}

static bool signal_for(struct scpu *c, greg_t *g)
{
	struct soft_jit *j = c->jit;
	uint64_t off = (uint64_t)g[REG_RIP] - (uintptr_t)j->rx;

	if (off >= j->used)
		return false;
	/* A push on a full stack of return addresses. */
	if ((uint64_t)g[REG_RSP] - 1 - (uintptr_t)j->ras < JIT_RAS_GUARD) {
		g[REG_RSP] = (greg_t)c->jit_ras_base;
		return true;
	}
	const struct jfault *f = fault_find(j, (uint32_t)off);
	if (!f)
		return false;
	if (f->fl_host)
		c->fl = fl_of((uint64_t)g[REG_EFL]);
	g[REG_R11] = f->desc;
	g[REG_RIP] = (greg_t)(uintptr_t)(j->rx + j->exit_interp);
	return true;
}

bool jit_signal(void *ucontext)
{
	greg_t *g = ((ucontext_t *)ucontext)->uc_mcontext.gregs;

	for (unsigned k = 0; k < JIT_CACHES; k++) {
		struct scpu *c = __atomic_load_n(&jit_vcpu[k], __ATOMIC_ACQUIRE);

		if (c && signal_for(c, g))
			return true;
	}
	return false;
}

static void jit_sigsegv(int sig, siginfo_t *info, void *ctx)
{
	if (info->si_code > 0 && jit_signal(ctx))
		return;
	/* Somebody else's: it comes again, to who was there before. */
	sigaction(sig, &jit_old_segv, NULL);
	if (info->si_code <= 0)
		raise(sig);
}

static int jit_signals(struct err *e)
{
	struct sigaction sa = { .sa_sigaction = jit_sigsegv, .sa_flags = SA_SIGINFO | SA_ONSTACK },
			 old;

	sigemptyset(&sa.sa_mask);
	if (sigaction(SIGSEGV, &sa, &old))
		return err_set(e, errno, "cannot handle signals: %s", strerror(errno));
	if (old.sa_sigaction != jit_sigsegv)
		jit_old_segv = old;
	return 0;
}

static bool jit_publish(struct scpu *from, struct scpu *to)
{
	bool done = false;

	lock(&jit_lock);
	for (unsigned k = 0; k < JIT_CACHES && !done; k++) {
		if (jit_vcpu[k] == from) {
			__atomic_store_n(&jit_vcpu[k], to, __ATOMIC_RELEASE);
			done = true;
		}
	}
	unlock(&jit_lock);
	return done;
}

/* ---- life ---- */

/* Only what is touched becomes memory. */
static void *jit_table(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/*
 * Somewhere below 2 GiB, where nobody can tell: [64 KiB, 2 GiB - size) at random, and not over what
 * is there.
 */
void *jit_alloc_low(size_t size)
{
	enum {
		TRIES = 64,
	};
	const uint64_t first = 0x10000, end = 0x80000000 - size;

	for (unsigned k = 0; k < TRIES; k++) {
		uint64_t r;

		if (getrandom(&r, sizeof(r), 0) != sizeof(r))
			break;
		void *at = (void *)(uintptr_t)((first + r % (end - first)) & ~0xfffull);
		void *p = mmap(at, size, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		if (p == at)
			return p;
		if (p != MAP_FAILED)
			munmap(p, size);
	}
	return NULL;
}

/* The stack of return addresses: at its base is where a RET goes that finds nothing else. */
static int jit_ras_new(struct scpu *c)
{
	struct soft_jit *j = c->jit;

	j->sigstack = jit_table(JIT_SIGSTACK);
	j->ras = jit_table(JIT_RAS_GUARD + JIT_RAS);
	if (!j->ras || !j->sigstack || mprotect(j->ras, JIT_RAS_GUARD, PROT_NONE))
		return -ENOMEM;
	c->jit_ras_base = (uintptr_t)j->ras + JIT_RAS_GUARD + JIT_RAS - 16;
	*(uint64_t *)(void *)(j->ras + JIT_RAS_GUARD + JIT_RAS - 16) =
		(uintptr_t)(j->rx + j->ras_miss);
	jit_ras_empty(c, 0);
	return 0;
}

/* The vCPU whose stack for signals this thread has. */
static _Thread_local const struct soft_jit *jit_thread;

/* Signals that come while rsp is the stack of return addresses need another. */
static void jit_thread_begin(const struct soft_jit *j)
{
	stack_t s, mine = { .ss_sp = j->sigstack, .ss_size = JIT_SIGSTACK };

	if (!sigaltstack(NULL, &s) && (s.ss_flags & SS_DISABLE || jit_thread))
		(void)sigaltstack(&mine, NULL);
	jit_thread = j;
}

static void jit_thread_end(const struct soft_jit *j)
{
	stack_t s, none = { .ss_flags = SS_DISABLE };

	if (jit_thread != j)
		return;
	if (!sigaltstack(NULL, &s) && s.ss_sp == j->sigstack)
		(void)sigaltstack(&none, NULL);
	jit_thread = NULL;
}

/*
 * The same memory twice, one to write and one to execute.  Shared memory without a file: of no
 * size, mremap() makes a second mapping of it (and perf takes it for a JIT's, which it would not
 * take a memfd for).
 */
static int jit_map(struct soft_jit *j)
{
	j->rw = mmap(NULL, j->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (j->rw == MAP_FAILED)
		return -errno;
	j->rx = mremap(j->rw, 0, j->size, MREMAP_MAYMOVE);
	if (j->rx == MAP_FAILED || mprotect(j->rx, j->size, PROT_READ | PROT_EXEC))
		return -errno;
	return 0;
}

static bool host_has_bmi2(void)
{
	unsigned a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && b & bit_BMI2;
}

/* XSAVE, for the x87 state alone. */
static bool host_has_xsave(void)
{
	unsigned a, b, c, d;

	return __get_cpuid(1, &a, &b, &c, &d) && c & bit_OSXSAVE;
}

int jit_new(struct scpu *c, size_t cache, struct err *e)
{
	struct soft_jit *j = aligned_alloc(64, sizeof(*j));
	int rc;

	if (!j)
		return err_set(e, ENOMEM, "no memory for a translator");
	memset(j, 0, sizeof(*j));
	c->jit = j;
	j->size = cache;
	j->rw = j->rx = MAP_FAILED;
	rc = jit_map(j);
	if (rc)
		return err_set(e, -rc, "cannot map %lu KiB of memory for code: %s",
			       (unsigned long)cache / 1024, strerror(-rc));
	j->block = jit_table(JIT_BLOCKS * sizeof(j->block[0]));
	j->exit = jit_table(JIT_EXITS * sizeof(j->exit[0]));
	j->fault = jit_table(JIT_FAULTS * sizeof(j->fault[0]));
	if (!j->block || !j->exit || !j->fault)
		return err_set(e, ENOMEM, "no memory for a translator's tables");
	j->bmi2 = host_has_bmi2();
	j->xsave = host_has_xsave();
	c->jit_self = c;
	c->jit_exits = j->exit;
	c->jit_fill[0] = (void *)jit_fill_r;
	c->jit_fill[1] = (void *)jit_fill_w;
	c->jit_fill[2] = (void *)jit_str;
	c->jit_fill[3] = (void *)jit_syscall;
	c->jit_fill[4] = (void *)jit_sysret;
	c->jit_mxcsr0 = 0x1f80;
	/* Where a branch to address 0 looks: no entry, also while jit_id is 0. */
	c->jump[0].id = c->jump[1].id = UINT32_MAX;
	jit_thunks(c);
	BUG_ON(j->used > JIT_THUNK_BYTES);
	j->first = j->used;
	if (jit_ras_new(c))
		return err_set(e, ENOMEM, "no memory for a translator's stacks");
	jit_drop_all(c);
	rc = jit_signals(e);
	if (rc >= 0 && !jit_publish(NULL, c))
		rc = err_set(e, ENOSPC, "more than %d virtual CPUs in one process", JIT_CACHES);
	return rc;
}

static void jit_unmap(void *p, size_t size)
{
	if (p && p != MAP_FAILED)
		munmap(p, size);
}

void jit_free(struct scpu *c)
{
	struct soft_jit *j = c->jit;

	if (!j)
		return;
	jit_publish(c, NULL);
	jit_thread_end(j);
	lockstep_free(j->lockstep);
	jit_unmap(j->rw, j->size);
	jit_unmap(j->rx, j->size);
	jit_unmap(j->block, JIT_BLOCKS * sizeof(j->block[0]));
	jit_unmap(j->exit, JIT_EXITS * sizeof(j->exit[0]));
	jit_unmap(j->fault, JIT_FAULTS * sizeof(j->fault[0]));
	jit_unmap(j->ras, JIT_RAS_GUARD + JIT_RAS);
	jit_unmap(j->sigstack, JIT_SIGSTACK);
	free(j);
	c->jit = NULL;
}

void jit_drop_all(struct scpu *c)
{
	struct soft_jit *j = c->jit;

	if (!j)
		return;
	prof_dropped(c);
	j->used = j->first;
	/* Number 0 is none. */
	j->nblock = j->nexit = 1;
	j->nfault = 0;
	j->pending = 0;
	jit_ras_empty(c, 0);
	jit_space_changed(c);
}

bool jit_full(const struct scpu *c)
{
	const struct soft_jit *j = c->jit;

	return j->used + JIT_BLOCK_BYTES > j->size || j->nblock + 1 > JIT_BLOCKS ||
	       j->nexit + 2 * SOFT_BLOCK_MAX > JIT_EXITS ||
	       j->nfault + SOFT_BLOCK_MAX > JIT_FAULTS || j->last > UINT32_MAX - 2;
}

const struct jit_stats *jit_stats(const struct scpu *c)
{
	return &c->jit->stats;
}

uint32_t jit_find(const struct scpu *c, uint32_t first, uint32_t mode)
{
	const struct soft_jit *j = c->jit;

	for (uint32_t n = first; n; n = j->block[n].next)
		if (j->block[n].mode == mode)
			return n;
	return 0;
}

/* ---- in and out ---- */

void jit_forget_exit(struct scpu *c)
{
	if (c->jit)
		c->jit->pending = 0;
	c->jit_single = 0;
}

static uint64_t jit_rip(const struct scpu *c, uint64_t rip)
{
	return soft_64(c) ? rip : (uint32_t)rip;
}

/* One instruction of a block by the interpreter; may raise. */
static void jit_interp_one(struct scpu *c, uint32_t desc)
{
	struct soft_jit *j = c->jit;
	struct sblock *sb = j->block[desc >> 10].sb;
	const struct insn *i = code_insns(c, sb);

	j->stats.interps++;
	if (unlikely(!i)) {
		/* The block is no more. */
		c->rip = jit_rip(c, c->jit_page + j->block[desc >> 10].at[desc >> 4 & 63]);
		(void)code_step(c);
		return;
	}
	i += desc >> 4 & 63;
	j->one[0] = *i;
	j->one[1] = (struct insn){
		.fn = soft_block_end,
		.off = (uint16_t)(i->off + i->len),
		.base = SREG_NONE,
		.index = SREG_NONE,
	};
	c->gpr[SREG_RIP] = c->jit_page + sb->off;
	c->rip = soft_rip(c, i);
	code_running(c, sb);
	j->one[0].fn(c, j->one);
}

/* A branch whose target cannot be: undone, the interpreter raises. */
static void jit_bad_target(struct scpu *c, uint32_t desc)
{
	const struct insn *i = code_insns(c, c->jit->block[desc >> 10].sb);

	/* Stored to by another vCPU at this very moment: where it goes raises too. */
	if (!i)
		return;
	i += desc >> 4 & 63;
	switch (insn_forms[i->form].sop) {
	case SOP_CALL:
		c->gpr[X86_RSP] += 8;
		break;
	case SOP_RET:
		c->gpr[X86_RSP] -=
			8 + (insn_forms[i->form].opnd[0].kind == OPND_IMM ? (uint16_t)i->imm : 0);
		break;
	default:
		break;
	}
	jit_interp_one(c, desc);
}

void jit_left(struct scpu *c)
{
	struct soft_jit *j = c->jit;
	uint32_t arg = c->jit_arg;

	if (unlikely(c->run->prof))
		prof_left(c);
	switch (c->jit_why) {
	case JWHY_LINK: {
		const struct jexit *x = &j->exit[arg];

		c->rip = jit_rip(c, c->jit_page + (uint64_t)x->target);
		if (unlikely(soft_64(c) && !soft_canonical(c->rip))) {
			jit_bad_target(c, x->desc);
		} else {
			j->pending = arg;
			c->jit_stale = JIT_STALE;
			j->pending_rip = c->rip;
			c->jit_single = x->mode & JM_SINGLE;
		}
		break;
	}
	case JWHY_INTERP:
		jit_interp_one(c, arg);
		break;
	case JWHY_BRANCH:
		j->stats.jumps++;
		if (unlikely(soft_64(c) && !soft_canonical(c->rip)))
			jit_bad_target(c, arg);
		break;
	case JWHY_DEAD:
		c->rip = jit_rip(c, c->jit_page + j->block[arg >> 10].off);
		break;
	default:
		j->stats.jumps++;
		break;
	}
}

void jit_enter(struct scpu *c, uint32_t n)
{
	struct soft_jit *j = c->jit;
	const struct jblock *b = &j->block[n];

	c->jit_page = c->rip - b->off;
	j->stats.entries++;
	((void (*)(struct scpu *, void *))(void *)(j->rx + j->enter))(c, b->rw + (j->rx - j->rw));
}

bool jit_lockstep(const struct scpu *c)
{
	return c->jit->lockstep;
}

void jit_go(struct scpu *c, uint32_t n, uint32_t mode)
{
	struct soft_jit *j = c->jit;
	uint32_t id = jit_id(c, mode), exit = j->pending;

	j->pending = 0;
	if (unlikely(jit_thread != j))
		jit_thread_begin(j);
	if (c->jit_ras_id != id)
		jit_ras_empty(c, id);
	if (unlikely(j->lockstep)) {
		lockstep_go(c, n);
		return;
	}
	if (c->jit_id != id) {
		/* Against sync_set_req(): one of the two sees the other. */
		__atomic_exchange_n(&c->jit_id, id, __ATOMIC_SEQ_CST);
		if (__atomic_load_n(&c->exit_req, __ATOMIC_SEQ_CST))
			return;
	}
	/* It may have been interpreted a while meanwhile. */
	if (exit && j->pending_rip == c->rip)
		jit_link(c, exit, n);
	if (!(mode & JM_SINGLE))
		jit_jump_fill(c, n);
	jit_enter(c, n);
	jit_left(c);
}
