/*
 * The local APIC's registers, priorities and local interrupts (SDM 3A chapter 11, of the 2022
 * edition; older ones call it chapter 10).  The timer is in lapic_timer.c, the way of a message
 * from one APIC to others in route.c.
 *
 * A vector is requested (IRR), then in service (ISR) until EOI.  lapic_pending() offers the highest
 * request whose class (bits 7-4) is above the processor priority, which is the higher of the task
 * priority and the highest class in service.
 *
 * Left out on purpose: CMCI (no MCG_CAP bit announces it), the focus processor, remote read and
 * the APIC bus' arbitration, none of which exist in processors with x2APIC.
 */
#include "irq/irq_int.h"

#include "base/bits.h"
#include "base/bytes.h"
#include "cpu/x86.h"

#include <errno.h>
#include <string.h>

/* Offsets in the page; an x2APIC MSR is 0x800 + offset / 16 (SDM 3A tables 11-1, 11-6). */
enum {
	REG_ID = 0x20,
	REG_VERSION = 0x30,
	REG_TPR = 0x80,
	REG_APR = 0x90,
	REG_PPR = 0xa0,
	REG_EOI = 0xb0,
	REG_RRD = 0xc0,
	REG_LDR = 0xd0,
	REG_DFR = 0xe0,
	REG_SVR = 0xf0,
	REG_ISR = 0x100,
	REG_TMR = 0x180,
	REG_IRR = 0x200,
	REG_ESR = 0x280,
	REG_ICR = 0x300,
	REG_ICR_HI = 0x310,
	REG_LVT = 0x320,
	REG_LVT_LAST = 0x370,
	REG_TIMER_INIT = 0x380,
	REG_TIMER_COUNT = 0x390,
	REG_TIMER_DIV = 0x3e0,
	REG_SELF_IPI = 0x3f0,
	REG_END = 0x400,
};

/* Error status (11.5.3). */
enum {
	ESR_SEND_VECTOR = 1 << 5,
	ESR_RECV_VECTOR = 1 << 6,
	ESR_REGISTER = 1 << 7,
};

enum {
	/* Version 0x14, six LVT entries, EOI broadcasts can be suppressed. */
	LAPIC_VERSION = 0x14 | (LAPIC_LVTS - 1) << 16 | 1 << 24,
	SVR_BITS = 0xff | LAPIC_SVR_ENABLE | 1 << 9 | LAPIC_SVR_NO_EOI_BROADCAST,
	ICR_BUSY = 1 << 12,
	/* Vector, mode, logical, level, trigger, shorthand. */
	ICR_BITS = 0xcdfff & ~ICR_BUSY,
};

/* Bits that can be written in each LVT entry (figure 11-8). */
static const uint32_t lvt_bits[LAPIC_LVTS] = {
	[LAPIC_LVT_TIMER] = 0x700ff, [LAPIC_LVT_THERMAL] = 0x107ff, [LAPIC_LVT_PERF] = 0x107ff,
	[LAPIC_LVT_LINT0] = 0x1a7ff, [LAPIC_LVT_LINT1] = 0x1a7ff,   [LAPIC_LVT_ERROR] = 0x100ff,
};

bool lapic_enabled(const struct lapic *l)
{
	return __atomic_load_n(&l->base, __ATOMIC_RELAXED) & X86_APIC_BASE_EN;
}

bool lapic_x2(const struct lapic *l)
{
	return __atomic_load_n(&l->base, __ATOMIC_RELAXED) & X86_APIC_BASE_X2;
}

static bool lapic_soft_enabled(const struct lapic *l)
{
	return lapic_peek(&l->svr) & LAPIC_SVR_ENABLE;
}

static bool lapic_bsp(const struct lapic *l)
{
	return l->base & X86_APIC_BASE_BSP;
}

/* Life cycle. */

void lapic_init(struct lapic *l, unsigned index, uint32_t apic_id, const struct lapic_owner *owner,
		struct irq_chips *chips)
{
	*l = (struct lapic){ .owner = owner, .chips = chips, .index = index, .apic_id = apic_id };
	lapic_reset(l, false);
}

