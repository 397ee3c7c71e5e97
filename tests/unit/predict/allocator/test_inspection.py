"""The parts of a replay that its page shows: bytes over time, segments at the peak, other settings, lines of source."""

import json
import pickle

from recorded_allocator import Recorder

from slr_bench.predict.allocator.inspection import OLDER, POINTS, inspect_replay
from slr_bench.predict.allocator.verdict import replay_snapshot
from slr_bench.report.views.replay import replay_page, verdict_text
from slr_bench.units import MIB

TORCH = {"filename": "/lib/python3.12/site-packages/torch/nn/modules/linear.py", "line": 125, "name": "forward"}
OWN = {"filename": "/home/x/model.py", "line": 7, "name": "<script>alert(1)</script>"}


def inspected(recorder, path, **more):
    path.write_bytes(pickle.dumps(recorder.snapshot(**more)))
    found = replay_snapshot(path, None, None, None, "2.14")
    return found, inspect_replay(found)


def holey(recorder):
    """Two segments of 20 MiB, half used, and one of 30 that is free at the end. The peak is the request of 30."""
    for number in range(8):
        recorder.alloc(number, 5 * MIB, frames=[TORCH, OWN] if number < 6 else [TORCH])
    for number in range(0, 8, 2):
        recorder.free(number)
    recorder.alloc("big", 30 * MIB)
    recorder.free("big")
    return recorder


def test_peak_is_shown_with_its_segments_blocks_and_lines_of_source(tmp_path):
    _, seen = inspected(holey(Recorder()), tmp_path / "s")
    assert seen.peak_event == 12
    shapes = [(one.size_bytes, one.allocated_bytes, one.blocks, one.largest_free_bytes) for one in seen.segments]
    assert shapes == [(30 * MIB, 30 * MIB, 1, 0)] + [(20 * MIB, 10 * MIB, 2, 5 * MIB)] * 2
    assert seen.segments[1].used == ((5 * MIB, 10 * MIB), (15 * MIB, 20 * MIB))
    assert [(one.where, one.size_bytes, one.allocations) for one in seen.sites] == [
        ("no stack", 30 * MIB, 1),
        ("/home/x/model.py:7 <script>alert(1)</script>", 15 * MIB, 3),
        ("/lib/python3.12/site-packages/torch/nn/modules/linear.py:125 forward", 5 * MIB, 1),
    ]


def test_reserved_memory_is_divided_into_allocated_fragmented_and_cached(tmp_path):
    _, seen = inspected(holey(Recorder()), tmp_path / "s")
    first, last = seen.points[0], seen.points[-1]
    assert (first.allocated_bytes, first.reserved_bytes, first.cached_bytes) == (5 * MIB, 20 * MIB, 0)
    assert (last.allocated_bytes, last.reserved_bytes, last.cached_bytes) == (20 * MIB, 70 * MIB, 30 * MIB)


def test_long_history_is_thinned_and_keeps_its_peak(tmp_path):
    recorder = Recorder()
    for number in range(400):
        recorder.alloc(number, 30 * MIB if number == 123 else 1000)
        recorder.free(number)
    found, seen = inspected(recorder, tmp_path / "s")
    assert len(seen.points) <= POINTS < len(found.recording.events)
    assert max(one.reserved_bytes for one in seen.points) == found.simulated.peak_reserved_bytes


def test_file_without_stacks_has_no_lines_and_one_begun_late_names_older_memory(tmp_path):
    recorder = Recorder()
    recorder.alloc("old", 5 * MIB)
    recorder.alloc("kept", 5 * MIB, frames=[TORCH])
    recorder.forget()
    recorder.alloc(0, 3 * MIB, frames=[OWN])
    recorder.free("old")
    content = recorder.snapshot()
    _, seen = inspected(recorder, tmp_path / "s")
    assert [(one.where.partition(":")[0].rpartition("/")[2], one.size_bytes) for one in seen.sites] == [
        ("linear.py", 5 * MIB),
        (OLDER, 5 * MIB),
        ("model.py", 3 * MIB),
    ]
    for part in (*content["device_traces"][0], *(block for one in content["segments"] for block in one["blocks"])):
        part.pop("frames", None)
    (tmp_path / "s").write_bytes(pickle.dumps(content))
    assert inspect_replay(replay_snapshot(tmp_path / "s", None, None, None, "2.14")).sites == ()


def test_other_settings_are_tried_from_the_recorded_beginning_and_with_an_empty_cache(tmp_path):
    """Three segments of 12 MiB are cached when the recording begins; expandable segments cannot use them less."""
    recorder = Recorder()
    for number in range(3):
        recorder.alloc(number, 11 * MIB)
    for number in range(3):
        recorder.free(number)
    assert inspected(recorder, tmp_path / "s")[1].alternatives[1].emptied_peak_reserved_bytes is None
    recorder.forget()
    recorder.alloc(4, 30 * MIB)
    _, seen = inspected(recorder, tmp_path / "s")
    own, expandable = seen.alternatives[:2]
    assert (own.peak_reserved_bytes, own.emptied_peak_reserved_bytes) == (66 * MIB, 30 * MIB)
    assert expandable.settings == "expandable_segments:True"
    assert expandable.peak_reserved_bytes == 3 * 12 * MIB + 40 * MIB
    assert expandable.emptied_peak_reserved_bytes == 40 * MIB


def test_setting_that_avoids_a_recorded_failure_is_counted(tmp_path):
    """Ten blocks of 11 MiB take 120 MiB either way. Only pages behind one range of addresses serve 9 MiB more."""
    recorder = Recorder(capacity=125 * MIB)
    for number in range(10):
        recorder.alloc(number, 11 * MIB)
    assert recorder.alloc("no", 9 * MIB) is False
    found, seen = inspected(recorder, tmp_path / "s")
    assert found.to_dict()["recorded"]["capacity_bytes"] == 125 * MIB
    served = {one.settings: one.served for one in seen.alternatives}
    assert (served["expandable_segments:True"], served["max_split_size_mb:64"]) == (1, 0)


def test_page_has_every_part_and_runs_nothing_from_the_file(tmp_path):
    found, seen = inspected(holey(Recorder()), tmp_path / "s")
    page = replay_page(found, seen, "<b>.pickle", "slr-bench replay x")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "Allocator history of &lt;b&gt;.pickle" in page
    for part in ("Segments at the peak", "What would have helped", "Live allocations by line of source", "fragmented"):
        assert part in page
    assert "addresses of all 9 allocations" in verdict_text(found)
    json.dumps({**found.to_dict(), **seen.to_dict()}, allow_nan=False)


def test_page_of_a_file_without_a_history_shows_its_segments(tmp_path):
    recorder = holey(Recorder())
    recorder.forget()
    found, seen = inspected(recorder, tmp_path / "s")
    page = replay_page(found, seen, "s", "slr-bench replay s")
    assert seen.peak_event is None
    assert [one.size_bytes for one in seen.segments] == [30 * MIB, 20 * MIB, 20 * MIB]
    assert "Segments when the file was written" in page
    assert "Nothing to check" in page
    assert "What would have helped" not in page
