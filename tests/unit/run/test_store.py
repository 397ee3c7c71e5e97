"""A run directory: atomic, locked, readable for ever."""

import json
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from slr_bench.errors import ConfigError
from slr_bench.record import Outcome, Record
from slr_bench.run.store import Manifest, Store

SCHEMA_1 = """{
 "schema": 1, "cell_id": "0123456789ab", "side": "a", "repeat": 0, "workload": "train_step",
 "setting": {"model": {"weights": null}, "training": {"batch_size": 4, "precision": "bf16"}},
 "outcome": "ok", "reason": null,
 "environment": {"python": "3.11.9", "torch": "2.15.0", "trace_rules": 1, "isolation": "fork", "threads": 2},
 "metrics": {
  "peak_tensor_bytes": {"value": 4096, "unit": "bytes", "source": "cpu-real", "quality": "exact", "reason": null},
  "energy_j": {"value": null, "unit": "J", "source": "NVML", "quality": "unavailable", "reason": "no GPU"}
 },
 "phases": {"load": {"duration_s": 0.5, "count": 1, "peak_tensor_bytes": null}},
 "started_at": "2026-01-01T00:00:00+00:00", "duration_s": 1.5
}"""
"""A record of schema 1. Never change it: old run directories look like this."""

SCHEMA_1_MANIFEST = """{
 "schema": 1, "workload": "train_step", "source_hash": "ab", "config_hash": "cd",
 "environment": {"torch": "2.15.0"}, "command": "slr-bench run grid.yml",
 "cells": [{"cell_id": "0123456789ab", "arm": "optimized", "workload": "train_step",
   "setting": {"training": {"batch_size": 4}}, "coordinates": {"training.batch_size": 4},
   "is_own": true, "repeats": 3}]
}"""


def record(repeat: int = 0, **changes) -> Record:
    return Record.model_validate_json(SCHEMA_1).model_copy(update={"repeat": repeat} | changes)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "run")
    with store.locked():
        yield store


def test_a_record_of_schema_1_stays_readable(store):
    (store.records_directory / "0123456789ab-a-0.json").write_text(SCHEMA_1)
    (found,), problems = store.read_records()
    assert problems == []
    assert json.loads(found.model_dump_json(by_alias=True)) == json.loads(SCHEMA_1)


@pytest.mark.parametrize(
    ("old", "new"),
    [("4096", "2048"), ('"fork"', '"spawn"'), ('"torch": "2.15.0"', '"torch": "2.16.0"'), ("1.5", "1.25")],
)
def test_record_that_was_edited_by_hand_is_not_believed(store, old, new):
    store.write_record(record())
    store.write_record(record(1))
    path = store.records_directory / f"{record().name}.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert store.read_records() == (
        [record(1)],
        [
            f"{path.name}: not a readable record: "
            "changed after it was written; restore the file, or measure its cell again"
        ],
    )
    path.write_text(json.dumps(json.loads(text)))  # other white space
    assert store.read_records() == ([record(), record(1)], [])


def test_edited_discarded_run_is_not_shown(store):
    store.write_discarded(record(), 1)
    (path,) = store.discarded_directory.iterdir()
    path.write_text(path.read_text().replace("4096", "1"))
    assert store.read_discarded() == []


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b'{"checksum": "sha256:0"}', b"1e999", b"NaN"])
def test_file_that_only_resembles_a_record_is_a_problem_and_no_traceback(store, content):
    (store.records_directory / "x-a-0.json").write_bytes(content)
    records, (problem,) = store.read_records()
    assert records == []
    assert problem.startswith("x-a-0.json: not a readable record: ")


def test_a_manifest_of_schema_1_stays_readable(store):
    (store.directory / "grid.json").write_text(SCHEMA_1_MANIFEST)
    manifest = store.read_manifest()
    assert json.loads(manifest.model_dump_json(by_alias=True)) == json.loads(SCHEMA_1_MANIFEST)
    store.write_manifest(manifest)
    assert store.read_manifest() == manifest


def test_records_are_read_back_in_the_order_of_their_names(store):
    written = [record(2), record(0), record(1, side="b"), record(0, cell_id="0000000000ff")]
    for one in written:
        store.write_record(one, {"rows": [one.repeat]})
    records, problems = store.read_records()
    assert problems == []
    assert records == sorted(written, key=lambda one: one.name)
    assert store.read_samples(record(2).name) == {"rows": [2]}


def test_a_run_without_samples_has_none(store):
    store.write_record(record())
    assert store.read_samples(record().name) is None


@pytest.mark.parametrize("content", [b"", b"{", SCHEMA_1[:200].encode(), b"\xff\xfe", b"[]", b'{"schema": 2}'])
def test_unreadable_record_is_reported_left_in_place_and_not_counted_as_finished(store, content):
    store.write_record(record(0))
    bad = store.records_directory / f"{record(1).name}.json"
    bad.write_bytes(content)
    records, problems = store.read_records()
    assert records == [record(0)]
    assert len(problems) == 1
    assert problems[0].startswith(f"{bad.name}: not a readable record: ")
    assert bad.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"schema": 2}'])
