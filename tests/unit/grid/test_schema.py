"""The schemas for editors accept the files that the reader accepts, and the page of all keys is up to date."""

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml
from json_schema import mistakes
from pydantic import BaseModel, ConfigDict

from models.config import Settings
from slr_bench.errors import ConfigError
from slr_bench.files import flatten
from slr_bench.grid import workload
from slr_bench.grid.cells import expand
from slr_bench.grid.config import GridConfig, load_grid
from slr_bench.grid.project_file import VARIABLE
from slr_bench.grid.schema import grid_schema, keys_of, reference, training_schema
from slr_bench.grid.workload import GROUP, WorkloadSpec, find_workload

ROOT = Path(__file__).parents[3]
CONFIGS = {path.name: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "configs").glob("*.yml"))}
TRAININGS = [name for name, values in CONFIGS.items() if values.keys() <= {"model", "data", "training"}]
TECHNIQUES = [name for name, values in CONFIGS.items() if all("same" in (value or ()) for value in values.values())]
OTHERS = [name for name, values in CONFIGS.items() if values.get("workload") == "train_step_ballast"]
GRIDS = [name for name in CONFIGS if name not in [*TRAININGS, *TECHNIQUES, *OTHERS]]


@pytest.fixture(scope="module")
def train_step():
    return find_workload("train_step")


@pytest.fixture(scope="module")
def grid(train_step):
    return grid_schema(train_step)


@pytest.mark.parametrize("name", TRAININGS)
def test_schema_accepts_the_training_files_of_the_repository(train_step, name):
    assert mistakes(CONFIGS[name], training_schema(train_step)) == []


@pytest.mark.parametrize("name", GRIDS)
def test_schema_accepts_the_grid_files_of_the_repository(grid, name):
    assert mistakes(CONFIGS[name], grid) == []


def test_files_of_every_kind_are_checked():
    assert {"efficient_training.yml", "baseline.yml"} <= {*TRAININGS}
    assert {"ablation.yml", "ablation_techniques.yml"} <= {*GRIDS}


STEP = {"workload": "train_step"}


@pytest.mark.parametrize(
    ("values", "underlined"),
    [
        (STEP | {"repeat": 3}, "unknown key repeat"),
        (STEP | {"repeats": 0}, "repeats: 0 breaks minimum"),
        (STEP | {"timeout_s": 0}, "timeout_s: 0 breaks exclusiveMinimum"),
        (STEP | {"isolation": "forked"}, "'forked' is not in"),
        (STEP | {"arms": {}}, "arms: {} breaks minProperties"),
        (STEP | {"arms": {"a": {"training.precison": "fp32"}}}, "arms.a: unknown key training.precison"),
        (STEP | {"arms": {"a": {"training": {"batchsize": 2}}}}, "arms.a.training: unknown key batchsize"),
        (STEP | {"set": {"training.precision": "fp8"}}, "set.training.precision: 'fp8'"),
        (STEP | {"set": {"training.batch_size": 0}}, "set.training.batch_size: 0 breaks minimum"),
        (STEP | {"set": {"training.recompute": "blocks"}}, "breaks pattern"),
        (STEP | {"axes": {"training.batchsize": [2]}}, "axes: unknown key training.batchsize"),
        (STEP | {"axes": {"training.batch_size": []}}, "breaks minItems"),
        (STEP | {"axes": {"training.batch_size": ["two"]}}, "axes.training.batch_size[0]: 'two'"),
        (STEP | {"exclude": [{"training.batchsize": 2}]}, "exclude[0]: unknown key training.batchsize"),
        (STEP | {"also": [{"workload": "inference", "axes": {"model.norms": ["batch"]}}]}, "unknown key model.norms"),
        ({"workload": "train_stepp"}, "'train_stepp' is not in"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistake_is_refused_by_the_schema_and_by_the_reader(grid, tmp_path, values, underlined):
    assert underlined in "\n".join(mistakes(values, grid))
    (tmp_path / "grid.yml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError):
        expand(load_grid(tmp_path / "grid.yml"), {})


@pytest.mark.parametrize(
    "values",
    [
        STEP | {"arms": {"a": {"training": {"batch_size": 2}}, "b": {"training.batch_size": 2, "model.norm": "group"}}},
        STEP | {"set": {"model": {"num_frames": 8}}, "axes": {"model.pyramid_levels": [[1], [1, 2]]}},
        STEP | {"exclude": [{"training.precision": "bf16"}], "axes": {"training.precision": ["bf16", "fp32"]}},
        {"set": {"training.gradient_clip_norm": None}, "ram_limit": "4GiB"},
    ],
)
def test_file_that_the_schema_accepts_is_a_grid(grid, tmp_path, values):
    assert mistakes(values, grid) == []
    (tmp_path / "grid.yml").write_text(yaml.safe_dump(values))
    assert expand(load_grid(tmp_path / "grid.yml"), {})


def test_keys_of_the_schema_are_those_of_a_setting(train_step):
    schema = training_schema(train_step)
    keys = [key.name for key in keys_of(schema, schema["$defs"]) if not key.is_section]
    assert keys == [*flatten(Settings().model_dump())]


class Foreign(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = 8


def test_grid_schema_of_another_workload_has_its_keys_and_requires_its_name(monkeypatch):
    """A grid file without a workload measures train_step."""
    spec = WorkloadSpec("foreign", Foreign, print)
    points = [EntryPoint("foreign", "no_such:spec", GROUP), EntryPoint("broken", "no_such:spec", GROUP)]
    monkeypatch.setattr(workload, "entry_points", lambda group: points)
    monkeypatch.setenv(VARIABLE, "")
    schema = grid_schema(spec)
    assert mistakes({"workload": "foreign", "axes": {"width": [8, 16]}}, schema) == []
    assert mistakes({"axes": {"width": [8]}}, schema) == ["file: workload is missing"]
    assert mistakes({"workload": "foreign", "set": {"training.batch_size": 2}}, schema) == [
        "file.set: unknown key training.batch_size"
    ]
    assert "The settings of `foreign`." in reference(spec)
    assert "slr-bench schema foreign --grid > grid.schema.json" in reference(spec)


def test_page_of_all_keys_equals_the_one_in_docs(train_step):
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == reference(train_step), "stale: slr-bench schema --markdown > docs/configuration.md"


def test_page_has_each_key_once_with_default_and_meaning(train_step):
    rows = [line.split(" | ") for line in reference(train_step).splitlines() if line.startswith("| `")]
    names = [row[0].removeprefix("| ").strip("`") for row in rows]
    written = flatten(yaml.safe_load((ROOT / "configs" / "efficient_training.yml").read_text()))
    settings = {key.rpartition(".")[2]: value for key, value in written.items()}
    assert sorted(names) == sorted([*settings, *GridConfig.model_fields, "keys", "same"])
    defaults = {name: row[2].strip("`") for name, row in zip(names, rows, strict=True)}
    for name, value in settings.items():
        assert yaml.safe_load(defaults[name]) == value, name
    meanings = [row[-1].removesuffix(" |") for row in rows]
    assert all(len(meaning) > 10 and "``" not in meaning for meaning in meanings)


def test_schemas_are_json(train_step, grid):
    for schema in (training_schema(train_step), grid):
        assert json.loads(json.dumps(schema)) == schema
