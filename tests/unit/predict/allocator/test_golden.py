"""Golden traces: the recorded ones are replayed to the byte, and traces made by hand show what that check detects."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_gpu import FACTS, FakeGpu, ToyStep

from slr_bench.errors import DataError
from slr_bench.predict.allocator.golden import SUFFIX, GoldenTrace, read_golden, write_golden
from slr_bench.predict.allocator.verdict import golden_differences
from slr_bench.units import MIB
from slr_bench.worker.calibrate import recorded_steps

TRACES = sorted((Path(__file__).resolve().parents[3] / "fixtures" / "traces").glob(f"*{SUFFIX}"))
SETTING = {"workload": "toy", "arm": "a", "cell_id": "0123456789ab", "setting": {"size": 1}}


NONE = "no golden traces yet: no GPU could be had; `make calibrate` on a machine with one records them"


@pytest.mark.parametrize("path", TRACES or [pytest.param(None, marks=pytest.mark.skip(reason=NONE))])
def test_recorded_trace_is_replayed_to_the_byte(path):
    """Reserved bytes and segments after every event, allocated bytes at the end, peaks by torch's own counters."""
    assert golden_differences(read_golden(path)) == []


def history(*entries, segments):
    """A snapshot in torch's layout: entries ``(action, address, size)``, segments ``address: [(size, requested)]``."""
    return {
        "segments": [
            {
                "device": 0,
                "address": address,
                "total_size": sum(size for size, _ in blocks),
                "segment_type": "small" if sum(size for size, _ in blocks) == 2 * MIB else "large",
                "stream": 7 if address == STREAM_7 else 0,
                "blocks": [
                    {"size": size, "requested_size": wanted, "state": "active_allocated" if wanted else "inactive"}
                    for size, wanted in blocks
                ],
            }
            for address, blocks in segments.items()
        ],
        "device_traces": [
            [dict(zip(("action", "addr", "size", "stream"), (*entry, 0), strict=True)) for entry in entries]
        ],
        "allocator_settings": {"expandable_segments": False, "max_split_size": -1},
    }


STREAM_7 = 1 << 42


def steps(history, requested, allocated, reserved):
    names = ("peak_requested_bytes", "peak_allocated_bytes", "peak_reserved_bytes")
    peaks = dict(zip(names, (requested, allocated, reserved), strict=True))
    context = {"bytes": 5, "source": "NVML process", "reason": None}
    rest = {"facts": FACTS, "steady_peaks": peaks, "nvml_process_bytes": 9, "context": context}
    return {"history": history, "peaks": peaks, **rest}


def trace_by_hand():
    """1,000 bytes are two granules in a segment of 2 MiB. 11.2 MiB take an own segment of 12 MiB whole, since what is
    left over is less than 1 MiB. Freed, it serves 11 MiB the same way; a second such request needs another segment.
    """
    large, first, second = 11 * MIB + MIB // 5, 1 << 40, 1 << 41
    entries = [
        ("segment_alloc", 1 << 30, 2 * MIB),
        ("alloc", 1 << 30, 1000),
        ("segment_alloc", first, 12 * MIB),
        ("alloc", first, large),
        ("free_requested", first, large),
        ("free_completed", first, large),
        ("alloc", first, 11 * MIB),
        ("segment_alloc", second, 12 * MIB),
        ("alloc", second, large),
    ]
    peaks = (1000 + 11 * MIB + large, 1024 + 24 * MIB, 26 * MIB)
    rest = [(1024, 1000), (2 * MIB - 1024, 0)]
    segments = {1 << 30: rest, first: [(12 * MIB, 11 * MIB)], second: [(12 * MIB, large)]}
    return GoldenTrace.from_steps(SETTING, steps(history(*entries, segments=segments), *peaks))


def test_trace_worked_out_by_hand_is_replayed():
    trace = trace_by_hand()
    assert trace.recording.reserved_bytes == tuple(size * MIB for size in (2, 14, 14, 14, 26))
    assert trace.recording.segments == (1, 2, 2, 2, 3)
    assert golden_differences(trace) == []


@pytest.mark.parametrize("name", ["peak_requested_bytes", "peak_allocated_bytes", "peak_reserved_bytes"])
@pytest.mark.parametrize("off", [-1, 512])
def test_peak_that_is_off_by_a_byte_is_reported(name, off):
    trace = trace_by_hand()
    wrong = trace.peaks[name] + off
    (line,) = golden_differences(replace(trace, peaks={**trace.peaks, name: wrong}))
    assert line == f"{name}: {trace.peaks[name]}, recorded {wrong}"


