"""Records which tests exist, to distinguish a benchmark that is gone from one that this run leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

OUTPUT: Final = "slr_bench_collected"
"""Key of the tests that a worker of xdist sends to its controller."""


class Collected:
    """Records the tests that pytest finds, before ``-k``, ``-m`` and ``--deselect`` remove some."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._tests: set[str] = set()
        self._collectors: set[str] = set()
        """Files and classes that were collected without an error."""
        self._is_complete = False

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Record that a test exists, even if it is deselected later."""
        self._tests.add(item.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record a file or class, unless it fails or is skipped: then its tests are unknown."""
        if report.passed:
            self._collectors.add(report.nodeid)

    def pytest_collection_finish(self) -> None:
        """Record that the collection is complete."""
        self._is_complete = True

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Send the tests to the controller, if this is a worker of xdist."""
        if self._is_complete and hasattr(self._config, "workeroutput"):
            self._config.workeroutput[OUTPUT] = [sorted(self._tests), sorted(self._collectors)]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Receive the tests of a worker of xdist; the controller itself collects no tests."""
        sent = getattr(node, "workeroutput", {}).get(OUTPUT)
        if sent is not None:
            self._tests.update(sent[0])
            self._collectors.update(sent[1])
            self._is_complete = True

    def __contains__(self, test: str) -> bool:
        return test in self._tests

    def gone(self, tests: Iterable[str]) -> Iterator[str]:
        """Yield the tests that this run would have collected if they still existed.

        Yields none if ``-k``, ``-m`` or ``--lf`` leave tests out. Yields none from an existing file that was not
        collected because it was ignored or skipped, has an error, or is not named like a test.
        """
        option = self._config.getoption
        if not self._is_complete or any(option(name, None) for name in ("keyword", "markexpr", "lf")):
            return
        requested = [_path_and_names(argument, self._config.invocation_params.dir) for argument in self._config.args]
        deselected = tuple(option("deselect", None) or ())
        for test in tests:
            file, *names = _parts(test)
            path = self._config.rootpath / file
            is_requested = any(_covers(path, names, *argument) for argument in requested)
            was_collected = file in self._collectors or not path.exists()
            if test not in self._tests and is_requested and was_collected and not test.startswith(deselected):
                yield test


def _parts(test: str) -> list[str]:
    """Return the file, the classes and the function of a test. A parameter may contain ``::``."""
    name, bracket, parameter = test.partition("[")
    *outer, last = name.split("::")
    return [*outer, last + bracket + parameter]


def _path_and_names(argument: str, directory: Path) -> tuple[Path, list[str]]:
    path, *names = _parts(argument)
    return (directory / path).resolve(), names


def _covers(path: Path, names: list[str], requested: Path, requested_names: list[str]) -> bool:
    """Return whether an argument of pytest (a directory, file, class or test) includes a test."""
    if not requested_names:
        return requested in (path.resolve(), *path.resolve().parents)
    *outer, last = requested_names
    depth = len(outer)
    same = path.resolve() == requested and names[:depth] == outer and len(names) > depth
    return same and last in (names[depth], names[depth].partition("[")[0])
