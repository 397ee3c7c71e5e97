"""Values that no training can have are refused where they are read, in one line with the cure."""

from pathlib import Path
from typing import Annotated

import pytest
import yaml
from pydantic import Field

from models.config import Frozen, TrainingConfig, load_settings, settings_of
from models.config.settings import KEYS_OF_A_GRID
from slr_bench.errors import ConfigError
from slr_bench.files import nest
from slr_bench.grid.config import GridConfig, load_grid
from slr_bench.grid.yaml_files import validate

CONFIGS = sorted((Path(__file__).parents[3] / "configs").glob("*.yml"))
CONFIGS = [path for path in CONFIGS if path.name != "techniques.yml"]  # a part of grids
IN_BACKWARD = {"training.optimizer_in_backward": True, "training.gradient_clip_norm": None}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"training.seed": 2**63}, f"training.seed: Input should be less than {2**63}; got {2**63}"),
        ({"training.learning_rate": float("inf")}, "training.learning_rate: Input should be a finite number; got inf"),
        ({"training.learning_rate": float("nan")}, "training.learning_rate: Input should be a finite number; got nan"),
        ({"training.weight_decay": float("inf")}, "training.weight_decay: Input should be a finite number; got inf"),
        ({"training.gradient_clip_norm": float("inf")}, "training.gradient_clip_norm: Input should be a finite number"),
        (
            {"training.recompute": "budget:0"},
            "training.recompute: use none, stage, block, lowest, or budget:N with N MiB above 0, as budget:256; "
            "got 'budget:0'",
        ),
        (
            IN_BACKWARD,
            "training: optimizer_in_backward: true cannot go with gradient_accumulation_steps: 4: the first "
            "micro-batch would already move the weights; use gradient_accumulation_steps: 1",
        ),
        (
            IN_BACKWARD | {"training.gradient_accumulation_steps": 1, "training.dynamic_batch_size": True},
            "training: optimizer_in_backward: true cannot go with dynamic_batch_size: true: it changes the "
            "accumulation; use false",
        ),
        (
            {"model.pyramid_levels": [2, 1, 2]},
            "model: pyramid_levels=[2, 1, 2] names a level twice, which adds nothing; use [2, 1]",
        ),
        ({"model.pyramid_levels": [0]}, "model.pyramid_levels.0: Input should be greater than or equal to 1; got 0"),
        ({"data.frame_size": 4097}, "data.frame_size: Input should be less than or equal to 4096; got 4097"),
        ({"data.dir": ""}, "data.dir: an empty path names nothing; give a path, or use null for none; got ''"),
        (
            {"model.weights": ""},
            "model.weights: an empty path names nothing; give a path, or use null for none; got ''",
        ),
    ],
)
def test_impossible_values_are_refused_with_the_cure(changes, line):
    with pytest.raises(ConfigError) as caught:
        settings_of(nest(changes), {}, "c.yml")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"c.yml: {line}")
    if line.startswith(("model: ", "training: ")):  # rules of a section: without a dump of it
        assert str(caught.value) == f"c.yml: {line}"


