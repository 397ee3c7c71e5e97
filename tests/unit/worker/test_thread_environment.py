"""How many threads a cell's process gets."""

import pytest

from slr_bench.run.session import thread_environment


@pytest.fixture(autouse=True)
def no_threads_named(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_one_thread_a_core_where_nobody_says(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    assert thread_environment() == {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "1"}


def test_mkl_follows_openmp_since_torch_asks_mkl(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert thread_environment()["MKL_NUM_THREADS"] == "1"
    monkeypatch.setenv("MKL_NUM_THREADS", "4")
    assert thread_environment()["MKL_NUM_THREADS"] == "4"