/* State after power-up (11.4.7.1) and INIT (11.4.7.3). */
static void lapic_reset_regs(struct lapic *l)
{
	for (unsigned i = 0; i < COUNT_OF(l->irr); i++) {
		lapic_poke(&l->irr[i], 0);
		lapic_poke(&l->isr[i], 0);
		lapic_poke(&l->tmr[i], 0);
	}
	lapic_poke(&l->tpr, 0);
	lapic_poke(&l->ldr, 0);
	lapic_poke(&l->dfr, 0xffffffff);
	lapic_poke(&l->svr, 0xff);
	lapic_poke(&l->esr_pending, 0);
	l->esr = l->icr_lo = l->icr_hi = 0;
	for (unsigned i = 0; i < LAPIC_LVTS; i++)
		lapic_poke(&l->lvt[i], LAPIC_LVT_MASKED);
	if (lapic_bsp(l))
		lapic_poke(&l->lvt[LAPIC_LVT_LINT0], IRQ_DM_EXTINT << 8);
	l->timer_div = 0;
	lapic_timer_off(l);
}

void lapic_reset(struct lapic *l, bool init)
{
	if (!init) {
		uint64_t base = X86_APIC_DEFAULT | X86_APIC_BASE_EN;

		if (!l->index)
			base |= X86_APIC_BASE_BSP;
		__atomic_store_n(&l->base, base, __ATOMIC_RELAXED);
		__atomic_store_n(&l->events, 0, __ATOMIC_RELAXED);
		__atomic_store_n(&l->sipi_vector, 0, __ATOMIC_RELAXED);
	}
	lapic_reset_regs(l);
}

/* Vectors and priorities. */

static void vec_set(uint32_t *map, unsigned v)
{
	__atomic_fetch_or(&map[v / 32], BIT(v % 32), __ATOMIC_SEQ_CST);
}

static void vec_clear(uint32_t *map, unsigned v)
{
	__atomic_fetch_and(&map[v / 32], ~BIT(v % 32), __ATOMIC_SEQ_CST);
}

static int vec_highest(const uint32_t *map)
{
	for (int i = 7; i >= 0; i--) {
		uint32_t w = __atomic_load_n(&map[i], __ATOMIC_ACQUIRE);

		if (w)
			return i * 32 + 31 - __builtin_clz(w);
	}
	return -1;
}

uint8_t lapic_ppr(const struct lapic *l)
{
	int in_service = vec_highest(l->isr);
	unsigned tpr = lapic_peek(&l->tpr), isr = in_service < 0 ? 0 : (unsigned)in_service;

	return (uint8_t)(tpr >> 4 >= isr >> 4 ? tpr : isr & 0xf0);
}

int lapic_pending(const struct lapic *l)
{
	int v = vec_highest(l->irr);

	if (v < 0 || !lapic_enabled(l) || v >> 4 <= lapic_ppr(l) >> 4)
		return -1;
	return v;
}

/* Something that held back interrupts is gone. */
static void lapic_recheck(struct lapic *l)
{
	if (lapic_pending(l) >= 0)
		l->owner->kick(l);
}

void lapic_ack(struct lapic *l, unsigned vector)
{
	vec_clear(l->irr, vector & 0xff);
	vec_set(l->isr, vector & 0xff);
}

static void lapic_error(struct lapic *l, uint32_t bit)
{
	uint32_t before = __atomic_fetch_or(&l->esr_pending, bit, __ATOMIC_ACQ_REL);
	uint32_t lvt = lapic_peek(&l->lvt[LAPIC_LVT_ERROR]);

	/* An error entry with an illegal vector can only be recorded. */
	if (!(before & bit) && !(lvt & LAPIC_LVT_MASKED) && (lvt & 0xff) >= 16)
		lapic_post(l, lvt & 0xff, false);
}

bool lapic_post(struct lapic *l, unsigned vector, bool level)
{
	if (!lapic_enabled(l) || !lapic_soft_enabled(l))
		return false;
	vector &= 0xff;
	if (vector < 16) {
		lapic_error(l, ESR_RECV_VECTOR);
		return true;
	}
	if (level)
		vec_set(l->tmr, vector);
	else
		vec_clear(l->tmr, vector);
	vec_set(l->irr, vector);
	l->owner->kick(l);
	return true;
}

