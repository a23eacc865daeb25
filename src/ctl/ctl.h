/* sampan, the command line: its subcommands. */
#pragma once

#include "base/err.h"

struct ctl_cmd {
	const char *name;
	/* One line for `sampan help`. */
	const char *help;
	/* Options of its own; NULL when it has none to show. */
	const struct opt *opts;
	/* What stands after the name in its usage line. */
	const char *usage;
	/* argv without the program and the subcommand.  The exit status, or -errno with a text. */
	int (*fn)(int argc, char *const *argv, struct err *e);
};

extern const struct ctl_cmd ctl_run;

/* Usage and options of one subcommand, to stdout. */
void ctl_cmd_help(const struct ctl_cmd *c);
