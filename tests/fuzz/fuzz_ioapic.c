/* The I/O APIC with four CPUs that take and end its interrupts; see irq_dev.h. */
#include "fuzz/irq_dev.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };

	rig_init(NULL);
	for (unsigned i = 0; i < RIG_CPUS; i++)
		rig_enable(i);
	for (unsigned ops = 0; in.left && ops < 2000; ops++) {
		uint8_t op = in8(&in), cpu = op % RIG_CPUS;

		if (op < 60)
			rig_ioapic(in8(&in) % 24, in_le(&in, 8));
		else if (op < 90)
			bus_write(&rig.mmio, 0xfec00000 + in_le(&in, 2) % 0x100, 1u << in8(&in) % 4,
				  in_le(&in, 4));
		else if (op < 100)
			bus_read(&rig.mmio, 0xfec00000 + in_le(&in, 2) % 0x100, 1u << in8(&in) % 4);
		else if (op < 160)
			fuzz_line(&in);
		else if (op < 190)
			fuzz_cpu(cpu);
		else if (op < 220)
			rig_eoi(cpu);
		else if (op < 225)
			irq_msi(irq_chips_irqs(rig.c), in_le(&in, 8), (uint32_t)in_le(&in, 4));
		else if (op < 230)
			irq_chips_eoi(rig.c, in8(&in));
		else if (op < 240)
			fuzz_reload_chips(&in, false);
		else if (op < 250)
			fuzz_reload_chips(&in, true);
		else
			irq_chips_reset(rig.c);
	}
	rig_fini();
	return 0;
}
