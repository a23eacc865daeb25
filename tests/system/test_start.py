"""What cannot be started is refused in one clear line: kernels, initrds, disks, sockets."""
import os
import random
import signal
import socket
import subprocess
import time

import pytest

import sampan


def fails(*args, status=1, timeout=60):
    r = subprocess.run([str(sampan.BIN / "sampan"), "run", "--accel", "soft", "--net", "none", *map(str, args)],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                       errors="replace", timeout=timeout)
    assert r.returncode == status, r
    lines = r.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("sampan-vmm: error: "), r.stderr
    return lines[0]


def test_kernels(tmp_path, guest):
    assert "kernel: cannot open '/nonexistent': No such file" in fails("--kernel", "/nonexistent")
    assert "is a directory" in fails("--kernel", tmp_path)
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    assert "is empty" in fails("--kernel", empty)
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    assert "neither a Linux bzImage nor an x86 ELF file" in fails("--kernel", script)
    short = tmp_path / "short"
    short.write_bytes(guest.read_bytes()[:0x1010])
    assert "truncated" in fails("--kernel", short)
    assert "cannot open" in fails("--kernel", guest, "--initrd", tmp_path / "none")
    assert "does not fit in memory at 0x1ff000" in fails("--kernel", guest, "--memory", "1M")
    assert "command line has 65536 bytes" not in fails("--kernel", "/nonexistent", "--append", "a" * 60000)


def test_a_long_path_does_not_hide_the_cause(tmp_path):
    line = fails("--kernel", tmp_path / ("d" * 200) / ("k" * 200))
    assert "kernel: cannot open '/" in line and line.endswith("kk': No such file or directory")


def test_kernel_from_a_pipe(tmp_path, guest):
    """It may come late and through a pipe; a signal ends the wait."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    vm = sampan.VM("--accel", "soft", "--net", "none", "--kernel", fifo)
    with vm:
        with open(fifo, "wb") as f:
            f.write(guest.read_bytes())
        vm.expect("^ready", 30)
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with sampan.VM("--accel", "soft", "--net", "none", "--kernel", fifo) as vm:
            time.sleep(0.3)
            assert vm.p.poll() is None
            vm.p.send_signal(sig)
            assert vm.wait(5) == -sig


def test_more_memory_than_the_host_has(guest):
    with open("/proc/meminfo") as f:
        kib = {line.split(":")[0]: int(line.split()[1]) for line in f}
    host = (kib["MemTotal"] + kib["SwapTotal"]) // 1024
    if host >= 4 << 20:
        pytest.skip("this host has 4 TiB")
    line = fails("--kernel", guest, "--memory", f"{host + 1}M")
    assert f"memory: {host + 1} MiB is more than this host's RAM and swap, {host} MiB" in line


def test_random_kernels(tmp_path):
    rng = random.Random(2)
    for i in range(20):
        data = bytearray(rng.randbytes(rng.randrange(1, 20000)))
        if i % 2 and len(data) > 1024:
            data[0x1fe:0x200] = b"\x55\xaa"
            data[0x202:0x206] = b"HdrS"
        elif len(data) > 64:
            data[:6] = b"\x7fELF\x02\x01"
            data[18:20] = b"\x3e\x00"
        path = tmp_path / f"k{i}"
        path.write_bytes(data)
        fails("--kernel", path)


def test_initrd_too_large(tmp_path, guest):
    big = tmp_path / "big"
    with open(big, "wb") as f:
        f.truncate(40 << 20)
    assert "does not fit in memory beside the kernel: try more --memory" in fails(
        "--kernel", guest, "--initrd", big, "--memory", "32M")


def test_disks(tmp_path, guest):
    assert "No such file" in fails("--kernel", guest, tmp_path / "none.raw")
    assert str(tmp_path) in fails("--kernel", guest, tmp_path)
    same = tmp_path / "same.raw"
    with open(same, "wb") as f:
        f.truncate(1 << 20)
    assert "same.raw" in fails("--kernel", guest, same, same)


def test_control_socket(tmp_path, guest):
    path = tmp_path / "s"
    path.write_text("not a socket")
    assert "error: control: " in fails("--kernel", guest, "--control", path)
    assert "exists and is not a socket" in fails("--kernel", guest, "--control", path)
    assert path.read_text() == "not a socket"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
        s.listen()
        assert "in use by another process" in fails("--kernel", guest, "--control", path)
    assert "No such file or directory" in fails("--kernel", guest, "--control", tmp_path / "no/s")


def test_cpu_model_and_engine_options(guest):
    line = fails("--kernel", guest, "--cpu", "z80")
    assert "no CPU model 'z80'" in line and line.count("vCPU 0") == 1


def test_debug_exit_must_be_free(guest):
    assert "0x3f8" in fails("--kernel", guest, "--debug-exit=0x3f8")
