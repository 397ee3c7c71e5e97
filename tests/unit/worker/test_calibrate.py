"""Calibration on a GPU: the calls of torch, with a fake GPU in its place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from slr_bench.execute.job import Job, MeasureCell, Measurement, Work
from slr_bench.worker import calibrate as gpu
from slr_bench.worker import measure
from slr_bench.worker.calibrate import Counters, TorchGpu, plain_history

GIB = 2**30


@pytest.fixture
def card(monkeypatch):
    """A fake GPU of 10 GiB in place of torch's; returns the list of its calls."""
    calls = []
    kinds = {"requested": 1, "allocated": 2, "reserved": 3}
    stats = {f"{kind}_bytes.all.current": number for kind, number in kinds.items()}
    stats |= {f"{kind}_bytes.all.peak": 10 * number for kind, number in kinds.items()}
    properties = SimpleNamespace(total_memory=10 * GIB, name="Fake")
    for name, value in {
        "memory_stats": lambda device: stats,
        "get_device_properties": lambda device: properties,
        "set_per_process_memory_fraction": lambda fraction, device: calls.append((fraction, device)),
        "synchronize": lambda device=None: calls.append("synchronize"),
        "get_device_capability": lambda device: (9, 0),
        "is_available": lambda: True,
        "init": lambda: calls.append("init"),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91300)
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda **how: calls.append(how))
    monkeypatch.setattr(torch.cuda.memory, "_snapshot", lambda device: {"of": str(device)})
    return calls


def test_each_counter_is_read_from_torch(card):
    assert TorchGpu().counters() == Counters(1, 2, 3, 10, 20, 30)


def test_the_history_has_no_stacks_and_ends_with_the_snapshot(card):
    one = TorchGpu()
    one.record_history()
    assert card == ["init", {"context": None, "stacks": "python", "max_entries": gpu.HISTORY_ENTRIES}]
    assert one.snapshot() == {"of": "cuda:0"}
    assert card[2:] == ["synchronize", {"enabled": None}]


def test_facts_name_the_gpu_and_versions_but_no_person(card):
    facts = TorchGpu().facts()
    assert (facts["gpu"], facts["capacity_bytes"], facts["compute_capability"]) == ("Fake", 10 * GIB, "9.0")
    assert facts["torch"] == str(torch.__version__)
    assert not facts.keys() & {"cpu", "cores", "system"}


@pytest.mark.parametrize(("limit", "fraction"), [(GIB, 0.1), (10 * GIB, 1.0), (20 * GIB, 1.0)])
def test_limit_is_passed_as_a_fraction_of_the_gpu(card, limit, fraction):
    measure.limit_allocator(limit)
    assert card == [(fraction, 0)]


def test_limit_of_a_job_is_set_before_anything_is_built(monkeypatch):
    calls = []

    def build(settings, context):
        calls.append("build")
        raise MemoryError

    context = SimpleNamespace(device=torch.device("cpu"), fake_mode=None)
    monkeypatch.setattr(
        measure, "open_work", lambda work, device: (SimpleNamespace(build=build, kind="step"), None, context)
    )
    monkeypatch.setattr(measure, "limit_allocator", calls.append)
    monkeypatch.setattr(measure, "_trace_fake", lambda task, context, work, kind: Measurement({}))
    for limit_bytes in (5, None):
        task = MeasureCell(Work("toy", {}, fake=True), 1, 1, 1, gpu_limit_bytes=limit_bytes)
        with pytest.raises(MemoryError):
            measure.measure(Job(task), lambda message: None)
    assert calls == [5, "build", "build"]


def test_a_plain_history_is_of_one_device_and_has_nothing_that_names_code():
    entry = {"action": "alloc", "addr": 7, "size": 3, "stream": 0, "frames": [{"filename": "/home/somebody/x.py"}]}
    block = {"size": 9, "requested_size": 3, "state": "active_allocated", "frames": entry["frames"]}
    segment = {"device": 1, "address": 7, "total_size": 9, "allocated_size": 3, "blocks": [block], "frames": []}
    whole = {
        "segments": [segment, {**segment, "device": 0}],
        "device_traces": [[], [entry, {"action": "oom", "size": 5, "time_us": 1}]],
        "allocator_settings": {"expandable_segments": False},
    }
    assert plain_history(whole, 1) == {
        "segments": [
            {
                "device": 0,
                "address": 7,
                "total_size": 9,
                "blocks": [{"size": 9, "requested_size": 3, "state": "active_allocated"}],
            }
        ],
        "device_traces": [[{"action": "alloc", "addr": 7, "size": 3, "stream": 0}, {"action": "oom", "size": 5}]],
        "allocator_settings": {"expandable_segments": False},
    }


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_on_a_real_card_a_history_is_replayed_to_the_byte_and_a_product_keeps_its_workspace():
    """Run in a process of its own, because no history has what other tests left with the allocator."""
    script = Path(__file__).resolve().parents[2] / "helpers" / "real_card.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["differences"] == []
    rows = [row for row in found["operators"] if row["reason"] is None]
    assert min(min(row["kept_bytes"], row["workspace_bytes"]) for row in rows) >= 0
    assert max(row["kept_bytes"] + row["workspace_bytes"] for row in rows if row["is_product"]) > 0
