"""Rounding, segment sizes, and parsing of PYTORCH_ALLOC_CONF."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slr_bench.errors import ConfigError
from slr_bench.predict.allocator.rules import (
    AllocatorRules,
    AllocatorSettings,
    round_up,
    rules_of,
    segment_bytes,
    settings_of,
)
from slr_bench.units import GIB, MIB


@given(st.integers(1, 4 * GIB))
def test_request_is_rounded_up_to_a_multiple_of_512(size):
    found = round_up(size, AllocatorSettings())
    assert found % 512 == 0
    assert 0 <= found - size < 512


@given(st.integers(1, 4 * GIB), st.sampled_from([2, 4, 8, 16]))
def test_divisions_round_up_to_steps_between_powers_of_two(size, divisions):
    found = round_up(size, settings_of(f"roundup_power2_divisions:{divisions}"))
    if size <= 512 * divisions:
        assert found == max(512, -(-size // 512) * 512)
        return
    floor = 2 ** (size.bit_length() - 1)
    steps = [floor + floor * step // divisions for step in range(divisions + 1)]
    assert found == next(step for step in steps if step >= size)


@pytest.mark.parametrize(
    ("mebibytes", "expected"),
    [(1200, 1280), (300, 384), (600, 768), (1000, 1024), (10, 10), (255, 255)],
)
def test_divisions_depend_on_the_size(mebibytes, expected):
    """torch's own example: 256 MiB and below 1, at 512 MiB 2, at 1 GiB 4, above 8."""
    settings = settings_of("roundup_power2_divisions:[128:1,256:2,512:2,1024:4,>:8]")
    assert round_up(mebibytes * MIB, settings) == expected * MIB


@pytest.mark.parametrize(
    ("block", "segment"),
    [
        (512, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 512, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (11 * MIB, 12 * MIB),
    ],
)
def test_segment_size_depends_on_the_block(block, segment):
    assert segment_bytes(block, AllocatorSettings()) == segment


def test_configuration_is_parsed():
    found = settings_of(
        "backend:native,expandable_segments:True, max_split_size_mb:128,garbage_collection_threshold:0.8"
    )
    assert found.expandable_segments
    assert found.max_split_size_bytes == 128 * MIB
    assert settings_of("") == AllocatorSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("expandable_segment:True", "did you mean 'expandable_segments'"),
        ("expandable_segments:yes", "write True or False"),
        ("max_split_size_mb:4", "at least 21"),
        ("roundup_power2_divisions:3", "powers of two"),
        ("roundup_power2_divisions:[256-1]", "give one number, or"),
        ("expandable_segments", "is not key:value"),
        ("max_split_size_mb:128;expandable_segments:True", "a whole number of MiB"),
        ("expandable_segments:True,,", "is not key:value"),
    ],
)
def test_wrong_configuration_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        settings_of(text)


def test_release_has_the_rules_of_the_nearest_older_one():
    assert rules_of("2.14.1+cu130") == AllocatorRules()
    assert rules_of("3.0") == rules_of("2.14")
    with pytest.raises(ConfigError, match=r"oldest that is: 2\.11"):
        rules_of("2.5.1")
    with pytest.raises(ConfigError, match="no number"):
        rules_of("nightly")
