/* The loaders, for the array in boot.c. */
#pragma once

#include "machine/boot.h"

extern const struct boot_loader boot_linux, boot_pvh, boot_elf;
