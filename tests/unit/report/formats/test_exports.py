"""Exports: the long table, and the headline in LaTeX."""

from __future__ import annotations

import re

import pandas
import pytest
from fake_runs import MIB, FakeRun, fill_usual, setting, step_metrics

from slr_bench.errors import ConfigError
from slr_bench.record import Metric, Outcome
from slr_bench.report.formats import data_frame as tidy
from slr_bench.report.formats.data_frame import write_csv, write_parquet
from slr_bench.report.formats.latex import escape, headline_table
from slr_bench.report.run_report.content import read_content


def cells(run: FakeRun):
    return read_content(run.write()).cells


def test_csv_has_one_row_per_cell_run_and_metric(new_run, tmp_path):
    run = fill_usual(new_run())
    run.cell("never", own=False)
    found = cells(run)
    write_csv(found, tmp_path / "out.csv")
    frame = pandas.read_csv(tmp_path / "out.csv")
    metrics = sum(len(record.metrics) for cell in found for record in cell.records)
    assert len(frame) == metrics + 3 + 1  # three runs out of memory, and a cell that was not run
    own = frame[(frame["arm"] == "baseline") & frame["is_own"] & (frame["metric"] == "step_time_s")]
    assert list(own["value"]) == [1.0, 1.1, 1.2]
    assert list(own["repeat"]) == [0, 1, 2]
    assert set(own["unit"]) == {"s"}
    oom = frame[frame["outcome"] == "oom_host"]
    assert list(oom["reason"]) == ["the kernel killed it: oom_kill rose by 1"] * 3
    assert oom["metric"].isna().all()
    assert list(oom["axis.training.batch_size"]) == [64] * 3
    unread = frame[frame["metric"] == "peak_allocated_bytes"]
    assert unread["value"].isna().all()
    assert set(unread["unavailable"]) == {"the cell ran on the CPU, which has no caching allocator"}
    assert list(frame[frame["outcome"] == "not run"]["arm"]) == ["never"]


def test_csv_keeps_integers_and_text(new_run, tmp_path):
    run = new_run()
    name = 'a,"b"\nc\u202ed'
    big = 2**53 + 2
    run.record(run.cell(name, coordinates={"k": [1, 2]}), 0, step_metrics(big, 1.0))
    write_csv(cells(run), tmp_path / "out.csv")
    frame = pandas.read_csv(tmp_path / "out.csv")
    assert set(frame["arm"]) == {name}
    assert set(frame["axis.k"]) == {"[1, 2]"}
    assert int(frame[frame["metric"] == "peak_tensor_bytes"]["value"].iloc[0]) == big


def test_parquet_has_the_same_with_types(new_run, tmp_path):
    pytest.importorskip("pyarrow")
    run = fill_usual(new_run())
    for number, value in enumerate((1, "two", None, True)):
        cell = run.cell("mixed", own=False, coordinates={"mixed": value, "whole": number, "part": number + 0.5})
        run.record(cell, 0, step_metrics(MIB, 1.0))
    found = cells(run)
    write_parquet(found, tmp_path / "out.parquet")
    write_csv(found, tmp_path / "out.csv")
    frame = pandas.read_parquet(tmp_path / "out.parquet")
    assert len(frame) == len(pandas.read_csv(tmp_path / "out.csv"))
    kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
    assert (kinds["value"], kinds["repeat"], kinds["is_own"]) == ("Float64", "Int64", "bool")
    assert (kinds["axis.mixed"], kinds["axis.whole"], kinds["axis.part"]) == ("string", "Int64", "Float64")
    assert set(frame["axis.mixed"].dropna()) == {"1", "two", "true"}


def test_error_without_pyarrow_names_the_cure(monkeypatch, tmp_path):
    monkeypatch.setattr(tidy.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'slr-bench\[parquet\]', or use --csv"):
        write_parquet([], tmp_path / "out.parquet")


def test_error_names_the_file_that_cannot_be_written(new_run, tmp_path):
    found = cells(fill_usual(new_run()))
    for write in (write_csv, write_parquet):
        if write is write_parquet:
            pytest.importorskip("pyarrow")
        with pytest.raises(ConfigError, match=r"cannot write .*no/such/out.*; choose another file"):
            write(found, tmp_path / "no" / "such" / "out")


def test_no_cells_make_an_empty_table(tmp_path):
    write_csv([], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().startswith("workload,arm,cell_id,is_own,side,repeat")


def test_latex_has_the_headline_with_its_notes(new_run):
    text = headline_table(read_content(fill_usual(new_run()).write()).report)
    assert r"Memory & 800.0~MiB & 100.0~MiB (8.0$\times$ less)\textsuperscript{1} \\" in text
    assert r"Step time & 1.10~s & 1.65~s (1.50$\times$ as long, n too small)\textsuperscript{2} \\" in text
    assert r"Accuracy & 50.0~\% & 52.0~\% (+2.0 points, n too small)" in text
    assert [text.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == sorted(
        text.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")
    )
    assert r"\begin{tabular}{lrr}" in text
    assert {line.count("&") for line in text.splitlines() if line.endswith(r"\\")} == {2}


SAFE = re.compile(
    r"(\\[&%$#_{}]|\\text[a-z]+\{\}|\\ldots\{\}|\$\\[a-z]+\$|\$\^\\circ\$|\{[-\[\]]\}|~|[0-9A-Za-zÀ-ž !()*+,./:;=?@])*"
)


def test_special_characters_are_escaped_for_tex():
    """Compiled once by hand, with pdfTeX: the same characters came out."""
    everything = "".join(map(chr, range(32, 0x3000)))
    for char in everything:
        assert SAFE.fullmatch(escape(char)), (char, escape(char))
    assert escape(r"\input{x}") == r"\textbackslash{}input\{x\}"
    assert escape("中") == "{[}U+4E2D{]}"
    assert escape("--") == "{-}{-}"


def test_hostile_names_stay_in_their_cell(new_run):
    run = new_run()
    for name in (r"a & b \\ % \end{table} $x_1^2$", "#{~}|<>\"'"):
        metrics = step_metrics(MIB, 1.0) | {"energy_j": Metric.unavailable("J", "x", "y")}
        run.record(run.cell(name, setting=setting(1, 1, r"\bf")), 0, metrics)
    run.record(run.cell("oom"), 0, outcome=Outcome.OOM_GPU, reason=r"\out_of & memory")
    text = headline_table(read_content(run.write()).report)
    assert text.count(r"\end{table}") == 1
    assert {len(re.findall(r"(?<!\\)&", line)) for line in text.splitlines() if line.endswith(r"\\")} == {2}
    assert not re.search(r"(?<!\\)%(?! \\usepackage)", text)
