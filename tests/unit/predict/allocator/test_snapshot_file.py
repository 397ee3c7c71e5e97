"""Files given to ``replay``: snapshots in every form, files that are none, and pickles that want to run code."""

import base64
import gzip
import json
import pickle
import random
import zipfile
from collections import Counter

import pytest
from recorded_allocator import Recorder

from slr_bench.errors import ConfigError, DataError, SlrBenchError
from slr_bench.predict.allocator.snapshot_file import read_snapshot
from slr_bench.predict.allocator.verdict import Verdict, replay_snapshot
from slr_bench.units import MIB


def snapshot():
    recorder = Recorder()
    recorder.alloc(0, 3 * MIB)
    return recorder.snapshot()


def page(content):
    """Return a page as ``python -m torch.cuda._memory_viz trace_plot`` writes it."""
    data = base64.b64encode(pickle.dumps(content) + b"\0\0").decode()
    files = json.dumps([{"name": "snapshot.pickle", "base64": data}])
    return f'\n<!DOCTYPE html>\n<html>\n<script type="module">\nconst local_files = {files}\n</script>'.encode()


@pytest.mark.parametrize(
    "write",
    [
        pickle.dumps,
        lambda content: pickle.dumps(content, protocol=0),
        lambda content: json.dumps(content, indent=1).encode(),
        lambda content: b"\xef\xbb\xbf" + json.dumps(content).encode(),
        lambda content: gzip.compress(pickle.dumps(content)),
        page,
    ],
    ids=["pickle", "old pickle", "JSON", "JSON with a byte order mark", "gzip", "page of memory_viz"],
)
def test_snapshot_is_read_in_every_form(tmp_path, write):
    (tmp_path / "s").write_bytes(write(snapshot()))
    assert read_snapshot(tmp_path / "s") == snapshot()


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def payloads(mark):
    """Pickles that would create the file ``mark``."""
    shell = f"touch {mark}"
    text = shell.encode()
    whole = snapshot()
    import os
    import subprocess

    yield "system", pickle.dumps(Call(os.system, shell))
    yield "system, protocol 0", pickle.dumps(Call(os.system, shell), protocol=0)
    yield "eval", pickle.dumps(Call(eval, f"open({str(mark)!r}, 'w')"))
    yield "exec", pickle.dumps(Call(exec, f"open({str(mark)!r}, 'w')"))
    yield "Popen", pickle.dumps(Call(subprocess.Popen, ["touch", str(mark)]))
    yield "in an entry", pickle.dumps({**whole, "more": [Call(os.system, shell)]})
    yield "in a key", pickle.dumps({**whole, ("more", 1): {"x": Call(os.system, shell)}})
    yield "GLOBAL", b"cposix\nsystem\n(S'" + text + b"'\ntR."
    yield "INST", b"(S'" + text + b"'\niposix\nsystem\n."
    yield "OBJ", b"(cposix\nsystem\nS'" + text + b"'\no."
    yield "import in import", b"c__builtin__\n__import__\n(S'posix'\ntRS'" + text + b"'\n\x85R."
    yield "dotted name", b"\x80\x04\x8c\x02os\x8c\x0bpath.os.sys\x93."
    yield "NEWOBJ_EX", b"\x80\x04cposix\nsystem\n(S'" + text + b"'\nt}\x92."
    yield "extension registry", b"\x80\x02\x82\x01."
    yield "persistent id", b"P" + text + b"\n."
    yield "in a page", page({**whole, "more": Call(os.system, shell)})
    yield "in gzip", gzip.compress(pickle.dumps(Call(os.system, shell)))


def test_pickle_that_names_code_is_refused_and_nothing_runs(tmp_path, capfd):
    mark = tmp_path / "mark"
    for name, data in payloads(mark):
        (tmp_path / "s").write_bytes(data)
        with pytest.raises(DataError, match=r"no memory snapshot"):
            read_snapshot(tmp_path / "s")
        assert not mark.exists(), name
    assert capfd.readouterr() == ("", "")
    with pytest.raises(DataError, match=r"it wants to load posix\.system, and a snapshot holds plain values only"):
        read_snapshot(_written(tmp_path, b"cposix\nsystem\n."))


def _written(directory, data):
    (directory / "s").write_bytes(data)
    return directory / "s"


