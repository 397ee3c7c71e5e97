"""1,000 stored records: read, filtered, tabulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slr_bench.compare.notebook import tabulate
from slr_bench.record import Outcome
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
