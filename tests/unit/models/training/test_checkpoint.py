"""Checkpoint files that are complete or absent, and files that are refused."""

import random
import resource
from contextlib import contextmanager

import pytest
import torch
from tiny import TinyNet, tiny_config

from models.config import Settings
from models.training.checkpoint import (
    HARMLESS,
    TrainingIdentity,
    load_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
)
from slr_bench.errors import ConfigError
from slr_bench.files import write_atomically

CONFIG = {"training": tiny_config().model_dump(mode="json")}
IDENTITY = TrainingIdentity(CONFIG, 9)


def saved(path, model=None):
    save_checkpoint(path, {"model": model or TinyNet()}, IDENTITY, {"epoch": 1})
    return path


def test_checkpoint_round_trip_restores_progress_and_weights(tmp_path):
    torch.manual_seed(0)
    model = TinyNet()
    path = saved(tmp_path / "new" / "c.pt", model)
    other = TinyNet()
    progress, _ = load_checkpoint(path, {"model": other}, IDENTITY)
    assert progress == {"epoch": 1}
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_random_numbers_continue_from_a_checkpoint(tmp_path):
    path = saved(tmp_path / "c.pt")
    expected = (torch.rand(3), random.random())
    random.seed(1)
    torch.manual_seed(1)
    set_random_state(load_checkpoint(path, {"model": TinyNet()}, IDENTITY)[1])
    found = (torch.rand(3), random.random())
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]
    assert random_state()["cuda"] == [] or torch.cuda.is_available()


def test_file_holds_nothing_that_needs_code(tmp_path):
    content = torch.load(saved(tmp_path / "c.pt"), weights_only=True)
    assert set(content) == {
        "format",
        "schema",
        "settings",
        "total_steps",
        "data_fingerprint",
        "glosses",
        "progress",
        "random",
        "parts",
    }


def test_earlier_file_survives_a_failed_write(tmp_path):
    path = saved(tmp_path / "c.pt")
    before = path.read_bytes()

    def half(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(ConfigError, match="No space left on device; free space"):
        write_atomically(path, half)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_path_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        saved(tmp_path / "file" / "c.pt")


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_truncated_file_is_refused(tmp_path, keep):
    path = saved(tmp_path / "c.pt")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=r"c\.pt is truncated or not a file of tensors"):
        load_checkpoint(path, {"model": TinyNet()}, IDENTITY)


def test_checkpoint_with_a_wrong_bit_is_refused_and_loads_nothing(tmp_path):
    model, other = TinyNet(), TinyNet()
    path = saved(tmp_path / "c.pt", model)
    content = bytearray(path.read_bytes())
    weight = next(iter(model.state_dict().values())).numpy().tobytes()
    content[content.index(weight) + 2] ^= 4
    path.write_bytes(content)
    before = [value.clone() for value in other.state_dict().values()]
    with pytest.raises(ConfigError, match=r"checkpoint: .*c\.pt is damaged in its record archive/data/\d+;"):
        load_checkpoint(path, {"model": other}, IDENTITY)
    assert all(map(torch.equal, before, other.state_dict().values()))


@pytest.mark.parametrize(
    "content", [{}, {"conv.weight": torch.zeros(1)}, {"format": "slr-recogniser-checkpoint", "schema": 3}]
)
def test_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "c.pt"
    torch.save(content, path)
    with pytest.raises(ConfigError, match="not written by this trainer"):
        load_checkpoint(path, {"model": TinyNet()}, IDENTITY)


