#include "guest/timers.h"

#include "base/alloc.h"
#include "dev/pc/pc.h"

#include <errno.h>
#include <stdlib.h>

struct tiny_timers {
	struct board b;
	struct loop_thread loop;
	struct dev *pit, *rtc;
};

static void timers_request(struct board *b, enum board_request r, unsigned value)
{
}

int tiny_timers_new(const struct accel_vm *vm, struct tiny_timers **ret, struct err *e)
{
	const struct rtc_opts rtc = { .ncpus = 1 };
	struct tiny_timers *t = NEW(struct tiny_timers);

	if (!t)
		return err_set(e, ENOMEM, "no memory");
	int rc = loop_thread_start(&t->loop, "timers", LOOP_AUTO, e);
	if (rc < 0) {
		free(t);
		return rc;
	}
	t->b = (struct board){
		.gmem = vm->o.gmem,
		.mmio = vm->o.mmio,
		.pio = vm->o.pio,
		.irqs = vm->irqs,
		.loop = t->loop.loop,
		.request = timers_request,
	};
	list_init(&t->b.devs);
	rc = rtc_new(&t->b, &rtc, &t->rtc, e);
	if (rc == 0 && !vm->has_pit)
		rc = pit_new(&t->b, &t->pit, e);
	if (rc < 0) {
		tiny_timers_free(t);
		return rc;
	}
	board_reset(&t->b);
	board_start(&t->b);
	*ret = t;
	return 0;
}

void tiny_timers_free(struct tiny_timers *t)
{
	if (!t)
		return;
	loop_thread_stop(&t->loop);
	board_stop(&t->b);
	dev_free(t->pit);
	dev_free(t->rtc);
	loop_thread_fini(&t->loop);
	free(t);
}
