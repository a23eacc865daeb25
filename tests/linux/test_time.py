"""The guest's clocks against the host's, with guest and host busy.

What is measured: the host notes when it asked and when it had the answer; the guest's time in the answer was taken in
between.  Each pair of answers so bounds the rate of the guest's clock from both sides, whatever the serial line or a busy
host delayed, and all pairs together leave an interval that contains it (rate_bounds).  No statistics: if the clock runs
evenly, its rate is in there.

Guests whose only clock is the count of a periodic timer's interrupts say whether any was lost: their clock may be behind,
but it must catch up (test_ticks_counted).

20 s in `make check` (the interval is a few hundred ppm wide then); ten minutes for each clock source in `make check-slow`.
SAMPAN_TIME_SECONDS changes both.
"""
import contextlib
import multiprocessing
import os
import time

import pytest

import initramfs
import sampan

KERNEL = initramfs.GUEST / "vmlinuz"
SLOW = bool(os.environ.get("SAMPAN_SLOW"))
SECONDS = int(os.environ.get("SAMPAN_TIME_SECONDS", 600 if SLOW else 20))
HZ = 250


@pytest.fixture(scope="module")
def clocks(tmp_path_factory):
    source = sampan.TOP / "tests/linux/clocks.c"
    return initramfs.compile_static(source, tmp_path_factory.mktemp("clocks") / "clocks", "-lm")


def spin(_):
    while True:
        pass


@contextlib.contextmanager
def busy_host(n):
    """n processes that never rest."""
    ps = [multiprocessing.Process(target=spin, args=(0,), daemon=True) for _ in range(n)]
    for p in ps:
        p.start()
    try:
        yield
    finally:
        for p in ps:
            p.kill()
            p.join()


class Clocks:
    """A guest that runs clocks.c."""

    def __init__(self, tmp_path, program, cpus, busy, append, accel="soft"):
        rd = initramfs.build(tmp_path / "rd.cpio", "stty -echo; cat /sys/devices/system/clocksource/clocksource0/"
                             f"current_clocksource; clocks {busy}; dmesg | grep -iE 'unstable|watchdog|lost|rcu.*stall'",
                             programs=(program,), modules=False)
        self.vm = sampan.VM("--accel", accel, "--cpus", cpus, "--memory", "256M", "--net", "none", "--kernel", KERNEL,
                            "--initrd", rd, "--append", f"console=ttyS0 quiet {append}")
        self.source = self.vm.expect(r"^(tsc|kvm-clock|hpet|(?:refined-)?jiffies|acpi_pm)\r?\n", 300)[1]
        self.vm.expect("^clocks ready", 60)

    def ask(self, what, n, timeout=60):
        """The n numbers of the answer, and CLOCK_MONOTONIC of the host before and after."""
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        self.vm.send(what + "\n")
        m = self.vm.expect("^" + what.upper() + r" (\d+)" * n + r"\s", timeout)
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        return [int(v) for v in m.groups()], before, after

    def end(self):
        """What the kernel had to say."""
        self.vm.send("q\n")
        assert self.vm.wait(60) == 0
        return self.vm.text


def rate_bounds(samples):
    """samples: (guest, host before, host after).  The rate of the guest's clock is between the two results.

    Of rate r: guest[j] - guest[i] = r * (a time between before[j] - after[i] and after[j] - before[i]).
    """
    low, high = 0.0, float("inf")
    for j, (g1, b1, a1) in enumerate(samples):
        for g0, b0, a0 in samples[:j]:
            high = min(high, (g1 - g0) / (b1 - a0)) if b1 > a0 else high
            low = max(low, (g1 - g0) / (a1 - b0))
    return low, high


def ppm(rate):
    return (rate - 1) * 1e6


