/*
 * Guest loads and stores of the software CPU.
 *
 * The fast half is here: segmentation by adding a base, then one compare against the translation
 * cache, which proves at once that the page is mapped with the right to do this and that the access
 * does not cross its end.  Everything else (miss, page crossing, MMIO, code page, limit check,
 * fault) is in mmu.c and may not return (soft_raise).
 *
 * All loads and stores of 1, 2, 4, 8 bytes that are aligned are single host accesses, as the guest
 * may rely on (SDM 3A 8.1.1).
 */
#pragma once

#include "accel/soft/soft_int.h"

#include "base/bytes.h"
#include "base/compiler.h"

/* mmu.c: any width up to 8; walks, fills the cache, splits, goes to the bus. */
uint64_t soft_ld_slow(struct scpu *c, const struct insn *i, uint64_t lin, unsigned size);
void soft_st_slow(struct scpu *c, const struct insn *i, uint64_t lin, unsigned size, uint64_t v);
/*
 * Any length up to 4096: raises before the first byte is stored when a part cannot be written.  The
 * bytes are linear; the store tells the code cache and the dirty log.
 */
void soft_ld_buf_lin(struct scpu *c, const struct insn *i, uint64_t lin, void *dst, unsigned len);
void soft_st_buf_lin(struct scpu *c, const struct insn *i, uint64_t lin, const void *src,
		     unsigned len);
/* Raises what a store of these bytes would raise; stores nothing. */
void soft_probe_w(struct scpu *c, const struct insn *i, uint64_t lin, unsigned len);
/*
 * Host address of `size` bytes in one page of plain RAM that may be changed in place (now, before
 * the next guest access), or NULL: then it is MMIO, crosses a page, or holds code, and the caller
 * does probe, load, compute, store.  Raises for what cannot be written at all.
 */
void *soft_w_slow(struct scpu *c, const struct insn *i, uint64_t lin, unsigned size);
/*
 * For LOCK where soft_w_ptr() gives NULL: no other vCPU executes between these two.  An access
 * between them may raise; the raise ends it.
 */
void soft_excl_begin(struct scpu *c);
void soft_excl_end(struct scpu *c);
/* System structures (GDT, TSS, IDT): supervisor accesses whatever the CPL. */
uint64_t soft_sys_ld(struct scpu *c, const struct insn *i, uint64_t lin, unsigned size);
void soft_sys_st(struct scpu *c, const struct insn *i, uint64_t lin, unsigned size, uint64_t v);

/* A guest's operands need not be aligned; each is still one access of the host. */
typedef uint16_t soft_u16 __attribute__((aligned(1)));
typedef uint32_t soft_u32 __attribute__((aligned(1)));
typedef uint64_t soft_u64 __attribute__((aligned(1)));

static ALWAYS_INLINE uint64_t soft_lin(struct scpu *c, const struct insn *i, unsigned seg,
				       uint64_t ea, unsigned size, bool write)
{
	if (likely((write ? c->seg_wr : c->seg_rd) >> seg & 1))
		return (ea + c->sbase[seg]) & c->lin_mask;
	return soft_seg_lin(c, i, seg, ea, size, write);
}

static ALWAYS_INLINE uint64_t soft_ld_lin(struct scpu *c, const struct insn *i, uint64_t lin,
					  unsigned size)
{
	const struct stlb *t = &c->tlb->r[lin >> 12 & (STLB_SIZE - 1)];

	/* lin ^ tag is the offset in the page on a hit and large otherwise. */
	if (unlikely((lin ^ t->tag) > 4096 - size))
		return soft_ld_slow(c, i, lin, size);
	const void *p = stlb_at(t, lin);
	switch (size) {
	case 1:
		return *(const volatile uint8_t *)p;
	case 2:
		return *(const volatile soft_u16 *)p;
	case 4:
		return *(const volatile soft_u32 *)p;
	default:
		return *(const volatile soft_u64 *)p;
	}
}

static ALWAYS_INLINE void soft_st_lin(struct scpu *c, const struct insn *i, uint64_t lin,
				      unsigned size, uint64_t v)
{
	const struct stlb *t = &c->tlb->w[lin >> 12 & (STLB_SIZE - 1)];

	if (unlikely((lin ^ t->tag) > 4096 - size)) {
		soft_st_slow(c, i, lin, size, v);
		return;
	}
	void *p = stlb_at(t, lin);
	switch (size) {
	case 1:
		*(volatile uint8_t *)p = (uint8_t)v;
		break;
	case 2:
		*(volatile soft_u16 *)p = (uint16_t)v;
		break;
	case 4:
		*(volatile soft_u32 *)p = (uint32_t)v;
		break;
	default:
		*(volatile soft_u64 *)p = v;
		break;
	}
}

/* By segment and effective address. */
static ALWAYS_INLINE uint64_t soft_ld(struct scpu *c, const struct insn *i, unsigned seg,
				      uint64_t ea, unsigned size)
{
	return soft_ld_lin(c, i, soft_lin(c, i, seg, ea, size, false), size);
}

static ALWAYS_INLINE void soft_st(struct scpu *c, const struct insn *i, unsigned seg, uint64_t ea,
				  unsigned size, uint64_t v)
{
	soft_st_lin(c, i, soft_lin(c, i, seg, ea, size, true), size, v);
}

static ALWAYS_INLINE void *soft_w_ptr(struct scpu *c, const struct insn *i, uint64_t lin,
				      unsigned size)
{
	const struct stlb *t = &c->tlb->w[lin >> 12 & (STLB_SIZE - 1)];

	if (likely((lin ^ t->tag) <= 4096 - size))
		return stlb_at(t, lin);
	return soft_w_slow(c, i, lin, size);
}
