"""Run directories for the report's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_runs import FakeRun, fill_usual

from slr_bench.report.run_report.write import write_reports


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[[], FakeRun]:
    """A maker of empty runs in ``tmp_path/run``."""
    return lambda: FakeRun(tmp_path / "run")


@pytest.fixture
def usual_run(tmp_path: Path) -> Path:
    """The directory of `fill_usual`."""
    return fill_usual(FakeRun(tmp_path / "run")).write()


@pytest.fixture(scope="session")
def usual_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of `fill_usual` with its report, made once: drawing is the slow part."""
    directory = fill_usual(FakeRun(tmp_path_factory.mktemp("usual") / "run")).write()
    write_reports(directory)
    return directory
