/*
 * Integer workloads.
 *
 * Each leans on one thing that software CPUs do badly: flags and small blocks (coremark), registers
 * and rotates (sha256), callbacks (qsort), an indirect jump a step (interp), calls and returns
 * (callret), indirect calls that a predictor must learn (indirect), the latency of a load through
 * the TLB (chase), long instructions (div, bignum), atomics (lock).
 */
#include "work.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* --- coremark: a list, a matrix, a state machine and a CRC, after the idea of EEMBC's CoreMark ---
 */

enum {
	CORE_NODES = 96,
	CORE_DIM = 10,
	CORE_TEXT = 480,
	CORE_ITERATIONS = 8
};

struct core_node {
	struct core_node *next;
	int16_t value, order;
};

static struct core_node core_nodes[CORE_NODES];
static int16_t core_a[CORE_DIM][CORE_DIM], core_b[CORE_DIM][CORE_DIM];
static char core_text[CORE_TEXT + 1];

static uint16_t core_crc(uint16_t crc, uint32_t v, int bits)
{
	for (int i = 0; i < bits; i++) {
		bool carry = (crc ^ v) & 1;
		crc >>= 1;
		v >>= 1;
		if (carry)
			crc ^= 0xa001;
	}
	return crc;
}

static struct core_node *core_reverse(struct core_node *list)
{
	struct core_node *out = NULL;
	while (list) {
		struct core_node *next = list->next;
		list->next = out;
		out = list;
		list = next;
	}
	return out;
}

static int core_by_value(const struct core_node *a, const struct core_node *b)
{
	return a->value != b->value ? a->value - b->value : a->order - b->order;
}

static int core_by_order(const struct core_node *a, const struct core_node *b)
{
	return a->order - b->order;
}

typedef int core_cmp(const struct core_node *a, const struct core_node *b);

static struct core_node *core_merge(struct core_node *a, struct core_node *b, core_cmp *cmp)
{
	struct core_node *head = NULL, **tail = &head;
	while (a && b) {
		struct core_node **from = cmp(a, b) <= 0 ? &a : &b;
		*tail = *from;
		tail = &(*from)->next;
		*from = *tail;
	}
	*tail = a ? a : b;
	return head;
}

static struct core_node *core_sort(struct core_node *list, core_cmp *cmp)
{
	if (!list || !list->next)
		return list;
	struct core_node *slow = list;
	for (struct core_node *fast = list->next; fast && fast->next; fast = fast->next->next)
		slow = slow->next;
	struct core_node *half = slow->next;
	slow->next = NULL;
	return core_merge(core_sort(list, cmp), core_sort(half, cmp), cmp);
}

static uint16_t core_list(uint16_t crc, int16_t seed)
{
	struct core_node *list = NULL;
	for (int i = 0; i < CORE_NODES; i++) {
		int16_t v = (int16_t)((i * 37 + seed) % 211);
		core_nodes[i] = (struct core_node){ list, v, (int16_t)i };
		list = &core_nodes[i];
	}
	for (int want = 0; want < 24; want++) {
		struct core_node *n = list;
		while (n && n->value != want * 9)
			n = n->next;
		crc = core_crc(crc, n ? (uint32_t)n->order : 0xffffu, 16);
		list = core_reverse(list);
	}
	list = core_sort(list, core_by_value);
	for (struct core_node *n = list; n; n = n->next)
		crc = core_crc(crc, (uint32_t)n->value, 8);
	list = core_sort(list, core_by_order);
	return core_crc(crc, (uint32_t)list->value, 16);
}

static uint16_t core_matrix(uint16_t crc, int16_t seed)
{
	int32_t total = 0, clip = 0;
	for (int i = 0; i < CORE_DIM; i++) {
		for (int j = 0; j < CORE_DIM; j++) {
			core_a[i][j] = (int16_t)(seed + i * 7 + j);
			core_b[i][j] = (int16_t)(seed ^ (i + j * 13));
		}
	}
	for (int i = 0; i < CORE_DIM; i++) {
		for (int j = 0; j < CORE_DIM; j++) {
			int32_t sum = 0;
			for (int k = 0; k < CORE_DIM; k++)
				sum += core_a[i][k] * core_b[k][j];
			total += ((sum >> 2) & 0xf) * ((sum >> 5) & 0x7f);
			clip = sum > clip ? sum - 10 : clip + 1;
		}
	}
	return core_crc(core_crc(crc, (uint32_t)total, 32), (uint32_t)clip, 32);
}

