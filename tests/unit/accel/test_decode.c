/*
 * The decoder and the instruction table, against Zydis: every opcode with every ModRM byte under the
 * usual prefixes, then random bytes; and by hand what the contract in soft_int.h promises.
 */
#include "lib/t.h"

#include "cpu/x86.h"
#include "zydis_cmp.h"

#include <sys/mman.h>

enum {
	RANDOM_CASES = 3000000,
	SHORT_CASES = 200000,
};

static const unsigned code_sizes[3] = { 16, 32, 64 };

static void show(const struct zcmp *c, const uint8_t *p, unsigned mode, const char *why)
{
	char hex[3 * 16 + 1];

	for (unsigned k = 0; k < 15; k++)
		snprintf(hex + 3 * k, 4, "%02x ", p[k]);
	print_error("%u-bit %s: %s: ours %d %s, Zydis %s\n", code_sizes[mode], hex, why, c->len,
		    c->len > 0 ? insn_forms[c->i.form].name : "-",
		    c->z_ok ? ZydisMnemonicGetString(c->z.mnemonic) : "-");
}

static void check(struct zcmp *c, const uint8_t *p, unsigned mode, unsigned *bad)
{
	const char *why = zcmp(c, p, 15, mode);

	if (!why)
		return;
	if ((*bad)++ < 20)
		show(c, p, mode, why);
}

static void fill(uint8_t *p, unsigned n, uint64_t *seed)
{
	for (unsigned k = 0; k < n; k++)
		p[k] = (uint8_t)t_rnd(seed);
}

/* All maps, opcodes and ModRM bytes under one run of prefixes. */
static void sweep_legacy(struct zcmp *c, const uint8_t *prefix, unsigned n, unsigned mode,
			 uint64_t *seed, unsigned *bad)
{
	static const uint8_t maps[4][3] = { { 0 }, { 1, 0x0f }, { 2, 0x0f, 0x38 }, { 2, 0x0f, 0x3a } };
	uint8_t b[24];

	for (unsigned m = 0; m < 4; m++) {
		unsigned at = n + maps[m][0];

		fill(b, sizeof(b), seed);
		memcpy(b, prefix, n);
		memcpy(b + n, maps[m] + 1, maps[m][0]);
		for (unsigned op_modrm = 0; op_modrm < 65536; op_modrm++) {
			b[at] = (uint8_t)(op_modrm >> 8);
			b[at + 1] = (uint8_t)op_modrm;
			b[at + 2] = (uint8_t)t_rnd(seed);
			check(c, b, mode, bad);
		}
	}
}

static void test_sweep_legacy(void **state)
{
	static const uint8_t prefixes[][4] = {
		{ 0 },		{ 1, 0x66 },	   { 1, 0xf3 },	      { 1, 0xf2 },
		{ 1, 0xf0 },	{ 1, 0x67 },	   { 2, 0x66, 0xf2 }, { 2, 0xf3, 0x66 },
		{ 1, 0x48 },	{ 1, 0x41 },	   { 1, 0x44 },	      { 1, 0x40 },
		{ 2, 0x66, 0x4f }, { 2, 0xf3, 0x48 }, { 2, 0xf0, 0x48 }, { 1, 0x64 },
	};
	uint64_t seed = t_seed(1);
	unsigned bad = 0;
	struct zcmp c;

	zcmp_init(&c);
	for (unsigned mode = 0; mode < 3; mode++)
		for (unsigned k = 0; k < COUNT_OF(prefixes); k++)
			sweep_legacy(&c, prefixes[k] + 1, prefixes[k][0], mode, &seed, &bad);
	printf("# %llu valid, %llu invalid, %llu known differences\n", (unsigned long long)c.valid,
	       (unsigned long long)c.invalid, (unsigned long long)c.known);
	assert_int_equal(bad, 0);
	assert_true(c.valid > 1000000 && c.invalid > 1000000);
	/* Known differences are few: a list that swallows everything proves nothing. */
	assert_true(c.known < (c.valid + c.invalid) / 100);
}

