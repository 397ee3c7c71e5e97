"""Measures the memory of a training step on this machine with two small micro-batches, to estimate larger ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from models.config import Settings
from models.networks.batch_norm import clip_size, least_values_per_channel
from models.networks.efficient import build_recogniser
from models.training.advice import StepNeed
from models.training.memory import OwnPeaks
from models.training.out_of_memory import OutOfMemory, run_or_catch_oom
from models.training.stepper import Stepper
from slr_bench.errors import ConfigError
from slr_bench.probes.host import give_heap_back, rss_bytes


@dataclass(frozen=True)
class _EmptyBatch:
    """A batch of the right shape; its contents do not affect memory."""

    clips_BTCHW: torch.Tensor
    labels_B: torch.Tensor
    video_ids: tuple[str, ...] = ()


def measure_step_need(settings: Settings, device: torch.device) -> StepNeed:
    """Measure two steps of one clip, so that the optimizer has its state, then one of four clips (or two).

    On a GPU this reads the allocator's peaks. On the CPU it reads the kernel's high-water mark above what was resident
    before the model; estimates for eight clips were -6 to +2 % off in six processes. The result is an estimate, because
    an operator's need beside its tensors may not grow in proportion.

    Raises:
        ConfigError: batch norm cannot normalise one clip of this size.
        torch.OutOfMemoryError, MemoryError, RuntimeError: a step of two clips does not fit.
    """
    if least_values_per_channel(settings) == 1:
        raise ConfigError(
            f"the memory of a step is measured with one clip, and one of {clip_size(settings)} is too small for batch "
            "norm; use a larger data.frame_size, or no measurement (no --auto; advisor: --no-measure)"
        )
    outcome = run_or_catch_oom(partial(_measured, settings, device, 4), lambda: True)
    return _measured(settings, device, 2) if isinstance(outcome, OutOfMemory) else outcome


def _measured(settings: Settings, device: torch.device, most: int) -> StepNeed:
    model, data = settings.model, settings.data
    peaks = OwnPeaks()
    give_heap_back()
    before = _held_bytes(device)
    stepper = Stepper(build_recogniser(model, settings.training.recompute).to(device), settings.training, device, 10)
    shape_TCHW = (model.num_frames, 3, data.frame_size, data.frame_size)
    needs = []
    for clips in (1, 1, most):
        batch = _EmptyBatch(torch.zeros((clips, *shape_TCHW), dtype=torch.uint8), torch.zeros(clips, dtype=torch.int64))
        give_heap_back()
        peaks.reset()
        stepper.step([batch], clips)
        if device.type == "cuda":
            needs.append(torch.cuda.max_memory_allocated(device) - before)
        else:
            needs.append(rss_bytes() + peaks.rss_over_now_bytes() - before)
    _, one_clip, most_clips = needs
    per_clip = max(0, most_clips - one_clip) // (most - 1)
    return StepNeed(max(0, one_clip - per_clip), per_clip)


def _held_bytes(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else rss_bytes()
