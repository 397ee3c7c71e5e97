"""Tests of the sampling thread, with a fake reader and clock."""

import itertools
import threading

from slr_bench.probes.sampler import DEFAULT_PERIOD_S, Sampler

NEVER_S = 3600.0


def test_sampler_reads_once_at_each_end():
    rows = iter([(10,), (70,), (30,)])
    with Sampler(rows.__next__, NEVER_S, clock=itertools.count().__next__) as sampler:
        sampler.sample()
    assert sampler.rows == [(10,), (70,), (30,)]
    assert sampler.times_s == [0, 1, 2]
    assert sampler.peak(0) == 70


def test_sampler_reads_in_its_own_thread_while_open():
    seen = threading.Semaphore(0)
    threads = []

    def read():
        threads.append(threading.current_thread())
        seen.release()
        return (len(threads),)

    with Sampler(read, period_s=1e-4) as sampler:
        for _ in range(5):
            assert seen.acquire(timeout=30)
    assert {thread.name for thread in threads} == {threading.current_thread().name, "slr-bench-sampler"}
    assert threads[0] is threads[-1] is threading.current_thread()
    assert len(sampler.times_s) == len(sampler.rows) == len(threads) >= 5
    assert not threads[1].is_alive()
    assert sampler.cpu_s > 0


def test_a_series_that_was_never_readable_has_no_peak():
    rows = iter([(1, None, None), (5, None, 0), (3, None, None)])
    with Sampler(rows.__next__, NEVER_S) as sampler:
        sampler.sample()
    assert [sampler.peak(column) for column in range(3)] == [5, None, 0]


def test_default_period_is_long_enough_for_drivers():
    assert DEFAULT_PERIOD_S >= 0.05
