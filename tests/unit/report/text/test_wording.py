"""Values, foreign text and Markdown escapes as text; labels of cells distinguish each cell and omit what all share."""

from __future__ import annotations

import html
import itertools
import re
from types import SimpleNamespace

import pytest
from fake_runs import FakeRun, fill_usual, step_metrics
from hypothesis import given
from hypothesis import strategies as st

from slr_bench.compare.statistics import Ratio, Summary
from slr_bench.report.charts.model import short_bytes
from slr_bench.report.formats.documents import escape_markdown, render_html
from slr_bench.report.run_report.content import read_content
from slr_bench.report.text.wording import describe, distinguishing_labels, format_factor, spread
from slr_bench.units import format_value, plain

NUMBERS = itertools.count()


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "bytes", "–"),
        (0, "bytes", "0 B"),
        (1536, "bytes", "1.5 KiB"),
        (0.25, "s", "250.0 ms"),
        (0.525, "ratio", "52.5 %"),
        (0.0042, "ratio", "0.42 %"),
        (-0.003, "ratio", "-0.30 %"),
        (701234, "1", "701,234"),
        (2.34567, "1", "2.346"),
        (14.545, "1/s", "14.54 /s"),
        (12.0, "J", "12 J"),
    ],
)
def test_values_are_formatted_with_their_unit(value, unit, text):
    assert format_value(value, unit) == text


@given(st.text(max_size=400), st.integers(min_value=1, max_value=50))
def test_plain_is_one_printable_line_within_the_limit(text, limit):
    line = plain(text, limit)
    assert len(line) <= limit
    assert line.isprintable()
    assert line == " ".join(line.split())


def test_plain_keeps_short_text_and_marks_what_it_cut():
    assert plain("a b") == "a b"
    assert plain("a\n\tb\x1b[31m") == "a b [31m"
    assert plain("x" * 10_000, 20) == "x" * 19 + "…"
    assert plain(" " * 10_000 + "x", 20).endswith("…")


@given(st.text(alphabet="a|`*_[]~$\\<>&@# \n", max_size=60))
def test_markdown_escapes_read_back_as_the_text(text):
    escaped = escape_markdown(text)
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*_\[\]~$]", escaped)
    assert "<" not in escaped
    assert "\n" not in escaped
    read = html.unescape(re.sub(r"\\(.)", r"\1", escaped)).replace("\u2060", "")
    assert read == " ".join(text.split())


def test_markdown_makes_no_mention_and_no_issue_link():
    assert not re.search(r"@\w|#\d", escape_markdown("@octocat fixed #12"))


def test_spread_names_its_kind():
    assert spread(Summary(5, 5, 5, 3, "exact"), "bytes") == "equal in 3"
    assert spread(Summary(5, 4, 6, 3, "disagreement"), "bytes") == "DISAGREES: 4 B – 6 B, n = 3"
    assert spread(Summary(2, 1, 3, 3, "range"), "s") == "1.00 s – 3.00 s (min–max, n = 3)"
    assert spread(Summary(2, 1, 3, 9, "interval"), "s") == "1.00 s – 3.00 s (95 % interval, n = 9)"
    assert spread(Summary(2, 2, 2, 1, "range"), "s") == "n = 1"


def test_a_ratio_is_described_with_the_verdict_its_n_allows():
    assert describe(Ratio(1.1, 1.0, 1.2, 3, "n too small")) == "min–max 1.00–1.20 of 3 pairs; no verdict below 8"
    assert describe(Ratio(1.1, 1.05, 1.2, 9, "slower")) == "99 % interval 1.05–1.20, 9 pairs: slower"
    assert describe(Ratio(1.0, 0.95, 1.05, 9, "same")).endswith("no clear difference")


def test_factors_and_axis_ticks_are_short():
    assert (format_factor(8.31), format_factor(1.119)) == ("8.3×", "1.12×")
    assert [short_bytes(value) for value in (0, 64 * 1024**2, 1024**3, 1.5 * 1024**3)] == [
        "0 B",
        "64 MiB",
        "1 GiB",
        "1.50 GiB",
    ]


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
    page = render_html(read_content(run.write()).report)
    names = re.findall(r"<summary>(.*?): <b>", page)
    assert len(names) == 10
    assert len(set(names)) == 10
