"""Bytes, seconds and counts as text, and sizes that are parsed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slr_bench.units import (
    GIB,
    KIB,
    MIB,
    format_bytes,
    format_count,
    format_seconds,
    nearest,
    parse_bytes,
    sparkline,
    without_controls,
)

_FACTOR = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": 1024 * GIB}
_DECIMALS = {"B": 0, "KiB": 1, "MiB": 1, "GiB": 2, "TiB": 2}


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (29360128, "28.0 MiB"),
        (6 * GIB, "6.00 GiB"),
        (-3 * MIB, "-3.0 MiB"),
        (None, "–"),
    ],
)
def test_bytes_are_formatted_with_a_binary_unit(count, text):
    assert format_bytes(count) == text


@settings(deadline=None)
@given(st.integers(0, 1 << 45))
def test_formatted_bytes_parse_within_half_of_the_last_digit(count):
    text = format_bytes(count)
    unit = text.split()[1]
    assert abs(parse_bytes(text) - count) <= 0.5 * 10 ** -_DECIMALS[unit] * _FACTOR[unit] + 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 µs"),
        (0.0000123, "12 µs"),
        (0.0123, "12.3 ms"),
        (1.5, "1.50 s"),
        (75, "1 min 15 s"),
        (3599.6, "1 h 0 min"),
        (7260, "2 h 1 min"),
        (None, "–"),
    ],
)
def test_seconds_are_formatted_with_a_fitting_unit(seconds, text):
    assert format_seconds(seconds) == text


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["K", "M", "G"]), st.sampled_from(["", " "]), st.booleans())
def test_decimal_names_mean_binary_units(number, letter, space, lower):
    factor = {"K": 1024, "M": 1024**2, "G": 1024**3}[letter]
    for unit in (f"{letter}B", f"{letter}iB"):
        assert parse_bytes(f"{number}{space}{unit.lower() if lower else unit}") == number * factor


@pytest.mark.parametrize("text", ["", "6", "GiB", "six GiB", "-1GiB", "6 GiB more", "6G"])
def test_size_without_number_or_unit_is_refused_with_the_cure(text):
    with pytest.raises(ValueError, match="write it like 6GiB"):
        parse_bytes(text)


def test_sparkline_runs_from_zero_to_the_maximum():
    assert sparkline([0, 1, 2, 4], 9) == "▁▃▅█"
    assert sparkline([5, 5, 5], 2) == "██"
    assert sparkline([0, 0], 9) == "▁▁"
    assert (sparkline([], 9), sparkline([1, 2], 0)) == ("", "")


@given(st.lists(st.floats(0, 1e12), max_size=30), st.integers(0, 20), st.integers(1, 10))
def test_sparkline_has_one_bar_per_value_and_depends_only_on_proportions(values, width, power):
    text = sparkline(values, width)
    assert len(text) == min(len(values), width)
    assert sparkline([value * 2**power for value in values], width) == text


def test_counts_are_formatted_with_singular_or_plural():
    assert [format_count(count, "clip") for count in (0, 1, 2)] == ["0 clips", "one clip", "2 clips"]


def test_all_known_names_are_listed_if_none_is_near():
    assert nearest("zzz", ["beta", "alpha"]) == "; known: alpha, beta"


def test_controls_become_spaces_and_lines_stay():
    assert without_controls("a\x1b[31m\u202eb\x07\r\nc é 手") == "a [31m b  \nc é 手"
