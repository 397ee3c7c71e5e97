"""Ids of cells depend on canonical values, without paths."""

import random
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, create_model

from benchmarks.workloads import inference, train_step
from models.config import Settings
from slr_bench.errors import ConfigError
from slr_bench.files import flatten, nest
from slr_bench.grid.cells import cell_id, expand
from slr_bench.grid.config import GridConfig
from slr_bench.grid.workload import WorkloadSpec

CHOICES = {
    "training.batch_size": [1, 2, 8],
    "training.precision": ["fp32", "bf16", "fp16"],
    "training.learning_rate": [0.001, 0.01],
    "model.pyramid_levels": [[1], [1, 2, 4]],
    "model.enable_feature_caching": [True, False],
}
DEFAULTS = {
    key: list(value) if isinstance(value, tuple) else value for key, value in flatten(Settings().model_dump()).items()
}

unhurried = settings(deadline=None, max_examples=30)  # without a deadline, because the machine may be busy
overrides = st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in CHOICES.items()})


def id_of(values: dict) -> str:
    return cell_id(train_step, Settings.model_validate(nest(values)))


@unhurried
@given(overrides, overrides)
def test_ids_are_equal_exactly_if_settings_are(one, other):
    settings_of = [Settings.model_validate(nest(values)) for values in (one, other)]
    assert (id_of(one) == id_of(other)) == (settings_of[0] == settings_of[1])


@unhurried
@given(overrides, st.randoms(use_true_random=False))
def test_order_and_nesting_of_keys_do_not_change_the_id(values, chance: random.Random):
    """The keys are spread over set, arm and command line, in any order, with or without defaults."""
    spelt = values | {key: value for key, value in DEFAULTS.items() if key not in values and key in CHOICES}
    items = chance.sample(list(spelt.items()), len(spelt))
    levels: list[dict] = [{}, {}, {}]
    for key, value in items:
        chance.choice(levels)[key] = value
    grid = GridConfig(set=levels[0], arms={"any name": levels[1]})
    assert expand(grid, levels[2])[0].cell_id == id_of(values)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"training.mixed_precision": True}, {"training.precision": "bf16"}),
        ({"training.mixed_precision": False}, {"training.precision": "fp32"}),
        ({"training.mixed_precision": False, "training.precision": "auto"}, {"training.precision": "fp32"}),
        ({"training.precision": "auto"}, {}),
        ({"model.pyramid_levels": [1, 2, 4]}, {"model.pyramid_levels": (1, 2, 4)}),
        ({"training.weight_decay": 0}, {"training.weight_decay": 0.0}),
        ({"training.learning_rate": "1e-3"}, {"training.learning_rate": 0.001}),
    ],
)
def test_two_spellings_of_one_setting_have_one_id(one, other):
    assert id_of(one) == id_of(other)


def test_sections_may_be_written_nested_at_every_level(tmp_path):
    """A nested section adds its keys to the base like dotted keys; it does not replace the section."""
    (tmp_path / "base.yml").write_text(yaml.safe_dump({"training": {"batch_size": 2, "epochs": 7}}))
    dotted, nested = {"training.optimizer": "sgd"}, {"training": {"optimizer": "sgd"}}
    expected = id_of({"training.batch_size": 2, "training.epochs": 7, "training.optimizer": "sgd"})
    for grid, line in [
        (GridConfig(arms={"a": dotted}), {}),
        (GridConfig(arms={"a": nested}), {}),
        (GridConfig(set=nested), {}),
        (GridConfig(), nested),
    ]:
        cell = expand(grid.model_copy(update={"base": tmp_path / "base.yml"}), line)[0]
        assert cell.cell_id == expected


def test_workload_and_version_of_defaults_are_part_of_the_id():
    later = WorkloadSpec(name="train_step", settings=Settings, build=print, defaults_version=2)
    assert len({cell_id(spec, Settings()) for spec in (train_step, inference, later)}) == 3


class Small(BaseModel):
    model_config = ConfigDict(frozen=True)

    size: int = 1
    weights: Path | None = None
    further: dict[str, int] = {}


def small_id(settings: BaseModel) -> str:
    return cell_id(WorkloadSpec(name="small", settings=type(settings), build=print), settings)


@unhurried
@given(st.integers(), st.integers())
def test_new_key_with_a_default_changes_no_old_id(size, default):
    later = create_model("Later", __base__=Small, added=(int, default))
    assert small_id(later(size=size)) == small_id(Small(size=size))
    assert small_id(later(size=size, added=default + 1)) != small_id(Small(size=size))


def test_settings_may_hold_a_mapping_with_any_keys():
    ids = [small_id(Small(further=further)) for further in ({}, {"x": 1}, {"x": 2}, {"y": 1})]
    assert len(set(ids)) == 4


def test_directory_is_not_part_of_the_id(tmp_path):
    assert id_of({"data.dir": str(tmp_path)}) == id_of({"data.dir": "/elsewhere"}) == id_of({})


def test_id_depends_on_the_content_of_a_file(tmp_path):
    for name, content in (("one", b"x"), ("copy", b"x"), ("other", b"y")):
        (tmp_path / name).write_bytes(content)
    one, copy, other = (small_id(Small(weights=tmp_path / name)) for name in ("one", "copy", "other"))
    assert one == copy
    assert len({one, other, small_id(Small())}) == 3


def test_public_setting_contains_no_path(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"x")
    values = {"data.dir": str(tmp_path), "model.weights": str(tmp_path / "weights.pt")}
    cell = expand(GridConfig(set=values), {})[0]
    assert str(tmp_path) not in str(cell.public_setting)
    assert cell.public_setting["model"]["weights"].startswith("sha256:")


def test_arms_that_differ_only_in_a_directory_are_refused():
    grid = GridConfig(arms={"a": {"data.dir": "/one"}, "b": {"data.dir": "/two"}})
    with pytest.raises(ConfigError, match="'a' and 'b' differ only in a directory"):
        expand(grid, {})