/* All maps 0-3, opcodes and ModRM bytes; pp, L, W and whether vvvv is 1111 from `bits`. */
static void sweep_vex(struct zcmp *c, unsigned bits, unsigned mode, uint64_t *seed, unsigned *bad)
{
	uint8_t b[24];

	fill(b, sizeof(b), seed);
	b[0] = 0xc4;
	for (unsigned map = 0; map < 4; map++) {
		for (unsigned op_modrm = 0; op_modrm < 65536; op_modrm++) {
			uint64_t r = t_rnd(seed);
			unsigned vvvv = bits & 16 ? r & 15 : 15;

			b[1] = (uint8_t)((r >> 8 & 0xe0) | (mode == 2 ? 0 : 0xc0) | map);
			b[2] = (uint8_t)((bits & 7) | (bits & 8) << 4 | vvvv << 3);
			b[3] = (uint8_t)(op_modrm >> 8);
			b[4] = (uint8_t)op_modrm;
			b[5] = (uint8_t)(r >> 16);
			check(c, b, mode, bad);
		}
	}
}

static void test_sweep_vex(void **state)
{
	uint64_t seed = t_seed(2);
	unsigned bad = 0;
	struct zcmp c;

	zcmp_init(&c);
	for (unsigned mode = 0; mode < 3; mode++)
		for (unsigned bits = 0; bits < 32; bits++)
			sweep_vex(&c, bits, mode, &seed, &bad);
	printf("# %llu valid, %llu invalid, %llu known differences\n", (unsigned long long)c.valid,
	       (unsigned long long)c.invalid, (unsigned long long)c.known);
	assert_int_equal(bad, 0);
	assert_true(c.valid > 1000000 && c.invalid > 1000000);
	assert_true(c.known < (c.valid + c.invalid) / 100);
}

/* Random bytes; half of them with likely prefixes and maps in front. */
static void random_bytes(uint8_t *b, uint64_t *seed)
{
	static const uint8_t pfx[] = { 0x66, 0x66, 0xf2, 0xf3, 0xf0, 0x67, 0x2e, 0x3e, 0x26, 0x36,
				       0x64, 0x65, 0x48, 0x40, 0x41, 0x44, 0x42, 0x4f };
	static const uint8_t start[] = { 0x0f, 0x0f, 0xc4, 0xc5, 0xff, 0xf7, 0x80, 0x8f };
	unsigned n = 0;

	fill(b, 16, seed);
	if (t_below(seed, 2))
		return;
	while (n < 12 && t_below(seed, 3) == 0)
		b[n++] = pfx[t_below(seed, COUNT_OF(pfx))];
	b[n] = start[t_below(seed, COUNT_OF(start))];
	if (b[n] == 0x0f && t_below(seed, 2))
		b[n + 1] = t_below(seed, 2) ? 0x38 : 0x3a;
	if (b[n] == 0xc4)
		b[n + 1] = (uint8_t)((b[n + 1] & 0xe0) | (1 + t_below(seed, 3)));
}

static void test_random(void **state)
{
	uint64_t seed = t_seed(3);
	unsigned bad = 0;
	struct zcmp c;

	zcmp_init(&c);
	for (unsigned k = 0; k < RANDOM_CASES; k++) {
		uint8_t b[16];

		random_bytes(b, &seed);
		check(&c, b, (unsigned)t_below(&seed, 3), &bad);
	}
	printf("# %llu valid, %llu invalid, %llu known differences\n", (unsigned long long)c.valid,
	       (unsigned long long)c.invalid, (unsigned long long)c.known);
	assert_int_equal(bad, 0);
	assert_true(c.known < (c.valid + c.invalid) / 25);
}

/*
 * Fewer bytes: as long as they do not tell, -ENODATA, then always the same answer; the bytes end at
 * the end of a page, so that a look beyond them is seen.
 */
