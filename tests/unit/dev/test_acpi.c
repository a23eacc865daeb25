/* ACPI: table checksums and contents, iasl's opinion of all of them, and the fixed hardware. */
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "dev/acpi/acpi.h"
#include "dev/acpi/aml.h"
#include "lib/dev_rig.h"
#include "lib/t.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	GPA = 0xe0000,
	PM_BASE = 0x600,
};

static const uint32_t apic_ids[] = { 0, 1, 2, 300 };

static const struct acpi_config config = {
	.ncpus = 4,
	.apic_ids = apic_ids,
	.lapic_base = 0xfee00000,
	.ioapic_base = 0xfec00000,
	.ioapic_id = 4,
	.pm_base = PM_BASE,
	.ecam_base = 0xe0000000,
	.ecam_buses = 1,
	.mmio32 = { 0xc0000000, 0x20000000 },
	.mmio64 = { 0x4000000000, 0x1000000000 },
	.hpet_base = 0xfed00000,
	.com_mask = 3,
	.has_rtc = true,
	.has_kbd = true,
	.has_mouse = true,
	.rtc_century = 0x32,
};

static uint8_t sum(const uint8_t *p, size_t n)
{
	uint8_t s = 0;

	while (n--)
		s = (uint8_t)(s + *p++);
	return s;
}

/* The table at gpa inside the blob. */
static const uint8_t *at(const struct acpi_tables *t, uint64_t gpa)
{
	assert_true(gpa >= GPA && gpa < GPA + t->len);
	return t->data + (gpa - GPA);
}

/* Table `sig` by way of RSDP and XSDT. */
static const uint8_t *find(const struct acpi_tables *t, const char *sig)
{
	const uint8_t *xsdt = at(t, ld_le64(at(t, t->rsdp_gpa) + 24));

	for (uint32_t off = 36; off < ld_le32(xsdt + 4); off += 8) {
		const uint8_t *p = at(t, ld_le64(xsdt + off));

		if (!memcmp(p, sig, 4))
			return p;
	}
	return NULL;
}

static void build(struct acpi_tables *t, const struct acpi_config *c)
{
	struct err e = { 0 };

	if (acpi_build(t, c, GPA, 0x20000, &e) < 0)
		fail_msg("%s", e.msg);
}

static void test_sums(void **state)
{
	static const char *const sigs[] = { "FACP", "APIC", "MCFG", "HPET" };
	struct acpi_tables t;

	build(&t, &config);
	const uint8_t *rsdp = at(&t, t.rsdp_gpa);
	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_int_equal(t.rsdp_gpa % 16, 0);
	assert_int_equal(sum(rsdp, 20), 0);
	assert_int_equal(sum(rsdp, 36), 0);
	const uint8_t *xsdt = at(&t, ld_le64(rsdp + 24));
	assert_int_equal(sum(xsdt, ld_le32(xsdt + 4)), 0);
	for (unsigned i = 0; i < COUNT_OF(sigs); i++) {
		const uint8_t *p = find(&t, sigs[i]);

		assert_non_null(p);
		assert_int_equal(sum(p, ld_le32(p + 4)), 0);
	}
	const uint8_t *fadt = find(&t, "FACP");
	const uint8_t *dsdt = at(&t, ld_le32(fadt + 40));
	assert_memory_equal(dsdt, "DSDT", 4);
	assert_int_equal(sum(dsdt, ld_le32(dsdt + 4)), 0);
	assert_int_equal(ld_le64(fadt + 140), ld_le32(fadt + 40));
	assert_memory_equal(at(&t, ld_le32(fadt + 36)), "FACS", 4);
	assert_int_equal(ld_le32(fadt + 36) % 64, 0);
	assert_int_equal(ld_le32(fadt + 76), PM_BASE + 8);
	acpi_tables_fini(&t);
}

static void test_madt(void **state)
{
	struct acpi_tables t;
	unsigned count[16] = { 0 };

	build(&t, &config);
	const uint8_t *p = find(&t, "APIC");
	for (uint32_t off = 44; off < ld_le32(p + 4); off += p[off + 1]) {
		assert_true(p[off] < 16 && p[off + 1] >= 6);
		count[p[off]]++;
		if (p[off] == 9)
			assert_int_equal(ld_le32(p + off + 4), 300);
		if (p[off] == 2 && p[off + 3] == 0)
			assert_int_equal(ld_le32(p + off + 4), 2);
		if (p[off] == 2 && p[off + 3] == IRQ_GSI_SCI)
			assert_int_equal(ld_le16(p + off + 8), 0xd);
	}
	assert_int_equal(count[0], 3);
	assert_int_equal(count[9], 1);
	assert_int_equal(count[1], 1);
	assert_int_equal(count[2], 2);
	assert_int_equal(count[4], 1);
	acpi_tables_fini(&t);
}

