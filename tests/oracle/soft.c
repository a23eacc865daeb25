/*
 * A case on the software CPU: a real VM of engine soft, whose one vCPU is brought into 64-bit mode
 * at CPL 3 with page tables that map the oracle's data pages.  The case's code is decoded, bound
 * and executed as a block, without the run loop: what is compared is what instructions do.
 */
#include "oracle.h"

#include "accel/soft/code_int.h"
#include "accel/soft/jit/jit_int.h"
#include "accel/soft/sys_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	RAM = 4 << 20,
	/* Page tables, data pages. */
	PT_GPA = 0x10000,
	DATA_GPA = 0x100000,
};

static struct gmem ram;
static struct bus mmio, pio;
/* One for each size of code; the one in use. */
static struct scpu *cpu64, *cpu32, *cpu16, *cpu;
static uint8_t *data;
static struct insn block[ORC_INSNS + 2];
static struct err er;
static struct accel_vm *vm;
/* The case's code in its page, and the block that decoding made of it, for the translator. */
static uint8_t page[4096 + 16];
static struct sblock sblock, *const sb = &sblock;
bool orc_jit;
static unsigned long not_translated;

static void check(int rc)
{
	if (rc < 0) {
		fprintf(stderr, "oracle: %s\n", er.msg);
		abort();
	}
}

/* PML4, PDPT, PD, PT for the first 512 pages from ORC_DATA. */
static void page_tables(void)
{
	uint64_t *t = gmem_at(&ram, PT_GPA, 0x4000);

	for (unsigned level = 0; level < 3; level++) {
		unsigned slot = (unsigned)((uint64_t)ORC_DATA >> (39 - 9 * level) & 511);

		t[512 * level + slot] = (PT_GPA + 0x1000 * (level + 1)) | X86_PTE_P | X86_PTE_W |
					X86_PTE_U | X86_PTE_A;
	}
	for (unsigned k = 0; k < ORC_DATA_PAGES; k++)
		t[512 * 3 + k] =
			(DATA_GPA + 0x1000 * k) | X86_PTE_P | X86_PTE_U | (k < 2 ? X86_PTE_W : 0);
}

static void user_mode(struct cpu_state *s, unsigned bits)
{
	const uint32_t attr = SEG_S | SEG_P | 3 << SEG_DPL_SHIFT | SEG_G;

	s->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_NE | X86_CR0_MP | X86_CR0_ET | X86_CR0_WP;
	s->cr3 = PT_GPA;
	s->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
	s->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
	s->xcr0 = X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX;
	for (unsigned k = 0; k < 6; k++)
		s->seg[k] = (struct cpu_seg){ .limit = ~0u, .attr = attr | 3 | SEG_DB };
	s->seg[X86_CS].attr = attr | 11 | (bits == 64 ? SEG_L : bits == 32 ? SEG_DB : 0u);
	s->seg[X86_CS].sel = bits == 64 ? 0x33 : bits == 32 ? 0x23 : ORC_CS16;
	s->seg[X86_SS].sel = 0x2b;
	/* As native_stub.S leaves them. */
	if (bits == 32)
		s->seg[X86_DS].sel = s->seg[X86_ES].sel = 0x2b;
	if (bits == 16)
		s->seg[X86_DS] = s->seg[X86_ES] = s->seg[X86_SS] =
			(struct cpu_seg){ .base = ORC_BASE16,
					  .limit = 0xffff,
					  .attr = (attr & ~(uint32_t)SEG_G) | 3,
					  .sel = ORC_DS16 };
	s->seg[X86_GS].base = ORC_GS;
	/* No I/O bitmap: ports are forbidden. */
	s->tr.limit = 16;
}

static struct scpu *cpu_make(unsigned index, unsigned bits)
{
	struct cpu_state *s = calloc(1, sizeof(*s));
	struct accel_vcpu *v;
	struct scpu *c;

