/*
 * The software CPU's page walks against a second walker written straight from SDM 3A chapter 4, and
 * its translation caches against a model of what may be stale.
 */
#include "accel/soft/mem.h"
#include "accel/soft/sys_int.h"
#include "lib/soft_rig.h"

enum {
	/* Where random tables live: pages that entries point to. */
	TABLES = 0x200000,
	TABLE_PAGES = 24,
	MAXPHY = 40,
};

static struct scpu *c;

static int setup(void **state)
{
	soft_rig_init(1);
	c = (struct scpu *)(void *)rig.cpu[0];
	/* As sync_enter() leaves it. */
	c->run->running = true;
	c->mmu->rsvd_phys = ~0ull << MAXPHY & 0x000fffffffffffffull;
	c->mmu->has_1g = c->mmu->has_nx = c->mmu->has_pse36 = true;
	return 0;
}

static int teardown(void **state)
{
	soft_rig_fini();
	return 0;
}

/* ---- the other walker ---- */

struct naive {
	bool fault;
	uint32_t err;
	uint64_t pa;
};

static uint64_t naive_load(uint64_t pa, unsigned size)
{
	uint64_t v = ~0ull;

	if (pa + size <= RIG_RAM)
		memcpy(&v, rig.ram + pa, size);
	return size == 4 ? (uint32_t)v : v;
}

static struct naive naive_fault(unsigned acc, uint32_t why)
{
	struct naive n = { .fault = true, .err = why };

	n.err |= acc & SACC_W ? 2 : 0;
	n.err |= acc & SACC_USER ? 4 : 0;
	bool nx = c->cr4 & X86_CR4_PAE && c->efer & X86_EFER_NXE;
	if (acc & SACC_X && (nx || c->cr4 & X86_CR4_SMEP))
		n.err |= 16;
	return n;
}

/* Rights as tables 4.6.1 and 4.6.2 say, in the SDM's order. */
static bool naive_ok(unsigned acc, bool w, bool u, bool nx)
{
	bool user = acc & SACC_USER, wp = c->cr0 & X86_CR0_WP;

	if (acc & SACC_X) {
		if (nx)
			return false;
		return user ? u : !(u && c->cr4 & X86_CR4_SMEP);
	}
	if (user)
		return u && (w || !(acc & SACC_W));
	if (u && c->cr4 & X86_CR4_SMAP && !(acc & SACC_AC))
		return false;
	return !(acc & SACC_W) || w || !wp;
}

static struct naive naive_32(uint64_t lin, unsigned acc)
{
	uint64_t pde = naive_load((c->cr3 & 0xfffff000) + (lin >> 22) * 4, 4);

	if (!(pde & 1))
		return naive_fault(acc, 0);
	if (pde & 0x80 && c->cr4 & X86_CR4_PSE) {
		uint64_t base = (pde & 0xffc00000) | (pde >> 13 & 0xff) << 32;

		if (pde & 1 << 21 || base >> MAXPHY)
			return naive_fault(acc, 9);
		if (!naive_ok(acc, pde & 2, pde & 4, false))
			return naive_fault(acc, 1);
		return (struct naive){ .pa = base | (lin & 0x3ff000) };
	}
	uint64_t pte = naive_load((pde & 0xfffff000) + (lin >> 12 & 1023) * 4, 4);
	if (!(pte & 1))
		return naive_fault(acc, 0);
	if (!naive_ok(acc, pde & pte & 2, pde & pte & 4, false))
		return naive_fault(acc, 1);
	return (struct naive){ .pa = pte & 0xfffff000 };
}

static struct naive naive_64(uint64_t lin, unsigned acc)
{
	bool is64 = c->efer & X86_EFER_LMA, nxe = c->efer & X86_EFER_NXE;
	bool w = true, u = true, nx = false;
	uint64_t table = c->cr3 & 0x000ffffffffff000ull;
	int level = 4;

