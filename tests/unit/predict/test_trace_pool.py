"""Cells in, traced steps out: each once, and none at another's cost."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from importlib import invalidate_caches
from pathlib import Path
from types import SimpleNamespace

import pytest

from models.config import Settings
from slr_bench.execute.job import Ending, JobResult, PhaseEntered, StepTraced
from slr_bench.execute.local import ServerDiedError
from slr_bench.files import nest
from slr_bench.grid.cells import Cell, own_cell
from slr_bench.grid.config import GridConfig
from slr_bench.grid.workload import WorkloadSpec
from slr_bench.predict import trace_pool as foresight
from slr_bench.predict.trace_pool import foresee
from slr_bench.record import Outcome

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
SPEC = WorkloadSpec("toy", Settings, build=print, micro_batches="training.gradient_accumulation_steps")
NO_RESULT = Ending(None, None, 0, False, 0.0)


def cell(**values) -> Cell:
    settings = Settings.model_validate(nest({key.replace("__", "."): value for key, value in values.items()}))
    return Cell("id", "arm", SPEC, None, settings, {}, True)


class Begun:
    """A server that has nothing to import."""

    ended = 0

    def start(self):
        pass

    def wait_ready(self):
        pass

    def __exit__(self, *why):
        self.ended += 1


class Server(Begun):
    """Answers each step with its place among all that were asked; ``script`` says how each job ends, and after how
    many answers.
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
            on_message(StepTraced(number, {**asdict(steps[number]), "setting": steps[number].work.setting}))
        if isinstance(ending, Exception):
            raise ending
        return replace(ending, timeout_s=job.timeout_s)


@pytest.fixture
def serve(monkeypatch):
    """``serve((answers, ending), ...)`` -> the server that is asked."""

    def start(*script):
        server = Server(*script)
        monkeypatch.setattr(foresight, "LocalExecutor", lambda preload, environment: server)
        monkeypatch.setattr(os, "cpu_count", lambda: 1)
        return server

    return start


N = "training__gradient_accumulation_steps"


def test_equal_cells_are_traced_once_and_all_are_told(serve):
    server = serve()
    cells = [cell(**{N: 1}), cell(**{N: 2}), cell(**{N: 1}), cell(**{N: 1, "training__batch_size": 4})]
    seen = []
    found = foresee(cells, True, lambda one, step: seen.append((cells.index(one), step)))
    (job,) = server.jobs
    assert server.ended == 1
    assert len(job.task.steps) == 3
    assert all(step.work.cuda_rules is step.work.fake is True for step in job.task.steps)
    assert found[0] is found[2]
    assert [step["setting"]["training"]["batch_size"] for step in found] == [8, 8, 8, 4]
    assert len(seen) == 4


def test_no_more_than_two_micro_batches_are_traced(serve):
    serve()
    found = foresee([cell(**{N: count}) for count in (1, 2, 3, 32)], False)
    steps = [(step["setting"]["training"]["gradient_accumulation_steps"], step["more_micro_batches"]) for step in found]
    assert steps == [(1, 0), (2, 0), (2, 1), (2, 30)]


def test_no_cells_start_no_process(monkeypatch):
    monkeypatch.setattr(foresight, "LocalExecutor", None)
    assert foresee([], True) == []


def test_a_whole_training_is_refused_before_any_process(monkeypatch):
    monkeypatch.setattr(foresight, "LocalExecutor", None)
    whole = replace(cell(), spec=replace(SPEC, kind="whole"))
    seen = []
    (found,) = foresee([whole], True, lambda *told: seen.append(told))
    assert "toy is a whole training" in found
    assert "--workload" in found
    assert seen == [(whole, found)]


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
def test_a_child_that_dies_loses_the_cell_it_was_at(serve, ending, words):
    server = serve((1, ending))
    found = foresee([cell(**{N: count}) for count in range(1, 1 + CELLS)], True)
    assert words in found[1]
    assert [isinstance(one, str) for one in found] == [False, True, False, False]
    assert [len(job.task.steps) for job in server.jobs] == [4, 2]
    assert found[3]["more_micro_batches"] == 2


def test_a_server_that_dies_costs_what_it_had_not_told(serve):
    serve((2, ServerDiedError("the fork server ended with status 1")))
    found = foresee([cell(**{N: count}) for count in range(1, 1 + CELLS)], True)
    assert [isinstance(one, str) for one in found] == [False, False, True, True]
    assert "status 1" in found[2]


def test_many_cells_are_shared_among_processes(serve, monkeypatch):
    server = serve()
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    cells = [cell(**{N: count}) for count in range(1, 10)]
    found = foresee(cells, True)
    assert sorted(len(job.task.steps) for job in server.jobs) == [4, 5]
    assert [step["more_micro_batches"] for step in found] == [0, 0, 1, 2, 3, 4, 5, 6, 7]


@pytest.fixture
def plugins(monkeypatch):
    """The workload that fails as told, registered for this process and its children."""
    monkeypatch.syspath_prepend(PLUGINS)
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS), prepend=os.pathsep)
    invalidate_caches()


def test_in_real_processes_no_failing_trace_costs_another(plugins):
    modes = ("ok", "raise", "unsupported", "sigkill", "exit", "ok")
    cells = [
        own_cell(GridConfig(workload="faulty", set={"fault.mode": mode, "fault.size": 1000 + place}), {})
        for place, mode in enumerate(modes)
    ]
    first, raised, unsupported, killed, left, last = foresee(cells, True)
    assert first["peak_tensor_bytes"] == 4 * 1000
    assert last["peak_tensor_bytes"] == 4 * 1005
    assert first["source"] == "cuda-rules"
    assert raised.startswith("the step failed with ValueError: broken on purpose (faulty_workload.py:")
    assert "slr-bench profile" in raised
    assert unsupported == "this machine cannot do it"
    assert "by signal 9" in killed
    assert "with status 3" in left


class Endless(Begun):
    """A server whose step never ends by itself."""

    def submit(self, job):
        return SimpleNamespace(wait=self.wait)

    def wait(self, on_message, is_cancelled):
        on_message(StepTraced(0, {}))
        for _ in range(10_000_000):
            if is_cancelled():
                return NO_RESULT
        raise AssertionError("nobody stopped it")


def test_an_interruption_waits_for_no_trace(monkeypatch):
    monkeypatch.setattr(foresight, "LocalExecutor", lambda preload, environment: Endless())
    monkeypatch.setattr(os, "cpu_count", lambda: 1)

    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        foresee([cell(**{N: 1}), cell(**{N: 2})], True, interrupted)
