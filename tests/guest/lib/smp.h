/* More than one processor (64-bit guests). */
#pragma once

#include "apic.h"

/* Sends INIT and SIPI to all others and waits until n of them are in ap_work(). */
void smp_start(unsigned n);
/* The test's: runs on each application processor, number 1 and on in the order of their start. */
void ap_work(unsigned number);
