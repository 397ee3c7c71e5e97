"""Keeps tests apart: what a command notes for its child processes ends with the test."""

import os

import pytest

from slr_bench.grid.project_file import VARIABLE


@pytest.fixture(autouse=True)
def own_projects():
    """Restore the projects and the import path that a command in this process passes on to its children."""
    before = {name: os.environ.get(name) for name in (VARIABLE, "PYTHONPATH")}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
