"""Sequences of memory readings and the exact sequences of actions that follow."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import fake_tracker

from models.training.memory import MemoryPressure, Relief

KINDS = {"cache": "shed_cache", "prefetch": "shed_prefetch", "workers": "shed_workers", "halve": "halved"}


class Machine:
    """Memory that can be freed so many times each; ``-`` stands for a reading without an action.

    Of the 10 GiB of RAM ``own_gib`` are the training's, and ``cache_gib`` of these are in its cache.
    """

    def __init__(self, device="cpu", settle=0, own_gib=10.0, cache_gib=0.0, **times):
        self.left = {"cache": 1, "prefetch": 1, "workers": 2, "halve": 2} | times
        self.own_gib = own_gib
        frees = {"cache": lambda: round(cache_gib * 2**30)}
        shed = [
            Relief(KINDS[what], lambda what=what: self.give(what), frees.get(what, int))
            for what in ("cache", "prefetch", "workers")
        ]
        self.pressure = MemoryPressure(shed, lambda: self.give("halve"), device, settle)

    def give(self, what):
        if not self.left[what]:
            return None
        self.left[what] -= 1
        return what

    def react(self, ram, gpu=None):
        gpu = gpu or [0.0] * len(ram)
        tracker = fake_tracker(iter(ram).__next__, iter(gpu).__next__, own_gib=self.own_gib)
        done = [self.pressure.react(tracker.check_memory()) for _ in ram]
        assert all(one is None or one[0] == KINDS[one[1]] for one in done)
        return " ".join(one[1] if one else "-" for one in done)


def test_from_warning_on_the_loader_sheds_in_order_until_nothing_is_left():
    assert Machine().react([89, 90, 91, 80, 92, 93, 94, 94]) == "- cache prefetch - workers workers - -"


def test_critical_ram_halves_a_micro_batch_in_ram_first():
    assert Machine().react([50, 96, 91, 97, 99, 96, 50]) == "- halve cache halve prefetch workers -"


def test_gpu_memory_halves_the_micro_batch_and_ram_sheds_the_loader():
    ram = [96, 96, 10, 10, 96, 91, 10, 10]
    gpu = [10, 91, 91, 96, 96, 96, 99, 10]
    assert Machine("cuda").react(ram, gpu) == "cache prefetch - halve halve workers - -"


def test_actions_have_time_to_take_effect():
    assert Machine(settle=2).react([91] * 7) == "cache - - prefetch - - workers"
    assert Machine(settle=1).react([96, 91, 91, 50, 91]) == "halve - cache - prefetch"


def test_actions_with_nothing_to_free_are_skipped():
    assert Machine(cache=0, workers=0).react([91, 91, 91]) == "prefetch - -"
    assert Machine(halve=0).react([99, 99]) == "cache prefetch"


def test_memory_of_other_programs_changes_nothing():
    assert Machine(own_gib=1.0).react([91, 96, 99, 100, 100]) == "- - - - -"


def test_memory_is_other_programs_if_they_hold_more_than_half_of_it():
    assert Machine(own_gib=4.7).react([96]) == "-"
    assert Machine(own_gib=4.9).react([96]) == "halve"


@pytest.mark.parametrize(("cache_gib", "acts"), [(0.49, "- -"), (0.51, "cache -")])
def test_cache_is_dropped_for_other_programs_only_if_that_frees_enough(cache_gib, acts):
    """At 95 % of 10 GiB, 0.5 GiB are above the threshold."""
    assert Machine(own_gib=1.0, cache_gib=cache_gib).react([95, 95]) == acts


def test_gpu_memory_of_other_programs_halves_nothing():
    """Others hold 6 of the 9.7 GiB in use."""
    reading = fake_tracker(lambda: 10, lambda: 97).check_memory() | {"gpu_peak_allocated": 3.7}
    assert reading["gpu_level"] == "critical"
    assert Machine("cuda").pressure.react(reading) == ("halved", "halve")
    assert Machine("cuda").pressure.react(reading | {"is_gpu_others": True}) is None


@given(st.lists(st.floats(0, 100), max_size=40), st.integers(0, 4), st.sampled_from(["cpu", "cuda"]))
def test_one_action_at_a_time_none_below_the_threshold_and_none_while_settling(ram, settle, device):
    taken = Machine(device, settle).react(ram).split()
    acted = [index for index, what in enumerate(taken) if what != "-"]
    assert all(ram[index] >= 89.99 for index in acted)
    assert all(later - earlier > settle for earlier, later in pairwise(acted))
    shed = [what for what in taken if what not in ("-", "halve")]
    assert shed == ["cache", "prefetch", "workers", "workers"][: len(shed)]
    assert device == "cpu" or "halve" not in taken


@pytest.mark.parametrize("level", [89.9, 90.1])
def test_action_starts_at_the_threshold(level):
    assert (Machine().react([level]) == "cache") is (level > 90)