bool lapic_requested(const struct lapic *l, unsigned vector)
{
	vector &= 0xff;
	return lapic_peek(&l->irr[vector / 32]) & BIT(vector % 32);
}

void lapic_post_event(struct lapic *l, uint32_t ev)
{
	uint32_t old = __atomic_load_n(&l->events, __ATOMIC_RELAXED), now;

	/* An INIT undoes a start-up that came before it. */
	do {
		now = ev & LAPIC_EV_INIT ? (old & ~(uint32_t)LAPIC_EV_SIPI) | ev : old | ev;
	} while (!__atomic_compare_exchange_n(&l->events, &old, now, true, __ATOMIC_SEQ_CST,
					      __ATOMIC_RELAXED));
	l->owner->kick(l);
}

void lapic_post_sipi(struct lapic *l, uint8_t vector)
{
	__atomic_store_n(&l->sipi_vector, vector, __ATOMIC_RELEASE);
	lapic_post_event(l, LAPIC_EV_SIPI);
}

uint32_t lapic_take_events(struct lapic *l)
{
	return __atomic_exchange_n(&l->events, 0, __ATOMIC_SEQ_CST);
}

void lapic_local(struct lapic *l, unsigned lvt)
{
	uint32_t v = lapic_peek(&l->lvt[lvt]);

	/* Without an APIC, LINT1 is the NMI pin (11.4.3); LINT0, INTR, is irq_chips_intr()'s. */
	if (!lapic_enabled(l)) {
		if (lvt == LAPIC_LVT_LINT1)
			lapic_post_event(l, LAPIC_EV_NMI);
		return;
	}
	if (v & LAPIC_LVT_MASKED)
		return;
	switch (lvt == LAPIC_LVT_TIMER || lvt == LAPIC_LVT_ERROR ? IRQ_DM_FIXED : v >> 8 & 7) {
	case IRQ_DM_FIXED:
		lapic_post(l, v & 0xff, false);
		break;
	case IRQ_DM_SMI:
		lapic_post_event(l, LAPIC_EV_SMI);
		break;
	case IRQ_DM_NMI:
		lapic_post_event(l, LAPIC_EV_NMI);
		break;
	case IRQ_DM_INIT:
		lapic_post_event(l, LAPIC_EV_INIT);
		break;
	default:
		break;
	}
}

static void lapic_eoi(struct lapic *l)
{
	int v = vec_highest(l->isr);

	if (v < 0)
		return;
	vec_clear(l->isr, (unsigned)v);
	if (lapic_peek(&l->tmr[v / 32]) & BIT(v % 32) && !(l->svr & LAPIC_SVR_NO_EOI_BROADCAST))
		irq_chips_eoi(l->chips, (uint8_t)v);
	if (l->timer_owed)
		lapic_timer_accepted(l);
	irq_accepted(irq_chips_irqs(l->chips));
	lapic_recheck(l);
}

/* Inter-processor interrupts (11.6). */

static void lapic_ipi_self(struct lapic *l, uint8_t vector)
{
	if (vector < 16)
		lapic_error(l, ESR_SEND_VECTOR);
	lapic_post(l, vector, false);
}

static void lapic_ipi(struct lapic *l)
{
	uint32_t lo = l->icr_lo;
	bool x2 = lapic_x2(l);
	struct irq_msg m = {
		.dest = x2 ? l->icr_hi : l->icr_hi >> 24,
		.wide = x2,
		.logical = lo & BIT(11),
		.mode = lo >> 8 & 7,
		.vector = lo & 0xff,
	};

	/* INIT level de-assert only synchronised arbitration IDs. */
	if (m.mode == IRQ_DM_INIT && (lo & BIT(15)) && !(lo & BIT(14)))
		return;
	if ((m.mode == IRQ_DM_FIXED || m.mode == IRQ_DM_LOWEST) && m.vector < 16) {
		lapic_error(l, ESR_SEND_VECTOR);
		return;
	}
	switch (lo >> 18 & 3) {
	case 1:
		/* Only a fixed interrupt may be sent to oneself (table 11-3). */
		if (m.mode == IRQ_DM_FIXED)
			lapic_ipi_self(l, m.vector);
		return;
	case 3:
		m.but = l;
		m.all = true;
		break;
	case 2:
		m.all = true;
		break;
	default:
		break;
	}
	/* ExtINT and reserved modes cannot be sent. */
	if (m.mode != IRQ_DM_EXTINT && m.mode != 3)
		route_send(l->chips, &m);
}

