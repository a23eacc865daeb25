/*
 * spec/: JSON to struct and back (property), every kind of wrong field refused with its path, and
 * docs/format/vm-spec.md against the tables.
 */
#include "base/alloc.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/num.h"
#include "base/str.h"
#include "lib/t.h"
#include "spec/vm.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define ONE_FWD(x) "{\"nets\": [{\"hostfwd\": [{\"host_port\": 80, \"guest_port\": 80, " x "}]}]}"

/* clang-format off */
static const struct {
	const char *text, *msg;
} bad[] = {
	{ "[]", "an object is wanted, not a list" },
	{ "{\"memroy\": 1}", "memroy: there is no such field; did you mean 'memory'?" },
	{ "{\"zebra\": 1}", "zebra: there is no such field" },
	{ "{\"cpus\": 0}", "cpus: 0 is outside 1 to 64" },
	{ "{\"cpus\": \"2\"}", "cpus: a number is wanted, not a string" },
	{ "{\"cpus\": -1}", "cpus: -1 is negative" },
	{ "{\"cpus\": 1.5}", "cpus: a number is wanted, not a number with a fraction" },
	{ "{\"memory\": \"1Q\"}", "memory: '1Q' is not a size such as 512M or 4G" },
	{ "{\"memory\": 4096}", "memory: 4K is outside 1M to 4T" },
	{ "{\"memory\": 1048577}", "memory: is not a whole number of MiB" },
	{ "{\"machine\": \"q35\"}", "machine: 'q35' is not one of pc" },
	{ "{\"accel\": \"tcg\"}", "accel: 'tcg' is not one of auto, kvm, soft" },
	{ "{\"name\": \"a/b\"}", "name: has a '/' or a control character" },
	{ "{\"name\": \"\"}", "name: is empty" },
	{ "{\"name\": null}", "name: a string is wanted, not null" },
	{ "{\"uuid\": \"1\"}", "uuid: '1' is not a UUID" },
	{ "{\"rng\": 1}", "rng: true or false is wanted, not a number" },
	{ "{\"paused\": true}",
	  "paused: needs control (--control PATH): nothing else lets it run" },
	{ "{\"debug_exit\": 4093}", "debug_exit: 4093 is outside 0 to 4092" },
	{ "{\"boot\": {\"initrd\": \"x\"}}", "boot.initrd: needs a kernel" },
	{ "{\"boot\": {\"append\": \"x\"}}", "boot.append: needs a kernel" },
	{ "{\"boot\": {\"kernle\": \"x\"}}",
	  "boot.kernle: there is no such field; did you mean 'kernel'?" },
	{ "{\"disks\": {}}", "disks: a list is wanted, not an object" },
	{ "{\"disks\": [{}]}", "disks[0].path: is missing" },
	{ "{\"disks\": [{\"path\": \"a\"}, {\"path\": \"b\", \"cache\": \"foo\"}]}",
	  "disks[1].cache: 'foo' is not one of writeback, none" },
	{ "{\"disks\": [{\"path\": \"a\", \"queues\": 33}]}",
	  "disks[0].queues: 33 is outside 0 to 32" },
	{ "{\"disks\": [{\"path\": \"a\", \"serial\": \"a b\"}]}",
	  "disks[0].serial: may have printable ASCII characters only" },
	{ "{\"disks\": [{\"path\": \"a\", \"serial\": \"123456789012345678901\"}]}",
	  "disks[0].serial: is longer than 20 bytes" },
	{ "{\"disks\": [{\"path\": \"a\\u0000b\"}]}",
	  "disks[0].path: has a zero character inside" },
	{ "{\"nets\": [{\"type\": \"tap\"}]}", "nets[0].ifname: is missing (type tap needs it)" },
	{ "{\"nets\": [{\"ifname\": \"tap0\"}]}", "nets[0].ifname: only type tap has one" },
	{ "{\"nets\": [{\"mac\": \"52:54:00:12:34\"}]}",
	  "nets[0].mac: '52:54:00:12:34' is not a MAC address such as 52:54:00:12:34:56" },
	{ "{\"nets\": [{\"mac\": \"01:54:00:12:34:56\"}]}",
	  "nets[0].mac: '01:54:00:12:34:56' is a multicast address" },
	{ "{\"nets\": [{\"mac\": \"52:54:00:12:34:56\"}, {\"mac\": \"52:54:00:12:34:56\"}]}",
	  "nets[1].mac: is that of nets[0]" },
	{ "{\"nets\": [{\"hostfwd\": [{\"host_port\": 80}]}]}",
	  "nets[0].hostfwd[0].guest_port: 0 is outside 1 to 65535" },
	{ ONE_FWD("\"host_addr\": \"localhost\""),
	  "nets[0].hostfwd[0].host_addr: 'localhost' is not an IPv4 address" },
	{ ONE_FWD("\"proto\": \"icmp\""),
	  "nets[0].hostfwd[0].proto: 'icmp' is not one of tcp, udp" },
	{ "{\"nets\": [{\"type\": \"tap\", \"ifname\": \"t\", \"hostfwd\": "
	  "[{\"host_port\": 1, \"guest_port\": 1}]}]}",
	  "nets[0].hostfwd: only type user has forwards" },
	{ "{\"serial\": [{\"type\": \"file\"}]}", "serial[0].path: is missing (type file needs it)" },
	{ "{\"serial\": [{\"path\": \"x\"}]}", "serial[0].path: type stdio has none" },
	{ "{\"serial\": [{}, {}]}", "serial: only one line can be on stdio" },
	{ "{\"serial\": [{}], \"console\": [{}]}", "console: stdio is taken by a serial line" },
	{ "{\"console\": [{}, {}]}", "console: has more than 1 entries" },
};
/* clang-format on */

