/*
 * The fixed pieces of host code at the start of a vCPU's code cache: the way in from C and out to
 * it, the refill of the translation cache, loads of the vector and x87 registers, the jump cache's
 * look-up for exits that share one.
 */
#include "accel/soft/jit/jit_int.h"

#include "accel/soft/host_int.h"

/* Guest registers whose homes are host registers: guest number, host number. */
static const uint8_t homes[][2] = {
	{ X86_RAX, X86_RAX }, { X86_RCX, X86_RCX }, { X86_RDX, X86_RDX }, { X86_RBX, X86_RBX },
	{ X86_RSP, HR_SP },   { X86_RBP, X86_RBP }, { X86_RSI, X86_RSI }, { X86_RDI, X86_RDI },
	{ X86_R8, X86_R8 },   { X86_R12, X86_R12 }, { X86_R13, X86_R13 }, { X86_R14, X86_R14 },
	{ X86_R15, X86_R15 },
};

/* Those that a C function may change, of homes[]. */
static bool caller_saved(unsigned hr)
{
	return hr == X86_RAX || hr == X86_RCX || hr == X86_RDX || hr == X86_RSI || hr == X86_RDI ||
	       hr == X86_R8 || hr == HR_SP;
}

static void emit_homes(struct jbuf *b, bool store, bool all)
{
	for (unsigned k = 0; k < COUNT_OF(homes); k++)
		if (all || caller_saved(homes[k][1]))
			e_env(b, 1, store ? 0x89 : 0x8b, homes[k][1], joff_gpr(homes[k][0]));
}

void jit_emit_save_flags(struct jbuf *b)
{
	/* mov r11, rax; lahf; seto al; mov [fl], ax; mov rax, r11 */
	e_rr(b, 1, 0x89, X86_RAX, HR_T1);
	E_STR(b, "\x9f\x0f\x90\xc0\x66");
	e_env(b, 0, 0x89, X86_RAX, JOFF(fl));
	e_rr(b, 1, 0x89, HR_T1, X86_RAX);
}

void jit_emit_load_flags(struct jbuf *b, unsigned scratch)
{
	/* mov scratch, rax; movzx eax, word [fl]; add al, 0x7f; sahf; mov rax, scratch */
	e_rr(b, 1, 0x89, X86_RAX, scratch);
	e_env(b, 0, 0x0fb7, X86_RAX, JOFF(fl));
	E_STR(b, "\x04\x7f\x9e");
	e_rr(b, 1, 0x89, scratch, X86_RAX);
}

/* vmovdqa, or movaps, of vector register n */
static void emit_vec(struct jbuf *b, bool store, unsigned n)
{
	if (host_facts.avx) {
		e1(b, 0xc4);
		e1(b, n < 8 ? 0xe1 : 0x61);
		e1(b, 0x7d);
		e1(b, store ? 0x7f : 0x6f);
	} else {
		if (n >= 8)
			e1(b, 0x44);
		e1(b, 0x0f);
		e1(b, store ? 0x29 : 0x28);
	}
	e1(b, (n & 7) << 3 | 4);
	e1(b, 0x25);
	e4(b, b->env + (uint32_t)(JOFF(ymm) + 32ul * n));
}

/* ldmxcsr (2), stmxcsr (3) */
static void emit_mxcsr(struct jbuf *b, unsigned which, size_t off)
{
	e_env(b, 0, 0x0fae, which, off);
}

/* mov byte [off], v */
static void emit_set8(struct jbuf *b, size_t off, unsigned v)
{
	e_env(b, 0, 0xc6, 0, off);
	e1(b, v);
}

/* cmp byte [off], 0 */
static void emit_test8(struct jbuf *b, size_t off)
{
	e_env(b, 0, 0x80, 7, off);
	e1(b, 0);
}

static void emit_load_vec(struct jbuf *b)
{
	for (unsigned n = 0; n < 16; n++)
		emit_vec(b, false, n);
	emit_mxcsr(b, 2, JOFF(mxcsr));
	emit_set8(b, JOFF(jit_vec), 1);
	e1(b, 0xc3);
}

