/*
 * The decoder against the CPU under us: the same length, and #UD for the same bytes.
 *
 * Random instructions in 64- and 32-bit code are run in a forked child by host_probe.h: with one
 * byte less than soft_decode() asks for they must run into the page's end, with all of them they
 * must not; what soft_decode() refuses must be SIGILL.
 *
 * Left out: what would leave the child or break it (skip_form()), what needs a feature that this
 * CPU lacks, what CPUs refuse in user mode, and what the CPU has and we do not want (told by
 * Zydis). Where this CPU is known to differ from its manuals is in host_known().
 */
#include "lib/t.h"

#include "cpu/x86.h"
#include "host_probe.h"
#include "zydis_cmp.h"

#include <cpuid.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#elif defined(__has_feature)
#define WITH_ASAN __has_feature(address_sanitizer)
#else
#define WITH_ASAN 0
#endif

enum {
	CASES = 150000,
};

/* CPUID bits of the features that forms name: leaf, register (A-D), bit. */
static const struct {
	uint8_t feat;
	uint32_t leaf;
	char reg;
	uint8_t bit;
} feature_bits[] = {
	{ IFEAT_ADX, 7, 'B', 19 },
	{ IFEAT_AES, 1, 'C', 25 },
	{ IFEAT_AVX, 1, 'C', 28 },
	{ IFEAT_AVX2, 7, 'B', 5 },
	{ IFEAT_BMI1, 7, 'B', 3 },
	{ IFEAT_BMI2, 7, 'B', 8 },
	{ IFEAT_CLFLUSHOPT, 7, 'B', 23 },
	{ IFEAT_CLWB, 7, 'B', 24 },
	{ IFEAT_F16C, 1, 'C', 29 },
	{ IFEAT_FMA, 1, 'C', 12 },
	{ IFEAT_FSGSBASE, 7, 'B', 0 },
	{ IFEAT_INVPCID, 7, 'B', 10 },
	{ IFEAT_LZCNT, 0x80000001, 'C', 5 },
	{ IFEAT_MOVBE, 1, 'C', 22 },
	{ IFEAT_PCLMULQDQ, 1, 'C', 1 },
	{ IFEAT_POPCNT, 1, 'C', 23 },
	{ IFEAT_PREFETCHW, 0x80000001, 'C', 8 },
	{ IFEAT_RDPID, 7, 'C', 22 },
	{ IFEAT_RDRAND, 1, 'C', 30 },
	{ IFEAT_RDSEED, 7, 'B', 18 },
	{ IFEAT_SHA, 7, 'B', 29 },
	{ IFEAT_SSE3, 1, 'C', 0 },
	{ IFEAT_SSSE3, 1, 'C', 9 },
	{ IFEAT_SSE4_1, 1, 'C', 19 },
	{ IFEAT_SSE4_2, 1, 'C', 20 },
	{ IFEAT_VAES, 7, 'C', 9 },
	{ IFEAT_VPCLMULQDQ, 7, 'C', 10 },
	{ IFEAT_XSAVE, 1, 'C', 27 },
	{ IFEAT_CX16, 1, 'C', 13 },
	{ IFEAT_RDTSCP, 0x80000001, 'D', 27 },
};
static bool missing[IFEATS];

static void find_missing(void)
{
	for (unsigned k = 0; k < COUNT_OF(feature_bits); k++) {
		unsigned r[4] = { 0 };

		__get_cpuid_count(feature_bits[k].leaf, 0, &r[0], &r[1], &r[2], &r[3]);
		missing[feature_bits[k].feat] =
			!(r[feature_bits[k].reg - 'A'] >> feature_bits[k].bit & 1);
	}
	/* Leaf 0xd, sub-leaf 1, says what there is of XSAVE. */
	missing[IFEAT_XSAVEOPT] = missing[IFEAT_XSAVEC] = missing[IFEAT_XSAVES] =
		missing[IFEAT_XSAVE];
}

