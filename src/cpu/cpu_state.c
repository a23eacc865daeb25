/* The table of a vCPU's saved state, its power-on values, and a print for people. */
#include "cpu/cpu_state.h"

#include "base/bytes.h"
#include "cpu/msr.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

/* Saved state. */

static const struct state_field seg_fields[] = {
	STATE_FIELD(struct cpu_seg, base, 1),
	STATE_FIELD(struct cpu_seg, limit, 1),
	STATE_FIELD(struct cpu_seg, attr, 1),
	STATE_FIELD(struct cpu_seg, sel, 1),
};

static const struct state_desc seg_desc = {
	.name = "seg",
	.version = 1,
	.oldest = 1,
	.field = seg_fields,
	.nfield = COUNT_OF(seg_fields),
};

static const struct state_field table_fields[] = {
	STATE_FIELD(struct cpu_table, base, 1),
	STATE_FIELD(struct cpu_table, limit, 1),
};

static const struct state_desc table_desc = {
	.name = "table",
	.version = 1,
	.oldest = 1,
	.field = table_fields,
	.nfield = COUNT_OF(table_fields),
};

static const struct state_field msr_fields[] = {
	STATE_FIELD(struct cpu_msr, index, 1),
	STATE_FIELD(struct cpu_msr, value, 1),
};

static const struct state_desc msr_desc = {
	.name = "msr",
	.version = 1,
	.oldest = 1,
	.field = msr_fields,
	.nfield = COUNT_OF(msr_fields),
};

static const struct state_field events_fields[] = {
	STATE_FIELD(struct cpu_events, exc_pending, 1),
	STATE_FIELD(struct cpu_events, exc_vector, 1),
	STATE_FIELD(struct cpu_events, exc_has_err, 1),
	STATE_FIELD(struct cpu_events, exc_err, 1),
	STATE_FIELD(struct cpu_events, int_pending, 1),
	STATE_FIELD(struct cpu_events, int_vector, 1),
	STATE_FIELD(struct cpu_events, int_soft, 1),
	STATE_FIELD(struct cpu_events, shadow, 1),
	STATE_FIELD(struct cpu_events, nmi_pending, 1),
	STATE_FIELD(struct cpu_events, nmi_masked, 1),
	STATE_FIELD(struct cpu_events, triple_fault, 1),
};

static const struct state_desc events_desc = {
	.name = "events",
	.version = 1,
	.oldest = 1,
	.field = events_fields,
	.nfield = COUNT_OF(events_fields),
};

static const struct state_field cpu_fields[] = {
	STATE_ARRAY(struct cpu_state, gpr, 1),
	STATE_FIELD(struct cpu_state, rip, 1),
	STATE_FIELD(struct cpu_state, rflags, 1),
	STATE_STRUCT_ARRAY(struct cpu_state, seg, &seg_desc, 1),
	STATE_STRUCT_FIELD(struct cpu_state, ldt, &seg_desc, 1),
	STATE_STRUCT_FIELD(struct cpu_state, tr, &seg_desc, 1),
	STATE_STRUCT_FIELD(struct cpu_state, gdt, &table_desc, 1),
	STATE_STRUCT_FIELD(struct cpu_state, idt, &table_desc, 1),
	STATE_FIELD(struct cpu_state, cr0, 1),
	STATE_FIELD(struct cpu_state, cr2, 1),
	STATE_FIELD(struct cpu_state, cr3, 1),
	STATE_FIELD(struct cpu_state, cr4, 1),
	STATE_FIELD(struct cpu_state, cr8, 1),
	STATE_FIELD(struct cpu_state, efer, 1),
	STATE_FIELD(struct cpu_state, apic_base, 1),
	STATE_FIELD(struct cpu_state, xcr0, 1),
	STATE_ARRAY(struct cpu_state, pdptr, 1),
	STATE_ARRAY(struct cpu_state, dr, 1),
	STATE_FIELD(struct cpu_state, dr6, 1),
	STATE_FIELD(struct cpu_state, dr7, 1),
	STATE_FIELD(struct cpu_state, xsave_len, 1),
	STATE_ARRAY(struct cpu_state, xsave, 1),
	STATE_FIELD(struct cpu_state, nmsr, 1),
	STATE_STRUCT_ARRAY(struct cpu_state, msr, &msr_desc, 1),
	STATE_ARRAY(struct cpu_state, lapic, 1),
	STATE_STRUCT_FIELD(struct cpu_state, ev, &events_desc, 1),
	STATE_FIELD(struct cpu_state, mp, 1),
};

