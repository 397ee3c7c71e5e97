"""The registered workloads of this project, the parent's half: names, settings, checks. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from models.config import Settings
from slr_bench.errors import ConfigError, DataError
from slr_bench.grid.workload import AMPERE, BuildContext, Cards, Knob, WorkloadSpec

SYNTHETIC = Path("data/synthetic")
"""Directory that ``make data`` renders into."""
# torch imports torch._dynamo (a second) with the first optimizer or checkpoint: once in the server, not in every cell.
_PRELOAD = ("torch._dynamo", "torchvision.transforms.v2", "av", "benchmarks.workload_steps")


def _knob(
    key: str, *values: str, keeps: Literal["function", "model"] = "function", cards: tuple[Cards, ...] = ()
) -> Knob:
    return Knob(key, tuple({key: value} for value in values), keeps, cards)


_KNOBS = (
    _knob(
        "training.precision",
        *("fp32", "bf16", "fp16"),
        keeps="model",
        cards=(Cards(), Cards(least=AMPERE), Cards(below=AMPERE)),
    ),
    _knob("training.recompute", "none", "stage", "block", "lowest"),
    _knob("model.attention", "dense", "chunked"),
    _knob("model.stem", "whole", "split"),
    Knob(
        "model.region_focus",
        (
            {"model.region_focus": "none", "model.focus_size": None},
            {"model.region_focus": "motion", "model.focus_size": 160},
            {"model.region_focus": "motion", "model.focus_size": 128},
        ),
        keeps="nothing",
    ),
)


def _check_data(settings: Settings) -> Mapping[str, str]:
    """The data directory holds what the setting needs; its fingerprint.

    Raises:
        ConfigError: no ``data.dir``.
        DataError: no such directory, not a data directory, no videos, or another class count.
    """
    from models.data.wlasl import load_manifest

    if settings.data.dir is None:
        raise ConfigError(
            f"data.dir is not set; render signs with `make data` and add --set data.dir={SYNTHETIC}, "
            "or trace without data: --fake"
        )
    if not settings.data.dir.is_dir():
        cure = "`make data` renders it" if settings.data.dir == SYNTHETIC else "check the path"
        raise DataError(f"data.dir: there is no directory {settings.data.dir}; {cure}, or trace without data: --fake")
    manifest = load_manifest(settings.data.dir, settings.model.num_classes)
    missing = {"data_missing_videos": str(len(manifest.missing))} if manifest.missing else {}
    return {"data_fingerprint": manifest.fingerprint} | missing


def _train_step(settings: Settings, context: BuildContext) -> Any:
    from benchmarks.workload_steps import TrainStep

    return TrainStep(settings, context)


def _inference(settings: Settings, context: BuildContext) -> Any:
    from benchmarks.workload_steps import Inference

    return Inference(settings, context)


def _train_epochs(settings: Settings, context: BuildContext) -> Any:
    from benchmarks.workload_steps import TrainEpochs

    return TrainEpochs(settings, context)


train_step = WorkloadSpec(
    name="train_step",
    settings=Settings,
    build=_train_step,
    preload=_PRELOAD,
    packages=("models", "benchmarks"),
    monotone=("training.batch_size",),
    micro_batches="training.gradient_accumulation_steps",
    micro_batch="training.batch_size",
    knobs=_KNOBS,
    prepare=_check_data,
)
"""One optimizer step of the trainer on decoded clips: every micro-batch forward and backward, then the update."""

inference = WorkloadSpec(
    name="inference",
    settings=Settings,
    build=_inference,
    preload=_PRELOAD,
    packages=("models", "benchmarks"),
    monotone=("training.batch_size",),
    micro_batches="training.gradient_accumulation_steps",
    micro_batch="training.batch_size",
    knobs=tuple(knob for knob in _KNOBS if knob.name != "training.recompute"),  # nothing is kept for a backward
    prepare=_check_data,
)
"""Forward passes without gradients over one effective batch, micro-batch by micro-batch."""

train_epochs = WorkloadSpec(
    name="train_epochs",
    settings=Settings,
    build=_train_epochs,
    kind="whole",
    preload=_PRELOAD,
    packages=("models", "benchmarks"),
    monotone=("training.batch_size",),
    prepare=_check_data,
)
"""A whole training from scratch for ``training.epochs``, then accuracy on the validation split."""
