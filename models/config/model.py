"""Settings of the network, and what all sections of a configuration share. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Count = Annotated[int, Field(strict=True, ge=1)]
Amount = Annotated[int, Field(strict=True, ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Flag = Annotated[bool, Field(strict=True)]

_KEYS_OF_EVERY_NETWORK = {
    "num_classes", "network", "num_frames", "region_focus", "focus_size", "dropout", "weights",
    "weights_channel_order", "enable_feature_caching", "cache_size_limit_mb",
}  # fmt: skip

LEAST_FRAMES_OF_A_LONG_KERNEL = 8
"""A stride of 2 and a kernel of 7 on 5 to 7 frames: oneDNN writes past its buffers on AVX-512 (torch 2.14)."""


class Frozen(BaseModel):
    """Base of the sections: immutable, refuses unknown keys. The docstring of a field is its help text."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _taken_as_written(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse ``true`` where a number is expected, and an empty path, which would mean the working directory."""
        kinds = list(_kinds(cls.model_fields[info.field_name or ""].annotation))
        if isinstance(value, bool) and float in kinds:
            raise ValueError("Input should be a number, not true or false")
        if value == "" and Path in kinds:
            raise ValueError("an empty path names nothing; give a path, or use null for none")
        return value


def _kinds(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _kinds(part)


def refuse_pairs(key: str, reasons: Mapping[str, str | Literal[False]], cure: str = "") -> None:
    """Refuse ``key`` (with its value) beside the first other key that has a reason; False means that both may be set.

    Raises:
        ValueError: such a pair; ``cure`` ends the message.
    """
    for what, reason in reasons.items():
        if reason:
            raise ValueError(f"{key} cannot go with {what}: {reason}{cure}")


class ModelConfig(Frozen):
    """Settings of the network."""

    num_classes: Count = 100
    """Sign classes K. Must agree with the data directory's split file."""
    network: Literal["efficient", "i3d", "r3d_18", "s3d"] = "efficient"
    """``efficient`` is this project's recogniser; ``i3d`` the WLASL paper's; the others are torchvision's."""
    backbone: Literal["resnet18", "resnet34"] = "resnet18"
    """Residual network applied to every frame; at ``base_channels: 64`` its state dict is torchvision's."""
    base_channels: Annotated[int, Field(strict=True, ge=8, multiple_of=8)] = 64
    """Channels of the first stage; the last has eight times as many. A multiple of 8: the shift moves an eighth."""
    norm: Literal["batch", "group"] = "batch"
    """``group`` normalises each frame alone: micro-batches then give exactly the gradient of the whole batch."""
    causal: Flag = False
    """No frame depends on a later one or on its position in the clip. The network can then recognise an endless stream
    (``models/streaming.py``) and clips of any length."""
    num_frames: Count = 16
    """Frames T sampled uniformly from a clip."""
    frame_budget: Count | None = None
    """Frames of the T that the backbone sees: half of them spread evenly, half where the clip moves; null: all."""
    region_focus: Literal["none", "motion", "manifest"] = "none"
    """Resample the signing region to ``focus_size``: found by ``motion``, or the ``manifest``'s bbox, which the loader
    cuts out (where it does not apply: found by motion)."""
    focus_size: Annotated[int, Field(strict=True, ge=32)] | None = None
    """Height and width the backbone sees with ``region_focus``, pixels; null: those of the frame."""
    temporal_shift: Literal["none", "plain", "memory_efficient"] = "memory_efficient"
    """``memory_efficient`` computes the same as ``plain`` but keeps only the unshifted input for backward."""
    max_pool: Literal["plain", "memory_efficient"] = "memory_efficient"
    """Max pooling of the stem, with its ReLU. ``memory_efficient`` computes the same and keeps one byte per output."""
    stem: Literal["whole", "split"] = "whole"
    """``split`` computes the same as ``whole`` on a part of the frames at a time, so the largest tensors of the network
    never exist as a whole. Its convolution runs four times per step."""
    token_merging: Amount = 0
    """Pairs of alike neighbouring frames that are merged behind the backbone (r); 0: none."""
    attention: Literal["none", "dense", "chunked", "sparse", "auto"] = "chunked"
    """Attention over the frame features. ``dense`` holds the T x T scores, ``chunked`` one chunk of them, ``sparse``
    only those of a window and some global frames. ``auto`` counts the peak bytes of the exact kinds (torch's own,
    chunked, dense) for this device, type and length, takes the smallest, and reports its choice."""
    attention_heads: Count = 4
    """Heads of the temporal attention; must divide 8 x base_channels."""
    attention_chunk_size: Count = 8
    """Keys per chunk of ``attention: chunked``."""
    attention_window: Count = 4
    """Frames to each side that a frame attends to with ``sparse`` (with ``causal``: before it only)."""
    attention_global_frames: Amount = 1
    """First frames of a clip that attend to all and are attended to by all with ``sparse``; 0 with ``causal``."""
    pyramid_levels: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 4)
    """Temporal pyramid: each level averages that many equal spans of the clip."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    """Dropout before the classifier."""
    weights: Path | None = None
    """File with a torchvision ResNet state dict (ImageNet) for the backbone, or the state dict of another ``network``.
    If its classes differ, everything except the classifier is loaded, with a warning. Null starts from scratch."""
    weights_channel_order: Literal["auto", "rgb", "bgr"] = "auto"
    """Order of the colours that ``weights`` of another program were trained on. The network always takes RGB: the first
    layer of ``bgr`` weights is reversed when they are loaded. ``auto``: ``bgr`` for the I3D files of the WLASL authors,
    with a warning, otherwise ``rgb``."""
    freeze_backbone: Flag = False
    """Train only the layers after the backbone, which keeps its ``weights``. With ``data.augment: false``
    nothing before it is random, so the features of clips are kept in RAM instead of their frames."""
    enable_feature_caching: Flag = True
    """Keep decoded clips, or features of a frozen backbone, in RAM between epochs, up to ``cache_size_limit_mb``."""
    cache_size_limit_mb: Count = 1024
    """Limit of all caches of the process tree together, MiB."""

    @property
    def frames_seen(self) -> int:
        """Frames of a clip that reach the backbone."""
        return self.num_frames if self.frame_budget is None else self.frame_budget

    @model_validator(mode="after")
    def _other_networks_have_their_own_parts(self) -> ModelConfig:
        if self.network == "efficient":
            return self
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name not in _KEYS_OF_EVERY_NETWORK and name != "causal" and value != field.default:
                raise ValueError(
                    f"{name}={value} has no effect with network: {self.network}; leave it at {field.default} "
                    "or use network: efficient"
                )
        if self.network in ("i3d", "s3d") and self.num_frames < LEAST_FRAMES_OF_A_LONG_KERNEL:
            raise ValueError(
                f"num_frames={self.num_frames} is less than the {LEAST_FRAMES_OF_A_LONG_KERNEL} frames on which "
                f"network: {self.network} trains everywhere (oneDNN's gradient of its first kernel, 7 frames long, is "
                "wrong on fewer); use 8 or more, as 16"
            )
        return self

    @model_validator(mode="after")
    def _heads_divide_features(self) -> ModelConfig:
        if self.attention != "none" and (8 * self.base_channels) % self.attention_heads:
            raise ValueError(
                f"attention_heads={self.attention_heads} does not divide the {8 * self.base_channels} features; "
                "use 4 or 8"
            )
        return self

    @model_validator(mode="after")
    def _levels_differ(self) -> ModelConfig:
        levels = list(dict.fromkeys(self.pyramid_levels))
        if len(levels) < len(self.pyramid_levels):
            raise ValueError(
                f"pyramid_levels={list(self.pyramid_levels)} names a level twice, which adds nothing; use {levels}"
            )
        return self

    @model_validator(mode="after")
    def _frames_suffice(self) -> ModelConfig:
        if self.network != "efficient":
            return self
        if self.frames_seen > self.num_frames:
            raise ValueError(
                f"frame_budget={self.frame_budget} is above num_frames={self.num_frames}; "
                "use null to see all, or a smaller number"
            )
        spans, half = max(self.pyramid_levels), self.frames_seen // 2
        levels = f"pyramid_levels={list(self.pyramid_levels)}"
        frames = f"{'num_frames' if self.frame_budget is None else 'frame_budget'}={self.frames_seen}"
        if spans > self.frames_seen:
            largest = self.frames_seen - min(self.token_merging, half)
            raise ValueError(f"{levels} asks for more spans than {frames}; use levels up to {largest}")
        most = min(half, self.frames_seen - spans)
        if self.token_merging > most:
            raise ValueError(
                f"token_merging={self.token_merging} is too much for {frames}: a frame merges once, and {levels} needs "
                f"{spans} frames behind it; use at most {most}"
            )
        return self

    @model_validator(mode="after")
    def _focus_has_a_region(self) -> ModelConfig:
        if self.focus_size is not None and self.region_focus == "none":
            raise ValueError(
                f"focus_size={self.focus_size} has no effect with region_focus: none; "
                "use region_focus: motion, or make data.frame_size smaller"
            )
        return self

    @model_validator(mode="after")
    def _frozen_features_are_those_of_all_frames(self) -> ModelConfig:
        reasons = {
            f"frame_budget: {self.frame_budget}": self.frame_budget is not None and "features of all frames are kept",
            f"region_focus: {self.region_focus}": self.region_focus == "motion" and "it stands before the backbone",
            f"focus_size: {self.focus_size}": self.focus_size is not None and "it stands before the backbone",
        }
        if self.freeze_backbone:
            refuse_pairs("freeze_backbone: true", reasons, "; change one of them")
        return self

    @model_validator(mode="after")
    def _causal_sees_no_later_frame(self) -> ModelConfig:
        if not self.causal:
            return self
        reasons = {
            f"network: {self.network}": self.network != "efficient" and "its convolutions see later frames",
            f"frame_budget: {self.frame_budget}": self.frame_budget is not None and "it looks at the whole clip",
            f"region_focus: {self.region_focus}": self.region_focus != "none" and "it looks at the whole clip",
            f"token_merging: {self.token_merging}": self.token_merging > 0 and "it compares all frames",
            f"attention: {self.attention}": self.attention not in ("none", "sparse") and "it sees all frames",
            f"attention_global_frames: {self.attention_global_frames}": (
                self.attention == "sparse" and self.attention_global_frames > 0 and "they attend to later frames"
            ),
        }
        cure = "attention: sparse with attention_global_frames: 0, no focus, no frame budget and no merging"
        refuse_pairs("causal: true", reasons, f"; use {cure}")
        return self
