"""Files that are whole or absent, and files that are refused."""

import random

import pytest
import torch
from tiny import TinyNet, tiny_config

from models.training.checkpoint import (
    load_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
    write_whole,
)
from slr_bench.errors import ConfigError

CONFIG = {"training": tiny_config().model_dump(mode="json")}


def saved(path, model=None):
    save_checkpoint(path, {"model": model or TinyNet()}, CONFIG, 9, {"epoch": 1})
    return path


def test_round_trip(tmp_path):
    torch.manual_seed(0)
    model = TinyNet()
    path = saved(tmp_path / "new" / "c.pt", model)
    other = TinyNet()
    progress, _ = load_checkpoint(path, {"model": other}, CONFIG, 9)
    assert progress == {"epoch": 1}
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_random_numbers_continue(tmp_path):
    path = saved(tmp_path / "c.pt")
    expected = (torch.rand(3), random.random())
    random.seed(1)
    torch.manual_seed(1)
    set_random_state(load_checkpoint(path, {"model": TinyNet()}, CONFIG, 9)[1])
    found = (torch.rand(3), random.random())
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]
    assert random_state()["cuda"] == [] or torch.cuda.is_available()


def test_the_file_holds_nothing_that_needs_code(tmp_path):
    content = torch.load(saved(tmp_path / "c.pt"), weights_only=True)
    assert set(content) == {"format", "schema", "settings", "total_steps", "progress", "random", "parts"}


def test_an_earlier_file_survives_a_failed_write(tmp_path):
    path = saved(tmp_path / "c.pt")
    before = path.read_bytes()

    def half(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(ConfigError, match="No space left on device; free space"):
        write_whole(path, half)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_ours_leaves_no_half_file(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_whole(tmp_path / "x", lambda file: 1 / 0)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        saved(tmp_path / "file" / "c.pt")


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_truncated(tmp_path, keep):
    path = saved(tmp_path / "c.pt")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=r"c\.pt is truncated or not a file of tensors"):
        load_checkpoint(path, {"model": TinyNet()}, CONFIG, 9)


@pytest.mark.parametrize(
    "content", [{}, {"conv.weight": torch.zeros(1)}, {"format": "slr-recogniser-checkpoint", "schema": 3}]
)
def test_foreign(tmp_path, content):
    path = tmp_path / "c.pt"
    torch.save(content, path)
    with pytest.raises(ConfigError, match="not written by this trainer"):
        load_checkpoint(path, {"model": TinyNet()}, CONFIG, 9)
