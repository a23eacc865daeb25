/*
 * Instructions that run as a copy on the host: x87, MMX, SSE to SSE4.2, AES, SHA, AVX, AVX2, FMA,
 * F16C, and the general-register ones whose semantics are too odd to write twice (BMI, ADX, CRC32).
 * Guest and host have the same instruction set, so the copy is right by construction; what remains
 * for us is where operands are, who may use the unit, and what a fault looks like.
 *
 * Stubs.  host_emit.c writes a stub for each distinct instruction (memory operands look all alike:
 * [rdi]).  They live in one memfd mapped twice, writable and executable, never both at an address.
 * A vCPU has its own store of fixed size; when it is nearly full, code.c drops the decoded
 * instructions that point into it and the store starts again (soft_int.h).
 *
 * Memory operands.  Plain RAM in one page: the copy works on the guest's bytes in place.  Otherwise
 * it works on a bounce buffer, filled before (loads) or stored afterwards, when the right to write
 * was checked first.
 *
 * Faults.  #UD, #NM, #GP of alignment and page faults are found before the stub runs.  Floating
 * point exceptions that the guest has unmasked are taken from the host: the copied instruction
 * raises SIGFPE, whose handler moves the thread to the landing code at the buffer's start, which
 * returns the vector as the stub's value.  So is SIGILL, for the copies of evex.c: all others are
 * known to be valid.
 *
 * FIP, FDP and FOP read as 0.
 */
#include "accel/soft/host_int.h"
#include "accel/soft/jit/jit.h"
#include "accel/soft/sys_int.h"

#include "base/alloc.h"
#include "base/bug.h"
#include "base/bytes.h"
#include "base/num.h"
#include "base/thread.h"

#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

enum {
	/* Stores in the process: the vCPUs of a VM, and those of an assisting engine. */
	HOST_STORES = 1024,
	HOST_LANDING_BYTES = 128,
};

struct soft_host {
	/* The same bytes, writable and executable. */
	uint8_t *rw, *rx;
	unsigned used;
	unsigned nstub;
	struct host_stub stub[HOST_STUBS];
	/* Index + 1 of the first stub with a hash. */
	uint16_t hash[HOST_HASH];
	uint8_t bounce[HOST_MEM_MAX] __attribute__((aligned(64)));
};

struct host_facts host_facts;

/* Executable ranges for the signal handler; guards writing host_rx. */
static struct lock host_lock = LOCK_INIT;
static uint8_t *host_rx[HOST_STORES];

static struct sigaction host_old_sigfpe, host_old_sigill;

static void host_signal(int sig, siginfo_t *info, void *ctx)
{
	greg_t *g = ((ucontext_t *)ctx)->uc_mcontext.gregs;

	if (info->si_code > 0 && jit_signal(ctx))
		return;
	for (unsigned k = 0; k < HOST_STORES; k++) {
		uint8_t *rx = __atomic_load_n(&host_rx[k], __ATOMIC_ACQUIRE);

		if (rx && info->si_code > 0 &&
		    (uint64_t)g[REG_RIP] - (uintptr_t)rx < HOST_CODE_BYTES) {
			g[REG_RAX] = g[REG_TRAPNO];
			g[REG_RIP] = (greg_t)(uintptr_t)rx;
			return;
		}
	}
	/* Somebody else's: it comes again, to who was there before. */
	sigaction(sig, sig == SIGFPE ? &host_old_sigfpe : &host_old_sigill, NULL);
	/* Sent by a program: it does not come by itself. */
	if (info->si_code <= 0)
		raise(sig);
}

/* AVX with the kernel's consent: XCR0 has both halves. */
static bool host_has_avx(void)
{
	unsigned a, b, c, d;
	uint32_t lo, hi;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_AVX))
		return false;
	asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (lo & (X86_XCR0_SSE | X86_XCR0_AVX)) == (X86_XCR0_SSE | X86_XCR0_AVX);
}

/* SHA on memory that is not aligned is #GP on Intel (SDM 2B SHA1MSG1) and works on AMD. */
static bool host_sha_unaligned(void)
{
	unsigned a, b, c, d;

	return __get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx;
}

