#include "irq/irq.h"

#include "base/bug.h"

/*
 * Tell the chips what the wire is now.  Two devices that share a line may get here at once, and
 * the later one's call may overtake; so whoever comes looks again until what it told still holds.
 */
static void irq_drive(struct irqs *q, unsigned gsi)
{
	bool told;

	do {
		told = __atomic_load_n(&q->holders[gsi], __ATOMIC_SEQ_CST) != 0;
		if (told)
			__atomic_fetch_or(&q->level, 1u << gsi, __ATOMIC_ACQ_REL);
		else
			__atomic_fetch_and(&q->level, ~(1u << gsi), __ATOMIC_ACQ_REL);
		q->ops->line(q, gsi, told);
	} while (told != (__atomic_load_n(&q->holders[gsi], __ATOMIC_SEQ_CST) != 0));
}

void irq_line_set(struct irq_line *l, bool level)
{
	struct irqs *q = l->irqs;

	if (l->high == level)
		return;
	l->high = level;
	BUG_ON(l->gsi >= IRQ_GSIS);

	uint16_t before = level ? __atomic_fetch_add(&q->holders[l->gsi], 1, __ATOMIC_SEQ_CST)
				: __atomic_fetch_sub(&q->holders[l->gsi], 1, __ATOMIC_SEQ_CST);
	/* Only the first to raise and the last to lower change the wire. */
	if (before == (level ? 0 : 1))
		irq_drive(q, l->gsi);
}

void irq_msi(struct irqs *q, uint64_t addr, uint32_t data)
{
	q->ops->msi(q, addr, data);
}

enum irq_edge irq_line_edge(const struct irq_line *l)
{
	struct irqs *q = l->irqs;

	return q->ops->edge ? q->ops->edge(q, l->gsi) : IRQ_EDGE_TAKEN;
}

enum irq_edge irq_msi_edge(struct irqs *q, uint64_t addr, uint32_t data)
{
	return q->ops->msi_edge ? q->ops->msi_edge(q, addr, data) : IRQ_EDGE_TAKEN;
}

void irq_waiter_add(struct irqs *q, struct irq_waiter *w)
{
	w->next = q->waiters;
	q->waiters = w;
}

void irq_waiter_del(struct irqs *q, struct irq_waiter *w)
{
	for (struct irq_waiter **p = &q->waiters; *p; p = &(*p)->next)
		if (*p == w) {
			*p = w->next;
			return;
		}
}