static void test_refused(void **state)
{
	for (size_t i = 0; i < COUNT_OF(bad); i++) {
		struct err e = { 0 };
		struct vm_spec s;
		int rc = vm_spec_parse(&s, bad[i].text, strlen(bad[i].text), &e);

		if (rc != -EINVAL || strcmp(e.msg, bad[i].msg))
			fail_msg("%s\n  gave: %d %s\n  want: %s", bad[i].text, rc, e.msg,
				 bad[i].msg);
	}
}

static void test_long_socket(void **state)
{
	char path[200], text[300];
	struct vm_spec s;
	struct err e;

	memset(path, 'a', 108);
	path[108] = 0;
	snprintf(text, sizeof(text), "{\"control\": \"%s\"}", path);
	assert_int_equal(vm_spec_parse(&s, text, strlen(text), &e), -EINVAL);
	assert_true(str_starts(e.msg, "control: is longer than a socket's name can be"));
	snprintf(text, sizeof(text), "{\"serial\": [{\"type\": \"unix\", \"path\": \"%s\"}]}",
		 path);
	assert_int_equal(vm_spec_parse(&s, text, strlen(text), &e), -EINVAL);
	assert_true(str_starts(e.msg, "serial[0].path: is longer than a socket's name"));
}

static void test_defaults(void **state)
{
	struct vm_spec s;
	struct err e;

	assert_int_equal(vm_spec_parse(&s, "{}", 2, &e), 0);
	assert_int_equal(s.cpus, 1);
	assert_int_equal(s.memory, GIB(1));
	assert_int_equal(s.accel, VM_ACCEL_AUTO);
	assert_true(s.rng);
	assert_int_equal(s.ndisk, 0);
	vm_spec_fini(&s);
	static const char sized[] = "{\"memory\": \"512MiB\", \"disks\": [{\"path\": \"/d\"}]}";
	assert_int_equal(vm_spec_parse(&s, sized, strlen(sized), &e), 0);
	assert_int_equal(s.memory, MIB(512));
	assert_int_equal(s.disk[0].cache, VM_CACHE_WRITEBACK);
	assert_string_equal(s.disk[0].path, "/d");
	vm_spec_fini(&s);
}

static void test_not_utf8(void **state)
{
	struct vm_spec s;
	struct err e;

	vm_spec_init(&s);
	s.boot.kernel = strdup("/k\xff");
	assert_int_equal(vm_spec_check(&s, &e), -EINVAL);
	assert_string_equal(e.msg, "boot.kernel: is not UTF-8");
	vm_spec_fini(&s);
}