static void emit_save_vec(struct jbuf *b)
{
	for (unsigned n = 0; n < 16; n++)
		emit_vec(b, true, n);
	emit_mxcsr(b, 3, JOFF(mxcsr));
	emit_mxcsr(b, 2, JOFF(jit_mxcsr0));
	if (host_facts.avx)
		E_STR(b, "\xc5\xf8\x77");
	emit_set8(b, JOFF(jit_vec), 0);
}

/* XSAVE (4) or XRSTOR (5) of the x87 state alone; changes rax and rdx. */
static void emit_xsave(struct jbuf *b, unsigned which)
{
	/* mov eax, 1; xor edx, edx */
	E_STR(b, "\xb8\x01\0\0\0\x31\xd2");
	e_env(b, 1, 0x0fae, which, JOFF(fx));
}

static void emit_load_x87(struct jbuf *b)
{
	e_env(b, 1, 0x89, X86_RAX, JOFF(jit_tmp[2]));
	e_env(b, 1, 0x89, X86_RDX, JOFF(jit_tmp[3]));
	emit_set8(b, JOFF(fx_hdr), 1);
	emit_xsave(b, 5);
	e_env(b, 1, 0x8b, X86_RAX, JOFF(jit_tmp[2]));
	e_env(b, 1, 0x8b, X86_RDX, JOFF(jit_tmp[3]));
	emit_set8(b, JOFF(jit_x87), 1);
	e1(b, 0xc3);
}

/* FOP, FIP and FDP, which are ours, become 0. */
static void emit_save_x87(struct jbuf *b)
{
	emit_xsave(b, 4);
	e1(b, 0x66);
	e_env(b, 0, 0xc7, 0, JOFF(fx) + 6);
	E_STR(b, "\0\0");
	for (unsigned k = 8; k <= 16; k += 8) {
		e_env(b, 1, 0xc7, 0, JOFF(fx) + k);
		e4(b, 0);
	}
	/* fninit */
	E_STR(b, "\xdb\xe3");
	emit_set8(b, JOFF(jit_x87), 0);
}

/* struct jit way in: rdi: the vCPU, rsi: where to. */
static void emit_enter(struct jbuf *b)
{
	/* push rbx, rbp, r12-r15; sub rsp, 8 */
	E_STR(b, "\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57\x48\x83\xec\x08");
	e_env(b, 1, 0x89, X86_RSP, JOFF(jit_sp));
	e_env(b, 1, 0x8b, X86_RSP, JOFF(jit_ras));
	e_rr(b, 1, 0x89, X86_RSI, HR_T1);
	emit_homes(b, false, true);
	/* jmp r11 */
	E_STR(b, "\x41\xff\xe3");
}

/* Out to C; why is stored, r11: the argument. */
static void emit_leave(struct jbuf *b)
{
	e_env(b, 1, 0x89, HR_T1, JOFF(jit_arg));
	emit_homes(b, true, true);
	emit_test8(b, JOFF(jit_vec));
	uint8_t *over = e_jcc(b, E_CC_Z, NULL);
	emit_save_vec(b);
	e_patch(over, b->p);
	emit_test8(b, JOFF(jit_x87));
	over = e_jcc(b, E_CC_Z, NULL);
	emit_save_x87(b);
	e_patch(over, b->p);
	e_env(b, 1, 0x89, X86_RSP, JOFF(jit_ras));
	e_env(b, 1, 0x8b, X86_RSP, JOFF(jit_sp));
	E_STR(b, "\x48\x83\xc4\x08\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3");
}

/* mov dword [jit_why], why; jmp leave */
static void emit_why(struct jbuf *b, unsigned why, const uint8_t *leave)
{
	e_env(b, 0, 0xc7, 0, JOFF(jit_why));
	e4(b, why);
	e_jmp(b, leave);
}

/* r10: linear address, r11: jit_desc(); r10: host address, ZF: it is 0. */
static void emit_fill_call(struct jbuf *b, size_t fn)
{
	e_env(b, 1, 0x89, HR_T1, JOFF(jit_tmp[0]));
	emit_homes(b, true, false);
	/* mov rdi, self; mov rsi, r10; mov edx, r11d; call, on the C stack; mov r10, rax */
	e_env(b, 1, 0x8b, X86_RDI, JOFF(jit_self));
	e_rr(b, 1, 0x89, HR_T0, X86_RSI);
	e_rr(b, 0, 0x89, HR_T1, X86_RDX);
	e_env(b, 1, 0x89, X86_RSP, JOFF(jit_ras));
	e_env(b, 1, 0x8b, X86_RSP, JOFF(jit_sp));
	e_env(b, 0, 0xff, 2, fn);
	e_env(b, 1, 0x8b, X86_RSP, JOFF(jit_ras));
	e_rr(b, 1, 0x89, X86_RAX, HR_T0);
	emit_homes(b, false, false);
	/* test r10, r10 */
	e_rr(b, 1, 0x85, HR_T0, HR_T0);
}

