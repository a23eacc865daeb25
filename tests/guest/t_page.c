/*
 * Paging in long mode: rights and error codes, accessed and dirty bits, flushes, NX, WP, large
 * pages, reserved bits, SMEP and SMAP where CPUID offers them (SDM 3A 4.5-4.10).
 */
#include "map.h"

/* Beyond what start64.S maps. */
#define VA 0x200000000000ul - 0x40000000

static volatile uint32_t *const at = (uint32_t *)(VA);

static void __attribute__((naked)) do_load(ulong a)
{
	asm volatile("movl (%rdi), %eax; ret");
}
static void __attribute__((naked)) do_store(ulong a)
{
	asm volatile("movl $0x600d, (%rdi); ret");
}
static void __attribute__((naked)) do_rmw(ulong a)
{
	asm volatile("lock addl $1, (%rdi); ret");
}
static void __attribute__((naked)) do_call(ulong a)
{
	asm volatile("jmp *%rdi");
}
static void __attribute__((naked)) do_stac_load(ulong a)
{
	asm volatile("pushfq; orl $0x40000, (%rsp); popfq; movl (%rdi), %eax;"
		     "pushfq; andl $~0x40000, (%rsp); popfq; ret");
}
static void __attribute__((naked)) do_wr_efer(ulong a)
{
	asm volatile("movl $0xc0000080, %ecx; rdmsr; movl %edi, %eax; wrmsr; ret");
}

/* Kernel load, kernel store, user load, user store of a page with this entry, as four hex digits:
 * 0 is no fault, else error code | 8. */
static uint64_t rights(uint64_t entry)
{
	struct exc x;
	uint64_t r = 0;

	map(VA, entry);
	invlpg((void *)VA);
	for (unsigned i = 0; i < 4; i++) {
		void (*fn)(ulong) = i & 1 ? do_store : do_load;
		int v = i & 2 ? catch_user(fn, VA, &x) : catch (fn, VA, &x);

		r = r << 8 | (v < 0 ? 0 : v == 14 ? x.err | 0x80 : 0xff);
	}
	return r;
}

static void test_rights(uint64_t page)
{
	check("user rw", rights(page | 7), 0);
	check("user ro", rights(page | 5), 0x00830087);
	check("kernel rw", rights(page | 3), 0x00008587);
	check("kernel ro", rights(page | 1), 0x00838587);
	check("none", rights(page | 6), 0x80828486);
	wr_cr0(rd_cr0() & ~(1ul << 16));
	check("user ro without wp", rights(page | 5), 0x00000087);
	check("kernel ro without wp", rights(page | 1), 0x00008587);
	wr_cr0(rd_cr0() | 1ul << 16);
}

static void test_ad(uint64_t page)
{
	struct exc x;
	volatile uint64_t *e = map(VA, page | PTE_P | PTE_W | PTE_U);

	invlpg((void *)at);
	check("fresh", *e & (PTE_A | PTE_D), 0);
	(void)*at;
	check("read sets a", *e & (PTE_A | PTE_D), PTE_A);
	*at = 1;
	check("write sets d", *e & (PTE_A | PTE_D), PTE_A | PTE_D);
	*e &= ~(uint64_t)(PTE_A | PTE_D);
	invlpg((void *)at);
	*at = 2;
	check("write sets both", *e & (PTE_A | PTE_D), PTE_A | PTE_D);
	*e &= ~(uint64_t)(PTE_A | PTE_D);
	invlpg((void *)at);
	check("user rmw", catch_user(do_rmw, VA, &x), -1);
	check("user rmw sets both", *e & (PTE_A | PTE_D), PTE_A | PTE_D);
	*e = page | PTE_P | PTE_U;
	invlpg((void *)at);
	check("refused store", catch (do_store, VA, &x), 14);
	check("refused store sets no d", *e & PTE_D, 0);
	volatile uint64_t *dir = map_entry(VA, 2);
	*dir &= ~(uint64_t)PTE_A;
	wr_cr3(rd_cr3());
	(void)*at;
	check("directory a", *dir & (PTE_A | PTE_D), PTE_A);
}

