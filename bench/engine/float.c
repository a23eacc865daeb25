/*
 * Floating-point and SIMD workloads.
 *
 * A software CPU that computes SSE and x87 in integers is 10 to 80 times slower than the host here;
 * one that lets the host's units do it is not.  dgemm is the same product by scalar code, by SSE2
 * and by AVX2 with FMA; its matrices hold small integers, so all three must give the same sum.
 */
#include "work.h"

#include <errno.h>
#include <immintrin.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint64_t fp_bits(double v)
{
	uint64_t b;
	memcpy(&b, &v, sizeof(b));
	return b;
}

/* --- scalar: four chains of mul, add, sub, div and sqrt in doubles --- */

enum {
	FP_STEPS = 2048,
	FP_OPS = 4 * 8 + 4
};

static uint64_t fp_round(void)
{
	double x[4] = { 0.31, 0.42, 0.53, 0.64 }, acc = 1;
	for (int i = 0; i < FP_STEPS; i++) {
		for (int k = 0; k < 4; k++) {
			/* The logistic map, then a cubic near it. */
			double v = 3.9 * x[k] * (1 - x[k]);
			x[k] = v * (0.9 + 0.05 * v) + 0.01 * v;
			__asm__ volatile("" : "+x"(x[k]));
		}
		acc = sqrt(acc / (x[0] + 0.5) + 1);
	}
	return work_mix(work_mix(fp_bits(acc), fp_bits(x[1])), fp_bits(x[3]));
}

/* --- x87: the same kind of chain in long doubles --- */

enum {
	X87_STEPS = 2048,
	X87_OPS = 8
};

static uint64_t x87_round(void)
{
	long double x = 0.37L, acc = 0.5L;
	for (int i = 0; i < X87_STEPS; i++) {
		x = 3.9L * x * (1 - x);
		acc = (acc + x) * 0.75L - 0.125L * x * acc;
	}
	return work_mix(fp_bits((double)acc), fp_bits((double)x));
}

/* --- libm: what the C library computes with tables and polynomials --- */

enum {
	LIBM_N = 512
};

static uint64_t libm_round(void)
{
	uint64_t sum = WORK_SUM0;
	for (int i = 1; i <= LIBM_N; i++) {
		double v = i * 0.37;
		double t = sin(v) + exp(-v / 100) + log(v) + pow(v, 0.3);
		/* libm's FMA variant may differ in the last place. */
		sum = work_mix(sum, (uint64_t)llrint(t * 1e9));
	}
	return sum;
}

/* --- dgemm: C += A * B, 64 x 64 --- */

enum {
	GEMM_N = 64
};

static double gemm_a[GEMM_N][GEMM_N], gemm_b[GEMM_N][GEMM_N];
static double gemm_c[GEMM_N][GEMM_N] __attribute__((aligned(64)));

static int gemm_init(void)
{
	for (int i = 0; i < GEMM_N; i++) {
		for (int j = 0; j < GEMM_N; j++) {
			gemm_a[i][j] = (i * 3 + j * 7) % 11 - 5;
			gemm_b[i][j] = (i * 5 + j * 2) % 13 - 6;
		}
	}
	return 0;
}

static uint64_t gemm_sum(void)
{
	uint64_t sum = WORK_SUM0;
	for (int i = 0; i < GEMM_N; i++)
		sum = work_mix(sum, (uint64_t)(int64_t)gemm_c[i][i * 5 % GEMM_N]);
	return sum;
}

__attribute__((noinline, optimize("no-tree-vectorize"))) static void gemm_scalar(void)
{
	for (int i = 0; i < GEMM_N; i++) {
		for (int k = 0; k < GEMM_N; k++) {
			double a = gemm_a[i][k];
			for (int j = 0; j < GEMM_N; j++)
				gemm_c[i][j] += a * gemm_b[k][j];
		}
	}
}

/* Registers hold a row of 16 results (AVX2: 32), B comes from memory, A is broadcast. */
__attribute__((noinline)) static void gemm_sse2(void)
{
	for (int i = 0; i < GEMM_N; i++) {
		for (int j = 0; j < GEMM_N; j += 16) {
			__m128d c[8];
#pragma GCC unroll 8
			for (int v = 0; v < 8; v++)
				c[v] = _mm_loadu_pd(&gemm_c[i][j + v * 2]);
			for (int k = 0; k < GEMM_N; k++) {
				__m128d a = _mm_set1_pd(gemm_a[i][k]);
#pragma GCC unroll 8
				for (int v = 0; v < 8; v++)
					c[v] = _mm_add_pd(
						c[v],
						_mm_mul_pd(a, _mm_loadu_pd(&gemm_b[k][j + v * 2])));
			}
#pragma GCC unroll 8
			for (int v = 0; v < 8; v++)
				_mm_storeu_pd(&gemm_c[i][j + v * 2], c[v]);
		}
	}
}

__attribute__((noinline, target("avx2,fma"))) static void gemm_avx2(void)
{
	for (int i = 0; i < GEMM_N; i++) {
		for (int j = 0; j < GEMM_N; j += 32) {
			__m256d c[8];
#pragma GCC unroll 8
			for (int v = 0; v < 8; v++)
				c[v] = _mm256_loadu_pd(&gemm_c[i][j + v * 4]);
			for (int k = 0; k < GEMM_N; k++) {
				__m256d a = _mm256_broadcast_sd(&gemm_a[i][k]);
#pragma GCC unroll 8
				for (int v = 0; v < 8; v++)
					c[v] = _mm256_fmadd_pd(
						a, _mm256_loadu_pd(&gemm_b[k][j + v * 4]), c[v]);
			}
#pragma GCC unroll 8
			for (int v = 0; v < 8; v++)
				_mm256_storeu_pd(&gemm_c[i][j + v * 4], c[v]);
		}
	}
}

