"""Stored runs: a table of 1,000 records, and the report of 200 cells with timelines."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_runs import FakeRun, fill_large

from slr_bench.compare.notebook import tabulate
from slr_bench.record import Outcome
from slr_bench.report.formats.documents import render_html
from slr_bench.report.run_report.content import read_content
from slr_bench.report.run_report.write import write_reports
from slr_bench.run.store import Store

COUNT = 1000
SOURCE = Path(__file__).resolve().parents[1] / "reports" / "ablation_cpu_2026-11-28"


@pytest.fixture
def many_records(tmp_path: Path) -> Store:
    """A directory of `COUNT` records, each of a real run."""
    store = Store(tmp_path)
    records, _ = Store(SOURCE).read_records()
    store.records_directory.mkdir()
    for number in range(COUNT):
        record = records[number % len(records)].model_copy(update={"repeat": number})
        path = store.records_directory / f"{record.name}.json"
        path.write_text(record.model_dump_json(by_alias=True, indent=1))
    return store


def test_thousand_records(benchmark: Any, many_records: Store) -> None:
    """Read and validate all, keep the finished ones of one workload, make a table of them all."""

    def work() -> tuple[int, int]:
        records, _ = many_records.read_records()
        kept = [record for record in records if record.outcome is Outcome.OK and record.workload == "train_step"]
        return len(kept), len(tabulate(records))

    kept, rows = benchmark.pedantic(work, rounds=5, warmup_rounds=1)
    assert rows == COUNT
    assert 0 < kept < COUNT
    print(f"\n{COUNT} records read, filtered, tabulated in {benchmark.stats.stats.median:.2f} s (median; asked: 2 s)")


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
