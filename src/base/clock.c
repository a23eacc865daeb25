#include "base/clock.h"

uint64_t (*clock_hook)(void);
uint64_t (*clock_wall_hook)(void);

uint64_t clock_wall_ns(void)
{
	struct timespec ts;

	if (clock_wall_hook)
		return clock_wall_hook();
	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}
