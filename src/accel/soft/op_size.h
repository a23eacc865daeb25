/*
 * Inside of a template file (op_*.inc) that is included once for each operand size: SZ is 1, 2, 4
 * or 8 and decides T (ST: signed; UT: at any address), the assembler's register modifier M and the
 * ends of names.
 */
#undef T
#undef ST
#undef UT
#undef M
#undef FN

#if SZ == 1
#define T uint8_t
#define ST int8_t
#define UT uint8_t
#define M "b"
#define FN(name) name##_1
#elif SZ == 2
#define T uint16_t
#define ST int16_t
#define UT soft_u16
#define M "w"
#define FN(name) name##_2
#elif SZ == 4
#define T uint32_t
#define ST int32_t
#define UT soft_u32
#define M "k"
#define FN(name) name##_4
#else
#define T uint64_t
#define ST int64_t
#define UT soft_u64
#define M "q"
#define FN(name) name##_8
#endif