def test_an_unreadable_manifest_is_refused_with_the_cure(store, content):
    (store.directory / "grid.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"grid.json is not a readable manifest; .*--out"):
        store.read_manifest()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_unreadable_samples_are_no_samples(store, content):
    (store.directory / "samples" / "x.json").write_bytes(content)
    assert store.read_samples("x") is None


def test_a_new_directory_has_no_manifest(store):
    assert store.read_manifest() is None


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_record_whole_and_is_our_error(store, monkeypatch, step):
    store.write_record(record())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), full)
    with pytest.raises(ConfigError, match="No space left on device"):
        store.write_record(record(duration_s=99.0))
    monkeypatch.undo()
    assert store.read_records() == ([record()], [])


def test_samples_are_written_before_their_record(store, monkeypatch):
    order = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, target: (order.append(target.parent.name), replace(path, target)))
    store.write_record(record(), {"rows": []})
    assert order == ["samples", "records"]


def test_a_record_with_marks_is_read_back_and_one_without_has_no_key_for_them(store):
    marked = record(1, marks=("swapping: 3.0 MiB",))
    for one in (record(0), marked):
        store.write_record(one)
    assert store.read_records()[0] == [record(0), marked]
    texts = [json.loads(path.read_text()) for path in sorted(store.records_directory.iterdir())]
    assert ["marks" in text for text in texts] == [False, True]


def test_discarded_runs_are_kept_apart_attempt_by_attempt(store):
    thrown = record(outcome=Outcome.INVALID_ENV, reason="clock jump", marks=("clock jump",))
    for attempt in (1, 2):
        store.write_discarded(thrown, attempt)
    assert sorted(path.name for path in store.discarded_directory.iterdir()) == [
        "0123456789ab-a-0-1.json",
        "0123456789ab-a-0-2.json",
    ]
    assert [one.name for one in store.read_discarded()] == [thrown.name] * 2
    (store.discarded_directory / "x-a-0-1.json").write_text("{")
    assert len(store.read_discarded()) == 2
    assert store.read_records() == ([], [])


def test_older_directory_has_no_discarded_runs(store):
    store.discarded_directory.rmdir()
    assert store.read_discarded() == []


def test_a_copied_record_does_not_count_twice(store):
    store.write_record(record())
    copy = store.records_directory / "0123456789ab-a-7.json"
    copy.write_bytes((store.records_directory / "0123456789ab-a-0.json").read_bytes())
    records, problems = store.read_records()
    assert records == [record()]
    assert problems == ["0123456789ab-a-7.json: a copy of record 0123456789ab-a-0; it counts once"]


def test_next_run_removes_only_the_unfinished_writes_of_a_killed_one(tmp_path):
    store = Store(tmp_path)
    with store.locked():
        store.write_record(record(), {"rows": []})
    whole = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / ".grid.json.tmp").write_text('{"schema": ')
    for place in (store.records_directory, store.discarded_directory, tmp_path / "samples"):
        (place / ".x.json.tmp").write_text('{"schema": ')
    with store.locked():
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == whole


def child(code: str, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


_WRITER = f"""
import sys
from pathlib import Path
from slr_bench.record import Outcome, Record
from slr_bench.run.store import Store
store, first = Store(Path(sys.argv[1])), Record.model_validate_json({SCHEMA_1!r})
with store.locked():
    for repeat in range(10**9):
        store.write_record(first.model_copy(update={{"repeat": repeat}}), {{"rows": [0] * 20000}})
        print(repeat, flush=True)
"""


@pytest.mark.parametrize("written", [1, 7, 20])
def test_a_writer_killed_at_any_moment_leaves_only_whole_records(tmp_path, written):
    with child(_WRITER, str(tmp_path)) as process:
        for _ in range(written):
            last = int(process.stdout.readline())
        process.kill()
    records, problems = Store(tmp_path).read_records()
    assert problems == []
    assert {one.repeat for one in records} >= set(range(last + 1))
    assert all(Store(tmp_path).read_samples(one.name) for one in records)


def test_a_second_run_on_one_directory_is_refused(store):
    with pytest.raises(ConfigError, match="in use by another run"), Store(store.directory).locked():
        pass


def test_the_lock_ends_with_its_holder(tmp_path):
    with child(_WRITER, str(tmp_path)) as process:
        assert select.select([process.stdout], [], [], 60)[0]
        with pytest.raises(ConfigError, match="in use by another run"), Store(tmp_path).locked():
            pass
        process.kill()
    with Store(tmp_path).locked():
        pass
    with Store(tmp_path).locked():
        pass


def test_a_file_cannot_be_a_run_directory(tmp_path):
    (tmp_path / "file").write_text("")
    message = "cannot use .*file as run directory: Not a directory; choose another with --out"
    with pytest.raises(ConfigError, match=message), Store(tmp_path / "file").locked():
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere: a read-only directory stops nothing")
def test_a_directory_that_is_not_writable_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="Permission denied; choose another"), Store(tmp_path / "run").locked():
        pass


def test_a_manifest_is_refused_if_it_holds_what_no_schema_has():
    with pytest.raises(ValueError, match="host"):
        Manifest.model_validate(json.loads(SCHEMA_1_MANIFEST) | {"host": "x"})


def test_a_directory_that_holds_other_things_is_not_written_into(tmp_path):
    (tmp_path / "videos").mkdir()
    with (
        pytest.raises(ConfigError, match="it holds videos; choose a new or empty one with --out"),
        Store(tmp_path).locked(),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_remains_of_a_stopped_start_are_taken_over(tmp_path):
    for _ in range(2):
        with Store(tmp_path).locked():
            pass
    assert (tmp_path / "records").is_dir()
