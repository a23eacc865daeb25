#include "accel/accel.h"

extern const struct accel accel_null;

/* Every engine there is.  Adding one is adding a line. */
const struct accel *const accel_drivers[] = {
	&accel_null,
	NULL,
};