	check(accel_vcpu_new(vm, index, &v, &er));
	check(accel_get(v, s, &er));
	user_mode(s, bits);
	check(accel_set(v, s, &er));
	free(s);
	c = (struct scpu *)(void *)v;
	/* Every form that the host has, also those that soft does not offer to guests. */
	cpuid_host(&c->v.cpuid);
	c->run->trap_set = true;
	return c;
}

void orc_soft_init(void)
{
	struct accel_opts o = {
		.ncpus = 3, .gmem = &ram, .mmio = &mmio, .pio = &pio, .cpu_model = "host"
	};
	const struct accel *soft;
	char why[256];

	gmem_init(&ram);
	check(gmem_add(&ram, "ram", 0, RAM, -1, 0, false, &er));
	bus_init(&mmio, BUS_MMIO);
	bus_init(&pio, BUS_PIO);
	check(accel_choose("soft", &soft, why, &er));
	check(accel_vm_new(soft, &o, &vm, &er));
	page_tables();
	data = gmem_at(&ram, DATA_GPA, 0x1000 * ORC_DATA_PAGES);
	for (unsigned k = 0; k < 0x1000; k++)
		data[0x2000 + k] = (uint8_t)(k * 7);
	cpu64 = cpu_make(0, 64);
	cpu32 = cpu_make(1, 32);
	cpu16 = cpu_make(2, 16);
	cpu = cpu64;
	sync_enter(cpu);
}

/* One at a time counts as running: an exclusive section waits for the others. */
static void use(struct scpu *c)
{
	if (c == cpu)
		return;
	sync_leave(cpu);
	cpu = c;
	sync_enter(cpu);
}

static void mem_in(const uint8_t *from)
{
	memcpy(data + 0x1000 - 512, from, 1024);
	memcpy(data + 0x2000 - 512, from + 1024, 512);
}

static void mem_out(uint8_t *mem)
{
	memcpy(mem, data + 0x1000 - 512, 1024);
	memcpy(mem + 1024, data + 0x2000 - 512, 512);
}

/* The bytes become a block as code.c makes them. */
static unsigned make_block(const uint8_t *code, unsigned len)
{
	unsigned off = 0, n = 0;

	if (soft_host_full(cpu->host))
		soft_host_reset(cpu->host);
	for (; off < len; n++) {
		struct insn *i = &block[n];
		int l = soft_decode(code + off, len - off, cpu->code_size, i);

		if (l < 0)
			abort();
		i->off = (uint16_t)off;
		if (i->base == SREG_RIP)
			i->disp += off;
		soft_bind(cpu, i, code + off, cpu->code_size);
		off += (unsigned)l;
	}
	block[n] = (struct insn){ .fn = soft_block_end, .off = (uint16_t)off };
	return n;
}

static void state_in(const struct orc_state *s)
{
	memcpy(cpu->gpr, s->gpr, sizeof(s->gpr));
	cpu->gpr[SREG_RIP] = s->rip;
	soft_rflags_set(cpu, X86_FL_IF | s->rflags);
	memcpy(cpu->ymm, s->ymm, sizeof(cpu->ymm));
	memcpy(cpu->fx, s->fx, sizeof(cpu->fx));
	cpu->mxcsr = s->mxcsr;
	cpu->ev.exc_pending = 0;
	cpu->cr2 = 0;
}

static void state_out(struct orc_state *s)
{
	memcpy(s->gpr, cpu->gpr, sizeof(s->gpr));
	s->rip = cpu->rip;
	s->rflags = soft_rflags_get(cpu);
	memcpy(s->ymm, cpu->ymm, sizeof(cpu->ymm));
	memcpy(s->fx, cpu->fx, sizeof(s->fx));
	s->mxcsr = cpu->mxcsr;
	s->vector = cpu->ev.exc_pending ? cpu->ev.exc_vector : -1;
	s->err = cpu->ev.exc_pending ? cpu->ev.exc_err : 0;
	s->cr2 = cpu->cr2;
	/* See native_halves(). */
	if (cpu == cpu16)
		s->gpr[X86_RSP] = (uint16_t)s->gpr[X86_RSP];
}

