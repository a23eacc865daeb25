"""Nothing that the guest flushed is missing after the VMM was killed at a random moment.

Seen to fail with a raw.c that loses a write, and with one that acknowledges writes and flushes before it writes.
That a flush reaches the disk cannot be seen here, because the host's page cache outlives the VMM:
tests/unit/block/test_raw.c sees it.
"""
import random
import re
import struct

import pytest

import initramfs
import sampan

BLOCKS = 4096


def expected(text):
    """Block -> last sequence number that the guest knows to be safe."""
    safe = {}
    for m in re.finditer(r"^F (\d+) (\d+)\r?$", text, re.M):
        block, seq = int(m[1]), int(m[2])
        safe[block] = max(seq, safe.get(block, 0))
    return safe


def check_disk(path, safe):
    data = path.read_bytes()
    for block, seq in safe.items():
        raw = data[block * 4096:(block + 1) * 4096]
        words = struct.unpack("<512Q", raw)
        assert words[0] == block, f"block {block} holds block {words[0]}"
        assert words[1] >= seq, f"block {block} has write {words[1]}, flushed was {seq}"


@pytest.mark.parametrize("cache", ["none", "writeback"])
@pytest.mark.parametrize("cpus", [1, 2])
def test_kill_keeps_flushed_writes(tmp_path, cache, cpus):
    rng = random.Random(f"{cache}{cpus}")
    prog = initramfs.compile_static(sampan.TOP / "tests/linux/flushlog.c", tmp_path / "flushlog")
    disk = tmp_path / "disk.raw"
    with open(disk, "wb") as f:
        f.truncate(BLOCKS * 4096)
    body = f"echo go; flushlog /dev/vda {BLOCKS} {rng.randrange(1 << 40)}"
    rd = initramfs.build(tmp_path / "rd.cpio", body, [prog])
    with sampan.VM("--accel", "soft", "--cpus", cpus, "--memory", "256M", "--net", "none",
                   "--kernel", initramfs.GUEST / "vmlinuz", "--initrd", rd,
                   "--append", "console=ttyS0 quiet",
                   "--disk", f"{disk},format=raw,cache={cache}") as vm:
        vm.expect("^go", 120)
        vm.expect(r"^F \d+ \d+", 60)
        # Some seconds of writes, then the end at a moment nobody chose.
        try:
            vm.expect("never", rng.uniform(1, 4))
        except sampan.Timeout:
            pass
        vm.kill()
    # What the guest printed last may be cut in the middle of a line: only whole lines count.
    safe = expected(vm.text[:vm.text.rfind("\n")])
    assert len(safe) > 100, "the guest wrote too little for the test to mean something"
    check_disk(disk, safe)
