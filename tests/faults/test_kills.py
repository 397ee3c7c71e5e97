"""SIGKILL at any instant, then the same command again: nothing is lost, doubled or half-read, and no process is left.

The runner, the fork server and the store are the real ones; only the cell's work needs no torch.
"""

from __future__ import annotations

import itertools
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

ROLES = ("runner", "runner", "runner", "server", "cell")
FAST_SEEDS = range(6)
ALL_SEEDS = range(6, 206)
BATCH = 25

BOTH = ("before", "after")
POINTS = [
    # grid.json is the first durable write; then samples and record of each run. Three calls each.
    *(f"runner:write:{nth}:half" for nth in (1, 2, 3)),
    *(f"runner:{name}:{nth}:{when}" for name in ("fsync", "replace") for nth in range(1, 7) for when in BOTH),
    *(f"server:{name}:{nth}:{when}" for name in ("_tell", "_run") for nth in range(1, 4) for when in BOTH),
    *(f"server:_end_all_and_reap:{nth}:{when}" for nth in (1, 3) for when in BOTH),
    *(f"cell:{name}:1:{when}" for name in ("build", "step", "trace") for when in BOTH),
    *(f"cell:result:1:{when}" for when in ("before", "half", "after")),
]
FAST_POINTS = (
    "runner:write:1:half",
    "runner:write:3:half",
    "runner:replace:3:before",
    "runner:replace:3:after",
    "server:_end_all_and_reap:3:before",
)


def shoot(new_range, life_s: float, seed: int, shots: tuple[int, ...] = (1, 1, 1, 2, 3)) -> None:
    """Kills of one directory at random instants of its runner's life, then its completion."""
    dice, hits = random.Random(seed), 0
    wanted = dice.choice(shots)
    for attempt in itertools.count():
        # A run may end before its instant (it has less to do after a kill, or the machine is quicker now): again then.
        target = new_range(f"seed{seed}-{attempt}")
        instants = [(dice.uniform(0, life_s), dice.choice(ROLES)) for _ in range(wanted - hits)]
        fired = [target.kill_at(instant_s, role) for instant_s, role in instants]
        struck = [role for role in fired if role is not None]
        target.complete(struck)
        hits += len(struck)
        if hits == wanted:
            return
        life_s *= 0.8


def shoot_at(new_range, point: str) -> None:
    """One kill at a chosen call. A cell that is killed is a crash on record; the others end the runner."""
    target = new_range(point.replace(":", "-"))
    target.end(target.start(point))
    target.complete([f"{point.partition(':')[0]} at a call"])


def both_cores(work, items) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, items))


def test_half_a_dozen_random_instants(new_range, life_s, tally):
    both_cores(lambda seed: shoot(new_range, life_s, seed, shots=(1,)), FAST_SEEDS)
    assert tally.tried.total() >= len(FAST_SEEDS)


def test_chosen_calls(new_range):
    both_cores(lambda point: shoot_at(new_range, point), FAST_POINTS)


@pytest.mark.faults
@pytest.mark.parametrize("first", range(ALL_SEEDS.start, ALL_SEEDS.stop, BATCH))
def test_every_random_instant(new_range, life_s, first):
    both_cores(lambda seed: shoot(new_range, life_s, seed), range(first, first + BATCH))


@pytest.mark.faults
def test_every_chosen_call(new_range):
    both_cores(lambda point: shoot_at(new_range, point), [point for point in POINTS if point not in FAST_POINTS])
