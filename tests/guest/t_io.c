/* Port and memory I/O of each width, string I/O, accesses that cross, ROM (SDM 1 18). */
#include "exc.h"

static void last(const char *name, unsigned port, unsigned size, unsigned off, bool write)
{
	check(name, inl((uint16_t)port) & 0x1fffff, size | off << 8 | (unsigned)write << 20);
}

static void test_ports(void)
{
	outb(PORT_SCRATCH, 0x11);
	last("outb", PORT_LAST_IO, 1, 0, true);
	outw(PORT_SCRATCH + 2, 0x3322);
	last("outw", PORT_LAST_IO, 2, 2, true);
	outl(PORT_SCRATCH + 4, 0x77665544);
	last("outl", PORT_LAST_IO, 4, 4, true);
	check("inb", inb(PORT_SCRATCH + 4), 0x44);
	last("inb seen", PORT_LAST_IO, 1, 4, false);
	check("inw", inw(PORT_SCRATCH + 2), 0x3322);
	check("inl", inl(PORT_SCRATCH + 4), 0x77665544);
	check("inl unaligned", inl(PORT_SCRATCH + 3), 0x66554433);
	check("nobody", inl(0x5f0), 0xffffffff);
	ulong rax = ~0ul;
	asm volatile("inb %1, %b0" : "+a"(rax) : "d"((uint16_t)PORT_SCRATCH));
	check("inb keeps the rest", rax, ~0xfful | 0x11);
	asm volatile("inl %w1, %k0" : "+a"(rax) : "d"((uint16_t)(PORT_SCRATCH + 4)));
	check("inl clears the high half", rax, 0x77665544);
}

static void test_strings(void)
{
	static uint8_t buf[64];
	static const uint32_t words[4] = { 0x03020100, 0x07060504, 0x0b0a0908, 0x0f0e0d0c };
	const void *src = words;
	void *dst = buf;
	ulong n = 4;

	asm volatile("rep outsl" : "+S"(src), "+c"(n) : "d"((uint16_t)PORT_SCRATCH) : "memory");
	check("rep outsl count", n, 0);
	check("rep outsl rsi", (ulong)src, (ulong)(words + 4));
	check("rep outsl last", inl(PORT_SCRATCH), 0x0f0e0d0c);
	n = 3;
	outl(PORT_SCRATCH, 0xa3a2a1a0);
	asm volatile("rep insw" : "+D"(dst), "+c"(n) : "d"((uint16_t)PORT_SCRATCH) : "memory");
	check("rep insw rdi", (ulong)dst, (ulong)(buf + 6));
	check("rep insw data", *(uint64_t *)buf, 0x0000a1a0a1a0a1a0);
	n = 2;
	dst = buf + 17;
	asm volatile("std; rep insb; cld"
		     : "+D"(dst), "+c"(n)
		     : "d"((uint16_t)PORT_SCRATCH)
		     : "memory");
	check("insb down rdi", (ulong)dst, (ulong)(buf + 15));
	check("insb down data", *(uint32_t *)(buf + 15), 0x00a0a000);
	n = 0;
	asm volatile("rep insl" : "+D"(dst), "+c"(n) : "d"((uint16_t)PORT_SCRATCH) : "memory");
	check("rep with 0", (ulong)dst, (ulong)(buf + 15));
}

