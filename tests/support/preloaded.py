"""A process that has imported torch once, from which programs are forked that would each import it again.

The import is most of the CPU time of a start. All else of a program's start is as when it is executed: its arguments,
environment, folder, output and limits are its own, and gunicorn runs from its first line.
"""

import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from gevent import monkey
from gevent.monkey import get_original

_LARGEST = 2**20
"""Bytes of a request, at most."""


class Forked:
    """A forked program, with what `subprocess.Popen` has to say of one."""

    def __init__(self, status: int) -> None:
        self._status = status
        self.pid = self._line()
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, None as long as it runs; negative, the signal that has ended it."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit status.

        Raises:
            subprocess.TimeoutExpired: it still runs.

        """
        if (status := self._ended(timeout)) is None:
            raise subprocess.TimeoutExpired("gunicorn", timeout or 0.0)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = self._line()
            os.close(self._status)
        return self.returncode

    def _line(self) -> int:
        return int(b"".join(iter(lambda: os.read(self._status, 1), b"\n")))


class Preloaded:
    """The process that forks; it starts when it is first needed."""

    def __init__(self) -> None:
        self._running: tuple[socket.socket, subprocess.Popen[bytes]] | None = None

    def launch(self, environment: Mapping[str, str], folder: Path, out: IO[bytes], err: IO[bytes]) -> Forked:
        """Run gunicorn in a folder, with an environment and outputs of its own."""
        self._running = self._running or _start()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        request = json.dumps({"environment": dict(environment), "folder": str(folder), "limit": limit}).encode()
        read, write = os.pipe()
        socket.send_fds(self._running[0], [request], [write, out.fileno(), err.fileno()])
        os.close(write)
        return Forked(read)

    def end(self) -> None:
        """End it; what was forked goes on."""
        if self._running is not None:
            self._running[0].close()
            self._running[1].wait()


def _start() -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-P", __file__, str(theirs.fileno())]
        return ours, subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)


def _next(requests: int) -> dict[str, Any] | None:
    """Fork for each request; return it in the new process, and None where no more will come.

    The functions are those that gevent has replaced: here, nothing is concurrent.
    """
    fork, waitpid = get_original("os", "fork"), get_original("os", "waitpid")
    poller = get_original("select", "poll")()
    inbox = get_original("socket", "socket")(fileno=requests)
    poller.register(requests, select.POLLIN)
    children: dict[int, tuple[int, int]] = {}
    while True:
        for ready, _ in poller.poll():
            if ready in children:
                pid, status = children.pop(ready)
                os.write(status, b"%d\n" % os.waitstatus_to_exitcode(waitpid(pid, 0)[1]))
                poller.unregister(ready)
                os.close(ready)
                os.close(status)
                continue
            data, fds, *_ = socket.recv_fds(inbox, _LARGEST, 3)
            if not data:
                return None
            status, out, err = fds
            if not (pid := fork()):
                inbox.detach()
                _close(requests, status, *children, *(held for _, held in children.values()))
                _become(out, err)
                return dict(json.loads(data))
            os.write(status, b"%d\n" % pid)
            children[os.pidfd_open(pid)] = pid, status
            poller.register(next(reversed(children)), select.POLLIN)
            _close(out, err)


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def _become(out: int, err: int) -> None:
    """Write to these from now on."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    _close(out, err)


def _main() -> None:
    """Import what takes long, in the order in which a start does; then be whatever is asked for."""
    monkey.patch_all()
    import torch  # noqa: F401, PLC0415
    from gunicorn.app.wsgiapp import run  # noqa: PLC0415

    request = _next(int(sys.argv[1]))
    if request is None:
        return
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    resource.setrlimit(resource.RLIMIT_NOFILE, request["limit"])
    sys.argv = ["gunicorn"]
    sys.exit(run())


if __name__ == "__main__":
    _main()
