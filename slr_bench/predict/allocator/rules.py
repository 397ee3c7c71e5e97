"""Numbers and knobs of torch's CUDA caching allocator (``c10/cuda/CUDACachingAllocator.cpp``). No torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from slr_bench.errors import ConfigError
from slr_bench.units import MIB, nearest

UNLIMITED: Final = 1 << 62
INTERVALS: Final = 16
"""Powers of two from 1 MiB on that ``roundup_power2_divisions`` tells apart; the last one holds for all above."""
_FIRST_INTERVAL: Final = MIB.bit_length() - 1
_PAIR: Final = re.compile(r"\s*(?P<key>[^:,\[\]\s]+)\s*:\s*(?P<value>\[[^\]]*\]|[^,\[\]\s]+)\s*(?:,\s*|$)")


@dataclass(frozen=True)
class AllocatorRules:
    """What is compiled into a torch release, bytes."""

    granule_bytes: int = 512
    """Every request is rounded up to a multiple; the least that is split off in the small pool."""
    small_request_bytes: int = MIB
    """The largest request of the small pool; in the large one a remainder has to be larger to be split off."""
    small_segment_bytes: int = 2 * MIB
    large_segment_bytes: int = 20 * MIB
    own_segment_bytes: int = 10 * MIB
    """From here on a request that finds no room gets a segment of its own, a multiple of ``segment_granule_bytes``."""
    segment_granule_bytes: int = 2 * MIB


RULES_BY_TORCH: Final = {
    (2, 11): AllocatorRules(),
    (2, 12): AllocatorRules(),
    (2, 13): AllocatorRules(),
    (2, 14): AllocatorRules(),
}
"""By (major, minor). The numbers have been these since 1.x; what differs is which knobs exist."""


def rules_of(torch_version: str) -> AllocatorRules:
    """The rules of a release, like ``2.12.1+cu130``; of one that is not listed those of the nearest listed below it.

    Raises:
        ConfigError: no version number, or one older than all listed.
    """
    found = re.match(r"(\d+)\.(\d+)", torch_version)
    if found is None:
        raise ConfigError(f"torch version {torch_version!r} has no number; give one like 2.12.1")
    version = int(found[1]), int(found[2])
    below = [known for known in RULES_BY_TORCH if known <= version]
    if not below:
        oldest = ".".join(map(str, min(RULES_BY_TORCH)))
        raise ConfigError(f"the allocator of torch {torch_version} is not known; the oldest that is: {oldest}")
    return RULES_BY_TORCH[max(below)]


@dataclass(frozen=True)
class AllocatorSettings:
    """What a user sets in ``PYTORCH_ALLOC_CONF`` and what the device has."""

    expandable_segments: bool = False
    max_split_size_bytes: int = UNLIMITED
    """Blocks from here on are not split, and serve no smaller request."""
    max_non_split_rounding_bytes: int = 20 * MIB
    """An unsplit block may be this much larger than its request."""
    large_segment_bytes: int | None = None
    """In place of the release's number."""
    roundup_power2_divisions: tuple[int, ...] = field(default=(0,) * INTERVALS)
    """Steps between two powers of two to which requests are rounded up, by power from 1 MiB on; 0 or 1: none."""
    capacity_bytes: int = UNLIMITED
    """For segments: the device's memory without context, driver and other processes."""

    def __post_init__(self) -> None:
        if len(self.roundup_power2_divisions) != INTERVALS:
            raise ValueError(f"roundup_power2_divisions needs {INTERVALS} numbers")


_IGNORED: Final = (
    "backend",
    "graph_capture_record_stream_reuse",
    "pinned_free_catch_all",
    "pinned_num_register_threads",
    "pinned_reserve_segment_size_mb",
    "pinned_use_background_threads",
    "pinned_use_cuda_host_register",
    "release_lock_on_cudamalloc",
    "throw_on_cudamalloc_oom",
)
"""They change nothing in what is reserved (``CUDAAllocatorConfig.h`` of torch 2.14 lists all keys)."""
_MODELLED: Final = (
    "expandable_segments",
    "garbage_collection_threshold",
    "large_segment_size_mb",
    "max_non_split_rounding_mb",
    "max_split_size_mb",
    "roundup_power2_divisions",
)


