#include "guest/pit.h"

#include "base/alloc.h"
#include "dev/pc/pc.h"

#include <errno.h>
#include <stdlib.h>

struct tiny_pit {
	struct board b;
	struct loop_thread loop;
	struct dev *pit;
};

static void pit_request(struct board *b, enum board_request r, unsigned value)
{
}

int tiny_pit_new(const struct accel_vm *vm, struct tiny_pit **ret, struct err *e)
{
	struct tiny_pit *p = NEW(struct tiny_pit);

	if (!p)
		return err_set(e, ENOMEM, "no memory");
	int rc = loop_thread_start(&p->loop, "pit", LOOP_AUTO, e);
	if (rc < 0) {
		free(p);
		return rc;
	}
	p->b = (struct board){
		.gmem = vm->o.gmem,
		.mmio = vm->o.mmio,
		.pio = vm->o.pio,
		.irqs = vm->irqs,
		.loop = p->loop.loop,
		.request = pit_request,
	};
	list_init(&p->b.devs);
	rc = pit_new(&p->b, &p->pit, e);
	if (rc < 0) {
		tiny_pit_free(p);
		return rc;
	}
	board_reset(&p->b);
	board_start(&p->b);
	*ret = p;
	return 0;
}

void tiny_pit_free(struct tiny_pit *p)
{
	if (!p)
		return;
	loop_thread_stop(&p->loop);
	board_stop(&p->b);
	dev_free(p->pit);
	loop_thread_fini(&p->loop);
	free(p);
}