static void test_short(void **state)
{
	uint64_t seed = t_seed(4);
	uint8_t *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t b[64];
	unsigned long told = 0, err_early = 0;

	assert_ptr_not_equal(page, MAP_FAILED);
	assert_int_equal(mprotect(page + 4096, 4096, PROT_NONE), 0);
	for (unsigned k = 0; k < SHORT_CASES; k++) {
		unsigned size = code_sizes[t_below(&seed, 3)];
		struct insn full, part;
		int want, got;

		fill(b + 16, sizeof(b) - 16, &seed);
		random_bytes(b, &seed);
		memset(&full, 0, sizeof(full));
		want = soft_decode(b, sizeof(b), size, &full);
		for (unsigned n = 15; n + 1 > 0; n--) {
			memcpy(page + 4096 - n, b, n);
			memset(&part, 0, sizeof(part));
			got = soft_decode(page + 4096 - n, n, size, &part);
			if (got == -ENODATA && (want < 0 ? n < 15 : n < (unsigned)want))
				continue;
			assert_int_equal(got, want);
			if (want > 0) {
				assert_true(n >= (unsigned)want);
				assert_memory_equal(&part, &full, sizeof(full));
				told++;
			} else {
				err_early += n < 15;
			}
		}
		/* Never known without a byte; never unknown with 15. */
		assert_int_equal(soft_decode(page + 4096, 0, size, &part), -ENODATA);
	}
	assert_true(told > SHORT_CASES && err_early > SHORT_CASES / 10);
	munmap(page, 8192);
}

/* By hand: bytes; code size; then what must come out. */
struct sample {
	const char *what;
	unsigned size;
	uint8_t n, bytes[15];
	int want;
	/* Of struct insn, when decoded. */
	unsigned sop, opsize, adsize, reg, rm, base, index, scale, seg;
	int64_t disp;
	uint64_t imm;
	unsigned imm2, vvvv, flags;
};

#define NOMEM .base = SREG_NONE, .index = SREG_NONE, .seg = X86_DS

