"""Small steps of many architectures, real or fake: what a claim about traced bytes is checked on.

Every network is the real architecture at the cheapest input it takes; weights are random. A step comes as
``build(case)``: the same interface as a workload (``step()``, ``tensors()``), on the CPU.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from slr_bench.trace.fake.tensors import swap_for_fake

# B clip, T frame, C channel, H height, W width, D feature, K class

CLASSES = 5


@dataclass(frozen=True)
class Case:
    """One step. For inference ``recompute`` is False and the optimizer's fields are ``"none"``."""

    model: str
    training: bool
    precision: str
    """``fp32``, ``bf16`` (autocast without its cache of cast weights, as the trainer runs), ``bf16-cached``."""
    recompute: bool
    """Every natural block is checkpointed (``use_reentrant=False``)."""
    optimizer: str
    """``sgd`` (momentum), ``adamw``."""
    implementation: str
    """``foreach``, ``fused``, ``for-loop``."""

    def __str__(self) -> str:
        parts = [self.model, "training" if self.training else "inference", self.precision]
        if self.training:
            parts += ["recompute"] * self.recompute + [self.optimizer, self.implementation]
        return "-".join(parts)


class Recurrent(nn.Module):
    """Two bidirectional layers with dropout between them, and a classifier of the last time step."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(24, 32, num_layers=2, batch_first=True, bidirectional=True, dropout=0.2)  # type: ignore[call-arg]
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x_BTD)[0][:, -1])


class Encoder(nn.Module):
    """``nn.TransformerEncoder`` with a classifier; in inference its layers take torch's fast path."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x_BTD).mean(1))