def test_segment_that_the_rules_would_not_make_is_reported_with_its_event():
    trace = trace_by_hand()
    recording = trace.recording
    reserved = (*recording.reserved_bytes[:3], 16 * MIB, 28 * MIB)
    (line,) = golden_differences(replace(trace, recording=replace(recording, reserved_bytes=reserved)))
    assert line == f"after event 3: reserved bytes {14 * MIB:,}, recorded {16 * MIB:,}"
    (line,) = golden_differences(replace(trace, recording=replace(recording, segments=(1, 2, 2, 2, 2))))
    assert line == "after event 4: segments 3, recorded 2"
    (line,) = golden_differences(replace(trace, recording=replace(recording, allocated_at_end_bytes=1)))
    assert line == f"after event 4: allocated bytes at the end {1024 + 24 * MIB:,}, recorded 1"
    moved = tuple(
        event._replace(handle=1 << 43) if index == 3 else event for index, event in enumerate(recording.events)
    )
    (line,) = golden_differences(replace(trace, recording=replace(recording, events=moved)))
    assert line == f"after event 3: address {1 << 40:#x}, recorded {1 << 43:#x}"


def test_file_is_read_back_as_it_was_written(tmp_path):
    trace = trace_by_hand()
    path = tmp_path / f"a{SUFFIX}"
    write_golden(trace, path)
    again = read_golden(path)
    assert golden_differences(again) == []
    assert [event.kind for event in again.recording.events] == ["alloc", "alloc", "free", "alloc", "alloc"]
    assert again.recording == trace.recording
    for name in ("setting", "facts", "peaks", "steady_peaks", "nvml_process_bytes", "context"):
        assert getattr(again, name) == getattr(trace, name)
    bytes_before = path.read_bytes()
    write_golden(again, path)
    assert path.read_bytes() == bytes_before


def test_streams_are_kept(tmp_path):
    """Freed memory serves its own stream only, so 4 MiB on each of two streams need two segments."""
    entries = history(
        ("segment_alloc", 1 << 30, 20 * MIB),
        ("alloc", 1 << 30, 4 * MIB),
        ("segment_alloc", STREAM_7, 20 * MIB),
        ("alloc", STREAM_7, 4 * MIB),
        segments={address: [(4 * MIB, 4 * MIB), (16 * MIB, 0)] for address in (1 << 30, STREAM_7)},
    )
    trace = GoldenTrace.from_steps(SETTING, steps(entries, 8 * MIB, 8 * MIB, 40 * MIB))
    write_golden(trace, tmp_path / "a")
    again = read_golden(tmp_path / "a")
    assert [event.stream for event in again.recording.events] == [0, 7]
    assert golden_differences(again) == []


@pytest.mark.parametrize("expandable", [False, True])
def test_steps_on_a_fake_gpu_become_a_trace_that_is_replayed(tmp_path, expandable):
    """The GPU's memory is the naive allocator's, which shares no code with the one that replays."""
    gpu = FakeGpu(expandable=expandable)
    trace = GoldenTrace.from_steps(SETTING, recorded_steps(gpu, lambda: ToyStep(gpu), warmup_steps=2))
    write_golden(trace, tmp_path / "a")
    trace = read_golden(tmp_path / "a")
    assert golden_differences(trace) == []
    assert trace.peaks["peak_requested_bytes"] == trace.steady_peaks["peak_requested_bytes"] == 25 * MIB + 700
    assert trace.peaks["peak_reserved_bytes"] == gpu.recorder.allocator.reserved
    assert len(trace.recording.events) == 1 + 3 * 6 + 1
    assert trace.context == {"bytes": 400 * MIB, "source": "NVML process", "reason": None}
    assert trace.nvml_process_bytes == 400 * MIB + trace.peaks["peak_reserved_bytes"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no golden trace"),
        (gzip.compress(b"{}"), "no golden trace.*KeyError"),
        (gzip.compress(json.dumps({"schema": 1}).encode()), "schema 1, known is 2; record it anew: make calibrate"),
        (gzip.compress(b"[1]"), "no golden trace"),
    ],
    ids=["empty", "nothing in it", "another schema", "a list"],  # the bytes have the time in them
)
def test_file_that_is_not_a_golden_trace_is_refused(tmp_path, content, message):
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_golden(path)


@pytest.mark.parametrize(
    "begun",
    [
        history(("free_completed", 1 << 30, 1000), segments={1 << 30: [(2 * MIB, 0)]}),
        history(segments={1 << 30: [(2 * MIB, 0)]}),
        history(("alloc", 1 << 30, 1000), segments={}),
    ],
    ids=["after an allocation", "nothing recorded", "stopped too early"],
)
def test_history_that_is_not_complete_makes_no_trace(begun):
    with pytest.raises(DataError, match="the history is not complete"):
        GoldenTrace.from_steps(SETTING, steps(begun, 0, 0, 0))