def damaged(**changes):
    content = snapshot()
    for key, value in changes.items():
        part, _, name = key.partition("_")
        target = content["segments"][0] if part == "segment" else content["device_traces"][0][-1]
        target.pop(name) if value is None else target.update({name: value})
    return pickle.dumps(content)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (pickle.dumps(snapshot())[:-40], "the file is cut off"),
        (pickle.dumps(snapshot())[:7], "the file is cut off"),
        (gzip.compress(pickle.dumps(snapshot()))[:-20], "the file is cut off"),
        (json.dumps(snapshot())[:-9].encode(), "it cannot be parsed"),
        (b"\x80\x04no pickle", "it cannot be parsed"),
        (b"<!DOCTYPE html><html></html>", "it is an HTML page without a snapshot in it"),
        (json.dumps({"traceEvents": []}).encode(), "it is a trace of torch.profiler"),
        (json.dumps([[1, 2], [[3], [4]]]).encode(), "it is a timeline of torch.profiler.export_memory_timeline"),
        (pickle.dumps(snapshot()["segments"]), "a list of segments without a history, from torch.cuda.memory_snapshot"),
        (pickle.dumps([1]), "a list without segments and device_traces"),
        (pickle.dumps({"segments": []}), "an object without segments and device_traces"),
        (pickle.dumps(7), "a single value"),
        (pickle.dumps({"segments": [], "device_traces": 7}), "device_traces is no list"),
        (pickle.dumps({"segments": 7, "device_traces": []}), "segments is no list"),
        (pickle.dumps({"segments": [7], "device_traces": []}), "segment 0 is no dictionary"),
        (pickle.dumps({"segments": [], "device_traces": [], "allocator_settings": 1}), "allocator_settings is no dict"),
        (damaged(entry_action=None), "entry 1 of device 0 has no action"),
        (damaged(entry_addr=None), "entry 1 of device 0 has no address and size"),
        (damaged(entry_size=-5), "entry 1 of device 0 has no address and size"),
        (damaged(entry_size=1 << 70), "entry 1 of device 0 has no address and size"),
        (damaged(entry_stream=[]), "entry 1 of device 0 has a stream that is no number"),
        (damaged(segment_device=None), "segment 0 has no device"),
        (damaged(segment_blocks=None), "segment 0 has no blocks with a size and a state"),
        (damaged(segment_blocks=[]), "segment 0 is not as large as its blocks together"),
        (damaged(segment_stream="x"), "segment 0 has a stream that is no number"),
    ],
)
def test_file_that_is_not_a_snapshot_is_refused_with_the_reason(tmp_path, data, message):
    with pytest.raises(DataError, match=message):
        read_snapshot(_written(tmp_path, data))


def test_zip_archive_and_missing_file_are_refused_with_the_reason(tmp_path):
    with zipfile.ZipFile(tmp_path / "s", "w") as archive:
        archive.writestr("data.pkl", b"")
    with pytest.raises(DataError, match=r"it is a zip archive, such as torch.save writes"):
        read_snapshot(tmp_path / "s")
    with pytest.raises(ConfigError, match="cannot read"):
        read_snapshot(tmp_path / "none.pickle")


def test_blocks_without_addresses_are_read_as_old_releases_of_torch_wrote_them(tmp_path):
    """They list the blocks of a segment one after the other."""
    content = snapshot()
    assert not [block for segment in content["segments"] for block in segment["blocks"] if "address" in block]
    for segment in content["segments"]:
        del segment["is_expandable"], segment["segment_type"]
        for block in segment["blocks"]:
            del block["requested_size"]
    del content["allocator_settings"]
    assert read_snapshot(_written(tmp_path, pickle.dumps(content))) == content


JUNK = (None, -1, 0, 7, 1 << 61, 1 << 80, "x", [], {}, [1], {"a": 1}, True, 2.5, b"q", ("a", "b"))


def places(value, before=()):
    """Yield the path of every part of nested dictionaries and lists."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in pairs:
        yield (*before, key)
        yield from places(part, (*before, key))


def history(expandable):
    recorder = Recorder(expandable, capacity=60 * MIB)
    for number, size in enumerate((1000, 3 * MIB, 11 * MIB, 21 * MIB, 50 * MIB)):
        recorder.alloc(number, size, stream=number % 2)
    recorder.free(0)
    recorder.empty_cache()
    return recorder.snapshot(roundup_power2_divisions={str(2**power): 0 for power in range(16)})


@pytest.mark.parametrize("expandable", [False, True])
def test_damaged_part_is_refused_or_replayed_and_never_ends_in_a_traceback(tmp_path, expandable):
    """Each part of a snapshot is removed, or replaced by something else."""
    chance, outcomes = random.Random(1), Counter()
    for place in places(history(expandable)):
        for damage in (None, chance.choice(JUNK)):
            content = history(expandable)
            target = content
            for key in place[:-1]:
                target = target[key]
            if damage is None:
                del target[place[-1]]
            else:
                target[place[-1]] = damage
            try:
                found = replay_snapshot(_written(tmp_path, pickle.dumps(content)), None, None, None, "2.14")
            except SlrBenchError as error:
                outcomes[type(error)] += 1
            else:
                json.dumps(found.to_dict(), allow_nan=False)
                outcomes[found.verdict] += 1
    assert outcomes[DataError] > 50
    assert outcomes[Verdict.AGREES] > 50
