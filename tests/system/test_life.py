"""How a VM ends and begins again, and what the process's exit status says."""
import os
import pty
import re
import resource
import select
import signal
import socket
import subprocess
import termios
import time

import pytest

import sampan


def test_power_off(start):
    vm = start("--append", "hello \"world\"")
    vm.expect("^ready", 30)
    vm.send("acm")
    vm.expect(r"acline: hello \"world\"$", 10)
    vm.send("p")
    assert vm.wait(10) == 0
    assert vm.err == ""


def test_reset_and_triple_fault_start_again(start):
    vm = start("--cpus", 2)
    for key in "rtr":
        vm.expect("^ready", 30)
        vm.send(key)
    vm.expect("^ready", 30)
    vm.send("m")
    vm.expect("^line: $", 10)
    vm.send("p")
    assert vm.wait(10) == 0


@pytest.mark.parametrize("key", ["r", "t"])
def test_no_reboot(start, key):
    vm = start("--no-reboot")
    vm.expect("^ready", 30)
    vm.send(key)
    assert vm.wait(10) == 0
    assert vm.text.count("ready") == 1


def test_debug_exit(start):
    vm = start("--debug-exit")
    vm.expect("^ready", 30)
    vm.send("e")
    assert vm.wait(10) == 3 << 1 | 1


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_it_orderly(start, tmp_path, sig):
    control = tmp_path / "s"
    vm = start(control=control)
    vm.expect("^ready", 30)
    with sampan.QMP(control) as q:
        vm.p.send_signal(sig)
        assert q.event("SHUTDOWN")["data"] == {"guest": False, "reason": "host-signal"}
    assert vm.wait(10) == 0
    assert not control.exists()


