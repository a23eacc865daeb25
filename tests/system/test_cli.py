"""The command line: every wrong option is refused with what is wrong, and the manual page knows all of them."""
import json
import os
import re
import subprocess

import pytest

import sampan

SAMPAN = sampan.BIN / "sampan"
VMM = sampan.BIN / "sampan-vmm"


def run(*cmd, **kw):
    kw.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([str(c) for c in cmd], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=60, **kw)


def refused(r, status, text):
    assert r.returncode == status, r
    assert r.stdout == ""
    lines = r.stderr.splitlines()
    assert len(lines) == 1 and text in lines[0], r.stderr


@pytest.mark.parametrize("args, text", [
    (["--memroy", "1"], "there is no option --memroy; did you mean --memory?"),
    (["--memory", "lots"], "--memory: 'lots' is not a size such as 512M or 4G"),
    (["--memory", "4096"], "memory: 4K is outside 1M to 4T"),
    (["--memory", "1048577"], "memory: is not a whole number of MiB"),
    (["--memory"], "option --memory needs a value: --memory SIZE"),
    (["--cpus", "0"], "cpus: 0 is outside 1 to 64"),
    (["--cpus", "two"], "--cpus: 'two' is not a number"),
    (["--accel", "tcg"], "--accel: 'tcg' is not one of auto, kvm, soft"),
    (["--no-reboot=1"], "option --no-reboot takes no value"),
    (["--disk", "a,cahce=none"], "--disk: there is no 'cahce='; did you mean 'cache='?"),
    (["--disk", "a,cache=foo"], "--disk: cache: 'foo' is not one of writeback, none"),
    (["--disk", "a,readonly=maybe"], "--disk: readonly: 'maybe' is neither on nor off"),
    (["--disk", "a,format=qcow9"], "--disk: format: 'qcow9' is not one of raw"),
    (["--disk", "a,serial=" + "x" * 21], "disks[0].serial: is longer than 20 bytes"),
    (["--disk", ""], "disks[0].path: is empty"),
    (["--net", "usr"], "--net: 'usr' is not one of user, tap:IFNAME, none"),
    (["--net", "user,hostfwd=2222:22"], "want tcp:HOSTADDR:PORT-GUESTADDR:PORT"),
    (["--net", "user,hostfwd=tcp::99999-:22"], "nets[0].hostfwd[0].host_port: 99999 is outside 1 to 65535"),
    (["--net", "user,hostfwd=tcp:localhost:1-:22"], "'localhost' is not an IPv4 address"),
    (["--net", "tap:"], "nets[0].ifname: is empty"),
    (["--net", "tap:averyveryverylongname"], "nets[0].ifname: is longer than 15 bytes"),
    (["--serial", "stdin"], "--serial: 'stdin' is not one of stdio, pty, unix, file, none"),
    (["--serial", "file"], "serial[0].path: is missing (type file needs it)"),
    (["--serial", "stdio", "--serial", "stdio"], "serial: only one line can be on stdio"),
    (["--control", "/" + "c" * 108], "control: is longer than a socket's name can be"),
    (["--name", "a/b"], "name: has a '/' or a control character"),
    (["-x"], "'-x': options begin with two dashes (see --help)"),
    (["--log", "loud"], "--log: 'loud' is not one of error, warning, note, info, debug"),
    (["--kernel", "k", "--paused"], "paused: needs control (--control PATH)"),
    (["--net", "none,mac=x"], "--net: 'none' takes no options"),
    (["--net", "user,hostfwd"], "want tcp:HOSTADDR:PORT-GUESTADDR:PORT"),
    (["--disk", "a,"], "--disk: nothing between two commas or after the last"),
    (["--initrd", "i"], "boot.initrd: needs a kernel"),
    ([], "nothing to boot: give --kernel FILE"),
    (["disk.raw"], "nothing to boot: give --kernel FILE"),
])
def test_wrong_options(args, text):
    refused(run(SAMPAN, "run", *args), 2, text)


def test_not_utf8():
    refused(run(SAMPAN, "run", "--kernel", b"/\xff".decode(errors="surrogateescape")), 2, "boot.kernel: is not UTF-8")


def test_commands():
    refused(run(SAMPAN, "rnu"), 2, "there is no command 'rnu'; did you mean 'run'?")
    refused(run(SAMPAN, "frobnicate"), 2, "(see sampan help)")
    refused(run(SAMPAN, "version", "x"), 2, "unexpected argument 'x'")
    refused(run(SAMPAN, "help", "run", "x"), 2, "unexpected argument 'x'")
    assert run(SAMPAN).returncode == 2
    for args in (["help"], ["--help"]):
        r = run(SAMPAN, *args)
        assert r.returncode == 0 and "  run " in r.stdout and r.stderr == ""
    assert re.fullmatch(r"sampan \d+\.\d+\.\d+\n", run(SAMPAN, "version").stdout)
    assert re.fullmatch(r"sampan-vmm \d+\.\d+\.\d+\n", run(VMM, "--version").stdout)
    assert "Usage: sampan run" in run(SAMPAN, "help", "run").stdout
    assert "Usage: sampan-vmm" in run(VMM, "--help").stdout


def options(program, *args):
    return set(re.findall(r"^  --([a-z-]+)", run(program, *args, "--help").stdout, re.M))