/* Random values inside the limits; cross-field checks do not run in the round trip. */
static void fill(const struct spec_struct *st, void *obj, uint64_t *seed)
{
	for (const struct spec_field *f = st->field; f->name; f++) {
		char *p = (char *)obj + f->offset;
		static const char *const strs[] = { "a", "\"\\,", "\xc3\xa9\n\x01", "/x y", "{" };

		switch (f->kind) {
		case SPEC_BOOL:
			*(bool *)p = t_below(seed, 2);
			break;
		case SPEC_U64:
		case SPEC_SIZE:
			*(uint64_t *)p = t_below(seed, 4) ? t_rnd(seed) : UINT64_MAX;
			break;
		case SPEC_ENUM: {
			unsigned n = 0;

			while (f->words[n])
				n++;
			*(unsigned *)p = (unsigned)t_below(seed, n);
			break;
		}
		case SPEC_STR:
			if (t_below(seed, 3))
				*(char **)p = strdup(strs[t_below(seed, COUNT_OF(strs))]);
			break;
		case SPEC_OBJ:
			fill(f->of, p, seed);
			break;
		case SPEC_LIST:
			for (uint64_t n = t_below(seed, MIN(f->max, (uint64_t)3) + 1); n; n--)
				fill(f->of, spec_append(f, obj), seed);
			break;
		}
	}
}

static bool same(const struct spec_struct *st, const void *a, const void *b)
{
	for (const struct spec_field *f = st->field; f->name; f++) {
		const char *p = (const char *)a + f->offset, *q = (const char *)b + f->offset;
		const char *s, *t;
		unsigned n, m;

		switch (f->kind) {
		case SPEC_BOOL:
			if (*(const bool *)p != *(const bool *)q)
				return false;
			break;
		case SPEC_U64:
		case SPEC_SIZE:
			if (*(const uint64_t *)p != *(const uint64_t *)q)
				return false;
			break;
		case SPEC_ENUM:
			if (*(const unsigned *)p != *(const unsigned *)q)
				return false;
			break;
		case SPEC_STR:
			s = *(char *const *)p;
			t = *(char *const *)q;
			if (!s != !t || (s && strcmp(s, t)))
				return false;
			break;
		case SPEC_OBJ:
			if (!same(f->of, p, q))
				return false;
			break;
		case SPEC_LIST:
			n = *(const unsigned *)(const void *)((const char *)a + f->count_offset);
			m = *(const unsigned *)(const void *)((const char *)b + f->count_offset);
			if (n != m)
				return false;
			for (unsigned i = 0; i < n; i++)
				if (!same(f->of, *(char *const *)p + i * f->of->size,
					  *(char *const *)q + i * f->of->size))
					return false;
			break;
		}
	}
	return true;
}

static void test_round_trip(void **state)
{
	uint64_t seed = t_seed(0x5bec);

	for (int i = 0; i < 2000; i++) {
		struct vm_spec a, b;
		struct json_object *v;
		struct err e;

		vm_spec_init(&a);
		fill(&vm_spec_struct, &a, &seed);
		AUTO_FREE char *text = vm_spec_text(&a, i & 1);
		if (json_parse(text, strlen(text), &v, &e) < 0)
			fail_msg("%s: %s", e.msg, text);
		struct json_at root = json_root(v);
		vm_spec_init(&b);
		if (spec_read(&vm_spec_struct, &b, &root, &e) < 0)
			fail_msg("%s: %s", e.msg, text);
		if (!same(&vm_spec_struct, &a, &b))
			fail_msg("not the same again: %s", text);
		json_unref(v);
		vm_spec_fini(&a);
		vm_spec_fini(&b);
	}
}

/* Every allocation of a parse fails once: -ENOMEM, nothing leaks (the sanitizer build sees). */
static void test_no_memory(void **state)
{
	static const char text[] = "{\"name\": \"a\", \"disks\": [{\"path\": \"b\"}, {\"path\": "
				   "\"c\"}], \"nets\": [{\"hostfwd\": [{\"host_port\": 1, "
				   "\"guest_port\": 2}]}]}";
	int rc, n = 0;

	do {
		struct vm_spec s;
		struct err e = { 0 };

		alloc_fail_after = n++;
		rc = vm_spec_parse(&s, text, strlen(text), &e);
		alloc_fail_after = -1;
		if (rc == 0)
			vm_spec_fini(&s);
		else
			assert_int_equal(rc, -ENOMEM);
	} while (rc < 0);
	assert_true(n > 6);
}

