/*
 * Exceptions and interrupts of 64-bit and 32-bit guests, and functions that may fault.
 *
 *	struct exc x;
 *	int v = catch(fn, arg, &x);	-1, or the vector that ended fn; ring 0
 *	int v = catch_user(fn, arg, &x);	the same in ring 3
 *
 * A vector with a handler (isr[]) goes there instead; one for 6 must not be there for catch_user(),
 * which ends by UD2: INT n is not possible in ring 3 of every KVM.
 */
#pragma once

#include "guest.h"

#ifdef __x86_64__
struct frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vector, err;
	uint64_t rip, cs, flags, rsp, ss;
};
struct gate {
	uint16_t off0, sel;
	uint8_t ist, attr;
	uint16_t off1;
	uint32_t off2, zero;
};
/* SDM 3A 7.7. */
struct __attribute__((packed)) tss {
	uint32_t zero;
	uint64_t rsp[3], zero1, ist[7], zero2;
	uint16_t zero3, iomap;
	uint8_t io[8193];
};
#else
struct frame {
	uint32_t edi, esi, ebp, esp0, ebx, edx, ecx, eax;
	uint32_t vector, err;
	uint32_t rip, cs, flags;
	/* Only when it came from ring 3. */
	uint32_t rsp, ss;
};
struct gate {
	uint16_t off0, sel;
	uint8_t zero, attr;
	uint16_t off1;
};
/* SDM 3A 7.2.1. */
struct __attribute__((packed)) tss {
	uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
	uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi;
	uint32_t es, cs, ss, ds, fs, gs, ldt;
	uint16_t trap, iomap;
	uint8_t io[8193];
};
#endif

struct exc {
	unsigned vector;
	ulong err, rip, cs, flags, rsp, cr2;
};

typedef void isr_fn(struct frame *f);
extern isr_fn *isr[256];
extern struct gate idt[256];
extern uint64_t gdt[];
extern struct tss tss;
extern ulong user_flags;

void exc_init(void);
int catch (void (*fn)(ulong), ulong arg, struct exc *ret);
int catch_user(void (*fn)(ulong), ulong arg, struct exc *ret);
/* Where a vector goes, when not to the stubs. */
void gate_set(unsigned vector, ulong off);
/* DPL of a gate; IST (64-bit). */
void gate_dpl(unsigned vector, unsigned dpl);
void gate_ist(unsigned vector, unsigned ist);
/* From a handler: end the function that catch() runs, as if this vector had ended it. */
void __attribute__((noreturn)) exc_leave(struct frame *f);

static inline ulong rd_cr0(void)
{
	ulong v;

	asm volatile("mov %%cr0, %0" : "=r"(v) : : "memory");
	return v;
}

static inline void wr_cr0(ulong v)
{
	asm volatile("mov %0, %%cr0" : : "r"(v) : "memory");
}

static inline ulong rd_cr2(void)
{
	ulong v;

	asm volatile("mov %%cr2, %0" : "=r"(v) : : "memory");
	return v;
}

static inline ulong rd_cr3(void)
{
	ulong v;

	asm volatile("mov %%cr3, %0" : "=r"(v) : : "memory");
	return v;
}

static inline void wr_cr3(ulong v)
{
	asm volatile("mov %0, %%cr3" : : "r"(v) : "memory");
}

static inline ulong rd_cr4(void)
{
	ulong v;

	asm volatile("mov %%cr4, %0" : "=r"(v) : : "memory");
	return v;
}

static inline void wr_cr4(ulong v)
{
	asm volatile("mov %0, %%cr4" : : "r"(v) : "memory");
}

static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t lo, hi;

	asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr) : "memory");
	return (uint64_t)hi << 32 | lo;
}

static inline void wrmsr(uint32_t msr, uint64_t v)
{
	asm volatile("wrmsr" : : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}

static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	asm volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

static inline void invlpg(const void *p)
{
	asm volatile("invlpg (%0)" : : "r"(p) : "memory");
}

static inline void cpuid(uint32_t leaf, uint32_t sub, uint32_t r[4])
{
	asm volatile("cpuid"
		     : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
		     : "a"(leaf), "c"(sub));
}

static inline ulong flags_get(void)
{
	ulong v;

	asm volatile("pushf; pop %0" : "=r"(v) : : "memory");
	return v;
}

static inline void irq_on(void)
{
	asm volatile("sti" : : : "memory");
}

static inline void irq_off(void)
{
	asm volatile("cli" : : : "memory");
}

/* Waits for an interrupt: no race between the two. */
static inline void irq_wait(void)
{
	asm volatile("sti; hlt; cli" : : : "memory");
}

/*
 * Takes the interrupts that are pending.  The window is long: where KVM emulates ring 0 it looks
 * for interrupts only every hundred instructions or so.
 */
static inline void irq_window(void)
{
	irq_on();
	for (unsigned i = 0; i < 3000; i++)
		asm volatile("pause" : : : "memory");
	irq_off();
}
