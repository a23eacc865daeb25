"""bench/run takes nothing for a measurement that is none."""
import importlib.machinery
import importlib.util
import subprocess
import sys

import pytest

import sampan


@pytest.fixture(scope="module")
def bench():
    # As when it is started: it finds its own modules beside it.
    sys.path.insert(0, str(sampan.TOP / "bench"))
    loader = importlib.machinery.SourceFileLoader("bench_run", str(sampan.TOP / "bench/run"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_run", loader))
    loader.exec_module(module)
    return module


def test_a_vm_that_did_not_start_is_no_measurement(bench, engine, tmp_path):
    tiny = [engine if a == "kvm" else a for a in bench.sampan_tiny(sampan.BIN.parent / "tests/guest/first.elf")]
    tiny[0] = str(sampan.BIN / "sampan")
    assert bench.until_exit(tiny) > 0
    missing = [str(tmp_path / "none.elf") if a.endswith("first.elf") else a for a in tiny]
    assert subprocess.run(missing, stderr=subprocess.DEVNULL).returncode == 1
    with pytest.raises(AssertionError, match="ended with 1: .*No such file"):
        bench.until_exit(missing)
