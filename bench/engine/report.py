"""What the figures say: a table of medians and ratios, geometric means, and the gates."""
import math
import statistics

GROUPS = {
    "int": "integer",
    "mem": "memory",
    "fp": "floating point and SIMD",
    "sys": "system",
    "app": "busybox (seconds)",
    "disk": "Debian's programs on its disk (seconds)",
    "boot": "boot (seconds)",
}
COMPUTE = ("int", "mem", "fp")


def geomean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


class Row:
    """One workload: its samples by engine.  A unit of "s" is a time, less is better; else a rate."""

    def __init__(self, group, name, unit):
        self.group, self.name, self.unit = group, name, unit
        self.samples, self.errors, self.skips, self.output = {}, {}, {}, None

    def median(self, engine):
        s = self.samples.get(engine)
        return statistics.median(s) if s and engine not in self.errors else None

    def speed(self, engine):
        """More is better, whatever the unit."""
        m = self.median(engine)
        return None if m is None else 1 / m if self.unit == "s" else m

    def ratio(self, a, b):
        """How many times faster a is than b."""
        x, y = self.speed(a), self.speed(b)
        return x / y if x and y else None

    def tcg_at_best(self):
        """The QEMU that is faster in this row, or None."""
        have = [e for e in ("tcg", "best") if self.speed(e)]
        return max(have, key=self.speed) if have else None

    def over_tcg(self):
        best = self.tcg_at_best()
        return self.ratio("sampan", best) if best else None


def number(v, width=9):
    if v is None:
        return f"{'-':>{width}}"
    return f"{v:{width}.{max(0, 3 - len(str(int(abs(v)))))}f}"


def times(v, width=8):
    return f"{'-':>{width}}" if v is None else f"{v:{width}.2f}"


# Heading, engine besides Sampan, of a Row.
RATIOS = (
    ("native/S", "native", lambda r: r.ratio("native", "sampan")),
    ("S/tcg", "tcg", lambda r: r.ratio("sampan", "tcg")),
    ("S/best", "best", lambda r: r.ratio("sampan", "best")),
)


def print_table(rows, engines):
    cols = [e for e in ("native", "sampan", "tcg", "best") if e in engines]
    ratios = [(title, f) for title, e, f in RATIOS if e in cols and "sampan" in cols]
    print(f"\n{'':16s} {'':8s} " + " ".join(f"{c:>9s}" for c in cols) + " |" + " ".join(f"{n:>8s}" for n, _ in ratios))
    for group, title in GROUPS.items():
        mine = [r for r in rows if r.group == group]
        if not mine:
            continue
        print(title)
        for r in mine:
            print(f"  {r.name:14s} {r.unit:8s} " + " ".join(number(r.median(c)) for c in cols) + " |" +
                  " ".join(times(f(r)) for _, f in ratios) + ("" if not r.errors else "  ERROR " + ",".join(r.errors)))
        if len(mine) > 1:
            print(f"  {'geometric mean':23s} " + " " * (10 * len(cols) - 1) + " |" +
                  " ".join(times(geomean(v for r in mine if (v := f(r)))) for _, f in ratios))
    for r in rows:
        for engine, why in r.skips.items():
            print(f"  skipped: {r.name} on {engine}: {why}")


def print_scaling(pairs, engines, cpus):
    """pairs: (row of one process, row of `cpus` processes)."""
    cols = [e for e in ("native", "sampan", "tcg", "best") if e in engines]
    print(f"\nthroughput of {cpus} processes over that of one, {cpus} vCPUs")
    print(f"  {'':14s} " + " ".join(f"{c:>9s}" for c in cols))
    for one, many in pairs:
        print(f"  {one.name:14s} " + " ".join(number(scale(one, many, c)) for c in cols))
    compute = [(o, m) for o, m in pairs if o.group in COMPUTE]
    print(f"  {'compute, mean':14s} " +
          " ".join(number(geomean(v for o, m in compute if (v := scale(o, m, c)))) for c in cols))


def scale(one, many, engine):
    a, b = one.median(engine), many.median(engine)
    return b / a if a and b else None


def worst(rows, value, need):
    """The rows that miss a need, worst first, as text; with the host's own figure where it misses too."""
    out = []
    for r in sorted((r for r in rows if value(r) is not None and value(r) < need), key=value):
        limit = r.ratio("native", r.tcg_at_best()) if r.tcg_at_best() else None
        out.append(f"{r.name} {value(r):.2f}" + (f" (native itself {limit:.2f})" if limit and limit < need else ""))
    return ", ".join(out)


class Gates:
    def __init__(self):
        self.list = []

    def add(self, what, value, met, note=""):
        """value None: not measured."""
        self.list.append({"gate": what, "value": value, "met": None if value is None else bool(met), "note": note})

    def least(self, what, rows, need, value=Row.over_tcg):
        """Each row's value must be at least need."""
        have = [r for r in rows if value(r) is not None]
        low = min(map(value, have), default=None)
        self.add(what, low, low is not None and low >= need, worst(have, value, need))


def judge(rows, pairs, memory):
    """memory: MiB beyond guest RAM by engine."""
    g, by = Gates(), {r.name: r for r in rows}

    def some(*names):
        return [by[n] for n in names if n in by]

    boot = by.get("init")
    over = boot.over_tcg() if boot else None
    g.add("boot to /init: at most 0.40 of TCG's time", over and 1 / over, over and over >= 2.5,
          f"{boot.median('sampan'):.2f} s" if over else "")
    slow = geomean(v for r in rows if r.group in COMPUTE and (v := r.ratio("native", "sampan")))
    g.add("compute rows: native at most 2.2 times faster, geometric mean", slow, slow and slow <= 2.2)
    g.least("floating point and SIMD: each at least 10 times TCG", [r for r in rows if r.group == "fp"], 10)
    g.least("no row slower than TCG at its best", rows, 1)
    g.least("page faults, read and write: at least 2 times TCG", some("fault", "rw"), 2)
    g.least("shell, awk, sort: at least 4 times TCG", some("shell", "awk", "sort"), 4)
    compute = [(one, many) for one, many in pairs if one.group in COMPUTE]
    scaling = geomean(v for one, many in compute if (v := scale(one, many, "sampan")))
    host = geomean(v for one, many in compute if (v := scale(one, many, "native")))
    g.add("--cpus 2: at least 1.9 times the throughput of one, compute rows", scaling, scaling and scaling >= 1.9,
          f"native {host:.2f}" if host else "")
    qemu = min((memory[e] for e in ("tcg", "best") if memory.get(e)), default=None)
    part = memory["sampan"] / qemu if qemu and memory.get("sampan") else None
    g.add("memory beyond guest RAM: at most 0.50 of QEMU's", part, part and part <= 0.5,
          ", ".join(f"{e} {m:.0f} MiB" for e, m in memory.items() if m))
    return g.list


def print_gates(gates):
    print("\ngates")
    for g in gates:
        state = "not measured" if g["met"] is None else "met" if g["met"] else "MISSED"
        print(f"  {state:12s} {times(g['value'])}  {g['gate']}" + (f": {g['note'].strip()}" if g["note"] else ""))
