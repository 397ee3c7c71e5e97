"""Run directories to compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_runs import FakeRun
from side_runs import side_run


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., FakeRun]:
    """``new_run("base", torch="2.15")`` -> an empty run whose environment differs from the usual as named."""
    return lambda name, **environment: side_run(tmp_path / name, **environment)
