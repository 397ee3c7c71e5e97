"""Replays of snapshots in torch's layout that the naive allocator wrote: from the first allocation, and begun late."""

import json
import pickle
import random
import re

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from recorded_allocator import Recorder

from slr_bench.errors import ConfigError, DataError
from slr_bench.predict.allocator.caching import CachingAllocator
from slr_bench.predict.allocator.recording import Event, recorded_settings
from slr_bench.predict.allocator.replay import replay_events
from slr_bench.predict.allocator.rewind import recording_of
from slr_bench.predict.allocator.verdict import Verdict, compare_recording, replay_snapshot
from slr_bench.units import MIB

SIZES = st.one_of(st.integers(1, 2 * MIB), st.integers(MIB, 40 * MIB), st.sampled_from([512, MIB, MIB + 1, 10 * MIB]))
STEPS = st.one_of(
    st.tuples(SIZES, st.integers(0, 1)),
    st.integers(0, 30),
    st.just("empty_cache"),
)
"""A request (size, stream), the free of a block that is alive, or a call."""


def replay(path, settings=None, capacity=None, device=None):
    return replay_snapshot(path, settings, capacity, device, "2.14")


def busy(recorder, events=400, seed=3):
    generator, alive = random.Random(seed), list(recorder.blocks)
    for number in range(len(alive) + 1000 * seed, len(alive) + 1000 * seed + events):
        if alive and generator.random() < 0.45:
            recorder.free(alive.pop(generator.randrange(len(alive))))
        else:
            recorder.alloc(number, generator.choice([generator.randint(1, 2 * MIB), generator.randint(MIB, 40 * MIB)]))
            alive.append(number)
    return recorder


@pytest.mark.parametrize("begins_late", [False, True])
@pytest.mark.parametrize("expandable", [False, True])
def test_recording_is_replayed_to_the_byte_after_every_event(tmp_path, expandable, begins_late):
    recorder = Recorder(expandable)
    if begins_late:
        busy(recorder, 200, seed=4).forget()
        reserved = recorder.allocator.reserved
    found = replay(busy(recorder).write(tmp_path / "s.pickle"))
    assert found.verdict is Verdict.AGREES
    assert found.exit_code == 0
    assert found.addresses.equal == found.addresses.compared == found.recording.allocations > 200
    assert found.recording.device == 1
    assert found.recording.start_reserved_bytes == (reserved if begins_late else 0)
    assert len(found.recording.events) == 400
    assert found.simulated.allocated_bytes[-1] == found.recording.allocated_at_end_bytes == recorder.allocator.allocated
    assert found.simulated.reserved_bytes[-1] == recorder.allocator.reserved
    assert found.simulated.requested_bytes[-1] == recorder.allocator.requested


def take(recorder, steps, first=0):
    for number, step in enumerate(steps, start=first):
        if isinstance(step, tuple):
            recorder.alloc(number, *step)
        elif isinstance(step, str):
            recorder.empty_cache()
        elif recorder.blocks:
            recorder.free(list(recorder.blocks)[step % len(recorder.blocks)])


@hypothesis_settings(deadline=None, max_examples=200)
@given(
    before=st.lists(STEPS, max_size=40),
    after=st.lists(STEPS, max_size=30),
    expandable=st.booleans(),
    capacity=st.sampled_from([1 << 62, 90 * MIB]),
)
def test_recording_that_begins_anywhere_agrees_through_empty_caches_pressure_and_failures(
    before, after, expandable, capacity
):
    recorder = Recorder(expandable, capacity)
    take(recorder, before)
    recorder.forget()
    start = recorder.live()
    take(recorder, after, first=1000)
    recording = recording_of(recorder.snapshot())
    assert recording.problem is None
    undone = {block.address: block.size_bytes for segment in recording.start for block in segment.blocks}
    assert undone.keys() == start.keys()
    other = [start[address] - size for address, size in undone.items() if size != start[address]]
    assert len(other) <= recording.unknown_blocks
    assert all(0 < rest <= MIB for rest in other)
    found = compare_recording(recording, recorded_settings(recording.settings), {})
    if not other:  # what the file does not determine, nobody can replay
        assert found.difference is None
        assert found.addresses.equal == found.addresses.compared
        assert found.simulated.reserved_bytes[-1:].tolist() in ([], [recorder.allocator.reserved])
    if found.difference is not None:
        assert "each may be up to 1 MiB larger" in found.difference.cause


