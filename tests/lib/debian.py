"""The Debian guest with development tools that tests and benches share, and how to log in to it."""
import subprocess

import sampan

NAME = "guest-dev"
DIR = sampan.CACHE / NAME
APPEND = "root=LABEL=root ro console=ttyS0 net.ifnames=0 quiet"
PROMPT = r"root@sampan:\S+# "


def build():
    """Make it unless it is there; returns its folder."""
    subprocess.run([str(sampan.TOP / "tools/mkguest"), "--name", NAME, "--size", "5G", "--with",
                    "gcc,libc6-dev,python3,openssl,curl,fio"], check=True)
    return DIR


def copy_disk(to):
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(DIR / "disk.raw"), str(to)], check=True)
    return to


def login(vm, timeout):
    """Wait for the login on the serial line and leave a plain shell: what is printed is what is compared."""
    vm.expect("sampan login: ", timeout)
    vm.send("root\n")
    vm.expect("Password: ", 60)
    vm.send("sampan\n")
    vm.expect(PROMPT, 60)
    vm.send("exec sh\n")
    rc, _ = vm.run("stty -echo; export TERM=dumb PS1= PS2=", 30)
    assert rc == 0
