"""The cells of a grid: their number, their order and their settings."""

import itertools

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import Settings
from slr_bench.errors import ConfigError
from slr_bench.files import flatten, nest
from slr_bench.grid.cells import expand
from slr_bench.grid.config import GridConfig

CHOICES = {
    "training.batch_size": [1, 2, 4, 8],
    "training.gradient_accumulation_steps": [1, 2, 4],
    "training.precision": ["fp32", "bf16", "fp16"],
    "training.learning_rate": [0.001, 0.01],
    "training.recompute": ["none", "stage", "block"],
    "model.pyramid_levels": [[1], [1, 2], [1, 2, 4]],
    "model.enable_feature_caching": [True, False],
}
DEFAULTS = {
    key: list(value) if isinstance(value, tuple) else value for key, value in flatten(Settings().model_dump()).items()
}

unhurried = settings(deadline=None, max_examples=30)  # without a deadline, because the machine may be busy
overrides = st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in CHOICES.items()})
axes = st.fixed_dictionaries(
    {}, optional={key: st.lists(st.sampled_from(values), min_size=1, unique_by=str) for key, values in CHOICES.items()}
).filter(lambda found: len(found) <= 3)
arms = st.dictionaries(st.sampled_from(["a", "b", "c"]), overrides, min_size=1)
excludes = st.lists(overrides.filter(bool), max_size=3).map(tuple)


def naive_settings(grid: GridConfig) -> list[tuple[str, dict]]:
    """Return the arm and the flat setting of every cell, from plain loops."""
    found = []
    for arm, values in grid.arms.items():
        for combination in itertools.product(*grid.axes.values()):
            flat = DEFAULTS | values | dict(zip(grid.axes, combination, strict=True))
            flat["training.mixed_precision"] = flat["training.precision"] != "fp32"
            if not any(all(flat[key] == value for key, value in entry.items()) for entry in grid.exclude):
                found.append((arm, flat))
    return found


@unhurried
@given(arms, axes, excludes)
def test_cells_are_arms_times_axes_minus_exclusions(arms, axes, exclude):
    grid = GridConfig(arms=arms, axes=axes, exclude=exclude)
    expected = naive_settings(grid)
    if not expected:
        with pytest.raises(ConfigError, match="grid is empty"):
            expand(grid, {})
        return
    cells = expand(grid, {})
    assert [(cell.arm, flatten(cell.public_setting)) for cell in cells] == expected
    assert all(cell.coordinates == {key: flatten(cell.public_setting)[key] for key in axes} for cell in cells)


@unhurried
@given(arms, axes, overrides.filter(bool))
def test_overrides_take_precedence_over_arms_and_axes(arms, axes, line):
    cells = expand(GridConfig(arms=arms, axes=axes), line)
    for cell in cells:
        flat = flatten(cell.public_setting)
        assert line.items() <= flat.items()
    free = [values for key, values in axes.items() if key not in line]
    assert len(cells) == len(arms) * len(list(itertools.product(*free)))


def test_precedence_is_axis_arm_part_set_base(tmp_path):
    """Each level sets one key fewer than the level before it, so every key shows which level took precedence."""
    keys = [*list(CHOICES)[:2], "training.epochs", "training.seed", "data.frame_size"]
    (tmp_path / "base.yml").write_text(yaml.safe_dump(nest(dict.fromkeys(keys, 32))))
    grid = GridConfig(
        base=tmp_path / "base.yml",
        set=dict.fromkeys(keys[:4], 2),
        arms={"a": dict.fromkeys(keys[:2], 4)},
        also=({"set": dict.fromkeys(keys[:3], 3), "axes": {keys[0]: [5]}},),
    )
    first, second = (flatten(cell.public_setting) for cell in expand(grid, {}))
    assert [first[key] for key in keys] == [4, 4, 2, 2, 32]
    assert [second[key] for key in keys] == [5, 4, 3, 2, 32]


def test_arm_may_start_from_another_file(tmp_path):
    (tmp_path / "other.yml").write_text("training: {batch_size: 2}\n")
    grid = GridConfig(arms={"a": {"base": tmp_path / "other.yml"}, "b": {}})
    assert [cell.settings.training.batch_size for cell in expand(grid, {})] == [2, 8]


@unhurried
@given(arms, axes)
def test_expanding_one_arm_gives_its_cells_of_the_grid(arms, axes):
    grid = GridConfig(arms=arms, axes=axes)
    name = next(iter(arms))
    assert expand(grid, {}, name) == [cell for cell in expand(grid, {}) if cell.arm == name]


def test_arms_own_setting_is_marked_among_the_cells_of_the_axes():
    grid = GridConfig(arms={"a": {"training.batch_size": 4}}, axes={"training.batch_size": [2, 4]})
    assert [cell.is_own for cell in expand(grid, {})] == [False, True]
    assert expand(GridConfig(), {})[0].is_own


def test_exclusion_is_read_like_the_setting_it_excludes():
    """YAML 1.1 reads 1e-2 as text. The setting converts it to a number, and the exclusion must do the same."""
    grid = GridConfig(axes={"training.learning_rate": ["1e-3", "1e-2"]}, exclude=({"training.learning_rate": "1e-2"},))
    assert [cell.settings.training.learning_rate for cell in expand(grid, {})] == [0.001]


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"arms": {"a": {"training.batchsize": 2}}}, ["arm 'a'", "'training.batchsize'", "'batch_size'?"]),
        ({"set": {"modle.num_classes": 2}}, ["'modle'", "'model'?"]),
        ({"axes": {"training.batchsize": [2]}}, ["axes", "'training.batchsize'", "'training.batch_size'?"]),
        ({"exclude": ({"training.batchsize": 2},)}, ["exclude", "'training.batchsize'", "'training.batch_size'?"]),
        ({"also": ({"axes": {"model.backbon": [2]}},)}, ["axes", "'model.backbon'", "'model.backbone'?"]),
        ({"axes": {"training.batch_size": [2, 0]}}, ["training.batch_size", "0"]),
        ({"set": {"training": 4, "training.seed": 1}}, ["'training' is a value, not a section"]),
        ({"workload": "train_stepp"}, ["'train_stepp'", "'train_step'?"]),
    ],
)
def test_mistake_is_reported_with_its_position_and_the_nearest_key(grid, words):
    with pytest.raises(ConfigError) as caught:
        expand(GridConfig.model_validate(grid), {})
    assert all(word in str(caught.value) for word in words)


def test_unknown_arm_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="no arm 'optimised'; did you mean 'optimized'"):
        expand(GridConfig(arms={"baseline": {}, "optimized": {}}), {}, "optimised")


@unhurried
@given(overrides)
def test_flattening_reverses_nesting(values):
    assert flatten(nest(values)) == values
