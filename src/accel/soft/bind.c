/*
 * From a decoded instruction to its handler.
 *
 * soft_bind() runs once for each instruction that is decoded into a block.  It looks at the form
 * (insn.tab): class and mnemonic name the file, operand kinds the shape, operand size the variant.
 * Register numbers move to where the handlers look for them (ops.h).  A form whose CPUID feature
 * the guest does not have raises #UD when it is executed.
 */
#include "accel/soft/ops.h"
#include "accel/soft/sys_int.h"

#include "base/bug.h"

enum {
	R_EAX,
	R_EBX,
	R_ECX,
	R_EDX,
};

/* Where CPUID has a feature (SDM 2A CPUID; APM 3 appendix E).  A leaf of 0: every CPU has it. */
static const struct feat_bit {
	uint32_t leaf;
	uint8_t sub, reg, bit;
} feat_bits[IFEATS] = {
	[IFEAT_NONE] = { 0 },
	[IFEAT_FPU] = { 1, 0, R_EDX, 0 },
	[IFEAT_TSC] = { 1, 0, R_EDX, 4 },
	[IFEAT_MSR] = { 1, 0, R_EDX, 5 },
	[IFEAT_CX8] = { 1, 0, R_EDX, 8 },
	[IFEAT_SEP] = { 1, 0, R_EDX, 11 },
	[IFEAT_CMOV] = { 1, 0, R_EDX, 15 },
	[IFEAT_CLFSH] = { 1, 0, R_EDX, 19 },
	[IFEAT_MMX] = { 1, 0, R_EDX, 23 },
	[IFEAT_FXSR] = { 1, 0, R_EDX, 24 },
	[IFEAT_SSE] = { 1, 0, R_EDX, 25 },
	[IFEAT_SSE2] = { 1, 0, R_EDX, 26 },
	[IFEAT_SSE3] = { 1, 0, R_ECX, 0 },
	[IFEAT_PCLMULQDQ] = { 1, 0, R_ECX, 1 },
	[IFEAT_MONITOR] = { 1, 0, R_ECX, 3 },
	[IFEAT_SSSE3] = { 1, 0, R_ECX, 9 },
	[IFEAT_FMA] = { 1, 0, R_ECX, 12 },
	[IFEAT_CX16] = { 1, 0, R_ECX, 13 },
	[IFEAT_SSE4_1] = { 1, 0, R_ECX, 19 },
	[IFEAT_SSE4_2] = { 1, 0, R_ECX, 20 },
	[IFEAT_MOVBE] = { 1, 0, R_ECX, 22 },
	[IFEAT_POPCNT] = { 1, 0, R_ECX, 23 },
	[IFEAT_AES] = { 1, 0, R_ECX, 25 },
	[IFEAT_XSAVE] = { 1, 0, R_ECX, 26 },
	[IFEAT_AVX] = { 1, 0, R_ECX, 28 },
	[IFEAT_F16C] = { 1, 0, R_ECX, 29 },
	[IFEAT_RDRAND] = { 1, 0, R_ECX, 30 },
	[IFEAT_FSGSBASE] = { 7, 0, R_EBX, 0 },
	[IFEAT_BMI1] = { 7, 0, R_EBX, 3 },
	[IFEAT_AVX2] = { 7, 0, R_EBX, 5 },
	[IFEAT_BMI2] = { 7, 0, R_EBX, 8 },
	[IFEAT_INVPCID] = { 7, 0, R_EBX, 10 },
	[IFEAT_RDSEED] = { 7, 0, R_EBX, 18 },
	[IFEAT_ADX] = { 7, 0, R_EBX, 19 },
	[IFEAT_SMAP] = { 7, 0, R_EBX, 20 },
	[IFEAT_CLFLUSHOPT] = { 7, 0, R_EBX, 23 },
	[IFEAT_CLWB] = { 7, 0, R_EBX, 24 },
	[IFEAT_SHA] = { 7, 0, R_EBX, 29 },
	[IFEAT_VAES] = { 7, 0, R_ECX, 9 },
	[IFEAT_VPCLMULQDQ] = { 7, 0, R_ECX, 10 },
	[IFEAT_RDPID] = { 7, 0, R_ECX, 22 },
	[IFEAT_XSAVEOPT] = { 0xd, 1, R_EAX, 0 },
	[IFEAT_XSAVEC] = { 0xd, 1, R_EAX, 1 },
	[IFEAT_XSAVES] = { 0xd, 1, R_EAX, 3 },
	[IFEAT_LZCNT] = { 0x80000001, 0, R_ECX, 5 },
	/* A prefetch hint does nothing where it is not known (APM 3 PREFETCH). */
	[IFEAT_PREFETCHW] = { 0 },
	[IFEAT_SYSCALL] = { 0x80000001, 0, R_EDX, 11 },
	[IFEAT_RDTSCP] = { 0x80000001, 0, R_EDX, 27 },
};

