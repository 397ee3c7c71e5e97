"""A run that is interrupted, killed or disturbed: nothing stays behind, nothing finished is lost, it can go on."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE_S = 60

GRID = {"workload": "faulty", "axes": {"fault.mode": ["ok", "held"]}, "repeats": 1, "device": "cpu"}


def ends_in_time(process: int) -> bool:
    """Return whether a process, given by its descriptor, ends in time. It need not be a child of this one."""
    return bool(select.select([process], [], [], PATIENCE_S / 6)[0])


class Held:
    """``slr-bench run`` in a process of its own, stopped in the middle of its second cell."""

    def __init__(self, grid: Path, place: Path) -> None:
        self.out = place / "run"
        self.command = [sys.executable, "-m", "slr_bench", "run", str(grid), "--out", str(self.out)]
        fifo = place / "fifo"
        os.mkfifo(fifo)
        self.runner = subprocess.Popen(
            self.command,
            cwd=place,
            env=os.environ | {"FAULTY_WORKLOAD_FIFO": str(fifo)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        descriptor = os.open(fifo, os.O_RDWR)  # not only for reading: that would wait for a writer
        try:
            assert select.select([descriptor], [], [], PATIENCE_S)[0], "the cell never came to its step"
            self.server, *others = map(int, os.read(descriptor, 100).split())
        finally:
            os.close(descriptor)
        self.server_cell_grandchild = [os.pidfd_open(pid) for pid in (self.server, *others)]

    def left(self, count: int = 3) -> int:
        """Return how many of the first ``count`` of server, cell and the cell's own child do not end by themselves."""
        return sum(not ends_in_time(process) for process in self.server_cell_grandchild[:count])

    def close(self) -> None:
        """End what still runs."""
        self.runner.kill()
        self.runner.communicate()
        for process in self.server_cell_grandchild:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            os.close(process)

    def end(self, number: int) -> tuple[int, str]:
        """Signal the runner; its exit code and what it wrote to stderr."""
        self.runner.send_signal(number)
        _, stderr = self.runner.communicate(timeout=PATIENCE_S)
        return self.runner.returncode, stderr

    def records(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.out / "records").iterdir()}


@pytest.fixture
def held(write_grid, tmp_path):
    with contextlib.closing(Held(write_grid(GRID), tmp_path)) as run:
        yield run


def test_a_killed_runner_leaves_no_process_and_the_same_command_completes_it(held):
    held.end(signal.SIGKILL)
    assert held.left() == 0
    kept = held.records()
    assert [json.loads(text)["outcome"] for text in kept.values()] == ["ok"]
    again = subprocess.run(held.command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert again.returncode == 0, again.stderr
    assert kept.items() < held.records().items()
    assert [json.loads(text)["outcome"] for text in held.records().values()] == ["ok", "ok"]


def test_ctrl_c_ends_everything_in_order(held):
    code, stderr = held.end(signal.SIGINT)
    assert code == 130
    assert stderr == "slr-bench: interrupted; finished runs are kept, and the same command continues from there\n"
    assert held.left() == 0
    assert [json.loads(text)["outcome"] for text in held.records().values()] == ["ok"]


def test_a_held_directory_is_refused_to_others_and_sigterm_ends_like_ctrl_c(held):
    for option in ([], ["--fresh"]):
        other = subprocess.run(held.command + option, capture_output=True, text=True, timeout=PATIENCE_S)
        assert other.returncode == 2
        assert other.stderr.startswith("slr-bench: ")
        assert "is in use by another run" in other.stderr
    code, stderr = held.end(signal.SIGTERM)
    assert code == 130
    assert "Traceback" not in stderr
    assert held.left() == 0


def test_a_killed_server_ends_the_run_with_a_message_and_the_cell_with_it(held):
    os.kill(held.server, signal.SIGKILL)
    _, stderr = held.runner.communicate(timeout=PATIENCE_S)
    assert held.runner.returncode == 7
    assert stderr.startswith("slr-bench: the fork server ended")
    assert "Traceback" not in stderr
    assert held.left(2) == 0
    assert len(held.records()) == 1


def test_ctrl_c_while_torch_is_imported_leaves_nothing(write_grid, tmp_path, marked, survivors):
    mark = f"MARK_OF_A_TEST={tmp_path}"
    command = [sys.executable, "-m", "slr_bench", "run", str(write_grid(GRID)), "--out", str(tmp_path / "run")]
    environment = os.environ | dict([mark.split("=", 1)])
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert "importing torch" in run.stdout.readline()
        run.send_signal(signal.SIGINT)
        _, stderr = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 130
    assert "Traceback" not in stderr
    assert survivors(marked(mark)) == []