def test_pages_that_were_unmapped_before_the_recording_are_mapped_again_at_their_addresses(tmp_path):
    """The first of three pages was given back, so the segment begins below the first page that is mapped."""
    recorder = Recorder(expandable=True)
    for number in range(3):
        recorder.alloc(number, 20 * MIB)
    recorder.free(0)
    recorder.empty_cache()
    recorder.forget()
    recorder.alloc(3, 15 * MIB)
    recorder.alloc(4, 30 * MIB)
    found = replay(recorder.write(tmp_path / "s.pickle"))
    assert found.verdict is Verdict.AGREES
    assert found.recording.start[0].base == found.recording.events[0].handle < found.recording.start[0].address


def test_recorded_rounding_is_used(tmp_path):
    """With four steps between powers of two, 1,200 MiB round up to 1,280 MiB."""
    recorder = Recorder()
    recorder.alloc(0, 1200 * MIB)
    path = recorder.write(tmp_path / "s.pickle", roundup_power2_divisions={str(2**power): 4 for power in range(16)})
    assert replay(path).simulated.peak_allocated_bytes == 1280 * MIB
    recorder.write(path, roundup_power2_divisions={"1": 4})
    with pytest.raises(DataError, match=r"has 1 roundup_power2_divisions"):
        replay(path)
    assert replay(path, "expandable_segments:True").simulated.peak_reserved_bytes == 1200 * MIB


def late_block(recorder, freed_bytes, then):
    """A block of 4 MiB that is older than the recording, at the start of a segment; ``then`` happens behind it."""
    recorder.alloc("filler", freed_bytes)
    recorder.alloc("next", 20 * MIB - freed_bytes)
    recorder.free("filler")
    recorder.alloc("old", 4 * MIB)
    recorder.forget()
    then(recorder)
    recorder.free("old")
    recorder.alloc("new", 3 * MIB)
    return recording_of(recorder.snapshot())


