"""``slr-bench report`` as a user meets it: what it writes where, one-line mistakes, exit codes."""

from __future__ import annotations

import json

import pandas
import pytest
from fake_runs import FakeRun, fill_usual

from slr_bench.record import Outcome


@pytest.fixture
def run_dir(tmp_path):
    """A finished run in ``run``."""
    return fill_usual(FakeRun(tmp_path / "run")).write()


def test_exports_are_written_in_addition_to_the_report(run_dir, slr_bench, tmp_path):
    done = slr_bench("report", "run", "--csv", "out.csv", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "run_dir": "run", "html": "run/report.html", "markdown": "run/report.md", "csv": "out.csv",
    }  # fmt: skip
    assert len(pandas.read_csv(tmp_path / "out.csv")) > 100
    assert (run_dir / "report.html").stat().st_size > 20_000


def test_latex_is_alone_on_stdout(run_dir, slr_bench):
    done = slr_bench("report", "run", "--latex")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("% \\usepackage{booktabs}")
    assert done.stdout.rstrip().endswith(r"\end{table}")
    assert "report: run/report.html" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["nowhere"], "nowhere does not exist; give the directory that `slr-bench run` wrote"),
        (["."], "is not a run directory: it has no grid.json and no record"),
        (["run", "--csv", "no/such/out.csv"], "--csv: cannot write no/such/out.csv"),
        (["run", "--latex", "--json"], "--latex and --json both need stdout"),
    ],
)
def test_usage_error_is_one_line(run_dir, slr_bench, options, words):
    done = slr_bench("report", *options)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("slr-bench: ")
    assert words in line


def test_lost_manifest_exits_2_and_failures_only_exits_5_each_with_a_report(run_dir, slr_bench, tmp_path):
    (run_dir / "grid.json").unlink()
    lost = slr_bench("report", "run", "--csv", "lost.csv")
    assert lost.returncode == 2
    assert "bring grid.json back, or run the grid again" in lost.stderr
    assert "arm not known" in (run_dir / "report.md").read_text()
    assert set(pandas.read_csv(tmp_path / "lost.csv")["arm"]) == {"arm not known"}
    failed = FakeRun(tmp_path / "failed")
    failed.record(failed.cell("baseline"), 0, outcome=Outcome.CRASH, reason="signal 11")
    failed.write()
    nothing = slr_bench("report", "failed", "--csv", "failed.csv")
    assert nothing.returncode == 5
    assert nothing.stderr.splitlines()[-1] == (
        "slr-bench: nothing was measured: no run in failed ended ok or out of memory (1 as crash: signal 11); "
        "failed/report.md lists all runs"
    )
    assert list(pandas.read_csv(tmp_path / "failed.csv")["reason"]) == ["signal 11"]
    assert "signal 11" in (tmp_path / "failed" / "report.html").read_text()
