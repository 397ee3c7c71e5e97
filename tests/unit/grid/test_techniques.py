"""Techniques between two arms make an arm per prefix and per omission, and explain every difference."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slr_bench.errors import ConfigError
from slr_bench.files import flatten
from slr_bench.grid.cells import expand, own_cell
from slr_bench.grid.config import GridConfig, load_grid

ENDS = {
    "training.batch_size": (8, 2),
    "training.gradient_accumulation_steps": (1, 4),
    "training.recompute": ("none", "block"),
    "model.temporal_shift": ("plain", "memory_efficient"),
    "model.attention": ("dense", "chunked"),
    "model.dropout": (0.0, 0.1),
}


def grid_of(groups, **more):
    """Return a grid of two arms that differ in the keys of ``groups`` (technique -> keys)."""
    keys = list(itertools.chain.from_iterable(groups.values()))
    arms = {"plain": {key: ENDS[key][0] for key in keys}, "lean": {key: ENDS[key][1] for key in keys}}
    techniques = {name: {"keys": own, "same": "function"} for name, own in groups.items()}
    return GridConfig.model_validate({"arms": arms, "techniques": techniques} | more)


@st.composite
def groupings(draw):
    keys = draw(st.permutations(list(ENDS)))[: draw(st.integers(1, len(ENDS)))]
    names = draw(st.lists(st.integers(0, 3), min_size=len(keys), max_size=len(keys)))
    groups = {}
    for key, name in zip(keys, names, strict=True):
        groups.setdefault(f"t{name}", []).append(key)
    return groups


@settings(deadline=None, max_examples=25)
@given(groupings())
def test_arms_are_all_prefixes_and_all_omissions(groups):
    names = list(groups)
    expected = [("plain", set())]
    expected += [("lean" if n == len(names) else f"+ {names[n - 1]}", set(names[:n])) for n in range(1, len(names) + 1)]
    expected += [(f"without {name}", set(names) - {name}) for name in names]
    cells = expand(grid_of(groups), {})
    assert [cell.arm for cell in cells] == [arm for arm, _ in expected]
    for cell, (_, used) in zip(cells, expected, strict=True):
        flat = flatten(cell.public_setting)
        for name, keys in groups.items():
            assert all(flat[key] == ENDS[key][name in used] for key in keys)


def test_key_that_no_technique_names_is_refused():
    groups = {"recomputation": ["training.recompute"]}
    grid = grid_of(groups)
    arms = grid.arms | {"lean": grid.arms["lean"] | {"model.dropout": 0.3}}
    with pytest.raises(ConfigError, match=r"also differ in model\.dropout; name these keys under one of recomputation"):
        expand(grid.model_copy(update={"arms": arms}), {})


def test_unknown_key_of_a_technique_is_refused():
    grid = grid_of({"recomputation": ["training.recompute"]})
    broken = grid.model_dump() | {"techniques": {"typo": {"keys": ["training.recomputes"], "same": "function"}}}
    with pytest.raises(ConfigError, match=r"'typo' names the unknown key 'training\.recomputes'"):
        expand(GridConfig.model_validate(broken), {})


def test_arms_beyond_the_first_two_come_last(tmp_path):
    groups = {"a": ["training.recompute"]}
    grid = grid_of(groups)
    grid = grid.model_copy(update={"arms": grid.arms | {"other": {"model.dropout": 0.3}}})
    assert [cell.arm for cell in expand(grid, {})] == ["plain", "lean", "without a", "other"]


def test_techniques_may_be_in_their_own_file(tmp_path):
    (tmp_path / "t.yml").write_text("a: {keys: [training.recompute], same: function}\n")
    arms = "{x: {training.recompute: none}, y: {}}"
    (tmp_path / "grid.yml").write_text(f"workload: train_step\ntechniques: t.yml\narms: {arms}\n")
    assert load_grid(tmp_path / "grid.yml").all_arms == ("x", "y", "without a")


def test_techniques_need_two_arms():
    with pytest.raises(ValueError, match="lead from the first arm to the second, but the grid has only one"):
        GridConfig.model_validate({"techniques": {"a": {"keys": ["training.recompute"], "same": "function"}}})


def test_arm_made_by_a_technique_can_be_selected():
    grid = grid_of({"a": ["training.recompute"], "b": ["model.attention"]})
    cell = own_cell(grid, {}, "without a")
    assert (flatten(cell.public_setting)["training.recompute"], cell.arm) == ("none", "without a")
    with pytest.raises(ConfigError, match="the grid has no arm 'witout a'"):
        own_cell(grid, {}, "witout a")


def test_override_applies_to_every_arm():
    grid = grid_of({"a": ["training.recompute"], "b": ["model.attention"]})
    cells = expand(grid, {"model.dropout": 0.4, "training.recompute": "stage"})
    assert {flatten(cell.public_setting)["model.dropout"] for cell in cells} == {0.4}
    assert {flatten(cell.public_setting)["training.recompute"] for cell in cells} == {"stage"}