@pytest.mark.parametrize(
    ("hidden", "gap", "unknown"),
    [(MIB // 2, MIB // 2, 0), (MIB, MIB, 0), (0, MIB + 512, 0), (0, 2 * MIB, 1)],
    ids=["gap too small for a free block", "largest remainder", "no room to be larger", "not determined"],
)
def test_size_of_a_block_older_than_the_recording_follows_from_the_gap_behind_it(hidden, gap, unknown):
    recording = late_block(Recorder(), 4 * MIB + gap, lambda recorder: None)
    (segment,) = recording.start
    assert segment.blocks[0].size_bytes == 4 * MIB + hidden
    assert recording.unknown_blocks == unknown


def test_allocation_behind_a_block_shows_where_the_block_ends():
    recording = late_block(Recorder(), 8 * MIB, lambda recorder: recorder.alloc("behind", 2 * MIB))
    assert recording.unknown_blocks == 0
    assert recording.start[0].blocks[0].size_bytes == 4 * MIB


def test_memory_that_ran_out_gives_the_capacity_and_other_settings_are_tried_with_it(tmp_path):
    """Six blocks of 11 MiB take segments of 12, so 72 MiB do not fit into 70. Pages of 20 MiB do not fit either."""
    recorder = Recorder(capacity=70 * MIB)
    for number in range(5):
        assert recorder.alloc(number, 11 * MIB)
    assert not recorder.alloc(5, 11 * MIB)
    path = recorder.write(tmp_path / "s.pickle")
    found = replay(path)
    assert found.verdict is Verdict.AGREES
    assert found.to_dict()["recorded"]["out_of_memory"] == 1
    assert found.to_dict()["recorded"]["capacity_bytes"] == 70 * MIB
    assert replay(path, "expandable_segments:True").simulated.served == ()
    assert replay(path, "expandable_segments:True", 80 * MIB).simulated.served == (5,)
    assert replay(path, None, 50 * MIB).verdict is Verdict.DOES_NOT_FIT


def test_request_that_only_failed_when_recorded_is_a_difference(tmp_path):
    """The file has an out-of-memory entry although a cached block would serve it."""
    recorder = Recorder()
    recorder.alloc(0, 30 * MIB)
    recorder.free(0)
    recorder.trace.append({"action": "oom", "size": 25 * MIB, "stream": 0, "device_free": 0})
    found = replay(recorder.write(tmp_path / "s.pickle"))
    assert (found.difference.quantity, found.difference.event, found.exit_code) == ("request", 2, 1)


def test_private_pool_gets_its_own_segments(tmp_path):
    """A CUDA graph's pool takes no memory from the free 16 MiB of the default pool."""
    recorder = Recorder()
    recorder.alloc(0, 4 * MIB)
    recorder.alloc(1, 4 * MIB, stream=1)
    content = recorder.snapshot()
    for entry in content["device_traces"][0]:
        entry["stream"] = 0
    for segment, pool in zip(content["segments"], ((0, 0), (0, 1)), strict=True):
        segment |= {"stream": 0, "segment_pool_id": pool}
    (tmp_path / "s.pickle").write_bytes(pickle.dumps(content))
    found = replay(tmp_path / "s.pickle")
    assert found.verdict is Verdict.AGREES
    assert found.simulated.segments[-1] == 2


def of_another_allocator(device=0):
    """A snapshot in which 3 MiB got a segment of 38 MiB, where torch's rules give 20."""
    recorder = Recorder()
    recorder.alloc(0, 3 * MIB)
    content = recorder.snapshot(device)
    content["segments"][0] |= {"total_size": 38 * MIB}
    content["segments"][0]["blocks"][-1]["size"] += 18 * MIB
    content["device_traces"][device][0]["size"] = 38 * MIB
    return content


def write(content, path):
    path.write_bytes(pickle.dumps(content))
    return path


def test_recording_of_another_allocator_differs_at_an_event_with_both_sides_and_a_cause(tmp_path):
    found = replay(write(of_another_allocator(), tmp_path / "s.pickle"))
    assert found.to_dict()["difference"] == {
        "event": 0,
        "entry": 1,
        "quantity": "reserved bytes",
        "recorded": f"{38 * MIB:,}",
        "simulated": f"{20 * MIB:,}",
        "cause": found.difference.cause,
    }
    assert "another release of torch (--torch)" in found.difference.cause
    assert (found.verdict, found.exit_code) == (Verdict.DIFFERS, 1)


def test_difference_of_a_late_recording_is_not_blamed_on_the_release_of_torch(tmp_path):
    """4 MiB took a free block of 5 MiB as a whole. Behind them 3 MiB are free, not 4, and the file does not say it."""
    recorder = Recorder()
    for handle, size in (("filler", 5), ("behind", 3), ("rest", 12)):
        recorder.alloc(handle, size * MIB)
    recorder.free("filler")
    recorder.alloc("old", 4 * MIB)
    recorder.free("behind")
    recorder.forget()
    recorder.alloc("new", 4 * MIB)
    recorder.free("old")
    found = replay(recorder.write(tmp_path / "s.pickle"))
    assert found.recording.unknown_blocks == 1
    assert (found.difference.quantity, found.exit_code) == ("reserved bytes", 1)
    assert "older than the recording" in found.difference.cause
    assert "torch" not in found.difference.cause


def test_every_device_with_a_history_is_compared(tmp_path):
    content, other = busy(Recorder(), 60).snapshot(), of_another_allocator(device=1)
    content["segments"] += other["segments"]
    content["device_traces"].append(other["device_traces"][1])
    path = write(content, tmp_path / "s.pickle")
    found = replay(path)
    assert [device["verdict"] for device in found.to_dict()["devices"]] == ["agrees", "differs"]
    assert (found.recording.device, found.verdict, found.exit_code) == (0, Verdict.AGREES, 1)
    assert replay(path, device=0).exit_code == 0
    assert replay(path, device=1).difference == found.others[0].difference
    with pytest.raises(ConfigError, match="--device 5: the file does not have this device; it has memory of 0, 1"):
        replay(path, device=5)


def nothing_recorded(recorder):
    recorder.alloc(0, 3 * MIB)
    recorder.forget()


def only_a_free(recorder):
    recorder.alloc(0, 3 * MIB)
    recorder.forget()
    recorder.free(0)


def stopped_too_early(recorder):
    recorder.alloc(0, 3 * MIB)
    recorder.free(0)
    entries = list(recorder.trace)
    recorder.empty_cache()
    recorder.trace[:] = entries


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (nothing_recorded, "the file has no history of device 1"),
        (only_a_free, "the history of device 1 has no allocation"),
        (stopped_too_early, "entry 3 does not lead to the state behind it .* ended before the file was written"),
    ],
)
def test_file_without_an_allocation_to_check_is_no_agreement(tmp_path, record, reason):
    recorder = Recorder()
    record(recorder)
    found = replay(recorder.write(tmp_path / "s.pickle"))
    assert (found.verdict, found.exit_code) == (Verdict.NOTHING, 5)
    assert re.match(reason, found.nothing_reason)
    assert found.to_dict()["reason"] == found.nothing_reason
    json.dumps(found.to_dict(), allow_nan=False)