/* ---- the translator ---- */

/* A block of instructions from `from` on; what is before them did run. */
static uint32_t translate(const struct orc_case *c, unsigned from, unsigned n, uint32_t mode)
{
	unsigned off = (c->rip & 4095) + block[from].off;

	*sb = (struct sblock){
		.off = (uint16_t)off,
		.len = (uint16_t)(c->len - block[from].off),
		.n = (uint8_t)(n - from),
		.code_size = cpu->code_size,
	};
	struct insn *to = code_insns_new(cpu, sb);
	memcpy(to, &block[from], (n - from) * sizeof(block[0]));
	for (unsigned k = 0; k < n - from; k++) {
		to[k].off = (uint16_t)(to[k].off - block[from].off);
		if (to[k].base == SREG_RIP)
			to[k].disp -= block[from].off;
	}
	code_insns_end(cpu, sb);
	if (!mode)
		return 0;
	if (jit_full(cpu))
		jit_drop_all(cpu);
	return jit_translate(cpu, sb, page, mode);
}

/* From instruction k on: until it leaves, or the interpreter did one, or the rest is to be run with
 * single look-ups; true: go on where RIP is. */
static bool translated(const struct orc_case *c, unsigned k, unsigned n)
{
	uint32_t single = cpu->jit_single, mode = jit_mode(cpu) ? jit_mode(cpu) | single : 0;
	uint32_t j = translate(c, k, n, mode);

	cpu->rip = c->rip + block[k].off;
	if (!j) {
		struct insn one[2] = { block[k], { .fn = soft_block_end } };

		one[1].off = (uint16_t)(one[0].off + one[0].len);
		not_translated++;
		one[0].fn(cpu, one);
		return true;
	}
	__atomic_store_n(&cpu->exit_req, 0, __ATOMIC_RELAXED);
	jit_forget_exit(cpu);
	jit_go(cpu, j, mode);
	return cpu->jit_why == JWHY_INTERP || cpu->jit_single;
}

static void run_all_translated(const struct orc_case *c, unsigned n)
{
	unsigned k = 0;

	while (translated(c, k, n)) {
		bool again = cpu->rip == c->rip + block[k].off;

		/* The one after that which was interpreted; or the same, a string or one that is to
		 * be run with single look-ups. */
		while (k < n && c->rip + block[k].off != cpu->rip)
			k++;
		if (k == n ||
		    (again && !cpu->jit_single && insn_forms[block[k].form].class != INSC_STR))
			return;
		cpu->gpr[SREG_RIP] = c->rip;
	}
}

static void run_translated(const struct orc_case *c, unsigned n)
{
	memcpy(page + (c->rip & 4095), c->code, c->len);
	if (!setjmp(cpu->trap))
		run_all_translated(c, n);
}

/* Until it leaves: a string instruction may want to be continued. */
static void run_block(const struct orc_case *c)
{
	bool string = insn_forms[c->form].class == INSC_STR;

	if (setjmp(cpu->trap))
		return;
	do
		block[0].fn(cpu, block);
	while (string && cpu->rip == c->rip);
}

void orc_soft_fini(void)
{
	struct scpu *all[] = { cpu64, cpu32, cpu16 };

	sync_leave(cpu);
	for (unsigned k = 0; k < COUNT_OF(all); k++)
		if (all[k])
			accel_vcpu_free(&all[k]->v);
	accel_vm_free(vm);
	gmem_fini(&ram);
	bus_fini(&mmio);
	bus_fini(&pio);
}

unsigned long orc_not_translated(void)
{
	return not_translated;
}

