#include "accel/accel.h"
#include "accel/kvm/kvm.h"
#include "accel/soft/soft.h"

extern const struct accel accel_null;

/* Every engine there is.  Adding one is adding a line. */
const struct accel *const accel_drivers[] = {
	&accel_kvm,
	&accel_soft,
	&accel_null,
	NULL,
};