@contextmanager
def disk_full_after(size_bytes):
    """Limit file sizes of this process: the write at the limit returns short, the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_full_disk_while_saving_keeps_the_earlier_checkpoint(tmp_path, part):
    """Torch's writer turns the system's error into one of its own."""
    torch.manual_seed(0)
    model = TinyNet()
    path = saved(tmp_path / "c.pt", model)
    before = path.read_bytes()
    with disk_full_after(int(part * len(before))), pytest.raises(ConfigError, match=r"cannot write .*: File too large"):
        saved(path, TinyNet())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    load_checkpoint(path, {"model": TinyNet()}, IDENTITY)


def whole_setting(**changes):
    """Return a whole setting as checkpoints hold it; ``model__dropout=0.5`` changes one key."""
    sections = {}
    for key, value in changes.items():
        section, name = key.split("__")
        sections.setdefault(section, {})[name] = value
    return Settings.model_validate(sections).model_dump(mode="json")


def test_whole_setting_is_saved_and_reads_back(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"model": TinyNet()}, TrainingIdentity(whole_setting(model__num_classes=7), 9), {})
    content = torch.load(path, weights_only=True)
    assert content["schema"] == 2
    assert Settings.model_validate(content["settings"]).model.num_classes == 7


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model__dropout": 0.5}, "made with model.dropout=0.2, now it is 0.5"),
        ({"model__temporal_shift": "none"}, "made with model.temporal_shift=memory_efficient, now it is none"),
        ({"data__augment": False}, "made with data.augment=True, now it is False"),
        ({"training__seed": 1}, "made with training.seed=0, now it is 1; resume with the same settings"),
        ({"training__epochs": 40}, r"epochs=30, now it is 40; .* to train longer, .* --weights .*c\.pt with another"),
        ({"data__num_workers": 0, "data__dir": "elsewhere", "model__cache_size_limit_mb": 1}, None),
        ({"training__dynamic_batch_size": True, "training__recompute": "stage", "model__weights": "x.pt"}, None),
    ],
)
def test_resume_refuses_settings_that_change_weights_and_accepts_those_that_save_memory(tmp_path, change, words):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"model": TinyNet()}, TrainingIdentity(whole_setting(), 9), {"epoch": 2})
    if words is None:
        assert load_checkpoint(path, {"model": TinyNet()}, TrainingIdentity(whole_setting(**change), 9))[0] == {
            "epoch": 2
        }
        return
    with pytest.raises(ConfigError, match=words):
        load_checkpoint(path, {"model": TinyNet()}, TrainingIdentity(whole_setting(**change), 9))


def test_other_clips_are_refused_and_unknown_clips_are_accepted(tmp_path):
    """Old checkpoints have no fingerprint, and neither has a caller without a directory."""
    path = tmp_path / "c.pt"
    known, other, unknown = (TrainingIdentity(CONFIG, 9, fingerprint) for fingerprint in ("ab", "cd", None))
    save_checkpoint(path, {"model": TinyNet()}, known, {"epoch": 1})
    with pytest.raises(ConfigError, match=r"made on other clips .*; resume with the same data, or start from"):
        load_checkpoint(path, {"model": TinyNet()}, other)
    for bond in (known, unknown):
        assert load_checkpoint(path, {"model": TinyNet()}, bond)[0] == {"epoch": 1}
    save_checkpoint(path, {"model": TinyNet()}, unknown, {"epoch": 1})
    assert load_checkpoint(path, {"model": TinyNet()}, other)[0] == {"epoch": 1}


def test_every_harmless_key_exists():
    known = Settings().model_dump()
    assert {name: keys - set(known[name]) for name, keys in HARMLESS.items()} == {name: set() for name in known}


OLD_CONFIG = {
    "batch_size": 4, "gradient_accumulation_steps": 2, "mixed_precision": False, "precision": "fp32",
    "recompute": "none", "optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.02, "epochs": 3,
    "warmup_fraction": 0.1, "label_smoothing": 0.1, "gradient_clip_norm": 5.0, "seed": 0,
    "enable_memory_tracking": False, "memory_warning_threshold": 0.9, "memory_critical_threshold": 0.95,
}  # fmt: skip
"""Return the training section as schema 1 wrote it."""


def old_checkpoint(path):
    content = {
        "format": "slr-recogniser-checkpoint", "schema": 1, "config": OLD_CONFIG, "total_steps": 9,
        "progress": {"epoch": 1}, "random": random_state(), "parts": {"model": TinyNet().state_dict()},
    }  # fmt: skip
    torch.save(content, path)
    return path


def test_schema_1_is_read_and_newer_keys_count_with_their_defaults(tmp_path):
    path = old_checkpoint(tmp_path / "c.pt")
    assert load_checkpoint(path, {"model": TinyNet()}, IDENTITY)[0] == {"epoch": 1}
    with pytest.raises(ConfigError, match=r"made with training\.channels_last=False, now it is True"):
        load_checkpoint(
            path, {"model": TinyNet()}, TrainingIdentity({"training": CONFIG["training"] | {"channels_last": True}}, 9)
        )


def test_checkpoint_with_missing_entries_is_refused(tmp_path):
    path = saved(tmp_path / "c.pt")
    content = torch.load(path, weights_only=True)
    del content["progress"]
    torch.save(content, path)
    with pytest.raises(ConfigError, match="lacks progress; train anew"):
        load_checkpoint(path, {"model": TinyNet()}, IDENTITY)
    with pytest.raises(ConfigError, match="lacks some parts; train anew"):
        load_checkpoint(saved(path), {"model": TinyNet(), "optimizer": TinyNet()}, IDENTITY)


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_code_in_a_checkpoint_does_not_run(tmp_path, capsys):
    path = tmp_path / "c.pt"
    torch.save({"format": "slr-recogniser-checkpoint", "schema": 2, "progress": Evil()}, path)
    with pytest.raises(ConfigError, match="not a file of tensors"):
        load_checkpoint(path, {"model": TinyNet()}, IDENTITY)
    assert "code ran" not in capsys.readouterr().out