static void test_flush(uint64_t a, uint64_t b)
{
	*(volatile uint32_t *)a = 0xaaaa;
	*(volatile uint32_t *)b = 0xbbbb;
	volatile uint64_t *e = map(VA, a | 7);
	invlpg((void *)at);
	check("page a", *at, 0xaaaa);
	*e = b | 7;
	invlpg((void *)at);
	check("page b by invlpg", *at, 0xbbbb);
	*e = a | 7;
	wr_cr3(rd_cr3());
	check("page a by cr3", *at, 0xaaaa);
	wr_cr4(rd_cr4() | 1 << 7);
	*e = b | 7 | PTE_G;
	invlpg((void *)at);
	check("global page b", *at, 0xbbbb);
	*e = a | 7 | PTE_G;
	wr_cr4(rd_cr4() & ~(1ul << 7));
	check("page a by cr4.pge", *at, 0xaaaa);
	*e = 0;
	wr_cr3(rd_cr3());
	struct exc x;
	check("gone", catch (do_load, VA, &x), 14);
	/* Becoming present needs no flush (SDM 3A 4.10.4.3). */
	*e = b | 7;
	check("there again", *at, 0xbbbb);
}

static void test_nx(uint64_t page)
{
	struct exc x;

	*(volatile uint8_t *)page = 0xc3;
	map(VA, page | 7);
	invlpg((void *)at);
	check("execute", catch (do_call, VA, &x), -1);
	map(VA, page | 7 | PTE_NX);
	invlpg((void *)at);
	check("nx", catch (do_call, VA, &x), 14);
	check("nx error", x.err, 0x11);
	check("nx cr2", x.cr2, VA);
	check("nx user", catch_user(do_call, VA, &x), 14);
	check("nx user error", x.err, 0x15);
	check("nx can be read", catch (do_load, VA, &x), -1);
}

static void test_large(uint64_t page)
{
	struct exc x;
	volatile uint64_t *e = map_entry(VA + 0x200000, 2);
	volatile uint32_t *p = (uint32_t *)(VA + 0x200000 + (page & 0x1fffff));

	*e = (page & ~0x1ffffful) | 0x87;
	*(volatile uint32_t *)page = 0x2b16;
	check("2 MiB", *p, 0x2b16);
	check("2 MiB a", *e & (PTE_A | PTE_D), PTE_A);
	*p = 1;
	check("2 MiB d", *e & (PTE_A | PTE_D), PTE_A | PTE_D);
	/* Bit 13 is reserved in a 2 MiB entry (SDM 3A table 4-18). */
	*e |= 1 << 13;
	wr_cr3(rd_cr3());
	check("2 MiB reserved", catch (do_load, (ulong)p, &x), 14);
	check("2 MiB reserved error", x.err, 9);
	check("2 MiB reserved user", catch_user(do_store, (ulong)p, &x), 14);
	check("2 MiB reserved user error", x.err, 15);
	*e = 0;
	/* And bit 51 of any address, which no processor here has. */
	map(VA, page | 7 | 1ull << 51);
	invlpg((void *)at);
	check("reserved", catch (do_load, VA, &x), 14);
	check("reserved error", x.err, 9);
}

static void test_smep_smap(uint64_t page)
{
	uint32_t r[4];
	struct exc x;

	cpuid(7, 0, r);
	bool smep = r[1] >> 7 & 1, smap = r[1] >> 20 & 1;
	*(volatile uint8_t *)page = 0xc3;
	map(VA, page | 7);
	invlpg((void *)at);
	/* Our own code is on pages for users: kernel pages for it first. */
	*map_entry(0, 2) &= ~4ull;
	*map_entry(0x200000, 2) &= ~4ull;
	wr_cr3(rd_cr3());
	if (smep)
		wr_cr4(rd_cr4() | 1 << 20);
	check("smep", catch (do_call, VA, &x), smep ? 14 : -1);
	check("smep error", smep ? x.err : 0x11, 0x11);
	if (smap)
		wr_cr4(rd_cr4() | 1 << 21);
	check("smap", catch (do_load, VA, &x), smap ? 14 : -1);
	check("smap error", smap ? x.err : 1, 1);
	check("smap with ac", catch (do_stac_load, VA, &x), -1);
	wr_cr4(rd_cr4() & ~(3ul << 20));
	*map_entry(0, 2) |= 4;
	*map_entry(0x200000, 2) |= 4;
	wr_cr3(rd_cr3());
}

static void test_modes(void)
{
	struct exc x;

	/* SDM 3A 4.1.2: LME cannot change while paging is on; PAE cannot go in long mode. */
	check("efer.lme off", catch (do_wr_efer, 0x800, &x), 13);
}

int main(void)
{
	uint64_t a = (uint64_t)map_page(), b = (uint64_t)map_page();

	wr_cr3(rd_cr3());
	test_rights(a);
	test_ad(a);
	test_flush(a, b);
	test_nx(a);
	test_large(a);
	test_smep_smap(a);
	test_modes();
	return 0;
}