class DepthwiseBlock(nn.Module):
    """Group norm, depthwise and grouped pointwise convolution, residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, channels)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pointwise = nn.Conv2d(channels, channels, 1, groups=2)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW + self.pointwise(functional.silu(self.depthwise(self.norm(x_BCHW))))


def _group_norm_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        DepthwiseBlock(16),
        nn.MaxPool2d(2),
        DepthwiseBlock(16),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Dropout2d(0.1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


def _s3d() -> nn.Module:
    model = torchvision.models.video.s3d(num_classes=CLASSES)
    model.avgpool = nn.AvgPool3d((2, 1, 1), stride=1)  # its own window, (2, 7, 7), would need 193 x 193 pixels
    return model


def _mvit_v2_s() -> nn.Module:
    # Coarser patches: the smallest image it takes is fixed at 224 x 224, so fewer tokens come only from here.
    return torchvision.models.video.mvit_v2_s(num_classes=CLASSES, patch_embed_stride=(16, 28, 28))


_NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]] = {
    # name: (factory, shape of the input, class names of the blocks that are recomputed)
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=CLASSES), (2, 3, 16, 16), ("BasicBlock",)),
    "r3d_18": (lambda: torchvision.models.video.r3d_18(num_classes=CLASSES), (2, 3, 2, 16, 16), ("BasicBlock",)),
    "s3d": (_s3d, (2, 3, 14, 32, 32), ("SepInceptionBlock3D",)),
    "mvit_v2_s": (_mvit_v2_s, (1, 3, 16, 224, 224), ("MultiscaleBlock",)),
    "swin3d_t": (
        lambda: torchvision.models.video.swin3d_t(num_classes=CLASSES),
        (1, 3, 4, 32, 32),
        ("SwinTransformerBlock",),
    ),
    "transformer_encoder": (Encoder, (2, 12, 32), ("TransformerEncoderLayer",)),
    "lstm": (lambda: Recurrent(nn.LSTM), (2, 6, 24), ("LSTM",)),
    "gru": (lambda: Recurrent(nn.GRU), (2, 6, 24), ("GRU",)),
    "group_norm_net": (_group_norm_net, (2, 3, 32, 32), ("DepthwiseBlock",)),
}
MODELS = tuple(_NETWORKS)
PRECISIONS = ("fp32", "bf16", "bf16-cached")

_INFERENCE = tuple(
    Case(model, False, precision, False, "none", "none") for model, precision in itertools.product(MODELS, PRECISIONS)
)
CASES = _INFERENCE + tuple(
    Case(model, True, precision, recompute, optimizer, implementation)
    for model, precision, recompute, optimizer, implementation in itertools.product(
        MODELS, PRECISIONS, (False, True), ("sgd", "adamw"), ("foreach", "fused", "for-loop")
    )
)
"""Every combination."""


_HEAVY = ("r3d_18", "s3d", "mvit_v2_s", "swin3d_t")


def _quick() -> tuple[Case, ...]:
    """Each model in bf16, the light ones in fp32, too; recomputation and the optimizers in turn; some inference."""
    turns = itertools.cycle(itertools.product((False, True), ("sgd", "adamw"), ("foreach", "fused", "for-loop")))
    training = [
        Case(model, True, precision, *turn)
        for (model, precision), turn in zip(itertools.product(MODELS, ("bf16", "fp32")), turns, strict=False)
        if precision == "bf16" or model not in _HEAVY
    ]
    return (*training, *(case for case in _INFERENCE if case.precision == "bf16" and case.model not in _HEAVY))


QUICK = _quick()
"""A part of ``CASES`` for every day."""


def quick(*heavy: str) -> tuple[Case, ...]:
    """Return the light networks of ``QUICK`` and these heavy ones. Each heavy one runs daily in one of the suites."""
    return tuple(case for case in QUICK if case.model not in _HEAVY or case.model in heavy)


@functools.cache
def _built(model: str) -> nn.Module:
    torch.manual_seed(0)
    return _NETWORKS[model][0]()


def _recompute_blocks(model: nn.Module, class_names: tuple[str, ...]) -> None:
    for module in model.modules():
        if type(module).__name__ in class_names:
            module.forward = functools.partial(checkpoint, module.forward, use_reentrant=False)  # type: ignore[method-assign]


def _optimizer(case: Case, model: nn.Module) -> torch.optim.Optimizer:
    how: dict[str, Any] = {
        "foreach": case.implementation == "foreach",
        "fused": case.implementation == "fused",
        "lr": 1e-4,
    }
    if case.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=0.9, **how)
    return torch.optim.AdamW(model.parameters(), **how)


class Step:
    """A step that can be repeated; ``phase`` is a tracer's, to name its parts."""

    def __init__(self, case: Case, mode: FakeTensorMode | None) -> None:
        _, shape, blocks = _NETWORKS[case.model]
        self.case = case
        self.model = copy.deepcopy(_built(case.model)).train(case.training)
        if mode:
            swap_for_fake(self.model, mode)
        if case.recompute:
            _recompute_blocks(self.model, blocks)
        self.optimizer = _optimizer(case, self.model) if case.training else None
        with mode or contextlib.nullcontext():
            self.x = torch.zeros(shape)
            self.labels_B = torch.zeros(shape[0], dtype=torch.int64)
        self.phase: Callable[[str], contextlib.AbstractContextManager[None]] = lambda name: contextlib.nullcontext()

    def warm_up(self) -> None:
        """Bring the optimizer's state into being, as the first step does, without the cost of one."""
        if self.optimizer is not None:
            for parameter in self.model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def _logits(self) -> torch.Tensor:
        dtype = None if self.case.precision == "fp32" else torch.bfloat16
        cached = self.case.precision == "bf16-cached"
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None, cache_enabled=cached), self.phase("forward"):
            return self.model(self.x)

    def step(self) -> None:
        """One step; nothing of it stays alive but the state."""
        if self.optimizer is None:
            with torch.no_grad():
                self._logits()
            return
        loss = functional.cross_entropy(self._logits().float(), self.labels_B)
        with self.phase("backward"):
            loss.backward()
        del loss
        with self.phase("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()

    def tensors(self) -> dict[str, list[torch.Tensor]]:
        """State between steps by category."""
        entries = self.optimizer.state.values() if self.optimizer else []
        return {
            "parameter": list(self.model.parameters()),
            "buffer": list(self.model.buffers()),
            "optimizer state": [value for entry in entries for value in entry.values() if torch.is_tensor(value)],
            "input": [self.x, self.labels_B],
        }


def build(case: Case, mode: FakeTensorMode | None = None) -> Step:
    """The step of a case on real tensors or, built for real and swapped, on those of ``mode``."""
    return Step(case, mode)


def is_runnable(case: Case) -> bool:
    """Return whether oneDNN has the case's layers. A bf16 LSTM needs a processor with the instructions."""
    if case.model != "lstm" or case.precision == "fp32":
        return True
    try:
        work = build(case)
        work.warm_up()
        work.step()
    except RuntimeError as error:
        return "primitive" not in str(error)
    return True