	if (!is64) {
		uint64_t p = c->pdptr[lin >> 30 & 3];

		if (!(p & 1))
			return naive_fault(acc, 0);
		table = p & 0x000ffffffffff000ull;
		level = 2;
	}
	for (;; level--) {
		unsigned shift = 12 + 9 * (unsigned)(level - 1);
		uint64_t e = naive_load(table + (lin >> shift & 511) * 8, 8);
		uint64_t rsvd = 0x000fffffffffffffull & ~0ull << MAXPHY;
		bool page = level == 1 || (e & 0x80 && (level == 2 || level == 3));

		if (!(e & 1))
			return naive_fault(acc, 0);
		if (!nxe)
			rsvd |= 1ull << 63;
		if (!is64)
			rsvd |= 0x7ffull << 52;
		if (level == 4)
			rsvd |= 0x80;
		if (page && level == 2)
			rsvd |= 0x1fe000;
		if (page && level == 3)
			rsvd |= 0x3fffe000;
		if (e & rsvd)
			return naive_fault(acc, 9);
		w = w && e & 2;
		u = u && e & 4;
		nx = nx || e >> 63;
		if (page) {
			uint64_t in = (1ull << shift) - 1;

			if (!naive_ok(acc, w, u, nx))
				return naive_fault(acc, 1);
			return (struct naive){
				.pa = ((e & 0x000ffffffffff000ull & ~in) | (lin & in)) & ~0xfffull
			};
		}
		table = e & 0x000ffffffffff000ull;
	}
}

static struct naive naive_walk(uint64_t lin, unsigned acc)
{
	return c->cr4 & X86_CR4_PAE ? naive_64(lin, acc) : naive_32(lin, acc);
}

/* ---- random tables ---- */

static uint64_t rnd_entry(uint64_t *s, bool wide)
{
	uint64_t e = t_rnd(s) & 0x1ff;

	if (t_below(s, 10))
		e |= 1;
	if (t_below(s, 3))
		e |= 6;
	if (t_below(s, 6))
		e &= ~0x80ull;
	e |= TABLES + t_below(s, TABLE_PAGES) * 4096;
	/* A large page's low address bits are mostly 0. */
	if (e & 0x80 && t_below(s, 4))
		e &= ~0x3fe000ull;
	if (!t_below(s, 40))
		e |= t_rnd(s) & 0x3fffe000;
	if (wide && !t_below(s, 6))
		e |= 1ull << 63;
	if (wide && !t_below(s, 40))
		e |= 1ull << (12 + t_below(s, 51));
	return e;
}

/* A few entries of each table page are in use, so that walks meet them. */
static void rnd_tables(uint64_t *s, bool wide)
{
	for (unsigned p = 0; p < TABLE_PAGES; p++) {
		uint8_t *page = rig.ram + TABLES + p * 4096;

		for (unsigned n = 0; n < 4; n++) {
			if (wide)
				st_le64(page + 8 * n, rnd_entry(s, true));
			else
				st_le32(page + 4 * n, (uint32_t)rnd_entry(s, false));
		}
	}
}

static uint64_t rnd_lin(uint64_t *s, bool is64, bool wide)
{
	uint64_t lin = t_below(s, 4096);

	for (unsigned level = 0; level < 4; level++)
		lin |= t_below(s, 4) << (12 + (wide ? 9 : 10) * level);
	return is64 ? lin : (uint32_t)lin;
}

static void rnd_mode(uint64_t *s)
{
	unsigned mode = (unsigned)t_below(s, 3);

	c->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_ET | (t_below(s, 3) ? X86_CR0_WP : 0);
	c->cr4 = (mode ? X86_CR4_PAE : 0) | (t_below(s, 4) ? X86_CR4_PSE : 0) | X86_CR4_PGE |
		 (t_below(s, 2) ? X86_CR4_SMEP : 0) | (t_below(s, 2) ? X86_CR4_SMAP : 0);
	c->efer =
		(t_below(s, 3) ? X86_EFER_NXE : 0) | (mode == 2 ? X86_EFER_LME | X86_EFER_LMA : 0);
	c->cr3 = TABLES + t_below(s, TABLE_PAGES) * 4096;
	rnd_tables(s, mode);
	if (mode == 1)
		for (unsigned n = 0; n < 4; n++)
			c->pdptr[n] =
				(TABLES + t_below(s, TABLE_PAGES) * 4096) | (t_below(s, 6) ? 1 : 0);
}