static const struct sample samples[] = {
	{ "RIP-relative: from the first byte", 64, 7, { 0x48, 0x8b, 0x05, 0x10, 0, 0, 0 }, 7,
	  SOP_MOV, 8, 8, .base = SREG_RIP, .index = SREG_NONE, .seg = X86_DS, .disp = 0x17,
	  .flags = INSN_MEM | INSN_REX | INSN_REXW },
	{ "RIP-relative with an immediate behind", 64, 7, { 0x83, 0x3d, 0xf0, 0xff, 0xff, 0xff, 0x80 },
	  7, SOP_CMP, 4, 8, .reg = 7, .base = SREG_RIP, .index = SREG_NONE, .seg = X86_DS,
	  .disp = -16 + 7, .imm = (uint64_t)-128, .flags = INSN_MEM },
	{ "EIP-relative", 64, 7, { 0x67, 0x8b, 0x05, 1, 0, 0, 0 }, 7, SOP_MOV, 4, 4,
	  .base = SREG_RIP, .index = SREG_NONE, .seg = X86_DS, .disp = 8, .flags = INSN_MEM },
	{ "rSP means SS", 64, 5, { 0x48, 0x89, 0x4c, 0x24, 0xf8 }, 5, SOP_MOV, 8, 8, .reg = 1,
	  .base = X86_RSP, .index = SREG_NONE, .seg = X86_SS, .disp = -8,
	  .flags = INSN_MEM | INSN_REX | INSN_REXW },
	{ "R12 does not; index R12", 64, 4, { 0x4b, 0x8b, 0x04, 0xe4 }, 4, SOP_MOV, 8, 8,
	  .base = X86_R12, .index = X86_R12, .scale = 3, .seg = X86_DS,
	  .flags = INSN_MEM | INSN_REX | INSN_REXW },
	{ "BP+DI means SS", 16, 3, { 0x8b, 0x43, 0xfe }, 3, SOP_MOV, 2, 2, .base = X86_RBP,
	  .index = X86_RDI, .seg = X86_SS, .disp = -2, .flags = INSN_MEM },
	{ "ES prefix", 32, 3, { 0x26, 0x8b, 0x07 }, 3, SOP_MOV, 4, 4, .base = X86_RDI,
	  .index = SREG_NONE, .seg = X86_ES, .flags = INSN_MEM | INSN_SEG },
	{ "ES prefix in 64-bit code leaves GS", 64, 4, { 0x65, 0x26, 0x8b, 0x07 }, 4, SOP_MOV, 4, 8,
	  .base = X86_RDI, .index = SREG_NONE, .seg = X86_GS, .flags = INSN_MEM | INSN_SEG },
	{ "moffs of 8 bytes", 64, 9, { 0xa0, 1, 2, 3, 4, 5, 6, 7, 8 }, 9, SOP_MOV, 1, 8,
	  .base = SREG_NONE, .index = SREG_NONE, .seg = X86_DS, .disp = 0x0807060504030201,
	  .flags = INSN_MEM },
	{ "moffs of 4 bytes", 64, 6, { 0x67, 0xa3, 1, 2, 3, 0x84 }, 6, SOP_MOV, 4, 4,
	  .base = SREG_NONE, .index = SREG_NONE, .seg = X86_DS, .disp = (int32_t)0x84030201,
	  .flags = INSN_MEM },
	{ "AH and BH", 64, 2, { 0x88, 0xe7 }, 2, SOP_MOV, 1, 8, .reg = 0, .rm = 3, NOMEM,
	  .flags = INSN_REG_HIGH | INSN_RM_HIGH },
	{ "SPL and DIL", 64, 3, { 0x40, 0x88, 0xe7 }, 3, SOP_MOV, 1, 8, .reg = 4, .rm = 7, NOMEM,
	  .flags = INSN_REX },
	{ "CH by opcode", 32, 2, { 0xb5, 0x80 }, 2, SOP_MOV, 1, 4, .reg = 1, NOMEM, .imm = 0x80,
	  .flags = INSN_REG_HIGH },
	{ "MOVZX: byte rm is high, reg is not", 32, 3, { 0x0f, 0xb6, 0xe4 }, 3, SOP_MOVZX, 4, 4,
	  .reg = 4, .rm = 0, NOMEM, .flags = INSN_RM_HIGH },
	{ "imm32 to 64 bits", 64, 7, { 0x48, 0xc7, 0xc0, 0, 0, 0, 0x80 }, 7, SOP_MOV, 8, 8, NOMEM,
	  .imm = 0xffffffff80000000, .flags = INSN_REX | INSN_REXW },
	{ "imm64", 64, 10, { 0x49, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8 }, 10, SOP_MOV, 8, 8, .reg = 8, NOMEM,
	  .imm = 0x0807060504030201, .flags = INSN_REX | INSN_REXW },
	{ "ENTER", 64, 4, { 0xc8, 0xff, 0xff, 0x1f }, 4, SOP_ENTER, 8, 8, NOMEM, .imm = 0xffff,
	  .imm2 = 0x1f },
	{ "far pointer 16:16", 16, 5, { 0xea, 0xf0, 0xff, 0, 0xf0 }, 5, SOP_JMPF, 2, 2, NOMEM,
	  .imm = 0xfff0, .imm2 = 0xf000, .flags = INSN_END },
	{ "far pointer 16:32", 16, 8, { 0x66, 0x9a, 1, 2, 3, 0x84, 8, 0 }, 8, SOP_CALLF, 4, 2, NOMEM,
	  .imm = 0x84030201, .imm2 = 8, .flags = INSN_END | INSN_66 },
	{ "branch displacement", 64, 2, { 0xeb, 0xfe }, 2, SOP_JMP, 8, 8, NOMEM, .imm = (uint64_t)-2,
	  .flags = INSN_END },
	{ "LDS, not VEX, with a memory operand", 32, 2, { 0xc5, 0x38 }, 2, SOP_LDS, 4, 4, .reg = 7,
	  .base = X86_RAX, .index = SREG_NONE, .seg = X86_DS, .flags = INSN_MEM | INSN_END },
	{ "VEX in 32-bit code", 32, 4, { 0xc5, 0xf4, 0x58, 0xc2 }, 4, SOP_VADDPS, 32, 4, .rm = 2, NOMEM,
	  .vvvv = 1, .flags = INSN_VEX | INSN_VEXL },
	{ "REX not before the opcode is void", 64, 3, { 0x48, 0x66, 0x90 }, 3, SOP_NOP, 2, 8, NOMEM,
	  .flags = INSN_66 },
	{ "POP sreg by opcode", 16, 1, { 0x1f }, 1, SOP_POP, 2, 2, .reg = X86_DS, NOMEM,
	  .flags = INSN_END },
	{ "PUSH GS", 64, 2, { 0x0f, 0xa8 }, 2, SOP_PUSH, 8, 8, .reg = X86_GS, NOMEM },
	{ "MOV to CR ignores mod", 64, 3, { 0x0f, 0x22, 0x18 }, 3, SOP_MOV, 8, 8, .reg = 3, NOMEM,
	  .flags = INSN_END },
	{ "CR8", 64, 4, { 0x44, 0x0f, 0x20, 0xc0 }, 4, SOP_MOV, 8, 8, .reg = 8, NOMEM,
	  .flags = INSN_REX },
	{ "no CR9", 64, 4, { 0x44, 0x0f, 0x20, 0xc8 }, -EILSEQ },
	{ "no CR1", 64, 3, { 0x0f, 0x20, 0xc8 }, -EILSEQ },
	{ "no DR8", 64, 4, { 0x44, 0x0f, 0x21, 0xc0 }, -EILSEQ },
	{ "MOV to CS", 64, 2, { 0x8e, 0xc8 }, -EILSEQ },
	{ "LOCK with memory", 64, 3, { 0xf0, 0x01, 0x07 }, 3, SOP_ADD, 4, 8, .base = X86_RDI,
	  .index = SREG_NONE, .seg = X86_DS, .flags = INSN_MEM | INSN_LOCK },
	{ "LOCK with a register", 64, 3, { 0xf0, 0x01, 0xc7 }, -EILSEQ },
	{ "LOCK with memory as the source", 64, 3, { 0xf0, 0x03, 0x07 }, -EILSEQ },
	{ "LOCK MOV", 64, 3, { 0xf0, 0x89, 0x07 }, -EILSEQ },
	{ "VEX with 66", 64, 5, { 0x66, 0xc5, 0xf8, 0x58, 0xc0 }, -EILSEQ },
	{ "VEX with REX", 64, 5, { 0x40, 0xc5, 0xf8, 0x58, 0xc0 }, -EILSEQ },
	{ "VEX with LOCK", 64, 5, { 0xf0, 0xc5, 0xf8, 0x58, 0xc0 }, -EILSEQ },
	{ "VEX.vvvv where there is none", 64, 4, { 0xc5, 0xf0, 0x28, 0xc0 }, -EILSEQ },
	{ "VEX.L where it must be 0", 64, 5, { 0xc4, 0xe2, 0x7c, 0xf2, 0xc1 }, -EILSEQ },
	{ "gather into its own index", 64, 6, { 0xc4, 0xe2, 0x69, 0x90, 0x04, 0x07 }, -EILSEQ },
	{ "gather without SIB", 64, 5, { 0xc4, 0xe2, 0x69, 0x90, 0x07 }, -EILSEQ },
	{ "EVEX", 64, 6, { 0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc0 }, -EILSEQ },
	{ "PUSH CS in 64-bit code", 64, 1, { 0x0e }, -EILSEQ },
	{ "UD2", 64, 2, { 0x0f, 0x0b }, -EILSEQ },
	{ "15 bytes", 64, 15, { 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
	  0x66, 0x66, 0x90 }, 15, SOP_NOP, 2, 8, NOMEM, .flags = INSN_66 },
	{ "15 prefixes", 64, 15, { 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
	  0x66, 0x66, 0x66, 0x66 }, -E2BIG },
	{ "16 bytes by its immediate", 64, 15, { 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
	  0x66, 0x66, 0x66, 0x66, 0x05, 0x00 }, -E2BIG },
};

