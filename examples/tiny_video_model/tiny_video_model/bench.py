"""One training step of TinyVideoNet, as a workload of slr-bench."""

from pydantic import BaseModel, ConfigDict

from slr_bench.grid.training_step import TrainingStep
from slr_bench.grid.workload import BuildContext, WorkloadSpec


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    batch_size: int = 8
    """Clips per micro-batch."""
    micro_batches: int = 1
    """Micro-batches per step; the effective batch is batch_size x this."""
    recompute: bool = False
    """Compute activations again in backward instead of keeping them."""


def build(settings: Settings, context: BuildContext) -> TrainingStep:
    import torch  # here, not above: slr-bench reads this module to know the settings, before it needs torch

    from tiny_video_model.network import TinyVideoNet

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.rand(settings.batch_size, 3, 8, 32, 32), torch.zeros(settings.batch_size, dtype=torch.int64)

    model = context.place(TinyVideoNet(recompute=settings.recompute))
    optimizer = torch.optim.AdamW(model.parameters())
    return TrainingStep(context, model, optimizer, batch, torch.nn.functional.cross_entropy, settings.micro_batches)


tiny_video = WorkloadSpec(name="tiny_video", settings=Settings, build=build, monotone=("batch_size",), unit="clip")
