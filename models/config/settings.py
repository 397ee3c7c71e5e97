"""Settings of the data and of the training, the whole setting, and reading it from YAML. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from models.config.model import Amount, Count, Flag, Fraction, Frozen, ModelConfig, refuse_pairs
from slr_bench.errors import ConfigError
from slr_bench.files import nest
from slr_bench.grid.yaml_files import read_yaml, validate
from slr_bench.units import format_count

KEYS_OF_A_GRID = {"workload", "base", "arms", "axes", "exclude", "techniques", "set", "also"}
"""A file with one of these keys and no section is a grid file, not a training file."""

Threshold = Annotated[float, Field(gt=0.0, le=1.0)]
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
RECOMPUTE = r"^(none|stage|block|lowest|budget:[1-9]\d*)$"


def working_size(frame_size: int) -> int:
    """Return the side of the square that crops of ``frame_size`` are cut from, as 256 is to 224."""
    return round(frame_size * 8 / 7)


class DataConfig(Frozen):
    """Settings of the loader: the source of clips, and how many frames may be in memory."""

    dir: Path | None = None
    """Data directory: class folders in splits, a table of clips, or the layout of WLASL. See docs/your_videos.md."""
    frame_size: Annotated[int, Field(strict=True, ge=32, le=4096)] = 224
    """Height and width of the frames the loader yields, pixels."""
    chunk_size: Count = 32
    """Frames that the reader converts to RGB and resizes together."""
    max_frames_in_memory: Count | None = 256
    """Frames the loader may own at once, from decoder to prefetched batch, workers included; null: no limit."""
    num_workers: Amount = 2
    """Loader processes; 0 decodes in the training process."""
    prefetch_batches: Count = 2
    """Batches that each loader process prepares ahead."""
    augment: Flag = True
    """Random crop, time jitter and colour jitter on the training split. Never mirrors: mirroring changes the sign."""
    time_crop: Annotated[float, Field(ge=0.0, le=0.4)] = 0.0
    """Largest part of a training clip that is cut off at random at its beginning, and again at its end. It varies the
    speed and the onset."""
    rotation_degrees: Annotated[float, Field(ge=0.0, le=45.0)] = 0.0
    """Training clips are rotated at random by up to this angle, either way."""
    channel_shuffle: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Probability that the red, green and blue of a training clip are exchanged at random; for data where colours
    carry no meaning."""

    @property
    def working_size(self) -> int:
        """Side of the square that crops are cut from, in pixels."""
        return working_size(self.frame_size)

    @property
    def frames_per_segment(self) -> int:
        """Frames of each of the T segments of a clip that time jitter picks from.

        They are few, so that a cached clip serves every epoch. A random part of the clip, slower than the whole, needs
        frames that lie closer together.
        """
        return 4 if self.time_crop else 2


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
    """Fraction of the RAM limit at which the trainer drops the clip cache, then prefetching, then loader processes.
    This and ``memory_critical_threshold`` act only if this training holds most of the memory in use."""
    memory_critical_threshold: Threshold = 0.95
    """Fraction of the device's memory limit at which the trainer halves the micro-batch, if ``dynamic_batch_size`` is
    true. The effective batch stays."""

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


class Settings(Frozen):
    """One whole setting: model, data and training."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)

    @property
    def keeps_features(self) -> bool:
        """Features of a frozen backbone are cached in place of decoded clips: nothing before it is random."""
        return self.model.freeze_backbone and self.model.enable_feature_caching and not self.data.augment

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame that the loader yields: uint8 RGB."""
        return 3 * self.data.frame_size**2

    @property
    def cached_clip_bytes(self) -> int:
        """Bytes of a training clip in the cache: all frames that time jitter picks from, wider than the crop."""
        per_place = self.data.frames_per_segment if self.data.augment else 1
        return per_place * self.model.num_frames * 3 * self.data.working_size**2

    @model_validator(mode="after")
    def _batch_fits_frame_budget(self) -> Settings:
        limit = self.data.max_frames_in_memory
        frames = self.training.batch_size * self.model.num_frames
        if limit is not None and frames > limit:
            clips = format_count(self.training.batch_size, "clip")
            cure = f"set the limit to {frames} or more (null: none)"
            if fitting := limit // self.model.num_frames:
                cure = f"use training.batch_size: {fitting} with more training.gradient_accumulation_steps, or {cure}"
            else:
                cure += ", or use fewer model.num_frames: one clip alone is above it"
            raise ValueError(
                f"a batch of {clips} x {self.model.num_frames} frames = {frames} frames "
                f"is above data.max_frames_in_memory={limit}; {cure}"
            )
        return self

    @model_validator(mode="after")
    def _training_fits_the_network(self) -> Settings:
        network, training = self.model.network, self.training
        if network == "efficient":
            return self
        reasons = {
            f"training.recompute: {training.recompute}": (
                training.recompute not in ("none", "stage", "block")
                and "its layers are not chosen one by one; use stage or block"
            ),
            "training.channels_last: true": training.channels_last and "NHWC is for 2-D convolutions; use false",
        }
        refuse_pairs(f"model.network: {network}", reasons)
        return self

    @model_validator(mode="after")
    def _focus_is_no_enlargement(self) -> Settings:
        if self.model.focus_size is not None and self.model.focus_size > self.data.frame_size:
            raise ValueError(
                f"model.focus_size={self.model.focus_size} is above data.frame_size={self.data.frame_size}: "
                "the backbone would see more pixels, not fewer; use at most the frame size"
            )
        return self


def load_settings(path: Path, overrides: dict[str, Any] | None = None) -> Settings:
    """Read a training file. ``overrides`` are dotted keys (``{"model.num_classes": 20}``) laid over it.

    Raises:
        ConfigError: unreadable file, a grid file, unknown key, wrong type or impossible value.
    """
    values = read_yaml(path)
    found = sorted(KEYS_OF_A_GRID & values.keys())
    if found and not Settings.model_fields.keys() & values.keys():
        raise ConfigError(
            f"{path} is a grid file (it has {', '.join(found)}), which is measured, not trained: "
            f"use slr-bench run {path}, or a training file, as configs/efficient_training.yml"
        )
    return settings_of(values, overrides or {}, str(path))


def settings_of(values: dict[str, Any], overrides: dict[str, Any], where: str) -> Settings:
    """``values`` by section with ``overrides`` of the command line laid over them; messages say which is wrong.

    ``where`` is the place that the values are from.

    Raises:
        ConfigError: unknown key, wrong type or impossible value.
    """
    return validate(Settings, nest(overrides, base=values), where, overrides)
