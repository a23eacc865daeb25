/* The 8259 pair; see irq_dev.h. */
#include "fuzz/irq_dev.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint16_t port[] = { 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1 };
	struct input in = { data, size };

	rig_init(NULL);
	for (unsigned ops = 0; in.left && ops < 2000; ops++) {
		uint8_t op = in8(&in);

		if (op < 100)
			bus_write(&rig.pio, port[in8(&in) % COUNT_OF(port)], 1, in8(&in));
		else if (op < 130)
			bus_read(&rig.pio, port[in8(&in) % COUNT_OF(port)], 1);
		else if (op < 190)
			fuzz_line(&in);
		else if (op < 230)
			irq_chips_inta(rig.c);
		else if (op < 240)
			fuzz_reload_chips(&in, false);
		else if (op < 250)
			fuzz_reload_chips(&in, true);
		else
			irq_chips_reset(rig.c);
		/* INTR is what the chips say, at any time. */
		BUG_ON(rig.c->intr != pic_intr(&rig.c->pic));
	}
	rig_fini();
	return 0;
}
