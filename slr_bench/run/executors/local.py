"""Cells on this machine, through one fork server. The runner's side: no torch."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from slr_bench.errors import SlrBenchError


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

    def __enter__(self) -> Self:
        ours, theirs = socket.socketpair()
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "slr_bench.run.executors.fork_server", str(theirs.fileno()), *self._preload],
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C reaches the runner alone, which ends the rest in order
            )
        self._channel = ours
        self._selector = selectors.DefaultSelector()
        self._selector.register(ours, selectors.EVENT_READ)
        self._receive(None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()  # the server kills a running cell and ends
        self._selector.close()
        self._server.wait()

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
        while True:
            deadline_s = None if timed_out else start_s + timeout_s
            wake_s = next_tick_s if deadline_s is None else min(next_tick_s, deadline_s)
            message = self._receive(wake_s)
            now_s = time.monotonic()
            if message is not None and message["event"] == "exit":
                return Ending(result, message["signal"], message["code"], timed_out, now_s - start_s)
            if message is not None and message["event"] == "started":
                pid = message["pid"]
            elif message is not None:
                result = message["data"].get("result", result)
                on_message({**message["data"], "pid": pid})
            if deadline_s is not None and now_s >= deadline_s:
                timed_out = True
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
