"""Operators whose inner memory is measured: those of the recogniser, at its shapes, precisions and layouts.

32 images of 224 x 224 through the first layers of a ResNet-18, its later stages, and what follows. They can be made on
torch's ``meta`` device as well, which is how the rule for each is known without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from slr_bench.live_bytes import tensors_in
from slr_bench.trace.fake.workspaces import workspace_of
from slr_bench.trace.requests import Workspace

aten = torch.ops.aten
_IMAGES: Final = 32
_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LAYOUTS: Final = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}

Make = Callable[..., torch.Tensor]
"""Makes a tensor of a shape on the device, in the precision and layout of the case unless ``dtype`` is given."""
Prepared = tuple[Any, Mapping[str, Any]]
"""The operator, and its arguments by their names in the schema."""

Prepare = Callable[[Make], Prepared]


@dataclass(frozen=True)
class OperatorCase:
    """One call of an operator."""

    name: str
    precision: str
    layout: str
    """Memory layout of the images; empty without images."""
    is_product: bool
    """If true, it goes through cuBLAS, whose workspace stays allocated."""
    prepare: Prepare

    @property
    def title(self) -> str:
        """The name of the case in messages."""
        return ", ".join(part for part in (self.name, self.precision, self.layout) if part)


def prepared(case: OperatorCase, device: torch.device) -> Prepared:
    """Return the operator and its inputs on ``device``."""

    def make(*shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        layout = _LAYOUTS[case.layout] if case.layout and len(shape) == 4 else torch.contiguous_format
        made = torch.empty(shape, dtype=dtype or _DTYPES[case.precision], device=device, memory_format=layout)
        return made.zero_()

    return case.prepare(make)


def rule_of(case: OperatorCase) -> Workspace:
    """Return the workspace that the rules (``trace.fake.workspaces``) give the case."""
    operator, arguments = prepared(case, torch.device("meta"))
    return workspace_of(operator, lambda: arguments, operator(**arguments))


def made_bytes(made: Any) -> int:
    """Return the bytes of an operator's results, each storage once, without those in host memory (random states)."""
    storages = [tensor.untyped_storage() for tensor in tensors_in(made) if tensor.device.type != "cpu"]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int, side: int
) -> dict[str, Callable[[Make], Prepared]]:
    padding = kernel // 2
    common = {
        "stride": [stride] * 2,
        "padding": [padding] * 2,
        "dilation": [1, 1],
        "transposed": False,
        "output_padding": [0, 0],
        "groups": 1,
    }

    def tensors(make: Make) -> dict[str, Any]:
        return {"input": make(_IMAGES, inputs, side, side), "weight": make(outputs, inputs, kernel, kernel)}

    def forward(make: Make) -> Prepared:
        return aten.convolution.default, {**tensors(make), "bias": None, **common}

    def backward(make: Make) -> Prepared:
        after = (side + 2 * padding - kernel) // stride + 1
        gradient = {"grad_output": make(_IMAGES, outputs, after, after), "bias_sizes": None}
        mask = {"output_mask": [inputs > 3, True, False]}  # nobody asks for the gradient of a picture
        return aten.convolution_backward.default, {**gradient, **tensors(make), **common, **mask}

    name = f"{inputs} to {outputs} channels, {kernel}x{kernel}, {side}x{side}"
    return {f"convolution, {name}": forward, f"convolution_backward, {name}": backward}


def _mm(make: Make) -> Prepared:
    return aten.mm.default, {"self": make(512, 512), "mat2": make(512, 512)}


def _addmm(make: Make) -> Prepared:
    return aten.addmm.default, {"self": make(1536), "mat1": make(512, 512), "mat2": make(512, 1536)}


def _bmm(make: Make) -> Prepared:
    return aten.bmm.default, {"self": make(64, 64, 64), "mat2": make(64, 64, 64)}


def _batch_norm(make: Make) -> Prepared:
    statistics = {name: make(64, dtype=torch.float32) for name in ("weight", "bias", "running_mean", "running_var")}
    rest = {"training": True, "momentum": 0.1, "eps": 1e-5}
    return aten.native_batch_norm.default, {"input": make(_IMAGES, 64, 56, 56), **statistics, **rest}