#define GEMM_ROUND(name)                           \
	static uint64_t name##_round(void)         \
	{                                          \
		memset(gemm_c, 0, sizeof(gemm_c)); \
		name();                            \
		return gemm_sum();                 \
	}
GEMM_ROUND(gemm_scalar)
GEMM_ROUND(gemm_sse2)
GEMM_ROUND(gemm_avx2)

/* --- avx2_int: shuffles, sums of differences, multiplies and shifts on 8 x 32 bits --- */

enum {
	AVX_N = 4096,
	AVX_TURNS = 4
};

static uint32_t avx_data[AVX_N] __attribute__((aligned(32)));

static int avx_init(void)
{
	uint64_t s = 5;
	for (int i = 0; i < AVX_N; i++)
		avx_data[i] = (uint32_t)(work_next(&s) >> 32);
	return 0;
}

__attribute__((target("avx2"))) static uint64_t avx_round(void)
{
	const __m256i order = _mm256_setr_epi32(3, 0, 6, 1, 7, 2, 4, 5);
	__m256i sum = _mm256_set1_epi32(1), sad = _mm256_setzero_si256();
	for (int turn = 0; turn < AVX_TURNS; turn++) {
		for (int i = 0; i < AVX_N; i += 8) {
			__m256i v = _mm256_load_si256((const __m256i *)(const void *)&avx_data[i]);
			sad = _mm256_add_epi64(sad, _mm256_sad_epu8(v, sum));
			v = _mm256_mullo_epi32(v, _mm256_or_si256(_mm256_srli_epi32(v, 3), sum));
			v = _mm256_permutevar8x32_epi32(v, order);
			v = _mm256_blendv_epi8(v, _mm256_min_epi32(v, sum),
					       _mm256_cmpgt_epi32(v, sad));
			sum = _mm256_xor_si256(_mm256_add_epi32(sum, v), _mm256_slli_epi32(v, 5));
		}
	}
	uint64_t out[4];
	_mm256_storeu_si256((__m256i *)(void *)out, _mm256_add_epi64(sum, sad));
	return work_mix(work_mix(out[0], out[1]), work_mix(out[2], out[3]));
}

/* --- strings: libc's own choice of code for this CPU --- */

enum {
	STR_N = 48,
	STR_ROUND = STR_N * 7
};

static char str_a[STR_N][640], str_b[STR_N][640];

static int str_init(void)
{
	for (int i = 0; i < STR_N; i++) {
		int len = 5 + i * 13;
		for (int j = 0; j < len; j++)
			str_a[i][j] = (char)('a' + (i + j * 7 + j / 5) % 23);
		str_a[i][len] = 0;
		memcpy(str_b[i], str_a[i], (size_t)len + 1);
		str_b[i][len - 1] = 'z';
	}
	return 0;
}

static uint64_t str_round(void)
{
	uint64_t sum = WORK_SUM0;
	for (int i = 0; i < STR_N; i++) {
		char *a = str_a[i], *b = str_b[i], copy[640];
		work_hide(a);
		work_hide(b);
		size_t len = strlen(a);
		const char *z = strchr(b, 'z');
		sum = work_mix(sum, len + (size_t)(z - b));
		sum = work_mix(sum, (uint64_t)(strcmp(a, b) < 0) * 2 + (memcmp(a, b, len) < 0));
		sum = work_mix(sum, memchr(a, 'y', len) ? 1 : 0);
		sum = work_mix(sum, strstr(b, "z") == z);
		work_hide(stpcpy(copy, b));
		sum = work_mix(sum, (uint64_t)copy[len / 2]);
	}
	return sum;
}

#define GEMM_MFLOP (2.0 * GEMM_N * GEMM_N * GEMM_N / 1e6)

/* clang-format off */
const struct work work_fp[] = {
	{ "scalar", "MFLOP/s", (double)FP_STEPS * FP_OPS / 1e6, fp_round, 0x7a9156cb40ddb382ULL },
	{ "x87", "MFLOP/s", (double)X87_STEPS * X87_OPS / 1e6, x87_round, 0x3fdb507c63df8904ULL },
	{ "libm", "Mcall/s", LIBM_N * 4 / 1e6, libm_round, 0xb04f81a04a3ab6ddULL },
	{ "dgemm", "MFLOP/s", GEMM_MFLOP, gemm_scalar_round, 0x9c9eb70268bea93cULL, gemm_init },
	{ "dgemm_sse2", "MFLOP/s", GEMM_MFLOP, gemm_sse2_round, 0x9c9eb70268bea93cULL, gemm_init },
	{ "dgemm_avx2", "MFLOP/s", GEMM_MFLOP, gemm_avx2_round, 0x9c9eb70268bea93cULL, gemm_init, .needs = "avx2" },
	{ "avx2_int", "Melem/s", AVX_N * (double)AVX_TURNS / 1e6, avx_round, 0xb097ab028443a626ULL, avx_init, .needs = "avx2" },
	{ "strings", "Kcall/s", STR_ROUND / 1e3, str_round, 0xe63c6e7c5830d68ULL, str_init },
	{ 0 },
};
/* clang-format on */