bool bind_feat(const struct cpuid_table *cpuid, unsigned feat)
{
	const struct feat_bit *b = &feat_bits[feat];
	const struct cpuid_entry *e;

	BUG_ON(feat >= IFEATS);
	if (!b->leaf)
		return true;
	e = cpuid_peek(cpuid, b->leaf, b->sub);
	if (!e)
		return false;
	const uint32_t reg[] = { e->eax, e->ebx, e->ecx, e->edx };
	return reg[b->reg] >> b->bit & 1;
}

/* Also put over an instruction that must not run any more (code_stop_after): it is the next. */
void soft_block_end(struct scpu *c, const struct insn *i)
{
	uint64_t ip = soft_rip(c, i);

	c->rip = c->code_size == 64 ? ip : (uint32_t)ip;
}

void soft_op_ud(struct scpu *c, const struct insn *i)
{
	soft_raise(c, i, X86_EXC_UD, 0);
}

static bool bind_is_mem(const struct insn *i, unsigned kind)
{
	return i->flags & INSN_MEM && (kind == OPND_RM || kind == OPND_MEM || kind == OPND_MOFFS);
}

static bool bind_is_reg(unsigned kind)
{
	return kind == OPND_REG || kind == OPND_RM || kind == OPND_ACC;
}

/* Both register operands of RR trade places. */
static void bind_swap(struct insn *i)
{
	unsigned high = i->flags & (INSN_REG_HIGH | INSN_RM_HIGH);
	uint8_t r = i->reg;

	i->reg = i->rm;
	i->rm = r;
	i->flags &= (uint16_t) ~(INSN_REG_HIGH | INSN_RM_HIGH);
	if (high & INSN_REG_HIGH)
		i->flags |= INSN_RM_HIGH;
	if (high & INSN_RM_HIGH)
		i->flags |= INSN_REG_HIGH;
}

/* Mnemonics whose RR handlers write rm whatever the encoding says. */
static bool bind_swaps(unsigned mnem)
{
	switch (mnem) {
	case SOP_ADD:
	case SOP_OR:
	case SOP_ADC:
	case SOP_SBB:
	case SOP_AND:
	case SOP_SUB:
	case SOP_XOR:
	case SOP_CMP:
	case SOP_TEST:
	case SOP_MOV:
	case SOP_XCHG:
		return true;
	default:
		return false;
	}
}

/* The destination is memory. */
static enum shape bind_shape_mem(struct insn *i, const struct insn_opnd *src)
{
	bool reg = bind_is_reg(src->kind) || src->kind == OPND_CL;

	if (src->kind == OPND_ACC)
		i->reg = X86_RAX;
	if (i->flags & INSN_LOCK)
		return reg ? SHAPE_LOCK_MR : SHAPE_LOCK_MI;
	return reg ? SHAPE_MR : SHAPE_MI;
}

/*
 * The place of the operands; the last register or immediate decides what the source is (SHLD has
 * three).  Moves register numbers as ops.h wants them.
 */
static enum shape bind_shape(struct insn *i, unsigned mnem)
{
	const struct insn_form *f = &insn_forms[i->form];
	const struct insn_opnd *dst = &f->opnd[0], *src = &f->opnd[1];

