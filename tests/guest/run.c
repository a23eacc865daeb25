/*
 * guest-run PROGRAM [--cpus N] [--real] [--expect-shutdown] [--timeout S] ENGINE...
 *
 * Runs a tiny guest (an ELF file linked at physical addresses, entered as PVH does: flat 32-bit
 * protected mode; or in real mode with --real) on each engine in turn, and says whether it ended
 * well and whether the engines agree: the same text on the console and the same result.
 *
 * ENGINE is a name with options: soft; kvm; kvm,split; kvm,dirty-ring=1024.  One that this host has
 * not is skipped with its reason.  Exit status: 0 all well, 1 not, 77 nothing could run.
 */
#include "guest/tiny.h"

#include "accel/kvm/kvm.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/num.h"
#include "base/str.h"
#include "base/trace.h"

#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	RUN_RAM = 16 << 20,
	RUN_ELF_MAX = 8 << 20,
	RUN_ENGINES = 8,
	RUN_SKIP = 77,
	/* Slower than any hardware. */
	RUN_EMULATED_MIPS = 50,
};

struct run_opts {
	const char *program;
	unsigned cpus, timeout_s;
	bool real, expect_shutdown, verbose, emulated;
	const char *engine[RUN_ENGINES];
	unsigned nengine;
};

struct run_result {
	bool ran, ok;
	char *out;
	size_t out_len;
};

struct run_cpu {
	struct tiny *b;
	unsigned index;
	struct thread t;
};

static int load_segment(struct tiny *b, const uint8_t *file, size_t len, uint64_t gpa, uint64_t off,
			uint64_t filesz, uint64_t memsz, struct err *e)
{
	void *to = gmem_at_w(&b->gmem, gpa, memsz);

	if (!memsz)
		return 0;
	if (!to || filesz > memsz || !range_in(off, filesz, len))
		return err_set(e, ENOEXEC, "segment at %#lx does not fit", (unsigned long)gpa);
	memcpy(to, file + off, filesz);
	return 0;
}

static int load_elf32(struct tiny *b, const uint8_t *f, size_t len, uint64_t *ret, struct err *e)
{
	const Elf32_Ehdr *h = (const void *)f;
	const Elf32_Phdr *p = (const void *)(f + h->e_phoff);

	if (!range_in(h->e_phoff, h->e_phnum * sizeof(*p), len))
		return err_set(e, ENOEXEC, "bad program headers");
	for (unsigned i = 0; i < h->e_phnum; i++)
		if (p[i].p_type == PT_LOAD && load_segment(b, f, len, p[i].p_paddr, p[i].p_offset,
							   p[i].p_filesz, p[i].p_memsz, e) < 0)
			return -ENOEXEC;
	*ret = h->e_entry;
	return 0;
}

static int load_elf64(struct tiny *b, const uint8_t *f, size_t len, uint64_t *ret, struct err *e)
{
	const Elf64_Ehdr *h = (const void *)f;
	const Elf64_Phdr *p = (const void *)(f + h->e_phoff);

	if (!range_in(h->e_phoff, h->e_phnum * sizeof(*p), len))
		return err_set(e, ENOEXEC, "bad program headers");
	for (unsigned i = 0; i < h->e_phnum; i++)
		if (p[i].p_type == PT_LOAD && load_segment(b, f, len, p[i].p_paddr, p[i].p_offset,
							   p[i].p_filesz, p[i].p_memsz, e) < 0)
			return -ENOEXEC;
	*ret = h->e_entry;
	return 0;
}

static int load_elf(struct tiny *b, const char *path, uint64_t *ret_entry, struct err *e)
{
	AUTO_FREE void *data = NULL;
	size_t len = 0;
	int rc = file_read_all(path, RUN_ELF_MAX, &data, &len, e);

	if (rc < 0)
		return rc;
	const uint8_t *f = data;
	if (len < sizeof(Elf64_Ehdr) || memcmp(f, ELFMAG, SELFMAG))
		return err_set(e, ENOEXEC, "'%s' is not an ELF file", path);
	return f[EI_CLASS] == ELFCLASS64 ? load_elf64(b, f, len, ret_entry, e)
					 : load_elf32(b, f, len, ret_entry, e);
}

