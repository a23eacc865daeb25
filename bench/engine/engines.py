"""Who runs the rows: the host itself, Sampan's soft engine, QEMU's TCG in two settings.

A runner takes shell lines and gives what they print; guests boot once and wait at their serial line,
halted, while another runner has its turn.
"""
import os
import pathlib
import shutil
import subprocess

import debian
import initramfs
import sampan
from common import QEMU, pss_beyond_ram

MEMORY = 512
DISK_MEMORY = 1024

# Column, what it is.
NAMES = {
    "native": "this host",
    "sampan": "Sampan, --accel soft",
    "tcg": "QEMU, -accel tcg -cpu max",
    "best": "QEMU, -accel tcg -cpu max,erms=off,fsrm=off",
}
TCG_CPU = {"tcg": "max", "best": "max,erms=off,fsrm=off"}
# A console without the kernel's remarks, so lines of results stay whole.
APPEND = "console=ttyS0 quiet loglevel=1"


class Failure(Exception):
    """A row that gave no result: its text says why, on one line."""

    def __init__(self, text):
        super().__init__(" ".join(text.split())[-500:])


def split_result(out, name):
    """What follows `NAME ` in the output of work."""
    for line in out.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == name:
            return rest
    raise Failure(f"no result; it printed: {out.strip()[-200:]!r}")


class Native:
    """The same programs on the host, on as many of its CPUs as the guests have."""

    def __init__(self, tree, cpus, disk, prepare):
        self.tree, self.prepare = tree, prepare
        self.dir = pathlib.Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp") / f"bench.{os.getpid()}"
        self.dir.mkdir()
        path = f"{tree}:/usr/bin:/bin" if disk else f"{tree}:{tree}/applets"
        self.env = dict(os.environ, WORK_DIR=str(self.dir), PATH=path, LC_ALL="C", APPS=str(tree / "apps.sh"))
        self.cpus = sorted(os.sched_getaffinity(0))[-cpus:]

    def start(self):
        out = self.run(self.prepare + " || echo FAILED", 300)
        if "FAILED" in out:
            raise Failure(f"cannot prepare the rows: {out[-300:]}")

    def run(self, command, timeout):
        p = subprocess.run(["/bin/busybox", "sh", "-c", command], env=self.env, stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                           timeout=timeout, preexec_fn=lambda: os.sched_setaffinity(0, self.cpus))
        return p.stdout

    def memory(self):
        return None

    def close(self):
        shutil.rmtree(self.dir, ignore_errors=True)


def command(engine, accel, cpus, memory, kernel, initrd, append, disks=()):
    """The command line of a VM of this engine whose serial line is its standard streams."""
    boot = ["--kernel", kernel, "--initrd", initrd, "--append", append]
    if engine == "sampan":
        cmd = [sampan.BIN / "sampan", "run", "--accel", accel, "--cpus", cpus, "--memory", f"{memory}M",
               "--net", "none", *disks, *boot]
    else:
        cmd = [QEMU, "-M", "pc", "-accel", "tcg", "-cpu", TCG_CPU[engine], "-smp", cpus, "-m", f"{memory}M",
               "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
               *(o[1:] if o.startswith("--") else o for o in map(str, boot))]
        for d in disks:
            cmd += ["-drive", f"file={d},if=virtio,format=raw"]
    return list(map(str, cmd))


class Machine:
    """A VM that boots the initramfs, or Debian's disk, to a shell on its serial line."""

    def __init__(self, engine, args, tree, disk, prepare):
        self.engine, self.args, self.tree, self.disk, self.prepare = engine, args, tree, disk, prepare
        self.ram = DISK_MEMORY if disk else MEMORY
        self.guest, self.broken = None, None

    def command(self):
        if not self.disk:
            return command(self.engine, self.args.accel, self.args.cpus, self.ram, initramfs.GUEST / "vmlinuz",
                           self.tree / "rd.cpio", APPEND)
        # QEMU locks what it opens.
        own = debian.copy_disk(self.tree / f"{self.engine}.raw")
        tools = shutil.copy(self.tree / "tools.tar", self.tree / f"{self.engine}.tar")
        return command(self.engine, self.args.accel, self.args.cpus, self.ram, debian.DIR / "vmlinuz",
                       debian.DIR / "initrd.img", debian.APPEND, (own, tools))

    def start(self):
        if self.broken:
            raise Failure(self.broken)
        self.guest = sampan.Guest(self.command())
        try:
            if self.disk:
                debian.login(self.guest, 900)
                lines = "mkdir -p /dev/shm/bench && cd /dev/shm/bench && tar -xf /dev/vdb && export PATH=/dev/shm/bench:$PATH " \
                        "WORK_DIR=/dev/shm/bench APPS=/dev/shm/bench/apps.sh LC_ALL=C; dmesg -n 1"
            else:
                self.guest.expect("REACHED-INIT", 300)
                lines = "stty -echo; PS1= PS2=; mount -t tmpfs tmp /tmp; export WORK_DIR=/tmp APPS=/bin/apps.sh LC_ALL=C PATH=/bin"
            rc, out = self.guest.run(lines, 120)
            if rc == 0:
                rc, out = self.guest.run(self.prepare, 300)
            if rc:
                raise Failure(f"cannot prepare the guest: {out[-300:]}")
        except (AssertionError, OSError, Failure) as e:
            # No row will do better: do not wait for it again.
            self.broken = f"the guest does not start: {e}"
            self.close()
            raise Failure(self.broken) from e

    def run(self, line, timeout):
        if not self.guest:
            self.start()
        try:
            return self.guest.run(line, timeout)[1]
        except (AssertionError, OSError) as e:
            # Dead or hung: the next row gets a fresh one.
            status = self.guest.p.poll()
            text = str(e) if status is None else f"the VM ended with {status}: {self.guest.err[-300:]}"
            self.close()
            raise Failure(text) from e

    def memory(self):
        """MiB beyond the guest's RAM."""
        return pss_beyond_ram(self.guest.p.pid, self.ram << 20) / 1024 if self.guest else None

    def close(self):
        if self.guest:
            self.guest.__exit__()
            self.guest = None


def make_tree(tree, sources):
    """What runs everywhere: work, apps.sh, busybox' applets, an initramfs and a tar of them."""
    work = initramfs.compile_static(sources[0], tree / "work", *sources[1:], "-lm")
    script = sources[0].parent / "apps.sh"
    shutil.copy(script, tree / "apps.sh")
    (tree / "apps.sh").chmod(0o755)
    applets = tree / "applets"
    applets.mkdir()
    for name in subprocess.run(["/bin/busybox", "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split():
        (applets / name).symlink_to("/bin/busybox")
    initramfs.build(tree / "rd.cpio", "echo REACHED-INIT\nexec sh", programs=(work, tree / "apps.sh"), modules=False)
    subprocess.run(["tar", "-C", str(tree), "-cf", str(tree / "tools.tar"), "work", "apps.sh"], check=True)
