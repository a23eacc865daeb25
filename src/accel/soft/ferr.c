/*
 * x87 errors as the first PCs reported them, which is what CR0.NE = 0 asks for (SDM 1 8.7.2 and
 * appendix D.2; ICH data sheet, "coprocessor error").
 *
 * The instruction that would raise #MF stops instead, with FERR# asserted.  The board makes that
 * IRQ
 * 13.  Its handler writes to port 0xf0: the board takes the request back and asserts IGNNE#, under
 * which x87 instructions run although an error is pending, until FERR# goes away with it.
 *
 * The request is a pulse, as inputs of the interrupt controllers remember edges.  A vCPU that waits
 * tries its instruction again and again; nobody but an old system does so for long.  The two pins
 * are not part of a saved state: loaded, the instruction asserts FERR# once more.
 */
#include "accel/soft/sys_int.h"

#include <errno.h>

enum {
	FERR_PORT = 0xf0,
	FERR_GSI = 13,
};

static uint64_t ferr_read(struct bus_range *r, uint64_t off, unsigned size)
{
	return ~0ull;
}

static void ferr_write(struct bus_range *r, uint64_t off, unsigned size, uint64_t v)
{
	struct soft_shared *sh = container_of(r, struct soft_shared, ferr_port);

	for (unsigned n = 0; n < __atomic_load_n(&sh->ncpu, __ATOMIC_ACQUIRE); n++) {
		struct scpu *c = sh->cpu[n];

		if (c && __atomic_load_n(&c->run->ferr, __ATOMIC_ACQUIRE))
			__atomic_store_n(&c->run->ignne, true, __ATOMIC_RELEASE);
	}
}

static const struct bus_ops ferr_ops = { .read = ferr_read, .write = ferr_write, .max_size = 1 };

int ferr_init(struct soft_shared *sh, struct bus *pio, struct err *e)
{
	sh->ferr_port = (struct bus_range){ .ops = &ferr_ops, .name = "ferr" };
	int rc = bus_add(pio, &sh->ferr_port, FERR_PORT, 1);

	return rc < 0 ? err_set(e, -rc, "port %#x is taken", FERR_PORT) : 0;
}

void ferr_fini(struct soft_shared *sh, struct bus *pio)
{
	bus_del(pio, &sh->ferr_port);
}

bool ferr_ignored(const struct scpu *c)
{
	return !(c->cr0 & X86_CR0_NE) && __atomic_load_n(&c->run->ignne, __ATOMIC_ACQUIRE);
}

void ferr_clear(struct scpu *c)
{
	__atomic_store_n(&c->run->ferr, false, __ATOMIC_RELEASE);
	__atomic_store_n(&c->run->ignne, false, __ATOMIC_RELEASE);
}

void ferr_raise(struct scpu *c, const struct insn *i)
{
	/* Another engine's vCPU has no such pins. */
	if (c->cr0 & X86_CR0_NE || c->run->assist)
		soft_raise(c, i, X86_EXC_MF, 0);
	if (!__atomic_exchange_n(&c->run->ferr, true, __ATOMIC_SEQ_CST)) {
		struct irq_line l = { .irqs = c->v.vm->irqs, .gsi = FERR_GSI };

		irq_line_pulse(&l);
	}
	soft_again(c, i);
}
