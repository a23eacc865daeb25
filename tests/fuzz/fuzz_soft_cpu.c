/*
 * The software CPU: any code on any state, in every mode.  Up to some dozens of instructions are
 * stepped; exceptions go through whatever the input left as an IDT.  What must hold is that nothing
 * outside guest RAM is touched (AddressSanitizer) and that the CPU's own invariants do.
 */
#include "accel/soft/mem.h"
#include "accel/soft/soft.h"
#include "accel/soft/sys_int.h"
#include "fuzz/input.h"

#include <stdlib.h>
#include <string.h>

enum {
	FUZZ_RAM = 1 << 20,
	FUZZ_STEPS = 48,
	CODE_AT = 0x1000,
	TABLES_AT = 0x8000,
	TABLE_PAGES = 8,
};

static struct gmem mem;
static struct bus mmio, pio;
static struct accel_vm *vm;
static struct accel_vcpu *vcpu;
static struct cpu_state power_on;
static uint8_t *ram;

static void setup(void)
{
	struct err e = { 0 };
	const struct accel_opts o = { .ncpus = 1, .gmem = &mem, .mmio = &mmio, .pio = &pio };

	gmem_init(&mem);
	bus_init(&mmio, BUS_MMIO);
	bus_init(&pio, BUS_PIO);
	if (gmem_add(&mem, "ram", 0, FUZZ_RAM, -1, 0, false, &e) < 0 ||
	    accel_vm_new(&accel_soft, &o, &vm, &e) < 0 || accel_vcpu_new(vm, 0, &vcpu, &e) < 0 ||
	    accel_get(vcpu, &power_on, &e) < 0)
		__builtin_trap();
	ram = gmem_at(&mem, 0, FUZZ_RAM);
}

/* A segment of the mode; now and then any at all. */
static struct cpu_seg fuzz_seg(struct input *in, uint32_t attr)
{
	struct cpu_seg s = { .sel = (uint16_t)in8(in) & 0x7f, .limit = 0xffffffff, .attr = attr };

	if (in8(in) < 16) {
		s.base = in_le(in, 4);
		s.limit = in_le(in, 4);
		s.attr = in_le(in, 4);
	}
	return s;
}

static uint64_t fuzz_reg(struct input *in)
{
	switch (in8(in) & 7) {
	case 0:
		return in_le(in, 8);
	case 1:
		return (uint64_t)in8(in) << 56 | in_le(in, 4);
	case 2:
		return ~(uint64_t)in_le(in, 2);
	default:
		return in_le(in, 4) & (2 * FUZZ_RAM - 1);
	}
}

/* Page tables: the first maps the low 2 MiB to itself, the rest is the input's. */
static void fuzz_tables(struct input *in, bool wide)
{
	uint64_t t = TABLES_AT;

	for (unsigned n = 0; n < TABLE_PAGES; n++) {
		for (unsigned k = 0; k < 4; k++) {
			uint64_t e = (in_le(in, 4) & 0xfff) |
				     (TABLES_AT + (uint64_t)(in8(in) % TABLE_PAGES) * 4096);

			if (in8(in) < 8)
				e = in_le(in, 8);
			if (wide)
				memcpy(ram + t + n * 4096 + k * 8, &e, 8);
			else
				memcpy(ram + t + n * 4096 + k * 4, &e, 4);
		}
	}
	const uint64_t to[] = { (t + 0x1000) | 7, (t + 0x2000) | 7, 0x87 };
	for (unsigned n = 0; n < 3; n++)
		memcpy(ram + t + n * 4096, &to[n], wide ? 8 : 4);
	if (!wide)
		memcpy(ram + t, &to[2], 4);
}

static void fuzz_mode(struct input *in, struct cpu_state *s)
{
	unsigned mode = in8(in) % 6;
	bool paging = mode >= 3;

	s->cr0 = X86_CR0_ET | X86_CR0_NE | (mode ? X86_CR0_PE : 0) | (paging ? X86_CR0_PG : 0) |
		 (in8(in) & 1 ? X86_CR0_WP | X86_CR0_AM : 0);
	s->cr4 = (in_le(in, 4) & ~(uint64_t)X86_CR4_PAE) | X86_CR4_OSFXSR | X86_CR4_OSXSAVE |
		 (mode >= 4 ? X86_CR4_PAE : 0);
	s->efer = mode == 5 ? X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_SCE : 0;
	s->cr3 = TABLES_AT;
	s->xcr0 = 7;
	for (unsigned n = 0; n < 4; n++)
		s->pdptr[n] = (TABLES_AT + 0x1000) | 1;
	uint32_t dpl = in8(in) & 3u;
	for (unsigned n = 0; n < 6; n++) {
		uint32_t attr = 0xc093 | dpl << 5;

		if (n == X86_CS)
			attr = (mode == 5 && in8(in) & 3 ? 0xa09bu : 0xc09bu) | dpl << 5;
		s->seg[n] = fuzz_seg(in, mode ? attr : 0x93);
	}
	s->rflags = 2 | (in_le(in, 4) & 0x277fd5);
	if (mode != 2)
		s->rflags &= ~X86_FL_VM;
	s->gdt = (struct cpu_table){ 0x3000, 0xff };
	s->idt = (struct cpu_table){ mode ? 0x4000 : 0, (uint16_t)(in_le(in, 2) | 0xff) };
	s->tr = (struct cpu_seg){ .base = 0x5000, .limit = 0x2067, .attr = 0x8b, .sel = 0x28 };
	fuzz_tables(in, mode >= 4);
}

static void check(const struct scpu *c)
{
	if (c->gpr[SREG_NONE] || c->cpl > 3 ||
	    (c->code_size != 16 && c->code_size != 32 && c->code_size != 64) ||
	    c->rflags & X86_FL_STATUS || !(c->rflags & X86_FL_FIXED))
		__builtin_trap();
}

static void step(struct scpu *c)
{
	c->run->trap_set = true;
	if (!setjmp(c->trap)) {
		run_one(c);
	} else {
		c->run->ext = false;
		soft_excl_end(c);
	}
	while (c->ev.exc_pending)
		if (!exc_deliver(c)) {
			c->ev.exc_pending = 0;
			c->run->delivering = -1;
			break;
		}
	c->run->delivering = -1;
	c->run->trap_set = false;
	code_finish(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct cpu_state s;
	struct input in = { data, size };
	struct err e = { 0 };

	if (!ram)
		setup();
	struct scpu *c = (struct scpu *)(void *)vcpu;
	memset(ram, 0, FUZZ_RAM);
	s = power_on;
	fuzz_mode(&in, &s);
	for (unsigned n = 0; n < 16; n++)
		s.gpr[n] = fuzz_reg(&in);
	s.rip = CODE_AT + (in8(&in) & 0xfff);
	/* GDT, IDT and TSS, then code. */
	for (unsigned n = 0; n < 0x80; n += 8) {
		uint64_t d = in_le(&in, 8);

		memcpy(ram + 0x3000 + n, &d, 8);
	}
	for (unsigned n = 0; n < 0x40; n++)
		ram[0x4000 + 4 * n + (n & 3)] = in8(&in);
	for (uint64_t at = s.rip; in.left && at < 0x3000; at++)
		ram[at] = in8(&in);
	if (accel_set(vcpu, &s, &e) < 0)
		__builtin_trap();
	sync_enter(c);
	for (unsigned n = 0; n < FUZZ_STEPS; n++) {
		step(c);
		check(c);
	}
	sync_leave(c);
	return 0;
}
