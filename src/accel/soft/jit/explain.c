/*
 * A translated block for people: each guest instruction, beneath it the host's instructions that it
 * became, what each of them is there for, and how many samples hit it.
 */
#include "accel/soft/jit/prof_int.h"

#include "accel/soft/code_int.h"
#include "accel/soft/disasm.h"
#include "base/num.h"

#include <string.h>

/* ---- fixed pieces ---- */

#define THUNK(name)                                    \
	{                                              \
#name, offsetof(struct soft_jit, name) \
	}
const struct jit_thunk jit_thunk_name[JIT_THUNKS] = {
	THUNK(enter),          THUNK(fill_r),      THUNK(fill_w),
	THUNK(exit_link),      THUNK(exit_interp), THUNK(exit_branch),
	THUNK(exit_branch_ac), THUNK(exit_dead),   THUNK(jump),
	THUNK(jump_ac),        THUNK(str),         THUNK(syscall),
	THUNK(sysret),         THUNK(load_vec),    THUNK(load_x87),
	THUNK(ras_miss),
};

uint32_t jit_thunk_at(const struct soft_jit *j, unsigned n)
{
	uint32_t off;

	memcpy(&off, (const uint8_t *)j + jit_thunk_name[n].at, sizeof(off));
	return off;
}

unsigned jit_thunk_of(const struct soft_jit *j, uint32_t off)
{
	unsigned best = 0;

	for (unsigned k = 0; k < JIT_THUNKS; k++)
		if (jit_thunk_at(j, k) <= off && jit_thunk_at(j, k) >= jit_thunk_at(j, best))
			best = k;
	return best;
}

/* ---- names ---- */

void prof_mode_text(uint32_t mode, char ret[16])
{
	snprintf(ret, 16, "%s%s", mode & JM_USER ? "user" : "kernel", mode & JM_64 ? "64" : "32");
}

/* Of struct scpu, what translated code uses. */
#define FIELD(f)                                           \
	{                                                  \
#f, JOFF(f), sizeof(((struct scpu *)0)->f) \
	}
static const struct {
	const char *name;
	size_t off, size;
} fields[] = {
	FIELD(gpr),          FIELD(fl),
	FIELD(rflags),       FIELD(sbase),
	FIELD(exit_req),     FIELD(jit_id),
	FIELD(jit_vec),      FIELD(jit_x87),
	FIELD(jit_page),     FIELD(jit_tmp),
	FIELD(jit_sp),       FIELD(jit_ras),
	FIELD(jit_ras_base), FIELD(jit_self),
	FIELD(jit_pauses),   FIELD(irq_waits),
	FIELD(tlb),          FIELD(mmu_index),
	FIELD(ymm),          FIELD(fx),
	FIELD(mxcsr),        FIELD(kernel_gs_base),
	FIELD(tsc_offset),   FIELD(tsc_aux),
	FIELD(seg),          FIELD(mmu),
};

static const char *const gpr_names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					   "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

static void tlb_text(size_t off, char *ret, size_t size)
{
	static const char *const who[SMMUS] = { "kernel", "user", "kernel-ac" };
	size_t set = off / sizeof(struct stlb_set), in = off % sizeof(struct stlb_set);
	bool w = in >= offsetof(struct stlb_set, w);

	snprintf(ret, size, "%s %s %s", who[set], w ? "write" : "read",
		 in % sizeof(struct stlb) == offsetof(struct stlb, tag) ? "tag" : "addend");
}

/* What lies at this address of the vCPU, or nothing. */
static void env_text(const struct scpu *c, uint64_t at, char *ret, size_t size)
{
	uint64_t off = at - (uintptr_t)c;

	*ret = 0;
	if (off - JOFF(tlbs) < sizeof(c->tlbs)) {
		tlb_text(off - JOFF(tlbs), ret, size);
	} else if (off - JOFF(jump) < SJUMPS * (uint64_t)SJUMP_PAIR) {
		snprintf(ret, size, "jump cache");
	} else if (off - JOFF(gpr) < 16 * 8) {
		snprintf(ret, size, "guest %s", gpr_names[(off - JOFF(gpr)) / 8]);
	} else {
		for (unsigned k = 0; k < COUNT_OF(fields); k++)
			if (off - fields[k].off < fields[k].size)
				snprintf(ret, size, "%s", fields[k].name);
	}
}

/* Where a branch of b's code leads. */
static void target_text(const struct prof_vcpu *v, const struct prof_block *b, uint64_t to,
			char *ret, size_t size)
{
	const struct soft_jit *j = v->c->jit;
	uint64_t off = to - (uintptr_t)j->rx;

	*ret = 0;
	if (off - b->host_off < b->host_len) {
		snprintf(ret, size, "+%03x", (unsigned)(off - b->host_off));
		return;
	}
	if (off < j->first) {
		snprintf(ret, size, "%s", jit_thunk_name[jit_thunk_of(j, (uint32_t)off)].name);
		return;
	}
	for (uint32_t n = 1; off < j->used && n < j->nblock; n++)
		if (off - v->block[n].host_off < v->block[n].host_len)
			snprintf(ret, size, "block %u", n);
}

/* ---- host code ---- */

