/*
 * The native oracle: `test_accel_oracle [CASES [MNEMONIC]]`; ORACLE_CASES is CASES too, SAMPAN_SEED
 * the seed ("random": another each time); ORACLE_BENCH=1 measures instead.  ORACLE_BRIEF=1 prints a
 * line for each difference, ORACLE_ALL=1 more than one of each form; ORACLE_ENGINE=jit tests the
 * translator instead of the interpreter.  See oracle.h.
 *
 * The child runs one batch natively while this process makes the next and runs it on soft; then all
 * states are compared.  The first differences are printed in full with the bytes of the case.
 */
#include "oracle.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define ORC_SLOW 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ORC_SLOW 1
#endif
#endif
#ifndef ORC_SLOW
#define ORC_SLOW 0
#endif

enum {
	/* Sanitizers look for other mistakes: fewer will do. */
	CASES = ORC_SLOW ? 200000 : 1200000,
	/* Of 64 batches, these many are sequences. */
	SEQUENCES = 3,
};

static unsigned long differing, compared, insns, faulted;
static uint16_t diff_of[INSN_FORMS];
static unsigned long fault_of[32];

/* ---- the child ---- */

struct child {
	pid_t pid;
	int to, from;
};

static void child_main(struct orc_batch *b, int in, int out)
{
	char which;

	orc_native_init();
	while (read(in, &which, 1) == 1) {
		struct orc_batch *x = &b[which - '0'];

		for (unsigned k = 0; k < x->n; k++) {
			x->at = k;
			orc_native_run(&x->c[k], &x->native[k]);
		}
		if (write(out, "k", 1) != 1)
			_exit(3);
	}
	_exit(0);
}

static void child_start(struct child *ch, struct orc_batch *b)
{
	int to[2], from[2];

	if (pipe(to) || pipe(from))
		abort();
	ch->pid = fork();
	if (!ch->pid) {
		close(to[1]);
		close(from[0]);
		child_main(b, to[0], from[1]);
	}
	close(to[0]);
	close(from[1]);
	ch->to = to[1];
	ch->from = from[0];
}

/* ---- comparing ---- */

static bool is_decimal(unsigned form)
{
	switch (insn_forms[form].sop) {
	case SOP_AAA:
	case SOP_AAS:
	case SOP_AAD:
	case SOP_AAM:
	case SOP_DAA:
	case SOP_DAS:
		return true;
	default:
		return false;
	}
}

/*
 * Flags that count.  All, because undefined ones too come from the host's instruction; except after
 * decimal adjustments, which 64-bit code does not have: there the undefined ones of insn.tab
 * (SDM 1 appendix A) may differ.
 */
static uint64_t flags_mask(const struct orc_case *c, int vector)
{
	uint64_t all = X86_FL_STATUS | X86_FL_DF;

	/* The translator does not keep those that nothing reads (docs/engine.md). */
	if (orc_jit && c->ninsn > 1 && vector >= 0)
		return X86_FL_DF;
	return is_decimal(c->form) ? all & ~(uint64_t)insn_forms[c->form].fl_u : all;
}

static bool x87_same(const uint8_t *a, const uint8_t *b)
{
	/* FCW, FSW, FTW; FOP, FIP, FDP are not kept (host.c); ten bytes of each register. */
	if (memcmp(a, b, 5))
		return false;
	for (unsigned k = 0; k < 8; k++)
		if (memcmp(a + 32 + 16 * k, b + 32 + 16 * k, 10))
			return false;
	return true;
}

