"""Predictions of the time of a training in closed form, and the small setting for a CPU."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import Settings
from models.training.pace import SMALL, Pace, TrainingSize, duration_text, small_setting
from slr_bench.files import flatten, parse_overrides

SIZE = TrainingSize(epochs=10, steps_per_epoch=20, clips=300, val_clips=90)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=15), st.integers(0, 100))
def test_remaining_time_is_that_of_the_steps_and_the_validation_left(steps_s, steps_done):
    """A clip in validation takes a third of its time in training: 200 steps with validation take 220 times one step."""
    pace = Pace(SIZE, steps_done, clock=lambda: 0.0)
    assert pace.remaining_s is None
    for _ in steps_s:
        pace.add(2.0)
    assert pace.total_s == pytest.approx(2.0 * 200 * 1.1)
    assert pace.remaining_s == pytest.approx(pace.total_s * (200 - steps_done - len(steps_s)) / 200)


def test_first_step_does_not_count_if_it_was_much_slower():
    pace = Pace(SIZE, 0)
    pace.add(4.0)
    assert pace.announcement() is None
    pace.add(0.1)
    assert pace.total_s == pytest.approx(22.0)


def test_last_steps_count():
    pace = Pace(SIZE, 0)
    for step_s in [1.0] * 50 + [3.0] * 20:
        pace.add(step_s)
    assert pace.total_s == pytest.approx(3.0 * 220)


def test_a_long_step_is_announced_after_the_first_one():
    pace = Pace(SIZE, 0)
    assert pace.announcement() is None
    pace.add(41.0)
    assert pace.announcement() == "a step takes 41 s here: about 2.5 h for 10 epochs of 20 steps"
    assert pace.announcement() is None


def test_lines_are_due_at_most_once_per_minute_and_fifty_times_in_all():
    now = [0.0]
    pace = Pace(SIZE, 0, lambda: now[0])
    pace.add(100.0)  # 22,000 s in all: a line per 440 s
    due = []
    while now[0] < pace.total_s:
        now[0] += 10.0
        due.append(pace.is_line_due())
    assert sum(due) == 50
    short = Pace(SIZE, 0, lambda: now[0])
    short.add(0.1)
    now[0] += 59.0
    assert not short.is_line_due()
    now[0] += 1.0
    assert short.is_line_due()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 s"), (0.004, "4 ms"), (0.13, "0.1 s"), (9.96, "10.0 s"), (119, "119 s"), (130, "2.2 min"),
     (7000, "117 min"), (9000, "2.5 h"), (100_000, "28 h"), (400_000, "4.6 days")],
)  # fmt: skip
def test_durations_are_readable(seconds, text):
    assert duration_text(seconds) == text


def test_small_setting_changes_the_reference_configuration_to_what_it_promises():
    pairs = small_setting(Settings())
    assert parse_overrides(pairs) == {
        "model.base_channels": 16, "data.frame_size": 64, "training.precision": "fp32", "training.recompute": "none"
    }  # fmt: skip
    now = flatten(Settings().model_dump(mode="json")) | parse_overrides(pairs)
    assert {key: now[key] for key in SMALL} == SMALL


@pytest.mark.parametrize(
    "changes",
    [
        {
            "model": {"base_channels": 16},
            "data": {"frame_size": 64},
            "training": {"precision": "fp32", "recompute": "none"},
        },
        {"model": {"weights": "backbone.pt"}},
    ],
)
def test_there_is_no_small_setting_if_it_is_small_or_starts_from_weights(changes):
    assert small_setting(Settings.model_validate(changes)) is None


def test_focus_is_removed_with_its_size():
    settings = Settings.model_validate({"model": {"region_focus": "motion", "focus_size": 128}})
    assert {"model.region_focus=none", "model.focus_size=null"} <= set(small_setting(settings))