def settings_of(text: str, capacity_bytes: int = UNLIMITED) -> AllocatorSettings:
    """The settings of a ``PYTORCH_ALLOC_CONF`` string, like ``expandable_segments:True,max_split_size_mb:128``.

    Raises:
        ConfigError: an unknown or unmodelled key, or an impossible value.
    """
    values: dict[str, object] = {"capacity_bytes": capacity_bytes}
    for key, value in _pairs(text):
        if key == "expandable_segments":
            values[key] = _flag(key, value)
        elif key == "max_split_size_mb":
            values["max_split_size_bytes"] = _mebibytes(key, value, least=21)
        elif key == "max_non_split_rounding_mb":
            values["max_non_split_rounding_bytes"] = _mebibytes(key, value, least=21)
        elif key == "large_segment_size_mb":
            values["large_segment_bytes"] = _mebibytes(key, value, least=20)
        elif key == "roundup_power2_divisions":
            values[key] = _divisions(value)
        elif key == "garbage_collection_threshold":
            continue  # acts only where a process limits its own memory
        elif key not in _IGNORED:
            known = nearest(key, (*_MODELLED, *_IGNORED))
            raise ConfigError(f"PYTORCH_ALLOC_CONF: the simulated allocator has no key {key!r}{known}")
    return AllocatorSettings(**values)  # type: ignore[arg-type]


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """``key:value`` between commas; a value in brackets may hold some."""
    place = 0
    while place < len(text):
        found = _PAIR.match(text, place)
        if found is None:
            raise ConfigError(f"PYTORCH_ALLOC_CONF: {text[place:]!r} is not key:value; write expandable_segments:True")
        yield found["key"], found["value"]
        place = found.end()


def _flag(key: str, value: str) -> bool:
    if value not in ("True", "False"):
        raise ConfigError(f"PYTORCH_ALLOC_CONF: {key}={value!r}; write True or False")
    return value == "True"


def _mebibytes(key: str, value: str, least: int) -> int:
    if not value.isdecimal() or int(value) < least:
        raise ConfigError(f"PYTORCH_ALLOC_CONF: {key}={value!r}; give a whole number of MiB, {least} at least")
    return int(value) * MIB


def _divisions(value: str) -> tuple[int, ...]:
    """One number for all sizes, or ``[256:1,512:2,>:8]``: MiB below which, and the number."""
    if value.isdecimal():
        return (_power_of_two(value),) * INTERVALS
    found, last = [0] * INTERVALS, -1
    for entry in value.strip("[]").split(","):
        matched = re.fullmatch(r"\s*(>|\d+):(\d+)\s*", entry)
        if matched is None:
            raise ConfigError(
                f"PYTORCH_ALLOC_CONF: roundup_power2_divisions has {entry!r}; give one number, or [256:1,512:2,>:4]"
            )
        bound, number = matched[1], _power_of_two(matched[2])
        if bound == ">":
            found[last + 1 :] = [number] * (INTERVALS - 1 - last)
            continue
        place = min(_power_of_two(bound).bit_length() - 1, INTERVALS - 1)
        first = 0 if last < 0 else place  # below the first bound, too
        found[first : place + 1] = [number] * (place + 1 - first)
        last = place
    return tuple(found)


def _power_of_two(text: str) -> int:
    number = int(text)
    if number < 1 or number & (number - 1):
        raise ConfigError(f"PYTORCH_ALLOC_CONF: roundup_power2_divisions has {text}; give powers of two")
    return number


def rounded(size_bytes: int, rules: AllocatorRules, settings: AllocatorSettings) -> int:
    """The block that a request of ``size_bytes`` asks for."""
    granule = rules.granule_bytes
    if size_bytes < granule:
        return granule
    place = min(max(size_bytes.bit_length() - 1 - _FIRST_INTERVAL, 0), INTERVALS - 1)
    divisions = settings.roundup_power2_divisions[place]
    if divisions > 1 and size_bytes > granule * divisions:
        return _next_division(size_bytes, divisions)
    return -(-size_bytes // granule) * granule


def _next_division(size_bytes: int, divisions: int) -> int:
    floor = 1 << (size_bytes.bit_length() - 1)
    if floor == size_bytes:
        return size_bytes
    step = floor >> (divisions.bit_length() - 1)
    return floor << 1 if step == 0 else -(-size_bytes // step) * step


def segment_bytes(block_bytes: int, rules: AllocatorRules, settings: AllocatorSettings) -> int:
    """The segment that is asked of the device for a (rounded) block that found no room."""
    if block_bytes <= rules.small_request_bytes:
        return rules.small_segment_bytes
    if block_bytes < rules.own_segment_bytes:
        return settings.large_segment_bytes or rules.large_segment_bytes
    return -(-block_bytes // rules.segment_granule_bytes) * rules.segment_granule_bytes