static void test_refused(void **state)
{
	struct acpi_config bad = config;
	struct acpi_tables t;
	struct err e = { 0 };

	assert_int_equal(acpi_build(&t, &config, GPA, 1000, &e), -E2BIG);
	assert_int_equal(acpi_build(&t, &config, GPA + 1, 0x20000, &e), -EINVAL);
	bad.ncpus = 0;
	assert_int_equal(acpi_build(&t, &bad, GPA, 0x20000, &e), -EINVAL);
	bad = config;
	bad.ecam_buses = 257;
	assert_int_equal(acpi_build(&t, &bad, GPA, 0x20000, &e), -EINVAL);
	/* Every allocation in turn. */
	for (int n = 0;; n++) {
		alloc_fail_after = n;
		int rc = acpi_build(&t, &config, GPA, 0x20000, &e);
		alloc_fail_after = -1;
		if (rc == 0) {
			assert_true(n > 1);
			break;
		}
		assert_int_equal(rc, -ENOMEM);
	}
	acpi_tables_fini(&t);
}

/* iasl. */

static int run(char *const argv[], const char *dir, const char *log)
{
	pid_t pid = fork();

	if (pid == 0) {
		int fd = chdir(dir) == 0 ? open(log, O_WRONLY | O_CREAT | O_TRUNC, 0600) : -1;

		if (fd >= 0 && dup2(fd, 1) >= 0 && dup2(fd, 2) >= 0)
			execvp(argv[0], argv);
		_exit(127);
	}
	int status = -1;
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void put_file(const char *dir, const char *name, const void *p, size_t n)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(file_write_full(fd, p, n), 0);
}

static char *get_file(const char *dir, const char *name)
{
	char path[128];
	void *p;
	size_t n;
	struct err e = { 0 };

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (file_read_all(path, 1 << 20, &p, &n, &e) < 0)
		fail_msg("%s", e.msg);
	return p;
}

static void remove_dir(const char *dir)
{
	char *argv[] = { (char[]){ "rm" }, (char[]){ "-rf" }, (char *)(uintptr_t)dir, NULL };

	run(argv, "/", "/dev/null");
}

/* Disassembles a table; the source must say each of want[].  A DSDT must compile again without
 * errors. */
static void iasl_check(const char *dir, const char *name, const uint8_t *p, bool compile,
		       const char *const *want)
{
	char file[16], dsl[16];
	char *dis[] = { (char[]){ "iasl" }, (char[]){ "-d" }, file, NULL };
	char *comp[] = { (char[]){ "iasl" }, (char[]){ "-ve" }, dsl, NULL };

	snprintf(file, sizeof(file), "%s.dat", name);
	snprintf(dsl, sizeof(dsl), "%s.dsl", name);
	put_file(dir, file, p, ld_le32(p + 4));
	int rc = run(dis, dir, "log");
	char *log = get_file(dir, "log");
	if (rc != 0 || strstr(log, "Error") || strstr(log, "Invalid") || strstr(log, "Warning"))
		fail_msg("iasl -d %s: %d: %s", name, rc, log);
	free(log);
	char *text = get_file(dir, dsl);
	for (; *want; want++)
		if (!strstr(text, *want))
			fail_msg("%s: no '%s' in: %s", name, *want, text);
	if (strstr(text, "Error") || strstr(text, "Unknown"))
		fail_msg("%s: %s", name, text);
	free(text);
	if (!compile)
		return;
	rc = run(comp, dir, "log");
	log = get_file(dir, "log");
	if (rc != 0 || !strstr(log, " 0 Errors"))
		fail_msg("iasl %s: %d: %s", name, rc, log);
	free(log);
}

