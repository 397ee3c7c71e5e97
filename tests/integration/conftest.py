"""Registers the fault workload for this process and its children, and watches processes end."""

import os
import select
import subprocess
import sys
from importlib import invalidate_caches
from pathlib import Path

import pytest
import yaml

from models.data.synthetic.dataset import render_dataset
from slr_bench.cli import main
from slr_bench.execute import local
from slr_bench.grid.project_file import VARIABLE

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "tests" / "plugins"
PATIENCE_S = 60  # only a failing test waits so long


@pytest.fixture(scope="session", autouse=True)
def plugins():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PLUGINS)
        patch.setenv("PYTHONPATH", str(PLUGINS), prepend=os.pathsep)
        patch.setenv(VARIABLE, str(ROOT))  # tests run in empty directories, below no project file
        invalidate_caches()
        yield


@pytest.fixture
def write_grid(tmp_path):
    """``write_grid({...})`` -> path of a grid file."""

    def write(values: dict | str) -> Path:
        path = tmp_path / "grid.yml"
        path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
        return path

    return write


@pytest.fixture
def slr_bench(tmp_path, monkeypatch, capfd):
    """``slr_bench("run", ...)`` runs the command to its end in an empty directory: its entry point in this process, the
    cells in processes of their own as ever. What it and they wrote is caught at the descriptors.
    """

    def call(*arguments: object) -> subprocess.CompletedProcess:
        capfd.readouterr()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["slr-bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return subprocess.CompletedProcess(sys.argv, end.value.code or 0, *capfd.readouterr())

    return call


@pytest.fixture
def quick_server(monkeypatch, tmp_path):
    """Use the real fork server with cells that do not import torch, for tests of the runner alone."""
    monkeypatch.setattr(local, "SERVER", "quick_server")
    monkeypatch.setenv("QUICK_JOURNAL", str(tmp_path / "journal"))


def _has_ended(pid: int) -> bool:
    """Return whether a process, which need not be a child, ends within a sixth of the patience."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], PATIENCE_S / 6)[0])
    finally:
        os.close(descriptor)


@pytest.fixture(scope="session")
def survivors():
    """``survivors(pids)`` -> the processes that do not end by themselves, which are then killed."""

    def find(pids: list[int]) -> list[int]:
        left = [pid for pid in pids if not _has_ended(pid)]
        for pid in left:
            os.kill(pid, 9)
        return left

    return find


@pytest.fixture(scope="session")
def marked():
    """``marked(text)`` -> processes with this text in their environment."""

    def find(text: str) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                content = path.read_bytes()
            except OSError:  # it has ended, or is another user's
                continue
            if text.encode() in content:
                found.append(int(path.parent.name))
        return found

    return find


TINY = {
    "model.num_classes": 2,
    "model.base_channels": 8,
    "model.num_frames": 4,
    "data.frame_size": 32,
    "data.num_workers": 0,
    "training.batch_size": 2,
    "training.gradient_accumulation_steps": 2,
    "training.epochs": 1,
}


@pytest.fixture(scope="session")
def tiny_setting(tmp_path_factory):
    """The smallest setting of the recogniser, on rendered clips."""
    out = tmp_path_factory.mktemp("signs")
    render_dataset(out, num_classes=2, clips_per_class=6, signers=3, size=32, workers=1)
    return TINY | {"data.dir": str(out)}