static int host_catch(int sig, struct sigaction *ret_before, struct err *e)
{
	struct sigaction sa = { .sa_sigaction = host_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK },
			 old;

	sigemptyset(&sa.sa_mask);
	if (sigaction(sig, &sa, &old))
		return err_set(e, errno, "cannot handle signal %d: %s", sig, strerror(errno));
	if (old.sa_sigaction != host_signal)
		*ret_before = old;
	return 0;
}

int soft_host_init(struct err *e)
{
	uint8_t img[512] __attribute__((aligned(16))) = { 0 };

	host_facts.avx = host_has_avx();
	host_facts.sha_unaligned = host_sha_unaligned();
	asm volatile("fxsave64 %0" : "=m"(img));
	memcpy(&host_facts.mxcsr_mask, img + 28, 4);
	/* 0 stands for the first SSE CPUs' mask (SDM 1 11.6.6). */
	if (!host_facts.mxcsr_mask)
		host_facts.mxcsr_mask = 0xffbf;
	int rc = host_catch(SIGFPE, &host_old_sigfpe, e);
	return rc < 0 ? rc : host_catch(SIGILL, &host_old_sigill, e);
}

/* Tells the signal handler; the slot is found by address when it goes. */
static bool host_publish(uint8_t *from, uint8_t *to)
{
	bool done = false;

	lock(&host_lock);
	for (unsigned k = 0; k < HOST_STORES && !done; k++) {
		if (host_rx[k] == from) {
			__atomic_store_n(&host_rx[k], to, __ATOMIC_RELEASE);
			done = true;
		}
	}
	unlock(&host_lock);
	return done;
}

