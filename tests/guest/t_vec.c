/*
 * Vectors, x87 and other instructions that an emulator may not know, in rings 0 and 3: the same
 * results in both, and state kept over exceptions and switches.
 */
#include "exc.h"

struct __attribute__((aligned(64))) area {
	uint8_t b[4096];
};
struct area save;
uint64_t in[8] __attribute__((aligned(64))) = { 1, 2, 3, 4, 5, 6, 7, 8 };
uint64_t out[8] __attribute__((aligned(64)));

static void do_sse(ulong a)
{
	asm volatile("movdqa in, %%xmm0; paddq in + 16, %%xmm0; pshufd $0x4e, %%xmm0, %%xmm1;"
		     "pxor %%xmm1, %%xmm0; movdqa %%xmm0, out; movdqu %%xmm1, out + 16"
		     :
		     :
		     : "memory");
}

static void do_float(ulong a)
{
	asm volatile("fninit; fld1; fldpi; fmulp; fistpl out; movl $7, %%eax;"
		     "cvtsi2sd %%eax, %%xmm2; mulsd %%xmm2, %%xmm2; cvttsd2si %%xmm2, %%rax;"
		     "movq %%rax, out + 8"
		     :
		     :
		     : "rax", "memory");
}

static void do_misc(ulong a)
{
	asm volatile("movq $0xf0f0, %%rax; popcntq %%rax, %%rcx; movq %%rcx, out;"
		     "movq in, %%rax; movq in + 8, %%rdx; movq $9, %%rbx; movq $10, %%rcx;"
		     "lock cmpxchg16b in; setz out + 8; movl $1, %%eax; crc32l in, %%eax;"
		     "movq %%rax, out + 16; bsfq %%rax, %%rcx; movq %%rcx, out + 24"
		     :
		     :
		     : "rax", "rbx", "rcx", "rdx", "memory");
}

static void do_misaligned(ulong a)
{
	asm volatile("movdqa in + 8, %%xmm0" : : : "memory");
}

static void do_xgetbv(ulong a)
{
	uint32_t lo, hi;

	asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	out[0] = lo;
}

static void do_xsetbv(ulong v)
{
	asm volatile("xsetbv" : : "a"((uint32_t)v), "d"(0), "c"(0));
}

static void do_xsave(ulong a)
{
	asm volatile(
		"movdqa in, %%xmm5; xsave save(%%rip); pxor %%xmm5, %%xmm5; xrstor save(%%rip);"
		"movdqa %%xmm5, out"
		:
		: "a"(3), "d"(0), "m"(save)
		: "memory");
}

static void do_fxsave(ulong a)
{
	asm volatile("movdqa in, %%xmm6; fxsave64 %0; pxor %%xmm6, %%xmm6; fxrstor64 %0;"
		     "movdqa %%xmm6, out"
		     : "+m"(save)
		     :
		     : "memory");
}

static void do_avx(ulong a)
{
	asm volatile("vmovdqa in, %%ymm0; vpaddq %%ymm0, %%ymm0, %%ymm1; vmovdqa %%ymm1, out;"
		     "vzeroupper; vmovdqa %%ymm1, out + 32"
		     :
		     :
		     : "memory");
}

static void do_loop(ulong n)
{
	asm volatile("pxor %%xmm0, %%xmm0; 1: paddq in, %%xmm0; decq %0; jnz 1b; movdqa %%xmm0, out"
		     : "+r"(n)
		     :
		     : "memory", "cc");
}

static void both(const char *name, void (*fn)(ulong), ulong arg, uint64_t o0, uint64_t o1)
{
	struct exc x;

	for (unsigned user = 0; user < 2; user++) {
		memset(out, 0, sizeof(out));
		for (unsigned i = 0; i < 8; i++)
			in[i] = i + 1;
		check(name, user ? catch_user(fn, arg, &x) : catch (fn, arg, &x), -1);
		check(name, out[0], o0);
		check(name, out[1], o1);
	}
}