static void check_sample(const struct sample *s)
{
	struct insn i = { 0 };
	int got = soft_decode(s->bytes, s->n, s->size, &i);

	if (got != s->want)
		print_error("%s: %d\n", s->what, got);
	assert_int_equal(got, s->want);
	if (got < 0)
		return;
	if (insn_forms[i.form].sop != s->sop || i.flags != s->flags)
		print_error("%s: %s, flags %x\n", s->what, insn_forms[i.form].name, i.flags);
	assert_int_equal(insn_forms[i.form].sop, s->sop);
	assert_int_equal(i.flags, s->flags);
	assert_int_equal(i.len, got);
	assert_int_equal(i.opsize, s->opsize);
	assert_int_equal(i.adsize, s->adsize);
	assert_int_equal(i.ea_mask, s->adsize == 8 ? ~0ull : (1ull << 8 * s->adsize) - 1);
	assert_int_equal(i.reg, s->reg);
	assert_int_equal(i.rm, s->rm);
	assert_int_equal(i.base, s->base);
	assert_int_equal(i.index, s->index);
	assert_int_equal(i.scale, s->scale);
	assert_int_equal(i.seg, s->seg);
	assert_int_equal(i.disp, s->disp);
	assert_int_equal(i.imm, s->imm);
	assert_int_equal(i.imm2, s->imm2);
	assert_int_equal(i.vvvv, s->vvvv);
}

