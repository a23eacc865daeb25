"""The control socket, with QEMU's names and shapes (docs/format/qmp.md)."""
import json
import socket
import time

import pytest

import sampan


@pytest.fixture
def vm(start, tmp_path):
    disk = tmp_path / "disk.raw"
    with open(disk, "wb") as f:
        f.truncate(4 << 20)
    vm = start("--disk", f"{disk},cache=none,serial=D", "--name", "web1", "--uuid",
               "12345678-1234-1234-1234-123456789abc", "--cpus", 2, control=tmp_path / "s")
    vm.expect("^ready", 60)
    vm.disk = disk
    return vm


@pytest.fixture
def qmp(vm):
    with sampan.QMP(vm.control) as q:
        yield q


COMMANDS = {"query-version", "query-commands", "query-status", "query-cpus-fast", "query-block", "query-chardev",
            "stop", "cont", "system_reset", "system_powerdown", "quit", "query-name", "query-uuid", "query-kvm"}


def test_queries(vm, qmp, engine):
    assert set(qmp.greeting["QMP"]) == {"version", "capabilities"}
    assert qmp.greeting["QMP"]["version"] == qmp.call("query-version")
    assert set(qmp.call("query-version")["qemu"]) == {"major", "minor", "micro"}
    assert {c["name"] for c in qmp.call("query-commands")} == COMMANDS
    documented = (sampan.TOP / "docs/format/qmp.md").read_text()
    assert all(f"`{c}`" in documented for c in COMMANDS)
    assert qmp.call("query-status") == {"status": "running", "singlestep": False, "running": True}
    cpus = qmp.call("query-cpus-fast")
    assert [c["cpu-index"] for c in cpus] == [0, 1]
    for c in cpus:
        assert open(f"/proc/{vm.p.pid}/task/{c['thread-id']}/comm").read() == f"vcpu{c['cpu-index']}\n"
    block = qmp.call("query-block")
    assert len(block) == 1 and block[0]["device"] == "disk0" and block[0]["io-status"] == "ok"
    assert block[0]["inserted"]["file"] == str(vm.disk) and block[0]["inserted"]["drv"] == "raw"
    assert block[0]["inserted"]["cache"] == {"writeback": True, "direct": True, "no-flush": False}
    assert block[0]["inserted"]["image"]["virtual-size"] == 4 << 20
    chardev = qmp.call("query-chardev")
    assert [c["label"] for c in chardev] == ["serial0"]
    assert qmp.call("query-name") == {"name": "web1"}
    assert qmp.call("query-uuid") == {"UUID": "12345678-1234-1234-1234-123456789abc"}
    assert qmp.call("query-kvm")["enabled"] == (engine == "kvm")


def test_stop_and_cont(vm, qmp):
    qmp.call("stop")
    qmp.event("STOP")
    assert qmp.call("query-status") == {"status": "paused", "singlestep": False, "running": False}
    vm.send("z")
    with pytest.raises(sampan.Timeout):
        vm.expect("z", 0.5)
    qmp.call("stop")
    qmp.call("cont")
    qmp.event("RESUME")
    vm.expect("z", 10)
    assert not [e for e in qmp.events if e["event"] == "STOP"]
    for _ in range(50):
        qmp.call("stop")
        qmp.call("cont")
    vm.send("d")
    vm.expect("done", 60)


def test_reset(vm, qmp):
    qmp.call("system_reset")
    assert qmp.event("RESET")["data"] == {"guest": False, "reason": "host-qmp-system-reset"}
    vm.expect("^ready", 60)
    vm.send("r")
    assert qmp.event("RESET")["data"] == {"guest": True, "reason": "guest-reset"}
    vm.expect("^ready", 60)
    # A paused machine is reset and stays paused.
    qmp.call("stop")
    qmp.call("system_reset")
    assert qmp.call("query-status")["status"] == "paused"
    qmp.call("cont")
    vm.expect("^ready", 60)


def test_power_button(vm, qmp):
    vm.send("b")
    vm.expect("^waiting", 30)
    qmp.call("system_powerdown")
    e = qmp.event("POWERDOWN")
    assert set(e["timestamp"]) == {"seconds", "microseconds"}
    assert abs(e["timestamp"]["seconds"] - time.time()) < 60
    vm.expect("^button", 30)
    assert qmp.event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-shutdown"}
    assert vm.wait(10) == 0


def test_quit(vm, qmp):
    assert qmp.call("quit") == {}
    assert qmp.event("SHUTDOWN")["data"] == {"guest": False, "reason": "host-qmp-quit"}
    assert vm.wait(10) == 0


def test_paused_from_the_start(start, tmp_path):
    vm = start("--paused", control=tmp_path / "s")
    with sampan.QMP(tmp_path / "s") as q:
        assert q.call("query-status") == {"status": "prelaunch", "singlestep": False, "running": False}
        q.call("system_reset")
        with pytest.raises(sampan.Timeout):
            vm.expect("ready", 0.5)
        q.call("cont")
        vm.expect("^ready", 60)
        q.call("quit")
    assert vm.wait(10) == 0


def raw(vm):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(30)
    s.connect(str(vm.control))
    return s, s.makefile("r")


def test_errors_and_pipelining(vm):
    s, f = raw(vm)
    assert "QMP" in json.loads(f.readline())
    s.sendall(b'{"execute": "query-status"}{"execute": "qmp_capabilities"}\n'
              b'{"execute": "query-status", "id": [1, {"a": null}]}{"execute": "qeury-status", "id": 2}'
              b'{"execute": "stop", "arguments": {"x": 1}} nonsense\n{"execute": "query-status", "id": "last"}')
    replies = [json.loads(f.readline()) for _ in range(7)]
    assert replies[0]["error"]["class"] == "CommandNotFound"
    assert replies[1] == {"return": {}}
    assert replies[2]["return"]["running"] is True and replies[2]["id"] == [1, {"a": None}]
    assert replies[3]["error"]["class"] == "CommandNotFound" and replies[3]["id"] == 2
    assert "query-status" in replies[3]["error"]["desc"]
    assert replies[4]["error"]["desc"] == "Parameter 'x' is unexpected"
    assert replies[5]["error"]["class"] == "GenericError"
    assert replies[6]["id"] == "last"
    s.close()


def test_clients_do_not_hold_each_other_up(vm, qmp):
    """One floods and never reads, one is silent: a third is served and the guest runs."""
    flood, _ = raw(vm)
    silent, _ = raw(vm)
    flood.settimeout(1)
    try:
        flood.sendall(b'{"execute": "qmp_capabilities"}' + b'{"execute": "query-commands"}' * 20000)
    except socket.timeout:
        pass
    for _ in range(20):
        assert qmp.call("query-status")["running"]
    vm.send("QWE")
    vm.expect("QWE", 10)
    rss = [int(line.split()[1]) for line in open(f"/proc/{vm.p.pid}/status") if line.startswith("RssAnon")][0]
    assert rss < 100000
    flood.close()
    silent.close()
    assert qmp.call("query-status")["running"]


def test_garbage_does_not_end_it(vm):
    for data in (b"\0" * 100000, b"[" * 300000, b"\xff\xfe" * 1000 + b"\n", b'{"execute": "' + b"a" * 300000, b"\n" * 300000):
        s, f = raw(vm)
        try:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            while s.recv(65536):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass
        s.close()
    with sampan.QMP(vm.control) as q:
        assert q.call("query-status")["running"]

