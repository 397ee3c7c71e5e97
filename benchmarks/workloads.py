"""The registered workloads of this project, the parent's half: names, settings, checks. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from models.config import Settings
from slr_bench.errors import ConfigError, DataError
from slr_bench.grid.description import HeadlineMetric, MetricText
from slr_bench.grid.workload import AMPERE, BuildContext, Cards, Knob, WorkloadSpec

SYNTHETIC = Path("data/synthetic")
"""Directory that ``make data`` renders into."""
# torch imports torch._dynamo (a second) with the first optimizer or checkpoint: once in the server, not in every cell.
_PRELOAD = ("torch._dynamo", "torchvision.transforms.v2", "av", "benchmarks.workload_steps")


_KNOBS = (
    Knob.of_key(
        "training.precision",
        *("fp32", "bf16", "fp16"),
        keeps="model",
        cards=(Cards(), Cards(least=AMPERE), Cards(below=AMPERE)),
    ),
    Knob.of_key("training.recompute", "none", "stage", "block", "lowest"),
    Knob.of_key("model.attention", "dense", "chunked"),
    Knob.of_key("model.stem", "whole", "split"),
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


_OTHER_SEED = "How far another seed, more epochs or other signers would move it."
_PER_CLASS = "within each sign that occurs, averaged over the signs: each weighs the same, however many clips it has."


_accuracy = partial(MetricText, blind_spot=_OTHER_SEED, compares_as="learned", larger_is_better=True)

_METRICS: Mapping[str, MetricText] = {
    "accuracy_top1": _accuracy("accuracy", "Share of validation clips whose highest score is the right sign."),
    "accuracy_top5": _accuracy(
        "top-5 accuracy", "Share of validation clips with the right sign among the five highest scores."
    ),
    "accuracy_top10": _accuracy(
        "top-10 accuracy", "Share of validation clips with the right sign among the ten highest scores."
    ),
    "accuracy_per_class_top1": _accuracy("accuracy per class", f"Accuracy {_PER_CLASS}"),
    "accuracy_per_class_top5": _accuracy("top-5 accuracy per class", f"Top-5 accuracy {_PER_CLASS}"),
    "accuracy_per_class_top10": _accuracy("top-10 accuracy per class", f"Top-10 accuracy {_PER_CLASS}"),
    "training_time_s": MetricText(
        "training time",
        "Wall time of the whole training, loading of data and validation included.",
        "How long a training to convergence takes: the epochs are the setting's.",
    ),
    "epoch_time_s": MetricText("epoch time", "Training time over the number of epochs.", "How the epochs differ."),
    "train_loss": MetricText(
        "training loss",
        "Mean loss of the last epoch.",
        "How well the network does on unseen clips.",
        compares_as="learned",
    ),
    "attention_bytes": MetricText(
        "attention chosen",
        "Most bytes that attention needs beside its inputs, forward and backward, by the back-end that was chosen; the "
        "source says which. Counted at every operator before the first step.",
        "What an operator allocates inside itself.",
        compares_as="traced",
    ),
}

_DESCRIPTION: dict[str, Any] = {
    "unit": "clip",
    "micro_batch": "training.batch_size",
    "micro_batches": "training.gradient_accumulation_steps",
    "input_line": "clips of {model.num_frames} frames of {data.frame_size}×{data.frame_size} pixels",
    "setting_line": ("{training.precision}",),
    "accuracy_metric": "accuracy_top1",
    "metrics": _METRICS,
}

train_step = WorkloadSpec(
    name="train_step",
    settings=Settings,
    build=_train_step,
    preload=_PRELOAD,
    packages=("models", "benchmarks"),
    monotone=("training.batch_size",),
    loader_limits=("data.max_frames_in_memory",),
    knobs=_KNOBS,
    prepare=_check_data,
    headline=(
        HeadlineMetric("peak_tensor_bytes", "Memory"),
        HeadlineMetric("peak_allocated_bytes", "GPU memory allocated", optional=True),
        HeadlineMetric("step_time_s", "Step time"),
    ),
    report_order=-1,
    **_DESCRIPTION,
)
"""One optimizer step of the trainer on decoded clips: every micro-batch forward and backward, then the update."""

inference = WorkloadSpec(
    name="inference",
    settings=Settings,
    build=_inference,
    preload=_PRELOAD,
    packages=("models", "benchmarks"),
    monotone=("training.batch_size",),
    loader_limits=("data.max_frames_in_memory",),
    knobs=tuple(knob for knob in _KNOBS if knob.name != "training.recompute"),  # nothing is kept for a backward
    prepare=_check_data,
    headline=(
        HeadlineMetric("peak_tensor_bytes", "Inference memory"),
        HeadlineMetric("peak_allocated_bytes", "Inference GPU memory allocated", optional=True),
        HeadlineMetric("step_time_s", "Inference step time"),
    ),
    report_order=1,
    **_DESCRIPTION,
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
    headline=(HeadlineMetric("training_time_s", "Training time"), HeadlineMetric("accuracy_top1", "Accuracy")),
    **_DESCRIPTION,
)
"""A whole training from scratch for ``training.epochs``, then accuracy on the validation split."""
