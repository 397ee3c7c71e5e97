"""The trainer's keys. Imports no torch."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from models.config.base import Count, Flag, Fraction, Frozen, refuse_pairs

Threshold = Annotated[float, Field(gt=0.0, le=1.0)]
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
RECOMPUTE = r"^(none|stage|block|lowest|budget:[1-9]\d*)$"


class TrainingConfig(Frozen):
    """Settings of the optimizer step and of the training loop."""

    batch_size: Count = 8
    """Clips per micro-batch."""
    gradient_accumulation_steps: Count = 4
    """Micro-batches per optimizer step; effective batch = batch_size x this."""
    dynamic_batch_size: Flag = False
    """Halve the micro-batch when memory runs out, and grow it again up to ``batch_size``. The effective batch stays."""
    mixed_precision: Flag = True
    """With ``precision: auto``: true means bf16, false fp32. After loading it is true exactly
    if the precision has 16 bits."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """Compute type. ``auto`` follows ``mixed_precision`` (bf16 where neither is written); a type named here overrides
    it. ``tf32`` rounds the factors of fp32 products on GPUs that can, and is fp32 elsewhere."""
    recompute: Annotated[str, Field(pattern=RECOMPUTE)] = "block"
    """Activations that the backward pass computes again instead of keeping: none (``none``), those of backbone stages
    (``stage``), or those of residual blocks (``block``). ``budget:256`` takes the cheapest choice of stem and blocks
    that keeps the memory of the backbone in a micro-batch within 256 MiB, parameter gradients excluded. ``lowest``
    takes the choice with the least memory."""
    activation_offload: Flag = False
    """Keep what backward needs in host memory instead of the GPU's; without effect on a CPU."""
    channels_last: Flag = False
    """Convolutions in the NHWC memory format: often faster, sometimes without layout copies."""
    optimizer: Literal["adamw", "adamw_8bit", "sgd"] = "adamw"
    """``adamw_8bit`` keeps its state in 8 bits (``pip install torchao``); ``sgd`` has momentum 0.9."""
    optimizer_in_backward: Flag = False
    """Update each parameter as soon as its gradient is there and free it: gradients never exist all at once."""
    learning_rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1e-3
    """Peak of the one-cycle schedule."""
    weight_decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.02
    """Decoupled (AdamW) or L2 (SGD); not on biases and norms."""
    epochs: Count = 30
    """Passes over the training split."""
    warmup_fraction: Fraction = 0.1
    """Fraction of the steps during which the learning rate rises."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Probability mass spread over the other classes."""
    gradient_clip_norm: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = 5.0
    """Global L2 norm the gradient is clipped to; null: not clipped."""
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0
    """Seed of initialisation, shuffling and augmentation."""
    enable_memory_tracking: Flag = True
    """Show and check GPU and RAM use while training."""
    memory_warning_threshold: Threshold = 0.9
    """Fraction of the RAM limit at which the trainer drops the clip cache, then prefetching, then loader processes."""
    memory_critical_threshold: Threshold = 0.95
    """Fraction of the device's memory limit at which the trainer halves the micro-batch. The effective batch stays."""

    @model_validator(mode="before")
    @classmethod
    def _resolve_precision(cls, values: Any) -> Any:
        """Replace ``auto`` by the type it stands for, so that equal settings have equal ids."""
        if not isinstance(values, dict):
            return values
        mixed = values.get("mixed_precision", True)
        precision = values.get("precision", "auto")
        if precision == "auto" and isinstance(mixed, bool):
            precision = "bf16" if mixed else "fp32"
        if precision in PRECISIONS:
            mixed = precision in ("bf16", "fp16")
        return values | {"precision": precision, "mixed_precision": mixed}

    @field_validator("recompute", mode="before")
    @classmethod
    def _known_recomputation(cls, value: Any) -> Any:
        if isinstance(value, str) and not re.match(RECOMPUTE, value):
            raise ValueError("use none, stage, block, lowest, or budget:N with N MiB above 0, as budget:256")
        return value

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> TrainingConfig:
        if self.memory_warning_threshold > self.memory_critical_threshold:
            raise ValueError(
                f"memory_warning_threshold={self.memory_warning_threshold} is above "
                f"memory_critical_threshold={self.memory_critical_threshold}; warn first, e.g. 0.9 and 0.95"
            )
        return self

    @model_validator(mode="after")
    def _optimizer_in_backward_sees_whole_gradients(self) -> TrainingConfig:
        if not self.optimizer_in_backward:
            return self
        reasons = {
            f"gradient_accumulation_steps: {self.gradient_accumulation_steps}": (
                self.gradient_accumulation_steps > 1
                and "the first micro-batch would already move the weights; use gradient_accumulation_steps: 1"
            ),
            "dynamic_batch_size: true": self.dynamic_batch_size and "it changes the accumulation; use false",
            f"gradient_clip_norm: {self.gradient_clip_norm}": (
                self.gradient_clip_norm is not None and "the global norm is known only after backward; use null"
            ),
            "precision: fp16": self.precision == "fp16" and "an overflow is known only after backward; use bf16",
        }
        refuse_pairs("optimizer_in_backward: true", reasons)
        return self

    @property
    def effective_batch(self) -> int:
        """Clips per optimizer step."""
        return self.batch_size * self.gradient_accumulation_steps