def test_entries_before_a_gap_of_the_recording_are_left_out(tmp_path):
    """Recording was paused while a block was freed and its segment given back."""
    recorder = Recorder()
    recorder.alloc(0, 30 * MIB)
    before = list(recorder.trace)
    recorder.free(0)
    recorder.empty_cache()
    recorder.forget()
    recorder.alloc(1, 3 * MIB)
    recorder.trace[:0] = before
    found = replay(recorder.write(tmp_path / "s.pickle"))
    assert found.verdict is Verdict.AGREES
    assert len(found.recording.events) == 1
    assert "entry 1 does not lead to the state behind it" in found.to_dict()["left_out"]


def test_replay_uses_other_settings_and_a_limit_from_the_state_of_the_beginning(tmp_path):
    recorder = Recorder()
    for number in range(4):
        recorder.alloc(number, 11 * MIB)
    recorder.forget()
    for number in range(4, 8):
        recorder.alloc(number, 11 * MIB)
    path = recorder.write(tmp_path / "s.pickle")
    assert replay(path).simulated.peak_reserved_bytes == 8 * 12 * MIB
    grown = replay(path, "expandable_segments:True")
    assert grown.simulated.peak_reserved_bytes == 4 * 12 * MIB + 60 * MIB  # 44 MiB in pages of 20
    assert (grown.first_difference, grown.is_as_recorded, grown.exit_code) == (None, False, 0)
    full = replay(path, None, 75 * MIB)
    assert len(full.simulated.reserved_bytes) == 2
    assert "reserved of 75.0 MiB" in full.simulated.out_of_memory
    assert full.exit_code == 6


def test_contradicting_events_are_an_error():
    with pytest.raises(ValueError, match="allocated twice"):
        replay_events([Event("alloc", 1, 5), Event("alloc", 1, 5)], CachingAllocator())
    with pytest.raises(ValueError, match="was not allocated"):
        replay_events([Event("free", 1, 5)], CachingAllocator())
