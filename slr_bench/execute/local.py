"""Cells on this machine, through one fork server. The runner's side: no torch."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from slr_bench.errors import SlrBenchError
from slr_bench.execute import reaping

SERVER = "slr_bench.execute.fork_server"
OWNER_VARIABLE = "SLR_BENCH_OWNER"
"""In the environment of the server and all it starts: a random word by which the runner knows its own."""
_QUIET = {"KINETO_LOG_LEVEL": "6"}
"""torch's profiler tells every cell's log that it began, ended, and found no GPU; its errors it raises."""
GRACE_S = 30.0
"""A server that has not ended a cell, or itself, so long after it was told to is killed: it hangs or was stopped."""


class Ending(NamedTuple):
    """How a child ended, as its reaper saw it."""

    result: dict[str, Any] | None
    """What the worker said last; None if it died before."""
    signal: int | None
    code: int | None
    timed_out: bool
    duration_s: float


class ServerDiedError(SlrBenchError):
    """The fork server ended by itself."""

    exit_code = 7


class LocalExecutor:
    """Runs jobs one after the other, each in a process group of its own."""

    def __init__(self, preload: Sequence[str], environment: Mapping[str, str]) -> None:
        self._preload = list(preload)
        self._environment = dict(environment)
        self._received = b""
        self._owner = secrets.token_hex(16)
        self._last_cell: int | None = None
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
        """Let the server import what it is to have; :meth:`wait_ready` waits for that, ``__exit__`` ends it."""
        self._was_subreaper = reaping.set_subreaper(True)  # a killed server's orphans come to us, not to init
        ours, theirs = socket.socketpair()
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", SERVER, str(theirs.fileno()), *self._preload],
                env={**_QUIET, **os.environ, **self._environment, OWNER_VARIABLE: self._owner},
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C reaches the runner alone, which ends the rest in order
            )
        self._channel = ours
        self._selector = selectors.DefaultSelector()
        self._selector.register(ours, selectors.EVENT_READ)

    def wait_ready(self) -> None:
        """Until the server has imported.

        Raises:
            ServerDiedError: it ended.
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
        reaping.sweep(self._is_ours)  # there is something only if the server was killed
        reaping.set_subreaper(self._was_subreaper)

    def _is_ours(self, pid: int) -> bool:
        """Whether a child of this process came from our server: whoever embeds the runner may have others."""
        session = reaping.session_of(pid)
        is_of_a_cell = session is not None and session in (self._last_cell, self._server.pid)
        return is_of_a_cell or reaping.has_mark(pid, f"{OWNER_VARIABLE}={self._owner}")

    def run(
        self,
        job: Mapping[str, Any],
        timeout_s: float,
        on_message: Callable[[dict[str, Any]], None],
        on_tick: Callable[[int], None],
        tick_s: float,
    ) -> Ending:
        """Run one job to its end, its deadline at most.

        ``on_message`` gets each line the child sends; ``on_tick(pid)`` is called every ``tick_s`` while it runs.
        """
        start_s = time.monotonic()
        self._send({"op": "run", "job": dict(job)})
        pid, result, timed_out = 0, None, False
        next_tick_s = start_s + tick_s
        deadline_s = start_s + timeout_s
        while True:
            message = self._receive(min(next_tick_s, deadline_s))
            now_s = time.monotonic()
            if message is not None and message["event"] == "exit":
                return Ending(result, message["signal"], message["code"], timed_out, now_s - start_s)
            if message is not None and message["event"] == "started":
                pid = self._last_cell = message["pid"]
            elif message is not None:
                result = message["data"].get("result", result)
                on_message({**message["data"], "pid": pid})
            if now_s >= deadline_s:
                if timed_out:
                    self._server.kill()  # the next _receive tells that it ended
                timed_out, deadline_s = True, now_s + GRACE_S
                self._send({"op": "kill"})
            if now_s >= next_tick_s:
                next_tick_s = now_s + tick_s
                on_tick(pid)

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # told by the next _receive
            self._channel.sendall(json.dumps(message).encode() + b"\n")

    def _receive(self, until_s: float | None) -> dict[str, Any] | None:
        """The next message; None at ``until_s`` (monotonic)."""
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
                    f"the fork server ended with status {code} (what it said stands above); "
                    "check that python -c 'import torch' works"
                )
            self._received += data
        line, self._received = self._received.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message
