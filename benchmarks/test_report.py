"""The report of 200 cells with timelines: made, and how large."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_runs import FakeRun, fill_large

from slr_bench.report.formats.documents import render_html
from slr_bench.report.run_report.content import read_content
from slr_bench.report.run_report.write import write_reports

CELLS = 200


@pytest.fixture(scope="module")
def large_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`CELLS` cells of three processes each, every one with 400 points by category and 25 modules."""
    return fill_large(FakeRun(tmp_path_factory.mktemp("large") / "run"), CELLS).write()


class Work:
    """Something to do again and again; the least CPU time that it took beside the benchmark's wall time."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self.cpu_s = float("inf")

    def __call__(self) -> Any:
        start_s = time.process_time()
        made = self._make()
        self.cpu_s = min(self.cpu_s, time.process_time() - start_s)
        return made


def test_page_of_200_cells(benchmark: Any, large_run: Path) -> None:
    """Make the text of the page from the run directory."""
    work = Work(lambda: render_html(read_content(large_run).report))
    text = benchmark.pedantic(work, rounds=5, warmup_rounds=1)
    size = len(text.encode())
    assert size <= 1_000_000
    assert text.count('class="area"') >= 0.9 * CELLS
    took = f"{benchmark.stats.stats.median:.2f} s (median; {work.cpu_s:.2f} s of CPU at least; asked: 5 s)"
    print(f"\npage of {CELLS} cells: {size / 1e6:.2f} MB (asked: 1 MB) in {took}")


def test_whole_report_of_200_cells(benchmark: Any, large_run: Path) -> None:
    """Page, Markdown and every picture as SVG and PNG, on disk."""
    work = Work(lambda: write_reports(large_run))
    paths = benchmark.pedantic(work, rounds=5, warmup_rounds=1)
    size = paths.markdown.stat().st_size
    assert size <= 65_000
    took = f"{benchmark.stats.stats.median:.2f} s (median; {work.cpu_s:.2f} s of CPU at least; asked: 5 s)"
    print(f"\nwhole report of {CELLS} cells in {took}; report.md {size / 1e3:.1f} kB")
