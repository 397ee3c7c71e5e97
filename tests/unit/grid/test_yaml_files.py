"""The message for each kind of mistake in a configuration."""

from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from slr_bench.errors import ConfigError
from slr_bench.grid.yaml_files import validate


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    batch_size: int = 1
    learning_rate: float = 0.1


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    training: Inner = Inner()
    further: tuple[Inner, ...] = ()


def message_of(values) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(Outer, values, "grid.yml")
    return str(caught.value)


def test_valid_values_become_the_model():
    assert validate(Outer, {"name": "a", "training": {"batch_size": 2}}, "x").training == Inner(batch_size=2)


def test_unknown_key_is_reported_with_the_file_and_the_nearest_key():
    assert message_of({"name": "a", "trainig": {}}) == "grid.yml: unknown key 'trainig'; did you mean 'training'?"


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"training": {"batchsize": 2}}, "training.batchsize"),
        ({"further": [{}, {"batchsize": 2}]}, "further.1.batchsize"),
    ],
)
def test_unknown_key_in_a_section_is_compared_with_keys_of_that_section(values, path):
    assert message_of({"name": "a"} | values) == f"grid.yml: unknown key {path!r}; did you mean 'batch_size'?"


def test_missing_key_is_named():
    assert message_of({}) == "grid.yml: key 'name' is missing"


def test_wrong_type_is_reported_with_the_value():
    text = message_of({"name": "a", "training": {"batch_size": "many"}})
    assert text.startswith("grid.yml: training.batch_size: ")
    assert text.endswith("; got 'many'")


class Ordered(BaseModel):
    first: int
    second: int

    @model_validator(mode="after")
    def _in_order(self):
        if self.first > self.second:
            raise ValueError(f"first={self.first} is above second={self.second}; swap them")
        return self


class OfOrdered(BaseModel):
    part: Ordered


def test_broken_rule_of_a_section_is_reported_without_its_values():
    with pytest.raises(ConfigError) as caught:
        validate(OfOrdered, {"part": {"first": 2, "second": 1}}, "grid.yml")
    assert str(caught.value) == "grid.yml: part: first=2 is above second=1; swap them"
    with pytest.raises(ConfigError, match=r"got \{'first': 2\}$"):  # a section in place of a number
        validate(Ordered, {"first": {"first": 2}, "second": 1}, "grid.yml")


def test_every_mistake_has_its_own_line():
    lines = message_of({"nme": "a", "training": {"batch_size": "x", "learning_rate": "y"}}).splitlines()
    assert len(lines) == 4  # the key ``name`` is also missing
    assert all(line.startswith("grid.yml: ") for line in lines)


class Listed(BaseModel):
    levels: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1,)


@pytest.mark.parametrize(
    ("levels", "beginnings"),
    [
        ([0], ["levels.0: Input should be greater"]),
        ([0, 3, -1], ["levels.0: Input should be greater", "levels.2: Input should be greater"]),
        ([], ["levels: Tuple should have at least 1 item"]),
    ],
)
def test_short_list_is_reported_only_if_its_entries_are_valid(levels, beginnings):
    with pytest.raises(ConfigError) as caught:
        validate(Listed, {"levels": levels}, "grid.yml")
    lines = str(caught.value).splitlines()
    assert len(lines) == len(beginnings)
    assert all(line.startswith(f"grid.yml: {start}") for line, start in zip(lines, beginnings, strict=True))


def test_long_value_is_cut():
    line = message_of({"name": ["x" * 500]})
    assert len(line) < 150


@pytest.mark.parametrize("values", [[], "text", 3])
def test_value_that_is_not_a_mapping_is_refused(values):
    assert message_of(values) == f"grid.yml: expected a mapping of keys, got {values!r}"


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")

    left: Inner = Inner()
    right: Outer = Outer(name="a")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"left": {"name": 1}}, "unknown key 'left.name'; did you mean 'right.name'?"),
        ({"left": {"nam": 1}}, "unknown key 'left.nam'; did you mean 'right.name'?"),
        ({"left": {"batch": 1}}, "unknown key 'left.batch'; did you mean 'batch_size'?"),
        ({"left": {"zzz": 1}}, "unknown key 'left.zzz'; known: batch_size, learning_rate"),
        ({"left": None}, "left: the section is empty; give it keys, or leave it out"),
        (None, "it is empty; give it keys, or leave it out"),
    ],
)
def test_key_of_another_section_is_offered_and_empty_section_is_named(values, text):
    with pytest.raises(ConfigError) as caught:
        validate(Whole, values, "grid.yml")
    assert str(caught.value) == f"grid.yml: {text}"
