"""The Debian guest of `make run`, on soft: login, programs, network, reboot, a clean disk at the end.

One guest runs for the whole file: its boot is what costs.
"""
import functools
import hashlib
import http.server
import os
import shutil
import socket
import subprocess
import threading

import pytest

import debian as debian_guest
import sampan


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def debian(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("debian")
    disk = tmp / "disk.raw"
    guest = debian_guest.build()
    debian_guest.copy_disk(disk)
    port = free_port()
    with sampan.VM(disk, "--name", "debian", "--accel", "soft", "--cpus", 2, "--memory", "1G",
                   "--kernel", guest / "vmlinuz", "--initrd", guest / "initrd.img",
                   "--append", debian_guest.APPEND,
                   "--net", f"user,hostfwd=tcp:127.0.0.1:{port}-:22", control=tmp / "qmp") as vm:
        vm.disk, vm.ssh_port, vm.key, vm.tmp = disk, port, guest / "id_ed25519", tmp
        debian_guest.login(vm, 600)
        yield vm


@pytest.fixture(scope="module")
def web(debian):
    """A web server on the host's loopback, which user networking shows to the guest as 10.0.2.2."""
    folder = debian.tmp / "www"
    folder.mkdir()
    (folder / "blob").write_bytes(os.urandom(8 << 20))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://10.0.2.2:{server.server_port}", folder
    server.shutdown()
    thread.join()


def ok(vm, command, timeout):
    rc, out = vm.run(command, timeout)
    assert rc == 0, f"{command}: exit status {rc}\n{out[-2000:]}"
    return out


def test_system_is_whole(debian):
    out = ok(debian, "nproc; systemctl is-system-running --wait; dmesg --level=emerg,alert,crit", 300)
    lines = out.split()
    assert lines[0] == "2"
    assert "running" in lines, out


def test_sha256_agrees_with_the_host(debian, web):
    url, folder = web
    ok(debian, f"curl -sf {url}/blob -o /root/blob", 120)
    out = ok(debian, "sha256sum /root/blob", 120)
    assert out.split()[0] == hashlib.sha256((folder / "blob").read_bytes()).hexdigest()


def test_upload_over_ssh(debian, web):
    if not shutil.which("ssh"):
        pytest.skip("no ssh client on this host")
    blob = (web[1] / "blob").read_bytes()
    r = subprocess.run(["ssh", "-i", str(debian.key), "-p", str(debian.ssh_port), "-oBatchMode=yes",
                        "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "root@127.0.0.1",
                        "sha256sum"], input=blob, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=240)
    assert r.returncode == 0, r.stderr.decode()
    assert r.stdout.decode().split()[0] == hashlib.sha256(blob).hexdigest()


def test_gcc_compiles_a_program_that_runs(debian):
    ok(debian, "cat >/root/t.c <<'X'\n#include <math.h>\n#include <stdio.h>\nint main(void)\n{\n"
       "double s = 0; for (int i = 1; i < 100000; i++) s += sin(i) / i;\nprintf(\"%.12f\\n\", s);\n"
       "return 0;\n}\nX", 30)
    out = ok(debian, "gcc -O2 -o /root/t /root/t.c -lm && /root/t", 240)
    host = subprocess.run(["python3", "-c", "import math; s = 0.0\nfor i in range(1, 100000): "
                           "s += math.sin(i) / i\nprint('%.12f' % s)"], stdout=subprocess.PIPE, text=True, check=True)
    assert out.split()[-1] == host.stdout.strip()


PYTHON = """
import cmath, decimal, fractions, hashlib, math, random, struct, zlib
random.seed(7)
h = hashlib.sha256()
for i in range(3000):
    a, b = random.uniform(-1e6, 1e6), random.uniform(1e-9, 1e3)
    for v in (a / b, math.sin(a), math.exp(b / 100), math.log(b), math.sqrt(b), a ** 3, math.atan2(a, b),
              math.fmod(a, b), math.gamma(b / 50), abs(cmath.exp(complex(a / 1e6, b)))):
        h.update(struct.pack('<d', v))
    h.update(str(fractions.Fraction(a) * fractions.Fraction(b)).encode())
    h.update(str(decimal.Decimal(a) / decimal.Decimal(b)).encode())
    h.update(str(int(abs(a) * 1e30) ** 3 % (10 ** 40 + 7)).encode())
h.update(zlib.compress(random.randbytes(200000)))
print(h.hexdigest())
"""


def test_python_numbers_agree_with_the_host(debian):
    """The same libm and the same Python: not one bit may differ."""
    host = subprocess.run(["/usr/bin/python3", "-c", PYTHON], stdout=subprocess.PIPE, text=True, check=True).stdout
    ok(debian, f"cat >/root/n.py <<'X'\n{PYTHON}\nX", 60)
    assert ok(debian, "python3 /root/n.py", 300).split()[-1] == host.strip()


def test_openssl_speed_and_known_answers(debian):
    ok(debian, "openssl speed -seconds 1 -bytes 1024 -evp aes-128-gcm >/dev/null 2>&1", 120)
    ok(debian, "openssl speed -seconds 1 -bytes 1024 sha256 >/dev/null 2>&1", 120)
    out = ok(debian, "printf abc | openssl dgst -sha256; printf abc | openssl dgst -sha512 | cut -c1-60; "
             "head -c 100000 /dev/zero | openssl enc -aes-256-ctr -K "
             "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f -iv 0 2>/dev/null | md5sum", 120)
    host = subprocess.run(["bash", "-c", "printf abc | sha256sum | cut -d' ' -f1; printf abc | sha512sum | cut -c1-40"],
                          stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    assert host[0] in out and host[1] in out.replace("SHA2-512(stdin)= ", "").replace("(stdin)= ", "")
    ok(debian, "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out /root/k && "
       "openssl dgst -sha256 -sign /root/k -out /root/s /root/blob && "
       "openssl pkey -in /root/k -pubout -out /root/p && "
       "openssl dgst -sha256 -verify /root/p -signature /root/s /root/blob", 120)


def test_fio_verifies_what_it_wrote(debian):
    ok(debian, "fio --name=v --filename=/root/fio --size=32M --rw=randwrite --bs=4k --ioengine=psync --direct=1 "
       "--verify=crc32c --do_verify=1 --verify_fatal=1 --minimal >/dev/null && rm /root/fio", 300)


def test_reboot_keeps_the_disk(debian):
    ok(debian, "echo kept >/root/kept; sync", 30)
    debian.send("reboot\n")
    debian_guest.login(debian, 600)
    assert "kept" in ok(debian, "cat /root/kept", 30)


def test_power_button_ends_it_cleanly(debian):
    with sampan.QMP(debian.control) as q:
        assert q.call("query-status")["status"] == "running"
        q.call("system_powerdown")
        q.event("POWERDOWN")
        q.event("SHUTDOWN", 240)
    assert debian.wait(60) == 0
    part = debian.tmp / "part.raw"
    subprocess.run(["dd", f"if={debian.disk}", f"of={part}", "bs=1M", "skip=1", "conv=sparse", "status=none"], check=True)
    r = subprocess.run(["/sbin/fsck.ext4", "-fn", str(part)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert r.returncode == 0, r.stdout