static void test_xsave(void)
{
	struct exc x;
	uint32_t r[4];

	cpuid(1, 0, r);
	if (!(r[2] >> 26 & 1)) {
		note("no xsave");
		return;
	}
	check("xgetbv without osxsave", catch (do_xgetbv, 0, &x), 6);
	wr_cr4(rd_cr4() | 1 << 18);
	cpuid(1, 0, r);
	check("osxsave in cpuid", r[2] >> 27 & 1, 1);
	check("xsetbv without x87", catch (do_xsetbv, 2, &x), 13);
	check("xsetbv avx without sse", catch (do_xsetbv, 5, &x), 13);
	check("xsetbv", catch (do_xsetbv, 3, &x), -1);
	check("xgetbv", catch (do_xgetbv, 0, &x), -1);
	check("xcr0", out[0], 3);
	both("xsave", do_xsave, 0, 1, 2);
	check("user xsetbv", catch_user(do_xsetbv, 3, &x), 13);
	if (!(r[2] >> 28 & 1)) {
		note("no avx");
		return;
	}
	/* Where KVM emulates ring 0, ring 3 has the host's XCR0 and CR0. */
	check("avx off", catch_user(do_avx, 0, &x), emulated() ? -1 : 6);
	check("xsetbv avx", catch (do_xsetbv, 7, &x), -1);
	both("avx", do_avx, 0, 2, 4);
	check("avx high", out[3], 8);
	check("vzeroupper", out[6], 0);
}

static void do_zmm_load(ulong a)
{
	asm volatile("vmovdqu64 in, %%zmm17; kmovq in + 8, %%k3" : : : "memory");
}

static void do_zmm_clear(ulong a)
{
	asm volatile("vpxorq %%zmm17, %%zmm17, %%zmm17; kxorq %%k3, %%k3, %%k3" : : : "memory");
}

static void do_zmm_store(ulong a)
{
	asm volatile("kmovq %%k3, out; vmovdqu64 %%zmm17, %%zmm0; vmovdqu %%ymm0, out + 32"
		     :
		     :
		     : "memory");
}

static void do_xsave_all(ulong compact)
{
	memset(&save, 0, sizeof(save));
	if (compact)
		asm volatile("xsavec save" : : "a"(~0u), "d"(~0u), "m"(save) : "memory");
	else
		asm volatile("xsave save" : : "a"(~0u), "d"(~0u), "m"(save) : "memory");
}

static void do_xrstor_all(ulong a)
{
	asm volatile("xrstor save" : : "a"(~0u), "d"(~0u), "m"(save) : "memory");
}

/* Saved and restored in ring 0, used in ring 3.  The same lines where there is no AVX-512. */
static void test_avx512(void)
{
	uint32_t r[4];

	cpuid(0xd, 0, r);
	bool has = (r[0] & 0xe6) == 0xe6;
	cpuid(7, 0, r);
	has = has && r[1] >> 16 & 1 && r[1] >> 30 & 1;
	if (has)
		check("xsetbv avx-512", catch (do_xsetbv, 0xe7, NULL), -1);
	else
		print("ok xsetbv avx-512\n");
	for (unsigned compact = 0; compact < 2; compact++) {
		int bad = 0;

		memset(out, 0, sizeof(out));
		if (has) {
			bad += catch_user(do_zmm_load, 0, NULL) != -1;
			bad += catch (do_xsave_all, compact, NULL) != -1;
			bad += catch_user(do_zmm_clear, 0, NULL) != -1;
			bad += catch (do_xrstor_all, 0, NULL) != -1;
			bad += catch_user(do_zmm_store, 0, NULL) != -1;
			bad += out[0] != in[1] || out[4] != in[0] || out[7] != in[3];
		}
		check(compact ? "avx-512 by xsavec" : "avx-512 by xsave", bad, 0);
	}
}

static void test_faults(void)
{
	struct exc x;

	check("misaligned", catch (do_misaligned, 0, &x), 13);
	check("misaligned user", catch_user(do_misaligned, 0, &x), 13);
	wr_cr0(rd_cr0() | 8);
	check("ts", catch (do_sse, 0, &x), 7);
	check("ts user", catch_user(do_sse, 0, &x), emulated() ? -1 : 7);
	asm volatile("clts");
	wr_cr4(rd_cr4() & ~(1ul << 9));
	check("osfxsr off", catch (do_sse, 0, &x), 6);
	wr_cr4(rd_cr4() | 1 << 9);
}

int main(void)
{
	both("sse", do_sse, 0, (1 + 3) ^ (2 + 4), (1 + 3) ^ (2 + 4));
	both("float", do_float, 0, 3, 49);
	both("misc", do_misc, 0, 8, 1);
	check("cmpxchg16b stored", in[0] == 9 && in[1] == 10, 1);
	both("fxsave", do_fxsave, 0, 1, 2);
	both("loop", do_loop, 100000, 100000, 200000);
	test_xsave();
	test_avx512();
	test_faults();
	return 0;
}
