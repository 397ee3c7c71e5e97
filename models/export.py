"""Export a trained network: ``python -m models.export --checkpoint O/checkpoint.pt --to model.onnx``, or ``model.pt2``.

The file takes clips as the loader yields them and returns logits. It carries the description of both.

B clip, T frame, C channel, H height, W width, K sign class
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from models.command import OneLineParser, add_checkpoint_options, add_classes_option, class_names, run_command
from models.config import ModelConfig, Settings, working_size
from slr_bench.errors import ConfigError, UnsupportedSettingError
from slr_bench.files import parse_overrides, write_atomically
from slr_bench.units import format_bytes, plain

if TYPE_CHECKING:  # torch takes seconds to import: mistakes in the options are reported before
    import torch
    from torch import Tensor, nn

    from models.layers.temporal import ShiftedConv2d

ONNX, PT2 = ".onnx", ".pt2"
DESCRIPTION_NAME = "description.json"
"""Name of the description among the extra files of a ``.pt2``."""
INPUT, OUTPUT = "clips", "logits"
SAME = 1e-2
"""Largest difference of logits between the network and its export, as a fraction of the largest logit (at least 1).

Rounding in fp32 gives 1e-6. With region focus pixels between two of their 256 levels may round the other way: up to
1.3e-4 on a small network. A wrong program differs far more than the limit.
"""
_ZEROS_BEFORE, _ZEROS_AFTER = (0,) * 6 + (1, 0), (0,) * 6 + (0, 1)
"""A frame of zeros before or after the frames of (B, T, C, H, W), for ``F.pad``."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code. Errors that the user can mend print one line on stderr."""
    return run_command(lambda: _run(_parser().parse_args(arguments)), "nothing was written")


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m models.export",
        description="Write a trained network as a file for ONNX Runtime (.onnx) or torch.export.load (.pt2).",
    )
    add_checkpoint_options(parser)
    parser.add_argument("--to", type=Path, required=True, metavar="F", help=f"file to write, *{ONNX} or *{PT2}")
    add_classes_option(parser)
    return parser


def _run(options: argparse.Namespace) -> None:
    path: Path = options.to
    if path.suffix not in (ONNX, PT2):
        raise ConfigError(f"--to {path}: the name must end in {ONNX} or {PT2}")
    if not path.parent.is_dir():
        raise ConfigError(f"--to {path}: the directory {path.parent} does not exist; make it, or choose another")
    if path.suffix == ONNX:
        _require_onnx()
    from models.networks.trained import load_recogniser

    model, settings, trained = load_recogniser(options.checkpoint, options.config, parse_overrides(options.set))
    names = class_names(trained, options.classes, settings.data.dir)
    description = describe(settings, model, names)
    console = Console(stderr=True)
    with console.status("exporting, which takes up to a minute"), _silent():
        content, difference = exported(model.eval(), settings, path.suffix, description)
    write_atomically(path, content)
    print(
        f"wrote {path} ({format_bytes(len(content))}): {settings.model.num_classes} classes, any number of clips of "
        f"{settings.model.num_frames} frames; largest difference from the network's logits: {difference:.1g}"
    )


def _require_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{ONNX} files need {', '.join(missing)}, not installed here; pip install {' '.join(missing)}, "
            f"or write a {PT2} file"
        )


def plain_twin(model: nn.Module, config: ModelConfig) -> nn.Module:
    """Return a network with the weights of ``model`` that computes the same with operators of torch alone.

    The memory-efficient forms divide their work by the number of clips, which an exported program does not know. The
    shift joins its parts: written into a tensor of zeros, ONNX has three times the nodes and is 1.4 times slower.
    """
    from models.layers.temporal import ShiftedConv2d
    from models.networks.efficient import build_recogniser

    changes: dict[str, Any] = {"weights": None, "freeze_backbone": False}
    if config.network == "efficient":
        changes |= {"max_pool": "plain", "stem": "whole"}
        changes |= {"temporal_shift": "plain"} if config.temporal_shift != "none" else {}
        changes |= {"attention": "dense"} if config.attention in ("chunked", "auto") else {}
    twin = build_recogniser(config.model_copy(update=changes))
    twin.load_state_dict(model.state_dict())
    for conv in twin.modules():
        if isinstance(conv, ShiftedConv2d) and conv.kind != "none":
            conv.kind = "none"
            conv.register_forward_pre_hook(_shifted)
    return twin.eval()


def _shifted(conv: ShiftedConv2d, inputs: tuple[Tensor]) -> Tensor:
    """Return the shifted frames that ``conv`` reads, as ``shift_frames`` does; see there for the directions."""
    import torch
    from torch.nn import functional as F

    from models.layers.temporal import SHARE_SHIFTED_EACH_WAY

    x_BTCHW = inputs[0].unflatten(0, (-1, conv.num_frames))
    fold = x_BTCHW.shape[2] // SHARE_SHIFTED_EACH_WAY
    first, second = x_BTCHW[:, :, :fold], x_BTCHW[:, :, fold : 2 * fold]
    if conv.causal:
        parts = [F.pad(first[:, :-1], _ZEROS_BEFORE), x_BTCHW[:, :, fold:]]
    else:
        parts = [F.pad(first[:, 1:], _ZEROS_AFTER), F.pad(second[:, :-1], _ZEROS_BEFORE), x_BTCHW[:, :, 2 * fold :]]
    return torch.cat(parts, 2).flatten(0, 1)