enum core_state {
	CORE_START,
	CORE_SIGN,
	CORE_INT,
	CORE_HEX,
	CORE_FRACTION,
	CORE_EXP,
	CORE_BAD,
	CORE_STATES
};

static enum core_state core_step(enum core_state s, char c)
{
	bool digit = c >= '0' && c <= '9';
	switch (s) {
	case CORE_START:
		if (c == '+' || c == '-')
			return CORE_SIGN;
		return digit ? CORE_INT : CORE_BAD;
	case CORE_SIGN:
		return digit ? CORE_INT : CORE_BAD;
	case CORE_INT:
		if (c == '.')
			return CORE_FRACTION;
		if (c == 'x')
			return CORE_HEX;
		return digit ? CORE_INT : CORE_BAD;
	case CORE_HEX:
		return digit || (c >= 'a' && c <= 'f') ? CORE_HEX : CORE_BAD;
	case CORE_FRACTION:
		if (c == 'e')
			return CORE_EXP;
		return digit ? CORE_FRACTION : CORE_BAD;
	case CORE_EXP:
		return digit ? CORE_EXP : CORE_BAD;
	default:
		return CORE_BAD;
	}
}

static uint16_t core_states(uint16_t crc)
{
	uint32_t seen[CORE_STATES] = { 0 };
	enum core_state s = CORE_START;
	for (const char *p = core_text; *p; p++) {
		if (*p == ',') {
			seen[s]++;
			s = CORE_START;
		} else {
			s = core_step(s, *p);
		}
	}
	for (int i = 0; i < CORE_STATES; i++)
		crc = core_crc(crc, seen[i], 16);
	return crc;
}

static int core_init(void)
{
	static const char *const parts[] = { "5012,",     "-874,",   "+122,",    "35.54400,",
					     ".1234500,", "0xff9c,", "5.500e3,", "T0.3e-1F,",
					     "-110.700,", "12q4," };
	size_t at = 0;
	for (int i = 0;; i++) {
		const char *p = parts[(i * 7 + i / 3) % 10];
		size_t len = strlen(p);
		if (at + len > CORE_TEXT)
			break;
		memcpy(core_text + at, p, len + 1);
		at += len;
	}
	return 0;
}

static uint64_t core_round(void)
{
	uint16_t crc = 0xffff;
	for (int i = 0; i < CORE_ITERATIONS; i++) {
		crc = core_list(crc, (int16_t)(i * 3));
		crc = core_matrix(crc, (int16_t)(i * 5 + 1));
		crc = core_states(crc);
	}
	return crc;
}

/* --- sha256 (FIPS 180-4) in plain C --- */

enum {
	SHA_BYTES = 16384
};

/* clang-format off */
static const uint32_t sha_k[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};
/* clang-format on */

/* A message of SHA_BYTES and its padding block. */
static uint8_t sha_msg[SHA_BYTES + 64];

static uint32_t sha_ror(uint32_t v, int n)
{
	return v >> n | v << (32 - n);
}

/* Step n of eight: variable v of the standard (a is 0) is s[v - n]. */
static inline __attribute__((always_inline)) void sha_step(uint32_t s[8], int n, uint32_t kw)
{
	uint32_t a = s[-n & 7], b = s[(1 - n) & 7], c = s[(2 - n) & 7], e = s[(4 - n) & 7],
		 f = s[(5 - n) & 7];
	uint32_t t1 = s[(7 - n) & 7] + (sha_ror(e, 6) ^ sha_ror(e, 11) ^ sha_ror(e, 25)) +
		      ((e & f) ^ (~e & s[(6 - n) & 7])) + kw;
	s[(3 - n) & 7] += t1;
	s[(7 - n) & 7] = t1 + (sha_ror(a, 2) ^ sha_ror(a, 13) ^ sha_ror(a, 22)) +
			 ((a & b) ^ (a & c) ^ (b & c));
}

static void sha_block(uint32_t h[8], const uint8_t *p)
{
	uint32_t w[64], s[8];
	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)p[i * 4] << 24 | (uint32_t)p[i * 4 + 1] << 16 |
		       (uint32_t)p[i * 4 + 2] << 8 | p[i * 4 + 3];
	for (int i = 16; i < 64; i++) {
		uint32_t a = w[i - 15], b = w[i - 2];
		w[i] = w[i - 16] + w[i - 7] + (sha_ror(a, 7) ^ sha_ror(a, 18) ^ a >> 3) +
		       (sha_ror(b, 17) ^ sha_ror(b, 19) ^ b >> 10);
	}
	memcpy(s, h, sizeof(s));
	/* What is a in one step is b in the next: eight steps bring each variable home. */
	for (int i = 0; i < 64; i += 8) {
		sha_step(s, 0, sha_k[i] + w[i]);
		sha_step(s, 1, sha_k[i + 1] + w[i + 1]);
		sha_step(s, 2, sha_k[i + 2] + w[i + 2]);
		sha_step(s, 3, sha_k[i + 3] + w[i + 3]);
		sha_step(s, 4, sha_k[i + 4] + w[i + 4]);
		sha_step(s, 5, sha_k[i + 5] + w[i + 5]);
		sha_step(s, 6, sha_k[i + 6] + w[i + 6]);
		sha_step(s, 7, sha_k[i + 7] + w[i + 7]);
	}
	for (int i = 0; i < 8; i++)
		h[i] += s[i];
}

