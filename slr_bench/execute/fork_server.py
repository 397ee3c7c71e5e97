"""The fork server: imports torch once, then forks one child per job, kills it on request, and reaps it.

It is started with ``-P``, so that a file ``queue.py`` of the working directory is not taken for the standard library's.
It runs no operator, starts no thread and makes no CUDA or NVML call, so every child begins clean. It exchanges JSON
lines with the executor over one socket. When that closes, it kills what it owns and ends. It adopts what a job leaves
behind, so that a process which left the job's group (a daemon) is ended too.

A process is signalled only through a pidfd, and only while it is an unreaped child of the caller, so that its id cannot
have passed to a stranger. Orphans of a job become children of the nearest subreaper above them. That is the fork
server, or the executor's process if the server is gone. So the walk over one's own children reaches every descendant,
whatever session it moved to.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

from slr_bench.execute.job import Job, JsonObject

OOM_SCORE: Final = "900"
"""If the machine runs out of memory, the kernel ends the job before the process that started it."""
WORKER: Final = "slr_bench.worker.main"
"""The module that does a job; it has ``run_job`` and can be run."""


def main() -> None:
    """``python -m slr_bench.execute.fork_server SOCKET_FD MODULE...``."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    set_subreaper(True)
    set_parent_death_signal(signal.SIGKILL)  # while it imports it does not read the channel
    for name in (WORKER, *sys.argv[2:]):
        with contextlib.suppress(ImportError):  # the job that needs it reports it, and no other fails
            importlib.import_module(name)
    gc.freeze()  # what is imported is never garbage: children neither walk it nor copy its pages when they collect
    set_parent_death_signal(
        0
    )  # from now on the end of the channel counts: killed at once, the server could not end the job's group
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        _Server(channel).serve()
    # A regular exit would unload what was only imported for the children, and some libraries complain.
    os._exit(0)


class _Server:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._requests = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel, selectors.EVENT_READ)

    def serve(self) -> None:
        self._send({"event": "ready"})
        while (request := self._next_request()) is not None:
            if request["op"] == "run":
                self._run(Job.from_dict(request["job"]))

    def _send(self, message: JsonObject) -> None:
        self._channel.sendall(json.dumps(message).encode() + b"\n")

    def _next_request(self) -> JsonObject | None:
        """Return the next request, or None when the executor has gone."""
        while b"\n" not in self._requests:
            data = self._channel.recv(1 << 16)
            if not data:
                return None
            self._requests += data
        line, self._requests = self._requests.split(b"\n", 1)
        request: JsonObject = json.loads(line)
        return request

    def _run(self, job: Job[Any]) -> None:
        result_read, result_write = os.pipe()
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(result_read)
            self._channel.close()
            _become_job(job, result_write, server)
        os.close(result_write)
        child = os.pidfd_open(pid)
        self._selector.register(child, selectors.EVENT_READ)
        self._selector.register(result_read, selectors.EVENT_READ)
        try:
            self._send({"event": "started", "pid": pid})
            self._watch(pid, child, result_read)
        except OSError:  # the executor has gone
            kill_group(child, pid)
            raise
        finally:
            status = self._end_all_and_reap(pid, child)
            self._selector.unregister(child)
            with contextlib.suppress(KeyError):
                self._selector.unregister(result_read)
            os.close(child)
            os.close(result_read)
        self._send(
            {
                "event": "exit",
                "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
                "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            }
        )

    def _watch(self, pid: int, child: int, result_read: int) -> None:
        """Pass the child's lines on until it ends; kill its group on request, or when the executor has gone."""
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
        """End what the job left running, then reap it and its orphans; the server has no other children."""
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        kill_group(child, pid)
        status = os.waitpid(pid, 0)[1]
        sweep()
        return status


def _become_job(job: Job[Any], result_write: int, server: int) -> NoReturn:
    """Turn the child into the job: a session of its own, output into the log, then the worker. Never returns."""
    code = 1
    try:
        os.setsid()
        set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != server:  # it ended before the request took effect
            os._exit(code)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write(OOM_SCORE)
        log = os.open(job.log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        faulthandler.enable(file=2)  # a SIGSEGV leaves its Python stack in the log
        if job.isolation == "spawn":
            os.set_inheritable(result_write, True)
            os.execv(sys.executable, [sys.executable, "-P", "-m", WORKER, str(result_write), job.to_json().decode()])
        importlib.import_module(WORKER).run_job(job, result_write)
        code = 0
    except BaseException:  # noqa: BLE001 - the last frame of a process; every error goes to the log
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37
_PIDFD_SIGNAL_PROCESS_GROUP = 1 << 2  # Linux 6.9

PROC = Path("/proc")


def set_parent_death_signal(number: int) -> None:
    """Let the kernel send this signal when the parent ends; 0 means none."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)


def set_subreaper(wanted: bool) -> bool:
    """Adopt orphaned descendants (Linux 3.4), or stop doing so. Return whether the process did so before."""
    libc, before = ctypes.CDLL(None, use_errno=True), ctypes.c_int(0)
    libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before))
    libc.prctl(PR_SET_CHILD_SUBREAPER, int(wanted))
    return bool(before.value)


def children(proc: Path = PROC) -> list[int]:
    """Return the children of this process, including those that have ended and are not reaped."""
    pids: list[int] = []
    for task in (proc / "self" / "task").iterdir():
        with contextlib.suppress(OSError):  # a thread may have ended meanwhile
            pids += map(int, (task / "children").read_text().split())
    return pids


def kill_group(leader: int, pid: int) -> None:
    """Kill the group of an unreaped child, given its pidfd and id. Between fork and setsid, kill the child alone."""
    try:
        signal.pidfd_send_signal(leader, signal.SIGKILL, None, _PIDFD_SIGNAL_PROCESS_GROUP)
    except ProcessLookupError:  # it has no group yet
        _kill(leader)
    except OSError:  # a kernel before 6.9; the leader is unreaped, so the id is still its own
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        _kill(leader)


def sweep(is_owned: Callable[[int], bool] = lambda pid: True) -> int:
    """Kill and reap owned children and their orphans until none is left. Return how many there were."""
    count = 0
    while owned := [pid for pid in children() if is_owned(pid)]:
        for pid in owned:
            process = os.pidfd_open(pid)
            try:
                _kill(process)
                os.waitpid(pid, 0)
            except ChildProcessError:  # the program that embeds us has reaped it
                pass
            finally:
                os.close(process)
            count += 1
    return count


def session_of(pid: int, proc: Path = PROC) -> int | None:
    """Return the session id of a process, or None if it cannot be read."""
    try:
        return int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[3])
    except (OSError, ValueError, IndexError):
        return None


def has_mark(pid: int, mark: str, proc: Path = PROC) -> bool:
    """Return whether a process was started with ``NAME=value`` in its environment; False if it has ended."""
    with contextlib.suppress(OSError):
        return mark.encode() in (proc / str(pid) / "environ").read_bytes().split(b"\0")
    return False


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)


if __name__ == "__main__":
    main()