static int host_map(struct soft_host *h)
{
	int fd = memfd_create("soft-stubs", MFD_CLOEXEC), rc = 0;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, HOST_CODE_BYTES))
		rc = -errno;
	if (!rc)
		h->rw = mmap(NULL, HOST_CODE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (!rc)
		h->rx = mmap(NULL, HOST_CODE_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (!rc && (h->rw == MAP_FAILED || h->rx == MAP_FAILED))
		rc = -errno;
	close(fd);
	return rc;
}

int soft_host_new(struct soft_host **ret, struct err *e)
{
	/* The bounce buffer takes aligned vector loads. */
	struct soft_host *h = aligned_alloc(64, align_up(sizeof(*h), 64));
	int rc;

	if (!h)
		return err_set(e, ENOMEM, "no memory for a vCPU's code stubs");
	memset(h, 0, sizeof(*h));
	h->rw = h->rx = MAP_FAILED;
	rc = host_map(h);
	if (rc) {
		soft_host_free(h);
		return err_set(e, -rc, "cannot map %u KiB of memory for code: %s",
			       HOST_CODE_BYTES / 1024, strerror(-rc));
	}
	BUG_ON(host_emit_landing(h->rw) > HOST_LANDING_BYTES);
	soft_host_reset(h);
	if (!host_publish(NULL, h->rx)) {
		soft_host_free(h);
		return err_set(e, ENOSPC, "more than %u virtual CPUs in one process", HOST_STORES);
	}
	*ret = h;
	return 0;
}

void soft_host_free(struct soft_host *h)
{
	if (!h)
		return;
	if (h->rx != MAP_FAILED) {
		host_publish(h->rx, NULL);
		munmap(h->rx, HOST_CODE_BYTES);
	}
	if (h->rw != MAP_FAILED)
		munmap(h->rw, HOST_CODE_BYTES);
	free(h);
}

bool soft_host_full(const struct soft_host *h)
{
	return h->nstub + SOFT_BLOCK_MAX > HOST_STUBS ||
	       h->used + SOFT_BLOCK_MAX * HOST_STUB_MAX > HOST_CODE_BYTES;
}

void soft_host_reset(struct soft_host *h)
{
	h->used = HOST_LANDING_BYTES;
	h->nstub = 0;
	memset(h->hash, 0, sizeof(h->hash));
}

/* FNV-1a. */
static uint32_t host_hash(const uint8_t *p, unsigned len, uint32_t h)
{
	for (unsigned k = 0; k < len; k++)
		h = (h ^ p[k]) * 16777619u;
	return h ^ h >> 15;
}

/* Opcode map and VEX.pp. */
static struct host_enc host_enc(const struct insn *i, const uint8_t *p, unsigned code_size)
{
	struct host_enc enc = { 0 };
	unsigned k = 0;

	while (k + 1u < i->len && (p[k] == 0x66 || p[k] == 0x67 || p[k] == 0xf2 || p[k] == 0xf3 ||
				   p[k] == 0xf0 || (p[k] & 0xe7) == 0x26 || p[k] == 0x64 ||
				   p[k] == 0x65 || (code_size == 64 && (p[k] & 0xf0) == 0x40)))
		k++;
	if (i->flags & INSN_VEX) {
		bool three = p[k] == 0xc4;

		enc.map = three ? p[k + 1] & 31 : 1;
		enc.pp = p[k + 1 + three] & 3;
	} else if (p[k] == 0x0f) {
		enc.map = p[k + 1] == 0x38 ? 2 : p[k + 1] == 0x3a ? 3 : 1;
	}
	return enc;
}

unsigned host_mem_len(const struct insn *i)
{
	const struct insn_form *f = &insn_forms[i->form];

	switch (f->mem_size) {
	case INSZ_OP:
		return i->opsize;
	case INSZ_HALF:
		return i->opsize / 2;
	case INSZ_QUARTER:
		return i->opsize / 4;
	case INSZ_EIGHTH:
		return i->opsize / 8;
	case INSZ_FPENV:
		return host_fp16(i) ? 14 : 28;
	case INSZ_FPSTATE:
		return host_fp16(i) ? 94 : 108;
	default:
		BUG_ON(f->mem_size > 32);
		return f->mem_size;
	}
}

/* SDM 2A table 2-21 ff. for VEX, 3A 13.1 for SSE, 3A table 2-2 and 12-1 for x87 and MMX. */
void host_gate_make(struct host_gate *ret, const struct insn *i)
{
	const struct insn_form *f = &insn_forms[i->form];

	*ret = (struct host_gate){ .prot = f->flags & INSF_PROT };
	if (i->flags & INSN_VEX)
		ret->prot = true;
	if (f->flags & INSF_AVX) {
		ret->cr4_need = X86_CR4_OSXSAVE;
		ret->xcr0_need = X86_XCR0_SSE | X86_XCR0_AVX;
		ret->cr0_no = X86_CR0_TS;
	} else if (f->flags & INSF_SSE) {
		ret->cr4_need = X86_CR4_OSFXSR;
		ret->cr0_no = X86_CR0_TS | X86_CR0_EM;
		ret->em_ud = true;
	}
	if (f->flags & INSF_MMX) {
		ret->cr0_no = X86_CR0_TS | X86_CR0_EM;
		ret->em_ud = true;
		/* With a memory operand these need not look at the x87 state: the host decides. */
		ret->wait = !(i->flags & INSN_MEM &&
			      (f->sop == SOP_CVTPI2PS || f->sop == SOP_CVTPI2PD));
	}
	if (f->flags & INSF_X87) {
		ret->cr0_no = X86_CR0_TS | X86_CR0_EM;
		ret->wait = f->flags & INSF_WAIT;
		/* FWAIT looks at TS only together with MP, which host_gate_fail() does. */
	}
}

void host_gate_fail(struct scpu *c, const struct insn *i, const struct host_gate *g)
{
	bool ud = (~c->cr4 & g->cr4_need) | (~c->xcr0 & g->xcr0_need);

	if (ud || (g->prot && host_no_prot(c)) || (g->em_ud && c->cr0 & g->cr0_no & X86_CR0_EM))
		soft_raise(c, i, X86_EXC_UD, 0);
	if (c->cr0 & g->cr0_no)
		soft_raise(c, i, X86_EXC_NM, 0);
	if (!ferr_ignored(c))
		ferr_raise(c, i);
}

/* Flags and summaries of FSW (SDM 1 8.1.3). */
enum {
	FSW_ERRORS = 0x80ff,
};

/* Once more with the pending error put aside, which is there again afterwards. */
static unsigned host_ignoring(struct scpu *c, const struct host_stub *st, void *mem)
{
	uint16_t errors = ld_le16(c->fx + 2) & FSW_ERRORS;

	st_le16(c->fx + 2, ld_le16(c->fx + 2) & (uint16_t)~FSW_ERRORS);
	unsigned vector = st->code(mem, c);
	st_le16(c->fx + 2, ld_le16(c->fx + 2) | errors);
	return vector;
}

/* The copied instruction raised. */
static NOINLINE COLD void host_raised(struct scpu *c, const struct insn *i,
				      const struct host_stub *st, void *mem, unsigned vector)
{
	BUG_ON(vector != X86_EXC_MF && vector != X86_EXC_XM);
	if (vector == X86_EXC_MF && ferr_ignored(c))
		vector = host_ignoring(c, st, mem);
	if (vector == X86_EXC_XM)
		soft_raise(c, i, c->cr4 & X86_CR4_OSXMMEXCPT ? X86_EXC_XM : X86_EXC_UD, 0);
	if (vector)
		ferr_raise(c, i);
}

static ALWAYS_INLINE void host_call(struct scpu *c, const struct insn *i,
				    const struct host_stub *st, void *mem)
{
	unsigned vector = st->code(mem, c);

	if (unlikely(vector))
		host_raised(c, i, st, mem, vector);
}

static ALWAYS_INLINE uint64_t host_lin(struct scpu *c, const struct insn *i,
				       const struct host_stub *st, bool write)
{
	uint64_t ea = soft_ea(c, i);

	/* Before the segment's limit, whose fault may be #SS (seen on AMD). */
	if (unlikely((ea + c->sbase[i->seg]) & st->align_mask))
		soft_raise(c, i, X86_EXC_GP, 0);
	return soft_lin(c, i, i->seg, ea, st->mem_len, write);
}

/* No memory operand. */
static void host_reg(struct scpu *c, const struct insn *i)
{
	const struct host_stub *st = i->aux;

	host_gate(c, i, &st->gate);
	host_call(c, i, st, NULL);
	SOFT_NEXT(c, i);
}

/* FWAIT: #NM only with MP. */
static void host_fwait(struct scpu *c, const struct insn *i)
{
	if ((c->cr0 & (X86_CR0_MP | X86_CR0_TS)) == (X86_CR0_MP | X86_CR0_TS))
		soft_raise(c, i, X86_EXC_NM, 0);
	if (c->fx[2] & 0x80 && !ferr_ignored(c))
		ferr_raise(c, i);
	SOFT_NEXT(c, i);
}

static void host_load(struct scpu *c, const struct insn *i)
{
	const struct host_stub *st = i->aux;
	void *p;

	host_gate(c, i, &st->gate);
	uint64_t lin = host_lin(c, i, st, false);
	const struct stlb *t = &c->tlb->r[lin >> 12 & (STLB_SIZE - 1)];
	if (likely((lin ^ t->tag) <= 4096u - st->mem_len)) {
		p = stlb_at(t, lin);
	} else {
		p = c->host->bounce;
		soft_ld_buf_lin(c, i, lin, p, st->mem_len);
	}
	host_call(c, i, st, p);
	SOFT_NEXT(c, i);
}

/*
 * Not in place.  An instruction that raises stores nothing, and an x87 store that has an unmasked
 * exception pending afterwards may not have stored: the buffer begins with what is there.
 */
static NOINLINE void host_store_slow(struct scpu *c, const struct insn *i,
				     const struct host_stub *st, uint64_t lin)
{
	uint8_t *p = c->host->bounce;
	bool x87 = insn_forms[i->form].flags & INSF_X87;
	unsigned fcw = c->fx[0] & 63;

	soft_probe_w(c, i, lin, st->mem_len);
	if (insn_forms[i->form].mem_access & INSA_R || (x87 && fcw != 63))
		soft_ld_buf_lin(c, i, lin, p, st->mem_len);
	host_call(c, i, st, p);
	memset(p + st->blank_off, 0, st->blank_len);
	soft_st_buf_lin(c, i, lin, p, st->mem_len);
}

static void host_store(struct scpu *c, const struct insn *i)
{
	const struct host_stub *st = i->aux;

	host_gate(c, i, &st->gate);
	uint64_t lin = host_lin(c, i, st, true);
	void *p = soft_w_ptr(c, i, lin, st->mem_len);
	if (likely(p && !st->blank_len))
		host_call(c, i, st, p);
	else
		host_store_slow(c, i, st, lin);
	SOFT_NEXT(c, i);
}

/* FNCLEX, FNINIT, FNSAVE, FLDENV, FRSTOR: what they leave is looked at anew. */
static void host_reg_clears(struct scpu *c, const struct insn *i)
{
	ferr_clear(c);
	host_reg(c, i);
}

static void host_load_clears(struct scpu *c, const struct insn *i)
{
	host_gate(c, i, &((const struct host_stub *)i->aux)->gate);
	ferr_clear(c);
	host_load(c, i);
}

static void host_store_clears(struct scpu *c, const struct insn *i)
{
	ferr_clear(c);
	host_store(c, i);
}

static bool host_clears(unsigned sop)
{
	return sop == SOP_FNCLEX || sop == SOP_FNINIT || sop == SOP_FNSAVE || sop == SOP_FLDENV ||
	       sop == SOP_FRSTOR;
}

/* What the code does not say of a stub. */
static void host_describe(struct host_stub *st, const struct insn *i)
{
	const struct insn_form *f = &insn_forms[i->form];

	host_gate_make(&st->gate, i);
	st->mem_len = st->align_mask = st->blank_off = st->blank_len = 0;
	if (!(i->flags & INSN_MEM))
		return;
	st->mem_len = (uint8_t)host_mem_len(i);
	if (f->flags & INSF_ALIGN && !(f->feat == IFEAT_SHA && host_facts.sha_unaligned))
		st->align_mask = (uint8_t)(st->mem_len - 1);
	/* FIP to FDS of the 16- and the 32-bit layout (SDM 1 8.1.10). */
	if (f->mem_access == INSA_W && (f->mem_size == INSZ_FPENV || f->mem_size == INSZ_FPSTATE)) {
		st->blank_off = host_fp16(i) ? 6 : 12;
		st->blank_len = host_fp16(i) ? 8 : 16;
	}
}

/* Finds or makes the stub that has this code; NULL: there is no room, which soft_host_full() told.
 */
static struct host_stub *host_stub(struct soft_host *h, const struct insn *i, const uint8_t *code,
				   unsigned len)
{
	uint32_t hash = host_hash(code, len, i->form * 2654435761u + i->opsize) % HOST_HASH;
	struct host_stub *st;

	for (unsigned n = h->hash[hash]; n; n = st->next) {
		st = &h->stub[n - 1];
		if (st->form == i->form && st->code_len == len &&
		    !memcmp((const void *)(uintptr_t)st->code, code, len))
			return st;
	}
	if (h->nstub == HOST_STUBS || h->used + len > HOST_CODE_BYTES)
		return NULL;
	memcpy(h->rw + h->used, code, len);
	st = &h->stub[h->nstub++];
	st->code = (host_code *)(void *)(h->rx + h->used);
	st->form = i->form;
	st->code_len = (uint16_t)len;
	host_describe(st, i);
	st->next = h->hash[hash];
	h->hash[hash] = (uint16_t)h->nstub;
	h->used += (len + 15) & ~15u;
	return st;
}

unsigned host_run_code(struct scpu *c, const uint8_t *code, unsigned len, void *mem)
{
	static const struct insn none;
	const struct host_stub *st = host_stub(c->host, &none, code, len);

	BUG_ON(!st);
	return st->code(mem, c);
}

insn_fn *host_bind(struct scpu *c, struct insn *i, const uint8_t *bytes, unsigned code_size)
{
	const struct insn_form *f = &insn_forms[i->form];
	struct host_enc enc = host_enc(i, bytes, code_size);
	uint8_t code[HOST_STUB_MAX];
	unsigned len;

	if (enc.map == 0 && i->opcode == 0x9b)
		return host_fwait;
	/* Of the one-byte opcodes only x87 comes here. */
	BUG_ON(enc.map == 0 && (i->opcode & 0xf8) != 0xd8);
	len = host_emit(code, i, &enc, code_size);
	if (!len)
		return NULL;
	i->aux = host_stub(c->host, i, code, len);
	BUG_ON(!i->aux);
	bool clears = host_clears(f->sop);
	if (!(i->flags & INSN_MEM) || f->mem_access == INSA_NONE)
		return clears ? host_reg_clears : host_reg;
	if (f->mem_access == INSA_R)
		return clears ? host_load_clears : host_load;
	return clears ? host_store_clears : host_store;
}