	if (f->opnd[2].kind != OPND_NONE && dst->kind == OPND_RM)
		src = &f->opnd[2];
	if (src->kind == OPND_ONE)
		i->imm = 1;
	if (bind_is_mem(i, dst->kind))
		return bind_shape_mem(i, src);
	if (bind_is_mem(i, src->kind)) {
		if (dst->kind == OPND_ACC)
			i->reg = X86_RAX;
		return SHAPE_RM;
	}
	if (bind_is_reg(src->kind) && src->kind != OPND_ACC) {
		if (dst->kind == OPND_REG && bind_swaps(mnem))
			bind_swap(i);
		return SHAPE_RR;
	}
	/* One register: it belongs into rm. */
	if (dst->kind == OPND_REG)
		bind_swap(i);
	if (dst->kind == OPND_ACC) {
		i->rm = X86_RAX;
		i->flags &= (uint16_t)~INSN_RM_HIGH;
	}
	if (src->kind == OPND_ACC) {
		i->reg = X86_RAX;
		return SHAPE_RR;
	}
	return src->kind == OPND_CL ? SHAPE_RR : SHAPE_RI;
}

static insn_fn *bind_int(struct scpu *c, struct insn *i, unsigned mnem, const uint8_t *bytes,
			 unsigned code_size)
{
	enum shape sh;
	insn_fn *fn;

	/* These look for their operands themselves. */
	fn = op_flow_bind(c, i, mnem);
	if (!fn)
		fn = op_vec_bind(c, i, mnem);
	if (fn)
		return fn;
	if (mnem == SOP_CRC32 || mnem == SOP_ADCX || mnem == SOP_ADOX || mnem == SOP_RDRAND ||
	    mnem == SOP_RDSEED)
		return host_bind(c, i, bytes, code_size);
	sh = bind_shape(i, mnem);
	fn = op_alu_bind(c, i, mnem, sh);
	if (!fn)
		fn = op_mov_bind(c, i, mnem, sh);
	if (!fn)
		fn = op_bit_bind(c, i, mnem, sh);
	return fn;
}

/* VPEXTRQ and VPINSRQ do not exist in 32-bit code: AMD refuses them, Intel ignores VEX.W. */
static bool bind_amd_ud(const struct scpu *c, const struct insn *i, unsigned mnem,
			unsigned code_size)
{
	return (mnem == SOP_VPEXTRD || mnem == SOP_VPINSRD) && i->flags & INSN_REXW &&
	       code_size != 64 && !c->run->intel;
}

static insn_fn *bind_fn(struct scpu *c, struct insn *i, const uint8_t *bytes, unsigned code_size)
{
	const struct insn_form *f = &insn_forms[i->form];
	unsigned mnem = f->sop;
	insn_fn *fn = NULL;

	if (unlikely(f->feat != IFEAT_NONE) && !bind_feat(&c->v.cpuid, f->feat)) {
		/* On CPUs without them the prefix means nothing (APM 3 LZCNT, TZCNT). */
		if (mnem != SOP_TZCNT && mnem != SOP_LZCNT)
			return soft_op_ud;
		mnem = mnem == SOP_TZCNT ? SOP_BSF : SOP_BSR;
	}
	switch (f->class) {
	case INSC_SYS:
		fn = soft_sys_bind(c, i, code_size);
		break;
	case INSC_STR:
		return op_str_bind(c, i, mnem);
	case INSC_HOST:
		if (bind_amd_ud(c, i, mnem, code_size))
			return soft_op_ud;
		fn = op_vec_bind(c, i, mnem);
		return fn ? fn : host_bind(c, i, bytes, code_size);
	}
	return fn ? fn : bind_int(c, i, mnem, bytes, code_size);
}

void soft_bind(struct scpu *c, struct insn *i, const uint8_t *bytes, unsigned code_size)
{
	i->aux = NULL;
	i->fn = bind_fn(c, i, bytes, code_size);
	if (!i->fn)
		i->fn = soft_op_ud;
}
