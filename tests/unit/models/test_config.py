"""Values that no training can have are refused where they are read, in one line with the cure."""

import pytest

from models.config import settings_of
from slr_bench.errors import ConfigError

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
            "model: pyramid_levels=[2, 1, 2] names a level twice, which tells nothing; use [2, 1]",
        ),
    ],
)
def test_impossible_values_are_refused_with_the_cure(changes, line):
    with pytest.raises(ConfigError) as caught:
        settings_of({}, changes, "c.yml")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"c.yml: {line}")
    if line.startswith(("model: ", "training: ")):  # rules of a section: without a dump of it
        assert str(caught.value) == f"c.yml: {line}"


def test_the_cures_work():
    cured = settings_of({}, IN_BACKWARD | {"training.gradient_accumulation_steps": 1}, "c.yml").training
    assert (cured.optimizer_in_backward, cured.gradient_accumulation_steps) == (True, 1)
    largest = settings_of({}, {"training.recompute": "budget:1", "training.seed": 2**63 - 1}, "c.yml").training
    assert (largest.recompute, largest.seed) == ("budget:1", 2**63 - 1)