/* docs of Xen, misc/pvh: flat 32-bit protected mode, no paging, interrupts off. */
static void entry_pvh(struct cpu_state *s, uint64_t entry)
{
	for (unsigned i = 0; i < COUNT_OF(s->seg); i++)
		s->seg[i] = (struct cpu_seg){ .limit = 0xffffffff,
					      .sel = 0x10,
					      .attr = SEG_G | SEG_DB | SEG_P | SEG_S | 3 };
	s->seg[X86_CS].attr = SEG_G | SEG_DB | SEG_P | SEG_S | 0xb;
	s->seg[X86_CS].sel = 8;
	s->cr0 |= X86_CR0_PE;
	s->rip = entry;
}

static void entry_real(struct cpu_state *s, uint64_t entry)
{
	s->seg[X86_CS].base = 0;
	s->seg[X86_CS].sel = 0;
	s->rip = entry;
	s->gpr[X86_RSP] = 0x7000;
}

static int cpu_start_state(struct tiny *b, unsigned i, const struct run_opts *o, uint64_t entry,
			   struct err *e)
{
	struct cpu_state *s = calloc(1, sizeof(*s));

	if (!s)
		return err_set(e, ENOMEM, "no memory");
	cpu_state_reset(s, i == 0, b->vcpu[i]->apic_id);
	if (i == 0 && o->real)
		entry_real(s, entry);
	else if (i == 0)
		entry_pvh(s, entry);
	int rc = accel_set(b->vcpu[i], s, e);
	free(s);
	return rc;
}

/* Fault-finding: the registers of a vCPU that is out. */
static void cpu_dump(struct tiny *b, unsigned i)
{
	struct cpu_state *s = calloc(1, sizeof(*s));
	struct err e = { 0 };
	char text[4096];

	if (s && accel_get(b->vcpu[i], s, &e) == 0) {
		cpu_state_print(s, text, sizeof(text));
		printf("# vCPU %u:\n%s\n", i, text);
	}
	free(s);
}

/* Out, everything else in, and in again: what is not set would keep the wrong value. */
static void cpu_trip(struct tiny *b, unsigned i)
{
	struct cpu_state *s = calloc(2, sizeof(*s));
	struct err e = { 0 };
	int rc = s ? accel_get(b->vcpu[i], &s[0], &e) : err_set(&e, ENOMEM, "no memory");

	if (rc == 0) {
		cpu_state_reset(&s[1], true, b->vcpu[i]->apic_id);
		rc = accel_set(b->vcpu[i], &s[1], &e);
	}
	if (rc == 0)
		rc = accel_set(b->vcpu[i], &s[0], &e);
	if (rc < 0)
		tiny_end(b, true, 0, e.msg);
	free(s);
}

static void cpu_main(void *arg)
{
	struct run_cpu *c = arg;
	struct tiny *b = c->b;
	struct err e = { 0 };

	for (;;) {
		enum accel_exit why = accel_run(b->vcpu[c->index], &e);

		if (why == ACCEL_EXIT_SHUTDOWN)
			tiny_end(b, true, 0, "shutdown");
		else if (why == ACCEL_EXIT_FAIL)
			tiny_end(b, true, 0, e.msg);
		else if (__atomic_exchange_n(&b->trip[c->index], false, __ATOMIC_ACQ_REL))
			cpu_trip(b, c->index);
		lock(&b->lock);
		bool done = b->done;
		unlock(&b->lock);
		if (done)
			return;
	}
}

static void run_wait(struct tiny *b, unsigned timeout_s)
{
	uint64_t end = clock_ns() + timeout_s * NS_PER_SEC;

	lock(&b->lock);
	while (!b->done && cond_wait_until(&b->cond, &b->lock, end))
		;
	bool done = b->done;
	unlock(&b->lock);
	if (!done)
		tiny_end(b, true, 0, "timeout");
}