static int cpu_check(const void *obj, struct err *e)
{
	const struct cpu_state *s = obj;

	if (s->xsave_len > CPU_XSAVE_MAX)
		return err_set(e, EPROTO, "XSAVE area of %u bytes", s->xsave_len);
	if (s->nmsr > CPU_MSRS)
		return err_set(e, EPROTO, "%u MSRs", s->nmsr);
	if (s->mp > CPU_MP_HALT)
		return err_set(e, EPROTO, "no processor state %u", s->mp);
	if (s->ev.exc_pending && s->ev.exc_vector > 31)
		return err_set(e, EPROTO, "no exception %u", s->ev.exc_vector);
	return 0;
}

const struct state_desc cpu_state_desc = {
	.name = "cpu",
	.version = 1,
	.oldest = 1,
	.field = cpu_fields,
	.nfield = COUNT_OF(cpu_fields),
	.check = cpu_check,
};

/* Power-on. */

/* x87 and SSE state in XSAVE's legacy region (SDM 1 10.5.1, 13.4; SDM 3A table 10-1). */
static void reset_fpu(struct cpu_state *s)
{
	enum {
		FCW = 0,
		/* One bit for each register: not empty. */
		FTW = 4,
		MXCSR = 24,
		MXCSR_MASK = 28,
		XSTATE_BV = 512,
		LEGACY_AND_HEADER = 576,
	};

	st_le16(s->xsave + FCW, 0x40);
	s->xsave[FTW] = 0xff;
	st_le32(s->xsave + MXCSR, 0x1f80);
	st_le32(s->xsave + MXCSR_MASK, 0xffff);
	st_le64(s->xsave + XSTATE_BV, X86_XCR0_X87 | X86_XCR0_SSE);
	s->xsave_len = LEGACY_AND_HEADER;
	s->xcr0 = X86_XCR0_X87;
}

/* SDM 3A 11.4.7.1; the boot CPU's LINT0 passes the 8259's interrupts, as firmware leaves it. */
static void reset_lapic(struct cpu_state *s, bool bsp, uint32_t apic_id)
{
	enum {
		ID = 0x20,
		VERSION = 0x30,
		DFR = 0xe0,
		SVR = 0xf0,
		LVT = 0x320,
		LVT_LINT0 = 0x350,
		LVT_LAST = 0x370,
		MASKED = 0x10000,
		EXTINT = 0x700,
	};

	st_le32(s->lapic + ID, apic_id << 24);
	st_le32(s->lapic + VERSION, 0x01050014);
	st_le32(s->lapic + DFR, 0xffffffff);
	st_le32(s->lapic + SVR, 0xff);
	for (unsigned r = LVT; r <= LVT_LAST; r += 16)
		st_le32(s->lapic + r, MASKED);
	if (bsp)
		st_le32(s->lapic + LVT_LINT0, EXTINT);
}

void cpu_state_reset(struct cpu_state *s, bool bsp, uint32_t apic_id)
{
	const struct cpu_seg data = { .limit = 0xffff, .attr = SEG_P | SEG_S | 3 };

	*s = (struct cpu_state){
		.rip = 0xfff0,
		.rflags = X86_FL_FIXED,
		.ldt = { .limit = 0xffff, .attr = SEG_P | 2 },
		.tr = { .limit = 0xffff, .attr = SEG_P | 11 },
		.gdt = { .limit = 0xffff },
		.idt = { .limit = 0xffff },
		.cr0 = X86_CR0_CD | X86_CR0_NW | X86_CR0_ET,
		.apic_base = X86_APIC_DEFAULT | X86_APIC_BASE_EN | (bsp ? X86_APIC_BASE_BSP : 0),
		.dr6 = X86_DR6_FIXED,
		.dr7 = X86_DR7_FIXED,
		.mp = bsp ? CPU_MP_RUN : CPU_MP_WAIT_SIPI,
	};
	for (unsigned i = 0; i < COUNT_OF(s->seg); i++)
		s->seg[i] = data;
	/* The reset vector: the last 16 bytes below 4 GiB. */
	s->seg[X86_CS].base = 0xffff0000;
	s->seg[X86_CS].sel = 0xf000;
	s->seg[X86_CS].attr = SEG_P | SEG_S | 11;
	for (unsigned i = 0; i < msr_nsaved; i++)
		cpu_state_set_msr(s, msr_saved[i].index, msr_saved[i].reset);
	reset_fpu(s);
	reset_lapic(s, bsp, apic_id);
}

