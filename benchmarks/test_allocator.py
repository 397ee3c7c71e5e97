"""Requests and frees per second of the simulated CUDA allocator."""

from __future__ import annotations

import random
from typing import Any

import pytest

from slr_bench.predict.allocator.expandable import ALLOCATORS
from slr_bench.predict.allocator.recording import Event
from slr_bench.predict.allocator.replay import replay_events
from slr_bench.predict.allocator.rules import AllocatorSettings
from slr_bench.units import KIB, MIB

EVENTS = 50_000


def trace() -> list[Event]:
    """Sizes from bytes to 64 MiB, half of the events frees of any of those alive."""
    chance = random.Random(0)
    alive: list[int] = []
    found: list[Event] = []
    for number in range(EVENTS):
        if alive and chance.random() < 0.5:
            found.append(Event("free", alive.pop(chance.randrange(len(alive))), 0))
        else:
            low, high = chance.choice([(1, 4 * KIB), (4 * KIB, MIB), (MIB, 64 * MIB)])
            found.append(Event("alloc", number, chance.randint(low, high)))
            alive.append(number)
    return found


@pytest.mark.parametrize("expandable", [False, True], ids=["segments", "expandable"])
def test_replay(benchmark: Any, expandable: bool) -> None:
    events = trace()
    settings = AllocatorSettings(expandable_segments=expandable)

    replayed = benchmark(lambda: replay_events(events, ALLOCATORS[settings.expandable_segments](settings)))

    assert len(replayed.reserved_bytes) == EVENTS
    if benchmark.stats is not None:
        benchmark.extra_info["events_per_s"] = round(EVENTS / benchmark.stats.stats.median)
        print(f"\n{benchmark.extra_info['events_per_s']:,} events per second")