@pytest.mark.parametrize("page, program, args", [
    ("sampan-run.1", SAMPAN, ["run"]), ("sampan-vmm.1", VMM, []),
])
def test_manual_pages_list_every_option(page, program, args):
    text = (sampan.TOP / "docs/man" / page).read_text()
    listed = set(re.findall(r"^\.It Fl -([a-z-]+)", text, re.M))
    assert listed == options(program, *args)


def test_print_spec():
    r = run(SAMPAN, "run", "--print-spec", "a.raw", "--disk", "b,,c.raw,readonly=on,cache=none,serial=X",
            "--net", "user,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp::53-10.0.2.15:53", "--memory", "512M",
            "--cpus", "2", "--kernel", "/k", "--append", "a \"b\"", "--debug-exit", "--serial", "unix:/tmp/s")
    assert r.returncode == 0, r
    spec = json.loads(r.stdout)
    assert spec["memory"] == 512 << 20 and spec["cpus"] == 2 and spec["debug_exit"] == 0xf4
    assert spec["boot"] == {"kernel": "/k", "append": "a \"b\""}
    assert [d["path"] for d in spec["disks"]] == ["a.raw", "b,c.raw"]
    assert spec["disks"][1]["readonly"] is True and spec["disks"][1]["cache"] == "none"
    assert spec["disks"][0]["cache"] == "writeback"
    fwd = spec["nets"][0]["hostfwd"]
    assert fwd[0] == {"proto": "tcp", "host_addr": "127.0.0.1", "host_port": 2222, "guest_port": 22}
    assert fwd[1] == {"proto": "udp", "host_port": 53, "guest_addr": "10.0.2.15", "guest_port": 53}
    assert spec["serial"] == [{"type": "unix", "path": "/tmp/s"}]
    # What is printed is taken again and means the same.
    again = run(VMM, "-", input=r.stdout, stdin=None)
    assert again.returncode == 1 and "kernel: cannot open '/k'" in again.stderr


def test_defaults():
    spec = json.loads(run(SAMPAN, "run", "--print-spec", "--kernel", "k").stdout)
    assert spec["memory"] == 1 << 30 and spec["cpus"] == 1 and spec["accel"] == "auto"
    assert [n["type"] for n in spec["nets"]] == ["user"]
    assert spec["serial"] == [{"type": "stdio"}]
    spec = json.loads(run(SAMPAN, "run", "--print-spec", "--kernel", "k", "--net", "none", "--serial", "none").stdout)
    assert spec["nets"] == [] and spec["serial"] == [{"type": "none"}]


@pytest.mark.parametrize("text, message", [
    ("", "JSON ends in the middle"),
    ("{", "JSON ends in the middle"),
    ("[]", "an object is wanted, not a list"),
    ('{"cpus": 1,}', "not JSON"),
    ('{"memroy": 1}', "memroy: there is no such field; did you mean 'memory'?"),
    ('{"disks": [{"path": "a"}, {"path": "b", "cache": "foo"}]}',
     "disks[1].cache: 'foo' is not one of writeback, none"),
    ('{"cpus": 1}', "nothing to boot: boot.kernel is missing"),
    ('{"a\\nb\\u001b": 1}', "a?b?: there is no such field"),
    ("[" * 1000, "nested deeper than 32 levels"),
    (" " * (1 << 20) + "{}", "larger than 1048576 bytes"),
], ids=lambda v: v[:20].strip() or "blank")
def test_wrong_specs(tmp_path, text, message):
    refused(run(VMM, "-", input=text, stdin=None), 1, message)
    path = tmp_path / "spec.json"
    path.write_text(text)
    refused(run(VMM, path), 1, message)
    with open(path) as f:
        refused(run(VMM, "--spec-fd", f.fileno(), pass_fds=[f.fileno()]), 1, message)


def test_spec_from_nowhere(tmp_path):
    refused(run(VMM), 1, "no spec given")
    refused(run(VMM, tmp_path / "none.json"), 1, "No such file or directory")
    refused(run(VMM, tmp_path), 1, "Is a directory")
    refused(run(VMM, "--spec-fd", 77), 1, "cannot read 'spec'")
    refused(run(VMM, "--spec-fd", "x"), 1, "--spec-fd: 'x' is not a descriptor")
    refused(run(VMM, "--spec-fd", 0, "a"), 1, "not both")
    refused(run(VMM, "a", "b"), 1, "there is one spec")


def test_vmm_is_found_or_missed(tmp_path):
    """Beside the program, or in libexec next to its bin; else the message says where it was sought."""
    os.makedirs(tmp_path / "bin")
    os.makedirs(tmp_path / "libexec/sampan")
    for name, at in (("sampan", "bin"), ("sampan-vmm", "libexec/sampan")):
        (tmp_path / at / name).write_bytes((sampan.BIN / name).read_bytes())
        (tmp_path / at / name).chmod(0o755)
    r = run(tmp_path / "bin/sampan", "run", "--kernel", "/nonexistent")
    refused(r, 1, "kernel: cannot open '/nonexistent'")
    os.unlink(tmp_path / "libexec/sampan/sampan-vmm")
    refused(run(tmp_path / "bin/sampan", "run", "--kernel", "/nonexistent"), 2, "cannot find sampan-vmm")