static void test_iasl(void **state)
{
	static const char *const dsdt[] = {
		"Device (PCI0)",
		"\"PNP0A08\"",
		"\"PNP0A03\"",
		"Name (_S5",
		"Device (COM1)",
		"Device (COM2)",
		"Device (RTC)",
		"Device (KBD)",
		"Device (MOU)",
		"Device (HPET)",
		"Method (_OSC, 4",
		"ToUUID (\"33db4d5b-1ff7-401c-9657-7441c03dd766\"",
		"Return (Arg3)",
		"0x0000001000000000",
		NULL,
	};
	static const char *const fadt[] = { "0000000000000CF9",
					    "PM Timer Block Address : 00000608",
					    "Reset Register Supported (V2) : 1",
					    "SCI Interrupt : 0009",
					    "RTC Century Index : 32",
					    NULL };
	static const char *const madt[] = { "[Processor Local APIC]", "[I/O APIC]",
					    "[Processor Local x2APIC]", NULL };
	static const char *const mcfg[] = { "Base Address : 00000000E0000000", NULL };
	static const char *const hpet[] = { "FED00000", NULL };
	char *version[] = { (char[]){ "iasl" }, (char[]){ "-v" }, NULL };
	char dir[] = "/tmp/sampan-acpi-XXXXXX";
	struct acpi_tables t;

	if (run(version, "/", "/dev/null") == 127)
		T_SKIP("iasl is not installed (acpica-tools)");
	assert_non_null(mkdtemp(dir));
	build(&t, &config);
	iasl_check(dir, "dsdt", at(&t, ld_le32(find(&t, "FACP") + 40)), true, dsdt);
	iasl_check(dir, "facp", find(&t, "FACP"), false, fadt);
	iasl_check(dir, "apic", find(&t, "APIC"), false, madt);
	iasl_check(dir, "mcfg", find(&t, "MCFG"), false, mcfg);
	iasl_check(dir, "hpet", find(&t, "HPET"), false, hpet);
	acpi_tables_fini(&t);
	remove_dir(dir);
}

/* Lengths of every size class, integers of every width, names of one to three parts. */
static void test_aml(void **state)
{
	static const struct {
		size_t body;
		unsigned bytes;
	} cases[] = { { 0, 1 }, { 62, 1 }, { 63, 2 }, { 4093, 2 }, { 4094, 3 }, { 70000, 3 } };

	for (unsigned i = 0; i < COUNT_OF(cases); i++) {
		struct aml a = { 0 };

		aml_if(&a);
		for (size_t n = 0; n < cases[i].body; n++)
			aml_byte(&a, 0xa3);
		aml_end(&a);
		assert_false(aml_failed(&a));
		assert_int_equal(a.len, 1 + cases[i].bytes + cases[i].body);
		size_t len = a.data[1] & 0x3f;
		for (unsigned b = 1; b < cases[i].bytes; b++)
			len = b == 1 ? (len & 0xf) | (size_t)a.data[2] << 4
				     : len | (size_t)a.data[1 + b] << (8 * b - 4);
		assert_int_equal(a.data[1] >> 6, cases[i].bytes - 1);
		assert_int_equal(len, cases[i].body + cases[i].bytes);
		aml_fini(&a);
	}

	static const uint8_t ints[] = { 0x00, 0x01, 0x0a, 0xff, 0x0b, 0x00, 0x01,
					0x0c, 0x00, 0x00, 0x01, 0x00, 0x0e, 1,
					2,    3,    4,    5,    6,    7,    8 };
	struct aml a = { 0 };
	aml_int(&a, 0);
	aml_int(&a, 1);
	aml_int(&a, 255);
	aml_int(&a, 256);
	aml_int(&a, 65536);
	aml_int(&a, 0x0807060504030201);
	assert_int_equal(a.len, sizeof(ints));
	assert_memory_equal(a.data, ints, sizeof(ints));
	aml_fini(&a);

	static const char names[] = "\\_SB_\\.ABC_D___/\003A___B___C___\x0c\x41\xd0\x0a\x08";
	aml_ref(&a, "\\_SB");
	aml_ref(&a, "\\ABC.D");
	aml_ref(&a, "A.B.C");
	aml_eisaid(&a, "PNP0A08");
	assert_int_equal(a.len, sizeof(names) - 1);
	assert_memory_equal(a.data, names, a.len);
	aml_fini(&a);
}

/* The fixed hardware, on a clock of ours. */

static uint64_t now_ns;

static uint64_t fake_clock(void)
{
	return now_ns;
}

static uint64_t in(struct rig *r, unsigned off, unsigned n)
{
	return bus_read(&r->pio, PM_BASE + off, n);
}