static unsigned rnd_acc(uint64_t *s)
{
	static const unsigned accs[] = {
		0,       SACC_W,          SACC_X, SACC_USER, SACC_USER | SACC_W, SACC_USER | SACC_X,
		SACC_AC, SACC_AC | SACC_W
	};

	return accs[t_below(s, COUNT_OF(accs))];
}

static void check_walk(uint64_t lin, unsigned acc, uint64_t *ok, uint64_t *faults)
{
	struct naive want = naive_walk(lin, acc);
	struct sxlate x = { 0 };
	uint32_t err = mmu_translate(c, lin, acc, &x);

	if (want.fault) {
		++*faults;
		if (err != (0x80000000u | want.err))
			fail_msg("lin %#lx acc %u: error %#x, want %#x", lin, acc, err, want.err);
		return;
	}
	++*ok;
	if (err || x.pa != want.pa)
		fail_msg("lin %#lx acc %u: error %#x pa %#lx, want pa %#lx", lin, acc, err, x.pa,
			 want.pa);
	/* Now the leaf is accessed, and dirty after a store; the naive walk finds it unchanged. */
	struct naive again = naive_walk(lin, acc);
	if (again.fault || again.pa != want.pa)
		fail_msg("lin %#lx: setting A and D changed the translation", lin);
}

static void test_walks(void **state)
{
	uint64_t s = t_seed(1), ok = 0, faults = 0;

	for (unsigned round = 0; round < 3000; round++) {
		rnd_mode(&s);
		mmu_flush_all(c);
		for (unsigned n = 0; n < 60; n++)
			check_walk(rnd_lin(&s, c->efer & X86_EFER_LMA, c->cr4 & X86_CR4_PAE),
				   rnd_acc(&s), &ok, &faults);
	}
	printf("# %lu translations, %lu faults\n", (unsigned long)ok, (unsigned long)faults);
	assert_true(ok > 10000 && faults > 10000);
}

/* Accessed and dirty bits: exactly those of the entries used. */
static void test_accessed_dirty(void **state)
{
	uint64_t *t = (uint64_t *)(void *)(rig.ram + TABLES);
	struct sxlate x;

	memset(t, 0, 5 * 4096);
	c->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP;
	c->cr4 = X86_CR4_PAE;
	c->efer = X86_EFER_LME | X86_EFER_LMA;
	c->cr3 = TABLES;
	t[0] = (TABLES + 0x1000) | 7;
	t[512] = (TABLES + 0x2000) | 7;
	t[1024] = (TABLES + 0x3000) | 7;
	t[1536] = 0x5000 | 7;
	t[1537] = 0x6000 | 5;
	mmu_flush_all(c);
	assert_int_equal(mmu_translate(c, 0, 0, &x), 0);
	assert_int_equal(t[0] & 0x60, 0x20);
	assert_int_equal(t[512] & 0x60, 0x20);
	assert_int_equal(t[1536] & 0x60, 0x20);
	assert_int_equal(mmu_translate(c, 0, SACC_W, &x), 0);
	assert_int_equal(t[0] & 0x60, 0x20);
	assert_int_equal(t[1536] & 0x60, 0x60);
	assert_int_equal(mmu_translate(c, 0x1000, SACC_W, &x), 0x80000000u | 3);
	assert_int_equal(t[1537] & 0x60, 0);
}