/* Registers. */

static void lapic_set_svr(struct lapic *l, uint32_t v)
{
	lapic_poke(&l->svr, v & SVR_BITS);
	/* Software-disabled: all entries are masked and stay so (11.4.7.2). */
	for (unsigned i = 0; !(v & LAPIC_SVR_ENABLE) && i < LAPIC_LVTS; i++) {
		uint32_t masked = l->lvt[i] | LAPIC_LVT_MASKED;

		if (i == LAPIC_LVT_TIMER)
			lapic_timer_set_lvt(l, masked);
		else
			lapic_poke(&l->lvt[i], masked);
	}
}

static void lapic_set_lvt(struct lapic *l, unsigned i, uint32_t v)
{
	v &= lvt_bits[i];
	if (!lapic_soft_enabled(l))
		v |= LAPIC_LVT_MASKED;
	if (i == LAPIC_LVT_TIMER) {
		lapic_timer_set_lvt(l, v);
		return;
	}
	/* The chips set INTR and then look at LINT0; here it is the other way round. */
	__atomic_store_n(&l->lvt[i], v, __ATOMIC_SEQ_CST);
	if (i == LAPIC_LVT_LINT0)
		l->owner->kick(l);
}

static uint32_t lapic_ldr(const struct lapic *l)
{
	/* x2APIC: from the ID (11.12.10.2). */
	if (lapic_x2(l))
		return (l->apic_id >> 4) << 16 | BIT(l->apic_id & 0xf);
	return l->ldr;
}

/* False: there is no such register. */
static bool lapic_reg_get(struct lapic *l, unsigned off, uint32_t *ret)
{
	if (off >= REG_ISR && off < REG_ESR) {
		const uint32_t *map = off < REG_TMR ? l->isr : off < REG_IRR ? l->tmr : l->irr;

		*ret = lapic_peek(&map[off / 16 % 8]);
		return true;
	}
	if (off >= REG_LVT && off <= REG_LVT_LAST) {
		*ret = l->lvt[(off - REG_LVT) / 16];
		return true;
	}
	switch (off) {
	case REG_ID:
		*ret = lapic_x2(l) ? l->apic_id : l->apic_id << 24;
		return true;
	case REG_VERSION:
		*ret = LAPIC_VERSION;
		return true;
	case REG_TPR:
		*ret = l->tpr;
		return true;
	case REG_PPR:
		*ret = lapic_ppr(l);
		return true;
	case REG_LDR:
		*ret = lapic_ldr(l);
		return true;
	case REG_SVR:
		*ret = l->svr;
		return true;
	case REG_ESR:
		*ret = l->esr;
		return true;
	case REG_ICR:
		*ret = l->icr_lo;
		return true;
	case REG_TIMER_INIT:
		*ret = l->timer_init;
		return true;
	case REG_TIMER_COUNT:
		*ret = lapic_timer_count(l);
		return true;
	case REG_TIMER_DIV:
		*ret = l->timer_div;
		return true;
	default:
		return false;
	}
}

/* What both modes can write. */
static bool lapic_reg_set(struct lapic *l, unsigned off, uint32_t v)
{
	if (off >= REG_LVT && off <= REG_LVT_LAST) {
		lapic_set_lvt(l, (off - REG_LVT) / 16, v);
		return true;
	}
	switch (off) {
	case REG_TPR:
		lapic_poke(&l->tpr, v & 0xff);
		lapic_recheck(l);
		return true;
	case REG_EOI:
		lapic_eoi(l);
		return true;
	case REG_SVR:
		lapic_set_svr(l, v);
		return true;
	case REG_ESR:
		/* Software reads what was gathered up to its last write. */
		l->esr = __atomic_exchange_n(&l->esr_pending, 0, __ATOMIC_ACQ_REL);
		return true;
	case REG_TIMER_INIT:
		lapic_timer_set_init(l, v);
		return true;
	case REG_TIMER_DIV:
		lapic_timer_set_div(l, v & 0xb);
		return true;
	default:
		return false;
	}
}

