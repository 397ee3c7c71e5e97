"""The Pareto front in two and in three figures."""

from __future__ import annotations

from fake_runs import MIB, epoch_metrics, setting, step_metrics
from hypothesis import given
from hypothesis import strategies as st

from slr_bench.report.charts.model import ARMS, PALETTE, light
from slr_bench.report.formats.documents import render_html
from slr_bench.report.run_report.content import read_content
from slr_bench.report.run_report.pareto import COLOURED, Point, dominates
from slr_bench.report.run_report.write import memory_against_time

figures = st.tuples(st.integers(1, 6), st.integers(1, 6), st.none() | st.integers(1, 4))


def point(memory, time_s, accuracy):
    return Point(None, memory, time_s, accuracy)


@given(st.lists(figures, min_size=1, max_size=20))
def test_front_is_never_empty_and_its_points_do_not_dominate_each_other(found):
    points = [point(*one) for one in found]
    front = [one for one in points if not any(dominates(other, one) for other in points)]
    assert front
    for one in front:
        for other in front:
            is_as_good = one.memory_bytes <= other.memory_bytes and one.time_s <= other.time_s
            if other.accuracy is not None:
                is_as_good = is_as_good and one.accuracy is not None and one.accuracy >= other.accuracy
            as_values = [(each.memory_bytes, each.time_s) for each in (one, other)]
            assert not is_as_good or as_values[0] == as_values[1]


def test_better_accuracy_keeps_a_cell_from_being_dominated():
    slow, quick = point(100, 2, 0.9), point(90, 1, 0.8)
    assert not dominates(quick, slow)
    assert dominates(quick, point(100, 2, 0.8))
    assert dominates(point(100, 2, 0.95), slow)
    assert not dominates(slow, slow)


def test_cell_without_accuracy_dominates_no_cell_with_one():
    assert not dominates(point(90, 1, None), point(100, 2, 0.1))
    assert dominates(point(90, 1, 0.1), point(100, 2, None))
    assert dominates(point(90, 1, None), point(100, 2, None))
    assert not dominates(point(90, 3, 0.9), point(100, 2, None))


def pareto_section(content):
    return next(section for section in content.report.sections if section.key == "front")


def test_front_text_states_how_many_accuracies_are_known(new_run):
    rows = {"baseline": (100, 1.0, 0.8), "optimized": (50, 2.0, 0.7), "untrained": (40, 0.5, None)}
    section = pareto_section(cells(new_run(), rows))
    assert section.paragraphs[0].startswith("3 of 3 cells are not dominated in memory, time and accuracy")
    assert (
        "The accuracy of 2 cells is known. The others are judged by memory and time alone, and dominate no"
        in " ".join(section.paragraphs)
    )
    shown = {(dot.name, dot.accuracy) for dot in section.charts[0].dots}
    assert shown == {("baseline", "80.0 %"), ("optimized", "70.0 %"), ("untrained", "")}


def test_dominated_own_setting_is_hollow_in_the_colour_of_its_arm(new_run):
    rows = {"baseline": (100, 1.0, 0.8), "optimized": (120, 2.0, 0.7), "third": (130, 2.0, 0.6)}
    content = cells(new_run(), rows)
    page = render_html(content.report)
    assert 'class="dot arm-0 own"' in page
    assert 'class="dot arm-1 own dominated"' in page
    assert 'class="dot arm-2 own dominated"' in page
    assert "an arm's own setting that is dominated" in page
    svg = memory_against_time(content).svg
    assert f"fill: none; stroke: {light('arm-1')}" in svg


def test_arm_colours_differ_from_the_grey_of_dominated_cells():
    """All but the last, which stands for those without a colour of their own."""
    for theme in (0, 1):
        for name in ARMS[:COLOURED]:
            channels = [int(PALETTE[name][theme][place : place + 2], 16) for place in (1, 3, 5)]
            assert max(channels) - min(channels) > 90, name


def cells(run, rows):
    for arm, (memory, time_s, accuracy) in rows.items():
        run.record(run.cell(arm, repeats=1), 0, step_metrics(memory * MIB, time_s))
        if accuracy is not None:
            run.record(run.cell(arm, "train_epochs", repeats=1), 0, epoch_metrics(accuracy, 60.0))
    return read_content(run.write())


def test_report_marks_dominated_cells_and_lists_the_front(new_run):
    rows = {"baseline": (100, 1.0, 0.8), "optimized": (50, 2.0, 0.7), "worse": (120, 1.5, 0.7), "kept": (120, 1.5, 0.9)}
    content = cells(new_run(), rows)
    assert {one.cell.entry.arm for one in content.tradeoff.points if one.is_dominated} == {"worse"}
    section = next(section for section in content.report.sections if section.key == "front")
    assert section.paragraphs[0].startswith("3 of 4 cells are not dominated in memory, time and accuracy")
    assert [row.cells[0].text for row in section.tables[0].rows] == ["baseline", "kept", "optimized"]
    [chart] = section.charts
    assert [dot.is_dominated for dot in chart.dots if dot.text.startswith("worse")] == [True]
    # The line joins the least memory at each time: `kept` stays for its accuracy alone and is not on it.
    assert len(chart.front) == 2


def test_accuracy_comes_from_the_training_with_the_same_arm_and_axes(new_run):
    run = new_run()
    for seed, accuracy in enumerate((0.5, 0.6)):
        axes = {"training.seed": seed}
        run.record(run.cell("baseline", own=not seed, coordinates=axes), 0, step_metrics((9 - seed) * MIB, 1.0 + seed))
        run.record(
            run.cell("baseline", "train_epochs", own=not seed, coordinates=axes), 0, epoch_metrics(accuracy, 9.0)
        )
    run.record(run.cell("baseline", own=False, coordinates={"training.seed": 7}), 0, step_metrics(MIB, 9.0))
    assert [one.accuracy for one in read_content(run.write()).tradeoff.points] == [0.5, 0.6, None]


def test_time_is_per_clip_if_effective_batches_differ(new_run):
    run = new_run()
    for arm, batch in (("baseline", 16), ("optimized", 8)):
        run.record(run.cell(arm, setting=setting(batch, 1, "fp32")), 0, step_metrics(MIB, 1.0))
    content = read_content(run.write())
    assert content.tradeoff.unit == "clip"
    assert [one.time_s for one in content.tradeoff.points] == [1 / 16, 1 / 8]


def test_single_cell_has_no_front(new_run):
    run = new_run()
    run.record(run.cell("baseline"), 0, step_metrics(MIB, 1.0))
    assert "front" not in [section.key for section in read_content(run.write()).report.sections]
