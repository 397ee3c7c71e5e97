"""The trace pool: each distinct cell is traced once, and a failing trace costs no other."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import invalidate_caches
from pathlib import Path
from types import SimpleNamespace

import pytest
from step_profiles import step_profile

from models.config import Settings
from slr_bench.execute.job import Ending, JobResult, PhaseEntered, StepTraced
from slr_bench.execute.local import ServerDiedError
from slr_bench.files import nest
from slr_bench.grid.cells import Cell, own_cell
from slr_bench.grid.config import GridConfig
from slr_bench.grid.workload import WorkloadSpec
from slr_bench.predict import trace_pool
from slr_bench.predict.trace_pool import Refusal, TracePool, trace_steps
from slr_bench.record import Outcome

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
SPEC = WorkloadSpec("toy", Settings, build=print, micro_batches="training.gradient_accumulation_steps")
NO_RESULT = Ending(None, None, 0, False, 0.0)


def cell(**values) -> Cell:
    settings = Settings.model_validate(nest({key.replace("__", "."): value for key, value in values.items()}))
    return Cell("id", "arm", SPEC, None, settings, {}, True)


class StartedServer:
    """A server that has nothing to import."""

    starts = ended = 0

    def start(self):
        self.starts += 1

    def wait_ready(self):
        pass

    def __exit__(self, *why):
        self.ended += 1


class Server(StartedServer):
    """Answers each step with its setting as ``by_category``.

    ``script`` has the number of answers and the ending of each job.
    """

    def __init__(self, *script):
        self.script = list(script)
        self.jobs = []

    def submit(self, job):
        self.jobs.append(job)
        return SimpleNamespace(wait=lambda on_message, is_cancelled: self.answer(job, on_message))

    def answer(self, job, on_message):
        steps = job.task.steps
        answers, ending = self.script.pop(0) if self.script else (len(steps), NO_RESULT)
        on_message(PhaseEntered("import"))
        for number in range(answers):
            on_message(StepTraced(number, profile_of(steps[number])))
        if isinstance(ending, Exception):
            raise ending
        return replace(ending, timeout_s=job.timeout_s)


def profile_of(step):
    """Return the message of a tracing process about a step, which its categories identify."""
    training = step.work.setting["training"]
    marks = {
        "batch_size": training["batch_size"],
        "micro_batches": training["gradient_accumulation_steps"],
        "more": step.more_micro_batches,
    }
    return vars(step_profile(by_category=marks))


@pytest.fixture
def serve(monkeypatch):
    """``serve((answers, ending), ...)`` replaces the executor by a scripted server and returns it."""

    def start(*script):
        server = Server(*script)
        monkeypatch.setattr(trace_pool, "LocalExecutor", lambda preload, environment: server)
        monkeypatch.setattr(os, "cpu_count", lambda: 1)
        return server

    return start


N = "training__gradient_accumulation_steps"


def test_equal_cells_are_traced_once_and_all_are_reported(serve):
    server = serve()
    cells = [cell(**{N: 1}), cell(**{N: 2}), cell(**{N: 1}), cell(**{N: 1, "training__batch_size": 4})]
    traced = []
    found = trace_steps(cells, True, lambda one, step: traced.append((cells.index(one), step)))
    (job,) = server.jobs
    assert server.ended == 1
    assert len(job.task.steps) == 3
    assert all(step.work.cuda_rules is step.work.fake is True for step in job.task.steps)
    assert found[0] is found[2]
    assert [step.by_category["batch_size"] for step in found] == [8, 8, 8, 4]
    assert len(traced) == 4


def test_at_most_two_micro_batches_are_traced(serve):
    serve()
    found = trace_steps([cell(**{N: count}) for count in (1, 2, 3, 32)], False)
    steps = [(step.by_category["micro_batches"], step.by_category["more"]) for step in found]
    assert steps == [(1, 0), (2, 0), (2, 1), (2, 30)]


def test_no_process_starts_without_cells(monkeypatch):
    monkeypatch.setattr(trace_pool, "LocalExecutor", None)
    assert trace_steps([], True) == []


def test_whole_training_is_refused_before_any_process_starts(monkeypatch):
    monkeypatch.setattr(trace_pool, "LocalExecutor", None)
    whole = replace(cell(), spec=replace(SPEC, kind="whole"))
    traced = []
    (found,) = trace_steps([whole], True, lambda *result: traced.append(result))
    assert "toy is a whole training" in found.reason
    assert "--workload" in found.reason
    assert traced == [(whole, found)]


CELLS = 4


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (Ending(None, 9, None, False, 0.0), "by signal 9"),
        (Ending(None, None, 3, False, 0.0), "with status 3"),
        (Ending(None, 9, None, True, 0.0), "more than 480 s"),
        (Ending(JobResult(Outcome.CRASH, "no module named x", {}), None, 0, False, 0.0), "no module named x"),
    ],
)
def test_child_that_dies_loses_only_the_cell_that_it_was_tracing(serve, ending, words):
    server = serve((1, ending))
    found = trace_steps([cell(**{N: count}) for count in range(1, 1 + CELLS)], True)
    assert words in found[1].reason
    assert [isinstance(one, Refusal) for one in found] == [False, True, False, False]
    assert [len(job.task.steps) for job in server.jobs] == [4, 2]
    assert found[3].by_category["more"] == 2


def test_server_that_dies_loses_the_cells_without_a_result(serve):
    serve((2, ServerDiedError("the fork server ended with status 1")))
    found = trace_steps([cell(**{N: count}) for count in range(1, 1 + CELLS)], True)
    assert [isinstance(one, Refusal) for one in found] == [False, False, True, True]
    assert "status 1" in found[2].reason


def test_many_cells_are_distributed_over_processes(serve, monkeypatch):
    server = serve()
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    cells = [cell(**{N: count}) for count in range(1, 10)]
    found = trace_steps(cells, True)
    assert sorted(len(job.task.steps) for job in server.jobs) == [4, 5]
    assert [step.by_category["more"] for step in found] == [0, 0, 1, 2, 3, 4, 5, 6, 7]


@pytest.fixture
def plugins(monkeypatch):
    """Register the workload that fails on request, for this process and its children."""
    monkeypatch.syspath_prepend(PLUGINS)
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS), prepend=os.pathsep)
    invalidate_caches()


def test_failing_trace_costs_no_other_in_real_processes(plugins):
    modes = ("ok", "raise", "unsupported", "sigkill", "exit", "ok")
    cells = [
        own_cell(GridConfig(workload="faulty", set={"fault.mode": mode, "fault.size": 1000 + place}), {})
        for place, mode in enumerate(modes)
    ]
    first, raised, unsupported, killed, left, last = trace_steps(cells, True)
    assert first.peak_tensor_bytes == 4 * 1000
    assert last.peak_tensor_bytes == 4 * 1005
    assert first.source == "cuda-rules"
    assert raised.reason.startswith("the step failed with ValueError: broken on purpose (faulty_workload.py:")
    assert "slr-bench profile" in raised.reason
    assert unsupported.reason == "this machine cannot do it"
    assert "by signal 9" in killed.reason
    assert "with status 3" in left.reason


class EndlessServer(StartedServer):
    """A server whose step never ends by itself."""

    def submit(self, job):
        return SimpleNamespace(wait=lambda on_message, is_cancelled: self.wait(job, on_message, is_cancelled))

    def wait(self, job, on_message, is_cancelled):
        on_message(StepTraced(0, profile_of(job.task.steps[0])))
        for _ in range(10_000_000):
            if is_cancelled():
                return NO_RESULT
        raise AssertionError("the trace was not stopped")


def test_interruption_does_not_wait_for_a_trace(monkeypatch):
    monkeypatch.setattr(trace_pool, "LocalExecutor", lambda preload, environment: EndlessServer())
    monkeypatch.setattr(os, "cpu_count", lambda: 1)

    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trace_steps([cell(**{N: 1}), cell(**{N: 2})], True, interrupted)


def test_pool_starts_a_process_on_entry_only_if_start_early_is_set(serve):
    server = serve()
    with TracePool():
        assert server.starts == 0
    assert server.ended == 0
    with TracePool(start_early=True) as pool:
        assert server.starts == 1
        pool.trace([cell(**{N: 1})], True)
        assert server.starts == 1
    assert server.ended == 1


def test_pool_traces_a_cell_once_over_several_calls(serve):
    server = serve()
    with TracePool() as pool:
        (first,) = pool.trace([cell(**{N: 1})], True)
        again, _ = pool.trace([cell(**{N: 1}), cell(**{N: 2})], True)
    assert again is first
    assert [len(job.task.steps) for job in server.jobs] == [1, 1]