uint32_t lapic_read(struct lapic *l, unsigned off)
{
	uint32_t v = 0;

	if (off & 0xf || off >= REG_END)
		return 0;
	if (lapic_reg_get(l, off, &v))
		return v;
	switch (off) {
	case REG_DFR:
		return l->dfr;
	case REG_ICR_HI:
		return l->icr_hi;
	case REG_EOI:
	case REG_APR:
	case REG_RRD:
		return 0;
	default:
		lapic_error(l, ESR_REGISTER);
		return 0;
	}
}

void lapic_write(struct lapic *l, unsigned off, uint32_t v)
{
	if (off & 0xf || off >= REG_END || lapic_reg_set(l, off, v))
		return;
	switch (off) {
	case REG_LDR:
		lapic_poke(&l->ldr, v & 0xff000000);
		break;
	case REG_DFR:
		lapic_poke(&l->dfr, v | 0x0fffffff);
		break;
	case REG_ICR:
		l->icr_lo = v & ICR_BITS;
		lapic_ipi(l);
		break;
	case REG_ICR_HI:
		l->icr_hi = v & 0xff000000;
		break;
	case REG_ID:
	case REG_VERSION:
	case REG_APR:
	case REG_PPR:
	case REG_RRD:
	case REG_TIMER_COUNT:
		/* Read-only. */
		break;
	default:
		if (off < REG_ISR || off >= REG_ESR)
			lapic_error(l, ESR_REGISTER);
	}
}

uint8_t lapic_tpr_get(const struct lapic *l)
{
	return (uint8_t)(l->tpr >> 4);
}

void lapic_tpr_set(struct lapic *l, uint8_t cr8)
{
	lapic_poke(&l->tpr, (cr8 & 0xfu) << 4);
	lapic_recheck(l);
}

/* MSRs (11.12). */

/* Figure 11-27: from xAPIC to x2APIC, and out of x2APIC only by way of disabled. */
static int lapic_set_base(struct lapic *l, uint64_t v)
{
	const uint64_t mode = X86_APIC_BASE_EN | X86_APIC_BASE_X2;
	uint64_t now = l->base & mode, next = v & mode;

	if (v & (0xff | BIT64(9)) || v >> 52 || next == X86_APIC_BASE_X2)
		return -EPERM;
	if ((now == mode && next == X86_APIC_BASE_EN) || (!now && next == mode))
		return -EPERM;
	v = (v & ~X86_APIC_BASE_BSP) | (l->base & X86_APIC_BASE_BSP);
	__atomic_store_n(&l->base, v, __ATOMIC_SEQ_CST);
	/* Disabled is as before power-up, for whoever enables it again (11.4.3). */
	if (now && !next)
		lapic_reset_regs(l);
	if (now != next && next == mode)
		l->icr_hi = 0;
	l->owner->kick(l);
	return 0;
}

int lapic_msr_read(struct lapic *l, uint32_t msr, uint64_t *ret)
{
	if (msr == X86_MSR_APIC_BASE) {
		*ret = l->base;
		return 0;
	}
	if (msr == X86_MSR_TSC_DEADLINE) {
		*ret = lapic_timer_deadline(l);
		return 0;
	}
	unsigned off = (msr - X86_MSR_X2APIC_FIRST) * 16;
	uint32_t v;
	if (!lapic_x2(l) || msr < X86_MSR_X2APIC_FIRST || off >= REG_END ||
	    !lapic_reg_get(l, off, &v))
		return -EPERM;
	*ret = v;
	if (off == REG_ICR)
		*ret |= (uint64_t)l->icr_hi << 32;
	return 0;
}

