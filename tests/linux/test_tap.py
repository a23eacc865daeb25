"""A guest on a tap interface: in a network of the test's own, with the host's end of it."""
import hashlib
import os
import subprocess

import pytest

import initramfs
import sampan

KERNEL = initramfs.GUEST / "vmlinuz"

# Name spaces for network and processes: with the wrapper everything in them ends.
NETNS = ["unshare", "-rnpf", "--kill-child=KILL"]

WRAPPER = """#!/bin/sh
set -e
ip link set lo up
ip tuntap add dev tap7 mode tap{mode}
ip addr add 10.7.0.1/24 dev tap7
ip link set tap7 up
cd {dir}
{host}
set +e
{bin}/sampan "$@"
exit $?
"""


@pytest.fixture
def tapped(tmp_path):
    """tapped(body, host): a VM whose eth0 is 10.7.0.2 and whose host, 10.7.0.1, runs the lines in host."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("no access to /dev/net/tun")
    if subprocess.run([*NETNS, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no name spaces here")
    vms = []

    def run(body, host="", mode=""):
        rd = initramfs.build(tmp_path / "rd.cpio", "ip link set eth0 up; ip addr add 10.7.0.2/24 dev eth0\n" + body)
        wrapper = tmp_path / "in-netns"
        wrapper.write_text(WRAPPER.format(mode=mode, dir=tmp_path, host=host, bin=sampan.BIN))
        wrapper.chmod(0o755)
        vms.append(sampan.VM("--accel", "soft", "--memory", "512M", "--net", "tap:tap7", "--kernel", KERNEL,
                             "--initrd", rd, "--append", "console=ttyS0 quiet net.ifnames=0", program=wrapper,
                             prefix=NETNS))
        return vms[0]

    yield run
    for vm in vms:
        vm.__exit__()


# vnet_hdr is not said: the VMM asks for it itself.
@pytest.mark.parametrize("mode", ["", " multi_queue"])
def test_traffic_both_ways(tapped, tmp_path, mode):
    data = os.urandom(8 << 20)
    (tmp_path / "down").write_bytes(data)
    vm = tapped("ping -c 3 10.7.0.1 | grep received; cat /sys/class/net/eth0/device/features; echo; "
                "wget -q -O - http://10.7.0.1:8000/down | sha256sum; "
                "dd if=/dev/urandom of=/tmp/r bs=64k count=64 2>/dev/null; sha256sum /tmp/r; "
                "nc 10.7.0.1 9000 </tmp/r; grep eth0: /proc/net/dev; echo all-done; sleep 60",
                "python3 -m http.server -b 10.7.0.1 8000 2>/dev/null &\ntail -f /dev/null | busybox nc -l -p 9000 >up &\n"
                "(while [ ! -e look ]; do sleep 0.1; done; busybox ping -c 2 -W 5 10.7.0.2 >pinged 2>&1) &", mode)
    vm.expect("3 packets received", 120)
    # CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4, MRG_RXBUF (virtio 1.2, 5.1.3): tap has them all.
    bits = vm.expect("^([01]{64})", 10)[1]
    assert [bits[n] for n in (0, 1, 7, 11, 15)] == ["1"] * 5, bits
    assert vm.expect(r"^([0-9a-f]{64})  -", 60)[1] == hashlib.sha256(data).hexdigest()
    want = vm.expect(r"^([0-9a-f]{64})  /tmp/r", 60)[1]
    rx = vm.expect(r"eth0: *(\d+) +(\d+)\s", 60)
    # Offloads work: received segments are much larger than a frame.
    assert int(rx[1]) / int(rx[2]) > 3000, rx[0]
    vm.expect("^all-done", 10)
    assert hashlib.sha256((tmp_path / "up").read_bytes()).hexdigest() == want
    # The host's side begins: the guest sleeps.
    (tmp_path / "look").touch()
    for _ in range(100):
        vm.pump(0.1)
        if "2 packets received" in ((tmp_path / "pinged").read_text() if (tmp_path / "pinged").exists() else ""):
            return
    pytest.fail("the host's ping had no answer")


def test_interface_goes_away(tapped, tmp_path):
    """The guest goes on without a network, and the VMM does not spin."""
    vm = tapped("ping -c 1 10.7.0.1 | grep received; i=0; while [ $i -lt 100 ]; do i=$((i+1)); usleep 100000; "
                "[ -e /proc/1 ] && ping -c 1 -W 1 10.7.0.1 >/dev/null || echo lost $i; done",
                "(while [ ! -e go ]; do sleep 0.1; done; ip link del tap7) &")
    vm.expect("1 packets received", 120)
    (tmp_path / "go").touch()
    vm.expect("^lost", 30)

    pids = subprocess.run(["pgrep", "-g", str(vm.p.pid), "sampan-vmm"], capture_output=True, text=True).stdout.split()
    assert len(pids) == 1

    def io_ticks():
        """Processor time of all threads but the guest's own."""
        total = 0
        for t in os.listdir(f"/proc/{pids[0]}/task"):
            with open(f"/proc/{pids[0]}/task/{t}/stat", encoding="ascii") as f:
                name, rest = f.read().rsplit(")", 1)
            if "vcpu" not in name:
                total += sum(map(int, rest.split()[11:13]))
        return total

    before = io_ticks()
    for _ in range(20):
        vm.pump(0.1)
    assert io_ticks() - before < 100
    vm.expect("^lost", 30)
