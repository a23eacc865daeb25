/*
 * The loop of a vCPU: blocks until something wants attention, then events in the order of SDM 3A
 * 6.9: INIT, debug traps of the instruction before, NMI, interrupts, breakpoints of the one
 * to come.
 *
 * exit_req is the only thing that the fast path looks at.  Whoever sets it has recorded its reason
 * elsewhere first (kick, local APIC, timer, asks and posts, TF, data breakpoints ...), and
 * run_events() looks at all of them each time.
 */
#include "accel/soft/insn.h"
#include "accel/soft/jit/prof.h"
#include "accel/soft/mem.h"
#include "accel/soft/sys_int.h"

#include "base/clock.h"

#include <string.h>

enum {
	/* For exc_combine(): an interrupt, which combines with nothing. */
	RUN_INTERRUPT = 256,
};

/* ---- INIT and start-up ---- */

static void run_start_up(struct scpu *c, uint8_t vector)
{
	c->seg[X86_CS].sel = (uint16_t)(vector << 8);
	c->seg[X86_CS].base = (uint64_t)vector << 12;
	c->rip = 0;
	c->mp = CPU_MP_RUN;
	soft_mode_changed(c);
}

void run_lapic_events(struct scpu *c)
{
	uint32_t ev = lapic_take_events(&c->lapic);

	if (ev & LAPIC_EV_INIT)
		soft_reset_init(c);
	if (ev & LAPIC_EV_SIPI && c->mp == CPU_MP_WAIT_SIPI)
		run_start_up(c, __atomic_load_n(&c->lapic.sipi_vector, __ATOMIC_ACQUIRE));
	if (ev & LAPIC_EV_NMI && c->mp != CPU_MP_WAIT_SIPI)
		c->ev.nmi_pending = 1;
}

static void run_timer(struct scpu *c)
{
	struct soft_run *r = c->run;
	struct soft_shared *sh = r->sh;

	if (r->timer_ns == UINT64_MAX || clock_ns() < r->timer_ns)
		return;
	lock(&sh->timer_lock);
	r->timer_ns = UINT64_MAX;
	unlock(&sh->timer_lock);
	lapic_timer_fired(&c->lapic);
}

/* ---- interrupts ---- */

static bool run_shadow(struct scpu *c)
{
	if (c->ev.shadow && c->rip != c->run->shadow_rip)
		c->ev.shadow = 0;
	return c->ev.shadow;
}

static void run_deliver(struct scpu *c, unsigned vector, enum soft_int kind, uint64_t return_rip)
{
	c->mp = CPU_MP_RUN;
	c->run->delivering = RUN_INTERRUPT;
	c->run->irqs++;
	soft_interrupt(c, vector, kind, false, 0, return_rip);
	c->run->delivering = -1;
}

/* One that a loaded state had on its way. */
static bool run_loaded_interrupt(struct scpu *c)
{
	if (!c->ev.int_pending)
		return false;
	c->ev.int_pending = 0;
	run_deliver(c, c->ev.int_vector, SOFT_INT_HARD, c->rip);
	return true;
}

static bool run_nmi(struct scpu *c)
{
	if (!c->ev.nmi_pending)
		return false;
	if (c->ev.nmi_masked || c->ev.shadow & X86_SHADOW_MOV_SS) {
		c->irq_waits = true;
		return false;
	}
	c->ev.nmi_pending = 0;
	c->ev.nmi_masked = 1;
	run_deliver(c, X86_EXC_NMI, SOFT_INT_HARD, c->rip);
	return true;
}

/* True: something was delivered. */
static bool run_interrupts(struct scpu *c)
{
	struct irq_chips *chips = soft_vm(c)->chips;

	c->irq_waits = false;
	if (c->mp == CPU_MP_WAIT_SIPI)
		return false;
	if (run_loaded_interrupt(c) || run_nmi(c))
		return true;
	bool ext = irq_chips_intr(chips, &c->lapic);
	int vector = lapic_pending(&c->lapic);
	if (!ext && vector < 0)
		return false;
	if (!(c->rflags & X86_FL_IF) || c->ev.shadow) {
		c->irq_waits = true;
		return false;
	}
	if (ext) {
		vector = irq_chips_inta(chips);
		irq_accepted(irq_chips_irqs(chips));
	} else {
		lapic_ack(&c->lapic, (unsigned)vector);
	}
	run_deliver(c, (unsigned)vector, SOFT_INT_HARD, c->rip);
	return true;
}

/* ---- single steps and breakpoints (SDM 3B 17.3) ---- */

/* Enabled breakpoints on instructions. */
static unsigned run_code_breakpoints(const struct scpu *c)
{
	unsigned on = 0;

	for (unsigned n = 0; n < 4; n++)
		if (c->dr7 >> (2 * n) & 3 && !(c->dr7 >> (16 + 4 * n) & 3))
			on |= 1u << n;
	return on;
}