def sample(guest, seconds):
    """Answers to t over that time: monotonic and realtime samples."""
    mono, real = [], []
    end = time.monotonic() + seconds
    told = time.monotonic()
    # A few hundred answers whatever the time.
    pause = min(1, seconds / 300)
    while time.monotonic() < end:
        (m, r), before, after = guest.ask("t", 2)
        mono.append((m, before, after))
        real.append((r, before, after))
        time.sleep(pause)
        if SLOW and time.monotonic() > told + 60:
            told = time.monotonic()
            low, high = rate_bounds(mono[::max(1, len(mono) // 200)])
            print(f"  {end - told:4.0f} s left: rate {ppm(low):+.1f} to {ppm(high):+.1f} ppm", flush=True)
    return mono, real


def check_rate(name, samples, width, bound):
    """width: how wide the interval may be, or the test said nothing; bound: where it must begin or end (ppm)."""
    low, high = rate_bounds(samples)
    delay = min(a - b for _, b, a in samples)
    print(f"  {name}: rate {ppm(low):+.1f} to {ppm(high):+.1f} ppm of {len(samples)} answers, best round trip "
          f"{delay / 1e6:.2f} ms", flush=True)
    assert low <= high * (1 + 5e-6), f"{name} does not run evenly"
    assert ppm(high) - ppm(low) < width, f"{name}: too few quick answers for a judgement"
    assert ppm(low) > -bound and ppm(high) < bound, f"{name} runs by {ppm(low):.0f} to {ppm(high):.0f} ppm"


def check_ticks(first, last):
    """Jiffies are ticks that the kernel was told of, late or not."""
    elapsed = last[0] - first[0]
    jiffies = last[1] - first[1]
    print(f"  jiffies: {jiffies} in {elapsed / 1e9:.3f} s, {jiffies - elapsed * HZ / 1e9:+.1f} of what they should be; "
          f"{(last[2] - first[2]) / (elapsed / 1e9):.0f} timer interrupts a second", flush=True)
    assert abs(jiffies - elapsed * HZ / 1e9) < 5


def check_rtc(first, last):
    """(system time in ns, seconds of the chip) where its second changed, twice: both went on alike."""
    drift = (last[0] - first[0]) / 1e9 - (last[1] - first[1])
    print(f"  clock chip: {drift * 1e3:+.1f} ms in {last[1] - first[1]} s", flush=True)
    assert abs(drift) < 0.1


def check_periodic(answer):
    expired, elapsed, late, merged = answer
    print(f"  timer of 1 ms: {expired} in {elapsed / 1e9:.3f} s, {merged} merged into others, latest {late / 1e6:.1f} ms",
          flush=True)
    # It told of all that passed by its last read, which may be as late as it ever was.
    assert elapsed / 1e6 - late / 1e6 - 2 <= expired <= elapsed / 1e6


# No other clock than this one, where the kernel would go on to take the TSC for itself.
SOURCES = {
    "tsc": "clocksource=tsc",
    "kvm-clock": "clocksource=kvm-clock",
    "hpet": "clocksource=hpet tsc=unstable no-kvmclock",
    "acpi_pm": "clocksource=acpi_pm tsc=unstable no-kvmclock",
}


@pytest.mark.parametrize("source,cpus", [("tsc", 1), ("tsc", 2), ("kvm-clock", 2), ("hpet", 1), ("acpi_pm", 1)])
def test_rate_under_load(tmp_path, clocks, source, cpus):
    if not SLOW and (source, cpus) != ("tsc", 2):
        pytest.skip("ten minutes: make check-slow")
    print(f"\n  {source}, {cpus} vCPU, {SECONDS} s", flush=True)
    with busy_host(1):
        guest = Clocks(tmp_path, clocks, cpus, cpus, SOURCES[source])
        with guest.vm:
            assert guest.source == source
            ticks, *_ = guest.ask("j", 3)
            rtc, *_ = guest.ask("r", 2)
            mono, real = sample(guest, SECONDS)
            check_ticks(ticks, guest.ask("j", 3)[0])
            check_rtc(rtc, guest.ask("r", 2)[0])
            check_periodic(guest.ask("p", 4)[0])
            said = guest.end()
    # A busy host may answer late each time, so the short run only sees gross errors.
    width, bound = (60, 100) if SECONDS >= 300 else (2000, 1000)
    check_rate("CLOCK_MONOTONIC", mono, width, bound)
    check_rate("CLOCK_REALTIME", real, width, bound)
    assert "unstable" not in said.split("clocks ready")[1] and "stall" not in said


# Timers that interrupt periodically, and what makes a kernel count nothing but them.  By these clocks a second is as long
# as the kernel thinks that its ticks are, to 1 ppm.
COUNTED = {
    "pit": "clocksource=refined-jiffies nolapic_timer hpet=disable",
    "lapic": "clocksource=jiffies hpet=disable",
    "hpet": "clocksource=jiffies nolapic_timer",
}
TICK_NS = 10**9 // HZ


class Counted:
    """A guest whose clock counts ticks."""

    def __init__(self, guest, name):
        self.guest, self.name = guest, name
        self.first = self.last = self.start = None

    def samples(self, seconds):
        out, end = [], time.monotonic() + seconds
        while time.monotonic() < end or len(out) < 20:
            (mono, _), before, after = self.guest.ask("t", 2)
            out.append((mono, before, after))
            time.sleep(0.02)
        return out

    def offset(self):
        """Of the guest's clock to the host's, between bounds, when there is nothing more to catch up with.

        The clock is never early.  So the most that an answer shows, with the host's time after it, is a lower bound; an
        upper one comes of the quickest answers with the time before them, if one of them was not late.
        """
        best, low = None, None
        for _ in range(20):
            samples = self.samples(2)
            best, low = low, max(g - a for g, b, a in samples)
            if best is not None and low < best + TICK_NS + 3e6:
                break
        quick = sorted(samples, key=lambda s: s[2] - s[1])[:10]
        return low, max(g - b for g, b, a in quick) + TICK_NS

    def check(self):
        seconds = time.monotonic() - self.start
        low, high = self.last[0] - self.first[1], self.last[1] - self.first[0]
        print(f"  {self.name}: {low / 1e6:+.1f} to {high / 1e6:+.1f} ms after {seconds:.0f} s", flush=True)
        assert high - low < 100e6, f"{self.name}: too few quick answers for a judgement"
        slack = 2e6 + 5e3 * seconds
        assert low < slack, f"{self.name}: {low / TICK_NS:.0f} ticks too many"
        assert high > -slack, f"{self.name}: {-high / TICK_NS:.0f} ticks were lost"


def test_ticks_counted(tmp_path, clocks):
    """Three guests at once, each with work to do, which keep the host busy as well."""
    print(f"\n  counted ticks, {SECONDS} s", flush=True)
    guests = []
    with contextlib.ExitStack() as stack:
        for name, append in COUNTED.items():
            (tmp_path / name).mkdir()
            g = Clocks(tmp_path / name, clocks, 1, 0, f"{append} tsc=unstable no-kvmclock lapic=notscdeadline")
            stack.enter_context(g.vm)
            assert "jiffies" in g.source
            guests.append(Counted(g, name))
        for c in guests:
            c.first, c.start = c.offset(), time.monotonic()
        for c in guests:
            c.guest.ask("b", 1)
        with busy_host(1):
            time.sleep(SECONDS)
        for c in guests:
            c.guest.ask("k", 1)
        for c in guests:
            c.last = c.offset()
            c.guest.end()
    for c in guests:
        c.check()
