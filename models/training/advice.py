"""Advice on which keys of a setting to change, and why: to fit a machine, or to cure a symptom."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from models.config import Settings
from models.training.machine import Machine
from slr_bench.files import nest
from slr_bench.grid.yaml_files import validate
from slr_bench.units import MIB, format_bytes, format_count

Symptom = Literal["oom", "ram", "slow"]
MOST_PROCESSES = 8
SMALL_CHUNK, WHOLE_CHUNK = 8, 32
SAFE_PART = 0.8
"""Share of the free memory that advice may use; the rest is for what was not counted."""


@dataclass(frozen=True)
class Advice:
    """A key to change, with its current and its advised value."""

    key: str
    """``section.name``."""
    now: Any
    value: Any
    why: str


@dataclass(frozen=True)
class StepNeed:
    """Device memory of a training step, which is linear in the micro-batch; measured at two sizes."""

    fixed_bytes: int
    per_clip_bytes: int

    def bytes_for(self, clips: int) -> int:
        """Return the need of a micro-batch of ``clips``."""
        return self.fixed_bytes + clips * self.per_clip_bytes


class _Draft:
    """A setting that advice changes, and the advice so far, each key once."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.advice = settings, list[Advice]()

    def set(self, key: str, value: Any, why: str) -> None:
        section, name = key.split(".")
        now = getattr(getattr(self.settings, section), name)
        if now != value:
            self.advice.append(Advice(key, now, value, why))
            part = getattr(self.settings, section).model_copy(update={name: value})
            self.settings = self.settings.model_copy(update={section: part})


def apply_advice(settings: Settings, advice: Iterable[Advice]) -> Settings:
    """Return ``settings`` with the advice applied.

    Raises:
        ConfigError: the combination is not valid.
    """
    values = nest({item.key: item.value for item in advice}, base=settings.model_dump())
    return validate(Settings, values, "the advised setting")


def fit_machine(settings: Settings, machine: Machine, clips: int | None, need: StepNeed | None) -> list[Advice]:
    """Advise on loader processes, chunks, frames in memory, cache and micro-batch. The effective batch does not change.

    Args:
        settings: the setting to change.
        machine: the machine to fit.
        clips: the clips that the training reads again in each epoch, for the cache; None if there are no data yet.
        need: the memory of a step; None leaves the micro-batch unchanged.
    """
    draft = _Draft(settings)
    if need is not None:
        _fit_micro_batch(draft, machine, need)
    room = int(SAFE_PART * machine.ram_free_bytes)
    if need is not None and not machine.has_gpu:
        room = max(0, room - need.bytes_for(draft.settings.training.batch_size))
    room -= _fit_processes(draft, machine, room)
    room -= _fit_frames(draft, room)
    _fit_cache(draft, room, clips)
    return draft.advice