/* FNSTENV and FNSAVE store FIP to FDS, which are not kept. */
static void blank_pointers(const struct orc_case *c, struct orc_result *n)
{
	struct insn i;
	unsigned form_size, off, len;
	uint64_t ea;

	for (unsigned k = 0; k < c->ninsn; k++) {
		if (soft_decode(c->code + c->off[k], 15, c->bits, &i) < 0)
			return;
		form_size = insn_forms[i.form].mem_size;
		if (insn_forms[i.form].mem_access != INSA_W ||
		    (form_size != INSZ_FPENV && form_size != INSZ_FPSTATE))
			continue;
		off = i.opsize == 2 && !(i.flags & INSN_REXW) ? 6 : 12;
		len = off == 6 ? 8 : 16;
		ea = i.base == SREG_RIP    ? c->rip + c->off[k]
		     : i.base == SREG_NONE ? 0
					   : c->in.gpr[i.base];
		ea += i.index == SREG_NONE ? 0 : c->in.gpr[i.index] << i.scale;
		ea = (ea + (uint64_t)i.disp) & i.ea_mask;
		if (i.seg == X86_GS)
			ea += ORC_GS;
		if (c->bits == 16)
			ea += ORC_BASE16;
		for (unsigned m = 0; m < ORC_MEM; m++)
			if (orc_mem_addr(m) - (ea + off) < len)
				n->mem[m] = 0;
	}
}

/*
 * Exceptions alike?  Linux sets P in the error code of addresses beyond user space.  For operands
 * that are accessed in parts or under a mask a CPU may report any byte of the page.
 */
static bool same_fault(const struct orc_case *c, struct orc_state *n, struct orc_state *s)
{
	const struct insn_form *f = &insn_forms[c->form];

	if (n->cr2 >= 0x7ffffffff000 && n->vector == X86_EXC_PF)
		n->err = s->err |= X86_PF_P;
	if (c->ninsn == 1 &&
	    (f->flags & INSF_MASKED || f->mem_size == INSZ_FPENV || f->mem_size == INSZ_FPSTATE))
		return n->err == s->err && n->cr2 >> 12 == s->cr2 >> 12;
	return n->err == s->err && n->cr2 == s->cr2;
}

/*
 * Faults of which CPUs differ, and the SDM allows it.
 *	MASKMOVDQU, MASKMOVQ	may fault for bytes that the mask excludes (SDM 2B), and may report
 *				any part; MASKMOVQ enters MMX mode before that or not.
 *	gathers			Zen 5 clears elements that the mask excludes before the faulting
 *one.
 */
static bool loose_fault(const struct orc_case *c, const struct orc_result *n)
{
	const struct insn_form *f = &insn_forms[c->form];

	if (c->ninsn != 1 || n->s.vector < 0)
		return false;
	return f->opnd[0].kind == OPND_MASKMOV || f->opnd[1].kind == OPND_VSIB;
}

/*
 * An operand across the end of the address space.  32-bit code: a CPU may see the segment's limit
 * or wrap around (SDM 3A 5.3); AMD sees the limit, soft wraps.  64-bit code: the x87 environment is
 * loaded in parts, so a part below the end may page-fault before the whole is not canonical.  The
 * same with the end of a 16-bit segment, and the ten bytes of FBLD and its kin.
 */
static bool across_end(const struct orc_case *c, const struct orc_state *n,
		       const struct orc_state *s)
{
	unsigned size = insn_forms[c->form].mem_size;
	bool n_gp = n->vector == X86_EXC_GP || n->vector == X86_EXC_SS;
	bool s_gp = s->vector == X86_EXC_GP || s->vector == X86_EXC_SS;

	if (c->bits == 16)
		return s_gp && n->vector == X86_EXC_PF &&
		       (size == INSZ_FPENV || size == INSZ_FPSTATE || size == 10);
	if (c->bits == 32)
		return n_gp && s->vector == X86_EXC_PF && s->cr2 >= 0xffffff00;
	return s_gp && n->vector == X86_EXC_PF && n->cr2 >> 12 == 0x7ffffffff &&
	       (size == INSZ_FPENV || size == INSZ_FPSTATE);
}

/*
 * AddressSanitizer's shadow is memory that the native run can reach and the software CPU cannot: a
 * stray access there says nothing.  (clang and gcc: offset 0x7fff8000, one eighth of 47 bits.)
 */
