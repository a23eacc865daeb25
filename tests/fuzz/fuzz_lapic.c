/* Local APICs: registers, MSRs, pages, IPIs among four CPUs, and timers; see irq_dev.h. */
#include "fuzz/irq_dev.h"

static void fuzz_msr(struct input *in, struct lapic *l)
{
	uint8_t what = in8(in);
	uint32_t msr = what < 32 ? 0x1b : what < 64 ? 0x6e0 : 0x800 + what;
	uint64_t v;

	if (in8(in) & 1)
		(void)!lapic_msr_read(l, msr, &v);
	else
		(void)!lapic_msr_write(l, msr, in_le(in, 8));
}

static void fuzz_page(struct input *in, struct lapic *l)
{
	uint8_t page[1024];

	lapic_get_page(l, page);
	for (unsigned n = in8(in) % 16; n; n--) {
		size_t at = in_le(in, 2) % sizeof(page);

		page[at] = in8(in);
	}
	lapic_set_page(l, page, in_le(in, 8));
}

/* Time passes; what is due is called a bounded number of times. */
static void fuzz_time(struct input *in)
{
	static const uint64_t unit[] = { 1, 1000, 1000000, 3600 * NS_PER_SEC };

	rig_now += (in8(in) + 1) * unit[in8(in) % COUNT_OF(unit)];
	for (unsigned n = 0; n < 2 * RIG_CPUS; n++) {
		unsigned cpu = n % RIG_CPUS;

		if (rig.deadline[cpu] > rig_now)
			continue;
		rig.deadline[cpu] = UINT64_MAX;
		lapic_timer_fired(&rig.l[cpu]);
		/* Never again for the same moment. */
		BUG_ON(rig.deadline[cpu] <= rig_now);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };

	rig_init(NULL);
	for (unsigned ops = 0; in.left && ops < 2000; ops++) {
		uint8_t op = in8(&in);
		struct lapic *l = &rig.l[op % RIG_CPUS];

		if (op < 80)
			lapic_write(l, in8(&in) * 8u, (uint32_t)in_le(&in, 4));
		else if (op < 100)
			lapic_read(l, in8(&in) * 8u);
		else if (op < 140)
			fuzz_msr(&in, l);
		else if (op < 160)
			lapic_post(l, in8(&in), in8(&in) & 1);
		else if (op < 180)
			fuzz_cpu(l->index);
		else if (op < 190)
			rig_eoi(l->index);
		else if (op < 200)
			lapic_tpr_set(l, in8(&in));
		else if (op < 220)
			fuzz_time(&in);
		else if (op < 225)
			irq_chips_nmi(rig.c);
		else if (op < 230)
			fuzz_page(&in, l);
		else if (op < 240)
			fuzz_reload_lapic(&in, l->index, false);
		else if (op < 250)
			fuzz_reload_lapic(&in, l->index, true);
		else
			lapic_reset(l, op & 1);
	}
	rig_fini();
	return 0;
}
