"""A comparison in the terminal and as Markdown."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from side_runs import HOSTILE, failed, filled, in_turn, side_run, with_sides

from slr_bench.compare.comparison import compare_runs, compare_sides
from slr_bench.report.views.compare import cell_name, change_text, comparison_markdown, print_comparison

STEADY = [1.0, 1.1, 0.9, 1.05, 1.0, 0.95, 1.02, 1.0]


def terminal_text(comparison, width=100, **options) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_comparison(comparison, console, **options)
    return console.file.getvalue()


def lines_of(text: str, *words: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if all(word in line for word in words)]


@pytest.fixture
def sides(tmp_path):
    """Side b of eight pairs: half a percent more bytes, times the same on the whole; three pairs of another cell."""
    run = side_run(tmp_path / "run")
    with_sides(run, STEADY, STEADY[::-1], (1000, 1005))
    with_sides(run, STEADY[:3], STEADY[:3], arm="few")
    return compare_sides(run.write(), name="run")


def test_verdicts_are_worse_equal_similar_and_too_few(sides):
    text = terminal_text(sides)
    assert "run, side a → run, side b" in text
    assert "Tensor memory 1000 B 1005 B +0.50 % worse" in lines_of(text, "Tensor memory", "1005 B")
    assert "Tensor memory 1000 B 1000 B +0.00 % equal" in lines_of(text, "Tensor memory", "equal")
    like, few = lines_of(text, "Step time", "s ")[1:]
    assert like.endswith("] ~")
    assert few.endswith("n too small 1)")
    assert "1) 3 pairs: min-max, no verdict below 8" in text


def test_rows_without_a_difference_are_hidden_without_the_option(sides):
    assert "Parameters 701,234" not in " ".join(terminal_text(sides).split())
    assert "further rows do not differ: --all" in " ".join(terminal_text(sides).split())
    assert "Parameters 701,234" in " ".join(terminal_text(sides, show_all=True).split())


def test_values_that_do_not_compare_are_shown_with_the_reason(tmp_path):
    base = filled(side_run(tmp_path / "base"), 1000, times=[1.0]).write()
    head = filled(side_run(tmp_path / "head", torch="2.15"), 900, times=[2.0]).write()
    comparison = compare_runs(base, head)
    for text in (terminal_text(comparison), comparison_markdown(comparison)):
        [row] = lines_of(text.replace("|", " "), "Tensor memory", "900 B")
        assert "1000 B 900 B – not comparable" in row
        assert "traced values need the same torch, got 2.14.1 against 2.15" in " ".join(text.split())


def test_bytes_that_round_to_the_same_text_are_shown_in_full(tmp_path):
    base, head = (filled(side_run(tmp_path / name), size).write() for name, size in (("b", 5018016), ("h", 5043106)))
    assert "Tensor memory 5,018,016 B 5,043,106 B +0.50 % worse" in lines_of(
        terminal_text(compare_runs(base, head)), "+0.50"
    )


def test_unmatched_cells_and_interference_are_printed_first(tmp_path):
    base = filled(filled(side_run(tmp_path / "base")), arm="gone")
    head = in_turn(filled(side_run(tmp_path / "head")), gone="unknown key")
    head.records[0] = (head.records[0][0].model_copy(update={"marks": ("clock jump",)}), None)
    comparison = compare_runs(base.write(), head.write())
    (head.directory / "records" / "x.json").write_text("{")
    again = compare_runs(base.directory, head.directory)
    for text in (terminal_text(again, 200), comparison_markdown(again)):
        assert "only the base has train" in text
        assert "(c001): unknown key" in text
        assert "interference in one run" in text
        assert "head: x.json: not a readable record" in text
    assert "x.json" not in terminal_text(comparison, 200)


def test_a_note_for_many_cells_is_printed_once_with_the_cells_below(tmp_path):
    base = filled(side_run(tmp_path / "base"), times=[1.0])
    head = in_turn(filled(side_run(tmp_path / "head", torch="2.15"), times=[1.0]), gone="unknown key model.stem")
    for _ in range(3):
        filled(base, arm="gone", times=[1.0])
    comparison = compare_runs(base.write(), head.write())
    text = terminal_text(comparison, 80, show_all=True)
    assert text.count("unknown key model.stem") == 1
    assert [line for line in text.splitlines() if "gone" in line] == [
        f"  - train_step gone (c00{n})" for n in (1, 2, 3)
    ]
    assert comparison_markdown(comparison).count("unknown key") == 1
    assert " ".join(text.split()).count("traced values need the same torch") == 1


def test_a_renamed_arm_has_one_note(tmp_path):
    runs = [filled(filled(side_run(tmp_path / name), times=[1.0]), arm=name, times=[1.0]) for name in ("old", "new")]
    text = " ".join(terminal_text(compare_runs(*(run.write() for run in runs)), 200).split())
    assert "only the base has train_step old (c001): renamed: the head has this setting as arm new" in text
    assert "only the head has" not in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_hostile_names_stay_text_in_the_terminal(tmp_path, width):
    runs = [filled(side_run(tmp_path / name), size, arm=HOSTILE) for name, size in (("b", 1000), ("h", 1005))]
    failed(runs[0], reason=HOSTILE, arm="broken")
    filled(runs[1], arm="broken")
    text = terminal_text(compare_runs(*(run.write() for run in runs), names=(HOSTILE, HOSTILE)), width, show_all=True)
    assert not {char for char in text if not char.isprintable()} - {"\n"}
    assert len(text) < 40_000
    assert "[red]markup[/red]" in text.replace("\n", "")


def cells_of(line: str) -> int:
    return len(re.split(r"(?<!\\)\|", line)) - 2


def test_hostile_names_stay_cells_of_a_table_in_markdown(tmp_path):
    runs = [filled(side_run(tmp_path / name), size, arm=HOSTILE) for name, size in (("b", 1000), ("h", 1005))]
    failed(runs[0], reason=HOSTILE, arm="broken")
    filled(runs[1], arm="broken")
    text = comparison_markdown(compare_runs(*(run.write() for run in runs), names=(HOSTILE, HOSTILE)))
    assert len(text) < 60_000
    assert set(re.findall(r"</?(\w+)", text)) == {"details", "summary", "sup", "br"} - (
        {"br"} if "<br>" not in text else set()
    )
    assert not re.search(r"@\w|#\d", text)
    assert not {char for char in text if not char.isprintable()} - {"\n", "\u2060"}
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    for block in tables:
        assert len({cells_of(line) for line in block.splitlines()}) == 1


def test_a_comment_on_a_large_grid_stays_within_githubs_limit(tmp_path):
    runs = [side_run(tmp_path / name, torch=name) for name in ("base", "head")]
    for run in runs:
        for number in range(60):
            filled(run, times=[1.0], arm=f"arm{number} " + "|<" * 200)
    text = comparison_markdown(compare_runs(*(run.write() for run in runs)))
    assert len(text) < 65_536
    assert "more rows are in the output of --json" in text


def test_a_cell_is_named_by_workload_arm_and_axes(sides):
    cell = sides.cells[0]
    object.__setattr__(cell, "coordinates", {"training.batch_size": 2, "model.levels": [1, 2], "a.b": "x"})
    assert cell_name(cell) == "train_step tiny batch_size=2 levels=[1, 2] b=x"


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (1.0, "+0.00 %"),
        (1.005, "+0.50 %"),
        (0.9, "-10.00 %"),
        (1 + 1e-7, "+0.00001 %"),
        (1.15, "+15.00 %"),
        (3.0, "3×"),
        (0.25, "0.25×"),
        (1234.5, "1.23e+03×"),
        (None, "–"),
    ],
)
def test_changes_are_percentages_or_factors(sides, ratio, text):
    cell = sides.cells[0]
    for name in ("ratio", "low", "high"):
        object.__setattr__(cell, name, ratio)
    assert change_text(cell) == text