/* Byte i of the message is i * 7 + i / 256. */
static int sha_init(void)
{
	memset(sha_msg, 0, sizeof(sha_msg));
	for (int i = 0; i < SHA_BYTES; i++)
		sha_msg[i] = (uint8_t)(i * 7 + i / 256);
	sha_msg[SHA_BYTES] = 0x80;
	for (int i = 0; i < 8; i++)
		sha_msg[SHA_BYTES + 63 - i] = (uint8_t)((uint64_t)SHA_BYTES * 8 >> 8 * i);
	return 0;
}

static uint64_t sha_round(void)
{
	uint32_t h[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
			  0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
	for (size_t at = 0; at < sizeof(sha_msg); at += 64)
		sha_block(h, sha_msg + at);
	return (uint64_t)h[0] << 32 | h[1];
}

/* --- qsort: libc's, with a comparison by pointer --- */

enum {
	SORT_N = 8192
};

static uint32_t sort_in[SORT_N], sort_out[SORT_N];

static int sort_cmp(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static int sort_init(void)
{
	uint64_t s = 42;
	for (int i = 0; i < SORT_N; i++)
		sort_in[i] = (uint32_t)(work_next(&s) >> 32);
	return 0;
}

static uint64_t sort_round(void)
{
	memcpy(sort_out, sort_in, sizeof(sort_in));
	qsort(sort_out, SORT_N, sizeof(*sort_out), sort_cmp);
	uint64_t sum = WORK_SUM0;
	for (int i = 0; i < SORT_N; i += 64)
		sum = work_mix(sum, sort_out[i]);
	return sum;
}

/* --- interp: a byte-code interpreter that counts primes with a sieve --- */

enum vm_op {
	VM_LI,
	VM_MOV,
	VM_ADD,
	VM_ADDI,
	VM_MUL,
	VM_LD,
	VM_ST,
	VM_JLT,
	VM_JNZ,
	VM_XOR,
	VM_HALT
};

struct vm_insn {
	uint8_t op, a, b;
	int8_t off;
	int32_t imm;
};

enum {
	VM_SIEVE = 1024
};

/* clang-format off */
/* r1: i, r2: j, r3: limit, r4: primes, r5: flag, r6: 1, r7: checksum */
static const struct vm_insn vm_sieve[] = {
	{ VM_LI, 3, 0, 0, VM_SIEVE },
	{ VM_LI, 6, 0, 0, 1 },
	{ VM_LI, 4, 0, 0, 0 },
	{ VM_LI, 7, 0, 0, 17 },
	/* clear */
	{ VM_LI, 1, 0, 0, 0 },
	{ VM_LI, 5, 0, 0, 0 },
	{ VM_ST, 5, 1, 0, 0 }, /* 6 */
	{ VM_ADDI, 1, 0, 0, 1 },
	{ VM_JLT, 1, 3, -3, 0 }, /* -> 6 */
	{ VM_LI, 1, 0, 0, 2 },
	{ VM_LD, 5, 1, 0, 0 }, /* 10: outer */
	{ VM_JNZ, 5, 0, 8, 0 }, /* -> 20 */
	{ VM_ADDI, 4, 0, 0, 1 },
	{ VM_MUL, 7, 1, 0, 0 },
	{ VM_XOR, 7, 4, 0, 0 },
	{ VM_MOV, 2, 1, 0, 0 },
	{ VM_ADD, 2, 1, 0, 0 }, /* 16: inner */
	{ VM_JLT, 3, 2, 2, 0 }, /* -> 20 */
	{ VM_ST, 6, 2, 0, 0 },
	{ VM_JNZ, 6, 0, -4, 0 }, /* -> 16 */
	{ VM_ADDI, 1, 0, 0, 1 }, /* 20 */
	{ VM_JLT, 1, 3, -12, 0 }, /* -> 10 */
	{ VM_HALT, 0, 0, 0, 0 },
};
/* clang-format on */

static int32_t vm_mem[VM_SIEVE + 1];

/* Steps taken are in *ret_steps; the checksum is r7 and r4. */
__attribute__((noinline)) static uint64_t vm_run(const struct vm_insn *pc, uint64_t *ret_steps)
{
	int32_t r[8] = { 0 };
	uint64_t steps = 0;
	for (;; pc++) {
		steps++;
		switch ((enum vm_op)pc->op) {
		case VM_LI:
			r[pc->a] = pc->imm;
			break;
		case VM_MOV:
			r[pc->a] = r[pc->b];
			break;
		case VM_ADD:
			r[pc->a] += r[pc->b];
			break;
		case VM_ADDI:
			r[pc->a] += pc->imm;
			break;
		case VM_MUL:
			r[pc->a] = (int32_t)((uint32_t)r[pc->a] * (uint32_t)r[pc->b]);
			break;
		case VM_LD:
			r[pc->a] = vm_mem[r[pc->b]];
			break;
		case VM_ST:
			vm_mem[r[pc->b]] = r[pc->a];
			break;
		case VM_JLT:
			if (r[pc->a] < r[pc->b])
				pc += pc->off;
			break;
		case VM_JNZ:
			if (r[pc->a])
				pc += pc->off;
			break;
		case VM_XOR:
			r[pc->a] ^= r[pc->b];
			break;
		case VM_HALT:
			*ret_steps = steps;
			return (uint64_t)(uint32_t)r[7] << 32 | (uint32_t)r[4];
		}
	}
}

/* What vm_run() counts: part of the checksum, so it is right. */
#define VM_STEPS 16236

static uint64_t vm_round(void)
{
	uint64_t steps, sum = vm_run(vm_sieve, &steps);
	return work_mix(sum, steps);
}

/* --- callret: the doubly recursive Fibonacci numbers --- */

__attribute__((noinline, optimize("no-optimize-sibling-calls"))) static uint32_t fib(uint32_t n)
{
	__asm__ volatile("" : "+r"(n));
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

/* fib(20) makes 2 * fib(21) - 1 calls. */
#define FIB_CALLS 21891

static uint64_t fib_round(void)
{
	return fib(20);
}

/* --- indirect: calls through a table, by a sequence that a predictor can only partly learn --- */

enum {
	IND_CALLS = 16384,
	IND_ORDER = 256
};

#define IND_FN(n, expr)                                               \
	__attribute__((noinline)) static uint64_t ind_##n(uint64_t x) \
	{                                                             \
		return expr;                                          \
	}
IND_FN(0, x + 0x9e37)
IND_FN(1, x ^ x >> 3)
IND_FN(2, x * 5)
IND_FN(3, ~x)
IND_FN(4, x << 1 | x >> 63)
IND_FN(5, x - 77)
IND_FN(6, x ^ 0x5555)
IND_FN(7, x + (x >> 7))

static uint64_t (*const volatile ind_table[])(uint64_t) = { ind_0, ind_1, ind_2, ind_3,
							    ind_4, ind_5, ind_6, ind_7 };
static uint8_t ind_order[IND_ORDER];

static int ind_init(void)
{
	uint64_t s = 7;
	for (int i = 0; i < IND_ORDER; i++)
		ind_order[i] = work_next(&s) >> 61;
	return 0;
}

static uint64_t ind_round(void)
{
	uint64_t x = 1;
	for (int i = 0; i < IND_CALLS; i++)
		x = ind_table[ind_order[i % IND_ORDER]](x);
	return x;
}

/* --- chase: dependent loads around one cycle through an array of 64-byte nodes (Sattolo) --- */

struct chase_node {
	struct chase_node *next;
	uint64_t pad[7];
};

enum {
	CHASE_SMALL = 16384 / 64,
	CHASE_BIG = (16 << 20) / 64,
	CHASE_LOADS = 65536
};

static struct chase_node *chase_nodes;

static int chase_init(int count)
{
	uint32_t *order = malloc((size_t)count * sizeof(*order));
	chase_nodes = aligned_alloc(4096, (size_t)count * sizeof(*chase_nodes));
	if (!order || !chase_nodes) {
		free(order);
		return -ENOMEM;
	}
	uint64_t s = 99;
	for (int i = 0; i < count; i++)
		order[i] = (uint32_t)i;
	for (int i = count - 1; i > 0; i--) {
		int j = (int)(work_next(&s) % (uint64_t)i);
		uint32_t t = order[i];
		order[i] = order[j];
		order[j] = t;
	}
	for (int i = 0; i < count; i++)
		chase_nodes[i].next = &chase_nodes[order[i]];
	free(order);
	return 0;
}

static int chase_init_small(void)
{
	return chase_init(CHASE_SMALL);
}

static int chase_init_big(void)
{
	return chase_init(CHASE_BIG);
}

static int chase_fini(void)
{
	free(chase_nodes);
	chase_nodes = NULL;
	return 0;
}

/* One load less than whole cycles, so the end is the node before the first. */
static uint64_t chase(int loads)
{
	struct chase_node *n = chase_nodes;
	for (int i = 0; i < loads - 1; i++)
		n = n->next;
	return n->next == chase_nodes ? 1 : 2;
}

static uint64_t chase_round_small(void)
{
	return chase(CHASE_LOADS);
}

static uint64_t chase_round_big(void)
{
	return chase(CHASE_BIG);
}

/* --- div, lock, bignum --- */

enum {
	DIV_N = 16384
};

static uint64_t div_round(void)
{
	uint64_t sum = WORK_SUM0, a = 0xfedcba9876543210ULL, d = 3;
	for (int i = 0; i < DIV_N; i++) {
		__asm__ volatile("" : "+r"(a), "+r"(d));
		sum += a / d;
		a -= 0x123456789abULL;
		d += 0x10001;
	}
	return sum;
}

enum {
	LOCK_N = 16384
};

static uint64_t lock_round(void)
{
	static uint64_t cell, other;
	cell = 0;
	other = 5;
	for (uint64_t i = 0; i < LOCK_N / 2; i++) {
		uint64_t old = __atomic_fetch_add(&cell, i, __ATOMIC_SEQ_CST);
		uint64_t was = other;
		__atomic_compare_exchange_n(&other, &was, was ^ old, false, __ATOMIC_SEQ_CST,
					    __ATOMIC_SEQ_CST);
	}
	return work_mix(cell, other);
}

enum {
	BIG_WORDS = 32
};

/* 2048 by 2048 bits, schoolbook: mul, add, adc. */
static uint64_t big_round(void)
{
	static uint64_t a[BIG_WORDS], b[BIG_WORDS], r[2 * BIG_WORDS];
	uint64_t s = 3;
	for (int i = 0; i < BIG_WORDS; i++) {
		a[i] = work_next(&s);
		b[i] = work_next(&s);
	}
	for (int turn = 0; turn < 8; turn++) {
		memset(r, 0, sizeof(r));
		for (int i = 0; i < BIG_WORDS; i++) {
			uint64_t carry = 0;
			for (int j = 0; j < BIG_WORDS; j++) {
				unsigned __int128 t =
					(unsigned __int128)a[i] * b[j] + r[i + j] + carry;
				r[i + j] = (uint64_t)t;
				carry = (uint64_t)(t >> 64);
			}
			r[i + BIG_WORDS] = carry;
		}
		memcpy(a, r + turn, sizeof(a));
	}
	uint64_t sum = WORK_SUM0;
	for (int i = 0; i < BIG_WORDS; i++)
		sum = work_mix(sum, a[i]);
	return sum;
}

/* clang-format off */
const struct work work_int[] = {
	{ "coremark", "iter/s", CORE_ITERATIONS, core_round, 0xd985, core_init },
	{ "sha256", "MB/s", SHA_BYTES / 1e6, sha_round, 0x5252abae92836caaULL, sha_init },
	{ "qsort", "Melem/s", SORT_N / 1e6, sort_round, 0xacbc68aeff7b658bULL, sort_init },
	{ "interp", "Mop/s", VM_STEPS / 1e6, vm_round, 0xd6e7a5d2006c5340ULL },
	{ "callret", "Mcall/s", FIB_CALLS / 1e6, fib_round, 6765 },
	{ "indirect", "Mcall/s", IND_CALLS / 1e6, ind_round, 0x663e572e323650dcULL, ind_init },
	{ "chase16k", "Mload/s", CHASE_LOADS / 1e6, chase_round_small, 1, chase_init_small, chase_fini },
	{ "chase16m", "Mload/s", CHASE_BIG / 1e6, chase_round_big, 1, chase_init_big, chase_fini },
	{ "div", "Mdiv/s", DIV_N / 1e6, div_round, 0x20f1170c76adf7dcULL },
	{ "lock", "Mop/s", LOCK_N / 1e6, lock_round, 0xffe0050365c9a87fULL },
	{ "bignum", "Mmul/s", 8 * BIG_WORDS * BIG_WORDS / 1e6, big_round, 0xf2bbc2be8025744cULL },
	{ 0 },
};
/* clang-format on */
