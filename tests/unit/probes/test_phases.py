"""Spans of named phases, on a clock made by hand."""

from contextlib import contextmanager

import pytest

from slr_bench.probes import phases
from slr_bench.probes.phases import PhaseClock, Span


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Each look at the clock is one second later than the one before; it was made at 100 s."""
    ticks = iter(range(100, 200))
    monkeypatch.setattr(phases.time, "perf_counter", lambda: float(next(ticks)))


def test_spans_count_from_the_clocks_making():
    phase = PhaseClock()
    with phase("load"), phase("decode"):
        pass
    with phase("load"):
        pass
    assert phase.spans == [Span("decode", 2, 3), Span("load", 1, 4), Span("load", 5, 6)]
    assert phase.total_s("load") == 4
    assert phase.total_s("absent") == 0


def test_a_phase_that_fails_leaves_its_span():
    phase = PhaseClock()
    with pytest.raises(KeyError), phase("load"):
        raise KeyError
    assert phase.spans == [Span("load", 1, 2)]


def test_the_device_is_waited_for_before_each_look_at_the_clock():
    calls = []
    phase = PhaseClock(lambda: calls.append("wait"))
    with phase("forward"):
        calls.append("work")
    assert calls == ["wait", "work", "wait"]


def test_switched_off_it_neither_waits_nor_keeps_a_span_but_still_tells_the_listener():
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
