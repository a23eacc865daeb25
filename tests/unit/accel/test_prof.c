/*
 * The profile, perf's map, dumps of blocks, and instructions as text.
 */
#include "accel/soft/disasm.h"
#include "base/file.h"
#include "lib/soft_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

/* ---- files ---- */

static char dir[] = "/tmp/sampan-prof-XXXXXX";

static const char *path_of(const char *name)
{
	static char path[4][64];
	static unsigned n;
	char *p = path[n++ & 3];

	snprintf(p, sizeof(path[0]), "%s/%s", dir, name);
	return p;
}

static char *read_text(const char *path)
{
	struct err e = { 0 };
	size_t len;
	void *text;

	if (file_read_all(path, 8 << 20, &text, &len, &e) < 0)
		fail_msg("%s", e.msg);
	return text;
}

static void write_text(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static int setup_dir(void **state)
{
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	static const char *const names[] = { "profile", "symbols", "empty" };
	char map[64];

	for (unsigned k = 0; k < COUNT_OF(names); k++)
		(void)unlink(path_of(names[k]));
	snprintf(map, sizeof(map), "/tmp/perf-%d.map", getpid());
	(void)unlink(map);
	return rmdir(dir);
}

static void machine(const char *opts)
{
	rig_engine_opts = opts;
	soft_rig_init(1);
	rig_engine_opts = NULL;
}

/* ---- a profile ---- */

/* spin at 0x1000, ask at 0x2000, load at 0x3000. */
CODE(spin, "64", "mov $300000000, %ecx\n 1: dec %rcx\n jnz 1b\n jmp . + 0x1000 - 12\n");
CODE(ask, "64",
     "mov $500, %esi\n 1: xor %eax, %eax\n cpuid\n dec %esi\n jnz 1b\n jmp . + 0x1000 - 13\n");
CODE(load, "64",
     "mov $50, %esi\n lea 0x5000, %rdi\n 1: mov 8(%rdi), %rax\n test %rax, %rax\n"
     "lock addl $1, 0x10(%rdi)\n dec %esi\n jnz 1b\n" RIG_END);

static void put_code(void)
{
	rig_put(0x1000, spin, CODE_LEN(spin));
	rig_put(0x2000, ask, CODE_LEN(ask));
	rig_put(0x3000, load, CODE_LEN(load));
	assert_int_equal(CODE_LEN(spin), 15);
	assert_int_equal(CODE_LEN(ask), 18);
}

static void run_code(void)
{
	put_code();
	soft_rig_long(0x1000);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
}

/* The line that has `what`, from the line of `head` on. */
static const char *line_of(const char *text, const char *head, const char *what)
{
	const char *from = strstr(text, head), *p;

	if (!from)
		fail_msg("no '%s' in:\n%s", head, text);
	p = strstr(from, what);
	if (!p)
		fail_msg("no '%s' after '%s' in:\n%s", what, head, text);
	while (p > text && p[-1] != '\n')
		p--;
	return p;
}

static void check_blocks(const char *text)
{
	double share;
	unsigned long samples, from, to;

	assert_int_equal(sscanf(line_of(text, "## Guest code by function", " spin\n"),
				"%lf %*f %lu %lx %lx kernel64", &share, &samples, &from, &to),
			 4);
	assert_true(share > 50 && samples > 5);
	assert_int_equal(from, 0x1005);
	/* To the end of the JMP. */
	assert_int_equal(to, 0x100f);
	assert_int_equal(sscanf(line_of(text, "## Blocks, hottest", " spin+0x5\n"),
				"%lf %*f %lu %lx %lx kernel64", &share, &samples, &from, &to),
			 4);
	assert_true(share > 50);
	assert_int_equal(from, 0x1005);
	assert_int_equal(to, 0x1005);
}

static void check_counts(const char *text)
{
	unsigned long all, never, gave_up, cold, step, exits;

	assert_int_equal(sscanf(line_of(text, "## Interpreted", "  CPUID\n"), "%lu %lu %lu %lu %lu",
				&all, &never, &gave_up, &cold, &step),
			 5);
	assert_int_equal(all, 500);
	assert_int_equal(never + cold, 500);
	assert_true(never > 490);
	assert_int_equal(sscanf(line_of(text, "## Exits", "for the interpreter"), "%lu", &exits),
			 1);
	assert_true(exits >= never && exits < never + 20);
	/* A loop that is translated: only its first turns are interpreted. */
	assert_int_equal(sscanf(line_of(text, "## Interpreted", "  DEC\n"), "%lu", &all), 1);
	assert_true(all < 50);
}

static void test_profile(void **state)
{
	char opts[256];

	write_text(path_of("symbols"), "0000000000001000 T spin\n"
				       "0000000000003000 t load\n"
				       "0000000000002000 T ask\n"
				       "0000000000002004 D data\n");
	snprintf(opts, sizeof(opts), "hot=2,profile=%s,symbols=%s", path_of("profile"),
		 path_of("symbols"));
	machine(opts);
	run_code();
	soft_rig_fini();
	char *text = read_text(path_of("profile"));
	check_blocks(text);
	check_counts(text);
	/* The hottest block, its instructions, what they became. */
	line_of(text, "\nblock ", "(spin+0x5)");
	line_of(text, "(spin+0x5)", "dec rcx");
	line_of(text, "(spin+0x5)", "jne 0x1005");
	assert_null(strstr(text, "data"));
	free(text);
	/* One that was on its way. */
	assert_int_equal(raise(SIGPROF), 0);
}

/* The interpreter alone. */
static void test_profile_without_jit(void **state)
{
	unsigned long dec, in_dec;
	char opts[128];

	snprintf(opts, sizeof(opts), "jit=off,profile=%s", path_of("profile"));
	machine(opts);
	put_code();
	/* 20 million turns. */
	st_le32(rig.ram + 0x1001, 20000000);
	soft_rig_long(0x1000);
	assert_int_equal(soft_rig_run(), ACCEL_EXIT_KICK);
	soft_rig_fini();
	char *text = read_text(path_of("profile"));
	assert_int_equal(sscanf(line_of(text, "## Interpreted", "  DEC\n"), "%lu", &dec), 1);
	/* CPUID leaves its block, which is counted as a whole; and so is what follows. */
	assert_int_equal(dec, 20000000 + 2 * 500 + 50);
	assert_int_equal(sscanf(line_of(text, "## Samples while", " DEC\n"), "%*f %lu", &in_dec),
			 1);
	assert_true(in_dec > 5);
	free(text);
}

/* ---- perf's map ---- */

static void test_perfmap(void **state)
{
	char path[64], opts[128];
	unsigned long at, len, last = 0;

	snprintf(opts, sizeof(opts), "perfmap=on,symbols=%s", path_of("symbols"));
	machine(opts);
	run_code();
	soft_rig_fini();
	snprintf(path, sizeof(path), "/tmp/perf-%d.map", getpid());
	char *text = read_text(path);
	assert_int_equal(sscanf(line_of(text, "", " sampan:fill_r\n"), "%lx %lx", &at, &len), 2);
	assert_true(len > 16 && len < 4096);
	line_of(text, "", " guest:spin\n");
	line_of(text, "", " guest:load\n");
	/* Blocks do not overlap. */
	for (const char *p = strstr(text, "guest:"); p; p = strstr(p + 1, "guest:")) {
		assert_int_equal(sscanf(line_of(text, "", p), "%lx %lx", &at, &len), 2);
		assert_true(at >= last && len);
		last = at + len;
	}
	free(text);
}

/* ---- dumps ---- */

/* What the machine with these options writes to standard error. */
static char *dumped(const char *opts)
{
	static char text[1 << 18];
	int saved = dup(2), fd = open(dir, O_TMPFILE | O_RDWR, 0600);

	assert_true(saved >= 0 && fd >= 0);
	fflush(stderr);
	dup2(fd, 2);
	machine(opts);
	run_code();
	soft_rig_fini();
	fflush(stderr);
	dup2(saved, 2);
	close(saved);
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	close(fd);
	assert_true(n >= 0);
	text[n] = 0;
	return text;
}

static void test_dump(void **state)
{
	const char *text = dumped("dump=0x3000-0x30ff");

	line_of(text, "block ", "kernel64");
	line_of(text, "block ", "mov rax, qword [rdi+0x8]");
	line_of(text, "mov rax, qword [rdi+0x8]", "kernel read tag");
	line_of(text, "mov rax, qword [rdi+0x8]", "mov rax, qword [rdi+r11*1+0x8]");
	line_of(text, "lock add dword [rdi+0x10], 0x1", "kernel write tag");
	line_of(text, "lock add dword [rdi+0x10], 0x1", "lock add dword [rdi+r11*1+0x10], 0x1");
	/* Cold parts say which instruction they belong to. */
	line_of(text, "; refill", "fill_r");
	line_of(text, "; refill", "fill_w");
	line_of(text, "; exit", "exit_link");
	assert_null(strstr(text, "cpuid"));
	/* One address of the block is enough; none: nothing. */
	line_of(dumped("dump=0x1005"), "block ", "dec rcx");
	assert_null(strstr(dumped("dump=0x1008-0x100b"), "block 9999"));
	line_of(dumped("dump=4102"), "block ", "dec rcx");
	assert_string_equal(dumped("dump=0x7000-0x7fff"), "");
}

/* ---- what is refused ---- */

static void refused(const char *opts, const char *why)
{
	struct accel_opts o = { .ncpus = 1, .engine_opts = opts };
	struct accel_vm *vm = NULL;
	struct err e = { 0 };

	o.gmem = &rig.mem;
	o.mmio = &rig.mmio;
	o.pio = &rig.pio;
	assert_true(accel_vm_new(&accel_soft, &o, &vm, &e) < 0);
	if (!strstr(e.msg, why))
		fail_msg("%s: %s", opts, e.msg);
}

static void test_refused(void **state)
{
	char opts[256];

	machine(NULL);
	refused("profile", "profile=FILE");
	refused("profile=", "profile=FILE");
	refused("profile=/nowhere/at/all", "cannot write '/nowhere/at/all'");
	refused("symbols=x", "profile=");
	refused("perfmap=maybe", "perfmap=on|off");
	refused("perfmap", "perfmap=on|off");
	refused("perfmap=on,jit=off", "jit=off");
	refused("dump=0,jit=off", "jit=off");
	refused("dump=x", "dump=ADDR");
	refused("dump", "dump=ADDR");
	refused("dump=5-4", "dump=ADDR");
	refused("dump=1-2-3", "dump=ADDR");
	refused("dump=-1", "dump=ADDR");
	refused("perfmap=on,symbols=/nowhere", "/nowhere");
	write_text(path_of("empty"), "0000000000001000 D data\nzz T x\n1000 T\n");
	snprintf(opts, sizeof(opts), "perfmap=on,symbols=%s", path_of("empty"));
	refused(opts, "no symbols of code");
	soft_rig_fini();
}

/* ---- text ---- */

static void text_is(unsigned code_size, const char *bytes, size_t len, const char *want)
{
	char text[DISASM_TEXT];

	assert_int_equal(
		soft_disasm((const uint8_t *)bytes, (unsigned)len, code_size, 0x1000, text), len);
	assert_string_equal(text, want);
}
#define TEXT(code_size, bytes, want) text_is(code_size, bytes, sizeof(bytes) - 1, want)

static void test_disasm(void **state)
{
	TEXT(64, "\x48\x8b\x44\xd8\xf0", "mov rax, qword [rax+rbx*8-0x10]");
	TEXT(64, "\x88\xe0", "mov al, ah");
	TEXT(64, "\x40\x88\xe0", "mov al, spl");
	TEXT(64, "\x45\x01\xd1", "add r9d, r10d");
	TEXT(64, "\x66\x41\x50", "push r8w");
	TEXT(64, "\xf3\x48\xa5", "rep movs es:[di], ds:[si]");
	TEXT(64, "\x75\xfe", "jne 0x1000");
	TEXT(64, "\xe8\xfb\x0f\0\0", "call 0x2000");
	TEXT(64, "\x8b\x05\x0a\0\0\0", "mov eax, dword [0x1010]");
	TEXT(64, "\x64\x48\x8b\x04\x25\x28\0\0\0", "mov rax, qword [fs:0x28]");
	TEXT(64, "\xf0\x0f\xb1\x0f", "lock cmpxchg dword [rdi], ecx");
	TEXT(64, "\xc5\xfd\xfe\x0e", "vpaddd ymm1, ymm0, ymmword [rsi]");
	TEXT(64, "\x0f\x94\xc0", "sete al");
	TEXT(64, "\x48\x83\xec\x08", "sub rsp, 0x8");
	TEXT(64, "\x48\x83\xc4\xf8", "add rsp, -0x8");
	TEXT(64, "\xd8\xc1", "fadd st0, st1");
	TEXT(64, "\x0f\x20\xd8", "mov rax, cr3");
	TEXT(32, "\xa1\x10\0\0\0", "mov eax, dword [0x10]");
	TEXT(16, "\xea\x34\x12\0\xf0", "jmpf 0xf000:0x1234");
	char text[DISASM_TEXT];
	assert_int_equal(soft_disasm((const uint8_t *)"\x0f\x0b", 2, 64, 0, text), 1);
	assert_string_equal(text, "(bad)");
}

/* Any bytes: the text ends, the length is what the decoder says. */
static void test_disasm_anything(void **state)
{
	uint64_t seed = 20261121;
	uint8_t bytes[16];
	char text[DISASM_TEXT + 1];

	for (unsigned n = 0; n < 300000; n++) {
		for (unsigned k = 0; k < sizeof(bytes); k++)
			bytes[k] = (uint8_t)t_rnd(&seed);
		if (n & 1)
			bytes[0] = 0xc4;
		text[DISASM_TEXT] = 'x';
		unsigned len = soft_disasm(bytes, 15, 16u << n % 3, t_rnd(&seed), text);
		assert_true(len >= 1 && len <= 15);
		assert_true(memchr(text, 0, DISASM_TEXT) && !strchr(text, '?'));
		assert_int_equal(text[DISASM_TEXT], 'x');
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_disasm),  cmocka_unit_test(test_disasm_anything),
		cmocka_unit_test(test_profile), cmocka_unit_test(test_profile_without_jit),
		cmocka_unit_test(test_perfmap), cmocka_unit_test(test_dump),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, setup_dir, remove_dir);
}
