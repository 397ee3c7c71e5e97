"""Atomic writes, dotted keys, and the values of ``--set``."""

import os

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from slr_bench.errors import ConfigError
from slr_bench.files import lookup, nest, parse_override, parse_overrides, replace_file, write_atomically


@pytest.mark.parametrize("content", ["text", b"text", lambda file: file.write(b"text")])
def test_text_bytes_and_a_writer_give_the_same_file(tmp_path, content):
    write_atomically(tmp_path / "x", content)
    assert (tmp_path / "x").read_bytes() == b"text"
    assert os.listdir(tmp_path) == ["x"]


def test_missing_directory_is_made_only_on_request(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot write .*: No such file or directory; choose another path"):
        write_atomically(tmp_path / "new" / "x", "", cure="choose another path")
    assert not (tmp_path / "new").exists()
    write_atomically(tmp_path / "new" / "x", "1", make_directory=True)
    assert (tmp_path / "new" / "x").read_text() == "1"


@pytest.mark.parametrize("durable", [False, True])
def test_only_a_durable_write_waits_for_the_disk(tmp_path, monkeypatch, durable):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    replace_file(tmp_path / "x", "1", durable=durable)
    assert len(synced) == (2 if durable else 0)  # the file and its directory


def test_failed_rename_keeps_the_earlier_file(tmp_path, monkeypatch):
    write_atomically(tmp_path / "x", "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ConfigError, match="No space left on device; free space or choose another directory"):
        write_atomically(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_error_while_writing_leaves_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "x", lambda file: 1 / 0)
    assert list(tmp_path.iterdir()) == []


def test_error_that_the_disk_did_not_cause_is_raised_unchanged(tmp_path):
    def write(file):
        raise RuntimeError("of torch's own")

    with pytest.raises(RuntimeError, match="of torch's own"):
        write_atomically(tmp_path / "x", write)


def test_overrides_are_laid_over_a_copy():
    base = {"a": {"b": 1, "c": [2]}}
    assert nest({"a.b": 3, "d.e": 4}, base=base) == {"a": {"b": 3, "c": [2]}, "d": {"e": 4}}
    assert base == {"a": {"b": 1, "c": [2]}}


@pytest.mark.parametrize("section", [4, None])
def test_key_below_a_value_is_refused(section):
    with pytest.raises(ConfigError, match=rf"'a\.b': 'a' is a value, not a section of keys; it is {section}, remove"):
        nest({"a.b": 1}, base={"a": section})


def test_lookup_follows_sections_and_gives_none_for_a_missing_key():
    values = {"a": {"b": 1}, "c": 2}
    assert [lookup(values, key) for key in ("a.b", "a", "a.x", "c.d", "x")] == [1, {"b": 1}, None, None, None]


def test_the_last_override_of_a_key_wins():
    assert parse_overrides(["a=1", "b=2", "a=3"]) == {"a": 3, "b": 2}
    assert parse_overrides(None) == {}


@settings(deadline=None)
@given(st.none() | st.booleans() | st.integers() | st.lists(st.integers(), max_size=3))
def test_the_value_of_an_override_is_read_as_yaml(value):
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    assert parse_override(f"a.b={text}") == ("a.b", value)


def test_override_may_contain_an_equals_sign():
    assert parse_override("data.dir=/x=y") == ("data.dir", "/x=y")


@pytest.mark.parametrize("text", ["training.batch_size", "=4", "", "a.b=[1"])
def test_malformed_override_is_refused(text):
    with pytest.raises(ConfigError, match="--set"):
        parse_override(text)