static bool in_asan_shadow(const struct orc_state *s)
{
	return ORC_SLOW && s->vector == X86_EXC_PF && s->cr2 >= 0x7fff8000 &&
	       s->cr2 < 0x7fff8000 + (1ull << 44);
}

/*
 * The translator does not keep flags that an instruction leaves undefined, and some CPUs leave
 * alone (AMD's IMUL): in a sequence they may be others than natively.  Which are undefined at the
 * end; ~0: one of them was read.
 */
static uint64_t undefined_flags(const struct orc_case *c)
{
	uint64_t u = 0;
	struct insn i;

	for (unsigned k = 0; k < c->ninsn; k++) {
		if (soft_decode(c->code + c->off[k], 15, c->bits, &i) < 0)
			return ~0ull;
		const struct insn_form *f = &insn_forms[i.form];
		if (u & f->fl_r)
			return ~0ull;
		u = (f->flags & INSF_FL_COND ? u : u & ~(uint64_t)f->fl_w) | f->fl_u;
	}
	return u & X86_FL_STATUS;
}

/*
 * An indirect call to where no code can be: the translator has stored the return address, below the
 * stack pointer, when it finds out.
 */
static bool call_nowhere(const struct orc_case *c, const struct orc_result *n)
{
	return orc_jit && insn_forms[c->form].sop == SOP_CALL && n->s.vector == X86_EXC_GP;
}

static const char *compare(const struct orc_case *c, struct orc_result *n, struct orc_result *s)
{
	uint64_t undefined = orc_jit ? undefined_flags(c) : 0;

	if (in_asan_shadow(&s->s) || undefined == ~0ull)
		return NULL;
	if (across_end(c, &n->s, &s->s))
		return NULL;
	if (loose_fault(c, n))
		return s->s.vector != n->s.vector && insn_forms[c->form].opnd[1].kind == OPND_VSIB
			       ? "exception"
			       : NULL;
	if (n->s.vector != s->s.vector)
		return "exception";
	if (n->s.rip != s->s.rip)
		return "RIP";
	if (n->s.vector >= 0 && !same_fault(c, &n->s, &s->s))
		return "error code or CR2";
	if (memcmp(n->s.gpr, s->s.gpr, sizeof(n->s.gpr)))
		return "general registers";
	if ((n->s.rflags ^ s->s.rflags) & flags_mask(c, n->s.vector) & ~undefined)
		return "flags";
	if (memcmp(n->s.ymm, s->s.ymm, sizeof(n->s.ymm)))
		return "vector registers";
	if (n->s.mxcsr != s->s.mxcsr)
		return "MXCSR";
	if (!x87_same(n->s.fx, s->s.fx))
		return "x87";
	if (memcmp(n->mem, s->mem, ORC_MEM) && !call_nowhere(c, n)) {
		blank_pointers(c, n);
		blank_pointers(c, s);
		if (memcmp(n->mem, s->mem, ORC_MEM))
			return "memory";
	}
	return NULL;
}

static void show_bytes(const char *what, const uint8_t *p, unsigned len)
{
	printf("    %s", what);
	for (unsigned k = 0; k < len; k++)
		printf("%02x", p[k]);
	printf("\n");
}