/* Bits that may be set in an x2APIC register; 0: only zero may be written; -1: not writable. */
static int64_t x2_bits(unsigned off)
{
	if (off >= REG_LVT && off <= REG_LVT_LAST)
		/* Delivery status and remote IRR are read-only, not reserved. */
		return lvt_bits[(off - REG_LVT) / 16] | 1 << 12 | 1 << 14;
	switch (off) {
	case REG_TPR:
	case REG_SELF_IPI:
		return 0xff;
	case REG_EOI:
	case REG_ESR:
		return 0;
	case REG_SVR:
		return SVR_BITS;
	case REG_TIMER_INIT:
		return 0xffffffff;
	case REG_TIMER_DIV:
		return 0xb;
	default:
		return -1;
	}
}

static int lapic_x2_icr(struct lapic *l, uint64_t v)
{
	/* Figure 11-28; the delivery status is gone, some software still writes it back. */
	if ((uint32_t)v & ~(uint32_t)(ICR_BITS | ICR_BUSY))
		return -EPERM;
	l->icr_lo = v & ICR_BITS;
	l->icr_hi = (uint32_t)(v >> 32);
	lapic_ipi(l);
	return 0;
}

int lapic_msr_write(struct lapic *l, uint32_t msr, uint64_t v)
{
	if (msr == X86_MSR_APIC_BASE)
		return lapic_set_base(l, v);
	if (msr == X86_MSR_TSC_DEADLINE) {
		lapic_timer_set_deadline(l, v);
		return 0;
	}
	unsigned off = (msr - X86_MSR_X2APIC_FIRST) * 16;
	if (!lapic_x2(l) || msr < X86_MSR_X2APIC_FIRST || off >= REG_END)
		return -EPERM;
	if (off == REG_ICR)
		return lapic_x2_icr(l, v);
	int64_t bits = x2_bits(off);
	if (bits < 0 || v & ~(uint64_t)bits)
		return -EPERM;
	if (off == REG_SELF_IPI)
		lapic_ipi_self(l, (uint8_t)v);
	else
		lapic_reg_set(l, off, (uint32_t)v);
	return 0;
}

/* The register page of KVM_GET_LAPIC and cpu_state. */

void lapic_get_page(struct lapic *l, uint8_t page[1024])
{
	/* What is due is in IRR, not in a count of 0 that nobody would see end. */
	lapic_timer_fired(l);
	memset(page, 0, 1024);
	st_le32(page + REG_ID, lapic_x2(l) ? l->apic_id : l->apic_id << 24);
	st_le32(page + REG_VERSION, LAPIC_VERSION);
	st_le32(page + REG_TPR, l->tpr);
	st_le32(page + REG_PPR, lapic_ppr(l));
	st_le32(page + REG_LDR, lapic_ldr(l));
	st_le32(page + REG_DFR, l->dfr);
	st_le32(page + REG_SVR, l->svr);
	for (unsigned i = 0; i < 8; i++) {
		st_le32(page + REG_ISR + i * 16, l->isr[i]);
		st_le32(page + REG_TMR + i * 16, lapic_peek(&l->tmr[i]));
		st_le32(page + REG_IRR + i * 16, lapic_peek(&l->irr[i]));
	}
	st_le32(page + REG_ESR, l->esr);
	st_le32(page + REG_ICR, l->icr_lo);
	st_le32(page + REG_ICR_HI, l->icr_hi);
	for (unsigned i = 0; i < LAPIC_LVTS; i++)
		st_le32(page + REG_LVT + i * 16, l->lvt[i]);
	st_le32(page + REG_TIMER_INIT, l->timer_init);
	st_le32(page + REG_TIMER_COUNT, lapic_timer_count(l));
	st_le32(page + REG_TIMER_DIV, l->timer_div);
}

