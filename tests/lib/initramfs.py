"""Initramfs archives for tests: busybox, the guest kernel's virtio modules, an init script, programs."""
import os
import pathlib
import shutil
import stat
import subprocess

import sampan

GUEST = sampan.CACHE / "guest"

INIT = """#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
{modules}
{body}
poweroff -f
"""


def cpio(entries):
    """entries: (name, mode, data, rdev) -> bytes of a newc archive (Documentation/driver-api/early-userspace)."""
    out = bytearray()

    def pad():
        out.extend(b"\0" * (-len(out) % 4))

    for ino, (name, mode, data, rdev) in enumerate([*entries, ("TRAILER!!!", 0, b"", (0, 0))], 1):
        raw = name.encode() + b"\0"
        fields = (ino, mode, 0, 0, 1, 0, len(data), 0, 0, *rdev, len(raw), 0)
        out.extend(b"070701" + b"".join(b"%08x" % f for f in fields) + raw)
        pad()
        out.extend(data)
        pad()
    return bytes(out)


def build(path, body, programs=(), modules=True, files=None):
    """Write an initramfs to path whose init runs the shell lines in body, then powers off.

    programs: files put into /bin; files: {name: bytes}.
    """
    busybox = shutil.which("busybox") or "/bin/busybox"
    entries = [(d, stat.S_IFDIR | 0o755, b"", (0, 0))
               for d in ("bin", "dev", "proc", "sys", "tmp", "mnt", "modules", "etc", "root")]
    entries.append(("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1)))
    entries.append(("bin/busybox", stat.S_IFREG | 0o755, pathlib.Path(busybox).read_bytes(), (0, 0)))
    entries.append(("bin/sh", stat.S_IFLNK | 0o777, b"busybox", (0, 0)))
    lines = []
    for ko in sorted((GUEST / "modules").glob("*.ko")) if modules else ():
        entries.append((f"modules/{ko.name}", stat.S_IFREG | 0o644, ko.read_bytes(), (0, 0)))
        lines.append(f"insmod /modules/{ko.name}")
    for p in programs:
        entries.append((f"bin/{os.path.basename(p)}", stat.S_IFREG | 0o755,
                        pathlib.Path(p).read_bytes(), (0, 0)))
    for name, data in (files or {}).items():
        entries.append((name, stat.S_IFREG | 0o644, data, (0, 0)))
    script = INIT.format(modules="\n".join(lines), body=body)
    entries.append(("init", stat.S_IFREG | 0o755, script.encode(), (0, 0)))
    pathlib.Path(path).write_bytes(cpio(entries))
    return path


def compile_static(source, out, *more):
    """A static program for the guest from one C file; more: further files, options, libraries."""
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers", "-D_GNU_SOURCE",
                    "-static", "-o", str(out), str(source), *map(str, more)], check=True)
    return out
