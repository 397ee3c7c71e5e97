"""The runner over an executor made by hand: what it binds, records, resumes and refuses. No process is started."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fake_executor import MEASURED, STILL, TOY, FakeExecutor, Silent, Toy, id_of
from fake_runs import HALVED, SHED

from slr_bench.errors import ConfigError, DataError, NothingMeasuredError, UnsupportedSettingError
from slr_bench.execute.job import MESSAGES, Ending, JobResult, Measurement
from slr_bench.execute.machine import OomKills, Readers
from slr_bench.grid.cells import Cell
from slr_bench.grid.config import GridConfig
from slr_bench.grid.workload import WorkloadSpec
from slr_bench.probes import host
from slr_bench.record import Outcome, parse_record, record_text
from slr_bench.run import cell_runner, runner
from slr_bench.run.binding import BoundElsewhereError, source_hash
from slr_bench.run.runner import BROKEN_PAIR, Runner, outcome_counts
from slr_bench.run.store import Store


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """``bench(sizes=..., endings=...)`` runs a toy grid into one directory."""
    monkeypatch.setattr(host, "tree_pss_bytes", lambda pid: 4096)

    def run(sizes=(1, 2), spec=TOY, executor=None, fake=False, retry=False, skip=True, readers=None, **grid_values):
        executor = executor or FakeExecutor()
        options = {"fake": fake, "retry": retry, "skip": skip, "readers": readers or STILL}
        monkeypatch.setattr(runner, "LocalExecutor", executor)
        grid = GridConfig(workload=spec.name, **({"repeats": 2} | grid_values))
        cells = [
            Cell(id_of(size, spec), "a", spec, grid, Toy(size=size), {"size": size}, is_own=True) for size in sizes
        ]
        listener = Silent()
        totals = Runner(grid, cells, Store(tmp_path), command="slr-bench run x", **options).run(listener)
        return SimpleNamespace(totals=totals, executor=executor, listener=listener, store=Store(tmp_path))

    return run


def test_every_run_leaves_one_record_with_the_metrics_of_the_executor(bench):
    done = bench()
    assert done.executor.measured[:2] == [1, 2]
    assert sorted(done.executor.measured[2:]) == [1, 2]
    assert done.totals.ran == len(done.totals.records) == 4
    for record in done.totals.records:
        assert record.value("peak_tensor_bytes") == 64
        assert record.value("peak_pss_bytes") == 4096
        assert record.value("harness_s") > 0
        assert record.value("parent_cpu_ratio") >= 0
    assert done.store.read_records() == (done.totals.records, [])
    assert done.store.read_samples(done.totals.records[0].name) == {"rows": []}


def test_changes_of_a_training_reach_its_record_through_the_pipe_of_its_process(bench):
    """The result is sent as JSON, as the child sends it."""
    sent = replace(MEASURED, measurement=replace(MEASURED.measurement, events=(HALVED, SHED)))
    received = MESSAGES.validate_python(json.loads(json.dumps(MESSAGES.dump_python(sent))))
    done = bench(sizes=(1,), repeats=1, executor=FakeExecutor({1: Ending(received, None, 0, False, 0.1)}))
    (record,) = done.store.read_records()[0]
    assert record.events == (HALVED, SHED)


def test_second_start_runs_nothing_except_lost_records(bench):
    first = bench()
    assert bench().totals.ran == 0
    lost = first.store.records_directory / f"{first.totals.records[0].name}.json"
    kept = {path: path.read_bytes() for path in first.store.records_directory.iterdir() if path != lost}
    lost.unlink()
    again = bench()
    assert (again.totals.ran, again.listener.waiting, len(again.totals.records)) == (1, 1, 4)
    assert {path: path.read_bytes() for path in kept} == kept


def test_an_unreadable_record_runs_again(bench):
    first = bench()
    broken = first.store.records_directory / f"{first.totals.records[0].name}.json"
    broken.write_bytes(broken.read_bytes()[:100])
    again = bench()
    assert again.totals.ran == 1
    assert len(again.totals.records) == 4
    assert again.store.read_records()[1] == []


def test_more_repeats_run_only_what_is_missing_and_are_reported(bench):
    assert bench().listener.note is None
    more = bench(repeats=3, timeout_s=9)
    assert more.totals.ran == 2
    assert [cell.repeats for cell in more.store.read_manifest().cells] == [3, 3]
    assert more.listener.note.startswith("repeats: 2 before, 3 now. Missing runs are added")
    fewer = bench(repeats=1)
    assert (fewer.totals.ran, len(fewer.store.read_records()[0])) == (0, 6)
    assert "3 before, 1 now" in fewer.listener.note
    assert bench(repeats=1).listener.note is None


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"sizes": (1, 3)}, "another config"),
        ({"timed_steps": 9}, "another config"),
        ({"isolation": "spawn"}, "another config"),
        ({"fake": True}, "another config"),
        ({"executor": FakeExecutor(environment={"torch": "2.16"})}, r"another environment \(torch: 2.15, now 2.16\)"),
        ({"executor": FakeExecutor(environment={"torch": "2.15", "gpu": "X"})}, r"environment \(gpu: None, now X\)"),
        ({"spec": WorkloadSpec("toy", Toy, print, packages=("benchmarks",))}, "another source"),
        ({"spec": WorkloadSpec("toy", Toy, print, prepare=lambda _: {"data_fingerprint": "x"})}, "another config"),
    ],
)
def test_runs_of_another_source_environment_or_configuration_are_refused(bench, changed, named):
    before = bench()
    with pytest.raises(BoundElsewhereError, match=f"{named}.*--out.*--fresh"):
        bench(**changed)
    assert before.store.read_records() == (before.totals.records, [])


@pytest.mark.parametrize("name", ["toy_source.py", "toy_source/inner/step.py"])
def test_source_hash_covers_packages_and_single_files(monkeypatch, tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.syspath_prepend(tmp_path)
    hashes = set()
    for text in ("width = 8", "width = 9"):
        path.write_text(text)
        hashes.add(source_hash([SimpleNamespace(spec=replace(TOY, packages=("toy_source",)))]))
    assert len(hashes) == 2


def test_facts_of_the_data_are_in_the_environment_of_a_record(bench):
    spec = WorkloadSpec("toy", Toy, print, prepare=lambda settings: {"data_fingerprint": f"f{settings.size}"})
    assert {record.environment["data_fingerprint"] for record in bench(spec=spec).totals.records} == {"f1", "f2"}


def test_data_is_checked_before_any_process_and_not_at_all_for_fake_tensors(bench):
    def refuse(_):
        raise DataError("no videos")

    spec = WorkloadSpec("toy", Toy, print, prepare=refuse)
    executor = FakeExecutor()
    with pytest.raises(DataError, match="no videos"):
        bench(spec=spec, executor=executor)
    assert executor.measured == []
    assert bench(spec=spec, fake=True).totals.ran == 4


@pytest.mark.parametrize(("code", "error"), [(9, UnsupportedSettingError), (0, DataError), (1, DataError)])
def test_missing_device_is_reported_before_missing_data(bench, monkeypatch, code, error):
    """9 is what asking torch ends with where it sees no CUDA; 1: torch itself is not there."""

    def refuse(_):
        raise DataError("no videos")

    monkeypatch.setattr(cell_runner.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=code))
    spec = WorkloadSpec("toy", Toy, print, prepare=refuse)
    with pytest.raises(error):
        bench(spec=spec, device="cuda")
    with pytest.raises(DataError):
        bench(spec=spec, device="auto")


def test_cuda_that_the_child_does_not_see_is_refused_before_any_cell(bench):
    executor = FakeExecutor(environment={"torch": "2.15", "device": "cuda"})
    with pytest.raises(UnsupportedSettingError, match="--device cpu"):
        bench(executor=executor, device="cuda")
    assert executor.measured == []


def test_failed_cell_leaves_a_record_and_does_not_affect_others(bench):
    dead = Ending(None, 9, None, False, 0.1)
    done = bench(sizes=(1, 2, 3), executor=FakeExecutor({2: dead}))
    assert outcome_counts(done.totals.records) == {"ok": 4, "crash": 2}
    crashed = [record for record in done.totals.records if record.outcome == "crash"]
    assert all(record.metrics == {} and "SIGKILL" in record.reason for record in crashed)


def test_kill_is_out_of_memory_if_the_kernel_counted_one_meanwhile(bench):
    counts = iter(range(100))
    readers = replace(STILL, oom_kills=lambda: OomKills(next(counts), "its cgroup's"))
    done = bench(executor=FakeExecutor({2: Ending(None, 9, None, False, 0.1)}), readers=readers)
    assert outcome_counts(done.totals.records) == {"ok": 2, "oom_host": 2}


def test_failed_cell_is_not_repeated(bench):
    executor = FakeExecutor({2: Ending(None, 11, None, False, 0.1)})
    bench(executor=executor)
    assert bench().totals.ran == 0


def test_reasons_are_reported_and_kept_if_nothing_was_measured(bench, tmp_path):
    ends = {size: Ending(None, None, 3, False, 0.1) for size in (1, 2)}
    with pytest.raises(NothingMeasuredError, match="crash: the process ended with status 3"):
        bench(executor=FakeExecutor(ends))
    assert len(Store(tmp_path).read_records()[0]) == 4


def test_child_without_environment_is_reported_with_the_last_line_of_its_log(bench, tmp_path):
    class Dumb(FakeExecutor):
        def ending(self, job):
            (tmp_path / "logs" / "environment.log").write_text("Traceback\nImportError: no torch\n")
            return Ending(None, None, 1, False, 0.1)

    with pytest.raises(NothingMeasuredError, match="ImportError: no torch"):
        bench(executor=Dumb())


def test_the_server_loads_what_the_workloads_declare(bench):
    done = bench(spec=WorkloadSpec("toy", Toy, print, preload=("json.tool", "csv")))
    assert done.executor.preload == ["csv", "json.tool", "slr_bench.worker.measure"]


def test_the_manifest_is_the_documented_one(bench):
    done = bench()
    found = json.loads((done.store.directory / "grid.json").read_text())
    assert {"schema", "workload", "source_hash", "environment", "cells"} <= found.keys()
    assert all({"cell_id", "arm", "setting"} <= cell.keys() for cell in found["cells"])


def test_a_held_directory_is_refused_before_the_server_starts(bench, tmp_path):
    executor = FakeExecutor()
    with Store(tmp_path).locked(), pytest.raises(ConfigError, match="in use by another run"):
        bench(executor=executor)
    assert not hasattr(executor, "preload")


def test_timeout_is_a_result_unless_retry_is_requested(bench):
    late = Ending(None, 9, None, True, 0.1)
    first = bench(executor=FakeExecutor({2: late}))
    assert outcome_counts(first.totals.records) == {"ok": 2, "timeout": 2}
    assert bench().executor.measured == []
    again = bench(retry=True)
    assert again.executor.measured == [2, 2]
    assert outcome_counts(again.totals.records) == {"ok": 4}


SIZED = WorkloadSpec("toy", Toy, print, monotone=("size",))
OUT_RESULT = JobResult(Outcome.OOM_GPU, "CUDA out of memory", {"torch": "2.15"}, measurement=Measurement({}))
OUT = Ending(OUT_RESULT, None, 0, False, 0.1)


def test_dominated_run_leaves_a_record_without_a_process(bench):
    done = bench(sizes=(1, 2, 4, 8), spec=SIZED, executor=FakeExecutor({4: OUT, 8: OUT}))
    assert done.executor.measured[:3] == [1, 2, 4]
    assert sorted(done.executor.measured[3:]) == [1, 2, 4]
    assert outcome_counts(done.totals.records) == {"ok": 4, "oom_gpu": 2, "skipped_dominated": 2}
    skipped = [record for record in done.totals.records if record.outcome == "skipped_dominated"]
    for record in skipped:
        assert record.cell_id == id_of(8, SIZED)
        assert id_of(4, SIZED) in record.reason
        assert record.environment == {"torch": "2.15"}
        assert (record.metrics, record.duration_s) == ({}, 0.0)
    assert bench(sizes=(1, 2, 4, 8), spec=SIZED).totals.ran == 0


def test_skipped_run_is_made_if_skipping_is_off_or_nothing_dominates_it_any_more(bench):
    ends, sizes = {4: OUT, 8: OUT}, (1, 2, 4, 8)
    first = bench(sizes=sizes, spec=SIZED, executor=FakeExecutor(ends))
    all_of_them = bench(sizes=sizes, spec=SIZED, executor=FakeExecutor(ends), skip=False)
    assert all_of_them.executor.measured == [8, 8]
    assert outcome_counts(all_of_them.totals.records) == {"ok": 4, "oom_gpu": 4}
    for record in first.totals.records:
        if record.outcome != "ok":
            (first.store.records_directory / f"{record.name}.json").unlink()
    assert sorted(bench(sizes=sizes, spec=SIZED).executor.measured) == [4, 4, 8, 8]


def test_with_the_flag_off_nothing_is_skipped(bench):
    done = bench(sizes=(1, 4, 8), spec=SIZED, executor=FakeExecutor({4: OUT}), skip=False)
    assert outcome_counts(done.totals.records) == {"ok": 4, "oom_gpu": 2}


class Jumpy:
    """A wall clock that is set by an hour during chosen processes, counted from 0."""

    def __init__(self, *disturbed: int):
        self.reads, self.offset_s, self.disturbed = 0, 0.0, disturbed

    def wall_s(self) -> float:
        number, is_end = divmod(self.reads, 2)
        self.reads += 1
        self.offset_s += 3600 if is_end and number in self.disturbed else 0
        return self.offset_s

    @property
    def readers(self) -> Readers:
        return replace(STILL, wall_s=self.wall_s)


def test_disturbed_run_is_discarded_and_repeated(bench):
    done = bench(readers=Jumpy(1).readers)
    assert done.executor.measured[:3] == [1, 2, 2]
    assert sorted(done.executor.measured[3:]) == [1, 2]
    assert [record.marks for record in done.totals.records] == [()] * 4
    assert done.totals.ran == 4
    (thrown,) = done.store.read_discarded()
    assert (thrown.name, thrown.outcome) == (f"{id_of(2)}-a-0", "invalid_env")
    assert thrown.reason.startswith("clock jump")
    assert thrown.metrics.keys() == done.totals.records[0].metrics.keys()
    assert bench().totals.ran == 0


def test_last_attempt_is_kept_with_its_warnings(bench):
    done = bench(sizes=(1,), readers=Jumpy(0, 1).readers)
    first, second = done.totals.records
    assert (first.outcome, second.marks) == ("ok", ())
    assert first.marks[0].startswith("clock jump")
    assert len(done.store.read_discarded()) == 1


def test_repeating_can_be_turned_off(bench):
    done = bench(sizes=(1,), readers=Jumpy(0).readers, invalid_reruns=0)
    assert done.store.read_discarded() == []
    assert [bool(record.marks) for record in done.totals.records] == [True, False]


def test_a_machine_that_is_never_quiet_does_not_double_a_grid(bench):
    done = bench(sizes=range(1, 13), readers=Jumpy(*range(999)).readers)
    assert len(done.executor.measured) == 24 + 8
    assert len(done.store.read_discarded()) == 8
    assert all(record.marks for record in done.totals.records)


def test_runs_discarded_before_an_interruption_count(bench):
    first = bench(sizes=(1,), readers=Jumpy(0, 1).readers)
    (first.store.records_directory / f"{id_of(1)}-a-0.json").unlink()
    again = bench(sizes=(1,), readers=Jumpy(0).readers)
    assert again.executor.measured == [1]
    assert again.totals.records[0].marks
    assert len(again.store.read_discarded()) == 1


def test_failed_run_gets_warnings_and_is_not_repeated(bench):
    dead = Ending(None, 11, None, False, 0.1)
    done = bench(executor=FakeExecutor({2: dead}), readers=Jumpy(*range(9)).readers, invalid_reruns=0)
    assert all(record.marks for record in done.totals.records)
    assert sorted(done.executor.measured) == [1, 1, 2, 2]


def test_runs_on_fake_tensors_get_no_warnings(bench):
    done = bench(fake=True, readers=Jumpy(*range(9)).readers)
    assert [record.marks for record in done.totals.records] == [()] * 4


def test_two_sides_are_measured_in_pairs(bench):
    done = bench(sizes=(1,), sides=2)
    names = [record.name.removeprefix(id_of(1)) for record in done.totals.records]
    assert names == ["-a-0", "-a-1", "-b-0", "-b-1"]
    with pytest.raises(BoundElsewhereError, match="another config"):
        bench(sizes=(1,), sides=1)


def test_pair_broken_by_an_interruption_gets_a_warning(bench):
    first = bench(sizes=(1,), sides=2)
    (first.store.records_directory / f"{id_of(1)}-b-0.json").unlink()
    again = bench(sizes=(1,), sides=2)
    marks = {record.name: record.marks for record in again.totals.records}
    assert marks.pop(f"{id_of(1)}-b-0") == (BROKEN_PAIR,)
    assert set(marks.values()) == {()}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"environment": {"torch": "2.16"}}, r"of another environment \(torch: 2.15, now 2.16\)"),
        ({"setting": {"size": 9}}, "of another setting than the cell of that id"),
        ({"workload": "other"}, "of another setting than the cell of that id"),
    ],
)
def test_record_from_another_directory_is_refused_by_name(bench, change, named):
    first = bench()
    path = first.store.records_directory / f"{first.totals.records[0].name}.json"
    path.write_text(record_text(parse_record(path.read_bytes()).model_copy(update=change)))
    with pytest.raises(BoundElsewhereError, match=f"{path.name} is {named}; take it out"):
        bench()
