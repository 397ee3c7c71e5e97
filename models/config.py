"""Every knob of one training run, frozen and checked at birth. Imports no torch: a typo is told at once.

Keys keep the names of the reference configuration (``configs/efficient_training.yml``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slr_bench.errors import ConfigError, checked, read_yaml

Count = Annotated[int, Field(strict=True, ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Flag = Annotated[bool, Field(strict=True)]


class Frozen(BaseModel):
    """Immutable; unknown keys are refused; each field's docstring is its help text and the schema's description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelConfig(Frozen):
    """The network. Two arms of a comparison differ only here and in the other sections' values."""

    num_classes: Count = 100
    """Sign classes K. Must agree with the data directory's split file."""
    backbone: Literal["resnet18", "resnet34"] = "resnet18"
    """Residual network applied to every frame; at ``base_channels: 64`` its state dict is torchvision's."""
    base_channels: Annotated[int, Field(strict=True, ge=8, multiple_of=8)] = 64
    """Channels of the first stage; the last has eight times as many. A multiple of 8: the shift moves an eighth."""
    num_frames: Count = 16
    """Frames T sampled uniformly from a clip."""
    temporal_shift: Literal["none", "plain", "memory_efficient"] = "memory_efficient"
    """``memory_efficient`` computes the same as ``plain`` but keeps only the unshifted input for backward."""
    attention: Literal["none", "dense", "chunked"] = "chunked"
    """Attention over the T frame features. ``dense`` holds the T x T scores, ``chunked`` one chunk of them."""
    attention_heads: Count = 4
    """Heads of the temporal attention; must divide 8 x base_channels."""
    attention_chunk_size: Count = 8
    """Keys a chunk of ``attention: chunked``."""
    pyramid_levels: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 4)
    """Temporal pyramid: each level averages that many equal spans of the clip."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    """Dropout before the classifier."""
    weights: Path | None = None
    """File with a torchvision ResNet state dict (ImageNet) for the backbone; null starts from scratch."""
    enable_feature_caching: Flag = True
    """Keep decoded clips in RAM between epochs, up to ``cache_size_limit_mb``."""
    cache_size_limit_mb: Count = 1024
    """Limit of all caches of the process tree together, MiB."""

    @model_validator(mode="after")
    def _heads_divide_features(self) -> ModelConfig:
        if self.attention != "none" and (8 * self.base_channels) % self.attention_heads:
            raise ValueError(
                f"attention_heads={self.attention_heads} does not divide the {8 * self.base_channels} features; "
                "use 4 or 8"
            )
        if max(self.pyramid_levels) > self.num_frames:
            raise ValueError(
                f"pyramid_levels={list(self.pyramid_levels)} asks for more spans than num_frames={self.num_frames}; "
                "use smaller levels"
            )
        return self


class DataConfig(Frozen):
    """Where clips come from and how many frames may be in memory on the way."""

    dir: Path | None = None
    """Data directory in WLASL layout: annotation list, nslt_N.json, class list, videos/."""
    frame_size: Annotated[int, Field(strict=True, ge=32)] = 224
    """Height and width of the frames the network sees, pixels."""
    chunk_size: Count = 32
    """Frames converted to RGB and resized at a time by the reader."""
    max_frames_in_memory: Count | None = 256
    """Frames the loader may own at once, from decoder to prefetched batch, workers included; null: no limit."""
    num_workers: Annotated[int, Field(strict=True, ge=0)] = 2
    """Loader processes; 0 decodes in the training process."""
    prefetch_batches: Count = 2
    """Batches a loader process prepares ahead."""
    augment: Flag = True
    """Random crop, time jitter and colour jitter on the training split. Never mirrors: it changes the sign."""


class TrainingConfig(Frozen):
    """The step, and the loop around it."""

    batch_size: Count = 8
    """Clips a micro-batch."""
    gradient_accumulation_steps: Count = 4
    """Micro-batches an optimizer step; effective batch = batch_size x this."""
    mixed_precision: Flag = True
    """With ``precision: auto``: true means bf16, false fp32. After loading it says whether precision is below fp32."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "bf16"
    """Compute type of autocast. ``auto`` follows ``mixed_precision``; a type named here overrides it."""
    recompute: Literal["none", "stage", "block"] = "block"
    """What backward computes again instead of keeping: nothing, backbone stages, or residual blocks."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """``sgd`` has momentum 0.9."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    """Peak of the one-cycle schedule."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.02
    """Decoupled (AdamW) or L2 (SGD); not on biases and norms."""
    epochs: Count = 30
    """Passes over the training split."""
    warmup_fraction: Fraction = 0.1
    """Part of the steps that the learning rate rises."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Probability mass spread over the other classes."""
    gradient_clip_norm: Annotated[float, Field(gt=0.0)] | None = 5.0
    """Global L2 norm the gradient is clipped to; null: not clipped."""
    seed: Annotated[int, Field(strict=True, ge=0)] = 0
    """Seed of initialisation, shuffling and augmentation."""
    enable_memory_tracking: Flag = True
    """Show and check GPU and RAM use while training."""
    memory_warning_threshold: Fraction = 0.9
    """Part of the memory limit at which the trainer warns."""
    memory_critical_threshold: Fraction = 0.95
    """Part of the memory limit at which the trainer says what to change before it is too late."""

    @model_validator(mode="before")
    @classmethod
    def _resolve_precision(cls, values: Any) -> Any:
        """One setting, one spelling: ``auto`` becomes the type it stands for, so equal settings have equal ids."""
        if not isinstance(values, dict):
            return values
        mixed = values.get("mixed_precision", True)
        precision = values.get("precision", "auto")
        if precision == "auto" and isinstance(mixed, bool):
            precision = "bf16" if mixed else "fp32"
        if precision in ("fp32", "bf16", "fp16"):
            mixed = precision != "fp32"
        return values | {"precision": precision, "mixed_precision": mixed}

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> TrainingConfig:
        if self.memory_warning_threshold > self.memory_critical_threshold:
            raise ValueError(
                f"memory_warning_threshold={self.memory_warning_threshold} is above "
                f"memory_critical_threshold={self.memory_critical_threshold}; warn first, e.g. 0.9 and 0.95"
            )
        return self

    @property
    def effective_batch(self) -> int:
        """Clips the optimizer sees a step."""
        return self.batch_size * self.gradient_accumulation_steps


class Settings(Frozen):
    """One whole setting: model, data and training."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _batch_fits_frame_budget(self) -> Settings:
        limit = self.data.max_frames_in_memory
        frames = self.training.batch_size * self.model.num_frames
        if limit is not None and frames > limit:
            raise ValueError(
                f"a batch of {self.training.batch_size} clips x {self.model.num_frames} frames = {frames} frames "
                f"is above data.max_frames_in_memory={limit}; use training.batch_size: "
                f"{max(1, limit // self.model.num_frames)} with more training.gradient_accumulation_steps, "
                "or raise the limit"
            )
        return self


def load_settings(path: Path, overrides: dict[str, Any] | None = None) -> Settings:
    """Read a training file. ``overrides`` are dotted keys (``{"model.num_classes": 20}``) laid over it.

    Raises:
        ConfigError: unreadable file, unknown key, wrong type or impossible value.
    """
    values = read_yaml(path)
    for key, value in (overrides or {}).items():
        *sections, name = key.split(".")
        node: Any = values
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{key}: {section!r} is {node!r}, not a section of keys; remove it from {path}")
        node[name] = value
    return checked(Settings, values, str(path))
