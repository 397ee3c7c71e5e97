"""The threads that the process of a cell gets, and the progress that the driver passes on."""

import pytest

from slr_bench.execute.job import PhaseEntered, StepTraced
from slr_bench.execute.local import thread_environment
from slr_bench.run.cell_runner import on_phase


@pytest.fixture(autouse=True)
def no_threads_named(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_default_is_one_thread_per_core(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    assert thread_environment() == {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "1"}


def test_mkl_threads_follow_openmp_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert thread_environment()["MKL_NUM_THREADS"] == "1"
    monkeypatch.setenv("MKL_NUM_THREADS", "4")
    assert thread_environment()["MKL_NUM_THREADS"] == "4"


def test_only_phases_are_passed_on_as_progress():
    phases = []
    receive = on_phase(phases.append)
    for message in (PhaseEntered("step 1/2"), StepTraced(0, {}), PhaseEntered("trace")):
        receive(message)
    assert phases == ["step 1/2", "trace"]