/* PAE's pointers: bits 1, 2, 5-8 and beyond the physical address are reserved. */
static void test_pdptrs(void **state)
{
	uint64_t *t = (uint64_t *)(void *)(rig.ram + TABLES);

	for (unsigned bit = 0; bit < 64; bit++) {
		static const uint64_t rsvd = 0x1e6 | ~0ull << MAXPHY;

		memset(t, 0, 32);
		t[2] = 1 | 1ull << bit;
		assert_int_equal(mmu_load_pdptrs(c, TABLES), !(rsvd >> bit & 1));
		t[2] &= ~1ull;
		if (bit)
			assert_true(mmu_load_pdptrs(c, TABLES));
	}
}

/* ---- stale translations ---- */

enum {
	SPACES = 4,
	PAGES = 6,
	FRAMES = 8,
	FRAME0 = 0x400000,
	SPACE0 = 0x300000,
	SPACE_SIZE = 0x8000,
	/* Page 5 is global, the same in all spaces, at a place of its own. */
	GLOBAL_PAGE = PAGES - 1,
};
#define VA0 0x40000000ull

struct stale {
	/* Frame mapped now; frames that an old translation may still show, a bit each. */
	unsigned now;
	uint32_t may;
};

static struct stale stale[SPACES][PAGES];
static unsigned space_now;

static uint64_t page_va(unsigned n)
{
	/* One in a 2 MiB page of its own. */
	return VA0 + (n == 4 ? 0x200000 : n * 4096ull);
}

static uint64_t *page_entry(unsigned space, unsigned n)
{
	uint8_t *base = rig.ram + SPACE0 + space * SPACE_SIZE;

	return (uint64_t *)(void *)(n == 4 ? base + 0x2000 + 8 : base + 0x3000 + n * 8);
}

static void map_page(unsigned space, unsigned n, unsigned frame)
{
	uint64_t flags = n == 4 ? 0xe7 : n == GLOBAL_PAGE ? 0x167 : 0x67;

	/* Large frames begin at 8 MiB. */
	*page_entry(space, n) =
		(n == 4 ? 0x800000 + frame * 0x200000ull % 0x800000 : FRAME0 + frame * 4096ull) |
		flags;
	stale[space][n].now = frame;
	stale[space][n].may |= 1u << frame;
}

static void space_init(unsigned space)
{
	uint64_t *t = (uint64_t *)(void *)(rig.ram + SPACE0 + space * SPACE_SIZE);
	uint64_t base = SPACE0 + space * SPACE_SIZE;

	memset(t, 0, SPACE_SIZE);
	t[0] = (base + 0x1000) | 0x67;
	t[512 + 1] = (base + 0x2000) | 0x67;
	t[1024] = (base + 0x3000) | 0x67;
	for (unsigned n = 0; n < PAGES; n++)
		map_page(space, n, 0);
}

static uint64_t frame_value(unsigned n, unsigned frame)
{
	return n == 4 ? 100 + frame % 4 : frame;
}

/* Somewhere in the large page; the others are one place. */
static uint64_t page_off(uint64_t *s, unsigned n)
{
	static const uint32_t offs[] = { 0, 0x1000, 0x5000, 0x1ff000 };

	return n == 4 ? offs[t_below(s, COUNT_OF(offs))] : 0;
}

/* What is at the page now, by the fast path. */
static uint64_t page_value(uint64_t *s, unsigned n)
{
	const volatile uint64_t va = page_va(n) + page_off(s, n);

	c->run->trap_set = true;
	if (setjmp(c->trap))
		fail_msg("unexpected fault");
	uint64_t v = soft_ld_lin(c, NULL, va, 8);
	c->run->trap_set = false;
	return v;
}

/* After a flush only what is mapped now may be seen. */
static void settle(unsigned space, unsigned n)
{
	stale[space][n].may = 1u << stale[space][n].now;
}

static void settle_space(unsigned space, bool global)
{
	for (unsigned n = 0; n < PAGES; n++)
		if (global || n != GLOBAL_PAGE)
			settle(space, n);
}

