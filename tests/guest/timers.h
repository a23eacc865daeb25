/* PIT (where the engine has none in the kernel) and RTC of the product on a tiny guest's board. */
#pragma once

#include "accel/accel.h"

struct tiny_timers;

NODISCARD int tiny_timers_new(const struct accel_vm *vm, struct tiny_timers **ret, struct err *e);
/* The vCPUs are out for good. */
void tiny_timers_free(struct tiny_timers *t);
