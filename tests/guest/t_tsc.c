/* Time: the TSC, its MSRs, RDTSCP, CR4.TSD, kvmclock's page (Linux virt/kvm/x86/msr.rst). */
#include "exc.h"

enum {
	MSR_TSC = 0x10,
	MSR_TSC_ADJUST = 0x3b,
	MSR_TSC_AUX = 0xc0000103,
	MSR_HWCR = 0xc0010015,
	HWCR_TSC_FREQ_SEL = 1 << 24,
	MSR_SYSTEM_TIME = 0x4b564d01,
	MSR_WALL_CLOCK = 0x4b564d00,
};

struct __attribute__((packed)) time_page {
	volatile uint32_t version, pad;
	volatile uint64_t tsc, system_ns;
	volatile uint32_t mul;
	volatile int8_t shift;
	volatile uint8_t flags, pad2[2];
};
static struct time_page page __attribute__((aligned(64)));
static struct {
	volatile uint32_t version, sec, nsec;
} wall __attribute__((aligned(64)));

static void do_rdtsc(ulong a)
{
	(void)rdtsc();
}

static uint32_t aux;

static void do_rdtscp(ulong a)
{
	uint32_t lo, hi;

	asm volatile("rdtscp" : "=a"(lo), "=d"(hi), "=c"(aux));
}

static void test_tsc(void)
{
	struct exc x;
	uint64_t last = rdtsc(), back = 0;

	for (unsigned i = 0; i < 2000; i++) {
		uint64_t now = rdtsc();

		back += now <= last;
		last = now;
	}
	check("forward", back, 0);
	check("user", catch_user(do_rdtsc, 0, &x), -1);
	wr_cr4(rd_cr4() | 4);
	check("tsd", catch (do_rdtsc, 0, &x), -1);
	/* An emulating KVM does not pass CR4.TSD on to ring 3. */
	check("tsd user", catch_user(do_rdtsc, 0, &x), emulated() ? -1 : 13);
	check("tsd user rdtscp", catch_user(do_rdtscp, 0, &x), emulated() ? -1 : 13);
	wr_cr4(rd_cr4() & ~4ul);
	wrmsr(MSR_TSC, 1ull << 40);
	uint64_t now = rdtsc();
	bool near = now >= 1ull << 40 && now < (1ull << 40) + 20000000000;
	/* An emulating KVM lets the guest see the host's TSC, whatever was written. */
	check("written", near || emulated(), 1);
}

static void test_tscp(void)
{
	struct exc x;
	uint32_t r[4];

	cpuid(0x80000001, 0, r);
	/* The same lines where CPUID does not offer it. */
	bool has = r[3] >> 27 & 1;
	if (has)
		wrmsr(MSR_TSC_AUX, 0x1234);
	check("rdtscp", has ? catch (do_rdtscp, 0, &x) : -1, -1);
	check("aux", has ? aux : 0x1234, 0x1234);
	check("aux msr", has ? rdmsr(MSR_TSC_AUX) : 0x1234, 0x1234);
}

static void do_hwcr(ulong a)
{
	wrmsr(MSR_HWCR, a);
}

/* AMD's way to say that the TSC has a fixed rate; Linux takes a 0 for a firmware's bug. */
static void test_hwcr(void)
{
	struct exc x;
	uint32_t r[4];

	cpuid(0, 0, r);
	bool amd = r[1] == 0x68747541;
	cpuid(0x80000007, 0, r);
	bool fixed = r[3] >> 8 & 1;
	bool set = amd && fixed && rdmsr(MSR_HWCR) & HWCR_TSC_FREQ_SEL;
	/* Before Linux 6.8 KVM refuses the bit. */
	bool cannot = amd && fixed && !set && catch (do_hwcr, HWCR_TSC_FREQ_SEL, &x) == 13;
	check("fixed rate", !amd || !fixed || set || cannot, 1);
}

/* Of the page's fields, as the guest of Linux does it. */
static uint64_t page_ns(void)
{
	uint32_t v;
	uint64_t ns;

	do {
		v = page.version;
		uint64_t delta = rdtsc() - page.tsc;
		delta = page.shift >= 0 ? delta << page.shift : delta >> -page.shift;
		ns = page.system_ns + (uint64_t)((unsigned __int128)delta * page.mul >> 32);
	} while (v & 1 || v != page.version);
	return ns;
}

static void test_kvmclock(void)
{
	uint32_t r[4];

	cpuid(0x40000000, 0, r);
	check("hypervisor leaves", r[0] >= 0x40000001, 1);
	check("signature", r[1], 0x4b4d564b);
	cpuid(0x40000001, 0, r);
	if (!(r[0] >> 3 & 1)) {
		note("no kvmclock");
		return;
	}
	wrmsr(MSR_SYSTEM_TIME, (ulong)&page | 1);
	/* Filled when the vCPU next enters. */
	for (unsigned i = 0; i < 1000 && !page.mul; i++)
		inb(PORT_SCRATCH);
	check("filled", page.mul != 0 && !(page.version & 1), 1);
	uint64_t a = page_ns();
	uint32_t host_a = board(CMD_TIME, 0, 0);
	while (board(CMD_TIME, 0, 0) - host_a < 50)
		;
	uint64_t b = page_ns();
	check("50 ms are 50 ms", b - a > 45000000 && b - a < 1000000000, 1);
	wrmsr(MSR_WALL_CLOCK, (ulong)&wall);
	/* After 2020. */
	check("wall clock", wall.sec > 1577836800 || wall.sec + page_ns() / 1000000000 > 1577836800,
	      1);
	wrmsr(MSR_SYSTEM_TIME, 0);
}

int main(void)
{
	test_tsc();
	test_tscp();
	test_hwcr();
	test_kvmclock();
	return 0;
}
