/*
 * Read-modify-write of the memory operand, for the template files.
 *
 *	OP_RMW(f)	new value = f(old value, s, fl)	not atomic, as without LOCK
 *	OP_LOCKED(f)	the same, atomic against all vCPUs and devices
 *	..._AT(f, ea)	at another address
 *
 * f is a function or macro T f(T old, T s, uint16_t *fl); `s`, `fl` and `was`, which gets the old
 * value, are locals of the caller.  A compare-and-swap loop stands for every LOCK form: no guest
 *can tell it from the real one, and every operation has it.  (In assembler: the compilers' own
 *atomics want aligned operands.)  Where the operand is not in one cache line of plain RAM, the
 *other vCPUs stop meanwhile.
 */

/* Where it cannot be changed in place: what may fault comes before the load, which may be MMIO. */
#define OP_RMW_SLOW_(f)                                     \
	do {                                                \
		soft_probe_w(c, i, lin, SZ);                \
		was = (T)soft_ld_lin(c, i, lin, SZ);        \
		soft_st_lin(c, i, lin, SZ, f(was, s, &fl)); \
	} while (0)

#define OP_RMW(f) OP_RMW_AT(f, soft_ea(c, i))
#define OP_LOCKED(f) OP_LOCKED_AT(f, soft_ea(c, i))

#define OP_RMW_AT(f, ea)                                             \
	do {                                                         \
		uint64_t lin = soft_lin(c, i, i->seg, ea, SZ, true); \
		volatile UT *p = soft_w_ptr(c, i, lin, SZ);          \
		if (likely(p)) {                                     \
			was = *p;                                    \
			*p = f(was, s, &fl);                         \
		} else {                                             \
			OP_RMW_SLOW_(f);                             \
		}                                                    \
	} while (0)

#define OP_LOCKED_AT(f, ea)                                                          \
	do {                                                                         \
		uint64_t lin = soft_lin(c, i, i->seg, ea, SZ, true);                 \
		volatile UT *p = soft_w_ptr(c, i, lin, SZ);                          \
		if (likely(p && op_one_line((const void *)p, SZ))) {                 \
			uint16_t fl_in = fl;                                         \
			bool swapped;                                                \
			was = *p;                                                    \
			do {                                                         \
				fl = fl_in;                                          \
				T v = f(was, s, &fl);                                \
				asm volatile("lock cmpxchg %" M "3, %1"              \
					     : "=@ccz"(swapped), "+m"(*p), "+a"(was) \
					     : "r"(v)                                \
					     : "memory");                            \
			} while (unlikely(!swapped));                                \
		} else {                                                             \
			soft_excl_begin(c);                                          \
			OP_RMW_SLOW_(f);                                             \
			soft_excl_end(c);                                            \
		}                                                                    \
	} while (0)
