"""What the pytest suites share: start `sampan run`, talk to its serial line and its control socket.

Programs under test come from the folder in SAMPAN_BIN (default build/src).  Every wait is bounded.
"""
import json
import os
import pathlib
import re
import selectors
import signal
import socket
import subprocess
import time

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
BIN = pathlib.Path(os.environ.get("SAMPAN_BIN", TOP / "build/src")).resolve()
CACHE = pathlib.Path(os.environ.get("SAMPAN_CACHE", pathlib.Path.home() / ".cache/sampan"))

# What ignores them (nohup, a shell's background job) hands that down to the programs under test.
for _sig, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_sig) == signal.SIG_IGN:
        signal.signal(_sig, _handler)


class Timeout(AssertionError):
    pass


class Guest:
    """A process whose standard streams are a guest's serial line.  Use as a context manager: it is killed at the end."""

    def __init__(self, cmd, stdin=subprocess.PIPE):
        self.text = ""
        self.seen = 0
        self.cmd = cmd
        self.p = subprocess.Popen(cmd, stdin=stdin, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, start_new_session=True)
        os.set_blocking(self.p.stdout.fileno(), False)
        os.set_blocking(self.p.stderr.fileno(), False)
        self.sel = selectors.DefaultSelector()
        self.sel.register(self.p.stdout, selectors.EVENT_READ, "out")
        self.sel.register(self.p.stderr, selectors.EVENT_READ, "err")
        self.err = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        for f in (self.p.stdin, self.p.stdout, self.p.stderr):
            if f:
                try:
                    f.close()
                except OSError:
                    pass

    def pump(self, wait_s):
        """Read what there is, waiting at most wait_s; False at the end of both streams."""
        if not self.sel.get_map():
            time.sleep(min(wait_s, 0.05))
            return False
        for key, _ in self.sel.select(wait_s):
            data = os.read(key.fd, 65536)
            if not data:
                self.sel.unregister(key.fileobj)
            elif key.data == "out":
                self.text += data.decode(errors="replace")
            else:
                self.err += data.decode(errors="replace")
        return True

    def expect(self, pattern, timeout):
        """Wait for a regular expression in the serial output after the last match."""
        end = time.monotonic() + timeout
        rx = re.compile(pattern, re.M)
        while True:
            m = rx.search(self.text, self.seen)
            if m:
                self.seen = m.end()
                return m
            left = end - time.monotonic()
            if left <= 0:
                raise Timeout(f"no {pattern!r} in {timeout} s; serial ends:\n{self.text[-3000:]}\n"
                              f"stderr: {self.err[-1000:]}")
            if not self.pump(min(left, 1)) and self.p.poll() is not None:
                raise AssertionError(f"VM ended with {self.p.returncode} before {pattern!r}; serial "
                                     f"ends:\n{self.text[-3000:]}\nstderr: {self.err[-1000:]}")

    def send(self, text):
        self.p.stdin.write(text.encode())
        self.p.stdin.flush()

    def run(self, command, timeout):
        """Run shell lines in the guest (PS1 and PS2 empty, no echo); returns (exit status, output)."""
        mark = f"{time.monotonic_ns():x}"
        # The marks are put together by printf, so an echo of the lines does not match.
        self.send(f"printf 'B%s\\n' {mark}\n{command}\nprintf 'rc%s=%d\\n' {mark} $?\n")
        self.expect(f"B{mark}\r?\n", timeout)
        start = self.seen
        m = self.expect(f"rc{mark}=(\\d+)\\s", timeout)
        return int(m[1]), self.text[start:m.start()].replace("\r", "")

    def wait(self, timeout):
        """Exit status of the VM."""
        end = time.monotonic() + timeout
        while self.p.poll() is None:
            if time.monotonic() > end:
                raise Timeout(f"VM still runs after {timeout} s; serial ends:\n{self.text[-2000:]}")
            self.pump(0.2)
        while self.sel.get_map() and self.pump(0.1):
            pass
        return self.p.returncode

    def kill(self, sig=signal.SIGKILL):
        """End it now; what it printed until then is read."""
        if self.p.poll() is None:
            os.killpg(self.p.pid, sig)
            self.p.wait(30)
        while self.sel.get_map() and self.pump(0.1):
            pass


class VM(Guest):
    """Sampan's."""

    def __init__(self, *args, control=None, stdin=subprocess.PIPE, program=None, prefix=()):
        self.control = control
        cmd = [*prefix, str(program or BIN / "sampan"), "run", *map(str, args)]
        if control:
            cmd += ["--control", str(control)]
        super().__init__(cmd, stdin)


class QMP:
    """A client of the control socket."""

    def __init__(self, path, timeout=30):
        end = time.monotonic() + timeout
        while True:
            self.sock = socket.socket(socket.AF_UNIX)
            try:
                self.sock.connect(str(path))
                break
            except OSError:
                self.sock.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        self.sock.settimeout(timeout)
        self.file = self.sock.makefile("r")
        self.events = []
        self.greeting = json.loads(self.file.readline())
        self.call("qmp_capabilities")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.sock.close()

    def raw(self, command, **args):
        """The whole reply; events that come before it are kept in self.events."""
        msg = {"execute": command}
        if args:
            msg["arguments"] = {k.replace("_", "-"): v for k, v in args.items()}
        self.sock.sendall((json.dumps(msg) + "\n").encode())
        while True:
            reply = json.loads(self.file.readline())
            if "event" not in reply:
                return reply
            self.events.append(reply)

    def call(self, command, **args):
        reply = self.raw(command, **args)
        assert "return" in reply, reply
        return reply["return"]

    def event(self, name, timeout=30):
        """Wait for an event of this name."""
        self.sock.settimeout(timeout)
        while True:
            for e in self.events:
                if e["event"] == name:
                    self.events.remove(e)
                    return e
            msg = json.loads(self.file.readline())
            if "event" in msg:
                self.events.append(msg)
