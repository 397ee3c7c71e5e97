"""What a training step needs on this machine, measured on two small micro-batches, from which larger ones follow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from models.config import Settings
from models.networks.efficient import build_recogniser
from models.training.advice import StepNeed
from models.training.batch_size import OutOfMemory, attempt
from models.training.memory import OwnPeaks
from models.training.stepper import Stepper
from slr_bench.probes.host import give_heap_back, rss_bytes


@dataclass(frozen=True)
class _Noise:
    """A batch of the right shape; what is in it changes no byte."""

    clips_BTCHW: torch.Tensor
    labels_B: torch.Tensor
    video_ids: tuple[str, ...] = ()


def measure_step_need(settings: Settings, device: torch.device) -> StepNeed:
    """Two steps of one clip, so that the optimizer has its state, then one of four clips, or two if four do not fit.

    On a GPU the allocator's own peaks. On the CPU the kernel's high-water mark over what was resident before the model:
    for eight clips -6 to +2 % of what they took, in six processes. An estimate in any case: what an operator needs
    beside its tensors need not grow in proportion.

    Raises:
        torch.OutOfMemoryError, MemoryError, RuntimeError: a step of two clips does not fit.
    """
    outcome = attempt(partial(_measured, settings, device, 4), lambda: True)
    return _measured(settings, device, 2) if isinstance(outcome, OutOfMemory) else outcome


def _measured(settings: Settings, device: torch.device, more: int) -> StepNeed:
    model, data = settings.model, settings.data
    peaks = OwnPeaks()
    give_heap_back()
    before = _held_bytes(device)
    stepper = Stepper(build_recogniser(model, settings.training.recompute).to(device), settings.training, device, 10)
    shape_TCHW = (model.num_frames, 3, data.frame_size, data.frame_size)
    needs = []
    for clips in (1, 1, more):
        batch = _Noise(torch.zeros((clips, *shape_TCHW), dtype=torch.uint8), torch.zeros(clips, dtype=torch.int64))
        give_heap_back()
        peaks.set_back()
        stepper.step([batch], clips)
        if device.type == "cuda":
            needs.append(torch.cuda.max_memory_allocated(device) - before)
        else:
            needs.append(rss_bytes() + peaks.rss_over_now_bytes() - before)
    _, one, all_of_them = needs
    per_clip = max(0, all_of_them - one) // (more - 1)
    return StepNeed(max(0, one - per_clip), per_clip)


def _held_bytes(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else rss_bytes()
