"""``slr-bench replay`` from the file to the exit code."""

import json

import pytest
from recorded_allocator import Recorder

from slr_bench.units import MIB


@pytest.fixture
def snapshot(tmp_path):
    recorder = Recorder()
    for number in range(6):
        recorder.alloc(number, 11 * MIB)
    recorder.forget()
    for number in range(6, 9):
        recorder.alloc(number, 11 * MIB)
    return recorder.write(tmp_path / "s.pickle")


def test_agreement_exits_with_0_and_json_has_the_same_verdict(slr_bench, snapshot):
    plain = slr_bench("replay", snapshot)
    assert plain.returncode == 0
    assert "agrees with the recording after every event" in plain.stdout
    assert "begins with 72.0 MiB reserved in 6 segments" in plain.stdout
    found = json.loads(slr_bench("replay", snapshot, "--json").stdout)
    assert (found["verdict"], found["first_difference"], found["events"]) == ("agrees", None, 3)


def test_capacity_that_is_too_small_exits_with_6(slr_bench, snapshot):
    limited = slr_bench("replay", snapshot, "--capacity", "80MiB", "--json")
    assert limited.returncode == 6
    assert json.loads(limited.stdout)["simulated"]["out_of_memory"].startswith("tried to allocate")
    assert slr_bench("replay", snapshot, "--capacity", "200MiB").returncode == 0
    unclear = slr_bench("replay", snapshot, "--capacity", "30")
    assert (unclear.returncode, "--capacity" in unclear.stderr) == (2, True)


def test_page_is_written_and_its_data_are_in_the_json(slr_bench, snapshot, tmp_path):
    result = slr_bench("replay", snapshot, "--out", "page.html", "--json")
    found = json.loads(result.stdout)
    assert (result.returncode, found["page"]) == (0, "page.html")
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert [one["settings"] for one in found["alternatives"]][:2] == ["as recorded", "expandable_segments:True"]
    itself = slr_bench("replay", snapshot, "--out", snapshot)
    assert (itself.returncode, "is the snapshot itself" in itself.stderr) == (2, True)
    lost = slr_bench("replay", snapshot, "--out", "no/page.html")
    assert (lost.returncode, "there is no directory no" in lost.stderr) == (2, True)


def test_file_without_a_history_exits_with_5_and_one_that_is_cut_off_with_2(slr_bench, snapshot):
    data = snapshot.read_bytes()
    recorder = Recorder()
    recorder.alloc(0, MIB)
    recorder.forget()
    nothing = slr_bench("replay", recorder.write(snapshot))
    assert nothing.returncode == 5
    assert "Nothing to check: the file has no history of device 1; call torch.cuda.memory._record" in nothing.stdout
    snapshot.write_bytes(data[:-100])
    cut = slr_bench("replay", snapshot)
    assert cut.returncode == 2
    assert cut.stderr.count("\n") == 1
    assert "the file is cut off" in cut.stderr
