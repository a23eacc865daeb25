/*
 * What the memory management unit's files share: mmu.c (accesses), tlb.c (caches), walk.c (tables).
 */
#pragma once

#include "accel/soft/sys_int.h"

#define PAGE_MASK_ 0xfffull
#define ADDR_MASK 0x000ffffffffff000ull
/* Set in what mmu_translate() returns for a fault. */
#define MMU_FAULT 0x80000000u

/* tlb.c: a translation into one side of L1; fl: SX_G, SX_LARGE, SX_HUGE of its page. */
void side_fill(struct soft_mmu *m, struct sside *s, uint64_t lin, uint64_t addend, unsigned fl);
/* Of the current address space, or global. */
bool l2_find(const struct soft_mmu *m, uint64_t lin, struct sxlate *ret);
void l2_fill(struct soft_mmu *m, uint64_t lin, const struct sxlate *x);

/* mmu.c */
bool mmu_is_apic(const struct scpu *c, uint64_t pa);
/* The dirty log, at a store of [pa, pa + len), which lies in m. */
void map_mark(struct scpu *c, const struct smap *m, uint64_t pa, unsigned len);
