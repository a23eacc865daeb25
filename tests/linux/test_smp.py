"""What vCPUs owe each other: memory order, locks, wake-ups, shootdowns, code that another rewrites, a kernel that patches
itself.

Two and four vCPUs; four are more than most test machines have, so that locks' holders lose the CPU.  Half a minute in all
in `make check`, a minute for each test of smp.c in `make check-slow` (SAMPAN_SMP_SECONDS: seconds of each).
"""
import os
import re

import pytest

import initramfs
import sampan

KERNEL = initramfs.GUEST / "vmlinuz"
SLOW = bool(os.environ.get("SAMPAN_SLOW"))
SECONDS = float(os.environ.get("SAMPAN_SMP_SECONDS", 60 if SLOW else 1))
TESTS = ("order", "lock", "futex", "barrier", "protect", "unmap", "code", "filter")


@pytest.fixture(scope="module")
def smp(tmp_path_factory):
    return initramfs.compile_static(sampan.TOP / "tests/linux/smp.c", tmp_path_factory.mktemp("smp") / "smp",
                                    "-pthread", "-Wno-unused-parameter")


def boot(tmp_path, cpus, body, programs, memory="512M"):
    rd = initramfs.build(tmp_path / "rd.cpio", body, programs=programs, modules=False)
    return sampan.VM("--accel", "soft", "--cpus", cpus, "--memory", memory, "--net", "none", "--kernel", KERNEL,
                     "--initrd", rd, "--append", "console=ttyS0 quiet")


def check_log(vm, timeout=60):
    """The kernel has nothing to complain of."""
    vm.expect("^LOG-BEGIN", timeout)
    begin = vm.seen
    text = vm.text[begin:vm.expect("^LOG-END", 60).start()]
    bad = re.findall(r".*(?:BUG|WARNING|Oops|stalls|hung task|soft lockup|Call Trace).*", text)
    assert not bad, text
    assert vm.wait(60) == 0


LOG = "\necho LOG-BEGIN; dmesg; echo LOG-END"


@pytest.mark.parametrize("cpus", [2, 4])
def test_cpus_among_each_other(tmp_path, smp, cpus):
    with boot(tmp_path, cpus, f"smp {SECONDS} {' '.join(TESTS)}{LOG}", (smp,)) as vm:
        for name in TESTS:
            m = vm.expect(rf"^(ok|BAD) {name} (.*)$", 120 + 3 * SECONDS)
            print(f"  {m[0].strip()}", flush=True)
            assert m[1] == "ok", m[0]
        vm.expect("^smp done 0", 10)
        check_log(vm)


# Each switch rewrites kernel code that the other CPUs run: a breakpoint, an interrupt to all, the new bytes.  Static keys
# in hot system calls and in the scheduler, probes, then a call at the head of every function.  One switch takes seconds
# where other tests want the host's CPUs, so the time is looked at before each.
PATCH = """
mount -t tracefs t /sys/kernel/tracing
work() { while :; do ls -lR /proc/self /sys/class /bin 2>/dev/null | md5sum >/tmp/w$1; done; }
for i in $(seq $(nproc)); do work $i & done
n=0; end=$(($(date +%s) + SECONDS))
cd /sys/kernel/tracing
echo 'p:open do_sys_openat2' >kprobe_events; echo 'r:ret vfs_read' >>kprobe_events
switch() { [ $(date +%s) -ge $end ] || { echo $1 >$2 && n=$((n + 1)); }; }
while [ $(date +%s) -lt $end ]; do
    for on in 1 0 1 0; do
        for key in /proc/sys/kernel/sched_schedstats events/syscalls/sys_enter_getdents64/enable events/kprobes/enable \
                events/sched/sched_switch/enable events/sched/sched_waking/enable events/kmem/enable; do
            switch $on $key
        done
    done
    switch function current_tracer; switch nop current_tracer
done
cd /; kill $(jobs -p) 2>/dev/null
echo patched $n times
"""


@pytest.mark.parametrize("cpus", [2, 4])
def test_kernel_patches_itself(tmp_path, cpus):
    if cpus > 2 and not SLOW:
        pytest.skip("a minute or more: make check-slow")
    with boot(tmp_path, cpus, PATCH.replace("SECONDS", str(int(3 * SECONDS))) + LOG, ()) as vm:
        m = vm.expect(r"^patched (\d+) times", 200 + 6 * SECONDS)
        print(f"  {m[0]}", flush=True)
        assert int(m[1]) > 2
        check_log(vm)
