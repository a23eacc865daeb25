"""Debian's kernel and the Debian guest in lockstep: every translated block also by the interpreter, all state compared.

A difference ends the VM with SIGABRT and a report on stderr (src/accel/soft/jit/lockstep.h).  A minute for the kernel,
many for the disk, so this runs in `make check-slow` alone (SAMPAN_SLOW=1).
"""
import os
import re
import subprocess
import time

import pytest

import initramfs
import sampan

if not os.environ.get("SAMPAN_SLOW"):
    pytest.skip("takes many minutes: make check-slow", allow_module_level=True)

# User programs that use most of the instruction set: strings, vectors, x87, wide multiplications, signals.
PROGRAMS = """
head -c 3000000 /dev/zero | sha256sum; head -c 1000000 /dev/urandom >/tmp/r; gzip -c /tmp/r | gunzip | cmp - /tmp/r && echo same
awk 'BEGIN { for (i = 1; i < 20000; i++) s += sin(i) * exp(-i / 7) / sqrt(i); printf "sum %.9f\\n", s }'
seq 1 20000 | sort -r | md5sum; (sleep 1 & wait); echo "2 ^ 400 / 7 ^ 99" | bc; sh -c 'kill -SEGV $$'; true
"""


def counters(vm):
    m = re.search(r"lockstep-compared=(\d+) lockstep-partial=(\d+) lockstep-aborted=(\d+) lockstep-excused=(\d+)", vm.err)
    assert m, vm.err[-3000:]
    print(f"  compared {m[1]} blocks ({m[2]} in their middle), {m[3]} not compared, {m[4]} excused", flush=True)
    return [int(n) for n in m.groups()]


def check(vm):
    compared, partial, aborted, excused = counters(vm)
    assert compared > 30_000_000 and partial > 10000
    # What is not compared is rare.
    assert aborted < compared / 100 and excused < compared / 100000


def test_kernel_to_init(tmp_path):
    start = time.monotonic()
    rd = initramfs.build(tmp_path / "rd.cpio", f"echo REACHED-INIT\n{PROGRAMS}\necho PROGRAMS-DONE")
    with sampan.VM("--accel", "soft,lockstep=on", "--memory", "512M", "--net", "none", "--log", "info",
                   "--kernel", initramfs.GUEST / "vmlinuz", "--initrd", rd, "--append", "console=ttyS0 quiet") as vm:
        vm.expect("^REACHED-INIT", 900)
        print(f"\n  /init after {time.monotonic() - start:.0f} s", flush=True)
        vm.expect("^same", 900)
        vm.expect("^PROGRAMS-DONE", 900)
        assert vm.wait(120) == 0
        check(vm)


def test_debian_to_login(tmp_path):
    disk = tmp_path / "disk.raw"
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(initramfs.GUEST / "disk.raw"), str(disk)], check=True)
    start = time.monotonic()
    with sampan.VM(disk, "--accel", "soft,lockstep=on", "--cpus", 1, "--memory", "1G", "--log", "info", "--net", "user",
                   "--kernel", initramfs.GUEST / "vmlinuz", "--initrd", initramfs.GUEST / "initrd.img",
                   "--append", "root=LABEL=root ro console=ttyS0 net.ifnames=0 quiet "
                   "systemd.default_timeout_start_sec=7200", control=tmp_path / "s") as vm:
        vm.expect("sampan login: ", 3600)
        print(f"\n  login after {time.monotonic() - start:.0f} s", flush=True)
        with sampan.QMP(vm.control) as q:
            q.call("quit")
        assert vm.wait(60) == 0
        check(vm)