void orc_soft_run(const struct orc_case *c, struct orc_result *ret)
{
	use(c->bits == 64 ? cpu64 : c->bits == 32 ? cpu32 : cpu16);
	state_in(&c->in);
	mem_in(c->mem);
	unsigned n = make_block(c->code, c->len);

	if (orc_jit)
		run_translated(c, n);
	else
		run_block(c);
	state_out(&ret->s);
	mem_out(ret->mem);
}

static void bench(const char *name, const char *code, unsigned len)
{
	const uint64_t rounds = 5000000;
	struct timespec a, b;
	unsigned n = make_block((const uint8_t *)code, len);

	cpu->gpr[SREG_RIP] = ORC_CODE;
	cpu->gpr[X86_RSI] = ORC_DATA + 64;
	cpu->gpr[X86_RDI] = ORC_DATA + 128;
	cpu->gpr[X86_RSP] = ORC_DATA + 256;
	cpu->gpr[X86_RCX] = rounds;
	cpu->mxcsr = 0x1f80;
	memcpy(cpu->fx, "\x7f\x03\0\0\0", 5);
	clock_gettime(CLOCK_MONOTONIC, &a);
	if (!setjmp(cpu->trap)) {
		do
			block[0].fn(cpu, block);
		while (cpu->rip == ORC_CODE);
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	printf("%-16s %6.2f ns/insn\n", name,
	       ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) /
		       (double)rounds / n);
}

void orc_soft_bench(void)
{
#define BENCH(name, code) bench(name, code, sizeof(code) - 1)
	/* Each ends in dec %rcx; jnz to its beginning. */
	BENCH("alu",
	      "\x48\x01\xc8\x48\x29\xd0\x48\x31\xc3\x48\x21\xd8\x48\x39\xc3\x48\xff\xc9\x75\xec");
	BENCH("alu 16 bit", "\x66\x01\xc8\x66\x29\xd0\x66\x31\xc3\x66\x21\xd8\x48\xff\xc9\x75\xef");
	BENCH("mov imm, movzx", "\xb8\1\0\0\0\x0f\xb6\xd0\x48\x0f\xbe\xd8\x48\xff\xc9\x75\xef");
	BENCH("load",
	      "\x48\x8b\x06\x48\x8b\x5e\x08\x48\x8b\x56\x10\x48\x8b\x6e\x18\x48\xff\xc9\x75\xec");
	BENCH("store",
	      "\x48\x89\x07\x48\x89\x5f\x08\x48\x89\x57\x10\x48\x89\x6f\x18\x48\xff\xc9\x75\xec");
	BENCH("add to memory", "\x48\x01\x07\x48\x01\x5f\x08\x48\xff\xc9\x75\xf4");
	BENCH("push, pop", "\x50\x53\x5b\x58\x48\xff\xc9\x75\xf7");
	BENCH("lock add", "\xf0\x48\x01\x07\xf0\x48\x01\x5f\x08\x48\xff\xc9\x75\xf2");
	BENCH("paddd", "\x66\x0f\xfe\xc1\x66\x0f\xfe\xc1\x66\x0f\xfe\xc1\x66\x0f\xfe\xc1\x48\xff"
		       "\xc9\x75\xeb");
	BENCH("movdqu load", "\xf3\x0f\x6f\x06\xf3\x0f\x6f\x0e\xf3\x0f\x6f\x06\xf3\x0f\x6f\x0e\x48"
			     "\xff\xc9\x75\xeb");
	BENCH("vpaddd ymm", "\xc5\xfd\xfe\xc1\xc5\xfd\xfe\xc1\xc5\xfd\xfe\xc1\xc5\xfd\xfe\xc1\x48"
			    "\xff\xc9\x75\xeb");
	BENCH("addsd", "\xf2\x0f\x58\xc1\xf2\x0f\x58\xc1\xf2\x0f\x58\xc1\xf2\x0f\x58\xc1\x48\xff"
		       "\xc9\x75\xeb");
	BENCH("fld1, fstp", "\xd9\xe8\xdd\xd8\xd9\xe8\xdd\xd8\x48\xff\xc9\x75\xf3");
}
