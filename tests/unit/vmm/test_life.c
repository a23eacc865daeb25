/*
 * vmm/life.c alone: what happens in which order, in the cases that a guest brings about seldom or
 * never.  The machine, the vCPUs and the control socket are fakes that write down what is asked.
 */
#include "vmm/vmm.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "lib/t.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fix {
	struct vmm *v;
	/* Words, each followed by a space. */
	char said[1024];
	int reset_rc;
	/* Asked for while the machine is reset. */
	uint32_t ask_in_reset;
};

static struct fix *now;

static void say(const char *word)
{
	size_t len = strlen(now->said);

	snprintf(now->said + len, sizeof(now->said) - len, "%s ", word);
}

/* The fakes. */

void machine_stop(struct machine *m UNUSED)
{
	say("stop");
}

void machine_start(struct machine *m UNUSED)
{
	say("start");
}

int machine_reset(struct machine *m UNUSED, struct err *e)
{
	say("reset");
	return now->reset_rc < 0 ? err_set(e, -now->reset_rc, "a kernel is gone") : 0;
}

void vcpus_pause(struct vcpus *g UNUSED)
{
	say("pause");
	/* A vCPU on its way out. */
	if (now->ask_in_reset & BIT(BOARD_RESET))
		vmm_request(now->v, BOARD_RESET, 0);
}

void vcpus_resume(struct vcpus *g UNUSED)
{
	say("resume");
}

void vcpus_hold(struct vcpus *g UNUSED)
{
	say("hold");
}

void qmp_server_event(struct qmp_server *s, const char *name,
		      void (*data)(struct json_out *o, const void *arg), const void *arg)
{
	struct json_out o = { 0 };

	if (!s)
		return;
	say(name);
	if (!data)
		return;
	json_out_obj(&o, NULL);
	data(&o, arg);
	json_out_end(&o);
	char *text = json_out_take(&o);
	say(text);
	free(text);
}

/* The VM: it runs, with a control socket, and has one disk. */

static int setup(void **state)
{
	static char control;
	struct fix *f = NEW(struct fix);
	struct vmm *v = NEW(struct vmm);
	struct err e;

	now = f;
	f->v = v;
	vmm_life_init(v);
	assert_int_equal(loop_new(&v->loop, LOOP_AUTO, &e), 0);
	v->machine = NEW(struct machine);
	v->spec.ndisk = 1;
	v->control = (struct qmp_server *)(void *)&control;
	vmm_set_state(v, VMM_RUNNING);
	assert_string_equal(f->said, "RESUME start resume ");
	f->said[0] = 0;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	loop_post_cancel(f->v->loop, &f->v->post);
	loop_timer_cancel(&f->v->retry);
	loop_free(f->v->loop);
	free(f->v->machine);
	free(f->v);
	free(f);
	return 0;
}

/* What was said since the last look, after the main thread looked at what was asked for. */
#define SAID(f, want)                                 \
	do {                                          \
		loop_run_once((f)->v->loop, 0);       \
		assert_string_equal((f)->said, want); \
		(f)->said[0] = 0;                     \
	} while (0)

static void test_pause_and_reset(void **state)
{
	struct fix *f = *state;
	struct err e;

	vmm_set_state(f->v, VMM_PAUSED);
	SAID(f, "pause stop STOP ");
	vmm_set_state(f->v, VMM_PAUSED);
	SAID(f, "");
	vmm_reset(f->v, false, "button");
	SAID(f, "reset RESET {\"guest\": false, \"reason\": \"button\"} ");
	assert_int_equal(f->v->state, VMM_PAUSED);
	assert_int_equal(vmm_cont(f->v, &e), 0);
	SAID(f, "RESUME start resume ");
	vmm_reset(f->v, false, "button");
	SAID(f, "pause stop reset RESET {\"guest\": false, \"reason\": \"button\"} start resume ");
}

/* Two vCPUs ask at once, one of them while the first is served: it is one reset. */
static void test_resets_are_one(void **state)
{
	struct fix *f = *state;

	f->ask_in_reset = BIT(BOARD_RESET);
	vmm_request(f->v, BOARD_RESET, 0);
	vmm_request(f->v, BOARD_RESET, 0);
	SAID(f, "hold hold pause hold stop reset RESET {\"guest\": true, \"reason\": "
		"\"guest-reset\"} start resume ");
	f->ask_in_reset = 0;
	SAID(f, "");
	assert_int_equal(f->v->state, VMM_RUNNING);
}

static void test_reset_that_fails(void **state)
{
	struct fix *f = *state;

	f->reset_rc = -EIO;
	vmm_request(f->v, BOARD_RESET, 0);
	loop_run_once(f->v->loop, 0);
	assert_non_null(strstr(f->said, "reset "));
	assert_null(strstr(f->said, "RESET "));
	assert_null(strstr(f->said, "resume "));
	assert_non_null(strstr(f->said, "SHUTDOWN {\"guest\": false, \"reason\": \"host-error\"}"));
	assert_int_equal(f->v->status, 1);
}

static void test_no_reboot(void **state)
{
	struct fix *f = *state;

	f->v->spec.no_reboot = true;
	vmm_request(f->v, BOARD_RESET, 0);
	SAID(f, "hold pause stop SHUTDOWN {\"guest\": true, \"reason\": \"guest-reset\"} ");
	assert_int_equal(f->v->status, 0);
}

