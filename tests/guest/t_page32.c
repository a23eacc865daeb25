/* Paging without long mode: two levels with and without 4 MiB pages, then PAE (SDM 3A 4.3, 4.4). */
#include "exc.h"

static uint32_t dir[1024] __attribute__((aligned(4096)));
static uint32_t table[1024] __attribute__((aligned(4096)));
static uint64_t pdpt[4] __attribute__((aligned(32)));
static uint64_t pae_dir[4][512] __attribute__((aligned(4096)));
static uint64_t pae_table[512] __attribute__((aligned(4096)));
static uint8_t page_a[4096] __attribute__((aligned(4096)));
static uint8_t page_b[4096] __attribute__((aligned(4096)));

#define VA 0x40000000ul
static volatile uint32_t *const at = (uint32_t *)VA;

static void do_load(ulong a)
{
	(void)*(volatile uint32_t *)a;
}
static void do_store(ulong a)
{
	*(volatile uint32_t *)a = 0x5707e;
}
static void do_call(ulong a)
{
	((void (*)(void))a)();
}
static void do_cr3(ulong a)
{
	wr_cr3(a);
}

static void test_two_levels(void)
{
	struct exc x;

	for (unsigned i = 0; i < 1024; i++)
		dir[i] = i << 22 | 0x87;
	dir[VA >> 22] = (uint32_t)table | 7;
	table[0] = (uint32_t)page_a | 7;
	*(uint32_t *)page_a = 0xaaaa;
	*(uint32_t *)page_b = 0xbbbb;
	wr_cr4(rd_cr4() | 1 << 4);
	wr_cr3((ulong)dir);
	wr_cr0(rd_cr0() | 1ul << 31);
	check("mapped", *at, 0xaaaa);
	check("accessed", table[0] & 0x60, 0x20);
	*at = 1;
	check("dirty", table[0] & 0x60, 0x60);
	check("4 MiB accessed", dir[0] & 0x20, 0x20);
	table[0] = (uint32_t)page_b | 5;
	invlpg((void *)at);
	check("other page", *at, 0xbbbb);
	check("read-only", catch (do_store, VA, &x), 14);
	check("read-only error", x.err, 3);
	check("read-only cr2", x.cr2, VA);
	check("read-only user", catch_user(do_store, VA, &x), 14);
	check("read-only user error", x.err, 7);
	check("not mapped", catch (do_load, VA + 0x1000, &x), 14);
	check("not mapped error", x.err, 0);
	table[0] = (uint32_t)page_b | 3;
	invlpg((void *)at);
	check("kernel page", catch_user(do_load, VA, &x), 14);
	check("kernel page error", x.err, 5);
	wr_cr0(rd_cr0() & ~(1ul << 31));
	check("off again", *(uint32_t *)page_b, 0xbbbb);
}

static void test_pae(void)
{
	struct exc x;

	for (unsigned d = 0; d < 4; d++) {
		pdpt[d] = (uint32_t)pae_dir[d] | 1;
		for (unsigned i = 0; i < 512; i++)
			pae_dir[d][i] = (uint64_t)(d * 512 + i) << 21 | 0x87;
	}
	pae_dir[1][0] = (uint32_t)pae_table | 7;
	pae_table[0] = (uint32_t)page_a | 7;
	*(uint32_t *)page_a = 0xa0a0;
	wr_cr4(rd_cr4() | 1 << 5);
	wr_cr3((ulong)pdpt);
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 1 << 11);
	wr_cr0(rd_cr0() | 1ul << 31);
	check("pae mapped", *at, 0xa0a0);
	*at = 0xc3;
	check("pae dirty", pae_table[0] & 0x60, 0x60);
	check("pae execute", catch (do_call, VA, &x), -1);
	pae_table[0] |= 1ull << 63;
	invlpg((void *)at);
	check("pae nx", catch (do_call, VA, &x), 14);
	check("pae nx error", x.err, 0x11);
	check("pae nx user", catch_user(do_call, VA, &x), 14);
	check("pae nx user error", x.err, 0x15);
	pae_table[0] = (uint32_t)page_b | 5;
	invlpg((void *)at);
	check("pae read-only", catch (do_store, VA, &x), 14);
	check("pae read-only error", x.err, 3);
	/* The four pointers are registers: a change in memory is seen at the next load of CR3. */
	pae_table[0] = (uint32_t)page_b | 7;
	pae_table[1] = 1ull << 51 | 7;
	wr_cr3(rd_cr3());
	check("pae reserved", catch (do_load, VA + 0x1000, &x), 14);
	check("pae reserved error", x.err, 9);
	/* Reserved bits in a pointer: #GP at the load (SDM 3A 4.4.1). */
	pdpt[2] |= 2;
	check("bad pointer", catch (do_cr3, (ulong)pdpt, &x), 13);
	pdpt[2] &= ~2ull;
	check("good pointer", catch (do_cr3, (ulong)pdpt, &x), -1);
	wr_cr0(rd_cr0() & ~(1ul << 31));
}

static void do_paging(ulong a)
{
	wr_cr3((ulong)dir);
	wr_cr0(rd_cr0() | 1ul << 31);
	wr_cr0(rd_cr0() & ~(1ul << 31));
}

int main(void)
{
	struct exc x;

	for (unsigned i = 0; i < 1024; i++)
		dir[i] = i << 22 | 0x87;
	wr_cr4(rd_cr4() | 1 << 4);
	if (emulated() && catch (do_paging, 0, &x) == 13)
		skip("this host's KVM has no paging outside long mode");
	test_two_levels();
	test_pae();
	return 0;
}