/* Not to be run here, or refused by the CPU only because this is user mode. */
static bool skip_form(const struct insn *i)
{
	const struct insn_form *f = &insn_forms[i->form];

	if (missing[f->feat])
		return true;
	/* FS is the C library's: no memory through it, no change of it. */
	if (i->seg == X86_FS && i->flags & INSN_SEG)
		return true;
	if (f->opnd[0].kind == OPND_SREG && f->opnd[0].access == INSA_W)
		return i->reg >= X86_FS;
	switch (f->sop) {
	case SOP_SYSCALL:
	case SOP_SYSENTER:
	case SOP_INT:
	case SOP_LFS:
	case SOP_LGS:
	case SOP_WRFSBASE:
	case SOP_WRGSBASE:
	case SOP_CLAC:
	case SOP_STAC:
	case SOP_MONITOR:
	case SOP_MWAIT:
	case SOP_VMCALL:
	case SOP_VMMCALL:
	case SOP_XSAVEC:
	case SOP_XSAVEOPT:
		return true;
	default:
		return false;
	}
}

/* AMD's CPUs (Zen 4 and 5) differ from their manual, or we chose not to follow. */
static bool host_known(const uint8_t *b, const struct insn *i, int len)
{
	unsigned n = 0, vex_w;

	/* VPINSRD and VPEXTRD in 32-bit code with VEX.W: refused; Intel ignores W, and so do we. */
	if (len > 0)
		return (insn_forms[i->form].sop == SOP_VPINSRD ||
			insn_forms[i->form].sop == SOP_VPEXTRD) &&
		       i->flags & INSN_REXW;
	while (b[n] != 0x0f && b[n] != 0xc4 && n < 14)
		n++;
	vex_w = b[n + 2] & 0x80;
	/* VPERMQ and VPERMPD without VEX.W are taken as if it were there. */
	if (b[n] == 0xc4)
		return (b[n + 1] & 31) == 3 && !vex_w && b[n + 3] <= 1;
	/* VMCALL with a prefix belongs to the hypervisor below. */
	if (b[n + 1] == 0x01 && b[n + 2] == 0xc1)
		return true;
	/* LOCK MOV CR0 is MOV CR8 (AltMovCr8); LOCK VERW is not refused. */
	return memchr(b, 0xf0, n) && (b[n + 1] == 0x20 || b[n + 1] == 0x22 ||
				      (b[n + 1] == 0 && (b[n + 2] >> 3 & 7) == 5));
}

static void random_insn(uint8_t *b, uint64_t *seed)
{
	static const uint8_t pfx[] = { 0x66, 0x66, 0xf2, 0xf3, 0xf0, 0x67, 0x2e, 0x3e, 0x26,
				       0x36, 0x65, 0x48, 0x40, 0x41, 0x44, 0x42, 0x4f };
	unsigned n = 0;

	for (unsigned k = 0; k < 16; k++)
		b[k] = (uint8_t)t_rnd(seed);
	while (n < 5 && t_below(seed, 3) == 0)
		b[n++] = pfx[t_below(seed, COUNT_OF(pfx))];
	switch (t_below(seed, 8)) {
	case 0:
	case 1:
		b[n] = 0x0f;
		break;
	case 2:
		b[n] = 0x0f;
		b[n + 1] = t_below(seed, 2) ? 0x38 : 0x3a;
		break;
	case 3:
		b[n] = 0xc5;
		break;
	case 4:
		b[n] = 0xc4;
		b[n + 1] = (uint8_t)((b[n + 1] & 0xe0) | (1 + t_below(seed, 3)));
		b[n + 2] |= t_below(seed, 2) ? 0x78 : 0;
		break;
	default:
		break;
	}
}

/* What is wrong, or NULL; *ran is set when the CPU was asked. */
static const char *compare(struct zcmp *c, const uint8_t *b, unsigned mode, bool *ran)
{
	uint16_t cs = mode == 2 ? PROBE_CS64 : PROBE_CS32;

	(void)zcmp_raw(c, b, 15, mode);
	*ran = false;
	if (c->len == -EILSEQ) {
		if (c->z_refused)
			return NULL;
		*ran = true;
		if (probe(b, 15, cs) == PROBE_UD)
			return NULL;
		/* It wants all 15 bytes, then raises #GP: longer than that, were it defined. */
		if (probe_now.sig == SIGSEGV && probe(b, 14, cs) == PROBE_MORE)
			return NULL;
		return "the CPU takes it";
	}
	if (c->len < 0 || skip_form(&c->i))
		return NULL;
	*ran = true;
	if (c->len > 1 && probe(b, (unsigned)c->len - 1, cs) != PROBE_MORE)
		return "the CPU needs fewer bytes";
	switch (probe(b, (unsigned)c->len, cs)) {
	case PROBE_MORE:
		return "the CPU wants more bytes";
	case PROBE_UD:
		return "the CPU refuses it";
	default:
		return NULL;
	}
}

