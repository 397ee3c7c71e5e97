"""Records as a table."""

from __future__ import annotations

import pandas
from fake_runs import FakeRun, fill_usual

from slr_bench.compare.tabulate import tabulate
from slr_bench.record import Outcome


def test_every_record_is_a_row_that_can_be_filtered(tmp_path):
    run = fill_usual(FakeRun(tmp_path))
    records = [record for record, _ in run.records]
    frame = tabulate(records)
    assert len(frame) == len(records)
    assert list(frame.cell_id) == [record.cell_id for record in records]
    finished = frame[(frame.workload == "train_step") & (frame["setting.training.batch_size"] == 4)]
    assert list(finished.peak_tensor_bytes) == [100 * 1024**2] * len(finished)
    assert len(finished) > 0
    assert set(frame["environment.device"]) == {"cpu"}


def test_unknown_values_stay_unknown(tmp_path):
    run = fill_usual(FakeRun(tmp_path))
    frame = tabulate(record for record, _ in run.records)
    failed = frame[frame.outcome == str(Outcome.OOM_HOST)]
    assert pandas.isna(failed.peak_tensor_bytes).all()
    assert pandas.isna(frame.peak_allocated_bytes).all()
    assert failed.reason.str.contains("oom_kill").all()


def test_no_record_is_an_empty_table():
    assert tabulate([]).empty
