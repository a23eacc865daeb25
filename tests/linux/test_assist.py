"""Debian's cloud kernel on /dev/kvm, with the assist, and QEMU beside it.

Where KVM runs ring 0 in its emulator (a PVM host), that is about two million instructions a second: half an hour or
more to /init.  So this runs in `make check-slow` alone (SAMPAN_SLOW=1), which shows what is printed.
"""
import os
import re
import shutil
import subprocess
import threading
import time

import pytest

import initramfs
import sampan

KERNEL = initramfs.GUEST / "vmlinuz"
# The kernel's own tests of RSA and the like alone would be an hour of multiplications; nothing else is left out.
APPEND = "console=ttyS0 net.ifnames=0 cryptomgr.notests"
LIMIT_S = int(os.environ.get("SAMPAN_SLOW_SECONDS", "7200"))
# At least so long, and as long as Sampan runs.
QEMU_LIMIT_S = 900

if not os.environ.get("SAMPAN_SLOW"):
    pytest.skip("takes half an hour or more: make check-slow", allow_module_level=True)
if not os.access("/dev/kvm", os.R_OK | os.W_OK):
    pytest.skip("no access to /dev/kvm", allow_module_level=True)


def say(text):
    print(f"  {text}", flush=True)


class Qemu(threading.Thread):
    """The same kernel and initramfs in QEMU on the same /dev/kvm: does it get to /init, and if not, why?"""

    def __init__(self, rd):
        super().__init__(daemon=True)
        self.stop, self.result = False, None
        # Without the capability bit QEMU asserts on such hosts.
        self.cmd = ["qemu-system-x86_64", "-M", "pc", "-accel", "kvm", "-cpu", "host,-arch-capabilities", "-m", "512M",
                    "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
                    "-kernel", str(KERNEL), "-initrd", str(rd), "-append", APPEND]

    def run(self):
        start = time.monotonic()
        p = subprocess.Popen(self.cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        os.set_blocking(p.stdout.fileno(), False)
        text = ""
        while self.result is None:
            text += (p.stdout.read() or b"").decode(errors="replace")
            took = int(time.monotonic() - start)
            failure = re.search(r"KVM internal error\. Suberror: \d+", text)
            code = re.search(r"^Code=.*", text, re.M)
            if "REACHED-INIT" in text:
                self.result = f"reached /init after {took} s"
            elif failure and code:
                at = re.search(r"RIP=(\w+)", text)
                last = [line for line in text.split("KVM internal")[0].splitlines() if line.strip()]
                self.result = (f"{failure[0]} after {took} s at RIP {at[1] if at else '?'}\n    {code[0]}\n"
                               f"    last line: {last[-1].strip() if last else '(none)'}")
            elif p.poll() is not None:
                self.result = f"ended with {p.returncode} after {took} s: {text[-300:]}"
            elif self.stop and took > QEMU_LIMIT_S:
                self.result = f"neither failed nor reached /init in {took} s"
            else:
                time.sleep(0.5)
        p.kill()
        p.wait()
        say(f"QEMU: {self.result}")


def progress(vm, pattern, end):
    """Wait for a pattern; the guest's last line every two minutes."""
    start = time.monotonic()
    while True:
        try:
            m = vm.expect(f"({pattern})|Kernel panic", min(120, max(1, end - time.monotonic())))
            assert "panic" not in m[0], vm.text[-4000:]
            return m
        except sampan.Timeout:
            lines = [line.strip() for line in vm.text.splitlines() if line.strip()]
            say(f"{int(time.monotonic() - start)} s: {lines[-1][:100] if lines else '(nothing yet)'}")
            if time.monotonic() > end:
                raise


def counters(err):
    m = re.search(r"engine kvm: (exit.*)", err)
    assert m, err[-2000:]
    return dict(re.findall(r"(\S+)=(\d+)", m[1]))


def test_debian_reaches_init(tmp_path):
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"sampan-disk" + bytes((1 << 20) - 11))
    rd = initramfs.build(tmp_path / "rd.cpio", "echo REACHED-INIT; head -c 11 /dev/vda; echo; "
                         "printf written | dd of=/dev/vda bs=512 seek=8 conv=fsync 2>/dev/null; "
                         "ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ping -c 2 10.0.2.2 | grep received; "
                         "echo all-done")
    qemu = None
    if shutil.which("qemu-system-x86_64"):
        qemu = Qemu(rd)
        qemu.start()
    print()
    start = time.monotonic()
    with sampan.VM("--accel", "kvm", "--memory", "512M", "--net", "user", "--disk", disk, "--kernel", KERNEL, "--initrd", rd,
                   "--append", APPEND, "--log", "info") as vm:
        try:
            progress(vm, "^REACHED-INIT", start + LIMIT_S)
            say(f"Sampan: reached /init after {int(time.monotonic() - start)} s")
            end = time.monotonic() + 1800
            progress(vm, "^sampan-disk", end)
            progress(vm, "2 packets received", end)
            progress(vm, "^all-done", end)
            say(f"Sampan: disk and network work, after {int(time.monotonic() - start)} s")
            assert vm.wait(1200) == 0
        finally:
            if vm.p.poll() is None:
                vm.kill(15)
            if "engine kvm: exit" in vm.err:
                n = counters(vm.err)
                say(f"Sampan: {n['assists']} exits finished by the software CPU, {n['assisted-insns']} instructions:")
                by = sorted(((int(v), k[7:]) for k, v in n.items() if k.startswith("assist-")), reverse=True)
                say("    " + ", ".join(f"{k} {v}" for v, k in by))
                say("    exits: " + ", ".join(f"{k[5:]} {v}" for k, v in n.items() if k.startswith("exit-")))
            if qemu:
                qemu.stop = True
                qemu.join(QEMU_LIMIT_S + 10)
            else:
                say("QEMU: not here (make check-slow installs it)")
    n = counters(vm.err)
    assert disk.read_bytes()[4096:4103] == b"written"
    # Where QEMU died of an emulation failure, the assist had work.
    if qemu and "internal error" in (qemu.result or ""):
        assert int(n["assisted-insns"]) > 1000
