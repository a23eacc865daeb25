/* The PIT of the product on a tiny guest's board, where the engine has none in the kernel. */
#pragma once

#include "accel/accel.h"

struct tiny_pit;

NODISCARD int tiny_pit_new(const struct accel_vm *vm, struct tiny_pit **ret, struct err *e);
/* The vCPUs are out for good. */
void tiny_pit_free(struct tiny_pit *p);