def _fit_micro_batch(draft: _Draft, machine: Machine, need: StepNeed) -> None:
    training, effective = draft.settings.training, draft.settings.training.effective_batch
    if training.optimizer_in_backward:
        return
    room = int(SAFE_PART * machine.device_free_bytes)
    sizes = [size for size in _divisors(effective) if need.bytes_for(size) <= room] or [1]
    if not machine.has_gpu:  # larger ones are not faster on a CPU
        sizes = [size for size in sizes if size <= training.batch_size] or [1]
    best = max(sizes)
    per_clip = f"{format_bytes(need.fixed_bytes)} + {format_bytes(need.per_clip_bytes)} per clip"
    why = f"divides the effective batch {effective} and fits {format_bytes(room)}: a step needs {per_clip}"
    if need.bytes_for(best) > room:
        why = f"a step needs {per_clip}, more than the free {format_bytes(room)}: see --symptom oom"
    draft.set("training.batch_size", best, why)
    draft.set("training.gradient_accumulation_steps", effective // best, f"keeps the effective batch {effective}")
    if best > 1:
        why = f"halves the micro-batch if the estimate ({per_clip}) is too low"
        draft.set("training.dynamic_batch_size", True, why)


def _fit_processes(draft: _Draft, machine: Machine, room: int, at_least: int = 0) -> int:
    """Advise on the loader processes; return their RAM."""
    wanted = min(machine.cores - 1, MOST_PROCESSES if machine.has_gpu else max(1, machine.cores // 4))
    count = min(max(at_least, wanted), room // 4 // machine.process_bytes)
    step = "the step runs on the GPU" if machine.has_gpu else "the step needs the cores"
    why = f"{machine.cores} cores, {step}; {format_bytes(machine.process_bytes)} per process"
    draft.set("data.num_workers", count, why)
    return count * machine.process_bytes


def _fit_frames(draft: _Draft, room: int) -> int:
    """Advise on the frames that the loader owns; return their RAM."""
    settings, size = draft.settings, draft.settings.frame_bytes
    data, batch = settings.data, settings.training.batch_size * settings.model.num_frames
    useful = batch * (data.num_workers + 1)
    frames = max(batch, min(useful, room // 4 // size))
    why = f"a batch of {batch} frames in each process and one in the step, {format_bytes(size)} per frame"
    if frames < useful:
        why = f"{format_bytes(frames * size)}, a quarter of the remaining RAM; a batch has {batch} frames"
    draft.set("data.max_frames_in_memory", frames, why)
    if data.prefetch_batches > 1 and frames < 2 * batch:
        draft.set("data.prefetch_batches", 1, "there is no RAM for a second batch")
    if room > 2**30:
        draft.set("data.chunk_size", max(data.chunk_size, WHOLE_CHUNK), "converts all frames of a clip at once")
    else:
        draft.set("data.chunk_size", min(data.chunk_size, SMALL_CHUNK), "converts few frames at once: RAM is short")
    return frames * size


def _fit_cache(draft: _Draft, room: int, clips: int | None) -> None:
    per_clip = draft.settings.cached_clip_bytes
    known = draft.settings.model.cache_size_limit_mb * MIB if clips is None else clips * per_clip
    size_mib = max(0, min(room, known)) // MIB
    if size_mib < per_clip // MIB + 1:
        draft.set("model.enable_feature_caching", False, "no RAM is left for a cache")
        return
    why = f"the remaining RAM; {format_bytes(per_clip)} per clip"
    if clips is not None and clips * per_clip <= room:
        count = format_count(clips, "clip")
        why, size_mib = f"{count} of {format_bytes(per_clip)}", max(1, -(-clips * per_clip // MIB))
    draft.set("model.enable_feature_caching", True, "clips are decoded once instead of once per epoch")
    draft.set("model.cache_size_limit_mb", size_mib, why)


def cure(symptom: Symptom, settings: Settings, machine: Machine, clips: int | None = None) -> list[Advice]:
    """Advise the next step of each cure for ``symptom``.

    Called again with the changed setting it goes one step further, until no step is left.
    """
    draft = _Draft(settings)
    if symptom == "oom":
        _less_on_device(draft, machine)
    elif symptom == "ram":
        _less_ram(draft, machine)
    else:
        _faster(draft, machine, clips)
    return draft.advice


def _less_on_device(draft: _Draft, machine: Machine) -> None:
    training, effective = draft.settings.training, draft.settings.training.effective_batch
    if training.batch_size > 1 and not training.optimizer_in_backward:
        smaller = max(size for size in _divisors(effective) if size <= training.batch_size // 2)
        draft.set("training.batch_size", smaller, "activations grow with the micro-batch")
        draft.set(
            "training.gradient_accumulation_steps", effective // smaller, f"keeps the effective batch {effective}"
        )
        if smaller > 1:
            draft.set("training.dynamic_batch_size", True, "halves it again automatically if needed")
    if training.precision in ("fp32", "tf32"):
        slower = machine.slower_than_fp32("bf16")
        cost = f"; slower, because {slower}" if slower else ""
        draft.set("training.precision", "bf16", f"halves the bytes of activations (mixed precision){cost}")
    if training.recompute in ("none", "stage"):
        draft.set("training.recompute", "block", "backward computes activations again; same results")
    if draft.settings.model.temporal_shift == "plain":
        draft.set("model.temporal_shift", "memory_efficient", "keeps one activation less per block; same results")
    if draft.settings.model.max_pool == "plain":
        draft.set("model.max_pool", "memory_efficient", "keeps one byte per output for backward; same results")
    if draft.settings.model.network == "efficient" and draft.settings.model.stem == "whole":
        draft.set(
            "model.stem", "split", "never holds the largest tensors whole, for some percent of time; same results"
        )
    if draft.settings.model.attention == "dense":
        draft.set("model.attention", "chunked", "keeps no T x T scores; same results")


def _less_ram(draft: _Draft, machine: Machine) -> None:
    model, data = draft.settings.model, draft.settings.data
    batch = draft.settings.training.batch_size * model.num_frames
    draft.set("data.num_workers", data.num_workers // 2, f"{format_bytes(machine.process_bytes)} per process")
    draft.set("data.prefetch_batches", 1, "one batch ahead is enough per process")
    if model.enable_feature_caching:
        half = model.cache_size_limit_mb // 2
        if half * MIB >= draft.settings.cached_clip_bytes:
            draft.set("model.cache_size_limit_mb", half, "more clips are decoded again in each epoch")
        else:
            draft.set("model.enable_feature_caching", False, "it would not hold a single clip any more")
    if data.max_frames_in_memory is None or data.max_frames_in_memory > 2 * batch:
        why = f"two batches; {format_bytes(draft.settings.frame_bytes)} per frame"
        draft.set("data.max_frames_in_memory", 2 * batch, why)
    draft.set("data.chunk_size", min(data.chunk_size, SMALL_CHUNK), "converts few frames at once")
    draft.set("training.enable_memory_tracking", True, "gives back cache, prefetching and processes before RAM is full")


def _faster(draft: _Draft, machine: Machine, clips: int | None) -> None:
    settings = draft.settings
    room = int(SAFE_PART * machine.ram_free_bytes)
    room -= _fit_processes(draft, machine, room, at_least=settings.data.num_workers)
    room -= _fit_frames(draft, room)
    _fit_cache(draft, room, clips)
    lighter = {"block": "stage", "stage": "none"}.get(settings.training.recompute)
    if lighter:
        why = "keeps more and computes less twice; change it back if memory runs out"
        draft.set("training.recompute", lighter, why)
    if slower := machine.slower_than_fp32(settings.training.precision):
        draft.set("training.precision", "fp32", slower)


def _divisors(number: int) -> Iterable[int]:
    return [size for size in range(1, number + 1) if number % size == 0]
