"""One training step of a model that torchvision or timm has, as in published measurements. Imports no torch.

`benchmarks/proofs/published/pyproject.toml` registers it, for `benchmarks.proofs.gpu_truth` only.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from slr_bench.grid.training_step import TrainingStep
from slr_bench.grid.workload import BuildContext, WorkloadSpec


class PublishedSettings(BaseModel):
    """A published setting: fp32, images of 224×224, 1,000 classes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    library: Literal["torchvision", "timm"] = "torchvision"
    """Package that has the model."""
    model: str = "resnet50"
    """Its name there."""
    batch_size: int = 32
    """Images per step."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Adam, or SGD with momentum."""


def _build(settings: PublishedSettings, context: BuildContext) -> Any:
    import torch

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.rand(settings.batch_size, 3, 224, 224), torch.zeros(settings.batch_size, dtype=torch.int64)

    model = context.place(_model(settings))
    if settings.optimizer == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters())
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return TrainingStep(context, model, optimizer, batch, torch.nn.functional.cross_entropy)


def _model(settings: PublishedSettings) -> Any:
    if settings.library == "timm":
        import timm

        return timm.create_model(settings.model)
    import torchvision

    return torchvision.models.get_model(settings.model, weights=None)


published_step = WorkloadSpec(
    name="published_step",
    settings=PublishedSettings,
    build=_build,
    preload=("torch._dynamo", "torchvision"),
    monotone=("batch_size",),
    unit="image",
)
