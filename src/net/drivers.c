/* The net backends.  To add one: docs/howto/add-backend.md. */
#include "net/net_int.h"

const struct net_driver *const net_drivers[] = {
	&net_user,
	&net_tap,
	&net_none,
	NULL,
};
