"""The executor of this machine, and its drivers: jobs run through one fork server. This side does not import torch."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from slr_bench.errors import SlrBenchError
from slr_bench.execute import fork_server
from slr_bench.execute.job import MESSAGES, Driver, Ending, Job, JobResult, JsonObject, OnMessage, PhaseEntered
from slr_bench.execute.machine import PSS_PERIOD_S, JobMonitor, Readers
from slr_bench.startup import obey_lost_interrupt

SERVER = "slr_bench.execute.fork_server"
OWNER_VARIABLE = "SLR_BENCH_OWNER"
"""Variable in the environment of the server and all it starts: a random word by which this process knows its own."""
_QUIET = {"KINETO_LOG_LEVEL": "6"}
"""Keeps torch's profiler from logging that it began, ended and found no GPU. Its errors are raised anyway."""
GRACE_S = 30.0
"""A server that has not ended a job, or itself, so long after the request is killed: it hangs or was stopped."""


_CANCEL_PERIOD_S: Final = 0.2


class ServerDiedError(SlrBenchError):
    """The fork server ended by itself."""

    exit_code = 7


class LocalExecutor:
    """Runs jobs one after the other, each in a process group of its own. An `Executor`."""

    def __init__(self, preload: Sequence[str], environment: Mapping[str, str], readers: Readers | None = None) -> None:
        """Prepare a server that imports ``preload`` and has ``environment`` on top of this process's variables.

        ``readers`` replaces the sources of what the machine does meanwhile.
        """
        self._preload = list(preload)
        self._readers = readers or Readers()
        self._environment = dict(environment)
        self._received = b""
        self.last_pid: int | None = None
        """Process of the last job."""
        self._owner = secrets.token_hex(16)
        self._is_ready = False

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:  # no __exit__ is called for an __enter__ that fails
            self._end()
            raise
        return self

    def start(self) -> None:
        """Start the server, which imports its modules; :meth:`wait_ready` waits for that, ``__exit__`` ends it."""
        self._was_subreaper = fork_server.set_subreaper(True)  # a killed server's orphans come to us, not to init
        ours, theirs = socket.socketpair()
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-P", "-m", SERVER, str(theirs.fileno()), *self._preload],
                env={**_QUIET, **os.environ, **self._environment, OWNER_VARIABLE: self._owner},
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C reaches the runner alone, which ends the rest in order
            )
        self._channel = ours
        self._selector = selectors.DefaultSelector()
        self._selector.register(ours, selectors.EVENT_READ)

    def wait_ready(self) -> None:
        """Wait until the server has imported its modules.

        Raises:
            ServerDiedError: The server ended.
        """
        if not self._is_ready:
            self._receive(None)
            self._is_ready = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        if not self._is_ready:
            self._server.kill()  # while it imports it does not listen; it owns no cell yet
        self._channel.close()  # the server kills a running cell and ends
        self._selector.close()
        try:
            self._server.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        fork_server.sweep(self._is_ours)  # there is something only if the server was killed
        fork_server.set_subreaper(self._was_subreaper)

    def _is_ours(self, pid: int) -> bool:
        """Return whether a child of this process came from our server. A program that embeds us may have others."""
        session = fork_server.session_of(pid)
        is_of_a_cell = session is not None and session in (self.last_pid, self._server.pid)
        return is_of_a_cell or fork_server.has_mark(pid, f"{OWNER_VARIABLE}={self._owner}")

    def submit(self, job: Job[Any]) -> LocalHandle:
        """Send a job to the server."""
        handle = LocalHandle(self, job, JobMonitor(self._readers, job.is_monitored))
        self._send(b'{"op": "run", "job": ' + job.to_json() + b"}")
        return handle

    def _send(self, line: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # the next _receive reports it
            self._channel.sendall(line + b"\n")

    def _receive(self, until_s: float | None) -> JsonObject | None:
        """Return the server's next message, or None at ``until_s`` (monotonic)."""
        obey_lost_interrupt()
        while b"\n" not in self._received:
            wait_s = None if until_s is None else max(0.0, until_s - time.monotonic())
            if not self._selector.select(wait_s):
                return None
            data = b""
            with contextlib.suppress(ConnectionResetError):  # it was killed with a request of ours unread
                data = self._channel.recv(1 << 20)
            if not data:
                code = self._server.wait()
                raise ServerDiedError(
                    f"the fork server ended with status {code} (its output stands above); "
                    "check that python -c 'import torch' works"
                )
            self._received += data
        line, self._received = self._received.split(b"\n", 1)
        message: JsonObject = json.loads(line)
        return message


class LocalHandle:
    """A job that the fork server runs. A `Handle`."""

    def __init__(self, executor: LocalExecutor, job: Job[Any], monitor: JobMonitor) -> None:
        self._executor, self._job, self._monitor = executor, job, monitor
        self._start_s = time.monotonic()
        self._pid = 0
        self._result: JobResult | None = None

    def wait(
        self, on_message: OnMessage = lambda message: None, is_cancelled: Callable[[], bool] | None = None
    ) -> Ending:
        """Wait for the end of the job; it is killed at its deadline, or once ``is_cancelled`` returns true.

        Raises:
            ServerDiedError: The server ended.
        """
        period_s = PSS_PERIOD_S if is_cancelled is None else _CANCEL_PERIOD_S
        deadline_s, timed_out, was_killed = self._start_s + self._job.timeout_s, False, False
        next_check_s, next_tick_s = self._start_s + period_s, self._start_s + PSS_PERIOD_S
        while True:
            message = self._executor._receive(min(next_check_s, next_tick_s, deadline_s))
            now_s = time.monotonic()
            if message is not None and message["event"] == "exit":
                return self._ending(message, timed_out, now_s - self._start_s)
            if message is not None:
                self._on_message(message, on_message)
            if now_s >= deadline_s and was_killed:
                self._executor._server.kill()  # the next _receive raises
            is_late = now_s >= deadline_s
            if is_late or (not was_killed and is_cancelled is not None and is_cancelled()):
                timed_out, was_killed = timed_out or (is_late and not was_killed), True
                deadline_s = now_s + GRACE_S
                self._executor._send(b'{"op": "kill"}')
            if now_s >= next_check_s:
                next_check_s = now_s + period_s
            if now_s >= next_tick_s:
                next_tick_s = now_s + PSS_PERIOD_S
                self._monitor.on_tick(self._pid)

    def _on_message(self, message: JsonObject, on_message: OnMessage) -> None:
        if message["event"] == "started":
            self._pid = self._executor.last_pid = message["pid"]
            return
        told = MESSAGES.validate_python(message["data"])
        if isinstance(told, JobResult):
            self._result = told
            return
        if isinstance(told, PhaseEntered):
            self._monitor.on_phase(told.phase, self._pid)
        on_message(told)

    def _ending(self, message: JsonObject, timed_out: bool, duration_s: float) -> Ending:
        machine = self._monitor.readings()
        timeout_s = self._job.timeout_s
        return Ending(self._result, message["signal"], message["code"], timed_out, duration_s, timeout_s, machine)


@contextmanager
def temporary_driver(
    preload: Iterable[str], *, device: str = "auto", ram_limit_bytes: int | None = None
) -> Iterator[Driver]:
    """Run a fork server that has imported ``preload``; its logs are removed at the end."""
    with (
        tempfile.TemporaryDirectory(prefix="slr-bench-") as directory,
        LocalExecutor(list(preload), thread_environment()) as executor,
    ):
        yield Driver(executor, Path(directory), device, ram_limit_bytes=ram_limit_bytes)


def thread_environment() -> dict[str, str]:
    """Return the thread settings that are fixed when a fork server starts: by default one OpenMP thread per core.

    MKL gets the same number, because torch takes its number of threads from MKL. A user's ``OMP_NUM_THREADS=1`` alone
    would have no effect.
    """
    threads = os.environ.get("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    defaults = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": "1"}
    return {name: os.environ.get(name, value) for name, value in defaults.items()}
