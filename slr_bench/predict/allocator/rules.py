"""Numbers and settings of torch's CUDA caching allocator (``c10/cuda/CUDACachingAllocator.cpp``). Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from slr_bench.errors import ConfigError
from slr_bench.units import MIB, nearest

UNLIMITED: Final = 1 << 62
INTERVALS: Final = 16
"""Powers of two, from 1 MiB, with a value each in ``roundup_power2_divisions``; the last holds for all larger sizes."""
_FIRST_INTERVAL: Final = MIB.bit_length() - 1
_PAIR: Final = re.compile(r"\s*(?P<key>[^:,\[\]\s]+)\s*:\s*(?P<value>\[[^\]]*\]|[^,\[\]\s]+)\s*(?:,\s*|$)")


@dataclass(frozen=True)
class AllocatorRules:
    """Sizes in bytes that are compiled into a torch release."""

    granule_bytes: int = 512
    """Requests are rounded up to a multiple of it. The small pool splits off any remainder of this size or more."""
    small_request_bytes: int = MIB
    """Largest request of the small pool. In the large pool, only a larger remainder is split off."""
    small_segment_bytes: int = 2 * MIB
    large_segment_bytes: int = 20 * MIB
    own_segment_bytes: int = 10 * MIB
    """A request of this size or more that needs a new segment gets its own, a multiple of ``segment_granule_bytes``."""
    segment_granule_bytes: int = 2 * MIB


RULES_BY_TORCH: Final = {
    (2, 11): AllocatorRules(),
    (2, 12): AllocatorRules(),
    (2, 13): AllocatorRules(),
    (2, 14): AllocatorRules(),
}
"""Rules by (major, minor) version. The numbers have not changed since 1.x; only the set of settings has."""


def rules_of(torch_version: str) -> AllocatorRules:
    """Return the rules of a release, like ``2.12.1+cu130``; an unlisted release has those of the nearest older one.

    Raises:
        ConfigError: the text has no version number, or the release is older than all that are listed.
    """
    match = re.match(r"(\d+)\.(\d+)", torch_version)
    if match is None:
        raise ConfigError(f"torch version {torch_version!r} has no number; give one like 2.12.1")
    version = int(match[1]), int(match[2])
    below = [known for known in RULES_BY_TORCH if known <= version]
    if not below:
        oldest = ".".join(map(str, min(RULES_BY_TORCH)))
        raise ConfigError(f"the allocator of torch {torch_version} is not known; the oldest that is: {oldest}")
    return RULES_BY_TORCH[max(below)]


@dataclass(frozen=True)
class AllocatorSettings:
    """The settings of ``PYTORCH_ALLOC_CONF``, and the memory of the device."""

    rules: AllocatorRules = AllocatorRules()
    """Sizes of the torch release."""
    expandable_segments: bool = False
    max_split_size_bytes: int = UNLIMITED
    """Blocks of this size or more are not split, and serve no smaller request."""
    max_non_split_rounding_bytes: int = 20 * MIB
    """An unsplit block may be this much larger than its request."""
    large_segment_bytes: int | None = None
    """Replaces the release's number."""
    roundup_power2_divisions: tuple[int, ...] = field(default=(0,) * INTERVALS)
    """Steps between two powers of two to which requests round up, per power from 1 MiB. 0 and 1 mean none."""
    capacity_bytes: int = UNLIMITED
    """Memory for segments: the device's, without context, driver and other processes."""

    def __post_init__(self) -> None:
        if len(self.roundup_power2_divisions) != INTERVALS:
            raise ValueError(f"roundup_power2_divisions needs {INTERVALS} numbers")


_SIZES: Final = {
    "max_split_size_mb": ("max_split_size_bytes", 21),
    "max_non_split_rounding_mb": ("max_non_split_rounding_bytes", 21),
    "large_segment_size_mb": ("large_segment_bytes", 20),
}
"""Keys in MiB: the field that each sets, and its minimum."""
_IGNORED: Final = (
    "backend",
    "garbage_collection_threshold",  # matters only in a process that limits its own memory
    "graph_capture_record_stream_reuse",
    "pinned_free_catch_all",
    "pinned_num_register_threads",
    "pinned_reserve_segment_size_mb",
    "pinned_use_background_threads",
    "pinned_use_cuda_host_register",
    "release_lock_on_cudamalloc",
    "throw_on_cudamalloc_oom",
)
"""Keys that do not change what is reserved (``CUDAAllocatorConfig.h`` of torch 2.14 lists all keys)."""
DEFAULT_SETTINGS: Final = AllocatorSettings()


