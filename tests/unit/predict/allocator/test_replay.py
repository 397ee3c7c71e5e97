"""Replays of snapshots in torch's layout that the naive allocator wrote."""

import json
import pickle
import random
import subprocess
import sys

import pytest
from recorded_allocator import Recorder

from slr_bench.errors import ConfigError, DataError
from slr_bench.predict.allocator.caching import CachingAllocator
from slr_bench.predict.allocator.recording import Event
from slr_bench.predict.allocator.replay import replay_events, replay_snapshot
from slr_bench.units import MIB


def busy(recorder, events=400):
    generator, alive = random.Random(3), []
    for number in range(events):
        if alive and generator.random() < 0.45:
            recorder.free(alive.pop(generator.randrange(len(alive))))
        else:
            recorder.alloc(number, generator.choice([generator.randint(1, 2 * MIB), generator.randint(MIB, 40 * MIB)]))
            alive.append(number)
    return recorder


@pytest.mark.parametrize("expandable", [False, True])
def test_recording_is_replayed_to_the_byte_after_every_event(tmp_path, expandable):
    recorder = busy(Recorder(expandable))
    found = replay_snapshot(recorder.write(tmp_path / "s.pickle"), None, None, None, "2.14")
    assert found.first_difference is None
    assert found.recording.device == 1
    assert len(found.recording.events) == 400
    assert found.simulated.allocated_bytes[-1] == found.recording.allocated_at_end_bytes == recorder.allocator.allocated
    assert found.simulated.reserved_bytes[-1] == recorder.allocator.reserved
    assert found.simulated.requested_bytes[-1] == recorder.allocator.requested


def test_recorded_rounding_is_used(tmp_path):
    """With four steps between powers of two, 1,200 MiB round up to 1,280 MiB."""
    recorder = Recorder()
    recorder.alloc(0, 1200 * MIB)
    path = recorder.write(tmp_path / "s.pickle", roundup_power2_divisions={str(2**power): 4 for power in range(16)})
    assert replay_snapshot(path, None, None, None, "2.14").simulated.peak_allocated_bytes == 1280 * MIB
    recorder.write(path, roundup_power2_divisions={"1": 4})
    with pytest.raises(DataError, match=r"has 1 roundup_power2_divisions"):
        replay_snapshot(path, None, None, None, "2.14")


def test_recording_of_another_allocator_differs_at_an_event(tmp_path):
    recorder = Recorder()
    recorder.alloc(0, 3 * MIB)
    recorder.alloc(1, 3 * MIB)
    recorder.trace[2:2] = [{"action": "segment_alloc", "addr": 1, "size": 20 * MIB, "stream": 0, "frames": []}]
    found = replay_snapshot(recorder.write(tmp_path / "s.pickle"), None, None, None, "2.14")
    assert found.first_difference == 1


def test_replay_uses_other_settings_and_a_limit(tmp_path):
    recorder = Recorder()
    for number in range(8):
        recorder.alloc(number, 11 * MIB)
    path = recorder.write(tmp_path / "s.pickle")
    assert replay_snapshot(path, None, None, None, "2.14").simulated.peak_reserved_bytes == 8 * 12 * MIB
    grown = replay_snapshot(path, "expandable_segments:True", None, None, "2.14")
    assert grown.simulated.peak_reserved_bytes == 100 * MIB  # 88 MiB in pages of 20
    assert grown.first_difference is None
    assert not grown.is_as_recorded
    full = replay_snapshot(path, None, 50 * MIB, None, "2.14").simulated
    assert len(full.reserved_bytes) == 4
    assert "reserved of 50.0 MiB" in full.out_of_memory


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"segments": [], "device_traces": [], "more": Evil()}), r"wants to load builtins\.print"),
        (b"\x80\x04no pickle", "no memory snapshot"),
        (b"", "no memory snapshot"),
        (pickle.dumps([1]), "no segments and device_traces"),
        (pickle.dumps({"segments": [], "device_traces": [[]]}), "no history of device 0"),
        (pickle.dumps({"segments": [], "device_traces": 7}), "device_traces is no list"),
        (pickle.dumps({"segments": [], "device_traces": [[{"size": 1}]]}), "entry 0 of device 0 has no action"),
        (
            pickle.dumps({"segments": [], "device_traces": [[{"action": "alloc", "addr": 1, "size": -5}]]}),
            "entry 0 of device 0 has no address and size",
        ),
        (
            pickle.dumps({"segments": [], "device_traces": [[{"action": "alloc", "addr": 1, "size": 5}] * 2]}),
            "gives out an address twice",
        ),
        (pickle.dumps({"segments": [{}], "device_traces": []}), "a segment has no device"),
        (
            pickle.dumps({"segments": [], "device_traces": [], "allocator_settings": None}),
            "allocator_settings is no dictionary",
        ),
    ],
)
def test_file_that_is_not_a_snapshot_is_refused_and_nothing_in_it_runs(tmp_path, capsys, content, message):
    path = tmp_path / "s.pickle"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        replay_snapshot(path, None, None, None, "2.14")
    assert capsys.readouterr().out == ""


def test_history_that_begins_in_the_middle_is_refused(tmp_path):
    recorder = busy(Recorder())
    del recorder.trace[:40]
    with pytest.raises(DataError, match="begins in the middle"):
        replay_snapshot(recorder.write(tmp_path / "s.pickle"), None, None, None, "2.14")
    with pytest.raises(ConfigError, match="cannot read"):
        replay_snapshot(tmp_path / "none.pickle", None, None, None, "2.14")


def test_contradicting_events_are_an_error():
    with pytest.raises(ValueError, match="allocated twice"):
        replay_events([Event("alloc", 1, 5), Event("alloc", 1, 5)], CachingAllocator())
    with pytest.raises(ValueError, match="was not allocated"):
        replay_events([Event("free", 1, 5)], CachingAllocator())


def test_command_reports_agreement_and_exits_with_6_if_it_does_not_fit(tmp_path):
    path = busy(Recorder(), 60).write(tmp_path / "s.pickle")

    def run(*options):
        command = [sys.executable, "-m", "slr_bench", "replay", str(path), *options]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    plain = run()
    assert plain.returncode == 0
    assert "agrees with the recording after every event" in plain.stdout
    limited = run("--capacity", "30MiB", "--json")
    assert limited.returncode == 6
    assert json.loads(limited.stdout)["simulated"]["out_of_memory"].startswith("tried to allocate")
    assert run("--capacity", "30").returncode == 2