static int run_threads(struct tiny *b, unsigned timeout_s, struct err *e)
{
	struct run_cpu cpu[TINY_CPUS] = { 0 };
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < b->ncpus; i++) {
		cpu[i] = (struct run_cpu){ .b = b, .index = i };
		rc = thread_start(&cpu[i].t, "vcpu", cpu_main, &cpu[i], e);
	}
	if (rc == 0)
		run_wait(b, timeout_s);
	else
		tiny_end(b, true, 0, e->msg);
	for (unsigned i = 0; i < b->ncpus; i++)
		thread_join(&cpu[i].t);
	return rc;
}

/* "kvm,split,dirty-ring=512": name, then options of the board and of the engine. */
static int engine_parse(const char *spec, char *name, size_t size, struct accel_opts *o,
			const struct accel **ret, struct err *e)
{
	static char opts[128];
	char why[256];

	(void)str_copy(name, size, spec);
	opts[0] = 0;
	char *rest = strchr(name, ',');
	if (rest)
		*rest++ = 0;
	char *save = NULL;
	for (char *w = rest ? strtok_r(rest, ",", &save) : NULL; w;
	     w = strtok_r(NULL, ",", &save)) {
		size_t n = strlen(opts);

		if (!strcmp(w, "split"))
			o->split_irqchip = true;
		else
			snprintf(opts + n, sizeof(opts) - n, "%s%s", n ? "," : "", w);
	}
	o->engine_opts = opts[0] ? opts : NULL;
	return accel_choose(name, ret, why, e);
}

static int run_vm(struct tiny *b, const struct run_opts *o, uint64_t entry, struct err *e)
{
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < b->ncpus; i++)
		rc = accel_vcpu_new(b->vm, i, &b->vcpu[i], e);
	for (unsigned i = 0; rc == 0 && i < b->ncpus; i++)
		rc = cpu_start_state(b, i, o, entry, e);
	if (rc == 0)
		rc = tiny_start(b, e);
	if (rc == 0)
		rc = run_threads(b, o->timeout_s, e);
	return rc;
}

static bool run_judge(struct tiny *b, const struct run_opts *o, const char *engine)
{
	bool shutdown = b->failed && !strcmp(b->why, "shutdown");

	if (o->expect_shutdown ? shutdown : !b->failed && b->result == 0)
		return true;
	printf("# %s on %s: %s%s (result %u)\n", o->program, engine, b->failed ? "ended by " : "",
	       b->failed ? b->why : "the guest says that it failed", b->result);
	for (unsigned i = 0; i < b->ncpus; i++)
		cpu_dump(b, i);
	return false;
}

/* "# skip: why", the last line of a guest that could not try. */
static bool run_skipped(const struct tiny *b, const struct run_opts *o, const char *engine)
{
	const char *why = strstr(b->out, "# skip: ");

	if (b->failed || b->result != RUN_SKIP || !why)
		return false;
	printf("# skip: %s on %s: %s", o->program, engine, why + strlen("# skip: "));
	return true;
}

static void run_stats(struct tiny *b, const char *engine)
{
	char text[2048];

	accel_stats(b->vm, text, sizeof(text));
	printf("# %s: %s\n", engine, text);
}

static void run_free(struct tiny *b)
{
	for (unsigned i = 0; i < b->ncpus; i++)
		accel_vcpu_free(b->vcpu[i]);
	accel_vm_free(b->vm);
	tiny_fini(b);
}

/* One engine.  Negative: the test itself is broken. */
static int run_engine(const struct run_opts *o, const char *spec, struct run_result *ret,
		      struct err *e)
{
	struct tiny b;
	char name[64];
	const struct accel *a;
	uint64_t entry = 0;
	struct accel_opts ao = { .ncpus = o->cpus, .cpu_model = "host" };