static bool run_must_step(const struct scpu *c)
{
	return c->rflags & (X86_FL_TF | X86_FL_RF) || run_code_breakpoints(c);
}

static void run_check_breakpoints(struct scpu *c)
{
	unsigned on = run_code_breakpoints(c), hit = 0;
	uint64_t lin = (c->rip + c->sbase[X86_CS]) & c->lin_mask;

	if (!on || c->rflags & X86_FL_RF || c->ev.shadow & X86_SHADOW_MOV_SS)
		return;
	for (unsigned n = 0; n < 4; n++)
		if (on >> n & 1 && c->dr[n] == lin)
			hit |= 1u << n;
	if (hit)
		exc_debug_trap(c, hit);
}

/* Did the instruction enter a handler with TF cleared?  Then it leaves no trap behind. */
static bool run_entered(const struct scpu *c, unsigned sop)
{
	if (c->rflags & X86_FL_TF)
		return false;
	return sop == SOP_INT || sop == SOP_INT3 || sop == SOP_INTO || sop == SOP_INT1 ||
	       sop == SOP_SYSCALL || sop == SOP_SYSENTER;
}

/* Data breakpoints of the last instruction, and `bits`. */
static void run_debug_traps(struct scpu *c, uint64_t bits)
{
	bits |= c->run->dr6_hits;
	if (!bits || c->ev.shadow & X86_SHADOW_MOV_SS)
		return;
	c->run->dr6_hits = 0;
	exc_debug_trap(c, bits);
}

void run_one(struct scpu *c)
{
	bool tf = c->rflags & X86_FL_TF, rf = c->rflags & X86_FL_RF;

	run_check_breakpoints(c);
	/* The shadow covers this instruction, which may be a jump to itself; or cast a new one. */
	c->ev.shadow = 0;
	unsigned sop = code_step(c);
	if (rf && sop != SOP_IRET)
		c->rflags &= ~X86_FL_RF;
	run_debug_traps(c, tf && !run_entered(c, sop) ? X86_DR6_BS : 0);
}

/* ---- events ---- */

/* Look at everything; true: leave with soft_run.exit. */
static bool run_events(struct scpu *c)
{
	struct soft_run *r = c->run;

	__atomic_store_n(&c->exit_req, 0, __ATOMIC_SEQ_CST);
	code_finish(c);
	sync_pause(c);
	if (__atomic_exchange_n(&r->kick, 0, __ATOMIC_SEQ_CST)) {
		r->exit = ACCEL_EXIT_KICK;
		sync_set_req(c);
		return true;
	}
	run_timer(c);
	run_lapic_events(c);
	run_shadow(c);
	run_debug_traps(c, 0);
	if (run_interrupts(c)) {
		sync_set_req(c);
		return false;
	}
	if (c->mp != CPU_MP_RUN) {
		r->halts++;
		sync_halt(c);
		sync_set_req(c);
		return false;
	}
	/* What waits for a shadow gets its turn after one instruction. */
	bool shadow = c->ev.shadow && (c->irq_waits || r->dr6_hits);
	if (shadow || run_must_step(c)) {
		sync_set_req(c);
		run_one(c);
	}
	return false;
}

/*
 * An exception waits and none is being delivered.  A guest can make endless chains of them (traps
 * of task switches) without an instruction between, so whoever wants this vCPU gets it here too.
 * True: leave; the exception is delivered in the next run.
 */
static bool run_before_exception(struct scpu *c)
{
	struct soft_run *r = c->run;

	if (r->delivering >= 0 || !__atomic_load_n(&c->exit_req, __ATOMIC_RELAXED))
		return false;
	code_finish(c);
	sync_pause(c);
	if (!__atomic_exchange_n(&r->kick, 0, __ATOMIC_SEQ_CST))
		return false;
	r->exit = ACCEL_EXIT_KICK;
	return true;
}

enum accel_exit soft_run(struct accel_vcpu *v, struct err *e)
{
	struct scpu *c = (struct scpu *)(void *)v;
	struct soft_run *r = c->run;

	r->exit = ACCEL_EXIT_SHUTDOWN;
	sync_enter(c);
	if (unlikely(r->prof))
		prof_enter(c);
	sync_set_req(c);
	r->trap_set = true;
	if (setjmp(c->trap)) {
		r->ext = false;
		soft_excl_end(c);
	}
	for (;;) {
		if (unlikely(c->ev.exc_pending)) {
			if (run_before_exception(c))
				break;
			if (exc_deliver(c))
				continue;
			c->ev.exc_pending = 0;
			break;
		}
		r->delivering = -1;
		if (__atomic_load_n(&c->exit_req, __ATOMIC_RELAXED)) {
			if (run_events(c))
				break;
			continue;
		}
		code_run(c);
	}
	r->trap_set = false;
	r->delivering = -1;
	if (unlikely(r->prof))
		prof_leave(c);
	sync_leave(c);
	return r->exit;
}
