"""Tests that levels of a fraction are ordered, and reached exactly at the threshold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slr_bench.errors import ConfigError
from slr_bench.probes.host import LEVELS, Thresholds


def test_a_level_is_reached_at_its_threshold():
    thresholds = Thresholds(0.5, 0.8)
    assert [thresholds.level(part) for part in (0.0, 0.49, 0.5, 0.79, 0.8, 1.2)] == [
        "ok", "ok", "warning", "warning", "critical", "critical",
    ]  # fmt: skip


@given(st.floats(0, 2), st.floats(0, 2))
def test_more_use_is_never_a_lower_level(one, other):
    low, high = sorted((one, other))
    assert LEVELS.index(Thresholds().level(low)) <= LEVELS.index(Thresholds().level(high))


@pytest.mark.parametrize(("warning", "critical"), [(0, 0.5), (0.9, 0.8), (0.9, 1.1), (90, 95), (float("nan"), 0.9)])
def test_impossible_thresholds_are_refused_with_the_cure(warning, critical):
    with pytest.raises(ConfigError, match=r"like 0\.9 and 0\.95"):
        Thresholds(warning, critical)
