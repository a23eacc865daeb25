"""What CPUID and the paravirtual clock make of Debian's kernel: docs/engine.md, "What CPUID says and why".

Every model, as kernels choose mitigations by vendor, family and model: an EPYC without the bits that say otherwise gets
return thunks, a Skylake retpolines and a loop at each system call.
"""
import re

import pytest

import initramfs
import sampan

KERNEL = initramfs.GUEST / "vmlinuz"

LOOK = """
echo LOOK-BEGIN
sed -n 's/^flags\\t*: */flags: /p; s/^bugs\\t*: */bugs: /p' /proc/cpuinfo
cd /sys/devices/system/cpu/vulnerabilities; for f in *; do echo "vulnerability $f: $(cat $f)"; done; cd /
cd /sys/devices/system/clocksource/clocksource0
echo "clocksource: $(cat current_clocksource)"; echo "clocksources: $(cat available_clocksource)"; cd /
grep '^Clock Event Device' /proc/timer_list
dmesg
echo LOOK-END
"""


def look(tmp_path, *args, append=""):
    """What the guest says of itself, as text."""
    rd = initramfs.build(tmp_path / "rd.cpio", LOOK, modules=False)
    with sampan.VM("--accel", "soft", "--memory", "512M", "--net", "none", "--kernel", KERNEL, "--initrd", rd,
                   "--append", f"console=ttyS0 quiet {append}", *args) as vm:
        vm.expect("^LOOK-BEGIN", 120)
        begin = vm.seen
        end = vm.expect("^LOOK-END", 60).start()
        assert vm.wait(60) == 0
        return vm.text[begin:end].replace("\r", "")


def field(text, name):
    m = re.search(f"^{name}: ?(.*)$", text, re.M)
    assert m, f"no {name} in:\n{text}"
    return m[1]


# What a mitigation that costs a translator time calls itself in /sys or the kernel's log.
DEAR = r"retpoline|thunk|safe ret|untrained|SW loop|SW BHB|clear cpu buffers|filling rsb|isolation: enabled|\bPTI\b|verw"


def check_mitigations(text):
    assert not [line for line in text.splitlines() if re.search(DEAR, line, re.I)]
    found = dict(re.findall(r"^vulnerability (\w+): (.*)$", text, re.M))
    # "Vulnerable" would mislead who looks there; these two are the ones that every CPU has.
    for name, state in found.items():
        assert state == "Not affected" or name in ("spectre_v1", "spectre_v2"), f"{name}: {state}"
    assert found["meltdown"] == "Not affected"
    assert re.search(r"Enhanced / Automatic IBRS", found["spectre_v2"])


def check_time(text):
    """No calibration against the PIT, no fall-back to the HPET, the cheapest timer."""
    flags = field(text, "flags").split()
    for need in ("constant_tsc", "nonstop_tsc", "tsc_known_freq", "tsc_adjust", "tsc_deadline_timer", "arat", "x2apic"):
        assert need in flags, need
    assert "kvm-clock: Using msrs 4b564d01 and 4b564d00" in text
    assert {"tsc", "kvm-clock"} <= set(field(text, "clocksources").split())
    devices = re.findall(r"^Clock Event Device: (\S+)", text, re.M)
    assert devices.count("lapic-deadline") == 2, devices
    assert "x2apic enabled" in text
    assert "unstable" not in text


def test_the_host_model(tmp_path):
    text = look(tmp_path, "--cpus", 2)
    check_mitigations(text)
    check_time(text)
    # The kernel itself prefers the TSC where it is invariant: then nothing of the clock is read.
    assert field(text, "clocksource") == "tsc"
    flags = set(field(text, "flags").split())
    assert {"pcid", "invpcid", "erms", "fsrm", "fsgsbase", "smep", "smap", "umip", "pdpe1gb", "rdtscp", "xsaves"} <= flags
    assert not {"la57", "monitor", "pku", "pti", "vmx", "svm", "rtm"} & flags
    # FNCLEX, EMMS and FILD at each switch of x87 state.
    assert "fxsave_leak" not in field(text, "bugs")


def test_kvm_clock(tmp_path):
    """The paravirtual clock at two CPUs: stable, or the kernel would say that it is not."""
    text = look(tmp_path, "--cpus", 2, append="clocksource=kvm-clock")
    check_time(text)
    assert field(text, "clocksource") == "kvm-clock"


@pytest.mark.parametrize("model", ["x86-64-v1", "x86-64-v3", "Nehalem", "Haswell", "Skylake-Server", "EPYC", "EPYC-Rome"])
def test_a_named_model(tmp_path, model):
    text = look(tmp_path, "--cpus", 2, "--cpu", model)
    check_mitigations(text)
    check_time(text)
    assert field(text, "clocksource") == "tsc"
