"""The fork server: imports torch once, then forks one child a cell, kills it when told, and reaps it.

It runs no operator, starts no thread and makes no CUDA or NVML call, so every child begins clean. It speaks JSON lines
on one socket with the runner; when that closes, it kills what it owns and ends. It adopts what a cell leaves behind, so
that a process which left the cell's group (a daemon) is ended too.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from typing import Any, NoReturn

from slr_bench.execute.reaping import kill_group, set_parent_death_signal, set_subreaper, sweep

OOM_SCORE = "900"  # if the machine runs out of memory, the cell goes before the runner


def main() -> None:
    """``python -m slr_bench.execute.fork_server SOCKET_FD MODULE...``."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    set_subreaper(True)
    set_parent_death_signal(signal.SIGKILL)  # while it imports it does not listen
    for name in sys.argv[2:]:
        with contextlib.suppress(ImportError):  # the cell that needs it will say so, and disturb no other
            importlib.import_module(name)
    gc.freeze()  # what is imported is never garbage: children neither walk it nor copy its pages when they collect
    set_parent_death_signal(0)  # now the channel's end tells: killed at once, it could not end the cell's group
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        _Server(channel).serve()
    # A regular exit would unload what was only imported for the children, and some libraries complain of it.
    os._exit(0)


class _Server:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._requests = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel, selectors.EVENT_READ)

    def serve(self) -> None:
        self._tell({"event": "ready"})
        while (request := self._next_request()) is not None:
            if request["op"] == "run":
                self._run(request["job"])

    def _tell(self, message: dict[str, Any]) -> None:
        self._channel.sendall(json.dumps(message).encode() + b"\n")

    def _next_request(self) -> dict[str, Any] | None:
        """The next request line; None when the runner has gone."""
        while b"\n" not in self._requests:
            data = self._channel.recv(1 << 16)
            if not data:
                return None
            self._requests += data
        line, self._requests = self._requests.split(b"\n", 1)
        request: dict[str, Any] = json.loads(line)
        return request

    def _run(self, job: dict[str, Any]) -> None:
        result_read, result_write = os.pipe()
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(result_read)
            self._channel.close()
            _become_cell(job, result_write, server)
        os.close(result_write)
        child = os.pidfd_open(pid)
        self._selector.register(child, selectors.EVENT_READ)
        self._selector.register(result_read, selectors.EVENT_READ)
        try:
            self._tell({"event": "started", "pid": pid})
            self._watch(pid, child, result_read)
        except OSError:  # the runner has gone
            kill_group(child, pid)
            raise
        finally:
            status = self._end_all_and_reap(pid, child)
            self._selector.unregister(child)
            with contextlib.suppress(KeyError):
                self._selector.unregister(result_read)
            os.close(child)
            os.close(result_read)
        self._tell(
            {
                "event": "exit",
                "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
                "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            }
        )

    def _watch(self, pid: int, child: int, result_read: int) -> None:
        """Pass the child's lines on until it ends; kill its group when told to, or when the runner has gone."""
        unsent, is_open = b"", True
        while True:
            ready = {key.fd for key, _ in self._selector.select()}
            if self._channel.fileno() in ready:
                request = self._next_request()
                if request is None or request["op"] == "kill":
                    kill_group(child, pid)
                if request is None:
                    self._selector.unregister(self._channel)
            if result_read in ready:
                data = os.read(result_read, 1 << 20)
                if not data:
                    self._selector.unregister(result_read)
                    is_open = False
                *lines, unsent = (unsent + data).split(b"\n")
                for line in lines:
                    self._channel.sendall(b'{"event": "child", "data": ' + line + b"}\n")
            elif child in ready and (not is_open or not self._drain_ready(result_read)):
                return

    def _drain_ready(self, descriptor: int) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            return bool(selector.select(0))

    def _end_all_and_reap(self, pid: int, child: int) -> int:
        """End what the cell left running, then reap it and what it orphaned: the server has no other children."""
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        kill_group(child, pid)
        status = os.waitpid(pid, 0)[1]
        sweep()
        return status


def _become_cell(job: dict[str, Any], result_write: int, server: int) -> NoReturn:
    """In the child: a session of its own, output into the log, then the worker. Never returns."""
    code = 1
    try:
        os.setsid()
        set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != server:  # it ended before the kernel was asked
            os._exit(code)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write(OOM_SCORE)
        log = os.open(job["log_path"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        faulthandler.enable(file=2)  # a SIGSEGV leaves its Python stack in the log
        if job["isolation"] == "spawn":
            os.set_inheritable(result_write, True)
            command = [sys.executable, "-m", "slr_bench.worker.main", str(result_write), json.dumps(job)]
            os.execv(sys.executable, command)
        from slr_bench.worker.main import run_job

        run_job(job, result_write)
        code = 0
    except BaseException:  # noqa: BLE001 - the last frame of a process: whatever it is goes to the log
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
