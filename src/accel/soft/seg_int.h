/*
 * Descriptors as seg.c (loads, limits, stacks) and far.c (transfers) look at them.  SDM 3A 3.4.5.
 */
#pragma once

#include "accel/soft/sys_int.h"

/* Types of system descriptors (SDM 3A table 3-2), of attr & (SEG_S | SEG_TYPE). */
enum {
	SYS_TSS16 = 1,
	SYS_LDT = 2,
	SYS_TSS16_BUSY = 3,
	SYS_CALL16 = 4,
	SYS_TASK = 5,
	SYS_TSS32 = 9,
	SYS_TSS32_BUSY = 11,
	SYS_CALL32 = 12,
};

enum {
	/* Of code and data segments. */
	T_ACCESSED = 1,
	T_WRITE = 2,
	T_READ = 2,
	T_DOWN = 4,
	T_CONFORM = 4,
	T_CODE = 8,
};

static inline uint32_t sel_err(uint16_t sel)
{
	return sel & 0xfffc;
}

static inline bool sel_null(uint16_t sel)
{
	return !(sel & 0xfffc);
}

static inline unsigned desc_type(uint64_t lo)
{
	return lo >> 40 & (SEG_S | SEG_TYPE);
}

static inline unsigned desc_dpl(uint64_t lo)
{
	return lo >> 45 & 3;
}

static inline bool desc_present(uint64_t lo)
{
	return lo >> 47 & 1;
}

static inline bool desc_code(uint64_t lo)
{
	return (desc_type(lo) & (SEG_S | T_CODE)) == (SEG_S | T_CODE);
}

static inline bool desc_conforming(uint64_t lo)
{
	return desc_type(lo) & T_CONFORM;
}

static inline struct cpu_seg seg_null(uint16_t sel)
{
	return (struct cpu_seg){ .sel = sel, .attr = SEG_UNUSABLE };
}
