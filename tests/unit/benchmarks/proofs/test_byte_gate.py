"""The byte gate: what it runs in which case, what it keeps, and that the committed baseline is that of this code."""

import shutil
import subprocess
from pathlib import Path

import pytest
from fake_runs import MIB, FakeRun, step_metrics

from benchmarks.proofs import byte_gate
from benchmarks.proofs.byte_gate import PARTS, baseline_commit, check, keep, renew
from slr_bench.compare.cells import DETERMINISTIC
from slr_bench.errors import NothingMeasuredError
from slr_bench.execute.job import Job, MeasureCell
from slr_bench.grid.cells import expand
from slr_bench.grid.config import load_grid
from slr_bench.record import Outcome
from slr_bench.run.cell_runner import work_of
from slr_bench.run.store import Store
from slr_bench.worker.measure import measure

ROOT = Path(__file__).resolve().parents[4]
COMMIT = "c" * 40


class Command:
    """Stands for ``slr-bench``: the codes of ``run``, of the gate against the baseline, of the gate between trees."""

    def __init__(self, run=0, gate=0, trees=0):
        self.codes = {"run": run, "gate": gate, "trees": trees}
        self.calls = []

    def __call__(self, arguments):
        self.calls.append(list(arguments))
        kind = "trees" if COMMIT in arguments else arguments[0]
        if "--markdown" in arguments:
            Path(arguments[arguments.index("--markdown") + 1]).write_text(f"### {kind}\n")
        else:
            Path(arguments[-1]).mkdir(parents=True)
        return self.codes[kind]


@pytest.fixture
def other_directory(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("codes", "expected", "kinds"),
    [
        ({}, 0, ["run", "gate"]),
        ({"gate": 1}, 1, ["run", "gate"]),
        ({"gate": 3}, 3, ["run", "gate"]),
        ({"run": 7}, 7, ["run"]),
        ({"gate": 4}, 0, ["run", "gate", "trees"]),
        ({"gate": 4, "trees": 1}, 1, ["run", "gate", "trees"]),
        ({"gate": 4, "trees": 4}, 4, ["run", "gate", "trees"]),
    ],
)
def test_the_verdict_of_each_case(other_directory, capsys, codes, expected, kinds):
    command = Command(**codes)
    assert check(command, lambda: COMMIT) == expected
    called = ["trees" if COMMIT in call else call[0] for call in command.calls]
    assert called == kinds * len(PARTS)
    page = (other_directory / "reports/latest-check/gate.md").read_text()
    assert page.count(f"### {kinds[-1]}" if kinds != ["run"] else "no verdict, exit code 7") == len(PARTS)
    is_loud = "make bench-baseline" in capsys.readouterr().out
    assert is_loud == (codes.get("gate") == 4)
    assert ("> reports/baseline/real was measured in another environment" in page) == is_loud


def test_without_history_what_does_not_compare_fails_and_says_how_to_renew(other_directory, capsys):
    assert check(Command(gate=4), lambda: None) == 4
    assert "git does not know what made it; renew it" in capsys.readouterr().out


def test_on_github_it_is_a_warning_of_one_line(other_directory, capsys, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    check(Command(gate=4), lambda: COMMIT)
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("::warning title=Byte gate::reports/baseline/")]) == len(
        PARTS
    )


@pytest.mark.parametrize("code", [2, 7, 130])
def test_a_measurement_that_fails_leaves_no_old_verdict(other_directory, code):
    assert check(Command(), lambda: None) == 0
    assert check(lambda arguments: code, lambda: None) == code
    page = (other_directory / "reports/latest-check/gate.md").read_text()
    assert page == "\n".join(f"`{part.name}`: no verdict, exit code {code}\n" for part in PARTS)
    assert not [part for part in PARTS if (other_directory / f"reports/latest-check/{part.name}.md").exists()]


def test_a_measurement_that_never_began_is_told(other_directory):
    assert check(lambda arguments: 2, lambda: None) == 2
    assert "no verdict, exit code 2" in (other_directory / "reports/latest-check/gate.md").read_text()


def test_a_regression_outweighs_what_else_went_wrong(other_directory):
    codes = iter([7, 0])

    def command(arguments):
        return next(codes) if arguments[0] == "run" else 1

    Path("reports/latest-check").mkdir(parents=True)
    assert check(command, lambda: None) == 1


def test_the_baseline_keeps_what_rules_fix_and_nothing_that_scatters(tmp_path):
    run = FakeRun(tmp_path / "fresh")
    run.record(run.cell("baseline", repeats=1), 0, step_metrics(3 * MIB, 0.1), series={}, marks=("busy",))
    keep(run.write(), tmp_path / "kept")
    (record,), problems = Store(tmp_path / "kept").read_records()
    assert problems == []
    assert record.metrics.keys() == {"peak_tensor_bytes", "parameters"}
    assert record.value("peak_tensor_bytes") == 3 * MIB
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"grid.json", "records"}


def test_a_baseline_is_not_made_of_runs_that_failed(tmp_path):
    run = FakeRun(tmp_path / "fresh")
    run.record(run.cell("baseline", repeats=1), 0, outcome=Outcome.TIMEOUT, reason="it took too long")
    (tmp_path / "kept").mkdir()
    with pytest.raises(NothingMeasuredError, match="c000-a-0"):
        keep(run.write(), tmp_path / "kept")
    assert (tmp_path / "kept").is_dir()


