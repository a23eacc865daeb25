import os
import pathlib
import subprocess

import pytest

import sampan


@pytest.fixture(scope="session")
def guest(tmp_path_factory):
    """guest.S as an ELF file: a guest that obeys letters on its serial line."""
    out = tmp_path_factory.mktemp("guest") / "guest.elf"
    subprocess.run(["gcc", "-nostdlib", "-static", "-Wl,-Ttext=0x200000", "-Wl,--build-id=none", "-o", str(out),
                    str(pathlib.Path(__file__).parent / "guest.S")], check=True)
    return out


@pytest.fixture(params=["soft", "kvm"])
def engine(request):
    if request.param == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("no access to /dev/kvm")
    return request.param


@pytest.fixture
def start(guest, engine):
    """start(*options): a VM of that guest without a network; ended with the test."""
    vms = []

    def run(*args, **kw):
        vm = sampan.VM("--kernel", guest, "--accel", engine, "--net", "none", *args, **kw)
        vms.append(vm)
        return vm

    yield run
    for vm in vms:
        vm.__exit__()
