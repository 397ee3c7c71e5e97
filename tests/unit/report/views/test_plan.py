"""A plan as text, as a file that the other commands read, and as a picture."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from step_profiles import step_profile

from slr_bench.cli.base import write_output
from slr_bench.errors import ConfigError
from slr_bench.grid.cells import own_cell
from slr_bench.grid.config import GridConfig, load_grid
from slr_bench.predict.device import find_device
from slr_bench.predict.peak import predict_step
from slr_bench.predict.plan.choices import at_size
from slr_bench.predict.plan.result import Budget, Choice, Evaluated, Plan, Point, Rejected
from slr_bench.report.views.plan import plan_picture, print_plan, setting_file
from slr_bench.trace.requests import ALLOCATE, FREE, STEADY
from slr_bench.units import GIB, MIB

TOTAL = 4 * GIB
BUDGET = Budget(TOTAL, 0.05, None)


def step(size_mib: int, cached_mib: int = 0):
    cached = [[ALLOCATE, 1, cached_mib * MIB], [FREE, 1, 0]] if cached_mib else []
    return step_profile(
        *cached,
        [STEADY, 0, 0],
        [ALLOCATE, 0, size_mib * MIB],
        peak_tensor_bytes=size_mib * MIB,
        floor_bytes=MIB,
        by_category={"saved activation": size_mib * MIB},
    )


def example_plan(workload: str = "train_step", chosen: int = 0) -> Plan:
    """Three sizes: 1 GiB at 3 s fits; 2 GiB at 2 s does where the 1.8 GiB of the first step are given back; 5 GiB at
    1 s does not. A fourth is refused.
    """
    own = own_cell(GridConfig(workload=workload, arms={"a": {}}), {"training.batch_size": 8})
    card = find_device("4GiB").__class__(
        **{**vars(find_device("rtx4090")), "capacity_bytes": BUDGET.bytes, "title": "a card"}
    )
    points = [Point(0, 1), Point(0, 2), Point(0, 4)]
    steps = [step(1024), step(2048, 1800), step(5 * 1024)]
    found = {
        point: Evaluated(one.nvml.high, 3.0 - place, one)
        for place, (point, one) in enumerate(zip(points, [predict_step(one, card) for one in steps], strict=True))
    }
    sides = {point: at_size(own, point.size) for point in [*points, Point(0, 8)]}
    cells = {
        point: own_cell(GridConfig(workload=workload, arms={"a": {}}), dict(side)) for point, side in sides.items()
    }
    rejected = [
        Rejected(point, "a reason that takes some words", 0)
        for point in [*points, Point(0, 8)]
        if point != points[chosen]
    ]
    return Plan(Choice(points[chosen], found, rejected), BUDGET, card, cells, sides, [], card.rates, {})


def text(one: Plan, width: int = 80) -> str:
    out = io.StringIO()
    print_plan(one, Console(file=out, width=width))
    return out.getvalue()


def test_the_plan_shows_one_value_for_the_memory_of_the_choice():
    one = example_plan(chosen=1)
    need = one.choice.evaluated[one.choice.chosen]
    assert (need.is_tight, need.need_bytes) == (True, need.prediction.nvml.high)
    assert need.need_bytes <= BUDGET.bytes
    said = text(one, 200)
    assert f"at most {need.need_bytes / GIB:.2f} GiB, about 2 s per step (data sheet of an RTX 4090)" in said
    assert f"to {need.need_bytes / GIB:.2f} GiB)" in said
    assert "releases cached memory 1× per step" in said
    assert "releases cached memory" not in text(example_plan(), 200)


def test_in_80_columns_every_point_of_the_front_has_its_memory_time_and_verdict():
    lines = text(example_plan()).splitlines()
    front = lines[next(place for place, line in enumerate(lines) if "Settings that no other beats" in line) :]
    for figures in (
        ("5.44 GiB", "1.00 s", "0.33×", "too large"),
        ("2.00 s", "0.67×", "tight"),
        ("3.00 s", "1.00×", "fits"),
    ):
        assert any(all(figure in line for figure in figures) for line in front), figures
    assert max(map(len, lines)) <= 80


def test_the_nearest_rejected_settings_come_first_including_refused_ones():
    assert [one.point.size for one in example_plan().rejected] == [2, 4, 8]
    assert [one.point.size for one in example_plan(chosen=2).rejected] == [8, 2, 1]


@pytest.mark.parametrize("workload", ["train_step", "inference"])
def test_the_written_file_reads_back_as_the_chosen_cell(workload, tmp_path):
    one = example_plan(workload)
    path = tmp_path / "chosen.yml"
    path.write_text(setting_file(one))
    again = own_cell(load_grid(path), {})
    assert (again.spec.name, again.cell_id) == (workload, one.cells[one.choice.chosen].cell_id)
    assert "# Predicted, not measured." in path.read_text()


def test_a_path_that_cannot_be_written_is_reported(tmp_path):
    for content in (setting_file(example_plan()), plan_picture(example_plan()).png):
        with pytest.raises(ConfigError, match="cannot write"):
            write_output(Path("/proc") / "plan.svg", content)


def test_the_picture_distinguishes_settings_that_fit_are_tight_or_too_large(tmp_path):
    drawn = plan_picture(example_plan()).svg
    for word in ("fits", "fits tightly", "too large", "chosen", "budget 3.80 GiB"):
        assert f"<!-- {word} -->" in drawn or f">{word}<" in drawn, word