@pytest.mark.parametrize(
    ("values", "changes", "line"),
    [
        ({}, {"training.epochs": "two"}, "the command line: training.epochs: Input should be a valid integer"),
        ({}, {"training.epoch": 2}, "the command line: unknown key 'training.epoch'; did you mean 'epochs'?"),
        ({}, {"model.num_frames": 2}, "c.yml with the command line: model: pyramid_levels"),
        ({"training": {"epochs": "two"}}, {"model.num_classes": 3}, "c.yml: training.epochs: "),
        ({"model": {"num_frames": 2}}, {"training.epochs": 3}, "c.yml: model: pyramid_levels"),
    ],
)
def test_a_mistake_is_told_of_where_it_was_made(values, changes, line):
    with pytest.raises(ConfigError) as caught:
        settings_of(values, changes, "c.yml")
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
    ("changes", "cure", "cured"),
    [
        ({"model.num_frames": 8, "model.token_merging": 5}, "use at most 4", {"model.token_merging": 4}),
        ({"model.num_frames": 8, "model.token_merging": 4, "model.pyramid_levels": [1, 6]},
         "use at most 2", {"model.token_merging": 2}),
        ({"model.frame_budget": 8, "model.token_merging": 5}, "use at most 4", {"model.token_merging": 4}),
        ({"model.pyramid_levels": [20]}, "use levels up to 16", {"model.pyramid_levels": [16]}),
        ({"model.pyramid_levels": [20], "model.token_merging": 4},
         "use levels up to 12", {"model.pyramid_levels": [12]}),
        ({"training.batch_size": 1, "data.max_frames_in_memory": 4}, "set the limit to 16 or more",
         {"data.max_frames_in_memory": 16}),
        ({"training.batch_size": 8, "data.max_frames_in_memory": 4}, "set the limit to 128 or more",
         {"data.max_frames_in_memory": 128}),
        ({"data.max_frames_in_memory": 40}, "use training.batch_size: 2 with more", {"training.batch_size": 2}),
        ({"data.max_frames_in_memory": 40}, "set the limit to 128 or more", {"data.max_frames_in_memory": 128}),
    ],
)  # fmt: skip
def test_a_cure_is_the_whole_cure(changes, cure, cured):
    """Followed, it is enough, and one more (or less) is not."""
    with pytest.raises(ConfigError) as caught:
        settings_of({}, changes, "c.yml")
    assert cure in str(caught.value)
    settings_of({}, changes | cured, "c.yml")
    ((key, value),) = cured.items()
    step = -1 if key == "data.max_frames_in_memory" else 1
    beyond = [value[0] + 1] if isinstance(value, list) else value + step
    with pytest.raises(ConfigError):
        settings_of({}, changes | {key: beyond}, "c.yml")


class Numbers(Frozen):
    """Every way that a number is written here."""

    plain: float = 1.0
    bounded: Annotated[float, Field(gt=0)] = 1.0
    missing: Annotated[float, Field(gt=0)] | None = None
    flag: bool = False


@pytest.mark.parametrize("key", ["plain", "bounded", "missing"])
def test_a_boolean_is_not_a_number(key):
    with pytest.raises(ConfigError, match=f"c.yml: {key}: Input should be a number, not true or false; got True"):
        validate(Numbers, {key: True}, "c.yml")
    for written in (2, 2.5, "1e-3"):  # YAML reads 1e-3 as text
        assert getattr(validate(Numbers, {key: written, "flag": True}, "c.yml"), key) == float(written)


def test_no_number_of_the_configuration_accepts_a_boolean():
    for section, keys in settings_of({}, {}, "c.yml").model_dump().items():
        for key, value in keys.items():
            if type(value) in (int, float):
                with pytest.raises(ConfigError, match=f"the command line: {section}.{key}: "):
                    settings_of({}, {f"{section}.{key}": True}, "c.yml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_grid_file_instead_of_a_training_file_gives_one_line(path):
    assert GridConfig.model_fields.keys() >= KEYS_OF_A_GRID
    is_grid = GridConfig.model_fields.keys() & yaml.safe_load(path.read_text()).keys()
    if not is_grid:
        assert load_settings(path)
        assert load_grid(path).base == path.resolve()
        return
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path} is a grid file (it has ")
    assert f"use slr-bench run {path}, or a training file" in str(caught.value)


def test_a_training_file_with_a_stray_key_stays_a_training_file(tmp_path):
    path = tmp_path / "c.yml"
    path.write_text("model: {num_frames: 8}\nset: {}\n")
    with pytest.raises(ConfigError, match="unknown key 'set'"):
        load_settings(path)


def test_a_precision_that_is_left_out_follows_mixed_precision():
    assert TrainingConfig().precision == TrainingConfig(precision="auto").precision == "bf16"
    assert TrainingConfig(mixed_precision=False).precision == "fp32"


def test_the_cures_work():
    cured = settings_of({}, IN_BACKWARD | {"training.gradient_accumulation_steps": 1}, "c.yml").training
    assert (cured.optimizer_in_backward, cured.gradient_accumulation_steps) == (True, 1)
    largest = settings_of({}, {"training.recompute": "budget:1", "training.seed": 2**63 - 1}, "c.yml").training
    assert (largest.recompute, largest.seed) == ("budget:1", 2**63 - 1)
