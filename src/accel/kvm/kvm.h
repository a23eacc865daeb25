/*
 * The kvm engine: /dev/kvm behind the contract of accel/accel.h.
 *
 * Options of the engine (accel_opts.engine_opts, "name=value,..."):
 *	dirty-ring=N	log dirty pages through per-vCPU rings of N entries instead of bitmaps
 *	assist=on|off	finish instructions that KVM refuses with the software CPU (default on)
 */
#pragma once

#include "accel/accel.h"

extern const struct accel accel_kvm;

/*
 * How fast does /dev/kvm run ring-0 code, in million instructions a second?  Builds a VM of one
 * page and one vCPU and times a loop; less than 20 ms.  -ENOENT, -EACCES...: /dev/kvm cannot be
 * used.
 */
NODISCARD int kvm_speed_probe(double *ret_mips, struct err *e);
