"""``compare`` and ``gate`` on two revisions: real checkouts, real fork servers, cells that find their side's source."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from toy_repository import GRID, ToyRepository

import slr_bench as package
from slr_bench.execute import local

PATIENCE_S = 60
SMALL = ("--config", "grid.yml", "--arm", "small")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    made = ToyRepository(tmp_path_factory.mktemp("revisions") / "top")
    made.commit("base")
    made.write("README", "a commit that changes nothing")
    made.commit("noop")
    made.figures(MORE=10, STEP_S=1.2)
    made.commit("worse")
    made.figures(ENDING="crash")
    made.commit("broken")
    made.figures(ENDING="oom_host")
    made.commit("hungry")
    made.figures()
    spec = (made.top / "toy/spec.py").read_text()
    made.write("toy/spec.py", spec.replace("size: int = 1000", "size: int = 1000\n    width: int = 1"))
    made.commit("wider")
    made.write("toy/spec.py", spec.replace("build=build", "build=build, defaults_version=2"))
    made.commit("other-defaults")
    made.write("toy/spec.py", spec)
    made.figures(MORE=3)
    return made


@pytest.fixture
def bench(slr_bench, monkeypatch, repository, tmp_path):
    """``bench(...)`` runs the command in the repository over `tree_server`. Whatever it does, the repository stays as
    it is, to the byte, and no temporary file is left.
    """
    monkeypatch.setattr(local, "SERVER", "tree_server")
    monkeypatch.setenv("QUICK_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    before = repository.state()
    go = monkeypatch.chdir
    monkeypatch.setattr(monkeypatch, "chdir", lambda _: go(repository.top), raising=False)
    yield slr_bench
    assert list((tmp_path / "tmp").iterdir()) == []
    assert repository.state() == before


def journal(tmp_path: Path) -> list[list[str]]:
    return [line.split() for line in (tmp_path / "journal").read_text().splitlines()]


def rows(done: subprocess.CompletedProcess, metric: str) -> dict[str, dict]:
    return {cell["arm"]: cell for cell in json.loads(done.stdout)["cells"] if cell["metric"] == metric}


def test_two_revisions_are_measured_interleaved_each_by_its_own_source_and_one_harness(bench, tmp_path, repository):
    done = bench("compare", "base", "worse", "--config", "grid.yml", "--repeats", "8", "--json")
    assert done.returncode == 0, done.stderr
    for arm, size in (("small", 1000), ("large", 2000)):
        memory, time = (rows(done, metric)[arm] for metric in ("peak_tensor_bytes", "step_time_s"))
        assert (memory["base"], memory["head"], memory["significant"]) == (size, size + 10, True)
        assert (time["ratio"], time["significant"], time["n"]) == (pytest.approx(1.2), True, 8)
    names = [json.loads(done.stdout)[side] for side in ("base", "head")]
    assert names == [f"{tag} ({repository.git('rev-parse', tag)[:9]})" for tag in ("base", "worse")]
    lines = journal(tmp_path)
    assert {Path(line[2]) for line in lines} == {Path(package.__file__).resolve().parent / "worker/main.py"}
    sides = [line[1] for line in lines]
    assert all(one != other for one, other in zip(sides[::2], sides[1::2], strict=True))  # neighbours are a pair
    assert sorted(Counter(sides).values()) == [16, 16]
    assert len(set(sides[::2])) == 2  # a coin decides who goes first


def test_the_gate_passes_a_commit_that_changes_nothing(bench):
    rules = ("--rule", "peak_tensor_bytes:0%", "--rule", "step_time_s:10%")
    done = bench("gate", "base", "noop", *SMALL, "--repeats", "8", *rules, "--json")
    assert done.returncode == 0, done.stderr
    assert [rule["verdict"] for rule in json.loads(done.stdout)["rules"]] == ["pass", "pass"]


def test_kept_runs_continue_and_record_their_pairing(bench, tmp_path):
    out = tmp_path / "kept"
    first = bench("compare", "noop", ".", *SMALL, "--out", out, "--markdown", tmp_path / "c.md")
    assert first.returncode == 0, first.stderr
    assert "with changes)" in (tmp_path / "c.md").read_text()
    rules = ("--rule", "step_time_s:5%", "--rule", "peak_tensor_bytes:0%")
    again = bench("gate", "noop", ".", *SMALL, "--out", out, "--repeats", "8", *rules, "--json")
    assert again.returncode == 1, again.stderr
    assert len(journal(tmp_path)) == 2 * 8
    assert [rule["verdict"] for rule in json.loads(again.stdout)["rules"]] == ["pass", "fail"]
    later = bench("gate", out / "base", out / "head", *rules)
    assert later.returncode == 1
    assert "noop (" in later.stdout
    assert "working tree (" in later.stdout
    other = bench("compare", "base", ".", *SMALL, "--out", out)
    assert other.returncode == 2
    assert "holds runs of another" in other.stderr


@pytest.mark.parametrize(("head", "code", "words"), [("broken", 7, "SIGKILL"), ("hungry", 1, "oom_host on purpose")])
def test_a_head_that_crashes_or_runs_out_of_memory(bench, head, code, words):
    done = bench("gate", "base", head, *SMALL, "--rule", "peak_tensor_bytes:0%")
    assert done.returncode == code, done.stderr
    assert words in " ".join((done.stdout + done.stderr).split())
    if code == 7:
        assert "their logs are kept with --out DIR" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("no-such", "base", *SMALL), 3, "base 'no-such' is neither a run directory nor a revision of this repository"),
        (("base", "no-such", *SMALL), 2, "head 'no-such' is neither"),
        (("base", "noop", "--config", "absent.yml"), 2, "cannot read configuration absent.yml"),
        (("base", "noop"), 2, "cannot read configuration configs/ablation.yml"),
        (("base", "noop", *SMALL, "--workload", "toyy"), 2, "does not run 'toyy'; did you mean 'toy'"),
        (("base", "noop", *SMALL, "--set", "sise=3"), 2, "unknown key 'sise'; did you mean 'size'"),
        (("base", "wider", *SMALL, "--set", "width=3"), 3, "cannot run the grid: arm 'small': unknown key 'width'"),
        (("other-defaults", "base", *SMALL), 4, "no cell in common: other-defaults ("),
    ],
)
def test_mistake_is_reported_before_anything_is_measured(bench, tmp_path, arguments, code, words):
    done = bench("compare", *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert all(line.startswith("slr-bench: ") for line in done.stderr.splitlines())
    assert not (tmp_path / "journal").exists()


def test_an_arm_that_one_side_cannot_run_costs_no_other(bench, tmp_path):
    grid = tmp_path / "mine.yml"
    grid.write_text(GRID.replace("arms: {", "arms: {wide: {width: 7}, "))
    done = bench("compare", "base", "wider", "--config", grid, "--json")
    assert done.returncode == 0, done.stderr
    assert {cell["arm"] for cell in json.loads(done.stdout)["cells"]} == {"small", "large"}
    [lone] = json.loads(done.stdout)["unmatched"]
    assert (lone["arm"], lone["side"]) == ("wide", "head")
    assert "unknown key 'width'" in lone["reason"]


def test_an_interruption_leaves_nothing_anywhere(repository, tmp_path, marked, survivors, request):
    repository.figures(ENDING="wait")
    request.addfinalizer(lambda: repository.figures(MORE=3))
    before = repository.state()
    mark = f"MARK_OF_A_TEST={tmp_path}"
    (tmp_path / "tmp").mkdir()
    os.mkfifo(tmp_path / "journal")
    code = "from slr_bench.execute import local; local.SERVER = 'tree_server'; "
    code += "from slr_bench.cli import main; main()"
    variables = dict([mark.split("=", 1)]) | {"QUICK_JOURNAL": f"{tmp_path}/journal", "TMPDIR": f"{tmp_path}/tmp"}
    run = subprocess.Popen(
        [sys.executable, "-c", code, "compare", "base", ".", *SMALL],
        cwd=repository.top,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    cells = os.open(tmp_path / "journal", os.O_RDWR)
    with run:
        told = b""
        while b"side-1" not in told:  # the head's cell waits; the base's may have gone before it
            assert select.select([cells], [], [], PATIENCE_S)[0], "no cell of the head began"
            told += os.read(cells, 10_000)
        run.send_signal(signal.SIGINT)
        _, stderr = run.communicate(timeout=PATIENCE_S)
    os.close(cells)
    assert run.returncode == 130
    assert stderr == "slr-bench: interrupted; no run is kept; use --out DIR to keep finished runs\n"
    assert list((tmp_path / "tmp").iterdir()) == []
    assert survivors(marked(mark)) == []
    assert repository.state() == before


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["fork", "spawn"])
def test_real_tensors_of_two_revisions(slr_bench, monkeypatch, repository, tmp_path, isolation):
    """The peak is the one tensor of the step, as long as the setting and the commit say."""
    monkeypatch.chdir(repository.top)
    go = monkeypatch.chdir
    monkeypatch.setattr(monkeypatch, "chdir", lambda _: go(repository.top), raising=False)
    grid = tmp_path / "real.yml"
    grid.write_text(f"isolation: {isolation}\n{GRID}")
    done = slr_bench("compare", "base", "worse", "--config", grid, "--repeats", "1", "--json")
    assert done.returncode == 0, done.stderr
    for arm, size in (("small", 1000), ("large", 2000)):
        memory = rows(done, "peak_tensor_bytes")[arm]
        assert (memory["base"], memory["head"]) == (size, size + 10)
