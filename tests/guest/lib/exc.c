#include "exc.h"

#include "sel.h"

isr_fn *isr[256];
struct tss tss __attribute__((aligned(4096)));
static bool catching;
static struct exc *caught;
static uint8_t user_stack[8192] __attribute__((aligned(16)));
static uint8_t trap_stack[8192] __attribute__((aligned(16)));

extern char exc_stubs[], user_done[];
int exc_enter(void (*fn)(ulong), ulong arg, void *stack);
void __attribute__((noreturn)) exc_return(int value);
void exc_trap(struct frame *f);

enum {
	GATE_INT = 0x8e,
};

void gate_set(unsigned v, ulong off)
{
	idt[v].off0 = (uint16_t)off;
	idt[v].sel = SEL_KCODE;
	idt[v].attr = GATE_INT;
	idt[v].off1 = (uint16_t)(off >> 16);
#ifdef __x86_64__
	idt[v].off2 = (uint32_t)(off >> 32);
#endif
}

void gate_dpl(unsigned vector, unsigned dpl)
{
	idt[vector].attr = (uint8_t)(GATE_INT | dpl << 5);
}

#ifdef __x86_64__
static uint8_t ist_stack[8192] __attribute__((aligned(16)));

void gate_ist(unsigned vector, unsigned ist)
{
	idt[vector].ist = (uint8_t)ist;
}

static void tss_init(void)
{
	ulong base = (ulong)&tss;

	tss.rsp[0] = (ulong)(trap_stack + sizeof(trap_stack));
	tss.ist[0] = (ulong)(ist_stack + sizeof(ist_stack));
	tss.iomap = sizeof(tss);
	gdt[SEL_TSS / 8] = ((sizeof(tss) - 1) & 0xffff) | (base & 0xffffff) << 16 | 0x89ull << 40 |
			   (base >> 24 & 0xff) << 56;
	gdt[SEL_TSS / 8 + 1] = base >> 32;
}
#else
static void tss_init(void)
{
	ulong base = (ulong)&tss;

	tss.esp0 = (ulong)(trap_stack + sizeof(trap_stack));
	tss.ss0 = SEL_KDATA;
	tss.iomap = sizeof(tss);
	gdt[SEL_TSS / 8] = ((sizeof(tss) - 1) & 0xffff) | (uint64_t)(base & 0xffffff) << 16 |
			   0x89ull << 40 | (uint64_t)(base >> 24) << 56;
}
#endif

void exc_init(void)
{
	struct __attribute__((packed)) {
		uint16_t limit;
		ulong base;
	} desc = { sizeof(struct gate) * 256 - 1, (ulong)idt };

	for (unsigned v = 0; v < 256; v++)
		gate_set(v, (ulong)exc_stubs + v * 16);
	tss_init();
	asm volatile("ltr %w0" : : "r"(SEL_TSS));
	asm volatile("lidt %0" : : "m"(desc));
}

void exc_leave(struct frame *f)
{
	catching = false;
	if (caught) {
		*caught = (struct exc){
			.vector = (unsigned)f->vector,
			.err = f->err,
			.rip = f->rip,
			.cs = f->cs,
			.flags = f->flags,
			.rsp = f->rsp,
			.cr2 = rd_cr2(),
		};
	}
	exc_return((int)f->vector);
}

void exc_trap(struct frame *f)
{
	if (isr[f->vector]) {
		isr[f->vector](f);
		return;
	}
	if (catching && f->vector == 6 && f->rip == (ulong)user_done)
		exc_return(-1);
	if (catching)
		exc_leave(f);
	print("unexpected vector %x error %x at %x cr2 %x\n", (uint64_t)f->vector, (uint64_t)f->err,
	      (uint64_t)f->rip, (uint64_t)rd_cr2());
	leave(99);
}

int catch (void (*fn)(ulong), ulong arg, struct exc *ret)
{
	catching = true;
	caught = ret;
	int v = exc_enter(fn, arg, NULL);
	catching = false;
	return v;
}

int catch_user(void (*fn)(ulong), ulong arg, struct exc *ret)
{
	catching = true;
	caught = ret;
	int v = exc_enter(fn, arg, user_stack + sizeof(user_stack));
	catching = false;
	return v;
}