/* The global page's translation is shared by all spaces: so is what may be stale of it. */
static void share_global(void)
{
	uint32_t may = 0;

	for (unsigned k = 0; k < SPACES; k++)
		may |= stale[k][GLOBAL_PAGE].may;
	for (unsigned k = 0; k < SPACES; k++)
		stale[k][GLOBAL_PAGE].may = may;
}

static void do_flush(uint64_t *s)
{
	unsigned n = (unsigned)t_below(s, PAGES), other = (unsigned)t_below(s, SPACES);

	/* Mostly INVLPG: the others leave little to be stale. */
	switch (t_below(s, 3) ? 0 : t_below(s, 7)) {
	case 0:
		mmu_flush_page(c, page_va(n) + page_off(s, n) + t_below(s, 4096));
		for (unsigned k = 0; k < SPACES; k++)
			if (k == space_now || n == GLOBAL_PAGE)
				settle(k, n);
		break;
	case 1:
		/* MOV to CR3 of the same space. */
		assert_true(sys_set_cr3(c, c->cr3));
		settle_space(space_now, false);
		break;
	case 2:
		mmu_invpcid(c, 0, other, page_va(n) + page_off(s, n));
		/* A global page need not go with type 0. */
		if (n != GLOBAL_PAGE)
			settle(other, n);
		break;
	case 3:
		mmu_invpcid(c, 1, other, 0);
		settle_space(other, false);
		break;
	case 4:
		mmu_invpcid(c, 2, 0, 0);
		for (unsigned k = 0; k < SPACES; k++)
			settle_space(k, true);
		break;
	case 5:
		mmu_invpcid(c, 3, 0, 0);
		for (unsigned k = 0; k < SPACES; k++)
			settle_space(k, false);
		break;
	default:
		/* CR4.PGE off and on. */
		assert_true(sys_set_cr4(c, c->cr4 & ~X86_CR4_PGE));
		assert_true(sys_set_cr4(c, c->cr4 | X86_CR4_PGE));
		for (unsigned k = 0; k < SPACES; k++)
			settle_space(k, true);
		break;
	}
}

static void do_switch(uint64_t *s)
{
	bool keep = t_below(s, 3);

	space_now = (unsigned)t_below(s, SPACES);
	assert_true(sys_set_cr3(c, (SPACE0 + space_now * SPACE_SIZE) | space_now |
					   (keep ? 1ull << 63 : 0)));
	if (!keep)
		settle_space(space_now, false);
}

static void check_pages(uint64_t *s, uint64_t *stale_seen)
{
	for (unsigned n = 0; n < PAGES; n++) {
		const struct stale *p = &stale[space_now][n];
		uint64_t v = page_value(s, n);
		bool ok = false;

		for (unsigned f = 0; f < FRAMES; f++)
			ok |= p->may >> f & 1 && frame_value(n, f) == v;
		if (!ok)
			fail_msg("space %u page %u shows %lu, mapped %u, may %#x", space_now, n,
				 (unsigned long)v, p->now, p->may);
		*stale_seen += v != frame_value(n, p->now);
	}
}

static void spaces_init(void)
{
	for (unsigned f = 0; f < FRAMES; f++)
		st_le64(rig.ram + FRAME0 + f * 4096, frame_value(0, f));
	for (unsigned f = 0; f < 4; f++)
		for (unsigned at = 0; at < 0x200000; at += 0x1000)
			st_le64(rig.ram + 0x800000 + f * 0x200000 + at, frame_value(4, f));
	memset(stale, 0, sizeof(stale));
	for (unsigned k = 0; k < SPACES; k++)
		space_init(k);
	struct cpu_state *st = soft_rig_get(0);
	for (unsigned n = 0; n < 6; n++)
		st->seg[n] = rig_seg(n == X86_CS ? 8 : 16, n == X86_CS ? 0xa09b : 0xc093);
	st->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP;
	st->cr4 = X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PCIDE;
	st->efer = X86_EFER_LME | X86_EFER_LMA;
	st->cr3 = SPACE0;
	soft_rig_set(0, st);
	space_now = 0;
}

