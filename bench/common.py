"""What the benches share: where things are, memory of a process, time until a text."""
import os
import pathlib
import re
import subprocess
import sys
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "tests/lib"))

BUILD = pathlib.Path(os.environ.get("BUILD", TOP / "build"))
QEMU = "qemu-system-x86_64"


def family(pid):
    """pid and the processes that it started."""
    out = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            out += family(int(child))
    return out


def mappings(pid):
    """(bytes of the mapping, PSS in KiB) of what is mapped; neighbours of one file count as one."""
    out, end, name = [], None, None
    for line in open(f"/proc/{pid}/smaps"):
        m = re.match(r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ (\S+ \d+)\s*(.*)", line)
        if m:
            lo, hi, which = int(m[1], 16), int(m[2], 16), m[3] + m[4]
            if lo == end and which == name:
                out[-1][0] += hi - lo
            else:
                out.append([hi - lo, 0])
            end, name = hi, which
        m = re.match(r"^Pss:\s+(\d+) kB", line)
        if m:
            out[-1][1] += int(m[1])
    return out


def pss_beyond_ram(pid, ram_bytes):
    """KiB of PSS of a VM in all but the guest's RAM (a mapping of at least half its size)."""
    return sum(pss for p in family(pid) for size, pss in mappings(p) if size < ram_bytes // 2)


def until_text(cmd, text, timeout):
    """Seconds from exec until the process prints text; it is killed then."""
    t = time.perf_counter()
    p = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                         start_new_session=True)
    os.set_blocking(p.stdout.fileno(), False)
    seen = b""
    try:
        while text not in seen:
            data = p.stdout.read()
            assert data != b"" and time.perf_counter() - t < timeout, f"no {text!r} in {timeout} s: {seen[-500:]!r}"
            if data is None:
                time.sleep(0.001)
            else:
                seen += data
        return time.perf_counter() - t
    finally:
        p.kill()
        p.wait()
        p.stdout.close()
