/*
 * AVX-512 in the assist.
 *
 * Sizes, accesses and lengths against Zydis, for every opcode of the maps; then random instructions
 * on random state natively, at the same addresses, and through soft_assist_run(): registers, masks,
 * flags, memory and faults must agree.
 */
#include "accel/soft/assist.h"
#include "accel/soft/evex.h"
#include "lib/soft_rig.h"

#include <Zydis/Zydis.h>
#include <cpuid.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

/* ---- against Zydis ---- */

/* Floating point that may raise, and what has an address of its own: not in our tables. */
static bool zydis_excluded(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *op)
{
	static const uint8_t classes[] = {
		ZYDIS_EXCEPTION_CLASS_E2,  ZYDIS_EXCEPTION_CLASS_E2NF,
		ZYDIS_EXCEPTION_CLASS_E3,  ZYDIS_EXCEPTION_CLASS_E3NF,
		ZYDIS_EXCEPTION_CLASS_E11, ZYDIS_EXCEPTION_CLASS_E11NF,
		ZYDIS_EXCEPTION_CLASS_E12, ZYDIS_EXCEPTION_CLASS_E12NP,
	};
	static const char *const names[] = {
		"vcvt", "vrcp14", "vrsqrt14", "vfpclass", "vp4dp", "v4f", "vdpbf16", "vp2intersect",
	};
	const char *name = ZydisMnemonicGetString(z->mnemonic);

	for (unsigned k = 0; k < COUNT_OF(names); k++)
		if (!strncmp(name, names[k], strlen(names[k])))
			return true;
	for (unsigned k = 0; k < z->operand_count_visible; k++)
		if (op[k].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    op[k].mem.type == ZYDIS_MEMOP_TYPE_VSIB)
			return true;
	return memchr(classes, z->meta.exception_class, sizeof(classes));
}

static void compare(const ZydisDecoder *dec, const uint8_t *p, unsigned *both, unsigned *neither)
{
	ZydisDecodedInstruction z;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	int len, mem = -1;
	struct evex_mem m = evex_mem_of(p, 15, &len);

	/* What Zydis refuses the host refuses, too: SIGILL. */
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(dec, p, 15, &z, op)))
		return;
	/* Knights Corner's. */
	if (z.meta.isa_set >= ZYDIS_ISA_SET_KNCE && z.meta.isa_set <= ZYDIS_ISA_SET_KNC_PF_HINT)
		return;
	bool vex = z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	if (!vex && z.encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX)
		return;
	bool out = vex ? ZydisMnemonicGetString(z.mnemonic)[0] != 'k' : zydis_excluded(&z, op);
	if (out != (len < 0))
		fail_msg("%s (%02x %02x %02x %02x %02x): we say %d",
			 ZydisMnemonicGetString(z.mnemonic), p[0], p[1], p[2], p[3], p[4], len);
	*(out ? neither : both) += 1;
	if (out)
		return;
	for (int k = 0; k < z.operand_count_visible; k++)
		if (op[k].type == ZYDIS_OPERAND_TYPE_MEMORY)
			mem = k;
	assert_int_equal(len, z.length);
	if (mem < 0) {
		assert_int_equal(m.len, 0);
		return;
	}
	bool store = op[mem].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	/* The displacement is 2. */
	int64_t scale = vex ? m.scale : op[mem].mem.disp.value / 2;
	if (m.scale != scale || m.store != store)
		fail_msg("%s (%02x %02x %02x %02x %02x): disp8 * %u, store %d; Zydis %ld, %d",
			 ZydisMnemonicGetString(z.mnemonic), p[0], p[1], p[2], p[3], p[4], m.scale,
			 m.store, (long)scale, store);
	if (vex)
		assert_int_equal(m.len, op[mem].size / 8);
}

