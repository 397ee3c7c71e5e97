"""Panels of cells: paths hold the bytes, tiles fill the square, and the detail fits the page."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from fake_runs import MIB, FakeRun, fill_large, samples, step_metrics, traced_by_category
from hypothesis import given
from hypothesis import strategies as st

from slr_bench.record import Outcome
from slr_bench.report.charts.memory import Timeline, at_equal_distances, short_names, squarified, stacked_area, tiles
from slr_bench.report.formats.documents import HEIGHT, area_path, render_html, strip_path
from slr_bench.report.run_report import cell_panels as panel
from slr_bench.report.run_report.cell_panels import parse_samples, traced_timeline
from slr_bench.report.run_report.content import read_content


def heights(path):
    """Return the height above the ground at each unit of x, as a browser paints it."""
    y, found = HEIGHT, []
    for kind, number in re.findall(r"([hv])(-?\d+)", path):
        if kind == "v":
            y += int(number)
        else:
            found += [HEIGHT - y] * int(number)
    assert path.startswith(f"M0 {HEIGHT}v")
    assert path.endswith(f"V{HEIGHT}z")
    return found


@given(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900)), min_size=1, max_size=40))
def test_area_paths_hold_the_bytes_to_half_a_unit(pairs):
    low, high = zip(*pairs, strict=True)
    whole = tuple(one + other for one, other in pairs)
    line = Timeline(tuple(range(len(pairs))), whole, ("forward",) * len(pairs), {"parameter": low, "temporary": high})
    drawn = stacked_area(line, "x", ("0", "1"), None, "arm-1")
    top = max(*whole, 1) * 1.14
    upper, lower = (heights(area_path(layer.edge)) for layer in drawn.layers)
    assert [layer.name for layer in drawn.layers] == ["temporary", "parameter"]
    assert upper == pytest.approx([HEIGHT * value / top for value in whole], abs=0.5)
    assert lower == pytest.approx([HEIGHT * value / top for value in low], abs=0.5)


def test_peak_and_floor_are_marked_at_their_heights():
    line = traced_timeline(parse_samples(samples(100 * MIB)))
    drawn = stacked_area(line, "x", ("0", "1"), 80 * MIB, "arm-1")
    assert [(level.text, level.position) for level in drawn.levels] == [
        ("peak 100.0 MiB", pytest.approx(1 / 1.14)),
        ("floor 80.0 MiB", pytest.approx(0.8 / 1.14)),
    ]
    assert drawn.peak_x == pytest.approx(40.5 / len(line.x))
    assert [phase.name for phase in drawn.phases] == ["forward", "backward", "optimizer"]
    assert [strip_path(phase.spans) for phase in drawn.phases] == ["M0 514h41", "M41 514h25", "M66 514h6"]


@given(st.lists(st.floats(1, 1e5), min_size=1, max_size=30))
def test_boxes_have_the_given_areas_and_fill_the_square_without_overlap(sizes):
    sizes.sort(reverse=True)
    boxes = squarified(sizes)
    total = sum(sizes)
    for size, box in zip(sizes, boxes, strict=True):
        assert box.width * box.height == pytest.approx(size / total, rel=1e-3, abs=1e-9)
        assert -1e-6 <= box.left <= box.left + box.width <= 1 + 1e-6
        assert -1e-6 <= box.top <= box.top + box.height <= 1 + 1e-6
    for place, one in enumerate(boxes):
        for other in boxes[place + 1 :]:
            across = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
            down = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
            assert max(0, across) * max(0, down) < 1e-6


def test_box_without_size_is_refused():
    with pytest.raises(ValueError, match="above 0, got 0"):
        squarified([1, 0])


def test_tiles_add_up_and_small_modules_share_one_tile():
    modules = {"a": {"parameter": 600}, "b": {"temporary": 200, "gradient": 190}, "c": {"input": 2}, "d": {"input": 1}}
    found = tiles(modules, 9)
    assert [(tile.name, tile.text) for tile in found] == [("a", "600 B"), ("b", "390 B"), ("2 more modules", "3 B")]
    assert [(cut.start, cut.end) for cut in found[1].slices] == [
        (0, pytest.approx(20 / 39)),
        (pytest.approx(20 / 39), 1),
    ]
    assert sum(tile.box.width * tile.box.height for tile in found) == pytest.approx(1)
    assert tiles({}, 9) == ()
    assert [tile.name for tile in tiles(modules, 2)] == ["a", "3 more modules"]


def test_label_is_the_end_of_a_path_without_the_common_beginning():
    names = ("model.backbone.layer4.0.conv2", "model.backbone.layer4.0.downsample.0", "model.classifier", "AdamW")
    assert list(short_names(names).values()) == ["layer4.0.conv2", "layer4.0.downsample.0", "classifier", "AdamW"]
    assert short_names(["model.head"]) == {"model.head": "model.head"}
    assert list(short_names(["a.b", "a.b.c", "(outside modules)"]).values()) == ["b", "b.c", "(outside modules)"]
    assert short_names(["a.1.5.b", ".", "..2"]).keys() == {"a.1.5.b", ".", "..2"}


def test_modules_of_a_run_add_up_to_its_peak():
    traced = traced_by_category(100 * MIB)
    assert sum(sum(parts.values()) for parts in traced["by_module"].values()) == 100 * MIB
    assert max(traced["live_bytes"]) == 100 * MIB


def panels_of(run):
    sections = read_content(run.write()).report.sections
    return next(section.charts[0].panels for section in sections if section.key == "cells")


def test_panel_has_peak_facts_categories_and_modules(new_run):
    run = new_run()
    series = samples(MIB) | {"traced": traced_by_category(800 * MIB)}
    run.record(run.cell("baseline"), 0, step_metrics(800 * MIB, 1.0), series=series)
    [one] = panels_of(run)
    assert (one.name, one.summary, one.is_peak, one.is_open) == ("baseline · own setting", "800.0 MiB", True, True)
    assert ("step", "1.00 s") in one.facts
    assert [(part.name, part.text) for part in one.parts] == [
        ("saved activation", "480.0 MiB"), ("temporary", "120.0 MiB"),
        ("parameter", "100.0 MiB"), ("optimizer state", "100.0 MiB"),
    ]  # fmt: skip
    assert one.tiles[0].name == "AdamW"
    assert one.ram is not None


def test_cell_out_of_memory_has_a_panel_with_the_reason(new_run):
    run = new_run()
    run.record(run.cell("baseline"), 0, outcome=Outcome.OOM_GPU, reason="tried to allocate 9 GiB")
    [one] = panels_of(run)
    assert (one.summary, one.is_peak, one.reason, one.step) == (
        "out of GPU memory", False, "tried to allocate 9 GiB", None,
    )  # fmt: skip


def test_panel_of_a_cell_without_samples_explains_that(new_run):
    run = new_run()
    run.record(run.cell("baseline"), 0, step_metrics(MIB, 1.0))
    [one] = panels_of(run)
    assert one.reason == "The series over the step is missing or not readable (samples/)."


def test_arms_with_the_same_setting_share_a_panel(new_run):
    run = new_run()
    cell = run.cell("baseline")
    run.record(cell, 0, step_metrics(MIB, 1.0))
    run.entries.append(run.entries[0].model_copy(update={"arm": "twin"}))
    [one] = panels_of(run)
    assert one.name == "baseline = twin · own setting"


def test_many_cells_are_drawn_coarsely_and_keep_their_peaks(tmp_path, monkeypatch):
    run = fill_large(FakeRun(tmp_path / "run"), cells=20, repeats=1)
    fine = panels_of(run)
    monkeypatch.setattr(panel, "PAGE", 60_000)
    coarse = panels_of(SimpleNamespace(write=lambda: run.directory))
    assert fine[0].step.count > 2 * coarse[0].step.count
    assert len(fine[0].tiles) >= len(coarse[0].tiles)
    assert [one.summary for one in fine] == [one.summary for one in coarse]
    assert max(heights(area_path(coarse[0].step.layers[0].edge))) == round(HEIGHT / 1.14)


def test_every_link_to_a_cell_has_its_target_on_the_page(tmp_path):
    run = fill_large(FakeRun(tmp_path / "run"), cells=30, repeats=1)
    run.cell("never run")
    text = render_html(read_content(run.write()).report)
    ids = set(re.findall(r'\bid="([^"]+)"', text))
    linked = re.findall(r'href="#([^"]+)"', text)
    assert len([link for link in linked if link.startswith("cell-")]) > 60
    assert set(linked) <= ids


def test_ram_of_the_page_is_as_wide_as_the_time_it_lasted(new_run):
    run = new_run()
    series = samples(MIB) | {"times_s": [0.0, 1.0, 10.0], "rows": [[100.0], [400.0], [200.0]], "phases": []}
    run.record(run.cell("baseline"), 0, step_metrics(800 * MIB, 1.0), series=series | {"columns": ["rss_bytes"]})
    [one] = panels_of(run)
    assert one.ram is not None
    heights = [round(height * one.ram.top_bytes) for height in one.ram.layers[0].edge]
    assert [heights.count(value) / len(heights) for value in (100, 400, 200)] == pytest.approx([0.1, 0.9, 0], abs=0.01)
    assert [tick.text for tick in one.ram.x_ticks] == ["0.0 s", "10.0 s"]


def test_points_at_equal_distances_keep_the_largest_value_and_continue_the_last_one():
    line = Timeline((0.0, 1.0, 1.5, 10.0), (1.0, 9.0, 4.0, 2.0), ("", "a", "b", "c"))
    even = at_equal_distances(line, 5)
    assert even.x == (0.0, 2.5, 5.0, 7.5, 10.0)
    assert even.y_bytes == (9.0, 4.0, 4.0, 4.0, 2.0)
    assert even.phase == ("a", "b", "b", "b", "c")
    still = Timeline((3.0, 3.0), (1.0, 2.0), ("", ""))
    assert at_equal_distances(still, 5) == still