/* What the documentation says in the columns "type" and "default" and of limits. */
static void doc_row(const struct spec_field *f, const char *path, char *ret, size_t size)
{
	char type[120] = "", def[40] = "";

	switch (f->kind) {
	case SPEC_BOOL:
		snprintf(type, sizeof(type), "bool");
		snprintf(def, sizeof(def), "%s", f->def ? "true" : "false");
		break;
	case SPEC_U64:
		snprintf(type, sizeof(type), "number");
		snprintf(def, sizeof(def), "%" PRIu64, f->def);
		break;
	case SPEC_SIZE:
		snprintf(type, sizeof(type), "size");
		snprintf(def, sizeof(def), "%" PRIu64 "G", f->def >> 30);
		break;
	case SPEC_ENUM:
		for (unsigned i = 0; f->words[i]; i++) {
			size_t n = strlen(type);

			snprintf(type + n, sizeof(type) - n, "%s`%s`", i ? ", " : "", f->words[i]);
		}
		snprintf(def, sizeof(def), "`%s`", f->words[f->def]);
		break;
	case SPEC_STR:
		snprintf(type, sizeof(type), "string");
		snprintf(def, sizeof(def), "%s", f->required ? "required" : "none");
		break;
	case SPEC_OBJ:
		snprintf(type, sizeof(type), "object");
		break;
	case SPEC_LIST:
		snprintf(type, sizeof(type), "list");
		break;
	}
	snprintf(ret, size, "\n| `%s` | %s | %s%s| ", path, type, def, *def ? " " : "");
}

static void doc_limits(const struct spec_field *f, char *ret, size_t size)
{
	*ret = 0;
	if (f->kind == SPEC_U64)
		snprintf(ret, size, "%" PRIu64 " to %" PRIu64, f->min, f->max);
	else if (f->kind == SPEC_SIZE)
		snprintf(ret, size, "%" PRIu64 "M to %" PRIu64 "G", f->min >> 20, f->max >> 30);
	else if (f->kind == SPEC_LIST)
		snprintf(ret, size, "at most %" PRIu64, f->max);
	else if (f->kind == SPEC_STR)
		snprintf(ret, size, "%" PRIu64 " ", f->max);
}

static unsigned doc_check(const char *doc, const struct spec_struct *st, const char *prefix)
{
	unsigned rows = 0;

	for (const struct spec_field *f = st->field; f->name; f++, rows++) {
		char path[100], row[300], limits[60], line[600] = "";

		snprintf(path, sizeof(path), "%s%s", prefix, f->name);
		doc_row(f, path, row, sizeof(row));
		const char *at = strstr(doc, row);
		if (!at)
			fail_msg("docs/format/vm-spec.md has no row%s", row);
		snprintf(line, sizeof(line), "%.*s", (int)strcspn(at + 1, "\n"), at + 1);
		doc_limits(f, limits, sizeof(limits));
		if (!strstr(line, limits))
			fail_msg("docs/format/vm-spec.md: `%s` does not say '%s'", path, limits);
		snprintf(row, sizeof(row), "%s%s", path, f->kind == SPEC_LIST ? "[]." : ".");
		if (f->of)
			rows += doc_check(doc, f->of, row);
	}
	return rows;
}

static void test_documented(void **state)
{
	void *doc;
	size_t len;
	struct err e;
	unsigned in_doc = 0;

	if (file_read_all(SAMPAN_TOP "/docs/format/vm-spec.md", 1 << 20, &doc, &len, &e) < 0)
		fail_msg("%s", e.msg);
	unsigned rows = doc_check(doc, &vm_spec_struct, "");
	for (const char *p = doc; (p = strstr(p, "\n| `")) != NULL; p++)
		in_doc++;
	assert_int_equal(rows, in_doc);
	free(doc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refused),    cmocka_unit_test(test_long_socket),
		cmocka_unit_test(test_defaults),   cmocka_unit_test(test_not_utf8),
		cmocka_unit_test(test_round_trip), cmocka_unit_test(test_no_memory),
		cmocka_unit_test(test_documented),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
