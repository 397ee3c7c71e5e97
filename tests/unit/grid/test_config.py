"""Grid files are read, and every mistake is reported before a process starts."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slr_bench.errors import ConfigError
from slr_bench.grid.cells import expand
from slr_bench.grid.config import GridConfig, load_grid, with_device
from slr_bench.grid.yaml_files import read_yaml


@pytest.fixture
def write(tmp_path):
    def write_file(text: str | bytes, name: str = "grid.yml") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write_file


def test_grid_file_is_read_with_its_documented_keys(write, tmp_path):
    grid = load_grid(
        write(
            "workload: train_step\nbase: base.yml\n"
            "arms: {baseline: {base: other.yml, training.precision: fp32}, optimized: {}}\n"
            "axes: {training.batch_size: [2, 4]}\n"
            "exclude: [{training.batch_size: 4, training.precision: fp32}]\n"
            "repeats: 5\ntimeout_s: 60\nram_limit: 8GiB\nisolation: spawn\n"
            "also: [{workload: inference, repeats: 1}]\n"
        )
    )
    assert grid.base == tmp_path / "base.yml"
    assert grid.arms["baseline"] == {"base": tmp_path / "other.yml", "training.precision": "fp32"}
    assert grid.axes == {"training.batch_size": [2, 4]}
    assert (grid.repeats, grid.timeout_s, grid.ram_limit, grid.isolation) == (5, 60, "8GiB", "spawn")
    assert [(part.workload, part.repeats) for part in grid.parts] == [("train_step", 5), ("inference", 1)]


def test_a_plain_training_file_is_a_grid_of_one_cell(write):
    path = write("training: {batch_size: 4}\n")
    assert load_grid(path) == GridConfig(base=path.resolve(), repeats=1)


@pytest.mark.parametrize("text", ["base: b.yml\nset: {training.epochs: 2}\n", "base: b.yml\nalso: [{repeats: 1}]\n"])
def test_file_with_any_key_of_a_grid_is_a_grid(write, text, tmp_path):
    assert load_grid(write(text)).base == tmp_path / "b.yml"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("workload: w\nrepeat: 3\n", ["unknown key 'repeat'", "did you mean 'repeats'?"]),
        ("workload: w\naxess: {}\n", ["unknown key 'axess'", "did you mean 'axes'?"]),
        ("workload: w\nalso: [{timeout: 3}]\n", ["unknown key 'also.0.timeout'", "did you mean 'timeout_s'?"]),
        ("workload: w\nrepeats: 0\n", ["repeats: ", "got 0"]),
        ("workload: w\nrepeats: '3'\n", ["repeats: ", "got '3'"]),
        ("workload: w\ntimeout_s: 0\n", ["timeout_s: ", "got 0"]),
        ("workload: w\nwarmup_steps: 0\n", ["warmup_steps: ", "got 0"]),
        ("workload: w\nsample_hz: 100\n", ["sample_hz: ", "got 100"]),
        ("workload: w\nisolation: thread\n", ["isolation: ", "'fork' or 'spawn'", "got 'thread'"]),
        ("workload: w\narms: {}\n", ["arms: ", "at least 1"]),
        ("workload: w\naxes: {a.b: []}\n", ["axes.a.b: ", "at least 1"]),
        ("workload: w\naxes: {a.b: 3}\n", ["axes.a.b: ", "list", "got 3"]),
        ("workload: w\nram_limit: '8'\n", ["'8' has no unit", "6GiB"]),
        ("workload: w\nram_limit: 1\n", ["ram_limit: ", "like ram_limit: 4GiB", "got 1"]),
        ("- 1\n", ["expected a mapping", "got [1]"]),
        ("", ["the file is empty"]),
        ("workload: w\narms:\n", ["arms: the section is empty"]),
        ("workload: [\n", ["grid.yml: not valid YAML: line 2, column 1: "]),
        ("workload: \x07\n", ["grid.yml: not valid YAML: character 11: special characters"]),
        (b"\xff\xfe\x00", ["it is not text"]),
    ],
)
def test_mistake_is_reported_in_one_line_with_the_file(write, text, words):
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        load_grid(path)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in [str(path), *words])


@pytest.mark.parametrize("name", ["absent.yml", "."])
def test_unreadable_file_is_refused_with_the_cure(tmp_path, name):
    with pytest.raises(ConfigError, match=r"cannot read configuration .*; check the path"):
        read_yaml(tmp_path / name)


def test_yaml_cannot_name_code(write, tmp_path):
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_grid(write(f"workload: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n"))
    assert not (tmp_path / "made").exists()


def test_device_option_takes_precedence_and_is_checked():
    grid = GridConfig(device="cuda", also=({"workload": "inference"},))
    assert with_device(grid, None) is grid
    assert with_device(grid, "cpu") == grid.model_copy(update={"device": "cpu"})
    with pytest.raises(ConfigError, match=r"--device: .*got 'tpu'"):
        with_device(grid, "tpu")


def test_repeated_sets_the_processes_per_cell_of_every_part():
    grid = GridConfig.model_validate({"repeats": 3, "also": [{"workload": "inference", "repeats": 4}]})
    assert [part.repeats for part in grid.repeated(1).parts] == [1, 1]
    assert [part.repeats for part in grid.parts] == [3, 4]


TEXT = """\
workload: train_step
set: {training.batch_size: 2, model: {num_frames: 8}}
arms: &arms
  baseline: {model.attention: dense}
  optimized: {}
axes: {training.precision: [fp32, bf16]}
exclude: [{training.precision: bf16, model.attention: dense}]
repeats: 3
timeout_s: 60
also: [{workload: inference, repeats: 1}]
"""
PIECES = [*"[]{}#'\"|>%@=~\t\n\x00\ud800é", ": ", "- ", "? ", "\n  ", "*arms", "&x", "<<", "010", "1:30", "!!bool x"]
PIECES += ["!!int ''", "null", "-1", "1e400", ".nan", "0x", "true", "9" * 400, ""]
EDIT = st.tuples(st.integers(0, len(TEXT)), st.integers(0, 12), st.sampled_from(PIECES))


@given(st.lists(EDIT, min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_damaged_grid_file_ends_in_a_message_and_never_in_a_traceback(tmp_path_factory, edits):
    text = TEXT
    for place, removed, piece in edits:
        text = text[:place] + piece + text[place + removed :]
    path = tmp_path_factory.getbasetemp() / "damaged.yml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    assert cells_or_message(path)


def cells_or_message(path: Path):
    try:
        return expand(load_grid(path), {})
    except ConfigError as error:  # any other error fails the test
        return str(error)


def test_grid_of_a_million_cells_is_refused_before_it_is_expanded(write):
    keys = ("training.batch_size", "training.epochs", "training.seed")
    grid = load_grid(write("workload: train_step\naxes:\n" + "".join(f"  {key}: {list(range(100))}\n" for key in keys)))
    with pytest.raises(ConfigError, match=r"^the grid has 1,000,000 combinations of arms and axes, at most 10,000 are"):
        expand(grid, {})
    assert len(expand(grid, {"training.batch_size": 1, "training.epochs": 1})) == 100