static void out(struct rig *r, unsigned off, unsigned n, uint64_t v)
{
	bus_write(&r->pio, PM_BASE + off, n, v);
}

static struct acpi_pm *pm_new(struct rig *r)
{
	struct acpi_pm *p;
	struct err e = { 0 };

	assert_int_equal(acpi_pm_new(&p, &r->board, PM_BASE, &e), 0);
	board_reset(&r->board);
	return p;
}

static void test_timer(void **state)
{
	now_ns = 5000 * NS_PER_SEC;
	clock_hook = fake_clock;
	struct rig *r = rig_new_bare();
	pm_new(r);

	now_ns += NS_PER_SEC;
	assert_int_equal(in(r, 8, 4), 0);
	board_start(&r->board);
	now_ns += NS_PER_SEC;
	assert_int_equal(in(r, 8, 4), 3579545);
	assert_int_equal(in(r, 9, 1), 3579545 >> 8 & 0xff);
	board_stop(&r->board);
	now_ns += 77 * NS_PER_SEC;
	assert_int_equal(in(r, 8, 4), 3579545);

	/* Saved, and gone on with elsewhere. */
	struct state_buf buf = { 0 };
	struct err e = { 0 };
	assert_int_equal(board_save(&r->board, &buf, &e), 0);
	rig_free(r);
	now_ns = 3 * NS_PER_SEC;
	r = rig_new_bare();
	pm_new(r);
	assert_int_equal(board_load(&r->board, buf.data, buf.len, &e), 0);
	board_start(&r->board);
	now_ns += NS_PER_SEC;
	assert_in_range(in(r, 8, 4), 2 * 3579545 - 1, 2 * 3579545 + 1);

	/* The top bit changes after 2^31 ticks: status, and an interrupt when it is wanted. */
	assert_int_equal(in(r, 0, 2) & 1, 0);
	out(r, 2, 2, 1);
	now_ns += 600 * NS_PER_SEC;
	rig_run(r);
	assert_true(r->line[IRQ_GSI_SCI]);
	assert_int_equal(in(r, 0, 2) & 1, 1);
	out(r, 0, 2, 1);
	assert_false(r->line[IRQ_GSI_SCI]);
	assert_int_equal(in(r, 0, 2) & 1, 0);
	state_buf_fini(&buf);
	rig_free(r);
	clock_hook = NULL;
}

static void test_events(void **state)
{
	struct rig *r = rig_new_bare();
	struct acpi_pm *p = pm_new(r);

	board_start(&r->board);
	/* ACPI mode is always on. */
	assert_int_equal(in(r, 4, 2), 1);
	assert_false(acpi_power_button(p));
	assert_false(r->line[IRQ_GSI_SCI]);
	out(r, 2, 2, 1 << 8);
	assert_true(r->line[IRQ_GSI_SCI]);
	assert_true(acpi_power_button(p));
	assert_int_equal(in(r, 0, 4), 1 << 8 | 1 << 24);
	/* A byte at a time, as some systems do. */
	out(r, 1, 1, 1);
	assert_false(r->line[IRQ_GSI_SCI]);
	assert_int_equal(in(r, 0, 2), 0);

	acpi_gpe(p, 3);
	assert_int_equal(in(r, 0x20, 1), 8);
	assert_false(r->line[IRQ_GSI_SCI]);
	out(r, 0x22, 2, 8);
	assert_true(r->line[IRQ_GSI_SCI]);
	out(r, 0x20, 1, 8);
	assert_false(r->line[IRQ_GSI_SCI]);

	/* S5; another sleep state is none that we offer. */
	out(r, 4, 2, 1 << 13 | 3 << 10);
	assert_int_equal(r->requests[BOARD_POWEROFF], 0);
	out(r, 4, 2, 5 << 10);
	assert_int_equal(r->requests[BOARD_POWEROFF], 0);
	out(r, 4, 2, 1 << 13 | 5 << 10);
	assert_int_equal(r->requests[BOARD_POWEROFF], 1);
	assert_int_equal(in(r, 4, 2), 5 << 10 | 1);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sums),    cmocka_unit_test(test_madt),
		cmocka_unit_test(test_refused), cmocka_unit_test(test_iasl),
		cmocka_unit_test(test_aml),     cmocka_unit_test(test_timer),
		cmocka_unit_test(test_events),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