static const char *const part_names[PPARTS] = {
	[PPART_ENTRY] = "units?",
	[PPART_INSN] = "",
	[PPART_BODY] = "",
	[PPART_LOOKUP] = "look-up",
	[PPART_SAVE_FLAGS] = "save flags",
	[PPART_LOAD_FLAGS] = "load flags",
	[PPART_EXIT] = "exit",
	[PPART_FILL] = "refill",
	[PPART_INTERP] = "interpret",
	[PPART_UNITS] = "load units",
	[PPART_DEAD] = "died",
};

static void put_hex(FILE *f, const uint8_t *p, unsigned n, unsigned width)
{
	for (unsigned k = 0; k < n; k++)
		fprintf(f, "%02x", p[k]);
	fprintf(f, "%*s ", n < width ? (int)(width - n) * 2 : 0, "");
}

/* The note behind an instruction: the one 32-bit address in it that means something. */
static void host_note(const struct prof_vcpu *v, const struct prof_block *b, const uint8_t *p,
		      unsigned len, uint64_t at, char *ret, size_t size)
{
	struct insn i;

	*ret = 0;
	if (soft_decode(p, len, 64, &i) <= 0)
		return;
	if (i.flags & INSN_MEM && i.base != SREG_RIP)
		env_text(v->c, (uint64_t)i.disp, ret, size);
	if (insn_forms[i.form].opnd[0].kind == OPND_REL)
		target_text(v, b, at + i.len + i.imm, ret, size);
}

/* Host instructions of [from, to) of the block's code. */
static void put_host(FILE *f, const struct prof_vcpu *v, const struct prof_block *b, unsigned from,
		     unsigned to, const char *part)
{
	const struct soft_jit *j = v->c->jit;

	while (from < to) {
		uint32_t off = b->host_off + from;
		uint64_t at = (uintptr_t)j->rx + off, hits = 0;
		char text[DISASM_TEXT], note[64], samples[24] = "";
		unsigned len = soft_disasm(j->rw + off, to - from, 64, at, text);

		for (unsigned k = 0; v->at && k < len; k++)
			hits += v->at[off + k];
		if (hits)
			snprintf(samples, sizeof(samples), "%lu", (unsigned long)hits);
		host_note(v, b, j->rw + off, len, at, note, sizeof(note));
		fprintf(f, "%8s   +%03x ", samples, from);
		put_hex(f, j->rw + off, len, 11);
		fprintf(f, "%-40s%s%s%s%s\n", text, *part || *note ? " ; " : "", part,
			*part && *note ? ": " : "", note);
		from += len;
	}
}

/* ---- guest code ---- */

static const uint8_t *guest_page(const struct scpu *c, uint64_t gpa)
{
	const struct soft_shared *sh = soft_sh(c);

	for (unsigned n = 0; n < sh->nmap; n++)
		if (gpa - sh->map[n].gpa < sh->map[n].len)
			return sh->map[n].host + ((gpa & ~0xfffull) - sh->map[n].gpa);
	return NULL;
}

/* Instruction k, of which the block's table says where it is. */
static void put_guest(FILE *f, const struct prof_vcpu *v, uint32_t n, unsigned k, uint64_t lin)
{
	const struct prof_block *b = &v->block[n];
	const uint8_t *page = guest_page(v->c, b->gpa);
	unsigned off = v->c->jit->block[n].at[k];
	char text[DISASM_TEXT];

	if (!page)
		return;
	lin = (lin & ~0xfffull) + off;
	unsigned len = soft_disasm(page + off, 4096 - off, b->code_size, lin, text);
	fprintf(f, "  %016lx ", (unsigned long)lin);
	put_hex(f, page + off, len, 8);
	fprintf(f, "%s\n", text);
}

static void put_head(FILE *f, const struct prof_vcpu *v, uint32_t n, uint64_t lin)
{
	const struct prof_block *b = &v->block[n];
	char mode[16], sym[128];
	uint64_t hits = 0;

	for (uint32_t k = 0; v->at && k < b->host_len; k++)
		hits += v->at[b->host_off + k];
	prof_mode_text(b->mode, mode);
	prof_symbol_text(v->p, lin, sym, sizeof(sym));
	fprintf(f,
		"block %u of vCPU %u at %lx%s%s%s (physical %lx), %s, mode %#x: %u instructions, "
		"%u "
		"bytes, became %u bytes; %lu samples\n",
		n, v->c->v.index, (unsigned long)lin, *sym ? " (" : "", sym, *sym ? ")" : "",
		(unsigned long)b->gpa, mode, b->mode, b->n, b->len, b->host_len,
		(unsigned long)hits);
}

void prof_explain(FILE *f, const struct prof_vcpu *v, uint32_t n, uint64_t lin)
{
	const struct prof_block *b = &v->block[n];
	unsigned last = UINT32_MAX;

	put_head(f, v, n, lin);
	for (uint32_t k = 0; k < b->nmark; k++) {
		const struct prof_mark *m = &v->mark[b->mark + k];
		unsigned end = k + 1 < b->nmark ? m[1].off : b->host_len;

		/* An instruction begins, or cold parts of another one do. */
		if (m->part == PPART_INSN || (m->part >= PPART_EXIT && m->k != last &&
					      m->part != PPART_DEAD && m->part != PPART_UNITS))
			put_guest(f, v, n, m->k, lin);
		last = m->k;
		put_host(f, v, b, m->off, end, part_names[m->part]);
	}
	fputc('\n', f);
}