def test_a_failed_run_leaves_the_old_baseline(other_directory):
    assert renew(Command(run=7)) == 7
    assert not (other_directory / "reports/baseline").exists()


def test_the_commit_that_made_the_baseline(other_directory):
    def git(*arguments):
        settings = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always")
        return subprocess.run(["git", *settings, *arguments], check=True, capture_output=True, text=True).stdout

    assert baseline_commit() is None
    git("init", "-q", "-b", "main")
    assert baseline_commit() is None
    for number, name in enumerate(("reports/baseline/grid.json", "code.py")):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(str(number))
        git("add", ".")
        git("commit", "-qm", name)
    assert baseline_commit() == git("rev-parse", "HEAD~1").strip()


def test_a_shallow_clone_does_not_know_it(other_directory, monkeypatch):
    test_the_commit_that_made_the_baseline(other_directory)
    subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{other_directory}", "shallow"], check=True)
    monkeypatch.chdir(other_directory / "shallow")
    assert baseline_commit() is None


def test_nothing_to_measure_is_a_line_and_an_exit_code(other_directory, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["byte_gate", "renew"])
    monkeypatch.setattr(byte_gate, "slr_bench", Command())
    with pytest.raises(SystemExit) as end:
        byte_gate.main()
    assert end.value.code == 5
    assert capsys.readouterr().err.startswith("byte_gate: reports/latest-check/real: no records")


@pytest.fixture(params=PARTS, ids=lambda part: part.name)
def committed(request):
    """A part, its cells as configured now, and what is committed of it."""
    part = request.param
    store = Store(ROOT / byte_gate.BASELINE / part.name)
    return expand(load_grid(ROOT / part.config), {}), store


def test_the_committed_baseline_has_every_cell_and_no_other(committed):
    cells, store = committed
    records, problems = store.read_records()
    assert problems == []
    ids = {cell.cell_id for cell in cells}
    assert {record.cell_id for record in records} == ids, "make bench-baseline, and commit it"
    assert {entry.cell_id for entry in store.read_manifest().cells} == ids
    assert {record.outcome for record in records} == {Outcome.OK}
    assert {name for record in records for name in record.metrics} <= DETERMINISTIC
    assert all(record.metrics["peak_tensor_bytes"].source == f"cpu-{store.directory.name}" for record in records)


def test_the_committed_baseline_is_small_and_of_no_machine():
    files = [path for path in (ROOT / byte_gate.BASELINE).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 200_000
    text = "".join(path.read_text() for path in files)
    assert not [word for word in (str(ROOT), str(Path.home()) + "/", "node") if word in text]


def grown(metrics, share):
    metric = metrics["peak_tensor_bytes"]
    return metrics | {"peak_tensor_bytes": metric.model_copy(update={"value": round(metric.value * (1 + share))})}


@pytest.mark.parametrize(("share", "code"), [(0, 0), (0.005, 1), (-0.005, 0)])
def test_the_real_gate_finds_half_a_percent_in_one_cell(tmp_path, share, code):
    """A copy of the committed baseline, one cell of it changed; the command as the byte gate calls it."""
    part = PARTS[1]
    fresh = Store(tmp_path / "fresh")
    shutil.copytree(ROOT / byte_gate.BASELINE / part.name, fresh.directory)
    record = fresh.read_records()[0][0]
    fresh.write_record(record.model_copy(update={"metrics": grown(record.metrics, share)}))
    page = tmp_path / "page.md"
    arguments = ("gate", str(ROOT / byte_gate.BASELINE / part.name), str(fresh.directory), *byte_gate.RULE)
    assert byte_gate.slr_bench([*arguments, "--markdown", str(page)]) == code
    assert (record.workload.replace("_", "\\_") in page.read_text()) or code == 0


def test_another_process_gives_the_committed_bytes(tiny_job):
    """The reference shape's baseline, traced here on fake tensors."""
    job, committed_record = tiny_job
    metrics = measure(job, lambda message: None).metrics
    assert {name: metrics[name].value for name in committed_record.metrics} == {
        name: metric.value for name, metric in committed_record.metrics.items()
    }


@pytest.fixture
def tiny_job():
    """The quickest cell of the baseline as the worker gets it, and its record."""
    from slr_bench.worker.context import collect_environment

    cell = expand(load_grid(ROOT / "configs/gate_fake.yml"), {}, "baseline")[0]
    records, _ = Store(ROOT / byte_gate.BASELINE / "fake").read_records()
    (record,) = [record for record in records if record.cell_id == cell.cell_id]
    here = collect_environment("cpu", "fork")
    for key in ("torch", "torchvision", "trace_rules"):
        if here[key] != record.environment[key]:
            pytest.skip(f"the baseline is of {key} {record.environment[key]}, here it is {here[key]}")
    task = MeasureCell(work_of(cell, fake=True), cell.part.warmup_steps, cell.part.timed_steps, sample_hz=1)
    return Job(task, "cpu"), record
