"""Debian's cloud kernel with a busybox initramfs: boot, SMP, devices, reboot, the disk's errors."""
import contextlib
import hashlib
import os
import re
import subprocess
import time

import pytest

import initramfs
import sampan

KERNEL = initramfs.GUEST / "vmlinuz"


@pytest.fixture
def linux(tmp_path):
    """linux(body, *options): a VM whose init runs the shell lines in body and then powers off."""
    vms = []

    def run(body, *args, append="", **kw):
        rd = initramfs.build(tmp_path / f"rd{len(vms)}.cpio", body)
        vm = sampan.VM("--accel", "soft", "--memory", "512M", "--net", "none", "--kernel", KERNEL, "--initrd", rd,
                       "--append", f"console=ttyS0 quiet {append}", *args, **kw)
        vms.append(vm)
        return vm

    yield run
    for vm in vms:
        vm.__exit__()


def test_boots_and_powers_off(linux):
    vm = linux("echo REACHED-INIT; cat /proc/cmdline; free -m | grep Mem; date +now=%s",
               append="a=\"b c\"")
    vm.expect("^REACHED-INIT", 120)
    vm.expect("console=ttyS0 quiet a=\"b c\"", 10)
    assert 440 < int(vm.expect(r"Mem:\s+(\d+)\s", 10)[1]) <= 512
    assert abs(int(vm.expect(r"now=(\d+)\s", 10)[1]) - time.time()) < 30
    assert vm.wait(60) == 0


# What a kernel says of a machine that is not as it should be.
COMPLAINTS = (r"firmware bug|bios bug|\bwarning:|ACPI (bios )?(error|warning)|MTRRs disabled|MTRRs all blank|"
              r"inconsistent.*MTRR|unstable|APIC error|nobody cared|call trace|unexpected|timed out|fail")


def test_kernel_has_no_complaint(linux):
    vm = linux("dmesg; echo END-OF-LOG", "--cpus", 2)
    vm.expect("^END-OF-LOG", 180)
    assert "Linux version" in vm.text and "smpboot: Total of 2 processors" in vm.text
    assert not [line for line in vm.text.splitlines() if re.search(COMPLAINTS, line, re.I)]
    assert vm.wait(60) == 0


def test_two_cpus_work_and_reboot(linux, tmp_path):
    vm = linux("nproc; grep -c ^processor /proc/cpuinfo; for i in 1 2; do taskset $i sh -c 'i=0; while [ $i -lt 2000 ]; "
               "do i=$((i+1)); done; echo cpu-done' & done; wait; grep -E 'RES|CAL' /proc/interrupts; "
               "echo 'reboot now'; reboot -f", "--cpus", 2, control=tmp_path / "s")
    for _ in range(2):
        vm.expect(r"^2\r?\n2", 120)
        vm.expect("cpu-done[^$]*cpu-done", 60)
        vm.expect("reboot now", 30)
    with sampan.QMP(tmp_path / "s") as q:
        q.event("RESET", 60)
        q.call("quit")
    assert vm.wait(30) == 0


def test_disk_contents(linux, tmp_path):
    """What the host wrote the guest reads, what the guest writes the host reads; discard frees space."""
    disk, ro = tmp_path / "d.raw", tmp_path / "ro.raw"
    data = os.urandom(8 << 20)
    disk.write_bytes(data)
    ro.write_bytes(b"R" * (1 << 20))
    vm = linux("cat /sys/block/vda/serial; echo; sha256sum /dev/vda; cat /sys/block/vdb/ro; "
               "dd if=/dev/zero of=/dev/vdb count=1 2>&1 | head -1; "
               "dd if=/dev/vda of=/dev/vda bs=1M skip=0 seek=4 count=4 conv=fsync 2>/dev/null; "
               "dd if=/dev/urandom of=/tmp/r bs=64k count=16 2>/dev/null; "
               "dd if=/tmp/r of=/dev/vda bs=64k conv=fsync 2>/dev/null; sha256sum /tmp/r; blkdiscard -h >/dev/null 2>&1; "
               "echo all-done", "--disk", f"{disk},serial=SER-1,cache=none", "--disk", f"{ro},readonly=on", "--cpus", 2)
    vm.expect("^SER-1", 120)
    assert vm.expect(r"^([0-9a-f]{64})  /dev/vda", 60)[1] == hashlib.sha256(data).hexdigest()
    vm.expect("^1\r?$", 10)
    wrote = vm.expect(r"^([0-9a-f]{64})  /tmp/r", 60)[1]
    vm.expect("^all-done", 10)
    assert vm.wait(60) == 0
    now = disk.read_bytes()
    assert hashlib.sha256(now[:1 << 20]).hexdigest() == wrote
    assert now[1 << 20:4 << 20] == data[1 << 20:4 << 20]
    assert now[4 << 20:] == data[:4 << 20]
    assert ro.read_bytes() == b"R" * (1 << 20)