static void test_stale(void **state)
{
	uint64_t s = t_seed(2), stale_seen = 0;

	spaces_init();
	for (unsigned round = 0; round < 300000; round++) {
		unsigned space = (unsigned)t_below(&s, SPACES), n = (unsigned)t_below(&s, PAGES);
		unsigned frame = (unsigned)t_below(&s, FRAMES);

		if (t_below(&s, 3))
			space = space_now;
		switch (t_below(&s, 10)) {
		case 0:
		case 1:
		case 2:
			if (n == GLOBAL_PAGE)
				for (unsigned k = 0; k < SPACES; k++)
					map_page(k, n, frame);
			else
				map_page(space, n, frame);
			share_global();
			break;
		case 3:
			do_switch(&s);
			break;
		case 4:
		case 5:
			do_flush(&s);
			break;
		default:
			check_pages(&s, &stale_seen);
			break;
		}
	}
	/* The test would be empty if nothing were ever cached. */
	printf("# %lu stale translations seen\n", (unsigned long)stale_seen);
	assert_true(stale_seen > 1000);
}

/* Device memory never enters the cache; a crossing access is two. */
static void test_mmio(void **state)
{
	soft_rig_long(0x1000);
	rig.dev_value = 41;
	c->run->trap_set = true;
	if (setjmp(c->trap))
		fail_msg("unexpected fault");
	for (unsigned n = 0; n < 4; n++)
		assert_int_equal(soft_ld_lin(c, NULL, RIG_MMIO + 8, 4), 42);
	soft_st_lin(c, NULL, RIG_MMIO + 16, 4, 7);
	soft_st_lin(c, NULL, RIG_MMIO + 16, 4, 9);
	assert_int_equal(rig.dev_writes, 2);
	assert_int_equal(rig.dev_value, 9);
	soft_st_lin(c, NULL, 0x5ffe, 4, 0x11223344);
	assert_int_equal(ld_le32(rig.ram + 0x5ffe), 0x11223344);
	assert_int_equal(soft_ld_lin(c, NULL, 0x5ffd, 8) >> 8 & 0xffffffff, 0x11223344);
	c->run->trap_set = false;
}

/* Tables of the system above 4 GiB, across a page, while 32-bit code of long mode runs. */
static void test_compat_system(void **state)
{
	uint64_t *pdpt = (uint64_t *)(void *)(rig.ram + RIG_PML4 + 0x1000);
	uint64_t *pd = (uint64_t *)(void *)(rig.ram + RIG_PML4 + 0x4000);

	soft_rig_long(0x1000);
	pdpt[4] = (RIG_PML4 + 0x4000) | 3;
	pd[0] = 0x400000 | 0x83;
	struct cpu_state *s = soft_rig_get(0);
	s->seg[X86_CS].attr = 0xc09b;
	soft_rig_set(0, s);
	assert_int_equal(c->code_size, 32);
	st_le64(rig.ram + 0x400ffc, 0x1122334455667788);
	assert_int_equal(soft_sys_ld(c, NULL, 0x100000ffc, 8), 0x1122334455667788);
	/* Not canonical: a fault, whoever's code runs. */
	c->run->trap_set = true;
	c->ev.exc_pending = 0;
	if (!setjmp(c->trap))
		(void)soft_sys_ld(c, NULL, 0x800000000000, 8);
	assert_int_equal(c->ev.exc_pending, 1);
	assert_int_equal(c->ev.exc_vector, X86_EXC_GP);
	c->ev.exc_pending = 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_walks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_accessed_dirty, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pdptrs, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stale, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mmio, setup, teardown),
		cmocka_unit_test_setup_teardown(test_compat_system, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
