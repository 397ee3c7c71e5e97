"""A project whose tests use the plugin."""

from __future__ import annotations

import pytest
from plugin_project import Project


@pytest.fixture
def project(pytester, monkeypatch):
    """``project.run(*options)`` after ``project.write(test file)``."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    return Project(pytester)
