/* Intrusive doubly linked list.  A head and an unlinked node point to themselves. */
#pragma once

#include "base/compiler.h"

struct list {
	struct list *prev, *next;
};

#define LIST_INIT(name)          \
	{                        \
		&(name), &(name) \
	}

static inline void list_init(struct list *l)
{
	l->prev = l->next = l;
}

static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

static inline void list_insert_(struct list *n, struct list *prev, struct list *next)
{
	n->prev = prev;
	n->next = next;
	prev->next = n;
	next->prev = n;
}

static inline void list_add_tail(struct list *head, struct list *n)
{
	list_insert_(n, head->prev, head);
}

static inline void list_add_head(struct list *head, struct list *n)
{
	list_insert_(n, head, head->next);
}

/* Unlink; safe for a node that is not linked (but initialised). */
static inline void list_del(struct list *n)
{
	n->prev->next = n->next;
	n->next->prev = n->prev;
	list_init(n);
}

#define list_entry(p, type, member) container_of(p, type, member)
#define list_first(head, type, member) list_entry((head)->next, type, member)
#define list_for_each(p, head) for (struct list *p = (head)->next; p != (head); p = p->next)
/* The body may unlink p. */
#define list_for_each_safe(p, head)                                            \
	for (struct list *p = (head)->next, *p##_next_ = p->next; p != (head); \
	     p = p##_next_, p##_next_ = p->next)