	if (engine_parse(spec, name, sizeof(name), &ao, &a, e) < 0) {
		printf("# skip: %s on %s: %s\n", o->program, spec, e->msg);
		return 0;
	}
	int rc = tiny_init(&b, RUN_RAM, o->cpus, e);
	b.emulated = o->emulated && !strcmp(a->name, "kvm");
	ao.gmem = &b.gmem;
	ao.mmio = &b.mmio;
	ao.pio = &b.pio;
	if (rc == 0)
		rc = load_elf(&b, o->program, &entry, e);
	if (rc == 0)
		rc = accel_vm_new(a, &ao, &b.vm, e);
	if (rc == 0)
		rc = run_vm(&b, o, entry, e);
	if (rc == 0) {
		ret->ran = !run_skipped(&b, o, spec);
		ret->ok = ret->ran && run_judge(&b, o, spec);
		ret->out_len = b.out_len;
		ret->out = strndup(b.out, b.out_len);
		if (o->verbose)
			run_stats(&b, spec);
	}
	tiny_stop(&b);
	run_free(&b);
	return rc;
}

static int run_all(const struct run_opts *o)
{
	struct run_result r[RUN_ENGINES] = { 0 };
	const struct run_result *first = NULL;
	int status = RUN_SKIP;

	for (unsigned i = 0; i < o->nengine; i++) {
		struct err e = { 0 };

		if (run_engine(o, o->engine[i], &r[i], &e) < 0) {
			printf("# %s on %s: %s\n", o->program, o->engine[i], e.msg);
			return 1;
		}
		if (!r[i].ran)
			continue;
		bool same = !first || !strcmp(first->out, r[i].out);
		if (!r[i].ok || !same || o->verbose)
			printf("%s", r[i].out);
		if (!same)
			printf("# %s on %s: another output than the engine before; that was:\n%s",
			       o->program, o->engine[i], first->out);
		printf("# %s on %s: %s\n", o->program, o->engine[i],
		       r[i].ok && same ? "ok" : "FAILED");
		if (!r[i].ok || !same)
			status = 1;
		else if (status == RUN_SKIP)
			status = 0;
		if (!first)
			first = &r[i];
	}
	for (unsigned i = 0; i < o->nengine; i++)
		free(r[i].out);
	return status;
}

static bool run_number(const char *s, unsigned *ret)
{
	uint64_t v;

	if (str_u64(s, &v) < 0 || !v || v > 600)
		return false;
	*ret = (unsigned)v;
	return true;
}

static bool run_parse(int argc, char **argv, struct run_opts *o)
{
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--real"))
			o->real = true;
		else if (!strcmp(argv[i], "--verbose"))
			o->verbose = true;
		else if (!strcmp(argv[i], "--expect-shutdown"))
			o->expect_shutdown = true;
		else if (!strcmp(argv[i], "--cpus") && i + 1 < argc) {
			if (!run_number(argv[++i], &o->cpus))
				return false;
		} else if (!strcmp(argv[i], "--timeout") && i + 1 < argc) {
			if (!run_number(argv[++i], &o->timeout_s))
				return false;
		} else if (argv[i][0] == '-')
			return false;
		else if (!o->program)
			o->program = argv[i];
		else if (o->nengine < RUN_ENGINES)
			o->engine[o->nengine++] = argv[i];
	}
	return o->program && o->nengine && o->cpus <= TINY_CPUS;
}

int main(int argc, char **argv)
{
	struct run_opts o = { .cpus = 1, .timeout_s = 30 };

	setvbuf(stdout, NULL, _IOLBF, 0);
	trace_init();
	if (!run_parse(argc, argv, &o)) {
		fprintf(stderr, "usage: guest-run PROGRAM [--cpus N] [--real] [--expect-shutdown] "
				"[--timeout S] [--verbose] ENGINE...\n");
		return 2;
	}
	double mips;
	struct err e = { 0 };
	o.emulated = kvm_speed_probe(&mips, &e) == 0 && mips < RUN_EMULATED_MIPS;
	return run_all(&o);
}