/* As emit_fill_call(), or leaves. */
static void emit_fill(struct jbuf *b, size_t fn, const uint8_t *interp)
{
	emit_fill_call(b, fn);
	/* je; ret */
	uint8_t *none = e_jcc(b, E_CC_Z, NULL);
	e1(b, 0xc3);
	e_patch(none, b->p);
	E_STR(b, "\x48\x83\xc4\x08");
	e_env(b, 1, 0x8b, HR_T1, JOFF(jit_tmp[0]));
	e_jmp(b, interp);
}

/* As emit_fill_call(), for one that ends its block and says where to go on; or leaves. */
static void emit_ring(struct jbuf *b, size_t fn, const uint8_t *interp, const uint8_t *jump)
{
	emit_fill_call(b, fn);
	e_jcc(b, E_CC_NZ, jump);
	e_env(b, 1, 0x8b, HR_T1, JOFF(jit_tmp[0]));
	e_jmp(b, interp);
}

/*
 * A landing that is not this RET's: r10: the target, r11: what makes it the jit_desc() and saves
 * the flags.
 */
static void emit_ras_miss(struct jbuf *b)
{
	/* mov rsp, [jit_ras_base]; call r11 */
	e_env(b, 1, 0x8b, X86_RSP, JOFF(jit_ras_base));
	E_STR(b, "\x41\xff\xd3");
	e_env(b, 1, 0x89, HR_T1, JOFF(jit_tmp[0]));
	jit_emit_jump(b, false);
	e_env(b, 1, 0x8b, HR_T1, JOFF(jit_tmp[0]));
}

/* btc r10, 63: jit_jump_va() */
static void emit_flip(struct jbuf *b)
{
	E_STR(b, "\x49\x0f\xba\xfa\x3f");
}

/*
 * Entries are pairs of struct sjump; the index is a product of the address' lower half.  `way`:
 *which of the pair.
 *
 *	imul r11d, r10d, M; shr r11d, 15; and r11d, (JUMPS - 1) * 64
 *	cmp r10, [va]; jne out
 *	mov r10d, [id]; cmp r10d, [jit_id]; jne back
 *	mov r10, [page]; mov [jit_page], r10; jmp [code]
 */
static void emit_jump_way(struct jbuf *b, unsigned way, bool ac)
{
	size_t at = JOFF(jump) + way * sizeof(struct sjump);

	e_rr(b, 0, 0x69, HR_T1, HR_T0);
	e4(b, SJUMP_MUL);
	E_STR(b, "\x41\xc1\xeb");
	e1(b, SJUMP_SHIFT);
	E_STR(b, "\x41\x81\xe3");
	e4(b, (SJUMPS - 1) * (uint32_t)SJUMP_PAIR);
	if (ac)
		emit_flip(b);
	e_env_r11(b, 1, 0x3b, HR_T0, at + offsetof(struct sjump, va));
	uint8_t *out = e_jcc(b, E_CC_NZ, NULL);
	e_env_r11(b, 0, 0x8b, HR_T0, at + offsetof(struct sjump, id));
	e_env(b, 0, 0x3b, HR_T0, JOFF(jit_id));
	uint8_t *back = e_jcc(b, E_CC_NZ, NULL);
	e_env_r11(b, 1, 0x8b, HR_T0, at + offsetof(struct sjump, page));
	e_env(b, 1, 0x89, HR_T0, JOFF(jit_page));
	e_env_r11(b, 0, 0xff, 4, at + offsetof(struct sjump, code));
	e_patch(back, b->p);
	e_env_r11(b, 1, 0x8b, HR_T0, at + offsetof(struct sjump, va));
	e_patch(out, b->p);
	if (ac)
		emit_flip(b);
}

