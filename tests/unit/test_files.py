"""Atomic writes, dotted keys, and the values of ``--set``."""

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from slr_bench.errors import ConfigError
from slr_bench.files import (
    flatten,
    lookup,
    nest,
    parse_override,
    parse_overrides,
    parse_yaml,
    read_yaml_text,
    replace_file,
    write_atomically,
)


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


def test_interrupt_while_a_writer_writes_is_raised_and_the_earlier_file_stays(tmp_path):
    def write(file):
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")  # as torch.save does when it closes its archive

    write_atomically(tmp_path / "x", "old")
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "x", write)
    assert (tmp_path / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


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


REFUSED = {
    "a: 1\nb: 2\na: 3": "line 3, column 1: key 'a' is written twice, first in line 1; keep one",
    "{a: {b: 1, 'b': 2}}": "line 1, column 12: key 'b' is written twice, first in line 1; keep one",
    "x: &x {a: 1}\ny:\n  <<: *x\n  <<: *x": "line 4, column 3: key '<<' is written twice, first in line 3; keep one",
    "a: 010": "line 1, column 4: YAML reads 010 as an octal number; write it without the leading 0, or quote it",
    "- -010": "line 1, column 3: YAML reads -010 as an octal number; write it without the leading 0, or quote it",
    "010: a": "line 1, column 1: YAML reads 010 as an octal number; write it without the leading 0, or quote it",
    "a: 1:30": "line 1, column 4: YAML reads 1:30 as a number to the base of 60; quote it, or write the number",
    "a: 1:30.5": "line 1, column 4: YAML reads 1:30.5 as a number to the base of 60; quote it, or write the number",
    "a: " + "9" * 5000: "line 1, column 4: a number of 5,000 characters; write at most 40",
    "a: &x {b: *x}": "line 1, column 11: *x contains itself; write its values out",
    "&x [[1, *x]]": "line 1, column 9: *x contains itself; write its values out",
    "[" * 60: "line 1, column 52: nested more than 50 levels deep; use fewer levels",
    "a: !!bool maybe": "line 1, column 4: the tag !!bool does not suit 'maybe'; remove the tag",
    "a: !!int ''": "line 1, column 4: the tag !!int does not suit ''; remove the tag",
    "a: !!float x": "line 1, column 4: the tag !!float does not suit 'x'; remove the tag",
    "a: !!timestamp x": "line 1, column 4: the tag !!timestamp does not suit 'x'; remove the tag",
    "a: [": "not valid YAML: line 1, column 5: expected the node content, but found '<stream end>'",
    "a: \x07": "not valid YAML: character 4: special characters are not allowed",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items(), ids=range(len(REFUSED)))
def test_yaml_that_says_something_else_than_it_seems_is_refused_with_its_place(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text)
    assert str(caught.value) == message


def test_aliases_that_multiply_are_refused_before_they_are_written_out():
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 20))
    with pytest.raises(ConfigError, match="more than 200,000 values when its aliases are written out"):
        parse_yaml("l0: &l0 [x]\n" + levels)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("day: 2026-11-29\n2026-13-45: x", {"day": "2026-11-29", "2026-13-45": "x"}),
        (
            "a: &a {k: 1, l: 2}\nb: &b {<<: *a, k: 3}\nc: {<<: *b, k: 4}",
            {"a": {"k": 1, "l": 2}, "b": {"k": 3, "l": 2}, "c": {"k": 4, "l": 2}},
        ),
        ("a: &a [1]\nb: *a\nc: *a", {"a": [1], "b": [1], "c": [1]}),
        ("{1: a, '1': b}", {1: "a", "1": "b"}),
        ("[0, -0, 0x10, 1_000, 0.5, 1.5e+3, .inf]", [0, 0, 16, 1000, 0.5, 1500.0, float("inf")]),
    ],
)
def test_yaml_with_one_meaning_is_read_as_pyyaml_reads_it(text, values):
    assert parse_yaml(text) == values


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=5), inside, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
@settings(max_examples=150, deadline=None)
def test_what_pyyaml_writes_is_read_back(values):
    assert parse_yaml(yaml.safe_dump(values)) == values


def test_key_in_a_section_and_as_a_dotted_key_is_refused():
    with pytest.raises(ConfigError, match=r"^key 'a\.b' is written twice, in a section and as a dotted key; keep one$"):
        flatten({"a": {"b": 1}, "a.b": 2})


def test_file_without_an_end_is_refused():
    with pytest.raises(
        ConfigError, match=r"^cannot read configuration /dev/zero: it is larger than 4 MiB; check the path$"
    ):
        read_yaml_text(Path("/dev/zero"))


def test_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "grid.yml").write_bytes("a: é".encode("utf-8-sig"))
    assert read_yaml_text(tmp_path / "grid.yml") == "a: é"
