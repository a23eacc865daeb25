/* Selectors of the guests' GDTs; laid out as SYSRET wants ring 3's. */
#pragma once

#define SEL_KCODE 0x08
#define SEL_KDATA 0x10
#define SEL_KCODE32 0x18
#define SEL_UCODE32 0x23
#define SEL_UDATA 0x2b
#define SEL_UCODE 0x33
#define SEL_TSS 0x38
/* For a test's own descriptors, 8 of them. */
#define SEL_FREE 0x48