static void show_state(const struct orc_case *c, const struct orc_result *n,
		       const struct orc_result *s)
{
	static const char *const reg[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					   "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

	printf("    exception native %d err %x cr2 %llx, soft %d err %x cr2 %llx\n", n->s.vector,
	       n->s.err, (unsigned long long)n->s.cr2, s->s.vector, s->s.err,
	       (unsigned long long)s->s.cr2);
	printf("    rip in %llx native %llx soft %llx\n", (unsigned long long)c->rip,
	       (unsigned long long)n->s.rip, (unsigned long long)s->s.rip);
	printf("    flags in %llx native %llx soft %llx\n", (unsigned long long)c->in.rflags,
	       (unsigned long long)n->s.rflags & 0xcd5, (unsigned long long)s->s.rflags & 0xcd5);
	for (unsigned k = 0; k < 16; k++)
		printf("    %-3s in %016llx native %016llx soft %016llx%s\n", reg[k],
		       (unsigned long long)c->in.gpr[k], (unsigned long long)n->s.gpr[k],
		       (unsigned long long)s->s.gpr[k], n->s.gpr[k] != s->s.gpr[k] ? "  <" : "");
	for (unsigned k = 0; k < 16; k++)
		if (memcmp(n->s.ymm[k], s->s.ymm[k], 32)) {
			printf("    ymm%u\n", k);
			show_bytes("in     ", c->in.ymm[k], 32);
			show_bytes("native ", n->s.ymm[k], 32);
			show_bytes("soft   ", s->s.ymm[k], 32);
		}
	printf("    mxcsr in %x native %x soft %x\n", c->in.mxcsr, n->s.mxcsr, s->s.mxcsr);
	if (!x87_same(n->s.fx, s->s.fx)) {
		show_bytes("x87 in     ", c->in.fx, 160);
		show_bytes("x87 native ", n->s.fx, 160);
		show_bytes("x87 soft   ", s->s.fx, 160);
	}
	for (unsigned k = 0; k < ORC_MEM; k++)
		if (n->mem[k] != s->mem[k])
			printf("    [%llx] in %02x native %02x soft %02x\n",
			       (unsigned long long)orc_mem_addr(k), c->mem[k], n->mem[k],
			       s->mem[k]);
}

static void give(struct child *ch, unsigned which);
static bool take(struct child *ch, const struct orc_batch *b);
static struct child child;
static struct orc_batch *batches;

/* The first instruction of a sequence after which the states differ. */
static void narrow(const struct orc_case *c)
{
	struct orc_batch *b = &batches[2];
	struct insn i;

	b->n = c->ninsn;
	for (unsigned k = 0; k < b->n; k++) {
		b->c[k] = *c;
		b->c[k].ninsn = k + 1;
		b->c[k].len = k + 1 < c->ninsn ? c->off[k + 1] : c->len;
		orc_soft_run(&b->c[k], &b->soft[k]);
	}
	give(&child, 2);
	if (!take(&child, b))
		return;
	for (unsigned k = 0; k < b->n; k++) {
		const char *what = compare(&b->c[k], &b->native[k], &b->soft[k]);

		if (!what)
			continue;
		if (soft_decode(c->code + c->off[k], 15, c->bits, &i) < 0)
			abort();
		printf("    first after instruction %u, %s: %s\n", k, insn_forms[i.form].name,
		       what);
		show_bytes("instruction ", c->code + c->off[k], (unsigned)i.len);
		if (k)
			show_state(&b->c[k], &b->native[k - 1], &b->soft[k - 1]);
		show_state(&b->c[k], &b->native[k], &b->soft[k]);
		return;
	}
}

static void check_batch(struct orc_batch *b)
{
	for (unsigned k = 0; k < b->n; k++) {
		struct orc_case *c = &b->c[k];
		const char *what = compare(c, &b->native[k], &b->soft[k]);

		compared++;
		insns += c->ninsn;
		if (b->native[k].s.vector >= 0) {
			faulted++;
			fault_of[b->native[k].s.vector & 31]++;
		}
		if (!what)
			continue;
		differing++;
		if (!diff_of[c->form]++ || getenv("ORACLE_ALL")) {
			if (getenv("ORACLE_BRIEF")) {
				printf("%-12s %s %s\n", insn_forms[c->form].name, what,
				       c->ninsn > 1 ? "seq" : "");
				continue;
			}
			printf("differs in %s: %s (%u instructions)\n", what,
			       insn_forms[c->form].name, c->ninsn);
			show_bytes("code ", c->code, c->len);
			if (c->ninsn > 1)
				narrow(c);
			else
				show_state(c, &b->native[k], &b->soft[k]);
		}
	}
}

/* ---- ---- */

static void fill_batch(struct orc_gen *g, struct orc_batch *b, unsigned long number,
		       unsigned long left)
{
	bool sequence = number % 64 < SEQUENCES;

	b->n = left < ORC_BATCH ? (unsigned)left : ORC_BATCH;
	for (unsigned k = 0; k < b->n; k++)
		orc_gen_case(g, &b->c[k], sequence);
}

static void give(struct child *ch, unsigned which)
{
	char w = (char)('0' + which);

	if (write(ch->to, &w, 1) != 1)
		abort();
}

/* False: the child died. */
static bool take(struct child *ch, const struct orc_batch *b)
{
	char ok;
	int status;

	if (read(ch->from, &ok, 1) == 1)
		return true;
	waitpid(ch->pid, &status, 0);
	printf("the child died (status %x) at case %u of its batch:\n", (unsigned)status, b->at);
	show_bytes("code ", b->c[b->at].code, b->c[b->at].len);
	return false;
}

int main(int argc, char **argv)
{
	const char *env = getenv("ORACLE_CASES"), *seed_env = getenv("SAMPAN_SEED");
	unsigned long cases = argc > 1 ? strtoul(argv[1], NULL, 0)
			      : env    ? strtoul(env, NULL, 0)
				       : CASES;
	const char *engine = getenv("ORACLE_ENGINE");
	uint64_t seed = seed_env ? strtoull(seed_env, NULL, 0) : 20261121;

	if (seed_env && !strcmp(seed_env, "random"))
		seed = (uint64_t)time(NULL);
	struct orc_batch *b = mmap(NULL, 3 * sizeof(*b), PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct orc_gen *g, *g32, *g16 = NULL;
	unsigned long done = 0, number = 0;

	if (b == MAP_FAILED)
		abort();
	batches = b;
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("# SAMPAN_SEED=%llu, %lu cases\n", (unsigned long long)seed, cases);
	bool has16 = orc_native_ldt();

	orc_jit = engine && !strcmp(engine, "jit");
	child_start(&child, b);
	orc_soft_init();
	if (getenv("ORACLE_BENCH")) {
		orc_soft_bench();
		return 0;
	}
	g = orc_gen_new(seed, 64);
	g32 = orc_gen_new(~seed, 32);
	if (has16)
		g16 = orc_gen_new(seed ^ 0x16, 16);
	else
		printf("# no 16-bit code: this kernel has no LDTs\n");
	if (argc > 2) {
		orc_gen_only(g, argv[2]);
		orc_gen_only(g32, argv[2]);
		if (g16)
			orc_gen_only(g16, argv[2]);
	}
	while (done < cases) {
		struct orc_batch *x = &b[number & 1];

		/* The sanitizer's shadow memory lies where wild 32-bit addresses point. */
		struct orc_gen *now = number & 3 || ORC_SLOW ? g : number & 4 && g16 ? g16 : g32;
		fill_batch(now, x, number >> 2, cases - done);
		/* The other batch is with the child now. */
		if (number && !take(&child, &b[~number & 1]))
			return 1;
		if (number)
			check_batch(&b[~number & 1]);
		give(&child, number & 1);
		for (unsigned k = 0; k < x->n; k++)
			orc_soft_run(&x->c[k], &x->soft[k]);
		done += x->n;
		number++;
	}
	if (!take(&child, &b[~number & 1]))
		return 1;
	check_batch(&b[~number & 1]);
	printf("%lu cases, %lu instructions, %u forms, %lu raised an exception; %lu differ\n",
	       compared, insns,
	       orc_gen_forms(g) + orc_gen_forms(g32) + (g16 ? orc_gen_forms(g16) : 0), faulted,
	       differing);
	if (orc_jit)
		printf("  left to the interpreter: %lu\n", orc_not_translated());
	for (unsigned k = 0; k < 32; k++)
		if (fault_of[k])
			printf("  exception %u: %lu\n", k, fault_of[k]);
	orc_gen_free(g);
	orc_gen_free(g32);
	orc_gen_free(g16);
	orc_soft_fini();
	return differing ? 1 : 0;
}