def test_ignored_signals_stay_ignored(guest, tmp_path):
    """As nohup(1) starts it."""
    p = subprocess.Popen([str(sampan.BIN / "sampan"), "run", "--kernel", str(guest), "--accel", "soft", "--net", "none",
                          "--control", str(tmp_path / "s")], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    try:
        with sampan.QMP(tmp_path / "s") as q:
            p.send_signal(signal.SIGHUP)
            time.sleep(0.3)
            assert q.call("query-status")["running"]
            q.raw("quit")
        assert p.wait(10) == 0
    finally:
        p.kill()
        p.wait()


def test_closed_standard_streams(guest, tmp_path):
    """What is opened later must not become standard output: the guest's words would go there."""
    disk = tmp_path / "d.raw"
    disk.write_bytes(b"\0" * (1 << 20))
    p = subprocess.Popen([str(sampan.BIN / "sampan"), "run", "--kernel", str(guest), "--accel", "soft", "--net", "none",
                          "--control", str(tmp_path / "s"), str(disk)],
                         preexec_fn=lambda: [os.close(fd) for fd in range(3)])
    try:
        with sampan.QMP(tmp_path / "s") as q:
            assert [os.readlink(f"/proc/{p.pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
            q.raw("quit")
        assert p.wait(10) == 0
        assert disk.read_bytes() == b"\0" * (1 << 20)
    finally:
        p.kill()
        p.wait()


def test_limit_on_file_sizes(guest, tmp_path):
    """A write beyond `ulimit -f` is an error of that file, not the end."""
    with open(tmp_path / "out", "wb") as out:
        p = subprocess.Popen([str(sampan.BIN / "sampan"), "run", "--kernel", str(guest), "--accel", "soft", "--net",
                              "none", "--control", str(tmp_path / "s")], stdin=subprocess.DEVNULL, stdout=out)
    try:
        with sampan.QMP(tmp_path / "s") as q:
            resource.prlimit(p.pid, resource.RLIMIT_FSIZE, (20, 20))
            for _ in range(10):
                q.call("system_reset")
                time.sleep(0.05)
            assert q.call("query-status")["running"]
            q.raw("quit")
        assert p.wait(10) == 0
    finally:
        p.kill()
        p.wait()
    assert os.path.getsize(tmp_path / "out") == 20


def test_kernel_changes_nothing_after_a_reset(start, guest, tmp_path):
    """The guest's own writes to its kernel are gone after a reset, and a renamed file does not matter."""
    copy = tmp_path / "kernel"
    copy.write_bytes(guest.read_bytes())
    vm = start("--kernel", copy)
    vm.expect("^ready", 30)
    copy.unlink()
    vm.send("r")
    vm.expect("^ready", 30)
    vm.send("p")
    assert vm.wait(10) == 0


def test_kernel_that_shrank_fails_the_reset(start, guest, tmp_path):
    copy = tmp_path / "kernel"
    copy.write_bytes(guest.read_bytes())
    vm = start("--kernel", copy)
    vm.expect("^ready", 30)
    os.truncate(copy, 100)
    vm.send("r")
    assert vm.wait(10) == 1
    assert "became shorter while the VM ran" in vm.err


def test_stdio_keeps_all_bytes(start, tmp_path):
    vm = start(control=tmp_path / "s")
    vm.expect("^ready", 30)
    text = "".join(chr(ord("A") + i % 26) for i in range(2000))
    vm.send(text)
    vm.expect(text, 30)
    # The end of our input is not the end of the VM: it ends when it is told to, with that reason.
    vm.p.stdin.close()
    vm.p.stdin = None
    with sampan.QMP(tmp_path / "s") as q:
        assert q.call("query-status")["running"] is True
        q.call("quit")
        assert q.event("SHUTDOWN")["data"] == {"guest": False, "reason": "host-qmp-quit"}


def test_serial_unix_and_file(start, tmp_path):
    sock, log = tmp_path / "com", tmp_path / "log"
    vm = start("--serial", f"file:{log}", "--serial", f"unix:{sock}")
    end = time.monotonic() + 30
    while not (log.exists() and "ready" in log.read_text()):
        assert time.monotonic() < end and vm.p.poll() is None
        time.sleep(0.05)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(sock))
    vm.p.send_signal(signal.SIGTERM)
    assert vm.wait(10) == 0


def test_serial_pty(start, tmp_path):
    vm = start("--serial", "pty", control=tmp_path / "s")
    with sampan.QMP(tmp_path / "s") as q:
        name = q.call("query-chardev")[0]["filename"]
        assert re.fullmatch(r"pty:/dev/pts/\d+", name)
        fd = os.open(name[4:], os.O_RDWR | os.O_NOCTTY)
        mode = termios.tcgetattr(fd)
        mode[3] &= ~(termios.ICANON | termios.ECHO)
        termios.tcsetattr(fd, termios.TCSANOW, mode)
        os.write(fd, b"xyz")
        text = b""
        while b"xyz" not in text:
            assert select.select([fd], [], [], 30)[0], text
            text += os.read(fd, 100)
        os.write(fd, b"p")
        assert q.event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-shutdown"}
        os.close(fd)
    assert vm.wait(10) == 0


def test_ctrl_a_x_leaves_a_terminal(guest, engine):
    """On a terminal the line is raw, Ctrl-a x leaves, and the terminal is as it was."""
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    p = subprocess.Popen([str(sampan.BIN / "sampan"), "run", "--kernel", str(guest), "--accel", engine, "--net", "none"],
                         stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    try:
        text = b""
        while b"ready" not in text:
            assert select.select([master], [], [], 30)[0], text
            text += os.read(master, 1000)
        assert not termios.tcgetattr(slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
        # Ctrl-c is the guest's, which sends it back.
        os.write(master, b"\x03k")
        while b"\x03k" not in text:
            assert select.select([master], [], [], 30)[0], text
            text += os.read(master, 1000)
        os.write(master, b"\x01x")
        assert p.wait(10) == 0
        assert termios.tcgetattr(slave) == before
    finally:
        p.kill()
        p.wait()
        os.close(master)
        os.close(slave)


def test_many_devices(start, tmp_path):
    """Everything that the spec can hold at once, through two resets."""
    disks = []
    for i in range(16):
        path = tmp_path / f"d{i}.raw"
        with open(path, "wb") as f:
            f.truncate(1 << 20)
        disks += ["--disk", f"{path},serial=S{i}" + (",readonly=on" if i % 3 == 0 else "")]
    vm = start("--cpus", 4, *disks, "--console", f"file:{tmp_path}/con", "--debug-exit", "--serial", "stdio",
               "--serial", "none", "--serial", f"file:{tmp_path}/l", "--serial", "none", control=tmp_path / "s")
    vm.expect("^ready", 60)
    with sampan.QMP(tmp_path / "s") as q:
        assert len(q.call("query-block")) == 16 and len(q.call("query-cpus-fast")) == 4
        for _ in range(2):
            q.call("system_reset")
            vm.expect("^ready", 60)
    vm.send("p")
    assert vm.wait(20) == 0
