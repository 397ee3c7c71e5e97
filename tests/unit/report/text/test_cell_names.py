"""Names of cells distinguish each cell and leave out what all cells share."""

from __future__ import annotations

import itertools
import re
from types import SimpleNamespace

from fake_runs import FakeRun, fill_usual, step_metrics

from slr_bench.report.formats import html
from slr_bench.report.run_report.content import read_content
from slr_bench.report.text.cell_names import distinguishing_labels

NUMBERS = itertools.count()


def cell(arm, workload="train_step", own=False, **axes):
    coordinates = {f"training.{key}": value for key, value in axes.items()}
    entry = SimpleNamespace(
        cell_id=f"c{next(NUMBERS)}", arm=arm, workload=workload, is_own=own, coordinates=coordinates
    )
    return SimpleNamespace(entry=entry, side="a")


def test_an_axis_that_changes_with_another_or_not_at_all_is_left_out():
    linked = [(2, 8), (16, 1)]
    cells = [
        cell(arm, batch_size=batch, gradient_accumulation_steps=steps, precision=precision, optimizer="adamw")
        for arm in ("baseline", "optimized")
        for batch, steps in linked
        for precision in ("fp32", "bf16")
    ]
    names = list(distinguishing_labels(cells).values())
    assert names[:2] == ["baseline · batch_size 2, precision fp32", "baseline · batch_size 2, precision bf16"]
    assert len(set(names)) == 8
    cells.append(cell("optimized", batch_size=16, gradient_accumulation_steps=8, precision="fp32", optimizer="adamw"))
    names = list(distinguishing_labels(cells).values())
    assert names[-1] == "optimized · batch_size 16, gradient_accumulation_steps 8, precision fp32"
    assert len(set(names)) == 9


def test_names_have_the_workload_if_there_are_several():
    cells = [cell("baseline", workload, own=True) for workload in ("train_step", "inference")]
    assert list(distinguishing_labels(cells).values()) == [
        "train_step baseline · own setting",
        "inference baseline · own setting",
    ]
    assert list(distinguishing_labels(cells[:1]).values()) == ["baseline · own setting"]


def test_every_cell_on_the_page_has_a_unique_name(tmp_path):
    run = fill_usual(FakeRun(tmp_path / "run"))
    for arm in ("baseline", "optimized"):
        run.record(run.cell(arm, "inference"), 0, step_metrics(1000, 1.0))
    page = html.render(read_content(run.write()).report)
    names = re.findall(r"<summary>(.*?): <b>", page)
    assert len(names) == 10
    assert len(set(names)) == 10
