/*
 * machine/build.c: a whole machine with one of everything, and what is left when one step of
 * building it fails: nothing (leaks are the sanitizers' to find), and an error with a text.
 */
#include "machine/machine.h"

#include "base/alloc.h"
#include "base/log.h"
#include "lib/t.h"

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
	BUILD_CODE = 0x200000,
};

static char kernel[] = "build-test-XXXXXX", disk[] = "build-disk-XXXXXX";

/* The smallest 64-bit ELF file that has anything to load: HLT. */
static void make_kernel(void)
{
	struct {
		Elf64_Ehdr h;
		Elf64_Phdr p;
		uint8_t code[4];
	} f = {
		.h = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		       .e_type = ET_EXEC,
		       .e_machine = EM_X86_64,
		       .e_version = EV_CURRENT,
		       .e_entry = BUILD_CODE,
		       .e_phoff = sizeof(Elf64_Ehdr),
		       .e_ehsize = sizeof(Elf64_Ehdr),
		       .e_phentsize = sizeof(Elf64_Phdr),
		       .e_phnum = 1 },
		.p = { .p_type = PT_LOAD,
		       .p_flags = PF_R | PF_X,
		       .p_offset = sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr),
		       .p_vaddr = BUILD_CODE,
		       .p_paddr = BUILD_CODE,
		       .p_filesz = 4,
		       .p_memsz = 4 },
		.code = { 0xf4, 0xf4, 0xf4, 0xf4 },
	};
	int fd = mkstemp(kernel);

	assert_int_equal(write(fd, &f, sizeof(f)), sizeof(f));
	close(fd);
	fd = mkstemp(disk);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	close(fd);
}

static int setup(void **state UNUSED)
{
	/* A pty is told of each time. */
	log_level = LOG_ERROR;
	make_kernel();
	return 0;
}

static int teardown(void **state UNUSED)
{
	unlink(kernel);
	unlink(disk);
	return 0;
}

static void make_spec(struct vm_spec *s)
{
	char text[512];
	struct err e;

	snprintf(text, sizeof(text),
		 "{\"accel\": \"soft\", \"cpus\": 2, \"memory\": \"32M\", \"boot\": {\"kernel\": "
		 "\"%s\"}, \"disks\": [{\"path\": \"%s\"}], \"nets\": [{}], \"serial\": "
		 "[{\"type\": \"none\"}], \"console\": [{\"type\": \"pty\"}], \"debug_exit\": 244}",
		 kernel, disk);
	if (vm_spec_parse(s, text, strlen(text), &e) < 0)
		fail_msg("%s", e.msg);
}

static void ask(void *arg UNUSED, enum board_request r UNUSED, unsigned value UNUSED)
{
}

static int build(struct machine **ret, struct vm_spec *s, struct loop *l, struct err *e)
{
	const struct machine_opts o = { .spec = s, .loop = l, .request = ask };

	return machine_new(ret, &o, e);
}

static unsigned open_files(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* Registers and RAM as the kernel's loader wants them, the first time and after each reset. */
static void test_reset(void **state UNUSED)
{
	struct vm_spec s;
	struct machine *m;
	struct loop *l;
	struct err e;
	uint8_t code[4], dirt[4] = { 1, 2, 3, 4 };
	struct cpu_state *c = NEW(struct cpu_state);

	make_spec(&s);
	assert_int_equal(loop_new(&l, LOOP_AUTO, &e), 0);
	if (build(&m, &s, l, &e) < 0)
		fail_msg("%s", e.msg);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(gmem_write(&m->gmem, BUILD_CODE, dirt, 4), 0);
		if (machine_reset(m, &e) < 0)
			fail_msg("%s", e.msg);
		assert_int_equal(gmem_read(&m->gmem, BUILD_CODE, code, 4), 0);
		assert_int_equal(code[0], 0xf4);
		assert_int_equal(accel_get(m->vcpu[0], c, &e), 0);
		assert_int_equal(c->rip, BUILD_CODE);
		assert_true(c->efer & X86_EFER_LMA);
		/* The others wait for a SIPI. */
		assert_int_equal(accel_get(m->vcpu[1], c, &e), 0);
		assert_int_equal(c->mp, CPU_MP_WAIT_SIPI);
		machine_start(m);
		machine_stop(m);
	}
	machine_free(m);
	loop_free(l);
	vm_spec_fini(&s);
	free(c);
}

/* The n-th allocation fails, for every n until none does. */
static void test_no_memory(void **state UNUSED)
{
	struct vm_spec s;
	struct machine *m;
	struct loop *l;
	struct err e;
	int n = 0, rc;

	make_spec(&s);
	assert_int_equal(loop_new(&l, LOOP_AUTO, &e), 0);
	unsigned files = open_files();
	do {
		e.msg[0] = 0;
		alloc_fail_after = n++;
		rc = build(&m, &s, l, &e);
		if (rc >= 0)
			rc = machine_reset(m, &e) < 0 ? (machine_free(m), -ENOMEM) : 0;
		alloc_fail_after = -1;
		if (rc < 0 && (rc != -ENOMEM || !*e.msg))
			fail_msg("allocation %d: %d, '%s'", n, rc, e.msg);
		if (rc < 0 && open_files() != files)
			fail_msg("allocation %d: descriptors are left open", n);
	} while (rc < 0 && n < 10000);
	assert_int_equal(rc, 0);
	assert_true(n > 30);
	machine_free(m);
	assert_int_equal(open_files(), files);
	loop_free(l);
	vm_spec_fini(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reset),
		cmocka_unit_test(test_no_memory),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
