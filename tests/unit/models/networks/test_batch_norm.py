"""Batch norm over one value per channel: refused before a training, exactly where torch refuses it in a step."""

import pytest
import torch

from models.config import Settings
from models.networks.batch_norm import least_values_per_channel, refuse_norms_over_one_value
from models.networks.efficient import build_recogniser
from models.training.step_need import measure_step_need
from slr_bench.errors import ConfigError


def setting(network="efficient", frames=8, size=32, **training):
    model = {"network": network, "num_frames": frames, "num_classes": 3}
    if network == "efficient":
        model |= {"base_channels": 8, "pyramid_levels": [1]}
    return Settings.model_validate({"model": model, "data": {"frame_size": size}, "training": training})


@pytest.mark.parametrize(
    ("network", "frames", "size", "values"),
    [
        ("efficient", 4, 32, 4), ("efficient", 1, 32, 1), ("efficient", 1, 33, 4),
        ("i3d", 8, 32, 1), ("i3d", 9, 32, 2), ("s3d", 8, 32, 1), ("r3d_18", 8, 32, 4), ("r3d_18", 8, 16 + 16, 4),
    ],
)  # fmt: skip
def test_values_are_those_of_the_smallest_grid(network, frames, size, values):
    """In closed form: time / 8 and sides / 32 (r3d_18: sides / 16) for 3-D networks, one frame each for ours."""
    state = torch.get_rng_state()
    assert least_values_per_channel(setting(network, frames, size)) == values
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_without_batch_norm_has_no_such_value():
    model = setting(frames=1).model.model_copy(update={"norm": "group"})
    assert least_values_per_channel(setting(frames=1).model_copy(update={"model": model})) is None


@pytest.mark.parametrize(
    ("clips", "training", "words"),
    [
        (4, {"batch_size": 1}, r"batch_size is 1; use training\.batch_size: 2 or more"),
        (9, {"batch_size": 4}, r"of 9 clips in micro-batches of 4 the last one has one clip; use .*batch_size: 3,"),
        (3, {"batch_size": 2}, r"the last one has one clip; use one clip more, or a larger data\.frame_size"),
        (8, {"batch_size": 4, "dynamic_batch_size": True}, r"may halve .* to one clip; use dynamic_batch_size: false"),
        (8, {"batch_size": 4}, None),
        (10, {"batch_size": 4}, None),
    ],
)
def test_a_training_is_refused_exactly_where_torch_refuses_a_step(clips, training, words):
    one_value = setting("efficient", 1, 32, **training)
    if words is None:
        refuse_norms_over_one_value(one_value, clips)
    else:
        with pytest.raises(ConfigError, match=words):
            refuse_norms_over_one_value(one_value, clips)
    more = one_value.model_copy(update={"data": one_value.data.model_copy(update={"frame_size": 64})})
    refuse_norms_over_one_value(more, clips)
    model = build_recogniser(one_value.model).train()
    model(torch.zeros(2, 1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.zeros(1, 1, 3, 32, 32, dtype=torch.uint8))


def test_a_step_that_batch_norm_refuses_is_not_measured():
    with pytest.raises(ConfigError, match=r"one of 1 frames of 32 pixels is too small .* no measurement \(no --auto"):
        measure_step_need(setting("efficient", 1, 32), torch.device("cpu"))
