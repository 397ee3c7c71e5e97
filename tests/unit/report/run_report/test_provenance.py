"""Predicted against measured: ratios of simple figures."""

from __future__ import annotations

from fake_runs import MIB, step_metrics

from slr_bench.record import Metric
from slr_bench.report.run_report.content import read_content


def exact(value):
    return Metric(value=value, unit="bytes", source="cpu-real", quality="exact")


def section(run):
    found = [one for one in read_content(run.write()).report.sections if one.key == "predicted"]
    return found[0] if found else None


def test_one_row_per_pair_of_metrics_that_some_cell_has(new_run):
    run = new_run()
    for arm, floor, allocator in (("baseline", 50, 110), ("optimized", 80, 150), ("third", 100, None)):
        more = {"floor_bytes": exact(floor * MIB)}
        more |= {"peak_cpu_allocator_bytes": exact(allocator * MIB)} if allocator else {}
        run.record(run.cell(arm), 0, step_metrics(100 * MIB, 1.0) | more)
    [table] = section(run).tables
    assert [[cell.text for cell in row.cells][:6] for row in table.rows] == [
        ["Operator floor", "Tensor memory", "3", "1.250×", "1.000 – 2.000", "baseline (own setting)"],
        ["Tensor memory", "CPU allocator", "2", "1.300×", "1.100 – 1.500", "optimized (own setting)"],
    ]


def test_without_a_pair_there_is_no_section(new_run):
    run = new_run()
    run.record(run.cell("baseline"), 0, step_metrics(MIB, 1.0))
    assert section(run) is None