static void test_samples(void **state)
{
	for (unsigned k = 0; k < COUNT_OF(samples); k++)
		check_sample(&samples[k]);
}

/* Near branches with 66 and far pointers with REX.W, on either vendor's CPUs. */
static void test_vendor(void **state)
{
	static const uint8_t call[8] = { 0x66, 0xe8, 1, 2, 3, 4 };
	static const uint8_t lgs[4] = { 0x48, 0x0f, 0xb5, 0x02 };
	struct insn i;

	assert_int_equal(soft_decode(call, 8, 64, &i), 4);
	assert_int_equal(i.opsize, 2);
	assert_int_equal(i.imm, 0x201);
	assert_int_equal(soft_decode(lgs, 4, 64, &i), 4);
	assert_int_equal(i.opsize, 4);
	soft_decode_vendor(true);
	assert_int_equal(soft_decode(call, 8, 64, &i), 6);
	assert_int_equal(i.opsize, 8);
	assert_int_equal(i.imm, 0x4030201);
	assert_int_equal(soft_decode(lgs, 4, 64, &i), 4);
	assert_int_equal(i.opsize, 8);
	soft_decode_vendor(false);
}

/* The table itself: nothing that a handler could trip over. */
static void test_forms(void **state)
{
	for (unsigned k = 1; k < INSN_FORMS; k++) {
		const struct insn_form *f = &insn_forms[k];

		assert_non_null(f->name);
		assert_string_equal(f->name, insn_sop_names[f->sop]);
		assert_in_range(f->sop, 1, SOPS - 1);
		assert_in_range(f->osz, 0, INSOS - 1);
		assert_in_range(f->feat, 0, IFEATS - 1);
		assert_in_range(f->class, INSC_UD, INSC_SYS);
		assert_int_equal(f->mem_access == INSA_NONE && f->flags & INSF_LOCK, 0);
		/* Flags are of RFLAGS, and what is read or written is not said twice. */
		assert_int_equal((f->fl_r | f->fl_w | f->fl_u) & ~0x277fd5u, 0);
		if (f->flags & INSF_LOCK)
			assert_int_equal(f->mem_access, INSA_RW);
		if (f->class == INSC_FLOW)
			assert_true(f->osz == INSO_BR);
		if (f->class == INSC_HOST)
			assert_true(f->feat != IFEAT_NONE);
		for (unsigned n = 1; n < INSN_OPNDS; n++)
			assert_false(f->opnd[n].kind && !f->opnd[n - 1].kind);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_samples),	     cmocka_unit_test(test_vendor),
		cmocka_unit_test(test_forms),	     cmocka_unit_test(test_short),
		cmocka_unit_test(test_sweep_legacy), cmocka_unit_test(test_sweep_vex),
		cmocka_unit_test(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
