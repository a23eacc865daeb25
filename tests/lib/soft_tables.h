/*
 * Descriptor tables for the machine of soft_rig.h: a GDT, an IDT with handlers that tell their
 * vector, two TSSs and a ring 0 stack.
 */
#pragma once

#include "lib/soft_rig.h"

enum {
	GDT = 0x3000,
	IDT = 0x4000,
	TSS = 0x5000,
	TSS2 = 0x5100,
	STACK0 = 0x6800,
};

static inline uint64_t desc(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
	       (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)flags << 52 |
	       (uint64_t)(base >> 24) << 56;
}

static inline void set_gdt(unsigned n, uint64_t d)
{
	st_le64(rig.ram + GDT + 8 * n, d);
}

/* 1 code0, 2 data0, 3 code3, 4 data3 (flat), 5 TSS, 6 second TSS. */
static inline void standard_gdt(unsigned code_flags)
{
	set_gdt(0, 0);
	set_gdt(1, desc(0, 0xfffff, 0x9b, code_flags));
	set_gdt(2, desc(0, 0xfffff, 0x93, 0xc));
	set_gdt(3, desc(0, 0xfffff, 0xfb, code_flags));
	set_gdt(4, desc(0, 0xfffff, 0xf3, 0xc));
	set_gdt(5, desc(TSS, 0xff, 0x8b, 0));
	set_gdt(6, desc(TSS2, 0x67, 0x89, 0));
}

static inline void set_gate32(unsigned vector, uint32_t off, uint16_t sel, unsigned access)
{
	st_le64(rig.ram + IDT + 8 * vector, (off & 0xffff) | (uint64_t)sel << 16 |
						    (uint64_t)access << 40 |
						    (uint64_t)(off >> 16) << 48);
}

static inline void set_gate64(unsigned vector, uint64_t off, uint16_t sel, unsigned access,
			      unsigned ist)
{
	st_le64(rig.ram + IDT + 16 * vector, (off & 0xffff) | (uint64_t)sel << 16 |
						     (uint64_t)ist << 32 | (uint64_t)access << 40 |
						     (off >> 16 & 0xffff) << 48);
	st_le64(rig.ram + IDT + 16 * vector + 8, off >> 32);
}

/* Tables and TSS of a running machine at ring 0. */
static inline struct cpu_state *with_tables(struct cpu_state *s, uint16_t idt_limit)
{
	s->gdt = (struct cpu_table){ GDT, 0x7f };
	s->idt = (struct cpu_table){ IDT, idt_limit };
	s->tr = (struct cpu_seg){ .base = TSS, .limit = 0xff, .attr = 0x8b, .sel = 0x28 };
	return s;
}

static inline void prot_with_tables(uint64_t ip)
{
	standard_gdt(0xc);
	soft_rig_prot(ip);
	soft_rig_set(0, with_tables(soft_rig_get(0), 0x7ff));
}

static inline void long_with_tables(uint64_t ip)
{
	standard_gdt(0xa);
	soft_rig_long(ip);
	soft_rig_set(0, with_tables(soft_rig_get(0), 0xfff));
}

/* Handlers at 0x2000 + 16 * vector: write the vector and leave. */
static inline void handlers(bool is64)
{
	for (unsigned v = 0; v < 32; v++) {
		/* mov $v, %al; out %al, $0xf4; hlt */
		const uint8_t code[] = { 0xb0, (uint8_t)(0x80 | v), 0xe6, 0xf4, 0xf4 };

		rig_put(0x2000 + 16 * v, code, sizeof(code));
		if (is64)
			set_gate64(v, 0x2000 + 16 * v, 8, 0x8e, 0);
		else
			set_gate32(v, 0x2000 + 16 * v, 8, 0x8e);
	}
}
