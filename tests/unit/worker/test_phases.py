"""Tests of the spans of named phases, with a fake clock."""

from contextlib import contextmanager

import pytest

from slr_bench.worker import context
from slr_bench.worker.context import PhaseClock, Span


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Each look at the clock is one second later than the one before; it was made at 100 s."""
    ticks = iter(range(100, 200))
    monkeypatch.setattr(context.time, "perf_counter", lambda: float(next(ticks)))


def test_spans_are_relative_to_the_creation_of_the_clock():
    phase = PhaseClock()
    with phase("load"), phase("decode"):
        pass
    with phase("load"):
        pass
    assert phase.spans == [Span("decode", 2, 3), Span("load", 1, 4), Span("load", 5, 6)]
    assert phase.total_s("load") == 4
    assert phase.total_s("absent") == 0


def test_failing_phase_leaves_its_span():
    phase = PhaseClock()
    with pytest.raises(KeyError), phase("load"):
        raise KeyError
    assert phase.spans == [Span("load", 1, 2)]


def test_device_is_synchronised_before_each_reading_of_the_clock():
    calls = []
    phase = PhaseClock(lambda: calls.append("wait"))
    with phase("forward"):
        calls.append("work")
    assert calls == ["wait", "work", "wait"]


def test_disabled_clock_neither_waits_nor_keeps_spans_but_calls_the_listener():
    calls = []
    phase = PhaseClock(lambda: calls.append("wait"))
    phase.enabled = False

    @contextmanager
    def listener(name):
        calls.append(f"in {name}")
        yield
        calls.append("out")

    phase.listener = listener
    with phase("forward"):
        calls.append("work")
    assert calls == ["in forward", "work", "out"]
    assert phase.spans == []