def settings_of(
    text: str, capacity_bytes: int = UNLIMITED, rules: AllocatorRules = DEFAULT_SETTINGS.rules
) -> AllocatorSettings:
    """Parse a ``PYTORCH_ALLOC_CONF`` string, like ``expandable_segments:True,max_split_size_mb:128``.

    Raises:
        ConfigError: a key is unknown, or a value is impossible.
    """
    values: dict[str, object] = {"rules": rules, "capacity_bytes": capacity_bytes}
    for key, value in _pairs(text):
        if key == "expandable_segments":
            if value not in ("True", "False"):
                raise ConfigError(f"PYTORCH_ALLOC_CONF: {key}={value!r}; write True or False")
            values[key] = value == "True"
        elif key in _SIZES:
            field_name, minimum = _SIZES[key]
            if not value.isdecimal() or int(value) < minimum:
                raise ConfigError(
                    f"PYTORCH_ALLOC_CONF: {key}={value!r}; give a whole number of MiB, at least {minimum}"
                )
            values[field_name] = int(value) * MIB
        elif key == "roundup_power2_divisions":
            values[key] = _divisions(value)
        elif key not in _IGNORED:
            known = nearest(key, ("expandable_segments", "roundup_power2_divisions", *_SIZES, *_IGNORED))
            raise ConfigError(f"PYTORCH_ALLOC_CONF: the simulated allocator has no key {key!r}{known}")
    return AllocatorSettings(**values)  # type: ignore[arg-type]


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """Split ``key:value`` pairs at commas, except commas in brackets."""
    position = 0
    while position < len(text):
        match = _PAIR.match(text, position)
        if match is None:
            rest = text[position:]
            raise ConfigError(f"PYTORCH_ALLOC_CONF: {rest!r} is not key:value; write expandable_segments:True")
        yield match["key"], match["value"]
        position = match.end()


def _divisions(value: str) -> tuple[int, ...]:
    """Parse one number for all sizes, or a list ``[256:1,512:2,>:8]`` of upper limits in MiB and their numbers."""
    if value.isdecimal():
        return (_power_of_two(value),) * INTERVALS
    divisions, last = [0] * INTERVALS, -1
    for entry in value.strip("[]").split(","):
        match = re.fullmatch(r"\s*(>|\d+):(\d+)\s*", entry)
        if match is None:
            raise ConfigError(
                f"PYTORCH_ALLOC_CONF: roundup_power2_divisions has {entry!r}; give one number, or [256:1,512:2,>:4]"
            )
        bound, number = match[1], _power_of_two(match[2])
        if bound == ">":
            divisions[last + 1 :] = [number] * (INTERVALS - 1 - last)
            continue
        index = min(_power_of_two(bound).bit_length() - 1, INTERVALS - 1)
        first = 0 if last < 0 else index  # the first entry holds for all smaller sizes, too
        divisions[first : index + 1] = [number] * (index + 1 - first)
        last = index
    return tuple(divisions)


def _power_of_two(text: str) -> int:
    number = int(text)
    if number < 1 or number & (number - 1):
        raise ConfigError(f"PYTORCH_ALLOC_CONF: roundup_power2_divisions has {text}; give powers of two")
    return number


def round_up(size_bytes: int, settings: AllocatorSettings) -> int:
    """Return the block size for a request of ``size_bytes``."""
    granule = settings.rules.granule_bytes
    if size_bytes < granule:
        return granule
    interval = min(max(size_bytes.bit_length() - 1 - _FIRST_INTERVAL, 0), INTERVALS - 1)
    divisions = settings.roundup_power2_divisions[interval]
    if divisions > 1 and size_bytes > granule * divisions:
        return _next_division(size_bytes, divisions)
    return -(-size_bytes // granule) * granule


def _next_division(size_bytes: int, divisions: int) -> int:
    floor = 1 << (size_bytes.bit_length() - 1)
    if floor == size_bytes:
        return size_bytes
    step = floor >> (divisions.bit_length() - 1)
    return floor << 1 if step == 0 else -(-size_bytes // step) * step


def segment_bytes(block_bytes: int, settings: AllocatorSettings) -> int:
    """Return the size of the segment that the device has to provide for a (rounded) block."""
    rules = settings.rules
    if block_bytes <= rules.small_request_bytes:
        return rules.small_segment_bytes
    if block_bytes < rules.own_segment_bytes:
        return settings.large_segment_bytes or rules.large_segment_bytes
    return -(-block_bytes // rules.segment_granule_bytes) * rules.segment_granule_bytes
