/* The character devices.  To add one: docs/howto/add-backend.md. */
#include "chr/chr_int.h"

const struct chr_driver *const chr_drivers[] = {
	&chr_stdio, &chr_pty, &chr_unix, &chr_file, &chr_none, NULL,
};
