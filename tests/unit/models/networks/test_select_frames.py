"""Selection before the forward pass gives the same logits and frees the loader's clips."""

import weakref
from dataclasses import dataclass

import pytest
import torch
from tiny import TinyNet

from models.config import ModelConfig, TrainingConfig
from models.networks.backbone import SelectedFrames, select_frames
from models.networks.efficient import build_recogniser
from models.training.stepper import Stepper

FOCUSED = {"region_focus": "motion", "focus_size": 32, "num_frames": 8, "num_classes": 3}


@dataclass
class Batch:
    clips_BTCHW: torch.Tensor
    labels_B: torch.Tensor


def clips():
    return torch.randint(0, 256, (2, 8, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def build(**changes):
    torch.manual_seed(0)
    return build_recogniser(ModelConfig.model_validate(FOCUSED | {"base_channels": 8} | changes), "block")


@pytest.mark.parametrize("changes", [{}, {"network": "s3d", "base_channels": 64}])
def test_selected_frames_give_the_logits_of_the_clips(changes):
    model = build(**changes).eval()
    seen = select_frames(model, clips())
    assert isinstance(seen, SelectedFrames)
    assert seen.clips_BTCHW.shape == (2, 8, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(seen), model(clips()))


def test_network_without_select_gets_the_clips():
    clips_BTCHW = clips()
    assert select_frames(TinyNet(), clips_BTCHW) is clips_BTCHW


def test_step_frees_the_larger_clips_before_the_forward_pass():
    model = build()
    alive, made = [], []

    def batch(number):
        clips_BTCHW = clips()
        made.append(weakref.ref(clips_BTCHW))
        return Batch(clips_BTCHW, torch.tensor([0, 1]))

    def look(module, inputs):
        alive.append([reference() is not None for reference in made])

    model.backbone.register_forward_pre_hook(look)
    config = TrainingConfig.model_validate({"batch_size": 2, "gradient_accumulation_steps": 2, "precision": "fp32"})
    stepper = Stepper(model, config, "cpu", total_steps=2)
    # By map, as the trainer's batches come: a generator would keep its last one.
    stepper.step(map(batch, range(2)), 4)
    assert alive == [[False], [False, False]]