static int child(unsigned mode, uint64_t seed)
{
	unsigned bad = 0, done = 0, known = 0;
	struct zcmp c;

	zcmp_init(&c);
	find_missing();
	probe_init();
	for (unsigned k = 0; k < CASES; k++) {
		uint8_t b[16];
		bool ran;
		const char *why;

		random_insn(b, &seed);
		why = compare(&c, b, mode, &ran);
		done += ran;
		if (!why)
			continue;
		if (host_known(b, &c.i, c.len)) {
			known++;
			continue;
		}
		if (bad++ < 20) {
			for (unsigned n = 0; n < 15; n++)
				printf("%02x ", b[n]);
			printf(": %s: ours %d %s\n", why, c.len,
			       c.len > 0 ? insn_forms[c.i.form].name : "-");
		}
	}
	printf("# %u-bit: %u instructions run, %u known differences\n", 16u << mode, done, known);
	fflush(stdout);
	return bad ? 1 : done < CASES / 2 || known > CASES / 1000 ? 2 : 0;
}

static void run_child(unsigned mode, uint64_t seed)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(child(mode, seed));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static bool amd(void)
{
	unsigned a, b, c, d;

	return __get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx;
}

static void test_host(unsigned mode, uint64_t dflt)
{
	if (WITH_ASAN)
		T_SKIP("stray stores of the probed instructions would hit AddressSanitizer's shadow");
	if (!amd())
		T_SKIP("the list of known differences is of AMD CPUs");
	run_child(mode, t_seed(dflt));
}

static void test_host64(void **state)
{
	test_host(2, 64);
}

static void test_host32(void **state)
{
	test_host(1, 32);
}

/* The oracle itself: it tells the three answers apart. */
static int oracle_child(void)
{
	static const uint8_t mov[10] = { 0x48, 0xb8, 1 }, push_es[] = { 0x06 },
			     ud2[] = { 0x0f, 0x0b };

	probe_init();
	for (unsigned n = 1; n < 10; n++)
		if (probe(mov, n, PROBE_CS64) != PROBE_MORE)
			return 1;
	return probe(mov, 10, PROBE_CS64) != PROBE_TAKEN || probe(ud2, 2, PROBE_CS64) != PROBE_UD ||
	       probe(push_es, 1, PROBE_CS64) != PROBE_UD ||
	       probe(push_es, 1, PROBE_CS32) != PROBE_TAKEN;
}

static void test_oracle(void **state)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		_exit(oracle_child());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* What soft_decode() does as AMD's CPUs do, for which Zydis is no witness. */
static int choices_child(void)
{
	static const uint8_t jmp[] = { 0x66, 0xeb, 0x00 };
	uint8_t far_ptr[10] = { 0x88, 0x77, 0x66, 0x55, 0, 0, 0x44, 0x33, 0x22, 0x11 };
	uint64_t rax = 1;
	register uint64_t r8 asm("r8") = 2;

	/* XCHG R8, not PAUSE. */
	asm volatile(".byte 0xf3, 0x49, 0x90" : "+a"(rax), "+r"(r8));
	if (rax != 2 || r8 != 1)
		return 1;
	/* LGS with REX.W: m16:32 (its selector here is 0), not m16:64 (whose would be 0x1122). */
	asm volatile(".byte 0x48, 0x0f, 0xb5, 0x02" : "+a"(rax) : "d"(far_ptr) : "memory");
	if (rax != 0x55667788)
		return 2;
	/* A near branch with 66: RIP has 16 bits. */
	probe_init();
	(void)probe(jmp, sizeof(jmp), PROBE_CS64);
	return probe_now.rip == ((PROBE_AT + PROBE_BYTES) & 0xffff) ? 0 : 3;
}

static void test_choices(void **state)
{
	int status;
	pid_t pid;

	if (!amd())
		T_SKIP("these choices follow AMD");
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(choices_child());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_oracle),
		cmocka_unit_test(test_choices),
		cmocka_unit_test(test_host64),
		cmocka_unit_test(test_host32),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