void jit_emit_jump(struct jbuf *b, bool ac)
{
	emit_jump_way(b, 0, ac);
}

/* r11: number of an exit to another page: r10: its target; or (relink) to C, to be linked. */
static void emit_stale(struct jbuf *b, bool is64, const uint8_t *relink)
{
	/* sub dword [jit_stale], 1; js */
	e_env(b, 0, 0x83, 5, JOFF(jit_stale));
	e1(b, 1);
	e_jcc(b, E_CC_S, relink);
	/* lea r11, [r11 + r11 * 4]; mov r10, [jit_exits]; mov r10, [r10 + r11 * 8] */
	e_rm(b, 1, 0x8d, HR_T1, HR_T1, HR_T1, 2, 0);
	e_env(b, 1, 0x8b, HR_T0, JOFF(jit_exits));
	e_rm(b, 1, 0x8b, HR_T0, HR_T0, HR_T1, 3, 0);
	/* add r10, [jit_page] */
	e_env(b, is64, 0x03, HR_T0, JOFF(jit_page));
}

static uint32_t here(const struct soft_jit *j, const struct jbuf *b)
{
	return (uint32_t)(b->p - j->rw);
}

void jit_thunks(struct scpu *c)
{
	struct soft_jit *j = c->jit;
	struct jbuf b = { j->rw, jit_env(c) };

	j->enter = here(j, &b);
	emit_enter(&b);
	const uint8_t *leave = b.p;
	emit_leave(&b);
	j->exit_link = here(j, &b);
	emit_why(&b, JWHY_LINK, leave);
	j->exit_dead = here(j, &b);
	emit_why(&b, JWHY_DEAD, leave);
	const uint8_t *interp = b.p;
	j->exit_interp = here(j, &b);
	emit_why(&b, JWHY_INTERP, leave);
	j->ras_miss = here(j, &b);
	emit_ras_miss(&b);
	/* r10: the target; r11: jit_desc() */
	for (unsigned ac = 0; ac < 2; ac++) {
		*(ac ? &j->exit_branch_ac : &j->exit_branch) = here(j, &b);
		e_env(&b, 1, 0x89, HR_T1, JOFF(jit_tmp[0]));
		emit_jump_way(&b, 1, ac);
		e_env(&b, 1, 0x8b, HR_T1, JOFF(jit_tmp[0]));
		e_env(&b, 1, 0x89, HR_T0, JOFF(rip));
		emit_why(&b, JWHY_BRANCH, leave);
	}
	for (unsigned ac = 0; ac < 2; ac++) {
		j->stale[0][ac] = here(j, &b);
		emit_stale(&b, false, j->rw + j->exit_link);
		uint8_t *over = e_jmp(&b, NULL);
		j->stale[1][ac] = here(j, &b);
		emit_stale(&b, true, j->rw + j->exit_link);
		e_patch(over, b.p);
		*(ac ? &j->jump_ac : &j->jump) = here(j, &b);
		emit_jump_way(&b, 0, ac);
		emit_jump_way(&b, 1, ac);
		e_env(&b, 1, 0x89, HR_T0, JOFF(rip));
		emit_why(&b, JWHY_JUMP, leave);
	}
	j->fill_r = here(j, &b);
	emit_fill(&b, JOFF(jit_fill[0]), interp);
	j->fill_w = here(j, &b);
	emit_fill(&b, JOFF(jit_fill[1]), interp);
	for (unsigned w = 0; w < 2; w++) {
		*(w ? &j->fill_group_w : &j->fill_group_r) = here(j, &b);
		emit_fill_call(&b, JOFF(jit_fill[w]));
		e1(&b, 0xc3);
	}
	j->str = here(j, &b);
	emit_fill(&b, JOFF(jit_fill[2]), interp);
	j->syscall = here(j, &b);
	emit_ring(&b, JOFF(jit_fill[3]), interp, j->rw + j->jump);
	j->sysret = here(j, &b);
	emit_ring(&b, JOFF(jit_fill[4]), interp, j->rw + j->jump);
	j->load_vec = here(j, &b);
	emit_load_vec(&b);
	j->load_x87 = here(j, &b);
	emit_load_x87(&b);
	j->used = (here(j, &b) + 63u) & ~63u;
}
