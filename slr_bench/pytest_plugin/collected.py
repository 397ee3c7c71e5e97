"""Which tests there are, apart from which of them were asked for: a benchmark that is gone, or was only left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

OUTPUT: Final = "slr_bench_collected"
"""Key of what one of xdist's processes sends home."""


class Collected:
    """Takes down what pytest finds, before ``-k``, ``-m`` and ``--deselect`` choose among it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._tests: set[str] = set()
        self._collectors: set[str] = set()
        """Files and classes that were read to the end."""
        self._is_whole = False

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """A test exists, chosen or not."""
        self._tests.add(item.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that fails or skips as a whole tells nothing of its tests."""
        if report.passed:
            self._collectors.add(report.nodeid)

    def pytest_collection_finish(self) -> None:
        """Everything that was asked for has been read."""
        self._is_whole = True

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """In one of xdist's processes: send it home."""
        if self._is_whole and hasattr(self._config, "workeroutput"):
            self._config.workeroutput[OUTPUT] = [sorted(self._tests), sorted(self._collectors)]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what one of xdist's processes found: the one above them collects nothing."""
        found = getattr(node, "workeroutput", {}).get(OUTPUT)
        if found is not None:
            self._tests.update(found[0])
            self._collectors.update(found[1])
            self._is_whole = True

    def __contains__(self, test: str) -> bool:
        return test in self._tests

    def gone(self, tests: Iterable[str]) -> Iterator[str]:
        """Those of the tests that this run would have found if they still existed.

        Nothing is said of a run that leaves tests out by ``-k``, ``-m`` or ``--lf``, nor of a file that is there and
        was not read (ignored, skipped, with an error, or not named like a test).
        """
        option = self._config.getoption
        if not self._is_whole or any(option(name, None) for name in ("keyword", "markexpr", "lf")):
            return
        asked = [_place(argument, self._config.invocation_params.dir) for argument in self._config.args]
        deselected = tuple(option("deselect", None) or ())
        for test in tests:
            file, *names = _parts(test)
            path = self._config.rootpath / file
            is_asked = any(_covers(path, names, *place) for place in asked)
            was_read = file in self._collectors or not path.exists()
            if test not in self._tests and is_asked and was_read and not test.startswith(deselected):
                yield test


def _parts(test: str) -> list[str]:
    """File, classes and function; a parameter may hold ``::`` itself."""
    name, bracket, parameter = test.partition("[")
    *outer, last = name.split("::")
    return [*outer, last + bracket + parameter]


def _place(argument: str, directory: Path) -> tuple[Path, list[str]]:
    path, *names = _parts(argument)
    return (directory / path).resolve(), names


def _covers(path: Path, names: list[str], asked: Path, asked_names: list[str]) -> bool:
    """Whether to ask for a directory, a file, a class or a test asks for this one, too."""
    if not asked_names:
        return asked in (path.resolve(), *path.resolve().parents)
    *outer, last = asked_names
    place = len(outer)
    same = path.resolve() == asked and names[:place] == outer and len(names) > place
    return same and last in (names[place], names[place].partition("[")[0])