def test_console_and_rng(linux, tmp_path):
    con = tmp_path / "con"
    vm = linux("cat /sys/class/misc/hw_random/rng_current; for i in 1 2; do dd if=/dev/hwrng bs=256 count=4 2>/dev/null | "
               "sha256sum; done; seq 1 20000 >/dev/hvc0; echo all-done; sleep 1", "--console", f"file:{con}")
    vm.expect("^virtio_rng", 120)
    a, b = vm.expect(r"^([0-9a-f]{64})", 30)[1], vm.expect(r"^([0-9a-f]{64})", 30)[1]
    assert a != b and a != hashlib.sha256(bytes(1024)).hexdigest()
    vm.expect("^all-done", 60)
    assert vm.wait(60) == 0
    assert con.read_text().split() == [str(i) for i in range(1, 20001)]


def test_user_network(linux):
    vm = linux("ip link set eth0 up; udhcpc -i eth0 -n -q -s /bin/true -v 2>&1 | grep -i lease; "
               "ip addr add 10.0.2.15/24 dev eth0; ping -c 2 10.0.2.2 | grep received; echo all-done",
               "--net", "user", append="net.ifnames=0")
    vm.expect("lease of 10.0.2.15 obtained", 120)
    vm.expect("2 packets received", 30)
    assert vm.wait(60) == 0


def test_pause_stops_time(linux, tmp_path):
    vm = linux("i=0; while [ $i -lt 1000 ]; do i=$((i+1)); echo tick $i; usleep 50000; done", control=tmp_path / "s")
    vm.expect("^tick 5", 120)
    with sampan.QMP(tmp_path / "s") as q:
        q.call("stop")
        vm.pump(0.3)
        before = vm.text
        for _ in range(5):
            vm.pump(0.2)
        assert vm.text == before
        q.call("cont")
        last = int(re.findall(r"tick (\d+)", before)[-1])
        vm.expect(f"^tick {last + 5}", 30)
        q.call("quit")
    assert vm.wait(30) == 0


def full_disk_args(tmp_path):
    """A disk on a file system that is too small for it; needs a mount, in a name space of our own."""
    if subprocess.run(["unshare", "-rm", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no user name spaces here")
    small = tmp_path / "small"
    small.mkdir()
    wrapper = tmp_path / "in-small"
    wrapper.write_text(f"#!/bin/sh -e\nmount -t tmpfs -o size=3m tmpfs {small}\ntruncate -s 16M {small}/d.raw\n"
                       f"(while [ ! -e {tmp_path}/grow ]; do sleep 0.1; done; mount -o remount,size=64m {small}; touch {tmp_path}/grown) &\n"
                       f"exec {sampan.BIN}/sampan \"$@\"\n")
    wrapper.chmod(0o755)
    return small / "d.raw", wrapper


@pytest.mark.parametrize("control", [True, False])
def test_full_disk_pauses_and_loses_nothing(tmp_path, control):
    """ENOSPC pauses the VM; with space again and cont (or by itself, without a control socket) all is written."""
    disk, wrapper = full_disk_args(tmp_path)
    rd = initramfs.build(tmp_path / "rd.cpio", "dd if=/dev/urandom of=/tmp/r bs=64k count=128 2>/dev/null; sha256sum /tmp/r; "
                         "echo writing; dd if=/tmp/r of=/dev/vda bs=64k conv=fsync 2>&1; echo 3 >/proc/sys/vm/drop_caches; "
                         "dd if=/dev/vda bs=64k count=128 2>/dev/null | sha256sum; echo all-done")
    sock = tmp_path / "s" if control else None
    with sampan.VM("--accel", "soft", "--memory", "512M", "--net", "none", "--kernel", KERNEL, "--initrd", rd, "--append",
                   "console=ttyS0 quiet", disk, control=sock, program=wrapper, prefix=["unshare", "-rm"]) as vm:
        # Listening before the guest gets there: events are not repeated.
        with sampan.QMP(sock) if control else contextlib.nullcontext() as q:
            want = vm.expect(r"^([0-9a-f]{64})  /tmp/r", 120)[1]
            vm.expect("^writing", 10)
            if control:
                e = q.event("BLOCK_IO_ERROR", 60)["data"]
                assert e["device"] == "disk0" and e["operation"] == "write" and e["nospace"] is True and e["action"] == "stop"
                q.event("STOP")
                assert q.call("query-status")["status"] == "io-error"
                assert q.call("query-block")[0]["io-status"] == "nospace"
                (tmp_path / "grow").touch()
                end = time.monotonic() + 30
                while not (tmp_path / "grown").exists():
                    assert time.monotonic() < end
                    vm.pump(0.1)
                q.call("cont")
                assert vm.expect(r"^([0-9a-f]{64})  -", 120)[1] == want
            else:
                end = time.monotonic() + 60
                while "no space left on the host's disk" not in vm.err:
                    assert time.monotonic() < end, vm.text[-500:]
                    vm.pump(0.2)
                time.sleep(2.5)
                assert "all-done" not in vm.text
                (tmp_path / "grow").touch()
                assert vm.expect(r"^([0-9a-f]{64})  -", 120)[1] == want
        vm.expect("^all-done", 30)
        assert vm.wait(60) == 0
