/*
 * sampan: the command line.  The first argument chooses a subcommand from a table; each lives in a
 * file of its own.
 */
#include "base/log.h"
#include "base/near.h"
#include "base/opt.h"
#include "base/os.h"
#include "base/trace.h"
#include "ctl/ctl.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static const struct ctl_cmd *const ctl_cmds[];

static const char *ctl_name_nth(const void *arg, unsigned i)
{
	const struct ctl_cmd *c = ((const struct ctl_cmd *const *)arg)[i];

	return c ? c->name : NULL;
}

static const struct ctl_cmd *ctl_find(const char *name, struct err *e)
{
	for (unsigned i = 0; ctl_cmds[i]; i++)
		if (!strcmp(ctl_cmds[i]->name, name))
			return ctl_cmds[i];
	const char *near = near_find(name, ctl_name_nth, ctl_cmds);
	if (near)
		err_set(e, EINVAL, "there is no command '%.40s'; did you mean '%s'?", name, near);
	else
		err_set(e, EINVAL, "there is no command '%.40s' (see sampan help)", name);
	return NULL;
}

void ctl_cmd_help(const struct ctl_cmd *c)
{
	printf("Usage: sampan %s%s%s\n%s\n", c->name, c->usage ? " " : "", c->usage ? c->usage : "",
	       c->help);
	if (c->opts) {
		printf("\n");
		opt_help(c->opts, stdout);
	}
}

static int ctl_unexpected(const char *arg, struct err *e)
{
	return err_set(e, EINVAL, "unexpected argument '%.40s' (see sampan help)", arg);
}

static int ctl_help(int argc, char *const *argv, struct err *e)
{
	const struct ctl_cmd *c;

	if (argc > 1)
		return ctl_unexpected(argv[1], e);
	if (argc > 0) {
		c = ctl_find(argv[0], e);
		if (!c)
			return -e->code;
		ctl_cmd_help(c);
		return 0;
	}
	printf("Usage: sampan COMMAND [ARGUMENT...]\nRun virtual machines.\n\n");
	for (unsigned i = 0; ctl_cmds[i]; i++)
		printf("  %-10s %s\n", ctl_cmds[i]->name, ctl_cmds[i]->help);
	printf("\n'sampan help COMMAND' says more about one.\n");
	return 0;
}

static int ctl_version(int argc, char *const *argv, struct err *e)
{
	if (argc > 0)
		return ctl_unexpected(argv[0], e);
	printf("sampan %s\n", SAMPAN_VERSION);
	return 0;
}

static const struct ctl_cmd ctl_help_cmd = {
	.name = "help",
	.help = "Show the commands, or what one of them does.",
	.usage = "[COMMAND]",
	.fn = ctl_help,
};

static const struct ctl_cmd ctl_version_cmd = {
	.name = "version",
	.help = "Show the version.",
	.fn = ctl_version,
};

/* Every subcommand there is; NULL ends it. */
static const struct ctl_cmd *const ctl_cmds[] = {
	&ctl_run,
	&ctl_help_cmd,
	&ctl_version_cmd,
	NULL,
};

int main(int argc, char **argv)
{
	struct err e = { 0 };
	const struct ctl_cmd *c;
	int rc;

	log_program = "sampan";
	os_std_fds();
	/* Our memfd counts for the limit on file sizes. */
	signal(SIGXFSZ, SIG_IGN);
	trace_init();
	if (argc < 2) {
		ctl_help(0, NULL, &e);
		return 2;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "--version"))
		argv[1] += 2;
	c = ctl_find(argv[1], &e);
	rc = c ? c->fn(argc - 2, argv + 2, &e) : -e.code;
	if (rc >= 0)
		return rc;
	log_error("%s", e.msg);
	return 2;
}