static void test_mmio(void)
{
	volatile uint8_t *m = (uint8_t *)BOARD_MMIO;

	m[0] = 0x81;
	last("store 1", PORT_LAST_MEM, 1, 0, true);
	*(volatile uint16_t *)(m + 2) = 0x8382;
	last("store 2", PORT_LAST_MEM, 2, 2, true);
	*(volatile uint32_t *)(m + 4) = 0x87868584;
	last("store 4", PORT_LAST_MEM, 4, 4, true);
	*(volatile uint64_t *)(m + 8) = 0x8f8e8d8c8b8a8988;
	last("store 8", PORT_LAST_MEM, 8, 8, true);
	check("load 8", *(volatile uint64_t *)(m + 8), 0x8f8e8d8c8b8a8988);
	last("load 8 seen", PORT_LAST_MEM, 8, 8, false);
	check("load 4", *(volatile uint32_t *)(m + 6), 0x89888786);
	check("load 1 signed", *(volatile int8_t *)(m + 15), (int8_t)0x8f);
	check("load 1 zero", *(volatile uint8_t *)(m + 15), 0x8f);
	uint64_t v = 0;
	asm volatile("movslq %1, %0" : "=r"(v) : "m"(*(uint32_t *)(m + 4)));
	check("movslq", v, 0xffffffff87868584);
	asm volatile("addl $1, %0" : "+m"(*(uint32_t *)(m + 4)));
	check("add in place", *(volatile uint32_t *)(m + 4), 0x87868585);
	uint32_t r = 5;
	asm volatile("xchgl %0, %1" : "+r"(r), "+m"(*(uint32_t *)(m + 4)));
	check("xchg got", r, 0x87868585);
	check("xchg put", *(volatile uint32_t *)(m + 4), 5);
	asm volatile("movl $5, %%eax; lock cmpxchgl %1, %0"
		     : "+m"(*(uint32_t *)(m + 4))
		     : "r"(9)
		     : "eax");
	check("lock cmpxchg", *(volatile uint32_t *)(m + 4), 9);
	asm volatile("orb $0x40, %0" : "+m"(*(uint8_t *)(m + 4)));
	check("or 1", *(volatile uint32_t *)(m + 4), 0x49);
	check("nobody", *(volatile uint32_t *)(BOARD_MMIO + 0x8000), 0xffffffff);
	ulong sp;
	asm volatile("movq %%rsp, %0; movq %1, %%rsp; popq %%rax; movq %0, %%rsp"
		     : "=&r"(sp)
		     : "r"(m + 8)
		     : "rax", "memory");
	last("pop", PORT_LAST_MEM, 8, 8, false);
}

static void test_mmio_strings(void)
{
	static uint32_t buf[8];
	volatile uint32_t *m = (uint32_t *)(BOARD_MMIO + 0x100);
	void *d = (void *)m;
	const void *s = buf;
	ulong n = 8;

	for (unsigned i = 0; i < 8; i++)
		buf[i] = i * 0x01010101;
	asm volatile("rep movsl" : "+S"(s), "+D"(d), "+c"(n) : : "memory");
	check("movs to mmio", m[7], 0x07070707);
	memset(buf, 0, sizeof(buf));
	s = (void *)m;
	d = buf;
	n = 8;
	asm volatile("rep movsl" : "+S"(s), "+D"(d), "+c"(n) : : "memory");
	check("movs from mmio", buf[3], 0x03030303);
	d = (void *)m;
	n = 4;
	asm volatile("rep stosl" : "+D"(d), "+c"(n) : "a"(0x12345678) : "memory");
	check("stos to mmio", m[3], 0x12345678);
	check("stos to mmio end", m[4], 0x04040404);
}

static void test_crossing(void)
{
	/* The last two bytes of the device, and two of nobody. */
	volatile uint8_t *m = (uint8_t *)BOARD_MMIO + 4094;

	m[0] = 0x11;
	m[1] = 0x22;
	check("crossing load", *(volatile uint32_t *)m, 0xffff2211);
	*(volatile uint32_t *)m = 0x44332211;
	check("crossing store", *(volatile uint16_t *)m, 0x2211);
}

static void test_rom(void)
{
	volatile uint32_t *rom = (uint32_t *)BOARD_ROM;

	check("rom", rom[0], 0x5a5a5a5a);
	rom[0] = 1;
	check("rom after a store", rom[0], 0x5a5a5a5a);
}

int main(void)
{
	test_ports();
	test_strings();
	test_mmio();
	test_mmio_strings();
	test_crossing();
	test_rom();
	return 0;
}