/* The first value of the exit device counts, and an end goes before a reset. */
static void test_the_first_end_counts(void **state)
{
	struct fix *f = *state;
	struct err e;

	vmm_request(f->v, BOARD_RESET, 0);
	vmm_request(f->v, BOARD_EXIT, 0x1ff);
	vmm_request(f->v, BOARD_EXIT, 3);
	vmm_request(f->v, BOARD_POWEROFF, 0);
	SAID(f, "hold hold hold hold pause stop SHUTDOWN {\"guest\": true, \"reason\": "
		"\"guest-shutdown\"} ");
	assert_int_equal(f->v->status, 0xff);
	/* Nothing brings it back. */
	vmm_set_state(f->v, VMM_RUNNING);
	vmm_reset(f->v, false, "button");
	vmm_leave(f->v, "host-ui");
	assert_int_equal(vmm_cont(f->v, &e), -EINVAL);
	SAID(f, "");
	assert_int_equal(f->v->state, VMM_SHUTDOWN);
	assert_int_equal(f->v->status, 0xff);
}

static void test_engine_gives_up(void **state)
{
	struct fix *f = *state;
	struct err why, e;

	err_set(&why, EIO, "an exit that nobody knows");
	vmm_engine_failed(f->v, &why);
	SAID(f, "hold pause stop STOP ");
	assert_int_equal(f->v->state, VMM_INTERNAL_ERROR);
	assert_string_equal(vmm_state_name(f->v->state), "internal-error");
	assert_int_equal(vmm_cont(f->v, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "Reset"));
	SAID(f, "");
	vmm_reset(f->v, false, "button");
	assert_int_equal(f->v->state, VMM_PAUSED);
	assert_int_equal(vmm_cont(f->v, &e), 0);
	assert_int_equal(f->v->state, VMM_RUNNING);
	/* Nobody could reset it: it ends. */
	f->v->control = NULL;
	vmm_engine_failed(f->v, &why);
	loop_run_once(f->v->loop, 0);
	assert_int_equal(f->v->state, VMM_SHUTDOWN);
	assert_int_equal(f->v->status, 1);
}

static void test_disk_error(void **state)
{
	struct fix *f = *state;
	struct machine_disk *d = &f->v->machine->disk[0];
	struct err e;

	vmm_request(f->v, BOARD_IO_ERROR, BOARD_IO_WRITE | BOARD_IO_NOSPACE);
	SAID(f,
	     "BLOCK_IO_ERROR {\"device\": \"disk0\", \"node-name\": \"disk0\", \"operation\": "
	     "\"write\", \"action\": \"stop\", \"nospace\": true, \"reason\": \"No space left on "
	     "device\"} pause stop STOP ");
	assert_int_equal(f->v->state, VMM_IO_ERROR);
	assert_true(d->failed && d->nospace);
	/* With a control socket it waits for cont. */
	assert_false(f->v->retry.armed);
	assert_int_equal(vmm_cont(f->v, &e), 0);
	/* A number that is no disk's does no harm. */
	d->failed = false;
	vmm_request(f->v, BOARD_IO_ERROR, 1);
	loop_run_once(f->v->loop, 0);
	assert_int_equal(f->v->state, VMM_IO_ERROR);
	assert_false(d[0].failed || d[1].failed);
}

/* An error at this moment; is it told? */
static bool told(struct fix *f)
{
	char name[] = "life-test-XXXXXX", text[256] = "";
	int fd = mkstemp(name), saved = dup(2);

	unlink(name);
	dup2(fd, 2);
	vmm_request(f->v, BOARD_IO_ERROR, 0);
	loop_run_once(f->v->loop, 0);
	dup2(saved, 2);
	close(saved);
	assert_true(pread(fd, text, sizeof(text) - 1, 0) >= 0);
	close(fd);
	return strstr(text, "disk0: I/O error") != NULL;
}

/* A disk that stays bad is told of once, one that is bad again later anew. */
static void test_disk_error_is_told(void **state)
{
	struct fix *f = *state;

	f->v->control = NULL;
	assert_true(told(f));
	assert_false(told(f));
	f->v->io_failed_ns -= 10 * NS_PER_SEC;
	assert_true(told(f));
}

/* Without a control socket it tries again by itself, once a second. */
static void test_disk_error_alone(void **state)
{
	struct fix *f = *state;
	uint64_t t = clock_ns();

	f->v->control = NULL;
	vmm_request(f->v, BOARD_IO_ERROR, 0);
	SAID(f, "pause stop ");
	assert_int_equal(f->v->state, VMM_IO_ERROR);
	while (f->v->state == VMM_IO_ERROR && clock_ns() - t < 5 * NS_PER_SEC)
		loop_run_once(f->v->loop, 100);
	assert_true(clock_ns() - t >= NS_PER_SEC * 9 / 10);
	SAID(f, "start resume ");
	/* It ends while it waits: nothing comes after. */
	vmm_request(f->v, BOARD_IO_ERROR, 0);
	loop_run_once(f->v->loop, 0);
	vmm_end(f->v, false, "host-signal", 0);
	assert_int_equal(f->v->state, VMM_SHUTDOWN);
	assert_false(f->v->retry.armed);
}

static void test_panic_and_leave(void **state)
{
	struct fix *f = *state;

	vmm_request(f->v, BOARD_PANIC, 0);
	SAID(f, "GUEST_PANICKED {\"action\": \"run\"} ");
	assert_int_equal(f->v->state, VMM_RUNNING);
	vmm_leave(f->v, "host-ui");
	SAID(f, "pause stop SHUTDOWN {\"guest\": false, \"reason\": \"host-ui\"} ");
}

#define LIFE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LIFE(test_pause_and_reset),      LIFE(test_resets_are_one),
		LIFE(test_reset_that_fails),     LIFE(test_no_reboot),
		LIFE(test_the_first_end_counts), LIFE(test_engine_gives_up),
		LIFE(test_disk_error),           LIFE(test_disk_error_alone),
		LIFE(test_disk_error_is_told),   LIFE(test_panic_and_leave),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
