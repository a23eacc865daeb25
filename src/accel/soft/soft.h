/*
 * The software CPU: an engine that needs nothing of the host but memory and threads (soft_int.h
 * says how it is made).  It has no options.
 */
#pragma once

#include "accel/accel.h"

extern const struct accel accel_soft;
