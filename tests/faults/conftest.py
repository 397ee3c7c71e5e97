"""A run directory under fire: kill a grid, run it again, compare; and the count of it all."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from slr_bench.run.store import Store

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "tests" / "plugins"
PATIENCE_S = 120
RUNS = 12  # 3 cells x 2 sides x 2 repeats of quick_runner


@dataclass
class Tally:
    """Counts of the attempts in this test run and of their results."""

    tried: Counter[str] = field(default_factory=Counter)
    survived: int = 0
    lost: int = 0
    doubled: int = 0
    half_read: int = 0
    processes_left: int = 0
    lock: Any = field(default_factory=Lock)

    def line(self) -> str:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.tried.items()))
        return (
            f"faults tried {self.tried.total()} ({kinds}); survived {self.survived}; records lost {self.lost}, "
            f"doubled {self.doubled}, half-read {self.half_read}; processes left {self.processes_left}"
        )


TALLY = Tally()


@pytest.fixture(scope="session")
def tally() -> Tally:
    return TALLY


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TALLY.tried:
        terminalreporter.write_line(TALLY.line())


class Range:
    """One run directory, its journal, and the processes started on it (known by a word in their environment)."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        self._place, self.directory = place, place / "run"
        self._journal = place / "journal"
        self._mark = f"MARK_OF_A_TEST={place}"
        self._told: set[str] = set()
        self._kept: dict[str, bytes] = {}
        self._begun: Counter[str] = Counter()

    def start(self, kill_point: str = "") -> subprocess.Popen[str]:
        """The runner, in a process of its own."""
        name, value = self._mark.split("=", 1)
        environment = os.environ | {
            name: value,
            "KILL_POINT": kill_point or ":::",
            "QUICK_JOURNAL": str(self._journal),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(PLUGINS)]),
        }
        command = [sys.executable, "-m", "quick_runner", str(self.directory)]
        return subprocess.Popen(
            command, cwd=self._place, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def end(self, runner: subprocess.Popen[str]) -> tuple[int, str]:
        """Wait for the runner's end and look at what it left: ``(status, stderr)``."""
        out, err = runner.communicate(timeout=PATIENCE_S)
        self._told |= set(out.split())
        self._look()
        return runner.returncode, err

    def kill_at(self, instant_s: float, role: str) -> str | None:
        """Start, SIGKILL one of its processes after so long (or the first of that role after it); what was hit:
        the role; None where the runner had ended before.
        """
        runner = self.start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            runner.wait(instant_s)
        hit = runner.poll() is None and role == "runner"
        if hit:
            runner.kill()
        while not hit and runner.poll() is None:
            hit = self._kill_below(runner.pid, role)
        self.end(runner)
        return role if hit else None

    def _kill_below(self, runner: int, role: str) -> bool:
        server = self._kill_child(runner, only_look=role == "cell")
        return server is not None and (role == "server" or self._kill_child(server) is not None)

    def _kill_child(self, parent: int, *, only_look: bool = False) -> int | None:
        """SIGKILL the child of a process; through a descriptor that was checked to be ours. None where it has none."""
        try:
            pid = int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])
            process = os.pidfd_open(pid)
        except (OSError, IndexError):
            return None
        try:
            if self._mark.encode() not in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return None
            if not only_look:
                signal.pidfd_send_signal(process, signal.SIGKILL)
        except (OSError, ProcessLookupError):
            return None
        finally:
            os.close(process)
        return pid

    def _look(self) -> None:
        """Check the directory after an end of any kind: every record is complete, and none that was reported is lost.

        No earlier record has changed or was made again.
        """
        records, problems = Store(self.directory).read_records()
        now = {path.stem: path.read_bytes() for path in (self.directory / "records").glob("*.json")}
        begun = Counter(self._journal.read_text().split()) if self._journal.exists() else Counter()
        finished = {name for name in self._kept if b'"outcome": "ok"' in self._kept[name]}
        with TALLY.lock:
            TALLY.half_read += len(problems)
            TALLY.lost += len((self._told | self._kept.keys()) - now.keys())
            TALLY.lost += sum(self._kept[name] != now.get(name, b"") for name in finished)
            TALLY.doubled += sum(begun[name] != self._begun[name] for name in finished)
        self._kept, self._begun = now, begun
        assert problems == []
        assert self._told <= now.keys()
        assert len(records) == len(now)

    def survivors(self) -> list[int]:
        """Processes of this range that live on, after a moment to die in; they are ended here."""
        deadline_s = time.monotonic() + 10
        while (left := self._marked()) and time.monotonic() < deadline_s:
            for process in left.values():
                os.close(process)
        for process in left.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            os.close(process)
        return list(left)

    def _marked(self) -> dict[int, int]:
        """Descriptors of this range's processes by id; the caller closes them."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                process = os.pidfd_open(int(path.parent.name))
                found[int(path.parent.name)] = process
                try:
                    is_ours = self._mark.encode() in path.read_bytes().split(b"\0")
                except OSError:  # it has ended meanwhile
                    is_ours = False
                if not is_ours:
                    os.close(found.pop(int(path.parent.name)))
        return found

    def complete(self, kinds: list[str]) -> None:
        """Run to the end and hold what was promised; count it."""
        before = (TALLY.lost, TALLY.doubled, TALLY.half_read)
        with TALLY.lock:
            TALLY.tried.update(kinds)
        status, stderr = self.end(self.start())
        left = self.survivors()
        assert len(list(Path("/proc/self/fd").iterdir())) < 200, "the suite itself leaks descriptors"
        TALLY.processes_left += len(left)
        assert (status, left) == (0, []), stderr
        assert (TALLY.lost, TALLY.doubled, TALLY.half_read) == before == (0, 0, 0)
        records = Store(self.directory).read_records()[0]
        assert len({record.name for record in records}) == len(records) == RUNS
        assert {record.outcome for record in records} == {"ok"}
        assert not list(self.directory.rglob(".*.tmp"))
        assert len(list((self.directory / "samples").iterdir())) == RUNS
        assert {name for name in self._kept if b'"outcome": "ok"' in self._kept[name]} == {one.name for one in records}
        with TALLY.lock:
            TALLY.survived += len(kinds)


@pytest.fixture
def new_range(tmp_path: Path) -> Callable[[str], Range]:
    """``new_range("name")`` -> a fresh directory to shoot at."""
    return lambda name: Range(tmp_path / name)


@pytest.fixture(scope="session")
def life_s(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Return how long an undisturbed run of the whole quick grid takes here."""
    start_s = time.monotonic()
    target = Range(tmp_path_factory.mktemp("life") / "one")
    assert target.end(target.start())[0] == 0
    return time.monotonic() - start_s
