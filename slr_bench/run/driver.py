"""Drives jobs: gives each task its log, device and limits, submits it and waits for its end. Does not import torch."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from slr_bench.errors import ConfigError, DataError, UnsupportedSettingError
from slr_bench.execute.job import NO_CUDA, Ending, Executor, Job, OnMessage, PhaseEntered, Work
from slr_bench.execute.local import LocalExecutor
from slr_bench.grid.cells import Cell

_HAS_CUDA: Final = "import sys, torch; sys.exit(9 * (not torch.cuda.is_available()))"


@dataclass(frozen=True)
class Driver:
    """Runs tasks on one executor, with what all their processes have in common."""

    executor: Executor
    logs: Path
    """Directory for the output of each process."""
    device: str = "auto"
    isolation: Literal["fork", "spawn"] = "fork"
    ram_limit_bytes: int | None = None

    def run(
        self,
        task: Any,
        timeout_s: float,
        name: str = "job",
        *,
        on_message: OnMessage = lambda message: None,
        is_cancelled: Callable[[], bool] | None = None,
        is_monitored: bool = False,
    ) -> Ending:
        """Run a task to its end, at most ``timeout_s``; ``name`` is the stem of its log."""
        job = Job(
            task,
            device=self.device,
            log_path=str(self.log_path(name)),
            timeout_s=timeout_s,
            isolation=self.isolation,
            ram_limit_bytes=self.ram_limit_bytes,
            is_monitored=is_monitored,
        )
        return self.executor.submit(job).wait(on_message, is_cancelled)

    def log_path(self, name: str = "job") -> Path:
        """Return the log of the process that ran under a name."""
        return self.logs / f"{name}.log"

    def log_lines(self, name: str = "job") -> list[str]:
        """Return the lines of a log; none if it cannot be read."""
        try:
            return self.log_path(name).read_text(errors="replace").strip().splitlines()
        except OSError:
            return []


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


def on_phase(progress: Callable[[str], None]) -> OnMessage:
    """Return a receiver of messages that passes the phases to ``progress``."""

    def receive(message: Any) -> None:
        if isinstance(message, PhaseEntered):
            progress(message.phase)

    return receive


def preload_of(tasks: Iterable[type[Any]], cells: Iterable[Cell]) -> list[str]:
    """Return the modules that a fork server imports once: those of the tasks and those that the workloads declare."""
    modules = {task.entry.partition(":")[0] for task in tasks}
    return sorted(modules.union(*(cell.spec.preload for cell in cells)))


def work_of(cell: Cell, *, fake: bool = False, cuda_rules: bool = False) -> Work:
    """Return what the child builds for a cell."""
    return Work(cell.spec.name, cell.settings.model_dump(mode="json"), fake, cuda_rules)


def thread_environment() -> dict[str, str]:
    """Return the thread settings that are fixed when a fork server starts: by default one OpenMP thread per core.

    MKL gets the same number, because torch takes its number of threads from MKL. A user's ``OMP_NUM_THREADS=1`` alone
    would have no effect.
    """
    threads = os.environ.get("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    defaults = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": "1"}
    return {name: os.environ.get(name, value) for name, value in defaults.items()}


def prepare(cells: Iterable[Cell], device: str) -> Mapping[str, Mapping[str, str]]:
    """Check the data of each cell before any process starts; return its facts by cell id.

    Raises:
        ConfigError, DataError: The data of a cell cannot be used.
        UnsupportedSettingError: In addition, the requested device does not exist, so that no data would help.
    """
    try:
        return {cell.cell_id: dict(cell.spec.prepare(cell.settings)) for cell in cells}
    except (ConfigError, DataError):
        # Importing torch takes seconds, so the device is checked only after a failure.
        if device == "cuda" and not has_cuda():
            raise UnsupportedSettingError(NO_CUDA) from None
        raise


def has_cuda() -> bool:
    """Return whether torch sees a GPU. A process of its own imports torch; if that fails the result is true."""
    return subprocess.run([sys.executable, "-c", _HAS_CUDA], capture_output=True, check=False).returncode != 9