def _group_norm(make: Make) -> Prepared:
    sizes = {"N": _IMAGES, "C": 64, "HxW": 56 * 56, "group": 32, "eps": 1e-5}
    return aten.native_group_norm.default, {
        "input": make(_IMAGES, 64, 56, 56), "weight": make(64), "bias": make(64), **sizes
    }  # fmt: skip


def _layer_norm_backward(make: Make) -> Prepared:
    return aten.native_layer_norm_backward.default, {
        "grad_out": make(8, 256, 512), "input": make(8, 256, 512), "normalized_shape": [512],
        "mean": make(8, 256, 1, dtype=torch.float32), "rstd": make(8, 256, 1, dtype=torch.float32),
        "weight": make(512), "bias": make(512), "output_mask": [True, True, True],
    }  # fmt: skip


def _heads(make: Make) -> dict[str, torch.Tensor]:
    return {name: make(8, 8, 256, 64) for name in ("query", "key", "value")}


def _flash(make: Make) -> Prepared:
    return aten._scaled_dot_product_flash_attention.default, _heads(make)


def _flash_backward(make: Make) -> Prepared:
    heads = _heads(make)
    out, summed, sum_q, sum_k, max_q, max_k, seed, offset, _ = aten._scaled_dot_product_flash_attention.default(**heads)
    return aten._scaled_dot_product_flash_attention_backward.default, {
        "grad_out": torch.zeros_like(out), **heads, "out": out, "logsumexp": summed, "cum_seq_q": sum_q,
        "cum_seq_k": sum_k, "max_q": max_q, "max_k": max_k, "dropout_p": 0.0, "is_causal": False,
        "philox_seed": seed, "philox_offset": offset,
    }  # fmt: skip


def _efficient(make: Make) -> Prepared:
    return aten._scaled_dot_product_efficient_attention.default, {
        **_heads(make), "attn_bias": None, "compute_log_sumexp": True
    }  # fmt: skip


def _efficient_backward(make: Make) -> Prepared:
    operator, arguments = _efficient(make)
    out, summed, seed, offset = operator(**arguments)
    heads = {name: arguments[name] for name in ("query", "key", "value")}
    return aten._scaled_dot_product_efficient_attention_backward.default, {
        "grad_out_": torch.zeros_like(out), **heads, "attn_bias": None, "out": out, "logsumexp": summed,
        "philox_seed": seed, "philox_offset": offset, "dropout_p": 0.0,
        "grad_input_mask": [True, True, True, False],
    }  # fmt: skip


def _cases() -> Sequence[OperatorCase]:
    """Products first: the workspace that cuBLAS keeps is then theirs."""
    found = []
    for name, prepare in (("mm", _mm), ("addmm", _addmm), ("bmm", _bmm)):
        found += [OperatorCase(name, precision, "", True, prepare) for precision in _DTYPES]
    layers = [(3, 64, 7, 2, 224), (64, 64, 3, 1, 56), (64, 128, 1, 2, 56), (128, 128, 3, 1, 28), (256, 256, 3, 1, 14)]
    images = {"native_batch_norm": _batch_norm, "native_group_norm": _group_norm}
    for layer in [*layers, (512, 512, 3, 1, 7)]:
        images |= _convolution(*layer)
    for name, prepare in images.items():
        found += [OperatorCase(name, precision, layout, False, prepare) for precision in _DTYPES for layout in _LAYOUTS]
    plain = [("native_layer_norm_backward", precision, _layer_norm_backward) for precision in _DTYPES]
    plain += [("flash attention", precision, _flash) for precision in ("bf16", "fp16")]
    plain += [("flash attention, backward", precision, _flash_backward) for precision in ("bf16", "fp16")]
    plain += [("efficient attention", precision, _efficient) for precision in ("fp32", "bf16")]
    plain += [("efficient attention, backward", precision, _efficient_backward) for precision in ("fp32", "bf16")]
    return tuple(found + [OperatorCase(name, precision, "", False, prepare) for name, precision, prepare in plain])


CASES: Final = _cases()