/* MSRs. */

void cpu_state_set_msr(struct cpu_state *s, uint32_t index, uint64_t value)
{
	unsigned i;

	for (i = 0; i < s->nmsr && s->msr[i].index != index; i++)
		;
	if (i == CPU_MSRS)
		return;
	s->msr[i] = (struct cpu_msr){ index, value };
	if (i == s->nmsr)
		s->nmsr++;
}

bool cpu_state_msr(const struct cpu_state *s, uint32_t index, uint64_t *ret)
{
	for (unsigned i = 0; i < s->nmsr; i++) {
		if (s->msr[i].index == index) {
			*ret = s->msr[i].value;
			return true;
		}
	}
	return false;
}

/* Print. */

struct text {
	char *at;
	size_t left;
};

PRINTF(2, 3) static void put(struct text *t, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(t->at, t->left, fmt, ap);
	va_end(ap);
	if (n < 0 || !t->left)
		return;
	size_t used = (size_t)n < t->left ? (size_t)n : t->left - 1;
	t->at += used;
	t->left -= used;
}

static void put_seg(struct text *t, const char *name, const struct cpu_seg *s)
{
	put(t, "%-3s %04x base=%016" PRIx64 " limit=%08x attr=%05x%s\n", name, s->sel, s->base,
	    s->limit, s->attr, s->attr & SEG_UNUSABLE ? " unusable" : "");
}

void cpu_state_print(const struct cpu_state *s, char *ret, size_t size)
{
	static const char *const gpr[16] = {
		"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
		"r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"
	};
	static const char *const seg[6] = { "es", "cs", "ss", "ds", "fs", "gs" };
	static const char *const mp[] = { "running", "waiting for SIPI", "halted" };
	struct text t = { ret, size };

	if (size)
		*ret = 0;
	for (unsigned i = 0; i < 16; i++)
		put(&t, "%-3s %016" PRIx64 "%s", gpr[i], s->gpr[i], i % 4 == 3 ? "\n" : "  ");
	put(&t, "rip %016" PRIx64 "  rflags %08" PRIx64 "  %s\n", s->rip, s->rflags,
	    s->mp < COUNT_OF(mp) ? mp[s->mp] : "?");
	put(&t, "cr0 %08" PRIx64 "  cr2 %016" PRIx64 "  cr3 %016" PRIx64 "  cr4 %08" PRIx64 "\n",
	    s->cr0, s->cr2, s->cr3, s->cr4);
	put(&t, "efer %04" PRIx64 "  cr8 %" PRIx64 "  apic %08" PRIx64 "  xcr0 %" PRIx64 "\n",
	    s->efer, s->cr8, s->apic_base, s->xcr0);
	for (unsigned i = 0; i < 6; i++)
		put_seg(&t, seg[i], &s->seg[i]);
	put_seg(&t, "ldt", &s->ldt);
	put_seg(&t, "tr", &s->tr);
	put(&t, "gdt %016" PRIx64 "/%04x  idt %016" PRIx64 "/%04x\n", s->gdt.base, s->gdt.limit,
	    s->idt.base, s->idt.limit);
	put(&t,
	    "dr  %" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64 "  dr6 %" PRIx64 "  dr7 %" PRIx64
	    "\n",
	    s->dr[0], s->dr[1], s->dr[2], s->dr[3], s->dr6, s->dr7);
	if (s->ev.exc_pending)
		put(&t, "exception %u (error %x) is pending\n", s->ev.exc_vector, s->ev.exc_err);
	if (s->ev.int_pending)
		put(&t, "interrupt %u is pending\n", s->ev.int_vector);
}