void lapic_set_page(struct lapic *l, const uint8_t page[1024], uint64_t apic_base)
{
	/* x2APIC without the enable bit does not exist. */
	if (!(apic_base & X86_APIC_BASE_EN))
		apic_base &= ~X86_APIC_BASE_X2;
	__atomic_store_n(&l->base, apic_base, __ATOMIC_RELAXED);
	lapic_poke(&l->tpr, ld_le32(page + REG_TPR) & 0xff);
	lapic_poke(&l->ldr, ld_le32(page + REG_LDR));
	lapic_poke(&l->dfr, ld_le32(page + REG_DFR) | 0x0fffffff);
	lapic_poke(&l->svr, ld_le32(page + REG_SVR) & SVR_BITS);
	for (unsigned i = 0; i < 8; i++) {
		lapic_poke(&l->isr[i], ld_le32(page + REG_ISR + i * 16));
		lapic_poke(&l->tmr[i], ld_le32(page + REG_TMR + i * 16));
		__atomic_store_n(&l->irr[i], ld_le32(page + REG_IRR + i * 16), __ATOMIC_SEQ_CST);
	}
	l->esr = ld_le32(page + REG_ESR);
	l->icr_lo = ld_le32(page + REG_ICR) & ICR_BITS;
	l->icr_hi = ld_le32(page + REG_ICR_HI);
	for (unsigned i = 0; i < LAPIC_LVTS; i++)
		lapic_poke(&l->lvt[i], ld_le32(page + REG_LVT + i * 16) & lvt_bits[i]);
	l->timer_div = ld_le32(page + REG_TIMER_DIV) & 0xb;
	l->timer_init = ld_le32(page + REG_TIMER_INIT);
	lapic_timer_restore(l, ld_le32(page + REG_TIMER_COUNT), 0);
	l->owner->kick(l);
}

/* Saved state. */

static const struct state_field lapic_fields[] = {
	STATE_FIELD(struct lapic, events, 1),       STATE_FIELD(struct lapic, sipi_vector, 1),
	STATE_FIELD(struct lapic, base, 1),         STATE_ARRAY(struct lapic, irr, 1),
	STATE_ARRAY(struct lapic, isr, 1),          STATE_ARRAY(struct lapic, tmr, 1),
	STATE_FIELD(struct lapic, tpr, 1),          STATE_FIELD(struct lapic, ldr, 1),
	STATE_FIELD(struct lapic, dfr, 1),          STATE_FIELD(struct lapic, svr, 1),
	STATE_FIELD(struct lapic, esr, 1),          STATE_FIELD(struct lapic, esr_pending, 1),
	STATE_FIELD(struct lapic, icr_lo, 1),       STATE_FIELD(struct lapic, icr_hi, 1),
	STATE_ARRAY(struct lapic, lvt, 1),          STATE_FIELD(struct lapic, timer_init, 1),
	STATE_FIELD(struct lapic, timer_div, 1),    STATE_FIELD(struct lapic, timer_cur, 1),
	STATE_FIELD(struct lapic, tsc_deadline, 1),
};

static int lapic_check(const void *obj, struct err *e)
{
	const struct lapic *l = obj;

	if ((l->base & (X86_APIC_BASE_EN | X86_APIC_BASE_X2)) == X86_APIC_BASE_X2)
		return err_set(e, EPROTO, "x2APIC mode of a disabled APIC");
	if (l->timer_div & ~0xbu || l->tpr & ~0xffu || l->svr & ~(uint32_t)SVR_BITS ||
	    l->icr_lo & ~(uint32_t)ICR_BITS)
		return err_set(e, EPROTO, "reserved bits are set");
	for (unsigned i = 0; i < LAPIC_LVTS; i++)
		if (l->lvt[i] & ~lvt_bits[i])
			return err_set(e, EPROTO, "reserved bits in LVT entry %u", i);
	return 0;
}

const struct state_desc lapic_state = {
	.name = "lapic",
	.version = 1,
	.oldest = 1,
	.field = lapic_fields,
	.nfield = COUNT_OF(lapic_fields),
	.check = lapic_check,
};

void lapic_pre_save(struct lapic *l)
{
	lapic_timer_fired(l);
	l->timer_cur = lapic_timer_count(l);
}

void lapic_post_load(struct lapic *l)
{
	lapic_timer_restore(l, l->timer_cur, l->tsc_deadline);
	l->owner->kick(l);
}