static void test_table(void **state)
{
	ZydisDecoder dec;
	unsigned both = 0, neither = 0;

	ZydisDecoderInit(&dec, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisDecoderEnableMode(&dec, ZYDIS_DECODER_MODE_KNC, ZYAN_FALSE);
	/* Map, opcode; prefix, W, length and broadcast; a mask or none; /reg; memory or register.
	 */
	for (unsigned n = 0; n < 3u << 18; n++) {
		unsigned map = 1 + (n >> 18), opcode = n & 255, pp = n >> 8 & 3, w = n >> 10 & 1;
		unsigned ll = n >> 11 & 3, b = n >> 13 & 1, k = n >> 14 & 1, reg = n >> 15 & 7;

		for (unsigned mod = 0x40; mod <= 0xc0; mod += 0x80) {
			uint8_t p[16] = { 0x62,
					  (uint8_t)(0xf0 | map),
					  (uint8_t)(w << 7 | 0x7c | pp),
					  (uint8_t)(8 | ll << 5 | b << 4 | k),
					  (uint8_t)opcode,
					  (uint8_t)(mod | reg << 3 | 1),
					  2 };
			uint8_t v[16] = { 0xc4,
					  (uint8_t)(0xe0 | map),
					  (uint8_t)(w << 7 | (k ? 0x68 : 0x78) | (ll & 1) << 2 |
						    pp),
					  (uint8_t)opcode,
					  (uint8_t)(mod | reg << 3 | 1),
					  2 };
			compare(&dec, p, &both, &neither);
			compare(&dec, v, &both, &neither);
		}
	}
	print_message("%u encodings are ours, %u are not\n", both, neither);
	assert_true(both > 40000 && neither > 40000);
}

/* ---- against the host ---- */

enum {
	DATA = 0x600000,
	DATA_PAGES = 3,
	CODE = 0x1000,
	XS = 4096,
	ROUNDS = 40000,
};

/* What the native run needs at hand; field places are known to native_run. */
struct native {
	uint8_t img[XS] __attribute__((aligned(64)));
	uint64_t gpr[16];
	uint64_t flags;
	uint64_t code;
};

static struct soft_assist *as;
static struct cpuid_table cpuid;
static sigjmp_buf native_out;
static volatile sig_atomic_t native_sig;
static struct native nat;
static uint8_t *native_code;

/*
 * Guest registers and vectors from *rdi, a call of rdi->code, and back.  RSP is our own.  The code
 * ends with a jump to native_back, through r15, which no test instruction uses.
 */
void native_run(struct native *n);
asm(".pushsection .text\n"
    "native_run:\n"
    "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n push %rdi\n"
    "mov $0xe6, %eax\n xor %edx, %edx\n xrstor64 (%rdi)\n"
    "push 4096+128(%rdi)\n popf\n"
    "mov 4096+136(%rdi), %r15\n"
    "mov 4096(%rdi), %rax\n mov 4096+8(%rdi), %rcx\n mov 4096+16(%rdi), %rdx\n"
    "mov 4096+24(%rdi), %rbx\n mov 4096+40(%rdi), %rbp\n mov 4096+48(%rdi), %rsi\n"
    "mov 4096+64(%rdi), %r8\n mov 4096+72(%rdi), %r9\n mov 4096+80(%rdi), %r10\n"
    "mov 4096+88(%rdi), %r11\n mov 4096+96(%rdi), %r12\n mov 4096+104(%rdi), %r13\n"
    "mov 4096+112(%rdi), %r14\n mov 4096+56(%rdi), %rdi\n"
    "call *%r15\n"
    "xchg %rdi, (%rsp)\n"
    "mov %rax, 4096(%rdi)\n mov %rcx, 4096+8(%rdi)\n mov %rdx, 4096+16(%rdi)\n"
    "mov %rbx, 4096+24(%rdi)\n mov %rbp, 4096+40(%rdi)\n mov %rsi, 4096+48(%rdi)\n"
    "mov %r8, 4096+64(%rdi)\n mov %r9, 4096+72(%rdi)\n mov %r10, 4096+80(%rdi)\n"
    "mov %r11, 4096+88(%rdi)\n mov %r12, 4096+96(%rdi)\n mov %r13, 4096+104(%rdi)\n"
    "mov %r14, 4096+112(%rdi)\n"
    "pushf\n pop 4096+128(%rdi)\n"
    "pop 4096+56(%rdi)\n"
    "mov $0xe6, %eax\n xor %edx, %edx\n xsave64 (%rdi)\n vzeroupper\n"
    "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n"
    ".popsection\n");

static void native_signal(int sig)
{
	native_sig = sig;
	siglongjmp(native_out, 1);
}

/* 0, or the exception's vector. */
static unsigned native(const uint8_t *p, unsigned len)
{
	const struct sigaction sa = { .sa_handler = native_signal };
	struct sigaction ill, segv, bus;

	memcpy(native_code, p, len);
	native_code[len] = 0xc3;
	nat.code = (uintptr_t)native_code;
	sigaction(SIGILL, &sa, &ill);
	sigaction(SIGSEGV, &sa, &segv);
	sigaction(SIGBUS, &sa, &bus);
	native_sig = 0;
	if (!sigsetjmp(native_out, 1))
		native_run(&nat);
	asm volatile("vzeroupper");
	sigaction(SIGILL, &ill, NULL);
	sigaction(SIGSEGV, &segv, NULL);
	sigaction(SIGBUS, &bus, NULL);
	return native_sig == SIGILL ? X86_EXC_UD : native_sig ? X86_EXC_PF : 0;
}

static void need_avx512(void)
{
	unsigned a, b, c, d;
	uint32_t lo = 0, hi;

	if (__get_cpuid(1, &a, &b, &c, &d) && c & bit_OSXSAVE)
		asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	if ((lo & 0xe6) == 0xe6 && __get_cpuid_count(7, 0, &a, &b, &c, &d) && b & bit_AVX512F)
		return;
	print_message("# skip: the host has no AVX-512\n");
	skip();
}

static int setup(void **state)
{
	static const struct soft_assist_ops ops;
	struct err e = { 0 };
	void *at = (void *)(uintptr_t)DATA;

	soft_rig_init(1);
	cpuid = rig.cpu[0]->cpuid;
	struct cpuid_entry *d = cpuid_find(&cpuid, 0xd, 0);
	if (!d)
		return -1;
	/* As kvm's table has it where CPUID is the host's. */
	d->eax |= 0xe0;
	const struct accel_opts o = {
		.ncpus = 1, .gmem = &rig.mem, .mmio = &rig.mmio, .pio = &rig.pio
	};
	rig.mem.watch = NULL;
	native_code = mmap((void *)0x10000000, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	/* The page after the data is not there, for the guest and for us. */
	if (mmap(at, DATA_PAGES * 4096, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != at ||
	    native_code == MAP_FAILED)
		return -1;
	return soft_assist_new(&o, &cpuid, &ops, NULL, &as, &e);
}

static int teardown(void **state)
{
	munmap((void *)(uintptr_t)DATA, DATA_PAGES * 4096);
	munmap(native_code, 4096);
	soft_assist_free(as);
	soft_rig_fini();
	return 0;
}

/* 4 KiB pages for the 2 MiB at DATA; the IDT leads exception n to 0x2000 + 16 * n. */
static void guest_tables(struct cpu_state *s)
{
	uint64_t *pd = (uint64_t *)(void *)(rig.ram + RIG_PML4 + 0x2000);
	uint64_t *pt = (uint64_t *)(void *)(rig.ram + RIG_PML4 + 0x4000);

	memset(pt, 0, 4096);
	for (unsigned n = 0; n < DATA_PAGES; n++)
		pt[n] = (DATA + n * 4096ull) | 7;
	pd[DATA >> 21] = (RIG_PML4 + 0x4000) | 7;
	st_le64(rig.ram + 0x3008, 0x00af9b000000ffff);
	s->gdt = (struct cpu_table){ 0x3000, 0x1f };
	s->idt = (struct cpu_table){ 0x4000, 0xfff };
	for (unsigned n = 0; n < 32; n++) {
		st_le64(rig.ram + 0x4000 + 16 * n, 0x8e0000080000ull | (0x2000 + 16 * n));
		st_le64(rig.ram + 0x4008 + 16 * n, 0);
	}
}

/* Is this byte of an XSAVE image in a vector register or mask? */
static bool in_state(unsigned at)
{
	static unsigned from[8], to[8];

	if (!to[0]) {
		to[0] = 416, from[0] = 160;
		for (unsigned n = 2; n < 8; n++) {
			unsigned c, d;

			if (n != 3 && n != 4) {
				__cpuid_count(0xd, n, to[n], from[n], c, d);
				to[n] += from[n];
			}
		}
	}
	for (unsigned n = 0; n < 8; n++)
		if (at >= from[n] && at < to[n])
			return true;
	return false;
}

static void random_image(uint64_t *seed, uint8_t *img)
{
	memset(img, 0, XS);
	for (unsigned n = 0; n < XS; n += 8)
		if (in_state(n))
			st_le64(img + n, t_rnd(seed) & (t_rnd(seed) & 3 ? ~0ull : 0xffff00ff));
	/* FCW, no x87 state; MXCSR. */
	st_le16(img, 0x37f);
	st_le32(img + 24, 0x1f80);
	st_le64(img + 512, 0xe7);
}

/* z, length, b, V' and mask: mostly such that go together. */
static uint8_t random_p2(uint64_t *seed, bool mem)
{
	uint8_t v = t_rnd(seed) & 0xff;

	if (!(t_rnd(seed) & 7))
		return v;
	if ((v & 0x60) == 0x60)
		v &= 0xbf;
	if (!mem)
		v &= 0xef;
	if (!(v & 7))
		v &= 0x7f;
	return v | (t_rnd(seed) & 8);
}

/* A random encoding; memory operands are near the end of the data, or of a page. */
static unsigned random_insn(uint64_t *seed, uint8_t *p)
{
	uint64_t r = t_rnd(seed), q = t_rnd(seed);
	bool mem = r & 1, vex = !(r & 0xe);
	/* RBX, which points to the data, and RDX where a register is free to be written. */
	unsigned rm = mem ? 3 : q & 7, n = 0;

	if (rm == 4 || rm == 7)
		rm = 2;
	if (mem && r & 16)
		p[n++] = 0x3e;
	if (vex) {
		static const uint8_t ops[] = {
			0x41, 0x42, 0x44, 0x45, 0x46, 0x47, 0x4a, 0x4b, 0x90,
			0x91, 0x92, 0x93, 0x98, 0x99, 0x30, 0x31, 0x32, 0x33
		};
		uint8_t op = ops[q >> 8 & 31 % COUNT_OF(ops)];

		p[n++] = 0xc4;
		p[n++] = (uint8_t)(0xe0 | (op < 0x40 ? 3 : 1));
		p[n++] = (uint8_t)((q >> 16 & 0x87) | (op >= 0x90 || op == 0x44 || op < 0x40
							       ? 0x78
							       : 0x40 | (q >> 40 & 0x38)));
		p[n++] = op;
	} else {
		p[n++] = 0x62;
		/* R, X, B and R' at will: r11 and r14 are as rbx and rsi. */
		p[n++] = (uint8_t)((r >> 8 & (mem ? 0xf0 : 0xd0)) | (mem ? 0 : 0x20) |
				   (1 + (r >> 20) % 3));
		p[n++] = (uint8_t)((r >> 24 & 0xfb) | (t_rnd(seed) & 1 ? 0x7c : 4));
		p[n++] = random_p2(seed, mem);
		p[n++] = (uint8_t)(r >> 40);
	}
	unsigned reg = q >> 4 & 7;
	if (reg == 4 || reg == 7)
		reg = 1;
	if (mem && r & 32) {
		/* [rbx + rsi] */
		p[n++] = (uint8_t)(0x44 | reg << 3);
		p[n++] = 0x33;
	} else {
		p[n++] = (uint8_t)((mem ? 0x40 : 0xc0) | reg << 3 | rm);
	}
	if (mem)
		p[n++] = (uint8_t)(q >> 48 & 3);
	p[n++] = (uint8_t)(q >> 56);
	return n;
}

static void random_data(uint64_t *seed)
{
	uint8_t *at = (uint8_t *)(uintptr_t)DATA;

	for (unsigned n = 0; n < DATA_PAGES * 4096; n += 8)
		st_le64(at + n, t_rnd(seed));
	memcpy(rig.ram + DATA, at, (size_t)DATA_PAGES * 4096);
}

static void random_state(uint64_t *seed, struct cpu_state *s)
{
	random_image(seed, s->xsave);
	memcpy(nat.img, s->xsave, XS);
	for (unsigned n = 0; n < 16; n++)
		if (n != X86_RSP)
			s->gpr[n] = t_rnd(seed);
	/* Into the data; half of the time so that it may end behind it, or on a page's edge. */
	s->gpr[X86_RBX] = DATA + 0x1000 + (t_rnd(seed) & 63);
	if (t_rnd(seed) & 1)
		s->gpr[X86_RBX] = DATA + DATA_PAGES * 4096 - 8 * (1 + (t_rnd(seed) & 15)) +
				  (t_rnd(seed) & 1 ? t_rnd(seed) & 15 : 0);
	s->gpr[X86_RSI] = t_rnd(seed) & 1 ? 0 : t_rnd(seed) & 64;
	s->gpr[X86_R11] = s->gpr[X86_RBX];
	s->gpr[X86_R14] = s->gpr[X86_RSI];
	s->rflags = 2 | (t_rnd(seed) & 0x8d5);
	memcpy(nat.gpr, s->gpr, sizeof(nat.gpr));
	nat.flags = s->rflags;
	s->rip = CODE;
	s->gpr[X86_RSP] = 0x7000;
}

static void show(const uint8_t *p, unsigned len, const char *what)
{
	ZydisDisassembledInstruction d;
	char hex[64] = "";

	for (unsigned n = 0; n < len; n++)
		snprintf(hex + 3ul * n, 4, "%02x ", p[n]);
	bool known =
		ZYAN_SUCCESS(ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64, CODE, p, 15, &d));
	fail_msg("%s: %s (%s)", hex, known ? d.text : "?", what);
}

static void check_same(const uint8_t *p, unsigned len, const struct cpu_state *s, unsigned vector)
{
	/* What the host refuses may fault before it is tried. */
	if (vector == X86_EXC_UD &&
	    (s->rip == 0x2000 + 16 * X86_EXC_PF || s->rip == 0x2000 + 16 * X86_EXC_GP))
		return;
	if (vector) {
		if (s->rip != 0x2000 + 16 * vector)
			show(p, len, "exceptions differ");
		return;
	}
	if (s->rip != CODE + len)
		show(p, len, "it raised here only");
	for (unsigned n = 0; n < 16; n++)
		if (n != X86_RSP && n != X86_R15 && s->gpr[n] != nat.gpr[n])
			show(p, len, "general registers");
	if ((s->rflags ^ nat.flags) & 0x8d5)
		show(p, len, "flags");
	/* A component that is said to be initial has zeros. */
	for (unsigned n = 0; n < XS; n++)
		if (in_state(n) && s->xsave[n] != nat.img[n])
			show(p, len, "vector registers");
}

static struct soft_assist_result assist(struct cpu_state *s)
{
	struct soft_assist_result r;
	struct err e = { 0 };

	if (soft_assist_run(as, s, SOFT_ASSIST_REGS | SOFT_ASSIST_FPU, 1, &r, &e) < 0)
		fail_msg("%s", e.msg);
	return r;
}

static struct cpu_state *ready(void)
{
	soft_rig_long(CODE);
	struct cpu_state *s = soft_rig_get(0);
	guest_tables(s);
	s->cr4 |= X86_CR4_OSXSAVE;
	s->xcr0 = 0xe7;
	s->xsave_len = XS;
	return s;
}

static void test_native(void **state)
{
	uint64_t seed = 20250101;
	unsigned done = 0, refused = 0, faults = 0;

	need_avx512();
	/* cmocka took the signals. */
	struct err e = { 0 };
	assert_int_equal(soft_host_init(&e), 0);
	for (unsigned n = 0; n < ROUNDS; n++) {
		uint8_t p[16];
		struct evex_mem m;
		int rc;

		do {
			memset(p, 0, sizeof(p));
			(void)random_insn(&seed, p);
			m = evex_mem_of(p, 15, &rc);
		} while (rc < 0);
		struct cpu_state *s = ready();
		random_state(&seed, s);
		random_data(&seed);
		rig_put(CODE, p, 15);
		unsigned vector = native(p, (unsigned)rc);
		struct soft_assist_result r = assist(s);
		/* A misaligned one is #GP to the guest, SIGSEGV natively. */
		if (vector == X86_EXC_PF && s->rip == 0x2000 + 16 * X86_EXC_GP)
			vector = X86_EXC_GP;
		check_same(p, (unsigned)rc, s, vector);
		if (memcmp(rig.ram + DATA, (void *)(uintptr_t)DATA, (size_t)DATA_PAGES * 4096))
			show(p, (unsigned)rc, "memory");
		assert_string_equal(r.mnemonic, "AVX512");
		done += !vector;
		refused += vector == X86_EXC_UD;
		faults += vector == X86_EXC_PF && m.len;
	}
	print_message("seed 20250101: %u run alike, %u page faults, %u undefined\n", done, faults,
		      refused);
	assert_true(done > 5000 && faults > 300);
}

/* ---- rules ---- */

CODE(rot, "64",
     "vprord $7, %ymm1, %ymm17\n vmovdqu32 %ymm17, 0x600000\n vpxor %xmm2, %xmm2, %xmm2\n");
CODE(gather, "64", "vpgatherdd (%rbx,%zmm2), %zmm1{%k1}\n");
CODE(addps, "64", "vaddps %zmm1, %zmm2, %zmm3\n");
CODE(relative, "64", "vmovdqu64 0x3ff6f6(%rip), %zmm3\n");

static uint64_t vector_of(const struct cpu_state *s)
{
	return (s->rip - 0x2000) / 16;
}

static void test_rules(void **state)
{
	struct soft_assist_result r;
	struct err e = { 0 };

	need_avx512();
	assert_int_equal(soft_assist_need(as, rot, 15, 64), SOFT_ASSIST_REGS | SOFT_ASSIST_FPU);
	assert_int_equal(soft_assist_need(as, rot, 15, 32), SOFT_ASSIST_REGS);
	/* A run of them is one exit. */
	struct cpu_state *s = ready();
	rig_put(CODE, rot, CODE_LEN(rot));
	assert_int_equal(soft_assist_run(as, s, SOFT_ASSIST_REGS | SOFT_ASSIST_FPU, 3, &r, &e), 0);
	assert_int_equal(r.insns, 3);
	assert_int_equal(s->rip, CODE + CODE_LEN(rot));
	/* Without the state, the operating system's consent, or a component. */
	static const uint64_t xcr0[] = { 7, 0x27, 0x67, 0xa7, 0xe1 };
	for (unsigned n = 0; n < COUNT_OF(xcr0); n++) {
		s = ready();
		s->xcr0 = xcr0[n];
		assist(s);
		assert_int_equal(vector_of(s), X86_EXC_UD);
	}
	s = ready();
	s->cr4 &= ~X86_CR4_OSXSAVE;
	assist(s);
	assert_int_equal(vector_of(s), X86_EXC_UD);
	s = ready();
	s->cr0 |= X86_CR0_TS;
	assist(s);
	assert_int_equal(vector_of(s), X86_EXC_NM);
	/* Not done. */
	rig_put(CODE, gather, CODE_LEN(gather));
	s = ready();
	assist(s);
	assert_int_equal(vector_of(s), X86_EXC_UD);
	rig_put(CODE, addps, CODE_LEN(addps));
	s = ready();
	assist(s);
	assert_int_equal(vector_of(s), X86_EXC_UD);
}

/* No byte is looked at that is not there, and none is missing when it decodes. */
static void test_truncated(void **state)
{
	uint64_t seed = t_seed(7);
	unsigned complete = 0;

	for (unsigned n = 0; n < 20000; n++) {
		uint8_t p[16] = { 0 };
		int whole, part;

		(void)random_insn(&seed, p);
		(void)evex_mem_of(p, 15, &whole);
		for (unsigned avail = 0; avail < 15; avail++) {
			uint8_t *exact = malloc(avail ? avail : 1);

			assert_non_null(exact);
			memcpy(exact, p, avail);
			(void)evex_mem_of(exact, avail, &part);
			free(exact);
			if (part != -ENODATA)
				assert_int_equal(part, whole);
			if (whole > 0)
				assert_int_equal(part == -ENODATA, avail < (unsigned)whole);
		}
		complete += whole > 0;
	}
	assert_true(complete > 1000);
}

static void test_relative(void **state)
{
	need_avx512();
	struct cpu_state *s = ready();
	rig_put(CODE, relative, CODE_LEN(relative));
	for (unsigned n = 0; n < 64; n++)
		rig.ram[0x400700 + n] = (uint8_t)(n + 1);
	s->gpr[X86_RBX] = 0;
	assist(s);
	assert_int_equal(s->rip, CODE + CODE_LEN(relative));
	for (unsigned n = 0; n < 16; n++)
		assert_int_equal(s->xsave[160 + 48 + n], n + 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_truncated),
		cmocka_unit_test_setup_teardown(test_native, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rules, setup, teardown),
		cmocka_unit_test_setup_teardown(test_relative, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