def describe(settings: Settings, network: nn.Module, names: Mapping[int, str]) -> dict[str, Any]:
    """Return what a program needs to know to use the file: its input and how to make it, its output, and the words."""
    model, side, size = settings.model, working_size(settings.data.frame_size), settings.data.frame_size
    buffers = dict(network.named_buffers())
    mean, std = (
        next(value.flatten().tolist() for name, value in buffers.items() if name.rpartition(".")[2].startswith(prefix))
        for prefix in ("mean_C", "std_C")
    )
    square = "the middle square"
    if model.region_focus == "manifest":
        square = "the square around the signer's box, or the middle square if the box is unknown"
    return {
        "format": "slr-recogniser",
        "version": 1,
        "network": model.network,
        "input": {
            "name": INPUT,
            "layout": "BTCHW",
            "type": "uint8",
            "shape": ["B", model.num_frames, 3, size, size],
            "range": [0, 255],
            "channel_order": "rgb",
        },
        "frames": f"the middle frames of {model.num_frames} equal segments of the clip; if the clip is shorter, all "
        "its frames, and the last one repeated",
        "pixels": f"scale {square} to {side} x {side} (bilinear), then cut its middle {size} x {size}",
        "normalisation": {"where": "in the network", "formula": "(x / 255 - mean) / std", "mean": mean, "std": std},
        "output": {"name": OUTPUT, "type": "float32", "shape": ["B", model.num_classes], "probabilities": "softmax"},
        "computed_in": "float32",
        "glosses": [names.get(label) or None for label in range(model.num_classes)],
    }


def exported(model: nn.Module, settings: Settings, suffix: str, description: Mapping[str, Any]) -> tuple[bytes, float]:
    """Return the content of the file, and the largest difference of its logits from those of ``model``.

    ``model`` is in evaluation mode on the CPU. Both compute in fp32 on random clips.

    Raises:
        UnsupportedSettingError: the network has an operator that the format lacks, or gives other logits there.
    """
    import torch

    shape = (settings.model.num_frames, 3, settings.data.frame_size, settings.data.frame_size)
    example, others = (
        torch.randint(0, 256, (clips, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(clips))
        for clips in (2, 3)
    )
    dynamic = {0: torch.export.Dim("batch")}
    with torch.no_grad():
        twin = plain_twin(model, settings.model)
        program = torch.export.export(twin, (example,), dynamic_shapes=(dynamic,), strict=False)
        expected_BK = model(others)
        write, run = (_as_onnx, _run_onnx) if suffix == ONNX else (_as_pt2, _run_pt2)
        content = write(program, description)
        difference = (run(content, others) - expected_BK).abs().max().item()
    if not difference <= SAME * max(1.0, expected_BK.abs().max().item()):
        raise UnsupportedSettingError(
            f"the exported network gives other logits (they differ by {difference:.2g}); write the other format, "
            f"{ONNX} or {PT2}, and report this"
        )
    return content, difference


def _as_pt2(program: torch.export.ExportedProgram, description: Mapping[str, Any]) -> bytes:
    import torch

    file = io.BytesIO()
    text = json.dumps(description, ensure_ascii=False, indent=1)
    torch.export.save(program, file, extra_files={DESCRIPTION_NAME: text})
    return file.getvalue()


def _run_pt2(content: bytes, clips_BTCHW: Tensor) -> Tensor:
    import torch

    logits_BK: Tensor = torch.export.load(io.BytesIO(content)).module()(clips_BTCHW)
    return logits_BK


def _as_onnx(program: torch.export.ExportedProgram, description: Mapping[str, Any]) -> bytes:
    import torch

    try:
        converted = torch.onnx.export(
            program.run_decompositions(onnx_forms()), (), dynamo=True, input_names=[INPUT], output_names=[OUTPUT],
            dynamic_shapes=({0: "B"},), verbose=False,
        )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        reason = plain(str(error.__cause__ or error), 200)
        raise UnsupportedSettingError(f"torch cannot write this network as {ONNX} ({reason}); use {PT2}") from error
    assert converted is not None, "torch returns the program with dynamo=True"
    model = converted.model_proto
    for key, value in description.items():
        entry = model.metadata_props.add()
        entry.key = key
        entry.value = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    content: bytes = model.SerializeToString()
    return content


def _run_onnx(content: bytes, clips_BTCHW: Tensor) -> Tensor:
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run([OUTPUT], {INPUT: clips_BTCHW.numpy()})[0])


def onnx_forms() -> dict[Any, Any]:
    """Return the operators of region focus and frame selection, for which torch has no ONNX form, in simpler ones."""
    import torch

    def median(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
        values, places = x.sort(dim)
        middle = (x.shape[dim] - 1) // 2
        return values.select(dim, middle), places.select(dim, middle)

    def searchsorted(bounds: Tensor, x: Tensor, **_: Any) -> Tensor:
        return (bounds.unsqueeze(-2) < x.unsqueeze(-1)).sum(-1)

    def cummax(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        count = x.shape[-1]  # the last dimension, as the network uses it
        earlier = torch.ones(count, count, dtype=torch.bool, device=x.device).tril()
        return torch.where(earlier, x.unsqueeze(-2), torch.iinfo(x.dtype).min).max(-1)

    aten = torch.ops.aten
    return {aten.median.dim: median, aten.searchsorted.Tensor: searchsorted, aten.cummax.default: cummax}


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what torch's exporters print away from the user: warnings, log lines, and text on stdout."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


if __name__ == "__main__":
    sys.exit(main())
